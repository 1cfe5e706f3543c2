/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What repair changes in place, each after a complete count of references: entries of L1 and L2 tables, refcounts,
 * COPIED flags.
 *
 * Happy path: sweep over the tables once more, change what is wrong in the buffer, write the buffer back.
 * Failure modes: a table that cannot be read is left out; a failed write ends it, with a text. Each word written
 * is right by itself, so that a torn write, and one that never came, leave the rest to the next repair.
 *
 * Invariants.
 *  1. A table is written only when its clusters are used as nothing else, and as one table only.
 *  2. No entry is changed so that it reads differently: what cannot be followed stays as it is, flags and all.
 *  3. Refcounts are written only where the refcount structure is sound.
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

enum { L1_PIECE = 1 << 20 };

_Static_assert(L1_PIECE % Q2_L1_ENTRY_SIZE == 0, "in whole entries");

static int write_back(struct check *c, const void *buf, uint64_t len, uint64_t host_offset, const char *what)
{
    int rc;

    assert(!c->file->read_only && len > 0 && host_offset >= c->header.geo.cluster_size); /* not over the header */
    rc = io_pwrite(c->queue, c->file, buf, len, host_offset);
    if (rc < 0)
        return err_set(rc, "%s: the repair of %s at host offset 0x%" PRIx64 " cannot be written: %s",
                       c->file->name, what, host_offset, strerror(-rc));
    c->fixed = true;
    return 0;
}

/* Is the range used for this and nothing else? Invariant 1. */
static bool used_for(const struct check *c, uint64_t host_offset, uint64_t len, enum q2_use use)
{
    const struct q2_geometry *g = &c->header.geo;

    assert(len > 0 && is_aligned(host_offset, g->cluster_size));
    for (uint64_t i = q2_cluster_index(g, host_offset); i < q2_cluster_index(g, host_offset + len - 1) + 1; i++)
        if (i >= c->refs.clusters || q2_refs_use(&c->refs, i) != use)
            return false;
    return true;
}

/* ---- refcounts ------------------------------------------------------------------------------------------ */

static bool fix_block(struct check *c, uint64_t first, uint64_t end, uint8_t *block)
{
    const struct q2_geometry *g = &c->header.geo;
    bool changed = false;

    assert(first < end && end - first <= q2_refblock_entries(g));
    for (uint64_t i = first; i < end; i++) {
        uint64_t refcount = q2_refcount_get(g, block, i - first), refs = check_refs_count(c, i);
        bool wanted = refcount < refs ? c->raise : c->lower;

        /* Two owners that are still together need more than a higher count. */
        if (refcount < refs && q2_use_is_mixed(q2_refs_use(&c->refs, i)))
            wanted = false;
        if (refcount == refs || !wanted)
            continue;
        check_found(c, QCOW2_FIXED, 1, "cluster %" PRIu64 " refcount=%" PRIu64 " reference=%" PRIu64, i, refcount,
                    refs);
        assert(refs > 0 || i > 0); /* the header stays */
        q2_refcount_set(g, block, i - first, refs);
        if (refs == 0)
            q2_spans_add(&c->freed, i);
        changed = true;
    }
    return changed;
}

static uint64_t block_offset(struct check *c, uint64_t i)
{
    uint64_t host_offset = q2_reftable_offset(c->reftable[i]);

    assert(!q2_reftable_problem(&c->header.geo, c->reftable[i]) && host_offset < c->file_size);
    return host_offset;
}

static int take_block(struct check *c, uint64_t i, uint8_t *buf, int rc)
{
    const struct q2_geometry *g = &c->header.geo;
    uint64_t first = i << g->refblock_bits;
    uint64_t end = first + q2_refblock_entries(g);

    if (!check_tail_known(c))
        end = min_u64(end, c->refs.clusters);
    if (rc == 0 && buf && first < end && fix_block(c, first, end, buf)) {
        assert(used_for(c, block_offset(c, i), g->cluster_size, Q2_USE_REFBLOCK));
        rc = write_back(c, buf, g->cluster_size, block_offset(c, i), "a refcount block");
        if (rc < 0)
            return rc;
    }
    return check_progress(c, 1);
}

int check_fix_refcounts(struct check *c, bool raise, bool lower)
{
    struct check_reads reads = {.count = c->sole_count, .offset = block_offset, .take = take_block};
    int rc;

    assert(!c->untrusted && !(lower && (c->blind || c->lost))); /* invariant 3 */
    assert(!c->counting && c->freed.count == 0);
    if (!raise && !lower)
        return 0;
    c->raise = raise;
    c->lower = lower;
    c->fixed = false;
    rc = check_read_clusters(c, &reads);
    return rc < 0 ? rc : c->fixed;
}

/* ---- L1 ------------------------------------------------------------------------------------------------- */

static bool can_follow(const struct check *c, uint64_t host_offset)
{
    return is_aligned(host_offset, c->header.geo.cluster_size) && host_offset < c->file_size;
}

/* What the entry should be. */
typedef uint64_t l1_fix_fn(const struct check *c, uint64_t entry);

