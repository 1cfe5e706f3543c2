/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Serving volumes to NBD clients, for the verbs that do.
 *
 * Happy path: volumes are opened, sockets are listened on, it is told that clients can connect; then a signal, or
 * the last client's end, is waited for; what is in flight is finished, and all is closed, which flushes.
 * Failures: until it is ready an error is the command's, also with --fork. Later only what closing a volume gives.
 */
#include "tools/serve.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

static int server_error(void)
{
    cli_error("%s", nbd_server_error_text());
    return CLI_FAILED;
}

static int use_tls(struct serve *s)
{
    struct vdisk_tls_creds creds = {.size = sizeof creds};
    const char *allowed[SERVE_EXPORTS + 1] = {NULL};
    struct nbd_tls_opts how = {.allow = s->allowed.count > 0 ? allowed : NULL};

    if (!s->tls_creds)
        return CLI_OK;
    if (vdisk_get_tls_creds(s->tls_creds, &creds) < 0)
        return cli_library_error();
    if (!creds.server) {
        cli_error("--tls-creds %s: they are a client's; add endpoint=server", s->tls_creds);
        return CLI_FAILED;
    }
    memcpy(allowed, s->allowed.list, (size_t)s->allowed.count * sizeof *allowed);
    how.dir = creds.dir;
    how.psk = creds.psk;
    how.verify_peer = creds.verify_peer;
    how.priority = creds.priority;
    return nbd_server_use_tls(s->server, &how) < 0 ? server_error() : CLI_OK;
}

static int add_export(struct serve *s, int i)
{
    const struct serve_opened *o = &s->opened[i];
    const char *name = serve_value_of(&s->names, i);
    struct nbd_export_opts opts = s->common;

    opts.name = name != NULL ? name : o->name != NULL ? o->name : "";
    opts.description = serve_value_of(&s->descriptions, i);
    opts.volume = o->volume;
    opts.read_only = s->read_only;
    opts.multi_conn = s->shared != 1;
    return nbd_server_add_export(s->server, &opts) < 0 ? server_error() : CLI_OK;
}

static int open_exports(struct serve *s)
{
    for (int i = 0; i < s->count; i++)
        if (s->open(s, i, &s->opened[i]) != CLI_OK || add_export(s, i) != CLI_OK)
            return CLI_FAILED;
    return CLI_OK;
}

static int listen_all(struct serve *s)
{
    int passed = serve_passed_fds();

    for (int i = 0; i < passed; i++)
        if (nbd_server_listen_fd(s->server, SERVE_FIRST_FD + i) < 0)
            return server_error();
    if (passed > 0)
        return CLI_OK;
    int rc = s->socket ? nbd_server_listen_unix(s->server, s->socket)
                       : nbd_server_listen_tcp(s->server, s->address, s->port ? s->port : "10809", &s->got_port);
    return rc < 0 ? server_error() : CLI_OK;
}

bool serve_pause(const struct serve *s, int ms)
{
    struct pollfd fd = {.fd = s->signal_fd, .events = POLLIN};

    return poll(&fd, 1, ms) > 0;
}

/* Until a signal, or, unless it is persistent, until nobody is left. */
static int wait_for_end(const struct serve *s)
{
    struct pollfd fds[] = {
        {.fd = s->signal_fd, .events = POLLIN},
        {.fd = s->persistent ? -1 : nbd_server_idle_fd(s->server), .events = POLLIN},
    };

    while (poll(fds, 2, -1) < 0) {
        if (errno != EINTR) {
            cli_error("cannot wait: %s", strerror(errno));
            return CLI_FAILED;
        }
    }
    return CLI_OK;
}

static int serve(struct serve *s)
{
    if (nbd_server_create(&s->opts, &s->server) < 0)
        return server_error();
    if (use_tls(s) != CLI_OK || open_exports(s) != CLI_OK || listen_all(s) != CLI_OK)
        return CLI_FAILED;
    if (nbd_server_start(s->server) < 0)
        return server_error();
    if (serve_write_pid_file(s) != CLI_OK || serve_show_begin(s) != CLI_OK)
        return CLI_FAILED;
    fflush(stdout);
    serve_tell_ready(s);
    serve_watch_end(s);
    int rc = wait_for_end(s);
    nbd_server_stop(s->server);
    if (s->verbose && rc == CLI_OK)
        rc = serve_show_end(s);
    return rc;
}

static int close_all(struct serve *s, int rc)
{
    nbd_server_destroy(s->server);
    for (int i = 0; i < s->count; i++) {
        if (s->opened[i].volume && vdisk_close(s->opened[i].volume) < 0 && rc == CLI_OK)
            rc = cli_library_error();
        free(s->opened[i].name);
    }
    return rc;
}

int serve_run(struct serve *s)
{
    const struct sigaction ignore = {.sa_handler = SIG_IGN};
    sigset_t signals;

    if (!s->read_only)
        s->how.flags |= VDISK_OPEN_RDWR;
    s->opts.clients = (unsigned)s->shared;
    if (s->fork && serve_fork(s) != CLI_OK)
        return CLI_FAILED;
    /* Before there are threads, which inherit it. */
    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGHUP);
    sigprocmask(SIG_BLOCK, &signals, NULL);
    s->signal_fd = signalfd(-1, &signals, SFD_CLOEXEC);
    sigaction(SIGPIPE, &ignore, NULL); /* who reads what is told may have gone: volumes are closed all the same */
    int rc = serve_watch_begin(s);
    if (rc == CLI_OK)
        rc = serve(s);
    serve_watch_end(s);
    rc = close_all(s, rc);
    close(s->signal_fd);
    return rc;
}
