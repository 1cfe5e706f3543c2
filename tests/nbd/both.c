/* SPDX-License-Identifier: LGPL-2.1-or-later */
#undef NDEBUG
#include "tests/nbd/both.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "backends/drivers.h"
#include "engine/base/bits.h"
#include "engine/base/iov.h"
#include "engine/loop/queue.h"
#include "engine/loop/status.h"
#include "engine/volume.h"
#include "tests/lib/test.h"

enum { SCAN_NS = 200000000 };

struct both *both_now;
_Thread_local struct both_dialer *both_me;

uint64_t both_ns(const struct both *b)
{
    return sim_now_ns(b->sim);
}

/* ---- the server's storage --------------------------------------------------------------------------------- */

struct disk_backend {
    struct backend    base; /* first */
    struct both_disk *disk;
    unsigned          epoch;
};

static void disk_write(struct both_disk *d, const struct io *io)
{
    for (uint64_t at = io->offset / BOTH_BLOCK; at <= (io->offset + io->len - 1) / BOTH_BLOCK; at++)
        d->dirty[at] = true;
    if (io->kind == IO_WRITE)
        iov_to(io->iov, io->iovcnt, 0, d->now + io->offset, io->len);
    else
        memset(d->now + io->offset, 0, io->len);
    if (io->flags & IO_FUA)
        memcpy(d->stable + io->offset, d->now + io->offset, io->len);
}

static void disk_flush(struct both_disk *d)
{
    d->flushes++;
    for (unsigned i = 0; i < BOTH_BLOCKS; i++) {
        if (d->dirty[i])
            memcpy(d->stable + i * BOTH_BLOCK, d->now + i * BOTH_BLOCK, BOTH_BLOCK);
        d->dirty[i] = false;
    }
}

/* Of a server that is dead nothing changes the disk any more. */
static void disk_submit(struct backend *b, struct io *io)
{
    struct disk_backend *db = container_of(b, struct disk_backend, base);
    struct both_disk *d = db->disk;
    bool moves = io->kind == IO_READ || io->kind == IO_WRITE, alive = db->epoch == d->epoch;

    assert(io->moved == 0 && io->offset + io->len <= BOTH_SIZE);
    if (io->kind == IO_READ)
        iov_from(io->iov, io->iovcnt, 0, d->now + io->offset, io->len);
    else if (io->kind == IO_STATUS)
        for (uint64_t at = io->offset, end = io->offset + io->len; at < end;) {
            uint64_t next = min_u64(align_down(at, BOTH_BLOCK) + BOTH_BLOCK, end);
            bool zero = d->now[at] == 0 && memcmp(d->now + at, d->now + at + 1, next - at - 1) == 0;
            if (!status_add(io->status, next, zero))
                break;
            at = next;
        }
    else if (io->kind == IO_FLUSH && alive)
        disk_flush(d);
    else if (io->len > 0 && (io->kind == IO_WRITE || io->kind == IO_ZERO || io->kind == IO_DISCARD) && alive)
        disk_write(d, io);
    io_end_later(io, moves ? (int64_t)io->len : 0);
}

static void disk_close(struct backend *b)
{
}

static struct backend *disk_open(struct both *b)
{
    static const struct backend_driver driver = {.name = "disk", .close = disk_close, .submit = disk_submit};
    struct disk_backend *db = backend_alloc(&driver, "disk", sizeof *db);
    struct backend *outer;

    assert(db);
    db->disk = &b->disk;
    db->epoch = b->disk.epoch;
    db->base.caps = BACKEND_ZERO_FAST | BACKEND_DISCARD | BACKEND_SPARSE;
    atomic_store(&db->base.size, BOTH_SIZE);
    CHECK_OK(sim_backend_create(b->sim, &db->base, &outer));
    return outer;
}

/* The power is gone: each block is as it was flushed, or as it was. */
static void disk_lose(struct both *b)
{
    struct both_disk *d = &b->disk;

    d->epoch++;
    for (unsigned i = 0; i < BOTH_BLOCKS; i++) {
        if (!d->dirty[i])
            continue;
        if (rng_chance(&b->rng, 70))
            memcpy(d->now + i * BOTH_BLOCK, d->stable + i * BOTH_BLOCK, BOTH_BLOCK);
        else
            memcpy(d->stable + i * BOTH_BLOCK, d->now + i * BOTH_BLOCK, BOTH_BLOCK);
        d->dirty[i] = false;
    }
}

