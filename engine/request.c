/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The fast path. A read or write of one extent that is at hand goes straight to the backend with the request's own
 * I/O: a lookup, a gate, one SQE. Everything else is handed to an op.
 */
#include "engine/base/mem.h"
#include "engine/loop/request_end.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/bits.h"
#include "engine/base/iov.h"
#include "engine/clone.h"
#include "engine/loop/failure.h"
#include "engine/loop/queue.h"
#include "engine/vdisk-bulk.h"
#include "engine/volume.h"

/* ---- reads and writes, as far as their mapping is at hand ------------------------------------------- */

static void fast_read_done(struct io *io)
{
    request_end_now(container_of(io, struct request, io), REQ_READ, true, io->res);
}

/* The format may have space that can be given back: its turn, once. Of raw there is a grower's at most. */
static __attribute__((noinline)) void find_space(struct request *r)
{
    if (r->io.flags & IO_FUA)
        r->flags |= VDISK_REQ_FUA;
    if (r->vdisk->top->format->trim) {
        r->flags |= REQUEST_TRIED;
        plug_add(r);
    } else {
        request_end(r, -ENOSPC);
    }
}

static void fast_write_done(struct io *io)
{
    struct request *r = container_of(io, struct request, io);

    assert(r->kind == REQ_WRITE && !(r->flags & REQUEST_TRIED));
    if (unlikely(io->res == -ENOSPC)) {
        find_space(r);
    } else if (unlikely(r->flags & VDISK_REQ_FUA)) {
        request_end(r, io->res);
    } else {
        request_end_now(r, REQ_WRITE, true, io->res);
    }
}

static inline void fast_io(struct request *r, struct backend *b, enum io_kind kind, uint64_t host_offset,
                           uint64_t len, io_done_fn *done)
{
    assert(!r->io.op && len > 0 && len == r->len);
    r->direct = true;
    io_rwv(&r->io, b, kind, host_offset, r->iov, r->iovcnt, len);
    r->io.done = done;
}

/* The top layer has nothing there: do those below? As chain_find(). */
static __attribute__((noinline)) int look_below(struct layer *top, uint64_t guest_offset, struct extent *e,
                                                struct layer **ret_layer)
{
    assert(e->len > 0 && top == top->volume->top);
    return chain_find_below(top, guest_offset, e->len, e, ret_layer);
}

static inline void start_read(struct request *r, vdisk *v, uint64_t offset, uint64_t len)
{
    struct layer *top = v->top, *layer = top;
    struct extent e;
    int rc = top->format->lookup(top, offset, len, &e);

    if (unlikely(rc == 0 && e.kind == EXTENT_UNALLOCATED))
        rc = look_below(top, offset, &e, &layer);
    assert(rc < 0 || (e.len > 0 && e.len <= len && e.kind != EXTENT_UNALLOCATED));
    if (likely(rc == 0 && e.len == len)) {
        if (likely(e.kind == EXTENT_DATA)) {
            fast_io(r, layer->data, IO_READ, e.host_offset, len, fast_read_done);
            io_start(&r->io);
            return;
        }
        if (e.kind == EXTENT_ZERO) {
            r->direct = true;
            iov_zero(r->iov, r->iovcnt, 0, len);
            request_end_later(r, 0);
            return;
        }
    }
    read_start(top, r);
}

/* Not with others of the turn: they go one by one, in the order in which they come. */
static __attribute__((noinline)) void start_compressed(struct request *r, struct layer *top)
{
    if (top->compress_align > 0)
        top->format->write_compressed(top, r);
    else
        request_end_later(r, -ENOTSUP);
}

static inline void start_write(struct request *r, vdisk *v, uint64_t offset, uint64_t len)
{
    struct layer *top = v->top;
    struct extent e;

    if (unlikely(r->flags & VDISK_REQ_COMPRESSED)) {
        start_compressed(r, top);
        return;
    }
    if (atomic_load_explicit(&top->writes_in_place, memory_order_relaxed) &&
        top->format->lookup(top, offset, len, &e) == 0 &&
        likely(e.len == len && e.kind == EXTENT_DATA && e.flags & EXTENT_WRITABLE)) {
        uint64_t host_end = e.host_offset + len;
        assert(!top->read_only && host_end > e.host_offset);
        fast_io(r, top->data, IO_WRITE, e.host_offset, len, fast_write_done);
        if (unlikely(host_end > atomic_load_explicit(&top->mark.above, memory_order_relaxed)))
            layer_note_end(top, host_end);
        if (unlikely(r->flags & VDISK_REQ_FUA) && e.flags & EXTENT_DURABLE && !top->data->cached) {
            r->io.flags |= IO_FUA;
            r->flags &= (uint8_t)~VDISK_REQ_FUA;
        }
        io_start(&r->io);
        return;
    }
    plug_add(r);
}

