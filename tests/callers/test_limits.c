/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Out of descriptors: what cannot be had is -EMFILE, and nothing existing is touched. Little memory may be locked:
 * queues get a smaller ring, or say why they have none.
 */
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/callers/callers.h"

enum { NOBODY = 65534, VOLUMES = 1000, QUEUES = 64 };

/* `n` more descriptors can be had. */
static void leave_descriptors(unsigned n)
{
    struct rlimit limit;
    int next = open("/dev/null", O_RDONLY | O_CLOEXEC);

    CHECK(next >= 0);
    close(next);
    CHECK(getrlimit(RLIMIT_NOFILE, &limit) == 0);
    limit.rlim_cur = (rlim_t)next + n;
    CHECK(setrlimit(RLIMIT_NOFILE, &limit) == 0);
}

static void leave_all(void)
{
    struct rlimit limit;

    CHECK(getrlimit(RLIMIT_NOFILE, &limit) == 0);
    limit.rlim_cur = limit.rlim_max;
    CHECK(setrlimit(RLIMIT_NOFILE, &limit) == 0);
}

static bool judge(int rc, const char *what)
{
    CHECK_MSG(rc >= 0 || rc == -EMFILE, "%s: %s (%s)", what, strerror(-rc), vdisk_error_text());
    return rc >= 0;
}

static void try_open(unsigned left)
{
    const char *path = make_full_image("opened");
    struct vdisk_open_opts opts = {.size = sizeof opts, .flags = VDISK_OPEN_RDWR};
    char byte;
    vdisk *v = NULL;
    int rc;

    leave_descriptors(left);
    rc = vdisk_open(path, &opts, &v);
    if (judge(rc, "open")) {
        judge(vdisk_pread(v, &byte, 1, 77), "read");
        CHECK_OK(vdisk_close(v));
    } else {
        CHECK(v == NULL);
    }
}

static void try_create(unsigned left)
{
    struct vdisk_create_opts opts = {.size = sizeof opts, .format = "qcow2", .virtual_size = 1 << 20};
    struct stat before, after;
    char content[2][4096] = {{0}};
    const char *path = make_full_image("created");
    int fd = open(path, O_RDONLY | O_CLOEXEC), rc;

    CHECK(fd >= 0 && pread(fd, content[0], sizeof content[0], 0) > 0 && fstat(fd, &before) == 0);
    close(fd);
    leave_descriptors(left);
    rc = vdisk_create(path, &opts);
    leave_all();
    fd = open(path, O_RDONLY | O_CLOEXEC);
    CHECK(fd >= 0 && pread(fd, content[1], sizeof content[1], 0) > 0 && fstat(fd, &after) == 0);
    close(fd);
    CHECK_INT(after.st_ino, before.st_ino);
    if (judge(rc, "create"))
        return;
    CHECK_MSG(after.st_size == before.st_size && memcmp(content[0], content[1], sizeof content[0]) == 0,
              "create failed for want of descriptors, and had changed the file that was there");
    leave_descriptors(left);
    rc = vdisk_create(test_path("new"), &opts);
    leave_all();
    CHECK_MSG(judge(rc, "create") || access(test_path("new"), F_OK) != 0, "a failed create left a file");
}

static void try_queue(unsigned left)
{
    for (unsigned i = 0; i < ARRAY_LEN(all_kinds); i++) {
        struct vdisk_queue_opts opts = {.size = sizeof opts, .kind = all_kinds[i]};
        vdisk_queue *q;
        leave_descriptors(left);
        if (judge(vdisk_queue_create(&opts, &q), "queue")) {
            CHECK_MSG(all_kinds[i] == VDISK_QUEUE_THREADS || vdisk_queue_get_kind(q) != VDISK_QUEUE_THREADS,
                      "no ring: %s", vdisk_queue_get_reason(q));
            judge(vdisk_queue_fd(q), "its descriptor");
            CHECK_OK(vdisk_queue_destroy(q));
        }
        leave_all();
    }
}

