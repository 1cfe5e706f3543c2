/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Faults on purpose.
 *
 * Happy path: count the call; no rule matches; an I/O of our own carries it to the child, and its end ends the
 * caller's. A rule fires: the call ends with an error before or after that, is cut short, or is held before or
 * after that.
 * Failure modes: no memory for our own I/O: -ENOMEM.
 *
 * Invariants.
 *  1. A held call is on one list or in its queue's ready list, never both; a call held for a number of calls
 *     gives up when FAULT_IDLE_TURNS turns of its queue brought no new one: nothing hangs because no more calls
 *     come.
 */
#include "backends/lab/fault.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/bits.h"
#include "engine/base/error.h"
#include "engine/base/mem.h"
#include "engine/filter.h"
#include "engine/loop/queue.h"

enum { FAULT_IDLE_TURNS = 64 };

struct armed_rule {
    struct fault_rule rule;
    uint64_t          matched;
    unsigned          fired;
};

struct fault_backend {
    struct filter     w; /* first */
    _Atomic uint64_t   calls[IO_KINDS];
    _Atomic uint64_t   all_calls;
    _Atomic uint64_t   fired;

    pthread_mutex_t    lock; /* what follows */
    struct armed_rule *rules;
    unsigned           rules_count;
    struct list        held; /* struct fault_io: until fault_release() */
    unsigned           held_count;
};

/* One call on its way. Belongs to its queue's thread; `link` to the backend's lock. */
struct fault_io {
    struct io             io;    /* the child's */
    struct task           task;  /* while it is held for a number of calls, and when it is released */
    struct list           link;
    struct fault_backend *f;
    struct io            *outer;
    struct fault_rule     rule;
    bool                  armed; /* `rule` applies */
    bool                  ended; /* the child has ended it: only the end is held */
    int64_t               result;
    uint64_t              due, seen; /* all_calls: to wait for, at the last turn */
    unsigned              idle_turns;
    struct iovec          iov[];
};

static struct fault_backend *fault_backend_of(struct backend *b)
{
    return container_of(b, struct fault_backend, w.b);
}

/* ---- rules ------------------------------------------------------------------------------------------- */

static bool same_name(const char *wanted, const char *name)
{
    return !wanted || (name && strcmp(wanted, name) == 0);
}

static bool rule_matches(const struct fault_rule *r, const struct io *io)
{
    bool has_range = io->kind != IO_FLUSH && io->kind != IO_TRUNCATE;

    if (r->kinds && !(r->kinds & FAULT_KIND(io->kind)))
        return false;
    if (r->len && (!has_range || io->offset >= r->offset + r->len || r->offset >= io->offset + io->len))
        return false;
    return same_name(r->type, io->op ? io->op->type->name : NULL) &&
           same_name(r->state, io->op ? op_state_name(io->op) : NULL);
}

/* How many bytes a SHORT rule leaves of the call; 0: the call is too short for it. */
static uint64_t short_bytes(const struct fault_backend *f, const struct fault_rule *r, const struct io *io)
{
    uint64_t left = io->len - io->moved;
    uint64_t bytes = align_down(r->bytes ? r->bytes : left / 2, f->w.b.align);

    if ((io->kind != IO_READ && io->kind != IO_WRITE) || io->flags & IO_EXACT)
        return 0;
    return bytes < left ? bytes : 0;
}

/* Count the call against the rules. True: *ret is the one that fires. */
static bool pick_rule(struct fault_backend *f, const struct io *io, struct fault_rule *ret)
{
    bool found = false;

    pthread_mutex_lock(&f->lock);
    for (unsigned i = 0; i < f->rules_count && !found; i++) {
        struct armed_rule *a = &f->rules[i];
        const struct fault_rule *r = &a->rule;
        if (!rule_matches(r, io))
            continue;
        if (r->what == FAULT_SHORT && short_bytes(f, r, io) == 0)
            continue;
        a->matched = r->matched ? atomic_fetch_add(r->matched, 1) + 1 : a->matched + 1;
        if (r->nth && (a->matched < r->nth || a->matched >= (uint64_t)r->nth + max_u64(r->count, 1)))
            continue;
        a->fired++;
        *ret = *r;
        found = true;
    }
    pthread_mutex_unlock(&f->lock);
    if (found)
        atomic_fetch_add(&f->fired, 1);
    return found;
}

int fault_add_rule(struct backend *b, const struct fault_rule *rule)
{
    struct fault_backend *f = fault_backend_of(b);
    struct armed_rule *rules;
    int number = -ENOMEM;

    assert((rule->what != FAULT_FAIL && rule->what != FAULT_FAIL_AFTER) || rule->error > 0);
    pthread_mutex_lock(&f->lock);
    rules = mem_realloc(f->rules, (f->rules_count + 1) * sizeof *rules);
    if (rules) {
        f->rules = rules;
        number = (int)f->rules_count++;
        rules[number] = (struct armed_rule){.rule = *rule};
    }
    pthread_mutex_unlock(&f->lock);
    return number;
}

/* ---- one call ---------------------------------------------------------------------------------------- */

/* The caller's I/O ends here. Context: the loop. */
static void end_outer(struct fault_io *fi)
{
    struct io *outer = fi->outer;
    int64_t result = fi->result;

    mem_free(fi);
    io_end(outer, result);
}

static void proceed(struct fault_io *fi)
{
    if (fi->ended)
        end_outer(fi);
    else
        io_start(&fi->io);
}

static void run_released(struct task *t)
{
    proceed(container_of(t, struct fault_io, task));
}

