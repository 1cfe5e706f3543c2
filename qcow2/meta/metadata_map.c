/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "qcow2/meta/metadata_map.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/bits.h"
#include "engine/base/mem.h"

enum { SHORT = 4, KIND_BITS = 16, PLACES_FIRST = 256, REGION_BITS = 6 };

/* ---- the filter ------------------------------------------------------------------------------------------ */

static uint32_t filter_bit(uint64_t cluster)
{
    return (uint32_t)((cluster >> REGION_BITS) * UINT64_C(0x9e3779b97f4a7c15) >> 48) & (Q2_META_FILTER_BITS - 1);
}

static void note_region(struct q2_meta_map *m, uint64_t cluster)
{
    m->filter[filter_bit(cluster) / 64] |= UINT64_C(1) << filter_bit(cluster) % 64;
}

static bool may_have(const struct q2_meta_map *m, uint64_t cluster)
{
    return m->filter[filter_bit(cluster) / 64] >> filter_bit(cluster) % 64 & 1;
}

/* Where the region of `cluster` ends. */
static uint64_t region_end(uint64_t cluster)
{
    return ((cluster >> REGION_BITS) + 1) << REGION_BITS;
}

/* ---- single clusters ------------------------------------------------------------------------------------- */

/* The cluster's place, or the empty one where it belongs. There is an empty one. */
static uint64_t *place_of(uint64_t *place, uint64_t places, uint64_t cluster)
{
    uint64_t i = cluster * UINT64_C(0x9e3779b97f4a7c15) >> 24 & (places - 1);

    while (place[i] && place[i] >> KIND_BITS != cluster)
        i = (i + 1) & (places - 1);
    return &place[i];
}

static uint32_t kinds_at(const struct q2_meta_map *m, uint64_t cluster)
{
    return m->places ? (uint32_t)(*place_of(m->place, m->places, cluster) & ((1u << KIND_BITS) - 1)) : 0;
}

/* Three quarters full at most. What is no metadata any more is dropped. False: out of memory, or full. */
static bool make_places(struct q2_meta_map *m)
{
    uint64_t places = m->places ? 2 * m->places : PLACES_FIRST;
    uint64_t *place;

    if (4 * (m->used + 1) <= 3 * m->places)
        return true;
    if (places > Q2_META_PLACES_MAX)
        return false;
    place = mem_calloc(places, sizeof *place);
    if (!place)
        return false;
    m->used = 0;
    for (uint64_t i = 0; i < m->places; i++)
        if (m->place[i] & ((1u << KIND_BITS) - 1)) {
            *place_of(place, places, m->place[i] >> KIND_BITS) = m->place[i];
            m->used++;
        }
    mem_free(m->place);
    m->place = place;
    m->places = places;
    return true;
}

static void add_one(struct q2_meta_map *m, uint64_t cluster, uint32_t kind)
{
    uint64_t *p;

    if (cluster >> (64 - KIND_BITS) || !make_places(m)) {
        m->overflowed = true;
        return;
    }
    p = place_of(m->place, m->places, cluster);
    m->used += *p == 0;
    if (*p & kind & (Q2_META_L2 | Q2_META_REFBLOCK))
        kind |= Q2_META_TWICE;
    *p |= cluster << KIND_BITS | kind;
}

/* ---- runs ------------------------------------------------------------------------------------------------ */

static void add_run(struct q2_meta_map *m, uint64_t start, uint64_t end, uint32_t kind)
{
    if (m->runs == m->runs_max) {
        size_t max = m->runs_max ? 2 * m->runs_max : 8;
        struct q2_meta_run *run = mem_realloc(m->run, max * sizeof *run);
        if (!run) {
            m->overflowed = true;
            return;
        }
        m->run = run;
        m->runs_max = max;
    }
    m->run[m->runs++] = (struct q2_meta_run){.start = start, .end = end, .kind = kind};
    m->sorted = false;
}

static int by_start(const void *a, const void *b)
{
    const struct q2_meta_run *x = a, *y = b;

    return x->start < y->start ? -1 : x->start > y->start;
}

static void sort_runs(struct q2_meta_map *m)
{
    uint64_t reach = 0;

    if (m->runs > 1)
        qsort(m->run, m->runs, sizeof *m->run, by_start);
    for (size_t i = 0; i < m->runs; i++)
        m->run[i].reach = reach = max_u64(reach, m->run[i].end);
    m->sorted = true;
}

