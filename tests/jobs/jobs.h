/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the tests of jobs share. */
#ifndef TESTS_JOBS_H
#define TESTS_JOBS_H

#include <semaphore.h>

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

static inline struct vdisk_job_progress progress_of(const vdisk_job *j)
{
    struct vdisk_job_progress p = {.size = sizeof p};

    CHECK_OK(vdisk_job_get_progress(j, &p));
    return p;
}

#endif
