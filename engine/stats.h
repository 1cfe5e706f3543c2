/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Counters. Each is changed by one thread at a time, by a plain store that any thread may read: no lock, no
 * shared cache line. Requests are counted by pairs of queue and volume (engine/loop/pair.h).
 */
#ifndef ENGINE_STATS_H
#define ENGINE_STATS_H

#include <assert.h>
#include <stdatomic.h>
#include <stdint.h>

#include "engine/base/bits.h"
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

_Static_assert(sizeof(stat_count) == sizeof(uint64_t), "one store, and no lock");

struct kind_stats {
    stat_count ended[2]; /* [1]: reads and writes whose mapping was at hand; [0]: all others */
    stat_count bytes, errors;
};

/* By enum request_kind. */
struct request_stats {
    struct kind_stats kind[VDISK_REQUEST_KINDS];
};

static inline void stats_add(struct request_stats *to, const struct request_stats *from)
{
    for (unsigned i = 0; i < VDISK_REQUEST_KINDS; i++) {
        stat_add(&to->kind[i].ended[0], stat_get(&from->kind[i].ended[0]));
        stat_add(&to->kind[i].ended[1], stat_get(&from->kind[i].ended[1]));
        stat_add(&to->kind[i].bytes, stat_get(&from->kind[i].bytes));
        stat_add(&to->kind[i].errors, stat_get(&from->kind[i].errors));
    }
}

static inline void stats_clear(struct request_stats *s)
{
    for (unsigned i = 0; i < VDISK_REQUEST_KINDS; i++) {
        atomic_store_explicit(&s->kind[i].ended[0], 0, memory_order_relaxed);
        atomic_store_explicit(&s->kind[i].ended[1], 0, memory_order_relaxed);
        atomic_store_explicit(&s->kind[i].bytes, 0, memory_order_relaxed);
        atomic_store_explicit(&s->kind[i].errors, 0, memory_order_relaxed);
    }
}

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
    assert(kind < VDISK_REQUEST_KINDS);
    stat_add(&l->kind[kind].count, 1);
    stat_add(&l->kind[kind].sum_ns, ns);
    stat_add(&l->kind[kind].bucket[latency_bucket(ns)], 1);
    if (ns > stat_get(&l->kind[kind].max_ns))
        atomic_store_explicit(&l->kind[kind].max_ns, ns, memory_order_relaxed);
}

#endif
