/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Reading ahead into caches, for who knows what he will read.
 *
 * Happy path: walk the range through the chain; what is needed to look it up is read into the cache of metadata,
 * and where data lies in files that go through the page cache, the host is told to read it.
 * Failure modes: a failed metadata load fails the request. What becomes of the advice nobody asks.
 */
#include <errno.h>

#include "engine/base/bits.h"
#include "engine/loop/queue.h"
#include "engine/chain/layer.h"

struct prefetch {
    struct op     op;
    uint64_t      pos, end;
    struct extent extent;
    struct layer *top, *layer;
    unsigned      loads;
    struct io     io; /* carries the advice to a worker */
};

enum prefetch_state { PREFETCH_START = OP_START, PREFETCH_LOADED, PREFETCH_ADVISED };

static bool wants_advice(const struct prefetch *p)
{
    const struct backend *b = p->layer->data;

    return p->extent.kind == EXTENT_DATA && !b->direct && b->driver->prefetch;
}

static int64_t advise(struct io *io)
{
    io->backend->driver->prefetch(io->backend, io->offset, io->len);
    return 0;
}

/* The call of an await. */
static void give_advice(struct prefetch *p, struct op *op)
{
    assert(p->extent.len > 0 && p->extent.len <= p->end - p->pos && !p->layer->data->direct);
    op_io_begin(op);
    op_io_prepare(op, &p->io);
    io_range(&p->io, p->layer->data, IO_FLUSH, p->extent.host_offset, p->extent.len);
    ring_work(&p->io, advise);
    op_io_wait(op);
}

static void prefetch_step(struct op *op)
{
    struct prefetch *p = container_of(op, struct prefetch, op);

    OP_BEGIN(enum prefetch_state, op)
    if (op->rc < 0)
        goto fail;
    while (p->pos < p->end) {
        /* Not chain_find(): it would go over every piece of however large a range, and each take a place. */
        if (chain_lookup(p->top, p->pos, p->end - p->pos, &p->extent, &p->layer) < 0) {
            OP_TRY(op, PREFETCH_LOADED, chain_load_range(p->layer, p->pos, p->end - p->pos, p->loads++, op));
            continue;
        }
        if (wants_advice(p))
            OP_AWAIT(op, PREFETCH_ADVISED, give_advice(p, op));
        p->pos += p->extent.len;
        assert(p->pos <= p->end);
    }
    op_end(op, sizeof *p, 0);
    return;
    OP_END
fail:
    op_end(op, sizeof *p, op->rc);
}

OP_TYPE(prefetch, prefetch_step, "START", "PREFETCH_LOADED", "PREFETCH_ADVISED");

void prefetch_start(struct layer *top, struct request *r)
{
    struct prefetch *p = op_alloc(r->queue, &prefetch_type, sizeof *p);

    assert(r->kind == REQ_PREFETCH && r->len > 0 && r->state == REQUEST_STARTED);
    if (!p) {
        request_end_later(r, -ENOMEM);
        return;
    }
    op_serve(&p->op, r);
    p->top = top;
    p->pos = r->guest_offset;
    p->end = r->guest_offset + r->len;
    op_start_later(&p->op); /* it may end without an await */
}
