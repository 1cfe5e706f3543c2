/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Each operation on an open volume, and opening and closing, with each of its calls failing once. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/bits.h"
#include "tests/fault/fault_lib.h"
#include "tests/fault/oom.h"
#include "tests/lib/test.h"

#define MIB(n)         ((uint64_t)(n) << 20)
#define QCOW2(cluster) .qcow2 = true, .cluster_size = (cluster), .version = 3, .refcount_bits = 16
#define V2(cluster)    .qcow2 = true, .cluster_size = (cluster), .version = 2, .refcount_bits = 16

/* Offsets in clusters of the content that subject_init() makes. */
static uint64_t at(const struct subject *s, uint64_t clusters)
{
    return clusters * (s->spec.qcow2 ? s->spec.cluster_size : 4096);
}

/* ---- what may fail ---------------------------------------------------------------------------------- */

static int act_read(struct subject *s)
{
    return subject_read(s, at(s, 1) + 100, at(s, 7));
}

static int act_write_in_place(struct subject *s)
{
    return subject_write(s, 40, at(s, 1), at(s, 1), 0);
}

static int act_write_in_place_unaligned(struct subject *s)
{
    return subject_write(s, 41, at(s, 1) + 700, 1000, 0);
}

/* Its last block is in the file in part only, and stays so. */
static int act_write_to_ragged_end(struct subject *s)
{
    return subject_write(s, 47, s->now.size - 9000, 9000, 0);
}

static int act_grow_to_ragged_end(struct subject *s)
{
    return subject_grow(s, s->now.size + 1024);
}

/* The first sector, which is looked at where the format was guessed. */
static int act_write_head(struct subject *s)
{
    return subject_write(s, 41, 0, 3000, VDISK_REQ_FUA);
}

static int act_write_in_head(struct subject *s)
{
    return subject_write(s, 41, 10, 300, 0);
}

static int act_zero_in_head(struct subject *s)
{
    return subject_zero(s, 100, 1000, 0);
}

static int act_discard_head(struct subject *s)
{
    return subject_discard(s, 0, 4096);
}

static int act_write_fua(struct subject *s)
{
    return subject_write(s, 42, at(s, 1) + 512, at(s, 6), VDISK_REQ_FUA);
}

static int act_first_touch(struct subject *s)
{
    return subject_write(s, 43, s->now.size / 2 + at(s, 10) + 300, 600, 0);
}

static int act_first_touch_many(struct subject *s)
{
    return subject_write(s, 44, s->now.size / 2 + at(s, 10) + 300, at(s, 5), 0);
}

static int act_write_over_zero(struct subject *s)
{
    return subject_write(s, 45, at(s, 4) + 300, at(s, 1), 0);
}

static int act_zero(struct subject *s)
{
    return subject_zero(s, at(s, 0), at(s, 3), 0);
}

static int act_zero_unmap(struct subject *s)
{
    return subject_zero(s, at(s, 0), at(s, 3), VDISK_REQ_UNMAP);
}

static int act_zero_unaligned(struct subject *s)
{
    return subject_zero(s, at(s, 0) + 700, at(s, 2) + 11, 0);
}

static int act_discard(struct subject *s)
{
    return subject_discard(s, at(s, 0), at(s, 6));
}

/* What a discard frees is taken again. */
static int act_discard_rewrite(struct subject *s)
{
    int rc = subject_discard(s, at(s, 0), at(s, 2));

    if (rc == 0)
        rc = subject_flush(s);
    return rc < 0 ? rc : subject_write(s, 46, at(s, 0), at(s, 4), 0);
}

/* What is left of a lease, what a discard freed, the end of the file: all goes back. */
static int act_watermark(struct subject *s)
{
    struct vdisk_watermark mark = {.size = sizeof mark};
    int rc = vdisk_get_watermark(s->v, &mark);

    if (rc < 0)
        CHECK_MSG(vdisk_error_text()[0], "watermark failed (%s) without a text", strerror(-rc));
    return rc;
}

