/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Happy path: an I/O becomes a command, or several, one after the other, where the server takes less at a time; a
 * link carries them; the I/O ends on its queue. What the server lacks is told at once.
 * Failure modes: past the end (-ENOSPC); no zeros, not by whole blocks, or none that are fast (-ENOTSUP: the
 * caller writes them); the server's errors; the link's (-EIO); a flush after something may have been lost (-EIO,
 * once).
 *
 * Of block status an error is no error: all is taken for data then.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "backends/nbd/client.h"
#include "engine/base/bits.h"
#include "engine/base/iov.h"
#include "engine/base/mem.h"
#include "engine/base/short_lock.h"
#include "engine/loop/queue.h"
#include "nbd/mutant.h"

enum { ADVICES_MAX = 16, TRIM_BYTES_MAX = 1 << 30 };

static void req_step(struct op *op)
{
    assert(op == NULL); /* it has no steps */
}

OP_TYPE(nbd_req, req_step, "START");

static struct nbd_client *client_of(struct backend *b)
{
    return container_of(b, struct nbd_client, b);
}

/* ---- what is durable: client.h, invariant 5 --------------------------------------------------------------- */

void nbd_note_loss(struct nbd_client *c)
{
    assert_locked(&c->lock);
    c->losses += !c->lost;
    c->lost = true;
}

void nbd_note_break(struct nbd_client *c)
{
    pthread_mutex_lock(&c->lock);
    assert(c->flushed <= c->acked);
    if (c->acked != c->flushed && !NBD_MUTANT(BREAK_UNNOTED))
        nbd_note_loss(c);
    pthread_mutex_unlock(&c->lock);
}

void nbd_say_why(struct nbd_client *c, const char *why)
{
    pthread_mutex_lock(&c->lock);
    snprintf(c->why, sizeof c->why, "%s", why);
    pthread_mutex_unlock(&c->lock);
    atomic_store(&c->has_why, true);
}

void nbd_explain(struct backend *b, char *buf, size_t size)
{
    struct nbd_client *c = client_of(b);

    if (!atomic_load(&c->has_why))
        return;
    pthread_mutex_lock(&c->lock);
    snprintf(buf, size, "%s", c->why);
    pthread_mutex_unlock(&c->lock);
}

const char *nbd_advise(int32_t res)
{
    switch (-res) {
    case ENOSPC: return "make room where the server has the export, or make that larger";
    case EPERM: case EACCES: return "see whether the server gives the export for writing";
    case ENOMEM: return "the server is short of memory: see there";
    case EIO: return "see whether the server runs, and what it says";
    default: return NULL;
    }
}

/* A flush begins, or is sent: false, if something has been lost, which is told by that. */
static bool go_on_flush(struct nbd_client *c, struct nbd_req *req)
{
    bool fine;

    pthread_mutex_lock(&c->lock);
    assert(c->flushed <= c->acked); /* invariant 5 */
    fine = !c->lost && (req->losses == c->losses || NBD_MUTANT(LOSS_TOLD_TO_ONE));
    if (c->lost)
        c->flushed = c->acked;
    c->lost = false;
    req->mark = c->acked;
    pthread_mutex_unlock(&c->lock);
    if (!fine)
        nbd_say_why(c, "a connection broke, and what the server had not made durable by then may be lost");
    return fine;
}

/* It is asked for: of what was lost by now, and has been told to another, it need not tell. */
static bool begin_flush(struct nbd_client *c, struct nbd_req *req)
{
    pthread_mutex_lock(&c->lock);
    req->losses = c->losses;
    pthread_mutex_unlock(&c->lock);
    return go_on_flush(c, req);
}

static void note_flushed(struct nbd_client *c, uint64_t mark)
{
    pthread_mutex_lock(&c->lock);
    assert(mark <= c->acked);
    c->flushed = max_u64(c->flushed, mark);
    pthread_mutex_unlock(&c->lock);
}

static void note_acked(struct nbd_client *c, const struct nbd_link *l)
{
    pthread_mutex_lock(&c->lock);
    if (l->hung_up && !NBD_MUTANT(LATE_ACK)) /* client.h, invariant 6 */
        nbd_note_loss(c);
    c->acked += !NBD_MUTANT(ACKS_UNCOUNTED);
    pthread_mutex_unlock(&c->lock);
}

