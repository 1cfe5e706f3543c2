/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Refcount table and blocks: which refcounts are one (that is what the flags in L1 and L2 entries say), the
 * references that the blocks themselves are, and at the end the comparison of each refcount with the references
 * found. Refcounts of clusters past the end of the file are counted apart: they cost no space, and QEMU says
 * nothing about them; but those clusters are not given out any more, and leak once the file has grown over them.
 * The blocks are read twice rather than kept: they are 1/32768 of an image.
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

static uint64_t block_unreadable[1]; /* what `sole` points to when refcounts are not known; never looked into */

/* Where block `i` can be read; 0: nowhere, and its refcounts are 0 unless the entry is misaligned. */
static uint64_t block_offset(struct check *c, uint64_t i)
{
    const struct q2_geometry *g = &c->header.geo;
    uint64_t offset = q2_reftable_offset(c->reftable[i]);

    assert(i < c->sole_count && c->sole_count <= c->reftable_entries);
    return q2_reftable_problem(g, c->reftable[i]) || offset >= c->file_size ? 0 : offset;
}

/* ---- which refcounts are one --------------------------------------------------------------------------- */

static int take_sole(struct check *c, uint64_t i, uint8_t *buf, int rc)
{
    const struct q2_geometry *g = &c->header.geo;
    uint64_t n = q2_refblock_entries(g), *bits = NULL;

    assert(i < c->sole_count && !c->sole[i]);
    if (rc < 0 || q2_reftable_problem(g, c->reftable[i])) {
        c->sole[i] = block_unreadable;
        c->untrusted = true;
        return check_progress(c, 1);
    }
    for (uint64_t k = 0; buf && (k = q2_refcount_skip_zeros(g, buf, k, n)) < n; k++) {
        if (q2_refcount_get(g, buf, k) != 1)
            continue;
        if (!bits)
            bits = q2_budget_alloc(&c->budget, div_up(n, 64), sizeof *bits);
        if (!bits)
            return -ENOMEM;
        bits[k / 64] |= 1ull << (k % 64);
    }
    c->sole[i] = bits;
    return check_progress(c, 1);
}

/* As the refcounts of the file have it. */
static bool is_sole(const struct check *c, uint64_t cluster, bool *ret_known)
{
    const struct q2_geometry *g = &c->header.geo;
    uint64_t i = q2_reftable_index(g, cluster), k = q2_refblock_index(g, cluster);

    *ret_known = !c->header.reftable_problem;
    if (!*ret_known || i >= c->reftable_entries || c->reftable[i] == 0)
        return false;
    if (i >= c->sole_count || c->sole[i] == block_unreadable) {
        *ret_known = false;
        return false;
    }
    return c->sole[i] && (c->sole[i][k / 64] >> (k % 64) & 1);
}

bool check_sole(const struct check *c, uint64_t cluster, bool *ret_known)
{
    bool sole = is_sole(c, cluster, ret_known);

    *ret_known &= !c->counting;
    return sole;
}

void check_note_shared(struct check *c, uint64_t cluster)
{
    struct q2_refs_added added;
    bool known;

    if (c->counting && cluster < c->said_shared.clusters && !is_sole(c, cluster, &known) &&
        q2_refs_add(&c->said_shared, cluster, Q2_USE_DATA, 1, UINT16_MAX, &added) < 0)
        c->said_more = true;
}

static int read_reftable(struct check *c)
{
    uint64_t n = q2_reftable_entries(&c->header.geo, c->header.reftable_clusters);
    int rc;

    assert(!c->header.reftable_problem && n > 0 && n * Q2_REFTABLE_ENTRY_SIZE <= Q2_MAX_REFTABLE_SIZE);
    c->reftable = check_buffer(c, n * Q2_REFTABLE_ENTRY_SIZE);
    if (!c->reftable)
        return -ENOMEM;
    rc = check_read(c, c->reftable, n * Q2_REFTABLE_ENTRY_SIZE, c->header.reftable_offset);
    if (rc < 0)
        return err_set(rc, "%s: the refcount table cannot be read: %s", c->file->name, strerror(-rc));
    for (uint64_t i = 0; i < n; i++) {
        c->reftable[i] = get_be64(&c->reftable[i]);
        if (c->reftable[i] != 0)
            c->reftable_entries = i + 1;
    }
    return 0;
}

