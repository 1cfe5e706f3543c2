/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Rules.
 *  1. A slot that changes bytes overlaps no other such slot, or (w->overlaps) both remember it: what they have in
 *     common can be anything.
 *  2. A slot that looks at bytes (read, extents) remembers every change in flight with it that overlaps; those
 *     parts are not checked.
 *  3. The model follows at completion.
 */
#include "tests/lib/workload.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/bits.h"
#include "tests/lib/test.h"

enum slot_kind { SLOT_FREE, SLOT_READ, SLOT_WRITE, SLOT_ZERO, SLOT_DISCARD, SLOT_FLUSH, SLOT_EXTENTS };

enum { MAX_BLURS = 64, MAX_IOVS = 9, MAX_EXTENTS = 64, GUARD = 64, GUARD_BYTE = 0xa5 };

struct blur {
    uint64_t start, end;
};

struct slot {
    enum slot_kind kind;
    struct workload *w;
    vdisk_queue *q;
    struct model *model;
    uint64_t offset, len;
    uint32_t flags;
    uint8_t *memory; /* of the buffer and its guards */
    uint8_t *buf;
    struct iovec iov[MAX_IOVS];
    unsigned niov;
    struct blur blurs[MAX_BLURS]; /* changes in flight with it */
    unsigned nblurs;
    struct vdisk_extents extents;
    struct vdisk_extent list[MAX_EXTENTS];
};

static bool changes(enum slot_kind kind)
{
    return kind == SLOT_WRITE || kind == SLOT_ZERO || kind == SLOT_DISCARD;
}

static bool overlap(const struct slot *a, const struct slot *b)
{
    return a->offset < b->offset + b->len && b->offset < a->offset + a->len;
}

void workload_start(struct workload *w)
{
    assert(w->depth > 0 && w->unit > 0 && w->nmodels > 0);
    if (w->stripes == 0)
        w->stripes = 1;
    w->slots = test_alloc(w->depth * sizeof *w->slots);
    for (unsigned i = 0; i < w->depth; i++)
        w->slots[i].w = w;
    if (w->queues)
        return;
    caller_draw(&w->caller, &w->rng);
    w->caller.grows = w->grows;
    caller_start(&w->caller, w->depth);
}

/* ---- what a completion means ------------------------------------------------------------------------ */

/* Call fn for the parts of the slot's range, up to `end`, that no change blurred. */
static void for_clear_parts(struct slot *s, uint64_t end, void (*fn)(struct slot *, uint64_t, uint64_t))
{
    uint64_t at = s->offset;

    while (at < end) {
        uint64_t next = end, skip = at;
        for (unsigned i = 0; i < s->nblurs; i++) {
            if (s->blurs[i].start <= at && s->blurs[i].end > skip)
                skip = s->blurs[i].end;
            else if (s->blurs[i].start > at && s->blurs[i].start < next)
                next = s->blurs[i].start;
        }
        if (skip > at) {
            at = skip;
            continue;
        }
        fn(s, at, next - at);
        at = next;
    }
}

static void check_read(struct slot *s, uint64_t offset, uint64_t len)
{
    model_expect(s->model, offset, s->buf + (offset - s->offset), len, "read");
}

static void check_zero(struct slot *s, uint64_t offset, uint64_t len)
{
    for (unsigned i = 0; i < s->extents.count; i++) {
        const struct vdisk_extent *e = &s->list[i];
        uint64_t start = max_u64(e->guest_offset, offset);
        uint64_t end = min_u64(e->guest_offset + e->length, offset + len);
        if (start < end && e->flags & VDISK_EXTENT_ZERO)
            model_expect_zero(s->model, start, end - start, "extents");
    }
}

static void check_extents(struct slot *s)
{
    uint64_t at = s->offset;

    CHECK_MSG(s->extents.count > 0 && s->extents.count <= s->extents.max, "%u extents", s->extents.count);
    for (unsigned i = 0; i < s->extents.count; i++) {
        const struct vdisk_extent *e = &s->list[i];
        CHECK_MSG(e->guest_offset == at && e->length > 0, "extent %u at %" PRIu64 "+%" PRIu64 ", not at %" PRIu64,
                  i, e->guest_offset, e->length, at);
        CHECK_MSG(e->flags & (VDISK_EXTENT_DATA | VDISK_EXTENT_ZERO), "extent %u is nothing: flags %x", i,
                  e->flags);
        at += e->length;
    }
    CHECK_MSG(at <= s->offset + s->len, "extents to %" PRIu64 ", past the range's end", at);
    CHECK_MSG(at == s->offset + s->len || s->extents.count == s->extents.max,
              "%u of %u extents, but only to %" PRIu64 " of %" PRIu64 "+%" PRIu64, s->extents.count,
              s->extents.max, at, s->offset, s->len);
    for_clear_parts(s, at, check_zero);
}

