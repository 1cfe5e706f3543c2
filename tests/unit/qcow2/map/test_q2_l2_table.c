/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* How many L2 tables a write makes: one, and with small clusters more where writes go upwards. */
#include "backends/lab/fault.h"
#include "backends/memory.h"
#include "engine/create.h"
#include "engine/volume.h"
#include "qcow2/check/check.h"
#include "qcow2/image/image.h"
#include "qcow2/qcow2.h"
#include "tests/unit/backend_test.h"

enum { CLUSTER = 4096, SPAN = 2 << 20 /* of a table */, TABLES = 40, OLD = 0x5a };

static const struct memory_options file = {.size = 0};
static struct backend *keeper, *fault;
static vdisk_queue *q;
static vdisk *v;

static void open_it(void)
{
    struct vdisk_open_opts how = {.size = sizeof how, .format = "qcow2", .flags = VDISK_OPEN_RDWR};
    struct backend *b;

    OK(memory_backend_share(keeper, &b));
    OK(fault_backend_create(b, &fault));
    OK(vdisk_open_backend(fault, &how, &v));
}

static void make(const struct memory_options *options, uint32_t cluster_size, uint64_t size)
{
    struct vdisk_create_opts create = {
        .size = sizeof create, .format = "qcow2", .virtual_size = size, .cluster_size = cluster_size};
    struct backend *b;

    q = test_queue(VDISK_QUEUE_AUTO);
    OK(memory_backend_create_with("memory:tables", options, &keeper));
    OK(memory_backend_share(keeper, &b));
    OK(create_on(&qcow2_driver, b, &create, q));
    backend_close(b);
    open_it();
}

static void put_away(void)
{
    vdisk_queue_destroy(q);
    backend_close(keeper);
}

static int teardown(void **state)
{
    struct qcow2_check_result res;
    struct backend *b;

    fault_clear(fault);
    OK(vdisk_close(v));
    OK(memory_backend_share(keeper, &b));
    OK(qcow2_check(b, q, NULL, &res));
    backend_close(b);
    put_away();
    assert_int_equal(res.corruptions + res.leaks + res.check_errors, 0);
    return 0;
}

static bool has(uint64_t table)
{
    return q2_l1_offset(q2_l1_get(&q2_of(v->top)->meta, table)) != 0;
}

/* How many there are; they are the first. */
static unsigned row(void)
{
    unsigned n = 0, all = 0;

    while (n < TABLES && has(n))
        n++;
    for (uint64_t i = 0; i < TABLES; i++)
        all += has(i);
    assert_int_equal(all, n);
    return n;
}

static int write_to(uint64_t table, uint64_t within)
{
    static const char cluster[CLUSTER] = "x";

    return vdisk_pwrite(v, cluster, sizeof cluster, table * SPAN + within, 0);
}

static void up_to(uint64_t table)
{
    for (uint64_t i = 0; i <= table; i++)
        OK(write_to(i, SPAN - CLUSTER));
}

static void twice_as_many_each_time(void **state)
{
    static const unsigned rows[TABLES] = {1, 2, 4, 4, 8, 8, 8, 8, 16, 16, 16, 16, 16, 16, 16, 16, 32};

    make(&file, CLUSTER, (uint64_t)TABLES * SPAN);
    for (unsigned i = 0; i < TABLES; i++) {
        OK(write_to(i, 0));
        assert_int_equal(row(), i > 31 ? TABLES : i > 16 ? 32 : rows[i]); /* the disk ends there */
    }
}

static void one_where_nothing_is_before_it(void **state)
{
    make(&file, CLUSTER, (uint64_t)TABLES * SPAN);
    for (uint64_t i = TABLES; i-- > 1;) { /* downwards, and some apart */
        if (i % 3 == 0)
            continue;
        OK(write_to(i, 0));
        assert_false(has(i - 1));
    }
}

static void one_where_what_is_before_it_is_not_in_use(void **state)
{
    make(&file, CLUSTER, (uint64_t)TABLES * SPAN);
    up_to(4);
    assert_int_equal(row(), 8);
    OK(write_to(8, 0));
    assert_int_equal(row(), 9);
}

static void up_to_one_that_is_there(void **state)
{
    make(&file, CLUSTER, (uint64_t)TABLES * SPAN);
    OK(write_to(10, 0));
    up_to(8);
    assert_true(has(9) && has(10) && !has(11));
}

