/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Giving space back, as a job: what holds for all formats.
 *
 * Happy path: other changes of the volume are waited for, the format does it. Failure modes: those of the format;
 * what is left is given back another time.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/bits.h"
#include "engine/base/error.h"
#include "engine/base/mem.h"
#include "engine/job.h"
#include "engine/volume.h"

struct trim_job {
    vdisk_job              job;
    struct vdisk_trim_opts opts;
    uint64_t               before, after;
};

_Static_assert(offsetof(struct trim_job, job) == 0, "of a job its struct is known");
_Static_assert(offsetof(struct vdisk_trim_result, size) == 0, "of a result its size, too");

static uint64_t allocated(const vdisk *v)
{
    struct backend *file = v->top->file;

    return file->driver->allocated ? file->driver->allocated(file) : backend_size(file);
}

static int trim_volume(struct trim_job *t)
{
    vdisk *v = t->job.volume;
    vdisk_queue *q;
    int rc = volume_check_handle(v);

    if (rc < 0)
        return rc;
    if (v->top->read_only)
        return err_set(EACCES, "%s: is open read-only", v->top->name);
    t->before = t->after = allocated(v);
    if (!v->top->format->trim)
        return 0;
    rc = volume_manage(v, &q);
    if (rc < 0)
        return rc;
    assert(atomic_load(&v->manager) == q);
    rc = v->top->format->trim(v->top, &t->opts, q);
    t->after = allocated(v);
    volume_manage_done(v);
    return rc;
}

static int trim_work(vdisk_job *j)
{
    return trim_volume(container_of(j, struct trim_job, job));
}

static void trim_release(vdisk_job *j)
{
    mem_free(container_of(j, struct trim_job, job));
}

static const struct job_kind trim_kind = {"trim", trim_work, trim_release, NULL};

static int trim_job_new(vdisk *v, const struct vdisk_trim_opts *opts, vdisk_job **ret_job)
{
    struct trim_job *t;
    int rc = volume_check_handle(v);

    if (rc < 0)
        return rc;
    if (!ret_job)
        return err_set(EINVAL, "%s: no place for the job", v->top->name);
    if (opts && (opts->size < sizeof(size_t) || opts->size > 4096))
        return err_set(EINVAL, "%s: trim options of size %zu", v->top->name, opts->size);
    t = mem_calloc(1, sizeof *t);
    if (!t)
        return err_set(ENOMEM, "%s: out of memory", v->top->name);
    if (opts)
        memcpy(&t->opts, opts, min_u64(opts->size, sizeof t->opts));
    rc = job_init(&t->job, &trim_kind, v->top->name, v);
    job_watch(&t->job, &t->opts.progress, &t->opts.progress_arg);
    if (rc < 0)
        vdisk_job_free(&t->job);
    else
        *ret_job = &t->job;
    return rc;
}

int vdisk_job_trim(vdisk *v, const struct vdisk_trim_opts *opts, vdisk_job **ret_job)
{
    return ERR_CALL(trim_job_new(v, opts, ret_job));
}

static int get_result(const vdisk_job *j, struct vdisk_trim_result *ret)
{
    size_t size = ret ? ret->size : 0;
    const struct trim_job *t = (const struct trim_job *)(const void *)j;
    int rc = job_check_result(j, &trim_kind, ret, size);

    if (rc == 0)
        memcpy(ret, &(struct vdisk_trim_result){.size = size, .allocated_before = t->before,
                                                .allocated_after = t->after},
               min_u64(size, sizeof *ret));
    return rc;
}

int vdisk_job_get_trim_result(const vdisk_job *j, struct vdisk_trim_result *ret_result)
{
    return ERR_CALL(get_result(j, ret_result));
}

static int trim_now(vdisk *v)
{
    vdisk_job *j = NULL;
    int rc = trim_job_new(v, NULL, &j);

    return rc < 0 ? rc : job_run_once(j);
}

int vdisk_trim_space(vdisk *v)
{
    return ERR_CALL(trim_now(v));
}
