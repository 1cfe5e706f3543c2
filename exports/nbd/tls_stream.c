/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * TLS as a stream around a stream.
 *
 * Happy path: the handshake goes on whenever the connection reads, and ends with a look at who the client is; then
 * what is read is decrypted as far as it was asked for, and what is sent is encrypted as far as there is room.
 * Failures: of the handshake, of the name, of a record: the end, after the alert has been sent, if the socket
 * takes it.
 *
 * Invariant: what send() has taken and the socket has not is told by pending(), and goes out by send() of nothing.
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "exports/nbd/server.h"
#include "tls/tls.h"

/* What one call takes from the socket that has nothing for the connection in it: alerts, say, without end. */
enum { FILLS = 2 };

struct tls_stream {
    struct nbds_stream     base;
    struct nbds_stream    *inner;
    const struct nbds_tls *how;
    struct tls             tls;
};

static struct tls_stream *tls_of(struct nbds_stream *s)
{
    return (struct tls_stream *)s;
}

static bool tls_pending(struct nbds_stream *s)
{
    size_t len;

    tls_out(&tls_of(s)->tls, &len);
    return len > 0;
}

/* 0, or what the socket says: -EAGAIN as well. */
static int flush_out(struct tls_stream *s)
{
    size_t len;

    for (const void *bytes; bytes = tls_out(&s->tls, &len), len > 0;) {
        const struct iovec iov = {(void *)(uintptr_t)bytes, len};
        ssize_t n = s->inner->ops->send(s->inner, &iov, 1);
        if (n < 0)
            return (int)n;
        tls_out_sent(&s->tls, (size_t)n);
    }
    return 0;
}

/* -EAGAIN: there is nothing. Its end is a thing that was read. */
static int fill_in(struct tls_stream *s)
{
    struct iovec iov;
    ssize_t n;

    iov.iov_base = tls_in_room(&s->tls, &iov.iov_len);
    assert(iov.iov_len > 0); /* a whole record has been taken out, or is not there */
    n = s->inner->ops->recv(s->inner, &iov, 1);
    if (n < 0)
        return (int)n;
    if (n == 0)
        tls_in_end(&s->tls);
    tls_in_add(&s->tls, (size_t)n);
    return 0;
}

/* ---- who it is --------------------------------------------------------------------------------------------- */

static bool is_allowed(struct tls_stream *s)
{
    char name[TLS_NAME];

    if (!s->how->allow)
        return true;
    if (tls_peer_name(&s->tls, name) < 0)
        return false;
    for (char **allowed = s->how->allow; *allowed; allowed++)
        if (strcmp(name, *allowed) == 0)
            return true;
    return false;
}

/* 0: through; -EAGAIN: more is to come. */
static int shake(struct tls_stream *s)
{
    int rc = tls_handshake(&s->tls), sent;

    if (rc == 0 && !is_allowed(s)) {
        tls_end(&s->tls);
        rc = -EACCES;
    }
    sent = flush_out(s);
    return rc == 0 && sent < 0 && sent != -EAGAIN ? sent : rc;
}

/* ---- the stream -------------------------------------------------------------------------------------------- */

/* Into one piece, until it is full or nothing is left. */
static ssize_t read_piece(struct tls_stream *s, const struct iovec *iov)
{
    size_t done = 0;

    while (done < iov->iov_len) {
        ssize_t n = tls_read(&s->tls, (char *)iov->iov_base + done, iov->iov_len - done);
        if (n <= 0)
            return done > 0 ? (ssize_t)done : n;
        done += (size_t)n;
    }
    return (ssize_t)done;
}

static ssize_t read_pieces(struct tls_stream *s, const struct iovec *iov, unsigned n)
{
    size_t done = 0;

    for (unsigned i = 0; i < n; i++) {
        ssize_t got = read_piece(s, &iov[i]);
        if (got <= 0)
            return done > 0 ? (ssize_t)done : got;
        done += (size_t)got;
        if ((size_t)got < iov[i].iov_len)
            break;
    }
    return (ssize_t)done;
}

