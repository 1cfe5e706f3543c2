/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Giving back all that can be given back: at close, and on request.
 *
 * Happy path: give leases back; flush, so that freeing is durable; wait for the requests that may use what was
 * freed; punch it and lower its refcounts; flush those; then hold back allocations for a moment, go from the end
 * down over what is free and ours, and cut the file off there.
 * Failure modes: each is reported, and leaves leases and freed clusters for the next time, as being stopped does.
 * A volume whose metadata cannot be trusted is not cut.
 *
 * Invariants.
 *  1. While the end is looked for and moved, nobody takes clusters (`trimming`) or makes tables behind it (the
 *     structure lock); what has a refcount, leases among it, is in front of it.
 *  2. Nothing is cut off but free clusters that this handle has freed itself (`own_freed`), or that were not there
 *     when it was opened (`appended_from`). What else has no refcount may be guest data by the image's mistake,
 *     space that somebody has set aside, or not qcow2 at all.
 */
#include <errno.h>

#include "engine/base/error.h"
#include "engine/loop/queue.h"
#include "qcow2/format/format.h"
#include "qcow2/meta/meta.h"
#include "qcow2/mutant.h"
#include "qcow2/space/alloc.h"
#include "qcow2/space/lease.h"
#include "qcow2/space/reclaim.h"
#include "qcow2/space/trim.h"

enum { TRIM_ROUNDS = 3 };

struct trim {
    struct op         op;
    struct q2_space  *space;
    const struct vdisk_trim_opts *opts; /* NULL: nobody looks */
    bool              done, closing, locked;
    bool              stop;             /* look() says so */
    int               rounds;
    int               rc;
    uint64_t          end; /* cluster index: nothing is in use from here on */
    uint64_t          key;
    struct range_lock lock;
    struct io         io;
};

enum trim_state {
    TRIM_START = OP_START,
    TRIM_FLUSHED,
    TRIM_DRAINED,
    TRIM_RECLAIMED,
    TRIM_REFCOUNTS_FLUSHED,
    TRIM_LOCKED,
    TRIM_LOADED,
    TRIM_CUT,
    TRIM_MARKED
};

static void return_leases(struct q2_space *space)
{
    pthread_mutex_lock(&space->meta->lock);
    q2_lease_return_all(space);
    pthread_mutex_unlock(&space->meta->lock);
}

/* Is there still something to be given back? */
static bool more_freed(struct trim *t)
{
    struct q2_space *space = t->space;
    bool more;

    pthread_mutex_lock(&space->meta->lock);
    more = space->freed[Q2_FREED_NOW].count > 0 || space->freed[Q2_FREED_DURABLE].count > 0;
    pthread_mutex_unlock(&space->meta->lock);
    return more && t->rounds++ < TRIM_ROUNDS;
}

static bool has_dirty(struct q2_space *space)
{
    bool dirty;

    pthread_mutex_lock(&space->meta->lock);
    dirty = space->meta->refcounts.dirty_count + space->meta->reftable_pages.dirty_count +
                space->meta->l2.dirty_count + space->meta->l1_pages.dirty_count >
            0;
    pthread_mutex_unlock(&space->meta->lock);
    return dirty;
}

static bool may_cut(const struct q2_space *space)
{
    assert_locked(&space->meta->lock);
    /* With metadata that cannot be trusted, what is in use is not known. */
    return space->meta->layer->file->caps & BACKEND_GROWS && !atomic_load(&space->meta->broken);
}

/* Invariant 2, of a cluster without a refcount. */
static bool is_ours(const struct q2_space *space, uint64_t cluster)
{
    bool mapped = space->meta->mapped.overflowed || q2_cluster_set_has(&space->meta->mapped, cluster);

    assert_locked(&space->meta->lock);
    return (cluster >= space->appended_from && !mapped) || q2_cluster_set_has(&space->meta->own_freed, cluster) ||
           MUTANT(CUT_ALL_FREE);
}

/* With the structure lock held. */
static bool begin_cut(struct trim *t)
{
    struct q2_space *space = t->space;
    bool may;

    pthread_mutex_lock(&space->meta->lock);
    may = may_cut(space) && space->append_end == 0; /* that piece would be behind it */
    space->trimming = may;
    t->end = max_u64(space->zero_from, q2_cluster_up(&space->meta->geo, backend_size(space->meta->layer->file))) >>
             space->meta->geo.cluster_bits;
    pthread_mutex_unlock(&space->meta->lock);
    return may;
}

/* Move `end` down to where it has to stay. True: a refcount slice has to be loaded first. */
static bool find_end_needs(struct trim *t)
{
    struct q2_space *space = t->space;
    uint64_t mask = (1ull << space->meta->refslice_bits) - 1;
    bool in_use = false, needs = false;

    pthread_mutex_lock(&space->meta->lock);
    /* A file may be a hole as long as can be: what the table does not reach is passed over at once. */
    t->end = min_u64(
        t->end, max_u64(space->appended_from, space->meta->reftable_entries << space->meta->geo.refblock_bits));
    while (t->end > 0 && is_ours(space, t->end - 1) && !in_use && !needs) {
        uint64_t block_start = q2_reftable_index(&space->meta->geo, t->end - 1) << space->meta->geo.refblock_bits;
        struct q2_slot *s = q2_refcounts_find(space, (t->end - 1) >> space->meta->refslice_bits);
        if (!q2_has_block(space->meta, t->end - 1)) {
            t->end = max_u64(min_u64(t->end - 1, space->appended_from), block_start);
        } else if (!s) {
            t->key = (t->end - 1) >> space->meta->refslice_bits;
            needs = true;
        } else {
            const uint8_t *data = (const uint8_t *)q2_slot_data(&space->meta->refcounts, s);
            in_use = q2_refcount_get(&space->meta->geo, data, (t->end - 1) & mask) != 0;
            t->end -= !in_use;
        }
    }
    pthread_mutex_unlock(&space->meta->lock);
    return needs;
}

