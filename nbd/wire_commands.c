/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The bytes of commands and of their replies; numbers of errors; words for people.
 *
 * Happy path: a header is read by its places, a payload after its length has been judged.
 * Failures: another magic number, a payload whose length its type does not have, a descriptor of no length, an
 * error that is none: -EPROTO.
 */
#include "nbd/wire.h"

#include <errno.h>

#include "engine/base/bits.h"

int nbd_request_get(const uint8_t *buf, bool extended, struct nbd_request *ret)
{
    if (get_be32(buf) != (extended ? NBD_EXTENDED_REQUEST_MAGIC : NBD_REQUEST_MAGIC))
        return -EPROTO;
    ret->flags = get_be16(buf + 4);
    ret->type = get_be16(buf + 6);
    ret->cookie = get_be64(buf + 8);
    ret->offset = get_be64(buf + 16);
    ret->length = extended ? get_be64(buf + 24) : get_be32(buf + 24);
    return 0;
}

void nbd_request_put(uint8_t *buf, bool extended, const struct nbd_request *request)
{
    put_be32(buf, extended ? NBD_EXTENDED_REQUEST_MAGIC : NBD_REQUEST_MAGIC);
    put_be16(buf + 4, request->flags);
    put_be16(buf + 6, request->type);
    put_be64(buf + 8, request->cookie);
    put_be64(buf + 16, request->offset);
    if (extended) {
        put_be64(buf + 24, request->length);
    } else {
        assert(request->length <= UINT32_MAX);
        put_be32(buf + 24, (uint32_t)request->length);
    }
}

bool nbd_request_has_payload(const struct nbd_request *request, bool extended)
{
    return request->type == NBD_CMD_WRITE || (extended && (request->flags & NBD_CMD_FLAG_PAYLOAD_LEN) != 0);
}

int nbd_status_payload_get(const uint8_t *data, size_t len, struct nbd_status_payload *ret)
{
    if (len < NBD_STATUS_PAYLOAD_SIZE || (len - NBD_STATUS_PAYLOAD_SIZE) % 4 != 0 || len > NBD_MAX_PAYLOAD)
        return -EPROTO;
    ret->effect = get_be64(data);
    ret->count = (unsigned)((len - NBD_STATUS_PAYLOAD_SIZE) / 4);
    ret->ids = data + NBD_STATUS_PAYLOAD_SIZE;
    return 0;
}

uint32_t nbd_status_payload_id(const struct nbd_status_payload *payload, unsigned index)
{
    assert(index < payload->count);
    return get_be32(payload->ids + 4 * (size_t)index);
}

uint32_t nbd_error_of(int rc)
{
    switch (-rc) {
    case 0:
        return NBD_SUCCESS;
    case EPERM:
    case EACCES:
    case EROFS:
        return NBD_EPERM;
    case ENOMEM:
        return NBD_ENOMEM;
    case EINVAL:
        return NBD_EINVAL;
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
        return NBD_ENOSPC;
    case EOVERFLOW:
        return NBD_EOVERFLOW;
    case EOPNOTSUPP: /* and ENOTSUP */
        return NBD_ENOTSUP;
    case ESHUTDOWN:
        return NBD_ESHUTDOWN;
    default:
        return NBD_EIO;
    }
}

int nbd_error_errno(uint32_t error)
{
    switch (error) {
    case NBD_SUCCESS:
        return 0;
    case NBD_EPERM:
        return -EPERM;
    case NBD_EIO:
        return -EIO;
    case NBD_ENOMEM:
        return -ENOMEM;
    case NBD_ENOSPC:
        return -ENOSPC;
    case NBD_EOVERFLOW:
        return -EOVERFLOW;
    case NBD_ENOTSUP:
        return -ENOTSUP;
    case NBD_ESHUTDOWN:
        return -ESHUTDOWN;
    default:
        return -EINVAL;
    }
}

size_t nbd_reply_size(const uint8_t magic[static 4])
{
    switch (get_be32(magic)) {
    case NBD_SIMPLE_REPLY_MAGIC:
        return NBD_SIMPLE_REPLY_SIZE;
    case NBD_STRUCTURED_REPLY_MAGIC:
        return NBD_CHUNK_SIZE;
    case NBD_EXTENDED_REPLY_MAGIC:
        return NBD_EXTENDED_CHUNK_SIZE;
    default:
        return 0;
    }
}

