/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Trees written as JSON, by people and by QEMU.
 *
 * Happy path: quotes as JSON wants them; parse; put each leaf at its path, so that members with dots and nested
 * ones come to the same.
 * Failure modes: too long, too deep, no JSON, no object, a fraction, an option twice: -EINVAL with text.
 * What is nested too deeply is found before the parser, which is recursive, sees it.
 */
#include <assert.h>
#include <errno.h>
#include <jansson.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/error.h"
#include "engine/base/mem.h"
#include "engine/spec.h"

/* ---- reading -------------------------------------------------------------------------------------------- */

/*
 * QEMU takes strings in single quotes too, which spares a shell's user some trouble. Returns JSON, malloc'ed, or
 * NULL: out of memory. *ret_depth: how deep it is nested.
 */
static char *normalise(const char *text, unsigned *ret_depth)
{
    char *out = mem_alloc(2 * strlen(text) + 1), *to = out;
    unsigned depth = 0;
    char quote = 0;

    *ret_depth = 0;
    for (const char *p = text; out && *p; p++) {
        if (*p == '\\' && quote && p[1] != '\0') {
            if (p[1] != '\'') /* needs no backslash in double quotes, and may have none */
                *to++ = *p;
            *to++ = *++p;
        } else if (*p == quote) {
            *to++ = '"';
            quote = 0;
        } else if (!quote && (*p == '"' || *p == '\'')) {
            *to++ = '"';
            quote = *p;
        } else if (quote == '\'' && *p == '"') {
            *to++ = '\\';
            *to++ = '"';
        } else {
            depth += !quote && (*p == '{' || *p == '[');
            depth -= !quote && depth > 0 && (*p == '}' || *p == ']');
            *ret_depth = depth > *ret_depth ? depth : *ret_depth;
            *to++ = *p;
        }
    }
    assert(!out || (size_t)(to - out) <= 2 * strlen(text));
    if (out)
        *to = '\0';
    return out;
}

static void wipe(char *text)
{
    if (text)
        explicit_bzero(text, strlen(text));
    mem_free(text);
}

static int load(const char *shown, const char *text, json_t **ret)
{
    json_error_t error;
    unsigned depth;
    char *clean;
    int rc = 0;

    if (strnlen(text, SPEC_BYTES_MAX + 1) > SPEC_BYTES_MAX)
        return err_set(EINVAL, "%.*s: too long", SPEC_SHOWN(shown));
    clean = normalise(text, &depth);
    errno = 0; /* which only malloc() sets to ENOMEM from here on */
    *ret = clean && depth <= SPEC_DEPTH_MAX ? json_loads(clean, JSON_REJECT_DUPLICATES, &error) : NULL;
    if (!clean)
        rc = err_set(ENOMEM, "out of memory");
    else if (depth > SPEC_DEPTH_MAX)
        rc = err_set(EINVAL, "%.*s: nested too deeply", SPEC_SHOWN(shown));
    else if (errno == ENOMEM) /* jansson does not tell: the text ends there for it, or a character is missing */
        rc = err_set(ENOMEM, "out of memory");
    else if (!*ret)
        rc = err_set(EINVAL, "%.*s: not valid JSON: %s", SPEC_SHOWN(shown), error.text);
    else if (!json_is_object(*ret))
        rc = err_set(EINVAL, "%.*s: not a JSON object", SPEC_SHOWN(shown));
    wipe(clean);
    assert(rc < 0 || (*ret && depth <= SPEC_DEPTH_MAX));
    if (rc < 0 && *ret)
        json_decref(*ret);
    return rc;
}

struct reader {
    const char  *shown;
    struct spec *root;
    char         path[SPEC_PATH_MAX]; /* of the value at hand */
};

static int take_value(struct reader *r, size_t len, json_t *value);

/* What is called `key`, below the path, which is `len` long. */
static int take_member(struct reader *r, size_t len, const char *key, json_t *value)
{
    size_t at = len > 0 ? len + 1 : 0, n = strlen(key);

    assert(len < sizeof r->path);
    if (n == 0)
        return spec_put_failed(r->shown, "", -EINVAL);
    if (at + n + 1 > sizeof r->path)
        return spec_put_failed(r->shown, key, -E2BIG);
    if (len > 0)
        r->path[len] = '.';
    memcpy(r->path + at, key, n + 1);
    return take_value(r, at + n, value);
}

