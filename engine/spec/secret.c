/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The secrets of this process.
 *
 * Happy path: parse; read the file, if it is one; decode; enter.
 * Failure modes: options that are wrong or unknown, a file that cannot be read or is too large, no base64, an id
 * that is no id, or is taken: nothing is entered. Texts name the id and the file, never what was in `data`; a text
 * that could not be taken apart is not shown at all, since nobody knows what part of it is the secret.
 *
 * Invariants
 *  1. All memory that held data of a secret is overwritten before it is freed.
 */
#include "engine/spec/secret.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/base/error.h"
#include "engine/base/mem.h"
#include "engine/base/short_lock.h"
#include "engine/spec.h"
#include "engine/spec/object_id.h"

struct secret {
    struct secret *next;
    char          *id;
    uint8_t       *data; /* a zero behind it */
    size_t         len;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct secret *first; /* under the lock */

void secret_release(uint8_t *data, size_t len)
{
    if (data)
        explicit_bzero(data, len);
    mem_free(data);
}

static void secret_free(struct secret *s)
{
    if (!s)
        return;
    secret_release(s->data, s->len);
    mem_free(s->id);
    mem_free(s);
}

/* Under the lock: where the pointer to it is, or the one at the end. */
static struct secret **find(const char *id)
{
    struct secret **at = &first;

    assert_locked(&lock);
    while (*at && strcmp((*at)->id, id) != 0)
        at = &(*at)->next;
    return at;
}

static struct secret *make(const char *id, const void *data, size_t len)
{
    struct secret *s = mem_calloc(1, sizeof *s);

    assert(object_is_id(id) && len <= SECRET_BYTES_MAX);
    if (!s)
        return NULL;
    s->id = mem_strdup(id);
    s->data = mem_alloc(len + 1);
    if (!s->id || !s->data) {
        secret_free(s);
        return NULL;
    }
    memcpy(s->data, data, len);
    s->data[len] = '\0';
    s->len = len;
    return s;
}

int secret_add(const char *id, const void *data, size_t len)
{
    struct secret *s, **at;
    int rc = 0;

    if (!object_is_id(id))
        return object_bad_id("secret");
    if (len > SECRET_BYTES_MAX)
        return err_set(EFBIG, "secret '%s': has more than %d bytes", id, SECRET_BYTES_MAX);
    s = make(id, data, len);
    if (!s)
        return err_set(ENOMEM, "secret '%s': out of memory", id);
    pthread_mutex_lock(&lock);
    at = find(id);
    if (*at)
        rc = err_set(EINVAL, "secret '%s': there is one of that id", id);
    else
        *at = s;
    pthread_mutex_unlock(&lock);
    if (rc < 0)
        secret_free(s);
    return rc;
}

int secret_remove(const char *id)
{
    struct secret *s, **at;

    pthread_mutex_lock(&lock);
    at = find(id);
    s = *at;
    if (s)
        *at = s->next;
    pthread_mutex_unlock(&lock);
    if (!s)
        return err_set(ENOENT, "there is no secret '%.*s'", SPEC_SHOWN(id));
    secret_free(s);
    return 0;
}

bool secret_exists(const char *id)
{
    bool found;

    pthread_mutex_lock(&lock);
    found = *find(id) != NULL;
    pthread_mutex_unlock(&lock);
    return found;
}

int secret_get(const char *id, uint8_t **ret_data, size_t *ret_len)
{
    const struct secret *s;
    uint8_t *copy = NULL;
    int rc = 0;

    pthread_mutex_lock(&lock);
    s = *find(id);
    if (s) {
        assert(s->data[s->len] == '\0');
        copy = mem_alloc(s->len + 1);
        if (copy)
            memcpy(copy, s->data, s->len + 1);
        *ret_len = s->len;
    }
    pthread_mutex_unlock(&lock);
    if (!s)
        rc = err_set(ENOENT, "there is no secret '%.*s'", SPEC_SHOWN(id));
    else if (!copy)
        rc = err_set(ENOMEM, "out of memory");
    else
        *ret_data = copy;
    return rc;
}

/* When the process ends, or the library is unloaded. */
static void __attribute__((destructor)) forget_all(void)
{
    while (first) {
        struct secret *s = first;
        first = s->next;
        secret_free(s);
    }
}

/* ---- from a text ---------------------------------------------------------------------------------------- */

struct bytes {
    uint8_t *data;
    size_t   len, room;
};

static int read_all(int fd, struct bytes *b)
{
    ssize_t n;

    for (;;) {
        assert(b->len < b->room);
        n = read(fd, b->data + b->len, b->room - b->len);
        if (n > 0)
            b->len += (size_t)n;
        else if (n == 0)
            return 0;
        else if (errno != EINTR)
            return -errno;
        if (b->len == b->room)
            return -EFBIG;
    }
}

static int read_file(const char *id, const char *path, struct bytes *ret)
{
    struct bytes b = {.room = SECRET_BYTES_MAX + 1};
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
    int rc = fd < 0 ? -errno : 0;

    if (rc == 0) {
        b.data = mem_alloc(b.room);
        rc = b.data ? read_all(fd, &b) : -ENOMEM;
        close(fd);
    }
    if (rc == 0) {
        *ret = b;
        return 0;
    }
    secret_release(b.data, b.len);
    return err_set(rc, "secret '%s': %.200s: %s", id, path, strerror(-rc));
}

/* -1: none of them. */
static int digit_of(uint8_t c)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const char *at = c ? strchr(digits, c) : NULL;

