/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The handshake's bytes: greeting, options, replies to options.
 *
 * Happy path: a part of fixed length is read by its places; one of several lengths by a cursor, which takes a
 * piece only if the rest has it.
 * Failures: a magic number that is another, a length that leads behind the end, bytes that are left over, a string
 * that the protocol forbids: -EPROTO.
 */
#include "nbd/wire.h"

#include <errno.h>

#include "engine/base/bits.h"

/* What is still to be read of some bytes, or to be written into them. */
struct cursor {
    const uint8_t *at;
    size_t         left;
    bool           failed; /* something was not there; from then on nothing is */
};

static const uint8_t *take(struct cursor *c, size_t len)
{
    const uint8_t *at = c->at;

    if (c->failed || len > c->left) {
        c->failed = true;
        return NULL;
    }
    c->at += len;
    c->left -= len;
    return at;
}

static uint16_t take_16(struct cursor *c)
{
    const uint8_t *at = take(c, 2);

    return at ? get_be16(at) : 0;
}

static uint32_t take_32(struct cursor *c)
{
    const uint8_t *at = take(c, 4);

    return at ? get_be32(at) : 0;
}

static uint64_t take_64(struct cursor *c)
{
    const uint8_t *at = take(c, 8);

    return at ? get_be64(at) : 0;
}

static struct nbd_string take_string(struct cursor *c, size_t len)
{
    const uint8_t *at = take(c, len);

    if (!at || !nbd_string_valid(at, len)) {
        c->failed = true;
        return (struct nbd_string){"", 0};
    }
    return (struct nbd_string){(const char *)at, (uint32_t)len};
}

/* All of it was there, and nothing else is. */
static bool taken(const struct cursor *c)
{
    return !c->failed && c->left == 0;
}

/* A string with its length before it, at `at`; gives where it ends. */
static uint8_t *put_string(uint8_t *at, struct nbd_string s)
{
    put_be32(at, s.length);
    memcpy(at + 4, s.text, s.length);
    return at + 4 + s.length;
}

bool nbd_string_valid(const void *text, size_t length)
{
    return length <= NBD_MAX_STRING && (length == 0 || !memchr(text, 0, length));
}

bool nbd_string_equals(struct nbd_string s, const char *text)
{
    return strlen(text) == s.length && memcmp(s.text, text, s.length) == 0;
}

int nbd_greeting_get(const uint8_t buf[static NBD_GREETING_SIZE], uint16_t *ret_flags)
{
    if (get_be64(buf) != NBD_MAGIC || get_be64(buf + 8) != NBD_OPTION_MAGIC)
        return -EPROTO;
    *ret_flags = get_be16(buf + 16);
    return 0;
}

void nbd_greeting_put(uint8_t buf[static NBD_GREETING_SIZE], uint16_t flags)
{
    put_be64(buf, NBD_MAGIC);
    put_be64(buf + 8, NBD_OPTION_MAGIC);
    put_be16(buf + 16, flags);
}

bool nbd_is_oldstyle(const uint8_t buf[static NBD_GREETING_SIZE])
{
    return get_be64(buf) == NBD_MAGIC && get_be64(buf + 8) == NBD_OLDSTYLE_MAGIC;
}

uint32_t nbd_client_flags_get(const uint8_t buf[static NBD_CLIENT_FLAGS_SIZE])
{
    return get_be32(buf);
}

void nbd_client_flags_put(uint8_t buf[static NBD_CLIENT_FLAGS_SIZE], uint32_t flags)
{
    put_be32(buf, flags);
}

int nbd_option_get(const uint8_t buf[static NBD_OPTION_SIZE], struct nbd_option *ret)
{
    if (get_be64(buf) != NBD_OPTION_MAGIC)
        return -EPROTO;
    *ret = (struct nbd_option){.option = get_be32(buf + 8), .length = get_be32(buf + 12)};
    return 0;
}

void nbd_option_put(uint8_t buf[static NBD_OPTION_SIZE], struct nbd_option option)
{
    put_be64(buf, NBD_OPTION_MAGIC);
    put_be32(buf + 8, option.option);
    put_be32(buf + 12, option.length);
}

