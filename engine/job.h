/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Jobs: what takes long and is no request. The public side is vdisk-image.h.
 *
 * The mechanism. What a job does is written as a function that blocks (struct job_kind's work), by way of the
 * calling thread's own queue (volume_queue()): ops where things go on at once, one after another else. So
 * vdisk_job_run() calls it where it is, and vdisk_job_start() gives it a thread, whose own queue it then is; no
 * loop waits for it, and kinds of queues, fallbacks and the service thread are found as by any thread that
 * makes synchronous calls. All that it shares with who started it is: the progress and the wish to cancel
 * (atomics), and a request of the starting queue, which is posted there as the end of a worker's call is.
 * Considered: each job an op on the starting queue. Check and create read their tables in hundreds of places,
 * each a wait; as ops they would be twice as long, and a count of references would still keep a loop busy for
 * seconds.
 *
 * Invariants.
 *  1. NEW -> RUNNING -> ENDED, each once. ENDED is set when all that others may read is there, before the
 *     completion.
 *  2. The thread's queue is gone before the end is posted: who has reaped it finds nothing of the job left in
 *     the volume.
 *  3. From when it is made until it has ended it is counted in vdisk.jobs of its volumes, which cannot be
 *     closed; started on a queue, until its end, in that queue's `worker_jobs`, and until it is reaped in
 *     `inflight`.
 *  4. What a job reports has been done and total never fall, whatever its parts say.
 */
#ifndef ENGINE_JOB_H
#define ENGINE_JOB_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "engine/vdisk-image.h"

struct request;

struct job_kind {
    const char *name; /* a noun: "creation" */

    /* Blocks: all of it. 0, or -errno with a text. Looks at the wish to cancel by job_step(). */
    int (*work)(vdisk_job *j);

    /* Free what holds the job. */
    void (*release)(vdisk_job *j);

    /* Before: give back what else it holds. An error, with a text: not now, the job stays. NULL: nothing. */
    int (*leave)(vdisk_job *j);
};

/* The first member of the struct of a kind. */
struct vdisk_job {
    const struct job_kind *kind;
    char                  *name;       /* of the image: malloc'ed */
    vdisk                 *volume;     /* which it is about; NULL: none is open */
    vdisk                **held;       /* and more of them: malloc'ed */
    unsigned               held_count;
    uint32_t               generation; /* of the process that made it */
    _Atomic unsigned       state;      /* enum vdisk_job_state */
    _Atomic bool           cancelled;

    /* The job's thread, while RUNNING; the other threads, when ENDED. */
    int                    rc;
    char                   text[1024], hint[512];

    /* What options asked for: on the job's thread. */
    vdisk_progress_fn     *progress;
    void                  *progress_arg;

    /* The job's thread's: a part that begins anew adds to what was. */
    uint64_t               base, part_done;
    _Atomic uint64_t       done, total;
    _Atomic uint64_t       begun_ns, ended_ns; /* 0: not yet */

    bool                   has_thread;
    pthread_t              thread;
    struct request        *request;    /* of the queue that it was started on */
};

/*
 * Make `j`, the first member of zeroed memory. 0, or -ENOMEM with a text; vdisk_job_free() in both cases.
 * `volume`: one that may be used (volume_check_handle()), or NULL.
 */
int job_init(vdisk_job *j, const struct job_kind *kind, const char *name, vdisk *volume);

/* These are not closed before the job has ended. 0, or -ENOMEM with a text. Before anybody else knows `j`. */
int job_hold(vdisk_job *j, vdisk *const *volumes, unsigned n);

/*
 * A step: a vdisk_progress_fn, `arg`: the vdisk_job. Non-zero: it is to stop. The one that options came with is
 * called from there: job_watch() puts job_step() in its place. Context: the job's thread.
 */
int job_step(void *arg, uint64_t done, uint64_t total);
void job_watch(vdisk_job *j, vdisk_progress_fn **progress, void **progress_arg);

/* vdisk_job_run() and free: what blocking calls are made of. */
int job_run_once(vdisk_job *j);

/* May a result of this kind be read? 0 or an error with a text. */
int job_check_result(const vdisk_job *j, const struct job_kind *kind, const void *ret, size_t size);

#endif
