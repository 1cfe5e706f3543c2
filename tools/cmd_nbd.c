/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * nbd: serve volumes to NBD clients, as qemu-nbd. The server is exports/nbd/; here are its options, the
 * volumes, the process around it.
 *
 * Happy path: with --fork a child does all the rest, since nothing that is open survives a fork; volumes are
 * opened, sockets are listened on, the child says that it is ready; then a signal, or the last client's end, is
 * waited for, and what is in flight is finished.
 * Failures: until it is ready an error is the command's, also with --fork. Later only what closing a volume gives.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "exports/nbd/nbd_export.h"
#include "tools/arith.h"
#include "tools/cli.h"
#include "tools/target.h"

enum { MAX_EXPORTS = 256, FIRST_PASSED_FD = 3, MAX_PASSED_FDS = 64 };

/* An option that is given once for all exports, or once for each. */
struct values {
    const char *list[MAX_EXPORTS];
    int         count;
};

struct nbd {
    const struct cli_verb *verb;
    struct cli_parser      parser;
    struct nbd_server_opts opts;
    struct vdisk_open_opts how;
    struct values names, descriptions, formats, allowed;
    const char *socket, *port, *address, *pid_file, *tls_creds;
    uint64_t    shared;
    bool        have_cache, durable, read_only, persistent, fork, verbose;
    char      **images;
    int         count;
    vdisk      *volumes[MAX_EXPORTS];
    struct nbd_server *server;
    int         ready_fd; /* to the parent, -1: none */
};

enum {
    OPT_FORK = CLI_LONG_ONLY + 1, OPT_PID_FILE, OPT_CACHE, OPT_THREADS, OPT_MAX_BYTES, OPT_MAX_REQUESTS,
    OPT_HANDSHAKE, OPT_IDLE, OPT_TLS_CREDS, OPT_TLS_ALLOW,
};

static const struct cli_option options[] = {
    {'p', "port", "PORT", "TCP port (10809); 0: one that is free, which is told"},
    {'b', "bind", "ADDRESS", "listen there alone (all addresses)"},
    {'k', "socket", "PATH", "listen on a unix socket instead"},
    {'f', "format", "FMT", "raw or qcow2; otherwise found from the content.\n"
                           "Once for all images, or once for each, in their order"},
    {'r', "read-only", NULL, "clients cannot write"},
    {'x', "export-name", "NAME", "what clients ask for (\"\"); once for each image"},
    {'D', "description", "TEXT", "for people; once for all images, or once for each"},
    {'e', "shared", "N", "clients at a time (1); 0: any number"},
    {'t', "persistent", NULL, "go on when the last client has gone"},
    {OPT_FORK, "fork", NULL, "return when clients can connect; the server goes on by itself"},
    {OPT_PID_FILE, "pid-file", "PATH", "write the server's process id there"},
    {'n', "nocache", NULL, "as --cache=none"},
    {OPT_CACHE, "cache", "MODE", "none (default), writeback, unsafe; writethrough, directsync:\n"
                               "what is written is durable when it is answered"},
    {'A', "allocation-depth", NULL, "as qemu-nbd: accepted, the context is always there"},
    {OPT_THREADS, "threads", "N", "that serve connections (processors, 4 at most)"},
    {OPT_MAX_BYTES, "max-bytes", "BYTES", "a second, of a connection"},
    {OPT_MAX_REQUESTS, "max-requests", "N", "a second, of a connection"},
    {OPT_HANDSHAKE, "handshake-timeout", "SECONDS", "for a client to say what it wants (10)"},
    {OPT_IDLE, "idle-timeout", "SECONDS", "cut off who asks for nothing so long (never)"},
    {OPT_TLS_CREDS, "tls-creds", "ID", "serve in TLS only, by --object tls-creds-x509 or -psk of that id"},
    {OPT_TLS_ALLOW, "tls-allow", "NAME", "only this client: of its certificate (\"CN=host\"), or of its key;\n"
                                       "may be given several times"},
    {'v', "verbose", NULL, "say where it listens, and at the end what there was"},
    CLI_IMAGE_OPTIONS,
    {0, NULL, NULL, NULL},
};

/* ---- options -------------------------------------------------------------------------------------------- */

static int add_value(const struct nbd *n, struct values *v, const char *value)
{
    if (v->count == MAX_EXPORTS)
        return cli_usage_error(n->verb, "there are at most %d exports", MAX_EXPORTS);
    v->list[v->count++] = value;
    return CLI_OK;
}

static const char *value_of(const struct values *v, int i)
{
    return v->count == 0 ? NULL : v->list[v->count == 1 ? 0 : i];
}

