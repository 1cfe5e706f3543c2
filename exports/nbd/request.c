/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Requests of the transmission: taken from the input, judged, given to the volume, ended.
 *
 * Happy path: a header is read, a slot and a buffer are taken, the request goes to the thread's queue; when it has
 * completed its slot becomes a reply. What is small lies in the input buffer as a whole, and is copied. A large
 * read goes in parts, and only so many bytes of them are in flight that the memory stays in the caches: by more
 * the disk that was measured was slower.
 * Failures: a request that cannot be is answered with an error, after its payload has been skipped; where
 * nobody can say where the next one begins, it is the last. A request for which there is no slot, or too much
 * is in flight, stays in the buffer.
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "exports/nbd/server.h"
#include "nbd/mutant.h"

enum {
    READ_PART = 256 << 10,
    READ_BYTES = 8 << 20, /* of a connection; one read may have more */
};

/* What a rate lets through at once after a pause. */
#define BURST_NS UINT64_C(300000000)

uint16_t nbds_export_flags(const struct nbds_conn *c, const struct nbds_export *e)
{
    unsigned flags = NBD_FLAG_HAS_FLAGS | NBD_FLAG_SEND_FLUSH | NBD_FLAG_SEND_FUA | NBD_FLAG_SEND_CACHE;

    flags |= e->read_only ? NBD_FLAG_READ_ONLY
                          : NBD_FLAG_SEND_TRIM | NBD_FLAG_SEND_WRITE_ZEROES | NBD_FLAG_SEND_FAST_ZERO;
    if (e->multi_conn)
        flags |= NBD_FLAG_CAN_MULTI_CONN;
    if (c->form != NBDS_SIMPLE)
        flags |= NBD_FLAG_SEND_DF;
    if (c->form == NBDS_EXTENDED && c->contexts != 0 && c->context_export == e)
        flags |= NBD_FLAG_BLOCK_STATUS_PAYLOAD;
    return (uint16_t)flags;
}

int nbds_transmission_begin(struct nbds_conn *c, struct nbds_export *e)
{
    unsigned n = c->thread->server->opts.requests;

    c->slots = calloc(n, sizeof c->slots[0]);
    if (!c->slots)
        return -ENOMEM;
    for (unsigned i = 0; i < n; i++) {
        c->slots[i].conn = c;
        c->slots[i].next = c->free;
        c->free = &c->slots[i];
    }
    c->export = e;
    if (c->context_export != e)
        c->contexts = 0; /* of another export they mean nothing */
    c->phase = NBDS_TRANSMISSION;
    return 0;
}

/* ---- is it allowed? ------------------------------------------------------------------------------------- */

static uint16_t flags_of(const struct nbds_conn *c, uint16_t type)
{
    unsigned flags = NBD_CMD_FLAG_FUA;

    if (type == NBD_CMD_READ && c->form != NBDS_SIMPLE)
        flags |= NBD_CMD_FLAG_DF;
    if (type == NBD_CMD_WRITE && c->form == NBDS_EXTENDED)
        flags |= NBD_CMD_FLAG_PAYLOAD_LEN;
    if (type == NBD_CMD_WRITE_ZEROES)
        flags |= NBD_CMD_FLAG_NO_HOLE | NBD_CMD_FLAG_FAST_ZERO;
    if (type == NBD_CMD_BLOCK_STATUS)
        flags |= NBD_CMD_FLAG_REQ_ONE;
    if (type == NBD_CMD_BLOCK_STATUS && c->form == NBDS_EXTENDED && c->contexts != 0)
        flags |= NBD_CMD_FLAG_PAYLOAD_LEN;
    return (uint16_t)flags;
}

/* -errno with words, where a request of this kind cannot be whatever its range. */
static int judge_kind(const struct nbds_slot *slot, const char **ret_text)
{
    const struct nbds_conn *c = slot->conn;
    const struct nbd_request *r = &slot->request;

    switch (r->type) {
    case NBD_CMD_WRITE:
    case NBD_CMD_TRIM:
    case NBD_CMD_WRITE_ZEROES:
        if (c->export->read_only) {
            *ret_text = "the export is read-only";
            return -EPERM;
        }
        break;
    case NBD_CMD_BLOCK_STATUS:
        if (c->contexts == 0) {
            *ret_text = "no context was chosen";
            return -EINVAL;
        }
        break;
    case NBD_CMD_READ:
    case NBD_CMD_FLUSH:
    case NBD_CMD_CACHE:
        break;
    default:
        *ret_text = "unknown command";
        return -EINVAL;
    }
    if (r->flags & ~flags_of(c, r->type)) {
        *ret_text = "a flag that this command does not have";
        return -EINVAL;
    }
    return 0;
}

