/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * L1 and L2 tables.
 *
 * Each L2 table is read once, however many L1 entries point to it (snapshots share tables), and what it says
 * counts as many times. In order of host offsets. So the time is bounded by the size of the file.
 */
#include "engine/base/mem.h"
#include "qcow2/check/check_internal.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "qcow2/format/format.h"

enum { L1_READ = 1 << 20 };

_Static_assert(L1_READ % Q2_L1_ENTRY_SIZE == 0, "in whole entries");

/* ---- L1 -------------------------------------------------------------------------------------------- */

static void check_l1_copied(struct check *c, uint64_t entry, uint32_t index)
{
    bool known, sole = check_sole(c, q2_cluster_index(&c->header.geo, q2_l1_offset(entry)), &known);
    bool copied = (entry & Q2_COPIED) != 0;

    if (!copied)
        check_note_shared(c, q2_cluster_index(&c->header.geo, q2_l1_offset(entry)));
    if (!known || sole == copied)
        return;
    c->flag_faults++;
    check_found(c, QCOW2_CORRUPTION, 1,
                    "L1 entry %" PRIu32 " (0x%016" PRIx64 ") says that its L2 table %s, but the refcount is %s",
                    index, entry, copied ? "is not shared" : "is shared", sole ? "one" : "not one");
}

static int check_l1_entry(struct check *c, uint64_t entry, uint32_t index, bool active, const char *what)
{
    const struct q2_geometry *g = &c->header.geo;
    uint64_t host_offset = q2_l1_offset(entry);
    int rc;

    assert(entry != 0);
    if (q2_l1_reserved(entry))
        check_found(c, QCOW2_CORRUPTION, 1, "%s: entry %" PRIu32 " (0x%016" PRIx64 ") has reserved bits set", what,
                    index, entry);
    if (host_offset == 0) {
        if (entry == Q2_COPIED)
            check_found(c, QCOW2_CORRUPTION, 1, "%s: entry %" PRIu32 " has flags, but no L2 table", what, index);
        return 0;
    }
    if (active)
        check_l1_copied(c, entry, index);
    rc = check_claim(c, host_offset, g->cluster_size, Q2_USE_L2, 1);
    if (rc < 0)
        return rc;
    if (q2_l1_problem(g, entry)) {
        check_found(c, QCOW2_CORRUPTION, 1, "%s: entry %" PRIu32 " (0x%016" PRIx64 "): %s", what, index, entry,
                    q2_l1_problem(g, entry));
        c->lost = true;
        return 0;
    }
    if (host_offset >= c->file_size)
        return 0;
    assert(is_aligned(host_offset, g->cluster_size) && q2_cluster_index(g, host_offset) < c->file_clusters);
    assert(q2_refs_count(&c->refs, q2_cluster_index(g, host_offset)) > 0);
    return q2_l2_set_add(&c->l2, host_offset, active, index);
}

static int read_l1(struct check *c, uint64_t host_offset, uint32_t entries, bool active, const char *what,
                   uint8_t *buf)
{
    uint64_t len = (uint64_t)entries * Q2_L1_ENTRY_SIZE, n;
    int rc = 0;

    for (uint64_t pos = 0; pos < len && rc == 0; pos += n) {
        n = min_u64(len - pos, L1_READ);
        rc = check_read(c, buf, n, host_offset + pos);
        if (rc < 0) {
            check_found(c, QCOW2_ERROR, 1, "%s cannot be read: %s", what, strerror(-rc));
            c->blind = true;
            return 0;
        }
        for (uint64_t i = 0; i < n && rc == 0; i += Q2_L1_ENTRY_SIZE) {
            uint64_t entry = get_be64(buf + i);
            if (entry != 0)
                rc = check_l1_entry(c, entry, (uint32_t)((pos + i) / Q2_L1_ENTRY_SIZE), active, what);
        }
    }
    return rc;
}

int check_l1(struct check *c, uint64_t host_offset, uint32_t entries, bool active, const char *what)
{
    uint64_t len = (uint64_t)entries * Q2_L1_ENTRY_SIZE;
    uint8_t *buf;
    int rc;

    if (entries == 0)
        return 0;
    assert(len <= Q2_MAX_L1_SIZE && is_aligned(host_offset, c->header.geo.cluster_size));
    assert(!active || c->l2.count == 0); /* it is the first */
    rc = check_claim(c, host_offset, len, Q2_USE_L1, 1);
    if (rc < 0 || !check_table_bytes(c, len, what))
        return rc;
    buf = check_buffer(c, min_u64(len, L1_READ));
    if (!buf)
        return -ENOMEM;
    rc = read_l1(c, host_offset, entries, active, what, buf);
    mem_free(buf);
    return rc;
}

