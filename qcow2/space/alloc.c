/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Taking host clusters.
 *
 * Happy path: look for free refcounts from the hint on, in the cached refcount slice, raise them.
 * Failure modes: the slice is not cached (load it and some behind it, look again; when those have none either,
 * go on behind the end); a free cluster was there when the image was opened, and not all L2 tables have been
 * read (read some, once; go on behind the end while there are more: survey.h); an L2 table cannot be read (the
 * same, and its error where nothing else is left); there is no refcount block for the place (make one there: its
 * first cluster holds the block itself, but not in the middle of a run that must be in one piece); the refcount
 * table is too short (grow it, reftable.c); no space: a device may have been extended, else leases are given back
 * and what was freed is reclaimed as far as it can be, then it is tried once more.
 */
#include "qcow2/space/alloc.h"

#include <errno.h>

#include "engine/loop/failure.h"
#include "qcow2/format/format.h"
#include "qcow2/meta/meta.h"
#include "qcow2/mutant.h"
#include "qcow2/space/lease.h"
#include "qcow2/space/reclaim.h"
#include "qcow2/space/reftable.h"
#include "qcow2/space/survey.h"

enum scan_result {
    SCAN_TAKEN,
    SCAN_NEEDS_SLICE,
    SCAN_NEEDS_BLOCK,
    SCAN_UNSURVEYED,
    SCAN_FULL,
    SCAN_TRIMMING,
    SCAN_REFUSED,
    SCAN_AGAIN
};

bool q2_space_follow(struct q2_space *space)
{
    const struct backend *b = space->meta->layer->file;
    uint64_t limit = min_u64(backend_size(b), Q2_MAX_HOST_OFFSET + 1) >> space->meta->geo.cluster_bits;
    bool grew = !(b->caps & BACKEND_GROWS) && limit > space->limit_clusters;

    assert_locked(&space->meta->lock);
    if (grew)
        space->limit_clusters = limit;
    return grew;
}

bool q2_space_grew(struct q2_space *space)
{
    struct backend *b = space->meta->layer->file;
    uint64_t limit;
    bool grew;

    if (b->caps & BACKEND_GROWS)
        return false;
    pthread_mutex_lock(&space->meta->lock);
    limit = space->limit_clusters;
    pthread_mutex_unlock(&space->meta->lock);
    if (!backend_reaches_past(b, ((limit + 1) << space->meta->geo.cluster_bits) - 1))
        return false;
    pthread_mutex_lock(&space->meta->lock);
    grew = q2_space_follow(space);
    pthread_mutex_unlock(&space->meta->lock);
    return grew;
}

/*
 * Where L1 or refcount table were when the image was opened: free when they have moved, but lookups, which take no
 * lock, call an entry damaged that leads there. Until the next open it can be metadata only.
 */
static bool was_table(const struct q2_space *space, uint64_t cluster, uint64_t n)
{
    const struct q2_meta *meta = space->meta;
    uint64_t start = cluster << meta->geo.cluster_bits, end = (cluster + n) << meta->geo.cluster_bits;

    assert_locked(&space->meta->lock);
    return ranges_meet(start, end, meta->l1_start, meta->l1_end) ||
           ranges_meet(start, end, meta->reftable_start, meta->reftable_end);
}

/* Refcounts of a slice from `index` on, n at most, that are 0. */
static uint64_t count_zeros(const struct q2_geometry *g, const uint8_t *slice, uint64_t index, uint64_t n)
{
    uint64_t i = index, end = index + n;

    while (i < end && q2_refcount_get(g, slice, i) == 0)
        i = max_u64(i + 1, q2_refcount_skip_zeros(g, slice, i, end));
    return i - index;
}

/*
 * May clusters without a refcount be had? *n of them at once where nothing speaks against any,
 * else the first, and *n becomes 1.
 */
static enum q2_guard_verdict judge_free(struct q2_space *space, uint64_t index, uint32_t kind, uint64_t *n)
{
    enum q2_guard_verdict verdict;

