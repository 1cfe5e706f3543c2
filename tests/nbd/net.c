/* SPDX-License-Identifier: LGPL-2.1-or-later */
#undef NDEBUG
#include "tests/nbd/net.h"

#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

enum { VOLUME_S = 1, PIECE_NS = 3000000 };

/* Below n; 0 where nothing is drawn. */
static uint64_t draw(struct net *net, uint64_t n)
{
    if (net->random == 0)
        return 0;
    net->random ^= net->random << 13;
    net->random ^= net->random >> 7;
    net->random ^= net->random << 17;
    return net->random % n;
}

/* Of `len` bytes so many at once. */
static size_t piece(struct net *net, size_t len)
{
    if (net->random == 0 || len < 2)
        return len;
    size_t most = draw(net, 3) == 0 ? len : 1 + draw(net, 64);
    return 1 + draw(net, most < len ? most : len);
}

static struct wire *wire_of(struct nbds_stream *s)
{
    return (struct wire *)s;
}

static ssize_t wire_recv(struct nbds_stream *s, const struct iovec *iov, unsigned n)
{
    struct wire *w = wire_of(s);
    size_t want = 0, there = w->arrived - w->in_at;

    for (unsigned i = 0; i < n; i++)
        want += iov[i].iov_len;
    if (there == 0)
        return w->closed && w->in_at == w->in_len ? 0 : -EAGAIN;
    size_t take = piece(w->net, there < want ? there : want), left = take;
    for (unsigned i = 0; i < n && left > 0; i++) {
        size_t part = iov[i].iov_len < left ? iov[i].iov_len : left;
        memcpy(iov[i].iov_base, w->in + w->in_at, part);
        w->in_at += part;
        left -= part;
    }
    return (ssize_t)take;
}

static ssize_t wire_put(struct nbds_stream *s, const struct iovec *iov, unsigned n)
{
    struct wire *w = wire_of(s);
    size_t room = w->net->room - (w->out_len - w->out_at), want = 0;

    if (w->closed && !w->half)
        return -EPIPE;
    for (unsigned i = 0; i < n; i++)
        want += iov[i].iov_len;
    if (room == 0)
        return -EAGAIN;
    size_t take = piece(w->net, room < want ? room : want), left = take;
    if (w->out_size - w->out_len < take) {
        w->out_size = 2 * (w->out_len + take);
        w->out = realloc(w->out, w->out_size);
        assert(w->out);
    }
    for (unsigned i = 0; i < n && left > 0; i++) {
        size_t part = iov[i].iov_len < left ? iov[i].iov_len : left;
        memcpy(w->out + w->out_len, iov[i].iov_base, part);
        w->out_len += part;
        left -= part;
    }
    return (ssize_t)take;
}

static void wire_end(struct nbds_stream *s)
{
    wire_of(s)->open = false;
    wire_of(s)->data = NULL;
}

static const struct nbds_stream_ops wire_ops = {wire_recv, wire_put, wire_end, NULL};

/* ---- the poller ----------------------------------------------------------------------------------------- */

static struct net *net_of(struct nbds_poller *p)
{
    return (struct net *)p;
}

static uint64_t net_now(struct nbds_poller *p)
{
    return net_of(p)->now_ns;
}

static int net_watch(struct nbds_poller *p, int fd, bool level, void *data)
{
    struct net *net = net_of(p);

    if (!level) {
        net->wires[-fd - 2]->data = data; /* numbers of wires are no descriptors */
        net->wires[-fd - 2]->changed = true;
        return 0;
    }
    assert(net->nwatches < NET_WATCHES);
    net->watches[net->nwatches].fd = fd;
    net->watches[net->nwatches++].data = data;
    return 0;
}

static void net_want_room(struct nbds_poller *p, int fd, void *data, bool wanted)
{
    struct wire *w = net_of(p)->wires[-fd - 2];

    assert(w->data == data && w->wants_room != wanted);
    w->wants_room = wanted;
    w->changed |= wanted;
}

static void net_unwatch(struct nbds_poller *p, int fd)
{
    if (fd < 0)
        net_of(p)->wires[-fd - 2]->data = NULL;
}

/* What arrives by now. */
static void deliver(struct net *net)
{
    for (unsigned i = 0; i < net->nwires; i++) {
        struct wire *w = net->wires[i];
        size_t left = w->in_len - w->arrived;

        if (left == 0 || w->next_ns > net->now_ns)
            continue;
        w->arrived += piece(net, left);
        w->next_ns = net->now_ns + draw(net, PIECE_NS);
        w->changed = true;
    }
}

