/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A new L2 table, with small clusters some more behind it.
 *
 * Happy path: take the structure lock, take a cluster, write zeros (or copy the table that is shared with a
 * snapshot into it), enter it in the L1 table. Zeros are written also where there are zeros already: so the table
 * has space on the host, and no flush to come can fail for lack of that. Who needs the same table waits for it.
 * Where writes go upwards the tables that they will need next are made with it, from neighbouring clusters, by one
 * write: tables of 4 KiB are 512 clusters apart, and each that is made is a turn of another thread when there are
 * two queues. How many: wanted(). Who needs one of those meanwhile waits for the structure lock, and finds it.
 * Failure modes: an error leaves the L1 entries as they were; the clusters are given back; all who wait have the
 * error. No space for more than one: one.
 *
 * Invariants.
 *  1. L1 entries change with the structure lock held only: those found empty stay so until enter().
 *  2. Of tables made ahead there are no more than there were in a row before them, the last of which is in use: so
 *     sparse writes get what they need, and what an upward run leaves unused is less than AHEAD_BYTES.
 */
#include "qcow2/map/l2_table.h"

#include <errno.h>
#include <stdlib.h>

#include "engine/base/mem.h"
#include "engine/loop/service.h"
#include "engine/loop/zero.h"
#include "qcow2/meta/meta.h"
#include "qcow2/mutant.h"
#include "qcow2/space/space.h"

enum {
    AHEAD_MAX = 16, /* tables made at once, of so many bytes in all: */
    AHEAD_BYTES = 64 << 10,
};

struct l2_make {
    struct op         op;
    struct list node;          /* of map->l2_making */
    struct list       waiting; /* ops, by op.wait: for the same table */
    struct q2_map    *map;
    uint64_t          guest_offset;
    uint64_t          shared; /* host offset of the table to copy; 0: none */
    struct range_lock lock;
    struct q2_run     run;    /* the table, then those behind it */
    char             *buf;
    struct io         io;
};

enum l2_make_state {
    L2T_START = OP_START,
    L2T_LOCKED,
    L2T_ALLOCATED,
    L2T_ZEROED,
    L2T_COPY_READ,
    L2T_COPY_WRITTEN
};

static void l2_make_finish(struct l2_make *m, int rc)
{
    pthread_mutex_lock(&m->map->meta->lock);
    if (rc < 0)
        q2_return_structure(m->map->space, &m->run, Q2_META_L2);
    pthread_mutex_unlock(&m->map->meta->lock);
    range_unlock(&m->map->meta->structure, &m->lock);
    /* The last that is done to the image: who hears of it may be another thread, and close it. */
    pthread_mutex_lock(&m->map->meta->lock);
    list_del(&m->node);
    op_wake(m->op.parent, rc); /* first: in the order they came in */
    op_wake_all(&m->waiting, rc);
    pthread_mutex_unlock(&m->map->meta->lock);
    mem_free(m->buf);
    op_free(&m->op, sizeof *m);
}

static void start_copy(struct l2_make *m, struct op *op, enum io_kind kind, uint64_t host_offset)
{
    io_rw(&m->io, m->map->meta->layer->file, kind, host_offset, m->buf, m->map->meta->geo.cluster_size);
    op_io(op, &m->io);
}

/*
 * With the lock held: does the table before this one map something at its end, as far as can be told at once? What
 * compressed writes have placed there counts before it is written: else it would depend on how long that takes.
 */
static bool is_used_before(struct q2_map *map, uint64_t index)
{
    struct q2_meta *meta = map->meta;
    uint64_t end = index * q2_l1_entry_span(&meta->geo);
    struct q2_slot *s = q2_slice_find(meta, end - 1);

    if (map->placed_end > 0 && map->placed_end <= end &&
        q2_slice_key(meta, map->placed_end - 1) == q2_slice_key(meta, end - 1))
        return true;
    for (uint32_t i = 0; s && i < meta->l2.slice_size; i += meta->geo.l2_entry_size)
        if (q2_read_be64(&meta->l2, s, i) != 0)
            return true;
    return false;
}

