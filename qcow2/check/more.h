/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Clusters that are to be had beside a new refcount structure: wanted, then got, in the same order. Pure. */
#ifndef QCOW2_MORE_H
#define QCOW2_MORE_H

#include <stdbool.h>
#include <stdint.h>

/* So many clusters, each with so many references. */
struct q2_more_want {
    uint64_t n, refs;
};

/* Clusters [start, end). */
struct q2_more_run {
    uint64_t start, end, refs;
};

/* A zeroed one is empty. */
struct q2_more {
    struct q2_more_want *wants;
    uint64_t             wants_count, wants_max;
    struct q2_more_run  *runs; /* ascending */
    uint64_t             runs_count, runs_max;
    uint64_t             next_run, next; /* q2_more_take() */
};

void q2_more_finish(struct q2_more *m);

/* One more is wanted; one more was found, behind all others. 0 or -ENOMEM. */
int q2_more_want(struct q2_more *m, uint64_t refs);
int q2_more_got(struct q2_more *m, uint64_t cluster, uint64_t refs);

/* Those found, one after the other; there is one left. */
uint64_t q2_more_take(struct q2_more *m, uint64_t refs);

/* The first run that ends behind `cluster`; runs_count: none. And is it one of them? */
uint64_t q2_more_find(const struct q2_more *m, uint64_t cluster);
bool     q2_more_has(const struct q2_more *m, uint64_t cluster);

#endif
