/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The tree itself: members are found, added, copied, freed. */
#include "engine/base/mem.h"
#include "engine/spec.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/error.h"

/* ---- life ----------------------------------------------------------------------------------------------- */

struct spec *spec_alloc(void)
{
    return mem_calloc(1, sizeof(struct spec));
}

void spec_free(struct spec *s)
{
    if (!s)
        return;
    for (unsigned i = 0; i < s->count; i++) {
        struct spec_member *m = &s->members[i];
        if (m->text)
            explicit_bzero(m->text, strlen(m->text)); /* it may be a secret */
        mem_free(m->text);
        mem_free(m->key);
        spec_free(m->node);
    }
    mem_free(s->members);
    mem_free(s);
}

static int copy_below(struct spec *root, const struct spec *from, char *path, size_t len);

/* Copy a member to below where `path`, `len` bytes long, leads to in `root`. */
static int copy_member(struct spec *root, const struct spec_member *m, char *path, size_t len)
{
    size_t at = len > 0 ? len + 1 : 0, n = strlen(m->key);
    int rc;

    assert(len < SPEC_PATH_MAX && (m->kind == SPEC_NODE) == (m->node != NULL));
    if (at + n + 1 > SPEC_PATH_MAX)
        return -E2BIG;
    if (len > 0)
        path[len] = '.';
    memcpy(path + at, m->key, n + 1);
    rc = spec_put(root, path, m->kind, m->text);
    return rc == 0 && m->kind == SPEC_NODE ? copy_below(root, m->node, path, at + n) : rc;
}

static int copy_below(struct spec *root, const struct spec *from, char *path, size_t len)
{
    int rc = 0;

    for (unsigned i = 0; i < from->count && rc == 0; i++)
        rc = copy_member(root, &from->members[i], path, len);
    return rc;
}

int spec_copy(struct spec *root, const struct spec_member *m)
{
    char path[SPEC_PATH_MAX] = "";

    return copy_member(root, m, path, 0);
}

struct spec *spec_clone(const struct spec *s)
{
    char path[SPEC_PATH_MAX] = "";
    struct spec *out = spec_alloc();

    if (out && copy_below(out, s, path, 0) < 0) { /* what fits there fits here: no memory */
        spec_free(out);
        return NULL;
    }
    return out;
}

/* ---- members -------------------------------------------------------------------------------------------- */

static struct spec_member *find(const struct spec *s, const char *key, size_t len)
{
    for (unsigned i = 0; i < s->count; i++)
        if (strlen(s->members[i].key) == len && memcmp(s->members[i].key, key, len) == 0)
            return &s->members[i];
    return NULL;
}

const struct spec_member *spec_get(const struct spec *s, const char *path)
{
    for (;;) {
        size_t n = strcspn(path, ".");
        const struct spec_member *m = find(s, path, n);
        if (!m || path[n] == '\0')
            return m;
        if (m->kind != SPEC_NODE)
            return NULL;
        assert(m->node != NULL && !m->text);
        s = m->node;
        path += n + 1;
    }
}

const char *spec_text(const struct spec *s, const char *path)
{
    const struct spec_member *m = spec_get(s, path);

    return m && m->kind == SPEC_TEXT ? m->text : NULL;
}

const struct spec *spec_node(const struct spec *s, const char *path)
{
    const struct spec_member *m = spec_get(s, path);

    return m && m->kind == SPEC_NODE ? m->node : NULL;
}

/* NULL: out of memory. */
static struct spec_member *add(struct spec *root, struct spec *s, const char *key, size_t len, enum spec_kind kind,
                               const char *text)
{
    struct spec_member *list = mem_reallocarray(s->members, s->count + 1, sizeof *list);
    struct spec_member m = {.kind = kind};

    assert(root->total < SPEC_MEMBERS_MAX && s->count <= root->total);
    assert(len > 0 && strcspn(key, ".") >= len); /* one part of a path */
    if (!list)
        return NULL;
    s->members = list;
    m.key = mem_strndup(key, len);
    if (kind == SPEC_TEXT)
        m.text = mem_strdup(text);
    if (kind == SPEC_NODE)
        m.node = spec_alloc();
    if (!m.key || (kind == SPEC_TEXT && !m.text) || (kind == SPEC_NODE && !m.node)) {
        mem_free(m.key);
        mem_free(m.text);
        spec_free(m.node);
        return NULL;
    }
    list[s->count] = m;
    root->total++;
    return &list[s->count++];
}

int spec_put(struct spec *root, const char *path, enum spec_kind kind, const char *text)
{
    struct spec *s = root;

    assert((kind == SPEC_TEXT) == (text != NULL));
    for (unsigned depth = 1;; depth++) {
        size_t n = strcspn(path, ".");
        bool last = path[n] == '\0';
        struct spec_member *m = find(s, path, n);
        if (n == 0)
            return -EINVAL;
        if (depth > SPEC_DEPTH_MAX || n >= SPEC_PATH_MAX)
            return -E2BIG;
        if (m && last && kind == SPEC_NODE && m->kind == SPEC_NODE)
            return 0; /* some of it was written with dots */
        if (m && (last || m->kind != SPEC_NODE))
            return -EEXIST;
        if (!m && root->total == SPEC_MEMBERS_MAX)
            return -E2BIG;
        if (!m)
            m = add(root, s, path, n, last ? kind : SPEC_NODE, last ? text : NULL);
        if (!m)
            return -ENOMEM;
        if (last)
            return 0;
        assert(m->kind == SPEC_NODE && m->node != NULL);
        s = m->node;
        path += n + 1;
    }
}

int spec_put_failed(const char *shown, const char *path, int rc)
{
    switch (-rc) {
    case EEXIST: return err_set(EINVAL, "%.*s: option '%.100s' is there twice", SPEC_SHOWN(shown), path);
    case EINVAL: return err_set(EINVAL, "%.*s: an option without a name", SPEC_SHOWN(shown));
    case E2BIG: return err_set(EINVAL, "%.*s: nested too deeply, or too many options", SPEC_SHOWN(shown));
    default: return err_set(rc, "out of memory");
    }
}
