/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Rebuilding the refcounts of an image.
 *
 * Happy path: count what refers to each cluster, the refcount structure itself left out; find free clusters for a
 * new table and new blocks, and for what the caller wants to have besides, never any that the old ones use; write
 * blocks and table, flush. Once the caller has switched the header to the new table, the old structure is free
 * space.
 * Failure modes: a table cannot be read: what it refers to is not known, so nothing is written. A count that the
 * new refcounts are too narrow for: likewise. No space, no memory, a failed read or write: the old table is still
 * the one that counts, and the file is no longer than it was.
 *
 * Invariants.
 *  1. Nothing is written but clusters that neither the image nor the old refcount structure uses.
 *  2. Blocks and table are durable before anybody knows where they are.
 *  3. Where a damaged entry may have referred to it, a cluster with a refcount keeps one; and when the header does
 *     not say where refcounts are, each cluster of the file.
 *  4. Where the image is sound no refcount becomes one of a cluster that its entry says is shared: entries are not
 *     changed here, and that would be damage, while a refcount that is too high is a leak.
 */
#include "qcow2/check/rebuild.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/error.h"
#include "engine/base/mem.h"
#include "qcow2/check/check_internal.h"
#include "qcow2/check/more.h"
#include "qcow2/format/format.h"
#include "qcow2/mutant.h"

struct rebuild {
    struct check c;          /* the references */
    struct q2_geometry geo;  /* as refcounts are to be; c.header.geo: as they are */
    struct q2_refs old;      /* clusters of the old refcount structure */
    struct q2_more *more;    /* clusters that are to have refcounts besides; NULL: none */
    bool     strict, keep;   /* Q2_REBUILD_ */
    bool     grows;          /* places past the end of the file can be had */
    uint64_t next;           /* nothing below is free */
    uint64_t room;           /* clusters behind all that are used, to be described, too */
    uint64_t covered;        /* clusters that the new blocks have to describe */
    uint64_t *blocks;        /* new ones, ascending cluster indices; block i describes the i-th part */
    uint64_t blocks_count, blocks_max;
    uint64_t table, table_clusters;
    char     reason[QCOW2_REASON_MAX]; /* the first finding that forbids it */
};

/* ---- counting ------------------------------------------------------------------------------------------ */

static int mark_old(struct rebuild *b, uint64_t host_offset, uint64_t clusters)
{
    const struct q2_geometry *g = &b->c.header.geo;
    uint64_t first = q2_cluster_index(g, host_offset);
    struct q2_refs_added added;
    int rc = 0;

    for (uint64_t i = first; i < first + clusters && i < b->old.clusters && rc == 0; i++)
        rc = q2_refs_add(&b->old, i, Q2_USE_REFBLOCK, 1, UINT16_MAX, &added);
    return rc;
}

/* Where the old structure is, damaged as it may be: the table, and whatever it points to. */
static int find_old(struct rebuild *b)
{
    struct check *c = &b->c;
    int rc = q2_refs_init(&b->old, &c->budget, c->file_clusters + 1);

    if (rc == 0)
        rc = mark_old(b, c->header.reftable_offset, c->header.reftable_clusters);
    for (uint64_t i = 0; i < c->reftable_entries && rc == 0; i++)
        if (c->reftable[i] != 0)
            rc = mark_old(b, q2_reftable_offset(c->reftable[i]), 1);
    return rc;
}

/* Is nothing there that was counted? */
static bool is_unused(const struct rebuild *b, uint64_t cluster)
{
    if (cluster >= b->c.refs.clusters)
        return true;
    return q2_refs_count(&b->c.refs, cluster) == 0 &&
           (q2_refs_count(&b->old, cluster) == 0 || MUTANT(REBUILD_OVER_OLD));
}

/* Where all is sound nothing is claimed behind the end, so that it does not matter how far that is known. */
static bool is_free(const struct rebuild *b, uint64_t cluster)
{
    assert(!b->strict || (b->c.past_from == b->c.file_clusters && !b->c.past.pages));
    return is_unused(b, cluster) && (b->strict || !check_claimed_past_end(&b->c, cluster));
}

