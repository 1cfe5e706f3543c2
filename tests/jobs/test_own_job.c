/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Jobs that are made of a function of the caller's: where it is called, what progress and cancelling see, whose
 * words its error has, and what it holds. With installed headers only, as a program would.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/jobs/jobs.h"

struct work {
    struct stepper stepper;
    vdisk         *v;
    pthread_t      thread;   /* that it was called on */
    int            rc;       /* to be returned */
    const char    *text, *hint;
    bool           fails_later; /* a call of the library fails after the error has been told */
    unsigned       released;
};

enum { STEPS = 5 };

static int make_steps(vdisk_job *job, void *arg)
{
    struct work *w = arg;
    int rc = 0;

    w->thread = pthread_self();
    for (unsigned i = 1; i <= STEPS && rc == 0; i++) {
        stepper_step(&w->stepper, i, STEPS);
        rc = vdisk_job_step(job, i * 100, STEPS * 100);
    }
    return rc < 0 ? rc : w->rc;
}

static void count_release(void *arg)
{
    ((struct work *)arg)->released++;
}

static const struct vdisk_job_kind steps_kind = {
    .size = sizeof steps_kind, .name = "walk", .work = make_steps, .release = count_release};

static struct work *make_work(bool held)
{
    struct work *w = calloc(1, sizeof *w);

    CHECK(w);
    stepper_init(&w->stepper, held);
    return w;
}

/* ---- where it runs ------------------------------------------------------------------------------------ */

static void test_here(void)
{
    struct work *w = make_work(false);
    void *arg = NULL;
    vdisk_job *j;

    CHECK_OK(vdisk_job_make(&steps_kind, "a walk", w, NULL, 0, &j));
    CHECK_INT(vdisk_job_get_arg(j, &steps_kind, &arg), -EBUSY);
    CHECK_OK(vdisk_job_run(j));
    CHECK(pthread_equal(w->thread, pthread_self()));
    CHECK_INT(progress_of(j).bytes_done, STEPS * 100);
    CHECK_INT(progress_of(j).bytes_total, STEPS * 100);
    CHECK_OK(vdisk_job_get_arg(j, &steps_kind, &arg));
    CHECK(arg == w);
    CHECK_INT(w->released, 0);
    CHECK_OK(vdisk_job_free(j));
    CHECK_INT(w->released, 1);
    free(w);
}

/* Its volumes are held until it has ended, and no longer; one that is not run holds them till it is freed. */
static void test_on_queue(void)
{
    const char *paths[2] = {make_full_image("a"), make_full_image("b")};
    struct work *w = make_work(true);
    vdisk *v[2] = {open_rw(paths[0]), open_rw(paths[1])};
    vdisk_job *j, *unused;
    vdisk_queue *q;

    CHECK_OK(vdisk_queue_create(NULL, &q));
    CHECK_OK(vdisk_job_make(&steps_kind, "two volumes", w, v, 2, &j));
    CHECK_OK(vdisk_job_make(&steps_kind, "two volumes", NULL, v, 1, &unused));
    CHECK_OK(vdisk_job_start(j, q, 0));
    stepper_wait(&w->stepper);
    CHECK_INT(vdisk_close(v[1]), -EBUSY);
    CHECK_HAS(vdisk_error_text(), "1 job has");
    CHECK_INT(vdisk_close(v[0]), -EBUSY);
    CHECK_HAS(vdisk_error_text(), "2 jobs have");
    stepper_release(&w->stepper);
    reap_all(q, 1, NULL);
    CHECK(!pthread_equal(w->thread, pthread_self()));
    CHECK_OK(vdisk_close(v[1]));
    CHECK_INT(vdisk_close(v[0]), -EBUSY);
    CHECK_OK(vdisk_job_free(unused));
    CHECK_OK(vdisk_close(v[0]));
    CHECK_OK(vdisk_job_free(j));
    CHECK_OK(vdisk_queue_destroy(q));
    CHECK_INT(w->released, 1);
    free(w);
}

static void test_cancelled(void)
{
    struct work *w = make_work(true);
    vdisk_job *j;
    vdisk_queue *q;
    void *arg;
    int result[1];

    CHECK_OK(vdisk_queue_create(NULL, &q));
    CHECK_OK(vdisk_job_make(&steps_kind, "a walk", w, NULL, 0, &j));
    CHECK_OK(vdisk_job_start(j, q, 0));
    stepper_wait(&w->stepper);
    vdisk_job_cancel(j);
    stepper_release(&w->stepper);
    reap_all(q, 1, result);
    CHECK_INT(result[0], -ECANCELED);
    CHECK_INT(w->stepper.steps, 1);
    CHECK(strcmp(vdisk_job_get_error_text(j), "a walk: the walk was cancelled") == 0);
    CHECK_INT(vdisk_job_get_arg(j, &steps_kind, &arg), -ECANCELED);
    CHECK_OK(vdisk_job_free(j));
    CHECK_OK(vdisk_queue_destroy(q));
    free(w);
}

/* ---- its error ---------------------------------------------------------------------------------------- */

static int fail_somehow(vdisk_job *job, void *arg)
{
    struct work *w = arg;
    int rc = w->rc;
    char byte;

    CHECK(vdisk_error_text()[0] == '\0');
    if (w->text)
        CHECK_INT(vdisk_job_fail(job, rc, w->text, w->hint), rc);
    if (w->fails_later)
        CHECK_INT(vdisk_pread(w->v, &byte, 1, UINT64_MAX / 2), -EINVAL);
    if (w->v && !w->fails_later)
        CHECK_OK(vdisk_pread(w->v, &byte, 1, 0)); /* leaves no text */
    return rc;
}

