/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "engine/loop/thread.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/error.h"
#include "engine/base/mem.h"
#include "engine/loop/grower.h"
#include "engine/loop/queue.h"

enum { SYNC_DEPTH = 64, POLL_MAX = 64 };

struct thread_queues {
    pthread_mutex_t lock; /* the list: another thread may destroy a queue */
    struct list     queues;
    _Atomic unsigned count; /* changed under the lock, read without */
    uint32_t        generation;
    uint64_t        number;
    vdisk_queue    *sync;
};

uint32_t process_generation;

static _Thread_local struct thread_queues *mine;
static _Atomic uint64_t threads;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static pthread_key_t key; /* for its destructor */
static bool have_key;

/* Whether a queue has a thread: that may end while another destroys the queue. Before a thread's own lock. */
static pthread_mutex_t ends = PTHREAD_MUTEX_INITIALIZER;

static void in_child(void)
{
    process_generation++;
    pthread_mutex_init(&ends, NULL); /* a thread of the parent may have held it */
    pairs_in_child();
    growers_in_child();
}

static void thread_ends(void *arg)
{
    struct thread_queues *t = arg;
    struct list *node;
    vdisk_queue *sync = t->sync;

    mine = NULL;
    if (t->generation != process_generation)
        return; /* the parent's: its lock may be held for ever */
    pthread_mutex_lock(&ends);
    while ((node = list_pop(&t->queues))) {
        vdisk_queue *q = container_of(node, vdisk_queue, thread_node);
        assert(q->thread == t && !q->serves); /* invariant 1 */
        q->thread = NULL;
        q->pair = &pair_none; /* the next request is to find it a thread */
    }
    pthread_mutex_unlock(&ends);
    vdisk_queue_destroy(sync);
    pthread_mutex_destroy(&t->lock);
    mem_free(t);
}

static void set_up(void)
{
    pthread_atfork(NULL, NULL, in_child);
    have_key = pthread_key_create(&key, thread_ends) == 0;
}

void process_watch(void)
{
    pthread_once(&once, set_up);
}

void thread_release(void)
{
    if (queue_host) {
        vdisk_queue_destroy(queue_host->sync);
        queue_host->sync = NULL;
    }
    if (mine && pthread_setspecific(key, NULL) == 0)
        thread_ends(mine);
}

/* The library goes before some threads do. */
__attribute__((destructor)) static void tear_down(void)
{
    if (!have_key)
        return;
    thread_release();
    pthread_key_delete(key);
    have_key = false;
}

static struct thread_queues *my_queues(void)
{
    struct thread_queues *t = mine;

    if (likely(t && t->generation == process_generation))
        return t;
    process_watch();
    t = mem_calloc(1, sizeof *t); /* what a forked child finds of its parent's stays as it is */
    if (!t)
        return NULL;
    pthread_mutex_init(&t->lock, NULL);
    list_init(&t->queues);
    t->generation = process_generation;
    t->number = atomic_fetch_add(&threads, 1) + 1;
    if (!have_key || pthread_setspecific(key, t) != 0) {
        pthread_mutex_destroy(&t->lock);
        mem_free(t);
        return NULL;
    }
    mine = t;
    return t;
}

void thread_adopt(vdisk_queue *q)
{
    struct thread_queues *t = my_queues();

    if (!t || q->thread)
        return;
    assert(list_empty(&q->thread_node) && !q->serves && !q->host);
    pthread_mutex_lock(&t->lock);
    q->thread = t;
    list_add_tail(&t->queues, &q->thread_node);
    t->count++;
    pthread_mutex_unlock(&t->lock);
}

void thread_forget(vdisk_queue *q)
{
    struct thread_queues *t;

    pthread_mutex_lock(&ends);
    t = q->thread;
    if (t) {
        pthread_mutex_lock(&t->lock);
        assert(t->count > 0 && !list_empty(&q->thread_node)); /* invariant 1 */
        list_del(&q->thread_node);
        t->count--;
        pthread_mutex_unlock(&t->lock);
    }
    q->thread = NULL;
    pthread_mutex_unlock(&ends);
}

bool thread_is_other(const vdisk_queue *q)
{
    return q->thread && q->thread != mine;
}

