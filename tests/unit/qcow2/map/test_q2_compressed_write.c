/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Compressed writes in a laboratory: large ones are in flight at the same time, since none ends in a block that
 * the next begins in, and that costs little; small ones share blocks; what was written is there.
 */
#include "backends/lab/fault.h"
#include "backends/lab/vdisk-lab.h"
#include "engine/volume.h"
#include "tests/unit/backend_test.h"

enum { MIB = 1 << 20, CLUSTER = 65536, COUNT = 4 };

static vdisk_lab *lab;
static vdisk_queue *q;
static vdisk *v;
static unsigned inflight;

static int setup(void **state)
{
    struct vdisk_lab_fault fault = {.size = sizeof fault, .nth = UINT32_MAX}; /* no call fails, all are counted */
    struct vdisk_create_opts opts = {.size = sizeof opts, .format = "qcow2", .virtual_size = COUNT * MIB};
    struct vdisk_open_opts how = {.size = sizeof how, .flags = VDISK_OPEN_RDWR, .format = "qcow2"};

    OK(vdisk_lab_create(NULL, &lab));
    OK(vdisk_lab_fail(lab, &fault));
    OK(vdisk_queue_create(NULL, &q));
    OK(vdisk_create("sim:image", &opts));
    OK(vdisk_open("sim:image", &how, &v));
    return 0;
}

static int teardown(void **state)
{
    struct vdisk_completion done;

    fault_clear(v->top->file); /* a test has failed, perhaps */
    for (; inflight > 0; inflight--)
        vdisk_reap(q, &done, 1, 1, NULL);
    vdisk_close(v);
    vdisk_queue_destroy(q);
    vdisk_lab_destroy(lab);
    return 0;
}

/* Of each 64 bytes a half is noise, the other zeros: it shrinks to about a half. */
static uint8_t *make_data(size_t len, unsigned seed)
{
    uint8_t *buf = vdisk_alloc_buffer(len);
    uint64_t x = seed;

    memset(buf, 0, len);
    for (size_t i = 0; i < len; i++) {
        x = x * 6364136223846793005 + 1442695040888963407;
        if (i % 64 < 32)
            buf[i] = (uint8_t)(x >> 56);
    }
    return buf;
}

static void expect_data(const uint8_t *data, size_t len)
{
    uint8_t *buf = vdisk_alloc_buffer(len);

    OK(vdisk_pread(v, buf, len, 0));
    assert_memory_equal(buf, data, len);
    free(buf);
}

static void finish(void)
{
    struct vdisk_completion done;

    for (; inflight > 0; inflight--) {
        assert_int_equal(vdisk_reap(q, &done, 1, 1, NULL), 1);
        assert_int_equal(done.result, 0);
    }
}

/* The first one goes alone, which has the metadata at hand. */
static void large_ones_do_not_wait(void **state)
{
    struct fault_rule late = {.kinds = FAULT_KIND(IO_WRITE), .what = FAULT_LATE};
    struct timespec second = {.tv_sec = 1}; /* simulated: all that can happen, does */
    struct backend *file = v->top->file;
    uint8_t *data = make_data(COUNT * MIB, 1);
    struct vdisk_completion done;
    uint64_t reads;

    OK(vdisk_pwrite(v, data, MIB, 0, VDISK_REQ_COMPRESSED));
    reads = fault_calls(file, IO_READ);
    assert_true(fault_add_rule(file, &late) >= 0);
    for (unsigned i = 1; i < COUNT; i++, inflight++)
        vdisk_write(q, v, (uint64_t)i * MIB, data + (size_t)i * MIB, MIB, VDISK_REQ_COMPRESSED, i);
    assert_int_equal(vdisk_reap(q, &done, 1, 1, &second), 0);
    assert_int_equal(fault_held(file), COUNT - 1);
    fault_clear(file);
    finish();
    assert_int_equal(fault_calls(file, IO_READ), reads); /* no block was read for what lies beside it */
    expect_data(data, COUNT * MIB);
    free(data);
}

/* The places of all clusters, one behind the other: what is left out between them is little. */
static void little_is_left_out(void **state)
{
    uint8_t *data = make_data(COUNT * MIB, 2);
    uint64_t large, small;

    for (unsigned i = 0; i < COUNT; i++)
        OK(vdisk_pwrite(v, data + (size_t)i * MIB, MIB, (uint64_t)i * MIB, VDISK_REQ_COMPRESSED));
    large = v->top->file->size;
    expect_data(data, COUNT * MIB);
    assert_int_equal(teardown(state), 0);
    setup(state);
    for (unsigned i = 0; i < COUNT * MIB / CLUSTER; i++) /* each by itself: nothing is left out */
        OK(vdisk_pwrite(v, data + (size_t)i * CLUSTER, CLUSTER, (uint64_t)i * CLUSTER, VDISK_REQ_COMPRESSED));
    small = v->top->file->size;
    expect_data(data, COUNT * MIB);
    assert_true(large >= small && large - small <= CLUSTER);
    free(data);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(large_ones_do_not_wait, setup, teardown),
        cmocka_unit_test_setup_teardown(little_is_left_out, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
