/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Leases: runs of host clusters that a queue has taken with one change of refcounts, to hand out one by one.
 *
 * Invariants.
 *  1. A leased cluster has a refcount of one in memory from the start of the lease; alloc.h, invariant 1 follows.
 *  2. No two leases meet: each comes out of q2_alloc().
 *  3. What a lease says is zero was never written to since it became zero, and its place in the file is there.
 */
#ifndef QCOW2_LEASE_H
#define QCOW2_LEASE_H

#include "qcow2/space/alloc.h"

/*
 * 1 to `want` neighbouring clusters from the queue's lease. False: it is used up, q2_lease_fill(). With the lock
 * held. No I/O.
 */
bool q2_lease_take(struct q2_space *space, const vdisk_queue *queue, uint64_t want, struct q2_run *ret);

/* Fill the lease of op's queue, unless it has something; as the call of an await. Errors as q2_alloc(). */
void q2_lease_fill(struct q2_space *space, struct op *op);

/*
 * With the lock held: the next one is of two MiB, or clusters, at most, for those who take slowly: so little lies
 * unused between what they have taken and what comes behind it.
 */
void q2_lease_keep_short(struct q2_space *space, const vdisk_queue *queue);

/* Give back what all leases still have, so that others can have it. With the lock held. */
void q2_lease_return_all(struct q2_space *space);

/* The same of those that have something to which an entry leads that has been read since: guard.h. */
void q2_lease_return_mapped(struct q2_space *space);

#endif
