/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A part of another backend, under the name of the format that has such options: raw with `offset` and `size`.
 * Under another format (an image within an archive) it is all there is of raw; the volume has the format on it.
 * Without either option it is the child itself, and there is no such backend.
 *
 * Happy path: each I/O becomes one of the child, moved by the offset. That takes the child's whole way: where the
 * offset is no multiple of the child's alignment, through its bounce buffers, with its locks.
 * Failure modes: a part that the child does not have: -EINVAL at open. Past a given size: reads are zeros, what
 * would make it longer is -ENOSPC. Errors of the child are passed on.
 *
 * Invariants
 *  1. Nothing outside of the part is read into the caller's memory or changed.
 *  2. Without a size the end is the child's.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "backends/drivers.h"
#include "engine/base/bits.h"
#include "engine/base/error.h"
#include "engine/base/iov.h"
#include "engine/base/mem.h"
#include "engine/base/mutant.h"
#include "engine/filter.h"
#include "engine/loop/status.h"
#include "engine/spec/option.h"

struct window {
    struct filter w; /* first */
    uint64_t       offset;
    bool           fixed; /* a size was given */
};

struct window_io {
    struct op     op;    /* for its memory, which the queue keeps */
    struct io     io;    /* the child's */
    struct io    *outer;
    struct iovec *iov;   /* of a read that is cut at the end */
};

static struct window *window_of(struct backend *b)
{
    return container_of(filter_of(b), struct window, w);
}

/* ---- I/O ------------------------------------------------------------------------------------------------ */

static void window_step(struct op *op)
{
    assert(!"it has no steps");
}

OP_TYPE(window_io, window_step, "START");

/* What the child has done to its size, the part has. */
static void follow_size(struct window *w, const struct io *outer)
{
    if (outer->kind == IO_TRUNCATE)
        atomic_store(&w->w.b.size, outer->offset);
    else if (outer->kind == IO_ZERO || outer->kind == IO_ALLOCATE) /* after writes it is the engine's to do */
        raise_size(&w->w.b, outer->offset + outer->len);
}

/* What the child has told, as of the part, where it was asked from `start` on. */
static void move_status(struct block_status *s, uint64_t start)
{
    for (unsigned i = 0; i < s->count; i++)
        s->ends[i] -= s->start - start;
    s->start = start;
}

static void child_done(struct io *io)
{
    struct window_io *wi = container_of(io, struct window_io, io);
    struct io *outer = wi->outer;
    struct window *w = window_of(outer->backend);
    int64_t res = io->res;

    if (res == 0 && (io->kind == IO_READ || io->kind == IO_WRITE))
        res = (int64_t)io->len;
    if (res == 0 && !w->fixed)
        follow_size(w, outer);
    if (io->kind == IO_STATUS)
        move_status(io->status, outer->offset);
    if (io->kind == IO_FLUSH && res < 0) /* for good, where the page cache has lost something: fd.c */
        atomic_store(&w->w.b.sync_failed, atomic_load(&w->w.below->sync_failed));
    mem_free(wi->iov);
    op_free(&wi->op, sizeof *wi);
    io_end(outer, res);
}

/* `len` of the range lie inside. */
static void start(struct window *w, struct io *outer, uint64_t len)
{
    bool moves = outer->kind == IO_READ || outer->kind == IO_WRITE;
    uint64_t offset = outer->kind == IO_FLUSH ? 0 : outer->offset + w->offset;
    struct window_io *wi = op_alloc(outer->queue, &window_io_type, sizeof *wi);
    const struct iovec *iov = outer->iov;
    uint32_t n = outer->iovcnt;

    assert(outer->moved == 0); /* the child's I/O comes back whole */
    if (wi && moves && len < outer->len) {
        wi->iov = mem_calloc(n, sizeof *wi->iov);
        if (!wi->iov)
            op_free(&wi->op, sizeof *wi);
        else
            n = iov_slice(outer->iov, outer->iovcnt, 0, len, wi->iov, n, &len);
        iov = wi->iov;
    }
    if (!wi || (moves && !iov)) {
        io_end_later(outer, -ENOMEM);
        return;
    }
    wi->outer = outer;
    if (outer->kind == IO_STATUS)
        io_status(&wi->io, w->w.below, offset, len, outer->status);
    else if (moves)
        io_rwv(&wi->io, w->w.below, (enum io_kind)outer->kind, offset, iov, n, len);
    else
        io_range(&wi->io, w->w.below, (enum io_kind)outer->kind, offset, len);
    wi->io.flags = outer->flags & (IO_FUA | IO_UNMAP | IO_NO_FALLBACK);
    wi->io.op = outer->op;
    wi->io.queue = outer->queue;
    wi->io.done = child_done;
    io_start(&wi->io);
}

/* What goes as far as there is something. */
static bool is_cut(const struct io *outer)
{
    return outer->kind == IO_READ || outer->kind == IO_DISCARD || outer->kind == IO_STATUS;
}

