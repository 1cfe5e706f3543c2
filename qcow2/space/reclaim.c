/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Giving freed clusters back.
 *
 * Happy path: of what flush rule 5 lets go, gather a few runs of neighbours whose last reference this is; punch
 * them, so that the host has their space back; when that has ended, lower their refcounts, and remember that they
 * read as zeros; again. References that are not the last are dropped on the way.
 * Failure modes: a refcount slice cannot be loaded: the runs at hand wait for the next time. A punch fails: the
 * clusters are free all the same, with whatever is in them. Out of memory: they leak.
 *
 * It goes on beside flushes: the leader of one does it, and who asked for that flush waits, when all else is done,
 * for a share of it (one 64th of the runs) and no more. The others of the same group wait for nothing.
 *
 * Invariants.
 *  1. A cluster keeps its last reference until no punch of it is in flight: nobody can take it before (flush
 *     rule 8). All punches of a batch end before the first refcount of it is lowered.
 *  2. What was taken and never put to use is not punched: it is free because the image says so, not by us.
 *  3. One op at a time takes from the list.
 *  4. Runs are cut to whole units of the backend's discard: a cluster counts as zero only if all of it was
 *     punched.
 */
#include "qcow2/space/reclaim.h"

#include <errno.h>
#include <stdlib.h>

#include "engine/loop/service.h"
#include "qcow2/meta/meta.h"
#include "qcow2/mutant.h"
#include "qcow2/space/alloc.h"

enum { RECLAIM_BATCH = 8, RECLAIM_SHARE = 64 };

#define RECLAIM_RUN_BYTES (UINT64_C(256) << 20) /* of one punch: the file is locked while it is made */

struct reclaim {
    struct op          op;
    struct q2_carried *carried; /* a parent, or this, hears of the end */
    struct q2_space   *space;
    bool               claimed;
    uint64_t           key;     /* of the refcount slice that is needed */
    unsigned           count, lowered;
    struct q2_freed    run[RECLAIM_BATCH];
    struct io          io[RECLAIM_BATCH];
    bool               punched[RECLAIM_BATCH];
};

enum reclaim_state {
    RECLAIM_START = OP_START,
    RECLAIM_TURN,
    RECLAIM_LOADED,
    RECLAIM_PUNCHED,
    RECLAIM_LOADED_AGAIN
};

static bool due(struct q2_space *space)
{
    assert_locked(&space->meta->lock);
    return space->freed[Q2_FREED_DURABLE].count > 0 &&
           (gate_passed(&space->meta->layer->volume->requests, space->freed_ticket) || MUTANT(FREE_BEFORE_SYNC));
}

/* Invariant 3. */
static bool claim(struct reclaim *r)
{
    pthread_mutex_lock(&r->space->meta->lock);
    q2_space_assert(r->space);
    r->claimed = !r->space->reclaiming;
    r->space->reclaiming = true;
    pthread_mutex_unlock(&r->space->meta->lock);
    return r->claimed;
}

/* The call of an await. */
static void wait_turn(struct reclaim *r, struct op *op)
{
    pthread_mutex_lock(&r->space->meta->lock);
    if (r->space->reclaiming)
        list_add_tail(&r->space->reclaim_waiting, &op->wait);
    else
        op_wake(op, 0);
    pthread_mutex_unlock(&r->space->meta->lock);
}

/* ---- gathering ------------------------------------------------------------------------------------------- */

/* Clusters of [first, end), in one slice, counted down from its end, whose refcount is one. */
static uint64_t last_references(const struct q2_space *space, const struct q2_slot *s, uint64_t first,
                                uint64_t end)
{
    const uint8_t *data = (const uint8_t *)q2_slot_data(&space->meta->refcounts, s);
    uint64_t mask = (1ull << space->meta->refslice_bits) - 1, i = end;

    assert_locked(&space->meta->lock);
    while (i > first && q2_refcount_get(&space->meta->geo, data, (i - 1) & mask) == 1 &&
           !q2_twice_has(space->meta, i - 1))
        i--;
    return end - i;
}

/* With the lock held: [first, first + n) joins the batch. False: it is full. */
static bool add_run(struct reclaim *r, uint64_t first, uint64_t n, bool untouched)
{
    struct q2_freed *last = r->count ? &r->run[r->count - 1] : NULL;

    assert_locked(&r->space->meta->lock);
    if (last && first + n == last->cluster_index && last->untouched == untouched &&
        (last->clusters + n) << r->space->meta->geo.cluster_bits <= RECLAIM_RUN_BYTES) {
        last->cluster_index = first;
        last->clusters += n;
        return true;
    }
    if (r->count == RECLAIM_BATCH)
        return false;
    r->run[r->count++] = (struct q2_freed){.cluster_index = first, .clusters = n, .untouched = untouched};
    return true;
}

enum gather_result { GATHER_MORE, GATHER_READY, GATHER_NEEDS_SLICE };

/* One step, within one refcount slice, from the end of the list. */
static enum gather_result gather_part(struct reclaim *r)
{
    struct q2_space *space = r->space;
    struct q2_freed_list *l = &space->freed[Q2_FREED_DURABLE];