    assert_locked(&space->meta->lock);
    if (*n > 1 && (kind != 0 || !was_table(space, index, *n)) &&
        q2_guard_all_free(space->meta, index, *n, kind != 0))
        return Q2_GUARD_FREE;
    *n = 1;
    verdict = q2_guard_free(space->meta, index, kind != 0);
    return verdict == Q2_GUARD_FREE && kind == 0 && was_table(space, index, 1) ? Q2_GUARD_IN_USE : verdict;
}

/*
 * Up to `want` free clusters from `from` on, inside one refcount slice: *ret_n of them at
 * ret_index, 0 when it has none. The slice's content, or what to fetch first, decides the result. `kind`: what
 * they are for, enum q2_meta_kind, 0 for guest data. Clusters that may not be used before all L2 tables have been
 * read end the search, unless `known_only`.
 */
static enum scan_result scan(struct q2_space *space, uint64_t from, uint64_t want, uint32_t kind,
                             bool known_only, uint64_t *ret_index, uint64_t *ret_n)
{
    uint64_t key = from >> space->meta->refslice_bits;
    uint64_t slice_mask = (1ull << space->meta->refslice_bits) - 1;
    uint64_t end = min_u64((key + 1) << space->meta->refslice_bits, space->limit_clusters), zeros_end = from, n;
    uint64_t slice_end = ((end - 1) & slice_mask) + 1;
    struct q2_slot *s;

    assert_locked(&space->meta->lock);
    *ret_n = 0;
    if (!q2_has_block(space->meta, from))
        return q2_survey_known(space, from, 1) ? SCAN_NEEDS_BLOCK : known_only ? SCAN_TAKEN : SCAN_UNSURVEYED;
    s = q2_refcounts_find(space, key);
    if (!s)
        return SCAN_NEEDS_SLICE;
    const uint8_t *data = (const uint8_t *)q2_slot_data(&space->meta->refcounts, s);
    for (uint64_t i = from; i < end && *ret_n < want; i += n) {
        enum q2_guard_verdict verdict = Q2_GUARD_IN_USE;
        /* What had to be judged one by one once is so to its end. */
        n = i < zeros_end ? 1
                          : count_zeros(&space->meta->geo, data, i & slice_mask, min_u64(end - i, want - *ret_n));
        zeros_end = max_u64(zeros_end, i + n);
        if (n == 0) { /* in use; those with refcount 1 are passed at once */
            n = q2_refcount_skip_ones(&space->meta->geo, data, i & slice_mask, slice_end) - (i & slice_mask);
        } else if (q2_survey_known(space, i, n) > 0) {
            n = q2_survey_known(space, i, n);
            verdict = judge_free(space, i, kind, &n);
        } else if (*ret_n == 0 && !known_only) {
            return SCAN_UNSURVEYED;
        } else {
            n = q2_survey_unknown(space, i, n);
        }
        n = max_u64(n, 1);
        if (verdict == Q2_GUARD_METADATA)
            return SCAN_REFUSED;
        if (verdict == Q2_GUARD_FREE && *ret_n == 0)
            *ret_index = i;
        else if (verdict != Q2_GUARD_FREE && *ret_n > 0)
            break;
        *ret_n += verdict == Q2_GUARD_FREE ? n : 0;
    }
    return SCAN_TAKEN;
}

/* Where a search that has come to `index` goes on. */
static uint64_t pass_used(const struct q2_space *space, uint64_t index)
{
    assert_locked(&space->meta->lock);
    index = max_u64(index, space->free_hint);
    if (index >= space->used_from && index < space->used_end)
        index = space->used_end;
    return index >= space->append_from && index < space->append_end ? space->append_end : index;
}

/* Raise refcounts from 0 to 1, all in one slice, which is cached. False: they cannot be. */
static bool raise(struct q2_space *space, uint64_t index, uint64_t n)
{
    uint64_t in_slice = index & ((1ull << space->meta->refslice_bits) - 1);
    struct q2_slot *s = q2_refcounts_find(space, index >> space->meta->refslice_bits);
    uint8_t *data;

    assert_locked(&space->meta->lock);
    if (!q2_invariant(space->meta, s && in_slice + n <= 1ull << space->meta->refslice_bits,
                      "refcounts are to be raised that are not at hand"))
        return false;
    data = (uint8_t *)q2_slot_data(&space->meta->refcounts, s);
    if (!q2_invariant(space->meta, count_zeros(&space->meta->geo, data, in_slice, n) == n,
                      "a cluster in use was to be handed out"))
        return false;
    q2_slot_mark_dirty(&space->meta->refcounts, s);
    q2_refcount_fill_one(&space->meta->geo, data, in_slice, n);
    return true;
}

