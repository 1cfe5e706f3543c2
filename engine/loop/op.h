/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Tasks and ops: everything with more than one wait is an op, a struct that holds all that outlives a wait and
 * one step function that reads from top to bottom with named await points.
 *
 *     enum demo_state { DEMO_START = OP_START, DEMO_LOADED, DEMO_WRITTEN };
 *
 *     static void demo_step(struct op *op)
 *     {
 *         struct demo *d = container_of(op, struct demo, op);
 *
 *         OP_BEGIN(enum demo_state, op)
 *         if (!cached(d))
 *             OP_TRY(op, DEMO_LOADED, load(d, op));
 *         OP_TRY(op, DEMO_WRITTEN, op_io(op, &d->io));
 *         demo_finish(d, 0);
 *         return;
 *         OP_END
 *     fail:
 *         demo_finish(d, op->rc);
 *     }
 *
 * Rules.
 *  1. The call inside an await starts something that will op_wake() this op exactly once, later: never inline.
 *  2. No local is used across an await; the compiler refuses it. The container_of line is run on every step.
 *  3. After an await what was learned before it is stale: look again.
 *  4. A step function runs on its queue's thread only, never under another step function.
 *  5. The finish function releases what is held, and calls op_end(), which frees the op and tells its parent, or
 *     ends its request. It is the last thing a step does.
 */
#ifndef ENGINE_OP_H
#define ENGINE_OP_H

#include <assert.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "engine/base/list.h"
#include "engine/vdisk.h"

/* What a queue runs: ops, and I/O that completes without the kernel. */
struct task {
    struct task *next;
    void (*run)(struct task *);
};

enum { OP_START = 0 };

struct op;
struct request;

struct op_type {
    const char        *name;
    void             (*step)(struct op *);
    const char *const *states; /* names, by state; index 0 is the start */
    unsigned           nstates;
    _Atomic uint8_t   *seen;   /* per state: enum op_seen; the coverage of the fault tests */
};

/* What ever happened in a state. */
enum op_seen {
    OP_SEEN_AWAITED = 1u << 0,
    OP_SEEN_EIO     = 1u << 1, /* the await ended so */
    OP_SEEN_ENOSPC  = 1u << 2,
    OP_SEEN_ENOMEM  = 1u << 3,
    OP_SEEN_OTHER   = 1u << 4, /* with another error */
};

struct op {
    struct task           task;
    const struct op_type *type;
    vdisk_queue          *queue;
    struct op            *parent;  /* op_end() tells it: who awaits this op, */
    struct request       *request; /* or ends this: what it was begun for: op_serve() of request.h */
    void                (*end_request)(struct request *r, int rc);
    struct list           wait; /* in whatever list this op waits in */
    int                   state;
    int                   rc;    /* result of the last await: 0, or a negative errno */
    uint32_t              failure; /* the number of that error: engine/loop/failure.h; 0: none */
    bool                  loose; /* from malloc(): begun on another queue's thread */
    unsigned              waits; /* I/Os that the current await still waits for */
#ifndef NDEBUG
    struct list           listed; /* engine/loop/watch.h */
#endif
};

/* Stands for one of several ops that an await waits for: op_child_add(). */
struct op_child {
    struct op op; /* its parent is the one that waits */
};

/*
 * Define `static const struct op_type NAME_type` from a step function and the names of its states, and list it
 * for op_types().
 */
#define OP_TYPE(NAME, STEP, ...)                                                                               \
    static const char *const NAME##_states[] = {__VA_ARGS__};                                                  \
    static _Atomic uint8_t NAME##_seen[sizeof NAME##_states / sizeof NAME##_states[0]];                        \
    static const struct op_type NAME##_type = {#NAME, STEP, NAME##_states,                                     \
                                               sizeof NAME##_states / sizeof NAME##_states[0], NAME##_seen};   \
    static const struct op_type *const NAME##_listed                                                           \
        __attribute__((used, section("vdisk_op_types"))) = &NAME##_type

#define OP_BEGIN(type, op)                                                                                     \
    switch ((type)(op)->state) {                                                                               \
    case OP_START:;
#define OP_AWAIT(op, st, call)                                                                                 \
    do {                                                                                                       \
        op_suspend((op), (st));                                                                                \
        call;                                                                                                  \
        return;                                                                                                \
    case (st):                                                                                                 \
        op_resumed(op);                                                                                        \
    } while (0)
#define OP_TRY(op, st, call)                                                                                   \
    do {                                                                                                       \
        OP_AWAIT(op, st, call);                                                                                \
        if ((op)->rc < 0)                                                                                      \
            goto fail;                                                                                         \
    } while (0)
#define OP_END                                                                                                 \
    default: __builtin_unreachable();                                                                          \
    }

/* Threads share it: written once, so that it stays in all their caches. */
static inline void op_see(const struct op *op, enum op_seen what)
{
    _Atomic uint8_t *seen = &op->type->seen[op->state];

    assert((unsigned)op->state < op->type->nstates);
    if (!(atomic_load_explicit(seen, memory_order_relaxed) & what))
        atomic_fetch_or_explicit(seen, (uint8_t)what, memory_order_relaxed);
}

