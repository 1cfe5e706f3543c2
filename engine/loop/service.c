/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "engine/loop/service.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include "engine/base/error.h"
#include "engine/base/mem.h"
#include "engine/base/mutant.h"
#include "engine/base/point.h"
#include "engine/base/short_lock.h"
#include "engine/loop/after.h"
#include "engine/loop/queue.h"
#include "engine/volume.h"

enum { SERVICE_DEPTH = 4 };

static struct service *service_new(vdisk_queue *owner)
{
    enum vdisk_queue_kind kind = queue_has_ring(owner) ? VDISK_QUEUE_URING : VDISK_QUEUE_THREADS;
    struct vdisk_queue_opts opts = {.size = sizeof opts, .depth = SERVICE_DEPTH, .kind = kind};
    struct service *s = mem_calloc(1, sizeof *s);

    assert(!owner->service && !owner->serves && !owner->host);
    if (!s || vdisk_queue_create(&opts, &s->queue) < 0) {
        mem_free(s);
        return NULL;
    }
    pthread_mutex_init(&s->turn, NULL);
    pthread_mutex_init(&s->start, NULL);
    atomic_init(&s->owner, owner);
    atomic_init(&s->refs, 1); /* the owner's */
    s->queue->serves = s;
    s->queue->always_turned = true;
    service_owner_moved(s);
    return s;
}

static void unref(struct service *s)
{
    assert(atomic_load(&s->refs) > 0);
    if (atomic_fetch_sub(&s->refs, 1) > 1)
        return;
    if (atomic_load(&s->begun)) {
        atomic_store(&s->stop, true);
        signal_fd(s->queue->wake_fd);
        pthread_join(s->thread, NULL);
    }
    assert(atomic_load(&s->busy) == 0 && s->queue->serves == s);
    assert(!atomic_load(&s->owner)); /* invariant 2: it had a reference */
    s->queue->serves = NULL;
    vdisk_queue_destroy(s->queue);
    pthread_mutex_destroy(&s->turn);
    pthread_mutex_destroy(&s->start);
    mem_free(s);
}

/*
 * Completions and posts wake by `fd` from now on. A ring that cannot write it is given up: what workers have done
 * is posted. With `turn` held.
 */
static void wake_by(struct service *s, int fd)
{
    vdisk_queue *q = s->queue;
    int rc = 0;

    assert_locked(&s->turn);
    assert(fd >= 0 && !q->in_loop);
    if (queue_has_ring(q)) {
        io_uring_unregister_eventfd(&q->ring);
        if (fd != q->wake_fd)
            rc = ring_notify(q, fd);
    }
    atomic_store(&q->post_fd, fd);
    if (rc < 0 && !ENGINE_MUTANT(NOTIFY_UNCHECKED)) {
        ring_stop(q, rc);
        signal_fd(fd); /* there may be something to run now */
    }
}

void service_owner_moved(struct service *s)
{
    const vdisk_queue *owner = atomic_load(&s->owner);

    if (atomic_load(&s->threaded) || pthread_mutex_trylock(&s->turn) != 0)
        return; /* it has a thread: invariant 1 */
    if (owner && !atomic_load(&s->threaded))
        wake_by(s, atomic_load(&owner->post_fd));
    pthread_mutex_unlock(&s->turn);
}

void service_owner_goes(vdisk_queue *owner)
{
    struct service *s = owner->service;

    if (!s)
        return;
    assert(atomic_load(&s->owner) == owner && s->queue->serves == s);
    owner->service = NULL;
    /* Nobody may write the owner's eventfd any more: the thread sees to that when it begins, or we do here. */
    while (atomic_load(&s->queue->post_fd) != s->queue->wake_fd) {
        if (!atomic_load(&s->threaded) && pthread_mutex_trylock(&s->turn) == 0) {
            wake_by(s, s->queue->wake_fd);
            pthread_mutex_unlock(&s->turn);
        } else {
            sched_yield();
        }
    }
    queue_wait_for_posters(s->queue);
    atomic_store(&s->owner, NULL);
    unref(s);
}

