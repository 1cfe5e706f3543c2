/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A pair is a queue and a volume that has had requests on it: what such a request looks at and counts in lies
 * together, and only the queue's thread writes it.
 *
 * Invariants.
 *  1. A queue's list is walked by its owner alone without the lock; it is added to under the lock. Who closes a
 *     volume takes nothing off it: a pair without a volume is used again, or goes with the queue.
 *  2. What a pair has counted is in the totals of both, at every moment that the lock is free: with whichever goes
 *     first the counts move to the other.
 *  3. `number` is that of the volume, which no other ever has: a pair whose number is a volume's is that one's.
 */
#ifndef ENGINE_PAIR_H
#define ENGINE_PAIR_H

#include <stddef.h>

#include "engine/loop/gate.h"
#include "engine/stats.h"

enum { PAIR_BUCKETS = 16 };

struct pair {
    uint64_t              number;
    struct gate_slot     *slot;      /* of the volume's gate for requests */
    struct latency_stats *latency;   /* the queue's; NULL: it is not measured */
    struct pair          *next;      /* of the queue's bucket */
    struct request_stats  stats;     /* reads share the cache line with what is before them */
    vdisk_queue          *queue;     /* from here on with the lock */
    vdisk                *volume;    /* NULL: it is gone */
    struct pair          *of_volume; /* the next of its list */
} __attribute__((aligned(64)));

_Static_assert(offsetof(struct pair, stats.kind[VDISK_REQUEST_READ]) + sizeof(struct kind_stats) <= 64,
               "reads share the cache line with what is before them");

/* It is no volume's. */
extern struct pair pair_none;

/* The pair, made if there is none. NULL: out of memory. Context: the queue's thread; not the fast path. */
struct pair *pair_of(vdisk_queue *q, vdisk *v);

/* The queue, or the volume, goes. Nothing of either is in flight. */
void pairs_queue_goes(vdisk_queue *q);
void pairs_volume_goes(vdisk *v);

/* A forked child has begun: a thread of the parent may have held the lock. */
void pairs_in_child(void);

/* Add up what requests there have been. Any thread. */
void pairs_of_queue(const vdisk_queue *q, struct request_stats *ret);
void pairs_of_volume(const vdisk *v, struct request_stats *ret);

#endif
