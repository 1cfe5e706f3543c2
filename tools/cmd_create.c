/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * create: make an image, as qemu-img create.
 *
 * Works: options are collected from -o, -b, -F and SIZE; the size comes from the backing file where none is given;
 * the summary line says what will be made; vdisk_create() makes it.
 * Fails: any option that is unknown, given a bad value or contradicts another: nothing is written. Later failures
 * remove the target (vdisk_create() sees to that).
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/bits.h"
#include "engine/vdisk.h"
#include "tools/cli.h"

struct create {
    struct vdisk_create_opts opts;
    struct cli_pairs         pairs;      /* owns what opts points to */
    struct cli_progress      progress;
    const char              *name;
    const char              *compat;     /* as given, for the summary */
    const char              *prealloc;   /* as given */
    char                    *backing_path;
    bool                     have_size;
    bool                     raw;        /* format is raw */
    bool                     have_data_file_raw;
    bool                     quiet;
};

/* ---- the -o options: one setter each ---------------------------------------------------------------- */

struct create_option {
    const char *key;
    const char *type;
    const char *text;
    bool        raw_too;
    int (*set)(struct create *c, const char *value); /* 0, or -EINVAL with a message printed */
};

static int bad_value(struct create *c, const char *key, const char *value, const char *expected)
{
    cli_error("%s: option %s takes %s, not '%s'", c->name, key, expected, value);
    return -EINVAL;
}

static int set_bool(struct create *c, const char *key, const char *value, bool *ret)
{
    return cli_parse_bool(value, ret) < 0 ? bad_value(c, key, value, "on or off") : 0;
}

static int set_backing_file(struct create *c, const char *value)
{
    c->opts.backing_file = value[0] != '\0' ? value : NULL;
    return 0;
}

static int set_backing_fmt(struct create *c, const char *value)
{
    c->opts.backing_fmt = value;
    return 0;
}

static int set_cluster_size(struct create *c, const char *value)
{
    uint64_t size;

    if (cli_parse_size(value, &size) < 0 || !is_power_of_two(size) || size < 512 || size > (2u << 20))
        return bad_value(c, "cluster_size", value, "a power of two from 512 to 2M");
    c->opts.cluster_size = (uint32_t)size;
    return 0;
}

static int set_compat(struct create *c, const char *value)
{
    if (strcmp(value, "0.10") == 0 || strcmp(value, "v2") == 0)
        c->opts.version = 2;
    else if (strcmp(value, "1.1") == 0 || strcmp(value, "v3") == 0)
        c->opts.version = 3;
    else
        return bad_value(c, "compat", value, "0.10, v2, 1.1 or v3");
    c->compat = value;
    return 0;
}

static int set_compression_type(struct create *c, const char *value)
{
    if (strcmp(value, "zlib") != 0 && strcmp(value, "zstd") != 0)
        return bad_value(c, "compression_type", value, "zlib or zstd");
    c->opts.compression_type = value;
    return 0;
}

static int set_data_file(struct create *c, const char *value)
{
    c->opts.data_file = value;
    return 0;
}

static int set_data_file_raw(struct create *c, const char *value)
{
    c->have_data_file_raw = true;
    return set_bool(c, "data_file_raw", value, &c->opts.data_file_raw);
}

static int set_extended_l2(struct create *c, const char *value)
{
    return set_bool(c, "extended_l2", value, &c->opts.extended_l2);
}

static int set_lazy_refcounts(struct create *c, const char *value)
{
    return set_bool(c, "lazy_refcounts", value, &c->opts.lazy_refcounts);
}

static int set_preallocation(struct create *c, const char *value)
{
    static const char *const modes[] = {
        [VDISK_PREALLOC_OFF] = "off", [VDISK_PREALLOC_METADATA] = "metadata",
        [VDISK_PREALLOC_FALLOC] = "falloc", [VDISK_PREALLOC_FULL] = "full",
    };

    for (size_t i = 0; i < ARRAY_LEN(modes); i++) {
        if (strcmp(value, modes[i]) == 0 && !(c->raw && i == VDISK_PREALLOC_METADATA)) {
            c->opts.preallocation = (enum vdisk_prealloc)i;
            c->prealloc = value;
            return 0;
        }
    }
    return bad_value(c, "preallocation", value, c->raw ? "off, falloc or full" : "off, metadata, falloc or full");
}

static int set_refcount_bits(struct create *c, const char *value)
{
    uint64_t bits;

    if (cli_parse_number(value, 64, &bits) < 0 || !is_power_of_two(bits))
        return bad_value(c, "refcount_bits", value, "1, 2, 4, 8, 16, 32 or 64");
    c->opts.refcount_bits = (uint32_t)bits;
    return 0;
}

static int set_size(struct create *c, const char *value)
{
    if (cli_parse_size(value, &c->opts.virtual_size) < 0 || c->opts.virtual_size > INT64_MAX)
        return bad_value(c, "size", value, "bytes, or a number with K, M, G, T, P or E");
    c->have_size = true;
    return 0;
}

