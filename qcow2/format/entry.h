/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Entries of L1, L2 and refcount tables: decode, encode, judge. Pure; entries are in host byte order.
 */
#ifndef QCOW2_ENTRY_H
#define QCOW2_ENTRY_H

#include "qcow2/format/geometry.h"

/*
 * What a cluster or a subcluster is. A subcluster may be UNALLOCATED inside a cluster that has host space: see
 * q2_mapping.has_host.
 */
enum q2_cluster_type {
    Q2_CLUSTER_UNALLOCATED, /* reads from the backing file, or zeros without one */
    Q2_CLUSTER_ZERO_PLAIN,  /* reads as zeros, no host space */
    Q2_CLUSTER_ZERO_ALLOC,  /* reads as zeros, host_offset is kept for it */
    Q2_CLUSTER_NORMAL,
    Q2_CLUSTER_COMPRESSED,      /* compressed */
};

/* One L2 entry. */
struct q2_mapping {
    uint64_t host_offset;    /* of the cluster (has_host), or of the first compressed byte */
    uint64_t compressed_len; /* COMPRESSED: bytes up to the end of the last sector; the stream may end earlier */
    uint64_t bitmap;         /* extended L2: the subcluster bitmap, else 0 */
    uint8_t  type;           /* enum q2_cluster_type; extended L2: NORMAL with host space, else UNALLOCATED */
    bool     has_host;       /* a whole cluster at host_offset belongs to it */
    bool     copied;         /* refcount is exactly one: may be written in place (active tables only) */
};

/* ---- "L1 table entry", "Refcount table entry" ---------------------------------------------------------- */

/* 0: no L2 table. */
static inline uint64_t q2_l1_offset(uint64_t entry)
{
    return entry & Q2_L1_OFFSET;
}

static inline uint64_t q2_l1_entry(uint64_t host_offset, bool copied)
{
    assert((host_offset & ~Q2_L1_OFFSET) == 0);
    return host_offset | (copied ? Q2_COPIED : 0);
}

/* NULL when the entry can be used, else what is wrong with it. Reserved bits are told apart: QEMU ignores them. */
static inline const char *q2_l1_problem(const struct q2_geometry *g, uint64_t entry)
{
    return is_aligned(q2_l1_offset(entry), g->cluster_size) ? NULL : "offset is not aligned to a cluster";
}

static inline bool q2_l1_reserved(uint64_t entry)
{
    return (entry & Q2_L1_RESERVED) != 0;
}

/*
 * Where the header has an L1 table and the refcount table in one place, is it an L1 table? Entries of a refcount
 * table never have the flag that nearly all of an L1 table have. A flag without a table, which a repair takes
 * away, tells nothing.
 */
static inline bool q2_l1_plausible(const uint8_t *table, uint64_t entries)
{
    bool any = false;

    for (uint64_t i = 0; i < entries; i++) {
        uint64_t entry = get_be64(table + i * Q2_L1_ENTRY_SIZE);

        if (q2_l1_reserved(entry))
            return false;
        any |= (entry & Q2_COPIED) != 0 && q2_l1_offset(entry) != 0;
    }
    return any;
}

/* 0: no refcount block, all its refcounts are 0. */
static inline uint64_t q2_reftable_offset(uint64_t entry)
{
    return entry & Q2_REFTABLE_OFFSET;
}

static inline const char *q2_reftable_problem(const struct q2_geometry *g, uint64_t entry)
{
    if (!is_aligned(q2_reftable_offset(entry), g->cluster_size))
        return "offset is not aligned to a cluster";
    return q2_reftable_offset(entry) > Q2_MAX_SIZE ? "offset is out of range" : NULL;
}

static inline bool q2_reftable_reserved(uint64_t entry)
{
    return (entry & Q2_REFTABLE_RESERVED) != 0;
}

/* ---- "L2 table entry" ---------------------------------------------------------------------------------- */

/* Where there are no subclusters the bitmap is 0, and not on disk. */
struct q2_l2_entry {
    uint64_t word, bitmap;
};

/* From and to a table as it is on disk, at an entry's place. */
static inline struct q2_l2_entry q2_l2_entry_get(const struct q2_geometry *g, const void *place)
{
    return (struct q2_l2_entry){get_be64(place), g->extended_l2 ? get_be64((const char *)place + 8) : 0};
}

static inline void q2_l2_entry_put(const struct q2_geometry *g, void *place, struct q2_l2_entry e)
{
    put_be64(place, e.word);
    if (g->extended_l2)
        put_be64((char *)place + 8, e.bitmap);
}

static inline bool q2_l2_entry_same(struct q2_l2_entry a, struct q2_l2_entry b)
{
    return a.word == b.word && a.bitmap == b.bitmap;
}

/*
 * `bitmap` is the second word of an extended entry, else 0. Decodes anything; what it says of an entry that
 * q2_entry_problem() objects to means nothing.
 */
