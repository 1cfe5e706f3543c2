/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The arithmetic of one image: which table entry describes a guest offset, which refcount a host cluster has.
 * Pure. A geometry is fixed once the header is read, but for `version` (amend).
 */
#ifndef QCOW2_GEOMETRY_H
#define QCOW2_GEOMETRY_H

#include <assert.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "engine/base/bits.h"
#include "qcow2/format/ondisk.h"

struct q2_geometry {
    uint64_t cluster_size;
    uint64_t subcluster_size;   /* cluster_size without extended L2 entries */
    uint64_t refcount_max;
    uint64_t compressed_offset_mask;  /* of a compressed descriptor: the host offset */
    uint32_t compressed_shift;        /* of a compressed descriptor: where the number of sectors starts ("x") */
    uint32_t compressed_sectors_mask; /* after that shift */
    uint32_t version;
    uint32_t cluster_bits;
    uint32_t subcluster_bits;   /* log2(subcluster_size) */
    uint32_t subclusters;       /* per cluster: 1 or 32 */
    uint32_t l2_entry_size;     /* 8 or 16 */
    uint32_t l2_bits;           /* log2 of entries in an L2 table */
    uint32_t refcount_order;
    uint32_t refcount_bits;
    uint32_t refblock_bits;     /* log2 of refcounts in a refcount block */
    bool     extended_l2;
    bool     data_file;         /* guest clusters lie in an external data file, at their guest offset */
};

/* Values must be in the limits of ondisk.h (q2_geometry_ok()). */
static inline bool q2_geometry_ok(uint32_t version, uint32_t cluster_bits, uint32_t refcount_order,
                                  bool extended_l2)
{
    return (version == 2 || version == 3) && cluster_bits >= Q2_MIN_CLUSTER_BITS &&
           cluster_bits <= Q2_MAX_CLUSTER_BITS && refcount_order <= Q2_MAX_REFCOUNT_ORDER &&
           (version == 3 || (refcount_order == Q2_DEFAULT_REFCOUNT_ORDER && !extended_l2)) &&
           (!extended_l2 || cluster_bits >= Q2_MIN_CLUSTER_BITS_EXTENDED);
}

static inline void q2_geometry_init(struct q2_geometry *g, uint32_t version, uint32_t cluster_bits,
                                    uint32_t refcount_order, bool extended_l2, bool data_file)
{
    assert(q2_geometry_ok(version, cluster_bits, refcount_order, extended_l2));
    g->version = version;
    g->cluster_bits = cluster_bits;
    g->cluster_size = 1ull << cluster_bits;
    g->extended_l2 = extended_l2;
    g->data_file = data_file;
    g->subclusters = extended_l2 ? Q2_EXTENDED_SUBCLUSTERS : 1;
    g->subcluster_bits = extended_l2 ? cluster_bits - 5 : cluster_bits;
    g->subcluster_size = 1ull << g->subcluster_bits;
    g->l2_entry_size = extended_l2 ? 16 : 8;
    g->l2_bits = extended_l2 ? cluster_bits - 4 : cluster_bits - 3;
    g->refcount_order = refcount_order;
    g->refcount_bits = 1u << refcount_order;
    g->refblock_bits = cluster_bits + 3 - refcount_order;
    g->refcount_max = UINT64_MAX >> (64 - g->refcount_bits);
    g->compressed_shift = 62 - (cluster_bits - 8);
    g->compressed_sectors_mask = (1u << (cluster_bits - 8)) - 1;
    g->compressed_offset_mask = ((1ull << g->compressed_shift) - 1) & Q2_MAX_HOST_OFFSET;
    assert((uint64_t)g->l2_entry_size << g->l2_bits == g->cluster_size);
    assert((uint64_t)g->refcount_bits << g->refblock_bits == g->cluster_size * 8);
    assert(g->subclusters * g->subcluster_size == g->cluster_size);
    assert((uint64_t)g->compressed_sectors_mask << g->compressed_shift < Q2_COMPRESSED);
    assert((g->compressed_sectors_mask + UINT64_C(1)) * Q2_SECTOR_SIZE == 2 * g->cluster_size);
}

