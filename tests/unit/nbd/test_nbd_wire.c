/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * nbd/wire: known bytes are what the protocol has there; what is put is got again; a table of malformed input, and
 * whatever is valid at each shorter length. Each input lies at the end of its memory, so that a sanitizer sees who
 * looks behind it.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/base/bits.h"
#include "nbd/wire.h"

#define STRING(literal) ((struct nbd_string){literal, sizeof(literal) - 1})
#define BYTES(literal) literal, sizeof(literal) - 1

static void check_string(struct nbd_string s, const char *text)
{
    assert_int_equal(s.length, strlen(text));
    assert_memory_equal(s.text, text, s.length);
    assert_true(nbd_string_equals(s, text));
    assert_false(nbd_string_equals(s, "another one"));
}

static void test_known_bytes(void **state)
{
    uint8_t buf[64];
    struct nbd_request request = {.flags = NBD_CMD_FLAG_FUA, .type = NBD_CMD_WRITE, .cookie = 0x0102030405060708,
                                  .offset = 0x1112131415161718, .length = 0x21222324};
    struct nbd_reply reply = {.form = NBD_REPLY_SIMPLE, .error = NBD_EIO, .cookie = 0x0102030405060708};

    nbd_greeting_put(buf, NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES);
    assert_memory_equal(buf, "NBDMAGICIHAVEOPT\0\3", NBD_GREETING_SIZE);
    nbd_client_flags_put(buf, 3);
    assert_memory_equal(buf, "\0\0\0\3", NBD_CLIENT_FLAGS_SIZE);
    assert_int_equal(nbd_client_flags_get(buf), 3);
    nbd_option_put(buf, (struct nbd_option){NBD_OPT_GO, 9});
    assert_memory_equal(buf, "IHAVEOPT\0\0\0\7\0\0\0\11", NBD_OPTION_SIZE);
    nbd_option_reply_put(buf, (struct nbd_option_reply){NBD_OPT_LIST, NBD_REP_ERR_POLICY, 5});
    assert_memory_equal(buf, "\0\3\xe8\x89\4\x55\x65\xa9\0\0\0\3\x80\0\0\2\0\0\0\5", NBD_OPTION_REPLY_SIZE);
    nbd_export_put(buf, (struct nbd_export){1 << 20, NBD_FLAG_HAS_FLAGS | NBD_FLAG_SEND_FAST_ZERO});
    assert_memory_equal(buf, "\0\0\0\0\0\x10\0\0\x08\1", NBD_EXPORT_SIZE);
    nbd_request_put(buf, false, &request);
    assert_memory_equal(buf, "\x25\x60\x95\x13\0\1\0\1\1\2\3\4\5\6\7\x08"
                             "\x11\x12\x13\x14\x15\x16\x17\x18\x21\x22\x23\x24",
                        NBD_REQUEST_SIZE);
    nbd_request_put(buf, true, &request);
    assert_memory_equal(buf, "\x21\xe4\x1c\x71\0\1\0\1", 8);
    assert_memory_equal(buf + 24, "\0\0\0\0\x21\x22\x23\x24", 8);
    assert_int_equal(nbd_reply_put(buf, &reply), NBD_SIMPLE_REPLY_SIZE);
    assert_memory_equal(buf, "\x67\x44\x66\x98\0\0\0\5\1\2\3\4\5\6\7\x08", NBD_SIMPLE_REPLY_SIZE);
    reply.form = NBD_REPLY_STRUCTURED;
    reply.flags = NBD_REPLY_FLAG_DONE;
    reply.type = NBD_REPLY_TYPE_ERROR_OFFSET;
    reply.length = 14;
    assert_int_equal(nbd_reply_put(buf, &reply), NBD_CHUNK_SIZE);
    assert_memory_equal(buf, "\x66\x8e\x33\xef\0\1\x80\2\1\2\3\4\5\6\7\x08\0\0\0\16", NBD_CHUNK_SIZE);
    reply.form = NBD_REPLY_EXTENDED;
    reply.offset = 0x20;
    assert_int_equal(nbd_reply_put(buf, &reply), NBD_EXTENDED_CHUNK_SIZE);
    assert_memory_equal(buf, "\x6e\x8a\x27\x8c\0\1\x80\2\1\2\3\4\5\6\7\x08\0\0\0\0\0\0\0\x20\0\0\0\0\0\0\0\16",
                        NBD_EXTENDED_CHUNK_SIZE);
}

