/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Opening, creating and closing volumes and their chains. All of it blocks. */
#include "engine/volume.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/bits.h"
#include "engine/base/error.h"
#include "engine/foreign.h"
#include "engine/chain/layer_name.h"
#include "engine/loop/given.h"
#include "engine/loop/log.h"
#include "engine/loop/queue.h"
#include "engine/spec/option.h"

enum {
    PROBE_BYTES = 65536,
    CHAIN_DEPTH_DEFAULT = 1024,
    CHAIN_TABLES_MAX = 1 << 30,
    OPEN_FLAGS_ALL = VDISK_OPEN_RDWR | VDISK_OPEN_BUFFERED | VDISK_OPEN_FORCE_SHARE | VDISK_OPEN_NO_LOCK |
                     VDISK_OPEN_NO_BACKING | VDISK_OPEN_CHECK | VDISK_OPEN_UNSAFE | VDISK_OPEN_NO_NAMES |
                     VDISK_OPEN_HOST_HOLES,
};

int volume_probe(struct backend *b, vdisk_queue *q, const struct format_driver **ret)
{
    size_t len = min_u64(backend_size(b), PROBE_BYTES);
    int best = -1, rc = 0;
    uint8_t *head = vdisk_alloc_buffer(PROBE_BYTES);

    if (!head)
        return err_set(ENOMEM, "%s: out of memory", b->name);
    if (len > 0)
        rc = io_pread(q, b, head, len, 0);
    if (rc < 0)
        err_set(rc, "%s: reading the header: %s", b->name, strerror(-rc));
    for (const struct format_driver *const *f = format_drivers; rc == 0 && *f; f++) {
        int score = (*f)->probe(head, len, b->name);
        if (score > best) {
            best = score;
            *ret = *f;
        }
    }
    free(head);
    return rc;
}

static void layer_free(vdisk *v)
{
    if (!v)
        return;
    if (v->data != v->file)
        backend_close(v->data);
    backend_close(v->file);
    gate_finish(&v->requests);
    range_locks_finish(&v->guard_locks);
    events_close(v->events);
    pairs_volume_goes(v);
    pthread_mutex_destroy(&v->mark.lock);
    pthread_mutex_destroy(&v->follow.lock);
    pthread_mutex_destroy(&v->manage_lock);
    pthread_mutex_destroy(&v->service_lock);
    spec_free(v->spec);
    free(v->name);
    free(v->backing_name);
    free(v->backing_format);
    free(v);
}

static _Atomic uint64_t next_number;

/* A layer on `file`, which it takes over, also on failure. */
static int layer_alloc(struct backend *file, uint32_t flags, vdisk **ret)
{
    vdisk *v = calloc(1, sizeof *v);

    if (!v) {
        backend_close(file);
        return err_set(ENOMEM, "out of memory");
    }
    range_locks_init(&v->guard_locks);
    pthread_mutex_init(&v->manage_lock, NULL);
    pthread_mutex_init(&v->mark.lock, NULL);
    pthread_mutex_init(&v->follow.lock, NULL);
    pthread_mutex_init(&v->service_lock, NULL);
    v->generation = process_generation;
    v->file = file;
    v->number = atomic_fetch_add(&next_number, 1) + 1;
    v->open_flags = flags;
    v->read_only = !(flags & VDISK_OPEN_RDWR);
    atomic_init(&v->refuses, v->read_only ? VOLUME_READ_ONLY : 0);
    v->name = strdup(file->name);
    v->events = events_new(v);
    if (!v->name || !v->events || gate_init(&v->requests) < 0) {
        layer_free(v);
        return err_set(ENOMEM, "out of memory");
    }
    *ret = v;
    return 0;
}

/* What its name says, where it overrides what the image says. Takes the name over. */
static int layer_take_name(vdisk *v, struct layer_name *n)
{
    const struct spec *backing;
    char *text;
    bool none;

    v->spec = n->root;
    n->root = NULL;
    if (!v->spec)
        return 0;
    v->keeps_discarded = option_keeps_discarded(v->spec);
    backing = layer_name_backing(v->spec, &none);
    if (!backing)
        return 0;
    text = spec_print(backing);
    if (!text)
        return err_set(ENOMEM, "out of memory");
    free(v->backing_name);
    v->backing_name = text; /* there is something below, whatever the header says */
    return 0;
}

