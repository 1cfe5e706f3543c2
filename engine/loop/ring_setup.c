/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * How a queue gets a ring, and goes on when it has none, or none any more.
 *
 * Happy path: the best kind that the kernel gives, of the size that the depth asks for. Failure modes: too
 * little memory may be locked: a smaller ring. io_uring is refused, altogether or one of its calls: the next
 * kind, at last threads; `reason` tells. Out of descriptors: an error, since another kind would not help. The
 * kernel refuses a call later (a filter set by the program, a descriptor closed under it): what it has not seen
 * is done by threads, what it has is waited for, for a while, and what then has not ended ends with the error.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#ifdef __SANITIZE_THREAD__
#include <sanitizer/tsan_interface.h>
#endif

#include "engine/backend.h"
#include "engine/base/bits.h"
#include "engine/base/error.h"
#include "engine/base/mutant.h"
#include "engine/loop/log.h"
#include "engine/loop/queue.h"

#ifndef IORING_SETUP_TASKRUN_FLAG
#define IORING_SETUP_TASKRUN_FLAG (1U << 9)
#endif

enum { RING_ENTRIES_LEAST = 8, RING_ENTRIES_MIN = 64, RING_ENTRIES_MAX = 1024 };
enum { SMALL_DEPTH = 4, DRAIN_MS = 1000, PROBE_OPS = 1 };

/*
 * liburing maps and unmaps without libc, so that ThreadSanitizer would take what a ring before did at the same
 * address, on another thread, for a race. A ring that ends is before those that begin later.
 */
#ifdef __SANITIZE_THREAD__
static char mapped;
#define RING_MAPPED()   __tsan_acquire(&mapped)
#define RING_UNMAPPED() __tsan_release(&mapped)
#else
#define RING_MAPPED()   ((void)0)
#define RING_UNMAPPED() ((void)0)
#endif

static void end_ring(vdisk_queue *q)
{
    RING_UNMAPPED();
    io_uring_queue_exit(&q->ring);
}

static int make_ring(vdisk_queue *q, unsigned entries, unsigned flags)
{
    struct io_uring_params p;
    int rc;

    assert(is_power_of_two(entries) && entries > 1 && entries <= RING_ENTRIES_MAX);
    memset(&p, 0, sizeof p);
    p.flags = IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP | flags;
    p.cq_entries = 4 * entries;
    rc = io_uring_queue_init_params(entries, &q->ring, &p);
    RING_MAPPED();
    return rc;
}

/* Are the ring's other two calls allowed? A filter may refuse each by itself. */
static int try_calls(vdisk_queue *q)
{
    _Alignas(struct io_uring_probe) char
        probe[sizeof(struct io_uring_probe) + PROBE_OPS * sizeof(struct io_uring_probe_op)] = {0};
    int rc;

    rc = io_uring_register((unsigned)q->ring.ring_fd, IORING_REGISTER_PROBE, probe, PROBE_OPS);
    if (rc == -EPERM || rc == -EACCES || rc == -ENOSYS)
        return rc;
    rc = io_uring_enter((unsigned)q->ring.ring_fd, 0, 0, 0, NULL);
    return rc == -EPERM || rc == -EACCES || rc == -ENOSYS ? rc : 0; /* -EBADFD: not enabled yet */
}

static int try_ring(vdisk_queue *q, unsigned flags)
{
    unsigned entries = 1u << log2_floor(max_u64(2 * q->depth - 1, 2));
    int rc;

    if (q->depth > SMALL_DEPTH)
        entries = (unsigned)min_u64(max_u64(entries, RING_ENTRIES_MIN), RING_ENTRIES_MAX);
    rc = make_ring(q, entries, flags);
    for (; rc == -ENOMEM && entries > RING_ENTRIES_LEAST; rc = make_ring(q, entries, flags))
        entries /= 2;
    if (rc < 0)
        return rc;
    rc = ENGINE_MUTANT(CALLS_UNTRIED) ? 0 : try_calls(q);
    if (rc < 0)
        end_ring(q);
    else
        io_uring_ring_dontfork(&q->ring);
    return rc;
}

static bool is_out_of_descriptors(int rc)
{
    return rc == -EMFILE || rc == -ENFILE;
}

int ring_init(vdisk_queue *q, enum vdisk_queue_kind kind)
{
    /* Disabled until the first submit: the thread that submits is the single issuer, not the one that creates. */
    static const struct { enum vdisk_queue_kind kind; unsigned flags; } kinds[] = {
        {VDISK_QUEUE_URING_DEFER, IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN |
                                      IORING_SETUP_TASKRUN_FLAG | IORING_SETUP_R_DISABLED},
        {VDISK_QUEUE_URING, 0},
    };

    assert(!q->host && !q->ring_ready && q->wake_fd >= 0);
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0] && kind != VDISK_QUEUE_THREADS; i++) {
        if (kind != VDISK_QUEUE_AUTO && kind != kinds[i].kind)
            continue;
        int rc = try_ring(q, kinds[i].flags);
        if (rc == 0) {
            q->kind = kinds[i].kind;
            return 0;
        }
        snprintf(q->reason, sizeof q->reason, "%s: %s%s", vdisk_queue_kind_name(kinds[i].kind), strerror(-rc),
                 rc == -ENOMEM ? " (raise the limit of locked memory: ulimit -l)" : "");
        if (kind != VDISK_QUEUE_AUTO || is_out_of_descriptors(rc))
            return err_set(rc, "queue: %s", q->reason);
        log_add(VDISK_LOG_WARNING, NULL, "queue: %s", q->reason);
    }
    q->kind = VDISK_QUEUE_THREADS;
    return 0;
}

