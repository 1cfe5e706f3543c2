/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Giving back all that can be given back: at close, and on request.
 *
 * Happy path: give leases back; flush, so that freeing is durable; wait for the requests that may use what was
 * freed; punch it and lower its refcounts; flush those; then hold back allocations for a moment, go from the end
 * down over what is free and ours, and cut the file off there.
 * Failure modes: each is reported, and leaves leases and freed clusters for the next time. A volume whose metadata
 * cannot be trusted is not cut.
 *
 * Invariants.
 *  1. While the end is looked for and moved, nobody takes clusters (`trimming`) or makes tables behind it (the
 *     structure lock); what has a refcount, leases among it, is in front of it.
 *  2. Nothing is cut off but free clusters that this handle has freed itself (`own_freed`), or that were not there
 *     when it was opened (`appended_from`). What else has no refcount may be guest data by the image's mistake,
 *     space that somebody has set aside, or not qcow2 at all.
 */
#include <errno.h>

#include "engine/error.h"
#include "engine/queue.h"
#include "qcow2/format/entry.h"
#include "qcow2/meta/guard.h"
#include "qcow2/mutant.h"
#include "qcow2/space/alloc.h"
#include "qcow2/space/lease.h"
#include "qcow2/space/reclaim.h"

enum { TRIM_ROUNDS = 3 };

