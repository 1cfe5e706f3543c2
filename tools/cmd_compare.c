/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * compare: do two images have the same content, as qemu-img compare.
 *
 * Works: both are opened, vdisk_job_compare() finds the first difference. Exit code 0: none, 1: one (or, as there,
 * a wrong command line); 2: an image could not be opened; 3: could not say what it has data for; 4: could not be
 * read.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "tools/cli.h"
#include "tools/target.h"

enum { DIFFERENT = 1, NOT_OPENED = 2, NOT_MAPPED = 3, NOT_READ = 4 };

struct compare {
    const char          *formats[2];
    char                *names[2];
    uint32_t             flags;
    bool                 strict, quiet;
    uint64_t             rate;
    struct cli_memory    memory;
    struct cli_progress  progress;
};

enum { BUFFERS = 16 << 20, BUFFERS_LEAST = 2 << 20 };

static const struct cli_option options[] = {
    {'f', "a-format", "FMT", "of the first image: raw or qcow2; otherwise found from the content"},
    {'F', "b-format", "FMT", "of the second one"},
    {'s', "strict", NULL, "different sizes, and what has no data in one of them, count, too"},
    {'T', "cache", "MODE", "none, writeback (default), writethrough, directsync or unsafe"},
    {'U', "force-share", NULL, "open them although others write to them"},
    {'p', "progress", NULL, "show progress"},
    {'q', "quiet", NULL, "print nothing but errors"},
    {'r', "rate", "SIZE", "compare so many bytes a second at most"},
    CLI_BULK_OPTIONS,
    CLI_IMAGE_OPTIONS,
    {0, NULL, NULL, NULL},
};

static int parse_options(struct compare *c, struct cli_parser *p)
{
    uint32_t mode;

    for (int id; (id = cli_parser_next(p)) != CLI_END;) {
        switch (id) {
        case 'f': c->formats[0] = p->value; break;
        case 'F': c->formats[1] = p->value; break;
        case 's': c->strict = true; break;
        case 'U': c->flags |= VDISK_OPEN_FORCE_SHARE; break;
        case 'p': c->progress.enabled = true; break;
        case 'q': c->quiet = true; break;
        case 'r':
            if (cli_parse_size(p->value, &c->rate) < 0)
                return cli_usage_error(p->verb, "Invalid rate limit specified: '%s'", p->value);
            break;
        case 'T':
            if (!target_cache_flags(p->value, &mode)) {
                cli_usage_error(p->verb, "Invalid source cache option: %s", p->value);
                return NOT_OPENED;
            }
            c->flags = (c->flags & VDISK_OPEN_FORCE_SHARE) | mode;
            break;
        default: return CLI_FAILED;
        }
    }
    c->progress.enabled = c->progress.enabled && !c->quiet;
    return CLI_OK;
}

/* ---- the result --------------------------------------------------------------------------------------- */

static int print_result(const struct compare *c, const struct vdisk_compare_result *r)
{
    FILE *out = stdout;

    if (c->quiet)
        return r->difference == VDISK_DIFFERENCE_NONE ? CLI_OK : DIFFERENT;
    if (r->sizes_differ && r->difference == VDISK_DIFFERENCE_NONE)
        fprintf(out, "Warning: Image size mismatch!\n");
    switch (r->difference) {
    case VDISK_DIFFERENCE_NONE:
        fprintf(out, "Images are identical.\n");
        return CLI_OK;
    case VDISK_DIFFERENCE_CONTENT:
        if (r->behind_end)
            fprintf(out, "Warning: Image size mismatch!\n");
        fprintf(out, "Content mismatch at offset %" PRIu64 "!\n", r->offset);
        break;
    case VDISK_DIFFERENCE_SIZE:
        fprintf(out, "Strict mode: Image size mismatch!\n");
        break;
    case VDISK_DIFFERENCE_STATUS:
        fprintf(out, "Strict mode: Offset %" PRIu64 " block status mismatch!\n", r->offset);
        break;
    }
    return DIFFERENT;
}

