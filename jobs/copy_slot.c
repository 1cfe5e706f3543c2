/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The way of one piece of a copy.
 *
 * Happy path: a slot is taken, its buffer read into; what is not zeros is written from there, each run by itself,
 * and what is zeros is zeroed, or left where the target has zeros; when all of that has ended the slot is free.
 * Failure modes: a read fails: the copy does; with salvage, it is read again in parts, and what cannot be read is
 * reported, and zeros. A write fails: the copy does.
 *
 * Invariants.
 *  1. A slot's buffer is read into or written from, never both; it is free when nothing of it is in flight.
 *  2. Nothing that is not zeros is left out, wherever it ends up.
 */
#include <assert.h>
#include <string.h>

#include "jobs/copy.h"
#include "jobs/zeros.h"

#define ZERO_MOST (UINT64_C(1) << 30) /* with one request: progress goes on meanwhile */

enum { PART_LEAST = 512 };

static struct copy_slot *take_slot(struct copy *c, const struct plan_piece *p, uint64_t most)
{
    struct copy_slot *s = c->free_slots;

    assert(s && s->pending == 0);
    c->free_slots = s->next_free;
    s->source = p->source;
    s->offset = p->offset;
    s->whole = p->whole;
    s->len = jobs_min(p->len, most - (p->whole & (most - 1)));
    s->small = false;
    s->bad_len = 0;
    return s;
}

/* Nothing of it is in flight any more. */
static void slot_ended(struct copy *c, struct copy_slot *s)
{
    assert(s->pending == 0); /* invariant 1 */
    if (c->rc == 0)
        c->done += s->len;
    s->next_free = c->free_slots;
    c->free_slots = s;
}

void copy_failed(struct copy *c, const struct vdisk_completion *done)
{
    if (c->rc < 0)
        return;
    vdisk_explain(c->q, done);
    c->rc = jobs_fail(c->job, done->result);
}

static uint64_t data_of(const struct copy_slot *s, enum copy_request kind)
{
    return (uint64_t)s->number * COPY_REQUESTS + kind;
}

static void count_in(struct copy *c, struct copy_slot *s)
{
    s->pending++;
    c->inflight++;
}

/* ---- writes ------------------------------------------------------------------------------------------- */

static void write_data(struct copy *c, struct copy_slot *s, size_t at, const uint8_t *from, size_t len)
{
    count_in(c, s);
    c->result.bytes_written += len;
    vdisk_write(c->q, c->target, s->whole + at, from, len, 0, data_of(s, COPY_WRITE));
}

static void write_zeros(struct copy *c, struct copy_slot *s, size_t at, size_t len)
{
    count_in(c, s);
    c->result.bytes_zeroed += len;
    vdisk_write_zeroes(c->q, c->target, s->whole + at, len, VDISK_REQ_UNMAP, data_of(s, COPY_WRITE));
}

/* Zeros that were found in data: do they go out as zeros, or not at all? Else they are data. */
static bool zeros_count(const struct copy *c)
{
    return c->unit > 0 && (c->opts.flags & VDISK_COPY_TARGET_IS_ZERO || c->zeroes_cheap);
}

static void write_out(struct copy *c, struct copy_slot *s)
{
    bool zeros = false;
    size_t n;

    if (!zeros_count(c)) {
        write_data(c, s, 0, s->buf, s->len);
        return;
    }
    for (size_t at = 0; at < s->len; at += n) {
        n = zeros_run(s->buf + at, s->len - at, c->unit, s->whole + at, &zeros);
        if (!zeros)
            write_data(c, s, at, s->buf + at, n);
        else if (c->opts.flags & VDISK_COPY_TARGET_IS_ZERO)
            c->result.bytes_skipped += n;
        else
            write_zeros(c, s, at, n);
    }
    if (s->pending == 0)
        slot_ended(c, s);
}

void copy_write_done(struct copy *c, struct copy_slot *s, const struct vdisk_completion *done)
{
    assert(s->pending > 0);
    s->pending--;
    c->inflight--;
    if (done->result < 0)
        copy_failed(c, done);
    if (s->pending == 0)
        slot_ended(c, s);
}

/* ---- reads -------------------------------------------------------------------------------------------- */

static void read_part(struct copy *c, struct copy_slot *s)
{
    s->part_len = jobs_min(s->len - s->part, s->small ? PART_LEAST : s->len);
    count_in(c, s);
    vdisk_read(c->q, c->sources[s->source], s->offset + s->part, s->buf + s->part, s->part_len, 0,
               data_of(s, COPY_READ));
}

static void report_bad(struct copy *c, struct copy_slot *s)
{
    if (s->bad_len > 0 && c->opts.salvaged)
        c->opts.salvaged(c->opts.salvaged_arg, s->source, s->offset + s->bad, s->bad_len, s->bad_error);
    s->bad_len = 0;
}

/* A part that cannot be read is zeros; neighbours are told as one. */
static void note_bad(struct copy *c, struct copy_slot *s, int error)
{
    memset(s->buf + s->part, 0, s->part_len);
    c->result.bytes_salvaged += s->part_len;
    c->result.read_errors++;
    if (s->bad_len > 0 && s->bad_error != error)
        report_bad(c, s);
    if (s->bad_len == 0)
        s->bad = s->part;
    s->bad_len += s->part_len;
    s->bad_error = error;
}

/* One of the small parts has been read, or not. */
static void part_done(struct copy *c, struct copy_slot *s, int result)
{
    if (result < 0)
        note_bad(c, s, result);
    else
        report_bad(c, s);
    s->part += s->part_len;
    if (s->part < s->len) {
        read_part(c, s);
        return;
    }
    report_bad(c, s);
    write_out(c, s);
}

void copy_read_done(struct copy *c, struct copy_slot *s, const struct vdisk_completion *done)
{
    assert(s->pending == 1); /* invariant 1 */
    s->pending--;
    c->inflight--;
    if (done->result < 0 && !(c->opts.flags & VDISK_COPY_SALVAGE))
        copy_failed(c, done);
    if (c->rc < 0) {
        slot_ended(c, s);
    } else if (s->small) {
        part_done(c, s, done->result);
    } else if (done->result < 0) {
        s->small = true;
        read_part(c, s);
    } else {
        write_out(c, s);
    }
}

/* ---- the beginning ------------------------------------------------------------------------------------ */

void copy_begin_data(struct copy *c, const struct plan_piece *p)
{
    struct copy_slot *s = take_slot(c, p, c->piece);

    plan_take(&c->plan, s->len);
    c->charged += s->len;
    c->result.bytes_read += s->len;
    s->part = 0;
    read_part(c, s);
}

void copy_begin_zeros(struct copy *c, const struct plan_piece *p)
{
    bool as_data = c->opts.flags & VDISK_COPY_DENSE;
    struct copy_slot *s = take_slot(c, p, as_data ? c->piece : ZERO_MOST);

    plan_take(&c->plan, s->len);
    if (as_data) {
        c->charged += s->len;
        write_data(c, s, 0, c->zeros, s->len);
    } else {
        write_zeros(c, s, 0, s->len);
    }
}