/* ---- lines ------------------------------------------------------------------------------------------------ */

static size_t piece(struct both *b, size_t len)
{
    uint64_t most = rng_chance(&b->rng, 60) ? len : rng_chance(&b->rng, 50) ? 64 : 20000;

    return (size_t)rng_between(&b->rng, 1, min_u64(most, len));
}

static size_t total(const struct iovec *iov, unsigned n)
{
    size_t len = 0;

    for (unsigned i = 0; i < n; i++)
        len += iov[i].iov_len;
    return len;
}

static uint64_t arrival(struct both *b)
{
    return both_ns(b) + rng_below(&b->rng, b->limits.late_ns);
}

/* Of what is under way a part still arrives, and behind it is the end. */
static void end_pipe(struct both *b, struct both_pipe *p)
{
    p->arrived += (size_t)rng_below(&b->rng, p->len - p->arrived + 1);
    p->len = p->arrived;
    p->closed = true;
}

static void cut(struct both_line *l)
{
    struct both *b = l->b;
    bool half = rng_chance(&b->rng, b->limits.half_percent), up = rng_chance(&b->rng, 50);

    if (l->cut)
        return;
    b->cuts++;
    l->cut = !half;
    l->reset = !half && rng_chance(&b->rng, 50);
    l->changed = true;
    if (!half || up)
        end_pipe(b, &l->up);
    if (!half || !up)
        end_pipe(b, &l->down);
}

/* -EAGAIN, -EPIPE or bytes. */
static ssize_t put(struct both_line *l, struct both_pipe *p, const struct iovec *iov, unsigned n)
{
    struct both *b = l->b;
    size_t unread = p->len - p->at, want = total(iov, n), take;

    if (p->closed)
        return -EPIPE;
    if (unread >= b->limits.room)
        return -EAGAIN;
    take = piece(b, min_u64(want, b->limits.room - unread));
    if (p->size - p->len < take) {
        if (unread > 0) /* else there may be no memory yet */
            memmove(p->data, p->data + p->at, unread);
        p->arrived -= p->at;
        p->len = unread;
        p->at = 0;
        p->size = max_u64(p->size, 2 * (unread + take));
        p->data = realloc(p->data, p->size);
        assert(p->data);
    }
    if (p->arrived == p->len)
        p->next_ns = arrival(b);
    iov_to(iov, n, 0, p->data + p->len, take);
    p->len += take;
    if (p->left <= take)
        cut(l);
    else
        p->left -= take;
    return (ssize_t)take;
}

/* 0 at the end, -EAGAIN, -ECONNRESET, or bytes. */
static ssize_t take(struct both_line *l, struct both_pipe *p, const struct iovec *iov, unsigned n)
{
    size_t there = p->arrived - p->at, some;

    if (there == 0)
        return !p->closed || p->at < p->len ? -EAGAIN : l->reset ? -ECONNRESET : 0;
    some = piece(l->b, min_u64(there, total(iov, n)));
    iov_from(iov, n, 0, p->data + p->at, some);
    p->at += some;
    return (ssize_t)some;
}

static bool is_readable(const struct both_pipe *p)
{
    return p->arrived > p->at || (p->closed && p->at == p->len);
}

static bool is_writable(const struct both_line *l, const struct both_pipe *p)
{
    return p->closed || p->len - p->at < l->b->limits.room;
}

static void free_line(struct both_line *l)
{
    free(l->up.data);
    free(l->down.data);
    free(l);
}

/* ---- the client's end ------------------------------------------------------------------------------------- */

struct both_line *both_line_of(int fd)
{
    struct both_line *l = both_now->lines[(unsigned)(fd - BOTH_FD) % BOTH_LINES];

    assert(l && l->client_open);
    return l;
}

int both_socket(struct both *b)
{
    unsigned slot = 0;
    struct both_line *l = calloc(1, sizeof *l);

    while (b->lines[slot] && (b->lines[slot]->client_open || b->lines[slot]->server_open))
        slot++;
    assert(l && slot < BOTH_LINES);
    if (b->lines[slot])
        free_line(b->lines[slot]);
    b->lines[slot] = l;
    *l = (struct both_line){.b = b, .client_open = true, .up.left = UINT64_MAX, .down.left = UINT64_MAX};
    l->stream.fd = BOTH_FD + (int)slot;
    l->up.closed = l->down.closed = true; /* until it leads somewhere */
    return l->stream.fd;
}

