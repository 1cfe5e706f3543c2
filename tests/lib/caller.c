/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tests/lib/caller.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

#include "engine/base/bits.h"
#include "engine/loop/watch.h"
#include "tests/lib/test.h"

/* ---- the watchdog ----------------------------------------------------------------------------------------- */

enum { WAITS = 64 };

static struct wait {
    _Atomic unsigned since; /* seconds; 0: does not wait */
    _Atomic(const char *) what;
} waits[WAITS];
static _Atomic unsigned waits_taken;
static _Thread_local struct wait *my_wait;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static unsigned now_s(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (unsigned)t.tv_sec + 1;
}

static unsigned patience(void)
{
    return CALLER_PATIENCE_S * (test_is_slow() ? 5 : 1);
}

static void say_line(const char *line)
{
    printf("    %s\n", line);
    fflush(stdout);
}

static void *watch_main(void *arg)
{
    for (;;) {
        unsigned now = now_s();
        for (unsigned i = 0; i < WAITS; i++) {
            unsigned since = atomic_load_explicit(&waits[i].since, memory_order_relaxed);
            if (since == 0 || now - since < patience() || now < since)
                continue;
            printf("%s: nothing for %u s; under way:\n", atomic_load(&waits[i].what), now - since);
            watch_each(say_line);
            FAIL("%s hangs", atomic_load(&waits[i].what));
        }
        clock_nanosleep(CLOCK_MONOTONIC, 0, &(struct timespec){.tv_nsec = 500000000}, NULL);
    }
    return NULL;
}

static void watch_start(void)
{
    pthread_t thread;
    sigset_t all, old;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    CHECK(pthread_create(&thread, NULL, watch_main, NULL) == 0);
    pthread_detach(thread);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
}

void caller_wait_begin(const char *what)
{
    pthread_once(&once, watch_start);
    if (!my_wait) /* threads beyond that many share */
        my_wait = &waits[atomic_fetch_add(&waits_taken, 1) % WAITS];
    atomic_store(&my_wait->what, what);
    atomic_store_explicit(&my_wait->since, now_s(), memory_order_relaxed);
}

void caller_wait_end(void)
{
    atomic_store_explicit(&my_wait->since, 0, memory_order_relaxed);
}

/* ---- who it is -------------------------------------------------------------------------------------------- */

void caller_draw(struct caller *c, struct rng *r)
{
    static const enum vdisk_queue_kind kinds[] = {VDISK_QUEUE_AUTO, VDISK_QUEUE_AUTO, VDISK_QUEUE_URING,
                                                  VDISK_QUEUE_THREADS};

    *c = (struct caller){.epoll = -1};
    rng_init(&c->rng, rng_next(r));
    c->way = (enum caller_way)rng_below(&c->rng, CALLER_WAYS);
    c->budget = rng_chance(&c->rng, 40) ? 1 : (unsigned)rng_between(&c->rng, 2, 32);
    c->kind = kinds[rng_below(&c->rng, ARRAY_LEN(kinds))];
    c->nqueues = rng_chance(&c->rng, 30) ? 2 : 1;
    c->computes = rng_chance(&c->rng, 30);
    c->sync = rng_chance(&c->rng, 30);
    c->late_fd = rng_chance(&c->rng, 30);
}

const char *caller_describe(const struct caller *c)
{
    static const char *const ways[] = {"reap(1)", "reap(n)", "reap(1) with timeouts", "poll", "epoll",
                                       "edge-triggered epoll", "submit and reap(0)"};
    static _Thread_local char text[200];

    snprintf(text, sizeof text, "%u queue%s of kind %s, %s, at most %u at a time%s%s%s", c->nqueues,
             c->nqueues > 1 ? "s" : "", vdisk_queue_kind_name(c->kind), ways[c->way], c->budget,
             c->late_fd ? ", a late descriptor" : "", c->computes ? ", computes" : "",
             c->sync ? ", synchronous calls in between" : "");
    return text;
}

