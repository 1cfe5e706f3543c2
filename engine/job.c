/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Any job: begin, progress, cancel, end. What each kind does is in its own file.
 *
 * Happy path: vdisk_job_start() takes a request from the queue, begins a thread, which works, gives its queue
 * back, and posts the request; the queue's loop hands it out. Failure modes: there is no thread: as if nothing
 * had been asked for.
 */
#include "engine/job.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/bits.h"
#include "engine/base/clock.h"
#include "engine/base/error.h"
#include "engine/base/mem.h"
#include "engine/base/point.h"
#include "engine/loop/queue.h"
#include "engine/volume.h"

enum { NS_PER_S = 1000000000 };

static uint64_t now_ns(void)
{
    struct timespec t;

    clock_now(queue_host ? queue_host->clock : NULL, &t);
    return (uint64_t)t.tv_sec * NS_PER_S + (uint64_t)t.tv_nsec;
}

int job_init(vdisk_job *j, const struct job_kind *kind, const char *name, vdisk *volume)
{
    assert(!j->kind && kind->name && kind->work && kind->release);
    assert(atomic_load(&j->state) == VDISK_JOB_NEW);
    process_watch();
    j->kind = kind;
    j->volume = volume;
    j->generation = process_generation;
    if (volume)
        atomic_fetch_add(&volume->jobs, 1);
    j->name = mem_strdup(name);
    return j->name ? 0 : err_set(ENOMEM, "%s: out of memory", name);
}

int job_hold(vdisk_job *j, vdisk *const *volumes, unsigned n)
{
    assert(!j->held && j->held_count == 0);
    j->held = mem_calloc(n + 1, sizeof(vdisk *));
    if (!j->held)
        return err_set(ENOMEM, "%s: out of memory", j->name);
    for (unsigned i = 0; i < n; i++) {
        j->held[i] = volumes[i];
        atomic_fetch_add(&volumes[i]->jobs, 1);
    }
    j->held_count = n;
    return 0;
}

/* ---- steps ------------------------------------------------------------------------------------------- */

int job_step(void *arg, uint64_t done, uint64_t total)
{
    vdisk_job *j = arg;
    uint64_t all;
    int stop = 0;

    assert(atomic_load(&j->state) == VDISK_JOB_RUNNING);
    if (done < j->part_done) /* invariant 4 */
        j->base += j->part_done;
    j->part_done = done;
    all = j->base + max_u64(total, done);
    if (all > atomic_load_explicit(&j->total, memory_order_relaxed))
        atomic_store_explicit(&j->total, all, memory_order_relaxed);
    assert(j->base + done >= atomic_load_explicit(&j->done, memory_order_relaxed)); /* invariant 4 */
    atomic_store_explicit(&j->done, j->base + done, memory_order_release);
    if (j->progress)
        stop = j->progress(j->progress_arg, done, total);
    return stop || atomic_load_explicit(&j->cancelled, memory_order_relaxed);
}

void job_watch(vdisk_job *j, vdisk_progress_fn **progress, void **progress_arg)
{
    assert(*progress != job_step && !j->progress);
    j->progress = *progress;
    j->progress_arg = *progress_arg;
    *progress = job_step;
    *progress_arg = j;
}

void vdisk_job_cancel(vdisk_job *j)
{
    if (j)
        atomic_store(&j->cancelled, true);
}

/* ---- the work ---------------------------------------------------------------------------------------- */

/* 0; or why this job cannot be used. */
static int check_job(const vdisk_job *j)
{
    if (!j)
        return err_set(EINVAL, "no job is given");
    if (j->generation != process_generation)
        return err_set(ECHILD, "%s: the %s is the parent process's", j->name, j->kind->name);
    return 0;
}

/* NEW -> RUNNING. */
static int begin(vdisk_job *j)
{
    unsigned state = VDISK_JOB_NEW;
    int rc = check_job(j);

    if (rc < 0)
        return rc;
    if (!atomic_compare_exchange_strong(&j->state, &state, VDISK_JOB_RUNNING))
        return err_hint(err_set(EBUSY, "%s: this %s has been run already", j->name, j->kind->name),
                        "a job is run once: make another");
    return 0;
}