static uint64_t draw_left(struct both *b)
{
    if (!rng_chance(&b->rng, b->limits.cut_percent))
        return UINT64_MAX;
    return rng_between(&b->rng, 1, rng_chance(&b->rng, 30) ? 400 : b->limits.cut_bytes);
}

static const struct nbds_stream_ops line_ops;

int both_connect(struct both_line *l)
{
    struct both *b = l->b;
    struct nbds_thread *t;

    if (!b->server || atomic_load(&b->server->stopping))
        return -ECONNREFUSED;
    l->up.closed = l->down.closed = false;
    l->up.left = draw_left(b);
    l->down.left = draw_left(b);
    l->thread = (unsigned)rng_below(&b->rng, b->limits.threads);
    l->server_open = true;
    l->stream.ops = &line_ops;
    t = &b->server->threads[l->thread];
    b->server->clients++;
    t->nconns++;
    b->connections++;
    assert(nbds_thread_give(t, &l->stream) == 0);
    return 0;
}

ssize_t both_send(struct both_line *l, const struct iovec *iov, unsigned n)
{
    return put(l, &l->up, iov, n);
}

ssize_t both_receive(struct both_line *l, const struct iovec *iov, unsigned n)
{
    ssize_t rc = take(l, &l->down, iov, n);

    l->changed |= rc > 0; /* there is room */
    return rc;
}

void both_shut(struct both_line *l, bool close)
{
    if (!l->up.closed)
        l->up.closed = true; /* what was sent arrives */
    if (!close)
        end_pipe(l->b, &l->down);
    l->client_open = l->client_open && !close;
    l->changed = true;
}

short both_events(const struct both_line *l, short events)
{
    int found = 0;

    if (is_readable(&l->down))
        found |= POLLIN;
    if (is_writable(l, &l->up))
        found |= POLLOUT;
    if (l->down.closed)
        found |= POLLRDHUP;
    return (short)(found & events);
}

/* ---- the server's end ------------------------------------------------------------------------------------- */

static struct both_line *line_of(struct nbds_stream *s)
{
    return (struct both_line *)s;
}

static ssize_t line_recv(struct nbds_stream *s, const struct iovec *iov, unsigned n)
{
    return take(line_of(s), &line_of(s)->up, iov, n);
}

/* Of a client that is gone nobody takes anything. */
static ssize_t line_send(struct nbds_stream *s, const struct iovec *iov, unsigned n)
{
    return line_of(s)->client_open ? put(line_of(s), &line_of(s)->down, iov, n) : -EPIPE;
}

static void line_close(struct nbds_stream *s)
{
    struct both_line *l = line_of(s);

    l->server_open = false;
    l->data = NULL;
    l->down.closed = true; /* what was sent arrives */
    l->up.closed = true;
    l->up.at = l->up.arrived = l->up.len;
}

static const struct nbds_stream_ops line_ops = {line_recv, line_send, line_close, NULL};

static uint64_t watcher_now(struct nbds_poller *p)
{
    return both_ns(((struct both_poller *)p)->b) + 1; /* 0 is no time to it */
}

static int watcher_watch(struct nbds_poller *p, int fd, bool level, void *data)
{
    struct both *b = ((struct both_poller *)p)->b;

    if (!level) {
        b->lines[fd - BOTH_FD]->data = data;
        b->lines[fd - BOTH_FD]->changed = true;
    }
    return 0; /* the other two are looked at by name */
}

static void watcher_unwatch(struct nbds_poller *p, int fd)
{
    if (fd >= BOTH_FD)
        ((struct both_poller *)p)->b->lines[fd - BOTH_FD]->data = NULL;
}

/* What waits for its transmission can go on: all have looked, nobody goes. */
static bool may_come(const struct nbds_thread *t)
{
    const struct nbd_server *server = t->server;
    bool looked = true;

    for (unsigned i = 0; server->threads[i].server; i++)
        looked &= atomic_load(&server->threads[i].looked) == atomic_load(&server->rounds);
    return looked && atomic_load(&t->coming) > 0 && atomic_load(&server->leaving) == 0;
}

static bool is_woken(const struct nbds_thread *t)
{
    return t->given || (atomic_load(&t->server->stopping) && !t->stopping) ||
           atomic_load(&t->looked) < atomic_load(&t->server->rounds) || may_come(t);
}

static bool queue_has(vdisk_queue *q)
{
    return q->done_head || queue_has_steps(q);
}

