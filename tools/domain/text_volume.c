/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The metadata of a volume: KEY=VALUE lines in order of their keys, then EOF.
 *
 * Works: a line is found in the table of keys and its value judged; what no table has is kept as it is. Formatting
 * writes the keys that were read, or those of the version. Fails: a key is missing, or its value is none.
 *
 * Invariant: 1. what has been formatted parses to the same.
 */
#include "tools/domain/text.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "tools/arith.h"

enum { LINE_MAX_BYTES = TEXT_VOLUME_MAX };

enum key {
    KEY_CAP, KEY_CTIME, KEY_DESCRIPTION, KEY_DISKTYPE, KEY_DOMAIN, KEY_FORMAT, KEY_GEN, KEY_IMAGE, KEY_LEGALITY,
    KEY_MTIME, KEY_PUUID, KEY_SEQ, KEY_SIZE, KEY_TYPE, KEY_VOLTYPE, KEYS,
};

/* In the order of bytes, which is that of the file. */
static const char *const key_names[KEYS] = {
    "CAP", "CTIME", "DESCRIPTION", "DISKTYPE", "DOMAIN", "FORMAT", "GEN", "IMAGE", "LEGALITY",
    "MTIME", "PUUID", "SEQ", "SIZE", "TYPE", "VOLTYPE",
};

static const char *const formats[] = {[DOMAIN_RAW] = "RAW", [DOMAIN_COW] = "COW"};
static const char *const allocations[] = {[DOMAIN_PREALLOCATED] = "PREALLOCATED", [DOMAIN_SPARSE] = "SPARSE"};
static const char *const roles[] = {
    [DOMAIN_LEAF] = "LEAF", [DOMAIN_INTERNAL] = "INTERNAL", [DOMAIN_SHARED] = "SHARED",
};
static const char *const legalities[] = {
    [DOMAIN_LEGAL] = "LEGAL", [DOMAIN_ILLEGAL] = "ILLEGAL", [DOMAIN_FAKE] = "FAKE",
};
static const char blanks[] = " \t\r\v\f";
static const char *const disk_types[] = {
    "DATA", "ISOF", "MEMD", "MEMM", "OVFS", "HEVD", "HESD", "HEMD", "HECI", "SCRD", "2", "1",
};

const char *domain_role_name(enum domain_role r)
{
    return roles[r];
}

const char *domain_legality_name(enum domain_legality l)
{
    return legalities[l];
}

bool domain_is_disk_type(const char *text)
{
    for (size_t i = 0; i < ARRAY_LEN(disk_types); i++)
        if (strcmp(text, disk_types[i]) == 0)
            return true;
    return false;
}

__attribute__((format(printf, 2, 3))) static int refuse(char why[TEXT_WHY], const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(why, TEXT_WHY, fmt, ap);
    va_end(ap);
    return -EBADMSG;
}

/* ---- parsing ---------------------------------------------------------------------------------------- */

struct parse {
    struct domain_meta *meta;
    char               *why;
    bool                seen[KEYS];
    uint64_t            size; /* SIZE, in blocks */
    size_t              extra;
};

static bool parse_decimal(const char *value, uint64_t max, uint64_t *ret)
{
    uint64_t n = 0;

    if (value[0] == '\0' || strspn(value, "0123456789") != strlen(value))
        return false;
    for (; *value != '\0'; value++)
        if (!mul_u64(n, 10, &n) || !add_u64(n, (uint64_t)(*value - '0'), &n))
            return false;
    *ret = n;
    return n <= max;
}

/* The number of the word; -1: it is none of them. */
static int parse_word(const char *value, const char *const *words, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (strcmp(value, words[i]) == 0)
            return (int)i;
    return -1;
}

static bool parse_uuid(const char *value, char ret[DOMAIN_UUID])
{
    if (!text_is_uuid(value, strlen(value)))
        return false;
    memcpy(ret, value, DOMAIN_UUID);
    return true;
}