static void test_handshake_there_and_back(void **state)
{
    uint8_t buf[NBD_EXTENDED_CHUNK_SIZE];
    struct nbd_option option;
    struct nbd_option_reply reply;
    struct nbd_export info;
    uint16_t flags = 0;

    nbd_greeting_put(buf, 0x8003);
    assert_int_equal(nbd_greeting_get(buf, &flags), 0);
    assert_int_equal(flags, 0x8003);
    assert_false(nbd_is_oldstyle(buf));
    put_be64(buf + 8, NBD_OLDSTYLE_MAGIC);
    assert_int_equal(nbd_greeting_get(buf, &flags), -EPROTO);
    assert_true(nbd_is_oldstyle(buf));
    buf[0] ^= 1;
    assert_false(nbd_is_oldstyle(buf));
    nbd_option_put(buf, (struct nbd_option){0xfffffffe, 0xfffffffd});
    assert_int_equal(nbd_option_get(buf, &option), 0);
    assert_true(option.option == 0xfffffffe && option.length == 0xfffffffd);
    buf[7] ^= 1;
    assert_int_equal(nbd_option_get(buf, &option), -EPROTO);
    nbd_option_reply_put(buf, (struct nbd_option_reply){1, 2, 3});
    assert_int_equal(nbd_option_reply_get(buf, &reply), 0);
    assert_true(reply.option == 1 && reply.type == 2 && reply.length == 3);
    buf[0] ^= 1;
    assert_int_equal(nbd_option_reply_get(buf, &reply), -EPROTO);
    nbd_export_put(buf, (struct nbd_export){UINT64_MAX, 0xfffe});
    info = nbd_export_get(buf);
    assert_true(info.size == UINT64_MAX && info.flags == 0xfffe);
}

static void test_option_data_there_and_back(void **state)
{
    static const uint16_t types[] = {NBD_INFO_BLOCK_SIZE, 0x1234};
    const struct nbd_string queries[] = {STRING("base:allocation"), STRING(""), STRING("qemu:")};
    struct nbd_info_request infos;
    struct nbd_meta_request metas;
    struct nbd_string name, text;
    uint8_t buf[128];
    uint32_t id;
    size_t at = 0, len = nbd_info_request_put(buf, sizeof buf, STRING("disk"), types, 2);

    assert_int_equal(len, 4 + 4 + 2 + 4);
    assert_int_equal(nbd_info_request_put(buf, len - 1, STRING("disk"), types, 2), 0);
    assert_int_equal(nbd_info_request_get(buf, len, &infos), 0);
    check_string(infos.name, "disk");
    assert_int_equal(infos.count, 2);
    assert_int_equal(nbd_info_request_type(&infos, 1), 0x1234);
    len = nbd_meta_request_put(buf, sizeof buf, STRING("x"), queries, 3);
    assert_int_equal(len, 5 + 4 + 19 + 4 + 9);
    assert_int_equal(nbd_meta_request_put(buf, len - 1, STRING("x"), queries, 3), 0);
    assert_int_equal(nbd_meta_request_get(buf, len, &metas), 0);
    check_string(metas.name, "x");
    assert_int_equal(metas.count, 3);
    check_string(nbd_meta_request_next(&metas, &at), "base:allocation");
    check_string(nbd_meta_request_next(&metas, &at), "");
    check_string(nbd_meta_request_next(&metas, &at), "qemu:");
    len = nbd_server_put(buf, sizeof buf, STRING("name"), STRING("what it is"));
    assert_int_equal(nbd_server_put(buf, len - 1, STRING("name"), STRING("what it is")), 0);
    assert_int_equal(nbd_server_get(buf, len, &name, &text), 0);
    check_string(name, "name");
    check_string(text, "what it is");
    len = nbd_meta_put(buf, sizeof buf, 77, STRING("base:allocation"));
    assert_int_equal(nbd_meta_put(buf, len - 1, 77, STRING("base:allocation")), 0);
    assert_int_equal(nbd_meta_get(buf, len, &id, &name), 0);
    assert_int_equal(id, 77);
    check_string(name, "base:allocation");
}

