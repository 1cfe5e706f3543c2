/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The laboratory for programs that use the library: names, failures, power cuts, and that it can say no. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/vdisk.h"

#include "backends/lab/vdisk-lab.h"

enum { SIZE = 1 << 20, BLOCK = 4096 };

static const struct vdisk_create_opts qcow2 = {.size = sizeof qcow2, .format = "qcow2", .virtual_size = SIZE,
                                               .cluster_size = 4096};

static int open_rw(const char *name, vdisk **ret)
{
    struct vdisk_open_opts how = {.size = sizeof how, .flags = VDISK_OPEN_RDWR};

    return vdisk_open(name, &how, ret);
}

static int write_block(vdisk *v, unsigned block, int byte)
{
    static char buf[BLOCK];

    memset(buf, byte, BLOCK);
    return vdisk_pwrite(v, buf, BLOCK, (uint64_t)block * BLOCK, 0);
}

/* The byte that the block is full of; -1: not of one; or an errno. */
static int read_block(vdisk *v, unsigned block)
{
    static unsigned char buf[BLOCK];
    int rc = vdisk_pread(v, buf, BLOCK, (uint64_t)block * BLOCK);

    if (rc < 0)
        return rc;
    for (unsigned i = 1; i < BLOCK; i++)
        if (buf[i] != buf[0])
            return -1;
    return buf[0];
}

static void disks_have_names(void **state)
{
    struct vdisk_create_opts overlay = qcow2;
    vdisk_lab *lab;
    vdisk *v;

    assert_int_equal(vdisk_lab_create(NULL, &lab), 0);
    assert_int_equal(vdisk_create("sim:base", &qcow2), 0);
    assert_int_equal(open_rw("sim:base", &v), 0);
    assert_int_equal(write_block(v, 3, 7), 0);
    assert_int_equal(vdisk_close(v), 0);
    overlay.backing_file = "sim:base";
    overlay.backing_fmt = "qcow2";
    assert_int_equal(vdisk_create("sim:top", &overlay), 0);
    assert_int_equal(open_rw("sim:top", &v), 0);
    assert_int_equal(read_block(v, 3), 7);
    assert_int_equal(read_block(v, 4), 0);
    assert_int_equal(vdisk_close(v), 0);
    assert_int_equal(open_rw("sim:nothing", &v), -ENOENT);
    /* Made again, it is new. */
    assert_int_equal(vdisk_create("sim:base", &qcow2), 0);
    assert_int_equal(open_rw("sim:base", &v), 0);
    assert_int_equal(read_block(v, 3), 0);
    assert_int_equal(vdisk_close(v), 0);
    assert_int_equal(vdisk_create("sim:c", &qcow2), 0);
    assert_int_equal(vdisk_create("sim:d", &qcow2), 0);
    assert_int_equal(vdisk_create("sim:e", &qcow2), -EMFILE);
    vdisk_lab_destroy(lab);
    /* Outside there are no such names. */
    assert_true(open_rw("sim:base", &v) < 0);
}

static void bad_use_is_refused(void **state)
{
    struct vdisk_lab_opts opts = {.size = sizeof opts, .align = 1000};
    struct vdisk_lab_fault fault = {.size = 0};
    vdisk_lab *lab;

    assert_int_equal(vdisk_lab_create(&opts, &lab), -EINVAL);
    assert_int_equal(vdisk_lab_create(NULL, &lab), 0);
    assert_int_equal(vdisk_lab_mark(lab, 1), -EINVAL);
    assert_int_equal(vdisk_lab_cut_power(lab, 1, NULL, NULL, NULL), -EINVAL);
    assert_int_equal(vdisk_lab_fail(lab, &fault), -EINVAL);
    assert_int_equal(vdisk_lab_arm(lab), 0);
    assert_int_equal(vdisk_lab_arm(lab), -EBUSY);
    vdisk_lab_destroy(lab);
}

/* ---- failures -------------------------------------------------------------------------------------------- */

struct scenario {
    uint64_t failed, succeeded;
    bool     objects; /* to the third run */
};

