/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * An image that was not closed, with lazy refcounts, is opened for writing: its refcounts are counted anew.
 *
 * Happy path: new refcounts beside the old ones, the header switched to them, the whole checked, the dirty bit
 * cleared, what is free now punched.
 * Failure modes: other damage is found, the I/O fails, memory is short, it is cancelled: an error with a text, and
 * the image is as dirty as before.
 *
 * Invariants.
 *  1. New refcount blocks and a new table are durable before the header's first sector switches to them.
 *  2. The dirty bit goes last, in a write of its own.
 */
#include "qcow2/image/open_repair.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

#include "engine/base/error.h"
#include "engine/loop/log.h"
#include "qcow2/check/check.h"

/* What the rebuilt refcounts say must be what the flags in the tables say. */
static int verify(struct q2 *q, const struct layer_open *how, vdisk_queue *queue)
{
    char reason[QCOW2_REASON_MAX] = "";
    struct qcow2_check_opts opts = {.report = qcow2_note_reason, .report_arg = reason, .progress = how->progress,
                                    .progress_arg = how->progress_arg};
    struct qcow2_check_result res;
    int rc = qcow2_check(q->meta.layer->file, queue, &opts, &res);

    if (rc == 0 && res.corruptions + res.check_errors > 0)
        rc = err_hint(err_set(EIO, "%s: was not closed, and has more damage than its refcounts: %s",
                              q->meta.layer->name, reason),
                      "repair it with vdisk-io check -r all, or open it read-only and copy what it holds");
    return rc;
}

int q2_open_repair(struct q2 *q, const struct layer_open *how, vdisk_queue *queue)
{
    struct q2_header_change change = q2_header_change(&q->meta);
    struct qcow2_check_opts opts = {.progress = how->progress, .progress_arg = how->progress_arg};
    struct q2_rebuilt n;
    int rc, punched;

    assert(q->meta.header.incompatible & Q2_INCOMPAT_DIRTY);
    assert(!q->meta.layer->read_only && !q->meta.reftable && !atomic_load(&q->meta.l1));
    rc = q2_rebuild_refcounts(q->meta.layer->file, queue, &opts, Q2_REBUILD_STRICT, &n);
    if (rc == 0) {
        assert(n.host_offset > 0 && n.clusters > 0);
        change.fields.reftable_offset = n.host_offset;
        change.fields.reftable_clusters = n.clusters;
        rc = q2_header_commit_sync(&q->meta, &change, queue); /* invariant 1 */
    }
    if (rc == 0)
        rc = verify(q, how, queue);
    if (rc == 0) {
        change.fields.incompatible &= ~(uint64_t)Q2_INCOMPAT_DIRTY; /* invariant 2 */
        rc = q2_header_commit_sync(&q->meta, &change, queue);
    }
    if (rc == 0)
        q2_spans_punch(&n.freed, q->meta.layer->file, queue, q->meta.geo.cluster_bits, &punched);
    q2_spans_finish(&n.freed);
    if (rc == 0)
        log_add(VDISK_LOG_WARNING, q->meta.layer->name, "was not closed; its refcounts have been repaired");
    if (rc < 0 && vdisk_error_text()[0] == '\0')
        err_set(rc, "%s: repairing its refcounts: %s", q->meta.layer->name, strerror(-rc));
    return rc;
}
