/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Jobs in a queue: beside requests and each other, with every kind of queue and every way to wait; progress and
 * cancelling from other threads; what is refused while one is under way. What a job that stops leaves behind:
 * test_job_stops.c.
 */
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/jobs/jobs.h"

enum { SIZE = 8 << 20 };

static vdisk *v;
static vdisk_queue *q;

static void each_kind(void (*run)(void))
{
    for (unsigned i = 0; i < ARRAY_LEN(all_kinds); i++) {
        struct vdisk_queue_opts opts = {.size = sizeof opts, .kind = all_kinds[i]};

        test_note("kind %s", vdisk_queue_kind_name(all_kinds[i]));
        v = open_rw(make_full_image("image"));
        CHECK_OK(vdisk_queue_create(&opts, &q));
        run();
        CHECK_OK(vdisk_queue_destroy(q));
        CHECK_OK(vdisk_close(v));
    }
}

/* A raw file of zeros, which is written a piece at a time. */
static vdisk_job *make_create(const char *path, struct stepper *s)
{
    struct vdisk_create_opts opts = {.size = sizeof opts, .format = "raw", .virtual_size = SIZE,
                                     .preallocation = VDISK_PREALLOC_FULL};
    vdisk_job *j;

    if (s) {
        opts.progress = stepper_step;
        opts.progress_arg = s;
    }
    CHECK_OK(vdisk_job_create(path, &opts, &j));
    return j;
}

static bool is_there(const char *path)
{
    struct stat st;

    return stat(path, &st) == 0;
}

/* ---- beside others ------------------------------------------------------------------------------------ */

/* Two jobs stand still half-way; requests of the same queue end meanwhile; then both go on. */
static void two_and_requests(void)
{
    struct stepper s[2];
    vdisk_job *j[2];
    const char *paths[2] = {test_path("a"), test_path("b")};
    char *buf = vdisk_alloc_buffer(CLUSTER);
    int results[16];

    for (unsigned i = 0; i < 2; i++) {
        stepper_init(&s[i], true);
        j[i] = make_create(paths[i], &s[i]);
        CHECK_OK(vdisk_job_start(j[i], q, 8 + i));
    }
    CHECK_INT(vdisk_queue_inflight(q), 2);
    stepper_wait(&s[0]);
    stepper_wait(&s[1]);
    memset(results, 1, sizeof results);
    for (unsigned i = 0; i < 4; i++)
        vdisk_write(q, v, (i * 100) * CLUSTER, buf, CLUSTER, 0, i); /* two of them new clusters */
    vdisk_flush(q, v, 0, 4);
    reap_all(q, 5, results);
    for (unsigned i = 0; i < 5; i++)
        CHECK_INT(results[i], 0);
    CHECK_OK(vdisk_sync(v)); /* turns the queue of the jobs, too */
    CHECK_INT(vdisk_queue_inflight(q), 2);
    CHECK_INT(progress_of(j[0]).state, VDISK_JOB_RUNNING);
    stepper_release(&s[1]);
    stepper_release(&s[0]);
    reap_all(q, 2, results);
    for (unsigned i = 0; i < 2; i++) {
        struct vdisk_create_result r = {.size = sizeof r};
        struct vdisk_job_progress p = progress_of(j[i]);

        CHECK_INT(results[8 + i], 0);
        CHECK_INT(p.state, VDISK_JOB_ENDED);
        CHECK_INT(p.bytes_done, SIZE);
        CHECK_INT(p.bytes_total, SIZE);
        CHECK(p.bytes_per_second > 0 && p.seconds_left == 0);
        CHECK_OK(vdisk_job_get_create_result(j[i], &r));
        CHECK_INT(r.virtual_size, SIZE);
        CHECK_INT(r.file_size, SIZE);
        CHECK_OK(vdisk_job_free(j[i]));
    }
    free(buf);
}

static void test_beside(void)
{
    each_kind(two_and_requests);
}

