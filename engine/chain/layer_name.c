/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Names of layers.
 *
 * Happy path: parse; see whether the driver is a format, a backend, or both (raw: then its node is opened as the
 * backend that shows a part of its file, and has the format on it); find the node with the bytes; take over what
 * all drivers can be told.
 * Failure modes: see layer_name.h; nothing is left.
 */
#include "engine/chain/layer_name.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/error.h"
#include "engine/base/mem.h"
#include "engine/spec/option.h"
#include "engine/volume.h"

const struct format_driver *format_find(const char *name)
{
    for (const struct format_driver *const *f = format_drivers; *f; f++)
        if (strcmp((*f)->name, name) == 0)
            return *f;
    return NULL;
}

uint32_t layer_backend_flags(uint32_t open_flags)
{
    return (open_flags & VDISK_OPEN_RDWR ? BACKEND_RDWR : 0u) |
           (open_flags & VDISK_OPEN_BUFFERED ? BACKEND_BUFFERED : 0u) |
           (open_flags & VDISK_OPEN_NO_LOCK ? BACKEND_NO_LOCK : 0u) |
           (open_flags & VDISK_OPEN_FORCE_SHARE ? BACKEND_SHARE : 0u) |
           (open_flags & VDISK_OPEN_UNSAFE ? BACKEND_UNSAFE : 0u);
}

const char *known_formats(char *buf, size_t len)
{
    size_t used = 0;

    for (const struct format_driver *const *f = format_drivers; *f && used < len; f++) {
        const char *between = f == format_drivers ? "" : f[1] ? ", " : " and ";
        used += (size_t)snprintf(buf + used, len - used, "%s%s", between, (*f)->name);
    }
    return buf;
}

void layer_name_free(struct layer_name *n)
{
    spec_free(n->root);
    mem_free(n->name);
    memset(n, 0, sizeof *n);
}

/* The format whose bytes are its file's: raw. */
static const struct format_driver *find_plain(void)
{
    const struct format_driver *const *f = format_drivers;

    while ((*f)->options)
        f++;
    assert(*f == format_plain());
    return *f;
}

/* What messages call a node of another tree. */
static char *name_of_node(const struct spec *node)
{
    const char *path = spec_text(node, SPEC_FILE ".filename");

    if (!path)
        path = spec_text(node, "filename");
    return path ? mem_strdup(path) : spec_print(node);
}

static int unknown_driver(const struct layer_name *n, const char *driver)
{
    char formats[64];

    return err_hint(err_set(ENOTSUP, "%.*s: driver '%.100s' is not supported", SPEC_SHOWN(n->name), driver),
                    "known are %s, over files and block devices", known_formats(formats, sizeof formats));
}

static int find_asked(const struct layer_name *n, const char *format, const struct format_driver **ret)
{
    char formats[64];

    *ret = format ? format_find(format) : NULL;
    if (!format || *ret)
        return 0;
    return err_set(EINVAL, "%.*s: unknown format '%s'; known are %s", SPEC_SHOWN(n->name), format,
                   known_formats(formats, sizeof formats));
}

/*
 * The format, from what is asked for and what the name says. A backend's driver alone says that its bytes are the
 * volume's, if nothing else is asked for.
 */
static int find_format(struct layer_name *n, const char *asked)
{
    const char *driver = spec_text(n->root, "driver");
    const struct format_driver *said = driver ? format_find(driver) : NULL;
    bool is_backend = driver && backend_find(driver);
    int rc = find_asked(n, asked, &n->format);

    if (rc < 0)
        return rc;
    if (driver && !said && !is_backend)
        return unknown_driver(n, driver);
    if (n->format && said && said != n->format)
        return err_set(EINVAL, "%.*s: format '%s' is asked for, but its name says '%s'", SPEC_SHOWN(n->name),
                       n->format->name, said->name);
    if (!n->format)
        n->format = said ? said : is_backend ? find_plain() : NULL;
    /* As if it were written there, unless the node is the file itself. */
    if (n->format && !driver && !spec_get(n->root, "filename"))
        rc = spec_put(n->root, "driver", SPEC_TEXT, n->format->name);
    return rc < 0 ? spec_put_failed(n->name, "driver", rc) : 0;
}

static int find_flags(struct layer_name *n, uint32_t flags)
{
    static const uint32_t pairs[][2] = {
        {VDISK_OPEN_BUFFERED, BACKEND_BUFFERED},
        {VDISK_OPEN_UNSAFE, BACKEND_UNSAFE},
        {VDISK_OPEN_FORCE_SHARE, BACKEND_SHARE},
    };
    uint32_t backend_flags;
    int rc = backend_node_flags(n->name, n->root, layer_backend_flags(flags), &backend_flags);

    n->flags = flags;
    for (size_t i = 0; rc == 0 && i < sizeof pairs / sizeof pairs[0]; i++)
        n->flags = backend_flags & pairs[i][1] ? n->flags | pairs[i][0] : n->flags & ~pairs[i][0];
    return rc;
}

/* The table of a format's node; one that is a backend as well has that one's. */
static const struct option_desc *options_of(const struct format_driver *format)
{
    const struct backend_driver *b = format->options ? NULL : backend_find(format->name);

    return b ? b->options : format->options;
}

int layer_name_check(const struct layer_name *n, const struct format_driver *format)
{
    static const struct option_desc file_only[] = {
        {SPEC_FILE, OPTION_NODE, true, NULL, "", NULL},
        {NULL, OPTION_TEXT, false, NULL, NULL, NULL},
    };
    bool by_backend = !format->options && backend_find(format->name);
    int rc;

    if (n->file == n->root)
        return 0; /* who opens it looks */
    if (!by_backend)
        return options_check(n->name, format->name, options_of(format), n->root);
    rc = options_check(n->name, format->name, file_only, n->root);
    return rc < 0 ? err_hint(rc, "what else it has it takes with driver=%s", format->name) : 0;
}

