/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Images that count only when they are finished: who opens them before, and after a power cut at any moment there
 * is an unfinished image, or a whole one.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "backends/lab/vdisk-lab.h"
#include "engine/vdisk.h"

enum { SIZE = 1 << 20, BLOCK = 4096, BLOCKS = 40, FINISHED = 1 };

static struct vdisk_create_opts unfinished(const char *format)
{
    return (struct vdisk_create_opts){.size = sizeof(struct vdisk_create_opts), .format = format,
                                      .virtual_size = SIZE, .unfinished = true};
}

static int open_by(const char *format, uint32_t flags, vdisk **ret)
{
    struct vdisk_open_opts how = {.size = sizeof how, .flags = flags, .format = format};

    return vdisk_open("sim:disk", &how, ret);
}

static void fill(vdisk *v)
{
    static char buf[BLOCK];

    for (unsigned i = 0; i < BLOCKS; i++) {
        memset(buf, (int)i + 1, BLOCK);
        assert_int_equal(vdisk_pwrite(v, buf, BLOCK, (uint64_t)i * 5 * BLOCK, 0), 0);
    }
}

static bool is_full(vdisk *v)
{
    static char buf[BLOCK], want[BLOCK];

    for (unsigned i = 0; i < BLOCKS; i++) {
        memset(want, (int)i + 1, BLOCK);
        if (vdisk_pread(v, buf, BLOCK, (uint64_t)i * 5 * BLOCK) < 0 || memcmp(buf, want, BLOCK) != 0)
            return false;
    }
    return true;
}

static void assert_refused(const char *format, uint32_t flags)
{
    vdisk *v;

    assert_int_equal(open_by(format, flags, &v), -EINVAL);
    assert_non_null(strstr(vdisk_error_text(), "unfinished"));
    assert_string_not_equal(vdisk_error_hint(), "");
}

static void only_who_knows_opens_it(void **state)
{
    struct vdisk_create_opts create = unfinished("qcow2"), above = {.size = sizeof above, .format = "qcow2"};
    vdisk_lab *lab;
    vdisk *v;

    assert_int_equal(vdisk_lab_create(NULL, &lab), 0);
    assert_int_equal(vdisk_create("sim:disk", &create), 0);
    assert_refused(NULL, VDISK_OPEN_RDWR);
    assert_refused("qcow2", VDISK_OPEN_RDWR);
    assert_refused("qcow2", 0);
    assert_refused("qcow2", VDISK_OPEN_RDWR | VDISK_OPEN_CHECK);
    assert_int_equal(open_by("qcow2", VDISK_OPEN_UNFINISHED, &v), -EINVAL);
    above.virtual_size = SIZE;
    above.backing_file = "sim:disk";
    above.backing_fmt = "qcow2";
    assert_int_equal(vdisk_create("sim:top", &above), -EINVAL);
    assert_int_equal(open_by("qcow2", VDISK_OPEN_RDWR | VDISK_OPEN_UNFINISHED, &v), 0);
    fill(v);
    /* A longer L1 table goes into the header, which stays what it is. */
    assert_int_equal(vdisk_grow(v, (uint64_t)64 << 30), 0);
    assert_int_equal(vdisk_close(v), 0);
    assert_refused("qcow2", 0);
    assert_int_equal(open_by("qcow2", VDISK_OPEN_RDWR | VDISK_OPEN_UNFINISHED, &v), 0);
    assert_int_equal(vdisk_finish(v), 0);
    assert_int_equal(vdisk_finish(v), 0); /* it is */
    assert_int_equal(vdisk_close(v), 0);
    assert_int_equal(open_by(NULL, 0, &v), 0);
    assert_int_equal(vdisk_size(v), (uint64_t)64 << 30);
    assert_true(is_full(v));
    assert_int_equal(vdisk_finish(v), -EACCES);
    assert_int_equal(vdisk_close(v), 0);
    vdisk_lab_destroy(lab);
}