/* A volume grows while it is written to, and another is made, all in one queue; till then it is not closed. */
static void grow_beside(void)
{
    uint64_t grown = (1u << 30) + SIZE;
    struct vdisk_resize_opts opts = {.size = sizeof opts, .preallocation = VDISK_PREALLOC_FULL,
                                     .progress = stepper_step};
    struct vdisk_resize_result r = {.size = sizeof r};
    char *buf = vdisk_alloc_buffer(8 * CLUSTER), *in = vdisk_alloc_buffer(CLUSTER);
    struct stepper s;
    vdisk_job *j[2];
    int results[3];

    stepper_init(&s, true);
    opts.progress_arg = &s;
    CHECK_OK(vdisk_job_resize(v, grown, &opts, &j[0]));
    j[1] = make_create(test_path("a"), NULL);
    CHECK_INT(vdisk_close(v), -EBUSY);
    CHECK_OK(vdisk_job_start(j[0], q, 0));
    CHECK_OK(vdisk_job_start(j[1], q, 1));
    stepper_wait(&s);
    CHECK_INT(vdisk_close(v), -EBUSY);
    CHECK_HAS(vdisk_error_text(), "1 job");
    for (unsigned i = 0; i < 8; i++) {
        memset(buf + i * CLUSTER, 7 + (int)i, CLUSTER);
        vdisk_write(q, v, (300 + i) * CLUSTER, buf + i * CLUSTER, CLUSTER, 0, 2);
        if (i == 0)
            stepper_release(&s);
        reap_all(q, 1, results); /* that, or another, or the end of a job */
        CHECK_OK(vdisk_pread(v, in, 1, 0));
    }
    reap_all(q, vdisk_queue_inflight(q), results);
    CHECK_INT(results[0], 0);
    CHECK_INT(results[1], 0);
    CHECK_INT(vdisk_size(v), grown);
    CHECK_OK(vdisk_job_get_resize_result(j[0], &r));
    CHECK_INT(r.old_size, 1u << 30);
    CHECK_INT(r.virtual_size, grown);
    CHECK_OK(vdisk_pread(v, in, CLUSTER, 305 * CLUSTER));
    CHECK_INT(in[CLUSTER - 1], 7 + 5);
    CHECK_OK(vdisk_job_free(j[0]));
    CHECK_OK(vdisk_job_free(j[1]));
    free(buf);
    free(in);
}

static void test_grow(void)
{
    each_kind(grow_beside);
}

/* The owner makes a synchronous call for which the job has to end first, while nobody reaps. */
static void synchronous_beside(void)
{
    struct vdisk_resize_opts opts = {.size = sizeof opts, .preallocation = VDISK_PREALLOC_METADATA};
    struct vdisk_job_progress p;
    vdisk_job *j;

    CHECK_OK(vdisk_job_resize(v, 64ull << 30, &opts, &j));
    CHECK_OK(vdisk_job_start(j, q, 0));
    caller_wait_begin("synchronous calls beside a job");
    CHECK_OK(vdisk_trim_space(v));
    CHECK_OK(vdisk_sync(v));
    caller_wait_end();
    reap_all(q, 1, NULL);
    p = progress_of(j);
    CHECK_INT(p.state, VDISK_JOB_ENDED);
    CHECK_OK(vdisk_job_free(j));
}

static void test_synchronous(void)
{
    each_kind(synchronous_beside);
}

