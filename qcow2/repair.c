/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "qcow2/repair.h"

#include <errno.h>

#include "engine/error.h"

int q2_repair_refcounts(struct q2 *q, vdisk_queue *queue)
{
    (void)queue;
    return err_hint(err_set(ENOTSUP, "%s: was not closed (lazy refcounts) and has to be repaired", q->v->name),
                    "qemu-img check -r all");
}
