/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Sockets that are listened on, and whom they bring.
 *
 * Happy path: the first thread accepts, and gives the connection to the thread that has the fewest.
 * Failures: with as many clients as there may be nobody is accepted, until one has gone; what cannot be accepted
 * for want of descriptors or memory waits, too.
 */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "exports/nbd/server.h"
#include "nbd/mutant.h"

enum { BACKLOG = 128, BLINK_NS = 10000000, BLINKS = 500 /* 5 s */ };

void nbds_listener_free(struct nbds_listener *l)
{
    struct stat st;

    close(l->fd);
    /* Another server may have taken its place. */
    if (l->path && lstat(l->path, &st) == 0 && st.st_dev == l->device && st.st_ino == l->inode)
        unlink(l->path);
    free(l->path);
    free(l);
}

/*
 * A unix socket's buffer, which holds up the other side when it is full. What is given to one that is listened on
 * tells what those will get that are accepted.
 */
static void enlarge(struct nbd_server *server, int fd)
{
    const int bytes = NBD_SERVER_SOCKET_BYTES;
    int got = 0;
    socklen_t len = sizeof got;

    if (setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &bytes, sizeof bytes) < 0)
        setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes);
    /* The kernel doubles what it was asked for, and says so. */
    if (getsockopt(fd, SOL_SOCKET, SO_SNDBUF, &got, &len) == 0)
        atomic_store(&server->send_buffer, (unsigned)got / 2);
}

/* The descriptor is the server's from here on. */
static int add(struct nbd_server *server, int fd, const char *path, bool is_unix)
{
    struct nbds_listener *l = calloc(1, sizeof *l), **end = &server->listeners;
    struct stat st = {0};

    if (l && path) {
        l->path = realpath(path, NULL); /* wherever this process goes */
        if (l->path && lstat(l->path, &st) < 0)
            st = (struct stat){0};
        l->device = st.st_dev;
        l->inode = st.st_ino;
    }
    if (!l || (path && !l->path)) {
        free(l);
        close(fd);
        return nbds_error(-ENOMEM, "no memory to listen");
    }
    l->fd = fd;
    l->is_unix = is_unix;
    if (is_unix)
        enlarge(server, fd);
    while (*end)
        end = &(*end)->next;
    *end = l;
    return 0;
}

/* A socket that is left of a server that was killed: nobody accepts there. */
static bool is_deserted(const struct sockaddr_un *address)
{
    struct stat st;

    if (lstat(address->sun_path, &st) < 0 || !S_ISSOCK(st.st_mode))
        return false;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0); /* whose line is full is there, too */
    bool deserted = fd >= 0 && connect(fd, (const struct sockaddr *)address, sizeof *address) < 0 &&
                    errno == ECONNREFUSED;
    if (fd >= 0)
        close(fd);
    return deserted;
}

/*
 * Servers that begin at once do so one after the other: what one has bound and does not listen on yet looks
 * deserted to the next. Whoever else locks the folder is not waited for for ever. -1: without.
 */
static int lock_folder(const char *path)
{
    static const struct timespec blink = {.tv_nsec = BLINK_NS};
    const char *slash = strrchr(path, '/');
    char *folder = !slash ? strdup(".") : slash == path ? strdup("/") : strndup(path, (size_t)(slash - path));
    int fd = folder ? open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;

    free(folder);
    for (int i = 0; fd >= 0 && i < BLINKS && flock(fd, LOCK_EX | LOCK_NB) < 0 && errno == EWOULDBLOCK; i++)
        clock_nanosleep(CLOCK_MONOTONIC, 0, &blink, NULL);
    return fd;
}

static int listen_there(int fd, const struct sockaddr_un *address)
{
    const struct sockaddr *to = (const struct sockaddr *)address;
    int rc = bind(fd, to, sizeof *address) < 0 ? -errno : 0;

    if (rc == -EADDRINUSE && is_deserted(address) && unlink(address->sun_path) == 0)
        rc = bind(fd, to, sizeof *address) < 0 ? -errno : 0;
    if (rc == 0 && listen(fd, BACKLOG) < 0)
        rc = -errno;
    return rc;
}

int nbd_server_listen_unix(struct nbd_server *server, const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int rc;

    if (path[0] == '\0')
        return nbds_error(-EINVAL, "a socket needs a path");
    if (strlen(path) >= sizeof address.sun_path)
        return nbds_error(-EINVAL, "%s: the path of a socket has at most %zu bytes", path,
                          sizeof address.sun_path - 1);
    memcpy(address.sun_path, path, strlen(path) + 1);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return nbds_error(-errno, "%s: no socket: %s", path, strerror(errno));
    int folder = lock_folder(path);
    rc = listen_there(fd, &address);
    if (rc < 0) {
        close(fd);
        nbds_error(rc, "%s: cannot listen there: %s", path, strerror(-rc));
    } else {
        rc = add(server, fd, path, true);
    }
    if (folder >= 0)
        close(folder);
    return rc;
}

static int listen_at(const struct addrinfo *a, unsigned *ret_port)
{
    struct sockaddr_storage bound;
    socklen_t len = sizeof bound;
    const int on = 1;
    int fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, a->ai_protocol);

    if (fd < 0)
        return -errno;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (a->ai_family == AF_INET6)
        setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof on);
    if (bind(fd, a->ai_addr, a->ai_addrlen) < 0 || listen(fd, BACKLOG) < 0 ||
        getsockname(fd, (struct sockaddr *)&bound, &len) < 0) {
        int rc = -errno;
        close(fd);
        return rc;
    }
    *ret_port = ntohs(bound.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&bound)->sin6_port
                                                  : ((struct sockaddr_in *)&bound)->sin_port);
    return fd;
}

