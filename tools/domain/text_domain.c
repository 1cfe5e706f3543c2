/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The metadata of a domain: KEY=VALUE lines, sorted, and what vouches for them.
 *
 * Works: lines become pairs; the checksum is computed anew and compared. Fails: it is another one: nothing is
 * guessed then.
 */
#include "tools/domain/text.h"

#include <assert.h>
#include <errno.h>
#include <gcrypt.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SHA1_BYTES = 20 };

static const char seal_key[] = "_SHA_CKSUM";

/* ---- the seal --------------------------------------------------------------------------------------- */

static void init_once(void)
{
    if (!gcry_control(GCRYCTL_INITIALIZATION_FINISHED_P)) {
        gcry_check_version(NULL);
        gcry_control(GCRYCTL_DISABLE_SECMEM, 0);
        gcry_control(GCRYCTL_INITIALIZATION_FINISHED, 0);
    }
}

void text_init_gcrypt(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;

    pthread_once(&once, init_once);
}

/* The character at *s, which moves behind it; what is not UTF-8 is the byte. */
static unsigned next_character(const unsigned char **s)
{
    const unsigned char *p = *s;
    unsigned n = p[0] >= 0xf0 ? 3 : p[0] >= 0xe0 ? 2 : p[0] >= 0xc0 ? 1 : 0;
    unsigned c = n == 3 ? p[0] & 0x07u : n == 2 ? p[0] & 0x0fu : n == 1 ? p[0] & 0x1fu : p[0];

    for (unsigned i = 1; i <= n; i++) {
        if ((p[i] & 0xc0) != 0x80) {
            *s = p + 1;
            return p[0];
        }
        c = c << 6 | (p[i] & 0x3fu);
    }
    *s = p + n + 1;
    return c;
}

/* ASCII; all else as a reference to its character. */
static void digest_text(gcry_md_hd_t md, const char *text)
{
    const unsigned char *p = (const unsigned char *)text;

    while (*p != '\0') {
        char reference[16];
        unsigned c = next_character(&p);
        if (c < 0x80) {
            gcry_md_putc(md, (unsigned char)c);
        } else {
            int n = snprintf(reference, sizeof reference, "&#%u;", c);
            gcry_md_write(md, reference, (size_t)n);
        }
    }
}

void text_domain_seal(const struct text_domain *md, char seal[TEXT_SEAL])
{
    const unsigned char *digest;
    gcry_md_hd_t hash;

    text_init_gcrypt();
    if (gcry_md_open(&hash, GCRY_MD_SHA1, 0) != 0) {
        seal[0] = '\0'; /* no memory: nothing equals it */
        return;
    }
    for (size_t i = 0; i < md->count; i++) {
        digest_text(hash, md->list[i].key);
        digest_text(hash, "=");
        digest_text(hash, md->list[i].value);
    }
    digest = gcry_md_read(hash, GCRY_MD_SHA1);
    for (size_t i = 0; i < SHA1_BYTES; i++)
        snprintf(seal + 2 * i, 3, "%02x", digest[i]);
    gcry_md_close(hash);
}

/* ---- pairs ------------------------------------------------------------------------------------------ */

/* As the lines are that the pairs are written as. */
static int compare(const void *a, const void *b)
{
    const struct text_pair *x = a, *y = b;
    size_t i = 0;

    while (x->key[i] != '\0' && x->key[i] == y->key[i])
        i++;
    return (int)(unsigned char)(x->key[i] != '\0' ? x->key[i] : '=') -
           (int)(unsigned char)(y->key[i] != '\0' ? y->key[i] : '=');
}

static struct text_pair *find(const struct text_domain *md, const char *key)
{
    for (size_t i = 0; i < md->count; i++)
        if (strcmp(md->list[i].key, key) == 0)
            return &md->list[i];
    return NULL;
}

const char *text_domain_get(const struct text_domain *md, const char *key)
{
    const struct text_pair *pair = find(md, key);

    return pair != NULL ? pair->value : NULL;
}

