/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * convert: copy images into a new one, or one that is there (-n), as qemu-img convert.
 *
 * Works: sources are opened, the target is made and opened, vdisk_job_copy() fills it, vdisk_finish() has it
 * count. Fails: what is wrong with options, names or sizes is said before anything is written. Later, or
 * interrupted, what was made is removed; a file that was there is left empty (tools/target.h); with -n the target
 * is as far as it was written. With --job a target stays, and the same command goes on with it. Killed: a new
 * qcow2 image is unfinished, which nobody takes for a qcow2 one.
 *
 * Not as QEMU: unless -t says otherwise the target goes past the page cache, and is flushed at the end.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/convert.h"
#include "tools/distinct.h"

enum { SECTOR = 512, SPARSE_MOST = 16 << 20, PARALLEL_MOST = 16, BUFFERS = 32 << 20, BUFFERS_LEAST = 4 << 20 };

/* ---- command line ----------------------------------------------------------------------------------- */

enum { OPT_SALVAGE = CLI_LONG_ONLY + 1, OPT_TARGET_IS_ZERO, OPT_TARGET_IMAGE_OPTS,
       OPT_SOURCE_IMAGE_OPTS, OPT_BITMAPS, OPT_SKIP_BROKEN,
       OPT_MANIFEST, OPT_DISCARD_TARGET };

static const struct cli_option options[] = {
    {'f', "source-format", "FMT", "raw or qcow2; otherwise found from the content"},
    {'O', "target-format", "FMT", "raw (default) or qcow2"},
    {'o', "target-options", "LIST", "options of the target's format, as of create; '-o help' lists them"},
    {'B', "backing", "FILE", "the target has this backing file, whose content is that of the\n"
                             "source's: what the source has from there is not copied"},
    {'F', "backing-format", "FMT", "its format"},
    {'c', "compress", NULL, "compress the data, on all processors; -O qcow2"},
    {'n', "no-create", NULL, "write into a target that is there"},
    {OPT_TARGET_IS_ZERO, "target-is-zero", NULL, "with -n: it is known to read as zeros, which are not written"},
    {OPT_DISCARD_TARGET, "discard-target", NULL, "with -n: what is in it is given back before: all of it"},
    {'S', "sparse-size", "SIZE", "so many bytes of zeros are left out: multiples of 512, default 4K;\n"
                                 "0: all is written"},
    {'m', "parallel", "NUMBER", "pieces on their way at once: 1 to 16 (default; what grows from\n"
                               "standard input has more)"},
    {'W', "oob-writes", NULL, "accepted: writes are never ordered"},
    {'C', "copy-offload", NULL, "also with -n, or space that is set aside: blocks are shared where the host\n"
                                "can; not with -c, -S, --salvage,\n"
                                "--manifest"},
    {'r', "rate", "SIZE", "at most so many bytes a second"},
    {OPT_SALVAGE, "salvage", NULL, "what cannot be read is zeros in the target, and reported"},
    {OPT_MANIFEST, "manifest", "FILE", "write the digests of what is copied to it, as checksum does"},
    {'t', "target-cache", "MODE", "none (default), writeback, writethrough, directsync or unsafe"},
    {'T', "source-cache", "MODE", "the same for sources; default: writeback"},
    {'U', "force-share", NULL, "open sources although others write to them"},
    {'p', "progress", NULL, "show progress"},
    {'q', "quiet", NULL, "print nothing but errors"},
    CLI_JOB_OPTION,
    CLI_BULK_OPTIONS,
    {OPT_TARGET_IMAGE_OPTS, "target-image-opts", NULL, "with -n: TARGET is KEY=VALUE,..."},
    {OPT_SOURCE_IMAGE_OPTS, "source-image-opts", NULL, "as --image-opts"},
    {'l', "snapshot", "SNAPSHOT", "refused: internal snapshots cannot be read yet"},
    {OPT_BITMAPS, "bitmaps", NULL, "refused: bitmaps cannot be copied yet"},
    {OPT_SKIP_BROKEN, "skip-broken-bitmaps", NULL, "refused: the same"},
    CLI_IMAGE_OPTIONS,
    {0, NULL, NULL, NULL},
};

