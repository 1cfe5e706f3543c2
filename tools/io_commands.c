/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The commands of `vdisk-io io`.
 *
 * A line becomes a request: parsed in full, then enqueued, then awaited unless -a was given. Requests in flight
 * are ended by whichever command waits next; at the latest by closing.
 */
#include "tools/io_commands.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "tools/arith.h"
#include "tools/cli.h"

enum { MAX_WORDS = 32, DEFAULT_PATTERN = 0xcd, NO_PATTERN = -1 };

/* One buffer holds a request: keep what a typing error can ask for within reason. qemu-io's limit. */
#define MAX_LENGTH (UINT64_C(0x7fffffff) & ~UINT64_C(511))

enum verb { VERB_READ, VERB_WRITE, VERB_ZERO, VERB_DISCARD, VERB_FLUSH };

struct request {
    enum verb verb;
    uint64_t  offset, len;
    int       pattern;              /* NO_PATTERN, or a byte: written, or expected */
    uint64_t  verify_skip, verify_len;
    uint32_t  flags;                /* enum vdisk_req_flags */
    bool      quiet, dump, no_wait, have_pattern;
    uint8_t  *buf;
    uint64_t  start_ns;
    const char *failing;            /* what it is called when it fails */
};

struct command {
    const char *name, *alias;
    enum verb   verb;
    const char *letters; /* options, as getopt has them */
    int         pattern; /* default */
    bool        range;   /* takes OFFSET and LENGTH */
    void (*run)(struct io_session *s, const struct command *c, int argc, char **argv);
};

