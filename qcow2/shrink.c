/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A smaller virtual size.
 *
 * Happy path: write back all there is; one write of the header's first sector gives the new size and a shorter L1
 * table at once. Read the image anew. Clear what the last L2 table has behind the new end, and write back. What
 * only the rest of the L1 table led to has refcounts, and nothing refers to it any more: build new refcounts, in
 * the first free clusters, and switch to them. Cut the file behind its last cluster in use, and tell the host what
 * is free before that.
 * Failure modes: until the header is written nothing has changed. While it is written: which of the two counts is
 * not known, so the image takes no more writes. Afterwards: the volume has its new size, and some clusters that
 * are leaked, at worst: the error says so.
 *
 * Invariants.
 *  1. What lies behind the new end is there, untouched, until the header says the new size.
 *  2. Nothing is cut off or discarded but what a count of all references, made after the header was written and
 *     all was flushed, found free.
 */
#include "qcow2/resize.h"

#include <errno.h>
#include <string.h>

#include "engine/error.h"
#include "qcow2/check_internal.h"
#include "qcow2/mutant.h"
#include "qcow2/rebuild.h"

/* ---- the header ----------------------------------------------------------------------------------------- */

static int update_header(vdisk *v, vdisk_queue *queue)
{
    int rc = q2_header_update(q2_of(v), queue);

    if (rc < 0)
        return q2_break(q2_of(v), "the header could not be written while the image was made smaller");
    return q2_reload(v, queue);
}

static int set_size(vdisk *v, uint64_t size, vdisk_queue *queue)
{
    struct q2 *q = q2_of(v);

    q->header.size = size;
    q->header.l1_entries = (uint32_t)min_u64(q2_l1_entries(&q->geo, size), q->header.l1_entries);
    return update_header(v, queue);
}

static int set_refcounts(vdisk *v, const struct qcow2_check_opts *opts, vdisk_queue *queue)
{
    struct q2 *q = q2_of(v);
    struct q2_rebuilt n;
    int rc = q2_rebuild_refcounts(v->file, queue, opts, true, &n);

    if (rc < 0)
        return rc;
    q->header.reftable_offset = n.host_offset;
    q->header.reftable_clusters = n.clusters;
    return update_header(v, queue);
}

/* ---- space ---------------------------------------------------------------------------------------------- */

/* Behind the new end, as far as the last L2 table reaches. */
static int clear_rest(vdisk *v, uint64_t size, uint64_t old, vdisk_queue *queue)
{
    struct q2 *q = q2_of(v);
    uint64_t end = min_u64(old, align_up(size, q2_l1_entry_span(&q->geo)));
    int rc;

    atomic_store_explicit(&v->size, end, memory_order_release); /* in memory only */
    rc = q2_resize_zero(v, size, end, queue);
    atomic_store_explicit(&v->size, size, memory_order_release);
    return rc == 0 ? q2_trim_run(q, queue, true) : rc;
}

/* Free clusters below `end`: to the host. */
static int discard(struct check *c, uint64_t end)
{
    const struct q2_geometry *g = &c->header.geo;
    int rc = 0;

    for (uint64_t i = 1, next; i < end && rc == 0; i = next + 1) {
        next = min_u64(end, q2_refs_next(&c->refs, i));
        if (next > i)
            rc = io_prange(c->queue, c->file, IO_DISCARD, i << g->cluster_bits, (next - i) << g->cluster_bits);
    }
    return rc;
}

/* Invariant 2. */
static int trim(vdisk *v, const struct qcow2_check_opts *opts, vdisk_queue *queue)
{
    struct backend *file = v->file;
    struct check c;
    int rc = check_begin(&c, file, queue, opts);

    if (rc == 0)
        rc = check_run(&c);
    if (rc == 0 && (c.res.corruptions > 0 || c.res.check_errors > 0))
        rc = err_set(EIO, "%s: does not check clean", v->name);
    if (rc == 0 && file->caps & BACKEND_GROWS && c.res.image_end_offset < backend_size(file))
        rc = io_prange(queue, file, IO_TRUNCATE, c.res.image_end_offset, 0);
    if (rc == 0 && file->caps & BACKEND_DISCARD)
        rc = discard(&c, min_u64(c.file_clusters, backend_size(file) >> c.header.geo.cluster_bits));
    check_finish(&c);
    return rc == 0 ? q2_reload(v, queue) : rc; /* the file's end is another */
}

static int trim_data_file(vdisk *v, uint64_t size, vdisk_queue *queue)
{
    if (v->data == v->file || !(v->data->caps & BACKEND_GROWS) || backend_size(v->data) <= size)
        return 0;
    return io_prange(queue, v->data, IO_TRUNCATE, size, 0);
}

static int give_back(vdisk *v, uint64_t size, uint64_t old, const struct qcow2_check_opts *opts,
                     vdisk_queue *queue)
{
    int rc = clear_rest(v, size, old, queue);

    if (rc == 0)
        rc = trim_data_file(v, size, queue);
    if (rc == 0)
        rc = set_refcounts(v, opts, queue);
    return rc == 0 ? trim(v, opts, queue) : rc;
}

int q2_shrink(vdisk *v, uint64_t size, const struct vdisk_resize_opts *opts, vdisk_queue *queue)
{
    struct qcow2_check_opts check = {.progress = opts->progress, .progress_arg = opts->progress_arg};
    uint64_t old = vdisk_size(v);
    int rc = q2_trim_run(q2_of(v), queue, true);

    if (rc == 0 && MUTANT(SHRINK_CUT_FIRST))
        rc = trim_data_file(v, size, queue);
    if (rc == 0)
        rc = set_size(v, size, queue);
    if (rc < 0)
        return rc;
    rc = give_back(v, size, old, &check, queue);
    if (rc < 0) {
        if (vdisk_error_text()[0] == '\0')
            err_set(rc, "%s", strerror(-rc));
        err_prefix(rc, "%s: has its new size, but its space could not be given back", v->name);
    }
    return rc;
}