static void watcher_want_room(struct nbds_poller *p, int fd, void *data, bool wanted)
{
    struct both_line *l = ((struct both_poller *)p)->b->lines[fd - BOTH_FD];

    assert(l->data == data && l->wants_room != wanted);
    l->wants_room = wanted;
    l->changed |= wanted;
}

static void watcher_wait(struct nbds_poller *p, vdisk_queue *queue, struct nbds_events *ret, int timeout_ms)
{
    struct both_poller *bp = (struct both_poller *)p;
    struct both *b = bp->b;
    struct nbds_thread *t = &b->server->threads[bp->thread];
    unsigned n = 0;

    for (unsigned i = 0; i < BOTH_LINES && n + 1 < NBDS_EVENTS; i++) {
        struct both_line *l = b->lines[i];

        if (!l || !l->data || !l->changed || l->thread != bp->thread)
            continue;
        l->changed = false;
        ret->ready[n++] = (struct nbds_ready){l->data,
            (is_readable(&l->up) ? NBDS_READABLE : 0) |
            (l->wants_room && is_writable(l, &l->down) ? NBDS_WRITABLE : 0) |
            (l->up.closed ? NBDS_ENDING | NBDS_READABLE | NBDS_WRITABLE : 0)};
    }
    if (is_woken(t))
        ret->ready[n++] = (struct nbds_ready){&t->wake_fd, NBDS_READABLE};
    int done = vdisk_reap(queue, ret->done, 0, NBDS_EVENTS, NULL);
    assert(done >= 0);
    ret->nready = n;
    ret->ndone = (unsigned)done;
}

static void watcher_destroy(struct nbds_poller *p)
{
}

static const struct nbds_poller_ops watcher_ops = {watcher_now, watcher_watch, watcher_want_room,
                                                  watcher_unwatch, watcher_wait, watcher_destroy};

/* ---- who does something ----------------------------------------------------------------------------------- */

static bool thread_can(const struct both *b, const struct both_poller *bp)
{
    const struct nbds_thread *t = &b->server->threads[bp->thread];

    if (!bp->runs)
        return false;
    if (t->active || is_woken(t) || queue_has(t->queue) || bp->next_ns <= both_ns(b))
        return true;
    for (unsigned i = 0; i < BOTH_LINES; i++)
        if (b->lines[i] && b->lines[i]->data && b->lines[i]->changed && b->lines[i]->thread == bp->thread)
            return true;
    return false;
}

static void thread_turn(struct both *b, struct both_poller *bp)
{
    struct nbds_thread *t = &b->server->threads[bp->thread];

    bp->runs = nbds_thread_turn(t);
    CHECK(vdisk_submit(t->queue) >= 0); /* as the next turn does, which begins with a sleep */
    bp->next_ns = t->conns || t->stopping ? both_ns(b) + SCAN_NS : UINT64_MAX;
    for (const struct nbds_conn *c = t->conns; c; c = c->next)
        assert(c->bytes <= b->server->opts.client_bytes && c->used <= b->server->opts.requests);
}

static bool deliver(struct both *b, struct both_line *l, struct both_pipe *p)
{
    if (p->arrived == p->len || p->next_ns > both_ns(b))
        return false;
    p->arrived += piece(b, p->len - p->arrived);
    p->next_ns = arrival(b);
    l->changed |= p == &l->up;
    return true;
}

/* A call of the client's that can be made is. */
static bool make_call(struct both_line *l)
{
    struct call *c;
    ssize_t rc;

    if (l->send && is_writable(l, &l->up)) {
        c = l->send;
        rc = both_send(l, c->msg.msg_iov, (unsigned)c->msg.msg_iovlen);
        assert(rc != -EAGAIN);
        l->send = NULL;
        call_end_later(c, rc);
        return true;
    }
    if (l->receive && is_readable(&l->down)) {
        c = l->receive;
        rc = both_receive(l, c->msg.msg_iov, (unsigned)c->msg.msg_iovlen);
        assert(rc != -EAGAIN);
        l->receive = NULL;
        call_end_later(c, rc);
        return true;
    }
    return false;
}

static bool dialer_can(const struct both *b, const struct both_dialer *d)
{
    return d->used && (both_ns(b) >= d->until_ns || (d->fd >= 0 && both_events(both_line_of(d->fd), d->events)));
}

