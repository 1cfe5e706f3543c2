/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* qcow2/entry: what entries mean, what is wrong with bad ones, and subclusters. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

#include "qcow2/format/entry.h"

static const uint64_t bit63 = 1ull << 63, bit62 = 1ull << 62;

static uint64_t next(uint64_t *seed)
{
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    return *seed;
}

static struct q2_geometry geometry(uint32_t version, uint32_t bits, bool extended, bool data_file)
{
    struct q2_geometry g;

    q2_geometry_init(&g, version, bits, 4, extended, data_file);
    return g;
}

static void expect(const struct q2_geometry *g, uint64_t entry, uint64_t bitmap, enum q2_cluster_type type,
                   uint64_t host_offset, bool has_host)
{
    struct q2_mapping m = q2_entry_decode(g, entry, bitmap);

    assert_int_equal(m.type, type);
    assert_int_equal(m.host_offset, host_offset);
    assert_int_equal(m.has_host, has_host);
    assert_int_equal(m.copied, entry >> 63);
    assert_null(q2_entry_problem(g, entry, bitmap, host_offset));
    assert_false(q2_entry_reserved(g, entry, bitmap));
}

static void test_standard(void **state)
{
    struct q2_geometry g = geometry(3, 16, false, false);

    expect(&g, 0, 0, Q2_CLUSTER_UNALLOCATED, 0, false);
    expect(&g, 1, 0, Q2_CLUSTER_ZERO_PLAIN, 0, false);
    expect(&g, bit63 | 0x50000, 0, Q2_CLUSTER_NORMAL, 0x50000, true);
    expect(&g, 0x50000, 0, Q2_CLUSTER_NORMAL, 0x50000, true);
    expect(&g, bit63 | 0x50001, 0, Q2_CLUSTER_ZERO_ALLOC, 0x50000, true);
    expect(&g, bit63 | 0xffffffffff0000, 0, Q2_CLUSTER_NORMAL, 0xffffffffff0000, true);

    assert_int_equal(q2_entry_encode(&g, Q2_CLUSTER_UNALLOCATED, 0, false), 0);
    assert_int_equal(q2_entry_encode(&g, Q2_CLUSTER_ZERO_PLAIN, 0, false), 1);
    assert_int_equal(q2_entry_encode(&g, Q2_CLUSTER_ZERO_ALLOC, 0x50000, true), bit63 | 0x50001);
    assert_int_equal(q2_entry_encode(&g, Q2_CLUSTER_NORMAL, 0x50000, true), bit63 | 0x50000);
    assert_int_equal(q2_entry_encode(&g, Q2_CLUSTER_NORMAL, 0x50000, false), 0x50000);
}

static void test_data_file(void **state)
{
    struct q2_geometry g = geometry(3, 16, false, true), inside = geometry(3, 16, false, false);

    /* Offset 0 is an offset there, and only there. */
    expect(&g, bit63, 0, Q2_CLUSTER_NORMAL, 0, true);
    expect(&g, bit63 | 1, 0, Q2_CLUSTER_ZERO_ALLOC, 0, true);
    expect(&g, 0, 0, Q2_CLUSTER_UNALLOCATED, 0, false);
    assert_int_equal(q2_entry_decode(&inside, bit63, 0).type, Q2_CLUSTER_UNALLOCATED);

    assert_null(q2_entry_problem(&g, bit63 | 0x30000, 0, 0x30000));
    assert_non_null(q2_entry_problem(&g, bit63 | 0x30000, 0, 0x40000));
    assert_non_null(q2_entry_problem(&g, bit63, 0, 0x10000));
    assert_non_null(q2_entry_problem(&g, bit62 | 0x30000, 0, 0x30000));
}

static void test_bad_entries(void **state)
{
    struct q2_geometry v3 = geometry(3, 16, false, false), v2 = geometry(2, 16, false, false);
    struct q2_geometry ext = geometry(3, 16, true, false);

    assert_non_null(q2_entry_problem(&v3, bit63 | 0x50200, 0, 0));
    assert_non_null(q2_entry_problem(&v2, 1, 0, 0));
    assert_null(q2_entry_problem(&v3, 1, 0, 0));
    assert_non_null(q2_entry_problem(&ext, bit63 | 0x50000, 1ull << 32 | 1, 0));
    assert_null(q2_entry_problem(&ext, bit63 | 0x50000, 1ull << 33 | 1, 0));
    assert_non_null(q2_entry_problem(&ext, 0, 4, 0));
    assert_null(q2_entry_problem(&ext, 0, 4ull << 32, 0));

    assert_true(q2_entry_reserved(&v3, bit63 | 0x50000 | 1ull << 56, 0));
    assert_true(q2_entry_reserved(&v3, bit63 | 0x50000 | 1ull << 61, 0));
    assert_true(q2_entry_reserved(&v3, bit63 | 0x50002, 0));
    assert_true(q2_entry_reserved(&v2, 1, 0));
    assert_true(q2_entry_reserved(&ext, bit63 | 0x50001, 0));
    assert_true(q2_entry_reserved(&ext, bit62 | 0x50000, 1));
    assert_true(q2_entry_reserved(&v3, bit63 | bit62 | 0x50000, 0));
    assert_false(q2_entry_reserved(&v3, bit62 | 0x50001, 0));
}

