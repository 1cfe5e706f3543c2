/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Happy path: a socket; the server's greeting, our flags; STARTTLS and its handshake, where TLS is asked for; then
 * options and their replies, as others ask.
 * Failure modes: nobody there; silence (-ETIMEDOUT); the server lacks TLS, or demands it (-ENOTSUP); its
 * certificate is refused (-EACCES), or ours; what comes is not the protocol, or too long (-EPROTO).
 *
 * A server is not trusted: each length is looked at before anything is read for it.
 *
 * Invariants.
 *  1. What was received before TLS is read to its end before TLS begins, and nothing more is: bytes that follow in
 *     the clear are an error, or the first that TLS gets, which is the same.
 *  2. Where TLS is asked for no option goes before STARTTLS.
 */
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "backends/nbd/talk.h"
#include "engine/base/bits.h"
#include "engine/base/error.h"
#include "engine/base/mem.h"

enum { HANDSHAKE_MS = 10000, SOCKET_BUFFER = 2 << 20 };

uint64_t nbd_now_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

struct nbd_talk *nbd_talk_new(const struct nbd_place *place, struct nbd_terms *terms, char *why)
{
    struct nbd_talk *t = mem_calloc(1, sizeof *t);

    *terms = (struct nbd_terms){0};
    if (!t) {
        snprintf(why, NBD_WHY_MAX, "out of memory");
        return NULL;
    }
    t->place = place;
    t->terms = terms;
    t->socket.fd = -1;
    t->why = why;
    t->deadline_ms = nbd_now_ms() + HANDSHAKE_MS;
    return t;
}

void nbd_talk_free(struct nbd_talk *t)
{
    if (t)
        nbd_socket_close(&t->socket);
    mem_free(t);
}

int nbd_talk_fail(struct nbd_talk *t, int rc, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(t->why, NBD_WHY_MAX, fmt, ap);
    va_end(ap);
    err_make_printable(t->why); /* servers' words are in it */
    return rc;
}

/* ---- the socket ------------------------------------------------------------------------------------------ */

static int wait_for(struct nbd_talk *t, short events)
{
    struct pollfd p = {.fd = t->socket.fd, .events = events};

    for (;;) {
        uint64_t now = nbd_now_ms();
        int n = now < t->deadline_ms ? poll(&p, 1, (int)(t->deadline_ms - now)) : 0;
        if (n > 0)
            return 0;
        if (n == 0)
            return nbd_talk_fail(t, -ETIMEDOUT, "the server does not answer");
        if (errno != EINTR)
            return nbd_talk_fail(t, -errno, "waiting for the server: %s", strerror(errno));
    }
}

static int lost(struct nbd_talk *t, int error)
{
    const char *what = t->socket.tls && !t->socket.tls->tls.established ? "TLS handshake" : "handshake";

    if (error == 0)
        return nbd_talk_fail(t, -ECONNRESET, "the server has closed the connection during the %s", what);
    return nbd_talk_fail(t, -error, "the connection broke during the %s: %s", what, strerror(error));
}

/* What there is, once there is something: how much. 0: the end. */
static int64_t receive(struct nbd_talk *t, void *buf, size_t len)
{
    for (;;) {
        ssize_t n = recv(t->socket.fd, buf, len, MSG_DONTWAIT);
        int rc = 0;
        if (n >= 0 && nbd_now_ms() >= t->deadline_ms) /* bytes that come one by one */
            return nbd_talk_fail(t, -ETIMEDOUT, "the server takes too long for its handshake");
        if (n >= 0)
            return n;
        if (errno == EAGAIN)
            rc = wait_for(t, POLLIN);
        else if (errno != EINTR)
            rc = lost(t, errno);
        if (rc < 0)
            return rc;
    }
}

static int send_all(struct nbd_talk *t, const void *buf, size_t len)
{
    for (size_t sent = 0; sent < len;) {
        ssize_t n = send(t->socket.fd, (const char *)buf + sent, len - sent, MSG_DONTWAIT | MSG_NOSIGNAL);
        int rc = 0;
        if (n >= 0)
            sent += (size_t)n;
        else if (errno == EAGAIN)
            rc = wait_for(t, POLLOUT);
        else if (errno != EINTR)
            rc = lost(t, errno);
        if (rc < 0)
            return rc;
    }
    return 0;
}

/* ---- TLS ------------------------------------------------------------------------------------------------- */

