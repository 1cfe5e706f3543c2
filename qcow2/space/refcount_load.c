/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Loading a refcount slice, which will be changed and written back: so it is made sure first that it is one.
 *
 * Happy path: the slice was looked at before, or was made here: load it. Else load the slice of its block that
 * says most about it, look at that, load the slice itself, look at it.
 * Where something looks odd: read all L2 tables, once in the life of a handle. Then it is known whether the block
 * is guest data; and guest data whose refcount is 0 is not given to others.
 * Failure modes: the block is metadata of another kind, or guest data: -EIO, and no trust in the image any more.
 * An L2 table cannot be read, no memory: the load fails with that. More guest data than the map holds: what is not
 * in it is not known.
 */
#include <errno.h>
#include <stdlib.h>

#include "qcow2/meta/meta.h"
#include "qcow2/mutant.h"
#include "qcow2/space/alloc.h"

/* Of one cluster, for each table that may have it: as many compressed clusters as that is hardly ever have one. */
enum { REFS_PLAUSIBLE = 128 };

struct refcount_load {
    struct op   op;
    struct q2_space *space;
    uint64_t    key, block, host_offset; /* the slice, its block and where that is */
    bool        odd, reads, claimed; /* reads the L2 tables; others wait for that */
    uint64_t    l1_index, table;
    char       *buf; /* an L2 table */
    struct q2_cluster_set once, twice; /* tables that have been read: how often */
    struct io   io;
};

enum refcount_load_state {
    REFCOUNT_LOAD_START = OP_START,
    REFCOUNT_PROOF_LOADED,
    REFCOUNT_LOADED,
    REFCOUNT_TABLES_TURN,
    REFCOUNT_TABLE_READ
};

static uint64_t block_slices(const struct q2_space *space)
{
    return space->meta->geo.cluster_size / space->meta->refcounts.slice_size;
}

static void load_slice(struct refcount_load *l, uint64_t key, struct op *op)
{
    struct q2_space *space = l->space;

    q2_cache_load(&space->meta->refcounts, key,
                  l->host_offset + key % block_slices(space) * space->meta->refcounts.slice_size, op);
}

static void load_finish(struct refcount_load *l, int rc)
{
    struct q2_space *space = l->space;

    pthread_mutex_lock(&space->meta->lock);
    if (l->claimed) {
        space->tables_reader = NULL;
        op_wake_all(&space->tables_waiting, 0);
    }
    pthread_mutex_unlock(&space->meta->lock);
    q2_cluster_set_finish(&l->once);
    q2_cluster_set_finish(&l->twice);
    free(l->buf);
    op_end(&l->op, sizeof *l, rc);
}

/* ---- does it look like refcounts? -------------------------------------------------------------------------- */

/* Blocks usually lie in what they describe. */
static bool describes_itself(const struct refcount_load *l)
{
    return l->host_offset >> l->space->meta->geo.cluster_bits >> l->space->meta->geo.refblock_bits == l->block;
}

/* The slice that says most about the block: with its own refcount, else the first, which is hardly ever empty. */
static uint64_t proof_key(const struct refcount_load *l)
{
    const struct q2_space *space = l->space;

    return describes_itself(l) ? l->host_offset >> space->meta->geo.cluster_bits >> space->meta->refslice_bits
                               : l->block * block_slices(space);
}

/* What nobody refers to, [first, end), is no metadata. */
static bool none_is_metadata(struct q2_space *space, uint64_t first, uint64_t end)
{
    uint64_t where;

    assert_locked(&space->meta->lock);
    return first == end || q2_meta_find(&space->meta->places, first, end - first, &where) == 0;
}

static bool looks_odd(const struct refcount_load *l, uint64_t key, const uint8_t *slice)
{
    struct q2_space *space = l->space;
    uint64_t n = 1ull << space->meta->refslice_bits, first = key << space->meta->refslice_bits, free_from = first,
             used = 0;
    uint64_t end = div_up(backend_size(space->meta->layer->file), space->meta->geo.cluster_size);
    uint64_t most = (1 + (uint64_t)space->meta->header.nb_snapshots) * (describes_itself(l) ? REFS_PLAUSIBLE : 1);

    assert_locked(&space->meta->lock);
    for (uint64_t i = first; i < first + n; i++) {
        uint64_t refcount = q2_refcount_get(&space->meta->geo, slice, i - first);
        if (refcount == 0)
            continue;
        if (refcount > most || i >= end || !none_is_metadata(space, free_from, i))
            return true;
        free_from = i + 1;
        used++;
    }
    return !none_is_metadata(space, free_from, first + n) || (used == 0 && key == proof_key(l));
}