static int parse_seconds(const struct nbd *n, const char *what, const char *value, unsigned *ret_ms)
{
    uint64_t s;
    int rc = cli_parse_ranged(n->verb, what, value, 1, 86400, &s);

    if (rc == CLI_OK)
        *ret_ms = (unsigned)s * 1000;
    return rc;
}

static int parse_limit(struct nbd *n, int id, const char *value)
{
    uint64_t number;

    switch (id) {
    case 'e':
        return cli_parse_ranged(n->verb, "number of clients", value, 0, 65536, &n->shared);
    case OPT_THREADS:
        if (cli_parse_ranged(n->verb, "number of threads", value, 1, 64, &number) != CLI_OK)
            return CLI_FAILED;
        n->opts.threads = (unsigned)number;
        return CLI_OK;
    case OPT_MAX_BYTES:
        return cli_parse_ranged(n->verb, "rate", value, 1, INT64_MAX, &n->opts.bytes_per_s);
    case OPT_MAX_REQUESTS:
        return cli_parse_ranged(n->verb, "rate", value, 1, 1000000000, &n->opts.requests_per_s);
    case OPT_HANDSHAKE:
        return parse_seconds(n, "time", value, &n->opts.handshake_ms);
    default:
        return parse_seconds(n, "time", value, &n->opts.idle_ms);
    }
}

static int set_cache(struct nbd *n, const char *mode)
{
    uint32_t flags;

    if (n->have_cache)
        return cli_usage_error(n->verb, "-n and --cache can only be specified once");
    if (!target_cache_flags(mode, &flags))
        return cli_usage_error(n->verb, "Invalid cache mode '%s'", mode);
    n->have_cache = true;
    n->durable = strcmp(mode, "writethrough") == 0 || strcmp(mode, "directsync") == 0;
    n->how.flags |= flags;
    return CLI_OK;
}

static int parse_option(struct nbd *n, int id, const char *value)
{
    switch (id) {
    case 'p': n->port = value; return CLI_OK;
    case 'b': n->address = value; return CLI_OK;
    case 'k': n->socket = value; return CLI_OK;
    case 'f': return add_value(n, &n->formats, value);
    case 'r': n->read_only = true; return CLI_OK;
    case 'x': return add_value(n, &n->names, value);
    case 'D': return add_value(n, &n->descriptions, value);
    case 't': n->persistent = true; return CLI_OK;
    case OPT_FORK: n->fork = true; return CLI_OK;
    case OPT_PID_FILE: n->pid_file = value; return CLI_OK;
    case 'n': return set_cache(n, "none");
    case OPT_CACHE: return set_cache(n, value);
    case 'A': return CLI_OK;
    case OPT_TLS_CREDS: n->tls_creds = value; return CLI_OK;
    case OPT_TLS_ALLOW: return add_value(n, &n->allowed, value);
    case 'v': n->verbose = true; return CLI_OK;
    case CLI_ERROR: return CLI_FAILED;
    default: return parse_limit(n, id, value);
    }
}

static int check_options(const struct nbd *n)
{
    if (n->count < 1 || n->count > MAX_EXPORTS)
        return cli_usage_error(n->verb, "takes the names of 1 to %d images", MAX_EXPORTS);
    if (n->count > 1 && n->names.count != n->count)
        return cli_usage_error(n->verb, "needs --export-name for each of several images");
    if (n->count == 1 && n->names.count > 1)
        return cli_usage_error(n->verb, "--export-name is given once for each image");
    if ((n->descriptions.count > 1 && n->descriptions.count != n->count) ||
        (n->formats.count > 1 && n->formats.count != n->count))
        return cli_usage_error(n->verb, "--format and --description are given once, or once for each image");
    if (n->allowed.count > 0 && !n->tls_creds)
        return cli_usage_error(n->verb, "--tls-allow is for --tls-creds");
    if (n->socket && (n->port || n->address))
        return cli_usage_error(n->verb, "--socket excludes --port and --bind");
    return CLI_OK;
}

static int parse(struct nbd *n, int argc, char **argv)
{
    cli_parser_init(&n->parser, n->verb, argc, argv);
    for (int id; (id = cli_parser_next(&n->parser)) != CLI_END;)
        if (parse_option(n, id, n->parser.value) != CLI_OK)
            return CLI_FAILED;
    n->count = cli_operands(&n->parser, &n->images);
    return check_options(n);
}

/* ---- the process ---------------------------------------------------------------------------------------- */

/* Sockets that systemd has opened for this process: their number. */
static int passed_fds(void)
{
    const char *pid = getenv("LISTEN_PID"), *fds = getenv("LISTEN_FDS");
    uint64_t number;

    if (!pid || !fds || cli_parse_number(pid, INT32_MAX, &number) < 0 || (pid_t)number != getpid() ||
        cli_parse_number(fds, MAX_PASSED_FDS, &number) < 0)
        return 0;
    return (int)number;
}