/* Once per turn of the queue, while it waits for further calls. */
static void run_waiting(struct task *t)
{
    struct fault_io *fi = container_of(t, struct fault_io, task);
    uint64_t calls = atomic_load(&fi->f->all_calls);

    if (calls != fi->seen)
        fi->idle_turns = 0;
    fi->seen = calls;
    if (calls >= fi->due || ++fi->idle_turns > FAULT_IDLE_TURNS)
        proceed(fi);
    else
        queue_ready(fi->outer->queue, t);
}

static void hold(struct fault_io *fi)
{
    struct fault_backend *f = fi->f;

    if (fi->rule.calls > 0) {
        fi->seen = atomic_load(&f->all_calls);
        fi->due = fi->seen + fi->rule.calls;
        fi->task.run = run_waiting;
        queue_ready(fi->outer->queue, &fi->task);
        return;
    }
    pthread_mutex_lock(&f->lock);
    list_add_tail(&f->held, &fi->link);
    f->held_count++;
    pthread_mutex_unlock(&f->lock);
}

void fault_release(struct backend *b)
{
    struct fault_backend *f = fault_backend_of(b);
    struct list *node;

    pthread_mutex_lock(&f->lock);
    while ((node = list_pop(&f->held))) {
        struct fault_io *fi = container_of(node, struct fault_io, link);
        f->held_count--;
        fi->task.run = run_released;
        queue_post(fi->outer->queue, &fi->task);
    }
    pthread_mutex_unlock(&f->lock);
}

static void child_done(struct io *io)
{
    struct fault_io *fi = container_of(io, struct fault_io, io);

    fi->ended = true;
    fi->result = filter_result(&fi->f->w, io);
    if (fi->armed && fi->rule.what == FAULT_FAIL_AFTER)
        fi->result = -fi->rule.error;
    if (fi->armed && fi->rule.what == FAULT_LATE_END)
        hold(fi);
    else
        end_outer(fi);
}

/* The child's I/O: what is left of the caller's, or less. */
static void fill_child_io(struct fault_io *fi)
{
    uint64_t len = UINT64_MAX;

    if (fi->armed && fi->rule.what == FAULT_SHORT)
        len = short_bytes(fi->f, &fi->rule, fi->outer);
    filter_fill_io(&fi->f->w, &fi->io, fi->outer, fi->iov, len);
    fi->io.done = child_done;
}

static void fault_submit(struct backend *b, struct io *outer)
{
    struct fault_backend *f = fault_backend_of(b);
    struct fault_rule rule = {0};
    struct fault_io *fi;
    bool armed;

    atomic_fetch_add(&f->calls[outer->kind], 1);
    atomic_fetch_add(&f->all_calls, 1);
    armed = pick_rule(f, outer, &rule);
    if (armed && rule.what == FAULT_FAIL) {
        io_end_later(outer, -rule.error);
        return;
    }
    fi = mem_calloc(1, sizeof *fi + outer->iovcnt * sizeof fi->iov[0]);
    if (!fi) {
        io_end_later(outer, -ENOMEM);
        return;
    }
    fi->f = f;
    fi->outer = outer;
    fi->rule = rule;
    fi->armed = armed;
    fill_child_io(fi);
    if (armed && rule.what == FAULT_LATE)
        hold(fi);
    else
        io_start(&fi->io);
}

/* ---- the rest ---------------------------------------------------------------------------------------- */

static void fault_close(struct backend *b)
{
    struct fault_backend *f = fault_backend_of(b);

    assert(f->held_count == 0);
    mem_free(f->rules);
    pthread_mutex_destroy(&f->lock);
    backend_close(f->w.below);
}

static const struct backend_driver fault_driver = {
    .name = "fault",
    .close = fault_close,
    .submit = fault_submit,
    .prefetch = filter_prefetch,
    .allocated = filter_allocated,
    .relock = filter_relock,
    .refresh = filter_refresh,
    .unlink = filter_unlink,
};

int fault_backend_create(struct backend *child, struct backend **ret_backend)
{
    struct fault_backend *f = backend_alloc(&fault_driver, child->name, sizeof *f);

    if (!f)
        return err_set(ENOMEM, "%s: out of memory", child->name);
    filter_init(&f->w, child);
    pthread_mutex_init(&f->lock, NULL);
    list_init(&f->held);
    *ret_backend = &f->w.b;
    return 0;
}

struct backend *fault_backend_child(struct backend *b)
{
    assert(b->driver == &fault_driver);
    return filter_of(b)->below;
}

void fault_clear(struct backend *b)
{
    struct fault_backend *f = fault_backend_of(b);

    pthread_mutex_lock(&f->lock);
    f->rules_count = 0;
    pthread_mutex_unlock(&f->lock);
    fault_release(b);
}

unsigned fault_rule_fired(struct backend *b, int number)
{
    struct fault_backend *f = fault_backend_of(b);
    unsigned fired = 0;

    assert(number >= 0);
    pthread_mutex_lock(&f->lock);
    if ((unsigned)number < f->rules_count)
        fired = f->rules[number].fired;
    pthread_mutex_unlock(&f->lock);
    return fired;
}

uint64_t fault_fired(struct backend *b)
{
    return atomic_load(&fault_backend_of(b)->fired);
}

uint64_t fault_calls(struct backend *b, unsigned kind)
{
    return atomic_load(&fault_backend_of(b)->calls[kind]);
}

uint64_t fault_all_calls(struct backend *b)
{
    return atomic_load(&fault_backend_of(b)->all_calls);
}

unsigned fault_held(struct backend *b)
{
    struct fault_backend *f = fault_backend_of(b);
    unsigned held;

    pthread_mutex_lock(&f->lock);
    held = f->held_count;
    pthread_mutex_unlock(&f->lock);
    return held;
}
