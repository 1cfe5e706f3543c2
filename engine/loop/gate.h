/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A gate: cheap counting of who is inside, so that an op can wait until all that were inside at some moment have
 * left. Used where a fast path takes no lock: freed clusters wait for the requests that may still use them, a
 * read-modify-write waits for the writes that started before it.
 *
 * Invariants.
 *  1. Who enters under parity p saw `epoch` with that parity after having been counted: a drain that flips the
 *     epoch later sees the count.
 *  2. At most one drain is on; the parity that it drains gains nobody, but for those who step back (rule 1).
 *  3. A drain that waits has marked a slot, of its parity, that somebody is in: whoever is the last to leave it
 *     looks at the drain again. Who leaves one that is not marked does not touch the gate afterwards: it may go.
 */
#ifndef ENGINE_GATE_H
#define ENGINE_GATE_H

#include <assert.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "engine/base/list.h"
#include "engine/base/mutant.h"
#include "engine/base/point.h"

enum { GATE_SLOTS = 32 };

/* In a count: the mark of rule 3. */
#define GATE_WATCHED (UINT32_C(1) << 31)

struct gate_slot {
    _Atomic uint32_t inside[2];
} __attribute__((aligned(64)));

_Static_assert(sizeof(struct gate_slot) == 64, "no two slots share a cache line");

struct gate {
    _Atomic uint32_t  epoch;
    pthread_mutex_t   lock;      /* what follows, and the flips */
    bool              draining;
    struct list       waiters;   /* ops that wait for the drain that is on */
    struct list       next;      /* ops that came during it: they need another flip */
    bool              next_wanted; /* a ticket that does */
    uint64_t          completed; /* drains that have ended */
    struct gate_slot *slots;     /* by queue id; two queues may share one */
};

struct op;

int gate_init(struct gate *g); /* 0 or -ENOMEM */
void gate_finish(struct gate *g);

/* How many are inside, or have not done with leaving. Exact only while nobody enters or leaves. */
uint64_t gate_inside(const struct gate *g);

/* Ends the drain if nobody is left inside. */
void gate_check(struct gate *g);

static inline struct gate_slot *gate_slot(const struct gate *g, uint32_t queue_id)
{
    return &g->slots[queue_id % GATE_SLOTS];
}

static inline void gate_leave_slot(struct gate *g, struct gate_slot *s, uint8_t parity)
{
    uint32_t before = atomic_fetch_sub(&s->inside[parity], 1);

    assert(parity <= 1 && (before & ~GATE_WATCHED) > 0);
    POINT("gate: counted out");
    if (__builtin_expect(before == (GATE_WATCHED | 1), 0) && !ENGINE_MUTANT(GATE_QUIET_LEAVE))
        gate_check(g);
    if (ENGINE_MUTANT(GATE_LOOK_BACK))
        (void)atomic_load(&g->epoch);
}

/* Returns the parity to leave with. */
static inline uint8_t gate_enter_slot(struct gate *g, struct gate_slot *s)
{
    uint32_t epoch = atomic_load_explicit(&g->epoch, memory_order_relaxed);

    for (;;) {
        POINT("gate: epoch read");
        atomic_fetch_add(&s->inside[epoch & 1], 1);
        POINT("gate: counted in");
        uint32_t now = atomic_load(&g->epoch);
        if (__builtin_expect(now == epoch, 1) || ENGINE_MUTANT(GATE_NO_SECOND_LOOK))
            return (uint8_t)(epoch & 1);
        gate_leave_slot(g, s, (uint8_t)(epoch & 1));
        epoch = now;
    }
}

/* The same by the number of the queue. */
static inline uint8_t gate_enter(struct gate *g, uint32_t queue_id)
{
    return gate_enter_slot(g, gate_slot(g, queue_id));
}

static inline void gate_leave(struct gate *g, uint32_t queue_id, uint8_t parity)
{
    gate_leave_slot(g, gate_slot(g, queue_id), parity);
}

/* Wake `op` once all that are inside now have left. Any thread; `op` itself is not inside. */
void gate_drain(struct gate *g, struct op *op);

/* An op that waits and that `is` knows waits no more: it is woken with -ECANCELED. False: none. Its thread. */
bool gate_give_up(struct gate *g, bool (*is)(struct op *op, const void *arg), const void *arg);

/*
 * The same for those who do not wait but come back: gate_passed() of the ticket is true once all that were inside
 * when it was drawn have left. Any thread.
 */
uint64_t gate_ticket(struct gate *g);
bool gate_passed(struct gate *g, uint64_t ticket);

#endif
