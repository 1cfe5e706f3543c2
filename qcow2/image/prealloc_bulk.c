/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Preallocation of guest ranges that have no L2 table yet: whole tables are made with all their entries, many at a
 * time, as a new image has them.
 *
 * Happy path: when it is one's turn take clusters for guest data, in runs as long as there are; give them space on
 * the host, or move the file's end over them; take the structure lock for the tables' clusters; write the tables,
 * full; enter them in the L1 table. A flush makes refcounts and L1 table durable, in this order. Several go on at
 * once: one takes clusters while others write.
 * Failure modes: an error gives back what has been taken; nothing leads to it.
 *
 * Invariants.
 *  1. No other request works in the range: it lies behind the end of the disk, or the disk is being made.
 *  2. A table is written before the L1 entry that leads to it is in memory, and durable before that entry is
 *     (flush rule 4); what it leads to reads as zeros.
 *  3. The L1 table stays where it is: only a resize moves it, and this is one's part.
 */
#include "qcow2/image/prealloc_bulk.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/bits.h"
#include "engine/base/mem.h"
#include "engine/loop/zero.h"
#include "qcow2/image/resize.h"
#include "qcow2/meta/meta.h"
#include "qcow2/space/space.h"

enum { BATCH_BYTES = 1 << 20, RUNS_MIN = 16 };

struct bulk {
    struct op           op;
    struct q2          *q;
    uint64_t            guest_offset;
    enum vdisk_prealloc mode;
    uint64_t            tables_n, clusters, have; /* guest clusters: wanted, taken */
    struct q2_run      *runs; /* these */
    uint32_t            count, max, at;
    struct q2_run       run, tables;
    struct range_locks *turns; /* of those that go on at once */
    struct range_lock   turn, lock;
    bool                in_turn, locked;
    uint8_t            *buf;
    struct io           io;
};

enum bulk_state {
    BULK_START = OP_START,
    BULK_TURN,
    BULK_TAKEN,
    BULK_RESERVED,
    BULK_LOCKED,
    BULK_TABLES_TAKEN,
    BULK_WRITTEN
};

uint64_t q2_bulk_max(const struct q2 *q)
{
    return max_u64(1, BATCH_BYTES >> q->meta.geo.cluster_bits);
}

uint64_t q2_bulk_batch(struct q2 *q, uint64_t guest_offset, uint64_t end, uint64_t tables)
{
    uint64_t span = q2_l1_entry_span(&q->meta.geo), n = 0;

    assert(guest_offset < end);
    if (q->meta.data_file || !is_aligned(guest_offset, span))
        return 0;
    while (n < tables && guest_offset + n * span < end &&
           q2_l1_get(&q->meta, q2_l1_index(&q->meta.geo, guest_offset) + n) == 0)
        n++;
    return min_u64(end - guest_offset, n * span);
}

/* ---- guest data --------------------------------------------------------------------------------------------- */

/* What has been taken, to the list. */
static int note_run(struct bulk *b)
{
    struct q2_run *last = b->count > 0 ? &b->runs[b->count - 1] : NULL;
    uint32_t bits = b->q->meta.geo.cluster_bits;

    assert(b->in_turn && b->run.clusters > 0 && b->run.clusters <= b->clusters - b->have);
    assert(b->run.host_offset > 0 && q2_offset_in_cluster(&b->q->meta.geo, b->run.host_offset) == 0);
    b->have += b->run.clusters;
    if (last && last->zero == b->run.zero && last->host_offset + (last->clusters << bits) == b->run.host_offset) {
        last->clusters += b->run.clusters;
        b->run.clusters = 0;
        return 0;
    }
    if (b->count == b->max) {
        uint32_t max = b->max ? 2 * b->max : RUNS_MIN;
        struct q2_run *runs = mem_realloc(b->runs, max * sizeof *runs);

        if (!runs)
            return -ENOMEM;
        b->runs = runs;
        b->max = max;
    }
    b->runs[b->count++] = b->run;
    b->run.clusters = 0;
    return 0;
}

