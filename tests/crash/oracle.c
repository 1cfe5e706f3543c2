/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tests/crash/oracle.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/bits.h"
#include "tests/lib/test.h"

enum { STEP = 512, CANDIDATES = 512 };

void oracle_init(struct oracle *o, const struct version *versions, uint64_t size, uint64_t max_size)
{
    memset(o, 0, sizeof *o);
    o->versions = versions;
    o->max_size = max_size;
    o->size = o->next_size = size;
    o->stable = test_alloc(max_size);
    o->stable_id = test_alloc(max_size * sizeof *o->stable_id);
    o->or_zero = test_alloc(max_size);
    o->created = true;
}

void oracle_finish(struct oracle *o)
{
    for (size_t i = 0; i < o->flush_count; i++)
        free(o->flush[i].covers);
    free(o->flush);
    free(o->active);
    free(o->stable);
    free(o->stable_id);
    free(o->or_zero);
    memset(o, 0, sizeof *o);
}

static void *more_room(void *list, size_t count, size_t *max, size_t size)
{
    void *bigger;

    if (count < *max)
        return list;
    *max = *max ? 2 * *max : 32;
    bigger = realloc(list, *max * size);
    CHECK_MSG(bigger, "out of memory");
    return bigger;
}

static struct active *find_active(struct oracle *o, uint64_t id)
{
    for (size_t i = 0; i < o->active_count; i++)
        if (o->active[i].id == id)
            return &o->active[i];
    return NULL;
}

/* The version is there for good, over all that came before. */
static void make_stable(struct oracle *o, uint32_t id)
{
    const struct version *v = &o->versions[id];
    struct active *a = find_active(o, id);

    if (!a)
        return;
    for (uint64_t i = v->offset; i < v->offset + v->len; i++) {
        if (o->stable_id[i] > id + 1)
            continue;
        if (v->kind == VERSION_DISCARD) {
            o->or_zero[i] = 1;
            if (!o->unsure) /* else it may have left what nobody knows to be there */
                o->stable_id[i] = id + 1;
            continue;
        }
        o->stable_id[i] = id + 1;
        o->stable[i] = v->kind == VERSION_WRITE ? v->data[i - v->offset] : 0;
        o->or_zero[i] = 0;
    }
    memmove(a, a + 1, (size_t)(&o->active[--o->active_count] - a) * sizeof *a);
}

static void flush_begin(struct oracle *o, uint64_t id)
{
    struct oracle_flush *f;

    o->flush = more_room(o->flush, o->flush_count, &o->flush_max, sizeof *o->flush);
    f = &o->flush[o->flush_count++];
    *f = (struct oracle_flush){.id = id, .covers = test_alloc(o->active_count * sizeof *f->covers)};
    for (size_t i = 0; i < o->active_count; i++)
        if (o->active[i].done)
            f->covers[f->count++] = o->active[i].id;
}

static void flush_end(struct oracle *o, uint64_t id)
{
    size_t i = 0;

    while (i < o->flush_count && o->flush[i].id != id)
        i++;
    CHECK(i < o->flush_count);
    for (size_t k = 0; k < o->flush[i].count; k++)
        make_stable(o, o->flush[i].covers[k]);
    free(o->flush[i].covers);
    o->flush[i] = o->flush[--o->flush_count];
}

static void version_end(struct oracle *o, uint32_t id)
{
    struct active *a = find_active(o, id);

    CHECK(a);
    a->done = true;
    if (o->versions[id].fua)
        make_stable(o, id);
}

/* A range that a change of size uncovers reads as zeros, whatever was there before the size was smaller. */
static void size_end(struct oracle *o, uint64_t size)
{
    for (uint64_t i = size; i < o->size; i++) {
        o->stable[i] = 0;
        o->stable_id[i] = o->begun + 1; /* later than all so far */
        o->or_zero[i] = 0;
    }
    o->size = o->next_size = size;
}

