/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef QCOW2_HIGHEST_H
#define QCOW2_HIGHEST_H

#include "qcow2/space/state.h"

/* Of an image that is open for writing. Outside the loop; 0 or the error of the I/O. */
int q2_highest(struct q2_space *space, vdisk_queue *queue, uint64_t *ret_end);

#endif
