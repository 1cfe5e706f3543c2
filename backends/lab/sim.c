/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Simulation.
 *
 * Happy path of a call: it waits for a time drawn from the seed, goes to the child, waits again, and ends.
 * Of a wait: who has something to do runs, in an order drawn from the seed; when nobody has, time moves to the
 * next timer.
 * Failure modes: no memory for a call's own I/O: -ENOMEM. No timer and nothing to do: `stuck`.
 *
 * Invariants.
 *  1. A timer is in `timers` until its time has come, then in its queue's `due` until that queue's loop runs it.
 *  2. `now` moves only in pass_time(), only while no queue is runnable, and never back.
 *  3. Nothing that differs from run to run (addresses, the real time, numbers given out before) has a say.
 */
#include "backends/lab/sim.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "backends/drivers.h"
#include "engine/base/bits.h"
#include "engine/base/error.h"
#include "engine/base/mem.h"
#include "engine/filter.h"
#include "engine/loop/queue.h"
#include "engine/spec/option.h"

enum { LATENCY_DEFAULT_NS = 100000, SLOW_FACTOR_MAX = 64, NS_PER_S = 1000000000 };

struct sim_queue {
    struct list  link;
    vdisk_queue *queue;
    struct list  due; /* struct sim_timer */
};

struct sim_timer {
    struct list       link;
    uint64_t          at;
    struct sim_queue *queue;
    void            (*run)(struct sim_timer *);
};

struct sim {
    struct queue_host  host;  /* first */
    struct clock       clock;
    struct sim_options options;
    uint64_t           random;
    uint64_t           now;
    struct list        timers; /* by time; of equal ones the older first */
    struct list        queues;
    uint32_t           next_queue, next_backend;
    unsigned           backends;
    uint64_t           trace_hash, trace_length;
};

static struct sim *sim_of(struct queue_host *host)
{
    return container_of(host, struct sim, host);
}

/* ---- chance -------------------------------------------------------------------------------------------- */