/* Clusters from `index` on, up to n, that are alike in being known to be zero. */
static uint64_t alike(const struct q2_space *space, uint64_t index, uint64_t n, bool *ret_zero)
{
    uint64_t edge = space->zero_from >> space->meta->geo.cluster_bits;

    assert_locked(&space->meta->lock);
    if (index < edge)
        return q2_zero_runs_alike(&space->zero_runs, index, min_u64(n, edge - index), ret_zero);
    *ret_zero = space->zero_new;
    return n;
}

/* The clusters are ours: take them out of what is known to be free and zero. Were all of them? */
static bool take_out(struct q2_space *space, uint64_t index, uint64_t n)
{
    bool zero, same = alike(space, index, n, &zero) == n;

    assert_locked(&space->meta->lock);
    q2_zero_runs_remove(&space->zero_runs, index, index + n);
    q2_note_end(space, (index + n) << space->meta->geo.cluster_bits);
    return same && zero;
}

static void describe(struct q2_space *space, uint64_t index, uint64_t n, bool zero, struct q2_run *ret)
{
    *ret = (struct q2_run){
        .host_offset = index << space->meta->geo.cluster_bits, .clusters = n, .zero = zero || MUTANT(ASSUME_ZERO)};
}

static enum scan_result fetch_first(struct q2_space *space, enum scan_result r, uint64_t index, uint64_t *ret_need)
{
    *ret_need =
        r == SCAN_NEEDS_SLICE ? index >> space->meta->refslice_bits : q2_reftable_index(&space->meta->geo, index);
    return r;
}

/* ---- the op ------------------------------------------------------------------------------------------ */

enum {
    ALLOC_AHEAD = 16, /* refcount slices that are read at once */
    HOLE_ROUNDS = 1,  /* so often, before what is behind the end is taken */
    AHEAD_SHARE = 16, /* at most this part of what is left is taken ahead where space is limited */
};

enum look { LOOK_HOLES, LOOK_TAIL, LOOK_ALL };

struct alloc {
    struct op      op;
    struct q2_space *space;
    uint64_t       want, need;
    uint32_t       kind; /* what for: enum q2_meta_kind, with the structure lock held; 0: guest data */
    bool           exact, squeezed, recounted;
    bool           surveyed;   /* it has gone on with the survey */
    bool           known_only; /* which cannot be ended: survey_rc, survey_failure */
    int            survey_rc;
    uint32_t       survey_failure;
    enum look      look;
    unsigned       rounds; /* of loads */
    struct op_child ahead[ALLOC_AHEAD];
    struct q2_run *ret;
    uint64_t       next; /* where to look on; holes: from the hint on */
    uint64_t       tail; /* find_tail(): from here on there is no refcount; 0: it has not begun */
    /* exact: what has been taken: cluster indices [start, start + have); are they zero? */
    uint64_t       start, have;
    bool           zero;
};

enum alloc_state {
    ALLOC_START = OP_START,
    ALLOC_SLICE_LOADED,
    ALLOC_SURVEYED,
    ALLOC_BLOCK_MADE,
    ALLOC_SQUEEZED,
    ALLOC_RECLAIMED,
    ALLOC_TRIMMED
};

/* What an exact search has taken goes back. */
static void drop_part(struct alloc *a)
{
    assert_locked(&a->space->meta->lock);
    if (a->have > 0)
        q2_return(a->space, a->start, a->have, a->zero);
    a->have = 0;
}

/* Has an entry been read meanwhile that leads to what was taken? Then it goes back: guard.h, invariant 2. */
static bool mapped_since(struct alloc *a)
{
    assert_locked(&a->space->meta->lock);
    if (!q2_guard_leads_to(a->space->meta, a->start, a->have))
        return false;
    a->next = a->start + a->have;
    drop_part(a);
    return true;
}

