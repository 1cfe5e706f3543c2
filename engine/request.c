/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The fast path. A read or write of one extent that is at hand goes straight to the backend with the request's own
 * I/O: a lookup, a gate, one SQE. Everything else is handed to an op.
 */
#include "engine/request.h"

#include <errno.h>
#include <string.h>

#include "engine/bits.h"
#include "engine/clock.h"
#include "engine/failure.h"
#include "engine/iov.h"
#include "engine/queue.h"
#include "engine/volume.h"

static uint64_t now_ns(const vdisk_queue *q)
{
    struct timespec t;

    clock_now(q->host ? q->host->clock : NULL, &t);
    return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static inline void count(const struct request *r, int result)
{
    struct kind_stats *counts = &r->pair->stats.kind[r->asked];

    stat_add(&counts->ended[r->direct], 1);
    stat_add(&counts->bytes, r->len);
    if (unlikely(result < 0))
        stat_add(&counts->errors, 1);
    if (unlikely(r->pair->latency))
        latency_note(r->pair->latency, r->asked, now_ns(r->queue) - r->begun_ns);
}

void request_end(struct request *r, int result)
{
    assert(r->queue->in_loop);
    assert(r->state == REQUEST_STARTED && result <= 0);
    if (unlikely(r->flags & VDISK_REQ_FUA) && result == 0 && r->kind != REQ_FLUSH) {
        r->flags &= (uint8_t)~VDISK_REQ_FUA;
        r->kind = REQ_FLUSH;
        r->vdisk->format->submit(r->vdisk, r);
        return;
    }
    count(r, result);
    if (unlikely(result < 0))
        r->error = request_explain(r, result);
    gate_leave_slot(&r->vdisk->requests, r->pair->slot, r->gate);
    request_hand_in(r, result);
}

void request_end_merged(struct request *r, int result)
{
    while (r) {
        struct request *next = r->merged;
        r->merged = NULL;
        request_end(r, result);
        r = next;
    }
}

static void run_end(struct task *t)
{
    struct request *r = container_of(t, struct request, io.task);

    failure_now = r->error;
    r->error = 0;
    request_end(r, r->result);
}

void request_end_later(struct request *r, int result)
{
    r->result = result;
    r->error = result < 0 ? failure_now : 0;
    r->io.task.run = run_end;
    queue_ready(r->queue, &r->io.task);
}

void request_refuse(struct request *r, int result)
{
    while (r) {
        struct request *next = r->kind == REQ_WRITE ? r->merged : NULL;
        request_end_later(r, result);
        r = next;
    }
}

static void fast_io_done(struct io *io)
{
    request_end(container_of(io, struct request, io), io->res);
}

static void fast_write_done(struct io *io)
{
    struct request *r = container_of(io, struct request, io);

    if (unlikely(io->res == -ENOSPC) && r->vdisk->format->trim) {
        /* The format may have space that can be given back: its turn, once. */
        if (io->flags & IO_FUA)
            r->flags |= VDISK_REQ_FUA;
        plug_add(r);
        return;
    }
    request_end(r, io->res);
}

static void fast_io(struct request *r, struct backend *b, enum io_kind kind, uint64_t host_offset)
{
    struct io *io = &r->io;

    io_rwv(io, b, kind, host_offset, r->iov, r->iovcnt, r->len);
    io->done = fast_io_done;
    io->op = NULL;
    io_start(io);
}

static void start_read(struct request *r)
{
    struct extent e;
    vdisk *layer;

    if (likely(chain_lookup(r->vdisk, r->guest_offset, r->len, &e, &layer) == 0 && e.len == r->len)) {
        r->direct = true;
        if (likely(e.kind == EXTENT_DATA)) {
            fast_io(r, layer->data, IO_READ, e.host_offset);
            return;
        }
        if (e.kind == EXTENT_ZERO) {
            iov_zero(r->iov, r->iovcnt, 0, r->len);
            request_end_later(r, 0);
            return;
        }
    }
    read_start(r);
}

static void start_write(struct request *r)
{
    vdisk *v = r->vdisk;
    struct extent e;

    if (v->writes_in_place && v->format->lookup(v, r->guest_offset, r->len, &e) == 0 &&
        likely(e.len == r->len && e.kind == EXTENT_DATA && e.flags & EXTENT_WRITABLE)) {
        uint64_t host_end = e.host_offset + r->len;
        bool durable = r->flags & VDISK_REQ_FUA && e.flags & EXTENT_DURABLE && !v->data->cached;
        io_rwv(&r->io, v->data, IO_WRITE, e.host_offset, r->iov, r->iovcnt, r->len);
        if (unlikely(host_end > atomic_load_explicit(&v->mark.above, memory_order_relaxed)))
            volume_note_end(v, host_end);
        r->direct = true;
        r->io.done = fast_write_done;
        r->io.op = NULL;
        if (durable) {
            r->io.flags |= IO_FUA;
            r->flags &= (uint8_t)~VDISK_REQ_FUA;
        }
        io_start(&r->io);
        return;
    }
    plug_add(r);
}

/* Part of a resize, which works on what is behind the end. */
static bool may_go_behind(const vdisk *v, const struct request *r, uint64_t end)
{
    return atomic_load_explicit(&v->resizer, memory_order_acquire) == r->queue &&
           end <= atomic_load_explicit(&v->reach, memory_order_relaxed);
}

static bool changes(enum request_kind kind)
{
    return kind == REQ_WRITE || kind == REQ_ZERO || kind == REQ_DISCARD;
}

/* 0, or what is wrong with it. */
static int check(const struct request *r)
{
    vdisk *v = r->vdisk;
    uint64_t end;

    if (unlikely(r->result < 0))
        return r->result;
    if (unlikely(!add_u64(r->guest_offset, r->len, &end)))
        return -EINVAL;
    if (unlikely(end > atomic_load_explicit(&v->size, memory_order_acquire)) && !may_go_behind(v, r, end))
        return -EINVAL;
    return unlikely(v->read_only) && changes(r->kind) ? -EACCES : 0;
}

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
 * What is looked at when a queue turns to a volume, and not again while it stays with it. 0; -EINVAL: there is no
 * volume; -ECHILD: one of the two handles is another process's, nothing of it may be touched; -ENOMEM.
 */
static __attribute__((noinline)) int get_to_know(vdisk_queue *q, vdisk *v, struct pair **ret)
{
    if (!v)
        return -EINVAL;
    if (q->generation != process_generation || v->generation != process_generation)
        return -ECHILD;
    if (unlikely(!q->thread) && !q->host)
        thread_adopt(q);
    *ret = pair_of(q, v);
    if (!*ret)
        return -ENOMEM;
    if (meet(v, q) && (q->thread || q->host))
        q->pair = *ret;
    return 0;
}

static inline bool is_known(const vdisk_queue *q, const vdisk *v)
{
    return q->pair->number == v->number || (q->pair != &pair_none && ENGINE_MUTANT(KNOWN_FOR_ALL));
}

void request_start(struct request *r)
{
    vdisk *v = r->vdisk;
    vdisk_queue *q = r->queue;
    struct pair *p = q->pair;
    int rc = 0;

    if (unlikely(!v || q->generation != process_generation || !is_known(q, v)))
        rc = get_to_know(q, v, &p);
    if (unlikely(rc < 0)) {
        request_hand_in(r, rc);
        return;
    }
    queue_current = q;
    assert(!q->in_loop);
    r->pair = p;
    rc = check(r);
    r->gate = gate_enter_slot(&v->requests, p->slot);
    if (unlikely(atomic_load(&v->shut)) && rc == 0 && atomic_load(&v->manager) != q)
        rc = -EBUSY;
    if (unlikely(rc < 0 || (r->len == 0 && r->kind != REQ_FLUSH))) {
        if (rc == 0)
            r->flags = 0; /* nothing to make durable */
        failure_now = 0;
        request_end_later(r, rc);
        return;
    }
    switch ((enum request_kind)r->kind) {
    case REQ_READ:
        start_read(r);
        break;
    case REQ_WRITE:
        start_write(r);
        break;
    case REQ_FLUSH:
        if (v->read_only)
            request_end_later(r, 0);
        else
            v->format->submit(v, r);
        break;
    case REQ_ZERO:
        if (unlikely(v->keeps_discarded))
            r->flags &= (uint8_t)~VDISK_REQ_UNMAP;
        v->format->submit(v, r);
        break;
    case REQ_DISCARD:
        if (unlikely(v->keeps_discarded))
            request_end_later(r, 0);
        else
            v->format->submit(v, r);
        break;
    case REQ_EXTENTS:
        extents_start(r);
        break;
    case REQ_PREFETCH:
        prefetch_start(r);
        break;
    }
}

/* ---- enqueue ----------------------------------------------------------------------------------------- */

static inline struct request *request_new(vdisk_queue *q, vdisk *v, enum request_kind kind, uint64_t offset,
                                          uint64_t len, uint32_t flags, uint64_t user_data)
{
    struct request *r = request_get(q);

    r->vdisk = v;
    r->kind = r->asked = (uint8_t)kind;
    r->direct = false;
    if (unlikely(q->latency))
        r->begun_ns = now_ns(q);
    r->flags = (uint8_t)flags;
    r->guest_offset = offset;
    r->len = len;
    r->user_data = user_data;
    r->result = 0;
    if (unlikely(flags & ~request_allowed_flags(kind))) {
        r->flags = UINT8_MAX;
        r->result = -EINVAL;
    }
    return r;
}

/* Memory that is none, with a length. */
static bool has_no_memory(const struct iovec *iov, unsigned n)
{
    if (n > 0 && !iov)
        return true;
    for (unsigned i = 0; i < n; i++)
        if (unlikely(!iov[i].iov_base) && iov[i].iov_len > 0)
            return true;
    return false;
}

static void enqueue_buf(vdisk_queue *q, vdisk *v, enum request_kind kind, uint64_t offset, void *buf, size_t len,
                        uint32_t flags, uint64_t user_data)
{
    struct request *r = request_new(q, v, kind, offset, len, flags, user_data);

    r->iov_inline[0].iov_base = buf;
    r->iov_inline[0].iov_len = len;
    r->iov = r->iov_inline;
    r->iovcnt = 1;
    if (unlikely(has_no_memory(r->iov, 1)))
        r->result = -EINVAL;
    request_start(r);
}

static void enqueue_iov(vdisk_queue *q, vdisk *v, enum request_kind kind, uint64_t offset,
                        const struct iovec *iov, unsigned n, uint32_t flags, uint64_t user_data)
{
    bool usable = !has_no_memory(iov, n);
    struct request *r = request_new(q, v, kind, offset, usable ? iov_len(iov, n) : 0, flags, user_data);

    r->iov = iov;
    r->iovcnt = n;
    if (!usable)
        r->result = -EINVAL;
    else if (n > 0 && n <= VDISK_IOV_INLINE) {
        memcpy(r->iov_inline, iov, n * sizeof *iov);
        r->iov = r->iov_inline;
    }
    request_start(r);
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
    request_start(request_new(q, v, REQ_ZERO, offset, len, flags, user_data));
}

void vdisk_discard(vdisk_queue *q, vdisk *v, uint64_t offset, uint64_t len, uint32_t flags, uint64_t user_data)
{
    request_start(request_new(q, v, REQ_DISCARD, offset, len, flags, user_data));
}

void vdisk_prefetch(vdisk_queue *q, vdisk *v, uint64_t offset, uint64_t len, uint32_t flags, uint64_t user_data)
{
    request_start(request_new(q, v, REQ_PREFETCH, offset, len, flags, user_data));
}

void vdisk_flush(vdisk_queue *q, vdisk *v, uint32_t flags, uint64_t user_data)
{
    request_start(request_new(q, v, REQ_FLUSH, 0, 0, flags, user_data));
}

void vdisk_get_extents(vdisk_queue *q, vdisk *v, uint64_t offset, uint64_t len, struct vdisk_extents *extents,
                       uint64_t user_data)
{
    struct request *r = request_new(q, v, REQ_EXTENTS, offset, len, 0, user_data);

    if (extents)
        extents->count = 0;
    if (!extents || (!extents->list && extents->max > 0))
        r->result = -EINVAL;
    r->extents = extents;
    request_start(r);
}
