/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Invariants.
 *  1. Between the start of a run and its end exactly one of its threads runs, the one in `current`; all else here
 *  1. Between the start of a run and its end exactly one of its threads runs, `current`; all here is touched by
 *     that one only. Who hands over writes before it posts, who takes over reads after it was posted.
 */
#include "tests/interleave/scheduler.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/base/point.h"
#include "engine/loop/queue.h"
#include "tests/interleave/wrap.h"
#include "tests/lib/rng.h"

/* A run longer than that goes round in circles. */
enum { STEPS_MAX = 20000, RUN_SECONDS = 60 };

enum thread_state { READY, WAITS, WAITS_FOR_MUTEX, ENDED };

struct thread {
    pthread_t         id;
    sem_t             go;
    enum thread_state state;
    bool              yields;  /* the others come first */
    const char       *at;
    bool            (*ready)(void *);
    void             *arg;
    const void       *mutex;
    void           *(*start)(void *); /* begun by another of the run; NULL: one of the program's */
    void             *start_arg;
};

/* At one point: who could go on, and who did. The one that was running, if it can, is the first option. */
struct decision {
    uint8_t     option[SCHED_THREADS];
    uint8_t     options, chosen;
    bool        preempts;    /* each but the first option costs a preemption */
    uint8_t     before;      /* preemptions so far */
    uint8_t     came;        /* the thread that came to it, and to what */
    const char *at;
};

enum chooser { BY_PREFIX, BY_CHANCE, BY_TEXT };

static struct {
    const char           *command;
    struct thread         threads[SCHED_THREADS];
    unsigned              started;          /* threads that exist */
    sem_t                 ended;
    bool                  on;

    const struct program *program;
    unsigned              total, left;      /* threads of this run; those that have not ended */
    unsigned              current;
    struct decision      *decisions;        /* of this run */
    unsigned              count;
    unsigned              preemptions;
    enum chooser          chooser;
    unsigned              prefix;           /* decisions that are given; their `chosen` is */
    uint8_t              *text;             /* BY_TEXT: which thread each time, of `prefix` */
    struct rng            rng;
    unsigned              switch_percent;
} s;

static _Thread_local int self = -1; /* this thread's number; -1: not of a run */
static _Thread_local bool checking; /* points and locks of a check are nobody's steps */

bool sched_is_managed(void)
{
    return self >= 0 && s.on && !checking;
}

bool sched_is_running(void)
{
    return s.program != NULL;
}

/* ---- failures ------------------------------------------------------------------------------------------- */

static char letter(unsigned thread)
{
    return (char)('A' + thread);
}

static void print_schedule(FILE *f)
{
    for (unsigned i = 0, n; i < s.count; i += n) {
        uint8_t thread = s.decisions[i].option[s.decisions[i].chosen];
        for (n = 1; i + n < s.count; n++)
            if (s.decisions[i + n].option[s.decisions[i + n].chosen] != thread)
                break;
        fprintf(f, "%s%c%u", i ? "." : "", letter(thread), n);
    }
}

static void print_steps(FILE *f)
{
    for (unsigned i = 0; i < s.count; i++) {
        const struct decision *d = &s.decisions[i];
        uint8_t next = d->option[d->chosen];
        if (i > 0)
            fprintf(f, "    %c  %s\n", letter(d->came), d->at);
        if (i > 0 && next != d->came)
            fprintf(f, "    -> %c%s\n", letter(next), d->preempts && d->chosen > 0 ? "  (preemption)" : "");
    }
}

static _Noreturn void say_and_end(const char *what)
{
    printf("FAILED %s: %s\n", s.program->name, what);
    printf("    the steps, each by what it came to:\n");
    print_steps(stdout);
    if (self >= 0)
        printf("    %c  runs\n", letter((unsigned)self));
    printf("    again: %s --program %s --schedule ", s.command, s.program->name);
    print_schedule(stdout);
    printf("\n");
    fflush(stdout);
    _exit(1);
}

