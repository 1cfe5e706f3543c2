/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Invariants
 *  1. pending[] is in the order in which changes were told, so that versions rise;
 *  2. a pending change counts for a sector only if its version is above since[sector]: what came before a durable
 *     change of the same sector cannot come back.
 */
#include "tests/lib/history.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/bits.h"
#include "tests/lib/test.h"

void history_init(struct history *h, uint64_t size, history_content_fn *content, void *arg)
{
    uint64_t n = size / HISTORY_SECTOR;

    assert(size % HISTORY_SECTOR == 0);
    memset(h, 0, sizeof *h);
    h->size = size;
    h->content = content;
    h->content_arg = arg;
    h->durable = test_alloc(n * sizeof *h->durable);
    h->since = test_alloc(n * sizeof *h->since);
    h->or_zero = test_alloc(n * sizeof *h->or_zero);
}

void history_finish(struct history *h)
{
    free(h->durable);
    free(h->since);
    free(h->or_zero);
    free(h->pending);
}

uint32_t history_change(struct history *h, enum history_kind kind, uint64_t offset, uint64_t len)
{
    assert(offset % HISTORY_SECTOR == 0 && len % HISTORY_SECTOR == 0);
    assert(offset <= h->size && len <= h->size - offset);
    if (h->npending == h->max) {
        h->max = h->max ? 2 * h->max : 64;
        h->pending = realloc(h->pending, h->max * sizeof *h->pending);
        CHECK(h->pending);
    }
    h->pending[h->npending++] = (struct history_change){kind, offset, len, ++h->version};
    assert(h->version < HISTORY_ZERO);
    return h->version;
}

/* The change is what its sectors hold from now on. */
static void settle(struct history *h, const struct history_change *c)
{
    for (uint64_t s = c->offset / HISTORY_SECTOR; s < (c->offset + c->len) / HISTORY_SECTOR; s++) {
        if (c->version < h->since[s])
            continue;
        h->since[s] = c->version;
        h->or_zero[s] = c->kind == HISTORY_DISCARD;
        if (c->kind != HISTORY_DISCARD)
            h->durable[s] = c->kind == HISTORY_WRITE ? c->version : HISTORY_ZERO;
    }
}

void history_flush(struct history *h)
{
    for (unsigned i = 0; i < h->npending; i++)
        settle(h, &h->pending[i]);
    h->npending = 0;
}

void history_durable(struct history *h, uint32_t version)
{
    unsigned i = 0;

    while (h->pending[i].version != version) {
        i++;
        assert(i < h->npending);
    }
    settle(h, &h->pending[i]);
    memmove(&h->pending[i], &h->pending[i + 1], (h->npending - i - 1) * sizeof *h->pending);
    h->npending--;
}

static bool holds(const struct history *h, uint32_t version, uint64_t offset, const uint8_t *buf)
{
    uint8_t want[HISTORY_SECTOR] = {0};

    if (version != HISTORY_ZERO)
        h->content(h->content_arg, version, offset, want);
    return memcmp(buf, want, sizeof want) == 0;
}

static bool covers(const struct history *h, const struct history_change *c, uint64_t offset)
{
    return c->offset <= offset && offset < c->offset + c->len && c->version > h->since[offset / HISTORY_SECTOR];
}

/* What the sector holds of what it may; false if it is something else. Newest first: most often that is it. */
static bool find_version(const struct history *h, uint64_t offset, const uint8_t *buf, uint32_t *ret)
{
    uint64_t s = offset / HISTORY_SECTOR;

    for (unsigned i = h->npending; i-- > 0;) {
        const struct history_change *c = &h->pending[i];
        if (!covers(h, c, offset))
            continue;
        *ret = c->kind == HISTORY_WRITE ? c->version : HISTORY_ZERO;
        if (holds(h, *ret, offset, buf))
            return true;
    }
    *ret = h->durable[s];
    if (holds(h, *ret, offset, buf))
        return true;
    *ret = HISTORY_ZERO;
    return h->or_zero[s] && holds(h, *ret, offset, buf);
}

uint64_t history_find_wrong(struct history *h, uint64_t offset, const uint8_t *buf, uint64_t len, bool pin)
{
    uint32_t version;

    assert(offset % HISTORY_SECTOR == 0 && len % HISTORY_SECTOR == 0 && offset + len <= h->size);
    for (uint64_t at = offset; at < offset + len; at += HISTORY_SECTOR) {
        uint64_t s = at / HISTORY_SECTOR;
        if (!find_version(h, at, buf + (at - offset), &version))
            return at;
        if (!pin)
            continue;
        h->durable[s] = version;
        h->since[s] = h->version;
        h->or_zero[s] = false;
    }
    return UINT64_MAX;
}

void history_restart(struct history *h)
{
    h->npending = 0;
}

const char *history_describe(const struct history *h, uint64_t offset)
{
    static const char *const kinds[] = {"write", "zeros", "discard"};
    static char text[512];
    uint64_t s = offset / HISTORY_SECTOR;
    size_t used = (size_t)snprintf(text, sizeof text, "durable: %d%s; pending:", (int)h->durable[s],
                                   h->or_zero[s] ? " or zero" : "");

    for (unsigned i = 0; i < h->npending; i++) {
        const struct history_change *c = &h->pending[i];
        if (covers(h, c, offset) && used < sizeof text - 32)
            used += (size_t)snprintf(text + used, sizeof text - used, " %s %u", kinds[c->kind], c->version);
    }
    return text;
}
