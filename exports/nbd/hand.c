/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What goes from thread to thread: connections that were accepted, and that one has ended.
 *
 * Happy path: what is given lies in a list, and the thread is woken.
 * Failures: no memory to give: the stream stays the caller's.
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "exports/nbd/server.h"

void nbds_thread_wake(struct nbds_thread *t)
{
    const uint64_t one = 1;

    if (t->wake_fd >= 0 && write(t->wake_fd, &one, sizeof one) < 0)
        return; /* it is awake: as many wakes as a number has have not been seen yet */
}

int nbds_thread_give(struct nbds_thread *t, struct nbds_stream *stream)
{
    struct nbds_given *given = malloc(sizeof *given);

    if (!given)
        return -ENOMEM;
    given->stream = stream;
    pthread_mutex_lock(&t->server->lock);
    given->next = t->given;
    t->given = given;
    pthread_mutex_unlock(&t->server->lock);
    nbds_thread_wake(t);
    return 0;
}

struct nbds_given *nbds_take_given(struct nbds_thread *t)
{
    pthread_mutex_lock(&t->server->lock);
    struct nbds_given *given = t->given;
    t->given = NULL;
    pthread_mutex_unlock(&t->server->lock);
    return given;
}

void nbds_client_gone(struct nbds_thread *t, bool served)
{
    struct nbd_server *server = t->server;
    const uint64_t one = 1;

    pthread_mutex_lock(&server->lock);
    assert(t->nconns > 0 && server->clients > 0);
    t->nconns--;
    bool last = --server->clients == 0 && served, was_full = server->clients == server->opts.clients - 1;
    pthread_mutex_unlock(&server->lock);
    if (last && write(server->idle_fd, &one, sizeof one) < 0)
        return; /* it is readable already */
    if (was_full)
        nbds_thread_wake(&server->threads[0]);
}

void nbds_activate(struct nbds_conn *c)
{
    if (!c->active) {
        c->active = true;
        c->next_active = c->thread->active;
        c->thread->active = c;
    }
}
