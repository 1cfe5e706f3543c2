/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * From a node of a name's tree to a backend.
 *
 * Happy path: the node says its driver, or has a file name alone, which then tells; options are judged by the
 * driver's table; those that all drivers have become flags; the driver opens.
 * Failure modes: no such driver, options that it lacks or that are wrong, what the name asks for contradicts what
 * the caller does: -EINVAL, -ENOTSUP, -EACCES with text, and nothing has been opened. Then those of the driver.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/backend.h"
#include "engine/base/error.h"
#include "engine/base/mem.h"
#include "engine/spec/option.h"

/* ---- drivers -------------------------------------------------------------------------------------------- */

const struct backend_driver *backend_find(const char *driver)
{
    for (const struct backend_driver *const *d = backend_drivers; *d; d++)
        if ((*d)->options && strcmp((*d)->name, driver) == 0)
            return *d;
    return NULL;
}

const struct backend_driver *backend_at(unsigned index)
{
    for (const struct backend_driver *const *d = backend_drivers; *d; d++)
        if ((*d)->options && index-- == 0)
            return *d;
    return NULL;
}

/* The last one takes any name. */
static const struct backend_driver *find_by_name(const char *name)
{
    const struct backend_driver *const *d = backend_drivers;

    while (d[1] && (!(*d)->claims || !(*d)->claims(name)))
        d++;
    assert((*d)->open != NULL);
    return *d;
}

static bool takes_any(const struct backend_driver *driver)
{
    const struct backend_driver *const *d = backend_drivers;

    while (d[1])
        d++;
    return *d == driver;
}

static bool is_protocol_char(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || (c && strchr("+-._", c));
}

/* The length of what stands before a colon in front of all slashes, as in nbd://host; 0: nothing does. */
static int protocol_len(const char *name)
{
    size_t n = 0;

    while (is_protocol_char(name[n]))
        n++;
    return name[n] == ':' && n < 32 && backend_path(name) == name ? (int)n : 0;
}

/* There is no such file: but was a file meant? */
static int not_found(const char *name, uint32_t flags)
{
    int n = protocol_len(name);

    if (n == 0)
        return -ENOENT;
    err_set(ENOTSUP, "%s: the protocol '%.*s' is not supported, and there is no file of that name", name, n, name);
    return err_hint(-ENOTSUP, flags & BACKEND_CREATE
                    ? "a file of that name: write ./NAME or file:NAME"
                    : "only files and block devices can be opened: attach it to the host as a block device");
}

/* One who takes any name would make a file of it that nobody meant; one that is there can be meant. */
static bool is_unmeant(const struct backend_driver *driver, const char *name, const struct spec *options,
                       uint32_t flags)
{
    struct backend_id id;

    return flags & BACKEND_CREATE && takes_any(driver) && protocol_len(name) > 0 &&
           !(driver->identify && driver->identify(options, &id));
}

/* ---- nodes ---------------------------------------------------------------------------------------------- */

int backend_node_flags(const char *shown, const struct spec *node, uint32_t flags, uint32_t *ret)
{
    const char *direct = spec_text(node, "cache.direct");

    if (direct)
        flags = option_bool(node, "cache.direct", true) ? flags & ~(uint32_t)BACKEND_BUFFERED
                                                        : flags | BACKEND_BUFFERED;
    if (option_bool(node, "cache.no-flush", false))
        flags |= BACKEND_UNSAFE;
    if (option_bool(node, "force-share", false))
        flags |= BACKEND_SHARE;
    if (flags & BACKEND_RDWR && option_bool(node, "read-only", false))
        return err_hint(err_set(EACCES, "%.*s: is to be written, and says read-only=on", SPEC_SHOWN(shown)),
                        "open it read-only, or without that option");
    if (flags & BACKEND_RDWR && flags & BACKEND_SHARE)
        return err_set(EINVAL, "%.*s: force-share=on is for reading only", SPEC_SHOWN(shown));
    *ret = flags;
    return 0;
}

/* All of `from` but its file name joins what that has given. */
static int join(const char *shown, const struct spec *from, struct spec *to)
{
    for (unsigned i = 0; i < from->count; i++) {
        const struct spec_member *m = &from->members[i];
        int rc = 0;
        if (strcmp(m->key, "filename") != 0)
            rc = spec_copy(to, m);
        if (rc < 0)
            return spec_put_failed(shown, m->key, rc);
    }
    return 0;
}

