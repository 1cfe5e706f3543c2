/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the library calls of the system that other threads can notice: the linker sends it here (--wrap in
 * meson.build). Locks and eventfds become steps of the scheduler. What is freed or closed during a run stays until
 * its end, out of bounds, so that who uses it afterwards is found out.
 */
#include "tests/interleave/wrap.h"

#include <errno.h>
#include <liburing.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "tests/interleave/scheduler.h"

enum { BLOCKS_MAX = 256, PAGE = 4096, LARGE = 128, FDS_MAX = 1024 };

/* The names are the linker's. */
int __real_pthread_mutex_lock(pthread_mutex_t *m);
int __real_pthread_mutex_trylock(pthread_mutex_t *m);
int __real_pthread_mutex_unlock(pthread_mutex_t *m);
int __real_pthread_create(pthread_t *id, const pthread_attr_t *attr, void *(*start)(void *), void *arg);
int __real_pthread_join(pthread_t id, void **ret);
int __real_sched_yield(void);
int __real_nanosleep(const struct timespec *t, struct timespec *left);
ssize_t __real_write(int fd, const void *buf, size_t len);
int __real_close(int fd);
ssize_t __real_read(int fd, void *buf, size_t len);
int __real_ppoll(struct pollfd *fds, nfds_t n, const struct timespec *timeout, const sigset_t *mask);
int __real_io_uring_submit_and_wait(struct io_uring *ring, unsigned wanted);
int __real_io_uring_submit_and_wait_timeout(struct io_uring *ring, struct io_uring_cqe **cqe, unsigned wanted,
                                            struct __kernel_timespec *ts, sigset_t *mask);
void *__real_aligned_alloc(size_t align, size_t size);
void *__real_calloc(size_t n, size_t size);
void __real_free(void *p);

int __wrap_pthread_mutex_lock(pthread_mutex_t *m);
int __wrap_pthread_mutex_trylock(pthread_mutex_t *m);
int __wrap_pthread_mutex_unlock(pthread_mutex_t *m);
int __wrap_pthread_create(pthread_t *id, const pthread_attr_t *attr, void *(*start)(void *), void *arg);
int __wrap_pthread_join(pthread_t id, void **ret);
int __wrap_sched_yield(void);
int __wrap_nanosleep(const struct timespec *t, struct timespec *left);
ssize_t __wrap_write(int fd, const void *buf, size_t len);
int __wrap_close(int fd);
ssize_t __wrap_read(int fd, void *buf, size_t len);
int __wrap_ppoll(struct pollfd *fds, nfds_t n, const struct timespec *timeout, const sigset_t *mask);
int __wrap_io_uring_submit_and_wait(struct io_uring *ring, unsigned wanted);
int __wrap_io_uring_submit_and_wait_timeout(struct io_uring *ring, struct io_uring_cqe **cqe, unsigned wanted,
                                            struct __kernel_timespec *ts, sigset_t *mask);
void *__wrap_aligned_alloc(size_t align, size_t size);
void *__wrap_calloc(size_t n, size_t size);
void __wrap_free(void *p);

unsigned wrap_refuse_threads;

/* ---- locks and threads ---------------------------------------------------------------------------------- */

int __wrap_pthread_mutex_lock(pthread_mutex_t *m)
{
    if (!sched_is_managed())
        return __real_pthread_mutex_lock(m);
    sched_point("a lock");
    while (__real_pthread_mutex_trylock(m) != 0)
        sched_wait_mutex(m);
    return 0;
}

int __wrap_pthread_mutex_trylock(pthread_mutex_t *m)
{
    sched_point("a lock, tried");
    return __real_pthread_mutex_trylock(m);
}

int __wrap_pthread_mutex_unlock(pthread_mutex_t *m)
{
    int rc = __real_pthread_mutex_unlock(m);

    if (sched_is_managed()) {
        sched_mutex_free(m);
        sched_point("unlocked");
    }
    return rc;
}

int __wrap_pthread_create(pthread_t *id, const pthread_attr_t *attr, void *(*start)(void *), void *arg)
{
    if (!sched_is_managed())
        return __real_pthread_create(id, attr, start, arg);
    if (wrap_refuse_threads > 0) {
        wrap_refuse_threads--;
        sched_point("no thread begun");
        return EAGAIN;
    }
    return sched_begin_thread(id, start, arg) ? 0 : EAGAIN;
}

int __wrap_pthread_join(pthread_t id, void **ret)
{
    if (!sched_is_managed() || !sched_join_thread(id))
        return __real_pthread_join(id, ret);
    return 0;
}

int __wrap_sched_yield(void)
{
    if (!sched_is_managed())
        return __real_sched_yield();
    sched_others_first("sched_yield()");
    return 0;
}

int __wrap_nanosleep(const struct timespec *t, struct timespec *left)
{
    if (!sched_is_managed())
        return __real_nanosleep(t, left);
    sched_others_first("nanosleep()");
    return 0;
}

/* ---- descriptors ---------------------------------------------------------------------------------------- */

static bool fd_closed[FDS_MAX];
static unsigned fds_closed;

ssize_t __wrap_write(int fd, const void *buf, size_t len)
{
    sched_point("before a write to an eventfd");
    if (sched_is_running() && fd >= 0 && fd < FDS_MAX)
        REQUIRE(!fd_closed[fd], "%zu bytes are written to descriptor %d, which has been closed", len, fd);
    return __real_write(fd, buf, len);
}