/* A volume that becomes smaller has no other requests: some that are there forbid it, and those that come fail. */
static void shrink_alone(void)
{
    struct vdisk_resize_opts opts = {.size = sizeof opts, .shrink = true, .progress = stepper_step};
    char *buf = vdisk_alloc_buffer(CLUSTER);
    struct stepper s;
    vdisk_job *j;
    int results[2];

    vdisk_read(q, v, 0, buf, CLUSTER, 0, 0);
    opts.progress = NULL;
    CHECK_INT(vdisk_resize(v, 1u << 29, &opts), -EBUSY);
    CHECK_INT(vdisk_size(v), 1u << 30);
    reap_all(q, 1, NULL);

    stepper_init(&s, true);
    opts.progress = stepper_step;
    opts.progress_arg = &s;
    CHECK_OK(vdisk_job_resize(v, 1u << 29, &opts, &j));
    CHECK_OK(vdisk_job_start(j, q, 0));
    stepper_wait(&s);
    CHECK_INT(vdisk_pread(v, buf, 1, 0), -EBUSY);
    vdisk_write(q, v, 0, buf, CLUSTER, 0, 1);
    reap_all(q, 1, results);
    CHECK_INT(results[1], -EBUSY);
    stepper_release(&s);
    reap_all(q, 1, results);
    CHECK_INT(results[0], 0);
    CHECK_OK(vdisk_pread(v, buf, CLUSTER, 0));
    CHECK_INT(buf[0], 0x5a);
    CHECK_OK(vdisk_job_free(j));
    free(buf);
}

static void test_shrink(void)
{
    each_kind(shrink_alone);
}

/* Who sleeps on the descriptor, and takes without waiting, is woken by the end. */
static void by_descriptor(void)
{
    struct pollfd pfd = {.fd = vdisk_queue_fd(q), .events = POLLIN};
    struct vdisk_completion c;
    vdisk_job *j = make_create(test_path("x"), NULL);
    int n = 0;

    CHECK_OK(pfd.fd);
    CHECK_OK(vdisk_job_start(j, q, 5));
    CHECK_OK(vdisk_submit(q));
    while (n == 0) {
        CHECK_MSG(poll(&pfd, 1, CALLER_PATIENCE_S * 1000) == 1, "the descriptor is not readable");
        n = vdisk_reap(q, &c, 0, 1, NULL);
        CHECK_OK(n);
    }
    CHECK_INT(c.user_data, 5);
    CHECK_INT(c.result, 0);
    CHECK_OK(vdisk_job_free(j));
}

static void test_descriptor(void)
{
    each_kind(by_descriptor);
}

/* Many at once, in one wait for all of them. */
static void many_at_once(void)
{
    enum { MANY = 8 };
    struct vdisk_completion c[MANY];
    vdisk_job *j[MANY];
    int n = 0;

    for (unsigned i = 0; i < MANY; i++) {
        j[i] = make_create(test_path("m%u", i), NULL);
        CHECK_OK(vdisk_job_start(j[i], q, i));
    }
    caller_wait_begin("reap(8) of jobs");
    while (n < MANY) {
        int got = vdisk_reap(q, c, (unsigned)(MANY - n), MANY, NULL);
        CHECK_OK(got);
        for (int i = 0; i < got; i++)
            CHECK_INT(c[i].result, 0);
        n += got;
    }
    caller_wait_end();
    for (unsigned i = 0; i < MANY; i++)
        CHECK_OK(vdisk_job_free(j[i]));
}

static void test_many(void)
{
    each_kind(many_at_once);
}

/* ---- cancelling --------------------------------------------------------------------------------------- */

static void *cancel_it(void *arg)
{
    vdisk_job *j = arg;

    CHECK_INT(progress_of(j).state, VDISK_JOB_RUNNING);
    vdisk_job_cancel(j);
    return NULL;
}

static void cancel_from_outside(void)
{
    const char *path = test_path("cancelled");
    struct stepper s;
    vdisk_job *j;
    pthread_t thread;
    int result[1];

    stepper_init(&s, true);
    j = make_create(path, &s);
    CHECK_OK(vdisk_job_start(j, q, 0));
    stepper_wait(&s);
    CHECK(pthread_create(&thread, NULL, cancel_it, j) == 0);
    pthread_join(thread, NULL);
    stepper_release(&s);
    reap_all(q, 1, result);
    CHECK_INT(result[0], -ECANCELED);
    CHECK_INT(progress_of(j).result, -ECANCELED);
    CHECK_HAS(vdisk_job_get_error_text(j), "cancelled");
    CHECK_HAS(vdisk_job_get_error_text(j), path);
    CHECK(!is_there(path));
    CHECK_OK(vdisk_job_free(j));
}

static void test_cancel(void)
{
    each_kind(cancel_from_outside);
}

