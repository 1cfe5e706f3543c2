/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Volumes opened and closed by jobs: beside requests, with every kind of queue; refused, cancelled at each step,
 * with too few descriptors, forgotten, forked; and that nothing is left of what did not succeed.
 */
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/jobs/jobs.h"

enum { LAYERS = 6, LAYER_SIZE = 64 << 20 };

static vdisk_queue *q;

static void each_kind(void (*run)(void))
{
    for (unsigned i = 0; i < ARRAY_LEN(all_kinds); i++) {
        struct vdisk_queue_opts opts = {.size = sizeof opts, .kind = all_kinds[i]};

        test_note("kind %s", vdisk_queue_kind_name(all_kinds[i]));
        CHECK_OK(vdisk_queue_create(&opts, &q));
        run();
        CHECK_OK(vdisk_queue_destroy(q));
    }
}

/* A thread that the kernel lends to a ring, which comes and goes as it likes. */
static bool is_kernels(const char *dir, const char *name)
{
    char path[300], comm[32] = "";
    FILE *f;

    snprintf(path, sizeof path, "%s/%s/comm", dir, name);
    f = fopen(path, "r");
    if (f && !fgets(comm, sizeof comm, f))
        comm[0] = '\0';
    if (f)
        fclose(f);
    return strncmp(comm, "iou-", 4) == 0;
}

static unsigned count_in(const char *dir)
{
    DIR *d = opendir(dir);
    struct dirent *entry;
    unsigned n = 0;

    CHECK(d != NULL);
    while ((entry = readdir(d)))
        n += !is_kernels(dir, entry->d_name);
    closedir(d);
    return n;
}

/* What a process has, so that what is left over shows. */
static unsigned descriptors(void)
{
    return count_in("/proc/self/fd");
}

static unsigned threads(void)
{
    return count_in("/proc/self/task");
}

static vdisk_job *make_open(const char *path, struct stepper *s)
{
    struct vdisk_open_opts opts = {.size = sizeof opts, .flags = VDISK_OPEN_RDWR, .format = "qcow2",
                                   .progress = s ? stepper_step : NULL, .progress_arg = s};
    vdisk_job *j;

    CHECK_OK(vdisk_job_open(path, &opts, &j));
    return j;
}

static int run_on_queue(vdisk_job *j)
{
    int result[1];

    CHECK_OK(vdisk_job_start(j, q, 0));
    reap_all(q, 1, result);
    return result[0];
}

static vdisk *open_by_job(const char *path)
{
    vdisk_job *j = make_open(path, NULL);
    vdisk *v;

    CHECK_INT(run_on_queue(j), 0);
    CHECK_OK(vdisk_job_take_volume(j, &v));
    CHECK_OK(vdisk_job_free(j));
    return v;
}

static int close_by_job(vdisk *v)
{
    vdisk_job *j;
    int rc;

    CHECK_OK(vdisk_job_close(v, &j));
    rc = run_on_queue(j);
    if (rc < 0)
        CHECK_HAS(vdisk_job_get_error_text(j), "image");
    CHECK_OK(vdisk_job_free(j));
    return rc;
}

/* A chain whose layers were not closed: opening it for writing repairs the first, and goes down. */
static const char *make_chain(void)
{
    struct vdisk_create_opts opts = {.size = sizeof opts, .format = "qcow2", .virtual_size = LAYER_SIZE,
                                     .lazy_refcounts = true};
    const char *path = NULL;

    for (unsigned i = 0; i < LAYERS; i++) {
        opts.backing_file = i ? path : NULL;
        opts.backing_fmt = i ? "qcow2" : NULL;
        path = test_path("layer%u", i);
        CHECK_OK(vdisk_create(path, &opts));
    }
    return path;
}

static void set_dirty(const char *path, bool dirty)
{
    uint8_t byte = dirty; /* of the incompatible features: the last of eight bytes */
    int fd = open(path, O_WRONLY | O_CLOEXEC);

    CHECK(fd >= 0 && pwrite(fd, &byte, 1, 79) == 1);
    close(fd);
}

/* ---- beside others ------------------------------------------------------------------------------------ */

