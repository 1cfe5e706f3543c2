/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Happy path: what comes is decrypted into the buffers that wait for it, as far as it has come; what goes is
 * gathered into full records, so that a hundred short commands make a few.
 * Failure modes: a record that is none, or was changed on the way, an alert, an end: the connection is done with.
 *
 * Invariant: bytes of the protocol are taken only where there is room for all of their record (tls/session.c), so
 * what one connection holds is bounded by struct nbd_tls.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "backends/nbd/client.h"
#include "engine/base/bits.h"
#include "engine/base/mem.h"

struct nbd_tls *nbd_tls_begin(const struct nbd_place *place, char *why)
{
    struct nbd_tls *s = mem_alloc(sizeof *s);
    int rc;

    assert(place->tls);
    if (!s) {
        snprintf(why, NBD_WHY_MAX, "out of memory");
        return NULL;
    }
    s->taken = 0;
    rc = tls_begin(&s->tls, place->tls, place->tls_hostname);
    if (rc == 0)
        return s;
    snprintf(why, NBD_WHY_MAX, "%s", s->tls.why);
    mem_free(s);
    return NULL;
}

void nbd_tls_free(struct nbd_tls *s)
{
    if (!s)
        return;
    tls_free(&s->tls);
    mem_free(s);
}

void nbd_socket_close(struct nbd_socket *s)
{
    assert(!s->tls || s->fd >= 0);
    nbd_tls_free(s->tls);
    if (s->fd >= 0)
        close(s->fd);
    *s = (struct nbd_socket){.fd = -1};
}

int64_t nbd_tls_read(struct nbd_tls *s, const struct iovec *iov, unsigned iovcnt)
{
    uint64_t done = 0;
    size_t at = 0;

    for (unsigned i = 0; i < iovcnt;) {
        ssize_t n = at < iov[i].iov_len ? tls_read(&s->tls, (char *)iov[i].iov_base + at, iov[i].iov_len - at) : 0;
        if (at < iov[i].iov_len && n <= 0)
            return done > 0 ? (int64_t)done : n; /* an error is there for the next to find */
        done += (uint64_t)n;
        at += (size_t)n;
        if (at == iov[i].iov_len) {
            i++;
            at = 0;
        }
    }
    return (int64_t)done;
}

/* A place in an array of pieces. */
struct walk {
    const struct iovec *iov;
    unsigned            count;
    size_t              at; /* in the first */
};

static void skip(struct walk *w, size_t n)
{
    w->at += n;
    while (w->count > 0 && w->at >= w->iov->iov_len) {
        w->at -= w->iov->iov_len;
        w->iov++;
        w->count--;
    }
    assert(w->count > 0 || w->at == 0);
}

/* What the next record has: how much, and where. Of one piece as it is, of several a copy. */
static size_t next_record(struct nbd_tls *s, struct walk w, const void **ret)
{
    size_t have = 0;

    *ret = s->plain;
    if (w.count > 0 && w.iov->iov_len - w.at >= TLS_RECORD) {
        *ret = (const char *)w.iov->iov_base + w.at;
        return TLS_RECORD;
    }
    while (w.count > 0 && have < TLS_RECORD) {
        size_t n = min_u64(w.iov->iov_len - w.at, TLS_RECORD - have);
        memcpy(s->plain + have, (const char *)w.iov->iov_base + w.at, n);
        have += n;
        skip(&w, n);
    }
    assert(have > 0 && have <= TLS_RECORD);
    return have;
}

int64_t nbd_tls_write(struct nbd_tls *s, const struct iovec *iov, unsigned iovcnt)
{
    struct walk w = {iov, iovcnt, 0};
    uint64_t done = 0;

    skip(&w, 0);
    while (w.count > 0) {
        const void *bytes;
        size_t len = next_record(s, w, &bytes);
        ssize_t n = tls_write(&s->tls, bytes, len);
        if (n == -EAGAIN)
            break;
        if (n < 0)
            return n;
        assert(n > 0 && (size_t)n <= len);
        done += (uint64_t)n;
        skip(&w, (size_t)n);
    }
    return done > 0 || iovcnt == 0 ? (int64_t)done : -EAGAIN;
}