/* A layer on `file`, which it takes over, also on failure. `n`: its name, still to be freed. */
static int layer_open(struct backend *file, struct layer_name *n, struct layer_open *how, vdisk_queue *q,
                      vdisk **ret)
{
    const struct format_driver *f = n->format;
    vdisk *v = NULL;
    int rc = 0;

    if (how->progress && how->progress(how->progress_arg, 0, 0))
        rc = err_set(ECANCELED, "%s: opening was cancelled", file->name);
    if (rc == 0 && !f)
        rc = volume_probe(file, q, &f);
    if (rc == 0 && !n->format && n->root)
        rc = layer_name_check(n, f);
    if (rc < 0) {
        backend_close(file);
        return rc;
    }
    rc = layer_alloc(file, n->flags, &v);
    if (rc < 0)
        return rc;
    v->format = f;
    v->mark.by_format = f->highest != NULL;
    atomic_init(&v->mark.above, f->highest ? UINT64_MAX : 0);
    v->guarded = !n->format && f->plain ? FOREIGN_HEAD : 0;
    how->flags = n->flags;
    how->name = n->root;
    rc = f->open(v, how, q);
    if (rc == -EINVAL && vdisk_error_hint()[0] == '\0')
        err_hint(rc, "vdisk-io check may tell more; what is raw needs the format raw");
    if (rc < 0) {
        layer_free(v);
        return rc;
    }
    assert(v->data);
    rc = layer_take_name(v, n);
    if (rc < 0) {
        f->close(v, q);
        layer_free(v);
        return rc;
    }
    *ret = v;
    return 0;
}

static bool has_protocol(const char *name)
{
    size_t colon = strcspn(name, ":/");

    return name[colon] == ':';
}

char *volume_resolve(const char *from, const char *name)
{
    const char *base = backend_path(from);
    const char *slash = strrchr(base, '/');
    char *path;

    if (name[0] == '/' || has_protocol(name) || !slash)
        return strdup(name);
    if (asprintf(&path, "%.*s/%s", (int)(slash - base), base, name) < 0)
        return NULL;
    return path;
}

bool volume_in_chain(const vdisk *top, const vdisk *end, const struct backend_id *id)
{
    for (const vdisk *v = top; v != end; v = v->backing)
        if (backend_is(v->file, id) || backend_is(v->data, id))
            return true;
    return false;
}

/* A layer has been added: its data file must not be that of, or itself, another. */
static int check_data_file(const vdisk *top, const vdisk *added)
{
    if (added->data == added->file || !volume_in_chain(top, added, &added->data->id))
        return 0;
    return err_set(ELOOP, "%s: external data file: %s is part of its own chain", added->name, added->data->name);
}

/* The error names the layer whose backing file it is, and the image that was asked for. */
static int backing_failed(const vdisk *top, const vdisk *v, int rc)
{
    err_prefix(rc, "%s: backing file", v->name);
    return v == top ? rc : err_prefix(rc, "%s", top->name);
}

/* The name of what lies below `v`; n->root NULL: nothing does. */
static int name_below(vdisk *v, struct layer_name *n)
{
    uint32_t flags = v->open_flags & ~(uint32_t)(VDISK_OPEN_RDWR | VDISK_OPEN_CHECK);
    const struct spec *node;
    bool none;
    char *path;
    int rc;

    memset(n, 0, sizeof *n);
    node = layer_name_backing(v->spec, &none);
    if (node)
        return layer_name_parse(NULL, node, NULL, flags, n);
    if (none || !v->backing_name || v->backing_name[0] == '\0')
        return 0;
    path = volume_resolve(v->name, v->backing_name);
    if (!path)
        return err_set(ENOMEM, "out of memory");
    rc = layer_name_stored(path, v->backing_format, flags, n);
    free(path);
    return rc;
}

