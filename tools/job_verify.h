/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Is what a job says it has written there still? Where nobody can know who has written to a file since (the job
 * was killed, or it is a device), what is passed over as done is read again, and compared with what it is made of.
 */
#ifndef TOOLS_JOB_VERIFY_H
#define TOOLS_JOB_VERIFY_H

#include <vdisk.h>

#include "tools/job_file.h"

struct job_verify {
    struct job_file       *job;
    vdisk                 *source, *target;
    const char            *target_name;
    uint64_t               target_offset; /* where the source begins in it */
    uint64_t               length;        /* of the target, from its start: what was done */
    unsigned               depth;         /* of the source's layers so many count; 0: all */
    bool                   salvage;       /* what cannot be read of the source does not count */
};

/*
 * CLI_OK: it is; or a signal that ends the command waits, and job->is_doubted stays. CLI_FAILED: told. Who asks
 * for the last part says job_verify_end().
 */
int job_verify(const struct job_verify *v);
void job_verify_end(struct job_file *job);

/* Of a commit of `name` into `base` (NULL: the file below), which are not open. */
int job_verify_commit(struct job_file *job, const char *name, const char *format, const char *base);

#endif
