/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Giving host clusters back.
 *
 * Happy path: what nothing refers to any more joins the list of what was freed, which flushes and reclaim.c carry
 * on; in the end its refcounts fall, and it may be found free. What was never put to use falls at once.
 * Failure modes: out of memory for the list: the clusters leak. The refcounts of what was never used are not at
 * hand: it goes the long way. A refcount is nought already: the image is damaged.
 */
#include <stdlib.h>

#include "engine/base/mem.h"
#include "qcow2/format/format.h"
#include "qcow2/meta/meta.h"
#include "qcow2/mutant.h"
#include "qcow2/space/alloc.h"

void q2_free_from(struct q2_space *space, uint64_t index)
{
    assert_locked(&space->meta->lock);
    space->free_hint = min_u64(space->free_hint, index);
    if (space->used_end > index)
        space->used_from = space->used_end = 0;
}

/*
 * A cluster has become free. What lies between it and where the search was has none; so one cluster that is freed
 * far below does not have all refcounts read again.
 */
static void note_free(struct q2_space *space, uint64_t index)
{
    uint64_t end =
        space->used_from <= space->free_hint ? max_u64(space->free_hint, space->used_end) : space->free_hint;

    assert_locked(&space->meta->lock);
    if (index < space->free_hint) {
        if (space->used_from <= space->free_hint || end - index - 1 > space->used_end - space->used_from) {
            space->used_from = index + 1;
            space->used_end = end;
        }
        space->free_hint = index;
    } else if (index >= space->used_from && index < space->used_end) { /* the longer part remains */
        if (index - space->used_from > space->used_end - index - 1)
            space->used_end = index;
        else
            space->used_from = index + 1;
    }
}

/* Only for the crash tests: invariant 2 broken. */
static bool lower_at_once(struct q2_space *space, uint64_t index, uint64_t n)
{
    for (uint64_t i = index; i < index + n; i++)
        if (!q2_refcounts_find(space, i >> space->meta->refslice_bits))
            return false;
    for (uint64_t i = index; i < index + n; i++)
        q2_lower(space, q2_refcounts_find(space, i >> space->meta->refslice_bits), i, 1, false);
    return true;
}

void q2_drop_run(struct q2_space *space, uint64_t host_offset, uint64_t clusters, bool untouched)
{
    struct q2_freed_list *l = &space->freed[MUTANT(FREE_BEFORE_SYNC) ? Q2_FREED_DURABLE : Q2_FREED_NOW];
    struct q2_freed *last = l->count ? &l->list[l->count - 1] : NULL;
    uint64_t index = host_offset >> space->meta->geo.cluster_bits;

    assert_locked(&space->meta->lock);
    if (!q2_invariant(space->meta,
                      index > 0 && clusters > 0 && host_offset == index << space->meta->geo.cluster_bits,
                      "the header, or no cluster at all, was to be freed"))
        return;
    if (q2_twice_has(space->meta, index) && clusters == 1)
        return; /* the other entry's */
    if (space->tails_open > 0 && !MUTANT(KEEP_TAIL))
        q2_tails_leave(space, host_offset, clusters);
    if (MUTANT(LOWER_AT_ONCE) && lower_at_once(space, index, clusters))
        return;
    if (last && last->cluster_index + last->clusters == index && last->untouched == untouched) {
        last->clusters += clusters;
        return;
    }
    if (l->count == l->max) {
        size_t max = l->max ? 2 * l->max : 64;
        struct q2_freed *list = mem_realloc(l->list, max * sizeof *list);
        if (!list)
            return;
        l->list = list;
        l->max = max;
    }
    l->list[l->count++] = (struct q2_freed){.cluster_index = index, .clusters = clusters, .untouched = untouched};
}

void q2_drop_clusters(struct q2_space *space, uint64_t host_offset, uint64_t clusters)
{
    assert_locked(&space->meta->lock);
    q2_drop_run(space, host_offset, clusters, space->count_decides);
}

void q2_drop_table(struct q2_space *space, uint64_t host_offset, uint64_t clusters, uint32_t kind)
{
    uint64_t first = host_offset >> space->meta->geo.cluster_bits;

    assert_locked(&space->meta->lock);
    q2_guard_remove(space->meta, first, clusters, kind);
    /*
     * Its refcount may be 0, by the image's mistake: nobody takes the clusters as free ones before they have been
     * given back, or giving them back would free what is there then.
     */
    if (space->meta->guarded && !MUTANT(FORGET_TABLE))
        q2_cluster_set_add(&space->meta->mapped, first, clusters);
    q2_drop_clusters(space, host_offset, clusters);
}

void q2_leave_l2_table(struct q2_space *space, uint64_t host_offset)
{
    struct q2_meta *meta = space->meta;
    uint64_t cluster = host_offset >> meta->geo.cluster_bits;

    assert_locked(&meta->lock);
    if (meta->guarded && !MUTANT(FORGET_TABLE))
        q2_cluster_set_add(&meta->left, cluster, 1);
    if (q2_cluster_set_has(&meta->left, cluster))
        q2_drop_clusters(space, host_offset, 1);
    else
        q2_drop_table(space, host_offset, 1, Q2_META_L2);
}

/* How many entries of the L1 table lead there; two stand for more. Of what was left by one: that is rare. */
static unsigned leading_entries(struct q2_meta *meta, uint64_t cluster)
{
    const struct q2_l1 *l1 = atomic_load(&meta->l1);
    unsigned n = 0;

    assert_locked(&meta->lock);
    for (uint64_t i = 0; i < l1->entries && n < 2; i++)
        n += q2_l1_offset(atomic_load_explicit(&l1->entry[i], memory_order_relaxed)) ==
             cluster << meta->geo.cluster_bits;
    return MUTANT(LEFT_BY_ALL) ? 0 : n;
}

