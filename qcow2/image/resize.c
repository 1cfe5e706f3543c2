/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Changing the virtual size.
 *
 * Growing, happy path: where old entries may lie behind the old end (a program that made the image smaller left
 * them, or part of the last cluster is behind it), or the backing file is longer than the image was, or space is
 * to be preallocated: a longer L1 table first; the range behind the old end, which nobody else may touch yet, is
 * zeroed, and given clusters. Then, in any case, one write of the header gives it the new size on disk, and after
 * that everybody sees it. Shrinking: shrink.c.
 * Failure modes: before the header says the new size: what was given to the new range is given back, the size is
 * the old one.
 *
 * Invariants.
 *  1. The size comes last: whatever the range behind the old end holds reads as zeros by then.
 *  2. While anything can be behind the end, volume.reach says so: the last cluster is then no longer its owner's
 *     alone to drop (clear.c).
 */
#include "qcow2/image/resize.h"

#include <errno.h>
#include <string.h>

#include "engine/base/error.h"
#include "qcow2/format/format.h"

/* ---- what forbids it ------------------------------------------------------------------------------------ */

static int check_bitmap(const struct q2_meta *meta, const struct q2_bitmap_entry *b, uint64_t size)
{
    uint64_t bits = div_up(size, 1ull << b->granularity_bits);

    assert(b->granularity_bits <= Q2_MAX_BITMAP_GRANULARITY_BITS);
    if (q2_clusters(&meta->geo, div_up(bits, 8)) == b->table_entries || b->flags & Q2_BITMAP_IN_USE)
        return 0;
    return err_hint(err_set(ENOTSUP, "%s: bitmap '%s' would need another table for the new size",
                            meta->layer->name,
                            b->name),
                    "remove the bitmap first");
}

/* An external data file that cannot grow has been extended already, or is too small. */
static int check_data_device(struct layer *layer, uint64_t size)
{
    struct backend *b = layer->data;

    if (b == layer->file || b->caps & BACKEND_GROWS || size <= layer_size(layer) ||
        backend_reaches_past(b, size - 1))
        return 0;
    return err_hint(err_set(ENOSPC, "%s: external data file: %s: has %llu bytes, %llu are asked for", layer->name,
                            b->name, (unsigned long long)backend_size(b), (unsigned long long)size),
                    "extend the device first");
}

int q2_resize_check(struct layer *layer, uint64_t size, uint32_t version, vdisk_queue *queue)
{
    struct q2 *q = q2_of(layer);
    int rc;

    if (size > q2_max_size(&q->meta.geo))
        return err_hint(err_set(EFBIG, "%s: a qcow2 image with %llu byte clusters is at most %llu bytes",
                                layer->name,
                                (unsigned long long)q->meta.geo.cluster_size,
                                (unsigned long long)q2_max_size(&q->meta.geo)),
                        "convert it to larger clusters");
    if (atomic_load(&q->meta.broken))
        return err_hint(err_set(EIO, "%s: its metadata is damaged", layer->name),
                        "repair it with vdisk-io check -r all");
    if (layer->backing_name && layer->backing_name[0] != '\0' && !layer->backing && size > layer_size(layer))
        return err_hint(err_set(EINVAL, "%s: how its new end reads depends on its backing file", layer->name),
                        "open it with its backing file");
    if (q->meta.header.nb_snapshots > 0 && version < 3)
        return err_hint(err_set(ENOTSUP, "%s: has snapshots, which in version 2 do not say how large the disk was",
                                layer->name),
                        "delete the snapshots first");
    rc = check_data_device(layer, size);
    return rc < 0 ? rc : q2_judge_bitmaps(&q->meta, queue, check_bitmap, size);
}

/* ---- the new range -------------------------------------------------------------------------------------- */

/* Up to where something else than zeros may show behind the old end. */
static uint64_t stale_end(struct layer *layer, uint64_t old, uint64_t size)
{
    struct q2 *q = q2_of(layer);
    uint64_t entries = atomic_load(&q->meta.l1)->entries, end = old;

    assert(old < size);
    for (uint64_t i = q2_l1_index(&q->meta.geo, old); i < entries; i++)
        if (q2_l1_offset(q2_l1_get(&q->meta, i)) != 0)
            end = (i + 1) * q2_l1_entry_span(&q->meta.geo);
    if (layer->backing)
        end = max_u64(end, layer_size(layer->backing));
    return max_u64(old, min_u64(size, end));
}

/* Invariant 2: what clears the last cluster as a whole has done so, or finds that it is not the last. */
static void begin_growing(struct layer *layer, uint64_t size, vdisk_queue *queue)
{
    struct q2 *q = q2_of(layer);

    assert(size > layer_size(layer));
    pthread_mutex_lock(&q->meta.lock);
    layer_reach(layer, size, queue);
    pthread_mutex_unlock(&q->meta.lock);
}

static int prepare_range(struct layer *layer, uint64_t old, uint64_t stale, uint64_t size,
                         const struct vdisk_resize_opts *opts, vdisk_queue *queue)
{
    int rc;

    assert(old <= stale && stale <= size && size <= atomic_load(&layer->reach)); /* invariant 2 */
    assert(layer_size(layer) == old); /* invariant 1 */
    rc = q2_resize_zero(layer, old, stale, queue);
    if (rc == 0 && opts->preallocation != VDISK_PREALLOC_OFF)
        rc = q2_prealloc_range(q2_of(layer), old, size, opts, queue);
    return rc == 0 ? q2_flush_sync(&q2_of(layer)->flush, queue) : rc;
}

static int grow(struct layer *layer, uint64_t size, const struct vdisk_resize_opts *opts, vdisk_queue *queue)
{
    uint64_t old = layer_size(layer), stale = stale_end(layer, old, size);
    struct q2 *q = q2_of(layer);
    int rc = 0;

    begin_growing(layer, size, queue);
    if (stale > old || opts->preallocation != VDISK_PREALLOC_OFF) {
        rc = q2_grow_header(q, old, size, queue);
        if (rc == 0) {
            rc = prepare_range(layer, old, stale, size, opts, queue);
            if (rc < 0 && opts->preallocation != VDISK_PREALLOC_OFF)
                q2_resize_zero(layer, old, size, queue);
        }
    }
    if (rc == 0)
        rc = q2_grow_header(q, size, size, queue);
    layer_set_size(layer, rc < 0 ? old : size);
    return rc;
}

int q2_resize(struct layer *layer, uint64_t size, const struct vdisk_resize_opts *opts, vdisk_queue *queue)
{
    bool grows = size > layer_size(layer);
    int rc = q2_resize_check(layer, size, q2_of(layer)->meta.geo.version, queue);

    assert(layer == layer->volume->top && !layer->read_only && is_aligned(size, 512));
    assert(atomic_load(&layer->volume->manager) == queue);
    if (rc < 0)
        return rc;
    rc = grows ? grow(layer, size, opts, queue) : q2_shrink(layer, size, opts, queue);
    if (rc < 0 && vdisk_error_text()[0] == '\0')
        err_set(rc, "%s: %s: %s", layer->name, grows ? "growing" : "shrinking", strerror(-rc));
    return rc;
}
