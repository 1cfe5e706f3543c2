/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Structure of the refcounts.
 *
 * A new block, happy path: take the structure lock; the block goes into the first cluster that it describes (free
 * like all the others, since nothing describes them yet), or into any free one when it is to lie apart; write
 * zeros, also where there are zeros already: so it has space on the host, and no flush to come can fail for lack
 * of that; enter it in the table. Where a file grows, with small clusters some more are made with it, in the
 * clusters behind it: each that is made is a turn of another thread when there are two queues.
 * A longer table, happy path: flush; lay new blocks and the new table behind all that the old one describes;
 * write, flush, point the header at it, flush; free the old one.
 * Either place may be one that was there when the image was opened, where it had no blocks: then all L2 tables
 * are read first (survey.h, invariant 1), unless a block can lie behind that.
 * Failure modes: no space for more than one block: one. No space or an error before the header is written:
 * nothing has changed. An error while the header is written: which table counts is not known, so the image takes
 * no more writes.
 *
 * Invariant.
 *  1. Of blocks made ahead there are no more than there were in a row before them, and nothing is in use where
 *     they describe: so what is left unused is less than AHEAD_BYTES.
 */
#include "qcow2/space/reftable.h"

#include <errno.h>
#include <stdlib.h>

#include "engine/base/mem.h"
#include "engine/loop/service.h"
#include "engine/loop/zero.h"
#include "qcow2/format/format.h"
#include "qcow2/meta/meta.h"
#include "qcow2/mutant.h"
#include "qcow2/space/alloc.h"
#include "qcow2/space/survey.h"

enum {
    INSTALLED_MAX = 16,
    AHEAD_MAX = 16, /* blocks made at once, of so many bytes in all: */
    AHEAD_BYTES = 64 << 10,
};

struct refblock_make {
    struct op         op;
    struct q2_space  *space;
    uint64_t          block;
    uint64_t          host_offset;
    bool              have_structure, locked, apart;
    bool              placed, laid; /* in the map of metadata: the block; the blocks and table of a growth */
    uint64_t          at;           /* which of the clusters that it describes it is in */
    uint64_t          blocks;       /* 1, and those made ahead: in the clusters from there on */
    struct range_lock lock;
    struct q2_run     run;     /* apart: its cluster */
    /* table growth */
    uint64_t          table_clusters, new_blocks, first_cluster;
    uint8_t          *buf; /* blocks, then the table */
    uint64_t          buf_len;
    uint64_t         *reftable; /* the table in memory, and its pages */
    struct q2_table   pages;
    struct q2_header_change change;
    struct io         io;
};

enum refblock_make_state {
    RB_START = OP_START,
    RB_LOCKED,
    RB_PLACED,
    RB_SURVEYED,
    RB_ZEROED,
    RB_ROOM,
    RB_GROW_SURVEYED,
    RB_GROW_FLUSHED,
    RB_GROW_WRITTEN,
    RB_GROW_SYNCED,
    RB_GROW_HEADER
};

/* Where the blocks and the table of a growth lie, or would have lain. */
static void note_table(struct refblock_make *m)
{
    assert_locked(&m->space->meta->lock);
    q2_guard_add(m->space->meta, m->first_cluster, m->new_blocks, Q2_META_REFBLOCK);
    q2_guard_add(m->space->meta, m->first_cluster + m->new_blocks, m->table_clusters, Q2_META_REFTABLE);
    m->laid = true;
}

static void forget_table(struct refblock_make *m)
{
    assert_locked(&m->space->meta->lock);
    q2_guard_remove(m->space->meta, m->first_cluster, m->new_blocks, Q2_META_REFBLOCK);
    q2_guard_remove(m->space->meta, m->first_cluster + m->new_blocks, m->table_clusters, Q2_META_REFTABLE);
}

/* Of the blocks that have a place: those from `index` on have none. One by one, as they were noted. */
static void forget_blocks(struct refblock_make *m, uint64_t index)
{
    struct q2_meta *meta = m->space->meta;

    assert_locked(&meta->lock);
    for (uint64_t i = index; i < m->blocks; i++)
        q2_guard_remove(meta, (m->host_offset >> meta->geo.cluster_bits) + i, 1, Q2_META_REFBLOCK);
}

