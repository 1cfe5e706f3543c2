/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Which guest clusters have data, or zeros that hide a backing file, in an image that is written as a stream: a
 * bit for each, in a map for each L1 entry that has some; one of ones only takes no memory.
 *
 * Happy path: ranges are added; what is noted is looked for; a cluster of data turns out to be zeros.
 * Failure modes: no memory: what was to be noted is not, or in part, and the text says so.
 *
 * Invariant: a map has bits that are set, and bits that are not, or is q2_front_full, or NULL.
 */
#include <assert.h>
#include <errno.h>
#include <string.h>

#include "engine/base/bits.h"
#include "engine/base/error.h"
#include "engine/base/mem.h"
#include "qcow2/image/front.h"
#include "qcow2/mutant.h"

struct cluster_map q2_front_full;

void q2_front_free_maps(const struct q2_front *f, struct cluster_map **maps)
{
    for (uint64_t i = 0; maps && i < q2_front_create(f)->layout.l1_entries; i++)
        if (maps[i] != &q2_front_full)
            mem_free(maps[i]);
    mem_free(maps);
}

/* Of L1 entry `entry`, clusters from number `first` up to `end` of its table. */
static int add_to_map(struct q2_front *f, struct cluster_map **maps, uint64_t entry, uint64_t first, uint64_t end)
{
    uint64_t all = q2_l2_entries(q2_front_geo(f));
    struct cluster_map *m = maps[entry];

    assert(first < end && end <= all && all % 64 == 0);
    if (m == &q2_front_full)
        return 0;
    if (end - first < all && !m) {
        m = maps[entry] = mem_calloc(1, sizeof *m + all / 8);
        if (!m)
            return err_set(ENOMEM, "%s: out of memory", q2_front_create(f)->plan.name);
    }
    for (uint64_t i = first; m && i < end; i++) {
        m->set += !(m->words[i / 64] >> (i % 64) & 1);
        m->words[i / 64] |= UINT64_C(1) << (i % 64);
    }
    if (m && m->set < all)
        return 0;
    mem_free(m);
    maps[entry] = &q2_front_full;
    return 0;
}

static int add(struct q2_front *f, struct cluster_map **maps, uint64_t guest_offset, uint64_t len)
{
    const struct q2_geometry *g = q2_front_geo(f);
    uint64_t all = q2_l2_entries(g), at = guest_offset >> g->cluster_bits, left = len >> g->cluster_bits, n;
    int rc = 0;

    assert(is_aligned(guest_offset | len, g->cluster_size) && left > 0 && f->read == 0);
    assert(at + left <= q2_front_create(f)->layout.guest_clusters);
    for (; left > 0 && rc == 0; at += n, left -= n) {
        n = min_u64(left, all - (at & (all - 1)));
        rc = add_to_map(f, maps, at >> g->l2_bits, at & (all - 1), (at & (all - 1)) + n);
    }
    return rc;
}

int q2_front_add(struct front *front, uint64_t guest_offset, uint64_t len)
{
    struct q2_front *f = container_of(front, struct q2_front, front);

    return add(f, f->maps, guest_offset, len);
}

/* Invariant 3. */
int q2_front_add_zeroes(struct front *front, uint64_t guest_offset, uint64_t len)
{
    struct q2_front *f = container_of(front, struct q2_front, front);

    if (!f->zeros || MUTANT(FRONT_SHOWS_BELOW))
        return 0;
    return add(f, q2_front_geo(f)->version >= 3 ? f->zeros : f->maps, guest_offset, len);
}

uint64_t q2_front_find(const struct q2_front *f, uint64_t cluster, uint64_t end, bool data)
{
    uint64_t all = q2_l2_entries(q2_front_geo(f));

    assert(end <= q2_front_create(f)->layout.guest_clusters);
    while (cluster < end) {
        const struct cluster_map *m = f->maps[cluster >> q2_front_geo(f)->l2_bits];
        uint64_t i = cluster & (all - 1), word;
        if (!m || m == &q2_front_full) {
            if ((m != NULL) == data)
                return cluster;
            cluster += all - i;
            continue;
        }
        word = (data ? m->words[i / 64] : ~m->words[i / 64]) >> (i % 64);
        if (word != 0)
            return min_u64(end, cluster + (uint64_t)__builtin_ctzll(word));
        cluster += 64 - i % 64;
    }
    return end;
}

/* A full map becomes one of its own. */
int q2_front_clear(struct q2_front *f, uint64_t cluster)
{
    uint64_t all = q2_l2_entries(q2_front_geo(f)), i = cluster & (all - 1);
    uint64_t entry = cluster >> q2_front_geo(f)->l2_bits;
    struct cluster_map *m = f->maps[entry];
    int rc = f->zeros ? add_to_map(f, f->zeros, entry, i, i + 1) : 0;

    assert(q2_front_has(f, f->maps, cluster));
    if (rc == 0 && m == &q2_front_full) {
        m = mem_alloc(sizeof *m + all / 8);
        if (!m)
            return err_set(ENOMEM, "%s: out of memory", q2_front_create(f)->plan.name);
        memset(m->words, 0xff, all / 8);
        m->set = all;
        f->maps[entry] = m;
    }
    if (rc < 0)
        return rc;
    assert(m->set > 0 && m->words[i / 64] >> (i % 64) & 1);
    m->words[i / 64] &= ~(UINT64_C(1) << (i % 64));
    if (--m->set == 0) {
        mem_free(m);
        f->maps[entry] = NULL;
    }
    return 0;
}
