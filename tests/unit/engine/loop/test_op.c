/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* engine/op: awaits, wakes from here and from other threads, I/O by one and by many, children, memory. */
#include "tests/unit/op_test.h"

#include "backends/lab/fault.h"
#include "backends/memory.h"

static vdisk_queue *q;

/* ---- an op with several awaits ------------------------------------------------------------------------- */

enum { IOS = 5 };

struct demo {
    struct op       op;
    struct backend *backend;
    struct io       io[IOS];
    char            buf[IOS][512];
    unsigned        many;    /* I/Os that DEMO_MANY waits for */
    int             result;
    int             one_rc, many_rc;
    bool            done;
};

enum demo_state { DEMO_START = OP_START, DEMO_ONE, DEMO_MANY, DEMO_WAKE };

static void demo_many(struct demo *d, struct op *op)
{
    op_io_begin(op);
    for (unsigned i = 0; i < d->many; i++) {
        io_rw(&d->io[i], d->backend, IO_READ, 512ull * i, d->buf[i], 512);
        op_io_add(op, &d->io[i]);
    }
    op_io_wait(op);
}

static void demo_one(struct demo *d, struct op *op)
{
    io_rw(&d->io[0], d->backend, IO_WRITE, 0, d->buf[0], 512);
    op_io(op, &d->io[0]);
}

static void demo_step(struct op *op)
{
    struct demo *d = container_of(op, struct demo, op);

    OP_BEGIN(enum demo_state, op)
    OP_TRY(op, DEMO_ONE, demo_one(d, op));
    d->one_rc = op->rc;
    OP_AWAIT(op, DEMO_MANY, demo_many(d, op));
    d->many_rc = op->rc;
    OP_TRY(op, DEMO_WAKE, op_wake(op, -ECANCELED));
    d->result = 0;
    d->done = true;
    return;
    OP_END
fail:
    d->result = op->rc;
    d->done = true;
}

OP_TYPE(demo, demo_step, "START", "DEMO_ONE", "DEMO_MANY", "DEMO_WAKE");

/* ---- wakes --------------------------------------------------------------------------------------------- */

static void a_wake_is_never_inline(void **state)
{
    struct waiter w;

    waiter_init(&w, q);
    op_wake(&w.op, -EIO);
    assert_int_equal(w.woken, 0);
    run_all_ready(q);
    assert_int_equal(w.woken, 1);
    assert_int_equal(w.rc, -EIO);
    assert_string_equal(op_state_name(&w.op), "WAITER_WOKEN");

    memset(&w, 0, sizeof w);
    op_init(&w.op, q, &waiter_type);
    op_start_later(&w.op);
    assert_int_equal(w.woken, 0);
    run_all_ready(q);
    assert_int_equal(w.woken, 1);
    op_init(&w.op, q, &waiter_type);
    op_start(&w.op);
    assert_int_equal(w.woken, 2);
}

static void all_are_woken_in_order(void **state)
{
    struct waiter w[4];
    struct list list;

    list_init(&list);
    op_wake_all(&list, 0);
    for (int i = 0; i < 4; i++) {
        waiter_init(&w[i], q);
        list_add_tail(&list, &w[i].op.wait);
    }
    op_wake_all(&list, -ENOSPC);
    assert_true(list_empty(&list));
    run_all_ready(q);
    for (int i = 0; i < 4; i++) {
        assert_int_equal(w[i].woken, 1);
        assert_int_equal(w[i].rc, -ENOSPC);
        assert_true(i == 0 || w[i].turn == w[i - 1].turn + 1);
    }
}

static void *wake_from_afar(void *arg)
{
    struct waiter *w = arg;

    for (int i = 0; i < 100; i++)
        op_wake(&w[i].op, -i);
    return NULL;
}

static void wakes_from_another_thread(void **state)
{
    static struct waiter w[100];
    pthread_t thread;
    unsigned woken = 0;

    for (int i = 0; i < 100; i++)
        waiter_init(&w[i], q);
    assert_int_equal(pthread_create(&thread, NULL, wake_from_afar, w), 0);
    while (woken < 100) {
        queue_turn(q);
        woken = 0;
        for (int i = 0; i < 100; i++)
            woken += w[i].woken;
        if (woken < 100 && !q->ready.head)
            queue_sleep(q, 1, NULL); /* the wake ends the sleep */
    }
    pthread_join(thread, NULL);
    for (int i = 0; i < 100; i++) {
        assert_int_equal(w[i].rc, -i);
        assert_int_equal(w[i].woken, 1);
        assert_true(i == 0 || w[i].turn > w[i - 1].turn);
    }
}

/* ---- I/O ----------------------------------------------------------------------------------------------- */

static struct backend *faulty_memory(void)
{
    struct backend *memory, *b;

    assert_int_equal(memory_backend_create("memory", 1 << 20, &memory), 0);
    assert_int_equal(fault_backend_create(memory, &b), 0);
    return b;
}

static void run_demo(struct demo *d, struct backend *b, unsigned many)
{
    memset(d, 0, sizeof *d);
    op_init(&d->op, q, &demo_type);
    d->backend = b;
    d->many = many;
    op_start(&d->op);
    assert_false(d->done);
    queue_run_until(q, &d->done);
}