static void test_infos(void **state)
{
    struct nbd_info info = {.type = NBD_INFO_EXPORT, .exported = {5, 6}}, got;
    uint8_t buf[32];
    size_t len = nbd_info_put(buf, sizeof buf, &info);

    assert_int_equal(len, 12);
    assert_int_equal(nbd_info_get(buf, len, &got), 0);
    assert_true(got.type == NBD_INFO_EXPORT && got.exported.size == 5 && got.exported.flags == 6);
    info = (struct nbd_info){.type = NBD_INFO_DESCRIPTION, .text = STRING("text")};
    len = nbd_info_put(buf, sizeof buf, &info);
    assert_int_equal(nbd_info_put(buf, len - 1, &info), 0);
    assert_int_equal(nbd_info_get(buf, len, &got), 0);
    check_string(got.text, "text");
    info = (struct nbd_info){.type = NBD_INFO_BLOCK_SIZE, .block = {1, 4096, 32 << 20}};
    len = nbd_info_put(buf, sizeof buf, &info);
    assert_int_equal(len, 14);
    assert_int_equal(nbd_info_get(buf, len, &got), 0);
    assert_true(got.block.minimum == 1 && got.block.preferred == 4096 && got.block.maximum == 32 << 20);
    memcpy(buf, "\x12\x34whatever", 10);
    assert_int_equal(nbd_info_get(buf, 10, &got), 0);
    assert_int_equal(got.type, 0x1234);
}

static void test_commands_there_and_back(void **state)
{
    const struct nbd_request request = {.flags = 0xfffe, .type = 9, .cookie = UINT64_MAX, .offset = UINT64_MAX - 1,
                                        .length = UINT32_MAX};
    struct nbd_request got;
    uint8_t buf[NBD_EXTENDED_REQUEST_SIZE];

    for (int extended = 0; extended < 2; extended++) {
        nbd_request_put(buf, extended, &request);
        assert_int_equal(nbd_request_get(buf, !extended, &got), -EPROTO);
        assert_int_equal(nbd_request_get(buf, extended, &got), 0);
        assert_true(got.flags == request.flags && got.type == request.type && got.cookie == request.cookie &&
                    got.offset == request.offset && got.length == request.length);
    }
    assert_true(nbd_request_has_payload(&(struct nbd_request){.type = NBD_CMD_WRITE}, false));
    assert_true(nbd_request_has_payload(&(struct nbd_request){.type = NBD_CMD_WRITE}, true));
    got = (struct nbd_request){.type = NBD_CMD_BLOCK_STATUS, .flags = NBD_CMD_FLAG_PAYLOAD_LEN};
    assert_true(nbd_request_has_payload(&got, true));
    assert_false(nbd_request_has_payload(&got, false));
}

