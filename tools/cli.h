/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What all verbs of the tool share: the table that options are parsed from and help is printed from (so that help
 * is complete), sizes in every spelling that QEMU takes, -o lists, messages, progress, JSON.
 */
#ifndef TOOLS_CLI_H
#define TOOLS_CLI_H

#include <getopt.h>
#include <jansson.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <vdisk-image.h>

/* Exit codes that more than one verb has. */
enum { CLI_OK = 0, CLI_FAILED = 1, CLI_UNSUPPORTED = 63 };

/* Values of cli_option.id for options without a letter start above this. */
enum { CLI_LONG_ONLY = 256, CLI_END = -1, CLI_ERROR = -2 };

/* Those that the parser sees to itself; verbs list them. */
enum { CLI_IMAGE_OPTS = 512, CLI_OBJECT, CLI_JOB, CLI_IDLE, CLI_MAX_MEMORY };

#define CLI_OBJECT_OPTION                                                                              \
    {CLI_OBJECT, "object", "OBJECT", "secret,id=ID,file=PATH (or data=TEXT), format=raw or base64:\n" \
                                     "a secret that options refer to by its id; or for TLS\n"         \
                                     "tls-creds-x509,id=ID,dir=FOLDER, or tls-creds-psk"}
#define CLI_IMAGE_OPTIONS                                                                              \
    {CLI_IMAGE_OPTS, "image-opts", NULL, "NAME is KEY=VALUE,...: drivers, their options, children;\n" \
                                         "help, or driver=DRIVER,help, lists them"},                   \
    CLI_OBJECT_OPTION

#define CLI_JOB_OPTION                                                                                 \
    {CLI_JOB, "job", "FILE", "keep in FILE how far it has come: interrupted, killed, or failed, the same\n" \
                             "command goes on there"}
#define CLI_BULK_OPTIONS                                                                               \
    {CLI_IDLE, "idle", NULL, "take I/O and processors only where nobody else wants them"},             \
    {CLI_MAX_MEMORY, "max-memory", "SIZE", "for buffers and caches together; default 256M"}

/* One option. A table ends with id 0. */
struct cli_option {
    int         id;   /* the letter, or a number above CLI_LONG_ONLY */
    const char *name; /* long name, or NULL */
    const char *arg;  /* what its argument is called, or NULL: takes none */
    const char *text; /* for help; lines are separated by \n */
};

struct cli_verb {
    const char              *name;
    const char              *summary; /* one line */
    const char              *usage;   /* what follows "vdisk-io VERB " */
    const struct cli_option *options;
    const char              *notes;   /* printed after the options, or NULL */
    const struct cli_verb   *action;  /* one of its actions that has options of its own, "VERB ACTION", or NULL */
    int (*run)(const struct cli_verb *verb, int argc, char **argv);
};

/* All of them, then NULL. */
extern const struct cli_verb *const cli_verbs[];

extern const struct cli_verb cli_create, cli_info, cli_map, cli_check, cli_resize, cli_convert, cli_compare,
    cli_dd, cli_measure, cli_commit, cli_rebase, cli_amend, cli_checksum, cli_snapshot, cli_bitmap, cli_job,
    cli_io, cli_bench, cli_domain, cli_image_verb, cli_volume, cli_volume_serve, cli_lv, cli_nbd;

/* Called as qemu-img, by a link: messages have that name, and bench is QEMU's. */
void cli_be_qemu_img(void);
bool cli_is_qemu_img(void);
const char *cli_program(void);

/* ---- messages: to stderr, one line, prefixed with the program's name ------------------------------- */

