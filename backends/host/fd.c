/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Opening with direct I/O.
 *
 * Happy path: open with O_DIRECT; lock; ask the kernel for the alignment (statx), or try which one a read passes
 * with.
 * Happy path, exact write (one that ends inside a block, and the file with it): through a second descriptor
 * without O_DIRECT, and out of the page cache before it ends, so that direct I/O never meets dirty pages.
 * Happy path, the caller has given a descriptor (engine/loop/given.h): a duplicate of it is used as it is.
 * Failure modes: O_DIRECT is refused by open, by statx or by all reads, or worth nothing (btrfs): go on through
 * the page cache. No second descriptor can be had: the exact write fails, and the file is as it was. A descriptor
 * that cannot be used as it is: refused.
 */
#include "backends/host/fd.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

#include <linux/fs.h>
#include <linux/kcmp.h>
#include <linux/magic.h>

#include "engine/base/bits.h"
#include "engine/base/error.h"
#include "engine/base/mem.h"
#include "engine/loop/given.h"
#include "engine/spec/option.h"

enum { DIRECT_ALIGN_MAX = 65536, DIRECT_ALIGN_GUESS = 4096, LINK_HOPS = 40, RACE_TRIES = 8 };
enum { LEASE_TRIES = 2500, LEASE_PAUSE_NS = 20 * 1000 * 1000 };

#ifndef STATX_DIOALIGN
#define STATX_DIOALIGN 0x00002000U
#endif

/* stx_dio_mem_align and stx_dio_offset_align: two 32-bit words here, also where the headers do not know them. */
enum { STATX_DIO_WORD = 0x98 };

/* What statx() says: 1 and the alignments, 0: no direct I/O on this file, -1: it does not say. */
static int direct_by_statx(int fd, uint32_t *ret_align, uint32_t *ret_mem_align)
{
    uint32_t dio[2];
    union {
        struct statx stx;
        char         bytes[256];
    } u;

    _Static_assert(sizeof u.stx == sizeof u.bytes, "the kernel's struct statx");
    memset(&u, 0, sizeof u);
    if (statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &u.stx) < 0 || !(u.stx.stx_mask & STATX_DIOALIGN))
        return -1;
    memcpy(dio, u.bytes + STATX_DIO_WORD, sizeof dio);
    if (dio[1] == 0)
        return 0;
    if (!is_power_of_two(dio[0]) || !is_power_of_two(dio[1]) || dio[0] > DIRECT_ALIGN_MAX ||
        dio[1] > DIRECT_ALIGN_MAX)
        return -1;
    *ret_align = dio[1];
    *ret_mem_align = dio[0];
    return 1;
}

/* Does a read of this length, at this offset of a buffer aligned to DIRECT_ALIGN_MAX, pass? */
static bool read_passes(int fd, char *buf, size_t len, size_t mem_offset)
{
    ssize_t n;

    do
        n = pread(fd, buf + mem_offset, len, 0);
    while (n < 0 && errno == EINTR);
    return n >= 0 || errno != EINVAL; /* a bad sector says nothing about alignment */
}

/* Find out by reading. 1 and the alignments, or 0: no read passes. */
static int direct_by_trial(int fd, uint64_t size, uint32_t *ret_align, uint32_t *ret_mem_align)
{
    char *buf;
    int found = 0;

    /* Reads that start at the end pass with any alignment. */
    *ret_align = *ret_mem_align = DIRECT_ALIGN_GUESS;
    if (size == 0)
        return 1;
    if (mem_memalign((void **)&buf, DIRECT_ALIGN_MAX, 2 * DIRECT_ALIGN_MAX) != 0)
        return 1;
    for (uint32_t align = 512; align <= DIRECT_ALIGN_MAX && !found; align *= 2) {
        found = read_passes(fd, buf, align, 0);
        *ret_align = align;
    }
    for (uint32_t align = 512; found && align <= *ret_align; align *= 2) {
        *ret_mem_align = align;
        if (read_passes(fd, buf, *ret_align, align))
            break;
    }
    mem_free(buf);
    return found;
}

