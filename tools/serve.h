/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Verbs that serve volumes to NBD clients, `nbd` and `volume serve`: what they have in common. The server is
 * exports/nbd/; a verb brings its options, and opens what it serves.
 *
 * Order of calls: serve_init(), options by serve_option(), operands, serve_check(), serve_run(). One thread.
 */
#ifndef TOOLS_SERVE_H
#define TOOLS_SERVE_H

#include <pthread.h>

#include "exports/nbd/nbd_export.h"
#include "tools/cli.h"

enum { SERVE_EXPORTS = 256 };

/* Options of all of them, by number; those of a verb's own begin with SERVE_OWN. */
enum serve_option_id {
    SERVE_FORK = CLI_LONG_ONLY + 1,
    SERVE_PID_FILE, SERVE_CACHE, SERVE_AIO, SERVE_DISCARD, SERVE_DETECT_ZEROES, SERVE_THREADS, SERVE_MAX_BYTES,
    SERVE_MAX_REQUESTS, SERVE_HANDSHAKE, SERVE_HANDSHAKE_LIMIT, SERVE_IDLE, SERVE_TLS_CREDS, SERVE_TLS_ALLOW,
    SERVE_OUTPUT,
    SERVE_OWN,
};

#define SERVE_SOCKET_OPTIONS                                                                           \
    {'p', "port", "PORT", "TCP port (10809); 0: one that is free, which is told"},                     \
    {'b', "bind", "ADDRESS", "listen there alone (all addresses)"},                                    \
    {'k', "socket", "PATH", "listen on a unix socket instead"}

#define SERVE_EXPORT_OPTIONS                                                                           \
    {'r', "read-only", NULL, "clients cannot write"},                                                  \
    {'D', "description", "TEXT", "for people; once for all, or once for each"},                        \
    {'o', "offset", "SIZE", "leave out what is before it"},                                            \
    {'A', "allocation-depth", NULL, "as qemu-nbd: accepted, the context is always there"}

#define SERVE_PROCESS_OPTIONS                                                                          \
    {'e', "shared", "N", "clients at a time (1); 0: any number"},                                      \
    {'t', "persistent", NULL, "go on when the last client has gone"},                                  \
    {SERVE_FORK, "fork", NULL, "return when clients can connect; the server goes on by itself"},       \
    {SERVE_PID_FILE, "pid-file", "PATH", "write the server's process id there"},                       \
    {'n', "nocache", NULL, "as --cache=none"},                                                         \
    {SERVE_CACHE, "cache", "MODE", "none (default), writeback, unsafe; writethrough, directsync:\n"    \
                                   "what is written is durable when it is answered"},                  \
    {SERVE_AIO, "aio", "KIND", "as qemu-nbd: threads, native or io_uring (default)"},                  \
    {SERVE_DISCARD, "discard", "HOW", "unmap (default), or ignore: trims do nothing"},                 \
    {SERVE_DETECT_ZEROES, "detect-zeroes", "HOW", "off (default), on: zeros that are written are noted\n" \
                                                  "as such; unmap: and their space is given back"},    \
    {SERVE_THREADS, "threads", "N", "that serve connections (4)"},                                     \
    {SERVE_MAX_BYTES, "max-bytes", "BYTES", "a second, of a connection"},                              \
    {SERVE_MAX_REQUESTS, "max-requests", "N", "a second, of a connection"},                            \
    {SERVE_HANDSHAKE, "handshake-timeout", "SECONDS", "for a client to say what it wants (10)"},       \
    {SERVE_HANDSHAKE_LIMIT, "handshake-limit", "SECONDS", "the same, as qemu-nbd; 0: none"},           \
    {SERVE_IDLE, "idle-timeout", "SECONDS", "cut off who asks for nothing so long (never)"},           \
    {SERVE_TLS_CREDS, "tls-creds", "ID", "in TLS only, by --object tls-creds-x509 or -psk of that id"}, \
    {SERVE_TLS_ALLOW, "tls-allow", "NAME", "only this client: of its certificate (\"CN=host\"), or of its key;\n" \
                                           "may be given several times"},                              \
    {SERVE_OUTPUT, "output", "FORM", "human (default) or json"},                                       \
    {'v', "verbose", NULL, "say where it listens, and at the end what there was"}

/* An option that is given once for all exports, or once for each. */
struct serve_values {
    const char *list[SERVE_EXPORTS];
    int         count;
};

/* What a verb has opened; the server closes it. */
struct serve_opened {
    vdisk *volume;
    char  *name;     /* of the export, unless -x says it; malloc'ed; NULL: "" */
    const char *image, *of_image; /* UUIDs of an image, and of the volume of it; NULL: it is in no domain */
};

struct serve {
    const struct cli_verb *verb;
    struct cli_parser      parser;
    struct nbd_server_opts opts;
    struct nbd_export_opts common; /* what all exports have in common */
    struct vdisk_open_opts how;
    struct serve_values names, descriptions, allowed;
    const char *socket, *port, *address, *pid_file, *tls_creds;
    uint64_t    shared;
    bool        have_cache, native, read_only, persistent, fork, verbose, json;
    bool        tells; /* its addresses, whether asked or not */
    char      **operands;
    int         count; /* of these, and of exports */
    unsigned    got_port;
    int         signal_fd; /* readable: it is told to end */
    int         opened_fd; /* serve_watch_begin(); -1: nobody watches */
    pthread_t   watcher;
    int         ready_fd;  /* to the parent, -1: none */
    struct serve_opened opened[SERVE_EXPORTS];
    struct nbd_server  *server;

    /* Operand i. CLI_OK, or CLI_FAILED: an error was printed; then there is nothing to close. */
    int (*open)(struct serve *s, int i, struct serve_opened *ret);
};

void serve_init(struct serve *s, const struct cli_verb *verb, int argc, char **argv);

/* One that is common. CLI_OK, or CLI_FAILED: an error was printed. */
int serve_option(struct serve *s, int id, const char *value);

/* Of options: the one that is given once for each image, or the one for all; NULL: none. */
int serve_add_value(const struct serve *s, struct serve_values *v, const char *value);
const char *serve_value_of(const struct serve_values *v, int i);

/* All of the options that are common, when the operands are known. */
int serve_check(const struct serve *s);

/* All of it, up to the end. */
int serve_run(struct serve *s);

/* Sleep for so long; true: it is told to end meanwhile. */
bool serve_pause(const struct serve *s, int ms);

/* ---- the process: serve_process.c ------------------------------------------------------------------------ */

/* Sockets that systemd has opened for this process, from SERVE_FIRST_FD on: their number; -1: what it says of it
 * is none. */
enum { SERVE_FIRST_FD = 3 };
int serve_passed_fds(void);

/*
 * Until the end of that a signal is heeded though the command is busy: what it does has SERVE_END_MS to come to
 * its own end; then the process ends as a failed one, with nothing to lose, as nobody is served. CLI_OK or
 * CLI_FAILED.
 */
enum { SERVE_END_MS = 10000 };
int serve_watch_begin(struct serve *s);
void serve_watch_end(struct serve *s); /* no harm without a begin */

/* With --fork: the child goes on, the parent does not return. CLI_OK, or CLI_FAILED. */
int serve_fork(struct serve *s);
int serve_write_pid_file(const struct serve *s);

/* Who forked may go; what was the terminal's is let go of. */
void serve_tell_ready(struct serve *s);

/* ---- what is printed: serve_show.c ----------------------------------------------------------------------- */

/* Where clients find what, and in the end what there was. CLI_OK or CLI_FAILED. */
int serve_show_begin(const struct serve *s);
int serve_show_end(const struct serve *s);

#endif
