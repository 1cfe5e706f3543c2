/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The turns of a copy's loop: what has ended goes on from there, and the job is told how far it is. Whatever makes
 * the pieces begin (copy.c, fill.c) waits here.
 */
#include "jobs/copy.h"

#include <assert.h>
#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

enum { REAP_MOST = 64 };

int copy_fail_text(struct copy *c, int err, const char *what)
{
    char text[512];

    snprintf(text, sizeof text, "%s: %s", c->name, what);
    return vdisk_job_fail(c->job, err, text, NULL);
}

/* ---- how far it has come ------------------------------------------------------------------------------ */

uint64_t copy_done_before(const struct copy *c)
{
    uint64_t position = c->plan.handed + c->ahead;

    for (unsigned i = 0; c->slots && i < c->slot_count; i++)
        if (c->slots[i].busy)
            position = jobs_min(position, c->slots[i].whole);
    if (c->blocks && position < c->plan.total)
        position -= position % BLOCKS_SIZE;
    return c->blocks ? jobs_min(position, blocks_told(c->blocks)) : position;
}

void copy_flush(struct copy *c)
{
    vdisk_flush(c->q, c->target, 0, COPY_FLUSH);
    c->inflight++;
}

void copy_mark_if_due(struct copy *c)
{
    if (mark_is_due(&c->mark) && mark_note(&c->mark, copy_done_before(c)))
        copy_flush(c);
}

/* Invariant 1 of copy_discard.c. */
static void discarded(struct copy *c, const struct vdisk_completion *done)
{
    c->inflight--;
    assert(c->inflight == 0);
    if (done->result == -ENOTSUP)
        c->no_discards = true;
    else if (done->result < 0)
        copy_failed(c, done);
}

static void flushed(struct copy *c, const struct vdisk_completion *done)
{
    int rc = 0;

    if (done->result < 0)
        copy_failed(c, done);
    if (c->mark.busy)
        rc = mark_flushed(&c->mark, done->result);
    if (rc < 0 && c->rc == 0)
        c->rc = copy_fail_text(c, rc, strerror(-rc));
}

/* ---- what has ended ----------------------------------------------------------------------------------- */

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
    case COPY_SHARE:
        copy_share_done(c, s, done);
        break;
    case COPY_PLAN:
        c->inflight--;
        if (plan_answer(&c->plan, done->result) < 0)
            copy_failed(c, done);
        break;
    case COPY_DISCARD:
        discarded(c, done);
        break;
    case COPY_THERE:
        c->inflight--;
        plan_answer(&c->there, done->result);
        break;
    case COPY_FLUSH:
        c->inflight--;
        flushed(c, done);
        break;
    case COPY_REQUESTS:
        break;
    }
}

static void take_digests(struct copy *c)
{
    struct block_piece *next;
    int rc = 1;

    for (struct block_piece *p = blocks_take(c->blocks); p; p = next) {
        next = p->next;
        copy_digested(c, (struct copy_slot *)((char *)p - offsetof(struct copy_slot, digest)));
    }
    while (c->rc == 0 && (rc = blocks_tell(c->blocks)) > 0)
        copy_step(c);
    if (c->rc == 0 && rc < 0)
        c->rc = copy_fail_text(c, rc, strerror(-rc));
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

/* Nothing has ended for a while. Writes that wait for room end by that, or as the job does: it lets go of them. */
static void look_again(struct copy *c)
{
    if (c->rc == 0)
        copy_step(c);
    for (unsigned i = 0; c->rc < 0 && c->slots && i < c->slot_count; i++)
        if (c->slots[i].busy)
            (void)vdisk_cancel(c->q, (uint64_t)i * COPY_REQUESTS + COPY_WRITE);
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
    if (c->blocks)
        take_digests(c);
    if (n == 0 && least > 0 && c->inflight > 0)
        look_again(c);
    return true;
}

bool copy_reap(struct copy *c)
{
    return take_all(c, 0, NULL);
}

bool copy_wait(struct copy *c, uint64_t wait_ns)
{
    struct timespec t;

    return take_all(c, 1, pace_look_again(wait_ns, &t));
}

/* A volume is as long as its sectors; or as who asks says. */
bool copy_end_digests(struct copy *c)
{
    uint64_t end = jobs_align_up(c->blocks->entered, PLAN_SECTOR);
    bool alive = true;

    if (end < c->opts.digest_length)
        end = c->opts.digest_length;
    while (alive && c->rc == 0 && !blocks_have_room(c->blocks))
        alive = copy_wait(c, 0);
    if (alive && c->rc == 0 && end > c->blocks->entered)
        blocks_enter_zeros(c->blocks, end - c->blocks->entered);
    if (alive && c->rc == 0)
        blocks_close(c->blocks);
    while (alive && c->rc == 0 && c->blocks->busy > 0) {
        alive = copy_wait(c, 0);
        copy_step(c);
    }
    if (alive && c->rc == 0)
        take_digests(c);
    assert(!alive || c->rc < 0 || blocks_are_told(c->blocks));
    return alive;
}
