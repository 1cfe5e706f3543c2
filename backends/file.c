/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Regular files.
 *
 * Happy path: reads, writes and flushes go to the ring, and so does fallocate() once it has been seen to work and
 * the file's size stays. What must be learned, or changes the size, is a blocking call on a worker thread.
 * Failure modes: the file system has no such fallocate(): -ENOTSUP, remembered, and the caller writes zeros; a
 * discard is then simply done. Not a regular file: refused at open, with the text saying what it is. A file that
 * ends inside a block of direct I/O needs a second descriptor for that block: had at open, or open fails.
 *
 * Invariants.
 *  1. b->size follows the file: the engine raises it after writes, the blocking calls here raise or set it, and
 *     who finds that the file is shorter sets it back.
 *  2. Nothing but IO_TRUNCATE makes a file shorter: a zeroing past the end raises the size by fallocate(), never
 *     by ftruncate(), which could cut off what another queue writes behind it.
 *  3. Nothing is tried past the process's own limit for files: that would be answered with SIGXFSZ, which kills a
 *     process that does not expect it, and is its owner's to handle. It is -EFBIG here.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "backends/drivers.h"
#include "backends/host/fd.h"
#include "engine/base/bits.h"
#include "engine/base/error.h"
#include "engine/loop/status.h"

/* <linux/magic.h> has not all of them. */
#ifndef CIFS_SUPER_MAGIC
#define CIFS_SUPER_MAGIC 0xff534d42
#endif
#ifndef SMB2_SUPER_MAGIC
#define SMB2_SUPER_MAGIC 0xfe534d42
#endif
#define ZFS_SUPER_MAGIC  0x2fc12fc1

/* ---- blocking calls, on a worker thread -------------------------------------------------------------- */

static struct fd_backend *fd_backend_of(struct io *io)
{
    return container_of(io->backend, struct fd_backend, b);
}

/* Make the file end at `end` at least; one block at most gets allocated. */
static int extend(struct fd_backend *f, uint64_t end)
{
    int rc;

    if (backend_size(&f->b) >= end)
        return 0;
    rc = fd_fallocate(f, FD_ALLOCATE, 0, end - 1, 1);
    if (rc == 0)
        raise_size(&f->b, end);
    return rc;
}

/* What was data becomes a hole; what lies past the end becomes part of the file. */
static int zero_by_punch(struct fd_backend *f, uint64_t offset, uint64_t len)
{
    uint64_t n = backend_inside(&f->b, offset, len);
    int rc = 0;

    if (fd_refused(f, FD_PUNCH))
        return -ENOTSUP;
    if (n > 0)
        rc = fd_fallocate(f, FD_PUNCH, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, n);
    return rc < 0 ? rc : extend(f, offset + len);
}

static int zero_in_place(struct fd_backend *f, uint64_t offset, uint64_t len)
{
    int rc = fd_fallocate(f, FD_ZERO, FALLOC_FL_ZERO_RANGE, offset, len);

    if (rc == 0)
        raise_size(&f->b, offset + len);
    return rc;
}

/* Where there is no ZERO_RANGE (tmpfs): away with it, and space for it again. */
static int zero_by_punch_and_allocate(struct fd_backend *f, uint64_t offset, uint64_t len)
{
    int rc;

    if (fd_refused(f, FD_ALLOCATE))
        return -ENOTSUP;
    rc = zero_by_punch(f, offset, len);
    if (rc == 0)
        rc = fd_fallocate(f, FD_ALLOCATE, 0, offset, len);
    if (rc == 0)
        raise_size(&f->b, offset + len);
    return rc;
}

static int64_t blocking_zero(struct io *io)
{
    struct fd_backend *f = fd_backend_of(io);
    int rc = -ENOTSUP;

    if (io->flags & IO_UNMAP)
        rc = zero_by_punch(f, io->offset, io->len);
    if (rc == -ENOTSUP)
        rc = zero_in_place(f, io->offset, io->len);
    if (rc == -ENOTSUP)
        rc = zero_by_punch_and_allocate(f, io->offset, io->len);
    return rc;
}

static int64_t blocking_discard(struct io *io)
{
    struct fd_backend *f = fd_backend_of(io);
    uint64_t n = backend_inside(&f->b, io->offset, io->len);
    int rc;

    if (n == 0)
        return 0;
    rc = fd_fallocate(f, FD_PUNCH, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, io->offset, n);
    return rc == -ENOTSUP ? 0 : rc;
}