/*
 * btrfs keeps a checksum of each block. Memory that a guest changes while it is written or read makes one that
 * does not fit: the data cannot be read any more, the read fails. So since Linux 6.15 it makes direct writes
 * through the page cache after all, and waits for each, one at a time. Files without checksums (chattr +C) are
 * spared that; what is not made of whole blocks is never direct, though accepted.
 *
 * 1 and the alignments, 0: no direct I/O, -1: another file system.
 */
static int direct_on_btrfs(int fd, uint32_t *ret_align, uint32_t *ret_mem_align)
{
    int flags = 0; /* not a long, whatever the header says */
    struct statfs fs;

    if (fstatfs(fd, &fs) < 0 || fs.f_type != BTRFS_SUPER_MAGIC)
        return -1;
    if (ioctl(fd, FS_IOC_GETFLAGS, &flags) < 0 || !(flags & FS_NOCOW_FL) || !is_power_of_two((uint64_t)fs.f_bsize))
        return 0;
    *ret_align = *ret_mem_align = (uint32_t)fs.f_bsize;
    return 1;
}

/* Set align, mem_align and direct of what has been opened with O_DIRECT; turn it off if it does not work. */
static int probe_direct(struct fd_backend *f, uint64_t size)
{
    uint32_t align = 1, mem_align = 1;
    int rc = direct_on_btrfs(f->fd, &align, &mem_align);
    int fl;

    if (rc < 0)
        rc = direct_by_statx(f->fd, &align, &mem_align);
    if (rc < 0)
        rc = direct_by_trial(f->fd, size, &align, &mem_align);
    if (rc == 0) {
        fl = fcntl(f->fd, F_GETFL);
        if (fl < 0 || fcntl(f->fd, F_SETFL, fl & ~O_DIRECT) < 0)
            return -errno;
        return 0;
    }
    f->b.direct = true;
    f->b.align = align;
    f->b.mem_align = mem_align;
    return 0;
}

static int open_failed(const char *name, uint32_t flags, int err)
{
    bool writes = flags & (BACKEND_RDWR | BACKEND_CREATE);

    err_set(err, "%s: %s", name, strerror(err));
    if (err == EROFS || (err == EACCES && writes && !(flags & BACKEND_CREATE)))
        return err_hint(-err, "open it read-only, or make it writable");
    if (err == ENOENT && flags & BACKEND_CREATE)
        return err_hint(-err, "make the directory first");
    if (err == ENOSPC || err == EDQUOT)
        return err_hint(-ENOSPC, "free space in that file system, or raise the quota");
    if (err == EWOULDBLOCK)
        return err_hint(-err, "another program has a lease on it and does not give it back");
    if (err == ELOOP)
        return err_hint(-err, "a symbolic link leads to itself");
    return err_advise_host(-err);
}

/*
 * open(), without waiting for the other end, should it have become a pipe. What then says EWOULDBLOCK has a lease
 * (a file server's), which is being broken: that takes the holder a while, 45 s at most.
 */
static int open_once(const char *path, int how)
{
    int fd;

    for (unsigned tries = 0;; tries++) {
        fd = open(path, how | O_NONBLOCK, 0644);
        if (fd >= 0)
            return fd;
        if (errno == EINTR)
            continue;
        if (errno != EWOULDBLOCK || tries == LEASE_TRIES)
            return -errno;
        nanosleep(&(struct timespec){.tv_nsec = LEASE_PAUSE_NS}, NULL);
    }
}

static int open_there(const char *path, int how, bool *direct)
{
    int fd = open_once(path, how | (*direct ? O_DIRECT : 0));

    if (fd == -EINVAL && *direct) {
        *direct = false;
        fd = open_once(path, how);
    }
    return fd;
}

/* Where the link `path` leads, malloc'ed; NULL: it is none. */
static char *follow_link(const char *path)
{
    const char *slash = strrchr(path, '/');
    char target[PATH_MAX], *next;
    ssize_t n = readlink(path, target, sizeof target - 1);

    if (n <= 0)
        return NULL;
    target[n] = '\0';
    if (target[0] == '/' || !slash)
        return mem_strdup(target);
    return mem_asprintf(&next, "%.*s/%s", (int)(slash - path), path, target) < 0 ? NULL : next;
}

