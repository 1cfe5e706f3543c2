/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What servers have told of holes: a few answers, each of them runs from one place on, so that who walks along
 * asks for much at a time. An answer is forgotten when something in it changes by our own doing, when a connection
 * is found broken, and after a second, since there may be others who write.
 *
 * Invariants.
 *  1. No change began or ended between the asking for an answer that is kept and its coming; one that ends later
 *     drops it.
 *  2. The runs of an answer end at rising offsets, behind its start.
 */
#include <string.h>

#include "backends/nbd/client.h"
#include "engine/base/bits.h"
#include "engine/base/mem.h"
#include "nbd/mutant.h"
#include "engine/base/short_lock.h"

enum { KEPT_MS = 1000 };

static bool covers(const struct nbd_answer *a, uint64_t offset)
{
    return a && a->count > 0 && a->start <= offset && offset < a->ends[a->count - 1] &&
           nbd_now_ms() - a->born_ms < KEPT_MS;
}

/* The runs from `offset` on, as far as there is room for them, and not past `end`. */
static void tell(const struct nbd_answer *a, struct block_status *s, uint64_t offset, uint64_t end)
{
    unsigned low = 0, high = a->count - 1;

    assert(a->count > 0 && offset < a->ends[high]);
    while (low < high) { /* the first run that ends behind it */
        unsigned middle = low + (high - low) / 2;
        if (a->ends[middle] > offset)
            high = middle;
        else
            low = middle + 1;
    }
    for (; low < a->count && offset < end; offset = a->ends[low++])
        if (!status_add(s, min_u64(a->ends[low], end), a->hole_first ^ (low & 1)))
            return;
}

bool nbd_extents_find(struct nbd_client *c, struct block_status *status, uint64_t offset, uint64_t end)
{
    bool found = false;

    if (!atomic_load(&c->has_answers))
        return false;
    pthread_mutex_lock(&c->lock);
    for (unsigned i = 0; i < NBD_ANSWERS && !found; i++) {
        found = covers(c->answers[i], offset);
        if (found)
            tell(c->answers[i], status, offset, end);
    }
    pthread_mutex_unlock(&c->lock);
    return found;
}

static void add_run(struct nbd_answer *a, uint64_t end, bool hole)
{
    if (a->count > 0 && (a->hole_first ^ ((a->count - 1) & 1)) == hole) {
        a->ends[a->count - 1] = end;
        return;
    }
    assert(a->count < NBD_ANSWER_RUNS && end > (a->count ? a->ends[a->count - 1] : a->start)); /* invariant 2 */
    if (a->count == 0)
        a->hole_first = hole;
    a->ends[a->count++] = end;
}

/* False: lengths that lead out of the export's range of numbers. */
static bool fill(struct nbd_answer *a, const struct nbd_req *req, const struct nbd_status *status)
{
    uint64_t at = req->offset, end = req->offset + req->length;

    a->start = at;
    a->count = 0;
    a->born_ms = nbd_now_ms();
    for (unsigned i = 0; i < status->count && at < end; i++) {
        struct nbd_descriptor d = nbd_status_descriptor(status, i);
        uint64_t next;
        if (!add_u64(at, d.length, &next))
            return false;
        at = min_u64(next, end); /* the last may tell more than was asked for */
        if (a->count == NBD_ANSWER_RUNS)
            break;
        add_run(a, at, d.flags & NBD_STATE_ZERO);
    }
    return a->count > 0;
}

/* With the lock: one that may be overwritten. */
static struct nbd_answer **place_for(struct nbd_client *c)
{
    assert_locked(&c->lock);
    for (unsigned i = 0; i < NBD_ANSWERS; i++)
        if (c->answers[i] && c->answers[i]->count == 0)
            return &c->answers[i];
    return &c->answers[c->next_answer++ % NBD_ANSWERS];
}

bool nbd_extents_take(struct nbd_req *req, const struct nbd_status *status)
{
    struct nbd_client *c = req->client;
    struct nbd_answer *a = mem_alloc(sizeof *a), **to;
    struct io *io = req->io;

    assert(io->kind == IO_STATUS && io->status->count == 0 && io->offset < req->end);
    if (!a) {
        status_add(io->status, req->end, false); /* to read it is always right */
        return true;
    }
    if (!fill(a, req, status)) {
        mem_free(a);
        return false;
    }
    if (a->ends[a->count - 1] <= io->offset) /* it was asked for whole blocks */
        status_add(io->status, req->end, false);
    else
        tell(a, io->status, io->offset, req->end);
    pthread_mutex_lock(&c->lock);
    atomic_store(&c->has_answers, true); /* first: a change that begins now is seen here, or sees it */
    if (atomic_load(&c->changes) == req->mark) { /* invariant 1 */
        to = place_for(c);
        mem_free(*to);
        *to = a;
        a = NULL;
    }
    pthread_mutex_unlock(&c->lock);
    mem_free(a);
    return true;
}

void nbd_extents_change(struct nbd_client *c, uint64_t offset, uint64_t len)
{
    atomic_fetch_add(&c->changes, 1);
    if (!atomic_load(&c->has_answers))
        return;
    pthread_mutex_lock(&c->lock);
    for (unsigned i = 0; i < NBD_ANSWERS; i++) {
        struct nbd_answer *a = c->answers[i];
        if (a && a->count > 0 && offset < a->ends[a->count - 1] && a->start < offset + len &&
            !NBD_MUTANT(ANSWERS_KEPT))
            a->count = 0;
    }
    pthread_mutex_unlock(&c->lock);
}

void nbd_extents_forget(struct nbd_client *c)
{
    if (!NBD_MUTANT(ANSWERS_OUTLIVE))
        nbd_extents_change(c, 0, UINT64_MAX);
}

void nbd_extents_free(struct nbd_client *c)
{
    for (unsigned i = 0; i < NBD_ANSWERS; i++)
        mem_free(c->answers[i]);
}
