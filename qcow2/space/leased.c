/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What is leased: handed out, and given back.
 *
 * Happy path: a queue's lease has some. Failure modes: it has none: lease.c fills it.
 */
#include "engine/loop/queue.h"
#include "qcow2/space/alloc.h"
#include "qcow2/space/lease.h"

bool q2_lease_take(struct q2_space *space, const vdisk_queue *queue, uint64_t want, struct q2_run *ret)
{
    struct q2_lease *l = &space->leases[queue->id % Q2_LEASES];
    uint64_t n = 0;

    assert_locked(&space->meta->lock);
    assert(want > 0);
    if (q2_invariant(space->meta, l->next <= l->end, "more was taken from a lease than it had"))
        n = min_u64(want, l->end - l->next);
    if (n == 0)
        return false;
    ret->host_offset = l->next << space->meta->geo.cluster_bits;
    ret->clusters = n;
    ret->zero = l->zero;
    l->next += n;
    stat_add(&space->meta->layer->stats.allocations, n);
    return true;
}

static void give_back(struct q2_space *space, struct q2_lease *l)
{
    assert_locked(&space->meta->lock);
    q2_return(space, l->next, l->end - l->next, l->zero);
    l->next = l->end = 0;
    l->size = 0;
}

void q2_lease_return_all(struct q2_space *space)
{
    q2_space_assert(space);
    assert_locked(&space->meta->lock);
    for (unsigned i = 0; i < Q2_LEASES; i++)
        if (space->leases[i].next < space->leases[i].end)
            give_back(space, &space->leases[i]);
}

void q2_lease_return_mapped(struct q2_space *space)
{
    q2_space_assert(space);
    assert_locked(&space->meta->lock);
    for (unsigned i = 0; i < Q2_LEASES; i++) {
        struct q2_lease *l = &space->leases[i];
        if (l->next < l->end && q2_guard_led_to(space->meta, l->next, l->end - l->next))
            give_back(space, l);
    }
}
