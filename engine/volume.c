/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Opening and closing volumes, and what they are. All of it blocks. */
#include "engine/volume.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/bits.h"
#include "engine/base/error.h"
#include "engine/base/mem.h"
#include "engine/loop/given.h"
#include "engine/loop/grower.h"
#include "engine/loop/queue.h"

enum {
    CHAIN_DEPTH_DEFAULT = 1024,
    OPEN_FLAGS_ALL = VDISK_OPEN_RDWR | VDISK_OPEN_BUFFERED | VDISK_OPEN_FORCE_SHARE | VDISK_OPEN_NO_LOCK |
                     VDISK_OPEN_NO_BACKING | VDISK_OPEN_CHECK | VDISK_OPEN_UNSAFE | VDISK_OPEN_NO_NAMES |
                     VDISK_OPEN_HOST_HOLES | VDISK_OPEN_UNFINISHED,
};

int volume_check_opts(const char *name, const struct vdisk_open_opts *user, struct vdisk_open_opts *ret)
{
    memset(ret, 0, sizeof *ret);
    if (user) {
        if (user->size < sizeof(size_t) || user->size > 4096)
            return err_set(EINVAL, "%s: open options of size %zu", name, user->size);
        memcpy(ret, user, min_u64(user->size, sizeof *ret));
    }
    if (ret->max_depth == 0)
        ret->max_depth = CHAIN_DEPTH_DEFAULT;
    if (ret->flags & ~(uint32_t)OPEN_FLAGS_ALL)
        return err_set(EINVAL, "%s: unknown open flags 0x%x", name, ret->flags);
    if (ret->flags & VDISK_OPEN_RDWR && ret->flags & VDISK_OPEN_FORCE_SHARE)
        return err_set(EINVAL, "%s: force-share is for reading only", name);
    if (ret->flags & VDISK_OPEN_UNFINISHED && !(ret->flags & VDISK_OPEN_RDWR))
        return err_set(EINVAL, "%s: an unfinished image is opened for writing only", name);
    return 0;
}

static _Atomic uint64_t next_number;

/* Its chain is closed, or there never was one. */
static void volume_free(vdisk *v)
{
    assert(!atomic_load(&v->manager) && !v->follow.held);
    gate_finish(&v->requests);
    events_close(v->events);
    grower_unref(atomic_load(&v->grower));
    pairs_volume_goes(v);
    pthread_mutex_destroy(&v->follow.lock);
    pthread_mutex_destroy(&v->manage_lock);
    pthread_mutex_destroy(&v->service_lock);
    mem_free(v);
}

/* A volume without a chain. NULL: out of memory, with text. */
static vdisk *volume_alloc(void)
{
    vdisk *v = mem_calloc(1, sizeof *v);

    if (!v) {
        err_set(ENOMEM, "out of memory");
        return NULL;
    }
    pthread_mutex_init(&v->manage_lock, NULL);
    pthread_mutex_init(&v->follow.lock, NULL);
    pthread_mutex_init(&v->service_lock, NULL);
    v->generation = process_generation;
    v->number = atomic_fetch_add(&next_number, 1) + 1;
    v->events = events_new(v);
    if (!v->events || gate_init(&v->requests) < 0) {
        volume_free(v);
        err_set(ENOMEM, "out of memory");
        return NULL;
    }
    return v;
}

/* Takes `file` over, also on failure. */
static int open_on(struct backend *file, struct layer_name *n, const struct vdisk_open_opts *opts,
                   vdisk **ret_vdisk)
{
    vdisk_queue *q;
    vdisk *v = NULL;
    int rc = volume_queue(file->name, &q);

    if (rc == 0) {
        v = volume_alloc();
        rc = v ? 0 : -ENOMEM;
    }
    if (rc < 0) {
        backend_close(file);
        return rc;
    }
    rc = chain_open(v, file, n, opts, q);
    if (rc < 0) {
        volume_free(v);
        return rc;
    }
    assert(v->top->volume == v && atomic_load(&v->top->reach) >= layer_size(v->top));
    atomic_init(&v->refuses, v->top->read_only || v->cut ? VOLUME_READ_ONLY : 0);
    follow_begin(v);
    *ret_vdisk = v;
    return 0;
}

static int open_backend(struct backend *b, const struct vdisk_open_opts *user_opts, vdisk **ret_vdisk)
{
    struct vdisk_open_opts opts;
    struct layer_name n = {0};
    int rc = volume_check_opts(b->name, user_opts, &opts);

    if (rc == 0 && opts.format) {
        n.format = format_find(opts.format);
        if (!n.format)
            rc = err_set(EINVAL, "%s: unknown format '%s'", b->name, opts.format);
    }
    if (rc < 0) {
        backend_close(b);
        return rc;
    }
    n.flags = opts.flags;
    return open_on(b, &n, &opts, ret_vdisk);
}

