/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the NBD client calls of the system: the linker sends it here (--wrap in meson.build). Descriptors that are
 * lines of a simulated machine are answered by it, and so are the clock and the client's thread, while there is
 * one; all else goes on to the kernel. Memory is counted.
 */
#undef NDEBUG
#include <assert.h>
#include <errno.h>
#include <jansson.h>
#include <time.h>
#include <unistd.h>

#include "tests/nbd/both.h"

int __real_socket(int family, int type, int protocol);
int __real_connect(int fd, const struct sockaddr *to, socklen_t len);
int __real_setsockopt(int fd, int level, int name, const void *value, socklen_t len);
int __real_getsockopt(int fd, int level, int name, void *value, socklen_t *len);
int __real_poll(struct pollfd *fds, nfds_t n, int timeout);
ssize_t __real_send(int fd, const void *buf, size_t len, int flags);
ssize_t __real_recv(int fd, void *buf, size_t len, int flags);
int __real_shutdown(int fd, int how);
int __real_close(int fd);
int __real_clock_gettime(clockid_t clock, struct timespec *ret);
int __real_clock_nanosleep(clockid_t clock, int flags, const struct timespec *t, struct timespec *left);
int __real_pthread_create(pthread_t *id, const pthread_attr_t *attr, void *(*start)(void *), void *arg);
int __real_pthread_join(pthread_t id, void **ret);
int __real_vdisk_queue_fd(vdisk_queue *q);
void *__real_malloc(size_t size);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t size);
void *__real_aligned_alloc(size_t align, size_t size);
int __real_posix_memalign(void **ret, size_t align, size_t size);
char *__real_strdup(const char *text);
char *__real_json_dumps(const json_t *json, size_t flags);
char *__real_realpath(const char *path, char *ret);
void __real_free(void *p);

int __wrap_socket(int family, int type, int protocol);
int __wrap_connect(int fd, const struct sockaddr *to, socklen_t len);
int __wrap_setsockopt(int fd, int level, int name, const void *value, socklen_t len);
int __wrap_getsockopt(int fd, int level, int name, void *value, socklen_t *len);
int __wrap_poll(struct pollfd *fds, nfds_t n, int timeout);
ssize_t __wrap_send(int fd, const void *buf, size_t len, int flags);
ssize_t __wrap_recv(int fd, void *buf, size_t len, int flags);
int __wrap_shutdown(int fd, int how);
int __wrap_close(int fd);
int __wrap_clock_gettime(clockid_t clock, struct timespec *ret);
int __wrap_clock_nanosleep(clockid_t clock, int flags, const struct timespec *t, struct timespec *left);
int __wrap_pthread_create(pthread_t *id, const pthread_attr_t *attr, void *(*start)(void *), void *arg);
int __wrap_pthread_join(pthread_t id, void **ret);
int __wrap_vdisk_queue_fd(vdisk_queue *q);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *p, size_t size);
void *__wrap_aligned_alloc(size_t align, size_t size);
int __wrap_posix_memalign(void **ret, size_t align, size_t size);
char *__wrap_strdup(const char *text);
char *__wrap_json_dumps(const json_t *json, size_t flags);
char *__wrap_realpath(const char *path, char *ret);
void __wrap_free(void *p);

_Atomic long both_blocks;

static ssize_t answer(ssize_t rc)
{
    if (rc < 0)
        errno = (int)-rc;
    return rc < 0 ? -1 : rc;
}

/* ---- sockets --------------------------------------------------------------------------------------------- */

int __wrap_socket(int family, int type, int protocol)
{
    return both_now ? both_socket(both_now) : __real_socket(family, type, protocol);
}

int __wrap_connect(int fd, const struct sockaddr *to, socklen_t len)
{
    return fd < BOTH_FD ? __real_connect(fd, to, len) : (int)answer(both_connect(both_line_of(fd)));
}

int __wrap_setsockopt(int fd, int level, int name, const void *value, socklen_t len)
{
    return fd < BOTH_FD ? __real_setsockopt(fd, level, name, value, len) : 0;
}

int __wrap_getsockopt(int fd, int level, int name, void *value, socklen_t *len)
{
    assert(fd < BOTH_FD); /* a connection is made at once, or not */
    return __real_getsockopt(fd, level, name, value, len);
}

ssize_t __wrap_send(int fd, const void *buf, size_t len, int flags)
{
    const struct iovec iov = {(void *)(uintptr_t)buf, len};

    return fd < BOTH_FD ? __real_send(fd, buf, len, flags) : answer(both_send(both_line_of(fd), &iov, 1));
}

