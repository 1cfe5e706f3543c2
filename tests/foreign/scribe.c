/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * In three steps: decide what there is ("pieces": runs of clusters), give each piece its place, write them with
 * the entries that point from one to the other. References are counted on the way.
 */
#include "tests/foreign/scribe.h"

#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include "engine/base/bits.h"
#include "tests/lib/rng.h"
#include "tests/lib/test.h"

enum {
    PIECES_MAX = 2048,
    GUEST_MAX = 2048,
    L2_MAX = 64,
    CLUSTER_MAX = 64 << 10,
    SNAPSHOTS_MAX = 2,
    NAME_SPACE = 64,
};

#define COPIED     (UINT64_C(1) << 63)
#define COMPRESSED (UINT64_C(1) << 62)

const char *const scribe_habits[HABITS] = {
    "tables in any order",
    "gaps",
    "leaked clusters",
    "no COPIED flags",
    "lazy refcounts, marked dirty",
    "no refcounts",
    "no refcounts for guest data",
    "long L1 table",
    "long refcount table",
    "unknown extensions",
    "extensions twice",
    "unknown features",
    "trailing bytes",
    "space set aside after it",
    "ragged end",
    "a bitmap that records writes",
};

struct piece {
    uint64_t clusters, host;
};

struct guest {
    enum { G_NONE, G_ZERO, G_ZERO_WITH_HOST, G_DATA, G_COMPRESSED } kind;
    unsigned piece;
    unsigned place; /* G_COMPRESSED: so many before it in the piece */
    uint64_t in_piece, compressed_len;
    bool in_snapshot;     /* as it is now */
    uint32_t there, zero; /* extended: the subclusters */
};

struct scribe {
    struct rng rng;
    uint32_t habits;
    uint32_t version, bits, order, header_length;
    bool extended, backing;
    uint64_t cluster, size, guests, per_table, tables;
    unsigned snapshots;
    bool own_tables; /* snapshots have L2 tables of their own, else they share the active ones */
    bool bitmap;

    struct piece piece[PIECES_MAX];
    unsigned pieces;
    struct guest guest[GUEST_MAX];
    unsigned l1, l2[L2_MAX], reftable, snapshot_table, directory, bitmap_table, bitmap_data, blocks;
    unsigned snapshot_l1[SNAPSHOTS_MAX], snapshot_l2[SNAPSHOTS_MAX][L2_MAX];
    uint64_t l1_entries, nblocks;
    uint64_t clusters; /* of the file, trailing bytes apart */
    uint8_t *bytes;
    uint64_t len;
    uint64_t *refs;
};

static bool has(const struct scribe *s, enum scribe_habit h)
{
    return s->habits >> h & 1;
}

static unsigned add_piece(struct scribe *s, uint64_t clusters)
{
    CHECK(s->pieces < PIECES_MAX);
    s->piece[s->pieces].clusters = clusters;
    return s->pieces++;
}

/* ---- what there is --------------------------------------------------------------------------------------- */

static void choose_habits(struct scribe *s, uint32_t may)
{
    static const uint8_t percent[HABITS] = {60, 50, 20, 12, 8, 5, 8, 25, 20, 25, 10, 15, 20, 15, 10, 3};

    for (unsigned i = 0; i < HABITS; i++)
        s->habits |= (uint32_t)rng_chance(&s->rng, percent[i]) << i;
    if (s->habits & (1u << HABIT_TRAILING | 1u << HABIT_TAIL))
        s->habits &= ~(1u << HABIT_RAGGED);
    if (s->version == 2)
        s->habits &= ~(1u << HABIT_LAZY | 1u << HABIT_BITS);
    s->habits &= may;
}

