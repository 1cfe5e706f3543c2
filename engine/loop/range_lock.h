/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Exclusive locks on byte ranges, first come first served, for ops.
 *
 * Invariants.
 *  1. `all` is in order of arrival; a lock is held when no earlier one overlaps it.
 *  2. Held locks do not overlap.
 */
#ifndef ENGINE_RANGE_LOCK_H
#define ENGINE_RANGE_LOCK_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "engine/base/list.h"
#include "engine/loop/op.h"

struct range_locks {
    pthread_mutex_t lock;
    struct list     all;
};

struct range_lock {
    struct list node;
    uint64_t    start, end; /* [start, end) */
    struct op  *waiter;      /* its queue's thread changes it: from the wait to range_lock_got() */
    const void *owner;       /* whose wait may be given up; NULL: nobody's */
    bool        held;        /* of one that waits: changes with the lock */
};

void range_locks_init(struct range_locks *locks);
void range_locks_finish(struct range_locks *locks);

/* Stand in line for [start, end). True: held. False: range_lock_wait() next. Any thread. */
bool range_lock_try(struct range_locks *locks, struct range_lock *l, uint64_t start, uint64_t end);

/* The call of an await: wakes `op` with 0 once `l` is held. */
void range_lock_wait(struct range_locks *locks, struct range_lock *l, struct op *op);

/* The same for `owner`, who may give up: then `op` goes on with -ECANCELED, and l->held says what it has. */
void range_lock_wait_for(struct range_locks *locks, struct range_lock *l, const void *owner, struct op *op);

/* After a wait for an owner: the op goes on, and is not to be stopped any more. Context: its queue's thread. */
static inline void range_lock_got(struct range_lock *l)
{
    l->waiter = NULL;
}

/*
 * The owner waits for his lock no more, also when it has been given to him and he has not gone on yet. False: he
 * waits for none. Context: his thread.
 */
bool range_lock_give_up(struct range_locks *locks, const void *owner);

/* Any thread. Those who can go on now are woken. */
void range_unlock(struct range_locks *locks, struct range_lock *l);

/* Does somebody hold or wait for a part of [start, end)? */
bool range_is_locked(struct range_locks *locks, uint64_t start, uint64_t end);

/* Debug builds: are they as the invariants say? Of a long line the first few. Any thread. */
#ifdef NDEBUG
static inline void range_locks_assert(struct range_locks *locks) {}
#else
void range_locks_assert(struct range_locks *locks);
#endif

#endif