/* "Compressed Clusters Descriptor", for every cluster size. */
static void test_compressed(void **state)
{
    uint64_t seed = 555555555555ull;

    for (uint32_t bits = Q2_MIN_CLUSTER_BITS; bits <= Q2_MAX_CLUSTER_BITS; bits++) {
        struct q2_geometry g = geometry(3, bits, false, false);
        unsigned x = 62 - (bits - 8);

        for (int i = 0; i < 500; i++) {
            uint64_t host = next(&seed) & ((1ull << (x < 56 ? x : 56)) - 1);
            uint64_t len = 1 + next(&seed) % g.cluster_size, last = host + len - 1, entry;
            struct q2_mapping m;

            entry = q2_entry_encode_compressed(&g, host, len);
            m = q2_entry_decode(&g, entry, 0);
            assert_int_equal(entry >> 62, 1);
            assert_int_equal(m.type, Q2_CLUSTER_COMPRESSED);
            assert_int_equal(m.host_offset, host);
            assert_int_equal((entry & ~bit62) >> x, last / 512 - host / 512);
            /* All of it, and no more than the rest of its last sector. */
            assert_int_equal(host + m.compressed_len, (last / 512 + 1) * 512);
            assert_false(m.has_host);
            assert_null(q2_entry_problem(&g, entry, 0, 0));
            assert_false(q2_entry_reserved(&g, entry, 0));
        }
    }
}

/* With 512-byte clusters the offset field has 61 bits, of which those past 55 are reserved. */
static void test_compressed_reserved(void **state)
{
    struct q2_geometry g = geometry(3, 9, false, false);

    assert_true(q2_entry_reserved(&g, bit62 | 1ull << 56, 0));
    assert_int_equal(q2_entry_decode(&g, bit62 | 1ull << 56 | 0x200, 0).host_offset, 0x200);
}

static enum q2_cluster_type type_by_bits(uint64_t entry, uint64_t bitmap, unsigned i)
{
    bool host = (entry & 0xfffffffffffe00ull) != 0;

    if (bitmap >> (32 + i) & 1)
        return host ? Q2_CLUSTER_ZERO_ALLOC : Q2_CLUSTER_ZERO_PLAIN;
    return bitmap >> i & 1 ? Q2_CLUSTER_NORMAL : Q2_CLUSTER_UNALLOCATED;
}

static void check_runs(const struct q2_geometry *g, uint64_t entry, uint64_t bitmap)
{
    struct q2_mapping m = q2_entry_decode(g, entry, bitmap);

    for (unsigned i = 0; i < 32; i++) {
        enum q2_cluster_type type, want = type_by_bits(entry, bitmap, i);
        unsigned run = 1;

        while (i + run < 32 && type_by_bits(entry, bitmap, i + run) == want)
            run++;
        assert_int_equal(q2_subcluster_run(g, &m, i, &type), run);
        assert_int_equal(type, want);
        assert_int_equal(q2_subcluster_type(g, &m, i), want);
    }
}

static void test_subclusters(void **state)
{
    struct q2_geometry g = geometry(3, 16, true, false);
    uint64_t seed = 424242424242ull;

    assert_int_equal(g.subclusters, 32);
    assert_int_equal(g.subcluster_size, 2048);
    check_runs(&g, 0, 0);
    check_runs(&g, 0, 0xffffffffull << 32);
    check_runs(&g, bit63 | 0x50000, 0);
    check_runs(&g, bit63 | 0x50000, 0xffffffffull);
    check_runs(&g, bit63 | 0x50000, 0xffffffffull << 32);
    for (int i = 0; i < 5000; i++) {
        uint32_t alloc = (uint32_t)(next(&seed) & next(&seed)), zero = (uint32_t)next(&seed) & ~alloc;

        /* Long runs as well as short ones. */
        if (i % 2) {
            alloc |= alloc << 1 | alloc << 2 | alloc << 3;
            zero = (zero | zero >> 1 | zero >> 2) & ~alloc;
        }
        check_runs(&g, bit63 | 0x50000, q2_bitmap(alloc, zero));
        check_runs(&g, 0, q2_bitmap(0, zero));
    }
}

static void test_one_subcluster(void **state)
{
    struct q2_geometry g = geometry(3, 16, false, false), ext = geometry(3, 16, true, false);
    struct q2_mapping m = q2_entry_decode(&g, bit63 | 0x50001, 0);
    enum q2_cluster_type type;

    assert_int_equal(q2_subcluster_run(&g, &m, 0, &type), 1);
    assert_int_equal(type, Q2_CLUSTER_ZERO_ALLOC);
    m = q2_entry_decode(&ext, bit62 | 0x50000, 0);
    assert_int_equal(q2_subcluster_run(&ext, &m, 5, &type), 27);
    assert_int_equal(type, Q2_CLUSTER_COMPRESSED);
}