static void large_ones_are_few(void **state)
{
    make(&file, 32768, UINT64_C(2) << 30); /* a table for 128 MiB */
    for (uint64_t i = 0; i < 6; i++) {
        OK(write_to(i * 64, 64 * SPAN - CLUSTER));
        assert_true(has(i | 1) == (i > 0) && !has((i | 1) + 1));
    }
    assert_int_equal(teardown(state), 0);
    make(&file, 65536, UINT64_C(4) << 30); /* for 512 MiB */
    for (uint64_t i = 0; i < 6; i++) {
        OK(write_to(i * 256, 0));
        assert_true(has(i) && !has(i + 1));
    }
}

/* What was in their clusters before is not what the tables say. */
static void all_of_them_hold_zeros(void **state)
{
    const struct memory_options device = {.size = 64 << 20, .fixed = true, .fill = OLD};
    char table[CLUSTER];

    make(&device, CLUSTER, (uint64_t)TABLES * SPAN);
    up_to(8);
    assert_int_equal(row(), 16);
    for (uint64_t i = 9; i < 16; i++) {
        memory_backend_read(keeper, q2_l1_offset(q2_l1_get(&q2_of(v->top)->meta, i)), table, sizeof table);
        assert_true(is_filled(table, 0, sizeof table));
    }
    OK(vdisk_close(v));
    open_it();
    OK(vdisk_pread(v, table, sizeof table, 12 * (uint64_t)SPAN));
    assert_true(is_filled(table, 0, sizeof table));
}

static void without_space_for_all_one(void **state)
{
    struct fault_rule full = {.type = "zero_op", .nth = 1, .what = FAULT_FAIL, .error = ENOSPC};

    make(&file, CLUSTER, (uint64_t)TABLES * SPAN);
    up_to(7);
    assert_true(fault_add_rule(fault, &full) >= 0);
    OK(write_to(8, 0));
    assert_int_equal(row(), 9);
    assert_int_equal(fault_fired(fault), 1);
}

/* A device with little left: what is there is for who needs it now. */
static void none_ahead_where_space_is_short(void **state)
{
    const struct memory_options device = {.size = 30 * CLUSTER, .fixed = true};

    make(&device, CLUSTER, (uint64_t)TABLES * SPAN);
    for (unsigned i = 0; i < 8; i++) {
        OK(write_to(i, SPAN - CLUSTER));
        assert_int_equal(row(), i + 1);
    }
}

/* Who needs a table that another is making ahead waits for it, and makes none. */
static void no_table_is_made_twice(void **state)
{
    struct fault_rule late = {.type = "zero_op", .nth = 1, .what = FAULT_LATE};
    static char cluster[CLUSTER] = "x";
    struct vdisk_completion done;
    vdisk_queue *queues[2];

    make(&file, CLUSTER, (uint64_t)TABLES * SPAN);
    queues[0] = q;
    queues[1] = test_queue(VDISK_QUEUE_AUTO);
    up_to(7);
    assert_true(fault_add_rule(fault, &late) >= 0);
    vdisk_write(queues[0], v, 8 * (uint64_t)SPAN, cluster, sizeof cluster, 0, 0);
    while (fault_held(fault) == 0)
        assert_int_equal(vdisk_reap(queues[0], &done, 0, 1, NULL), 0);
    vdisk_write(queues[1], v, 12 * (uint64_t)SPAN, cluster, sizeof cluster, 0, 0);
    assert_int_equal(vdisk_reap(queues[1], &done, 0, 1, NULL), 0);
    assert_int_equal(row(), 8);
    fault_clear(fault);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(vdisk_reap(queues[i], &done, 1, 1, NULL), 1);
        assert_int_equal(done.result, 0);
    }
    assert_int_equal(row(), 16);
    vdisk_queue_destroy(queues[1]);
}

/* ---- one table that several L1 entries lead to, as a repair leaves them ------------------------------ */

static void repair_it(void)
{
    struct qcow2_repair_result res;
    struct backend *b;

    OK(memory_backend_share(keeper, &b));
    OK(qcow2_repair(b, q, QCOW2_REPAIR_ALL, NULL, &res));
    assert_int_equal(res.check.corruptions + res.check.leaks + res.check.check_errors, 0);
    backend_close(b);
}

/* The first `n` entries lead to the first table, which leads to one cluster of OLD. */
static void share_table(unsigned n)
{
    static char cluster[CLUSTER];
    uint8_t word[8];
    uint64_t table, l1;

    memset(cluster, OLD, sizeof cluster);
    OK(vdisk_pwrite(v, cluster, sizeof cluster, 0, 0));
    OK(vdisk_sync(v));
    table = q2_l1_offset(q2_l1_get(&q2_of(v->top)->meta, 0));
    l1 = q2_of(v->top)->meta.l1_start;
    OK(vdisk_close(v));
    put_be64(word, table);
    for (unsigned i = 0; i < n; i++)
        OK(memory_backend_write(keeper, l1 + 8 * i, word, sizeof word));
    repair_it();
    open_it();
}