int nbd_option_reply_get(const uint8_t buf[static NBD_OPTION_REPLY_SIZE], struct nbd_option_reply *ret)
{
    if (get_be64(buf) != NBD_OPTION_REPLY_MAGIC)
        return -EPROTO;
    ret->option = get_be32(buf + 8);
    ret->type = get_be32(buf + 12);
    ret->length = get_be32(buf + 16);
    return 0;
}

void nbd_option_reply_put(uint8_t buf[static NBD_OPTION_REPLY_SIZE], struct nbd_option_reply reply)
{
    put_be64(buf, NBD_OPTION_REPLY_MAGIC);
    put_be32(buf + 8, reply.option);
    put_be32(buf + 12, reply.type);
    put_be32(buf + 16, reply.length);
}

struct nbd_export nbd_export_get(const uint8_t buf[static NBD_EXPORT_SIZE])
{
    return (struct nbd_export){.size = get_be64(buf), .flags = get_be16(buf + 8)};
}

void nbd_export_put(uint8_t buf[static NBD_EXPORT_SIZE], struct nbd_export info)
{
    put_be64(buf, info.size);
    put_be16(buf + 8, info.flags);
}

int nbd_info_request_get(const uint8_t *data, size_t len, struct nbd_info_request *ret)
{
    struct cursor c = {data, len, false};
    struct nbd_info_request r;

    r.name = take_string(&c, take_32(&c));
    r.count = take_16(&c);
    r.types = take(&c, 2 * (size_t)r.count);
    if (!taken(&c))
        return -EPROTO;
    *ret = r;
    return 0;
}

uint16_t nbd_info_request_type(const struct nbd_info_request *request, unsigned index)
{
    assert(index < request->count);
    return get_be16(request->types + 2 * (size_t)index);
}

size_t nbd_info_request_put(uint8_t *buf, size_t size, struct nbd_string name, const uint16_t *types,
                            unsigned count)
{
    size_t len = 4 + (size_t)name.length + 2 + 2 * (size_t)count;

    assert(nbd_string_valid(name.text, name.length) && count <= UINT16_MAX);
    if (len > size)
        return 0;
    uint8_t *at = put_string(buf, name);
    put_be16(at, (uint16_t)count);
    for (unsigned i = 0; i < count; i++)
        put_be16(at + 2 + 2 * (size_t)i, types[i]);
    return len;
}

int nbd_meta_request_get(const uint8_t *data, size_t len, struct nbd_meta_request *ret)
{
    struct cursor c = {data, len, false};
    struct nbd_meta_request r;

    r.name = take_string(&c, take_32(&c));
    r.count = take_32(&c);
    r.queries = c.at;
    for (uint32_t i = 0; i < r.count && !c.failed; i++)
        take_string(&c, take_32(&c));
    if (!taken(&c))
        return -EPROTO;
    *ret = r;
    return 0;
}

struct nbd_string nbd_meta_request_next(const struct nbd_meta_request *request, size_t *at)
{
    uint32_t length = get_be32(request->queries + *at);
    const uint8_t *text = request->queries + *at + 4;

    *at += 4 + (size_t)length;
    return (struct nbd_string){(const char *)text, length};
}

size_t nbd_meta_request_put(uint8_t *buf, size_t size, struct nbd_string name, const struct nbd_string *queries,
                            uint32_t count)
{
    size_t len = 4 + (size_t)name.length + 4;

    assert(nbd_string_valid(name.text, name.length));
    for (uint32_t i = 0; i < count; i++) {
        assert(nbd_string_valid(queries[i].text, queries[i].length));
        len += 4 + (size_t)queries[i].length;
    }
    if (len > size)
        return 0;
    uint8_t *at = put_string(buf, name);
    put_be32(at, count);
    at += 4;
    for (uint32_t i = 0; i < count; i++)
        at = put_string(at, queries[i]);
    return len;
}