/*
 * A new file, or -EEXIST: somebody else has made it. Links to nothing are followed: the file is made where they
 * lead. *ret_made is its name. Without O_DIRECT, since some kernels make the file and then refuse that.
 */
static int make_new(const char *path, int how, char **ret_made)
{
    char *name = mem_strdup(path);
    int fd = -ENOMEM;

    for (unsigned hops = 0; name && hops < LINK_HOPS; hops++) {
        fd = open_once(name, how | O_CREAT | O_EXCL);
        if (fd >= 0) {
            *ret_made = name;
            return fd;
        }
        char *next = fd == -EEXIST ? follow_link(name) : NULL;
        if (!next)
            break;
        mem_free(name);
        name = next;
        fd = -ELOOP;
    }
    mem_free(name);
    return fd;
}

/* The descriptor as I/O needs it: it waits, and is direct if it can. */
static int settle(int fd, bool made, bool *direct)
{
    int fl = fcntl(fd, F_GETFL);

    if (fl < 0)
        return -errno;
    fl &= ~O_NONBLOCK;
    if (made && *direct && fcntl(fd, F_SETFL, fl | O_DIRECT) == 0)
        return 0;
    *direct = *direct && !made;
    return fcntl(fd, F_SETFL, fl) < 0 ? -errno : 0;
}

/* open(), with O_DIRECT unless it is not wanted or refused. */
static int open_fd(struct fd_backend *f, const char *path, uint32_t flags, int extra, bool *ret_direct)
{
    int how = flags & (BACKEND_RDWR | BACKEND_CREATE) ? O_RDWR : O_RDONLY;
    int fd = -EEXIST;

    how |= (extra & ~O_CREAT) | O_CLOEXEC | O_NOCTTY;
    *ret_direct = !(flags & BACKEND_BUFFERED);
    for (unsigned tries = 0; tries < RACE_TRIES; tries++) {
        fd = open_there(path, how, ret_direct);
        if (fd != -ENOENT || !(extra & O_CREAT))
            break;
        fd = make_new(path, how, &f->made);
        if (fd != -EEXIST)
            break;
    }
    if (fd < 0)
        return fd;
    f->fd = fd;
    f->b.made = f->made != NULL;
    return settle(fd, f->b.made, ret_direct);
}

/* ---- descriptors of the caller's ----------------------------------------------------------------------- */

/*
 * Locks belong to what open() made, which all duplicates of a descriptor share: who closes one of two volumes on
 * it would unlock it for both, and neither keeps the other out. So one at a time.
 */
static pthread_mutex_t given_lock = PTHREAD_MUTEX_INITIALIZER;
static struct list given_list = {&given_list, &given_list};

static bool is_same_open(int a, int b)
{
    pid_t self = getpid();

    return syscall(SYS_kcmp, self, self, KCMP_FILE, a, b) == 0;
}

static int enter_given(struct fd_backend *f)
{
    bool in_use = false;

    pthread_mutex_lock(&given_lock);
    for (struct list *n = given_list.next; n != &given_list; n = n->next)
        in_use |= is_same_open(container_of(n, struct fd_backend, given_node)->fd, f->fd);
    if (!in_use)
        list_add_tail(&given_list, &f->given_node);
    f->given = !in_use;
    pthread_mutex_unlock(&given_lock);
    return in_use ? err_hint(err_set(EAGAIN, "%s: its descriptor is in use by another handle of this process",
                                     f->b.name), "open the file once more for each handle") : 0;
}

static void leave_given(struct fd_backend *f)
{
    if (!f->given)
        return;
    pthread_mutex_lock(&given_lock);
    list_del(&f->given_node);
    pthread_mutex_unlock(&given_lock);
}

