/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* How a call ends, and what the poller does of it. */
#include "engine/loop/call.h"

#include <errno.h>
#include <sys/socket.h>

#include "engine/loop/queue.h"

int64_t call_try(const struct call *c)
{
    struct msghdr msg = c->msg;
    ssize_t n;

    assert(c->kind <= CALL_RECEIVE);
    do
        n = c->kind == CALL_SEND ? sendmsg(c->fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL)
                                 : recvmsg(c->fd, &msg, MSG_DONTWAIT);
    while (n < 0 && errno == EINTR);
    return n < 0 ? -errno : n;
}

void call_end(struct call *c, int64_t res)
{
    assert(c->queue->in_loop);
    assert(c->place > CALL_LINED && list_empty(&c->link)); /* once, and in nobody's list */
    c->place = CALL_IDLE;
    c->res = res;
    c->done(c);
}

static void run_end(struct task *t)
{
    struct call *c = container_of(t, struct call, task);

    assert(c->place == CALL_ENDING);
    call_end(c, c->res);
}

void call_end_later(struct call *c, int64_t res)
{
    assert(c->place != CALL_ENDING && list_empty(&c->link));
    c->place = CALL_ENDING;
    c->res = res;
    c->task.run = run_end;
    queue_ready(c->queue, &c->task);
}

static void run_foreign_end(struct task *t)
{
    struct call *c = container_of(t, struct call, task);

    assert(c->place == CALL_POLLER || c->place == CALL_WORKER);
    assert(c->queue->worker_jobs > 0);
    c->queue->worker_jobs--;
    call_end(c, c->res);
}

void call_end_foreign(struct call *c, int64_t res)
{
    c->res = res;
    c->task.run = run_foreign_end;
    queue_post(c->queue, &c->task);
}
