/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The synchronous wrappers: one request at a time on the volume's own queue. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/error.h"
#include "engine/queue.h"
#include "engine/volume.h"

vdisk_queue *vdisk_sync_queue(vdisk *v)
{
    pthread_mutex_lock(&v->sync_lock);
    return v->sync_queue;
}

void vdisk_sync_queue_done(vdisk *v)
{
    queue_current = NULL; /* the next call may come from another thread */
    pthread_mutex_unlock(&v->sync_lock);
}

/* The request has been enqueued. */
static int finish(vdisk *v, const char *what)
{
    struct vdisk_completion c;
    int n;

    do
        n = vdisk_reap(v->sync_queue, &c, 1, 1, NULL);
    while (n == 0 || n == -EINTR);
    vdisk_sync_queue_done(v);
    if (n < 0)
        return err_set(n, "%s: %s: %s", v->name, what, strerror(-n));
    if (c.result == -EIO && atomic_load_explicit(&v->has_trouble, memory_order_acquire))
        return err_set(EIO, "%s: %s: %s", v->name, what, v->trouble);
    if (c.result < 0)
        volume_hint(v, err_set(c.result, "%s: %s: %s", v->name, what, strerror(-c.result)));
    if (c.result == -EPERM && v->guarded)
        err_hint(c.result, "it would begin like an image of another format: open it with the format raw");
    return c.result;
}

int vdisk_pread(vdisk *v, void *buf, size_t len, uint64_t offset)
{
    vdisk_read(vdisk_sync_queue(v), v, offset, buf, len, 0, 0);
    return ERR_CALL(finish(v, "read"));
}

int vdisk_pwrite(vdisk *v, const void *buf, size_t len, uint64_t offset, uint32_t flags)
{
    vdisk_write(vdisk_sync_queue(v), v, offset, buf, len, flags, 0);
    return ERR_CALL(finish(v, "write"));
}

int vdisk_pzero(vdisk *v, uint64_t len, uint64_t offset, uint32_t flags)
{
    vdisk_write_zeroes(vdisk_sync_queue(v), v, offset, len, flags, 0);
    return ERR_CALL(finish(v, "write zeroes"));
}

int vdisk_pdiscard(vdisk *v, uint64_t len, uint64_t offset)
{
    vdisk_discard(vdisk_sync_queue(v), v, offset, len, 0, 0);
    return ERR_CALL(finish(v, "discard"));
}

int vdisk_sync(vdisk *v)
{
    vdisk_flush(vdisk_sync_queue(v), v, 0, 0);
    return ERR_CALL(finish(v, "flush"));
}

int vdisk_pextents(vdisk *v, uint64_t len, uint64_t offset, struct vdisk_extents *extents)
{
    vdisk_get_extents(vdisk_sync_queue(v), v, offset, len, extents, 0);
    return ERR_CALL(finish(v, "block status"));
}

void *vdisk_alloc_buffer(size_t len)
{
    void *p = NULL;

    return posix_memalign(&p, 4096, len ? len : 1) == 0 ? p : NULL;
}
