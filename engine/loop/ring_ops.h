/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a queue needs of its ring, for rings that are not the kernel's (backends/lab/sim.c). A queue without
 * ring_ops calls engine/loop/ring.c directly.
 */
#ifndef ENGINE_RING_OPS_H
#define ENGINE_RING_OPS_H

#include "engine/base/clock.h"
#include "engine/loop/io.h"

struct call;
struct queue_host;

struct ring_ops {
    /* A queue has been made, or is about to go. `attach` gives it its number; -ENOMEM. */
    int  (*attach)(struct queue_host *host, vdisk_queue *q, uint32_t *ret_id);
    void (*detach)(struct queue_host *host, vdisk_queue *q);

    /* Run what has completed; how many. Context: the loop. */
    unsigned (*reap)(vdisk_queue *q);

    /* Until there is something for queue_turn(): 0, or -ETIME after `timeout` (NULL: none). Not in the loop. */
    int (*wait)(vdisk_queue *q, const struct timespec *timeout);

    /* Make the call io->blocking(io), and end the I/O with its result. Context: the queue's thread. */
    void (*work)(struct io *io);

    /*
     * Make the call, which ends by call_end(); false: there is no such thing there. NULL: there are no calls at
     * all. And: it need not be waited for. Context: the queue's thread.
     */
    bool (*call)(struct call *c);
    void (*cancel)(struct call *c);
};

/* Where queues live that are not the kernel's. */
struct queue_host {
    const struct ring_ops *ops;
    const struct clock    *clock;
    bool                   sockets; /* calls on them can be made */
    vdisk_queue           *sync; /* for synchronous calls within it; NULL: none yet. The host destroys it */
};

/* Queues that this thread makes get this host; NULL: the kernel. */
extern _Thread_local struct queue_host *queue_host;

#endif