static ssize_t tls_stream_recv(struct nbds_stream *base, const struct iovec *iov, unsigned n)
{
    struct tls_stream *s = tls_of(base);

    for (unsigned fills = 0;; fills++) {
        ssize_t rc = s->tls.established ? 0 : shake(s);
        if (rc == 0)
            rc = read_pieces(s, iov, n);
        if (rc != -EAGAIN)
            return rc;
        if (fills == FILLS)
            return -EINTR;
        rc = fill_in(s);
        if (rc < 0)
            return rc;
    }
}

static ssize_t tls_stream_send(struct nbds_stream *base, const struct iovec *iov, unsigned n)
{
    struct tls_stream *s = tls_of(base);
    size_t done = 0, at = 0;
    int rc = flush_out(s);

    for (unsigned i = 0; rc == 0 && i < n;) {
        ssize_t took = tls_write(&s->tls, (const char *)iov[i].iov_base + at, iov[i].iov_len - at);
        if (took < 0 && took != -EAGAIN)
            return took;
        if (took > 0) {
            done += (size_t)took;
            at += (size_t)took;
        }
        if (at == iov[i].iov_len) {
            i++;
            at = 0;
        } else {
            rc = flush_out(s);
        }
    }
    if (rc == 0)
        rc = flush_out(s);
    if (rc < 0 && rc != -EAGAIN)
        return rc;
    return done > 0 || n == 0 ? (rc < 0 && n == 0 ? rc : (ssize_t)done) : rc;
}

static void tls_stream_close(struct nbds_stream *base)
{
    struct tls_stream *s = tls_of(base);

    tls_end(&s->tls);
    flush_out(s); /* as far as it goes */
    tls_free(&s->tls);
    s->inner->ops->close(s->inner);
    free(s);
}

static const struct nbds_stream_ops tls_ops = {tls_stream_recv, tls_stream_send, tls_stream_close, tls_pending};

int nbds_tls_begin(struct nbds_conn *c)
{
    struct tls_stream *s = malloc(sizeof *s);
    int rc = s ? tls_begin(&s->tls, &c->thread->server->tls->creds, NULL) : -ENOMEM;

    if (rc < 0) {
        free(s);
        return rc;
    }
    s->base = (struct nbds_stream){.ops = &tls_ops, .fd = c->stream->fd};
    s->inner = c->stream;
    s->how = c->thread->server->tls;
    c->stream = &s->base;
    return 0;
}

/* ---- what the server was given ----------------------------------------------------------------------------- */

static int copy_names(struct nbds_tls *tls, const char *const *allow)
{
    size_t n = 0;

    while (allow[n])
        n++;
    tls->allow = calloc(n + 1, sizeof *tls->allow);
    for (size_t i = 0; tls->allow && i < n; i++) {
        tls->allow[i] = strdup(allow[i]);
        if (!tls->allow[i])
            return -ENOMEM;
    }
    return tls->allow ? 0 : -ENOMEM;
}

void nbds_tls_free(struct nbds_tls *tls)
{
    if (!tls)
        return;
    tls_creds_free(&tls->creds);
    for (char **name = tls->allow; name && *name; name++)
        free(*name);
    free(tls->allow);
    free(tls);
}

int nbd_server_use_tls(struct nbd_server *server, const struct nbd_tls_opts *opts)
{
    const struct tls_opts how = {.end = TLS_SERVER, .dir = opts->dir, .psk = opts->psk,
                                 .verify_peer = opts->verify_peer, .priority = opts->priority};
    char why[TLS_WHY];
    struct nbds_tls *tls;
    int rc;

    if (server->tls)
        return nbds_error(-EINVAL, "TLS has been set up already");
    if (opts->allow && !opts->psk && !opts->verify_peer)
        return nbds_error(-EINVAL, "clients that show no certificate have no name by which they could be allowed");
    tls = calloc(1, sizeof *tls);
    if (!tls)
        return nbds_error(-ENOMEM, "no memory for TLS");
    rc = tls_creds_load(&tls->creds, &how, why);
    if (rc < 0)
        nbds_error(rc, "%s", why);
    if (rc == 0 && opts->allow && copy_names(tls, opts->allow) < 0)
        rc = nbds_error(-ENOMEM, "no memory for TLS");
    if (rc < 0)
        nbds_tls_free(tls);
    else
        server->tls = tls;
    return rc;
}
