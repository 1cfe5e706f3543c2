/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * lv: images on plain logical volumes, without a storage domain.
 *
 * Works: tools/lv/ does it. Fails: one line that names the rule; nothing has been written where that can be known
 * before. What a killed one has left is told by the next.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/arith.h"
#include "tools/cli.h"
#include "tools/create_options.h"
#include "tools/lv/lv.h"

enum { OPT_OUTPUT = CLI_LONG_ONLY + 1, OPT_DRY_RUN, OPT_INITIAL_SIZE, OPT_END };

static const struct cli_option options[] = {
    {'f', "format", "FMT",
     "create: qcow2 (default) or raw; extend, info: what it has, otherwise\n"
     "found from the content"},
    {'a', "allocation", "KIND", "create, snapshot: thin (qcow2's default) or preallocated"},
    {'o', "options", "LIST",
     "create, snapshot: options of qcow2 that have to do with its layout:\n"
     "KEY=VALUE,...; '-o help' lists them"},
    {'b', "backing", "NAME", "snapshot: what the new image calls what it lies on; otherwise /dev/VG/LV"},
    {'F', "backing-format", "FMT", "snapshot: of what it lies on: qcow2 (default) or raw"},
    {OPT_INITIAL_SIZE, "initial-size", "SIZE", "create, snapshot: that a thin one begins with; otherwise 2560M"},
    {OPT_OUTPUT, "output", "FORM", "human (default) or json"},
    {'p', "progress", NULL, "reduce: show progress"},
    {'q', "quiet", NULL, "print nothing but errors"},
    {OPT_DRY_RUN, "dry-run", NULL,
     "create, snapshot, extend, reduce: say what would be done, and change\n"
     "nothing"},
    {0, NULL, NULL, NULL},
};

struct args {
    const struct cli_verb *verb;
    const char *action;
    const char *given[OPT_END]; /* by option: its value, "" where it takes none; NULL: not given */
    struct create_options o;
    struct cli_pairs pairs;
    struct cli_progress progress;
    struct lv_how how;
    bool json, quiet, dry_run;
};

/* ---- create and snapshot ---------------------------------------------------------------------------------- */

static int print_made(const struct args *a, const struct lv *lv, const struct lv_made *m)
{
    char virtual_size[32], size[32];

    if (a->json)
        return cli_json_print(json_pack(
            "{s:s, s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:b}", "volume", lv_name(lv), "path", lv_path(lv),
            "format", a->o.opts.format, "virtual-size", (json_int_t)m->virtual_size, "size", (json_int_t)m->size,
            "extents", (json_int_t)m->extents, "extent-size", (json_int_t)m->extent_size, "required",
            (json_int_t)m->required, "fully-allocated", (json_int_t)m->fully_allocated, "dry-run", a->dry_run));
    if (a->quiet)
        return CLI_OK;
    cli_format_size(m->virtual_size, virtual_size, sizeof virtual_size);
    cli_format_size(m->size, size, sizeof size);
    if (a->dry_run)
        printf("%s would have %s, in a volume of %s\n", lv_path(lv), virtual_size, size);
    else
        printf("%s\n", lv_path(lv));
    return CLI_OK;
}

/* Names, and what is not of the layout, are this verb's own. */
static bool is_of_layout(const char *key)
{
    static const char *const others[] = {"backing_file",  "backing_fmt", "data_file",       "data_file_raw",
                                         "preallocation", "size",        "extent_size_hint"};

    for (size_t i = 0; i < ARRAY_LEN(others); i++)
        if (strcmp(key, others[i]) == 0)
            return false;
    return true;
}

static int parse_layout(struct args *a)
{
    for (size_t i = 0; i < a->pairs.count; i++) {
        if (!is_of_layout(a->pairs.list[i].key)) {
            cli_error("%s: option %s is not of the layout of qcow2, and not taken here", a->o.name,
                      a->pairs.list[i].key);
            return CLI_FAILED;
        }
    }
    if (create_options_apply(&a->o, &a->pairs) == 0)
        return CLI_OK;
    cli_error("%s", a->o.why);
    return CLI_FAILED;
}

static int parse_allocation(const struct args *a, bool *ret)
{
    const char *kind = a->given['a'];

    *ret = a->o.raw || (kind != NULL && strcmp(kind, "preallocated") == 0);
    if (kind == NULL || strcmp(kind, "preallocated") == 0)
        return CLI_OK;
    if (strcmp(kind, "thin") != 0)
        return cli_usage_error(a->verb, "--allocation takes thin or preallocated, not '%s'", kind);
    return !a->o.raw
               ? CLI_OK
               : cli_usage_error(a->verb,
                                 "a raw image on a logical volume is preallocated: a device has no holes; thin is "
                                 "qcow2");
}

