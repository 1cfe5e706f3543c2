/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Closing a volume as a job.
 *
 * Happy path: closed on the job's thread; the job knows no volume then. Failure modes: requests are in flight, or
 * another job is about it: -EBUSY, and it is as it was.
 */
#include <errno.h>
#include <stdlib.h>

#include "engine/base/error.h"
#include "engine/base/mem.h"
#include "engine/job.h"
#include "engine/volume.h"

static int close_work(vdisk_job *j)
{
    bool gone;
    int rc = volume_close(j->volume, 1, &gone); /* this job */

    assert(gone || rc < 0);
    if (gone)
        j->volume = NULL;
    return rc;
}

static void close_release(vdisk_job *j)
{
    mem_free(j);
}

static const struct job_kind close_kind = {"closing", close_work, close_release, NULL};

static int close_job_new(vdisk *v, vdisk_job **ret_job)
{
    vdisk_job *j;
    int rc = volume_check_handle(v);

    if (rc < 0)
        return rc;
    if (!ret_job)
        return err_set(EINVAL, "%s: no place for the job", v->top->name);
    j = mem_calloc(1, sizeof *j);
    if (!j)
        return err_set(ENOMEM, "%s: out of memory", v->top->name);
    rc = job_init(j, &close_kind, v->top->name, v);
    if (rc < 0)
        vdisk_job_free(j);
    else
        *ret_job = j;
    return rc;
}

int vdisk_job_close(vdisk *v, vdisk_job **ret_job)
{
    return ERR_CALL(close_job_new(v, ret_job));
}
