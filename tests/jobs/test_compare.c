/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Comparisons: the difference that is told is the first one, wherever it lies and however much else differs; what
 * both know to be zeros is not read; with reads that fail, or stopped at a step, there is no result.
 */
#include <stdlib.h>
#include <string.h>

#include "backends/lab/vdisk-lab.h"
#include "tests/jobs/jobs.h"

enum { SIZE = (3 << 20) + 512 };

static vdisk *make(const char *name, const char *format, uint64_t size)
{
    struct vdisk_create_opts opts = {.size = sizeof opts, .format = format, .virtual_size = size};
    struct vdisk_open_opts how = {.size = sizeof how, .flags = VDISK_OPEN_RDWR, .format = format};
    vdisk *v;

    CHECK_OK(vdisk_create(name, &opts));
    CHECK_OK(vdisk_open(name, &how, &v));
    return v;
}

static int run_compare(vdisk *a, vdisk *b, const struct vdisk_compare_opts *opts, struct vdisk_compare_result *ret)
{
    vdisk_job *j;
    int rc;

    *ret = (struct vdisk_compare_result){.size = sizeof *ret};
    CHECK_OK(vdisk_job_compare(a, b, opts, &j));
    rc = vdisk_job_run(j);
    if (rc == 0)
        CHECK_OK(vdisk_job_get_compare_result(j, ret));
    else
        CHECK(vdisk_job_get_error_text(j)[0] != '\0');
    CHECK_OK(vdisk_job_free(j));
    return rc;
}

static void expect(vdisk *a, vdisk *b, bool strict, enum vdisk_difference what, uint64_t offset)
{
    struct vdisk_compare_opts opts = {.size = sizeof opts, .flags = strict ? VDISK_COMPARE_STRICT : 0,
                                      .depth = 1 + (uint32_t)rng_below(test_rng(), 20)};
    struct vdisk_compare_result r;

    for (unsigned turned = 0; turned < 2; turned++) {
        CHECK_OK(turned ? run_compare(b, a, &opts, &r) : run_compare(a, b, &opts, &r));
        CHECK_INT(r.difference, what);
        CHECK_INT(r.offset, offset);
    }
}

static void put(vdisk *v, uint64_t offset, int byte)
{
    char c = (char)byte;

    CHECK_OK(vdisk_pwrite(v, &c, 1, offset, 0));
}

static void fill(vdisk *v, int byte, uint64_t offset, uint64_t len)
{
    char *buf = vdisk_alloc_buffer(len);

    memset(buf, byte, len);
    CHECK_OK(vdisk_pwrite(v, buf, len, offset, 0));
    free(buf);
}

static void test_first(void)
{
    static const char *const formats[] = {"raw", "qcow2"};

    for (unsigned i = 0; i < 4; i++) {
        vdisk *a = make(test_path("a"), formats[i % 2], SIZE), *b = make(test_path("b"), formats[i / 2], SIZE);

        test_note("%s and %s", formats[i % 2], formats[i / 2]);
        expect(a, b, false, VDISK_DIFFERENCE_NONE, 0);
        fill(a, 3, 1 << 20, 1 << 20);
        expect(a, b, false, VDISK_DIFFERENCE_CONTENT, 1 << 20);
        fill(b, 3, 1 << 20, 1 << 20);
        fill(b, 0, 5 << 19, 4096); /* zeros as data are zeros */
        expect(a, b, false, VDISK_DIFFERENCE_NONE, 0);
        for (uint64_t at = SIZE - 1; at > 1000000; at = at * 3 / 4) { /* from the last to the first */
            put(rng_below(test_rng(), 2) ? a : b, at, 9);
            expect(a, b, false, VDISK_DIFFERENCE_CONTENT, at / 512 * 512);
        }
        CHECK_OK(vdisk_close(a));
        CHECK_OK(vdisk_close(b));
    }
}

static void test_sizes(void)
{
    struct vdisk_compare_result r;
    vdisk *a = make(test_path("a"), "qcow2", SIZE), *b = make(test_path("b"), "qcow2", SIZE + (3 << 20));

    fill(a, 5, 0, 65536);
    fill(b, 5, 0, 65536);
    expect(a, b, false, VDISK_DIFFERENCE_NONE, 0);
    expect(a, b, true, VDISK_DIFFERENCE_SIZE, SIZE);
    CHECK_OK(run_compare(a, b, NULL, &r));
    CHECK(r.sizes_differ && !r.behind_end);
    put(b, SIZE + 1000000, 1);
    expect(a, b, false, VDISK_DIFFERENCE_CONTENT, (SIZE + 1000000) / 512 * 512);
    CHECK_OK(run_compare(a, b, NULL, &r));
    CHECK(r.behind_end);
    put(a, SIZE - 1, 1);
    expect(a, b, false, VDISK_DIFFERENCE_CONTENT, SIZE - 512);
    CHECK_OK(vdisk_close(a));
    CHECK_OK(vdisk_close(b));
}