static int64_t blocking_allocate(struct io *io)
{
    struct fd_backend *f = fd_backend_of(io);
    int rc = fd_fallocate(f, FD_ALLOCATE, 0, io->offset, io->len);

    if (rc == 0)
        raise_size(&f->b, io->offset + io->len);
    return rc;
}

/* A change of size has failed, perhaps after having been done. What others have made of it since, they know. */
static void see_size(struct fd_backend *f, uint64_t before)
{
    struct stat st;

    if (fstat(f->fd, &st) == 0 && (uint64_t)st.st_size != before)
        atomic_compare_exchange_strong(&f->b.size, &before, (uint64_t)st.st_size);
}

static int64_t blocking_truncate(struct io *io)
{
    struct fd_backend *f = fd_backend_of(io);
    uint64_t before = backend_size(&f->b);
    int rc = 0;

    /* From now on it will be needed: better not to be had now than then. */
    if (!is_aligned(io->offset, f->b.align))
        rc = fd_prepare_exact(f);
    if (rc < 0)
        return rc;
    do
        rc = ftruncate(f->fd, (off_t)io->offset);
    while (rc < 0 && errno == EINTR);
    if (rc < 0) {
        rc = -errno;
        see_size(f, before);
        return rc;
    }
    atomic_store_explicit(&f->b.size, io->offset, memory_order_release);
    return 0;
}

/*
 * SEEK_DATA gives up by ENXIO where nothing but a hole follows. That alone would make zeros of all that is left:
 * it is believed when SEEK_HOLE does not find data there.
 */
static bool is_hole_to_end(int fd, uint64_t pos)
{
    off_t hole = lseek(fd, (off_t)pos, SEEK_HOLE);

    return hole < 0 ? errno == ENXIO : (uint64_t)hole == pos;
}

/* Data begins where a hole ends: two calls for both, and one more at the end. */
static int64_t blocking_status(struct io *io)
{
    int fd = fd_backend_of(io)->fd;
    struct block_status *s = io->status;
    uint64_t pos = io->offset, end = io->offset + io->len;

    while (pos < end && s->count < s->max) {
        off_t data = lseek(fd, (off_t)pos, SEEK_DATA);
        bool no_more = data < 0 && errno == ENXIO;
        if (data < 0 && !no_more && errno != EINVAL && errno != EOPNOTSUPP)
            return -errno;
        if (data < 0) { /* or the file system does not tell */
            status_add(s, end, no_more && is_hole_to_end(fd, pos));
            break;
        }
        if ((uint64_t)data > pos)
            status_add(s, min_u64((uint64_t)data, end), true);
        if ((uint64_t)data >= end || s->count == s->max)
            break;
        off_t hole = lseek(fd, data, SEEK_HOLE);
        pos = hole > data ? min_u64((uint64_t)hole, end) : end;
        status_add(s, pos, false);
    }
    return 0;
}

/* ---- submit ------------------------------------------------------------------------------------------ */

static void read_limit(struct fd_backend *f)
{
    struct rlimit r;
    bool known = getrlimit(RLIMIT_FSIZE, &r) == 0 && r.rlim_cur != RLIM_INFINITY;

    atomic_store_explicit(&f->limit, known ? r.rlim_cur : UINT64_MAX, memory_order_relaxed);
}

/* Invariant 3. What makes the file longer asks again: the limit may have changed. */
static bool past_limit(struct fd_backend *f, const struct io *io)
{
    uint64_t end, size = backend_size(&f->b);

    if (!add_u64(io->offset, io->len, &end))
        return true;
    if (likely(end <= size && end <= atomic_load_explicit(&f->limit, memory_order_relaxed)))
        return false;
    read_limit(f);
    return end > atomic_load_explicit(&f->limit, memory_order_relaxed) && (io->kind != IO_TRUNCATE || end > size);
}

static void submit_zero(struct fd_backend *f, struct io *io)
{
    bool unmap = io->flags & IO_UNMAP;
    enum fd_call call = unmap ? FD_PUNCH : FD_ZERO;
    int mode = unmap ? FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE : FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE;

    if (fd_works(f, call) && backend_inside(&f->b, io->offset, io->len) == io->len)
        ring_fallocate(io, f->fd, mode);
    else if (fd_refused(f, FD_ZERO) && fd_refused(f, FD_PUNCH))
        io_end_later(io, -ENOTSUP);
    else
        ring_work(io, blocking_zero);
}

static void submit_discard(struct fd_backend *f, struct io *io)
{
    if (fd_refused(f, FD_PUNCH))
        io_end_later(io, 0);
    else if (fd_works(f, FD_PUNCH) && backend_inside(&f->b, io->offset, io->len) == io->len)
        ring_fallocate(io, f->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE);
    else
        ring_work(io, blocking_discard);
}