    _Static_assert(sizeof digits - 1 == 64, "six bits each");
    return at ? (int)(at - digits) : -1;
}

/* In place; lines may end anywhere. false: it is no base64. */
static bool decode(struct bytes *b)
{
    size_t out = 0, fill = 0, digits = 0;
    uint32_t bits = 0;

    for (size_t i = 0; i < b->len; i++) {
        uint8_t c = b->data[i];
        if (c == '\n' || c == '\r')
            continue;
        digits++;
        if (c == '=') {
            fill++;
            continue;
        }
        if (digit_of(c) < 0 || fill > 0)
            return false;
        bits = bits << 6 | (uint32_t)digit_of(c);
        if (digits % 4 == 2)
            b->data[out++] = (uint8_t)(bits >> 4);
        else if (digits % 4 == 3)
            b->data[out++] = (uint8_t)(bits >> 2);
        else if (digits % 4 == 0)
            b->data[out++] = (uint8_t)bits;
    }
    assert(out <= b->len && out <= digits);
    explicit_bzero(&bits, sizeof bits);
    if (digits % 4 != 0 || fill > 2)
        return false;
    explicit_bzero(b->data + out, b->len - out);
    b->len = out;
    return true;
}

/* What is unknown may be a part of the secret, after a comma: it is not shown. */
static int check_members(const struct spec *s)
{
    static const char *const known[] = {"qom-type", "id", "data", "file", "format"};

    for (unsigned i = 0; i < s->count; i++) {
        bool found = false;
        for (size_t k = 0; k < sizeof known / sizeof known[0]; k++)
            found |= strcmp(known[k], s->members[i].key) == 0 && s->members[i].kind == SPEC_TEXT;
        if (!found)
            return err_hint(err_set(EINVAL, "an object of type secret has no such option (the one at place %u); "
                                    "it has: id, data, file, format", i + 1),
                            "a comma in a value is written as two");
    }
    return 0;
}

int secret_add_object(const char *id, const struct spec *s)
{
    const char *data = spec_text(s, "data"), *file = spec_text(s, "file"), *format = spec_text(s, "format");
    struct bytes b = {0};
    int rc = check_members(s);

    if (rc < 0)
        return rc;
    if (!data == !file)
        return err_set(EINVAL, "secret '%s': takes either data or file", id);
    if (format && strcmp(format, "raw") != 0 && strcmp(format, "base64") != 0)
        return err_set(EINVAL, "secret '%s': the format is raw or base64", id);
    if (file) {
        rc = read_file(id, file, &b);
    } else {
        b.len = strlen(data);
        b.data = mem_alloc(b.len + 1);
        if (b.data)
            memcpy(b.data, data, b.len);
        else
            rc = err_set(ENOMEM, "secret '%s': out of memory", id);
    }
    if (rc == 0 && format && strcmp(format, "base64") == 0 && !decode(&b))
        rc = err_set(EINVAL, "secret '%s': is not base64", id);
    if (rc == 0)
        rc = secret_add(id, b.data, b.len);
    assert(b.data != NULL || rc < 0);
    secret_release(b.data, b.len);
    return rc;
}
