/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The host cannot for a moment: a wait, a submit, a descriptor for completions, a thread. Whatever is called ends,
 * with the right bytes, and not before what it began. The linker sends the calls here (--wrap in meson.build).
 */
#include <errno.h>
#include <liburing.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

#include "engine/vdisk-image.h"
#include "tests/lib/caller.h"
#include "tests/lib/test.h"

enum { BLOCK = 4096, CLUSTER = 65536, CLUSTERS = 64, TIMES = 3 };

/* So many calls are refused, with this errno, when `passed` have been let through. */
struct refusal {
    _Atomic unsigned left, passed;
    int err;
};

static struct refusal waits, submits, enters, polls, notices, threads;
static _Atomic unsigned submitted, entered; /* calls */

static bool is_refused(struct refusal *r)
{
    unsigned passed = atomic_load(&r->passed), left;

    while (passed > 0)
        if (atomic_compare_exchange_weak(&r->passed, &passed, passed - 1))
            return false;
    left = atomic_load(&r->left);
    while (left > 0)
        if (atomic_compare_exchange_weak(&r->left, &left, left - 1))
            return true;
    return false;
}

static void refuse(struct refusal *r, int err, unsigned times)
{
    r->err = err;
    atomic_store(&r->left, times);
}

/* The names are the linker's. */
int __real_io_uring_submit_and_wait(struct io_uring *ring, unsigned wanted);
int __real_io_uring_submit(struct io_uring *ring);
int __real_io_uring_enter2(unsigned fd, unsigned to_submit, unsigned wanted, unsigned flags, sigset_t *arg,
                           size_t size);
int __real_io_uring_register_eventfd(struct io_uring *ring, int fd);
int __real_ppoll(struct pollfd *fds, nfds_t n, const struct timespec *timeout, const sigset_t *mask);
int __real_pthread_create(pthread_t *id, const pthread_attr_t *attr, void *(*start)(void *), void *arg);
int __wrap_io_uring_submit_and_wait(struct io_uring *ring, unsigned wanted);
int __wrap_io_uring_submit(struct io_uring *ring);
int __wrap_io_uring_enter2(unsigned fd, unsigned to_submit, unsigned wanted, unsigned flags, sigset_t *arg,
                           size_t size);
int __wrap_io_uring_register_eventfd(struct io_uring *ring, int fd);
int __wrap_ppoll(struct pollfd *fds, nfds_t n, const struct timespec *timeout, const sigset_t *mask);
int __wrap_pthread_create(pthread_t *id, const pthread_attr_t *attr, void *(*start)(void *), void *arg);

int __wrap_io_uring_submit_and_wait(struct io_uring *ring, unsigned wanted)
{
    return is_refused(&waits) ? -waits.err : __real_io_uring_submit_and_wait(ring, wanted);
}

int __wrap_io_uring_submit(struct io_uring *ring)
{
    submitted++;
    return is_refused(&submits) ? -submits.err : __real_io_uring_submit(ring);
}

int __wrap_io_uring_enter2(unsigned fd, unsigned to_submit, unsigned wanted, unsigned flags, sigset_t *arg,
                           size_t size)
{
    entered++;
    return is_refused(&enters) ? -enters.err : __real_io_uring_enter2(fd, to_submit, wanted, flags, arg, size);
}

int __wrap_io_uring_register_eventfd(struct io_uring *ring, int fd)
{
    return is_refused(&notices) ? -notices.err : __real_io_uring_register_eventfd(ring, fd);
}

int __wrap_ppoll(struct pollfd *fds, nfds_t n, const struct timespec *timeout, const sigset_t *mask)
{
    if (!is_refused(&polls))
        return __real_ppoll(fds, n, timeout, mask);
    errno = polls.err;
    return -1;
}

int __wrap_pthread_create(pthread_t *id, const pthread_attr_t *attr, void *(*start)(void *), void *arg)
{
    return is_refused(&threads) ? threads.err : __real_pthread_create(id, attr, start, arg);
}

/* ---- the scene ------------------------------------------------------------------------------------------ */

static vdisk *v;
static vdisk_queue *q;
static char *buf;

static vdisk_queue *new_queue(enum vdisk_queue_kind kind)
{
    struct vdisk_queue_opts opts = {.size = sizeof opts, .depth = 8, .kind = kind};
    vdisk_queue *new = NULL;

    if (vdisk_queue_create(&opts, &new) < 0)
        test_skip("no queue of kind %s here", vdisk_queue_kind_name(kind));
    return new;
}

