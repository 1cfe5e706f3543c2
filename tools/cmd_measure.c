/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * measure: how large a new image gets, empty (--size) or with the content of another, as qemu-img measure.
 *
 * Works: vdisk_measure(), or vdisk_job_measure() over the image. Fails: options that cannot be, or an image that
 * cannot be looked at. Nothing is written.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "tools/arith.h"
#include "tools/cli.h"
#include "tools/create_options.h"

struct measure {
    const struct cli_verb *verb;
    const char            *name;        /* NULL: an empty one */
    const char            *format;      /* of it; NULL: look */
    struct create_options  o;           /* of the new image */
    struct cli_pairs       pairs;
    const char            *size;        /* as given */
    uint64_t               extent_size; /* of logical volumes; 0: not asked for */
    uint32_t               flags;
    struct cli_memory      memory;
    bool                   json, list_options;
};

enum { OPT_OUTPUT = CLI_LONG_ONLY + 1, OPT_EXTENT_SIZE };

static const struct cli_option options[] = {
    {'f', "format", "FMT", "of NAME: raw or qcow2; otherwise found from the content"},
    {'O', "target-format", "FMT", "of the new image: raw (default) or qcow2"},
    {'o', "target-options", "LIST", "options of its format, as of create; '-o help' lists them"},
    {'s', "size", "SIZE", "of an empty image of that size, instead of NAME's copy"},
    {'l', "snapshot", "SNAPSHOT", "refused: internal snapshots cannot be read yet"},
    {OPT_OUTPUT, "output", "FORM", "human (default) or json"},
    {OPT_EXTENT_SIZE, "extent-size", "SIZE", "also the extents of that size, of a logical volume that\n"
                                             "holds it, with its bitmaps"},
    {'U', "force-share", NULL, "open NAME although others write to it"},
    CLI_BULK_OPTIONS,
    CLI_IMAGE_OPTIONS,
    {0, NULL, NULL, NULL},
};

/* ---- the result --------------------------------------------------------------------------------------- */

static uint64_t extents(const struct measure *m, const struct vdisk_measure_result *r, uint64_t bytes)
{
    bytes += r->has_bitmaps ? r->bitmaps : 0;
    return bytes / m->extent_size + (bytes % m->extent_size > 0);
}

static int print_json(const struct measure *m, const struct vdisk_measure_result *r)
{
    json_t *json = json_object();

    if (r->has_bitmaps)
        json_object_set_new(json, "bitmaps", json_integer((json_int_t)r->bitmaps));
    json_object_set_new(json, "required", json_integer((json_int_t)r->required));
    json_object_set_new(json, "fully-allocated", json_integer((json_int_t)r->fully_allocated));
    if (m->extent_size > 0) {
        json_object_set_new(json, "required-extents", json_integer((json_int_t)extents(m, r, r->required)));
        json_object_set_new(json, "fully-allocated-extents",
                            json_integer((json_int_t)extents(m, r, r->fully_allocated)));
    }
    return cli_json_print(json);
}

static int print_result(const struct measure *m, const struct vdisk_measure_result *r)
{
    if (m->json)
        return print_json(m, r);
    printf("required size: %" PRIu64 "\n", r->required);
    printf("fully allocated size: %" PRIu64 "\n", r->fully_allocated);
    if (r->has_bitmaps)
        printf("bitmaps size: %" PRIu64 "\n", r->bitmaps);
    if (m->extent_size > 0)
        printf("required extents: %" PRIu64 "\nfully allocated extents: %" PRIu64 "\n", extents(m, r, r->required),
               extents(m, r, r->fully_allocated));
    return CLI_OK;
}

/* ---- the work ----------------------------------------------------------------------------------------- */

static int measure_open(const struct measure *m, vdisk *v)
{
    struct vdisk_measure_opts opts = {.size = sizeof opts, .name = m->name};
    struct vdisk_measure_result r = {.size = sizeof r};
    vdisk_job *job;
    int rc;

    if (vdisk_job_measure(v, &m->o.opts, &opts, &job) < 0)
        return cli_library_error();
    if (cli_job_run(job) < 0 || vdisk_job_get_measure_result(job, &r) < 0)
        rc = cli_library_error();
    else
        rc = print_result(m, &r);
    vdisk_job_free(job);
    return rc;
}

static int measure_image(const struct measure *m)
{
    struct vdisk_open_opts how = {.size = sizeof how, .flags = m->flags | VDISK_OPEN_HOST_HOLES,
                                  .format = m->format, .cache_bytes = m->memory.cache};
    vdisk *v;
    int rc;

    if (vdisk_open(m->name, &how, &v) < 0)
        return cli_library_error();
    rc = measure_open(m, v);
    if (vdisk_close(v) < 0 && rc == CLI_OK)
        rc = cli_library_error();
    return rc;
}

