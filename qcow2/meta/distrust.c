/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * When metadata turns out not to be what it must be: no more writes, and the reason, which is told once. Reads and
 * close go on.
 */
#include <errno.h>
#include <stdio.h>

#include "engine/error.h"
#include "engine/log.h"
#include "qcow2/meta/state.h"

int q2_break(struct q2_meta *meta, const char *what)
{
    vdisk *v = meta->v;

    if (!atomic_exchange(&meta->broken, true)) {
        snprintf(v->trouble, sizeof v->trouble, "%s; no more writes are accepted", what);
        atomic_store_explicit(&v->has_trouble, true, memory_order_release);
        err_set(EIO, "%s: %s", v->name, v->trouble);
        log_add(VDISK_LOG_ERROR, v->name, "%s", v->trouble);
        if (v->events)
            events_raise(v->events, VDISK_EVENT_CORRUPT);
    }
    return -EIO;
}