/* `size`: NULL: that of what is below. */
static int parse_create(struct args *a, const char *name, const char *format, const char *size,
                        struct lv_create *ret)
{
    a->o.name = name;
    a->o.opts = (struct vdisk_create_opts){.size = sizeof a->o.opts, .format = format, .virtual_size = UINT64_MAX};
    a->o.raw = strcmp(format, "raw") == 0;
    *ret = (struct lv_create){
        .image = &a->o.opts, .has_initial_size = a->given[OPT_INITIAL_SIZE] != NULL, .dry_run = a->dry_run};
    if (parse_layout(a) != CLI_OK || parse_allocation(a, &ret->preallocated) != CLI_OK)
        return CLI_FAILED;
    if (size != NULL && create_options_set_size(&a->o, size) < 0)
        return cli_usage_error(a->verb, "%s", a->o.why);
    if (ret->has_initial_size && cli_parse_size(a->given[OPT_INITIAL_SIZE], &ret->initial_size) < 0)
        return cli_usage_error(a->verb, "--initial-size takes a size, not '%s'", a->given[OPT_INITIAL_SIZE]);
    return CLI_OK;
}

/* -f or -F; qcow2 where it was not given. NULL: told. */
static const char *parse_format(const struct args *a, int option, const char *name)
{
    const char *format = a->given[option] != NULL ? a->given[option] : "qcow2";

    if (strcmp(format, "raw") == 0 || strcmp(format, "qcow2") == 0)
        return format;
    cli_usage_error(a->verb, "no format '%s'; %s takes raw or qcow2", format, name);
    return NULL;
}

static int create(struct args *a, struct lv *lv, char **operands, int count)
{
    const char *format = parse_format(a, 'f', "--format");
    struct lv_made made;
    struct lv_create o;

    (void)count;
    if (format == NULL || parse_create(a, lv_name(lv), format, operands[0], &o) != CLI_OK)
        return CLI_FAILED;
    return lv_create(lv, &o, &made) < 0 ? cli_library_error() : print_made(a, lv, &made);
}

static int snapshot(struct args *a, struct lv *lv, char **operands, int count)
{
    struct lv_backing below = {.format = parse_format(a, 'F', "--backing-format"), .name = a->given['b']};
    struct lv_made made;
    struct lv_create o;
    struct lv *new;
    int rc;

    if (below.format == NULL ||
        parse_create(a, operands[0], "qcow2", count > 1 ? operands[1] : NULL, &o) != CLI_OK)
        return CLI_FAILED;
    if (below.name != NULL && below.name[0] == '\0')
        return cli_usage_error(a->verb, "--backing takes a name");
    if (lv_snapshot(lv, operands[0], &o, &below, &made, &new) < 0)
        return cli_library_error();
    rc = print_made(a, new, &made);
    lv_close(new);
    return rc;
}

/* ---- extend and reduce ------------------------------------------------------------------------------------ */

static int print_space(const struct args *a, const struct lv *lv, const struct lv_space *s)
{
    char before[32], after[32];

    if (a->json)
        return cli_json_print(json_pack("{s:s, s:I, s:I, s:I, s:I, s:I, s:b}", "volume", lv_name(lv), "before",
                                        (json_int_t)s->before, "asked", (json_int_t)s->asked, "size",
                                        (json_int_t)s->after, "extents", (json_int_t)s->extents, "extent-size",
                                        (json_int_t)s->extent_size, "dry-run", a->dry_run));
    if (!a->quiet)
        printf("%s %s %s, and %s %s\n", lv_name(lv), a->dry_run ? "has" : "had",
               cli_format_size(s->before, before, sizeof before), a->dry_run ? "would have" : "has",
               cli_format_size(s->after, after, sizeof after));
    return CLI_OK;
}

static int extend(struct args *a, struct lv *lv, char **operands, int count)
{
    struct lv_extend o = {.format = a->given['f'], .dry_run = a->dry_run};
    struct lv_space space;

    if (count > 0) {
        o.by = operands[0][0] == '+';
        if (cli_parse_size(operands[0] + o.by, &o.size) < 0 || o.size == 0)
            return cli_usage_error(a->verb,
                                   "extend: '%s' is no size: bytes, or a number with K, M, G, T, P or E, with "
                                   "a + in front to add so much",
                                   operands[0]);
    }
    if (o.format != NULL && parse_format(a, 'f', "--format") == NULL)
        return CLI_FAILED;
    return lv_extend(lv, &o, &space) < 0 ? cli_library_error() : print_space(a, lv, &space);
}

static int reduce(struct args *a, struct lv *lv, char **operands, int count)
{
    struct lv_reduce o = {.dry_run = a->dry_run, .progress = cli_progress_show, .progress_arg = &a->progress};
    struct lv_space space;

    (void)operands, (void)count;
    if (lv_reduce(lv, &o, &space) < 0)
        return cli_library_error();
    cli_progress_end(&a->progress);
    return print_space(a, lv, &space);
}

