/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The way of one piece of a copy.
 *
 * Happy path: a slot is taken, its buffer read into; what is not zeros is written from there, each run by itself,
 * and what is zeros is zeroed, or left where the target has zeros; when all of that has ended the slot is free.
 * What the host can share, or copy, does not come by here.
 * Failure modes: a read fails: the copy does; with salvage, it is read again in parts, and what cannot be read is
 * reported, and zeros. A write fails: the copy does. The host does not share a range: it is asked for no other,
 * and what it was asked for is read and written, piece by piece in the same slot.
 *
 * Invariants.
 *  1. A slot's buffer is read into or written from, never both; it is free when nothing of it is in flight.
 *  2. Nothing that is not zeros is left out, wherever it ends up.
 */
#include <assert.h>
#include <string.h>

#include "jobs/copy.h"
#include "jobs/zeros.h"

#define ZERO_MOST  (UINT64_C(1) << 30) /* with one request: progress goes on meanwhile */
#define SHARE_MOST (UINT64_C(64) << 20)

enum { PART_LEAST = 512 };

/* Bytes up to the next multiple of `step`, a power of two. */
static uint64_t up_to(uint64_t offset, uint64_t step)
{
    return step - (offset & (step - 1));
}

/* Where a slot with so much room is free; NULL: nowhere. */
static struct copy_slot **find_slot(struct copy *c, size_t room)
{
    if (room <= COPY_SHORT && c->free_short)
        return &c->free_short;
    return c->free_slots ? &c->free_slots : NULL;
}

static size_t piece_len(const struct copy *c, const struct plan_piece *p)
{
    return jobs_min(p->len, up_to(p->whole, c->piece));
}

bool copy_has_slot(struct copy *c, const struct plan_piece *p, bool zeros)
{
    return find_slot(c, zeros ? 0 : piece_len(c, p)) != NULL;
}

/* For `len` bytes at the start of `p`, with a buffer for `room` of them. */
static struct copy_slot *take_slot(struct copy *c, const struct plan_piece *p, uint64_t len, size_t room)
{
    struct copy_slot **list = find_slot(c, room), *s = *list;

    assert(s->pending == 0 && s->room >= room);
    *list = s->next_free;
    s->busy = true;
    s->lost = false;
    s->source = p->source;
    s->rest = 0;
    s->part = 0;
    s->whole = p->whole;
    s->len = len;
    s->small = false;
    s->bad_len = 0;
    s->digesting = s->unwritten = false;
    s->clean = c->clean >= len;
    s->unsent = true;
    return s;
}

struct copy_slot *copy_take_slot(struct copy *c, uint64_t whole, size_t len)
{
    const struct plan_piece p = {.whole = whole};

    return take_slot(c, &p, jobs_min(len, up_to(whole, c->piece)), c->piece);
}

static void read_rest(struct copy *c, struct copy_slot *s);

/* Nothing of it is in flight any more. */
static void slot_ended(struct copy *c, struct copy_slot *s)
{
    struct copy_slot **list;

    assert(s->pending == 0); /* invariant 1 */
    if (s->digesting)
        return; /* copy_digested() */
    if (!s->lost)
        c->done += s->len;
    if (!s->lost && s->rest > 0) {
        s->whole += s->len;
        s->lost = c->rc < 0;
        if (!s->lost) {
            read_rest(c, s);
            return;
        }
    }
    s->busy = s->lost;
    list = s->room < c->piece ? &c->free_short : &c->free_slots;
    s->next_free = *list;
    *list = s;
}

static void enter_digest(struct copy *c, struct copy_slot *s)
{
    s->digesting = true;
    blocks_enter(c->blocks, &s->digest, s->buf, s->len);
}

void copy_digest(struct copy *c, struct copy_slot *s)
{
    if (!c->blocks)
        return;
    if (!s->digesting)
        enter_digest(c, s);
    blocks_ready(c->blocks, &s->digest);
}

void copy_digested(struct copy *c, struct copy_slot *s)
{
    assert(s->digesting && s->busy);
    s->digesting = false;
    if (s->pending == 0 && !s->unsent)
        slot_ended(c, s);
}

