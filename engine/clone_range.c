/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A range of a raw volume that the host copies from another one, or has both share.
 *
 * Happy path: both are whole files, of one backend that can do it; a worker makes the call, and the source counts
 * the request in, so that it stays.
 * Failure modes: whatever stands in the way is -ENOTSUP, before anything has changed, or by the host: the caller
 * copies.
 *
 * Invariants
 *  1. Nothing is copied to behind the end of the target's file, nor to a part of one of its blocks: neither its
 *     end nor an unaligned write beside the range (bounce.c) has to know of it.
 *  2. The source is counted in until the request ends: it is not closed, and does not become shorter.
 */
#include <errno.h>

#include "engine/base/bits.h"
#include "engine/base/mutant.h"
#include "engine/clone.h"
#include "engine/loop/queue.h"
#include "engine/loop/request_end.h"

static struct backend *file_of(const vdisk *v)
{
    return v->top->file;
}

/* Both files have the range, and the target's guard does not look at it (guard.c). Invariant 1. */
static bool can_copy(const struct request *r)
{
    const struct backend *from = file_of(r->source), *to = file_of(r->vdisk);

    return clone_is_plain(r->source) && clone_is_plain(r->vdisk) && from->driver == to->driver &&
           !backend_is(from, &to->id) && r->guest_offset >= r->vdisk->top->guarded &&
           is_aligned(r->guest_offset | r->len, to->align) &&
           (backend_inside(to, r->guest_offset, r->len) == r->len || ENGINE_MUTANT(COPY_PAST_END)) &&
           backend_inside(from, r->source_offset, r->len) == r->len;
}

/* In the source's gate. */
static int check_source(const struct request *r)
{
    const vdisk *source = r->source;
    uint64_t end;

    if (atomic_load(&source->refuses) & VOLUME_SHUT)
        return -EBUSY;
    if (!add_u64(r->source_offset, r->len, &end) || end > layer_size(source->top))
        return -EINVAL;
    return can_copy(r) ? 0 : -ENOTSUP;
}

static int64_t copy_call(struct io *io)
{
    const struct request *r = container_of(io, struct request, io);
    int64_t rc = io->backend->driver->copy_range(io->backend, io->offset, file_of(r->source), r->source_offset,
                                                 io->len, r->flags & VDISK_REQ_NO_FALLBACK);

    return rc == (int64_t)io->len ? 0 : rc < 0 ? rc : -EIO;
}

/* Invariant 2. */
static void hold_source(struct request *r)
{
    if (!ENGINE_MUTANT(COPY_SOURCE_UNHELD))
        r->source_gate = gate_enter(&r->source->requests, r->queue->id);
}

static void let_source_go(struct request *r)
{
    if (!ENGINE_MUTANT(COPY_SOURCE_UNHELD))
        gate_leave(&r->source->requests, r->queue->id, r->source_gate);
}

static void copy_done(struct io *io)
{
    struct request *r = container_of(io, struct request, io);

    let_source_go(r);
    request_end(r, io->res == 0 || io->res == -ECANCELED ? io->res : -ENOTSUP);
}

void clone_range_start(struct request *r)
{
    int rc = 0;

    assert(r->kind == REQ_COPY && r->len > 0 && !r->vdisk->top->read_only && r->state == REQUEST_STARTED);
    if (!r->source || r->source == r->vdisk)
        rc = -EINVAL;
    else if (r->source->generation != process_generation)
        rc = -ECHILD;
    if (rc == 0) {
        hold_source(r);
        rc = check_source(r);
        if (rc < 0)
            let_source_go(r);
    }
    if (rc < 0) {
        request_end_later(r, rc);
        return;
    }
    layer_note_end(r->vdisk->top, r->guest_offset + r->len);
    io_range(&r->io, file_of(r->vdisk), IO_ALLOCATE, r->guest_offset, r->len);
    r->io.done = copy_done;
    r->io.op = NULL;
    r->io.moved = 0;
    r->io.tries = 0;
    ring_work(&r->io, copy_call);
}
