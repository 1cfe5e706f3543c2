/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Images whose entries or refcounts lead into metadata, with each call failing once: the request fails whatever
 * else does, nothing is overwritten, and the image says that it is corrupt unless that could not be written.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/bits.h"
#include "engine/volume.h"
#include "qcow2/format/entry.h"
#include "qcow2/format/header.h"
#include "tests/fault/fault_lib.h"
#include "tests/fault/oom.h"
#include "tests/lib/test.h"

enum { GUEST = 16 << 20, CLUSTER = 8192, WRITTEN = 1 << 20, APART = 600 * CLUSTER, MAX_CALLS = 300 };

static const struct image_spec spec = {
    .qcow2 = true, .size = GUEST, .cluster_size = CLUSTER, .version = 3, .refcount_bits = 16};

static uint64_t disk_word(struct memdisk *d, uint64_t at)
{
    uint8_t buf[8];

    memdisk_read(d, at, buf, 8);
    return get_be64(buf);
}

static void disk_put(struct memdisk *d, uint64_t at, uint64_t value, unsigned width)
{
    uint8_t buf[8];

    put_be64(buf, value);
    memdisk_write(d, at, buf + 8 - width, width);
}

static vdisk *open_on(struct backend *b, bool rw)
{
    struct vdisk_open_opts opts = {.size = sizeof opts, .format = "qcow2", .flags = rw ? VDISK_OPEN_RDWR : 0};
    vdisk *v;

    CHECK_OK(vdisk_open_backend(b, &opts, &v));
    return v;
}

static void make(struct memdisk *d)
{
    uint8_t *buf = test_alloc(WRITTEN);
    struct backend *b;
    vdisk *v;

    memdisk_init(d, 512);
    b = memdisk_open(d, false);
    CHECK_OK(image_create_on(&spec, b));
    backend_close(b);
    v = open_on(memdisk_open(d, false), true);
    memset(buf, 0x11, WRITTEN);
    CHECK_OK(vdisk_pwrite(v, buf, WRITTEN, 0, 0));
    CHECK_OK(vdisk_pwrite(v, buf, CLUSTER, APART, 0)); /* in another slice */
    CHECK_OK(vdisk_close(v));
    free(buf);
}

static uint64_t refblock(struct memdisk *d)
{
    return disk_word(d, disk_word(d, offsetof(struct q2_disk_header, refcount_table_offset)));
}

static uint64_t l2_table(struct memdisk *d)
{
    return q2_l1_offset(disk_word(d, disk_word(d, offsetof(struct q2_disk_header, l1_table_offset))));
}

/* ---- what is wrong, and what meets it ------------------------------------------------------------------- */

/* Guest cluster 300 is the refcount block. */
static void lead_astray(struct memdisk *d)
{
    disk_put(d, l2_table(d) + 8 * 300, Q2_COPIED | refblock(d), 8);
}

/* Guest cluster 300 is at no cluster. */
static void lead_between(struct memdisk *d)
{
    disk_put(d, l2_table(d) + 8 * 300, Q2_COPIED | (refblock(d) + CLUSTER / 2), 8);
}

/* The L2 table looks free. */
static void lose_refcount(struct memdisk *d)
{
    disk_put(d, refblock(d) + 2 * (l2_table(d) / CLUSTER), 0, 2);
}

/* Refcount blocks are guest data, one in its own range and one elsewhere. */
static void lose_blocks(struct memdisk *d)
{
    uint64_t table = disk_word(d, offsetof(struct q2_disk_header, refcount_table_offset));

    disk_put(d, table, disk_word(d, l2_table(d) + 8 * 5) & Q2_L2_OFFSET, 8);
    disk_put(d, table + 8, disk_word(d, l2_table(d) + 8 * 6) & Q2_L2_OFFSET, 8);
}

static int act_write(vdisk *v)
{
    char buf[CLUSTER] = {0};

    return vdisk_pwrite(v, buf, CLUSTER, 300 * CLUSTER, 0);
}

static int act_write_compressed(vdisk *v)
{
    char buf[CLUSTER] = {0};

    return vdisk_pwrite(v, buf, CLUSTER, 300 * CLUSTER, VDISK_REQ_COMPRESSED);
}

/* Where there is no L2 table: no entry has been read by then. */
static int act_write_apart(vdisk *v)
{
    char buf[CLUSTER] = {0};

    return vdisk_pwrite(v, buf, CLUSTER, 1100 * CLUSTER, 0);
}

static int act_discard(vdisk *v)
{
    return vdisk_pdiscard(v, CLUSTER, 300 * CLUSTER);
}

/* Refcounts are loaded for what is freed, not for what is taken; of what lies there no entry has been read. */
static int act_free(vdisk *v)
{
    int rc = vdisk_pdiscard(v, CLUSTER, APART);

    return rc < 0 ? rc : vdisk_trim_space(v);
}

/* No change fails for it: it is marked when the volume is closed. */
static int act_read(vdisk *v)
{
    char buf[CLUSTER];

    return vdisk_pread(v, buf, CLUSTER, 300 * CLUSTER);
}

static const struct guard_case {
    const char *name;
    void (*damage)(struct memdisk *d);
    int (*act)(vdisk *v);
} guard_cases[] = {
    {"write", lead_astray, act_write},
    {"compressed write", lead_astray, act_write_compressed},
    {"discard", lead_astray, act_discard},
    {"allocating write", lose_refcount, act_write},
    {"read", lead_between, act_read},
    {"refcounts", lose_blocks, act_write_apart},
    {"refcounts of what is freed", lose_blocks, act_free},
};

