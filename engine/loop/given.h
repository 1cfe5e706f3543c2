/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Descriptors that the caller has given for names: while a volume is opened, on the thread that does so. A backend
 * that opens a path asks here first.
 */
#ifndef ENGINE_GIVEN_H
#define ENGINE_GIVEN_H

#include <stdint.h>

#include "engine/vdisk.h"

/*
 * From here to given_end() these stand for files; `name`: the volume's, for messages. 0, or -EINVAL with text.
 */
int  given_begin(const struct vdisk_fd *list, uint32_t count, const char *name);
void given_end(void);

/* Can they be used at all? 0, or -EINVAL with text. */
int  given_check(const struct vdisk_fd *list, uint32_t count, const char *name);

/* The path of the volume itself, which one without a name stands for; NULL: it has none. */
void given_set_top(const char *path);

/* The caller's descriptor for this path; -1: none was given. */
int given_find(const char *path);

#endif
