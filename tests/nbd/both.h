/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The NBD client and the NBD server, both as they are, in one simulated machine (backends/lab/sim.h): between them
 * lines whose bytes arrive late and in pieces, and which are cut, both ways or one; the server's storage, which
 * forgets what was not flushed when the server dies; and what the client calls of the system (both_wrap.c).
 *
 * All of it follows from one seed. A connection that is made is made by a thread of its own, as in the library's
 * workers, but only one thread runs at any time: who waits gives the turn back.
 *
 * What is taken for granted: who is cut off hears of it before anything that comes on a newer line. What had
 * arrived by then can still be read.
 */
#ifndef TESTS_NBD_BOTH_H
#define TESTS_NBD_BOTH_H

#include <poll.h>
#include <semaphore.h>

#include "backends/lab/sim.h"
#include "engine/loop/call.h"
#include "exports/nbd/server.h"
#include "tests/lib/rng.h"

enum {
    BOTH_BLOCK = 4096,
    BOTH_BLOCKS = 64,
    BOTH_SIZE = BOTH_BLOCK * BOTH_BLOCKS,
    BOTH_LINES = 64,
    BOTH_THREADS = 2,
    BOTH_FD = 1 << 20, /* numbers of the client's sockets, from there on */
};

/* One way of a line. */
struct both_pipe {
    uint8_t *data;
    size_t   size, len, at; /* what was sent, what of it has been taken */
    size_t   arrived;
    uint64_t next_ns;       /* when more arrives */
    uint64_t left;          /* bytes until the line is cut */
    bool     closed;        /* behind what is there is the end */
};

struct both_line {
    struct nbds_stream stream; /* the server's end; first */
    struct both *b;
    struct both_pipe up, down; /* to the server, from it */
    unsigned thread;           /* of the server's, which has it */
    void    *data;             /* what the poller knows it by; NULL: not watched */
    bool     changed;          /* since the poller has told of it */
    bool     wants_room;       /* to be told of, too */
    bool     cut, reset;       /* after what has arrived comes the end; an error */
    bool     client_open, server_open;
    struct call *send, *receive; /* the client's, that wait */
};

/* Who makes a connection for the client, on a thread that has the turn now and then. */
struct both_dialer {
    struct both *b;
    struct call *call;
    pthread_t    id;
    sem_t        go, back;
    int64_t      res;
    bool         used, ended;
    int          fd;        /* what it waits for; -1: time alone */
    short        events;
    uint64_t     until_ns;
};

struct both_poller {
    struct nbds_poller base; /* first */
    struct both *b;
    unsigned     thread;
    uint64_t     next_ns;    /* when its thread wants to look again */
    bool         runs;
};

/* The server's storage. */
struct both_disk {
    uint8_t  now[BOTH_SIZE], stable[BOTH_SIZE];
    bool     dirty[BOTH_BLOCKS];
    unsigned epoch;          /* of those who may change it */
    uint64_t flushes;
};

struct both_limits {
    unsigned threads, cut_percent, half_percent; /* of lines: that are cut, and of these one way only */
    uint64_t cut_bytes;      /* after so many at most */
    uint64_t late_ns;        /* a piece arrives within that */
    size_t   room;           /* of a line's way */
    bool     multi_conn, durable;
};

struct both {
    struct sim *sim;
    struct rng  rng;
    struct both_limits limits;
    struct both_disk   disk;
    struct nbd_server *server; /* NULL: nobody listens */
    vdisk      *volume;        /* the server's */
    struct both_poller pollers[BOTH_THREADS];
    struct both_line  *lines[BOTH_LINES];
    unsigned    nlines;        /* that there have been; the oldest that are closed go */
    uint64_t    cuts, connections;
    struct both_dialer dialers[8];
    void     *(*thread)(void *); /* the client's own, which is turned as the other queues are */
    void       *thread_arg;
    uint64_t    end_ns;        /* who is not done by then hangs */
};

/* The one that the calls of this process go to; NULL: to the kernel. */
extern struct both *both_now;
/* The dialer that has the turn; NULL: the main thread. */
extern _Thread_local struct both_dialer *both_me;

/* Pieces of memory that this program has. */
extern _Atomic long both_blocks;

void both_init(struct both *b, uint64_t seed, const struct both_limits *limits);
/* Nothing is left but the machine itself. */
void both_finish(struct both *b);

/* A server on what the disk has. */
void both_start(struct both *b);
/* What a client that hangs on says to an end that was asked for: all that is in flight is done. */
void both_stop(struct both *b);
/* It dies: what was not flushed may be gone, what was in flight is done or not. */
void both_kill(struct both *b);
/* Cut a line that is open, if there is one. */
void both_cut(struct both *b);

uint64_t both_ns(const struct both *b);

/* ---- for both_wrap.c --------------------------------------------------------------------------------------- */

struct both_line *both_line_of(int fd);
/* A line of the client's, as a descriptor, that leads nowhere until it is connected: 0 or -errno. */
int both_socket(struct both *b);
int both_connect(struct both_line *l);
ssize_t both_send(struct both_line *l, const struct iovec *iov, unsigned n);
ssize_t both_receive(struct both_line *l, const struct iovec *iov, unsigned n);
void both_shut(struct both_line *l, bool close);
short both_events(const struct both_line *l, short events);
/* Until the line has one of the events, or that late. */
void both_wait(struct both *b, int fd, short events, uint64_t until_ns);

#endif
