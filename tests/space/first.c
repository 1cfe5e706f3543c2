/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The first allocation after opening an image in which all is in use reads little, however long the image is; what
 * was free below is found later, and before anything is refused. What has just been written as zeros is not read
 * back, and what has been searched not searched again.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

#include "backends/lab/fault.h"
#include "engine/base/bits.h"
#include "engine/volume.h"
#include "tests/lib/memdisk.h"
#include "tests/space/ours.h"

#define GIB(n) ((uint64_t)(n) << 30)

enum { READS_MAX = 64, WRITES_MAX = 128, FLUSHES_MAX = 12, NEW_TABLES = 32, ROOM = 256 << 20, HOLE = 64 << 20 };

/* All guest clusters have host clusters; the last GiB has none. */
static void make(struct memdisk *d, struct image_spec *spec, uint64_t device)
{
    struct backend *b;
    vdisk *v;

    image_default(spec, "first", GIB(256));
    spec->preallocation = VDISK_PREALLOC_METADATA;
    if (device)
        memdisk_init_fixed(d, 512, device);
    else
        memdisk_init(d, 512);
    b = memdisk_open(d, false);
    CHECK_OK(image_create_on(spec, b));
    CHECK_OK(vdisk_open_backend(memdisk_open(d, false),
                                &(struct vdisk_open_opts){.size = sizeof(struct vdisk_open_opts),
                                                          .flags = VDISK_OPEN_RDWR, .format = "qcow2"}, &v));
    backend_close(b);
    CHECK_OK(vdisk_grow(v, spec->size + GIB(1)));
    CHECK_OK(vdisk_close(v));
}

static vdisk *open_counted(struct memdisk *d, struct backend **ret_fault)
{
    struct vdisk_open_opts opts = {.size = sizeof opts, .flags = VDISK_OPEN_RDWR, .format = "qcow2"};
    vdisk *v;

    CHECK_OK(fault_backend_create(memdisk_open(d, false), ret_fault));
    CHECK_OK(vdisk_open_backend(*ret_fault, &opts, &v));
    return v;
}

static void write_first(uint64_t device)
{
    struct image_spec spec;
    struct backend *fault;
    struct memdisk d;
    uint64_t before, reads;
    vdisk *v;

    make(&d, &spec, device);
    v = open_counted(&d, &fault);
    before = fault_calls(fault, IO_READ);
    fill(v, spec.size, 4096, 0x55);
    reads = fault_calls(fault, IO_READ) - before;
    CHECK_MSG(reads > 0 && reads <= READS_MAX, "%" PRIu64 " reads for the first allocation", reads);
    CHECK_OK(vdisk_close(v));
    memdisk_finish(&d);
}

static void test_first_in_file(void)
{
    write_first(0);
}

static void test_first_on_device(void)
{
    write_first(GIB(258));
}

/* Until nothing fits any more: where that is. */
static uint64_t fill_up(vdisk *v, uint64_t from)
{
    static char buf[1 << 20];
    int rc;

    while ((rc = vdisk_pwrite(v, buf, sizeof buf, from, 0)) == 0)
        from += sizeof buf;
    CHECK_INT(rc, -ENOSPC);
    return from;
}

/* A full device that has a hole far below the end: opened anew, all of it is found. */
static void test_hole_found(void)
{
    struct image_spec spec;
    struct backend *fault;
    struct memdisk d;
    uint64_t end, gained;
    vdisk *v;

    make(&d, &spec, GIB(256) + ROOM);
    v = open_counted(&d, &fault);
    end = fill_up(v, spec.size);
    CHECK_OK(vdisk_pdiscard(v, HOLE, GIB(200)));
    CHECK_OK(vdisk_close(v));
    v = open_counted(&d, &fault);
    gained = fill_up(v, end) - end;
    CHECK_MSG(gained + (2 << 20) >= HOLE, "%" PRIu64 " bytes of a hole are found", gained);
    CHECK_OK(vdisk_close(v));
    memdisk_finish(&d);
}