/* ---- info ------------------------------------------------------------------------------------------------- */

static bool is_used(const struct lv_info *info, uint64_t i)
{
    return (info->used[i / 8] >> (i % 8) & 1) != 0;
}

/* The next run of extents in use, from `i` on. false: there is none. */
static bool next_run(const struct lv_info *info, uint64_t *i, uint64_t *start)
{
    while (*i < info->extents && !is_used(info, *i))
        ++*i;
    *start = *i;
    while (*i < info->extents && is_used(info, *i))
        ++*i;
    return *i > *start;
}

static json_t *bitmap_json(const struct lv_info *info)
{
    size_t bytes = (size_t)(info->extents + 7) / 8;
    char *text = cli_calloc(2 * bytes + 1, 1);
    json_t *json;

    for (size_t i = 0; i < bytes; i++)
        snprintf(text + 2 * i, 3, "%02x", info->used[i]);
    json = json_string(text);
    free(text);
    return json;
}

static int print_info_json(const struct lv *lv, const struct lv_info *info)
{
    json_t *json =
        json_pack("{s:s, s:s, s:b, s:b, s:I, s:I, s:I}", "volume", lv_name(lv), "path", lv_path(lv), "unfinished",
                  info->unfinished, "active", info->active, "size", (json_int_t)info->size, "extents",
                  (json_int_t)info->extents, "extent-size", (json_int_t)info->extent_size);
    json_t *runs = json_array();

    if (info->format == NULL) {
        json_decref(runs);
        return cli_json_print(json);
    }
    for (uint64_t i = 0, start; next_run(info, &i, &start);)
        json_array_append_new(
            runs, json_pack("{s:I, s:I}", "start", (json_int_t)start, "count", (json_int_t)(i - start)));
    json_object_update_new(
        json,
        json_pack("{s:s, s:I, s:I, s:I, s:I, s:I, s:o, s:o}", "format", info->format, "virtual-size",
                  (json_int_t)info->virtual_size, "allocated-size", (json_int_t)info->allocated, "fully-allocated",
                  (json_int_t)info->fully_allocated, "used-extents", (json_int_t)info->used_extents, "corruptions",
                  (json_int_t)info->corruptions, "used", runs, "bitmap", bitmap_json(info)));
    if (info->backing != NULL)
        json_object_set_new(json, "backing-filename", cli_json_string(info->backing));
    return cli_json_print(json);
}

static void print_size(const char *what, uint64_t bytes)
{
    char text[32];

    printf("%s: %s (%" PRIu64 " bytes)\n", what, cli_format_size(bytes, text, sizeof text), bytes);
}

static void print_info(const struct lv *lv, struct lv_info *info)
{
    printf("volume: %s%s\n", lv_path(lv), info->active ? "" : " (not active)");
    print_size("size", info->size);
    printf("extents: %" PRIu64 " of %" PRIu64 " bytes\n", info->extents, info->extent_size);
    if (info->format == NULL)
        return;
    printf("format: %s\n", info->format);
    print_size("virtual size", info->virtual_size);
    print_size("allocated size", info->allocated);
    print_size("fully allocated size", info->fully_allocated);
    if (info->backing != NULL)
        printf("backing file: %s\n", cli_printable(info->backing));
    if (info->corruptions > 0)
        printf("corruptions: %" PRIu64 ", unless it is being written to\n", info->corruptions);
    printf("extents in use: %" PRIu64 ":", info->used_extents);
    for (uint64_t i = 0, start; next_run(info, &i, &start);)
        printf(i - start > 1 ? " %" PRIu64 "-%" PRIu64 : " %" PRIu64, start, i - 1);
    putchar('\n');
}

static int info(struct args *a, struct lv *lv, char **operands, int count)
{
    struct lv_info found;
    int rc = CLI_OK;

    (void)operands, (void)count;
    if (a->given['f'] != NULL && parse_format(a, 'f', "--format") == NULL)
        return CLI_FAILED;
    if (lv_info(lv, a->given['f'], &found) < 0)
        return cli_library_error();
    if (a->json)
        rc = print_info_json(lv, &found);
    else if (!a->quiet)
        print_info(lv, &found);
    lv_info_free(&found);
    return rc;
}

/* ---- command line ----------------------------------------------------------------------------------------- */

enum { TAKES = 8 };

static const struct action {
    const char *name;
    int least, most;  /* operands behind VG/LV */
    int takes[TAKES]; /* options besides --output and -q; ends with 0 */
    int (*run)(struct args *a, struct lv *lv, char **operands, int count);
} actions[] = {
    {"create", 1, 1, {'f', 'a', 'o', OPT_INITIAL_SIZE, OPT_DRY_RUN}, create},
    {"snapshot", 1, 2, {'a', 'o', 'b', 'F', OPT_INITIAL_SIZE, OPT_DRY_RUN}, snapshot},
    {"extend", 0, 1, {'f', OPT_DRY_RUN}, extend},
    {"reduce", 0, 0, {'p', OPT_DRY_RUN}, reduce},
    {"info", 0, 0, {'f'}, info},
};

