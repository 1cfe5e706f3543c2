/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * io_uring, and only that: SQEs, completions, the one place that enters the kernel. Without a
 * ring (VDISK_QUEUE_THREADS, VDISK_QUEUE_SIMULATED) the same calls go to workers_run().
 */
#include <assert.h>
#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "engine/backend.h"
#include "engine/base/bits.h"
#include "engine/base/error.h"
#include "engine/base/mutant.h"
#include "engine/base/point.h"
#include "engine/loop/queue.h"

#ifndef IORING_SETUP_TASKRUN_FLAG
#define IORING_SETUP_TASKRUN_FLAG (1U << 9)
#endif

/* Of newer headers than Debian 12 has. */
#define FEAT_MIN_WAIT (1U << 15)
struct getevents_arg {
    uint64_t sigmask;
    uint32_t sigmask_size, min_wait_us;
    uint64_t ts;
};
static_assert(sizeof(struct getevents_arg) == sizeof(struct io_uring_getevents_arg), "the kernel's");

enum { GATHER_PART = 4, GATHER_MIN = 4, GATHER_US = 4000, GATHER_REST = 64, GATHER_REST_MAX = 8192 };

/* user_data that is no io */
enum { TAG_WAKE = 1, TAG_CANCEL, TAG_WATCH };
_Static_assert(TAG_WATCH < (int)RING_TAG_LOW, "no pointer is so low");

enum { RING_TRIES = 8 };

enum { COPY_BESIDE_MIN = 256 << 10 };

/* Watch a descriptor from now on. False: no SQE is free. */
static bool arm(vdisk_queue *q, int fd, uint64_t tag, bool *armed)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(&q->ring);

    assert(!*armed && fd >= 0);
    if (!sqe)
        return false;
    if (q->watch_once || ENGINE_MUTANT(WAKE_UNWATCHED))
        io_uring_prep_poll_add(sqe, fd, POLLIN);
    else
        io_uring_prep_poll_multishot(sqe, fd, POLLIN);
    sqe->user_data = tag;
    *armed = true;
    return true;
}

static bool is_armed(const vdisk_queue *q)
{
    return q->wake_armed && (q->watch_armed || !q->watch_ready);
}

/* The eventfd by which other threads wake this queue, and what the caller wants to be watched. */
static bool arm_all(vdisk_queue *q)
{
    return (q->wake_armed || arm(q, q->wake_fd, TAG_WAKE, &q->wake_armed)) &&
           (q->watch_armed || !q->watch_ready || arm(q, q->watch_fd, TAG_WATCH, &q->watch_armed));
}

static int ring_enable(vdisk_queue *q)
{
    int rc;

    assert(queue_has_ring(q) && !q->ring_ready);
    if (q->kind == VDISK_QUEUE_URING_DEFER) {
        /* Debian's liburing does not export io_uring_enable_rings(). */
        rc = io_uring_register((unsigned)q->ring.ring_fd, IORING_REGISTER_ENABLE_RINGS, NULL, 0);
        if (rc < 0)
            return ring_result(q, rc);
    }
    q->ring_ready = true;
    return 0;
}

/* Enter the kernel with what there is. */
static int send_sqes(vdisk_queue *q)
{
    int rc;

    if (io_uring_sq_ready(&q->ring) == 0) {
        /* Deferred completions wait for us to enter. */
        if (likely(!(IO_URING_READ_ONCE(*q->ring.sq.kflags) & (IORING_SQ_TASKRUN | IORING_SQ_CQ_OVERFLOW))))
            return 0;
        rc = io_uring_get_events(&q->ring);
    } else if (q->kind == VDISK_QUEUE_URING_DEFER) {
        rc = io_uring_submit_and_get_events(&q->ring);
    } else {
        rc = io_uring_submit(&q->ring);
    }
    return rc == -EINTR ? 0 : ring_result(q, rc);
}