static inline struct q2_mapping q2_entry_decode(const struct q2_geometry *g, uint64_t entry, uint64_t bitmap)
{
    struct q2_mapping m = {.host_offset = entry & Q2_L2_OFFSET};

    m.copied = (entry & Q2_COPIED) != 0;
    if (unlikely(entry & Q2_COMPRESSED)) {
        uint64_t sectors = ((entry >> g->compressed_shift) & g->compressed_sectors_mask) + 1;

        m.type = Q2_CLUSTER_COMPRESSED;
        m.host_offset = entry & g->compressed_offset_mask;
        m.compressed_len = sectors * Q2_SECTOR_SIZE - (m.host_offset & (Q2_SECTOR_SIZE - 1));
        assert(m.compressed_len > 0 && is_aligned(m.host_offset + m.compressed_len, Q2_SECTOR_SIZE));
        return m;
    }
    /* In an external data file the first cluster's offset is 0, and bit 63 tells that it is there. */
    m.has_host = m.host_offset != 0 || (g->data_file && m.copied);
    m.bitmap = g->extended_l2 ? bitmap : 0;
    m.type = m.has_host ? Q2_CLUSTER_NORMAL : Q2_CLUSTER_UNALLOCATED;
    if ((entry & Q2_ZERO) && !g->extended_l2)
        m.type = m.has_host ? Q2_CLUSTER_ZERO_ALLOC : Q2_CLUSTER_ZERO_PLAIN;
    return m;
}

/*
 * NULL when the entry can be used, else what is wrong with it: a phrase that goes after "L2 entry ...: ".
 * `guest_offset` is that of the cluster (only looked at with an external data file). Reserved bits are told apart:
 * see q2_entry_reserved().
 */
static inline const char *q2_entry_problem(const struct q2_geometry *g, uint64_t entry, uint64_t bitmap,
                                           uint64_t guest_offset)
{
    struct q2_mapping m = q2_entry_decode(g, entry, bitmap);
    uint32_t alloc = (uint32_t)m.bitmap, zero = (uint32_t)(m.bitmap >> 32);

    if (m.type == Q2_CLUSTER_COMPRESSED)
        return g->data_file ? "compressed cluster in an image with an external data file" : NULL;
    if (!is_aligned(m.host_offset, g->cluster_size))
        return "offset is not aligned to a cluster";
    if (g->data_file && m.has_host && m.host_offset != guest_offset)
        return "offset in the external data file differs from the guest offset";
    if ((entry & Q2_ZERO) && g->version < 3)
        return "zero cluster in a version 2 image";
    if (alloc & zero)
        return "subcluster is both allocated and zero";
    if (alloc != 0 && !m.has_host)
        return "subclusters are allocated, but the cluster has no offset";
    return NULL;
}

/* Bits set that the specification wants 0. QEMU reads such entries as if they were not; check reports them. */
static inline bool q2_entry_reserved(const struct q2_geometry *g, uint64_t entry, uint64_t bitmap)
{
    if (entry & Q2_COMPRESSED)
        return (entry & ((1ull << g->compressed_shift) - 1) & ~Q2_MAX_HOST_OFFSET) != 0 ||
               (entry & Q2_COPIED) != 0 || (g->extended_l2 && bitmap != 0);
    return (entry & Q2_L2_RESERVED) != 0 || ((entry & Q2_ZERO) && (g->extended_l2 || g->version < 3));
}

/* Standard descriptors. Extended L2: no Q2_CLUSTER_ZERO_*, those are in the bitmap. */
static inline uint64_t q2_entry_encode(const struct q2_geometry *g, enum q2_cluster_type type,
                                       uint64_t host_offset, bool copied)
{
    assert(is_aligned(host_offset, g->cluster_size) && host_offset <= Q2_MAX_HOST_OFFSET);
    assert(!g->extended_l2 || (type != Q2_CLUSTER_ZERO_PLAIN && type != Q2_CLUSTER_ZERO_ALLOC));
    assert(g->version >= 3 || (type != Q2_CLUSTER_ZERO_PLAIN && type != Q2_CLUSTER_ZERO_ALLOC));
    assert((type != Q2_CLUSTER_NORMAL && type != Q2_CLUSTER_ZERO_ALLOC) || host_offset != 0 || g->data_file);
    switch (type) {
    case Q2_CLUSTER_UNALLOCATED:
        return 0;
    case Q2_CLUSTER_ZERO_PLAIN:
        return Q2_ZERO;
    case Q2_CLUSTER_ZERO_ALLOC:
        return host_offset | Q2_ZERO | (copied ? Q2_COPIED : 0);
    case Q2_CLUSTER_NORMAL:
        return host_offset | (copied ? Q2_COPIED : 0);
    case Q2_CLUSTER_COMPRESSED:
        break;
    }
    assert(type != Q2_CLUSTER_COMPRESSED); /* q2_entry_encode_compressed() */
    return 0;
}