/* One is opened while requests of another end in the same queue; then it is used, and closed while they do. */
static void beside(void)
{
    vdisk *other = open_by_job(make_full_image("other")), *v;
    char *buf = vdisk_alloc_buffer(2 * CLUSTER);
    struct stepper s;
    vdisk_job *j;
    int results[4];

    stepper_init(&s, true);
    j = make_open(make_full_image("image"), &s);
    CHECK_INT(vdisk_job_take_volume(j, &v), -EBUSY);
    CHECK_OK(vdisk_job_start(j, q, 3));
    stepper_wait(&s);
    CHECK_INT(vdisk_job_take_volume(j, &v), -EBUSY);
    CHECK_INT(vdisk_queue_destroy(q), -EBUSY);
    vdisk_read(q, other, 0, buf, CLUSTER, 0, 0);
    vdisk_write(q, other, 99 * CLUSTER, buf + CLUSTER, CLUSTER, 0, 1);
    reap_all(q, 2, results);
    CHECK_INT(results[0] | results[1], 0);
    stepper_release(&s);
    reap_all(q, 1, results);
    CHECK_INT(results[3], 0);
    CHECK_OK(vdisk_job_take_volume(j, &v));
    CHECK_INT(vdisk_job_take_volume(j, &v), -EALREADY);
    CHECK_OK(vdisk_job_free(j));

    vdisk_write(q, v, 200 * CLUSTER, buf, CLUSTER, 0, 0);
    reap_all(q, 1, NULL);
    CHECK_OK(vdisk_job_close(v, &j));
    CHECK_OK(vdisk_job_start(j, q, 3));
    vdisk_read(q, other, 0, buf, CLUSTER, 0, 0);
    reap_all(q, 2, results);
    CHECK_INT(results[0] | results[3], 0);
    CHECK_OK(vdisk_job_free(j));
    CHECK_OK(vdisk_close(other));

    v = open_by_job(test_path("image"));
    memset(buf, 0, CLUSTER);
    CHECK_OK(vdisk_pread(v, buf, CLUSTER, 200 * CLUSTER));
    CHECK_INT(buf[CLUSTER - 1], 0x5a);
    CHECK_INT(close_by_job(v), 0);
    free(buf);
}

static void test_beside(void)
{
    each_kind(beside);
}

/* ---- closing ------------------------------------------------------------------------------------------ */

/* With something under way it stays as it was. */
static void close_busy(void)
{
    struct vdisk_trim_opts opts = {.size = sizeof opts};
    vdisk *v = open_by_job(make_full_image("image"));
    char *buf = vdisk_alloc_buffer(CLUSTER);
    vdisk_job *j[2];
    int results[2];

    vdisk_read(q, v, 0, buf, CLUSTER, 0, 1);
    CHECK_OK(vdisk_job_close(v, &j[0]));
    CHECK_INT(vdisk_close(v), -EBUSY); /* there is that job */
    CHECK_INT(vdisk_job_run(j[0]), -EBUSY);
    CHECK_HAS(vdisk_error_text(), "1 request");
    CHECK_OK(vdisk_job_free(j[0]));
    reap_all(q, 1, results);
    CHECK_INT(buf[0], 0x5a);

    CHECK_OK(vdisk_job_trim(v, &opts, &j[1]));
    CHECK_INT(close_by_job(v), -EBUSY);
    CHECK_OK(vdisk_job_free(j[1]));
    CHECK_OK(vdisk_job_close(v, &j[0]));
    vdisk_job_cancel(j[0]);
    CHECK_INT(run_on_queue(j[0]), -ECANCELED);
    CHECK_OK(vdisk_job_free(j[0]));
    CHECK_OK(vdisk_job_close(v, &j[0]));
    CHECK_OK(vdisk_job_free(j[0])); /* it was never run */

    CHECK_OK(vdisk_pwrite(v, buf, CLUSTER, 70 * CLUSTER, 0));
    CHECK_INT(close_by_job(v), 0);
    free(buf);
}

static void test_close_busy(void)
{
    each_kind(close_busy);
}

/* ---- what does not succeed leaves nothing --------------------------------------------------------------- */

/* The image can be had by another, and there is no more than before. */
static void check_nothing_left(const char *path, unsigned fds, unsigned tasks)
{
    vdisk *v;

    CHECK_INT(descriptors(), fds);
    CHECK_INT(threads(), tasks);
    CHECK_OK(vdisk_open(path, &(struct vdisk_open_opts){.size = sizeof(struct vdisk_open_opts),
                                                        .flags = VDISK_OPEN_RDWR}, &v));
    CHECK_OK(vdisk_close(v));
}

/* False: it had come to its end before step `n`. *cancelled: one more if that was heeded. */
static bool cancel_at(const char *path, unsigned n, unsigned *cancelled)
{
    unsigned fds, tasks;
    struct stepper s;
    vdisk_job *j;
    vdisk *v;
    int rc;

    test_note("%s queue, stopped at step %u", vdisk_queue_kind_name(vdisk_queue_get_kind(q)), n);
    set_dirty(path, true);
    fds = descriptors();
    tasks = threads();
    stepper_init(&s, false);
    s.cancel_at = n;
    j = make_open(path, &s);
    rc = run_on_queue(j);
    if (s.steps < n || rc == 0) { /* the last step of a repair comes too late */
        CHECK_INT(rc, 0);
        CHECK_OK(vdisk_job_free(j));
        return s.steps >= n;
    }
    ++*cancelled;
    CHECK_INT(rc, -ECANCELED);
    CHECK_HAS(vdisk_job_get_error_text(j), "layer");
    CHECK_INT(vdisk_job_take_volume(j, &v), -ECANCELED);
    CHECK_OK(vdisk_job_free(j));
    check_nothing_left(path, fds, tasks);
    return true;
}

