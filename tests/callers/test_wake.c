/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Waking a queue: who sleeps in the library, or on the queue's descriptor, comes back when another thread or a
 * signal handler says so; no wake is lost, whenever it comes, and none counts twice. And so when a descriptor that
 * the queue watches becomes readable.
 */
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "tests/callers/callers.h"

enum { ROUNDS = 200 };

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

/* It sleeps until it is woken: with nothing in flight. */
static void sleep_idle(void)
{
    struct vdisk_completion c;

    caller_wait_begin("wait(1) with nothing in flight");
    for (;;) {
        int n = vdisk_wait(q, &c, 1, 1, NULL);
        if (n == -EINTR)
            continue;
        CHECK_INT(n, 0);
        break;
    }
    caller_wait_end();
}

/* ---- by another thread ------------------------------------------------------------------------------- */

static _Atomic unsigned asked, answered;

static void *wake_often(void *arg)
{
    for (unsigned i = 1; i <= ROUNDS; i++) {
        atomic_store(&asked, i);
        vdisk_queue_wake(q);
        while (atomic_load(&answered) < i)
            ;
        if (i % 16 == 0) /* and let it fall asleep */
            clock_nanosleep(CLOCK_MONOTONIC, 0, &(struct timespec){.tv_nsec = 2000000}, NULL);
    }
    return NULL;
}

static void by_thread(void)
{
    pthread_t thread;

    atomic_store(&asked, 0);
    atomic_store(&answered, 0);
    CHECK(pthread_create(&thread, NULL, wake_often, NULL) == 0);
    for (unsigned i = 1; i <= ROUNDS; i++) {
        while (atomic_load(&asked) < i)
            sleep_idle();
        atomic_store(&answered, i);
    }
    pthread_join(thread, NULL);
}

static void test_thread(void)
{
    each_kind(by_thread);
}

/* ---- by a signal handler ----------------------------------------------------------------------------- */

static void on_signal(int sig)
{
    vdisk_queue_wake(q);
}

static void by_signal(void)
{
    struct sigaction action = {.sa_handler = on_signal};

    CHECK(sigaction(SIGUSR1, &action, NULL) == 0);
    for (unsigned i = 0; i < 3; i++) {
        CHECK(raise(SIGUSR1) == 0);
        sleep_idle();
    }
}

static void test_signal(void)
{
    each_kind(by_signal);
}

/* ---- once, and not before it is seen ----------------------------------------------------------------- */

static bool is_readable(void)
{
    struct pollfd p = {.fd = vdisk_queue_fd(q), .events = POLLIN};

    return poll(&p, 1, 0) == 1;
}

static void once(void)
{
    static const struct timespec soon = {.tv_nsec = 1000000};
    struct vdisk_completion c;
    char *buf = vdisk_alloc_buffer(BLOCK);
    int n;

    vdisk_queue_wake(q);
    vdisk_queue_wake(q);
    sleep_idle();
    CHECK_INT(vdisk_wait(q, &c, 1, 1, &soon), 0); /* by the timeout: it would hang without */
    CHECK_OK(vdisk_queue_fd(q));
    CHECK_INT(vdisk_reap(q, &c, 0, 1, NULL), 0);
    CHECK(!is_readable());
    vdisk_queue_wake(q);
    CHECK(is_readable());
    CHECK_OK(vdisk_pread(v, buf, BLOCK, 0)); /* turns the thread's queues, and is not woken itself */
    CHECK_INT(buf[0], 0x5a);
    CHECK(is_readable());
    CHECK_INT(vdisk_reap(q, &c, 0, 1, NULL), 0);
    CHECK(!is_readable());
    /* What is in flight meanwhile is not lost. */
    vdisk_queue_wake(q);
    vdisk_read(q, v, CLUSTER, buf, BLOCK, 0, 7);
    for (n = 0; n == 0;)
        CHECK_OK(n = vdisk_reap(q, &c, 1, 1, NULL));
    CHECK_INT(c.user_data, 7);
    CHECK_INT(c.result, 0);
    vdisk_queue_wake(NULL);
    free(buf);
}

