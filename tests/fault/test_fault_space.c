/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Little room, with each call failing once: a device that is full, more metadata than the cache holds, refcount
 * blocks that have to be made where a table is to go, more freed clusters than are kept in mind.
 */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "engine/base/bits.h"
#include "qcow2/format/entry.h"
#include "qcow2/format/header.h"
#include "qcow2/space/room.h"
#include "tests/fault/fault_lib.h"
#include "tests/lib/run.h"
#include "tests/lib/test.h"

#define MIB(n) ((uint64_t)(n) << 20)
/* 64 refcounts in a block, which is a slice as well: the smallest cache has room for 256 of them. */
#define TIGHT  .qcow2 = true, .cluster_size = 512, .version = 3, .refcount_bits = 64

enum { CLUSTER = 512, PER_BLOCK = 64, TABLE_SPAN = CLUSTER / 8 * CLUSTER, FILLED = 64 << 10,
       SCATTERED = Q2_FREED_MAX + 200, LONG_TABLE = 9, MANY_BLOCKS = 3 << 19 };

/* ---- before it ------------------------------------------------------------------------------------------ */

/* The file ends a few clusters before what its last refcount block describes; no hole is in it. */
static void make_edge(struct subject *s)
{
    uint64_t offset = s->now.size / 2;
    unsigned written = 0;

    do {
        CHECK_OK(subject_open(s, VDISK_OPEN_RDWR, false));
        CHECK_OK(subject_write(s, 60, offset, CLUSTER, 0));
        CHECK_OK(subject_close(s));
        offset += CLUSTER;
        written++;
    } while (written < PER_BLOCK || memdisk_size(&s->disk) / CLUSTER % PER_BLOCK < PER_BLOCK - 2);
}

/* Guest clusters lie on the host in reverse, so that no two freed ones are neighbours in the list. */
static void make_scattered(struct subject *s)
{
    CHECK_OK(subject_open(s, VDISK_OPEN_RDWR, false));
    for (unsigned i = SCATTERED; i-- > 0;)
        CHECK_OK(subject_write(s, i % 7, FILLED + (uint64_t)i * CLUSTER, CLUSTER, 0));
    CHECK_OK(subject_close(s));
}

/* The same, and all of it a snapshot's too. */
static void make_scattered_snapshot(struct subject *s)
{
    char path[PATH_MAX];

    make_scattered(s);
    snprintf(path, sizeof path, "%s", test_path("scattered"));
    memdisk_save(&s->disk, path);
    run_ok("qemu-img snapshot -c one %s", path);
    memdisk_finish(&s->disk);
    memdisk_load(&s->disk, path, 512);
    unlink(path);
}

/*
 * A refcount table of three times the entries, as if the image had been larger: so that more blocks can be made
 * than the cache holds before the table has to grow, which would flush them.
 */
static void make_long_table(struct subject *s)
{
    uint8_t *head = test_alloc(CLUSTER), *table = test_alloc(LONG_TABLE * CLUSTER), block[CLUSTER], entry[8];
    uint64_t size = memdisk_size(&s->disk), first = div_up(size, CLUSTER), block_at;
    struct q2_disk_header *disk_header = (struct q2_disk_header *)(void *)head;
    struct q2_header h;

    memdisk_read(&s->disk, 0, head, CLUSTER);
    CHECK_OK(q2_header_parse(head, CLUSTER, size, "image", &h));
    CHECK_INT(h.reftable_clusters, 1);
    memdisk_read(&s->disk, h.reftable_offset, table, CLUSTER);
    block_at = get_be64(table + first / PER_BLOCK * 8);
    CHECK(block_at && first % PER_BLOCK + LONG_TABLE <= PER_BLOCK);
    memdisk_read(&s->disk, block_at, block, CLUSTER);
    for (unsigned i = 0; i < LONG_TABLE; i++)
        q2_refcount_set(&h.geo, block, first % PER_BLOCK + i, 1);
    memdisk_write(&s->disk, block_at, block, CLUSTER);
    memdisk_write(&s->disk, first * CLUSTER, table, LONG_TABLE * CLUSTER);
    put_be64(&disk_header->refcount_table_offset, first * CLUSTER);
    put_be32(&disk_header->refcount_table_clusters, LONG_TABLE);
    memdisk_write(&s->disk, 0, head, CLUSTER);
    put_be64(entry, 0); /* the old one's */
    block_at = get_be64(table + h.reftable_offset / CLUSTER / PER_BLOCK * 8);
    memdisk_write(&s->disk, block_at + h.reftable_offset / CLUSTER % PER_BLOCK * 8, entry, 8);
    q2_header_free(&h);
    free(table);
    free(head);
}

/* All but a few of the slices that the cache has room for are dirty. */
static void prepare_dirty(struct subject *s)
{
    CHECK_OK(subject_write(s, 65, s->now.size - MIB(9), MIB(9) - MANY_BLOCKS, 0));
}