void oracle_mark(struct oracle *o, enum mark mark, uint64_t value)
{
    switch (mark) {
    case MARK_BEGIN:
        o->active = more_room(o->active, o->active_count, &o->active_max, sizeof *o->active);
        o->active[o->active_count++] = (struct active){.id = (uint32_t)value};
        o->begun = (uint32_t)value + 1;
        break;
    case MARK_END:
        version_end(o, (uint32_t)value);
        break;
    case MARK_FLUSH_BEGIN:
        flush_begin(o, value);
        break;
    case MARK_FLUSH_END:
        flush_end(o, value);
        break;
    case MARK_SIZE_BEGIN:
        o->next_size = value;
        break;
    case MARK_SIZE_END:
        size_end(o, value);
        break;
    case MARK_CREATED:
        o->created = true;
        break;
    case MARK_CUT:
        break;
    case MARK_FAILED:
        o->unsure = true;
        break;
    case MARK_LOST:
        for (size_t i = 0; i < o->active_count; i++)
            o->active[i].done = false;
        o->unsure = true;
        break;
    }
}

/* The versions that may show in [start, end), into `ret`; their number. */
static size_t candidates(const struct oracle *o, uint64_t start, uint64_t end, const struct version **ret)
{
    size_t n = 0;

    for (size_t i = 0; i < o->active_count; i++) {
        const struct version *v = &o->versions[o->active[i].id];
        if (v->offset < end && start < v->offset + v->len)
            ret[n++] = v;
    }
    return n;
}

static bool may_be(const struct oracle *o, uint64_t offset, uint8_t value, const struct version **list, size_t n)
{
    if (o->stable[offset] == value || (o->or_zero[offset] && value == 0))
        return true;
    for (size_t i = 0; i < n; i++) {
        const struct version *v = list[i];
        if (offset < v->offset || offset >= v->offset + v->len ||
            (uint32_t)(v - o->versions) + 1 < o->stable_id[offset])
            continue;
        if (value == (v->kind == VERSION_WRITE ? v->data[offset - v->offset] : 0))
            return true;
    }
    return false;
}

/* Whose byte is it? For the message. */
static const char *origin(const struct oracle *o, uint64_t offset, const uint8_t *got, uint64_t len)
{
    static char text[200];

    for (uint32_t id = 0; o->versions[id].len > 0; id++) {
        const struct version *v = &o->versions[id];
        const uint8_t *found = v->data ? memmem(v->data, v->len, got + offset, min_u64(len, 8)) : NULL;
        if (!found)
            continue;
        snprintf(text, sizeof text, "it is byte %td of version %u, a write at %" PRIu64 "+%" PRIu64,
                 found - v->data, id, v->offset, v->len);
        return text;
    }
    return "it is of no version";
}

/* UINT64_MAX: all of [start, end) is right; else the first byte that is wrong. */
static uint64_t find_wrong(const struct oracle *o, const uint8_t *got, uint64_t start, uint64_t end)
{
    const struct version *list[CANDIDATES];
    size_t n;

    if (memcmp(got + start, o->stable + start, end - start) == 0)
        return UINT64_MAX;
    CHECK(o->active_count <= CANDIDATES);
    n = candidates(o, start, end, list);
    for (uint64_t i = start; i < end; i++)
        if (!may_be(o, i, got[i], list, n))
            return i;
    return UINT64_MAX;
}

void oracle_expect(const struct oracle *o, const uint8_t *got, uint64_t size, const char *what)
{
    CHECK_MSG(size == o->size || size == o->next_size, "%s: the size is %" PRIu64 ", not %" PRIu64, what, size,
              o->size);
    for (uint64_t at = 0; at < size; at += STEP) {
        uint64_t i = find_wrong(o, got, at, min_u64(at + STEP, size));
        CHECK_MSG(i == UINT64_MAX,
                  "%s: byte %" PRIu64 " (0x%" PRIx64 ") is 0x%02x; flushed was 0x%02x by version %d; %s", what, i,
                  i, got[i], o->stable[i], (int)o->stable_id[i] - 1, origin(o, i, got, size - i));
    }
}
