/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A server over a simulated network (net.h), and what the clients of its tests say. Who waits turns the server. */
#ifndef TESTS_NBD_SERVED_H
#define TESTS_NBD_SERVED_H

#include "tests/nbd/net.h"

struct world {
    struct net         net;
    struct nbd_server *server;
    struct nbds_thread *thread;
    vdisk             *volume;
};

/* A volume of 64 MiB in memory, as the export without a name. */
void served_begin(struct world *w, uint64_t seed, const struct nbd_server_opts *opts);
void served_end(struct world *w);
/* A turn, after which no connection holds more than it may. */
void served_turn(struct world *w);

void send_option(struct wire *wire, uint32_t option, const void *data, uint32_t len);
void send_request(struct wire *wire, uint16_t type, uint64_t cookie, uint64_t offset, uint32_t length);
/* `len` bytes of what the server says. */
const uint8_t *await(struct world *w, struct wire *wire, size_t len);
/* One reply to an option: its type. */
uint32_t await_option(struct world *w, struct wire *wire);
/* The error of a simple reply with `cookie`, and what follows one without. */
uint32_t await_reply(struct world *w, struct wire *wire, uint64_t cookie, size_t len);
void send_flags(struct wire *wire);
/* Up to the transmission, with simple replies. */
void negotiate(struct world *w, struct wire *wire);
/* In milliseconds, how long it takes until the server has ended it. */
uint64_t until_cut(struct world *w, const struct wire *wire);
uint64_t now_ms(const struct world *w);

#endif
