/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Latencies in nanoseconds, in buckets of at most 1/32 of their value: 15 KiB, a handful of instructions per
 * sample, percentiles true to 3 %. Minimum, maximum and mean are exact.
 */
#ifndef TOOLS_HISTOGRAM_H
#define TOOLS_HISTOGRAM_H

#include <stdint.h>

enum { HISTOGRAM_SUB_BITS = 5, HISTOGRAM_SUB = 1 << HISTOGRAM_SUB_BITS };
enum { HISTOGRAM_BUCKETS = (64 - HISTOGRAM_SUB_BITS + 1) * HISTOGRAM_SUB };

struct histogram {
    uint64_t count, sum, min, max; /* min is UINT64_MAX without samples */
    uint64_t buckets[HISTOGRAM_BUCKETS];
};

void histogram_init(struct histogram *h);
void histogram_merge(struct histogram *into, const struct histogram *from);

/* The upper end of the bucket with the sample of this rank (0 to 1), at most the maximum; 0 without samples. */
uint64_t histogram_percentile(const struct histogram *h, double rank);

double histogram_mean(const struct histogram *h);

static inline unsigned histogram_bucket(uint64_t ns)
{
    if (ns < HISTOGRAM_SUB)
        return (unsigned)ns;
    unsigned shift = 63u - (unsigned)__builtin_clzll(ns) - HISTOGRAM_SUB_BITS;
    return ((shift + 1) << HISTOGRAM_SUB_BITS) + (unsigned)((ns >> shift) & (HISTOGRAM_SUB - 1));
}

static inline void histogram_add(struct histogram *h, uint64_t ns)
{
    h->count++;
    h->sum += ns;
    h->min = ns < h->min ? ns : h->min;
    h->max = ns > h->max ? ns : h->max;
    h->buckets[histogram_bucket(ns)]++;
}

#endif