int vdisk_open_backend(struct backend *b, const struct vdisk_open_opts *user_opts, vdisk **ret_vdisk)
{
    return ERR_CALL(open_backend(b, user_opts, ret_vdisk));
}

int volume_check_name(const char *name)
{
    if (!name)
        return err_set(EINVAL, "no name of a volume is given");
    if (name[0] == '\0')
        return err_set(ENOENT, "the name of the volume is empty");
    return 0;
}

static int open_named(const char *name, const struct vdisk_open_opts *opts, vdisk **ret_vdisk)
{
    struct backend *file = NULL;
    struct layer_name n;
    int rc = layer_name_parse(name, NULL, opts->format, opts->flags, &n);

    if (rc < 0)
        return rc;
    given_set_top(layer_name_path(&n));
    rc = backend_open_node(n.name, n.file, layer_backend_flags(n.flags), &file);
    if (rc == 0)
        rc = open_on(file, &n, opts, ret_vdisk);
    layer_name_free(&n);
    return rc;
}

static int open_volume(const char *name, const struct vdisk_open_opts *user_opts, vdisk **ret_vdisk)
{
    struct vdisk_open_opts opts;
    int rc = volume_check_name(name);

    if (rc == 0 && !ret_vdisk)
        rc = err_set(EINVAL, "%s: no place for the handle", name);
    if (rc == 0)
        rc = volume_check_opts(name, user_opts, &opts);
    if (rc == 0)
        rc = given_begin(opts.fds, opts.fds_count, name);
    if (rc < 0)
        return rc;
    rc = open_named(name, &opts, ret_vdisk);
    given_end();
    return rc;
}

int volume_open_file(const char *name, const char *format, uint32_t flags, struct backend **ret_backend,
                     const struct format_driver **ret_format)
{
    struct layer_name n;
    int rc = volume_check_name(name);

    if (rc == 0)
        rc = layer_name_parse(name, NULL, format, flags, &n);
    if (rc < 0)
        return rc;
    given_set_top(layer_name_path(&n));
    rc = backend_open_node(n.name, n.file, layer_backend_flags(n.flags), ret_backend);
    if (rc == 0 && ret_format)
        *ret_format = n.format;
    layer_name_free(&n);
    return rc;
}

int volume_open(const char *name, const struct vdisk_open_opts *opts, vdisk **ret_vdisk)
{
    return err_advise(open_volume(name, opts, ret_vdisk));
}

int vdisk_open(const char *name, const struct vdisk_open_opts *user_opts, vdisk **ret_vdisk)
{
    return ERR_CALL(volume_open(name, user_opts, ret_vdisk));
}

uint64_t volume_inside(const vdisk *v)
{
    uint64_t outside, inside;
    unsigned steps;

    do {
        steps = atomic_load(&v->steps);
        outside = atomic_load(&v->outside);
        POINT("volume: those outside are counted");
        inside = gate_inside(&v->requests);
    } while (atomic_load(&v->steps) != steps && !ENGINE_MUTANT(INSIDE_SEEN_ONCE));
    return inside + outside;
}

/* Who comes is counted inside before he looks, and is refused; who was there before is seen here. */
int volume_shut(vdisk *v, const char *what)
{
    uint64_t inside;

    assert(atomic_load(&v->manager) && !(atomic_load(&v->refuses) & VOLUME_SHUT));
    atomic_fetch_or(&v->refuses, VOLUME_SHUT);
    inside = volume_inside(v);
    if (inside == 0)
        return 0;
    volume_reopen(v);
    return err_hint(err_set(EBUSY, "%s: cannot %s with %llu requests in flight", v->top->name, what,
                            (unsigned long long)inside),
                    "reap them first, and send no others meanwhile");
}

void volume_reopen(vdisk *v)
{
    atomic_fetch_and(&v->refuses, (uint8_t)~VOLUME_SHUT);
}

static uint64_t parked_of(const vdisk *v)
{
    struct grower *g = atomic_load(&v->grower);
    struct vdisk_watermark mark = {0};

    if (g)
        grower_describe(g, &mark);
    return mark.parked;
}

/* Nothing is done to a volume that something is being done with. */
static int check_idle(vdisk *v, unsigned own_jobs)
{
    uint64_t inside = volume_inside(v);
    unsigned jobs = atomic_load(&v->jobs) - own_jobs;

    assert(atomic_load(&v->jobs) >= own_jobs);
    if (inside == 0 && !atomic_load(&v->manager) && jobs == 0)
        return 0;
    if (inside == 0 && jobs > 0)
        return err_hint(err_set(EBUSY, "%s: %u %s not ended", v->top->name, jobs,
                                jobs == 1 ? "job has" : "jobs have"),
                        "close it when they have, or are freed");
    if (inside == 0)
        return err_hint(err_set(EBUSY, "%s: is being changed by another call", v->top->name),
                        "close it when that returns");
    if (inside == 1)
        err_set(EBUSY, "%s: 1 request is in flight", v->top->name);
    else
        err_set(EBUSY, "%s: %llu requests are in flight", v->top->name, (unsigned long long)inside);
    if (parked_of(v) > 0) {
        err_append(", %llu of them without space", (unsigned long long)parked_of(v));
        return err_hint(-EBUSY, "cancel them, or set no grower: then they fail; reap them");
    }
    return err_hint(-EBUSY, "reap what is in flight, then close the volume");
}

