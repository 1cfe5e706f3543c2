/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tools/histogram.h"

#include <string.h>

#include "tools/arith.h"

void histogram_init(struct histogram *h)
{
    memset(h, 0, sizeof *h);
    h->min = UINT64_MAX;
}

void histogram_merge(struct histogram *into, const struct histogram *from)
{
    into->count += from->count;
    into->sum += from->sum;
    into->min = min_u64(into->min, from->min);
    into->max = max_u64(into->max, from->max);
    for (unsigned i = 0; i < HISTOGRAM_BUCKETS; i++)
        into->buckets[i] += from->buckets[i];
}

/* The largest value that falls into bucket i. */
static uint64_t bucket_end(unsigned i)
{
    unsigned shift = i >> HISTOGRAM_SUB_BITS;

    if (shift == 0)
        return i;
    shift--;
    /* In this order the last bucket comes to 2^64 - 1. */
    return (((uint64_t)(HISTOGRAM_SUB + (i & (HISTOGRAM_SUB - 1))) << shift) - 1) + (UINT64_C(1) << shift);
}

uint64_t histogram_percentile(const struct histogram *h, double rank)
{
    uint64_t wanted = (uint64_t)(rank * (double)h->count);
    uint64_t seen = 0;

    if (h->count == 0)
        return 0;
    if (wanted >= h->count)
        return h->max;
    for (unsigned i = 0; i < HISTOGRAM_BUCKETS; i++) {
        seen += h->buckets[i];
        if (seen > wanted)
            return max_u64(min_u64(bucket_end(i), h->max), h->min);
    }
    return h->max;
}

double histogram_mean(const struct histogram *h)
{
    return h->count == 0 ? 0.0 : (double)h->sum / (double)h->count;
}
