/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The room's own: server, thread, connection, slot.
 *
 * A connection is an input buffer, slots for requests, and a list of slots whose replies are to be sent. Its owner
 * thread alone touches it. What is read goes to the buffer, but for the rest of a payload, which goes where it
 * belongs; what is sent is gathered from many slots by one call.
 *
 * Invariants
 *  1. A slot is free, filling (its payload comes), with the volume (in flight), or in the list of replies.
 *  2. `bytes` is the sum of what slots that are not free hold of the pool, client_bytes at most.
 *  3. A connection is freed when none of its slots is with the volume, and not before: the buffers are the
 *     library's until then.
 *  4. While the handshake has output that is not sent, no more of it is read.
 *  5. No transmission begins while a connection whose client has hung up has requests with the volume, or to be
 *     read (`leaving`): it may be the same client, who repeats what was not answered, and then writes something
 *     else there, which the former ones must not overtake. That one has hung up is known by then, whichever
 *     thread has it (former.c). One that waits for its replies to be taken holds up nobody; nor does one that
 *     waits for its rate: it is cut off.
 */
#ifndef EXPORTS_NBD_SERVER_H
#define EXPORTS_NBD_SERVER_H

#include <pthread.h>
#include <stdatomic.h>

#include "exports/nbd/nbd_export.h"
#include "exports/nbd/pool.h"
#include "exports/nbd/stream.h"
#include "nbd/wire.h"
#include "tls/tls.h"

enum {
    NBDS_IN_BYTES    = 256 << 10, /* the input buffer */
    NBDS_MAX_OPTION  = 64 << 10,  /* data of an option that is looked at; longer is skipped */
    NBDS_MAX_OPTIONS = 4096,      /* of one handshake */
    NBDS_MAX_THREADS = 64,
    NBDS_HEAD_BYTES  = 160,       /* of a reply: header, and what comes before or in place of data */
    NBDS_EXTENTS     = 512,       /* of one block status */
};

enum nbds_context { NBDS_BASE_ALLOCATION, NBDS_ALLOCATION_DEPTH, NBDS_CONTEXTS };

struct nbds_export {
    struct nbds_export *next;
    char    *name, *description;
    vdisk   *volume;
    bool     read_only, multi_conn, durable, depth, no_discard;
    enum nbd_detect_zeroes zeroes;
    uint32_t min_block, preferred_block;
    uint64_t offset;
};

struct nbds_tls {
    struct tls_creds creds;
    char           **allow;     /* names of clients; NULL: all */
};

struct nbds_listener {
    struct nbds_listener *next;
    int   fd;
    char *path; /* of a unix socket that we made: to be removed; NULL: not */
    dev_t device; /* of that */
    ino_t inode;
    bool  is_unix;
};

struct nbds_conn;

/* A header and what comes before the data, and as much as an error has of words. */
_Static_assert(NBD_EXTENDED_CHUNK_SIZE + NBD_OFFSET_DATA_SIZE < NBDS_HEAD_BYTES, "they fit in");
_Static_assert(NBDS_IN_BYTES > NBDS_MAX_OPTION + NBD_OPTION_SIZE, "an option that is looked at fits in");

struct nbds_slot {
    struct nbds_slot  *next; /* in the list that it is in */
    struct nbds_conn  *conn;
    struct nbd_request request;
    void    *buf;      /* of the pool, or NULL */
    size_t   buf_len;
    uint32_t parts;    /* of a read: that are with the volume */
    int      error;    /* likewise: the first of its parts that failed, -errno; or 0 */
    uint32_t head_len;
    uint32_t contexts; /* bits by enum nbds_context: what a block status is asked for */
    const uint8_t *data; /* what is sent after the head */
    size_t   data_len;
    struct vdisk_extents extents;
    uint8_t  head[NBDS_HEAD_BYTES];
};