/* A node without a driver: what its file name says, and the rest of it. *ret is the caller's. */
static int options_by_name(const char *shown, const struct spec *node, const struct backend_driver **ret_driver,
                           struct spec **ret)
{
    const char *name = spec_text(node, "filename");
    struct spec *s;
    int rc;

    if (!name)
        return err_set(EINVAL, "%.*s: a node has neither 'driver' nor 'filename'", SPEC_SHOWN(shown));
    s = spec_alloc();
    if (!s)
        return err_set(ENOMEM, "out of memory");
    *ret_driver = find_by_name(name);
    rc = (*ret_driver)->parse ? (*ret_driver)->parse(name, s) : 0;
    if (rc == -ENOMEM)
        err_set(ENOMEM, "out of memory");
    if (rc == 0)
        rc = join(shown, node, s);
    if (rc < 0)
        spec_free(s);
    else
        *ret = s;
    return rc;
}

const struct backend_driver *backend_driver_of(const struct spec *node)
{
    const char *driver = spec_text(node, "driver"), *name = spec_text(node, "filename");

    return driver ? backend_find(driver) : name ? find_by_name(name) : NULL;
}

/* What messages call it: a plain name that means the same, or else the tree. malloc'ed; NULL: out of memory. */
static char *plain_name(const struct spec *node)
{
    const char *path = spec_text(node, "filename");
    char *out = NULL;

    if (!path)
        return spec_print(node);
    if (protocol_len(path) == 0 && backend_path(path) == path)
        return mem_strdup(path);
    return mem_asprintf(&out, BACKEND_PATH_PREFIX "%s", path) < 0 ? NULL : out;
}

/* The driver and all options of a node; *ret_own is to be freed, NULL if *ret_options is the node itself. */
static int resolve(const char *shown, const struct spec *node, const struct backend_driver **ret_driver,
                   const struct spec **ret_options, struct spec **ret_own)
{
    const char *driver = spec_text(node, "driver");
    int rc = 0;

    *ret_own = NULL;
    *ret_options = node;
    if (!driver) {
        rc = options_by_name(shown, node, ret_driver, ret_own);
        *ret_options = *ret_own;
    } else {
        *ret_driver = backend_find(driver);
        if (!*ret_driver)
            rc = err_set(ENOTSUP, "%.*s: driver '%.100s' is not supported here", SPEC_SHOWN(shown), driver);
    }
    if (rc == 0)
        rc = options_check(shown, (*ret_driver)->name, (*ret_driver)->options, *ret_options);
    assert(rc < 0 || (*ret_driver && *ret_options));
    if (rc < 0)
        spec_free(*ret_own);
    return rc;
}

/* What engine/backend.h wants of a backend that has been opened, for all that reckon with it. */
static void backend_assert(const struct backend *b, uint32_t flags)
{
    assert(b->name != NULL && b->driver && b->driver->submit && b->driver->close);
    assert(is_power_of_two(b->align) && is_power_of_two(b->mem_align));
    assert(b->max_transfer > 0 && is_aligned(b->max_transfer, b->align) && b->max_iov > 0);
    assert(!(flags & (BACKEND_RDWR | BACKEND_CREATE)) || !b->read_only);
    assert(!b->driver->attach == !b->driver->detach);
    assert(!b->made || flags & BACKEND_CREATE);
}

int backend_open_node(const char *shown, const struct spec *node, uint32_t flags, struct backend **ret_backend)
{
    const struct backend_driver *driver = NULL;
    const struct spec *options = NULL;
    struct spec *own = NULL;
    char *name;
    int rc = resolve(shown, node, &driver, &options, &own);

    if (rc < 0)
        return rc;
    rc = backend_node_flags(shown, options, flags, &flags);
    name = spec_text(node, "driver") ? plain_name(options) : mem_strdup(spec_text(node, "filename"));
    if (!name && rc == 0)
        rc = err_set(ENOMEM, "out of memory");
    if (rc == 0) {
        rc = is_unmeant(driver, name, options, flags) ? -ENOENT : driver->open(name, options, flags, ret_backend);
        if (rc == 0)
            backend_assert(*ret_backend, flags);
        if (rc == 0 && option_keeps_discarded(options))
            (*ret_backend)->caps &= ~(uint32_t)BACKEND_DISCARD;
        /* Only who takes any name takes one with a protocol that he does not know. */
        if (rc == -ENOENT && takes_any(driver))
            rc = not_found(name, flags);
    }
    mem_free(name);
    spec_free(own);
    return rc;
}

