/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * commit: put what an image has into its backing file, or into one further below, as qemu-img commit.
 *
 * Works: vdisk_job_commit() does it. Fails: what can be refused is, before anything is written; later, or
 * interrupted, the image reads as before, and the same command again does all of it.
 *
 * Not as QEMU: unless -t says otherwise the files are used past the page cache.
 */
#include <stdio.h>

#include "tools/cli.h"
#include "tools/job_file.h"
#include "tools/job_verify.h"
#include "tools/own_files.h"
#include "tools/target.h"

enum { BUFFERS = 32 << 20, BUFFERS_LEAST = 1 << 20 };

static const struct cli_option options[] = {
    {'f', "format", "FMT", "raw or qcow2; otherwise found from the content"},
    {'b', "base", "FILE", "into this one of the files below, and all between them; implies -d"},
    {'d', "drop", NULL, "do not make NAME empty afterwards"},
    {'r', "rate", "SIZE", "at most so many bytes a second"},
    {'t', "cache", "MODE", "none (default), writeback, writethrough, directsync or unsafe"},
    {'p', "progress", NULL, "show progress"},
    {'q', "quiet", NULL, "print nothing but errors"},
    CLI_JOB_OPTION,
    CLI_BULK_OPTIONS,
    CLI_IMAGE_OPTIONS,
    {0, NULL, NULL, NULL},
};

struct commit {
    const struct cli_verb   *verb;
    struct vdisk_commit_opts opts;
    struct cli_progress      progress;
    struct job_file          file;
    bool                     quiet;
};

static int parse_options(struct commit *c, struct cli_parser *p)
{
    for (int id; (id = cli_parser_next(p)) != CLI_END;) {
        switch (id) {
        case 'f': c->opts.format = p->value; break;
        case 'b':
            c->opts.base = p->value;
            c->opts.flags |= VDISK_COMMIT_KEEP;
            break;
        case 'd': c->opts.flags |= VDISK_COMMIT_KEEP; break;
        case 'p': c->progress.enabled = true; break;
        case 'q': c->quiet = true; break;
        case 'r':
            if (cli_parse_size(p->value, &c->opts.rate) < 0)
                return cli_usage_error(c->verb, "Invalid rate limit specified: '%s'", p->value);
            break;
        case 't':
            if (!target_cache_flags(p->value, &c->opts.open_flags))
                return cli_usage_error(c->verb, "Invalid cache option: %s", p->value);
            break;
        default: return CLI_FAILED;
        }
    }
    c->progress.enabled = c->progress.enabled && !c->quiet;
    return CLI_OK;
}

static int run_job(struct commit *c, const char *name)
{
    vdisk_job *job;
    int rc;

    c->opts.progress = cli_progress_show;
    c->opts.progress_arg = &c->progress;
    c->opts.going_on = job_file_going_on(&c->file);
    if (vdisk_job_commit(name, &c->opts, &job) < 0)
        return cli_library_error();
    rc = cli_job_run(job) < 0 ? job_file_error(&c->file) : CLI_OK;
    vdisk_job_free(job);
    return rc;
}

static int share_memory(struct commit *c, const struct cli_parser *p, const char *name)
{
    unsigned layers = cli_count_layers(name, c->opts.format);
    struct cli_memory memory;
    int rc = cli_memory_share(p, layers, 2, BUFFERS, BUFFERS_LEAST, &memory);

    c->opts.memory_max = memory.buffers;
    c->opts.cache_bytes = memory.cache;
    return rc;
}

/* What --job writes is no image of the chain. */
static int check_own_files(const struct commit *c, const char *name)
{
    struct own_files o = {.count = 0};

    own_files_add_job(&o, c->file.given);
    own_files_exclude_image(&o, name, c->opts.format);
    return own_files_end(&o);
}

static int commit(struct commit *c, const struct cli_parser *p, const char *name)
{
    int rc = share_memory(c, p, name);

    if (rc == CLI_OK)
        rc = job_file_open(&c->file, p, c->quiet, &c->progress);
    if (rc == JOB_FILE_DONE)
        return job_file_end(&c->file, CLI_OK, NULL);
    if (rc != CLI_OK)
        return rc;
    job_file_add_commit(&c->file, name, c->opts.format, c->opts.base);
    rc = check_own_files(c, name);
    if (rc == CLI_OK)
        rc = job_file_begin(&c->file);
    if (rc == CLI_OK)
        rc = job_verify_commit(&c->file, name, c->opts.format, c->opts.base);
    if (rc == CLI_OK)
        rc = run_job(c, name);
    rc = job_file_end(&c->file, rc, vdisk_error_text());
    if (rc != CLI_OK)
        return rc;
    cli_progress_end(&c->progress);
    if (!c->quiet)
        printf("Image committed.\n");
    return rc;
}

static int run(const struct cli_verb *verb, int argc, char **argv)
{
    struct commit c = {.verb = verb, .opts.size = sizeof c.opts};
    struct cli_parser p;
    const char *name;
    char **operands;

    cli_parser_init(&p, verb, argc, argv);
    if (parse_options(&c, &p) != CLI_OK)
        return CLI_FAILED;
    if (cli_operands(&p, &operands) != 1)
        return cli_usage_error(verb, "Expecting one image file name");
    name = cli_image(&p, operands[0], c.opts.format);
    return name != NULL ? commit(&c, &p, name) : CLI_FAILED;
}

const struct cli_verb cli_commit = {
    .name = "commit",
    .summary = "Put what an image has into its backing file.",
    .usage = "[OPTION]... NAME",
    .options = options,
    .notes = "Several layers go into one with -b. A file below that is smaller becomes as large. What it has is\n"
             "durable before NAME is made empty; interrupted (Ctrl-C, a crash) NAME reads as before, and the\n"
             "same command again ends the work. Other images on top of the file below do not read as before.\n"
             "Exit code: 0, or 1.\n",
    .run = run,
};