/* ---- from a call to the start -------------------------------------------------------------------------- */

/* A request has come on `q`: is that the only queue that this volume has seen? True: that is settled. */
static bool meet(vdisk *v, vdisk_queue *q)
{
    uint64_t seen = atomic_load_explicit(&v->queue_seen, memory_order_relaxed);

    if (likely(seen == q->id + UINT64_C(1) || seen == VOLUME_SEEN_MANY))
        return true;
    service_meet(v, q);
    return false;
}

/*
 * What is looked at when a queue turns to a volume, and not again while it stays with it. NULL: `r` has ended with
 * -EINVAL: there is no volume; -ECHILD: a handle is another process's, nothing of it may be touched; or -ENOMEM.
 */
static __attribute__((noinline)) struct pair *get_to_know(vdisk_queue *q, vdisk *v, struct request *r)
{
    struct pair *p = NULL;
    int rc = 0;

    assert(r->state == REQUEST_STARTED && r->queue == q);
    if (!v)
        rc = -EINVAL;
    else if (q->generation != process_generation || v->generation != process_generation)
        rc = -ECHILD;
    if (rc == 0) {
        if (unlikely(!q->thread) && !q->host)
            thread_adopt(q);
        p = pair_of(q, v);
    }
    if (!p)
        request_hand_in(r, rc < 0 ? rc : -ENOMEM);
    else if (meet(v, q) && (q->thread || q->host))
        q->pair = p;
    return p;
}

static inline bool is_known(const vdisk_queue *q, const vdisk *v)
{
    return q->pair->number == v->number || (q->pair != &pair_none && ENGINE_MUTANT(KNOWN_FOR_ALL));
}

/* In the gate; something may be wrong, `rc` < 0: it is. True: nothing was, and there is something to do. */
static __attribute__((noinline)) bool look_closer(struct request *r, const vdisk *v, int rc)
{
    assert(rc <= 0);
    if (rc == 0)
        rc = request_check(r);
    if (rc == 0 && (r->len > 0 || r->kind == REQ_FLUSH))
        return true;
    if (rc == 0)
        r->flags = 0; /* nothing to make durable */
    failure_now = 0;
    request_end_later(r, rc);
    return false;
}

/* Nothing of what request_check() and look_closer() look at; inside the volume's gate, so that it remains so. */
static inline bool is_plain(const vdisk *v, enum request_kind kind, uint64_t offset, uint64_t len)
{
    uint8_t closed = (uint8_t)(VOLUME_SHUT | (request_changes(kind) ? VOLUME_READ_ONLY : 0));
    uint64_t end;

    return add_u64(offset, len, &end) && end <= layer_size(v->top) && len > 0 &&
           !(atomic_load(&v->refuses) & closed);
}

/* Count it in, and check it. `rc` < 0: it cannot be carried out. True: it has to be, now. */
static inline bool enter(struct request *r, vdisk *v, vdisk_queue *q, enum request_kind kind, uint64_t offset,
                         uint64_t len, int rc)
{
    struct pair *p = q->pair;

    if (unlikely(!v || q->generation != process_generation || !is_known(q, v))) {
        p = get_to_know(q, v, r);
        if (!p)
            return false;
    }
    queue_current = q;
    assert(!q->in_loop);
    assert(p->number == v->number || ENGINE_MUTANT(KNOWN_FOR_ALL)); /* pair.h, invariant 3 */
    r->pair = p;
    if (unlikely(p->latency))
        r->begun_ns = request_now_ns(q);
    r->gate = gate_enter_slot(&v->requests, p->slot);
    return likely(rc == 0 && is_plain(v, kind, offset, len)) || look_closer(r, v, rc);
}