static void test_once(void)
{
    each_kind(once);
}

/* ---- a descriptor that is watched -------------------------------------------------------------------- */

static int ends[2];

/* A byte at a time; the next when the one before has been read. */
static void *write_often(void *arg)
{
    for (unsigned i = 1; i <= ROUNDS; i++) {
        CHECK(write(ends[1], "x", 1) == 1);
        while (atomic_load(&answered) < i)
            ;
        if (i % 16 == 0)
            clock_nanosleep(CLOCK_MONOTONIC, 0, &(struct timespec){.tv_nsec = 2000000}, NULL);
    }
    return NULL;
}

/* What has come through the pipe that `epoll` watches for edges: it is read when it is told of. */
static bool take_byte(int epoll)
{
    struct epoll_event event;
    char byte;

    return epoll_wait(epoll, &event, 1, 0) == 1 && read(ends[0], &byte, 1) == 1;
}

/* `busy`: a request is in flight, too, at any time. */
static void watch(enum vdisk_queue_kind kind, bool busy)
{
    struct epoll_event event = {.events = EPOLLIN | EPOLLET};
    int epoll = epoll_create1(0);
    bool ready = false;
    struct vdisk_queue_opts opts = {.size = sizeof opts, .kind = kind, .watch_fd = epoll, .watch_ready = &ready};
    char *buf = vdisk_alloc_buffer(BLOCK);
    struct vdisk_completion c;
    pthread_t thread;

    v = open_rw(make_full_image("image"));
    CHECK_OK(vdisk_queue_create(&opts, &q));
    CHECK(pipe(ends) == 0 && epoll_ctl(epoll, EPOLL_CTL_ADD, ends[0], &event) == 0);
    atomic_store(&answered, 0);
    CHECK(pthread_create(&thread, NULL, write_often, NULL) == 0);
    caller_wait_begin("wait(1) for what is watched");
    for (unsigned i = 1; i <= ROUNDS;) {
        if (busy && vdisk_queue_inflight(q) == 0)
            vdisk_read(q, v, CLUSTER, buf, BLOCK, 0, 7);
        int n = vdisk_wait(q, &c, 1, 1, NULL);
        CHECK(n >= 0 || n == -EINTR);
        CHECK(n == 1 || n == -EINTR || ready); /* it slept for something */
        CHECK(n <= 0 || c.result == 0);
        if (ready) {
            ready = false;
            if (take_byte(epoll))
                atomic_store(&answered, i++);
        }
    }
    caller_wait_end();
    pthread_join(thread, NULL);
    while (vdisk_queue_inflight(q) > 0)
        vdisk_reap(q, &c, 1, 1, NULL);
    CHECK_OK(vdisk_queue_destroy(q));
    CHECK_OK(vdisk_close(v));
    close(epoll);
    close(ends[0]);
    close(ends[1]);
    free(buf);
}

static void test_watch(void)
{
    struct vdisk_queue_opts none = {.size = sizeof none, .watch_fd = -1, .watch_ready = &(bool){false}};

    CHECK_INT(vdisk_queue_create(&none, &q), -EINVAL);
    for (unsigned i = 0; i < ARRAY_LEN(all_kinds); i++) {
        test_note("kind %s", vdisk_queue_kind_name(all_kinds[i]));
        watch(all_kinds[i], false);
        watch(all_kinds[i], true);
    }
}

int main(int argc, char **argv)
{
    static const struct test_case cases[] = {
        {.name = "thread", .run = test_thread},
        {.name = "signal", .run = test_signal},
        {.name = "once", .run = test_once},
        {.name = "watch", .run = test_watch},
    };

    return test_main(argc, argv, cases, ARRAY_LEN(cases));
}
