/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Images of Ceph's RBD, by librbd: "rbd:POOL/IMAGE@SNAPSHOT:KEY=VALUE", and the driver rbd in trees.
 *
 * Happy path: an I/O is handed to librbd with the request's own buffers; librbd calls back on a thread of its own,
 * and that ends the I/O on its queue. With FUA a flush follows the write. What has to ask the cluster and wait
 * (another size, and so writes past the end; where objects are) is done by a worker.
 * Failure modes: no library (-ENOTSUP), or it cannot be opened (open.c); librbd's errors are the I/O's, with words
 * where the cluster was too late or has shut us out; more bytes than were asked for are -EIO. A cluster that is
 * away makes I/O wait (open.c, invariant 1).
 *
 * Invariants
 *  1. An I/O that librbd has taken ends in its callback, one that it has refused at once: once in either case.
 *     After io_end_foreign() nothing of the I/O or the backend is looked at.
 *  2. No read or write that librbd sees reaches past the image's end.
 *  3. Only IO_TRUNCATE makes the image smaller. Who makes it larger looks at its size under `resizing`.
 */
#include <errno.h>
#include <limits.h>
#include <stdio.h>

#include "backends/drivers.h"
#include "backends/name.h"
#include "backends/rbd/rbd.h"
#include "engine/base/bits.h"
#include "engine/base/error.h"
#include "engine/loop/io.h"
#include "engine/loop/queue.h"
#include "engine/spec/option.h"

/* Of zeros and discards at a time: librbd makes a request for each object at once. */
#define RANGE_MOST (UINT64_C(4) << 30)

/* ---- one call of librbd's --------------------------------------------------------------------------------- */

/* The bytes that are left in the vector that the next one lies in: what goes on after a part does so by one. */
static struct iovec next_vector(const struct io *io)
{
    uint64_t skip = io->moved;
    uint32_t i = 0;

    while (skip >= io->iov[i].iov_len) {
        skip -= io->iov[i].iov_len;
        i++;
    }
    assert(i < io->iovcnt);
    return (struct iovec){(char *)io->iov[i].iov_base + skip, io->iov[i].iov_len - skip};
}

/* As much as one call is to move: noted in io->later. All of it, or a part of one vector. */
static int start_rw(const struct rbd_backend *rb, struct io *io, uint64_t most, void *completion)
{
    bool read = io->kind == IO_READ;
    struct iovec one;

    if (io->moved == 0 && most == io->len) {
        io->later = (int64_t)io->len;
        return (read ? rb->ceph->rbd_aio_readv : rb->ceph->rbd_aio_writev)(rb->image, io->iov, (int)io->iovcnt,
                                                                          io->offset, completion);
    }
    one = next_vector(io);
    one.iov_len = min_u64(one.iov_len, most);
    io->later = (int64_t)one.iov_len;
    return (read ? rb->ceph->rbd_aio_readv : rb->ceph->rbd_aio_writev)(rb->image, &one, 1, io->offset + io->moved,
                                                                      completion);
}

/* Of zeros and discards io->moved says how far they have come. */
static int start_zero(const struct rbd_backend *rb, struct io *io, void *completion)
{
    io->later = (int64_t)min_u64(io->len - io->moved, RANGE_MOST);
    return rb->ceph->rbd_aio_write_zeroes(rb->image, io->offset + io->moved, (size_t)io->later, completion,
                                          io->flags & IO_UNMAP ? 0 : CEPH_ZEROES_THICK, 0);
}

/* 0, or why there will be no callback. */
static int start(const struct rbd_backend *rb, struct io *io, void *completion)
{
    uint64_t inside = backend_inside(&rb->b, io->offset + io->moved, io->len - io->moved);

    switch ((enum io_kind)io->kind) {
    case IO_READ:
    case IO_WRITE: return start_rw(rb, io, inside, completion);
    case IO_ALLOCATE:
    case IO_ZERO: return start_zero(rb, io, completion);
    case IO_DISCARD:
        io->later = (int64_t)min_u64(inside, RANGE_MOST);
        return rb->ceph->rbd_aio_discard(rb->image, io->offset + io->moved, (uint64_t)io->later, completion);
    case IO_FLUSH: return rb->ceph->rbd_aio_flush(rb->image, completion);
    case IO_TRUNCATE:
    case IO_STATUS: break;
    }
    return -ENOTSUP;
}

