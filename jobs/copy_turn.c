/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The turns of a copy's loop: what has ended goes on from there, and the job is told how far it is. Whatever makes
 * the pieces begin (copy.c, fill.c) waits here.
 */
#include "jobs/copy.h"

#include <errno.h>
#include <stdio.h>

enum { REAP_MOST = 64 };

int copy_fail_text(struct copy *c, int err, const char *what)
{
    char text[512];

    snprintf(text, sizeof text, "%s: %s", c->name, what);
    return vdisk_job_fail(c->job, err, text, NULL);
}

uint64_t copy_throttled_ns(const struct copy *c)
{
    uint64_t now = jobs_now_ns(), due;

    if (c->opts.rate == 0)
        return 0;
    due = c->begun_ns + (uint64_t)((double)c->charged / (double)c->opts.rate * (double)JOBS_NS_PER_S);
    return due > now ? due - now : 0;
}

static void take(struct copy *c, const struct vdisk_completion *done)
{
    struct copy_slot *s = &c->slots[done->user_data / COPY_REQUESTS];

    switch ((enum copy_request)(done->user_data % COPY_REQUESTS)) {
    case COPY_READ:
        copy_read_done(c, s, done);
        break;
    case COPY_WRITE:
        copy_write_done(c, s, done);
        break;
    case COPY_PLAN:
        c->inflight--;
        if (plan_answer(&c->plan, done->result) < 0)
            copy_failed(c, done);
        break;
    case COPY_FLUSH:
        c->inflight--;
        if (done->result < 0)
            copy_failed(c, done);
        break;
    case COPY_REQUESTS:
        break;
    }
}

static bool take_all(struct copy *c, unsigned least, const struct timespec *timeout)
{
    struct vdisk_completion done[REAP_MOST];
    int n = vdisk_wait(c->q, done, least, REAP_MOST, timeout);

    if (n < 0 && n != -EINTR) {
        if (c->rc == 0)
            c->rc = jobs_fail(c->job, n);
        return false;
    }
    for (int i = 0; i < n; i++)
        take(c, &done[i]);
    return true;
}

bool copy_reap(struct copy *c)
{
    return take_all(c, 0, NULL);
}

bool copy_wait(struct copy *c, uint64_t wait_ns)
{
    struct timespec t = {(time_t)(wait_ns / JOBS_NS_PER_S), (long)(wait_ns % JOBS_NS_PER_S)};

    return take_all(c, 1, wait_ns > 0 ? &t : NULL);
}

void copy_step(struct copy *c)
{
    int rc;

    if (c->opts.progress && c->opts.progress(c->opts.progress_arg, c->done, c->plan.total))
        vdisk_job_cancel(c->job);
    rc = vdisk_job_step(c->job, c->done, c->plan.total);
    if (rc < 0 && c->rc == 0)
        c->rc = jobs_fail(c->job, rc);
}
