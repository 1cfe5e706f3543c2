/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A connection: its input, its limits of time, its end.
 *
 * Happy path: one call reads many small requests into the buffer, or the rest of a payload to where it belongs and
 * with it the beginning of what follows; what is whole is done, and the rest moves to the front.
 * Failures: whatever is wrong with the stream or the protocol ends it. Then nothing more is read; replies that
 * were made before are sent, if the stream lets them; what is with the volume is waited for.
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "exports/nbd/server.h"
#include "nbd/mutant.h"

/* While a long payload comes, what is read beyond it: little, since it is copied if it is of the next one. */
enum { BEYOND_BYTES = 4096, LONG_PAYLOAD = 64 << 10, RUNS = 8 };

static uint64_t ms(unsigned n)
{
    return n * UINT64_C(1000000);
}

void nbds_conn_free(struct nbds_conn *c)
{
    assert(c->in_flight == 0 && !c->leaving);
    if (c->stream)
        c->stream->ops->close(c->stream);
    for (unsigned i = 0; c->slots && i < c->thread->server->opts.requests; i++)
        if (c->slots[i].buf)
            nbds_pool_put(&c->thread->pool, c->slots[i].buf, c->slots[i].buf_len);
    free(c->slots);
    free(c->in);
    free(c->out);
    free(c);
}

void nbds_conn_new(struct nbds_thread *t, struct nbds_stream *stream)
{
    struct nbds_conn *c = calloc(1, sizeof *c);

    if (c) {
        c->thread = t;
        c->stream = stream;
        c->began_ns = c->active_ns = t->now_ns;
        c->replies_end = &c->replies;
        c->in = malloc(NBDS_IN_BYTES);
    }
    if (!c || !c->in || nbds_handshake_begin(c) < 0 ||
        t->poller->ops->watch(t->poller, stream->fd, false, c) < 0) {
        if (c)
            nbds_conn_free(c);
        else
            stream->ops->close(stream);
        nbds_client_gone(t, false);
        return;
    }
    c->writable = c->readable = true;
    c->next = t->conns;
    if (c->next)
        c->next->prev = c;
    t->conns = c;
    nbds_activate(c);
    if (t->stopping)
        nbds_conn_stop(c);
}

void nbds_conn_give_up(struct nbds_conn *c)
{
    for (unsigned i = 0; c->in_flight > 0 && i < c->thread->server->opts.requests; i++)
        vdisk_cancel(c->thread->queue, (uint64_t)(uintptr_t)&c->slots[i]); /* of others it knows nothing */
}

void nbds_conn_cut(struct nbds_conn *c)
{
    c->ended = true;
    if (c->stream) {
        c->thread->poller->ops->unwatch(c->thread->poller, c->stream->fd);
        c->stream->ops->close(c->stream);
        c->stream = NULL;
    }
    c->dead = true;
    nbds_conn_comes_no_more(c);
}

void nbds_conn_stop(struct nbds_conn *c)
{
    if (c->phase != NBDS_TRANSMISSION || NBD_MUTANT(STOP_CUTS))
        nbds_conn_cut(c);
    c->ended = true;
    nbds_activate(c);
}

bool nbds_conn_late(const struct nbds_conn *c)
{
    const struct nbd_server_opts *o = &c->thread->server->opts;
    uint64_t now = c->thread->now_ns;

    if (c->phase != NBDS_TRANSMISSION)
        return now - c->began_ns > ms(o->handshake_ms);
    return (c->out_ns != 0 && now - c->out_ns > ms(o->reply_ms)) ||
           (c->in_ns != 0 && !c->held && now - c->in_ns > ms(o->request_ms)) ||
           (o->idle_ms != 0 && c->used == 0 && !c->held && now - c->active_ns > ms(o->idle_ms));
}

/* ---- input ---------------------------------------------------------------------------------------------- */

/*
 * The client knows that it may. What came before it was told is not protected, and nothing that was agreed on
 * before holds.
 */
static int start_tls(struct nbds_conn *c)
{
    int rc = c->in_at == c->in_end ? nbds_tls_begin(c) : -EPROTO;

    c->starts_tls = false;
    c->secure = rc == 0;
    c->form = NBDS_SIMPLE;
    c->contexts = 0;
    c->context_export = NULL;
    c->asked_block_size = false;
    return rc;
}

/* Do what is in the buffer. -errno: it is over. */
static int consume(struct nbds_conn *c)
{
    int rc;

    do {
        if (c->out_end > 0 && !NBD_MUTANT(OUTPUT_UNBOUNDED)) { /* invariant 4 */
            c->held = true;
            return 0;
        }
        if (c->starts_tls && (rc = start_tls(c)) < 0)
            return rc;
        if (c->skip > 0 && c->in_at < c->in_end) {
            size_t n = c->in_end - c->in_at;
            n = n < c->skip ? n : (size_t)c->skip;
            c->in_at += n;
            c->skip -= n;
        }
        if (c->skip > 0)
            return 0;
        rc = c->phase == NBDS_TRANSMISSION ? nbds_request_step(c) : nbds_handshake_step(c);
    } while (rc > 0 && !c->ended);
    return rc;
}

