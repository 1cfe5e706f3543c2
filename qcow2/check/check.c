/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Consistency check of an image.
 *
 * Happy path: header; refcount blocks (which refcounts are one); then every reference there is, from the header
 * down: L1 tables, snapshots, bitmaps, L2 tables, clusters, the refcount structures themselves; then each
 * refcount against the references counted.
 * Failure modes: a table that is damaged or cannot be read is a finding, and the check goes on without it; since
 * what that table refers to is not known then, leaks are not counted any more. A refcount table that the header
 * has wrong is one finding, and refcounts are not compared. Without the rest of the header, a refcount table that
 * can be read, or memory, there is no result.
 *
 * Where the numbers differ from those of `qemu-img check`, on purpose:
 *  1. QEMU gives up when the snapshot table or the bitmap directory is damaged; we go on.
 *  2. A cluster that is used for two things with a refcount that matches is a corruption here.
 *  3. So are flags and offsets that the format does not allow and QEMU overlooks: the zero flag in version 2 or
 *     with subclusters, an offset in an external data file that is not the guest offset.
 *  4. L2 tables at misaligned offsets are reported, not followed; so is an L1 entry of flags only.
 *  5. Of clusters past the end of the file the refcounts are not looked at.
 */
#include "qcow2/check/check.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/base/error.h"
#include "engine/base/mem.h"
#include "qcow2/check/check_internal.h"
#include "qcow2/format/format.h"
#include "qcow2/meta/meta.h"

enum { REPORT_MAX = 1000 };

/* ---- the check -------------------------------------------------------------------------------------- */

static int read_header(struct check *c)
{
    uint8_t first[Q2_SECTOR_SIZE];
    struct q2_disk_header h;
    int rc = q2_header_load(c->file, c->queue, &c->header, first);

    if (rc == 0)
        rc = q2_header_refuse_encrypted(&c->header, c->file->name);
    if (rc == 0 && c->header.geo.version == 2) {
        memcpy(&h, first, sizeof(h));
        c->maybe_v3 = get_be32(&h.refcount_order) <= Q2_MAX_REFCOUNT_ORDER &&
                      get_be32(&h.header_length) - Q2_HEADER_V3_LENGTH <= 8;
    }
    return rc;
}

/* Before anything is judged by it: is what the header calls the L1 table one? */
static int check_doubtful_l1(struct check *c)
{
    uint64_t len = (uint64_t)c->header.l1_entries * Q2_L1_ENTRY_SIZE;
    uint8_t *buf;
    int rc;

    if (!c->header.l1_doubtful)
        return 0;
    assert(c->header.reftable_problem && len > 0);
    buf = check_buffer(c, len);
    if (!buf)
        return -ENOMEM;
    rc = check_read(c, buf, len, c->header.l1_offset);
    if (rc < 0)
        err_set(rc, "%s: the L1 table cannot be read: %s", c->file->name, strerror(-rc));
    else if (!q2_l1_plausible(buf, c->header.l1_entries))
        rc = err_hint(err_set(EINVAL, "%s: not a valid qcow2 image: L1 table and refcount table overlap",
                              c->file->name),
                      "restore it from a copy");
    mem_free(buf);
    return rc;
}

static int start(struct check *c)
{
    const struct q2_geometry *g = &c->header.geo;
    int rc;

    c->file_clusters = q2_clusters(g, c->file_size);
    if (c->file_clusters > INT_MAX)
        return err_hint(err_set(EFBIG, "%s: a file of %" PRIu64 " clusters is too large to be checked",
                                c->file->name, c->file_clusters),
                        "convert it to larger clusters");
    assert(c->file_clusters > 0 && c->refs.pages == NULL && c->l2.count == 0);
    c->past_from = c->file_clusters;
    c->table_bytes = c->file_size + Q2_MAX_L1_SIZE; /* the last ones may end past the end */
    assert(c->table_bytes > c->file_size);
    c->res.cluster_size = g->cluster_size;
    c->res.total_clusters = q2_clusters(g, align_down(c->header.size, 512));
    if (c->header.incompatible & Q2_INCOMPAT_DIRTY)
        check_found(c, QCOW2_NOTE, 1, "the image was not closed: its refcounts may lag behind");
    if (c->header.incompatible & Q2_INCOMPAT_CORRUPT)
        check_found(c, QCOW2_NOTE, 1, "the image is marked as corrupt");
    rc = check_doubtful_l1(c);
    return rc < 0 ? rc : q2_refs_init(&c->refs, &c->budget, c->file_clusters + 1);
}