/* With the lock held: how many tables to make: invariant 2. */
static uint64_t wanted(const struct l2_make *m)
{
    struct q2_meta *meta = m->map->meta;
    uint64_t index = q2_l1_index(&meta->geo, m->guest_offset), row = 0, n = 1;
    uint64_t end = min_u64(atomic_load(&meta->l1)->entries, q2_l1_entries(&meta->geo, meta->header.size));
    uint64_t max = min_u64(AHEAD_MAX, AHEAD_BYTES >> meta->geo.cluster_bits);

    if (m->shared)
        return 1;
    while (row < max && row < index && q2_l1_offset(q2_l1_get(meta, index - row - 1)) != 0)
        row++;
    if (row < 2 || !is_used_before(m->map, index))
        return 1;
    while (n < row && index + n < end && q2_l1_get(meta, index + n) == 0)
        n++;
    return q2_alloc_ahead(m->map->space, n);
}

/* The call of an await: as many as there are in one place. */
static void take_clusters(struct l2_make *m, struct op *op)
{
    uint64_t n;

    pthread_mutex_lock(&m->map->meta->lock);
    n = wanted(m);
    pthread_mutex_unlock(&m->map->meta->lock);
    q2_alloc_structure(m->map->space, n, false, Q2_META_L2, &m->run, op);
}

/* There is no space for all: one will do. False: it was one. */
static bool keep_one(struct l2_make *m)
{
    struct q2_meta *meta = m->map->meta;
    struct q2_run rest = {m->run.host_offset + meta->geo.cluster_size, m->run.clusters - 1, m->run.zero};

    if (rest.clusters == 0)
        return false;
    pthread_mutex_lock(&meta->lock);
    q2_return_structure(m->map->space, &rest, Q2_META_L2);
    pthread_mutex_unlock(&meta->lock);
    m->run.clusters = 1;
    return true;
}

/* The call of an await. */
static void write_zeros(struct l2_make *m, struct op *op)
{
    uint64_t tables = MUTANT(AHEAD_NOT_ZEROED) ? 1 : m->run.clusters;

    assert(m->lock.held && m->run.clusters > 0 && m->run.clusters <= AHEAD_MAX);
    zero_write(m->map->meta->layer->file, m->run.host_offset, tables << m->map->meta->geo.cluster_bits, op);
}

/* One of them; what is needed of it first. It is zeros: so it need not be read. */
static void enter_table(struct l2_make *m, uint64_t index, uint64_t host_offset, uint64_t guest_offset)
{
    struct q2_meta *meta = m->map->meta;
    struct q2_l1 *l1 = atomic_load(&meta->l1);
    uint64_t slices = q2_slices_of_table(meta);

    assert_locked(&meta->lock);
    assert(index < l1->entries && q2_l1_offset(q2_l1_get(meta, index)) == m->shared);
    atomic_store_explicit(&l1->entry[index], q2_l1_entry(host_offset, true), memory_order_release);
    (void)q2_invariant(meta, q2_table_dirty(&meta->l1_pages, index), "an L1 entry outside of the table's pages");
    if (m->shared) {
        q2_cache_moved(&meta->l2, index * slices, slices, host_offset);
        return;
    }
    q2_twice_judged(meta, index * slices, slices);
    if (!MUTANT(L2_NOT_ZEROED))
        q2_cache_install_written(&meta->l2, q2_slice_key(meta, guest_offset),
                                 q2_slice_host(meta, host_offset, guest_offset));
}

/* The clusters' zeros, or the copy, were written before this; flush rule 4. */
static int enter(struct l2_make *m)
{
    struct q2_meta *meta = m->map->meta;
    uint64_t index = q2_l1_index(&meta->geo, m->guest_offset);

    pthread_mutex_lock(&meta->lock);
    q2_meta_assert(meta);
    if (!q2_invariant(meta, index + m->run.clusters <= atomic_load(&meta->l1)->entries,
                      "an L2 table behind the end of the L1 table")) {
        pthread_mutex_unlock(&meta->lock);
        return -EIO;
    }
    meta->mapping_needs_data |= m->shared || !m->run.zero; /* rule 4: durably */
    enter_table(m, index, m->run.host_offset, m->guest_offset);
    for (uint64_t i = 1; i < m->run.clusters; i++)
        enter_table(m, index + i, m->run.host_offset + (i << meta->geo.cluster_bits),
                    (index + i) * q2_l1_entry_span(&meta->geo));
    if (m->shared)
        q2_leave_l2_table(m->map->space, m->shared);
    pthread_mutex_unlock(&meta->lock);
    return 0;
}

