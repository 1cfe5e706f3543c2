/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "engine/filter.h"

#include "engine/base/bits.h"
#include "engine/base/iov.h"
#include "engine/loop/status.h"

/* Of a file no further than it was: what is in flight below has not ended here. A device is as long as it is. */
static void follow(struct filter *f, uint64_t size)
{
    uint64_t old = backend_size(&f->b);

    while (size < old || (size > old && !(f->below->caps & BACKEND_GROWS)))
        if (atomic_compare_exchange_weak(&f->b.size, &old, size)) {
            backend_tell_moved(&f->b);
            return;
        }
}

void filter_follow(struct filter *f, uint64_t (*size_of)(struct filter *f))
{
    uint64_t size;

    do { /* two may be told at once: the later look counts */
        size = size_of(f);
        follow(f, size);
    } while (size_of(f) != size);
}

static uint64_t size_below(struct filter *f)
{
    return backend_size(f->below);
}

static void below_moved(void *owner)
{
    filter_follow(owner, size_below);
}

void filter_init(struct filter *f, struct backend *below)
{
    assert(is_power_of_two(below->align) && is_power_of_two(below->mem_align) && below->max_transfer > 0);
    f->below = below;
    backend_own(below, below_moved, f);
    f->b.align = below->align;
    f->b.mem_align = below->mem_align;
    f->b.max_transfer = below->max_transfer;
    f->b.max_iov = below->max_iov;
    f->b.caps = below->caps;
    f->b.discard_align = below->discard_align;
    f->b.read_only = below->read_only;
    f->b.direct = below->direct;
    f->b.cached = below->cached;
    f->b.made = below->made;
    atomic_init(&f->b.size, backend_size(below));
}

void filter_fill_io(struct filter *f, struct io *io, struct io *outer, struct iovec *iov, uint64_t len)
{
    enum io_kind kind = (enum io_kind)outer->kind;

    if (kind == IO_READ || kind == IO_WRITE) {
        assert(len > 0 && outer->moved < outer->len);
        uint32_t n = iov_slice(outer->iov, outer->iovcnt, outer->moved, min_u64(len, outer->len - outer->moved),
                               iov, outer->iovcnt, &len);
        io_rwv(io, f->below, kind, outer->offset + outer->moved, iov, n, len);
    } else if (kind == IO_STATUS) {
        io_status(io, f->below, outer->offset, outer->len, outer->status);
    } else {
        io_range(io, f->below, kind, outer->offset, outer->len);
    }
    io->flags = outer->flags & (IO_FUA | IO_UNMAP | IO_NO_FALLBACK);
    io->op = outer->op; /* for its names: the end comes to io->done */
    io->queue = outer->queue;
}

int64_t filter_result(struct filter *f, const struct io *io)
{
    bool extends = io->kind == IO_WRITE || io->kind == IO_ZERO || io->kind == IO_ALLOCATE;

    assert(io->res <= 0 && io->backend == f->below);
    if (io->kind == IO_TRUNCATE)
        atomic_store(&f->b.size, backend_size(f->below));
    else if (extends && io->res < 0) /* nobody knows how far it came */
        raise_size(&f->b, backend_size(f->below));
    else if (extends) /* not by what the one below did for calls that have not ended yet */
        raise_size(&f->b, min_u64(io->offset + io->len, backend_size(f->below)));
    if (io->kind == IO_FLUSH && io->res < 0) /* for good, where the page cache has lost something: fd.c */
        atomic_store(&f->b.sync_failed, atomic_load(&f->below->sync_failed));
    if (io->res < 0)
        return io->res;
    return io->kind == IO_READ || io->kind == IO_WRITE ? (int64_t)io->len : 0;
}

/* ---- for the driver ------------------------------------------------------------------------------------ */

void filter_prefetch(struct backend *b, uint64_t offset, uint64_t len)
{
    struct backend *below = filter_of(b)->below;

    if (below->driver->prefetch && !below->direct)
        below->driver->prefetch(below, offset, len);
}

uint64_t filter_allocated(struct backend *b)
{
    struct backend *below = filter_of(b)->below;

    return below->driver->allocated ? below->driver->allocated(below) : backend_size(below);
}

int filter_relock(struct backend *b, uint32_t flags)
{
    struct backend *below = filter_of(b)->below;

    return below->driver->relock ? below->driver->relock(below, flags) : 0;
}

int filter_refresh(struct backend *b)
{
    struct backend *below = filter_of(b)->below;

    return below->driver->refresh ? below->driver->refresh(below) : 0;
}

bool filter_room(struct backend *b, uint64_t *ret_bytes)
{
    struct backend *below = filter_of(b)->below;

    return below->driver->room && below->driver->room(below, ret_bytes);
}

int filter_unlink(struct backend *b)
{
    struct backend *below = filter_of(b)->below;

    return below->driver->unlink ? below->driver->unlink(below) : 0;
}