static const struct create_option create_options[] = {
    {"backing_file", "<str>", "the image that what is not written here is read from", false, set_backing_file},
    {"backing_fmt", "<str>", "its format: raw or qcow2", false, set_backing_fmt},
    {"cluster_size", "<size>", "512 to 2M, a power of two (65536)", false, set_cluster_size},
    {"compat", "<str>", "version of the format: 0.10 or v2, 1.1 or v3 (1.1)", false, set_compat},
    {"compression_type", "<str>", "for compressed clusters: zlib or zstd (zlib)", false, set_compression_type},
    {"data_file", "<str>", "keep guest data in this raw file, made anew", false, set_data_file},
    {"data_file_raw", "<bool>", "the data file always reads as a raw image (off)", false, set_data_file_raw},
    {"extended_l2", "<bool>", "subclusters: 32 to a cluster; needs cluster_size 16K or more (off)", false,
     set_extended_l2},
    {"lazy_refcounts", "<bool>", "postpone refcounts, repair after a crash (off)", false, set_lazy_refcounts},
    {"preallocation", "<str>", "off, metadata (not raw), falloc or full (off)", true, set_preallocation},
    {"refcount_bits", "<num>", "1 to 64, a power of two (16)", false, set_refcount_bits},
    {"size", "<size>", "virtual size, instead of the SIZE argument", true, set_size},
};

static int print_create_options(bool raw)
{
    printf("Supported %s options:\n", raw ? "raw" : "qcow2");
    for (size_t i = 0; i < ARRAY_LEN(create_options); i++) {
        const struct create_option *o = &create_options[i];
        char left[40];

        if (raw && !o->raw_too)
            continue;
        snprintf(left, sizeof left, "%s=%s", o->key, o->type);
        printf("  %-22s - %s\n", left, o->text);
    }
    return CLI_OK;
}

/* A key without a value is on, "noKEY" is off, where KEY is an on/off option. */
static const struct create_option *find_option(const struct cli_pair *pair, const char **ret_value)
{
    for (size_t i = 0; i < ARRAY_LEN(create_options); i++) {
        const struct create_option *o = &create_options[i];
        bool is_switch = strcmp(o->type, "<bool>") == 0;

        if (strcmp(pair->key, o->key) == 0) {
            *ret_value = pair->value != NULL ? pair->value : is_switch ? "on" : NULL;
            return o;
        }
        if (is_switch && pair->value == NULL && strncmp(pair->key, "no", 2) == 0 &&
            strcmp(pair->key + 2, o->key) == 0) {
            *ret_value = "off";
            return o;
        }
    }
    return NULL;
}

static int apply_pair(struct create *c, const struct cli_pair *pair)
{
    const char *value = NULL;
    const struct create_option *o = find_option(pair, &value);

    if (o == NULL || (c->raw && !o->raw_too)) {
        cli_error("%s: format %s has no option '%s'; '-f %s -o help' lists them", c->name, c->opts.format,
                  pair->key, c->opts.format);
        return -EINVAL;
    }
    if (value == NULL) {
        cli_error("%s: option %s needs a value", c->name, o->key);
        return -EINVAL;
    }
    return o->set(c, value);
}

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
        case 'f': c->opts.format = p->value; break;
        case 'o':
            if (asks_for_help(p->value))
                args->list_options = true;
            else if (cli_pairs_add(&c->pairs, p->value) < 0)
                return cli_usage_error(p->verb, "-o takes KEY=VALUE,..., not '%s'", p->value);
            break;
        case 'b': args->backing = p->value; break;
        case 'F': args->backing_fmt = p->value; break;
        case 'u': c->opts.backing_unchecked = true; break;
        case 'p': c->progress.enabled = true; break;
        case 'q': c->quiet = true; break;
        default: return CLI_FAILED;
        }
    }
    return CLI_OK;
}

/* -b and -F override -o; SIZE may be given once. */
static int apply_operands(struct create *c, const struct create_args *args, const char *size)
{
    for (size_t i = 0; i < c->pairs.count; i++) {
        if (apply_pair(c, &c->pairs.list[i]) < 0)
            return CLI_FAILED;
    }
    if (c->raw && (args->backing != NULL || args->backing_fmt != NULL)) {
        cli_error("%s: a raw image has no backing file; use -f qcow2", c->name);
        return CLI_FAILED;
    }
    if (args->backing != NULL)
        set_backing_file(c, args->backing);
    if (args->backing_fmt != NULL)
        set_backing_fmt(c, args->backing_fmt);
    if (size != NULL && c->have_size) {
        cli_error("%s: the size is given twice, as an argument and with -o size", c->name);
        return CLI_FAILED;
    }
    return size != NULL && set_size(c, size) < 0 ? CLI_FAILED : CLI_OK;
}