static int prepare_copy(struct l2_make *m)
{
    uint64_t entry = q2_l1_get(m->map->meta, q2_l1_index(&m->map->meta->geo, m->guest_offset));
    void *p = NULL;
    int rc;

    m->shared = q2_l1_offset(entry);
    if (m->shared == 0)
        return 0;
    if (q2_l1_problem(&m->map->meta->geo, entry))
        return q2_break(m->map->meta, "an L1 entry is damaged");
    pthread_mutex_lock(&m->map->meta->lock);
    rc = q2_guard_shared_table(m->map->meta, m->guest_offset, m->shared);
    pthread_mutex_unlock(&m->map->meta->lock);
    if (rc < 0)
        return rc;
    if (mem_memalign(&p, 4096, align_up(m->map->meta->geo.cluster_size, 4096)) != 0)
        return -ENOMEM;
    m->buf = p;
    return 0;
}

static void l2_make_step(struct op *op)
{
    struct l2_make *m = container_of(op, struct l2_make, op);
    int rc;

    OP_BEGIN(enum l2_make_state, op)
    if (!range_lock_try(&m->map->meta->structure, &m->lock, 0, 1))
        OP_AWAIT(op, L2T_LOCKED, range_lock_wait(&m->map->meta->structure, &m->lock, op));
    if (q2_l2_table_ready(m->map, m->guest_offset)) {
        l2_make_finish(m, 0); /* another made it meanwhile */
        return;
    }
    rc = q2_takes_writes(m->map->meta) ? prepare_copy(m) : -EIO; /* which L1 table counts may not be known */
    if (rc < 0) {
        l2_make_finish(m, rc);
        return;
    }
    OP_TRY(op, L2T_ALLOCATED, take_clusters(m, op));
    if (m->shared) {
        OP_TRY(op, L2T_COPY_READ, start_copy(m, op, IO_READ, m->shared));
        OP_TRY(op, L2T_COPY_WRITTEN, start_copy(m, op, IO_WRITE, m->run.host_offset));
    } else if (!MUTANT(L2_NOT_ZEROED)) {
        do
            OP_AWAIT(op, L2T_ZEROED, write_zeros(m, op));
        while (op->rc == -ENOSPC && keep_one(m));
        if (op->rc < 0)
            goto fail;
    }
    l2_make_finish(m, enter(m));
    return;
    OP_END
fail:
    l2_make_finish(m, op->rc);
}

OP_TYPE(l2_make, l2_make_step, "START", "L2T_LOCKED", "L2T_ALLOCATED", "L2T_ZEROED", "L2T_COPY_READ",
        "L2T_COPY_WRITTEN");

/* The op that makes this table. */
static struct l2_make *find_making(struct q2_map *map, uint64_t guest_offset)
{
    assert_locked(&map->meta->lock);
    for (struct list *n = map->l2_making.next; n != &map->l2_making; n = n->next) {
        struct l2_make *m = container_of(n, struct l2_make, node);
        if (q2_l1_index(&map->meta->geo, m->guest_offset) == q2_l1_index(&map->meta->geo, guest_offset))
            return m;
    }
    return NULL;
}

void q2_l2_table_make(struct q2_map *map, uint64_t guest_offset, struct op *op)
{
    vdisk_queue *service = service_queue(map->meta->layer->volume, op->queue);
    struct l2_make *m = NULL, *other;

    pthread_mutex_lock(&map->meta->lock);
    q2_map_assert(map);
    other = find_making(map, guest_offset);
    if (other)
        list_add_tail(&other->waiting, &op->wait);
    else
        m = op_alloc_for(service, op->queue, &l2_make_type, sizeof *m);
    if (m) {
        m->op.parent = op;
        m->map = map;
        m->guest_offset = guest_offset;
        list_init(&m->waiting);
        list_add_tail(&map->l2_making, &m->node);
    }
    pthread_mutex_unlock(&map->meta->lock);
    if (m)
        op_send(&m->op);
    else if (!other)
        op_wake(op, -ENOMEM);
}

#ifndef NDEBUG

/* Each table on its way is made once, and lies inside the L1 table. */
static void assert_making(struct q2_map *map)
{
    uint64_t entries = atomic_load(&map->meta->l1)->entries;

    for (struct list *n = map->l2_making.next; n != &map->l2_making; n = n->next) {
        const struct l2_make *m = container_of(n, struct l2_make, node);
        assert(m->map == map && find_making(map, m->guest_offset) == m);
        assert(q2_l1_index(&map->meta->geo, m->guest_offset) < entries);
    }
}

void q2_map_assert(struct q2_map *map)
{
    assert_locked(&map->meta->lock);
    assert(map->space->meta == map->meta && (1ull << map->meta->slice_guest_bits) >= map->meta->geo.cluster_size);
    assert_making(map);
    range_locks_assert(&map->guest_ranges[map->asserted++ % Q2_ZONES]);
}

#endif