static void an_op_goes_through_its_states(void **state)
{
    struct backend *b = faulty_memory();
    static struct demo d;

    demo_seen[DEMO_MANY] = 0;
    for (unsigned many = 0; many <= IOS; many++) { /* none is fine too */
        run_demo(&d, b, many);
        assert_int_equal(d.one_rc, 0);
        assert_int_equal(d.many_rc, 0);
        assert_int_equal(d.result, -ECANCELED);
        assert_int_equal(d.op.waits, 0);
    }
    assert_int_equal(demo_seen[DEMO_MANY], OP_SEEN_AWAITED);
    assert_int_equal(fault_calls(b, IO_READ), IOS * (IOS + 1) / 2);
    backend_close(b);
}

static void types_are_listed(void **state)
{
    unsigned count, found = 0;
    const struct op_type *const *types = op_types(&count);

    for (unsigned i = 0; i < count; i++) {
        found += types[i] == &demo_type || types[i] == &waiter_type;
        assert_true(types[i]->nstates > 0 && types[i]->states[0]);
    }
    assert_int_equal(found, 2);
    assert_true(count > found); /* the engine's own */
}

static void one_error_of_many_is_the_result(void **state)
{
    struct fault_rule read = {.kinds = FAULT_KIND(IO_READ), .state = "DEMO_MANY", .error = EIO};
    struct fault_rule write = {.kinds = FAULT_KIND(IO_WRITE), .state = "DEMO_ONE", .error = ENOSPC};
    static struct demo d;

    for (unsigned nth = 1; nth <= IOS; nth++) {
        struct backend *b = faulty_memory();

        read.nth = nth;
        assert_true(fault_add_rule(b, &read) >= 0);
        run_demo(&d, b, IOS);
        assert_int_equal(d.many_rc, -EIO);
        assert_int_equal(d.result, -ECANCELED); /* the wake that came later: the error was not sticky */
        assert_int_equal(demo_seen[DEMO_MANY], OP_SEEN_AWAITED | OP_SEEN_EIO);
        assert_int_equal(fault_calls(b, IO_READ), IOS); /* it waited for all of them */
        backend_close(b);
    }
    struct backend *b = faulty_memory();
    assert_true(fault_add_rule(b, &write) >= 0);
    run_demo(&d, b, IOS);
    assert_int_equal(d.result, -ENOSPC);
    assert_int_equal(fault_calls(b, IO_READ), 0);
    backend_close(b);
}

/* ---- children ------------------------------------------------------------------------------------------ */

static void a_parent_waits_for_all_children(void **state)
{
    struct waiter parent;
    struct op_child children[3];
    struct op *ops[3];

    waiter_init(&parent, q);
    op_io_begin(&parent.op);
    for (int i = 0; i < 3; i++)
        ops[i] = op_child_add(&parent.op, &children[i]);
    op_wake(ops[0], 0);
    op_io_wait(&parent.op);
    run_all_ready(q);
    assert_int_equal(parent.woken, 0);
    op_wake(ops[2], -ENOMEM);
    run_all_ready(q);
    assert_int_equal(parent.woken, 0);
    op_wake(ops[1], -EIO); /* not the first error */
    run_all_ready(q);
    assert_int_equal(parent.woken, 1);
    assert_int_equal(parent.rc, -ENOMEM);
}

/* ---- memory -------------------------------------------------------------------------------------------- */

static void memory_is_zeroed_and_used_again(void **state)
{
    static const size_t sizes[] = {sizeof(struct op), 256, 257, 1000, 4096, 10000, 32768};

    for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
        char *first, *second, *third;
        unsigned active = q->ops_active;

        first = op_alloc(q, &waiter_type, sizes[i]);
        second = op_alloc(q, &waiter_type, sizes[i]);
        assert_non_null(first);
        assert_non_null(second);
        assert_int_equal(q->ops_active, active + 2);
        memset(first + sizeof(struct op), 0xff, sizes[i] - sizeof(struct op));
        op_free((struct op *)(void *)first, sizes[i]);
        third = op_alloc(q, &waiter_type, sizes[i]);
        assert_ptr_equal(third, first);
        for (size_t k = sizeof(struct op); k < sizes[i]; k++)
            assert_int_equal(third[k], 0);
        assert_ptr_equal(((struct op *)(void *)third)->type, &waiter_type);
        op_free((struct op *)(void *)second, sizes[i]);
        op_free((struct op *)(void *)third, sizes[i]);
        assert_int_equal(q->ops_active, active);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_wake_is_never_inline),
        cmocka_unit_test(all_are_woken_in_order),
        cmocka_unit_test(wakes_from_another_thread),
        cmocka_unit_test(an_op_goes_through_its_states),
        cmocka_unit_test(types_are_listed),
        cmocka_unit_test(one_error_of_many_is_the_result),
        cmocka_unit_test(a_parent_waits_for_all_children),
        cmocka_unit_test(memory_is_zeroed_and_used_again),
    };
    int rc;

    q = op_test_queue();
    queue_turn(q); /* this thread's queue from now on */
    rc = cmocka_run_group_tests(tests, NULL, NULL);
    vdisk_queue_destroy(q);
    return rc;
}