/* splitmix64 */
static uint64_t mix(uint64_t x)
{
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

static uint64_t draw(struct sim *s, uint64_t n)
{
    s->random += 0x9e3779b97f4a7c15u;
    return mix(s->random) % n;
}

static uint64_t draw_latency(struct sim *s)
{
    uint64_t typical = s->options.latency_ns;
    uint64_t ns = typical / 4 + draw(s, typical + 1);

    return draw(s, 100) < s->options.slow_percent ? ns * (2 + draw(s, SLOW_FACTOR_MAX - 1)) : ns;
}

static uint64_t hash_bytes(uint64_t h, const void *bytes, uint64_t len)
{
    const uint8_t *p = bytes;
    uint64_t word = 0;

    for (; len >= sizeof word; p += sizeof word, len -= sizeof word) {
        memcpy(&word, p, sizeof word);
        h = (h ^ word) * 0x9e3779b97f4a7c15u;
        h ^= h >> 29;
    }
    for (; len > 0; len--)
        h = (h ^ *p++) * 0x100000001b3u;
    return h;
}

/* ---- timers -------------------------------------------------------------------------------------------- */

static void timer_start_at(struct sim *s, struct sim_timer *t, vdisk_queue *q, uint64_t at,
                           void (*run)(struct sim_timer *))
{
    struct list *after = s->timers.prev;

    t->at = at;
    t->queue = q->host_queue;
    t->run = run;
    while (after != &s->timers && container_of(after, struct sim_timer, link)->at > t->at)
        after = after->prev;
    list_add_tail(after->next, &t->link);
    q->kernel_inflight++;
}

static void timer_start(struct sim *s, struct sim_timer *t, vdisk_queue *q, void (*run)(struct sim_timer *))
{
    timer_start_at(s, t, q, s->now + draw_latency(s), run);
}

/* Move time to the next timer, and what is due then to its queue. */
static void next_timer(struct sim *s)
{
    struct sim_timer *t = container_of(s->timers.next, struct sim_timer, link);

    assert(t->at >= s->now);
    s->now = t->at;
    list_del(&t->link);
    list_add_tail(&t->queue->due, &t->link);
}

static unsigned sim_reap(vdisk_queue *q)
{
    struct sim_queue *sq = q->host_queue;
    struct list due, *node;
    unsigned n = 0;

    list_init(&due);
    list_splice_tail(&due, &sq->due);
    while ((node = list_pop(&due))) {
        struct sim_timer *t = container_of(node, struct sim_timer, link);
        assert(q->kernel_inflight > 0);
        q->kernel_inflight--;
        t->run(t);
        n++;
    }
    return n;
}

/* ---- waiting ------------------------------------------------------------------------------------------- */

static bool runnable(const struct sim_queue *sq)
{
    return sq->queue->ready.head || atomic_load(&sq->queue->remote) || !list_empty(&sq->due);
}

/* One that is runnable and not `self`, drawn; NULL: none. */
static struct sim_queue *draw_runnable(struct sim *s, const struct sim_queue *self)
{
    struct sim_queue *found = NULL;
    unsigned n = 0;

    for (struct list *l = s->queues.next; l != &s->queues; l = l->next) {
        struct sim_queue *sq = container_of(l, struct sim_queue, link);
        if (sq != self && runnable(sq) && draw(s, ++n) == 0)
            found = sq;
    }
    return found;
}

static void turn(struct sim_queue *sq)
{
    const vdisk_queue *before = queue_current;

    queue_turn(sq->queue);
    queue_current = before;
}

static int no_timer(struct sim *s)
{
    if (!s->options.stuck)
        assert(!"a simulated queue waits for what can never come");
    else
        s->options.stuck(s->options.arg);
    return -EDEADLK;
}

/* Somebody outside has done something, if there is one who could. */
static bool outside_turns(struct sim *s)
{
    const struct sim_outside *outside = s->options.outside;
    const vdisk_queue *before = queue_current;
    bool did = outside && outside->turn(s->options.arg);

    queue_current = before;
    return did;
}

/* Invariant 2, up to `until`. False: it is that late. */
static bool pass_time(struct sim *s, uint64_t until)
{
    const struct sim_outside *outside = s->options.outside;
    uint64_t at = list_empty(&s->timers) ? UINT64_MAX : container_of(s->timers.next, struct sim_timer, link)->at;
    uint64_t then = outside ? outside->next_ns(s->options.arg) : UINT64_MAX;

    if (min_u64(at, then) > until || min_u64(at, then) == UINT64_MAX) {
        s->now = until == UINT64_MAX ? s->now : max_u64(s->now, until);
        return false;
    }
    if (at <= then)
        next_timer(s);
    else
        s->now = max_u64(s->now, then);
    return true;
}

static bool has_outside(const struct sim *s)
{
    return s->options.outside && s->options.outside->next_ns(s->options.arg) != UINT64_MAX;
}

bool sim_turn(struct sim *s, uint64_t until_ns)
{
    struct sim_queue *q = draw_runnable(s, NULL);

    if (q && draw(s, 2) == 0) {
        turn(q);
        return true;
    }
    if (outside_turns(s))
        return true;
    if (q) {
        turn(q);
        return true;
    }
    return pass_time(s, until_ns);
}

static int sim_wait(vdisk_queue *q, const struct timespec *timeout)
{
    struct sim *s = sim_of(q->host);
    struct sim_queue *self = q->host_queue, *other;
    uint64_t deadline = UINT64_MAX;

    if (timeout)
        deadline = s->now + (uint64_t)timeout->tv_sec * NS_PER_S + (uint64_t)timeout->tv_nsec;
    for (;;) {
        if ((err_state.is_urgent && !q->always_turned) || (runnable(self) && draw(s, 2) == 0))
            return 0;
        other = draw_runnable(s, self);
        if (other) {
            turn(other);
            continue;
        }
        if (outside_turns(s))
            continue;
        if (runnable(self))
            return 0;
        if (list_empty(&s->timers) && !timeout && !has_outside(s))
            return no_timer(s);
        if (!pass_time(s, deadline))
            return -ETIME;
    }
}

static void sim_clock_now(const struct clock *c, struct timespec *ret)
{
    const struct sim *s = container_of(unconst(c), struct sim, clock);

    ret->tv_sec = (time_t)(s->now / NS_PER_S);
    ret->tv_nsec = (long)(s->now % NS_PER_S);
}

/* ---- queues -------------------------------------------------------------------------------------------- */

static int sim_attach(struct queue_host *host, vdisk_queue *q, uint32_t *ret_id)
{
    struct sim *s = sim_of(host);
    struct sim_queue *sq = mem_calloc(1, sizeof *sq);

    if (!sq)
        return -ENOMEM;
    sq->queue = q;
    list_init(&sq->due);
    list_add_tail(&s->queues, &sq->link);
    q->host_queue = sq;
    *ret_id = s->next_queue++;
    return 0;
}

static void sim_detach(struct queue_host *host, vdisk_queue *q)
{
    struct sim_queue *sq = q->host_queue;

    assert(list_empty(&sq->due));
    list_del(&sq->link);
    mem_free(sq);
}

/* A blocking call on behalf of a backend that is not simulated. */
struct sim_work {
    struct sim_timer timer;
    struct io       *io;
};

static void work_run(struct sim_timer *t)
{
    struct sim_work *w = container_of(t, struct sim_work, timer);
    struct io *io = w->io;

    mem_free(w);
    io_end(io, io->blocking(io));
}

static void sim_work(struct io *io)
{
    struct sim_work *w = mem_alloc(sizeof *w);

    if (!w) {
        io_end_later(io, -ENOMEM);
        return;
    }
    w->io = io;
    timer_start(sim_of(io->queue->host), &w->timer, io->queue, work_run);
}

/* Timeouts and computations; sockets are outside. */
struct sim_call {
    struct sim_timer timer;
    struct call     *call;
};

static void call_run(struct sim_timer *t)
{
    struct sim_call *sc = container_of(t, struct sim_call, timer);
    struct call *c = sc->call;

    mem_free(sc);
    call_end(c, c->kind == CALL_COMPUTE ? c->compute(c) : 0);
}

static bool sim_call(struct call *c)
{
    struct sim *s = sim_of(c->queue->host);
    uint64_t at = s->now + draw_latency(s);
    struct sim_call *sc;

    if (s->options.outside && s->options.outside->call(s->options.arg, c))
        return true;
    if (c->kind != CALL_TIMEOUT && c->kind != CALL_COMPUTE)
        return false;
    sc = mem_alloc(sizeof *sc);
    if (!sc) {
        call_end_later(c, -ENOMEM);
        return true;
    }
    sc->call = c;
    if (c->kind == CALL_TIMEOUT)
        at = max_u64(s->now, (uint64_t)c->until.tv_sec * NS_PER_S + (uint64_t)c->until.tv_nsec);
    timer_start_at(s, &sc->timer, c->queue, at, call_run);
    return true;
}

/* A timeout that is not due ends now; what is computed is not stopped. */
static void sim_cancel(struct call *c)
{
    struct sim *s = sim_of(c->queue->host);

    if (c->kind != CALL_TIMEOUT && s->options.outside)
        s->options.outside->cancel(s->options.arg, c);
    for (struct list *l = s->timers.next; c->kind == CALL_TIMEOUT && l != &s->timers; l = l->next) {
        struct sim_timer *t = container_of(l, struct sim_timer, link);
        struct sim_call *sc = container_of(t, struct sim_call, timer);
        if (t->run != call_run || sc->call != c)
            continue;
        list_del(&t->link);
        c->queue->kernel_inflight--;
        mem_free(sc);
        call_end_later(c, -ECANCELED);
        return;
    }
}

static const struct ring_ops sim_ops = {
    .attach = sim_attach,
    .detach = sim_detach,
    .reap = sim_reap,
    .wait = sim_wait,
    .work = sim_work,
    .call = sim_call,
    .cancel = sim_cancel,
};

/* ---- the simulation ------------------------------------------------------------------------------------ */

int sim_create(const struct sim_options *options, struct sim **ret_sim)
{
    struct sim *s = mem_calloc(1, sizeof *s);

    if (!s)
        return err_set(ENOMEM, "simulation: out of memory");
    s->host.ops = &sim_ops;
    s->host.clock = &s->clock;
    s->host.sockets = options->outside != NULL;
    s->clock.now = sim_clock_now;
    s->options = *options;
    if (s->options.latency_ns == 0)
        s->options.latency_ns = LATENCY_DEFAULT_NS;
    list_init(&s->timers);
    list_init(&s->queues);
    sim_reseed(s, options->seed);
    *ret_sim = s;
    return 0;
}

void sim_destroy(struct sim *s)
{
    if (s)
        vdisk_queue_destroy(s->host.sync);
    if (!s)
        return;
    assert(list_empty(&s->queues) && list_empty(&s->timers) && s->backends == 0);
    assert(queue_host != &s->host);
    mem_free(s);
}

void sim_enter(struct sim *s)
{
    assert(!queue_host);
    queue_host = &s->host;
}

void sim_leave(struct sim *s)
{
    assert(queue_host == &s->host);
    queue_host = NULL;
}

void sim_reseed(struct sim *s, uint64_t seed)
{
    s->random = mix(seed + 0x9e3779b97f4a7c15u);
}

uint64_t sim_now_ns(const struct sim *s)
{
    return s->now;
}

uint64_t sim_trace_hash(const struct sim *s)
{
    return s->trace_hash;
}

uint64_t sim_trace_length(const struct sim *s)
{
    return s->trace_length;
}

/* ---- the backend --------------------------------------------------------------------------------------- */

struct sim_backend {
    struct filter w; /* first */
    struct sim    *sim;
    uint32_t       id;
};

/* One call on its way. */
struct sim_io {
    struct io           io; /* the child's */
    struct sim_timer    timer;
    struct sim_backend *sb;
    struct io          *outer;
    int64_t             result;
    struct iovec        iov[];
};

static void trace(struct sim_io *si, bool end)
{
    struct sim *s = si->sb->sim;
    const struct io *io = &si->io;
    struct sim_event e = {.time_ns = s->now, .queue = io->queue->id, .backend = si->sb->id, .end = end,
                          .kind = (enum io_kind)io->kind, .flags = io->flags, .offset = io->offset,
                          .len = io->len, .result = end ? si->result : 0};
    uint64_t words[8];

    if (io->kind == (end ? IO_READ : IO_WRITE) && si->result >= 0)
        for (uint32_t i = 0; i < io->iovcnt; i++)
            e.data = hash_bytes(e.data, io->iov[i].iov_base, io->iov[i].iov_len);
    if (io->op) {
        e.type = io->op->type->name;
        e.state = op_state_name(io->op);
    }
    words[0] = e.time_ns;
    words[1] = (uint64_t)e.queue << 32 | e.backend;
    words[2] = (uint64_t)e.kind << 32 | e.flags << 1 | e.end;
    words[3] = e.offset;
    words[4] = e.len;
    words[5] = (uint64_t)e.result;
    words[6] = e.data;
    words[7] = s->trace_hash;
    s->trace_hash = hash_bytes(0, words, sizeof words);
    s->trace_length++;
    if (s->options.trace)
        s->options.trace(s->options.arg, &e);
}

static void run_end(struct sim_timer *t)
{
    struct sim_io *si = container_of(t, struct sim_io, timer);
    struct io *outer = si->outer;
    int64_t result = si->result;

    trace(si, true);
    mem_free(si);
    io_end(outer, result);
}

static void child_done(struct io *io)
{
    struct sim_io *si = container_of(io, struct sim_io, io);

    si->result = filter_result(&si->sb->w, io);
    timer_start(si->sb->sim, &si->timer, io->queue, run_end);
}

static void run_effect(struct sim_timer *t)
{
    struct sim_io *si = container_of(t, struct sim_io, timer);

    trace(si, false);
    io_start(&si->io);
}

static void sim_submit(struct backend *b, struct io *outer)
{
    struct sim_backend *sb = container_of(b, struct sim_backend, w.b);
    struct sim_io *si = mem_calloc(1, sizeof *si + outer->iovcnt * sizeof si->iov[0]);

    assert(outer->queue->host == &sb->sim->host);
    if (!si) {
        io_end_later(outer, -ENOMEM);
        return;
    }
    si->sb = sb;
    si->outer = outer;
    filter_fill_io(&sb->w, &si->io, outer, si->iov, UINT64_MAX);
    si->io.done = child_done;
    timer_start(sb->sim, &si->timer, outer->queue, run_effect);
}

static void sim_close(struct backend *b)
{
    struct sim_backend *sb = container_of(b, struct sim_backend, w.b);

    sb->sim->backends--;
    backend_close(sb->w.below);
}

/* The name of the part after "sim:", where this thread is within a simulation that opens by name. */
static bool in_sim(void)
{
    return queue_host && queue_host->ops == &sim_ops && sim_of(queue_host)->options.open;
}

static const char *name_in_sim(const char *name)
{
    return in_sim() && strncmp(name, "sim:", 4) == 0 ? name + 4 : NULL;
}

static bool sim_claims(const char *name)
{
    return name_in_sim(name) != NULL;
}

static const struct option_desc sim_names[] = {
    {"disk", OPTION_TEXT, true, NULL, "which disk of the simulation that this thread is in", NULL},
    {NULL, OPTION_TEXT, false, NULL, NULL, NULL},
};

static int sim_parse(const char *name, struct spec *options)
{
    return spec_put(options, "disk", SPEC_TEXT, name_in_sim(name));
}

static int sim_open(const char *name, const struct spec *options, uint32_t flags, struct backend **ret_backend)
{
    const struct sim_options *o;
    int rc;

    if (!in_sim())
        return err_set(ENOENT, "%s: this thread is in no simulation", name);
    o = &sim_of(queue_host)->options;
    rc = o->open(o->arg, spec_text(options, "disk"), flags, ret_backend);
    return rc < 0 ? err_set(rc, "%s: %s", name, strerror(-rc)) : 0;
}

const struct backend_driver sim_driver = {
    .name = "sim",
    .options = sim_names,
    .claims = sim_claims,
    .parse = sim_parse,
    .open = sim_open,
    .close = sim_close,
    .submit = sim_submit,
    .prefetch = filter_prefetch,
    .allocated = filter_allocated,
    .relock = filter_relock,
    .refresh = filter_refresh,
    .unlink = filter_unlink,
};

int sim_backend_create(struct sim *s, struct backend *child, struct backend **ret_backend)
{
    struct sim_backend *sb = backend_alloc(&sim_driver, child->name, sizeof *sb);

    if (!sb)
        return err_set(ENOMEM, "%s: out of memory", child->name);
    filter_init(&sb->w, child);
    sb->sim = s;
    sb->id = s->next_backend++;
    s->backends++;
    *ret_backend = &sb->w.b;
    return 0;
}
