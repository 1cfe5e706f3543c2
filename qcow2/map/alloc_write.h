/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef QCOW2_ALLOC_WRITE_H
#define QCOW2_ALLOC_WRITE_H

#include "qcow2/map/state.h"

/*
 * Write [guest_offset, guest_offset + len) from iov, allocating what it takes; as the call of an await. The caller
 * holds no lock on these guest clusters, nor does it go on to use what it has looked up. `request`: whose write it
 * is; it leaves the volume's gate for a while when there is no space (room.h).
 */
void q2_alloc_write(struct q2_map *map, struct request *request, uint64_t guest_offset, const struct iovec *iov,
                    uint32_t iovcnt, uint64_t len, struct op *op);

/*
 * Give host clusters, which read as zeros, to those of the range that have none and read as zeros; as the call of
 * an await. Whole clusters, but for the volume's end. `prealloc`: VDISK_PREALLOC_FALLOC: with space on the host,
 * -ENOTSUP where there is no such thing; VDISK_PREALLOC_METADATA: without.
 */
void q2_prealloc_clusters(struct q2_map *map, uint64_t guest_offset, uint64_t len, enum vdisk_prealloc prealloc,
                          struct op *op);

/* A write that is not simply in place, with those merged into it. Each ends by request_end(), later. */
void q2_alloc_write_start(struct q2_map *map, struct request *r);

#endif
