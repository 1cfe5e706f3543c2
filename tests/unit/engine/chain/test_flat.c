/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The table of what lies below the top, against asking the layers one after the other: chains of a format that
 * maps what a random table says, and has to load now and then. From one thread, and from several, with so little
 * memory that slots change hands all the time.
 */
#include <pthread.h>

#include "engine/chain/flat.h"
#include "engine/chain/layer.h"
#include "tests/lib/rng.h"
#include "tests/unit/backend_test.h"

enum { LAYERS_MAX = 40, UNITS_MAX = 4096, REGION = 64 << 10, LOOKUPS = 6000, THREADS = 3 };

/* What the format has of a unit: its kind, and a place of its own. */
struct content {
    uint64_t host[UNITS_MAX];
    uint8_t  kind[UNITS_MAX];
    uint32_t unit;
    bool     raw;
    bool     forgets;         /* what was loaded goes again, now and then */
    _Atomic uint8_t loaded[UNITS_MAX]; /* regions */
    _Atomic unsigned lookups;
};

static bool goes_on(const struct content *c, uint64_t a, uint64_t b)
{
    if (c->kind[a] != c->kind[b] || c->kind[a] == EXTENT_COMPRESSED)
        return false;
    return c->kind[a] != EXTENT_DATA || c->host[b] == c->host[a] + (b - a) * c->unit;
}

static int content_lookup(struct layer *layer, uint64_t guest_offset, uint64_t len, struct extent *ret)
{
    struct content *c = layer->format_state;
    uint64_t first = guest_offset / c->unit, end = align_down(guest_offset, REGION) + REGION, i = first;
    unsigned n = atomic_fetch_add(&c->lookups, 1);

    assert_true(len > 0 && guest_offset + len <= atomic_load(&layer->reach));
    if (c->raw) {
        *ret = (struct extent){.kind = EXTENT_DATA, .host_offset = guest_offset, .len = len};
        return 0;
    }
    if (c->forgets && n % 500 == 0)
        atomic_store(&c->loaded[guest_offset / REGION], 0);
    if (!atomic_load(&c->loaded[guest_offset / REGION]))
        return -EAGAIN;
    while ((i + 1) * c->unit < min_u64(end, guest_offset + len) && goes_on(c, first, i + 1))
        i++;
    *ret = (struct extent){.kind = c->kind[first], .flags = EXTENT_WRITABLE,
                           .host_offset = c->host[first] + guest_offset % c->unit,
                           .len = min_u64(len, (i + 1) * c->unit - guest_offset)};
    return 0;
}

static const struct format_driver content_driver = {.name = "content", .lookup = content_lookup};

static void content_load(struct layer *layer, uint64_t guest_offset)
{
    struct content *c = layer->format_state;

    assert_true(!c->raw);
    atomic_store(&c->loaded[guest_offset / REGION], 1);
}

/* Mostly nothing, in runs of any length; some hosts that no word has room for. */
static void fill_content(struct content *c, struct rng *r, bool last)
{
    static const uint8_t kinds[] = {EXTENT_DATA, EXTENT_DATA, EXTENT_DATA, EXTENT_ZERO, EXTENT_COMPRESSED};
    unsigned chance = last ? 80 : (unsigned)rng_between(r, 3, 40);

    for (uint64_t at = 0, n; at < UNITS_MAX; at += n) {
        uint8_t kind = rng_chance(r, chance) ? kinds[rng_below(r, ARRAY_LEN(kinds))] : EXTENT_UNALLOCATED;
        uint64_t host = rng_below(r, 1u << 20) * c->unit;
        n = min_u64(rng_between(r, 1, rng_chance(r, 10) ? 300 : 8), UNITS_MAX - at);
        if (rng_chance(r, 2))
            host |= 1ull << 60;
        for (uint64_t i = 0; i < n; i++) {
            c->kind[at + i] = kind;
            c->host[at + i] = host + i * c->unit;
        }
    }
}

struct chain {
    struct layer   *layers[LAYERS_MAX];
    unsigned        count;
    uint64_t        size;
    struct flat    *flat;
    bool            forgets;
    bool            even; /* all layers have clusters of 4 KiB, and are of one size */
};

