/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* engine/gate: drains wait for those who were inside, and for nobody else. The last test uses threads. */
#include "tests/unit/op_test.h"

#include "engine/loop/gate.h"

static vdisk_queue *q;

static void an_empty_gate_drains_at_once(void **state)
{
    struct gate g;
    struct waiter w;

    assert_int_equal(gate_init(&g), 0);
    waiter_init(&w, q);
    gate_drain(&g, &w.op);
    assert_int_equal(w.woken, 0); /* never inline */
    run_all_ready(q);
    assert_int_equal(w.woken, 1);
    assert_int_equal(w.rc, 0);
    assert_true(gate_passed(&g, gate_ticket(&g)));
    gate_finish(&g);
    gate_finish(&g); /* of one that is finished already: nothing */
}

static void a_drain_waits_for_those_inside(void **state)
{
    struct gate g;
    struct waiter w;
    uint8_t a, b, late;

    assert_int_equal(gate_init(&g), 0);
    waiter_init(&w, q);
    a = gate_enter(&g, 1);
    b = gate_enter(&g, 1 + GATE_SLOTS); /* two queues may share a slot */
    gate_drain(&g, &w.op);
    late = gate_enter(&g, 2);
    run_all_ready(q);
    assert_int_equal(w.woken, 0);
    gate_leave(&g, 1, a);
    run_all_ready(q);
    assert_int_equal(w.woken, 0);
    gate_leave(&g, 1 + GATE_SLOTS, b);
    run_all_ready(q);
    assert_int_equal(w.woken, 1); /* though the late one is still inside */
    gate_leave(&g, 2, late);
    gate_finish(&g);
}

/* A drain that begins during another waits for those who came in between, too. */
static void drains_overlap(void **state)
{
    struct gate g;
    struct waiter first, second, third;
    uint8_t a, between;

    assert_int_equal(gate_init(&g), 0);
    waiter_init(&first, q);
    waiter_init(&second, q);
    waiter_init(&third, q);
    a = gate_enter(&g, 1);
    gate_drain(&g, &first.op);
    between = gate_enter(&g, 2);
    gate_drain(&g, &second.op);
    gate_drain(&g, &third.op);
    gate_leave(&g, 1, a);
    run_all_ready(q);
    assert_int_equal(first.woken, 1);
    assert_int_equal(second.woken + third.woken, 0);
    gate_leave(&g, 2, between);
    run_all_ready(q);
    assert_int_equal(second.woken, 1);
    assert_int_equal(third.woken, 1);
    gate_finish(&g);
}

static void tickets(void **state)
{
    struct gate g;
    uint64_t first, second;
    uint8_t a, b;

    assert_int_equal(gate_init(&g), 0);
    a = gate_enter(&g, 3);
    first = gate_ticket(&g);
    b = gate_enter(&g, 4);
    second = gate_ticket(&g);
    assert_true(second > first);
    assert_false(gate_passed(&g, first));
    gate_leave(&g, 3, a);
    assert_true(gate_passed(&g, first));
    assert_false(gate_passed(&g, second));
    a = gate_enter(&g, 3); /* after both: holds up neither */
    gate_leave(&g, 4, b);
    assert_true(gate_passed(&g, second));
    gate_leave(&g, 3, a);
    gate_finish(&g);
}

/* A ticket during a drain gets the flip that it needs even if no op waits for one. */
static void a_ticket_during_a_drain(void **state)
{
    struct gate g;
    struct waiter w;
    uint64_t ticket;
    uint8_t a, b;

    assert_int_equal(gate_init(&g), 0);
    waiter_init(&w, q);
    a = gate_enter(&g, 1);
    gate_drain(&g, &w.op);
    b = gate_enter(&g, 1);
    ticket = gate_ticket(&g);
    gate_leave(&g, 1, a);
    run_all_ready(q);
    assert_int_equal(w.woken, 1);
    assert_false(gate_passed(&g, ticket));
    gate_leave(&g, 1, b);
    assert_true(gate_passed(&g, ticket));
    gate_finish(&g);
}

/* ---- what it is for ------------------------------------------------------------------------------------ */

/* Pages are replaced while threads look at them; none may be reused before all who saw it have left. */
enum { PAGES = 8, THREADS = 3, SWAPS = 3000 };

static struct {
    struct gate       gate;
    _Atomic(uint64_t *) current;
    _Atomic bool      stop;
    _Atomic uint64_t  looks, wrong;
    uint64_t          pages[PAGES][8]; /* plain: TSan sees what the gate does not order */
} shared;

static void look(uint32_t id)
{
    uint8_t parity = gate_enter(&shared.gate, id);
    const uint64_t *page = atomic_load_explicit(&shared.current, memory_order_acquire);
    uint64_t first = page[0];

    for (int i = 1; i < 8; i++)
        if (page[i] != first)
            atomic_fetch_add(&shared.wrong, 1);
    gate_leave(&shared.gate, id, parity);
    atomic_fetch_add_explicit(&shared.looks, 1, memory_order_relaxed);
}

static void *reader(void *arg)
{
    while (!atomic_load_explicit(&shared.stop, memory_order_relaxed))
        look((uint32_t)(uintptr_t)arg);
    return NULL;
}

static void nothing_is_reused_too_early(void **state)
{
    pthread_t threads[THREADS];
    uint64_t n = 0;

    assert_int_equal(gate_init(&shared.gate), 0);
    atomic_store(&shared.current, shared.pages[0]);
    for (uintptr_t i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, reader, (void *)(i * 7)), 0);
    for (n = 1; n <= SWAPS || atomic_load(&shared.looks) < SWAPS; n++) {
        uint64_t *page = shared.pages[n % PAGES], ticket;
        struct waiter w;

        for (int i = 0; i < 8; i++)
            page[i] = n;
        atomic_store_explicit(&shared.current, page, memory_order_release);
        /* By turns a ticket and a waiting op. After it the page before this one is free. */
        if (n % 2) {
            ticket = gate_ticket(&shared.gate);
            while (!gate_passed(&shared.gate, ticket))
                ;
        } else {
            waiter_init(&w, q);
            gate_drain(&shared.gate, &w.op);
            while (!w.woken)
                queue_turn(q);
        }
        memset(shared.pages[(n - 1) % PAGES], (int)n, sizeof shared.pages[0] / 2);
    }
    atomic_store(&shared.stop, true);
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    print_message("%llu swaps, %llu looks\n", (unsigned long long)n - 1, (unsigned long long)shared.looks);
    assert_int_equal(shared.wrong, 0);
    run_all_ready(q);
    gate_finish(&shared.gate);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_empty_gate_drains_at_once),
        cmocka_unit_test(a_drain_waits_for_those_inside),
        cmocka_unit_test(drains_overlap),
        cmocka_unit_test(tickets),
        cmocka_unit_test(a_ticket_during_a_drain),
        cmocka_unit_test(nothing_is_reused_too_early),
    };
    int rc;

    q = op_test_queue();
    rc = cmocka_run_group_tests(tests, NULL, NULL);
    vdisk_queue_destroy(q);
    return rc;
}