static void test_replies_there_and_back(void **state)
{
    uint8_t buf[NBD_EXTENDED_CHUNK_SIZE];
    struct nbd_reply got;

    for (unsigned form = NBD_REPLY_SIMPLE; form <= NBD_REPLY_EXTENDED; form++) {
        struct nbd_reply reply = {.form = form, .cookie = 42};

        if (form == NBD_REPLY_SIMPLE) {
            reply.error = 5;
        } else {
            reply.flags = NBD_REPLY_FLAG_DONE;
            reply.type = NBD_REPLY_TYPE_OFFSET_DATA;
            reply.length = UINT32_MAX;
            reply.offset = form == NBD_REPLY_EXTENDED ? UINT64_MAX : 0;
        }
        size_t size = nbd_reply_put(buf, &reply);
        assert_int_equal(nbd_reply_size(buf), size);
        assert_int_equal(nbd_reply_get(buf, &got), 0);
        assert_true(got.form == form && got.cookie == 42 && got.error == reply.error && got.flags == reply.flags &&
                    got.type == reply.type && got.length == reply.length && got.offset == reply.offset);
        buf[3] ^= 1;
        assert_int_equal(nbd_reply_size(buf), 0);
        assert_int_equal(nbd_reply_get(buf, &got), -EPROTO);
    }
}

static void test_chunks_there_and_back(void **state)
{
    struct nbd_error_chunk error = {.error = NBD_ENOSPC, .message = STRING("full"), .offset = 512}, got;
    struct nbd_status status;
    struct nbd_descriptor d;
    uint8_t buf[64];
    uint64_t offset;
    uint32_t length;

    nbd_offset_data_put(buf, UINT64_MAX);
    assert_true(nbd_offset_data_get(buf) == UINT64_MAX);
    nbd_offset_hole_put(buf, 7, 8);
    assert_int_equal(nbd_offset_hole_get(buf, NBD_OFFSET_HOLE_SIZE, &offset, &length), 0);
    assert_true(offset == 7 && length == 8);
    for (int with_offset = 0; with_offset < 2; with_offset++) {
        size_t len = nbd_error_chunk_put(buf, sizeof buf, with_offset, &error);

        assert_int_equal(len, with_offset ? 18 : 10);
        assert_int_equal(nbd_error_chunk_put(buf, len - 1, with_offset, &error), 0);
        assert_int_equal(nbd_error_chunk_get(buf, len, with_offset, &got), 0);
        check_string(got.message, "full");
        assert_true(got.error == NBD_ENOSPC && got.offset == (with_offset ? 512 : 0));
    }
    for (int extended = 0; extended < 2; extended++) {
        size_t len = nbd_status_size(extended, 2);
        uint64_t most = extended ? UINT64_MAX : UINT32_MAX;

        assert_int_equal(len, extended ? 40 : 20);
        nbd_status_put(buf, extended, 3, 2);
        nbd_status_descriptor_put(buf, extended, 0, (struct nbd_descriptor){1, NBD_STATE_HOLE});
        nbd_status_descriptor_put(buf, extended, 1, (struct nbd_descriptor){most, most - 1});
        assert_int_equal(nbd_status_get(buf, len, extended, &status), 0);
        assert_true(status.context == 3 && status.count == 2);
        d = nbd_status_descriptor(&status, 1);
        assert_true(d.length == most && d.flags == most - 1);
    }
}

static void test_status_payload(void **state)
{
    static const uint8_t bytes[16] = {[6] = 2, [11] = 1, [15] = 5};
    struct nbd_status_payload p;

    assert_int_equal(nbd_status_payload_get(bytes, sizeof bytes, &p), 0);
    assert_int_equal(p.effect, 512);
    assert_int_equal(p.count, 2);
    assert_int_equal(nbd_status_payload_id(&p, 1), 5);
}

