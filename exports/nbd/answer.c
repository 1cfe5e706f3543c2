/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The handshake's output: gathered in memory until it is sent, which is before anything more is read: so it is one
 * option's at most.
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "exports/nbd/server.h"

uint8_t *nbds_out(struct nbds_conn *c, size_t len)
{
    size_t size = c->out_size ? c->out_size : 4096;

    assert(c->phase != NBDS_TRANSMISSION && c->out_end <= size);
    while (size - c->out_end < len)
        size *= 2;
    if (size != c->out_size) {
        uint8_t *out = realloc(c->out, size);
        if (!out)
            return NULL;
        c->out = out;
        c->out_size = size;
    }
    c->out_end += len;
    return c->out + c->out_end - len;
}

int nbds_option_reply(struct nbds_conn *c, uint32_t type, const void *data, size_t len)
{
    uint8_t *out = nbds_out(c, NBD_OPTION_REPLY_SIZE + len);

    if (!out)
        return -ENOMEM;
    nbd_option_reply_put(out, (struct nbd_option_reply){c->option.option, type, (uint32_t)len});
    if (len > 0)
        memcpy(out + NBD_OPTION_REPLY_SIZE, data, len);
    return 1;
}

int nbds_option_error(struct nbds_conn *c, uint32_t type, const char *text)
{
    return nbds_option_reply(c, type, text, strlen(text));
}