/* Where the last block that there is begins. */
static uint64_t last_block_start(const struct q2_space *space)
{
    uint64_t block = space->meta->reftable_entries;

    while (block > 0 && q2_reftable_offset(space->meta->reftable[block - 1]) == 0)
        block--;
    return block > 0 ? (block - 1) << space->meta->geo.refblock_bits : 0;
}

/* Where looking behind all that is in use begins. Storage that cannot grow: in the last block that there is. */
static uint64_t tail_start(const struct q2_space *space)
{
    assert_locked(&space->meta->lock);
    if (space->meta->layer->file->caps & BACKEND_GROWS)
        return space->zero_from >> space->meta->geo.cluster_bits;
    return max_u64(space->tail_hint, last_block_start(space));
}

/*
 * Storage that cannot grow, before the survey is over: where the holes end, that is, behind the last cluster with
 * a refcount. Of the last block no more is looked at than is loaded at once.
 */
static enum scan_result find_tail(struct alloc *a)
{
    struct q2_space *space = a->space;
    uint64_t mask = (1ull << space->meta->refslice_bits) - 1, from = last_block_start(space);
    uint64_t end = min_u64(from + (1ull << space->meta->geo.refblock_bits), space->holes_end);
    uint64_t least = end - min_u64(end, ((uint64_t)(ALLOC_AHEAD - 1) << space->meta->refslice_bits) + 1);
    bool begins = a->tail == 0, in_use = false;

    assert_locked(&space->meta->lock);
    from = max_u64(from, least & ~mask);
    a->need = from >> space->meta->refslice_bits;
    if (begins)
        a->tail = end;
    if (begins && !q2_refcounts_find(space, a->need))
        return SCAN_NEEDS_SLICE; /* and those behind it */
    while (a->tail > from && !in_use) {
        struct q2_slot *s = q2_refcounts_find(space, (a->tail - 1) >> space->meta->refslice_bits);
        a->need = (a->tail - 1) >> space->meta->refslice_bits;
        if (!s)
            return SCAN_NEEDS_SLICE;
        in_use = q2_refcount_get(&space->meta->geo, (const uint8_t *)q2_slot_data(&space->meta->refcounts, s),
                                 (a->tail - 1) & mask) != 0;
        a->tail -= !in_use;
    }
    space->holes_end = min_u64(space->holes_end, a->tail);
    a->next = max_u64(a->next, a->tail);
    return SCAN_AGAIN;
}

/* Holes, then the tail, then all: invariant 4. */
static void look_further(struct alloc *a)
{
    assert_locked(&a->space->meta->lock);
    assert(a->look != LOOK_ALL && a->have == 0);
    a->look = a->look == LOOK_HOLES ? LOOK_TAIL : LOOK_ALL;
    a->next = a->look == LOOK_TAIL ? max_u64(tail_start(a->space), a->space->free_hint) : 0;
}

/*
 * May the survey go on for this search? Once, unless it has failed before; to its end where the tail has nothing,
 * unless it fails now.
 */
static bool may_survey(const struct alloc *a)
{
    assert_locked(&a->space->meta->lock);
    if (a->look == LOOK_ALL)
        return !a->surveyed || a->survey_rc == 0;
    return !a->surveyed && !a->space->survey_failed;
}

/*
 * A cluster is free that may not be had before the survey is over. It goes on, and then the tail is taken; where
 * that has nothing, it goes on to its end.
 */
static enum scan_result wait_for_survey(struct alloc *a)
{
    assert_locked(&a->space->meta->lock);
    drop_part(a);
    if (may_survey(a))
        return SCAN_UNSURVEYED;
    if (a->look == LOOK_TAIL)
        return find_tail(a);
    if (a->look == LOOK_HOLES && !MUTANT(SEARCH_ALL)) {
        look_further(a);
    } else {
        a->known_only = true;
        a->next = 0;
    }
    return SCAN_AGAIN;
}

/* Take 1 to `want` clusters. */
static enum scan_result try_take(struct alloc *a)
{
    struct q2_space *space = a->space;
    uint64_t found = 0, n = 0, *pos;
    bool zero;

