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

/* io.tries: so often a read is begun again, whatever for. More than the ring does it, and than ends can move. */
enum { IO_TRIES_MAX = 64 };

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

/* A read came short: what is known of the end by then. */
enum end_seen { END_HERE, END_BEHIND, END_CUT };

/*
 * Where it stopped there was an end when it was carried out. Of a device that may be some time ago: another thread
 * may have seen one behind it since. So the device is asked: it ends behind it (it has been extended), or here: it
 * has been cut, and what was there is not zeros. `peak` is looked at before that: one that comes later tells of a
 * device that was extended later. Whoever has the backend is to know what has been found.
 */
static enum end_seen look_at_end(const struct io *io)
{
    struct backend *b = io->backend;
    uint64_t at = io->offset + io->moved, peak = ENGINE_MUTANT(CUT_FORGOTTEN) ? 0 : atomic_load(&b->peak);
    bool is_device = !(b->caps & BACKEND_GROWS);

    if (likely(at >= backend_size(b) && (!is_device || at >= peak)))
        return END_HERE;
    if (b->driver->refresh)
        b->driver->refresh(b); /* what it does not know now it does not tell */
    if (!is_device)
        return END_HERE;
    if (at < backend_size(b))
        return ENGINE_MUTANT(GROWN_CUTS) ? END_CUT : END_BEHIND;
    return ENGINE_MUTANT(CUT_FORGOTTEN) ? END_HERE : END_CUT;
}

/* What it has come short of is there by now. False: so it was said before, too often. */
static bool read_on(struct io *io)
{
    struct backend *b = io->backend;

    if (io->tries >= IO_TRIES_MAX)
        return false;
    io->tries++;
    io->moved = align_down(io->moved, b->align);
    b->driver->submit(b, io);
    return true;
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

static void end_short_read(struct io *io)
{
    enum end_seen end = look_at_end(io);

    if (unlikely(end == END_BEHIND) && read_on(io))
        return;
    if (unlikely(end != END_HERE)) {
        io_finish(io, -EIO);
        return;
    }
    iov_zero(io->iov, io->iovcnt, io->moved, io->len - io->moved);
    io_finish(io, 0);
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
    end_short_read(io);
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
