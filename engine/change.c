/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What an open volume has below it, changed: what holds for all formats.
 *
 * Happy path: other changes of the volume are waited for, requests kept out, the format does it.
 * Failure modes: requests are in flight: -EBUSY; those of the format.
 *
 * Invariants.
 *  1. Requests are refused meanwhile: the format changes metadata as a whole.
 *  2. Whose backing file has another name takes no more changes: the layers below are still the old ones, and what
 *     a write would copy from there, or leave to them, might be wrong.
 */
#include <errno.h>
#include <string.h>

#include "engine/base/error.h"
#include "engine/change.h"
#include "engine/base/mutant.h"
#include "engine/loop/queue.h"
#include "engine/volume.h"

/* What another change has left is known by the manager. */
static bool is_writable(const vdisk *v)
{
    assert(atomic_load(&v->manager) != NULL);
    return !(atomic_load(&v->refuses) & VOLUME_READ_ONLY) || v->cut;
}

int change_begin(vdisk *v, const char *what, const char *lack, vdisk_queue **ret_queue)
{
    int rc = volume_check_handle(v);

    if (rc < 0)
        return rc;
    if (lack)
        return err_set(ENOTSUP, "%s: a %s volume %s", v->top->name, v->top->format->name, lack);
    if (v->top->read_only)
        return err_set(EACCES, "%s: is open read-only", v->top->name);
    rc = volume_manage(v, ret_queue);
    if (rc < 0)
        return rc;
    if (!is_writable(v) && !ENGINE_MUTANT(CHANGE_FORESEEN)) /* invariant 2 */
        rc = err_set(EACCES, "%s: takes no more changes", v->top->name);
    if (rc == 0)
        rc = volume_shut(v, what); /* invariant 1 */
    if (rc < 0)
        volume_manage_done(v);
    return rc;
}

int change_end(vdisk *v, int rc)
{
    assert(atomic_load(&v->refuses) & VOLUME_SHUT);
    volume_reopen(v);
    volume_manage_done(v);
    if (rc < 0 && vdisk_error_text()[0] == '\0')
        err_set(rc, "%s: changing it: %s", v->top->name, strerror(-rc));
    return rc;
}

void change_takes_no_more(vdisk *v)
{
    atomic_fetch_or(&v->refuses, VOLUME_READ_ONLY); /* invariant 2 */
    v->cut = false;
}

static int make_empty(vdisk *v, vdisk_progress_fn *progress, void *progress_arg)
{
    vdisk_queue *q;
    int rc = change_begin(v, "become empty", !v || v->top->format->make_empty ? NULL : "has no backing file", &q);

    if (rc < 0)
        return rc;
    if (!v->top->backing_name || v->top->backing_name[0] == '\0')
        rc = err_set(EINVAL, "%s: has no backing file, which would have its content", v->top->name);
    if (rc == 0)
        rc = v->top->format->make_empty(v->top, progress, progress_arg, q);
    return change_end(v, rc);
}

int vdisk_make_empty(vdisk *v, vdisk_progress_fn *progress, void *progress_arg)
{
    return ERR_CALL(make_empty(v, progress, progress_arg));
}

static int set_backing(vdisk *v, const char *file, const char *format, bool only_check)
{
    vdisk_queue *q;
    bool possible = !v || v->top->format->set_backing;
    int rc = change_begin(v, "get another backing file", possible ? NULL : "has no backing file", &q);

    if (rc < 0)
        return rc;
    rc = v->top->format->set_backing(v->top, file && file[0] != '\0' ? file : NULL, format, only_check, q);
    if (rc == 0 && !only_check)
        change_takes_no_more(v);
    return change_end(v, rc);
}

int vdisk_set_backing(vdisk *v, const char *backing_file, const char *backing_fmt)
{
    return ERR_CALL(set_backing(v, backing_file, backing_fmt, false));
}

int vdisk_check_backing(vdisk *v, const char *backing_file, const char *backing_fmt)
{
    return ERR_CALL(set_backing(v, backing_file, backing_fmt, true));
}