/* ---- L2 -------------------------------------------------------------------------------------------- */

struct l2_walk {
    struct check             *c;
    const struct q2_l2_table *table;
    uint64_t                  index;
    struct q2_l2_entry        entry;
    uint64_t                  contiguous; /* host offset after the last cluster met; 0: none yet */
};

uint64_t check_guest_offset(const struct check *c, const struct q2_l2_table *table, uint64_t index)
{
    const struct q2_geometry *g = &c->header.geo;

    assert(index < q2_l2_entries(g) && table->l1_index < Q2_MAX_L1_SIZE / Q2_L1_ENTRY_SIZE);
    return ((uint64_t)table->l1_index << (g->cluster_bits + g->l2_bits)) + (index << g->cluster_bits);
}

static uint64_t guest_offset_of(const struct l2_walk *w)
{
    return check_guest_offset(w->c, w->table, w->index);
}

/* As often as L1 entries lead to it. */
static void bad_entry(const struct l2_walk *w, uint64_t n, const char *problem)
{
    check_found(w->c, QCOW2_CORRUPTION, n, "L2 entry 0x%016" PRIx64 " of guest offset 0x%" PRIx64 "%s: %s",
                w->entry.word, guest_offset_of(w), w->table->active_refs ? "" : " in a snapshot", problem);
}

/* One that does not say, or not for sure, where its cluster is. */
static void lost_entry(const struct l2_walk *w, uint64_t n, const char *problem)
{
    w->c->lost = true;
    bad_entry(w, n, problem);
}

static int check_compressed_cluster(struct l2_walk *w, const struct q2_mapping *m)
{
    struct check *c = w->c;
    const struct q2_geometry *g = &c->header.geo;
    uint64_t n = w->table->refs;
    int rc;

    assert(m->type == Q2_CLUSTER_COMPRESSED && !m->has_host && m->compressed_len > 0);
    if (m->copied)
        bad_entry(w, n, "a compressed cluster has the flag of one that is not shared");
    if (g->data_file) {
        lost_entry(w, n, "compressed cluster in an image with an external data file");
        return 0;
    }
    /* It can be read all the same: what it leads to is in use. */
    if (g->extended_l2 && w->entry.bitmap != 0)
        bad_entry(w, n, "a compressed cluster has a subcluster bitmap");
    if (w->entry.word & ((1ull << g->compressed_shift) - 1) & ~Q2_MAX_HOST_OFFSET) {
        lost_entry(w, n, "reserved bits are set in the offset of a compressed cluster");
        return 0;
    }
    rc = check_claim(c, m->host_offset, m->compressed_len, Q2_USE_COMPRESSED, n);
    c->res.allocated_clusters += w->table->active_refs;
    c->res.compressed_clusters += w->table->active_refs;
    c->res.fragmented_clusters += w->table->active_refs; /* as QEMU sees it: they begin anywhere */
    return rc;
}

static void check_copied(struct l2_walk *w, const struct q2_mapping *m)
{
    const struct q2_geometry *g = &w->c->header.geo;
    bool known = true, sole = true; /* an external data file has no refcounts: each cluster is its own */

    assert(w->table->active_refs > 0); /* the flags of others mean nothing */
    if (!g->data_file)
        sole = check_sole(w->c, q2_cluster_index(g, m->host_offset), &known);
    if (!g->data_file && !m->copied)
        check_note_shared(w->c, q2_cluster_index(g, m->host_offset));
    if (!known || sole == m->copied)
        return;
    w->c->flag_faults += w->table->active_refs;
    bad_entry(w, w->table->active_refs,
                  m->copied ? "flagged as not shared, but the refcount is not one"
                            : "not flagged as not shared, but the refcount is one");
}

