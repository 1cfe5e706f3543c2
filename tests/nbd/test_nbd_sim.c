/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The NBD server over a simulated network, in virtual time: who takes too long is cut off when its time is
 * over, and not before; what comes in pieces, late, from several clients, is done as if it had come at once; a
 * client that is cut leaves nothing.
 */
#undef NDEBUG
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/nbd/net.h"

enum { BLOCK = 4096, BLOCKS = 64, CLIENTS = 4, ROOM = 256 << 10, SECOND = 1000 };

struct world {
    struct net         net;
    struct nbd_server *server;
    struct nbds_thread *thread;
    vdisk             *volume;
};

static void begin(struct world *w, uint64_t seed, const struct nbd_server_opts *opts)
{
    const struct vdisk_open_opts how = {.size = sizeof how, .flags = VDISK_OPEN_RDWR, .format = "raw"};

    net_init(&w->net, seed, ROOM);
    assert(vdisk_open("memory:4M", &how, &w->volume) == 0);
    assert(nbd_server_create(opts, &w->server) == 0);
    assert(nbd_server_add_export(w->server, &(struct nbd_export_opts){.name = "", .volume = w->volume}) == 0);
    w->thread = &w->server->threads[0];
    assert(nbds_thread_init(w->thread, w->server, &w->net.poller) == 0);
}

static void end(struct world *w)
{
    atomic_store(&w->server->stopping, true);
    nbds_thread_wake(w->thread);
    while (nbds_thread_turn(w->thread))
        ;
    assert(w->server->clients == 0 && w->thread->nconns == 0);
    w->thread->poller = NULL;
    nbds_thread_free(w->thread);
    nbd_server_destroy(w->server);
    assert(vdisk_close(w->volume) == 0);
    net_free(&w->net);
}

static void send_option(struct wire *wire, uint32_t option, const void *data, uint32_t len)
{
    uint8_t head[NBD_OPTION_SIZE];

    nbd_option_put(head, (struct nbd_option){option, len});
    wire_send(wire, head, sizeof head);
    wire_send(wire, data, len);
}

static void send_request(struct wire *wire, uint16_t type, uint64_t cookie, uint64_t offset, uint32_t length)
{
    uint8_t head[NBD_REQUEST_SIZE];

    nbd_request_put(head, false, &(struct nbd_request){.type = type, .cookie = cookie, .offset = offset,
                                                       .length = length});
    wire_send(wire, head, sizeof head);
}

static const uint8_t *await(struct world *w, struct wire *wire, size_t len)
{
    while (wire_there(wire) < len) {
        assert(wire->open);
        nbds_thread_turn(w->thread);
    }
    return wire_take(wire, len);
}

/* Up to the transmission, with simple replies. */
static void negotiate(struct world *w, struct wire *wire)
{
    uint8_t flags[NBD_CLIENT_FLAGS_SIZE];
    struct nbd_option_reply reply;

    nbd_client_flags_put(flags, NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES);
    wire_send(wire, flags, sizeof flags);
    send_option(wire, NBD_OPT_GO, "\0\0\0\0\0", 6);
    await(w, wire, NBD_GREETING_SIZE);
    do {
        assert(nbd_option_reply_get(await(w, wire, NBD_OPTION_REPLY_SIZE), &reply) == 0);
        await(w, wire, reply.length);
    } while (reply.type == NBD_REP_INFO);
    assert(reply.type == NBD_REP_ACK);
}

/* In milliseconds, how long it takes until the server has ended it. */
static uint64_t until_cut(struct world *w, const struct wire *wire)
{
    uint64_t from = w->net.now_ns;

    while (wire->open)
        nbds_thread_turn(w->thread);
    return (w->net.now_ns - from) / 1000000;
}

/* A server looks five times a second. */
static void about(const char *what, uint64_t took, unsigned limit)
{
    if (took < limit - 300 || took > limit + 500) {
        fprintf(stderr, "%s: cut off after %llu ms, not %u\n", what, (unsigned long long)took, limit);
        abort();
    }
}