static void begin(enum vdisk_queue_kind kind)
{
    struct vdisk_create_opts opts = {.size = sizeof opts, .format = "qcow2",
                                     .virtual_size = (uint64_t)CLUSTERS * CLUSTER};
    struct vdisk_open_opts open_opts = {.size = sizeof open_opts, .flags = VDISK_OPEN_RDWR};

    buf = vdisk_alloc_buffer((size_t)CLUSTERS * CLUSTER);
    CHECK(buf != NULL);
    memset(buf, 0x5a, (size_t)CLUSTERS * CLUSTER);
    q = new_queue(kind);
    CHECK_OK(vdisk_create(test_path("image"), &opts));
    CHECK_OK(vdisk_open(test_path("image"), &open_opts, &v));
    caller_wait_begin("the library");
}

static void end(void)
{
    caller_wait_end();
    CHECK_OK(vdisk_queue_destroy(q));
    CHECK_OK(vdisk_close(v));
    free(buf);
}

static void take(vdisk_queue *from, unsigned n)
{
    struct vdisk_completion c;

    for (; n > 0; n--) {
        CHECK_INT(vdisk_reap(from, &c, 1, 1, NULL), 1);
        CHECK_MSG(c.result == 0, "request %d: %s", (int)c.user_data, strerror(-c.result));
    }
}

/* The same by its descriptor. */
static void take_polling(vdisk_queue *from, unsigned n)
{
    struct pollfd pfd = {.fd = vdisk_queue_fd(from), .events = POLLIN};
    struct vdisk_completion c;

    CHECK_OK(vdisk_submit(from));
    while (n > 0) {
        CHECK(poll(&pfd, 1, -1) == 1 || errno == EINTR);
        int got = vdisk_reap(from, &c, 0, 1, NULL);
        CHECK_OK(got);
        if (got > 0)
            CHECK_INT(c.result, 0);
        n -= (unsigned)got;
    }
}

/* ---- waits ---------------------------------------------------------------------------------------------- */

/* What a synchronous call began uses the caller's memory: it does not return before that has ended. */
static void test_wait(void)
{
    char *block;

    begin(VDISK_QUEUE_THREADS);
    CHECK_OK(vdisk_pwrite(v, buf, CLUSTER, 0, 0));
    block = vdisk_alloc_buffer(BLOCK);
    memset(block, 0, BLOCK);
    refuse(&waits, EEXIST, TIMES);
    CHECK_OK(vdisk_pread(v, block, BLOCK, BLOCK));
    CHECK_MSG(memcmp(block, buf, BLOCK) == 0, "a read has ended, and its bytes have not come");
    if (atomic_load(&waits.left) == TIMES)
        test_skip("synchronous calls have no ring here");
    refuse(&waits, EEXIST, TIMES);
    CHECK_OK(vdisk_grow(v, 2 * (uint64_t)CLUSTERS * CLUSTER + 512));
    refuse(&waits, 0, 0);
    free(block);
    end();
}

static void preallocate(enum vdisk_prealloc mode)
{
    struct vdisk_resize_opts opts = {.size = sizeof opts, .preallocation = mode};
    char *block = vdisk_alloc_buffer(BLOCK);

    refuse(&waits, EEXIST, 30 * TIMES);
    CHECK_OK(vdisk_resize(v, vdisk_size(v) + (4 << 20), &opts));
    refuse(&waits, 0, 0);
    CHECK_OK(vdisk_pread(v, block, BLOCK, vdisk_size(v) - BLOCK));
    CHECK(block[0] == 0 && memcmp(block, block + 1, BLOCK - 1) == 0);
    free(block);
}

/* So are the writes of a resize. */
static void test_resize(void)
{
    begin(VDISK_QUEUE_THREADS);
    preallocate(VDISK_PREALLOC_FULL);
    preallocate(VDISK_PREALLOC_METADATA);
    end();
}

enum { STOP_WRITES = 16, STOP_DEPTH = 4, STOP_LEN = CLUSTERS / STOP_WRITES * CLUSTER };

/* Every other cluster is there: a write of several goes on from each to the next when that one's write ends. */
static void begin_striped(void)
{
    struct vdisk_queue_opts opts = {.size = sizeof opts, .depth = STOP_DEPTH, .kind = VDISK_QUEUE_URING};

    begin(VDISK_QUEUE_URING);
    for (uint64_t i = 1; i < CLUSTERS; i += 2)
        CHECK_OK(vdisk_pwrite(v, buf, CLUSTER, i * CLUSTER, 0));
    CHECK_OK(vdisk_queue_destroy(q));
    CHECK_OK(vdisk_queue_create(&opts, &q)); /* a small ring: it is full, and sent, amid completions */
}

/*
 * The kernel will not take one of the calls that send, for good: the ring is stopped, wherever the queue is. Each
 * request ends once; what says that it is written is.
 */