/* ---- runs ------------------------------------------------------------------------------------------------ */

static bool is_marked(struct memdisk *d)
{
    return disk_word(d, offsetof(struct q2_disk_header, incompatible_features)) & Q2_INCOMPAT_CORRUPT;
}

/* What was there reads as before. */
static void check_kept(struct memdisk *d)
{
    uint8_t *buf = test_alloc(WRITTEN);
    vdisk *v = open_on(memdisk_open(d, true), false);

    CHECK_OK(vdisk_pread(v, buf, WRITTEN, 0));
    CHECK(buf[0] == 0x11 && memcmp(buf, buf + 1, WRITTEN - 1) == 0);
    CHECK_OK(vdisk_close(v));
    free(buf);
}

/* The nth call fails; false if there is no such call. `counted`: memory is. */
static bool run_once(const struct guard_case *c, struct memdisk *image, const struct fault_mode *mode,
                     unsigned nth, bool counted)
{
    _Atomic uint64_t calls = 0; /* outlives the backend */
    struct fault_rule rule = {.nth = nth, .what = mode->what, .error = mode->error, .matched = &calls, .calls = 2};
    struct backend *fault;
    struct memdisk d;
    bool fired;
    vdisk *v;
    int rc;

    oom_watch();
    memdisk_clone(&d, image);
    CHECK_OK(fault_backend_create(memdisk_open(&d, false), &fault));
    v = open_on(fault, true);
    mode_arm(mode, fault, &rule);
    oom_enter();
    rc = c->act(v);
    vdisk_close(v);
    oom_leave();
    fired = oom_disarm() || calls >= nth;
    CHECK_MSG(rc < 0 || (mode->oom && c->act == act_free), "%s is done", c->name); /* else it leaks */
    CHECK_MSG(is_marked(&d) || fired, "not marked corrupt, though nothing failed");
    check_kept(&d);
    memdisk_finish(&d);
    CHECK_MSG(oom_live() == 0 || !counted, "%u pieces of memory are never given back", oom_live());
    return fired;
}

/* The thread's queue keeps as many ops as it had at once: more are not asked for afterwards. */
static void warm_up(const struct guard_case *c, struct memdisk *image)
{
    struct memdisk d;
    vdisk *v;

    memdisk_clone(&d, image);
    v = open_on(memdisk_open(&d, false), true);
    CHECK(c->act(v) < 0);
    vdisk_close(v);
    memdisk_finish(&d);
}

static void test_guard(void)
{
    const struct guard_case *c = &guard_cases[test_repetition() % ARRAY_LEN(guard_cases)];
    struct memdisk image;

    make(&image);
    c->damage(&image);
    warm_up(c, &image);
    for (unsigned m = 0; m < FAULT_MODES; m++) {
        unsigned nth = 0;
        do {
            nth++;
            CHECK_MSG(nth < MAX_CALLS, "no end to the calls");
            test_note("%s, call %u: %s", c->name, nth, fault_modes[m].name);
            run_once(c, &image, &fault_modes[m], nth, false); /* another way than without a failure: other ops */
        } while (run_once(c, &image, &fault_modes[m], nth, true));
    }
    memdisk_finish(&image);
}

/* ---- what is no compressed stream ------------------------------------------------------------------------ */

/* An entry of a compressed cluster that leads to guest data: the read fails, others do not. */
static void test_no_stream(void)
{
    static const struct image_spec large = {
        .qcow2 = true, .size = GUEST, .cluster_size = 128 << 10, .version = 3, .refcount_bits = 16};
    uint64_t cluster = large.cluster_size, compressed = UINT64_C(1) << 62;
    uint8_t *buf = test_alloc(2 * cluster);
    struct memdisk d;
    struct backend *b;
    vdisk *v;

    memdisk_init(&d, 512);
    b = memdisk_open(&d, false);
    CHECK_OK(image_create_on(&large, b));
    backend_close(b);
    v = open_on(memdisk_open(&d, false), true);
    memset(buf, 0x11, cluster);
    CHECK_OK(vdisk_pwrite(v, buf, cluster, 0, 0));
    CHECK_OK(vdisk_close(v));
    for (unsigned i = 1; i <= 2; i++)
        disk_put(&d, l2_table(&d) + 8 * i, compressed | q2_l1_offset(disk_word(&d, l2_table(&d))), 8);
    v = open_on(memdisk_open(&d, true), false);
    CHECK(vdisk_pread(v, buf, cluster, cluster) == -EIO);
    CHECK(vdisk_pread(v, buf, 4096, cluster + 512) == -EIO);
    CHECK(vdisk_pread(v, buf, 2 * cluster, cluster) == -EIO);
    CHECK_OK(vdisk_pread(v, buf, cluster, 0));
    CHECK(buf[0] == 0x11 && memcmp(buf, buf + 1, cluster - 1) == 0);
    CHECK_OK(vdisk_close(v));
    memdisk_finish(&d);
    free(buf);
}

int main(int argc, char **argv)
{
    static const struct test_case cases[] = {
        {.name = "guard", .run = test_guard, .repeat = ARRAY_LEN(guard_cases)},
        {.name = "no-stream", .run = test_no_stream},
    };

    return test_main(argc, argv, cases, ARRAY_LEN(cases));
}
