/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Who calls the library: how he waits, how much he takes at a time, how many queues of which kind he has, and what
 * else he does in between. Drawn by seed, so that each test that has requests in flight meets all of them. A wait
 * of CALLER_PATIENCE_S is a failure, with what is under way printed.
 */
#ifndef TESTS_LIB_CALLER_H
#define TESTS_LIB_CALLER_H

#include <stdbool.h>

#include "engine/vdisk.h"
#include "tests/lib/rng.h"

enum { CALLER_QUEUES = 2, CALLER_PATIENCE_S = 10 };

enum caller_way {
    CALLER_REAPS_ONE,  /* reap(1) */
    CALLER_REAPS_ALL,  /* reap(n): what is in flight, as far as there is room for it */
    CALLER_TIMES_OUT,  /* reap(1) with short timeouts */
    CALLER_POLLS,      /* reap(0) when poll() says so */
    CALLER_EPOLLS,     /* the same by epoll, level-triggered */
    CALLER_EPOLLS_EDGE, /* edge-triggered */
    CALLER_SPINS,      /* submit, reap(0), again and again */
    CALLER_WAYS
};

struct caller {
    enum caller_way way;
    unsigned budget; /* most completions a call */
    enum vdisk_queue_kind kind;
    unsigned nqueues;
    bool computes; /* leaves the library between turns */
    bool sync;     /* makes synchronous calls in between */
    bool late_fd;  /* asks for descriptors when there are requests already */
    bool grows;    /* a grower without a thread is called from here: a wait may return early */

    /* Its own. */
    struct rng rng;
    vdisk_queue *queues[CALLER_QUEUES];
    int epoll;     /* -1: none, or not yet */
};

/* Of any sort. */
void caller_draw(struct caller *c, struct rng *r);

/* As a note for failures; good until the next call on this thread. */
const char *caller_describe(const struct caller *c);

/* Make the queues. What the kernel has not, the caller does without. */
void caller_start(struct caller *c, unsigned depth);
void caller_finish(struct caller *c);

/* Something has been enqueued: send it, or leave that to the next turn. */
void caller_send(struct caller *c);

/*
 * Take completions of one queue: up to `max`, at least one if `wait`. Returns how many; none without `wait`, or
 * when nothing is in flight.
 */
unsigned caller_take(struct caller *c, bool wait, struct vdisk_completion *out, unsigned max,
                     vdisk_queue **ret_queue);

/* Between turns: compute, or use `v` synchronously. False: a call failed. */
bool caller_pause(struct caller *c, vdisk *v);

/*
 * From `begin` to `end` this thread waits in the library, or for it: when that takes too long the case fails. A
 * thread may do one thing at a time.
 */
void caller_wait_begin(const char *what);
void caller_wait_end(void);

#endif
