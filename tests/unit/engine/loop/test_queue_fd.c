/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Event loops: who sleeps on a queue's descriptor, and does what vdisk.h says before, is woken when there is
 * something to do and not otherwise. For each kind of queue, with poll and with epoll.
 */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "tests/lib/test.h"

enum { BLOCK = 4096, CLUSTERS = 64, CLUSTER = 65536, PATIENCE_MS = 10000 };

struct loop {
    vdisk_queue *q;
    int          epoll; /* -1: poll */
    unsigned     wakes;
};

static const enum vdisk_queue_kind kinds[] = {VDISK_QUEUE_URING_DEFER, VDISK_QUEUE_URING, VDISK_QUEUE_THREADS};

static bool loop_start(struct loop *l, enum vdisk_queue_kind kind, bool use_epoll)
{
    struct vdisk_queue_opts opts = {.size = sizeof opts, .kind = kind};
    struct epoll_event event = {.events = EPOLLIN};

    *l = (struct loop){.epoll = -1};
    if (vdisk_queue_create(&opts, &l->q) < 0)
        return false;
    CHECK_OK(vdisk_queue_fd(l->q));
    CHECK_INT(vdisk_queue_fd(l->q), vdisk_queue_fd(l->q));
    if (use_epoll) {
        l->epoll = epoll_create1(EPOLL_CLOEXEC);
        CHECK(l->epoll >= 0 && epoll_ctl(l->epoll, EPOLL_CTL_ADD, vdisk_queue_fd(l->q), &event) == 0);
    }
    return true;
}

static void loop_end(struct loop *l)
{
    if (l->epoll >= 0)
        close(l->epoll);
    vdisk_queue_destroy(l->q);
}

static int sleep_on(struct loop *l, int ms)
{
    struct pollfd p = {.fd = vdisk_queue_fd(l->q), .events = POLLIN};
    struct epoll_event event;


    int n;

    do /* task work of the ring interrupts */
        n = l->epoll >= 0 ? epoll_wait(l->epoll, &event, 1, ms) : poll(&p, 1, ms);
    while (n < 0 && errno == EINTR);
    return n;
}

/* As an event loop does: take up to `budget` whenever the descriptor says so, until `n` have ended well. */
static void take(struct loop *l, unsigned n, unsigned budget)
{
    struct vdisk_completion done[64];

    CHECK_OK(vdisk_submit(l->q));
    while (n > 0) {
        CHECK_MSG(sleep_on(l, PATIENCE_MS) == 1, "nothing to do for 10 s, but %u are in flight (%s)",
                  vdisk_queue_inflight(l->q), vdisk_queue_kind_name(vdisk_queue_get_kind(l->q)));
        int got = vdisk_reap(l->q, done, 0, budget, NULL);
        CHECK_OK(got);
        for (int i = 0; i < got; i++)
            CHECK_INT(done[i].result, 0);
        n -= (unsigned)got;
    }
}

/* Nothing in flight: not readable, though a wake-up that crossed may be left once. */
static void check_idle(struct loop *l)
{
    for (int i = 0; i < 3 && sleep_on(l, 0) == 1; i++)
        CHECK_INT(vdisk_reap(l->q, &(struct vdisk_completion){0}, 0, 1, NULL), 0);
    CHECK_MSG(sleep_on(l, 0) == 0, "readable with nothing to do (%s)",
              vdisk_queue_kind_name(vdisk_queue_get_kind(l->q)));
}

static const char *make_image(const char *format)
{
    const char *path = test_path("%s.img", format);
    struct vdisk_create_opts opts = {.size = sizeof opts, .format = format,
                                     .virtual_size = (uint64_t)CLUSTERS * CLUSTER};
    struct vdisk_open_opts open_opts = {.size = sizeof open_opts, .flags = VDISK_OPEN_RDWR, .format = format};
    char *data = vdisk_alloc_buffer(CLUSTER);
    vdisk *v;

    CHECK_OK(vdisk_create(path, &opts));
    CHECK_OK(vdisk_open(path, &open_opts, &v));
    memset(data, 0x5a, CLUSTER);
    for (uint64_t i = 0; i < CLUSTERS; i++)
        CHECK_OK(vdisk_pwrite(v, data, CLUSTER, i * CLUSTER, 0));
    CHECK_OK(vdisk_close(v));
    free(data);
    return path;
}

static vdisk *open_image(const char *path, const char *format, uint32_t flags)
{
    struct vdisk_open_opts opts = {.size = sizeof opts, .flags = flags, .format = format};
    vdisk *v;

    CHECK_OK(vdisk_open(path, &opts, &v));
    return v;
}

static void each_loop(void (*run)(struct loop *l))
{
    unsigned ran = 0;

    for (unsigned i = 0; i < 2 * sizeof kinds / sizeof kinds[0]; i++) {
        struct loop l;
        if (!loop_start(&l, kinds[i / 2], i & 1))
            continue;
        run(&l);
        loop_end(&l);
        ran++;
    }
    CHECK(ran >= 2); /* threads are always there */
}

static const char *image;

/* A read whose mapping is not in memory takes two steps. */
static void cold_reads(struct loop *l)
{
    char *buf = vdisk_alloc_buffer(BLOCK);

    for (unsigned round = 0; round < 60; round++) {
        vdisk *v = open_image(image, "qcow2", round & 1 ? VDISK_OPEN_BUFFERED : 0);
        vdisk_read(l->q, v, BLOCK, buf, BLOCK, 0, 1);
        take(l, 1, 16);
        CHECK_INT(buf[0], 0x5a);
        check_idle(l);
        CHECK_OK(vdisk_close(v));
    }
    free(buf);
}

