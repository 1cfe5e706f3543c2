/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Happy path: wait for the queue's connection to be free; connect, if it is not; send the request and its data;
 * receive the reply and its data; let a worker check the sum; end.
 * Failure modes: too late: the timer cancels what is waited for; a closed connection, an error, a wrong reply: the
 * connection is closed, the I/O fails with EIO, and the next connects again.
 *
 * Invariants.
 *  1. The I/O ends after all its calls have, the timer's among them.
 *  2. A connection on which anything failed is not used again.
 */
#include "tests/lib/socket_backend.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/base/bits.h"
#include "engine/base/iov.h"
#include "engine/loop/call.h"
#include "engine/loop/queue.h"
#include "tests/lib/socket_wire.h"

enum { BUFFERS_MAX = 16 };

struct socket_backend {
    struct backend        b; /* first */
    struct socket_server *server;
    unsigned              timeout_ms;
    bool                  blocking;
};

/* Of a queue. */
struct connection {
    int         fd; /* -1: none */
    bool        busy;
    struct list waiting; /* op.wait */
};

struct socket_io {
    struct op           op;
    struct socket_backend *sb;
    struct connection  *c;
    struct io          *io;
    struct call         call, timer;
    bool                late, ending;
    struct wire_request request;
    struct wire_reply   reply;
    struct iovec        iov[BUFFERS_MAX + 1];
    unsigned            iovcnt;
    uint64_t            left; /* bytes to send or receive */
    int                 rc;
};

enum socket_io_state {
    SOCKET_START = OP_START, SOCKET_TURN, SOCKET_CONNECTED, SOCKET_SENT, SOCKET_REPLIED, SOCKET_CHECKED,
    SOCKET_TIMER
};

/* ---- connections ----------------------------------------------------------------------------------------- */

static int socket_attach(struct backend *b, vdisk_queue *q, void **ret_state)
{
    struct connection *c = calloc(1, sizeof *c);

    if (!c)
        return -ENOMEM;
    c->fd = -1;
    list_init(&c->waiting);
    *ret_state = c;
    return 0;
}

static void hang_up(struct connection *c)
{
    if (c->fd >= 0)
        close(c->fd);
    c->fd = -1;
}

static void socket_detach(struct backend *b, vdisk_queue *q, void *state)
{
    struct connection *c = state;

    assert(!c->busy && list_empty(&c->waiting));
    hang_up(c);
    free(c);
}

static int begin_to_connect(struct socket_io *x)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
                             .sin_port = socket_server_port(x->sb->server)};

    x->c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (x->c->fd < 0)
        return -errno;
    setsockopt(x->c->fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
    if (connect(x->c->fd, (struct sockaddr *)&to, sizeof to) < 0 && errno != EINPROGRESS)
        return -errno;
    return 0;
}

static int end_connecting(struct socket_io *x)
{
    int error = 0;
    socklen_t len = sizeof error;

    if (getsockopt(x->c->fd, SOL_SOCKET, SO_ERROR, &error, &len) < 0)
        return -errno;
    if (x->sb->blocking)
        fcntl(x->c->fd, F_SETFL, fcntl(x->c->fd, F_GETFL) & ~O_NONBLOCK);
    return -error;
}

/* ---- one I/O --------------------------------------------------------------------------------------------- */

static void timer_ended(struct call *timer)
{
    struct socket_io *x = container_of(timer, struct socket_io, timer);

    if (x->ending) {
        op_wake(&x->op, 0);
        return;
    }
    x->late = true;
    call_cancel(&x->call);
}

static void start_timer(struct socket_io *x)
{
    x->timer.done = timer_ended;
    call_timeout(&x->timer, x->op.queue, (uint64_t)x->sb->timeout_ms * 1000000);
}

/* `head` and the data of the I/O are to go, or to come. */
static void set_buffers(struct socket_io *x, void *head, size_t len, bool data)
{
    x->iov[0] = (struct iovec){head, len};
    x->iovcnt = 1;
    x->left = len;
    if (!data)
        return;
    memcpy(x->iov + 1, x->io->iov, x->io->iovcnt * sizeof *x->iov);
    x->iovcnt += x->io->iovcnt;
    x->left += x->io->len;
}

/* Of what has come or gone. False: the peer has closed. */
static bool advance(struct socket_io *x)
{
    uint64_t n = (uint64_t)x->call.res;
    unsigned i = 0;

    assert(n <= x->left);
    x->left -= n;
    while (i < x->iovcnt && n >= x->iov[i].iov_len)
        n -= x->iov[i++].iov_len;
    memmove(x->iov, x->iov + i, (x->iovcnt - i) * sizeof *x->iov);
    x->iovcnt -= i;
    if (x->iovcnt > 0) {
        x->iov[0].iov_base = (char *)x->iov[0].iov_base + n;
        x->iov[0].iov_len -= n;
    }
    return x->call.res > 0;
}

