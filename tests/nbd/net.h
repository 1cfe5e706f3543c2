/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A simulated network below the NBD server, with a clock of its own: a poller whose streams are queues of
 * bytes. Bytes arrive in pieces, late, and are taken in pieces; a wire holds as much as it has room for. The
 * volume is real, and has all the time that it needs: the clock only moves when nothing else can happen.
 *
 * One thread: turns of the server's thread, and what the clients do between them.
 */
#ifndef TESTS_NBD_NET_H
#define TESTS_NBD_NET_H

#include "exports/nbd/server.h"

enum { NET_WIRES = 16, NET_WATCHES = 8 };

struct wire {
    struct nbds_stream stream; /* the server's end */
    struct net *net;
    void    *data;             /* what the poller knows it by; NULL: not watched */
    uint8_t *in, *out;         /* to the server, from it */
    size_t   in_len, in_at;    /* what was sent, what of it the server has */
    size_t   arrived;          /* what of it has arrived */
    uint64_t next_ns;          /* when the next piece arrives */
    size_t   out_size;
    size_t   out_len, out_at;  /* what the server has sent, what of it the client has */
    bool     closed;           /* by the client */
    bool     half;             /* which takes what comes all the same */
    bool     open;             /* at the server's end */
    bool     changed;          /* since the poller has told of it */
    bool     wants_room;       /* it tells of that, too */
};

struct net {
    struct nbds_poller poller;
    uint64_t now_ns;
    uint64_t random;           /* the state of what is drawn; 0: nothing is, all is whole and at once */
    size_t   room;             /* of a wire from the server */
    struct wire *wires[NET_WIRES];
    unsigned     nwires;
    struct { int fd; void *data; } watches[NET_WATCHES];
    unsigned     nwatches;
};

void net_init(struct net *net, uint64_t seed, size_t room);
/* All wires are closed. */
void net_free(struct net *net);

/* A connection, given to the thread. The wire is the net's. */
struct wire *net_connect(struct net *net, struct nbds_thread *t);
void wire_send(struct wire *w, const void *data, size_t len);
/* What the client has not taken; it takes `len` of it. */
size_t wire_there(const struct wire *w);
const uint8_t *wire_take(struct wire *w, size_t len);
void wire_close(struct wire *w);
void wire_close_half(struct wire *w);

#endif
