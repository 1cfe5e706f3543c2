/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Happy path: the smallest class that is long enough has one; the last that came back goes first, since the caches
 * know it.
 * Failures: a class that has none left makes another, which it keeps if there is room when it comes back; the
 * largest requests have memory of their own. (2 MiB is what programs copy by: fresh pages for each of these took
 * as long as their bytes.)
 */
#include "exports/nbd/pool.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { ALIGN = 4096 };

/* Length of a buffer, how many are kept, and how many of those are made and registered at once. */
static const struct {
    size_t   bytes;
    unsigned kept, slab;
} classes[NBDS_CLASSES] = {
    {4 << 10, 1024, 512}, {16 << 10, 256, 64}, {64 << 10, 128, 32}, {256 << 10, 64, 0}, {1 << 20, 32, 0},
    {2 << 20, 16, 0},
};

static int class_of(size_t len)
{
    for (int i = 0; i < NBDS_CLASSES; i++)
        if (len <= classes[i].bytes)
            return i;
    return -1;
}

static bool in_slab(const struct nbds_class *c, const void *buf)
{
    uintptr_t at = (uintptr_t)buf, slab = (uintptr_t)c->slab;

    return c->slab && at >= slab && at < slab + c->slab_bytes;
}

int nbds_pool_init(struct nbds_pool *pool)
{
    memset(pool, 0, sizeof *pool);
    for (int i = 0; i < NBDS_CLASSES; i++) {
        struct nbds_class *c = &pool->classes[i];

        c->most = classes[i].kept;
        c->free = calloc(c->most, sizeof c->free[0]);
        if (!c->free) {
            nbds_pool_free(pool);
            return -ENOMEM;
        }
        c->slab_bytes = classes[i].slab * classes[i].bytes;
        if (c->slab_bytes == 0)
            continue;
        c->slab = aligned_alloc(ALIGN, c->slab_bytes);
        if (!c->slab)
            continue;
        for (unsigned k = 0; k < classes[i].slab; k++)
            c->free[c->count++] = c->slab + (classes[i].slab - 1 - k) * classes[i].bytes;
    }
    return 0;
}

void nbds_pool_register(const struct nbds_pool *pool, vdisk_queue *queue)
{
    for (int i = 0; i < NBDS_CLASSES; i++)
        if (pool->classes[i].slab)
            vdisk_queue_add_memory(queue, pool->classes[i].slab, pool->classes[i].slab_bytes);
}

void nbds_pool_free(struct nbds_pool *pool)
{
    for (int i = 0; i < NBDS_CLASSES; i++) {
        struct nbds_class *c = &pool->classes[i];

        while (c->count > 0)
            if (!in_slab(c, c->free[--c->count]))
                free(c->free[c->count]);
        free(c->slab);
        free(c->free);
    }
    memset(pool, 0, sizeof *pool);
}

void *nbds_pool_get(struct nbds_pool *pool, size_t len)
{
    int i = class_of(len);

    assert(len > 0);
    if (i < 0)
        return aligned_alloc(ALIGN, (len + ALIGN - 1) / ALIGN * ALIGN);
    struct nbds_class *c = &pool->classes[i];
    return c->count > 0 ? c->free[--c->count] : aligned_alloc(ALIGN, classes[i].bytes);
}

void nbds_pool_put(struct nbds_pool *pool, void *buf, size_t len)
{
    int i = class_of(len);

    assert(buf && (uintptr_t)buf % ALIGN == 0);
    assert(i < 0 || pool->classes[i].count < pool->classes[i].most || !in_slab(&pool->classes[i], buf));
    /* Those of the slab always find room: it is a part of what is kept, and what is kept is not more than that. */
    if (i >= 0 && (pool->classes[i].count < pool->classes[i].most - classes[i].slab ||
                   in_slab(&pool->classes[i], buf)))
        pool->classes[i].free[pool->classes[i].count++] = buf;
    else
        free(buf);
}