/* What has not begun does not; what has ended stays as it is. */
static void test_cancel_early_or_late(void)
{
    struct vdisk_create_result r = {.size = sizeof r};
    const char *path = test_path("x");
    vdisk_job *j = make_create(path, NULL);

    vdisk_job_cancel(NULL);
    vdisk_job_cancel(j);
    CHECK_INT(progress_of(j).state, VDISK_JOB_NEW);
    CHECK_INT(vdisk_job_run(j), -ECANCELED);
    CHECK_HAS(vdisk_error_text(), "cancelled");
    CHECK_INT(vdisk_job_get_create_result(j, &r), -ECANCELED);
    CHECK(!is_there(path));
    CHECK_OK(vdisk_job_free(j));

    j = make_create(path, NULL);
    CHECK_OK(vdisk_job_run(j));
    vdisk_job_cancel(j);
    CHECK_INT(progress_of(j).result, 0);
    CHECK(vdisk_job_get_error_text(j)[0] == '\0');
    CHECK_OK(vdisk_job_get_create_result(j, &r));
    CHECK_OK(vdisk_job_free(j));
}

/* ---- what is refused ---------------------------------------------------------------------------------- */

static void while_it_runs(void)
{
    struct vdisk_create_result r = {.size = sizeof r};
    struct stepper s;
    vdisk_job *j;

    stepper_init(&s, true);
    j = make_create(test_path("x"), &s);
    CHECK_INT(vdisk_job_get_create_result(j, &r), -EBUSY);
    CHECK_OK(vdisk_job_start(j, q, 0));
    stepper_wait(&s);
    CHECK_INT(vdisk_queue_destroy(q), -EBUSY);
    CHECK_INT(vdisk_job_free(j), -EBUSY);
    CHECK_HAS(vdisk_error_text(), "under way");
    CHECK_INT(vdisk_job_start(j, q, 0), -EBUSY);
    CHECK_INT(vdisk_job_run(j), -EBUSY);
    CHECK_INT(vdisk_job_get_create_result(j, &r), -EBUSY);
    CHECK_INT(vdisk_queue_inflight(q), 1);
    stepper_release(&s);
    reap_all(q, 1, NULL);
    CHECK_INT(vdisk_job_run(j), -EBUSY);
    CHECK_HAS(vdisk_error_text(), "run already");
    CHECK_OK(vdisk_job_free(j));
}

static void test_refused(void)
{
    each_kind(while_it_runs);
}

static void test_nothing(void)
{
    struct vdisk_create_opts opts = {.size = sizeof opts, .virtual_size = SIZE};
    struct vdisk_job_progress p = {.size = 1};
    struct vdisk_create_result r = {.size = 0};
    vdisk_job *j;

    CHECK_INT(vdisk_job_create(NULL, &opts, &j), -EINVAL);
    CHECK_INT(vdisk_job_create("", &opts, &j), -ENOENT);
    CHECK_INT(vdisk_job_create("x", NULL, &j), -EINVAL);
    CHECK_INT(vdisk_job_create("x", &opts, NULL), -EINVAL);
    CHECK_INT(vdisk_job_run(NULL), -EINVAL);
    CHECK_INT(vdisk_job_start(NULL, NULL, 0), -EINVAL);
    CHECK_INT(vdisk_job_get_progress(NULL, &p), -EINVAL);
    CHECK_OK(vdisk_job_free(NULL));
    CHECK(vdisk_job_get_error_text(NULL)[0] == '\0');
    CHECK_OK(vdisk_job_create("memory:1M", &opts, &j));
    CHECK_INT(vdisk_job_get_progress(j, &p), -EINVAL);
    CHECK_INT(vdisk_job_get_progress(j, NULL), -EINVAL);
    CHECK_INT(vdisk_job_start(j, NULL, 0), -EINVAL);
    CHECK_OK(vdisk_job_run(j));
    CHECK_INT(vdisk_job_get_create_result(j, &r), -EINVAL);
    CHECK_OK(vdisk_job_free(j));
}

