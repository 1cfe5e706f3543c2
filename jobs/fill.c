/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Fill: a copy of bytes that come one after the other, of which it is not known before how many there are.
 *
 * Happy path: pieces are read from the program into slots, one after the other; each that is whole goes the way
 * of a piece of a copy (copy_slot.c) if the target is as long by then. Else it waits: when half of the slots do,
 * or nothing more comes, the target is made as long as what there is, once for all of them, while others are
 * being written. Failure modes: nothing comes, and it is cancelled: -ECANCELED; the program has an error, the
 * target cannot be made longer, a write fails: nothing more is begun, and what is in flight is waited for.
 *
 * Invariants.
 *  1. The target is never made longer than what has come, rounded up to 512. Of one that does not grow nothing
 *     behind what has come is written.
 *  2. Slots go their way in the order in which they came: what is compressed has its place by that.
 */
#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "jobs/copy.h"

enum { SECTOR = 512 };

struct fill {
    struct copy *c;
    uint64_t     at;      /* bytes that have come */
    bool         ended;   /* and no more do */
    unsigned     waiting; /* slots, from c->read_first on */
};

/* What comes next, a piece of it unless it ends. Other work goes on while nothing comes. false: as copy_wait(). */
static bool read_piece(struct fill *f, struct copy_slot *s)
{
    struct copy *c = f->c;
    int64_t n;

    s->len = 0;
    while (s->len < c->piece && !f->ended && c->rc == 0) {
        n = c->source(c->source_arg, s->buf + s->len, c->piece - s->len);
        assert(n <= (int64_t)(c->piece - s->len));
        if (n > 0) {
            s->len += (size_t)n;
        } else if (n == 0) {
            f->ended = true;
        } else if (n == -EAGAIN || n == -EINTR) {
            if (!copy_reap(c))
                return false;
            copy_step(c);
        } else {
            char text[128];
            snprintf(text, sizeof text, "reading what comes: %s", strerror((int)-n));
            c->rc = copy_fail_text(c, (int)n, text);
        }
    }
    f->at += s->len;
    return true;
}

/* The target is as long as what has come. */
static int grow(struct fill *f)
{
    struct copy *c = f->c;
    uint64_t end = jobs_align_up(f->at, SECTOR);
    char text[96];
    int rc;

    if (end <= vdisk_size(c->target))
        return 0;
    if (!(c->opts.flags & VDISK_COPY_GROW)) {
        snprintf(text, sizeof text, "has %" PRIu64 " bytes, and more come", vdisk_size(c->target));
        return copy_fail_text(c, ENOSPC, text);
    }
    rc = vdisk_resize(c->target, end, NULL); /* invariant 1 */
    return rc < 0 ? jobs_fail(c->job, rc) : 0;
}

/* What has come, and what is put behind it. */
static uint64_t total(const struct fill *f)
{
    return f->c->opts.flags & VDISK_COPY_GROW ? jobs_align_up(f->at, SECTOR) : f->at;
}

static void add_to_line(struct fill *f, struct copy_slot *s)
{
    struct copy *c = f->c;

    s->next_read = NULL;
    if (c->read_first)
        c->read_last->next_read = s;
    else
        c->read_first = s;
    c->read_last = s;
    f->waiting++;
}

/* Those that wait go their way, if they may. */
static void send(struct fill *f)
{
    struct copy *c = f->c;
    struct copy_slot *last = c->read_last;
    bool fits = last && last->whole + last->len <= vdisk_size(c->target);

    if (!fits && !f->ended && f->waiting * 2 < c->slot_count)
        return;
    if (c->rc == 0)
        c->rc = grow(f);
    while (c->rc == 0 && c->read_first) { /* invariant 2 */
        struct copy_slot *s = c->read_first;
        c->read_first = s->next_read;
        f->waiting--;
        copy_write_out(c, s);
    }
}

/* A slot for the next piece: others may have to end before, or some time to go by. false: as copy_wait(). */
static bool find_room(struct fill *f)
{
    struct copy *c = f->c;
    bool alive = true;
    uint64_t wait_ns = pace_wait_ns(&c->pace);

    while (alive && c->rc == 0 && (!c->free_slots || !copy_has_room(c) || wait_ns > 0)) {
        assert(copy_is_busy(c) || wait_ns > 0); /* no more than half of them wait */
        alive = copy_wait(c, wait_ns);
        copy_step(c);
        wait_ns = pace_wait_ns(&c->pace);
    }
    return alive;
}

static bool take_piece(struct fill *f)
{
    struct copy *c = f->c;
    struct copy_slot *s = copy_take_slot(c, f->at, c->piece);
    bool alive;

    assert(s->len == c->piece && s->buf);
    alive = read_piece(f, s);
    if (c->rc < 0 || s->len == 0) { /* it was in use for nothing */
        s->busy = false;
        s->next_free = c->free_slots;
        c->free_slots = s;
        return alive;
    }
    if (s->len % SECTOR != 0 && c->opts.flags & VDISK_COPY_GROW) { /* invariant 1 */
        memset(s->buf + s->len, 0, SECTOR - s->len % SECTOR);
        s->len = (size_t)jobs_align_up(s->len, SECTOR);
    }
    c->pace.charged += s->len;
    c->result.bytes_read += s->len;
    copy_digest(c, s);
    add_to_line(f, s);
    return alive;
}

bool copy_fill(struct copy *c)
{
    struct fill f = {.c = c};
    bool alive = true;

    while (alive && c->rc == 0 && !f.ended) {
        alive = find_room(&f);
        if (alive && c->rc == 0)
            alive = take_piece(&f);
        if (alive && c->rc == 0)
            send(&f);
        if (alive)
            alive = copy_reap(c); /* which sends what has been enqueued */
        c->result.bytes_total = total(&f);
        copy_step(c);
    }
    while (alive && c->inflight > 0) {
        alive = copy_wait(c, 0);
        copy_step(c);
    }
    return alive;
}
