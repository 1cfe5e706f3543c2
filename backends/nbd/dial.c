/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Happy path: a socket; the server's greeting, our flags; extended headers, else structured replies; the context
 * base:allocation; GO, whose answer tells the size, what can be done, and the sizes of blocks.
 * Failure modes: nobody there; silence (-ETIMEDOUT); TLS is demanded (-ENOTSUP); no such export (-ENOENT);
 * refused for another reason, which the server gives; what comes is not the protocol, or too long, or without end
 * (-EPROTO).
 *
 * A server is not trusted: each length is looked at before anything is read for it, and the number of replies to
 * one option is bounded.
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

#include "backends/nbd/client.h"
#include "engine/base/bits.h"
#include "engine/base/error.h"
#include "engine/base/mem.h"

enum { HANDSHAKE_MS = 10000, REPLIES_MAX = 64, REPLY_BYTES_MAX = 8192, SOCKET_BUFFER = 2 << 20 };

struct talk {
    const struct nbd_place *place;
    struct nbd_terms       *terms;
    int                     fd;
    uint64_t                deadline_ms;
    char                   *why;
    bool                    no_zeroes;
    uint8_t                 data[REPLY_BYTES_MAX]; /* of the last reply */
};

uint64_t nbd_now_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static int fail(struct talk *t, int rc, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

static int fail(struct talk *t, int rc, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(t->why, NBD_WHY_MAX, fmt, ap);
    va_end(ap);
    err_make_printable(t->why); /* servers' words are in it */
    return rc;
}

/* ---- bytes ----------------------------------------------------------------------------------------------- */

static int wait_for(struct talk *t, short events)
{
    struct pollfd p = {.fd = t->fd, .events = events};

    for (;;) {
        uint64_t now = nbd_now_ms();
        int n = now < t->deadline_ms ? poll(&p, 1, (int)(t->deadline_ms - now)) : 0;
        if (n > 0)
            return 0;
        if (n == 0)
            return fail(t, -ETIMEDOUT, "the server does not answer");
        if (errno != EINTR)
            return fail(t, -errno, "waiting for the server: %s", strerror(errno));
    }
}

static int lost(struct talk *t, int error)
{
    if (error == 0)
        return fail(t, -ECONNRESET, "the server has closed the connection during the handshake");
    return fail(t, -error, "the connection broke during the handshake: %s", strerror(error));
}

static int get(struct talk *t, void *buf, size_t len)
{
    for (size_t have = 0; have < len;) {
        ssize_t n = recv(t->fd, (char *)buf + have, len - have, MSG_DONTWAIT);
        int rc = 0;
        if (n > 0)
            have += (size_t)n;
        else if (n < 0 && errno == EAGAIN)
            rc = wait_for(t, POLLIN);
        else if (n == 0 || errno != EINTR)
            rc = lost(t, n == 0 ? 0 : errno);
        if (rc < 0)
            return rc;
        if (nbd_now_ms() >= t->deadline_ms) /* bytes that come one by one */
            return fail(t, -ETIMEDOUT, "the server takes too long for its handshake");
    }
    return 0;
}

static int put(struct talk *t, const void *buf, size_t len)
{
    for (size_t sent = 0; sent < len;) {
        ssize_t n = send(t->fd, (const char *)buf + sent, len - sent, MSG_DONTWAIT | MSG_NOSIGNAL);
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

/* ---- options --------------------------------------------------------------------------------------------- */

static int send_option(struct talk *t, uint32_t option, const uint8_t *data, size_t len)
{
    uint8_t *message = mem_alloc(NBD_OPTION_SIZE + len);
    int rc;

    if (!message)
        return fail(t, -ENOMEM, "out of memory");
    nbd_option_put(message, (struct nbd_option){option, (uint32_t)len});
    if (len > 0)
        memcpy(message + NBD_OPTION_SIZE, data, len);
    rc = put(t, message, NBD_OPTION_SIZE + len);
    mem_free(message);
    return rc;
}

static int breach(struct talk *t, uint32_t option, const char *what)
{
    return fail(t, -EPROTO, "the server's answer to the option %s is wrong: %s", nbd_option_name(option), what);
}

/* One reply; its data is in t->data. */
static int get_reply(struct talk *t, uint32_t option, struct nbd_option_reply *ret)
{
    uint8_t head[NBD_OPTION_REPLY_SIZE];
    int rc = get(t, head, sizeof head);

    if (rc < 0)
        return rc;
    if (nbd_option_reply_get(head, ret) < 0)
        return breach(t, option, "not a reply");
    if (ret->option != option)
        return breach(t, option, "it is for another one");
    if (ret->length > sizeof t->data)
        return breach(t, option, "too long");
    return get(t, t->data, ret->length);
}

/* The server has said no, in a way that ends it. */
static int refused(struct talk *t, uint32_t option, const struct nbd_option_reply *r)
{
    int len = (int)min_u64(r->length, 200);
    const char *colon = len > 0 ? ": " : "";

    switch (r->type) {
    case NBD_REP_ERR_TLS_REQD:
        return fail(t, -ENOTSUP, "the server demands TLS, which there is none of here yet");
    case NBD_REP_ERR_UNKNOWN:
        return fail(t, -ENOENT, "the server has no export '%.200s'%s%.*s", t->place->export, colon, len,
                    (const char *)t->data);
    case NBD_REP_ERR_POLICY:
        return fail(t, -EACCES, "the server refuses the export '%.200s'%s%.*s", t->place->export, colon, len,
                    (const char *)t->data);
    default:
        return fail(t, -EIO, "the server refuses the option %s: %s%s%.*s", nbd_option_name(option),
                    nbd_option_error_name(r->type), colon, len, (const char *)t->data);
    }
}

static bool is_error(const struct nbd_option_reply *r)
{
    return r->type & NBD_REP_FLAG_ERROR;
}

/* An option without data: 1: acknowledged, 0: not. */
static int ask_for(struct talk *t, uint32_t option)
{
    struct nbd_option_reply r;
    int rc = send_option(t, option, NULL, 0);

    if (rc == 0)
        rc = get_reply(t, option, &r);
    if (rc < 0)
        return rc;
    if (r.type == NBD_REP_ERR_TLS_REQD || r.type == NBD_REP_ERR_SHUTDOWN)
        return refused(t, option, &r);
    if (is_error(&r))
        return 0;
    return r.type == NBD_REP_ACK && r.length == 0 ? 1 : breach(t, option, "it is neither yes nor no");
}

static const char allocation[] = "base:allocation";

static struct nbd_string string_of(const char *text)
{
    return (struct nbd_string){text, (uint32_t)strlen(text)};
}

static int take_context(struct talk *t, const struct nbd_option_reply *r)
{
    struct nbd_string name;
    uint32_t id;

    if (r->type != NBD_REP_META_CONTEXT || nbd_meta_get(t->data, r->length, &id, &name) < 0)
        return breach(t, NBD_OPT_SET_META_CONTEXT, "not a context");
    if (!nbd_string_equals(name, allocation) || t->terms->has_context)
        return breach(t, NBD_OPT_SET_META_CONTEXT, "a context that was not asked for");
    t->terms->has_context = true;
    t->terms->context = id;
    return 0;
}

static int ask_for_context(struct talk *t)
{
    const uint32_t option = NBD_OPT_SET_META_CONTEXT;
    struct nbd_string query = string_of(allocation);
    uint8_t data[NBD_MAX_STRING + 64];
    size_t len = nbd_meta_request_put(data, sizeof data, string_of(t->place->export), &query, 1);
    struct nbd_option_reply r;
    int rc;

    assert(len > 0);
    rc = send_option(t, option, data, len);
    for (unsigned i = 0; rc == 0 && i < REPLIES_MAX; i++) {
        rc = get_reply(t, option, &r);
        if (rc < 0)
            return rc;
        if (is_error(&r)) {
            t->terms->has_context = false; /* what is wrong with the export GO will tell */
            return 0;
        }
        if (r.type == NBD_REP_ACK)
            return r.length == 0 ? 0 : breach(t, option, "data behind its yes");
        rc = take_context(t, &r);
    }
    return rc < 0 ? rc : breach(t, option, "it has no end");
}

/* ---- the export ------------------------------------------------------------------------------------------ */

static int take_info(struct talk *t, const struct nbd_option_reply *r, bool *ret_has)
{
    struct nbd_info info;

    if (r->type != NBD_REP_INFO || nbd_info_get(t->data, r->length, &info) < 0)
        return breach(t, NBD_OPT_GO, "not a piece of information");
    if (info.type == NBD_INFO_EXPORT) {
        t->terms->size = info.exported.size;
        t->terms->flags = info.exported.flags;
        *ret_has = true;
    } else if (info.type == NBD_INFO_BLOCK_SIZE) {
        if (!nbd_block_size_valid(&info.block))
            return breach(t, NBD_OPT_GO, "its sizes of blocks are none");
        t->terms->block = info.block;
        t->terms->has_block = true;
    }
    return 0;
}

/* 1: done; 0: the server does not know it. */
static int go(struct talk *t)
{
    static const uint16_t types[] = {NBD_INFO_BLOCK_SIZE};
    uint8_t data[NBD_MAX_STRING + 64];
    size_t len = nbd_info_request_put(data, sizeof data, string_of(t->place->export), types, ARRAY_LEN(types));
    struct nbd_option_reply r;
    bool has_export = false;
    int rc;

    assert(len > 0);
    rc = send_option(t, NBD_OPT_GO, data, len);
    for (unsigned i = 0; rc == 0 && i < REPLIES_MAX; i++) {
        rc = get_reply(t, NBD_OPT_GO, &r);
        if (rc < 0)
            return rc;
        if (r.type == NBD_REP_ERR_UNSUP)
            return 0;
        if (is_error(&r))
            return refused(t, NBD_OPT_GO, &r);
        if (r.type == NBD_REP_ACK)
            return has_export && r.length == 0 ? 1 : breach(t, NBD_OPT_GO, "it does not tell the export");
        rc = take_info(t, &r, &has_export);
    }
    return rc < 0 ? rc : breach(t, NBD_OPT_GO, "it has no end");
}

/* The old way: a server that does not like it hangs up. */
static int export_name(struct talk *t)
{
    uint8_t buf[NBD_EXPORT_SIZE + NBD_EXPORT_ZEROES];
    struct nbd_export export;
    int rc = send_option(t, NBD_OPT_EXPORT_NAME, (const uint8_t *)t->place->export, strlen(t->place->export));

    if (rc == 0)
        rc = get(t, buf, NBD_EXPORT_SIZE + (t->no_zeroes ? 0 : NBD_EXPORT_ZEROES));
    if (rc < 0)
        return rc;
    export = nbd_export_get(buf);
    t->terms->size = export.size;
    t->terms->flags = export.flags;
    return 0;
}

static int greet(struct talk *t)
{
    uint8_t buf[NBD_GREETING_SIZE], ours[NBD_CLIENT_FLAGS_SIZE];
    uint16_t flags;
    int rc = get(t, buf, sizeof buf);

    if (rc < 0)
        return rc;
    if (nbd_is_oldstyle(buf))
        return fail(t, -ENOTSUP, "the server speaks the oldstyle protocol only");
    if (nbd_greeting_get(buf, &flags) < 0)
        return fail(t, -EPROTO, "what answers is no NBD server");
    if (!(flags & NBD_FLAG_FIXED_NEWSTYLE))
        return fail(t, -ENOTSUP, "the server does not speak the fixed newstyle protocol");
    t->no_zeroes = flags & NBD_FLAG_NO_ZEROES;
    nbd_client_flags_put(ours, NBD_FLAG_FIXED_NEWSTYLE | (t->no_zeroes ? NBD_FLAG_NO_ZEROES : 0u));
    return put(t, ours, sizeof ours);
}

static int check_terms(struct talk *t)
{
    struct nbd_terms *e = t->terms;

    if (!(e->flags & NBD_FLAG_HAS_FLAGS))
        return fail(t, -EPROTO, "the server does not tell what the export can do");
    if (e->size > INT64_MAX)
        return fail(t, -EFBIG, "the export says that it has more than 2^63 bytes");
    if (e->has_block && !is_aligned(e->size, e->block.minimum))
        return fail(t, -EINVAL, "the export has %llu bytes, which is no multiple of its block size, %u",
                    (unsigned long long)e->size, e->block.minimum);
    return 0;
}

static int shake_hands(struct talk *t)
{
    struct nbd_terms *e = t->terms;
    int rc = greet(t);

    if (rc == 0)
        rc = ask_for(t, NBD_OPT_EXTENDED_HEADERS);
    if (rc < 0)
        return rc;
    e->extended = e->structured = rc == 1;
    if (!e->structured) {
        rc = ask_for(t, NBD_OPT_STRUCTURED_REPLY);
        if (rc < 0)
            return rc;
        e->structured = rc == 1;
    }
    rc = e->structured ? ask_for_context(t) : 0;
    if (rc == 0)
        rc = go(t);
    if (rc == 0)
        rc = export_name(t);
    return rc < 0 ? rc : check_terms(t);
}

/* ---- sockets --------------------------------------------------------------------------------------------- */

static int not_reached(struct talk *t, int error)
{
    if (t->place->path)
        return fail(t, -error, "connecting to the socket %.200s: %s", t->place->path, strerror(error));
    return fail(t, -error, "connecting to %.200s, port %.20s: %s", t->place->host, t->place->port,
                strerror(error));
}

/* 0 or -errno, with t->fd. */
static int connect_to(struct talk *t, int family, const struct sockaddr *to, socklen_t len)
{
    static const struct timespec blink = {.tv_nsec = 10000000};
    socklen_t size = sizeof(int);
    int error = 0;

    t->fd = socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (t->fd < 0)
        return not_reached(t, errno);
    while (connect(t->fd, to, len) < 0) {
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
        if (getsockopt(t->fd, SOL_SOCKET, SO_ERROR, &error, &size) < 0)
            error = errno;
        return error ? not_reached(t, error) : 0;
    }
    return 0;
}

static int reach_socket(struct talk *t)
{
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    int bytes = SOCKET_BUFFER, rc;

    assert(strlen(t->place->path) < sizeof to.sun_path);
    memcpy(to.sun_path, t->place->path, strlen(t->place->path));
    rc = connect_to(t, AF_UNIX, (const struct sockaddr *)&to, sizeof to);
    if (rc < 0)
        return rc;
    setsockopt(t->fd, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes); /* as much of it as the system allows */
    setsockopt(t->fd, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof bytes);
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

static int reach_host(struct talk *t)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *list = NULL;
    int rc = getaddrinfo(t->place->host, t->place->port, &hints, &list);

    if (rc != 0)
        return fail(t, -EHOSTUNREACH, "%.200s, port %.20s: %s", t->place->host, t->place->port, gai_strerror(rc));
    rc = not_reached(t, EHOSTUNREACH);
    for (const struct addrinfo *a = list; a && rc < 0; a = a->ai_next) {
        if (t->fd >= 0)
            close(t->fd);
        rc = connect_to(t, a->ai_family, a->ai_addr, a->ai_addrlen);
    }
    freeaddrinfo(list);
    if (rc == 0)
        set_tcp(t->fd);
    return rc;
}

int nbd_dial(const struct nbd_place *place, struct nbd_terms *ret, int *ret_fd, char *why)
{
    struct talk *t = mem_calloc(1, sizeof *t);
    int rc;

    if (!t) {
        snprintf(why, NBD_WHY_MAX, "out of memory");
        return -ENOMEM;
    }
    *t = (struct talk){.place = place, .terms = ret, .fd = -1, .why = why};
    t->deadline_ms = nbd_now_ms() + HANDSHAKE_MS;
    *ret = (struct nbd_terms){0};
    rc = place->path ? reach_socket(t) : reach_host(t);
    ret->reached = rc == 0;
    if (rc == 0)
        rc = shake_hands(t);
    if (rc < 0 && t->fd >= 0)
        close(t->fd);
    if (rc == 0)
        *ret_fd = t->fd;
    assert(rc < 0 || t->fd >= 0);
    mem_free(t);
    return rc;
}