/* Invariant 3: one block of the old structure. */
static int take_kept(struct check *c, uint64_t i, uint8_t *buf, int rc)
{
    struct rebuild *b = container_of(c, struct rebuild, c);
    const struct q2_geometry *g = &c->header.geo;
    uint64_t first = i << g->refblock_bits, end = min_u64(first + q2_refblock_entries(g), c->file_clusters);
    struct q2_refs_added added;

    assert(first <= end && i < c->sole_count);
    if (rc < 0 || !buf)
        return 0;
    for (uint64_t k = first; k < end; k++)
        if (q2_refcount_get(g, buf, k - first) > 0 && is_unused(b, k)) {
            rc = q2_refs_add(&c->refs, k, Q2_USE_DATA, 1, g->refcount_max, &added);
            if (rc < 0)
                return rc;
        }
    return 0;
}

/* No refcount is known, so each may be the one: a leak at worst. */
static int keep_all(struct rebuild *b)
{
    struct check *c = &b->c;
    struct q2_refs_added added;
    int rc = 0;

    assert(c->header.reftable_problem && !b->strict);
    for (uint64_t k = 0; k < c->file_clusters && rc == 0; k++)
        if (is_unused(b, k))
            rc = q2_refs_add(&c->refs, k, Q2_USE_DATA, 1, c->header.geo.refcount_max, &added);
    return rc;
}

static uint64_t old_block(struct check *c, uint64_t i)
{
    uint64_t host_offset = q2_reftable_offset(c->reftable[i]);

    assert(i < c->reftable_entries);
    return q2_reftable_problem(&c->header.geo, c->reftable[i]) || host_offset >= c->file_size ? 0 : host_offset;
}

static int count(struct rebuild *b)
{
    struct check_reads kept = {.offset = old_block, .take = take_kept};
    struct check *c = &b->c;
    bool refuse;
    int rc = check_load_refcounts(c);

    if (rc == 0)
        rc = find_old(b);
    c->counting = true;
    if (rc == 0 && b->strict)
        rc = q2_refs_init(&c->said_shared, &c->budget, c->file_clusters + 1);
    if (rc == 0)
        rc = check_count(c);
    if (rc == 0 && c->said_more)
        rc = -ENOMEM;
    kept.count = c->sole_count;
    if (rc == 0 && (c->lost || b->keep) && !b->strict)
        rc = c->header.reftable_problem ? keep_all(b) : check_read_clusters(c, &kept);
    refuse = c->res.check_errors > 0 || c->blind || (b->strict && c->res.corruptions > 0);
    if (rc == 0 && refuse)
        rc = err_hint(err_set(EIO, "%s: the refcounts cannot be rebuilt: %s", c->file->name,
                              b->reason[0] ? b->reason : "a table is damaged"),
                      b->strict ? "repair it with vdisk-io check -r all"
                                : "open it read-only and copy what it holds");
    return rc;
}

/* ---- places for the new structure ---------------------------------------------------------------------- */

static uint64_t limit(const struct rebuild *b)
{
    const struct q2_geometry *g = &b->c.header.geo;

    if (!b->grows || b->c.past_unknown)
        return b->c.file_size >> g->cluster_bits;
    return min_u64((Q2_MAX_HOST_OFFSET + 1) >> g->cluster_bits,
                   b->strict ? UINT64_MAX : b->c.file_clusters + check_past_window(&b->c));
}

/* `n` free neighbours from b->next on. */
static int find_place(struct rebuild *b, uint64_t n, uint64_t *ret)
{
    uint64_t have = 0, i = b->next;

    assert(n > 0 && b->c.counting);
    for (; have < n; i++) {
        if (i >= limit(b))
            return err_hint(err_set(ENOSPC, "%s: no space %s", b->c.file->name,
                                    b->more ? "for zeros, which take clusters in version 2"
                                    : b->strict ? "for new refcounts" : "to rebuild the refcounts in"),
                            "give the device more space");
        have = is_free(b, i) ? have + 1 : 0;
    }
    *ret = i - n;
    assert(*ret > 0 && *ret >= b->next && is_free(b, *ret)); /* invariant 1; the header is in use */
    b->next = i;
    b->covered = max_u64(b->covered, i + b->room);
    return 0;
}

