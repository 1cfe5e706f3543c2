/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Messages, options, help, progress: see cli.h. Values are parsed in values.c, JSON is printed in json.c. */
#include "tools/cli.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <time.h>

static const char own_name[] = "vdisk-io", qemu_name[] = "qemu-img";
static const char *program = own_name;

void cli_be_qemu_img(void)
{
    program = qemu_name;
}

bool cli_is_qemu_img(void)
{
    return program == qemu_name;
}

const char *cli_program(void)
{
    return program;
}

/* ---- messages -------------------------------------------------------------------------------------- */

/* One line, whatever the names in it have; volumes of domains as they were given. */
static void print_message(const char *kind, const char *fmt, va_list ap)
{
    char *text;

    fflush(stdout); /* keep the order when both go to one place */
    if (vasprintf(&text, fmt, ap) < 0) {
        fprintf(stderr, "%s: %s%s\n", program, kind, fmt); /* no memory: what is known without */
        return;
    }
    cli_printable(text);
    fprintf(stderr, "%s: %s", program, kind);
    cli_put_given(stderr, text);
    fputc('\n', stderr);
    free(text);
}

void cli_error(const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    print_message("", fmt, ap);
    va_end(ap);
}

void cli_warn(const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    print_message("warning: ", fmt, ap);
    va_end(ap);
}

void cli_no_memory(void)
{
    cli_error("out of memory");
    fprintf(stderr, "%s: hint: memory is short: stop something else, or raise the limit (ulimit -v)\n", program);
}

int cli_library_error(void)
{
    const char *text = vdisk_error_text();
    const char *hint = vdisk_error_hint();

    cli_error("%s", text[0] != '\0' ? text : "failed, and the library left no reason");
    if (hint[0] != '\0')
        fprintf(stderr, "%s: hint: %s\n", program, hint);
    return CLI_FAILED;
}

int cli_usage_error(const struct cli_verb *verb, const char *fmt, ...)
{
    char text[512];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    cli_error("%s: %s; see '%s %s --help'", verb->name, text, program, verb->name);
    return CLI_FAILED;
}

void cli_abandon(void)
{
    fflush(NULL);
    _exit(CLI_FAILED);
}

int cli_finish(int exit_code)
{
    if (fflush(stdout) != 0 || ferror(stdout)) {
        fprintf(stderr, "%s: stdout: %s\n", program, strerror(errno));
        return exit_code == CLI_OK ? CLI_FAILED : exit_code;
    }
    return exit_code;
}

/* ---- options --------------------------------------------------------------------------------------- */

static const struct cli_option help_option = {'h', "help", NULL, "this text"};

static void add_option(struct cli_parser *p, const struct cli_option *o, size_t *longs, size_t *letters)
{
    assert(*longs + 1 < sizeof p->longs / sizeof p->longs[0] && *letters + 3 < sizeof p->letters);
    if (o->name != NULL) {
        p->longs[*longs] = (struct option){o->name, o->arg != NULL ? required_argument : no_argument, NULL, o->id};
        ++*longs;
    }
    if (o->id < CLI_LONG_ONLY) {
        p->letters[(*letters)++] = (char)o->id;
        if (o->arg != NULL)
            p->letters[(*letters)++] = ':';
    }
}

static json_t *said; /* as long as the program lives */

void cli_parser_init(struct cli_parser *p, const struct cli_verb *verb, int argc, char **argv)
{
    size_t longs = 0, letters = 1;

    memset(p, 0, sizeof *p);
    p->verb = verb;
    p->argc = argc;
    p->argv = argv;
    json_decref(said);
    p->said = said = json_array();
    p->letters[0] = ':'; /* tell a missing argument from an unknown option */
    for (const struct cli_option *o = verb->options; o->id != 0; o++)
        add_option(p, o, &longs, &letters);
    add_option(p, &help_option, &longs, &letters);
    optind = 0; /* all of glibc's state anew */
    opterr = 0;
}