/* Invariant 3: it has nothing to do with its volumes any more. */
static void leave_volumes(vdisk_job *j)
{
    assert(!j->volume || atomic_load(&j->volume->jobs) > 0);
    if (j->volume)
        atomic_fetch_sub(&j->volume->jobs, 1);
    j->volume = NULL;
    for (unsigned i = 0; i < j->held_count; i++) {
        assert(atomic_load(&j->held[i]->jobs) > 0);
        atomic_fetch_sub(&j->held[i]->jobs, 1);
    }
    j->held_count = 0;
    mem_free(j->held);
    j->held = NULL;
}

/* RUNNING -> ENDED. */
static int work(vdisk_job *j)
{
    assert(atomic_load(&j->state) == VDISK_JOB_RUNNING); /* invariant 1 */
    atomic_store(&j->begun_ns, now_ns());
    if (atomic_load(&j->cancelled))
        j->rc = err_set(ECANCELED, "%s: the %s was cancelled before it began", j->name, j->kind->name);
    else
        j->rc = j->kind->work(j);
    assert(j->rc <= 0);
    if (j->rc == 0) /* what was left is little */
        atomic_store(&j->done, atomic_load(&j->total));
    if (j->rc < 0) {
        strncat(j->text, vdisk_error_text(), sizeof j->text - 1);
        strncat(j->hint, vdisk_error_hint(), sizeof j->hint - 1);
    }
    atomic_store(&j->ended_ns, now_ns());
    return j->rc;
}

static int run(vdisk_job *j)
{
    int rc = begin(j);

    if (rc < 0)
        return rc;
    rc = work(j);
    leave_volumes(j);
    atomic_store(&j->state, VDISK_JOB_ENDED); /* another thread may free it now */
    return rc;
}

int vdisk_job_run(vdisk_job *j)
{
    return ERR_CALL(run(j));
}

int job_run_once(vdisk_job *j)
{
    int rc = run(j);

    vdisk_job_free(j);
    return rc;
}

/* ---- on a queue -------------------------------------------------------------------------------------- */

/* In the loop of the queue that it was started on. The job itself may be gone. */
static void hand_in(struct task *t)
{
    struct request *r = container_of(t, struct request, io.task);

    assert(r->queue->in_loop && r->state == REQUEST_STARTED && !r->vdisk);
    assert(r->queue->worker_jobs > 0);
    r->queue->worker_jobs--;
    request_hand_in(r, r->result);
}

static void *job_main(void *arg)
{
    vdisk_job *j = arg;
    struct request *r = j->request;

    r->result = ERR_CALL(work(j));
    thread_release(); /* invariant 2 */
    leave_volumes(j);
    POINT("job: done");
    atomic_store(&j->state, VDISK_JOB_ENDED);
    POINT("job: about to post");
    r->io.task.run = hand_in;
    queue_post(r->queue, &r->io.task);
    return NULL;
}

/* The host program's signal handlers are not to run on our threads. */
static int start_thread(vdisk_job *j)
{
    sigset_t all, old;
    int rc;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    rc = pthread_create(&j->thread, NULL, job_main, j);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return -rc;
}

static int check_queue(const vdisk_job *j, const vdisk_queue *q)
{
    int rc = queue_check_handle(q);

    if (rc < 0)
        return err_set(rc, "%s: the queue for the %s: %s", j->name, j->kind->name, strerror(-rc));
    if (q->host)
        return err_hint(err_set(ENOTSUP, "%s: a simulation has no threads for jobs", j->name),
                        "use vdisk_job_run()");
    return 0;
}

static int start(vdisk_job *j, vdisk_queue *q, uint64_t user_data)
{
    int rc = check_job(j);

    if (rc == 0)
        rc = check_queue(j, q);
    if (rc == 0)
        rc = begin(j);
    if (rc < 0)
        return rc;
    assert(!j->has_thread && !q->in_loop);
    thread_adopt(q);
    j->request = request_get(q);
    j->request->user_data = user_data;
    j->request->vdisk = NULL;
    q->worker_jobs++;
    j->has_thread = true; /* before there is one, which may be done at once */
    rc = start_thread(j);
    if (rc == 0)
        return 0;
    assert(q->worker_jobs > 0 && j->request->state == REQUEST_STARTED);
    q->worker_jobs--;
    request_give_back(j->request);
    j->has_thread = false;
    atomic_store(&j->state, VDISK_JOB_NEW);
    return err_hint(err_set(rc, "%s: a thread for the %s: %s", j->name, j->kind->name, strerror(-rc)),
                    "raise the limit of processes (ulimit -u), or try again");
}

