/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The handshake: greeting, the client's flags, options one after the other.
 *
 * Happy path: the server speaks first; then a step for the flags, and one for each option's head and one for its
 * data, which is there as a whole when it is looked at.
 * Failures: flags that are not known, a wrong magic number, too many options, an option after which the protocol
 * knows nothing but the end: it is over. One that is too long is skipped, and refused.
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "exports/nbd/server.h"
#include "nbd/mutant.h"

/* What a client may send of an option that is not looked at. */
#define LONGEST_SKIPPED ((uint32_t)NBD_MAX_PAYLOAD)

int nbds_handshake_begin(struct nbds_conn *c)
{
    uint8_t *greeting = nbds_out(c, NBD_GREETING_SIZE);

    if (!greeting)
        return -ENOMEM;
    nbd_greeting_put(greeting, NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES);
    c->phase = NBDS_CLIENT_FLAGS;
    return 0;
}

static int client_flags(struct nbds_conn *c)
{
    uint32_t flags = nbd_client_flags_get(c->in + c->in_at);

    c->in_at += NBD_CLIENT_FLAGS_SIZE;
    if (flags & ~(uint32_t)(NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES))
        return -EPROTO;
    c->no_zeroes = flags & NBD_FLAG_NO_ZEROES;
    c->phase = NBDS_OPTION;
    return 1;
}

static int option_head(struct nbds_conn *c)
{
    if (nbd_option_get(c->in + c->in_at, &c->option) < 0 ||
        (++c->options > NBDS_MAX_OPTIONS && !NBD_MUTANT(OPTIONS_UNBOUNDED)))
        return -EPROTO;
    c->in_at += NBD_OPTION_SIZE;
    c->phase = NBDS_OPTION_DATA;
    if (c->option.length <= NBDS_MAX_OPTION)
        return 1;
    if (c->option.length > LONGEST_SKIPPED || c->option.option == NBD_OPT_EXPORT_NAME)
        return -EPROTO;
    c->skip = c->option.length;
    c->phase = NBDS_SKIP_OPTION;
    return 1;
}

static bool must_wait(struct nbds_conn *c)
{
    return (c->option.option == NBD_OPT_GO || c->option.option == NBD_OPT_EXPORT_NAME) && !nbds_conn_may_come(c);
}

int nbds_handshake_step(struct nbds_conn *c)
{
    size_t there = c->in_end - c->in_at;
    const uint8_t *data = c->in + c->in_at;

    switch (c->phase) {
    case NBDS_CLIENT_FLAGS:
        return there < NBD_CLIENT_FLAGS_SIZE ? 0 : client_flags(c);
    case NBDS_OPTION:
        return there < NBD_OPTION_SIZE ? 0 : option_head(c);
    case NBDS_OPTION_DATA:
        if (there < c->option.length)
            return 0;
        if (must_wait(c)) {
            c->held = true;
            return 0;
        }
        c->in_at += c->option.length;
        c->phase = NBDS_OPTION;
        return nbds_option_do(c, data, c->option.length);
    case NBDS_SKIP_OPTION:
        assert(c->skip == 0);
        c->phase = NBDS_OPTION;
        return nbds_option_error(c, NBD_REP_ERR_TOO_BIG, "option data is too long");
    case NBDS_TRANSMISSION:
        break;
    }
    assert(c->phase != NBDS_TRANSMISSION); /* who calls has seen to it */
    return -EPROTO;
}