/* Enabled, and watching: before anything sleeps on the ring. Afterwards there may be no ring. */
static int get_ready(vdisk_queue *q)
{
    int rc = 0;

    if (unlikely(!q->ring_ready))
        rc = ring_enable(q);
    if (unlikely(!is_armed(q)) && rc == 0 && queue_has_ring(q) && !arm_all(q)) {
        rc = send_sqes(q);
        if (queue_has_ring(q))
            arm_all(q);
    }
    return rc;
}

int ring_submit(vdisk_queue *q)
{
    int rc = get_ready(q);

    return rc < 0 || unlikely(!queue_has_ring(q)) ? rc : send_sqes(q);
}

bool ring_to_send(vdisk_queue *q)
{
    return io_uring_sq_ready(&q->ring) > 0 || (!is_armed(q) && !ENGINE_MUTANT(WAKE_UNWATCHED));
}

bool ring_has_work(const vdisk_queue *q)
{
    return q->ring_ready &&
           (io_uring_cq_ready(&q->ring) > 0 || io_uring_sq_ready(&q->ring) > 0 ||
            IO_URING_READ_ONCE(*q->ring.sq.kflags) & (IORING_SQ_TASKRUN | IORING_SQ_CQ_OVERFLOW));
}

int ring_notify(vdisk_queue *q, int fd)
{
    return io_uring_register_eventfd(&q->ring, fd);
}

bool ring_gathers(const vdisk_queue *q)
{
    return q->ring.features & FEAT_MIN_WAIT;
}

/*
 * Who waits for one of many, and takes all there are, would be woken by each and then send its successors one by
 * one, with a kick of the device for each. So the kernel is asked for a share of what is in flight, but for any
 * after GATHER_US (min_wait, kernel 6.12): so long that the timer rarely is the next to fire, since setting the
 * hardware's costs more than a request. Where the share did not come in that time, I/Os of different speed are in
 * flight (a second device, one that hangs): then each is waited for again, for a while that doubles each time.
 *
 * What threads of others have (a library's, which ends each by a post) is gathered alike: there who posts counts,
 * and the kernel has the timer only.
 *
 * Returns the share of what is in flight there; 0: not now.
 */
static unsigned gather_share(vdisk_queue *q, unsigned inflight, unsigned wanted, unsigned most,
                             const struct timespec *timeout)
{
    unsigned share = (unsigned)min_u64(inflight / GATHER_PART, most);

    if (share < GATHER_MIN || share <= wanted)
        return 0;
    if (timeout && timeout->tv_sec == 0 && timeout->tv_nsec < GATHER_US * 1000)
        return 0;
    if (q->gather_rest > 0) {
        q->gather_rest--;
        return 0;
    }
    return share;
}

/* As io_uring_submit() does before it enters the kernel: the SQEs are the kernel's to take. How many. */
static unsigned give_sqes(struct io_uring_sq *sq)
{
    sq->sqe_head = sq->sqe_tail;
    io_uring_smp_store_release(sq->ktail, sq->sqe_tail);
    return sq->sqe_tail - io_uring_smp_load_acquire(sq->khead);
}

/* What there was in the end: a share, or less, which was waited for in vain. */
static void note_gathered(vdisk_queue *q, bool share)
{
    if (!share) {
        q->gather_pause = (unsigned)max_u64(q->gather_pause, GATHER_REST);
        q->gather_rest = q->gather_pause;
        q->gather_pause = (unsigned)min_u64(2ull * q->gather_pause, GATHER_REST_MAX);
    } else {
        q->gather_pause = GATHER_REST;
    }
}