/* It has the turn until it waits, or has ended. */
static void dialer_turn(struct both_dialer *d)
{
    struct call *c = d->call;

    sem_post(&d->go);
    while (sem_wait(&d->back) < 0)
        ;
    if (!d->ended)
        return;
    struct both *b = both_now;
    both_now = NULL; /* the next is the kernel's */
    assert(pthread_join(d->id, NULL) == 0);
    both_now = b;
    sem_destroy(&d->go);
    sem_destroy(&d->back);
    d->used = false;
    call_end_later(c, d->res);
}

static void *dialer_main(void *arg)
{
    struct both_dialer *d = arg;

    both_me = d;
    while (sem_wait(&d->go) < 0)
        ;
    d->res = d->call->compute(d->call);
    d->ended = true;
    sem_post(&d->back);
    return NULL;
}

static void dialer_begin(struct both *b, struct call *c)
{
    struct both_dialer *d = b->dialers;

    while (d->used)
        d++;
    assert(d < b->dialers + ARRAY_LEN(b->dialers));
    *d = (struct both_dialer){.b = b, .call = c, .used = true, .fd = -1};
    assert(sem_init(&d->go, 0, 0) == 0 && sem_init(&d->back, 0, 0) == 0);
    both_now = NULL;
    assert(pthread_create(&d->id, NULL, dialer_main, d) == 0);
    both_now = b;
}

void both_wait(struct both *b, int fd, short events, uint64_t until_ns)
{
    struct both_dialer *d = both_me;

    if (d) {
        d->fd = fd;
        d->events = events;
        d->until_ns = until_ns;
        sem_post(&d->back);
        while (sem_wait(&d->go) < 0)
            ;
        return;
    }
    while (both_ns(b) < until_ns && (fd < 0 || !both_events(both_line_of(fd), events)))
        sim_turn(b->sim, until_ns);
}

/* ---- what the machine asks -------------------------------------------------------------------------------- */

static bool outside_call(void *arg, struct call *c)
{
    struct both_line *l;

    if (c->kind == CALL_COMPUTE) {
        dialer_begin(arg, c);
        return true;
    }
    if (c->kind != CALL_SEND && c->kind != CALL_RECEIVE)
        return false;
    l = both_line_of(c->fd);
    assert(c->kind == CALL_SEND ? !l->send : !l->receive);
    if (c->kind == CALL_SEND)
        l->send = c;
    else
        l->receive = c;
    return true;
}

static void outside_cancel(void *arg, struct call *c)
{
    struct both_line *l = c->kind == CALL_COMPUTE ? NULL : both_line_of(c->fd);

    if (!l || (l->send != c && l->receive != c))
        return;
    if (l->send == c)
        l->send = NULL;
    else
        l->receive = NULL;
    call_end_later(c, -ECANCELED);
}

/* One of the lines, from one that is drawn on. */
static bool line_turn(struct both *b)
{
    unsigned from = (unsigned)rng_below(&b->rng, BOTH_LINES);

    for (unsigned i = 0; i < BOTH_LINES; i++) {
        struct both_line *l = b->lines[(from + i) % BOTH_LINES];

        if (l && (deliver(b, l, &l->up) || deliver(b, l, &l->down) || make_call(l)))
            return true;
    }
    return false;
}

static bool others_turn(struct both *b)
{
    unsigned from = (unsigned)rng_below(&b->rng, 8);

    for (unsigned i = 0; i < 8; i++) {
        unsigned k = (from + i) % 8;

        if (dialer_can(b, &b->dialers[k])) {
            dialer_turn(&b->dialers[k]);
            return true;
        }
        if (b->server && k < b->limits.threads && thread_can(b, &b->pollers[k])) {
            thread_turn(b, &b->pollers[k]);
            return true;
        }
    }
    return false;
}

static bool outside_turn(void *arg)
{
    struct both *b = arg;

    CHECK_MSG(both_ns(b) < b->end_ns, "somebody hangs: %llu s have passed",
              (unsigned long long)(both_ns(b) / 1000000000));
    if (rng_chance(&b->rng, 50))
        return line_turn(b) || others_turn(b);
    return others_turn(b) || line_turn(b);
}

static uint64_t outside_next(void *arg)
{
    const struct both *b = arg;
    uint64_t next = UINT64_MAX;

    for (unsigned i = 0; i < BOTH_LINES; i++) {
        const struct both_line *l = b->lines[i];

        if (l && l->up.arrived < l->up.len)
            next = min_u64(next, l->up.next_ns);
        if (l && l->down.arrived < l->down.len)
            next = min_u64(next, l->down.next_ns);
    }
    for (unsigned i = 0; i < ARRAY_LEN(b->dialers); i++)
        if (b->dialers[i].used)
            next = min_u64(next, b->dialers[i].until_ns);
    for (unsigned i = 0; b->server && i < b->limits.threads; i++)
        if (b->pollers[i].runs)
            next = min_u64(next, b->pollers[i].next_ns);
    return next;
}

