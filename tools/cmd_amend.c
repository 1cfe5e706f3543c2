/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * amend: change what an image is, as qemu-img amend.
 *
 * Works: -o says what; a job does it, which Ctrl-C ends as an error does. Fails: an option that only a new image
 * can have, a value that is none, what does not go together or the image cannot become: nothing is written. Later,
 * or interrupted, some of it is done, and the same command again does the rest.
 *
 * Not as QEMU: a smaller size needs --force, since what lies behind it is lost; the backing file can be changed,
 * as rebase -u does; an image with bitmaps does not become version 2, since they would be lost; unless -t says
 * otherwise the file is used past the page cache; the backing chain is opened only if the size changes.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/arith.h"
#include "tools/cli.h"
#include "tools/create_options.h"
#include "tools/target.h"

struct amend {
    const struct cli_verb  *verb;
    struct vdisk_amend_opts opts;
    struct vdisk_open_opts  open;
    struct cli_progress     progress;
    struct cli_pairs        pairs;
    bool                    list_options, any, force, quiet;
};

/* ---- -o ------------------------------------------------------------------------------------------------- */

struct amend_option {
    const char *key, *type, *text;
    int (*set)(struct amend *a, const char *value); /* CLI_OK, or CLI_FAILED with a message */
};

static int set_backing_file(struct amend *a, const char *value)
{
    a->opts.backing_file = value;
    return CLI_OK;
}

static int set_backing_fmt(struct amend *a, const char *value)
{
    a->opts.backing_fmt = value;
    return CLI_OK;
}

static int set_compat(struct amend *a, const char *value)
{
    if (strcmp(value, "0.10") == 0 || strcmp(value, "v2") == 0)
        a->opts.version = 2;
    else if (strcmp(value, "1.1") == 0 || strcmp(value, "v3") == 0)
        a->opts.version = 3;
    else
        return cli_usage_error(a->verb, "Unknown compatibility level %s", value);
    return CLI_OK;
}

static int set_lazy_refcounts(struct amend *a, const char *value)
{
    bool on;

    if (cli_parse_bool(value, &on) < 0)
        return cli_usage_error(a->verb, "Parameter 'lazy_refcounts' expects 'on' or 'off'");
    a->opts.flags &= ~(uint32_t)(VDISK_AMEND_LAZY_ON | VDISK_AMEND_LAZY_OFF);
    a->opts.flags |= on ? VDISK_AMEND_LAZY_ON : VDISK_AMEND_LAZY_OFF;
    return CLI_OK;
}

static int set_refcount_bits(struct amend *a, const char *value)
{
    uint64_t bits;

    if (cli_parse_number(value, UINT32_MAX, &bits) < 0)
        return cli_usage_error(a->verb, "Parameter 'refcount_bits' expects a number");
    if (bits == 0 || bits > 64 || !is_power_of_two(bits))
        return cli_usage_error(a->verb, "Refcount width must be a power of two and may not exceed 64 bits");
    a->opts.refcount_bits = (uint32_t)bits;
    return CLI_OK;
}

static int set_size(struct amend *a, const char *value)
{
    if (cli_parse_size(value, &a->opts.virtual_size) < 0 || a->opts.virtual_size > INT64_MAX)
        return cli_usage_error(a->verb, "Parameter 'size' expects bytes, or a number with K, M, G, T, P or E");
    return CLI_OK;
}

static const struct amend_option amend_options[] = {
    {"backing_file", "<str>", "another backing file, by name only (as rebase -u); empty: none", set_backing_file},
    {"backing_fmt", "<str>", "its format: raw or qcow2", set_backing_fmt},
    {"compat", "<str>", "version of the format: 0.10 or v2, 1.1 or v3", set_compat},
    {"lazy_refcounts", "<bool>", "postpone refcounts, repair after a crash", set_lazy_refcounts},
    {"refcount_bits", "<num>", "1 to 64, a power of two", set_refcount_bits},
    {"size", "<size>", "virtual size; a smaller one needs --force", set_size},
};

