/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What is true of a queue between two turns, in builds with assertions: else nothing of it is left. */
#include "engine/loop/queue.h"

#ifndef NDEBUG

static void assert_list(const struct task_list *l)
{
    assert(!*l->tail && (l->head != NULL) == (l->tail != &l->head));
}

/* What waits in which list, and how many there are. */
static void assert_lists(const vdisk_queue *q)
{
    assert_list(&q->ready);
    assert_list(&q->starved);
    assert(!*q->done_tail && (q->done_head != NULL) == (q->done_count > 0));
    assert(q->done_count <= q->inflight && q->plug.count <= PLUG_MAX);
    assert(queue_has_ring(q) || (list_empty(&q->in_kernel) && list_empty(&q->calls)));
    assert(q->foreign <= q->worker_jobs);
    assert(q->kernel_inflight == 0 || queue_has_ring(q) || q->host);
    if (queue_has_ring(q)) /* invariant 3; what takes regions away stands there, too */
        assert(list_empty(&q->in_kernel) == (q->kernel_inflight == 0 && !q->leaving));
}

/* regions.h */
static void assert_regions(const vdisk_queue *q)
{
    assert(q->regions_count <= q->regions_known && q->regions_known <= REGIONS_MAX); /* invariant 1 */
    assert(q->regions_count == 0 || queue_has_ring(q));
    assert((q->leaving != NULL) == ((q->chores & CHORE_REGIONS) != 0));
    assert(!q->leaving || (q->worker_jobs > 0 && q->region_table)); /* invariant 3 */
}

void queue_assert(const vdisk_queue *q)
{
    assert(!q->in_loop && q->kind != VDISK_QUEUE_AUTO);
    assert((q->kind == VDISK_QUEUE_SIMULATED) == (q->host != NULL)); /* invariant 4 */
    assert(!q->host || (q->wake_fd < 0 && q->user_fd < 0 && !q->workers && !q->poller && !q->service));
    assert(!q->serves || (q->always_turned && !q->service && !q->thread && q->user_fd < 0));
    assert(q->depth > 0 && q->depth <= QUEUE_DEPTH_MAX);
    assert_lists(q);
    assert_regions(q);
}

#endif
