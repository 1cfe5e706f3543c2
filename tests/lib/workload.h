/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A random workload on one queue against the oracle: several requests in flight, writes never overlapping other
 * writes, reads checked where no write was in flight with them.
 */
#ifndef TESTS_LIB_WORKLOAD_H
#define TESTS_LIB_WORKLOAD_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/vdisk.h"
#include "tests/lib/image.h"
#include "tests/lib/model.h"
#include "tests/lib/rng.h"

struct slot;

struct workload {
    /* Set by the caller. */
    vdisk *v;
    struct rng rng;
    struct model *models; /* windows of the volume that are in use */
    unsigned nmodels;
    unsigned depth; /* most requests in flight */
    uint64_t unit;  /* lengths and edges cluster around multiples of this */
    uint64_t max_len;
    bool read_only;
    bool faults; /* requests may fail: the model then allows for both */
    /*
     * Several threads: each window is cut into stripes of `stripe` bytes, and this one uses every `stripes`-th,
     * from `stripe_index` on. stripes = 1: all of it.
     */
    uint64_t stripe;
    unsigned stripes, stripe_index;
    enum vdisk_queue_kind queue_kind;

    /* Its own. */
    vdisk_queue *q;
    struct slot *slots;
    unsigned inflight;
    uint64_t done[8]; /* requests completed, by kind */
    uint64_t failed;
};

/* Make the queue and the slots. */
void workload_start(struct workload *w);

/* Issue `steps` random requests; some may be in flight afterwards. */
void workload_run(struct workload *w, unsigned steps);

/* Wait for all. */
void workload_drain(struct workload *w);

/* Drain, and free. The volume stays open. */
void workload_finish(struct workload *w);

/* Read the windows whole, in pieces, and compare; what was loose is pinned. Synchronous. */
void workload_verify(vdisk *v, struct model *models, unsigned nmodels);

/*
 * Windows of a volume of `size` bytes: the whole when it is small, else a few, its end among them. Allocated with
 * model_init(). Returns how many.
 */
unsigned workload_windows(struct rng *r, uint64_t size, struct model *ret_models, unsigned max);

#endif
