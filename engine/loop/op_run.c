/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Ops that are run to their end from outside the loop: by calls that block. */
#include <time.h>

#include "engine/loop/op.h"
#include "engine/loop/queue.h"

enum { LOOK_NS = 200000000 };

void op_run(struct op *op, const bool *done, op_look_fn *look, void *arg)
{
    vdisk_queue *q = op->queue;

    assert(!q->in_loop && !*done);
    assert(op->queue->generation == process_generation);
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

/* ---- one await ------------------------------------------------------------------------------------------- */

struct call_op {
    struct op   op;
    op_call_fn *call;
    void       *arg;
    bool        done;
};

enum call_op_state { CALL_START = OP_START, CALL_ENDED };

static void call_op_step(struct op *op)
{
    struct call_op *c = container_of(op, struct call_op, op);

    OP_BEGIN(enum call_op_state, op)
    OP_AWAIT(op, CALL_ENDED, c->call(c->arg, op));
    c->done = true;
    return;
    OP_END
}

OP_TYPE(call_op, call_op_step, "START", "CALL_ENDED");

int op_run_call(vdisk_queue *queue, op_call_fn *call, void *arg)
{
    struct call_op c = {.call = call, .arg = arg};

    op_init(&c.op, queue, &call_op_type);
    op_run(&c.op, &c.done, NULL, NULL);
    return c.op.rc;
}
