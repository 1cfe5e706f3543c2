/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * When metadata turns out not to be what it must be: no more writes, and the reason, which is told once. Reads and
 * close go on.
 *
 * What the image says wrongly (q2_break()): what this handle has in memory is right, and is still written by a
 * flush; the header is marked corrupt by the next change that fails for it, or at close. Where it is not known to
 * be the image's fault (q2_doubt()) there is no mark. What we have in memory wrongly (q2_breach()): none of it is
 * written any more, so a flush fails.
 *
 * Invariants.
 *  1. Who is refused finds the reason: it is there before the volume is marked.
 *  2. After a breach nothing is written to the image but what was in flight.
 */
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "engine/base/error.h"
#include "engine/loop/log.h"
#include "qcow2/meta/state.h"
#include "qcow2/mutant.h"

static void tell(struct q2_meta *meta, const char *what)
{
    struct layer *layer = meta->layer;

    snprintf(layer->trouble, sizeof layer->trouble, "%s; no more writes are accepted", what);
    atomic_store_explicit(&layer->has_trouble, true, memory_order_release); /* invariant 1 */
    atomic_store(&layer->writes_in_place, false);
    log_add(VDISK_LOG_ERROR, layer->name, "%s", layer->trouble);
    if (layer->volume->events)
        events_raise(layer->volume->events, VDISK_EVENT_CORRUPT);
}

int q2_doubt(struct q2_meta *meta, const char *what)
{
    if (!atomic_exchange(&meta->broken, true)) {
        tell(meta, what);
        err_set(EIO, "%s: %s", meta->layer->name, meta->layer->trouble);
    }
    return -EIO;
}

int q2_break(struct q2_meta *meta, const char *what)
{
    if (!atomic_load(&meta->broken) && meta->guarded && meta->geo.version >= 3 && !MUTANT(FORGET_MARK))
        atomic_store(&meta->must_mark, true);
    return q2_doubt(meta, what);
}

#ifndef NDEBUG
bool q2_breach_goes_on;
#endif

bool q2_breach(struct q2_meta *meta, const char *what, const char *file, int line)
{
    const char *base = strrchr(file, '/');
    char text[200];

#ifndef NDEBUG
    if (!q2_breach_goes_on)
        __assert_fail(what, file, (unsigned)line, "an invariant");
#endif
    atomic_store(&meta->breached, true);
    snprintf(text, sizeof text, "internal error: %s (%s:%d)", what, base ? base + 1 : file, line);
    q2_doubt(meta, text);
    err_hint(err_set(EIO, "%s: %s", meta->layer->name, text),
             "close it, and look with vdisk-io check; please report this");
    return false;
}

bool q2_takes_writes(const struct q2_meta *meta)
{
    return !atomic_load(&meta->broken) || MUTANT(DOUBT_UNSEEN);
}