/*
 * Where the file is to end. While others write, to whole blocks of the backend: who changes a part of the last
 * block writes all of it.
 */
static uint64_t cut_at(const struct trim *t)
{
    uint64_t end = t->end << t->space->meta->geo.cluster_bits;

    return t->closing ? end : align_up(end, t->space->meta->layer->file->align);
}

static void cut(struct trim *t, struct op *op)
{
    io_range(&t->io, t->space->meta->layer->file, IO_TRUNCATE, cut_at(t), 0);
    op_io(op, &t->io);
}

static void end_cut(struct trim *t, bool was_cut)
{
    struct q2_space *space = t->space;

    pthread_mutex_lock(&space->meta->lock);
    if (was_cut) {
        space->zero_from = q2_cluster_up(&space->meta->geo, cut_at(t));
        space->appended_from = min_u64(space->appended_from, space->zero_from >> space->meta->geo.cluster_bits);
        space->holes_end = min_u64(space->holes_end, space->appended_from);
        space->durable_end = min_u64(space->durable_end, cut_at(t)); /* flush rule 9 */
        space->flushing_end = min_u64(space->flushing_end, cut_at(t));
        q2_zero_runs_remove(&space->zero_runs, space->zero_from >> space->meta->geo.cluster_bits, UINT64_MAX);
    }
    space->trimming = false;
    op_wake_all(&space->trim_waiting, 0);
    pthread_mutex_unlock(&space->meta->lock);
}

static void unlock_structure(struct trim *t)
{
    if (t->locked)
        range_unlock(&t->space->meta->structure, &t->lock);
    t->locked = false;
}

/* Then the op's result says so. */
static bool is_stopped(struct trim *t)
{
    if (t->stop)
        t->op.rc = -ECANCELED;
    return t->stop;
}

static void trim_finish(struct trim *t, int rc)
{
    t->op.rc = rc;
    t->done = true;
}

static void trim_step(struct op *op)
{
    struct trim *t = container_of(op, struct trim, op);

    OP_BEGIN(enum trim_state, op)
    return_leases(t->space);
    do {
        if (is_stopped(t))
            goto fail;
        if (!MUTANT(CLOSE_UNFLUSHED))
            OP_TRY(op, TRIM_FLUSHED, q2_make_clean(t->space->meta, op));
        OP_AWAIT(op, TRIM_DRAINED, gate_drain(&t->space->meta->layer->volume->requests, op));
        OP_TRY(op, TRIM_RECLAIMED, q2_reclaim(t->space, op));
    } while (more_freed(t));
    if (has_dirty(t->space) && !MUTANT(CLOSE_UNFLUSHED))
        OP_TRY(op, TRIM_REFCOUNTS_FLUSHED, q2_make_clean(t->space->meta, op));
    if (!range_lock_try(&t->space->meta->structure, &t->lock, 0, 1))
        OP_AWAIT(op, TRIM_LOCKED, range_lock_wait(&t->space->meta->structure, &t->lock, op));
    t->locked = true;
    if (begin_cut(t)) {
        op->rc = 0;
        while (!is_stopped(t) && op->rc == 0 && find_end_needs(t))
            OP_AWAIT(op, TRIM_LOADED, q2_refcount_load(t->space, t->key, op));
        if (op->rc == 0 && cut_at(t) < backend_size(t->space->meta->layer->file)) {
            OP_AWAIT(op, TRIM_CUT, cut(t, op));
            end_cut(t, op->rc == 0);
        } else {
            end_cut(t, false);
        }
    }
fail:
    unlock_structure(t);
    t->rc = op->rc;
    if (q2_guard_must_mark(t->space->meta)) /* it was found with no request to fail for it */
        OP_AWAIT(op, TRIM_MARKED, q2_guard_mark(t->space->meta, op));
    trim_finish(t, t->rc);
    return;
    OP_END
}

OP_TYPE(trim, trim_step, "START", "TRIM_FLUSHED", "TRIM_DRAINED", "TRIM_RECLAIMED", "TRIM_REFCOUNTS_FLUSHED",
        "TRIM_LOCKED", "TRIM_LOADED", "TRIM_CUT", "TRIM_MARKED");

int q2_trim_run(struct q2_space *space, vdisk_queue *queue, bool closing)
{
    struct trim t = {.space = space, .closing = closing};

    op_init(&t.op, queue, &trim_type);
    op_run(&t.op, &t.done, NULL, NULL);
    return t.op.rc;
}

/* How much there is to do is not known. */
static bool look(void *arg)
{
    struct trim *t = arg;

    t->stop = t->opts->progress(t->opts->progress_arg, 0, 0) != 0;
    return !t->stop;
}

int q2_trim_watched(struct q2_space *space, vdisk_queue *queue, const struct vdisk_trim_opts *opts)
{
    struct trim t = {.space = space, .opts = opts};

    op_init(&t.op, queue, &trim_type);
    op_run(&t.op, &t.done, opts->progress ? look : NULL, &t);
    return t.op.rc;
}
