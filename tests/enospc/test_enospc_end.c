/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A device whose end moves while a read is on its way. The read was carried out at the old end, and is judged
 * when others know of the new one. What came is read; what has been cut off is an error; neither is taken for
 * the other.
 */
#undef NDEBUG
#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#include "engine/backend.h"
#include "engine/base/bits.h"
#include "engine/base/iov.h"
#include "engine/volume.h"
#include "tests/lib/image.h"
#include "tests/lib/test.h"

enum { MOST = 1 << 20, BLOCK = 4096, SECTOR = 512, FILL = 7 };

/* What is told of it under a read, after that has been carried out and before it ends. */
enum told { TOLD_NOBODY, TOLD_PEAK, TOLD_ALL };

/* It has been written with FILL as far as it can ever reach, so that zeros that are made up are seen. */
struct device {
    struct backend   b;
    uint8_t          bytes[MOST];
    _Atomic uint64_t has;      /* where it ends now */
    uint64_t         step;     /* it is extended so far under a read that comes short; 0: no more */
    enum told        told;
    bool             reads_none; /* whatever it has */
    unsigned         reads, moves;
};

static void raise_peak(struct device *d, uint64_t size)
{
    uint64_t peak = atomic_load(&d->b.peak);

    while (peak < size && !atomic_compare_exchange_weak(&d->b.peak, &peak, size))
        ;
}

/* As the look at a block device: first how far it has ever been, then how far it is. */
static int device_refresh(struct backend *b)
{
    struct device *d = container_of(b, struct device, b);
    uint64_t old, size;

    do {
        old = backend_size(b);
        size = atomic_load(&d->has);
        raise_peak(d, size);
    } while (!atomic_compare_exchange_strong(&b->size, &old, size));
    if (size != old)
        backend_tell_moved(b);
    return 0;
}

static void extend_under_read(struct device *d)
{
    uint64_t has = min_u64(atomic_load(&d->has) + d->step, MOST);

    atomic_store(&d->has, has);
    d->moves++;
    if (d->told == TOLD_PEAK)
        raise_peak(d, has);
    else if (d->told == TOLD_ALL)
        device_refresh(&d->b);
}

static int64_t read_device(struct device *d, struct io *io)
{
    uint64_t at = io->offset + io->moved, has = atomic_load(&d->has);
    uint64_t n = at < has && !d->reads_none ? min_u64(io->len - io->moved, has - at) : 0;

    assert(is_aligned(at, d->b.align));
    d->reads++;
    iov_from(io->iov, io->iovcnt, io->moved, d->bytes + min_u64(at, MOST), n);
    if (d->step > 0 && n < io->len - io->moved)
        extend_under_read(d);
    return (int64_t)n;
}

static int64_t write_device(struct device *d, struct io *io)
{
    if (io->offset + io->len > atomic_load(&d->has))
        return -ENOSPC;
    iov_to(io->iov, io->iovcnt, io->moved, d->bytes + io->offset + io->moved, io->len - io->moved);
    return (int64_t)(io->len - io->moved);
}

static void device_submit(struct backend *b, struct io *io)
{
    struct device *d = container_of(b, struct device, b);
    int64_t res = 0;

    switch ((enum io_kind)io->kind) {
    case IO_READ: res = read_device(d, io); break;
    case IO_WRITE: res = write_device(d, io); break;
    case IO_ZERO:
    case IO_ALLOCATE: res = -ENOTSUP; break;
    case IO_TRUNCATE: res = io->offset == backend_size(b) ? 0 : -ENOTSUP; break;
    case IO_DISCARD:
    case IO_FLUSH: break;
    case IO_STATUS: assert(!"it is not sparse");
    }
    io_end_later(io, res);
}

static void device_close(struct backend *b)
{
}

static const struct backend_driver driver = {
    .name = "device", .close = device_close, .submit = device_submit, .refresh = device_refresh};

