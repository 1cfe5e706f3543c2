/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What callers do that they should not, and what comes of it: an error, and everything as it was.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/callers/callers.h"

static vdisk *v;
static vdisk_queue *q;

static void begin(enum vdisk_queue_kind kind)
{
    struct vdisk_queue_opts opts = {.size = sizeof opts, .kind = kind};

    test_note("kind %s", vdisk_queue_kind_name(kind));
    v = open_rw(make_full_image("image"));
    CHECK_OK(vdisk_queue_create(&opts, &q));
}

static void end(void)
{
    CHECK_OK(vdisk_queue_destroy(q));
    CHECK_OK(vdisk_close(v));
    v = NULL;
    q = NULL;
}

static void each_kind(void (*run)(void))
{
    for (unsigned i = 0; i < ARRAY_LEN(all_kinds); i++) {
        begin(all_kinds[i]);
        run();
        end();
    }
}

/* ---- too early ---------------------------------------------------------------------------------------- */

/* What is refused says so in words that fit. */
static void one_request(void)
{
    struct iovec region = {.iov_base = vdisk_alloc_buffer(BLOCK), .iov_len = BLOCK}, many[65];
    int rc;

    vdisk_read(q, v, 0, region.iov_base, BLOCK, 0, 0);
    CHECK_INT(vdisk_queue_destroy(q), -EBUSY);
    CHECK_HAS(vdisk_error_text(), "1 request has not");
    CHECK_INT(vdisk_queue_register_buffers(q, &region, 1), -EBUSY);
    CHECK_HAS(vdisk_error_text(), "1 request has not");
    CHECK(vdisk_error_hint()[0] != '\0');
    reap_all(q, 1, NULL);
    for (unsigned i = 0; i < ARRAY_LEN(many); i++)
        many[i] = region;
    CHECK_INT(vdisk_queue_register_buffers(q, many, ARRAY_LEN(many)), -EINVAL);
    CHECK_HAS(vdisk_error_text(), "65 regions are more than 64");
    rc = vdisk_queue_register_buffers(q, many, ARRAY_LEN(many) - 1);
    CHECK_INT(rc, vdisk_queue_get_kind(q) == VDISK_QUEUE_THREADS ? -ENOTSUP : 0);
    if (rc == 0)
        CHECK_OK(vdisk_queue_register_buffers(q, NULL, 0));
    free(region.iov_base);
}

static void test_words(void)
{
    each_kind(one_request);
}

static void with_requests(void)
{
    char *buf = vdisk_alloc_buffer(2 * CLUSTER);

    for (unsigned step = 0; step < 4; step++) { /* not sent, sent, done perhaps, done */
        vdisk_read(q, v, 1 * CLUSTER, buf, CLUSTER, 0, 0);
        vdisk_write(q, v, (100 + step) * CLUSTER, buf + CLUSTER, BLOCK, 0, 1);
        if (step >= 1)
            CHECK_OK(vdisk_submit(q));
        if (step >= 2)
            CHECK_INT(vdisk_reap(q, &(struct vdisk_completion){0}, 0, 0, NULL), 0);
        if (step >= 3)
            clock_nanosleep(CLOCK_MONOTONIC, 0, &(struct timespec){.tv_nsec = 20000000}, NULL);
        CHECK_INT(vdisk_queue_destroy(q), -EBUSY);
        CHECK_INT(vdisk_close(v), -EBUSY);
        CHECK_HAS(vdisk_error_text(), "image");
        CHECK(vdisk_error_hint()[0] != '\0');
        reap_all(q, 2, NULL);
        CHECK_INT(buf[0], 0x5a);
    }
    free(buf);
}

static void test_busy(void)
{
    each_kind(with_requests);
}

/* ---- another thread ----------------------------------------------------------------------------------- */

static void *intrude(void *arg)
{
    struct vdisk_completion c;
    int want = *(int *)arg;

    CHECK_INT(vdisk_submit(q), want);
    CHECK_INT(vdisk_reap(q, &c, 1, 1, NULL), want);
    CHECK_INT(vdisk_reap(q, &c, 0, 1, NULL), want);
    return NULL;
}

static void from_another_thread(void)
{
    char *buf = vdisk_alloc_buffer(BLOCK);
    int want = -EEXIST;
    pthread_t thread;

    if (vdisk_queue_get_kind(q) != VDISK_QUEUE_URING_DEFER)
        return; /* the kernel does not know */
    vdisk_read(q, v, 0, buf, BLOCK, 0, 0);
    reap_all(q, 1, NULL);
    CHECK(pthread_create(&thread, NULL, intrude, &want) == 0);
    pthread_join(thread, NULL);
    vdisk_read(q, v, 0, buf, BLOCK, 0, 0);
    reap_all(q, 1, NULL);
    CHECK_INT(buf[1], 0x5a);
    free(buf);
}

static void test_thread(void)
{
    each_kind(from_another_thread);
}

/* ---- a forked child ----------------------------------------------------------------------------------- */

/* A queue of the child's own, which has served a volume of its own, touches none of the parent's all the same. */
static void turn_to_parents(vdisk *parents)
{
    struct vdisk_completion c;
    vdisk_queue *own;
    vdisk *mine;
    char byte;

    CHECK_OK(vdisk_queue_create(NULL, &own));
    CHECK_OK(vdisk_open("null:1M", NULL, &mine));
    for (unsigned i = 0; i < 3; i++) {
        vdisk_read(own, mine, 0, &byte, 1, 0, 0);
        reap_all(own, 1, NULL);
        vdisk_read(own, parents, 0, &byte, 1, 0, 0);
        CHECK_INT(vdisk_reap(own, &c, 1, 1, NULL), 1);
        CHECK_INT(c.result, -ECHILD);
        vdisk_read(own, NULL, 0, &byte, 1, 0, 0);
        CHECK_INT(vdisk_reap(own, &c, 1, 1, NULL), 1);
        CHECK_INT(c.result, -EINVAL);
    }
    CHECK_OK(vdisk_close(mine));
    CHECK_OK(vdisk_queue_destroy(own));
}