static void stuck(void *arg)
{
    FAIL("a queue waits for what can never come");
}

/* ---- life and death --------------------------------------------------------------------------------------- */

void both_init(struct both *b, uint64_t seed, const struct both_limits *limits)
{
    static const struct sim_outside outside = {outside_call, outside_cancel, outside_turn, outside_next};
    struct sim_options options = {.seed = seed, .slow_percent = 10, .stuck = stuck, .outside = &outside, .arg = b};

    memset(b, 0, sizeof *b);
    b->limits = *limits;
    b->end_ns = UINT64_MAX;
    rng_init(&b->rng, seed);
    assert(!both_now && limits->threads <= BOTH_THREADS);
    both_now = b;
    CHECK_OK(sim_create(&options, &b->sim));
    sim_enter(b->sim);
}

void both_finish(struct both *b)
{
    assert(!b->server && !b->thread);
    for (unsigned i = 0; i < BOTH_LINES; i++)
        if (b->lines[i]) {
            CHECK_MSG(!b->lines[i]->client_open, "the client has left a socket open");
            free_line(b->lines[i]);
        }
    for (unsigned i = 0; i < ARRAY_LEN(b->dialers); i++)
        assert(!b->dialers[i].used);
    sim_leave(b->sim);
    sim_destroy(b->sim);
    both_now = NULL;
}

void both_start(struct both *b)
{
    struct nbd_server_opts opts = {.threads = b->limits.threads, .requests = 16, .handshake_ms = 5000};
    struct vdisk_open_opts how = {.size = sizeof how, .flags = VDISK_OPEN_RDWR, .format = "raw"};

    assert(!b->server);
    CHECK_OK(vdisk_open_backend(disk_open(b), &how, &b->volume));
    CHECK_OK(nbd_server_create(&opts, &b->server));
    CHECK_OK(nbd_server_add_export(b->server, &(struct nbd_export_opts){.name = "", .volume = b->volume,
                                                                        .multi_conn = b->limits.multi_conn,
                                                                        .durable = b->limits.durable}));
    for (unsigned i = 0; i < b->limits.threads; i++) {
        b->pollers[i] = (struct both_poller){.base = {&watcher_ops, .fd = -1}, .b = b, .thread = i,
                                             .next_ns = UINT64_MAX, .runs = true};
        CHECK_OK(nbds_thread_init(&b->server->threads[i], b->server, &b->pollers[i].base));
    }
}

static void end_server(struct both *b)
{
    struct nbd_server *server = b->server;
    bool runs;

    atomic_store(&server->stopping, true);
    do {
        runs = false;
        for (unsigned i = 0; i < b->limits.threads; i++) {
            nbds_thread_wake(&server->threads[i]);
            runs |= b->pollers[i].runs;
        }
        if (runs)
            sim_turn(b->sim, UINT64_MAX);
    } while (runs);
    CHECK_INT(server->clients, 0);
    for (unsigned i = 0; i < b->limits.threads; i++)
        nbds_thread_free(&server->threads[i]);
    nbd_server_destroy(server);
    b->server = NULL;
    CHECK_OK(vdisk_close(b->volume));
    b->volume = NULL;
}

void both_stop(struct both *b)
{
    end_server(b);
}

void both_kill(struct both *b)
{
    disk_lose(b);
    for (unsigned i = 0; i < BOTH_LINES; i++) {
        struct both_line *l = b->lines[i];

        if (!l || !l->server_open)
            continue;
        end_pipe(b, &l->down);
        l->up.arrived = l->up.at = l->up.len; /* nobody reads that */
        l->up.closed = l->cut = l->changed = true;
    }
    end_server(b);
}

void both_cut(struct both *b)
{
    unsigned from = (unsigned)rng_below(&b->rng, BOTH_LINES);

    for (unsigned i = 0; i < BOTH_LINES; i++) {
        struct both_line *l = b->lines[(from + i) % BOTH_LINES];

        if (l && l->client_open && l->server_open && !l->cut) {
            cut(l);
            return;
        }
    }
}