static bool changes(const struct nbd_req *req)
{
    return req->command == NBD_CMD_WRITE || req->command == NBD_CMD_WRITE_ZEROES || req->command == NBD_CMD_TRIM;
}

/* Once more: what it waited for was a connection, say, in whose making it was found that another is gone. */
bool nbd_req_flush_begins(struct nbd_req *req)
{
    assert(req->command == NBD_CMD_FLUSH && !req->placed);
    return go_on_flush(req->client, req);
}

bool nbd_req_may_repeat(struct nbd_req *req)
{
    if (req->command == NBD_CMD_FLUSH && !go_on_flush(req->client, req))
        return false; /* by which it has been told */
    if (req->command == NBD_CMD_BLOCK_STATUS)
        req->io->status->count = 0; /* the next one tells it anew */
    return req->client->place.reconnect_ms > 0;
}

/* ---- the end --------------------------------------------------------------------------------------------- */

/* The end of an advice, which nobody waits for. */
static void end_advice(struct nbd_req *req)
{
    assert(req->command == NBD_CMD_CACHE);
    atomic_fetch_sub(&req->client->advices, 1);
    mem_free(req);
}

static void end_io(struct nbd_req *req)
{
    struct io *io = req->io;
    int64_t rc = req->rc;

    op_free(&req->op, sizeof *req);
    io_end(io, rc);
}

static void run_ended(struct task *t)
{
    struct nbd_req *req = container_of(t, struct nbd_req, task);

    assert(req->io->queue->worker_jobs > 0);
    req->io->queue->worker_jobs--;
    end_io(req);
}

/* What lies behind the end of the export, at `end`, reads as zeros. */
static void tell_tail(const struct io *io, uint64_t end)
{
    struct block_status *s = io->status;

    if (s->count > 0 && s->ends[s->count - 1] == end && end < io->offset + io->len)
        status_add(s, io->offset + io->len, true);
}

static void end_status(struct nbd_req *req)
{
    struct block_status *s = req->io->status;

    if (req->rc < 0 && req->rc != -EIO && s->count == 0)
        status_add(s, req->end, false);
    if (req->rc < 0 && s->count > 0)
        req->rc = 0;
    tell_tail(req->io, backend_size(&req->client->b));
}

void nbd_req_end(struct nbd_req *req)
{
    struct nbd_client *c = req->client;
    struct io *io = req->io;

    assert(req->rc <= 0 && !req->placed && list_empty(&req->node));
    if (changes(req))
        nbd_extents_change(c, io->offset + io->moved, io->len - io->moved);
    if (changes(req) && req->rc == 0 && !(req->flags & NBD_CMD_FLAG_FUA))
        note_acked(c, req->link);
    if (req->command == NBD_CMD_FLUSH && req->rc == 0)
        note_flushed(c, req->mark);
    if (!io) {
        end_advice(req);
        return;
    }
    if (req->command == NBD_CMD_BLOCK_STATUS)
        end_status(req);
    if (req->rc == 0 && (io->kind == IO_READ || io->kind == IO_WRITE))
        req->rc = (int64_t)(req->end - (io->offset + io->moved));
    if (req->rc < 0 && io->kind == IO_DISCARD && req->rc != -EIO)
        req->rc = 0; /* it was advice */
    if (!req->foreign) {
        end_io(req);
        return;
    }
    req->task.run = run_ended;
    queue_post(io->queue, &req->task);
}

/* How much of a command without data the server takes at a time. */
static uint64_t at_once(const struct nbd_client *c, uint16_t command)
{
    if (command == NBD_CMD_TRIM)
        return align_down(TRIM_BYTES_MAX, c->b.align);
    return c->b.max_transfer; /* some servers want no more zeros than that */
}

bool nbd_req_goes_on(struct nbd_req *req)
{
    struct nbd_client *c = req->client;
    uint64_t done = req->offset + req->length;

    assert(!req->placed && (req->command == NBD_CMD_BLOCK_STATUS || done <= req->end || !req->io));
    if (req->rc < 0)
        return false;
    if (req->flush_after) { /* the write is there, and is to be durable */
        req->flush_after = false;
        note_acked(c, req->link);
        nbd_extents_change(c, req->offset, req->length);
        req->command = NBD_CMD_FLUSH;
        req->offset = req->length = 0;
        if (begin_flush(c, req))
            return true;
        req->rc = -EIO;
        return false;
    }
    if ((req->command != NBD_CMD_WRITE_ZEROES && req->command != NBD_CMD_TRIM) || done >= req->end)
        return false;
    req->offset = done;
    req->length = min_u64(req->end - done, at_once(c, req->command));
    return true;
}

