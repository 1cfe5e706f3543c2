/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * create: make an image, as qemu-img create.
 *
 * Works: options are collected from -o, -b, -F and SIZE; the size comes from the backing file where none is given;
 * the summary line says what will be made; vdisk_create() makes it. Fails: any option that is unknown, given a bad
 * value or contradicts another: nothing is written. Of later failures vdisk_create() says what is left.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/cli.h"
#include "tools/create_options.h"

struct create {
    struct create_options    o;
    struct cli_pairs         pairs;      /* owns what o.opts points to */
    struct cli_progress      progress;
    char                    *backing_path;
    char                    *volume_path; /* of a backing file that is a volume of a domain */
    bool                     quiet;
};

/* ---- command line ---------------------------------------------------------------------------------- */

static const struct cli_option options[] = {
    {'f', "format", "FMT", "raw (default) or qcow2"},
    {'o', "options", "LIST", "options of the format: KEY=VALUE,...; may be repeated; a comma\n"
                             "in a value is written as two; '-o help' lists them"},
    {'b', "backing", "FILE", "same as -o backing_file=FILE; a relative name is relative to NAME"},
    {'F', "backing-format", "FMT", "same as -o backing_fmt=FMT; required with -b"},
    {'u', "backing-unsafe", NULL, "do not open the backing file; SIZE is then required"},
    {'p', "progress", NULL, "show progress"},
    {'q', "quiet", NULL, "print nothing but errors"},
    CLI_OBJECT_OPTION,
    {0, NULL, NULL, NULL},
};

struct create_args {
    const char *backing, *backing_fmt;
    bool        list_options;
};

static bool asks_for_help(const char *list)
{
    return strcmp(list, "help") == 0 || strcmp(list, "?") == 0;
}

static int parse_options(struct create *c, struct create_args *args, struct cli_parser *p)
{
    for (int id; (id = cli_parser_next(p)) != CLI_END;) {
        switch (id) {
        case 'f': c->o.opts.format = p->value; break;
        case 'o':
            if (asks_for_help(p->value))
                args->list_options = true;
            else if (cli_pairs_add(&c->pairs, p->value) < 0)
                return cli_usage_error(p->verb, "-o takes KEY=VALUE,..., not '%s'", p->value);
            break;
        case 'b': args->backing = p->value; break;
        case 'F': args->backing_fmt = p->value; break;
        case 'u': c->o.opts.backing_unchecked = true; break;
        case 'p': c->progress.enabled = true; break;
        case 'q': c->quiet = true; break;
        default: return CLI_FAILED;
        }
    }
    return CLI_OK;
}

/* A backing file that a domain has, and whose format is in its metadata. */
static int take_volume(struct create *c, const struct create_args *args)
{
    if (args->backing_fmt != NULL) {
        cli_error("%s: '%s': its domain says its format: leave out -F", c->o.name, args->backing);
        return CLI_FAILED;
    }
    c->volume_path = cli_volume_path(args->backing, &c->o.opts.backing_fmt);
    c->o.opts.backing_file = c->volume_path;
    return c->volume_path != NULL ? CLI_OK : CLI_FAILED;
}

/* -b and -F override -o; SIZE may be given once. */
static int apply_operands(struct create *c, const struct create_args *args, const char *size)
{
    if (cli_is_volume(c->o.name))
        return cli_usage_error(&cli_create, "'%s': 'vdisk-io volume create' makes volumes of domains", c->o.name);
    if (create_options_apply(&c->o, &c->pairs) < 0) {
        cli_error("%s", c->o.why);
        return CLI_FAILED;
    }
    if (c->o.raw && (args->backing != NULL || args->backing_fmt != NULL)) {
        cli_error("%s: a raw image has no backing file; use -f qcow2", c->o.name);
        return CLI_FAILED;
    }
    if (args->backing != NULL && args->backing[0] == '\0') {
        cli_error("%s: Expected backing file name, got empty string", c->o.name);
        return CLI_FAILED;
    }
    if (args->backing != NULL && cli_is_volume(args->backing)) {
        if (take_volume(c, args) != CLI_OK)
            return CLI_FAILED;
    } else if (args->backing != NULL)
        c->o.opts.backing_file = args->backing;
    if (args->backing_fmt != NULL)
        c->o.opts.backing_fmt = args->backing_fmt;
    if (size != NULL && c->o.have_size) {
        cli_error("%s: the size is given twice, as an argument and with -o size", c->o.name);
        return CLI_FAILED;
    }
    if (size == NULL)
        return CLI_OK;
    c->o.have_size = true;
    return cli_parse_ranged(&cli_create, "image size", size, 0, INT64_MAX, &c->o.opts.virtual_size);
}

static int check_backing(struct create *c)
{
    const char *fmt = c->o.opts.backing_fmt;

    if (c->o.opts.backing_file == NULL) {
        if (fmt == NULL)
            return CLI_OK;
        cli_error("%s: a backing format (-F) is given, but no backing file (-b)", c->o.name);
        return CLI_FAILED;
    }
    if (fmt == NULL) {
        cli_error("%s: backing file '%s' given without backing format; add -F raw or -F qcow2", c->o.name,
                  c->o.opts.backing_file);
        return CLI_FAILED;
    }
    if (strcmp(fmt, "raw") != 0 && strcmp(fmt, "qcow2") != 0 && !c->o.opts.backing_unchecked) {
        cli_error("%s: no backing format '%s'; -F takes raw or qcow2", c->o.name, fmt);
        return CLI_FAILED;
    }
    return CLI_OK;
}

/* ---- size and summary ------------------------------------------------------------------------------ */

