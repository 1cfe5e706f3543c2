/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The plan of a flush, for all that may be needed: each ordering rule of qcow2/flush/flush.c as a condition on it.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "qcow2/flush/flush_plan.h"

static void check_rules(struct q2_flush_needs n)
{
    struct q2_flush_plan p = q2_flush_plan(n);

    assert_int_equal(p.write_refcounts, n.refcounts);
    assert_int_equal(p.write_reftable, n.reftable);
    assert_int_equal(p.write_mapping, n.mapping);
    if (n.refcounts && n.mapping)
        assert_true(p.sync_data); /* rule 1: it comes after the refcounts, and before the mapping */
    if (n.data && n.mapping)
        assert_true(p.sync_data); /* rule 2 */
    if (n.refcounts && n.reftable)
        assert_true(p.sync_refcounts); /* rule 3 */
    if (n.reftable && n.mapping)
        assert_true(p.sync_data);
    if (n.mapping)
        assert_true(p.sync_mapping);
    /* Whatever else, the guest's data is durable at the end, by a sync that comes after it. */
    assert_true(p.sync_data || p.sync_mapping);
}

static void test_all_needs(void **state)
{
    for (unsigned i = 0; i < 16; i++)
        check_rules((struct q2_flush_needs){
            .refcounts = i & 1, .reftable = i & 2, .mapping = i & 4, .data = i & 8});
}

/* The two that happen all the time cost one sync. */
static void test_one_sync(void **state)
{
    struct q2_flush_plan in_place = q2_flush_plan((struct q2_flush_needs){0});
    struct q2_flush_plan first_touch = q2_flush_plan((struct q2_flush_needs){.mapping = true});

    assert_true(in_place.sync_data && !in_place.sync_refcounts && !in_place.sync_mapping);
    assert_true(first_touch.sync_mapping && !first_touch.sync_refcounts && !first_touch.sync_data);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_all_needs),
        cmocka_unit_test(test_one_sync),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
