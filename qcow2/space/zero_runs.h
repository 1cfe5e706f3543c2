/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Free host clusters that are known to read as zeros: punched, or leased and never written. A hint, bounded: what
 * does not fit is forgotten. Pure; under the image's lock.
 *
 * Invariants.
 *  1. Runs are sorted by cluster, do not meet, and are not empty.
 *  2. All clusters in them are free (refcount 0): who takes one takes it out.
 */
#ifndef QCOW2_ZERO_RUNS_H
#define QCOW2_ZERO_RUNS_H

#include <stdbool.h>
#include <stdint.h>

enum { Q2_ZERO_RUNS = 256 };

struct q2_zero_run {
    uint64_t start, end; /* cluster indices */
};

struct q2_zero_runs {
    unsigned           count;
    struct q2_zero_run run[Q2_ZERO_RUNS];
};

/* Clusters [start, end), none of which is in a run. */
void q2_zero_runs_add(struct q2_zero_runs *z, uint64_t start, uint64_t end);

/* Clusters [start, end) are no longer free, or no longer zero. */
void q2_zero_runs_remove(struct q2_zero_runs *z, uint64_t start, uint64_t end);

/* How many of `n` > 0 clusters from `start` on are alike: all zero (*ret_zero), or all not known to be. */
uint64_t q2_zero_runs_alike(const struct q2_zero_runs *z, uint64_t start, uint64_t n, bool *ret_zero);

#endif
