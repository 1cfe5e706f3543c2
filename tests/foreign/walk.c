/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tests/foreign/walk.h"

#include <stdlib.h>
#include <string.h>
#include <zlib.h>
#include <zstd.h>

#include "engine/base/bits.h"
#include "tests/lib/test.h"

/* Offsets in entries of L1 and L2 tables, and of bitmap tables. */
#define OFFSET_BITS       UINT64_C(0x00fffffffffffe00)
#define ENTRY_COPIED      (UINT64_C(1) << 63)
#define ENTRY_COMPRESSED  (UINT64_C(1) << 62)
#define ENTRY_ZERO        UINT64_C(1)
#define EXTENSION_BITMAPS 0x23852875u

enum { CLUSTER_MAX = 2 << 20, EXTENSIONS_MAX = 64, L1_MAX = 4 << 20 };

uint64_t walk_word(const struct walk *w, uint64_t at, unsigned width)
{
    uint64_t x = 0;

    if (w->len < width || at > w->len - width)
        return 0;
    for (unsigned i = 0; i < width; i++)
        x = x << 8 | w->bytes[at + i];
    return x;
}

static bool inside(const struct walk *w, uint64_t at, uint64_t len)
{
    return at <= w->len && len <= w->len - at;
}

/* ---- what is used ---------------------------------------------------------------------------------------- */

static void mark(struct walk *w, uint64_t at, uint64_t len, uint32_t use)
{
    uint64_t sectors = div_up(w->len, WALK_SECTOR) + WALK_BEYOND / WALK_SECTOR, end;

    if (len == 0 || !add_u64(at, len, &end))
        return;
    for (uint64_t i = at / WALK_SECTOR; i < min_u64(sectors, div_up(end, WALK_SECTOR)); i++)
        w->use[i] |= (uint16_t)use;
}

/* One more leads to it. */
static void refer(struct walk *w, uint64_t at, uint64_t len, bool copied)
{
    uint64_t end;

    if (len == 0 || !add_u64(at, len, &end))
        return;
    for (uint64_t i = at / w->cluster; i < min_u64(w->clusters, div_up(end, w->cluster)); i++) {
        w->refs[i] += w->refs[i] < UINT16_MAX;
        w->flagged[i] |= copied;
    }
}

static void use_it(struct walk *w, uint64_t at, uint64_t len, uint32_t use)
{
    mark(w, at, len, use);
    refer(w, at, len, false);
}

uint32_t walk_uses(const struct walk *w, uint64_t at, uint64_t len)
{
    uint64_t sectors = div_up(w->len, WALK_SECTOR) + WALK_BEYOND / WALK_SECTOR;
    uint32_t uses = 0;

    for (uint64_t i = at / WALK_SECTOR; i < min_u64(div_up(at + len, WALK_SECTOR), sectors); i++)
        uses |= w->use[i];
    return uses;
}

const char *walk_use_name(uint32_t uses)
{
    static const char *const names[] = {
        "header",
        "L1 table",
        "L2 table",
        "guest data",
        "refcount table",
        "refcount block",
        "snapshot table",
        "snapshot's L1 table",
        "snapshot's L2 table",
        "snapshot's data",
        "bitmap directory",
        "bitmap table",
        "bitmap data",
    };

    if (uses & WALK_TABLES)
        uses &= WALK_TABLES;
    for (unsigned i = 0; i < ARRAY_LEN(names); i++)
        if (uses & 1u << i)
            return names[i];
    return "unused space";
}

/* ---- entries --------------------------------------------------------------------------------------------- */

static void decode_compressed(const struct walk *w, struct walk_entry *e)
{
    unsigned shift = 62 - (w->cluster_bits - 8);
    uint64_t sectors = (e->word & (ENTRY_COMPRESSED - 1)) >> shift;

    e->type = WALK_COMPRESSED;
    e->host = e->word & ((UINT64_C(1) << shift) - 1) & (UINT64_MAX >> 8);
    e->len = (sectors + 1) * WALK_SECTOR - e->host % WALK_SECTOR;
}