static void refblock_finish(struct refblock_make *m, int rc)
{
    pthread_mutex_lock(&m->space->meta->lock);
    q2_return_structure(m->space, &m->run, Q2_META_REFBLOCK); /* it was not needed after all */
    if (m->placed)
        forget_blocks(m, 0);
    if (m->laid)
        forget_table(m);
    pthread_mutex_unlock(&m->space->meta->lock);
    if (m->locked)
        range_unlock(&m->space->meta->structure, &m->lock);
    mem_free(m->buf);
    mem_free(m->reftable);
    q2_table_finish(&m->pages);
    op_end(&m->op, sizeof *m, rc);
}

/* ---- one more block ------------------------------------------------------------------------------------ */

enum block_plan {
    BLOCK_EXISTS,
    BLOCK_READY,
    BLOCK_NO_TABLE,
    BLOCK_NO_SPACE,
    BLOCK_UNSURVEYED,
    BLOCK_BROKEN,
    BLOCK_REFUSED
};

/*
 * Has a piece behind the end come there since somebody found that the block is missing? It has its own, and who
 * looks for clusters passes it over (append.c, invariant 1): the search is made again.
 */
static bool is_in_piece(const struct q2_space *space, uint64_t cluster)
{
    return cluster >= space->append_from && cluster < space->append_end && !MUTANT(PIECE_UNSEEN);
}

/* The block is missing, and could be made: nothing in use lies where it describes. */
static bool may_be_ahead(const struct refblock_make *m, uint64_t block)
{
    const struct q2_space *space = m->space;
    uint64_t first = block << space->meta->geo.refblock_bits;

    assert_locked(&space->meta->lock);
    return block < space->meta->reftable_entries && q2_reftable_offset(space->meta->reftable[block]) == 0 &&
           first >= space->zero_from >> space->meta->geo.cluster_bits && first < space->limit_clusters &&
           !is_in_piece(space, first);
}

/* How many to make, this one in `cluster`: invariant 1. */
static uint64_t count_blocks(const struct refblock_make *m, uint64_t cluster)
{
    const struct q2_meta *meta = m->space->meta;
    uint64_t max = min_u64(AHEAD_MAX, AHEAD_BYTES >> meta->geo.cluster_bits), row = 0, n = 1;

    assert_locked(&meta->lock);
    if (!(meta->layer->file->caps & BACKEND_GROWS) || !may_be_ahead(m, m->block))
        return 1;
    max = min_u64(max, (1ull << m->space->meta->refslice_bits) - m->at); /* all in the first slice */
    while (row < max && row < m->block && q2_reftable_offset(meta->reftable[m->block - row - 1]) != 0)
        row++;
    while (n < row && may_be_ahead(m, m->block + n))
        n++;
    return row > 1 && q2_guard_all_free(m->space->meta, cluster, n, true) ? n : 1;
}

/*
 * The first of the clusters that it will describe, but none that an entry leads to (guard.h,
 * invariant 2). It has to be in the block's first slice.
 */
static enum block_plan place_block(struct refblock_make *m, uint64_t first)
{
    struct q2_space *space = m->space;
    enum q2_guard_verdict verdict = Q2_GUARD_IN_USE;

    assert_locked(&space->meta->lock);
    m->at = q2_survey_known(space, first, 1) ? 0 : space->holes_end - first;
    if (m->at >> space->meta->refslice_bits)
        return BLOCK_UNSURVEYED;
    for (; verdict == Q2_GUARD_IN_USE; m->at++) {
        if (m->at >> space->meta->refslice_bits)
            return BLOCK_BROKEN;
        if (first + m->at >= space->limit_clusters)
            return BLOCK_NO_SPACE;
        verdict = q2_guard_free(space->meta, first + m->at, true);
    }
    if (verdict == Q2_GUARD_METADATA)
        return BLOCK_REFUSED;
    m->at--;
    m->host_offset = (first + m->at) << space->meta->geo.cluster_bits;
    m->blocks = count_blocks(m, first + m->at);
    for (uint64_t i = 0; i < m->blocks; i++)
        q2_guard_add(space->meta, first + m->at + i, 1, Q2_META_REFBLOCK);
    m->placed = true;
    return BLOCK_READY;
}

