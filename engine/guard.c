/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Changes of the first bytes of a raw volume that was opened without a format.
 *
 * Who opens it again without one goes by what is there. A guest that could write a header of qcow2, say, would
 * name a backing file in it, and read any file of the host after its next start. QEMU refuses such writes as well.
 * With the format named there is no guessing, and none of this.
 *
 * Happy path: one change at a time; read what is there, unless all of it is overwritten; put the change into it,
 * and look; then carry it out, with the bytes that were looked at (a guest may change its memory meanwhile).
 * Failure modes: it would be a header: -EPERM, nothing is written. The read or the change fails: that error.
 *
 * Invariants
 *  1. The bytes at [0, FOREIGN_HEAD) change under the lock only.
 */
#include "engine/guard.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/bits.h"
#include "engine/base/iov.h"
#include "engine/base/mem.h"
#include "engine/base/mutant.h"
#include "engine/loop/range_lock.h"
#include "engine/loop/zero.h"
#include "engine/volume.h"

struct guard {
    struct op         op;
    struct request   *r;
    struct range_lock lock;
    uint8_t          *head; /* FOREIGN_HEAD bytes, as they will be */
    struct iovec     *iov;  /* WRITE: what changes of head, then the rest of the request */
    struct io         io;
};

enum guard_state { GUARD_START = OP_START, GUARD_LOCKED, GUARD_READ, GUARD_CHANGED };

static struct range_locks *locks_of(const struct request *r)
{
    return &r->vdisk->top->guard_locks;
}

static void guard_finish(struct guard *g, int rc)
{
    struct request *r = g->r;

    if (g->lock.held)
        range_unlock(locks_of(r), &g->lock);
    if (rc < 0 && g->io.flags & IO_FUA)
        r->flags |= VDISK_REQ_FUA; /* it is not durable, and may be begun anew */
    mem_free(g->head);
    mem_free(g->iov);
    op_end(&g->op, sizeof *g, rc);
}

/* How many bytes of head the request changes. */
static uint64_t changed_len(const struct request *r)
{
    assert(r->guest_offset < FOREIGN_HEAD && r->len > 0);
    return min_u64(r->len, FOREIGN_HEAD - r->guest_offset);
}

static void read_head(struct guard *g, struct op *op)
{
    io_rw(&g->io, g->r->vdisk->top->file, IO_READ, 0, g->head, FOREIGN_HEAD);
    op_io(op, &g->io);
}

/* Will it still be raw? */
static bool may_change(struct guard *g)
{
    const struct request *r = g->r;

    assert(g->lock.held || ENGINE_MUTANT(GUARD_UNLOCKED)); /* invariant 1 */
    if (r->kind == REQ_WRITE)
        iov_to(r->iov, r->iovcnt, 0, g->head + r->guest_offset, changed_len(r));
    else
        memset(g->head + r->guest_offset, 0, changed_len(r));
    return foreign_format(g->head) == NULL;
}

static void write_it(struct guard *g, struct op *op)
{
    struct request *r = g->r;
    uint64_t first = changed_len(r), rest = r->len - first;
    uint32_t n = 1;

    g->iov[0] = (struct iovec){g->head + r->guest_offset, first};
    if (rest > 0)
        n += iov_slice(r->iov, r->iovcnt, first, rest, g->iov + 1, r->iovcnt, &rest);
    assert(n <= r->iovcnt + 1 && first + rest == r->len); /* all of the request */
    io_rwv(&g->io, r->vdisk->top->file, IO_WRITE, r->guest_offset, g->iov, n, r->len);
    if (r->flags & VDISK_REQ_FUA && !r->vdisk->top->file->cached) { /* else a flush follows */
        g->io.flags |= IO_FUA;
        r->flags &= (uint8_t)~VDISK_REQ_FUA;
    }
    op_io(op, &g->io);
}

static void change(struct guard *g, struct op *op)
{
    struct request *r = g->r;
    struct backend *b = r->vdisk->top->file;

    if (r->kind == REQ_WRITE) {
        write_it(g, op);
    } else if (r->kind == REQ_ZERO) {
        zero_range(b, r->guest_offset, r->len, request_zero_flags(r), op);
    } else {
        assert(r->kind == REQ_DISCARD);
        io_range(&g->io, b, IO_DISCARD, r->guest_offset, r->len);
        op_io(op, &g->io);
    }
}

static void guard_step(struct op *op)
{
    struct guard *g = container_of(op, struct guard, op);

    OP_BEGIN(enum guard_state, op)
    if (op->rc < 0)
        goto fail;
    if (!ENGINE_MUTANT(GUARD_UNLOCKED) && !range_lock_try(locks_of(g->r), &g->lock, 0, FOREIGN_HEAD))
        OP_TRY(op, GUARD_LOCKED, range_lock_wait_for(locks_of(g->r), &g->lock, &g->r->io, op));
    range_lock_got(&g->lock);
    if (ENGINE_MUTANT(GUARD_BY_PARTS))
        memset(g->head, 0, FOREIGN_HEAD);
    else if (changed_len(g->r) < FOREIGN_HEAD)
        OP_TRY(op, GUARD_READ, read_head(g, op));
    if (!may_change(g)) {
        guard_finish(g, -EPERM);
        return;
    }
    OP_TRY(op, GUARD_CHANGED, change(g, op));
    guard_finish(g, 0);
    return;
    OP_END
fail:
    guard_finish(g, op->rc);
}

OP_TYPE(guard, guard_step, "START", "GUARD_LOCKED", "GUARD_READ", "GUARD_CHANGED");

void guard_start(struct request *r)
{
    struct guard *g = op_alloc(r->queue, &guard_type, sizeof *g);

    assert(r->state == REQUEST_STARTED && r->guest_offset < r->vdisk->top->guarded);
    assert(r->guest_offset < FOREIGN_HEAD && r->len > 0);
    if (g) {
        g->r = r;
        op_serve(&g->op, r);
        g->head = mem_buffer(FOREIGN_HEAD);
        g->iov = r->kind == REQ_WRITE ? mem_calloc(r->iovcnt + 1, sizeof *g->iov) : NULL;
    }
    if (!g || !g->head || (r->kind == REQ_WRITE && !g->iov)) {
        if (g) {
            mem_free(g->head);
            mem_free(g->iov);
            op_free(&g->op, sizeof *g);
        }
        request_end_later(r, -ENOMEM);
        return;
    }
    op_start_later(&g->op); /* it may end without an await */
}
