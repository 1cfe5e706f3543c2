/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Backends around a backend. They know it by engine/filter.h only, and neither formats nor other backends. */
#ifndef FILTERS_FILTERS_H
#define FILTERS_FILTERS_H

#include "engine/backend.h"

extern const struct backend_driver rotate_driver;

/*
 * On a backend that is open: with a name it is "rotate" (filters/rotate.c). It takes `below` over. -ENOMEM, with
 * text: `below` stays the caller's.
 */
int rotate_backend_create(struct backend *below, unsigned key, struct backend **ret_backend);

#endif
