/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the header names besides L1 and refcounts: the snapshot table and the bitmap directory of an open image,
 * read and parsed.
 *
 * Failure modes: errors of the I/O and of parsing, -ENOMEM, each with a text; a snapshot table that reaches past
 * the end of the file is -EINVAL.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/error.h"
#include "engine/base/mem.h"
#include "qcow2/format/format.h"
#include "qcow2/meta/state.h"

int q2_read_bitmaps(struct q2_meta *meta, vdisk_queue *queue, struct q2_bitmap_directory *ret)
{
    const struct q2_header *h = &meta->header;
    uint8_t *buf = mem_buffer(h->bitmap_directory_size);
    int rc;

    if (!buf)
        return err_set(ENOMEM, "%s: out of memory", meta->layer->name);
    rc = io_pread(queue, meta->layer->file, buf, h->bitmap_directory_size, h->bitmap_directory_offset);
    if (rc < 0)
        err_set(rc, "%s: reading the bitmap directory: %s", meta->layer->name, strerror(-rc));
    else
        rc = q2_bitmaps_parse(&meta->geo, meta->layer->name, buf, h->bitmap_directory_size, h->nb_bitmaps, ret);
    mem_free(buf);
    return rc;
}

int q2_judge_bitmaps(struct q2_meta *meta, vdisk_queue *queue, q2_judge_bitmap_fn *judge, uint64_t size)
{
    struct q2_bitmap_directory d;
    int rc;

    if (!meta->header.has_bitmaps || meta->header.nb_bitmaps == 0)
        return 0;
    rc = q2_read_bitmaps(meta, queue, &d);
    if (rc < 0)
        return rc;
    for (uint32_t i = 0; i < d.n && rc == 0; i++)
        rc = judge(meta, &d.entries[i], size);
    q2_bitmaps_free(&d);
    return rc;
}

int q2_read_snapshots(struct q2_meta *meta, vdisk_queue *queue, struct q2_snapshot_table *ret)
{
    uint64_t left =
        backend_size(meta->layer->file) - min_u64(meta->header.snapshots_offset, backend_size(meta->layer->file));
    uint64_t want = min_u64(left, meta->geo.cluster_size);

    for (;;) {
        uint64_t need = 0;
        uint8_t *buf = mem_buffer(want);
        int rc;
        if (!buf)
            return err_set(ENOMEM, "%s: out of memory for the snapshot table", meta->layer->name);
        rc = want ? io_pread(queue, meta->layer->file, buf, want, meta->header.snapshots_offset) : 0;
        if (rc < 0)
            err_set(rc, "%s: reading the snapshot table: %s", meta->layer->name, strerror(-rc));
        else
            rc = q2_snapshots_parse(&meta->geo, meta->layer->name, buf, want, meta->header.nb_snapshots, ret,
                                    &need);
        mem_free(buf);
        if (rc != -EAGAIN)
            return rc;
        if (need > left)
            return err_set(EINVAL, "%s: the snapshot table reaches past the end of the file", meta->layer->name);
        want = min_u64(left, min_u64(max_u64(need, 2 * want), Q2_MAX_SNAPSHOT_TABLE));
    }
}
