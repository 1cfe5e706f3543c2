/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Raw: a volume that is exactly its file. The shortest format, and the skeleton to copy: every byte is DATA at its
 * own offset, so reads and writes never come here; zeros, discards and flushes are the file's. Where the format
 * was guessed, changes of the first bytes are watched: guard.c.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/bits.h"
#include "engine/base/error.h"
#include "engine/base/mem.h"
#include "engine/create.h"
#include "engine/follow.h"
#include "engine/guard.h"
#include "engine/loop/zero.h"
#include "engine/spec/option.h"
#include "engine/volume.h"

_Static_assert((int)FOREIGN_HEAD <= ZERO_BUFFER, "zeros for a header");

static int raw_probe(const uint8_t *head, size_t len, const char *name)
{
    return 1; /* anything may be raw */
}

/* `offset`, which the backend of that name sees to, and that of others below it. */
static uint64_t offset_in_file(const struct spec *node)
{
    uint64_t offset = 0;

    for (; node; node = spec_node(node, SPEC_FILE))
        offset += option_size(node, "offset", 0);
    return offset;
}

/* Whole sectors, as numbers with a sign have them. */
static uint64_t raw_size_by_file(const struct layer *layer)
{
    return min_u64(align_up(backend_size(layer->file), 512), align_down(INT64_MAX, 512));
}

static int raw_open(struct layer *layer, const struct layer_open *how, vdisk_queue *q)
{
    if (how->data_file)
        return err_set(EINVAL, "%s: a raw volume has no external data file", layer->name);
    if (backend_size(layer->file) > raw_size_by_file(layer))
        return err_set(EFBIG, "%s: it has %llu bytes, and a volume %llu at most", layer->name,
                       (unsigned long long)backend_size(layer->file), (unsigned long long)raw_size_by_file(layer));
    assert(!layer->data && (layer->guarded == 0 || layer->guarded == FOREIGN_HEAD));
    layer->data = layer->file;
    layer->data_offset = offset_in_file(how->name);
    layer->writes_in_place = true;
    layer_set_size(layer, raw_size_by_file(layer)); /* behind a ragged end: zeros */
    return 0;
}

static int raw_close(struct layer *layer, vdisk_queue *q)
{
    return layer->read_only ? 0 : io_pflush(q, layer->file);
}

static int raw_lookup(struct layer *layer, uint64_t guest_offset, uint64_t len, struct extent *ret)
{
    assert(len > 0);
    ret->len = len;
    ret->host_offset = guest_offset;
    ret->kind = EXTENT_DATA;
    ret->flags = guest_offset < layer->guarded ? EXTENT_DURABLE : EXTENT_WRITABLE | EXTENT_DURABLE;
    return 0;
}

static void raw_io_done(struct io *io)
{
    request_end(container_of(io, struct request, io), io->res);
}

/* Writes that are not in place, as raw_lookup() says: the guarded ones, and neighbours merged with them. */
static void raw_write(struct layer *layer, struct request *r)
{
    while (r) {
        struct request *next = r->merged;
        assert(!next || next->guest_offset == r->guest_offset + r->len); /* plug.h, invariant 2 */
        r->merged = NULL;
        layer_note_end(layer, r->guest_offset + r->len);
        if (r->guest_offset < layer->guarded) {
            guard_start(r);
        } else {
            io_rwv(&r->io, layer->file, IO_WRITE, r->guest_offset, r->iov, r->iovcnt, r->len);
            r->io.done = raw_io_done;
            r->io.op = NULL;
            io_start(&r->io); /* FUA: by a flush, request_end() sees to it */
        }
        r = next;
    }
}

static void raw_submit(struct layer *layer, struct request *r)
{
    assert(r->state == REQUEST_STARTED && layer == layer->volume->top && !layer->read_only);
    if (r->kind == REQ_WRITE) {
        raw_write(layer, r);
        return;
    }
    if (r->kind == REQ_ZERO)
        layer_note_end(layer, r->guest_offset + r->len);
    if (unlikely(r->guest_offset < layer->guarded) && r->kind != REQ_FLUSH) {
        guard_start(r);
        return;
    }
    switch ((enum request_kind)r->kind) {
    case REQ_ZERO:
        zero_start(layer->file, r->guest_offset, r->len, request_zero_flags(r), r);
        return;
    case REQ_DISCARD:
        io_range(&r->io, layer->file, IO_DISCARD, r->guest_offset, r->len);
        break;
    case REQ_FLUSH:
        atomic_fetch_add_explicit(&layer->stats.flushes, 1, memory_order_relaxed);
        io_range(&r->io, layer->file, IO_FLUSH, 0, 0);
        break;
    case REQ_READ:
    case REQ_WRITE:
    case REQ_EXTENTS:
    case REQ_PREFETCH:
    case REQ_COPY:
        assert(!"reads are the engine's, and so are copies by the host");
    }
    r->io.done = raw_io_done;
    r->io.op = NULL;
    io_start(&r->io);
}

