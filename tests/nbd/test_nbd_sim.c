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

#include "tests/nbd/served.h"

enum { BLOCK = 4096, BLOCKS = 64, CLIENTS = 4, SECOND = 1000 };

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

    served_begin(&w, 0, &opts);
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
    served_end(&w);
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
    served_begin(&w, seed, NULL);
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
    served_end(&w);
}

int main(void)
{
    test_times();
    for (uint64_t seed = 1; seed <= 40; seed++)
        test_content(seed * 7919);
    puts("40 seeds");
    return 0;
}