    assert_locked(&space->meta->lock);
    for (;;) {
        /* What is passed over for metadata may do for data. */
        pos = a->look == LOOK_TAIL || a->kind || a->known_only ? &a->next : &space->free_hint;
        *pos = pass_used(space, *pos);
        if (*pos >= space->limit_clusters && a->look == LOOK_ALL) {
            a->next = 0; /* once more from the hint on, if at all */
            return SCAN_FULL;
        }
        if (*pos >= space->limit_clusters) {
            look_further(a);
            continue;
        }
        enum scan_result r = scan(space, *pos, a->want, a->kind, a->known_only, &found, &n);
        if (r == SCAN_UNSURVEYED)
            return wait_for_survey(a);
        if (r != SCAN_TAKEN)
            return fetch_first(space, r, *pos, &a->need);
        if (n > 0)
            break;
        *pos = ((*pos >> space->meta->refslice_bits) + 1) << space->meta->refslice_bits;
        *pos = min_u64(*pos, space->limit_clusters); /* which may rise */
    }
    n = alike(space, found, n, &zero);
    if (!MUTANT(FORGET_LEASE) && !raise(space, found, n))
        return SCAN_REFUSED;
    describe(space, found, n, take_out(space, found, n), a->ret);
    *pos = found + n;
    if (found == space->free_hint)
        space->free_hint = found + n;
    if (a->look == LOOK_TAIL)
        space->tail_hint = found + n;
    return SCAN_TAKEN;
}

/*
 * The same for exactly `want` neighbours. They are taken as they are found, slice by slice, since not all of their
 * refcounts need fit into the cache at once; where one in use interrupts, they go back. What is passed over stays
 * free.
 */
static enum scan_result try_take_exact(struct alloc *a)
{
    struct q2_space *space = a->space;
    uint64_t found = 0, n = 0;

    assert_locked(&space->meta->lock);
    while (a->have < a->want) {
        a->next = pass_used(space, a->next);
        uint64_t slice_end = ((a->next >> space->meta->refslice_bits) + 1) << space->meta->refslice_bits;
        if (a->next >= space->limit_clusters) {
            drop_part(a);
            a->next = 0; /* once more from the hint on, if at all */
            if (a->look == LOOK_ALL)
                return SCAN_FULL;
            look_further(a);
            continue;
        }
        enum scan_result r = scan(space, a->next, a->want - a->have, a->kind, a->known_only, &found, &n);
        if (r == SCAN_UNSURVEYED)
            return wait_for_survey(a);
        if (r != SCAN_TAKEN)
            return fetch_first(space, r, a->next, &a->need);
        if (n == 0 || (a->have > 0 && found != a->start + a->have))
            drop_part(a);
        if (n == 0) {
            a->next = slice_end;
            continue;
        }
        if (a->have == 0) {
            a->start = found;
            a->zero = true;
        }
        if (!raise(space, found, n))
            return SCAN_REFUSED;
        a->zero &= take_out(space, found, n);
        a->have += n;
        a->next = found + n;
    }
    if (a->kind && mapped_since(a))
        return try_take_exact(a);
    describe(space, a->start, a->want, a->zero, a->ret);
    a->have = 0;
    return SCAN_TAKEN;
}

/*
 * With the lock held: `r` came out of where it is looked now. Enough of the holes, but not while a run is taken in
 * one piece: blocks for it that went behind the end would lie where it goes on, and end it, for ever. Or, where
 * space is limited, a block would have to be made, which takes some; but holes are worth more than a survey only
 * when there is nothing else.
 */
static bool should_look_further(const struct alloc *a, enum scan_result r)
{
    assert_locked(&a->space->meta->lock);
    if (a->look == LOOK_HOLES)
        return r == SCAN_NEEDS_SLICE && a->rounds >= HOLE_ROUNDS && a->have == 0 && a->space->exact_runs == 0 &&
               !MUTANT(SEARCH_ALL);
    return a->look == LOOK_TAIL && r == SCAN_NEEDS_BLOCK && q2_survey_is_over(a->space) &&
           !(a->space->meta->layer->file->caps & BACKEND_GROWS);
}