int nbd_reply_get(const uint8_t *buf, struct nbd_reply *ret)
{
    size_t size = nbd_reply_size(buf);

    if (size == 0)
        return -EPROTO;
    *ret = (struct nbd_reply){.form = NBD_REPLY_SIMPLE, .cookie = get_be64(buf + 8)};
    if (size == NBD_SIMPLE_REPLY_SIZE) {
        ret->error = get_be32(buf + 4);
        return 0;
    }
    ret->flags = get_be16(buf + 4);
    ret->type = get_be16(buf + 6);
    if (size == NBD_CHUNK_SIZE) {
        ret->form = NBD_REPLY_STRUCTURED;
        ret->length = get_be32(buf + 16);
    } else {
        ret->form = NBD_REPLY_EXTENDED;
        ret->offset = get_be64(buf + 16);
        ret->length = get_be64(buf + 24);
    }
    return 0;
}

size_t nbd_reply_put(uint8_t *buf, const struct nbd_reply *reply)
{
    put_be64(buf + 8, reply->cookie);
    if (reply->form == NBD_REPLY_SIMPLE) {
        put_be32(buf, NBD_SIMPLE_REPLY_MAGIC);
        put_be32(buf + 4, reply->error);
        return NBD_SIMPLE_REPLY_SIZE;
    }
    assert(reply->type != NBD_REPLY_TYPE_NONE || (reply->flags & NBD_REPLY_FLAG_DONE && reply->length == 0));
    put_be16(buf + 4, reply->flags);
    put_be16(buf + 6, reply->type);
    if (reply->form == NBD_REPLY_STRUCTURED) {
        assert(reply->length <= UINT32_MAX);
        put_be32(buf, NBD_STRUCTURED_REPLY_MAGIC);
        put_be32(buf + 16, (uint32_t)reply->length);
        return NBD_CHUNK_SIZE;
    }
    put_be32(buf, NBD_EXTENDED_REPLY_MAGIC);
    put_be64(buf + 16, reply->offset);
    put_be64(buf + 24, reply->length);
    return NBD_EXTENDED_CHUNK_SIZE;
}

uint64_t nbd_offset_data_get(const uint8_t buf[static NBD_OFFSET_DATA_SIZE])
{
    return get_be64(buf);
}

void nbd_offset_data_put(uint8_t buf[static NBD_OFFSET_DATA_SIZE], uint64_t offset)
{
    put_be64(buf, offset);
}

int nbd_offset_hole_get(const uint8_t *data, size_t len, uint64_t *ret_offset, uint32_t *ret_length)
{
    if (len != NBD_OFFSET_HOLE_SIZE || get_be32(data + 8) == 0)
        return -EPROTO;
    *ret_offset = get_be64(data);
    *ret_length = get_be32(data + 8);
    return 0;
}

void nbd_offset_hole_put(uint8_t buf[static NBD_OFFSET_HOLE_SIZE], uint64_t offset, uint32_t length)
{
    assert(length != 0);
    put_be64(buf, offset);
    put_be32(buf + 8, length);
}

int nbd_error_chunk_get(const uint8_t *data, size_t len, bool with_offset, struct nbd_error_chunk *ret)
{
    size_t after = with_offset ? 8 : 0;

    if (len < NBD_ERROR_SIZE + after || get_be16(data + 4) != len - NBD_ERROR_SIZE - after || get_be32(data) == 0)
        return -EPROTO;
    uint16_t message = get_be16(data + 4);
    if (!nbd_string_valid(data + NBD_ERROR_SIZE, message))
        return -EPROTO;
    ret->error = get_be32(data);
    ret->message = (struct nbd_string){(const char *)data + NBD_ERROR_SIZE, message};
    ret->offset = with_offset ? get_be64(data + NBD_ERROR_SIZE + message) : 0;
    return 0;
}

size_t nbd_error_chunk_put(uint8_t *buf, size_t size, bool with_offset, const struct nbd_error_chunk *chunk)
{
    size_t len = NBD_ERROR_SIZE + (size_t)chunk->message.length + (with_offset ? 8 : 0);

    assert(chunk->error != 0 && nbd_string_valid(chunk->message.text, chunk->message.length));
    if (len > size)
        return 0;
    put_be32(buf, chunk->error);
    put_be16(buf + 4, (uint16_t)chunk->message.length);
    memcpy(buf + NBD_ERROR_SIZE, chunk->message.text, chunk->message.length);
    if (with_offset)
        put_be64(buf + NBD_ERROR_SIZE + chunk->message.length, chunk->offset);
    return len;
}

static size_t status_head(bool extended)
{
    return extended ? NBD_STATUS_EXT_SIZE : NBD_STATUS_SIZE;
}

static size_t descriptor_size(bool extended)
{
    return extended ? NBD_DESCRIPTOR_EXT_SIZE : NBD_DESCRIPTOR_SIZE;
}

