/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* How a request ends whose kind is known where it does: for the fast path. All others: request_end(). */
#ifndef ENGINE_REQUEST_END_H
#define ENGINE_REQUEST_END_H

#include "engine/loop/queue.h"
#include "engine/request.h"
#include "engine/volume.h"

/* By the clock of the queue. */
uint64_t request_now_ns(const vdisk_queue *q);

/* What few requests have: an error, a time to be noted. */
void request_count_more(struct request *r, int result);

/* It ends, whatever else was asked for. `asked` and `direct` are the request's: constants on the fast path. */
static inline void request_end_now(struct request *r, enum request_kind asked, bool direct, int result)
{
    struct pair *p = r->pair;

    assert(r->queue->in_loop);
    assert(r->state == REQUEST_STARTED && result <= 0);
    assert(r->asked == asked && r->direct == direct);
    stat_add(&p->stats.kind[asked].ended[direct], 1);
    stat_add(&p->stats.kind[asked].bytes, r->len);
    if (unlikely(result < 0 || p->latency))
        request_count_more(r, result);
    gate_leave_slot(&r->vdisk->requests, p->slot, r->gate);
    request_hand_in(r, result);
}

#endif