static void test_errors(void **state)
{
    static const struct {
        int rc, wire, back;
    } table[] = {
        {0, 0, 0},
        {-EPERM, NBD_EPERM, -EPERM},
        {-EROFS, NBD_EPERM, -EPERM},
        {-EACCES, NBD_EPERM, -EPERM},
        {-EIO, NBD_EIO, -EIO},
        {-ENOMEM, NBD_ENOMEM, -ENOMEM},
        {-EINVAL, NBD_EINVAL, -EINVAL},
        {-ENOSPC, NBD_ENOSPC, -ENOSPC},
        {-EDQUOT, NBD_ENOSPC, -ENOSPC},
        {-EFBIG, NBD_ENOSPC, -ENOSPC},
        {-EOVERFLOW, NBD_EOVERFLOW, -EOVERFLOW},
        {-ENOTSUP, NBD_ENOTSUP, -ENOTSUP},
        {-ESHUTDOWN, NBD_ESHUTDOWN, -ESHUTDOWN},
        {-EREMOTEIO, NBD_EIO, -EIO},
    };

    for (size_t i = 0; i < ARRAY_LEN(table); i++) {
        assert_int_equal(nbd_error_of(table[i].rc), table[i].wire);
        assert_int_equal(nbd_error_errno((uint32_t)table[i].wire), table[i].back);
    }
    assert_int_equal(nbd_error_errno(2), -EINVAL);
    assert_int_equal(nbd_error_errno(UINT32_MAX), -EINVAL);
}

/* ---- malformed input ------------------------------------------------------------------------------------ */

static int info_request(const uint8_t *data, size_t len)
{
    return nbd_info_request_get(data, len, &(struct nbd_info_request){.count = 0});
}

static int meta_request(const uint8_t *data, size_t len)
{
    struct nbd_meta_request r;
    int rc = nbd_meta_request_get(data, len, &r);
    size_t at = 0;

    for (uint32_t i = 0; rc == 0 && i < r.count; i++)
        nbd_meta_request_next(&r, &at);
    return rc;
}

static int server(const uint8_t *data, size_t len)
{
    return nbd_server_get(data, len, &(struct nbd_string){.length = 0}, &(struct nbd_string){.length = 0});
}

static int meta(const uint8_t *data, size_t len)
{
    return nbd_meta_get(data, len, &(uint32_t){0}, &(struct nbd_string){.length = 0});
}

static int info(const uint8_t *data, size_t len)
{
    return nbd_info_get(data, len, &(struct nbd_info){.type = 0});
}

static int hole(const uint8_t *data, size_t len)
{
    return nbd_offset_hole_get(data, len, &(uint64_t){0}, &(uint32_t){0});
}

static int error(const uint8_t *data, size_t len)
{
    return nbd_error_chunk_get(data, len, false, &(struct nbd_error_chunk){.error = 0});
}

static int error_offset(const uint8_t *data, size_t len)
{
    return nbd_error_chunk_get(data, len, true, &(struct nbd_error_chunk){.error = 0});
}

static int status_compact(const uint8_t *data, size_t len)
{
    return nbd_status_get(data, len, false, &(struct nbd_status){.count = 0});
}

static int status_extended(const uint8_t *data, size_t len)
{
    return nbd_status_get(data, len, true, &(struct nbd_status){.count = 0});
}

static int status_payload(const uint8_t *data, size_t len)
{
    return nbd_status_payload_get(data, len, &(struct nbd_status_payload){.count = 0});
}

typedef int read_fn(const uint8_t *data, size_t len);

/* What the function makes of the bytes when they end where their memory does. */
static int at_the_end(read_fn *fn, const char *bytes, size_t len)
{
    uint8_t *copy = malloc(len ? len : 1);

    assert_non_null(copy);
    memcpy(copy, bytes, len);
    int rc = fn(len ? copy : copy + 1, len);
    free(copy);
    return rc;
}