static int send_records(struct nbd_talk *t)
{
    size_t len;
    const void *bytes = tls_out(&t->socket.tls->tls, &len);
    int rc = send_all(t, bytes, len);

    if (rc == 0)
        tls_out_sent(&t->socket.tls->tls, len);
    return rc;
}

static int receive_records(struct nbd_talk *t)
{
    struct tls *tls = &t->socket.tls->tls;
    size_t len;
    void *room = tls_in_room(tls, &len);
    int64_t n;

    assert(len > 0); /* a record that is whole has been taken out */
    n = receive(t, room, len);
    if (n < 0)
        return (int)n;
    if (n == 0)
        tls_in_end(tls);
    tls_in_add(tls, (size_t)n);
    return 0;
}

/* Why TLS failed: its own words, but for an end. */
static int tls_failed(struct nbd_talk *t, int rc)
{
    return rc == -ECONNRESET ? lost(t, 0) : nbd_talk_fail(t, rc, "%s", t->socket.tls->tls.why);
}

/* And the server is told, if the socket takes it. */
static int refuse_tls(struct nbd_talk *t, int rc)
{
    size_t len;
    const void *alert = tls_out(&t->socket.tls->tls, &len);

    if (send(t->socket.fd, alert, len, MSG_DONTWAIT | MSG_NOSIGNAL) == (ssize_t)len)
        tls_out_sent(&t->socket.tls->tls, len);
    return tls_failed(t, rc);
}

static int shake_tls(struct nbd_talk *t)
{
    struct tls *tls = &t->socket.tls->tls;

    for (;;) {
        int rc = tls_handshake(tls), sent;
        if (rc < 0 && rc != -EAGAIN)
            return refuse_tls(t, rc);
        sent = send_records(t);
        if (rc == 0 || sent < 0)
            return sent;
        rc = receive_records(t);
        if (rc < 0)
            return rc;
    }
}

/* ---- bytes ----------------------------------------------------------------------------------------------- */

/* As receive(), of what the protocol has. */
static int64_t get_some(struct nbd_talk *t, void *buf, size_t len)
{
    struct iovec iov = {buf, len};

    if (!t->socket.tls)
        return receive(t, buf, len);
    for (;;) {
        int64_t n = nbd_tls_read(t->socket.tls, &iov, 1);
        if (n >= 0)
            return n;
        n = n == -EAGAIN ? receive_records(t) : tls_failed(t, (int)n);
        if (n < 0)
            return n;
    }
}

int nbd_talk_get(struct nbd_talk *t, void *buf, size_t len)
{
    for (size_t have = 0; have < len;) {
        int64_t n = get_some(t, (char *)buf + have, len - have);
        if (n == 0)
            return lost(t, 0);
        if (n < 0)
            return (int)n;
        have += (size_t)n;
    }
    return 0;
}

static int put(struct nbd_talk *t, const void *buf, size_t len)
{
    struct iovec iov = {(void *)(uintptr_t)buf, len};

    if (!t->socket.tls)
        return send_all(t, buf, len);
    while (iov.iov_len > 0) {
        int64_t n = nbd_tls_write(t->socket.tls, &iov, 1);
        int rc = n < 0 && n != -EAGAIN ? tls_failed(t, (int)n) : send_records(t);
        if (rc < 0)
            return rc;
        if (n > 0) {
            iov.iov_base = (char *)iov.iov_base + n;
            iov.iov_len -= (size_t)n;
        }
    }
    return 0;
}

/* ---- options --------------------------------------------------------------------------------------------- */

int nbd_talk_send(struct nbd_talk *t, uint32_t option, const uint8_t *data, size_t len)
{
    uint8_t *message = mem_alloc(NBD_OPTION_SIZE + len);
    int rc;

    assert(!t->place->tls == !t->socket.tls || option == NBD_OPT_STARTTLS); /* invariant 2 */
    if (!message)
        return nbd_talk_fail(t, -ENOMEM, "out of memory");
    nbd_option_put(message, (struct nbd_option){option, (uint32_t)len});
    if (len > 0)
        memcpy(message + NBD_OPTION_SIZE, data, len);
    rc = put(t, message, NBD_OPTION_SIZE + len);
    mem_free(message);
    return rc;
}