/* Send and wait by one call, which does not wait if it could not send all. */
static int gather(vdisk_queue *q, unsigned share, const struct timespec *timeout)
{
    struct __kernel_timespec ts;
    struct getevents_arg arg = {.min_wait_us = GATHER_US};
    unsigned sent = give_sqes(&q->ring.sq);
    int rc;

    assert(share > 0 && share <= q->kernel_inflight); /* more will never come */
    if (timeout) {
        ts = (struct __kernel_timespec){timeout->tv_sec, timeout->tv_nsec};
        arg.ts = (uintptr_t)&ts;
    }
    rc = io_uring_enter2((unsigned)q->ring.ring_fd, sent, share, IORING_ENTER_GETEVENTS | IORING_ENTER_EXT_ARG,
                         (sigset_t *)&arg, sizeof arg);
    if (rc >= 0 && (unsigned)rc < sent)
        return 0;
    if (rc >= 0)
        note_gathered(q, io_uring_cq_ready(&q->ring) >= share);
    return ring_result(q, rc);
}

static int ring_wait(vdisk_queue *q, unsigned wanted, unsigned most, const struct timespec *timeout)
{
    struct __kernel_timespec ts;
    struct io_uring_cqe *cqe;
    unsigned share;
    int rc;

    assert(!q->in_loop && queue_has_ring(q));
    rc = get_ready(q);
    if (rc < 0 || unlikely(!queue_has_ring(q)))
        return rc;
    wanted = (unsigned)min_u64(wanted, q->kernel_inflight);
    if (wanted == 0)
        wanted = 1;
    share = ring_gathers(q) ? gather_share(q, q->kernel_inflight, wanted, most, timeout) : 0;
    if (share > 0)
        return gather(q, share, timeout);
    if (!timeout) {
        rc = io_uring_submit_and_wait(&q->ring, wanted);
    } else {
        ts.tv_sec = timeout->tv_sec;
        ts.tv_nsec = timeout->tv_nsec;
        rc = io_uring_submit_and_wait_timeout(&q->ring, &cqe, wanted, &ts, NULL);
    }
    return ring_result(q, rc);
}

/* They are counted by who posts (queue.h, invariant 7). */
static int gather_posts(vdisk_queue *q)
{
    static const struct timespec bound = {.tv_nsec = GATHER_US * 1000};
    int rc = ring_wait(q, 1, 1, &bound);

    note_gathered(q, atomic_load(&q->posts_wanted) == POSTS_ANY || rc != -ETIME);
    return rc;
}

int ring_sleep(vdisk_queue *q, unsigned wanted, unsigned most, const struct timespec *timeout, bool steady)
{
    static const struct timespec now = {0};
    unsigned share = steady ? 0 : gather_share(q, q->foreign, wanted, most, timeout);
    uint32_t wish = share > 0 ? POSTS_LAST + share - 1 : POSTS_ANY;
    bool has_posts;
    int rc;

    if (!ENGINE_MUTANT(POSTS_SAID_LATE))
        atomic_store(&q->posts_wanted, wish); /* invariant 7 */
    POINT("sleep: between word and look");
    has_posts = atomic_load(&q->remote);
    POINT("sleep: has looked");
    if (ENGINE_MUTANT(POSTS_SAID_LATE))
        atomic_store(&q->posts_wanted, wish);
    if (has_posts)
        rc = ring_wait(q, 1, 1, &now);
    else if (share > 0)
        rc = gather_posts(q);
    else
        rc = steady ? ring_wait(q, wanted, most, timeout) : ring_wait(q, 1, 1, timeout);
    atomic_store(&q->posts_wanted, q->serves ? POSTS_ANY : POSTS_NONE);
    return rc == -ETIME && (has_posts || share > 0) ? 0 : rc; /* the time was ours, and not the caller's */
}

static struct io_uring_sqe *get_sqe(vdisk_queue *q)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(&q->ring);

    if (unlikely(!sqe) && ring_submit(q) == 0 && queue_has_ring(q))
        sqe = io_uring_get_sqe(&q->ring);
    return sqe;
}

/* The poll has fired. The eventfd is read before the list of posts is looked at again. */
static void wake_completed(vdisk_queue *q, int32_t res, uint32_t flags)
{
    uint64_t count;
    ssize_t n = read(q->wake_fd, &count, sizeof count);

    (void)n; /* EAGAIN: somebody read it before */
    if (res == -EINVAL)
        q->watch_once = true;
    if (!(flags & IORING_CQE_F_MORE))
        q->wake_armed = false;
}