static int act_prefetch(struct subject *s)
{
    struct vdisk_completion c;
    vdisk_queue *q;
    int rc = vdisk_queue_create(NULL, &q);

    if (rc < 0)
        return rc;
    vdisk_prefetch(q, s->v, 0, s->now.size, 0, 0);
    CHECK_OK(vdisk_reap(q, &c, 1, 1, NULL));
    if (c.result < 0) {
        CHECK_INT(vdisk_explain(q, &c), c.result);
        CHECK(vdisk_error_text()[0]);
    }
    CHECK_OK(vdisk_queue_destroy(q));
    return c.result;
}

/* The first long read fails, so that what is needed is read by itself. */
static void fail_first_load(struct subject *s)
{
    struct fault_rule rule = {.type = "slice_load", .nth = 1, .what = FAULT_FAIL, .error = EIO};

    CHECK_OK(fault_add_rule(s->fault, &rule));
}

static int act_prefetch_alone(struct subject *s)
{
    fail_first_load(s);
    return act_prefetch(s);
}

static int act_extents_alone(struct subject *s)
{
    struct vdisk_extent list[4];
    struct vdisk_extents extents = {.list = list, .max = ARRAY_LEN(list)};
    int rc;

    fail_first_load(s);
    rc = vdisk_pextents(s->v, s->now.size, 0, &extents);
    if (rc < 0)
        CHECK_MSG(vdisk_error_text()[0], "extents failed (%s) without a text", strerror(-rc));
    CHECK((rc < 0) == (extents.count == 0));
    return rc;
}

static int act_trim(struct subject *s)
{
    int rc = subject_discard(s, at(s, 5), at(s, 3)), trim_rc;

    trim_rc = vdisk_trim_space(s->v);
    if (trim_rc < 0)
        CHECK_MSG(vdisk_error_text()[0], "trim failed (%s) without a text", strerror(-trim_rc));
    return rc < 0 ? rc : trim_rc;
}

static int act_flush(struct subject *s)
{
    return subject_flush(s);
}

static int act_grow(struct subject *s)
{
    return subject_grow(s, s->now.size * 16);
}

static int act_grow_metadata(struct subject *s)
{
    return subject_resize(s, s->now.size * 2, VDISK_PREALLOC_METADATA);
}

static int act_grow_falloc(struct subject *s)
{
    return subject_resize(s, s->now.size * 2, VDISK_PREALLOC_FALLOC);
}

/* The first piece behind the end is not written, and given up; what is then tried again is. */
static int act_grow_again(struct subject *s)
{
    struct fault_rule rule = {.type = "append_stream", .nth = 1, .what = FAULT_FAIL, .error = EIO};
    int rc;

    CHECK_OK(fault_add_rule(s->fault, &rule));
    rc = act_grow_metadata(s);
    return rc == 0 ? 0 : act_grow_metadata(s); /* 0: that very call was late instead */
}

static int act_grow_full(struct subject *s)
{
    return subject_resize(s, s->now.size * 2, VDISK_PREALLOC_FULL);
}

/* Into the middle of a cluster that has data. */
static int act_shrink(struct subject *s)
{
    return subject_resize(s, at(s, 9) + 512, VDISK_PREALLOC_OFF);
}

static int act_shrink_and_grow(struct subject *s)
{
    int rc = subject_resize(s, at(s, 9) + 512, VDISK_PREALLOC_OFF);

    return rc < 0 ? rc : subject_grow(s, s->spec.size);
}

static int act_close(struct subject *s)
{
    return subject_close(s);
}

static int act_open(struct subject *s)
{
    return subject_open(s, VDISK_OPEN_RDWR, true);
}

static int act_open_write(struct subject *s)
{
    int rc = subject_open(s, VDISK_OPEN_RDWR, true);

    return rc < 0 ? rc : subject_write(s, 47, s->now.size - at(s, 4) + 5, at(s, 2), 0);
}

