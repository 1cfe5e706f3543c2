/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Can the L1 table of a snapshot be where its entry says? It has clusters of its own.
 *
 * Happy path: it lies inside the file, over nothing that the header leads to.
 * Failure modes: a place that is none is told in words; where something else is, too, what is there decides, and
 * where that says nothing, the table stays.
 *
 * Invariants.
 *  1. A place that nobody else has is never called wrong because of one entry that is.
 */
#include "engine/base/mem.h"
#include "qcow2/check/check_internal.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "qcow2/format/format.h"
#include "qcow2/mutant.h"

enum { L2_TABLES_READ = 16 };

static bool overlap(uint64_t a, uint64_t a_len, uint64_t b, uint64_t b_len)
{
    assert(a + a_len >= a);
    return a_len > 0 && b_len > 0 && a < (b + b_len < b ? UINT64_MAX : b + b_len) && b < a + a_len;
}

const char *check_misplaced_l1(const struct check *c, uint64_t host_offset, uint64_t entries)
{
    const struct q2_header *h = &c->header;
    const struct q2_geometry *g = &h->geo;
    uint64_t len = entries * Q2_L1_ENTRY_SIZE;

    if (MUTANT(SNAPSHOT_L1_ANYWHERE))
        return NULL;
    if (!is_aligned(host_offset, g->cluster_size))
        return "not aligned to a cluster";
    if (entries == 0)
        return NULL;
    if (len > Q2_MAX_L1_SIZE)
        return "larger than 32 MiB";
    if (host_offset < g->cluster_size)
        return "over the header";
    len = q2_cluster_up(g, len);
    if (host_offset >= c->file_size || len > align_up(c->file_size, g->cluster_size) - host_offset)
        return "past the end of the file";
    if (overlap(host_offset, len, h->l1_offset, h->l1_entries * (uint64_t)Q2_L1_ENTRY_SIZE))
        return "over the L1 table of the disk";
    if (!h->reftable_problem && overlap(host_offset, len, h->reftable_offset,
                                        (uint64_t)h->reftable_clusters << g->cluster_bits))
        return "over the refcount table";
    if (overlap(host_offset, len, h->snapshots_offset, max_u64(1, c->snapshots_len)))
        return "over the snapshot table";
    if (h->has_bitmaps && overlap(host_offset, len, h->bitmap_directory_offset, h->bitmap_directory_size))
        return "over the bitmap directory";
    return NULL;
}

/* ---- by what is there --------------------------------------------------------------------------------------- */

static bool is_inside(const struct check *c, uint64_t host_offset)
{
    return host_offset > 0 && host_offset < c->file_size && is_aligned(host_offset, c->header.geo.cluster_size);
}

static bool is_l1_entry(const struct check *c, uint64_t entry)
{
    return !q2_l1_reserved(entry) && is_inside(c, q2_l1_offset(entry));
}

static bool is_l2_entry(const struct check *c, struct q2_l2_entry e)
{
    struct q2_mapping m = q2_entry_decode(&c->header.geo, e.word, e.bitmap);

    if (m.type == Q2_CLUSTER_COMPRESSED)
        return m.host_offset > 0 && m.host_offset < c->file_size;
    return !(e.word & Q2_L2_RESERVED) && (!m.has_host || is_inside(c, m.host_offset));
}

/* At least half of its entries can be some. */
static bool is_l2_table(const struct check *c, const uint8_t *table)
{
    const struct q2_geometry *g = &c->header.geo;
    uint64_t some = 0, good = 0;

    for (uint64_t i = 0; i < q2_l2_entries(g); i++) {
        struct q2_l2_entry e = q2_l2_entry_get(g, table + q2_l2_entry_offset(g, i));
        some += e.word != 0;
        good += e.word != 0 && is_l2_entry(c, e);
    }
    assert(good <= some && some <= q2_l2_entries(g));
    return 2 * good >= some;
}

/* Of the first of its entries that can be some: does one lead to what can be an L2 table? */
static bool leads_to_tables(struct check *c, const uint8_t *l1, uint64_t entries, uint8_t *buf)
{
    unsigned n = 0;

    assert(entries > 0 && entries <= Q2_MAX_L1_SIZE / Q2_L1_ENTRY_SIZE);
    for (uint64_t i = 0; i < entries && n < L2_TABLES_READ; i++) {
        uint64_t entry = get_be64(l1 + i * Q2_L1_ENTRY_SIZE);

        if (!is_l1_entry(c, entry))
            continue;
        n++;
        if (check_read(c, buf, c->header.geo.cluster_size, q2_l1_offset(entry)) < 0 || is_l2_table(c, buf))
            return true;
    }
    return n == 0;
}

static bool is_shared(const struct check *c, uint64_t host_offset, uint64_t len)
{
    const struct q2_geometry *g = &c->header.geo;

    assert(len > 0 && is_aligned(host_offset, g->cluster_size) && host_offset < c->file_size);
    for (uint64_t i = q2_cluster_index(g, host_offset); i <= q2_cluster_index(g, host_offset + len - 1); i++)
        if (i < c->refs.clusters && q2_use_is_mixed(q2_refs_use(&c->refs, i)))
            return true;
    return false;
}

static bool is_nonsense(struct check *c, const uint8_t *l1, uint64_t entries, bool shared, uint8_t *buf)
{
    uint64_t some = 0, good = 0;

    for (uint64_t i = 0; i < entries; i++) {
        uint64_t entry = get_be64(l1 + i * Q2_L1_ENTRY_SIZE);
        some += entry != 0;
        good += entry != 0 && is_l1_entry(c, entry);
    }
    assert(good <= some);
    if (good == 0)
        return some > 1 || (some == 1 && shared); /* invariant 1 */
    return shared && !leads_to_tables(c, l1, entries, buf);
}

int check_nonsense_l1(struct check *c, uint64_t host_offset, uint64_t entries)
{
    const struct q2_geometry *g = &c->header.geo;
    uint64_t len = entries * Q2_L1_ENTRY_SIZE;
    uint8_t *l1, *buf;
    int rc = 0;

    assert(!check_misplaced_l1(c, host_offset, entries));
    if (entries == 0)
        return 0;
    l1 = check_buffer(c, len);
    buf = check_buffer(c, g->cluster_size);
    if (!l1 || !buf)
        rc = -ENOMEM;
    else if (check_read(c, l1, len, host_offset) == 0)
        rc = is_nonsense(c, l1, entries, is_shared(c, host_offset, len), buf);
    mem_free(l1);
    mem_free(buf);
    return rc;
}