static int take_members(struct reader *r, size_t len, json_t *from)
{
    const char *key;
    json_t *value;
    int rc = 0;

    json_object_foreach (from, key, value) {
        rc = take_member(r, len, key, value);
        if (rc < 0)
            return rc;
    }
    for (size_t i = 0; i < json_array_size(from) && rc == 0; i++) {
        char number[24];
        snprintf(number, sizeof number, "%zu", i);
        rc = take_member(r, len, number, json_array_get(from, i));
    }
    return rc;
}

/* Is recursive as deep as the JSON is nested, which load() has bounded. */
static int take_value(struct reader *r, size_t len, json_t *value)
{
    char number[24] = "";
    int rc;

    assert(strlen(r->path) == len && len > 0);
    switch (json_typeof(value)) {
    case JSON_OBJECT:
    case JSON_ARRAY:
        rc = spec_put(r->root, r->path, SPEC_NODE, NULL);
        if (rc == 0)
            return take_members(r, len, value);
        break;
    case JSON_STRING: rc = spec_put(r->root, r->path, SPEC_TEXT, json_string_value(value)); break;
    case JSON_INTEGER:
        snprintf(number, sizeof number, "%" JSON_INTEGER_FORMAT, json_integer_value(value));
        rc = spec_put(r->root, r->path, SPEC_TEXT, number);
        break;
    case JSON_TRUE: rc = spec_put(r->root, r->path, SPEC_TEXT, "on"); break;
    case JSON_FALSE: rc = spec_put(r->root, r->path, SPEC_TEXT, "off"); break;
    case JSON_NULL: rc = spec_put(r->root, r->path, SPEC_NULL, NULL); break;
    case JSON_REAL:
    default:
        return err_set(EINVAL, "%.*s: option '%.100s' has a number with a fraction", SPEC_SHOWN(r->shown),
                       r->path);
    }
    return rc < 0 ? spec_put_failed(r->shown, r->path, rc) : 0;
}

/* Texts of a parser that is not ours: those that may be secrets are overwritten where they lie. */
static void wipe_json(json_t *from)
{
    const char *key;
    json_t *value;
    size_t i;

    if (json_is_string(from))
        explicit_bzero((char *)(uintptr_t)json_string_value(from), json_string_length(from));
    json_object_foreach (from, key, value)
        wipe_json(value);
    json_array_foreach (from, i, value)
        wipe_json(value);
}

int spec_parse_json(const char *shown, const char *text, struct spec **ret)
{
    struct reader r = {.shown = shown};
    json_t *json = NULL;
    int rc = load(shown, text, &json);

    if (rc < 0)
        return rc;
    r.root = spec_alloc();
    rc = r.root ? take_members(&r, 0, json) : err_set(ENOMEM, "out of memory");
    wipe_json(json);
    json_decref(json);
    if (rc < 0)
        spec_free(r.root);
    else
        *ret = r.root;
    return rc;
}

/* ---- writing -------------------------------------------------------------------------------------------- */

/* JSON has no bytes that are no UTF-8: where one is, none above ASCII is kept. NULL: out of memory. */
static json_t *text_json(const char *text)
{
    json_t *out = json_string(text);
    char *copy;

    if (out)
        return out;
    copy = mem_strdup(text);
    for (char *p = copy; copy && *p; p++)
        if ((unsigned char)*p >= 0x80)
            *p = '?';
    out = copy ? json_string(copy) : NULL;
    mem_free(copy);
    return out;
}

/* Takes `value` over. */
static int add_member(json_t *to, const char *key, json_t *value)
{
    json_t *shown = text_json(key);
    int rc = -1;

    if (shown && value)
        rc = json_object_set(to, json_string_value(shown), value);
    json_decref(shown);
    json_decref(value);
    return rc;
}

static json_t *node_json(const struct spec *s)
{
    json_t *out = json_object();

    for (unsigned i = 0; out && i < s->count; i++) {
        const struct spec_member *m = &s->members[i];
        assert((m->kind == SPEC_TEXT) == (m->text != NULL) && (m->kind == SPEC_NODE) == (m->node != NULL));
        json_t *value = m->kind == SPEC_NULL ? json_null() : m->kind == SPEC_TEXT ? text_json(m->text)
                                                                                  : node_json(m->node);
        if (add_member(out, m->key, value) < 0) {
            json_decref(out);
            return NULL;
        }
    }
    return out;
}

char *spec_print(const struct spec *s)
{
    json_t *json = node_json(s);
    char *text = json ? json_dumps(json, 0) : NULL, *out = NULL;

    if (text && mem_asprintf(&out, "json:%s", text) < 0)
        out = NULL;
    mem_free(text);
    json_decref(json);
    return out;
}