/* ---- guest offsets: "Cluster mapping" ---------------------------------------------------------------- */

static inline uint64_t q2_offset_in_cluster(const struct q2_geometry *g, uint64_t offset)
{
    return offset & (g->cluster_size - 1);
}

static inline uint64_t q2_cluster_down(const struct q2_geometry *g, uint64_t offset)
{
    return align_down(offset, g->cluster_size);
}

/* Wraps for offsets in the last cluster of 64 bits: sizes are at most Q2_MAX_SIZE. */
static inline uint64_t q2_cluster_up(const struct q2_geometry *g, uint64_t offset)
{
    return align_up(offset, g->cluster_size);
}

/* Clusters that `len` bytes from a cluster's start touch. */
static inline uint64_t q2_clusters(const struct q2_geometry *g, uint64_t len)
{
    return (len >> g->cluster_bits) + (q2_offset_in_cluster(g, len) != 0);
}

static inline uint64_t q2_cluster_index(const struct q2_geometry *g, uint64_t offset)
{
    return offset >> g->cluster_bits;
}

static inline uint64_t q2_l2_entries(const struct q2_geometry *g)
{
    return 1ull << g->l2_bits;
}

static inline uint64_t q2_l1_index(const struct q2_geometry *g, uint64_t guest_offset)
{
    return guest_offset >> (g->cluster_bits + g->l2_bits);
}

static inline uint64_t q2_l2_index(const struct q2_geometry *g, uint64_t guest_offset)
{
    return (guest_offset >> g->cluster_bits) & (q2_l2_entries(g) - 1);
}

/* Guest bytes that one L1 entry covers: at most 2 MiB * 256 Ki = 2^39. */
static inline uint64_t q2_l1_entry_span(const struct q2_geometry *g)
{
    return 1ull << (g->cluster_bits + g->l2_bits);
}

/* L1 entries that a virtual size needs. */
static inline uint64_t q2_l1_entries(const struct q2_geometry *g, uint64_t size)
{
    return div_up(size, q2_l1_entry_span(g));
}

/* The largest virtual size whose L1 table we would accept. */
static inline uint64_t q2_max_size(const struct q2_geometry *g)
{
    return min_u64(Q2_MAX_SIZE, (uint64_t)(Q2_MAX_L1_SIZE / Q2_L1_ENTRY_SIZE) << (g->cluster_bits + g->l2_bits));
}

/* Byte offset of an entry inside its L2 table. */
static inline uint64_t q2_l2_entry_offset(const struct q2_geometry *g, uint64_t l2_index)
{
    return l2_index * g->l2_entry_size;
}

static inline uint32_t q2_subcluster_index(const struct q2_geometry *g, uint64_t guest_offset)
{
    return (uint32_t)(q2_offset_in_cluster(g, guest_offset) >> g->subcluster_bits);
}

/* ---- host offsets: "Host cluster management" ----------------------------------------------------------- */

static inline uint64_t q2_refblock_entries(const struct q2_geometry *g)
{
    return 1ull << g->refblock_bits;
}

/* Index in the refcount table: which block holds the refcount of this cluster. */
static inline uint64_t q2_reftable_index(const struct q2_geometry *g, uint64_t cluster_index)
{
    return cluster_index >> g->refblock_bits;
}

/* Index in that block. */
static inline uint64_t q2_refblock_index(const struct q2_geometry *g, uint64_t cluster_index)
{
    return cluster_index & (q2_refblock_entries(g) - 1);
}

/* Host bytes that one refcount block covers. */
static inline uint64_t q2_refblock_span(const struct q2_geometry *g)
{
    return 1ull << (g->cluster_bits + g->refblock_bits);
}

/* Entries in a refcount table of so many clusters. */
static inline uint64_t q2_reftable_entries(const struct q2_geometry *g, uint64_t reftable_clusters)
{
    return (reftable_clusters << g->cluster_bits) / Q2_REFTABLE_ENTRY_SIZE;
}

