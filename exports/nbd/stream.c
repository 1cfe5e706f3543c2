/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Streams that are sockets, and epoll.
 *
 * Happy path: descriptors are watched once, edge-triggered, so that no call is made to change what is waited for.
 * The queue watches the epoll, so that one call sends requests and sleeps, for completions and for sockets, and
 * what a completion costs does not depend on epoll.
 * Failures: an error of a socket is the stream's end.
 */
#include "exports/nbd/stream.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static ssize_t socket_recv(struct nbds_stream *s, const struct iovec *iov, unsigned n)
{
    struct msghdr msg = {.msg_iov = (struct iovec *)(uintptr_t)iov, .msg_iovlen = n};
    ssize_t got;

    do
        got = n == 1 ? recv(s->fd, iov->iov_base, iov->iov_len, MSG_DONTWAIT) : recvmsg(s->fd, &msg, MSG_DONTWAIT);
    while (got < 0 && errno == EINTR);
    return got < 0 ? (errno == EWOULDBLOCK ? -EAGAIN : -errno) : got;
}

static ssize_t socket_send(struct nbds_stream *s, const struct iovec *iov, unsigned n)
{
    struct msghdr msg = {.msg_iov = (struct iovec *)(uintptr_t)iov, .msg_iovlen = n};
    ssize_t sent;

    do
        sent = sendmsg(s->fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL);
    while (sent < 0 && errno == EINTR);
    return sent < 0 ? (errno == EWOULDBLOCK ? -EAGAIN : -errno) : sent;
}

static void socket_close(struct nbds_stream *s)
{
    close(s->fd);
    free(s);
}

static const struct nbds_stream_ops socket_ops = {socket_recv, socket_send, socket_close, NULL};

struct nbds_stream *nbds_socket_stream(int fd)
{
    struct nbds_stream *s = malloc(sizeof *s);

    if (!s) {
        close(fd);
        return NULL;
    }
    *s = (struct nbds_stream){.ops = &socket_ops, .fd = fd, .short_empty = true};
    return s;
}

static uint64_t clock_now(struct nbds_poller *p)
{
    struct timespec ts;

    (void)p;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static int epoll_watch(struct nbds_poller *p, int fd, bool level, void *data)
{
    struct epoll_event event = {.data.ptr = data, .events = level ? EPOLLIN : EPOLLIN | EPOLLRDHUP | EPOLLET};

    return epoll_ctl(p->fd, EPOLL_CTL_ADD, fd, &event) < 0 ? -errno : 0;
}

static void epoll_want_room(struct nbds_poller *p, int fd, void *data, bool wanted)
{
    struct epoll_event event = {.data.ptr = data,
                                .events = EPOLLIN | EPOLLRDHUP | EPOLLET | (wanted ? EPOLLOUT : 0u)};

    epoll_ctl(p->fd, EPOLL_CTL_MOD, fd, &event);
}

static void epoll_unwatch(struct nbds_poller *p, int fd)
{
    epoll_ctl(p->fd, EPOLL_CTL_DEL, fd, NULL);
}

/* Those that are ready, without waiting. */
static unsigned look(struct nbds_poller *p, struct nbds_ready *ready)
{
    struct epoll_event events[NBDS_EVENTS];
    int n = epoll_wait(p->fd, events, NBDS_EVENTS, 0);

    for (int i = 0; i < n; i++) {
        ready[i].data = events[i].data.ptr;
        ready[i].readiness = (events[i].events & ~(uint32_t)EPOLLOUT ? NBDS_READABLE : 0) |
                             (events[i].events & (EPOLLOUT | EPOLLERR | EPOLLHUP) ? NBDS_WRITABLE : 0) |
                             (events[i].events & (EPOLLRDHUP | EPOLLERR | EPOLLHUP) ? NBDS_ENDING : 0);
    }
    return n < 0 ? 0 : (unsigned)n;
}

static void epoll_sleep(struct nbds_poller *p, vdisk_queue *queue, struct nbds_events *ret, int timeout_ms)
{
    const struct timespec limit = {timeout_ms / 1000, timeout_ms % 1000 * 1000000L};
    int n = vdisk_wait(queue, ret->done, timeout_ms != 0, NBDS_EVENTS, timeout_ms > 0 ? &limit : NULL);

    ret->ndone = n > 0 ? (unsigned)n : 0;
    ret->nready = 0;
    if (!p->told)
        return;
    p->told = false; /* before the look: what comes later says so again */
    ret->nready = look(p, ret->ready);
    p->told |= ret->nready == NBDS_EVENTS; /* there may be more, of which nothing is said again */
}

static void epoll_destroy(struct nbds_poller *p)
{
    close(p->fd);
    free(p);
}

static const struct nbds_poller_ops epoll_ops = {clock_now, epoll_watch, epoll_want_room, epoll_unwatch,
                                                 epoll_sleep, epoll_destroy};

struct nbds_poller *nbds_epoll(void)
{
    struct nbds_poller *p = malloc(sizeof *p);
    int fd = epoll_create1(EPOLL_CLOEXEC);

    if (!p || fd < 0) {
        int error = p ? errno : ENOMEM;
        free(p);
        if (fd >= 0)
            close(fd);
        errno = error;
        return NULL;
    }
    *p = (struct nbds_poller){.ops = &epoll_ops, .fd = fd};
    return p;
}