static int measure_size(const struct measure *m)
{
    struct vdisk_measure_result r = {.size = sizeof r};

    return vdisk_measure(&m->o.opts, NULL, &r) < 0 ? cli_library_error() : print_result(m, &r);
}

/* ---- command line ------------------------------------------------------------------------------------- */

static int parse_list(struct measure *m, const char *value)
{
    if (strcmp(value, "help") == 0 || strcmp(value, "?") == 0)
        m->list_options = true;
    else if (cli_pairs_add(&m->pairs, value) < 0)
        return cli_usage_error(m->verb, "-o takes KEY=VALUE,..., not '%s'", value);
    return CLI_OK;
}

static int parse_extent_size(struct measure *m, const char *value)
{
    if (cli_parse_size(value, &m->extent_size) < 0 || m->extent_size == 0)
        return cli_usage_error(m->verb, "--extent-size takes a size, such as 128M, not '%s'", value);
    return CLI_OK;
}

static int parse_options(struct measure *m, struct cli_parser *p)
{
    int rc = CLI_OK;

    for (int id; rc == CLI_OK && (id = cli_parser_next(p)) != CLI_END;) {
        switch (id) {
        case 'f': m->format = p->value; break;
        case 'O': m->o.opts.format = p->value; break;
        case 'o': rc = parse_list(m, p->value); break;
        case 's': m->size = p->value; break;
        case 'U': m->flags |= VDISK_OPEN_FORCE_SHARE; break;
        case 'l': return cli_usage_error(m->verb, "-l %s: internal snapshots cannot be read yet", p->value);
        case OPT_EXTENT_SIZE: rc = parse_extent_size(m, p->value); break;
        case OPT_OUTPUT: rc = cli_parse_output(m->verb, p->value, &m->json) ? CLI_OK : CLI_FAILED; break;
        default: rc = CLI_FAILED; break;
        }
    }
    return rc;
}

static int take_operands(struct measure *m, const struct cli_parser *p)
{
    char **operands;
    int n = cli_operands(p, &operands);

    if (n > 1)
        return cli_usage_error(m->verb, "At most one filename argument is allowed");
    if (m->size != NULL && (n > 0 || p->image_opts || m->format != NULL))
        return cli_usage_error(m->verb, "--size N cannot be used together with a filename");
    if (m->size == NULL && n == 0)
        return cli_usage_error(m->verb, "Either --size N or one filename must be specified");
    if (n == 1)
        m->name = cli_image(p, operands[0], m->format);
    return n == 1 && m->name == NULL ? CLI_FAILED : CLI_OK;
}

/* --size goes before -o size=. */
static int apply_options(struct measure *m)
{
    m->o.name = "measure";
    if (!m->o.raw && strcmp(m->o.opts.format, "qcow2") != 0)
        return cli_usage_error(m->verb, "Unknown file format '%s'; -O takes raw or qcow2", m->o.opts.format);
    if (create_options_apply(&m->o, &m->pairs) < 0) {
        cli_error("%s", m->o.why);
        return CLI_FAILED;
    }
    if (m->size == NULL)
        return CLI_OK;
    m->o.have_size = true;
    return cli_parse_ranged(m->verb, "image size", m->size, 0, INT64_MAX, &m->o.opts.virtual_size);
}

static int run(const struct cli_verb *verb, int argc, char **argv)
{
    struct measure m = {.verb = verb, .o.is_target = true, .o.opts = {.size = sizeof m.o.opts, .format = "raw"},
                        .flags = VDISK_OPEN_BUFFERED};
    struct cli_parser p;
    int rc;

    cli_parser_init(&p, verb, argc, argv);
    rc = parse_options(&m, &p);
    m.o.raw = strcmp(m.o.opts.format, "raw") == 0;
    if (rc == CLI_OK && m.list_options) {
        rc = create_options_print(m.o.raw);
    } else if (rc == CLI_OK) {
        rc = take_operands(&m, &p);
        if (rc == CLI_OK)
            rc = apply_options(&m);
        if (rc == CLI_OK && m.name != NULL)
            rc = cli_memory_share(&p, cli_count_layers(m.name, m.format), 0, 0, 0, &m.memory);
        if (rc == CLI_OK)
            rc = m.name != NULL ? measure_image(&m) : measure_size(&m);
    }
    cli_pairs_free(&m.pairs);
    return rc;
}

const struct cli_verb cli_measure = {
    .name = "measure",
    .summary = "Tell how large a new image gets.",
    .usage = "[OPTION]... NAME|--size SIZE",
    .options = options,
    .notes = "Required: what a copy of NAME takes, by what NAME knows to be zeros; fully allocated: once all of\n"
             "it has been written. Both as qemu-img measure counts, for storage that does not grow by itself.\n"
             "Exit code: 0, or 1.\n",
    .run = run,
};