static bool sleeps_on_fd(const struct caller *c)
{
    return c->way == CALLER_POLLS || c->way == CALLER_EPOLLS || c->way == CALLER_EPOLLS_EDGE;
}

static void make_epoll(struct caller *c)
{
    c->epoll = epoll_create1(EPOLL_CLOEXEC);
    CHECK(c->epoll >= 0);
    for (unsigned i = 0; i < c->nqueues; i++) {
        struct epoll_event e = {.events = EPOLLIN | (c->way == CALLER_EPOLLS_EDGE ? EPOLLET : 0u),
                                .data.u32 = i};
        CHECK_OK(vdisk_queue_fd(c->queues[i]));
        CHECK(epoll_ctl(c->epoll, EPOLL_CTL_ADD, vdisk_queue_fd(c->queues[i]), &e) == 0);
    }
}

void caller_start(struct caller *c, unsigned depth)
{
    struct vdisk_queue_opts opts = {.size = sizeof opts, .depth = depth, .kind = c->kind};

    for (unsigned i = 0; i < c->nqueues; i++) {
        int rc = vdisk_queue_create(&opts, &c->queues[i]);
        if (rc < 0 && c->kind != VDISK_QUEUE_AUTO) { /* this kernel has no such queue */
            opts.kind = VDISK_QUEUE_AUTO;
            rc = vdisk_queue_create(&opts, &c->queues[i]);
        }
        CHECK_OK(rc);
        if (sleeps_on_fd(c) && !c->late_fd)
            CHECK_OK(vdisk_queue_fd(c->queues[i]));
    }
}

void caller_finish(struct caller *c)
{
    if (c->epoll >= 0)
        close(c->epoll);
    c->epoll = -1;
    for (unsigned i = 0; i < c->nqueues; i++) {
        CHECK_OK(vdisk_queue_destroy(c->queues[i]));
        c->queues[i] = NULL;
    }
}

/* ---- what it does ----------------------------------------------------------------------------------------- */

void caller_send(struct caller *c)
{
    for (unsigned i = 0; i < c->nqueues; i++)
        if (rng_chance(&c->rng, 60))
            CHECK_OK(vdisk_submit(c->queues[i]));
}

/* -EINTR is nothing: task work of a ring may end a call of its thread. */
static unsigned reap(const struct caller *c, vdisk_queue *q, struct vdisk_completion *out, unsigned min,
                     unsigned max, const struct timespec *timeout)
{
    int n;

    do
        n = vdisk_reap(q, out, min, max, timeout);
    while (n == -EINTR || (n == 0 && min > 0 && c->grows));
    CHECK_OK(n);
    CHECK_MSG(timeout || (unsigned)n >= min || c->grows, "reap gave %d, at least %u were asked for", n, min);
    return (unsigned)n;
}

/* Sleep until one of the descriptors can be read; the number of its queue. */
static unsigned sleep_on_fds(struct caller *c)
{
    struct pollfd p[CALLER_QUEUES];
    struct epoll_event e;
    unsigned first = (unsigned)rng_below(&c->rng, c->nqueues);
    int n;

    if (c->way != CALLER_POLLS) {
        if (c->epoll < 0)
            make_epoll(c);
        do
            n = epoll_wait(c->epoll, &e, 1, -1);
        while (n < 0 && errno == EINTR);
        CHECK(n == 1);
        return e.data.u32;
    }
    for (unsigned i = 0; i < c->nqueues; i++) {
        p[i] = (struct pollfd){.fd = vdisk_queue_fd(c->queues[i]), .events = POLLIN};
        CHECK_OK(p[i].fd);
    }
    do
        n = poll(p, c->nqueues, -1);
    while (n < 0 && errno == EINTR);
    CHECK(n > 0);
    return p[first].revents ? first : (first + 1) % c->nqueues;
}