/* An error's text is the job's, not that of the thread that reaps. */
static void errors_of_its_own(void)
{
    struct vdisk_create_opts opts = {.size = sizeof opts, .format = "qcow2", .virtual_size = SIZE,
                                     .cluster_size = 12345};
    vdisk_job *j;
    int result[1];

    CHECK_OK(vdisk_job_create(test_path("x"), &opts, &j));
    CHECK_OK(vdisk_job_start(j, q, 0));
    reap_all(q, 1, result);
    CHECK_INT(result[0], -EINVAL);
    CHECK_HAS(vdisk_job_get_error_text(j), "cluster size");
    CHECK(vdisk_error_text()[0] == '\0');
    CHECK_OK(vdisk_job_free(j));
}

static void test_errors(void)
{
    each_kind(errors_of_its_own);
}

/* Options and their strings may go before the job begins. */
static void test_copies(void)
{
    struct vdisk_create_opts *opts = test_alloc(sizeof *opts);
    char *name = strdup(test_path("x")), *format = strdup("qcow2"), *type = strdup("zstd");
    const char *path = test_path("x");
    struct vdisk_info info = {.size = sizeof info};
    vdisk_job *j;

    *opts = (struct vdisk_create_opts){.size = sizeof *opts, .format = format, .virtual_size = SIZE,
                                       .compression_type = type};
    CHECK_OK(vdisk_job_create(name, opts, &j));
    memset(name, 'y', strlen(name));
    memset(format, 'y', strlen(format));
    memset(type, 'y', strlen(type));
    memset(opts, 'y', sizeof *opts);
    free(name);
    free(format);
    free(type);
    free(opts);
    CHECK_OK(vdisk_job_run(j));
    CHECK_OK(vdisk_job_free(j));
    v = open_rw(path);
    CHECK_OK(vdisk_get_info(v, &info));
    CHECK_INT(info.virtual_size, SIZE);
    CHECK_OK(vdisk_close(v));
}

/* ---- a forked child ----------------------------------------------------------------------------------- */

static void with_a_child(void)
{
    struct vdisk_job_progress p = {.size = sizeof p};
    struct stepper s;
    vdisk_job *j;
    int status;
    pid_t pid;

    stepper_init(&s, true);
    j = make_create(test_path("x"), &s);
    CHECK_OK(vdisk_job_start(j, q, 0));
    stepper_wait(&s);
    fflush(stdout);
    pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        alarm(CALLER_PATIENCE_S);
        CHECK_INT(vdisk_job_free(j), -ECHILD);
        CHECK_INT(vdisk_job_run(j), -ECHILD);
        CHECK_INT(vdisk_job_start(j, q, 0), -ECHILD);
        CHECK_INT(vdisk_job_get_progress(j, &p), -ECHILD);
        fflush(stdout);
        _exit(0); /* not exit(): what the job's thread holds would be leaks, as there is no such thread here */
    }
    CHECK(waitpid(pid, &status, 0) == pid);
    CHECK_MSG(status == 0, "the child: status 0x%x", (unsigned)status);
    stepper_release(&s);
    reap_all(q, 1, NULL);
    CHECK_OK(vdisk_job_free(j));
}

static void test_child(void)
{
    each_kind(with_a_child);
}

int main(int argc, char **argv)
{
    static const struct test_case cases[] = {
        {.name = "beside", .run = test_beside},
        {.name = "grow", .run = test_grow},
        {.name = "synchronous", .run = test_synchronous},
        {.name = "shrink", .run = test_shrink},
        {.name = "descriptor", .run = test_descriptor},
        {.name = "many", .run = test_many},
        {.name = "cancel", .run = test_cancel},
        {.name = "cancel-early-or-late", .run = test_cancel_early_or_late},
        {.name = "refused", .run = test_refused},
        {.name = "nothing", .run = test_nothing},
        {.name = "errors", .run = test_errors},
        {.name = "copies", .run = test_copies},
        {.name = "child", .run = test_child},
    };

    return test_main(argc, argv, cases, ARRAY_LEN(cases));
}
