/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Replies: made in their slots, sent many at a time.
 *
 * Happy path: the header and what comes before the data are in the slot, the data is where the volume put it; one
 * call sends the heads and the data of many slots, and gives them back.
 * Failures: a socket that is full: the rest is sent when it can be; one that is broken: the end.
 */
#include <assert.h>
#include <errno.h>
#include <string.h>

#include "exports/nbd/server.h"
#include "nbd/mutant.h"

enum { PIECES = 128 };

static void put_simple(struct nbds_slot *slot, int rc)
{
    const struct nbd_reply reply = {.form = NBD_REPLY_SIMPLE, .error = nbd_error_of(rc),
                                    .cookie = slot->request.cookie - NBD_MUTANT(REPLY_ASTRAY)};

    slot->head_len = (uint32_t)nbd_reply_put(slot->head, &reply);
}

static void put_error(struct nbds_slot *slot, int rc, const char *text)
{
    struct nbd_error_chunk chunk = {.error = nbd_error_of(rc), .message = {text ? text : "", 0}};
    uint8_t data[NBDS_HEAD_BYTES - NBD_EXTENDED_CHUNK_SIZE];

    /* As much of the words as there is room for. */
    chunk.message.length = (uint32_t)strnlen(chunk.message.text, sizeof data - NBD_ERROR_SIZE);
    size_t len = nbd_error_chunk_put(data, sizeof data, false, &chunk);
    size_t head = nbds_reply_head(slot, slot->head, NBD_REPLY_FLAG_DONE, NBD_REPLY_TYPE_ERROR, len);
    memcpy(slot->head + head, data, len);
    slot->head_len = (uint32_t)(head + len);
}

/* The data of a read as one chunk. */
static void put_read(struct nbds_slot *slot)
{
    size_t head = nbds_reply_head(slot, slot->head, NBD_REPLY_FLAG_DONE, NBD_REPLY_TYPE_OFFSET_DATA,
                                  NBD_OFFSET_DATA_SIZE + slot->request.length);

    nbd_offset_data_put(slot->head + head, slot->request.offset);
    slot->head_len = (uint32_t)(head + NBD_OFFSET_DATA_SIZE);
}

void nbds_reply(struct nbds_slot *slot, int rc, const char *text)
{
    struct nbds_conn *c = slot->conn;
    uint16_t type = slot->request.type;

    assert(rc <= 0 && c->used > 0 && slot != c->filling); /* server.h, invariant 1 */
    slot->data = NULL;
    slot->data_len = 0;
    if (rc == 0 && type == NBD_CMD_READ && slot->buf) {
        slot->data = slot->buf;
        slot->data_len = slot->request.length;
    }
    if (c->form == NBDS_SIMPLE)
        put_simple(slot, rc);
    else if (rc < 0)
        put_error(slot, rc, text);
    else if (slot->data)
        put_read(slot);
    else if (type == NBD_CMD_BLOCK_STATUS)
        nbds_status_reply(slot);
    else
        slot->head_len = (uint32_t)nbds_reply_head(slot, slot->head, NBD_REPLY_FLAG_DONE, NBD_REPLY_TYPE_NONE, 0);
    if (rc < 0)
        nbds_count(&c->thread->errors, 1);
    if (!c->replies)
        c->out_ns = c->thread->now_ns;
    slot->next = NULL;
    *c->replies_end = slot;
    c->replies_end = &slot->next;
}

/* What is to be sent next, in pieces. */
static unsigned gather(const struct nbds_conn *c, struct iovec iov[PIECES], size_t *ret_len)
{
    size_t gone = c->sent, len = 0;
    unsigned n = 0;

    for (struct nbds_slot *s = c->replies; s && n + 2 <= PIECES; s = s->next) {
        if (gone < s->head_len)
            iov[n++] = (struct iovec){s->head + gone, s->head_len - gone};
        gone = gone > s->head_len ? gone - s->head_len : 0;
        if (gone < s->data_len)
            iov[n++] = (struct iovec){(void *)(uintptr_t)(s->data + gone), s->data_len - gone};
        gone = 0;
    }
    for (unsigned i = 0; i < n; i++)
        len += iov[i].iov_len;
    assert(n > 0 && n <= PIECES && len > 0); /* a reply has a head */
    *ret_len = len;
    return n;
}

static void went(struct nbds_conn *c, size_t bytes)
{
    c->sent += bytes;
    while (c->replies && c->sent >= c->replies->head_len + c->replies->data_len) {
        struct nbds_slot *s = c->replies;

        c->sent -= s->head_len + s->data_len;
        c->replies = s->next;
        if (!c->replies)
            c->replies_end = &c->replies;
        c->out_ns = c->replies ? c->thread->now_ns : 0;
        nbds_slot_free(s);
    }
    assert(c->replies || c->sent == 0);
}

static int send_handshake(struct nbds_conn *c)
{
    while (c->out_end > 0 && c->writable) {
        const struct iovec iov = {c->out + c->out_at, c->out_end - c->out_at};
        ssize_t n = c->stream->ops->send(c->stream, &iov, 1);

        nbds_count(&c->thread->sends, 1);
        if (n == -EAGAIN)
            c->writable = false;
        else if (n < 0)
            return (int)n;
        else if ((c->out_at += (size_t)n) == c->out_end)
            c->out_at = c->out_end = 0;
    }
    return 0;
}

bool nbds_reply_pending(const struct nbds_conn *c)
{
    return c->stream->ops->pending && c->stream->ops->pending(c->stream);
}

/* What the stream has taken before. */
static int send_pending(struct nbds_conn *c)
{
    while (c->writable && nbds_reply_pending(c)) {
        ssize_t n = c->stream->ops->send(c->stream, NULL, 0);

        if (n < 0 && n != -EAGAIN)
            return (int)n;
        c->writable = n >= 0;
    }
    return 0;
}

/* Since when the client has not taken what is there for it: a reply, the yes to its transmission, a record. */
static void note_waiting(struct nbds_conn *c)
{
    bool waits = c->phase == NBDS_TRANSMISSION && (c->replies || c->out_end > 0 || nbds_reply_pending(c));

    if (!waits)
        c->out_ns = 0;
    else if (c->out_ns == 0)
        c->out_ns = c->thread->now_ns;
}

int nbds_reply_send(struct nbds_conn *c)
{
    struct iovec iov[PIECES];
    size_t len;
    int rc = send_handshake(c);

    while (rc == 0 && c->out_end == 0 && c->replies && c->writable) {
        unsigned n = gather(c, iov, &len);
        ssize_t sent = c->stream->ops->send(c->stream, iov, n);

        nbds_count(&c->thread->sends, 1);
        if (sent == -EAGAIN) {
            c->writable = false;
        } else if (sent < 0) {
            rc = (int)sent;
        } else {
            if ((size_t)sent < len && c->stream->short_empty)
                c->writable = false;
            went(c, (size_t)sent);
        }
    }
    if (rc == 0)
        rc = send_pending(c);
    note_waiting(c);
    return rc;
}
