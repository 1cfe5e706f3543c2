/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* qcow2/layout: the metadata of a planned image is read back and each number in it compared with the plan. */
#include "tests/unit/op_test.h"

#include "qcow2/format/entry.h"
#include "qcow2/format/layout.h"

/* The metadata after the header, filled in one go. */
static uint8_t *filled(const struct q2_layout *l)
{
    uint64_t len = l->data_offset - l->reftable_offset;
    uint8_t *buf = malloc(len);

    assert_non_null(buf);
    memset(buf, 0xee, len);
    q2_layout_fill(l, l->reftable_offset, buf, len);
    return buf;
}

static const uint8_t *at(const struct q2_layout *l, const uint8_t *buf, uint64_t host_offset)
{
    assert_true(host_offset >= l->reftable_offset && host_offset < l->data_offset);
    return buf + (host_offset - l->reftable_offset);
}

/* Header, tables and data follow each other without a gap; the counts are the least that do. */
static void check_plan(const struct q2_layout *l)
{
    uint32_t bits = l->geo.cluster_bits;

    assert_int_equal(l->reftable_offset, l->geo.cluster_size);
    assert_int_equal(l->refblocks_offset, l->reftable_offset + (l->reftable_clusters << bits));
    assert_int_equal(l->l1_offset, l->refblocks_offset + (l->refblocks << bits));
    assert_int_equal(l->l2_offset, l->l1_offset + (l->l1_clusters << bits));
    assert_int_equal(l->data_offset, l->l2_offset + (l->l2_tables << bits));
    assert_int_equal(l->total_clusters, (l->data_offset >> bits) + l->data_clusters);
    assert_int_equal(q2_layout_end(l), l->data_offset + (l->data_clusters << bits));
    assert_int_equal(l->refblocks, div_up(l->total_clusters, q2_refblock_entries(&l->geo)));
    assert_int_equal(l->reftable_clusters, div_up(l->refblocks * 8, l->geo.cluster_size));
    assert_int_equal(l->guest_clusters, div_up(l->size, l->geo.cluster_size));
    assert_int_equal(l->l1_clusters, div_up(l->l1_entries * 8, l->geo.cluster_size));
    if (l->map == Q2_MAP_NONE)
        assert_int_equal(l->l2_tables + l->data_clusters, 0);
    else
        assert_int_equal(l->data_clusters, l->geo.data_file ? 0 : l->guest_clusters);
}

/* Every cluster of the file has refcount one, and none past it has any. */
static void check_refcounts(const struct q2_layout *l, const uint8_t *buf)
{
    uint64_t entries = q2_reftable_entries(&l->geo, l->reftable_clusters);

    for (uint64_t i = 0; i < entries; i++) {
        uint64_t entry = get_be64(at(l, buf, l->reftable_offset) + i * 8);

        assert_int_equal(entry, i < l->refblocks ? l->refblocks_offset + (i << l->geo.cluster_bits) : 0);
        for (uint64_t k = 0; entry != 0 && k < q2_refblock_entries(&l->geo); k++) {
            uint64_t cluster = (i << l->geo.refblock_bits) + k;
            if (q2_refcount_get(&l->geo, at(l, buf, entry), k) != (cluster < l->total_clusters))
                fail_msg("refcount of cluster %llu of %llu", (unsigned long long)cluster,
                         (unsigned long long)l->total_clusters);
        }
    }
}

static void check_l2_entry(const struct q2_layout *l, uint64_t guest_offset, uint64_t entry, uint64_t bitmap)
{
    struct q2_mapping m = q2_entry_decode(&l->geo, entry, bitmap);
    enum q2_cluster_type type;

    if (guest_offset >= l->size) {
        assert_int_equal(entry | bitmap, 0);
        return;
    }
    assert_int_equal(m.host_offset, guest_offset + (l->geo.data_file ? 0 : l->data_offset));
    assert_true(m.has_host && m.copied);
    assert_null(q2_entry_problem(&l->geo, entry, bitmap, guest_offset));
    assert_false(q2_entry_reserved(&l->geo, entry, bitmap));
    assert_int_equal(q2_subcluster_run(&l->geo, &m, 0, &type), l->geo.subclusters);
    assert_int_equal(type, l->map == Q2_MAP_NORMAL ? Q2_CLUSTER_NORMAL
                           : l->map == Q2_MAP_ZERO ? Q2_CLUSTER_ZERO_ALLOC
                                                   : Q2_CLUSTER_UNALLOCATED);
}