static int check_cluster(struct l2_walk *w, const struct q2_mapping *m)
{
    struct check *c = w->c;
    const struct q2_geometry *g = &c->header.geo;
    uint64_t n = w->table->refs;

    assert(m->has_host && m->type != Q2_CLUSTER_COMPRESSED);
    if ((uint32_t)m->bitmap & (uint32_t)(m->bitmap >> 32))
        bad_entry(w, n, "a subcluster is both allocated and zero");
    if (!is_aligned(m->host_offset, g->cluster_size))
        lost_entry(w, n, "offset is not aligned to a cluster");
    else if (g->data_file && m->host_offset != guest_offset_of(w))
        bad_entry(w, n, "offset in the external data file differs from the guest offset");
    if (w->table->active_refs > 0) {
        c->res.allocated_clusters += w->table->active_refs;
        if (w->contiguous != 0 && m->host_offset != w->contiguous)
            c->res.fragmented_clusters += w->table->active_refs;
        w->contiguous = m->host_offset + g->cluster_size;
        check_copied(w, m);
    }
    return g->data_file ? 0 : check_claim(c, m->host_offset, g->cluster_size, Q2_USE_DATA, n);
}

static int check_l2_entry(struct l2_walk *w)
{
    const struct q2_geometry *g = &w->c->header.geo;
    struct q2_mapping m = q2_entry_decode(g, w->entry.word, w->entry.bitmap);

    if (m.type == Q2_CLUSTER_COMPRESSED)
        return check_compressed_cluster(w, &m);
    if (w->entry.word & Q2_L2_RESERVED)
        bad_entry(w, w->table->refs, "reserved bits are set");
    if ((w->entry.word & Q2_ZERO) && (g->extended_l2 || g->version < 3))
        bad_entry(w, w->table->refs, g->extended_l2 ? "zero flag in an image with subclusters"
                                                    : "zero flag in a version 2 image");
    if (m.has_host)
        return check_cluster(w, &m);
    if ((uint32_t)m.bitmap != 0)
        bad_entry(w, w->table->refs, "subclusters are allocated, but the cluster has no offset");
    return 0;
}

static uint64_t l2_offset(struct check *c, uint64_t i)
{
    assert(i < c->l2.count && (i == 0 || c->l2.tables[i - 1].host_offset < c->l2.tables[i].host_offset));
    return c->l2.tables[i].host_offset;
}

/* The first entry from `index` on that is not all zeros, since most are in many images; or how many there are. */
static uint64_t next_entry(const struct q2_geometry *g, const uint8_t *table, uint64_t index)
{
    enum { PIECE = 64 };
    const uint8_t *end = table + g->cluster_size, *p = table + q2_l2_entry_offset(g, index);
    uint64_t word[PIECE / 8], any;

    if (p < end && get_be64(p) != 0)
        return index;
    while (end - p >= PIECE) {
        memcpy(word, p, PIECE);
        any = 0;
        for (unsigned i = 0; i < PIECE / 8; i++)
            any |= word[i];
        if (any != 0)
            break;
        p += PIECE;
    }
    while (p < end && get_be64(p) == 0 && (!g->extended_l2 || get_be64(p + 8) == 0))
        p += g->l2_entry_size;
    return (uint64_t)(p - table) / g->l2_entry_size;
}

static int take_l2(struct check *c, uint64_t i, uint8_t *buf, int rc)
{
    const struct q2_geometry *g = &c->header.geo;
    struct l2_walk w = {.c = c, .table = &c->l2.tables[i]};

    assert(w.table->refs > 0 && w.table->active_refs <= w.table->refs);
    assert(buf != NULL); /* each has a place to be read from */
    if (rc < 0) {
        check_found(c, QCOW2_ERROR, 1, "the L2 table at host offset 0x%" PRIx64 " cannot be read: %s",
                    w.table->host_offset, strerror(-rc));
        c->blind = true;
        return check_progress(c, 1);
    }
    for (w.index = 0; (w.index = next_entry(g, buf, w.index)) < q2_l2_entries(g); w.index++) {
        w.entry = q2_l2_entry_get(g, buf + q2_l2_entry_offset(g, w.index));
        rc = check_l2_entry(&w);
        if (rc < 0)
            return rc;
    }
    return check_progress(c, 1);
}

int check_l2_tables(struct check *c)
{
    struct check_reads reads = {.offset = l2_offset, .take = take_l2};

    q2_l2_set_sort(&c->l2);
    reads.count = c->l2.count;
    return check_read_clusters(c, &reads);
}
