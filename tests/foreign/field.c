/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tests/foreign/field.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "engine/base/bits.h"
#include "tests/lib/rng.h"
#include "tests/lib/test.h"

/* What values make sense for it, or the best nonsense. */
enum kind { LENGTH, NUMBER, FLAGS, OFFSET, ENTRY, L2_ENTRY, COMPRESSED, SUBCLUSTERS, REFCOUNT };

struct field {
    uint64_t at;
    unsigned width;     /* bytes */
    unsigned bit, bits; /* of a refcount narrower than a byte */
    enum kind kind;
    char name[FIELD_NAME];
};

struct picker {
    const struct walk *w;
    struct rng rng;
    struct field f;
};

struct known {
    uint16_t at;
    uint8_t width;
    enum kind kind;
    const char *name;
};

static bool set(struct picker *p, uint64_t at, unsigned width, enum kind kind)
{
    p->f.at = at;
    p->f.width = width;
    p->f.kind = kind;
    return at + width <= p->w->len;
}

#define NAMED(p, ...) snprintf((p)->f.name, FIELD_NAME, __VA_ARGS__)

/* ---- the fields ------------------------------------------------------------------------------------------ */

static bool pick_header(struct picker *p)
{
    static const struct known fields[] = {
        {8, 8, OFFSET, "backing file offset"},
        {16, 4, LENGTH, "backing file name length"},
        {20, 4, NUMBER, "cluster bits"},
        {24, 8, LENGTH, "virtual size"},
        {32, 4, NUMBER, "encryption method"},
        {36, 4, LENGTH, "L1 table length"},
        {36, 4, LENGTH, "L1 table length"},
        {40, 8, OFFSET, "L1 table offset"},
        {40, 8, OFFSET, "L1 table offset"},
        {48, 8, OFFSET, "refcount table offset"},
        {48, 8, OFFSET, "refcount table offset"},
        {56, 4, LENGTH, "refcount table clusters"},
        {56, 4, LENGTH, "refcount table clusters"},
        {60, 4, LENGTH, "number of snapshots"},
        {64, 8, OFFSET, "snapshot table offset"},
        {72, 8, FLAGS, "incompatible features"},
        {80, 8, FLAGS, "compatible features"},
        {88, 8, FLAGS, "autoclear features"},
        {96, 4, NUMBER, "refcount order"},
        {100, 4, LENGTH, "header length"},
        {104, 1, NUMBER, "compression type"},
    };
    unsigned n = p->w->version == 2 ? 15 : ARRAY_LEN(fields);
    const struct known *k = &fields[rng_below(&p->rng, n)];

    NAMED(p, "header: %s", k->name);
    return set(p, k->at, k->width, k->kind);
}

static bool pick_extension(struct picker *p)
{
    uint64_t at = p->w->header_length, n = rng_below(&p->rng, 5);

    for (uint64_t i = 0; i < n && walk_word(p->w, at, 4) != 0 && at < p->w->cluster; i++)
        at += 8 + align_up(walk_word(p->w, at + 4, 4), 8);
    switch (rng_below(&p->rng, 3)) {
    case 0:
        NAMED(p, "header extension %" PRIu64 ": type", n);
        return set(p, at, 4, NUMBER);
    case 1:
        NAMED(p, "header extension %" PRIu64 ": length", n);
        return set(p, at + 4, 4, LENGTH);
    default:
        if (p->w->bitmaps_extension && rng_chance(&p->rng, 70)) {
            uint64_t field = rng_below(&p->rng, 3);
            NAMED(p, "bitmaps extension: %s",
                  field == 0   ? "number of bitmaps"
                  : field == 1 ? "directory length"
                               : "directory offset");
            return set(p, p->w->bitmaps_extension + 8 + 8 * field, field ? 8 : 4, field == 2 ? OFFSET : LENGTH);
        }
        NAMED(p, "header extension %" PRIu64 ": content", n);
        return set(p, at + 8, 8, NUMBER);
    }
}