static int raw_check_create(const char *name, const struct vdisk_create_opts *o)
{
    if (o->backing_file)
        return err_set(EINVAL, "%s: a raw volume cannot have a backing file", name);
    if (o->data_file || o->data_file_raw)
        return err_set(EINVAL, "%s: a raw volume cannot have an external data file", name);
    if (o->cluster_size || o->version || o->refcount_bits || o->lazy_refcounts || o->extended_l2 ||
        o->compression_type)
        return err_set(EINVAL, "%s: qcow2 options given for a raw volume", name);
    if (o->preallocation == VDISK_PREALLOC_METADATA)
        return err_set(EINVAL, "%s: a raw volume has no metadata to preallocate; use off, falloc or full", name);
    if (o->virtual_size > INT64_MAX - 511)
        return err_set(EFBIG, "%s: size %llu is too large", name, (unsigned long long)o->virtual_size);
    return 0;
}

/* A device may hold the header of an image, and must not be taken for one. As QEMU does. */
static int wipe_header(struct backend *b, vdisk_queue *q)
{
    uint64_t len = min_u64(backend_size(b), FOREIGN_HEAD);

    return b->caps & BACKEND_GROWS || len == 0 ? 0 : io_pwrite(q, b, zero_buffer, len, 0);
}

static int raw_fill(struct backend *b, uint64_t size, const struct vdisk_create_opts *o, vdisk_queue *q)
{
    int rc = wipe_header(b, q);

    assert(is_aligned(size, 512) && o->preallocation != VDISK_PREALLOC_METADATA);
    if (rc == 0 && size > 0 && o->preallocation == VDISK_PREALLOC_FALLOC) {
        rc = io_prange(q, b, IO_ALLOCATE, 0, size);
        if (rc == -ENOTSUP)
            return err_hint(err_set(ENOTSUP, "%s: preallocation=falloc is not possible here", b->name),
                            "use preallocation=full");
    }
    if (rc == 0 && size > 0 && o->preallocation == VDISK_PREALLOC_FULL)
        rc = zero_fill(q, b, 0, size, o->progress, o->progress_arg);
    if (rc == 0)
        rc = io_pflush(q, b);
    if (rc == -ECANCELED)
        return err_set(rc, "%s: creation was cancelled", b->name);
    return rc < 0 ? err_set(rc, "%s: writing it: %s", b->name, strerror(-rc)) : 0;
}

static int raw_plan_create(const char *name, struct vdisk_create_opts *o, struct create_plan **ret_plan)
{
    struct create_plan *plan;
    int rc = raw_check_create(name, o);

    if (rc < 0)
        return rc;
    plan = mem_alloc(sizeof *plan);
    if (!plan)
        return err_set(ENOMEM, "%s: out of memory", name);
    *plan = (struct create_plan){name, o};
    *ret_plan = plan;
    return 0;
}

static int raw_measure(const char *name, const struct vdisk_create_opts *o, const vdisk_image *source,
                       struct vdisk_measure_result *ret)
{
    (void)source;
    ret->required = ret->fully_allocated = ret->virtual_size; /* a hole counts for the file's size, too */
    return raw_check_create(name, o);
}

static void raw_drop_plan(struct create_plan *plan)
{
    mem_free(plan);
}

static int raw_create(struct create_plan *plan, struct backend *b, vdisk_queue *q)
{
    const struct vdisk_create_opts *o = plan->opts;
    uint64_t size = align_up(o->virtual_size, 512);
    bool fills = o->preallocation != VDISK_PREALLOC_OFF;
    struct create_target target = {.b = b, .size = size, .need = fills ? size : 0, .why = "preallocation"};
    int rc;

    target.reserves = o->preallocation == VDISK_PREALLOC_FALLOC && size > 0;
    rc = create_check(&target, 1, q);
    if (rc == 0)
        rc = create_take(&target, 1, q);
    if (rc == 0)
        rc = raw_fill(b, size, o, q);
    return create_end(&target, 1, q, rc);
}

/* Space for what is new. */
static int raw_preallocate(struct layer *layer, uint64_t from, uint64_t end, const struct vdisk_resize_opts *opts,
                           vdisk_queue *q)
{
    int rc = 0;

    assert(from < end && opts->preallocation != VDISK_PREALLOC_METADATA);
    if (opts->preallocation == VDISK_PREALLOC_FALLOC) {
        rc = io_prange(q, layer->file, IO_ALLOCATE, from, end - from);
        if (rc == -ENOTSUP)
            return err_hint(err_set(ENOTSUP, "%s: preallocation=falloc is not possible here", layer->name),
                            "use preallocation=full");
    }
    if (opts->preallocation == VDISK_PREALLOC_FULL)
        rc = zero_fill(q, layer->file, from, end - from, opts->progress, opts->progress_arg);
    return rc;
}

