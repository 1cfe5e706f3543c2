/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Happy path: to the ring, the poller, a worker or the host; then to `done`.
 * Failure modes: no thread or descriptor for the poller, no worker: ends with that. The ring stops: what can be
 * asked twice (a poll, a timeout, what the kernel has not seen) goes to the poller, what may have moved bytes ends
 * with the ring's error.
 */
#include "engine/loop/call.h"

#include <errno.h>
#include <string.h>

#include "engine/loop/queue.h"

static void start_new(struct call *c, vdisk_queue *q, enum call_kind kind, int fd)
{
    assert(c->done && queue_is_mine(q) && c->place == CALL_IDLE);
    c->queue = q;
    c->kind = (uint8_t)kind;
    c->fd = fd;
    c->asks = c->unsent = false;
    atomic_store_explicit(&c->cancelled, false, memory_order_relaxed);
    list_init(&c->link);
    call_start(c);
}

static void fill_msg(struct call *c, const struct iovec *iov, unsigned iovcnt)
{
    memset(&c->msg, 0, sizeof c->msg);
    c->msg.msg_iov = unconst(iov);
    c->msg.msg_iovlen = iovcnt;
}

void call_send(struct call *c, vdisk_queue *q, int fd, const struct iovec *iov, unsigned iovcnt)
{
    fill_msg(c, iov, iovcnt);
    start_new(c, q, CALL_SEND, fd);
}

void call_receive(struct call *c, vdisk_queue *q, int fd, const struct iovec *iov, unsigned iovcnt)
{
    fill_msg(c, iov, iovcnt);
    start_new(c, q, CALL_RECEIVE, fd);
}

void call_poll(struct call *c, vdisk_queue *q, int fd, uint32_t events)
{
    c->events = events;
    start_new(c, q, CALL_POLL, fd);
}

void call_timeout(struct call *c, vdisk_queue *q, uint64_t ns)
{
    enum { NS_PER_S = 1000000000 };
    struct timespec now;

    clock_now(q->host ? q->host->clock : NULL, &now);
    ns = min_u64(ns, UINT64_C(1) << 62) + (uint64_t)now.tv_nsec;
    c->until.tv_sec = now.tv_sec + (int64_t)(ns / NS_PER_S);
    c->until.tv_nsec = (long long)(ns % NS_PER_S);
    start_new(c, q, CALL_TIMEOUT, -1);
}

void call_compute(struct call *c, vdisk_queue *q, int64_t (*compute)(struct call *))
{
    c->compute = compute;
    start_new(c, q, CALL_COMPUTE, -1);
}

static void run_compute(struct task *t)
{
    struct call *c = container_of(t, struct call, task);

    call_end_foreign(c, c->compute(c));
}

/* To a worker, or to the poller. */
static void start_elsewhere(struct call *c)
{
    vdisk_queue *q = c->queue;
    int rc;

    assert(!q->host && (c->kind == CALL_COMPUTE || !queue_has_ring(q)));
    c->task.run = run_compute;
    c->place = c->kind == CALL_COMPUTE ? CALL_WORKER : CALL_POLLER;
    q->worker_jobs++;
    rc = c->kind == CALL_COMPUTE ? workers_start(q, &c->task, true) : poller_add(q, c);
    if (rc == 0)
        return;
    q->worker_jobs--;
    call_end_later(c, rc);
}

void call_start(struct call *c)
{
    vdisk_queue *q = c->queue;

    assert(c->place <= CALL_KERNEL && list_empty(&c->link)); /* nobody else has it */
    if (atomic_load_explicit(&c->cancelled, memory_order_relaxed)) {
        call_end_later(c, -ECANCELED);
    } else if (q->host) {
        c->place = CALL_WORKER;
        if (!q->host->ops->call || !q->host->ops->call(c))
            call_end_later(c, -ENOTSUP);
    } else if (c->kind == CALL_COMPUTE || !queue_has_ring(q)) {
        start_elsewhere(c);
    } else {
        ring_call(c);
    }
}

void call_cancel(struct call *c)
{
    if (c->place == CALL_IDLE || c->place == CALL_ENDING)
        return;
    assert(queue_is_mine(c->queue));
    if (atomic_exchange(&c->cancelled, true))
        return;
    switch ((enum call_place)c->place) {
    case CALL_KERNEL: ring_call_cancel(c); break;
    case CALL_POLLER: poller_cancel(c); break;
    case CALL_WORKER:
        if (c->queue->host && c->queue->host->ops->cancel)
            c->queue->host->ops->cancel(c);
        break;
    case CALL_LINED: /* found when its turn comes */
    case CALL_IDLE:
    case CALL_ENDING: break;
    }
}

static void op_call_done(struct call *c)
{
    struct op *op = c->op;

    assert(op->waits > 0 && op->queue == c->queue && !call_is_under_way(c));
    if (c->res < 0 && op->rc == 0)
        op->rc = (int)c->res;
    if (--op->waits == 0)
        op->type->step(op);
}

struct call *op_call(struct op *op, struct call *c)
{
    assert(!call_is_under_way(c) && op->state != OP_START);
    op->waits++;
    c->op = op;
    c->done = op_call_done;
    return c;
}
