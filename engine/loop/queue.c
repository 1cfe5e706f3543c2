/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The loop: tasks, completions, sleeping. The ring itself is in ring.c. */
#include "engine/loop/queue.h"

#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "engine/base/bits.h"
#include "engine/base/error.h"
#include "engine/base/mem.h"
#include "engine/base/mutant.h"
#include "engine/base/point.h"
#include "engine/loop/watch.h"

_Thread_local struct queue_host *queue_host;

static _Atomic uint32_t next_queue_id;

/* `count` more requests for the pool. */
static int add_slab(vdisk_queue *q, unsigned count)
{
    struct request *slab = mem_aligned(_Alignof(struct request), count * sizeof *slab);

    assert(count > 1); /* the first is not handed out */
    if (!slab)
        return -ENOMEM;
    memset(slab, 0, count * sizeof *slab);
    slab->iovcnt = count;
    slab->io.task.next = q->slabs ? &q->slabs->io.task : NULL;
    q->slabs = slab;
    for (unsigned i = count - 1; i > 0; i--) {
        slab[i].next = q->free_requests;
        slab[i].queue = q;
        slab[i].io.queue = q;
        q->free_requests = &slab[i];
    }
    return 0;
}

/* More in flight than the caller announced. Without memory the caller waits here. */
void queue_more_requests(vdisk_queue *q)
{
    while (!q->free_requests)
        if (add_slab(q, 65) < 0 && !queue_turn(q))
            queue_sleep(q, 1, &(struct timespec){.tv_nsec = 1000000});
}

void request_give_back(struct request *r)
{
    vdisk_queue *q = r->queue;

    assert(r->state == REQUEST_STARTED && q->inflight > q->done_count);
    r->state = REQUEST_FREE;
    r->next = q->free_requests;
    q->free_requests = r;
    q->inflight--;
}

/* The number, and what wakes it from other threads. */
static int queue_attach(vdisk_queue *q)
{
    int rc;

    q->wake_fd = q->user_fd = -1;
    atomic_init(&q->post_fd, -1);
    q->host = queue_host;
    if (q->host) {
        q->kind = VDISK_QUEUE_SIMULATED;
        rc = q->host->ops->attach(q->host, q, &q->id);
        return rc < 0 ? err_set(rc, "queue: the simulation takes no more: %s", strerror(-rc)) : 0;
    }
    q->id = atomic_fetch_add(&next_queue_id, 1);
    q->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (q->wake_fd < 0)
        return err_set(errno, "queue: eventfd: %s", strerror(errno));
    atomic_store(&q->post_fd, q->wake_fd);
    return 0;
}

static void queue_detach(vdisk_queue *q)
{
    assert(atomic_load(&q->posters) == 0 && !atomic_load(&q->remote)); /* invariant 5 */
    if (q->host)
        q->host->ops->detach(q->host, q);
    else
        close(q->wake_fd);
    if (q->user_fd >= 0 && q->user_fd != q->wake_fd)
        close(q->user_fd);
}

/* Invariant 5. */
void queue_wait_for_posters(vdisk_queue *q)
{
    for (unsigned i = 0; atomic_load(&q->posters) > 0; i++)
        if (i > 100)
            sched_yield();
}

static void free_pools(vdisk_queue *q)
{
    struct task *slab = q->slabs ? &q->slabs->io.task : NULL;

    while (slab) {
        struct request *first = container_of(slab, struct request, io.task);
        slab = slab->next;
        for (uint32_t i = 1; i < slab_count(first); i++)
            mem_free(first[i].iov_long);
        mem_free(first);
    }
    for (int i = 0; i < OP_POOL_CLASSES; i++) {
        struct op *op = q->op_pool[i];
        while (op) {
            struct op *next = op->task.next ? container_of(op->task.next, struct op, task) : NULL;
            mem_free(op);
            op = next;
        }
    }
}

