/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Zeros over a host range.
 *
 * Happy path: one IO_ZERO. Where there is no such thing: a window of writes from one shared buffer, each sending
 * the next when it ends, so that the device is kept busy; with IO_NO_FALLBACK, -ENOTSUP.
 * Failure modes: the first error stops the window; what was written stays. Cancelled: the same.
 */
#include "engine/loop/zero.h"

#include <errno.h>

#include "engine/base/bits.h"
#include "engine/loop/queue.h"

enum { ZERO_WINDOW = 16 };

static char zero_bytes[ZERO_BUFFER] __attribute__((aligned(4096)));
const char *const zero_buffer = zero_bytes;

struct zero_op {
    struct op       op;
    bool           *done;    /* without parent and request: for zero_fill() */
    int            *result;
    struct backend *backend;
    uint64_t        pos, end;
    uint64_t       *moved;   /* progress for zero_fill() */
    uint8_t         flags;
    bool            write_only;
    bool            stop;
    unsigned        running;
    struct io       io[ZERO_WINDOW];
};

enum zero_state { ZERO_START = OP_START, ZERO_BY_BACKEND, ZERO_WRITTEN };

static void zero_finish(struct zero_op *z, int rc)
{
    assert(z->running == 0 && (z->done || z->op.parent || z->op.request));
    if (z->done) {
        *z->result = rc;
        *z->done = true;
    }
    op_end(&z->op, sizeof *z, rc);
}

static bool window_next(struct zero_op *z, struct io *io);

static void window_done(struct io *io)
{
    struct zero_op *z = container_of(io->op, struct zero_op, op);

    assert(z->running > 0 && z->op.state == ZERO_WRITTEN);
    if (io->res < 0) {
        op_note_error(&z->op, io->res);
        z->stop = true;
    } else if (z->moved) {
        *z->moved += io->len;
    }
    if (window_next(z, io))
        return;
    if (--z->running == 0)
        op_resume(&z->op);
}

/* Send the next piece with `io`; false: there is none. Pieces end at multiples of the buffer's size. */
static bool window_next(struct zero_op *z, struct io *io)
{
    uint64_t len = min_u64(z->end, align_down(z->pos, ZERO_BUFFER) + ZERO_BUFFER) - z->pos;

    assert(z->pos <= z->end && len <= ZERO_BUFFER);
    if (z->stop || len == 0)
        return false;
    io_rw(io, z->backend, IO_WRITE, z->pos, unconst(zero_buffer), len);
    io->op = &z->op;
    io->queue = z->op.queue;
    io->done = window_done;
    z->pos += len;
    io_start(io);
    return true;
}

static void window_start(struct zero_op *z)
{
    assert(z->pos < z->end);
    z->running = 0;
    for (int i = 0; i < ZERO_WINDOW; i++)
        if (window_next(z, &z->io[i]))
            z->running++;
    assert(z->running > 0); /* whose ends it waits for */
}

static void by_backend(struct zero_op *z, struct op *op)
{
    io_range(&z->io[0], z->backend, IO_ZERO, z->pos, z->end - z->pos);
    z->io[0].flags = z->flags;
    op_io(op, &z->io[0]);
}

static void zero_step(struct op *op)
{
    struct zero_op *z = container_of(op, struct zero_op, op);

    OP_BEGIN(enum zero_state, op)
    if (!z->write_only) {
        OP_AWAIT(op, ZERO_BY_BACKEND, by_backend(z, op));
        if ((op->rc != -ENOTSUP && op->rc != -EOPNOTSUPP) || z->flags & IO_NO_FALLBACK) {
            zero_finish(z, op->rc);
            return;
        }
    }
    OP_AWAIT(op, ZERO_WRITTEN, window_start(z));
    zero_finish(z, op->rc);
    return;
    OP_END
}

OP_TYPE(zero_op, zero_step, "START", "ZERO_BY_BACKEND", "ZERO_WRITTEN");

static struct zero_op *zero_alloc(vdisk_queue *q, struct backend *b, uint64_t host_offset, uint64_t len)
{
    struct zero_op *z = op_alloc(q, &zero_op_type, sizeof *z);

    if (!z)
        return NULL;
    assert(host_offset < host_offset + len);
    z->backend = b;
    z->pos = host_offset;
    z->end = host_offset + len;
    return z;
}

static void start_for(struct zero_op *z, struct op *parent)
{
    if (!z) {
        op_wake(parent, -ENOMEM);
        return;
    }
    z->op.parent = parent;
    op_start(&z->op);
}

void zero_range(struct backend *b, uint64_t host_offset, uint64_t len, uint8_t flags, struct op *parent)
{
    struct zero_op *z = zero_alloc(parent->queue, b, host_offset, len);

    assert(!(flags & ~(IO_UNMAP | IO_NO_FALLBACK)));
    if (z)
        z->flags = flags;
    start_for(z, parent);
}

void zero_write(struct backend *b, uint64_t host_offset, uint64_t len, struct op *parent)
{
    struct zero_op *z = zero_alloc(parent->queue, b, host_offset, len);

    if (z)
        z->write_only = true;
    start_for(z, parent);
}

void zero_start(struct backend *b, uint64_t host_offset, uint64_t len, uint8_t flags, struct request *r)
{
    struct zero_op *z = zero_alloc(r->queue, b, host_offset, len);

    if (!z) {
        request_end_later(r, -ENOMEM);
        return;
    }
    z->flags = flags;
    op_serve(&z->op, r);
    op_start(&z->op);
}

/* Of zero_fill(): who looks on. */
struct fill_watch {
    struct zero_op    *zero;
    vdisk_progress_fn *progress;
    void              *arg;
    uint64_t           total;
    bool               stopped;
};

static bool look_at_fill(void *arg)
{
    struct fill_watch *w = arg;

    assert(*w->zero->moved <= w->total);
    w->stopped = w->progress(w->arg, *w->zero->moved, w->total) != 0;
    w->zero->stop = w->stopped;
    return !w->stopped;
}

int zero_fill(vdisk_queue *q, struct backend *b, uint64_t host_offset, uint64_t len, vdisk_progress_fn *progress,
              void *progress_arg)
{
    struct fill_watch watch = {.progress = progress, .arg = progress_arg, .total = len};
    uint64_t moved = 0;
    bool done = false;
    int result = 0;
    struct zero_op *z;

    if (len == 0)
        return 0;
    z = zero_alloc(q, b, host_offset, len);
    if (!z)
        return -ENOMEM;
    z->write_only = true;
    z->done = &done;
    z->result = &result;
    z->moved = &moved;
    watch.zero = z;
    op_run(&z->op, &done, progress ? look_at_fill : NULL, &watch);
    return result < 0 ? result : watch.stopped ? -ECANCELED : 0;
}