static void test_cold(void)
{
    image = make_image("qcow2");
    each_loop(cold_reads);
}

/* Large reads end after the loop has gone to sleep; a budget of one leaves others behind. */
static void budget_of_one(struct loop *l)
{
    vdisk *v = open_image(image, "qcow2", 0);
    char *buf = vdisk_alloc_buffer(CLUSTERS * CLUSTER);

    for (unsigned round = 0; round < 20; round++) {
        for (uint64_t i = 0; i < 16; i++)
            vdisk_read(l->q, v, i * CLUSTER, buf + i * CLUSTER, CLUSTER, 0, i);
        take(l, 16, 1);
        check_idle(l);
    }
    free(buf);
    CHECK_OK(vdisk_close(v));
}

static void test_budget(void)
{
    image = make_image("qcow2");
    each_loop(budget_of_one);
}

/* Discards of raw files are calls of worker threads: many may end as one wake-up. */
static void discards(struct loop *l)
{
    vdisk *v = open_image(image, "raw", VDISK_OPEN_RDWR);
    struct vdisk_completion done[16];

    for (unsigned round = 0; round < 10; round++) {
        for (uint64_t i = 0; i < 16; i++)
            vdisk_discard(l->q, v, i * CLUSTER, CLUSTER, 0, i);
        if (round & 1)
            take(l, 16, 4);
        else
            CHECK_INT(vdisk_reap(l->q, done, 16, 16, &(struct timespec){.tv_sec = PATIENCE_MS / 1000}), 16);
    }
    check_idle(l);
    CHECK_OK(vdisk_close(v));
}

static void test_discards(void)
{
    image = make_image("raw");
    each_loop(discards);
}

/* The descriptor is asked for when completions are there already. */
static void test_late(void)
{
    struct vdisk_completion done;
    vdisk_queue *q;
    vdisk *v;
    char *buf = vdisk_alloc_buffer(BLOCK);

    image = make_image("raw");
    v = open_image(image, "raw", 0);
    CHECK_OK(vdisk_queue_create(NULL, &q));
    vdisk_read(q, v, 0, buf, BLOCK, 0, 7);
    CHECK_OK(vdisk_submit(q));
    clock_nanosleep(CLOCK_MONOTONIC, 0, &(struct timespec){.tv_nsec = 20000000}, NULL);
    struct pollfd p = {.fd = vdisk_queue_fd(q), .events = POLLIN};
    CHECK_INT(poll(&p, 1, PATIENCE_MS), 1);
    while (vdisk_reap(q, &done, 0, 1, NULL) == 0)
        CHECK_INT(poll(&p, 1, PATIENCE_MS), 1);
    CHECK_INT(done.result, 0);
    vdisk_queue_destroy(q);
    CHECK_OK(vdisk_close(v));
    free(buf);
}

/* ---- two threads on the same clusters --------------------------------------------------------------------- */

static vdisk *shared;
static enum vdisk_queue_kind shared_kind;

static void *event_loop(void *arg)
{
    uint64_t number = (uint64_t)(uintptr_t)arg;
    char *buf = vdisk_alloc_buffer(BLOCK);
    struct loop l;

    if (!loop_start(&l, shared_kind, number & 1))
        return NULL;
    for (uint64_t i = 0; i < 8 * CLUSTERS; i++) {
        memset(buf, (int)(number + 1), BLOCK);
        vdisk_write(l.q, shared, i / 8 * CLUSTER + number * BLOCK, buf, BLOCK, i % 16 == 0 ? VDISK_REQ_FUA : 0, i);
        if (i % 4 == 0)
            vdisk_flush(l.q, shared, 0, i);
        take(&l, i % 4 == 0 ? 2 : 1, 1);
    }
    check_idle(&l);
    loop_end(&l);
    free(buf);
    return NULL;
}

static void test_two_threads(void)
{
    struct vdisk_create_opts opts = {.size = sizeof opts, .format = "qcow2",
                                     .virtual_size = (uint64_t)CLUSTERS * CLUSTER};
    pthread_t threads[2];

    for (unsigned k = 0; k < sizeof kinds / sizeof kinds[0]; k++) {
        const char *path = test_path("shared-%u.img", k);
        shared_kind = kinds[k];
        CHECK_OK(vdisk_create(path, &opts));
        shared = open_image(path, "qcow2", VDISK_OPEN_RDWR);
        for (uintptr_t i = 0; i < 2; i++)
            CHECK_INT(pthread_create(&threads[i], NULL, event_loop, (void *)i), 0);
        for (unsigned i = 0; i < 2; i++)
            pthread_join(threads[i], NULL);
        CHECK_OK(vdisk_close(shared));
    }
}

static const struct test_case cases[] = {
    {"cold", test_cold, 0, 0, 0},         {"budget", test_budget, 0, 0, 0},
    {"discards", test_discards, 0, 0, 0}, {"late", test_late, 0, 0, 0},
    {"two_threads", test_two_threads, 4, 1, 40},
};

int main(int argc, char **argv)
{
    return test_main(argc, argv, cases, sizeof cases / sizeof cases[0]);
}
