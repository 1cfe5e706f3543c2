/* SPDX-License-Identifier: LGPL-2.1-or-later */
#undef NDEBUG
#include "tests/nbd/served.h"

#include <assert.h>

enum { ROOM = 256 << 10 };

void served_begin(struct world *w, uint64_t seed, const struct nbd_server_opts *opts)
{
    const struct vdisk_open_opts how = {.size = sizeof how, .flags = VDISK_OPEN_RDWR, .format = "raw"};

    net_init(&w->net, seed, ROOM);
    assert(vdisk_open("memory:64M", &how, &w->volume) == 0);
    assert(nbd_server_create(opts, &w->server) == 0);
    assert(nbd_server_add_export(w->server, &(struct nbd_export_opts){.name = "", .volume = w->volume}) == 0);
    w->thread = &w->server->threads[0];
    assert(nbds_thread_init(w->thread, w->server, &w->net.poller) == 0);
}

void served_end(struct world *w)
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

void served_turn(struct world *w)
{
    nbds_thread_turn(w->thread);
    for (const struct nbds_conn *c = w->thread->conns; c; c = c->next) {
        size_t sum = 0;

        for (unsigned i = 0; c->slots && i < w->server->opts.requests; i++)
            sum += c->slots[i].buf ? c->slots[i].buf_len : 0;
        assert(sum == c->bytes && sum <= w->server->opts.client_bytes);
    }
}

void send_option(struct wire *wire, uint32_t option, const void *data, uint32_t len)
{
    uint8_t head[NBD_OPTION_SIZE];

    nbd_option_put(head, (struct nbd_option){option, len});
    wire_send(wire, head, sizeof head);
    wire_send(wire, data, len);
}

void send_request(struct wire *wire, uint16_t type, uint64_t cookie, uint64_t offset, uint32_t length)
{
    uint8_t head[NBD_REQUEST_SIZE];

    nbd_request_put(head, false, &(struct nbd_request){.type = type, .cookie = cookie, .offset = offset,
                                                       .length = length});
    wire_send(wire, head, sizeof head);
}

const uint8_t *await(struct world *w, struct wire *wire, size_t len)
{
    while (wire_there(wire) < len) {
        assert(wire->open);
        served_turn(w);
    }
    return wire_take(wire, len);
}

uint32_t await_option(struct world *w, struct wire *wire)
{
    struct nbd_option_reply reply;

    assert(nbd_option_reply_get(await(w, wire, NBD_OPTION_REPLY_SIZE), &reply) == 0);
    await(w, wire, reply.length);
    return reply.type;
}

uint32_t await_reply(struct world *w, struct wire *wire, uint64_t cookie, size_t len)
{
    struct nbd_reply reply;

    assert(nbd_reply_get(await(w, wire, NBD_SIMPLE_REPLY_SIZE), &reply) == 0);
    assert(reply.form == NBD_REPLY_SIMPLE && reply.cookie == cookie);
    for (size_t part; reply.error == 0 && len > 0; len -= part) {
        part = len < ROOM / 2 ? len : ROOM / 2; /* a wire holds no more */
        await(w, wire, part);
    }
    return reply.error;
}

void send_flags(struct wire *wire)
{
    uint8_t flags[NBD_CLIENT_FLAGS_SIZE];

    nbd_client_flags_put(flags, NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES);
    wire_send(wire, flags, sizeof flags);
}

void negotiate(struct world *w, struct wire *wire)
{
    uint32_t type;

    send_flags(wire);
    send_option(wire, NBD_OPT_GO, "\0\0\0\0\0", 6);
    await(w, wire, NBD_GREETING_SIZE);
    do
        type = await_option(w, wire);
    while (type == NBD_REP_INFO);
    assert(type == NBD_REP_ACK);
}

uint64_t until_cut(struct world *w, const struct wire *wire)
{
    uint64_t from = w->net.now_ns;

    while (wire->open)
        served_turn(w);
    return (w->net.now_ns - from) / 1000000;
}

uint64_t now_ms(const struct world *w)
{
    return w->net.now_ns / 1000000;
}