static void decode(const struct walk *w, struct walk_entry *e)
{
    e->copied = (e->word & ENTRY_COPIED) != 0;
    e->type = WALK_UNKNOWN;
    if (e->word & ENTRY_COMPRESSED) {
        decode_compressed(w, e);
        return;
    }
    e->host = e->word & OFFSET_BITS;
    if (e->host % w->cluster) {
        e->host = 0;
        return;
    }
    e->len = e->host ? w->cluster : 0;
    if (w->extended) {
        uint32_t zero = (uint32_t)(e->bitmap >> 32), there = (uint32_t)e->bitmap;
        if (zero & there || (there && !e->host))
            return;
        e->type = e->host ? WALK_PLAIN : zero ? WALK_ZERO : WALK_NONE;
    } else if (e->word & ENTRY_ZERO) {
        e->type = w->version >= 3 ? WALK_ZERO : WALK_UNKNOWN;
    } else {
        e->type = e->host ? WALK_PLAIN : WALK_NONE;
    }
}

struct walk_entry walk_lookup(const struct walk *w, const struct walk_table *l1, uint64_t guest)
{
    unsigned size = w->extended ? 16 : 8;
    uint64_t per_table = w->cluster / size, index = guest / w->cluster, l1_word, table;
    struct walk_entry e = {.type = WALK_UNKNOWN};

    if (index / per_table >= l1->entries || !inside(w, l1->at + index / per_table * 8, 8))
        return e;
    l1_word = walk_word(w, l1->at + index / per_table * 8, 8);
    table = l1_word & OFFSET_BITS;
    if (table == 0) {
        e.type = WALK_NONE;
        return e;
    }
    e.at = table + index % per_table * size;
    if (table % w->cluster || !inside(w, e.at, size))
        return e;
    e.word = walk_word(w, e.at, 8);
    e.bitmap = w->extended ? walk_word(w, e.at + 8, 8) : 0;
    decode(w, &e);
    return e;
}

/* ---- reading --------------------------------------------------------------------------------------------- */

static bool unzlib(const uint8_t *in, uint64_t in_len, uint8_t *out, uint64_t out_len)
{
    z_stream z = {.next_in = unconst(in), .avail_in = (uInt)in_len, .next_out = out, .avail_out = (uInt)out_len};
    int rc;

    if (inflateInit2(&z, -12) != Z_OK)
        return false;
    rc = inflate(&z, Z_FINISH);
    inflateEnd(&z);
    return (rc == Z_STREAM_END || rc == Z_BUF_ERROR) && z.avail_out == 0;
}

static bool unzstd(const uint8_t *in, uint64_t in_len, uint8_t *out, uint64_t out_len)
{
    ZSTD_DStream *d = ZSTD_createDStream();
    ZSTD_inBuffer from = {.src = in, .size = in_len};
    ZSTD_outBuffer to = {.dst = out, .size = out_len};
    size_t rc = 1;

    while (d && to.pos < to.size && !ZSTD_isError(rc) && (from.pos < from.size || rc == 0)) {
        size_t before = from.pos + to.pos;
        rc = ZSTD_decompressStream(d, &to, &from);
        if (from.pos + to.pos == before)
            break;
    }
    ZSTD_freeDStream(d);
    return rc == 0 && to.pos == to.size; /* more than a cluster is damage */
}

/* The last compressed cluster that was read. */
static struct {
    const struct walk *of; /* NULL: none */
    uint64_t word;
    uint8_t bytes[CLUSTER_MAX];
} inflated;

static bool read_compressed(const struct walk *w, const struct walk_entry *e, uint64_t in_cluster, uint8_t *ret)
{
    uint64_t len = e->host < w->len ? min_u64(e->len, w->len - e->host) : 0;

    if (inflated.of != w || inflated.word != e->word) {
        inflated.of = NULL;
        if (len == 0 || !(w->zstd ? unzstd : unzlib)(w->bytes + e->host, len, inflated.bytes, w->cluster))
            return false;
        inflated.of = w;
        inflated.word = e->word;
    }
    memcpy(ret, inflated.bytes + in_cluster, WALK_SECTOR);
    return true;
}

