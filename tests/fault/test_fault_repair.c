/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Check and repair of damaged images with each of their calls failing once, and with the machine gone from one
 * call on. An error has a text; what could be read reads the same; and the next repair ends where one without
 * faults does.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/bits.h"
#include "engine/loop/thread.h"
#include "engine/volume.h"
#include "qcow2/check/check.h"
#include "tests/fault/fault_lib.h"
#include "tests/fault/oom.h"
#include "tests/lib/test.h"
#include "tests/unit/qcow2/check/q2_damage.h"

enum { MAX_CALLS = 1000, GUEST_CLUSTERS = 12, CLUSTER = 65536, MODES = FAULT_MODES + 1 };

static const char *const names[] = {
    "leak-of-three", "refcount-too-high", "refcount-of-nought", "cluster-shared-by-two", "data-past-the-end",
    "data-reserved-bit", "l1-not-flagged-as-sole", "compressed-past-the-end", "data-is-the-refcount-table",
    "no-refcount-block", "refcount-block-misaligned", "refcount-block-used-twice", "snapshot-forgotten",
    "shared-flagged-as-sole", "bitmap-lost", "data-is-the-l1-table", "l2-points-at-itself",
};

struct result {
    struct qcow2_repair_result repair;
    uint8_t *content;
    bool     readable[GUEST_CLUSTERS];
};

/* ---- one image ------------------------------------------------------------------------------------------- */

static int repair(struct backend *b, enum qcow2_repair_what what, struct qcow2_repair_result *ret)
{
    vdisk_queue *q;
    int rc;

    CHECK_OK(vdisk_queue_create(NULL, &q));
    oom_enter();
    rc = qcow2_repair(b, q, what, NULL, ret);
    oom_leave();
    if (rc < 0)
        CHECK_MSG(strlen(vdisk_error_text()) > 10, "repair failed (%s), and why is: '%s'", strerror(-rc),
                  vdisk_error_text());
    vdisk_queue_destroy(q);
    return rc;
}

static void read_content(struct memdisk *d, struct result *r)
{
    struct vdisk_open_opts opts = {.size = sizeof opts, .format = "qcow2", .flags = VDISK_OPEN_CHECK};
    vdisk *v;

    r->content = test_alloc(GUEST_CLUSTERS * CLUSTER);
    CHECK_OK(vdisk_open_backend(memdisk_open(d, true), &opts, &v));
    for (int i = 0; i < GUEST_CLUSTERS; i++)
        r->readable[i] = vdisk_pread(v, r->content + i * CLUSTER, CLUSTER, (uint64_t)i * CLUSTER) == 0;
    CHECK_OK(vdisk_close(v));
}

static void check_content(struct memdisk *d, const struct result *want)
{
    struct result now;

    read_content(d, &now);
    for (int i = 0; i < GUEST_CLUSTERS; i++)
        if (want->readable[i])
            CHECK_MSG(now.readable[i] &&
                          memcmp(now.content + i * CLUSTER, want->content + i * CLUSTER, CLUSTER) == 0,
                      "guest cluster %d reads differently", i);
    free(now.content);
}

/* What the image is like before, and after a repair without faults. */
static void expect(struct memdisk *damaged, enum qcow2_repair_what what, struct result *ret)
{
    struct memdisk d;
    struct backend *b;

    memdisk_clone(&d, damaged);
    read_content(&d, ret);
    b = memdisk_open(&d, false);
    CHECK_OK(repair(b, what, &ret->repair));
    backend_close(b);
    memdisk_finish(&d);
}

/* The nth call fails, or all from it on do; false if there is no such call. */
static bool repair_once(struct memdisk *damaged, enum qcow2_repair_what what, unsigned mode, unsigned nth,
                        const struct result *want)
{
    const struct fault_mode *m = &fault_modes[mode < FAULT_MODES ? mode : 0];
    struct fault_rule rule = {.nth = nth, .what = m->what, .error = m->error, .calls = 2};
    struct qcow2_repair_result got;
    struct backend *fault, *b;
    struct memdisk d;
    bool fired;
    int rc;

    thread_release();
    oom_watch();
    memdisk_clone(&d, damaged);
    CHECK_OK(fault_backend_create(memdisk_open(&d, false), &fault));
    if (mode == FAULT_MODES)
        rule.count = UINT32_MAX - nth;
    mode_arm(m, fault, &rule);
    rc = repair(fault, what, &got);
    fired = mode_disarm(fault);
    backend_close(fault);
    CHECK_MSG(rc == 0 || (fired && m->error), "it fails all by itself: %s", vdisk_error_text());
    check_content(&d, want);
    b = memdisk_open(&d, false);
    CHECK_OK(repair(b, what, &got));
    backend_close(b);
    CHECK_INT(got.check.corruptions, want->repair.check.corruptions);
    CHECK_INT(got.check.leaks, want->repair.check.leaks);
    CHECK_INT(got.check.check_errors, want->repair.check.check_errors);
    check_content(&d, want);
    memdisk_finish(&d);
    thread_release();
    CHECK_MSG(oom_live() == 0, "%u pieces of memory are never given back", oom_live());
    return fired;
}