static void chain_make(struct chain *c, struct rng *r, unsigned count, uint64_t bytes)
{
    static const uint32_t units[] = {512, 2048, 4096, 16384, 65536};
    uint32_t unit = c->even ? 4096 : units[rng_below(r, ARRAY_LEN(units))];

    c->count = count;
    c->size = unit * (uint64_t)UNITS_MAX;
    for (unsigned i = 0; i < count; i++) {
        struct content *x = calloc(1, sizeof *x);
        struct layer *layer = calloc(1, sizeof *layer);
        assert_true(x && layer);
        x->unit = i % 3 == 0 || c->even ? unit : (uint32_t)min_u64(unit << rng_below(r, 3), 65536);
        x->raw = i + 1 == count && rng_chance(r, 50);
        x->forgets = c->forgets;
        fill_content(x, r, i + 1 == count);
        layer->format = &content_driver;
        layer->format_state = x;
        layer->read_only = true;
        layer->map_unit = x->raw ? 0 : x->unit;
        layer->cluster_size = layer->map_unit;
        layer->reach = rng_chance(r, 20) && !c->even ? 512 * rng_below(r, c->size / 512) : c->size;
        layer->size = layer->reach;
        c->layers[i] = layer;
        if (i > 0)
            c->layers[i - 1]->backing = layer;
    }
    OK(flat_new(c->layers[0], bytes, &c->flat));
}

static void chain_free(struct chain *c)
{
    flat_free(c->flat);
    for (unsigned i = 0; i < c->count; i++) {
        free(c->layers[i]->format_state);
        free(c->layers[i]);
    }
}

/* As who reads does. */
static void find(struct chain *c, bool flat, uint64_t at, uint64_t len, struct extent *e, struct layer **layer)
{
    for (unsigned i = 0;; i++) {
        int rc = flat ? flat_lookup(c->flat, at, len, e, layer) : chain_lookup(c->layers[0], at, len, e, layer);
        if (rc == 0)
            return;
        assert_int_equal(rc, -EAGAIN);
        assert_true(i < 100 * LAYERS_MAX);
        content_load(*layer, at);
    }
}

/* At one place both say the same; of where zeros are from nothing is said. */
static void same(struct chain *c, const struct extent *e, const struct layer *layer, uint64_t from, uint64_t at)
{
    struct extent want;
    struct layer *from_layer;

    find(c, false, at, 1, &want, &from_layer);
    assert_int_equal(e->kind, want.kind);
    if (e->kind == EXTENT_ZERO)
        return;
    assert_ptr_equal(layer, from_layer);
    if (e->kind == EXTENT_DATA)
        assert_int_equal(e->host_offset + (at - from), want.host_offset);
}

/* A lookup, with some places of what it gives; its length. */
static uint64_t look(struct chain *c, struct rng *r)
{
    uint64_t at = rng_below(r, c->size), most = rng_chance(r, 50) ? 4096 : 1 << 20;
    uint64_t len = min_u64(rng_between(r, 1, most), c->size - at);
    struct extent e;
    struct layer *layer;

    find(c, true, at, len, &e, &layer);
    assert_true(e.len > 0 && e.len <= len);
    same(c, &e, layer, at, at);
    same(c, &e, layer, at, at + e.len - 1);
    for (unsigned i = 0; i < 4; i++)
        same(c, &e, layer, at, at + rng_below(r, e.len));
    return e.len;
}

/* Untouched memory is not taken, and what is taken stays within the bound. */
static void check_memory(const struct chain *c, uint64_t bytes)
{
    assert_true(c->flat->mapped <= bytes);
    assert_true((c->flat->sets_mask + 1) * FLAT_WAYS * FLAT_WORDS * 8 < c->flat->mapped);
}

static void table_is_as_the_chain(void **state)
{
    static const uint64_t bounds[] = {4 << 10, 64 << 10, 32 << 20};
    struct rng r;

    rng_init(&r, 11);
    for (unsigned n = 0; n < 60; n++) {
        uint64_t bytes = bounds[n % ARRAY_LEN(bounds)];
        struct chain c = {.forgets = n % 4 == 0};
        chain_make(&c, &r, 2 + (unsigned)rng_below(&r, n % 8 == 0 ? LAYERS_MAX - 1 : 5), bytes);
        check_memory(&c, bytes);
        for (unsigned i = 0; i < LOOKUPS; i++)
            look(&c, &r);
        chain_free(&c);
    }
}

static unsigned count_lookups(const struct chain *c)
{
    unsigned n = 0;

    for (unsigned i = 0; i < c->count; i++)
        n += atomic_load(&((struct content *)c->layers[i]->format_state)->lookups);
    return n;
}