    assert_locked(&space->meta->lock);
    if (l->count == 0)
        return GATHER_READY;
    struct q2_freed *f = &l->list[l->count - 1];
    uint64_t end = f->cluster_index + f->clusters, n;
    uint64_t slice_start = (end - 1) >> space->meta->refslice_bits << space->meta->refslice_bits;
    struct q2_slot *s = q2_refcounts_find(space, (end - 1) >> space->meta->refslice_bits);
    if (!q2_invariant(space->meta, f->clusters > 0, "a freed run of no clusters")) {
        l->count--; /* or it would be looked at for ever */
        return GATHER_MORE;
    }
    if (!s && q2_has_block(space->meta, end - 1)) {
        r->key = (end - 1) >> space->meta->refslice_bits;
        return GATHER_NEEDS_SLICE;
    }
    n = s ? last_references(space, s, max_u64(f->cluster_index, slice_start), end) : 0;
    for (uint64_t i = end - n; i < end; i++)
        q2_forget_left_table(space->meta, i);
    if (!s)
        q2_break(space->meta, "a cluster in use has no refcount block"); /* loading would find none, for ever */
    else if (q2_twice_has(space->meta, end - 1))
        ; /* found since: the other entry's */
    else if (n == 0) {
        q2_lower_left_table(space->meta, end - 1);
        q2_lower(space, s, end - 1, 1, f->untouched);
    } else if (q2_guard_refuses(space->meta, end - n, n, "what is to be freed is at"))
        ; /* leaks: what refers to it may count */
    else if (!add_run(r, end - n, n, f->untouched))
        return GATHER_READY;
    f->clusters -= max_u64(n, 1);
    if (f->clusters == 0)
        l->count--;
    return GATHER_MORE;
}

/* Does a refcount slice have to be loaded before the batch is complete? */
static bool gather_needs(struct reclaim *r)
{
    enum gather_result result;

    do {
        pthread_mutex_lock(&r->space->meta->lock);
        result = gather_part(r);
        pthread_mutex_unlock(&r->space->meta->lock);
    } while (result == GATHER_MORE);
    return result == GATHER_NEEDS_SLICE;
}

/* ---- punching -------------------------------------------------------------------------------------------- */

/* Does a punch leave zeros for sure, so that it is worth remembering? Devices promise nothing. */
static bool punch_zeroes(const struct q2_space *space)
{
    return space->zero_new && space->meta->layer->file->caps & BACKEND_SPARSE;
}

/* The part of a run that can be punched: whole units, inside the file. Host bytes [*ret_start, *ret_end). */
static bool punch_range(const struct q2_space *space, const struct q2_freed *run, uint64_t *ret_start,
                        uint64_t *ret_end)
{
    struct backend *b = space->meta->layer->file;
    uint64_t unit = max_u64(b->discard_align, 1);
    uint64_t end = (run->cluster_index + run->clusters) << space->meta->geo.cluster_bits;

    *ret_start = align_up(run->cluster_index << space->meta->geo.cluster_bits, unit);
    *ret_end = align_down(min_u64(end, backend_size(b)), unit);
    return *ret_start < *ret_end;
}

/* The call of an await. */
static void punch(struct reclaim *r, struct op *op)
{
    struct q2_space *space = r->space;
    uint64_t start = 0, end = 0;

    op_io_begin(op);
    for (unsigned i = 0; i < r->count; i++) {
        r->punched[i] =
            (!r->run[i].untouched || MUTANT(OWN_UNUSED)) && punch_range(space, &r->run[i], &start, &end);
        if (!r->punched[i])
            continue;
        io_range(&r->io[i], space->meta->layer->file, punch_zeroes(space) ? IO_ZERO : IO_DISCARD, start,
                 end - start);
        r->io[i].flags = punch_zeroes(space) ? IO_UNMAP | IO_NO_FALLBACK : 0;
        op_io_add(op, &r->io[i]);
    }
    op_io_wait(op);
}

static bool can_punch(const struct q2_space *space)
{
    /* With metadata that cannot be trusted, what is free is not known. */
    return space->meta->layer->file->caps & BACKEND_DISCARD && !atomic_load(&space->meta->broken);
}

/* ---- lowering -------------------------------------------------------------------------------------------- */

/* Clusters [first, end) of run i are free; are they zero? Invariant 4. */
static void note_zero(struct reclaim *r, unsigned i, uint64_t first, uint64_t end)
{
    struct q2_space *space = r->space;
    const struct io *io = &r->io[i];

    assert_locked(&space->meta->lock);
    if (!r->punched[i] || io->res < 0 || !punch_zeroes(space))
        return;
    first = max_u64(first, q2_cluster_up(&space->meta->geo, io->offset) >> space->meta->geo.cluster_bits);
    end = min_u64(end, (io->offset + io->len) >> space->meta->geo.cluster_bits);
    q2_note_zero(space, first, end);
}

