/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The parts of a resize: qcow2/image/resize.c puts them together. All block, outside the loop. */
#ifndef QCOW2_RESIZE_H
#define QCOW2_RESIZE_H

#include "qcow2/image/image.h"

struct qcow2_check_opts;

/* May it have this size, when it is of this version? 0, or an error with a text: resize.c. */
int q2_resize_check(struct layer *layer, uint64_t size, uint32_t version, vdisk_queue *queue);

/*
 * Flush, and write the header with `size`, which is not smaller than what it says, and an L1 table that is long
 * enough for `reach`: grow.c. Does not set layer->size.
 */
int q2_grow_header(struct q2 *q, uint64_t size, uint64_t reach, vdisk_queue *queue);

/* Give host clusters to what has none in [from, end), which reads as zeros: prealloc_range.c. */
int q2_prealloc_range(struct q2 *q, uint64_t from, uint64_t end, const struct vdisk_resize_opts *opts,
                      vdisk_queue *queue);

/* Zeros over [from, end), space given back where that is possible; not flushed: resize_zero.c. */
int q2_resize_zero(struct layer *layer, uint64_t from, uint64_t end, vdisk_queue *queue);

/* Make it smaller; of the same size: end what an earlier one has left: shrink.c. */
int q2_shrink(struct layer *layer, uint64_t size, const struct vdisk_resize_opts *opts, vdisk_queue *queue);

/*
 * New refcounts, by what refers to clusters now; what they leave free goes back to the host. Nothing is in memory
 * that is not on disk; the volume is shut. With text: shrink.c.
 */
int q2_give_back_leaks(struct layer *layer, struct qcow2_check_opts *opts, vdisk_queue *queue);

#endif
