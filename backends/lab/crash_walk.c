/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Along the log: what is durable at a place of it, and what else may be there.
 *
 * Happy path: a change is pending from its beginning on. The end of a flush makes durable all pending changes of
 * its disk that had ended before the flush began, in the order in which they began; the end of a write with FUA
 * makes that one durable. What becomes durable buries earlier changes of the same place.
 * Failure modes: out of memory: the walk cannot go on.
 *
 * Invariants.
 *  1. `base` holds what a cut here is certain to leave.
 *  2. Pending changes are in the order in which they began; images carry out what they keep in this order.
 *  3. A piece is listed if it matters: `base` differs from it there, or another pending change touches the same
 *     place.
 */
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backends/lab/crash_internal.h"
#include "engine/base/bits.h"
#include "engine/base/mem.h"

int crash_walk_create(struct crash_log *log, uint32_t unit, struct crash_walk **ret_walk)
{
    struct crash_walk *w = mem_calloc(1, sizeof *w);
    int rc = w ? 0 : -ENOMEM;

    assert(is_power_of_two(unit) && unit >= 512 && unit <= CRASH_BLOCK);
    for (unsigned i = 0; i < CRASH_DISKS && rc == 0; i++)
        rc = crash_store_borrow(&w->base[i], &log->disk[i].base);
    if (rc < 0) {
        crash_walk_destroy(w);
        return rc;
    }
    w->log = log;
    w->unit = unit;
    *ret_walk = w;
    return 0;
}

void crash_walk_destroy(struct crash_walk *w)
{
    if (!w)
        return;
    assert(w->images == 0);
    for (unsigned i = 0; i < CRASH_DISKS; i++)
        crash_store_finish(&w->base[i]);
    for (size_t i = 0; i < w->pending_count; i++)
        mem_free(w->pending[i].dead);
    mem_free(w->pending);
    mem_free(w->piece);
    mem_free(w->seen);
    mem_free(w);
}

uint64_t crash_walk_position(const struct crash_walk *w)
{
    return w->at;
}

/* ---- pieces of a change ---------------------------------------------------------------------------------- */

static bool has_content(const struct crash_change *c)
{
    return c->kind == IO_WRITE || c->kind == IO_ZERO || c->kind == IO_DISCARD;
}

static bool extends(const struct crash_change *c)
{
    return c->kind == IO_WRITE || c->kind == IO_ZERO || c->kind == IO_ALLOCATE;
}

static uint64_t count_pieces(const struct crash_walk *w, const struct crash_change *c)
{
    if (!has_content(c) || c->len == 0)
        return 0;
    return (align_up(c->offset + c->len, w->unit) - align_down(c->offset, w->unit)) / w->unit;
}

void crash_piece_range(const struct crash_walk *w, const struct crash_change *c, uint64_t index,
                       uint64_t *ret_start, uint64_t *ret_end)
{
    uint64_t first = align_down(c->offset, w->unit) + index * w->unit;

    *ret_start = max_u64(c->offset, first);
    *ret_end = min_u64(c->offset + c->len, first + w->unit);
}

static int apply_size(const struct crash_change *c, struct crash_store *to)
{
    if (c->kind == IO_TRUNCATE)
        return crash_store_truncate(to, c->offset);
    if (extends(c))
        to->size = max_u64(to->size, c->offset + c->len);
    return 0;
}

/* The end of the sector that `at` is in, or of the change. */
static uint64_t sector_end(const struct crash_change *c, uint64_t at)
{
    return min_u64(align_down(at, CRASH_SECTOR) + CRASH_SECTOR, c->offset + c->len);
}

/* Places in p->dead: of the sector with byte `at`, and of the change's effect on the size. */
static uint64_t sector_index(const struct crash_walk *w, const struct crash_pending *p, uint64_t at)
{
    return (at - align_down(p->change->offset, w->unit)) / CRASH_SECTOR;
}

static uint64_t size_index(const struct crash_walk *w, const struct crash_pending *p)
{
    return p->pieces * (w->unit / CRASH_SECTOR);
}

static bool piece_is_dead(const struct crash_walk *w, const struct crash_pending *p, uint64_t index)
{
    uint64_t start, end;

    if (!p->dead || index == p->pieces)
        return p->dead && p->dead[size_index(w, p)];
    crash_piece_range(w, p->change, index, &start, &end);
    for (uint64_t at = start; at < end; at = sector_end(p->change, at))
        if (!p->dead[sector_index(w, p, at)])
            return false;
    return true;
}

static int apply_range(const struct crash_change *c, uint64_t start, uint64_t end, struct crash_store *to)
{
    int rc;

    if (c->kind == IO_WRITE) {
        rc = crash_store_write(to, start, c->data + (start - c->offset), end - start);
    } else {
        rc = crash_store_zero(to, start, min_u64(end, max_u64(to->size, start)) - start);
    }
    if (rc == 0 && extends(c))
        to->size = max_u64(to->size, end);
    return rc;
}