bool backend_identify_node(const struct spec *node, struct backend_id *ret_id)
{
    const struct backend_driver *driver = NULL;
    const struct spec *options = NULL;
    struct spec *own = NULL;
    bool found;

    if (resolve("", node, &driver, &options, &own) < 0)
        return false;
    found = driver->identify && driver->identify(options, ret_id);
    spec_free(own);
    return found;
}

/* ---- names ---------------------------------------------------------------------------------------------- */

int backend_file_of(const char *shown, const struct spec *root, const struct spec **ret)
{
    const char *driver = spec_text(root, "driver");
    const struct spec_member *file = spec_get(root, SPEC_FILE);

    if ((driver && backend_find(driver)) || (!driver && spec_get(root, "filename"))) {
        *ret = root;
        return 0;
    }
    if (file && file->kind == SPEC_NODE) {
        *ret = file->node;
        return 0;
    }
    if (file && file->kind == SPEC_TEXT)
        return err_set(EINVAL, "%.*s: '%s' refers to the node '%.100s', and there are no nodes to refer to",
                       SPEC_SHOWN(shown), file->key, file->text);
    return err_set(EINVAL, "%.*s: option '%s' is missing", SPEC_SHOWN(shown), SPEC_FILE);
}

int backend_open(const char *name, uint32_t flags, struct backend **ret_backend)
{
    const struct spec *node = NULL;
    struct spec *root = NULL;
    int rc;

    if (name[0] == '\0')
        return err_set(ENOENT, "the empty name: %s", strerror(ENOENT));
    if (flags & BACKEND_CREATE && spec_is_tree(name))
        return err_hint(err_set(ENOTSUP, "%.200s: a name with a driver cannot be created", name), "give the path");
    rc = spec_parse(name, &root);
    if (rc < 0)
        return rc;
    rc = backend_file_of(name, root, &node);
    assert(rc < 0 || node != NULL);
    if (rc == 0)
        rc = backend_node_flags(name, root, flags, &flags);
    if (rc == 0)
        rc = backend_open_node(name, node, flags, ret_backend);
    spec_free(root);
    return rc;
}

int backend_list(const char *name, int (*fn)(void *arg, const struct vdisk_export_info *info), void *arg)
{
    const struct backend_driver *driver = NULL;
    const struct spec *node = NULL, *options = NULL;
    struct spec *root = NULL, *own = NULL;
    int rc = spec_parse(name, &root);

    if (rc < 0)
        return rc;
    rc = backend_file_of(name, root, &node);
    if (rc == 0)
        rc = resolve(name, node, &driver, &options, &own);
    if (rc < 0) {
        spec_free(root);
        return rc;
    }
    rc = driver->list ? driver->list(name, options, fn, arg)
                      : err_hint(err_set(ENOTSUP, "%.*s: is of the driver '%s', which has no exports",
                                         SPEC_SHOWN(name), driver->name),
                                 "a server is named as nbd://HOST[:PORT] or nbd+unix:///?socket=PATH");
    spec_free(own);
    spec_free(root);
    return rc;
}

bool backend_identify(const char *name, struct backend_id *ret_id)
{
    const struct spec *node = NULL;
    struct spec *root = NULL;
    bool found;

    if (spec_parse(name, &root) < 0)
        return false;
    found = backend_file_of(name, root, &node) == 0 && backend_identify_node(node, ret_id);
    spec_free(root);
    return found;
}

int backend_check_meant(const char *name)
{
    struct backend_id id;

    if (protocol_len(name) == 0 || spec_is_tree(name) || !takes_any(find_by_name(name)) ||
        backend_identify(name, &id))
        return 0;
    return not_found(name, BACKEND_CREATE);
}