static void raw_is_flushed(void **state)
{
    struct vdisk_create_opts create = unfinished("raw");
    vdisk_lab *lab;
    vdisk *v;

    assert_int_equal(vdisk_lab_create(NULL, &lab), 0);
    assert_int_equal(vdisk_create("sim:disk", &create), 0);
    assert_int_equal(open_by("raw", VDISK_OPEN_RDWR | VDISK_OPEN_UNFINISHED, &v), 0);
    fill(v);
    assert_int_equal(vdisk_finish(v), 0);
    assert_int_equal(vdisk_close(v), 0);
    assert_int_equal(open_by("raw", 0, &v), 0);
    assert_true(is_full(v));
    assert_int_equal(vdisk_close(v), 0);
    vdisk_lab_destroy(lab);
}

static void requests_in_flight(void **state)
{
    struct vdisk_create_opts create = unfinished("qcow2");
    static char buf[BLOCK];
    struct vdisk_completion done;
    vdisk_queue *q;
    vdisk_lab *lab;
    vdisk *v;

    assert_int_equal(vdisk_lab_create(NULL, &lab), 0);
    assert_int_equal(vdisk_create("sim:disk", &create), 0);
    assert_int_equal(open_by("qcow2", VDISK_OPEN_RDWR | VDISK_OPEN_UNFINISHED, &v), 0);
    assert_int_equal(vdisk_queue_create(NULL, &q), 0);
    vdisk_write(q, v, 0, buf, BLOCK, 0, 0);
    assert_int_equal(vdisk_finish(v), -EBUSY);
    assert_int_equal(vdisk_reap(q, &done, 1, 1, NULL), 1);
    assert_int_equal(done.result, 0);
    assert_int_equal(vdisk_finish(v), 0);
    assert_int_equal(vdisk_queue_destroy(q), 0);
    assert_int_equal(vdisk_close(v), 0);
    vdisk_lab_destroy(lab);
}

/* ---- power cuts ------------------------------------------------------------------------------------------ */

struct seen {
    unsigned unfinished, whole;
};

static int judge(void *arg, uint64_t mark)
{
    struct seen *seen = arg;
    vdisk *v;
    bool full;
    int rc = open_by("qcow2", 0, &v);

    if (rc < 0 && !strstr(vdisk_error_text(), "unfinished"))
        return rc;
    if (rc < 0) {
        seen->unfinished++;
        return mark == FINISHED ? 1 : 0;
    }
    seen->whole++;
    full = is_full(v);
    rc = vdisk_close(v);
    return rc < 0 ? rc : !full;
}

static void no_cut_leaves_a_part(void **state)
{
    struct vdisk_create_opts create = unfinished("qcow2");
    struct vdisk_lab_crashes crashes = {.size = sizeof crashes};
    struct seen seen = {0};
    vdisk_lab *lab;
    vdisk *v;

    create.cluster_size = 4096;
    assert_int_equal(vdisk_lab_create(NULL, &lab), 0);
    assert_int_equal(vdisk_create("sim:disk", &create), 0);
    assert_int_equal(vdisk_lab_arm(lab), 0);
    assert_int_equal(open_by("qcow2", VDISK_OPEN_RDWR | VDISK_OPEN_UNFINISHED, &v), 0);
    fill(v);
    assert_int_equal(vdisk_finish(v), 0);
    assert_int_equal(vdisk_lab_mark(lab, FINISHED), 0);
    assert_int_equal(vdisk_close(v), 0);
    assert_int_equal(vdisk_lab_cut_power(lab, 20, judge, &seen, &crashes), 0);
    assert_true(seen.unfinished > 0 && seen.whole > 0);
    vdisk_lab_destroy(lab);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(only_who_knows_opens_it),
        cmocka_unit_test(raw_is_flushed),
        cmocka_unit_test(requests_in_flight),
        cmocka_unit_test(no_cut_leaves_a_part),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
