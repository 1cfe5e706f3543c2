/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The NBD server's requests: whatever a client sends after a handshake. The first byte says which form of
 * replies it has negotiated, and how it is cut in pieces. What the server says are replies of that form.
 */
#include "tests/fuzz/nbd_session.h"

enum form { SIMPLE, STRUCTURED, EXTENDED };

static void option(struct wire *w, uint32_t number, const void *data, uint32_t len)
{
    uint8_t head[NBD_OPTION_SIZE];

    nbd_option_put(head, (struct nbd_option){number, len});
    wire_send(w, head, sizeof head);
    wire_send(w, data, len);
}

static void negotiate(struct wire *w, enum form form)
{
    static const struct nbd_string name = {"", 0};
    const struct nbd_string contexts[] = {{"base:allocation", 15}, {"qemu:allocation-depth", 21}};
    uint8_t data[128];

    wire_send(w, "\0\0\0\3", 4);
    if (form == STRUCTURED)
        option(w, NBD_OPT_STRUCTURED_REPLY, "", 0);
    if (form == EXTENDED)
        option(w, NBD_OPT_EXTENDED_HEADERS, "", 0);
    if (form != SIMPLE)
        option(w, NBD_OPT_SET_META_CONTEXT, data,
               (uint32_t)nbd_meta_request_put(data, sizeof data, name, contexts, 2));
    option(w, NBD_OPT_GO, data, (uint32_t)nbd_info_request_put(data, sizeof data, name, NULL, 0));
    session_settle(w);
}

/* Chunks whose payloads are what their types have. */
static void judge(const struct wire *w, size_t at, enum form form)
{
    struct nbd_reply reply;

    while (w->out_len - at >= 4) {
        size_t size = nbd_reply_size(w->out + at);
        const uint8_t *data = w->out + at + size;

        FUZZ_CHECK(size != 0 && size <= w->out_len - at && nbd_reply_get(w->out + at, &reply) == 0, "no reply");
        FUZZ_CHECK(reply.form == (form == EXTENDED ? NBD_REPLY_EXTENDED : NBD_REPLY_STRUCTURED), "another form");
        FUZZ_CHECK(reply.length <= w->out_len - at - size, "a reply is cut off");
        if (reply.type == NBD_REPLY_TYPE_ERROR)
            FUZZ_CHECK(nbd_error_chunk_get(data, reply.length, false, &(struct nbd_error_chunk){.error = 0}) == 0,
                       "a malformed error");
        if (reply.type == NBD_REPLY_TYPE_BLOCK_STATUS || reply.type == NBD_REPLY_TYPE_BLOCK_STATUS_EXT)
            FUZZ_CHECK(nbd_status_get(data, reply.length, form == EXTENDED, &(struct nbd_status){.count = 0}) == 0,
                       "a malformed status");
        at += size + reply.length;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 1 || size > SESSION_INPUT)
        return 0;
    enum form form = data[0] % 3;
    struct wire *w = session_begin(data[0]);
    negotiate(w, form);
    size_t begin = w->out_len;
    wire_send(w, data + 1, size - 1);
    session_settle(w);
    if (form != SIMPLE)
        judge(w, begin, form);
    session_end(w);
    return 0;
}