static int add_block(struct rebuild *b)
{
    if (b->blocks_count == b->blocks_max) {
        uint64_t max = b->blocks_max ? 2 * b->blocks_max : 64;
        uint64_t *blocks = mem_realloc(b->blocks, max * sizeof *blocks);
        if (!blocks)
            return -ENOMEM;
        b->blocks = blocks;
        b->blocks_max = max;
    }
    return find_place(b, 1, &b->blocks[b->blocks_count++]);
}

static int add_blocks(struct rebuild *b)
{
    const struct q2_geometry *g = &b->geo;
    int rc = 0;

    assert(b->covered > 0 && b->blocks_count <= b->blocks_max);
    while (rc == 0 && b->blocks_count < div_up(b->covered, q2_refblock_entries(g)))
        rc = add_block(b);
    return rc;
}

/* The table's own place may need one more block, and that a longer table: begin with one entry to spare. */
static int place_tables(struct rebuild *b)
{
    const struct q2_geometry *g = &b->geo;
    int rc;

    b->covered = max_u64(b->covered, max_u64(1, q2_refs_end(&b->c.refs)) + b->room);
    rc = add_blocks(b);
    while (rc == 0 && b->table_clusters * (g->cluster_size / 8) < b->blocks_count) {
        b->table_clusters = q2_clusters(g, (b->blocks_count + 1) * Q2_REFTABLE_ENTRY_SIZE);
        rc = find_place(b, b->table_clusters, &b->table);
        if (rc == 0)
            rc = add_blocks(b);
    }
    assert(rc < 0 || b->blocks_count == div_up(b->covered, q2_refblock_entries(g)));
    assert(rc < 0 || (b->next <= b->covered && q2_refs_end(&b->c.refs) <= b->covered));
    if (rc == 0 && b->table_clusters << g->cluster_bits > Q2_MAX_REFTABLE_SIZE)
        rc = err_hint(err_set(EFBIG, "%s: the refcount table would become too large", b->c.file->name),
                      "convert it to larger clusters");
    return rc;
}

/* What the caller wants to have, from the first free cluster on. */
static int place_more(struct rebuild *b)
{
    uint64_t at = 0;
    int rc = 0;

    for (uint64_t i = 0; b->more && i < b->more->wants_count && rc == 0; i++)
        for (uint64_t k = 0; k < b->more->wants[i].n && rc == 0; k++) {
            rc = find_place(b, 1, &at);
            if (rc == 0)
                rc = q2_more_got(b->more, at, b->more->wants[i].refs);
        }
    return rc;
}

static int place(struct rebuild *b)
{
    int rc = place_more(b);

    return rc == 0 ? place_tables(b) : rc;
}

/* ---- writing ------------------------------------------------------------------------------------------- */

/* What the caller wants to have: those of these clusters. */
static void fill_more(struct rebuild *b, uint64_t first, uint8_t *buf)
{
    uint64_t end = first + q2_refblock_entries(&b->geo);

    for (uint64_t i = b->more ? q2_more_find(b->more, first) : 0; b->more && i < b->more->runs_count; i++) {
        const struct q2_more_run *run = &b->more->runs[i];
        if (run->start >= end)
            break;
        assert(run->start < run->end && run->refs <= b->geo.refcount_max);
        for (uint64_t k = max_u64(first, run->start); k < min_u64(end, run->end); k++)
            q2_refcount_set(&b->geo, buf, k - first, run->refs);
    }
}

/*
 * Invariant 4. Whoever else had it did not lower its refcount: that leak stays one, and `check -r leaks`, which
 * changes flags, can mend it.
 */