/* Strict: zeros that are there as data are not nothing; what differs before that counts. */
static void test_strict(void)
{
    vdisk *a = make(test_path("a"), "qcow2", SIZE), *b = make(test_path("b"), "qcow2", SIZE);

    fill(a, 1, 0, 65536);
    fill(b, 1, 0, 65536);
    expect(a, b, true, VDISK_DIFFERENCE_NONE, 0);
    fill(b, 0, 2 << 20, 65536);
    expect(a, b, false, VDISK_DIFFERENCE_NONE, 0);
    expect(a, b, true, VDISK_DIFFERENCE_STATUS, 2 << 20);
    put(b, 60000, 2);
    expect(a, b, true, VDISK_DIFFERENCE_CONTENT, 60000 / 512 * 512);
    CHECK_OK(vdisk_close(a));
    CHECK_OK(vdisk_close(b));
}

static void test_unread(void)
{
    struct vdisk_compare_result r;
    vdisk *a = make(test_path("a"), "qcow2", UINT64_C(1) << 42), *b = make(test_path("b"), "qcow2", 1 << 20);

    CHECK_OK(run_compare(a, b, NULL, &r));
    CHECK_INT(r.difference, VDISK_DIFFERENCE_NONE);
    CHECK_INT(r.bytes_read, 0);
    CHECK_OK(run_compare(a, a, NULL, &r));
    CHECK_INT(r.difference, VDISK_DIFFERENCE_NONE);
    CHECK_OK(vdisk_close(a));
    CHECK_OK(vdisk_close(b));
}

static void test_stopped(void)
{
    vdisk *a = make(test_path("a"), "qcow2", SIZE), *b = make(test_path("b"), "raw", SIZE);
    struct vdisk_compare_result r;
    struct stepper s;
    int rc = -ECANCELED;

    fill(a, 1, 0, SIZE);
    fill(b, 1, 0, SIZE);
    for (unsigned n = 1; rc == -ECANCELED && n < 100; n++) {
        struct vdisk_compare_opts opts = {.size = sizeof opts, .depth = 1, .progress = stepper_step,
                                          .progress_arg = &s};
        stepper_init(&s, false);
        s.cancel_at = n;
        rc = run_compare(a, b, &opts, &r);
        CHECK(rc == 0 || rc == -ECANCELED);
        CHECK_INT(r.difference, VDISK_DIFFERENCE_NONE);
    }
    CHECK_INT(rc, 0);
    CHECK_OK(vdisk_close(a));
    CHECK_OK(vdisk_close(b));
}

/* With one read failing: an error, or the right answer. */
static int lab_scenario(void *arg, vdisk_lab *lab)
{
    struct vdisk_create_opts create = {.size = sizeof create, .format = "qcow2", .virtual_size = 1 << 20,
                                       .cluster_size = 4096};
    struct vdisk_open_opts how = {.size = sizeof how, .format = "qcow2", .flags = VDISK_OPEN_RDWR};
    struct vdisk_compare_result r;
    vdisk *v[2] = {NULL, NULL};
    int rc = 0;

    for (unsigned i = 0; i < 2 && rc == 0; i++) {
        const char *name = i ? "sim:b" : "sim:a";
        rc = vdisk_create(name, &create);
        if (rc == 0)
            rc = vdisk_open(name, &how, &v[i]);
        for (uint64_t at = 0; at <= 800000 && rc == 0; at += 200000)
            rc = vdisk_pwrite(v[i], "x", 1, at, 0);
        if (rc == 0 && i)
            rc = vdisk_pwrite(v[i], "y", 1, 800000, 0);
    }
    if (rc == 0)
        rc = run_compare(v[0], v[1], NULL, &r);
    if (rc == 0) {
        CHECK_INT(r.difference, VDISK_DIFFERENCE_CONTENT);
        CHECK_INT(r.offset, 800000 / 512 * 512);
        ++*(unsigned *)arg;
    }
    vdisk_close(v[0]);
    vdisk_close(v[1]);
    (void)lab;
    return rc;
}

static void test_failures(void)
{
    struct vdisk_lab_fault fault = {.size = sizeof fault, .calls = VDISK_LAB_READS};
    unsigned right = 0;
    uint64_t runs;

    CHECK_OK(vdisk_lab_each_failure(NULL, &fault, lab_scenario, &right, &runs));
    CHECK(runs > 5 && right >= 1);
}

static void test_refused(void)
{
    struct vdisk_compare_opts opts = {.size = sizeof opts, .flags = 1u << 31};
    vdisk *a = make(test_path("a"), "raw", 512);
    vdisk_job *j;

    CHECK_INT(vdisk_job_compare(a, NULL, NULL, &j), -EINVAL);
    CHECK_INT(vdisk_job_compare(NULL, a, NULL, &j), -EINVAL);
    CHECK_INT(vdisk_job_compare(a, a, NULL, NULL), -EINVAL);
    CHECK_INT(vdisk_job_compare(a, a, &opts, &j), -EINVAL);
    opts.size = 1;
    CHECK_INT(vdisk_job_compare(a, a, &opts, &j), -EINVAL);
    CHECK_OK(vdisk_close(a));
}

int main(int argc, char **argv)
{
    static const struct test_case cases[] = {
        {.name = "first", .run = test_first},     {.name = "sizes", .run = test_sizes},
        {.name = "strict", .run = test_strict},   {.name = "unread", .run = test_unread},
        {.name = "stopped", .run = test_stopped}, {.name = "failures", .run = test_failures},
        {.name = "refused", .run = test_refused},
    };

    return test_main(argc, argv, cases, ARRAY_LEN(cases));
}
