/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef QCOW2_OPEN_REPAIR_H
#define QCOW2_OPEN_REPAIR_H

#include "qcow2/image/image.h"

/*
 * After a crash with lazy refcounts: make the refcounts equal to the references, then clear the dirty bit. Blocks;
 * while the image is being opened: its header is known, none of its tables is in memory. Asks how->progress
 * whether to go on. Errors with a text; then it is as dirty as before.
 */
int q2_open_repair(struct q2 *q, const struct layer_open *how, vdisk_queue *queue);

#endif
