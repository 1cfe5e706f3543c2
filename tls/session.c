/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Works: GnuTLS pulls from `in` and pushes to `out`. Fails: a text in `why`; what waits in `out` (an alert, most
 * likely) is still for the peer.
 *
 * Invariants
 *  1. A record is begun only where `out` has room for all of it, so that GnuTLS never holds half a record back.
 *  2. After an error the stream gives and takes nothing more.
 *  3. What is lent is not moved, nor anything put in its place.
 *  4. GnuTLS keeps a message of the handshake until it is whole, up to 16 MiB: what it is given of one is bounded
 *     here.
 */
#include <arpa/inet.h>
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "tls/library.h"
#include "tls/tls.h"

enum { RECORD_ROOM = TLS_RECORD + 2048 };

_Static_assert(TLS_BYTES >= 2 * RECORD_ROOM, "a record fits beside another");

/* A session is there, so its library is loaded. */
static const struct tls_library *library(void)
{
    char why[TLS_WHY];
    const struct tls_library *g = tls_library(why);

    assert(g != NULL);
    return g;
}

/* ---- bytes that wait --------------------------------------------------------------------------------------- */

static size_t waiting(const struct tls_bytes *b)
{
    assert(b->at <= b->end && b->end <= sizeof b->bytes);
    return b->end - b->at;
}

static void make_room(struct tls_bytes *b)
{
    if (!b->lent && b->at > 0 && (b->at == b->end || sizeof b->bytes - b->end < RECORD_ROOM)) {
        memmove(b->bytes, b->bytes + b->at, waiting(b));
        b->end -= b->at;
        b->at = 0;
    }
}

static size_t room(struct tls_bytes *b)
{
    make_room(b);
    return sizeof b->bytes - b->end;
}

static void take(struct tls_bytes *b, size_t len)
{
    assert(len <= waiting(b));
    b->at += len;
}

void *tls_in_room(struct tls *t, size_t *ret_len)
{
    *ret_len = room(&t->in);
    return t->in.bytes + t->in.end;
}

void tls_in_add(struct tls *t, size_t len)
{
    assert(len <= sizeof t->in.bytes - t->in.end);
    t->in.end += len;
    t->shaken += t->established ? 0 : len;
}

void tls_in_end(struct tls *t)
{
    assert(t->session != NULL);
    t->peer_ended = true;
}

const void *tls_out(const struct tls *t, size_t *ret_len)
{
    *ret_len = waiting(&t->out);
    return t->out.bytes + t->out.at;
}

const void *tls_out_lend(struct tls *t, size_t *ret_len)
{
    const void *bytes = tls_out(t, ret_len);

    assert(!t->out.lent);
    t->out.lent = *ret_len > 0;
    return bytes;
}

void tls_out_sent(struct tls *t, size_t len)
{
    t->out.lent = false;
    take(&t->out, len);
}

/* What GnuTLS calls. Its errno is set by a function of its own: it may have been built for another C library. */
static ssize_t pull(gnutls_transport_ptr_t arg, void *buf, size_t len)
{
    struct tls *t = arg;
    size_t n = waiting(&t->in) < len ? waiting(&t->in) : len;

    if (n == 0 && !t->peer_ended) {
        library()->transport_set_errno(t->session, EAGAIN);
        return -1;
    }
    memcpy(buf, t->in.bytes + t->in.at, n);
    take(&t->in, n);
    return (ssize_t)n;
}

static ssize_t push(gnutls_transport_ptr_t arg, const void *buf, size_t len)
{
    struct tls *t = arg;

    if (room(&t->out) < len) {
        assert(!t->established || t->out.lent); /* (1) */
        library()->transport_set_errno(t->session, EAGAIN);
        return -1;
    }
    memcpy(t->out.bytes + t->out.end, buf, len);
    t->out.end += len;
    return (ssize_t)len;
}

static int pull_timeout(gnutls_transport_ptr_t arg, unsigned ms)
{
    const struct tls *t = arg;

    return waiting(&t->in) > 0 || t->peer_ended;
}

/* ---- beginning and ending ---------------------------------------------------------------------------------- */

static int failed(struct tls *t, int err, int rc)
{
    snprintf(t->why, sizeof t->why, "TLS: %.160s", library()->strerror(rc));
    t->ended = true;
    return err;
}

static bool is_address(const char *name)
{
    unsigned char binary[16];

    return inet_pton(AF_INET, name, binary) == 1 || inet_pton(AF_INET6, name, binary) == 1;
}

