/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Which objects of an image there are: what has none is a hole.
 *
 * Happy path: librbd goes through the objects of a bounded range, by its map of them where the image has one
 * (feature fast-diff), else by asking for each; what it tells is entered until there is no room for more.
 * Failure modes: it cannot tell, or tells what cannot be: then all of the range is data, which is never wrong.
 *
 * Invariants
 *  1. It is asked from the start of an object on: versions before 17 tell wrong offsets otherwise, and of clones
 *     in any case; so a clone is data as a whole. So is one whose objects are no ranges.
 */
#include <errno.h>

#include "backends/rbd/rbd.h"
#include "engine/base/bits.h"
#include "engine/loop/io.h"
#include "engine/loop/status.h"

/* Objects that are asked for at a time: with the map it is read as a whole each time. */
enum { OBJECTS_MAPPED = 1 << 16, OBJECTS_ASKED = 256 };

/* What the walk ends with when there is no room; Ceph has no such error. */
enum { FULL = -EXFULL };

struct walk {
    struct block_status *s;
    uint64_t             pos, end; /* what is told; what is asked */
    uint64_t             bytes;
    bool                 wrong;
};

static bool has_map(const struct rbd_backend *rb)
{
    uint64_t features = 0, flags = 0;

    return rb->ceph->rbd_get_features(rb->image, &features) == 0 && features & CEPH_FEATURE_FAST_DIFF &&
           rb->ceph->rbd_get_flags(rb->image, &flags) == 0 && !(flags & CEPH_FLAG_FAST_DIFF_INVALID);
}

/* Invariant 1. */
static bool can_tell(const struct rbd_backend *rb)
{
    uint64_t overlap = 1;

    return !rb->striped && rb->ceph->rbd_get_overlap(rb->image, &overlap) == 0 && overlap == 0;
}

static int on_extent(uint64_t offset, size_t len, int exists, void *arg)
{
    struct walk *w = arg;
    uint64_t start = max_u64(offset, w->s->start), end;

    if (!exists)
        return 0;
    if (!add_u64(offset, len, &end) || (w->pos > w->s->start && offset < w->pos)) {
        w->wrong = true;
        return FULL;
    }
    end = min_u64(end, w->end);
    if (end <= start)
        return 0;
    if (start > w->pos) {
        if (!status_add(w->s, start, true))
            return FULL;
        w->pos = start;
    }
    if (!status_add(w->s, end, false))
        return FULL;
    w->pos = end;
    return 0;
}

/* The part of the range that one call is asked for. */
static uint64_t end_of_piece(const struct rbd_backend *rb, uint64_t offset, uint64_t len)
{
    uint64_t objects = has_map(rb) ? OBJECTS_MAPPED : OBJECTS_ASKED, most;

    most = align_down(offset, rb->object_size) + objects * rb->object_size;
    return min_u64(offset + len, most);
}

int64_t rbd_blocking_status(struct io *io)
{
    struct rbd_backend *rb = rbd_backend_of(io->backend);
    uint64_t inside = backend_inside(&rb->b, io->offset, io->len), start = align_down(io->offset, rb->object_size);
    struct walk w = {.s = io->status, .pos = io->offset};
    int rc = 0;

    if (inside == 0) {
        status_add(w.s, io->offset + io->len, true);
        return 0;
    }
    w.end = io->offset + inside;
    if (can_tell(rb)) {
        w.end = end_of_piece(rb, io->offset, inside);
        rc = rb->ceph->rbd_diff_iterate2(rb->image, NULL, start, w.end - start, 1, 1, on_extent, &w);
    } else {
        w.wrong = true;
    }
    if (w.wrong || (rc < 0 && rc != FULL)) {
        w.s->count = 0;
        status_add(w.s, w.end, false);
    } else if (rc >= 0) { /* what is left, and lies behind the end; or there is no room for it */
        w.end = w.end == io->offset + inside ? io->offset + io->len : w.end;
        if (w.pos < w.end)
            status_add(w.s, w.end, true);
    }
    return 0;
}

static int on_allocated(uint64_t offset, size_t len, int exists, void *arg)
{
    struct walk *w = arg;

    if (exists && offset < w->end)
        w->bytes += min_u64(len, w->end - offset);
    return 0;
}

/* Whole objects; without a map of them each would have to be asked for, and it is not known. */
uint64_t rbd_allocated(struct backend *b)
{
    struct rbd_backend *rb = rbd_backend_of(b);
    struct walk w = {.end = backend_size(b)};

    if (!rb->image) /* it has been removed */
        return 0;
    if (w.end > 0 && (!has_map(rb) || rb->striped ||
                      rb->ceph->rbd_diff_iterate2(rb->image, NULL, 0, w.end, 0, 1, on_allocated, &w) < 0))
        return w.end;
    return min_u64(w.bytes, w.end);
}