static struct device *make_device(uint32_t align, uint64_t has)
{
    struct device *d = backend_alloc(&driver, "device", sizeof *d);

    CHECK(d);
    d->b.align = d->b.mem_align = d->b.discard_align = align;
    memset(d->bytes, FILL, sizeof d->bytes);
    atomic_init(&d->has, has);
    device_refresh(&d->b);
    return d;
}

static bool all_are(const uint8_t *p, uint64_t n, uint8_t byte)
{
    for (uint64_t i = 0; i < n; i++)
        if (p[i] != byte)
            return false;
    return true;
}

/* The second block of a device that ends before it, or in it. */
static int read_second(struct device *d, uint8_t *buf)
{
    vdisk_queue *q;
    int rc;

    CHECK_OK(vdisk_queue_create(NULL, &q));
    memset(buf, 1, BLOCK);
    rc = io_pread(q, &d->b, buf, BLOCK, BLOCK);
    CHECK_OK(vdisk_queue_destroy(q));
    return rc;
}

static void test_extended(void)
{
    uint8_t *buf = vdisk_alloc_buffer(BLOCK);

    for (enum told told = TOLD_PEAK; told <= TOLD_ALL; told++) {
        struct device *d = make_device(BLOCK, BLOCK);
        d->step = BLOCK;
        d->told = told;
        CHECK_OK(read_second(d, buf));
        CHECK_INT(d->reads, 2);
        CHECK(all_are(buf, BLOCK, FILL));
        CHECK_INT(backend_size(&d->b), 2 * BLOCK);
        backend_close(&d->b);
    }
    free(buf);
}

/* As it was when it was read. */
static void test_untold(void)
{
    struct device *d = make_device(BLOCK, BLOCK + SECTOR);
    uint8_t *buf = vdisk_alloc_buffer(BLOCK);

    d->step = BLOCK;
    CHECK_OK(read_second(d, buf));
    CHECK_INT(d->reads, 1);
    CHECK(all_are(buf, SECTOR, FILL) && all_are(buf + SECTOR, BLOCK - SECTOR, 0));
    free(buf);
    backend_close(&d->b);
}

/* Again and again, within the block. */
static void test_sector_by_sector(void)
{
    struct device *d = make_device(BLOCK, BLOCK);
    uint8_t *buf = vdisk_alloc_buffer(BLOCK);

    d->step = SECTOR;
    d->told = TOLD_ALL;
    CHECK_OK(read_second(d, buf));
    CHECK_INT(d->reads, BLOCK / SECTOR + 1);
    CHECK(all_are(buf, BLOCK, FILL));
    free(buf);
    backend_close(&d->b);
}

static void test_cut(void)
{
    struct device *d = make_device(BLOCK, 2 * BLOCK);
    uint8_t *buf = vdisk_alloc_buffer(BLOCK);

    atomic_store(&d->has, BLOCK + SECTOR);
    for (unsigned i = 0; i < 2; i++) { /* when that is not known, and when it is */
        CHECK_INT(read_second(d, buf), -EIO);
        CHECK_INT(d->reads, i + 1);
        CHECK_INT(backend_size(&d->b), BLOCK + SECTOR);
    }
    free(buf);
    backend_close(&d->b);
}

/* A size that no read bears out: it is not asked for ever. */
static void test_no_end(void)
{
    struct device *d = make_device(BLOCK, 2 * BLOCK);
    uint8_t *buf = vdisk_alloc_buffer(BLOCK);

    d->reads_none = true;
    CHECK_INT(read_second(d, buf), -EIO);
    CHECK(d->reads > BLOCK / SECTOR && d->reads < 100);
    free(buf);
    backend_close(&d->b);
}

