/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Bytes for compressed clusters: several of these lie in one host cluster, one behind the other, and each has a
 * reference to all host clusters that it touches.
 */
#ifndef QCOW2_BYTES_H
#define QCOW2_BYTES_H

#include "qcow2/space/state.h"

enum q2_bytes_result {
    Q2_BYTES_TAKEN,
    Q2_BYTES_NEED_LEASE,     /* q2_lease_fill() first */
    Q2_BYTES_NEED_REFCOUNTS, /* q2_refcount_load() of *ret_key first */
    Q2_BYTES_REFUSED,        /* the image contradicts itself: -EIO */
};

/*
 * Take `len` bytes, less than a cluster, behind those that the queue took last, where they can be; else at the
 * start of a cluster of its lease. With the lock held. No I/O.
 */
enum q2_bytes_result q2_bytes_take(struct q2_space *space, const vdisk_queue *queue, uint64_t len,
                                   uint64_t *ret_host_offset, uint64_t *ret_key);

/*
 * What the queue took last ends at `end`: what is next begins at a multiple of `step`, a power of two up to a
 * cluster. Returns how many bytes are left out, the caller's to write; 0 also where more was taken since. With
 * the lock held.
 */
uint64_t q2_bytes_round_up(struct q2_space *space, const vdisk_queue *queue, uint64_t end, uint64_t step);

/* Taken, but never referred to (the write failed). With the lock held. */
void q2_bytes_return(struct q2_space *space, uint64_t host_offset, uint64_t len);

#endif
