/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Counters. Each is changed by one thread at a time, by a plain store that any thread may read: no lock, no
 * shared cache line. A volume has a set for each queue, found by its number as the gate's slots are; queues that
 * share one, when there are more, may lose counts to each other.
 */
#ifndef ENGINE_STATS_H
#define ENGINE_STATS_H

#include <stdatomic.h>
#include <stdint.h>

#include "engine/bits.h"
#include "engine/vdisk.h"

typedef _Atomic uint64_t stat_count;

static inline void stat_add(stat_count *c, uint64_t n)
{
    atomic_store_explicit(c, atomic_load_explicit(c, memory_order_relaxed) + n, memory_order_relaxed);
}

static inline uint64_t stat_get(const stat_count *c)
{
    return atomic_load_explicit(c, memory_order_relaxed);
}

struct kind_stats {
    stat_count requests, bytes, errors;
    stat_count direct; /* READ, WRITE: whose mapping was at hand */
};

/* By enum request_kind. */
struct request_stats {
    struct kind_stats kind[VDISK_REQUEST_KINDS];
} __attribute__((aligned(64)));

/* What a layer counts beside requests; under a lock of the format's, or by atomic_fetch_add(). */
struct layer_stats {
    stat_count cache_misses, allocations, flushes, flushes_shared;
};

/* Of a queue that measures. */
struct latency_stats {
    struct {
        stat_count count, sum_ns, max_ns;
        stat_count bucket[VDISK_LATENCY_BUCKETS];
    } kind[VDISK_REQUEST_KINDS];
};

static inline unsigned latency_bucket(uint64_t ns)
{
    unsigned shift = ns < 8 ? 0 : log2_floor(ns) - 2;

    return (unsigned)min_u64(4 * shift + (ns >> shift), VDISK_LATENCY_BUCKETS - 1);
}

/* A request of `kind` has taken so long. Context: the queue's thread. */
static inline void latency_note(struct latency_stats *l, unsigned kind, uint64_t ns)
{
    stat_add(&l->kind[kind].count, 1);
    stat_add(&l->kind[kind].sum_ns, ns);
    stat_add(&l->kind[kind].bucket[latency_bucket(ns)], 1);
    if (ns > stat_get(&l->kind[kind].max_ns))
        atomic_store_explicit(&l->kind[kind].max_ns, ns, memory_order_relaxed);
}

#endif
