/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * One thread's loop.
 *
 * Happy path: one call sends what the turn before has given to the queue, sleeps, and brings what has completed;
 * what can be read is read, and its requests go to the queue; then each connection that has replies sends them, by
 * one call. A connection that had to wait for its own slots goes on in the next turn, before which nobody sleeps.
 * Failures: of a connection, end it. Of the poller or the queue there are none that are known.
 * The end: when a stop was asked for, and the last connection is gone or the time is over and the volumes have
 * given back all buffers.
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "exports/nbd/server.h"

enum { SCAN_MS = 200 };

int nbds_thread_init(struct nbds_thread *t, struct nbd_server *server, struct nbds_poller *poller)
{
    struct vdisk_queue_opts how = {.size = sizeof how, .depth = 512, .kind = server->opts.queue_kind};
    int rc;

    memset(t, 0, sizeof *t);
    t->wake_fd = -1;
    t->server = server;
    t->poller = poller;
    if (!poller)
        return nbds_error(-errno, "no poller for a thread: %s", strerror(errno));
    t->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (t->wake_fd < 0)
        return nbds_error(-errno, "no descriptor for a thread: %s", strerror(errno));
    how.watch_fd = poller->fd;
    how.watch_ready = poller->fd >= 0 ? &poller->told : NULL;
    rc = vdisk_queue_create(&how, &t->queue);
    if (rc < 0)
        return nbds_error(rc, "%s", vdisk_error_text());
    rc = nbds_pool_init(&t->pool);
    if (rc == 0)
        rc = poller->ops->watch(poller, t->wake_fd, true, &t->wake_fd);
    if (rc < 0)
        return nbds_error(rc, "no memory for a thread");
    t->now_ns = poller->ops->now(poller);
    return 0;
}

void nbds_thread_free(struct nbds_thread *t)
{
    for (struct nbds_given *next, *g = t->server ? nbds_take_given(t) : NULL; g; g = next) {
        next = g->next;
        g->stream->ops->close(g->stream);
        free(g);
        nbds_client_gone(t, false);
    }
    if (t->queue)
        vdisk_queue_destroy(t->queue);
    if (t->poller) /* the queue watched it */
        t->poller->ops->destroy(t->poller);
    nbds_pool_free(&t->pool);
    if (t->wake_fd >= 0)
        close(t->wake_fd);
    t->poller = NULL;
    t->queue = NULL;
    t->wake_fd = -1;
    t->running = false;
}

static void be_woken(struct nbds_thread *t)
{
    uint64_t count;

    if (read(t->wake_fd, &count, sizeof count) < 0)
        return;
    for (struct nbds_given *next, *g = nbds_take_given(t); g; g = next) {
        next = g->next;
        nbds_conn_new(t, g->stream);
        free(g);
    }
    if (atomic_load(&t->server->stopping) && !t->stopping) {
        t->stopping = true;
        t->stop_ns = t->now_ns + t->server->opts.stop_ms * UINT64_C(1000000);
        nbds_unlisten(t);
        for (struct nbds_conn *c = t->conns; c; c = c->next)
            nbds_conn_stop(c);
    }
    if (t == &t->server->threads[0] && !t->stopping)
        nbds_listen(t);
    nbds_thread_look_at_coming(t);
}

static bool is_listener(const struct nbds_thread *t, const void *data)
{
    for (const struct nbds_listener *l = t->server->listeners; l; l = l->next)
        if (l == data)
            return true;
    return false;
}

static void take_done(struct nbds_thread *t, const struct vdisk_completion *done, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        struct nbds_slot *slot = (struct nbds_slot *)(uintptr_t)done[i].user_data;
        assert(slot->conn->thread == t && slot->conn->in_flight > 0); /* server.h, invariant 3 */
        nbds_activate(slot->conn);
        nbds_request_done(slot, &done[i]);
    }
}

static void take_ready(struct nbds_thread *t, const struct nbds_ready *ready, unsigned n)
{
    bool woken = false;

    for (unsigned i = 0; i < n; i++) {
        if (ready[i].data == &t->wake_fd) {
            woken = true;
        } else if (is_listener(t, ready[i].data)) {
            if (t->listening)
                nbds_accept(t, ready[i].data);
        } else {
            struct nbds_conn *c = ready[i].data;
            assert(c->thread == t && !c->dead); /* what is dead is not watched */
            c->readable |= (ready[i].readiness & NBDS_READABLE) != 0;
            c->writable |= (ready[i].readiness & NBDS_WRITABLE) != 0;
            c->ending |= (ready[i].readiness & NBDS_ENDING) != 0;
            nbds_conn_note_leaving(c); /* before any other runs */
            nbds_activate(c);
        }
    }
    if (woken)
        be_woken(t);
}

/* Cut off those whose time is over. */
static void scan(struct nbds_thread *t)
{
    bool stop_over = t->stopping && t->now_ns >= t->stop_ns;

    t->scan_ns = t->now_ns;
    for (struct nbds_conn *c = t->conns; c; c = c->next) {
        if (stop_over)
            nbds_conn_give_up(c);
        if (c->dead)
            continue;
        if (stop_over || nbds_conn_late(c)) {
            nbds_count(&t->refused, !stop_over);
            nbds_conn_cut(c);
        }
        nbds_activate(c); /* one that waits for its rate goes on, too */
    }
    if (t == &t->server->threads[0] && !t->stopping && !t->listening)
        nbds_listen(t);
}

/* Until when it may sleep: -1: for ever. */
static int timeout_ms(const struct nbds_thread *t)
{
    if (t->active)
        return 0;
    return t->conns || t->stopping || (t == &t->server->threads[0] && !t->listening) ? SCAN_MS : -1;
}

static void settle(struct nbds_thread *t)
{
    struct nbds_conn *list = t->active;

    t->active = NULL;
    for (struct nbds_conn *next; list; list = next) {
        next = list->next_active;
        list->active = false;
        nbds_conn_settle(list);
    }
}

bool nbds_thread_turn(struct nbds_thread *t)
{
    uint64_t round = atomic_load(&t->server->rounds);
    struct nbds_events events;

    t->poller->ops->wait(t->poller, t->queue, &events, timeout_ms(t));
    t->now_ns = t->poller->ops->now(t->poller);
    take_done(t, events.done, events.ndone);
    take_ready(t, events.ready, events.nready);
    nbds_thread_note_look(t, round, events.nready);
    if (t->now_ns - t->scan_ns >= SCAN_MS * UINT64_C(1000000))
        scan(t);
    for (struct nbds_conn *c = t->active; c; c = c->next_active)
        nbds_conn_run(c);
    settle(t);
    return !t->stopping || t->conns;
}

void *nbds_thread_main(void *arg)
{
    struct nbds_thread *t = arg;

    nbds_pool_register(&t->pool, t->queue);
    while (nbds_thread_turn(t))
        ;
    vdisk_queue_destroy(t->queue);
    t->queue = NULL;
    return NULL;
}