/* Must something be done, so that the run reads as zeros and lies inside the file, or on the host? */
static bool run_needs_io(const struct bulk *b)
{
    const struct q2_run *r = &b->runs[b->at];
    uint64_t end = r->host_offset + (r->clusters << b->q->meta.geo.cluster_bits);

    assert(b->at < b->count && r->clusters > 0);
    return b->mode == VDISK_PREALLOC_FALLOC || !r->zero || end > backend_size(b->q->meta.layer->file);
}

/* The call of an await. */
static void reserve_run(struct bulk *b, struct op *op)
{
    const struct q2_run *r = &b->runs[b->at];
    struct backend *file = b->q->meta.layer->file;
    uint64_t len = r->clusters << b->q->meta.geo.cluster_bits;
    uint64_t last = min_u64(b->q->meta.geo.cluster_size, max_u64(4096, file->align));

    if (b->mode == VDISK_PREALLOC_FALLOC && r->zero) {
        io_range(&b->io, file, IO_ALLOCATE, r->host_offset, len);
        op_io(op, &b->io);
    } else if (r->zero) {
        zero_range(file, r->host_offset + len - last, last, 0, op); /* for the end of the file */
    } else {
        zero_range(file, r->host_offset, len, b->mode == VDISK_PREALLOC_METADATA ? IO_UNMAP : 0, op);
    }
}

/* ---- tables ------------------------------------------------------------------------------------------------- */

static int make_tables(struct bulk *b)
{
    const struct q2_geometry *g = &b->q->meta.geo;
    uint64_t len = b->tables_n << g->cluster_bits;
    uint8_t *p;

    assert(b->have == b->clusters && b->clusters <= b->tables_n * q2_l2_entries(g));
    b->buf = mem_buffer(align_up(len, 4096));
    if (!b->buf)
        return -ENOMEM;
    p = b->buf;
    for (uint32_t i = 0; i < b->count; i++)
        for (uint64_t k = 0; k < b->runs[i].clusters; k++, p += g->l2_entry_size) {
            uint64_t host_offset = b->runs[i].host_offset + (k << g->cluster_bits);

            struct q2_l2_entry e = {q2_entry_encode(g, Q2_CLUSTER_NORMAL, host_offset, true),
                                    q2_bitmap(UINT32_MAX, 0)};

            q2_l2_entry_put(g, p, e);
        }
    assert(p == b->buf + q2_l2_entry_offset(g, b->clusters));
    memset(p, 0, (size_t)(b->buf + len - p));
    return 0;
}

static void write_tables(struct bulk *b, struct op *op)
{
    assert(b->tables.clusters == b->tables_n && !b->locked);
    io_rw(&b->io, b->q->meta.layer->file, IO_WRITE, b->tables.host_offset, b->buf,
          b->tables_n << b->q->meta.geo.cluster_bits);
    op_io(op, &b->io);
}

/* Invariants 2 and 3. */
void q2_bulk_enter(struct q2 *q, uint64_t l1_index, uint64_t n, uint64_t host_offset)
{
    struct q2_l1 *l1 = atomic_load(&q->meta.l1);
    uint64_t slices = q2_slices_of_table(&q->meta);

    assert_locked(&q->meta.lock);
    assert(n > 0 && l1_index + n <= l1->entries);
    for (uint64_t i = 0; i < n; i++) {
        uint64_t entry = q2_l1_entry(host_offset + (i << q->meta.geo.cluster_bits), true);

        assert(atomic_load(&l1->entry[l1_index + i]) == 0);
        atomic_store_explicit(&l1->entry[l1_index + i], entry, memory_order_release);
        q2_table_dirty(&q->meta.l1_pages, l1_index + i);
    }
    q2_twice_judged(&q->meta, l1_index * slices, n * slices);
    q->meta.mapping_needs_data = true;
}

static void enter_tables(struct bulk *b)
{
    pthread_mutex_lock(&b->q->meta.lock);
    q2_bulk_enter(b->q, q2_l1_index(&b->q->meta.geo, b->guest_offset), b->tables_n, b->tables.host_offset);
    pthread_mutex_unlock(&b->q->meta.lock);
}

