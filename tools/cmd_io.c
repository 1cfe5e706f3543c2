/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * io: read, write, zero, discard, flush and verify by command, in the manner of qemu-io. The commands themselves
 * are in io_commands.c; here: the options, and where command lines come from (-c, or standard input).
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tools/cli.h"
#include "tools/io_commands.h"

static const struct cli_option options[] = {
    {'c', "cmd", "COMMAND", "do this; may be repeated; otherwise commands come from standard\ninput, one a line"},
    {'e', "echo", NULL, "print each command when it is done (-a: started), at once, after\n"
                        "\"done: \" or \"failed: \""},
    {'f', "format", "FMT", "raw or qcow2; otherwise found from the content"},
    {'n', "nocache", NULL, "use O_DIRECT where the file allows it; otherwise the page cache"},
    {'r', "read-only", NULL, "open read-only"},
    {'U', "force-share", NULL, "open even if another process writes to the image; with -r"},
    {'q', "quiet", NULL, "no lines about what was read and written"},
    CLI_IMAGE_OPTIONS,
    {0, NULL, NULL, NULL},
};

struct io_args {
    struct vdisk_open_opts how;
    const char           **commands; /* as many as there are arguments, at most */
    size_t                 ncommands;
    bool                   quiet, echo;
};

static int parse_options(struct io_args *args, struct cli_parser *p)
{
    args->how.flags = VDISK_OPEN_RDWR | VDISK_OPEN_BUFFERED;
    for (int id; (id = cli_parser_next(p)) != CLI_END;) {
        switch (id) {
        case 'c': args->commands[args->ncommands++] = p->value; break;
        case 'e': args->echo = true; break;
        case 'f': args->how.format = p->value; break;
        case 'n': args->how.flags &= ~(uint32_t)VDISK_OPEN_BUFFERED; break;
        case 'r': args->how.flags &= ~(uint32_t)VDISK_OPEN_RDWR; break;
        case 'U': args->how.flags |= VDISK_OPEN_FORCE_SHARE; break;
        case 'q': args->quiet = true; break;
        default: return CLI_FAILED;
        }
    }
    if ((args->how.flags & VDISK_OPEN_FORCE_SHARE) && (args->how.flags & VDISK_OPEN_RDWR))
        return cli_usage_error(p->verb, "-U needs -r: an image in use is not written to");
    return CLI_OK;
}

static void run_stdin(struct io_session *s)
{
    bool prompt = isatty(STDIN_FILENO);
    char *line = NULL;
    size_t room = 0;

    while (!s->quit) {
        if (prompt) {
            printf("vdisk-io> ");
            fflush(stdout);
        }
        if (getline(&line, &room, stdin) < 0)
            break;
        io_session_run(s, line);
        fflush(stdout);
    }
    free(line);
}

static int run_session(const struct io_args *args, const char *name)
{
    struct io_session s;

    if (io_session_open(&s, name, &args->how, args->quiet) < 0)
        return CLI_FAILED;
    s.echo = args->echo;
    for (size_t i = 0; i < args->ncommands && !s.quit; i++)
        io_session_run(&s, args->commands[i]);
    if (args->ncommands == 0)
        run_stdin(&s);
    return io_session_close(&s) == 0 ? CLI_OK : CLI_FAILED;
}

static int run(const struct cli_verb *verb, int argc, char **argv)
{
    struct io_args args = {.how = {.size = sizeof args.how}};
    struct cli_parser p;
    const char *name = NULL;
    char **operands;
    int n, rc;

    args.commands = cli_calloc((size_t)argc, sizeof *args.commands);
    cli_parser_init(&p, verb, argc, argv);
    rc = parse_options(&args, &p);
    n = cli_operands(&p, &operands);
    if (rc == CLI_OK && n != 1)
        rc = cli_usage_error(verb, "takes the name of one image");
    else if (rc == CLI_OK)
        name = cli_image(&p, operands[0], args.how.format);
    if (rc == CLI_OK)
        rc = name != NULL ? run_session(&args, name) : CLI_FAILED;
    free(args.commands);
    return rc;
}

const struct cli_verb cli_io = {
    .name = "io",
    .summary = "Read, write, zero, discard, flush and verify by command.",
    .usage = "[OPTION]... NAME",
    .options = options,
    .notes = IO_COMMANDS_HELP
        "Exit code: 0; 1 when any command failed or a pattern was not found.\n",
    .run = run,
};