static void choose_format(struct scribe *s)
{
    static const uint8_t bits[] = {9, 9, 9, 10, 11, 12, 12, 12, 13, 14, 14, 16};
    static const uint32_t lengths[] = {104, 104, 104, 108, 112, 112, 120};
    struct rng *r = &s->rng;
    uint64_t most;

    s->version = rng_chance(r, 20) ? 2 : 3;
    s->bits = bits[rng_below(r, ARRAY_LEN(bits))];
    s->order = s->version == 2 || rng_chance(r, 50) ? 4 : (uint32_t)rng_below(r, 7);
    s->extended = s->version == 3 && s->bits >= 14 && rng_chance(r, 60);
    s->header_length = s->version == 2 ? 72 : lengths[rng_below(r, ARRAY_LEN(lengths))];
    s->cluster = UINT64_C(1) << s->bits;
    s->per_table = s->cluster / (s->extended ? 16 : 8);
    most = min_u64(GUEST_MAX, max_u64(16, (768u << 10) / s->cluster));
    s->size = rng_between(r, s->cluster / 2, most * s->cluster) & ~UINT64_C(511);
    if (s->bits > 9 && rng_chance(r, 60))
        s->size = align_down(s->size, s->cluster);
    s->size = max_u64(s->size, 512);
    s->guests = div_up(s->size, s->cluster);
    s->tables = div_up(s->guests, s->per_table);
    s->backing = rng_chance(r, 25);
    s->snapshots = s->order >= 1 && rng_chance(r, 35) ? (unsigned)rng_between(r, 1, SNAPSHOTS_MAX) : 0;
    if ((UINT64_C(1) << min_u64(1u << s->order, 40)) <= s->snapshots + 1)
        s->snapshots = 0;
    s->own_tables = rng_chance(r, 50);
    s->bitmap = s->version == 3 && rng_chance(r, 20);
}

/* Content of a guest cluster that compresses to less than half. */
static void compressible(struct rng *r, uint8_t *buf, uint64_t len)
{
    uint8_t period[61];

    rng_fill(r, period, sizeof period);
    for (uint64_t i = 0; i < len; i++)
        buf[i] = period[i % sizeof period];
}

static void choose_subclusters(struct scribe *s, struct guest *g)
{
    uint32_t a = (uint32_t)rng_next(&s->rng), b = (uint32_t)rng_next(&s->rng);

    if (rng_chance(&s->rng, 50))
        a = b = UINT32_MAX;
    g->there = g->kind == G_DATA ? a | 1 : 0;
    g->zero = g->kind == G_NONE ? 0 : g->kind == G_DATA ? ~a & b & ~1u : UINT32_MAX;
}

/* Compressed clusters come in runs, several to a piece of two clusters. */
static void choose_compressed(struct scribe *s, struct guest *g, const struct guest *before)
{
    bool joins =
        before && before->kind == G_COMPRESSED && s->order >= 3 && before->place < 5 && rng_chance(&s->rng, 60);

    g->kind = G_COMPRESSED;
    g->piece = joins ? before->piece : add_piece(s, 2);
    g->place = joins ? before->place + 1 : 0;
}

static void choose_guests(struct scribe *s)
{
    unsigned dense = (unsigned)rng_between(&s->rng, 10, 90);

    for (uint64_t i = 0; i < s->guests; i++) {
        struct guest *g = &s->guest[i];
        unsigned dice = (unsigned)rng_below(&s->rng, s->order >= 1 && s->cluster <= 4096 ? 100 : 87);
        if (!rng_chance(&s->rng, dense) || s->pieces > PIECES_MAX - 200)
            continue;
        g->in_snapshot = rng_chance(&s->rng, 60);
        if (dice < 70) {
            g->kind = G_DATA;
            g->piece = add_piece(s, 1);
        } else if (dice < 80 && s->version == 3) {
            g->kind = G_ZERO;
        } else if (dice < 87 && s->version == 3) {
            g->kind = G_ZERO_WITH_HOST;
            g->piece = add_piece(s, 1);
        } else {
            choose_compressed(s, g, i > 0 ? g - 1 : NULL);
        }
        if (s->extended)
            choose_subclusters(s, g);
    }
}