static void test_stop(void)
{
    struct vdisk_completion done[STOP_WRITES];
    unsigned times[STOP_WRITES] = {0};
    bool written[STOP_WRITES] = {false};

    begin_striped();
    memset(buf, 0x33, STOP_LEN);
    atomic_store(&submits.passed, test_repetition());
    refuse(&submits, EBADF, 1);
    for (uint64_t i = 0; i < STOP_WRITES; i++)
        vdisk_write(q, v, i * STOP_LEN, buf, STOP_LEN, 0, i);
    for (unsigned left = STOP_WRITES; left > 0;) {
        int n = vdisk_reap(q, done, 1, STOP_WRITES, NULL);
        CHECK_MSG(n > 0, "reap: %s", vdisk_error_text());
        for (int i = 0; i < n; i++, left--) {
            CHECK_MSG(done[i].result == 0 || done[i].result == -EBADF, "request %d: %d", (int)done[i].user_data,
                      done[i].result); /* what the kernel has is lost */
            CHECK_INT(times[done[i].user_data]++, 0);
            written[done[i].user_data] = done[i].result == 0;
        }
    }
    CHECK_INT(vdisk_queue_inflight(q), 0);
    test_note("the ring was %s", atomic_load(&submits.left) ? "not stopped" : "stopped");
    refuse(&submits, 0, 0);
    atomic_store(&submits.passed, 0);
    for (uint64_t i = 0; i < STOP_WRITES; i++) {
        CHECK_OK(vdisk_pread(v, buf, STOP_LEN, i * STOP_LEN));
        CHECK(!written[i] || (buf[0] == 0x33 && memcmp(buf, buf + 1, STOP_LEN - 1) == 0));
    }
    end();
}

/* By poll(): a queue without a ring, and one that waits for others of its thread too. */
static void test_poll(void)
{
    static const int errs[] = {EINVAL, ENOMEM};

    for (unsigned i = 0; i < 2; i++) {
        begin(VDISK_QUEUE_THREADS);
        vdisk_write(q, v, 0, buf, CLUSTERS * CLUSTER, 0, 1);
        refuse(&polls, errs[i], TIMES);
        take(q, 1);
        vdisk_write(q, v, 0, buf, CLUSTERS * CLUSTER, 0, 1);
        CHECK_OK(vdisk_submit(q));
        refuse(&polls, errs[i], TIMES);
        CHECK_OK(vdisk_sync(v));
        refuse(&polls, 0, 0);
        take(q, 1);
        end();
    }
}

/* Many at once are sent, and gathered, by one call; one that sends nothing is made again. */
static void test_gather(void)
{
    static const int errs[] = {0, EAGAIN, EBUSY, EINTR};
    struct vdisk_completion done[32];

    begin(VDISK_QUEUE_URING_DEFER);
    CHECK_OK(vdisk_pwrite(v, buf, CLUSTERS * CLUSTER, 0, 0));
    for (unsigned round = 0; round < 4; round++) {
        memset(buf, 0, CLUSTER);
        for (uint64_t i = 0; i < 32; i++)
            vdisk_read(q, v, i * BLOCK, buf + i * BLOCK, BLOCK, 0, i);
        refuse(&enters, errs[round], errs[round] ? TIMES : 0);
        submitted = entered = 0;
        for (unsigned left = 32; left > 0;) {
            int n = vdisk_reap(q, done, 1, 32, NULL);
            CHECK_MSG(n >= 0 || n == -EINTR, "reap: %s", vdisk_error_text());
            for (int i = 0; i < n; i++, left--)
                CHECK_INT(done[i].result, 0);
        }
        CHECK(buf[0] == 0x5a && memcmp(buf, buf + 1, 32 * BLOCK - 1) == 0);
        CHECK_MSG(entered == 0 || submitted == 0, "%u calls that send, beside %u that do and wait", submitted,
                  entered);
    }
    end();
}

/* ---- services ------------------------------------------------------------------------------------------- */

/* A flush is carried out on a ring beside the queue's: nothing is in flight where the owner sleeps. */
static void write_and_flush(void (*take_from)(vdisk_queue *, unsigned))
{
    for (unsigned i = 0; i < 4; i++) {
        vdisk_write(q, v, i * CLUSTER, buf, CLUSTER, 0, i);
        take_from(q, 1);
        refuse(&submits, i & 1 ? EAGAIN : EBUSY, TIMES);
        vdisk_flush(q, v, 0, i);
        take_from(q, 1);
        refuse(&submits, 0, 0);
    }
}

static void test_submit(void)
{
    static const enum vdisk_queue_kind kinds[] = {VDISK_QUEUE_URING_DEFER, VDISK_QUEUE_URING};

    for (unsigned i = 0; i < 4; i++) {
        test_note("%s, %s", vdisk_queue_kind_name(kinds[i / 2]), i & 1 ? "poll" : "reap");
        begin(kinds[i / 2]);
        write_and_flush(i & 1 ? take_polling : take);
        end();
    }
}

