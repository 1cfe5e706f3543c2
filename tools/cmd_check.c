/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * check: look for inconsistencies in an image, and mend them. Output and exit codes are those of qemu-img check.
 *
 * The image is not opened as a volume: what is too damaged for that can still be checked.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/cli.h"
#include "tools/target.h"

enum { CHECK_CORRUPT = 2, CHECK_LEAKS = 3 };

struct check {
    const char                *name;
    const char                *format; /* NULL: look */
    struct vdisk_check_result  result;
    struct vdisk_repair_result fixed;
    struct cli_progress        progress;
    uint32_t                   flags;  /* enum vdisk_open_flags */
    enum vdisk_repair          what;
    const char                *given; /* the name, as it was given */
    bool                       json;
    bool                       quiet;
};

/* As QEMU has it: "Leaked cluster 7 refcount=1 reference=0". */
static void print_finding(void *arg, enum vdisk_finding kind, const char *text)
{
    static const char *const words[] = {
        [VDISK_FOUND_CORRUPTION] = "ERROR", [VDISK_FOUND_LEAK] = "Leaked", [VDISK_FOUND_ERROR] = "ERROR",
        [VDISK_FOUND_NOTE] = "Note:",
        [VDISK_FOUND_FIXED] = "Repairing",
    };
    char *line = cli_strdup(text);

    (void)arg;
    fprintf(stderr, "%s %s\n", words[kind], cli_printable(line));
    free(line);
}

/* ---- reports --------------------------------------------------------------------------------------- */

static void set_number(json_t *to, const char *key, uint64_t value)
{
    json_object_set_new(to, key, json_integer((json_int_t)value));
}

/* Numbers that are zero are left out, but for check-errors: as QEMU does. */
static void set_nonzero(json_t *to, const char *key, uint64_t value)
{
    if (value != 0)
        set_number(to, key, value);
}

static int print_json(const struct check *c)
{
    const struct vdisk_check_result *r = &c->result;
    json_t *out = json_object();

    set_nonzero(out, "image-end-offset", r->image_end_offset);
    set_nonzero(out, "leaks-fixed", c->fixed.leaks_fixed);
    set_nonzero(out, "corruptions-fixed", c->fixed.corruptions_fixed);
    set_nonzero(out, "compressed-clusters", r->compressed_clusters);
    set_nonzero(out, "total-clusters", r->total_clusters);
    set_nonzero(out, "corruptions", r->corruptions);
    set_number(out, "check-errors", r->check_errors);
    set_nonzero(out, "leaks", r->leaks);
    set_nonzero(out, "allocated-clusters", r->allocated_clusters);
    json_object_set_new(out, "filename", cli_json_string(c->given));
    json_object_set_new(out, "format", json_string("qcow2"));
    set_nonzero(out, "fragmented-clusters", r->fragmented_clusters);
    return cli_json_print(out);
}

static double percent(uint64_t part, uint64_t whole)
{
    return (double)part * 100.0 / (double)whole;
}

static void print_human(const struct check *c)
{
    const struct vdisk_check_result *r = &c->result;

    if (c->fixed.leaks_fixed != 0 || c->fixed.corruptions_fixed != 0)
        printf("The following inconsistencies were found and repaired:\n\n"
               "    %" PRIu64 " leaked clusters\n"
               "    %" PRIu64 " corruptions\n\n"
               "Double checking the fixed image now...\n",
               c->fixed.leaks_fixed, c->fixed.corruptions_fixed);
    if (r->corruptions == 0 && r->leaks == 0 && r->check_errors == 0)
        printf("No errors were found on the image.\n");
    if (r->corruptions != 0)
        printf("\n%" PRIu64 " errors were found on the image.\n"
               "Data may be corrupted, or further writes to the image may corrupt it.\n",
               r->corruptions);
    if (r->leaks != 0)
        printf("\n%" PRIu64 " leaked clusters were found on the image.\n"
               "This means waste of disk space, but no harm to data.\n",
               r->leaks);
    if (r->check_errors != 0)
        printf("\n%" PRIu64 " internal errors have occurred during the check.\n", r->check_errors);
    if (r->total_clusters != 0 && r->allocated_clusters != 0)
        printf("%" PRIu64 "/%" PRIu64 " = %.2f%% allocated, %.2f%% fragmented, %.2f%% compressed clusters\n",
               r->allocated_clusters, r->total_clusters, percent(r->allocated_clusters, r->total_clusters),
               percent(r->fragmented_clusters, r->allocated_clusters),
               percent(r->compressed_clusters, r->allocated_clusters));
    if (r->image_end_offset != 0)
        printf("Image end offset: %" PRIu64 "\n", r->image_end_offset);
}

static int print_result(const struct check *c)
{
    const struct vdisk_check_result *r = &c->result;

    if (!c->quiet && c->json && print_json(c) != CLI_OK)
        return CLI_FAILED;
    if (!c->quiet && !c->json)
        print_human(c);
    if (r->check_errors != 0)
        return CLI_FAILED;
    return r->corruptions != 0 ? CHECK_CORRUPT : r->leaks != 0 ? CHECK_LEAKS : CLI_OK;
}

/* ---- the check ------------------------------------------------------------------------------------- */

/* QEMU's words, and no others: there are programs that look for them. */
static int unsupported(void)
{
    cli_error("This image format does not support checks");
    return CLI_UNSUPPORTED;
}