/* The same port at all addresses of the host: the one that the kernel has chosen for the first, too. */
static void set_port(const struct addrinfo *a, unsigned port)
{
    if (a->ai_family == AF_INET6)
        ((struct sockaddr_in6 *)(void *)a->ai_addr)->sin6_port = htons((uint16_t)port);
    else
        ((struct sockaddr_in *)(void *)a->ai_addr)->sin_port = htons((uint16_t)port);
}

int nbd_server_listen_tcp(struct nbd_server *server, const char *host, const char *port, unsigned *ret_port)
{
    const struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE};
    struct addrinfo *list;
    unsigned chosen = 0;
    int rc = getaddrinfo(host, port, &hints, &list);

    if (rc != 0)
        return nbds_error(-EINVAL, "%s:%s: %s", host ? host : "*", port,
                          rc == EAI_SYSTEM ? strerror(errno) : gai_strerror(rc));
    rc = -EADDRNOTAVAIL;
    for (const struct addrinfo *a = list; a; a = a->ai_next) {
        if (a->ai_family != AF_INET && a->ai_family != AF_INET6)
            continue;
        if (chosen != 0)
            set_port(a, chosen);
        int fd = listen_at(a, &chosen);
        rc = fd < 0 ? fd : add(server, fd, NULL, false);
        /* A host without IPv6 has addresses of it all the same. */
        if (rc < 0 && rc != -EAFNOSUPPORT && rc != -EADDRNOTAVAIL)
            break;
    }
    freeaddrinfo(list);
    if (chosen == 0 || (rc < 0 && rc != -EAFNOSUPPORT && rc != -EADDRNOTAVAIL))
        return nbds_error(rc, "%s:%s: cannot listen there: %s", host ? host : "*", port, strerror(-rc));
    if (ret_port)
        *ret_port = chosen;
    return 0;
}

int nbd_server_listen_fd(struct nbd_server *server, int fd)
{
    struct sockaddr_storage address;
    socklen_t len = sizeof address;
    int listens = 0;
    socklen_t listens_len = sizeof listens;

    if (getsockname(fd, (struct sockaddr *)&address, &len) < 0 ||
        getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &listens_len) < 0 ||
        (!listens && !NBD_MUTANT(LISTEN_ANYHOW)))
        return nbds_error(-EINVAL, "descriptor %d is no socket that is listened on", fd);
    if (fcntl(fd, F_SETFL, O_NONBLOCK) < 0 || fcntl(fd, F_SETFD, FD_CLOEXEC) < 0)
        return nbds_error(-errno, "descriptor %d: %s", fd, strerror(errno));
    return add(server, fd, NULL, address.ss_family == AF_UNIX);
}

static void tune(struct nbd_server *server, const struct nbds_listener *l, int fd)
{
    const int on = 1;

    if (l->is_unix) {
        enlarge(server, fd);
        return;
    }
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
}

/* The thread that gets the next connection, which is counted there; NULL: as many as may be are there. */
static struct nbds_thread *choose(struct nbd_server *server)
{
    struct nbds_thread *least = NULL;

    pthread_mutex_lock(&server->lock);
    if (server->clients < server->opts.clients || NBD_MUTANT(CLIENTS_UNBOUNDED)) {
        least = &server->threads[0];
        for (unsigned i = 1; i < server->opts.threads; i++)
            if (server->threads[i].nconns < least->nconns)
                least = &server->threads[i];
        least->nconns++;
        server->clients++;
        assert(least->nconns <= server->clients && server->clients <= server->opts.clients);
    }
    pthread_mutex_unlock(&server->lock);
    return least;
}

int nbds_listen(struct nbds_thread *t)
{
    for (struct nbds_listener *l = t->server->listeners; !t->listening && l; l = l->next) {
        int rc = t->poller->ops->watch(t->poller, l->fd, true, l);
        if (rc < 0)
            return nbds_error(rc, "a socket that is listened on cannot be watched: %s", strerror(-rc));
    }
    t->listening = true;
    return 0;
}

void nbds_unlisten(struct nbds_thread *t)
{
    for (struct nbds_listener *l = t->server->listeners; t->listening && l; l = l->next)
        t->poller->ops->unwatch(t->poller, l->fd);
    t->listening = false;
}

void nbds_accept(struct nbds_thread *t, struct nbds_listener *l)
{
    struct nbd_server *server = t->server;
    struct nbds_thread *to;

    while ((to = choose(server)) != NULL) {
        int fd = accept4(l->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK), error = errno;
        struct nbds_stream *stream = NULL;

        if (fd >= 0) {
            tune(server, l, fd);
            stream = nbds_socket_stream(fd);
        }
        if (stream && nbds_thread_give(to, stream) == 0) {
            pthread_mutex_lock(&server->lock);
            server->connections++;
            pthread_mutex_unlock(&server->lock);
            continue;
        }
        if (stream)
            stream->ops->close(stream);
        pthread_mutex_lock(&server->lock);
        to->nconns--;
        server->clients--;
        pthread_mutex_unlock(&server->lock);
        if (fd < 0 && (error == EAGAIN || error == EWOULDBLOCK))
            return;
        if (fd < 0 && error != ECONNABORTED && error != EINTR)
            break;
    }
    nbds_unlisten(t); /* until one has gone, or for a while */
}
