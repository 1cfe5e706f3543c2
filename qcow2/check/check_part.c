/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Entries of guest data whose cluster is somebody else's: metadata (whoever writes through the one destroys the
 * other), or guest data of another place on the disk. Each gets a cluster of its own at
 * the end of the file, with a copy of what it reads; of those that share guest data one keeps the cluster.
 *
 * Happy path: table by table: copy the clusters, raise the refcounts of the new ones, flush, write the table.
 * Failure modes: no refcount block covers the end of the file, or the file cannot grow: the entry stays as it is.
 * A failed read or write ends it, and a crash: new clusters that nothing refers to are leaked. An image that would
 * become much longer, since it was made so, is refused before anything is written.
 *
 * Invariants.
 *  1. A copy and its refcount are durable before the entry that points to it is written.
 *  2. Only L2 tables are written to that are nothing else, but for guest data that points to them.
 */
#include "engine/base/mem.h"
#include "qcow2/check/check_internal.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/error.h"
#include "qcow2/format/format.h"
#include "qcow2/mutant.h"

enum { PART_MORE = 1 << 30 };

static int failed(struct check *c, int rc, uint64_t host_offset)
{
    return err_set(rc, "%s: copying guest data out of another's cluster at host offset 0x%" PRIx64 ": %s",
                   c->file->name, host_offset, strerror(-rc));
}

/* The refcount of a new cluster; *ret_offset is where its block is. False: there is none. */
bool check_find_block(const struct check *c, uint64_t cluster, uint64_t *ret_offset)
{
    uint64_t i = q2_reftable_index(&c->header.geo, cluster);

    assert(!c->untrusted && cluster > 0);
    if (i >= c->reftable_entries || c->reftable[i] == 0)
        return false;
    *ret_offset = q2_reftable_offset(c->reftable[i]);
    assert(*ret_offset != 0 && is_aligned(*ret_offset, c->header.geo.cluster_size));
    return *ret_offset < c->file_size;
}

int check_set_refcount(struct check *c, uint64_t cluster, uint64_t block_offset, uint64_t refcount, uint8_t *buf)
{
    const struct q2_geometry *g = &c->header.geo;
    int rc;

    assert(refcount > 0 && refcount <= g->refcount_max);
    assert(q2_reftable_offset(c->reftable[q2_reftable_index(g, cluster)]) == block_offset);
    assert(q2_refs_use(&c->refs, q2_cluster_index(g, block_offset)) == Q2_USE_REFBLOCK);
    rc = io_pread(c->queue, c->file, buf, g->cluster_size, block_offset);
    if (rc == 0) {
        q2_refcount_set(g, buf, q2_refblock_index(g, cluster), refcount);
        rc = io_pwrite(c->queue, c->file, buf, g->cluster_size, block_offset);
    }
    return rc;
}

/* 1: the entry has a new cluster, *ret_offset. */
static int copy_cluster(struct check *c, const struct q2_mapping *m, uint64_t refs, uint8_t *buf,
                        uint64_t *ret_offset)
{
    const struct q2_geometry *g = &c->header.geo;
    uint64_t cluster = c->file_clusters + c->parted, block_offset;
    int rc;

    assert(m->has_host && is_aligned(m->host_offset, g->cluster_size) && m->host_offset < c->file_size);
    assert(cluster >= c->file_clusters);
    if (!(c->file->caps & BACKEND_GROWS) || check_claimed_past_end(c, cluster))
        return 0;
    if (!check_find_block(c, cluster, &block_offset))
        return 0;
    *ret_offset = cluster << g->cluster_bits;
    rc = io_pread(c->queue, c->file, buf, g->cluster_size, m->host_offset);
    if (rc == 0)
        rc = io_pwrite(c->queue, c->file, buf, g->cluster_size, *ret_offset);
    if (rc == 0)
        rc = check_set_refcount(c, cluster, block_offset, refs, buf);
    if (rc < 0)
        return failed(c, rc, m->host_offset);
    c->parted++;
    return 1;
}

/* 1: it has been met before, in another entry. -ENOMEM. */
static int met_before(struct check *c, uint64_t cluster)
{
    struct q2_refs_added added;
    int rc;

    if (!c->met.pages && q2_refs_init(&c->met, &c->budget, c->refs.clusters) < 0)
        return -ENOMEM;
    rc = q2_refs_add(&c->met, cluster, Q2_USE_DATA, 1, UINT16_MAX, &added);
    return rc < 0 ? rc : added.before != Q2_USE_NONE;
}

/* 1: this entry needs another cluster. -ENOMEM. */
static int must_part(struct check *c, const struct q2_l2_table *table, const struct q2_mapping *m)
{
    const struct q2_geometry *g = &c->header.geo;
    uint64_t cluster = q2_cluster_index(g, m->host_offset);

    if (m->type == Q2_CLUSTER_COMPRESSED || !m->has_host || !is_aligned(m->host_offset, g->cluster_size) ||
        m->host_offset >= c->file_size)
        return 0;
    if (q2_use_is_mixed(q2_refs_use(&c->refs, cluster)))
        return 1;
    /* Snapshots share clusters. More references than a refcount can say are counted as so many. */
    if (table->active_refs == 0 || q2_refs_count(&c->refs, cluster) < min_u64(2, g->refcount_max))
        return 0;
    return met_before(c, cluster);
}

/* ---- how much it is ---------------------------------------------------------------------------------------- */

