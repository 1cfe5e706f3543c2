/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Reads through a chain of layers.
 *
 * Happy path: ask the layers from the top for the extent, send one I/O for each piece of data, fill zeros in at
 * once, go on until all pieces are sent, wait for all.
 * Failure modes: metadata that is not at hand is loaded, then asked again; a failed I/O fails the read after the
 * others have ended; the buffer's content is undefined then.
 */
#include <errno.h>

#include "engine/base/bits.h"
#include "engine/base/iov.h"
#include "engine/chain/flat.h"
#include "engine/chain/layer.h"
#include "engine/loop/queue.h"

enum { READ_PIECES = 8, READ_PIECE_IOV = 8, READ_RUN = 32, READ_RUN_IOV = 32 };

int chain_find(struct layer *top, uint64_t guest_offset, uint64_t len, struct extent *ret,
               struct layer **ret_layer)
{
    uint64_t reach = atomic_load_explicit(&top->reach, memory_order_acquire);

    assert(len > 0);
    if (!top->flat || unlikely(guest_offset >= reach))
        return chain_lookup(top, guest_offset, len, ret, ret_layer);
    *ret_layer = top;
    if (unlikely(top->format->lookup(top, guest_offset, min_u64(len, reach - guest_offset), ret) < 0))
        return -EAGAIN;
    assert(ret->len > 0 && ret->len <= len);
    return ret->kind == EXTENT_UNALLOCATED ? chain_find_below(top, guest_offset, ret->len, ret, ret_layer) : 0;
}

int chain_find_below(struct layer *top, uint64_t guest_offset, uint64_t len, struct extent *ret,
                     struct layer **ret_layer)
{
    if (top->flat)
        return flat_lookup(top->flat, guest_offset, len, ret, ret_layer);
    if (top->backing)
        return chain_lookup(top->backing, guest_offset, len, ret, ret_layer);
    *ret_layer = top;
    *ret = (struct extent){.kind = EXTENT_ZERO, .len = len};
    return 0;
}

bool chain_known_zero(struct layer *top, uint64_t guest_offset, uint64_t len)
{
    struct extent e;
    struct layer *layer;

    while (len > 0) {
        if (chain_find(top, guest_offset, len, &e, &layer) < 0 || e.kind != EXTENT_ZERO)
            return false;
        guest_offset += e.len;
        len -= e.len;
    }
    return true;
}

struct chain_read {
    struct op           op;
    struct layer       *top;
    const struct iovec *iov;
    uint32_t            iovcnt;
    uint64_t            guest_offset, len, pos;
    /* The piece at pos. */
    struct extent       extent;
    struct layer       *layer;
    unsigned            pieces;
    struct io           io[READ_PIECES];
    struct iovec        piece_iov[READ_PIECES][READ_PIECE_IOV];
};

enum chain_read_state { CHAIN_START = OP_START, CHAIN_LOADED, CHAIN_READ, CHAIN_INFLATED };

static int look_up(struct chain_read *c)
{
    assert(c->pos < c->len);
    return chain_find(c->top, c->guest_offset + c->pos, c->len - c->pos, &c->extent, &c->layer);
}

/* Send pieces as long as they are at hand and there is room; the call of an await. */
static void send_pieces(struct chain_read *c, struct op *op)
{
    op_io_begin(op);
    c->pieces = 0;
    while (c->pos < c->len && c->pieces < READ_PIECES) {
        uint64_t piece = 0;
        if (look_up(c) < 0 || c->extent.kind == EXTENT_COMPRESSED)
            break;
        if (c->extent.kind == EXTENT_ZERO) {
            iov_zero(c->iov, c->iovcnt, c->pos, c->extent.len);
            c->pos += c->extent.len;
            continue;
        }
        struct iovec *iov = c->piece_iov[c->pieces];
        uint32_t n = iov_slice(c->iov, c->iovcnt, c->pos, c->extent.len, iov, READ_PIECE_IOV, &piece);
        assert(c->extent.kind == EXTENT_DATA && n > 0 && piece > 0 && piece <= c->extent.len);
        struct io *io = &c->io[c->pieces++];
        io_rwv(io, c->layer->data, IO_READ, c->extent.host_offset, iov, n, piece);
        c->pos += piece;
        op_io_add(op, io);
    }
    op_io_wait(op);
}

