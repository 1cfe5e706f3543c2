/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Jobs of the caller's own: a function of his that blocks, run as any job is.
 *
 * Happy path: vdisk_job_make() counts the job in the volumes that it is about; the function is called on the job's
 * thread, as if from outside the library, tells its steps, and returns. Failure modes: it returns an error, whose
 * text is what it gave to vdisk_job_fail(), else that of the last call of the library, else the errno's.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/bits.h"
#include "engine/base/error.h"
#include "engine/base/mem.h"
#include "engine/base/mutant.h"
#include "engine/job.h"
#include "engine/volume.h"

struct own_job {
    vdisk_job                    job;
    struct job_kind              engine_kind;
    struct vdisk_job_kind        kind;
    const struct vdisk_job_kind *id;     /* as given: by it results are asked for */
    void                        *arg;
    bool                         failed; /* vdisk_job_fail() has been called: */
    char                         text[1024], hint[512];
};

_Static_assert(offsetof(struct own_job, job) == 0, "of a job its struct is known");

static int own_work(vdisk_job *j)
{
    struct own_job *o = container_of(j, struct own_job, job);
    unsigned depth = err_state.depth;
    int rc;

    assert(j->kind == &o->engine_kind && o->kind.work != NULL && !o->failed);
    err_state.depth = 0; /* it is a caller: the text is that of its last call */
    rc = o->kind.work(j, o->arg);
    err_state.depth = depth;
    rc = rc < 0 ? rc : 0;
    if (rc < 0 && o->failed && !ENGINE_MUTANT(JOB_FORGETS_TEXT))
        return err_hint(err_set(rc, "%s", o->text), "%s", o->hint);
    if (rc < 0 && vdisk_error_text()[0] == '\0')
        err_set(rc, "%s: the %s: %s", j->name, j->kind->name, strerror(-rc));
    return rc;
}

static void own_release(vdisk_job *j)
{
    struct own_job *o = container_of(j, struct own_job, job);

    if (o->arg && o->kind.release)
        o->kind.release(o->arg);
    mem_free(o);
}

/* ---- making it --------------------------------------------------------------------------------------- */

static int check_kind(const struct vdisk_job_kind *kind, const char *name)
{
    int rc = volume_check_name(name);

    if (rc < 0)
        return rc;
    if (!kind || kind->size < offsetof(struct vdisk_job_kind, release) || kind->size > 4096 || !kind->work ||
        !kind->name)
        return err_set(EINVAL, "%s: the kind of the job is missing, or has no name or no work", name);
    return 0;
}

static int check_volumes(const char *name, vdisk *const *volumes, unsigned n)
{
    int rc = 0;

    if (n > 0 && !volumes)
        return err_set(EINVAL, "%s: no list of volumes", name);
    for (unsigned i = 0; i < n && rc == 0; i++)
        rc = volume_check_handle(volumes[i]);
    return rc;
}

static int own_job_new(const struct vdisk_job_kind *kind, const char *name, void *arg, vdisk *const *volumes,
                       unsigned n, vdisk_job **ret_job)
{
    struct own_job *o;
    int rc = check_kind(kind, name);

    if (rc == 0)
        rc = check_volumes(name, volumes, n);
    if (rc < 0)
        return rc;
    if (!ret_job)
        return err_set(EINVAL, "%s: no place for the job", name);
    o = mem_calloc(1, sizeof *o);
    if (!o)
        return err_set(ENOMEM, "%s: out of memory", name);
    memcpy(&o->kind, kind, min_u64(kind->size, sizeof o->kind));
    o->id = kind;
    o->engine_kind = (struct job_kind){.name = kind->name, .work = own_work, .release = own_release};
    rc = job_init(&o->job, &o->engine_kind, name, NULL);
    if (rc == 0)
        rc = job_hold(&o->job, volumes, n);
    if (rc < 0) {
        vdisk_job_free(&o->job); /* arg is not ours yet */
        return rc;
    }
    o->arg = arg;
    *ret_job = &o->job;
    return 0;
}

int vdisk_job_make(const struct vdisk_job_kind *kind, const char *name, void *arg, vdisk *const *volumes,
                   unsigned n_volumes, vdisk_job **ret_job)
{
    return ERR_CALL(own_job_new(kind, name, arg, volumes, n_volumes, ret_job));
}

/* ---- from its work ------------------------------------------------------------------------------------ */

/* NULL, with a text: it is not one of these, or it is not at work. */
static struct own_job *at_work(vdisk_job *j, const char *what)
{
    if (!j || j->kind->work != own_work || atomic_load(&j->state) != VDISK_JOB_RUNNING) {
        err_set(EINVAL, "%s: %s is for the work of a job of vdisk_job_make()", j ? j->name : "no job", what);
        return NULL;
    }
    return container_of(j, struct own_job, job);
}

static int step(vdisk_job *j, uint64_t done, uint64_t total)
{
    if (!at_work(j, "a step"))
        return -EINVAL;
    return job_step(j, done, total) ? err_set(ECANCELED, "%s: the %s was cancelled", j->name, j->kind->name) : 0;
}

int vdisk_job_step(vdisk_job *job, uint64_t done, uint64_t total)
{
    return ERR_CALL(step(job, done, total));
}

/* Where who sets the error gives no hint: of other errors he knows better whether there is one. */
static const char *own_hint(int err)
{
    return abs(err) == ENOMEM ? err_advice(-ENOMEM) : "";
}

static int fail(vdisk_job *j, int err, const char *text, const char *hint)
{
    struct own_job *o = at_work(j, "a failure");

    if (!o)
        return -EINVAL;
    o->failed = true;
    o->text[0] = o->hint[0] = '\0';
    strncat(o->text, text ? text : vdisk_error_text(), sizeof o->text - 1);
    strncat(o->hint, hint ? hint : text ? own_hint(err) : vdisk_error_hint(), sizeof o->hint - 1);
    return -abs(err);
}

int vdisk_job_fail(vdisk_job *job, int err, const char *text, const char *hint)
{
    return ERR_KEEP(fail(job, err, text, hint));
}

static int set_error(int err, const char *text, const char *hint)
{
    int rc = err_set(err, "%s", text ? text : strerror(abs(err)));

    if (!hint || !hint[0])
        hint = own_hint(err);
    return hint[0] ? err_hint(rc, "%s", hint) : rc;
}

int vdisk_set_error(int err, const char *text, const char *hint)
{
    return ERR_CALL(set_error(err, text, hint));
}

/* ---- what it found ------------------------------------------------------------------------------------ */

static int get_arg(const vdisk_job *j, const struct vdisk_job_kind *kind, void **ret_arg)
{
    const struct own_job *o = (const struct own_job *)(const void *)j;
    int rc;

    if (!j || !ret_arg)
        return err_set(EINVAL, "no job, or no place for what it found");
    if (j->kind->work != own_work || o->id != kind)
        return err_set(EINVAL, "%s: the job is a %s, and not of that kind", j->name, j->kind->name);
    rc = job_check_result(j, &o->engine_kind, o, sizeof *o);
    if (rc == 0)
        *ret_arg = o->arg;
    return rc;
}

int vdisk_job_get_arg(const vdisk_job *job, const struct vdisk_job_kind *kind, void **ret_arg)
{
    return ERR_CALL(get_arg(job, kind, ret_arg));
}