void cli_error(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
#define cli_note(...) cli_error(__VA_ARGS__) /* the same, of what is no error */
void cli_warn(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* Likewise, that there is no memory left, and what to do. */
void cli_no_memory(void);

/* The library's error of this thread, and its hint on a line of its own. Returns CLI_FAILED. */
int cli_library_error(void);

/* A wrong command line: the text and where to look, in one line. Returns CLI_FAILED. */
int cli_usage_error(const struct cli_verb *verb, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/*
 * End the program as it is: requests are in flight for good, so that neither a queue nor a volume, nor its domain,
 * can be closed. Their locks go with the process.
 */
void cli_abandon(void) __attribute__((noreturn));

/* Flush stdout; what could not be written (a full disk, a closed pipe) turns success into CLI_FAILED. */
int cli_finish(int exit_code);

/* ---- options --------------------------------------------------------------------------------------- */

struct cli_parser {
    const struct cli_verb *verb;
    int                    argc;
    char                 **argv;
    char                  *value;      /* of the option just returned */
    bool                   image_opts; /* names are lists of options */
    const char            *job;        /* --job, or NULL */
    uint64_t               max_memory; /* --max-memory, or 0 */
    json_t                *said;       /* options that change what comes out, each as one text */
    struct option          longs[48];
    char                   letters[96];
};

/* argv[0] is the verb. Options may follow operands. */
void cli_parser_init(struct cli_parser *p, const struct cli_verb *verb, int argc, char **argv);

/* The next option's id; CLI_END: operands are at argv[optind..argc); CLI_ERROR: said so already. */
int cli_parser_next(struct cli_parser *p);

/* The operands left, and their number. */
int cli_operands(const struct cli_parser *p, char ***ret_list);

/*
 * An operand as a name for vdisk_open(), by --image-opts or as a volume's name, which exclude a `format`; lives as
 * long as the program or until the next call. NULL: an error was printed. Where help is asked for in it, prints
 * that and ends the program.
 */
const char *cli_image(const struct cli_parser *p, const char *operand, const char *format);

/*
 * "volume:DOMAIN/IMAGE[/VOLUME]": is it one; is it one that the verb does not take, which was told then; and what
 * to give to vdisk_open() in its place, to be freed, or its path and format. NULL: an error was printed. `option`:
 * the one that has given a format, or NULL. Until the program ends no operation changes what the image's volumes
 * hold.
 */
bool cli_is_volume(const char *operand);
bool cli_refuses_volume(const struct cli_verb *verb, const char *operand);
char *cli_volume_name(const struct cli_verb *verb, const char *operand, const char *option);
char *cli_volume_path(const char *operand, const char **ret_format);

/*
 * The same as its domain is told to open it (tools/domain/domain.h); both live as long as the program. 0, or
 * -errno with vdisk_error_text().
 */
struct domain_use;
struct domain_use_opts;
int cli_volume_use(const char *operand, const struct domain_use_opts *o, const char **ret_name,
                   struct domain_use **ret_use);

/* A name that cli_volume_name() gave as it was given to that; others as they are. And a text with such names. */
const char *cli_given_name(const char *name);
void cli_put_given(FILE *f, const char *text);

/* vdisk_open(); a volume of a domain, by the name that one of these gave, grows if it is to. */
int cli_open(const char *name, const struct vdisk_open_opts *how, vdisk **ret);

/* Print the verb's help to stdout. */
void cli_print_verb_help(const struct cli_verb *verb);

/* "human" or "json"; false: an error was printed. */
bool cli_parse_output(const struct cli_verb *verb, const char *value, bool *ret_json);

/* ---- values ---------------------------------------------------------------------------------------- */

/*
 * A size as QEMU reads it: decimal with an optional fraction, or 0x hex; suffix b, K, M, G, T, P, E in either case
 * (b and e are digits in hex). A fraction needs a suffix of K or more and is cut to whole bytes. 0, -EINVAL, or
 * -ERANGE (2^64 or more).
 */
int cli_parse_size(const char *text, uint64_t *ret);

/* As above, no suffix, decimal, 0x hex or 0 octal, up to `max`. */
int cli_parse_number(const char *text, uint64_t max, uint64_t *ret);

/* A size within a range, or CLI_FAILED with a message in QEMU's words: "Invalid WHAT specified...". */
int cli_parse_ranged(const struct cli_verb *verb, const char *what, const char *text, uint64_t least,
                     uint64_t most, uint64_t *ret);

/* on, off, yes, no, true, false, y, n. */
int cli_parse_bool(const char *text, bool *ret);

/* "1.5 GiB", three significant digits. Returns `buf`. */
char *cli_format_size(uint64_t bytes, char *buf, size_t len);

/* Control characters become '?': names out of an image go to people's terminals. Returns `text`, changed. */
char *cli_printable(char *text);

/* ---- -o key=value,... ------------------------------------------------------------------------------ */

struct cli_pair {
    char *key;
    char *value; /* NULL: none was given */
};

struct cli_pairs {
    struct cli_pair *list;
    size_t           count;
};

/* Append what `text` says; ",," in a value is one comma. 0, -EINVAL (empty key), -ENOMEM. */
int cli_pairs_add(struct cli_pairs *pairs, const char *text);
void cli_pairs_free(struct cli_pairs *pairs);

/* ---- progress and JSON ----------------------------------------------------------------------------- */

/*
 * On stdout, as a rule, at most 10 times a second: "    (12.34/100%)\r", or, on a terminal, bytes, rate and time
 * left. After SIGUSR1 (which cli_job_run() looks for) once, whether it is enabled or not. A vdisk_progress_fn;
 * `arg`: a struct cli_progress.
 */
struct cli_progress {
    bool     enabled;
    bool     to_stderr;    /* stdout is for other things */
    uint64_t last_ms;
    int      last_percent; /* in hundredths */
    uint64_t done, total;  /* as it was last */
    uint64_t begun_ms, begun_done;
    unsigned width;        /* characters of the last line on a terminal */
};

int cli_progress_show(void *arg, uint64_t done, uint64_t total);

/* vdisk_job_run(); SIGINT and SIGTERM cancel it meanwhile, a second one ends the program. Does not free it. */
int cli_job_run(vdisk_job *job);

/* Has one of those come? */
bool cli_is_told_to_end(void);

/* A signal that ends a command has come, and waits for cli_job_run(): job_file_begin(). */
bool cli_end_is_waiting(void);

/* Has SIGUSR1 come since the last call? */
bool cli_is_asked(void);

/* What one job may take of --max-memory. */
struct cli_memory {
    uint64_t buffers; /* memory_max of the job */
    uint64_t cache;   /* cache_bytes of each volume opened */
};

/*
 * Shared out: `layers` are those of all chains, `written` how many of them are written to; the job takes `buffers`
 * if it is not told otherwise, and cannot do with less than `least`. CLI_OK, or CLI_FAILED: told.
 */
int cli_memory_share(const struct cli_parser *p, unsigned layers, unsigned written, uint64_t buffers,
                     uint64_t least, struct cli_memory *ret);

/*
 * Look at each layer of an image's chain, from the top down, as far as they can be: how many there are. `look` may
 * be NULL.
 */
typedef void cli_layer_fn(void *arg, const struct vdisk_image_info *info);
unsigned cli_each_layer(const char *name, const char *format, cli_layer_fn *look, void *arg);

/* How many; what cannot be looked at counts for one. */
unsigned cli_count_layers(const char *name, const char *format);

/* --idle, for the whole process. */
void cli_be_idle(void);

/*
 * The signals that end a command, which a job makes an error of. The last one is that of 'job cancel': it counts
 * although those who started the command had it, and the others, ignored.
 */
enum { CLI_ENDS = 4, CLI_CANCEL = SIGUSR2 };

extern const int cli_end_signals[CLI_ENDS];

void cli_ends(sigset_t *ret);

/* Print 100 %; and end the line. */
void cli_progress_whole(struct cli_progress *p);
void cli_progress_end(struct cli_progress *p);

/* A JSON string of bytes that need not be valid UTF-8 (what is not becomes U+FFFD). */
json_t *cli_json_string(const char *text);

/* Print with QEMU's layout and free. CLI_OK or CLI_FAILED. */
int cli_json_print(json_t *json);

/* ---- names ----------------------------------------------------------------------------------------- */

/* `backing` as seen from the directory of the image `image`. malloc'ed; NULL: out of memory. */
char *cli_backing_path(const char *image, const char *backing);

/* strdup that ends the program when memory is not to be had: for command lines and names. */
char *cli_strdup(const char *text);
void *cli_calloc(size_t n, size_t size);

/* Monotonic nanoseconds. */
uint64_t cli_now_ns(void);

#endif