static void end_turn(struct bulk *b)
{
    if (b->in_turn)
        range_unlock(b->turns, &b->turn);
    b->in_turn = false;
}

static void unlock_structure(struct bulk *b)
{
    if (b->locked)
        range_unlock(&b->q->meta.structure, &b->lock);
    b->locked = false;
}

/* ---- the op ------------------------------------------------------------------------------------------------- */

static void bulk_finish(struct bulk *b, int rc)
{
    struct q2 *q = b->q;

    pthread_mutex_lock(&q->meta.lock);
    if (rc < 0) {
        q2_return_run(&q->space, &b->run);
        for (uint32_t i = 0; i < b->count; i++)
            q2_return_run(&q->space, &b->runs[i]);
        q2_return_structure(&q->space, &b->tables, Q2_META_L2);
    }
    pthread_mutex_unlock(&q->meta.lock);
    unlock_structure(b);
    end_turn(b);
    mem_free(b->runs);
    mem_free(b->buf);
    op_end(&b->op, sizeof *b, rc);
}

static void bulk_step(struct op *op)
{
    struct bulk *b = container_of(op, struct bulk, op);

    OP_BEGIN(enum bulk_state, op)
    b->in_turn = true;
    if (!range_lock_try(b->turns, &b->turn, 0, 1))
        OP_AWAIT(op, BULK_TURN, range_lock_wait(b->turns, &b->turn, op));
    while (b->have < b->clusters) {
        OP_TRY(op, BULK_TAKEN, q2_alloc(&b->q->space, b->clusters - b->have, false, &b->run, op));
        op->rc = note_run(b);
        if (op->rc < 0)
            goto fail;
    }
    end_turn(b);
    for (; b->at < b->count; b->at++)
        if (run_needs_io(b))
            OP_TRY(op, BULK_RESERVED, reserve_run(b, op));
    op->rc = make_tables(b);
    if (op->rc < 0)
        goto fail;
    b->locked = true;
    if (!range_lock_try(&b->q->meta.structure, &b->lock, 0, 1))
        OP_AWAIT(op, BULK_LOCKED, range_lock_wait(&b->q->meta.structure, &b->lock, op));
    OP_TRY(op, BULK_TABLES_TAKEN, q2_alloc_structure(&b->q->space, b->tables_n, true, Q2_META_L2, &b->tables, op));
    unlock_structure(b);
    OP_TRY(op, BULK_WRITTEN, write_tables(b, op));
    op->rc = q2_takes_writes(&b->q->meta) ? 0 : -EIO;
    if (op->rc < 0)
        goto fail;
    enter_tables(b);
    bulk_finish(b, 0);
    return;
    OP_END
fail:
    bulk_finish(b, op->rc);
}

OP_TYPE(bulk, bulk_step, "START", "BULK_TURN", "BULK_TAKEN", "BULK_RESERVED", "BULK_LOCKED",
        "BULK_TABLES_TAKEN", "BULK_WRITTEN");

void q2_prealloc_bulk(struct q2 *q, uint64_t guest_offset, uint64_t len, enum vdisk_prealloc mode,
                      struct range_locks *turns, struct op *op)
{
    struct bulk *b = op_alloc(op->queue, &bulk_type, sizeof *b);

    assert(len > 0 && is_aligned(guest_offset, q2_l1_entry_span(&q->meta.geo)) && !q->meta.data_file);
    assert(div_up(len, q2_l1_entry_span(&q->meta.geo)) <= q2_bulk_max(q));
    assert(mode == VDISK_PREALLOC_METADATA || mode == VDISK_PREALLOC_FALLOC);
    if (!b) {
        op_wake(op, -ENOMEM);
        return;
    }
    b->op.parent = op;
    b->q = q;
    b->guest_offset = guest_offset;
    b->mode = mode;
    b->turns = turns;
    b->tables_n = div_up(len, q2_l1_entry_span(&q->meta.geo));
    b->clusters = q2_clusters(&q->meta.geo, len);
    op_start(&b->op);
}