/* ---- before it -------------------------------------------------------------------------------------- */

static void prepare_dirty(struct subject *s)
{
    CHECK_OK(subject_write(s, 50, at(s, 1) + 100, at(s, 4), 0));
    CHECK_OK(subject_write(s, 51, s->now.size / 2 + at(s, 3), at(s, 4), 0));
    CHECK_OK(subject_discard(s, at(s, 8), at(s, 2)));
}

/* The first error counts; close it all the same. */
static int act_many_then_close(struct subject *s)
{
    int rc = subject_write(s, 50, at(s, 1) + 100, at(s, 4), 0), close_rc;

    if (rc == 0)
        rc = subject_write(s, 51, s->now.size / 2 + at(s, 3), at(s, 4), 0);
    if (rc == 0)
        rc = subject_discard(s, at(s, 8), at(s, 2));
    close_rc = subject_close(s);
    return rc < 0 ? rc : close_rc;
}

/* Up to the edge of what the first refcount table covers. */
static void prepare_refcounts(struct subject *s)
{
    uint64_t offset = s->now.size / 2, covered = (uint64_t)s->spec.cluster_size / 8 * s->spec.cluster_size *
                                                 s->spec.cluster_size * 8 / s->spec.refcount_bits / 512 * 512;
    uint64_t target = covered - (24 << 10);

    while (memdisk_size(&s->disk) < target) {
        uint64_t room = target - memdisk_size(&s->disk);
        uint64_t len = max_u64(512, min_u64(64 << 10, align_down(room / 2, 512)));
        CHECK(offset + len + (256 << 10) < s->now.size);
        CHECK_OK(subject_write(s, 52, offset, len, 0));
        CHECK_OK(subject_flush(s));
        offset += len;
    }
}

static int act_refcounts(struct subject *s)
{
    return subject_write(s, 53, s->now.size - (200 << 10), 96 << 10, 0);
}

/* What QEMU leaves when it dies with lazy refcounts: the dirty bit, and refcounts of zero. */
static void damage_refcounts(struct subject *s)
{
    uint8_t head[104], table[8], zero[256] = {0};

    memdisk_read(&s->disk, 0, head, sizeof head);
    memdisk_read(&s->disk, get_be64(head + 48), table, sizeof table);
    memdisk_write(&s->disk, get_be64(table) + 16, zero, sizeof zero);
    head[79] |= 1;
    memdisk_write(&s->disk, 0, head, sizeof head);
}

/* ---- the table -------------------------------------------------------------------------------------- */

