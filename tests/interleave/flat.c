/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A reader without a lock of the table of what lies below the top, beside who gives the slot that he reads to
 * another part of the volume. What is read is of the place that was asked for.
 */
#include <stdlib.h>
#include <string.h>

#include "engine/chain/flat.h"
#include "engine/chain/layer.h"
#include "tests/interleave/common.h"

enum { PIECE = 4096, SLOT = FLAT_WORDS * PIECE, READS = 2, LAYERS = 2, HOST = 1 << 30 };

static struct {
    struct layer layers[LAYERS];
    struct flat *flat;
} x;

static int lookup(struct layer *layer, uint64_t guest_offset, uint64_t len, struct extent *ret)
{
    *ret = (struct extent){.kind = EXTENT_DATA, .host_offset = HOST + guest_offset, .len = len};
    return 0;
}

static const struct format_driver all_data = {.name = "all data", .lookup = lookup};

/* What is read at the start of a slot's range. */
static void look(unsigned slot)
{
    uint64_t at = (uint64_t)slot * SLOT;
    struct layer *layer;
    struct extent e;

    REQUIRE(flat_lookup(x.flat, at, 512, &e, &layer) == 0, "not found");
    REQUIRE(layer == &x.layers[0] && e.kind == EXTENT_DATA && e.host_offset == HOST + at && e.len == 512,
            "what is at %llx is said to be at %llx", (unsigned long long)at, (unsigned long long)e.host_offset);
}

/* All places are taken, and the first one's is the next to be given to another. */
static void setup(void)
{
    memset(&x, 0, sizeof x);
    for (unsigned i = 0; i < LAYERS; i++) {
        x.layers[i] = (struct layer){.format = &all_data, .read_only = true, .map_unit = PIECE,
                                     .backing = i + 1 < LAYERS ? &x.layers[i + 1] : NULL};
        atomic_init(&x.layers[i].reach, 2 * FLAT_WAYS * SLOT);
    }
    REQUIRE(flat_new(&x.layers[0], 1, &x.flat) == 0, "no memory");
    REQUIRE(x.flat->sets_mask == 0 && x.flat->piece_bits == 12, "a table of another kind");
    for (unsigned slot = 0; slot < FLAT_WAYS; slot++)
        look(slot);
    x.flat->sets[0].referenced[0] = 0;
    x.flat->sets[0].hand = 0;
}

static void thread(unsigned self)
{
    if (self == 1) {
        for (unsigned i = 0; i < READS; i++)
            look(0);
        return;
    }
    look(FLAT_WAYS);
    look(0);
}

static void finish(void)
{
    look(0);
    flat_free(x.flat);
}

const struct program flat_taken = {
    .name = "flat",
    .text = "a slot of the table of what lies below is given to another part, beside a reader of the first",
    .threads = 2,
    .setup = setup,
    .thread = thread,
    .finish = finish,
};
