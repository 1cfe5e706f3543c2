/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "qcow2/meta/cluster_set.h"

#include <stdlib.h>
#include <string.h>

#include "engine/base/bits.h"
#include "engine/base/mem.h"

enum { PAGE_CLUSTERS = 1 << Q2_SET_PAGE_BITS, WORD_BITS = 64, PLACES_FIRST = 16 };

struct q2_set_page {
    uint64_t word[PAGE_CLUSTERS / WORD_BITS];
};

/* The key lies here and not in the page, so that looking costs one line of the page. */
struct q2_set_place {
    uint64_t            key; /* cluster >> Q2_SET_PAGE_BITS */
    struct q2_set_page *page; /* NULL: empty */
};

/* The page's place in the table, or the empty one where it belongs. There is an empty one. */
static struct q2_set_place *place_of(struct q2_set_place *table, uint32_t places, uint64_t key)
{
    uint32_t i = (uint32_t)(key * UINT64_C(0x9e3779b97f4a7c15) >> 32) & (places - 1);

    while (table[i].page && table[i].key != key)
        i = (i + 1) & (places - 1);
    return &table[i];
}

static struct q2_set_page *find(const struct q2_cluster_set *s, uint64_t key)
{
    return s->table ? place_of(s->table, s->places, key)->page : NULL;
}

/* At most half full. False: out of memory. */
static bool make_places(struct q2_cluster_set *s)
{
    uint32_t places = s->places ? 2 * s->places : PLACES_FIRST;
    struct q2_set_place *table;

    if (s->places > 2 * s->pages)
        return true;
    table = mem_calloc(places, sizeof *table);
    if (!table)
        return false;
    for (uint32_t i = 0; i < s->places; i++)
        if (s->table[i].page)
            *place_of(table, places, s->table[i].key) = s->table[i];
    mem_free(s->table);
    s->table = table;
    s->places = places;
    return true;
}

static struct q2_set_page *find_or_make(struct q2_cluster_set *s, uint64_t key)
{
    struct q2_set_page *p = find(s, key);

    if (p)
        return p;
    if (s->pages < Q2_SET_PAGES && make_places(s))
        p = mem_calloc(1, sizeof *p);
    if (!p) {
        s->overflowed = true;
        return NULL;
    }
    *place_of(s->table, s->places, key) = (struct q2_set_place){key, p};
    s->pages++;
    return p;
}

void q2_cluster_set_prefetch(const struct q2_cluster_set *s, uint64_t cluster)
{
    const struct q2_set_page *p = find(s, cluster >> Q2_SET_PAGE_BITS);

    if (p)
        __builtin_prefetch(&p->word[cluster % PAGE_CLUSTERS / WORD_BITS], 1);
}

/* Bits [first, first + n) of a page, which has them. */
static void change(struct q2_set_page *p, uint32_t first, uint32_t n, bool set)
{
    while (n > 0) {
        uint32_t bit = first % WORD_BITS, here = (uint32_t)min_u64(n, WORD_BITS - bit);
        uint64_t mask = (UINT64_MAX >> (WORD_BITS - here)) << bit;
        if (set)
            p->word[first / WORD_BITS] |= mask;
        else
            p->word[first / WORD_BITS] &= ~mask;
        first += here;
        n -= here;
    }
}

void q2_cluster_set_add(struct q2_cluster_set *s, uint64_t cluster, uint64_t n)
{
    for (uint64_t here; n > 0; cluster += here, n -= here) {
        struct q2_set_page *p = find_or_make(s, cluster >> Q2_SET_PAGE_BITS);
        here = min_u64(n, PAGE_CLUSTERS - cluster % PAGE_CLUSTERS);
        if (p)
            change(p, cluster % PAGE_CLUSTERS, (uint32_t)here, true);
    }
}

void q2_cluster_set_remove(struct q2_cluster_set *s, uint64_t cluster, uint64_t n)
{
    for (uint64_t here; n > 0; cluster += here, n -= here) {
        struct q2_set_page *p = find(s, cluster >> Q2_SET_PAGE_BITS);
        here = min_u64(n, PAGE_CLUSTERS - cluster % PAGE_CLUSTERS);
        if (p)
            change(p, cluster % PAGE_CLUSTERS, (uint32_t)here, false);
    }
}

bool q2_cluster_set_has(const struct q2_cluster_set *s, uint64_t cluster)
{
    const struct q2_set_page *p = find(s, cluster >> Q2_SET_PAGE_BITS);
    uint64_t bit = cluster % PAGE_CLUSTERS;

    return p && p->word[bit / WORD_BITS] >> bit % WORD_BITS & 1;
}

/* Clusters from `cluster` on, to the end of its page at most, that are all members or all none. */
static uint64_t alike(const struct q2_cluster_set *s, uint64_t cluster, bool *ret_has)
{
    const struct q2_set_page *p = find(s, cluster >> Q2_SET_PAGE_BITS);
    uint64_t first = cluster % PAGE_CLUSTERS, i = first;

    *ret_has = p && p->word[i / WORD_BITS] >> i % WORD_BITS & 1;
    if (!p)
        return PAGE_CLUSTERS - first;
    while (i < PAGE_CLUSTERS) {
        uint64_t word = *ret_has ? ~p->word[i / WORD_BITS] : p->word[i / WORD_BITS];
        word >>= i % WORD_BITS;
        if (word)
            return i + (uint64_t)__builtin_ctzll(word) - first;
        i = align_down(i, WORD_BITS) + WORD_BITS;
    }
    return PAGE_CLUSTERS - first;
}

uint64_t q2_cluster_set_next(const struct q2_cluster_set *s, uint64_t from, uint64_t end, uint64_t *ret_end)
{
    bool has = false;
    uint64_t n = 0;

    for (; from < end; from += n) {
        n = alike(s, from, &has);
        if (has)
            break;
    }
    *ret_end = min_u64(end, from + n);
    while (has && *ret_end < end) {
        n = alike(s, *ret_end, &has);
        *ret_end = has ? min_u64(end, *ret_end + n) : *ret_end;
    }
    return min_u64(from, end);
}

void q2_cluster_set_finish(struct q2_cluster_set *s)
{
    for (uint32_t i = 0; i < s->places; i++)
        mem_free(s->table[i].page);
    mem_free(s->table);
    memset(s, 0, sizeof *s);
}