/* Open the layers below `v`, which is the last of the chain that starts at `top`. */
static int open_backing(vdisk *top, vdisk *v, const struct vdisk_open_opts *opts, uint64_t *tables_left,
                        vdisk_queue *q)
{
    struct layer_open how = {.cache_bytes = opts->cache_bytes, .tables_left = tables_left,
                             .progress = opts->progress, .progress_arg = opts->progress_arg};
    uint32_t depth = 1;

    for (;; v = v->backing) {
        struct backend *file = NULL;
        struct layer_name n;
        struct backend_id id;
        int rc = name_below(v, &n);
        if (rc == 0 && !n.root)
            return 0;
        if (rc == 0 && backend_identify_node(n.file, &id) && volume_in_chain(top, NULL, &id))
            rc = err_set(ELOOP, "%s is part of its own chain", n.name);
        else if (rc == 0 && ++depth > opts->max_depth)
            rc = err_set(ELOOP, "more than %u layers in the backing chain", opts->max_depth);
        if (rc == 0)
            rc = backend_open_node(n.name, n.file, volume_backend_flags(n.flags), &file);
        if (rc == 0)
            rc = layer_open(file, &n, &how, q, &v->backing);
        layer_name_free(&n);
        if (rc < 0)
            v->backing = NULL;
        else
            rc = check_data_file(top, v->backing);
        if (rc < 0)
            return backing_failed(top, v, rc);
    }
}

int volume_hint(const vdisk *v, int rc)
{
    const char *text = volume_hint_text(v);

    return text ? err_hint(rc, "%s", text) : rc;
}

int volume_trouble(const vdisk *v, const char *what)
{
    return err_hint(err_set(EIO, "%s: %s: %s", v->name, what, v->trouble),
                    "repair the image with vdisk-io check -r all");
}

static int close_layers(vdisk *v, vdisk_queue *q)
{
    int result = 0;

    while (v) {
        vdisk *next = v->backing;
        int rc = v->format->close(v, q);
        if (rc < 0 && result == 0) {
            result = rc;
            if (rc == -EIO && atomic_load_explicit(&v->has_trouble, memory_order_acquire))
                volume_trouble(v, "closing");
            else
                volume_hint(v, err_set(rc, "%s: closing: %s", v->name, strerror(-rc)));
            log_add(VDISK_LOG_ERROR, v->name, "%s", vdisk_error_text());
        }
        layer_free(v);
        v = next;
    }
    return result;
}

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
    return 0;
}

static void find_host_holes(vdisk *top, vdisk_queue *q)
{
    for (vdisk *v = top; v; v = v->backing)
        if (v->read_only && v->format->has_host_holes)
            v->host_holes = v->format->has_host_holes(v, q);
}

/* Takes `file` over, also on failure. */
static int open_on(struct backend *file, struct layer_name *n, const struct vdisk_open_opts *opts,
                   vdisk **ret_vdisk)
{
    uint64_t tables_left = CHAIN_TABLES_MAX;
    struct layer_open how = {.cache_bytes = opts->cache_bytes, .data_file = opts->data_file,
                             .tables_left = &tables_left, .progress = opts->progress,
                             .progress_arg = opts->progress_arg};
    vdisk_queue *q;
    vdisk *v;
    int rc = volume_queue(file->name, &q);

    if (rc < 0) {
        backend_close(file);
        return rc;
    }
    rc = layer_open(file, n, &how, q, &v);
    if (rc == 0 && !(opts->flags & (VDISK_OPEN_NO_BACKING | VDISK_OPEN_NO_NAMES))) {
        rc = open_backing(v, v, opts, &tables_left, q);
        if (rc < 0)
            close_layers(v, q);
    }
    if (rc < 0)
        return rc;
    uint32_t depth = 0;
    for (vdisk *l = v; l; l = l->backing)
        depth++;
    for (vdisk *l = v; l; l = l->backing)
        l->depth = depth--;
    if (opts->flags & VDISK_OPEN_HOST_HOLES)
        find_host_holes(v, q);
    follow_begin(v);
    *ret_vdisk = v;
    return 0;
}

