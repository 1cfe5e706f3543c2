/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* How many refcount blocks are made at once as a file grows: one, and with small clusters more in a row. */
#include "backends/lab/fault.h"
#include "backends/memory.h"
#include "engine/create.h"
#include "engine/volume.h"
#include "qcow2/check/check.h"
#include "qcow2/image/image.h"
#include "qcow2/qcow2.h"
#include "tests/unit/backend_test.h"

enum { CLUSTER = 512, PER_BLOCK = CLUSTER / 2, STEP = 16 * CLUSTER, SIZE = 6 << 20 };

static const struct memory_options file = {.size = 0};
static const struct memory_options device = {.size = 2 * SIZE, .fixed = true};
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

static void make(const struct memory_options *options)
{
    struct vdisk_create_opts create = {
        .size = sizeof create, .format = "qcow2", .virtual_size = SIZE, .cluster_size = CLUSTER};
    struct backend *b;

    q = test_queue(VDISK_QUEUE_AUTO);
    OK(memory_backend_create_with("memory:blocks", options, &keeper));
    OK(memory_backend_share(keeper, &b));
    OK(create_on(&qcow2_driver, b, &create, q));
    backend_close(b);
    open_it();
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
    vdisk_queue_destroy(q);
    backend_close(keeper);
    assert_int_equal(res.corruptions + res.leaks + res.check_errors, 0);
    return 0;
}

/* How many there are; they are the first. */
static unsigned row(void)
{
    const struct q2_meta *meta = &q2_of(v->top)->meta;
    unsigned n = 0, all = 0;

    while (n < meta->reftable_entries && meta->reftable[n] != 0)
        n++;
    for (uint64_t i = 0; i < meta->reftable_entries; i++)
        all += meta->reftable[i] != 0;
    assert_int_equal(all, n);
    return n;
}

static uint64_t written;

static int write_more(void)
{
    static char data[STEP];

    memset(data, 'x', sizeof data);
    written += sizeof data;
    return vdisk_pwrite(v, data, sizeof data, written - sizeof data, 0);
}

/* Write until there are more than `n` of them: how many are there then? */
static unsigned after(unsigned n)
{
    while (row() <= n && written < SIZE)
        OK(write_more());
    return row();
}

static void twice_as_many_each_time(void **state)
{
    written = 0;
    make(&file);
    assert_int_equal(row(), 1);
    assert_int_equal(after(1), 2);
    assert_int_equal(after(2), 4);
    assert_int_equal(after(4), 8);
    assert_int_equal(after(8), 16);
    assert_int_equal(after(16), 32);
}

static void one_on_a_device(void **state)
{
    written = 0;
    make(&device);
    for (unsigned n = 1; n < 20; n++)
        assert_int_equal(after(n), n + 1);
}

static void those_that_are_there_are_used(void **state)
{
    uint64_t blocks[32];
    char data[STEP];

    written = 0;
    make(&file);
    assert_int_equal(after(8), 16);
    memcpy(blocks, q2_of(v->top)->meta.reftable, sizeof blocks);
    OK(vdisk_close(v));
    open_it();
    assert_int_equal(after(16), 32);
    assert_memory_equal(blocks, q2_of(v->top)->meta.reftable, 16 * sizeof blocks[0]);
    for (uint64_t at = 0; at < written; at += STEP) {
        OK(vdisk_pread(v, data, sizeof data, at));
        for (unsigned i = 0; i < STEP; i++)
            assert_int_equal(data[i], 'x');
    }
}

/* Blocks that were made ahead are empty; in the next session that is no reason to read all L2 tables. */
static void those_that_are_there_are_trusted(void **state)
{
    const struct q2_space *space;

    written = 0;
    make(&file);
    assert_int_equal(after(16), 32);
    for (unsigned i = 0; i < 32; i++) /* more tables than are read before anything is handed out */
        OK(write_more());
    OK(vdisk_close(v));
    open_it();
    space = &q2_of(v->top)->space;
    OK(write_more());
    assert_int_equal(row(), 32);
    assert_true(space->survey_length_known && !space->survey_is_short);
    assert_false(space->tables_read);
    assert_true(space->survey.at.l1_index == 0 && space->survey.at.offset == 0);
}

/* The place of the block behind it is written with the block; where there is no space for that, only the block. */
static void without_space_for_all_one(void **state)
{
    struct fault_rule full = {.type = "zero_op", .nth = 1, .what = FAULT_FAIL, .error = ENOSPC};
    int rule;

    written = 0;
    make(&file);
    assert_int_equal(after(2), 4);
    full.offset = (4 * PER_BLOCK + 1) * CLUSTER;
    full.len = CLUSTER;
    rule = fault_add_rule(fault, &full);
    assert_true(rule >= 0);
    assert_int_equal(after(4), 5);
    assert_int_equal(fault_rule_fired(fault, rule), 1);
    assert_int_equal(after(5), 10);
}

/* And none, for a while: what was to become of the place is forgotten. */
static void without_space_none(void **state)
{
    struct fault_rule full = {.type = "zero_op", .what = FAULT_FAIL, .error = ENOSPC};
    unsigned n = 0;

    written = 0;
    make(&file);
    assert_int_equal(after(2), 4);
    full.offset = 4 * PER_BLOCK * CLUSTER;
    full.len = CLUSTER;
    assert_true(fault_add_rule(fault, &full) >= 0);
    while (write_more() == 0)
        n++;
    written -= STEP;
    assert_true(n > 0 && row() == 4);
    assert_int_equal(write_more(), -ENOSPC);
    written -= STEP;
    fault_clear(fault);
    assert_true(after(4) >= 5); /* what is full stays so for a while */
    assert_true(after(8) > 8);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(twice_as_many_each_time, teardown),
        cmocka_unit_test_teardown(one_on_a_device, teardown),
        cmocka_unit_test_teardown(those_that_are_there_are_used, teardown),
        cmocka_unit_test_teardown(those_that_are_there_are_trusted, teardown),
        cmocka_unit_test_teardown(without_space_for_all_one, teardown),
        cmocka_unit_test_teardown(without_space_none, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