/* With text. */
static int use_given(struct fd_backend *f, int given, uint32_t flags, bool *ret_direct)
{
    const char *name = f->b.name;
    int fl = fcntl(given, F_GETFL);

    if (fl < 0 || fl & O_PATH)
        return err_set(EBADF, "%s: descriptor %d is not open, or for its path only", name, given);
    if ((fl & O_ACCMODE) == O_WRONLY || (flags & BACKEND_RDWR && (fl & O_ACCMODE) != O_RDWR))
        return err_hint(err_set(EACCES, "%s: descriptor %d is open for %s only", name, given,
                                (fl & O_ACCMODE) == O_WRONLY ? "writing" : "reading"),
                        "open it for reading and writing");
    if (fl & O_APPEND && flags & BACKEND_RDWR)
        return err_set(EINVAL, "%s: descriptor %d is open for appending", name, given);
    f->fd = fcntl(given, F_DUPFD_CLOEXEC, 3);
    if (f->fd < 0)
        return err_advise_host(err_set(errno, "%s: descriptor %d: %s", name, given, strerror(errno)));
    *ret_direct = fl & O_DIRECT;
    return enter_given(f);
}

int fd_stat(const char *path, struct stat *ret)
{
    int given = given_find(path);

    return given >= 0 ? fstat(given, ret) : stat(path, ret);
}

/* The file at `path`, by whichever way; with text. */
static int get_fd(struct fd_backend *f, const char *path, uint32_t flags, int extra, bool *ret_direct)
{
    int given = flags & BACKEND_CREATE ? -1 : given_find(path), rc;

    if (given >= 0)
        return use_given(f, given, flags, ret_direct);
    rc = open_fd(f, path, flags, extra, ret_direct);
    return rc < 0 ? open_failed(f->b.name, flags, -rc) : 0;
}

/* A file's size; a device has one to try reads in. */
static uint64_t size_for_trial(const struct stat *st)
{
    return S_ISBLK(st->st_mode) ? UINT64_MAX : (uint64_t)st->st_size;
}

/* A device is known by its number, whichever node it was opened by. */
static struct backend_id identity(const struct stat *st)
{
    if (S_ISBLK(st->st_mode))
        return (struct backend_id){.device = st->st_rdev};
    return (struct backend_id){.device = st->st_dev, .node = st->st_ino};
}

static const char *const lockings[] = {"auto", "on", "off", NULL};
static const char *const aios[] = {"threads", "native", "io_uring", NULL};

const struct option_desc fd_options[] = {
    {"filename", OPTION_TEXT, true, NULL, "path of the file or device", NULL},
    {"locking", OPTION_CHOICE, false, "auto", "off: no image locks, the caller guards the file", lockings},
    {"aio", OPTION_CHOICE, false, NULL, "accepted: the queue decides how I/O is made", aios},
    {"aio-max-batch", OPTION_SIZE, false, NULL, "accepted: the same", NULL},
    {"drop-cache", OPTION_BOOL, false, NULL, "accepted: nobody else writes to it meanwhile", NULL},
    {NULL, OPTION_TEXT, false, NULL, NULL, NULL},
};

int fd_backend_parse(const char *name, struct spec *options)
{
    return spec_put(options, "filename", SPEC_TEXT, backend_path(name));
}

static bool identify_path(const char *path, struct backend_id *ret_id)
{
    struct stat st;

    if (fd_stat(path, &st) < 0)
        return false;
    *ret_id = identity(&st);
    return true;
}

bool fd_backend_identify(const struct spec *options, struct backend_id *ret_id)
{
    return identify_path(spec_text(options, "filename"), ret_id);
}

/*
 * The locks would go with the file, but closing is not its end: a ring lets go of the files of its requests some
 * time after it has completed them.
 */
static void unlock_and_close(struct fd_backend *f)
{
    int exact = atomic_load(&f->exact_fd);

    if (exact >= 0)
        close(exact);
    if (f->fd >= 0) {
        image_lock_drop(&f->lock, f->fd);
        leave_given(f);
        close(f->fd);
    }
    mem_free(f->made);
    pthread_mutex_destroy(&f->sync_lock);
}

