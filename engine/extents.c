/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a range is made of.
 *
 * Happy path: walk the range through the chain, ask the file where its holes are (of a raw layer, or where
 * clusters are mapped to holes; for many pieces at once, since each time a worker does it), merge neighbours, stop
 * when the list is full.
 * Failure modes: a failed metadata load or a failed question fails the request; the list then holds nothing.
 */
#include <errno.h>

#include "engine/bits.h"
#include "engine/queue.h"
#include "engine/volume.h"

enum { PIECES_MAX = 256 };

/* Which parts of a file are holes: neighbours of either kind in turn, each up to its end. */
struct host_pieces {
    const struct backend *backend; /* NULL: nothing is known */
    uint64_t              start;
    uint64_t              ends[PIECES_MAX];
    unsigned              count, max;
    enum backend_status   first;
};

struct extents_op {
    struct op           op;
    uint64_t            pos, end;
    struct extent       extent;
    vdisk              *layer;
    struct io           io; /* carries the calls for holes to a worker */
    enum backend_status status;
    struct host_pieces  known;
};

enum extents_state { EXTENTS_START = OP_START, EXTENTS_LOADED, EXTENTS_STATUS };

static void extents_finish(struct extents_op *x, int rc)
{
    if (rc < 0)
        x->op.request->extents->count = 0;
    op_end(&x->op, sizeof *x, rc);
}

static uint32_t layer_depth(const vdisk *top, const vdisk *layer)
{
    return top->depth - layer->depth;
}

static uint32_t describe(const struct extents_op *x)
{
    const struct extent *e = &x->extent;

    switch ((enum extent_kind)e->kind) {
    case EXTENT_DATA:
        return VDISK_EXTENT_DATA | VDISK_EXTENT_OFFSET | VDISK_EXTENT_ALLOCATED;
    case EXTENT_COMPRESSED:
        return VDISK_EXTENT_DATA | VDISK_EXTENT_COMPRESSED | VDISK_EXTENT_ALLOCATED;
    case EXTENT_ZERO:
    case EXTENT_UNALLOCATED:
        break;
    }
    return VDISK_EXTENT_ZERO | (e->flags & EXTENT_HOST ? VDISK_EXTENT_OFFSET : 0) |
           (e->flags & (EXTENT_HOST | EXTENT_MARKED) ? VDISK_EXTENT_ALLOCATED : 0);
}

/* Append the piece at pos; false: no room. */
static bool append(struct extents_op *x)
{
    struct vdisk_extents *out = x->op.request->extents;
    uint32_t flags = describe(x);
    uint32_t depth = layer_depth(x->op.request->vdisk, x->layer);
    uint64_t host_offset = x->extent.host_offset + x->layer->data_offset;
    struct vdisk_extent *last = out->count ? &out->list[out->count - 1] : NULL;

    if (x->extent.kind == EXTENT_DATA && x->status == BACKEND_STATUS_HOLE) {
        flags |= VDISK_EXTENT_ZERO;
        if (x->layer->format == &raw_driver)
            flags &= ~(uint32_t)VDISK_EXTENT_DATA;
    }
    if (last && last->flags == flags && last->depth == depth &&
        (!(flags & VDISK_EXTENT_OFFSET) || last->host_offset + last->length == host_offset)) {
        last->length += x->extent.len;
    } else {
        if (out->count == out->max)
            return false;
        out->list[out->count++] = (struct vdisk_extent){
            .guest_offset = x->pos, .length = x->extent.len, .flags = flags, .depth = depth,
            .host_offset = flags & VDISK_EXTENT_OFFSET ? host_offset : 0};
    }
    x->pos += x->extent.len;
    return true;
}

static unsigned room(const struct extents_op *x)
{
    return x->op.request->extents->max - x->op.request->extents->count;
}

/*
 * A raw layer leaves it to its file which parts are holes. Another may know that its file has some where clusters
 * are mapped; nobody changes that mapping, so what is known of a place on the host holds for what is mapped there.
 */