static void watch_completed(vdisk_queue *q, int32_t res, uint32_t flags)
{
    if (res == -EINVAL)
        q->watch_once = true;
    if (!(flags & IORING_CQE_F_MORE))
        q->watch_armed = false;
    *q->watch_ready = true; /* also after an error: the caller sees what it is */
}

static void try_again(struct io *io);

/* EINTR and EAGAIN as below; a socket that does not block says EAGAIN where it would: then it is polled. */
static void call_completed(struct call *c, int32_t res)
{
    bool asked = c->asks;

    assert(c->place == CALL_KERNEL && !list_empty(&c->link));
    list_del(&c->link);
    c->asks = false;
    if (atomic_load_explicit(&c->cancelled, memory_order_relaxed) && res < 0)
        call_end(c, -ECANCELED);
    else if (c->kind == CALL_TIMEOUT && res == -ETIME)
        call_end(c, 0);
    else if (res == -EINTR || res == -ECANCELED || (asked && res >= 0))
        call_start(c);
    else if (res == -EAGAIN && !asked) {
        c->asks = c->kind <= CALL_RECEIVE;
        call_start(c);
    } else
        call_end(c, res);
}

static void run_cqe(vdisk_queue *q, uint64_t user_data, int32_t res, uint32_t flags)
{
    struct io *io;

    if (user_data == TAG_WAKE) {
        wake_completed(q, res, flags);
        return;
    }
    if (user_data == TAG_WATCH) {
        watch_completed(q, res, flags);
        return;
    }
    if (unlikely(user_data < RING_TAG_LOW))
        return;
    if (unlikely(ring_call_of(user_data) != NULL)) {
        call_completed(ring_call_of(user_data), res);
        return;
    }
    io = (struct io *)(uintptr_t)user_data;
    assert(q->kernel_inflight > 0 && io->queue == q && !list_empty(&io->in_kernel)); /* queue.h, invariant 3 */
    q->kernel_inflight--;
    list_del(&io->in_kernel);
    if (unlikely(ring_is_put_off(res)))
        try_again(io);
    else
        io_end(io, res);
}

/* The next completion comes off the ring; false: there is none. */
static bool take_cqe(vdisk_queue *q, struct io_uring_cqe *ret)
{
    struct io_uring_cqe *cqe;
    unsigned head;

    io_uring_for_each_cqe(&q->ring, head, cqe) {
        *ret = (struct io_uring_cqe){.user_data = cqe->user_data, .res = cqe->res, .flags = cqe->flags};
        io_uring_cq_advance(&q->ring, 1);
        return true;
    }
    return false;
}

/* Only for tests: as it must not be done. */
static unsigned reap_at_once(vdisk_queue *q)
{
    struct io_uring_cqe *cqes[QUEUE_TURN_CQES];
    unsigned n = q->ring_ready ? io_uring_peek_batch_cqe(&q->ring, cqes, QUEUE_TURN_CQES) : 0;

    for (unsigned i = 0; i < n; i++)
        run_cqe(q, cqes[i]->user_data, cqes[i]->res, cqes[i]->flags);
    if (queue_has_ring(q))
        io_uring_cq_advance(&q->ring, n);
    return n;
}

/*
 * One by one: what a completion leads to may fill the ring, the kernel may refuse to take that, and then the ring
 * is stopped, which ends what has not been taken off it.
 */
unsigned ring_reap(vdisk_queue *q)
{
    struct io_uring_cqe cqe;
    unsigned n = 0;

    assert(q->in_loop && queue_has_ring(q));
    if (ENGINE_MUTANT(REAP_AT_ONCE))
        return reap_at_once(q);
    for (; n < QUEUE_TURN_CQES && queue_has_ring(q) && q->ring_ready && take_cqe(q, &cqe); n++)
        run_cqe(q, cqe.user_data, cqe.res, cqe.flags);
    return n;
}