int nbd_server_get(const uint8_t *data, size_t len, struct nbd_string *ret_name,
                   struct nbd_string *ret_description)
{
    struct cursor c = {data, len, false};
    struct nbd_string name = take_string(&c, take_32(&c));
    struct nbd_string description = take_string(&c, c.left);

    if (!taken(&c))
        return -EPROTO;
    *ret_name = name;
    *ret_description = description;
    return 0;
}

size_t nbd_server_put(uint8_t *buf, size_t size, struct nbd_string name, struct nbd_string description)
{
    size_t len = 4 + (size_t)name.length + description.length;

    assert(nbd_string_valid(name.text, name.length) && nbd_string_valid(description.text, description.length));
    if (len > size)
        return 0;
    memcpy(put_string(buf, name), description.text, description.length);
    return len;
}

int nbd_meta_get(const uint8_t *data, size_t len, uint32_t *ret_id, struct nbd_string *ret_name)
{
    struct cursor c = {data, len, false};
    uint32_t id = take_32(&c);
    struct nbd_string name = take_string(&c, c.left);

    if (!taken(&c))
        return -EPROTO;
    *ret_id = id;
    *ret_name = name;
    return 0;
}

size_t nbd_meta_put(uint8_t *buf, size_t size, uint32_t id, struct nbd_string name)
{
    size_t len = 4 + (size_t)name.length;

    assert(nbd_string_valid(name.text, name.length));
    if (len > size)
        return 0;
    put_be32(buf, id);
    memcpy(buf + 4, name.text, name.length);
    return len;
}

bool nbd_block_size_valid(const struct nbd_block_size *block)
{
    return is_power_of_two(block->minimum) && block->minimum <= 64 << 10 && is_power_of_two(block->preferred) &&
           block->preferred >= max_u64(block->minimum, 512) &&
           (block->maximum == UINT32_MAX ||
            (block->maximum >= block->preferred && is_aligned(block->maximum, block->minimum)));
}

int nbd_info_get(const uint8_t *data, size_t len, struct nbd_info *ret)
{
    struct cursor c = {data, len, false};
    struct nbd_info info = {.type = take_16(&c)};

    switch (info.type) {
    case NBD_INFO_EXPORT:
        info.exported.size = take_64(&c);
        info.exported.flags = take_16(&c);
        break;
    case NBD_INFO_NAME:
    case NBD_INFO_DESCRIPTION:
        info.text = take_string(&c, c.left);
        break;
    case NBD_INFO_BLOCK_SIZE:
        info.block.minimum = take_32(&c);
        info.block.preferred = take_32(&c);
        info.block.maximum = take_32(&c);
        if (!nbd_block_size_valid(&info.block))
            return -EPROTO;
        break;
    default:
        take(&c, c.left); /* who does not know it cannot judge it */
        break;
    }
    if (!taken(&c))
        return -EPROTO;
    *ret = info;
    return 0;
}

size_t nbd_info_put(uint8_t *buf, size_t size, const struct nbd_info *info)
{
    static const size_t fixed[] = {
        [NBD_INFO_EXPORT] = NBD_EXPORT_SIZE,
        [NBD_INFO_NAME] = 0,
        [NBD_INFO_DESCRIPTION] = 0,
        [NBD_INFO_BLOCK_SIZE] = 12,
    };
    assert(info->type < ARRAY_LEN(fixed));
    bool text = info->type == NBD_INFO_NAME || info->type == NBD_INFO_DESCRIPTION;
    size_t len = 2 + (text ? info->text.length : fixed[info->type]);

    if (len > size)
        return 0;
    put_be16(buf, info->type);
    if (text) {
        assert(nbd_string_valid(info->text.text, info->text.length));
        memcpy(buf + 2, info->text.text, info->text.length);
    } else if (info->type == NBD_INFO_EXPORT) {
        nbd_export_put(buf + 2, info->exported);
    } else {
        assert(nbd_block_size_valid(&info->block));
        put_be32(buf + 2, info->block.minimum);
        put_be32(buf + 6, info->block.preferred);
        put_be32(buf + 10, info->block.maximum);
    }
    return len;
}
