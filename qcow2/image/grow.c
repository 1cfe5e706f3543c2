/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A larger virtual size in the header, and a longer L1 table: the step of a resize (resize.c) that counts.
 *
 * Happy path: take the structure lock, so that no table moves or appears; when the L1 table is too short: flush,
 * take clusters for a longer one, write it, flush; then one write of the header's first sector with the new table
 * and size, flush; the old table is given back. Failure modes: an error before the header is written: nothing has
 * changed, the clusters are given back. While it is written: which table counts is not known, so the image takes
 * no more writes.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"
#include "engine/loop/queue.h"
#include "qcow2/image/resize.h"
#include "qcow2/mutant.h"
#include "qcow2/space/space.h"

struct grow {
    struct op         op;
    struct q2        *q;
    uint64_t          size, l1_entries; /* as the header is to say */
    bool              done, longer;
    struct range_lock lock;
    struct q2_run     run;
    struct q2_l1     *l1;
    struct q2_table   pages;     /* of the longer table */
    uint8_t          *table;
    uint64_t          table_len; /* whole clusters */
    struct q2_header_change change;
    struct io         io;
};

enum grow_state {
    GROW_START = OP_START,
    GROW_LOCKED,
    GROW_DATA_FILE,
    GROW_FLUSHED,
    GROW_ALLOCATED,
    GROW_TABLE_WRITTEN,
    GROW_TABLE_FLUSHED,
    GROW_HEADER
};

static void *aligned_zeros(uint64_t len)
{
    void *p = mem_buffer(align_up(len, 4096));

    if (p)
        memset(p, 0, align_up(len, 4096));
    return p;
}

/* Memory first: what can fail without having written anything. */
static int grow_prepare(struct grow *g)
{
    struct q2 *q = g->q;
    struct q2_l1 *old = atomic_load(&q->meta.l1);

    assert(g->lock.held && g->l1_entries >= old->entries);
    g->longer = g->l1_entries > old->entries;
    if (!g->longer)
        return 0;
    g->table_len = q2_cluster_up(&q->meta.geo, g->l1_entries * 8);
    g->table = aligned_zeros(g->table_len);
    g->l1 = mem_calloc(1, sizeof *g->l1 + g->l1_entries * sizeof g->l1->entry[0]);
    if (!g->table || !g->l1 || q2_table_init(&g->pages, 0, g->table_len, g->q->meta.l1_pages.page_size) < 0)
        return -ENOMEM;
    g->l1->entries = g->l1_entries;
    assert(is_aligned(g->table_len, q->meta.geo.cluster_size) && g->table_len <= Q2_MAX_L1_SIZE);
    return 0;
}

/* The structure lock is held and all is flushed: entries do not change any more. */
static void fill_table(struct grow *g)
{
    assert(g->longer && g->lock.held && atomic_load(&g->q->meta.l1)->entries < g->l1->entries);
    for (uint64_t i = 0; i < atomic_load(&g->q->meta.l1)->entries; i++) {
        uint64_t entry = q2_l1_get(&g->q->meta, i);
        put_be64(g->table + 8 * i, entry);
        atomic_init(&g->l1->entry[i], entry);
    }
}

/* The header is on disk, and so it is in memory. */
static void adopt(struct q2_header_change *change)
{
    struct grow *g = container_of(change, struct grow, change);
    struct q2_meta *meta = &g->q->meta;
    struct q2_l1 *old = atomic_load(&meta->l1);
    struct q2_table pages = meta->l1_pages;

    assert_locked(&meta->lock);
    assert(meta->l1_pages.dirty_count == 0 && g->l1->entries >= old->entries);
    if (old->entries > 0) /* a disk of no bytes has none, and its table no place */
        q2_drop_table(&g->q->space, meta->header.l1_offset, q2_clusters(&meta->geo, old->entries * 8), Q2_META_L1);
    meta->l1_pages = g->pages;
    meta->l1_pages.host_offset = g->run.host_offset;
    g->pages = pages;
    old->next = meta->l1_retired;
    meta->l1_retired = old;
    atomic_store_explicit(&meta->l1, g->l1, memory_order_release);
    g->l1 = NULL;
    g->run.clusters = 0;
}

static void write_header(struct grow *g, struct op *op)
{
    assert(g->lock.held && g->size >= g->q->meta.header.size);
    if (!q2_invariant(&g->q->meta, !g->longer || g->q->meta.l1_pages.dirty_count == 0,
                      "the L1 table changed while it moved")) {
        op_wake(op, -EIO);
        return;
    }
    g->change = q2_header_change(&g->q->meta);
    g->change.doubt = "the header could not be written while the image grew";
    g->change.fields.size = g->size;
    if (g->longer) {
        g->change.fields.l1_offset = g->run.host_offset;
        g->change.fields.l1_entries = (uint32_t)g->l1_entries;
        g->change.adopt = adopt;
    }
    q2_header_commit(&g->q->meta, &g->change, op);
}

