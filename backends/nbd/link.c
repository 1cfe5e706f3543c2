/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Happy path: a request waits in line; what waits at the end of a turn goes out by one send, headers and data;
 * replies are received as many as there are, and end their requests in whatever order. With TLS both go by way of
 * records: what is to be sent counts as sent when all records that it is in have been.
 * Failure modes: the connection breaks, or the server breaks the protocol: what is under way is cancelled, and
 * when it has ended the requests are put in line again, if the connection is to be made anew (reconnect-delay)
 * and they may be repeated, or fail with EIO. No connection can be made: at once, then with pauses, until the
 * time is over; then all that wait fail, and the next request tries once. A queue's own that never came about:
 * its requests take the shared one.
 *
 *     DOWN -- a request --> DIALING --> UP -- broken --> BREAKING -- calls have ended --> DOWN
 *                           ^     |
 *                           +-----+ PAUSING
 *
 * Invariants: client.h.
 */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>

#include "backends/nbd/client.h"
#include "engine/base/bits.h"
#include "engine/base/mem.h"
#include "engine/loop/log.h"
#include "engine/loop/queue.h"
#include "nbd/mutant.h"

enum { PAUSE_FIRST_MS = 50, PAUSE_MAX_MS = 1000 };

static const char server_closed[] = "the server has closed it";

static void pump(struct nbd_link *l);
static void begin_dial(struct nbd_link *l);
static void come_back(struct nbd_link *l);

bool nbd_link_is_idle(const struct nbd_link *l)
{
    return list_empty(&l->waiting) && list_empty(&l->outgoing) && list_empty(&l->flying);
}

static void link_assert(const struct nbd_link *l)
{
    assert(l->nfree <= NBD_LINK_SLOTS);
    assert((l->fd >= 0) == (l->state == NBD_UP || l->state == NBD_BREAKING));
    assert((l->tls != NULL) == (l->fd >= 0 && l->client->place.tls)); /* invariant 7 */
    assert(!call_is_under_way(&l->send) || !list_empty(&l->outgoing));
    assert(!nbd_link_is_idle(l) || !call_is_under_way(&l->receive)); /* invariant 3 */
    assert(l->own || l == l->client->shared || !l->client->shared);
    assert(l->state != NBD_DIALING || call_is_under_way(&l->dial));
    assert(l->state != NBD_PAUSING || call_is_under_way(&l->pause));
    assert(!nbd_link_is_idle(l) || (!call_is_under_way(&l->dial) && !call_is_under_way(&l->pause)));
}

/* ---- life ------------------------------------------------------------------------------------------------ */

struct nbd_link *nbd_link_new(struct nbd_client *c, vdisk_queue *home)
{
    struct nbd_link *l = mem_calloc(1, sizeof *l);

    if (!l)
        return NULL;
    l->buf = mem_alloc(NBD_RECEIVE_BYTES);
    if (!l->buf) {
        mem_free(l);
        return NULL;
    }
    l->client = c;
    l->home = home;
    l->fd = -1;
    list_init(&l->node);
    list_init(&l->waiting);
    list_init(&l->outgoing);
    list_init(&l->flying);
    for (unsigned i = 0; i < NBD_LINK_SLOTS; i++)
        l->free_slots[l->nfree++] = (uint16_t)i;
    pthread_mutex_lock(&c->lock);
    list_add_tail(&c->links, &l->node);
    pthread_mutex_unlock(&c->lock);
    return l;
}

/* Nothing is under way on the one that there was. */
static void set_socket(struct nbd_link *l, struct nbd_socket socket)
{
    struct nbd_socket old = {l->fd, l->tls};

    assert(!call_is_under_way(&l->send) && !call_is_under_way(&l->receive));
    pthread_mutex_lock(&l->client->lock);
    l->fd = socket.fd;
    pthread_mutex_unlock(&l->client->lock);
    l->tls = socket.tls;
    nbd_socket_close(&old);
}

static void drop_socket(struct nbd_link *l)
{
    set_socket(l, (struct nbd_socket){.fd = -1});
}