enum look { LOOK_FINE, LOOK_ODD, LOOK_GONE };

/* Gone: it has left the cache already. */
static enum look look_at(struct refcount_load *l, uint64_t key)
{
    struct q2_space *space = l->space;
    enum look result = LOOK_GONE;
    struct q2_slot *s;

    pthread_mutex_lock(&space->meta->lock);
    s = q2_cache_find(&space->meta->refcounts, key);
    if (s) {
        result =
            looks_odd(l, key, (const uint8_t *)q2_slot_data(&space->meta->refcounts, s)) ? LOOK_ODD : LOOK_FINE;
        l->odd |= result == LOOK_ODD;
    }
    pthread_mutex_unlock(&space->meta->lock);
    return result;
}

/* ---- all L2 tables ----------------------------------------------------------------------------------------- */

enum turn { TURN_OURS, TURN_WAIT, TURN_OVER };

/* Another queue's reading is not waited for: that may take as long as it likes. */

static enum turn take_turn(struct refcount_load *l)
{
    struct q2_space *space = l->space;
    enum turn turn;

    pthread_mutex_lock(&space->meta->lock);
    turn = space->tables_read ? TURN_OVER : space->tables_reader == l->op.queue ? TURN_WAIT : TURN_OURS;
    l->reads = turn == TURN_OURS;
    l->claimed = l->reads && !space->tables_reader;
    if (l->claimed)
        space->tables_reader = l->op.queue;
    pthread_mutex_unlock(&space->meta->lock);
    return turn;
}

/* The call of an await. */
static void wait_turn(struct refcount_load *l, struct op *op)
{
    pthread_mutex_lock(&l->space->meta->lock);
    if (l->space->tables_reader)
        list_add_tail(&l->space->tables_waiting, &op->wait);
    else
        op_wake(op, 0);
    pthread_mutex_unlock(&l->space->meta->lock);
}

/*
 * A table that many entries lead to need not be read for each: with the second it is known that what it leads to
 * has two places.
 */
static bool is_known(struct refcount_load *l)
{
    uint64_t cluster = l->table >> l->space->meta->geo.cluster_bits;

    if (q2_cluster_set_has(&l->twice, cluster))
        return true;
    q2_cluster_set_add(q2_cluster_set_has(&l->once, cluster) ? &l->twice : &l->once, cluster, 1);
    return false;
}

/* The next one that there is. */
static bool next_table(struct refcount_load *l)
{
    struct q2_space *space = l->space;

    for (; l->l1_index < atomic_load_explicit(&space->meta->l1, memory_order_acquire)->entries; l->l1_index++) {
        uint64_t entry = q2_l1_get(space->meta, l->l1_index);
        l->table = q2_l1_offset(entry);
        if (l->table != 0 && !q2_l1_problem(&space->meta->geo, entry) &&
            l->table < backend_size(space->meta->layer->file) && !is_known(l))
            return true;
    }
    return false;
}

static void read_table(struct refcount_load *l, struct op *op)
{
    io_rw(&l->io, l->space->meta->layer->file, IO_READ, l->table, l->buf, l->space->meta->geo.cluster_size);
    op_io(op, &l->io);
}

/* What its entries lead to. Slices that have changed in memory were looked at when they were loaded. */
static int take_table(struct refcount_load *l)
{
    struct q2_space *space = l->space;
    uint64_t guest_offset = l->l1_index++ * q2_l1_entry_span(&space->meta->geo);
    int rc = 0;

    pthread_mutex_lock(&space->meta->lock);
    for (uint64_t at = 0; at < space->meta->geo.cluster_size && rc == 0; at += space->meta->l2.slice_size) {
        rc = q2_guard_survey(space->meta, guest_offset, l->table + at, l->buf + at);
        guest_offset = q2_slice_end(space->meta, guest_offset);
    }
    pthread_mutex_unlock(&space->meta->lock);
    return rc;
}