int check_load_refcounts(struct check *c)
{
    struct check_reads reads = {.offset = block_offset, .take = take_sole};
    int rc;

    assert(!c->reftable && !c->sole); /* once */
    if (c->header.reftable_problem) {
        check_found(c, QCOW2_CORRUPTION, 1, "%s", c->header.reftable_problem);
        c->untrusted = true;
        return 0;
    }
    rc = read_reftable(c);
    if (rc < 0)
        return rc;
    /* Past the end of the file nothing can be right, whatever the refcounts say. */
    c->sole_count = min_u64(c->reftable_entries, q2_reftable_index(&c->header.geo, c->file_clusters) + 1);
    c->sole = q2_budget_alloc(&c->budget, c->sole_count + 1, sizeof *c->sole);
    if (!c->sole)
        return -ENOMEM;
    c->progress_total = 2 * c->sole_count + c->header.l1_entries;
    reads.count = c->sole_count;
    return check_read_clusters(c, &reads);
}

void check_forget_refcounts(struct check *c)
{
    uint64_t words = div_up(1ull << c->header.geo.refblock_bits, 64);

    for (uint64_t i = 0; c->sole && i < c->sole_count; i++)
        if (c->sole[i] != block_unreadable)
            q2_budget_free(&c->budget, c->sole[i], words, sizeof **c->sole);
    q2_budget_free(&c->budget, c->sole, c->sole_count + 1, sizeof *c->sole);
    mem_free(c->reftable);
}

/* ---- the tables' own references ------------------------------------------------------------------------ */

static int check_reftable_entry(struct check *c, uint64_t i)
{
    const struct q2_geometry *g = &c->header.geo;
    uint64_t entry = c->reftable[i], offset = q2_reftable_offset(entry), count;
    const char *problem = q2_reftable_problem(g, entry);
    bool taken;
    int rc;

    if (q2_reftable_reserved(entry))
        problem = "reserved bits are set";
    else if (!problem && offset >= c->file_clusters << g->cluster_bits)
        problem = "the block is past the end of the file";
    if (problem) {
        check_found(c, QCOW2_CORRUPTION, 1, "refcount table entry %" PRIu64 " (0x%016" PRIx64 "): %s", i, entry,
                    problem);
        c->untrusted = true;
        return 0;
    }
    assert(offset != 0 && is_aligned(offset, g->cluster_size) && offset < c->file_size);
    taken = q2_refs_count(&c->refs, q2_cluster_index(g, offset)) > 0;
    rc = check_claim(c, offset, g->cluster_size, Q2_USE_REFBLOCK, 1);
    if (rc < 0)
        return rc;
    c->untrusted |= taken;
    count = q2_refs_count(&c->refs, q2_cluster_index(g, offset));
    assert(count > 0);
    if (count <= 1) /* refcounts of one bit cannot say more: check_claim() reported it */
        return 0;
    check_found(c, QCOW2_CORRUPTION, 1,
                    "refcount block %" PRIu64 " at host offset 0x%" PRIx64 " has %" PRIu64 " references", i,
                    offset, count);
    return 0;
}

int check_refcount_tables(struct check *c)
{
    const struct q2_geometry *g = &c->header.geo;
    uint64_t first = q2_cluster_index(g, c->header.reftable_offset);
    uint64_t len = (uint64_t)c->header.reftable_clusters << c->header.geo.cluster_bits;
    int rc = len > 0 ? check_claim(c, c->header.reftable_offset, len, Q2_USE_REFTABLE, 1) : 0;

    assert(len > 0 || (c->header.reftable_problem && c->untrusted && c->reftable_entries == 0));
    for (uint64_t i = 0; i < c->reftable_entries && rc == 0; i++)
        if (c->reftable[i] != 0)
            rc = check_reftable_entry(c, i);
    for (uint64_t i = first; i < first + c->header.reftable_clusters && rc == 0; i++)
        if (i >= c->refs.clusters || q2_refs_use(&c->refs, i) != Q2_USE_REFTABLE)
            c->untrusted = true;
    return rc;
}

/* ---- comparison ----------------------------------------------------------------------------------------- */

static uint64_t clusters_to_compare(const struct check *c)
{
    return c->file_clusters + (q2_refs_count(&c->refs, c->file_clusters) > 0);
}

