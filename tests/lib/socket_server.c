/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <arpa/inet.h>
#include <assert.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "engine/base/bits.h"
#include "tests/lib/socket_wire.h"

enum { CONNECTIONS_MAX = 256, PIECE = 700 };

struct socket_server {
    int              fd;
    uint16_t         port;
    uint8_t         *bytes;
    uint64_t         size;
    pthread_mutex_t  lock; /* of the bytes */
    _Atomic int      habit;
    _Atomic unsigned connections;
    pthread_t        thread;
    pthread_t        served[CONNECTIONS_MAX];
    int              fds[CONNECTIONS_MAX];
};

struct connection {
    struct socket_server *server;
    int                   fd;
};

uint16_t socket_server_port(const struct socket_server *s)
{
    return s->port;
}

static bool get(int fd, void *buf, size_t len)
{
    return recv(fd, buf, len, MSG_WAITALL) == (ssize_t)len;
}

static bool put(int fd, const void *buf, size_t len, size_t piece)
{
    const char *p = buf;

    while (len > 0) {
        ssize_t n = send(fd, p, min_u64(len, piece), MSG_NOSIGNAL);
        if (n <= 0)
            return false;
        p += n;
        len -= (size_t)n;
        if (piece < SIZE_MAX && len > 0)
            nanosleep(&(struct timespec){.tv_nsec = 100000}, NULL);
    }
    return true;
}

/* One request; false: the connection ends. */
static bool serve(struct socket_server *s, int fd)
{
    struct wire_request r;
    struct wire_reply reply = {.magic = WIRE_MAGIC};
    uint8_t *data;
    bool ok = get(fd, &r, sizeof r) && r.len <= s->size && r.offset <= s->size - r.len;
    int habit;

    data = ok ? malloc(r.len + 1) : NULL;
    ok = ok && (r.kind != IO_WRITE || get(fd, data, r.len));
    if (!ok) {
        free(data);
        return false;
    }
    habit = atomic_load(&s->habit);
    pthread_mutex_lock(&s->lock);
    if (r.kind == IO_WRITE)
        memcpy(s->bytes + r.offset, data, r.len);
    else
        memcpy(data, s->bytes + r.offset, r.len);
    pthread_mutex_unlock(&s->lock);
    reply.sum = wire_sum(data, r.len) + (habit == SERVER_LIES);
    if (habit == SERVER_SILENT)
        ok = get(fd, data, 1); /* until the other side has had enough */
    else if (habit == SERVER_CLOSES)
        ok = put(fd, &reply, sizeof reply / 2, SIZE_MAX) && false;
    else
        ok = put(fd, &reply, sizeof reply, habit == SERVER_PIECES ? 3 : SIZE_MAX) &&
             (r.kind == IO_WRITE || put(fd, data, r.len, habit == SERVER_PIECES ? PIECE : SIZE_MAX));
    free(data);
    return ok;
}

static void *connection_main(void *arg)
{
    struct connection c = *(struct connection *)arg;

    free(arg);
    while (serve(c.server, c.fd))
        ;
    shutdown(c.fd, SHUT_RDWR);
    return NULL;
}

static void *server_main(void *arg)
{
    struct socket_server *s = arg;
    int fd;

    while ((fd = accept(s->fd, NULL, NULL)) >= 0) {
        unsigned n = atomic_load(&s->connections);
        struct connection *c = malloc(sizeof *c);
        assert(n < CONNECTIONS_MAX && c);
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
        *c = (struct connection){s, fd};
        s->fds[n] = fd;
        atomic_store(&s->connections, n + 1); /* before it is served: the other side counts */
        if (pthread_create(&s->served[n], NULL, connection_main, c) != 0)
            abort();
    }
    return NULL;
}

struct socket_server *socket_server_start(uint64_t size)
{
    struct socket_server *s = calloc(1, sizeof *s);
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof at;

    s->bytes = calloc(1, size);
    s->size = size;
    pthread_mutex_init(&s->lock, NULL);
    s->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (bind(s->fd, (struct sockaddr *)&at, sizeof at) < 0 || listen(s->fd, 64) < 0 ||
        getsockname(s->fd, (struct sockaddr *)&at, &len) < 0)
        abort();
    s->port = at.sin_port;
    if (pthread_create(&s->thread, NULL, server_main, s) != 0)
        abort();
    return s;
}

void socket_server_stop(struct socket_server *s)
{
    shutdown(s->fd, SHUT_RDWR); /* ends accept() */
    pthread_join(s->thread, NULL);
    for (unsigned i = 0; i < atomic_load(&s->connections); i++) {
        shutdown(s->fds[i], SHUT_RDWR);
        pthread_join(s->served[i], NULL);
        close(s->fds[i]);
    }
    close(s->fd);
    pthread_mutex_destroy(&s->lock);
    free(s->bytes);
    free(s);
}

void socket_server_set(struct socket_server *s, enum server_habit habit)
{
    atomic_store(&s->habit, habit);
}

unsigned socket_server_connections(struct socket_server *s)
{
    return atomic_load(&s->connections);
}

uint64_t socket_server_size(const struct socket_server *s)
{
    return s->size;
}
