/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The NBD server's handshake: whatever a client sends after the greeting. The first byte is how it is cut in
 * pieces. What the server says are replies of the protocol, until the transmission begins.
 */
#include "tests/fuzz/nbd_session.h"

static void judge(const struct wire *w)
{
    struct nbd_option_reply reply;
    size_t at = NBD_GREETING_SIZE;
    uint16_t flags;

    FUZZ_CHECK(w->out_len >= at && nbd_greeting_get(w->out, &flags) == 0, "no greeting");
    while (w->out_len - at >= NBD_OPTION_REPLY_SIZE && nbd_option_reply_get(w->out + at, &reply) == 0) {
        struct nbd_info info;
        const uint8_t *data = w->out + at + NBD_OPTION_REPLY_SIZE;

        FUZZ_CHECK(reply.length <= w->out_len - at - NBD_OPTION_REPLY_SIZE, "a reply is cut off");
        if (reply.type == NBD_REP_INFO)
            FUZZ_CHECK(nbd_info_get(data, reply.length, &info) == 0, "a malformed info");
        at += NBD_OPTION_REPLY_SIZE + reply.length;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 1 || size > SESSION_INPUT)
        return 0;
    struct wire *w = session_begin(data[0]);
    wire_send(w, data + 1, size - 1);
    session_settle(w);
    judge(w);
    session_end(w);
    return 0;
}