/* n->name and n->root are there. */
static int settle(struct layer_name *n, const char *format, uint32_t flags)
{
    int rc = find_format(n, format);

    if (rc == 0)
        rc = backend_file_of(n->name, n->root, &n->file);
    assert(rc < 0 || n->file != NULL);
    if (rc == 0 && n->format)
        rc = layer_name_check(n, n->format);
    return rc == 0 ? find_flags(n, flags) : rc;
}

int layer_name_parse(const char *name, const struct spec *node, const char *format, uint32_t flags,
                     struct layer_name *ret)
{
    struct layer_name n = {0};
    int rc = 0;

    assert(!node == (name != NULL)); /* one of them */
    if (node)
        n.root = spec_clone(node);
    else
        rc = spec_parse(name, &n.root);
    if (rc < 0)
        return rc;
    n.name = node ? name_of_node(node) : mem_strdup(name);
    rc = n.root && n.name ? settle(&n, format, flags) : err_set(ENOMEM, "out of memory");
    if (rc < 0)
        layer_name_free(&n);
    else
        *ret = n;
    return rc;
}

int layer_name_stored(const char *name, const char *format, uint32_t flags, struct layer_name *ret)
{
    if (spec_is_tree(name) && !spec_is_json(name))
        return err_set(ENOTSUP, "%.200s: a name that cannot stand in an image", name);
    return layer_name_parse(name, NULL, format, flags, ret);
}

const struct spec *layer_name_backing(const struct spec *root, bool *ret_none)
{
    const struct spec_member *m = root ? spec_get(root, SPEC_BACKING) : NULL;

    *ret_none = m && m->kind != SPEC_NODE;
    return m && m->kind == SPEC_NODE ? m->node : NULL;
}

/* ---- shown ---------------------------------------------------------------------------------------------- */

/* Of a backend: does it say where bytes are, or how something is done with them? */
static bool tells_which(const char *key)
{
    static const char *const hows[] = {"locking", "aio", "aio-max-batch", "drop-cache", "driver"};

    for (const struct option_desc *d = common_options; d->name; d++)
        if (strcmp(d->name, key) == 0)
            return false;
    for (size_t i = 0; i < sizeof hows / sizeof hows[0]; i++)
        if (strcmp(hows[i], key) == 0)
            return false;
    return true;
}

/*
 * What makes a difference of `node`, at `path` of `out`; down to the backend that has no file below. `format`: it
 * has that one, and of its own options none does; NULL: it is a backend.
 */
static int show_node(struct spec *out, const char *path, const struct spec *node,
                     const struct format_driver *format)
{
    const struct backend_driver *b = backend_driver_of(node);
    const struct spec *file = spec_node(node, SPEC_FILE);
    char below[SPEC_PATH_MAX];
    int rc;

    assert(path[0] == '\0' || path[strlen(path) - 1] == '.');
    snprintf(below, sizeof below, "%sdriver", path);
    rc = spec_put(out, below, SPEC_TEXT, format ? format->name : b ? b->name : "");
    for (unsigned i = 0; i < node->count && rc == 0 && !format; i++) {
        const struct spec_member *m = &node->members[i];
        snprintf(below, sizeof below, "%s%s", path, m->key);
        if (m->kind == SPEC_TEXT && tells_which(m->key))
            rc = spec_put(out, below, SPEC_TEXT,
                          strcmp(m->key, "filename") == 0 ? backend_path(m->text) : m->text);
    }
    if (rc < 0 || !file)
        return rc;
    snprintf(below, sizeof below, "%s" SPEC_FILE ".", path);
    return show_node(out, below, file, NULL);
}

static const struct spec *innermost(const struct spec *node)
{
    while (spec_node(node, SPEC_FILE))
        node = spec_node(node, SPEC_FILE);
    return node;
}

const char *layer_name_path(const struct layer_name *n)
{
    return spec_text(innermost(n->file), "filename");
}

const char *layer_name_storage(const struct spec *root)
{
    const struct backend_driver *b = backend_driver_of(innermost(root));

    return b ? b->name : "";
}

/* A path, or a driver with one, and nothing below. */
static bool is_plain_file(const struct spec *node)
{
    return node && !spec_node(node, SPEC_FILE) && spec_text(node, "filename");
}

static bool is_plain(const struct spec *root, const struct format_driver *format)
{
    const struct spec *file = spec_node(root, SPEC_FILE);

    if (spec_node(root, SPEC_BACKING))
        return false;
    if (!file)
        return is_plain_file(root);
    return is_plain_file(file) && (format->options || (!spec_get(root, "offset") && !spec_get(root, "size")));
}

char *layer_name_shown(const struct spec *root, const struct format_driver *format, const char *plain)
{
    bool has_backing = root && spec_node(root, SPEC_BACKING);
    const struct spec *file = root ? spec_node(root, SPEC_FILE) : NULL;
    struct spec *out;
    char *text = NULL;
    int rc;

    if (!root || is_plain(root, format))
        return mem_strdup(backend_path(plain));
    out = spec_alloc();
    if (!out)
        return NULL;
    rc = show_node(out, "", root, file && format->options ? format : NULL);
    if (rc == 0 && has_backing)
        rc = spec_copy(out, spec_get(root, SPEC_BACKING));
    if (rc == 0)
        text = spec_print(out);
    spec_free(out);
    return text;
}