/* What was flushed is there, whatever fails later. */
static int flushed_stays(void *arg, vdisk_lab *lab)
{
    struct scenario *s = arg;
    bool flushed = false;
    vdisk *v;
    int rc = vdisk_create("sim:disk", &qcow2);

    if (rc == 0 && (rc = open_rw("sim:disk", &v)) == 0) {
        rc = write_block(v, 1, 1);
        if (rc == 0)
            rc = vdisk_sync(v);
        flushed = rc == 0;
        if (rc == 0)
            rc = write_block(v, 2, 2);
        int closed = vdisk_close(v);
        rc = rc < 0 ? rc : closed;
    }
    if (rc < 0 && !vdisk_lab_has_failed(lab))
        return 2; /* from nowhere */
    s->failed += rc < 0;
    s->succeeded += rc == 0;
    if (s->objects && s->failed == 3)
        return 7;
    vdisk_lab_fail(lab, NULL);
    if (!flushed)
        return rc;
    if (open_rw("sim:disk", &v) < 0)
        return 3;
    if (read_block(v, 1) != 1 || vdisk_close(v) < 0)
        return 4;
    return rc;
}

static void each_call_fails_once(void **state)
{
    struct vdisk_lab_fault fault = {.size = sizeof fault, .calls = VDISK_LAB_WRITES | VDISK_LAB_FLUSHES,
                                    .error = ENOSPC};
    struct scenario s = {0};
    uint64_t runs;

    assert_int_equal(vdisk_lab_each_failure(NULL, &fault, flushed_stays, &s, &runs), 0);
    assert_true(runs > 10);
    /* Not all: some calls are of no consequence, space taken ahead for instance. */
    assert_true(s.failed > runs / 2);
    assert_int_equal(s.failed + s.succeeded, runs);
    s = (struct scenario){.objects = true};
    assert_int_equal(vdisk_lab_each_failure(NULL, &fault, flushed_stays, &s, &runs), 7);
    assert_int_equal(s.failed, 3);
}

/* ---- power cuts ------------------------------------------------------------------------------------------ */

static int judge_flushed(void *arg, uint64_t mark)
{
    const unsigned *asks = arg;
    vdisk *v;
    int result = 0;

    if (open_rw("sim:disk", &v) < 0)
        return 1;
    for (unsigned i = 1; i <= mark + *asks && result == 0; i++)
        result = read_block(v, i) == (int)i ? 0 : 2;
    /* What is written here is the image's alone. */
    if (write_block(v, 1, 99) < 0 || vdisk_close(v) < 0)
        return 3;
    return result;
}

static void write_and_promise(vdisk_lab *lab, unsigned blocks)
{
    vdisk *v;

    assert_int_equal(vdisk_create("sim:disk", &qcow2), 0);
    assert_int_equal(vdisk_lab_arm(lab), 0);
    assert_int_equal(open_rw("sim:disk", &v), 0);
    for (unsigned i = 1; i <= blocks; i++) {
        assert_int_equal(write_block(v, i, (int)i), 0);
        assert_int_equal(vdisk_sync(v), 0);
        assert_int_equal(vdisk_lab_mark(lab, i), 0);
    }
    assert_int_equal(vdisk_close(v), 0);
}

static void what_was_promised_survives(void **state)
{
    struct vdisk_lab_crashes crashes = {.size = sizeof crashes};
    unsigned asks = 0;
    vdisk_lab *lab;

    assert_int_equal(vdisk_lab_create(NULL, &lab), 0);
    write_and_promise(lab, 6);
    assert_int_equal(vdisk_lab_cut_power(lab, 10, judge_flushed, &asks, &crashes), 0);
    assert_true(crashes.images > 50);
    assert_true(crashes.places >= 6);
    vdisk_lab_destroy(lab);
}

/* A judge that asks for one more than was promised must see it missing somewhere. */
static void what_was_not_promised_gets_lost(void **state)
{
    struct vdisk_lab_crashes crashes = {.size = sizeof crashes};
    unsigned asks = 1;
    vdisk_lab *lab;

    assert_int_equal(vdisk_lab_create(NULL, &lab), 0);
    write_and_promise(lab, 6);
    assert_int_equal(vdisk_lab_cut_power(lab, 10, judge_flushed, &asks, &crashes), 2);
    assert_non_null(strstr(vdisk_error_text(), "power cut before event"));
    vdisk_lab_destroy(lab);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(disks_have_names),
        cmocka_unit_test(bad_use_is_refused),
        cmocka_unit_test(each_call_fails_once),
        cmocka_unit_test(what_was_promised_survives),
        cmocka_unit_test(what_was_not_promised_gets_lost),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