/* The first change takes queues of the library's own, where they can be had. */
static void try_write(unsigned left)
{
    const char *path = make_full_image("written");
    int results[3];
    char *buf = vdisk_alloc_buffer(BLOCK);

    for (unsigned i = 0; i < ARRAY_LEN(all_kinds); i++) {
        struct vdisk_queue_opts opts = {.size = sizeof opts, .kind = all_kinds[i]};
        vdisk *v = open_rw(path);
        vdisk_queue *q;
        CHECK_OK(vdisk_queue_create(&opts, &q));
        leave_descriptors(left);
        memset(buf, (int)i + 1, BLOCK);
        vdisk_write(q, v, (100 + i) * CLUSTER, buf, BLOCK, 0, 0);
        reap_all(q, 1, results);
        vdisk_flush(q, v, 0, 1);
        reap_all(q, 1, results);
        vdisk_read(q, v, (100 + i) * CLUSTER, buf, BLOCK, 0, 2);
        reap_all(q, 1, results);
        for (unsigned k = 0; k < 3; k++)
            judge(results[k], "request");
        if (results[0] == 0 && results[2] == 0)
            CHECK_INT(buf[17], i + 1);
        judge(vdisk_queue_fd(q), "descriptor");
        leave_all();
        CHECK_OK(vdisk_queue_destroy(q));
        CHECK_OK(vdisk_close(v));
    }
}

static void *call(void *arg)
{
    char byte;
    int rc = vdisk_pread(arg, &byte, 1, 5 * CLUSTER);

    if (judge(rc, "read of another thread"))
        CHECK_INT(byte, 0x5a);
    judge(vdisk_sync(arg), "sync of another thread");
    return NULL;
}

static void try_thread(unsigned left)
{
    vdisk *v = open_rw(make_full_image("called"));
    pthread_t thread;

    leave_descriptors(left);
    for (unsigned i = 0; i < 2; i++) {
        caller_wait_begin("synchronous calls");
        CHECK(pthread_create(&thread, NULL, call, v) == 0);
        pthread_join(thread, NULL);
        caller_wait_end();
    }
    leave_all();
    CHECK_OK(vdisk_close(v));
}

static void test_descriptors(void)
{
    static void (*const tries[])(unsigned left) = {try_open, try_create, try_queue, try_write, try_thread};
    unsigned left = test_repetition() / ARRAY_LEN(tries);

    test_note("%u descriptors left, try %u", left, test_repetition() % (unsigned)ARRAY_LEN(tries));
    tries[test_repetition() % ARRAY_LEN(tries)](left);
}

/* ---- memory that may be locked ------------------------------------------------------------------------ */

/* In a child: an ordinary user who may lock `bytes`. */
static void as_nobody(rlim_t bytes, void (*run)(rlim_t bytes))
{
    struct rlimit limit = {.rlim_cur = bytes, .rlim_max = bytes};
    int status;
    pid_t pid;

    if (geteuid() != 0)
        test_skip("takes root, to become another user");
    pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        CHECK(setrlimit(RLIMIT_MEMLOCK, &limit) == 0);
        CHECK(setgid(NOBODY) == 0 && setuid(NOBODY) == 0);
        run(bytes);
        fflush(stdout);
        _exit(0);
    }
    CHECK(waitpid(pid, &status, 0) == pid);
    CHECK_MSG(status == 0, "as an ordinary user: status 0x%x", (unsigned)status);
}

static void use(vdisk_queue *q, vdisk *v)
{
    static char buf[BLOCK];
    int results[1];

    vdisk_write(q, v, 0, buf, BLOCK, 0, 0);
    reap_all(q, 1, results);
    CHECK_INT(results[0], 0);
}

/* Some have a ring until nothing is left; each works, and who has none says why. */
static void little_memory(rlim_t bytes)
{
    unsigned rings = 0;
    vdisk_queue *q[12];
    vdisk *v;
    struct vdisk_open_opts opts = {.size = sizeof opts, .flags = VDISK_OPEN_RDWR, .format = "raw"};

    CHECK_OK(vdisk_open("null:1M", &opts, &v));
    for (unsigned i = 0; i < ARRAY_LEN(q); i++) {
        struct vdisk_queue_opts queue_opts = {.size = sizeof queue_opts, .depth = 1024};
        CHECK_OK(vdisk_queue_create(&queue_opts, &q[i]));
        rings += vdisk_queue_get_kind(q[i]) != VDISK_QUEUE_THREADS;
        if (vdisk_queue_get_kind(q[i]) == VDISK_QUEUE_THREADS) {
            CHECK_HAS(vdisk_queue_get_reason(q[i]), "Cannot allocate memory");
            CHECK_HAS(vdisk_queue_get_reason(q[i]), "ulimit -l)");
        }
        use(q[i], v);
    }
    CHECK_MSG(rings > 0 || bytes < 65536, "no ring in %u bytes", (unsigned)bytes);
    for (unsigned i = 0; i < ARRAY_LEN(q); i++)
        CHECK_OK(vdisk_queue_destroy(q[i]));
    CHECK_OK(vdisk_close(v));
}