/* VDISK_QUEUE: for who cannot have io_uring, and cannot change the program. */
static int kind_of_environment(enum vdisk_queue_kind *ret)
{
    static const char *const names[] = {"auto", "uring-defer", "uring", "threads"};
    _Static_assert(sizeof names / sizeof names[0] == VDISK_QUEUE_THREADS + 1, "by enum vdisk_queue_kind");
    const char *name = secure_getenv("VDISK_QUEUE");

    for (unsigned i = 0; name && name[0] && i < sizeof names / sizeof names[0]; i++) {
        if (strcmp(name, names[i]) != 0)
            continue;
        *ret = (enum vdisk_queue_kind)i;
        return 0;
    }
    return name && name[0] ? err_hint(err_set(EINVAL, "queue: VDISK_QUEUE is '%s'", name),
                                      "it may be auto, uring-defer, uring or threads") : 0;
}

static int check_opts(const struct vdisk_queue_opts *opts, struct vdisk_queue_opts *ret)
{
    memset(ret, 0, sizeof *ret);
    if (opts) {
        if (opts->size < sizeof(size_t) || opts->size > 4096)
            return err_set(EINVAL, "queue: options of size %zu", opts->size);
        memcpy(ret, opts, min_u64(opts->size, sizeof *ret));
    }
    if (ret->depth == 0)
        ret->depth = QUEUE_DEPTH_DEFAULT;
    if (ret->depth > QUEUE_DEPTH_MAX)
        return err_set(EINVAL, "queue: depth %u is more than %u", ret->depth, QUEUE_DEPTH_MAX);
    if (ret->flags & ~(uint32_t)VDISK_QUEUE_MEASURE)
        return err_set(EINVAL, "queue: unknown flags 0x%x", ret->flags);
    if ((unsigned)ret->kind > VDISK_QUEUE_THREADS)
        return err_set(EINVAL, "queue: unknown kind %d", (int)ret->kind);
    if (ret->watch_ready && (ret->watch_fd < 0 || queue_host))
        return err_set(queue_host ? ENOTSUP : EINVAL, "queue: descriptor %d cannot be watched", ret->watch_fd);
    return ret->kind == VDISK_QUEUE_AUTO ? kind_of_environment(&ret->kind) : 0;
}

static int make_queue(const struct vdisk_queue_opts *user_opts, vdisk_queue **ret_queue)
{
    struct vdisk_queue_opts opts;
    vdisk_queue *q;
    int rc = ret_queue ? check_opts(user_opts, &opts) : err_set(EINVAL, "queue: no place for the handle");

    if (rc < 0)
        return rc;
    q = mem_aligned(64, align_up(sizeof *q, 64));
    if (!q)
        return err_set(ENOMEM, "queue: out of memory");
    memset(q, 0, sizeof *q);
    process_watch();
    q->generation = process_generation;
    q->depth = opts.depth;
    q->watch_fd = opts.watch_fd;
    q->watch_ready = opts.watch_ready;
    list_init(&q->thread_node);
    list_init(&q->in_kernel);
    list_init(&q->calls);
    task_list_init(&q->ready);
    task_list_init(&q->starved);
    q->done_tail = &q->done_head;
    q->pair = &pair_none;
    pthread_mutex_init(&q->errors_lock, NULL);
    rc = queue_attach(q);
    if (rc < 0)
        goto err_after_alloc;
    if (opts.flags & VDISK_QUEUE_MEASURE)
        q->latency = mem_calloc(1, sizeof *q->latency);
    if (add_slab(q, opts.depth + 1) < 0 || (opts.flags & VDISK_QUEUE_MEASURE && !q->latency)) {
        rc = err_set(ENOMEM, "queue: out of memory for %u requests", opts.depth);
        goto err_after_attach;
    }
    rc = q->host ? 0 : ring_init(q, opts.kind);
    if (rc < 0)
        goto err_after_slab;
    watch_queue(q);
    *ret_queue = q;
    return 0;

err_after_slab:
    free_pools(q);
err_after_attach:
    mem_free(q->latency);
    queue_detach(q);
err_after_alloc:
    mem_free(q);
    return rc;
}

int vdisk_queue_create(const struct vdisk_queue_opts *user_opts, vdisk_queue **ret_queue)
{
    return ERR_CALL(make_queue(user_opts, ret_queue));
}

int queue_is_busy(const vdisk_queue *q)
{
    assert(q->inflight > 0);
    if (q->inflight == 1)
        return err_set(EBUSY, "queue: 1 request has not been reaped");
    return err_set(EBUSY, "queue: %u requests have not been reaped", q->inflight);
}

