/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * TLS over memory: bytes of the peer's are put in, bytes for it are taken out, and between them there is a
 * stream. By GnuTLS, which is loaded when the first credentials are.
 *
 * Promises: nothing is sent or received, nobody waits, nothing is called back; memory of its own is in the
 * structs here, which the caller gives. May: read the files of credentials. May not: use other rooms.
 *
 * A session belongs to one thread at a time; credentials may be used by any, and outlive their sessions. Errors
 * are negative errnos, with one line in what the caller gave for it or in the session's `why`.
 */
#ifndef TLS_TLS_H
#define TLS_TLS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

enum {
    TLS_WHY = 256,          /* bytes of a text */
    TLS_NAME = 512,         /* of a peer's name; what is longer is no name */
    TLS_BYTES = 80 << 10,   /* of either direction that wait; more than a record */
    TLS_RECORD = 16 << 10,  /* of plain bytes in one record */
    TLS_HANDSHAKE = 256 << 10, /* of a peer, until it is through: who it is nobody knows yet */
};

/* ---- credentials ------------------------------------------------------------------------------------------- */

enum tls_end { TLS_CLIENT, TLS_SERVER };

struct tls_opts {
    enum tls_end end;
    /*
     * The folder of the files, under the names that QEMU gives them: ca-cert.pem, ca-crl.pem (may be missing),
     * server-cert.pem and server-key.pem or client-cert.pem and client-key.pem (a client may have none); of keys
     * that both know keys.psk.
     */
    const char *dir;
    bool        psk;
    const char *psk_file;     /* in place of keys.psk in `dir`; NULL: that */
    const char *username;     /* of a client's key; NULL: "qemu" */
    bool        verify_peer;  /* of a server: a client has a certificate that ca-cert.pem vouches for */
    const char *priority;     /* as GnuTLS takes it; NULL: "NORMAL" */
};

struct tls_creds {
    enum tls_end end;
    bool         psk, verify_peer;
    void        *keys;        /* GnuTLS's */
    char         priority[192];
};

/*
 * Load them. A key file that others than its owner and group may read is refused, as is one that is no file.
 * Errors: -ENOENT and the like of a file; -EACCES: its mode; -EINVAL: what it holds, or the priority; -ENOTSUP:
 * there is no GnuTLS; -ENOMEM.
 */
int tls_creds_load(struct tls_creds *c, const struct tls_opts *opts, char why[TLS_WHY]);

/* Nothing uses them any more. */
void tls_creds_free(struct tls_creds *c);

/* ---- sessions ---------------------------------------------------------------------------------------------- */

struct tls {
    void  *session;           /* GnuTLS's; NULL: there is none */
    bool   psk;
    enum tls_end end;
    bool   established, peer_ended, ended;
    size_t shaken;            /* bytes of the peer's that the handshake has taken */
    char   why[TLS_WHY];      /* of the last call that failed */
    struct tls_bytes {
        size_t  at, end;      /* what waits */
        bool    lent;         /* it stays where it is */
        uint8_t bytes[TLS_BYTES];
    } in, out;
};

/*
 * Begin one. `hostname`: whose certificate a client wants to see, a name or an address; NULL: anybody's that
 * ca-cert.pem vouches for. -EINVAL, -ENOMEM.
 */
int tls_begin(struct tls *t, const struct tls_creds *c, const char *hostname);
void tls_free(struct tls *t);

/* Room for bytes of the peer, and how many there are now; no room: read first. */
void *tls_in_room(struct tls *t, size_t *ret_len);
void tls_in_add(struct tls *t, size_t len);

/* The peer sends no more: whether that is an end or a cut, tls_read() says. */
void tls_in_end(struct tls *t);

/* Bytes for the peer, and how many have been sent. */
const void *tls_out(const struct tls *t, size_t *ret_len);
void tls_out_sent(struct tls *t, size_t len);

/* The same for who sends them later: they stay where they are until tls_out_sent(). Reading goes on meanwhile. */
const void *tls_out_lend(struct tls *t, size_t *ret_len);

/*
 * Go on with the handshake, until it returns 0. -EAGAIN: send what is there, and put in what comes; -EACCES: the
 * peer is not whom its certificate should show, or has none; -EPROTO: others, such as one of more than
 * TLS_HANDSHAKE bytes. What is to be sent then tells the peer, and should be.
 */
int tls_handshake(struct tls *t);

/*
 * Plain bytes of the peer's, up to `len`; 0: it has ended. -EAGAIN: put in more; -ECONNRESET: cut; -EPROTO. New
 * keys (TLS 1.3) are followed by themselves; that a server asks for a new handshake (1.2) a client lets pass.
 */
ssize_t tls_read(struct tls *t, void *buf, size_t len);

/* Take plain bytes for the peer, as many as there is room for. -EAGAIN: none until some are sent; -EPROTO. */
ssize_t tls_write(struct tls *t, const void *buf, size_t len);

/* Bytes wait that tls_read() can give without more from the peer. */
bool tls_has_more(const struct tls *t);

/* Say that nothing follows; what is there is still to be sent. Once. */
void tls_end(struct tls *t);

/*
 * Who the peer is, for an authorisation: the distinguished name of its certificate (RFC 4514), or its name for the
 * key. -ENOENT: it has shown none; -ENAMETOOLONG.
 */
int tls_peer_name(struct tls *t, char name[TLS_NAME]);

#endif