static void check_map(const struct q2_layout *l, const uint8_t *buf)
{
    for (uint64_t i = 0; i < (l->l1_clusters << l->geo.cluster_bits) / 8; i++) {
        uint64_t entry = get_be64(at(l, buf, l->l1_offset) + i * 8), table = q2_l1_offset(entry);

        if (i >= l->l2_tables) {
            assert_int_equal(entry, 0);
            continue;
        }
        assert_int_equal(entry, q2_l1_entry(l->l2_offset + (i << l->geo.cluster_bits), true));
        for (uint64_t k = 0; k < q2_l2_entries(&l->geo); k++) {
            const uint8_t *p = at(l, buf, table) + q2_l2_entry_offset(&l->geo, k);
            check_l2_entry(l, i * q2_l1_entry_span(&l->geo) + (k << l->geo.cluster_bits), get_be64(p),
                           l->geo.extended_l2 ? get_be64(p + 8) : 0);
        }
    }
}

/* Any piece comes out as in the whole. */
static void check_pieces(const struct q2_layout *l, const uint8_t *whole, uint64_t *seed)
{
    uint64_t clusters = (l->data_offset >> l->geo.cluster_bits) - 1;

    for (int i = 0; i < 20; i++) {
        uint64_t first = xorshift(seed) % clusters, n = 1 + xorshift(seed) % min_u64(clusters - first, 4);
        uint64_t len = n << l->geo.cluster_bits;
        uint8_t *buf = malloc(len);

        assert_non_null(buf);
        memset(buf, 0x77, len);
        q2_layout_fill(l, l->reftable_offset + (first << l->geo.cluster_bits), buf, len);
        assert_memory_equal(buf, whole + (first << l->geo.cluster_bits), len);
        free(buf);
    }
}

static void check_layout(const struct q2_geometry *g, uint64_t size, enum q2_layout_map map, uint64_t *seed)
{
    struct q2_layout l;
    uint8_t *buf;

    if (q2_layout_plan(g, size, map, "disk", &l) < 0)
        fail_msg("%s", vdisk_error_text());
    check_plan(&l);
    buf = filled(&l);
    check_refcounts(&l, buf);
    check_map(&l, buf);
    check_pieces(&l, buf, seed);
    free(buf);
}

static void all_kinds(void **state)
{
    uint64_t seed = 4711, layouts = 0;

    for (uint32_t bits = 9; bits <= 16; bits++)
        for (uint32_t order = 0; order <= 6; order++)
            for (unsigned how = 0; how < 16; how++) {
                bool extended = how & 1, data_file = how & 2;
                enum q2_layout_map map = (enum q2_layout_map)(how / 4);
                uint64_t most = bits < 12 ? 4 << 20 : 64 << 20;
                struct q2_geometry g;

                if (!q2_geometry_ok(3, bits, order, extended) || (map == Q2_MAP_KEPT && !extended))
                    continue;
                q2_geometry_init(&g, 3, bits, order, extended, data_file);
                check_layout(&g, 0, map, &seed);
                check_layout(&g, 512, map, &seed);
                check_layout(&g, q2_l1_entry_span(&g) < most ? q2_l1_entry_span(&g) : most, map, &seed);
                check_layout(&g, align_up(1 + xorshift(&seed) % most, 512), map, &seed);
                layouts += 4;
            }
    print_message("%llu layouts\n", (unsigned long long)layouts);
    assert_true(layouts > 500);
}

/* Where one more refcount block, or cluster of the refcount table, describes itself. */
static void self_describing_edges(void **state)
{
    uint64_t seed = 12;
    struct q2_geometry g;

    q2_geometry_init(&g, 3, 9, 6, false, false); /* 64 refcounts in a block, 64 blocks in a cluster of the table */
    for (uint64_t clusters = 1; clusters < 400; clusters++)
        check_layout(&g, clusters << 9, Q2_MAP_NORMAL, &seed);
    for (uint64_t clusters = 3800; clusters < 4100; clusters += 7)
        check_layout(&g, clusters << 9, Q2_MAP_ZERO, &seed);
}

/* ---- pieces ------------------------------------------------------------------------------------------------- */

