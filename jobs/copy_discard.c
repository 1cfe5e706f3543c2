/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What an old target holds is given back before it is written: VDISK_COPY_DISCARD.
 *
 * Happy path
 *  1. what the sources have first is found out, so that sources that cannot be read cost the target nothing;
 *  2. the target is discarded from where the job begins to its end, a stretch at a time. All of it, and before the
 *     first write: what is written gets new places in the guest's order, and nothing that is given back can be
 *     what this job has written. A job that goes on discards nothing of what is done;
 *  3. a discard promises nothing. So a second plan, of the target (copy.there), says what is known to be zeros
 *     there by now: a hole of a file, a cluster that is zero, or is not there with nothing below. Zeros of the
 *     sources are left out there, and zeroed elsewhere: so on a block device, which knows nothing.
 * Failure modes
 *  - the storage takes no discards: 3 finds what was there before, and all else is zeroed;
 *  - a discard fails, or the job is cancelled: as a write that fails.
 *
 * Invariants
 *  1. While a discard is in flight nothing else is.
 *  2. What the target is known to have is asked of it after the last discard, and is of no use for what this job
 *     has written: pieces come in order.
 */
#include <assert.h>
#include <errno.h>

#include "jobs/copy.h"

#define DISCARD_MOST (UINT64_C(1) << 30) /* with one request: it can be cancelled in between */

static bool wait_for_all(struct copy *c)
{
    bool alive = true;

    while (alive && c->inflight > 0)
        alive = copy_wait(c, 0);
    copy_step(c);
    return alive;
}

/* Its plan begins where that of the sources does, and ends there. */
static void begin_knowing(struct copy *c)
{
    if (c->source || plan_ended(&c->plan))
        return;
    if (plan_init(&c->there, &c->target, 1, 0) < 0) {
        c->rc = copy_fail_text(c, ENOMEM, "out of memory");
        return;
    }
    plan_cut(&c->there, 0, c->plan.total);
    plan_skip(&c->there, c->plan.handed, PLAN_SECTOR);
    assert(c->there.handed == c->plan.handed);
    c->there.guess = true; /* what is not known is zeroed */
    c->knows = true;
}

bool copy_discard(struct copy *c)
{
    struct vdisk_info info = {.size = sizeof info};
    uint64_t start = c->plan.handed, end = vdisk_size(c->target), n;
    bool alive;

    if (!c->source && plan_ask(&c->plan, c->q, COPY_PLAN))
        c->inflight++;
    alive = wait_for_all(c);
    for (uint64_t at = start; alive && c->rc == 0 && !c->no_discards && at < end; at += n) {
        n = jobs_min(end - at, DISCARD_MOST - (at & (DISCARD_MOST - 1)));
        vdisk_discard(c->q, c->target, at, n, 0, COPY_DISCARD);
        c->inflight++;
        alive = wait_for_all(c);
    }
    if (!alive || c->rc < 0)
        return alive;
    if (vdisk_get_info(c->target, &info) == 0 && info.discards && !c->no_discards)
        c->result.bytes_discarded = end - start;
    begin_knowing(c);
    return true;
}

void copy_ask_there(struct copy *c)
{
    if (c->knows && plan_ask(&c->there, c->q, COPY_THERE))
        c->inflight++;
}

bool copy_look_there(struct copy *c, struct plan_piece *p)
{
    struct plan_piece t;
    uint64_t n;

    c->clean = 0;
    if (!c->knows)
        return true;
    while (plan_look(&c->there, &t) && t.whole + t.len <= p->whole)
        plan_take(&c->there, t.len);
    if (!plan_look(&c->there, &t)) {
        copy_ask_there(c);
        return false;
    }
    assert(t.whole <= p->whole); /* invariant 2 */
    n = t.whole + t.len - p->whole;
    if (t.flags & VDISK_EXTENT_ZERO)
        c->clean = n;
    if (p->flags & VDISK_EXTENT_ZERO)
        p->len = jobs_min(p->len, n);
    return true;
}