/* Of any kind but reads and writes. */
static void start_other(struct request *r, vdisk *v)
{
    bool none = (r->kind == REQ_FLUSH && v->top->read_only) || (r->kind == REQ_DISCARD && v->top->keeps_discarded);

    assert(r->kind != REQ_READ && r->kind != REQ_WRITE);
    if (r->kind == REQ_ZERO && v->top->keeps_discarded)
        r->flags &= (uint8_t)~VDISK_REQ_UNMAP;
    if (r->kind == REQ_EXTENTS)
        extents_start(v->top, r);
    else if (r->kind == REQ_PREFETCH)
        prefetch_start(v->top, r);
    else if (r->kind == REQ_COPY)
        clone_range_start(r);
    else if (none)
        request_end_later(r, 0);
    else
        v->top->format->submit(v->top, r);
}

/* ---- enqueue ----------------------------------------------------------------------------------------- */

static inline struct request *request_new(vdisk_queue *q, vdisk *v, enum request_kind kind, uint64_t offset,
                                          uint64_t len, uint32_t flags, uint64_t user_data)
{
    struct request *r = request_get(q);

    r->vdisk = v;
    r->kind = r->asked = (uint8_t)kind;
    r->direct = false;
    r->flags = (uint8_t)flags;
    r->guest_offset = offset;
    r->len = len;
    r->user_data = user_data;
    return r;
}

static inline bool has_other_flags(enum request_kind kind, uint32_t flags)
{
    return flags & ~request_allowed_flags(kind);
}

/* What makes no sense, or cannot be begun, ends as other requests do. */
static __attribute__((noinline)) void refuse(struct request *r, uint32_t flags, int rc)
{
    if (has_other_flags(r->kind, flags))
        r->flags = UINT8_MAX; /* for request_explain() */
    enter(r, r->vdisk, r->queue, r->kind, r->guest_offset, r->len, rc);
}

/* The caller's list is his again when the call returns. False: no memory. */
static __attribute__((noinline)) bool copy_list(struct request *r, const struct iovec *iov, unsigned n)
{
    if (n > r->iov_room) {
        mem_free(r->iov_long);
        r->iov_long = mem_alloc(n * sizeof *iov);
        r->iov_room = r->iov_long ? n : 0;
    }
    if (r->iov_room < n)
        return false;
    memcpy(r->iov_long, iov, n * sizeof *iov);
    r->iov = r->iov_long;
    return true;
}

/* Can it be a list: is there memory where it has a length, and do the lengths make a sum? *ret_len: that. */
static bool is_list(const struct iovec *iov, unsigned n, uint64_t *ret_len)
{
    uint64_t len = 0;

    *ret_len = 0;
    if (n > 0 && !iov)
        return false;
    for (unsigned i = 0; i < n; i++)
        if (unlikely((!iov[i].iov_base && iov[i].iov_len > 0) || !add_u64(len, iov[i].iov_len, &len)))
            return false;
    *ret_len = len;
    return true;
}

static inline void start_rw(struct request *r, vdisk *v, vdisk_queue *q, enum request_kind kind, uint64_t offset,
                            uint64_t len)
{
    if (unlikely(!enter(r, v, q, kind, offset, len, 0)))
        return;
    if (kind == REQ_READ)
        start_read(r, v, offset, len);
    else
        start_write(r, v, offset, len);
}

static inline void enqueue_buf(vdisk_queue *q, vdisk *v, enum request_kind kind, uint64_t offset, void *buf,
                               size_t len, uint32_t flags, uint64_t user_data)
{
    struct request *r = request_new(q, v, kind, offset, len, flags, user_data);

    r->io.buf.iov_base = buf;
    r->io.buf.iov_len = len;
    r->iov = &r->io.buf;
    r->iovcnt = 1;
    if (unlikely(has_other_flags(kind, flags)) || (unlikely(!buf) && len > 0))
        refuse(r, flags, -EINVAL);
    else
        start_rw(r, v, q, kind, offset, len);
}

