/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A slot's end, and the header of what it replies. */
#include <assert.h>

#include "exports/nbd/server.h"

void nbds_slot_free(struct nbds_slot *slot)
{
    struct nbds_conn *c = slot->conn;

    if (slot->buf) {
        nbds_pool_put(&c->thread->pool, slot->buf, slot->buf_len);
        assert(c->bytes >= slot->buf_len);
        c->bytes -= slot->buf_len;
        slot->buf = NULL;
    }
    assert(c->used > 0 && slot != c->filling && slot >= c->slots);
    slot->next = c->free;
    c->free = slot;
    c->used--;
}

size_t nbds_reply_head(const struct nbds_slot *slot, uint8_t *at, uint16_t flags, uint16_t type, uint64_t length)
{
    bool extended = slot->conn->form == NBDS_EXTENDED;
    const struct nbd_reply reply = {
        .form = extended ? NBD_REPLY_EXTENDED : NBD_REPLY_STRUCTURED,
        .flags = flags,
        .type = type,
        .cookie = slot->request.cookie,
        .offset = slot->request.offset,
        .length = length,
    };

    return nbd_reply_put(at, &reply);
}