static void fail(struct io_session *s, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

static void fail(struct io_session *s, const char *fmt, ...)
{
    char text[512];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    cli_error("%s: %s", s->name, text);
    s->failed = true;
}

/* ---- reports --------------------------------------------------------------------------------------- */

/* As qemu-io: up to three decimals, none that are zero. */
static const char *format_amount(double bytes, char *buf, size_t room)
{
    static const char *const units[] = {"bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    size_t unit = 0;

    while (bytes >= 1024.0 && unit + 1 < ARRAY_LEN(units)) {
        bytes /= 1024.0;
        unit++;
    }
    int n = snprintf(buf, room, "%.3f", bytes);
    if (n > 4 && strcmp(buf + n - 4, ".000") == 0)
        n -= 4;
    snprintf(buf + n, room - (size_t)n, " %s", units[unit]);
    return buf;
}

static void report(const struct request *r)
{
    static const char *const words[] = {
        [VERB_READ] = "read", [VERB_WRITE] = "wrote", [VERB_ZERO] = "wrote", [VERB_DISCARD] = "discard",
        [VERB_FLUSH] = "flush",
    };
    double seconds = (double)(cli_now_ns() - r->start_ns) / 1e9;
    char amount[32], rate[32];

    if (r->quiet || r->verb == VERB_FLUSH)
        return;
    if (seconds <= 0)
        seconds = 1e-9;
    printf("%s %" PRIu64 "/%" PRIu64 " bytes at offset %" PRIu64 "\n", words[r->verb], r->len, r->len, r->offset);
    printf("%s, 1 ops; %05.2f sec (%s/sec and %.4f ops/sec)\n",
           format_amount((double)r->len, amount, sizeof amount), seconds,
           format_amount((double)r->len / seconds, rate, sizeof rate), 1.0 / seconds);
}

static void dump(const struct request *r)
{
    for (uint64_t at = 0; at < r->len; at += 16) {
        uint64_t n = min_u64(16, r->len - at);

        printf("%08" PRIx64 ": ", r->offset + at);
        for (uint64_t i = 0; i < n; i++)
            printf(" %02x", r->buf[at + i]);
        printf("  ");
        for (uint64_t i = 0; i < n; i++) {
            uint8_t c = r->buf[at + i];
            putchar(c >= 0x20 && c < 0x7f ? c : '.');
        }
        putchar('\n');
    }
}

/* The first byte of [p, p+len) that is not `byte`; `len` when there is none. */
static uint64_t find_other(const uint8_t *p, uint64_t len, uint8_t byte)
{
    if (len == 0 || p[0] != byte)
        return 0;
    if (memcmp(p, p + 1, len - 1) == 0) /* each equals the one before */
        return len;
    uint64_t i = 1;
    while (p[i] == byte)
        i++;
    return i;
}

static void verify(struct io_session *s, const struct request *r)
{
    const uint8_t *p = r->buf + r->verify_skip;
    uint64_t at = find_other(p, r->verify_len, (uint8_t)r->pattern);

    if (at == r->verify_len)
        return;
    printf("Pattern verification failed at offset %" PRIu64 ", %" PRIu64 " bytes\n", r->offset + r->verify_skip,
           r->verify_len);
    fail(s, "byte at offset %" PRIu64 " is 0x%02x, expected 0x%02x", r->offset + r->verify_skip + at, p[at],
         (unsigned)r->pattern);
}

static bool is_past_end(const struct io_session *s, const struct request *r)
{
    uint64_t size = vdisk_size(s->volume);

    return r->offset > size || r->len > size - r->offset;
}

/* qemu-io's line on standard output, but for a journal, which has one of its own; what else is known on stderr. */
static void request_failed(struct io_session *s, const struct request *r, int error)
{
    bool past_end = error == EINVAL && is_past_end(s, r);
    struct vdisk_info info = {.size = sizeof info};
    char why[256];

    if (!s->echo)
        printf("%s failed: %s\n", r->failing, strerror(past_end ? EIO : error));
    if (past_end)
        snprintf(why, sizeof why, "past the end, which is at %" PRIu64, vdisk_size(s->volume));
    else if (error == EIO && vdisk_get_info(s->volume, &info) == 0 && info.trouble)
        snprintf(why, sizeof why, "%s", info.trouble);
    else
        snprintf(why, sizeof why, "%s", strerror(error));
    fail(s, "%s failed at offset %" PRIu64 ", %" PRIu64 " bytes: %s", r->failing, r->offset, r->len, why);
}

static void finish(struct io_session *s, struct request *r, int result)
{
    if (result < 0) {
        request_failed(s, r, -result);
    } else {
        if (r->verb == VERB_READ && r->pattern != NO_PATTERN)
            verify(s, r);
        if (r->dump)
            dump(r);
        report(r);
    }
    free(r->buf);
    free(r);
}

/* ---- requests -------------------------------------------------------------------------------------- */

static void reap(struct io_session *s)
{
    struct vdisk_completion done[16];

    while (vdisk_queue_inflight(s->queue) > 0) {
        int n = vdisk_reap(s->queue, done, 1, ARRAY_LEN(done), NULL);
        if (n == -EINTR)
            continue;
        if (n < 0) {
            fail(s, "queue: %s", strerror(-n));
            cli_abandon(); /* buffers are still the kernel's */
        }
        for (int i = 0; i < n; i++)
            finish(s, (struct request *)(uintptr_t)done[i].user_data, done[i].result);
    }
}

static void enqueue(struct io_session *s, struct request *r)
{
    uint64_t tag = (uintptr_t)r;

    r->start_ns = cli_now_ns();
    switch (r->verb) {
    case VERB_READ: vdisk_read(s->queue, s->volume, r->offset, r->buf, r->len, r->flags, tag); break;
    case VERB_WRITE: vdisk_write(s->queue, s->volume, r->offset, r->buf, r->len, r->flags, tag); break;
    case VERB_ZERO: vdisk_write_zeroes(s->queue, s->volume, r->offset, r->len, r->flags, tag); break;
    case VERB_DISCARD: vdisk_discard(s->queue, s->volume, r->offset, r->len, r->flags, tag); break;
    case VERB_FLUSH: vdisk_flush(s->queue, s->volume, r->flags, tag); break;
    }
    if (!r->no_wait)
        reap(s);
    else if (vdisk_submit(s->queue) < 0)
        fail(s, "submit failed");
}

static int prepare_buffer(struct io_session *s, struct request *r)
{
    if (r->verb != VERB_READ && r->verb != VERB_WRITE)
        return 0;
    if (r->len > MAX_LENGTH) {
        fail(s, "a length of %" PRIu64 " bytes is too much for one command; at most %" PRIu64, r->len, MAX_LENGTH);
        return -1;
    }
    r->buf = vdisk_alloc_buffer(max_u64(r->len, 1));
    if (r->buf == NULL) {
        fail(s, "no memory for a buffer of %" PRIu64 " bytes", r->len);
        return -1;
    }
    /* What a read leaves untouched should show. */
    memset(r->buf, r->verb == VERB_WRITE ? r->pattern : 0xab, r->len);
    return 0;
}

/* ---- parsing --------------------------------------------------------------------------------------- */

static int parse_size(struct io_session *s, const char *command, const char *text, uint64_t *ret)
{
    if (cli_parse_size(text, ret) == 0)
        return 0;
    fail(s, "%s: '%s' is not an offset or a length", command, text);
    return -1;
}

static int parse_letter(struct io_session *s, struct request *r, const char *command, int letter, bool *ret_len)
{
    uint64_t number;

    switch (letter) {
    case 'a': r->no_wait = true; return 0;
    case 'c': r->flags |= VDISK_REQ_COMPRESSED; return 0;
    case 'f': r->flags |= VDISK_REQ_FUA; return 0;
    case 'u': r->flags |= VDISK_REQ_UNMAP; return 0;
    case 'q': r->quiet = true; return 0;
    case 'v': r->dump = true; return 0;
    case 'z': r->verb = VERB_ZERO; return 0;
    case 's': return parse_size(s, command, optarg, &r->verify_skip);
    case 'l': *ret_len = true; return parse_size(s, command, optarg, &r->verify_len);
    case 'P':
        if (cli_parse_number(optarg, 0xff, &number) < 0) {
            fail(s, "%s: '%s' is not a byte (0 to 255)", command, optarg);
            return -1;
        }
        r->pattern = (int)number;
        r->have_pattern = true;
        return 0;
    default:
        fail(s, letter == ':' ? "%s: option -%c needs an argument" : "%s: no option -%c", command, optopt);
        return -1;
    }
}

static int parse_request(struct io_session *s, const struct command *c, struct request *r, int argc, char **argv)
{
    bool have_len = false;
    int operands = c->range ? 2 : 0;

    optind = 0;
    for (int letter; (letter = getopt(argc, argv, c->letters)) != -1;) {
        if (parse_letter(s, r, c->name, letter, &have_len) < 0)
            return -1;
    }
    if (argc - optind != operands) {
        fail(s, "%s takes %s; see help", c->name, operands == 2 ? "OFFSET and LENGTH" : "no arguments");
        return -1;
    }
    if (operands == 2 && (parse_size(s, c->name, argv[optind], &r->offset) < 0 ||
                          parse_size(s, c->name, argv[optind + 1], &r->len) < 0))
        return -1;
    if ((r->flags & VDISK_REQ_UNMAP) && r->verb == VERB_WRITE) {
        fail(s, "%s: -u needs -z", c->name);
        return -1;
    }
    if (r->verb == VERB_ZERO && r->flags & VDISK_REQ_COMPRESSED) {
        fail(s, "%s: only one of -z and -c", c->name);
        return -1;
    }
    if (r->verb == VERB_ZERO && r->have_pattern) {
        fail(s, "%s: only one of -z and -P", c->name);
        return -1;
    }
    if (!have_len)
        r->verify_len = r->len - min_u64(r->len, r->verify_skip);
    if (r->verify_skip > r->len || r->verify_len > r->len - r->verify_skip) {
        fail(s, "%s: -s and -l reach past the range that is read", c->name);
        return -1;
    }
    return prepare_buffer(s, r);
}

static void run_request(struct io_session *s, const struct command *c, int argc, char **argv)
{
    struct request *r = cli_calloc(1, sizeof *r);

    r->verb = c->verb;
    r->failing = strcmp(c->name, "verify") == 0 ? "read" : c->name;
    r->pattern = c->pattern;
    r->quiet = s->quiet;
    if (parse_request(s, c, r, argc, argv) < 0) {
        free(r->buf);
        free(r);
        return;
    }
    enqueue(s, r);
}

/* ---- the other commands ---------------------------------------------------------------------------- */

static void run_wait(struct io_session *s, const struct command *c, int argc, char **argv)
{
    reap(s);
}

static void run_length(struct io_session *s, const struct command *c, int argc, char **argv)
{
    printf("%" PRIu64 "\n", vdisk_size(s->volume));
}

static void run_sleep(struct io_session *s, const struct command *c, int argc, char **argv)
{
    uint64_t ms;

    if (argc != 2 || cli_parse_number(argv[1], 1000000, &ms) < 0) {
        fail(s, "sleep takes a number of milliseconds");
        return;
    }
    fflush(stdout);
    struct timespec ts = {(time_t)(ms / 1000), (long)(ms % 1000) * 1000000};
    while (nanosleep(&ts, &ts) < 0 && errno == EINTR)
        ;
}

static void run_help(struct io_session *s, const struct command *c, int argc, char **argv)
{
    fputs(IO_COMMANDS_HELP, stdout);
}

static void run_quit(struct io_session *s, const struct command *c, int argc, char **argv)
{
    s->quit = true;
}

static const struct command commands[] = {
    {"read", "r", VERB_READ, "+:P:s:l:aqv", NO_PATTERN, true, run_request},
    {"write", "w", VERB_WRITE, "+:P:acfquz", DEFAULT_PATTERN, true, run_request},
    {"verify", NULL, VERB_READ, "+:P:aq", DEFAULT_PATTERN, true, run_request},
    {"zero", "z", VERB_ZERO, "+:afqu", NO_PATTERN, true, run_request},
    {"discard", "d", VERB_DISCARD, "+:aq", NO_PATTERN, true, run_request},
    {"flush", "f", VERB_FLUSH, "+:aq", NO_PATTERN, false, run_request},
    {"wait", NULL, VERB_FLUSH, "", NO_PATTERN, false, run_wait},
    {"length", "l", VERB_FLUSH, "", NO_PATTERN, false, run_length},
    {"sleep", NULL, VERB_FLUSH, "", NO_PATTERN, false, run_sleep},
    {"help", "?", VERB_FLUSH, "", NO_PATTERN, false, run_help},
    {"quit", "q", VERB_FLUSH, "", NO_PATTERN, false, run_quit},
};

static const struct command *find_command(const char *word)
{
    for (size_t i = 0; i < ARRAY_LEN(commands); i++) {
        const struct command *c = &commands[i];
        if (strcmp(word, c->name) == 0 || (c->alias != NULL && strcmp(word, c->alias) == 0))
            return c;
    }
    return NULL;
}

static void run_line(struct io_session *s, const char *line)
{
    char *copy = cli_strdup(line), *rest = copy;
    char *words[MAX_WORDS + 1];
    int n = 0;

    for (char *word; n < MAX_WORDS && (word = strsep(&rest, " \t\r\n")) != NULL;) {
        if (word[0] != '\0')
            words[n++] = word;
    }
    words[n] = NULL;
    if (n > 0 && words[0][0] != '#') {
        const struct command *c = find_command(words[0]);
        if (n == MAX_WORDS)
            fail(s, "command '%s' has too many words", words[0]);
        else if (c == NULL)
            fail(s, "no command '%s'; see help", words[0]);
        else
            c->run(s, c, n, words);
    }
    free(copy);
}

void io_session_run(struct io_session *s, const char *line)
{
    bool failed_before = s->failed;

    s->failed = false;
    run_line(s, line);
    if (s->echo) {
        printf("%s: %.*s\n", s->failed ? "failed" : "done", (int)strcspn(line, "\r\n"), line);
        fflush(stdout);
    }
    s->failed |= failed_before;
}

/* ---- life ------------------------------------------------------------------------------------------ */

int io_session_open(struct io_session *s, const char *name, const struct vdisk_open_opts *how, bool quiet)
{
    struct vdisk_queue_opts queue = {.size = sizeof queue};

    *s = (struct io_session){.name = name, .quiet = quiet};
    if (vdisk_queue_create(&queue, &s->queue) < 0) {
        cli_library_error();
        return -1;
    }
    if (cli_open(name, how, &s->volume) < 0) {
        cli_library_error();
        vdisk_queue_destroy(s->queue);
        return -1;
    }
    return 0;
}

int io_session_close(struct io_session *s)
{
    reap(s);
    vdisk_queue_destroy(s->queue);
    if (vdisk_close(s->volume) < 0) {
        cli_library_error();
        s->failed = true;
    }
    return s->failed ? -1 : 0;
}
