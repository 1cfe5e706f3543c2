/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The counts of references against an array of them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/base/bits.h"
#include "qcow2/check/check_refs.h"

enum { CLUSTERS = 5 * Q2_REFS_PAGE + 77, REFCOUNT_MAX = 65535 };

static uint64_t next_random(uint64_t *seed)
{
    *seed = *seed * 6364136223846793005ull + 1442695040888963407ull;
    return *seed >> 33;
}

static void compare(const struct q2_refs *r, const uint64_t *counts)
{
    uint64_t end = 0, next = CLUSTERS;

    for (uint64_t i = CLUSTERS; i-- > 0;) {
        assert_int_equal(q2_refs_count(r, i), counts[i]);
        if (counts[i] > 0) {
            end = max_u64(end, i + 1);
            next = i;
        }
        assert_int_equal(q2_refs_next(r, i), next);
    }
    assert_int_equal(q2_refs_end(r), end);
    assert_int_equal(q2_refs_next(r, CLUSTERS), CLUSTERS);
    assert_true(!q2_refs_none(r, 0, CLUSTERS) || end == 0);
}

/* In two pages at most: the others have no memory. */
static void test_counts(void **state)
{
    static uint64_t counts[CLUSTERS];
    uint64_t seed = 1234567891011ull;

    for (int round = 0; round < 20; round++) {
        struct q2_budget budget = {.max = 1 << 20};
        struct q2_refs refs;
        uint64_t pages[2] = {next_random(&seed) % 6, next_random(&seed) % 6};

        memset(counts, 0, sizeof counts);
        assert_int_equal(q2_refs_init(&refs, &budget, CLUSTERS), 0);
        for (int n = round % 20; n > 0; n--) {
            uint64_t cluster = pages[n % 2] * Q2_REFS_PAGE + next_random(&seed) % Q2_REFS_PAGE;
            uint64_t more = next_random(&seed) % 3 == 0 ? next_random(&seed) % 70000 + 1 : 1;
            struct q2_refs_added added;

            if (n % 4 == 0) /* the first and the last of a page */
                cluster = n % 8 == 0 ? align_down(cluster, Q2_REFS_PAGE) : cluster | (Q2_REFS_PAGE - 1);
            cluster = min_u64(cluster, CLUSTERS - 1);
            assert_int_equal(q2_refs_add(&refs, cluster, Q2_USE_DATA, more, REFCOUNT_MAX, &added), 0);
            assert_int_equal(added.before, counts[cluster] ? Q2_USE_DATA : Q2_USE_NONE);
            counts[cluster] += more - added.excess;
            assert_true(added.excess == 0 || counts[cluster] == REFCOUNT_MAX);
        }
        compare(&refs, counts);
        q2_refs_finish(&refs);
        assert_int_equal(budget.used, 0);
    }
}

/* Of as many clusters as a check takes, in no time: nothing may go through them one by one. */
static void test_huge(void **state)
{
    enum { HUGE = INT32_MAX };
    struct q2_budget budget = {.max = 64 << 20};
    struct q2_refs_added added;
    struct q2_refs refs;

    assert_int_equal(q2_refs_init(&refs, &budget, HUGE), 0);
    assert_int_equal(q2_refs_end(&refs), 0);
    assert_int_equal(q2_refs_next(&refs, 0), HUGE);
    assert_int_equal(q2_refs_add(&refs, 5, Q2_USE_DATA, 1, 1, &added), 0);
    for (int i = 0; i < 20; i++) {
        assert_int_equal(q2_refs_end(&refs), 6);
        assert_int_equal(q2_refs_next(&refs, 6), HUGE);
    }
    q2_refs_finish(&refs);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_counts), cmocka_unit_test(test_huge)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
