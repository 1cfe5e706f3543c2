/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* tools/histogram: bucket bounds, and percentiles against the sorted samples. */
#include "tests/unit/op_test.h"

#include "tools/histogram.h"

static void buckets_are_in_order_and_narrow(void **state)
{
    uint64_t first[HISTOGRAM_BUCKETS] = {0};
    unsigned before = 0;

    assert_int_equal(histogram_bucket(0), 0);
    assert_int_equal(histogram_bucket(UINT64_MAX), HISTOGRAM_BUCKETS - 1);
    /* All edges there can be: near powers of two, in steps of a bucket. */
    for (unsigned bits = 0; bits < 64; bits++)
        for (uint64_t k = 0; k < min_u64(64, 1ull << bits); k++) {
            uint64_t base = 1ull << bits, value = base + (bits > 6 ? k << (bits - 6) : k);
            unsigned i = histogram_bucket(value);

            assert_true(i < HISTOGRAM_BUCKETS && i >= before);
            if (i != before)
                first[i] = value;
            else if (first[i] != 0)
                assert_true((value - first[i]) <= first[i] / HISTOGRAM_SUB);
            before = i;
        }
}

static void no_sample_and_one(void **state)
{
    struct histogram h;

    histogram_init(&h);
    assert_int_equal(histogram_percentile(&h, 0.5), 0);
    assert_true(histogram_mean(&h) == 0.0);
    for (uint64_t value = 0; value < 1u << 20; value = value * 3 + 1) {
        histogram_init(&h);
        histogram_add(&h, value);
        assert_int_equal(histogram_percentile(&h, 0.0), value);
        assert_int_equal(histogram_percentile(&h, 0.5), value);
        assert_int_equal(histogram_percentile(&h, 1.0), value);
        assert_true(histogram_mean(&h) == (double)value);
    }
    histogram_init(&h);
    histogram_add(&h, UINT64_MAX);
    assert_true(histogram_percentile(&h, 0.0) == UINT64_MAX);
}

static int by_value(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return (x > y) - (x < y);
}

static void percentiles_are_true_to_three_percent(void **state)
{
    static const double ranks[] = {0.0, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999, 0.9999, 1.0};
    enum { SAMPLES = 5000 };
    static uint64_t samples[SAMPLES];
    uint64_t seed = 99;
    struct histogram h;

    for (int round = 0; round < 50; round++) {
        unsigned spread = (unsigned)(xorshift(&seed) % 40);
        double sum = 0;

        histogram_init(&h);
        for (int i = 0; i < SAMPLES; i++) {
            samples[i] = xorshift(&seed) >> (24 + xorshift(&seed) % (spread + 1));
            histogram_add(&h, samples[i]);
            sum += (double)samples[i];
        }
        qsort(samples, SAMPLES, sizeof samples[0], by_value);
        assert_int_equal(h.min, samples[0]);
        assert_int_equal(h.max, samples[SAMPLES - 1]);
        assert_float_equal(histogram_mean(&h), sum / SAMPLES, sum / SAMPLES * 1e-6);
        for (size_t i = 0; i < ARRAY_LEN(ranks); i++) {
            uint64_t at = min_u64((uint64_t)(ranks[i] * SAMPLES), SAMPLES - 1);
            uint64_t got = histogram_percentile(&h, ranks[i]);

            assert_true(got >= samples[at]);
            assert_true(got - samples[at] <= samples[at] / HISTOGRAM_SUB);
        }
    }
}

static void merging_is_adding(void **state)
{
    struct histogram parts[3], all, merged;
    uint64_t seed = 5;

    histogram_init(&all);
    histogram_init(&merged);
    for (int i = 0; i < 3; i++)
        histogram_init(&parts[i]);
    histogram_merge(&merged, &all);
    assert_memory_equal(&merged, &all, sizeof all);
    for (int i = 0; i < 10000; i++) {
        uint64_t value = xorshift(&seed) >> (30 + i % 20);
        histogram_add(&parts[i % 2], value); /* the third stays empty */
        histogram_add(&all, value);
    }
    for (int i = 0; i < 3; i++)
        histogram_merge(&merged, &parts[i]);
    assert_memory_equal(&merged, &all, sizeof all);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(buckets_are_in_order_and_narrow),
        cmocka_unit_test(no_sample_and_one),
        cmocka_unit_test(percentiles_are_true_to_three_percent),
        cmocka_unit_test(merging_is_adding),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
