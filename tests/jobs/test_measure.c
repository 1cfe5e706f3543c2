/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Measuring: a unit with data counts once, wherever its extents begin and end, and whatever the number of
 * stretches at a time; what is refused is refused when the job is made; a question that fails, or a step that is
 * cancelled, ends it. (That the numbers are QEMU's: tests/tool/test_measure.py.)
 */
#include <stdlib.h>
#include <string.h>

#include "backends/lab/vdisk-lab.h"
#include "tests/jobs/jobs.h"

#define SIZE (UINT64_C(3) << 30)

enum { PLACES = 700 };

static vdisk *make(const char *name, uint64_t size, uint32_t cluster_size)
{
    struct vdisk_create_opts opts = {.size = sizeof opts, .format = "qcow2", .virtual_size = size,
                                     .cluster_size = cluster_size};
    struct vdisk_open_opts how = {.size = sizeof how, .flags = VDISK_OPEN_RDWR, .format = "qcow2"};
    vdisk *v;

    CHECK_OK(vdisk_create(name, &opts));
    CHECK_OK(vdisk_open(name, &how, &v));
    return v;
}

static int run_measure(vdisk *v, const struct vdisk_create_opts *target, const struct vdisk_measure_opts *opts,
                       struct vdisk_measure_result *ret)
{
    vdisk_job *j;
    int rc;

    *ret = (struct vdisk_measure_result){.size = sizeof *ret};
    CHECK_OK(vdisk_job_measure(v, target, opts, &j));
    rc = vdisk_job_run(j);
    if (rc == 0)
        CHECK_OK(vdisk_job_get_measure_result(j, ret));
    else
        CHECK(vdisk_job_get_error_text(j)[0] != '\0');
    CHECK_OK(vdisk_job_free(j));
    return rc;
}

static int by_number(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return x < y ? -1 : x > y;
}

/* How many units these bytes lie in. */
static uint64_t units_of(uint64_t *places, uint32_t unit)
{
    uint64_t units = 0, last = UINT64_MAX;

    qsort(places, PLACES, sizeof *places, by_number);
    for (unsigned i = 0; i < PLACES; i++) {
        units += places[i] / unit != last;
        last = places[i] / unit;
    }
    return units;
}

/* Random bytes of an image with clusters of 4 KiB, some at the edges of stretches. */
static void test_units(void)
{
    static const uint32_t targets[] = {512, 4096, 65536, 2u << 20};
    vdisk *v = make(test_path("a"), SIZE, 4096);
    uint64_t places[PLACES];

    for (unsigned i = 0; i < PLACES; i++) {
        places[i] = rng_below(test_rng(), i % 3 ? SIZE : 40 << 20) / 4096 * 4096;
        if (i % 50 == 0)
            places[i] = (UINT64_C(256) << 20) * (i / 50 % 12) + (i % 100 ? 0 : SIZE / 12 - 4096);
        CHECK_OK(vdisk_pwrite(v, "x", 1, places[i], 0));
    }
    for (unsigned i = 0; i < 4; i++) {
        struct vdisk_create_opts target = {.size = sizeof target, .format = "qcow2", .cluster_size = targets[i]};
        struct vdisk_measure_result empty = {.size = sizeof empty}, r;
        uint64_t units = targets[i] < 4096 ? units_of(places, 4096) * (4096 / targets[i])
                                           : units_of(places, targets[i]);

        target.virtual_size = SIZE;
        CHECK_OK(vdisk_measure(&target, NULL, &empty));
        for (uint32_t depth = 0; depth < 40; depth += 13) {
            struct vdisk_measure_opts opts = {.size = sizeof opts, .depth = depth};
            CHECK_OK(run_measure(v, &target, &opts, &r));
            CHECK_INT(r.required - empty.required, units * targets[i]);
            CHECK_INT(r.fully_allocated, empty.fully_allocated);
            CHECK_INT(r.virtual_size, SIZE);
            CHECK(r.has_bitmaps && r.bitmaps == 0);
        }
    }
    CHECK_OK(vdisk_close(v));
}

static void test_refused(void)
{
    struct vdisk_create_opts target = {.size = sizeof target, .format = "qcow2", .cluster_size = 3000};
    struct vdisk_measure_result r = {.size = sizeof r};
    vdisk *v = make(test_path("a"), 1 << 20, 65536);
    vdisk_job *j;

    CHECK_INT(vdisk_measure(&target, NULL, &r), -EINVAL);
    CHECK_INT(vdisk_job_measure(v, &target, NULL, &j), -EINVAL);
    CHECK(strstr(vdisk_error_text(), "cluster size") != NULL);
    CHECK_INT(vdisk_job_measure(v, NULL, NULL, &j), -EINVAL);
    CHECK_INT(vdisk_measure(NULL, NULL, &r), -EINVAL);
    target = (struct vdisk_create_opts){.size = sizeof target, .format = "qcow2"};
    CHECK_INT(vdisk_measure(&target, NULL, NULL), -EINVAL);
    target.virtual_size = INT64_MAX;
    CHECK_INT(vdisk_measure(&target, NULL, &r), -EFBIG);
    target.virtual_size = 1 << 20;
    target.format = "vmdk";
    CHECK_INT(vdisk_measure(&target, NULL, &r), -EINVAL);
    CHECK_OK(vdisk_close(v)); /* nothing holds it */
}

static void test_stops(void)
{
    struct vdisk_create_opts target = {.size = sizeof target, .format = "qcow2"};
    struct vdisk_measure_result r;
    struct stepper s;
    struct vdisk_measure_opts opts = {.size = sizeof opts, .progress = stepper_step, .progress_arg = &s};
    vdisk *v = make(test_path("a"), SIZE, 65536);
    unsigned steps;

    stepper_init(&s, false);
    CHECK_OK(run_measure(v, &target, &opts, &r));
    steps = s.steps;
    CHECK(steps > 1);
    for (unsigned i = 1; i < steps; i++) {
        stepper_init(&s, false);
        s.cancel_at = i;
        CHECK_INT(run_measure(v, &target, &opts, &r), -ECANCELED);
    }
    CHECK_OK(vdisk_close(v));
}

/* With one read failing: an error, or the right answer. */
static int lab_scenario(void *arg, vdisk_lab *lab)
{
    struct vdisk_create_opts opts = {.size = sizeof opts, .format = "qcow2", .virtual_size = SIZE};
    struct vdisk_open_opts how = {.size = sizeof how, .format = "qcow2", .flags = VDISK_OPEN_RDWR};
    struct vdisk_measure_result empty = {.size = sizeof empty}, r;
    vdisk *v = NULL;
    int rc = vdisk_create("sim:a", &opts);

    CHECK_OK(vdisk_measure(&opts, NULL, &empty));
    if (rc == 0)
        rc = vdisk_open("sim:a", &how, &v);
    for (uint64_t at = 0; at < SIZE && rc == 0; at += SIZE / 12)
        rc = vdisk_pwrite(v, "x", 1, at, 0);
    if (vdisk_close(v) < 0 || rc < 0)
        return rc;
    v = NULL;
    how.flags = 0; /* with nothing in memory */
    rc = vdisk_open("sim:a", &how, &v);
    if (rc == 0)
        rc = run_measure(v, &opts, NULL, &r);
    if (rc == 0) {
        CHECK_INT(r.required, empty.required + 12 * 65536);
        ++*(unsigned *)arg;
    }
    vdisk_close(v);
    (void)lab;
    return rc;
}

static void test_failures(void)
{
    struct vdisk_lab_fault fault = {.size = sizeof fault, .calls = VDISK_LAB_READS};
    unsigned right = 0;
    uint64_t runs = 0;

    CHECK_OK(vdisk_lab_each_failure(NULL, &fault, lab_scenario, &right, &runs));
    CHECK(runs > 5 && right >= 1);
}

int main(int argc, char **argv)
{
    static const struct test_case cases[] = {
        {.name = "units", .run = test_units},
        {.name = "refused", .run = test_refused},
        {.name = "stops", .run = test_stops},
        {.name = "failures", .run = test_failures},
    };

    return test_main(argc, argv, cases, ARRAY_LEN(cases));
}