static void check_guards(const struct slot *s)
{
    for (unsigned i = 0; i < GUARD; i++) {
        CHECK_MSG(s->buf[-1 - (int)i] == GUARD_BYTE, "bytes before the buffer of a request are changed");
        CHECK_MSG(s->buf[s->len + i] == GUARD_BYTE, "bytes after the buffer of a request are changed");
    }
}

static void apply_change(struct slot *s, uint64_t offset, uint64_t len)
{
    if (s->kind == SLOT_WRITE)
        model_write(s->model, offset, s->buf + (offset - s->offset), len);
    else if (s->kind == SLOT_ZERO)
        model_zero(s->model, offset, len);
    else
        model_discard(s->model, offset, len);
}

/* Rule 1: what other changes touched meanwhile. */
static void mark_overlaps(struct slot *s)
{
    for (unsigned i = 0; i < s->nblurs; i++) {
        uint64_t start = max_u64(s->blurs[i].start, s->offset);
        uint64_t end = min_u64(s->blurs[i].end, s->offset + s->len);
        if (start < end)
            model_mark(s->model, start, end - start, MODEL_ANY);
    }
}

/* Nobody knows how far it came. */
static void slot_failed(struct workload *w, struct slot *s)
{
    w->failed++;
    if (s->kind == SLOT_WRITE || s->kind == SLOT_ZERO)
        model_maybe_write(s->model, s->offset, s->kind == SLOT_WRITE ? s->buf : NULL, s->len);
    else if (s->kind == SLOT_DISCARD)
        model_discard(s->model, s->offset, s->len);
    if (changes(s->kind))
        mark_overlaps(s);
}

static void slot_succeeded(struct slot *s)
{
    switch (s->kind) {
    case SLOT_READ:
        check_guards(s);
        for_clear_parts(s, s->offset + s->len, check_read);
        break;
    case SLOT_WRITE:
        check_guards(s);
        for_clear_parts(s, s->offset + s->len, apply_change);
        mark_overlaps(s);
        break;
    case SLOT_ZERO:
    case SLOT_DISCARD:
        for_clear_parts(s, s->offset + s->len, apply_change);
        mark_overlaps(s);
        break;
    case SLOT_EXTENTS:
        check_extents(s);
        break;
    case SLOT_FLUSH:
        break;
    case SLOT_FREE:
        break;
    }
}

static void slot_done(struct workload *w, struct slot *s, int result)
{
    CHECK_MSG(s->kind != SLOT_FREE, "a completion for a request that is not in flight");
    bool excused = w->faults || (w->full && changes(s->kind) && result == -ENOSPC);
    CHECK_MSG(result == 0 || excused, "request of kind %d at %" PRIu64 "+%" PRIu64 ": %s", (int)s->kind,
              s->offset, s->len, strerror(-result));
    if (result == 0)
        slot_succeeded(s);
    else
        slot_failed(w, s);
    w->done[s->kind]++;
    free(s->memory);
    s->memory = NULL;
    s->kind = SLOT_FREE;
    w->inflight--;
}

static void reap_queue(const struct workload *w, vdisk_queue *q, unsigned min)
{
    struct vdisk_completion c[16];
    int n = vdisk_reap(q, c, min, ARRAY_LEN(c), NULL);

    CHECK_OK(n);
    CHECK_MSG((unsigned)n >= min || w->grows, "reap gave %d, at least %u were asked for", n, min);
    for (int i = 0; i < n; i++) {
        struct slot *s = (struct slot *)(uintptr_t)c[i].user_data;
        CHECK(s->q == q);
        slot_done(s->w, s, c[i].result);
    }
}

/* One of the queues that have something of ours in flight; NULL: none has. */
static vdisk_queue *busy_queue(struct workload *w)
{
    vdisk_queue *found = NULL;
    unsigned n = 0;

    for (unsigned i = 0; i < w->depth; i++)
        if (w->slots[i].kind != SLOT_FREE && rng_below(&w->rng, ++n) == 0)
            found = w->slots[i].q;
    return found;
}