int nbd_talk_breach(struct nbd_talk *t, uint32_t option, const char *what)
{
    return nbd_talk_fail(t, -EPROTO, "the server's answer to the option %s is wrong: %s", nbd_option_name(option),
                         what);
}

int nbd_talk_reply(struct nbd_talk *t, uint32_t option, struct nbd_option_reply *ret)
{
    uint8_t head[NBD_OPTION_REPLY_SIZE];
    int rc = nbd_talk_get(t, head, sizeof head);

    if (rc < 0)
        return rc;
    if (nbd_option_reply_get(head, ret) < 0)
        return nbd_talk_breach(t, option, "not a reply");
    if (ret->option != option)
        return nbd_talk_breach(t, option, "it is for another one");
    if (ret->length > sizeof t->data)
        return nbd_talk_breach(t, option, "too long");
    return nbd_talk_get(t, t->data, ret->length);
}

int nbd_talk_refused(struct nbd_talk *t, uint32_t option, const struct nbd_option_reply *r)
{
    int len = (int)min_u64(r->length, 200);
    const char *colon = len > 0 ? ": " : "";

    switch (r->type) {
    case NBD_REP_ERR_TLS_REQD:
        return nbd_talk_fail(t, -ENOTSUP, "the server demands TLS, for which there are no credentials here "
                             "(tls-creds)");
    case NBD_REP_ERR_UNKNOWN:
        return nbd_talk_fail(t, -ENOENT, "the server has no export '%.200s'%s%.*s", t->place->export, colon,
                             len, (const char *)t->data);
    case NBD_REP_ERR_POLICY:
        return nbd_talk_fail(t, -EACCES, "the server refuses the export '%.200s'%s%.*s", t->place->export, colon,
                             len, (const char *)t->data);
    default:
        return nbd_talk_fail(t, -EIO, "the server refuses the option %s: %s%s%.*s", nbd_option_name(option),
                             nbd_option_error_name(r->type), colon, len, (const char *)t->data);
    }
}

int nbd_talk_ask(struct nbd_talk *t, uint32_t option)
{
    struct nbd_option_reply r;
    int rc = nbd_talk_send(t, option, NULL, 0);

    if (rc == 0)
        rc = nbd_talk_reply(t, option, &r);
    if (rc < 0)
        return rc;
    if (r.type == NBD_REP_ERR_TLS_REQD || r.type == NBD_REP_ERR_SHUTDOWN)
        return nbd_talk_refused(t, option, &r);
    if (nbd_reply_is_error(&r))
        return 0;
    return r.type == NBD_REP_ACK && r.length == 0 ? 1 : nbd_talk_breach(t, option, "it is neither yes nor no");
}

/* ---- the greeting ---------------------------------------------------------------------------------------- */

/* Invariant 1: a server waits for us now. */
static int look_for_more(struct nbd_talk *t)
{
    char byte;

    if (recv(t->socket.fd, &byte, 1, MSG_DONTWAIT | MSG_PEEK) > 0)
        return nbd_talk_fail(t, -EPROTO, "the server, or somebody between, sends on in the clear where TLS is to "
                             "begin");
    return 0;
}

static int start_tls(struct nbd_talk *t)
{
    struct nbd_option_reply r;
    int rc = nbd_talk_send(t, NBD_OPT_STARTTLS, NULL, 0);

    assert(t->place->tls && !t->socket.tls);
    if (rc == 0)
        rc = nbd_talk_reply(t, NBD_OPT_STARTTLS, &r);
    if (rc < 0)
        return rc;
    if (nbd_reply_is_error(&r))
        return nbd_talk_fail(t, -ENOTSUP, "the server does not speak TLS, which is asked for here: %s%s%.*s",
                             nbd_option_error_name(r.type), r.length > 0 ? ": " : "", (int)min_u64(r.length, 200),
                             (const char *)t->data);
    if (r.type != NBD_REP_ACK || r.length != 0)
        return nbd_talk_breach(t, NBD_OPT_STARTTLS, "it is neither yes nor no");
    rc = look_for_more(t);
    if (rc < 0)
        return rc;
    t->socket.tls = nbd_tls_begin(t->place, t->why);
    return t->socket.tls ? shake_tls(t) : -EINVAL;
}

