/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * For the targets of the NBD server: a server over a simulated network, with a volume in memory, and one client
 * at a time that sends what it is given. The server stays from input to input; connections do not.
 */
#ifndef TESTS_FUZZ_NBD_SESSION_H
#define TESTS_FUZZ_NBD_SESSION_H

#include <string.h>

#include "tests/fuzz/fuzz.h"
#include "tests/nbd/net.h"

enum { SESSION_VOLUME = 1 << 20, SESSION_INPUT = 64 << 10 };

static struct net session_net;
static struct nbd_server *session_server;

static inline struct nbds_thread *session_thread(void)
{
    return &session_server->threads[0];
}

static inline void session_once(void)
{
    const struct vdisk_open_opts how = {.size = sizeof how, .flags = VDISK_OPEN_RDWR, .format = "raw"};
    const struct nbd_server_opts opts = {.requests = 8};
    vdisk *v;

    if (session_server)
        return;
    net_init(&session_net, 1, 64 << 10);
    FUZZ_CHECK(vdisk_open("memory:1M", &how, &v) == 0 && nbd_server_create(&opts, &session_server) == 0,
               "no server");
    FUZZ_CHECK(nbd_server_add_export(session_server, &(struct nbd_export_opts){.name = "", .volume = v}) == 0 &&
                   nbd_server_add_export(session_server, &(struct nbd_export_opts){
                                             .name = "second", .description = "words", .volume = v,
                                             .read_only = true, .multi_conn = true, .min_block = 4096}) == 0 &&
                   nbds_thread_init(session_thread(), session_server, &session_net.poller) == 0,
               "no server");
}

/* A turn, after which a connection holds no more than it may. */
static inline void session_turn(void)
{
    nbds_thread_turn(session_thread());
    for (const struct nbds_conn *c = session_thread()->conns; c; c = c->next) {
        FUZZ_CHECK(c->bytes <= session_server->opts.client_bytes && c->used <= session_server->opts.requests,
                   "%zu bytes, %u requests", c->bytes, c->used);
        FUZZ_CHECK(c->in_at <= c->in_end && c->in_end <= NBDS_IN_BYTES && c->out_end <= 1 << 20, "buffers");
    }
}

static inline struct wire *session_begin(uint64_t seed)
{
    session_once();
    net_free(&session_net);
    session_net.random = seed | 1;
    return net_connect(&session_net, session_thread());
}

/* Until the server has taken all that it wants, and has said all that it has to; then the client goes. */
static inline void session_end(struct wire *w)
{
    wire_close(w);
    while (w->open) {
        wire_take(w, wire_there(w));
        session_turn();
    }
    FUZZ_CHECK(session_server->clients == 0 && !session_thread()->conns, "a connection is left");
}

/* Turns until nothing more comes of what was sent. */
static inline void session_settle(struct wire *w)
{
    size_t before;

    do {
        before = w->in_at + w->out_len;
        for (int i = 0; i < 20 && w->open; i++) {
            wire_take(w, wire_there(w));
            session_turn();
        }
    } while (w->open && (before != w->in_at + w->out_len || w->arrived < w->in_len));
    wire_take(w, wire_there(w));
}

#endif