int fd_backend_unlink(struct backend *b)
{
    struct fd_backend *f = container_of(b, struct fd_backend, b);
    struct stat ours, named;

    if (!f->made)
        return 0;
    if (fstat(f->fd, &ours) < 0)
        return -errno;
    if (lstat(f->made, &named) < 0)
        return errno == ENOENT ? 0 : -errno;
    if (ours.st_ino != named.st_ino || ours.st_dev != named.st_dev)
        return 0;
    return unlink(f->made) < 0 ? -errno : 0;
}

static uint32_t lock_flags(const struct fd_backend *f, uint32_t flags)
{
    return f->unlocked ? flags | BACKEND_NO_LOCK : flags;
}

int fd_backend_undo(struct fd_backend *f, int rc)
{
    int unlinked = f->made ? fd_backend_unlink(&f->b) : 0;

    if (unlinked < 0)
        err_append("; removing %s: %s", f->made, strerror(-unlinked));
    unlock_and_close(f);
    backend_free(&f->b);
    return rc;
}

int fd_backend_open(const struct backend_driver *driver, const char *name, const struct spec *options,
                    uint32_t flags, int extra, struct fd_backend **ret, struct stat *ret_stat)
{
    struct fd_backend *f = backend_alloc(driver, name, sizeof *f);
    bool direct = false;
    int rc;

    if (!f)
        return err_set(ENOMEM, "%s: out of memory", name);
    f->fd = -1;
    atomic_init(&f->exact_fd, -1);
    pthread_mutex_init(&f->sync_lock, NULL);
    rc = get_fd(f, spec_text(options, "filename"), flags, extra, &direct);
    if (rc < 0)
        return fd_backend_undo(f, rc);
    f->unlocked = option_is(options, "locking", "off");
    rc = image_lock_set(&f->lock, f->fd, name, lock_flags(f, flags));
    if (rc < 0)
        return fd_backend_undo(f, rc);
    if (fstat(f->fd, ret_stat) < 0)
        return fd_backend_undo(f, err_advise_host(err_set(errno, "%s: %s", name, strerror(errno))));
    f->b.id = identity(ret_stat);
    rc = direct ? probe_direct(f, size_for_trial(ret_stat)) : 0;
    if (rc < 0)
        return fd_backend_undo(
            f, err_advise_host(err_set(rc, "%s: turning direct I/O off: %s", name, strerror(-rc))));
    f->b.read_only = !(flags & (BACKEND_RDWR | BACKEND_CREATE));
    f->b.max_transfer = (uint32_t)align_down(f->b.max_transfer, f->b.align);
    f->b.cached = !f->b.direct;
    f->unsafe = flags & BACKEND_UNSAFE;
    *ret = f;
    return 0;
}

void fd_backend_close(struct backend *b)
{
    unlock_and_close(container_of(b, struct fd_backend, b));
}

void fd_backend_prefetch(struct backend *b, uint64_t offset, uint64_t len)
{
    struct fd_backend *f = container_of(b, struct fd_backend, b);

    posix_fadvise(f->fd, (off_t)offset, (off_t)min_u64(len, INT64_MAX - offset), POSIX_FADV_WILLNEED);
}

int fd_backend_relock(struct backend *b, uint32_t flags)
{
    struct fd_backend *f = container_of(b, struct fd_backend, b);

    return image_lock_set(&f->lock, f->fd, b->name, lock_flags(f, flags));
}

/* ---- exact writes -------------------------------------------------------------------------------------- */

/* By its name where there is no /proc, if that still means the same file. */
static int open_again(struct fd_backend *f)
{
    struct backend_id id = {0};
    char path[64];
    int fd;

    snprintf(path, sizeof path, "/proc/self/fd/%d", f->fd);
    fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd >= 0 || errno != ENOENT)
        return fd < 0 ? -errno : fd;
    if (!identify_path(backend_path(f->b.name), &id) || !backend_is(&f->b, &id))
        return -ENOENT;
    fd = open(backend_path(f->b.name), O_RDWR | O_CLOEXEC | O_NOCTTY);
    return fd < 0 ? -errno : fd;
}