static enum block_plan plan_block(struct refblock_make *m)
{
    struct q2_space *space = m->space;
    enum block_plan plan;
    uint64_t cluster = m->block << space->meta->geo.refblock_bits;

    pthread_mutex_lock(&space->meta->lock);
    if (!q2_takes_writes(space->meta))
        plan = BLOCK_REFUSED;
    else if (is_in_piece(space, cluster))
        plan = BLOCK_EXISTS;
    else if (m->block >= space->meta->reftable_entries)
        plan = BLOCK_NO_TABLE;
    else if (q2_reftable_offset(space->meta->reftable[m->block]) != 0)
        plan = BLOCK_EXISTS;
    else if (m->block == 0)
        plan = BLOCK_BROKEN; /* the header's own cluster must have a refcount */
    else if (cluster >= space->limit_clusters)
        plan = BLOCK_NO_SPACE;
    else
        plan = m->apart ? BLOCK_READY : place_block(m, cluster);
    if (m->run.clusters > 0)
        m->host_offset = m->run.host_offset;
    pthread_mutex_unlock(&space->meta->lock);
    return plan;
}

static int outcome(struct refblock_make *m, enum block_plan plan)
{
    if (plan == BLOCK_BROKEN)
        return q2_break(m->space->meta,
                        m->block == 0 ? "refcount block 0 is missing" : "no place for a refcount block");
    return plan == BLOCK_EXISTS ? 0 : plan == BLOCK_NO_SPACE ? -ENOSPC : -EIO;
}

/* The slices behind the first are looked at next, and need not be read. As many as are read ahead (alloc.c). */
static void install_rest(struct refblock_make *m)
{
    struct q2_cache *c = &m->space->meta->refcounts;
    uint64_t slices = min_u64(m->space->meta->geo.cluster_size / c->slice_size, INSTALLED_MAX);
    uint64_t first = m->block * (m->space->meta->geo.cluster_size / c->slice_size);

    assert_locked(&m->space->meta->lock);
    for (uint64_t i = 1; i < slices; i++)
        q2_cache_install_written(c, first + i, m->host_offset + i * c->slice_size);
}

/* Into the table. */
static void enter_block(struct refblock_make *m, uint64_t block, uint64_t host_offset)
{
    struct q2_meta *meta = m->space->meta;
    uint64_t slices = meta->geo.cluster_size / meta->refcounts.slice_size;

    assert_locked(&meta->lock);
    assert(q2_reftable_offset(meta->reftable[block]) == 0);
    q2_cluster_set_add(&m->space->sound, block * slices, slices);
    meta->reftable[block] = host_offset;
    (void)q2_invariant(meta, q2_table_dirty(&meta->reftable_pages, block),
                       "a refcount block behind the end of its table");
}

/* Those made ahead: all zeros, as they were written. */
static void enter_ahead(struct refblock_make *m)
{
    struct q2_meta *meta = m->space->meta;
    uint64_t slices = meta->geo.cluster_size / meta->refcounts.slice_size;

    for (uint64_t i = 1; i < m->blocks; i++) {
        uint64_t host_offset = m->host_offset + (i << meta->geo.cluster_bits);
        enter_block(m, m->block + i, host_offset);
        q2_cache_install_written(&meta->refcounts, (m->block + i) * slices, host_offset);
    }
}

/* There is no space for all: one will do. False: it was one. */
static bool keep_one(struct refblock_make *m)
{
    struct q2_meta *meta = m->space->meta;

    if (m->blocks == 1)
        return false;
    assert(m->placed);
    pthread_mutex_lock(&meta->lock);
    forget_blocks(m, 1);
    pthread_mutex_unlock(&meta->lock);
    m->blocks = 1;
    return true;
}

/* The call of an await. */
static void write_zeros(struct refblock_make *m, struct op *op)
{
    const struct q2_meta *meta = m->space->meta;
    uint64_t blocks = MUTANT(BLOCKS_NOT_ZEROED) ? 1 : m->blocks;

    zero_write(meta->layer->file, m->host_offset, blocks << meta->geo.cluster_bits, op);
}

