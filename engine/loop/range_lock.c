/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "engine/loop/range_lock.h"

#include <assert.h>
#include <errno.h>

#include "engine/base/mutant.h"
#include "engine/base/short_lock.h"

void range_locks_init(struct range_locks *locks)
{
    short_lock_init(&locks->lock);
    list_init(&locks->all);
}

void range_locks_finish(struct range_locks *locks)
{
    assert(list_empty(&locks->all));
    pthread_mutex_destroy(&locks->lock);
}

static struct range_lock *from_node(struct list *node)
{
    return container_of(node, struct range_lock, node);
}

/* Does a lock that stands before `end` (all: the list's head) overlap? */
static bool overlaps_earlier(struct range_locks *locks, const struct list *end, uint64_t start, uint64_t stop)
{
    assert_locked(&locks->lock);
    for (struct list *n = locks->all.next; n != end; n = n->next)
        if (from_node(n)->start < stop && start < from_node(n)->end)
            return true;
    return false;
}

bool range_lock_try(struct range_locks *locks, struct range_lock *l, uint64_t start, uint64_t end)
{
    bool held;

    assert(start < end);
    l->start = start;
    l->end = end;
    l->waiter = NULL;
    l->owner = NULL;
    pthread_mutex_lock(&locks->lock);
    held = l->held = !overlaps_earlier(locks, &locks->all, start, end);
    list_add_tail(&locks->all, &l->node);
    pthread_mutex_unlock(&locks->lock);
    return held;
}

void range_lock_wait(struct range_locks *locks, struct range_lock *l, struct op *op)
{
    range_lock_wait_for(locks, l, NULL, op);
}

void range_lock_wait_for(struct range_locks *locks, struct range_lock *l, const void *owner, struct op *op)
{
    pthread_mutex_lock(&locks->lock);
    assert(!l->waiter && !list_empty(&l->node)); /* it stands in line */
    l->owner = owner;
    l->waiter = op;
    if (l->held && !ENGINE_MUTANT(RANGE_LOST_WAKE))
        op_wake(op, 0);
    pthread_mutex_unlock(&locks->lock);
}

/* With the lock held: `l` stands in line no more; those behind it who can go on do. */
static void step_out(struct range_locks *locks, struct range_lock *l)
{
    struct list *next = l->node.next;

    assert_locked(&locks->lock);
    assert(!list_empty(&l->node));
    list_del(&l->node);
    for (struct list *n = next; n != &locks->all; n = n->next) {
        struct range_lock *other = from_node(n);
        if (other->held || other->start >= l->end || l->start >= other->end)
            continue;
        if (overlaps_earlier(locks, n, other->start, other->end) && !ENGINE_MUTANT(RANGE_OVERTAKE))
            continue;
        other->held = true;
        if (other->waiter)
            op_wake(other->waiter, 0);
    }
}

void range_unlock(struct range_locks *locks, struct range_lock *l)
{
    pthread_mutex_lock(&locks->lock);
    assert(l->held);
    l->held = false;
    step_out(locks, l);
    pthread_mutex_unlock(&locks->lock);
}

bool range_lock_give_up(struct range_locks *locks, const void *owner)
{
    struct range_lock *l = NULL;
    struct list *n;

    assert(owner != NULL); /* that would be anybody's */
    pthread_mutex_lock(&locks->lock);
    for (n = locks->all.next; n != &locks->all && !l; n = n->next) {
        l = from_node(n);
        if (l->owner != owner || !l->waiter || l->waiter->rc < 0 || (l->held && ENGINE_MUTANT(RANGE_GIVEN_KEPT)))
            l = NULL;
    }
    if (l && l->held && !ENGINE_MUTANT(RANGE_LATE_GIVE_UP)) {
        l->waiter->rc = -ECANCELED; /* it has been woken; what it got it gives back */
    } else if (l) {
        if (ENGINE_MUTANT(RANGE_QUIET_GIVE_UP))
            list_del(&l->node);
        else
            step_out(locks, l);
        op_wake(l->waiter, -ECANCELED);
    }
    pthread_mutex_unlock(&locks->lock);
    return l != NULL;
}

bool range_is_locked(struct range_locks *locks, uint64_t start, uint64_t end)
{
    bool locked;

    assert(start < end);
    pthread_mutex_lock(&locks->lock);
    locked = overlaps_earlier(locks, &locks->all, start, end);
    pthread_mutex_unlock(&locks->lock);
    return locked;
}

#ifndef NDEBUG

void range_locks_assert(struct range_locks *locks)
{
    enum { LOOKED_AT = 8 };
    unsigned i = 0;

    pthread_mutex_lock(&locks->lock);
    for (struct list *n = locks->all.next; n != &locks->all && i++ < LOOKED_AT; n = n->next) {
        const struct range_lock *l = from_node(n);
        assert(l->start < l->end && n->next->prev == n);
        assert(l->held == !overlaps_earlier(locks, n, l->start, l->end) || ENGINE_MUTANT(RANGE_OVERTAKE));
    }
    pthread_mutex_unlock(&locks->lock);
}

#endif
