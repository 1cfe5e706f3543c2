/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the host program is told by calls back: when the public call that found it ends, on the thread that found
 * it; threads of the library's own do it between turns. So no lock is held then and no loop is turned, and who is
 * called may call the library.
 *
 * Invariants.
 *  1. A struct after is in one list at a time; it is out of it when its run() is called, which may free it.
 *  2. When hook_set() has returned, the function that was there before is not called any more, and nobody is in it
 *     but the caller himself.
 */
#ifndef ENGINE_AFTER_H
#define ENGINE_AFTER_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

struct after {
    struct after *next;
    void (*run)(struct after *);
};

/* Run it when the call ends. Any thread, any lock held. */
void after_add(struct after *a);

/* The same, and a vdisk_reap() of this thread that waits does not go on waiting; but within such a run it does. */
void after_add_urgent(struct after *a);

/* Is there something to run? And run it: no lock held, no loop turned. The error text stays. */
bool after_is_due(void);
void after_run(void);

/* Is this thread within it? What is found meanwhile is not told before who is called returns. */
bool after_is_running(void);

/* A function of the host program's, with its argument. */
struct hook {
    pthread_mutex_t lock;
    pthread_cond_t  left;
    void          (*fn)(void); /* of whatever type; NULL: none */
    void           *arg;
    unsigned        inside;    /* calls that are on */
};

void hook_init(struct hook *h);
void hook_finish(struct hook *h);

/* Invariant 2. */
void hook_set(struct hook *h, void (*fn)(void), void *arg);

/* Around a call of it. False: there is none. */
bool hook_enter(struct hook *h, void (**ret_fn)(void), void **ret_arg);
void hook_leave(struct hook *h);

/* Is this thread within a call of it? */
bool hook_is_mine(const struct hook *h);

#endif