/* Compressed extents from the one at hand on, of the same layer. */
static unsigned find_run(const struct chain_read *c, uint64_t end, struct extent run[READ_RUN])
{
    uint64_t at = c->pos;
    struct layer *layer;
    unsigned n = 0;

    while (n < READ_RUN && at < end &&
           chain_find(c->top, c->guest_offset + at, end - at, &run[n], &layer) == 0 && layer == c->layer &&
           run[n].kind == EXTENT_COMPRESSED)
        at += run[n++].len;
    return n;
}

/* Several at once. False: the format would rather have them one by one. */
static bool inflate_run(struct chain_read *c, struct op *op)
{
    struct extent run[READ_RUN];
    struct iovec iov[READ_RUN_IOV];
    uint64_t covered = 0, taken;
    uint32_t iovcnt;
    unsigned n;

    if (!c->layer->format->read_compressed_run || c->extent.len == c->len - c->pos)
        return false;
    iovcnt = iov_slice(c->iov, c->iovcnt, c->pos, c->len - c->pos, iov, READ_RUN_IOV, &covered);
    n = find_run(c, c->pos + covered, run);
    taken = c->layer->format->read_compressed_run(c->layer, run, n, iov, iovcnt, op);
    assert(taken <= covered);
    c->pos += taken;
    return taken > 0;
}

/* Decompress what is at hand; the call of an await. */
static void inflate_piece(struct chain_read *c, struct op *op)
{
    uint64_t piece = 0, guest = c->guest_offset + c->pos;
    uint32_t n;

    if (inflate_run(c, op))
        return;
    n = iov_slice(c->iov, c->iovcnt, c->pos, c->extent.len, c->piece_iov[0], READ_PIECE_IOV, &piece);
    assert(c->extent.kind == EXTENT_COMPRESSED && piece > 0 && piece <= c->extent.len);
    assert(c->layer->format->read_compressed != NULL);
    c->pos += piece;
    c->layer->format->read_compressed(c->layer, &c->extent, guest, c->piece_iov[0], n, piece, op);
}

static void chain_read_step(struct op *op)
{
    struct chain_read *c = container_of(op, struct chain_read, op);

    OP_BEGIN(enum chain_read_state, op)
    while (c->pos < c->len) {
        if (look_up(c) < 0)
            OP_TRY(op, CHAIN_LOADED, chain_load(c->layer, c->guest_offset + c->pos, op));
        else if (c->extent.kind == EXTENT_COMPRESSED)
            OP_TRY(op, CHAIN_INFLATED, inflate_piece(c, op));
        else
            OP_TRY(op, CHAIN_READ, send_pieces(c, op));
    }
    assert(c->pos == c->len);
    op_end(op, sizeof *c, 0);
    return;
    OP_END
fail:
    op_end(op, sizeof *c, op->rc);
}

OP_TYPE(chain_read, chain_read_step, "START", "CHAIN_LOADED", "CHAIN_READ", "CHAIN_INFLATED");

bool read_give_up(struct op *op, const struct request *r)
{
    return op->type == &chain_read_type && op->request == r && op->state == CHAIN_READ && op_take_back(op);
}

static struct chain_read *chain_read_alloc(vdisk_queue *q, struct layer *top, uint64_t guest_offset,
                                           const struct iovec *iov, uint32_t iovcnt, uint64_t len)
{
    struct chain_read *c = op_alloc(q, &chain_read_type, sizeof *c);

    if (!c)
        return NULL;
    assert(len > 0);
    c->top = top;
    c->iov = iov;
    c->iovcnt = iovcnt;
    c->guest_offset = guest_offset;
    c->len = len;
    return c;
}

void chain_read(struct layer *top, uint64_t guest_offset, const struct iovec *iov, uint32_t iovcnt, uint64_t len,
                struct op *parent)
{
    struct chain_read *c = chain_read_alloc(parent->queue, top, guest_offset, iov, iovcnt, len);

    if (!c) {
        op_wake(parent, -ENOMEM);
        return;
    }
    c->op.parent = parent;
    op_start(&c->op);
}

void read_start(struct layer *top, struct request *r)
{
    struct chain_read *c = chain_read_alloc(r->queue, top, r->guest_offset, r->iov, r->iovcnt, r->len);

    assert(r->kind == REQ_READ && r->state == REQUEST_STARTED);
    if (!c) {
        request_end_later(r, -ENOMEM);
        return;
    }
    op_serve(&c->op, r);
    op_start(&c->op);
}