/* The secret goes from the command line, too, which other users can read. */
static int add_object(char *text)
{
    int rc = vdisk_object_add(text) < 0 ? cli_library_error() : CLI_OK;

    memset(text, 'x', strlen(text));
    return rc;
}

/* What a job may be gone on with otherwise: what is shown, and how fast. */
static bool is_manner(int id)
{
    return id >= CLI_OBJECT || (id > 0 && id < CLI_LONG_ONLY && strchr("pqrmWh", id) != NULL);
}

static void note_said(struct cli_parser *p, int id)
{
    const struct cli_option *o = p->verb->options;
    size_t room = 64 + (optarg != NULL ? strlen(optarg) : 0);
    char *text;

    while (o->id != 0 && o->id != id)
        o++;
    if (o->id == 0 || o->name == NULL || is_manner(id))
        return;
    text = cli_calloc(1, room);
    snprintf(text, room, "--%s%s%s", o->name, optarg != NULL ? "=" : "", optarg != NULL ? optarg : "");
    json_array_append_new(p->said, cli_json_string(text));
    free(text);
}

/* Of an option of its own: a file that the command keeps, or reads, always has a name. */
static bool is_nameless(const struct cli_parser *p, int id)
{
    const struct cli_option *o = p->verb->options;

    if (id < CLI_LONG_ONLY || optarg == NULL || optarg[0] != '\0')
        return false;
    while (o->id != 0 && o->id != id)
        o++;
    if (o->arg == NULL || strcmp(o->arg, "FILE") != 0)
        return false;
    cli_usage_error(p->verb, "--%s takes the name of a file, not ''", o->name);
    return true;
}

static int take_memory(struct cli_parser *p)
{
    if (cli_parse_size(optarg, &p->max_memory) == 0 && p->max_memory > 0)
        return cli_parser_next(p);
    cli_usage_error(p->verb, "--max-memory takes a size, not '%s'", optarg);
    return CLI_ERROR;
}

int cli_parser_next(struct cli_parser *p)
{
    int id = getopt_long(p->argc, p->argv, p->letters, p->longs, NULL);

    p->value = optarg;
    note_said(p, id);
    if (is_nameless(p, id))
        return CLI_ERROR;
    switch (id) {
    case CLI_JOB:
        p->job = optarg;
        return cli_parser_next(p);
    case CLI_IDLE:
        cli_be_idle();
        return cli_parser_next(p);
    case CLI_MAX_MEMORY:
        return take_memory(p);
    case CLI_IMAGE_OPTS:
        p->image_opts = true;
        return cli_parser_next(p);
    case CLI_OBJECT:
        return add_object(optarg) == CLI_OK ? cli_parser_next(p) : CLI_ERROR;
    case -1:
        return CLI_END;
    case 'h':
        cli_print_verb_help(p->verb);
        exit(cli_finish(CLI_OK));
    case ':':
        cli_usage_error(p->verb, "option '%s' needs an argument", p->argv[optind - 1]);
        return CLI_ERROR;
    case '?':
        if (optopt != 0 && optopt < CLI_LONG_ONLY)
            cli_usage_error(p->verb, "no option '-%c'", optopt);
        else
            cli_usage_error(p->verb, "option '%s' is unknown or takes no argument", p->argv[optind - 1]);
        return CLI_ERROR;
    default:
        return id;
    }
}

int cli_operands(const struct cli_parser *p, char ***ret_list)
{
    *ret_list = p->argv + optind;
    return p->argc - optind;
}

static void print_driver_options(const char *driver)
{
    struct vdisk_driver_option o = {.size = sizeof o};

    printf("Options of driver %s:\n", driver);
    for (unsigned i = 0; vdisk_get_driver_option(driver, i, &o) == 0; i++) {
        printf("  %s=<", o.name);
        for (const char *const *c = o.choices; c != NULL && *c != NULL; c++)
            printf("%s%s", c == o.choices ? "" : "|", *c);
        printf("%s> - %s", o.choices != NULL ? "" : o.type, o.help);
        if (o.required)
            printf(" (required)");
        else if (o.fallback != NULL)
            printf(" (default: %s)", o.fallback);
        putchar('\n');
    }
}