static unsigned tell_wires(struct net *net, struct nbds_ready *ready, unsigned max)
{
    unsigned n = 0;

    for (unsigned i = 0; i < net->nwires && n < max; i++) {
        struct wire *w = net->wires[i];

        if (!w->changed || !w->data)
            continue;
        w->changed = false;
        ready[n].data = w->data;
        ready[n++].readiness = (w->arrived > w->in_at || w->closed ? NBDS_READABLE : 0) |
                               (w->closed || (w->wants_room && w->out_len - w->out_at < net->room) ?
                                    NBDS_WRITABLE : 0) |
                               (w->closed ? NBDS_ENDING : 0);
    }
    return n;
}

static unsigned tell_descriptors(struct net *net, struct nbds_ready *ready, unsigned max)
{
    struct pollfd fds[NET_WATCHES];
    unsigned n = 0;

    for (unsigned i = 0; i < net->nwatches; i++)
        fds[i] = (struct pollfd){.fd = net->watches[i].fd, .events = POLLIN};
    if (poll(fds, net->nwatches, 0) <= 0)
        return 0;
    for (unsigned i = 0; i < net->nwatches && n < max; i++)
        if (fds[i].revents)
            ready[n++] = (struct nbds_ready){net->watches[i].data, NBDS_READABLE};
    return n;
}

/* To when the next piece arrives, or the server wants to look again. */
static void pass_time(struct net *net, int timeout_ms)
{
    uint64_t then = net->now_ns + (uint64_t)(timeout_ms < 0 ? 1000 : timeout_ms) * 1000000;

    for (unsigned i = 0; i < net->nwires; i++)
        if (net->wires[i]->arrived < net->wires[i]->in_len && net->wires[i]->next_ns < then)
            then = net->wires[i]->next_ns;
    if (then > net->now_ns)
        net->now_ns = then;
}

static void net_wait(struct nbds_poller *p, vdisk_queue *queue, struct nbds_events *ret, int timeout_ms)
{
    static const struct timespec limit = {.tv_sec = VOLUME_S};
    struct net *net = net_of(p);

    deliver(net);
    unsigned n = tell_wires(net, ret->ready, NBDS_EVENTS);
    n += tell_descriptors(net, ret->ready + n, NBDS_EVENTS - n);
    int done = vdisk_reap(queue, ret->done, n == 0 && timeout_ms != 0, NBDS_EVENTS, &limit);
    assert(done >= 0);
    ret->nready = n;
    ret->ndone = (unsigned)done;
    if (n == 0 && done == 0 && timeout_ms != 0)
        pass_time(net, timeout_ms);
}

static void net_destroy(struct nbds_poller *p)
{
}

static const struct nbds_poller_ops net_ops = {net_now, net_watch, net_want_room, net_unwatch, net_wait,
                                               net_destroy};

/* ---- clients -------------------------------------------------------------------------------------------- */

void net_init(struct net *net, uint64_t seed, size_t room)
{
    *net = (struct net){.poller = {.ops = &net_ops, .fd = -1}, .now_ns = 1, .random = seed, .room = room};
}

void net_free(struct net *net)
{
    for (unsigned i = 0; i < net->nwires; i++) {
        assert(!net->wires[i]->open);
        free(net->wires[i]->in);
        free(net->wires[i]->out);
        free(net->wires[i]);
    }
    net->nwires = 0;
}

struct wire *net_connect(struct net *net, struct nbds_thread *t)
{
    struct wire *w = calloc(1, sizeof *w);

    assert(w && net->nwires < NET_WIRES);
    *w = (struct wire){.stream = {.ops = &wire_ops, .fd = -(int)net->nwires - 2}, .net = net, .open = true,
                       .next_ns = net->now_ns};
    net->wires[net->nwires++] = w;
    t->server->clients++;
    t->nconns++;
    assert(nbds_thread_give(t, &w->stream) == 0);
    return w;
}

void wire_send(struct wire *w, const void *data, size_t len)
{
    w->in = realloc(w->in, w->in_len + len + 1);
    assert(w->in);
    if (len > 0)
        memcpy(w->in + w->in_len, data, len);
    w->in_len += len;
}

size_t wire_there(const struct wire *w)
{
    return w->out_len - w->out_at;
}

const uint8_t *wire_take(struct wire *w, size_t len)
{
    assert(len <= wire_there(w));
    if (len == 0) /* the buffer may not be there yet: nothing is counted from it */
        return w->out;
    const uint8_t *data = w->out + w->out_at;
    w->out_at += len;
    w->changed = true;
    return data;
}

void wire_close(struct wire *w)
{
    w->closed = true;
    w->changed = true;
}

void wire_close_half(struct wire *w)
{
    w->half = true;
    wire_close(w);
}
