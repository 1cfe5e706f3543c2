/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Counts of references to host clusters, for check. Two bytes for each cluster of a page in which any is
 * referenced; what does not fit goes to a hash table. And the L2 tables found, each once. Pure.
 */
#ifndef QCOW2_CHECK_REFS_H
#define QCOW2_CHECK_REFS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* What a cluster is used for. Those of data, compressed data and L2 tables may have several references. */
enum q2_use {
    Q2_USE_NONE,
    Q2_USE_HEADER,
    Q2_USE_REFTABLE,
    Q2_USE_REFBLOCK,
    Q2_USE_L1,
    Q2_USE_L2,
    Q2_USE_DATA,
    Q2_USE_COMPRESSED,
    Q2_USE_SNAPSHOTS,
    Q2_USE_BITMAPS,
    Q2_USE_L2_AND_DATA, /* an L2 table, which guest data points to */
    Q2_USE_MIXED,       /* for two other things that exclude each other */
};

static inline bool q2_use_is_mixed(enum q2_use use)
{
    return use == Q2_USE_L2_AND_DATA || use == Q2_USE_MIXED;
}

const char *q2_use_name(enum q2_use use);

/* Memory that a check may use, and does. */
struct q2_budget {
    uint64_t used;
    uint64_t max;
};

/* calloc() under the budget; NULL when it is spent. */
void *q2_budget_alloc(struct q2_budget *b, uint64_t n, uint64_t size);
void  q2_budget_free(struct q2_budget *b, void *p, uint64_t n, uint64_t size);

enum {
    Q2_REFS_PAGE_BITS = 12, /* log2 of clusters per page: 8 KiB */
    Q2_REFS_PAGE = 1 << Q2_REFS_PAGE_BITS,
};

struct q2_refs_over {
    uint64_t cluster_plus_1; /* 0: free */
    uint64_t count;
};

struct q2_refs {
    struct q2_budget    *budget;
    uint64_t             clusters;
    uint64_t             pages_count;
    uint16_t           **pages; /* use in the high 4 bits, count in the others; all ones: see `over` */
    struct q2_refs_over *over;
    uint64_t             over_max, over_count;
};

int  q2_refs_init(struct q2_refs *r, struct q2_budget *budget, uint64_t clusters); /* 0 or -ENOMEM */
void q2_refs_finish(struct q2_refs *r);

struct q2_refs_added {
    enum q2_use before; /* what it was used for until now */
    uint64_t    excess; /* references that did not fit under `max` */
};

/*
 * Add `n` references to a cluster, up to `max` in all. A use that goes ill with the one it has makes it
 * Q2_USE_MIXED, or Q2_USE_L2_AND_DATA. 0 or -ENOMEM.
 */
int q2_refs_add(struct q2_refs *r, uint64_t cluster, enum q2_use use, uint64_t n, uint64_t max,
                struct q2_refs_added *ret);

uint64_t    q2_refs_count(const struct q2_refs *r, uint64_t cluster);
enum q2_use q2_refs_use(const struct q2_refs *r, uint64_t cluster);

/* No cluster of [first, end) is referenced? May say no although it is so. */
bool q2_refs_none(const struct q2_refs *r, uint64_t first, uint64_t end);

/* The first cluster from `cluster` on that is referenced; r->clusters: none. */
uint64_t q2_refs_next(const struct q2_refs *r, uint64_t cluster);

/* One past the last cluster that is referenced; 0: none is. */
uint64_t q2_refs_end(const struct q2_refs *r);

/* ---- L2 tables -------------------------------------------------------------------------------------- */

struct q2_l2_table {
    uint64_t host_offset; /* 0: free slot */
    uint32_t refs;        /* L1 entries that point to it */
    uint32_t active_refs; /* of these, in the active L1 table */
    uint32_t l1_index;    /* of one of them, an active one if there is any */
};

struct q2_l2_set {
    struct q2_budget   *budget;
    struct q2_l2_table *tables; /* hash table; after q2_l2_set_sort(), `count` tables by offset */
    uint64_t            count, max;
};

/* A zeroed set with its budget is an empty one. 0 or -ENOMEM. */
int  q2_l2_set_add(struct q2_l2_set *s, uint64_t host_offset, bool active, uint32_t l1_index);
void q2_l2_set_sort(struct q2_l2_set *s); /* nothing can be added afterwards */
void q2_l2_set_finish(struct q2_l2_set *s);

#endif
