/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Happy path: what is left of the cluster that the queue has written into last (its tail) is enough: one reference
 * more to that cluster. Or the next cluster of the lease follows it: the bytes go over both. Or they begin in that
 * one, and the rest of the tail stays unused.
 * Failure modes: the lease is used up, or the refcount of the tail's cluster is not at hand: the caller sees to
 * that. The refcount can be no higher (of 1 bit it never can): the tail has ended.
 *
 * Invariants.
 *  1. A cluster with a tail has a reference in memory from each stream that has been placed there, linked or not;
 *     none of them has been dropped.
 *  2. No byte is taken twice: a tail only moves on, and begins in a cluster that nobody else has.
 */
#include "qcow2/space/bytes.h"

#include "engine/loop/queue.h"
#include "qcow2/mutant.h"
#include "qcow2/space/alloc.h"
#include "qcow2/space/lease.h"

static struct q2_tail *tail_of(struct q2_space *space, const vdisk_queue *queue)
{
    return &space->tails[queue->id % Q2_LEASES];
}

static void set_tail(struct q2_space *space, struct q2_tail *t, uint64_t next, uint64_t end)
{
    assert_locked(&space->meta->lock);
    assert(next <= end && end - next < space->meta->geo.cluster_size); /* invariant 2 */
    if (t->end > t->next)
        q2_tail_end(space, t);
    if (next == end)
        return;
    *t = (struct q2_tail){next, end};
    space->tails_open++;
}

/* The refcounts with that of the tail's cluster. */
static struct q2_slot *refcounts_of(struct q2_space *space, const struct q2_tail *t, uint64_t *ret_key)
{
    *ret_key = (t->next >> space->meta->geo.cluster_bits) >> space->meta->refslice_bits;
    return q2_refcounts_find(space, *ret_key);
}

/* One reference more to the tail's cluster. False: there can be no more. */
static bool raise_again(struct q2_space *space, const struct q2_tail *t, struct q2_slot *s)
{
    const struct q2_geometry *g = &space->meta->geo;
    uint64_t index = (t->next >> g->cluster_bits) & ((1ull << space->meta->refslice_bits) - 1), refcount;
    uint8_t *data = (uint8_t *)q2_slot_data(&space->meta->refcounts, s);

    assert_locked(&space->meta->lock);
    refcount = q2_refcount_get(g, data, index);
    if (!q2_invariant(space->meta, refcount > 0, "compressed data was to be put into a free cluster"))
        return false;
    if (refcount == g->refcount_max)
        return false;
    if (MUTANT(SHARE_UNCOUNTED))
        return true;
    q2_slot_mark_dirty(&space->meta->refcounts, s);
    q2_refcount_set(g, data, index, refcount + 1);
    return true;
}

/* At the start of a cluster of the lease, or over its edge from the tail. */
static enum q2_bytes_result take_cluster(struct q2_space *space, const vdisk_queue *queue, uint64_t len,
                                         struct q2_slot *s, uint64_t *ret_host_offset)
{
    struct q2_tail *t = tail_of(space, queue);
    struct q2_run run;

    assert_locked(&space->meta->lock);
    if (!q2_lease_take(space, queue, 1, &run))
        return Q2_BYTES_NEED_LEASE;
    *ret_host_offset = run.host_offset;
    if (s && t->end == run.host_offset && raise_again(space, t, s))
        *ret_host_offset = t->next;
    set_tail(space, t, *ret_host_offset + len, run.host_offset + space->meta->geo.cluster_size);
    return Q2_BYTES_TAKEN;
}

enum q2_bytes_result q2_bytes_take(struct q2_space *space, const vdisk_queue *queue, uint64_t len,
                                   uint64_t *ret_host_offset, uint64_t *ret_key)
{
    struct q2_tail *t = tail_of(space, queue);
    struct q2_slot *s = NULL;

    assert_locked(&space->meta->lock);
    assert(len > 0 && len < space->meta->geo.cluster_size);
    q2_space_assert(space);
    if (t->end > t->next) {
        s = refcounts_of(space, t, ret_key);
        if (!s)
            return Q2_BYTES_NEED_REFCOUNTS;
    }
    if (!s || t->end - t->next < len)
        return take_cluster(space, queue, len, s, ret_host_offset);
    if (!raise_again(space, t, s)) {
        q2_tail_end(space, t);
        return atomic_load(&space->meta->breached) ? Q2_BYTES_REFUSED
                                                   : take_cluster(space, queue, len, NULL, ret_host_offset);
    }
    *ret_host_offset = t->next;
    set_tail(space, t, t->next + len, t->end);
    return Q2_BYTES_TAKEN;
}

uint64_t q2_bytes_round_up(struct q2_space *space, const vdisk_queue *queue, uint64_t end, uint64_t step)
{
    struct q2_tail *t = tail_of(space, queue);
    uint64_t next = align_up(end, step);

    assert_locked(&space->meta->lock);
    assert(step <= space->meta->geo.cluster_size);
    if (t->end <= t->next || t->next != end)
        return 0;
    assert(next <= t->end); /* a cluster ends at a multiple of it */
    set_tail(space, t, next, t->end);
    return next - end;
}

void q2_bytes_return(struct q2_space *space, uint64_t host_offset, uint64_t len)
{
    const struct q2_geometry *g = &space->meta->geo;
    uint64_t first = q2_cluster_down(g, host_offset), end = q2_cluster_up(g, host_offset + len);

    assert_locked(&space->meta->lock);
    assert(len > 0 && end - first <= 2 * g->cluster_size);
    /* One at a time, as in q2_drop(). They were not empty before they were taken, for all that is known. */
    for (; first < end; first += g->cluster_size)
        q2_drop_run(space, first, 1, true);
}