static int get_buffer(struct refcount_load *l)
{
    void *p = NULL;

    if (posix_memalign(&p, 4096, align_up(l->space->meta->geo.cluster_size, 4096)) != 0)
        return -ENOMEM;
    l->buf = p;
    return 0;
}

static int judge(struct refcount_load *l)
{
    struct q2_space *space = l->space;
    int rc;

    pthread_mutex_lock(&space->meta->lock);
    space->tables_read |= l->reads;
    rc = q2_guard_block_is_data(space->meta, l->block, l->host_offset);
    if (rc == 0)
        q2_cluster_set_add(&space->sound, l->key, 1);
    if (rc == 0 && !q2_cluster_set_has(&space->sound, l->key))
        rc = -ENOMEM;
    pthread_mutex_unlock(&space->meta->lock);
    return rc;
}

/* ---- the op ------------------------------------------------------------------------------------------------- */

static void refcount_load_step(struct op *op)
{
    struct refcount_load *l = container_of(op, struct refcount_load, op);
    enum turn turn;

    OP_BEGIN(enum refcount_load_state, op)
    while (l->key != proof_key(l) && look_at(l, proof_key(l)) == LOOK_GONE)
        OP_TRY(op, REFCOUNT_PROOF_LOADED, load_slice(l, proof_key(l), op));
    while (look_at(l, l->key) == LOOK_GONE)
        OP_TRY(op, REFCOUNT_LOADED, load_slice(l, l->key, op));
    while (l->odd && !l->reads) {
        turn = take_turn(l);
        if (turn == TURN_OVER)
            break;
        if (turn == TURN_WAIT)
            OP_AWAIT(op, REFCOUNT_TABLES_TURN, wait_turn(l, op));
    }
    if (l->reads) {
        op->rc = get_buffer(l);
        if (op->rc < 0)
            goto fail;
        while (next_table(l)) {
            OP_TRY(op, REFCOUNT_TABLE_READ, read_table(l, op));
            op->rc = take_table(l);
            if (op->rc < 0)
                goto fail;
        }
    }
    load_finish(l, judge(l));
    return;
    OP_END
fail:
    load_finish(l, op->rc);
}

OP_TYPE(refcount_load, refcount_load_step, "START", "REFCOUNT_PROOF_LOADED", "REFCOUNT_LOADED",
        "REFCOUNT_TABLES_TURN", "REFCOUNT_TABLE_READ");

/* Not looked at yet. */
static void load_judged(const struct refcount_load *how, struct op *op)
{
    struct refcount_load *l = op_alloc(op->queue, &refcount_load_type, sizeof *l);

    if (!l) {
        op_wake(op, -ENOMEM);
        return;
    }
    l->op.parent = op;
    l->space = how->space;
    l->key = how->key;
    l->block = how->block;
    l->host_offset = how->host_offset;
    op_start(&l->op);
}

void q2_refcount_load(struct q2_space *space, uint64_t key, struct op *op)
{
    struct refcount_load l = {.space = space, .key = key, .block = key / block_slices(space)};
    bool refused = false, sound;

    pthread_mutex_lock(&space->meta->lock);
    sound = q2_cluster_set_has(&space->sound, key);
    if (l.block < space->meta->reftable_entries)
        l.host_offset = q2_reftable_offset(space->meta->reftable[l.block]);
    if (is_aligned(l.host_offset, space->meta->geo.cluster_size) && l.host_offset != 0)
        refused = q2_guard_block(space->meta, l.block, l.host_offset) < 0 ||
                  (!sound && q2_guard_block_is_data(space->meta, l.block, l.host_offset) < 0);
    pthread_mutex_unlock(&space->meta->lock);
    if (l.host_offset == 0)
        op_wake(op, 0); /* looked up again, it will be found missing */
    else if (refused)
        op_wake(op, -EIO);
    else if (!is_aligned(l.host_offset, space->meta->geo.cluster_size))
        op_wake(op, q2_break(space->meta, "a refcount table entry is damaged"));
    else if (sound)
        load_slice(&l, key, op);
    else
        load_judged(&l, op);
}
