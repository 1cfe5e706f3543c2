/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Invariants.
 *  1. A cell whose count is COUNT_OVER has its count in the hash table `over`, and no other has.
 *  2. A count never goes down.
 */
#include "qcow2/check/check_refs.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#include "engine/base/bits.h"
#include "engine/base/mem.h"

enum { COUNT_BITS = 12, COUNT_OVER = (1 << COUNT_BITS) - 1 };

_Static_assert(Q2_USE_MIXED < 1 << (16 - COUNT_BITS), "a use must fit beside the count");

const char *q2_use_name(enum q2_use use)
{
    static const char *const names[] = {
        [Q2_USE_NONE] = "nothing",
        [Q2_USE_HEADER] = "the header",
        [Q2_USE_REFTABLE] = "the refcount table",
        [Q2_USE_REFBLOCK] = "a refcount block",
        [Q2_USE_L1] = "an L1 table",
        [Q2_USE_L2] = "an L2 table",
        [Q2_USE_DATA] = "guest data",
        [Q2_USE_COMPRESSED] = "compressed guest data",
        [Q2_USE_SNAPSHOTS] = "the snapshot table",
        [Q2_USE_BITMAPS] = "bitmaps",
        [Q2_USE_L2_AND_DATA] = "an L2 table and guest data",
        [Q2_USE_MIXED] = "several things",
    };

    _Static_assert(ARRAY_LEN(names) == Q2_USE_MIXED + 1, "each use has a name");
    assert(use <= Q2_USE_MIXED && names[use] != NULL);
    return names[use];
}

void *q2_budget_alloc(struct q2_budget *b, uint64_t n, uint64_t size)
{
    uint64_t bytes;
    void *p;

    assert(b->used <= b->max && n > 0);
    if (!mul_u64(n, size, &bytes) || bytes > b->max - b->used)
        return NULL;
    p = mem_calloc(n, size);
    if (p)
        b->used += bytes;
    return p;
}

void q2_budget_free(struct q2_budget *b, void *p, uint64_t n, uint64_t size)
{
    if (!p)
        return;
    assert(b->used >= n * size);
    b->used -= n * size;
    mem_free(p);
}

/* Spread the low bits of offsets and indexes, which are alike, over the high ones. */
static uint64_t hash(uint64_t x)
{
    return (x * 0x9e3779b97f4a7c15ull) >> 20;
}

/* ---- counts ---------------------------------------------------------------------------------------- */

int q2_refs_init(struct q2_refs *r, struct q2_budget *budget, uint64_t clusters)
{
    assert(clusters > 0);
    *r = (struct q2_refs){.budget = budget, .clusters = clusters};
    r->pages_count = div_up(clusters, Q2_REFS_PAGE);
    r->pages = q2_budget_alloc(budget, r->pages_count, sizeof *r->pages);
    return r->pages ? 0 : -ENOMEM;
}

void q2_refs_finish(struct q2_refs *r)
{
    for (uint64_t i = 0; r->pages && i < r->pages_count; i++)
        q2_budget_free(r->budget, r->pages[i], Q2_REFS_PAGE, sizeof **r->pages);
    q2_budget_free(r->budget, r->pages, r->pages_count, sizeof *r->pages);
    q2_budget_free(r->budget, r->over, r->over_max, sizeof *r->over);
    r->pages = NULL;
    r->over = NULL;
}

/* Its slot, or the free one where it belongs. There is one: the table is never full. */
static struct q2_refs_over *over_slot(struct q2_refs_over *over, uint64_t max, uint64_t cluster)
{
    uint64_t i = hash(cluster) & (max - 1);

    while (over[i].cluster_plus_1 != 0 && over[i].cluster_plus_1 != cluster + 1)
        i = (i + 1) & (max - 1);
    return &over[i];
}

