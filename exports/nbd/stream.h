/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the server knows of networks: streams of bytes, a poller that says which can go on, and the clock.
 * Sockets and epoll are one of them (stream.c); a network that a test simulates is another, and TLS is a stream
 * around a stream. A thread sleeps in one place, for its streams and its queue: the poller's wait.
 *
 * Readiness is told once for each change: a stream is tried until it says -EAGAIN, or has moved less than it was
 * asked to.
 */
#ifndef EXPORTS_NBD_STREAM_H
#define EXPORTS_NBD_STREAM_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

#include <vdisk.h>

struct nbds_stream;

struct nbds_stream_ops {
    /*
     * Bytes; 0: the other end has ended; -EAGAIN: not now; -EINTR: nothing in what was looked at, and there may be
     * more, of which nothing is told again; or -errno, after which there is only close. A call does little more
     * than it moves bytes, whatever a client sends.
     */
    ssize_t (*recv)(struct nbds_stream *s, const struct iovec *iov, unsigned n);
    ssize_t (*send)(struct nbds_stream *s, const struct iovec *iov, unsigned n);
    void (*close)(struct nbds_stream *s); /* frees it; the poller forgets it */
    /* Something that send() has taken is still to go out, by send() of nothing. NULL: never. */
    bool (*pending)(struct nbds_stream *s);
};

struct nbds_stream {
    const struct nbds_stream_ops *ops;
    int  fd;          /* what the poller watches */
    bool short_empty; /* less than was asked for means that nothing is left */
};

enum nbds_readiness {
    NBDS_READABLE = 1u << 0, /* or ended */
    NBDS_WRITABLE = 1u << 1,
    NBDS_ENDING   = 1u << 2, /* behind what can be read is the end, of which nothing more is told */
};

struct nbds_ready {
    void    *data;
    unsigned readiness; /* enum nbds_readiness */
};

enum { NBDS_EVENTS = 64 }; /* of a kind at once; what is left comes next */

/* What a wait has brought. */
struct nbds_events {
    struct nbds_ready       ready[NBDS_EVENTS];
    struct vdisk_completion done[NBDS_EVENTS];
    unsigned nready, ndone;
};

struct nbds_poller;

struct nbds_poller_ops {
    /* Nanoseconds, from any start. */
    uint64_t (*now)(struct nbds_poller *p);
    /* Tell of what can be read, from now on; `level`: for as long as it can. 0 or -errno. */
    int (*watch)(struct nbds_poller *p, int fd, bool level, void *data);
    /* Of one that is watched, not by level: tell when it can be written to, too, at once if it can; or no more. */
    void (*want_room)(struct nbds_poller *p, int fd, void *data, bool wanted);
    void (*unwatch)(struct nbds_poller *p, int fd);
    /*
     * Send what the queue was given, and sleep until it has completed something or a stream can go on, for
     * `timeout_ms` at most; -1: no limit. Nothing as well after a signal.
     */
    void (*wait)(struct nbds_poller *p, vdisk_queue *queue, struct nbds_events *ret_events, int timeout_ms);
    void (*destroy)(struct nbds_poller *p);
};

struct nbds_poller {
    const struct nbds_poller_ops *ops;
    int  fd;   /* what the queue watches; -1: nothing */
    bool told; /* it has become readable, and nobody has looked since */
};

/* NULL: errno says why. The socket is the stream's, also then. */
struct nbds_stream *nbds_socket_stream(int fd);
struct nbds_poller *nbds_epoll(void);

#endif
