/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Requests of any alignment over a backend that wants aligned ones.
 *
 * Happy path, read: read the blocks that cover it into a bounce buffer, a chunk at a time, copy out.
 * Happy path, write with aligned ends: copy a chunk into the buffer, write it.
 * Happy path, write with ragged ends: lock the blocks, wait for the writes that started before, read the ragged
 * blocks, lay the new bytes over them, write, unlock.
 * Happy path, write that ends inside a block behind which the file would end: as above, but the bytes in that
 * block go to the backend as they are (IO_EXACT), so that the file ends where the write does.
 * Happy path, aligned write that met such a lock, truncation to inside a block: wait for it, go on under a lock of
 * its own.
 *
 * Failure modes: no memory (-ENOMEM, nothing written); a read fails (the write is not made); a write fails (its
 * range is undefined, what lies around it in the same blocks is unchanged or, torn, still equal).
 *
 * Invariants.
 *  1. rmw_active is raised before the gate is drained: a write that starts later sees it and looks for the lock.
 *  2. Writes counted in the gate never overlap a held lock, once it has drained.
 *  3. No write moves the file's end past its own, not even for a moment: whoever opens the file after a crash
 *     takes its length for the volume's.
 */
#include "engine/loop/bounce.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/backend.h"
#include "engine/base/bits.h"
#include "engine/base/iov.h"
#include "engine/base/mem.h"
#include "engine/loop/queue.h"
#include "engine/loop/range_lock.h"

/*
 * EXACT_SPAN: an exact write may go through the page cache. There it must not share a folio, which can be as
 * large, with a direct write in flight: the kernel could not drop that folio then, and fails the next sync for it.
 */
enum { BOUNCE_CHUNK = 1 << 20, EXACT_SPAN = 2 << 20 };

struct bounce {
    struct op         op;
    struct io        *parent;
    struct io         io, tail_io;
    struct range_lock lock;
    struct iovec      slice;
    char             *buf;
    uint64_t          cover_start, cover_end; /* whole blocks around the parent's range */
    uint64_t          exact_from;             /* the last block, if it is to be written as it is; else cover_end */
    uint64_t          pos, chunk;             /* the part at work, whole blocks */
    bool              counted;                /* in rmw_active */
};

enum bounce_state {
    BOUNCE_START = OP_START,
    BOUNCE_LOCKED,
    BOUNCE_DRAINED,
    BOUNCE_READ,
    BOUNCE_RMW_READ,
    BOUNCE_WRITTEN,
    BOUNCE_EXACT,
    BOUNCE_PASSED
};

/* The parent's bytes inside the chunk at work. */
static uint64_t part_start(const struct bounce *bn)
{
    return max_u64(bn->parent->offset, bn->pos);
}

static uint64_t part_end(const struct bounce *bn)
{
    return min_u64(bn->parent->offset + bn->parent->len, bn->pos + bn->chunk);
}

static bool ragged(const struct bounce *bn)
{
    return bn->cover_start != bn->parent->offset || bn->cover_end != bn->parent->offset + bn->parent->len;
}

/* Would whole blocks move the file's end past the parent's? */
static bool needs_exact(const struct bounce *bn)
{
    const struct io *io = bn->parent;

    return io->kind == IO_WRITE && io->backend->caps & BACKEND_GROWS && bn->cover_end != io->offset + io->len &&
           bn->cover_end > backend_size(io->backend);
}

static void bounce_finish(struct bounce *bn, int rc)
{
    struct io *parent = bn->parent;
    struct backend *b = parent->backend;

    assert(rc <= 0 && !(parent->flags & IO_GATED));
    assert(bn->counted ? atomic_load(&b->rmw_active) > 0 : !bn->lock.held);
    if (bn->lock.held)
        range_unlock(b->rmw_locks, &bn->lock);
    if (bn->counted)
        atomic_fetch_sub(&b->rmw_active, 1);
    mem_free(bn->buf);
    op_free(&bn->op, sizeof *bn);
    parent->res = rc;
    parent->done(parent);
}

