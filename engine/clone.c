/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Two raw volumes that share their blocks on the host.
 *
 * Happy path: both are whole files, of one backend that can do it; other changes of the target are waited for.
 * Failure modes: whatever stands in the way is -ENOTSUP, before anything has changed, or by the host: the caller
 * copies.
 */
#include <errno.h>
#include <string.h>

#include "engine/base/error.h"
#include "engine/clone.h"

static int cannot(const vdisk *target, const char *why)
{
    return err_set(ENOTSUP, "%s: cannot share blocks with the source: %s", target->top->name, why);
}

static int clone_on(vdisk *source, vdisk *target)
{
    struct backend *from = source->top->file, *to = target->top->file;
    int rc;

    if (!clone_is_plain(source) || !clone_is_plain(target) || from->driver != to->driver)
        return cannot(target, "both have to be raw, in whole files");
    if (target->top->guarded > 0) /* guard.c would have to see what comes into the first sector */
        return cannot(target, "that it is raw was a guess");
    if (backend_size(from) > backend_size(to) || backend_is(from, &to->id))
        return cannot(target, "it has to be another file, and as long");
    assert(vdisk_size(source) <= vdisk_size(target) + 511);
    rc = to->driver->clone(to, from);
    if (rc < 0)
        return cannot(target, strerror(-rc));
    layer_note_end(target->top, backend_size(from));
    return 0;
}

static int clone_volume(vdisk *source, vdisk *target)
{
    vdisk_queue *q;
    int rc = volume_check_handle(source);

    if (rc == 0)
        rc = volume_check_handle(target);
    if (rc == 0 && target->top->read_only)
        return err_set(EACCES, "%s: is open read-only", target->top->name);
    if (rc == 0 && source == target)
        return err_set(EINVAL, "%s: is source and target", target->top->name);
    if (rc == 0)
        rc = volume_manage(target, &q);
    if (rc < 0)
        return rc;
    rc = clone_on(source, target);
    volume_manage_done(target);
    return rc;
}

int vdisk_clone(vdisk *source, vdisk *target)
{
    return ERR_CALL(clone_volume(source, target));
}
