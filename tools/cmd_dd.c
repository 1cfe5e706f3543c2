/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * dd: copy an image, or a part of it, into a new one, as qemu-img dd.
 *
 * Works: the part is that of `count` blocks from the start, without `skip` of them (as QEMU has it: those that
 * are skipped count); the target is made with its size, vdisk_job_copy() fills it. Standard output gets it by
 * vdisk_job_stream(), and what comes from standard input grows the target as it comes, by vdisk_job_fill().
 * Fails: as convert.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/cli.h"
#include "tools/distinct.h"
#include "tools/pipe.h"
#include "tools/target.h"

#define COUNT_MOST ((uint64_t)INT64_MAX)

enum { BLOCK = 512, BLOCK_MOST = INT32_MAX, BUFFERS = 32 << 20, BUFFERS_LEAST = 4 << 20 };

struct dd {
    const struct cli_verb   *verb;
    const char              *format;
    struct vdisk_create_opts create;
    uint32_t                 flags;
    const char              *input, *output;
    uint64_t                 block, count, skip; /* count: UINT64_MAX: all */
    uint64_t                 input_size, output_size; /* isize, osize; UINT64_MAX: not given */
    bool                     no_create, from_stdin, to_stdout;
    bool                     have_format; /* -O */
    char                    *volume; /* what the output is opened by: it is a volume of a domain */
    struct pipe_part         part;  /* of standard input */
    struct cli_memory        memory;
    char                     error[1024], hint[512];
    struct target            target;
};

static const struct cli_option options[] = {
    {'f', "format", "FMT", "of the input: raw or qcow2; otherwise found from the content"},
    {'O', "output-format", "FMT", "raw (default) or qcow2"},
    {'n', "no-create", NULL, "write into an output that is there"},
    {'U', "force-share", NULL, "open the input although others write to it"},
    CLI_BULK_OPTIONS,
    CLI_IMAGE_OPTIONS,
    {0, NULL, NULL, NULL},
};

/* ---- operands ----------------------------------------------------------------------------------------- */

static int parse_number(const struct dd *d, const char *key, const char *text, uint64_t least, uint64_t most,
                        uint64_t *ret)
{
    return cli_parse_ranged(d->verb, key, text, least, most, ret);
}

static int parse_operand(struct dd *d, const char *text)
{
    const char *value = strchr(text, '=');
    size_t n = value != NULL ? (size_t)(value - text) : 0;

    if (n == 2 && strncmp(text, "if", n) == 0)
        d->input = value + 1;
    else if (n == 2 && strncmp(text, "of", n) == 0)
        d->output = value + 1;
    else if (n == 2 && strncmp(text, "bs", n) == 0)
        return parse_number(d, "bs", value + 1, 1, BLOCK_MOST, &d->block);
    else if (n == 5 && strncmp(text, "count", n) == 0)
        return parse_number(d, "count", value + 1, 0, COUNT_MOST, &d->count);
    else if (n == 4 && strncmp(text, "skip", n) == 0)
        return parse_number(d, "skip", value + 1, 0, COUNT_MOST, &d->skip);
    else if (n == 5 && strncmp(text, "isize", n) == 0)
        return parse_number(d, "isize", value + 1, 0, COUNT_MOST, &d->input_size);
    else if (n == 5 && strncmp(text, "osize", n) == 0)
        return parse_number(d, "osize", value + 1, 0, COUNT_MOST, &d->output_size);
    else
        return cli_usage_error(d->verb, "unrecognized operand %s", text);
    return CLI_OK;
}

/* The part: from where, and how much. */
static uint64_t choose_part(const struct dd *d, uint64_t size, uint64_t *ret_offset)
{
    uint64_t end, offset;

    if (d->input_size < size)
        size = d->input_size;
    if (!__builtin_mul_overflow(d->count, d->block, &end) && end < size)
        size = end;
    if (__builtin_mul_overflow(d->skip, d->block, &offset) || offset > size) {
        cli_warn("%s: cannot skip to specified offset", d->from_stdin ? PIPE_INPUT : d->input);
        offset = size;
    }
    *ret_offset = offset;
    return size - offset;
}

