/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Loading a refcount slice, which will be changed and written back: so it is made sure first that it is one.
 *
 * Happy path: the slice was looked at before, or was made here: load it. Else load the slice of its block that
 * says most about it, look at that, load the slice itself, look at it.
 * Where something looks odd: all L2 tables are read first (survey.h). Then it is known whether the block is guest
 * data.
 * Failure modes: the block is metadata of another kind, or guest data: -EIO, and no trust in the image any more.
 * An L2 table cannot be read, no memory: the load fails with that. More guest data than the map holds: what is not
 * in it is not known.
 */
#include <errno.h>

#include "qcow2/meta/meta.h"
#include "qcow2/space/alloc.h"
#include "qcow2/space/survey.h"

/* Of one cluster, for each table that may have it: as many compressed clusters as that is hardly ever have one. */
enum { REFS_PLAUSIBLE = 128, ROW_MAX = 16 };

struct refcount_load {
    struct op   op;
    struct q2_space *space;
    uint64_t    key, block, host_offset; /* the slice, its block and where that is */
    bool        odd;
};

enum refcount_load_state {
    REFCOUNT_LOAD_START = OP_START,
    REFCOUNT_PROOF_LOADED,
    REFCOUNT_LOADED,
    REFCOUNT_SURVEYED
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

/* ---- does it look like refcounts? -------------------------------------------------------------------------- */

/* Blocks usually lie in what they describe. */
static bool describes_itself(const struct refcount_load *l)
{
    return l->host_offset >> l->space->meta->geo.cluster_bits >> l->space->meta->geo.refblock_bits == l->block;
}

/*
 * Or it was made ahead (reftable.c): in a row with those before it, of which the first describes itself. Such a
 * block is all zeros until it is used.
 */
static bool is_in_row(const struct refcount_load *l)
{
    const struct q2_meta *meta = l->space->meta;
    uint64_t host_offset = l->host_offset;

    assert_locked(&meta->lock);
    for (uint64_t k = 0; k < min_u64(ROW_MAX, l->block + 1); k++, host_offset -= meta->geo.cluster_size) {
        if (host_offset == 0 || (k > 0 && q2_reftable_offset(meta->reftable[l->block - k]) != host_offset))
            return false;
        if (host_offset >> meta->geo.cluster_bits >> meta->geo.refblock_bits == l->block - k)
            return true;
    }
    return false;
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
    bool in_row = is_in_row(l), may_be_empty = in_row && !describes_itself(l);
    uint64_t most = (1 + (uint64_t)space->meta->header.nb_snapshots) * (in_row ? REFS_PLAUSIBLE : 1);

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
    return !none_is_metadata(space, free_from, first + n) || (used == 0 && key == proof_key(l) && !may_be_empty);
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

/* ---- the op ------------------------------------------------------------------------------------------------- */

/* All L2 tables have to be read first. */
static bool needs_survey(const struct refcount_load *l)
{
    bool over;

    pthread_mutex_lock(&l->space->meta->lock);
    over = q2_survey_is_over(l->space);
    pthread_mutex_unlock(&l->space->meta->lock);
    return l->odd && !over;
}

static int judge(struct refcount_load *l)
{
    struct q2_space *space = l->space;
    int rc;

    pthread_mutex_lock(&space->meta->lock);
    rc = q2_guard_block_is_data(space->meta, l->block, l->host_offset);
    if (rc == 0)
        q2_cluster_set_add(&space->sound, l->key, 1);
    if (rc == 0 && !q2_cluster_set_has(&space->sound, l->key))
        rc = -ENOMEM;
    pthread_mutex_unlock(&space->meta->lock);
    return rc;
}

static void refcount_load_step(struct op *op)
{
    struct refcount_load *l = container_of(op, struct refcount_load, op);

    OP_BEGIN(enum refcount_load_state, op)
    while (l->key != proof_key(l) && look_at(l, proof_key(l)) == LOOK_GONE)
        OP_TRY(op, REFCOUNT_PROOF_LOADED, load_slice(l, proof_key(l), op));
    while (look_at(l, l->key) == LOOK_GONE)
        OP_TRY(op, REFCOUNT_LOADED, load_slice(l, l->key, op));
    while (needs_survey(l))
        OP_TRY(op, REFCOUNT_SURVEYED, q2_survey(l->space, true, op));
    op_end(&l->op, sizeof *l, judge(l));
    return;
    OP_END
fail:
    op_end(&l->op, sizeof *l, op->rc);
}

OP_TYPE(refcount_load, refcount_load_step, "START", "REFCOUNT_PROOF_LOADED", "REFCOUNT_LOADED",
        "REFCOUNT_SURVEYED");

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
