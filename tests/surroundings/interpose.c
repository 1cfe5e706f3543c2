/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * For LD_PRELOAD: the host's calls are counted, and one of them fails.
 *
 *     SURROUND_FAIL=ftruncate,2,27      the second ftruncate() fails with errno 27 and does nothing
 *     SURROUND_FAIL=ftruncate,2,27,done the same, after having been carried out
 *     SURROUND_COUNT=FILE               at the end: a line "NAME CALLS" for each
 *     SURROUND_NO_RING=1                io_uring is refused: all I/O is made by calls, too
 *
 * "ring_read" and so on are requests of a ring: they are sent, and complete with the errno (Linux 6.10 or later).
 *
 * What concerns /proc, /sys and libraries is not counted.
 */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/uio.h>
#include <sys/vfs.h>
#include <unistd.h>

enum call {
    OPEN, LOCK, SETFL, STAT, FSTAT, LSTAT, STATX, FSTATVFS, FSTATFS, FTRUNCATE, FALLOCATE, FDATASYNC, UNLINK,
    LSEEK, IOCTL, COPY_RANGE, MMAP, EVENTFD, RING_INIT, RING_REGISTER, RING_ENTER, THREAD, READ, WRITE, READLINK,
    RING_READ, RING_WRITE, RING_FSYNC, RING_FALLOCATE, RING_POLL, FSYNC, RENAME, CALLS,
};

static const char *const names[CALLS] = {
    "open", "lock", "setfl", "stat", "fstat", "lstat", "statx", "fstatvfs", "fstatfs", "ftruncate", "fallocate",
    "fdatasync", "unlink", "lseek", "ioctl", "copy_range", "mmap", "eventfd", "ring_init", "ring_register",
    "ring_enter", "thread", "read", "write", "readlink", "ring_read", "ring_write", "ring_fsync",
    "ring_fallocate", "ring_poll", "fsync", "rename",
};

static _Atomic unsigned counts[CALLS];
static int fail_call = -1, fail_errno;
static unsigned fail_nth;
static bool fail_done, no_ring;

__attribute__((constructor)) static void begin(void)
{
    const char *what = getenv("SURROUND_FAIL");
    char name[32], when[8] = "";

    no_ring = getenv("SURROUND_NO_RING") != NULL;
    if (!what || sscanf(what, "%31[^,],%u,%d,%7s", name, &fail_nth, &fail_errno, when) < 3)
        return;
    fail_done = strcmp(when, "done") == 0;
    for (int i = 0; i < CALLS; i++)
        if (strcmp(names[i], name) == 0)
            fail_call = i;
}

__attribute__((destructor)) static void end(void)
{
    const char *file = getenv("SURROUND_COUNT");
    FILE *f = file ? fopen(file, "we") : NULL;

    if (!f)
        return;
    for (int i = 0; i < CALLS; i++)
        if (counts[i] > 0)
            fprintf(f, "%s %u\n", names[i], counts[i]);
    fclose(f);
}

/* Count it; true: it is the one that fails. */
static bool fails(enum call call)
{
    return atomic_fetch_add(&counts[call], 1) + 1 == fail_nth && (int)call == fail_call;
}

static void *real(const char *name)
{
    void *f = dlsym(RTLD_NEXT, name);

    if (!f) {
        fprintf(stderr, "interpose: no %s\n", name);
        abort();
    }
    return f;
}

#define REAL(name) ((__typeof__(&name))real(#name))

/* `made` is the call itself. */
#define OR_FAIL(call, made)                                                                                    \
    do {                                                                                                       \
        if (!fails(call))                                                                                      \
            return made;                                                                                       \
        if (fail_done)                                                                                         \
            (void)made;                                                                                        \
        errno = fail_errno;                                                                                    \
        return -1;                                                                                             \
    } while (0)

static bool counts_for(const char *path)
{
    static const char *const others[] = {"/proc/", "/sys/", "/lib", "/usr/", "/etc/"};

    for (unsigned i = 0; i < sizeof others / sizeof others[0]; i++)
        if (strncmp(path, others[i], strlen(others[i])) == 0)
            return false;
    return true;
}