static uint64_t refcount_of(const struct rebuild *b, uint64_t cluster)
{
    uint64_t refs = q2_refs_count(&b->c.refs, cluster);

    if (refs == 1 && b->strict && b->geo.refcount_max > 1 && !MUTANT(REBUILD_FORGETS_FLAGS) &&
        q2_refs_count(&b->c.said_shared, cluster) > 0)
        return 2;
    return refs;
}

/* *at: index into b->blocks of the first that lies at or past the clusters described. */
static void fill_block(struct rebuild *b, uint64_t first, uint8_t *buf, uint64_t *at)
{
    const struct q2_geometry *g = &b->geo;
    uint64_t n = q2_refblock_entries(g), refs;

    memset(buf, 0, g->cluster_size);
    for (uint64_t i = first; i < first + n && i < b->c.refs.clusters; i++) {
        refs = refcount_of(b, i);
        if (refs > 0)
            q2_refcount_set(g, buf, i - first, refs);
    }
    fill_more(b, first, buf);
    for (; *at < b->blocks_count && b->blocks[*at] < first + n; (*at)++) {
        assert(q2_refcount_get(g, buf, b->blocks[*at] - first) == 0);
        q2_refcount_set(g, buf, b->blocks[*at] - first, 1);
    }
    for (uint64_t i = max_u64(first, b->table); i < min_u64(first + n, b->table + b->table_clusters); i++) {
        assert(q2_refcount_get(g, buf, i - first) == 0);
        q2_refcount_set(g, buf, i - first, MUTANT(REBUILD_FORGETS_ITSELF) ? 0 : 1);
    }
}

static int write_blocks(struct rebuild *b)
{
    const struct q2_geometry *g = &b->geo;
    uint8_t *buf = check_buffer(&b->c, g->cluster_size);
    uint64_t at = 0;
    int rc = buf ? 0 : -ENOMEM;

    for (uint64_t i = 0; i < b->blocks_count && rc == 0; i++) {
        fill_block(b, i << g->refblock_bits, buf, &at);
        rc = io_pwrite(b->c.queue, b->c.file, buf, g->cluster_size, b->blocks[i] << g->cluster_bits);
    }
    assert(rc < 0 || at == b->blocks_count); /* each has a refcount of its own */
    mem_free(buf);
    return rc;
}

static int write_table(struct rebuild *b)
{
    const struct q2_geometry *g = &b->geo;
    uint64_t len = b->table_clusters << g->cluster_bits;
    uint8_t *buf = check_buffer(&b->c, len);
    int rc;

    assert(b->blocks_count > 0 && b->blocks_count * Q2_REFTABLE_ENTRY_SIZE <= len);
    if (!buf)
        return -ENOMEM;
    memset(buf, 0, len);
    for (uint64_t i = 0; i < b->blocks_count; i++)
        put_be64(buf + i * Q2_REFTABLE_ENTRY_SIZE, b->blocks[i] << g->cluster_bits);
    rc = io_pwrite(b->c.queue, b->c.file, buf, len, b->table << g->cluster_bits);
    if (rc == 0 && !MUTANT(REBUILD_UNSYNCED))
        rc = io_pflush(b->c.queue, b->c.file);
    mem_free(buf);
    return rc;
}

/* ---- what is freed by it ------------------------------------------------------------------------------- */

static bool is_placed(const struct rebuild *b, uint64_t cluster)
{
    uint64_t low = 0, high = b->blocks_count;

    while (low < high) {
        uint64_t mid = (low + high) / 2;

        if (b->blocks[mid] == cluster)
            return true;
        if (b->blocks[mid] < cluster)
            low = mid + 1;
        else
            high = mid;
    }
    return (cluster >= b->table && cluster < b->table + b->table_clusters) ||
           (b->more && q2_more_has(b->more, cluster));
}

/* One block of the old structure. */
static int take_freed(struct check *c, uint64_t i, uint8_t *buf, int rc)
{
    struct rebuild *b = container_of(c, struct rebuild, c);
    const struct q2_geometry *g = &c->header.geo;
    uint64_t first = i << g->refblock_bits, end = min_u64(first + q2_refblock_entries(g), c->file_clusters);

    assert(first <= end && i < c->sole_count);
    if (rc < 0 || !buf)
        return 0;
    for (uint64_t k = first; (k = first + q2_refcount_skip_zeros(g, buf, k - first, end - first)) < end; k++)
        if (q2_refs_count(&c->refs, k) == 0 && !is_placed(b, k))
            q2_spans_add(&c->freed, k);
    return 0;
}

