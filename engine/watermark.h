/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef ENGINE_WATERMARK_H
#define ENGINE_WATERMARK_H

#include <stdint.h>

#include "engine/vdisk.h"

/* Look how far the file is in use, once. Blocks. 0 or an error with text. And how far that is. */
int watermark_look(vdisk *v);
uint64_t watermark_highest(vdisk *v);

#endif