static bool is_twice(struct q2_meta *meta, uint64_t cluster)
{
    return (q2_meta_kinds(&meta->places, cluster) & Q2_META_TWICE) != 0;
}

/* One reference fewer, and there are more, which may be of the L1 table: that is looked through. */
void q2_lower_left_table(struct q2_meta *meta, uint64_t cluster)
{
    assert_locked(&meta->lock);
    if (MUTANT(LEFT_STAYS_TWICE) || !q2_cluster_set_has(&meta->left, cluster))
        return;
    if (is_twice(meta, cluster) && leading_entries(meta, cluster) < 2)
        q2_guard_remove(meta, cluster, 1, Q2_META_L2);
}

/* The last one. Where an entry leads there all the same it stays a table, which the guard does not let go. */
void q2_forget_left_table(struct q2_meta *meta, uint64_t cluster)
{
    assert_locked(&meta->lock);
    if (!q2_cluster_set_has(&meta->left, cluster) || leading_entries(meta, cluster) > 0)
        return;
    q2_cluster_set_remove(&meta->left, cluster, 1);
    if (is_twice(meta, cluster) && !MUTANT(LEFT_STAYS_TWICE))
        q2_guard_remove(meta, cluster, 1, Q2_META_L2);
    q2_guard_remove(meta, cluster, 1, Q2_META_L2);
}

void q2_return_structure(struct q2_space *space, const struct q2_run *run, uint32_t kind)
{
    assert_locked(&space->meta->lock);
    if (run->clusters > 0)
        q2_guard_remove(space->meta, run->host_offset >> space->meta->geo.cluster_bits, run->clusters, kind);
    q2_return_run(space, run);
}

void q2_drop(struct q2_space *space, const struct q2_mapping *m)
{
    uint64_t first = q2_cluster_down(&space->meta->geo, m->host_offset);
    uint64_t end = q2_cluster_up(&space->meta->geo, m->host_offset + m->compressed_len);

    assert_locked(&space->meta->lock);
    if (space->meta->data_file || (m->type != Q2_CLUSTER_COMPRESSED && !m->has_host))
        return;
    if (m->type != Q2_CLUSTER_COMPRESSED)
        end = first + space->meta->geo.cluster_size;
    /* One at a time: neighbours in the list must not merge what is counted twice. */
    for (; first < end; first += space->meta->geo.cluster_size)
        q2_drop_clusters(space, first, 1);
}

bool q2_lower(struct q2_space *space, struct q2_slot *s, uint64_t cluster_index, uint64_t n, bool untouched)
{
    uint64_t mask = (1ull << space->meta->refslice_bits) - 1;
    uint8_t *data = (uint8_t *)q2_slot_data(&space->meta->refcounts, s);
    bool ok = true;

    assert_locked(&space->meta->lock);
    if (!q2_invariant(space->meta, s && n > 0 && cluster_index >> space->meta->refslice_bits ==
                                                     (cluster_index + n - 1) >> space->meta->refslice_bits,
                      "refcounts are to be lowered that are not at hand"))
        return false;
    for (uint64_t i = cluster_index; i < cluster_index + n; i++) {
        uint64_t refcount = q2_refcount_get(&space->meta->geo, data, i & mask);
        if (refcount == 0) {
            /* Freed twice: the image says so, we did not. */
            q2_break(space->meta, "a cluster in use has no refcount");
            ok = false;
            continue;
        }
        q2_refcount_set(&space->meta->geo, data, i & mask, refcount - 1);
        if (refcount > 1)
            continue;
        note_free(space, i);
        q2_forget_left_table(space->meta, i);
        if (!untouched || MUTANT(OWN_UNUSED))
            q2_cluster_set_add(&space->meta->own_freed, i, 1);
    }
    q2_slot_mark_dirty(&space->meta->refcounts, s);
    return ok;
}

/* The first refcount slice of a run that is not cached any more; false: all are. */
static bool missing_slice(struct q2_space *space, uint64_t index, uint64_t n, uint64_t *ret_key)
{
    assert_locked(&space->meta->lock);
    for (uint64_t key = index >> space->meta->refslice_bits; key <= (index + n - 1) >> space->meta->refslice_bits;
         key++) {
        if (q2_refcounts_find(space, key))
            continue;
        *ret_key = key;
        return true;
    }
    return false;
}

void q2_return(struct q2_space *space, uint64_t cluster_index, uint64_t clusters, bool zero)
{
    uint64_t end = cluster_index + clusters, key, n;

    assert_locked(&space->meta->lock);
    if (missing_slice(space, cluster_index, clusters, &key)) {
        q2_drop_run(space, cluster_index << space->meta->geo.cluster_bits, clusters, true);
        return;
    }
    for (uint64_t i = cluster_index; i < end; i += n) {
        uint64_t slice_end = ((i >> space->meta->refslice_bits) + 1) << space->meta->refslice_bits;
        n = min_u64(end, slice_end) - i;
        zero &= q2_lower(space, q2_refcounts_find(space, i >> space->meta->refslice_bits), i, n, true);
    }
    if (!zero)
        return;
    /* What was there when the image was opened may be the host's since: zeros, but not behind all. */
    if (space->zero_from == end << space->meta->geo.cluster_bits)
        space->zero_from = max_u64(cluster_index, space->appended_from) << space->meta->geo.cluster_bits;
    q2_note_zero(space, cluster_index, end);
}