/* The same of its range. A flush has none. */
static int judge_range(const struct nbds_slot *slot, const char **ret_text)
{
    const struct nbd_request *r = &slot->request;
    const struct nbds_export *e = slot->conn->export;
    uint64_t size = nbds_export_size(e, false);

    if (r->type == NBD_CMD_FLUSH) {
        *ret_text = "a flush has no range";
        return r->offset != 0 || r->length != 0 ? -EINVAL : 0;
    }
    if ((r->type == NBD_CMD_READ || r->type == NBD_CMD_WRITE) && r->length > NBD_MAX_PAYLOAD &&
        !NBD_MUTANT(PAYLOAD_UNBOUNDED)) {
        *ret_text = "longer than 32 MiB";
        return -EINVAL;
    }
    if (r->type == NBD_CMD_BLOCK_STATUS && r->length == 0) {
        *ret_text = "nothing to look at";
        return -EINVAL;
    }
    if (NBD_MUTANT(RANGE_WRAPS) ? r->offset + r->length > size
                                : r->offset > size || r->length > size - r->offset) {
        *ret_text = "past the end";
        return r->type == NBD_CMD_WRITE || r->type == NBD_CMD_WRITE_ZEROES ? -ENOSPC : -EINVAL;
    }
    /* The last block may be a part of one. */
    if ((r->offset | r->length) & (e->min_block - 1) &&
        (r->offset & (e->min_block - 1) || r->offset + r->length != size)) {
        *ret_text = "no whole blocks";
        return -EINVAL;
    }
    return 0;
}

/* ---- to the volume -------------------------------------------------------------------------------------- */

/* All of it. */
static bool is_zero(const uint8_t *buf, size_t len)
{
    return buf[0] == 0 && memcmp(buf, buf + 1, len - 1) == 0;
}

static void submit_write(struct nbds_slot *slot, uint64_t at, uint32_t fua)
{
    const struct nbds_export *e = slot->conn->export;
    vdisk_queue *q = slot->conn->thread->queue;
    uint64_t len = slot->request.length, data = (uint64_t)(uintptr_t)slot;

    if (e->zeroes != NBD_DETECT_OFF && is_zero(slot->buf, len))
        vdisk_write_zeroes(q, e->volume, at, len, fua | (e->zeroes == NBD_DETECT_UNMAP ? VDISK_REQ_UNMAP : 0),
                           data);
    else
        vdisk_write(q, e->volume, at, slot->buf, len, fua, data);
}

static void submit_read(struct nbds_slot *slot, uint64_t at)
{
    const struct nbds_conn *c = slot->conn;
    uint64_t len = slot->request.length, n;

    slot->parts = (uint32_t)(len / READ_PART + (len % READ_PART > 0));
    slot->error = 0;
    for (uint64_t from = 0; from < len; from += n) {
        n = len - from < READ_PART ? len - from : READ_PART;
        vdisk_read(c->thread->queue, c->export->volume, at + from, (uint8_t *)slot->buf + from, n, 0,
                   (uint64_t)(uintptr_t)slot);
    }
}

static uint32_t zero_flags(const struct nbds_export *e, const struct nbd_request *r)
{
    return (r->flags & NBD_CMD_FLAG_NO_HOLE || e->no_discard ? 0 : VDISK_REQ_UNMAP) |
           (r->flags & NBD_CMD_FLAG_FAST_ZERO ? VDISK_REQ_NO_FALLBACK : 0);
}

static void submit(struct nbds_slot *slot)
{
    struct nbds_conn *c = slot->conn;
    const struct nbd_request *r = &slot->request;
    vdisk_queue *q = c->thread->queue;
    vdisk *v = c->export->volume;
    bool durable = (r->flags & NBD_CMD_FLAG_FUA || c->export->durable) && !NBD_MUTANT(FUA_DROPPED);
    uint32_t fua = durable ? VDISK_REQ_FUA : 0;
    uint64_t data = (uint64_t)(uintptr_t)slot, at = r->offset + c->export->offset;

    assert(c->in_flight < c->used && !c->filling); /* server.h, invariant 1 */
    assert(r->type == NBD_CMD_FLUSH || (r->length > 0 && r->length <= UINT64_MAX - r->offset));
    assert(!c->export->read_only || (r->type != NBD_CMD_WRITE && r->type != NBD_CMD_TRIM));
    c->in_flight++;
    switch (r->type) {
    case NBD_CMD_READ:
        submit_read(slot, at);
        break;
    case NBD_CMD_WRITE:
        submit_write(slot, at, fua);
        break;
    case NBD_CMD_TRIM:
        vdisk_discard(q, v, at, r->length, fua, data);
        break;
    case NBD_CMD_WRITE_ZEROES:
        vdisk_write_zeroes(q, v, at, r->length, fua | zero_flags(c->export, r), data);
        break;
    case NBD_CMD_CACHE:
        vdisk_prefetch(q, v, at, r->length, 0, data);
        break;
    case NBD_CMD_BLOCK_STATUS:
        nbds_status_ask(slot, r->length);
        break;
    default:
        assert(r->type == NBD_CMD_FLUSH);
        vdisk_flush(q, v, 0, data);
        break;
    }
}