unsigned nbd_req_iov(const struct nbd_req *req, uint64_t from, uint64_t len, struct iovec *ret, unsigned max,
                     uint64_t *ret_len)
{
    const struct io *io = req->io;

    assert(from + len <= req->length && req->length <= io->len - io->moved);
    return iov_slice(io->iov, io->iovcnt, io->moved + from, len, ret, max, ret_len);
}

/* ---- the beginning --------------------------------------------------------------------------------------- */

static void run_arrived(struct task *t)
{
    struct nbd_req *req = container_of(t, struct nbd_req, task);

    nbd_link_add(req->link, req);
}

void nbd_req_to_shared(struct nbd_req *req)
{
    req->link = req->client->shared;
    if (req->io && !req->foreign) {
        req->foreign = true;
        req->io->queue->worker_jobs++;
    }
    req->task.run = run_arrived;
    queue_post(req->link->home, &req->task);
}

/* The range by whole units, as far as the export has it; false: there is none. */
static bool inner_range(const struct nbd_client *c, const struct io *io, uint64_t *ret_from, uint64_t *ret_end)
{
    *ret_from = align_up(io->offset, c->b.align);
    *ret_end = align_down(io->offset + backend_inside(&c->b, io->offset, io->len), c->b.align);
    return *ret_from < *ret_end;
}

static void set_range(struct nbd_req *req, uint16_t command, uint64_t from, uint64_t end, uint64_t most)
{
    assert(from < end && most > 0);
    req->command = command;
    req->offset = from;
    req->end = end;
    req->length = min_u64(end - from, most);
}

/* As much as there are buffers for in one command; without alignment the engine does not look at their number. */
static uint64_t in_buffers(const struct io *io, uint64_t len)
{
    struct iovec iov[NBD_IOVS_MAX];

    if (io->iovcnt > NBD_IOVS_MAX)
        iov_slice(io->iov, io->iovcnt, io->moved, len, iov, NBD_IOVS_MAX, &len);
    return len;
}

/* Each of these: 1, with `req` filled in; else what the I/O ends with, now. */

static int64_t plan_move(struct nbd_client *c, const struct io *io, struct nbd_req *req)
{
    uint64_t from = io->offset + io->moved, left = io->len - io->moved, inside = backend_inside(&c->b, from, left);
    bool writes = io->kind == IO_WRITE;

    if (writes && inside < left)
        return -ENOSPC;
    if (inside == 0)
        return 0;
    left = in_buffers(io, min_u64(inside, c->b.max_transfer));
    set_range(req, writes ? NBD_CMD_WRITE : NBD_CMD_READ, from, from + left, left);
    if (writes && io->flags & IO_FUA && c->flags & NBD_FLAG_SEND_FUA)
        req->flags = NBD_CMD_FLAG_FUA;
    else if (writes && io->flags & IO_FUA)
        req->flush_after = c->flags & NBD_FLAG_SEND_FLUSH;
    return 1;
}

static int64_t plan_zero(struct nbd_client *c, const struct io *io, struct nbd_req *req)
{
    if (backend_inside(&c->b, io->offset, io->len) < io->len)
        return -ENOSPC;
    if (!(c->flags & NBD_FLAG_SEND_WRITE_ZEROES) || !is_aligned(io->offset | io->len, c->b.align))
        return -ENOTSUP;
    if (io->flags & IO_NO_FALLBACK && !(c->flags & NBD_FLAG_SEND_FAST_ZERO))
        return -ENOTSUP;
    if (io->len == 0)
        return 0;
    set_range(req, NBD_CMD_WRITE_ZEROES, io->offset, io->offset + io->len, at_once(c, NBD_CMD_WRITE_ZEROES));
    req->flags = (uint16_t)((io->flags & IO_UNMAP ? 0u : NBD_CMD_FLAG_NO_HOLE) |
                            (io->flags & IO_NO_FALLBACK ? NBD_CMD_FLAG_FAST_ZERO : 0u));
    return 1;
}