static void cancel_at_each_step(void)
{
    const char *path = make_chain();
    unsigned n = 1, cancelled = 0;

    CHECK_INT(close_by_job(open_by_job(path)), 0); /* threads and queues that stay are there now */
    CHECK_OK(vdisk_close(open_rw(path)));
    while (cancel_at(path, n, &cancelled))
        n++;
    CHECK_MSG(cancelled > LAYERS, "only %u steps", cancelled); /* one for each layer, and those of the repair */
}

static void test_cancel(void)
{
    each_kind(cancel_at_each_step);
}

/* Too few descriptors, at each number of them; and what cannot be opened at all. */
static void open_in_vain(void)
{
    const char *path = make_chain(), *nobodys = test_path("nobodys");
    struct rlimit old, few;
    unsigned failures = 0;
    int rc;

    CHECK_INT(close_by_job(open_by_job(path)), 0);
    CHECK(getrlimit(RLIMIT_NOFILE, &old) == 0);
    for (unsigned left = 0; left < 2 * LAYERS + 8; left++) {
        unsigned fds = descriptors(), tasks = threads();
        vdisk_job *j = make_open(path, NULL);

        test_note("%s queue, %u descriptors", vdisk_queue_kind_name(vdisk_queue_get_kind(q)), left);
        few = old;
        few.rlim_cur = fds - 3 + left; /* "." and "..", and what looks */
        CHECK(setrlimit(RLIMIT_NOFILE, &few) == 0);
        rc = run_on_queue(j);
        CHECK(setrlimit(RLIMIT_NOFILE, &old) == 0);
        CHECK_MSG(rc == 0 || rc == -EMFILE, "%s", strerror(-rc));
        failures += rc < 0;
        if (rc < 0)
            CHECK(vdisk_job_get_error_text(j)[0] != '\0');
        CHECK_OK(vdisk_job_free(j));
        check_nothing_left(path, fds, tasks);
    }
    CHECK(failures > LAYERS);

    vdisk_job *j = make_open(nobodys, NULL);
    CHECK_INT(run_on_queue(j), -ENOENT);
    CHECK_HAS(vdisk_job_get_error_text(j), nobodys);
    CHECK(vdisk_error_text()[0] == '\0');
    CHECK_OK(vdisk_job_free(j));
}

static void test_failing(void)
{
    each_kind(open_in_vain);
}

/* Nobody takes the volume: it goes with the job, locks and all. One that was never run holds nothing either. */
static void forget(void)
{
    const char *path = make_full_image("image");
    unsigned fds, tasks;
    vdisk_job *j;

    CHECK_INT(close_by_job(open_by_job(path)), 0);
    CHECK_OK(vdisk_close(open_rw(path))); /* this thread has its queue now */
    fds = descriptors();
    tasks = threads();
    j = make_open(path, NULL);
    CHECK_OK(vdisk_job_free(j));
    check_nothing_left(path, fds, tasks);
    j = make_open(path, NULL);
    CHECK_INT(run_on_queue(j), 0);
    CHECK_OK(vdisk_job_free(j));
    check_nothing_left(path, fds, tasks);
}

static void test_forget(void)
{
    each_kind(forget);
}

/* ---- what is given -------------------------------------------------------------------------------------- */

/* Options, strings and descriptors may go before the job begins. */
static void test_copies(void)
{
    const char *path = make_full_image("image");
    char *name = strdup(path), *format = strdup("qcow2"), *of = strdup(path);
    struct vdisk_fd fds[1] = {{.name = of, .fd = open(path, O_RDWR | O_CLOEXEC)}};
    struct vdisk_open_opts opts = {.size = sizeof opts, .flags = VDISK_OPEN_RDWR, .format = format, .fds = fds,
                                   .fds_count = 1};
    unsigned before = descriptors();
    struct vdisk_info info = {.size = sizeof info};
    vdisk_job *j;
    vdisk *v;

    CHECK_OK(vdisk_job_open(name, &opts, &j));
    close(fds[0].fd);
    memset(name, 'y', strlen(name));
    memset(format, 'y', strlen(format));
    memset(of, 'y', strlen(of));
    memset(&opts, 'y', sizeof opts);
    memset(fds, 'y', sizeof fds);
    free(name);
    free(format);
    free(of);
    CHECK(rename(path, test_path("elsewhere")) == 0); /* it is opened by the descriptor */
    CHECK_OK(vdisk_job_run(j));
    CHECK_OK(vdisk_job_take_volume(j, &v));
    CHECK_OK(vdisk_get_info(v, &info));
    CHECK_INT(info.virtual_size, 1u << 30);
    CHECK(!info.read_only);
    CHECK_OK(vdisk_close(v)); /* with it go descriptors and locks, though the job is there */
    CHECK_INT(descriptors(), before - 1);
    CHECK_OK(vdisk_close(open_rw(test_path("elsewhere"))));
    CHECK_OK(vdisk_job_free(j));
}

