/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Runs of zero clusters against an array of bits. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "engine/base/bits.h"
#include "qcow2/space/zero_runs.h"
#include "tests/lib/rng.h"

enum { CLUSTERS = 4000 };

static void check_sorted(const struct q2_zero_runs *z)
{
    for (unsigned i = 0; i < z->count; i++) {
        assert_true(z->run[i].start < z->run[i].end);
        assert_true(i == 0 || z->run[i - 1].end < z->run[i].start);
    }
}

/* How far from `start` the bits are like the first, at most n. */
static uint64_t bits_alike(const uint8_t *bits, uint64_t start, uint64_t n)
{
    uint64_t same = 1;

    while (same < n && bits[start + same] == bits[start])
        same++;
    return same;
}

static bool none_set(const uint8_t *bits, uint64_t start, uint64_t end)
{
    while (start < end && !bits[start])
        start++;
    return start == end;
}

static void test_random(void **state)
{
    static struct q2_zero_runs z;
    static uint8_t bits[CLUSTERS];
    struct rng r;

    rng_init(&r, 4711);
    for (unsigned step = 0; step < 20000; step++) {
        uint64_t start = rng_below(&r, CLUSTERS - 100), end = start + rng_between(&r, 1, 60), n;
        bool zero;
        if (rng_chance(&r, 40) && none_set(bits, start, end)) {
            q2_zero_runs_add(&z, start, end);
            memset(bits + start, 1, end - start);
        } else if (rng_chance(&r, 50)) {
            q2_zero_runs_remove(&z, start, end);
            memset(bits + start, 0, end - start);
        }
        check_sorted(&z);
        assert_true(z.count < Q2_ZERO_RUNS); /* so that nothing was forgotten */
        n = q2_zero_runs_alike(&z, start, end - start, &zero);
        assert_int_equal(n, bits_alike(bits, start, end - start));
        assert_int_equal(zero, bits[start]);
    }
}

/* When they do not all fit, the short ones are forgotten, and nothing is made up. */
static void test_full(void **state)
{
    static struct q2_zero_runs z;
    bool zero;

    for (uint64_t i = 0; i < 2 * Q2_ZERO_RUNS; i++)
        q2_zero_runs_add(&z, 10 * i, 10 * i + (i % 2 ? 1 : 5));
    check_sorted(&z);
    assert_int_equal(z.count, Q2_ZERO_RUNS);
    for (uint64_t i = 0; i < 2 * Q2_ZERO_RUNS; i++) {
        uint64_t n = q2_zero_runs_alike(&z, 10 * i, 10, &zero);
        assert_true(!zero || n == (i % 2 ? 1 : 5));
        assert_true(zero || i % 2);
    }
    /* A run that is cut in two when there is no room for two. */
    q2_zero_runs_remove(&z, 1, 2);
    check_sorted(&z);
    q2_zero_runs_alike(&z, 1, 1, &zero);
    assert_false(zero);
    q2_zero_runs_remove(&z, 0, UINT64_MAX);
    assert_int_equal(z.count, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random),
        cmocka_unit_test(test_full),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
