/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* How one I/O begins: alignment, the write gate. */
#include "engine/loop/io.h"

#include <errno.h>
#include <string.h>

#include "engine/backend.h"
#include "engine/base/bits.h"
#include "engine/base/iov.h"
#include "engine/base/mutant.h"
#include "engine/loop/bounce.h"
#include "engine/loop/failure.h"
#include "engine/loop/queue.h"
#include "engine/loop/range_lock.h"

static bool buffers_aligned(const struct backend *b, const struct io *io)
{
    uintptr_t bits = 0;

    for (uint32_t i = 0; i < io->iovcnt; i++)
        bits |= (uintptr_t)io->iov[i].iov_base & (b->mem_align - 1);
    if (io->iovcnt > 1)
        for (uint32_t i = 0; i < io->iovcnt; i++)
            bits |= io->iov[i].iov_len & (b->align - 1);
    return bits == 0 && io->iovcnt <= b->max_iov;
}

static bool io_aligned(const struct backend *b, const struct io *io)
{
    return ((io->offset | io->len) & (b->align - 1)) == 0 && buffers_aligned(b, io);
}

/* Count a write in, unless a read-modify-write of its blocks is on: then it takes the slow way round. */
static bool enter_write_gate(struct backend *b, struct io *io)
{
    assert(b->align > 1 && io->offset + io->len >= io->offset);
    io->gate = gate_enter(&b->writes, io->queue->id);
    if (unlikely(atomic_load(&b->rmw_active)) && io->len > 0 &&
        range_is_locked(b->rmw_locks, io->offset, io->offset + io->len)) {
        gate_leave(&b->writes, io->queue->id, io->gate);
        return false;
    }
    io->flags |= IO_GATED;
    return true;
}

/* Where the backend wants whole blocks: can it be given this as it is? A write is counted in then. */
static inline bool fits_blocks(struct backend *b, struct io *io, bool moves)
{
    if (unlikely(moves && !io_aligned(b, io) && !(io->flags & IO_EXACT)))
        return false;
    if (unlikely(io->kind == IO_TRUNCATE && !is_aligned(io->offset, b->align) && !(io->flags & IO_NO_GATE)))
        return false;
    if (b->align <= 1 || io->flags & IO_NO_GATE)
        return true;
    return !(io->kind == IO_WRITE || io->kind == IO_ZERO || io->kind == IO_DISCARD) || enter_write_gate(b, io);
}

void io_start(struct io *io)
{
    struct backend *b = io->backend;
    bool moves = io->kind == IO_READ || io->kind == IO_WRITE;

    assert(io->done && queue_is_mine(io->queue));
    assert(io->kind < IO_KINDS && !(io->flags & IO_GATED));
    assert(io->kind == IO_WRITE || !(io->flags & (IO_FUA | IO_EXACT)));
    assert(!moves || (io->len > 0 && iov_len(io->iov, io->iovcnt) == io->len));
    io->moved = 0;
    io->tries = 0;
    if (b->align + b->mem_align > 2 && unlikely(!fits_blocks(b, io, moves))) {
        bounce_start(io);
        return;
    }
    b->driver->submit(b, io);
}

bool io_take_back(struct io *io)
{
    vdisk_queue *q = io->queue;

    assert(queue_is_mine(q) && !q->in_loop);
    if (q->host)
        return false;
    if (queue_has_ring(q) ? !ring_take_back(io) : !workers_take_back(io))
        return false;
    io_end_taken_back(io);
    return true;
}