static uint64_t l1_without_reserved(const struct check *c, uint64_t entry)
{
    entry &= ~Q2_L1_RESERVED;
    return entry == Q2_COPIED ? 0 : entry;
}

static uint64_t l1_with_right_flag(const struct check *c, uint64_t entry)
{
    bool known, sole = check_sole(c, q2_cluster_index(&c->header.geo, q2_l1_offset(entry)), &known);

    known = known && q2_l1_offset(entry) != 0 && can_follow(c, q2_l1_offset(entry));
    return known ? (entry & ~Q2_COPIED) | (sole ? Q2_COPIED : 0) : entry;
}

/*
 * Does it lead to the header, or to the L1 table as long as the disk needs it? There all else begins. Where other
 * tables are is not as sure: what calls an L2 table a refcount block may be what is wrong.
 */
static uint64_t l1_without_itself(const struct check *c, uint64_t entry)
{
    const struct q2_geometry *g = &c->header.geo;
    uint64_t len = q2_cluster_up(g, q2_l1_entries(g, c->header.size) * Q2_L1_ENTRY_SIZE), at = q2_l1_offset(entry);
    bool itself = at >= c->header.l1_offset && at - c->header.l1_offset < len;

    return at != 0 && (at < g->cluster_size || itself) ? 0 : entry;
}

static bool fix_l1_piece(struct check *c, l1_fix_fn *fix, uint64_t index, uint8_t *buf, uint64_t len)
{
    bool changed = false;

    assert(len > 0 && is_aligned(len, Q2_L1_ENTRY_SIZE));
    for (uint64_t i = 0; i < len; i += Q2_L1_ENTRY_SIZE) {
        uint64_t entry = get_be64(buf + i), better = fix(c, entry);

        assert(better == 0 || q2_l1_offset(better) == q2_l1_offset(entry)); /* invariant 2 */
        if (better == entry)
            continue;
        check_found(c, QCOW2_FIXED, 1, "L1 entry %" PRIu64 ": 0x%016" PRIx64 ", was 0x%016" PRIx64,
                    index + i / Q2_L1_ENTRY_SIZE, better, entry);
        put_be64(buf + i, better);
        c->changes++;
        changed = true;
    }
    return changed;
}

static int sweep_l1(struct check *c, l1_fix_fn *fix)
{
    uint64_t at = c->header.l1_offset, len = (uint64_t)c->header.l1_entries * Q2_L1_ENTRY_SIZE, n;
    uint8_t *buf;
    int rc = 0;

    /* An entry that calls the table an L2 table is no reason: invariant 1 is for what may be others'. */
    if (len == 0 || (fix != l1_without_itself && !used_for(c, at, len, Q2_USE_L1)))
        return 0;
    buf = check_buffer(c, min_u64(len, L1_PIECE));
    if (!buf)
        return -ENOMEM;
    for (uint64_t pos = 0; pos < len && rc == 0; pos += n) {
        n = min_u64(len - pos, L1_PIECE);
        if (check_read(c, buf, n, at + pos) == 0 && fix_l1_piece(c, fix, pos / Q2_L1_ENTRY_SIZE, buf, n))
            rc = write_back(c, buf, n, at + pos, "the L1 table");
    }
    mem_free(buf);
    return rc;
}

/* ---- L2 ------------------------------------------------------------------------------------------------- */

/* What the entry of this table should be. */
typedef struct q2_l2_entry l2_fix_fn(const struct check *c, const struct q2_l2_table *table, struct q2_l2_entry e);

static struct q2_l2_entry without_host(const struct check *c, const struct q2_mapping *m, struct q2_l2_entry e)
{
    const struct q2_geometry *g = &c->header.geo;

    assert(m->has_host && m->type != Q2_CLUSTER_COMPRESSED && !g->data_file);
    if (g->extended_l2)
        return (struct q2_l2_entry){.bitmap = q2_bitmap_set_zero(e.bitmap, (uint32_t)m->bitmap)};
    if (g->version >= 3)
        return (struct q2_l2_entry){.word = Q2_ZERO};
    /* Version 2 has no zero clusters; where there is no backing file, nothing reads as zeros too. */
    return c->header.backing_file ? e : (struct q2_l2_entry){.word = 0};
}

static struct q2_l2_entry l2_mended(const struct check *c, const struct q2_l2_table *table, struct q2_l2_entry e)
{
    const struct q2_geometry *g = &c->header.geo;
    struct q2_mapping m = q2_entry_decode(g, e.word, e.bitmap);
    uint32_t both;
    bool no_data;

