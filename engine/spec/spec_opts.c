/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Trees written as "key=value,key=value", keys with dots, commas in values doubled: as after --image-opts.
 *
 * Failure modes: no key, a key twice, too long, too deep, too many: -EINVAL with text.
 */
#include <assert.h>
#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/error.h"
#include "engine/base/mem.h"
#include "engine/spec.h"

/* A value, up to a single comma or the end, into `to`; returns where it ends. */
static const char *take_text(const char *p, char *to)
{
    for (; *p; p++) {
        if (*p == ',' && *++p != ',')
            break;
        *to++ = *p;
    }
    *to = '\0';
    return p;
}

struct item {
    const char *key;
    const char *value;
};

/* A word without "=": as QEMU has it. `node-name` does not begin with a no. */
static struct item bare_word(const char *word, const char *implied, bool first)
{
    if (first && implied)
        return (struct item){implied, word};
    if (strncmp(word, "no", 2) == 0 && strncmp(word, "node", 4) != 0)
        return (struct item){word + 2, "off"};
    return (struct item){word, "on"};
}

static int take_items(const char *text, const char *implied, char *buf, struct spec *root, const char *shown)
{
    const char *p = text;
    int rc = 0;

    while (*p && rc == 0) {
        size_t n = strcspn(p, "=,");
        assert(n <= SPEC_BYTES_MAX);
        struct item item;
        if (p[n] == '=') {
            memcpy(buf, p, n);
            buf[n] = '\0';
            item = (struct item){buf, buf + n + 1};
            p = take_text(p + n + 1, buf + n + 1);
        } else {
            bool first = p == text;
            p = take_text(p, buf);
            item = bare_word(buf, implied, first);
        }
        if (strlen(item.key) >= SPEC_PATH_MAX)
            rc = -E2BIG;
        else
            rc = spec_put(root, item.key, SPEC_TEXT, item.value);
        assert(strlen(item.value) <= SPEC_BYTES_MAX);
        if (rc < 0)
            spec_put_failed(shown, item.key, rc);
    }
    assert(rc < 0 || *p == '\0'); /* all of it was taken */
    return rc == -ENOMEM ? rc : rc < 0 ? -EINVAL : 0;
}

int spec_parse_opts(const char *shown, const char *text, const char *implied, struct spec **ret)
{
    size_t len = strnlen(text, SPEC_BYTES_MAX + 1);
    struct spec *root;
    char *buf;
    int rc;

    if (len > SPEC_BYTES_MAX)
        return err_set(EINVAL, "%.*s: too long", SPEC_SHOWN(shown));
    root = spec_alloc();
    buf = mem_alloc(len + 1);
    rc = root && buf ? take_items(text, implied, buf, root, shown) : err_set(ENOMEM, "out of memory");
    if (buf)
        explicit_bzero(buf, len + 1);
    mem_free(buf);
    if (rc < 0)
        spec_free(root);
    else
        *ret = root;
    return rc;
}