ssize_t __wrap_recv(int fd, void *buf, size_t len, int flags)
{
    const struct iovec iov = {buf, len};

    return fd < BOTH_FD ? __real_recv(fd, buf, len, flags) : answer(both_receive(both_line_of(fd), &iov, 1));
}

int __wrap_shutdown(int fd, int how)
{
    if (fd < BOTH_FD)
        return __real_shutdown(fd, how);
    both_shut(both_line_of(fd), false);
    return 0;
}

int __wrap_close(int fd)
{
    if (fd < BOTH_FD)
        return __real_close(fd);
    both_shut(both_line_of(fd), true);
    return 0;
}

int __wrap_poll(struct pollfd *fds, nfds_t n, int timeout)
{
    if (!both_now || n != 1 || fds->fd < BOTH_FD)
        return __real_poll(fds, n, timeout);
    assert(timeout >= 0);
    if (timeout > 0)
        both_wait(both_now, fds->fd, fds->events, both_ns(both_now) + (uint64_t)timeout * 1000000);
    fds->revents = both_events(both_line_of(fds->fd), fds->events);
    return fds->revents != 0;
}

/* ---- time and threads ------------------------------------------------------------------------------------- */

int __wrap_clock_gettime(clockid_t clock, struct timespec *ret)
{
    if (!both_now || clock != CLOCK_MONOTONIC)
        return __real_clock_gettime(clock, ret);
    *ret = (struct timespec){(time_t)(both_ns(both_now) / 1000000000), (long)(both_ns(both_now) % 1000000000)};
    return 0;
}

int __wrap_clock_nanosleep(clockid_t clock, int flags, const struct timespec *t, struct timespec *left)
{
    if (!both_now)
        return __real_clock_nanosleep(clock, flags, t, left);
    assert(clock == CLOCK_MONOTONIC && flags == 0);
    both_wait(both_now, -1, 0, both_ns(both_now) + (uint64_t)t->tv_sec * 1000000000 + (uint64_t)t->tv_nsec);
    return 0;
}

/* The client's thread does nothing but turn its queue, which the machine does with all queues. */
int __wrap_pthread_create(pthread_t *id, const pthread_attr_t *attr, void *(*start)(void *), void *arg)
{
    if (!both_now)
        return __real_pthread_create(id, attr, start, arg);
    assert(!both_now->thread);
    both_now->thread = start;
    both_now->thread_arg = arg;
    *id = pthread_self();
    return 0;
}

int __wrap_pthread_join(pthread_t id, void **ret)
{
    void *(*thread)(void *) = both_now ? both_now->thread : NULL;

    if (!thread)
        return __real_pthread_join(id, ret);
    both_now->thread = NULL;
    thread(both_now->thread_arg); /* until it ends */
    return 0;
}

/* The server's thread looks at its queue itself: both.c. */
int __wrap_vdisk_queue_fd(vdisk_queue *q)
{
    return both_now ? BOTH_FD - 1 : __real_vdisk_queue_fd(q);
}

/* ---- memory ----------------------------------------------------------------------------------------------- */

static void *counted(void *p)
{
    both_blocks += p != NULL;
    return p;
}

void *__wrap_malloc(size_t size)
{
    return counted(__real_malloc(size));
}

void *__wrap_calloc(size_t n, size_t size)
{
    return counted(__real_calloc(n, size));
}

void *__wrap_realloc(void *p, size_t size)
{
    return p ? __real_realloc(p, size) : counted(__real_realloc(p, size));
}

void *__wrap_aligned_alloc(size_t align, size_t size)
{
    return counted(__real_aligned_alloc(align, size));
}

int __wrap_posix_memalign(void **ret, size_t align, size_t size)
{
    int rc = __real_posix_memalign(ret, align, size);

    both_blocks += rc == 0;
    return rc;
}

char *__wrap_strdup(const char *text)
{
    return counted(__real_strdup(text));
}

char *__wrap_json_dumps(const json_t *json, size_t flags)
{
    return counted(__real_json_dumps(json, flags));
}

char *__wrap_realpath(const char *path, char *ret)
{
    return ret ? __real_realpath(path, ret) : counted(__real_realpath(path, NULL));
}

void __wrap_free(void *p)
{
    both_blocks -= p != NULL;
    __real_free(p);
}
