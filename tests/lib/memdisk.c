/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tests/lib/memdisk.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "backends/memory.h"
#include "engine/base/bits.h"
#include "tests/lib/test.h"

enum { PIECE = 1 << 20 };

static void init(struct memdisk *d, const struct memory_options *options)
{
    memset(d, 0, sizeof *d);
    d->align = options->align;
    CHECK_OK(memory_backend_create_with("memdisk", options, &d->keeper));
}

void memdisk_init(struct memdisk *d, uint32_t align)
{
    init(d, &(struct memory_options){.align = align});
}

void memdisk_init_fixed(struct memdisk *d, uint32_t align, uint64_t size)
{
    init(d, &(struct memory_options){.align = align, .size = size, .fixed = true});
}

uint64_t memdisk_occupied(struct memdisk *d)
{
    return d->keeper->driver->allocated(d->keeper);
}

void memdisk_set_space(struct memdisk *d, uint64_t bytes)
{
    memory_backend_set_space(d->keeper, bytes);
}

void memdisk_finish(struct memdisk *d)
{
    backend_close(d->keeper);
    d->keeper = NULL;
}

struct backend *memdisk_open(struct memdisk *d, bool read_only)
{
    struct backend *b;

    CHECK_OK(memory_backend_share(d->keeper, &b));
    b->read_only = read_only;
    if (d->max_transfer)
        b->max_transfer = d->max_transfer;
    if (d->max_iov)
        b->max_iov = d->max_iov;
    return b;
}

uint64_t memdisk_size(struct memdisk *d)
{
    struct backend *b = memdisk_open(d, true); /* the keeper's own size stays behind */
    uint64_t size = backend_size(b);

    backend_close(b);
    return size;
}

void memdisk_read(struct memdisk *d, uint64_t offset, void *buf, uint64_t len)
{
    memory_backend_read(d->keeper, offset, buf, len);
}

void memdisk_write(struct memdisk *d, uint64_t offset, const void *buf, uint64_t len)
{
    CHECK_OK(memory_backend_write(d->keeper, offset, buf, len));
}

void memdisk_clone(struct memdisk *to, struct memdisk *from)
{
    *to = *from;
    CHECK_OK(memory_backend_clone(from->keeper, &to->keeper));
}

void memdisk_save(struct memdisk *d, const char *path)
{
    struct backend *b = memdisk_open(d, true);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    uint64_t size = backend_size(b);
    uint8_t *buf = test_alloc(PIECE);

    CHECK_MSG(fd >= 0 && ftruncate(fd, (off_t)size) == 0, "%s: cannot be written", path);
    for (uint64_t at = 0, n; at < size; at += n) {
        bool hole;
        n = memory_backend_run(b, at, size - at, &hole);
        CHECK(n > 0 && n <= size - at);
        if (hole)
            continue;
        n = min_u64(n, PIECE);
        memory_backend_read(b, at, buf, n);
        CHECK(pwrite(fd, buf, n, (off_t)at) == (ssize_t)n);
    }
    close(fd);
    free(buf);
    backend_close(b);
}

void memdisk_load(struct memdisk *d, const char *path, uint32_t align)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    uint8_t *buf = test_alloc(PIECE);
    uint64_t at = 0;
    ssize_t n;

    CHECK_MSG(fd >= 0, "%s: cannot be read", path);
    memdisk_init(d, align);
    while ((n = read(fd, buf, PIECE)) > 0) {
        memdisk_write(d, at, buf, (uint64_t)n);
        at += (uint64_t)n;
    }
    CHECK(n == 0);
    close(fd);
    free(buf);
}