static int parse_sparse(struct convert *c, const char *value)
{
    uint64_t size;

    if (cli_parse_size(value, &size) < 0 || size % SECTOR != 0 || size > SPARSE_MOST)
        return cli_usage_error(c->verb, "Invalid buffer size for sparse output specified: '%s'. Valid sizes are "
                                        "multiples of 512 up to 16777216; 0 fully allocates the target", value);
    c->copy.sparse = size;
    c->have_sparse = true;
    if (size == 0)
        c->copy.flags |= VDISK_COPY_DENSE;
    else
        c->copy.flags &= ~(uint32_t)VDISK_COPY_DENSE;
    return CLI_OK;
}

static int parse_parallel(struct convert *c, const char *value)
{
    uint64_t n;

    if (cli_parse_number(value, PARALLEL_MOST, &n) < 0 || n == 0)
        return cli_usage_error(c->verb, "Invalid number of coroutines specified. Must be between 1 and 16");
    c->copy.depth = (uint32_t)n;
    return CLI_OK;
}

static int parse_rate(struct convert *c, const char *value)
{
    if (cli_parse_size(value, &c->copy.rate) < 0)
        return cli_usage_error(c->verb, "Invalid rate limit specified: '%s'", value);
    return CLI_OK;
}

static int parse_cache(struct convert *c, const char *value, uint32_t *flags, const char *what)
{
    uint32_t mode;

    if (!target_cache_flags(value, &mode))
        return cli_usage_error(c->verb, "Invalid %scache option: %s", what, value);
    *flags = (*flags & ~(uint32_t)(VDISK_OPEN_BUFFERED | VDISK_OPEN_UNSAFE)) | mode;
    return CLI_OK;
}

static int parse_list(struct convert *c, const char *value)
{
    if (strcmp(value, "help") == 0 || strcmp(value, "?") == 0)
        c->list_options = true;
    else if (cli_pairs_add(&c->pairs, value) < 0)
        return cli_usage_error(c->verb, "-o takes KEY=VALUE,..., not '%s'", value);
    return CLI_OK;
}

/* Those with a value to be looked at. */
static int parse_value(struct convert *c, int id, const char *value)
{
    switch (id) {
    case 'o': return parse_list(c, value);
    case 'S': return parse_sparse(c, value);
    case 'm': return parse_parallel(c, value);
    case 'r': return parse_rate(c, value);
    case 't': return parse_cache(c, value, &c->target_flags, "");
    case 'T': return parse_cache(c, value, &c->source_flags, "source ");
    case 'l': return cli_usage_error(c->verb, "-l %s: internal snapshots cannot be read yet", value);
    case OPT_BITMAPS: return cli_usage_error(c->verb, "--bitmaps: bitmaps cannot be copied yet");
    case OPT_SKIP_BROKEN: return cli_usage_error(c->verb, "--skip-broken-bitmaps: bitmaps cannot be copied yet");
    default: return CLI_FAILED;
    }
}

static int parse_options(struct convert *c, struct cli_parser *p)
{
    int rc = CLI_OK;

    for (int id; rc == CLI_OK && (id = cli_parser_next(p)) != CLI_END;) {
        switch (id) {
        case 'f': c->source_format = p->value; break;
        case 'O':
            c->o.opts.format = p->value;
            c->have_out_format = true;
            break;
        case 'B': c->backing = p->value; break;
        case 'F': c->backing_fmt = p->value; break;
        case 'c': c->copy.flags |= VDISK_COPY_COMPRESS; break;
        case 'n': c->no_create = true; break;
        case 'W': break;
        case 'C': c->offload = true; break;
        case 'U': c->source_flags |= VDISK_OPEN_FORCE_SHARE; break;
        case 'p': c->progress.enabled = true; break;
        case 'q': c->quiet = true; break;
        case OPT_SALVAGE: c->copy.flags |= VDISK_COPY_SALVAGE; break;
        case OPT_MANIFEST: c->manifest.given = p->value; break;
        case OPT_TARGET_IS_ZERO: c->target_is_zero = true; break;
        case OPT_DISCARD_TARGET: c->copy.flags |= VDISK_COPY_DISCARD; break;
        case OPT_TARGET_IMAGE_OPTS: c->target_image_opts = true; break;
        case OPT_SOURCE_IMAGE_OPTS: p->image_opts = true; break;
        default: rc = parse_value(c, id, p->value); break;
        }
    }
    c->progress.enabled = c->progress.enabled && !c->quiet;
    return rc;
}

