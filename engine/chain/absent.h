/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Stands for a file that is not to be opened: it has no bytes, and all that is asked of it fails with -EIO. */
#ifndef ENGINE_ABSENT_H
#define ENGINE_ABSENT_H

#include "engine/backend.h"

/* NULL: out of memory. */
struct backend *absent_backend(const char *name);

bool backend_is_absent(const struct backend *b);

#endif
