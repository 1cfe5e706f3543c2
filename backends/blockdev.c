/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Block devices.
 *
 * Happy path: reads, writes and flushes go to the ring. Zeroing goes there as fallocate() once that has been seen
 * to work; discards are an ioctl on a worker thread.
 * Failure modes: past the end: -ENOSPC. A zeroing that is not whole logical blocks, or that neither the device
 * nor the kernel carries out: -ENOTSUP, and the caller writes zeros. The device cannot discard: simply done.
 *
 * A device may grow while it is open (a logical volume that is extended): the size is looked up again before
 * something is refused for being past the end. It may also be cut: then b->peak remembers where it ended, since
 * what lay there must not be read as zeros (engine/loop/io.c).
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "backends/drivers.h"
#include "backends/host/fd.h"
#include "engine/base/bits.h"
#include "engine/base/error.h"
#include "engine/base/mutant.h"

struct limits {
    uint64_t discard_granularity;
    uint64_t discard_max;
    uint64_t write_zeroes_max;
};

/* A number from the device's queue folder, of a partition its disk's; 0 if there is none. */
static uint64_t read_limit(dev_t dev, const char *what)
{
    static const char *const folders[] = {"queue", "../queue"};
    uint64_t value = 0;
    bool found = false;
    char path[128];
    FILE *f;

    for (unsigned i = 0; i < ARRAY_LEN(folders) && !found; i++) {
        snprintf(path, sizeof path, "/sys/dev/block/%u:%u/%s/%s", major(dev), minor(dev), folders[i], what);
        f = fopen(path, "re");
        if (!f)
            continue;
        found = fscanf(f, "%" SCNu64, &value) == 1;
        fclose(f);
    }
    return found ? value : 0;
}

static struct limits read_limits(dev_t dev)
{
    return (struct limits){
        .discard_granularity = read_limit(dev, "discard_granularity"),
        .discard_max = read_limit(dev, "discard_max_bytes"),
        .write_zeroes_max = read_limit(dev, "write_zeroes_max_bytes"),
    };
}

static void raise_peak(struct backend *b, uint64_t size)
{
    uint64_t peak = atomic_load(&b->peak);

    while (peak < size && !atomic_compare_exchange_weak(&b->peak, &peak, size))
        ;
}

/* Look the size up again. 0 or -errno. */
static int update_size(struct fd_backend *f)
{
    uint64_t old, size;

    do { /* not what it was before somebody else looked */
        old = backend_size(&f->b);
        if (ioctl(f->fd, BLKGETSIZE64, &size) < 0)
            return -errno;
        raise_peak(&f->b, size);
    } while (!atomic_compare_exchange_strong(&f->b.size, &old, size));
    if (size != old)
        backend_tell_moved(&f->b);
    return 0;
}

static bool past_end(struct fd_backend *f, const struct io *io)
{
    uint64_t end;

    if (!add_u64(io->offset, io->len, &end))
        return true;
    return end > backend_size(&f->b) && (update_size(f) < 0 || end > backend_size(&f->b));
}

/* The same, of a device that may have been cut: the kernel zeroes what is left of a range, and calls it done. */
static bool past_end_now(struct fd_backend *f, const struct io *io)
{
    return (!ENGINE_MUTANT(CUT_ZEROED) && update_size(f) < 0) || past_end(f, io);
}

/* ---- blocking calls, on a worker thread -------------------------------------------------------------- */

static int block_ioctl(struct fd_backend *f, enum fd_call call, unsigned long request, uint64_t offset,
                       uint64_t len)
{
    uint64_t range[2] = {offset, len};

    if (fd_refused(f, call))
        return -ENOTSUP;
    return fd_learn(f, call, ioctl(f->fd, request, range) < 0 ? -errno : 0);
}

static int64_t blocking_discard(struct io *io)
{
    struct fd_backend *f = container_of(io->backend, struct fd_backend, b);
    uint64_t start = align_up(io->offset, f->b.discard_align);
    uint64_t end = align_down(io->offset + io->len, f->b.discard_align);
    int rc;

    if (start >= end)
        return 0;
    rc = block_ioctl(f, FD_DISCARD, BLKDISCARD, start, end - start);
    return rc == -ENOTSUP ? 0 : rc;
}

/* The kernel writes zeros itself where the device has no command for it, unless IO_NO_FALLBACK. */
static int64_t blocking_zero(struct io *io)
{
    struct fd_backend *f = container_of(io->backend, struct fd_backend, b);
    bool fast = f->b.caps & BACKEND_ZERO_FAST;
    int rc = -ENOTSUP;

    if (io->flags & IO_UNMAP && fast)
        rc = fd_fallocate(f, FD_PUNCH, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, io->offset, io->len);
    if (rc != -ENOTSUP || (!fast && io->flags & IO_NO_FALLBACK))
        return rc;
    rc = fd_fallocate(f, FD_ZERO, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, io->offset, io->len);
    return rc == -ENOTSUP ? block_ioctl(f, FD_ZEROOUT, BLKZEROOUT, io->offset, io->len) : rc;
}