static void choose_pieces(struct scribe *s)
{
    s->l1_entries = s->tables + (has(s, HABIT_LONG_L1) ? rng_between(&s->rng, 1, s->cluster / 4) : 0);
    s->l1 = add_piece(s, div_up(s->l1_entries * 8, s->cluster));
    s->reftable = add_piece(s, has(s, HABIT_LONG_REFTABLE) ? 2 : 1);
    for (uint64_t t = 0; t < s->tables; t++)
        s->l2[t] = add_piece(s, 1);
    for (unsigned i = 0; i < s->snapshots; i++) {
        s->snapshot_l1[i] = add_piece(s, div_up(s->tables * 8, s->cluster));
        for (uint64_t t = 0; t < s->tables && s->own_tables; t++)
            s->snapshot_l2[i][t] = add_piece(s, 1);
    }
    if (s->snapshots)
        s->snapshot_table = add_piece(s, 1);
    if (s->bitmap) {
        s->directory = add_piece(s, 1);
        s->bitmap_table = add_piece(s, 1);
        s->bitmap_data = add_piece(s, 1);
    }
}

/* ---- where it is ----------------------------------------------------------------------------------------- */

/* So many blocks that they count themselves. */
static void choose_blocks(struct scribe *s)
{
    uint64_t per_block = s->cluster * 8 >> s->order, n = 1; /* the header */

    for (unsigned i = 0; i < s->pieces; i++)
        n += s->piece[i].clusters;
    for (s->nblocks = 1; s->nblocks * per_block < n + s->nblocks;)
        s->nblocks++;
    s->blocks = s->pieces;
    for (uint64_t i = 0; i < s->nblocks; i++)
        add_piece(s, 1);
    s->clusters = n + s->nblocks;
}

static void place(struct scribe *s)
{
    unsigned order[PIECES_MAX];
    uint64_t at = s->cluster;

    for (unsigned i = 0; i < s->pieces; i++)
        order[i] = i;
    for (unsigned i = s->pieces; i > 1; i--) {
        unsigned k = (unsigned)rng_below(&s->rng, i), x = order[k];
        if (!has(s, HABIT_SHUFFLED))
            continue;
        order[k] = order[i - 1];
        order[i - 1] = x;
    }
    for (unsigned i = 0; i < s->pieces; i++) {
        s->piece[order[i]].host = at;
        at += s->piece[order[i]].clusters * s->cluster;
    }
    s->len = at;
}

/* ---- writing it ------------------------------------------------------------------------------------------ */

static uint8_t *at_piece(struct scribe *s, unsigned piece)
{
    return s->bytes + s->piece[piece].host;
}

static void count(struct scribe *s, uint64_t host, uint64_t len, uint64_t n)
{
    for (uint64_t i = host / s->cluster; i < div_up(host + len, s->cluster); i++)
        s->refs[i] += n;
}

static void count_piece(struct scribe *s, unsigned piece, uint64_t n)
{
    count(s, s->piece[piece].host, s->piece[piece].clusters * s->cluster, n);
}

static void count_guest(struct scribe *s, const struct guest *g, uint64_t n)
{
    if (g->kind == G_COMPRESSED)
        count(s, s->piece[g->piece].host + g->in_piece, g->compressed_len, n);
    else if (g->kind != G_NONE && g->kind != G_ZERO)
        count_piece(s, g->piece, n);
}

/* How many tables point to a guest cluster. */
static uint64_t references(const struct scribe *s, const struct guest *g)
{
    if (s->own_tables && !g->in_snapshot)
        return 1;
    return 1 + s->snapshots; /* also where the L2 table is shared: the data counts for each that leads to it */
}

/* Raw deflate with QEMU's window. Its length. */
static uint64_t pack(const uint8_t *in, uint64_t len, uint8_t *out, uint64_t space)
{
    z_stream z = {.next_in = unconst(in), .avail_in = (uInt)len, .next_out = out, .avail_out = (uInt)space};

    CHECK(deflateInit2(&z, 6, Z_DEFLATED, -12, 9, Z_DEFAULT_STRATEGY) == Z_OK);
    CHECK(deflate(&z, Z_FINISH) == Z_STREAM_END);
    deflateEnd(&z);
    return space - z.avail_out;
}