static void read_backing(const struct walk *w, uint64_t guest, uint8_t *ret)
{
    uint64_t n = guest < w->backing_len ? min_u64(WALK_SECTOR, w->backing_len - guest) : 0;

    memset(ret, 0, WALK_SECTOR);
    if (n > 0 && w->backing)
        memcpy(ret, w->backing + guest, n);
}

/* Of an extended entry: the subcluster's own kind. */
static enum walk_type subcluster(const struct walk *w, const struct walk_entry *e, uint64_t in_cluster)
{
    unsigned i = (unsigned)(in_cluster / (w->cluster / 32));

    if (e->bitmap >> (32 + i) & 1)
        return WALK_ZERO;
    return e->bitmap >> i & 1 ? WALK_PLAIN : WALK_NONE;
}

bool walk_read(const struct walk *w, uint64_t guest, uint8_t ret[WALK_SECTOR])
{
    struct walk_entry e = walk_lookup(w, &w->l1, guest);
    uint64_t in_cluster = guest % w->cluster, n;
    enum walk_type type = e.type;

    if (type == WALK_COMPRESSED)
        return read_compressed(w, &e, in_cluster, ret);
    if (w->extended && type != WALK_UNKNOWN && e.at)
        type = subcluster(w, &e, in_cluster);
    switch (type) {
    case WALK_NONE:
        read_backing(w, guest, ret);
        return true;
    case WALK_ZERO:
        memset(ret, 0, WALK_SECTOR);
        return true;
    case WALK_PLAIN:
        /* What lies past the end of the file reads as zeros. */
        n = e.host + in_cluster < w->len ? min_u64(WALK_SECTOR, w->len - e.host - in_cluster) : 0;
        memset(ret, 0, WALK_SECTOR);
        if (n > 0)
            memcpy(ret, w->bytes + e.host + in_cluster, n);
        return true;
    case WALK_UNKNOWN:
    case WALK_COMPRESSED:
        break;
    }
    return false;
}

/* ---- refcounts ------------------------------------------------------------------------------------------- */

uint64_t walk_refblock(const struct walk *w, uint64_t host)
{
    uint64_t per_block = w->cluster * 8 >> w->refcount_order, index = host / w->cluster / per_block, block;

    if (index >= w->reftable.entries)
        return 0;
    block = walk_word(w, w->reftable.at + index * 8, 8) & ~UINT64_C(511);
    return block % w->cluster || !inside(w, block, w->cluster) ? 0 : block;
}

uint64_t walk_refcount(const struct walk *w, uint64_t host)
{
    uint64_t per_block = w->cluster * 8 >> w->refcount_order, i = host / w->cluster % per_block;
    uint64_t block = walk_refblock(w, host);
    unsigned bits = 1u << w->refcount_order;

    if (block == 0)
        return 0;
    if (bits >= 8)
        return walk_word(w, block + i * bits / 8, bits / 8);
    return w->bytes[block + i * bits / 8] >> (i * bits % 8) & ((1u << bits) - 1);
}

/* ---- the tables ------------------------------------------------------------------------------------------ */