static void start_write(struct grow *g, struct op *op, void *buf, uint64_t len, uint64_t host_offset)
{
    assert(host_offset > 0 && is_aligned(host_offset | len, g->q->meta.geo.cluster_size));
    io_rw(&g->io, g->q->meta.layer->file, IO_WRITE, host_offset, buf, len);
    op_io(op, &g->io);
}

static void start_range(struct grow *g, struct op *op, struct backend *b, enum io_kind kind, uint64_t offset)
{
    io_range(&g->io, b, kind, offset, 0);
    op_io(op, &g->io);
}

static void grow_finish(struct grow *g, int rc)
{
    assert(g->lock.held && !g->done);
    if (g->run.clusters > 0) {
        pthread_mutex_lock(&g->q->meta.lock);
        q2_return_structure(&g->q->space, &g->run, Q2_META_L1);
        pthread_mutex_unlock(&g->q->meta.lock);
    }
    range_unlock(&g->q->meta.structure, &g->lock);
    mem_free(g->table);
    q2_table_finish(&g->pages);
    mem_free(g->l1);
    g->op.rc = rc;
    g->done = true;
}

static void grow_step(struct op *op)
{
    struct grow *g = container_of(op, struct grow, op);

    OP_BEGIN(enum grow_state, op)
    if (!range_lock_try(&g->q->meta.structure, &g->lock, 0, 1))
        OP_AWAIT(op, GROW_LOCKED, range_lock_wait(&g->q->meta.structure, &g->lock, op));
    op->rc = grow_prepare(g);
    if (op->rc < 0)
        goto fail;
    if (g->q->meta.data_file && g->q->meta.layer->data->caps & BACKEND_GROWS &&
        backend_size(g->q->meta.layer->data) < g->size)
        OP_TRY(op, GROW_DATA_FILE, start_range(g, op, g->q->meta.layer->data, IO_TRUNCATE, g->size));
    OP_TRY(op, GROW_FLUSHED, q2_flush(&g->q->flush, op));
    if (g->longer) {
        OP_TRY(op, GROW_ALLOCATED,
               q2_alloc_structure(&g->q->space, g->table_len >> g->q->meta.geo.cluster_bits, true, Q2_META_L1,
                                  &g->run, op));
        fill_table(g);
        OP_TRY(op, GROW_TABLE_WRITTEN, start_write(g, op, g->table, g->table_len, g->run.host_offset));
        /* With the refcounts: flush rule 1 holds for the header's pointer too. */
        if (!MUTANT(GROW_UNFLUSHED))
            OP_TRY(op, GROW_TABLE_FLUSHED, q2_flush(&g->q->flush, op));
    }
    OP_AWAIT(op, GROW_HEADER, write_header(g, op));
    if (op->rc < 0 && op->rc != -ENOMEM)
        g->run.clusters = 0; /* the header may refer to them */
    grow_finish(g, op->rc);
    return;
    OP_END
fail:
    grow_finish(g, op->rc);
}

OP_TYPE(grow, grow_step, "START", "GROW_LOCKED", "GROW_DATA_FILE", "GROW_FLUSHED", "GROW_ALLOCATED",
        "GROW_TABLE_WRITTEN", "GROW_TABLE_FLUSHED", "GROW_HEADER");

/*
 * A table that is too short gets half as many entries more, at least: of an image that grows in small steps all
 * old tables, which stay in memory until it is closed, and their places in the file are a few times the last.
 */
static uint64_t choose_entries(const struct q2 *q, uint64_t reach)
{
    uint64_t needed = q2_l1_entries(&q->meta.geo, reach), old = atomic_load(&q->meta.l1)->entries;

    if (needed <= old)
        return old;
    return max_u64(needed, min_u64(old + old / 2, Q2_MAX_L1_SIZE / Q2_L1_ENTRY_SIZE));
}

int q2_grow_header(struct q2 *q, uint64_t size, uint64_t reach, vdisk_queue *queue)
{
    uint64_t l1_entries = choose_entries(q, reach);
    struct grow g = {.q = q, .size = size, .l1_entries = l1_entries};

    assert(size <= reach && reach <= q2_max_size(&q->meta.geo));
    op_init(&g.op, queue, &grow_type);
    op_run(&g.op, &g.done, NULL, NULL);
    return g.op.rc;
}
