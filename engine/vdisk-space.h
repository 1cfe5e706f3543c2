/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * libvdisk on storage that is extended while it is used: how far a volume's file is in use, and who makes it
 * larger. <vdisk.h> includes this.
 */
#ifndef VDISK_SPACE_H
#define VDISK_SPACE_H

#include <vdisk.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ---- the watermark ----------------------------------------------------------------------------------- */

/*
 * The watermark: a host offset in the file of the volume itself (not in an external data file, nor in a backing
 * file). When something there is taken into use behind `threshold`, VDISK_EVENT_WATERMARK tells it, once; so a
 * block device can be extended before it is full. With qcow2 that is when clusters are taken, from whatever queue,
 * which is before they are written to; they are taken ahead of need, on storage that cannot grow up to a sixteenth
 * of what is left at a time. With raw it is when a write or zero is enqueued. What is behind it when it is set is
 * told by this call, on its end. 0: no watermark. The first call for a qcow2 volume blocks: it reads the refcounts
 * that lie last. Any thread. Errors: -EACCES when read-only, -EINVAL, -ECHILD; or of the I/O.
 */
VDISK_API int vdisk_set_watermark(vdisk *v, uint64_t threshold);

struct vdisk_watermark {
    size_t   size;      /* set by the caller: sizeof(struct vdisk_watermark) */
    uint64_t threshold; /* as set; 0: none */
    uint64_t highest;   /* how far the file has been in use: qcow2: the end of the last cluster. Raw: of what was
                         * written since it was opened, rounded up to 1 MiB at most. Does not fall */
    bool     passed;    /* it has been told, and will not be told again before it is set anew */
};

/* Fill `ret_mark`. Blocks as vdisk_set_watermark(), same errors. Any thread. */
VDISK_API int vdisk_get_watermark(vdisk *v, struct vdisk_watermark *ret_mark);

#ifdef __cplusplus
}
#endif
#endif