/* ---- I/O on file descriptors ------------------------------------------------------------------------- */

/* Its place in the ring's table; -1: none. */
static int registered(const vdisk_queue *q, const void *base, size_t len)
{
    return region_find(q->regions, q->regions_count, base, len);
}

/* Where a transfer goes on: the buffer it is in, after io->moved bytes. */
static struct iovec current_buffer(const struct io *io)
{
    uint64_t skip = io->moved;
    uint32_t i = 0;

    assert(io->moved < io->len && io->iovcnt > 0);
    while (skip >= io->iov[i].iov_len && i + 1 < io->iovcnt)
        skip -= io->iov[i++].iov_len;
    assert(skip < io->iov[i].iov_len);
    return (struct iovec){(char *)io->iov[i].iov_base + skip,
                          min_u64(io->iov[i].iov_len - skip, io->backend->max_transfer)};
}

struct iovec ring_current_buffer(const struct io *io)
{
    return current_buffer(io);
}

/* For the time being it cannot be done: false when that has been so for long. Context: a worker. */
static bool pause_before(struct io *io)
{
    struct timespec wait = {.tv_nsec = 1000000l << (io->tries % RING_TRIES)};

    if (io->tries++ >= 2 * RING_TRIES)
        return false;
    clock_nanosleep(CLOCK_MONOTONIC, 0, &wait, NULL);
    return true;
}

static int64_t blocking_rw(struct io *io)
{
    int flags = io->flags & IO_FUA ? RWF_DSYNC : 0;
    off_t offset = (off_t)(io->offset + io->moved);
    const struct iovec *iov = io->iov;
    int iovcnt = (int)io->iovcnt;
    struct iovec one;
    ssize_t n;

    if (iovcnt == 1 || io->moved > 0) {
        one = current_buffer(io);
        iov = &one;
        iovcnt = 1;
    }
    do {
        if (io->kind == IO_READ)
            n = preadv(io->fd, iov, iovcnt, offset);
        else
            n = pwritev2(io->fd, iov, iovcnt, offset, flags);
    } while (n < 0 && (errno == EINTR || (errno == EAGAIN && pause_before(io))));
    return n < 0 ? -errno : n;
}

static int64_t blocking_fsync(struct io *io)
{
    return fdatasync(io->fd) < 0 ? -errno : 0;
}

static int64_t blocking_fallocate(struct io *io)
{
    int rc;

    do
        rc = fallocate(io->fd, io->mode, (off_t)io->offset, (off_t)io->len);
    while (rc < 0 && errno == EINTR);
    return rc < 0 ? -errno : 0;
}

/* The kernel could not for now. It is asked a few times, then by a thread that may wait. */
static void try_again(struct io *io)
{
    if (io->tries++ < RING_TRIES) {
        io->backend->driver->submit(io->backend, io);
        return;
    }
    switch ((enum io_kind)io->kind) {
    case IO_READ:
    case IO_WRITE:
        workers_run(io, blocking_rw);
        break;
    case IO_FLUSH:
        workers_run(io, blocking_fsync);
        break;
    case IO_ZERO:
    case IO_DISCARD:
    case IO_ALLOCATE:
    case IO_TRUNCATE:
        workers_run(io, blocking_fallocate);
        break;
    case IO_STATUS:
        assert(!"the kernel has no such operation");
    }
}

static void submit_again(struct task *t)
{
    struct io *io = container_of(t, struct io, task);

    io->backend->driver->submit(io->backend, io);
}

/* No SQE free: wait in line. */
static void starve(struct io *io)
{
    io->task.run = submit_again;
    task_list_add(&io->queue->starved, &io->task);
}

static void send_cancels(vdisk_queue *q)
{
    q->chores &= (uint8_t)~CHORE_CANCELS;
    for (struct list *l = q->calls.next; l != &q->calls; l = l->next) {
        struct call *c = container_of(l, struct call, link);
        if (c->unsent)
            ring_call_cancel(c);
    }
}

