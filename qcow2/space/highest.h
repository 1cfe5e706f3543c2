/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef QCOW2_HIGHEST_H
#define QCOW2_HIGHEST_H

#include "qcow2/state.h"

/* format_driver.highest. Outside the loop; 0 or the error of the I/O. The image is open for writing. */
int q2_highest(vdisk *v, vdisk_queue *queue, uint64_t *ret_end);

#endif