/* What a session asks of its peer. */
static int set_up(struct tls *t, const struct tls_creds *c, const char *hostname)
{
    const struct tls_library *g = library();
    int rc = g->priority_set_direct(t->session, c->priority, NULL);

    if (rc == 0)
        rc = g->credentials_set(t->session, c->psk ? GNUTLS_CRD_PSK : GNUTLS_CRD_CERTIFICATE, c->keys);
    if (rc == 0 && c->end == TLS_CLIENT && hostname != NULL && !is_address(hostname))
        rc = g->server_name_set(t->session, GNUTLS_NAME_DNS, hostname, strlen(hostname));
    if (rc < 0)
        return rc;
    if (!c->psk && c->end == TLS_CLIENT)
        g->session_set_verify_cert(t->session, hostname, 0);
    if (!c->psk && c->end == TLS_SERVER && c->verify_peer) {
        g->certificate_server_set_request(t->session, GNUTLS_CERT_REQUIRE);
        g->session_set_verify_cert(t->session, NULL, 0);
    }
    g->transport_set_ptr(t->session, t);
    g->transport_set_pull_function(t->session, pull);
    g->transport_set_push_function(t->session, push);
    g->transport_set_pull_timeout_function(t->session, pull_timeout);
    return 0;
}

int tls_begin(struct tls *t, const struct tls_creds *c, const char *hostname)
{
    gnutls_session_t session;
    unsigned end = c->end == TLS_CLIENT ? GNUTLS_CLIENT : GNUTLS_SERVER;
    int rc;

    assert(c->keys != NULL);
    t->session = NULL;
    t->psk = c->psk;
    t->end = c->end;
    t->established = t->peer_ended = t->ended = false;
    t->shaken = 0;
    t->why[0] = '\0';
    t->in.at = t->in.end = t->out.at = t->out.end = 0;
    t->in.lent = t->out.lent = false;
    rc = library()->init(&session, end | GNUTLS_NONBLOCK | GNUTLS_NO_SIGNAL | GNUTLS_NO_TICKETS);
    if (rc == 0) {
        t->session = session;
        rc = set_up(t, c, hostname);
    }
    if (rc == 0)
        return 0;
    failed(t, 0, rc);
    tls_free(t);
    return rc == GNUTLS_E_MEMORY_ERROR ? -ENOMEM : -EINVAL;
}

void tls_free(struct tls *t)
{
    const struct tls_library *g;

    if (t->session == NULL)
        return;
    g = library();
    g->deinit(t->session);
    t->session = NULL;
    g->memset(t->in.bytes, 0, sizeof t->in.bytes); /* cipher text, but who knows of what */
}

void tls_end(struct tls *t)
{
    if (t->established && !t->ended && room(&t->out) >= RECORD_ROOM)
        library()->bye(t->session, GNUTLS_SHUT_WR);
    t->ended = true;
}

/* ---- the handshake ----------------------------------------------------------------------------------------- */

/* Why the peer's certificate was refused. */
static int unverified(struct tls *t)
{
    const struct tls_library *g = library();
    unsigned status = g->session_get_verify_cert_status(t->session);
    gnutls_datum_t text = {0};

    t->ended = true;
    if (g->certificate_verification_status_print(status, GNUTLS_CRT_X509, &text, 0) < 0) {
        snprintf(t->why, sizeof t->why, "TLS: the certificate is refused");
        return -EACCES;
    }
    snprintf(t->why, sizeof t->why, "TLS: %.200s", (const char *)text.data);
    t->why[strcspn(t->why, "\n")] = '\0';
    (*g->free_at)(text.data);
    return -EACCES;
}

/* The peer's word for it. */
static int alerted(struct tls *t)
{
    const struct tls_library *g = library();
    const char *name = g->alert_get_name(g->alert_get(t->session));

    snprintf(t->why, sizeof t->why, "TLS: the other side has ended it: %.120s", name != NULL ? name : "no reason");
    t->ended = true;
    return -EPROTO;
}

