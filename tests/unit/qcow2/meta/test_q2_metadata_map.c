/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The map of metadata against an array of kinds. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "engine/base/bits.h"
#include "qcow2/meta/metadata_map.h"
#include "tests/lib/rng.h"

enum { CLUSTERS = 60000, ITEMS = 600 };

struct item {
    uint64_t at, n;
    uint32_t kind;
};

/* Far up; two kinds that may lie twice in a place are not among those here. */
static const uint64_t base = UINT64_C(3) << 38 | 4711;
static const uint32_t kinds[] = {Q2_META_L1, Q2_META_SNAPSHOTS, Q2_META_BITMAPS, Q2_META_REFTABLE};

static uint32_t model[CLUSTERS];

static bool is_free(const struct item *t)
{
    for (uint64_t i = t->at; i < t->at + t->n; i++)
        if (model[i])
            return false;
    return true;
}

static void mark(const struct item *t, uint32_t kind)
{
    for (uint64_t i = t->at; i < t->at + t->n; i++)
        model[i] = kind;
}

static void check_range(struct q2_meta_map *m, struct rng *r)
{
    uint64_t at = rng_below(r, CLUSTERS), n = 1 + rng_below(r, min_u64(CLUSTERS - at, 900)), where, i = at;

    assert_int_equal(q2_meta_kinds(m, base + at), model[at]);
    while (i < at + n && !model[i])
        i++;
    if (i == at + n) {
        assert_int_equal(q2_meta_find(m, base + at, n, &where), 0);
    } else {
        assert_true(q2_meta_find(m, base + at, n, &where) & model[i]);
        assert_int_equal(where, base + i);
    }
}

static void against_model(void **state)
{
    static struct q2_meta_map m;
    static struct item items[ITEMS];
    struct rng r;

    rng_init(&r, 11);
    for (unsigned round = 0; round < 20000; round++) {
        struct item *t = &items[rng_below(&r, ITEMS)];
        if (t->n) {
            q2_meta_remove(&m, base + t->at, t->n, t->kind);
            mark(t, 0);
            t->n = 0;
        } else {
            t->at = rng_below(&r, CLUSTERS - 200);
            t->n = rng_chance(&r, 70) ? 1 : 1 + rng_below(&r, 200);
            t->kind = kinds[rng_below(&r, ARRAY_LEN(kinds))];
            if (is_free(t)) {
                q2_meta_add(&m, base + t->at, t->n, t->kind);
                mark(t, t->kind);
            } else {
                t->n = 0;
            }
        }
        check_range(&m, &r);
    }
    assert_false(m.overflowed);
    q2_meta_finish(&m);
}

/* L2 tables that were made at once, and are given up each for itself, or some of them. */
static void tables_go_one_by_one(void **state)
{
    static struct q2_meta_map m;
    uint64_t where;

    q2_meta_add(&m, 10, 16, Q2_META_L2);
    q2_meta_remove(&m, 12, 1, Q2_META_L2);
    q2_meta_remove(&m, 17, 9, Q2_META_L2);
    assert_int_equal(q2_meta_find(&m, 12, 1, &where) | q2_meta_find(&m, 17, 9, &where), 0);
    assert_int_equal(q2_meta_find(&m, 11, 1, &where), Q2_META_L2);
    assert_int_equal(q2_meta_find(&m, 12, 9, &where), Q2_META_L2);
    assert_int_equal(where, 13);
    q2_meta_finish(&m);
}

/* What two entries lead to is known as such, until one of them is gone. */
static void twice(void **state)
{
    static struct q2_meta_map m;
    uint64_t where;

    q2_meta_add(&m, 5, 1, Q2_META_L2);
    q2_meta_add(&m, 5, 1, Q2_META_SNAPSHOT_L2);
    assert_int_equal(q2_meta_find(&m, 5, 1, &where), Q2_META_L2 | Q2_META_SNAPSHOT_L2);
    q2_meta_add(&m, 5, 1, Q2_META_L2);
    assert_int_equal(q2_meta_find(&m, 0, 100, &where), Q2_META_L2 | Q2_META_SNAPSHOT_L2 | Q2_META_TWICE);
    assert_int_equal(where, 5);
    q2_meta_remove(&m, 5, 1, Q2_META_L2);
    assert_int_equal(q2_meta_find(&m, 5, 1, &where), Q2_META_L2 | Q2_META_SNAPSHOT_L2);
    q2_meta_remove(&m, 5, 1, Q2_META_L2);
    assert_int_equal(q2_meta_find(&m, 5, 1, &where), Q2_META_SNAPSHOT_L2);
    assert_string_equal(q2_meta_name(Q2_META_SNAPSHOT_L2), "a snapshot's L2 table");
    q2_meta_finish(&m);
}

/* Places that make no sense do no harm. */
static void absurd(void **state)
{
    static struct q2_meta_map m;
    uint64_t where;

    q2_meta_add(&m, UINT64_MAX, 1, Q2_META_L2);
    q2_meta_add(&m, UINT64_MAX - 3, 100, Q2_META_L1);
    q2_meta_add(&m, UINT64_C(1) << 60, 1, Q2_META_L2);
    assert_true(m.overflowed);
    assert_int_equal(q2_meta_find(&m, 0, 1000, &where), 0);
    q2_meta_finish(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(against_model), cmocka_unit_test(tables_go_one_by_one),
                                       cmocka_unit_test(twice), cmocka_unit_test(absurd)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
