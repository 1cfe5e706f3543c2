/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Guest offset to extent, from cached slices, without a lock; and the load that puts a slice into the cache.
 *
 * Invariants.
 *  1. What a lookup returns was the state of the image at one moment during the call (meta_cache.h, invariant 2).
 *  2. An entry that q2_entry_unusable() objects to is never followed: lookup says -EAGAIN, and load gives the
 *     error.
 *  3. No mapping counts as durable before a flush of this handle has ended: the file may have been left with
 *     writes in the page cache, or the device's, that nobody has synced. The first durable write makes one.
 */
#include <errno.h>

#include "qcow2/map/lookup.h"
#include "qcow2/meta/meta.h"
#include "qcow2/mutant.h"

static const uint8_t extent_kinds[] = {
    [Q2_CLUSTER_UNALLOCATED] = EXTENT_UNALLOCATED, [Q2_CLUSTER_ZERO_PLAIN] = EXTENT_ZERO,
    [Q2_CLUSTER_ZERO_ALLOC] = EXTENT_ZERO,         [Q2_CLUSTER_NORMAL] = EXTENT_DATA,
    [Q2_CLUSTER_COMPRESSED] = EXTENT_COMPRESSED,
};

/* What the first entry says about the guest offset, up to the end of its cluster or run of subclusters. */
static void first_extent(const struct q2_meta *meta, struct q2_l2_entry e, uint64_t guest_offset,
                         struct extent *ret)
{
    const struct q2_geometry *g = &meta->geo;
    struct q2_mapping m = q2_entry_decode(g, e.word, e.bitmap);
    uint64_t in_cluster = q2_offset_in_cluster(g, guest_offset);
    uint32_t index = q2_subcluster_index(g, guest_offset);
    enum q2_cluster_type type;
    uint32_t run = q2_subcluster_run(g, &m, index, &type);

    assert(run > 0 && index + run <= g->cluster_size >> g->subcluster_bits);
    ret->kind = extent_kinds[type];
    ret->flags = 0;
    ret->host_offset = m.host_offset + in_cluster;
    ret->len = type == Q2_CLUSTER_COMPRESSED ? g->cluster_size - in_cluster
                                             : ((uint64_t)(index + run) << g->subcluster_bits) - in_cluster;
    switch (type) {
    case Q2_CLUSTER_NORMAL:
        ret->flags = m.copied ? EXTENT_WRITABLE : 0;
        break;
    case Q2_CLUSTER_ZERO_ALLOC:
        ret->flags = EXTENT_HOST | EXTENT_MARKED;
        break;
    case Q2_CLUSTER_ZERO_PLAIN:
        ret->flags = EXTENT_MARKED;
        break;
    case Q2_CLUSTER_COMPRESSED:
        ret->host_offset = e.word & ~(Q2_COPIED | Q2_COMPRESSED);
        break;
    case Q2_CLUSTER_UNALLOCATED:
        break;
    }
}

/* Does `next`, which follows `e`, go on with the same? */
static bool continues(const struct extent *e, const struct extent *next)
{
    if (e->kind != next->kind || e->flags != next->flags || e->kind == EXTENT_COMPRESSED)
        return false;
    return !(e->kind == EXTENT_DATA || e->flags & EXTENT_HOST) || e->host_offset + e->len == next->host_offset;
}

/*
 * Of the `len` bytes behind the cluster at `pos`, whose entry is `e`, how far entries are what goes on with it and
 * nothing else: the next host cluster, or the same entry where it has none. Others may go on with it all the same;
 * nothing is known of what is behind a cluster of several kinds, or a compressed one.
 */
static uint64_t count_alike(const struct q2_meta *meta, const struct q2_slot *s, uint64_t pos, uint64_t len,
                            struct q2_l2_entry e)
{
    const struct q2_geometry *g = &meta->geo;
    struct q2_mapping m = q2_entry_decode(g, e.word, e.bitmap);
    uint64_t step = m.has_host ? g->cluster_size : 0, n = q2_clusters(g, len), i;
    uint32_t place = q2_slice_place(meta, pos);

    if (m.type == Q2_CLUSTER_COMPRESSED ||
        (e.bitmap != 0 && e.bitmap != q2_bitmap(UINT32_MAX, 0) && e.bitmap != q2_bitmap(0, UINT32_MAX)))
        return 0;
    assert(n < 1u << meta->slice_entries_bits); /* the extent goes to the end of the cluster at pos */
    if (m.host_offset + (n + 1) * step > Q2_L2_OFFSET && !MUTANT(ALIKE_WRAPS))
        return 0; /* what is added would leave the offset's bits */
    for (i = 0; i < n; i++) {
        place += g->l2_entry_size;
        e.word += step;
        if (q2_read_be64(&meta->l2, s, place) != e.word ||
            (g->extended_l2 && q2_read_be64(&meta->l2, s, place + 8) != e.bitmap))
            break;
    }
    return i << g->cluster_bits;
}