static void prepare_more(struct subject *s)
{
    CHECK_OK(subject_write(s, 64, s->now.size / 2, 2 * FILLED, 0));
}

/* Not one cluster is left. */
static void make_full(struct subject *s)
{
    uint64_t offset = FILLED;

    CHECK_OK(subject_open(s, VDISK_OPEN_RDWR, false));
    for (uint64_t len = 64 << 10; len >= CLUSTER; len /= 2)
        while (subject_write(s, 61, offset, len, 0) == 0)
            offset += len;
    CHECK(offset + 2 * FILLED < s->now.size);
    CHECK_OK(subject_close(s));
}

/*
 * The file goes on where its refcount table ends, with nothing: a longer table may not lie there before all L2
 * tables have been read, and those are more than are read at once.
 */
static void make_trailing(struct subject *s)
{
    uint8_t head[CLUSTER];
    struct q2_header h;
    uint64_t end;

    CHECK_OK(subject_open(s, VDISK_OPEN_RDWR, false));
    for (uint64_t at = s->now.size / 2; at < s->now.size; at += TABLE_SPAN)
        CHECK_OK(subject_write(s, 68, at, CLUSTER, 0));
    CHECK_OK(subject_close(s));
    memdisk_read(&s->disk, 0, head, CLUSTER);
    CHECK_OK(q2_header_parse(head, CLUSTER, memdisk_size(&s->disk), "image", &h));
    end = (uint64_t)h.reftable_clusters * (CLUSTER / 8) * PER_BLOCK * CLUSTER;
    CHECK(memdisk_size(&s->disk) < end);
    memdisk_write(&s->disk, end + MIB(1), "", 1);
    q2_header_free(&h);
}

/* ---- what may fail -------------------------------------------------------------------------------------- */

static int act_grow(struct subject *s)
{
    return subject_grow(s, s->now.size * 16);
}

/* Nearly as many of the snapshot's clusters and tables are replaced as are kept in mind; then the others. */
enum { REPLACED = Q2_FREED_MAX / (PER_BLOCK + 1) * PER_BLOCK };

static void prepare_scattered(struct subject *s)
{
    CHECK_OK(subject_write(s, 61, FILLED, (uint64_t)REPLACED * CLUSTER, 0));
}

static int act_write_scattered(struct subject *s)
{
    uint64_t done = (uint64_t)REPLACED * CLUSTER;

    return subject_write(s, 62, FILLED + done, (uint64_t)SCATTERED * CLUSTER - done, 0);
}

static int act_discard_scattered(struct subject *s)
{
    return subject_discard(s, FILLED, (uint64_t)SCATTERED * CLUSTER);
}

static int act_discard_flush(struct subject *s)
{
    int rc = subject_discard(s, 0, FILLED / 2);

    if (rc == 0)
        rc = subject_flush(s);
    return rc == 0 ? subject_flush(s) : rc;
}

static int act_discard_all(struct subject *s)
{
    int rc = subject_discard(s, 0, s->now.size);

    if (rc == 0)
        rc = subject_flush(s);
    return rc == 0 ? subject_flush(s) : rc;
}

/* There is room again, when what was freed is reclaimed. */
static int act_squeeze(struct subject *s)
{
    int rc = subject_discard(s, FILLED, MIB(4));

    if (rc == 0)
        rc = subject_flush(s);
    if (rc == 0) /* and not yet flushed: */
        rc = subject_discard(s, FILLED + MIB(4), MIB(3));
    return rc == 0 ? subject_write(s, 63, s->now.size - FILLED, CLUSTER, 0) : rc;
}

/* As above, with nothing flushed: the write flushes, waits, and tries again. */
static int act_make_room(struct subject *s)
{
    int rc = subject_discard(s, FILLED, MIB(4));

    return rc == 0 ? subject_write(s, 63, s->now.size - FILLED, CLUSTER, 0) : rc;
}

static int act_make_some_room(struct subject *s)
{
    int rc = subject_discard(s, FILLED, 8 * CLUSTER);

    return rc == 0 ? subject_write(s, 63, s->now.size - FILLED, CLUSTER, 0) : rc;
}

/* Zeros over a backing file, where there is no L2 table to say so. */
static int act_make_room_for_table(struct subject *s)
{
    int rc = subject_discard(s, FILLED, 8 * CLUSTER);

    return rc == 0 ? subject_zero(s, s->now.size / 4 * 3, 2 * CLUSTER, 0) : rc;
}

static int act_write_new(struct subject *s)
{
    return subject_write(s, 67, s->now.size - CLUSTER, CLUSTER, 0);
}

static int act_compress_scattered(struct subject *s)
{
    uint64_t done = (uint64_t)REPLACED * CLUSTER;

    return subject_write(s, 62, FILLED + done, (uint64_t)SCATTERED * CLUSTER - done, VDISK_REQ_COMPRESSED);
}

static int act_compress_some_room(struct subject *s)
{
    int rc = subject_discard(s, FILLED, 8 * CLUSTER);

    return rc == 0 ? subject_write(s, 63, s->now.size - FILLED, CLUSTER, VDISK_REQ_COMPRESSED) : rc;
}