static int destroy(vdisk_queue *q)
{
    if (!q)
        return 0;
    if (q->generation != process_generation)
        return err_set(ECHILD, "queue: it is the parent process's, which has it still");
    if (q->inflight > 0)
        return err_hint(queue_is_busy(q), "reap what is in flight, then destroy the queue");
    assert(q->ops_active == 0 && q->kernel_inflight == 0 && q->worker_jobs == 0);
    assert(list_empty(&q->calls) && !q->ready.head && !q->starved.head && q->plug.count == 0);
    queue_assert(q);
    if (queue_current == q)
        queue_current = NULL;
    watch_queue_gone(q);
    attach_queue_goes(q);
    pairs_queue_goes(q);
    thread_forget(q);
    service_owner_goes(q);
    service_want_none(q);
    poller_destroy(q->poller);
    workers_destroy(q->workers);
    queue_wait_for_posters(q);
    ring_finish(q);
    queue_detach(q);
    free_pools(q);
    pthread_mutex_destroy(&q->errors_lock);
    mem_free(q->errors);
    mem_free(q->latency);
    mem_free(q->region_table);
    mem_free(q);
    return 0;
}

/* Called to clean up after a failure, too: the text of that stays. */
int vdisk_queue_destroy(vdisk_queue *q)
{
    return ERR_KEEP(destroy(q));
}

const char *vdisk_queue_get_reason(const vdisk_queue *q)
{
    return q->reason;
}

enum vdisk_queue_kind vdisk_queue_get_kind(const vdisk_queue *q)
{
    return q->kind;
}

unsigned vdisk_queue_inflight(const vdisk_queue *q)
{
    return q->inflight;
}

static void clear_fd(int fd)
{
    uint64_t count;
    ssize_t n = read(fd, &count, sizeof count);

    (void)n; /* EAGAIN: it was not set */
}

/* Move what others have posted to the ready list, oldest first. */
static void take_remote(vdisk_queue *q)
{
    struct task *t, *reversed = NULL;

    if (!atomic_load_explicit(&q->remote, memory_order_relaxed))
        return;
    t = atomic_exchange(&q->remote, NULL);
    while (t) {
        struct task *next = t->next;
        t->next = reversed;
        reversed = t;
        t = next;
    }
    while (reversed) {
        t = reversed;
        reversed = t->next;
        queue_ready(q, t);
    }
}

/* What is ready now; what becomes ready meanwhile is for the next turn. */
static bool run_ready(vdisk_queue *q)
{
    struct task *t = q->ready.head;

    assert(q->in_loop && queue_current == q);
    if (!t)
        return false;
    task_list_init(&q->ready);
    while (t) {
        struct task *next = t->next;
        t->run(t);
        t = next;
    }
    return true;
}

bool queue_turn(vdisk_queue *q)
{
    bool ran;

    queue_assert(q);
    q->in_loop = true;
    queue_current = q;
    take_remote(q);
    if (likely(queue_has_ring(q)))
        ran = ring_reap(q) > 0;
    else
        ran = q->host && q->host->ops->reap(q) > 0;
    ran |= run_ready(q);
    if (unlikely(q->starved.head || q->chores))
        ring_feed(q);
    q->in_loop = false;
    queue_assert(q);
    if (unlikely(q->service))
        ran |= service_turn(q->service, q);
    return ran;
}

int queue_poll_beside(vdisk_queue *q, struct pollfd *fds, unsigned n, const struct timespec *timeout)
{
    bool beside = q->watch_ready && !queue_has_ring(q);
    int rc;

    fds[n] = (struct pollfd){.fd = q->watch_fd, .events = POLLIN};
    rc = queue_poll(fds, beside ? n + 1 : n, timeout);
    if (beside && fds[n].revents != 0)
        *q->watch_ready = true;
    return rc;
}

/* Without a ring, and where the caller has a descriptor: what wakes it wakes us. */
static int fd_wait(vdisk_queue *q, const struct timespec *timeout)
{
    struct pollfd fds[2];
    int rc = queue_has_ring(q) ? ring_submit(q) : 0;

    if (rc < 0)
        return rc;
    atomic_store(&q->posts_wanted, POSTS_ANY); /* invariant 7 */
    if (queue_has_steps(q))
        return 0;
    fds[0] = (struct pollfd){.fd = atomic_load(&q->post_fd), .events = POLLIN};
    rc = queue_poll_beside(q, fds, 1, timeout);
    if (rc == 0)
        clear_fd(fds[0].fd); /* before anything is looked at: what comes later sets it again */
    return rc;
}