/* All of the piece, and nothing else, has refcount one; each cluster of data is some guest cluster's, in order. */
static void check_piece(const struct q2_layout *l, uint64_t guest_clusters, uint64_t blocks)
{
    uint32_t bits = l->geo.cluster_bits;
    uint64_t per_block = q2_refblock_entries(&l->geo), start = l->first_cluster << bits;
    uint8_t *buf = filled(l);

    assert_int_equal(l->refblocks_offset, start);
    assert_int_equal(l->l2_offset, start + (l->refblocks << bits));
    assert_int_equal(l->data_offset, l->l2_offset + (l->l2_tables << bits));
    assert_int_equal(q2_layout_end(l), l->data_offset + (l->guest_clusters << bits));
    assert_true(l->guest_clusters <= guest_clusters && l->refblocks <= blocks);
    assert_int_equal(l->refblocks, div_up(l->total_clusters, per_block));
    if (l->guest_clusters < guest_clusters) /* more tables have no room */
        assert_true(is_aligned(l->guest_clusters, q2_l2_entries(&l->geo)));
    for (uint64_t i = 0; i < l->refblocks * per_block; i++)
        assert_int_equal(q2_refcount_get(&l->geo, at(l, buf, start + (i / per_block << bits)), i % per_block),
                         i < l->total_clusters);
    for (uint64_t i = 0; i < l->l2_tables << l->geo.l2_bits; i++) {
        const uint8_t *p = at(l, buf, l->l2_offset) + i * l->geo.l2_entry_size;
        struct q2_mapping m =
            q2_entry_decode(&l->geo, get_be64(p), l->geo.extended_l2 ? get_be64(p + 8) : 0);

        assert_int_equal(m.has_host ? m.host_offset : 0,
                         i < l->guest_clusters ? l->data_offset + (i << bits) : 0);
        assert_true(m.copied || i >= l->guest_clusters);
    }
    free(buf);
}

static void pieces(void **state)
{
    uint64_t seed = 815, made = 0;

    for (uint32_t order = 0; order <= 6; order++)
        for (unsigned i = 0; i < 200; i++) {
            bool extended = i & 1;
            struct q2_geometry g;
            struct q2_layout l;

            q2_geometry_init(&g, 3, extended ? 14 : 9 + i / 2 % 4, order, extended, false);
            uint64_t wanted = 1 + xorshift(&seed) % (16 << g.l2_bits), blocks = 1 + xorshift(&seed) % 12;
            uint64_t first = (1 + xorshift(&seed) % 1000) << g.refblock_bits;
            if (!q2_layout_append(&g, wanted, first, blocks, &l)) {
                assert_true(blocks * (q2_refblock_entries(&g) - 1) <= q2_l2_entries(&g));
                continue;
            }
            assert_int_equal(l.first_cluster, first);
            check_piece(&l, wanted, blocks);
            made++;
        }
    assert_true(made > 500);
}

static void too_large(void **state)
{
    struct q2_layout l = {.size = 99};
    struct q2_geometry g;

    q2_geometry_init(&g, 3, 9, 4, false, false);
    assert_int_equal(q2_layout_plan(&g, q2_max_size(&g), Q2_MAP_NONE, "disk", &l), 0);
    check_plan(&l);
    l.size = 99;
    assert_int_equal(q2_layout_plan(&g, q2_max_size(&g) + 512, Q2_MAP_NONE, "disk.x", &l), -EFBIG);
    assert_non_null(strstr(vdisk_error_text(), "disk.x: "));
    assert_non_null(strstr(vdisk_error_hint(), "larger cluster"));
    assert_int_equal(l.size, 99);
    /* The size is possible, the refcounts of all that data are not. */
    q2_geometry_init(&g, 3, 16, 6, false, false);
    assert_int_equal(q2_layout_plan(&g, 1ull << 50, Q2_MAP_NONE, "disk", &l), 0);
    assert_int_equal(q2_layout_plan(&g, 1ull << 50, Q2_MAP_NORMAL, "disk.y", &l), -EFBIG);
    assert_non_null(strstr(vdisk_error_text(), "disk.y: "));
    assert_non_null(strstr(vdisk_error_text(), "refcount table"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_kinds),
        cmocka_unit_test(self_describing_edges),
        cmocka_unit_test(pieces),
        cmocka_unit_test(too_large),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
