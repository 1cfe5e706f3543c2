/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The front of an image that is written as a stream: what front.c, which lays it out, front_pack.c, for compressed
 * data, and front_map.c, which knows what has data, share.
 */
#ifndef QCOW2_FRONT_H
#define QCOW2_FRONT_H

#include <pthread.h>

#include "qcow2/format/format.h"
#include "qcow2/image/create.h"

/* Of one L1 entry: a bit for each of its guest clusters. */
struct cluster_map {
    uint64_t set;     /* bits that are */
    uint64_t words[];
};

/* Stands for each map of ones only. */
extern struct cluster_map q2_front_full;

/* Up to where streams have been placed, one behind the other. */
struct front_place {
    uint64_t cluster; /* guest: the next one */
    uint64_t end;     /* host offset */
    uint64_t sharers; /* streams that touch the host cluster before `end` */
};

enum { FRONT_DEFLATERS = 64 };

/* What compressed data needs. */
struct front_pack {
    uint16_t           **lengths;   /* for each L1 entry, of each cluster: in granules; 0: no data */
    uint32_t             granule;   /* bytes */
    enum q2_compression  type;
    uint64_t             first;     /* host offset of the data */
    struct front_place   entries, counts, data; /* for L2 entries, refcounts, and the data itself */
    uint64_t             ahead_first, ahead_last; /* host clusters of the stream placed last for `counts` */
    bool                 ahead;

    pthread_mutex_t      lock;      /* of these: */
    struct q2_deflater  *idle[FRONT_DEFLATERS];
    unsigned             idle_count;
};

struct q2_front {
    struct front         front;
    struct create_plan  *plan;
    struct cluster_map **maps;      /* for each L1 entry; NULL: no cluster has data */
    struct cluster_map **zeros;     /* the same of zeros; NULL: there is no backing file */
    struct front_pack   *pack;      /* NULL: data is not compressed */

    uint64_t             read;      /* host offset up to where all has been read */
    uint64_t             l1_entered; /* tables that the L1 table has by now */
    uint64_t             next_map;  /* the L1 entry whose table is read next, or one before it */
    uint64_t             next_host; /* of the next cluster with data */
};

static inline struct q2_create *q2_front_create(const struct q2_front *f)
{
    return container_of(f->plan, struct q2_create, plan);
}

static inline const struct q2_geometry *q2_front_geo(const struct q2_front *f)
{
    return &q2_front_create(f)->layout.geo;
}

/* ---- front_map.c ---------------------------------------------------------------------------------------- */

/* `maps`: f->maps or f->zeros; NULL is allowed. */
void q2_front_free_maps(const struct q2_front *f, struct cluster_map **maps);

static inline bool q2_front_has(const struct q2_front *f, struct cluster_map *const *maps, uint64_t cluster)
{
    const struct cluster_map *m = maps[cluster >> q2_front_geo(f)->l2_bits];
    uint64_t i = cluster & (q2_l2_entries(q2_front_geo(f)) - 1);

    return m && (m == &q2_front_full || m->words[i / 64] >> (i % 64) & 1);
}

/* From guest cluster `cluster` on, the first one that has data, or has none; below `end`, or that. */
uint64_t q2_front_find(const struct q2_front *f, uint64_t cluster, uint64_t end, bool data);

/* Guest cluster `cluster`, which has data, has zeros instead. 0 or -ENOMEM, with text. */
int q2_front_clear(struct q2_front *f, uint64_t cluster);

/* ---- front_pack.c --------------------------------------------------------------------------------------- */

/* How many host clusters the data takes. 0; -EINVAL: the length of one is not known; -EFBIG. */
int q2_pack_measure(struct q2_front *f, uint64_t *ret_clusters);

/* The data begins at `first`. */
void q2_pack_begin(struct q2_front *f, uint64_t first);

/* The L2 entry of the next cluster with data, which is `cluster`. */
struct q2_l2_entry q2_pack_entry(struct q2_front *f, uint64_t cluster);

/* The refcount of the next host cluster with data. */
uint64_t q2_pack_count(struct q2_front *f, uint64_t host_cluster);
void q2_pack_end(struct q2_front *f);

#endif
