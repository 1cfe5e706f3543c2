/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A backend around another: what such backends (fault.c, sim.c) pass on as it is.
 *
 * The child's I/O has the child's gates, sizes and limits; the wrapper's are copies: whoever looks at the size of
 * the wrapper after an I/O has ended sees the child's.
 */
#ifndef BACKENDS_WRAPPER_H
#define BACKENDS_WRAPPER_H

#include "engine/backend.h"

struct wrapper {
    struct backend  b; /* first */
    struct backend *child;
};

static inline struct wrapper *wrapper_of(struct backend *b)
{
    return container_of(b, struct wrapper, b);
}

/* Limits, capabilities and size of `child`, which is the wrapper's from now on. */
void wrapper_init(struct wrapper *w, struct backend *child);

/* Fill in the child's I/O: up to `len` of what is left of `outer`; `iov` has room for outer->iovcnt. */
void wrapper_fill_io(struct wrapper *w, struct io *io, struct io *outer, struct iovec *iov, uint64_t len);

/* The child's I/O has ended: our size moves as it moved the child's. What io_end() of the outer one takes. */
int64_t wrapper_result(struct wrapper *w, const struct io *io);

/* For the driver. */
void wrapper_prefetch(struct backend *b, uint64_t offset, uint64_t len);
uint64_t wrapper_allocated(struct backend *b);
int wrapper_relock(struct backend *b, uint32_t flags);
int wrapper_refresh(struct backend *b);
int wrapper_unlink(struct backend *b);

#endif