/* A polite end. Nothing is under way. */
static void say_goodbye(struct nbd_link *l)
{
    struct nbd_request bye = {.type = NBD_CMD_DISC};
    uint8_t header[NBD_EXTENDED_REQUEST_SIZE];
    struct iovec iov = {header, nbd_request_size(l->terms.extended)};
    const void *bytes = header;

    nbd_request_put(header, l->terms.extended, &bye);
    if (l->tls) {
        nbd_tls_write(l->tls, &iov, 1);
        tls_end(&l->tls->tls);
        bytes = tls_out(&l->tls->tls, &iov.iov_len);
    }
    if (send(l->fd, bytes, iov.iov_len, MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
        return; /* then without */
}

static bool is_hung_up(const struct nbd_link *l)
{
    struct pollfd p = {.fd = l->fd, .events = POLLRDHUP};

    return l->fd >= 0 && poll(&p, 1, 0) > 0;
}

/* Invariant 6. Before the goodbye: when the server closes after that, nothing is lost. */
static void leave(struct nbd_link *l)
{
    struct nbd_client *c = l->client;
    bool found;

    pthread_mutex_lock(&c->lock);
    found = is_hung_up(l) && !NBD_MUTANT(LEFT_UNSEEN);
    if (found && c->acked != c->flushed)
        nbd_note_loss(c);
    list_del(&l->node);
    pthread_mutex_unlock(&c->lock);
    if (found)
        nbd_extents_forget(c);
}

void nbd_link_free(struct nbd_link *l)
{
    if (!l)
        return;
    assert(nbd_link_is_idle(l) && !l->kicked && l->nfree == NBD_LINK_SLOTS);
    assert(!call_is_under_way(&l->send) && !call_is_under_way(&l->receive) && !call_is_under_way(&l->dial));
    leave(l);
    if (l->state == NBD_UP)
        say_goodbye(l);
    drop_socket(l);
    mem_free(l->big);
    mem_free(l->buf);
    mem_free(l);
}

/* Invariant 6: has one of the others been hung up? */
static void look_at_others(struct nbd_link *l)
{
    struct nbd_client *c = l->client;
    bool found = false;

    pthread_mutex_lock(&c->lock);
    l->hung_up = false;
    for (struct list *at = c->links.next; at != &c->links; at = at->next) {
        struct nbd_link *other = container_of(at, struct nbd_link, node);
        if (other == l || !is_hung_up(other) || NBD_MUTANT(OTHERS_UNSEEN))
            continue;
        found = other->hung_up = true;
        if (c->acked != c->flushed)
            nbd_note_loss(c);
    }
    pthread_mutex_unlock(&c->lock);
    if (found)
        nbd_extents_forget(c);
}

void nbd_link_give(struct nbd_link *l, struct nbd_socket socket, const struct nbd_terms *terms)
{
    assert(l->fd < 0 && list_empty(&l->outgoing) && list_empty(&l->flying));
    l->terms = *terms;
    l->was_up = true;
    set_socket(l, socket);
    l->state = NBD_UP;
    nbd_reply_reset(l);
    look_at_others(l);
}

/* ---- ends of requests ------------------------------------------------------------------------------------ */

static void take_slot(struct nbd_link *l, struct nbd_req *req)
{
    uint16_t slot;

    assert(l->nfree > 0 && !req->placed);
    slot = l->free_slots[--l->nfree];
    assert(!l->slots[slot]);
    l->slots[slot] = req;
    req->cookie = ++l->sequence << 16 | slot;
    req->placed = true;
    req->sent = req->replied = req->told = false;
    req->npieces = 0;
    req->rc = 0;
}

static void give_slot(struct nbd_link *l, struct nbd_req *req)
{
    uint16_t slot = (uint16_t)req->cookie;

    assert(req->placed && l->slots[slot] == req);
    l->slots[slot] = NULL;
    l->free_slots[l->nfree++] = slot;
    req->placed = false;
}

static void kick(struct nbd_link *l);

/* Sent and answered. */
static void finish(struct nbd_link *l, struct nbd_req *req)
{
    assert(req->sent && req->replied && req->unsent == 0); /* invariant 2 */
    list_del(&req->node);
    give_slot(l, req);
    if (nbd_req_goes_on(req)) {
        list_add_tail(&l->waiting, &req->node);
        kick(l);
    } else {
        nbd_req_end(req);
    }
}

void nbd_link_answered(struct nbd_link *l, struct nbd_req *req)
{
    assert(req->placed && !req->replied);
    l->trouble_ms = l->pause_ms = 0;
    if (atomic_load_explicit(&l->client->has_why, memory_order_relaxed))
        atomic_store(&l->client->has_why, false);
    req->replied = true;
    if (req->sent)
        finish(l, req);
}

static void fail_all(struct list *reqs)
{
    struct list *node;

    while ((node = list_pop(reqs))) {
        struct nbd_req *req = container_of(node, struct nbd_req, node);
        req->rc = -EIO;
        nbd_req_end(req);
    }
}

/* ---- going down ------------------------------------------------------------------------------------------ */

static bool time_is_over(const struct nbd_link *l)
{
    return nbd_now_ms() - l->trouble_ms >= l->client->place.reconnect_ms;
}

/* All that was on its way: to the front of the line, in order, or to its end. */
static void settle(struct nbd_link *l)
{
    struct list all, again, failed, *node;

    assert(!call_is_under_way(&l->send) && !call_is_under_way(&l->receive) && l->fd < 0); /* invariant 2 */
    list_init(&all);
    list_init(&again);
    list_init(&failed);
    list_splice_tail(&all, &l->flying);
    list_splice_tail(&all, &l->outgoing);
    while ((node = list_pop(&all))) {
        struct nbd_req *req = container_of(node, struct nbd_req, node);
        bool replied = req->replied;
        give_slot(l, req);
        if (replied && !nbd_req_goes_on(req))
            nbd_req_end(req);
        else if (nbd_req_may_repeat(req) && !time_is_over(l))
            list_add_tail(&again, &req->node);
        else
            list_add_tail(&failed, &req->node);
    }
    assert(l->nfree == NBD_LINK_SLOTS);
    list_splice_tail(&again, &l->waiting);
    list_splice_tail(&l->waiting, &again);
    fail_all(&failed);
}

/* When nothing has its memory any more: invariant 2. */
static void bury(struct nbd_link *l)
{
    if (l->state != NBD_BREAKING || call_is_under_way(&l->send) || call_is_under_way(&l->receive))
        return;
    drop_socket(l);
    l->state = NBD_DOWN;
    mem_free(l->big);
    l->big = NULL;
    nbd_note_break(l->client);
    nbd_extents_forget(l->client);
    settle(l);
    if (!list_empty(&l->waiting))
        come_back(l);
}

static void break_off(struct nbd_link *l)
{
    struct nbd_client *c = l->client;

    if (l->state != NBD_UP)
        return;
    log_add(VDISK_LOG_WARNING, c->b.name, "the connection to the server is lost: %s", l->why);
    nbd_say_why(c, l->why);
    l->state = NBD_BREAKING;
    if (l->trouble_ms == 0)
        l->trouble_ms = nbd_now_ms();
    shutdown(l->fd, SHUT_RDWR);
    call_cancel(&l->send);
    call_cancel(&l->receive);
}

/* ---- coming back ----------------------------------------------------------------------------------------- */

/* On a worker. */
static int64_t dial(struct call *call)
{
    struct nbd_link *l = container_of(call, struct nbd_link, dial);

    l->dialed_rc = nbd_dial(&l->client->place, &l->dialed, &l->dialed_socket, l->why);
    if (l->dialed_rc == 0 && !nbd_terms_fit(l->client, &l->dialed, l->why)) {
        nbd_socket_close(&l->dialed_socket);
        l->dialed_rc = -EIO;
    }
    return 0;
}

static void paused(struct call *call)
{
    struct nbd_link *l = container_of(call, struct nbd_link, pause);

    l->state = NBD_DOWN;
    begin_dial(l);
}

/* At once for the first time, and where nobody waits for longer; then with pauses, until something works. */
static void come_back(struct nbd_link *l)
{
    uint64_t pause_ms = l->pause_ms;

    assert(l->fd < 0 && !list_empty(&l->waiting) && pause_ms <= PAUSE_MAX_MS);
    l->state = NBD_DOWN;
    l->pause_ms = pause_ms ? min_u64(pause_ms * 2, PAUSE_MAX_MS) : PAUSE_FIRST_MS;
    if (pause_ms == 0 || l->client->place.reconnect_ms == 0) {
        begin_dial(l);
        return;
    }
    l->state = NBD_PAUSING;
    l->pause.done = paused;
    call_timeout(&l->pause, l->home, pause_ms * 1000000);
}

static void give_up(struct nbd_link *l)
{
    struct nbd_client *c = l->client;
    struct list all, *node;

    l->state = NBD_DOWN;
    list_init(&all);
    list_splice_tail(&all, &l->waiting);
    if (l->own && !l->was_up) { /* the server takes no more connections, say */
        log_add(VDISK_LOG_INFO, c->b.name, "a queue has no connection of its own: %s", l->why);
        l->useless = true;
        while ((node = list_pop(&all)))
            nbd_req_to_shared(container_of(node, struct nbd_req, node));
        return;
    }
    nbd_say_why(c, l->why);
    log_add(VDISK_LOG_ERROR, c->b.name, "there is no connection to the server: %s", l->why);
    fail_all(&all);
}

static void dialed(struct call *call)
{
    struct nbd_link *l = container_of(call, struct nbd_link, dial);

    assert(l->state == NBD_DIALING && !list_empty(&l->waiting));
    if (call->res == 0 && l->dialed_rc == 0) {
        nbd_link_give(l, l->dialed_socket, &l->dialed);
        pump(l);
        return;
    }
    if (call->res < 0)
        snprintf(l->why, sizeof l->why, "no thread to connect on: %s", strerror((int)-call->res));
    if (l->trouble_ms == 0)
        l->trouble_ms = nbd_now_ms();
    if (time_is_over(l) || (l->own && !l->was_up))
        give_up(l);
    else
        come_back(l);
}

static void begin_dial(struct nbd_link *l)
{
    assert(l->state == NBD_DOWN && l->fd < 0 && !list_empty(&l->waiting));
    l->state = NBD_DIALING;
    l->dial.done = dialed;
    call_compute(&l->dial, l->home, dial);
}

/* ---- sending --------------------------------------------------------------------------------------------- */

/* The header of a request, and its data, behind l->iov[0 .. iovcnt). False: it has no room. */
static bool add_to_send(struct nbd_link *l, struct nbd_req *req)
{
    struct nbd_request wire = {.flags = req->flags, .type = req->command, .offset = req->offset,
                               .length = req->length};
    size_t size = nbd_request_size(l->terms.extended);
    bool has_data = req->command == NBD_CMD_WRITE;
    unsigned room = NBD_SEND_IOVS - l->iovcnt;
    uint64_t len = 0;

    if (room < 1 + (has_data ? min_u64(NBD_IOVS_MAX, req->io->iovcnt) : 0))
        return false;
    take_slot(l, req);
    wire.cookie = req->cookie;
    if (has_data && l->terms.extended)
        wire.flags |= NBD_CMD_FLAG_PAYLOAD_LEN;
    nbd_request_put(req->header, l->terms.extended, &wire);
    l->iov[l->iovcnt++] = (struct iovec){req->header, size};
    if (has_data)
        l->iovcnt += nbd_req_iov(req, 0, req->length, l->iov + l->iovcnt, NBD_IOVS_MAX, &len);
    assert(!has_data || len == req->length);
    req->unsent = size + len;
    return true;
}

static void send_done(struct call *call);

/* Records of what comes next, or the rest of those that are on their way. False, with a reason: TLS is over. */
static bool fill_records(struct nbd_link *l)
{
    struct nbd_tls *s = l->tls;
    size_t len;

    tls_out(&s->tls, &len);
    assert(len > 0 || s->taken == 0); /* what was taken counts as sent with the last of its records */
    if (len == 0) {
        int64_t n = nbd_tls_write(s, l->iov + l->iov_at, l->iovcnt - l->iov_at);
        if (n < 0) {
            snprintf(l->why, sizeof l->why, "%s", s->tls.why);
            return false;
        }
        s->taken = (uint64_t)n;
    }
    s->out.iov_base = unconst(tls_out_lend(&s->tls, &s->out.iov_len));
    assert(s->out.iov_len > 0);
    return true;
}

static void send_more(struct nbd_link *l)
{
    assert(l->iov_at < l->iovcnt && l->iovcnt <= NBD_SEND_IOVS && !list_empty(&l->outgoing));
    l->send.done = send_done;
    if (!l->tls)
        call_send(&l->send, l->home, l->fd, l->iov + l->iov_at, l->iovcnt - l->iov_at);
    else if (fill_records(l))
        call_send(&l->send, l->home, l->fd, &l->tls->out, 1);
    else
        break_off(l); /* pump() buries it */
}

/* What it was to be when it was put in line it cannot be on this connection: 0, or the error that it ends with. */
static int recheck(const struct nbd_link *l, struct nbd_req *req)
{
    if (req->command == NBD_CMD_BLOCK_STATUS && !l->terms.has_context) /* it had, when it was asked first */
        return -ENOTSUP;
    return req->command == NBD_CMD_FLUSH && !NBD_MUTANT(FLUSH_BELIEVED) && !nbd_req_flush_begins(req) ? -EIO : 0;
}

static void begin_send(struct nbd_link *l)
{
    uint64_t bytes = 0;

    assert(!call_is_under_way(&l->send) && list_empty(&l->outgoing));
    l->iov_at = l->iovcnt = 0;
    while (!list_empty(&l->waiting) && l->nfree > 0 && bytes < NBD_SEND_BYTES) {
        struct nbd_req *req = container_of(l->waiting.next, struct nbd_req, node);
        int rc = recheck(l, req);
        if (rc < 0) {
            list_del(&req->node);
            req->rc = rc;
            nbd_req_end(req);
            continue;
        }
        if (!add_to_send(l, req))
            break;
        list_del(&req->node);
        list_add_tail(&l->outgoing, &req->node);
        bytes += req->unsent;
    }
    if (l->iovcnt > 0)
        send_more(l);
}

/* `n` bytes have been sent: which requests are out with that? */
static void note_sent(struct nbd_link *l, uint64_t n)
{
    while (l->iov_at < l->iovcnt && n >= l->iov[l->iov_at].iov_len)
        n -= l->iov[l->iov_at++].iov_len;
    if (n > 0) {
        struct iovec *v = &l->iov[l->iov_at];
        assert(l->iov_at < l->iovcnt && n < v->iov_len);
        v->iov_base = (char *)v->iov_base + n;
        v->iov_len -= n;
    }
}

static void note_out(struct nbd_link *l, uint64_t n)
{
    while (n > 0) {
        struct nbd_req *req = container_of(l->outgoing.next, struct nbd_req, node);
        uint64_t part = min_u64(n, req->unsent);
        assert(!list_empty(&l->outgoing) && part > 0);
        req->unsent -= part;
        n -= part;
        if (req->unsent > 0)
            return;
        req->sent = true;
        list_del(&req->node);
        list_add_tail(&l->flying, &req->node);
        if (req->replied)
            finish(l, req);
    }
}

/* `n` bytes have gone to the socket: how many of the protocol's are out with that? */
static uint64_t bytes_out(struct nbd_link *l, uint64_t n)
{
    size_t left;

    if (!l->tls)
        return n;
    assert(n <= l->tls->out.iov_len);
    tls_out_sent(&l->tls->tls, n);
    tls_out(&l->tls->tls, &left);
    if (left > 0)
        return 0;
    n = l->tls->taken;
    l->tls->taken = 0;
    return n;
}

static void send_done(struct call *call)
{
    struct nbd_link *l = container_of(call, struct nbd_link, send);
    uint64_t out;

    if (l->state == NBD_BREAKING) {
        bury(l);
        return;
    }
    if (call->res < 0) {
        snprintf(l->why, sizeof l->why, "sending: %s", strerror((int)-call->res));
        break_off(l);
        bury(l);
        return;
    }
    out = bytes_out(l, (uint64_t)call->res);
    note_sent(l, out);
    note_out(l, out);
    if (l->iov_at < l->iovcnt)
        send_more(l);
    pump(l);
}

/* ---- receiving ------------------------------------------------------------------------------------------- */

/* What the records have that have come, all of it. False, with a reason: there is nothing more to come. */
static bool take_records(struct nbd_link *l)
{
    for (;;) {
        int64_t n = nbd_tls_read(l->tls, l->receive_iov, nbd_reply_wants(l));
        if (n == -EAGAIN)
            return true;
        if (n == 0)
            snprintf(l->why, sizeof l->why, "%s", server_closed);
        else if (n == -ECONNRESET)
            snprintf(l->why, sizeof l->why, "%s, without an end of TLS", server_closed);
        else if (n < 0)
            snprintf(l->why, sizeof l->why, "%s", l->tls->tls.why);
        if (n <= 0 || !nbd_reply_came(l, (uint64_t)n))
            return false;
    }
}

/* `res` bytes, or the end, or an error. False, with a reason: the connection is done with. */
static bool take_received(struct nbd_link *l, int64_t res)
{
    if (res < 0)
        snprintf(l->why, sizeof l->why, "receiving: %s", strerror((int)-res));
    else if (res == 0 && !l->tls)
        snprintf(l->why, sizeof l->why, "%s", server_closed);
    if (res < 0 || (res == 0 && !l->tls))
        return false;
    if (!l->tls)
        return nbd_reply_came(l, (uint64_t)res);
    assert(res <= (int64_t)l->tls->in.iov_len);
    if (res == 0)
        tls_in_end(&l->tls->tls);
    tls_in_add(&l->tls->tls, (size_t)res);
    return take_records(l);
}

static void receive_done(struct call *call)
{
    struct nbd_link *l = container_of(call, struct nbd_link, receive);

    if (l->state == NBD_BREAKING) {
        bury(l);
        return;
    }
    if (!take_received(l, call->res)) {
        break_off(l);
        bury(l);
        return;
    }
    pump(l);
}

static void receive_more(struct nbd_link *l)
{
    const struct iovec *iov = l->receive_iov;
    unsigned iovcnt = 1;

    if (l->tls) {
        l->tls->in.iov_base = tls_in_room(&l->tls->tls, &l->tls->in.iov_len);
        assert(l->tls->in.iov_len > 0); /* take_records() has left less than a record */
        iov = &l->tls->in;
    } else {
        iovcnt = nbd_reply_wants(l);
    }
    l->receive.done = receive_done;
    call_receive(&l->receive, l->home, l->fd, iov, iovcnt);
}

static void pump(struct nbd_link *l)
{
    assert(queue_is_mine(l->home)); /* invariant 1 */
    link_assert(l);
    if (l->state == NBD_DOWN && !list_empty(&l->waiting))
        begin_dial(l);
    if (l->state == NBD_UP && !call_is_under_way(&l->send))
        begin_send(l);
    if (l->state == NBD_BREAKING)
        bury(l);
    if (l->state != NBD_UP)
        return;
    if (!call_is_under_way(&l->receive) && !(list_empty(&l->outgoing) && list_empty(&l->flying)))
        receive_more(l);
    link_assert(l);
}

static void run_kick(struct task *t)
{
    struct nbd_link *l = container_of(t, struct nbd_link, kick);

    l->kicked = false;
    pump(l);
}

/* At the end of the turn, so that what comes in one goes by one send. */
static void kick(struct nbd_link *l)
{
    if (l->kicked || call_is_under_way(&l->send))
        return;
    l->kicked = true;
    l->kick.run = run_kick;
    queue_ready(l->home, &l->kick);
}

void nbd_link_add(struct nbd_link *l, struct nbd_req *req)
{
    assert(req->link == l && list_empty(&req->node) && !req->placed);
    assert(queue_is_mine(l->home) && (!req->io || req->foreign == (req->io->queue != l->home)));
    if (l->useless) {
        nbd_req_to_shared(req);
        return;
    }
    list_add_tail(&l->waiting, &req->node);
    kick(l);
}
