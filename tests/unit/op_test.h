/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the tests of ops, locks and gates share: an op that waits for a wake and keeps what came. */
#ifndef TESTS_UNIT_OP_TEST_H
#define TESTS_UNIT_OP_TEST_H

#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/base/bits.h"
#include "engine/loop/queue.h"

struct waiter {
    struct op op;
    unsigned  woken;
    int       rc;
    unsigned  turn; /* the how manyth wake of all that was */
};

enum waiter_state { WAITER_START = OP_START, WAITER_WOKEN };

static unsigned wakes;

static inline void waiter_step(struct op *op)
{
    struct waiter *w = container_of(op, struct waiter, op);

    w->woken++;
    w->rc = op->rc;
    w->turn = ++wakes;
}

OP_TYPE(waiter, waiter_step, "START", "WAITER_WOKEN");

/* An op that waits: the call of its await comes next. */
static inline void waiter_init(struct waiter *w, vdisk_queue *q)
{
    memset(w, 0, sizeof *w);
    op_init(&w->op, q, &waiter_type);
    op_suspend(&w->op, WAITER_WOKEN);
}

/* Run all that is ready, and what that makes ready. */
static inline void run_all_ready(vdisk_queue *q)
{
    while (queue_turn(q))
        ;
}

static inline vdisk_queue *op_test_queue(void)
{
    vdisk_queue *q;

    if (vdisk_queue_create(NULL, &q) < 0)
        fail_msg("no queue: %s", vdisk_error_text());
    return q;
}

static inline uint64_t xorshift(uint64_t *seed)
{
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    return *seed;
}

#endif
