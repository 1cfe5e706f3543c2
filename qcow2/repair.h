/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef QCOW2_REPAIR_H
#define QCOW2_REPAIR_H

#include "qcow2/state.h"

/*
 * After a crash with lazy refcounts: make the refcounts equal to the references, then clear the dirty bit. Blocks; outside
 * the loop, nothing else is in flight. Errors with a text.
 */
int q2_repair_refcounts(struct q2 *q, vdisk_queue *queue);

#endif