static int usage(const struct convert *c, const char *text)
{
    return cli_usage_error(c->verb, "%s", text);
}

/* -C: what data goes through, or is to be looked at, leaves nothing to be shared. */
static int check_offload(const struct convert *c)
{
    if (c->offload && c->copy.flags & VDISK_COPY_COMPRESS)
        return usage(c, "Cannot enable copy offloading when -c is used");
    if (c->offload && c->have_sparse)
        return usage(c, "Cannot enable copy offloading when -S is used");
    if (c->offload && c->copy.flags & VDISK_COPY_SALVAGE)
        return usage(c, "Cannot use copy offloading in salvaging mode");
    if (c->offload && c->manifest.given != NULL)
        return usage(c, "Cannot enable copy offloading when --manifest is used");
    return CLI_OK;
}

/* What a target that is written from its start to its end cannot have. */
static int check_output(const struct convert *c)
{
    if (c->no_create)
        return usage(c, "-n: standard output is no target that is there");
    if (c->copy.flags & VDISK_COPY_SALVAGE)
        return usage(c, "--salvage: not to standard output");
    if (c->manifest.given != NULL)
        return usage(c, "--manifest: not to standard output; checksum --manifest reads the sources by itself");
    return CLI_OK;
}

static int check_input(const struct convert *c)
{
    if (c->count > 0)
        return usage(c, "standard input can be the only source, not one of several");
    if (c->to_stdout)
        return usage(c, "from standard input to standard output nothing is converted");
    if (c->source_format == NULL)
        return usage(c, "standard input needs -f raw: what it is cannot be looked at before");
    if (strcmp(c->source_format, "raw") != 0)
        return cli_usage_error(c->verb, "standard input is read as raw: reading %s needs seeking, so write it "
                                        "to a file first", c->source_format);
    if (c->backing != NULL)
        return usage(c, "-B: of standard input it is not known what a backing file has");
    if (c->copy.flags & VDISK_COPY_SALVAGE)
        return usage(c, "--salvage: not from standard input");
    return CLI_OK;
}

/* What is in the target is to go. */
static int check_discard(const struct convert *c)
{
    if (!(c->copy.flags & VDISK_COPY_DISCARD))
        return CLI_OK;
    if (!c->no_create)
        return usage(c, "--discard-target requires use of -n flag");
    if (c->target_is_zero)
        return usage(c, "--discard-target and --target-is-zero are mutually exclusive");
    if (c->backing != NULL)
        return usage(c, "--discard-target: not with -B: it may hide what the target has from its backing file");
    return CLI_OK;
}