static const struct scenario scenarios[] = {
    {.name = "read", .spec = {.size = MIB(4), QCOW2(65536)}, .act = act_read, .cold = true},
    {.name = "read, extended L2",
     .spec = {.size = MIB(4), QCOW2(65536), .extended_l2 = true},
     .act = act_read,
     .cold = true},
    {.name = "write in place", .spec = {.size = MIB(4), QCOW2(65536)}, .act = act_write_in_place, .cold = true},
    {.name = "write in place, unaligned",
     .spec = {.size = MIB(4), QCOW2(65536)},
     .act = act_write_in_place_unaligned},
    {.name = "write with FUA", .spec = {.size = MIB(4), QCOW2(4096)}, .act = act_write_fua},
    {.name = "first touch", .spec = {.size = MIB(4), QCOW2(65536)}, .act = act_first_touch, .cold = true},
    {.name = "first touch, small clusters",
     .spec = {.size = MIB(2), QCOW2(512)},
     .act = act_first_touch_many,
     .cold = true},
    {.name = "first touch of several", .spec = {.size = MIB(4), QCOW2(4096)}, .act = act_first_touch_many},
    {.name = "first touch, extended L2",
     .spec = {.size = MIB(4), QCOW2(16384), .extended_l2 = true},
     .act = act_first_touch_many},
    {.name = "first touch, lazy refcounts",
     .spec = {.size = MIB(4), QCOW2(65536), .lazy_refcounts = true},
     .act = act_first_touch},
    {.name = "first touch, version 2", .spec = {.size = MIB(4), V2(65536)}, .act = act_first_touch},
    {.name = "write over zero", .spec = {.size = MIB(4), QCOW2(65536)}, .act = act_write_over_zero},
    {.name = "zero", .spec = {.size = MIB(4), QCOW2(65536)}, .act = act_zero},
    {.name = "zero, version 2", .spec = {.size = MIB(4), V2(65536)}, .act = act_zero},
    {.name = "zero, unmap", .spec = {.size = MIB(4), QCOW2(65536)}, .act = act_zero_unmap, .cold = true},
    {.name = "zero, unaligned", .spec = {.size = MIB(4), QCOW2(4096)}, .act = act_zero_unaligned},
    {.name = "zero, extended L2",
     .spec = {.size = MIB(4), QCOW2(16384), .extended_l2 = true},
     .act = act_zero_unaligned},
    {.name = "discard", .spec = {.size = MIB(4), QCOW2(65536)}, .act = act_discard, .cold = true},
    {.name = "discard and rewrite", .spec = {.size = MIB(4), QCOW2(4096)}, .act = act_discard_rewrite},
    {.name = "trim", .spec = {.size = MIB(4), QCOW2(4096)}, .prepare = prepare_dirty, .act = act_trim},
    {.name = "prefetch, cold",
     .spec = {.size = MIB(4), QCOW2(4096)},
     .act = act_prefetch,
     .cold = true,
     .no_data = true},
    {.name = "prefetch, cold, one by one",
     .spec = {.size = MIB(4), QCOW2(4096)},
     .act = act_prefetch_alone,
     .cold = true,
     .no_data = true},
    {.name = "extents, cold, one by one",
     .spec = {.size = MIB(4), QCOW2(4096)},
     .act = act_extents_alone,
     .cold = true,
     .no_data = true},
    {.name = "watermark, cold",
     .spec = {.size = MIB(4), QCOW2(4096)},
     .prepare = prepare_dirty,
     .act = act_watermark,
     .cold = true},
    {.name = "trim, cold",
     .spec = {.size = MIB(4), QCOW2(65536)},
     .prepare = prepare_dirty,
     .act = act_trim,
     .cold = true},
    {.name = "flush", .spec = {.size = MIB(4), QCOW2(4096)}, .prepare = prepare_dirty, .act = act_flush},
    {.name = "flush, extended L2",
     .spec = {.size = MIB(4), QCOW2(16384), .extended_l2 = true},
     .prepare = prepare_dirty,
     .act = act_flush},
    {.name = "grow", .spec = {.size = MIB(1), QCOW2(512)}, .act = act_grow},
    {.name = "grow, default clusters",
     .spec = {.size = MIB(4), QCOW2(65536)},
     .act = act_grow,
     .no_data = true},
    {.name = "grow, metadata", .spec = {.size = MIB(2), QCOW2(4096)}, .act = act_grow_metadata},
    {.name = "grow, metadata, extended L2",
     .spec = {.size = MIB(2), QCOW2(16384), .extended_l2 = true},
     .act = act_grow_metadata,
     .cold = true},
    {.name = "grow, falloc", .spec = {.size = MIB(2), QCOW2(65536)}, .act = act_grow_falloc},
    {.name = "grow, falloc, small clusters", .spec = {.size = MIB(1), QCOW2(512)}, .act = act_grow_falloc},
    /* Of a size with which the last tables go from one block into the next. */
    {.name = "grow, metadata, small refcount blocks",
     .spec = {.size = MIB(1) + (16 << 10), .qcow2 = true, .cluster_size = 512, .version = 3, .refcount_bits = 64},
     .act = act_grow_metadata},
    /* Behind what the refcount table describes. */
    {.name = "grow, metadata, longer refcount table",
     .spec = {.size = MIB(2), .qcow2 = true, .cluster_size = 512, .version = 3, .refcount_bits = 64},
     .act = act_grow_metadata,
     .stride = 3},
    {.name = "grow, falloc, small refcount blocks",
     .spec = {.size = MIB(1), .qcow2 = true, .cluster_size = 512, .version = 3, .refcount_bits = 64},
     .act = act_grow_falloc},
    {.name = "grow, metadata, again",
     .spec = {.size = MIB(1), .qcow2 = true, .cluster_size = 512, .version = 3, .refcount_bits = 64},
     .act = act_grow_again},
    {.name = "grow, metadata, from amid a cluster",
     .spec = {.size = MIB(2) + 1024, QCOW2(4096)},
     .act = act_grow_metadata},
    /* Where nothing can be appended. */
    {.name = "grow, metadata, on a device",
     .spec = {.size = MIB(1), .qcow2 = true, .cluster_size = 512, .version = 3, .refcount_bits = 64},
     .device = MIB(4),
     .act = act_grow_metadata},
    {.name = "grow, full", .spec = {.size = MIB(2), QCOW2(65536)}, .act = act_grow_full},
    {.name = "shrink", .spec = {.size = MIB(4), QCOW2(4096)}, .prepare = prepare_dirty, .act = act_shrink},
    {.name = "shrink, small clusters", .spec = {.size = MIB(1), QCOW2(512)}, .act = act_shrink, .cold = true},
    {.name = "shrink, version 2", .spec = {.size = MIB(4), V2(65536)}, .act = act_shrink},
    {.name = "shrink and grow", .spec = {.size = MIB(4), QCOW2(16384)}, .act = act_shrink_and_grow},
    {.name = "refcount table",
     .spec = {.size = MIB(6), .qcow2 = true, .cluster_size = 512, .version = 3, .refcount_bits = 64},
     .prepare = prepare_refcounts,
     .act = act_refcounts},
    {.name = "close",
     .spec = {.size = MIB(4), QCOW2(65536)},
     .prepare = prepare_dirty,
     .act = act_close,
     .closes = true},
    {.name = "close, all of it",
     .spec = {.size = MIB(4), QCOW2(4096)},
     .act = act_many_then_close,
     .closes = true},
    {.name = "close, lazy refcounts",
     .spec = {.size = MIB(4), QCOW2(65536), .lazy_refcounts = true},
     .prepare = prepare_dirty,
     .act = act_close,
     .closes = true},
    {.name = "open", .spec = {.size = MIB(4), QCOW2(65536)}, .act = act_open, .opens = true},
    {.name = "open and write", .spec = {.size = MIB(4), QCOW2(65536)}, .act = act_open_write, .opens = true},
    {.name = "open, dirty",
     .spec = {.size = MIB(4), QCOW2(4096), .lazy_refcounts = true},
     .damage = damage_refcounts,
     .act = act_open,
     .opens = true},
    {.name = "raw read", .spec = {.size = MIB(1)}, .act = act_read},
    {.name = "raw write", .spec = {.size = MIB(1)}, .act = act_write_in_place},
    {.name = "raw write, unaligned", .spec = {.size = MIB(1)}, .act = act_write_in_place_unaligned},
    {.name = "raw write, to a ragged end",
     .spec = {.size = MIB(1) + 512},
     .act = act_write_to_ragged_end,
     .align = 4096},
    {.name = "raw grow, to a ragged end",
     .spec = {.size = MIB(1) + 512},
     .act = act_grow_to_ragged_end,
     .align = 4096,
     .no_data = true},
    {.name = "raw zero", .spec = {.size = MIB(1)}, .act = act_zero, .no_data = true},
    {.name = "raw zero, unaligned",
     .spec = {.size = MIB(1)},
     .act = act_zero_unaligned,
     .no_data = true},
    {.name = "raw discard", .spec = {.size = MIB(1)}, .act = act_discard, .no_data = true},
    {.name = "raw write with FUA", .spec = {.size = MIB(1)}, .act = act_write_fua},
    {.name = "guessed raw, write", .spec = {.size = MIB(1), .guessed = true}, .act = act_write_head},
    {.name = "guessed raw, write, unaligned",
     .spec = {.size = MIB(1), .guessed = true},
     .act = act_write_in_head,
     .no_data = true},
    {.name = "guessed raw, zero",
     .spec = {.size = MIB(1), .guessed = true},
     .act = act_zero_in_head,
     .no_data = true},
    {.name = "guessed raw, discard",
     .spec = {.size = MIB(1), .guessed = true},
     .act = act_discard_head,
     .no_data = true},
    {.name = "raw grow", .spec = {.size = MIB(1)}, .act = act_grow, .no_data = true},
    {.name = "raw grow, falloc", .spec = {.size = MIB(1)}, .act = act_grow_falloc, .no_data = true},
    {.name = "raw grow, full", .spec = {.size = MIB(1)}, .act = act_grow_full},
    {.name = "raw shrink", .spec = {.size = MIB(1)}, .act = act_shrink, .no_data = true},
};

