/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Header and extensions: what is accepted keeps its promises, and reads the same after it has been written. */
#include <stdbool.h>
#include <string.h>

#include "engine/base/bits.h"
#include "engine/base/error.h"
#include "engine/vdisk.h"
#include "qcow2/format/header.h"
#include "tests/fuzz/fuzz.h"

enum { INPUT_MAX = 64 << 10 };

static bool same_text(const char *a, const char *b)
{
    return a && b ? strcmp(a, b) == 0 : a == b;
}

static void check_same(const struct q2_header *a, const struct q2_header *b)
{
    FUZZ_CHECK(a->geo.version == b->geo.version && a->geo.cluster_bits == b->geo.cluster_bits &&
               a->geo.refcount_order == b->geo.refcount_order && a->geo.extended_l2 == b->geo.extended_l2 &&
               a->geo.data_file == b->geo.data_file, "geometry");
    FUZZ_CHECK(a->size == b->size && a->l1_offset == b->l1_offset && a->l1_entries == b->l1_entries &&
               a->reftable_offset == b->reftable_offset && a->reftable_clusters == b->reftable_clusters &&
               a->snapshots_offset == b->snapshots_offset && a->nb_snapshots == b->nb_snapshots, "tables");
    FUZZ_CHECK(a->incompatible == b->incompatible && a->compatible == b->compatible &&
               a->autoclear == b->autoclear && a->compression_type == b->compression_type, "features");
    FUZZ_CHECK(same_text(a->backing_file, b->backing_file) && same_text(a->backing_format, b->backing_format) &&
               same_text(a->data_file, b->data_file), "names");
    FUZZ_CHECK(a->has_bitmaps == b->has_bitmaps && a->bitmaps_stale == b->bitmaps_stale &&
               a->nextensions == b->nextensions, "extensions");
    FUZZ_CHECK(a->tail_len <= b->tail_len, "the tail is shorter");
    for (size_t i = 0; i < b->tail_len; i++) /* a short header may have become longer */
        FUZZ_CHECK(b->tail[i] == (i < a->tail_len ? a->tail[i] : 0), "byte %zu of the tail", i);
    for (size_t i = 0; i < a->nextensions; i++)
        FUZZ_CHECK(a->extensions[i].type == b->extensions[i].type &&
                   a->extensions[i].len == b->extensions[i].len &&
                   memcmp(a->extensions[i].data, b->extensions[i].data, a->extensions[i].len) == 0,
                   "extension %zu", i);
}

static void check_promises(const struct q2_header *h, uint64_t file_size)
{
    const struct q2_geometry *g = &h->geo;
    uint64_t l1_bytes = (uint64_t)h->l1_entries * 8;
    char buf[64];

    FUZZ_CHECK(q2_geometry_ok(g->version, g->cluster_bits, g->refcount_order, g->extended_l2), "geometry");
    FUZZ_CHECK(h->size <= Q2_MAX_SIZE && q2_l1_entries(g, h->size) <= h->l1_entries, "L1 entries for the size");
    FUZZ_CHECK(l1_bytes <= Q2_MAX_L1_SIZE && is_aligned(h->l1_offset, g->cluster_size), "L1 table");
    FUZZ_CHECK(l1_bytes == 0 || (h->l1_offset != 0 && h->l1_offset + l1_bytes <= file_size), "its place");
    FUZZ_CHECK((uint64_t)h->reftable_clusters << g->cluster_bits <= max_u64(Q2_MAX_REFTABLE_SIZE, g->cluster_size),
               "refcount table");
    FUZZ_CHECK(is_aligned(h->reftable_offset, g->cluster_size) && h->reftable_offset < file_size, "its place");
    for (unsigned bit = 0; bit < 64; bit++)
        for (int type = Q2_FEATURE_INCOMPATIBLE; type <= Q2_FEATURE_AUTOCLEAR; type++)
            FUZZ_CHECK(q2_feature_name(h, (enum q2_feature_type)type, bit, buf)[0] != '\0', "no name");
}

static void try_header(const uint8_t *data, size_t size, uint64_t file_size)
{
    struct q2_header h, again;
    uint8_t *buf;

    if (q2_header_parse(data, size, file_size, "image", &h) < 0) {
        FUZZ_CHECK(vdisk_error_text()[0] != '\0' && !strchr(vdisk_error_text(), '\n'), "no text for the error");
        return;
    }
    check_promises(&h, file_size);
    buf = malloc(h.geo.cluster_size);
    FUZZ_CHECK(buf, "out of memory");
    if (q2_header_write(&h, "image", buf, h.geo.cluster_size) == 0) {
        /* A header without a usable refcount table may come from a file that is shorter than what is written. */
        uint64_t size_now = max_u64(file_size, h.geo.cluster_size);
        FUZZ_CHECK(q2_header_parse(buf, h.geo.cluster_size, size_now, "image", &again) == 0,
                   "what was written is refused: %s", vdisk_error_text());
        check_same(&h, &again);
        q2_header_free(&again);
    }
    free(buf);
    q2_header_free(&h);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const uint64_t file_sizes[] = {1 << 20, 1ull << 40, Q2_MAX_SIZE};
    size_t span;

    if (size > INPUT_MAX)
        return 0;
    err_clear();
    try_header(data, size, size);
    span = size >= 72 ? q2_header_span(data, size) : 512;
    FUZZ_CHECK(span >= 512 && span <= 2 << 20, "span %zu", span);
    /* The file goes on behind what was read. */
    if (size >= span)
        for (size_t i = 0; i < ARRAY_LEN(file_sizes); i++)
            try_header(data, size, file_sizes[i]);
    return 0;
}
