/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Happy path: a connection, greeted (talk.c); extended headers, else structured replies; the context
 * base:allocation; GO, whose answer tells the size, what can be done, and the sizes of blocks.
 * Failure modes: those of a connection; no such export (-ENOENT); refused for another reason, which the server
 * gives; what comes is not the protocol, or without end (-EPROTO).
 *
 * A server is not trusted: the number of replies to one option is bounded.
 */
#include <errno.h>
#include <string.h>

#include "backends/nbd/talk.h"
#include "engine/base/bits.h"

static const char allocation[] = "base:allocation";

static int take_context(struct nbd_talk *t, const struct nbd_option_reply *r)
{
    struct nbd_string name;
    uint32_t id;

    if (r->type != NBD_REP_META_CONTEXT || nbd_meta_get(t->data, r->length, &id, &name) < 0)
        return nbd_talk_breach(t, NBD_OPT_SET_META_CONTEXT, "not a context");
    if (!nbd_string_equals(name, allocation) || t->terms->has_context)
        return nbd_talk_breach(t, NBD_OPT_SET_META_CONTEXT, "a context that was not asked for");
    t->terms->has_context = true;
    t->terms->context = id;
    return 0;
}

static int ask_for_context(struct nbd_talk *t)
{
    const uint32_t option = NBD_OPT_SET_META_CONTEXT;
    struct nbd_string query = nbd_string_of(allocation);
    uint8_t data[NBD_MAX_STRING + 64];
    size_t len = nbd_meta_request_put(data, sizeof data, nbd_string_of(t->place->export), &query, 1);
    struct nbd_option_reply r;
    int rc;

    assert(len > 0);
    rc = nbd_talk_send(t, option, data, len);
    for (unsigned i = 0; rc == 0 && i < NBD_REPLIES_MAX; i++) {
        rc = nbd_talk_reply(t, option, &r);
        if (rc < 0)
            return rc;
        if (nbd_reply_is_error(&r)) {
            t->terms->has_context = false; /* what is wrong with the export GO will tell */
            return 0;
        }
        if (r.type == NBD_REP_ACK)
            return r.length == 0 ? 0 : nbd_talk_breach(t, option, "data behind its yes");
        rc = take_context(t, &r);
    }
    return rc < 0 ? rc : nbd_talk_breach(t, option, "it has no end");
}

/* ---- the export ------------------------------------------------------------------------------------------ */

static int take_info(struct nbd_talk *t, const struct nbd_option_reply *r, bool *ret_has)
{
    struct nbd_info info;

    if (r->type != NBD_REP_INFO || nbd_info_get(t->data, r->length, &info) < 0)
        return nbd_talk_breach(t, NBD_OPT_GO, "not a piece of information");
    if (info.type == NBD_INFO_EXPORT) {
        t->terms->size = info.exported.size;
        t->terms->flags = info.exported.flags;
        *ret_has = true;
    } else if (info.type == NBD_INFO_BLOCK_SIZE) {
        if (!nbd_block_size_valid(&info.block))
            return nbd_talk_breach(t, NBD_OPT_GO, "its sizes of blocks are none");
        t->terms->block = info.block;
        t->terms->has_block = true;
    }
    return 0;
}

/* 1: done; 0: the server does not know it. */
static int go(struct nbd_talk *t)
{
    static const uint16_t types[] = {NBD_INFO_BLOCK_SIZE};
    uint8_t data[NBD_MAX_STRING + 64];
    size_t len = nbd_info_request_put(data, sizeof data, nbd_string_of(t->place->export), types, ARRAY_LEN(types));
    struct nbd_option_reply r;
    bool has_export = false;
    int rc;

    assert(len > 0);
    rc = nbd_talk_send(t, NBD_OPT_GO, data, len);
    for (unsigned i = 0; rc == 0 && i < NBD_REPLIES_MAX; i++) {
        rc = nbd_talk_reply(t, NBD_OPT_GO, &r);
        if (rc < 0)
            return rc;
        if (r.type == NBD_REP_ERR_UNSUP)
            return 0;
        if (nbd_reply_is_error(&r))
            return nbd_talk_refused(t, NBD_OPT_GO, &r);
        if (r.type == NBD_REP_ACK)
            return has_export && r.length == 0 ? 1 : nbd_talk_breach(t, NBD_OPT_GO, "it does not tell the export");
        rc = take_info(t, &r, &has_export);
    }
    return rc < 0 ? rc : nbd_talk_breach(t, NBD_OPT_GO, "it has no end");
}

/* The old way: a server that does not like it hangs up. */
static int export_name(struct nbd_talk *t)
{
    uint8_t buf[NBD_EXPORT_SIZE + NBD_EXPORT_ZEROES];
    struct nbd_export export;
    int rc = nbd_talk_send(t, NBD_OPT_EXPORT_NAME, (const uint8_t *)t->place->export, strlen(t->place->export));

    if (rc == 0)
        rc = nbd_talk_get(t, buf, NBD_EXPORT_SIZE + (t->no_zeroes ? 0 : NBD_EXPORT_ZEROES));
    if (rc < 0)
        return rc;
    export = nbd_export_get(buf);
    t->terms->size = export.size;
    t->terms->flags = export.flags;
    return 0;
}

static int check_terms(struct nbd_talk *t)
{
    struct nbd_terms *e = t->terms;

    if (!(e->flags & NBD_FLAG_HAS_FLAGS))
        return nbd_talk_fail(t, -EPROTO, "the server does not tell what the export can do");
    if (e->size > INT64_MAX)
        return nbd_talk_fail(t, -EFBIG, "the export says that it has more than 2^63 bytes");
    if (e->has_block && !is_aligned(e->size, e->block.minimum))
        return nbd_talk_fail(t, -EINVAL, "the export has %llu bytes, which is no multiple of its block size, %u",
                             (unsigned long long)e->size, e->block.minimum);
    return 0;
}

int nbd_talk_forms(struct nbd_talk *t)
{
    struct nbd_terms *e = t->terms;
    int rc = nbd_talk_ask(t, NBD_OPT_EXTENDED_HEADERS);

    if (rc < 0)
        return rc;
    e->extended = e->structured = rc == 1;
    if (e->structured)
        return 0;
    rc = nbd_talk_ask(t, NBD_OPT_STRUCTURED_REPLY);
    e->structured = rc == 1;
    return rc < 0 ? rc : 0;
}

int nbd_talk_agree(struct nbd_talk *t)
{
    int rc = nbd_talk_forms(t);

    if (rc == 0 && t->terms->structured)
        rc = ask_for_context(t);
    if (rc == 0)
        rc = go(t);
    if (rc == 0)
        rc = export_name(t);
    return rc < 0 ? rc : check_terms(t);
}

int nbd_dial(const struct nbd_place *place, struct nbd_terms *ret, struct nbd_socket *ret_socket, char *why)
{
    struct nbd_talk *t = nbd_talk_new(place, ret, why);
    int rc = t ? nbd_talk_connect(t) : -ENOMEM;

    if (rc == 0)
        rc = nbd_talk_greet(t);
    if (rc == 0)
        rc = nbd_talk_agree(t);
    if (rc == 0) {
        *ret_socket = t->socket;
        t->socket = (struct nbd_socket){.fd = -1};
        assert(ret_socket->fd >= 0 && !ret_socket->tls == !place->tls); /* client.h, invariant 7 */
    }
    nbd_talk_free(t);
    return rc;
}
