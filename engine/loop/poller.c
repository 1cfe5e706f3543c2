/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Sockets and time for queues without a ring: a thread that sleeps in poll(2), makes the call that has become
 * possible, and posts its end. Started on first need, joined when the queue goes.
 *
 * Invariants.
 *  1. Nobody but the thread takes a call off the list.
 *  2. Its eventfd is written after the list or a call's `cancelled` has changed, and read before they are
 *     looked at.
 */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "engine/base/bits.h"
#include "engine/base/mem.h"
#include "engine/base/short_lock.h"
#include "engine/loop/call.h"
#include "engine/loop/queue.h"

enum { POLLER_CALLS_MAX = 2 * QUEUE_DEPTH_MAX };

_Static_assert(POLLOUT == 0x4 && POLLIN == 0x1, "as call_events() says them");

struct poller {
    pthread_mutex_t lock;
    struct list     calls;
    unsigned        count;   /* of these */
    int             wake_fd;
    bool            stop;
    pthread_t       thread;
    /* The thread's: what it sleeps on (the first is the eventfd), and which call each of them is. */
    struct pollfd   fds[POLLER_CALLS_MAX + 1];
    struct call    *looked[POLLER_CALLS_MAX];
};

/* What is left until `until`; 0: nothing. */
static uint64_t left_ns(const struct call *c, const struct timespec *now)
{
    int64_t s = c->until.tv_sec - now->tv_sec, ns = c->until.tv_nsec - now->tv_nsec;

    if (s < 0 || (s == 0 && ns <= 0))
        return 0;
    return s > INT32_MAX ? INT64_MAX : (uint64_t)(s * 1000000000 + ns);
}

/* The arrays follow the list. How long to sleep at most. */
static unsigned look(struct poller *p, uint64_t *ret_ns)
{
    struct timespec now;
    unsigned n = 0;

    assert_locked(&p->lock);
    clock_now(NULL, &now);
    *ret_ns = UINT64_MAX;
    p->fds[0] = (struct pollfd){.fd = p->wake_fd, .events = POLLIN};
    for (struct list *l = p->calls.next; l != &p->calls; l = l->next) {
        struct call *c = container_of(l, struct call, link);
        bool timeout = c->kind == CALL_TIMEOUT;
        assert(n < POLLER_CALLS_MAX && c->kind != CALL_COMPUTE);
        p->looked[n++] = c;
        p->fds[n] = (struct pollfd){.fd = timeout ? -1 : c->fd, .events = (short)(timeout ? 0 : call_events(c))};
        if (atomic_load(&c->cancelled))
            *ret_ns = 0;
        else if (timeout)
            *ret_ns = min_u64(*ret_ns, left_ns(c, &now));
    }
    assert(n == p->count);
    return n;
}

/* Has it come to its end? With the lock held. */
static bool has_ended(struct call *c, short revents, const struct timespec *now, int64_t *ret_res)
{
    if (atomic_load(&c->cancelled)) {
        *ret_res = -ECANCELED;
        return true;
    }
    if (c->kind == CALL_TIMEOUT) {
        *ret_res = 0;
        return left_ns(c, now) == 0;
    }
    if (revents == 0)
        return false;
    *ret_res = revents & POLLNVAL ? -EBADF : c->kind == CALL_POLL ? revents : call_try(c);
    return *ret_res != -EAGAIN;
}

static void end_some(struct poller *p, unsigned n)
{
    struct timespec now;
    int64_t res;

    assert_locked(&p->lock);
    assert(n <= p->count); /* invariant 1: those that were looked at are there */
    clock_now(NULL, &now);
    for (unsigned i = 0; i < n; i++) {
        struct call *c = p->looked[i];
        if (!has_ended(c, p->fds[i + 1].revents, &now, &res))
            continue;
        assert(p->count > 0 && !list_empty(&c->link));
        list_del(&c->link);
        p->count--;
        call_end_foreign(c, res); /* and is its owner's */
    }
}

static void *poller_main(void *arg)
{
    struct poller *p = arg;

    pthread_mutex_lock(&p->lock);
    while (!p->stop) {
        uint64_t ns, count;
        unsigned n = look(p, &ns);
        struct timespec wait = {(time_t)(ns / 1000000000), (long)(ns % 1000000000)};
        pthread_mutex_unlock(&p->lock);
        queue_poll(p->fds, n + 1, ns == UINT64_MAX ? NULL : &wait);
        if (p->fds[0].revents)
            (void)!read(p->wake_fd, &count, sizeof count);
        pthread_mutex_lock(&p->lock);
        end_some(p, n);
    }
    pthread_mutex_unlock(&p->lock);
    return NULL;
}

static int poller_create(struct poller **ret)
{
    struct poller *p = mem_calloc(1, sizeof *p);
    sigset_t all, old;
    int rc;

    if (!p)
        return -ENOMEM;
    list_init(&p->calls);
    p->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (p->wake_fd < 0) {
        rc = -errno;
        mem_free(p);
        return rc;
    }
    pthread_mutex_init(&p->lock, NULL);
    sigfillset(&all); /* the host program's signal handlers are not to run on our thread */
    pthread_sigmask(SIG_SETMASK, &all, &old);
    rc = -pthread_create(&p->thread, NULL, poller_main, p);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (rc < 0) {
        close(p->wake_fd);
        pthread_mutex_destroy(&p->lock);
        mem_free(p);
        return rc == -EAGAIN ? -ENOMEM : rc;
    }
    *ret = p;
    return 0;
}

int poller_add(vdisk_queue *q, struct call *c)
{
    int rc = q->poller ? 0 : poller_create(&q->poller);

    assert(!queue_has_ring(q) && c->queue == q && c->place == CALL_POLLER);
    if (rc < 0)
        return rc;
    pthread_mutex_lock(&q->poller->lock);
    if (q->poller->count == POLLER_CALLS_MAX) {
        rc = -ENOBUFS;
    } else {
        list_add_tail(&q->poller->calls, &c->link);
        q->poller->count++;
    }
    pthread_mutex_unlock(&q->poller->lock);
    if (rc == 0)
        signal_fd(q->poller->wake_fd);
    return rc;
}

void poller_cancel(struct call *c)
{
    assert(c->queue->poller && atomic_load(&c->cancelled)); /* invariant 2 */
    signal_fd(c->queue->poller->wake_fd);
}

void poller_destroy(struct poller *p)
{
    if (!p)
        return;
    assert(p->count == 0);
    pthread_mutex_lock(&p->lock);
    p->stop = true;
    pthread_mutex_unlock(&p->lock);
    signal_fd(p->wake_fd);
    pthread_join(p->thread, NULL);
    close(p->wake_fd);
    pthread_mutex_destroy(&p->lock);
    mem_free(p);
}
