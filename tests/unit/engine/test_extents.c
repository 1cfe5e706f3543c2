/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Holes of a raw volume: the questions to the file are counted, and a list of any length gives the same answer. */
#include <sys/resource.h>

#include "backends/fault.h"
#include "backends/memory.h"
#include "engine/volume.h"
#include "tests/unit/backend_test.h"

enum { PIECE = 64 << 10, PAIRS = 400, MAX = 1000 };

static struct backend *fault;
static vdisk *v;

/* Every second piece has data. */
static int setup(void **state)
{
    struct vdisk_open_opts how = {.size = sizeof how, .format = "raw", .flags = VDISK_OPEN_RDWR};
    uint8_t byte[512] = {1};
    struct backend *memory;

    OK(memory_backend_create("memory:extents", (uint64_t)PAIRS * 2 * PIECE, &memory));
    OK(fault_backend_create(memory, &fault));
    OK(vdisk_open_backend(fault, &how, &v));
    for (unsigned i = 0; i < PAIRS; i++)
        OK(vdisk_pwrite(v, byte, sizeof byte, (uint64_t)i * 2 * PIECE, 0));
    return 0;
}

static int teardown(void **state)
{
    return vdisk_close(v);
}

/* All of the volume, `max` at a time; how many questions that took. */
static uint64_t walk(unsigned max, unsigned *ret_calls)
{
    static struct vdisk_extent list[MAX];
    uint64_t before = fault_calls(fault, FAULT_STATUS), at = 0, size = vdisk_size(v);

    *ret_calls = 0;
    while (at < size) {
        struct vdisk_extents x = {.list = list, .max = max};
        OK(vdisk_pextents(v, size - at, at, &x));
        ++*ret_calls;
        assert_true(x.count > 0 && x.count <= max);
        for (unsigned i = 0; i < x.count; i++) {
            bool data = at / PIECE % 2 == 0;
            assert_int_equal(list[i].guest_offset, at);
            assert_int_equal(list[i].host_offset, at);
            assert_int_equal(list[i].length, PIECE);
            assert_int_equal(!!(list[i].flags & VDISK_EXTENT_DATA), data);
            assert_int_equal(!!(list[i].flags & VDISK_EXTENT_ZERO), !data);
            at += PIECE;
        }
    }
    return fault_calls(fault, FAULT_STATUS) - before;
}

/* Of all that a list has room for no piece is asked for twice, but the one where the last list ended. */
static void a_piece_is_asked_for_once(void **state)
{
    static const unsigned lists[] = {1, 2, 7, 255, 256, 257, 300, MAX};
    unsigned calls;

    for (unsigned i = 0; i < ARRAY_LEN(lists); i++) {
        uint64_t asked = walk(lists[i], &calls);
        assert_in_range(calls, 1, PAIRS * 2 / lists[i] + 1);
        /* A question that finds the list full, or that has no room left among 256 pieces, is one more. */
        assert_in_range(asked, PAIRS * 2, PAIRS * 2 + calls + PAIRS * 2 / 256);
    }
}

static long switches(void)
{
    struct rusage usage;

    assert_int_equal(getrusage(RUSAGE_SELF, &usage), 0);
    return usage.ru_nvcsw;
}

/* A worker is handed many of them at once: it and the queue's thread wait for each other a few times, not 800. */
static void questions_go_to_a_worker_together(void **state)
{
    long before = switches();
    unsigned calls;

    walk(MAX, &calls);
    assert_in_range(switches() - before, 0, 200);
}

static void a_failed_question_fails_the_request(void **state)
{
    struct fault_rule rule = {.what = FAULT_FAIL, .kinds = 1u << FAULT_STATUS, .nth = 100, .error = EIO};
    struct vdisk_extent list[MAX];
    struct vdisk_extents x = {.list = list, .max = MAX};

    assert_true(fault_add_rule(fault, &rule) >= 0);
    assert_int_equal(vdisk_pextents(v, vdisk_size(v), 0, &x), -EIO);
    assert_int_equal(x.count, 0);
    fault_clear(fault);
    OK(vdisk_pextents(v, vdisk_size(v), 0, &x));
    assert_int_equal(x.count, PAIRS * 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_piece_is_asked_for_once),
        cmocka_unit_test(questions_go_to_a_worker_together),
        cmocka_unit_test(a_failed_question_fails_the_request),
    };

    return cmocka_run_group_tests(tests, setup, teardown);
}