ssize_t __wrap_read(int fd, void *buf, size_t len)
{
    sched_point("before a read of an eventfd");
    if (sched_is_running() && fd >= 0 && fd < FDS_MAX)
        REQUIRE(!fd_closed[fd], "descriptor %d is read, which has been closed", fd);
    return __real_read(fd, buf, len);
}

static bool is_readable(void *arg)
{
    struct pollfd pfd = *(struct pollfd *)arg;

    return poll(&pfd, 1, 0) > 0;
}

void wrap_wait_readable(const char *what, int fd)
{
    struct pollfd pfd = {.fd = fd, .events = POLLIN};

    sched_wait(what, is_readable, &pfd);
}

int __wrap_ppoll(struct pollfd *fds, nfds_t n, const struct timespec *timeout, const sigset_t *mask)
{
    if (sched_is_managed() && !timeout) {
        REQUIRE(n == 1, "a sleep on %d descriptors is not known here", (int)n);
        wrap_wait_readable("sleeps on an eventfd", fds[0].fd);
    }
    return __real_ppoll(fds, n, timeout, mask);
}

/* The ring is readable when the kernel has something for it, also where that is put off until its owner enters. */
int __wrap_io_uring_submit_and_wait(struct io_uring *ring, unsigned wanted)
{
    int rc;

    if (!sched_is_managed())
        return __real_io_uring_submit_and_wait(ring, wanted);
    rc = io_uring_submit_and_get_events(ring);
    if (rc >= 0 && io_uring_cq_ready(ring) < wanted) {
        wrap_wait_readable("sleeps in the ring", ring->ring_fd);
        io_uring_get_events(ring);
    }
    return rc;
}

/* No time is so long that it passes: who sleeps has to be woken. None at all does. */
int __wrap_io_uring_submit_and_wait_timeout(struct io_uring *ring, struct io_uring_cqe **cqe, unsigned wanted,
                                            struct __kernel_timespec *ts, sigset_t *mask)
{
    if (!sched_is_managed() || (ts->tv_sec == 0 && ts->tv_nsec == 0))
        return __real_io_uring_submit_and_wait_timeout(ring, cqe, wanted, ts, mask);
    return __wrap_io_uring_submit_and_wait(ring, wanted);
}

int __wrap_close(int fd)
{
    if (!sched_is_running() || fd < 0 || fd >= FDS_MAX)
        return __real_close(fd);
    REQUIRE(!fd_closed[fd], "descriptor %d is closed twice", fd);
    fd_closed[fd] = true;
    fds_closed++;
    return 0;
}

/* ---- memory --------------------------------------------------------------------------------------------- */

/* What was allocated during the run: queues, requests, gates, volumes. Kept for the next runs. */
static struct {
    char  *start;
    size_t size;
    bool   used, freed;
    bool   out_of_bounds;
} blocks[BLOCKS_MAX];
static unsigned blocks_count;

static char *new_block(size_t size)
{
    char *p;

    if (blocks_count == BLOCKS_MAX)
        return NULL;
    p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED)
        return NULL;
    blocks[blocks_count].start = p;
    blocks[blocks_count].size = size;
    blocks[blocks_count++].used = true;
    return p;
}

void *__wrap_aligned_alloc(size_t align, size_t size)
{
    if (!sched_is_running() || align > PAGE)
        return __real_aligned_alloc(align, size);
    size = (size + PAGE - 1) / PAGE * PAGE;
    for (unsigned i = 0; i < blocks_count; i++)
        if (!blocks[i].used && blocks[i].size == size) {
            blocks[i].used = true;
            return blocks[i].start;
        }
    return new_block(size);
}

/* Structs that threads share are large: volumes, services, images. */
void *__wrap_calloc(size_t n, size_t size)
{
    void *p;

    if (!sched_is_running() || n * size < LARGE)
        return __real_calloc(n, size);
    p = __wrap_aligned_alloc(64, n * size);
    return p ? memset(p, 0, n * size) : NULL;
}

void __wrap_free(void *p)
{
    for (unsigned i = 0; p && i < blocks_count; i++)
        if (blocks[i].start == p) {
            REQUIRE(blocks[i].used && !blocks[i].freed, "memory is freed twice");
            blocks[i].freed = true;
            /* Once the threads have ended nobody is left who could use it. */
            if (sched_is_managed()) {
                mprotect(blocks[i].start, blocks[i].size, PROT_NONE);
                blocks[i].out_of_bounds = true;
            }
            return;
        }
    __real_free(p);
}

void wrap_end_run(void)
{
    for (unsigned i = 0; i < blocks_count; i++) {
        REQUIRE(!blocks[i].used || blocks[i].freed, "memory has not been freed");
        if (blocks[i].out_of_bounds)
            mprotect(blocks[i].start, blocks[i].size, PROT_READ | PROT_WRITE);
        blocks[i].used = blocks[i].freed = blocks[i].out_of_bounds = false;
    }
    for (int fd = 0; fd < FDS_MAX && fds_closed > 0; fd++)
        if (fd_closed[fd]) {
            fd_closed[fd] = false;
            fds_closed--;
            __real_close(fd);
        }
}