void ring_finish(vdisk_queue *q)
{
    if (queue_has_ring(q))
        end_ring(q);
}

/* ---- later ------------------------------------------------------------------------------------------------- */

/* I/Os that the kernel has not taken: they come off the ring, and go to `ret`; and so for calls. */
static void take_unsent(vdisk_queue *q, struct list *ret, struct list *ret_calls)
{
    struct io_uring_sq *sq = &q->ring.sq;
    unsigned mask = *sq->kring_mask;

    for (unsigned at = io_uring_smp_load_acquire(sq->khead); at != sq->sqe_tail; at++) {
        uint64_t user_data = sq->sqes[at & mask].user_data;
        struct call *c = ring_call_of(user_data);
        if (user_data < RING_TAG_LOW)
            continue;
        if (c) {
            list_del(&c->link);
            list_add_tail(ret_calls, &c->link);
            continue;
        }
        struct io *io = (struct io *)(uintptr_t)user_data;
        assert(q->kernel_inflight > 0 && !list_empty(&io->in_kernel));
        q->kernel_inflight--;
        list_del(&io->in_kernel);
        list_add_tail(ret, &io->in_kernel);
    }
}

/*
 * With `rc` the kernel ended it, or the ring. What has moved no bytes can be made again, by the poller: to `ret`.
 */
static void call_stopped(struct call *c, int rc, struct list *ret)
{
    bool again = c->kind == CALL_POLL || c->kind == CALL_TIMEOUT || c->asks;

    assert(c->place == CALL_KERNEL && !list_empty(&c->link));
    list_del(&c->link);
    c->asks = false;
    if (again)
        list_add_tail(ret, &c->link);
    else
        call_end_later(c, rc < 0 && atomic_load(&c->cancelled) ? -ECANCELED : rc);
}

/* What has ended; what the kernel has only put off goes to `ret`, to be made again. */
static void take_ended(vdisk_queue *q, struct list *ret, struct list *ret_calls)
{
    struct io_uring_cqe *cqe;
    unsigned head, n = 0;

    io_uring_for_each_cqe(&q->ring, head, cqe) {
        n++;
        if (cqe->user_data < RING_TAG_LOW)
            continue;
        if (ring_call_of(cqe->user_data)) {
            call_stopped(ring_call_of(cqe->user_data), cqe->res, ret_calls);
            continue;
        }
        struct io *io = (struct io *)(uintptr_t)cqe->user_data;
        assert(q->kernel_inflight > 0 && !list_empty(&io->in_kernel));
        q->kernel_inflight--;
        list_del(&io->in_kernel);
        if (ring_is_put_off(cqe->res)) {
            io->tries++; /* it is not to be taken back any more */
            list_add_tail(ret, &io->in_kernel);
        } else {
            io_end_later(io, cqe->res);
        }
    }
    io_uring_cq_advance(&q->ring, n);
}

/*
 * What the kernel has taken ends by itself; of calls only what has: their peers may be silent for ever. Without
 * the call that waits, look now and then.
 */
static void drain(vdisk_queue *q, struct list *ret, struct list *ret_calls)
{
    static const struct timespec ms = {.tv_nsec = 1000000};

    take_ended(q, ret, ret_calls);
    for (unsigned i = 0; q->kernel_inflight > 0 && i < DRAIN_MS; i++) {
        clock_nanosleep(CLOCK_MONOTONIC, 0, &ms, NULL);
        take_ended(q, ret, ret_calls);
    }
}

void ring_stop(vdisk_queue *q, int rc)
{
    struct list unsent, calls, *node;

    assert(rc < 0 && queue_has_ring(q) && !q->host);
    snprintf(q->reason, sizeof q->reason, "io_uring stopped: %s", strerror(-rc));
    log_add(VDISK_LOG_WARNING, NULL, "queue: %s; it goes on with threads", q->reason);
    regions_stop(q);
    list_init(&unsent);
    list_init(&calls);
    take_unsent(q, &unsent, &calls);
    if (q->ring_ready)
        drain(q, &unsent, &calls);
    end_ring(q);
    q->kind = VDISK_QUEUE_THREADS;
    while ((node = list_pop(&q->in_kernel))) {
        q->kernel_inflight--;
        io_end_later(container_of(node, struct io, in_kernel), rc);
    }
    while (!list_empty(&q->calls))
        call_stopped(container_of(q->calls.next, struct call, link), rc, &calls);
    assert(q->kernel_inflight == 0 && !q->leaving && q->regions_count == 0);
    while ((node = list_pop(&calls)))
        call_start(container_of(node, struct call, link));
    while ((node = list_pop(&unsent))) {
        struct io *io = container_of(node, struct io, in_kernel);
        io->backend->driver->submit(io->backend, io); /* from io->moved on */
    }
    /* What woke the ring's owner by the ring would not any more. */
    if (q->service)
        service_ring_stops(q->service, rc);
}

int ring_result(vdisk_queue *q, int rc)
{
    if (likely(rc >= 0) || rc == -EAGAIN || rc == -EBUSY)
        return 0;
    if (rc == -EINTR || rc == -ETIME || rc == -EEXIST || ENGINE_MUTANT(REFUSAL_PASSED_ON))
        return rc;
    ring_stop(q, rc);
    return 0;
}