static bool parse_text(const char *value, char *ret, size_t room)
{
    size_t len = strlen(value);

    if (len >= room)
        return false;
    memcpy(ret, value, len + 1);
    return true;
}

/* The number of the word becomes *ret, an enum's. */
#define TAKE_WORD(value, words, ret) take_word(value, words, ARRAY_LEN(words), (unsigned *)(ret))

static bool take_word(const char *value, const char *const *words, size_t n, unsigned *ret)
{
    int number = parse_word(value, words, n);

    if (number >= 0)
        *ret = (unsigned)number;
    return number >= 0;
}

static bool parse_value(struct parse *p, enum key key, const char *value)
{
    struct domain_meta *m = p->meta;
    uint64_t n;

    switch (key) {
    case KEY_CAP: return parse_decimal(value, INT64_MAX, &m->capacity);
    case KEY_CTIME: return parse_decimal(value, INT64_MAX, &m->ctime);
    case KEY_DESCRIPTION: return parse_text(value, m->description, sizeof m->description);
    case KEY_DISKTYPE: return domain_is_disk_type(value) && parse_text(value, m->disk_type, sizeof m->disk_type);
    case KEY_DOMAIN: return parse_uuid(value, m->domain);
    case KEY_FORMAT: return TAKE_WORD(value, formats, &m->format);
    case KEY_GEN:
        if (!parse_decimal(value, DOMAIN_GENERATIONS - 1, &n))
            return false;
        m->generation = (unsigned)n;
        return true;
    case KEY_IMAGE: return parse_uuid(value, m->image);
    case KEY_LEGALITY: return TAKE_WORD(value, legalities, &m->legality);
    case KEY_MTIME: return parse_decimal(value, INT64_MAX, &m->mtime);
    case KEY_PUUID: return parse_uuid(value, m->parent);
    case KEY_SEQ: return parse_decimal(value, UINT32_MAX, &m->sequence);
    case KEY_SIZE: return parse_decimal(value, INT64_MAX / 512, &p->size);
    case KEY_TYPE: return TAKE_WORD(value, allocations, &m->allocation);
    case KEY_VOLTYPE: return TAKE_WORD(value, roles, &m->role);
    case KEYS:
    default: return false;
    }
}

static size_t line_length(const char *text)
{
    return strcspn(text, "\n") + (text[strcspn(text, "\n")] == '\n');
}

/* The order of a line's key beside another one, as of bytes: below 0, 0, above. */
static int compare_key(const char *line, const char *key)
{
    size_t n = strcspn(line, "=");
    int order = strncmp(line, key, n);

    return order != 0 || strlen(key) == n ? order : -1;
}

/* A key that we do not know: kept, a line each, in the order of keys, whatever it was; of several the last one. */
static int keep(struct parse *p, const char *key, const char *value)
{
    struct domain_meta *m = p->meta;
    size_t name = strlen(key), n = name + strlen(value) + 2, old = 0;
    char *at = m->extra;

    while (*at != '\0' && compare_key(at, key) < 0)
        at += line_length(at);
    if (*at != '\0' && compare_key(at, key) == 0)
        old = line_length(at);
    if (p->extra - old + n >= sizeof m->extra)
        return refuse(p->why, "more than %d bytes", TEXT_VOLUME_MAX);
    memmove(at + n, at + old, p->extra + 1 - old - (size_t)(at - m->extra));
    memcpy(at, key, name);
    at[name] = '=';
    memcpy(at + name + 1, value, n - name - 2);
    at[n - 1] = '\n';
    p->extra += n - old;
    return 0;
}

/* Blanks at both ends go, as in Python. Changes `text`. */
static char *strip(char *text)
{
    size_t len;

    text += strspn(text, blanks);
    for (len = strlen(text); len > 0 && strchr(blanks, text[len - 1]) != NULL; len--)
        text[len - 1] = '\0';
    return text;
}

