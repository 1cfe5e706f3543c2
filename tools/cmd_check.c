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

#include "engine/backend.h"
#include "engine/error.h"
#include "engine/io.h"
#include "engine/vdisk.h"
#include "engine/json_name.h"
#include "qcow2/check/check.h"
#include "qcow2/qcow2.h"
#include "tools/cli.h"

enum { CHECK_CORRUPT = 2, CHECK_LEAKS = 3 };

struct check {
    const char                *name;
    const char                *format; /* NULL: look */
    struct qcow2_repair_result result;
    struct cli_progress        progress;
    uint32_t                   flags;  /* enum backend_open_flags */
    bool                       repair;
    enum qcow2_repair_what     what;
    bool                       json;
    bool                       quiet;
};

/* As QEMU has it: "Leaked cluster 7 refcount=1 reference=0". */
static void print_finding(void *arg, enum qcow2_finding kind, const char *text)
{
    static const char *const words[] = {
        [QCOW2_CORRUPTION] = "ERROR", [QCOW2_LEAK] = "Leaked", [QCOW2_ERROR] = "ERROR", [QCOW2_NOTE] = "Note:",
        [QCOW2_FIXED] = "Repairing",
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
    const struct qcow2_check_result *r = &c->result.check;
    json_t *out = json_object();

    set_nonzero(out, "image-end-offset", r->image_end_offset);
    set_nonzero(out, "leaks-fixed", c->result.leaks_fixed);
    set_nonzero(out, "corruptions-fixed", c->result.corruptions_fixed);
    set_nonzero(out, "compressed-clusters", r->compressed_clusters);
    set_nonzero(out, "total-clusters", r->total_clusters);
    set_nonzero(out, "corruptions", r->corruptions);
    set_number(out, "check-errors", r->check_errors);
    set_nonzero(out, "leaks", r->leaks);
    set_nonzero(out, "allocated-clusters", r->allocated_clusters);
    json_object_set_new(out, "filename", cli_json_string(c->name));
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
    const struct qcow2_check_result *r = &c->result.check;

    if (c->result.leaks_fixed != 0 || c->result.corruptions_fixed != 0)
        printf("The following inconsistencies were found and repaired:\n\n"
               "    %" PRIu64 " leaked clusters\n"
               "    %" PRIu64 " corruptions\n\n"
               "Double checking the fixed image now...\n",
               c->result.leaks_fixed, c->result.corruptions_fixed);
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
    const struct qcow2_check_result *r = &c->result.check;

    if (!c->quiet && c->json && print_json(c) != CLI_OK)
        return CLI_FAILED;
    if (!c->quiet && !c->json)
        print_human(c);
    if (r->check_errors != 0)
        return CLI_FAILED;
    return r->corruptions != 0 ? CHECK_CORRUPT : r->leaks != 0 ? CHECK_LEAKS : CLI_OK;
}

/* ---- the check ------------------------------------------------------------------------------------- */

/* Does the file begin as a qcow2 image does? 1, 0, or a negative errno with the library's text set. */
static int looks_like_qcow2(struct backend *file, vdisk_queue *q)
{
    uint8_t *head = vdisk_alloc_buffer(4096);
    int rc;

    if (head == NULL)
        return err_set(ENOMEM, "%s: out of memory", file->name);
    rc = io_pread(q, file, head, 4096, 0); /* zeros past the end */
    if (rc < 0)
        err_set(rc, "%s: cannot read its first 4096 bytes: %s", file->name, strerror(-rc));
    else
        rc = qcow2_driver.probe(head, 4096, file->name) > 0;
    free(head);
    return rc;
}

/* QEMU's words, and no others: there are programs that look for them. */
static int unsupported(void)
{
    cli_error("This image format does not support checks");
    return CLI_UNSUPPORTED;
}

static int check_backend(struct check *c, struct backend *file, vdisk_queue *q)
{
    struct qcow2_check_opts opts = {
        .report = print_finding, .progress = cli_progress_show, .progress_arg = &c->progress,
    };
    int rc = 1;

    if (c->format == NULL)
        rc = looks_like_qcow2(file, q);
    if (rc < 0)
        return cli_library_error();
    if (rc == 0)
        return unsupported();
    if (c->repair)
        rc = qcow2_repair(file, q, c->what, &opts, &c->result);
    else
        rc = qcow2_check(file, q, &opts, &c->result.check);
    if (rc < 0)
        return cli_library_error();
    cli_progress_end(&c->progress);
    return print_result(c);
}

/* Says a json: name so? */
static bool named_raw(const char *name)
{
    struct json_name n;
    bool raw;

    if (!is_json_name(name) || json_name_parse(name, &n) < 0)
        return false;
    raw = n.format != NULL && strcmp(n.format, "raw") == 0;
    json_name_free(&n);
    return raw;
}

static int check_image(struct check *c)
{
    struct vdisk_queue_opts opts = {.size = sizeof opts};
    struct backend *file;
    vdisk_queue *q;
    int rc;

    if ((c->format != NULL && strcmp(c->format, "raw") == 0) || named_raw(c->name))
        return unsupported();
    if (vdisk_queue_create(&opts, &q) < 0)
        return cli_library_error();
    if (backend_open(c->name, c->flags, &file) < 0) {
        rc = cli_library_error();
    } else {
        rc = check_backend(c, file, q);
        backend_close(file);
    }
    vdisk_queue_destroy(q);
    return rc;
}

/* ---- command line ---------------------------------------------------------------------------------- */

enum { OPT_OUTPUT = CLI_LONG_ONLY + 1 };

static const struct cli_option options[] = {
    {'f', "format", "FMT", "raw or qcow2; otherwise found from the content"},
    {OPT_OUTPUT, "output", "FORM", "human (default) or json"},
    {'r', "repair", "WHAT", "leaks: free what nothing refers to; all: also mend\n"
                            "refcounts, flags and damaged entries"},
    {'p', "progress", NULL, "show progress"},
    {'q', "quiet", NULL, "print no result, findings only"},
    {'U', "force-share", NULL, "open even if another process writes to the image; what is\n"
                               "found may then be its work in progress"},
    {0, NULL, NULL, NULL},
};

static bool parse_repair(struct check *c, const char *what)
{
    c->repair = true;
    c->flags |= BACKEND_RDWR;
    c->what = strcmp(what, "all") == 0 ? QCOW2_REPAIR_ALL : QCOW2_REPAIR_LEAKS;
    return strcmp(what, "leaks") == 0 || c->what == QCOW2_REPAIR_ALL;
}

static int run(const struct cli_verb *verb, int argc, char **argv)
{
    struct check c = {.name = NULL};
    struct cli_parser p;
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
        case 'U': c.flags |= BACKEND_SHARE; break;
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
    if (c.repair && c.flags & BACKEND_SHARE)
        return cli_usage_error(verb, "-r needs the image for itself: not with -U");
    c.name = operands[0];
    c.progress.enabled = c.progress.enabled && !c.quiet && !c.json;
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
