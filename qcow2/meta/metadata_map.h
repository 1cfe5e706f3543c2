/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Which host clusters are metadata. Pure; under the image's lock.
 *
 * Single clusters (L2 tables, refcount blocks) are in a hash table of one word each, what else is longer in a list
 * of runs. A filter of one bit for 64 clusters answers for most of what is asked, since tables lie far apart.
 *
 * Bounded: 64 MiB of table, for six million clusters; what does not fit is not known (`overflowed`).
 */
#ifndef QCOW2_METADATA_MAP_H
#define QCOW2_METADATA_MAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum q2_meta_kind {
    Q2_META_HEADER = 1u << 0,
    Q2_META_L1 = 1u << 1,
    Q2_META_REFTABLE = 1u << 2,
    Q2_META_REFBLOCK = 1u << 3,
    Q2_META_L2 = 1u << 4,        /* of the active L1 table */
    Q2_META_SNAPSHOTS = 1u << 5, /* the snapshot table, and the L1 tables of snapshots */
    Q2_META_SNAPSHOT_L2 = 1u << 6,
    Q2_META_BITMAPS = 1u << 7, /* the directory, tables and bits */
    Q2_META_TWICE = 1u << 8,   /* two L1 entries, or two of the refcount table, point here */
    Q2_META_NAMES = 9,         /* bits with a name */
};

enum { Q2_META_FILTER_BITS = 1 << 16, Q2_META_PLACES_MAX = 1 << 23 };

struct q2_meta_run {
    uint64_t start, end;
    uint64_t reach; /* the largest `end` of this and all before */
    uint32_t kind;
};

struct q2_meta_map {
    uint64_t *place; /* cluster << 16 | kinds; 0: empty */
    uint64_t places, used;
    struct q2_meta_run *run; /* by start, if `sorted` */
    size_t runs, runs_max;
    bool sorted, overflowed;
    uint64_t filter[Q2_META_FILTER_BITS / 64];
};

/* Clusters [cluster, cluster + n), n > 0, are of this kind, too. */
void q2_meta_add(struct q2_meta_map *m, uint64_t cluster, uint64_t n, uint32_t kind);

/*
 * They are not any more; as they were added, but for L2 tables, which may go one by one: of what was added twice
 * one is left.
 */
void q2_meta_remove(struct q2_meta_map *m, uint64_t cluster, uint64_t n, uint32_t kind);

/* What of [cluster, cluster + n) is: enum q2_meta_kind; 0: nothing. *ret_where: the first that is. */
uint32_t q2_meta_find(struct q2_meta_map *m, uint64_t cluster, uint64_t n, uint64_t *ret_where);

/* All that one cluster is. */
uint32_t q2_meta_kinds(struct q2_meta_map *m, uint64_t cluster);

/* "the L1 table", ... of the lowest bit. */
const char *q2_meta_name(uint32_t kinds);

void q2_meta_finish(struct q2_meta_map *m);

#endif
