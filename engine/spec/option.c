/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Options of nodes against tables: see option.h. */
#include "engine/spec/option.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "engine/base/bits.h"
#include "engine/base/error.h"
#include "engine/spec/secret.h"
#include "engine/spec/size.h"

static const char *const discards[] = {"unmap", "on", "ignore", "off", NULL};
static const char *const detects[] = {"off", "on", "unmap", NULL};

const struct option_desc common_options[] = {
    {"driver", OPTION_TEXT, false, NULL, "which driver this node has; found out where it is not said", NULL},
    {"node-name", OPTION_TEXT, false, NULL, "accepted: nothing refers to nodes by name", NULL},
    {"read-only", OPTION_BOOL, false, "off", "on: the image is not to be opened for writing", NULL},
    {"auto-read-only", OPTION_BOOL, false, "off", "accepted: what is opened read-only stays so", NULL},
    {"force-share", OPTION_BOOL, false, "off", "on: for reading, whoever else writes to it", NULL},
    {"cache.direct", OPTION_BOOL, false, NULL, "on: O_DIRECT, where the host has it; off: the page cache", NULL},
    {"cache.no-flush", OPTION_BOOL, false, "off", "on: flushes do nothing (scratch copies)", NULL},
    {"discard", OPTION_CHOICE, false, "unmap", "ignore or off: discarded space is kept", discards},
    {"detect-zeroes", OPTION_CHOICE, false, "off", "accepted: zeros that are written are written", detects},
    {NULL, OPTION_TEXT, false, NULL, NULL, NULL},
};

/* ---- values --------------------------------------------------------------------------------------------- */

const char *option_type_name(enum option_type type)
{
    switch (type) {
    case OPTION_TEXT: return "text";
    case OPTION_BOOL: return "bool";
    case OPTION_SIZE: return "size";
    case OPTION_CHOICE: return "choice";
    case OPTION_SECRET: return "secret";
    case OPTION_NODE: return "node";
    case OPTION_NODE_OR_NULL: return "node or null";
    }
    return "?";
}

bool option_bool(const struct spec *s, const char *path, bool fallback)
{
    const char *text = spec_text(s, path);
    bool value = fallback;

    if (text)
        parse_bool(text, &value);
    return value;
}

uint64_t option_size(const struct spec *s, const char *path, uint64_t fallback)
{
    const char *text = spec_text(s, path);
    uint64_t value = fallback;

    if (text)
        parse_size(text, &value);
    return value;
}

bool option_is(const struct spec *s, const char *path, const char *value)
{
    const char *text = spec_text(s, path);

    return text && strcmp(text, value) == 0;
}

bool option_keeps_discarded(const struct spec *s)
{
    return option_is(s, "discard", "ignore") || option_is(s, "discard", "off");
}

/* ---- judging -------------------------------------------------------------------------------------------- */

struct judge {
    const char               *shown, *driver;
    const struct option_desc *own;
};

static const struct option_desc *find_in(const struct option_desc *table, const char *path)
{
    for (; table && table->name; table++)
        if (strcmp(table->name, path) == 0)
            return table;
    return NULL;
}

/* "a, b, c" of a table, as far as it fits. */
static size_t list_names(const struct option_desc *table, char *buf, size_t len, size_t used)
{
    assert(used < len && buf[used] == '\0');
    for (; table && table->name && used < len; table++)
        used += (size_t)snprintf(buf + used, len - used, "%s%s", used ? ", " : "", table->name);
    return min_u64(used, len - 1);
}

static int unknown_option(const struct judge *j, const char *path)
{
    char names[512] = "";

    list_names(common_options, names, sizeof names, list_names(j->own, names, sizeof names, 0));
    return err_set(EINVAL, "%.*s: driver '%s' has no option '%.100s'; it has: %s", SPEC_SHOWN(j->shown), j->driver,
                   path, names);
}

static int wrong(const struct judge *j, const char *path, const char *text, const char *takes)
{
    return err_set(EINVAL, "%.*s: option '%s' of driver '%s' takes %s, not '%.100s'", SPEC_SHOWN(j->shown), path,
                   j->driver, takes, text);
}

