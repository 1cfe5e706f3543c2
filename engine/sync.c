/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The synchronous calls: one request at a time on a queue of the calling thread's own. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/error.h"
#include "engine/base/short_lock.h"
#include "engine/loop/queue.h"
#include "engine/volume.h"

int volume_check_handle(const vdisk *v)
{
    if (!v)
        return err_set(EINVAL, "no volume is given");
    if (v->generation != process_generation)
        return err_set(ECHILD, "%s: was opened by the parent process, which has it still", v->top->name);
    return 0;
}

int volume_queue(const char *name, vdisk_queue **ret_queue)
{
    int rc = thread_sync_queue(ret_queue);

    return rc < 0 ? err_prefix(rc, "%s", name) : 0;
}

/* Wait for the other call to end: it may wait for what is under way on this thread's queues. */
static void lock_manage(vdisk *v, vdisk_queue *q)
{
    static const struct timespec blink = {.tv_nsec = 1000000};
    bool turned = false;

    while (pthread_mutex_trylock(&v->manage_lock) != 0) {
        if (!thread_others_busy(q)) {
            pthread_mutex_lock(&v->manage_lock);
            break;
        }
        thread_sleep(q, &blink);
        turned = true;
    }
    if (turned)
        thread_tell_others(q); /* there may be nothing else to do that would */
}

int volume_manage(vdisk *v, vdisk_queue **ret_queue)
{
    int rc = volume_check_handle(v);

    if (rc == 0)
        rc = volume_queue(v->top->name, ret_queue);
    if (rc < 0)
        return rc;
    if (atomic_load(&v->manager) == *ret_queue)
        return err_set(EDEADLK, "%s: is being changed by this thread already", v->top->name);
    if (!(*ret_queue)->host)
        thread_adopt(*ret_queue);
    service_meet(v, *ret_queue);
    lock_manage(v, *ret_queue);
    assert_locked(&v->manage_lock);
    assert(!atomic_load(&v->manager));
    atomic_store(&v->manager, *ret_queue);
    follow_hold(v);
    return 0;
}

void volume_manage_done(vdisk *v)
{
    assert_locked(&v->manage_lock);
    assert(atomic_load(&v->manager) != NULL);
    follow_release(v);
    atomic_store(&v->manager, NULL);
    pthread_mutex_unlock(&v->manage_lock);
}

static int begin(vdisk *v, vdisk_queue **ret_queue)
{
    int rc = volume_check_handle(v);

    return rc < 0 ? rc : volume_queue(v->top->name, ret_queue);
}

/* The request has been enqueued. It uses the caller's memory: nothing but its end ends this. */
static int finish(vdisk *v, vdisk_queue *q, const char *what)
{
    struct vdisk_completion c;

    queue_take(q, &c, 1);
    assert(c.result <= 0);
    if (c.result < 0 && c.error == 0)
        return err_set(c.result, "%s: %s: %s", v->top->name, what, strerror(-c.result));
    return c.result < 0 ? request_show_error(q, &c) : 0;
}

/* Enqueue by ENQUEUE on the queue q, and wait. */
#define SYNC_CALL(v, what, ENQUEUE)                                                                            \
    do {                                                                                                       \
        vdisk_queue *q;                                                                                        \
        int rc_ = begin((v), &q);                                                                              \
        if (rc_ < 0)                                                                                           \
            return rc_;                                                                                        \
        ENQUEUE;                                                                                               \
        return finish((v), q, (what));                                                                         \
    } while (0)

static int pread_on(vdisk *v, void *buf, size_t len, uint64_t offset)
{
    SYNC_CALL(v, "read", vdisk_read(q, v, offset, buf, len, 0, 0));
}

static int pwrite_on(vdisk *v, const void *buf, size_t len, uint64_t offset, uint32_t flags)
{
    SYNC_CALL(v, "write", vdisk_write(q, v, offset, buf, len, flags, 0));
}

static int pzero_on(vdisk *v, uint64_t len, uint64_t offset, uint32_t flags)
{
    SYNC_CALL(v, "write zeroes", vdisk_write_zeroes(q, v, offset, len, flags, 0));
}

static int pdiscard_on(vdisk *v, uint64_t len, uint64_t offset)
{
    SYNC_CALL(v, "discard", vdisk_discard(q, v, offset, len, 0, 0));
}

static int sync_on(vdisk *v)
{
    SYNC_CALL(v, "flush", vdisk_flush(q, v, 0, 0));
}

static int pextents_on(vdisk *v, uint64_t len, uint64_t offset, struct vdisk_extents *extents)
{
    SYNC_CALL(v, "block status", vdisk_get_extents(q, v, offset, len, extents, 0));
}

int vdisk_pread(vdisk *v, void *buf, size_t len, uint64_t offset)
{
    return ERR_CALL(pread_on(v, buf, len, offset));
}

int vdisk_pwrite(vdisk *v, const void *buf, size_t len, uint64_t offset, uint32_t flags)
{
    return ERR_CALL(pwrite_on(v, buf, len, offset, flags));
}

int vdisk_pzero(vdisk *v, uint64_t len, uint64_t offset, uint32_t flags)
{
    return ERR_CALL(pzero_on(v, len, offset, flags));
}

int vdisk_pdiscard(vdisk *v, uint64_t len, uint64_t offset)
{
    return ERR_CALL(pdiscard_on(v, len, offset));
}

int vdisk_sync(vdisk *v)
{
    return ERR_CALL(sync_on(v));
}

int vdisk_pextents(vdisk *v, uint64_t len, uint64_t offset, struct vdisk_extents *extents)
{
    return ERR_CALL(pextents_on(v, len, offset, extents));
}