static void test_nothing(void)
{
    struct vdisk_fd fd = {.fd = -1};
    struct vdisk_open_opts opts = {.size = sizeof opts, .fds_count = 1}, small = {.size = 1};
    unsigned before = descriptors();
    vdisk_job *j;
    vdisk *v;

    CHECK_INT(vdisk_job_open(NULL, NULL, &j), -EINVAL);
    CHECK_INT(vdisk_job_open("", NULL, &j), -ENOENT);
    CHECK_INT(vdisk_job_open("null:1M", NULL, NULL), -EINVAL);
    CHECK_INT(vdisk_job_open("null:1M", &small, &j), -EINVAL);
    CHECK_INT(vdisk_job_open("null:1M", &opts, &j), -EINVAL);
    opts.fds = &fd;
    CHECK_INT(vdisk_job_open("null:1M", &opts, &j), -EINVAL);
    fd.fd = 12345;
    CHECK_INT(vdisk_job_open("null:1M", &opts, &j), -EBADF);
    CHECK_INT(vdisk_job_close(NULL, &j), -EINVAL);
    CHECK_INT(descriptors(), before);

    CHECK_INT(vdisk_job_take_volume(NULL, &v), -EINVAL);
    CHECK_OK(vdisk_job_open("null:1M", NULL, &j));
    CHECK_OK(vdisk_job_run(j));
    CHECK_INT(vdisk_job_take_volume(j, NULL), -EINVAL);
    CHECK_OK(vdisk_job_take_volume(j, &v));
    CHECK_OK(vdisk_job_free(j));
    CHECK_INT(vdisk_job_close(v, NULL), -EINVAL);
    CHECK_OK(vdisk_job_close(v, &j));
    CHECK_INT(vdisk_job_take_volume(j, &v), -EINVAL);
    CHECK_OK(vdisk_job_run(j));
    CHECK_OK(vdisk_job_free(j));
}

/* An ordinary call can be stopped just so. */
static void test_synchronous(void)
{
    const char *path = make_chain();
    struct stepper s;
    struct vdisk_open_opts opts = {.size = sizeof opts, .progress = stepper_step, .progress_arg = &s};
    vdisk *v = NULL;

    stepper_init(&s, false);
    s.cancel_at = 3;
    CHECK_INT(vdisk_open(path, &opts, &v), -ECANCELED);
    CHECK_HAS(vdisk_error_text(), "layer3");
    CHECK(!v);
}

/* ---- a forked child ------------------------------------------------------------------------------------- */

static void with_a_child(void)
{
    struct stepper s;
    vdisk_job *j;
    int status;
    vdisk *v;
    pid_t pid;

    stepper_init(&s, true);
    j = make_open(make_full_image("image"), &s);
    CHECK_OK(vdisk_job_start(j, q, 0));
    stepper_wait(&s);
    fflush(stdout);
    pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        alarm(CALLER_PATIENCE_S);
        CHECK_INT(vdisk_job_take_volume(j, &v), -ECHILD);
        CHECK_INT(vdisk_job_free(j), -ECHILD);
        fflush(stdout);
        _exit(0);
    }
    CHECK(waitpid(pid, &status, 0) == pid);
    CHECK_MSG(status == 0, "the child: status 0x%x", (unsigned)status);
    stepper_release(&s);
    reap_all(q, 1, NULL);
    CHECK_OK(vdisk_job_take_volume(j, &v));
    CHECK_OK(vdisk_job_free(j));
    CHECK_INT(close_by_job(v), 0);
}

static void test_child(void)
{
    each_kind(with_a_child);
}

int main(int argc, char **argv)
{
    static const struct test_case cases[] = {
        {.name = "beside", .run = test_beside},
        {.name = "close-busy", .run = test_close_busy},
        {.name = "cancel", .run = test_cancel},
        {.name = "fail", .run = test_failing},
        {.name = "forget", .run = test_forget},
        {.name = "copies", .run = test_copies},
        {.name = "nothing", .run = test_nothing},
        {.name = "synchronous", .run = test_synchronous},
        {.name = "child", .run = test_child},
    };

    return test_main(argc, argv, cases, ARRAY_LEN(cases));
}
