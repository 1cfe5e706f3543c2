/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Amend: what a step that is stopped, or for which there is no room, has taken is given back. (What it reads as
 * then: test_amend.c.)
 */
#include "tests/jobs/chain.h"

enum { ZEROS = 4 };

/* So large that each is a step. */
static const struct chain_kind kind = {.what = "clusters of 64 KiB", .cluster_size = 65536, .version = 3};

/* Clusters of zeros, which hide what is below: in version 2 each takes space. */
static int build(struct chain *c)
{
    struct vdisk_open_opts how = {.size = sizeof how, .flags = VDISK_OPEN_RDWR, .format = "qcow2"};
    char name[CHAIN_NAME];
    struct rng r;
    vdisk *v = NULL;
    int rc, closed;

    rng_init(&r, 7);
    *c = (struct chain){.kind = &kind, .prefix = "sim:l"};
    rc = chain_add(c, CHAIN_SIZE, &r);
    if (rc == 0)
        rc = chain_add(c, CHAIN_SIZE, &r);
    if (rc == 0)
        rc = vdisk_open(chain_name(c, 1, name), &how, &v);
    if (rc < 0)
        return rc;
    memset(c->model, 0, ZEROS * (uint64_t)kind.cluster_size);
    rc = vdisk_pzero(v, ZEROS * (uint64_t)kind.cluster_size, 0, VDISK_REQ_UNMAP);
    closed = vdisk_close(v);
    return rc < 0 ? rc : closed;
}

static uint64_t file_size(const struct chain *c)
{
    struct vdisk_open_opts how = {.size = sizeof how, .format = "raw"};
    char name[CHAIN_NAME];
    uint64_t size;
    vdisk *v;

    CHECK_OK(vdisk_open(chain_name(c, 1, name), &how, &v));
    size = vdisk_size(v);
    CHECK_OK(vdisk_close(v));
    return size;
}

/*
 * To version 2, or to wider refcounts. *ret_doubt: it is not known which header is there, so that nothing more is
 * written. NULL: it is.
 */
static int amend(const struct chain *c, bool wider, vdisk_progress_fn *progress, void *progress_arg,
                 bool *ret_doubt)
{
    struct vdisk_amend_opts opts = {.size = sizeof opts, .version = wider ? 0 : 2, .progress = progress,
                                    .progress_arg = progress_arg, .refcount_bits = wider ? 64 : 0};
    struct vdisk_open_opts how = {.size = sizeof how, .flags = VDISK_OPEN_RDWR, .format = "qcow2"};
    char name[CHAIN_NAME];
    vdisk_job *j;
    vdisk *v;
    int rc;

    CHECK_OK(vdisk_open(chain_name(c, 1, name), &how, &v));
    CHECK_OK(vdisk_job_amend(v, &opts, &j));
    rc = vdisk_job_run(j);
    CHECK(rc == 0 || vdisk_job_get_error_text(j)[0]);
    if (ret_doubt)
        *ret_doubt = strstr(vdisk_job_get_error_text(j), "header could not be written") != NULL;
    CHECK_OK(vdisk_job_free(j));
    vdisk_close(v); /* it may have failed for good */
    return rc;
}

static void expect_no_leaks(const struct chain *c)
{
    struct vdisk_check_opts opts = {.size = sizeof opts, .format = "qcow2"};
    struct vdisk_check_result r = {.size = sizeof r};
    char name[CHAIN_NAME];
    vdisk_job *j;

    CHECK_OK(vdisk_job_check(chain_name(c, 1, name), &opts, &j));
    CHECK_OK(vdisk_job_run(j));
    CHECK_OK(vdisk_job_get_check_result(j, &r));
    CHECK_INT(r.leaks, 0);
    CHECK_OK(vdisk_job_free(j));
    chain_check(c);
}

/* At each of its steps. */
static void run_stopped(bool wider, unsigned least)
{
    unsigned steps = 0, stopped = 0;

    for (unsigned i = 0; i <= steps; i++) {
        struct chain c;
        struct stepper step;
        vdisk_lab *lab;

        test_note("step %u", i);
        CHECK_OK(vdisk_lab_create(NULL, &lab));
        CHECK_OK(build(&c));
        stepper_init(&step, false);
        step.cancel_at = i;
        stopped += amend(&c, wider, stepper_step, &step, NULL) == -ECANCELED;
        steps = i == 0 ? step.steps : steps;
        expect_no_leaks(&c);
        vdisk_lab_destroy(lab);
    }
    CHECK(stopped > least);
}

static void test_stopped(void)
{
    run_stopped(false, 3);
}

static void test_wider_stopped(void)
{
    run_stopped(true, 0);
}

/* One write finds no space, whichever; then there is some again. */
static void run_no_space(bool wider)
{
    unsigned failed = 0;
    bool met = true;

    for (unsigned i = 1; met; i++) {
        struct vdisk_lab_fault fault = {.size = sizeof fault, .calls = VDISK_LAB_WRITES, .nth = i,
                                        .error = ENOSPC};
        bool doubt = false;
        uint64_t before;
        int rc;
        struct chain c;
        vdisk_lab *lab;

        test_note("write %u", i);
        CHECK_OK(vdisk_lab_create(NULL, &lab));
        CHECK_OK(build(&c));
        before = file_size(&c);
        CHECK_OK(vdisk_lab_fail(lab, &fault));
        rc = amend(&c, wider, NULL, NULL, &doubt);
        met = vdisk_lab_has_failed(lab);
        CHECK_OK(vdisk_lab_fail(lab, NULL));
        failed += rc < 0 && !doubt;
        if (doubt)
            chain_check(&c);
        else
            expect_no_leaks(&c);
        if (rc < 0 && !doubt && wider)
            CHECK_INT(file_size(&c), before);
        vdisk_lab_destroy(lab);
    }
    CHECK(failed > (wider ? 1 : 3));
}

static void test_no_space(void)
{
    run_no_space(false);
}

static void test_wider_no_space(void)
{
    run_no_space(true);
}

int main(int argc, char **argv)
{
    static const struct test_case cases[] = {
        {.name = "stopped", .run = test_stopped},
        {.name = "no_space", .run = test_no_space},
        {.name = "wider_stopped", .run = test_wider_stopped},
        {.name = "wider_no_space", .run = test_wider_no_space},
    };

    return test_main(argc, argv, cases, ARRAY_LEN(cases));
}