static enum scan_result alloc_try(struct alloc *a)
{
    struct q2_space *space = a->space;
    enum scan_result r = SCAN_TRIMMING;

    pthread_mutex_lock(&space->meta->lock);
    q2_space_assert(space);
    if (may_survey(a) && !a->surveyed && q2_survey_is_short(space))
        r = SCAN_UNSURVEYED;
    else if (!space->trimming)
        r = a->exact ? try_take_exact(a) : try_take(a);
    if (should_look_further(a, r)) {
        drop_part(a);
        look_further(a);
        r = SCAN_AGAIN;
    }
    if (r == SCAN_FULL && a->kind && !a->recounted) {
        q2_guard_recount(space->meta);
        a->recounted = true;
        r = SCAN_AGAIN;
    }
    if (r == SCAN_TAKEN && a->kind) /* guard.h, invariant 1 */
        q2_guard_add(space->meta, a->ret->host_offset >> space->meta->geo.cluster_bits, a->ret->clusters, a->kind);
    pthread_mutex_unlock(&space->meta->lock);
    return r;
}

/* The call of an await. */
static void wait_trimmed(struct q2_space *space, struct op *op)
{
    pthread_mutex_lock(&space->meta->lock);
    if (space->trimming)
        list_add_tail(&space->trim_waiting, &op->wait);
    else
        op_wake(op, 0);
    pthread_mutex_unlock(&space->meta->lock);
}

/* Space is short: the call of an await. */
static void squeeze(struct alloc *a, struct op *op)
{
    pthread_mutex_lock(&a->space->meta->lock);
    q2_lease_return_all(a->space);
    pthread_mutex_unlock(&a->space->meta->lock);
    a->squeezed = true;
    a->recounted = false;
    q2_make_clean(a->space->meta, op);
}

static bool is_cached(struct alloc *a)
{
    bool is;

    pthread_mutex_lock(&a->space->meta->lock);
    is = q2_refcounts_find(a->space, a->need) != NULL;
    pthread_mutex_unlock(&a->space->meta->lock);
    return is;
}

/* May the slice be read ahead? */
static bool is_worth_loading(struct q2_space *space, uint64_t key)
{
    uint64_t first = key << space->meta->refslice_bits;

    assert_locked(&space->meta->lock);
    return first < space->limit_clusters && q2_has_block(space->meta, first) && !q2_refcounts_find(space, key) &&
           q2_guard_block_is_sound(
               space->meta,
               q2_reftable_offset(space->meta->reftable[q2_reftable_index(&space->meta->geo, first)]));
}

/* The slice that is needed, and with it those behind it that may be next; the call of an await. */
static void load_slices(struct alloc *a, struct op *op)
{
    struct q2_space *space = a->space;
    uint64_t key = a->need, end = key + ALLOC_AHEAD;
    bool wanted;

    a->rounds++;
    op_io_begin(op);
    for (unsigned i = 0; key < end; key++) {
        pthread_mutex_lock(&space->meta->lock);
        wanted = key == a->need || is_worth_loading(space, key);
        pthread_mutex_unlock(&space->meta->lock);
        if (wanted)
            q2_refcount_load(space, key, op_child_add(op, &a->ahead[i++]));
    }
    op_io_wait(op);
}

/* The call of the await has ended. False: nothing can be taken any more. */
static bool note_surveyed(struct alloc *a)
{
    a->surveyed = true;
    a->survey_rc = a->op.rc;
    a->survey_failure = a->op.failure;
    return a->survey_rc == 0 || q2_takes_writes(a->space->meta);
}

/* How it ends with the last search's result. */
static int outcome(struct alloc *a, enum scan_result r)
{
    if (r == SCAN_FULL && a->known_only) {
        failure_now = a->survey_failure;
        return a->survey_rc;
    }
    return r == SCAN_FULL ? -ENOSPC : r == SCAN_REFUSED ? -EIO : 0;
}