static void reap_caller(struct workload *w, bool wait)
{
    struct vdisk_completion c[32];
    vdisk_queue *q;
    unsigned inflight = 0, n = caller_take(&w->caller, wait, c, ARRAY_LEN(c), &q);

    for (unsigned i = 0; i < n; i++) {
        struct slot *s = (struct slot *)(uintptr_t)c[i].user_data;
        CHECK(s->q == q && s->w == w);
        slot_done(w, s, c[i].result);
    }
    for (unsigned i = 0; i < w->caller.nqueues; i++)
        inflight += vdisk_queue_inflight(w->caller.queues[i]);
    CHECK_INT(inflight, w->inflight);
}

/* With `min`: until one of our requests has ended. A shared queue's completions may be others'. */
static void reap(struct workload *w, unsigned min)
{
    unsigned before = w->inflight;

    if (!w->queues) {
        reap_caller(w, min > 0);
        return;
    }
    do {
        vdisk_queue *q = busy_queue(w);
        if (!q)
            return;
        reap_queue(w, q, min);
    } while (min > 0 && w->inflight >= before);
}

/* ---- what a request is ------------------------------------------------------------------------------ */

/* A random position: near an edge of units, or aligned, or anywhere. */
static uint64_t random_offset(struct workload *w, uint64_t start, uint64_t end)
{
    static const uint32_t aligns[] = {1, 512, 4096};
    uint64_t offset = rng_between(&w->rng, start, end - 1), edge;

    switch (rng_below(&w->rng, 8)) {
    case 0:
        return offset;
    case 1:
    case 2:
        return align_down(offset, aligns[rng_below(&w->rng, 3)]);
    case 3:
    case 4:
        return align_down(offset, w->unit);
    case 5:
        return align_down(offset, max_u64(1, w->unit / 32));
    case 6: /* the same few places again and again */
        return align_down(start + rng_below(&w->rng, min_u64(end - start, 4 * w->unit)), 512);
    default:
        edge = align_down(offset, w->unit) + rng_below(&w->rng, 2048);
        return edge > 1024 ? edge - 1024 : edge;
    }
}

static uint64_t random_len(struct workload *w)
{
    uint64_t max = w->max_len;

    switch (rng_below(&w->rng, 8)) {
    case 0:
        return rng_between(&w->rng, 1, 600);
    case 1:
        return 512 * rng_between(&w->rng, 1, 8);
    case 2:
    case 3:
        return 4096 * rng_between(&w->rng, 1, 4);
    case 4:
        return w->unit;
    case 5:
        return w->unit * rng_between(&w->rng, 1, 4);
    case 6:
        return max_u64(1, w->unit / 32) * rng_between(&w->rng, 1, 40);
    default:
        return rng_between(&w->rng, 1, max);
    }
}

/* Choose model, offset and len; false if it would break rule 1. */
static bool choose_range(struct workload *w, struct slot *s)
{
    uint64_t start, end;

    s->model = &w->models[rng_below(&w->rng, w->nmodels)];
    start = s->model->base;
    end = start + s->model->size;
    if (w->stripes > 1) {
        uint64_t count = div_up(s->model->size, w->stripe * w->stripes);
        start += (rng_below(&w->rng, count) * w->stripes + w->stripe_index) * w->stripe;
        if (start >= end)
            return false;
        end = min_u64(end, start + w->stripe);
    }
    s->offset = random_offset(w, start, end);
    if (s->offset < start || s->offset >= end)
        s->offset = start;
    s->len = min_u64(min_u64(random_len(w), w->max_len), end - s->offset);
    if (w->overlaps && rng_chance(&w->rng, 30))
        return true;
    for (unsigned i = 0; changes(s->kind) && i < w->depth; i++)
        if (&w->slots[i] != s && changes(w->slots[i].kind) && overlap(s, &w->slots[i]))
            return false;
    return true;
}

