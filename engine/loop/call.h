/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What else a queue's loop can wait for, beside I/O on files: sockets, time, and work for a processor. For
 * backends over a network, and for filters that compute or hold back. On a ring they are its operations;
 * without one a thread of the queue polls (engine/loop/poller.c), and workers compute; in a simulation time is
 * virtual, and there are no sockets.
 *
 * Life: call_*() starts it; `done` is called once, from the loop of its queue, never inline; `res` then says what
 * came of it. The struct and its buffers belong to the engine until then. A backend's calls end before the I/O
 * that they were made for: nothing may be under way when nothing is in flight.
 */
#ifndef ENGINE_CALL_H
#define ENGINE_CALL_H

#include <linux/time_types.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>

#include "engine/loop/op.h"

enum call_kind { CALL_SEND, CALL_RECEIVE, CALL_POLL, CALL_TIMEOUT, CALL_COMPUTE };

enum call_place {
    CALL_IDLE,    /* not started, or ended */
    CALL_LINED,   /* waits for an SQE */
    CALL_KERNEL,  /* an SQE is out for it */
    CALL_POLLER,  /* the queue's poller has it */
    CALL_WORKER,  /* a worker has it, or a simulation */
    CALL_ENDING,  /* its end is on its way through the loop */
};

struct call;
typedef void call_done_fn(struct call *);

struct call {
    struct task    task;
    struct list    link;     /* of the queue's, or the poller's */
    vdisk_queue   *queue;
    call_done_fn  *done;     /* the caller sets it, or op_call() */
    struct op     *op;
    int64_t        res;      /* at the end: see call_*() */
    uint8_t        kind;     /* enum call_kind */
    uint8_t        place;    /* enum call_place; the queue's thread only */
    bool           asks;     /* the SQE that is out asks whether the socket is ready */
    bool           unsent;   /* call_cancel() found no SQE */
    _Atomic bool   cancelled;
    int            fd;
    uint32_t       events;
    struct msghdr  msg;
    struct __kernel_timespec until; /* by the queue's clock */
    int64_t      (*compute)(struct call *);
};

/*
 * Send what `iov` says on the socket `fd`, or receive that much: res is how many bytes, which may be fewer; of a
 * receive 0 when the peer has closed; or -errno. The socket may block or not. No SIGPIPE: -EPIPE.
 * Context of all of these: the queue's thread.
 */
void call_send(struct call *c, vdisk_queue *q, int fd, const struct iovec *iov, unsigned iovcnt);
void call_receive(struct call *c, vdisk_queue *q, int fd, const struct iovec *iov, unsigned iovcnt);

/* Until `fd` has one of the events of poll(2): res is which, or -errno. */
void call_poll(struct call *c, vdisk_queue *q, int fd, uint32_t events);

/* For `ns` nanoseconds: res is 0. */
void call_timeout(struct call *c, vdisk_queue *q, uint64_t ns);

/* Run `compute` on a worker thread: res is what it returns. */
void call_compute(struct call *c, vdisk_queue *q, int64_t (*compute)(struct call *));

/*
 * It is not waited for any more: it ends with -ECANCELED, or as it would have, if it was too late; a computation
 * goes on to its end. Nothing, if it is not under way.
 */
void call_cancel(struct call *c);

static inline bool call_is_under_way(const struct call *c)
{
    return c->place != CALL_IDLE;
}

/*
 * Make `c` what the current await of `op` waits for, and pass it on:
 * `OP_TRY(op, ST, call_send(op_call(op, &x->call), ...))`. op->rc becomes 0 or its error; `res` holds the bytes.
 */
struct call *op_call(struct op *op, struct call *c);

/* ---- for the loop ---------------------------------------------------------------------------------------- */

/* Start it again, where it is to be made now: after it waited in line, or the ring went. */
void call_start(struct call *c);

/* It has ended: now, from the loop; soon; from another thread, which had it (place WORKER or POLLER). */
void call_end(struct call *c, int64_t res);
void call_end_later(struct call *c, int64_t res);
void call_end_foreign(struct call *c, int64_t res);

/* Send or receive without waiting: bytes or -errno, -EAGAIN among them. */
int64_t call_try(const struct call *c);

/* What is waited for on fd, in poll(2)'s words. */
static inline uint32_t call_events(const struct call *c)
{
    return c->kind == CALL_SEND ? 0x4 /* POLLOUT */ : c->kind == CALL_RECEIVE ? 0x1 /* POLLIN */ : c->events;
}

/* engine/loop/poller.c. 0 or -errno: it has not taken it. */
struct poller;
int  poller_add(vdisk_queue *q, struct call *c);
void poller_cancel(struct call *c);
void poller_destroy(struct poller *p);

#endif