int crash_piece_apply(const struct crash_walk *w, const struct crash_pending *p, uint64_t index,
                      struct crash_store *to)
{
    const struct crash_change *c = p->change;
    uint64_t start, end, next;
    int rc = 0;

    if (index == p->pieces)
        return apply_size(c, to);
    crash_piece_range(w, c, index, &start, &end);
    if (!p->dead)
        return apply_range(c, start, end, to);
    /* A part of it was overwritten for good: the disk has put both together. */
    for (uint64_t at = start; at < end && rc == 0; at = next) {
        next = sector_end(c, at);
        if (!p->dead[sector_index(w, p, at)])
            rc = apply_range(c, at, next, to);
    }
    return rc;
}

/* Would it change what `base` has? */
static bool piece_differs(const struct crash_walk *w, const struct crash_pending *p, uint64_t index)
{
    const struct crash_change *c = p->change;
    const struct crash_store *base = &w->base[c->disk];
    uint64_t start, end;

    if (index == p->pieces)
        return c->kind == IO_TRUNCATE ? base->size != c->offset
                                      : extends(c) && c->offset + c->len > base->size;
    crash_piece_range(w, c, index, &start, &end);
    return !crash_store_equal(base, start, c->data ? c->data + (start - c->offset) : NULL, end - start);
}

/* Does another pending change touch what this piece does? Size with size, bytes with bytes or with a cut. */
static bool piece_is_contested(const struct crash_walk *w, size_t pending, uint64_t index)
{
    const struct crash_pending *p = &w->pending[pending];
    bool is_size = index == p->pieces;
    uint64_t start = 0, end = 0;

    if (!is_size)
        crash_piece_range(w, p->change, index, &start, &end);
    for (size_t i = 0; i < w->pending_count; i++) {
        const struct crash_change *o = w->pending[i].change;
        if (i == pending || o->disk != p->change->disk)
            continue;
        if (o->kind == IO_TRUNCATE || (is_size && p->change->kind == IO_TRUNCATE && extends(o)))
            return true;
        if (!is_size && has_content(o) && o->offset < end && start < o->offset + o->len)
            return true;
    }
    return false;
}

static int add_piece(struct crash_walk *w, size_t pending, uint64_t index)
{
    if (w->piece_count == w->piece_max) {
        size_t max = w->piece_max ? 2 * w->piece_max : 256;
        struct crash_piece *piece = mem_realloc(w->piece, max * sizeof *piece);
        if (!piece)
            return -ENOMEM;
        w->piece = piece;
        w->piece_max = max;
    }
    w->piece[w->piece_count++] = (struct crash_piece){.pending = (uint32_t)pending, .index = index};
    return 0;
}

int crash_walk_find_pieces(struct crash_walk *w)
{
    int rc = 0;

    if (w->pieces_known)
        return 0;
    w->piece_count = 0;
    for (size_t i = 0; i < w->pending_count && rc == 0; i++) {
        struct crash_pending *p = &w->pending[i];
        for (uint64_t k = 0; k <= p->pieces && rc == 0; k++)
            if (!piece_is_dead(w, p, k) && (piece_differs(w, p, k) || piece_is_contested(w, i, k)))
                rc = add_piece(w, i, k);
    }
    w->pieces_known = rc == 0;
    return rc;
}

size_t crash_walk_pieces(struct crash_walk *w)
{
    return crash_walk_find_pieces(w) == 0 ? w->piece_count : 0;
}

/* ---- becoming durable ------------------------------------------------------------------------------------ */

/* `c` is durable: what an earlier change, which had ended before it began, would put there is gone. */
static int bury(struct crash_walk *w, struct crash_pending *p, const struct crash_change *c)
{
    uint64_t last = has_content(p->change) ? p->change->offset + p->change->len : 0, end;

    if (p->change->disk != c->disk || p->change->end >= c->begin)
        return 0;
    if (!p->dead)
        p->dead = mem_calloc(size_index(w, p) + 1, 1);
    if (!p->dead)
        return -ENOMEM;
    if (c->kind == IO_TRUNCATE || (p->change->kind == IO_TRUNCATE && extends(c)))
        p->dead[size_index(w, p)] = 1;
    for (uint64_t at = p->change->offset; at < last; at = end) {
        end = sector_end(p->change, at);
        if ((c->kind == IO_TRUNCATE && end > c->offset) ||
            (has_content(c) && c->offset <= at && end <= c->offset + c->len))
            p->dead[sector_index(w, p, at)] = 1;
    }
    return 0;
}