static int check_backing(struct create *c)
{
    const char *fmt = c->opts.backing_fmt;

    if (c->opts.backing_file == NULL) {
        if (fmt == NULL)
            return CLI_OK;
        cli_error("%s: a backing format (-F) is given, but no backing file (-b)", c->name);
        return CLI_FAILED;
    }
    if (fmt == NULL) {
        cli_error("%s: backing file '%s' given without its format; add -F raw or -F qcow2", c->name,
                  c->opts.backing_file);
        return CLI_FAILED;
    }
    if (strcmp(fmt, "raw") != 0 && strcmp(fmt, "qcow2") != 0 && !c->opts.backing_unchecked) {
        cli_error("%s: no backing format '%s'; -F takes raw or qcow2", c->name, fmt);
        return CLI_FAILED;
    }
    return CLI_OK;
}

/* ---- size and summary ------------------------------------------------------------------------------ */

/* The size of the backing file, for the summary line (and an early word if it cannot be opened). */
static int resolve_size(struct create *c)
{
    struct vdisk_open_opts how = {.size = sizeof how, .format = c->opts.backing_fmt};
    vdisk *backing;

    if (c->opts.backing_file != NULL && !c->opts.backing_unchecked) {
        c->backing_path = cli_backing_path(c->name, c->opts.backing_file);
        if (vdisk_open(c->backing_path, &how, &backing) < 0)
            return cli_library_error();
        if (!c->have_size)
            c->opts.virtual_size = vdisk_size(backing);
        c->have_size = true;
        vdisk_close(backing);
    }
    if (!c->have_size) {
        cli_error("%s: the size of the image is needed: an argument, or -o size", c->name);
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

/* "Formatting ...": the order is QEMU's. */
static void print_summary(const struct create *c)
{
    const struct vdisk_create_opts *o = &c->opts;

    printf("Formatting '%s', fmt=%s", c->name, o->format);
    if (c->raw) {
        printf(" size=%llu", (unsigned long long)o->virtual_size);
        if (c->prealloc != NULL)
            print_item("preallocation", c->prealloc);
        putchar('\n');
        return;
    }
    printf(" cluster_size=%u extended_l2=%s", o->cluster_size != 0 ? o->cluster_size : 65536,
           on_off(o->extended_l2));
    if (c->prealloc != NULL)
        print_item("preallocation", c->prealloc);
    print_item("compression_type", o->compression_type != NULL ? o->compression_type : "zlib");
    printf(" size=%llu", (unsigned long long)o->virtual_size);
    if (c->compat != NULL)
        print_item("compat", c->compat);
    if (o->backing_file != NULL)
        print_item("backing_file", o->backing_file);
    if (o->backing_fmt != NULL)
        print_item("backing_fmt", o->backing_fmt);
    if (o->data_file != NULL)
        print_item("data_file", o->data_file);
    if (c->have_data_file_raw)
        print_item("data_file_raw", on_off(o->data_file_raw));
    printf(" lazy_refcounts=%s refcount_bits=%u\n", on_off(o->lazy_refcounts),
           o->refcount_bits != 0 ? o->refcount_bits : 16);
}

static int create_image(struct create *c, const struct create_args *args, char **operands, int n)
{
    int rc;

    c->name = operands[0];
    rc = apply_operands(c, args, n > 1 ? operands[1] : NULL);
    if (rc == CLI_OK)
        rc = check_backing(c);
    if (rc == CLI_OK)
        rc = resolve_size(c);
    if (rc != CLI_OK)
        return rc;
    if (!c->quiet) {
        print_summary(c);
        fflush(stdout);
    }
    c->opts.progress = cli_progress_show;
    c->opts.progress_arg = &c->progress;
    if (vdisk_create(c->name, &c->opts) < 0)
        return cli_library_error();
    cli_progress_end(&c->progress);
    return CLI_OK;
}

static int run(const struct cli_verb *verb, int argc, char **argv)
{
    struct create c = {.opts = {.size = sizeof c.opts, .format = "raw"}};
    struct create_args args = {NULL, NULL, false};
    struct cli_parser p;
    char **operands;
    int n, rc;

    cli_parser_init(&p, verb, argc, argv);
    rc = parse_options(&c, &args, &p);
    n = cli_operands(&p, &operands);
    c.raw = strcmp(c.opts.format, "raw") == 0;
    c.progress.enabled = c.progress.enabled && !c.quiet;
    if (rc != CLI_OK)
        ;
    else if (!c.raw && strcmp(c.opts.format, "qcow2") != 0)
        rc = cli_usage_error(verb, "no format '%s'; -f takes raw or qcow2", c.opts.format);
    else if (args.list_options)
        rc = print_create_options(c.raw);
    else if (n < 1 || n > 2)
        rc = cli_usage_error(verb, "takes the name of the image and its size");
    else
        rc = create_image(&c, &args, operands, n);
    free(c.backing_path);
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
             "another process holds it; a block device is used as it stands.\n"
             "Exit code: 0, or 1 when nothing was created.\n",
    .run = run,
};
