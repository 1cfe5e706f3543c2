/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A queue: one thread, one ring (or a few worker threads), the tasks that are ready to run, and pools.
 *
 * Invariants.
 *  1. Everything but `remote`, `posters`, `post_fd`, `posts_wanted` and `woken` is touched by the owner thread
 *     only.
 *  2. Nothing completes under an enqueue or a submit: what is done at once goes to `ready` and runs in the loop.
 *  3. `kernel_inflight` counts the I/Os that will post a completion, one each; `worker_jobs` what
 *     workers and other threads do, which comes back as remote tasks.
 *  4. A queue of kind SIMULATED has a host, all others have none: neither eventfd nor ring nor workers are made
 *     for it, and it makes no system call.
 *  5. Who posts counts itself in `posters` before the task can be taken, and out as its last access: a queue
 *     that has seen 0 there, with nothing in flight, is nobody's any more.
 *  6. When vdisk_submit() or vdisk_reap() return, either nothing is left to be done before a completion or a
 *     post comes, or the caller's descriptor is readable.
 *  7. The owner says in `posts_wanted` what is to wake it before it looks at `remote` for the last time, then
 *     sleeps; who posts looks there after the task can be taken. What is not to wake it is taken in 4 ms.
 */
#ifndef ENGINE_QUEUE_H
#define ENGINE_QUEUE_H

#include <liburing.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "engine/loop/attach.h"
#include "engine/loop/call.h"
#include "engine/loop/op.h"
#include "engine/loop/pair.h"
#include "engine/loop/regions.h"
#include "engine/loop/ring_ops.h"
#include "engine/loop/service.h"
#include "engine/loop/thread.h"
#include "engine/plug.h"
#include "engine/request.h"
#include "engine/vdisk.h"

enum {
    QUEUE_DEPTH_DEFAULT = 256,
    QUEUE_DEPTH_MAX = 4096,
    QUEUE_TURN_CQES = 64,    /* completions taken from the ring at a time */
    OP_POOL_CLASSES = 8,     /* op sizes 256 << n */
};

/* What a turn sees to beside: rarely anything. */
enum queue_chores {
    CHORE_CANCELS = 1u << 0, /* of `calls`, some have not been sent */
    CHORE_REGIONS = 1u << 1, /* `leaving` */
};

/*
 * What wakes a queue whose owner sleeps in the ring. More than POSTS_ANY: so many ends of I/Os less one, each of
 * which counts it down, or any other post.
 */
enum posts_wanted {
    POSTS_ANY,  /* that finds `remote` empty: also where nobody knows whether the owner sleeps */
    POSTS_NONE, /* it is awake, and looks at `remote` before it sleeps */
    POSTS_LAST, /* the next end */
};

struct task_list {
    struct task *head, **tail;
};

struct workers;        /* engine/loop/workers.c */
struct request_errors; /* engine/loop/request_error.c */

struct vdisk_queue {
    uint32_t              id;
    uint32_t              generation;       /* of the process that made it */
    enum vdisk_queue_kind kind;
    bool                  in_loop;          /* running tasks or completions: asserts against nesting */
    bool                  always_turned;    /* whoever has work on it waits in the library, or it has a thread */
    struct thread_queues *thread;           /* the owner's; NULL: not used yet */
    struct list           thread_node;
    struct service       *service;          /* what this queue turns beside itself; NULL: none yet */
    struct service_want  *wants;            /* services that have no thread, though this queue needs it */
    struct pair          *pair;             /* with the volume whose handle was looked at last: request.c */
    struct service       *serves;           /* the service that this queue is of; NULL: a user's queue */

    struct task_list      ready;
    _Atomic(struct task *) remote;          /* pushed by other threads, newest first */
    _Atomic uint32_t      posters;          /* threads inside queue_post() */
    _Atomic int           post_fd;          /* eventfd: written when the owner is to be woken; -1: none */
    _Atomic uint32_t      posts_wanted;     /* by whom does it want to be woken: enum posts_wanted, or more */
    int                   wake_fd;          /* eventfd: the ring watches it */
    int                   user_fd;          /* eventfd: vdisk_queue_fd()'s, and then post_fd; -1: not made */
    _Atomic bool          woken;            /* by vdisk_queue_wake(), and no reap has returned since */
    int                   watch_fd;         /* the caller's, which the ring watches, too */
    bool                 *watch_ready;      /* the caller's, of that; NULL: there is none. Fixed, both */
    bool                  wake_armed;       /* the ring watches wake_fd, */
    bool                  watch_armed;      /* and watch_fd */
    bool                  watch_once;       /* by polls that fire once: the kernel knows no others */