/* Enter the block; false: the cache has no room for its first slice before a flush. */
static bool install_block(struct refblock_make *m)
{
    struct q2_space *space = m->space;
    uint64_t slices = space->meta->geo.cluster_size / space->meta->refcounts.slice_size;
    struct q2_slot *s;

    pthread_mutex_lock(&space->meta->lock);
    s = q2_cache_install_zero(&space->meta->refcounts, m->block * slices, m->host_offset);
    if (s) {
        if (m->run.clusters == 0)
            q2_refcount_fill_one(&space->meta->geo, (uint8_t *)q2_slot_data(&space->meta->refcounts, s), m->at,
                                 m->blocks);
        m->run.clusters = 0; /* is the table's now */
        m->placed = false;
        enter_block(m, m->block, m->host_offset);
        enter_ahead(m);
        q2_note_end(space, m->host_offset + (m->blocks << space->meta->geo.cluster_bits));
        install_rest(m);
    }
    pthread_mutex_unlock(&space->meta->lock);
    return s != NULL;
}

/* ---- a longer table ------------------------------------------------------------------------------------ */

/* How many clusters the table, and the blocks that describe both, will take: pure. False: past the limit. */
static bool plan_table(const struct q2_geometry *g, uint64_t old_entries, uint64_t need_entries,
                       uint64_t *ret_table, uint64_t *ret_blocks)
{
    uint64_t max_clusters = max_u64(Q2_MAX_REFTABLE_SIZE >> g->cluster_bits, 1);
    uint64_t per_cluster = g->cluster_size / Q2_REFTABLE_ENTRY_SIZE;
    uint64_t table = div_up(max_u64(need_entries + 1, old_entries + old_entries / 2 + 1), per_cluster);

    table = min_u64(table, max_clusters);
    for (;;) {
        uint64_t blocks = div_up(table, q2_refblock_entries(g) - 1);
        while (blocks * q2_refblock_entries(g) < table + blocks)
            blocks++;
        if (max_u64(old_entries + blocks, need_entries) <= table * per_cluster) {
            *ret_table = table;
            *ret_blocks = blocks;
            return true;
        }
        if (table++ >= max_clusters)
            return false;
    }
}

/* A longer table begins where the old one ends: see place_block(). */
static bool table_needs_survey(const struct refblock_make *m)
{
    struct q2_space *space = m->space;
    bool needs;

    pthread_mutex_lock(&space->meta->lock);
    needs = q2_survey_known(space, space->meta->reftable_entries << space->meta->geo.refblock_bits, 1) == 0;
    pthread_mutex_unlock(&space->meta->lock);
    return needs;
}

/* Nothing has a refcount there; if something is there all the same, nothing is written over it. */
static int take_place(struct refblock_make *m, uint64_t n)
{
    struct q2_space *space = m->space;
    int rc = 0;

    pthread_mutex_lock(&space->meta->lock);
    if (q2_guard_refuses(space->meta, m->first_cluster, n, "no refcount keeps what is at"))
        rc = -EIO;
    else if (q2_guard_leads_to(space->meta, m->first_cluster, n))
        rc = q2_break(space->meta, "guest data lies where the refcount table has to go");
    else
        note_table(m);
    pthread_mutex_unlock(&space->meta->lock);
    return rc;
}

