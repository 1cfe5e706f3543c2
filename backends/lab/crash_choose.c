/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Which pieces survive: all ways where there are few, else a sample with a leaning towards what breaks things.
 *
 * Happy path: few pieces: the nth number's bits. Many: the fixed ways first (nothing, all, all but one change,
 * only one), then random ones of several kinds; a way that was given before at this place is passed over. Failure
 * modes: no memory to remember the ways: there are no more.
 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "backends/lab/crash_internal.h"
#include "engine/base/bits.h"
#include "engine/base/mem.h"

enum { EXHAUSTIVE_PIECES = 16, TRIES_PER_WAY = 8 };

/* A generator of its own: tests and library share no random numbers. */
static uint64_t next_random(uint64_t *s)
{
    uint64_t z = *s += UINT64_C(0x9e3779b97f4a7c15);

    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

static uint64_t below(uint64_t *s, uint64_t n)
{
    return next_random(s) % n;
}

/* ---- ways ------------------------------------------------------------------------------------------------ */

static void keep_all(struct crash_walk *w, bool keep)
{
    for (size_t i = 0; i < w->piece_count; i++)
        w->piece[i].keep = keep;
}

static void keep_change(struct crash_walk *w, uint32_t pending, bool keep)
{
    for (size_t i = 0; i < w->piece_count; i++)
        if (w->piece[i].pending == pending)
            w->piece[i].keep = keep;
}

/* Changes that have pieces, as numbers from 0: the nth of them; their count if ret is NULL. */
static size_t nth_change(const struct crash_walk *w, size_t n, uint32_t *ret)
{
    size_t count = 0;

    for (size_t i = 0; i < w->piece_count; i++) {
        if (i > 0 && w->piece[i].pending == w->piece[i - 1].pending)
            continue;
        if (ret && count == n)
            *ret = w->piece[i].pending;
        count++;
    }
    return count;
}

static const struct crash_change *change_of(const struct crash_walk *w, size_t piece)
{
    return w->pending[w->piece[piece].pending].change;
}

static bool is_size(const struct crash_walk *w, size_t piece)
{
    return w->piece[piece].index == w->pending[w->piece[piece].pending].pieces;
}

/* Made by the same step of the same operation? */
static bool same_name(const struct crash_change *a, const struct crash_change *b)
{
    return a->disk == b->disk && a->kind == b->kind && a->type == b->type && a->state == b->state;
}

/* One name's changes (metadata of one kind, guest data) there without the others, or missing while those are. */
static void by_name(struct crash_walk *w, uint64_t *s)
{
    const struct crash_change *chosen = change_of(w, below(s, w->piece_count));
    bool keep = below(s, 2);

    for (size_t i = 0; i < w->piece_count; i++)
        w->piece[i].keep = same_name(change_of(w, i), chosen) == keep;
}

/* The first so many changes in their order, or the others. */
static void by_order(struct crash_walk *w, uint64_t *s)
{
    uint32_t edge = 0;
    bool keep = below(s, 2);

    nth_change(w, below(s, nth_change(w, 0, NULL)), &edge);
    for (size_t i = 0; i < w->piece_count; i++)
        w->piece[i].keep = (w->piece[i].pending <= edge) == keep;
}

/* Each change whole or not at all. */
static void by_change(struct crash_walk *w, uint64_t *s)
{
    uint64_t percent = (const uint8_t[]){10, 50, 90}[below(s, 3)], last = UINT64_MAX;
    bool keep = false;

    for (size_t i = 0; i < w->piece_count; i++) {
        if (w->piece[i].pending != last)
            keep = below(s, 100) < percent;
        last = w->piece[i].pending;
        w->piece[i].keep = keep;
    }
}

static void by_piece(struct crash_walk *w, uint64_t *s)
{
    uint64_t percent = (const uint8_t[]){5, 50, 95}[below(s, 3)];

    for (size_t i = 0; i < w->piece_count; i++)
        w->piece[i].keep = below(s, 100) < percent;
}

/* One change torn, the others all there, or none, or as it comes. */
static void torn(struct crash_walk *w, uint64_t *s)
{
    uint32_t chosen = w->piece[below(s, w->piece_count)].pending;
    unsigned how = (unsigned)below(s, 3), others = (unsigned)below(s, 3);
    size_t n = 0, edge, k = 0;

    if (others == 2)
        by_change(w, s);
    else
        keep_all(w, others);
    for (size_t i = 0; i < w->piece_count; i++)
        n += w->piece[i].pending == chosen;
    edge = below(s, n) + 1;
    for (size_t i = 0; i < w->piece_count; i++) {
        if (w->piece[i].pending != chosen)
            continue;
        w->piece[i].keep = how == 0 ? k < edge : how == 1 ? k >= edge : below(s, 2);
        k++;
    }
}

static void one_piece(struct crash_walk *w, uint64_t *s)
{
    bool keep = below(s, 2);

    keep_all(w, !keep);
    w->piece[below(s, w->piece_count)].keep = keep;
}

/* Sizes without content, or content without the sizes beyond it. */
static void by_size(struct crash_walk *w, uint64_t *s)
{
    bool keep = below(s, 2);

    for (size_t i = 0; i < w->piece_count; i++)
        w->piece[i].keep = is_size(w, i) == keep;
}

static void random_way(struct crash_walk *w, uint64_t *s)
{
    static void (*const ways[])(struct crash_walk *, uint64_t *) = {
        by_name, by_order, by_change, by_piece, torn, one_piece, by_size, by_change, torn, by_name,
    };

    ways[below(s, ARRAY_LEN(ways))](w, s);
}

/* The fixed ones. False: there are no more. */
static bool fixed_way(struct crash_walk *w, size_t n, size_t changes)
{
    uint32_t pending = 0;

    if (n < 2) {
        keep_all(w, n == 1);
        return true;
    }
    n -= 2;
    if (n >= 2 * changes)
        return false;
    /* The last change first: it is the one that most likely came too early. */
    nth_change(w, changes - 1 - n / 2, &pending);
    keep_all(w, n % 2 == 1);
    keep_change(w, pending, n % 2 == 0);
    return true;
}

/* ---- all different --------------------------------------------------------------------------------------- */

static uint64_t hash_choice(const struct crash_walk *w)
{
    uint64_t h = UINT64_C(0xcbf29ce484222325), word = 1;

    for (size_t i = 0; i < w->piece_count; i++) {
        word = word << 1 | w->piece[i].keep;
        if (i % 48 == 47 || i + 1 == w->piece_count) {
            h = (h ^ word) * UINT64_C(0xff51afd7ed558ccd);
            h ^= h >> 33;
            word = 1;
        }
    }
    return h;
}

/* True: this choice was not made before at this place; it is remembered. */
static bool is_new(struct crash_walk *w)
{
    uint64_t h = hash_choice(w);

    for (size_t i = 0; i < w->seen_count; i++)
        if (w->seen[i] == h)
            return false;
    if (w->seen_count == w->seen_max) {
        size_t max = w->seen_max ? 2 * w->seen_max : 256;
        uint64_t *seen = mem_realloc(w->seen, max * sizeof *seen);
        if (!seen)
            return false;
        w->seen = seen;
        w->seen_max = max;
    }
    w->seen[w->seen_count++] = h;
    return true;
}

/* The next way that is new; false: given up. */
static bool next_way(struct crash_walk *w, uint64_t seed, size_t changes)
{
    for (unsigned idle = 0; idle < TRIES_PER_WAY * 4;) {
        uint64_t s = seed ^ (w->at * UINT64_C(0xd1342543de82ef95)) ^ ((uint64_t)w->tried << 40);
        if (!fixed_way(w, w->tried, changes)) {
            random_way(w, &s);
            idle++;
        }
        w->tried++;
        if (is_new(w))
            return true;
    }
    return false;
}

bool crash_walk_choose(struct crash_walk *w, uint64_t seed, unsigned n, unsigned max)
{
    if (n >= max || crash_walk_find_pieces(w) < 0)
        return false;
    if (w->piece_count <= EXHAUSTIVE_PIECES && UINT64_C(1) << w->piece_count <= max) {
        for (size_t i = 0; i < w->piece_count; i++)
            w->piece[i].keep = n >> i & 1;
        return n < UINT64_C(1) << w->piece_count;
    }
    if (n == 0 || seed != w->seen_seed) {
        w->seen_count = 0;
        w->tried = 0;
        w->seen_seed = seed;
    }
    while (w->seen_count <= n)
        if (!next_way(w, seed, nth_change(w, 0, NULL)))
            return false;
    return true;
}
