/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Happy path: a header, which names the request by its cookie; then data, into the buffers of its I/O; or
 * something short, in our own buffer; until the chunk that is the last. What follows in our buffer is looked at
 * at once.
 * Failure modes: anything that cannot be: said in l->why, once, and the connection is done with. What the server
 * says went wrong ends the request, and the connection stays.
 *
 * Invariants: what a server says is looked at before it is used.
 *  1. A cookie is that of a request which waits for its reply.
 *  2. Data lies within the range that was asked for, and no byte of it comes twice; at the end all of it has
 *     come.
 *  3. No payload is longer than what can be in it.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "backends/nbd/client.h"
#include "engine/base/bits.h"
#include "engine/base/error.h"
#include "engine/base/iov.h"
#include "engine/base/mem.h"
#include "nbd/mutant.h"

_Static_assert(NBD_ERROR_SIZE + 8 + NBD_MAX_STRING < NBD_RECEIVE_BYTES, "what is short fits in");

enum taken { TAKEN, MORE, BREACH };

static enum taken breach(struct nbd_link *l, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

static enum taken breach(struct nbd_link *l, const char *fmt, ...)
{
    size_t n = (size_t)snprintf(l->why, sizeof l->why, "the server breaks the protocol: ");
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(l->why + n, sizeof l->why - n, fmt, ap);
    va_end(ap);
    return BREACH;
}

void nbd_reply_reset(struct nbd_link *l)
{
    l->reading = NBD_READ_HEADER;
    l->answered = NULL;
    l->buf_start = l->buf_end = 0;
    l->data_left = 0;
}

static size_t at_hand(const struct nbd_link *l)
{
    assert(l->buf_start <= l->buf_end && l->buf_end <= NBD_RECEIVE_BYTES);
    return l->buf_end - l->buf_start;
}

/* ---- ends of chunks -------------------------------------------------------------------------------------- */

/* The chunk is over, and with it the reply, if it was the last. */
static enum taken end_chunk(struct nbd_link *l, bool last)
{
    struct nbd_req *req = l->answered;
    bool whole = req->npieces == 1 && req->pieces[0].from == 0 && req->pieces[0].to == req->length;

    assert(req->placed && l->data_left == 0 && !l->big);
    l->reading = NBD_READ_HEADER;
    l->answered = NULL;
    if (!last)
        return TAKEN;
    if (req->rc == 0 && req->command == NBD_CMD_READ && !whole && !NBD_MUTANT(READ_UNFINISHED))
        return breach(l, "a read ends without all of its data");
    if (req->rc == 0 && req->command == NBD_CMD_BLOCK_STATUS && !req->told)
        return breach(l, "a block status ends without extents");
    nbd_link_answered(l, req);
    return TAKEN;
}

static bool is_last(const struct nbd_link *l)
{
    return l->reply.form == NBD_REPLY_SIMPLE || l->reply.flags & NBD_REPLY_FLAG_DONE;
}

/* [from, from + len) of a read has come, or is about to: invariant 2. False: that cannot be. */
static bool note_piece(struct nbd_req *req, uint64_t offset, uint64_t len)
{
    uint32_t from, to;
    unsigned at = 0;

    assert(req->command == NBD_CMD_READ && req->length <= NBD_MAX_PAYLOAD && req->npieces <= NBD_PIECES_MAX);
    if (offset < req->offset || len > req->length || offset - req->offset > req->length - len || len == 0)
        return false;
    from = (uint32_t)(offset - req->offset);
    to = from + (uint32_t)len;
    while (at < req->npieces && req->pieces[at].to < from)
        at++;
    if (at < req->npieces && req->pieces[at].to == from) { /* goes on there, up to the next at most */
        if (at + 1 < req->npieces && req->pieces[at + 1].from < to)
            return false;
        req->pieces[at].to = to;
        if (at + 1 < req->npieces && req->pieces[at + 1].from == to) {
            req->pieces[at].to = req->pieces[at + 1].to;
            memmove(req->pieces + at + 1, req->pieces + at + 2, (req->npieces - at - 2) * sizeof *req->pieces);
            req->npieces--;
        }
        return true;
    }
    if (at < req->npieces && req->pieces[at].from < to)
        return false;
    if (at < req->npieces && req->pieces[at].from == to) {
        req->pieces[at].from = from;
        return true;
    }
    if (req->npieces == NBD_PIECES_MAX)
        return false;
    memmove(req->pieces + at + 1, req->pieces + at, (req->npieces - at) * sizeof *req->pieces);
    req->pieces[at] = (struct nbd_piece){from, to};
    req->npieces++;
    return true;
}

static enum taken begin_data(struct nbd_link *l, uint64_t offset, uint64_t len)
{
    struct nbd_req *req = l->answered;

    if (!note_piece(req, offset, len))
        return breach(l, "data that was not asked for, or comes twice, or in more than %d pieces", NBD_PIECES_MAX);
    l->data_at = offset - req->offset;
    l->data_left = len;
    l->reading = NBD_READ_DATA;
    return TAKEN;
}

/* ---- what is short --------------------------------------------------------------------------------------- */

static enum taken take_hole(struct nbd_link *l, const uint8_t *data)
{
    struct nbd_req *req = l->answered;
    uint64_t offset;
    uint32_t len;

    if (nbd_offset_hole_get(data, l->reply.length, &offset, &len) < 0 || !note_piece(req, offset, len))
        return breach(l, "a hole that was not asked for, or comes twice, or makes more than %d pieces",
                      NBD_PIECES_MAX);
    iov_zero(req->io->iov, req->io->iovcnt, req->io->moved + (offset - req->offset), len);
    return TAKEN;
}

static enum taken take_error(struct nbd_link *l, const uint8_t *data)
{
    struct nbd_req *req = l->answered;
    struct nbd_error_chunk e;
    bool with_offset = l->reply.type == NBD_REPLY_TYPE_ERROR_OFFSET;
    int rc;

    if (nbd_error_chunk_get(data, l->reply.length, with_offset, &e) < 0)
        return breach(l, "an error that is none");
    rc = nbd_error_errno(e.error);
    if (req->rc == 0 && !NBD_MUTANT(CHUNK_ERROR_LOST))
        req->rc = rc < 0 ? rc : -EINVAL;
    return TAKEN;
}

static enum taken take_status(struct nbd_link *l, const uint8_t *data)
{
    struct nbd_req *req = l->answered;
    struct nbd_status status;

    if (nbd_status_get(data, l->reply.length, l->terms.extended, &status) < 0)
        return breach(l, "a block status that is none");
    if (status.context != l->terms.context)
        return breach(l, "a block status of another context");
    if (req->told || !nbd_extents_take(req, &status))
        return breach(l, "a block status that cannot be, or comes twice");
    req->told = true;
    return TAKEN;
}

/* The payload is at hand. */
static enum taken take_small(struct nbd_link *l, const uint8_t *data)
{
    enum taken taken;

    switch (l->reply.type) {
    case NBD_REPLY_TYPE_OFFSET_HOLE: taken = take_hole(l, data); break;
    case NBD_REPLY_TYPE_BLOCK_STATUS:
    case NBD_REPLY_TYPE_BLOCK_STATUS_EXT: taken = take_status(l, data); break;
    case NBD_REPLY_TYPE_ERROR:
    case NBD_REPLY_TYPE_ERROR_OFFSET: taken = take_error(l, data); break;
    default: /* an error that we have no word for */
        if (l->answered->rc == 0)
            l->answered->rc = -EIO;
        taken = TAKEN;
    }
    return taken == TAKEN ? end_chunk(l, is_last(l)) : taken;
}

/* ---- headers --------------------------------------------------------------------------------------------- */

/* Invariant 3: how long the payload may be, and at least is. */
static enum taken judge_chunk(struct nbd_link *l)
{
    const struct nbd_reply *r = &l->reply;
    const struct nbd_req *req = l->answered;
    bool reads = req->command == NBD_CMD_READ, asks = req->command == NBD_CMD_BLOCK_STATUS;
    uint64_t least = 0, most = 0;
    bool fits = true;

    switch (r->type) {
    case NBD_REPLY_TYPE_NONE: fits = is_last(l); break;
    case NBD_REPLY_TYPE_OFFSET_DATA:
        fits = reads;
        least = NBD_OFFSET_DATA_SIZE + 1;
        most = NBD_OFFSET_DATA_SIZE + req->length;
        break;
    case NBD_REPLY_TYPE_OFFSET_HOLE:
        fits = reads;
        least = most = NBD_OFFSET_HOLE_SIZE;
        break;
    case NBD_REPLY_TYPE_BLOCK_STATUS:
    case NBD_REPLY_TYPE_BLOCK_STATUS_EXT:
        fits = asks && (r->type == NBD_REPLY_TYPE_BLOCK_STATUS_EXT) == l->terms.extended;
        least = NBD_STATUS_SIZE + NBD_DESCRIPTOR_SIZE;
        most = NBD_STATUS_MAX;
        break;
    default:
        fits = NBD_REPLY_TYPE_IS_ERROR(r->type);
        most = NBD_ERROR_SIZE + 8 + NBD_MAX_STRING;
    }
    if (!fits)
        return breach(l, "a reply of type %u, which its command cannot have", r->type);
    if (r->length < least || r->length > most)
        return breach(l, "a payload of %llu bytes in a reply of type %u", (unsigned long long)r->length, r->type);
    return TAKEN;
}

static enum taken begin_chunk(struct nbd_link *l)
{
    enum taken taken = judge_chunk(l);

    if (taken != TAKEN)
        return taken;
    if (l->reply.length == 0) {
        if (l->reply.type != NBD_REPLY_TYPE_NONE)
            return take_small(l, l->buf + l->buf_start);
        return end_chunk(l, true);
    }
    l->reading = NBD_READ_SMALL;
    if (l->reply.type == NBD_REPLY_TYPE_OFFSET_DATA || l->reply.length <= NBD_RECEIVE_BYTES / 2)
        return TAKEN;
    l->big = mem_alloc(l->reply.length);
    if (!l->big)
        return breach(l, "no memory for a payload of %llu bytes", (unsigned long long)l->reply.length);
    l->big_have = 0;
    l->reading = NBD_READ_BIG;
    return TAKEN;
}

static enum taken begin_simple(struct nbd_link *l)
{
    struct nbd_req *req = l->answered;
    bool reads = req->command == NBD_CMD_READ;
    int rc = nbd_error_errno(l->reply.error);

    if (l->terms.structured && (reads || req->command == NBD_CMD_BLOCK_STATUS))
        return breach(l, "a simple reply where a structured one was agreed on");
    if (l->reply.error)
        req->rc = rc < 0 ? rc : -EINVAL;
    return reads && req->rc == 0 ? begin_data(l, req->offset, req->length) : end_chunk(l, true);
}

static struct nbd_req *find(const struct nbd_link *l, uint64_t cookie)
{
    uint16_t slot = (uint16_t)cookie;
    struct nbd_req *req = slot < NBD_LINK_SLOTS ? l->slots[slot] : NULL;

    return req && req->cookie == cookie && !req->replied ? req : NULL;
}

static enum taken take_header(struct nbd_link *l)
{
    const uint8_t *p = l->buf + l->buf_start;
    size_t size;

    if (at_hand(l) < 4)
        return MORE;
    size = nbd_reply_size(p);
    if (size == 0)
        return breach(l, "what comes is no reply");
    if (at_hand(l) < size)
        return MORE;
    if (nbd_reply_get(p, &l->reply) < 0)
        return breach(l, "a reply that is none");
    l->buf_start += size;
    if ((l->reply.form == NBD_REPLY_EXTENDED) != l->terms.extended ||
        (l->reply.form == NBD_REPLY_STRUCTURED && !l->terms.structured))
        return breach(l, "a header of another kind than was agreed on");
    l->answered = find(l, l->reply.cookie); /* invariant 1 */
    if (!l->answered)
        return breach(l, "a reply to nothing that was asked");
    if (l->reply.form == NBD_REPLY_EXTENDED && l->reply.offset != l->answered->offset)
        return breach(l, "a reply for another offset than was asked");
    return l->reply.form == NBD_REPLY_SIMPLE ? begin_simple(l) : begin_chunk(l);
}

/* ---- the stream ------------------------------------------------------------------------------------------ */

static enum taken take_payload(struct nbd_link *l)
{
    const uint8_t *p = l->buf + l->buf_start;
    uint64_t offset;

    if (l->reply.type == NBD_REPLY_TYPE_OFFSET_DATA) {
        if (at_hand(l) < NBD_OFFSET_DATA_SIZE)
            return MORE;
        offset = nbd_offset_data_get(p);
        l->buf_start += NBD_OFFSET_DATA_SIZE;
        return begin_data(l, offset, l->reply.length - NBD_OFFSET_DATA_SIZE);
    }
    if (at_hand(l) < l->reply.length)
        return MORE;
    l->buf_start += (size_t)l->reply.length;
    return take_small(l, p);
}

/* `n` bytes of data are where they belong. */
static enum taken note_data(struct nbd_link *l, uint64_t n)
{
    assert(n <= l->data_left);
    l->data_at += n;
    l->data_left -= n;
    return l->data_left == 0 ? end_chunk(l, is_last(l)) : TAKEN;
}

/* From our buffer, what there is of it. */
static enum taken take_data(struct nbd_link *l)
{
    const struct io *io = l->answered->io;
    uint64_t n = min_u64(at_hand(l), l->data_left);

    if (n == 0)
        return MORE;
    iov_from(io->iov, io->iovcnt, io->moved + l->data_at, l->buf + l->buf_start, n);
    l->buf_start += (size_t)n;
    return note_data(l, n);
}

static enum taken note_big(struct nbd_link *l, uint64_t n)
{
    uint8_t *big = l->big;
    enum taken taken;

    l->big_have += n;
    assert(l->big_have <= l->reply.length);
    if (l->big_have < l->reply.length)
        return TAKEN;
    l->big = NULL;
    taken = take_small(l, big);
    mem_free(big);
    return taken;
}

static enum taken take_big(struct nbd_link *l)
{
    uint64_t n = min_u64(at_hand(l), l->reply.length - l->big_have);

    assert(l->big && l->big_have < l->reply.length);
    if (n == 0)
        return MORE;
    memcpy(l->big + l->big_have, l->buf + l->buf_start, n);
    l->buf_start += (size_t)n;
    return note_big(l, n);
}

static enum taken take(struct nbd_link *l)
{
    switch (l->reading) {
    case NBD_READ_HEADER: return take_header(l);
    case NBD_READ_SMALL: return take_payload(l);
    case NBD_READ_DATA: return take_data(l);
    case NBD_READ_BIG: return take_big(l);
    }
    return MORE;
}

unsigned nbd_reply_wants(struct nbd_link *l)
{
    unsigned n = 0;
    uint64_t len = 0, wanted = 0;

    if (l->buf_start > 0)
        memmove(l->buf, l->buf + l->buf_start, at_hand(l));
    l->buf_end -= l->buf_start;
    l->buf_start = 0;
    if (l->reading == NBD_READ_DATA) {
        wanted = l->data_left;
        n = nbd_req_iov(l->answered, l->data_at, wanted, l->receive_iov, NBD_IOVS_MAX, &len);
    } else if (l->reading == NBD_READ_BIG) {
        wanted = len = l->reply.length - l->big_have;
        l->receive_iov[n++] = (struct iovec){l->big + l->big_have, len};
    }
    assert(wanted == 0 || l->buf_end == 0);
    assert(len <= wanted && n <= NBD_IOVS_MAX);
    if (len == wanted) /* and what follows */
        l->receive_iov[n++] = (struct iovec){l->buf + l->buf_end, NBD_RECEIVE_BYTES - l->buf_end};
    return n;
}

bool nbd_reply_came(struct nbd_link *l, uint64_t n)
{
    enum taken taken = TAKEN;

    assert(n > 0 && l->state == NBD_UP && (l->reading == NBD_READ_HEADER || l->answered));
    if (l->reading == NBD_READ_DATA) {
        uint64_t part = min_u64(n, l->data_left);
        n -= part;
        taken = note_data(l, part);
    } else if (l->reading == NBD_READ_BIG) {
        uint64_t part = min_u64(n, l->reply.length - l->big_have);
        n -= part;
        taken = note_big(l, part);
    }
    l->buf_end += (size_t)n;
    assert(l->buf_end <= NBD_RECEIVE_BYTES);
    while (taken == TAKEN)
        taken = take(l);
    return taken == MORE;
}