static int over_grow(struct q2_refs *r)
{
    uint64_t max = r->over_max ? r->over_max * 2 : 64;
    struct q2_refs_over *over = q2_budget_alloc(r->budget, max, sizeof *over);

    if (!over)
        return -ENOMEM;
    for (uint64_t i = 0; i < r->over_max; i++)
        if (r->over[i].cluster_plus_1 != 0)
            *over_slot(over, max, r->over[i].cluster_plus_1 - 1) = r->over[i];
    assert(is_power_of_two(max) && r->over_count < max);
    q2_budget_free(r->budget, r->over, r->over_max, sizeof *over);
    r->over = over;
    r->over_max = max;
    return 0;
}

static int over_set(struct q2_refs *r, uint64_t cluster, uint64_t count)
{
    struct q2_refs_over *o;

    assert(count >= COUNT_OVER); /* invariant 1 */
    if (r->over_count + r->over_count / 2 >= r->over_max) {
        int rc = over_grow(r);
        if (rc < 0)
            return rc;
    }
    o = over_slot(r->over, r->over_max, cluster);
    assert(o->cluster_plus_1 == 0 || o->count <= count); /* invariant 2 */
    r->over_count += o->cluster_plus_1 == 0;
    *o = (struct q2_refs_over){.cluster_plus_1 = cluster + 1, .count = count};
    return 0;
}

static uint64_t cell_count(const struct q2_refs *r, uint64_t cluster, uint16_t cell)
{
    uint64_t count = cell & COUNT_OVER;
    const struct q2_refs_over *over;

    if (likely(count != COUNT_OVER))
        return count;
    over = over_slot(r->over, r->over_max, cluster);
    assert(over->cluster_plus_1 == cluster + 1); /* invariant 1 */
    return over->count;
}

static bool may_share(enum q2_use use)
{
    return use == Q2_USE_L2 || use == Q2_USE_DATA || use == Q2_USE_COMPRESSED;
}

static enum q2_use both(enum q2_use before, enum q2_use use)
{
    if (before == Q2_USE_NONE || (before == use && may_share(use)))
        return use;
    if ((before == Q2_USE_L2 || before == Q2_USE_DATA || before == Q2_USE_L2_AND_DATA) &&
        (use == Q2_USE_L2 || use == Q2_USE_DATA))
        return Q2_USE_L2_AND_DATA;
    return Q2_USE_MIXED;
}

int q2_refs_add(struct q2_refs *r, uint64_t cluster, enum q2_use use, uint64_t n, uint64_t max,
                struct q2_refs_added *ret)
{
    uint16_t **page = &r->pages[cluster >> Q2_REFS_PAGE_BITS], *cell;
    uint64_t count, fits;

    assert(cluster < r->clusters && use > Q2_USE_NONE && use < Q2_USE_L2_AND_DATA);
    assert(n > 0 && max > 0);
    if (!*page) {
        *page = q2_budget_alloc(r->budget, Q2_REFS_PAGE, sizeof **page);
        if (!*page)
            return -ENOMEM;
    }
    cell = &(*page)[cluster & (Q2_REFS_PAGE - 1)];
    ret->before = (enum q2_use)(*cell >> COUNT_BITS);
    count = cell_count(r, cluster, *cell);
    assert(count <= max);
    fits = min_u64(n, max - count);
    ret->excess = n - fits;
    count += fits;
    use = both(ret->before, use);
    if (count >= COUNT_OVER) {
        int rc = over_set(r, cluster, count);
        if (rc < 0)
            return rc;
        count = COUNT_OVER;
    }
    *cell = (uint16_t)((uint64_t)use << COUNT_BITS | count);
    return 0;
}

uint64_t q2_refs_count(const struct q2_refs *r, uint64_t cluster)
{
    const uint16_t *page = r->pages[cluster >> Q2_REFS_PAGE_BITS];

    assert(cluster < r->clusters);
    return page ? cell_count(r, cluster, page[cluster & (Q2_REFS_PAGE - 1)]) : 0;
}

enum q2_use q2_refs_use(const struct q2_refs *r, uint64_t cluster)
{
    const uint16_t *page = r->pages[cluster >> Q2_REFS_PAGE_BITS];