/* What closing has failed with, told apart from what leaves the handle as it was: callers go by the number. */
static int error_of_gone(int rc)
{
    switch (rc) {
    case -EBUSY: case -ECHILD: case -EDEADLK: case -EMFILE: case -ENOMEM: return -EIO;
    default: return rc;
    }
}

int volume_close(vdisk *v, unsigned own_jobs, bool *ret_gone)
{
    vdisk_queue *q = NULL;
    int rc = volume_check_handle(v);

    *ret_gone = false;
    if (rc == 0 && events_is_mine(v->events))
        rc = err_set(EDEADLK, "%s: cannot be closed from its event callback", v->top->name);
    if (rc == 0 && grower_is_mine(v))
        rc = err_set(EDEADLK, "%s: cannot be closed from a call of its grower, or on that one's thread",
                     v->top->name);
    if (rc == 0)
        rc = check_idle(v, own_jobs);
    if (rc == 0)
        rc = volume_queue(v->top->name, &q);
    if (rc < 0)
        return rc;
    *ret_gone = true;
    grower_close(v);
    service_leave(v);
    rc = error_of_gone(chain_close(v->top, q));
    volume_free(v);
    return rc;
}

int vdisk_close(vdisk *v)
{
    bool gone;

    return ERR_CALL(v ? volume_close(v, 0, &gone) : 0);
}

uint64_t vdisk_size(const vdisk *v)
{
    return layer_size(v->top);
}

static void fill_limits(const struct layer *layer, struct vdisk_info *info)
{
    const struct backend *b = layer->data;

    info->max_transfer = b->max_transfer;
    info->preferred_transfer = (uint32_t)max_u64(max_u64(layer->cluster_size, b->preferred),
                                                 max_u64(b->align, 4096));
    assert(is_power_of_two(info->preferred_transfer) && info->preferred_transfer >= b->align);
    info->zero_align = layer->zero_align ? layer->zero_align : b->align;
    info->discard_align = (uint32_t)max_u64(layer->zero_align ? layer->zero_align : b->discard_align, 1);
    info->zeroes_cheap = layer->zero_align ? atomic_load(&layer->zeroes_cheap)
                                           : (b->caps & BACKEND_ZERO_FAST) != 0;
    info->compress_align = layer->compress_align;
    info->discards = b->caps & BACKEND_DISCARD && !layer->keeps_discarded && !atomic_load(&b->no_discards);
}

void volume_describe_layer(struct layer *layer, struct vdisk_info *info)
{
    struct backend *file = layer->file;

    if (file->driver->refresh)
        file->driver->refresh(file); /* what it does not know now it does not tell */
    info->virtual_size = layer_size(layer);
    info->allocated_size = file->driver->allocated ? file->driver->allocated(file) : backend_size(file);
    info->request_align = layer->data->align;
    info->memory_align = layer->data->mem_align;
    assert(layer->depth > 0);
    info->depth = layer->depth;
    info->read_only = layer->read_only ||
                      (layer == layer->volume->top && atomic_load(&layer->volume->refuses) & VOLUME_READ_ONLY);
    info->direct = layer->data->direct;
    info->format = layer->format->name;
    info->backend = file->driver->name;
    if (layer->spec && file->driver == backend_find(layer->format->name)) /* a part of what holds it */
        info->backend = layer_name_storage(layer->spec);
    info->trouble = atomic_load_explicit(&layer->has_trouble, memory_order_acquire) ? layer->trouble : NULL;
    info->cluster_size = layer->cluster_size;
    fill_limits(layer, info);
}

static int fill_info(vdisk *v, struct vdisk_info *ret_info)
{
    struct vdisk_info info = {.size = ret_info ? ret_info->size : 0};
    int rc = volume_check_handle(v);

    if (rc < 0)
        return rc;
    if (info.size < sizeof(size_t) || info.size > 4096)
        return err_set(EINVAL, "%s: info struct of size %zu", v->top->name, info.size);
    volume_describe_layer(v->top, &info);
    if (atomic_load(&v->grower))
        grower_look(atomic_load(&v->grower));
    memcpy(ret_info, &info, min_u64(info.size, sizeof info));
    return 0;
}

int vdisk_get_info(vdisk *v, struct vdisk_info *ret_info)
{
    return ERR_CALL(fill_info(v, ret_info));
}
