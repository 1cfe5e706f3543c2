/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A simulated machine, for tests: queues with a clock of their own, and storage whose latencies, and with them
 * the order in which things take effect and end, come from a seed. One seed is one run.
 *
 *     sim_create(&options, &sim);
 *     sim_enter(sim);                    queues that this thread makes from here on are its, volumes' own too
 *     sim_backend_create(sim, child, &b);
 *     ... volumes and queues as usual ...
 *     sim_leave(sim);
 *     sim_destroy(sim);
 *
 * Everything of one simulation happens on one thread. While a queue waits, the others run, as if their threads
 * did; time passes only when none has anything to do. Below a simulated backend may be any other; with memory
 * there, nothing makes a system call.
 */
#ifndef BACKENDS_SIM_H
#define BACKENDS_SIM_H

#include "engine/backend.h"

struct call;
struct sim;

/* What a simulated backend was told, and what it answered. */
struct sim_event {
    uint64_t     time_ns;
    uint32_t     queue;   /* numbers, in the order of their making, from 0 */
    uint32_t     backend;
    bool         end;     /* it has ended; else it takes effect now */
    enum io_kind kind;
    uint32_t     flags;
    uint64_t     offset, len;
    int64_t      result;  /* with `end`: as io_end() takes it */
    uint64_t     data;    /* a hash of the bytes: of a write when it takes effect, of a read when it has ended */
    const char  *type;    /* of the op that waits for it; NULL: none */
    const char  *state;
};

/*
 * Sockets, and whoever is at their other end: a simulation has none by itself. On its thread.
 */
struct sim_outside {
    /*
     * Make the call, which ends by call_end_later(), from turn() or cancel(); false: not of this kind. Asked
     * before the simulation's own.
     */
    bool     (*call)(void *arg, struct call *c);
    void     (*cancel)(void *arg, struct call *c);
    /* Of those outside one who has something to do does it; false: nobody has. */
    bool     (*turn)(void *arg);
    /* When somebody will have, by time alone; UINT64_MAX: never. */
    uint64_t (*next_ns)(void *arg);
};

struct sim_options {
    uint64_t seed;
    uint64_t latency_ns;   /* of a call, about; 0: 100 us */
    unsigned slow_percent; /* so many of the calls take up to 64 times as long */

    /* Open "sim:NAME", with enum backend_open_flags. The result need not be a simulated backend. May be NULL. */
    int    (*open)(void *arg, const char *name, uint32_t flags, struct backend **ret_backend);
    /* Told of each event, in order; may be NULL. */
    void   (*trace)(void *arg, const struct sim_event *event);
    /* A queue waits for what can never come. NULL: an assertion fails. Returns: the wait ends with -EDEADLK. */
    void   (*stuck)(void *arg);
    const struct sim_outside *outside; /* NULL: there is none */
    void    *arg;
};

/* -ENOMEM. `options` is copied. */
int sim_create(const struct sim_options *options, struct sim **ret_sim);

/* All queues and backends of it are gone. NULL is allowed. */
void sim_destroy(struct sim *sim);

void sim_enter(struct sim *sim);
void sim_leave(struct sim *sim);

/* Go on with another seed: for runs that leave out steps without changing the others. */
void sim_reseed(struct sim *sim, uint64_t seed);

uint64_t sim_now_ns(const struct sim *sim);

/*
 * One thing that can happen happens, or time passes, not beyond `until_ns`. False: it is that late, and nothing
 * else can. For who waits for something outside, on no queue.
 */
bool sim_turn(struct sim *sim, uint64_t until_ns);

/* Of all events so far. */
uint64_t sim_trace_hash(const struct sim *sim);
uint64_t sim_trace_length(const struct sim *sim);

/* Wrap `child`; it becomes the new backend's. On failure (-ENOMEM) it stays the caller's. */
int sim_backend_create(struct sim *sim, struct backend *child, struct backend **ret_backend);

#endif