/*
 * In the child: go on, with a descriptor to tell the parent. In the parent: wait for it, and end as it says; its
 * messages are on stderr by then.
 */
static int fork_server(struct nbd *n)
{
    int fds[2];
    char ok;

    if (pipe2(fds, O_CLOEXEC) < 0) {
        cli_error("no pipe: %s", strerror(errno));
        return CLI_FAILED;
    }
    pid_t pid = fork();
    if (pid < 0) {
        cli_error("no process: %s", strerror(errno));
        return CLI_FAILED;
    }
    if (pid == 0) {
        close(fds[0]);
        setsid();
        n->ready_fd = fds[1];
        return CLI_OK;
    }
    close(fds[1]);
    ssize_t got;
    do
        got = read(fds[0], &ok, 1);
    while (got < 0 && errno == EINTR);
    if (got != 1)
        waitpid(pid, NULL, 0);
    _exit(got == 1 ? CLI_OK : CLI_FAILED);
}

static int write_pid_file(const struct nbd *n)
{
    FILE *f = n->pid_file ? fopen(n->pid_file, "w") : NULL;

    if (!n->pid_file)
        return CLI_OK;
    bool written = f && fprintf(f, "%d\n", (int)getpid()) > 0;
    if (!f || fclose(f) != 0 || !written) {
        cli_error("%s: cannot write the process id: %s", n->pid_file, strerror(errno));
        return CLI_FAILED;
    }
    return CLI_OK;
}

/* Who forked may go; what was the terminal's is let go of. */
static void tell_ready(struct nbd *n)
{
    if (n->ready_fd < 0)
        return;
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (null >= 0) {
        dup2(null, STDIN_FILENO);
        dup2(null, STDOUT_FILENO);
        dup2(null, STDERR_FILENO);
        if (null > STDERR_FILENO)
            close(null);
    }
    /* Who waits for it may be gone; and it stays in its folder, where names of files and sockets lead from. */
    if (write(n->ready_fd, "+", 1) < 0)
        cli_note("nobody waits for the server");
    close(n->ready_fd);
    n->ready_fd = -1;
}

/* ---- serving -------------------------------------------------------------------------------------------- */

static int server_error(void)
{
    cli_error("%s", nbd_server_error_text());
    return CLI_FAILED;
}

static int use_tls(struct nbd *n)
{
    struct vdisk_tls_creds creds = {.size = sizeof creds};
    const char *allowed[MAX_EXPORTS + 1] = {NULL};
    struct nbd_tls_opts how = {.allow = n->allowed.count > 0 ? allowed : NULL};

    if (!n->tls_creds)
        return CLI_OK;
    if (vdisk_get_tls_creds(n->tls_creds, &creds) < 0)
        return cli_library_error();
    if (!creds.server) {
        cli_error("--tls-creds %s: they are a client's; add endpoint=server", n->tls_creds);
        return CLI_FAILED;
    }
    memcpy(allowed, n->allowed.list, (size_t)n->allowed.count * sizeof *allowed);
    how.dir = creds.dir;
    how.psk = creds.psk;
    how.verify_peer = creds.verify_peer;
    how.priority = creds.priority;
    return nbd_server_use_tls(n->server, &how) < 0 ? server_error() : CLI_OK;
}

static int open_exports(struct nbd *n)
{
    for (int i = 0; i < n->count; i++) {
        struct vdisk_open_opts how = n->how;
        const char *export_name = value_of(&n->names, i);

        how.format = value_of(&n->formats, i);
        const char *name = cli_image(&n->parser, n->images[i], how.format);
        if (!name)
            return CLI_FAILED;
        if (cli_open(name, &how, &n->volumes[i]) < 0)
            return cli_library_error();
        const struct nbd_export_opts opts = {
            .name = export_name ? export_name : "",
            .description = value_of(&n->descriptions, i),
            .volume = n->volumes[i],
            .read_only = n->read_only,
            .multi_conn = n->shared != 1,
            .durable = n->durable,
        };
        if (nbd_server_add_export(n->server, &opts) < 0)
            return server_error();
    }
    return CLI_OK;
}

static int listen_all(struct nbd *n)
{
    const char *port = n->port ? n->port : "10809";
    int passed = passed_fds();
    unsigned got = 0;

    for (int i = 0; i < passed; i++)
        if (nbd_server_listen_fd(n->server, FIRST_PASSED_FD + i) < 0)
            return server_error();
    if (passed > 0)
        return CLI_OK;
    if (n->socket) {
        if (nbd_server_listen_unix(n->server, n->socket) < 0)
            return server_error();
        if (n->verbose)
            printf("listening on %s\n", n->socket);
        return CLI_OK;
    }
    if (nbd_server_listen_tcp(n->server, n->address, port, &got) < 0)
        return server_error();
    if (n->verbose || strcmp(port, "0") == 0)
        printf("listening on port %u\n", got);
    return CLI_OK;
}