    struct io_uring       ring;             /* with VDISK_QUEUE_URING and URING_DEFER */
    bool                  ring_ready;
    unsigned              kernel_inflight;
    struct list           in_kernel;        /* these I/Os */
    unsigned              worker_jobs;
    unsigned              foreign;          /* of them: what io_end_foreign() will end */
    unsigned              gather_rest;      /* waits until gathering is tried again, */
    unsigned              gather_pause;     /* and how many the next time it is in vain */
    struct task_list      starved;          /* what found no SQE, in order: tasks that try again */
    uint8_t               chores;           /* enum queue_chores */
    struct list           calls;            /* struct call: an SQE is out for them */
    struct poller        *poller;           /* made on first need */
    struct workers       *workers;          /* made on first need */
    struct queue_host    *host;             /* with VDISK_QUEUE_SIMULATED */
    void                 *host_queue;       /* the host's own */

    struct attachment    *attached[ATTACH_BUCKETS]; /* engine/loop/attach.c */
    struct plug           plug;             /* writes that wait for the next turn */
    struct request       *free_requests;
    struct request       *done_head, **done_tail;
    unsigned              done_count;
    unsigned              inflight;         /* enqueued and not reaped */
    struct request       *slabs;            /* first request of each slab; linked through io.task.next */
    pthread_mutex_t       errors_lock;      /* the next: any thread may ask */
    struct request_errors *errors;          /* words for requests that failed; NULL: none has */
    uint32_t              depth;
    struct request_stats  counted;          /* engine/loop/pair.h, with its lock: of volumes that are gone */
    struct pair          *pairs[PAIR_BUCKETS];
    struct latency_stats *latency;          /* NULL: it is not measured. Fixed */
    char                  reason[128];      /* why it got no better kind; "" */

    struct op            *op_pool[OP_POOL_CLASSES];
    unsigned              ops_active;
#ifndef NDEBUG
    struct list           ops;              /* these: engine/loop/watch.h */
#endif

    struct region         regions[REGIONS_MAX];
    unsigned              regions_count;    /* that I/O may use; */
    unsigned              regions_known;    /* and with those that are only remembered */
    struct region_table  *region_table;     /* NULL: there were never any */
    struct request       *leaving;          /* what takes regions away: regions.h, invariant 2 */
};

static inline void task_list_init(struct task_list *l)
{
    l->head = NULL;
    l->tail = &l->head;
}

static inline void task_list_add(struct task_list *l, struct task *t)
{
    assert(!*l->tail && l->tail != &t->next);
    t->next = NULL;
    *l->tail = t;
    l->tail = &t->next;
}

static inline bool task_list_has(const struct task_list *l, const struct task *t)
{
    const struct task *at = l->head;

    while (at && at != t)
        at = at->next;
    return at != NULL;
}

/* Off the list, if it is there. */
static inline bool task_list_take(struct task_list *l, struct task *t)
{
    struct task **at = &l->head;

    while (*at && *at != t)
        at = &(*at)->next;
    if (!*at)
        return false;
    *at = t->next;
    if (l->tail == &t->next)
        l->tail = at;
    return true;
}

/*
 * Debug builds: is it as the invariants say, between two turns? Context: the queue's thread, outside the loop.
 */
#ifdef NDEBUG
static inline void queue_assert(const vdisk_queue *q) {}
#else
void queue_assert(const vdisk_queue *q);
#endif

/* Run `t` in the queue's loop, soon. Context: the queue's thread. */
static inline void queue_ready(vdisk_queue *q, struct task *t)
{
    task_list_add(&q->ready, t);
}