void sched_fail(const char *file, int line, const char *fmt, ...)
{
    char text[600];
    int n = snprintf(text, sizeof text, "%s:%d: ", file, line);
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(text + n, sizeof text - (size_t)n, fmt, ap);
    va_end(ap);
    say_and_end(text);
}

static void on_signal(int number)
{
    if (!s.program)
        _exit(98);
    say_and_end(number == SIGABRT ? "an assertion" : number == SIGALRM ? "it hangs" : "a bad access to memory");
}

/* ---- decisions ------------------------------------------------------------------------------------------ */

static bool can_go_on(struct thread *t)
{
    return t->state == READY || (t->state == WAITS && t->ready(t->arg));
}

/* Who can go on, the current one first; those that let others come first only where there is no other. */
static void find_options(struct decision *d)
{
    bool can[SCHED_THREADS], any = false;

    for (unsigned i = 0; i < s.total; i++) {
        can[i] = can_go_on(&s.threads[i]);
        any |= can[i] && !s.threads[i].yields;
    }
    d->options = 0;
    for (unsigned k = 0; k < s.total; k++) {
        unsigned i = (s.current + k) % s.total;
        if (can[i] && (!any || !s.threads[i].yields))
            d->option[d->options++] = (uint8_t)i;
    }
    d->preempts = d->options > 0 && d->option[0] == s.current;
}

static uint8_t choose(const struct decision *d)
{
    if (s.count < s.prefix) {
        if (s.chooser == BY_PREFIX)
            return d->chosen;
        for (uint8_t i = 0; i < d->options; i++)
            if (d->option[i] == s.text[s.count])
                return i;
        sched_fail(__FILE__, __LINE__, "step %u: %c cannot go on: not a schedule of this program or build",
                   s.count, letter(s.text[s.count]));
    }
    if (s.chooser != BY_CHANCE || d->options == 1)
        return 0;
    if (d->preempts && !rng_chance(&s.rng, s.switch_percent))
        return 0;
    return (uint8_t)rng_below(&s.rng, d->options);
}

static void nobody_can(void)
{
    char text[500];
    int n = snprintf(text, sizeof text, "nobody can go on:");

    for (unsigned i = 0; i < s.total; i++)
        if (s.threads[i].state != ENDED && n < (int)sizeof text)
            n += snprintf(text + n, sizeof text - (size_t)n, " %c waits at '%s';", letter(i), s.threads[i].at);
    say_and_end(text);
}

static void run_check(void)
{
    if (!s.program->check)
        return;
    checking = true;
    s.program->check();
    checking = false;
}

/* The thread that goes on. */
static unsigned decide(const char *at)
{
    struct decision *d = &s.decisions[s.count], given = *d;

    run_check();
    checking = true;
    find_options(d);
    checking = false;
    d->at = at;
    d->came = (uint8_t)s.current;
    d->before = (uint8_t)s.preemptions;
    if (d->options == 0)
        nobody_can();
    if (s.chooser == BY_PREFIX && s.count < s.prefix)
        REQUIRE(d->options == given.options && memcmp(d->option, given.option, d->options) == 0,
                "step %u differs from the last run with the same schedule", s.count);
    d->chosen = choose(d);
    s.preemptions += d->preempts && d->chosen > 0;
    if (++s.count == STEPS_MAX)
        say_and_end("the run does not end");
    for (unsigned i = 0; i < s.total; i++)
        if (i != d->option[d->chosen])
            s.threads[i].yields = false;
    return d->option[d->chosen];
}

static void go(unsigned thread)
{
    s.current = thread;
    s.threads[thread].state = READY;
    sem_post(&s.threads[thread].go);
}

static void wait_for(sem_t *sem)
{
    while (sem_wait(sem) < 0 && errno == EINTR)
        ;
}

