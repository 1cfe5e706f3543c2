/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What each option of the handshake does.
 *
 * Happy path: an option's data is judged, then answered; GO and EXPORT_NAME begin the transmission.
 * Failures: each has a reply of the protocol, after which the handshake goes on; but EXPORT_NAME cannot be refused
 * other than by the end.
 */
#include <assert.h>
#include <errno.h>
#include <string.h>

#include "exports/nbd/server.h"
#include "nbd/mutant.h"

static struct nbd_string string_of(const char *text)
{
    return (struct nbd_string){text, (uint32_t)strlen(text)};
}

static int no_data(struct nbds_conn *c, uint32_t len)
{
    return len == 0 ? 1 : nbds_option_error(c, NBD_REP_ERR_INVALID, "this option takes no data");
}

static int ack(struct nbds_conn *c)
{
    return nbds_option_reply(c, NBD_REP_ACK, NULL, 0);
}

static int do_list(struct nbds_conn *c, uint32_t len)
{
    if (len != 0)
        return no_data(c, len);
    for (const struct nbds_export *e = c->thread->server->exports; e; e = e->next) {
        uint8_t data[4 + 2 * NBD_MAX_STRING];
        size_t n = nbd_server_put(data, sizeof data, string_of(e->name), string_of(e->description));
        int rc = nbds_option_reply(c, NBD_REP_SERVER, data, n);

        if (rc < 0)
            return rc;
    }
    return ack(c);
}

static int reply_info(struct nbds_conn *c, const struct nbd_info *info)
{
    uint8_t data[NBD_INFO_MAX_SIZE];

    return nbds_option_reply(c, NBD_REP_INFO, data, nbd_info_put(data, sizeof data, info));
}

/* Which infos are asked for, as bits: each is answered once, however often a client repeats it. */
static unsigned wanted(const struct nbd_info_request *request)
{
    unsigned bits = 0;

    for (unsigned i = 0; i < request->count; i++) {
        unsigned type = nbd_info_request_type(request, i);
        bits |= type <= NBD_INFO_BLOCK_SIZE ? 1u << type : 0; /* others are not known */
    }
    return bits;
}

static int reply_infos(struct nbds_conn *c, const struct nbds_export *e, unsigned bits)
{
    const struct nbd_info infos[] = {
        {.type = NBD_INFO_NAME, .text = string_of(e->name)},
        {.type = NBD_INFO_DESCRIPTION, .text = string_of(e->description)},
        {.type = NBD_INFO_BLOCK_SIZE, .block = {e->min_block, e->preferred_block, NBD_MAX_PAYLOAD}},
        {.type = NBD_INFO_EXPORT, .exported = {nbds_export_size(e, true), nbds_export_flags(c, e)}},
    };
    int rc = 1;

    bits |= 1u << NBD_INFO_BLOCK_SIZE | 1u << NBD_INFO_EXPORT; /* whether asked for or not */
    if (e->description[0] == 0)
        bits &= ~(1u << NBD_INFO_DESCRIPTION);
    for (unsigned i = 0; rc > 0 && i < sizeof infos / sizeof infos[0]; i++)
        if (bits & 1u << infos[i].type)
            rc = reply_info(c, &infos[i]);
    return rc;
}

static int do_info(struct nbds_conn *c, const uint8_t *data, uint32_t len)
{
    bool go = c->option.option == NBD_OPT_GO;
    struct nbd_info_request request;

    if (nbd_info_request_get(data, len, &request) < 0)
        return nbds_option_error(c, NBD_REP_ERR_INVALID, "the data of the option is malformed");
    struct nbds_export *e = nbds_export_find(c->thread->server, request.name);
    if (!e)
        return nbds_option_error(c, NBD_REP_ERR_UNKNOWN, "there is no export of this name");
    unsigned bits = wanted(&request);
    c->asked_block_size |= bits >> NBD_INFO_BLOCK_SIZE & 1;
    int rc = reply_infos(c, e, bits);
    if (rc < 0)
        return rc;
    if (e->min_block > 1 && go && !c->asked_block_size)
        return nbds_option_error(c, NBD_REP_ERR_BLOCK_SIZE_REQD, "this export takes whole blocks only");
    if ((rc = ack(c)) < 0 || !go)
        return rc;
    assert(c->out_end > 0); /* the yes goes out before anything is read: server.h, invariant 4 */
    rc = nbds_transmission_begin(c, e);
    return rc < 0 ? rc : 1;
}

