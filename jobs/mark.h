/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * How far a job has come for good: vdisk_checkpoint_fn.
 *
 * When it is due, the job notes the position before which all has ended, and flushes; when the flush has succeeded
 * the position is told.
 *
 * Invariants
 *  1. What is told was complete before the flush began.
 *  2. Positions do not fall.
 */
#ifndef JOBS_MARK_H
#define JOBS_MARK_H

#include <assert.h>
#include <errno.h>

#include "jobs/pace.h"

struct mark {
    vdisk_checkpoint_fn *fn;  /* NULL: nobody asks */
    void                *arg;
    uint64_t             interval_ns, last_ns;
    uint64_t             reached, flushing; /* told; to be told */
    bool                 busy;              /* a flush for it is in flight */
};

static inline void mark_begin(struct mark *m, const struct vdisk_going_on *how, uint64_t start)
{
    uint32_t ms = how->checkpoint_ms > 0 ? how->checkpoint_ms : 5000;

    *m = (struct mark){.fn = how->checkpoint, .arg = how->checkpoint_arg, .interval_ns = (uint64_t)ms * 1000000,
                       .last_ns = jobs_now_ns(), .reached = start};
}

static inline bool mark_is_due(const struct mark *m)
{
    return m->fn && !m->busy && jobs_now_ns() - m->last_ns >= m->interval_ns;
}

/* All before `position` has ended. true: flush, and call mark_flushed(). */
static inline bool mark_note(struct mark *m, uint64_t position)
{
    assert(!m->busy && position >= m->reached); /* invariant 2 */
    m->last_ns = jobs_now_ns();
    if (!m->fn || position == m->reached)
        return false;
    m->flushing = position; /* invariant 1 */
    m->busy = true;
    return true;
}

/* How the flush has ended: 0, or an error of it or of who was told. */
static inline int mark_flushed(struct mark *m, int result)
{
    int rc = 0;

    assert(m->busy);
    m->busy = false;
    if (result < 0)
        return result;
    m->reached = m->flushing;
    rc = m->fn(m->arg, m->reached);
    return rc > 0 ? -ECANCELED : rc;
}

#endif
