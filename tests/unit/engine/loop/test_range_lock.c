/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* engine/range_lock: first come first served, by hand and against a model of the rule. */
#include "tests/unit/op_test.h"

#include "engine/loop/range_lock.h"

static vdisk_queue *q;

static void disjoint_ranges_do_not_wait(void **state)
{
    struct range_locks locks;
    struct range_lock a, b, c;

    range_locks_init(&locks);
    assert_true(range_lock_try(&locks, &a, 0, 100));
    assert_true(range_lock_try(&locks, &b, 100, 200));
    assert_true(range_lock_try(&locks, &c, UINT64_MAX - 1, UINT64_MAX));
    assert_true(range_is_locked(&locks, 99, 101));
    assert_true(range_is_locked(&locks, 0, UINT64_MAX));
    assert_false(range_is_locked(&locks, 200, 1000));
    range_unlock(&locks, &b);
    assert_false(range_is_locked(&locks, 100, 200));
    range_unlock(&locks, &a);
    range_unlock(&locks, &c);
    range_locks_finish(&locks);
}

static void waiters_are_served_in_order(void **state)
{
    struct range_locks locks;
    struct range_lock first, second, third, beside;
    struct waiter w2, w3;

    range_locks_init(&locks);
    waiter_init(&w2, q);
    waiter_init(&w3, q);
    assert_true(range_lock_try(&locks, &first, 0, 100));
    assert_false(range_lock_try(&locks, &second, 50, 150));
    range_lock_wait(&locks, &second, &w2.op);
    /* Free as such, but the second was there before. */
    assert_false(range_lock_try(&locks, &third, 120, 130));
    range_lock_wait(&locks, &third, &w3.op);
    assert_true(range_lock_try(&locks, &beside, 150, 160));
    run_all_ready(q);
    assert_int_equal(w2.woken + w3.woken, 0);
    range_unlock(&locks, &first);
    assert_int_equal(w2.woken, 0); /* never inline */
    run_all_ready(q);
    assert_int_equal(w2.woken, 1);
    assert_int_equal(w2.rc, 0);
    assert_int_equal(w3.woken, 0);
    range_unlock(&locks, &second);
    run_all_ready(q);
    assert_int_equal(w3.woken, 1);
    range_unlock(&locks, &third);
    range_unlock(&locks, &beside);
    range_locks_finish(&locks);
}

/* The lock comes free between the try and the wait. */
static void a_wake_between_try_and_wait_is_not_lost(void **state)
{
    struct range_locks locks;
    struct range_lock first, second;
    struct waiter w;

    range_locks_init(&locks);
    waiter_init(&w, q);
    assert_true(range_lock_try(&locks, &first, 0, 10));
    assert_false(range_lock_try(&locks, &second, 9, 12));
    range_unlock(&locks, &first);
    range_lock_wait(&locks, &second, &w.op);
    assert_int_equal(w.woken, 0);
    run_all_ready(q);
    assert_int_equal(w.woken, 1);
    range_unlock(&locks, &second);
    range_locks_finish(&locks);
}

/* ---- against a model ----------------------------------------------------------------------------------- */

enum { LOCKS = 24, STEPS = 30000 };

struct claim {
    struct range_lock lock;
    struct waiter     waiter;
    bool              there;    /* in line */
    bool              waits;
    uint64_t          order;    /* of arrival */
};

static bool overlap(const struct claim *a, const struct claim *b)
{
    return a->lock.start < b->lock.end && b->lock.start < a->lock.end;
}

/* The rule: held when no earlier one overlaps. */
static bool model_held(const struct claim *claims, const struct claim *c)
{
    for (int i = 0; i < LOCKS; i++)
        if (claims[i].there && claims[i].order < c->order && overlap(&claims[i], c))
            return false;
    return true;
}

static void check_all(struct claim *claims)
{
    for (int i = 0; i < LOCKS; i++) {
        struct claim *c = &claims[i];
        if (!c->there)
            continue;
        bool held = model_held(claims, c);
        assert_int_equal(c->lock.held, held);
        if (c->waits)
            assert_int_equal(c->waiter.woken, held);
    }
}

static void arrive(struct range_locks *locks, struct claim *claims, struct claim *c, uint64_t order,
                   uint64_t *seed)
{
    uint64_t start = xorshift(seed) % 100, end = start + 1 + xorshift(seed) % 20;

    c->there = true;
    c->order = order;
    c->waits = !range_lock_try(locks, &c->lock, start, end);
    assert_int_equal(c->waits, !model_held(claims, c));
    if (c->waits) {
        waiter_init(&c->waiter, q);
        range_lock_wait(locks, &c->lock, &c->waiter.op);
    }
}

static void any_order_obeys_the_rule(void **state)
{
    struct claim claims[LOCKS] = {0};
    struct range_locks locks;
    uint64_t seed = 0x1234567890abcdefull;
    unsigned waited = 0;

    range_locks_init(&locks);
    for (uint64_t step = 0; step < STEPS; step++) {
        struct claim *c = &claims[xorshift(&seed) % LOCKS];
        if (!c->there) {
            arrive(&locks, claims, c, step, &seed);
            waited += c->waits;
        } else if (c->lock.held) {
            range_unlock(&locks, &c->lock);
            c->there = false;
        }
        run_all_ready(q);
        check_all(claims);
    }
    for (int left = LOCKS; left > 0; run_all_ready(q)) {
        left = 0;
        for (int i = 0; i < LOCKS; i++) {
            left += claims[i].there;
            if (claims[i].there && claims[i].lock.held) {
                range_unlock(&locks, &claims[i].lock);
                claims[i].there = false;
            }
        }
    }
    assert_true(waited > STEPS / 20); /* the test is about waiting */
    range_locks_finish(&locks);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(disjoint_ranges_do_not_wait),
        cmocka_unit_test(waiters_are_served_in_order),
        cmocka_unit_test(a_wake_between_try_and_wait_is_not_lost),
        cmocka_unit_test(any_order_obeys_the_rule),
    };
    int rc;

    q = op_test_queue();
    rc = cmocka_run_group_tests(tests, NULL, NULL);
    vdisk_queue_destroy(q);
    return rc;
}
