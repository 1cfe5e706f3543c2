/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * dd: copy an image, or a part of it, into a new one, as qemu-img dd.
 *
 * Works: the part is that of `count` blocks from the start, without `skip` of them (as QEMU has it: those that are
 * skipped count); the target is made with its size, vdisk_job_copy() fills it. Fails: as convert.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/cli.h"
#include "tools/distinct.h"
#include "tools/target.h"

#define COUNT_MOST ((uint64_t)INT64_MAX)

enum { BLOCK = 512, BLOCK_MOST = INT32_MAX };

struct dd {
    const struct cli_verb   *verb;
    const char              *format;
    struct vdisk_create_opts create;
    uint32_t                 flags;
    const char              *input, *output;
    uint64_t                 block, count, skip; /* count: UINT64_MAX: all */
    char                     error[1024], hint[512];
    struct target            target;
};

static const struct cli_option options[] = {
    {'f', "format", "FMT", "of the input: raw or qcow2; otherwise found from the content"},
    {'O', "output-format", "FMT", "raw (default) or qcow2"},
    {'U', "force-share", NULL, "open the input although others write to it"},
    CLI_IMAGE_OPTIONS,
    {0, NULL, NULL, NULL},
};

/* ---- operands ----------------------------------------------------------------------------------------- */

static int parse_number(const struct dd *d, const char *key, const char *text, uint64_t least, uint64_t most,
                        uint64_t *ret)
{
    if (cli_parse_size(text, ret) < 0)
        return cli_usage_error(d->verb, "Invalid %s specified: '%s'", key, text);
    if (*ret < least || *ret > most)
        return cli_usage_error(d->verb, "Invalid %s specified. Must be between %" PRIu64 " and %" PRIu64, key,
                               least, most);
    return CLI_OK;
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
    else
        return cli_usage_error(d->verb, "unrecognized operand %s", text);
    return CLI_OK;
}

/* The part: from where, and how much. */
static uint64_t choose_part(const struct dd *d, uint64_t size, uint64_t *ret_offset)
{
    uint64_t end, offset;

    if (!__builtin_mul_overflow(d->count, d->block, &end) && end < size)
        size = end;
    if (__builtin_mul_overflow(d->skip, d->block, &offset) || offset > size) {
        cli_warn("%s: cannot skip to specified offset", d->input);
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

static int copy(struct dd *d, vdisk *source, vdisk *target, uint64_t offset, uint64_t len)
{
    struct vdisk_copy_opts opts = {.size = sizeof opts, .name = d->output, .offset = offset, .length = len};
    vdisk_job *job;
    int rc;

    if (len == 0)
        return CLI_OK;
    if (offset == 0 && len == vdisk_size(source)) {
        opts.length = 0; /* all of it */
        opts.flags |= VDISK_COPY_CLONE;
    }
    if (target_is_zero(&d->target, &d->create))
        opts.flags |= VDISK_COPY_TARGET_IS_ZERO;
    if (vdisk_job_copy(&source, 1, target, &opts, &job) < 0)
        return failed(d);
    rc = cli_job_run(job) < 0 ? failed(d) : CLI_OK;
    vdisk_job_free(job);
    return rc;
}

static int make_and_fill(struct dd *d, vdisk *source)
{
    struct vdisk_open_opts how = {.size = sizeof how, .flags = VDISK_OPEN_RDWR | VDISK_OPEN_UNFINISHED,
                                  .format = d->create.format};
    uint64_t offset, len = choose_part(d, vdisk_size(source), &offset);
    vdisk *target = NULL;
    int rc = CLI_OK;

    d->create.virtual_size = len;
    d->create.unfinished = true;
    d->target.name = d->output;
    if (target_create(&d->target, &d->create) < 0 || vdisk_open(d->output, &how, &target) < 0)
        rc = failed(d);
    if (rc == CLI_OK)
        rc = copy(d, source, target, offset, len);
    if (rc == CLI_OK && vdisk_finish(target) < 0)
        rc = failed(d);
    if (target != NULL && vdisk_close(target) < 0)
        rc = failed(d);
    if (rc != CLI_OK)
        target_undo(&d->target);
    return rc;
}

static int dd(struct dd *d, const char *input)
{
    struct vdisk_open_opts how = {.size = sizeof how, .flags = d->flags, .format = d->format};
    const struct distinct_target t = {.name = d->output};
    char *name = cli_strdup(input);
    vdisk *source = NULL;
    int rc;

    rc = vdisk_open(name, &how, &source) < 0 ? failed(d) : CLI_OK;
    if (rc == CLI_OK)
        rc = distinct_check(&source, &name, 1, &t);
    if (rc == CLI_OK)
        rc = make_and_fill(d, source);
    vdisk_close(source);
    free(name);
    return rc;
}

/* ---- command line ------------------------------------------------------------------------------------- */

static int parse(struct dd *d, struct cli_parser *p)
{
    char **operands;
    int n, rc = CLI_OK;

    for (int id; (id = cli_parser_next(p)) != CLI_END;) {
        switch (id) {
        case 'f': d->format = p->value; break;
        case 'O': d->create.format = p->value; break;
        case 'U': d->flags |= VDISK_OPEN_FORCE_SHARE; break;
        default: return CLI_FAILED;
        }
    }
    n = cli_operands(p, &operands);
    for (int i = 0; i < n && rc == CLI_OK; i++)
        rc = parse_operand(d, operands[i]);
    if (rc == CLI_OK && (d->input == NULL || d->output == NULL))
        return cli_usage_error(d->verb, "Must specify both input and output files");
    if (rc == CLI_OK && strcmp(d->create.format, "raw") != 0 && strcmp(d->create.format, "qcow2") != 0)
        return cli_usage_error(d->verb, "Unknown file format '%s'; -O takes raw or qcow2", d->create.format);
    return rc;
}

static int run(const struct cli_verb *verb, int argc, char **argv)
{
    struct dd d = {.verb = verb, .create = {.size = sizeof d.create, .format = "raw"},
                   .flags = VDISK_OPEN_BUFFERED, .block = BLOCK, .count = UINT64_MAX};
    struct cli_parser p;
    const char *input;
    int rc;

    cli_parser_init(&p, verb, argc, argv);
    rc = parse(&d, &p);
    if (rc != CLI_OK)
        return rc;
    input = cli_image(&p, d.input, d.format);
    rc = input != NULL ? dd(&d, input) : CLI_FAILED;
    if (d.error[0] != '\0') {
        cli_error("%s%s", d.error, d.target.left);
        if (d.hint[0] != '\0')
            fprintf(stderr, "vdisk-io: hint: %s\n", d.hint);
    }
    target_free(&d.target);
    return rc;
}

const struct cli_verb cli_dd = {
    .name = "dd",
    .summary = "Copy an image, or a part of it, into a new one.",
    .usage = "[OPTION]... [bs=SIZE] [count=BLOCKS] [skip=BLOCKS] if=INPUT of=OUTPUT",
    .options = options,
    .notes = "bs is 512 by default. skip leaves out so many blocks of the start; count is where the part ends,\n"
             "counted from the start of the input. Otherwise as convert.\n"
             "Exit code: 0, or 1 when the output is not whole.\n",
    .run = run,
};