/* As first_extent(), and on over neighbours of the same kind, within the slice. */
static int scan_slice(struct q2_meta *meta, struct q2_slot *s, uint64_t guest_offset, uint64_t len,
                      struct extent *ret)
{
    uint64_t slice_end = q2_slice_end(meta, guest_offset), wanted = min_u64(len, slice_end - guest_offset);
    bool suspect = q2_slice_is_suspect(s);
    struct extent next;

    assert(len > 0 && slice_end > guest_offset);
    ret->len = 0;
    for (uint64_t pos = guest_offset;; pos = guest_offset + ret->len) {
        struct q2_l2_entry e = q2_slice_get(meta, s, pos);
        if (unlikely(suspect) && q2_entry_unusable(meta, e, q2_cluster_down(&meta->geo, pos)))
            return ret->len > 0 ? 0 : -EAGAIN;
        first_extent(meta, e, pos, &next);
        if (unlikely(suspect))
            next.flags &= (uint8_t)~EXTENT_WRITABLE; /* by the slow path, which asks */
        else if (ret->len + next.len < wanted)
            next.len += count_alike(meta, s, pos, wanted - ret->len - next.len, e);
        if (ret->len == 0)
            *ret = next;
        else if (continues(ret, &next))
            ret->len += next.len;
        else
            break;
        if (ret->len >= wanted)
            break;
    }
    ret->len = min_u64(ret->len, wanted);
    assert(ret->len > 0 && guest_offset + ret->len <= slice_end);
    return 0;
}

/* Are all subclusters that the range touches written, and none of them zero? */
static inline bool all_written(const struct q2_geometry *g, uint64_t bitmap, uint64_t in_cluster, uint64_t len)
{
    uint32_t first = (uint32_t)(in_cluster >> g->subcluster_bits),
             last = (uint32_t)((in_cluster + len - 1) >> g->subcluster_bits),
             mask = q2_subcluster_mask(first, last - first + 1);

    return (bitmap & ((uint64_t)mask << 32 | mask)) == mask;
}

/* The usual case, a request inside one plain allocated cluster, without the generality of the others. */
static inline bool one_cluster(struct q2_meta *meta, struct q2_slot *s, uint64_t guest_offset, uint64_t len,
                               struct extent *ret)
{
    uint64_t in_cluster = q2_offset_in_cluster(&meta->geo, guest_offset);
    struct q2_l2_entry e;

    if (unlikely(in_cluster + len > meta->geo.cluster_size || q2_slice_is_suspect(s)))
        return false;
    e = q2_slice_get(meta, s, guest_offset);
    /* COPIED and an offset, nothing else. */
    if ((e.word & ~Q2_L2_OFFSET) != Q2_COPIED || (unlikely(e.word == Q2_COPIED) && !meta->data_file))
        return false;
    if (meta->geo.extended_l2 && !all_written(&meta->geo, e.bitmap, in_cluster, len))
        return false;
    ret->kind = EXTENT_DATA;
    ret->flags = EXTENT_WRITABLE;
    ret->host_offset = (e.word & Q2_L2_OFFSET) + in_cluster;
    ret->len = len;
    return true;
}

/* The flag of a mapping that is as it was read from the file, or has been flushed: invariant 3. */
static uint8_t durable(const struct q2_meta *meta)
{
    if (MUTANT(TRUST_AS_READ) || MUTANT(ASSUME_DURABLE))
        return EXTENT_DURABLE;
    return atomic_load_explicit(&meta->as_read, memory_order_relaxed);
}

/* The whole slice is one run of host clusters: it need not be in the cache. */
static bool in_linear_slice(struct q2_meta *meta, uint64_t guest_offset, uint64_t len, struct extent *ret)
{
    uint64_t slice_bytes = 1ull << meta->slice_guest_bits, in_slice = guest_offset & (slice_bytes - 1),
             host_offset;

    if (!q2_linear_host(&meta->l2, q2_slice_key(meta, guest_offset), &host_offset))
        return false;
    assert(is_aligned(host_offset, meta->geo.cluster_size) && (host_offset != 0 || meta->data_file));
    ret->kind = EXTENT_DATA;
    ret->flags = EXTENT_WRITABLE | durable(meta);
    ret->host_offset = host_offset + in_slice;
    ret->len = min_u64(len, slice_bytes - in_slice);
    return true;
}