void service_ring_stops(struct service *s, int rc)
{
    if (pthread_mutex_trylock(&s->turn) != 0)
        return; /* the thread has it, which enters the kernel by itself */
    if (!atomic_load(&s->threaded) && queue_has_ring(s->queue)) {
        const vdisk_queue *owner = queue_current;
        queue_current = s->queue; /* whose I/O goes to threads now */
        ring_result(s->queue, rc);
        queue_current = owner;
    }
    pthread_mutex_unlock(&s->turn);
}

/* ---- the thread ------------------------------------------------------------------------------------------ */

static void *service_main(void *arg)
{
    struct service *s = arg;
    vdisk_queue *q = s->queue;

    pthread_mutex_lock(&s->turn);
    assert(!atomic_load(&s->threaded) && q->serves == s); /* invariant 1 */
    atomic_store(&s->threaded, true);
    POINT("service: the thread has it");
    if (!ENGINE_MUTANT(SERVICE_WAKES_OWNER))
        wake_by(s, q->wake_fd);
    while (!atomic_load(&s->stop)) {
        queue_turn(q);
        if (unlikely(after_is_due())) {
            pthread_mutex_unlock(&s->turn); /* nobody else turns it: it has a thread */
            after_run();
            pthread_mutex_lock(&s->turn);
        }
        if (!q->ready.head && !atomic_load(&s->stop))
            queue_sleep(q, 1, NULL);
    }
    pthread_mutex_unlock(&s->turn);
    return NULL;
}

/* Without a thread the owner goes on, for himself only: false, and whoever needs one tries again. */
static bool start_thread(struct service *s)
{
    sigset_t all, old;
    bool started;

    pthread_mutex_lock(&s->start);
    started = atomic_load(&s->begun);
    if (!started) {
        sigfillset(&all); /* the host program's signal handlers are not to run on our thread */
        pthread_sigmask(SIG_SETMASK, &all, &old);
        started = pthread_create(&s->thread, NULL, service_main, s) == 0;
        pthread_sigmask(SIG_SETMASK, &old, NULL);
        atomic_store(&s->begun, started);
    }
    pthread_mutex_unlock(&s->start);
    return started;
}

/* ---- without a thread ------------------------------------------------------------------------------------ */

/* Of a queue: has a reference. */
struct service_want {
    struct service_want *next;
    struct service      *service;
};

/* `q` may come to wait for what only the owner turns as yet. Without memory for a note: its next request asks. */
static bool want_thread(struct service *s, vdisk_queue *q)
{
    struct service_want *w;

    if (start_thread(s))
        return true;
    for (w = q->wants; w; w = w->next)
        if (w->service == s)
            return false;
    w = ENGINE_MUTANT(SERVICE_UNWANTED) ? NULL : mem_alloc(sizeof *w);
    if (w) {
        atomic_fetch_add(&s->refs, 1);
        *w = (struct service_want){q->wants, s};
        q->wants = w;
    }
    return false;
}

bool service_is_wanted(const vdisk_queue *q)
{
    for (const struct service_want *w = q->wants; w; w = w->next)
        if (atomic_load(&w->service->busy) > 0)
            return true;
    return false;
}

const struct timespec *service_ask_again(vdisk_queue *q, const struct timespec *timeout)
{
    static const struct timespec soon = {.tv_nsec = 10000000};
    struct service_want *w, **at = &q->wants;

    assert(!q->in_loop);
    while ((w = *at)) {
        if (!start_thread(w->service)) {
            at = &w->next;
            continue;
        }
        *at = w->next;
        unref(w->service);
        mem_free(w);
    }
    if (!service_is_wanted(q) || (timeout && timeout->tv_sec == 0 && timeout->tv_nsec < soon.tv_nsec))
        return timeout;
    return &soon;
}

void service_want_none(vdisk_queue *q)
{
    struct service_want *w;

    while ((w = q->wants)) {
        q->wants = w->next;
        unref(w->service);
        mem_free(w);
    }
}

/* ---- volumes --------------------------------------------------------------------------------------------- */

/* Invariant 5. */
static bool is_turned_for(const struct service *s, const vdisk_queue *q)
{
    return atomic_load(&s->begun) || atomic_load(&s->owner) == q || ENGINE_MUTANT(SERVICE_UNTURNED);
}

