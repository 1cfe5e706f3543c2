/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * rebase: give an image another backing file, or none, as qemu-img rebase.
 *
 * Works: vdisk_job_rebase() does it. Fails: what can be refused is, before anything is written; later, or
 * interrupted, the image reads as before, by its old backing file, and the same command again ends the work.
 *
 * Not as QEMU: unless -t or -T say otherwise the files are used past the page cache; an image is not put below
 * itself, by its own name with -u either.
 */
#include <stdio.h>
#include <stdlib.h>

#include "tools/cli.h"
#include "tools/job_file.h"
#include "tools/own_files.h"
#include "tools/target.h"

enum { BUFFERS = 16 << 20, BUFFERS_LEAST = 2 << 20 };

static const struct cli_option options[] = {
    {'f', "format", "FMT", "raw or qcow2; otherwise found from the content"},
    {'b', "backing", "FILE", "the new backing file, as it is to be stored; \"\": none"},
    {'F', "backing-format", "FMT", "its format: raw or qcow2"},
    {'u', "backing-unsafe", NULL, "change the name only: the content is known to be the same"},
    {'c', "compress", NULL, "compress what has to be written (qcow2)"},
    {'t', "cache", "MODE", "none (default), writeback, writethrough, directsync or unsafe"},
    {'T', "backing-cache", "MODE", "the same for the new backing file"},
    {'U', "force-share", NULL, "open the new backing file although others write to it"},
    {'p', "progress", NULL, "show progress"},
    {'q', "quiet", NULL, "print nothing but errors"},
    {'r', "rate", "SIZE", "look at so many bytes a second at most"},
    CLI_JOB_OPTION,
    CLI_BULK_OPTIONS,
    CLI_IMAGE_OPTIONS,
    {0, NULL, NULL, NULL},
};

struct rebase {
    const struct cli_verb   *verb;
    struct vdisk_rebase_opts opts;
    struct cli_progress      progress;
    struct job_file          file;
    bool                     quiet;
};

static int parse_cache(struct rebase *b, const char *value, uint32_t *flags, const char *what)
{
    uint32_t mode;

    if (!target_cache_flags(value, &mode))
        return cli_usage_error(b->verb, "Invalid %scache option: %s", what, value);
    *flags = (*flags & VDISK_OPEN_FORCE_SHARE) | mode;
    return CLI_OK;
}

static int parse_options(struct rebase *b, struct cli_parser *p)
{
    int rc = CLI_OK;

    for (int id; rc == CLI_OK && (id = cli_parser_next(p)) != CLI_END;) {
        switch (id) {
        case 'f': b->opts.format = p->value; break;
        case 'b': b->opts.backing_file = p->value; break;
        case 'F': b->opts.backing_fmt = p->value; break;
        case 'u': b->opts.flags |= VDISK_REBASE_UNSAFE; break;
        case 'U': b->opts.backing_open_flags |= VDISK_OPEN_FORCE_SHARE; break;
        case 'c': b->opts.flags |= VDISK_REBASE_COMPRESS; break;
        case 't': rc = parse_cache(b, p->value, &b->opts.open_flags, ""); break;
        case 'T': rc = parse_cache(b, p->value, &b->opts.backing_open_flags, "source "); break;
        case 'p': b->progress.enabled = true; break;
        case 'q': b->quiet = true; break;
        case 'r':
            if (cli_parse_size(p->value, &b->opts.rate) < 0)
                rc = cli_usage_error(b->verb, "Invalid rate limit specified: '%s'", p->value);
            break;
        default: return CLI_FAILED;
        }
    }
    b->progress.enabled = b->progress.enabled && !b->quiet;
    return rc;
}

static int run_job(struct rebase *b, const char *name)
{
    vdisk_job *job;
    int rc;

    b->opts.progress = cli_progress_show;
    b->opts.progress_arg = &b->progress;
    b->opts.going_on = job_file_going_on(&b->file);
    if (vdisk_job_rebase(name, &b->opts, &job) < 0)
        return cli_library_error();
    rc = cli_job_run(job) < 0 ? job_file_error(&b->file) : CLI_OK;
    vdisk_job_free(job);
    return rc;
}