/* Pending change number i becomes durable, and is forgotten. */
static int make_durable(struct crash_walk *w, size_t i)
{
    struct crash_pending p = w->pending[i];
    int rc = 0;

    for (uint64_t k = 0; k <= p.pieces && rc == 0; k++)
        if (!piece_is_dead(w, &p, k))
            rc = crash_piece_apply(w, &p, k, &w->base[p.change->disk]);
    for (size_t j = 0; j < i && rc == 0; j++)
        rc = bury(w, &w->pending[j], p.change);
    mem_free(p.dead);
    memmove(&w->pending[i], &w->pending[i + 1], (w->pending_count - i - 1) * sizeof w->pending[0]);
    w->pending_count--;
    return rc;
}

/* A flush that began at entry `begin` of the log has ended. */
static int settle(struct crash_walk *w, unsigned disk, uint64_t begin)
{
    int rc = 0;

    for (size_t i = 0; i < w->pending_count && rc == 0;) {
        const struct crash_pending *p = &w->pending[i];
        if (p->change->disk == disk && p->ended && p->change->res >= 0 && p->change->end < begin)
            rc = make_durable(w, i);
        else
            i++;
    }
    return rc;
}

static int begin_change(struct crash_walk *w, struct crash_change *c)
{
    if (c->kind == IO_FLUSH)
        return 0;
    if (w->pending_count == w->pending_max) {
        size_t max = w->pending_max ? 2 * w->pending_max : 64;
        struct crash_pending *pending = mem_realloc(w->pending, max * sizeof *pending);
        if (!pending)
            return -ENOMEM;
        w->pending = pending;
        w->pending_max = max;
    }
    w->pending[w->pending_count++] = (struct crash_pending){.change = c, .pieces = count_pieces(w, c)};
    return 0;
}

static int end_change(struct crash_walk *w, const struct crash_change *c)
{
    if (c->kind == IO_FLUSH)
        return c->res >= 0 ? settle(w, c->disk, c->begin) : 0;
    for (size_t i = 0; i < w->pending_count; i++) {
        if (w->pending[i].change != c)
            continue;
        w->pending[i].ended = true;
        return c->fua && c->res >= 0 ? make_durable(w, i) : 0;
    }
    return 0;
}

static void forget_choices(struct crash_walk *w)
{
    w->pieces_known = false;
    w->seen_count = 0;
    w->tried = 0;
}

bool crash_walk_is_rich(const struct crash_walk *w)
{
    const struct crash_entry *e = &w->log->entries[w->at];
    const struct crash_change *c;

    if (w->at == w->log->count)
        return true;
    if (e->kind != CRASH_END)
        return false;
    c = w->log->changes[e->value];
    return c->res >= 0 && (c->kind == IO_FLUSH || c->fua);
}

int crash_walk_next(struct crash_walk *w, struct crash_event *ret_event)
{
    const struct crash_entry *e = &w->log->entries[w->at];
    struct crash_change *c;
    int rc;

    assert(w->images == 0);
    if (w->at == w->log->count)
        return 0;
    w->at++;
    *ret_event = (struct crash_event){.kind = e->kind};
    if (e->kind == CRASH_MARK) {
        ret_event->mark = e->mark;
        ret_event->value = e->value;
        return 1;
    }
    c = w->log->changes[e->value];
    ret_event->disk = c->disk;
    ret_event->io_kind = c->kind;
    ret_event->offset = c->offset;
    ret_event->len = c->len;
    ret_event->type = c->type;
    ret_event->state = c->state;
    ret_event->res = e->kind == CRASH_END ? c->res : 0;
    rc = e->kind == CRASH_BEGIN ? begin_change(w, c) : end_change(w, c);
    forget_choices(w);
    return rc < 0 ? rc : 1;
}

/* ---- for people ------------------------------------------------------------------------------------------ */

static const char *const kind_names[] = {"read", "write", "zero", "discard", "allocate", "truncate", "flush"};

void crash_walk_describe(struct crash_walk *w, char *text, size_t size)
{
    size_t used = 0;

    if (size > 0)
        text[0] = '\0';
    for (size_t i = 0, at = 0; i < w->pending_count && used < size; i++) {
        const struct crash_change *c = w->pending[i].change;
        size_t kept = 0, all = 0;
        int n;
        for (; at < w->piece_count && w->piece[at].pending == i; at++, all++)
            kept += w->piece[at].keep;
        if (all == 0)
            continue;
        n = snprintf(text + used, size - used, "%s%s of disk %u at %llu+%llu by %s/%s%s: %zu of %zu pieces",
                     used ? "; " : "", kind_names[c->kind], c->disk, (unsigned long long)c->offset,
                     (unsigned long long)c->len, c->type ? c->type : "-", c->state ? c->state : "-",
                     w->pending[i].ended ? "" : ", not ended", kept, all);
        used += n > 0 ? (size_t)n : 0;
    }
}