int nbd_talk_greet(struct nbd_talk *t)
{
    uint8_t buf[NBD_GREETING_SIZE], ours[NBD_CLIENT_FLAGS_SIZE];
    uint16_t flags;
    int rc = nbd_talk_get(t, buf, sizeof buf);

    if (rc < 0)
        return rc;
    if (nbd_is_oldstyle(buf))
        return nbd_talk_fail(t, -ENOTSUP, "the server speaks the oldstyle protocol only");
    if (nbd_greeting_get(buf, &flags) < 0)
        return nbd_talk_fail(t, -EPROTO, "what answers is no NBD server");
    if (!(flags & NBD_FLAG_FIXED_NEWSTYLE))
        return nbd_talk_fail(t, -ENOTSUP, "the server does not speak the fixed newstyle protocol");
    t->no_zeroes = flags & NBD_FLAG_NO_ZEROES;
    nbd_client_flags_put(ours, NBD_FLAG_FIXED_NEWSTYLE | (t->no_zeroes ? NBD_FLAG_NO_ZEROES : 0u));
    rc = put(t, ours, sizeof ours);
    return rc == 0 && t->place->tls ? start_tls(t) : rc;
}

/* ---- sockets --------------------------------------------------------------------------------------------- */

static int not_reached(struct nbd_talk *t, int error)
{
    if (t->place->path)
        return nbd_talk_fail(t, -error, "connecting to the socket %.200s: %s", t->place->path, strerror(error));
    return nbd_talk_fail(t, -error, "connecting to %.200s, port %.20s: %s", t->place->host, t->place->port,
                         strerror(error));
}

/* 0 or -errno, with t->socket.fd. */
static int connect_to(struct nbd_talk *t, int family, const struct sockaddr *to, socklen_t len)
{
    static const struct timespec blink = {.tv_nsec = 10000000};
    socklen_t size = sizeof(int);
    int error = 0;

    t->socket.fd = socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (t->socket.fd < 0)
        return not_reached(t, errno);
    while (connect(t->socket.fd, to, len) < 0) {
        error = errno;
        if (error == EISCONN)
            break;
        if (error == EAGAIN && nbd_now_ms() < t->deadline_ms) { /* a socket of this host's, whose line is full */
            clock_nanosleep(CLOCK_MONOTONIC, 0, &blink, NULL);
            continue;
        }
        if (error != EINPROGRESS && error != EINTR && error != EALREADY)
            return not_reached(t, error);
        if (wait_for(t, POLLOUT) < 0)
            return not_reached(t, ETIMEDOUT);
        if (getsockopt(t->socket.fd, SOL_SOCKET, SO_ERROR, &error, &size) < 0)
            error = errno;
        return error ? not_reached(t, error) : 0;
    }
    return 0;
}

static int reach_socket(struct nbd_talk *t)
{
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    int bytes = SOCKET_BUFFER, rc;

    assert(strlen(t->place->path) < sizeof to.sun_path);
    memcpy(to.sun_path, t->place->path, strlen(t->place->path));
    rc = connect_to(t, AF_UNIX, (const struct sockaddr *)&to, sizeof to);
    if (rc < 0)
        return rc;
    setsockopt(t->socket.fd, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes); /* as much of it as the system allows */
    setsockopt(t->socket.fd, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof bytes);
    return 0;
}

/* A host that is gone without a word is noticed after two minutes. */
static void set_tcp(int fd)
{
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &(int){1}, sizeof(int));
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &(int){60}, sizeof(int));
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &(int){15}, sizeof(int));
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &(int){4}, sizeof(int));
}

static int reach_host(struct nbd_talk *t)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *list = NULL;
    int rc = getaddrinfo(t->place->host, t->place->port, &hints, &list);

    if (rc != 0)
        return nbd_talk_fail(t, -EHOSTUNREACH, "%.200s, port %.20s: %s", t->place->host, t->place->port,
                             gai_strerror(rc));
    rc = not_reached(t, EHOSTUNREACH);
    for (const struct addrinfo *a = list; a && rc < 0; a = a->ai_next) {
        if (t->socket.fd >= 0)
            close(t->socket.fd);
        rc = connect_to(t, a->ai_family, a->ai_addr, a->ai_addrlen);
    }
    freeaddrinfo(list);
    if (rc == 0)
        set_tcp(t->socket.fd);
    return rc;
}

int nbd_talk_connect(struct nbd_talk *t)
{
    int rc = t->place->path ? reach_socket(t) : reach_host(t);

    t->terms->reached = rc == 0;
    return rc;
}
