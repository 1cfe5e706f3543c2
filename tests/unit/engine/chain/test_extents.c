/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Holes of a raw volume: the questions to its backend are counted, and a list of any length gives the same answer.
 * One backend knows them at once, of the other a worker asks the host.
 */
#include <sys/resource.h>

#include "backends/lab/fault.h"
#include "backends/memory.h"
#include "engine/volume.h"
#include "tests/unit/backend_test.h"

enum { PIECE = 64 << 10, PAIRS = 400, MAX = 1000 };

static char path[] = "extents.XXXXXX";

static struct backend *fault;
static vdisk *v;

/* Every second piece has data. */
static void open_on(struct backend *child)
{
    struct vdisk_open_opts how = {.size = sizeof how, .format = "raw", .flags = VDISK_OPEN_RDWR};
    static uint8_t bytes[PIECE];

    memset(bytes, 1, sizeof bytes);
    OK(fault_backend_create(child, &fault));
    OK(vdisk_open_backend(fault, &how, &v));
    for (unsigned i = 0; i < PAIRS; i++)
        OK(vdisk_pwrite(v, bytes, sizeof bytes, (uint64_t)i * 2 * PIECE, 0));
}

static int in_memory(void **state)
{
    struct backend *b;

    OK(memory_backend_create("memory:extents", (uint64_t)PAIRS * 2 * PIECE, &b));
    open_on(b);
    return 0;
}

static int in_file(void **state)
{
    int fd = mkstemp(path);
    struct backend *b;

    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, (off_t)PAIRS * 2 * PIECE), 0);
    close(fd);
    OK(backend_open(path, BACKEND_RDWR, &b));
    unlink(path);
    open_on(b);
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
    uint64_t before = fault_calls(fault, IO_STATUS), at = 0, size = vdisk_size(v);

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
    return fault_calls(fault, IO_STATUS) - before;
}

/* Of all that a list has room for no piece is asked for twice. */
static void a_piece_is_asked_for_once(void **state)
{
    static const unsigned lists[] = {1, 2, 7, 255, 256, 257, 300, MAX};
    unsigned calls;

    for (unsigned i = 0; i < ARRAY_LEN(lists); i++) {
        uint64_t asked = walk(lists[i], &calls), expected = 0;
        assert_int_equal(calls, (PAIRS * 2 + lists[i] - 1) / lists[i]);
        for (unsigned left = PAIRS * 2, n; left > 0; left -= n) {
            n = (unsigned)min_u64(left, lists[i]);
            expected += (n + STATUS_RUNS_MAX - 1) / STATUS_RUNS_MAX;
        }
        assert_int_equal(asked, expected);
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
    struct fault_rule rule = {.what = FAULT_FAIL, .kinds = FAULT_KIND(IO_STATUS), .state = "EXTENTS_STATUS",
                              .nth = 2, .error = EIO};
    struct vdisk_extent list[MAX];
    struct vdisk_extents x = {.list = list, .max = MAX};

    assert_true(fault_add_rule(fault, &rule) >= 0);
    assert_int_equal(vdisk_pextents(v, vdisk_size(v), 0, &x), -EIO);
    assert_non_null(strstr(vdisk_error_text(), "looking for holes in"));
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
    int failed = cmocka_run_group_tests_name("in memory", tests, in_memory, teardown);

    return failed + cmocka_run_group_tests_name("in a file", tests, in_file, teardown);
}