/* Fill the buffer: refcounts of what is in it, and the table. */
static int prepare_table(struct refblock_make *m)
{
    struct q2_space *space = m->space;
    const struct q2_geometry *g = &space->meta->geo;
    uint64_t used, per_block = q2_refblock_entries(g);
    void *p = NULL;
    int rc;

    pthread_mutex_lock(&space->meta->lock);
    bool fits = plan_table(g, space->meta->reftable_entries, m->block + 1, &m->table_clusters, &m->new_blocks);
    m->first_cluster = space->meta->reftable_entries << g->refblock_bits;
    pthread_mutex_unlock(&space->meta->lock);
    if (!fits)
        return -EFBIG;
    used = m->table_clusters + m->new_blocks;
    if (m->first_cluster + used > space->limit_clusters && !q2_space_grew(space))
        return -ENOSPC;
    if (m->first_cluster + used > space->limit_clusters)
        return -ENOSPC;
    m->buf_len = used << g->cluster_bits;
    rc = take_place(m, used);
    if (rc < 0)
        return rc;
    /* Before it is written: whatever becomes of that, the place does not read as zeros any more. */
    pthread_mutex_lock(&space->meta->lock);
    q2_note_end(space, (m->first_cluster << g->cluster_bits) + m->buf_len);
    pthread_mutex_unlock(&space->meta->lock);
    if (mem_memalign(&p, 4096, align_up(m->buf_len, 4096)) != 0)
        return -ENOMEM;
    m->buf = p;
    memset(m->buf, 0, m->buf_len);
    for (uint64_t b = 0; b < m->new_blocks && b * per_block < used; b++)
        q2_refcount_fill_one(g, m->buf + (b << g->cluster_bits), 0, min_u64(used - b * per_block, per_block));
    uint8_t *table = m->buf + (m->new_blocks << g->cluster_bits);
    pthread_mutex_lock(&space->meta->lock);
    for (uint64_t i = 0; i < space->meta->reftable_entries; i++)
        put_be64(table + 8 * i, space->meta->reftable[i]);
    for (uint64_t b = 0; b < m->new_blocks; b++)
        put_be64(table + 8 * (space->meta->reftable_entries + b), (m->first_cluster + b) << g->cluster_bits);
    pthread_mutex_unlock(&space->meta->lock);
    return 0;
}

static uint64_t table_offset(const struct refblock_make *m)
{
    return (m->first_cluster + m->new_blocks) << m->space->meta->geo.cluster_bits;
}

/* The table as it will be in memory: nothing can fail any more once the header points at it. */
static int prepare_memory(struct refblock_make *m)
{
    const struct q2_meta *meta = m->space->meta;
    uint64_t entries = q2_reftable_entries(&meta->geo, m->table_clusters);
    const uint8_t *table = m->buf + (m->new_blocks << meta->geo.cluster_bits);

    m->reftable = mem_alloc(entries * sizeof *m->reftable);
    if (!m->reftable ||
        q2_table_init(&m->pages, table_offset(m), entries * 8, meta->reftable_pages.page_size) < 0)
        return -ENOMEM;
    for (uint64_t i = 0; i < entries; i++)
        m->reftable[i] = get_be64(table + 8 * i);
    return 0;
}

/* The header points at the new table, and so do we. */
static void adopt_table(struct q2_header_change *change)
{
    struct refblock_make *m = container_of(change, struct refblock_make, change);
    struct q2_meta *meta = m->space->meta;
    uint64_t slices = meta->geo.cluster_size / meta->refcounts.slice_size, *reftable = meta->reftable;
    struct q2_table pages = meta->reftable_pages;

    assert_locked(&meta->lock);
    assert(meta->reftable_pages.dirty_count == 0 && m->laid && m->table_clusters > 0);
    q2_drop_table(m->space, meta->header.reftable_offset, meta->header.reftable_clusters, Q2_META_REFTABLE);
    m->laid = false;
    q2_cluster_set_add(&m->space->sound, meta->reftable_entries * slices, m->new_blocks * slices);
    meta->reftable = m->reftable;
    meta->reftable_entries = q2_reftable_entries(&meta->geo, m->table_clusters);
    meta->reftable_pages = m->pages;
    m->reftable = reftable;
    m->pages = pages;
}

static void write_header(struct refblock_make *m, struct op *op)
{
    assert(m->have_structure || m->lock.held);
    if (!q2_invariant(m->space->meta, m->space->meta->reftable_pages.dirty_count == 0,
                      "the refcount table changed while it moved")) {
        op_wake(op, -EIO);
        return;
    }
    m->change = q2_header_change(m->space->meta);
    m->change.fields.reftable_offset = table_offset(m);
    m->change.fields.reftable_clusters = (uint32_t)m->table_clusters;
    m->change.doubt = "the refcount table could not be moved";
    m->change.adopt = adopt_table;
    q2_header_commit(m->space->meta, &m->change, op);
}