/* Its ring cannot write the owner's descriptor: it wakes him all the same, or is done without. */
static void test_notice(void)
{
    for (unsigned i = 0; i < 2; i++) {
        test_note("%s", i & 1 ? "poll" : "reap");
        begin(VDISK_QUEUE_URING_DEFER);
        CHECK_OK(i & 1 ? vdisk_queue_fd(q) : 0);
        vdisk_write(q, v, 0, buf, CLUSTER, 0, 1);
        refuse(&notices, ENOMEM, TIMES);
        if (i & 1)
            take_polling(q, 1);
        else
            take(q, 1);
        write_and_flush(i & 1 ? take_polling : take);
        refuse(&notices, 0, 0);
        end();
    }
}

static void *flush_reaping(void *arg)
{
    vdisk_queue *own = new_queue(VDISK_QUEUE_AUTO);

    caller_wait_begin("the other thread");
    vdisk_flush(own, v, 0, 2);
    take(own, 1);
    caller_wait_end();
    CHECK_OK(vdisk_queue_destroy(own));
    return NULL;
}

static void *flush_polling(void *arg)
{
    vdisk_queue *own = new_queue(VDISK_QUEUE_AUTO);

    caller_wait_begin("the other thread");
    vdisk_flush(own, v, 0, 2);
    take_polling(own, 1);
    caller_wait_end();
    CHECK_OK(vdisk_queue_destroy(own));
    return NULL;
}

static void *flush_synchronously(void *arg)
{
    caller_wait_begin("the other thread");
    CHECK_OK(vdisk_sync(v));
    caller_wait_end();
    return NULL;
}

/* The volume sees a second queue before there is anything to share. */
static void use_another_queue(void)
{
    vdisk_queue *second = new_queue(VDISK_QUEUE_AUTO);

    vdisk_read(q, v, 0, buf, BLOCK, 0, 0);
    take(q, 1);
    vdisk_read(second, v, 0, buf, BLOCK, 0, 0);
    take(second, 1);
    CHECK_OK(vdisk_queue_destroy(second));
}

/* A flush is under way, whose owner does not call the library; others wait for it, and no thread can be had. */
static void test_thread(void)
{
    static void *(*const ways[])(void *) = {flush_reaping, flush_polling, flush_synchronously};
    unsigned n = test_repetition(), times = n / 6 % 2 ? 10 : 1;
    bool seen = n / 3 % 2;
    pthread_t other;

    test_note("way %u, %s, refused %u times", n % 3, seen ? "two queues before" : "one queue before", times);
    begin(VDISK_QUEUE_URING_DEFER);
    if (seen)
        use_another_queue();
    refuse(&threads, EAGAIN, times);
    vdisk_write(q, v, 0, buf, CLUSTER, 0, 1);
    take(q, 1);
    vdisk_flush(q, v, 0, 2);
    CHECK_OK(vdisk_submit(q));
    CHECK_INT(__real_pthread_create(&other, NULL, ways[n % 3], NULL), 0);
    pthread_join(other, NULL);
    take(q, 1);
    CHECK_INT(atomic_load(&threads.left), 0);
    end();
}

/* A job that can have no thread has not begun: the queue has nothing of it, and it can be started later. */
static void test_job(void)
{
    struct vdisk_create_opts opts = {.size = sizeof opts, .virtual_size = CLUSTER};
    vdisk_job *j;

    begin(VDISK_QUEUE_URING_DEFER);
    CHECK_OK(vdisk_job_create(test_path("made"), &opts, &j));
    refuse(&threads, EAGAIN, 1);
    CHECK_INT(vdisk_job_start(j, q, 0), -EAGAIN);
    CHECK_HAS(vdisk_error_text(), "thread");
    CHECK_INT(vdisk_queue_inflight(q), 0);
    vdisk_write(q, v, 0, buf, BLOCK, 0, 1);
    take(q, 1);
    CHECK_OK(vdisk_job_start(j, q, 0));
    take(q, 1);
    CHECK_OK(vdisk_job_free(j));
    end();
}

static const struct test_case cases[] = {
    {"wait", test_wait, 0, 0, 0},     {"resize", test_resize, 0, 0, 0}, {"poll", test_poll, 0, 0, 0},
    {"gather", test_gather, 0, 0, 0}, {"submit", test_submit, 0, 0, 0}, {"notice", test_notice, 0, 0, 0},
    {"thread", test_thread, 12, 12, 12}, {"job", test_job, 0, 0, 0},   {"stop", test_stop, 96, 96, 96},
};

int main(int argc, char **argv)
{
    return test_main(argc, argv, cases, sizeof cases / sizeof cases[0]);
}