/* ---- submit ------------------------------------------------------------------------------------------ */

static void submit_zero(struct fd_backend *f, struct io *io)
{
    bool fast = f->b.caps & BACKEND_ZERO_FAST;
    bool unmap = io->flags & IO_UNMAP && fast && !fd_refused(f, FD_PUNCH);
    int mode = unmap ? FALLOC_FL_PUNCH_HOLE : FALLOC_FL_ZERO_RANGE;

    if (past_end_now(f, io))
        io_end_later(io, -ENOSPC);
    else if (!is_aligned(io->offset | io->len, f->block_size) || (!fast && io->flags & IO_NO_FALLBACK))
        io_end_later(io, -ENOTSUP);
    else if (fd_works(f, unmap ? FD_PUNCH : FD_ZERO))
        ring_fallocate(io, f->fd, mode | FALLOC_FL_KEEP_SIZE);
    else
        ring_work(io, blocking_zero);
}

static void blockdev_submit(struct backend *b, struct io *io)
{
    struct fd_backend *f = container_of(b, struct fd_backend, b);

    switch ((enum io_kind)io->kind) {
    case IO_WRITE:
        if (unlikely(past_end(f, io))) {
            io_end_later(io, -ENOSPC);
            break;
        }
        fd_submit_basic(f, io);
        break;
    case IO_READ:
    case IO_FLUSH: fd_submit_basic(f, io); break;
    case IO_ZERO: submit_zero(f, io); break;
    case IO_DISCARD:
        if (past_end(f, io) || !(b->caps & BACKEND_DISCARD))
            io_end_later(io, 0);
        else
            ring_work(io, blocking_discard);
        break;
    case IO_STATUS: assert(!"it is not sparse"); break;
    case IO_ALLOCATE: io_end_later(io, past_end(f, io) ? -ENOSPC : -ENOTSUP); break;
    case IO_TRUNCATE: io_end_later(io, io->offset == backend_size(b) ? 0 : -ENOTSUP); break;
    }
}

/* ---- open -------------------------------------------------------------------------------------------- */

static bool blockdev_claims(const char *name)
{
    struct stat st;

    return fd_stat(backend_path(name), &st) == 0 && S_ISBLK(st.st_mode);
}

/* Sizes, alignment and what the device can. */
static int set_properties(struct fd_backend *f, dev_t dev)
{
    struct limits limits = read_limits(dev);
    int block_size = 0;
    int rc = update_size(f);

    if (rc < 0)
        return rc;
    if (ioctl(f->fd, BLKSSZGET, &block_size) < 0)
        return -errno;
    if (!is_power_of_two((uint64_t)block_size))
        return -EINVAL;
    f->block_size = (uint32_t)block_size;
    if (f->b.direct && f->b.align < (uint32_t)block_size)
        f->b.align = (uint32_t)block_size;
    f->b.max_transfer = (uint32_t)align_down(f->b.max_transfer, f->b.align);
    f->b.discard_align = (uint32_t)block_size;
    if (is_power_of_two(limits.discard_granularity) && limits.discard_granularity <= UINT32_C(1) << 30)
        f->b.discard_align = (uint32_t)max_u64(limits.discard_granularity, (uint64_t)block_size);
    if (limits.discard_max > 0)
        f->b.caps |= BACKEND_DISCARD;
    if (limits.write_zeroes_max > 0)
        f->b.caps |= BACKEND_ZERO_FAST;
    return 0;
}

static int blockdev_open(const char *name, const struct spec *options, uint32_t flags,
                         struct backend **ret_backend)
{
    struct fd_backend *f;
    struct stat st;
    int rc;

    /* A device that is to be overwritten must not be mounted, say. */
    rc = fd_backend_open(&blockdev_driver, name, options, flags, flags & BACKEND_CREATE ? O_EXCL : 0, &f, &st);
    if (rc < 0)
        return rc;
    if (!S_ISBLK(st.st_mode))
        return fd_backend_undo(f, err_set(EINVAL, "%s: not a block device", name));
    rc = set_properties(f, st.st_rdev);
    if (rc < 0)
        return fd_backend_undo(
            f, err_advise_host(err_set(rc, "%s: asking for the device's properties: %s", name, strerror(-rc))));
    *ret_backend = &f->b;
    return 0;
}

static int blockdev_refresh(struct backend *b)
{
    return update_size(container_of(b, struct fd_backend, b));
}

const struct backend_driver blockdev_driver = {
    .name = "host_device",
    .options = fd_options,
    .claims = blockdev_claims,
    .parse = fd_backend_parse,
    .identify = fd_backend_identify,
    .open = blockdev_open,
    .close = fd_backend_close,
    .submit = blockdev_submit,
    .prefetch = fd_backend_prefetch,
    .relock = fd_backend_relock,
    .refresh = blockdev_refresh,
};
