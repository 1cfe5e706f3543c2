/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tests/interleave/common.h"

#include <string.h>

#include "engine/base/bits.h"

/* ---- queues --------------------------------------------------------------------------------------------- */

static uint32_t next_id;

static int quiet_attach(struct queue_host *host, vdisk_queue *q, uint32_t *ret_id)
{
    *ret_id = next_id;
    return 0;
}

static void quiet_detach(struct queue_host *host, vdisk_queue *q)
{
}

static unsigned quiet_reap(vdisk_queue *q)
{
    return 0;
}

static bool has_something(void *arg)
{
    vdisk_queue *q = arg;

    return q->ready.head || atomic_load(&q->remote);
}

static int quiet_wait(vdisk_queue *q, const struct timespec *timeout)
{
    sched_wait("sleeps until something is posted", has_something, q);
    return 0;
}

static void quiet_work(struct io *io)
{
    io_end_later(io, io->blocking(io));
}

static const struct ring_ops quiet_ops = {
    .attach = quiet_attach,
    .detach = quiet_detach,
    .reap = quiet_reap,
    .wait = quiet_wait,
    .work = quiet_work,
};

static struct queue_host quiet_host = {.ops = &quiet_ops};

vdisk_queue *quiet_queue(uint32_t id)
{
    struct vdisk_queue_opts opts = {.size = sizeof opts, .depth = 4};
    vdisk_queue *q;
    int rc;

    next_id = id;
    queue_host = &quiet_host;
    rc = vdisk_queue_create(&opts, &q);
    queue_host = NULL;
    REQUIRE(rc == 0, "no queue: %s", vdisk_error_text());
    return q;
}

/* ---- ops ------------------------------------------------------------------------------------------------ */

enum waiter_state { WAITER_START = OP_START, WAITER_WOKEN };

static void waiter_step(struct op *op)
{
    struct waiter *w = container_of(op, struct waiter, op);

    REQUIRE(w->woken == 0, "an op has been woken twice");
    w->woken++;
    w->rc = op->rc;
}

OP_TYPE(waiter, waiter_step, "START", "WAITER_WOKEN");

void waiter_init(struct waiter *w, vdisk_queue *q)
{
    memset(w, 0, sizeof *w);
    op_init(&w->op, q, &waiter_type);
    op_suspend(&w->op, WAITER_WOKEN);
    queue_current = q;
}

int waiter_await(struct waiter *w)
{
    vdisk_queue *q = w->op.queue;

    for (;;) {
        queue_turn(q);
        if (w->woken)
            return w->rc;
        if (!q->ready.head)
            queue_sleep(q, 1, NULL);
    }
}
