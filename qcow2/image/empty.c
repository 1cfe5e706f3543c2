/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * An image made empty: what it has is in its backing file, too.
 *
 * Happy path: write back all there is; zeros over the L1 table, where it is; flush; read the image anew. Nothing
 * refers to L2 tables and data now, but snapshots: count refcounts anew, and give back what is free (shrink.c).
 * Failure modes: a part of the L1 table is on disk with zeros: what that part maps is read from below, which is
 * the same. It cannot be read anew: no more writes are accepted. What has become free, and has not been given
 * back, is leaked: the error says so; done again it is found.
 *
 * Invariants.
 *  1. Nothing of what the L1 table led to changes before its zeros are durable.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/error.h"
#include "engine/base/mem.h"
#include "qcow2/check/check.h"
#include "qcow2/format/format.h"
#include "qcow2/image/resize.h"
#include "qcow2/mutant.h"

static int clear_l1(struct layer *layer, vdisk_queue *queue)
{
    const struct q2_meta *meta = &q2_of(layer)->meta;
    uint64_t len = align_up(meta->header.l1_entries * Q2_L1_ENTRY_SIZE, meta->geo.cluster_size);
    uint8_t *zeros = len > 0 ? mem_buffer(len) : NULL;
    int rc;

    if (len == 0)
        return 0;
    if (!zeros)
        return err_set(ENOMEM, "%s: out of memory", layer->name);
    memset(zeros, 0, len);
    assert(meta->header.l1_offset >= meta->geo.cluster_size && is_aligned(meta->header.l1_offset, 512));
    assert(len <= align_up(Q2_MAX_L1_SIZE, meta->geo.cluster_size));
    rc = io_pwrite(queue, layer->file, zeros, len, meta->header.l1_offset);
    if (rc == 0 && !MUTANT(EMPTY_UNSYNCED))
        rc = io_pflush(queue, layer->file);
    mem_free(zeros);
    return rc;
}

/* A data file's clusters have no refcounts: they are free as soon as nothing maps them. */
static void discard_data(struct layer *layer, vdisk_queue *queue)
{
    if (layer->data != layer->file && layer->data->caps & BACKEND_DISCARD && layer_size(layer) > 0)
        io_prange(queue, layer->data, IO_DISCARD, 0, min_u64(layer_size(layer), backend_size(layer->data)));
}

int q2_make_empty(struct layer *layer, vdisk_progress_fn *progress, void *progress_arg, vdisk_queue *queue)
{
    struct qcow2_check_opts check = {.progress = progress, .progress_arg = progress_arg};
    struct q2 *q = q2_of(layer);
    int rc;

    assert(atomic_load(&layer->volume->refuses) & VOLUME_SHUT);
    assert(!layer->read_only && layer == layer->volume->top && !q->meta.data_file_raw);
    if (atomic_load(&q->meta.broken))
        return layer_trouble(layer, "making it empty");
    rc = q2_trim_run(&q->space, queue, true);
    if (rc == 0)
        rc = clear_l1(layer, queue);
    if (rc < 0) /* in memory it is as it was, which need not be what is on disk */
        return q2_doubt(&q->meta, "its L1 table could not be cleared");
    rc = q2_reload(layer, queue);
    assert(rc < 0 || layer_size(layer) == q2_of(layer)->meta.header.size);
    if (rc == 0) {
        discard_data(layer, queue);
        rc = q2_give_back_leaks(layer, &check, queue);
    }
    if (rc < 0) {
        if (vdisk_error_text()[0] == '\0')
            err_set(rc, "%s", strerror(-rc));
        err_prefix(rc, "%s: is empty, but its space could not be given back", layer->name);
    }
    return rc;
}
