/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the files of the NBD client share. A client is a backend; it has links, which are connections that live on
 * one queue each; a link carries requests, of which each is one I/O, or a piece of it.
 *
 *     name.c        what a name says: host, path, export, credentials
 *     talk.c        a connection until its handshake is over: sockets, options and their replies (talk.h); blocks,
 *                   within a deadline
 *     dial.c        the handshake that ends with an export
 *     list.c        the one that ends with a list of them
 *     records.c     TLS of a connection: bytes of the protocol, to records and back
 *     client.c      the driver: open, close, which link an I/O takes
 *     request.c     from an I/O to commands, and back; what is durable
 *     link.c        lines and sockets: sending, receiving, going down, coming back
 *     reply.c       what comes: headers, chunks, data
 *     extents.c     what servers have told of holes, for a while
 *
 * Invariants.
 *  1. All of a link is touched on the thread of its `home` alone, but for `fd`, which changes under the client's
 *     lock.
 *  2. A request ends when no call has its memory any more: it is sent and answered, or its link is down.
 *  3. Nothing of a link is under way when it has no request.
 *  4. Without MULTI_CONN there is one connection at a time: what was acknowledged on it another need not see.
 *  5. `acked` counts changes that were acknowledged and did not ask to be durable, `flushed` how many of them a
 *     flush has covered. A connection that breaks while they differ may have been a server that died with them:
 *     the next flush fails, once (`lost`): it tells of what was acknowledged by then, whether the caller has
 *     reaped that or not. So does each flush that was asked for before (`losses`), and has not been answered: who
 *     asked for it need not hear of the other. Where they are the same nothing is lost, and flushes are repeated
 *     as all the rest.
 *  6. A flush that was sent on a connection covers what was acknowledged on others since that one began, or
 *     before, if no other had been hung up by then: it is looked at when a connection begins, or is let go, and
 *     what one that was hung up acknowledges later counts as lost, since its server may be gone (`hung_up`). (A
 *     host that lost its power and is back before its silence was noticed is not seen by that, where the others
 *     are idle: TCP tells nobody. Nor is a server that dies while there is no connection at all.)
 *  7. Where TLS is asked for nothing but the greeting and STARTTLS goes in the clear, on any connection: no
 *     answer of a server changes that.
 *  8. What is in flight when a connection breaks may be repeated: all commands can, as the first may have been
 *     carried out, or not, or half, until it is acknowledged; what has ended is never repeated. A server that goes
 *     on with what came on a connection that is gone, after it has answered the same on another, breaks that, with
 *     any client; ours lets nobody in meanwhile (exports/nbd/server.h, invariant 5).
 */
#ifndef BACKENDS_NBD_CLIENT_H
#define BACKENDS_NBD_CLIENT_H

#include <pthread.h>

#include "engine/backend.h"
#include "engine/loop/call.h"
#include "engine/loop/op.h"
#include "engine/loop/status.h"
#include "engine/spec/option.h"
#include "nbd/wire.h"
#include "tls/tls.h"

struct vdisk_export_info;

enum {
    NBD_WHY_MAX = 512,             /* bytes of a reason */
    NBD_LINK_SLOTS = 1024,         /* requests on a link at a time; others wait in line */
    NBD_SEND_IOVS = 1000,          /* of one send; */
    NBD_SEND_BYTES = 2 << 20,      /* after so many no request is added to it */
    NBD_IOVS_MAX = 512,            /* of one request */
    NBD_RECEIVE_BYTES = 128 << 10, /* taken from the socket ahead */
    NBD_PIECES_MAX = 16,           /* of a read that comes out of order */
    NBD_STATUS_MAX = 8 << 20,      /* bytes of a block status */
    NBD_STATUS_ASK = 1 << 30,      /* bytes that one asks about */
};

/* ---- name.c ---------------------------------------------------------------------------------------------- */

struct nbd_place {
    char    *host, *port; /* or */
    char    *path;
    char    *export;
    uint64_t open_timeout_ms, reconnect_ms;
    const struct tls_creds *tls; /* NULL: none is spoken; */
    struct tls_creds own_tls;    /* or this one, of files that the name gives */
    char    *tls_hostname;       /* whose certificate it has to be; NULL: that of any that is vouched for */
};

extern const struct option_desc nbd_options[];
bool nbd_claims(const char *name);
int  nbd_parse(const char *name, struct spec *options);
/* Of options that have been checked; nbd_place_free() also after a failure. With text. */
int  nbd_place_read(const char *name, const struct spec *options, struct nbd_place *ret);
void nbd_place_free(struct nbd_place *place);

/* ---- records.c ------------------------------------------------------------------------------------------- */

struct nbd_tls {
    struct tls   tls;
    struct iovec in, out;           /* of the calls that are under way */
    uint64_t     taken;             /* bytes of the protocol that are in the records on their way */
    uint8_t      plain[TLS_RECORD]; /* what is short goes into a record with others */
};