/* Until `wanted` have completed; up to `most` are of use at once. */
static int sleep_for(vdisk_queue *q, unsigned wanted, unsigned most, const struct timespec *timeout)
{
    static const struct timespec now = {0};
    /* Fast-path requests complete one for one; an op may need a step before anything else completes, and of the
       calls of workers several may come back as one wake-up. */
    bool steady = q->ops_active == 0 && q->worker_jobs == 0 && !q->starved.head && !q->serves &&
                  list_empty(&q->calls);

    assert(!q->in_loop && wanted > 0 && wanted <= most);
    queue_current = q;
    if (unlikely(q->wants))
        timeout = service_ask_again(q, timeout);
    if (unlikely(thread_others_busy(q)))
        return thread_sleep(q, timeout);
    if (q->ready.head || atomic_load(&q->remote) || unlikely(q->starved.head || q->chores & CHORE_CANCELS))
        timeout = &now;
    if (q->host)
        return q->ready.head ? 0 : q->host->ops->wait(q, timeout);
    if (!queue_has_ring(q) || q->user_fd >= 0)
        return fd_wait(q, timeout);
    return ring_sleep(q, wanted, most, timeout, steady);
}

int queue_sleep(vdisk_queue *q, unsigned wanted, const struct timespec *timeout)
{
    return sleep_for(q, wanted, wanted, timeout);
}

void queue_run_until(vdisk_queue *q, const bool *flag)
{
    static const struct timespec blink = {.tv_nsec = 1000000};

    assert(!q->in_loop);
    while (!*flag) {
        queue_turn(q);
        int rc = *flag || q->ready.head ? 0 : queue_sleep(q, 1, NULL);
        if (rc < 0 && rc != -EINTR && rc != -ETIME) /* not a reason to leave, nor to keep the processor busy */
            clock_nanosleep(CLOCK_MONOTONIC, 0, &blink, NULL);
    }
    thread_tell_others(q);
}

bool queue_has_steps(vdisk_queue *q)
{
    return q->ready.head || atomic_load(&q->remote) || q->starved.head ||
           (queue_has_ring(q) && ring_has_work(q));
}

/* Somebody wants the owner back. Who clears a descriptor looks here afterwards, and before it sleeps. */
static bool is_woken(vdisk_queue *q)
{
    return (unlikely(atomic_load(&q->woken)) || (q->watch_ready && *q->watch_ready)) &&
           !ENGINE_MUTANT(WAKE_UNSEEN);
}

void queue_tell(vdisk_queue *q)
{
    bool has_work;

    if (likely(q->user_fd < 0))
        return;
    has_work = q->done_head || is_woken(q) || queue_has_steps(q) || service_is_wanted(q);
    if (has_work && !ENGINE_MUTANT(FD_LEFT_CLEAR))
        signal_fd(q->user_fd);
}

void queue_clear(vdisk_queue *q)
{
    if (unlikely(q->user_fd >= 0))
        clear_fd(q->user_fd); /* before anything is looked at: what comes later sets it again */
}

static int name_error(int rc)
{
    return rc < 0 ? err_set(rc, "queue: %s", strerror(-rc)) : rc;
}

int queue_submit(vdisk_queue *q)
{
    assert(!q->in_loop && !q->serves); /* that is sent by who turns it */
    if (unlikely(!q->thread) && !q->host)
        thread_adopt(q);
    queue_current = q;
    if (unlikely(q->service))
        service_turn(q->service, q);
    return queue_has_ring(q) ? ring_submit(q) : 0;
}

int queue_check_handle(const vdisk_queue *q)
{
    if (!q)
        return -EINVAL;
    if (unlikely(q->generation != process_generation) && !ENGINE_MUTANT(FORK_UNSEEN))
        return -ECHILD;
    if (q->kind == VDISK_QUEUE_URING_DEFER && unlikely(thread_is_other(q)) && !ENGINE_MUTANT(THREAD_UNSEEN))
        return -EEXIST;
    return 0;
}

int vdisk_submit(vdisk_queue *q)
{
    int rc = queue_check_handle(q);

    if (rc == 0) {
        rc = queue_submit(q);
        queue_tell(q);
    }
    return ERR_CALL(name_error(rc));
}