static int print_options(void)
{
    printf("Amend options for 'qcow2':\n");
    for (size_t i = 0; i < ARRAY_LEN(amend_options); i++) {
        char left[40];

        snprintf(left, sizeof left, "%s=%s", amend_options[i].key, amend_options[i].type);
        printf("  %-22s - %s\n", left, amend_options[i].text);
    }
    return CLI_OK;
}

/* Only a new image can have it: by its name, and those of encryption. */
static bool is_for_creation(const char *key)
{
    const char *k;

    for (size_t i = 0; (k = create_option_key(i)) != NULL; i++)
        if (strcmp(k, key) == 0)
            return true;
    return strncmp(key, "encrypt", strlen("encrypt")) == 0;
}

static int apply_pair(struct amend *a, const struct cli_pair *pair)
{
    bool off = strcmp(pair->key, "nolazy_refcounts") == 0 && !pair->value;
    bool on = strcmp(pair->key, "lazy_refcounts") == 0 && !pair->value;
    const char *key = off ? "lazy_refcounts" : pair->key;
    const char *value = on ? "on" : off ? "off" : pair->value;

    for (size_t i = 0; i < ARRAY_LEN(amend_options); i++)
        if (strcmp(amend_options[i].key, key) == 0)
            return value ? amend_options[i].set(a, value)
                         : cli_usage_error(a->verb, "-o %s needs a value", key);
    if (is_for_creation(key))
        return cli_usage_error(a->verb, "Invalid parameter '%s': this option is only supported for image creation",
                               key);
    return cli_usage_error(a->verb, "Invalid parameter '%s'; '-f qcow2 -o help' lists them", key);
}

/* ---- the image ------------------------------------------------------------------------------------------ */

static int amend_open(struct amend *a, vdisk *v, const char *name)
{
    vdisk_job *job;
    int rc;

    if (a->opts.virtual_size != 0 && a->opts.virtual_size < vdisk_size(v) && !a->force) {
        cli_error("%s: Use the --force option to make it smaller: it deletes what lies behind the new end", name);
        return CLI_FAILED;
    }
    a->opts.flags |= a->force ? VDISK_AMEND_SHRINK : 0;
    if (vdisk_job_amend(v, &a->opts, &job) < 0)
        return cli_library_error();
    rc = cli_job_run(job) < 0 ? cli_library_error() : CLI_OK;
    vdisk_job_free(job);
    return rc;
}

/* By its name: whether it lies further below is not looked at. */
static bool would_be_below_itself(const struct amend *a, const char *name)
{
    const char *path = target_path(name);
    struct stat st;
    bool is;

    if (!a->opts.backing_file || a->opts.backing_file[0] == '\0' || !path)
        return false;
    char *below = cli_backing_path(path, a->opts.backing_file);
    is = target_path(below) && stat(target_path(below), &st) == 0 && target_is_file(name, &st);
    free(below);
    return is;
}

static int amend_image(struct amend *a, const char *name)
{
    vdisk *v;
    int rc;

    if (would_be_below_itself(a, name)) {
        cli_error("%s: an image cannot be its own backing file", name);
        return CLI_FAILED;
    }
    a->open.flags |= VDISK_OPEN_RDWR;
    a->open.layers = a->opts.virtual_size != 0 ? 0 : 1;
    if (vdisk_open(name, &a->open, &v) < 0)
        return cli_library_error();
    rc = amend_open(a, v, name);
    if (vdisk_close(v) < 0 && rc == CLI_OK)
        rc = cli_library_error();
    if (rc == CLI_OK)
        cli_progress_end(&a->progress);
    return rc;
}

/* Of the format that is given, or that the image has. */
static int list_for(struct amend *a, const char *name)
{
    struct vdisk_image_info info = {.size = sizeof info, .format = a->open.format};
    vdisk_image *image = NULL;
    int rc = CLI_OK;

    if (!info.format && (vdisk_image_load(name, &a->open, &image) < 0 || vdisk_image_get_info(image, &info) < 0)) {
        rc = cli_library_error();
    } else if (strcmp(info.format, "qcow2") != 0) {
        cli_error("Format driver '%s' does not support option amendment", info.format);
        rc = CLI_FAILED;
    } else {
        print_options();
    }
    vdisk_image_free(image);
    return rc;
}

