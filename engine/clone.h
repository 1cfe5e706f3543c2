/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the host copies, or has two files share: as a whole (clone.c), and of a range (clone_range.c). */
#ifndef ENGINE_CLONE_H
#define ENGINE_CLONE_H

#include "engine/request.h"
#include "engine/volume.h"

/* Its bytes are a file's, and nothing looks at them on their way. */
static inline bool clone_is_plain(const vdisk *v)
{
    const struct layer *top = v->top;

    return top->format->plain && !top->backing && top->data == top->file && top->file->driver->clone;
}

/* Carry out REQ_COPY, whose range is in its volume. */
void clone_range_start(struct request *r);

#endif
