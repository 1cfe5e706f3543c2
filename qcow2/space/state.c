/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The struct of the room: made empty, told of the file, given back. */
#include "qcow2/space/state.h"

#include <stdlib.h>

#include "engine/base/mem.h"
#include "qcow2/space/alloc.h"

void q2_space_state_init(struct q2_space *space, struct q2_meta *meta)
{
    space->meta = meta;
    list_init(&space->reclaim_waiting);
    list_init(&space->trim_waiting);
    list_init(&space->survey_waiting);
    for (unsigned i = 0; i < Q2_LEASES; i++)
        list_init(&space->leases[i].waiting);
}

void q2_space_state_setup(struct q2_space *space)
{
    const struct q2_geometry *g = &space->meta->geo;
    struct backend *b = space->meta->layer->file;
    uint64_t max_clusters = (Q2_MAX_HOST_OFFSET + 1) >> g->cluster_bits;

    space->limit_clusters = b->caps & BACKEND_GROWS ? max_clusters : backend_size(b) >> g->cluster_bits;
    space->zero_new = (b->caps & (BACKEND_GROWS | BACKEND_ZERO_NEW)) == (BACKEND_GROWS | BACKEND_ZERO_NEW);
    space->zero_from = q2_cluster_up(g, backend_size(b));
    /* Who wrote the file last may not have synced it. The end of a device does not move. */
    space->durable_end = b->caps & BACKEND_GROWS ? 0 : backend_size(b);
    space->appended_from = space->zero_from >> g->cluster_bits; /* the last may be there in part */
    space->holes_end = space->appended_from;
}

void q2_space_state_finish(struct q2_space *space)
{
    for (int i = 0; i < Q2_FREED_STAGES; i++)
        mem_free(space->freed[i].list);
    q2_cluster_set_finish(&space->sound);
    q2_cluster_set_finish(&space->survey.once);
    q2_cluster_set_finish(&space->survey.twice);
}

/* ---- tails ----------------------------------------------------------------------------------------------- */

void q2_tail_end(struct q2_space *space, struct q2_tail *t)
{
    assert_locked(&space->meta->lock);
    assert(t->end > t->next && space->tails_open > 0);
    t->next = t->end = 0;
    space->tails_open--;
}

void q2_tails_leave(struct q2_space *space, uint64_t host_offset, uint64_t clusters)
{
    uint64_t end = host_offset + (clusters << space->meta->geo.cluster_bits);

    assert_locked(&space->meta->lock);
    for (unsigned i = 0; i < Q2_LEASES && space->tails_open > 0; i++) {
        struct q2_tail *t = &space->tails[i];
        if (t->end > t->next && ranges_meet(host_offset, end, t->next, t->end))
            q2_tail_end(space, t);
    }
}

/* ---- the whole ----------------------------------------------------------------------------------------- */

#ifndef NDEBUG

/* What is leased is nobody else's. */
static void assert_lease(const struct q2_space *space, const struct q2_lease *l)
{
    assert(l->next <= l->end && l->end <= space->limit_clusters);
    assert(l->filler || list_empty(&l->waiting));
    if (l->next == l->end)
        return;
    assert(l->next > 0 && l->end << space->meta->geo.cluster_bits <= space->zero_from);
    for (const struct q2_lease *other = space->leases; other < space->leases + Q2_LEASES; other++)
        assert(other == l || other->next == other->end || !ranges_meet(l->next, l->end, other->next, other->end));
    for (int i = 0; i < Q2_FREED_STAGES; i++) {
        const struct q2_freed_list *f = &space->freed[i];
        const struct q2_freed *last = f->count ? &f->list[f->count - 1] : NULL;
        assert(!last || last->untouched ||
               !ranges_meet(l->next, l->end, last->cluster_index, last->cluster_index + last->clusters));
    }
}

/* bytes.c, invariants 1 and 2: one cluster of its own, with a refcount as far as that is at hand. */
static void assert_tail(struct q2_space *space, const struct q2_tail *t)
{
    uint64_t index = t->next >> space->meta->geo.cluster_bits;
    const struct q2_lease *l = space->leases;
    struct q2_slot *s;

    assert(t->next <= t->end);
    if (t->next == t->end)
        return;
    assert(index == (t->end - 1) >> space->meta->geo.cluster_bits && t->end <= space->zero_from && index > 0);
    for (; l < space->leases + Q2_LEASES; l++)
        assert(index < l->next || index >= l->end);
    s = q2_refcounts_find(space, index >> space->meta->refslice_bits);
    assert(!s || q2_refcount_get(&space->meta->geo, (const uint8_t *)q2_slot_data(&space->meta->refcounts, s),
                                 index & ((1ull << space->meta->refslice_bits) - 1)) > 0);
}

static void assert_freed(const struct q2_freed_list *f)
{
    assert(f->count <= f->max && (f->max == 0) == (f->list == NULL));
    if (f->count == 0)
        return;
    assert(f->list[0].clusters > 0 && f->list[0].cluster_index > 0); /* the header is never freed */
    assert(f->list[f->count - 1].clusters > 0 && f->list[f->count - 1].cluster_index > 0);
}

void q2_space_assert(struct q2_space *space)
{
    assert_locked(&space->meta->lock);
    assert(space->used_from <= space->used_end);
    assert(is_aligned(space->zero_from, space->meta->geo.cluster_size));
    assert(space->limit_clusters <= (Q2_MAX_HOST_OFFSET + 1) >> space->meta->geo.cluster_bits);
    assert(space->appended_from << space->meta->geo.cluster_bits <= space->zero_from);
    assert(space->trimming || list_empty(&space->trim_waiting));
    assert(space->reclaiming || list_empty(&space->reclaim_waiting));
    assert(space->surveying || list_empty(&space->survey_waiting));
    assert(space->holes_end <= space->appended_from);
    assert(space->zero_runs.count <= Q2_ZERO_RUNS);
    for (unsigned i = 0; i < space->zero_runs.count; i++)
        assert(space->zero_runs.run[i].start < space->zero_runs.run[i].end &&
               space->zero_runs.run[i].end << space->meta->geo.cluster_bits <= space->zero_from);
    for (int i = 0; i < Q2_FREED_STAGES; i++)
        assert_freed(&space->freed[i]);
    assert_tail(space, &space->tails[space->asserted % Q2_LEASES]);
    assert_lease(space, &space->leases[space->asserted++ % Q2_LEASES]);
}

#endif
