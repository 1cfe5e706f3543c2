/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * An open volume: one layer of a chain. The handle that users hold is the top layer.
 */
#ifndef ENGINE_VOLUME_H
#define ENGINE_VOLUME_H

#include <pthread.h>
#include <stdatomic.h>

#include "engine/follow.h"
#include "engine/format.h"
#include "engine/loop/event.h"
#include "engine/loop/gate.h"
#include "engine/loop/pair.h"
#include "engine/loop/range_lock.h"

struct service;
struct thread_queues;

/* vdisk.queue_seen: more than one queue, or one beside calls of other threads. */
#define VOLUME_SEEN_MANY UINT64_MAX

enum volume_refuses {
    VOLUME_SHUT      = 1u << 0, /* it becomes smaller: all requests but the manager's */
    VOLUME_READ_ONLY = 1u << 1, /* `read_only` again: changes */
};

struct vdisk {
    /* Fixed after open. */
    const struct format_driver *format;
    struct backend             *file;          /* metadata; raw: everything */
    struct backend             *data;          /* guest data: `file`, or an external data file (ours to close) */
    vdisk                      *backing;       /* next layer or NULL; owned */
    void                       *format_state;
    char                       *name;
    struct spec                *spec;          /* the same as a tree; NULL: opened on a backend */
    char                       *backing_name;  /* as stored in the image, NULL without; malloc'ed by the format */
    char                       *backing_format;/* same */
    uint64_t                    data_offset;   /* raw: where its bytes begin in the file that `map` tells of */
    uint32_t                    open_flags;
    uint32_t                    depth;         /* layers from here down */
    uint64_t                    number;        /* in the order of opening, from 1 on */
    uint32_t                    cluster_size;  /* of the format; 0: it has none. Fixed at open */
    uint32_t                    zero_align;    /* vdisk_info's; 0: as `data` has it */
    bool                        zeroes_cheap;  /* zero_align is set: the format's word */
    bool                        read_only;
    bool                        host_holes;    /* block status asks `data` where mapped clusters have holes */
    bool                        keeps_discarded; /* its name says that discards do nothing */
    _Atomic bool                writes_in_place; /* lookup() may say EXTENT_WRITABLE; not any more with trouble */

    uint64_t                    guarded;       /* raw by guess: changes that begin below it go through guard.c */
    _Atomic uint64_t            size;          /* virtual size: as requests and their owners know it */
    _Atomic uint64_t            reach;         /* >= size: how far there is something. More while it is resized */
    _Atomic(vdisk_queue *)      resizer;       /* requests of this queue alone may go behind `size` */

    struct volume_events       *events;         /* who is told: engine/loop/event.h */
    struct volume_mark          mark;           /* how far the file is in use: the same */

    char                        trouble[240];  /* why no more writes are accepted: set once, before has_trouble */
    _Atomic bool                has_trouble;

    struct pair                *pairs;          /* with queues: engine/loop/pair.h, with its lock */
    struct request_stats        counted;        /* the same: of queues that are gone */
    struct layer_stats          stats;

    struct range_locks          guard_locks;   /* of guard.c */
    struct gate                 requests;      /* requests that may use mappings they looked up */

    uint32_t                    generation;     /* of the process that opened it */
    _Atomic unsigned            outside;        /* requests that have left the gate and come back: room.c */
    _Atomic uint8_t             refuses;        /* enum volume_refuses: what each request looks at */
    _Atomic unsigned            jobs;           /* that are about it and have not ended (engine/job.h) */
    pthread_mutex_t             manage_lock;    /* one change of the whole at a time: resize, trim */
    _Atomic(const vdisk_queue *) manager;       /* whose, by its queue; NULL: none */

    /* Of the top layer: who does what queues share (engine/loop/service.h). */
    _Atomic uint64_t            queue_seen;     /* number + 1 of the only queue that had requests; 0: none yet */
    _Atomic uint64_t            thread_seen;    /* thread_number() of that queue */
    pthread_mutex_t             service_lock;   /* the next one is set once */
    _Atomic(struct service *)   service;
    struct volume_follow        follow;         /* of the top layer: its size is its file's */
};

/* How many requests there are, of any queue: inside the gate, or on their way back to it. Any thread. */
uint64_t volume_inside(const vdisk *v);

