/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What is true of a connection when its thread comes to it, in builds with assertions: else nothing is left. */
#include <assert.h>

#include "exports/nbd/server.h"

#ifndef NDEBUG

static unsigned length(const struct nbds_slot *list)
{
    unsigned n = 0;

    for (; list; list = list->next)
        n++;
    return n;
}

/* Where each slot is, and what it holds. */
static void assert_slots(const struct nbds_conn *c)
{
    const struct nbd_server_opts *o = &c->thread->server->opts;
    unsigned filling = c->filling != NULL, all = o->requests;
    size_t bytes = 0;

    for (unsigned i = 0; i < all; i++)
        bytes += c->slots[i].buf ? c->slots[i].buf_len : 0;
    assert(bytes == c->bytes && bytes <= o->client_bytes);                     /* invariant 2 */
    assert(c->used + length(c->free) == all);                                  /* invariant 1: what is not free */
    assert(c->used == c->in_flight + filling + length(c->replies));
    assert(!c->filling || (c->filling->buf && c->filled < c->filling->request.length));
    assert(!c->filling || c->filling->request.type == NBD_CMD_WRITE);
}

/* Before the transmission nothing of it is there, and the other way round. */
static void assert_phase(const struct nbds_conn *c)
{
    bool serves = c->phase == NBDS_TRANSMISSION;

    assert(serves == (c->slots != NULL) && serves == (c->export != NULL));
    assert(serves || (c->in_flight == 0 && c->used == 0 && !c->replies && !c->leaving));
    assert(!serves || (!c->starts_tls && c->options <= NBDS_MAX_OPTIONS));
    assert(!serves || c->contexts == 0 || c->context_export == c->export);
    assert(c->form == NBDS_EXTENDED || c->form == NBDS_STRUCTURED || c->contexts == 0);
    assert(c->contexts >> NBDS_CONTEXTS == 0);
    assert(c->round == 0 || (c->phase == NBDS_OPTION_DATA && !c->dead && c->thread->coming > 0));
    assert(!c->secure || c->thread->server->tls);
}

void nbds_conn_assert(const struct nbds_conn *c)
{
    assert(c->in_at <= c->in_end && c->in_end <= NBDS_IN_BYTES);
    assert(c->out_at <= c->out_end && c->out_end <= c->out_size && (c->out_end == 0) == (c->out_at == c->out_end));
    assert(c->dead == !c->stream && (!c->dead || c->ended));
    assert((c->replies != NULL) == (c->replies_end != &c->replies) && !*c->replies_end);
    assert(c->replies ? c->sent < c->replies->head_len + c->replies->data_len : c->sent == 0);
    assert(!c->replies || c->out_ns != 0);
    assert(c->phase == NBDS_TRANSMISSION || c->out_ns == 0);
    assert(c->skip == 0 || !c->filling); /* a payload is taken, or thrown away */
    assert_phase(c);
    if (c->slots)
        assert_slots(c);
}

#endif