int check_count(struct check *c)
{
    int rc;

    assert(c->refs.clusters == c->file_clusters + 1 && q2_refs_end(&c->refs) == 0); /* once */
    rc = check_claim(c, 0, c->header.geo.cluster_size, Q2_USE_HEADER, 1);
    if (rc == 0)
        rc = check_l1(c, c->header.l1_offset, c->header.l1_entries, true, "L1 table");
    if (rc == 0)
        rc = check_snapshots(c);
    if (rc == 0)
        rc = check_bitmaps(c);
    c->progress_total = 2 * c->sole_count + c->l2.count;
    return rc == 0 ? check_l2_tables(c) : rc;
}

int check_run(struct check *c)
{
    int rc = check_load_refcounts(c);

    if (rc == 0)
        rc = check_count(c);
    if (rc == 0)
        rc = check_refcount_tables(c);
    if (rc == 0)
        rc = check_compare(c);
    assert(c->flag_faults <= c->res.corruptions);
    assert(c->res.fragmented_clusters <= c->res.allocated_clusters);
    assert(c->res.compressed_clusters <= c->res.allocated_clusters);
    if (rc == 0 && c->blind)
        check_found(c, QCOW2_NOTE, 1, "leaks are not counted, since not all tables could be read");
    if (rc == 0 && c->opts.progress)
        c->opts.progress(c->opts.progress_arg, c->progress_done * c->header.geo.cluster_size,
                         c->progress_done * c->header.geo.cluster_size);
    return rc;
}

static uint64_t memory_default(void)
{
    long pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGESIZE);

    return pages > 0 && page > 0 ? (uint64_t)pages * (uint64_t)page / 2 : 1ull << 30;
}

void check_finish(struct check *c)
{
    q2_l2_set_finish(&c->l2);
    q2_refs_finish(&c->refs);
    q2_refs_finish(&c->past);
    q2_refs_finish(&c->said_shared);
    check_forget_refcounts(c);
    q2_spans_finish(&c->freed);
    q2_header_free(&c->header);
    assert(c->budget.used == 0);
}

int check_begin(struct check *c, struct backend *file, vdisk_queue *q, const struct qcow2_check_opts *opts)
{
    int rc;

    memset(c, 0, sizeof *c);
    c->file = file;
    c->queue = q;
    c->file_size = backend_size(file);
    if (opts)
        c->opts = *opts;
    if (c->opts.report_max == 0)
        c->opts.report_max = REPORT_MAX;
    if (c->opts.kinds == 0)
        c->opts.kinds = UINT32_MAX;
    c->budget.max = c->opts.memory_max ? c->opts.memory_max : memory_default();
    c->l2.budget = c->refs.budget = &c->budget;
    rc = read_header(c);
    if (rc == -ENOMEM)
        err_set(ENOMEM, "%s: out of memory", file->name);
    return rc < 0 ? rc : start(c);
}

int qcow2_check_counted(struct backend *file, vdisk_queue *q, const struct qcow2_check_opts *opts,
                        qcow2_counted_fn *take, void *arg, struct qcow2_check_result *ret)
{
    struct check c;
    int rc = check_begin(&c, file, q, opts);

    if (rc == 0)
        rc = check_run(&c);
    if (rc == -ENOMEM)
        err_hint(err_set(ENOMEM, "%s: the check needs more than the %" PRIu64 " MiB that it may use", file->name,
                         c.budget.max >> 20),
                 "run it on a machine with more memory");
    else if (rc == -ECANCELED)
        err_set(ECANCELED, "%s: the check was stopped", file->name);
    if (rc == 0) {
        assert(!c.fixed && c.changes == 0); /* it only looks */
        check_report_rest(&c);
        *ret = c.res;
        if (take)
            rc = take(arg, &c.refs, ret);
    }
    check_finish(&c);
    return rc;
}

int qcow2_check(struct backend *file, vdisk_queue *q, const struct qcow2_check_opts *opts,
                struct qcow2_check_result *ret)
{
    return qcow2_check_counted(file, q, opts, NULL, NULL, ret);
}

int qcow2_check_path(const char *name, uint32_t backend_flags, const struct qcow2_check_opts *opts,
                     struct qcow2_check_result *ret)
{
    struct vdisk_queue_opts queue_opts = {.size = sizeof queue_opts};
    struct backend *file;
    vdisk_queue *q;
    int rc = backend_open(name, backend_flags & ~(uint32_t)(BACKEND_RDWR | BACKEND_CREATE), &file);

    if (rc < 0)
        return rc;
    rc = vdisk_queue_create(&queue_opts, &q);
    if (rc == 0) {
        rc = qcow2_check(file, q, opts, ret);
        vdisk_queue_destroy(q);
    }
    backend_close(file);
    return rc;
}