/* Does `q` need it to have a thread, and it has none? Synchronous calls turn the queues of their own thread. */
static bool lacks_thread(const struct service *s, const vdisk *v, const vdisk_queue *q)
{
    if (likely(atomic_load(&s->begun) || atomic_load(&s->owner) == q))
        return false;
    if (atomic_load(&v->queue_seen) != VOLUME_SEEN_MANY)
        return false;
    return !q->always_turned || atomic_load(&v->thread_seen) != thread_number(q);
}

vdisk_queue *service_queue(vdisk *v, vdisk_queue *q)
{
    struct service *s;

    if (q->serves || q->host)
        return q;
    s = atomic_load_explicit(&v->service, memory_order_acquire);
    if (s && unlikely(lacks_thread(s, v, q)))
        want_thread(s, q);
    if (q->always_turned)
        return q;
    if (likely(s))
        return is_turned_for(s, q) ? s->queue : q;
    pthread_mutex_lock(&v->service_lock);
    s = atomic_load(&v->service);
    if (!s) {
        if (!q->service)
            q->service = service_new(q);
        s = q->service;
        if (s) {
            atomic_fetch_add(&s->refs, 1);
            if (atomic_load(&v->queue_seen) == VOLUME_SEEN_MANY)
                start_thread(s);
            atomic_store_explicit(&v->service, s, memory_order_release);
        }
    }
    pthread_mutex_unlock(&v->service_lock);
    return s && is_turned_for(s, q) ? s->queue : q;
}

void service_meet(vdisk *v, vdisk_queue *q)
{
    uint64_t seen = 0;
    struct service *s;

    if (q->host || q->serves || ENGINE_MUTANT(SERVICE_IDLE))
        return;
    if (!q->always_turned && atomic_compare_exchange_strong(&v->queue_seen, &seen, q->id + UINT64_C(1))) {
        atomic_store(&v->thread_seen, thread_number(q));
        return;
    }
    /* A synchronous call turns the queues of its own thread. */
    if (q->always_turned &&
        (atomic_load(&v->queue_seen) == 0 || atomic_load(&v->thread_seen) == thread_number(q)))
        return;
    pthread_mutex_lock(&v->service_lock);
    s = atomic_load(&v->service);
    if (!s || want_thread(s, q))
        atomic_store(&v->queue_seen, VOLUME_SEEN_MANY);
    pthread_mutex_unlock(&v->service_lock);
}

void service_leave(vdisk *v)
{
    struct service *s = atomic_exchange(&v->service, NULL);

    if (s)
        unref(s);
}

/* ---- turning --------------------------------------------------------------------------------------------- */

/* The kernel could not for now, or has refused: no completion may come that would bring the owner here again. */
static bool has_rest(vdisk_queue *q)
{
    return q->ready.head || q->starved.head || (queue_has_ring(q) && ring_to_send(q));
}

bool service_turn(struct service *s, vdisk_queue *owner)
{
    vdisk_queue *q = s->queue;
    bool ran = false;

    if (atomic_load_explicit(&s->busy, memory_order_relaxed) == 0 || atomic_load(&s->threaded) ||
        pthread_mutex_trylock(&s->turn) != 0)
        return false;
    assert(owner->service == s && !owner->in_loop);
    if (!atomic_load(&s->threaded) && !q->in_loop) {
        assert(!queue_outer && atomic_load(&s->owner) == owner);
        queue_outer = owner;
        do
            ran |= queue_turn(q);
        while (q->ready.head || atomic_load(&q->remote));
        if (queue_has_ring(q))
            ring_submit(q);
        if (has_rest(q) && !ENGINE_MUTANT(SERVICE_UNSENT))
            signal_fd(atomic_load(&q->post_fd));
        queue_outer = NULL;
        queue_current = owner;
    }
    pthread_mutex_unlock(&s->turn);
    return ran;
}

void service_begin(vdisk_queue *q)
{
    if (q->serves)
        atomic_fetch_add(&q->serves->busy, 1);
}

void service_end(vdisk_queue *q)
{
    assert(!q->serves || atomic_load(&q->serves->busy) > 0);
    if (q->serves)
        atomic_fetch_sub(&q->serves->busy, 1);
}