static unsigned hand_out(vdisk_queue *q, struct vdisk_completion *out, unsigned max)
{
    unsigned n = 0;

    while (n < max && q->done_head) {
        struct request *r = q->done_head;
        q->done_head = r->next;
        out[n].user_data = r->user_data;
        out[n].result = r->result;
        out[n].error = r->error;
        if (unlikely(r->error))
            r->error = 0;
        n++;
        assert(r->state == REQUEST_DONE);
        r->state = REQUEST_FREE;
        r->next = q->free_requests;
        q->free_requests = r;
    }
    if (!q->done_head)
        q->done_tail = &q->done_head;
    assert(n <= q->done_count && q->done_count <= q->inflight);
    q->done_count -= n;
    q->inflight -= n;
    return n;
}

static const struct clock *clock_of(const vdisk_queue *q)
{
    return q->host ? q->host->clock : NULL;
}

static bool is_time(const struct timespec *t)
{
    return t->tv_sec >= 0 && t->tv_nsec >= 0 && t->tv_nsec < 1000000000;
}

static struct timespec now_plus(const vdisk_queue *q, const struct timespec *t)
{
    struct timespec now;

    assert(is_time(t));
    clock_now(clock_of(q), &now);
    now.tv_sec += min_u64((uint64_t)t->tv_sec, INT32_MAX); /* decades */
    now.tv_nsec += t->tv_nsec;
    if (now.tv_nsec >= 1000000000) {
        now.tv_sec++;
        now.tv_nsec -= 1000000000;
    }
    return now;
}

/* What is left until `deadline`; false: it has passed. */
static bool time_left(const vdisk_queue *q, const struct timespec *deadline, struct timespec *ret)
{
    struct timespec now;

    clock_now(clock_of(q), &now);
    ret->tv_sec = deadline->tv_sec - now.tv_sec;
    ret->tv_nsec = deadline->tv_nsec - now.tv_nsec;
    if (ret->tv_nsec < 0) {
        ret->tv_sec--;
        ret->tv_nsec += 1000000000;
    }
    return ret->tv_sec >= 0 && (ret->tv_sec > 0 || ret->tv_nsec > 0);
}

/* Turn and sleep until `min` are done, or somebody wakes. 0, or why not: -ETIME, -EINTR, another -errno. */
static int wait_done(vdisk_queue *q, unsigned min, unsigned max, const struct timespec *timeout)
{
    struct timespec deadline = {0}, left;
    bool have_deadline = false;

    assert(min <= max);
    for (;;) {
        bool ran = queue_turn(q);
        if (q->done_count >= min || is_woken(q) || (unlikely(err_state.is_urgent) && !q->always_turned))
            return 0;
        if (ran && q->ready.head)
            continue;
        if (timeout && !have_deadline) {
            deadline = now_plus(q, timeout);
            have_deadline = true;
        }
        if (timeout && !time_left(q, &deadline, &left))
            return -ETIME;
        int rc = sleep_for(q, min - q->done_count, max - q->done_count, timeout ? &left : NULL);
        if (rc < 0 && rc != -ETIME)
            return rc;
    }
}

static bool to_send(vdisk_queue *q)
{
    return queue_has_ring(q) && ring_to_send(q);
}

/*
 * What is left to send after the wait. With something to hand out and nothing to send, what the kernel has put off
 * can wait: entering for it would cost as much as the I/O. With nothing to hand out, and no wait, look once more,
 * and send what that brings: the caller may sleep on the descriptor next.
 */
static int send_rest(vdisk_queue *q, unsigned min)
{
    int rc = 0;

    if (q->done_count == 0 || to_send(q))
        rc = queue_submit(q);
    if (q->done_count == 0 && min == 0 && rc == 0) {
        queue_turn(q);
        if (to_send(q))
            rc = queue_submit(q);
    }
    return rc;
}