/*
 * "Refcount block entry": widths under a byte start at the least significant bit. `block` is one cluster as it
 * lies on disk; `index` is inside it.
 */
static inline uint64_t q2_refcount_get(const struct q2_geometry *g, const uint8_t *block, uint64_t index)
{
    assert(index < q2_refblock_entries(g));
    switch (g->refcount_order) {
    case 3:
        return block[index];
    case 4:
        return get_be16(block + index * 2);
    case 5:
        return get_be32(block + index * 4);
    case 6:
        return get_be64(block + index * 8);
    default: {
        uint64_t bit = index << g->refcount_order;

        return (uint64_t)(block[bit / 8] >> (bit % 8)) & g->refcount_max;
    }
    }
}

/* The first index from `index` on, below `end`, whose refcount may be other than 0; `end` where there is none. */
static inline uint64_t q2_refcount_skip_zeros(const struct q2_geometry *g, const uint8_t *block, uint64_t index,
                                              uint64_t end)
{
    uint64_t per_word = 64u >> g->refcount_order, word;

    assert(index <= end && end <= q2_refblock_entries(g));
    for (; index < end && index % per_word == 0; index += per_word) {
        memcpy(&word, block + index / per_word * sizeof word, sizeof word);
        if (word != 0)
            return index;
    }
    return index < end ? index : end;
}

/* A word of refcounts that are all 1. */
static inline uint64_t q2_refcount_ones(const struct q2_geometry *g)
{
    static const uint64_t one[] = {~UINT64_C(0), UINT64_C(0x5555555555555555), UINT64_C(0x1111111111111111),
                                   UINT64_C(0x0101010101010101), UINT64_C(0x0001000100010001),
                                   UINT64_C(0x0000000100000001), 1};

    return htobe64(one[g->refcount_order]);
}

/* The first index from `index` on, below `end`, whose refcount may be other than 1; `end` where there is none. */
static inline uint64_t q2_refcount_skip_ones(const struct q2_geometry *g, const uint8_t *block, uint64_t index,
                                             uint64_t end)
{
    uint64_t per_word = 64u >> g->refcount_order, ones = q2_refcount_ones(g), word;

    assert(index <= end && end <= q2_refblock_entries(g));
    for (; index < end && index % per_word == 0; index += per_word) {
        memcpy(&word, block + index / per_word * sizeof word, sizeof word);
        if (word != ones)
            return index;
    }
    return index < end ? index : end;
}

static inline void q2_refcount_set(const struct q2_geometry *g, uint8_t *block, uint64_t index, uint64_t refcount)
{
    assert(index < q2_refblock_entries(g));
    assert(refcount <= g->refcount_max);
    switch (g->refcount_order) {
    case 3:
        block[index] = (uint8_t)refcount;
        break;
    case 4:
        put_be16(block + index * 2, (uint16_t)refcount);
        break;
    case 5:
        put_be32(block + index * 4, (uint32_t)refcount);
        break;
    case 6:
        put_be64(block + index * 8, refcount);
        break;
    default: {
        uint64_t bit = index << g->refcount_order;
        unsigned shift = (unsigned)(bit % 8);
        unsigned byte = block[bit / 8];

        byte = (byte & ~((unsigned)g->refcount_max << shift)) | ((unsigned)refcount << shift);
        block[bit / 8] = (uint8_t)byte;
        break;
    }
    }
}

/* Set `n` refcounts from `index` on to 1, the common case, by whole bytes where the width allows. */
static inline void q2_refcount_fill_one(const struct q2_geometry *g, uint8_t *block, uint64_t index, uint64_t n)
{
    uint64_t per_word = 64u >> g->refcount_order, ones = q2_refcount_ones(g);

    assert(index + n <= q2_refblock_entries(g));
    while (n > 0) {
        if (index % per_word == 0 && n >= per_word) {
            memcpy(block + index / per_word * sizeof ones, &ones, sizeof ones);
            index += per_word;
            n -= per_word;
        } else {
            q2_refcount_set(g, block, index++, 1);
            n--;
        }
    }
}

#endif