/* This thread's step has ended; returns when its next begins. */
static void step_ends(const char *at)
{
    unsigned next;

    s.threads[self].at = at;
    next = decide(at);
    if (next == (unsigned)self) {
        s.threads[self].state = READY;
        return;
    }
    go(next);
    wait_for(&s.threads[self].go);
}

void sched_point(const char *name)
{
    const char *quiet = sched_is_managed() ? s.program->quiet : NULL;

    if (sched_is_managed() && (!quiet || strncmp(name, quiet, strlen(quiet)) != 0))
        step_ends(name);
}

void sched_wait(const char *what, bool (*ready)(void *), void *arg)
{
    struct thread *t = &s.threads[self];

    t->ready = ready;
    t->arg = arg;
    t->state = WAITS;
    step_ends(what);
}

void sched_others_first(const char *what)
{
    s.threads[self].yields = true;
    step_ends(what);
    s.threads[self].yields = false;
}

void sched_wait_mutex(const void *mutex)
{
    s.threads[self].mutex = mutex;
    s.threads[self].state = WAITS_FOR_MUTEX;
    step_ends("a lock, taken");
}

void sched_mutex_free(const void *mutex)
{
    for (unsigned i = 0; i < s.total; i++)
        if (s.threads[i].state == WAITS_FOR_MUTEX && s.threads[i].mutex == mutex)
            s.threads[i].state = READY;
}

/* ---- a run ---------------------------------------------------------------------------------------------- */

static void *thread_main(void *arg)
{
    self = (int)(uintptr_t)arg;
    for (;;) {
        wait_for(&s.threads[self].go);
        queue_current = NULL; /* of the run before */
        if (s.threads[self].start)
            s.threads[self].start(s.threads[self].start_arg);
        else
            s.program->thread((unsigned)self);
        s.threads[self].state = ENDED;
        s.threads[self].at = "its end";
        if (--s.left > 0)
            go(decide("its end"));
        else
            sem_post(&s.ended);
    }
    return NULL;
}

static void start_threads(unsigned n)
{
    for (; s.started < n; s.started++) {
        struct thread *t = &s.threads[s.started];
        sem_init(&t->go, 0, 0);
        if (pthread_create(&t->id, NULL, thread_main, (void *)(uintptr_t)s.started) != 0)
            _exit(99);
    }
}

static void add_thread(void *(*start)(void *), void *arg)
{
    struct thread *t = &s.threads[s.total++];

    t->state = READY;
    t->yields = false;
    t->start = start;
    t->start_arg = arg;
    t->at = "its beginning";
    s.left++;
}

bool sched_begin_thread(pthread_t *ret_id, void *(*start)(void *), void *arg)
{
    if (s.total == SCHED_THREADS)
        return false;
    checking = true; /* this one is not of the run */
    start_threads(s.total + 1);
    checking = false;
    *ret_id = s.threads[s.total].id;
    add_thread(start, arg);
    step_ends("a thread begun");
    return true;
}

static bool has_ended(void *arg)
{
    const struct thread *t = arg;

    return t->state == ENDED;
}

bool sched_join_thread(pthread_t id)
{
    for (unsigned i = 0; i < s.total; i++)
        if (s.threads[i].start && pthread_equal(s.threads[i].id, id)) {
            sched_wait("waits for the end of a thread", has_ended, &s.threads[i]);
            return true;
        }
    return false;
}