static int64_t plan_discard(struct nbd_client *c, const struct io *io, struct nbd_req *req)
{
    uint64_t from, end;

    if (!(c->flags & NBD_FLAG_SEND_TRIM) || !inner_range(c, io, &from, &end))
        return 0;
    set_range(req, NBD_CMD_TRIM, from, end, at_once(c, NBD_CMD_TRIM));
    return 1;
}

static int64_t plan_flush(struct nbd_client *c, struct nbd_req *req)
{
    if (c->unsafe)
        return 0;
    if (!begin_flush(c, req))
        return -EIO;
    req->command = NBD_CMD_FLUSH;
    if (c->flags & NBD_FLAG_SEND_FLUSH)
        return 1;
    note_flushed(c, req->mark); /* what it acknowledges is as durable as it gets */
    return 0;
}

static int64_t plan_status(struct nbd_client *c, const struct io *io, struct nbd_req *req)
{
    uint64_t inside = backend_inside(&c->b, io->offset, io->len), from, end;

    if (inside == 0) {
        status_add(io->status, io->offset + io->len, true);
        return 0;
    }
    if (nbd_extents_find(c, io->status, io->offset, io->offset + inside)) {
        tell_tail(io, io->offset + inside);
        return 0;
    }
    from = align_down(io->offset, c->b.align);
    end = min_u64(align_up(io->offset + inside, c->b.align), backend_size(&c->b));
    set_range(req, NBD_CMD_BLOCK_STATUS, from, io->offset + inside, NBD_STATUS_ASK);
    req->length = min_u64(end - from, NBD_STATUS_ASK);
    req->end = min_u64(req->end, from + req->length);
    req->mark = atomic_load(&c->changes);
    return 1;
}

static int64_t plan(struct nbd_client *c, const struct io *io, struct nbd_req *req)
{
    switch ((enum io_kind)io->kind) {
    case IO_READ:
    case IO_WRITE: return plan_move(c, io, req);
    case IO_ZERO: return plan_zero(c, io, req);
    case IO_DISCARD: return plan_discard(c, io, req);
    case IO_FLUSH: return plan_flush(c, req);
    case IO_STATUS: return plan_status(c, io, req);
    case IO_ALLOCATE: return -ENOTSUP;
    case IO_TRUNCATE: return io->offset == backend_size(&c->b) ? 0 : -ENOTSUP;
    }
    return -ENOTSUP;
}

void nbd_submit(struct backend *b, struct io *io)
{
    struct nbd_client *c = client_of(b);
    int rc;
    struct nbd_link *l = nbd_link_for(c, io->queue, &rc);
    struct nbd_req *req = l ? op_alloc(io->queue, &nbd_req_type, sizeof *req) : NULL;
    int64_t what;

    if (!req) {
        io_end_later(io, l ? -ENOMEM : rc);
        return;
    }
    req->client = c;
    req->io = io;
    list_init(&req->node);
    what = plan(c, io, req);
    if (what <= 0) {
        op_free(&req->op, sizeof *req);
        io_end_later(io, what);
        return;
    }
    if (changes(req))
        nbd_extents_change(c, io->offset + io->moved, io->len - io->moved);
    req->link = l;
    if (l->home == io->queue)
        nbd_link_add(l, req);
    else
        nbd_req_to_shared(req);
}

void nbd_prefetch(struct backend *b, uint64_t offset, uint64_t len)
{
    struct nbd_client *c = client_of(b);
    uint64_t from = align_down(offset, b->align), end = min_u64(align_up(offset + len, b->align), backend_size(b));
    struct nbd_req *req;

    if (!(c->flags & NBD_FLAG_SEND_CACHE) || from >= end)
        return;
    if (atomic_fetch_add(&c->advices, 1) >= ADVICES_MAX || !(req = mem_calloc(1, sizeof *req))) {
        atomic_fetch_sub(&c->advices, 1);
        return;
    }
    req->client = c;
    list_init(&req->node);
    set_range(req, NBD_CMD_CACHE, from, end, b->max_transfer);
    nbd_req_to_shared(req);
}