static uint64_t compressed_word(const struct scribe *s, const struct guest *g)
{
    uint64_t host = s->piece[g->piece].host + g->in_piece;

    return COMPRESSED | ((host + g->compressed_len - 1) / 512 - host / 512) << (62 - (s->bits - 8)) | host;
}

static void write_guest(struct scribe *s, struct guest *g)
{
    static uint8_t buf[CLUSTER_MAX];

    if (g->kind == G_NONE || g->kind == G_ZERO)
        return;
    if (g->kind == G_COMPRESSED) {
        compressible(&s->rng, buf, s->cluster);
        g->in_piece = g->place ? g[-1].in_piece + g[-1].compressed_len : rng_below(&s->rng, s->cluster);
        g->compressed_len =
            pack(buf, s->cluster, at_piece(s, g->piece) + g->in_piece, 2 * s->cluster - g->in_piece);
    } else {
        rng_fill(&s->rng, at_piece(s, g->piece), s->cluster);
    }
    count_guest(s, g, references(s, g));
}

static uint64_t guest_word(const struct scribe *s, const struct guest *g, bool shared)
{
    uint64_t flags = shared || has(s, HABIT_NO_COPIED) ? 0 : COPIED;

    switch (g->kind) {
    case G_DATA:
        return s->piece[g->piece].host | flags;
    case G_ZERO_WITH_HOST:
        return s->piece[g->piece].host | flags | !s->extended;
    case G_ZERO:
        return !s->extended;
    case G_COMPRESSED:
        return compressed_word(s, g);
    case G_NONE:
        break;
    }
    return 0;
}

/* Table `t` in a piece: of the active disk, or of a snapshot. */
static void write_l2(struct scribe *s, unsigned piece, uint64_t t, bool snapshot)
{
    uint8_t *p = at_piece(s, piece);

    for (uint64_t k = 0; k < s->per_table && t * s->per_table + k < s->guests; k++) {
        const struct guest *g = &s->guest[t * s->per_table + k];
        uint8_t *at = p + k * (s->extended ? 16 : 8);
        if (snapshot && !g->in_snapshot)
            continue;
        put_be64(at, guest_word(s, g, snapshot || references(s, g) > 1));
        if (s->extended && g->kind != G_COMPRESSED)
            put_be64(at + 8, (uint64_t)g->zero << 32 | g->there);
    }
}

static void write_tables(struct scribe *s)
{
    bool shared = s->snapshots > 0 && !s->own_tables;

    for (uint64_t t = 0; t < s->tables; t++) {
        write_l2(s, s->l2[t], t, false);
        put_be64(at_piece(s, s->l1) + 8 * t,
                 s->piece[s->l2[t]].host | (shared || has(s, HABIT_NO_COPIED) ? 0 : COPIED));
        count_piece(s, s->l2[t], 1 + (shared ? s->snapshots : 0));
        for (unsigned i = 0; i < s->snapshots; i++) {
            unsigned piece = s->own_tables ? s->snapshot_l2[i][t] : s->l2[t];
            put_be64(at_piece(s, s->snapshot_l1[i]) + 8 * t, s->piece[piece].host);
            if (!s->own_tables)
                continue;
            write_l2(s, piece, t, true);
            count_piece(s, piece, 1);
        }
    }
    count_piece(s, s->l1, 1);
    count_piece(s, s->reftable, 1);
    for (unsigned i = 0; i < s->snapshots; i++)
        count_piece(s, s->snapshot_l1[i], 1);
}

static void write_snapshots(struct scribe *s)
{
    uint8_t *p;

    if (s->snapshots == 0)
        return;
    p = at_piece(s, s->snapshot_table);
    for (unsigned i = 0; i < s->snapshots; i++) {
        put_be64(p, s->piece[s->snapshot_l1[i]].host);
        put_be32(p + 8, (uint32_t)s->tables);
        put_be16(p + 12, 1);
        put_be16(p + 14, 4);
        put_be32(p + 16, 1700000000);
        put_be32(p + 36, 16);
        put_be64(p + 48, s->size);
        memcpy(p + 56, i ? "2two_" : "1one_", 5);
        p += 64;
    }
    count_piece(s, s->snapshot_table, 1);
}

