/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* So many bytes in a second, at most, and not more often than that: what the clock says of a job. */
#ifndef JOBS_PACE_H
#define JOBS_PACE_H

#include <time.h>

#include "jobs/jobs.h"

#define PACE_WAIT_NS  UINT64_C(100000000) /* the longest wait at once: a job wants to be cancelled soon */

struct pace {
    uint64_t rate; /* 0: none */
    uint64_t begun_ns, charged;
};

static inline void pace_begin(struct pace *p, uint64_t rate)
{
    *p = (struct pace){.rate = rate, .begun_ns = jobs_now_ns()};
}

/* How long what comes next is to wait; 0: not at all. */
static inline uint64_t pace_wait_ns(const struct pace *p)
{
    uint64_t due, now;

    if (p->rate == 0)
        return 0;
    due = p->begun_ns + (uint64_t)((double)p->charged / (double)p->rate * (double)JOBS_NS_PER_S);
    now = jobs_now_ns();
    return due > now ? due - now : 0;
}

/* `wait_ns` as what vdisk_wait() takes, cut; NULL: there is nothing to wait for but completions. */
static inline const struct timespec *pace_timeout(uint64_t wait_ns, struct timespec *t)
{
    wait_ns = jobs_min(wait_ns, PACE_WAIT_NS);
    *t = (struct timespec){(time_t)(wait_ns / JOBS_NS_PER_S), (long)(wait_ns % JOBS_NS_PER_S)};
    return wait_ns > 0 ? t : NULL;
}

/* The same for who writes: that may wait for room, as long as it takes, and the job be cancelled meanwhile. */
static inline const struct timespec *pace_look_again(uint64_t wait_ns, struct timespec *t)
{
    return pace_timeout(wait_ns > 0 ? wait_ns : PACE_WAIT_NS, t);
}

#endif