/* Once, before the first client: what this host could be set to, so that serving is faster. */
static void tell_hint(const struct nbd *n)
{
    struct nbd_server_stats s;

    nbd_server_get_stats(n->server, &s);
    if (s.send_buffer != 0 && s.send_buffer < NBD_SERVER_SOCKET_BYTES)
        cli_note("note: unix sockets hold %u KiB here, not the %d KiB asked for, and reads are slower: "
                 "sysctl -w net.core.wmem_max=%d",
                 s.send_buffer >> 10, NBD_SERVER_SOCKET_BYTES >> 10, NBD_SERVER_SOCKET_BYTES);
}

static void tell_end(const struct nbd *n)
{
    struct nbd_server_stats s;

    nbd_server_get_stats(n->server, &s);
    printf("%" PRIu64 " connections, %" PRIu64 " requests, %" PRIu64 " errors, %" PRIu64 " clients refused\n"
           "%" PRIu64 " receives, %" PRIu64 " sends\n",
           s.connections, s.requests, s.errors, s.refused, s.receives, s.sends);
}

/* Until a signal, or, unless it is persistent, until nobody is left. */
static int wait_for_end(const struct nbd *n, int signal_fd)
{
    struct pollfd fds[] = {
        {.fd = signal_fd, .events = POLLIN},
        {.fd = n->persistent ? -1 : nbd_server_idle_fd(n->server), .events = POLLIN},
    };

    while (poll(fds, 2, -1) < 0) {
        if (errno != EINTR) {
            cli_error("cannot wait: %s", strerror(errno));
            return CLI_FAILED;
        }
    }
    return CLI_OK;
}

static int serve(struct nbd *n, int signal_fd)
{
    if (nbd_server_create(&n->opts, &n->server) < 0)
        return server_error();
    if (use_tls(n) != CLI_OK || open_exports(n) != CLI_OK || listen_all(n) != CLI_OK)
        return CLI_FAILED;
    if (nbd_server_start(n->server) < 0)
        return server_error();
    if (write_pid_file(n) != CLI_OK)
        return CLI_FAILED;
    tell_hint(n);
    fflush(stdout);
    tell_ready(n);
    int rc = wait_for_end(n, signal_fd);
    nbd_server_stop(n->server);
    if (n->verbose)
        tell_end(n);
    return rc;
}

static int run(const struct cli_verb *verb, int argc, char **argv)
{
    struct nbd *n = cli_calloc(1, sizeof *n);
    sigset_t signals;
    int rc;

    *n = (struct nbd){.verb = verb, .shared = 1, .ready_fd = -1,
                      .how = {.size = sizeof n->how, .flags = VDISK_OPEN_HOST_HOLES}};
    rc = parse(n, argc, argv);
    if (!n->read_only)
        n->how.flags |= VDISK_OPEN_RDWR;
    n->opts.clients = (unsigned)n->shared;
    if (rc == CLI_OK && n->fork && passed_fds() > 0)
        rc = cli_usage_error(verb, "--fork is not for sockets that are passed on");
    if (rc == CLI_OK && n->fork)
        rc = fork_server(n);
    if (rc == CLI_OK) {
        /* Before there are threads, which inherit it. */
        sigemptyset(&signals);
        sigaddset(&signals, SIGTERM);
        sigaddset(&signals, SIGINT);
        sigaddset(&signals, SIGHUP);
        sigprocmask(SIG_BLOCK, &signals, NULL);
        int signal_fd = signalfd(-1, &signals, SFD_CLOEXEC);
        rc = serve(n, signal_fd);
        close(signal_fd);
    }
    nbd_server_destroy(n->server);
    for (int i = 0; i < n->count && i < MAX_EXPORTS; i++)
        if (n->volumes[i] && vdisk_close(n->volumes[i]) < 0 && rc == CLI_OK)
            rc = cli_library_error();
    free(n);
    return rc;
}

const struct cli_verb cli_nbd = {
    .name = "nbd",
    .summary = "Serve images to NBD clients.",
    .usage = "[OPTION]... NAME...",
    .options = options,
    .notes = "Clients are served until SIGTERM or SIGINT, or until the last one has gone (without --persistent).\n"
             "What is in flight is finished then. Sockets that systemd passes on (LISTEN_FDS) are listened on in\n"
             "place of --port and --socket.\n"
             "Exit code: 0, or 1.\n",
    .run = run,
};