/* What has been looked for once is found without asking any layer, unless there is no word for it. */
static void what_is_known_asks_nobody(void **state)
{
    struct chain c = {.even = true};
    unsigned cheap = 0, before;
    struct extent e;
    struct layer *layer;
    struct rng r;

    rng_init(&r, 12);
    chain_make(&c, &r, 30, 32 << 20);
    for (uint64_t at = 0; at < c.size; at += 4096)
        find(&c, true, at, 1, &e, &layer);
    for (uint64_t at = 0; at < c.size; at += 4096) {
        before = count_lookups(&c);
        find(&c, true, at + 512, 1024, &e, &layer);
        if (e.kind == EXTENT_ZERO || (e.kind == EXTENT_DATA && e.host_offset < 1ull << 56)) {
            assert_int_equal(count_lookups(&c), before);
            cheap++;
        }
    }
    assert_in_range(cheap, c.size / 4096 / 2, c.size / 4096 - 1);
    chain_free(&c);
}

static struct content *chain_content(const struct chain *c, unsigned layer)
{
    return c->layers[layer]->format_state;
}

/* All of a layer is of one kind, in clusters of `unit`. */
static void content_set(struct chain *c, unsigned layer, uint32_t unit, enum extent_kind kind)
{
    struct content *x = chain_content(c, layer);

    x->unit = unit;
    x->raw = false;
    memset(x->kind, kind, sizeof x->kind);
    c->layers[layer]->map_unit = c->layers[layer]->cluster_size = unit;
}

/* Smaller pieces above do not cut a compressed cluster, but where there is something in them. */
static void compressed_clusters_stay_whole(void **state)
{
    enum { CLUSTER = 64 << 10, PIECE = 4096 };
    struct chain c = {.even = true};
    struct extent e;
    struct layer *layer;
    struct rng r;

    rng_init(&r, 15);
    chain_make(&c, &r, 3, 32 << 20);
    content_set(&c, 0, PIECE, EXTENT_UNALLOCATED);
    content_set(&c, 1, PIECE, EXTENT_UNALLOCATED);
    content_set(&c, 2, CLUSTER, EXTENT_COMPRESSED);
    chain_content(&c, 1)->kind[3 * CLUSTER / PIECE + 5] = EXTENT_DATA;
    for (uint64_t at = 0; at < 3 * CLUSTER; at += 512) {
        find(&c, true, at, 1 << 20, &e, &layer);
        assert_int_equal(e.kind, EXTENT_COMPRESSED);
        assert_ptr_equal(layer, c.layers[2]);
        assert_int_equal(e.len, CLUSTER - at % CLUSTER);
    }
    find(&c, true, 3 * CLUSTER, 1 << 20, &e, &layer);
    assert_int_equal(e.kind, EXTENT_COMPRESSED);
    assert_int_equal(e.len, 5 * PIECE);
    find(&c, true, 3 * CLUSTER + 5 * PIECE, 1 << 20, &e, &layer);
    assert_int_equal(e.kind, EXTENT_DATA);
    assert_int_equal(e.len, PIECE);
    find(&c, true, 3 * CLUSTER + 6 * PIECE, 1 << 20, &e, &layer);
    assert_int_equal(e.len, 10 * PIECE);
    find(&c, true, 4 * CLUSTER, PIECE + 1, &e, &layer); /* no more than was asked for */
    assert_int_equal(e.len, PIECE + 1);
    chain_free(&c);
}

/* Two are few enough to be asked, and one is no chain. */
static void short_chains_have_none(void **state)
{
    struct chain c = {0};
    struct rng r;

    rng_init(&r, 13);
    chain_make(&c, &r, FLAT_LAYERS_MIN - 1, 1 << 20);
    assert_null(c.flat);
    chain_free(&c);
}

struct reader {
    pthread_t     thread;
    struct chain *chain;
    uint64_t      seed;
};

static void *reader_run(void *arg)
{
    struct reader *x = arg;
    struct rng r;

    rng_init(&r, x->seed);
    for (unsigned i = 0; i < 4 * LOOKUPS; i++)
        look(x->chain, &r);
    return NULL;
}

static void threads_get_the_same(void **state)
{
    struct rng r;

    rng_init(&r, 14);
    for (unsigned n = 0; n < 6; n++) {
        struct chain c = {.forgets = true};
        struct reader readers[THREADS];
        chain_make(&c, &r, 2 + n, n % 2 ? 8 << 10 : 64 << 10);
        for (unsigned i = 0; i < THREADS; i++) {
            readers[i] = (struct reader){.chain = &c, .seed = rng_next(&r)};
            assert_int_equal(pthread_create(&readers[i].thread, NULL, reader_run, &readers[i]), 0);
        }
        for (unsigned i = 0; i < THREADS; i++)
            pthread_join(readers[i].thread, NULL);
        chain_free(&c);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(table_is_as_the_chain),
        cmocka_unit_test(what_is_known_asks_nobody),
        cmocka_unit_test(compressed_clusters_stay_whole),
        cmocka_unit_test(short_chains_have_none),
        cmocka_unit_test(threads_get_the_same),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
