/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Clusters that two L2 entries lead to, though one of these says that it has its cluster alone. What is known of
 * that is known from slices as they come into the cache, so that mapped requests pay nothing.
 *
 * Invariants.
 *  1. A cluster that is known to be such is not written to: a write through either entry gets one of its own. It
 *     is never freed, so nothing punches it or gives it to others: it leaks.
 *  2. Slices in the cache with an entry that leads to one are suspect, and not kept as one word.
 *  3. What a slice has when it is first read is as it was when the image was opened: `judged` has all that were
 *     read, or made here.
 */
#ifndef QCOW2_TWICE_H
#define QCOW2_TWICE_H

#include "qcow2/meta/state.h"

/* All with the lock held. */

/* A slice is judged for the first time: entries lead to [cluster, cluster + n), and say that they do so alone. */
void q2_twice_note(struct q2_meta *meta, uint64_t cluster, uint64_t n);

/* After all entries of a slice have been noted: those in the cache that lead to the same become suspect. */
void q2_twice_spread(struct q2_meta *meta);

/* Slices [key, key + n) have been judged, or made: what they have from now on is ours. */
static inline void q2_twice_judged(struct q2_meta *meta, uint64_t key, uint64_t n)
{
    assert_locked(&meta->lock);
    if (meta->guarded)
        q2_cluster_set_add(&meta->judged, key, n);
}

static inline bool q2_twice_has(const struct q2_meta *meta, uint64_t cluster)
{
    assert_locked(&meta->lock);
    return meta->twice.pages > 0 && q2_cluster_set_has(&meta->twice, cluster);
}

/* Is there one in the range? */
static inline bool q2_twice_meets(const struct q2_meta *meta, uint64_t cluster, uint64_t n)
{
    uint64_t stop;

    assert_locked(&meta->lock);
    return meta->twice.pages > 0 && q2_cluster_set_next(&meta->twice, cluster, cluster + n, &stop) < cluster + n;
}

#endif
