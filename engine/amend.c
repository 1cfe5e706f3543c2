/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Changing what an open image is, as a job: what holds for all formats.
 *
 * Happy path: other changes of the volume are waited for, requests kept out; the format is asked whether it would
 * refuse, and does it.
 * Failure modes: requests are in flight: -EBUSY; those of the format, of which some steps may be done then.
 *
 * Invariants.
 *  1. Nothing changes before all has been asked for that can be refused.
 */
#include <errno.h>
#include <string.h>

#include "engine/base/bits.h"
#include "engine/base/error.h"
#include "engine/base/mem.h"
#include "engine/change.h"
#include "engine/job.h"

struct amend {
    vdisk_job               job;
    struct vdisk_amend_opts opts;
    char                   *backing_file, *backing_fmt; /* opts' own */
};

_Static_assert(offsetof(struct amend, job) == 0, "of a job its struct is known");

enum { LAZY = VDISK_AMEND_LAZY_ON | VDISK_AMEND_LAZY_OFF };

/* ---- what forbids it ------------------------------------------------------------------------------------ */

static int check_opts(const char *name, const struct vdisk_amend_opts *o)
{
    if (o->flags & ~(uint32_t)(VDISK_AMEND_SHRINK | LAZY) || (o->flags & LAZY) == LAZY)
        return err_set(EINVAL, "%s: unknown flags of an amendment", name);
    if (o->version != 0 && o->version != 2 && o->version != 3)
        return err_set(EINVAL, "%s: Unknown compatibility level %u", name, o->version);
    if (o->refcount_bits != 0 && (o->refcount_bits > 64 || !is_power_of_two(o->refcount_bits)))
        return err_set(EINVAL, "%s: Refcount width must be a power of two and may not exceed 64 bits", name);
    if (!is_aligned(o->virtual_size, 512))
        return err_set(EINVAL, "%s: The new size must be a multiple of 512", name);
    if (o->virtual_size > INT64_MAX - 511)
        return err_set(EFBIG, "%s: size %llu is too large", name, (unsigned long long)o->virtual_size);
    return 0;
}

static int check_size(const vdisk *v, const struct vdisk_amend_opts *o)
{
    if (o->virtual_size == 0 || o->virtual_size == vdisk_size(v))
        return 0;
    if (v->cut)
        return err_set(EACCES, "%s: is open without what lies below it", v->top->name);
    if (o->virtual_size < vdisk_size(v) && !(o->flags & VDISK_AMEND_SHRINK))
        return err_hint(err_set(EINVAL, "%s: %llu is less than the present size %llu", v->top->name,
                                (unsigned long long)o->virtual_size, (unsigned long long)vdisk_size(v)),
                        "what lies behind the new end would be lost; shrinking has to be asked for");
    return 0;
}

/* ---- the work ------------------------------------------------------------------------------------------- */

static bool is_given(const char *text)
{
    return text && text[0] != '\0';
}

/* The backing file that it is to have, in both texts: of what is not given the present one. False: it stays. */
static bool find_backing(const struct layer *top, struct vdisk_amend_opts *o)
{
    bool format = is_given(o->backing_fmt);

    if (!o->backing_file && !format)
        return false;
    if (!o->backing_file)
        o->backing_file = top->backing_name ? top->backing_name : "";
    if (!format)
        o->backing_fmt = is_given(o->backing_file) ? top->backing_format : NULL;
    return true;
}

static int amend_shut(vdisk *v, const struct vdisk_amend_opts *user, vdisk_queue *q)
{
    const struct format_driver *format = v->top->format;
    struct vdisk_amend_opts o = *user;
    bool backing = find_backing(v->top, &o);
    int rc = check_size(v, &o);

    assert(atomic_load(&v->manager) == q && !v->top->read_only);
    if (rc == 0)
        rc = format->amend(v->top, &o, true, q);
    if (rc < 0)
        return rc;
    rc = format->amend(v->top, &o, false, q); /* invariant 1 */
    if (backing) /* it may have been set before what has failed */
        change_takes_no_more(v);
    return rc;
}

static int amend(struct amend *a)
{
    vdisk *v = a->job.volume;
    vdisk_queue *q = NULL;
    int rc = volume_check_handle(v);

    if (rc == 0 && !v->top->format->amend)
        rc = err_set(ENOTSUP, "%s: Format driver '%s' does not support option amendment", v->top->name,
                     v->top->format->name);
    if (rc == 0)
        rc = change_begin(v, "be amended", NULL, &q);
    return rc < 0 ? rc : change_end(v, amend_shut(v, &a->opts, q));
}

/* ---- the job -------------------------------------------------------------------------------------------- */

static int amend_work(vdisk_job *j)
{
    return err_advise(amend(container_of(j, struct amend, job)));
}

static void amend_release(vdisk_job *j)
{
    struct amend *a = container_of(j, struct amend, job);

    mem_free(a->backing_file);
    mem_free(a->backing_fmt);
    mem_free(a);
}

static const struct job_kind amend_kind = {"amendment", amend_work, amend_release, NULL};

static int copy_opts(struct amend *a, const struct vdisk_amend_opts *user)
{
    struct vdisk_amend_opts *o = &a->opts;

    memcpy(o, user, min_u64(user->size, sizeof *o));
    a->backing_file = o->backing_file ? mem_strdup(o->backing_file) : NULL;
    a->backing_fmt = o->backing_fmt ? mem_strdup(o->backing_fmt) : NULL;
    if ((o->backing_file && !a->backing_file) || (o->backing_fmt && !a->backing_fmt))
        return err_set(ENOMEM, "out of memory");
    o->backing_file = a->backing_file;
    o->backing_fmt = a->backing_fmt;
    return 0;
}

static int amend_job_new(vdisk *v, const struct vdisk_amend_opts *opts, vdisk_job **ret_job)
{
    struct amend *a;
    int rc = volume_check_handle(v);

    if (rc == 0 && !ret_job)
        rc = err_set(EINVAL, "%s: no place for the job", v->top->name);
    if (rc == 0 && (!opts || opts->size < sizeof(size_t) || opts->size > 4096))
        rc = err_set(EINVAL, "%s: options of an amendment missing, or of a wrong size", v->top->name);
    if (rc < 0)
        return rc;
    a = mem_calloc(1, sizeof *a);
    if (!a)
        return err_set(ENOMEM, "%s: out of memory", v->top->name);
    rc = job_init(&a->job, &amend_kind, v->top->name, v);
    if (rc == 0)
        rc = copy_opts(a, opts);
    if (rc == 0)
        rc = check_opts(v->top->name, &a->opts);
    job_watch(&a->job, &a->opts.progress, &a->opts.progress_arg);
    if (rc < 0)
        vdisk_job_free(&a->job);
    else
        *ret_job = &a->job;
    return rc;
}

int vdisk_job_amend(vdisk *v, const struct vdisk_amend_opts *opts, vdisk_job **ret_job)
{
    return ERR_CALL(amend_job_new(v, opts, ret_job));
}