/* What contradicts itself. */
static int check_options(const struct convert *c)
{
    if (check_offload(c) != CLI_OK || (c->to_stdout && check_output(c) != CLI_OK) ||
        (c->from_stdin && check_input(c) != CLI_OK) || check_discard(c) != CLI_OK)
        return CLI_FAILED;
    if (c->target_is_zero && !c->no_create)
        return usage(c, "--target-is-zero requires use of -n flag");
    if (c->target_image_opts && !c->no_create)
        return usage(c, "--target-image-opts requires use of -n flag");
    if (c->target_image_opts && c->have_out_format)
        return usage(c, "--target-image-opts and -O are mutually exclusive");
    if (c->no_create && c->pairs.count > 0)
        return usage(c, "-o has no effect when skipping image creation");
    if (c->count > 1 && c->backing != NULL)
        return usage(c, "Having a backing file for the target makes no sense when concatenating multiple input "
                        "images");
    if (!c->o.raw && !c->target_image_opts && strcmp(c->o.opts.format, "qcow2") != 0)
        return cli_usage_error(c->verb, "Unknown file format '%s'; -O takes raw or qcow2", c->o.opts.format);
    if (c->copy.flags & VDISK_COPY_COMPRESS && c->o.raw && !c->target_image_opts) {
        cli_error("Compression not supported for this file format");
        return CLI_FAILED;
    }
    return CLI_OK;
}

/* ---- the target's options --------------------------------------------------------------------------- */

static int target_error(const struct convert *c, const char *text)
{
    cli_error("%s: %s", c->target_name, text);
    return CLI_FAILED;
}

/* What needs to know how much comes, or what is there. */
static int check_input_target(const struct convert *c)
{
    if (c->o.opts.backing_file != NULL)
        return target_error(c, "of standard input it is not known what a backing file has");
    if (c->o.opts.preallocation != VDISK_PREALLOC_OFF && !c->o.have_size)
        return target_error(c, "preallocation needs the size, which standard input does not tell: add -o size=");
    return CLI_OK;
}

static int apply_options(struct convert *c)
{
    c->o.name = c->target_name;
    c->o.opts.virtual_size = c->total;
    if (create_options_apply(&c->o, &c->pairs) < 0) {
        cli_error("%s", c->o.why);
        return CLI_FAILED;
    }
    if (c->backing != NULL)
        c->o.opts.backing_file = c->backing;
    if (c->backing_fmt != NULL)
        c->o.opts.backing_fmt = c->backing_fmt;
    if (c->no_create)
        return CLI_OK;
    if (c->o.raw && c->o.opts.backing_file != NULL)
        return target_error(c, "a raw image has no backing file; use -O qcow2");
    if (c->o.opts.backing_file != NULL && c->o.opts.backing_fmt == NULL)
        return target_error(c, "Use of backing file requires explicit backing format: add -F raw or -F qcow2");
    if (c->o.opts.backing_file == NULL && c->o.opts.backing_fmt != NULL)
        return target_error(c, "Backing format cannot be used without backing file");
    if (c->copy.flags & VDISK_COPY_COMPRESS && c->o.opts.preallocation != VDISK_PREALLOC_OFF) {
        cli_error("Compression and preallocation not supported at the same time");
        return CLI_FAILED;
    }
    if (c->copy.flags & VDISK_COPY_COMPRESS && c->o.opts.data_file != NULL)
        return target_error(c, "an image with an external data file cannot have compressed data");
    if (c->o.opts.virtual_size < c->total)
        return target_error(c, "output file is smaller than input file");
    if (c->to_stdout && c->o.opts.virtual_size > c->total)
        return target_error(c, "is as large as the sources; leave -o size out");
    return c->from_stdin ? check_input_target(c) : CLI_OK;
}

/* ---- both ends -------------------------------------------------------------------------------------- */

static int failed(struct convert *c)
{
    if (c->error[0] == '\0') {
        snprintf(c->error, sizeof c->error, "%s", vdisk_error_text());
        snprintf(c->hint, sizeof c->hint, "%s", vdisk_error_hint());
    }
    return CLI_FAILED;
}

static int open_sources(struct convert *c)
{
    struct vdisk_open_opts how = {.size = sizeof how, .flags = c->source_flags, .format = c->source_format,
                                  .cache_bytes = c->memory.cache};

    for (unsigned i = 0; i < c->count; i++) {
        if (vdisk_open(c->names[i], &how, &c->sources[i]) < 0)
            return failed(c);
        c->total = (c->total + vdisk_size(c->sources[i]) + SECTOR - 1) / SECTOR * SECTOR;
    }
    return CLI_OK;
}

