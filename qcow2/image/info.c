/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Details of an open image, for `info`: the snapshot table and the bitmaps are read, the rest is in memory.
 */
#include <errno.h>

#include "engine/error.h"
#include "qcow2/format/format.h"
#include "qcow2/image/image.h"
#include "qcow2/qcow2.h"

int qcow2_get_details(vdisk *v, struct qcow2_details *ret)
{
    struct q2_snapshot_table snapshots = {0};
    struct q2_bitmap_directory bitmaps = {0};
    vdisk_queue *queue;
    struct q2 *q;
    int rc = 0;

    if (v->format != &qcow2_driver)
        return err_set(EINVAL, "%s: is not qcow2", v->name);
    rc = volume_manage(v, &queue);
    if (rc < 0)
        return rc;
    q = q2_of(v); /* until volume_manage_done(): who shrinks the volume replaces it */
    if (q->meta.header.snapshots_problem)
        rc = err_hint(err_set(EINVAL, "%s: %s", v->name, q->meta.header.snapshots_problem),
                      "repair it with vdisk-io check -r all");
    else if (q->meta.header.nb_snapshots > 0)
        rc = q2_read_snapshots(&q->meta, queue, &snapshots);
    if (rc == 0 && q->meta.header.has_bitmaps && q->meta.header.nb_bitmaps > 0)
        rc = q2_read_bitmaps(&q->meta, queue, &bitmaps);
    if (rc == 0) {
        pthread_mutex_lock(&q->meta.lock);
        rc = q2_details_fill(&q->meta.header, &snapshots, &bitmaps, ret);
        pthread_mutex_unlock(&q->meta.lock);
        if (rc < 0)
            err_set(ENOMEM, "%s: out of memory", v->name);
    }
    volume_manage_done(v);
    q2_snapshots_free(&snapshots);
    q2_bitmaps_free(&bitmaps);
    return rc;
}
