/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Domains in volume groups: what tags say, and where metadata lies.
 *
 * Works: characters that a tag cannot have are numbers in it; tags of a volume say its image, its parent, and its
 * slot. Fails: what is no such tag says nothing; a slot that cannot be is none.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/arith.h"
#include "tools/domain/text.h"

#define MIB (UINT64_C(1) << 20)

const struct text_special text_specials[TEXT_SPECIALS] = {
    {"metadata", 128 * MIB, 17 * MIB},
    {"ids", 8 * MIB, 8 * MIB},
    {"inbox", 16 * MIB, 1000 << 10},
    {"outbox", 16 * MIB, 1000 << 10},
    {"leases", 2048 * MIB, 2 * MIB},
    {"xleases", 1024 * MIB, 3 * MIB},
    {"master", 1024 * MIB, 1 * MIB},
};

/* ---- characters --------------------------------------------------------------------------------------- */

static bool is_plain(unsigned long c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
           (c < 0x80 && c != 0 && strchr("_+.-/=!:#", (int)c) != NULL);
}

/* The character that begins here; *ret_len bytes. 0: it is no UTF-8. */
static unsigned long take_character(const char *text, size_t *ret_len)
{
    unsigned char c = (unsigned char)text[0];
    size_t n = c < 0x80 ? 1 : (c & 0xe0) == 0xc0 ? 2 : (c & 0xf0) == 0xe0 ? 3 : (c & 0xf8) == 0xf0 ? 4 : 0;
    unsigned long value = n == 1 ? c : c & (0x7fU >> n);

    for (size_t i = 1; i < n; i++) {
        if (((unsigned char)text[i] & 0xc0) != 0x80)
            return 0;
        value = value << 6 | ((unsigned char)text[i] & 0x3f);
    }
    *ret_len = n;
    return n > 0 ? value : 0;
}

/* Its bytes; `ret` has room for 4. 0: there is no such character. */
static size_t put_character(unsigned long c, char *ret)
{
    size_t n = c == 0 || c > 0x10ffff ? 0 : c < 0x80 ? 1 : c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;

    if (n == 1)
        ret[0] = (char)c;
    for (size_t i = n; n > 1 && i > 1; i--, c >>= 6)
        ret[i - 1] = (char)(0x80 | (c & 0x3f));
    if (n > 1)
        ret[0] = (char)((0xf00 >> n) | c);
    return n;
}

int text_tag_encode(const char *text, char *ret, size_t room)
{
    size_t at = 0, len;

    for (; *text != '\0'; text += len) {
        unsigned long c = take_character(text, &len);
        int n;
        if (c == 0)
            return -EINVAL;
        n = is_plain(c) ? snprintf(ret + at, room - at, "%c", (int)c) :
                          snprintf(ret + at, room - at, "&%lu&", c);
        if ((size_t)n >= room - at)
            return -EOVERFLOW;
        at += (size_t)n;
    }
    ret[at] = '\0';
    return 0;
}

int text_tag_decode(const char *tag, char *ret, size_t room)
{
    size_t at = 0;

    while (*tag != '\0') {
        char bytes[4] = {*tag}, *end = NULL;
        size_t n = 1;
        if (*tag == '&') {
            n = strspn(tag + 1, "0123456789") > 0 ? put_character(strtoul(tag + 1, &end, 10), bytes) : 0;
            if (n == 0 || *end != '&')
                return -EBADMSG;
            tag = end;
        }
        if (at + n >= room)
            return -EOVERFLOW;
        memcpy(ret + at, bytes, n);
        at += n;
        tag++;
    }
    ret[at] = '\0';
    return 0;
}

/* ---- volumes ------------------------------------------------------------------------------------------ */

static bool take_prefix(const char **text, const char *prefix)
{
    size_t len = strlen(prefix);

    if (strncmp(*text, prefix, len) != 0)
        return false;
    *text += len;
    return true;
}

static void take_uuid(const char *text, char ret[DOMAIN_UUID])
{
    if (text_is_uuid(text, strlen(text)))
        memcpy(ret, text, DOMAIN_UUID);
}

static void take_image(const char *text, struct text_lv *ret)
{
    ret->removed = take_prefix(&text, DOMAIN_REMOVED);
    ret->wiped = ret->removed && take_prefix(&text, "ZERO_");
    take_uuid(text, ret->image);
}

static unsigned parse_slot(const char *text, unsigned version)
{
    unsigned long n;

    if (text[0] == '\0' || strlen(text) > 5 || strspn(text, "0123456789") != strlen(text))
        return 0;
    n = strtoul(text, NULL, 10);
    return n >= text_slot_first(version) && n <= TEXT_SLOT_LAST ? (unsigned)n : 0;
}

static bool is_special(const char *name)
{
    for (size_t i = 0; i < ARRAY_LEN(text_specials); i++)
        if (strcmp(name, text_specials[i].name) == 0)
            return true;
    return false;
}

void text_lv_parse(const char *name, char *const *tags, size_t count, unsigned version, struct text_lv *ret)
{
    *ret = (struct text_lv){.special = is_special(name)};
    if (ret->special)
        return;
    ret->volume = text_is_uuid(name, strlen(name));
    for (size_t i = 0; i < count; i++) {
        const char *tag = tags[i];
        if (strcmp(tag, TEXT_TAG_HALF_MADE) == 0)
            ret->half_made = true;
        else if (strcmp(tag, TEXT_TAG_MERGED) == 0)
            ret->merged = true;
        else if (strcmp(tag, TEXT_TAG_GOING) == 0)
            ret->going = true;
        else if (strcmp(tag, TEXT_TAG_WIPE) == 0)
            ret->wipe = true;
        else if (take_prefix(&tag, TEXT_TAG_IMAGE))
            take_image(tag, ret);
        else if (take_prefix(&tag, TEXT_TAG_PARENT))
            take_uuid(tag, ret->parent);
        else if (take_prefix(&tag, TEXT_TAG_SLOT))
            ret->slot = parse_slot(tag, version);
    }
}

/* ---- places ------------------------------------------------------------------------------------------- */

unsigned text_slot_first(unsigned version)
{
    return version >= 5 ? 1 : 4;
}

uint64_t text_slot_offset(unsigned version, unsigned slot)
{
    return version >= 5 ? MIB + (uint64_t)slot * 8192 : (uint64_t)slot * TEXT_SLOT_SIZE;
}

uint64_t text_extents(uint64_t size, uint64_t extent)
{
    uint64_t n = size / extent + (size % extent != 0), ret;

    return mul_u64(n, extent, &ret) ? ret : UINT64_MAX;
}