static void test_memory(void)
{
    static const rlim_t sizes[] = {0, 4096, 65536, 262144, 1 << 20};

    for (unsigned i = 0; i < ARRAY_LEN(sizes); i++) {
        test_note("%u bytes may be locked", (unsigned)sizes[i]);
        as_nobody(sizes[i], little_memory);
    }
}

static void many(rlim_t bytes)
{
    struct vdisk_open_opts opts = {.size = sizeof opts, .flags = VDISK_OPEN_RDWR, .format = "raw"};
    static vdisk *v[VOLUMES];
    vdisk_queue *q[QUEUES];

    leave_all();
    for (unsigned i = 0; i < VOLUMES; i++)
        CHECK_OK(vdisk_open("null:1M", &opts, &v[i]));
    for (unsigned i = 0; i < QUEUES; i++) {
        CHECK_OK(vdisk_queue_create(NULL, &q[i]));
        CHECK_MSG(vdisk_queue_get_kind(q[i]) != VDISK_QUEUE_THREADS, "queue %u: %s", i,
                  vdisk_queue_get_reason(q[i]));
    }
    for (unsigned i = 0; i < VOLUMES; i++) {
        use(q[i % QUEUES], v[i]);
        CHECK_OK(vdisk_sync(v[i]));
    }
    for (unsigned i = 0; i < QUEUES; i++)
        CHECK_OK(vdisk_queue_destroy(q[i]));
    for (unsigned i = 0; i < VOLUMES; i++)
        CHECK_OK(vdisk_close(v[i]));
}

static void test_many(void)
{
    as_nobody(8 << 20, many);
}

/* ---- the environment ---------------------------------------------------------------------------------- */

static void *use_synchronously(void *arg)
{
    char byte;

    CHECK_OK(vdisk_pread(arg, &byte, 1, 0));
    return NULL;
}

static void test_environment(void)
{
    struct vdisk_queue_opts named = {.size = sizeof named, .kind = VDISK_QUEUE_URING};
    vdisk *v = open_rw(make_full_image("image"));
    pthread_t thread;
    vdisk_queue *q;

    CHECK(setenv("VDISK_QUEUE", "threads", 1) == 0);
    CHECK_OK(vdisk_queue_create(NULL, &q));
    CHECK_INT(vdisk_queue_get_kind(q), VDISK_QUEUE_THREADS);
    CHECK_OK(vdisk_queue_destroy(q));
    CHECK(pthread_create(&thread, NULL, use_synchronously, v) == 0);
    pthread_join(thread, NULL);
    if (vdisk_queue_create(&named, &q) == 0) { /* who asks for a kind has it */
        CHECK_INT(vdisk_queue_get_kind(q), VDISK_QUEUE_URING);
        CHECK_OK(vdisk_queue_destroy(q));
    }
    CHECK(setenv("VDISK_QUEUE", "ring", 1) == 0);
    CHECK_INT(vdisk_queue_create(NULL, &q), -EINVAL);
    CHECK_HAS(vdisk_error_text(), "VDISK_QUEUE is 'ring'");
    CHECK_HAS(vdisk_error_hint(), "threads");
    CHECK(setenv("VDISK_QUEUE", "", 1) == 0);
    CHECK_OK(vdisk_queue_create(NULL, &q));
    CHECK_OK(vdisk_queue_destroy(q));
    CHECK_OK(vdisk_close(v));
}

int main(int argc, char **argv)
{
    static const struct test_case cases[] = {
        {.name = "descriptors", .run = test_descriptors, .repeat = 5 * 7},
        {.name = "memory", .run = test_memory},
        {.name = "many", .run = test_many},
        {.name = "environment", .run = test_environment},
    };

    return test_main(argc, argv, cases, ARRAY_LEN(cases));
}
