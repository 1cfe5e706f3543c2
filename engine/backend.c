/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "engine/backend.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/attach.h"
#include "engine/error.h"
#include "engine/json_name.h"
#include "engine/range_lock.h"

void *backend_alloc(const struct backend_driver *driver, const char *name, size_t size)
{
    struct backend *b = calloc(1, size);

    assert(size >= sizeof *b);
    if (!b)
        return NULL;
    b->driver = driver;
    b->name = strdup(name);
    b->align = b->mem_align = b->discard_align = 1;
    b->max_transfer = 1u << 30;
    b->max_iov = 1024;
    b->rmw_locks = malloc(sizeof *b->rmw_locks);
    if (!b->name || !b->rmw_locks || gate_init(&b->writes) < 0) {
        free(b->rmw_locks);
        free(b->name);
        free(b);
        return NULL;
    }
    range_locks_init(b->rmw_locks);
    list_init(&b->attached);
    return b;
}

void backend_free(struct backend *b)
{
    if (!b)
        return;
    range_locks_finish(b->rmw_locks);
    gate_finish(&b->writes);
    free(b->rmw_locks);
    free(b->name);
    free(b);
}

/* The file or device that a json: name leads to. */
static int open_json(const char *name, uint32_t flags, struct backend **ret_backend)
{
    struct json_name n;
    struct backend *b = NULL;
    int rc;

    if (flags & BACKEND_CREATE)
        return err_hint(err_set(ENOTSUP, "%.200s: a json: name cannot be created", name), "give the path");
    rc = json_name_parse(name, &n);
    if (rc < 0)
        return rc;
    rc = backend_open(n.file, flags, &b);
    if (rc == 0 && n.backend && strcmp(n.backend, b->driver->name) != 0) {
        rc = err_set(EINVAL, "%s: is %s", n.file,
                     strcmp(n.backend, "file") == 0 ? "not a regular file, as driver 'file' needs"
                                                    : "not a block device, as driver 'host_device' needs");
        backend_close(b);
    }
    json_name_free(&n);
    if (rc == 0)
        *ret_backend = b;
    return rc;
}

/* The length of what stands before a colon in front of all slashes, as in nbd://host; 0: nothing does. */
static int protocol_len(const char *name)
{
    size_t n = strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+-._");

    return name[n] == ':' && n < 32 && strncmp(name, "file:", 5) != 0 ? (int)n : 0;
}

/* There is no such file: but was a file meant? */
static int not_found(const char *name)
{
    int n = protocol_len(name);

    if (n == 0)
        return -ENOENT;
    return err_hint(err_set(ENOTSUP, "%s: the protocol '%.*s' is not supported, and there is no file of that name",
                            name, n, name),
                    "only files and block devices can be opened: attach it to the host as a block device");
}

int backend_open(const char *name, uint32_t flags, struct backend **ret_backend)
{
    int rc;

    if (is_json_name(name))
        return open_json(name, flags, ret_backend);
    for (const struct backend_driver *const *d = backend_drivers; *d; d++)
        if ((*d)->claims(name)) {
            rc = (*d)->open(name, flags, ret_backend);
            /* Only who takes any name takes one with a protocol that he does not know. */
            return rc == -ENOENT && strcmp((*d)->name, "file") == 0 ? not_found(name) : rc;
        }
    return err_set(EINVAL, "%s: no backend takes such a name", name);
}

bool backend_identify(const char *name, struct backend_id *ret_id)
{
    if (is_json_name(name)) {
        struct json_name n;
        bool found;
        if (json_name_parse(name, &n) < 0)
            return false;
        found = backend_identify(n.file, ret_id);
        json_name_free(&n);
        return found;
    }
    for (const struct backend_driver *const *d = backend_drivers; *d; d++)
        if ((*d)->claims(name))
            return (*d)->identify && (*d)->identify(name, ret_id);
    return false;
}

bool backend_is(const struct backend *b, const struct backend_id *id)
{
    return (id->device || id->node) && b->id.device == id->device && b->id.node == id->node;
}

bool backend_reaches_past(struct backend *b, uint64_t size)
{
    if (backend_size(b) <= size && b->driver->refresh)
        b->driver->refresh(b); /* what it does not know now it does not tell */
    return backend_size(b) > size;
}

void backend_close(struct backend *b)
{
    if (!b)
        return;
    assert(atomic_load(&b->rmw_active) == 0);
    attach_backend_goes(b);
    b->driver->close(b);
    backend_free(b);
}

const char *backend_path(const char *name)
{
    return strncmp(name, "file:", 5) == 0 ? name + 5 : name;
}