/*
 * The size of the backing file, for the summary line (and an early word if it cannot be opened). It may be in use.
 */
static int resolve_size(struct create *c)
{
    struct vdisk_open_opts how = {.size = sizeof how, .flags = VDISK_OPEN_FORCE_SHARE,
                                  .format = c->o.opts.backing_fmt};
    vdisk *backing;

    if (c->o.opts.backing_file != NULL && !c->o.opts.backing_unchecked) {
        c->backing_path = cli_backing_path(c->o.name, c->o.opts.backing_file);
        if (vdisk_open(c->backing_path, &how, &backing) < 0)
            return cli_library_error();
        if (!c->o.have_size)
            c->o.opts.virtual_size = vdisk_size(backing);
        c->o.have_size = true;
        vdisk_close(backing);
    }
    if (!c->o.have_size) {
        cli_error("%s: the size of the image is needed: an argument, or -o size", c->o.name);
        return CLI_FAILED;
    }
    return CLI_OK;
}

static void print_item(const char *key, const char *value)
{
    printf(" %s=", key);
    for (; *value != '\0'; value++)
        printf(*value == ',' ? ",," : "%c", *value);
}

static const char *on_off(bool on)
{
    return on ? "on" : "off";
}

/* Of the file, and the last one. */
static void print_hint(const struct create *c)
{
    if (c->o.have_extent_size_hint)
        printf(" extent_size_hint=%llu", (unsigned long long)c->o.extent_size_hint);
    putchar('\n');
}

/* "Formatting ...": the order is QEMU's. */
static void print_summary(const struct create *c)
{
    const struct vdisk_create_opts *o = &c->o.opts;

    printf("Formatting '%s', fmt=%s", c->o.name, o->format);
    if (c->o.raw) {
        printf(" size=%llu", (unsigned long long)o->virtual_size);
        if (c->o.prealloc != NULL)
            print_item("preallocation", c->o.prealloc);
        print_hint(c);
        return;
    }
    printf(" cluster_size=%u extended_l2=%s", o->cluster_size != 0 ? o->cluster_size : 65536,
           on_off(o->extended_l2));
    if (c->o.prealloc != NULL)
        print_item("preallocation", c->o.prealloc);
    print_item("compression_type", o->compression_type != NULL ? o->compression_type : "zlib");
    printf(" size=%llu", (unsigned long long)o->virtual_size);
    if (c->o.compat != NULL)
        print_item("compat", c->o.compat);
    if (o->backing_file != NULL)
        print_item("backing_file", o->backing_file);
    if (o->backing_fmt != NULL)
        print_item("backing_fmt", o->backing_fmt);
    if (o->data_file != NULL)
        print_item("data_file", o->data_file);
    if (c->o.have_data_file_raw)
        print_item("data_file_raw", on_off(o->data_file_raw));
    printf(" lazy_refcounts=%s refcount_bits=%u", on_off(o->lazy_refcounts),
           o->refcount_bits != 0 ? o->refcount_bits : 16);
    print_hint(c);
}

static int create_image(struct create *c, const struct create_args *args, char **operands, int n)
{
    vdisk_job *job;
    int rc;

    c->o.name = operands[0];
    rc = apply_operands(c, args, n > 1 ? operands[1] : NULL);
    if (rc == CLI_OK)
        rc = check_backing(c);
    if (rc == CLI_OK)
        rc = resolve_size(c);
    if (rc != CLI_OK)
        return rc;
    c->o.opts.progress = cli_progress_show;
    c->o.opts.progress_arg = &c->progress;
    if (vdisk_job_create(c->o.name, &c->o.opts, &job) < 0)
        return cli_library_error();
    if (!c->quiet) {
        print_summary(c);
        fflush(stdout);
    }
    rc = cli_job_run(job) < 0 ? cli_library_error() : CLI_OK;
    if (rc == CLI_OK)
        cli_progress_end(&c->progress);
    vdisk_job_free(job);
    return rc;
}

static int run(const struct cli_verb *verb, int argc, char **argv)
{
    struct create c = {.o.opts = {.size = sizeof c.o.opts, .format = "raw"}};
    struct create_args args = {NULL, NULL, false};
    struct cli_parser p;
    char **operands;
    int n, rc;

    cli_parser_init(&p, verb, argc, argv);
    rc = parse_options(&c, &args, &p);
    n = cli_operands(&p, &operands);
    c.o.raw = strcmp(c.o.opts.format, "raw") == 0;
    c.progress.enabled = c.progress.enabled && !c.quiet;
    if (rc != CLI_OK)
        ;
    else if (!c.o.raw && strcmp(c.o.opts.format, "qcow2") != 0)
        rc = cli_usage_error(verb, "no format '%s'; -f takes raw or qcow2", c.o.opts.format);
    else if (args.list_options)
        rc = create_options_print(c.o.raw);
    else if (n < 1 || n > 2)
        rc = cli_usage_error(verb, "takes the name of the image and its size");
    else
        rc = create_image(&c, &args, operands, n);
    free(c.backing_path);
    free(c.volume_path);
    cli_pairs_free(&c.pairs);
    return rc;
}

const struct cli_verb cli_create = {
    .name = "create",
    .summary = "Create an image.",
    .usage = "[OPTION]... NAME [SIZE]",
    .options = options,
    .notes = "SIZE is in bytes, or takes K, M, G, T, P or E, with a fraction if need be: 1.5G. It may be left\n"
             "out with a backing file, whose size is then taken. An existing file NAME is replaced unless\n"
             "another process holds it, and stays the same file; a block device is used as it stands.\n"
             "What can be refused is refused before anything changes.\n"
             "Exit code: 0, or 1 when nothing was created.\n",
    .run = run,
};