/* ---- command line --------------------------------------------------------------------------------------- */

enum { OPT_FORCE = CLI_LONG_ONLY + 1 };

static const struct cli_option options[] = {
    {'f', "format", "FMT", "raw or qcow2; otherwise found from the content"},
    {'o', "options", "LIST", "what is to change: KEY=VALUE,...; help lists them"},
    {'t', "cache", "MODE", "none (default), writeback, writethrough, directsync or unsafe"},
    {OPT_FORCE, "force", NULL, "a smaller size is meant: what lies behind it is deleted"},
    {'p', "progress", NULL, "show progress"},
    {'q', "quiet", NULL, "print nothing but errors"},
    CLI_BULK_OPTIONS,
    CLI_IMAGE_OPTIONS,
    {0, NULL, NULL, NULL},
};

static int parse_list(struct amend *a, const char *value)
{
    a->any = true;
    if (strcmp(value, "help") == 0 || strcmp(value, "?") == 0)
        a->list_options = true;
    else if (cli_pairs_add(&a->pairs, value) < 0)
        return cli_usage_error(a->verb, "-o takes KEY=VALUE,..., not '%s'", value);
    return CLI_OK;
}

static int parse_options(struct amend *a, struct cli_parser *p)
{
    int rc = CLI_OK;
    uint32_t mode;

    for (int id; rc == CLI_OK && (id = cli_parser_next(p)) != CLI_END;) {
        switch (id) {
        case 'f': a->open.format = p->value; break;
        case 'o': rc = parse_list(a, p->value); break;
        case 't':
            if (target_cache_flags(p->value, &mode))
                a->open.flags = mode;
            else
                rc = cli_usage_error(a->verb, "Invalid cache option: %s", p->value);
            break;
        case OPT_FORCE: a->force = true; break;
        case 'p': a->progress.enabled = true; break;
        case 'q': a->quiet = true; break;
        default: return CLI_FAILED;
        }
    }
    a->progress.enabled = a->progress.enabled && !a->quiet;
    return rc;
}

static int run_parsed(struct amend *a, struct cli_parser *p)
{
    char **operands;
    int n = cli_operands(p, &operands), rc = CLI_OK;
    struct cli_memory memory = {0};
    const char *name;

    if (!a->any)
        return cli_usage_error(a->verb, "Must specify options (-o)");
    if (a->list_options && a->open.format && n <= 1)
        return list_for(a, NULL);
    if (n != 1)
        return cli_usage_error(a->verb, "Expecting one image file name");
    name = cli_image(p, operands[0], a->open.format);
    if (name == NULL)
        return CLI_FAILED;
    if (a->list_options)
        return list_for(a, name);
    for (size_t i = 0; i < a->pairs.count && rc == CLI_OK; i++)
        rc = apply_pair(a, &a->pairs.list[i]);
    if (rc == CLI_OK)
        rc = cli_memory_share(p, cli_count_layers(name, a->open.format), 1, 0, 0, &memory);
    a->open.cache_bytes = memory.cache;
    return rc == CLI_OK ? amend_image(a, name) : rc;
}

static int run(const struct cli_verb *verb, int argc, char **argv)
{
    struct amend a = {.verb = verb, .opts.size = sizeof a.opts, .open.size = sizeof a.open};
    struct cli_parser p;
    int rc;

    a.opts.progress = cli_progress_show;
    a.opts.progress_arg = &a.progress;
    cli_parser_init(&p, verb, argc, argv);
    rc = parse_options(&a, &p) == CLI_OK ? run_parsed(&a, &p) : CLI_FAILED;
    cli_pairs_free(&a.pairs);
    return rc;
}

const struct cli_verb cli_amend = {
    .name = "amend",
    .summary = "Change what an image is: its version, refcounts, size, backing file.",
    .usage = "[OPTION]... -o KEY=VALUE,... NAME",
    .options = options,
    .notes = "What only a new image can have is refused, before anything is written. Interrupted (Ctrl-C,\n"
             "a crash) NAME reads as before, some of the changes are made, and the same command again makes\n"
             "the others.\n"
             "Exit code: 0, or 1.\n",
    .run = run,
};