/* An entry of a table of words; one in use rather than an empty one. */
static bool pick_word(struct picker *p, struct walk_table t, const char *what, enum kind kind)
{
    uint64_t i = 0;

    if (t.entries == 0 || t.at >= p->w->len)
        return false;
    for (int tries = 0; tries < 20; tries++) {
        i = rng_below(&p->rng, min_u64(t.entries, (p->w->len - t.at) / 8 + 1));
        if (walk_word(p->w, t.at + 8 * i, 8) != 0)
            break;
    }
    NAMED(p, "%s entry %" PRIu64, what, i);
    return set(p, t.at + 8 * i, 8, kind);
}

static bool pick_l2(struct picker *p, struct walk_table l1, const char *of)
{
    const struct walk *w = p->w;
    struct walk_entry e = {.at = 0};
    bool wants_compressed = rng_chance(&p->rng, 25);
    uint64_t guest = 0;

    for (int tries = 0; tries < 40; tries++) {
        guest = rng_below(&p->rng, div_up(w->size, w->cluster)) * w->cluster;
        e = walk_lookup(w, &l1, guest);
        if (e.at && (wants_compressed ? e.type == WALK_COMPRESSED : e.word != 0))
            break;
    }
    if (!e.at)
        return false;
    NAMED(p, "%sL2 entry of guest offset 0x%" PRIx64, of, guest);
    if (w->extended && rng_chance(&p->rng, 40)) {
        NAMED(p, "%ssubclusters of guest offset 0x%" PRIx64, of, guest);
        return set(p, e.at + 8, 8, SUBCLUSTERS);
    }
    return set(p, e.at, 8, e.type == WALK_COMPRESSED ? COMPRESSED : L2_ENTRY);
}

static bool pick_refcount(struct picker *p)
{
    const struct walk *w = p->w;
    unsigned bits = 1u << w->refcount_order;
    uint64_t cluster = rng_below(&p->rng, div_up(w->len, w->cluster) + 2), per_block = w->cluster * 8 / bits;
    uint64_t block, at = cluster % per_block * bits;

    /* Rather one that a table, or data, has. */
    for (int tries = 0; tries < 8 && !walk_uses(w, cluster * w->cluster, w->cluster); tries++)
        cluster = rng_below(&p->rng, div_up(w->len, w->cluster) + 2);
    at = cluster % per_block * bits;
    block = walk_refblock(w, cluster * w->cluster);
    if (block == 0)
        return false;
    NAMED(p, "refcount of cluster 0x%" PRIx64 " (%s)", cluster * w->cluster,
          walk_use_name(walk_uses(w, cluster * w->cluster, w->cluster)));
    p->f.bit = (unsigned)(at % 8);
    p->f.bits = bits;
    return set(p, block + at / 8, bits < 8 ? 1 : bits / 8, REFCOUNT);
}

static bool pick_snapshot(struct picker *p)
{
    static const struct known fields[] = {
        {0, 8, OFFSET, "L1 table offset"},      {8, 4, LENGTH, "L1 table length"},
        {12, 2, LENGTH, "length of the ID"},    {14, 2, LENGTH, "length of the name"},
        {32, 4, LENGTH, "VM state size"},       {36, 4, LENGTH, "extra data size"},
        {40, 8, LENGTH, "large VM state size"}, {48, 8, LENGTH, "disk size"},
    };
    const struct known *k = &fields[rng_below(&p->rng, ARRAY_LEN(fields))];
    uint64_t i;

    if (p->w->nsnapshots == 0)
        return false;
    i = rng_below(&p->rng, p->w->nsnapshots);
    switch (rng_below(&p->rng, 3)) {
    case 0:
        NAMED(p, "snapshot table entry %" PRIu64 ": %s", i, k->name);
        return set(p, p->w->snapshot_at[i] + k->at, k->width, k->kind);
    case 1:
        return pick_word(p, p->w->snapshot_l1[i], "snapshot's L1", ENTRY);
    default:
        return pick_l2(p, p->w->snapshot_l1[i], "snapshot's ");
    }
}