static void test_bitmaps(void **state)
{
    assert_int_equal(q2_subcluster_mask(0, 32), 0xffffffff);
    assert_int_equal(q2_subcluster_mask(31, 1), 0x80000000);
    assert_int_equal(q2_subcluster_mask(4, 4), 0xf0);
    assert_int_equal(q2_bitmap_set_alloc(q2_bitmap(0, 0xff), 0xf), q2_bitmap(0xf, 0xf0));
    assert_int_equal(q2_bitmap_set_zero(q2_bitmap(0xff, 0), 0xf), q2_bitmap(0xf0, 0xf));
    assert_int_equal(q2_bitmap_clear(q2_bitmap(0xf0, 0xf), 0x3c), q2_bitmap(0xc0, 0x3));
}

static void test_l1_and_reftable(void **state)
{
    struct q2_geometry g = geometry(3, 16, false, false);

    assert_int_equal(q2_l1_offset(q2_l1_entry(0x70000, true)), 0x70000);
    assert_int_equal(q2_l1_entry(0x70000, true), bit63 | 0x70000);
    assert_null(q2_l1_problem(&g, bit63 | 0x70000));
    assert_non_null(q2_l1_problem(&g, bit63 | 0x70200));
    assert_false(q2_l1_reserved(bit63 | 0x70000));
    assert_true(q2_l1_reserved(bit62 | 0x70000));
    assert_true(q2_l1_reserved(0x70001));
    assert_int_equal(q2_reftable_offset(0x70000), 0x70000);
    assert_null(q2_reftable_problem(&g, 0x70000));
    assert_non_null(q2_reftable_problem(&g, 0x70200));
    assert_non_null(q2_reftable_problem(&g, bit63 | 0x70000));
    assert_true(q2_reftable_reserved(0x70004));
}

static void test_linear_slices(void **state)
{
    struct q2_geometry plain = geometry(3, 16, false, false), extended = geometry(3, 16, true, false);
    struct q2_geometry data_file = geometry(3, 16, false, true);
    uint64_t slice[64], host_offset = 0;

    for (uint64_t i = 0; i < 64; i++)
        slice[i] = htobe64(bit63 | ((100 + i) << 16));
    assert_true(q2_slice_linear(&plain, (char *)slice, sizeof slice, &host_offset));
    assert_int_equal(host_offset, 100 << 16);
    /* One entry that is shared, or somewhere else, or reads as zeros, or the last of all is not there. */
    slice[7] ^= htobe64(bit63);
    assert_false(q2_slice_linear(&plain, (char *)slice, sizeof slice, &host_offset));
    slice[7] = htobe64(bit63 | (200 << 16));
    assert_false(q2_slice_linear(&plain, (char *)slice, sizeof slice, &host_offset));
    slice[7] = htobe64(bit63 | (107 << 16) | 1);
    assert_false(q2_slice_linear(&plain, (char *)slice, sizeof slice, &host_offset));
    slice[7] = htobe64(bit63 | (107 << 16));
    slice[63] = 0;
    assert_false(q2_slice_linear(&plain, (char *)slice, sizeof slice, &host_offset));
    /* Offset 0 is the header's, but for a data file. */
    for (uint64_t i = 0; i < 64; i++)
        slice[i] = htobe64(bit63 | (i << 16));
    assert_false(q2_slice_linear(&plain, (char *)slice, sizeof slice, &host_offset));
    assert_true(q2_slice_linear(&data_file, (char *)slice, sizeof slice, &host_offset));
    assert_int_equal(host_offset, 0);
    /* All subclusters have to be there. */
    for (uint64_t i = 0; i < 32; i++) {
        slice[2 * i] = htobe64(bit63 | ((100 + i) << 16));
        slice[2 * i + 1] = htobe64(UINT32_MAX);
    }
    assert_true(q2_slice_linear(&extended, (char *)slice, sizeof slice, &host_offset));
    slice[5] = htobe64(UINT32_MAX - 1);
    assert_false(q2_slice_linear(&extended, (char *)slice, sizeof slice, &host_offset));
    memset(slice, 0, sizeof slice);
    assert_false(q2_slice_linear(&plain, (char *)slice, sizeof slice, &host_offset));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_standard),
        cmocka_unit_test(test_data_file),
        cmocka_unit_test(test_bad_entries),
        cmocka_unit_test(test_compressed),
        cmocka_unit_test(test_compressed_reserved),
        cmocka_unit_test(test_subclusters),
        cmocka_unit_test(test_one_subcluster),
        cmocka_unit_test(test_bitmaps),
        cmocka_unit_test(test_l1_and_reftable),
        cmocka_unit_test(test_linear_slices),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