/* The new backing file, as the image will find it; NULL: there is none. malloc'ed. */
static char *new_backing(const struct rebase *b, const char *name)
{
    const char *file = b->opts.backing_file;

    return file != NULL && file[0] != '\0' ? cli_backing_path(name, file) : NULL;
}

static int share_memory(struct rebase *b, const struct cli_parser *p, const char *name, const char *backing)
{
    bool reads = !(b->opts.flags & VDISK_REBASE_UNSAFE);
    unsigned layers = reads ? cli_count_layers(name, b->opts.format) : 1;
    uint64_t buffers = BUFFERS;
    struct cli_memory memory;
    int rc;

    if (backing != NULL && reads)
        layers += cli_count_layers(backing, b->opts.backing_fmt);
    if (b->opts.flags & VDISK_REBASE_COMPRESS)
        buffers *= 2; /* with what becomes of them */
    rc = cli_memory_share(p, layers, 1, buffers, BUFFERS_LEAST, &memory);
    b->opts.memory_max = memory.buffers;
    b->opts.cache_bytes = memory.cache;
    return rc;
}

/* What --job writes is no image of either chain. */
static int check_own_files(const struct rebase *b, const char *name, const char *backing)
{
    struct own_files o = {.count = 0};

    own_files_add_job(&o, b->file.given);
    own_files_exclude_image(&o, name, b->opts.format);
    if (backing != NULL)
        own_files_exclude_image(&o, backing, b->opts.backing_fmt);
    return own_files_end(&o);
}

static int with_file(struct rebase *b, const char *name, const char *backing)
{
    int rc;

    job_file_add_chain(&b->file, name, b->opts.format, JOB_WRITES);
    if (backing != NULL)
        job_file_add_chain(&b->file, backing, b->opts.backing_fmt, JOB_READS);
    rc = check_own_files(b, name, backing);
    if (rc == CLI_OK)
        rc = job_file_begin(&b->file);
    if (rc == CLI_OK)
        rc = run_job(b, name);
    return job_file_end(&b->file, rc, vdisk_error_text());
}

static int rebase(struct rebase *b, const struct cli_parser *p, const char *name)
{
    char *backing = new_backing(b, name);
    int rc = share_memory(b, p, name, backing);

    if (rc == CLI_OK)
        rc = job_file_open(&b->file, p, b->quiet, &b->progress);
    if (rc == JOB_FILE_DONE) {
        free(backing);
        return job_file_end(&b->file, CLI_OK, NULL);
    }
    if (rc == CLI_OK)
        rc = with_file(b, name, backing);
    free(backing);
    if (rc == CLI_OK)
        cli_progress_end(&b->progress);
    return rc;
}

static int run(const struct cli_verb *verb, int argc, char **argv)
{
    struct rebase b = {.verb = verb, .opts.size = sizeof b.opts};
    struct cli_parser p;
    const char *name;
    char **operands;

    cli_parser_init(&p, verb, argc, argv);
    if (parse_options(&b, &p) != CLI_OK)
        return CLI_FAILED;
    if (cli_operands(&p, &operands) != 1)
        return cli_usage_error(verb, "Expecting one image file name");
    if (b.opts.backing_file == NULL && !(b.opts.flags & VDISK_REBASE_UNSAFE))
        return cli_usage_error(verb, "Must specify backing file (-b) or use unsafe mode (-u)");
    if (b.opts.backing_file == NULL || b.opts.backing_file[0] == '\0')
        b.opts.backing_fmt = NULL;
    name = cli_image(&p, operands[0], b.opts.format);
    return name != NULL ? rebase(&b, &p, name) : CLI_FAILED;
}

const struct cli_verb cli_rebase = {
    .name = "rebase",
    .summary = "Give an image another backing file.",
    .usage = "[OPTION]... -b FILE NAME",
    .options = options,
    .notes = "NAME reads as before: what FILE does not have is written into it. With -u only the name is\n"
             "changed, and no backing file is looked at. Interrupted (Ctrl-C, a crash) NAME reads as before, by\n"
             "its old backing file, and the same command again ends the work.\n"
             "Exit code: 0, or 1.\n",
    .run = run,
};