/* Locks find that out as well, but not with -U, nor of standard input, which has to be readable, too. */
static int check_same_file(struct convert *c)
{
    const struct distinct_target t = {.name = c->target_name, .is_there = c->no_create,
                                      .format = c->target_image_opts ? NULL : c->o.opts.format,
                                      .data_file = c->o.opts.data_file};
    int rc = c->from_stdin ? distinct_check_input(&t) : distinct_check(c->sources, c->names, c->count, &t);

    c->part = (struct pipe_part){.left = UINT64_MAX, .unit = SECTOR};
    return rc == CLI_OK && c->from_stdin ? pipe_begin_input(&c->part) : rc;
}

static int open_target(struct convert *c, vdisk **ret)
{
    struct vdisk_open_opts how = {.size = sizeof how, .flags = c->target_flags | VDISK_OPEN_RDWR,
                                  .format = c->target_image_opts ? NULL : c->o.opts.format,
                                  .cache_bytes = c->memory.cache};

    if (!c->no_create)
        how.flags |= VDISK_OPEN_UNFINISHED;
    return cli_open(c->target_name, &how, ret) < 0 ? failed(c) : CLI_OK;
}

/* ---- the copy --------------------------------------------------------------------------------------- */

static void salvaged(void *arg, unsigned source, uint64_t offset, uint64_t len, int error)
{
    const struct convert *c = arg;

    if (!c->quiet)
        cli_warn("%s: error while reading offset %" PRIu64 ": %s; %" PRIu64 " bytes are zeros in the target",
                 c->names[source], offset, strerror(-error), len);
}

/* How much comes is not known, and the target is as long as that. */
static bool grows(const struct convert *c)
{
    return c->from_stdin && !c->no_create && !c->o.have_size;
}

static int make_copy(struct convert *c, vdisk *target, vdisk_job **ret)
{
    if (!c->from_stdin)
        return vdisk_job_copy(c->sources, c->count, target, &c->copy, ret);
    if (grows(c))
        c->copy.flags |= VDISK_COPY_GROW;
    if (c->copy.depth == 0 && grows(c))
        c->copy.depth = PIPE_DEPTH;
    c->copy.flags &= ~(uint32_t)VDISK_COPY_CLONE;
    c->copy.progress = NULL; /* how much comes is not known */
    return vdisk_job_fill(target, pipe_read, &c->part, &c->copy, ret);
}

/* What the manifest said is not said again. */
static int copy_failed(struct convert *c)
{
    return c->manifest.said || c->manifest.blocks.said ? CLI_FAILED : failed(c);
}

/*
 * A target that was zeros when the job began is so no more, where this command has written to it and nobody knows
 * how far; where it does not begin anew, the source is still what it was, but what can be read of it may be less.
 */
static bool may_hold_what_is_lost(const struct convert *c)
{
    return c->job.was_begun && (c->job.position == 0 || c->copy.flags & VDISK_COPY_SALVAGE);
}

static int copy(struct convert *c, vdisk *target)
{
    struct vdisk_copy_opts *o = &c->copy;
    vdisk_job *job;
    int rc;

    if (vdisk_size(target) < c->total && c->no_create) {
        snprintf(c->error, sizeof c->error, "%s: output file is smaller than input file", c->target_name);
        return CLI_FAILED;
    }
    if (c->target_is_zero && !may_hold_what_is_lost(c))
        o->flags |= VDISK_COPY_TARGET_IS_ZERO;
    if (c->offload || (!c->no_create && c->o.opts.preallocation == VDISK_PREALLOC_OFF))
        o->flags |= VDISK_COPY_CLONE;
    o->backing_depth = c->o.opts.backing_file != NULL ? 1 : 0;
    o->name = c->target_name;
    o->progress = cli_progress_show;
    o->progress_arg = &c->progress;
    o->salvaged = salvaged;
    o->salvaged_arg = c;
    o->memory_max = c->memory.buffers;
    o->going_on = job_file_going_on(&c->job);
    o->digest_length = c->no_create ? 0 : vdisk_size(target);
    copy_manifest_ask(&c->manifest, o);
    if (make_copy(c, target, &job) < 0)
        return failed(c);
    rc = cli_job_run(job);
    if (rc < 0 && c->part.error != 0)
        snprintf(c->error, sizeof c->error, "%s: %s", PIPE_INPUT, strerror(c->part.error));
    rc = rc < 0 ? copy_failed(c) : CLI_OK;
    if (rc == CLI_OK) {
        struct vdisk_copy_result r = {.size = sizeof r};
        vdisk_job_get_copy_result(job, &r);
        memcpy(c->digest, r.digest, sizeof c->digest);
        c->copied = r.bytes_total;
        if (o->flags & VDISK_COPY_DISCARD && r.bytes_discarded == 0 && c->copied > c->job.position && !c->quiet)
            cli_warn("%s: takes no discards; zeros were written instead", c->target_name);
    }
    vdisk_job_free(job);
    return rc;
}