int tls_handshake(struct tls *t)
{
    const struct tls_library *g = library();
    int rc;

    assert(!t->established);
    if (t->ended)
        return -EPROTO;
    do
        rc = g->handshake(t->session);
    while (rc == GNUTLS_E_INTERRUPTED || rc == GNUTLS_E_WARNING_ALERT_RECEIVED);
    if (rc == GNUTLS_E_AGAIN && t->shaken <= TLS_HANDSHAKE)
        return -EAGAIN;
    if (rc == GNUTLS_E_AGAIN) /* (4) */
        rc = GNUTLS_E_HANDSHAKE_TOO_LARGE;
    if (rc == 0) {
        t->established = true;
        return 0;
    }
    if (rc == GNUTLS_E_FATAL_ALERT_RECEIVED)
        return alerted(t);
    if (g->error_is_fatal(rc))
        g->alert_send_appropriate(t->session, rc);
    if (rc == GNUTLS_E_CERTIFICATE_VERIFICATION_ERROR)
        return unverified(t);
    if (rc == GNUTLS_E_NO_CERTIFICATE_FOUND || rc == GNUTLS_E_CERTIFICATE_REQUIRED)
        return failed(t, -EACCES, rc);
    return failed(t, rc == GNUTLS_E_PREMATURE_TERMINATION ? -ECONNRESET : -EPROTO, rc);
}

/* ---- the stream -------------------------------------------------------------------------------------------- */

/* What is no data, and no end. A server that asks for a new handshake goes on without one. */
static bool is_passing(const struct tls *t, int rc)
{
    return rc == GNUTLS_E_INTERRUPTED || rc == GNUTLS_E_WARNING_ALERT_RECEIVED ||
           (rc == GNUTLS_E_REHANDSHAKE && t->end == TLS_CLIENT);
}

ssize_t tls_read(struct tls *t, void *buf, size_t len)
{
    size_t before;
    ssize_t n;

    assert(t->established);
    if (t->ended)
        return -EPROTO;
    do { /* a ticket, and new keys, are told by EAGAIN, whatever is behind them */
        before = waiting(&t->in);
        n = library()->record_recv(t->session, buf, len);
    } while (is_passing(t, (int)n) || (n == GNUTLS_E_AGAIN && waiting(&t->in) > 0 && waiting(&t->in) < before));
    if (n >= 0)
        return n;
    if (n == GNUTLS_E_AGAIN)
        return -EAGAIN;
    if (n == GNUTLS_E_FATAL_ALERT_RECEIVED)
        return alerted(t);
    return failed(t, n == GNUTLS_E_PREMATURE_TERMINATION ? -ECONNRESET : -EPROTO, (int)n);
}

bool tls_has_more(const struct tls *t)
{
    return t->established && !t->ended &&
           (waiting(&t->in) > 0 || library()->record_check_pending(t->session) > 0);
}

ssize_t tls_write(struct tls *t, const void *buf, size_t len)
{
    const char *from = buf;
    size_t done = 0;

    assert(t->established);
    if (t->ended)
        return -EPROTO;
    while (done < len && room(&t->out) >= RECORD_ROOM) { /* (1) */
        size_t piece = len - done < TLS_RECORD ? len - done : TLS_RECORD;
        ssize_t n = library()->record_send(t->session, from + done, piece);
        if (n < 0 && is_passing(t, (int)n))
            continue;
        if (n < 0)
            return failed(t, -EPROTO, (int)n);
        done += (size_t)n;
    }
    return done == 0 && len > 0 ? -EAGAIN : (ssize_t)done;
}

/* ---- who it is --------------------------------------------------------------------------------------------- */

static int key_name(struct tls *t, char name[TLS_NAME])
{
    const char *user = library()->psk_server_get_username(t->session);

    if (user == NULL)
        return -ENOENT;
    return snprintf(name, TLS_NAME, "%s", user) < TLS_NAME ? 0 : -ENAMETOOLONG;
}

int tls_peer_name(struct tls *t, char name[TLS_NAME])
{
    const struct tls_library *g = library();
    const gnutls_datum_t *certs;
    gnutls_x509_crt_t cert;
    unsigned count = 0;
    size_t len = TLS_NAME;
    int rc;

    assert(t->established);
    if (t->psk)
        return key_name(t, name);
    certs = g->certificate_get_peers(t->session, &count);
    if (certs == NULL || count == 0)
        return -ENOENT;
    if (g->x509_crt_init(&cert) < 0)
        return -ENOMEM;
    rc = g->x509_crt_import(cert, &certs[0], GNUTLS_X509_FMT_DER);
    if (rc == 0)
        rc = g->x509_crt_get_dn(cert, name, &len);
    g->x509_crt_deinit(cert);
    if (rc == GNUTLS_E_SHORT_MEMORY_BUFFER)
        return -ENAMETOOLONG;
    return rc < 0 ? -ENOENT : 0;
}