/* The same, with another refcount of the table, and with the last `copied` of the entries said to be alone. */
static void share_table_wrongly(unsigned n, uint16_t refcount, unsigned copied)
{
    uint64_t table, l1, block;
    uint8_t word[8];

    share_table(n);
    table = q2_l1_offset(q2_l1_get(&q2_of(v->top)->meta, 0));
    l1 = q2_of(v->top)->meta.l1_start;
    block = q2_reftable_offset(q2_of(v->top)->meta.reftable[0]);
    OK(vdisk_close(v));
    put_be16(word, refcount);
    OK(memory_backend_write(keeper, block + table / CLUSTER * 2, word, 2));
    put_be64(word, table | Q2_COPIED);
    for (unsigned i = n - copied; i < n; i++)
        OK(memory_backend_write(keeper, l1 + 8 * i, word, sizeof word));
    open_it();
}

static void expect_old(unsigned n)
{
    char cluster[CLUSTER];

    for (unsigned i = 0; i < n; i++) {
        OK(vdisk_pread(v, cluster, sizeof cluster, i * (uint64_t)SPAN));
        assert_true(is_filled(cluster, OLD, sizeof cluster));
    }
}

/* All that have it leave it, one by one or before any of that has been counted: its cluster is free afterwards. */
static void a_shared_table_is_left_by_all(void **state)
{
    for (unsigned n = 2; n <= 4; n++)
        for (unsigned synced = 0; synced < 1u << n; synced++) {
            make(&file, CLUSTER, (uint64_t)TABLES * SPAN);
            share_table(n);
            for (unsigned i = 0; i < n; i++) {
                OK(write_to(i, CLUSTER));
                if (synced >> i & 1)
                    OK(vdisk_sync(v));
            }
            OK(vdisk_sync(v));
            OK(write_to(0, 2 * CLUSTER));
            OK(vdisk_sync(v));
            OK(write_to(0, 3 * CLUSTER));
            expect_old(n);
            OK(teardown(state));
        }
    make(&file, CLUSTER, (uint64_t)TABLES * SPAN);
}

/* What was damaged on purpose is not checked; teardown gets another. */
static void leave_damaged(void)
{
    vdisk_close(v);
    put_away();
    make(&file, CLUSTER, (uint64_t)TABLES * SPAN);
}

/* The refcount says that two have it, and three do: it is not free while one leads there. */
static void a_table_with_too_low_a_refcount_is_not_freed(void **state)
{
    int rc = 0;

    make(&file, CLUSTER, (uint64_t)TABLES * SPAN);
    share_table_wrongly(3, 2, 0);
    for (unsigned i = 0; i < 2; i++) {
        OK(write_to(i, CLUSTER));
        OK(vdisk_sync(v));
    }
    for (uint64_t i = 2; i < 64 && rc == 0; i++) {
        rc = write_to(0, i * CLUSTER);
        if (rc == 0)
            rc = vdisk_sync(v);
    }
    assert_int_equal(rc, -EIO); /* the image is marked corrupt */
    expect_old(3);
    leave_damaged();
}

/* Two say that they have it alone. That one leaves it makes it no more the others'. */
static void a_table_that_two_call_their_own_is_not_written(void **state)
{
    make(&file, CLUSTER, (uint64_t)TABLES * SPAN);
    share_table_wrongly(3, 3, 2);
    OK(write_to(0, CLUSTER));
    OK(vdisk_sync(v));
    OK(vdisk_sync(v));
    assert_int_equal(write_to(1, CLUSTER), -EIO);
    assert_int_equal(write_to(2, CLUSTER), -EIO);
    expect_old(3);
    leave_damaged();
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(twice_as_many_each_time, teardown),
        cmocka_unit_test_teardown(one_where_nothing_is_before_it, teardown),
        cmocka_unit_test_teardown(one_where_what_is_before_it_is_not_in_use, teardown),
        cmocka_unit_test_teardown(up_to_one_that_is_there, teardown),
        cmocka_unit_test_teardown(large_ones_are_few, teardown),
        cmocka_unit_test_teardown(all_of_them_hold_zeros, teardown),
        cmocka_unit_test_teardown(without_space_for_all_one, teardown),
        cmocka_unit_test_teardown(none_ahead_where_space_is_short, teardown),
        cmocka_unit_test_teardown(no_table_is_made_twice, teardown),
        cmocka_unit_test_teardown(a_shared_table_is_left_by_all, teardown),
        cmocka_unit_test_teardown(a_table_with_too_low_a_refcount_is_not_freed, teardown),
        cmocka_unit_test_teardown(a_table_that_two_call_their_own_is_not_written, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