void nbds_request_done(struct nbds_slot *slot, const struct vdisk_completion *done)
{
    struct nbds_conn *c = slot->conn;
    int rc = done->result;

    assert(c->in_flight > 0);
    assert(rc <= 0 && c->export);
    if (slot->request.type == NBD_CMD_READ) {
        if (slot->error == 0)
            slot->error = rc;
        assert(slot->parts > 0);
        if (--slot->parts > 0)
            return;
        rc = slot->error;
    }
    c->in_flight--;
    if (c->dead) {
        nbds_slot_free(slot);
        return;
    }
    /* What the library says of an error names files of the host: it is not for clients. */
    nbds_reply(slot, rc, rc < 0 ? "the volume failed" : NULL);
}

/* ---- from the input ------------------------------------------------------------------------------------- */

/* Until when its rate lets nothing more through. */
static void charge(struct nbds_conn *c, const struct nbd_request *r)
{
    const struct nbd_server_opts *o = &c->thread->server->opts;
    uint64_t now = c->thread->now_ns, ns = 0;
    bool moves = (r->type == NBD_CMD_READ || r->type == NBD_CMD_WRITE) && !NBD_MUTANT(RATE_BY_NUMBER);

    if (o->requests_per_s != 0)
        ns = UINT64_C(1000000000) / o->requests_per_s;
    if (o->bytes_per_s != 0 && moves && r->length <= NBD_MAX_PAYLOAD) {
        uint64_t by_bytes = r->length * UINT64_C(1000000000) / o->bytes_per_s;
        ns = ns > by_bytes ? ns : by_bytes;
    }
    if (ns == 0)
        return;
    if (c->resume_ns + BURST_NS < now)
        c->resume_ns = now - BURST_NS;
    c->resume_ns += ns;
}

/* So much is in flight that this one waits. */
static bool is_too_much(const struct nbds_conn *c, const struct nbd_request *r, size_t bytes)
{
    size_t most = c->thread->server->opts.client_bytes;

    if (r->type == NBD_CMD_READ && READ_BYTES < most)
        most = READ_BYTES;
    return bytes > 0 && c->bytes > 0 && c->bytes + bytes > most && !NBD_MUTANT(BYTES_UNBOUNDED);
}

/* What of the pool a sound request takes. */
static size_t bytes_of(const struct nbd_request *r)
{
    switch (r->type) {
    case NBD_CMD_READ:
    case NBD_CMD_WRITE:
        return r->length;
    case NBD_CMD_BLOCK_STATUS:
        return nbds_status_bytes();
    default:
        return 0;
    }
}

/* Skip what of the payload comes, then answer. */
static void refuse(struct nbds_slot *slot, int rc, const char *text)
{
    struct nbds_conn *c = slot->conn;
    const struct nbd_request *r = &slot->request;

    if (nbd_request_has_payload(r, c->form == NBDS_EXTENDED)) {
        if (r->length > NBD_MAX_PAYLOAD)
            c->ended = true; /* nobody waits for so much */
        else
            c->skip = r->length;
    }
    nbds_reply(slot, rc, text);
}

void nbds_request_filled(struct nbds_conn *c)
{
    struct nbds_slot *slot = c->filling;

    c->filling = NULL;
    c->in_ns = 0;
    submit(slot);
}

/* Take the payload, as far as it is there. */
static void fill(struct nbds_conn *c, struct nbds_slot *slot)
{
    size_t there = c->in_end - c->in_at;
    size_t n = there < slot->request.length ? there : (size_t)slot->request.length;

    memcpy(slot->buf, c->in + c->in_at, n);
    c->in_at += n;
    assert(!c->filling && slot->buf_len == slot->request.length);
    c->filling = slot;
    c->filled = n;
    if (n == slot->request.length)
        nbds_request_filled(c);
}