/* A connection; fd -1: none. */
struct nbd_socket {
    int             fd;
    struct nbd_tls *tls; /* NULL: in the clear */
};

void nbd_socket_close(struct nbd_socket *s);

/* NULL, with a reason: no memory, or something that GnuTLS does not take. */
struct nbd_tls *nbd_tls_begin(const struct nbd_place *place, char *why);
void nbd_tls_free(struct nbd_tls *s); /* NULL is allowed */

/* As tls_read() and tls_write(), of several pieces. */
int64_t nbd_tls_read(struct nbd_tls *s, const struct iovec *iov, unsigned iovcnt);
int64_t nbd_tls_write(struct nbd_tls *s, const struct iovec *iov, unsigned iovcnt);

/* ---- dial.c ---------------------------------------------------------------------------------------------- */

/* What was agreed on, on a connection. */
struct nbd_terms {
    bool     reached; /* there is somebody, whatever became of the rest */
    uint64_t size;
    uint16_t flags; /* enum nbd_transmission_flags */
    bool     structured, extended;
    bool     has_block;
    struct nbd_block_size block;
    bool     has_context; /* base:allocation is */
    uint32_t context;
};

/*
 * Connect and shake hands: a socket that does not block, in *ret_socket, or -errno with a reason in `why`, which
 * has NBD_WHY_MAX bytes. Blocks, 10 s at most (but for the resolver of names). Any thread.
 */
int nbd_dial(const struct nbd_place *place, struct nbd_terms *ret, struct nbd_socket *ret_socket, char *why);

/* ---- list.c ---------------------------------------------------------------------------------------------- */

/* What a server exports: backend_driver.list(). */
int nbd_list(const char *name, const struct spec *options,
             int (*fn)(void *arg, const struct vdisk_export_info *info), void *arg);

/* ---- requests -------------------------------------------------------------------------------------------- */

struct nbd_piece {
    uint32_t from, to;
};

struct nbd_req {
    struct op        op;      /* for its memory, which the queue keeps; without io: not used */
    struct task      task;    /* to its link's queue, and back */
    struct list      node;    /* in a line of its link's */
    struct nbd_client *client;
    struct nbd_link *link;
    struct io       *io;      /* NULL: advice, nobody waits */
    bool             foreign; /* the I/O's queue is not the link's */
    bool             placed, sent, replied;
    bool             flush_after; /* in place of FUA */
    uint16_t         command, flags;
    uint64_t         offset, length; /* of the command */
    uint64_t         end;     /* of what is to be done by several */
    uint64_t         mark;    /* of a flush: `acked` when it began; of a status: `changes` */
    uint64_t         losses;  /* of a flush: the client's, when it was asked for */
    uint64_t         cookie;
    uint64_t         unsent;  /* bytes */
    int64_t          rc;
    unsigned         npieces; /* of a read: what has come */
    struct nbd_piece pieces[NBD_PIECES_MAX];
    bool             told;    /* of a status: the extents have come */
    uint8_t          header[NBD_EXTENDED_REQUEST_SIZE];
};

/* ---- extents.c ------------------------------------------------------------------------------------------- */

enum { NBD_ANSWERS = 4, NBD_ANSWER_RUNS = 4096 };

/* Holes and data in turn, from `start` on. */
struct nbd_answer {
    uint64_t start, born_ms;
    unsigned count; /* 0: none */
    bool     hole_first;
    uint64_t ends[NBD_ANSWER_RUNS];
};

struct nbd_client {
    struct backend   b; /* first */
    struct nbd_place place;
    uint16_t         flags; /* enum nbd_transmission_flags */
    bool             unsafe;
    vdisk_queue     *home;  /* of the shared link, with a thread */
    struct nbd_link *shared;
    pthread_t        thread;
    struct task      stop_task;
    bool             stop;       /* the thread's */
    _Atomic unsigned own_links;
    _Atomic unsigned advices;    /* under way */
    _Atomic uint64_t changes;    /* begun and ended */
    _Atomic bool     has_answers;
    _Atomic bool     has_why;

    pthread_mutex_t  lock;       /* of what follows */
    struct list      links;
    uint64_t         acked, flushed;
    uint64_t         losses;     /* that there have been */
    bool             lost;       /* the last of them has not been told */
    char             why[NBD_WHY_MAX]; /* of the trouble that there is, or was last */
    struct nbd_answer *answers[NBD_ANSWERS]; /* NULL: none yet */
    unsigned         next_answer;
};

/* Tell of [offset, end) what is known; false: nothing is. */
bool nbd_extents_find(struct nbd_client *c, struct block_status *status, uint64_t offset, uint64_t end);
/* The reply to `req`. False: it lies. */
bool nbd_extents_take(struct nbd_req *req, const struct nbd_status *status);
/* A change of the range begins, or has ended. */
void nbd_extents_change(struct nbd_client *c, uint64_t offset, uint64_t len);
/* All of it: a server may have died, and taken along what it had not made durable. */
void nbd_extents_forget(struct nbd_client *c);
void nbd_extents_free(struct nbd_client *c);