static bool has_parts(const struct io *io)
{
    return io->kind == IO_ZERO || io->kind == IO_DISCARD || io->kind == IO_ALLOCATE;
}

/* Two errors that no errno of ours tells from others are EIO, and rbd_explain() has words for them. */
static int64_t failed(struct rbd_backend *rb, int64_t rc)
{
    bool has_words = rc == -ETIMEDOUT || rc == -CEPH_BLOCKLISTED;

    atomic_store_explicit(&rb->trouble, has_words ? (int)rc : 0, memory_order_relaxed);
    return has_words || rc < -4095 ? -EIO : rc;
}

/* What io_end() is to be told of what a call has returned. */
static int64_t result(const struct io *io, int64_t rc)
{
    if (rc < 0)
        return failed(rbd_backend_of(io->backend), rc);
    if (io->kind == IO_READ)
        return rc <= io->later ? rc : -EIO;
    return io->kind == IO_WRITE ? io->later : 0;
}

/* ---- without waiting -------------------------------------------------------------------------------------- */

static void begin(struct rbd_backend *rb, struct io *io);

/* On librbd's threads. */
static void ended_flush(void *completion, void *arg)
{
    struct io *io = arg;
    struct rbd_backend *rb = rbd_backend_of(io->backend);
    int64_t rc = rb->ceph->rbd_aio_get_return_value(completion);

    rb->ceph->rbd_aio_release(completion);
    io_end_foreign(io, result(io, rc));
}

static void flush_after(struct rbd_backend *rb, struct io *io)
{
    void *completion;
    int rc = rb->ceph->rbd_aio_create_completion(io, ended_flush, &completion);

    if (rc >= 0) {
        rc = rb->ceph->rbd_aio_flush(rb->image, completion);
        if (rc >= 0)
            return;
        rb->ceph->rbd_aio_release(completion);
    }
    io_end_foreign(io, result(io, rc));
}

static void ended(void *completion, void *arg)
{
    struct io *io = arg;
    struct rbd_backend *rb = rbd_backend_of(io->backend);
    int64_t rc = rb->ceph->rbd_aio_get_return_value(completion);

    rb->ceph->rbd_aio_release(completion);
    if (rc >= 0 && io->kind == IO_WRITE && io->flags & IO_FUA) {
        flush_after(rb, io);
        return;
    }
    if (rc >= 0 && has_parts(io)) {
        io->moved += (uint64_t)io->later;
        if (backend_inside(&rb->b, io->offset + io->moved, io->len - io->moved) > 0) {
            begin(rb, io);
            return;
        }
    }
    io_end_foreign(io, result(io, rc));
}

/* io_elsewhere() has been called. Any thread. */
static void begin(struct rbd_backend *rb, struct io *io)
{
    void *completion;
    int rc = rb->ceph->rbd_aio_create_completion(io, ended, &completion);

    if (rc >= 0) {
        rc = start(rb, io, completion);
        if (rc >= 0)
            return;
        rb->ceph->rbd_aio_release(completion);
    }
    io_end_foreign(io, result(io, rc));
}

/* ---- on a worker ------------------------------------------------------------------------------------------ */

/* Invariant 3. */
static int grow(struct rbd_backend *rb, uint64_t end)
{
    uint64_t size = 0;
    int rc;

    pthread_mutex_lock(&rb->resizing);
    rc = rb->ceph->rbd_get_size(rb->image, &size);
    if (rc >= 0 && size < end)
        rc = rb->ceph->rbd_resize(rb->image, end);
    if (rc >= 0)
        raise_size(&rb->b, end);
    pthread_mutex_unlock(&rb->resizing);
    return rc < 0 ? rc : 0;
}