struct trim {
    struct op         op;
    struct q2        *q;
    bool              done, closing, locked;
    int               rounds;
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

static void return_leases(struct q2 *q)
{
    pthread_mutex_lock(&q->meta.lock);
    q2_lease_return_all(q);
    pthread_mutex_unlock(&q->meta.lock);
}

/* Is there still something to be given back? */
static bool more_freed(struct trim *t)
{
    struct q2 *q = t->q;
    bool more;

    pthread_mutex_lock(&q->meta.lock);
    more = q->freed[Q2_FREED_NOW].count > 0 || q->freed[Q2_FREED_DURABLE].count > 0;
    pthread_mutex_unlock(&q->meta.lock);
    return more && t->rounds++ < TRIM_ROUNDS;
}

static bool has_dirty(struct q2 *q)
{
    bool dirty;

    pthread_mutex_lock(&q->meta.lock);
    dirty = q->meta.refcounts.dirty_count + q->meta.reftable_pages.dirty_count + q->meta.l2.dirty_count +
                q->meta.l1_pages.dirty_count >
            0;
    pthread_mutex_unlock(&q->meta.lock);
    return dirty;
}

static bool may_cut(const struct q2 *q)
{
    /* With metadata that cannot be trusted, what is in use is not known. */
    return q->meta.v->file->caps & BACKEND_GROWS && !atomic_load(&q->meta.broken);
}

/* With the lock held: invariant 2, of a cluster without a refcount. */
static bool is_ours(const struct q2 *q, uint64_t cluster)
{
    bool mapped = q->meta.mapped.overflowed || q2_cluster_set_has(&q->meta.mapped, cluster);

    return (cluster >= q->appended_from && !mapped) || q2_cluster_set_has(&q->meta.own_freed, cluster) ||
           MUTANT(CUT_ALL_FREE);
}

/* With the structure lock held. */
static bool begin_cut(struct trim *t)
{
    struct q2 *q = t->q;
    bool may;

    pthread_mutex_lock(&q->meta.lock);
    may = may_cut(q);
    q->trimming = may;
    t->end = max_u64(q->zero_from, q2_cluster_up(&q->meta.geo, backend_size(q->meta.v->file))) >>
             q->meta.geo.cluster_bits;
    pthread_mutex_unlock(&q->meta.lock);
    return may;
}

/* Move `end` down to where it has to stay. True: a refcount slice has to be loaded first. */
static bool find_end_needs(struct trim *t)
{
    struct q2 *q = t->q;
    uint64_t mask = (1ull << q->meta.refslice_bits) - 1;
    bool in_use = false, needs = false;

    pthread_mutex_lock(&q->meta.lock);
    /* A file may be a hole as long as can be: what the table does not reach is passed over at once. */
    t->end = min_u64(t->end, max_u64(q->appended_from, q->meta.reftable_entries << q->meta.geo.refblock_bits));
    while (t->end > 0 && is_ours(q, t->end - 1) && !in_use && !needs) {
        uint64_t block_start = q2_reftable_index(&q->meta.geo, t->end - 1) << q->meta.geo.refblock_bits;
        struct q2_slot *s = q2_refcounts_find(q, (t->end - 1) >> q->meta.refslice_bits);
        if (!q2_has_block(&q->meta, t->end - 1)) {
            t->end = max_u64(min_u64(t->end - 1, q->appended_from), block_start);
        } else if (!s) {
            t->key = (t->end - 1) >> q->meta.refslice_bits;
            needs = true;
        } else {
            const uint8_t *data = (const uint8_t *)q2_slot_data(&q->meta.refcounts, s);
            in_use = q2_refcount_get(&q->meta.geo, data, (t->end - 1) & mask) != 0;
            t->end -= !in_use;
        }
    }
    pthread_mutex_unlock(&q->meta.lock);
    return needs;
}

/*
 * Where the file is to end. While others write, to whole blocks of the backend: who changes a part of the last
 * block writes all of it.
 */
static uint64_t cut_at(const struct trim *t)
{
    uint64_t end = t->end << t->q->meta.geo.cluster_bits;

    return t->closing ? end : align_up(end, t->q->meta.v->file->align);
}

static void cut(struct trim *t, struct op *op)
{
    io_range(&t->io, t->q->meta.v->file, IO_TRUNCATE, cut_at(t), 0);
    op_io(op, &t->io);
}

static void end_cut(struct trim *t, bool was_cut)
{
    struct q2 *q = t->q;

    pthread_mutex_lock(&q->meta.lock);
    if (was_cut) {
        q->zero_from = q2_cluster_up(&q->meta.geo, cut_at(t));
        q->appended_from = min_u64(q->appended_from, q->zero_from >> q->meta.geo.cluster_bits);
        q->durable_end = min_u64(q->durable_end, cut_at(t)); /* flush rule 9 */
        q->flushing_end = min_u64(q->flushing_end, cut_at(t));
        q2_zero_runs_remove(&q->zero_runs, q->zero_from >> q->meta.geo.cluster_bits, UINT64_MAX);
    }
    q->trimming = false;
    op_wake_all(&q->trim_waiting, 0);
    pthread_mutex_unlock(&q->meta.lock);
}

static void unlock_structure(struct trim *t)
{
    if (t->locked)
        range_unlock(&t->q->meta.structure, &t->lock);
    t->locked = false;
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
    return_leases(t->q);
    do {
        if (!MUTANT(CLOSE_UNFLUSHED))
            OP_TRY(op, TRIM_FLUSHED, q2_make_clean(&t->q->meta, op));
        OP_AWAIT(op, TRIM_DRAINED, gate_drain(&t->q->meta.v->requests, op));
        OP_TRY(op, TRIM_RECLAIMED, q2_reclaim(t->q, op));
    } while (more_freed(t));
    if (has_dirty(t->q) && !MUTANT(CLOSE_UNFLUSHED))
        OP_TRY(op, TRIM_REFCOUNTS_FLUSHED, q2_make_clean(&t->q->meta, op));
    if (!range_lock_try(&t->q->meta.structure, &t->lock, 0, 1))
        OP_AWAIT(op, TRIM_LOCKED, range_lock_wait(&t->q->meta.structure, &t->lock, op));
    t->locked = true;
    if (begin_cut(t)) {
        op->rc = 0;
        while (op->rc == 0 && find_end_needs(t))
            OP_AWAIT(op, TRIM_LOADED, q2_refcount_load(t->q, t->key, op));
        if (op->rc == 0 && cut_at(t) < backend_size(t->q->meta.v->file)) {
            OP_AWAIT(op, TRIM_CUT, cut(t, op));
            end_cut(t, op->rc == 0);
        } else {
            end_cut(t, false);
        }
    }
fail:
    unlock_structure(t);
    if (q2_guard_must_mark(&t->q->meta)) /* it was found with no request to fail for it */
        OP_AWAIT(op, TRIM_MARKED, q2_guard_mark(&t->q->meta, op));
    trim_finish(t, op->rc);
    return;
    OP_END
}

OP_TYPE(trim, trim_step, "START", "TRIM_FLUSHED", "TRIM_DRAINED", "TRIM_RECLAIMED", "TRIM_REFCOUNTS_FLUSHED",
        "TRIM_LOCKED", "TRIM_LOADED", "TRIM_CUT", "TRIM_MARKED");

int q2_trim_run(struct q2 *q, vdisk_queue *queue, bool closing)
{
    struct trim t = {.q = q, .closing = closing};

    op_init(&t.op, queue, &trim_type);
    op_run(&t.op, &t.done, NULL, NULL);
    return t.op.rc;
}

int q2_trim(vdisk *v, vdisk_queue *queue)
{
    int rc = q2_trim_run(q2_of(v), queue, false);

    return rc < 0 ? err_set(rc, "%s: giving space back: %s", v->name, strerror(-rc)) : 0;
}
