/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a range is made of.
 *
 * Happy path: walk the range through the chain, ask the file where its holes are (of a raw layer, or where
 * clusters are mapped to holes; for many pieces at once, since each time a worker may do it), merge neighbours,
 * stop when the list is full.
 * Failure modes: a failed metadata load or a failed question fails the request; the list then holds nothing.
 */
#include <errno.h>

#include "engine/base/bits.h"
#include "engine/loop/status.h"
#include "engine/chain/layer.h"

struct extents_op {
    struct op             op;
    uint64_t              pos, end;
    struct extent         extent;
    struct layer         *top, *layer;
    bool                  hole; /* the file has one there */
    unsigned              loads;
    struct io             io;
    const struct backend *asked; /* who `known` is of; NULL: nobody */
    struct block_status   known;
};

enum extents_state { EXTENTS_START = OP_START, EXTENTS_LOADED, EXTENTS_STATUS };

static void extents_finish(struct extents_op *x, int rc)
{
    if (rc < 0)
        x->op.request->extents->count = 0;
    op_end(&x->op, sizeof *x, rc);
}

static uint32_t layer_depth(const struct layer *top, const struct layer *layer)
{
    assert(layer->depth > 0 && layer->depth <= top->depth);
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
    uint32_t depth = layer_depth(x->top, x->layer);
    uint64_t host_offset = x->extent.host_offset + x->layer->data_offset;
    struct vdisk_extent *last = out->count ? &out->list[out->count - 1] : NULL;

    assert(x->extent.len > 0 && x->extent.len <= x->end - x->pos && out->count <= out->max);
    assert(!last || last->guest_offset + last->length == x->pos); /* without a gap */
    if (x->extent.kind == EXTENT_DATA && x->hole) {
        flags |= VDISK_EXTENT_ZERO;
        if (x->layer->format->plain)
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
    return x->extent.kind == EXTENT_DATA && (x->layer->format->plain || x->layer->host_holes) &&
           x->layer->data->caps & BACKEND_SPARSE;
}

/* What follows on the host is asked for as well, as far as the request goes: the guest likely goes on there. */
static void start_status(struct extents_op *x, struct op *op)
{
    assert(x->pos < x->end && room(x) > 0);
    x->known.max = (unsigned)min_u64(STATUS_RUNS_MAX, room(x));
    x->asked = x->layer->data;
    io_status(&x->io, x->layer->data, x->extent.host_offset, x->end - x->pos, &x->known);
    op_io(op, &x->io);
}

/* Of the extent the first piece, if it is known of what kind that is. */
static bool cut_to_piece(struct extents_op *x)
{
    uint64_t offset = x->extent.host_offset, end;

    if (x->asked != x->layer->data || !status_find(&x->known, offset, &x->hole, &end))
        return false;
    assert(end > offset);
    x->extent.len = min_u64(x->extent.len, end - offset);
    return true;
}

static void extents_step(struct op *op)
{
    struct extents_op *x = container_of(op, struct extents_op, op);

    OP_BEGIN(enum extents_state, op)
    if (op->rc < 0)
        goto fail;
    while (x->pos < x->end) {
        x->hole = false;
        if (chain_lookup(x->top, x->pos, x->end - x->pos, &x->extent, &x->layer) < 0) {
            OP_TRY(op, EXTENTS_LOADED, chain_load_range(x->layer, x->pos, x->end - x->pos, x->loads++, op));
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

void extents_start(struct layer *top, struct request *r)
{
    struct extents_op *x;

    assert(r->kind == REQ_EXTENTS && r->len > 0 && r->extents->count == 0);
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
    x->top = top;
    x->pos = r->guest_offset;
    x->end = r->guest_offset + r->len;
    op_start_later(&x->op); /* it may end without an await */
}
