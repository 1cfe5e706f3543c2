/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A queue's worker threads: they make the blocking calls for which the kernel offers no ring operation, and all
 * calls where io_uring is refused. Started on first need, joined when the queue goes. A simulated queue has none:
 * its host makes the calls.
 *
 * A call that blocks has a thread as soon as there is one. Of computations there are no more at work than
 * processors: else each would have a share of one, all would end late and at once, and what they feed, or what
 * feeds them, would stand still meanwhile.
 *
 * Invariants, under `lock`.
 *  1. `computing` is how many of them are at work: no more than `processors`.
 *  2. A thread sleeps only where nothing waits that may begin, or a wake-up is on its way to it.
 *  3. Neither kind waits for ever for the other: they take turns where both may begin.
 */
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include "engine/base/bits.h"
#include "engine/base/mem.h"
#include "engine/base/short_lock.h"
#include "engine/loop/after.h"
#include "engine/loop/queue.h"

/* As many as there are processors, but as many as these for calls that block, and no more than those. */
enum { WORKERS_LEAST = 8, WORKERS_MAX = 64 };

struct workers {
    pthread_mutex_t  lock;
    pthread_cond_t   more;
    struct task_list calls, computations; /* not yet taken */
    unsigned         calls_count, computations_count;
    unsigned         computing, processors;
    bool             computation_last; /* taken */
    unsigned         idle;
    unsigned         count, most;
    bool             stop;
    pthread_t        threads[WORKERS_MAX];
};

/* Of those that wait, how many may begin. */
static unsigned may_begin(const struct workers *w)
{
    assert_locked(&w->lock);
    assert(w->computing <= w->processors); /* invariant 1 */
    return w->calls_count + (unsigned)min_u64(w->computations_count, w->processors - w->computing);
}

static struct task *take_first(struct task_list *l)
{
    struct task *t = l->head;

    l->head = t->next;
    if (!l->head)
        task_list_init(l);
    return t;
}

/* One that may begin; NULL: there is none. */
static struct task *take_job(struct workers *w)
{
    bool computation = w->computations_count > 0 && w->computing < w->processors;

    if (may_begin(w) == 0)
        return NULL;
    computation = computation && (w->calls_count == 0 || !w->computation_last); /* invariant 3 */
    w->computation_last = computation;
    if (!computation) {
        w->calls_count--;
        return take_first(&w->calls);
    }
    w->computations_count--;
    w->computing++;
    return take_first(&w->computations);
}

static void *worker_main(void *arg)
{
    struct workers *w = arg;
    bool computation;
    struct task *t;

    pthread_mutex_lock(&w->lock);
    for (;;) {
        t = take_job(w);
        if (!t && w->stop)
            break;
        if (!t) {
            w->idle++;
            pthread_cond_wait(&w->more, &w->lock);
            assert(w->idle > 0 && w->idle <= w->count);
            w->idle--;
            continue;
        }
        computation = w->computation_last;
        pthread_mutex_unlock(&w->lock);

        t->run(t); /* and gone: it is its queue's again */

        pthread_mutex_lock(&w->lock);
        w->computing -= computation; /* one that waits begins here: invariant 2 */
        if (after_is_due()) { /* the program may be slow, and may ask for what others of these do */
            pthread_cond_signal(&w->more); /* invariant 2 */
            pthread_mutex_unlock(&w->lock);
            after_run();
            pthread_mutex_lock(&w->lock);
        }
    }
    pthread_mutex_unlock(&w->lock);
    return NULL;
}

/* Those that this thread, and so its workers, may use. */
static unsigned processors(void)
{
    cpu_set_t set;
    long n = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : sysconf(_SC_NPROCESSORS_ONLN);

    return n > 0 ? (unsigned)min_u64((uint64_t)n, WORKERS_MAX) : 1;
}

static struct workers *workers_create(void)
{
    struct workers *w = mem_calloc(1, sizeof *w);