static int fill_target(struct convert *c)
{
    vdisk *target = NULL;
    int rc = open_target(c, &target);

    if (rc == CLI_OK && c->job.position > 0)
        rc = convert_verify(c, target);
    if (rc == CLI_OK)
        rc = copy(c, target);
    if (rc == CLI_OK && !c->no_create && vdisk_finish(target) < 0)
        rc = failed(c);
    if (target != NULL && vdisk_close(target) < 0)
        rc = failed(c);
    if (rc == CLI_OK)
        cli_progress_end(&c->progress);
    return rc;
}

/* To standard output. */
static int stream(struct convert *c)
{
    struct vdisk_stream_opts o = {.size = sizeof o, .name = PIPE_OUTPUT, .depth = c->copy.depth,
                                  .rate = c->copy.rate, .memory_max = c->memory.buffers,
                                  .progress = cli_progress_show, .progress_arg = &c->progress};
    vdisk_job *job;
    int rc = distinct_check_output(c->sources, c->names, c->count);

    if (rc != CLI_OK)
        return rc;
    if (c->o.opts.backing_file != NULL)
        o.backing_depth = 1;
    if (c->copy.flags & VDISK_COPY_DENSE)
        o.flags |= VDISK_STREAM_DENSE;
    if (c->copy.flags & VDISK_COPY_COMPRESS)
        o.flags |= VDISK_STREAM_COMPRESS;
    else if (c->have_sparse && !(o.flags & VDISK_STREAM_DENSE) && c->o.opts.backing_file == NULL)
        o.flags |= VDISK_STREAM_LOOK;
    c->progress.to_stderr = true;
    if (vdisk_job_stream(c->sources, c->count, &c->o.opts, pipe_write, NULL, &o, &job) < 0)
        return failed(c);
    rc = cli_job_run(job) < 0 ? failed(c) : CLI_OK;
    vdisk_job_free(job);
    if (rc == CLI_OK)
        rc = pipe_end_output();
    if (rc == CLI_OK)
        cli_progress_end(&c->progress);
    return rc;
}

/* Where it goes on, the target is there, and what was known of it is in the job's file. */
static int make_target(struct convert *c)
{
    c->target.name = c->target_name;
    c->o.opts.unfinished = true;
    if (c->job.position > 0) {
        c->target_is_zero = json_is_true(json_object_get(c->job.json, "target_is_zero"));
        return CLI_OK;
    }
    if (!c->no_create) {
        if (target_create(&c->target, &c->o.opts) < 0)
            return failed(c);
        c->target_is_zero = target_is_zero(&c->target, &c->o.opts);
        c->job.fresh = false; /* what was made stays, and FILE says of what */
        convert_add_target(c);
    }
    job_file_set(&c->job, "target_is_zero", json_boolean(c->target_is_zero));
    return job_file_note(&c->job);
}