static void file_submit(struct backend *b, struct io *io)
{
    struct fd_backend *f = container_of(b, struct fd_backend, b);
    bool makes_longer = io->kind == IO_WRITE || io->kind == IO_ZERO || io->kind == IO_ALLOCATE ||
                        io->kind == IO_TRUNCATE;

    if (makes_longer && unlikely(past_limit(f, io))) {
        io_end_later(io, -EFBIG);
        return;
    }
    switch ((enum io_kind)io->kind) {
    case IO_WRITE:
        if (unlikely(io->flags & IO_EXACT)) {
            fd_submit_exact(io);
            break;
        }
        fd_submit_basic(f, io);
        break;
    case IO_READ:
    case IO_FLUSH: fd_submit_basic(f, io); break;
    case IO_ZERO:
        if (unlikely(!(b->caps & BACKEND_DISCARD)))
            io->flags &= (uint8_t)~IO_UNMAP;
        submit_zero(f, io);
        break;
    case IO_DISCARD:
        if (unlikely(!(b->caps & BACKEND_DISCARD)))
            io_end_later(io, 0);
        else
            submit_discard(f, io);
        break;
    case IO_ALLOCATE: ring_work(io, blocking_allocate); break;
    case IO_TRUNCATE: ring_work(io, blocking_truncate); break;
    case IO_STATUS: ring_work(io, blocking_status); break;
    }
}

/* ---- open and the rest ------------------------------------------------------------------------------- */

static const char *kind_of_file(mode_t mode)
{
    if (S_ISDIR(mode))
        return "a directory";
    if (S_ISCHR(mode))
        return "a character device";
    if (S_ISFIFO(mode))
        return "a pipe";
    if (S_ISSOCK(mode))
        return "a socket";
    return "not a regular file";
}

/* Before open(), which is not without effect on some devices. What is not there is open()'s to say. */
static int check_kind(const char *name, const char *path)
{
    struct stat st;

    if (fd_stat(path, &st) < 0 || S_ISREG(st.st_mode))
        return 0;
    err_set(EINVAL, "%s: %s", name, kind_of_file(st.st_mode));
    return err_hint(-EINVAL, "a volume is a regular file or a block device");
}

/* A raw volume of such a length is written to inside its last block. (Less than a sector never is.) */
static int prepare_end(struct fd_backend *f)
{
    int rc;

    if (f->b.read_only || is_aligned(align_up(backend_size(&f->b), 512), f->b.align))
        return 0;
    rc = fd_prepare_exact(f);
    if (rc < 0)
        err_set(rc, "%s: opening it again without O_DIRECT: %s", f->b.name, strerror(-rc));
    return rc == -EMFILE ? err_hint(rc, "raise the limit of open files (ulimit -n)") : rc;
}

static int file_open(const char *name, const struct spec *options, uint32_t flags, struct backend **ret_backend)
{
    struct fd_backend *f;
    struct stat st;
    int rc = check_kind(name, spec_text(options, "filename"));

    if (rc < 0)
        return rc;
    rc = fd_backend_open(&file_driver, name, options, flags, flags & BACKEND_CREATE ? O_CREAT : 0, &f, &st);
    if (rc < 0)
        return rc;
    if (!S_ISREG(st.st_mode))
        return fd_backend_undo(f, err_set(EINVAL, "%s: %s", name, kind_of_file(st.st_mode)));
    f->b.caps = BACKEND_GROWS | BACKEND_ZERO_NEW | BACKEND_ZERO_FAST | BACKEND_DISCARD | BACKEND_SPARSE;
    f->b.discard_align = is_power_of_two((uint64_t)st.st_blksize) ? (uint32_t)st.st_blksize : 4096;
    atomic_init(&f->b.size, (uint64_t)st.st_size);
    read_limit(f);
    rc = prepare_end(f);
    if (rc < 0)
        return fd_backend_undo(f, rc);
    *ret_backend = &f->b;
    return 0;
}

static bool file_claims(const char *name)
{
    return true;
}

/*
 * Has somebody else cut the file? (What others add to it is not ours.) Whoever writes meanwhile moves the end
 * behind what he has written after that is in the file: so it is looked at once more when the end has gone back.
 */
