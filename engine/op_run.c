/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Ops that are run to their end from outside the loop: by calls that block. */
#include <time.h>

#include "engine/op.h"
#include "engine/queue.h"

enum { LOOK_NS = 200000000 };

void op_run(struct op *op, const bool *done, op_look_fn *look, void *arg)
{
    vdisk_queue *q = op->queue;

    assert(!q->in_loop);
    queue_current = q;
    op_start_later(op);
    while (look && !*done) {
        if (!queue_turn(q))
            queue_sleep(q, 1, &(struct timespec){.tv_nsec = LOOK_NS});
        if (!*done && !look(arg))
            break;
    }
    queue_run_until(q, done);
}