static void start_write(struct refblock_make *m, struct op *op, void *buf, uint64_t len, uint64_t host_offset)
{
    io_rw(&m->io, m->space->meta->layer->file, IO_WRITE, host_offset, buf, len);
    op_io(op, &m->io);
}

static void start_sync(struct refblock_make *m, struct op *op)
{
    io_range(&m->io, m->space->meta->layer->file, IO_FLUSH, 0, 0);
    op_io(op, &m->io);
}

static void refblock_make_step(struct op *op)
{
    struct refblock_make *m = container_of(op, struct refblock_make, op);
    enum block_plan plan;
    int rc;

    OP_BEGIN(enum refblock_make_state, op)
    if (!m->have_structure) {
        if (!range_lock_try(&m->space->meta->structure, &m->lock, 0, 1))
            OP_AWAIT(op, RB_LOCKED, range_lock_wait(&m->space->meta->structure, &m->lock, op));
        m->locked = true;
    }
    plan = plan_block(m);
    if (m->apart && plan == BLOCK_READY) {
        OP_TRY(op, RB_PLACED, q2_alloc_structure(m->space, 1, false, Q2_META_REFBLOCK, &m->run, op));
        plan = plan_block(m); /* to find a place, this block may have been made */
    }
    while (plan == BLOCK_UNSURVEYED) {
        OP_TRY(op, RB_SURVEYED, q2_survey(m->space, true, op));
        plan = plan_block(m);
    }
    if (plan != BLOCK_READY && plan != BLOCK_NO_TABLE) {
        refblock_finish(m, outcome(m, plan));
        return;
    }
    if (plan != BLOCK_NO_TABLE) {
        do
            OP_AWAIT(op, RB_ZEROED, write_zeros(m, op));
        while (op->rc == -ENOSPC && keep_one(m));
        if (op->rc < 0)
            goto fail;
        while (!install_block(m))
            OP_TRY(op, RB_ROOM, q2_make_clean(m->space->meta, op));
        refblock_finish(m, 0);
        return;
    }

    while (table_needs_survey(m))
        OP_TRY(op, RB_GROW_SURVEYED, q2_survey(m->space, true, op));
    OP_TRY(op, RB_GROW_FLUSHED, q2_make_clean(m->space->meta, op));
    rc = prepare_table(m);
    if (rc == 0)
        rc = prepare_memory(m);
    if (rc < 0) {
        refblock_finish(m, rc);
        return;
    }
    OP_TRY(op, RB_GROW_WRITTEN,
           start_write(m, op, m->buf, m->buf_len, m->first_cluster << m->space->meta->geo.cluster_bits));
    if (!MUTANT(REFTABLE_UNSYNCED))
        OP_TRY(op, RB_GROW_SYNCED, start_sync(m, op));
    OP_AWAIT(op, RB_GROW_HEADER, write_header(m, op));
    refblock_finish(m, op->rc);
    return;
    OP_END
fail:
    refblock_finish(m, op->rc);
}

OP_TYPE(refblock_make, refblock_make_step, "START", "RB_LOCKED", "RB_PLACED", "RB_SURVEYED", "RB_ZEROED",
        "RB_ROOM", "RB_GROW_SURVEYED", "RB_GROW_FLUSHED", "RB_GROW_WRITTEN", "RB_GROW_SYNCED", "RB_GROW_HEADER");

void q2_refblock_make(struct q2_space *space, uint64_t block, bool have_structure, bool apart, struct op *op)
{
    /* Who holds the structure lock goes on where it is. */
    vdisk_queue *service = have_structure ? op->queue : service_queue(space->meta->layer->volume, op->queue);
    struct refblock_make *m = op_alloc_for(service, op->queue, &refblock_make_type, sizeof *m);

    if (!m) {
        op_wake(op, -ENOMEM);
        return;
    }
    m->op.parent = op;
    m->space = space;
    m->block = block;
    m->blocks = 1;
    m->have_structure = have_structure;
    m->apart = apart;
    op_send(&m->op);
}