enum nbds_phase {
    NBDS_CLIENT_FLAGS,
    NBDS_OPTION,
    NBDS_OPTION_DATA, /* of `option` */
    NBDS_SKIP_OPTION, /* likewise, too long to be looked at */
    NBDS_TRANSMISSION,
};

enum nbds_form { NBDS_SIMPLE, NBDS_STRUCTURED, NBDS_EXTENDED };

struct nbds_conn {
    struct nbds_conn   *next, *prev;   /* all of the thread */
    struct nbds_conn   *next_active;
    struct nbds_thread *thread;
    struct nbds_stream *stream;
    bool active;                       /* in the thread's list of those to be run */
    bool readable, writable;           /* as far as is known */
    bool wants_room;                   /* the poller is to tell when it is writable */
    bool ending;                       /* the end is behind what can be read */
    bool ended;                        /* nothing more is read: the client's wish, its end, or ours */
    bool dead;                         /* the stream is closed; waits for invariant 3 */
    bool leaving;                      /* counted in the server's: invariant 5 */

    enum nbds_phase   phase;
    struct nbd_option option;
    uint64_t          skip;            /* bytes of input to be thrown away */
    unsigned          options;         /* that there have been */
    bool              no_zeroes, asked_block_size;
    bool              starts_tls;      /* when what is to be sent has been */
    bool              secure;          /* by TLS */
    enum nbds_form    form;
    struct nbds_export *export;        /* of the transmission */
    struct nbds_export *context_export; /* that the contexts were set for */
    uint32_t          contexts;        /* bits by enum nbds_context */

    uint8_t *in;                       /* NBDS_IN_BYTES */
    size_t   in_at, in_end;
    uint8_t *out;                      /* the handshake's output */
    size_t   out_at, out_end, out_size;

    struct nbds_slot *slots;           /* all, from the transmission on */
    struct nbds_slot *free;
    struct nbds_slot *filling;         /* whose payload comes */
    size_t            filled;
    struct nbds_slot *replies, **replies_end;
    size_t            sent;            /* of the first of them */
    unsigned          in_flight;       /* slots with the volume */
    unsigned          used;            /* slots that are not free */
    size_t            bytes;           /* invariant 2 */
    bool              held;            /* a request waits in the buffer for a slot, or for bytes */

    uint64_t began_ns;                 /* when it was accepted */
    uint64_t in_ns, out_ns;            /* since when part of a request is there, a reply is not taken; 0: none */
    uint64_t active_ns;                /* when a request was last taken */
    uint64_t resume_ns;                /* by the rate; until then nothing is taken */
    uint64_t round;                    /* that it began, and waits for; 0: none */
};

struct nbds_thread {
    struct nbd_server  *server;
    pthread_t           id;
    struct nbds_poller *poller;
    vdisk_queue        *queue;
    struct nbds_pool    pool;
    struct nbds_conn   *conns, *active;
    unsigned            nconns;        /* that it has, or that are on their way to it; the server's lock */
    uint64_t            now_ns;        /* at the beginning of the turn */
    uint64_t            scan_ns;       /* of the last look for those whose time is over */
    int                 wake_fd;
    bool                running, listening, stopping;
    uint64_t            stop_ns;
    struct nbds_given  *given;         /* accepted and not taken yet; the server's lock */
    _Atomic uint64_t    looked;        /* former.c, invariant 1 */
    _Atomic unsigned    coming;        /* connections that wait for their transmission */
    uint64_t            look_round;
    unsigned            full_looks;    /* one after the other */
    _Atomic uint64_t    requests, errors, receives, sends, refused;
};

/* What is handed to a thread. */
struct nbds_given {
    struct nbds_given  *next;
    struct nbds_stream *stream;
};

