/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Somebody else changes an image's size: `rbd resize`, which asks whoever has the lock to do it, say.
 *
 * Happy path: librbd says that something of the image has changed, on a thread that it has for that; the size is
 * asked for, and told upwards if it is another.
 * Failure modes: librbd cannot tell how large it is: the size stays, and is asked for with the next news. Who
 * has opened it for reading alone is told nothing by librbd: it has the size that it had then.
 */
#include <errno.h>

#include "backends/rbd/rbd.h"
#include "engine/base/error.h"
#include "engine/loop/after.h"

/* Somebody else has changed the size: librbd has been told, and asks the cluster once if it has. */
int rbd_refresh(struct backend *b)
{
    struct rbd_backend *rb = rbd_backend_of(b);
    uint64_t size, now;
    int rc;

    if (!rb->image) /* it has been removed */
        return -ESHUTDOWN;
    do {
        size = backend_size(b);
        rc = rb->ceph->rbd_get_size(rb->image, &now);
        if (rc < 0 || now > INT64_MAX)
            return rc < 0 ? rc : -EIO;
        if (now == size)
            return 0;
    } while (!atomic_compare_exchange_strong(&b->size, &size, now));
    backend_tell_moved(b);
    return 0;
}

/* On a thread that librbd has for such news. */
static void has_changed(void *arg)
{
    rbd_refresh(arg);
    if (err_state.depth == 0) /* no public call of ours ends here: what the program is to be told is told now */
        after_run();
}

int rbd_watch(struct rbd_backend *rb)
{
    int rc = rb->is_snapshot ? 0 : rb->ceph->rbd_update_watch(rb->image, &rb->watch, has_changed, &rb->b);

    rb->watching = rc >= 0 && !rb->is_snapshot;
    return rc < 0 ? err_set(rc, "%s: asking to be told of changes: %s", rb->b.name, strerror(-rc)) : 0;
}

void rbd_unwatch(struct rbd_backend *rb)
{
    if (rb->watching)
        rb->ceph->rbd_update_unwatch(rb->image, rb->watch);
    rb->watching = false;
}
