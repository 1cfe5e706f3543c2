/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The end of making an image: it counts from here on.
 *
 * Happy path: other changes of the volume are waited for, requests kept out; a flush; the format writes its mark.
 * Failure modes: requests are in flight: -EBUSY. The flush fails: it is unfinished still. The mark cannot be
 * written: it is not known which of both it is, and the format takes no more writes.
 *
 * Invariants.
 *  1. Requests are refused meanwhile: what they wrote would not be durable, and the format changes its header by
 *     what it was when the change began.
 */
#include <errno.h>

#include "engine/base/error.h"
#include "engine/base/mutant.h"
#include "engine/volume.h"

static int finish_on(vdisk *v, vdisk_queue *q)
{
    int rc = volume_shut(v, "be finished"); /* invariant 1 */

    assert(atomic_load(&v->manager) == q && !v->top->read_only);
    if (rc < 0)
        return rc;
    if (ENGINE_MUTANT(FINISH_OPEN))
        volume_reopen(v);
    if (!ENGINE_MUTANT(FINISH_UNFLUSHED))
        rc = vdisk_sync(v);
    if (rc == 0 && v->top->format->finish)
        rc = v->top->format->finish(v->top, q);
    volume_reopen(v);
    return rc;
}

static int finish(vdisk *v)
{
    vdisk_queue *q = NULL;
    int rc = volume_check_handle(v);

    if (rc == 0 && v->top->read_only)
        return err_set(EACCES, "%s: is open read-only", v->top->name);
    if (rc == 0)
        rc = volume_manage(v, &q);
    if (rc < 0)
        return rc;
    rc = finish_on(v, q);
    volume_manage_done(v);
    return rc;
}

int vdisk_finish(vdisk *v)
{
    return ERR_CALL(finish(v));
}
