/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * An open volume: what users hold, whose requests, queues and jobs it knows. What it is made of is a chain of
 * layers (engine/chain/layer.h), which knows nothing of those.
 */
#ifndef ENGINE_VOLUME_H
#define ENGINE_VOLUME_H

#include <pthread.h>
#include <stdatomic.h>

#include "engine/chain/layer.h"
#include "engine/follow.h"
#include "engine/loop/gate.h"
#include "engine/loop/pair.h"

struct grower;
struct service;
struct thread_queues;

/* vdisk.queue_seen: more than one queue, or one beside calls of other threads. */
#define VOLUME_SEEN_MANY UINT64_MAX

enum volume_refuses {
    VOLUME_SHUT      = 1u << 0, /* it becomes smaller: all requests but the manager's */
    VOLUME_READ_ONLY = 1u << 1, /* `read_only` again, or not all of it is open: changes */
};

struct vdisk {
    struct layer               *top;           /* of the chain; the rest is below it. Owned */
    uint64_t                    number;        /* in the order of opening, from 1 on */
    uint32_t                    generation;    /* of the process that opened it */
    bool                        cut;           /* there are layers below the last one that is open */
    _Atomic(vdisk_queue *)      resizer;       /* requests of this queue alone may go behind the top's size */
    struct volume_events       *events;        /* who is told: engine/loop/event.h */
    _Atomic(struct grower *)    grower;        /* who is asked for room: engine/loop/grower.h; NULL: never set */

    struct pair                *pairs;         /* with queues: engine/loop/pair.h, with its lock */
    struct request_stats        counted;       /* the same: of queues that are gone */

    struct gate                 requests;      /* requests that may use mappings they looked up */
    _Atomic unsigned            outside;       /* requests that have left the gate and come back */
    _Atomic unsigned            steps;         /* so often one has left it like that, or come back */
    _Atomic uint8_t             refuses;       /* enum volume_refuses: what each request looks at */
    _Atomic unsigned            jobs;          /* that are about it and have not ended (engine/job.h) */
    pthread_mutex_t             manage_lock;   /* one change of the whole at a time: resize, trim */
    _Atomic(const vdisk_queue *) manager;      /* whose, by its queue; NULL: none */

    /* Who does what queues share (engine/loop/service.h). */
    _Atomic uint64_t            queue_seen;    /* number + 1 of the only queue that had requests; 0: none yet */
    _Atomic uint64_t            thread_seen;   /* thread_number() of that queue */
    pthread_mutex_t             service_lock;  /* the next one is set once */
    _Atomic(struct service *)   service;
    struct volume_follow        follow;        /* the top's size is its file's */
};

/* How many requests there are, of any queue: inside the gate, or on their way back to it. Any thread. */
uint64_t volume_inside(const vdisk *v);

/*
 * A request is about to leave the gate, and comes back; and has come back. It is in `outside`, or inside, before
 * it is not in the other any more, and between two equal readings of `steps` none has changed over: each is seen.
 */
static inline void volume_count_out(vdisk *v)
{
    atomic_fetch_add(&v->outside, 1);
    POINT("volume: counted as outside");
    atomic_fetch_add(&v->steps, 1);
}

static inline void volume_count_in(vdisk *v)
{
    atomic_fetch_add(&v->steps, 1);
    POINT("volume: has come back");
    assert(atomic_load(&v->outside) > 0);
    atomic_fetch_sub(&v->outside, 1);
}

/*
 * The file of an image, by any name, and the format that the name or `format` says (*ret_format NULL: neither
 * does). Options are checked. `flags`: enum vdisk_open_flags. Errors as vdisk_open()'s; the backend is the
 * caller's.
 */
int volume_open_file(const char *name, const char *format, uint32_t flags, struct backend **ret_backend,
                     const struct format_driver **ret_format);

/*
 * vdisk_open(), and vdisk_close() of a volume that has `own_jobs` jobs which do not stand in the way;
 * *ret_gone: it is no more. Block. Errors with text.
 */
int volume_open(const char *name, const struct vdisk_open_opts *opts, vdisk **ret_vdisk);
int volume_close(vdisk *v, unsigned own_jobs, bool *ret_gone);

/* Open a volume on a backend that is already open (tests, benches): takes it over, also on failure. */
int vdisk_open_backend(struct backend *b, const struct vdisk_open_opts *opts, vdisk **ret_vdisk);

/* What vdisk_get_info() tells, of one layer; info->size is the caller's. */
void volume_describe_layer(struct layer *layer, struct vdisk_info *info);

/* The caller's options, or NULL, as this version has them; -EINVAL, with text. */
int volume_check_opts(const char *name, const struct vdisk_open_opts *user, struct vdisk_open_opts *ret);

/* NULL and "" are refused, with text. */
int volume_check_name(const char *name);

/* This thread's queue for synchronous calls (engine/loop/thread.h). 0, or an error that names `name`. */
int volume_queue(const char *name, vdisk_queue **ret_queue);

/*
 * A change of the whole volume begins, on the queue that this gives: one at a time. Waits for another thread's
 * to end, and turns this thread's queues meanwhile. 0; -ECHILD: another process's handle; -EDEADLK: within
 * another such call of this thread (a progress function); or there is no queue.
 */
int volume_manage(vdisk *v, vdisk_queue **ret_queue);
void volume_manage_done(vdisk *v);

/*
 * Refuse all requests but the manager's own, until volume_reopen(): for who reads or changes metadata as a whole.
 * -EBUSY, with text, when requests are in flight; `what` it is that cannot be done then. Context: the manager.
 */
int volume_shut(vdisk *v, const char *what);
void volume_reopen(vdisk *v);

/* May the caller use the handle? 0, -EINVAL (NULL) or -ECHILD (made by the parent process), with a text. */
int volume_check_handle(const vdisk *v);

#endif
