/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A set of clusters against an array of bits; and its bound. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "engine/base/bits.h"
#include "qcow2/meta/cluster_set.h"
#include "tests/lib/rng.h"

enum { CLUSTERS = 200000 };

/* Far up, so that pages do not follow on each other from 0. */
static const uint64_t base = UINT64_C(5) << 40 | 12345;

static void check_runs(const struct q2_cluster_set *s, const uint8_t *bits, uint64_t from, uint64_t end)
{
    uint64_t stop, first = from;

    while (first < end && !bits[first])
        first++;
    assert_int_equal(q2_cluster_set_next(s, base + from, base + end, &stop), base + first);
    assert_true(stop <= base + end);
    for (uint64_t i = first; i < stop - base; i++)
        assert_true(bits[i]);
    assert_true(first == end || stop == base + end || !bits[stop - base]);
}

static void against_bits(void **state)
{
    static uint8_t bits[CLUSTERS];
    struct q2_cluster_set s = {0};
    struct rng r;

    rng_init(&r, 7);
    for (unsigned i = 0; i < 4000; i++) {
        uint64_t at = rng_below(&r, CLUSTERS), n = 1 + rng_below(&r, rng_chance(&r, 80) ? 100 : 70000);
        n = min_u64(n, CLUSTERS - at);
        if (rng_chance(&r, 50)) {
            q2_cluster_set_add(&s, base + at, n);
            memset(bits + at, 1, n);
        } else {
            q2_cluster_set_remove(&s, base + at, n);
            memset(bits + at, 0, n);
        }
        for (unsigned k = 0; k < 50; k++) {
            at = rng_below(&r, CLUSTERS);
            assert_int_equal(q2_cluster_set_has(&s, base + at), bits[at]);
        }
        check_runs(&s, bits, at, at + rng_below(&r, CLUSTERS - at));
    }
    assert_false(s.overflowed);
    q2_cluster_set_finish(&s);
}

/* More than fits: some are not kept, none is invented, and it is said. */
static void bounded(void **state)
{
    struct q2_cluster_set s = {0};

    for (uint64_t i = 0; i < 2 * Q2_SET_PAGES; i++)
        q2_cluster_set_add(&s, i << Q2_SET_PAGE_BITS, 1);
    assert_true(s.overflowed);
    assert_true(q2_cluster_set_has(&s, 0));
    assert_false(q2_cluster_set_has(&s, 1));
    assert_false(q2_cluster_set_has(&s, (uint64_t)(2 * Q2_SET_PAGES - 1) << Q2_SET_PAGE_BITS));
    q2_cluster_set_finish(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(against_bits), cmocka_unit_test(bounded)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
