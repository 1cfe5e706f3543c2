/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What tables hold: L1, L2 and refcount table entries, refcounts, the snapshot table, the bitmap directory,
 * compressed clusters. The first four bytes choose what the rest is and the geometry.
 */
#include <errno.h>
#include <stdbool.h>
#include <string.h>

#include "engine/vdisk.h"
#include "qcow2/format/entry.h"
#include "qcow2/format/inflate.h"
#include "qcow2/format/tables.h"
#include "tests/fuzz/fuzz.h"

enum { INPUT_MAX = 64 << 10, PREFIX = 4 };

static void entries(const struct q2_geometry *g, const uint8_t *data, size_t size)
{
    for (size_t at = 0; at + 16 <= size; at += 16) {
        uint64_t entry = get_be64(data + at), bitmap = g->extended_l2 ? get_be64(data + at + 8) : 0;
        struct q2_mapping m = q2_entry_decode(g, entry, bitmap);
        enum q2_cluster_type type;

        (void)q2_l1_problem(g, entry);
        (void)q2_reftable_problem(g, entry);
        for (uint32_t i = 0, run; i < g->subclusters; i += run) {
            run = q2_subcluster_run(g, &m, i, &type);
            FUZZ_CHECK(run > 0 && i + run <= g->subclusters, "run of %u at %u", run, i);
        }
        if (q2_entry_problem(g, entry, bitmap, 0) || q2_entry_reserved(g, entry, bitmap))
            continue;
        if (m.type == Q2_CLUSTER_COMPRESSED)
            FUZZ_CHECK(q2_entry_encode_compressed(g, m.host_offset, m.compressed_len) == entry, "compressed");
        else if (m.has_host || entry == 0 || entry == Q2_ZERO)
            FUZZ_CHECK(q2_entry_encode(g, (enum q2_cluster_type)m.type, m.host_offset, m.copied) == entry,
                       "0x%llx", (unsigned long long)entry);
    }
}

static void refcounts(const struct q2_geometry *g, const uint8_t *data, size_t size)
{
    uint8_t *block = calloc(1, g->cluster_size), *copy = malloc(g->cluster_size);
    uint64_t n = min_u64(q2_refblock_entries(g), size * 8 >> g->refcount_order);

    FUZZ_CHECK(block && copy, "out of memory");
    memcpy(block, data, min_u64(size, g->cluster_size));
    for (uint64_t i = 0; i < n; i += n / 64 + 1) {
        uint64_t old = q2_refcount_get(g, block, i), before = i ? q2_refcount_get(g, block, i - 1) : 0;
        FUZZ_CHECK(old <= g->refcount_max, "refcount past its width");
        memcpy(copy, block, g->cluster_size);
        q2_refcount_set(g, copy, i, g->refcount_max - old);
        FUZZ_CHECK(q2_refcount_get(g, copy, i) == g->refcount_max - old, "not what was set");
        FUZZ_CHECK(i == 0 || q2_refcount_get(g, copy, i - 1) == before, "a neighbour has changed");
        q2_refcount_set(g, copy, i, old);
        FUZZ_CHECK(memcmp(copy, block, g->cluster_size) == 0, "not as it was");
    }
    free(block);
    free(copy);
}

static void snapshots(const struct q2_geometry *g, const uint8_t *data, size_t size, uint32_t n)
{
    struct q2_snapshot_table t;
    uint64_t need = 0;
    int rc = q2_snapshots_parse(g, "image", data, size, n, &t, &need);

    if (rc == 0) {
        FUZZ_CHECK(t.n == n && t.size <= align_up(size, 8), "%u snapshots in %llu bytes", t.n,
                   (unsigned long long)t.size);
        q2_snapshots_free(&t);
    } else if (rc == -EAGAIN) {
        FUZZ_CHECK(need > size && need <= Q2_MAX_SNAPSHOT_TABLE, "needs %llu", (unsigned long long)need);
    }
}

static void bitmaps(const struct q2_geometry *g, const uint8_t *data, size_t size, uint32_t n)
{
    struct q2_bitmap_directory d;

    if (q2_bitmaps_parse(g, "image", data, size, n, &d) < 0)
        return;
    FUZZ_CHECK(d.n == n, "%u bitmaps", d.n);
    q2_bitmaps_free(&d);
}

/* What lies behind the stream, up to the end of its last sector, must change nothing: damaged or not. */
static void inflate(const struct q2_geometry *g, const uint8_t *data, size_t size, enum q2_compression type)
{
    uint8_t *out = malloc(g->cluster_size), *again = malloc(g->cluster_size);
    int rc;

    FUZZ_CHECK(out && again, "out of memory");
    rc = q2_decompress(type, data, size, out, g->cluster_size);
    FUZZ_CHECK(q2_decompress(type, data, size, again, g->cluster_size) == rc, "another result the second time");
    FUZZ_CHECK(rc < 0 || memcmp(out, again, g->cluster_size) == 0, "other bytes the second time");
    free(out);
    free(again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct q2_geometry g;
    uint32_t version, bits, order, n;
    bool extended;

    if (size < PREFIX || size > INPUT_MAX)
        return 0;
    version = data[1] & 1 ? 2 : 3;
    extended = version == 3 && data[1] & 2;
    bits = Q2_MIN_CLUSTER_BITS + data[2] % (Q2_MAX_CLUSTER_BITS - Q2_MIN_CLUSTER_BITS + 1);
    order = version == 2 ? Q2_DEFAULT_REFCOUNT_ORDER : data[3] % (Q2_MAX_REFCOUNT_ORDER + 1);
    if (extended && bits < Q2_MIN_CLUSTER_BITS_EXTENDED)
        bits = Q2_MIN_CLUSTER_BITS_EXTENDED;
    q2_geometry_init(&g, version, bits, order, extended, data[1] & 4);
    n = data[3];
    switch (data[0] % 6) {
    case 0: entries(&g, data + PREFIX, size - PREFIX); break;
    case 1: refcounts(&g, data + PREFIX, size - PREFIX); break;
    case 2: snapshots(&g, data + PREFIX, size - PREFIX, n); break;
    case 3: bitmaps(&g, data + PREFIX, size - PREFIX, n); break;
    case 4: inflate(&g, data + PREFIX, size - PREFIX, Q2_COMPRESSION_ZLIB); break;
    default: inflate(&g, data + PREFIX, size - PREFIX, Q2_COMPRESSION_ZSTD); break;
    }
    return 0;
}