/* ---- all of them ----------------------------------------------------------------------------------------- */

static void make(const char *name, struct memdisk *ret)
{
    const struct damage *d = NULL;

    for (unsigned i = 0; i < damages_count; i++)
        if (strcmp(damages[i].name, name) == 0)
            d = &damages[i];
    CHECK_MSG(d, "no damage '%s'", name);
    damage_make(d, test_path("image"));
    memdisk_load(ret, test_path("image"), 512);
}

static void run(enum qcow2_repair_what what)
{
    const char *name = names[test_repetition() % ARRAY_LEN(names)];
    struct memdisk damaged;
    struct result want;

    test_requires("qemu-img");
    make(name, &damaged);
    expect(&damaged, what, &want);
    for (unsigned mode = 0; mode < MODES; mode++) {
        unsigned nth = 0;
        if (test_is_quick() && (test_repetition() + mode + test_seed()) % 3 != 0)
            continue; /* as scenario_run() does */
        do {
            nth += mode < FAULT_MODES ? mode_stride(&fault_modes[mode], nth) : 1;
            CHECK_MSG(nth < MAX_CALLS, "no end to the calls");
            test_note("%s, call %u: %s", name, nth, mode < FAULT_MODES ? fault_modes[mode].name : "gone");
        } while (repair_once(&damaged, what, mode, nth, &want));
        CHECK_MSG(nth > 1, "no call was made");
    }
    free(want.content);
    memdisk_finish(&damaged);
}

static void test_leaks(void)
{
    run(QCOW2_REPAIR_LEAKS);
}

static void test_all(void)
{
    run(QCOW2_REPAIR_ALL);
}

/* A check over faults: a result, or an error with a text; nothing is written. */
static void test_check(void)
{
    struct memdisk damaged;
    struct backend *fault;
    vdisk_queue *q;
    bool fired;

    test_requires("qemu-img");
    make(names[test_repetition() % ARRAY_LEN(names)], &damaged);
    CHECK_OK(vdisk_queue_create(NULL, &q));
    for (unsigned mode = 0; mode < FAULT_MODES; mode++) {
        const struct fault_mode *m = &fault_modes[mode];
        unsigned nth = 0;
        do {
            struct fault_rule rule = {.nth = ++nth, .what = m->what, .error = m->error, .calls = 2};
            struct qcow2_check_result got;
            CHECK_MSG(nth < MAX_CALLS, "no end to the calls");
            CHECK_OK(fault_backend_create(memdisk_open(&damaged, true), &fault));
            mode_arm(m, fault, &rule);
            oom_enter();
            int rc = qcow2_check(fault, q, NULL, &got);
            oom_leave();
            fired = mode_disarm(fault);
            CHECK_INT(fault_calls(fault, IO_WRITE) + fault_calls(fault, IO_FLUSH), 0);
            CHECK_MSG(rc == 0 || (fired && m->error && vdisk_error_text()[0]), "%s", vdisk_error_text());
            CHECK_MSG(rc < 0 || !fired || !m->error || got.check_errors > 0, "a failed read is no error");
            backend_close(fault);
        } while (fired);
    }
    vdisk_queue_destroy(q);
    memdisk_finish(&damaged);
}

int main(int argc, char **argv)
{
    static const struct test_case cases[] = {
        {.name = "leaks", .run = test_leaks, .repeat = ARRAY_LEN(names)},
        {.name = "all", .run = test_all, .repeat = ARRAY_LEN(names)},
        {.name = "check", .run = test_check, .repeat = ARRAY_LEN(names)},
    };

    return test_main(argc, argv, cases, ARRAY_LEN(cases));
}