static int run_job(struct check *c, vdisk_job *job)
{
    int rc = cli_job_run(job);

    if (rc == -ENOSYS)
        return unsupported();
    if (rc < 0 || vdisk_job_get_check_result(job, &c->result) < 0 ||
        (c->what != VDISK_REPAIR_NOTHING && vdisk_job_get_repair_result(job, &c->fixed) < 0))
        return cli_library_error();
    cli_progress_end(&c->progress);
    return print_result(c);
}

static int check_image(struct check *c)
{
    struct vdisk_check_opts opts = {
        .size = sizeof opts, .format = c->format, .flags = c->flags, .report = print_finding,
        .progress = cli_progress_show, .progress_arg = &c->progress,
    };
    vdisk_job *job;
    int rc;

    if (c->what == VDISK_REPAIR_NOTHING)
        rc = vdisk_job_check(c->name, &opts, &job);
    else
        rc = vdisk_job_repair(c->name, c->what, &opts, &job);
    if (rc < 0)
        return cli_library_error();
    rc = run_job(c, job);
    vdisk_job_free(job);
    return rc;
}

/* ---- command line ---------------------------------------------------------------------------------- */

enum { OPT_OUTPUT = CLI_LONG_ONLY + 1 };

static const struct cli_option options[] = {
    {'f', "format", "FMT", "raw or qcow2; otherwise found from the content"},
    {OPT_OUTPUT, "output", "FORM", "human (default) or json"},
    {'r', "repair", "WHAT", "leaks: free what nothing refers to; all: also mend\n"
                            "refcounts, flags and damaged entries"},
    {'T', "cache", "MODE", "none, writeback (default, but with -r), writethrough, directsync or\n"
                          "unsafe (accepted: a repair is flushed all the same)"},
    {'p', "progress", NULL, "show progress"},
    {'q', "quiet", NULL, "print no result, findings only"},
    {'U', "force-share", NULL, "open even if another process writes to the image; what is\n"
                               "found may then be its work in progress"},
    CLI_IMAGE_OPTIONS,
    {0, NULL, NULL, NULL},
};

static bool parse_repair(struct check *c, const char *what)
{
    c->what = strcmp(what, "all") == 0 ? VDISK_REPAIR_ALL : VDISK_REPAIR_LEAKS;
    return strcmp(what, "leaks") == 0 || c->what == VDISK_REPAIR_ALL;
}

static int run(const struct cli_verb *verb, int argc, char **argv)
{
    struct check c = {.result = {.size = sizeof c.result}, .fixed = {.size = sizeof c.fixed}};
    struct cli_parser p;
    uint32_t cache = 0;
    bool have_cache = false;
    char **operands;

    cli_parser_init(&p, verb, argc, argv);
    for (int id; (id = cli_parser_next(&p)) != CLI_END;) {
        switch (id) {
        case 'f': c.format = p.value; break;
        case 'r':
            if (!parse_repair(&c, p.value))
                return cli_usage_error(verb, "-r takes leaks or all, not '%s'", p.value);
            break;
        case 'p': c.progress.enabled = true; break;
        case 'q': c.quiet = true; break;
        case 'U': c.flags |= VDISK_OPEN_FORCE_SHARE; break;
        case 'T':
            if (!target_cache_flags(p.value, &cache))
                return cli_usage_error(verb, "Invalid source cache option: %s", p.value);
            have_cache = true;
            break;
        case OPT_OUTPUT:
            if (!cli_parse_output(verb, p.value, &c.json))
                return CLI_FAILED;
            break;
        default: return CLI_FAILED;
        }
    }
    if (cli_operands(&p, &operands) != 1)
        return cli_usage_error(verb, "takes the name of one image");
    if (c.format != NULL && strcmp(c.format, "raw") != 0 && strcmp(c.format, "qcow2") != 0)
        return cli_usage_error(verb, "no format '%s'; -f takes raw or qcow2", c.format);
    if (c.what != VDISK_REPAIR_NOTHING && c.flags & VDISK_OPEN_FORCE_SHARE)
        return cli_usage_error(verb, "-r needs the image for itself: not with -U");
    c.name = cli_image(&p, operands[0], c.format);
    if (c.name == NULL)
        return CLI_FAILED;
    c.given = operands[0];
    if (have_cache)
        c.flags |= cache & VDISK_OPEN_BUFFERED;
    else if (c.what == VDISK_REPAIR_NOTHING)
        c.flags |= VDISK_OPEN_BUFFERED; /* tables that have just been written or read are there */
    c.progress.enabled = c.progress.enabled && !c.quiet && !c.json;
    c.progress.to_stderr = c.json; /* who asks by SIGUSR1 is answered */
    return check_image(&c);
}

const struct cli_verb cli_check = {
    .name = "check",
    .summary = "Look for inconsistencies in a qcow2 image, and repair them.",
    .usage = "[OPTION]... NAME",
    .options = options,
    .notes = "Without -r nothing is written. Each finding is a line on standard error; the result follows on\n"
             "standard output. What cannot be repaired is named and stays as it is. A repair that was\n"
             "interrupted is finished by the next one. Exit code: 0 clean (now); 1 the check could not be\n"
             "made, or not in full; 2 corruption; 3 leaked clusters, nothing worse; 63 the format has no\n"
             "checks.\n",
    .run = run,
};