static void print_note(void *arg, const char *text)
{
    const struct args *a = arg;

    if (!a->quiet)
        cli_note("note: %s", text);
}

static bool takes(const struct action *action, int option)
{
    for (size_t i = 0; i < TAKES && action->takes[i] != 0; i++)
        if (action->takes[i] == option)
            return true;
    return option == OPT_OUTPUT || option == 'q';
}

static int check_options(const struct args *a, const struct action *action)
{
    for (const struct cli_option *o = a->verb->options; o->id != 0; o++)
        if (a->given[o->id] != NULL && !takes(action, o->id))
            return cli_usage_error(a->verb, "%s takes no option --%s", action->name, o->name);
    return CLI_OK;
}

static int run_action(struct args *a, char **operands, int count)
{
    const struct action *action = NULL;
    struct lv *lv;
    int rc;

    if (count < 1)
        return cli_usage_error(a->verb, "Expecting an action");
    for (size_t i = 0; i < ARRAY_LEN(actions); i++)
        if (strcmp(actions[i].name, operands[0]) == 0)
            action = &actions[i];
    if (action == NULL)
        return cli_usage_error(a->verb, "no action '%s'", operands[0]);
    if (check_options(a, action) != CLI_OK)
        return CLI_FAILED;
    if (count - 2 < action->least || count - 2 > action->most)
        return cli_usage_error(a->verb, "%s takes VG/LV%s", action->name,
                               action->run == snapshot ? ", NEW and, if need be, a size"
                               : action->run == extend ? " and, if need be, a size"
                               : action->most > 0      ? " and a size"
                                                       : "");
    a->action = action->name;
    if (lv_open(operands[1], &a->how, &lv) < 0)
        return cli_library_error();
    rc = action->run(a, lv, operands + 2, count - 2);
    lv_close(lv);
    return rc;
}

static int parse_options(struct args *a, struct cli_parser *p, bool *list_options)
{
    for (int id; (id = cli_parser_next(p)) != CLI_END;) {
        if (id == CLI_ERROR)
            return CLI_FAILED;
        a->given[id] = p->value != NULL ? p->value : "";
        if (id != 'o')
            continue;
        if (strcmp(p->value, "help") == 0 || strcmp(p->value, "?") == 0)
            *list_options = true;
        else if (cli_pairs_add(&a->pairs, p->value) < 0)
            return cli_usage_error(a->verb, "-o takes KEY=VALUE,..., not '%s'", p->value);
    }
    if (a->given[OPT_OUTPUT] != NULL && !cli_parse_output(a->verb, a->given[OPT_OUTPUT], &a->json))
        return CLI_FAILED;
    a->quiet = a->given['q'] != NULL;
    a->dry_run = a->given[OPT_DRY_RUN] != NULL;
    a->progress = (struct cli_progress){.enabled = a->given['p'] != NULL && !a->quiet, .to_stderr = a->json};
    return CLI_OK;
}

static int run(const struct cli_verb *verb, int argc, char **argv)
{
    struct args a = {.verb = verb, .o.opts.format = "qcow2"};
    bool list_options = false;
    struct cli_parser p;
    char **operands;
    int count, rc;

    a.how = (struct lv_how){.note = print_note, .note_arg = &a, .run = cli_job_run};
    cli_parser_init(&p, verb, argc, argv);
    rc = parse_options(&a, &p, &list_options);
    count = cli_operands(&p, &operands);
    if (rc == CLI_OK)
        rc = list_options ? create_options_print(false) : run_action(&a, operands, count);
    cli_pairs_free(&a.pairs);
    return rc;
}

const struct cli_verb cli_lv = {
    .name = "lv",
    .summary = "Images on plain logical volumes: make, snapshot, extend, reduce, show.",
    .usage = "[OPTION]... ACTION VG/LV [ARGUMENT]...",
    .options = options,
    .notes =
        "create VG/LV SIZE: a volume with an image of that size, as large as measure says. snapshot VG/LV NEW\n"
        "[SIZE]: a qcow2 volume NEW of the same group, which lies on VG/LV. extend VG/LV [SIZE|+SIZE]: make the\n"
        "volume larger; without SIZE, as large as the image gets when all of it is written. reduce VG/LV: end a\n"
        "qcow2 volume with the extent in which the image does. info VG/LV: sizes, and which extents are in use.\n"
        "Sizes of volumes are rounded up to extents.\n"
        "Exit code: 0, or 1.\n",
    .run = run,
};