struct nbd_server {
    struct nbd_server_opts opts;
    struct nbds_export   *exports;
    unsigned              nexports;
    struct nbds_listener *listeners;
    struct nbds_tls      *tls;      /* NULL: there is none */
    struct nbds_thread    threads[NBDS_MAX_THREADS];
    unsigned              nthreads; /* that there are */
    int                   idle_fd;
    _Atomic bool          stopping;
    _Atomic unsigned      send_buffer;
    _Atomic unsigned      leaving;     /* connections: invariant 5 */
    _Atomic uint64_t      rounds;      /* that have begun: former.c */
    pthread_mutex_t       lock;
    unsigned              clients;     /* the lock */
    uint64_t              connections; /* likewise */
};

/* By the one thread that counts there. */
static inline void nbds_count(_Atomic uint64_t *counter, uint64_t n)
{
    atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + n, memory_order_relaxed);
}

/* ---- error.c, exports.c -------------------------------------------------------------------------------- */

/* The words for an error of this thread. Gives `rc`. */
int nbds_error(int rc, const char *format, ...) __attribute__((format(printf, 2, 3)));
struct nbds_export *nbds_export_find(struct nbd_server *server, struct nbd_string name);
void nbds_export_free(struct nbds_export *e);
/* As clients see it; `look`: at whether it has another one by now. */
uint64_t nbds_export_size(const struct nbds_export *e, bool look);

/* ---- hand.c ---------------------------------------------------------------------------------------------- */

void nbds_thread_wake(struct nbds_thread *t);
/* Give a stream to it. Any thread. 0 or -ENOMEM, and then the stream is the caller's. */
int nbds_thread_give(struct nbds_thread *t, struct nbds_stream *stream);
/* All that was given, to the thread. */
struct nbds_given *nbds_take_given(struct nbds_thread *t);
/* A connection has ended; who waits to be accepted may be. `served`: it had come to the transmission. */
void nbds_client_gone(struct nbds_thread *t, bool served);
/* To be run in this turn or the next. */
void nbds_activate(struct nbds_conn *c);

/* ---- listen.c -------------------------------------------------------------------------------------------- */

/* The first thread: begin to be told of connections, or end it. 0 or -errno. */
int nbds_listen(struct nbds_thread *t);
void nbds_unlisten(struct nbds_thread *t);
/* Accept what is there and give it to threads. */
void nbds_accept(struct nbds_thread *t, struct nbds_listener *listener);
void nbds_listener_free(struct nbds_listener *listener);

/* ---- thread.c -------------------------------------------------------------------------------------------- */

int nbds_thread_init(struct nbds_thread *t, struct nbd_server *server, struct nbds_poller *poller);
void nbds_thread_free(struct nbds_thread *t);
/* Wait for something and do what there is to do; false: all is over. */
bool nbds_thread_turn(struct nbds_thread *t);
void *nbds_thread_main(void *arg);

/* ---- conn.c ---------------------------------------------------------------------------------------------- */

/* The stream is the connection's, or closed. */
void nbds_conn_new(struct nbds_thread *t, struct nbds_stream *stream);
/* Read, do what was read, as far as it goes. */
void nbds_conn_run(struct nbds_conn *c);
/* Send what there is; close and free it if it is over. The connection may be gone afterwards. */
void nbds_conn_settle(struct nbds_conn *c);
/* What its requests wait for will not come: they are taken back, if nothing has been done for them. */
void nbds_conn_give_up(struct nbds_conn *c);
/* Cut it off. Frees nothing: nbds_conn_settle() does. */
void nbds_conn_cut(struct nbds_conn *c);
/* Is the time over that it had for something? */
bool nbds_conn_late(const struct nbds_conn *c);
/* Take no more requests. */
void nbds_conn_stop(struct nbds_conn *c);
/* Its memory, in whatever state it is; invariant 3 holds. */
void nbds_conn_free(struct nbds_conn *c);

/* ---- former.c: invariant 5 ------------------------------------------------------------------------------- */

