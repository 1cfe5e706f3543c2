/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "backends/wrapper.h"

#include "backends/drivers.h"
#include "engine/bits.h"
#include "engine/iov.h"
#include "engine/status.h"

void wrapper_init(struct wrapper *w, struct backend *child)
{
    w->child = child;
    w->b.align = child->align;
    w->b.mem_align = child->mem_align;
    w->b.max_transfer = child->max_transfer;
    w->b.max_iov = child->max_iov;
    w->b.caps = child->caps;
    w->b.discard_align = child->discard_align;
    w->b.read_only = child->read_only;
    w->b.direct = child->direct;
    w->b.cached = child->cached;
    w->b.made = child->made;
    atomic_init(&w->b.size, backend_size(child));
}

void wrapper_fill_io(struct wrapper *w, struct io *io, struct io *outer, struct iovec *iov, uint64_t len)
{
    enum io_kind kind = (enum io_kind)outer->kind;

    if (kind == IO_READ || kind == IO_WRITE) {
        uint32_t n = iov_slice(outer->iov, outer->iovcnt, outer->moved, min_u64(len, outer->len - outer->moved),
                               iov, outer->iovcnt, &len);
        io_rwv(io, w->child, kind, outer->offset + outer->moved, iov, n, len);
    } else if (kind == IO_STATUS) {
        io_status(io, w->child, outer->offset, outer->len, outer->status);
    } else {
        io_range(io, w->child, kind, outer->offset, outer->len);
    }
    io->flags = outer->flags & (IO_FUA | IO_UNMAP | IO_NO_FALLBACK);
    io->op = outer->op; /* for its names: the end comes to io->done */
    io->queue = outer->queue;
}

int64_t wrapper_result(struct wrapper *w, const struct io *io)
{
    bool extends = io->kind == IO_WRITE || io->kind == IO_ZERO || io->kind == IO_ALLOCATE;

    if (io->kind == IO_TRUNCATE)
        atomic_store(&w->b.size, backend_size(w->child));
    else if (extends && io->res < 0) /* nobody knows how far it came */
        raise_size(&w->b, backend_size(w->child));
    else if (extends) /* not by what the child did for calls that have not ended yet */
        raise_size(&w->b, min_u64(io->offset + io->len, backend_size(w->child)));
    if (io->res < 0)
        return io->res;
    return io->kind == IO_READ || io->kind == IO_WRITE ? (int64_t)io->len : 0;
}

/* ---- for the driver ------------------------------------------------------------------------------------ */

void wrapper_prefetch(struct backend *b, uint64_t offset, uint64_t len)
{
    struct backend *child = wrapper_of(b)->child;

    if (child->driver->prefetch && !child->direct)
        child->driver->prefetch(child, offset, len);
}

uint64_t wrapper_allocated(struct backend *b)
{
    struct backend *child = wrapper_of(b)->child;

    return child->driver->allocated ? child->driver->allocated(child) : backend_size(child);
}

int wrapper_relock(struct backend *b, uint32_t flags)
{
    struct backend *child = wrapper_of(b)->child;

    return child->driver->relock ? child->driver->relock(child, flags) : 0;
}

int wrapper_refresh(struct backend *b)
{
    struct backend *child = wrapper_of(b)->child;
    int rc = child->driver->refresh ? child->driver->refresh(child) : 0;

    if (rc == 0 && !(child->caps & BACKEND_GROWS)) /* of a file: wrapper_result() */
        atomic_store(&b->size, backend_size(child));
    return rc;
}

int wrapper_unlink(struct backend *b)
{
    struct backend *child = wrapper_of(b)->child;

    return child->driver->unlink ? child->driver->unlink(child) : 0;
}