/* The same, from any thread. queue_post_end(): of an I/O that it has in flight, for which its owner may gather. */
void queue_post(vdisk_queue *q, struct task *t);
void queue_post_end(vdisk_queue *q, struct task *t);

/* The eventfd becomes readable. Any thread. */
void signal_fd(int fd);

/* Until nobody is inside queue_post() who was when this began. */
void queue_wait_for_posters(vdisk_queue *q);

/*
 * The queue that this thread is running or enqueueing on. Tasks for it go to its ready list, tasks for any other
 * queue are posted, even if this thread owns that one too: it may be about to sleep on its fd.
 */
extern HIDDEN _Thread_local const vdisk_queue *queue_current;

/* While this thread turns a service: the queue that it does so for, whose tasks can be made ready as well. */
extern HIDDEN _Thread_local const vdisk_queue *queue_outer;

static inline bool queue_is_mine(const vdisk_queue *q)
{
    return queue_current == q || queue_outer == q;
}

/* Run what has completed and what is ready, once each. True: it ran something. Makes no system call. */
bool queue_turn(vdisk_queue *q);

/* Submit, and sleep until there is something for queue_turn(). 0, -ETIME, -EINTR, or another -errno. */
int queue_sleep(vdisk_queue *q, unsigned wanted, const struct timespec *timeout);

/*
 * At least one completion, up to `max`, as vdisk_reap() hands them out: for who cannot go on before, since what is
 * in flight uses his memory. A wait that fails is tried again. Context: as vdisk_reap(), something is in flight.
 */
unsigned queue_take(vdisk_queue *q, struct vdisk_completion *completions, unsigned max);

/* Until one of the descriptors is readable. 0, also for no reason; -ETIME; -EINTR. */
int queue_poll(struct pollfd *fds, unsigned n, const struct timespec *timeout);

/* Is there something for queue_turn(), without waiting? */
bool queue_has_steps(vdisk_queue *q);

/* queue_poll(), and beside it what the caller wants to be watched, where no ring does; `fds` has room for that. */
int queue_poll_beside(vdisk_queue *q, struct pollfd *fds, unsigned n, const struct timespec *timeout);

/* May this thread use what the caller gave? 0; -EINVAL: none; -ECHILD: the parent's; -EEXIST: another thread's. */
int queue_check_handle(const vdisk_queue *q);

/* -EBUSY, with a text: something is in flight. */
int queue_is_busy(const vdisk_queue *q);

/* Send what has been enqueued. 0 or -errno. */
int queue_submit(vdisk_queue *q);

/* The caller's descriptor, made on the first call; -errno. */
int queue_user_fd(vdisk_queue *q);

/* It becomes unreadable; readable, if there is something to do or to hand out (invariant 6). */
void queue_clear(vdisk_queue *q);
void queue_tell(vdisk_queue *q);

/* Turn the loop until *flag. For synchronous callers, outside the loop. */
void queue_run_until(vdisk_queue *q, const bool *flag);

/* It waits to be reaped: what is in no volume's gate (any more). Context: the queue's thread. */
static inline void request_hand_in(struct request *r, int result)
{
    vdisk_queue *q = r->queue;

    assert(r->state == REQUEST_STARTED && q->done_count < q->inflight);
    r->result = result;
    r->state = REQUEST_DONE;
    r->next = NULL;
    *q->done_tail = r;
    q->done_tail = &r->next;
    q->done_count++;
}

/* Until there is a free request. */
void queue_more_requests(vdisk_queue *q);

/* What the pool's requests lie in: the first of each is not handed out, but links them. */
static inline struct request *slab_next(const struct request *slab)
{
    return slab->io.task.next ? container_of(slab->io.task.next, struct request, io.task) : NULL;
}

static inline uint32_t slab_count(const struct request *slab)
{
    return slab->iovcnt;
}

/* One more in flight; and as if it had not been taken. */
static inline struct request *request_get(vdisk_queue *q)
{
    struct request *r;

    if (unlikely(!q->free_requests))
        queue_more_requests(q);
    r = q->free_requests;
    q->free_requests = r->next;
    assert(r->state == REQUEST_FREE && r->queue == q && r->error == 0);
    r->state = REQUEST_STARTED;
    q->inflight++;
    return r;
}