static void alloc_finish(struct alloc *a, int rc)
{
    pthread_mutex_lock(&a->space->meta->lock);
    if (rc < 0)
        drop_part(a);
    a->space->exact_runs -= a->exact;
    pthread_mutex_unlock(&a->space->meta->lock);
    if (rc < 0)
        a->ret->clusters = 0;
    op_end(&a->op, sizeof *a, rc);
}

static void alloc_step(struct op *op)
{
    struct alloc *a = container_of(op, struct alloc, op);
    enum scan_result r;

    OP_BEGIN(enum alloc_state, op)
    for (;;) {
        r = alloc_try(a);
        if (r == SCAN_AGAIN || (r == SCAN_FULL && q2_space_grew(a->space)))
            continue;
        if (r == SCAN_TAKEN || r == SCAN_REFUSED || (r == SCAN_FULL && a->squeezed))
            break;
        if (r == SCAN_FULL) {
            OP_AWAIT(op, ALLOC_SQUEEZED, squeeze(a, op));
            OP_AWAIT(op, ALLOC_RECLAIMED, q2_reclaim(a->space, op));
        } else if (r == SCAN_UNSURVEYED) {
            OP_AWAIT(op, ALLOC_SURVEYED, q2_survey(a->space, a->look == LOOK_ALL, op));
            if (!note_surveyed(a))
                goto fail;
        } else if (r == SCAN_TRIMMING) {
            OP_AWAIT(op, ALLOC_TRIMMED, wait_trimmed(a->space, op));
        } else if (r == SCAN_NEEDS_SLICE) {
            OP_AWAIT(op, ALLOC_SLICE_LOADED, load_slices(a, op));
            if (op->rc < 0 && !is_cached(a))
                goto fail;
        } else {
            OP_TRY(op, ALLOC_BLOCK_MADE, q2_refblock_make(a->space, a->need, a->kind != 0, a->have > 0, op));
        }
    }
    alloc_finish(a, outcome(a, r));
    return;
    OP_END
fail:
    alloc_finish(a, op->rc);
}

OP_TYPE(alloc, alloc_step, "START", "ALLOC_SLICE_LOADED", "ALLOC_SURVEYED", "ALLOC_BLOCK_MADE", "ALLOC_SQUEEZED",
        "ALLOC_RECLAIMED", "ALLOC_TRIMMED");

static void alloc_begin(struct q2_space *space, uint64_t want, bool exact, struct q2_run *ret_run, struct op *op,
                        uint32_t kind)
{
    struct alloc *a = op_alloc(op->queue, &alloc_type, sizeof *a);

    assert(want > 0);
    ret_run->clusters = 0;
    if (!a) {
        op_wake(op, -ENOMEM);
        return;
    }
    a->op.parent = op;
    a->space = space;
    a->want = want;
    a->exact = exact && want > 1;
    a->ret = ret_run;
    a->kind = kind;
    /* A long table goes behind all that is in use: in a hole there may be guest data without a refcount. */
    a->look = atomic_load(&space->host_full)             ? LOOK_ALL
              : kind == Q2_META_L1 || kind == Q2_META_REFTABLE ? LOOK_TAIL
                                                               : LOOK_HOLES;
    pthread_mutex_lock(&space->meta->lock);
    if (a->look == LOOK_TAIL)
        a->next = tail_start(space);
    space->exact_runs += a->exact;
    pthread_mutex_unlock(&space->meta->lock);
    op_start(&a->op);
}

void q2_alloc(struct q2_space *space, uint64_t want, bool exact, struct q2_run *ret_run, struct op *op)
{
    alloc_begin(space, want, exact, ret_run, op, 0);
}

void q2_alloc_structure(struct q2_space *space, uint64_t want, bool exact, uint32_t kind, struct q2_run *ret_run,
                        struct op *op)
{
    alloc_begin(space, want, exact, ret_run, op, kind);
}

uint64_t q2_alloc_ahead(const struct q2_space *space, uint64_t want)
{
    uint64_t rest = space->limit_clusters - min_u64(space->free_hint, space->limit_clusters);

    if (!(space->meta->layer->file->caps & BACKEND_GROWS))
        want = min_u64(want, rest / AHEAD_SHARE);
    return max_u64(want, 1);
}