static void run(const struct program *p, struct sched_totals *totals)
{
    alarm(RUN_SECONDS);
    s.program = p;
    s.count = s.preemptions = 0;
    s.current = 0;
    p->setup();
    start_threads(p->threads);
    s.total = s.left = 0;
    for (unsigned i = 0; i < p->threads; i++)
        add_thread(NULL, NULL);
    /* Nobody runs yet: who begins is a free choice. */
    struct decision *first = &s.decisions[0];
    for (unsigned i = 0; i < p->threads; i++)
        first->option[i] = (uint8_t)i;
    first->options = (uint8_t)p->threads;
    first->preempts = false;
    first->before = 0;
    first->chosen = choose(first);
    if (s.chooser == BY_CHANCE)
        first->chosen = (uint8_t)rng_below(&s.rng, p->threads);
    s.count = 1;
    s.on = true;
    go(first->option[first->chosen]);
    wait_for(&s.ended);
    s.on = false;
    p->finish();
    wrap_end_run();
    s.program = NULL;
    if (totals) {
        totals->schedules[s.preemptions <= SCHED_PREEMPTIONS ? s.preemptions : SCHED_PREEMPTIONS + 1]++;
        totals->steps += s.count;
        if (s.count > totals->longest)
            totals->longest = s.count;
    }
}

/* The next schedule with `bound` preemptions at most, as a prefix: the last decision that leaves one changes. */
static bool next_schedule(unsigned bound)
{
    for (unsigned i = s.count; i-- > 0;) {
        struct decision *d = &s.decisions[i];
        if (d->chosen + 1 < d->options && (unsigned)d->before + d->preempts <= bound) {
            d->chosen++;
            s.prefix = i + 1;
            return true;
        }
    }
    return false;
}

void sched_explore(const struct program *p, unsigned preemptions, struct sched_totals *totals)
{
    s.chooser = BY_PREFIX;
    for (unsigned bound = 0; bound <= preemptions; bound++) {
        struct sched_totals all = {0};
        s.prefix = 0;
        do
            run(p, &all);
        while (next_schedule(bound));
        /* Those with fewer have been counted. */
        totals->schedules[bound] += all.schedules[bound];
        totals->steps += all.steps;
        if (all.longest > totals->longest)
            totals->longest = all.longest;
    }
}

void sched_random(const struct program *p, uint64_t n, uint64_t seed, struct sched_totals *totals)
{
    s.chooser = BY_CHANCE;
    s.prefix = 0;
    for (uint64_t i = 0; i < n; i++) {
        rng_init(&s.rng, rng_mix(seed) + i);
        s.switch_percent = (unsigned)rng_between(&s.rng, 5, 90);
        run(p, totals);
    }
}

static unsigned parse(const char *schedule, uint8_t *to)
{
    unsigned n = 0;

    for (const char *p = schedule; *p;) {
        unsigned thread = (unsigned)(*p++ - 'A');
        char *end;
        unsigned long times = strtoul(p, &end, 10);
        if (thread >= SCHED_THREADS || end == p || (*end && *end != '.') || n + times > STEPS_MAX) {
            fprintf(stderr, "not a schedule: %s\n", schedule);
            exit(2);
        }
        while (times-- > 0)
            to[n++] = (uint8_t)thread;
        p = *end ? end + 1 : end;
    }
    return n;
}

void sched_repeat(const struct program *p, const char *schedule)
{
    s.text = calloc(STEPS_MAX, 1);
    if (!s.text)
        exit(1);
    s.chooser = BY_TEXT;
    s.prefix = parse(schedule, s.text);
    run(p, NULL);
    print_steps(stdout);
    printf("    %u steps, %u preemptions: ", s.count, s.preemptions);
    print_schedule(stdout);
    printf("\n");
    free(s.text);
}

void sched_init(const char *command)
{
    struct sigaction act = {.sa_handler = on_signal};
    static const int signals[] = {SIGABRT, SIGSEGV, SIGBUS, SIGALRM};

    for (size_t i = 0; i < sizeof signals / sizeof signals[0]; i++)
        sigaction(signals[i], &act, NULL);
    s.command = command;
    s.decisions = calloc(STEPS_MAX, sizeof *s.decisions);
    if (!s.decisions)
        exit(1);
    sem_init(&s.ended, 0, 0);
#ifndef NDEBUG
    atomic_store(&point_hook, sched_point);
#endif
}
