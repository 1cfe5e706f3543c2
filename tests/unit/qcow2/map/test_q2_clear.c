/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Large discards: what they read at once, and what they keep in mind, counted. */
#include "backends/lab/fault.h"
#include "backends/memory.h"
#include "engine/create.h"
#include "engine/volume.h"
#include "qcow2/image/image.h"
#include "qcow2/qcow2.h"
#include "tests/unit/backend_test.h"

enum { MAX = 16, TURNS = 64, SLICES = 40, RUNS = 50000, RUNS_KEPT = 1 << 15 };

static struct backend *memory, *fault;
static vdisk_queue *q;
static vdisk *v;

static void make(uint64_t size, uint32_t cluster_size, enum vdisk_prealloc preallocation)
{
    struct vdisk_create_opts create = {.size = sizeof create, .format = "qcow2", .virtual_size = size,
                                       .cluster_size = cluster_size, .preallocation = preallocation};
    struct vdisk_open_opts how = {.size = sizeof how, .format = "qcow2", .flags = VDISK_OPEN_RDWR};
    struct memory_options options = {.size = 0};

    q = test_queue(VDISK_QUEUE_AUTO);
    OK(memory_backend_create_with("memory:clear", &options, &memory));
    OK(create_on(&qcow2_driver, memory, &create, q));
    OK(fault_backend_create(memory, &fault));
    OK(vdisk_open_backend(fault, &how, &v));
}

static int teardown(void **state)
{
    struct vdisk_completion done;

    fault_clear(fault); /* after a failure something may be held */
    while (vdisk_queue_inflight(q) > 0)
        vdisk_reap(q, &done, 1, 1, NULL);
    OK(vdisk_close(v));
    vdisk_queue_destroy(q);
    return 0;
}

/* Turn until nothing moves any more; how many requests have ended. */
static int turn_some(void)
{
    struct vdisk_completion done[MAX];
    int ended = 0;

    for (int i = 0; i < TURNS; i++) {
        int n = vdisk_reap(q, done, 0, MAX, NULL);
        assert_true(n >= 0);
        for (int j = 0; j < n; j++)
            assert_int_equal(done[j].result, 0);
        ended += n;
    }
    return ended;
}

/* A slice of 512 entries for each 32 MiB. */
static void slices_are_read_some_at_a_time(void **state)
{
    struct fault_rule late = {.kinds = FAULT_KIND(IO_READ), .what = FAULT_LATE};
    uint64_t before;

    make((uint64_t)SLICES * (32 << 20), 65536, VDISK_PREALLOC_METADATA);
    before = fault_calls(fault, IO_READ);
    assert_true(fault_add_rule(fault, &late) >= 0);
    vdisk_discard(q, v, 0, vdisk_size(v), 0, 0);
    for (int left = SLICES; left > 0; left -= 16) {
        assert_int_equal(turn_some(), 0);
        assert_int_equal(fault_held(fault), left < 16 ? left : 16);
        fault_release(fault);
    }
    assert_int_equal(turn_some(), 1);
    assert_int_equal(fault_calls(fault, IO_READ) - before, SLICES); /* none of them twice */
    fault_clear(fault);
}

/* Guest clusters that lie on the host in reverse: each is a run of its own. */
static void runs_are_kept_within_bounds(void **state)
{
    struct vdisk_completion done;
    char block[512] = "x";
    struct q2 *image;

    make(64 << 20, 512, VDISK_PREALLOC_OFF);
    image = q2_of(v->top);
    for (unsigned i = RUNS; i-- > 0;)
        OK(vdisk_pwrite(v, block, sizeof block, (uint64_t)i * sizeof block, 0));
    vdisk_discard(q, v, 0, RUNS * sizeof block, 0, 0);
    assert_int_equal(vdisk_reap(q, &done, 1, 1, NULL), 1);
    assert_int_equal(done.result, 0);
    assert_in_range(image->space.freed[Q2_FREED_NOW].max, 0, RUNS_KEPT);
    assert_in_range(image->space.freed[Q2_FREED_DURABLE].max, 0, RUNS_KEPT);
    OK(vdisk_trim_space(v));
    assert_int_equal(image->space.freed[Q2_FREED_NOW].count + image->space.freed[Q2_FREED_DURABLE].count, 0);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(slices_are_read_some_at_a_time, teardown),
        cmocka_unit_test_teardown(runs_are_kept_within_bounds, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
