/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What objects are known by. Any thread. */
#ifndef ENGINE_OBJECT_ID_H
#define ENGINE_OBJECT_ID_H

#include <stdbool.h>

enum { OBJECT_ID_MAX = 127 };

/* What QEMU takes for an id: a letter, then letters, digits, '-', '.', '_'. */
bool object_is_id(const char *id);

/* -EINVAL, with text: `type` was given an id that is none. */
int object_bad_id(const char *type);

#endif
