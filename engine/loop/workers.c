/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A queue's worker threads: they make the blocking calls for which the kernel offers no ring operation, and all
 * calls where io_uring is refused. Started on first need, joined when the queue goes. A simulated queue has none:
 * its host makes the calls.
 */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include "engine/base/bits.h"
#include "engine/base/mem.h"
#include "engine/base/short_lock.h"
#include "engine/loop/queue.h"

/* As many as there are processors, but as many as these for calls that block, and no more than those. */
enum { WORKERS_LEAST = 8, WORKERS_MAX = 64 };

struct workers {
    pthread_mutex_t  lock;
    pthread_cond_t   more;
    struct task_list jobs;
    unsigned         waiting; /* jobs not yet taken */
    unsigned         idle;
    unsigned         count, most;
    bool             stop;
    pthread_t        threads[WORKERS_MAX];
};

static void *worker_main(void *arg)
{
    struct workers *w = arg;

    pthread_mutex_lock(&w->lock);
    for (;;) {
        while (!w->jobs.head && !w->stop) {
            w->idle++;
            pthread_cond_wait(&w->more, &w->lock);
            assert(w->idle > 0 && w->idle <= w->count);
            w->idle--;
        }
        if (!w->jobs.head)
            break;
        struct task *t = w->jobs.head;
        w->jobs.head = t->next;
        if (!w->jobs.head)
            task_list_init(&w->jobs);
        assert(w->waiting > 0);
        w->waiting--;
        pthread_mutex_unlock(&w->lock);

        t->run(t); /* and gone: it is its queue's again */

        pthread_mutex_lock(&w->lock);
    }
    pthread_mutex_unlock(&w->lock);
    return NULL;
}

static uint64_t processors(void)
{
    long n = sysconf(_SC_NPROCESSORS_ONLN);

    return n > 0 ? (uint64_t)n : 1;
}

static struct workers *workers_create(void)
{
    struct workers *w = mem_calloc(1, sizeof *w);

    if (!w)
        return NULL;
    pthread_mutex_init(&w->lock, NULL);
    pthread_cond_init(&w->more, NULL);
    task_list_init(&w->jobs);
    w->most = (unsigned)max_u64(WORKERS_LEAST, min_u64(WORKERS_MAX, processors()));
    return w;
}

/* The host program's signal handlers are not to run on our threads. */
static void add_thread(struct workers *w)
{
    assert_locked(&w->lock);
    assert(w->count < w->most && w->most <= WORKERS_MAX && w->idle <= w->count);
    sigset_t all, old;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    if (pthread_create(&w->threads[w->count], NULL, worker_main, w) == 0)
        w->count++;
    pthread_sigmask(SIG_SETMASK, &old, NULL);
}

int workers_start(vdisk_queue *q, struct task *t)
{
    struct workers *w = q->workers;
    bool started;

    assert(!q->host && q->worker_jobs > 0); /* this one is counted */
    if (!w)
        w = q->workers = workers_create();
    if (!w)
        return -ENOMEM;
    pthread_mutex_lock(&w->lock);
    assert(!w->stop && (w->jobs.head != NULL) == (w->waiting > 0));
    if (w->waiting >= w->idle && w->count < w->most)
        add_thread(w);
    started = w->count > 0; /* else no thread can be had */
    if (started) {
        task_list_add(&w->jobs, t);
        w->waiting++;
        pthread_cond_signal(&w->more);
    }
    pthread_mutex_unlock(&w->lock);
    return started ? 0 : -ENOMEM;
}

static void make_call(struct task *t)
{
    struct io *io = container_of(t, struct io, task);

    io_end_foreign(io, io->blocking(io));
}

void workers_run(struct io *io, int64_t (*call)(struct io *))
{
    vdisk_queue *q = io->queue;
    int rc;

    io->blocking = call;
    if (q->host) {
        q->host->ops->work(io);
        return;
    }
    io->task.run = make_call;
    io_elsewhere(io);
    rc = workers_start(q, &io->task);
    if (rc == 0)
        return;
    q->worker_jobs--;
    io_end_later(io, rc);
}

bool workers_take_back(struct io *io)
{
    struct workers *w = io->queue->workers;
    bool taken;

    if (!w)
        return false;
    pthread_mutex_lock(&w->lock);
    /* Who has it may change `tries`: that is looked at where it is nobody's. */
    taken = task_list_has(&w->jobs, &io->task) && io->moved == 0 && io->tries == 0 &&
            task_list_take(&w->jobs, &io->task);
    assert(!taken || (w->waiting > 0 && io->queue->worker_jobs > 0));
    w->waiting -= taken;
    pthread_mutex_unlock(&w->lock);
    io->queue->worker_jobs -= taken;
    return taken;
}

void workers_destroy(struct workers *w)
{
    if (!w)
        return;
    pthread_mutex_lock(&w->lock);
    assert(!w->stop && !w->jobs.head && w->waiting == 0);
    w->stop = true;
    pthread_cond_broadcast(&w->more);
    pthread_mutex_unlock(&w->lock);
    for (unsigned i = 0; i < w->count; i++)
        pthread_join(w->threads[i], NULL);
    pthread_cond_destroy(&w->more);
    pthread_mutex_destroy(&w->lock);
    mem_free(w);
}