static int file_refresh(struct backend *b)
{
    int fd = container_of(b, struct fd_backend, b)->fd;
    uint64_t size;
    struct stat st;

    do {
        size = backend_size(b);
        if (fstat(fd, &st) < 0)
            return -errno;
        if ((uint64_t)st.st_size >= size)
            return 0;
    } while (!atomic_compare_exchange_strong(&b->size, &size, (uint64_t)st.st_size));
    if (fstat(fd, &st) == 0)
        raise_size(b, (uint64_t)st.st_size);
    backend_tell_moved(b);
    return 0;
}

static uint64_t file_allocated(struct backend *b)
{
    struct stat st;

    if (fstat(container_of(b, struct fd_backend, b)->fd, &st) < 0)
        return backend_size(b);
    return (uint64_t)st.st_blocks * 512;
}

/* One call, whole: the file system writes back what `from` has in the page cache first. */
static int file_clone(struct backend *b, struct backend *from)
{
    struct fd_backend *f = container_of(b, struct fd_backend, b), *g = container_of(from, struct fd_backend, b);
    uint64_t end = backend_size(from);
    int rc;

    assert(from->driver == b->driver && !b->read_only && end <= backend_size(b));
    read_limit(f);
    if (end > atomic_load_explicit(&f->limit, memory_order_relaxed)) /* invariant 3 */
        return -EFBIG;
    do
        rc = ioctl(f->fd, FICLONE, g->fd);
    while (rc < 0 && errno == EINTR);
    return rc < 0 ? -errno : 0;
}

/* File systems of which a server, or whoever is behind them, copies; others have the kernel read and write. */
static bool copies_elsewhere(int fd)
{
    struct statfs st;

    if (fstatfs(fd, &st) < 0)
        return false;
    switch ((uint32_t)st.f_type) {
    case NFS_SUPER_MAGIC: case CEPH_SUPER_MAGIC: case FUSE_SUPER_MAGIC:
    case CIFS_SUPER_MAGIC: case SMB2_SUPER_MAGIC: case ZFS_SUPER_MAGIC: return true;
    default: return false;
    }
}

static int64_t copy_by_host(int to, uint64_t offset, int from, uint64_t from_offset, uint64_t len)
{
    off_t in = (off_t)from_offset, out = (off_t)offset;
    uint64_t left = len;

    while (left > 0) {
        ssize_t n = copy_file_range(from, &in, to, &out, left, 0);
        if (n < 0 && errno != EINTR)
            return -errno;
        if (n == 0)
            break;
        left -= n > 0 ? (uint64_t)n : 0;
    }
    return (int64_t)(len - left);
}

/* Both look at the page cache first. */
static int64_t file_copy_range(struct backend *b, uint64_t offset, struct backend *from, uint64_t from_offset,
                               uint64_t len, bool cheap)
{
    struct fd_backend *f = container_of(b, struct fd_backend, b), *g = container_of(from, struct fd_backend, b);
    const struct file_clone_range range = {.src_fd = g->fd, .src_offset = from_offset, .src_length = len,
                                           .dest_offset = offset};
    int rc;

    assert(from->driver == b->driver && !b->read_only && len > 0 && len <= INT64_MAX);
    read_limit(f);
    if (offset + len > atomic_load_explicit(&f->limit, memory_order_relaxed)) /* invariant 3 */
        return -EFBIG;
    do
        rc = ioctl(f->fd, FICLONERANGE, &range);
    while (rc < 0 && errno == EINTR);
    if (rc == 0)
        return (int64_t)len;
    rc = -errno;
    return cheap && !copies_elsewhere(f->fd) ? rc : copy_by_host(f->fd, offset, g->fd, from_offset, len);
}

/* What is kept for root counts for root only. File systems that count nothing say 0 blocks. */
static bool file_room(struct backend *b, uint64_t *ret_bytes)
{
    struct statvfs st;

    if (fstatvfs(container_of(b, struct fd_backend, b)->fd, &st) < 0 || st.f_blocks == 0)
        return false;
    return mul_u64(geteuid() == 0 ? st.f_bfree : st.f_bavail, st.f_frsize, ret_bytes);
}

const struct backend_driver file_driver = {
    .name = "file",
    .options = fd_options,
    .claims = file_claims,
    .parse = fd_backend_parse,
    .identify = fd_backend_identify,
    .open = file_open,
    .close = fd_backend_close,
    .submit = file_submit,
    .allocated = file_allocated,
    .prefetch = fd_backend_prefetch,
    .relock = fd_backend_relock,
    .refresh = file_refresh,
    .room = file_room,
    .clone = file_clone,
    .copy_range = file_copy_range,
    .unlink = fd_backend_unlink,
};
