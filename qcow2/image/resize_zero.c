/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Zeros over a range for a resize: as a guest's request would bring them, and waited for.
 *
 * Failure modes: those of the requests.
 */
#include <assert.h>

#include "engine/loop/queue.h"
#include "qcow2/image/resize.h"

/* Wait for one request. */
static int finish(vdisk_queue *queue)
{
    struct vdisk_completion c;

    queue_take(queue, &c, 1);
    return c.result;
}

int q2_resize_zero(struct layer *layer, uint64_t from, uint64_t end, vdisk_queue *queue)
{
    struct vdisk_extent list[1];
    struct vdisk_extents extents = {.list = list, .max = 1};
    int rc;

    if (from >= end)
        return 0;
    assert(end <= atomic_load(&layer->reach) && atomic_load(&layer->volume->resizer) == queue);
    /* Load the mapping of the first cluster: part of one that is known to be zero is not written. */
    vdisk_get_extents(queue, layer->volume, from, end - from, &extents, 0);
    rc = finish(queue);
    if (rc < 0)
        return rc;
    vdisk_write_zeroes(queue, layer->volume, from, end - from, VDISK_REQ_UNMAP, 0);
    return finish(queue);
}