/* What does not grow by itself has been extended, or cut, by somebody else: the volume can only follow. */
static int follow_device(struct layer *layer, uint64_t size, const struct vdisk_resize_opts *opts, vdisk_queue *q)
{
    struct backend *b = layer->file;
    uint64_t old = layer_size(layer), now;
    int rc = b->driver->refresh ? b->driver->refresh(b) : 0;

    if (rc < 0)
        return err_advise_host(err_set(rc, "%s: asking for its size: %s", layer->name, strerror(-rc)));
    follow_done(layer->volume); /* here; a move that comes later is followed when this is over */
    now = backend_size(b);
    if (now < old) /* what is gone is not read as zeros */
        layer_set_size(layer, now);
    if (size > now)
        return err_hint(err_set(ENOSPC, "%s: has %llu bytes, %llu are asked for", layer->name,
                                (unsigned long long)now,
                                (unsigned long long)size),
                        "extend the device first");
    if (size < now && size == old)
        return 0;
    if (size < now)
        return err_hint(err_set(ENOTSUP, "%s: a raw volume is as large as its device", layer->name),
                        "the device has %llu bytes", (unsigned long long)now);
    if (size > old) {
        rc = raw_preallocate(layer, old, size, opts, q);
        if (rc == 0)
            rc = io_pflush(q, b);
    }
    if (rc == 0)
        layer_set_size(layer, size);
    return rc;
}

/* The size was refused, or the space cannot be had. Says what is left if the file keeps its new size. */
static int give_up_growth(struct layer *layer, uint64_t old, int rc, vdisk_queue *q)
{
    assert(rc < 0 && old == layer_size(layer));
    if (io_prange(q, layer->file, IO_TRUNCATE, old, 0) == 0)
        return rc;
    if (vdisk_error_text()[0] == '\0')
        err_set(rc, "%s: resizing: %s", layer->name, strerror(-rc));
    err_append("; %s is left longer than it was", layer->name);
    return rc;
}

/* Perhaps after having been done: a backend that cannot look says EIO. */
static bool perhaps_longer(const struct layer *layer, uint64_t old, int rc)
{
    return rc == -EIO || backend_size(layer->file) > old;
}

/* The file has its new size first, and its old one again when that fails or the space cannot be had. */
static int resize_file(struct layer *layer, uint64_t size, const struct vdisk_resize_opts *opts, vdisk_queue *q)
{
    uint64_t old = layer_size(layer);
    int rc;

    if (size == old && size == backend_size(layer->file))
        return 0;
    if (size < old)
        layer_set_size(layer, size);
    rc = io_prange(q, layer->file, IO_TRUNCATE, size, 0);
    if (rc == 0 && size > old) {
        rc = raw_preallocate(layer, old, size, opts, q);
        if (rc < 0)
            rc = give_up_growth(layer, old, rc, q);
    } else if (rc < 0 && size > old && perhaps_longer(layer, old, rc)) {
        rc = give_up_growth(layer, old, rc, q);
    }
    if (rc == 0)
        rc = io_pflush(q, layer->file);
    if (rc == 0)
        layer_set_size(layer, size);
    else if (size < old)
        layer_set_size(layer, min_u64(old, align_up(backend_size(layer->file), 512)));
    return rc;
}

static int raw_resize(struct layer *layer, uint64_t size, const struct vdisk_resize_opts *opts, vdisk_queue *q)
{
    int rc;

    assert(layer == layer->volume->top && !layer->read_only && is_aligned(size, 512));
    if (opts->preallocation == VDISK_PREALLOC_METADATA)
        return err_set(EINVAL, "%s: a raw volume has no metadata to preallocate; use off, falloc or full",
                       layer->name);
    if (layer->spec && spec_text(layer->spec, "size"))
        return err_hint(err_set(ENOTSUP, "%s: its size is fixed by the name that it was opened by", layer->name),
                        "open it without the option size");
    if (layer->file->caps & BACKEND_GROWS)
        rc = resize_file(layer, size, opts, q);
    else
        rc = follow_device(layer, size, opts, q);
    if (rc < 0 && vdisk_error_text()[0] == '\0')
        err_advise_host(err_set(rc, "%s: resizing: %s", layer->name, strerror(-rc)));
    return rc;
}

/* ---- as a stream ---------------------------------------------------------------------------------------- */

static int raw_front_begin(const char *name, struct vdisk_create_opts *opts, struct front **ret_front)
{
    if (opts->preallocation != VDISK_PREALLOC_OFF)
        return err_set(ENOTSUP, "%s: what is written as a stream cannot have preallocated space", name);
    *ret_front = mem_calloc(1, sizeof **ret_front);
    if (!*ret_front)
        return err_set(ENOMEM, "%s: out of memory", name);
    opts->virtual_size = align_up(opts->virtual_size, 512);
    (*ret_front)->unit = 512;
    (*ret_front)->length = opts->virtual_size;
    (*ret_front)->dense = true; /* so nothing is added, and there is nothing to read */
    return 0;
}

static void raw_front_end(struct front *front)
{
    mem_free(front);
}

const struct format_driver raw_driver = {
    .name = "raw",
    .plain = true,
    .probe = raw_probe,
    .open = raw_open,
    .close = raw_close,
    .lookup = raw_lookup,
    .submit = raw_submit,
    .plan_create = raw_plan_create,
    .create = raw_create,
    .drop_plan = raw_drop_plan,
    .measure = raw_measure,
    .front_begin = raw_front_begin,
    .front_end = raw_front_end,
    .resize = raw_resize,
    .size_by_file = raw_size_by_file,
};