void copy_failed(struct copy *c, const struct vdisk_completion *done)
{
    jobs_request_failed(c->job, c->q, done, &c->rc);
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

static void write_part(struct copy *c, struct copy_slot *s, size_t at, const uint8_t *from, size_t len,
                       uint32_t flags)
{
    count_in(c, s);
    c->result.bytes_written += len;
    vdisk_write(c->q, c->target, s->whole + at, from, len, flags, data_of(s, COPY_WRITE));
}

static void write_data(struct copy *c, struct copy_slot *s, size_t at, const uint8_t *from, size_t len)
{
    size_t packed = 0;

    if (c->pack > 0) /* units that end, or are the target's last; behind that end it may have something */
        packed = s->whole + at + len == vdisk_size(c->target) ? len : len & ~(c->pack - 1);
    if (packed > 0)
        write_part(c, s, at, from, packed, VDISK_REQ_COMPRESSED);
    if (packed < len)
        write_part(c, s, at + packed, from + packed, len - packed, 0);
}

static void write_zeros(struct copy *c, struct copy_slot *s, size_t at, size_t len)
{
    count_in(c, s);
    c->result.bytes_zeroed += len;
    vdisk_write_zeroes(c->q, c->target, s->whole + at, len, VDISK_REQ_UNMAP, data_of(s, COPY_WRITE));
}

static bool are_there(const struct copy *c, const struct copy_slot *s)
{
    return s->clean || c->opts.flags & VDISK_COPY_TARGET_IS_ZERO;
}

/* Zeros that were found in data: do they go out as zeros, or not at all? Else they are data. */
static bool zeros_count(const struct copy *c, const struct copy_slot *s)
{
    return c->unit > 0 && (are_there(c, s) || c->zeroes_cheap);
}

void copy_write_out(struct copy *c, struct copy_slot *s)
{
    bool zeros = false;
    size_t n;

    s->unsent = false;
    if (s->unwritten) {
        c->result.bytes_skipped += s->len;
        slot_ended(c, s);
        return;
    }
    if (!zeros_count(c, s)) {
        write_data(c, s, 0, s->buf, s->len);
        return;
    }
    for (size_t at = 0; at < s->len; at += n) {
        n = zeros_run(s->buf + at, s->len - at, c->unit, s->whole + at, &zeros);
        if (!zeros)
            write_data(c, s, at, s->buf + at, n);
        else if (are_there(c, s))
            c->result.bytes_skipped += n;
        else
            write_zeros(c, s, at, n);
    }
    if (s->pending == 0)
        slot_ended(c, s);
}

/* What is compressed gets its place in the file when it is enqueued: in the order of the plan. */
static void write_in_order(struct copy *c, struct copy_slot *s)
{
    s->is_read = true;
    while (c->read_first && c->read_first->is_read) {
        s = c->read_first;
        c->read_first = s->next_read;
        copy_write_out(c, s);
    }
}

static void read_done(struct copy *c, struct copy_slot *s)
{
    copy_digest(c, s);
    if (c->pack > 0)
        write_in_order(c, s);
    else
        copy_write_out(c, s);
}

void copy_write_done(struct copy *c, struct copy_slot *s, const struct vdisk_completion *done)
{
    assert(s->pending > 0);
    s->pending--;
    c->inflight--;
    if (done->result < 0) {
        s->lost = true;
        copy_failed(c, done);
    }
    if (s->pending == 0)
        slot_ended(c, s);
}

/* ---- reads -------------------------------------------------------------------------------------------- */

static void report_bad(struct copy *c, struct copy_slot *s)
{
    if (s->bad_len > 0 && c->opts.salvaged)
        c->opts.salvaged(c->opts.salvaged_arg, s->source, s->bad, s->bad_len, s->bad_error);
    s->bad_len = 0;
}

/* The part at s->part, of one source; what is between sources is zeros. false: there is none any more. */
static bool find_part(struct copy *c, struct copy_slot *s)
{
    unsigned source;
    uint64_t n;

    for (; s->part < s->len; s->part += s->part_len) {
        n = plan_find(&c->plan, s->whole + s->part, &source, &s->offset);
        s->part_len = jobs_min(n, s->len - s->part);
        if (source < c->count) {
            if (source != s->source)
                report_bad(c, s);
            s->source = source;
            s->part_len = jobs_min(s->part_len, s->small ? PART_LEAST : s->len);
            return true;
        }
        memset(s->buf + s->part, 0, s->part_len);
    }
    return false;
}

static void read_part(struct copy *c, struct copy_slot *s)
{
    count_in(c, s);
    vdisk_read(c->q, c->sources[s->source], s->offset, s->buf + s->part, s->part_len, 0, data_of(s, COPY_READ));
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
        s->bad = s->offset;
    s->bad_len += s->part_len;
    s->bad_error = error;
}

/* A part has been read, or not: the next one. */
static void part_done(struct copy *c, struct copy_slot *s, int result)
{
    if (result < 0)
        note_bad(c, s, result);
    else
        report_bad(c, s);
    s->part += s->part_len;
    if (find_part(c, s)) {
        read_part(c, s);
        return;
    }
    report_bad(c, s);
    read_done(c, s);
}

void copy_read_done(struct copy *c, struct copy_slot *s, const struct vdisk_completion *done)
{
    assert(s->pending == 1); /* invariant 1 */
    s->pending--;
    c->inflight--;
    if (done->result < 0 && !(c->opts.flags & VDISK_COPY_SALVAGE))
        copy_failed(c, done);
    if (c->rc < 0) {
        s->lost = true;
        slot_ended(c, s);
    } else if (done->result < 0 && !s->small) {
        s->small = true; /* the same again, in small parts */
        find_part(c, s);
        read_part(c, s);
    } else {
        part_done(c, s, done->result);
    }
}

/* ---- what the host does --------------------------------------------------------------------------------- */

/* A piece of what it was asked for. */
static void read_rest(struct copy *c, struct copy_slot *s)
{
    assert(s->rest > 0 && c->pack == 0);
    s->len = jobs_min(s->rest, c->piece - (s->whole & (c->piece - 1)));
    s->rest -= s->len;
    s->part = 0;
    c->result.bytes_read += s->len;
    find_part(c, s); /* there is one: all of it is data of a source */
    read_part(c, s);
}

/* The first ones are short: whether it can be had is known when they end. */
bool copy_begin_shared(struct copy *c, const struct plan_piece *p)
{
    uint64_t len = jobs_min(p->len, up_to(p->whole, c->share_most));
    struct copy_slot *s;

    if (c->share_unit == 0 || p->len < c->share_unit || ((p->whole | p->offset) & (c->share_unit - 1)) != 0)
        return false;
    /* With a buffer for the pieces in which it is read, if it has to be; where all that are long enough are in use
     * one piece's share is asked for. */
    if (!find_slot(c, jobs_min(len, c->piece)))
        len = piece_len(c, p);
    len &= ~(c->share_unit - 1);
    if (len == 0)
        return false;
    s = take_slot(c, p, len, jobs_min(len, c->piece));
    plan_take(&c->plan, s->len);
    c->pace.charged += s->len;
    count_in(c, s);
    vdisk_copy_range(c->q, c->target, s->whole, s->len, c->sources[s->source], p->offset, VDISK_REQ_NO_FALLBACK,
                     data_of(s, COPY_SHARE));
    return true;
}

/* Why it could not be had does not matter: if it is more than that, reading or writing meets it, too. */
void copy_share_done(struct copy *c, struct copy_slot *s, const struct vdisk_completion *done)
{
    assert(s->pending == 1 && s->rest == 0);
    s->pending--;
    c->inflight--;
    if (done->result < 0) {
        c->share_unit = 0;
        s->clean = false; /* some of it may be there */
    }
    s->lost = done->result < 0 && c->rc < 0;
    if (done->result == 0) {
        c->result.bytes_cloned += s->len;
        c->share_most = SHARE_MOST;
    }
    if (done->result == 0 || s->lost) {
        slot_ended(c, s);
    } else {
        s->rest = s->len;
        read_rest(c, s);
    }
}

/* ---- the beginning ------------------------------------------------------------------------------------ */

/* It is begun, though the plan may not say all of it yet. */
static void take_from_plan(struct copy *c, uint64_t len)
{
    struct plan_piece p;
    uint64_t n = len;

    assert(c->ahead == 0);
    if (plan_look(&c->plan, &p))
        n = jobs_min(len, p.len);
    plan_take(&c->plan, n);
    c->ahead = len - n;
}

static void add_to_line(struct copy *c, struct copy_slot *s)
{
    s->is_read = false;
    s->next_read = NULL;
    if (c->read_first)
        c->read_last->next_read = s;
    else
        c->read_first = s;
    c->read_last = s;
}

void copy_begin_data(struct copy *c, const struct plan_piece *p, bool unwritten)
{
    size_t len = piece_len(c, p);
    struct copy_slot *s = take_slot(c, p, len, len);

    s->unwritten = unwritten;
    if (c->blocks)
        enter_digest(c, s);
    take_from_plan(c, s->len);
    c->pace.charged += s->len;
    c->result.bytes_read += s->len;
    if (c->pack > 0)
        add_to_line(c, s);
    find_part(c, s); /* there is one: where a piece begins a source has something */
    read_part(c, s);
}

void copy_begin_zeros(struct copy *c, const struct plan_piece *p)
{
    bool as_data = c->opts.flags & VDISK_COPY_DENSE;
    struct copy_slot *s = take_slot(c, p, jobs_min(p->len, up_to(p->whole, as_data ? c->piece : ZERO_MOST)), 0);

    plan_take(&c->plan, s->len);
    if (c->blocks)
        blocks_enter_zeros(c->blocks, s->len);
    if (as_data) {
        c->pace.charged += s->len;
        write_data(c, s, 0, c->zeros, s->len);
    } else {
        write_zeros(c, s, 0, s->len);
    }
}