    assert(cluster < r->clusters);
    return page ? (enum q2_use)(page[cluster & (Q2_REFS_PAGE - 1)] >> COUNT_BITS) : Q2_USE_NONE;
}

bool q2_refs_none(const struct q2_refs *r, uint64_t first, uint64_t end)
{
    assert(first <= end && end <= r->clusters);
    for (uint64_t i = first >> Q2_REFS_PAGE_BITS; i < div_up(end, Q2_REFS_PAGE); i++)
        if (r->pages[i])
            return false;
    return true;
}

uint64_t q2_refs_next(const struct q2_refs *r, uint64_t cluster)
{
    for (; cluster < r->clusters; cluster++) {
        if (!r->pages[cluster >> Q2_REFS_PAGE_BITS])
            cluster |= Q2_REFS_PAGE - 1;
        else if (q2_refs_count(r, cluster) > 0)
            return cluster;
    }
    return r->clusters;
}

uint64_t q2_refs_end(const struct q2_refs *r)
{
    for (uint64_t i = r->clusters; i > 0; i--) {
        if (!r->pages[(i - 1) >> Q2_REFS_PAGE_BITS])
            i = align_down(i - 1, Q2_REFS_PAGE) + 1;
        else if (q2_refs_count(r, i - 1) > 0)
            return i;
    }
    return 0;
}

/* ---- L2 tables -------------------------------------------------------------------------------------- */

static struct q2_l2_table *l2_slot(struct q2_l2_table *tables, uint64_t max, uint64_t host_offset)
{
    uint64_t i = hash(host_offset) & (max - 1);

    while (tables[i].host_offset != 0 && tables[i].host_offset != host_offset)
        i = (i + 1) & (max - 1);
    return &tables[i];
}

static int l2_set_grow(struct q2_l2_set *s)
{
    uint64_t max = s->max ? s->max * 2 : 64;
    struct q2_l2_table *tables = q2_budget_alloc(s->budget, max, sizeof *tables);

    if (!tables)
        return -ENOMEM;
    for (uint64_t i = 0; i < s->max; i++)
        if (s->tables[i].host_offset != 0)
            *l2_slot(tables, max, s->tables[i].host_offset) = s->tables[i];
    assert(is_power_of_two(max) && s->count < max);
    q2_budget_free(s->budget, s->tables, s->max, sizeof *tables);
    s->tables = tables;
    s->max = max;
    return 0;
}

int q2_l2_set_add(struct q2_l2_set *s, uint64_t host_offset, bool active, uint32_t l1_index)
{
    struct q2_l2_table *t;

    assert(host_offset != 0);
    if (s->count + s->count / 2 >= s->max) {
        int rc = l2_set_grow(s);
        if (rc < 0)
            return rc;
    }
    t = l2_slot(s->tables, s->max, host_offset);
    if (t->host_offset == 0) {
        t->host_offset = host_offset;
        s->count++;
    }
    if (t->refs == 0 || (active && t->active_refs == 0))
        t->l1_index = l1_index;
    t->refs += t->refs < UINT32_MAX;
    t->active_refs += active;
    assert(t->active_refs <= t->refs && s->count < s->max);
    return 0;
}

static int by_offset(const void *a, const void *b)
{
    const struct q2_l2_table *x = a, *y = b;

    return (x->host_offset > y->host_offset) - (x->host_offset < y->host_offset);
}

void q2_l2_set_sort(struct q2_l2_set *s)
{
    uint64_t n = 0;

    for (uint64_t i = 0; i < s->max; i++)
        if (s->tables[i].host_offset != 0)
            s->tables[n++] = s->tables[i];
    assert(n == s->count);
    if (n > 1)
        qsort(s->tables, n, sizeof *s->tables, by_offset);
}

void q2_l2_set_finish(struct q2_l2_set *s)
{
    q2_budget_free(s->budget, s->tables, s->max, sizeof *s->tables);
    s->tables = NULL;
    s->count = s->max = 0;
}