static bool pick_bitmap(struct picker *p)
{
    static const struct known fields[] = {
        {0, 8, OFFSET, "table offset"},
        {8, 4, LENGTH, "table entries"},
        {12, 4, FLAGS, "flags"},
        {16, 1, NUMBER, "type"},
        {17, 1, NUMBER, "granularity"},
        {18, 2, LENGTH, "length of the name"},
        {20, 4, LENGTH, "extra data size"},
    };
    const struct known *k = &fields[rng_below(&p->rng, ARRAY_LEN(fields))];
    uint64_t i;

    if (p->w->nbitmaps == 0)
        return false;
    i = rng_below(&p->rng, p->w->nbitmaps);
    if (rng_chance(&p->rng, 50))
        return pick_word(p, p->w->bitmap_table[i], "bitmap table", ENTRY);
    NAMED(p, "bitmap directory entry %" PRIu64 ": %s", i, k->name);
    return set(p, p->w->bitmap_at[i] + k->at, k->width, k->kind);
}

static bool pick(struct picker *p)
{
    switch (rng_below(&p->rng, 20)) {
    case 0:
    case 1:
    case 2:
        return pick_header(p);
    case 3:
        return pick_extension(p);
    case 4:
    case 5:
        return pick_word(p, p->w->l1, "L1", ENTRY);
    case 6:
    case 7:
        return pick_word(p, p->w->reftable, "refcount table", ENTRY);
    case 8:
    case 9:
    case 10:
    case 11:
    case 12:
        return pick_refcount(p);
    case 13:
        return pick_snapshot(p);
    case 14:
        return pick_bitmap(p);
    default:
        return pick_l2(p, p->w->l1, "");
    }
}

/* ---- the values ------------------------------------------------------------------------------------------ */

/* Where some table is, or something else. */
static uint64_t some_place(struct picker *p)
{
    const struct walk *w = p->w;
    struct rng *r = &p->rng;
    uint64_t clusters = div_up(w->len, w->cluster), guest = rng_below(r, w->size) / w->cluster * w->cluster;
    struct walk_entry e = walk_lookup(w, &w->l1, guest), snapshot = {0};

    if (w->nsnapshots)
        snapshot = walk_lookup(w, &w->snapshot_l1[0], guest);
    switch (rng_below(r, 17)) {
    case 16:
        return align_down(snapshot.at, w->cluster);
    case 0:
        return 0;
    case 1:
        return w->l1.at;
    case 2:
    case 3:
        return align_down(e.at, w->cluster);
    case 4:
        return w->reftable.at;
    case 5:
        return walk_refblock(w, rng_below(r, w->len));
    case 6:
        return w->snapshots.at;
    case 7:
        return w->nsnapshots ? w->snapshot_l1[0].at : w->l1.at;
    case 8:
        return w->bitmaps.at;
    case 9:
        return w->nbitmaps ? w->bitmap_table[0].at : w->reftable.at;
    case 10:
        return clusters * w->cluster;
    case 11:
        return (clusters + rng_below(r, 4)) * w->cluster;
    case 12:
        return UINT64_C(1) << rng_between(r, 30, 55);
    case 13:
        return align_down(e.host, w->cluster);
    default:
        return rng_below(r, clusters) * w->cluster;
    }
}

static uint64_t new_length(struct picker *p, uint64_t old, uint64_t most)
{
    static const uint64_t some[] = {0, 0, 1, 2, 7, 104, 512, 1024, 65536, 1 << 20, 1u << 31};

    switch (rng_below(&p->rng, 7)) {
    case 0:
        return 0;
    case 1:
        return most;
    case 2:
        return old + 1;
    case 3:
        return old - 1;
    case 4:
        return old * 2;
    case 5:
        return old ^ UINT64_C(1) << rng_below(&p->rng, 8 * p->f.width);
    default:
        return some[rng_below(&p->rng, ARRAY_LEN(some))];
    }
}