static bool parse_header(struct walk *w)
{
    uint64_t per_table;

    if (w->len < 72 || walk_word(w, 0, 4) != 0x514649fb)
        return false;
    w->version = (uint32_t)walk_word(w, 4, 4);
    w->cluster_bits = (uint32_t)walk_word(w, 20, 4);
    w->size = walk_word(w, 24, 8);
    w->l1 = (struct walk_table){walk_word(w, 40, 8), walk_word(w, 36, 4)};
    w->refcount_order = 4;
    w->header_length = 72;
    if (w->cluster_bits < 9 || w->cluster_bits > 21 || w->version < 2 || w->version > 3)
        return false;
    if (w->version == 3) {
        w->incompatible = walk_word(w, 72, 8);
        w->compatible = walk_word(w, 80, 8);
        w->autoclear = walk_word(w, 88, 8);
        w->refcount_order = (uint32_t)walk_word(w, 96, 4);
        w->header_length = (uint32_t)walk_word(w, 100, 4);
    }
    w->cluster = UINT64_C(1) << w->cluster_bits;
    w->extended = (w->incompatible & 16) != 0;
    w->zstd = (w->incompatible & 8) && w->header_length > 104 && w->bytes[104] == 1;
    w->data_file = (w->incompatible & 4) != 0;
    w->reftable = (struct walk_table){walk_word(w, 48, 8), walk_word(w, 56, 4) * w->cluster / 8};
    w->snapshots = (struct walk_table){walk_word(w, 64, 8), walk_word(w, 60, 4)};
    per_table = w->cluster / (w->extended ? 16 : 8);
    return w->refcount_order <= 6 && w->header_length <= w->cluster && (!w->extended || w->cluster_bits >= 14) &&
           w->l1.at % w->cluster == 0 && w->l1.at != 0 && w->l1.entries <= L1_MAX &&
           w->size <= w->l1.entries * per_table * w->cluster && w->size % WALK_SECTOR == 0 && !w->data_file &&
           walk_word(w, 32, 4) == 0;
}

static void walk_l2(struct walk *w, const struct walk_table *l1, uint32_t table_use, uint32_t data_use)
{
    bool active = table_use == WALK_L2;
    uint64_t size = w->extended ? 16 : 8, per_table = w->cluster / size;

    for (uint64_t i = 0; i < l1->entries && inside(w, l1->at + i * 8, 8); i++) {
        uint64_t word = walk_word(w, l1->at + i * 8, 8), table = word & OFFSET_BITS;
        if (table == 0 || table % w->cluster)
            continue;
        mark(w, table, w->cluster, table_use);
        refer(w, table, w->cluster, active && word & ENTRY_COPIED);
        for (uint64_t k = 0; k < per_table && inside(w, table + k * size, size); k++) {
            struct walk_entry e = {.word = walk_word(w, table + k * size, 8)};
            if (e.word == 0)
                continue;
            e.bitmap = w->extended ? walk_word(w, table + k * size + 8, 8) : 0;
            decode(w, &e);
            mark(w, e.host, e.len, data_use);
            refer(w, e.host, e.len, active && e.copied && e.type != WALK_COMPRESSED);
        }
    }
}

static void walk_refcounts(struct walk *w)
{
    use_it(w, w->reftable.at, w->reftable.entries * 8, WALK_REFTABLE);
    for (uint64_t i = 0; i < w->reftable.entries && inside(w, w->reftable.at + i * 8, 8); i++) {
        uint64_t block = walk_word(w, w->reftable.at + i * 8, 8) & ~UINT64_C(511);
        if (block && block % w->cluster == 0)
            use_it(w, block, w->cluster, WALK_REFBLOCK);
    }
}

static void walk_snapshots(struct walk *w)
{
    uint64_t at = w->snapshots.at;

    for (uint64_t i = 0; i < w->snapshots.entries && w->nsnapshots < WALK_SNAPSHOTS && inside(w, at, 40); i++) {
        struct walk_table l1 = {walk_word(w, at, 8), walk_word(w, at + 8, 4)};
        uint64_t len = 40 + walk_word(w, at + 36, 4) + walk_word(w, at + 12, 2) + walk_word(w, at + 14, 2);
        if (len > 1 << 20 || !inside(w, at, len))
            break;
        mark(w, at, len, WALK_SNAPSHOTS_TABLE);
        w->snapshot_at[w->nsnapshots] = at;
        w->snapshot_l1[w->nsnapshots++] = l1;
        at += align_up(len, 8);
        if (l1.at % w->cluster || l1.entries > L1_MAX)
            continue;
        use_it(w, l1.at, l1.entries * 8, WALK_SNAPSHOT_L1);
        walk_l2(w, &l1, WALK_SNAPSHOT_L2, WALK_SNAPSHOT_DATA);
    }
    w->snapshot_at[w->nsnapshots] = at;
    refer(w, w->snapshots.at, at - w->snapshots.at, false);
}

