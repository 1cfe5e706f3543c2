/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A set of host clusters, as pages of a bitmap where there are any. Bounded: what does not fit is not kept, and
 * `overflowed` says that it happened. Pure; under the image's lock.
 */
#ifndef QCOW2_CLUSTER_SET_H
#define QCOW2_CLUSTER_SET_H

#include <stdbool.h>
#include <stdint.h>

enum { Q2_SET_PAGE_BITS = 15, Q2_SET_PAGES = 1024 }; /* 4 KiB each; of 64 KiB clusters a page is 2 GiB */

struct q2_set_place;

struct q2_cluster_set {
    struct q2_set_place *table; /* by hash, open addressing; NULL: empty so far */
    uint32_t             pages, places;
    bool                 overflowed;
};

void q2_cluster_set_add(struct q2_cluster_set *s, uint64_t cluster, uint64_t n);
void q2_cluster_set_remove(struct q2_cluster_set *s, uint64_t cluster, uint64_t n);
/* It will be asked for, or added, soon: many of these first, so that their cache misses overlap. */
void q2_cluster_set_prefetch(const struct q2_cluster_set *s, uint64_t cluster);

bool q2_cluster_set_has(const struct q2_cluster_set *s, uint64_t cluster);
/* The first run of members in [from, end): its start, and its end in *ret_end. `end` when there is none. */
uint64_t q2_cluster_set_next(const struct q2_cluster_set *s, uint64_t from, uint64_t end, uint64_t *ret_end);

void q2_cluster_set_finish(struct q2_cluster_set *s);

#endif