/* One step, within one refcount slice. False: it has to be loaded again. */
static bool lower_part(struct reclaim *r)
{
    struct q2_space *space = r->space;
    struct q2_freed *run = &r->run[r->lowered];
    uint64_t end = run->cluster_index + run->clusters;
    uint64_t first =
        max_u64(run->cluster_index, (end - 1) >> space->meta->refslice_bits << space->meta->refslice_bits);
    struct q2_slot *s = q2_refcounts_find(space, (end - 1) >> space->meta->refslice_bits);

    assert_locked(&space->meta->lock);
    if (!s) {
        r->key = (end - 1) >> space->meta->refslice_bits;
        return false;
    }
    if (q2_lower(space, s, first, end - first, run->untouched))
        note_zero(r, r->lowered, first, end);
    run->clusters -= end - first;
    if (run->clusters == 0)
        r->lowered++;
    return true;
}

/* Does a refcount slice have to be loaded first? */
static bool lower_needs(struct reclaim *r)
{
    bool ok = true;

    q2_compressed_forget(&r->space->meta->compressed); /* before the clusters can be taken */
    while (ok && r->lowered < r->count) {
        pthread_mutex_lock(&r->space->meta->lock);
        ok = lower_part(r);
        pthread_mutex_unlock(&r->space->meta->lock);
    }
    if (!ok)
        return true;
    if (r->carried && r->carried->hurry)
        r->carried->left -= min_u64(r->carried->left, r->count);
    r->count = r->lowered = 0;
    return false;
}

/* ---- the op ---------------------------------------------------------------------------------------------- */

static void reclaim_finish(struct reclaim *r, int rc)
{
    struct q2_space *space = r->space;
    struct q2_carried *c = r->carried;

    pthread_mutex_lock(&space->meta->lock);
    for (unsigned i = r->count; i-- > r->lowered;)
        q2_drop_run(space, r->run[i].cluster_index << space->meta->geo.cluster_bits, r->run[i].clusters,
                    r->run[i].untouched);
    assert(r->claimed && space->reclaiming);
    space->reclaiming = false;
    op_wake_all(&space->reclaim_waiting, 0);
    pthread_mutex_unlock(&space->meta->lock);
    op_end(&r->op, sizeof *r, rc);
    if (c) {
        c->running = false;
        if (c->waiter)
            op_wake(c->waiter, rc);
    }
}

static bool enough(const struct reclaim *r)
{
    bool left;

    if (r->carried && r->carried->hurry && r->carried->left == 0)
        return true;
    pthread_mutex_lock(&r->space->meta->lock);
    left = due(r->space);
    pthread_mutex_unlock(&r->space->meta->lock);
    return !left;
}

static void reclaim_step(struct op *op)
{
    struct reclaim *r = container_of(op, struct reclaim, op);

    OP_BEGIN(enum reclaim_state, op)
    while (!r->claimed && !claim(r))
        OP_AWAIT(op, RECLAIM_TURN, wait_turn(r, op));
    while (!enough(r)) {
        while (gather_needs(r))
            OP_TRY(op, RECLAIM_LOADED, q2_refcount_load(r->space, r->key, op));
        if (can_punch(r->space) && r->count > 0)
            OP_AWAIT(op, RECLAIM_PUNCHED, punch(r, op));
        while (lower_needs(r))
            OP_TRY(op, RECLAIM_LOADED_AGAIN, q2_refcount_load(r->space, r->key, op));
    }
    reclaim_finish(r, 0);
    return;
    OP_END
fail:
    reclaim_finish(r, op->rc);
}

OP_TYPE(reclaim, reclaim_step, "START", "RECLAIM_TURN", "RECLAIM_LOADED", "RECLAIM_PUNCHED",
        "RECLAIM_LOADED_AGAIN");

void q2_reclaim(struct q2_space *space, struct op *op)
{
    vdisk_queue *service = service_queue(space->meta->layer->volume, op->queue);
    struct reclaim *r = op_alloc_for(service, op->queue, &reclaim_type, sizeof *r);

    if (!r) {
        op_wake(op, -ENOMEM);
        return;
    }
    r->space = space;
    r->op.parent = op;
    op_send(&r->op);
}

void q2_reclaim_carry(struct q2_space *space, vdisk_queue *queue, struct q2_carried *c)
{
    struct reclaim *r = NULL;

    pthread_mutex_lock(&space->meta->lock);
    if (!space->reclaiming && due(space))
        r = op_alloc(queue, &reclaim_type, sizeof *r);
    if (r)
        space->reclaiming = true;
    pthread_mutex_unlock(&space->meta->lock);
    if (!r)
        return;
    r->space = space;
    r->claimed = true;
    r->carried = c;
    c->running = true;
    op_start(&r->op);
}

void q2_reclaim_join(struct q2_space *space, struct q2_carried *c, struct op *op)
{
    assert(c->running && !c->waiter);
    pthread_mutex_lock(&space->meta->lock);
    c->left = space->freed[Q2_FREED_DURABLE].count / RECLAIM_SHARE;
    pthread_mutex_unlock(&space->meta->lock);
    c->hurry = true;
    c->waiter = op;
}