    if (m.type == Q2_CLUSTER_COMPRESSED) {
        if (!g->data_file)
            e = (struct q2_l2_entry){.word = e.word & ~Q2_COPIED};
        return e;
    }
    /* Version 2 has no such flag. An image that was version 3 has: there it means zeros. */
    e.word &= ~Q2_L2_RESERVED & ~(g->extended_l2 || (g->version < 3 && !c->maybe_v3) ? Q2_ZERO : 0);
    m = q2_entry_decode(g, e.word, e.bitmap);
    both = (uint32_t)m.bitmap & (uint32_t)(m.bitmap >> 32);
    if (!m.has_host || both != 0 || g->data_file || (g->version < 3 && e.word & Q2_ZERO))
        return e;
    /* Reads as zeros: the offset says nothing, or leads behind the end of the file. Invariant 2. */
    no_data = g->extended_l2 ? (uint32_t)m.bitmap == 0 : m.type == Q2_CLUSTER_ZERO_ALLOC;
    if (is_aligned(m.host_offset, g->cluster_size) ? m.host_offset >= c->file_size : no_data)
        return without_host(c, &m, e);
    return e;
}

static struct q2_l2_entry l2_with_right_flag(const struct check *c, const struct q2_l2_table *table,
                                          struct q2_l2_entry e)
{
    const struct q2_geometry *g = &c->header.geo;
    struct q2_mapping m = q2_entry_decode(g, e.word, e.bitmap);
    bool known = true, sole = true;

    if (m.type == Q2_CLUSTER_COMPRESSED || !m.has_host || table->active_refs == 0)
        return e;
    /* In an external data file the flag also tells that cluster 0 is there at all. */
    if (!g->data_file)
        sole = check_sole(c, q2_cluster_index(g, m.host_offset), &known);
    if (known && (g->data_file || can_follow(c, m.host_offset)))
        e.word = (e.word & ~Q2_COPIED) | (sole ? Q2_COPIED : 0);
    return e;
}

static bool fix_l2_table(struct check *c, l2_fix_fn *fix, const struct q2_l2_table *table, uint8_t *buf)
{
    const struct q2_geometry *g = &c->header.geo;
    bool changed = false;

    assert(table->refs > 0 && table->active_refs <= table->refs);
    for (uint64_t i = 0; i < q2_l2_entries(g); i++) {
        uint8_t *p = buf + q2_l2_entry_offset(g, i);
        struct q2_l2_entry is = q2_l2_entry_get(g, p), better;

        if (likely(is.word == 0))
            continue;
        better = fix(c, table, is);
        /* Invariant 2: it leads where it did, or nowhere; and whether it is compressed stays. */
        assert(((better.word ^ is.word) & Q2_L2_OFFSET) == 0 || (better.word & Q2_L2_OFFSET) == 0);
        assert(((better.word ^ is.word) & Q2_COMPRESSED) == 0);
        if (likely(q2_l2_entry_same(better, is)))
            continue;
        check_found(c, QCOW2_FIXED, 1,
                    "L2 entry of guest offset 0x%" PRIx64 "%s: 0x%016" PRIx64 ", was 0x%016" PRIx64,
                    check_guest_offset(c, table, i), table->active_refs ? "" : " in a snapshot", better.word,
                    is.word);
        q2_l2_entry_put(g, p, better);
        c->changes++;
        changed = true;
    }
    return changed;
}

static int take_l2(struct check *c, uint64_t i, uint8_t *buf, int rc, l2_fix_fn *fix)
{
    const struct q2_l2_table *table = &c->l2.tables[i];
    uint64_t len = c->header.geo.cluster_size;

    if (rc == 0 && used_for(c, table->host_offset, len, Q2_USE_L2) && fix_l2_table(c, fix, table, buf)) {
        rc = write_back(c, buf, len, table->host_offset, "the L2 table");
        if (rc < 0)
            return rc;
    }
    return check_progress(c, 1);
}

static int take_mend(struct check *c, uint64_t i, uint8_t *buf, int rc)
{
    return take_l2(c, i, buf, rc, l2_mended);
}

static int take_flags(struct check *c, uint64_t i, uint8_t *buf, int rc)
{
    return take_l2(c, i, buf, rc, l2_with_right_flag);
}

static int sweep(struct check *c, l1_fix_fn *l1_fix,
                 int (*take)(struct check *c, uint64_t i, uint8_t *buf, int rc))
{
    struct check_reads reads = {.count = c->l2.count, .offset = check_l2_offset, .take = take};
    int rc;

    c->fixed = false;
    c->changes = 0;
    rc = sweep_l1(c, l1_fix);
    if (rc == 0)
        rc = check_read_clusters(c, &reads);
    return rc < 0 ? rc : c->fixed;
}

int check_drop_entries(struct check *c)
{
    int rc;

    c->fixed = false;
    c->changes = 0;
    rc = sweep_l1(c, l1_without_itself);
    return rc < 0 ? rc : c->fixed;
}

bool check_leads_to_itself(const struct check *c)
{
    uint64_t len = (uint64_t)c->header.l1_entries * Q2_L1_ENTRY_SIZE;

    assert(!c->counting && q2_refs_count(&c->refs, 0) > 0);
    return !used_for(c, 0, 1, Q2_USE_HEADER) || (len > 0 && !used_for(c, c->header.l1_offset, len, Q2_USE_L1));
}

int check_fix_entries(struct check *c)
{
    return sweep(c, l1_without_reserved, take_mend);
}

int check_fix_flags(struct check *c)
{
    assert(!c->untrusted); /* they say what refcounts say */
    return sweep(c, l1_with_right_flag, take_flags);
}
