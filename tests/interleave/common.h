/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the programs share: queues without a kernel, and ops that wait. */
#ifndef TESTS_INTERLEAVE_COMMON_H
#define TESTS_INTERLEAVE_COMMON_H

#include "engine/loop/gate.h"
#include "engine/loop/queue.h"
#include "tests/interleave/scheduler.h"

/* All programs. */
extern const struct program gate_users, gate_drains, range_locks, range_given_up;
extern const struct program slice_change, slice_failing, slice_reload;
extern const struct program flat_taken;
extern const struct program flush_groups, flush_failing;
extern const struct program leases, leases_back;
extern const struct program service_two, service_later, service_refused, close_busy, steps_out;
extern const struct program post_threads, post_ring, post_sleep, post_gather;

/*
 * A queue with the number `id` that sleeps in the scheduler: until something is posted to it. The thread that uses
 * it first is its owner.
 */
vdisk_queue *quiet_queue(uint32_t id);

/* An op that waits, and keeps what came. */
struct waiter {
    struct op op;
    unsigned  woken;
    int       rc;
};

/* The call of its await comes next. The thread works for that queue from here on. */
void waiter_init(struct waiter *w, vdisk_queue *q);

/* Turn its queue until it has been woken; its rc. Woken twice is a failure. */
int waiter_await(struct waiter *w);

#endif
