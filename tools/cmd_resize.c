/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * resize: change the size of an image, as qemu-img resize.
 *
 * Works: the size is the last argument, so that -SIZE is not an option; +SIZE and -SIZE count from the present
 * size; a job does it, which Ctrl-C ends as an error does. Fails: a bad size, a smaller one without --shrink:
 * nothing is written.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "tools/arith.h"
#include "tools/cli.h"

struct resize {
    struct vdisk_resize_opts opts;
    struct cli_progress      progress;
    const char              *name;
    const char              *size;   /* as given */
    const char              *format; /* NULL: look */
    struct cli_memory        memory;
    bool                     quiet;
};

/* ---- the size --------------------------------------------------------------------------------------- */

/* 0, or CLI_FAILED with a message. */
static int new_size(const struct resize *r, uint64_t now, uint64_t *ret)
{
    char sign = r->size[0];
    const char *digits = sign == '+' || sign == '-' ? r->size + 1 : r->size;
    uint64_t size;
    bool fits = true;

    if (cli_parse_size(digits, &size) < 0 || size > INT64_MAX) {
        cli_error("%s: '%s' is no size: bytes, or a number with K, M, G, T, P or E; + or - in front", r->name,
                  r->size);
        return CLI_FAILED;
    }
    if (sign == '+')
        fits = add_u64(now, size, &size) && size <= INT64_MAX;
    else if (sign == '-')
        fits = !__builtin_sub_overflow(now, size, &size);
    if (!fits || size == 0) {
        cli_error("%s: New image size must be positive, and less than 8E (it is %" PRIu64 " now)", r->name, now);
        return CLI_FAILED;
    }
    *ret = size;
    return CLI_OK;
}

/* ---- the resize ------------------------------------------------------------------------------------- */

static int resize_open(struct resize *r, vdisk *v)
{
    uint64_t now = vdisk_size(v), size;
    vdisk_job *job;
    int rc;

    if (new_size(r, now, &size) != CLI_OK)
        return CLI_FAILED;
    if (align_up(size, 512) < now && !r->opts.shrink) {
        cli_error("%s: Use the --shrink option to perform a shrink operation: it deletes what lies behind the new "
                  "end", r->name);
        return CLI_FAILED;
    }
    if (vdisk_job_resize(v, size, &r->opts, &job) < 0)
        return cli_library_error();
    rc = cli_job_run(job) < 0 ? cli_library_error() : CLI_OK;
    vdisk_job_free(job);
    if (rc == CLI_OK)
        cli_progress_end(&r->progress);
    return rc;
}

static int resize_image(struct resize *r)
{
    struct vdisk_open_opts open = {.size = sizeof open, .flags = VDISK_OPEN_RDWR, .format = r->format,
                                   .cache_bytes = r->memory.cache};
    vdisk *v;
    int rc;

    if (vdisk_open(r->name, &open, &v) < 0)
        return cli_library_error();
    rc = resize_open(r, v);
    if (vdisk_close(v) < 0 && rc == CLI_OK)
        rc = cli_library_error();
    if (rc == CLI_OK && !r->quiet)
        printf("Image resized.\n");
    return rc;
}

/* ---- command line ----------------------------------------------------------------------------------- */

enum { OPT_PREALLOCATION = CLI_LONG_ONLY + 1, OPT_SHRINK };

static const struct cli_option options[] = {
    {'f', "format", "FMT", "raw or qcow2; otherwise found from the content"},
    {OPT_PREALLOCATION, "preallocation", "MODE", "for what is new: off (default), metadata (not raw),\n"
                                                 "falloc or full"},
    {OPT_SHRINK, "shrink", NULL, "a smaller size is meant: what lies behind it is deleted"},
    {'p', "progress", NULL, "show progress"},
    {'q', "quiet", NULL, "print nothing but errors"},
    CLI_BULK_OPTIONS,
    CLI_IMAGE_OPTIONS,
    {0, NULL, NULL, NULL},
};

static bool parse_preallocation(struct resize *r, const char *value)
{
    static const char *const modes[] = {
        [VDISK_PREALLOC_OFF] = "off", [VDISK_PREALLOC_METADATA] = "metadata",
        [VDISK_PREALLOC_FALLOC] = "falloc", [VDISK_PREALLOC_FULL] = "full",
    };

    for (size_t i = 0; i < ARRAY_LEN(modes); i++)
        if (strcmp(value, modes[i]) == 0) {
            r->opts.preallocation = (enum vdisk_prealloc)i;
            return true;
        }
    return false;
}

/* "-1G" is a size, not an option: taken off the line. NULL: there is none. */
static char *take_negative(int *argc, char **argv)
{
    for (int i = 1; i < *argc && strcmp(argv[i], "--") != 0; i++) {
        char *word = argv[i];
        if (word[0] != '-' || word[1] < '0' || word[1] > '9')
            continue;
        for (--*argc; i < *argc; i++)
            argv[i] = argv[i + 1];
        return word;
    }
    return NULL;
}

static int run(const struct cli_verb *verb, int argc, char **argv)
{
    struct resize r = {.opts = {.size = sizeof r.opts, .progress = cli_progress_show}};
    struct cli_parser p;
    char **operands;
    int n;

    r.size = take_negative(&argc, argv);
    cli_parser_init(&p, verb, argc, argv);
    for (int id; (id = cli_parser_next(&p)) != CLI_END;) {
        switch (id) {
        case 'f': r.format = p.value; break;
        case 'p': r.progress.enabled = true; break;
        case 'q': r.quiet = true; break;
        case OPT_SHRINK: r.opts.shrink = true; break;
        case OPT_PREALLOCATION:
            if (!parse_preallocation(&r, p.value))
                return cli_usage_error(verb, "--preallocation takes off, metadata, falloc or full, not '%s'",
                                       p.value);
            break;
        default: return CLI_FAILED;
        }
    }
    n = cli_operands(&p, &operands);
    if (r.size == NULL && n == 2)
        r.size = operands[--n];
    if (n != 1 || r.size == NULL)
        return cli_usage_error(verb, "takes the name of one image and its size");
    r.name = cli_image(&p, operands[0], r.format);
    if (r.name == NULL)
        return CLI_FAILED;
    r.progress.enabled = r.progress.enabled && !r.quiet;
    r.opts.progress_arg = &r.progress;
    if (cli_memory_share(&p, cli_count_layers(r.name, r.format), 1, 0, 0, &r.memory) != CLI_OK)
        return CLI_FAILED;
    return resize_image(&r);
}

const struct cli_verb cli_resize = {
    .name = "resize",
    .summary = "Change the size of an image.",
    .usage = "[OPTION]... NAME [+|-]SIZE",
    .options = options,
    .notes = "SIZE: bytes, or a number with K, M, G, T, P or E; rounded up to 512. With + or - it counts from\n"
             "the present size. What is new reads as zeros. After an error, a signal or a crash the image has\n"
             "its old size; only a raw file whose preallocation was killed may be longer.\n",
    .run = run,
};