static void in_child(void)
{
    struct vdisk_completion c;
    char byte;

    turn_to_parents(v);

    CHECK_INT(vdisk_submit(q), -ECHILD);
    CHECK_INT(vdisk_reap(q, &c, 1, 1, NULL), -ECHILD);
    CHECK_INT(vdisk_queue_fd(q), -ECHILD);
    CHECK_INT(vdisk_pread(v, &byte, 1, 0), -ECHILD);
    CHECK_INT(vdisk_pwrite(v, &byte, 1, 0, 0), -ECHILD);
    CHECK_INT(vdisk_sync(v), -ECHILD);
    CHECK_INT(vdisk_trim_space(v), -ECHILD);
    CHECK_INT(vdisk_grow(v, 2u << 30), -ECHILD);
    CHECK_INT(vdisk_queue_destroy(q), -ECHILD);
    CHECK_INT(vdisk_close(v), -ECHILD);
    /* Its own it may have. */
    CHECK_OK(vdisk_queue_create(NULL, &q));
    CHECK_OK(vdisk_queue_destroy(q));
    CHECK_OK(vdisk_open("null:1M", NULL, &v));
    CHECK_OK(vdisk_pread(v, &byte, 1, 0));
    CHECK_OK(vdisk_close(v));
}

static void with_a_child(void)
{
    char *buf = vdisk_alloc_buffer(CLUSTER);
    int status;
    pid_t pid;

    CHECK_OK(vdisk_pread(v, buf, 1, 0)); /* this thread has a queue for these calls, too */
    memset(buf, 0x33, CLUSTER);
    vdisk_write(q, v, 9 * CLUSTER, buf, CLUSTER, 0, 0);
    vdisk_write(q, v, 109 * CLUSTER, buf, BLOCK, 0, 1);
    CHECK_OK(vdisk_submit(q));
    fflush(stdout);
    pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        alarm(CALLER_PATIENCE_S);
        in_child();
        fflush(stdout);
        exit(0); /* with all that the library does at exit */
    }
    CHECK(waitpid(pid, &status, 0) == pid);
    CHECK_MSG(status == 0, "the child: status 0x%x", (unsigned)status);
    reap_all(q, 2, NULL);
    vdisk_flush(q, v, 0, 0);
    reap_all(q, 1, NULL);
    CHECK_OK(vdisk_pread(v, buf, 1, 109 * CLUSTER));
    CHECK_INT(buf[0], 0x33);
    free(buf);
}

static void test_child(void)
{
    each_kind(with_a_child);
}

/* ---- nothing at all ----------------------------------------------------------------------------------- */

static void test_null(void)
{
    struct vdisk_extents extents = {.max = 0};
    struct vdisk_info info = {.size = sizeof info};
    struct vdisk_completion c;
    char byte = 0;

    begin(VDISK_QUEUE_AUTO);
    CHECK_INT(vdisk_open(NULL, NULL, &v), -EINVAL);
    CHECK_INT(vdisk_open("null:1M", NULL, NULL), -EINVAL);
    CHECK_INT(vdisk_create(NULL, NULL), -EINVAL);
    CHECK_INT(vdisk_create(test_path("x"), NULL), -EINVAL);
    CHECK_INT(vdisk_queue_create(NULL, NULL), -EINVAL);
    CHECK_INT(vdisk_submit(NULL), -EINVAL);
    CHECK_INT(vdisk_reap(NULL, &c, 0, 1, NULL), -EINVAL);
    CHECK_INT(vdisk_reap(q, NULL, 0, 1, NULL), -EINVAL);
    CHECK_INT(vdisk_queue_fd(NULL), -EINVAL);
    CHECK_INT(vdisk_pread(NULL, &byte, 1, 0), -EINVAL);
    CHECK_INT(vdisk_pwrite(NULL, &byte, 1, 0, 0), -EINVAL);
    CHECK_INT(vdisk_pzero(NULL, 1, 0, 0), -EINVAL);
    CHECK_INT(vdisk_pdiscard(NULL, 1, 0), -EINVAL);
    CHECK_INT(vdisk_sync(NULL), -EINVAL);
    CHECK_INT(vdisk_pextents(NULL, 1, 0, &extents), -EINVAL);
    CHECK_INT(vdisk_get_info(NULL, &info), -EINVAL);
    CHECK_INT(vdisk_grow(NULL, 1), -EINVAL);
    CHECK_INT(vdisk_resize(NULL, 1, NULL), -EINVAL);
    CHECK_INT(vdisk_trim_space(NULL), -EINVAL);
    CHECK_INT(vdisk_queue_destroy(NULL), 0);
    CHECK_INT(vdisk_close(NULL), 0);
    end();
}

int main(int argc, char **argv)
{
    static const struct test_case cases[] = {
        {.name = "words", .run = test_words},
        {.name = "busy", .run = test_busy},
        {.name = "thread", .run = test_thread},
        {.name = "child", .run = test_child},
        {.name = "null", .run = test_null},
    };

    return test_main(argc, argv, cases, ARRAY_LEN(cases));
}