static bool wants_status(const struct extents_op *x)
{
    assert(!x->layer->host_holes || x->layer->read_only);
    return x->extent.kind == EXTENT_DATA && (x->layer->format == &raw_driver || x->layer->host_holes) &&
           x->layer->data->driver->status != NULL;
}

/* On a worker: as many pieces as there is room for. */
static int64_t ask_status(struct io *io)
{
    struct host_pieces *known = &container_of(io, struct extents_op, io)->known;
    uint64_t pos = io->offset, end = io->offset + io->len, len;
    enum backend_status status;

    known->count = 0;
    known->start = pos;
    for (; pos < end; pos += len) {
        int rc = io->backend->driver->status(io->backend, pos, end - pos, &status, &len);
        if (rc < 0)
            return rc;
        if (known->count == 0)
            known->first = status;
        if (known->count > 0 && status == (enum backend_status)(known->first ^ ((known->count - 1) & 1))) {
            known->ends[known->count - 1] = pos + len;
            continue;
        }
        if (known->count == known->max)
            break;
        known->ends[known->count++] = pos + len;
    }
    known->backend = io->backend;
    return 0;
}

/* What follows on the host is asked for as well, as far as the request goes: the guest likely goes on there. */
static void start_status(struct extents_op *x, struct op *op)
{
    op_io_begin(op);
    x->known.backend = NULL;
    x->known.max = min_u64(PIECES_MAX, room(x));
    op_io_prepare(op, &x->io);
    io_range(&x->io, x->layer->data, IO_FLUSH, x->extent.host_offset, x->end - x->pos);
    ring_work(&x->io, ask_status);
    op_io_wait(op);
}

/* Of the extent the first piece, if it is known of what kind that is. */
static bool cut_to_piece(struct extents_op *x)
{
    const struct host_pieces *known = &x->known;
    uint64_t offset = x->extent.host_offset;
    unsigned low = 0, high = known->count;

    if (known->backend != x->layer->data || offset < known->start)
        return false;
    while (low < high) {
        unsigned middle = (low + high) / 2;
        if (known->ends[middle] <= offset)
            low = middle + 1;
        else
            high = middle;
    }
    if (low == known->count)
        return false;
    x->status = (enum backend_status)(known->first ^ (low & 1));
    x->extent.len = min_u64(x->extent.len, known->ends[low] - offset);
    return true;
}

static void extents_step(struct op *op)
{
    struct extents_op *x = container_of(op, struct extents_op, op);

    OP_BEGIN(enum extents_state, op)
    while (x->pos < x->end) {
        x->status = BACKEND_STATUS_DATA;
        if (chain_lookup(x->op.request->vdisk, x->pos, x->end - x->pos, &x->extent, &x->layer) < 0) {
            OP_TRY(op, EXTENTS_LOADED, x->layer->format->load(x->layer, x->pos, op));
            continue;
        }
        if (wants_status(x) && !cut_to_piece(x)) {
            if (room(x) == 0)
                break;
            OP_TRY(op, EXTENTS_STATUS, start_status(x, op));
            continue;
        }
        if (!append(x))
            break;
    }
    extents_finish(x, 0);
    return;
    OP_END
fail:
    extents_finish(x, op->rc);
}

OP_TYPE(extents_op, extents_step, "START", "EXTENTS_LOADED", "EXTENTS_STATUS");

void extents_start(struct request *r)
{
    struct extents_op *x;

    if (r->extents->max == 0) {
        request_end_later(r, -EINVAL);
        return;
    }
    x = op_alloc(r->queue, &extents_op_type, sizeof *x);
    if (!x) {
        request_end_later(r, -ENOMEM);
        return;
    }
    op_serve(&x->op, r);
    x->pos = r->guest_offset;
    x->end = r->guest_offset + r->len;
    op_start_later(&x->op); /* it may end without an await */
}