/* Rule 2, from both sides; false if a slot has no room to remember. */
static bool blur(struct workload *w, struct slot *s)
{
    for (unsigned i = 0; i < w->depth; i++)
        if (w->slots[i].nblurs == MAX_BLURS && w->slots[i].kind != SLOT_FREE)
            return false;
    s->nblurs = 0;
    for (unsigned i = 0; i < w->depth; i++) {
        struct slot *o = &w->slots[i];
        if (o == s || o->kind == SLOT_FREE || o->kind == SLOT_FLUSH || !overlap(s, o))
            continue;
        if (changes(s->kind))
            o->blurs[o->nblurs++] = (struct blur){s->offset, s->offset + s->len};
        if (changes(o->kind)) {
            if (s->nblurs == MAX_BLURS)
                return false;
            s->blurs[s->nblurs++] = (struct blur){o->offset, o->offset + o->len};
        }
    }
    return true;
}

/* A buffer at a random alignment between guards, cut into a few iovecs. */
static void make_buffer(struct workload *w, struct slot *s)
{
    static const uint32_t shifts[] = {0, 0, 0, 512, 1, 8, 100};
    uint64_t left = s->len, at = 0;

    s->memory = vdisk_alloc_buffer(4096 + 512 + s->len + GUARD);
    CHECK(s->memory);
    s->buf = s->memory + 4096 + shifts[rng_below(&w->rng, ARRAY_LEN(shifts))];
    memset(s->buf - GUARD, GUARD_BYTE, GUARD);
    memset(s->buf + s->len, GUARD_BYTE, GUARD);
    if (s->kind == SLOT_WRITE && rng_chance(&w->rng, 90))
        rng_fill(&w->rng, s->buf, s->len);
    else
        memset(s->buf, s->kind == SLOT_WRITE ? 0 : 0xee, s->len);
    /* Of what is compressed some gets shorter by half, some by nearly all, some not at all. */
    if (s->flags & VDISK_REQ_COMPRESSED)
        for (uint64_t i = 16 + s->len * rng_below(&w->rng, 5) / 4; i < s->len; i++)
            s->buf[i] = s->buf[i - 16];

    unsigned pieces = rng_chance(&w->rng, 60) ? 1 : (unsigned)rng_between(&w->rng, 1, MAX_IOVS);
    for (s->niov = 0; left > 0; s->niov++) {
        uint64_t n = s->niov + 1 == pieces ? left : min_u64(left, rng_between(&w->rng, 1, left));
        if (n > 512 && s->niov + 1 < pieces && rng_chance(&w->rng, 60))
            n = align_down(n, 512);
        s->iov[s->niov] = (struct iovec){.iov_base = s->buf + at, .iov_len = n};
        at += n;
        left -= n;
    }
}

/* Compressed writes are of whole units. */
static bool can_compress(struct workload *w, const struct slot *s)
{
    struct vdisk_info info = {.size = sizeof info};

    CHECK_OK(vdisk_get_info(w->v, &info));
    return s->kind == SLOT_WRITE && info.compress_align > 0 && s->offset % info.compress_align == 0 &&
           (s->len % info.compress_align == 0 || s->offset + s->len == vdisk_size(w->v));
}

static enum slot_kind random_kind(struct workload *w)
{
    uint64_t x = rng_below(&w->rng, 100);

    if (w->read_only)
        return x < 85 ? SLOT_READ : SLOT_EXTENTS;
    if (x < 35)
        return SLOT_READ;
    if (x < 75)
        return SLOT_WRITE;
    if (x < 84)
        return SLOT_ZERO;
    if (x < 91)
        return SLOT_DISCARD;
    return x < 95 ? SLOT_FLUSH : SLOT_EXTENTS;
}