static const struct vdisk_job_kind fail_kind = {.size = sizeof fail_kind, .name = "fall", .work = fail_somehow};

static void expect_error(struct work w, const char *text, const char *hint)
{
    vdisk_job *j;

    CHECK_OK(vdisk_job_make(&fail_kind, "image", &w, NULL, 0, &j));
    CHECK_INT(vdisk_job_run(j), w.rc);
    CHECK_HAS(vdisk_error_text(), text);
    CHECK_HAS(vdisk_job_get_error_text(j), text);
    if (hint)
        CHECK(strcmp(vdisk_job_get_error_hint(j), hint) == 0);
    CHECK_OK(vdisk_job_free(j));
}

static void test_errors(void)
{
    vdisk *v = open_rw(make_full_image("a"));

    expect_error((struct work){.rc = -ENODATA}, "image: the fall: No data available", "");
    expect_error((struct work){.rc = -ENODATA, .text = "too high", .hint = "jump"}, "too high", "jump");
    expect_error((struct work){.rc = -ENODATA, .text = "too high", .v = v, .fails_later = true}, "too high", "");
    expect_error((struct work){.rc = -ENODATA, .v = v}, "the fall: No data available", "");
    expect_error((struct work){.rc = -EINVAL, .v = v, .fails_later = true}, "/a", NULL);
    CHECK_OK(vdisk_close(v));
}

/* What the work has said of an error that it got over does not count. */
static int recover(vdisk_job *job, void *arg)
{
    vdisk_job_fail(job, EIO, "it seemed so", NULL);
    return 0;
}

static void test_recovered(void)
{
    static const struct vdisk_job_kind kind = {.size = sizeof kind, .name = "recovery", .work = recover};
    vdisk_job *j;

    CHECK_OK(vdisk_job_make(&kind, "image", NULL, NULL, 0, &j));
    CHECK_OK(vdisk_job_run(j));
    CHECK(vdisk_job_get_error_text(j)[0] == '\0');
    CHECK(vdisk_error_text()[0] == '\0');
    CHECK_OK(vdisk_job_free(j));
}

/* ---- what is refused ---------------------------------------------------------------------------------- */

static void test_misuse(void)
{
    static const struct vdisk_job_kind other = {.size = sizeof other, .name = "other", .work = make_steps};
    static const struct vdisk_job_kind none = {.size = sizeof none, .name = "none"};
    static const struct vdisk_job_kind old = {.size = offsetof(struct vdisk_job_kind, release), .name = "old",
                                              .work = recover, .release = count_release};
    struct vdisk_create_opts opts = {.size = sizeof opts, .format = "raw", .virtual_size = 512};
    vdisk *no_volume = NULL;
    vdisk_job *j;
    void *arg;

    CHECK_INT(vdisk_job_make(NULL, "x", NULL, NULL, 0, &j), -EINVAL);
    CHECK_INT(vdisk_job_make(&none, "x", NULL, NULL, 0, &j), -EINVAL);
    CHECK_INT(vdisk_job_make(&other, NULL, NULL, NULL, 0, &j), -EINVAL);
    CHECK_INT(vdisk_job_make(&other, "", NULL, NULL, 0, &j), -ENOENT);
    CHECK_INT(vdisk_job_make(&other, "x", NULL, NULL, 0, NULL), -EINVAL);
    CHECK_INT(vdisk_job_make(&other, "x", NULL, NULL, 1, &j), -EINVAL);
    CHECK_INT(vdisk_job_make(&other, "x", NULL, &no_volume, 1, &j), -EINVAL);
    CHECK_INT(vdisk_job_step(NULL, 1, 2), -EINVAL);

    CHECK_OK(vdisk_job_make(&old, "x", &opts, NULL, 0, &j)); /* its release is past its size */
    CHECK_INT(vdisk_job_step(j, 1, 2), -EINVAL);
    CHECK_INT(vdisk_job_fail(j, EIO, "x", NULL), -EINVAL);
    CHECK_OK(vdisk_job_run(j));
    CHECK_INT(vdisk_job_step(j, 1, 2), -EINVAL);
    CHECK_INT(vdisk_job_get_arg(j, &other, &arg), -EINVAL);
    CHECK_INT(vdisk_job_get_arg(j, &old, NULL), -EINVAL);
    CHECK_OK(vdisk_job_get_arg(j, &old, &arg));
    CHECK(arg == &opts);
    CHECK_OK(vdisk_job_free(j));

    CHECK_OK(vdisk_job_create(test_path("new"), &opts, &j));
    CHECK_INT(vdisk_job_step(j, 1, 2), -EINVAL);
    CHECK_INT(vdisk_job_get_arg(j, &old, &arg), -EINVAL);
    CHECK_OK(vdisk_job_free(j));
}

int main(int argc, char **argv)
{
    static const struct test_case cases[] = {
        {.name = "here", .run = test_here},           {.name = "on-queue", .run = test_on_queue},
        {.name = "cancelled", .run = test_cancelled}, {.name = "errors", .run = test_errors},
        {.name = "recovered", .run = test_recovered}, {.name = "misuse", .run = test_misuse},
    };

    return test_main(argc, argv, cases, ARRAY_LEN(cases));
}
