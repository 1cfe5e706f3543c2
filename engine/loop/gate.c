/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "engine/loop/gate.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"
#include "engine/base/short_lock.h"
#include "engine/loop/op.h"

int gate_init(struct gate *g)
{
    size_t size = GATE_SLOTS * sizeof(struct gate_slot);

    memset(g, 0, sizeof *g);
    g->slots = mem_aligned(_Alignof(struct gate_slot), size);
    if (!g->slots)
        return -ENOMEM;
    memset(g->slots, 0, size);
    pthread_mutex_init(&g->lock, NULL);
    list_init(&g->waiters);
    list_init(&g->next);
    return 0;
}

void gate_finish(struct gate *g)
{
    if (!g->slots)
        return;
    assert(list_empty(&g->waiters) && list_empty(&g->next));
    /* Who left a marked slot as the last may have it still. */
    pthread_mutex_lock(&g->lock);
    assert(!g->draining || ENGINE_MUTANT(GATE_QUIET_LEAVE));
    pthread_mutex_unlock(&g->lock);
    pthread_mutex_destroy(&g->lock);
    mem_free(g->slots);
    g->slots = NULL;
}

uint64_t gate_inside(const struct gate *g)
{
    uint64_t n = 0;

    for (int i = 0; i < 2 * GATE_SLOTS; i++) {
        uint32_t count = atomic_load(&g->slots[i / 2].inside[i % 2]);
        n += count == GATE_WATCHED ? 1 : count & ~GATE_WATCHED;
    }
    return n;
}

/* Has everybody left the slot? If not, it is marked. */
static bool has_left(_Atomic uint32_t *count)
{
    uint32_t marked = GATE_WATCHED;

    if (atomic_load(count) == 0)
        return true;
    if (atomic_fetch_or(count, GATE_WATCHED) & ~GATE_WATCHED)
        return false;
    POINT("gate: a slot has been left");
    return atomic_compare_exchange_strong(count, &marked, 0); /* not if somebody is about to step back */
}

/* The drains that were begun have ended, but for one that is on: for that somebody may wait. */
static void gate_assert(struct gate *g)
{
    assert_locked(&g->lock);
    assert((uint32_t)(atomic_load(&g->epoch) - g->completed) == (g->draining ? 1u : 0u)); /* rule 2 */
    assert(g->draining || (list_empty(&g->waiters) && list_empty(&g->next) && !g->next_wanted));
}

/* Rule 3. */
static bool all_have_left(struct gate *g, uint32_t parity)
{
    assert_locked(&g->lock);
    for (int i = 0; i < GATE_SLOTS; i++) {
        if (i == GATE_SLOTS / 2)
            POINT("gate: half of the slots seen empty");
        if (!has_left(&g->slots[i].inside[parity]))
            return false;
    }
    return true;
}

/* A drain begins; who enters from now on is counted under the other parity. */
static void flip(struct gate *g)
{
    assert_locked(&g->lock);
    g->draining = true;
    POINT("gate: about to flip");
    atomic_fetch_add(&g->epoch, 1);
}

/* End drains for as long as nobody is left inside. */
static void drain_step(struct gate *g)
{
    gate_assert(g);
    while (g->draining) {
        if (!all_have_left(g, (atomic_load(&g->epoch) - 1) & 1))
            return;
        g->completed++;
        op_wake_all(&g->waiters, 0);
        if (list_empty(&g->next) && !g->next_wanted) {
            g->draining = false;
            return;
        }
        assert(list_empty(&g->waiters));
        list_splice_tail(&g->waiters, &g->next);
        g->next_wanted = false;
        flip(g);
    }
}

void gate_check(struct gate *g)
{
    pthread_mutex_lock(&g->lock);
    drain_step(g);
    pthread_mutex_unlock(&g->lock);
}

void gate_drain(struct gate *g, struct op *op)
{
    assert(list_empty(&op->wait));
    pthread_mutex_lock(&g->lock);
    gate_assert(g);
    if (g->draining) {
        list_add_tail(ENGINE_MUTANT(GATE_JOIN_DRAIN) ? &g->waiters : &g->next, &op->wait);
    } else {
        list_add_tail(&g->waiters, &op->wait);
        flip(g);
    }
    drain_step(g);
    pthread_mutex_unlock(&g->lock);
}

/* With the lock held. The drain goes on without it. */
static bool leave_list(struct list *waiters, bool (*is)(struct op *op, const void *arg), const void *arg)
{
    for (struct list *n = waiters->next; n != waiters; n = n->next) {
        struct op *op = container_of(n, struct op, wait);
        if (!is(op, arg))
            continue;
        list_del(&op->wait);
        op_wake(op, -ECANCELED);
        return true;
    }
    return false;
}

bool gate_give_up(struct gate *g, bool (*is)(struct op *op, const void *arg), const void *arg)
{
    bool left;

    pthread_mutex_lock(&g->lock);
    left = leave_list(&g->waiters, is, arg) || leave_list(&g->next, is, arg);
    pthread_mutex_unlock(&g->lock);
    return left;
}

uint64_t gate_ticket(struct gate *g)
{
    uint64_t ticket;

    pthread_mutex_lock(&g->lock);
    if (g->draining) {
        g->next_wanted = true;
        ticket = g->completed + (ENGINE_MUTANT(GATE_JOIN_DRAIN) ? 1 : 2);
    } else {
        flip(g);
        ticket = g->completed + 1;
    }
    drain_step(g);
    pthread_mutex_unlock(&g->lock);
    return ticket;
}

bool gate_passed(struct gate *g, uint64_t ticket)
{
    bool passed;

    pthread_mutex_lock(&g->lock);
    drain_step(g);
    assert(ticket <= g->completed + 2); /* one for the drain that may be on, one for the next */
    passed = g->completed >= ticket;
    pthread_mutex_unlock(&g->lock);
    return passed;
}
