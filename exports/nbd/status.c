/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Block status: what the volume says of its extents, as the contexts say it.
 *
 * Happy path: one buffer holds the extents, and behind them the chunks that are made of them, one for each
 * context; neighbours that are the same to a context are one descriptor.
 * Failures: those of the volume. A list that is full ends early, as the protocol allows.
 */
#include <assert.h>
#include <string.h>

#include "exports/nbd/server.h"
#include "nbd/mutant.h"

enum {
    LIST_BYTES  = NBDS_EXTENTS * sizeof(struct vdisk_extent),
    CHUNK_BYTES = NBD_EXTENDED_CHUNK_SIZE + NBD_STATUS_EXT_SIZE + NBDS_EXTENTS * NBD_DESCRIPTOR_EXT_SIZE,
};

size_t nbds_status_bytes(void)
{
    return LIST_BYTES + NBDS_CONTEXTS * CHUNK_BYTES;
}

void nbds_status_ask(struct nbds_slot *slot, uint64_t length)
{
    struct nbds_conn *c = slot->conn;

    slot->extents = (struct vdisk_extents){.list = slot->buf, .max = NBDS_EXTENTS};
    vdisk_get_extents(c->thread->queue, c->export->volume, c->export->offset + slot->request.offset, length,
                      &slot->extents, (uint64_t)(uintptr_t)slot);
}

static uint64_t flags_of(const struct vdisk_extent *e, unsigned context)
{
    if (context == NBDS_ALLOCATION_DEPTH)
        return e->flags & VDISK_EXTENT_ALLOCATED ? e->depth + UINT64_C(1) : 0;
    return (e->flags & VDISK_EXTENT_DATA ? 0 : NBD_STATE_HOLE) |
           (e->flags & VDISK_EXTENT_ZERO ? NBD_STATE_ZERO : 0);
}

/* One context's chunk, at `at`; gives its length. */
static size_t put_context(const struct nbds_slot *slot, uint8_t *at, unsigned context, bool last)
{
    bool extended = slot->conn->form == NBDS_EXTENDED;
    size_t head = extended ? NBD_EXTENDED_CHUNK_SIZE : NBD_CHUNK_SIZE;
    uint64_t most = extended ? UINT64_MAX : UINT32_MAX & ~UINT32_C(0xffff);
    unsigned skipped = NBD_MUTANT(STATUS_SHIFTED) && slot->extents.count > 1;
    struct nbd_descriptor d = {0, 0};
    unsigned n = 0, count = slot->request.flags & NBD_CMD_FLAG_REQ_ONE ? 1 : slot->extents.count;

    for (unsigned i = skipped; i < slot->extents.count && n < count; i++) {
        const struct vdisk_extent *e = &slot->extents.list[i];
        uint64_t flags = flags_of(e, context);

        if (d.length != 0 && d.flags != flags) {
            nbd_status_descriptor_put(at + head, extended, n++, d);
            d.length = 0;
        }
        if (n == count)
            break;
        d.flags = flags;
        d.length += e->length;
        if (d.length > most) {
            /* What is compact ends here, and may: the client asks for the rest. */
            d.length = most;
            break;
        }
    }
    if (d.length != 0 && n < count)
        nbd_status_descriptor_put(at + head, extended, n++, d);
    assert(n > 0);
    nbd_status_put(at + head, extended, context, n);
    size_t len = nbd_status_size(extended, n);
    nbds_reply_head(slot, at, last ? NBD_REPLY_FLAG_DONE : 0,
                    extended ? NBD_REPLY_TYPE_BLOCK_STATUS_EXT : NBD_REPLY_TYPE_BLOCK_STATUS, len);
    return head + len;
}

void nbds_status_reply(struct nbds_slot *slot)
{
    uint8_t *chunks = (uint8_t *)slot->buf + LIST_BYTES;
    size_t len = 0;

    assert(slot->contexts != 0 && (slot->contexts & ~slot->conn->contexts) == 0);
    assert(slot->extents.count > 0 && slot->extents.count <= NBDS_EXTENTS && slot->buf_len == nbds_status_bytes());

    for (unsigned k = 0; k < NBDS_CONTEXTS; k++)
        if (slot->contexts & 1u << k)
            len += put_context(slot, chunks + len, k, slot->contexts >> (k + 1) == 0);
    assert(len <= slot->buf_len - LIST_BYTES);
    slot->head_len = 0;
    slot->data = chunks;
    slot->data_len = len;
}