/* The second is to go behind the first, whose refcount has left the cache. */
static int act_compress_uncached(struct subject *s)
{
    int rc = subject_write(s, 63, s->now.size - CLUSTER, CLUSTER, VDISK_REQ_COMPRESSED);

    if (rc == 0)
        rc = subject_write(s, 65, FILLED, MIB(10), 0);
    return rc == 0 ? subject_write(s, 64, s->now.size - 2 * CLUSTER, CLUSTER, VDISK_REQ_COMPRESSED) : rc;
}

static int act_new_blocks(struct subject *s)
{
    return subject_write(s, 66, s->now.size - MANY_BLOCKS, MANY_BLOCKS, 0);
}

static int act_trim(struct subject *s)
{
    int rc = subject_discard(s, 0, 3 * CLUSTER), trim_rc = vdisk_trim_space(s->v);

    if (trim_rc < 0)
        CHECK_MSG(vdisk_error_text()[0], "trim failed without a text");
    return rc < 0 ? rc : trim_rc;
}

/* ---- the table ------------------------------------------------------------------------------------------ */

static const struct scenario scenarios[] = {
    {.name = "L1 table at the edge of a refcount block",
     .spec = {.size = MIB(1) / 2, TIGHT},
     .make = make_edge,
     .act = act_grow},
    {.name = "reclaim, cold",
     .spec = {.size = MIB(1), TIGHT},
     .act = act_discard_flush,
     .cold = true,
     .no_data = true},
    {.name = "trim, cold",
     .spec = {.size = MIB(1), TIGHT},
     .prepare = prepare_more,
     .act = act_trim,
     .cold = true,
     .no_data = true},
    {.name = "file longer than its refcount table",
     .spec = {.size = MIB(8), TIGHT},
     .make = make_trailing,
     .stride = 7,
     .act = act_write_new,
     .cold = true,
     .no_data = true},
    {.name = "scattered discard",
     .spec = {.size = MIB(9), TIGHT},
     .make = make_scattered,
     .stride = 83,
     .act = act_discard_scattered,
     .no_data = true},
    /* A refcount table that is long enough: a longer one would begin with a flush. */
    {.name = "scattered write beside a snapshot",
     .spec = {.size = MIB(9), .qcow2 = true, .cluster_size = 512, .version = 3, .refcount_bits = 4},
     .make = make_scattered_snapshot,
     .stride = 2,
     .prepare = prepare_scattered,
     .act = act_write_scattered},
    {.name = "scattered compressed write beside a snapshot",
     .spec = {.size = MIB(9), .qcow2 = true, .cluster_size = 512, .version = 3, .refcount_bits = 4},
     .make = make_scattered_snapshot,
     .stride = 2,
     .prepare = prepare_scattered,
     .act = act_compress_scattered},
    {.name = "more refcounts than can be cached",
     .spec = {.size = MIB(11), TIGHT, .preallocation = VDISK_PREALLOC_METADATA},
     .cache_bytes = 1,
     .stride = 151,
     .act = act_discard_all,
     .cold = true},
    {.name = "more refcounts than can be cached, compressed",
     .spec = {.size = MIB(11), TIGHT},
     .cache_bytes = 1,
     .stride = 151,
     .act = act_compress_uncached,
     .cold = true},
    {.name = "more new refcount blocks than can be cached",
     .spec = {.size = MIB(11), TIGHT},
     .cache_bytes = 1,
     .make = make_long_table,
     .prepare = prepare_dirty,
     .stride = 43,
     .act = act_new_blocks},
    {.name = "full device",
     .spec = {.size = MIB(12), TIGHT},
     .device = MIB(10),
     .cache_bytes = 1,
     .make = make_full,
     .stride = 67,
     .act = act_squeeze,
     .no_data = true},
    {.name = "full device, nothing flushed",
     .spec = {.size = MIB(12), TIGHT},
     .device = MIB(10),
     .cache_bytes = 1,
     .make = make_full,
     .stride = 67,
     .act = act_make_room,
     .no_data = true},
    {.name = "full device, small",
     .spec = {.size = MIB(5), TIGHT},
     .device = MIB(2),
     .make = make_full,
     .act = act_make_some_room,
     .no_data = true},
    {.name = "full device, small, compressed",
     .spec = {.size = MIB(5), TIGHT},
     .device = MIB(2),
     .make = make_full,
     .act = act_compress_some_room,
     .no_data = true},
    {.name = "full device, no L2 table",
     .spec = {.size = MIB(5), TIGHT, .backing = "sim:base", .backing_format = "raw"},
     .device = MIB(2),
     .make = make_full,
     .act = act_make_room_for_table,
     .no_data = true},
};

int main(int argc, char **argv)
{
    static const char *const requires[] = {"qemu-img", NULL};

    return scenario_main(argc, argv, scenarios, ARRAY_LEN(scenarios), requires);
}