/* Changes `line`. */
static int parse_line(struct parse *p, char *line)
{
    char *value = strchr(line, '='), *key;
    int number;

    if (value == NULL)
        return 0;
    *value = '\0';
    key = strip(line);
    value = strip(value + 1);
    if (strcmp(key, "NONE") == 0)
        return -ENODATA;
    if (strncmp(key, "EOF", 3) == 0)
        return refuse(p->why, "a key %.40s, which would end the text", key);
    number = parse_word(key, key_names, KEYS);
    if (number < 0)
        return keep(p, key, value);
    if (!parse_value(p, (enum key)number, value))
        return refuse(p->why, "%s=%.60s is no value of %s", key, value, key);
    p->seen[number] = true;
    return 0;
}

static int parse_lines(struct parse *p, const char *text, size_t len)
{
    char line[LINE_MAX_BYTES + 1];

    for (const char *at = text, *end = text + len, *next; at < end; at = next + 1) {
        size_t n;
        int rc;
        next = memchr(at, '\n', (size_t)(end - at));
        next = next != NULL ? next : end;
        n = (size_t)(next - at);
        if (n >= 3 && memcmp(at, "EOF", 3) == 0)
            break;
        memcpy(line, at, n);
        line[n] = '\0';
        rc = parse_line(p, line);
        if (rc < 0)
            return rc;
    }
    return 0;
}

int text_volume_parse(const char *text, size_t len, struct domain_meta *ret, char why[TEXT_WHY])
{
    static const enum key needed[] = {
        KEY_CTIME, KEY_DESCRIPTION, KEY_DISKTYPE, KEY_DOMAIN, KEY_FORMAT, KEY_IMAGE, KEY_LEGALITY, KEY_PUUID,
        KEY_TYPE, KEY_VOLTYPE,
    };
    struct domain_meta meta = {0};
    struct parse p = {.meta = &meta, .why = why};
    int rc;

    while (len > 0 && text[len - 1] == '\0')
        len--;
    if (len > TEXT_VOLUME_MAX)
        return refuse(why, "more than %d bytes", TEXT_VOLUME_MAX);
    if (memchr(text, '\0', len) != NULL)
        return refuse(why, "a NUL amid the text");
    rc = parse_lines(&p, text, len);
    if (rc < 0)
        return rc;
    for (size_t i = 0; i < ARRAY_LEN(needed); i++)
        if (!p.seen[needed[i]])
            return refuse(why, "has no %s", key_names[needed[i]]);
    if (!p.seen[KEY_CAP] && !p.seen[KEY_SIZE])
        return refuse(why, "has neither CAP nor SIZE");
    meta.has_capacity = p.seen[KEY_CAP];
    meta.has_size = p.seen[KEY_SIZE];
    meta.has_mtime = p.seen[KEY_MTIME];
    meta.has_sequence = p.seen[KEY_SEQ];
    if (!meta.has_capacity)
        meta.capacity = p.size * 512;
    *ret = meta;
    return 0;
}

/* ---- formatting ------------------------------------------------------------------------------------- */

/* Bytes of the sequence that begins here, if it is valid UTF-8, as far as its length goes; 0: it is not. */
static size_t utf8_step(const char *s)
{
    unsigned char c = (unsigned char)s[0];
    size_t n = c < 0x80 ? 1 : (c & 0xe0) == 0xc0 ? 2 : (c & 0xf0) == 0xe0 ? 3 : (c & 0xf8) == 0xf0 ? 4 : 0;

    for (size_t i = 1; i < n; i++)
        if (((unsigned char)s[i] & 0xc0) != 0x80)
            return 0;
    return n;
}

bool text_is_line(const char *text)
{
    while (*text != '\0') {
        size_t n = utf8_step(text);
        if (n == 0 || (n == 1 && ((unsigned char)*text < 0x20 || *text == 0x7f)))
            return false;
        text += n;
    }
    return true;
}

