/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Contexts of block status: which there are, which a client has chosen.
 *
 * Happy path: queries are gone through, a context that one of them meets is told once, by its number.
 * Failures: before structured replies, of an export that there is not, malformed: refused; then none is chosen.
 */
#include <assert.h>
#include <string.h>

#include "exports/nbd/server.h"

static const char *const context_names[NBDS_CONTEXTS] = {
    [NBDS_BASE_ALLOCATION] = "base:allocation",
    [NBDS_ALLOCATION_DEPTH] = "qemu:allocation-depth",
};

/* A list may be asked for by the namespace alone; to be set, a context is named. */
static bool meets(struct nbd_string query, const char *name, bool list)
{
    size_t prefix = (size_t)(strchr(name, ':') - name) + 1;

    return nbd_string_equals(query, name) ||
           (list && query.length == prefix && memcmp(query.text, name, prefix) == 0);
}

static uint32_t asked_for(const struct nbd_meta_request *request, bool list)
{
    uint32_t found = list && request->count == 0 ? (1u << NBDS_CONTEXTS) - 1 : 0;
    size_t at = 0;

    for (uint32_t i = 0; i < request->count; i++) {
        struct nbd_string query = nbd_meta_request_next(request, &at);
        for (unsigned k = 0; k < NBDS_CONTEXTS; k++)
            if (meets(query, context_names[k], list))
                found |= 1u << k;
    }
    return found;
}

int nbds_meta_option(struct nbds_conn *c, const uint8_t *data, uint32_t len)
{
    bool list = c->option.option == NBD_OPT_LIST_META_CONTEXT;
    struct nbd_meta_request request;

    if (!list) {
        c->context_export = NULL;
        c->contexts = 0;
    }
    if (c->form == NBDS_SIMPLE)
        return nbds_option_error(c, NBD_REP_ERR_INVALID, "structured replies come before contexts");
    if (nbd_meta_request_get(data, len, &request) < 0)
        return nbds_option_error(c, NBD_REP_ERR_INVALID, "the data of the option is malformed");
    struct nbds_export *e = nbds_export_find(c->thread->server, request.name);
    if (!e)
        return nbds_option_error(c, NBD_REP_ERR_UNKNOWN, "there is no export of this name");
    uint32_t found = asked_for(&request, list);
    if (!e->depth)
        found &= ~(1u << NBDS_ALLOCATION_DEPTH);
    assert(found >> NBDS_CONTEXTS == 0);
    for (unsigned k = 0; k < NBDS_CONTEXTS; k++) {
        uint8_t reply[64];
        struct nbd_string name = {context_names[k], (uint32_t)strlen(context_names[k])};

        if (!(found & 1u << k))
            continue;
        int rc = nbds_option_reply(c, NBD_REP_META_CONTEXT, reply, nbd_meta_put(reply, sizeof reply, k, name));
        if (rc < 0)
            return rc;
    }
    if (!list) {
        c->context_export = e;
        c->contexts = found;
    }
    return nbds_option_reply(c, NBD_REP_ACK, NULL, 0);
}
