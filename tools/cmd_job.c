/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * job: what the file of a job (--job FILE of other verbs) says; and have it end.
 *
 * Works: status reads FILE and looks whether it is locked. cancel sends CLI_CANCEL, which ends a verb as SIGINT
 * does and is never ignored, to the process that FILE names, and waits for its end. Fails: FILE is no job's file;
 * or nothing is at work.
 *
 * Invariant: no process gets a signal but the one that FILE says: by its number, the time when it began, and the
 * boot, looked at when a descriptor of it is held, and FILE is locked still.
 */
#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "tools/job_file.h"

enum { OPT_OUTPUT = CLI_LONG_ONLY + 1 };

static const struct cli_option options[] = {
    {OPT_OUTPUT, "output", "FORM", "status: human (default) or json"},
    {'q', "quiet", NULL, "print nothing but errors"},
    {0, NULL, NULL, NULL},
};

struct job_verb {
    const struct cli_verb *verb;
    const char            *file;
    bool                   json, quiet;
};

static const char *text_of(const json_t *json, const char *key)
{
    const char *text = json_string_value(json_object_get(json, key));

    return text != NULL ? text : "";
}

static uint64_t number_of(const json_t *json, const char *key)
{
    json_int_t n = json_integer_value(json_object_get(json, key));

    return n > 0 ? (uint64_t)n : 0;
}

/* What it says, and what is so: nobody has killed one that holds the lock. */
static const char *state_of(const json_t *json, bool locked)
{
    const char *state = text_of(json, "state");

    return strcmp(state, "running") == 0 && !locked ? "killed" : state;
}

/* ---- status --------------------------------------------------------------------------------------------- */

static int print_json(const struct job_verb *c, json_t *json, bool locked)
{
    json_t *out = json_object();

    json_object_set_new(out, "file", cli_json_string(c->file));
    json_object_set(out, "kind", json_object_get(json, "kind"));
    json_object_set(out, "arguments", json_object_get(json, "arguments"));
    json_object_set(out, "directory", json_object_get(json, "directory"));
    json_object_set_new(out, "state", json_string(state_of(json, locked)));
    if (locked)
        json_object_set(out, "pid", json_object_get(json, "pid"));
    json_object_set(out, "bytes_done", json_object_get(json, "bytes_done"));
    json_object_set(out, "bytes_total", json_object_get(json, "bytes_total"));
    if (json_object_get(json, "error") != NULL)
        json_object_set(out, "error", json_object_get(json, "error"));
    return cli_json_print(out);
}

static void print_arguments(const json_t *json)
{
    const json_t *list = json_object_get(json, "arguments");

    printf("command: %s", text_of(json, "kind"));
    for (size_t i = 0; i < json_array_size(list); i++) {
        const char *text = json_string_value(json_array_get(list, i));
        char *copy = cli_strdup(text != NULL ? text : "?");
        printf(" %s", cli_printable(copy));
        free(copy);
    }
    printf("\n");
}

static void print_human(const json_t *json, bool locked)
{
    char done[32], total[32], *error = cli_strdup(text_of(json, "error"));
    uint64_t n = number_of(json, "bytes_done"), all = number_of(json, "bytes_total");

    print_arguments(json);
    printf("state: %s", state_of(json, locked));
    if (locked)
        printf(" (process %" PRIu64 ")", number_of(json, "pid"));
    printf("\n");
    if (all > 0)
        printf("done: %s of %s (%.2f %%)\n", cli_format_size(n, done, sizeof done),
               cli_format_size(all, total, sizeof total), (double)n / (double)all * 100);
    if (error[0] != '\0')
        printf("error: %s\n", cli_printable(error));
    free(error);
}

static int status(const struct job_verb *c)
{
    bool locked = false;
    json_t *json = job_file_look(c->file, &locked);
    int rc = CLI_OK;

    if (json == NULL)
        return CLI_FAILED;
    if (c->json)
        rc = print_json(c, json, locked);
    else if (!c->quiet)
        print_human(json, locked);
    json_decref(json);
    return rc;
}