/* The manifest is not the target, too, which may have come to be just now. */
static int check_manifest(struct convert *c)
{
    const char *path = target_path(c->target_name);

    if (!c->manifest.open || path == NULL || !manifest_is_file(&c->manifest.writer, path))
        return CLI_OK;
    snprintf(c->error, sizeof c->error, "%.900s: is the manifest, too", c->target_name);
    return CLI_FAILED;
}

/* Of the volume whose blocks have the digests that the manifest gets. */
static uint64_t manifest_size(const struct convert *c)
{
    uint64_t size = c->from_stdin ? c->copied : c->total;

    if (!c->no_create && c->o.opts.virtual_size > size)
        size = c->o.opts.virtual_size;
    return (size + SECTOR - 1) / SECTOR * SECTOR;
}

static int create_and_fill(struct convert *c)
{
    int rc = make_target(c);

    if (rc == CLI_OK)
        rc = check_manifest(c);
    if (rc == CLI_OK)
        rc = fill_target(c);
    if (rc == CLI_OK)
        convert_mend_leaks(c);
    rc = copy_manifest_end(&c->manifest, rc == CLI_OK ? c->digest : NULL, manifest_size(c));
    if (rc != CLI_OK && !c->no_create && (c->job.given == NULL || !c->target.created) && c->job.position == 0)
        target_undo(&c->target);
    return rc;
}

static int convert(struct convert *c)
{
    int rc = c->to_stdout ? pipe_begin_output() : CLI_OK;

    if (rc == CLI_OK)
        rc = open_sources(c);
    if (rc == CLI_OK)
        rc = apply_options(c);
    if (rc == CLI_OK && c->to_stdout)
        return stream(c);
    if (rc == CLI_OK)
        rc = convert_check_own_files(c);
    if (rc == CLI_OK)
        rc = check_same_file(c);
    if (rc != CLI_OK)
        return rc;
    convert_add_ends(c);
    rc = copy_manifest_go_on(&c->manifest, &c->job);
    if (rc == CLI_OK)
        rc = job_file_begin(&c->job);
    if (rc == CLI_OK)
        rc = copy_manifest_begin(&c->manifest, c->from_stdin ? MANIFEST_SIZE_LATER : manifest_size(c));
    return rc == CLI_OK ? create_and_fill(c) : copy_manifest_end(&c->manifest, NULL, 0);
}

static int share_memory(struct convert *c, const struct cli_parser *p)
{
    uint64_t buffers = grows(c) ? PIPE_MEMORY : BUFFERS;
    unsigned layers = 1;

    for (unsigned i = 0; i < c->count; i++)
        layers += cli_count_layers(c->names[i], c->source_format);
    if (c->no_create)
        layers += cli_count_layers(c->target_name, c->target_image_opts ? NULL : c->o.opts.format) - 1;
    if (c->copy.flags & VDISK_COPY_COMPRESS)
        buffers *= 2; /* with what becomes of them */
    return cli_memory_share(p, layers, 1, buffers, BUFFERS_LEAST, &c->memory);
}

static int convert_job(struct convert *c, const struct cli_parser *p)
{
    int rc = share_memory(c, p);

    if (rc == CLI_OK)
        rc = job_file_open(&c->job, p, c->quiet, &c->progress);
    if (rc == JOB_FILE_DONE)
        return job_file_end(&c->job, CLI_OK, NULL);
    if (rc != CLI_OK)
        return rc;
    rc = convert(c);
    if (job_file_tell(&c->job))
        c->error[0] = '\0';
    return job_file_end(&c->job, rc, c->job.told ? c->job.why : c->error);
}

/* ---- from the operands to the end ------------------------------------------------------------------- */

static void print_error(const struct convert *c)
{
    if (c->error[0] == '\0')
        return;
    cli_error("%s%s", c->error, c->target.left);
    if (c->hint[0] != '\0')
        fprintf(stderr, "%s: hint: %s\n", cli_program(), c->hint);
}

static char *image_opts_name(const char *text)
{
    static const char prefix[] = "image-opts:";
    char *name = cli_calloc(1, sizeof prefix + strlen(text));

    memcpy(name, prefix, sizeof prefix - 1);
    memcpy(name + sizeof prefix - 1, text, strlen(text) + 1);
    return name;
}