/* The hook itself: what fails, what is seen as lost. */
static void test_hook(void)
{
    void *volatile p, *volatile outside;

    oom_watch();
    outside = malloc(10);
    oom_enter();
    p = calloc(1, 10);
    CHECK_INT(oom_live(), 1);
    oom_watch();
    free(p);
    oom_arm(2, false);
    p = malloc(10);
    CHECK(p && !malloc(10) && errno == ENOMEM);
    p = realloc(p, 1000);
    CHECK(p);
    CHECK(oom_disarm());
    oom_arm(1, true);
    CHECK(!aligned_alloc(64, 64) && !strdup("text") && !realloc(p, 2000));
    oom_leave();
    free(outside);
    outside = malloc(10); /* the test's own never fails */
    CHECK(outside && oom_disarm());
    free(outside);
    CHECK_INT(oom_live(), 1);
    oom_watch();
    free(p);
    oom_arm(1, true);
    CHECK(!oom_disarm() && oom_live() == 0);
}

static void run_mode(unsigned mode)
{
    test_requires("qemu-img");
    scenario_run(&scenarios[test_repetition() % ARRAY_LEN(scenarios)], &fault_modes[mode]);
}

static void test_eio(void)
{
    run_mode(0);
}

static void test_enospc(void)
{
    run_mode(1);
}