/* How many bytes the description takes that is written. (1) */
static int description_bytes(const char *text)
{
    size_t bytes = 0, n;

    for (int chars = 0; text[bytes] != '\0' && chars < TEXT_DESCRIPTION_MAX; chars++) {
        n = utf8_step(text + bytes);
        bytes += n > 0 ? n : 1;
    }
    while (bytes > 0 && strchr(blanks, text[bytes - 1]) != NULL)
        bytes--;
    return (int)bytes;
}

static int format_value(const struct domain_meta *m, enum key key, char *buf, size_t room)
{
    const char *description = m->description + strspn(m->description, blanks);

    switch (key) {
    case KEY_CAP: return snprintf(buf, room, "%" PRIu64, m->capacity);
    case KEY_CTIME: return snprintf(buf, room, "%" PRIu64, m->ctime);
    case KEY_DESCRIPTION: return snprintf(buf, room, "%.*s", description_bytes(description), description);
    case KEY_DISKTYPE: return snprintf(buf, room, "%s", m->disk_type);
    case KEY_DOMAIN: return snprintf(buf, room, "%s", m->domain);
    case KEY_FORMAT: return snprintf(buf, room, "%s", formats[m->format]);
    case KEY_GEN: return snprintf(buf, room, "%u", m->generation);
    case KEY_IMAGE: return snprintf(buf, room, "%s", m->image);
    case KEY_LEGALITY: return snprintf(buf, room, "%s", legalities[m->legality]);
    case KEY_MTIME: return snprintf(buf, room, "%" PRIu64, m->mtime);
    case KEY_PUUID: return snprintf(buf, room, "%s", m->parent);
    case KEY_SEQ: return snprintf(buf, room, "%" PRIu64, m->sequence);
    case KEY_SIZE: return snprintf(buf, room, "%" PRIu64, m->capacity / 512);
    case KEY_TYPE: return snprintf(buf, room, "%s", allocations[m->allocation]);
    case KEY_VOLTYPE: return snprintf(buf, room, "%s", roles[m->role]);
    case KEYS:
    default: return 0;
    }
}

static bool is_written(const struct domain_meta *m, enum key key)
{
    return key == KEY_CAP ? m->has_capacity : key == KEY_SIZE ? m->has_size :
           key == KEY_MTIME ? m->has_mtime : key == KEY_SEQ ? m->has_sequence : true;
}

/* Of the unknown keys those that stand before `key` (NULL: all that are left). */
static int put_extra(const char **extra, const char *key, char *buf, size_t room, size_t *at)
{
    while (**extra != '\0') {
        size_t n = line_length(*extra);
        if (key != NULL && compare_key(*extra, key) > 0)
            return 0;
        if (*at + n > room)
            return -EOVERFLOW;
        memcpy(buf + *at, *extra, n);
        *at += n;
        *extra += n;
    }
    return 0;
}

int text_volume_format(const struct domain_meta *meta, char buf[TEXT_VOLUME_MAX + 1], size_t *ret_len)
{
    char value[sizeof meta->description + 1];
    const char *extra = meta->extra;
    size_t at = 0, room = TEXT_VOLUME_MAX + 1;

    assert(meta->has_capacity || meta->has_size);
    for (int k = 0; k < KEYS; k++) {
        enum key key = (enum key)k;
        int n;
        if (!is_written(meta, key))
            continue;
        if (put_extra(&extra, key_names[k], buf, TEXT_VOLUME_MAX, &at) < 0)
            return -EOVERFLOW;
        format_value(meta, key, value, sizeof value);
        n = snprintf(buf + at, room - at, "%s=%s\n", key_names[k], value);
        if (n < 0 || (size_t)n >= room - at)
            return -EOVERFLOW;
        at += (size_t)n;
    }
    if (put_extra(&extra, NULL, buf, TEXT_VOLUME_MAX, &at) < 0 || at + 4 > TEXT_VOLUME_MAX)
        return -EOVERFLOW;
    memcpy(buf + at, "EOF\n", 5);
    *ret_len = at + 4;
    return 0;
}
