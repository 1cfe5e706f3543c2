/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What IO_STATUS tells: which parts of a backend are holes, and read as zeros. Who asks makes room for some runs;
 * the answer is holes and data in turn, from the start of the range on, for as much of it as was easily told, but
 * for one run at least. Who wants more asks again from there.
 */
#ifndef ENGINE_STATUS_H
#define ENGINE_STATUS_H

#include <assert.h>
#include <stdbool.h>
#include <stdint.h>

#include "engine/loop/io.h"

enum { STATUS_RUNS_MAX = 256 };

struct block_status {
    uint64_t start;
    uint64_t ends[STATUS_RUNS_MAX]; /* of each run */
    unsigned count, max;            /* the asker sets `max` */
    bool     hole_first;
};

static inline bool status_is_hole(const struct block_status *s, unsigned run)
{
    assert(run < s->count && s->count <= s->max);
    return s->hole_first ^ (run & 1);
}

/* Fill in an IO_STATUS about the range: of a backend that has BACKEND_SPARSE, and `s` is empty. */
static inline void io_status(struct io *io, struct backend *b, uint64_t offset, uint64_t len,
                             struct block_status *s)
{
    assert(len > 0 && s->max > 0 && s->max <= STATUS_RUNS_MAX);
    io_range(io, b, IO_STATUS, offset, len);
    io->status = s;
    s->start = offset;
    s->count = 0;
}

/* For backends: from where the answer ends up to `end` it is a hole, or data. False: there is no room for it. */
static inline bool status_add(struct block_status *s, uint64_t end, bool hole)
{
    assert(s->count <= s->max && s->max <= STATUS_RUNS_MAX);
    assert(end > (s->count ? s->ends[s->count - 1] : s->start));
    if (s->count > 0 && status_is_hole(s, s->count - 1) == hole) {
        s->ends[s->count - 1] = end;
        return true;
    }
    if (s->count == s->max)
        return false;
    if (s->count == 0)
        s->hole_first = hole;
    s->ends[s->count++] = end;
    return true;
}

/* The run that `offset` lies in: what it is, and where it ends. False: the answer does not tell. */
bool status_find(const struct block_status *s, uint64_t offset, bool *ret_hole, uint64_t *ret_end);

#endif