    if (!w)
        return NULL;
    pthread_mutex_init(&w->lock, NULL);
    pthread_cond_init(&w->more, NULL);
    task_list_init(&w->calls);
    task_list_init(&w->computations);
    w->processors = processors();
    w->most = (unsigned)max_u64(WORKERS_LEAST, w->processors);
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

static void add_job(struct workers *w, struct task *t, bool computes)
{
    assert_locked(&w->lock);
    task_list_add(computes ? &w->computations : &w->calls, t);
    w->calls_count += !computes;
    w->computations_count += computes;
}

int workers_start(vdisk_queue *q, struct task *t, bool computes)
{
    struct workers *w = q->workers;
    bool started, begins;
    unsigned before;

    assert(!q->host && q->worker_jobs > 0); /* this one is counted */
    if (!w)
        w = q->workers = workers_create();
    if (!w)
        return -ENOMEM;
    pthread_mutex_lock(&w->lock);
    assert(!w->stop && (w->calls.head != NULL) == (w->calls_count > 0));
    assert((w->computations.head != NULL) == (w->computations_count > 0));
    before = may_begin(w);
    begins = !computes || w->computing + w->computations_count < w->processors;
    if (begins && before >= w->idle && w->count < w->most)
        add_thread(w);
    started = w->count > 0; /* else no thread can be had */
    if (started)
        add_job(w, t, computes);
    pthread_mutex_unlock(&w->lock);
    if (started && begins)
        pthread_cond_signal(&w->more);
    return started ? 0 : -ENOMEM;
}

static void end_call(struct task *t)
{
    struct io *io = container_of(t, struct io, task);

    assert(io->queue->worker_jobs > 0);
    io->queue->worker_jobs--;
    io_end(io, io->later);
}

static void make_call(struct task *t)
{
    struct io *io = container_of(t, struct io, task);

    io->later = io->blocking(io);
    t->run = end_call;
    queue_post(io->queue, t);
}

static void run(struct io *io, int64_t (*call)(struct io *), bool computes)
{
    vdisk_queue *q = io->queue;
    int rc;

    io->blocking = call;
    if (q->host) {
        q->host->ops->work(io);
        return;
    }
    io->task.run = make_call;
    assert(queue_is_mine(q));
    q->worker_jobs++;
    rc = workers_start(q, &io->task, computes);
    if (rc == 0)
        return;
    q->worker_jobs--;
    io_end_later(io, rc);
}

void workers_run(struct io *io, int64_t (*call)(struct io *))
{
    run(io, call, false);
}

void workers_compute(struct io *io, int64_t (*compute)(struct io *))
{
    run(io, compute, true);
}

bool workers_take_back(struct io *io)
{
    struct workers *w = io->queue->workers;
    bool taken;

    if (!w)
        return false;
    pthread_mutex_lock(&w->lock);
    /* Who has it may change `tries`: that is looked at where it is nobody's. */
    taken = task_list_has(&w->calls, &io->task) && io->moved == 0 && io->tries == 0 &&
            task_list_take(&w->calls, &io->task);
    assert(!taken || (w->calls_count > 0 && io->queue->worker_jobs > 0));
    w->calls_count -= taken;
    pthread_mutex_unlock(&w->lock);
    io->queue->worker_jobs -= taken;
    return taken;
}

void workers_destroy(struct workers *w)
{
    if (!w)
        return;
    pthread_mutex_lock(&w->lock);
    assert(!w->stop && w->calls_count == 0 && w->computations_count == 0);
    w->stop = true;
    pthread_cond_broadcast(&w->more);
    pthread_mutex_unlock(&w->lock);
    for (unsigned i = 0; i < w->count; i++)
        pthread_join(w->threads[i], NULL);
    pthread_cond_destroy(&w->more);
    pthread_mutex_destroy(&w->lock);
    mem_free(w);
}