static void enqueue(struct workload *w, struct slot *s)
{
    uint64_t id = (uintptr_t)s;

    if (w->queues)
        w->q = w->queues[rng_below(&w->rng, w->nqueues)];
    else
        w->q = w->caller.queues[rng_below(&w->rng, w->caller.nqueues)];
    s->q = w->q;
    if (w->flushed && changes(s->kind))
        model_mark(w->flushed, s->offset, s->len, MODEL_ANY);
    s->flags = (s->kind == SLOT_WRITE || s->kind == SLOT_ZERO) && rng_chance(&w->rng, 10) ? VDISK_REQ_FUA : 0;
    if (can_compress(w, s) && rng_chance(&w->rng, 60))
        s->flags |= VDISK_REQ_COMPRESSED;
    if (s->kind == SLOT_READ || s->kind == SLOT_WRITE)
        make_buffer(w, s);
    switch (s->kind) {
    case SLOT_READ:
        if (s->niov == 1)
            vdisk_read(w->q, w->v, s->offset, s->buf, s->len, 0, id);
        else
            vdisk_readv(w->q, w->v, s->offset, s->iov, s->niov, 0, id);
        break;
    case SLOT_WRITE:
        if (s->niov == 1)
            vdisk_write(w->q, w->v, s->offset, s->buf, s->len, s->flags, id);
        else
            vdisk_writev(w->q, w->v, s->offset, s->iov, s->niov, s->flags, id);
        break;
    case SLOT_ZERO:
        s->flags |= rng_chance(&w->rng, 50) ? VDISK_REQ_UNMAP : 0;
        vdisk_write_zeroes(w->q, w->v, s->offset, s->len, s->flags, id);
        break;
    case SLOT_DISCARD:
        vdisk_discard(w->q, w->v, s->offset, s->len, 0, id);
        break;
    case SLOT_FLUSH:
        vdisk_flush(w->q, w->v, 0, id);
        break;
    case SLOT_EXTENTS:
        s->extents.list = s->list;
        s->extents.max = (unsigned)rng_between(&w->rng, 1, MAX_EXTENTS);
        s->extents.count = 0;
        vdisk_get_extents(w->q, w->v, s->offset, s->len, &s->extents, id);
        break;
    case SLOT_FREE:
        break;
    }
    w->inflight++;
}

static void issue(struct workload *w)
{
    struct slot *s = w->slots;

    while (s->kind != SLOT_FREE)
        s++;
    s->kind = random_kind(w);
    s->offset = s->len = 0;
    for (unsigned tries = 0; s->kind != SLOT_FLUSH; tries++) {
        if (tries == 20) {
            s->kind = SLOT_FREE; /* too crowded: let something end first */
            if (w->inflight > 0)
                reap(w, 1);
            return;
        }
        if (choose_range(w, s) && blur(w, s))
            break;
    }
    enqueue(w, s);
}

static void send_some(struct workload *w)
{
    if (!w->queues)
        caller_send(&w->caller);
    else if (w->q)
        CHECK_OK(vdisk_submit(w->q));
}

void workload_step(struct workload *w)
{
    issue(w);
    if (w->inflight == w->depth || rng_chance(&w->rng, 10))
        reap(w, w->inflight == w->depth ? 1 : 0);
    else if (rng_chance(&w->rng, 20))
        send_some(w);
    if (!w->queues)
        CHECK_MSG(caller_pause(&w->caller, w->v) || w->faults, "a synchronous call: %s", vdisk_error_text());
    if (rng_chance(&w->rng, 3))
        workload_drain(w);
}

void workload_run(struct workload *w, unsigned steps)
{
    for (unsigned i = 0; i < steps; i++)
        workload_step(w);
}

void workload_drain(struct workload *w)
{
    while (w->inflight > 0)
        reap(w, 1);
}

void workload_finish(struct workload *w)
{
    workload_drain(w);
    if (!w->queues)
        caller_finish(&w->caller);
    free(w->slots);
    w->q = NULL;
    w->slots = NULL;
}

/* ---- around it -------------------------------------------------------------------------------------- */

void workload_verify(vdisk *v, struct model *models, unsigned nmodels)
{
    enum { PIECE = 1 << 20 };
    uint8_t *buf = vdisk_alloc_buffer(PIECE);

    CHECK(buf);
    for (unsigned i = 0; i < nmodels; i++) {
        struct model *m = &models[i];
        for (uint64_t at = 0; at < m->size; at += PIECE) {
            uint64_t n = min_u64(PIECE, m->size - at);
            CHECK_OK(vdisk_pread(v, buf, n, m->base + at));
            model_expect(m, m->base + at, buf, n, "reading all");
        }
    }
    free(buf);
}

unsigned workload_windows(struct rng *r, uint64_t size, struct model *ret_models, unsigned max)
{
    enum { WHOLE = 48 << 20, WINDOW = 2 << 20 };

    if (size <= WHOLE) {
        model_init(&ret_models[0], 0, size);
        return 1;
    }
    /* Equal parts of the volume with one window in each, the last at the end. */
    for (unsigned i = 0; i < max; i++) {
        uint64_t part = size / max, start = part * i + align_down(rng_below(r, part - WINDOW), 512);
        model_init(&ret_models[i], i + 1 == max ? size - WINDOW : start, WINDOW);
    }
    return max;
}