/* Blocks at the chunk's ends that are only partly overwritten: one read each, or one for both. */
static void read_ragged(struct bounce *bn, struct op *op)
{
    struct backend *b = bn->parent->backend;
    bool head = part_start(bn) != bn->pos;
    bool tail = part_end(bn) != bn->pos + bn->chunk;

    assert(bn->lock.held && (head || tail)); /* invariant 2 */
    assert(bn->chunk >= b->align && is_aligned(bn->pos | bn->chunk, b->align));
    op_io_begin(op);
    if (head && tail && bn->chunk <= 2ull * b->align) {
        io_rw(&bn->io, b, IO_READ, bn->pos, bn->buf, bn->chunk);
        op_io_add(op, &bn->io);
        tail = head = false;
    }
    if (head) {
        io_rw(&bn->io, b, IO_READ, bn->pos, bn->buf, b->align);
        op_io_add(op, &bn->io);
    }
    if (tail) {
        uint64_t last = bn->chunk - b->align;
        io_rw(&bn->tail_io, b, IO_READ, bn->pos + last, bn->buf + last, b->align);
        op_io_add(op, &bn->tail_io);
    }
    op_io_wait(op);
}

static void write_chunk(struct bounce *bn, struct op *op)
{
    struct io *parent = bn->parent;
    uint64_t start = part_start(bn);

    assert(start < part_end(bn) && bn->pos + bn->chunk <= bn->exact_from); /* invariant 3 */
    iov_to(parent->iov, parent->iovcnt, start - parent->offset, bn->buf + (start - bn->pos),
           part_end(bn) - start);
    io_rw(&bn->io, parent->backend, IO_WRITE, bn->pos, bn->buf, bn->chunk);
    bn->io.flags = (uint8_t)((parent->flags & IO_FUA) | (bn->lock.held ? IO_NO_GATE : 0));
    op_io(op, &bn->io);
}

/* The parent's bytes in the last block; the file ends with them. */
static void write_exact(struct bounce *bn, struct op *op)
{
    struct io *parent = bn->parent;
    uint64_t start = part_start(bn), len = part_end(bn) - start;

    assert(bn->lock.held && len > 0 && len < parent->backend->align);
    assert(start + len == parent->offset + parent->len); /* invariant 3 */
    iov_to(parent->iov, parent->iovcnt, start - parent->offset, bn->buf, len);
    io_rw(&bn->io, parent->backend, IO_WRITE, start, bn->buf, len);
    bn->io.flags = (uint8_t)((parent->flags & IO_FUA) | IO_NO_GATE | IO_EXACT);
    op_io(op, &bn->io);
}

/* The parent itself, under the lock that it had to wait for. */
static void pass_on(struct bounce *bn, struct op *op)
{
    struct io *parent = bn->parent;

    assert(bn->lock.held && bn->counted && !bn->buf);
    bn->io = *parent;
    bn->io.flags |= IO_NO_GATE;
    op_io(op, &bn->io);
}

static bool needs_buffer(const struct bounce *bn)
{
    const struct io *io = bn->parent;
    uintptr_t bits = 0;

    if (io->kind != IO_READ && io->kind != IO_WRITE)
        return false;
    for (uint32_t i = 0; i < io->iovcnt; i++)
        bits |= ((uintptr_t)io->iov[i].iov_base & (io->backend->mem_align - 1)) |
                (io->iov[i].iov_len & (io->backend->align - 1));
    return bits != 0 || ragged(bn) || io->iovcnt > io->backend->max_iov;
}

static int setup(struct bounce *bn)
{
    struct backend *b = bn->parent->backend;
    size_t align = max_u64(max_u64(b->align, b->mem_align), 4096);
    size_t len = min_u64(bn->cover_end - bn->cover_start, max_u64(BOUNCE_CHUNK, b->align));
    void *buf = NULL;

    if (needs_buffer(bn) && mem_memalign(&buf, align, align_up(len, align)) != 0)
        return -ENOMEM;
    bn->buf = buf;
    bn->pos = bn->cover_start;
    return 0;
}

static bool next_chunk(struct bounce *bn)
{
    uint64_t end;

    assert(bn->cover_start <= bn->pos && bn->pos + bn->chunk <= bn->cover_end);
    bn->pos += bn->chunk;
    end = bn->pos < bn->exact_from ? bn->exact_from : bn->cover_end;
    bn->chunk = min_u64(end - bn->pos, max_u64(BOUNCE_CHUNK, bn->parent->backend->align));
    return bn->chunk > 0;
}

/* Stand in line for the lock on all that the parent may change. */
static bool try_lock(struct bounce *bn)
{
    uint64_t start = bn->cover_start, end = bn->cover_end;

    assert(!bn->counted && !bn->lock.held);
    atomic_fetch_add(&bn->parent->backend->rmw_active, 1); /* invariant 1 */
    bn->counted = true;
    if (bn->parent->kind == IO_TRUNCATE) {
        start = align_down(start, EXACT_SPAN); /* it writes zeros behind the new end, too */
        end = UINT64_MAX;
    } else if (needs_exact(bn)) {
        start = min_u64(start, align_down(end - 1, EXACT_SPAN));
        end = align_down(end - 1, EXACT_SPAN) + EXACT_SPAN;
    }
    return range_lock_try(bn->parent->backend->rmw_locks, &bn->lock, start, end);
}

