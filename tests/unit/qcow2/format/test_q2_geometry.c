/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* qcow2/geometry: every geometry that there is, against the formulas of the specification. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

#include "qcow2/format/geometry.h"

static uint64_t next(uint64_t *seed)
{
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    return *seed;
}

typedef void each_fn(const struct q2_geometry *g);

static void for_each_geometry(each_fn *fn)
{
    unsigned n = 0;

    for (uint32_t version = 2; version <= 3; version++)
        for (uint32_t bits = Q2_MIN_CLUSTER_BITS; bits <= Q2_MAX_CLUSTER_BITS; bits++)
            for (uint32_t order = 0; order <= Q2_MAX_REFCOUNT_ORDER; order++)
                for (int extended = 0; extended <= 1; extended++) {
                    struct q2_geometry g;

                    if (!q2_geometry_ok(version, bits, order, extended))
                        continue;
                    q2_geometry_init(&g, version, bits, order, extended, false);
                    fn(&g);
                    n++;
                }
    assert_int_equal(n, 13 + 13 * 7 + 8 * 7);
}

static void test_limits(void **state)
{
    assert_false(q2_geometry_ok(1, 16, 4, false));
    assert_false(q2_geometry_ok(4, 16, 4, false));
    assert_false(q2_geometry_ok(3, 8, 4, false));
    assert_false(q2_geometry_ok(3, 22, 4, false));
    assert_false(q2_geometry_ok(3, 16, 7, false));
    assert_false(q2_geometry_ok(2, 16, 3, false));
    assert_false(q2_geometry_ok(2, 16, 4, true));
    assert_false(q2_geometry_ok(3, 13, 4, true));
    assert_true(q2_geometry_ok(3, 14, 4, true));
}

static void check_formulas(const struct q2_geometry *g)
{
    uint64_t entry = g->extended_l2 ? 16 : 8;

    assert_int_equal(g->cluster_size, 1ull << g->cluster_bits);
    assert_int_equal(q2_l2_entries(g), g->cluster_size / entry);
    assert_int_equal(g->l2_entry_size, entry);
    assert_int_equal(q2_refblock_entries(g), g->cluster_size * 8 / g->refcount_bits);
    assert_int_equal(g->subcluster_size * g->subclusters, g->cluster_size);
    assert_int_equal(1ull << g->subcluster_bits, g->subcluster_size);
    assert_int_equal(q2_l1_entry_span(g), q2_l2_entries(g) * g->cluster_size);
    assert_int_equal(q2_refblock_span(g), q2_refblock_entries(g) * g->cluster_size);
    assert_int_equal(q2_reftable_entries(g, 3), 3 * g->cluster_size / 8);
    assert_int_equal(g->compressed_shift, 62 - (g->cluster_bits - 8));
    /* The largest compressed cluster: the sectors of two clusters, less the one that is always there. */
    assert_int_equal(g->compressed_sectors_mask + 1, 2 * g->cluster_size / 512);
    if (g->refcount_bits < 64)
        assert_int_equal(g->refcount_max, (1ull << g->refcount_bits) - 1);
    else
        assert_int_equal(g->refcount_max, UINT64_MAX);
}

static void check_offsets(const struct q2_geometry *g)
{
    uint64_t seed = 88172645463325252ull + g->cluster_bits;

    for (int i = 0; i < 200; i++) {
        uint64_t offset = next(&seed) >> (1 + i % 50), cluster = offset / g->cluster_size;

        assert_int_equal(q2_l2_index(g, offset), cluster % q2_l2_entries(g));
        assert_int_equal(q2_l1_index(g, offset), cluster / q2_l2_entries(g));
        assert_int_equal(q2_offset_in_cluster(g, offset), offset % g->cluster_size);
        assert_int_equal(q2_cluster_down(g, offset), cluster * g->cluster_size);
        assert_int_equal(q2_cluster_index(g, offset), cluster);
        assert_int_equal(q2_subcluster_index(g, offset), offset % g->cluster_size / g->subcluster_size);
        assert_int_equal(q2_reftable_index(g, cluster), cluster / q2_refblock_entries(g));
        assert_int_equal(q2_refblock_index(g, cluster), cluster % q2_refblock_entries(g));
    }
}

static void check_counts(const struct q2_geometry *g)
{
    uint64_t span = q2_l1_entry_span(g);

    assert_int_equal(q2_l1_entries(g, 0), 0);
    assert_int_equal(q2_l1_entries(g, 1), 1);
    assert_int_equal(q2_l1_entries(g, span), 1);
    assert_int_equal(q2_l1_entries(g, span + 1), 2);
    assert_int_equal(q2_clusters(g, 0), 0);
    assert_int_equal(q2_clusters(g, 1), 1);
    assert_int_equal(q2_clusters(g, g->cluster_size), 1);
    assert_int_equal(q2_clusters(g, g->cluster_size + 1), 2);
    assert_true(q2_l1_entries(g, q2_max_size(g)) * 8 <= Q2_MAX_L1_SIZE);
}