static int find_freed(struct rebuild *b)
{
    struct check_reads old = {.count = b->c.sole_count, .offset = old_block, .take = take_freed};

    return check_read_clusters(&b->c, &old);
}

/* ---- all of it ----------------------------------------------------------------------------------------- */

/* What was written fails to be all. Nothing knows of it, so what lies past what the file was is given back. */
static void give_back(struct rebuild *b)
{
    struct backend *file = b->c.file;
    struct err_saved saved;

    assert(b->c.file_size > 0);
    if (!b->grows || backend_size(file) <= b->c.file_size || MUTANT(REBUILD_LEAVES_FILE_LONGER))
        return;
    err_save(&saved);
    io_prange(b->c.queue, file, IO_TRUNCATE, b->c.file_size, 0); /* if that fails, too, it is free space */
    err_restore(&saved);
}

static int rebuild(struct rebuild *b)
{
    int rc = count(b);

    if (rc == 0)
        rc = check_width(&b->c, b->geo.refcount_bits);
    if (rc == 0)
        rc = place(b);
    if (rc == 0)
        rc = find_freed(b);
    if (rc < 0)
        return rc;
    rc = write_blocks(b);
    if (rc == 0)
        rc = write_table(b); /* invariant 2 */
    if (rc < 0)
        give_back(b);
    return rc;
}

/* After check_begin(). */
static void set_geometry(struct rebuild *b, uint32_t refcount_bits)
{
    const struct q2_geometry *g = &b->c.header.geo;
    uint32_t order = refcount_bits ? (uint32_t)__builtin_ctz(refcount_bits) : g->refcount_order;

    assert(refcount_bits == 0 || (is_power_of_two(refcount_bits) && g->version >= 3));
    q2_geometry_init(&b->geo, g->version, g->cluster_bits, order, g->extended_l2, g->data_file);
}

int q2_rebuild_refcounts_as(struct backend *file, vdisk_queue *queue, const struct qcow2_check_opts *opts,
                            const struct q2_rebuild *how, struct q2_rebuilt *ret)
{
    struct qcow2_check_opts own = opts ? *opts : (struct qcow2_check_opts){.memory_max = 0};
    struct rebuild b = {.grows = file->caps & BACKEND_GROWS, .strict = how->flags & Q2_REBUILD_STRICT,
                        .keep = how->flags & Q2_REBUILD_KEEP, .room = how->room, .more = how->more};
    int rc;

    assert(!file->read_only);
    own.report = qcow2_note_reason;
    own.report_arg = b.reason;
    err_clear();
    rc = check_begin(&b.c, file, queue, &own);
    if (rc == 0) {
        set_geometry(&b, how->refcount_bits);
        rc = rebuild(&b);
    }
    *ret = (struct q2_rebuilt){.host_offset = 0};
    if (rc == 0) {
        *ret = (struct q2_rebuilt){b.table << b.geo.cluster_bits, (uint32_t)b.table_clusters, b.c.freed};
        b.c.freed = (struct q2_spans){.list = NULL};
    }
    if (rc < 0 && vdisk_error_text()[0] == '\0')
        err_set(rc, "%s: %s: %s", file->name, b.more ? "finding clusters for zeros" : "rebuilding its refcounts",
                strerror(-rc));
    mem_free(b.blocks);
    q2_refs_finish(&b.old);
    check_finish(&b.c);
    return rc;
}

int q2_rebuild_refcounts(struct backend *file, vdisk_queue *queue, const struct qcow2_check_opts *opts,
                         unsigned flags, struct q2_rebuilt *ret)
{
    return q2_rebuild_refcounts_as(file, queue, opts, &(struct q2_rebuild){.flags = flags}, ret);
}