/* It has asked for the transmission: may it begin? If not, the connection is run again when that may be so. */
bool nbds_conn_may_come(struct nbds_conn *c);
/* It asks no more. */
void nbds_conn_comes_no_more(struct nbds_conn *c);
/* What is known of its end, or of its requests, has changed. */
void nbds_conn_note_leaving(struct nbds_conn *c);
/* Is it to take no more requests, since it waits for its rate, its client has hung up, and another comes? */
bool nbds_conn_is_let_go(struct nbds_conn *c);
/* `nready` streams were told of by a wait that began when there had been so many rounds. */
void nbds_thread_note_look(struct nbds_thread *t, uint64_t round, unsigned nready);
/* Run those that wait for their transmission. */
void nbds_thread_look_at_coming(struct nbds_thread *t);

/* ---- conn_assert.c --------------------------------------------------------------------------------------- */

/* The invariants above, of a connection that its thread comes to. */
#ifdef NDEBUG
static inline void nbds_conn_assert(const struct nbds_conn *c)
{
    (void)c;
}
#else
void nbds_conn_assert(const struct nbds_conn *c);
#endif

/* ---- answer.c, handshake.c, options.c, meta.c ------------------------------------------------------------ */

/* Output of the handshake: room for `len` more bytes, which are taken; NULL: no memory. */
uint8_t *nbds_out(struct nbds_conn *c, size_t len);
/* A reply to the option; `text` may be "". 1 or -errno. */
int nbds_option_reply(struct nbds_conn *c, uint32_t type, const void *data, size_t len);
int nbds_option_error(struct nbds_conn *c, uint32_t type, const char *text);
int nbds_handshake_begin(struct nbds_conn *c);
/* One step on what is in the buffer: 1: a step was made, 0: more input is needed, -errno: it is over. */
int nbds_handshake_step(struct nbds_conn *c);
/* What to do with an option whose data is there. As above, and never 0. */
int nbds_option_do(struct nbds_conn *c, const uint8_t *data, uint32_t len);
int nbds_meta_option(struct nbds_conn *c, const uint8_t *data, uint32_t len);

/* ---- tls_stream.c ---------------------------------------------------------------------------------------- */

/* The connection's stream is in TLS from here on. 0 or -errno, and then it is as it was. */
int nbds_tls_begin(struct nbds_conn *c);
void nbds_tls_free(struct nbds_tls *tls);

/* ---- slot.c, request.c ----------------------------------------------------------------------------------- */

void nbds_slot_free(struct nbds_slot *slot);
/* A header of a reply that is not simple, of the connection's form. Gives its length. */
size_t nbds_reply_head(const struct nbds_slot *slot, uint8_t *at, uint16_t flags, uint16_t type, uint64_t length);
int nbds_transmission_begin(struct nbds_conn *c, struct nbds_export *export);
uint16_t nbds_export_flags(const struct nbds_conn *c, const struct nbds_export *export);
/* As nbds_handshake_step(). */
int nbds_request_step(struct nbds_conn *c);
/* The payload of c->filling is whole. */
void nbds_request_filled(struct nbds_conn *c);
/* The volume has done it. */
void nbds_request_done(struct nbds_slot *slot, const struct vdisk_completion *done);

/* ---- reply.c --------------------------------------------------------------------------------------------- */

/* Make the reply, and put it in line. `text`: words for an error, or NULL. */
void nbds_reply(struct nbds_slot *slot, int rc, const char *text);
/* Send until there is nothing left or the socket is full. 0 or -errno. */
int nbds_reply_send(struct nbds_conn *c);
/* Is something left within the stream? */
bool nbds_reply_pending(const struct nbds_conn *c);

/* ---- status.c ------------------------------------------------------------------------------------------- */

/* Bytes of the pool that a block status takes. */
size_t nbds_status_bytes(void);
void nbds_status_ask(struct nbds_slot *slot, uint64_t length);
/* The extents are there: make the reply of them, all of it in data. */
void nbds_status_reply(struct nbds_slot *slot);

#endif
