/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* How one I/O ends: short transfers, the end of the file, what a host's error means. */
#include "engine/loop/io.h"

#include <errno.h>
#include <string.h>

#include "engine/backend.h"
#include "engine/base/bits.h"
#include "engine/base/iov.h"
#include "engine/base/mutant.h"
#include "engine/loop/failure.h"
#include "engine/loop/queue.h"

enum { AGAIN_MAX = 16 }; /* of one read: a device grows less often than that meanwhile */

static void io_finish(struct io *io, int32_t res)
{
    assert(res <= 0);
    io->res = res;
    if (unlikely(res < 0))
        failure_note(io, res);
    if (io->flags & IO_GATED) {
        io->flags &= (uint8_t)~IO_GATED;
        gate_leave(&io->backend->writes, io->queue->id, io->gate);
    }
    io->done(io);
}

/*
 * Part of it was moved: true when the rest is on its way, false when the end of the file was met. Direct I/O can
 * go on from a block boundary only.
 */
static bool go_on(struct io *io, uint64_t bytes)
{
    struct backend *b = io->backend;
    uint64_t moved = io->moved + bytes;
    uint64_t from = align_down(moved, b->align);

    assert(moved < io->len);
    if (from <= io->moved || (io->kind == IO_READ && io->offset + moved >= backend_size(b))) {
        io->moved = moved;
        return false;
    }
    io->moved = from;
    b->driver->submit(b, io);
    return true;
}

/* A read of a device came short of an end that it has had: it has been cut, and what was there is not zeros. */
static bool is_cut_off(const struct io *io)
{
    const struct backend *b = io->backend;
    uint64_t peak = ENGINE_MUTANT(CUT_FORGOTTEN) ? 0 : atomic_load(&b->peak);

    return !(b->caps & BACKEND_GROWS) && io->offset + io->moved < max_u64(backend_size(b), peak);
}

/*
 * It came short of an end that is there: of the one that was there when it went out, if the device has grown
 * meanwhile. So it goes out again. One that has been cut below what it says is short each time.
 */
static bool goes_again(struct io *io)
{
    struct backend *b = io->backend;

    if (io->offset + io->moved >= backend_size(b) || io->again == AGAIN_MAX || ENGINE_MUTANT(GROWTH_SHORT))
        return false;
    io->again++;
    io->moved = align_down(io->moved, b->align);
    b->driver->submit(b, io);
    return true;
}

/* A read came short of the end: somebody else has moved it, and whoever has the backend is to know. */
static void look_again(const struct io *io)
{
    struct backend *b = io->backend;

    if (unlikely(io->offset + io->moved < backend_size(b)) && b->driver->refresh)
        b->driver->refresh(b); /* what it does not know now it does not tell */
}

/*
 * What a host's error means. Block devices have their own for what failed on them: that the medium did is ENODATA,
 * which here would be taken for the end of a file (qcow2/check/check_roots.c).
 */
static int32_t meaning(int64_t res)
{
    switch (-res) {
    case EDQUOT: return -ENOSPC;
    case ENODATA: case EILSEQ: case ENOLINK: case EREMOTEIO: case EBADE: case ETIMEDOUT: return -EIO;
    case ECANCELED: return -EIO; /* by the host: only what we have taken back is said to be cancelled */
    default: return (int32_t)res;
    }
}

void io_end(struct io *io, int64_t res)
{
    assert(io->queue->in_loop);
    if (unlikely(res < 0)) {
        io_finish(io, meaning(res));
        return;
    }
    if (io->kind != IO_READ && io->kind != IO_WRITE) {
        io_finish(io, 0);
        return;
    }
    assert(io->moved < io->len);
    if (likely((uint64_t)res == io->len - io->moved)) {
        if (io->kind == IO_WRITE)
            raise_size(io->backend, io->offset + io->len);
        io_finish(io, 0);
        return;
    }
    assert((uint64_t)res < io->len - io->moved);
    if (io->kind == IO_WRITE) /* whatever becomes of the rest */
        raise_size(io->backend, io->offset + io->moved + (uint64_t)res);
    if (go_on(io, (uint64_t)res))
        return;
    if (io->kind == IO_WRITE) {
        io_finish(io, -ENOSPC); /* the host takes no more and gives no reason */
        return;
    }
    look_again(io);
    if (unlikely(is_cut_off(io))) {
        if (!goes_again(io))
            io_finish(io, -EIO);
        return;
    }
    iov_zero(io->iov, io->iovcnt, io->moved, io->len - io->moved);
    io_finish(io, 0);
}

static void run_later(struct task *t)
{
    struct io *io = container_of(t, struct io, task);

    io_end(io, io->later);
}

void io_end_later(struct io *io, int64_t res)
{
    io->later = res;
    io->task.run = run_later;
    queue_ready(io->queue, &io->task);
}

static void run_taken_back(struct task *t)
{
    io_finish(container_of(t, struct io, task), -ECANCELED);
}

void io_end_taken_back(struct io *io)
{
    io->task.run = run_taken_back;
    queue_ready(io->queue, &io->task);
}

/* ---- on other threads ------------------------------------------------------------------------------------ */

void io_elsewhere(struct io *io)
{
    assert(queue_is_mine(io->queue));
    io->queue->worker_jobs++;
    io->queue->foreign++;
}

static void run_foreign(struct task *t)
{
    struct io *io = container_of(t, struct io, task);

    assert(io->queue->worker_jobs > 0 && io->queue->foreign > 0);
    io->queue->worker_jobs--;
    io->queue->foreign--;
    io_end(io, io->later);
}

void io_end_foreign(struct io *io, int64_t res)
{
    io->later = res;
    io->task.run = run_foreign;
    queue_post_end(io->queue, &io->task);
}
