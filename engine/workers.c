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

#include "engine/queue.h"

enum { WORKERS_MAX = 8 };


struct workers {
    pthread_mutex_t  lock;
    pthread_cond_t   more;
    struct task_list jobs;
    unsigned         waiting; /* jobs not yet taken */
    unsigned         idle;
    unsigned         count;
    bool             stop;
    pthread_t        threads[WORKERS_MAX];
};

/* On the queue's thread: what a worker has done. */
static void job_done(struct task *t)
{
    struct io *io = container_of(t, struct io, task);

    assert(io->queue->worker_jobs > 0);
    io->queue->worker_jobs--;
    io_end(io, io->later);
}

static void *worker_main(void *arg)
{
    struct workers *w = arg;

    pthread_mutex_lock(&w->lock);
    for (;;) {
        while (!w->jobs.head && !w->stop) {
            w->idle++;
            pthread_cond_wait(&w->more, &w->lock);
            w->idle--;
        }
        if (!w->jobs.head)
            break;
        struct io *io = container_of(w->jobs.head, struct io, task);
        w->jobs.head = io->task.next;
        if (!w->jobs.head)
            task_list_init(&w->jobs);
        w->waiting--;
        pthread_mutex_unlock(&w->lock);

        io->later = io->blocking(io);
        io->task.run = job_done;
        queue_post(io->queue, &io->task);

        pthread_mutex_lock(&w->lock);
    }
    pthread_mutex_unlock(&w->lock);
    return NULL;
}

static struct workers *workers_create(void)
{
    struct workers *w = calloc(1, sizeof *w);

    if (!w)
        return NULL;
    pthread_mutex_init(&w->lock, NULL);
    pthread_cond_init(&w->more, NULL);
    task_list_init(&w->jobs);
    return w;
}

/* With the lock held. The host program's signal handlers are not to run on our threads. */
static void add_thread(struct workers *w)
{
    sigset_t all, old;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    if (pthread_create(&w->threads[w->count], NULL, worker_main, w) == 0)
        w->count++;
    pthread_sigmask(SIG_SETMASK, &old, NULL);
}

void workers_run(struct io *io, int64_t (*call)(struct io *))
{
    vdisk_queue *q = io->queue;
    struct workers *w = q->workers;

    io->blocking = call;
    if (q->host) {
        q->host->ops->work(io);
        return;
    }
    if (!w)
        w = q->workers = workers_create();
    if (!w) {
        io_end_later(io, -ENOMEM);
        return;
    }
    pthread_mutex_lock(&w->lock);
    if (w->waiting >= w->idle && w->count < WORKERS_MAX)
        add_thread(w);
    if (w->count == 0) {
        pthread_mutex_unlock(&w->lock);
        io_end_later(io, -ENOMEM); /* no thread can be had */
        return;
    }
    q->worker_jobs++;
    task_list_add(&w->jobs, &io->task);
    w->waiting++;
    pthread_cond_signal(&w->more);
    pthread_mutex_unlock(&w->lock);
}

void workers_destroy(struct workers *w)
{
    if (!w)
        return;
    pthread_mutex_lock(&w->lock);
    w->stop = true;
    pthread_cond_broadcast(&w->more);
    pthread_mutex_unlock(&w->lock);
    for (unsigned i = 0; i < w->count; i++)
        pthread_join(w->threads[i], NULL);
    pthread_cond_destroy(&w->more);
    pthread_mutex_destroy(&w->lock);
    free(w);
}