/* ---- the copy ----------------------------------------------------------------------------------------- */

static int failed(struct dd *d)
{
    if (d->error[0] == '\0') {
        snprintf(d->error, sizeof d->error, "%s", vdisk_error_text());
        snprintf(d->hint, sizeof d->hint, "%s", vdisk_error_hint());
    }
    return CLI_FAILED;
}

static int run_job(struct dd *d, vdisk_job *job)
{
    int rc = cli_job_run(job);

    if (rc < 0 && d->part.error != 0)
        snprintf(d->error, sizeof d->error, "%s: %s", PIPE_INPUT, strerror(d->part.error));
    rc = rc < 0 ? failed(d) : CLI_OK;
    vdisk_job_free(job);
    return rc;
}

/* How much comes is not known, and the output is as long as that. */
static bool grows(const struct dd *d)
{
    return d->from_stdin && !d->no_create && d->output_size == UINT64_MAX;
}

static int copy(struct dd *d, vdisk *source, vdisk *target, uint64_t offset, uint64_t len)
{
    struct vdisk_copy_opts opts = {.size = sizeof opts, .name = d->output, .offset = offset, .length = len,
                                   .memory_max = d->memory.buffers};
    vdisk_job *job;

    if (len == 0)
        return CLI_OK;
    if (source != NULL && offset == 0 && len == vdisk_size(source))
        opts.length = 0; /* all of it */
    if (source != NULL && !d->no_create)
        opts.flags |= VDISK_COPY_CLONE;
    if (!d->no_create && target_is_zero(&d->target, &d->create))
        opts.flags |= VDISK_COPY_TARGET_IS_ZERO;
    if (source != NULL)
        return vdisk_job_copy(&source, 1, target, &opts, &job) < 0 ? failed(d) : run_job(d, job);
    if (grows(d)) {
        opts.flags |= VDISK_COPY_GROW;
        opts.depth = PIPE_DEPTH;
    }
    return vdisk_job_fill(target, pipe_read, &d->part, &opts, &job) < 0 ? failed(d) : run_job(d, job);
}

static int make_output(struct dd *d, uint64_t len)
{
    if (d->no_create)
        return CLI_OK;
    d->create.virtual_size = d->output_size != UINT64_MAX ? d->output_size : len;
    d->create.unfinished = true;
    d->target.name = d->output;
    return target_create(&d->target, &d->create) < 0 ? failed(d) : CLI_OK;
}

/* `source` NULL: standard input, of which `len` is not known: 1. */
static int make_and_fill(struct dd *d, vdisk *source, uint64_t offset, uint64_t len)
{
    struct vdisk_open_opts how = {.size = sizeof how, .flags = VDISK_OPEN_RDWR, .format = d->create.format,
                                  .cache_bytes = d->memory.cache};
    vdisk *target = NULL;
    int rc = make_output(d, source != NULL ? len : 0);

    if (!d->no_create)
        how.flags |= VDISK_OPEN_UNFINISHED;
    if (rc == CLI_OK && cli_open(d->output, &how, &target) < 0)
        rc = failed(d);
    if (rc == CLI_OK)
        rc = copy(d, source, target, offset, len);
    if (rc == CLI_OK && !d->no_create && vdisk_finish(target) < 0)
        rc = failed(d);
    if (target != NULL && vdisk_close(target) < 0)
        rc = failed(d);
    if (rc != CLI_OK && !d->no_create)
        target_undo(&d->target);
    return rc;
}

/* ---- standard input and output ------------------------------------------------------------------------- */