static void test_eio_done(void)
{
    run_mode(2);
}

static void test_short(void)
{
    run_mode(3);
}

static void test_late(void)
{
    run_mode(4);
}

static void test_late_end(void)
{
    run_mode(5);
}

static void test_oom(void)
{
    run_mode(FAULT_MODE_OOM);
}

static void test_oom_forever(void)
{
    run_mode(FAULT_MODE_OOM_FOREVER);
}

int main(int argc, char **argv)
{
    static const struct test_case cases[] = {
        {.name = "hook", .run = test_hook},
        {.name = "eio", .run = test_eio, .repeat = ARRAY_LEN(scenarios)},
        {.name = "enospc", .run = test_enospc, .repeat = ARRAY_LEN(scenarios)},
        {.name = "eio_done", .run = test_eio_done, .repeat = ARRAY_LEN(scenarios)},
        {.name = "short", .run = test_short, .repeat = ARRAY_LEN(scenarios)},
        {.name = "late", .run = test_late, .repeat = ARRAY_LEN(scenarios)},
        {.name = "late_end", .run = test_late_end, .repeat = ARRAY_LEN(scenarios)},
        {.name = "oom", .run = test_oom, .repeat = ARRAY_LEN(scenarios)},
        {.name = "oom_forever", .run = test_oom_forever, .repeat = ARRAY_LEN(scenarios)},
    };

    return test_main(argc, argv, cases, ARRAY_LEN(cases));
}