/* Where the next bytes go; gives the number of pieces. */
static unsigned place(struct nbds_conn *c, struct iovec iov[2], size_t *ret_len)
{
    unsigned n = 0;
    size_t rest = 0;

    if (c->in_at == c->in_end)
        c->in_at = c->in_end = 0;
    if (c->filling) {
        assert(c->in_end == 0); /* what was there is in the payload */
        rest = c->filling->request.length - c->filled;
        iov[n++] = (struct iovec){(uint8_t *)c->filling->buf + c->filled, rest};
    } else if (c->in_at > 0) {
        memmove(c->in, c->in + c->in_at, c->in_end - c->in_at);
        c->in_end -= c->in_at;
        c->in_at = 0;
    }
    size_t room = rest > LONG_PAYLOAD ? BEYOND_BYTES : NBDS_IN_BYTES - c->in_end;
    iov[n++] = (struct iovec){c->in + c->in_end, room};
    *ret_len = rest + room;
    return n;
}

static void arrived(struct nbds_conn *c, size_t got)
{
    if (c->filling) {
        size_t rest = c->filling->request.length - c->filled;
        size_t taken = got < rest ? got : rest;

        c->filled += taken;
        assert(c->filled <= c->filling->request.length);
        got -= taken;
        if (taken == rest)
            nbds_request_filled(c);
    }
    c->in_end += got;
}

/* False: others have their turn first. */
static bool receive(struct nbds_conn *c)
{
    struct iovec iov[2];
    size_t len;
    unsigned n = place(c, iov, &len);
    ssize_t got = c->stream->ops->recv(c->stream, iov, n);

    nbds_count(&c->thread->receives, 1);
    if (got == -EINTR)
        return false;
    if (got == -EAGAIN) {
        c->readable = false;
    } else if (got <= 0) {
        c->ended = true;
    } else {
        if ((size_t)got < len && c->stream->short_empty && !c->ending)
            c->readable = false;
        arrived(c, (size_t)got);
    }
    return true;
}

/* Since when a part of something is there that the client has not finished. */
static void note_partial(struct nbds_conn *c)
{
    if (c->held || (c->in_at == c->in_end && !c->filling && c->skip == 0))
        c->in_ns = 0;
    else if (c->in_ns == 0)
        c->in_ns = c->thread->now_ns;
}

void nbds_conn_run(struct nbds_conn *c)
{
    nbds_conn_assert(c);
    for (int i = 0; !c->ended; i++) {
        c->held = false;
        if (!c->filling && consume(c) < 0) {
            nbds_count(&c->thread->refused, c->phase != NBDS_TRANSMISSION);
            c->ended = true;
        }
        /* A client that sends without end gets its turns like others. */
        if (c->ended || c->held || !c->readable || i == RUNS || !receive(c))
            break;
    }
    note_partial(c);
}

/* ---- output and end ------------------------------------------------------------------------------------- */

static void unlink_conn(struct nbds_conn *c)
{
    assert(c->prev ? c->prev->next == c : c->thread->conns == c);
    if (c->prev)
        c->prev->next = c->next;
    else
        c->thread->conns = c->next;
    if (c->next)
        c->next->prev = c->prev;
}

/*
 * Whether there is room the poller tells only who has none: each reply that a client takes makes some, and would
 * wake the thread.
 */
static void watch_room(struct nbds_conn *c)
{
    if (c->dead || c->wants_room == !c->writable)
        return;
    c->wants_room = !c->writable;
    c->thread->poller->ops->want_room(c->thread->poller, c->stream->fd, c, c->wants_room);
}

void nbds_conn_settle(struct nbds_conn *c)
{
    struct nbds_thread *t = c->thread;
    unsigned used = c->used;
    size_t out = c->out_end;

    nbds_conn_assert(c);
    if (!c->dead && nbds_reply_send(c) < 0)
        nbds_conn_cut(c);
    watch_room(c);
    if (c->ended && !c->dead && c->in_flight == 0 && !c->replies && c->out_end == 0 && !nbds_reply_pending(c))
        nbds_conn_cut(c);
    nbds_conn_note_leaving(c);
    if (c->dead && c->in_flight == 0) {
        bool served = c->phase == NBDS_TRANSMISSION;
        unlink_conn(c);
        nbds_conn_free(c);
        nbds_client_gone(t, served);
    } else if (!c->ended && (c->held ? c->used < used || c->out_end < out : c->readable)) {
        nbds_activate(c); /* it goes on without being told that it can */
    }
}