int nbd_status_get(const uint8_t *data, size_t len, bool extended, struct nbd_status *ret)
{
    size_t head = status_head(extended), each = descriptor_size(extended);

    if (len < head + each || (len - head) % each != 0 || (len - head) / each > UINT32_MAX)
        return -EPROTO;
    struct nbd_status s = {
        .context = get_be32(data),
        .count = (unsigned)((len - head) / each),
        .extended = extended,
        .descriptors = data + head,
    };
    if (extended && get_be32(data + 4) != s.count)
        return -EPROTO;
    for (unsigned i = 0; i < s.count; i++)
        if (nbd_status_descriptor(&s, i).length == 0)
            return -EPROTO;
    *ret = s;
    return 0;
}

struct nbd_descriptor nbd_status_descriptor(const struct nbd_status *status, unsigned index)
{
    assert(index < status->count);
    const uint8_t *at = status->descriptors + index * descriptor_size(status->extended);

    if (status->extended)
        return (struct nbd_descriptor){.length = get_be64(at), .flags = get_be64(at + 8)};
    return (struct nbd_descriptor){.length = get_be32(at), .flags = get_be32(at + 4)};
}

size_t nbd_status_size(bool extended, unsigned count)
{
    return status_head(extended) + count * descriptor_size(extended);
}

void nbd_status_put(uint8_t *buf, bool extended, uint32_t context, unsigned count)
{
    assert(count != 0);
    put_be32(buf, context);
    if (extended)
        put_be32(buf + 4, count);
}

void nbd_status_descriptor_put(uint8_t *buf, bool extended, unsigned index, struct nbd_descriptor descriptor)
{
    uint8_t *at = buf + status_head(extended) + index * descriptor_size(extended);

    assert(descriptor.length != 0);
    if (extended) {
        put_be64(at, descriptor.length);
        put_be64(at + 8, descriptor.flags);
    } else {
        assert(descriptor.length <= UINT32_MAX && descriptor.flags <= UINT32_MAX);
        put_be32(at, (uint32_t)descriptor.length);
        put_be32(at + 4, (uint32_t)descriptor.flags);
    }
}

const char *nbd_option_name(uint32_t option)
{
    static const char *const names[] = {
        [NBD_OPT_EXPORT_NAME] = "EXPORT_NAME",
        [NBD_OPT_ABORT] = "ABORT",
        [NBD_OPT_LIST] = "LIST",
        [NBD_OPT_STARTTLS] = "STARTTLS",
        [NBD_OPT_INFO] = "INFO",
        [NBD_OPT_GO] = "GO",
        [NBD_OPT_STRUCTURED_REPLY] = "STRUCTURED_REPLY",
        [NBD_OPT_LIST_META_CONTEXT] = "LIST_META_CONTEXT",
        [NBD_OPT_SET_META_CONTEXT] = "SET_META_CONTEXT",
        [NBD_OPT_EXTENDED_HEADERS] = "EXTENDED_HEADERS",
    };
    return option < ARRAY_LEN(names) && names[option] ? names[option] : "unknown";
}

const char *nbd_option_error_name(uint32_t type)
{
    switch (type) {
    case NBD_REP_ERR_UNSUP:
        return "option not supported";
    case NBD_REP_ERR_POLICY:
        return "forbidden by the server";
    case NBD_REP_ERR_INVALID:
        return "invalid request";
    case NBD_REP_ERR_PLATFORM:
        return "not supported as the server was built";
    case NBD_REP_ERR_TLS_REQD:
        return "TLS required";
    case NBD_REP_ERR_UNKNOWN:
        return "no such export";
    case NBD_REP_ERR_SHUTDOWN:
        return "server is stopping";
    case NBD_REP_ERR_BLOCK_SIZE_REQD:
        return "block size must be asked for";
    case NBD_REP_ERR_TOO_BIG:
        return "request too long";
    case NBD_REP_ERR_EXT_HEADER_REQD:
        return "extended headers required";
    default:
        return "unknown";
    }
}

const char *nbd_command_name(uint16_t type)
{
    static const char *const names[] = {
        [NBD_CMD_READ] = "read",
        [NBD_CMD_WRITE] = "write",
        [NBD_CMD_DISC] = "disconnect",
        [NBD_CMD_FLUSH] = "flush",
        [NBD_CMD_TRIM] = "trim",
        [NBD_CMD_CACHE] = "cache",
        [NBD_CMD_WRITE_ZEROES] = "write zeroes",
        [NBD_CMD_BLOCK_STATUS] = "block status",
        [NBD_CMD_RESIZE] = "resize",
    };
    return type < ARRAY_LEN(names) ? names[type] : "unknown";
}