/* Bytes with their lengths: what is there before is replaced. */
static int set(struct text_domain *md, const char *key, size_t key_len, const char *value, size_t value_len)
{
    char *text = malloc(key_len + value_len + 2);
    struct text_pair *old, *list;

    if (text == NULL)
        return -ENOMEM;
    memcpy(text, key, key_len);
    text[key_len] = '\0';
    memcpy(text + key_len + 1, value, value_len);
    text[key_len + 1 + value_len] = '\0';
    old = find(md, text);
    if (old != NULL) {
        free(old->key);
        *old = (struct text_pair){text, text + key_len + 1};
        return 0;
    }
    list = reallocarray(md->list, md->count + 1, sizeof *list);
    if (list == NULL) {
        free(text);
        return -ENOMEM;
    }
    md->list = list;
    md->list[md->count++] = (struct text_pair){text, text + key_len + 1};
    qsort(md->list, md->count, sizeof *md->list, compare);
    return 0;
}

int text_domain_set(struct text_domain *md, const char *key, const char *value)
{
    assert(key[0] != '\0' && strchr(key, '=') == NULL && text_is_line(key));
    if (!text_is_line(value))
        return -EINVAL;
    return set(md, key, strlen(key), value, strlen(value));
}

void text_domain_free(struct text_domain *md)
{
    for (size_t i = 0; i < md->count; i++)
        free(md->list[i].key);
    free(md->list);
    *md = (struct text_domain){0};
}

/* ---- parsing and formatting ------------------------------------------------------------------------- */

static int refuse(char why[TEXT_WHY], const char *text)
{
    snprintf(why, TEXT_WHY, "%s", text);
    return -EBADMSG;
}

static int parse_lines(struct text_domain *md, const char *text, size_t len, char why[TEXT_WHY])
{
    for (const char *at = text, *end = text + len, *next; at < end; at = next + 1) {
        const char *equals;
        next = memchr(at, '\n', (size_t)(end - at));
        next = next != NULL ? next : end;
        equals = memchr(at, '=', (size_t)(next - at));
        if (equals == NULL || equals == at)
            continue;
        if (md->count >= TEXT_KEYS_MAX)
            return refuse(why, "more keys than a domain has");
        if (set(md, at, (size_t)(equals - at), equals + 1, (size_t)(next - equals - 1)) < 0)
            return -ENOMEM;
    }
    return 0;
}

/* The pair of the checksum goes, and is compared with what it should be. */
static int check_seal(struct text_domain *md, char why[TEXT_WHY])
{
    struct text_pair *pair = find(md, seal_key), last;
    char seal[TEXT_SEAL];
    int rc = 0;

    if (pair == NULL)
        return 0;
    last = *pair;
    md->count--;
    memmove(pair, pair + 1, (size_t)(md->list + md->count - pair) * sizeof *pair);
    text_domain_seal(md, seal);
    md->sealed = strcmp(seal, last.value) == 0;
    if (!md->sealed) {
        snprintf(why, TEXT_WHY, "the checksum is %.40s, and says %.40s: it was changed by hand, or is damaged",
                 seal, last.value);
        rc = -EBADMSG;
    }
    free(last.key);
    return rc;
}

int text_domain_parse(const char *text, size_t len, struct text_domain *ret, char why[TEXT_WHY])
{
    struct text_domain md = {0};
    int rc = len > TEXT_DOMAIN_MAX ? refuse(why, "is longer than metadata is") :
             memchr(text, '\0', len) != NULL ? refuse(why, "a NUL amid the text") : 0;

    if (rc == 0)
        rc = parse_lines(&md, text, len, why);
    if (rc == 0)
        rc = check_seal(&md, why);
    if (rc < 0)
        text_domain_free(&md);
    else
        *ret = md;
    return rc;
}

int text_domain_format(const struct text_domain *md, char **ret, size_t *ret_len)
{
    size_t room = sizeof seal_key + TEXT_SEAL + 2, at = 0;
    char seal[TEXT_SEAL], *text;

    for (size_t i = 0; i < md->count; i++)
        room += strlen(md->list[i].key) + strlen(md->list[i].value) + 2;
    text = malloc(room);
    if (text == NULL)
        return -ENOMEM;
    for (size_t i = 0; i < md->count; i++)
        at += (size_t)snprintf(text + at, room - at, "%s=%s\n", md->list[i].key, md->list[i].value);
    text_domain_seal(md, seal);
    at += (size_t)snprintf(text + at, room - at, "%s=%s\n", seal_key, seal);
    assert(at < room);
    *ret = text;
    *ret_len = at;
    return 0;
}