static int take_operands(struct convert *c, const struct cli_parser *p)
{
    char **operands;
    int n = cli_operands(p, &operands);

    if (n < 2)
        return cli_usage_error(c->verb, "Must specify image file name: the sources, and the target last");
    c->names = cli_calloc((size_t)n, sizeof *c->names);
    c->sources = cli_calloc((size_t)n, sizeof(vdisk *));
    for (int i = 0; i < n - 1; i++) {
        const char *name = cli_image(p, operands[i], c->source_format);
        if (name == NULL)
            return CLI_FAILED;
        if (!p->image_opts && pipe_is(name)) {
            if (c->from_stdin)
                return cli_usage_error(c->verb, "standard input can be a source once only");
            c->from_stdin = true;
            continue;
        }
        c->names[c->count++] = cli_strdup(name);
    }
    if (!c->target_image_opts && cli_is_volume(operands[n - 1])) {
        c->target_image_opts = true; /* it names its format, */
        c->no_create = true;         /* and is there */
        c->target_name = cli_volume_name(c->verb, operands[n - 1], c->have_out_format ? "-O" : NULL);
    } else {
        c->target_name = c->target_image_opts ? image_opts_name(operands[n - 1]) : cli_strdup(operands[n - 1]);
    }
    if (c->target_name == NULL)
        return CLI_FAILED;
    c->to_stdout = pipe_is(c->target_name);
    if (c->to_stdout) {
        free(c->target_name);
        c->target_name = cli_strdup(PIPE_OUTPUT); /* as messages name it */
    }
    return CLI_OK;
}

static void give_back(struct convert *c)
{
    for (unsigned i = 0; i < c->count; i++) {
        vdisk_close(c->sources[i]);
        free(c->names[i]);
    }
    free(c->sources);
    free(c->names);
    free(c->target_name);
    target_free(&c->target);
    cli_pairs_free(&c->pairs);
}

static int run(const struct cli_verb *verb, int argc, char **argv)
{
    struct convert c = {.verb = verb, .o.is_target = true, .o.opts = {.size = sizeof c.o.opts, .format = "raw"},
                        .copy.size = sizeof c.copy, .source_flags = VDISK_OPEN_BUFFERED};
    struct cli_parser p;
    int rc;

    cli_parser_init(&p, verb, argc, argv);
    rc = parse_options(&c, &p);
    c.o.raw = strcmp(c.o.opts.format, "raw") == 0;
    if (rc == CLI_OK && c.list_options) {
        rc = create_options_print(c.o.raw);
    } else if (rc == CLI_OK) {
        rc = take_operands(&c, &p);
        if (rc == CLI_OK)
            rc = check_options(&c);
        if (rc == CLI_OK)
            rc = convert_job(&c, &p);
    }
    print_error(&c);
    give_back(&c);
    return rc;
}

const struct cli_verb cli_convert = {
    .name = "convert",
    .summary = "Copy images into a new one, in another format perhaps.",
    .usage = "[OPTION]... SOURCE... TARGET",
    .options = options,
    .notes = "Several sources are put one after the other. The target is made anew, as by create, unless -n says\n"
             "that it is there. Zeros are not copied where the target has them. At the end all is on disk.\n"
             "A volume of a domain is a target that is there (-n), and knows its format.\n"
             "A target of - is standard output, to which the image is written from its start to its end; a\n"
             "source of - is standard input, to its end, and needs -f raw; nothing is made before it has come\n"
             "to its first byte.\n"
             "A target that was made is removed when the copy fails or is interrupted (Ctrl-C); a file that was\n"
             "there before is then left empty; with --job both stay, to be gone on with. A qcow2 target that\n"
             "was being made when the command was killed is refused as unfinished; a raw one has nothing to tell\n"
             "that by.\n"
             "Exit code: 0, or 1 when the target is not whole.\n",
    .run = run,
};
