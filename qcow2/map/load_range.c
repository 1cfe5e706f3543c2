/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What it takes to look a longer range up, in few large reads: for who goes through an image.
 *
 * Happy path: of the slices that are not in the cache, neighbours on the host are read by one I/O, tables that lie
 * one behind the other too; all of it at the same time, bounded.
 * Failure modes: no memory or a failed read: who asked loads what he needs alone. Of damage nothing is said.
 */
#include <errno.h>

#include "qcow2/map/lookup.h"
#include "qcow2/meta/meta.h"
#include "qcow2/mutant.h"

/*
 * Slices and tables looked at, with the lock held, for one range. What lies behind them is left to the next call:
 * who asked comes back for it.
 */
enum { STEPS_MAX = 8192 };

enum { RUNS_MAX = 16 };

struct load_range {
    struct op       op;
    struct q2_meta *meta;
    uint64_t        key, end; /* slices that are left */
    uint64_t        slices;   /* so many are on their way, */
    uint64_t        most;     /* of so many */
    unsigned        steps;    /* looked at: STEPS_MAX at most */
    unsigned        runs;
    struct op      *run[RUNS_MAX];
    struct op_child child[RUNS_MAX];
};

enum load_range_state { RANGE_START = OP_START, RANGE_READ };

/* Where on the host the slice is; 0: it has no place, or not one to be looked at, or is known already. */
static uint64_t host_of(const struct load_range *r, uint64_t key)
{
    struct q2_meta *meta = r->meta;
    uint64_t guest_offset = q2_slice_guest(meta, key), host_offset;
    uint64_t entry = q2_l1_get(meta, q2_l1_index(&meta->geo, guest_offset));

    if (q2_l1_offset(entry) == 0 || q2_l1_problem(&meta->geo, entry) ||
        q2_linear_host(&meta->l2, key, &host_offset) || q2_slice_find(meta, guest_offset))
        return 0;
    return q2_slice_host(meta, q2_l1_offset(entry), guest_offset);
}

/* Slices there can be none of: the table is not there, or not to be looked at. */
static bool is_without_table(const struct load_range *r, uint64_t key)
{
    struct q2_meta *meta = r->meta;
    uint64_t entry = q2_l1_get(meta, q2_l1_index(&meta->geo, q2_slice_guest(meta, key)));

    return q2_l1_offset(entry) == 0 || q2_l1_problem(&meta->geo, entry);
}

/* From r->key on, what does not have to be loaded is gone past: a table that is not there at once. */
static uint64_t find_start(struct load_range *r)
{
    uint64_t of_table = q2_slices_of_table(r->meta), host_offset;

    for (; r->key < r->end && r->steps < STEPS_MAX; r->steps++) {
        host_offset = host_of(r, r->key);
        if (host_offset != 0)
            return host_offset;
        r->key = is_without_table(r, r->key) ? align_up(r->key + 1, of_table) : r->key + 1;
    }
    return 0;
}

/* With the lock held, so that no table moves before its slices are known to be loading. */
static void find_runs(struct load_range *r)
{
    struct q2_cache *c = &r->meta->l2;
    uint64_t host_offset;
    uint32_t n, most;

    assert_locked(&r->meta->lock);
    while (r->runs < RUNS_MAX && r->slices < r->most && (host_offset = find_start(r)) != 0) {
        most = (uint32_t)min_u64(min_u64(Q2_RUN_MAX, r->most - r->slices), r->end - r->key);
        for (n = 1; n < most; n++)
            if (host_of(r, r->key + n) != host_offset + (uint64_t)n * c->slice_size && !MUTANT(RUN_OVER_GAPS))
                break;
        r->run[r->runs] = q2_cache_run(c, r->key, n, host_offset, r->op.queue);
        if (!r->run[r->runs])
            return;
        r->runs++;
        r->slices += n;
        r->key += n;
    }
}

/* The call of an await. */
static void start_runs(struct load_range *r, struct op *op)
{
    op_io_begin(op);
    pthread_mutex_lock(&r->meta->lock);
    find_runs(r);
    pthread_mutex_unlock(&r->meta->lock);
    for (unsigned i = 0; i < r->runs; i++) {
        r->run[i]->parent = op_child_add(op, &r->child[i]);
        op_start(r->run[i]);
    }
    op_io_wait(op);
}

static void load_range_step(struct op *op)
{
    struct load_range *r = container_of(op, struct load_range, op);

    OP_BEGIN(enum load_range_state, op)
    OP_AWAIT(op, RANGE_READ, start_runs(r, op));
    op_end(op, sizeof *r, op->rc);
    return;
    OP_END
}

OP_TYPE(load_range, load_range_step, "START", "RANGE_READ");

/* Behind the last L1 entry there are no slices: a layer can be much smaller than what is laid over it. */
static uint64_t keys_of_l1(struct q2_meta *meta)
{
    return atomic_load_explicit(&meta->l1, memory_order_acquire)->entries * q2_slices_of_table(meta);
}

void q2_load_range(struct layer *layer, uint64_t guest_offset, uint64_t len, uint64_t bytes, struct op *op)
{
    struct q2_meta *meta = q2_meta_of(layer);
    struct load_range *r = op_alloc(op->queue, &load_range_type, sizeof *r);

    assert(len > 0);
    if (!r) {
        op_wake(op, -ENOMEM);
        return;
    }
    r->op.parent = op;
    r->meta = meta;
    /* Not so many that the first would be put out by the last. */
    r->most = max_u64(min_u64(bytes / meta->l2.slice_size, meta->l2.slots / 4), 1);
    r->key = q2_slice_key(meta, guest_offset);
    r->end = min_u64(q2_slice_key(meta, guest_offset + len - 1) + 1, keys_of_l1(meta));
    op_start(&r->op);
}