static void write_bitmap(struct scribe *s)
{
    uint8_t *p;

    if (!s->bitmap)
        return;
    p = at_piece(s, s->directory);
    put_be64(p, s->piece[s->bitmap_table].host);
    put_be32(p + 8, 1);
    put_be32(p + 12, has(s, HABIT_RECORDING) ? 2 : 0);
    p[16] = 1;
    p[17] = 16;
    put_be16(p + 18, 3);
    memcpy(p + 24, "map", 3);
    put_be64(at_piece(s, s->bitmap_table), s->piece[s->bitmap_data].host);
    memset(at_piece(s, s->bitmap_data), 0x55, 2);
    count_piece(s, s->directory, 1);
    count_piece(s, s->bitmap_table, 1);
    count_piece(s, s->bitmap_data, 1);
}

static uint8_t *extension(uint8_t *p, uint32_t type, const void *data, uint32_t len)
{
    put_be32(p, type);
    put_be32(p + 4, len);
    if (len > 0)
        memcpy(p + 8, data, len);
    return p + 8 + align_up(len, 8);
}

static uint8_t *write_extensions(struct scribe *s, uint8_t *p)
{
    uint8_t names[48] = {0, 0, 'd', 'i', 'r', 't', 'y'}, bitmaps[24] = {0};

    if (has(s, HABIT_EXTENSIONS))
        p = extension(p, 0x12345678, "what is this?", (uint32_t)rng_below(&s->rng, 14));
    for (unsigned i = 0; i < 1u + has(s, HABIT_TWO_FORMATS) && s->backing; i++)
        p = extension(p, 0xe2792aca, "raw", 3);
    for (unsigned i = 0; i < 1u + has(s, HABIT_TWO_FORMATS) && s->version == 3; i++)
        p = extension(p, 0x6803f857, names, 48);
    if (s->bitmap) {
        put_be32(bitmaps, 1);
        put_be64(bitmaps + 8, 32);
        put_be64(bitmaps + 16, s->piece[s->directory].host);
        p = extension(p, 0x23852875, bitmaps, 24);
    }
    if (has(s, HABIT_EXTENSIONS))
        p = extension(p, 0xdeadbeef, NULL, 0);
    return extension(p, 0, NULL, 0);
}

static void write_header(struct scribe *s)
{
    static const char name[] = "sim:base";
    uint8_t *h = s->bytes, *p;
    uint64_t autoclear = s->bitmap | (has(s, HABIT_BITS) ? UINT64_C(1) << 40 : 0);

    put_be32(h, 0x514649fb);
    put_be32(h + 4, s->version);
    put_be32(h + 20, s->bits);
    put_be64(h + 24, s->size);
    put_be32(h + 36, (uint32_t)s->l1_entries);
    put_be64(h + 40, s->piece[s->l1].host);
    put_be64(h + 48, s->piece[s->reftable].host);
    put_be32(h + 56, (uint32_t)s->piece[s->reftable].clusters);
    put_be32(h + 60, s->snapshots);
    put_be64(h + 64, s->snapshots ? s->piece[s->snapshot_table].host : 0);
    if (s->version == 3) {
        put_be64(h + 72, (has(s, HABIT_LAZY) ? 1u : 0) | (s->extended ? 16u : 0));
        put_be64(h + 80, (has(s, HABIT_LAZY) ? 1u : 0) | (has(s, HABIT_BITS) ? UINT64_C(1) << 33 : 0));
        put_be64(h + 88, autoclear);
        put_be32(h + 96, s->order);
        put_be32(h + 100, s->header_length);
    }
    p = write_extensions(s, h + s->header_length);
    if (s->backing) {
        put_be64(h + 8, (uint64_t)(p - h));
        put_be32(h + 16, sizeof name - 1);
        memcpy(p, name, sizeof name - 1);
    }
    count(s, 0, s->cluster, 1);
}

