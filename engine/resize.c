/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Changing the size of an open volume, as a job: what holds for all formats.
 *
 * Happy path: options and size are judged, other changes of the volume are waited for, the format does it.
 * Failure modes: those of the format; requests are in flight when it is to become smaller: -EBUSY.
 *
 * Invariants.
 *  1. While a volume becomes smaller its requests are the resize's own (volume_shut()): the format reads itself
 *     anew.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/bits.h"
#include "engine/base/error.h"
#include "engine/base/mem.h"
#include "engine/job.h"
#include "engine/loop/queue.h"
#include "engine/volume.h"

struct resize_job {
    vdisk_job                job;
    struct vdisk_resize_opts opts;
    uint64_t                 size, old_size;
};

_Static_assert(offsetof(struct resize_job, job) == 0, "of a job its struct is known");
_Static_assert(offsetof(struct vdisk_resize_result, size) == 0, "of a result its size, too");

static int copy_opts(const vdisk *v, const struct vdisk_resize_opts *user, struct vdisk_resize_opts *ret)
{
    memset(ret, 0, sizeof *ret);
    if (user) {
        if (user->size < sizeof(size_t) || user->size > 4096)
            return err_set(EINVAL, "%s: resize options of size %zu", v->top->name, user->size);
        memcpy(ret, user, min_u64(user->size, sizeof *ret));
    }
    if ((unsigned)ret->preallocation > VDISK_PREALLOC_FULL)
        return err_set(EINVAL, "%s: unknown preallocation %d", v->top->name, (int)ret->preallocation);
    return 0;
}

static int check_size(const vdisk *v, uint64_t size, const struct vdisk_resize_opts *opts)
{
    uint64_t now = vdisk_size(v);

    if (atomic_load(&v->refuses) & VOLUME_READ_ONLY)
        return err_set(EACCES, "%s: is open read-only, or without what lies below it", v->top->name);
    if (!v->top->format->resize)
        return err_set(ENOTSUP, "%s: a %s volume cannot change its size", v->top->name, v->top->format->name);
    if (size > INT64_MAX - 511)
        return err_set(EFBIG, "%s: size %llu is too large", v->top->name, (unsigned long long)size);
    if (align_up(size, 512) >= now)
        return 0;
    if (!opts->shrink)
        return err_hint(err_set(EINVAL, "%s: %llu is less than the present size %llu", v->top->name,
                                (unsigned long long)size, (unsigned long long)now),
                        "what lies behind the new end would be lost; shrinking has to be asked for");
    if (opts->preallocation != VDISK_PREALLOC_OFF)
        return err_set(EINVAL, "%s: preallocation is for growing, not for shrinking", v->top->name);
    return 0;
}

/* With other changes kept out. */
static int resize_on(vdisk *v, uint64_t size, const struct vdisk_resize_opts *opts, vdisk_queue *q)
{
    bool shrinks = size < vdisk_size(v) || (opts->shrink && size == vdisk_size(v));
    int rc = shrinks ? volume_shut(v, "become smaller") : 0; /* invariant 1 */

    assert(atomic_load(&v->manager) == q && is_aligned(size, 512) && !v->top->read_only);
    if (rc < 0)
        return rc;
    /* Of the same size there may be something left: of a shrink that failed half-way, or of another raw file. */
    if (size != vdisk_size(v) || v->top->format->plain || opts->shrink)
        rc = v->top->format->resize(v->top, size, opts, q);
    if (shrinks)
        volume_reopen(v);
    return rc;
}

static int resize_volume(struct resize_job *r)
{
    vdisk *v = r->job.volume;
    vdisk_queue *q;
    int rc = volume_check_handle(v);

    if (rc == 0)
        rc = check_size(v, r->size, &r->opts);
    if (rc < 0)
        return rc;
    r->size = align_up(r->size, 512);
    rc = volume_manage(v, &q);
    if (rc < 0)
        return rc;
    rc = check_size(v, r->size, &r->opts); /* another call may have changed it meanwhile */
    r->old_size = vdisk_size(v);
    if (rc == 0)
        rc = resize_on(v, r->size, &r->opts, q);
    r->size = vdisk_size(v);
    volume_manage_done(v);
    return rc;
}

/* ---- the job ------------------------------------------------------------------------------------------- */

static int resize_work(vdisk_job *j)
{
    return err_advise(resize_volume(container_of(j, struct resize_job, job)));
}

static void resize_release(vdisk_job *j)
{
    mem_free(container_of(j, struct resize_job, job));
}

static const struct job_kind resize_kind = {"resize", resize_work, resize_release, NULL};

static int resize_job_new(vdisk *v, uint64_t size, const struct vdisk_resize_opts *user_opts, vdisk_job **ret_job)
{
    struct vdisk_resize_opts opts = {0};
    struct resize_job *r;
    int rc = volume_check_handle(v);

    if (rc == 0 && !ret_job)
        rc = err_set(EINVAL, "%s: no place for the job", v->top->name);
    if (rc == 0)
        rc = copy_opts(v, user_opts, &opts);
    if (rc < 0)
        return rc;
    r = mem_calloc(1, sizeof *r);
    if (!r)
        return err_set(ENOMEM, "%s: out of memory", v->top->name);
    r->opts = opts;
    r->size = size;
    rc = job_init(&r->job, &resize_kind, v->top->name, v);
    job_watch(&r->job, &r->opts.progress, &r->opts.progress_arg);
    if (rc < 0)
        vdisk_job_free(&r->job);
    else
        *ret_job = &r->job;
    return rc;
}

int vdisk_job_resize(vdisk *v, uint64_t size, const struct vdisk_resize_opts *opts, vdisk_job **ret_job)
{
    return ERR_CALL(resize_job_new(v, size, opts, ret_job));
}

static int get_result(const vdisk_job *j, struct vdisk_resize_result *ret)
{
    size_t size = ret ? ret->size : 0;
    const struct resize_job *r = (const struct resize_job *)(const void *)j;
    int rc = job_check_result(j, &resize_kind, ret, size);

    if (rc == 0)
        memcpy(ret, &(struct vdisk_resize_result){.size = size, .old_size = r->old_size, .virtual_size = r->size},
               min_u64(size, sizeof *ret));
    return rc;
}

int vdisk_job_get_resize_result(const vdisk_job *j, struct vdisk_resize_result *ret_result)
{
    return ERR_CALL(get_result(j, ret_result));
}

static int resize_now(vdisk *v, uint64_t size, const struct vdisk_resize_opts *opts)
{
    vdisk_job *j = NULL;
    int rc = resize_job_new(v, size, opts, &j);

    return rc < 0 ? err_advise(rc) : job_run_once(j);
}

int vdisk_resize(vdisk *v, uint64_t size, const struct vdisk_resize_opts *user_opts)
{
    return ERR_CALL(resize_now(v, size, user_opts));
}

int vdisk_grow(vdisk *v, uint64_t size)
{
    struct vdisk_resize_opts opts = {.size = sizeof opts};

    return ERR_CALL(resize_now(v, size, &opts));
}