static void test_malformed(void **state)
{
    static const struct {
        const char *what;
        read_fn    *fn;
        const char *bytes;
        size_t      len;
    } table[] = {
        {"name behind the end", info_request, BYTES("\0\0\0\5disk\0\0")},
        {"name of 4 GiB", info_request, BYTES("\xff\xff\xff\xff" "disk\0\0")},
        {"NUL in a name", info_request, BYTES("\0\0\0\4di\0k\0\0")},
        {"fewer infos than said", info_request, BYTES("\0\0\0\0\0\2\0\1")},
        {"more infos than said", info_request, BYTES("\0\0\0\0\0\1\0\1\0\2")},
        {"half an info", info_request, BYTES("\0\0\0\0\0\1\0")},
        {"no count of queries", meta_request, BYTES("\0\0\0\1x")},
        {"4 G queries", meta_request, BYTES("\0\0\0\1x\xff\xff\xff\xff\0\0\0\0")},
        {"query behind the end", meta_request, BYTES("\0\0\0\1x\0\0\0\1\0\0\0\5base")},
        {"query of 4 GiB", meta_request, BYTES("\0\0\0\1x\0\0\0\1\xff\xff\xff\xff")},
        {"bytes after the queries", meta_request, BYTES("\0\0\0\1x\0\0\0\1\0\0\0\4base!")},
        {"server's name behind the end", server, BYTES("\0\0\0\5name")},
        {"NUL in a description", server, BYTES("\0\0\0\1xa\0b")},
        {"no id", meta, BYTES("\0\0\1")},
        {"no type", info, BYTES("\0")},
        {"short size", info, BYTES("\0\0\0\0\0\0\0\0\0\0\0")},
        {"long size", info, BYTES("\0\0\0\0\0\0\0\0\0\0\0\0\0")},
        {"minimum is 0", info, BYTES("\0\3\0\0\0\0\0\0\x10\0\2\0\0\0")},
        {"minimum is no power", info, BYTES("\0\3\0\0\0\3\0\0\x10\0\2\0\0\0")},
        {"minimum is 128 KiB", info, BYTES("\0\3\0\2\0\0\0\2\0\0\2\0\0\0")},
        {"preferred is below the minimum", info, BYTES("\0\3\0\0\x10\0\0\0\x02\0\2\0\0\0")},
        {"preferred is below 512", info, BYTES("\0\3\0\0\0\1\0\0\1\0\2\0\0\0")},
        {"maximum is below the preferred", info, BYTES("\0\3\0\0\0\1\0\0\x10\0\0\0\x08\0")},
        {"maximum is no multiple", info, BYTES("\0\3\0\0\2\0\0\0\x10\0\2\0\0\1")},
        {"short block size", info, BYTES("\0\3\0\0\0\1\0\0\x10\0\2\0\0")},
        {"hole of 0", hole, BYTES("\0\0\0\0\0\0\0\0\0\0\0\0")},
        {"long hole", hole, BYTES("\0\0\0\0\0\0\0\0\0\0\0\1\0")},
        {"error 0", error, BYTES("\0\0\0\0\0\0")},
        {"message behind the end", error, BYTES("\0\0\0\5\0\2x")},
        {"bytes after the message", error, BYTES("\0\0\0\5\0\1xy")},
        {"NUL in a message", error, BYTES("\0\0\0\5\0\2x\0")},
        {"no offset", error_offset, BYTES("\0\0\0\5\0\0")},
        {"message in the offset's place", error_offset, BYTES("\0\0\0\5\0\2xy\0\0\0\0\0\0")},
        {"no descriptor", status_compact, BYTES("\0\0\0\1")},
        {"descriptor of 0", status_compact, BYTES("\0\0\0\1\0\0\0\0\0\0\0\1")},
        {"a descriptor and a half", status_compact, BYTES("\0\0\0\1\0\0\0\1\0\0\0\1\0\0\0\1")},
        {"no long descriptor", status_extended, BYTES("\0\0\0\1\0\0\0\0")},
        {"another count", status_extended, BYTES("\0\0\0\1\0\0\0\2\0\0\0\0\0\0\0\1\0\0\0\0\0\0\0\1")},
        {"long descriptor of 0", status_extended, BYTES("\0\0\0\1\0\0\0\1\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\1")},
        {"short payload", status_payload, BYTES("\0\0\0\0\0\0\0")},
        {"half an id", status_payload, BYTES("\0\0\0\0\0\0\2\0\0\0")},
    };

    for (size_t i = 0; i < ARRAY_LEN(table); i++)
        if (at_the_end(table[i].fn, table[i].bytes, table[i].len) != -EPROTO)
            fail_msg("%s: accepted", table[i].what);
}