/* Of runs that meet [start, end): their kinds; *ret_where moves down to the first such cluster. */
static uint32_t kinds_in_runs(struct q2_meta_map *m, uint64_t start, uint64_t end, uint64_t *ret_where)
{
    size_t low = 0, high = m->runs;
    uint32_t kinds = 0;

    if (!m->sorted)
        sort_runs(m);
    while (low < high) { /* the first that starts at `end` or behind */
        size_t mid = (low + high) / 2;
        if (m->run[mid].start < end)
            low = mid + 1;
        else
            high = mid;
    }
    while (low > 0 && m->run[low - 1].reach > start) {
        const struct q2_meta_run *r = &m->run[--low];
        if (r->end <= start)
            continue;
        kinds |= r->kind;
        *ret_where = min_u64(*ret_where, max_u64(start, r->start));
    }
    return kinds;
}

/* ---- both ------------------------------------------------------------------------------------------------ */

/* L2 tables are given up one by one, however many were made at once. */
static bool is_run(uint64_t n, uint32_t kind)
{
    return n > SHORT && kind != Q2_META_L2;
}

void q2_meta_add(struct q2_meta_map *m, uint64_t cluster, uint64_t n, uint32_t kind)
{
    bool run = is_run(n, kind);
    uint64_t end;

    assert(n > 0);
    if (!add_u64(cluster, n, &end))
        return;
    if (run)
        add_run(m, cluster, end, kind);
    for (uint64_t i = cluster; !run && i < end; i++)
        add_one(m, i, kind);
    for (uint64_t i = cluster; i < end; i = region_end(i))
        note_region(m, i);
}

void q2_meta_remove(struct q2_meta_map *m, uint64_t cluster, uint64_t n, uint32_t kind)
{
    bool run = is_run(n, kind);

    for (uint64_t i = cluster; m->places && !run && i < cluster + n; i++) {
        uint64_t *p = place_of(m->place, m->places, i);
        if (*p & Q2_META_TWICE & (kind & (Q2_META_L2 | Q2_META_REFBLOCK) ? Q2_META_TWICE : 0u))
            *p &= ~(uint64_t)Q2_META_TWICE;
        else if (*p)
            *p &= ~(uint64_t)kind;
    }
    for (size_t i = 0; run && i < m->runs; i++)
        if (m->run[i].start == cluster && m->run[i].end == cluster + n && m->run[i].kind == kind) {
            m->run[i] = m->run[--m->runs];
            m->sorted = false;
            break;
        }
}

uint32_t q2_meta_find(struct q2_meta_map *m, uint64_t cluster, uint64_t n, uint64_t *ret_where)
{
    uint64_t end = cluster + n, where = UINT64_MAX;
    uint32_t kinds = 0;

    for (uint64_t next; cluster < end && kinds == 0; cluster = next) {
        next = min_u64(end, region_end(cluster));
        if (!may_have(m, cluster))
            continue;
        kinds = kinds_in_runs(m, cluster, next, &where);
        for (uint64_t i = cluster; i < min_u64(next, where); i++)
            if (kinds_at(m, i)) {
                kinds = kinds_at(m, i);
                where = i;
            }
    }
    *ret_where = where;
    return kinds;
}

uint32_t q2_meta_kinds(struct q2_meta_map *m, uint64_t cluster)
{
    uint64_t where = UINT64_MAX;

    return may_have(m, cluster) ? kinds_in_runs(m, cluster, cluster + 1, &where) | kinds_at(m, cluster) : 0;
}

const char *q2_meta_name(uint32_t kinds)
{
    static const char *const names[Q2_META_NAMES] = {
        "the header",
        "the L1 table",
        "the refcount table",
        "a refcount block",
        "an L2 table",
        "snapshot tables",
        "a snapshot's L2 table",
        "bitmaps",
        "another table's entries, too",
    };
    unsigned bit = 0;

    while (bit < Q2_META_NAMES - 1 && !(kinds >> bit & 1))
        bit++;
    return names[bit];
}

void q2_meta_finish(struct q2_meta_map *m)
{
    mem_free(m->place);
    mem_free(m->run);
    memset(m, 0, sizeof *m);
}