static inline void enqueue_iov(vdisk_queue *q, vdisk *v, enum request_kind kind, uint64_t offset,
                               const struct iovec *iov, unsigned n, uint32_t flags, uint64_t user_data)
{
    uint64_t len;
    bool usable = is_list(iov, n, &len);
    struct request *r = request_new(q, v, kind, offset, len, flags, user_data);

    r->iov = usable ? r->iov_inline : NULL;
    r->iovcnt = n;
    if (usable && n > 0 && n <= VDISK_IOV_INLINE)
        memcpy(r->iov_inline, iov, n * sizeof *iov);
    if (unlikely(!usable || has_other_flags(kind, flags)))
        refuse(r, flags, -EINVAL);
    else if (n > VDISK_IOV_INLINE && unlikely(!copy_list(r, iov, n)))
        refuse(r, flags, -ENOMEM);
    else
        start_rw(r, v, q, kind, offset, len);
}

static void enqueue_other(vdisk_queue *q, vdisk *v, enum request_kind kind, uint64_t offset, uint64_t len,
                          uint32_t flags, uint64_t user_data)
{
    struct request *r = request_new(q, v, kind, offset, len, flags, user_data);

    if (unlikely(has_other_flags(kind, flags)))
        refuse(r, flags, -EINVAL);
    else if (enter(r, v, q, kind, offset, len, 0))
        start_other(r, v);
}

void vdisk_read(vdisk_queue *q, vdisk *v, uint64_t offset, void *buf, size_t len, uint32_t flags,
                uint64_t user_data)
{
    enqueue_buf(q, v, REQ_READ, offset, buf, len, flags, user_data);
}

void vdisk_write(vdisk_queue *q, vdisk *v, uint64_t offset, const void *buf, size_t len, uint32_t flags,
                 uint64_t user_data)
{
    enqueue_buf(q, v, REQ_WRITE, offset, unconst(buf), len, flags, user_data);
}

void vdisk_readv(vdisk_queue *q, vdisk *v, uint64_t offset, const struct iovec *iov, unsigned n, uint32_t flags,
                 uint64_t user_data)
{
    enqueue_iov(q, v, REQ_READ, offset, iov, n, flags, user_data);
}

void vdisk_writev(vdisk_queue *q, vdisk *v, uint64_t offset, const struct iovec *iov, unsigned n,
                  uint32_t flags, uint64_t user_data)
{
    enqueue_iov(q, v, REQ_WRITE, offset, iov, n, flags, user_data);
}

void vdisk_write_zeroes(vdisk_queue *q, vdisk *v, uint64_t offset, uint64_t len, uint32_t flags,
                        uint64_t user_data)
{
    enqueue_other(q, v, REQ_ZERO, offset, len, flags, user_data);
}

void vdisk_discard(vdisk_queue *q, vdisk *v, uint64_t offset, uint64_t len, uint32_t flags, uint64_t user_data)
{
    enqueue_other(q, v, REQ_DISCARD, offset, len, flags, user_data);
}

void vdisk_prefetch(vdisk_queue *q, vdisk *v, uint64_t offset, uint64_t len, uint32_t flags, uint64_t user_data)
{
    enqueue_other(q, v, REQ_PREFETCH, offset, len, flags, user_data);
}

void vdisk_copy_range(vdisk_queue *q, vdisk *v, uint64_t offset, uint64_t len, vdisk *source,
                      uint64_t source_offset, uint32_t flags, uint64_t user_data)
{
    struct request *r = request_new(q, v, REQ_COPY, offset, len, flags, user_data);

    r->source = source;
    r->source_offset = source_offset;
    if (unlikely(has_other_flags(REQ_COPY, flags)))
        refuse(r, flags, -EINVAL);
    else if (enter(r, v, q, REQ_COPY, offset, len, 0))
        start_other(r, v);
}

void vdisk_flush(vdisk_queue *q, vdisk *v, uint32_t flags, uint64_t user_data)
{
    enqueue_other(q, v, REQ_FLUSH, 0, 0, flags, user_data);
}

void vdisk_get_extents(vdisk_queue *q, vdisk *v, uint64_t offset, uint64_t len, struct vdisk_extents *extents,
                       uint64_t user_data)
{
    struct request *r = request_new(q, v, REQ_EXTENTS, offset, len, 0, user_data);

    if (extents)
        extents->count = 0;
    r->extents = extents;
    if (!extents || (!extents->list && extents->max > 0))
        refuse(r, 0, -EINVAL);
    else if (enter(r, v, q, REQ_EXTENTS, offset, len, 0))
        start_other(r, v);
}
