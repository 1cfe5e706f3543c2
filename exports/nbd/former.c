/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Who comes to the transmission, and who was there before: server.h, invariant 5.
 *
 * Happy path: who comes begins a round, which wakes all threads; each of them looks at its sockets, and knows by
 * then which of its clients have hung up; when all have looked, and none that has hung up has anything to do, he
 * is let in. Who waits for that is looked at again when a thread has looked, and when the last of those has gone.
 * Failures: a thread does not come to look, or what one that has gone has with the volume does not end: who comes
 * waits until the time of his handshake is over.
 *
 * Invariants
 *  1. `looked` is a round that had begun before the look which the thread has finished: so all that had come at a
 *     socket before that round began is known.
 *  2. Who comes is counted in `coming` before he looks whether he may; who changes that looks there afterwards.
 */
#include <assert.h>

#include "exports/nbd/server.h"
#include "nbd/mutant.h"

/* There are as many as have been set up, which is before the first runs. */
static struct nbds_thread *thread_of(struct nbd_server *server, unsigned i)
{
    return i < NBDS_MAX_THREADS && server->threads[i].server ? &server->threads[i] : NULL;
}

static void wake_waiting(struct nbd_server *server)
{
    struct nbds_thread *t;

    for (unsigned i = 0; (t = thread_of(server, i)); i++)
        if (atomic_load(&t->coming) > 0)
            nbds_thread_wake(t);
}

static bool somebody_comes(struct nbd_server *server)
{
    struct nbds_thread *t;

    for (unsigned i = 0; (t = thread_of(server, i)); i++)
        if (atomic_load(&t->coming) > 0)
            return true;
    return false;
}

/* ---- who comes -------------------------------------------------------------------------------------------- */

static void begin_round(struct nbds_conn *c)
{
    struct nbd_server *server = c->thread->server;
    struct nbds_thread *t;

    atomic_fetch_add(&c->thread->coming, 1);
    c->round = atomic_fetch_add(&server->rounds, 1) + 1;
    for (unsigned i = 0; (t = thread_of(server, i)); i++)
        nbds_thread_wake(t);
}

static bool all_have_looked(const struct nbds_conn *c)
{
    struct nbds_thread *t;

    for (unsigned i = 0; (t = thread_of(c->thread->server, i)); i++)
        if (atomic_load(&t->looked) < c->round && !NBD_MUTANT(OTHERS_UNASKED))
            return false;
    return true;
}

bool nbds_conn_may_come(struct nbds_conn *c)
{
    assert(c->phase == NBDS_OPTION_DATA && !c->ended);
    if (c->round == 0)
        begin_round(c);
    if (!all_have_looked(c) || (atomic_load(&c->thread->server->leaving) > 0 && !NBD_MUTANT(FORMER_SELF)))
        return false;
    nbds_conn_comes_no_more(c);
    return true;
}

void nbds_conn_comes_no_more(struct nbds_conn *c)
{
    if (c->round == 0)
        return;
    assert(atomic_load(&c->thread->coming) > 0);
    atomic_fetch_sub(&c->thread->coming, 1);
    c->round = 0;
}

/* ---- who goes --------------------------------------------------------------------------------------------- */

/*
 * It has hung up, as far as it goes, and there is a rate for which it waits, or has waited till now: what it has
 * not been let do it does not do, where somebody comes. It may be there still for replies, so till then it is
 * served.
 */
bool nbds_conn_is_let_go(struct nbds_conn *c)
{
    const struct nbd_server_opts *o = &c->thread->server->opts;

    return c->ending && c->phase == NBDS_TRANSMISSION && (o->requests_per_s != 0 || o->bytes_per_s != 0) &&
           !NBD_MUTANT(RATE_UNASKED) && somebody_comes(c->thread->server);
}

void nbds_conn_note_leaving(struct nbds_conn *c)
{
    struct nbd_server *server = c->thread->server;
    bool reads = !c->ended && c->ending && c->readable && !c->held;
    bool leaving = c->phase == NBDS_TRANSMISSION && (reads || (c->in_flight > 0 && (c->ended || c->ending)));

    if (leaving && !c->leaving)
        atomic_fetch_add(&server->leaving, 1);
    else if (!leaving && c->leaving && atomic_fetch_sub(&server->leaving, 1) == 1)
        wake_waiting(server);
    c->leaving = leaving;
}

/* ---- the look --------------------------------------------------------------------------------------------- */

/* Those that wait within their input. */
static void let_go(struct nbds_thread *t)
{
    for (struct nbds_conn *c = t->conns; c; c = c->next)
        if (c->held && !c->ended && nbds_conn_is_let_go(c)) {
            c->ended = true;
            nbds_activate(c);
        }
}

/* Of a look that was full the rest comes with the next; others may have come in front of it, but not for ever. */
static bool is_whole(struct nbds_thread *t, unsigned nready)
{
    if (nready == NBDS_EVENTS && ++t->full_looks <= t->server->opts.clients / NBDS_EVENTS + 1)
        return false;
    if (nready == 0 && t->full_looks == 0) /* nothing was told, so nobody looked */
        return false;
    t->full_looks = 0;
    return true;
}

void nbds_thread_note_look(struct nbds_thread *t, uint64_t round, unsigned nready)
{
    assert(nready <= NBDS_EVENTS && atomic_load(&t->looked) <= round && round <= atomic_load(&t->server->rounds));
    if (t->full_looks == 0)
        t->look_round = round;
    if (!is_whole(t, nready))
        return;
    if (t->look_round > atomic_load(&t->looked)) {
        let_go(t);
        atomic_store(&t->looked, t->look_round);
        wake_waiting(t->server);
    }
    if (atomic_load(&t->server->rounds) > t->look_round)
        nbds_thread_wake(t); /* one began meanwhile, and this look may have taken its call */
}

void nbds_thread_look_at_coming(struct nbds_thread *t)
{
    if (atomic_load(&t->coming) == 0)
        return;
    for (struct nbds_conn *c = t->conns; c; c = c->next)
        if (c->round != 0)
            nbds_activate(c);
}
