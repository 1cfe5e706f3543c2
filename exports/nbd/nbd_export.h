/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * An NBD server: volumes, by names, for clients on sockets. The door of exports/nbd; what is behind it takes
 * <vdisk.h> and nbd/wire.h.
 *
 * Promise. A connection belongs to one thread from its accept to its end, and a thread has one vdisk_queue for
 * all of its connections: no request wakes another thread, and none has one of its own. Clients are untrusted:
 * what one may hold is bounded (nbd_server_opts.client_bytes and what a connection is made of), as is the time
 * that it may take to say what it wants, and to take what it asked for. Who does not read its replies holds up
 * itself alone. Whenever a connection ends, nothing of it stays but what it has written.
 *
 * Order of calls: create, add exports and listeners, start, stop, destroy. All from one thread; the server has its
 * own. Volumes are the caller's, and stay open until nbd_server_destroy() has returned. Functions that return int
 * give 0 or -errno, with nbd_server_error_text(). Nothing survives fork().
 */
#ifndef EXPORTS_NBD_EXPORT_H
#define EXPORTS_NBD_EXPORT_H

#include <vdisk.h>

struct nbd_server;

struct nbd_server_opts {
    unsigned threads;        /* 0: 4 */
    unsigned clients;        /* connections at a time; 0: 1024. More wait to be accepted */
    unsigned requests;       /* in flight, of a connection; 0: 128 */
    size_t   client_bytes;   /* of data in flight, of a connection; 0: 64 MiB; 32 MiB at least */
    unsigned handshake_ms;   /* for all of the handshake; 0: 10 s */
    unsigned request_ms;     /* from the first byte of a request to its last one; 0: 60 s */
    unsigned reply_ms;       /* for the client to take one reply; 0: 60 s */
    unsigned idle_ms;        /* without a request; 0: for ever */
    unsigned stop_ms;        /* for a graceful stop; 0: 10 s */
    uint64_t bytes_per_s;    /* of a connection; 0: no limit */
    uint64_t requests_per_s; /* likewise */
    enum vdisk_queue_kind queue_kind;
};

/* `opts` may be NULL. Errors: -ENOMEM, -EMFILE; -EINVAL. */
int nbd_server_create(const struct nbd_server_opts *opts, struct nbd_server **ret_server);

/* Writes of nothing but zeros: written; noted as zeros, where there is a way; and their space given back. */
enum nbd_detect_zeroes { NBD_DETECT_OFF, NBD_DETECT_ON, NBD_DETECT_UNMAP };

struct nbd_export_opts {
    const char *name;        /* "" is what clients ask for that name none; copied */
    const char *description; /* NULL: none; copied */
    vdisk      *volume;
    bool        read_only;   /* so it is as well where the volume is */
    bool        multi_conn;  /* say that clients may use several connections at once */
    bool        durable;     /* all that is written is when it is answered, as if FUA were asked for */
    bool        no_depth;    /* without the context qemu:allocation-depth */
    bool        no_discard;  /* trims are answered and not done, and zeros keep their space */
    enum nbd_detect_zeroes zeroes;
    uint32_t    min_block;   /* what requests are multiples of: a power of two, 64 KiB at most; 0: 1 */
    uint64_t    offset;      /* in the volume, of what clients see first */
};

/*
 * Before the start. Errors: -EEXIST: another has the name; -EINVAL: no name of the protocol, or an offset behind
 * the volume's end; -ENOMEM.
 *
 * A volume that changes its size while it is served: a client is told the size that it has when it asks, that is
 * in its handshake, for which it is looked at anew (vdisk_get_info()); from then on requests up to that are taken,
 * of all clients. The protocol cannot tell those that are connected. What is cut off is no longer theirs: requests
 * beyond the end fail with EINVAL, or those that write with ENOSPC.
 */
int nbd_server_add_export(struct nbd_server *server, const struct nbd_export_opts *opts);

struct nbd_tls_opts {
    const char *dir;          /* with server-cert.pem, server-key.pem, ca-cert.pem; or keys.psk */
    bool        psk;          /* a key that both sides know, and no certificates */
    bool        verify_peer;  /* clients show a certificate that ca-cert.pem vouches for */
    const char *priority;     /* in GnuTLS's words; NULL: its default */
    const char *const *allow; /* who may: of a certificate as RFC 4514 has it, "CN=host"; NULL-ended; NULL: all */
};

/*
 * Speak with clients in TLS only. Before the start; all of it is copied. Errors: of the files; -EACCES: a key that
 * everybody may read; -EINVAL: what they hold, or names without verify_peer; -ENOTSUP: there is no GnuTLS;
 * -ENOMEM.
 */
int nbd_server_use_tls(struct nbd_server *server, const struct nbd_tls_opts *opts);

/*
 * Sockets to accept from, before the start. A path that is a socket nobody listens on is replaced; the file is
 * removed when the server is destroyed. `host` NULL: all addresses; port "0": one that is free. A descriptor that
 * was handed over becomes the server's. Errors: of socket(2), bind(2), listen(2); -EADDRINUSE; -EINVAL.
 */
int nbd_server_listen_unix(struct nbd_server *server, const char *path);
int nbd_server_listen_tcp(struct nbd_server *server, const char *host, const char *port, unsigned *ret_port);
int nbd_server_listen_fd(struct nbd_server *server, int fd);

/* Serve from now on. Errors: -ENOMEM, -EAGAIN, -EMFILE: no thread or queue; then there is nothing to stop. */
int nbd_server_start(struct nbd_server *server);

/*
 * A descriptor that is readable when a connection that had come through the handshake has ended as the last one
 * that there was. The server's; do not read it.
 */
int nbd_server_idle_fd(struct nbd_server *server);

enum { NBD_SERVER_SOCKET_BYTES = 2 << 20 }; /* what unix sockets are asked to hold */

struct nbd_server_stats {
    unsigned clients;       /* connections that there are */
    uint64_t connections;   /* that there have been */
    uint64_t refused;       /* in the handshake, or cut off by a limit of time */
    uint64_t requests;
    uint64_t errors;        /* replies that were one */
    uint64_t receives, sends; /* system calls */
    unsigned send_buffer;   /* what the kernel gives unix sockets of NBD_SERVER_SOCKET_BYTES; 0: there is none */
};

/* Any thread. */
void nbd_server_get_stats(struct nbd_server *server, struct nbd_server_stats *ret_stats);

/*
 * Accept nobody, take no more requests, finish those in flight and have their replies taken, for stop_ms at most;
 * then close all, and take back what waits for room that the volume's grower cannot have. Blocks. Without a start,
 * nothing.
 */
void nbd_server_stop(struct nbd_server *server);

/* Stops, if need be. NULL is allowed. */
void nbd_server_destroy(struct nbd_server *server);

/* Of the last call on this thread that failed: one line. */
const char *nbd_server_error_text(void);

#endif