enum op_seen op_seen_error(int rc);

static inline void op_suspend(struct op *op, int state)
{
    assert(state > OP_START && (unsigned)state < op->type->nstates);
    assert(op->waits == 0 && list_empty(&op->wait)); /* of the await before */
    op->state = state;
    op->rc = 0;
    op->failure = 0;
    op_see(op, OP_SEEN_AWAITED);
}

static inline void op_resumed(const struct op *op)
{
    assert(op->rc <= 0 && op->waits == 0);
    if (op->rc < 0)
        op_see(op, op_seen_error(op->rc));
}

static inline const char *op_state_name(const struct op *op)
{
    assert((unsigned)op->state < op->type->nstates);
    return op->type->states[op->state];
}

/*
 * Memory for an op of `size` bytes (struct op first), zeroed, from the queue's pool. NULL: out of memory.
 * Context: the queue's thread. Not the fast path: may allocate.
 */
void *op_alloc(vdisk_queue *q, const struct op_type *type, size_t size);
void op_free(struct op *op, size_t size);

/* The same for one that ends in a buffer: only its first `head` bytes are zeroed. */
void *op_alloc_head(vdisk_queue *q, const struct op_type *type, size_t size, size_t head);

/*
 * The same for an op that will run on `target`, from the thread of `here`: op_send() starts it. Where the two
 * are one it is op_alloc().
 */
void *op_alloc_for(vdisk_queue *target, vdisk_queue *here, const struct op_type *type, size_t size);

/*
 * The end of an op of `size` bytes: it is freed, then its parent's await ends with `rc`, or its request does. What
 * tells of its end in another way has neither.
 */
void op_end(struct op *op, size_t size, int rc);

/* Initialise an op that lives in its parent's memory. */
void op_init(struct op *op, vdisk_queue *q, const struct op_type *type);

/* Run the first step now. It may not finish inline: what it tells others it tells by op_wake(). */
static inline void op_start(struct op *op)
{
    assert(op->state == OP_START);
    op->type->step(op);
}

/* The first step on the op's queue, whosever it is: now if it is the one that runs here, soon otherwise. */
void op_send(struct op *op);

/*
 * The first step in the queue's next turn: for ops that may end without an await. One that serves a request looks
 * at rc first: it may have been taken back. Context: the queue's thread.
 */
void op_start_later(struct op *op);

/* False: it is not asked again. */
typedef bool op_look_fn(void *arg);

/* What the task runs; NULL: something else. */
struct op *op_of_task(struct task *t);

/*
 * Run an op that is ready to start, until its last step sets *done; it may be gone by then. `look` is called
 * meanwhile on this thread, after each turn that has done something and 5 times a second otherwise; NULL: nothing.
 * Context: the queue's thread, outside the loop. Blocks.
 */
void op_run(struct op *op, const bool *done, op_look_fn *look, void *arg);

/* The call of an await, made for `op`. */
typedef void op_call_fn(void *arg, struct op *op);

/* Make the call, and wait for its end: op->rc. Context: the queue's thread, outside the loop. Blocks. */
int op_run_call(vdisk_queue *queue, op_call_fn *call, void *arg);

/*
 * End the op's current await with `rc`. Any thread; the step runs later, on the op's queue.
 */
void op_wake(struct op *op, int rc);

/* op_wake() each op of a list of op.wait, and empty it. */
void op_wake_all(struct list *waiters, int rc);

/* All op types that are linked in. */
const struct op_type *const *op_types(unsigned *ret_count);

struct io;

/* Await one I/O, already filled in: `OP_TRY(op, ST, op_io(op, &x->io))`. op->rc becomes its result. */
void op_io(struct op *op, struct io *io);

/*
 * Await several: op_io_begin(), then op_io_add() for each, then op_io_wait(), as the call of one await. The op
 * steps when the last has completed; op->rc is 0 or the first error.
 */
void op_io_begin(struct op *op);
void op_io_add(struct op *op, struct io *io);
void op_io_wait(struct op *op);

/*
 * Await several ops: between op_io_begin() and op_io_wait(), give each the op that this returns as its parent.
 * `child` is memory of the waiting op.
 */
struct op *op_child_add(struct op *op, struct op_child *child);

/* The next step, now, where what the await waited for has just ended. Context: the queue's thread, in no step. */
void op_resume(struct op *op);

/* One of several that the current await waits for has failed: op->rc is the first of such. */
void op_note_error(struct op *op, int rc);

/*
 * All I/Os that the current await waits for are taken back: it ends with -ECANCELED. False: some are on their way,
 * or have failed. Context: the queue's thread, outside the loop.
 */
bool op_take_back(struct op *op);

/* Make `io` count for the current await without starting it (ring_work() starts it). */
void op_io_prepare(struct op *op, struct io *io);

#endif