int open64(const char *path, int how, ...)
{
    va_list ap;
    mode_t mode = 0;

    if (how & O_CREAT) {
        va_start(ap, how);
        mode = va_arg(ap, mode_t);
        va_end(ap);
    }
    if (!counts_for(path))
        return REAL(open64)(path, how, mode);
    /* Never "done": a descriptor that nobody has would keep the file locked. */
    if (!fails(OPEN))
        return REAL(open64)(path, how, mode);
    errno = fail_errno;
    return -1;
}

int fcntl64(int fd, int cmd, ...)
{
    va_list ap;
    void *arg;

    va_start(ap, cmd);
    arg = va_arg(ap, void *);
    va_end(ap);
    if (cmd == F_OFD_SETLK || cmd == F_OFD_GETLK)
        OR_FAIL(LOCK, REAL(fcntl64)(fd, cmd, arg));
    if (cmd == F_SETFL || cmd == F_GETFL)
        OR_FAIL(SETFL, REAL(fcntl64)(fd, cmd, arg));
    return REAL(fcntl64)(fd, cmd, arg);
}

int stat64(const char *path, struct stat64 *st)
{
    if (!counts_for(path))
        return REAL(stat64)(path, st);
    OR_FAIL(STAT, REAL(stat64)(path, st));
}

int lstat64(const char *path, struct stat64 *st)
{
    OR_FAIL(LSTAT, REAL(lstat64)(path, st));
}

int fstat64(int fd, struct stat64 *st)
{
    OR_FAIL(FSTAT, REAL(fstat64)(fd, st));
}

int statx(int fd, const char *restrict path, int flags, unsigned mask, struct statx *restrict st)
{
    OR_FAIL(STATX, REAL(statx)(fd, path, flags, mask, st));
}

int fstatvfs64(int fd, struct statvfs64 *st)
{
    OR_FAIL(FSTATVFS, REAL(fstatvfs64)(fd, st));
}

int fstatfs64(int fd, struct statfs64 *st)
{
    OR_FAIL(FSTATFS, REAL(fstatfs64)(fd, st));
}

int ftruncate64(int fd, off64_t len)
{
    OR_FAIL(FTRUNCATE, REAL(ftruncate64)(fd, len));
}

int fallocate64(int fd, int mode, off64_t offset, off64_t len)
{
    OR_FAIL(FALLOCATE, REAL(fallocate64)(fd, mode, offset, len));
}

int fdatasync(int fd)
{
    OR_FAIL(FDATASYNC, REAL(fdatasync)(fd));
}

int fsync(int fd)
{
    OR_FAIL(FSYNC, REAL(fsync)(fd));
}

int rename(const char *from, const char *to)
{
    OR_FAIL(RENAME, REAL(rename)(from, to));
}

int unlink(const char *path)
{
    OR_FAIL(UNLINK, REAL(unlink)(path));
}

off64_t lseek64(int fd, off64_t offset, int whence)
{
    OR_FAIL(LSEEK, REAL(lseek64)(fd, offset, whence));
}

ssize_t readlink(const char *path, char *buf, size_t len)
{
    if (!counts_for(path))
        return REAL(readlink)(path, buf, len);
    OR_FAIL(READLINK, REAL(readlink)(path, buf, len));
}

int ioctl(int fd, unsigned long request, ...)
{
    va_list ap;
    void *arg;

    va_start(ap, request);
    arg = va_arg(ap, void *);
    va_end(ap);
    if (fd <= 2)
        return REAL(ioctl)(fd, request, arg);
    OR_FAIL(IOCTL, REAL(ioctl)(fd, request, arg));
}

ssize_t copy_file_range(int from, off64_t *in, int to, off64_t *out, size_t len, unsigned flags)
{
    OR_FAIL(COPY_RANGE, REAL(copy_file_range)(from, in, to, out, len, flags));
}

void *mmap64(void *at, size_t len, int prot, int flags, int fd, off64_t offset)
{
    if (!fails(MMAP))
        return REAL(mmap64)(at, len, prot, flags, fd, offset);
    errno = fail_errno;
    return MAP_FAILED;
}

int eventfd(unsigned value, int flags)
{
    if (!fails(EVENTFD))
        return REAL(eventfd)(value, flags);
    errno = fail_errno;
    return -1;
}

