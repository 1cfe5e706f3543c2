/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The way of one piece of a rebase.
 *
 * Happy path: what is not known to be zeros is read, of the image and of the new chain; runs of units that differ
 * are written into the image as it reads them, zeros as zeros by its own word; when all has ended the slot is
 * free. What is compressed waits for those before it. Failure modes: a read or a write fails: the rebase does.
 *
 * Invariants.
 *  1. What is written is what the image reads: whenever it stops, it reads as before.
 */
#include <assert.h>
#include <string.h>

#include "jobs/rebase.h"
#include "jobs/zeros.h"

enum kind { SAME, ZEROS, DATA };

void rebase_failed(struct rebase *b, const struct vdisk_completion *done)
{
    if (b->rc < 0)
        return;
    vdisk_explain(b->q, done);
    b->rc = jobs_fail(b->job, done->result);
}

static void slot_ended(struct rebase *b, struct rebase_slot *s)
{
    assert(s->pending == 0);
    if (!s->lost)
        b->done += s->len;
    s->busy = s->lost;
    s->next_free = b->free_slots;
    b->free_slots = s;
}

static void count_in(struct rebase *b, struct rebase_slot *s)
{
    s->pending++;
    b->inflight++;
}

/* How the two sides of a unit compare. */
static enum kind kind_of(const struct rebase_slot *s, size_t at, size_t len)
{
    bool zeros = !s->read[0] || zeros_only(s->buf[0] + at, len);

    if (zeros ? !s->read[1] || zeros_only(s->buf[1] + at, len)
              : s->read[1] && memcmp(s->buf[0] + at, s->buf[1] + at, len) == 0)
        return SAME;
    return zeros ? ZEROS : DATA;
}

static void write_run(struct rebase *b, struct rebase_slot *s, enum kind kind, size_t at, size_t len)
{
    uint64_t data = (uint64_t)s->number * REBASE_REQUESTS + REBASE_WRITE;

    if (kind == SAME || len == 0)
        return;
    count_in(b, s);
    if (kind == DATA) {
        b->result.bytes_written += len;
        vdisk_write(b->q, b->volumes[0], s->offset + at, s->buf[0] + at, len, b->pack ? VDISK_REQ_COMPRESSED : 0,
                    data);
    } else {
        b->result.bytes_zeroed += len;
        vdisk_write_zeroes(b->q, b->volumes[0], s->offset + at, len, VDISK_REQ_EXPLICIT, data);
    }
}

/* Neighbours of one kind go out as one. */
static void write_differences(struct rebase *b, struct rebase_slot *s)
{
    enum kind run = SAME, kind;
    size_t start = 0;

    for (size_t at = 0, n; at < s->len; at += n) {
        n = jobs_min(b->unit - (s->offset + at) % b->unit, s->len - at);
        kind = kind_of(s, at, n);
        if (kind != run) {
            write_run(b, s, run, start, at - start);
            run = kind;
            start = at;
        }
    }
    write_run(b, s, run, start, s->len - start);
}

/* What is compressed gets its place in the file when it is enqueued: in the order of the plan. */
static void write_in_order(struct rebase *b, struct rebase_slot *s)
{
    s->is_read = true;
    while (b->read_first && b->read_first->is_read) {
        s = b->read_first;
        b->read_first = s->next_read;
        s->lost |= b->rc < 0;
        if (b->rc == 0)
            write_differences(b, s);
        if (s->pending == 0)
            slot_ended(b, s);
    }
}

void rebase_ended(struct rebase *b, struct rebase_slot *s, bool written, const struct vdisk_completion *done)
{
    assert(s->pending > 0);
    s->pending--;
    if (done->result < 0) {
        s->lost = true;
        rebase_failed(b, done);
    }
    if (s->pending > 0)
        return;
    if (b->pack > 0 && !written) {
        write_in_order(b, s);
        return;
    }
    s->lost |= b->rc < 0 && !written;
    if (b->rc == 0 && !written)
        write_differences(b, s);
    if (s->pending == 0)
        slot_ended(b, s);
}

/* A unit that is compressed as a whole may reach past the end of the new chain: zeros. */
static void read_side(struct rebase *b, struct rebase_slot *s, unsigned i)
{
    size_t len = (size_t)jobs_min(s->len, b->plans[i].total - s->offset);

    assert(s->offset < b->plans[i].total && (len == s->len || b->pack > 0));
    memset(s->buf[i] + len, 0, s->len - len);
    count_in(b, s);
    b->result.bytes_read += len;
    vdisk_read(b->q, b->volumes[i], s->offset, s->buf[i], len, 0,
               (uint64_t)s->number * REBASE_REQUESTS + REBASE_READ);
}

void rebase_begin(struct rebase *b, uint64_t offset, uint64_t len, bool read_old, bool read_new)
{
    struct rebase_slot *s = b->free_slots;

    assert(s->pending == 0 && len > 0 && len <= b->piece && (read_old || read_new));
    b->free_slots = s->next_free;
    s->busy = true;
    s->lost = false;
    s->offset = offset;
    s->len = len;
    b->pace.charged += len;
    s->read[0] = read_old;
    s->read[1] = read_new;
    s->is_read = false;
    s->next_read = NULL;
    if (b->pack > 0) {
        *(b->read_first ? &b->read_last->next_read : &b->read_first) = s;
        b->read_last = s;
    }
    for (unsigned i = 0; i < 2; i++)
        if (s->read[i])
            read_side(b, s, i);
}