static void compare_cluster(struct check *c, uint64_t cluster, uint64_t refcount, uint64_t refs)
{
    assert(refcount != refs || q2_use_is_mixed(q2_refs_use(&c->refs, cluster)));
    assert(refs <= c->header.geo.refcount_max);
    if (refcount < refs) {
        c->several |= refcount == 1;
        check_found(c, QCOW2_CORRUPTION, 1, "cluster %" PRIu64 " refcount=%" PRIu64 " reference=%" PRIu64 " (%s)",
                    cluster, refcount, refs, q2_use_name(q2_refs_use(&c->refs, cluster)));
        return;
    }
    if (refcount > refs && !c->blind)
        check_found(c, QCOW2_LEAK, 1, "cluster %" PRIu64 " refcount=%" PRIu64 " reference=%" PRIu64, cluster,
                    refcount, refs);
    /* With a refcount to match, the numbers look right and two owners overwrite each other all the same. */
    if (q2_use_is_mixed(q2_refs_use(&c->refs, cluster)))
        check_found(c, QCOW2_CORRUPTION, 1, "cluster %" PRIu64 " is used for several things", cluster);
}

static void compare_block(struct check *c, uint64_t first, uint64_t end, const uint8_t *block)
{
    const struct q2_geometry *g = &c->header.geo;

    assert(first < end && end - first <= q2_refblock_entries(g) && end <= c->refs.clusters);
    for (uint64_t i = first; i < end; i++) {
        uint64_t refcount = block ? q2_refcount_get(g, block, i - first) : 0;
        uint64_t refs = q2_refs_count(&c->refs, i);

        if (refcount == 0 && refs == 0)
            continue;
        c->untrusted |= !block;
        c->res.image_end_offset = (i + 1) << g->cluster_bits;
        if (unlikely(refcount != refs || q2_use_is_mixed(q2_refs_use(&c->refs, i))))
            compare_cluster(c, i, refcount, refs);
    }
}

uint64_t check_refs_count(const struct check *c, uint64_t cluster)
{
    return cluster < c->refs.clusters ? q2_refs_count(&c->refs, cluster) : 0;
}

bool check_tail_known(const struct check *c)
{
    /* A damaged entry may mean any of them. */
    return c->res.corruptions == 0 && c->res.check_errors == 0 && !c->blind && !c->lost;
}

static void count_tail(struct check *c, uint64_t first, uint64_t end, const uint8_t *block)
{
    const struct q2_geometry *g = &c->header.geo;
    uint64_t k = max_u64(first, clusters_to_compare(c)) - first, n = end - first;

    assert(n == q2_refblock_entries(g));
    for (; k < n && (k = q2_refcount_skip_zeros(g, block, k, n)) < n; k++)
        c->tail_leaks += q2_refcount_get(g, block, k) > check_refs_count(c, first + k);
}

static int take_compare(struct check *c, uint64_t i, uint8_t *buf, int rc)
{
    const struct q2_geometry *g = &c->header.geo;
    uint64_t first = i << g->refblock_bits;
    uint64_t end = min_u64(first + q2_refblock_entries(g), clusters_to_compare(c));

    assert(first < end);
    if (i < c->sole_count && (rc < 0 || c->sole[i] == block_unreadable)) {
        check_found(c, QCOW2_ERROR, end - first,
                    "the refcounts of clusters %" PRIu64 " to %" PRIu64 " cannot be read%s%s", first, end - 1,
                    rc < 0 ? ": " : "", rc < 0 ? strerror(-rc) : "");
        return check_progress(c, 1);
    }
    if (buf || !q2_refs_none(&c->refs, first, end))
        compare_block(c, first, end, buf);
    if (buf)
        count_tail(c, first, first + q2_refblock_entries(g), buf);
    return check_progress(c, 1);
}

/* There are no refcounts, which has been said: what is used, and how. */
static int compare_with_nothing(struct check *c)
{
    assert(c->untrusted && c->sole_count == 0 && c->reftable_entries == 0);
    c->res.image_end_offset = q2_refs_end(&c->refs) << c->header.geo.cluster_bits;
    assert(c->res.image_end_offset > 0); /* the header is there */
    for (uint64_t i = 0; (i = q2_refs_next(&c->refs, i)) < c->refs.clusters; i++)
        if (q2_use_is_mixed(q2_refs_use(&c->refs, i)))
            check_found(c, QCOW2_CORRUPTION, 1, "cluster %" PRIu64 " is used for several things", i);
    return 0;
}

static uint64_t compare_offset(struct check *c, uint64_t i)
{
    return i < c->sole_count && c->sole[i] != block_unreadable ? block_offset(c, i) : 0;
}

int check_compare(struct check *c)
{
    struct check_reads reads = {.offset = compare_offset, .take = take_compare};

    if (c->header.reftable_problem)
        return compare_with_nothing(c);
    c->res.image_end_offset = c->header.geo.cluster_size;
    reads.count = div_up(clusters_to_compare(c), q2_refblock_entries(&c->header.geo));
    return check_read_clusters(c, &reads);
}