/* The same calls, waited for. A write with FUA is flushed behind it. */
static int64_t wait_for(struct rbd_backend *rb, struct io *io,
                        int (*call)(const struct rbd_backend *, struct io *, void *))
{
    void *completion;
    int64_t rc = rb->ceph->rbd_aio_create_completion(NULL, NULL, &completion);

    if (rc < 0)
        return rc;
    rc = call(rb, io, completion);
    if (rc >= 0)
        rc = rb->ceph->rbd_aio_wait_for_complete(completion);
    if (rc >= 0)
        rc = rb->ceph->rbd_aio_get_return_value(completion);
    rb->ceph->rbd_aio_release(completion);
    return rc;
}

static int call_flush(const struct rbd_backend *rb, struct io *io, void *completion)
{
    return rb->ceph->rbd_aio_flush(rb->image, completion);
}

static int64_t blocking_past_end(struct io *io)
{
    struct rbd_backend *rb = rbd_backend_of(io->backend);
    int64_t rc = grow(rb, io->offset + io->len);

    do {
        if (rc >= 0)
            rc = wait_for(rb, io, start);
        if (rc >= 0 && has_parts(io))
            io->moved += (uint64_t)io->later;
    } while (rc >= 0 && has_parts(io) && io->moved < io->len);
    if (rc >= 0 && io->kind == IO_WRITE && io->flags & IO_FUA)
        rc = wait_for(rb, io, call_flush);
    return result(io, rc);
}

static int64_t blocking_grow(struct io *io)
{
    return grow(rbd_backend_of(io->backend), io->offset + io->len);
}

static int64_t blocking_truncate(struct io *io)
{
    struct rbd_backend *rb = rbd_backend_of(io->backend);
    int rc;

    pthread_mutex_lock(&rb->resizing);
    rc = rb->ceph->rbd_resize(rb->image, io->offset);
    if (rc >= 0)
        atomic_store_explicit(&rb->b.size, io->offset, memory_order_release);
    pthread_mutex_unlock(&rb->resizing);
    return result(io, rc);
}

/* ---- submit ----------------------------------------------------------------------------------------------- */

static void start_elsewhere(struct rbd_backend *rb, struct io *io)
{
    io_elsewhere(io);
    begin(rb, io);
}

/* All of it is behind the end, and is to read as zeros. */
static bool is_new(const struct rbd_backend *rb, const struct io *io)
{
    return io->offset >= backend_size(&rb->b);
}

static void submit_zero(struct rbd_backend *rb, struct io *io, uint64_t inside)
{
    if (io->flags & IO_UNMAP && is_new(rb, io))
        ring_work(io, blocking_grow);
    else if (!rb->ceph->rbd_aio_write_zeroes)
        io_end_later(io, -ENOTSUP);
    else if (inside < io->len)
        ring_work(io, blocking_past_end);
    else
        start_elsewhere(rb, io);
}

/* What is there may have data, and zeros alone can be allocated: so what is new can be. */
static void submit_allocate(struct rbd_backend *rb, struct io *io)
{
    if (rb->ceph->rbd_aio_write_zeroes && is_new(rb, io))
        ring_work(io, blocking_past_end);
    else
        io_end_later(io, -ENOTSUP);
}

static void rbd_submit(struct backend *b, struct io *io)
{
    struct rbd_backend *rb = rbd_backend_of(b);
    uint64_t inside = backend_inside(b, io->offset + io->moved, io->len - io->moved);

    if (unlikely(!rb->image)) {
        io_end_later(io, -ESHUTDOWN);
        return;
    }
    switch ((enum io_kind)io->kind) {
    case IO_READ:
        if (unlikely(inside == 0))
            io_end_later(io, 0);
        else
            start_elsewhere(rb, io);
        break;
    case IO_WRITE:
        if (unlikely(inside < io->len - io->moved))
            ring_work(io, blocking_past_end);
        else
            start_elsewhere(rb, io);
        break;
    case IO_ZERO: submit_zero(rb, io, inside); break;
    case IO_DISCARD:
        if (inside == 0 || !(b->caps & BACKEND_DISCARD))
            io_end_later(io, 0);
        else
            start_elsewhere(rb, io);
        break;
    case IO_FLUSH:
        if (b->read_only || rb->flags & BACKEND_UNSAFE)
            io_end_later(io, 0);
        else
            start_elsewhere(rb, io);
        break;
    case IO_ALLOCATE: submit_allocate(rb, io); break;
    case IO_TRUNCATE: ring_work(io, blocking_truncate); break;
    case IO_STATUS: ring_work(io, rbd_blocking_status); break;
    }
}