void ring_feed(vdisk_queue *q)
{
    struct task *t = q->starved.head;

    task_list_init(&q->starved);
    while (t) {
        struct task *next = t->next;
        t->run(t);
        t = next;
    }
    if (q->chores & CHORE_CANCELS)
        send_cancels(q);
    if (q->chores & CHORE_REGIONS)
        regions_retire(q);
}

static void prep_rw(struct io_uring_sqe *sqe, const struct io *io)
{
    uint64_t offset = io->offset + io->moved;
    bool read = io->kind == IO_READ;
    struct iovec one;

    if (io->iovcnt > 1 && io->moved == 0) {
        if (read)
            io_uring_prep_readv(sqe, io->fd, io->iov, io->iovcnt, offset);
        else
            io_uring_prep_writev(sqe, io->fd, io->iov, io->iovcnt, offset);
    } else {
        one = current_buffer(io);
        int region = io->queue->regions_count ? registered(io->queue, one.iov_base, one.iov_len) : -1;
        if (region >= 0 && read)
            io_uring_prep_read_fixed(sqe, io->fd, one.iov_base, (unsigned)one.iov_len, offset, region);
        else if (region >= 0)
            io_uring_prep_write_fixed(sqe, io->fd, one.iov_base, (unsigned)one.iov_len, offset, region);
        else if (read)
            io_uring_prep_read(sqe, io->fd, one.iov_base, (unsigned)one.iov_len, offset);
        else
            io_uring_prep_write(sqe, io->fd, one.iov_base, (unsigned)one.iov_len, offset);
    }
    if (io->flags & IO_FUA)
        sqe->rw_flags |= RWF_DSYNC;
}

/*
 * What the page cache has is copied while the call is made: by one processor, one read after another. Of large
 * reads that are in flight together only one is; the others are given to the kernel's own threads. (Where it may
 * have none, they come back with ECANCELED, and are tried again without.)
 */
static bool copied_beside(const struct io *io)
{
    return io->len - io->moved >= COPY_BESIDE_MIN && io->kind == IO_READ && io->backend->cached &&
           io->queue->kernel_inflight > 1 && io->tries == 0;
}

/* An SQE for `io`, counted; NULL: `io` has been put in line. */
static struct io_uring_sqe *sqe_for(struct io *io)
{
    vdisk_queue *q = io->queue;
    struct io_uring_sqe *sqe = get_sqe(q);

    assert(queue_is_mine(q));
    if (unlikely(!sqe)) {
        starve(io);
        return NULL;
    }
    q->kernel_inflight++;
    list_add_tail(&q->in_kernel, &io->in_kernel);
    return sqe;
}

void ring_rw(struct io *io, int fd)
{
    struct io_uring_sqe *sqe;

    assert((io->kind == IO_READ || io->kind == IO_WRITE) && io->moved < io->len);
    io->fd = fd;
    if (!queue_has_ring(io->queue)) {
        workers_run(io, blocking_rw);
        return;
    }
    sqe = sqe_for(io);
    if (!sqe)
        return;
    prep_rw(sqe, io);
    if (unlikely(copied_beside(io)))
        sqe->flags |= IOSQE_ASYNC;
    sqe->user_data = (uintptr_t)io;
}

void ring_fsync(struct io *io, int fd)
{
    struct io_uring_sqe *sqe;

    assert(io->kind == IO_FLUSH);
    io->fd = fd;
    if (!queue_has_ring(io->queue)) {
        workers_run(io, blocking_fsync);
        return;
    }
    sqe = sqe_for(io);
    if (!sqe)
        return;
    io_uring_prep_fsync(sqe, fd, IORING_FSYNC_DATASYNC);
    sqe->user_data = (uintptr_t)io;
}