static int do_export_name(struct nbds_conn *c, const uint8_t *data, uint32_t len)
{
    struct nbds_export *e = NULL;

    if (nbd_string_valid(data, len))
        e = nbds_export_find(c->thread->server, (struct nbd_string){(const char *)data, len});
    /* With extended headers the protocol forbids this option; with larger blocks it has no way to say so. */
    if (!e || c->form == NBDS_EXTENDED || (e->min_block > 1 && !c->asked_block_size))
        return -EPROTO;
    size_t size = NBD_EXPORT_SIZE + (c->no_zeroes ? 0 : NBD_EXPORT_ZEROES);
    uint8_t *out = nbds_out(c, size);
    if (!out)
        return -ENOMEM;
    memset(out, 0, size);
    nbd_export_put(out, (struct nbd_export){nbds_export_size(e, true), nbds_export_flags(c, e)});
    int rc = nbds_transmission_begin(c, e);
    return rc < 0 ? rc : 1;
}

static int do_structured(struct nbds_conn *c, uint32_t len)
{
    if (len != 0)
        return no_data(c, len);
    if (c->form == NBDS_EXTENDED)
        return nbds_option_error(c, NBD_REP_ERR_EXT_HEADER_REQD, "extended headers are there already");
    if (c->form == NBDS_STRUCTURED)
        return nbds_option_error(c, NBD_REP_ERR_INVALID, "structured replies are there already");
    c->form = NBDS_STRUCTURED;
    return ack(c);
}

static int do_extended(struct nbds_conn *c, uint32_t len)
{
    if (len != 0)
        return no_data(c, len);
    if (c->form == NBDS_EXTENDED)
        return nbds_option_error(c, NBD_REP_ERR_INVALID, "extended headers are there already");
    c->form = NBDS_EXTENDED;
    return ack(c);
}

static int do_abort(struct nbds_conn *c)
{
    int rc = ack(c);

    c->ended = true; /* when that has been sent */
    return rc;
}

static int do_starttls(struct nbds_conn *c, uint32_t len)
{
    if (len != 0)
        return no_data(c, len);
    if (!c->thread->server->tls)
        return nbds_option_error(c, NBD_REP_ERR_POLICY, "TLS is not configured");
    if (c->secure)
        return nbds_option_error(c, NBD_REP_ERR_INVALID, "TLS is there already");
    c->starts_tls = true;
    return ack(c);
}

/* Who has to speak TLS first learns nothing before. */
static bool is_too_early(const struct nbds_conn *c)
{
    return c->thread->server->tls && !c->secure && c->option.option != NBD_OPT_STARTTLS &&
           c->option.option != NBD_OPT_ABORT && !NBD_MUTANT(TLS_OPTIONAL);
}

int nbds_option_do(struct nbds_conn *c, const uint8_t *data, uint32_t len)
{
    if (is_too_early(c))
        return c->option.option == NBD_OPT_EXPORT_NAME ? -EPROTO :
               nbds_option_error(c, NBD_REP_ERR_TLS_REQD, "TLS is required");
    switch (c->option.option) {
    case NBD_OPT_EXPORT_NAME:
        return do_export_name(c, data, len);
    case NBD_OPT_ABORT:
        return do_abort(c);
    case NBD_OPT_LIST:
        return do_list(c, len);
    case NBD_OPT_STARTTLS:
        return do_starttls(c, len);
    case NBD_OPT_INFO:
    case NBD_OPT_GO:
        return do_info(c, data, len);
    case NBD_OPT_STRUCTURED_REPLY:
        return do_structured(c, len);
    case NBD_OPT_LIST_META_CONTEXT:
    case NBD_OPT_SET_META_CONTEXT:
        return nbds_meta_option(c, data, len);
    case NBD_OPT_EXTENDED_HEADERS:
        return do_extended(c, len);
    default:
        return nbds_option_error(c, NBD_REP_ERR_UNSUP, "this option is not known");
    }
}