int vdisk_job_start(vdisk_job *j, vdisk_queue *q, uint64_t user_data)
{
    return ERR_CALL(start(j, q, user_data));
}

/* ---- what can be asked ------------------------------------------------------------------------------- */

static void fill_rate(struct vdisk_job_progress *p, uint64_t begun, uint64_t ended)
{
    uint64_t ns = begun ? (ended ? ended : now_ns()) - begun : 0;
    double rate = ns > 0 ? (double)p->bytes_done * NS_PER_S / (double)ns : 0.0;

    assert(p->bytes_total == 0 || p->bytes_done <= p->bytes_total);
    p->bytes_per_second = rate < 1e18 ? (uint64_t)rate : (uint64_t)1e18;
    if (p->state == VDISK_JOB_ENDED)
        p->seconds_left = 0;
    else if (p->bytes_total > 0 && rate >= 1.0)
        p->seconds_left = (uint64_t)((double)(p->bytes_total - p->bytes_done) / rate);
    else
        p->seconds_left = UINT64_MAX;
}

static int get_progress(const vdisk_job *j, struct vdisk_job_progress *ret)
{
    struct vdisk_job_progress p = {.size = ret ? ret->size : 0};
    int rc = check_job(j);

    if (rc < 0)
        return rc;
    if (p.size < sizeof(size_t) || p.size > 4096)
        return err_set(EINVAL, "%s: progress struct of size %zu", j->name, p.size);
    p.state = (enum vdisk_job_state)atomic_load(&j->state);
    p.result = p.state == VDISK_JOB_ENDED ? j->rc : 0;
    p.bytes_done = atomic_load_explicit(&j->done, memory_order_acquire);
    p.bytes_total = atomic_load_explicit(&j->total, memory_order_relaxed);
    if (p.bytes_total > 0)
        p.bytes_total = max_u64(p.bytes_total, p.bytes_done);
    fill_rate(&p, atomic_load(&j->begun_ns), atomic_load(&j->ended_ns));
    memcpy(ret, &p, min_u64(p.size, sizeof p));
    return 0;
}

int vdisk_job_get_progress(const vdisk_job *j, struct vdisk_job_progress *ret_progress)
{
    return ERR_CALL(get_progress(j, ret_progress));
}

static bool has_ended(const vdisk_job *j)
{
    return j && atomic_load(&j->state) == VDISK_JOB_ENDED;
}

const char *vdisk_job_get_error_text(const vdisk_job *j)
{
    return has_ended(j) ? j->text : "";
}

const char *vdisk_job_get_error_hint(const vdisk_job *j)
{
    return has_ended(j) ? j->hint : "";
}

int job_check_result(const vdisk_job *j, const struct job_kind *kind, const void *ret, size_t size)
{
    int rc = check_job(j);

    if (rc < 0)
        return rc;
    if (j->kind != kind)
        return err_set(EINVAL, "%s: the job is a %s, not a %s", j->name, j->kind->name, kind->name);
    if (!ret || size < sizeof(size_t) || size > 4096)
        return err_set(EINVAL, "%s: result struct of size %zu", j->name, size);
    if (!has_ended(j))
        return err_hint(err_set(EBUSY, "%s: the %s has not ended", j->name, kind->name),
                        "reap its completion first");
    return j->rc < 0 ? err_hint(err_set(j->rc, "%s", j->text), "%s", j->hint) : 0;
}

static int free_job(vdisk_job *j)
{
    int rc;

    if (!j)
        return 0;
    rc = check_job(j);
    if (rc < 0)
        return rc;
    if (atomic_load(&j->state) == VDISK_JOB_RUNNING)
        return err_hint(err_set(EBUSY, "%s: the %s is under way", j->name, j->kind->name),
                        "cancel it, and reap its completion");
    rc = j->kind->leave ? j->kind->leave(j) : 0;
    if (rc < 0)
        return rc;
    if (j->has_thread)
        pthread_join(j->thread, NULL);
    leave_volumes(j);
    mem_free(j->name);
    j->kind->release(j);
    return 0;
}

/* Called to clean up after a failure, too: the text of that stays. */
int vdisk_job_free(vdisk_job *j)
{
    return ERR_KEEP(free_job(j));
}