/* What was read in the slot's slice counts, if it belongs together. */
static inline int read_slice(struct q2_meta *meta, struct q2_slot *s, uint32_t seq, struct extent *ret)
{
    if (ret->kind == EXTENT_DATA && (q2_read_settled(s) || MUTANT(ASSUME_DURABLE)))
        ret->flags |= durable(meta);
    return likely(q2_read_end(s, seq)) ? 0 : -EAGAIN;
}

/*
 * No L2 table: all that the L1 entry covers is unallocated, and so is what others without one cover. With small
 * clusters there are millions of them, so no call looks at all.
 */
static uint64_t without_tables(struct q2_meta *meta, uint64_t guest_offset, uint64_t len)
{
    enum { ENTRIES = 1024 };
    uint64_t span = q2_l1_entry_span(&meta->geo), covered = span - (guest_offset & (span - 1)),
             index = q2_l1_index(&meta->geo, guest_offset);

    for (unsigned n = 1; n < ENTRIES && covered < len; n++, covered += span) {
        if (q2_l1_offset(q2_l1_get(meta, index + n)) != 0)
            break;
    }
    return min_u64(len, covered);
}

/* All but the usual case. */
static __attribute__((noinline)) int look_closer(struct q2_meta *meta, struct q2_slot *s, uint32_t seq,
                                                 uint64_t guest_offset, uint64_t len, struct extent *ret)
{
    if (likely(s))
        return scan_slice(meta, s, guest_offset, len, ret) < 0 ? -EAGAIN : read_slice(meta, s, seq, ret);
    if (q2_l1_offset(q2_l1_get(meta, q2_l1_index(&meta->geo, guest_offset))) != 0)
        return -EAGAIN;
    ret->kind = EXTENT_UNALLOCATED;
    ret->flags = 0;
    ret->host_offset = 0;
    ret->len = without_tables(meta, guest_offset, len);
    return 0;
}

int q2_lookup(struct layer *layer, uint64_t guest_offset, uint64_t len, struct extent *ret)
{
    struct q2_meta *meta = q2_meta_of(layer);
    struct q2_slot *s;
    uint32_t seq;

    assert(len > 0 && meta->layer == layer);
    if (in_linear_slice(meta, guest_offset, len, ret))
        return 0;
    s = q2_read_begin(&meta->l2, q2_slice_key(meta, guest_offset), &seq);
    if (likely(s && one_cluster(meta, s, guest_offset, len, ret)))
        return read_slice(meta, s, seq, ret);
    return look_closer(meta, s, s ? seq : 0, guest_offset, len, ret);
}

/* With the slice in the cache: is it the entry itself that cannot be used? */
static int check_entry(struct q2_meta *meta, uint64_t guest_offset)
{
    struct q2_slot *s;
    int rc = 0;

    pthread_mutex_lock(&meta->lock);
    s = q2_slice_find(meta, guest_offset);
    if (s && q2_slice_is_suspect(s)) {
        struct q2_l2_entry e = q2_slice_get(meta, s, guest_offset);
        if (q2_entry_unusable(meta, e, q2_cluster_down(&meta->geo, guest_offset)))
            rc = q2_guard_bad_entry(meta, guest_offset, s->host_offset, e.word);
    }
    pthread_mutex_unlock(&meta->lock);
    return rc;
}

void q2_load(struct layer *layer, uint64_t guest_offset, struct op *op)
{
    struct q2_meta *meta = q2_meta_of(layer);
    uint64_t entry = q2_l1_get(meta, q2_l1_index(&meta->geo, guest_offset));
    uint64_t table = q2_l1_offset(entry);
    int rc;

    if (table == 0) {
        op_wake(op, 0);
        return;
    }
    if (q2_l1_problem(&meta->geo, entry)) {
        op_wake(op, q2_break(meta, "an L1 entry is damaged"));
        return;
    }
    assert(is_aligned(table, meta->geo.cluster_size));
    rc = check_entry(meta, guest_offset);
    if (rc < 0)
        op_wake(op, rc);
    else
        q2_cache_load(&meta->l2, q2_slice_key(meta, guest_offset), q2_slice_host(meta, table, guest_offset), op);
}

void q2_load_ahead(struct layer *layer, uint64_t guest_offset, struct op *op)
{
    struct q2_meta *meta = q2_meta_of(layer);
    uint64_t entry = q2_l1_get(meta, q2_l1_index(&meta->geo, guest_offset));
    uint64_t table = q2_l1_offset(entry);

    assert(layer->read_only && !meta->guarded); /* else filling a slot may find something to say */
    if (table == 0 || q2_l1_problem(&meta->geo, entry))
        op_wake(op, 0);
    else
        q2_cache_load(&meta->l2, q2_slice_key(meta, guest_offset), q2_slice_host(meta, table, guest_offset), op);
}
