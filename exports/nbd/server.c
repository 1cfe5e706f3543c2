/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The server as a whole: what it serves, its threads, its end.
 *
 * Happy path: create, add exports, start threads, of which the first also accepts; stop tells them, and waits.
 * Failures: a thread that cannot be had ends those that run already.
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "exports/nbd/server.h"

enum { THREADS = 4 }; /* also on fewer processors: the kernel shares these out by threads, and clients have some */

static void set_defaults(struct nbd_server_opts *o)
{
    if (o->threads == 0)
        o->threads = THREADS;
    if (o->clients == 0)
        o->clients = 1024;
    if (o->requests == 0)
        o->requests = 128;
    if (o->client_bytes == 0)
        o->client_bytes = 64 << 20;
    if (o->client_bytes < NBD_MAX_PAYLOAD)
        o->client_bytes = NBD_MAX_PAYLOAD;
    if (o->handshake_ms == 0)
        o->handshake_ms = 10000;
    if (o->request_ms == 0)
        o->request_ms = 60000;
    if (o->reply_ms == 0)
        o->reply_ms = 60000;
    if (o->stop_ms == 0)
        o->stop_ms = 10000;
}

int nbd_server_create(const struct nbd_server_opts *opts, struct nbd_server **ret_server)
{
    struct nbd_server *server = calloc(1, sizeof *server);

    if (!server)
        return nbds_error(-ENOMEM, "no memory for a server");
    if (opts)
        server->opts = *opts;
    set_defaults(&server->opts);
    if (server->opts.threads > NBDS_MAX_THREADS) {
        free(server);
        return nbds_error(-EINVAL, "a server has at most %d threads", NBDS_MAX_THREADS);
    }
    server->idle_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (server->idle_fd < 0) {
        int rc = -errno;
        free(server);
        return nbds_error(rc, "no descriptor for a server: %s", strerror(-rc));
    }
    pthread_mutex_init(&server->lock, NULL);
    *ret_server = server;
    return 0;
}

int nbd_server_idle_fd(struct nbd_server *server)
{
    return server->idle_fd;
}

static void end_threads(struct nbd_server *server)
{
    atomic_store(&server->stopping, true);
    for (unsigned i = 0; i < server->nthreads; i++)
        nbds_thread_wake(&server->threads[i]);
    for (unsigned i = 0; i < server->nthreads; i++)
        if (server->threads[i].running)
            pthread_join(server->threads[i].id, NULL);
    for (unsigned i = 0; i < server->nthreads; i++)
        nbds_thread_free(&server->threads[i]);
    server->nthreads = 0;
    assert(server->clients == 0 && atomic_load(&server->leaving) == 0);
}

int nbd_server_start(struct nbd_server *server)
{
    int rc = 0;

    atomic_store(&server->stopping, false);
    for (; rc == 0 && server->nthreads < server->opts.threads; server->nthreads++) {
        rc = nbds_thread_init(&server->threads[server->nthreads], server, nbds_epoll());
        if (rc < 0)
            nbds_thread_free(&server->threads[server->nthreads]);
    }
    if (rc == 0)
        rc = nbds_listen(&server->threads[0]);
    /* The first one, which gives connections to the others, is the last to run. */
    for (unsigned i = server->nthreads; rc == 0 && i-- > 0;) {
        struct nbds_thread *t = &server->threads[i];

        rc = -pthread_create(&t->id, NULL, nbds_thread_main, t);
        if (rc < 0)
            nbds_error(rc, "no thread for a server: %s", strerror(-rc));
        t->running = rc == 0;
    }
    if (rc < 0)
        end_threads(server);
    return rc;
}

void nbd_server_get_stats(struct nbd_server *server, struct nbd_server_stats *ret_stats)
{
    struct nbd_server_stats s = {.send_buffer = atomic_load(&server->send_buffer)};

    pthread_mutex_lock(&server->lock);
    s.clients = server->clients;
    s.connections = server->connections;
    pthread_mutex_unlock(&server->lock);
    for (unsigned i = 0; i < NBDS_MAX_THREADS; i++) {
        const struct nbds_thread *t = &server->threads[i];

        s.requests += atomic_load_explicit(&t->requests, memory_order_relaxed);
        s.errors += atomic_load_explicit(&t->errors, memory_order_relaxed);
        s.receives += atomic_load_explicit(&t->receives, memory_order_relaxed);
        s.sends += atomic_load_explicit(&t->sends, memory_order_relaxed);
        s.refused += atomic_load_explicit(&t->refused, memory_order_relaxed);
    }
    *ret_stats = s;
}

void nbd_server_stop(struct nbd_server *server)
{
    end_threads(server);
}

void nbd_server_destroy(struct nbd_server *server)
{
    if (!server)
        return;
    nbd_server_stop(server);
    while (server->listeners) {
        struct nbds_listener *l = server->listeners;
        server->listeners = l->next;
        nbds_listener_free(l);
    }
    while (server->exports) {
        struct nbds_export *e = server->exports;
        server->exports = e->next;
        nbds_export_free(e);
    }
    nbds_tls_free(server->tls);
    close(server->idle_fd);
    pthread_mutex_destroy(&server->lock);
    free(server);
}
