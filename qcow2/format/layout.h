/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The plan of a new image: what lies where, and the bytes of its metadata. Pure.
 *
 *     header | refcount table | refcount blocks | L1 table | L2 tables | data
 *
 * Each part is contiguous and starts at a cluster. L2 tables are there when clusters are preallocated; data then
 * too, unless it goes to an external data file.
 *
 * And of a piece that is appended to an image, with clusters for guest data that has none yet:
 *
 *     refcount blocks | L2 tables | data
 */
#ifndef QCOW2_LAYOUT_H
#define QCOW2_LAYOUT_H

#include "qcow2/format/geometry.h"

/* What the L2 entries say. */
enum q2_layout_map {
    Q2_MAP_NONE,   /* no L2 tables: all unallocated */
    Q2_MAP_NORMAL, /* allocated: the data area reads as zeros */
    Q2_MAP_ZERO,   /* space is kept, but reads as zeros whatever the data area holds (not in version 2) */
    Q2_MAP_KEPT,   /* space is kept, reads go to the backing file (extended L2 entries only) */
    Q2_MAP_SOME,   /* what the caller says, who fills L1 and L2 tables himself */
};

struct q2_layout {
    struct q2_geometry geo;
    uint64_t first_cluster;     /* where it begins on the host: 0, but for an appended piece */
    enum q2_layout_map map;
    uint64_t size;              /* virtual size */
    uint64_t guest_clusters;
    uint64_t reftable_offset;
    uint64_t reftable_clusters;
    uint64_t refblocks_offset;
    uint64_t refblocks;
    uint64_t l1_offset;
    uint64_t l1_entries;
    uint64_t l1_clusters;
    uint64_t l2_offset;
    uint64_t l2_tables;
    uint64_t data_offset;       /* end of the metadata */
    uint64_t data_clusters;     /* 0 with an external data file */
    uint64_t total_clusters;    /* all have refcount 1 */
};

/* Where it ends on the host: the length of a new file. */
static inline uint64_t q2_layout_end(const struct q2_layout *l)
{
    return (l->first_cluster + l->total_clusters) << l->geo.cluster_bits;
}

/* 0, or -EFBIG with an error text: the size, or its metadata, is more than the format or QEMU allow. */
int q2_layout_plan(const struct q2_geometry *geo, uint64_t size, enum q2_layout_map map, const char *name,
                   struct q2_layout *ret);

/*
 * The same of an image of which so many tables and host clusters of data are known to be needed, no more of which
 * there are than its size has. All host clusters have refcount 1.
 */
int q2_layout_some(const struct q2_geometry *geo, uint64_t size, uint64_t l2_tables, uint64_t data_clusters,
                   const char *name, struct q2_layout *ret);

/*
 * The length of an image of `size` bytes, whole clusters, that has L2 tables and data for all of it, as qemu-img
 * measure counts. 0, or -EFBIG with an error text: its L1 table would be too large.
 */
int q2_layout_measure(const struct q2_geometry *geo, uint64_t size, const char *name, uint64_t *ret);

enum { Q2_APPEND_TABLES = 1 << 15, Q2_APPEND_BYTES = 256 << 20 };

/*
 * How many refcount blocks describe a piece with this many guest clusters, and itself.
 */
uint64_t q2_append_blocks(const struct q2_geometry *geo, uint64_t guest_clusters);

/*
 * An appended piece: from host cluster `first_cluster` on, where a refcount block's range begins, for up to
 * `guest_clusters` of guest data from where an L2 table begins; in whole tables, but for the last ones. At most
 * `blocks` blocks, Q2_APPEND_TABLES tables, and Q2_APPEND_BYTES bytes of them. False: not one table has room. Not
 * with an external data file.
 */
bool q2_layout_append(const struct q2_geometry *geo, uint64_t guest_clusters, uint64_t first_cluster,
                      uint64_t blocks, struct q2_layout *ret);

/*
 * The bytes of [host_offset, host_offset + len) of the file, both multiples of the cluster size, between the
 * header cluster (or where the piece begins) and data_offset; Q2_MAP_SOME: and l1_offset. All of `buf` is set.
 */
void q2_layout_fill(const struct q2_layout *l, uint64_t host_offset, uint8_t *buf, uint64_t len);

#endif