uint64_t thread_number(const vdisk_queue *q)
{
    return q->thread ? q->thread->number : 0;
}

int thread_sync_queue(vdisk_queue **ret_queue)
{
    struct vdisk_queue_opts opts = {.size = sizeof opts, .depth = SYNC_DEPTH};
    struct thread_queues *t = my_queues();
    vdisk_queue **sync = queue_host ? &queue_host->sync : t ? &t->sync : NULL;
    int rc;

    if (!sync)
        return err_set(ENOMEM, "queue: out of memory");
    if (!*sync) {
        rc = vdisk_queue_create(&opts, sync);
        if (rc == -EMFILE || rc == -ENFILE)
            err_hint(rc, "raise the limit of open files (ulimit -n)");
        if (rc < 0)
            return rc;
        (*sync)->always_turned = true;
    }
    assert((*sync)->always_turned && !(*sync)->serves && !(*sync)->in_loop);
    *ret_queue = *sync;
    return 0;
}

static bool is_busy(const vdisk_queue *other, const vdisk_queue *q)
{
    return other != q && other->inflight > 0 && !other->in_loop;
}

bool thread_others_busy(const vdisk_queue *q)
{
    struct thread_queues *t = q->thread;
    bool busy = false;

    if (likely(!t || t != mine || t->count < 2))
        return false;
    pthread_mutex_lock(&t->lock);
    for (struct list *n = t->queues.next; n != &t->queues && !busy; n = n->next)
        busy = is_busy(container_of(n, vdisk_queue, thread_node), q);
    pthread_mutex_unlock(&t->lock);
    return busy;
}

/* Turn each that is busy, and say where the next sign of life comes from. True: one of them made a step. */
static bool turn_others(struct thread_queues *t, vdisk_queue *q, struct pollfd *fds, unsigned *ret_count,
                        bool *ret_all)
{
    bool ran = false;

    assert(t == mine && queue_current == q);
    pthread_mutex_lock(&t->lock);
    for (struct list *n = t->queues.next; n != &t->queues; n = n->next) {
        vdisk_queue *other = container_of(n, vdisk_queue, thread_node);
        if (!is_busy(other, q))
            continue;
        int fd = *ret_count < POLL_MAX ? queue_user_fd(other) : -EMFILE;
        queue_clear(other);
        ran |= queue_turn(other);
        ran |= queue_submit(other) == 0 && queue_has_steps(other);
        if (fd >= 0)
            fds[(*ret_count)++] = (struct pollfd){.fd = fd, .events = POLLIN};
        else
            *ret_all = false;
    }
    pthread_mutex_unlock(&t->lock);
    queue_current = q;
    return ran;
}

int thread_sleep(vdisk_queue *q, const struct timespec *timeout)
{
    static const struct timespec blink = {.tv_nsec = 1000000}; /* where there is no descriptor to sleep on */
    struct pollfd fds[POLL_MAX + 2];
    unsigned count = 0;
    bool all = true;
    int n, fd = queue_user_fd(q);

    assert(!q->in_loop && !q->host); /* those of a simulation belong to no thread */
    if (fd >= 0)
        fds[count++] = (struct pollfd){.fd = fd, .events = POLLIN};
    else
        all = false;
    if (turn_others(q->thread, q, fds, &count, &all))
        return 0;
    queue_clear(q);
    n = queue_submit(q);
    if (n < 0)
        return n;
    if (queue_has_steps(q))
        return 0;
    assert(count < ARRAY_LEN(fds));
    n = queue_poll_beside(q, fds, count, !all && !timeout ? &blink : timeout);
    return n == -ETIME && !all && !timeout ? 0 : n;
}

void thread_tell_others(const vdisk_queue *q)
{
    struct thread_queues *t = q->thread;

    if (likely(!t || t != mine || t->count < 2))
        return;
    pthread_mutex_lock(&t->lock);
    for (struct list *n = t->queues.next; n != &t->queues; n = n->next) {
        vdisk_queue *other = container_of(n, vdisk_queue, thread_node);
        if (other != q)
            queue_tell(other);
    }
    pthread_mutex_unlock(&t->lock);
}