/* ---- cancel --------------------------------------------------------------------------------------------- */

/* A descriptor of the process that has FILE; -1: told. */
static int find_process(const struct job_verb *c, const json_t *json)
{
    int pid = (int)number_of(json, "pid"), fd;
    char boot[64];
    bool locked = false;
    json_t *again;

    fd = (int)syscall(SYS_pidfd_open, pid, 0);
    if (fd < 0 && errno != ESRCH) {
        cli_error("%s: process %d: %s", c->file, pid, strerror(errno));
        return -1;
    }
    again = fd >= 0 ? job_file_look(c->file, &locked) : NULL;
    if (fd >= 0 && locked && json_equal(json_object_get(json, "pid"), json_object_get(again, "pid")) &&
        job_file_pid_start(pid) == number_of(again, "pid_start") &&
        strcmp(job_file_boot(boot, sizeof boot), text_of(again, "boot")) == 0) {
        json_decref(again);
        return fd;
    }
    json_decref(again);
    if (fd >= 0)
        close(fd);
    cli_error("%s: the process that is at work is not the one it names, or runs elsewhere", c->file);
    return -1;
}

static int end_process(const struct job_verb *c, int fd)
{
    struct pollfd ended = {.fd = fd, .events = POLLIN};

    if (syscall(SYS_pidfd_send_signal, fd, CLI_CANCEL, NULL, 0) != 0 && errno != ESRCH) {
        cli_error("%s: %s", c->file, strerror(errno));
        return CLI_FAILED;
    }
    while (poll(&ended, 1, -1) < 0 && errno == EINTR)
        ;
    return CLI_OK;
}

static int cancel(const struct job_verb *c)
{
    bool locked = false;
    json_t *json = job_file_look(c->file, &locked);
    int rc = CLI_FAILED, fd;

    if (json == NULL)
        return CLI_FAILED;
    if (!locked) {
        cli_error("%s: is not at work: %s", c->file, state_of(json, false));
        json_decref(json);
        return CLI_FAILED;
    }
    fd = find_process(c, json);
    json_decref(json);
    if (fd >= 0) {
        rc = end_process(c, fd);
        close(fd);
    }
    json = rc == CLI_OK ? job_file_look(c->file, &locked) : NULL;
    if (json != NULL && !c->quiet)
        print_human(json, locked);
    json_decref(json);
    return rc;
}

/* ---- command line --------------------------------------------------------------------------------------- */

static int run(const struct cli_verb *verb, int argc, char **argv)
{
    struct job_verb c = {.verb = verb};
    struct cli_parser p;
    char **operands;

    cli_parser_init(&p, verb, argc, argv);
    for (int id; (id = cli_parser_next(&p)) != CLI_END;) {
        if (id == 'q')
            c.quiet = true;
        else if (id != OPT_OUTPUT || !cli_parse_output(verb, p.value, &c.json))
            return CLI_FAILED;
    }
    if (cli_operands(&p, &operands) != 2)
        return cli_usage_error(verb, "Expecting 'status' or 'cancel', and the file of a job");
    c.file = operands[1];
    if (strcmp(operands[0], "status") == 0)
        return status(&c);
    if (strcmp(operands[0], "cancel") == 0)
        return cancel(&c);
    return cli_usage_error(verb, "'%s': expecting 'status' or 'cancel'", operands[0]);
}

const struct cli_verb cli_job = {
    .name = "job",
    .summary = "Show, or end, a job that keeps a file (--job).",
    .usage = "[OPTION]... status|cancel FILE",
    .options = options,
    .notes = "FILE is that of --job of convert, commit, rebase or checksum. cancel waits until the process has\n"
             "ended; the command that it ran, given again, goes on from there.\n"
             "Exit code: 0, or 1.\n",
    .run = run,
};