/* `idle`: waits with nothing in flight, too. */
static int reap(vdisk_queue *q, struct vdisk_completion *completions, unsigned min, unsigned max,
                const struct timespec *timeout, bool idle)
{
    int rc = queue_check_handle(q), sent;

    if (unlikely(rc < 0))
        return rc;
    if ((!completions && max > 0) || (timeout && !is_time(timeout)))
        return -EINVAL;
    if (unlikely(!q->thread) && !q->host)
        thread_adopt(q);
    queue_current = q;
    if (min > max)
        min = max;
    if (min > q->inflight && !(idle && q->inflight == 0))
        min = q->inflight;
    if (!ENGINE_MUTANT(FD_CLEARED_LATE))
        queue_clear(q);
    if (unlikely(q->wants))
        service_ask_again(q, NULL);
    rc = wait_done(q, min, max, timeout);
    if (unlikely(atomic_load_explicit(&q->woken, memory_order_relaxed)))
        atomic_store(&q->woken, false);
    sent = send_rest(q, min);
    unsigned n = hand_out(q, completions, max);
    if (unlikely(q->watch_ready && !queue_has_ring(q)))
        *q->watch_ready = true; /* nobody has looked, unless it slept */
    queue_tell(q);
    thread_tell_others(q);
    if (ENGINE_MUTANT(FD_CLEARED_LATE))
        queue_clear(q);
    if (n > 0 || rc == -ETIME)
        return (int)n;
    return rc < 0 ? rc : sent;
}

/*
 * An eventfd: the descriptor of a ring that defers completions does not wake who sleeps on it. Completions write
 * it and posts do: a post that had to go through the ring's poll of another eventfd could get lost, since the
 * kernel does not signal an eventfd from within the wake-up of another.
 */
static int make_user_fd(vdisk_queue *q)
{
    int rc, fd;

    if (!queue_has_ring(q))
        return atomic_load(&q->post_fd);
    fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (fd < 0)
        return err_set(errno, "queue: eventfd: %s", strerror(errno));
    rc = ring_notify(q, fd);
    if (rc < 0) {
        close(fd);
        return err_set(rc, "queue: a descriptor for completions: %s", strerror(-rc));
    }
    return fd;
}

unsigned queue_take(vdisk_queue *q, struct vdisk_completion *completions, unsigned max)
{
    static const struct timespec blink = {.tv_nsec = 1000000};

    assert(q->inflight > 0);
    for (;;) {
        int n = reap(q, completions, 1, max, NULL, false);
        if (n > 0)
            return (unsigned)n;
        if (n < 0 && ENGINE_MUTANT(WAIT_GIVEN_UP)) {
            completions->result = n;
            return 1;
        }
        if (n < 0 && n != -EINTR)
            clock_nanosleep(CLOCK_MONOTONIC, 0, &blink, NULL);
    }
}

int vdisk_reap(vdisk_queue *q, struct vdisk_completion *completions, unsigned min, unsigned max,
               const struct timespec *timeout)
{
    return ERR_CALL(name_error(reap(q, completions, min, max, timeout, false)));
}

int vdisk_wait(vdisk_queue *q, struct vdisk_completion *completions, unsigned min, unsigned max,
               const struct timespec *timeout)
{
    bool idle = q && !q->host; /* in a simulation nobody else could wake it */

    return ERR_CALL(name_error(reap(q, completions, min, max, timeout, idle)));
}

/* Nothing here but atomics and a write(): a signal handler may call it. */
void vdisk_queue_wake(vdisk_queue *q)
{
    int fd, saved_errno = errno;

    if (!q || q->generation != process_generation)
        return;
    atomic_store(&q->woken, true);
    POINT("wake: said so");
    fd = atomic_load(&q->post_fd); /* if that changes now: the owner looks at `woken` after it has */
    if (fd >= 0)
        signal_fd(fd);
    errno = saved_errno;
}

int queue_user_fd(vdisk_queue *q)
{
    if (q->user_fd < 0 && !q->host) {
        int fd = make_user_fd(q);
        if (fd < 0)
            return fd;
        q->user_fd = fd;
        POINT("descriptor: made");
        if (!ENGINE_MUTANT(WAKE_UNWATCHED))
            atomic_store(&q->post_fd, fd);
        atomic_store(&q->posts_wanted, POSTS_ANY); /* from now on it sleeps where we do not see it */
        if (q->service)
            service_owner_moved(q->service);
        queue_tell(q);
    }
    return q->user_fd;
}

int vdisk_queue_fd(vdisk_queue *q)
{
    int rc = queue_check_handle(q);

    return ERR_CALL(name_error(rc < 0 ? rc : queue_user_fd(q)));
}