static int stream(struct dd *d, vdisk *source, char *name, uint64_t offset, uint64_t len)
{
    struct vdisk_stream_opts opts = {.size = sizeof opts, .name = PIPE_OUTPUT, .offset = offset, .length = len,
                                     .memory_max = d->memory.buffers};
    vdisk_job *job;
    int rc = distinct_check_output(&source, &name, 1);

    if (rc != CLI_OK)
        return rc;
    if (len == 0)
        opts.offset = vdisk_size(source); /* a length of 0 is all that is left */
    if (vdisk_job_stream(&source, 1, &d->create, pipe_write, NULL, &opts, &job) < 0)
        return failed(d);
    rc = run_job(d, job);
    return rc == CLI_OK ? pipe_end_output() : rc;
}

/* Of standard input what counts is known by its place alone. */
static int fill(struct dd *d)
{
    const struct distinct_target t = {.name = d->output, .is_there = d->no_create, .format = d->create.format};
    uint64_t offset, end = choose_part(d, UINT64_MAX, &offset);
    int rc = distinct_check_input(&t);

    d->part = (struct pipe_part){.skip = offset, .left = end};
    if (rc == CLI_OK)
        rc = pipe_begin_input(&d->part);
    return rc == CLI_OK ? make_and_fill(d, NULL, 0, 1) : rc;
}

static int dd(struct dd *d, const char *input)
{
    struct vdisk_open_opts how = {.size = sizeof how, .flags = d->flags, .format = d->format,
                                  .cache_bytes = d->memory.cache};
    const struct distinct_target t = {.name = d->output, .is_there = d->no_create, .format = d->create.format};
    char *name = cli_strdup(input);
    uint64_t offset = 0, len = 0;
    vdisk *source = NULL;
    int rc;

    rc = d->to_stdout ? pipe_begin_output() : CLI_OK;
    if (rc == CLI_OK && vdisk_open(name, &how, &source) < 0)
        rc = failed(d);
    if (rc == CLI_OK && !d->to_stdout)
        rc = distinct_check(&source, &name, 1, &t);
    if (rc == CLI_OK)
        len = choose_part(d, vdisk_size(source), &offset);
    if (rc == CLI_OK && d->output_size < len) {
        cli_error("%s: osize is less than the %" PRIu64 " bytes that are copied", d->output, len);
        rc = CLI_FAILED;
    }
    if (rc == CLI_OK)
        rc = d->to_stdout ? stream(d, source, name, offset, len) : make_and_fill(d, source, offset, len);
    vdisk_close(source);
    free(name);
    return rc;
}

/* ---- command line ------------------------------------------------------------------------------------- */

/* What "-" cannot be. */
static int check_pipes(struct dd *d, const struct cli_parser *p)
{
    d->from_stdin = !p->image_opts && pipe_is(d->input);
    d->to_stdout = pipe_is(d->output);
    if (d->from_stdin && d->to_stdout)
        return cli_usage_error(d->verb, "from standard input to standard output nothing is converted");
    if (d->from_stdin && d->format != NULL && strcmp(d->format, "raw") != 0)
        return cli_usage_error(d->verb, "standard input is read as raw: reading %s needs seeking, so write it "
                                        "to a file first", d->format);
    if (d->to_stdout && d->no_create)
        return cli_usage_error(d->verb, "-n: standard output is no output that is there");
    if (d->to_stdout && d->output_size != UINT64_MAX)
        return cli_usage_error(d->verb, "osize: what goes to standard output is as large as the part");
    return CLI_OK;
}

/* It is there, and names its format. */
static int take_volume(struct dd *d)
{
    d->volume = cli_volume_name(d->verb, d->output, d->have_format ? "-O" : NULL);
    if (d->volume == NULL)
        return CLI_FAILED;
    d->output = d->volume;
    d->create.format = NULL;
    d->no_create = true;
    return CLI_OK;
}