/* Of something valid no shorter part is, but where the last string may have any length. */
static void test_cut_off(void **state)
{
    static const struct {
        read_fn    *fn;
        const char *bytes;
        size_t      len, least;
    } table[] = {
        {info_request, BYTES("\0\0\0\4disk\0\2\0\1\0\3"), 14},
        {meta_request, BYTES("\0\0\0\1x\0\0\0\2\0\0\0\4base\0\0\0\1q"), 22},
        {server, BYTES("\0\0\0\4nametext"), 8},
        {meta, BYTES("\0\0\0\1base"), 4},
        {info, BYTES("\0\0\0\0\0\0\0\0\0\0\0\0"), 12},
        {info, BYTES("\0\1name"), 2},
        {info, BYTES("\0\3\0\0\0\1\0\0\x10\0\2\0\0\0"), 14},
        {hole, BYTES("\0\0\0\0\0\0\0\0\0\0\0\1"), 12},
        {error, BYTES("\0\0\0\5\0\1x"), 7},
        {error_offset, BYTES("\0\0\0\5\0\1x\0\0\0\0\0\0\0\1"), 15},
        {status_compact, BYTES("\0\0\0\1\0\0\0\1\0\0\0\1"), 12},
        {status_extended, BYTES("\0\0\0\1\0\0\0\1\0\0\0\0\0\0\0\1\0\0\0\0\0\0\0\1"), 24},
        {status_payload, BYTES("\0\0\0\0\0\0\2\0"), 8},
    };

    for (size_t i = 0; i < ARRAY_LEN(table); i++)
        for (size_t len = 0; len <= table[i].len; len++)
            if (at_the_end(table[i].fn, table[i].bytes, len) != (len < table[i].least ? -EPROTO : 0))
                fail_msg("line %zu at %zu bytes", i, len);
}

static void test_strings(void **state)
{
    char *text = malloc(NBD_MAX_STRING + 1);

    assert_non_null(text);
    memset(text, 'x', NBD_MAX_STRING + 1);
    assert_true(nbd_string_valid(text, NBD_MAX_STRING));
    assert_false(nbd_string_valid(text, NBD_MAX_STRING + 1));
    text[NBD_MAX_STRING - 1] = 0;
    assert_true(nbd_string_valid(text, NBD_MAX_STRING - 1));
    assert_false(nbd_string_valid(text, NBD_MAX_STRING));
    free(text);
}

static void test_names(void **state)
{
    assert_string_equal(nbd_option_name(NBD_OPT_GO), "GO");
    assert_string_equal(nbd_option_name(4), "unknown");
    assert_string_equal(nbd_option_name(UINT32_MAX), "unknown");
    assert_string_equal(nbd_command_name(NBD_CMD_TRIM), "trim");
    assert_string_equal(nbd_command_name(UINT16_MAX), "unknown");
    assert_string_equal(nbd_option_error_name(NBD_REP_ERR_UNKNOWN), "no such export");
    assert_string_equal(nbd_option_error_name(NBD_REP_ACK), "unknown");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_known_bytes),
        cmocka_unit_test(test_handshake_there_and_back),
        cmocka_unit_test(test_option_data_there_and_back),
        cmocka_unit_test(test_infos),
        cmocka_unit_test(test_commands_there_and_back),
        cmocka_unit_test(test_replies_there_and_back),
        cmocka_unit_test(test_chunks_there_and_back),
        cmocka_unit_test(test_status_payload),
        cmocka_unit_test(test_errors),
        cmocka_unit_test(test_malformed),
        cmocka_unit_test(test_cut_off),
        cmocka_unit_test(test_strings),
        cmocka_unit_test(test_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
