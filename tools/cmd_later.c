/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * snapshot, bitmap: verbs of qemu-img that cannot be done yet. Their command lines are read, so that a wrong one
 * is told from one that would be right; the latter is refused by name, and no image is looked at. Who has named a
 * volume of a domain hears what its domain has in place of that.
 */
#include <stdio.h>

#include "tools/cli.h"

enum {
    OPT_ADD = CLI_LONG_ONLY + 1, OPT_REMOVE, OPT_CLEAR, OPT_ENABLE, OPT_DISABLE, OPT_MERGE,
};

static const struct cli_option snapshot_options[] = {
    {'l', "list", NULL, "list them; 'info' does"},
    {'c', "create", "SNAPSHOT", "make one"},
    {'a', "apply", "SNAPSHOT", "go back to one"},
    {'d', "delete", "SNAPSHOT", "delete one"},
    {'f', "format", "FMT", "raw or qcow2; otherwise found from the content"},
    {'q', "quiet", NULL, "print nothing but errors"},
    {'U', "force-share", NULL, "open even if another process writes to the image"},
    CLI_IMAGE_OPTIONS,
    {0, NULL, NULL, NULL},
};

static const struct cli_option bitmap_options[] = {
    {OPT_ADD, "add", NULL, "make the bitmap"},
    {OPT_REMOVE, "remove", NULL, "remove it"},
    {OPT_CLEAR, "clear", NULL, "forget what it has recorded"},
    {OPT_ENABLE, "enable", NULL, "record writes from now on"},
    {OPT_DISABLE, "disable", NULL, "record no more"},
    {OPT_MERGE, "merge", "SOURCE", "add what the bitmap SOURCE has recorded"},
    {'g', "granularity", "SIZE", "of a new one"},
    {'b', "source-file", "FILE", "the image that SOURCE is in"},
    {'F', "source-format", "FMT", "its format"},
    {'f', "format", "FMT", "raw or qcow2; otherwise found from the content"},
    CLI_IMAGE_OPTIONS,
    {0, NULL, NULL, NULL},
};

/* The options, and that there are `operands` operands. */
static int read_line(const struct cli_verb *verb, int argc, char **argv, int operands, const char *wanted)
{
    struct cli_parser p;
    char **list;

    cli_parser_init(&p, verb, argc, argv);
    for (int id; (id = cli_parser_next(&p)) != CLI_END;) {
        if (id == CLI_ERROR)
            return CLI_FAILED;
    }
    if (cli_operands(&p, &list) != operands)
        return cli_usage_error(verb, "%s", wanted);
    return cli_is_volume(list[0]) && cli_refuses_volume(verb, list[0]) ? CLI_FAILED : CLI_OK;
}

static int run_snapshot(const struct cli_verb *verb, int argc, char **argv)
{
    if (read_line(verb, argc, argv, 1, "Expecting one image file name") == CLI_OK)
        cli_error("snapshot: internal snapshots cannot be made, applied or deleted yet, nor listed but by 'info'");
    return CLI_FAILED;
}

static int run_bitmap(const struct cli_verb *verb, int argc, char **argv)
{
    if (read_line(verb, argc, argv, 2, "Expecting filename and bitmap name") == CLI_OK)
        cli_error("bitmap: bitmaps cannot be made, changed, merged or removed yet");
    return CLI_FAILED;
}

const struct cli_verb cli_snapshot = {
    .name = "snapshot",
    .summary = "Refused yet: internal snapshots.",
    .usage = "[OPTION]... NAME",
    .options = snapshot_options,
    .notes = "Takes the command line of qemu-img, and does nothing. Exit code: 1.\n",
    .run = run_snapshot,
};

const struct cli_verb cli_bitmap = {
    .name = "bitmap",
    .summary = "Refused yet: persistent bitmaps.",
    .usage = "[OPTION]... NAME BITMAP",
    .options = bitmap_options,
    .notes = "Takes the command line of qemu-img, and does nothing. Exit code: 1.\n",
    .run = run_bitmap,
};
