/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Headers of image formats, ours and those that only others know. Pure. */
#ifndef ENGINE_FOREIGN_H
#define ENGINE_FOREIGN_H

#include <stddef.h>
#include <stdint.h>

enum { FOREIGN_HEAD = 512 }; /* bytes that decide, for all of them */

/*
 * What a program that looks at the content (we, or QEMU) would take a file for that begins with these bytes; NULL:
 * for raw.
 */
const char *foreign_format(const uint8_t head[FOREIGN_HEAD]);

#endif