/*
 * Damage gives a cluster another owner, or two, or fills a table with one entry; and all the disk has one cluster
 * each. What is more than that was made by hand: a table of 64 KiB leads to 512 MiB.
 */
static uint64_t copies_max(const struct check *c)
{
    uint64_t len = min_u64(2 * c->file_size + PART_MORE, c->file_size + c->header.size);

    assert(len >= min_u64(c->file_size, c->header.size));
    return len >> c->header.geo.cluster_bits;
}

static int count_entries(struct check *c, uint64_t i, uint8_t *l2, int rc)
{
    const struct q2_geometry *g = &c->header.geo;

    for (uint64_t k = 0; k < q2_l2_entries(g) && rc == 0; k++) {
        struct q2_l2_entry e = q2_l2_entry_get(g, l2 + q2_l2_entry_offset(g, k));
        struct q2_mapping m = q2_entry_decode(g, e.word, e.bitmap);
        int part;

        if (likely(e.word == 0))
            continue;
        part = must_part(c, &c->l2.tables[i], &m);
        if (part < 0)
            return part;
        assert(part <= 1);
        c->to_part += (uint64_t)part;
    }
    return check_progress(c, 1);
}

int check_part_bounded(struct check *c)
{
    struct check_reads reads = {.count = c->l2.count, .offset = check_l2_offset, .take = count_entries};
    int rc;

    assert(!c->met.pages && c->parted == 0);
    c->to_part = 0;
    if (c->header.geo.data_file)
        return 0;
    rc = check_read_clusters(c, &reads);
    q2_refs_finish(&c->met);
    if (rc == 0 && c->to_part > copies_max(c))
        rc = err_hint(err_set(EFBIG, "%s: %" PRIu64 " entries have their data in clusters of others: with copies "
                              "for all it would be %" PRIu64 " MiB longer", c->file->name, c->to_part,
                              c->to_part << c->header.geo.cluster_bits >> 20),
                      "it was made so, not damaged: do not use it, or restore it from a copy");
    return rc;
}

/* ---- doing it ---------------------------------------------------------------------------------------------- */

static int part_entries(struct check *c, const struct q2_l2_table *table, uint8_t *l2, uint8_t *buf)
{
    const struct q2_geometry *g = &c->header.geo;
    int n = 0;

    for (uint64_t i = 0; i < q2_l2_entries(g); i++) {
        uint8_t *p = l2 + q2_l2_entry_offset(g, i);
        struct q2_l2_entry e = q2_l2_entry_get(g, p);
        struct q2_mapping m = q2_entry_decode(g, e.word, e.bitmap);
        uint64_t host_offset = 0;

        if (likely(e.word == 0))
            continue;
        int rc = must_part(c, table, &m);
        if (rc == 0)
            continue;
        if (rc > 0)
            rc = copy_cluster(c, &m, table->refs, buf, &host_offset);
        if (rc <= 0)
            return rc < 0 ? rc : n;
        check_found(c, QCOW2_FIXED, 1,
                    "guest offset 0x%" PRIx64 " pointed to another's cluster at host offset 0x%" PRIx64
                    ": it has a copy of what is there, at 0x%" PRIx64 "; its own data may be lost",
                    check_guest_offset(c, table, i), m.host_offset, host_offset);
        assert(host_offset > m.host_offset && (host_offset & ~Q2_L2_OFFSET) == 0);
        e.word = (e.word & ~(Q2_L2_OFFSET | Q2_COPIED)) | host_offset | (table->refs == 1 ? Q2_COPIED : 0);
        q2_l2_entry_put(g, p, e);
        n++;
    }
    return n;
}

static int take_l2(struct check *c, uint64_t i, uint8_t *l2, int rc)
{
    const struct q2_l2_table *table = &c->l2.tables[i];
    enum q2_use use = q2_refs_use(&c->refs, q2_cluster_index(&c->header.geo, table->host_offset));
    uint8_t *buf;

    /* Invariant 2. */
    if (rc < 0 || (use != Q2_USE_L2 && use != Q2_USE_L2_AND_DATA) || table->refs > c->header.geo.refcount_max)
        return check_progress(c, 1);
    buf = check_buffer(c, c->header.geo.cluster_size);
    if (!buf)
        return -ENOMEM;
    rc = part_entries(c, table, l2, buf);
    mem_free(buf);
    if (rc > 0) {
        assert(c->parted >= (uint64_t)rc);
        c->fixed = true;
        rc = MUTANT(PART_UNSYNCED) ? 0 : io_pflush(c->queue, c->file); /* invariant 1 */
        if (rc == 0)
            rc = io_pwrite(c->queue, c->file, l2, c->header.geo.cluster_size, table->host_offset);
        if (rc < 0)
            return failed(c, rc, table->host_offset);
    }
    return rc < 0 ? rc : check_progress(c, 1);
}

int check_part_owners(struct check *c)
{
    struct check_reads reads = {.count = c->l2.count, .offset = check_l2_offset, .take = take_l2};
    int rc;

    c->fixed = false;
    assert(!c->untrusted && !c->blind && c->parted == 0 && !c->met.pages);
    if (!c->several || c->header.geo.data_file)
        return 0;
    rc = check_part_bounded(c);
    if (rc == 0)
        rc = check_read_clusters(c, &reads);
    q2_refs_finish(&c->met);
    return rc < 0 ? rc : c->fixed;
}