/* A few bytes, in the block that the device ends in: what came behind them is kept. */
static void test_ragged_write(void)
{
    struct device *d = make_device(BLOCK, BLOCK + SECTOR);
    uint8_t bytes[100];
    vdisk_queue *q;

    d->step = BLOCK - SECTOR;
    d->told = TOLD_ALL;
    memset(bytes, 9, sizeof bytes);
    CHECK_OK(vdisk_queue_create(NULL, &q));
    CHECK_OK(io_pwrite(q, &d->b, bytes, sizeof bytes, BLOCK + 50));
    CHECK_INT(d->moves, 1);
    CHECK(all_are(d->bytes, BLOCK + 50, FILL) && all_are(d->bytes + BLOCK + 50, sizeof bytes, 9));
    CHECK(all_are(d->bytes + BLOCK + 150, MOST - BLOCK - 150, FILL));
    CHECK_OK(vdisk_queue_destroy(q));
    backend_close(&d->b);
}

/* ---- a thin volume ------------------------------------------------------------------------------------------ */

enum { CLUSTER = 1024, GUEST = 200 * CLUSTER, PIECE = 700, APART = 1000 };

static void on_wish(void *arg, vdisk *v, const struct vdisk_wish *wish)
{
    struct device *d = arg;

    CHECK(wish->wanted <= MOST);
    for (uint64_t has = atomic_load(&d->has); has < wish->wanted;)
        if (atomic_compare_exchange_weak(&d->has, &has, wish->wanted))
            break;
    CHECK_OK(vdisk_grown(wish->number, 0));
}

static struct device *make_image(void)
{
    struct device *d = make_device(BLOCK, 4 * CLUSTER);
    struct image_spec spec;
    int rc;

    image_default(&spec, "end", GUEST);
    spec.cluster_size = CLUSTER;
    while ((rc = image_create_on(&spec, &d->b)) == -ENOSPC) {
        atomic_fetch_add(&d->has, SECTOR);
        device_refresh(&d->b);
    }
    CHECK_OK(rc);
    return d;
}

/* Ends of blocks, clusters and the device are all in different places. */
static void test_volume(void)
{
    struct vdisk_open_opts opts = {.size = sizeof opts, .flags = VDISK_OPEN_RDWR, .format = "qcow2",
                                   .cache_bytes = 1};
    struct vdisk_grower_opts grower = {.size = sizeof grower, .retry_ms = 1, .ahead_ms = 1, .chunk = SECTOR,
                                       .least_free = 1};
    uint8_t *model = calloc(1, GUEST), *got = calloc(1, GUEST);
    struct device *d = make_image();
    vdisk *v;

    CHECK(model && got);
    CHECK_OK(vdisk_open_backend(&d->b, &opts, &v));
    CHECK_OK(vdisk_set_grower(v, on_wish, d, &grower));
    d->step = SECTOR;
    d->told = TOLD_ALL;
    for (uint64_t at = 0; at + PIECE <= GUEST; at += APART) {
        memset(model + at, (int)(1 + at % 255), PIECE);
        CHECK_OK(vdisk_pwrite(v, model + at, PIECE, at, 0));
        CHECK_OK(vdisk_pread(v, got, PIECE, at));
        CHECK(memcmp(got, model + at, PIECE) == 0);
    }
    CHECK(d->moves > 10); /* it has been what it is about */
    CHECK_OK(vdisk_pread(v, got, GUEST, 0));
    CHECK(test_difference(got, model, GUEST) == UINT64_MAX);
    CHECK_OK(vdisk_set_grower(v, NULL, NULL, NULL));
    CHECK_OK(vdisk_close(v));
    free(model);
    free(got);
}

int main(int argc, char **argv)
{
    static const struct test_case cases[] = {
        {.name = "extended", .run = test_extended},
        {.name = "untold", .run = test_untold},
        {.name = "sector_by_sector", .run = test_sector_by_sector},
        {.name = "cut", .run = test_cut},
        {.name = "no_end", .run = test_no_end},
        {.name = "ragged_write", .run = test_ragged_write},
        {.name = "volume", .run = test_volume},
    };

    return test_main(argc, argv, cases, ARRAY_LEN(cases));
}
