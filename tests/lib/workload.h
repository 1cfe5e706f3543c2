/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A random workload against the oracle: several requests in flight, writes not overlapping other writes unless
 * asked for, reads checked where no write was in flight with them. It is called as one caller of many does it
 * (tests/lib/caller.h), or on simulated queues that it may share with other workloads of the same thread.
 */
#ifndef TESTS_LIB_WORKLOAD_H
#define TESTS_LIB_WORKLOAD_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/vdisk.h"
#include "tests/lib/caller.h"
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
    bool overlaps; /* writes may overlap: what two touch at once is not checked before it is written again */
    bool faults; /* requests may fail: the model then allows for both */
    bool full;   /* what may need space may fail with ENOSPC; reads and flushes may not */
    bool grows;  /* it has a grower without a thread: who waits may return early */
    /*
     * Several threads: each window is cut into stripes of `stripe` bytes, and this one uses every `stripes`-th,
     * from `stripe_index` on. stripes = 1: all of it.
     */
    uint64_t stripe;
    unsigned stripes, stripe_index;
    vdisk_queue **queues; /* simulated ones, each request on one of them; NULL: a caller with real ones is drawn */
    unsigned nqueues;
    struct model *flushed; /* of models[0]: what is touched becomes MODEL_ANY; may be NULL */

    /* Its own. */
    struct caller caller;
    vdisk_queue *q; /* where the last one went */
    struct slot *slots;
    unsigned inflight;
    uint64_t done[8]; /* requests completed, by kind */
    uint64_t failed;
};

/* Draw the caller, make queues and slots. */
void workload_start(struct workload *w);

/* Issue `steps` random requests; some may be in flight afterwards. */
void workload_run(struct workload *w, unsigned steps);
void workload_step(struct workload *w);

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