/* The volume has this size, and nothing behind it; who listens is told. One thread at a time. */
static inline void volume_set_size(vdisk *v, uint64_t size)
{
    bool changes = size != atomic_load_explicit(&v->size, memory_order_relaxed);

    if (size > atomic_load_explicit(&v->reach, memory_order_relaxed))
        atomic_store_explicit(&v->reach, size, memory_order_release); /* before anybody asks for what is there */
    atomic_store_explicit(&v->size, size, memory_order_release);
    atomic_store_explicit(&v->reach, size, memory_order_release);
    atomic_store_explicit(&v->resizer, NULL, memory_order_release);
    if (changes && v->events)
        events_raise(v->events, VDISK_EVENT_SIZE);
}

/* Until volume_set_size() requests of `queue` may work behind the end, which nobody else sees yet. */
static inline void volume_reach(vdisk *v, uint64_t reach, vdisk_queue *queue)
{
    atomic_store_explicit(&v->reach, reach, memory_order_release);
    atomic_store_explicit(&v->resizer, queue, memory_order_release);
}

/*
 * The extent at guest_offset as seen from `v` down its chain, clamped to what one layer says: DATA, ZERO or
 * COMPRESSED, in *ret_layer. Where no layer has anything: ZERO, in the layer that was asked last. -EAGAIN:
 * *ret_layer has to load() first.
 */
int chain_lookup(vdisk *v, uint64_t guest_offset, uint64_t len, struct extent *ret, vdisk **ret_layer);

/* The guest range [offset, offset+len) of a chain, from `v` down, into iov: read.c. Ends by op_wake(parent). */
void chain_read(vdisk *v, uint64_t guest_offset, const struct iovec *iov, uint32_t iovcnt, uint64_t len,
                struct op *parent);

/* Carry out REQ_EXTENTS: engine/chain/extents.c. */
void extents_start(struct request *r);

/* Carry out REQ_PREFETCH: engine/chain/prefetch.c. */
void prefetch_start(struct request *r);

/* Carry out REQ_READ when it is not a single extent at hand. */
void read_start(struct request *r);

/* `op` is that, for `r`, and none of the I/O that it waits for has been sent: it ends with -ECANCELED. */
bool read_give_up(struct op *op, const struct request *r);

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

/* Does all of the range read as zeros, as far as cached metadata tells? A cheap "maybe not" is false. */
bool chain_known_zero(vdisk *v, uint64_t guest_offset, uint64_t len);

/* A name stored in the image `from`, as a name to open: relative ones are relative to its directory. malloc'ed. */
char *volume_resolve(const char *from, const char *name);

/* Is this file in the chain from `top` to the layer before `end` (NULL: to the last)? */
bool volume_in_chain(const vdisk *top, const vdisk *end, const struct backend_id *id);

/* The caller's options, or NULL, as this version has them; -EINVAL, with text. */
int volume_check_opts(const char *name, const struct vdisk_open_opts *user, struct vdisk_open_opts *ret);

/* NULL and "" are refused, with text. */
int volume_check_name(const char *name);

/* NULL: there is none of that name. */
const struct format_driver *volume_find_format(const char *name);

/* Find the format by the content. Blocks. 0, or an error with a text. */
int volume_probe(struct backend *b, vdisk_queue *q, const struct format_driver **ret);

/* This thread's queue for synchronous calls (engine/loop/thread.h). 0, or an error that names `name`. */
int volume_queue(const char *name, vdisk_queue **ret_queue);

/* The flags with which a layer's files are opened. */
uint32_t volume_backend_flags(uint32_t open_flags);

/* Add what to do to the error of a flush just set, where the host's page cache has lost something. Returns rc. */
int volume_hint(const vdisk *v, int rc);

/* The words alone; NULL: nothing is lost. */
static inline const char *volume_hint_text(const vdisk *v)
{
    if (atomic_load(&v->file->sync_failed) == 0 && atomic_load(&v->data->sync_failed) == 0)
        return NULL;
    return "what was written since the last flush that succeeded may be lost: see to the storage, close the "
           "volume, check what it has";
}

/* It takes no writes any more (v->has_trouble): the error of `what`, with the reason. -EIO. */
int volume_trouble(const vdisk *v, const char *what);

/*
 * A change of the whole volume begins, on the queue that this gives: one at a time. Waits for another thread's
 * to end, and turns this thread's queues meanwhile. 0; -ECHILD: another process's handle; -EDEADLK: within
 * another such call of this thread (a progress function); or there is no queue.
 */
int volume_manage(vdisk *v, vdisk_queue **ret_queue);
void volume_manage_done(vdisk *v);

/* May the caller use the handle? 0, -EINVAL (NULL) or -ECHILD (made by the parent process), with a text. */
int volume_check_handle(const vdisk *v);

#endif
