/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A filter: a backend around another, which lies below it and is its own. What such backends (window.c, fault.c,
 * sim.c) pass on as it is.
 *
 * The I/O below has the gates, sizes and limits of the one below; the filter's are copies, which it may change
 * when it is opened: whoever looks at the size of the filter after an I/O has ended sees that of what is below.
 */
#ifndef ENGINE_FILTER_H
#define ENGINE_FILTER_H

#include "engine/backend.h"

struct filter {
    struct backend  b; /* first */
    struct backend *below;
};

_Static_assert(offsetof(struct filter, b) == 0, "a filter is a backend");

static inline struct filter *filter_of(struct backend *b)
{
    return container_of(b, struct filter, b);
}

/*
 * Limits, capabilities and size of `below`, which is the filter's from now on: when its end moves by itself the
 * filter's does, and its owner is told.
 */
void filter_init(struct filter *f, struct backend *below);

/* Fill in the I/O below: up to `len` of what is left of `outer`; `iov` has room for outer->iovcnt. */
void filter_fill_io(struct filter *f, struct io *io, struct io *outer, struct iovec *iov, uint64_t len);

/* The I/O below has ended: our size moves as it moved that one's. What io_end() of the outer one takes. */
int64_t filter_result(struct filter *f, const struct io *io);

/* What is below has moved by itself: the filter ends where `size_of` says, asked until it does not change. */
void filter_follow(struct filter *f, uint64_t (*size_of)(struct filter *f));

/* For the driver. */
void filter_prefetch(struct backend *b, uint64_t offset, uint64_t len);
uint64_t filter_allocated(struct backend *b);
int filter_relock(struct backend *b, uint32_t flags);
int filter_refresh(struct backend *b);
bool filter_room(struct backend *b, uint64_t *ret_bytes);
int filter_unlink(struct backend *b);

#endif