void ring_fallocate(struct io *io, int fd, int mode)
{
    struct io_uring_sqe *sqe;

    assert(io->kind == IO_ZERO || io->kind == IO_DISCARD || io->kind == IO_ALLOCATE);
    io->fd = fd;
    io->mode = mode;
    if (!queue_has_ring(io->queue)) {
        workers_run(io, blocking_fallocate);
        return;
    }
    sqe = sqe_for(io);
    if (!sqe)
        return;
    io_uring_prep_fallocate(sqe, fd, mode, (off_t)io->offset, (off_t)io->len);
    sqe->user_data = (uintptr_t)io;
}

/* An SQE that the kernel has not taken. */
static struct io_uring_sqe *unsent_sqe(const struct io *io)
{
    struct io_uring_sq *sq = &io->queue->ring.sq;
    unsigned mask = *sq->kring_mask;

    for (unsigned at = io_uring_smp_load_acquire(sq->khead); at != sq->sqe_tail; at++)
        if (sq->sqes[at & mask].user_data == (uintptr_t)io)
            return &sq->sqes[at & mask];
    return NULL;
}

bool ring_is_unsent(const struct io *io)
{
    return queue_has_ring(io->queue) && io->tries == 0 && io->moved == 0 && unsent_sqe(io);
}

bool ring_take_back(struct io *io)
{
    struct io_uring_sqe *sqe = unsent_sqe(io);

    if (!sqe && !task_list_take(&io->queue->starved, &io->task))
        return false; /* a worker may have it, and change what follows */
    if (io->tries > 0 || io->moved > 0) { /* the kernel has had it */
        if (!sqe)
            task_list_add(&io->queue->starved, &io->task);
        return false;
    }
    if (!sqe)
        return true;
    assert(io->queue->kernel_inflight > 0 && !list_empty(&io->in_kernel));
    memset(sqe, 0, sizeof *sqe); /* flags of what it was would be refused */
    io_uring_prep_nop(sqe);
    sqe->user_data = TAG_CANCEL;
    io->queue->kernel_inflight--;
    list_del(&io->in_kernel);
    return true;
}

static void call_again(struct task *t)
{
    call_start(container_of(t, struct call, task));
}

void ring_call(struct call *c)
{
    struct io_uring_sqe *sqe = get_sqe(c->queue);

    assert(queue_is_mine(c->queue) && c->kind != CALL_COMPUTE);
    if (unlikely(!sqe)) {
        c->place = CALL_LINED;
        c->task.run = call_again;
        task_list_add(&c->queue->starved, &c->task);
        return;
    }
    c->place = CALL_KERNEL;
    list_add_tail(&c->queue->calls, &c->link);
    if (c->kind == CALL_TIMEOUT)
        io_uring_prep_timeout(sqe, &c->until, 0, IORING_TIMEOUT_ABS);
    else if (c->kind == CALL_POLL || c->asks)
        io_uring_prep_poll_add(sqe, c->fd, call_events(c));
    else if (c->kind == CALL_SEND)
        io_uring_prep_sendmsg(sqe, c->fd, &c->msg, MSG_NOSIGNAL);
    else
        io_uring_prep_recvmsg(sqe, c->fd, &c->msg, 0);
    sqe->user_data = (uintptr_t)c + RING_TAG_CALL;
}

void ring_call_cancel(struct call *c)
{
    vdisk_queue *q = c->queue;
    struct io_uring_sqe *sqe = queue_has_ring(q) ? get_sqe(q) : NULL;

    assert(atomic_load(&c->cancelled));
    c->unsent = !sqe;
    if (c->unsent && queue_has_ring(q))
        q->chores |= CHORE_CANCELS;
    if (!sqe)
        return;
    io_uring_prep_cancel64(sqe, (uintptr_t)c + RING_TAG_CALL, 0);
    sqe->user_data = TAG_CANCEL;
}

void ring_work(struct io *io, int64_t (*call)(struct io *))
{
    workers_run(io, call);
}

void ring_compute(struct io *io, int64_t (*compute)(struct io *))
{
    workers_compute(io, compute);
}