/* ---- request.c ------------------------------------------------------------------------------------------- */

void nbd_submit(struct backend *b, struct io *io);
void nbd_prefetch(struct backend *b, uint64_t offset, uint64_t len);
/* A command has been carried out: is there another to be sent for the same I/O? */
bool nbd_req_goes_on(struct nbd_req *req);
/* A flush is about to be sent. False: something has been lost by now, which is told by its failure. */
bool nbd_req_flush_begins(struct nbd_req *req);
/* From its link's queue. */
void nbd_req_end(struct nbd_req *req);
/* A connection has broken: may this one be repeated? */
bool nbd_req_may_repeat(struct nbd_req *req);
/* Its link carries it no further: to the shared one. */
void nbd_req_to_shared(struct nbd_req *req);
/* What was acknowledged may be lost. With the client's lock. */
void nbd_note_loss(struct nbd_client *c);
/* A connection has gone: invariant 5. */
void nbd_note_break(struct nbd_client *c);

/* Why what fails now fails: told with the errors until something works again. */
void nbd_say_why(struct nbd_client *c, const char *why);
void nbd_explain(struct backend *b, char *buf, size_t size);
const char *nbd_advise(int32_t res);

/* client.c: which link takes an I/O of `q`; NULL with -errno. */
struct nbd_link *nbd_link_for(struct nbd_client *c, vdisk_queue *q, int *ret_rc);
/* What a new connection has must be what the first had. False, with a reason. */
bool nbd_terms_fit(struct nbd_client *c, const struct nbd_terms *terms, char *why);

/* ---- link.c ---------------------------------------------------------------------------------------------- */

enum nbd_link_state { NBD_DOWN, NBD_DIALING, NBD_PAUSING, NBD_UP, NBD_BREAKING };

enum nbd_reading { NBD_READ_HEADER, NBD_READ_SMALL, NBD_READ_DATA, NBD_READ_BIG };

struct nbd_link {
    struct nbd_client *client;
    vdisk_queue       *home;
    struct list        node;      /* of the client's, under its lock */
    int                fd;        /* -1: none */
    struct nbd_tls    *tls;       /* NULL: in the clear */
    bool               own;       /* of a queue, in place of the shared one */
    bool               hung_up;   /* found when another began; under the client's lock */
    bool               was_up, useless; /* own: it never was, and is not tried again */
    enum nbd_link_state state;
    struct nbd_terms   terms;
    struct call        dial, pause, send, receive;
    struct nbd_socket  dialed_socket;
    int                dialed_rc;
    struct nbd_terms   dialed;
    uint64_t           trouble_ms; /* since when; 0: it works */
    uint64_t           pause_ms;

    struct list        waiting;   /* in order; */
    struct list        outgoing;  /* some of it sent, or being sent; */
    struct list        flying;    /* sent */
    struct nbd_req    *slots[NBD_LINK_SLOTS];
    uint16_t           free_slots[NBD_LINK_SLOTS];
    unsigned           nfree;
    uint64_t           sequence;
    struct task        kick;
    bool               kicked;
    struct iovec       iov[NBD_SEND_IOVS + 1];
    unsigned           iov_at, iovcnt;

    enum nbd_reading   reading;
    struct nbd_reply   reply;
    struct nbd_req    *answered;  /* whose reply it is */
    uint64_t           data_at, data_left; /* in the answered one's buffers */
    uint8_t           *big;
    uint64_t           big_have;
    uint8_t           *buf;
    size_t             buf_start, buf_end;
    struct iovec       receive_iov[NBD_IOVS_MAX + 1];
    char               why[NBD_WHY_MAX];
};

/* NULL: out of memory. */
struct nbd_link *nbd_link_new(struct nbd_client *c, vdisk_queue *home);
/* A connection that has been made elsewhere is its first. */
void nbd_link_give(struct nbd_link *l, struct nbd_socket socket, const struct nbd_terms *terms);
/* It has no request. NULL is allowed. */
void nbd_link_free(struct nbd_link *l);
bool nbd_link_is_idle(const struct nbd_link *l);
/* Context: the home's thread. */
void nbd_link_add(struct nbd_link *l, struct nbd_req *req);

/* For reply.c: all of the answer to `req` has come. */
void nbd_link_answered(struct nbd_link *l, struct nbd_req *req);

/* ---- reply.c --------------------------------------------------------------------------------------------- */

void nbd_reply_reset(struct nbd_link *l);
/* What is to be received next, in l->receive_iov: how many. */
unsigned nbd_reply_wants(struct nbd_link *l);
/* `n` bytes have come there. False: what came is none of the protocol's, l->why says it. */
bool nbd_reply_came(struct nbd_link *l, uint64_t n);

/* Bytes of the I/O that the command of `req` moves, in `ret`. */
unsigned nbd_req_iov(const struct nbd_req *req, uint64_t from, uint64_t len, struct iovec *ret, unsigned max,
                     uint64_t *ret_len);

uint64_t nbd_now_ms(void);

#endif