void request_give_back(struct request *r);

_Static_assert(VDISK_QUEUE_AUTO < VDISK_QUEUE_URING_DEFER && VDISK_QUEUE_URING_DEFER < VDISK_QUEUE_URING &&
               VDISK_QUEUE_URING < VDISK_QUEUE_THREADS && VDISK_QUEUE_THREADS < VDISK_QUEUE_SIMULATED,
               "those with a ring come first");

static inline bool queue_has_ring(const vdisk_queue *q)
{
    return q->kind < VDISK_QUEUE_THREADS;
}

/* engine/loop/ring_setup.c */
int  ring_init(vdisk_queue *q, enum vdisk_queue_kind kind);
void ring_finish(vdisk_queue *q);
/*
 * What came of a call of the ring: 0 or a count is 0; -EINTR and -ETIME are passed on, -EAGAIN and -EBUSY are 0
 * (what is left goes with the next call); -EEXIST: another thread's ring. Anything else: the queue goes on
 * without a ring, and 0.
 */
int  ring_result(vdisk_queue *q, int rc);
/* The queue goes on without a ring, because of `rc`. */
void ring_stop(vdisk_queue *q, int rc);

/* engine/loop/ring.c */
int  ring_submit(vdisk_queue *q);
bool ring_to_send(vdisk_queue *q);   /* are there SQEs that the kernel has not seen? */
bool ring_gathers(const vdisk_queue *q); /* can the kernel do it? */
/*
 * Until there is something for queue_turn(); up to `most` completions may be gathered meanwhile, for 4 ms.
 * `steady`: what completes is a request each, and `wanted` of them are to.
 */
int  ring_sleep(vdisk_queue *q, unsigned wanted, unsigned most, const struct timespec *timeout, bool steady);
unsigned ring_reap(vdisk_queue *q); /* run up to QUEUE_TURN_CQES completions */

/* Not carried out. ECANCELED: a thread that ended took it along (a service's), or the kernel got no thread. */
static inline bool ring_is_put_off(int32_t res)
{
    return res == -EINTR || res == -EAGAIN || res == -ECANCELED;
}

void ring_feed(vdisk_queue *q);     /* SQEs for the starved, as far as there are any */
bool ring_has_work(const vdisk_queue *q);   /* completions, seen or put off, or SQEs that were not taken */
int  ring_notify(vdisk_queue *q, int fd);   /* write the eventfd `fd` at each completion from now on */
/* Where a transfer goes on: the buffer it is in, after io->moved bytes. */
struct iovec ring_current_buffer(const struct io *io);

/* The kernel has not seen it: it comes off the ring, and out of the line for it; as if it had never been there. */
bool ring_is_unsent(const struct io *io);
bool ring_take_back(struct io *io);

/* A call to the ring, and its cancellation. */
void ring_call(struct call *c);
void ring_call_cancel(struct call *c);

/*
 * What the SQE or CQE with such user_data stands for: `low` is none of both, but the queue's own. Pointers are
 * even.
 */
enum { RING_TAG_LOW = 4096, RING_TAG_CALL = 1 };
_Static_assert(_Alignof(struct io) > RING_TAG_CALL && _Alignof(struct call) > RING_TAG_CALL, "the bit is free");
static inline struct call *ring_call_of(uint64_t user_data)
{
    return user_data & RING_TAG_CALL ? (struct call *)(uintptr_t)(user_data - RING_TAG_CALL) : NULL;
}

/* engine/loop/workers.c: blocking calls on threads of the queue's own, made on first need */
void workers_run(struct io *io, int64_t (*call)(struct io *));
/* What takes a processor and does not block: as many at once as there are processors. */
void workers_compute(struct io *io, int64_t (*compute)(struct io *));
/* Run `t` on one of them, which posts it back by itself. 0, or -ENOMEM: there is no thread. */
int  workers_start(vdisk_queue *q, struct task *t, bool computes);
/* None of them has begun `io`: it comes out of their line. */
bool workers_take_back(struct io *io);
void workers_destroy(struct workers *w);

#endif
