/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Opening a volume as a job.
 *
 * Happy path: options are copied, descriptors duplicated; the job opens, and keeps the volume until it is taken.
 * Failure modes: those of opening, which leave nothing; nobody takes the volume: it is closed with the job.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/base/bits.h"
#include "engine/base/error.h"
#include "engine/base/mem.h"
#include "engine/job.h"
#include "engine/loop/given.h"
#include "engine/volume.h"

struct open_job {
    vdisk_job              job;
    struct vdisk_open_opts opts;
    char                  *format, *data_file;
    struct vdisk_fd       *fds;    /* duplicates, with names of our own */
    uint32_t               fds_count;
    _Atomic(vdisk *)       opened; /* NULL: not (yet), or taken */
};

_Static_assert(offsetof(struct open_job, job) == 0, "of a job its struct is known");

static struct open_job *of_job(vdisk_job *j)
{
    return container_of(j, struct open_job, job);
}

/* As soon as they are of no use. */
static void close_fds(struct open_job *o)
{
    for (uint32_t i = 0; i < o->fds_count; i++) {
        if (o->fds[i].fd >= 0)
            close(o->fds[i].fd);
        mem_free(unconst(o->fds[i].name));
    }
    o->fds_count = 0;
}

static int open_work(vdisk_job *j)
{
    struct open_job *o = of_job(j);
    vdisk *v = NULL;
    int rc = volume_open(j->name, &o->opts, &v);

    close_fds(o);
    assert((rc == 0) == (v != NULL) && !atomic_load(&o->opened));
    if (rc == 0)
        atomic_store(&o->opened, v);
    return rc;
}

static int open_leave(vdisk_job *j)
{
    struct open_job *o = of_job(j);
    vdisk *v = atomic_exchange(&o->opened, NULL);
    bool gone = true;
    int rc = v ? volume_close(v, 0, &gone) : 0;

    if (!gone)
        atomic_store(&o->opened, v);
    return gone ? 0 : rc;
}

static void open_release(vdisk_job *j)
{
    struct open_job *o = of_job(j);

    close_fds(o);
    mem_free(o->fds);
    mem_free(o->format);
    mem_free(o->data_file);
    mem_free(o);
}

static const struct job_kind open_kind = {"opening", open_work, open_release, open_leave};

static int copy_fds(struct open_job *o, const struct vdisk_open_opts *opts)
{
    const char *name = o->job.name;
    int rc = given_check(opts->fds, opts->fds_count, name);

    if (rc < 0 || opts->fds_count == 0)
        return rc;
    o->fds = mem_calloc(opts->fds_count, sizeof *o->fds);
    if (!o->fds)
        return err_set(ENOMEM, "%s: out of memory", name);
    for (uint32_t i = 0; i < opts->fds_count; i++) {
        const struct vdisk_fd *from = &opts->fds[i];
        struct vdisk_fd *to = &o->fds[o->fds_count++];
        to->name = from->name ? mem_strdup(from->name) : NULL;
        to->fd = fcntl(from->fd, F_DUPFD_CLOEXEC, 0);
        if (to->fd < 0)
            return err_set(errno, "%s: descriptor %d: %s", name, from->fd, strerror(errno));
        if (from->name && !to->name)
            return err_set(ENOMEM, "%s: out of memory", name);
    }
    return 0;
}

/* What the caller gave may go. */
static int copy_opts(struct open_job *o, const struct vdisk_open_opts *user)
{
    struct vdisk_open_opts *opts = &o->opts;
    int rc;

    if (user)
        memcpy(opts, user, min_u64(user->size, sizeof *opts));
    opts->size = sizeof *opts;
    rc = copy_fds(o, opts);
    if (rc < 0)
        return rc;
    opts->fds = o->fds;
    o->format = opts->format ? mem_strdup(opts->format) : NULL;
    o->data_file = opts->data_file ? mem_strdup(opts->data_file) : NULL;
    if ((opts->format && !o->format) || (opts->data_file && !o->data_file))
        return err_set(ENOMEM, "%s: out of memory", o->job.name);
    opts->format = o->format;
    opts->data_file = o->data_file;
    job_watch(&o->job, &opts->progress, &opts->progress_arg);
    return 0;
}

static int open_job_new(const char *name, const struct vdisk_open_opts *opts, vdisk_job **ret_job)
{
    struct open_job *o;
    int rc = volume_check_name(name);

    if (rc < 0)
        return rc;
    if (opts && (opts->size < sizeof(size_t) || opts->size > 4096))
        return err_set(EINVAL, "%s: open options of size %zu", name, opts->size);
    if (!ret_job)
        return err_set(EINVAL, "%s: no place for the job", name);
    o = mem_calloc(1, sizeof *o);
    if (!o)
        return err_set(ENOMEM, "%s: out of memory", name);
    rc = job_init(&o->job, &open_kind, name, NULL);
    if (rc == 0)
        rc = copy_opts(o, opts);
    if (rc < 0)
        vdisk_job_free(&o->job);
    else
        *ret_job = &o->job;
    return rc;
}

int vdisk_job_open(const char *name, const struct vdisk_open_opts *opts, vdisk_job **ret_job)
{
    return ERR_CALL(open_job_new(name, opts, ret_job));
}

static int take_volume(vdisk_job *j, vdisk **ret_vdisk)
{
    int rc = job_check_result(j, &open_kind, "", sizeof(size_t)); /* there is no struct of a wrong size */
    vdisk *v;

    if (rc < 0)
        return rc;
    if (!ret_vdisk)
        return err_set(EINVAL, "%s: no place for the handle", j->name);
    v = atomic_exchange(&of_job(j)->opened, NULL);
    if (!v)
        return err_set(EALREADY, "%s: the volume has been taken from this job", j->name);
    *ret_vdisk = v;
    return 0;
}

int vdisk_job_take_volume(vdisk_job *job, vdisk **ret_vdisk)
{
    return ERR_CALL(take_volume(job, ret_vdisk));
}