static int compare_open(struct compare *c, vdisk *const *v)
{
    bool not_mapped = false;
    struct vdisk_compare_opts opts = {.size = sizeof opts, .flags = c->strict ? VDISK_COMPARE_STRICT : 0,
                                      .ret_extents_failed = &not_mapped, .name = c->names[0],
                                      .progress = cli_progress_show, .progress_arg = &c->progress, .rate = c->rate,
                                      .memory_max = c->memory.buffers};
    struct vdisk_compare_result r = {.size = sizeof r};
    vdisk_job *job;
    int rc;

    if (vdisk_job_compare(v[0], v[1], &opts, &job) < 0) {
        cli_library_error();
        return NOT_READ;
    }
    if (cli_job_run(job) < 0 || vdisk_job_get_compare_result(job, &r) < 0) {
        cli_library_error();
        rc = not_mapped ? NOT_MAPPED : NOT_READ;
    } else {
        /* The result follows the last of the progress: whoever reads that has no other text in it. */
        if (r.difference == VDISK_DIFFERENCE_NONE)
            cli_progress_whole(&c->progress);
        rc = print_result(c, &r);
    }
    vdisk_job_free(job);
    if (c->progress.enabled)
        putchar('\n');
    return rc;
}

static int compare(struct compare *c)
{
    vdisk *v[2] = {NULL, NULL};
    int rc = CLI_OK;

    for (unsigned i = 0; i < 2 && rc == CLI_OK; i++) {
        struct vdisk_open_opts how = {.size = sizeof how, .flags = c->flags, .format = c->formats[i],
                                      .cache_bytes = c->memory.cache};
        if (vdisk_open(c->names[i], &how, &v[i]) < 0) {
            cli_library_error();
            rc = NOT_OPENED;
        }
    }
    if (rc == CLI_OK)
        rc = compare_open(c, v);
    vdisk_close(v[1]);
    vdisk_close(v[0]);
    return rc;
}

static int share_memory(struct compare *c, const struct cli_parser *p)
{
    unsigned layers = 0;

    for (unsigned i = 0; i < 2; i++)
        layers += cli_count_layers(c->names[i], c->formats[i]);
    return cli_memory_share(p, layers, 0, BUFFERS, BUFFERS_LEAST, &c->memory);
}

static int run(const struct cli_verb *verb, int argc, char **argv)
{
    struct compare c = {.flags = VDISK_OPEN_BUFFERED};
    struct cli_parser p;
    char **operands;
    int rc;

    cli_parser_init(&p, verb, argc, argv);
    rc = parse_options(&c, &p);
    if (rc != CLI_OK)
        return rc;
    if (cli_operands(&p, &operands) != 2)
        return cli_usage_error(verb, "Expecting two image file names");
    for (unsigned i = 0; i < 2; i++) {
        const char *name;
        if (i == 1 && c.formats[1] != NULL && !p.image_opts && cli_is_volume(operands[1]))
            name = cli_volume_name(verb, operands[1], "-F"); /* which it does not take */
        else
            name = cli_image(&p, operands[i], c.formats[i]);
        c.names[i] = name != NULL ? cli_strdup(name) : NULL;
    }
    rc = c.names[0] != NULL && c.names[1] != NULL ? CLI_OK : NOT_OPENED;
    if (rc == CLI_OK)
        rc = share_memory(&c, &p);
    if (rc == CLI_OK)
        rc = compare(&c);
    free(c.names[0]);
    free(c.names[1]);
    return rc;
}

const struct cli_verb cli_compare = {
    .name = "compare",
    .summary = "Compare the content of two images.",
    .usage = "[OPTION]... NAME NAME",
    .options = options,
    .notes = "The first difference is told, in units of 512 bytes. What is missing of the shorter one is zeros.\n"
             "Exit code: 0 the same, 1 different (or a wrong command line), 2 an image cannot be opened, 3 its\n"
             "tables, 4 its data cannot be read.\n",
    .run = run,
};