static int parse(struct dd *d, struct cli_parser *p)
{
    char **operands;
    int n, rc = CLI_OK;

    for (int id; (id = cli_parser_next(p)) != CLI_END;) {
        switch (id) {
        case 'f': d->format = p->value; break;
        case 'O':
            d->create.format = p->value;
            d->have_format = true;
            break;
        case 'n': d->no_create = true; break;
        case 'U': d->flags |= VDISK_OPEN_FORCE_SHARE; break;
        default: return CLI_FAILED;
        }
    }
    n = cli_operands(p, &operands);
    for (int i = 0; i < n && rc == CLI_OK; i++)
        rc = parse_operand(d, operands[i]);
    if (rc == CLI_OK && (d->input == NULL || d->output == NULL))
        return cli_usage_error(d->verb, "Must specify both input and output files");
    if (rc == CLI_OK && cli_is_volume(d->output))
        rc = take_volume(d);
    if (rc == CLI_OK && d->volume == NULL && strcmp(d->create.format, "raw") != 0 &&
        strcmp(d->create.format, "qcow2") != 0)
        return cli_usage_error(d->verb, "Unknown file format '%s'; -O takes raw or qcow2", d->create.format);
    if (rc == CLI_OK && d->no_create && d->output_size != UINT64_MAX)
        return cli_usage_error(d->verb, "osize: an output that is there (-n) has its size");
    return rc == CLI_OK ? check_pipes(d, p) : rc;
}

/* `input` NULL: standard input. */
static int share_memory(struct dd *d, const struct cli_parser *p, const char *input)
{
    unsigned layers = 1;

    if (input != NULL)
        layers += cli_count_layers(input, d->format);
    if (d->no_create)
        layers += cli_count_layers(d->output, d->create.format) - 1;
    return cli_memory_share(p, layers, 1, grows(d) ? PIPE_MEMORY : BUFFERS, BUFFERS_LEAST, &d->memory);
}

static int run(const struct cli_verb *verb, int argc, char **argv)
{
    struct dd d = {.verb = verb, .create = {.size = sizeof d.create, .format = "raw"},
                   .flags = VDISK_OPEN_BUFFERED, .block = BLOCK, .count = UINT64_MAX, .input_size = UINT64_MAX,
                   .output_size = UINT64_MAX};
    struct cli_parser p;
    char *input = NULL;
    int rc;

    cli_parser_init(&p, verb, argc, argv);
    rc = parse(&d, &p);
    if (rc == CLI_OK && !d.from_stdin) {
        const char *name = cli_image(&p, d.input, d.format);
        input = name != NULL ? cli_strdup(name) : NULL;
        rc = name != NULL ? CLI_OK : CLI_FAILED;
    }
    if (rc != CLI_OK) {
        free(d.volume);
        return rc;
    }
    rc = share_memory(&d, &p, input);
    if (rc == CLI_OK)
        rc = d.from_stdin ? fill(&d) : dd(&d, input);
    if (d.error[0] != '\0') {
        cli_error("%s%s", d.error, d.target.left);
        if (d.hint[0] != '\0')
            fprintf(stderr, "%s: hint: %s\n", cli_program(), d.hint);
    }
    target_free(&d.target);
    free(input);
    free(d.volume);
    return rc;
}

const struct cli_verb cli_dd = {
    .name = "dd",
    .summary = "Copy an image, or a part of it, into a new one.",
    .usage = "[OPTION]... [bs=SIZE] [count=BLOCKS] [skip=BLOCKS] [isize=SIZE] [osize=SIZE] if=INPUT of=OUTPUT",
    .options = options,
    .notes = "bs is 512 by default. skip leaves out so many blocks of the start; count is where the part ends,\n"
             "counted from the start of the input. isize: no more of the input counts. osize: the size of the\n"
             "output, which has zeros behind the part. - is standard input, which is raw, or standard output.\n"
             "A volume of a domain is an output that is there (-n), and knows its format.\n"
             "Otherwise as convert.\n"
             "Exit code: 0, or 1 when the output is not whole.\n",
    .run = run,
};
