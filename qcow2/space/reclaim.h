/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Giving freed clusters back: their host space to the host, then the clusters to the allocator. See reclaim.c. */
#ifndef QCOW2_RECLAIM_H
#define QCOW2_RECLAIM_H

#include "qcow2/space/state.h"

/*
 * Give back all that has waited long enough (flush rules 5 and 8); as the call of an await. op->rc: 0, or of
 * loading refcounts: what is left stays for the next time.
 */
void q2_reclaim(struct q2_space *space, struct op *op);

/* One that goes on beside an op, on the same queue, and that the op waits for before it ends. */
struct q2_carried {
    bool       running;
    bool       hurry;  /* the op has nothing else to do */
    uint64_t   left;   /* runs that it still waits for */
    struct op *waiter;
};

/* Start one, if there is something to give back and nobody is at it. */
void q2_reclaim_carry(struct q2_space *space, vdisk_queue *queue, struct q2_carried *c);

/* Let it come to an end after a share of what there is; the call of an await, while c->running. */
void q2_reclaim_join(struct q2_space *space, struct q2_carried *c, struct op *op);

#endif