static void test_formulas(void **state)
{
    for_each_geometry(check_formulas);
    for_each_geometry(check_offsets);
    for_each_geometry(check_counts);
}

/* The two examples that the specification gives. */
static void test_max_size(void **state)
{
    struct q2_geometry g;

    q2_geometry_init(&g, 3, 9, 4, false, false);
    assert_int_equal(q2_max_size(&g), 128ull << 30);
    q2_geometry_init(&g, 3, 21, 4, false, false);
    assert_int_equal(q2_max_size(&g), 2ull << 60);
}

/* The refcount at `index` by its bits, one at a time. */
static uint64_t refcount_by_bits(const uint8_t *block, unsigned width, uint64_t index)
{
    uint64_t value = 0;

    if (width < 8) {
        for (unsigned b = 0; b < width; b++) {
            uint64_t bit = index * width + b;

            value |= (uint64_t)(block[bit / 8] >> bit % 8 & 1) << b;
        }
        return value;
    }
    for (unsigned byte = 0; byte < width / 8; byte++)
        value = value << 8 | block[index * (width / 8) + byte];
    return value;
}

static void test_refcounts(void **state)
{
    uint64_t seed = 1234567890123456789ull;

    for (uint32_t order = 0; order <= Q2_MAX_REFCOUNT_ORDER; order++) {
        uint64_t values[4096] = {0}, n;
        struct q2_geometry g;
        uint8_t block[512];

        q2_geometry_init(&g, 3, 9, order, false, false);
        n = q2_refblock_entries(&g);
        assert_true(n <= 4096);
        memset(block, 0, sizeof block);
        for (int i = 0; i < 20000; i++) {
            uint64_t index = next(&seed) % n;
            uint64_t value = i % 3 == 0 ? g.refcount_max : next(&seed) & g.refcount_max;

            q2_refcount_set(&g, block, index, value);
            values[index] = value;
        }
        for (uint64_t i = 0; i < n; i++) {
            assert_int_equal(q2_refcount_get(&g, block, i), values[i]);
            assert_int_equal(refcount_by_bits(block, g.refcount_bits, i), values[i]);
        }
    }
}

static void test_refcount_fill(void **state)
{
    uint64_t seed = 987654321987654321ull;

    for (uint32_t order = 0; order <= Q2_MAX_REFCOUNT_ORDER; order++) {
        struct q2_geometry g;

        q2_geometry_init(&g, 3, 9, order, false, false);
        for (int i = 0; i < 300; i++) {
            uint64_t entries = q2_refblock_entries(&g), index = next(&seed) % entries;
            uint64_t n = next(&seed) % (entries - index + 1);
            uint8_t want[512], got[512];

            for (unsigned k = 0; k < sizeof want; k++)
                want[k] = got[k] = (uint8_t)next(&seed);
            for (uint64_t k = 0; k < n; k++)
                q2_refcount_set(&g, want, index + k, 1);
            q2_refcount_fill_one(&g, got, index, n);
            assert_memory_equal(got, want, sizeof want);
        }
    }
}

/* Few refcounts set: all are met, from wherever the search begins. */
static void test_refcount_skip_zeros(void **state)
{
    uint64_t seed = 192837465192837465ull;

    for (uint32_t order = 0; order <= Q2_MAX_REFCOUNT_ORDER; order++) {
        struct q2_geometry g;
        uint8_t block[512];

        q2_geometry_init(&g, 3, 9, order, false, false);
        for (int i = 0; i < 300; i++) {
            uint64_t n = q2_refblock_entries(&g), k = next(&seed) % n, end = k + next(&seed) % (n - k + 1);
            uint64_t first = k;

            memset(block, 0, sizeof block);
            for (int set = i % 4; set > 0; set--)
                q2_refcount_set(&g, block, next(&seed) % n, 1 + next(&seed) % g.refcount_max);
            for (; k < end && (k = q2_refcount_skip_zeros(&g, block, k, end)) < end; first = ++k)
                for (; first < k; first++)
                    assert_int_equal(q2_refcount_get(&g, block, first), 0);
            assert_int_equal(k, end);
            for (; first < end; first++)
                assert_int_equal(q2_refcount_get(&g, block, first), 0);
        }
        memset(block, 0, sizeof block);
        assert_int_equal(q2_refcount_skip_zeros(&g, block, 0, q2_refblock_entries(&g)), q2_refblock_entries(&g));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_limits),    cmocka_unit_test(test_formulas),
        cmocka_unit_test(test_max_size),  cmocka_unit_test(test_refcounts),
        cmocka_unit_test(test_refcount_fill), cmocka_unit_test(test_refcount_skip_zeros),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