static const char *rbd_advise(int32_t res)
{
    switch (-res) {
    case ENOSPC: return "the cluster or the pool is full, or its quota used up: make room there (ceph df)";
    case EPERM: case EACCES: return "see what the user may do in the pool (ceph auth get)";
    case EIO: return "see how the cluster is (ceph -s)";
    default: return NULL;
    }
}

static void rbd_explain(struct backend *b, char *buf, size_t size)
{
    const struct rbd_backend *rb = rbd_backend_of(b);
    int rc = atomic_load_explicit(&rb->trouble, memory_order_relaxed);

    if (rc == -ETIMEDOUT)
        snprintf(buf, size, "the cluster has not done it in time (rados_osd_op_timeout)");
    else if (rc == -CEPH_BLOCKLISTED)
        snprintf(buf, size, "the cluster has shut this client out (ceph osd blocklist ls)");
}

/* ---- the driver ------------------------------------------------------------------------------------------- */

static const struct option_desc rbd_options[] = {
    {"pool", OPTION_TEXT, true, NULL, "of the cluster's pools", NULL},
    {"namespace", OPTION_TEXT, false, NULL, "of the pool's namespaces", NULL},
    {"image", OPTION_TEXT, true, NULL, "the image's name", NULL},
    {"snapshot", OPTION_TEXT, false, NULL, "of the image's snapshots; for reading only", NULL},
    {"conf", OPTION_TEXT, false, NULL, "file with Ceph's settings, or none; else where Ceph looks for it", NULL},
    {"user", OPTION_TEXT, false, "admin", "Ceph's user, without \"client.\"", NULL},
    {"key-secret", OPTION_SECRET, false, NULL, "id of the secret that is the user's key", NULL},
    {"auth-client-required", OPTION_NODE, false, NULL,
     "kinds of authentication, of which one is needed: auth-client-required.0=cephx, ...; cephx or none", NULL},
    {"server", OPTION_NODE, false, NULL, "the monitors: server.0.host, server.0.port, server.1.host, ...", NULL},
    {"config", OPTION_TEXT, false, NULL, "settings of Ceph, KEY=VALUE:KEY=VALUE, over those of the file", NULL},
    {NULL, OPTION_TEXT, false, NULL, NULL, NULL},
};

static int rbd_open(const char *name, const struct spec *options, uint32_t flags, struct backend **ret_backend)
{
    const struct ceph *ceph;
    struct rbd_backend *rb;
    int rc = ceph_load(name, &ceph);

    if (rc < 0)
        return rc;
    rb = backend_alloc(&rbd_driver, name, sizeof *rb);
    if (!rb)
        return err_set(ENOMEM, "%s: out of memory", name);
    rb->ceph = ceph;
    rc = rbd_open_image(rb, options, flags);
    if (rc < 0)
        backend_free(&rb->b);
    else
        *ret_backend = &rb->b;
    return rc;
}

static bool rbd_claims(const char *name)
{
    return name_after(name, "rbd") != NULL;
}

const struct backend_driver rbd_driver = {
    .name = "rbd",
    .options = rbd_options,
    .claims = rbd_claims,
    .parse = rbd_parse,
    .identify = rbd_identify,
    .open = rbd_open,
    .close = rbd_close_image,
    .submit = rbd_submit,
    .allocated = rbd_allocated,
    .refresh = rbd_refresh,
    .explain = rbd_explain,
    .advise = rbd_advise,
    .unlink = rbd_unlink,
};