int vdisk_open_backend(struct backend *b, const struct vdisk_open_opts *user_opts, vdisk **ret_vdisk)
{
    struct vdisk_open_opts opts;
    struct layer_name n = {0};
    int rc = volume_check_opts(b->name, user_opts, &opts);

    if (rc == 0 && opts.format) {
        n.format = volume_find_format(opts.format);
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
    given_set_top(spec_text(n.file, "filename"));
    rc = backend_open_node(n.name, n.file, volume_backend_flags(n.flags), &file);
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
    given_set_top(spec_text(n.file, "filename"));
    rc = backend_open_node(n.name, n.file, volume_backend_flags(n.flags), ret_backend);
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
    uint64_t outside = atomic_load(&v->outside), inside = gate_inside(&v->requests);

    return inside + max_u64(outside, atomic_load(&v->outside));
}

/* Nothing is done to a volume that something is being done with. */
static int check_idle(vdisk *v, unsigned own_jobs)
{
    uint64_t inside = volume_inside(v);
    unsigned jobs = atomic_load(&v->jobs) - own_jobs;

    if (inside == 0 && !atomic_load(&v->manager) && jobs == 0)
        return 0;
    if (inside == 0 && jobs > 0)
        return err_hint(err_set(EBUSY, "%s: %u %s not ended", v->name, jobs, jobs == 1 ? "job has" : "jobs have"),
                        "close it when they have, or are freed");
    if (inside == 0)
        return err_hint(err_set(EBUSY, "%s: is being changed by another call", v->name),
                        "close it when that returns");
    if (inside == 1)
        err_set(EBUSY, "%s: 1 request is in flight", v->name);
    else
        err_set(EBUSY, "%s: %llu requests are in flight", v->name, (unsigned long long)inside);
    return err_hint(-EBUSY, "reap what is in flight, then close the volume");
}

int volume_close(vdisk *v, unsigned own_jobs, bool *ret_gone)
{
    vdisk_queue *q = NULL;
    int rc = volume_check_handle(v);

    *ret_gone = false;
    if (rc == 0 && events_is_mine(v->events))
        rc = err_set(EDEADLK, "%s: cannot be closed from its event callback", v->name);
    if (rc == 0)
        rc = check_idle(v, own_jobs);
    if (rc == 0)
        rc = volume_queue(v->name, &q);
    if (rc < 0)
        return rc;
    *ret_gone = true;
    service_leave(v);
    return close_layers(v, q);
}

int vdisk_close(vdisk *v)
{
    bool gone;

    return ERR_CALL(v ? volume_close(v, 0, &gone) : 0);
}

uint64_t vdisk_size(const vdisk *v)
{
    return atomic_load_explicit(&v->size, memory_order_acquire);
}

static void fill_limits(const vdisk *v, struct vdisk_info *info)
{
    const struct backend *b = v->data;

    info->max_transfer = b->max_transfer;
    info->preferred_transfer = (uint32_t)max_u64(v->cluster_size, max_u64(b->align, 4096));
    info->zero_align = v->zero_align ? v->zero_align : b->align;
    info->discard_align = (uint32_t)max_u64(v->zero_align ? v->zero_align : b->discard_align, 1);
    info->zeroes_cheap = v->zero_align ? v->zeroes_cheap : (b->caps & BACKEND_ZERO_FAST) != 0;
}

static int fill_info(vdisk *v, struct vdisk_info *ret_info)
{
    struct vdisk_info info = {.size = ret_info ? ret_info->size : 0};
    int rc = volume_check_handle(v);

    if (rc < 0)
        return rc;
    if (info.size < sizeof(size_t) || info.size > 4096)
        return err_set(EINVAL, "%s: info struct of size %zu", v->name, info.size);
    if (v->file->driver->refresh)
        v->file->driver->refresh(v->file); /* what it does not know now it does not tell */
    info.virtual_size = vdisk_size(v);
    info.allocated_size = v->file->driver->allocated ? v->file->driver->allocated(v->file) : backend_size(v->file);
    info.request_align = v->data->align;
    info.memory_align = v->data->mem_align;
    info.depth = v->depth;
    info.read_only = v->read_only;
    info.direct = v->data->direct;
    info.format = v->format->name;
    info.backend = v->file->driver->name;
    if (v->spec && v->file->driver == backend_find(v->format->name)) /* a part of what holds it */
        info.backend = layer_name_storage(v->spec);
    info.trouble = atomic_load_explicit(&v->has_trouble, memory_order_acquire) ? v->trouble : NULL;
    info.cluster_size = v->cluster_size;
    fill_limits(v, &info);
    memcpy(ret_info, &info, min_u64(info.size, sizeof info));
    return 0;
}

int vdisk_get_info(vdisk *v, struct vdisk_info *ret_info)
{
    return ERR_CALL(fill_info(v, ret_info));
}