/* `len` > 0 bytes from host_offset; they span at most compressed_sectors_mask + 1 sectors. */
static inline uint64_t q2_entry_encode_compressed(const struct q2_geometry *g, uint64_t host_offset, uint64_t len)
{
    uint64_t sectors = (host_offset + len - 1) / Q2_SECTOR_SIZE - host_offset / Q2_SECTOR_SIZE;

    assert(len > 0 && (host_offset & ~g->compressed_offset_mask) == 0);
    assert(sectors <= g->compressed_sectors_mask);
    return Q2_COMPRESSED | (sectors << g->compressed_shift) | host_offset;
}

/* ---- "Extended L2 Entries" ----------------------------------------------------------------------------- */

/* Mask of `n` >= 1 subclusters from `index` in either half of the bitmap. */
static inline uint32_t q2_subcluster_mask(uint32_t index, uint32_t n)
{
    assert(n >= 1 && index + n <= Q2_EXTENDED_SUBCLUSTERS);
    return (UINT32_MAX >> (32 - n)) << index;
}

static inline uint64_t q2_bitmap(uint32_t alloc, uint32_t zero)
{
    assert((alloc & zero) == 0);
    return (uint64_t)zero << 32 | alloc;
}

/* The bitmap after these subclusters were written, or were made to read as zeros, or were dropped. */
static inline uint64_t q2_bitmap_set_alloc(uint64_t bitmap, uint32_t mask)
{
    return (bitmap | mask) & ~((uint64_t)mask << 32);
}

static inline uint64_t q2_bitmap_set_zero(uint64_t bitmap, uint32_t mask)
{
    return (bitmap | (uint64_t)mask << 32) & ~(uint64_t)mask;
}

static inline uint64_t q2_bitmap_clear(uint64_t bitmap, uint32_t mask)
{
    return bitmap & ~((uint64_t)mask << 32 | mask);
}

/* The type of one subcluster (index 0 without extended L2 entries: the cluster's). */
static inline enum q2_cluster_type q2_subcluster_type(const struct q2_geometry *g, const struct q2_mapping *m,
                                                      uint32_t index)
{
    assert(index < g->subclusters);
    if (!g->extended_l2 || m->type == Q2_CLUSTER_COMPRESSED)
        return (enum q2_cluster_type)m->type;
    if (m->bitmap >> 32 >> index & 1)
        return m->has_host ? Q2_CLUSTER_ZERO_ALLOC : Q2_CLUSTER_ZERO_PLAIN;
    return m->bitmap >> index & 1 ? Q2_CLUSTER_NORMAL : Q2_CLUSTER_UNALLOCATED;
}

/*
 * The number of subclusters from `index` on that have the same type, up to the end of the cluster; 1 without
 * extended L2 entries.
 */
static inline uint32_t q2_subcluster_run(const struct q2_geometry *g, const struct q2_mapping *m, uint32_t index,
                                         enum q2_cluster_type *ret_type)
{
    uint32_t alloc = (uint32_t)m->bitmap, zero = (uint32_t)(m->bitmap >> 32);
    uint32_t left = g->subclusters - index, differs;

    *ret_type = q2_subcluster_type(g, m, index);
    if (!g->extended_l2 || m->type == Q2_CLUSTER_COMPRESSED)
        return left;
    if (zero >> index & 1)
        differs = ~zero >> index;
    else if (alloc >> index & 1)
        differs = ~(alloc & ~zero) >> index;
    else
        differs = (alloc | zero) >> index;
    assert((differs & 1) == 0); /* from itself */
    return differs == 0 ? left : (uint32_t)min_u64(left, (uint32_t)__builtin_ctz(differs));
}

/* ---- slices of L2 tables --------------------------------------------------------------------------------- */

/*
 * Do the entries of a slice, as on disk, map its guest clusters to consecutive host clusters, all of them in use
 * and ours alone? From *ret_host on.
 */
static inline bool q2_slice_linear(const struct q2_geometry *g, const char *slice, uint32_t slice_size,
                                   uint64_t *ret_host)
{
    uint64_t host_offset = get_be64(slice) & Q2_L2_OFFSET;
    uint64_t entry = host_offset | Q2_COPIED;

    assert(slice_size > 0 && slice_size <= g->cluster_size && is_aligned(slice_size, g->l2_entry_size));
    if ((host_offset == 0 && !g->data_file) || !is_aligned(host_offset, g->cluster_size))
        return false;
    for (uint32_t at = 0; at < slice_size; at += g->l2_entry_size, entry += g->cluster_size) {
        if (get_be64(slice + at) != entry)
            return false;
        if (g->extended_l2 && get_be64(slice + at + 8) != q2_bitmap(UINT32_MAX, 0))
            return false;
    }
    *ret_host = host_offset;
    return true;
}

#endif
