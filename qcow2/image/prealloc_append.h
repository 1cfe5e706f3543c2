/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Preallocation by pieces behind the end of the file, for the new range of a resize: prealloc_append.c. */
#ifndef QCOW2_PREALLOC_APPEND_H
#define QCOW2_PREALLOC_APPEND_H

#include "qcow2/image/image.h"

/* What goes on; for who looks at it between turns of the queue's loop, and may set `stop`. */
struct q2_append_watch {
    bool     stop;
    uint64_t done; /* guest bytes */
};

/*
 * Give clusters to [guest_offset, guest_offset + len), or to as much of it as one piece holds; as the call of an
 * await. L2 tables begin at guest_offset, none of the range is there yet, and nobody else uses it. What is mapped
 * reads as zeros. VDISK_PREALLOC_FALLOC: with space on the host, VDISK_PREALLOC_METADATA: without.
 * watch->done: how much it became; 0: there is no place, clusters are to be taken one by one. op->rc: 0,
 * -ECANCELED after `stop`, -ENOSPC, -EFBIG, -ENOMEM, of the I/O: then nothing has been given.
 */
void q2_prealloc_append(struct q2 *q, uint64_t guest_offset, uint64_t len, enum vdisk_prealloc mode,
                        struct q2_append_watch *watch, struct op *op);

#endif