static uint64_t new_entry(struct picker *p, uint64_t old)
{
    uint64_t flags = old & UINT64_C(0xc000000000000001);
    enum kind kind = p->f.kind;

    switch (rng_below(&p->rng, kind == ENTRY ? 9 : 8)) {
    case 0:
        return 0;
    case 8: /* to what the next one to be made may get */
        return (div_up(p->w->len, p->w->cluster) + rng_below(&p->rng, 3)) * p->w->cluster;
    case 1:
        return old ^ UINT64_C(1) << 63;
    case 2:
        return old ^ (kind == ENTRY ? UINT64_C(1) << rng_below(&p->rng, 64) : UINT64_C(1) << 62);
    case 3:
        return old ^ UINT64_C(1) << rng_below(&p->rng, 64);
    case 4:
        return (some_place(p) + (UINT64_C(512) << rng_below(&p->rng, 8))) | flags;
    case 5:
        return some_place(p);
    default:
        return some_place(p) | flags;
    }
}

static uint64_t new_refcount(struct picker *p, uint64_t old, uint64_t most)
{
    switch (rng_below(&p->rng, 6)) {
    case 0:
    case 1:
        return 0;
    case 2:
        return 1;
    case 3:
        return most;
    case 4:
        return old + 1;
    default:
        return old - 1;
    }
}

static uint64_t new_value(struct picker *p, uint64_t old, uint64_t most)
{
    uint64_t x;

    switch (p->f.kind) {
    case LENGTH:
        return new_length(p, old, most);
    case FLAGS:
        return old ^ UINT64_C(1) << rng_below(&p->rng, rng_chance(&p->rng, 70) ? 6 : 64);
    case OFFSET:
        x = some_place(p);
        return rng_chance(&p->rng, 15) ? x + rng_below(&p->rng, 1024) : rng_chance(&p->rng, 8) ? UINT64_MAX : x;
    case ENTRY:
    case L2_ENTRY:
        return new_entry(p, old);
    case COMPRESSED:
        x = rng_below(&p->rng, 3);
        if (x == 0)
            return old ^ UINT64_C(1) << rng_below(&p->rng, 64);
        return x == 1 ? (old & (UINT64_MAX << 55)) | (some_place(p) + rng_below(&p->rng, 600)) : new_entry(p, old);
    case SUBCLUSTERS:
        x = rng_next(&p->rng);
        return rng_chance(&p->rng, 30) ? 0 : rng_chance(&p->rng, 40) ? old ^ UINT64_C(1) << x % 64 : x;
    case REFCOUNT:
        return new_refcount(p, old, most);
    case NUMBER:
        break;
    }
    return rng_chance(&p->rng, 50) ? old + rng_below(&p->rng, 3) - 1 : rng_below(&p->rng, 70);
}

static uint64_t get(const uint8_t *bytes, const struct field *f)
{
    uint64_t x = 0;

    for (unsigned i = 0; i < f->width; i++)
        x = x << 8 | bytes[f->at + i];
    return f->bits && f->bits < 8 ? x >> f->bit & ((1u << f->bits) - 1) : x;
}

static void put(uint8_t *bytes, const struct field *f, uint64_t x)
{
    if (f->bits && f->bits < 8) {
        uint8_t mask = (uint8_t)(((1u << f->bits) - 1) << f->bit);
        bytes[f->at] = (uint8_t)((bytes[f->at] & ~mask) | (x << f->bit & mask));
        return;
    }
    for (unsigned i = f->width; i-- > 0; x >>= 8)
        bytes[f->at + i] = (uint8_t)x;
}

void field_damage(const struct walk *w, uint64_t seed, uint8_t *bytes, struct field_damage *ret)
{
    struct picker p = {.w = w};
    uint64_t most;

    rng_init(&p.rng, seed);
    do
        memset(&p.f, 0, sizeof p.f);
    while (!pick(&p));
    most = UINT64_MAX >> (64 - (p.f.bits ? p.f.bits : 8 * p.f.width));
    ret->old = get(bytes, &p.f);
    put(bytes, &p.f, new_value(&p, get(w->bytes, &p.f), most));
    ret->new = get(bytes, &p.f);
    ret->at = p.f.at;
    memcpy(ret->name, p.f.name, FIELD_NAME);
}