static int check_choice(const struct judge *j, const struct option_desc *d, const char *text)
{
    char names[128] = "";
    size_t used = 0;

    assert(d->type == OPTION_CHOICE && d->choices && d->choices[0]);
    for (const char *const *c = d->choices; *c; c++) {
        if (strcmp(*c, text) == 0)
            return 0;
        used += (size_t)snprintf(names + used, sizeof names - used, "%s%s", used ? ", " : "one of ", *c);
        used = min_u64(used, sizeof names - 1);
    }
    return wrong(j, d->name, text, names);
}

static int check_text(const struct judge *j, const struct option_desc *d, const char *text)
{
    uint64_t size;
    bool yes;

    assert((d->type == OPTION_CHOICE) == (d->choices != NULL));
    switch (d->type) {
    case OPTION_TEXT: return text[0] ? 0 : wrong(j, d->name, text, "a text with something in it");
    case OPTION_BOOL: return parse_bool(text, &yes) == 0 ? 0 : wrong(j, d->name, text, "on or off");
    case OPTION_SIZE:
        if (parse_size(text, &size) == 0 && size <= INT64_MAX)
            return 0;
        return wrong(j, d->name, text, "bytes below 2^63, or a number with k, M, G, T, P or E");
    case OPTION_CHOICE: return check_choice(j, d, text);
    case OPTION_SECRET:
        if (secret_exists(text))
            return 0;
        return err_hint(err_set(EINVAL, "%.*s: option '%s': there is no secret '%.100s'", SPEC_SHOWN(j->shown),
                                d->name, text), "give it before, with --object secret,id=...");
    case OPTION_NODE_OR_NULL:
        if (text[0] == '\0')
            return 0;
        __attribute__((fallthrough));
    case OPTION_NODE:
        err_set(EINVAL, "%.*s: '%s' refers to the node '%.100s', and there are no nodes to refer to",
                SPEC_SHOWN(j->shown), d->name, text);
        return err_hint(-EINVAL, "write the child itself: %s.driver=..., %s.filename=...", d->name, d->name);
    }
    return 0;
}

static bool is_node(const struct option_desc *d)
{
    return d && (d->type == OPTION_NODE || d->type == OPTION_NODE_OR_NULL);
}

/* `path`, `len` bytes of it, is the way to `s`. As deep as the tree. */
static int check_below(const struct judge *j, const struct spec *s, char *path, size_t len)
{
    int rc = 0;

    assert(len < SPEC_PATH_MAX && path[len] == '\0');
    for (unsigned i = 0; i < s->count && rc == 0; i++) {
        const struct spec_member *m = &s->members[i];
        size_t at = len + (size_t)snprintf(path + len, SPEC_PATH_MAX - len, "%s%s", len ? "." : "", m->key);
        const struct option_desc *d = find_in(j->own, path);
        if (at >= SPEC_PATH_MAX)
            return unknown_option(j, path);
        if (!d)
            d = find_in(common_options, path);
        if (m->kind == SPEC_NODE && !is_node(d) && m->node->count > 0 && !d)
            rc = check_below(j, m->node, path, at);
        else if (!d)
            rc = unknown_option(j, path);
        else if (m->kind == SPEC_NODE)
            rc = is_node(d) ? 0 : wrong(j, path, "{...}", option_type_name(d->type));
        else if (m->kind == SPEC_NULL)
            rc = d->type == OPTION_NODE_OR_NULL ? 0 : wrong(j, path, "null", option_type_name(d->type));
        else
            rc = check_text(j, d, m->text);
    }
    return rc;
}

int options_check(const char *shown, const char *driver, const struct option_desc *own, const struct spec *s)
{
    struct judge j = {.shown = shown, .driver = driver, .own = own};
    char path[SPEC_PATH_MAX] = "";
    int rc = check_below(&j, s, path, 0);

    for (const struct option_desc *d = own; rc == 0 && d && d->name; d++)
        if (d->required && !spec_get(s, d->name))
            rc = err_set(EINVAL, "%.*s: option '%s' is missing (driver '%s')", SPEC_SHOWN(shown), d->name, driver);
    return rc;
}