static void walk_bitmap(struct walk *w, uint64_t at)
{
    struct walk_table t = {walk_word(w, at, 8), walk_word(w, at + 8, 4)};

    w->bitmap_at[w->nbitmaps] = at;
    w->bitmap_table[w->nbitmaps++] = t;
    if (t.at % w->cluster || t.at == 0)
        return;
    use_it(w, t.at, t.entries * 8, WALK_BITMAP_TABLE);
    for (uint64_t k = 0; k < t.entries && inside(w, t.at + k * 8, 8); k++) {
        uint64_t host = walk_word(w, t.at + k * 8, 8) & OFFSET_BITS;
        if (host && host % w->cluster == 0)
            use_it(w, host, w->cluster, WALK_BITMAP_DATA);
    }
}

static void walk_bitmaps(struct walk *w)
{
    uint64_t at = w->header_length, end;

    for (unsigned i = 0; i < EXTENSIONS_MAX && inside(w, at, 8); i++) {
        uint64_t type = walk_word(w, at, 4), len = walk_word(w, at + 4, 4);
        if (type == 0)
            return;
        if (type == EXTENSION_BITMAPS && len >= 24) {
            w->bitmaps_extension = at;
            break;
        }
        at += 8 + align_up(len, 8);
    }
    if (!w->bitmaps_extension || !(w->autoclear & 1))
        return;
    w->bitmaps = (struct walk_table){walk_word(w, at + 24, 8), walk_word(w, at + 8, 4)};
    w->bitmap_directory_len = walk_word(w, at + 16, 8);
    if (!inside(w, w->bitmaps.at, w->bitmap_directory_len))
        return;
    use_it(w, w->bitmaps.at, w->bitmap_directory_len, WALK_BITMAP_DIRECTORY);
    end = w->bitmaps.at + w->bitmap_directory_len;
    for (at = w->bitmaps.at; at + 24 <= end && w->nbitmaps < WALK_BITMAPS;) {
        walk_bitmap(w, at);
        at += align_up(24 + walk_word(w, at + 18, 2) + walk_word(w, at + 20, 4), 8);
    }
    w->bitmap_at[w->nbitmaps] = at;
}

void walk_init(struct walk *w, const uint8_t *bytes, uint64_t len, const uint8_t *backing, uint64_t backing_len)
{
    inflated.of = NULL;
    *w = (struct walk){.bytes = bytes, .len = len, .backing = backing, .backing_len = backing_len};
    w->use = test_alloc((div_up(len, WALK_SECTOR) + WALK_BEYOND / WALK_SECTOR) * sizeof *w->use);
    if (walk_word(w, 8, 8) == 0 || walk_word(w, 16, 4) == 0 || walk_word(w, walk_word(w, 8, 8), 1) == 0)
        w->backing = NULL;
    w->usable = parse_header(w);
    if (!w->usable)
        return;
    w->clusters = div_up(len, w->cluster) + WALK_BEYOND / w->cluster;
    w->refs = test_alloc((w->clusters + 1) * sizeof *w->refs);
    w->flagged = test_alloc(w->clusters + 1);
    use_it(w, 0, w->cluster, WALK_HEADER);
    use_it(w, w->l1.at, w->l1.entries * 8, WALK_L1);
    walk_l2(w, &w->l1, WALK_L2, WALK_DATA);
    walk_refcounts(w);
    if (w->snapshots.at % w->cluster == 0)
        walk_snapshots(w);
    walk_bitmaps(w);
}

void walk_finish(struct walk *w)
{
    free(w->use);
    free(w->refs);
    free(w->flagged);
    w->use = w->refs = NULL;
    w->flagged = NULL;
}