/* As vdisk.h says: submit before going to sleep; reap what the descriptor stands for. */
static unsigned take_by_fd(struct caller *c, struct vdisk_completion *out, unsigned max, vdisk_queue **ret_queue)
{
    unsigned n = 0;

    for (unsigned i = 0; i < c->nqueues; i++)
        CHECK_OK(vdisk_submit(c->queues[i]));
    while (n == 0) {
        *ret_queue = c->queues[sleep_on_fds(c)];
        n = reap(c, *ret_queue, out, 0, max, NULL);
    }
    return n;
}

static unsigned take_spinning(struct caller *c, struct vdisk_completion *out, unsigned max,
                              vdisk_queue **ret_queue)
{
    for (unsigned i = (unsigned)rng_below(&c->rng, c->nqueues);; i = (i + 1) % c->nqueues) {
        *ret_queue = c->queues[i];
        CHECK_OK(vdisk_submit(*ret_queue));
        unsigned n = reap(c, *ret_queue, out, 0, max, NULL);
        if (n > 0)
            return n;
        sched_yield();
    }
}

/* One that has something in flight; NULL: none has. */
static vdisk_queue *busy_queue(struct caller *c)
{
    unsigned first = (unsigned)rng_below(&c->rng, c->nqueues);

    for (unsigned i = 0; i < c->nqueues; i++) {
        vdisk_queue *q = c->queues[(first + i) % c->nqueues];
        if (vdisk_queue_inflight(q) > 0)
            return q;
    }
    return NULL;
}

static unsigned take_waiting(struct caller *c, vdisk_queue *q, struct vdisk_completion *out, unsigned max)
{
    unsigned n = 0;

    switch (c->way) {
    case CALLER_REAPS_ALL:
        max = (unsigned)min_u64(max, vdisk_queue_inflight(q));
        return reap(c, q, out, max, max, NULL);
    case CALLER_TIMES_OUT:
        while (n == 0)
            n = reap(c, q, out, 1, max, &(struct timespec){.tv_nsec = (long)rng_below(&c->rng, 3000000)});
        return n;
    case CALLER_REAPS_ONE:
    case CALLER_POLLS:
    case CALLER_EPOLLS:
    case CALLER_EPOLLS_EDGE:
    case CALLER_SPINS:
    case CALLER_WAYS:
        break;
    }
    return reap(c, q, out, 1, max, NULL);
}

unsigned caller_take(struct caller *c, bool wait, struct vdisk_completion *out, unsigned max,
                     vdisk_queue **ret_queue)
{
    unsigned n;

    max = (unsigned)min_u64(max, c->budget);
    *ret_queue = busy_queue(c);
    if (!*ret_queue)
        return 0;
    if (!wait)
        return reap(c, *ret_queue, out, 0, max, NULL);
    caller_wait_begin(caller_describe(c));
    if (sleeps_on_fd(c))
        n = take_by_fd(c, out, max, ret_queue);
    else if (c->way == CALLER_SPINS)
        n = take_spinning(c, out, max, ret_queue);
    else
        n = take_waiting(c, *ret_queue, out, max);
    caller_wait_end();
    return n;
}

bool caller_pause(struct caller *c, vdisk *v)
{
    char buf[4096];
    int rc = 0;

    if (c->computes && rng_chance(&c->rng, 5))
        clock_nanosleep(CLOCK_MONOTONIC, 0, &(struct timespec){.tv_nsec = (long)rng_below(&c->rng, 5000000)},
                        NULL);
    if (!c->sync || !rng_chance(&c->rng, 5))
        return true;
    caller_wait_begin("a synchronous call");
    if (rng_chance(&c->rng, 30))
        rc = vdisk_sync(v);
    else if (vdisk_size(v) > 0)
        rc = vdisk_pread(v, buf, min_u64(sizeof buf, vdisk_size(v)),
                         rng_below(&c->rng, vdisk_size(v) - min_u64(sizeof buf, vdisk_size(v)) + 1));
    caller_wait_end();
    return rc >= 0;
}
