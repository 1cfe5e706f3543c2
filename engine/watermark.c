/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Who listens to a volume, and the watermark: for those who extend the storage below before it is full. Where
 * nothing has been noted yet, the format looks how far the image's file is in use.
 */
#include "engine/watermark.h"

#include <errno.h>
#include <string.h>

#include "engine/base/bits.h"
#include "engine/base/error.h"
#include "engine/loop/grower.h"
#include "engine/volume.h"

static int set_event_callback(vdisk *v, vdisk_event_fn *fn, void *arg)
{
    int rc = volume_check_handle(v);

    if (rc == 0)
        events_listen(v->events, fn, arg);
    return rc;
}

int vdisk_set_event_callback(vdisk *v, vdisk_event_fn *fn, void *arg)
{
    return ERR_CALL(set_event_callback(v, fn, arg));
}

static bool is_known(vdisk *v)
{
    bool known;

    pthread_mutex_lock(&v->top->mark.lock);
    known = v->top->mark.known || !v->top->mark.by_format;
    pthread_mutex_unlock(&v->top->mark.lock);
    return known;
}

/* How far it is in use: asked of the image once, noted from then on. */
int watermark_look(vdisk *v)
{
    vdisk_queue *q;
    uint64_t end = 0;
    int rc;

    if (is_known(v))
        return 0;
    assert(v->top->format->highest && !v->top->read_only);
    rc = volume_manage(v, &q);
    if (rc < 0)
        return rc;
    rc = is_known(v) ? 0 : v->top->format->highest(v->top, q, &end);
    if (rc == 0 && !is_known(v)) {
        layer_note_end(v->top, end);
        pthread_mutex_lock(&v->top->mark.lock);
        v->top->mark.known = true;
        pthread_mutex_unlock(&v->top->mark.lock);
    }
    volume_manage_done(v);
    return rc < 0 ? err_set(rc, "%s: looking how far it is in use: %s", v->top->name, strerror(-rc)) : 0;
}

uint64_t watermark_highest(vdisk *v)
{
    uint64_t highest;

    pthread_mutex_lock(&v->top->mark.lock);
    highest = v->top->mark.highest;
    pthread_mutex_unlock(&v->top->mark.lock);
    return highest;
}

static int begin(vdisk *v)
{
    int rc = volume_check_handle(v);

    if (rc == 0 && v->top->read_only)
        return err_set(EACCES, "%s: is open read-only, and takes no space", v->top->name);
    return rc < 0 ? rc : watermark_look(v);
}

static int set_watermark(vdisk *v, uint64_t threshold)
{
    int rc = begin(v);

    if (rc < 0)
        return rc;
    pthread_mutex_lock(&v->top->mark.lock);
    v->top->mark.threshold = threshold;
    v->top->mark.passed = false;
    pthread_mutex_unlock(&v->top->mark.lock);
    layer_note_end(v->top, 0);
    return 0;
}

int vdisk_set_watermark(vdisk *v, uint64_t threshold)
{
    return ERR_CALL(set_watermark(v, threshold));
}

static int get_watermark(vdisk *v, struct vdisk_watermark *ret)
{
    struct vdisk_watermark mark = {.size = ret ? ret->size : 0};
    int rc;

    if (mark.size < sizeof(size_t) || mark.size > 4096)
        return err_set(EINVAL, "watermark: struct of size %zu", mark.size);
    rc = begin(v);
    if (rc < 0)
        return rc;
    pthread_mutex_lock(&v->top->mark.lock);
    assert(!v->top->mark.passed || v->top->mark.threshold > 0);
    assert(!v->top->mark.passed || v->top->mark.highest > v->top->mark.threshold);
    mark.threshold = v->top->mark.threshold;
    mark.passed = v->top->mark.passed;
    mark.highest = v->top->mark.highest;
    if (!v->top->mark.by_format)
        mark.highest = min_u64(max_u64(mark.highest, atomic_load(&v->top->mark.above)), vdisk_size(v));
    pthread_mutex_unlock(&v->top->mark.lock);
    mark.storage = backend_size(v->top->file);
    if (atomic_load(&v->grower))
        grower_describe(atomic_load(&v->grower), &mark);
    memcpy(ret, &mark, min_u64(mark.size, sizeof mark));
    return 0;
}

int vdisk_get_watermark(vdisk *v, struct vdisk_watermark *ret)
{
    return ERR_CALL(get_watermark(v, ret));
}