static void put_refcount(struct scribe *s, uint64_t index, uint64_t value)
{
    uint64_t bits = UINT64_C(1) << s->order, per_block = s->cluster * 8 >> s->order;
    uint8_t *block = at_piece(s, s->blocks + (unsigned)(index / per_block));
    uint64_t at = index % per_block * bits;

    if (bits < 8) {
        block[at / 8] |= (uint8_t)(value << at % 8);
        return;
    }
    for (unsigned i = 0; i < bits / 8; i++)
        block[at / 8 + i] = (uint8_t)(value >> (bits - 8 - 8 * i));
}

static bool is_guest_data(const struct scribe *s, uint64_t index)
{
    for (uint64_t i = 0; i < s->guests; i++) {
        const struct guest *g = &s->guest[i];
        uint64_t first = s->piece[g->piece].host / s->cluster;
        if (g->kind != G_NONE && g->kind != G_ZERO && index >= first &&
            index < first + s->piece[g->piece].clusters)
            return true;
    }
    return false;
}

static void write_refcounts(struct scribe *s)
{
    for (uint64_t i = 0; i < s->nblocks; i++) {
        put_be64(at_piece(s, s->reftable) + 8 * i, s->piece[s->blocks + i].host);
        count_piece(s, s->blocks + (unsigned)i, 1);
    }
    for (uint64_t i = 0; i < s->clusters; i++) {
        uint64_t refs = s->refs[i];
        if (refs == 0 && has(s, HABIT_LEAKS) && rng_chance(&s->rng, 40))
            refs = 1;
        if (has(s, HABIT_LAZY) || has(s, HABIT_NO_REFCOUNTS) ||
            (has(s, HABIT_DATA_UNCOUNTED) && refs > 0 && is_guest_data(s, i)))
            refs = 0;
        put_refcount(s, i, refs);
    }
}

static void finish(struct scribe *s, struct scribe_image *ret)
{
    uint64_t tail = s->len;
    bool data = is_guest_data(s, s->clusters - 1);

    /* Data that is cut off reads as zeros; of tables nothing is. */
    if (has(s, HABIT_RAGGED) && data)
        tail -= rng_below(&s->rng, s->cluster / 512) * 512;
    ret->tail = ret->len = tail;
    if (has(s, HABIT_TRAILING))
        ret->len += rng_between(&s->rng, 1, 40000);
    else if (has(s, HABIT_TAIL))
        ret->len += rng_between(&s->rng, 1, 40) * s->cluster;
    ret->bytes = test_alloc(ret->len);
    memcpy(ret->bytes, s->bytes, tail);
    if (has(s, HABIT_TRAILING))
        rng_fill(&s->rng, ret->bytes + tail, ret->len - tail);
}

void scribe_image(uint64_t seed, uint32_t *habits, struct scribe_image *ret)
{
    struct scribe *s = test_alloc(sizeof *s);
    unsigned gaps;

    rng_init(&s->rng, seed);
    choose_format(s);
    choose_habits(s, *habits);
    choose_guests(s);
    choose_pieces(s);
    gaps = (unsigned)rng_between(&s->rng, 1, 12);
    for (unsigned i = 0; i < gaps && has(s, HABIT_GAPS); i++)
        add_piece(s, rng_between(&s->rng, 1, 3));
    choose_blocks(s);
    place(s);
    s->bytes = test_alloc(s->len);
    s->refs = test_alloc((s->clusters + 1) * sizeof *s->refs);
    if (has(s, HABIT_GAPS) && rng_chance(&s->rng, 50))
        rng_fill(&s->rng, s->bytes, s->len);
    for (unsigned i = 0; i < s->pieces; i++)
        if (i >= s->blocks || i < s->blocks - (has(s, HABIT_GAPS) ? gaps : 0))
            memset(at_piece(s, i), 0, s->piece[i].clusters * s->cluster);
    memset(s->bytes, 0, s->cluster);
    for (uint64_t i = 0; i < s->guests; i++)
        write_guest(s, &s->guest[i]);
    write_tables(s);
    write_snapshots(s);
    write_bitmap(s);
    write_header(s);
    write_refcounts(s);
    finish(s, ret);
    *habits = s->habits;
    free(s->refs);
    free(s->bytes);
    free(s);
}
