/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* engine/range_lock: three ranges, of which the one in the middle meets both others. */
#include <errno.h>
#include <string.h>

#include "engine/loop/range_lock.h"
#include "tests/interleave/common.h"

enum { THREADS = 3 };

static const struct { uint64_t start, end; } ranges[THREADS] = {{0, 2}, {1, 3}, {2, 4}};

static struct {
    struct range_locks locks;
    struct range_lock  lock[THREADS];
    vdisk_queue       *queue[THREADS];
    int                owner[4]; /* of each byte; 0: nobody */
} x;

static void setup(void)
{
    memset(&x, 0, sizeof x);
    range_locks_init(&x.locks);
    for (unsigned i = 0; i < THREADS; i++)
        x.queue[i] = quiet_queue(i);
}

static void finish(void)
{
    for (unsigned i = 0; i < THREADS; i++)
        vdisk_queue_destroy(x.queue[i]);
    range_locks_finish(&x.locks);
}

/* Invariant 1, whenever nobody is about to change the list. */
static void check(void)
{
    if (x.locks.lock.__data.__lock != 0)
        return;
    for (struct list *n = x.locks.all.next; n != &x.locks.all; n = n->next) {
        struct range_lock *l = container_of(n, struct range_lock, node);
        bool free = true;
        for (struct list *m = x.locks.all.next; m != n; m = m->next) {
            struct range_lock *earlier = container_of(m, struct range_lock, node);
            free &= earlier->end <= l->start || l->end <= earlier->start;
        }
        REQUIRE(l->held == free, "the lock of %c is %s", (int)('A' + (l - x.lock)),
                free ? "not held, though no earlier one overlaps" : "held, though an earlier one overlaps");
    }
}

static void use(unsigned self)
{
    for (uint64_t i = ranges[self].start; i < ranges[self].end; i++) {
        REQUIRE(x.owner[i] == 0, "byte %d has two owners", (int)i);
        x.owner[i] = (int)self + 1;
    }
    sched_point("holds the lock");
    for (uint64_t i = ranges[self].start; i < ranges[self].end; i++)
        x.owner[i] = 0;
    range_unlock(&x.locks, &x.lock[self]);
}

static void thread(unsigned self)
{
    struct range_lock *l = &x.lock[self];
    struct waiter w;

    waiter_init(&w, x.queue[self]);
    if (!range_lock_try(&x.locks, l, ranges[self].start, ranges[self].end)) {
        range_lock_wait(&x.locks, l, &w.op);
        REQUIRE(waiter_await(&w) == 0, "waiting for a lock fails");
    }
    use(self);
}

/* The one in the middle would rather not wait: it either has the lock, or is told that it has not. */
static void thread_gives_up(unsigned self)
{
    struct range_lock *l = &x.lock[self];
    struct waiter w;
    bool given_up;
    int rc;

    if (self != 1) {
        thread(self);
        return;
    }
    waiter_init(&w, x.queue[self]);
    if (!range_lock_try(&x.locks, l, ranges[self].start, ranges[self].end)) {
        range_lock_wait_for(&x.locks, l, &w, &w.op);
        sched_point("waits");
        given_up = range_lock_give_up(&x.locks, &w);
        rc = waiter_await(&w);
        REQUIRE(rc == (given_up ? -ECANCELED : 0), "it is told %d, though it has%s given up", rc,
                given_up ? "" : " not");
        if (given_up && l->held)
            range_unlock(&x.locks, l);
        if (given_up)
            return;
    }
    use(self);
}

const struct program range_locks = {
    .name = "range_lock",
    .text = "three ranges, the second meets both others",
    .threads = 3,
    .setup = setup,
    .thread = thread,
    .check = check,
    .finish = finish,
};

const struct program range_given_up = {
    .name = "range_given_up",
    .text = "three ranges, the second gives up where it has to wait",
    .threads = 3,
    .setup = setup,
    .thread = thread_gives_up,
    .check = check,
    .finish = finish,
};