/* Two holes, one in what is known to be in use when the other appears: both are found. */
static void test_holes_found(void)
{
    struct image_spec spec;
    struct backend *fault;
    struct memdisk d;
    uint64_t end, gained;
    vdisk *v;

    make(&d, &spec, GIB(256) + ROOM);
    v = open_counted(&d, &fault);
    end = fill_up(v, spec.size);
    CHECK_OK(vdisk_pdiscard(v, HOLE, GIB(10)));
    for (int i = 0; i < 3; i++) /* so that the first is there before the second */
        CHECK_OK((v));
    CHECK_OK(vdisk_pdiscard(v, HOLE, GIB(200)));
    gained = fill_up(v, end) - end;
    CHECK_MSG(gained + (2 << 20) >= 2 * HOLE, "%" PRIu64 " bytes of two holes are found", gained);
    CHECK_OK(vdisk_close(v));
    memdisk_finish(&d);
}

/* A new image: the calls of this kind that `act` makes. */
static uint64_t count_calls(unsigned kind, uint64_t size, void (*act)(vdisk *v))
{
    struct image_spec spec;
    struct backend *b, *fault;
    struct memdisk d;
    uint64_t calls;
    vdisk *v;

    image_default(&spec, "calls", size);
    memdisk_init(&d, 512);
    b = memdisk_open(&d, false);
    CHECK_OK(image_create_on(&spec, b));
    backend_close(b);
    v = open_counted(&d, &fault);
    calls = fault_calls(fault, kind);
    act(v);
    calls = fault_calls(fault, kind) - calls;
    CHECK_OK(vdisk_close(v));
    memdisk_finish(&d);
    return calls;
}

static void touch_tables(vdisk *v)
{
    for (uint64_t i = 0; i < NEW_TABLES; i++)
        fill(v, GIB(i), 4096, 0x55);
}

/* The slices of a new L2 table are known. */
static void test_new_tables(void)
{
    uint64_t reads = count_calls(IO_READ, GIB(NEW_TABLES), touch_tables);

    CHECK_MSG(reads < NEW_TABLES, "%" PRIu64 " reads for %d new L2 tables", reads, NEW_TABLES);
}

static void preallocate(vdisk *v)
{
    struct vdisk_resize_opts opts = {.size = sizeof opts, .preallocation = VDISK_PREALLOC_METADATA};

    CHECK_OK(vdisk_resize(v, GIB(256), &opts));
}

/*
 * Those of a new refcount block, too. On the way the old L1 table becomes free, at the file's beginning: the 128
 * refcount blocks in between, more than are cached, are not looked through once more.
 */
static void test_preallocation(void)
{
    uint64_t reads = count_calls(IO_READ, GIB(1), preallocate);

    CHECK_MSG(reads <= READS_MAX, "%" PRIu64 " reads for preallocation", reads);
}

/* 510 L2 tables and 128 refcount blocks: a few large writes, and as many flushes as it takes for one. */
static void test_preallocation_streams(void)
{
    uint64_t writes = count_calls(IO_WRITE, GIB(1), preallocate);
    uint64_t flushes = count_calls(IO_FLUSH, GIB(1), preallocate);

    CHECK_MSG(writes <= WRITES_MAX, "%" PRIu64 " writes for preallocation", writes);
    CHECK_MSG(flushes <= FLUSHES_MAX, "%" PRIu64 " flushes for preallocation", flushes);
}

const struct test_case first_cases[] = {
    {.name = "first_in_file", .run = test_first_in_file},
    {.name = "first_on_device", .run = test_first_on_device},
    {.name = "hole_found", .run = test_hole_found},
    {.name = "holes_found", .run = test_holes_found},
    {.name = "new_tables", .run = test_new_tables},
    {.name = "preallocation", .run = test_preallocation},
    {.name = "preallocation_streams", .run = test_preallocation_streams},
};

const unsigned first_cases_count = ARRAY_LEN(first_cases);