int fd_prepare_exact(struct fd_backend *f)
{
    int none = -1, fd;

    if (atomic_load(&f->exact_fd) >= 0)
        return 0;
    fd = open_again(f);
    if (fd < 0)
        return fd;
    if (!atomic_compare_exchange_strong(&f->exact_fd, &none, fd))
        close(fd);
    return 0;
}

/* Dirty pages would make direct reads (btrfs) and writes (XFS) next to them fail with EIO, on Linux 6.18. */
static int64_t blocking_exact(struct io *io)
{
    struct fd_backend *f = container_of(io->backend, struct fd_backend, b);
    struct iovec left = io->iov[0];
    uint64_t offset = io->offset;
    int rc = fd_prepare_exact(f);
    ssize_t n = 0;

    while (rc == 0 && left.iov_len > 0) {
        n = pwritev2(atomic_load(&f->exact_fd), &left, 1, (off_t)offset, RWF_DSYNC);
        if (n < 0 && errno != EINTR)
            rc = -errno;
        if (n == 0)
            rc = -ENOSPC;
        if (n > 0) {
            left.iov_base = (char *)left.iov_base + n;
            left.iov_len -= (size_t)n;
            offset += (uint64_t)n;
        }
    }
    return rc < 0 ? rc : (int64_t)io->len;
}

void fd_submit_exact(struct io *io)
{
    assert(io->kind == IO_WRITE && io->iovcnt == 1 && io->moved == 0);
    ring_work(io, blocking_exact);
}

/* ---- the page cache ------------------------------------------------------------------------------------ */

/*
 * A page that could not be written is told of once, to one caller, and then it is clean: the next sync says 0, and
 * its content is gone. So the first failure is kept, for all flushes to come, until the file is opened anew. One
 * sync at a time: of two that run at once the other would be told that all is well. For the same reason no write
 * with RWF_DSYNC: its error may be that of other pages, which the sync after it no longer hears of.
 */
static int64_t blocking_sync(struct io *io)
{
    struct fd_backend *f = container_of(io->backend, struct fd_backend, b);
    int rc;

    pthread_mutex_lock(&f->sync_lock);
    rc = atomic_load_explicit(&f->b.sync_failed, memory_order_relaxed);
    if (rc == 0) {
        while ((rc = fdatasync(f->fd)) < 0 && errno == EINTR)
            ;
        rc = rc < 0 ? -errno : 0;
        atomic_store_explicit(&f->b.sync_failed, rc, memory_order_relaxed);
    }
    pthread_mutex_unlock(&f->sync_lock);
    return rc;
}

/* ---- what goes to the ring ----------------------------------------------------------------------------- */

void fd_submit_basic(struct fd_backend *f, struct io *io)
{
    if (likely(io->kind != IO_FLUSH)) {
        assert(io->kind == IO_READ || io->kind == IO_WRITE);
        if (unlikely(f->unsafe))
            io->flags &= (uint8_t)~IO_FUA;
        ring_rw(io, f->fd);
    } else if (f->unsafe) {
        io_end_later(io, 0);
    } else if (f->b.cached) {
        ring_work(io, blocking_sync);
    } else {
        ring_fsync(io, f->fd);
    }
}

int fd_learn(struct fd_backend *f, enum fd_call call, int rc)
{
    if (rc == -EOPNOTSUPP || rc == -ENOSYS || rc == -ENOTTY) {
        atomic_fetch_or(&f->refused, call);
        if (call == FD_PUNCH || call == FD_DISCARD)
            atomic_store(&f->b.no_discards, true);
        return -ENOTSUP;
    }
    if (rc == 0 && !fd_works(f, call))
        atomic_fetch_or(&f->works, call);
    return rc;
}

int fd_fallocate(struct fd_backend *f, enum fd_call call, int mode, uint64_t offset, uint64_t len)
{
    int rc;

    if (fd_refused(f, call))
        return -ENOTSUP;
    do
        rc = fallocate(f->fd, mode, (off_t)offset, (off_t)len);
    while (rc < 0 && errno == EINTR);
    return fd_learn(f, call, rc < 0 ? -errno : 0);
}
