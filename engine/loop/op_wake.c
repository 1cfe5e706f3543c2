/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Ops that wait for something other than I/O go on; called with locks held, from any thread. */
#include "engine/loop/failure.h"
#include "engine/loop/op.h"
#include "engine/loop/queue.h"

void op_wake(struct op *op, int rc)
{
    assert(rc <= 0 && list_empty(&op->wait)); /* who is woken waits in no list */
    op->rc = rc;
    op->failure = rc < 0 ? failure_now : 0;
    if (queue_is_mine(op->queue))
        queue_ready(op->queue, &op->task);
    else
        queue_post(op->queue, &op->task);
}

void op_wake_all(struct list *waiters, int rc)
{
    struct list *node;

    while ((node = list_pop(waiters)))
        op_wake(container_of(node, struct op, wait), rc);
}