/* A payload of block status is short, and waited for in the buffer: gives whether it is there. */
static bool status_payload(struct nbds_slot *slot, size_t there, int *ret_rc, const char **ret_text)
{
    struct nbds_conn *c = slot->conn;
    struct nbd_request *r = &slot->request;
    size_t head = nbd_request_size(true);
    struct nbd_status_payload payload;

    *ret_rc = -EINVAL;
    *ret_text = "malformed payload";
    if (r->length > NBD_STATUS_PAYLOAD_SIZE + 4 * NBDS_CONTEXTS)
        return true; /* none that could be: skipped */
    if (there < head + r->length)
        return false;
    if (nbd_status_payload_get(c->in + c->in_at + head, r->length, &payload) < 0)
        return true;
    slot->contexts = 0;
    for (unsigned i = 0; i < payload.count; i++) {
        uint32_t id = nbd_status_payload_id(&payload, i);
        if (id >= NBDS_CONTEXTS || !(c->contexts & 1u << id) || slot->contexts & 1u << id) {
            *ret_text = "a context that was not chosen, or twice";
            return true;
        }
        slot->contexts |= 1u << id;
    }
    if (slot->contexts == 0)
        return true;
    c->in_at += r->length; /* with the head */
    r->length = payload.effect;
    r->flags &= (uint16_t)~NBD_CMD_FLAG_PAYLOAD_LEN;
    *ret_rc = 0;
    return true;
}

/* The request is out of the input: do it. */
static void begin(struct nbds_conn *c, struct nbds_slot *slot, size_t bytes)
{
    const struct nbd_request *r = &slot->request;

    slot->buf_len = bytes;
    slot->buf = bytes > 0 ? nbds_pool_get(&c->thread->pool, bytes) : NULL;
    if (bytes > 0 && !slot->buf) {
        refuse(slot, -ENOMEM, NULL);
        return;
    }
    c->bytes += bytes;
    if (r->type == NBD_CMD_WRITE)
        fill(c, slot);
    else
        submit(slot);
}

static bool must_wait(const struct nbds_conn *c)
{
    return !c->free || c->resume_ns > c->thread->now_ns;
}

/* A request of length 0, where that is no question; a trim that is not to be done. */
static bool is_nothing(const struct nbds_slot *slot)
{
    const struct nbd_request *r = &slot->request;

    return (r->length == 0 && r->type != NBD_CMD_FLUSH) ||
           (r->type == NBD_CMD_TRIM && slot->conn->export->no_discard);
}

int nbds_request_step(struct nbds_conn *c)
{
    bool extended = c->form == NBDS_EXTENDED;
    size_t head = nbd_request_size(extended), there = c->in_end - c->in_at;
    const char *text = NULL;
    struct nbd_request r;

    if (there < head)
        return 0;
    if (nbd_request_get(c->in + c->in_at, extended, &r) < 0)
        return -EPROTO;
    if (r.type == NBD_CMD_DISC) {
        c->ended = true;
        return 0;
    }
    if (must_wait(c)) {
        c->ended = nbds_conn_is_let_go(c);
        c->held = !c->ended;
        return 0;
    }
    struct nbds_slot *slot = c->free;
    slot->request = r;
    slot->contexts = c->contexts;
    int rc = judge_kind(slot, &text);
    if (rc == 0 && r.type == NBD_CMD_BLOCK_STATUS && r.flags & NBD_CMD_FLAG_PAYLOAD_LEN &&
        !status_payload(slot, there, &rc, &text))
        return 0;
    if (rc == 0)
        rc = judge_range(slot, &text);
    size_t bytes = rc == 0 ? bytes_of(&slot->request) : 0;
    if (is_too_much(c, &r, bytes)) {
        if (r.flags & NBD_CMD_FLAG_PAYLOAD_LEN && r.type == NBD_CMD_BLOCK_STATUS)
            c->in_at -= r.length;
        c->held = true;
        return 0;
    }
    c->free = slot->next;
    c->used++;
    c->in_at += head;
    c->in_ns = 0;
    c->active_ns = c->thread->now_ns;
    nbds_count(&c->thread->requests, 1);
    charge(c, &r);
    if (rc < 0)
        refuse(slot, rc, text);
    else if (is_nothing(slot) || (r.type == NBD_CMD_FLUSH && NBD_MUTANT(FLUSH_UNASKED)))
        nbds_reply(slot, 0, NULL);
    else
        begin(c, slot, bytes);
    return c->filling ? 0 : 1;
}
