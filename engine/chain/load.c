/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Loading what it takes to find a place of a chain.
 *
 * Happy path: the layer that was asked loads its metadata; where it has nothing, the next two that have to do so
 * at the same time, then four, and so on: so few load for nothing, and what lies two hundred layers down is found
 * after some twenty waits. A top with a table of what lies below it (flat.h) loads alone, and that is all. For who
 * goes through a range each loads a longer piece of it, where its format can do that in few reads.
 * Failure modes: a load that was made alone fails; of several one does, or that of a longer piece: then the first
 * is made again alone, since nobody knows yet whether the others matter. What was loaded may be gone again: who
 * asked looks. Of damage in a layer that another may hide nothing is said before it is that layer's turn.
 */
#include <errno.h>
#include <stddef.h>

#include "engine/base/bits.h"
#include "engine/base/mutant.h"
#include "engine/chain/layer.h"
#include "engine/loop/queue.h"

enum { LOADS_MAX = 16 };

/* Metadata that is loaded for a range: of all layers at first, and at most; and of one layer at least. */
enum { RANGE_FIRST = 64 << 10, RANGE_MOST = 1 << 20, RANGE_LEAST = 16 << 10 };

struct chain_load {
    struct op       op;
    struct layer   *layer; /* the next one to be loaded */
    uint64_t        guest_offset, len; /* 0: of one place */
    uint64_t        bytes; /* of a range: so much metadata */
    bool            alone; /* what lies below is not asked */
    unsigned        most;  /* so many at a time */
    unsigned        count; /* so many were */
    struct op_child child[LOADS_MAX];
};

enum chain_load_state { LOAD_START = OP_START, LOAD_SEVERAL, LOAD_ALONE };

/* Has this layer to load there, or something to say, or nothing (then the next one comes)? */
enum answer { MUST_LOAD, HAS_IT, HAS_NOTHING };

static enum answer ask(struct layer *layer, uint64_t guest_offset)
{
    struct extent e;

    if (guest_offset >= atomic_load_explicit(&layer->reach, memory_order_acquire))
        return HAS_IT; /* zeros: nobody below is asked */
    if (layer->format->lookup(layer, guest_offset, 1, &e) < 0)
        return MUST_LOAD;
    return e.kind == EXTENT_UNALLOCATED ? HAS_NOTHING : HAS_IT;
}

/* Of the range, as much as the layer can have anything of: it may be much smaller than the top. */
static uint64_t len_in(const struct chain_load *l, const struct layer *layer)
{
    uint64_t reach = atomic_load_explicit(&layer->reach, memory_order_acquire);

    return reach > l->guest_offset ? min_u64(l->len, reach - l->guest_offset) : l->len;
}

/* The first one is known to matter. The others may be hidden: then nobody cares how damaged they are. */
static void load_one(const struct chain_load *l, struct layer *layer, struct op *op)
{
    if (l->len > 0 && layer->format->load_range)
        layer->format->load_range(layer, l->guest_offset, len_in(l, layer),
                                  max_u64(l->bytes / l->most, RANGE_LEAST), op);
    else if (layer == l->layer || ENGINE_MUTANT(AHEAD_JUDGED))
        layer->format->load(layer, l->guest_offset, op);
    else
        layer->format->load_ahead(layer, l->guest_offset, op);
}

/* The call of an await. The first layer must load, it was asked. */
static void load_several(struct chain_load *l, struct op *op)
{
    enum answer answer = MUST_LOAD;

    op_io_begin(op);
    l->count = 0;
    for (struct layer *layer = l->layer; layer && l->count < l->most; layer = layer->backing) {
        if (layer != l->layer)
            answer = ask(layer, l->guest_offset);
        if (answer == HAS_IT)
            break;
        if (answer == MUST_LOAD)
            load_one(l, layer, op_child_add(op, &l->child[l->count++]));
    }
    assert(l->count > 0 && l->count <= LOADS_MAX);
    op_io_wait(op);
}

/* To the layer below that has to load next. False: there is none, or the same one again. */
static bool go_down(struct chain_load *l)
{
    struct layer *layer = l->layer;
    enum answer answer;

    if (l->alone)
        return false;
    while ((answer = ask(layer, l->guest_offset)) == HAS_NOTHING && layer->backing)
        layer = layer->backing;
    if (answer != MUST_LOAD || layer == l->layer)
        return false;
    l->layer = layer;
    l->most = (unsigned)min_u64(2 * l->most, LOADS_MAX);
    return true;
}

static void chain_load_step(struct op *op)
{
    struct chain_load *l = container_of(op, struct chain_load, op);

    OP_BEGIN(enum chain_load_state, op)
    do {
        OP_AWAIT(op, LOAD_SEVERAL, load_several(l, op));
        if (op->rc < 0 && l->count == 1 && l->len == 0)
            goto fail;
        if (op->rc < 0 || (l->len > 0 && ask(l->layer, l->guest_offset) == MUST_LOAD))
            OP_TRY(op, LOAD_ALONE, l->layer->format->load(l->layer, l->guest_offset, op));
    } while (go_down(l));
    op_end(op, sizeof *l, 0);
    return;
    OP_END
fail:
    op_end(op, sizeof *l, op->rc);
}

OP_TYPE(chain_load, chain_load_step, "START", "LOAD_SEVERAL", "LOAD_ALONE");

/* What lies below the top may be in its table: who asked looks there before more is loaded. */
static bool loads_alone(const struct layer *layer)
{
    return !layer->backing || layer->flat;
}

static void start(struct layer *layer, uint64_t guest_offset, uint64_t len, uint64_t bytes, struct op *op)
{
    struct chain_load *l =
        op_alloc_head(op->queue, &chain_load_type, sizeof *l, offsetof(struct chain_load, child));

    if (!l) {
        op_wake(op, -ENOMEM);
        return;
    }
    l->op.parent = op;
    l->layer = layer;
    l->guest_offset = guest_offset;
    l->len = len;
    l->bytes = bytes;
    l->alone = loads_alone(layer);
    l->most = layer->below_flat ? 2 : 1; /* the top, which is not loaded with it, was the first */
    if (l->alone)
        l->most = 1;
    op_start(&l->op);
}

void chain_load(struct layer *layer, uint64_t guest_offset, struct op *op)
{
    assert(layer->format->load != NULL);
    if (loads_alone(layer))
        layer->format->load(layer, guest_offset, op);
    else
        start(layer, guest_offset, 0, 0, op);
}

void chain_load_range(struct layer *layer, uint64_t guest_offset, uint64_t len, unsigned nth, struct op *op)
{
    uint64_t bytes = min_u64((uint64_t)RANGE_FIRST << min_u64(2 * (uint64_t)nth, 16), RANGE_MOST);

    assert(len > 0);
    if (layer->format->load_range)
        start(layer, guest_offset, len, bytes, op);
    else
        chain_load(layer, guest_offset, op);
}
