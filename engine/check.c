/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Check and repair as jobs, of images that are not open: what is too damaged for that can still be checked.
 *
 * Happy path: the file is opened, locked, and looked at for its format, which does the rest (format->check()).
 * Failure modes: the format has no checks: -ENOSYS; else whatever the format says.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/bits.h"
#include "engine/base/error.h"
#include "engine/base/mem.h"
#include "engine/job.h"
#include "engine/chain/layer_name.h"
#include "engine/volume.h"

struct check_job {
    vdisk_job                  job;
    struct vdisk_check_opts    opts;
    char                      *format; /* what opts.format points to */
    enum vdisk_repair          what;
    struct vdisk_check_result  found;
    struct vdisk_repair_result fixed;
};

_Static_assert(offsetof(struct check_job, job) == 0, "of a job its struct is known");
_Static_assert(offsetof(struct vdisk_check_result, size) == 0 && offsetof(struct vdisk_repair_result, size) == 0,
               "of a result its size, too");

static int no_checks(const struct check_job *c, const struct format_driver *f)
{
    return err_hint(err_set(ENOSYS, "%s: the format %s has no checks", c->job.name, f->name),
                    "name the format, if it is another");
}

static int check_file(struct check_job *c, struct backend *file, const struct format_driver *f, vdisk_queue *q)
{
    int rc = f ? 0 : format_probe(file, q, &f);

    if (rc < 0)
        return rc;
    assert(c->what == VDISK_REPAIR_NOTHING || !file->read_only);
    return f->check ? f->check(file, c->what, &c->opts, q, &c->found, &c->fixed) : no_checks(c, f);
}

static int check_image(struct check_job *c)
{
    uint32_t flags = c->opts.flags | (c->what != VDISK_REPAIR_NOTHING ? VDISK_OPEN_RDWR : 0u);
    struct backend *file = NULL;
    struct layer_name n;
    vdisk_queue *q = NULL;
    int rc = layer_name_parse(c->job.name, NULL, c->opts.format, flags, &n);

    if (rc < 0)
        return rc;
    if (n.format && !n.format->check)
        rc = no_checks(c, n.format);
    if (rc == 0)
        rc = volume_queue(c->job.name, &q);
    if (rc == 0)
        rc = backend_open_node(n.name, n.file, layer_backend_flags(n.flags), &file);
    if (rc == 0) {
        rc = check_file(c, file, n.format, q);
        backend_close(file);
    }
    layer_name_free(&n);
    return rc;
}

static int check_work(vdisk_job *j)
{
    return err_advise(check_image(container_of(j, struct check_job, job)));
}

static void check_release(vdisk_job *j)
{
    struct check_job *c = container_of(j, struct check_job, job);

    mem_free(c->format);
    mem_free(c);
}

static const struct job_kind check_kind = {"check", check_work, check_release, NULL};
static const struct job_kind repair_kind = {"repair", check_work, check_release, NULL};

static int copy_opts(const char *name, enum vdisk_repair what, const struct vdisk_check_opts *user,
                     struct vdisk_check_opts *ret)
{
    const uint32_t all = VDISK_OPEN_BUFFERED | VDISK_OPEN_FORCE_SHARE | VDISK_OPEN_NO_LOCK;

    if (user && (user->size < sizeof(size_t) || user->size > 4096))
        return err_set(EINVAL, "%s: check options of size %zu", name, user->size);
    if (user)
        memcpy(ret, user, min_u64(user->size, sizeof *ret));
    if (ret->flags & ~all)
        return err_set(EINVAL, "%s: open flags 0x%x are not for a check", name, ret->flags);
    if ((unsigned)what > VDISK_REPAIR_ALL)
        return err_set(EINVAL, "%s: unknown repair %d", name, (int)what);
    if (what != VDISK_REPAIR_NOTHING && ret->flags & VDISK_OPEN_FORCE_SHARE)
        return err_set(EINVAL, "%s: force-share is for reading only", name);
    return 0;
}

static int check_job_new(const char *name, enum vdisk_repair what, const struct vdisk_check_opts *opts,
                         vdisk_job **ret_job)
{
    bool repairs = what != VDISK_REPAIR_NOTHING;
    struct vdisk_check_opts copy = {.size = 0};
    struct check_job *c;
    int rc = volume_check_name(name);

    if (rc == 0 && !ret_job)
        rc = err_set(EINVAL, "%s: no place for the job", name);
    if (rc == 0)
        rc = copy_opts(name, what, opts, &copy);
    if (rc < 0)
        return rc;
    c = mem_calloc(1, sizeof *c);
    if (!c)
        return err_set(ENOMEM, "%s: out of memory", name);
    assert(!repairs || !(copy.flags & VDISK_OPEN_FORCE_SHARE));
    c->what = what;
    c->opts = copy;
    rc = job_init(&c->job, repairs ? &repair_kind : &check_kind, name, NULL);
    c->format = c->opts.format ? mem_strdup(c->opts.format) : NULL;
    if (c->opts.format && !c->format)
        rc = err_set(ENOMEM, "%s: out of memory", name);
    c->opts.format = c->format;
    job_watch(&c->job, &c->opts.progress, &c->opts.progress_arg);
    if (rc < 0)
        vdisk_job_free(&c->job);
    else
        *ret_job = &c->job;
    return rc;
}

int vdisk_job_check(const char *name, const struct vdisk_check_opts *opts, vdisk_job **ret_job)
{
    return ERR_CALL(check_job_new(name, VDISK_REPAIR_NOTHING, opts, ret_job));
}

int vdisk_job_repair(const char *name, enum vdisk_repair what, const struct vdisk_check_opts *opts,
                     vdisk_job **ret_job)
{
    return ERR_CALL(what == VDISK_REPAIR_NOTHING ? err_set(EINVAL, "nothing is to be repaired")
                                                 : check_job_new(name, what, opts, ret_job));
}

static int get_check_result(const vdisk_job *j, struct vdisk_check_result *ret)
{
    const struct job_kind *kind = j && j->kind == &repair_kind ? &repair_kind : &check_kind;
    size_t size = ret ? ret->size : 0;
    int rc = job_check_result(j, kind, ret, size);

    if (rc == 0) {
        memcpy(ret, &((const struct check_job *)(const void *)j)->found, min_u64(size, sizeof *ret));
        ret->size = size;
    }
    return rc;
}

int vdisk_job_get_check_result(const vdisk_job *j, struct vdisk_check_result *ret_result)
{
    return ERR_CALL(get_check_result(j, ret_result));
}

static int get_repair_result(const vdisk_job *j, struct vdisk_repair_result *ret)
{
    size_t size = ret ? ret->size : 0;
    int rc = job_check_result(j, &repair_kind, ret, size);

    if (rc == 0) {
        memcpy(ret, &((const struct check_job *)(const void *)j)->fixed, min_u64(size, sizeof *ret));
        ret->size = size;
    }
    return rc;
}

int vdisk_job_get_repair_result(const vdisk_job *j, struct vdisk_repair_result *ret_result)
{
    return ERR_CALL(get_repair_result(j, ret_result));
}