/* "help", or "driver=DRIVER,help": false if it is neither. */
static bool print_image_help(const char *text)
{
    struct vdisk_driver_option first = {.size = sizeof first};
    static const char prefix[] = "driver=", suffix[] = ",help";
    size_t len = strlen(text), head = sizeof prefix - 1, tail = sizeof suffix - 1;
    char driver[64];

    if (strcmp(text, "help") == 0) {
        printf("Drivers:\n");
        for (unsigned i = 0; vdisk_driver_name(i) != NULL; i++)
            printf("  %s\n", vdisk_driver_name(i));
        return true;
    }
    if (len <= head + tail || strncmp(text, prefix, head) != 0 || strcmp(text + len - tail, suffix) != 0)
        return false;
    snprintf(driver, sizeof driver, "%.*s", (int)(len - head - tail), text + head);
    if (vdisk_get_driver_option(driver, 0, &first) < 0)
        return false;
    print_driver_options(driver);
    return true;
}

const char *cli_image(const struct cli_parser *p, const char *operand, const char *format)
{
    static const char prefix[] = "image-opts:";
    static char *name;
    size_t len = strlen(operand);

    if (!p->image_opts && cli_is_volume(operand)) {
        free(name);
        return name = cli_volume_name(p->verb, operand, format != NULL ? "-f" : NULL);
    }
    if (!p->image_opts)
        return operand;
    if (format != NULL) {
        cli_usage_error(p->verb, "--image-opts and --format are mutually exclusive");
        return NULL;
    }
    if (print_image_help(operand))
        exit(cli_finish(CLI_OK));
    free(name);
    name = cli_calloc(1, len + sizeof prefix);
    memcpy(name, prefix, sizeof prefix - 1);
    memcpy(name + sizeof prefix - 1, operand, len + 1);
    return name;
}

static void print_option(const struct cli_option *o)
{
    char left[64];
    int n = 0;

    if (o->id < CLI_LONG_ONLY)
        n = snprintf(left, sizeof left, "-%c%s", o->id, o->name != NULL ? ", " : "");
    else
        n = snprintf(left, sizeof left, "    ");
    if (o->name != NULL)
        n += snprintf(left + n, sizeof left - (size_t)n, "--%s", o->name);
    if (o->arg != NULL)
        n += snprintf(left + n, sizeof left - (size_t)n, " %s", o->arg);
    assert((size_t)n < sizeof left);

    const char *line = o->text;
    printf("  %-25s ", left);
    for (const char *end; (end = strchr(line, '\n')) != NULL; line = end + 1)
        printf("%.*s\n%28s", (int)(end - line), line, "");
    printf("%s\n", line);
}

void cli_print_verb_help(const struct cli_verb *verb)
{
    printf("Usage: %s %s %s\n%s\n\nOptions:\n", program, verb->name, verb->usage, verb->summary);
    for (const struct cli_option *o = verb->options; o->id != 0; o++)
        print_option(o);
    print_option(&help_option);
    if (verb->notes != NULL)
        printf("\n%s", verb->notes);
}

int cli_parse_ranged(const struct cli_verb *verb, const char *what, const char *text, uint64_t least,
                     uint64_t most, uint64_t *ret)
{
    int rc = cli_parse_size(text, ret);

    if (rc == -EINVAL && text[0] != '-')
        return cli_usage_error(verb, "Invalid %s specified: '%s'", what, text);
    if (rc < 0 || *ret < least || *ret > most)
        return cli_usage_error(verb, "Invalid %s specified. Must be between %" PRIu64 " and %" PRIu64, what, least,
                               most);
    return CLI_OK;
}

bool cli_parse_output(const struct cli_verb *verb, const char *value, bool *ret_json)
{
    if (strcmp(value, "json") == 0) {
        *ret_json = true;
    } else if (strcmp(value, "human") == 0) {
        *ret_json = false;
    } else {
        cli_usage_error(verb, "--output takes human or json, not '%s'", value);
        return false;
    }
    return true;
}

uint64_t cli_now_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}
