/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The files around a copy: which ones a job's file has to know, and whether they are what it thinks.
 *
 * Works: the chains are gone along by name; what a job has written is compared where that is doubted.
 * Fails: one file would be two things, or is not what it was: told, and nothing has been written.
 */
#include <stdlib.h>

#include "tools/convert.h"
#include "tools/job_verify.h"
#include "tools/own_files.h"

int convert_check_own_files(const struct convert *c)
{
    const char *format = c->target_image_opts ? NULL : c->o.opts.format;
    const char *names[] = {c->o.opts.data_file, c->o.opts.backing_file};
    const char *formats[] = {"raw", c->o.opts.backing_fmt};
    struct own_files o = {.count = 0};

    own_files_add_job(&o, c->job.given);
    own_files_add_manifest(&o, c->manifest.given);
    for (unsigned i = 0; i < c->count; i++)
        own_files_exclude_image(&o, c->names[i], c->source_format);
    own_files_exclude_image(&o, c->target_name, format);
    for (unsigned i = 0; i < 2; i++) {
        char *path = names[i] != NULL ? cli_backing_path(c->target_name, names[i]) : NULL;
        if (path != NULL)
            own_files_exclude_image(&o, path, formats[i]);
        free(path);
    }
    if (own_files_end(&o) != CLI_OK)
        return CLI_FAILED;
    return c->manifest.given != NULL ? manifest_check(c->manifest.given) : CLI_OK;
}

void convert_add_ends(struct convert *c)
{
    const char *format = c->target_image_opts ? NULL : c->o.opts.format;
    char *backing = NULL;

    for (unsigned i = 0; i < c->count; i++)
        job_file_add_chain(&c->job, c->names[i], c->source_format, JOB_READS);
    if (c->no_create)
        job_file_add_chain(&c->job, c->target_name, format, JOB_WRITES);
    else if (c->o.opts.backing_file != NULL)
        backing = cli_backing_path(c->target_name, c->o.opts.backing_file);
    if (backing != NULL)
        job_file_add_chain(&c->job, backing, c->o.opts.backing_fmt, JOB_READS);
    free(backing);
}

void convert_add_target(struct convert *c)
{
    char *data = c->o.opts.data_file != NULL ? cli_backing_path(c->target_name, c->o.opts.data_file) : NULL;

    if (target_path(c->target_name) != NULL)
        job_file_add(&c->job, target_path(c->target_name), JOB_WRITES);
    if (data != NULL)
        job_file_add(&c->job, target_path(data), JOB_WRITES);
    free(data);
}

int convert_verify(struct convert *c, vdisk *target)
{
    uint64_t at = 0;
    int rc = CLI_OK;

    for (unsigned i = 0; rc == CLI_OK && i < c->count; i++) {
        struct job_verify v = {.job = &c->job, .source = c->sources[i], .target = target,
                               .target_name = c->target_name, .target_offset = at, .length = c->job.position,
                               .salvage = c->copy.flags & VDISK_COPY_SALVAGE};
        rc = job_verify(&v);
        at += vdisk_size(c->sources[i]);
    }
    if (rc == CLI_OK)
        job_verify_end(&c->job);
    return rc;
}

void convert_mend_leaks(const struct convert *c)
{
    struct vdisk_check_opts opts = {.size = sizeof opts, .format = "qcow2"};
    vdisk_job *job;

    if (!c->job.was_killed || c->no_create || c->o.raw)
        return;
    if (vdisk_job_repair(c->target_name, VDISK_REPAIR_LEAKS, &opts, &job) < 0)
        return;
    cli_job_run(job);
    vdisk_job_free(job);
}
