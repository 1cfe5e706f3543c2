/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the tests of jobs share. */
#ifndef TESTS_JOBS_H
#define TESTS_JOBS_H

#include <semaphore.h>

#include "backends/lab/vdisk-lab.h"
#include "engine/vdisk-image.h"
#include "tests/callers/callers.h"

/* A progress function that lets a job go on step by step. `arg`: a struct stepper. */
struct stepper {
    sem_t    at;      /* posted at each step */
    sem_t    go;      /* waited for at each step, as long as `held` */
    _Atomic bool held;
    _Atomic unsigned steps;
    unsigned cancel_at; /* the step that says stop, from 1; 0: none */
};

static inline void stepper_init(struct stepper *s, bool held)
{
    memset(s, 0, sizeof *s);
    sem_init(&s->at, 0, 0);
    sem_init(&s->go, 0, 0);
    s->held = held;
}

static inline int stepper_step(void *arg, uint64_t done, uint64_t total)
{
    struct stepper *s = arg;
    unsigned step = ++s->steps;

    (void)done;
    (void)total;
    sem_post(&s->at);
    if (s->held)
        sem_wait(&s->go);
    return s->cancel_at == step;
}

/* Until the job stands at its first step. */
static inline void stepper_wait(struct stepper *s)
{
    while (sem_wait(&s->at) != 0) {}
}

/* It goes on, and is not held any more. */
static inline void stepper_release(struct stepper *s)
{
    s->held = false;
    sem_post(&s->go);
}

/* How far a job has come, told at each of its steps: for job options. In a laboratory it is a promise. */
struct going {
    vdisk_lab *lab; /* NULL: it is not armed */
    uint64_t   position;
};

static inline int going_note(void *arg, uint64_t position)
{
    struct going *g = arg;

    CHECK(position > g->position);
    g->position = position;
    if (g->lab)
        CHECK_OK(vdisk_lab_mark(g->lab, position));
    return 0;
}

/* A progress function: longer than checkpoint_ms = 1. */
static inline int going_step(void *arg, uint64_t done, uint64_t total)
{
    struct timespec t = {.tv_nsec = 1100000};

    (void)arg;
    (void)done;
    (void)total;
    while (nanosleep(&t, &t) != 0) {}
    return 0;
}

#define GOING_OPTS(going)                                                                                    \
    .progress = going_step, .going_on = {.checkpoint = going_note, .checkpoint_arg = (going), .checkpoint_ms = 1}

static inline struct vdisk_job_progress progress_of(const vdisk_job *j)
{
    struct vdisk_job_progress p = {.size = sizeof p};

    CHECK_OK(vdisk_job_get_progress(j, &p));
    return p;
}

#endif