/* Nothing of it is there. */
static void end_behind(struct io *outer)
{
    if (outer->kind == IO_STATUS)
        status_add(outer->status, outer->offset + outer->len, true);
    io_end_later(outer, is_cut(outer) ? 0 : -EFBIG);
}

static void window_submit(struct backend *b, struct io *outer)
{
    struct window *w = window_of(b);
    uint64_t len = outer->len, end;
    bool fixed = w->fixed && !ENGINE_MUTANT(PART_UNBOUNDED);
    bool lengthens = outer->kind == IO_WRITE || outer->kind == IO_ZERO || outer->kind == IO_ALLOCATE;

    if (!add_u64(outer->offset, outer->len, &end) || end > INT64_MAX - w->offset) {
        end_behind(outer);
        return;
    }
    if (w->fixed && outer->kind == IO_TRUNCATE) {
        io_end_later(outer, outer->offset == backend_size(b) ? 0 : -ENOTSUP);
        return;
    }
    if (fixed && lengthens && end > backend_size(b)) {
        io_end_later(outer, -ENOSPC);
        return;
    }
    if (fixed && is_cut(outer)) {
        len = backend_inside(b, outer->offset, outer->len);
        if (len == 0) {
            end_behind(outer);
            return;
        }
    }
    start(w, outer, len);
}

/* ---- open and the rest ---------------------------------------------------------------------------------- */

static const struct option_desc window_options[] = {
    {SPEC_FILE, OPTION_NODE, true, NULL, "what holds the bytes", NULL},
    {"offset", OPTION_SIZE, false, "0", "where in the file the volume begins", NULL},
    {"size", OPTION_SIZE, false, NULL, "its size, which is then fixed; default: up to the file's end", NULL},
    {NULL, OPTION_TEXT, false, NULL, NULL, NULL},
};

/* 0 where the child has been cut. */
static uint64_t rest_of(struct filter *f)
{
    uint64_t size = backend_size(f->below), offset = container_of(f, struct window, w)->offset;

    return size > offset ? size - offset : 0;
}

static int check_part(const struct backend *child, uint64_t offset, bool fixed, uint64_t size)
{
    uint64_t has = backend_size(child);

    if (fixed && size % 512 != 0)
        return err_set(EINVAL, "%s: size %" PRIu64 " is no multiple of 512", child->name, size);
    if (offset > has)
        return err_set(EINVAL, "%s: offset %" PRIu64 " is behind the end of the file, which has %" PRIu64 " bytes",
                       child->name, offset, has);
    if (fixed && size > has - offset)
        return err_set(EINVAL, "%s: offset %" PRIu64 " and size %" PRIu64 " reach behind the end of the file, "
                       "which has %" PRIu64 " bytes", child->name, offset, size, has);
    return 0;
}

static void child_moved(void *owner)
{
    struct window *w = owner;

    if (!w->fixed)
        filter_follow(&w->w, rest_of);
}

static struct backend *make(struct backend *child, uint64_t offset, bool fixed, uint64_t size)
{
    struct window *w = backend_alloc(&window_driver, child->name, sizeof *w);

    if (!w)
        return NULL;
    filter_init(&w->w, child);
    backend_own(child, child_moved, w);
    w->offset = offset;
    w->fixed = fixed;
    w->w.b.id = child->id;
    if (!is_aligned(offset, child->align)) /* no alignment here is one there: the child sees to it */
        w->w.b.align = w->w.b.mem_align = 1;
    if (fixed)
        w->w.b.caps = (w->w.b.caps & ~(uint32_t)(BACKEND_GROWS | BACKEND_ZERO_NEW)) | BACKEND_FIXED;
    atomic_init(&w->w.b.size, fixed ? size : rest_of(&w->w));
    return &w->w.b;
}

static int window_open(const char *name, const struct spec *options, uint32_t flags, struct backend **ret_backend)
{
    uint64_t offset = option_size(options, "offset", 0), size = option_size(options, "size", 0);
    bool fixed = spec_text(options, "size");
    struct backend *child, *b;
    int rc = backend_open_node(name, spec_node(options, SPEC_FILE), flags, &child);

    if (rc < 0)
        return rc;
    if (offset == 0 && !fixed) {
        *ret_backend = child;
        return 0;
    }
    rc = check_part(child, offset, fixed, size);
    if (rc == 0) {
        b = make(child, offset, fixed, size);
        if (b) {
            *ret_backend = b;
            return 0;
        }
        rc = err_set(ENOMEM, "%s: out of memory", child->name);
    }
    backend_close(child);
    return rc;
}

static bool window_identify(const struct spec *options, struct backend_id *ret_id)
{
    return backend_identify_node(spec_node(options, SPEC_FILE), ret_id);
}

static void window_close(struct backend *b)
{
    backend_close(filter_of(b)->below);
}

const struct backend_driver window_driver = {
    .name = "raw",
    .options = window_options,
    .identify = window_identify,
    .open = window_open,
    .close = window_close,
    .submit = window_submit,
    .allocated = filter_allocated,
    .relock = filter_relock,
    .refresh = filter_refresh,
    .room = filter_room,
    .unlink = filter_unlink,
};
