/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "engine/backend.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/bits.h"
#include "engine/base/mem.h"
#include "engine/base/mutant.h"
#include "engine/loop/attach.h"
#include "engine/loop/range_lock.h"

void *backend_alloc(const struct backend_driver *driver, const char *name, size_t size)
{
    struct backend *b = mem_calloc(1, size);

    assert(size >= sizeof *b);
    if (!b)
        return NULL;
    b->driver = driver;
    b->name = mem_strdup(name);
    b->align = b->mem_align = b->discard_align = 1;
    b->max_transfer = 1u << 30;
    b->max_iov = 1024;
    b->rmw_locks = mem_alloc(sizeof *b->rmw_locks);
    if (!b->name || !b->rmw_locks || gate_init(&b->writes) < 0) {
        mem_free(b->rmw_locks);
        mem_free(b->name);
        mem_free(b);
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
    assert(list_empty(&b->attached));
    range_locks_finish(b->rmw_locks);
    gate_finish(&b->writes);
    mem_free(b->rmw_locks);
    mem_free(b->name);
    mem_free(b);
}

void backend_own(struct backend *b, void (*moved)(void *owner), void *owner)
{
    b->owner = owner;
    atomic_store(&b->moved, moved);
}

void backend_tell_moved(struct backend *b)
{
    void (*moved)(void *owner) = atomic_load(&b->moved);

    if (moved && !ENGINE_MUTANT(MOVED_UNTOLD))
        moved(b->owner);
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
    assert(atomic_load(&b->rmw_active) == 0 && gate_inside(&b->writes) == 0);
    assert(is_power_of_two(b->align) && is_power_of_two(b->mem_align));
    assert(b->max_transfer > 0 && b->max_iov > 0 && is_aligned(b->max_transfer, b->align));
    attach_backend_goes(b);
    b->driver->close(b);
    backend_free(b);
}

const char *backend_path(const char *name)
{
    size_t n = sizeof BACKEND_PATH_PREFIX - 1;

    return strncmp(name, BACKEND_PATH_PREFIX, n) == 0 ? name + n : name;
}