static void test_times(void)
{
    const struct nbd_server_opts opts = {.handshake_ms = 5 * SECOND, .request_ms = 20 * SECOND,
                                         .reply_ms = 30 * SECOND, .idle_ms = 100 * SECOND};
    struct world w;
    struct wire *silent, *half, *idle, *deaf, *payload;

    begin(&w, 0, &opts);
    silent = net_connect(&w.net, w.thread);
    about("silent", until_cut(&w, silent), 5 * SECOND);
    half = net_connect(&w.net, w.thread);
    negotiate(&w, half);
    wire_send(half, "\x25\x60\x95", 3);
    about("half a request", until_cut(&w, half), 20 * SECOND);
    payload = net_connect(&w.net, w.thread);
    negotiate(&w, payload);
    send_request(payload, NBD_CMD_WRITE, 1, 0, 1 << 20);
    wire_send(payload, "some of it", 10);
    about("a payload that does not come", until_cut(&w, payload), 20 * SECOND);
    deaf = net_connect(&w.net, w.thread);
    negotiate(&w, deaf);
    for (unsigned i = 0; i < 300; i++)
        send_request(deaf, NBD_CMD_READ, i, 0, 1 << 20);
    about("who does not read", until_cut(&w, deaf), 30 * SECOND);
    idle = net_connect(&w.net, w.thread);
    negotiate(&w, idle);
    about("idle", until_cut(&w, idle), 100 * SECOND);
    end(&w);
}

/* ---- content -------------------------------------------------------------------------------------------- */

struct client {
    struct wire *wire;
    uint8_t  model[BLOCKS]; /* what each block is full of */
    unsigned expected;      /* replies: in the order of requests, since only one is in flight on a block */
    bool     busy[BLOCKS];
    unsigned block[BLOCKS]; /* by cookie: of the request */
    bool     reads[BLOCKS];
    unsigned cookies;
};

static uint64_t random_state;

static unsigned draw(unsigned n)
{
    random_state = random_state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (unsigned)(random_state >> 33) % n;
}

static uint64_t place(const struct client *clients, const struct client *c, unsigned block)
{
    return ((uint64_t)block * CLIENTS + (uint64_t)(c - clients)) * BLOCK;
}

/* One more request, on a block that no other is on. */
static void ask(struct client *clients, struct client *c)
{
    unsigned block = draw(BLOCKS), cookie = block;
    uint8_t data[BLOCK];

    if (c->busy[block])
        return;
    c->busy[block] = true;
    c->reads[cookie] = draw(2) == 0;
    send_request(c->wire, c->reads[cookie] ? NBD_CMD_READ : NBD_CMD_WRITE, cookie, place(clients, c, block),
                 BLOCK);
    if (!c->reads[cookie]) {
        c->model[block] = (uint8_t)draw(256);
        memset(data, c->model[block], sizeof data);
        wire_send(c->wire, data, sizeof data);
    }
    c->expected++;
}

/* A reply, if all of it is there. */
static bool answer(struct client *c)
{
    struct nbd_reply reply;

    if (wire_there(c->wire) < NBD_SIMPLE_REPLY_SIZE)
        return false;
    assert(nbd_reply_get(c->wire->out + c->wire->out_at, &reply) == 0);
    assert(reply.error == 0 && reply.cookie < BLOCKS);
    unsigned block = (unsigned)reply.cookie;
    size_t len = NBD_SIMPLE_REPLY_SIZE + (c->reads[block] ? BLOCK : 0);
    if (wire_there(c->wire) < len)
        return false;
    const uint8_t *data = wire_take(c->wire, len) + NBD_SIMPLE_REPLY_SIZE;
    for (unsigned i = 0; c->reads[block] && i < BLOCK; i++)
        assert(data[i] == c->model[block]);
    assert(c->busy[block]);
    c->busy[block] = false;
    c->expected--;
    return true;
}

static void test_content(uint64_t seed)
{
    static struct client clients[CLIENTS];
    struct world w;
    unsigned cut = 0;

    random_state = seed;
    memset(clients, 0, sizeof clients);
    begin(&w, seed, NULL);
    for (unsigned i = 0; i < CLIENTS; i++) {
        clients[i].wire = net_connect(&w.net, w.thread);
        negotiate(&w, clients[i].wire);
    }
    for (unsigned step = 0; step < 2000; step++) {
        struct client *c = &clients[draw(CLIENTS)];

        if (c->wire->closed)
            continue;
        for (unsigned n = draw(8); n > 0; n--)
            ask(clients, c);
        nbds_thread_turn(w.thread);
        while (draw(4) != 0 && answer(c))
            ;
        if (draw(1000) == 0 && cut + 1 < CLIENTS) {
            wire_close(c->wire);
            cut++;
        }
    }
    for (unsigned i = 0; i < CLIENTS; i++) {
        while (!clients[i].wire->closed && clients[i].expected > 0)
            if (!answer(&clients[i]))
                nbds_thread_turn(w.thread);
        wire_close(clients[i].wire);
        until_cut(&w, clients[i].wire);
    }
    end(&w);
}

int main(void)
{
    test_times();
    for (uint64_t seed = 1; seed <= 40; seed++)
        test_content(seed * 7919);
    puts("40 seeds");
    return 0;
}
