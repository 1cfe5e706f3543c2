/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A scheduler for the small protocols between threads: runs a program of two or three real threads, one at a time,
 * through all schedules with up to a number of preemptions, and through random ones beyond.
 *
 * A step of a thread ends at a point: a POINT() of the library (base/point.h), before a mutex is taken and after
 * it is released, at sched_yield(), before an eventfd is written, and at sched_point() and sched_wait() of the
 * program. There the scheduler decides who goes on. That another goes on though the one that runs could is a
 * preemption; where it waits, or has ended, the choice is free. Most faults between threads take one or two
 * preemptions, and programs are so small that all schedules with three can be run.
 *
 * What a run does depends on its schedule only, so a schedule is a text ("A3.B5.A2": three steps of the first
 * thread, and so on) that repeats it. Not shown this way: what processors and compilers may reorder (all accesses
 * are seen in the order of the steps here); ThreadSanitizer looks for that.
 */
#ifndef TESTS_INTERLEAVE_SCHEDULER_H
#define TESTS_INTERLEAVE_SCHEDULER_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

enum { SCHED_THREADS = 4, SCHED_PREEMPTIONS = 3 }; /* threads: the library may begin one */

struct program {
    const char *name, *text;
    unsigned    threads;
    const char *quiet;                 /* points whose names begin so are no steps: for another program; or NULL */
    unsigned    preemptions;           /* of a default run, where all with three take too long; 0: three */
    void      (*setup)(void);          /* before each run */
    void      (*thread)(unsigned self);/* on its own thread, from 0 */
    void      (*check)(void);          /* after each step; takes no lock; NULL: nothing to check */
    void      (*finish)(void);         /* after each run: what must hold at the end; gives all back */
};

/* ---- for use inside a program ------------------------------------------------------------------------- */

/* A step ends. Does nothing outside of a run's threads. */
void sched_point(const char *name);

/* It goes on once ready(arg) is true, which is asked on any thread, between steps. */
void sched_wait(const char *what, bool (*ready)(void *), void *arg);

/* A step ends; the others come first, if any can go on. */
void sched_others_first(const char *what);

/* Does a thread of the current run call? */
bool sched_is_managed(void);

/* Is a run on, from its setup to its finish? */
bool sched_is_running(void);

/* For wrap.c: a mutex is taken, or has been released, by a thread of the run. */
void sched_wait_mutex(const void *mutex);
void sched_mutex_free(const void *mutex);

/* A thread of the run begins another, which becomes one of the run; false: too many. And waits for its end. */
bool sched_begin_thread(pthread_t *ret_id, void *(*start)(void *), void *arg);
bool sched_join_thread(pthread_t id);

/* The run has failed: says why, with the schedule, and ends the process. */
_Noreturn void sched_fail(const char *file, int line, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

#define REQUIRE(cond, ...)                                \
    do {                                                  \
        if (!(cond))                                      \
            sched_fail(__FILE__, __LINE__, __VA_ARGS__);  \
    } while (0)

/* ---- for main.c ----------------------------------------------------------------------------------------- */

struct sched_totals {
    uint64_t schedules[SCHED_PREEMPTIONS + 2]; /* by preemptions; more than that: in the last */
    uint64_t steps;
    unsigned longest;                          /* steps of a run */
};

/* All schedules with up to so many preemptions, fewest first. */
void sched_explore(const struct program *p, unsigned preemptions, struct sched_totals *totals);

/* `n` schedules drawn from a seed. */
void sched_random(const struct program *p, uint64_t n, uint64_t seed, struct sched_totals *totals);

/* One, as a failure has printed it; prints its steps. */
void sched_repeat(const struct program *p, const char *schedule);

/* Before the first run; `command` is printed with a failure, with the schedule behind it. */
void sched_init(const char *command);

#endif