int io_uring_queue_init_params(unsigned entries, struct io_uring *ring, struct io_uring_params *p)
{
    if (no_ring)
        return -EPERM;
    return fails(RING_INIT) ? -fail_errno : REAL(io_uring_queue_init_params)(entries, ring, p);
}

int io_uring_register(unsigned fd, unsigned opcode, const void *arg, unsigned n)
{
    return fails(RING_REGISTER) ? -fail_errno : REAL(io_uring_register)(fd, opcode, arg, n);
}

int io_uring_enter2(unsigned fd, unsigned to_submit, unsigned min, unsigned flags, sigset_t *sig, size_t sz)
{
    return fails(RING_ENTER) ? -fail_errno : REAL(io_uring_enter2)(fd, to_submit, min, flags, sig, sz);
}

/* ---- requests of rings: what fails is sent as one that does nothing and completes as it is told -------- */

enum { INJECT_RESULT = 1 }; /* IORING_NOP_INJECT_RESULT, which older headers do not have */

static const struct {
    enum io_uring_op op;
    enum call call;
} requests[] = {
    {IORING_OP_READ, RING_READ},        {IORING_OP_READV, RING_READ},     {IORING_OP_READ_FIXED, RING_READ},
    {IORING_OP_WRITE, RING_WRITE},      {IORING_OP_WRITEV, RING_WRITE},   {IORING_OP_WRITE_FIXED, RING_WRITE},
    {IORING_OP_FSYNC, RING_FSYNC},      {IORING_OP_POLL_ADD, RING_POLL},
    {IORING_OP_FALLOCATE, RING_FALLOCATE},
};

static int call_of(const struct io_uring_sqe *sqe)
{
    for (unsigned i = 0; i < sizeof requests / sizeof requests[0]; i++)
        if (requests[i].op == sqe->opcode)
            return (int)requests[i].call;
    return -1;
}

static void look_at(struct io_uring_sqe *sqe)
{
    int call = call_of(sqe);

    if (call < 0 || !fails((enum call)call))
        return;
    sqe->opcode = IORING_OP_NOP;
    sqe->flags &= IOSQE_IO_LINK | IOSQE_IO_HARDLINK | IOSQE_IO_DRAIN;
    sqe->fd = -1;
    sqe->off = sqe->addr = 0;
    sqe->ioprio = 0;
    sqe->buf_index = 0;
    sqe->len = (unsigned)-fail_errno;
    sqe->rw_flags = INJECT_RESULT;
}

/* Each request once: what is new since the last call. */
static struct io_uring *seen(struct io_uring *ring)
{
    for (unsigned at = ring->sq.sqe_head; at != ring->sq.sqe_tail; at++)
        look_at(&ring->sq.sqes[at & *ring->sq.kring_mask]);
    return ring;
}

int io_uring_submit(struct io_uring *ring)
{
    return REAL(io_uring_submit)(seen(ring));
}

int io_uring_submit_and_get_events(struct io_uring *ring)
{
    return REAL(io_uring_submit_and_get_events)(seen(ring));
}

int io_uring_submit_and_wait(struct io_uring *ring, unsigned n)
{
    return REAL(io_uring_submit_and_wait)(seen(ring), n);
}

int io_uring_submit_and_wait_timeout(struct io_uring *ring, struct io_uring_cqe **cqe, unsigned n,
                                     struct __kernel_timespec *ts, sigset_t *sig)
{
    return REAL(io_uring_submit_and_wait_timeout)(seen(ring), cqe, n, ts, sig);
}

int pthread_create(pthread_t *restrict t, const pthread_attr_t *restrict attr, void *(*run)(void *),
                   void *restrict arg)
{
    return fails(THREAD) ? fail_errno : REAL(pthread_create)(t, attr, run, arg);
}

/* The queue's calls, where io_uring is refused. */
ssize_t preadv64(int fd, const struct iovec *iov, int n, off64_t offset)
{
    OR_FAIL(READ, REAL(preadv64)(fd, iov, n, offset));
}

ssize_t pwritev64v2(int fd, const struct iovec *iov, int n, off64_t offset, int flags)
{
    OR_FAIL(WRITE, REAL(pwritev64v2)(fd, iov, n, offset, flags));
}