static void bounce_step(struct op *op)
{
    struct bounce *bn = container_of(op, struct bounce, op);

    OP_BEGIN(enum bounce_state, op)
    if (bn->parent->kind == IO_READ) {
        assert(bn->buf && !bn->counted);
        while (next_chunk(bn)) {
            io_rw(&bn->io, bn->parent->backend, IO_READ, bn->pos, bn->buf, bn->chunk);
            OP_TRY(op, BOUNCE_READ, op_io(op, &bn->io));
            iov_from(bn->parent->iov, bn->parent->iovcnt, part_start(bn) - bn->parent->offset,
                     bn->buf + (part_start(bn) - bn->pos), part_end(bn) - part_start(bn));
        }
        bounce_finish(bn, 0);
        return;
    }

    /* Aligned but for the memory: the copy goes through the gate like any write. */
    if (ragged(bn) || !bn->buf) {
        if (!try_lock(bn))
            OP_TRY(op, BOUNCE_LOCKED,
                   range_lock_wait_for(bn->parent->backend->rmw_locks, &bn->lock, bn->parent, op));
        range_lock_got(&bn->lock);
        OP_TRY(op, BOUNCE_DRAINED, gate_drain(&bn->parent->backend->writes, op));
    }
    if (!bn->buf) {
        OP_TRY(op, BOUNCE_PASSED, pass_on(bn, op));
        bounce_finish(bn, 0);
        return;
    }
    if (needs_exact(bn))
        bn->exact_from = bn->cover_end - bn->parent->backend->align;
    while (next_chunk(bn)) {
        if (bn->pos == bn->exact_from) {
            OP_TRY(op, BOUNCE_EXACT, write_exact(bn, op));
            continue;
        }
        if (part_start(bn) != bn->pos || part_end(bn) != bn->pos + bn->chunk)
            OP_TRY(op, BOUNCE_RMW_READ, read_ragged(bn, op));
        OP_TRY(op, BOUNCE_WRITTEN, write_chunk(bn, op));
    }
    bounce_finish(bn, 0);
    return;
    OP_END
fail:
    bounce_finish(bn, op->rc);
}

OP_TYPE(bounce, bounce_step, "START", "BOUNCE_LOCKED", "BOUNCE_DRAINED", "BOUNCE_READ", "BOUNCE_RMW_READ",
        "BOUNCE_WRITTEN", "BOUNCE_EXACT", "BOUNCE_PASSED");

/* Another thread's, too: these two do not change while it waits. */
static bool is_for(struct op *op, const void *parent)
{
    return op->type == &bounce_type && container_of(op, struct bounce, op)->parent == parent;
}

bool bounce_leave(struct backend *b, const struct io *parent)
{
    return b->rmw_locks && (range_lock_give_up(b->rmw_locks, parent) || gate_give_up(&b->writes, is_for, parent));
}

bool bounce_may_end(struct op *op, const struct io *parent)
{
    return is_for(op, parent) && op->state == BOUNCE_DRAINED;
}

bool bounce_give_up(struct op *op, const struct io *parent)
{
    struct bounce *bn = container_of(op, struct bounce, op);

    if (op->type != &bounce_type || bn->parent != parent)
        return false;
    if (parent->kind != IO_READ && (bn->pos != bn->cover_start || op->state == BOUNCE_EXACT))
        return false; /* some of it may have been written */
    return op_take_back(op);
}

void bounce_start(struct io *io)
{
    struct bounce *bn = op_alloc(io->queue, &bounce_type, sizeof *bn);
    uint32_t align = io->backend->align;

    assert(queue_is_mine(io->queue) && !(io->flags & (IO_GATED | IO_EXACT)));
    if (!bn) {
        io_end_later(io, -ENOMEM);
        return;
    }
    bn->parent = io;
    bn->cover_start = align_down(io->offset, align);
    bn->cover_end = bn->exact_from = align_up(io->offset + io->len, align);
    assert(bn->cover_start <= io->offset && io->offset + io->len <= bn->cover_end);
    if (setup(bn) < 0) {
        op_free(&bn->op, sizeof *bn);
        io_end_later(io, -ENOMEM);
        return;
    }
    op_start(&bn->op);
}