/* On a worker. */
static int64_t check_sum(struct call *call)
{
    const struct socket_io *x = container_of(call, struct socket_io, call);
    uint64_t sum = 0;

    for (uint32_t i = 0; i < x->io->iovcnt; i++)
        for (size_t k = 0; k < x->io->iov[i].iov_len; k++)
            sum = sum * 31 + ((uint8_t *)x->io->iov[i].iov_base)[k];
    return x->reply.magic == WIRE_MAGIC && x->reply.sum == sum ? 0 : -EBADMSG;
}

static void finish(struct socket_io *x)
{
    struct connection *c = x->c;
    struct io *io = x->io;
    int rc = x->rc;
    struct list *next = list_pop(&c->waiting);

    if (rc < 0)
        hang_up(c);
    c->busy = next != NULL;
    if (next)
        op_wake(container_of(next, struct op, wait), 0);
    op_free(&x->op, sizeof *x);
    io_end_later(io, rc < 0 ? -EIO : (int64_t)io->len);
}

static void socket_io_step(struct op *op)
{
    struct socket_io *x = container_of(op, struct socket_io, op);

    OP_BEGIN(enum socket_io_state, op)
    if (x->c->busy)
        OP_AWAIT(op, SOCKET_TURN, list_add_tail(&x->c->waiting, &op->wait));
    x->c->busy = true;
    start_timer(x);
    if (x->c->fd < 0) {
        op->rc = begin_to_connect(x);
        if (op->rc < 0)
            goto fail;
        OP_TRY(op, SOCKET_CONNECTED, call_poll(op_call(op, &x->call), op->queue, x->c->fd, POLLOUT));
        op->rc = end_connecting(x);
        if (op->rc < 0)
            goto fail;
    }
    x->request = (struct wire_request){x->io->kind, x->io->offset, x->io->len};
    set_buffers(x, &x->request, sizeof x->request, x->io->kind == IO_WRITE);
    while (x->left > 0) {
        OP_TRY(op, SOCKET_SENT, call_send(op_call(op, &x->call), op->queue, x->c->fd, x->iov, x->iovcnt));
        if (!advance(x) || x->late)
            goto broken;
    }
    set_buffers(x, &x->reply, sizeof x->reply, x->io->kind == IO_READ);
    while (x->left > 0) {
        OP_TRY(op, SOCKET_REPLIED, call_receive(op_call(op, &x->call), op->queue, x->c->fd, x->iov, x->iovcnt));
        if (!advance(x) || x->late)
            goto broken;
    }
    OP_TRY(op, SOCKET_CHECKED, call_compute(op_call(op, &x->call), op->queue, check_sum));
    goto end;
broken:
    op->rc = -ECONNRESET;
fail:
end:
    x->rc = op->rc;
    x->ending = true;
    if (call_is_under_way(&x->timer))
        OP_AWAIT(op, SOCKET_TIMER, call_cancel(&x->timer));
    finish(x);
    return;
    OP_END
}

OP_TYPE(socket_io, socket_io_step, "START", "TURN", "CONNECTED", "SENT", "REPLIED", "CHECKED", "TIMER");

/* ---- the driver ------------------------------------------------------------------------------------------ */

static void socket_submit(struct backend *b, struct io *io)
{
    int rc;
    struct connection *c = backend_on_queue(b, io->queue, &rc);
    struct socket_io *x;

    if (!c || (io->kind != IO_READ && io->kind != IO_WRITE)) {
        io_end_later(io, c ? -ENOTSUP : rc);
        return;
    }
    x = op_alloc(io->queue, &socket_io_type, sizeof *x);
    if (!x) {
        io_end_later(io, -ENOMEM);
        return;
    }
    assert(io->iovcnt <= BUFFERS_MAX && io->moved == 0);
    x->sb = container_of(b, struct socket_backend, b);
    x->c = c;
    x->io = io;
    op_start(&x->op);
}

static void socket_close(struct backend *b)
{
}

static const struct backend_driver socket_driver = {
    .name = "socket",
    .close = socket_close,
    .submit = socket_submit,
    .attach = socket_attach,
    .detach = socket_detach,
};

void socket_backend_set_timeout(struct backend *b, unsigned timeout_ms)
{
    container_of(b, struct socket_backend, b)->timeout_ms = timeout_ms;
}

int socket_backend_create(struct socket_server *s, unsigned timeout_ms, bool blocking, struct backend **ret)
{
    struct socket_backend *sb = backend_alloc(&socket_driver, "socket", sizeof *sb);

    if (!sb)
        return -ENOMEM;
    sb->server = s;
    sb->timeout_ms = timeout_ms;
    sb->blocking = blocking;
    sb->b.max_iov = BUFFERS_MAX;
    atomic_store(&sb->b.size, socket_server_size(s));
    *ret = &sb->b;
    return 0;
}
