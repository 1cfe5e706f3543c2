/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What else may be in an image that QEMU made: internal snapshots, bitmaps, feature bits, a dirty or corrupt mark,
 * header extensions that nobody knows, backing files.
 */
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/base/bits.h"
#include "tests/interop/interop_lib.h"
#include "tests/lib/run.h"
#include "tests/lib/test.h"

enum { SIZE = 4 << 20, STEPS = 200 };

static void make(struct image_spec *spec, struct model *m)
{
    test_requires("qemu-io");
    spec->by_qemu = true;
    test_note("%s", image_describe(spec));
    image_create(spec);
    model_init(m, 0, spec->size);
}

static void make_default(struct image_spec *spec, struct model *m)
{
    image_default(spec, "image.qcow2", SIZE);
    make(spec, m);
}

/* ---- internal snapshots ----------------------------------------------------------------------------- */

static void add_snapshot(const struct image_spec *spec, const char *name, struct model *copy, struct model *m)
{
    image_add_content(test_rng(), spec, m, 1);
    run_ok("qemu-img snapshot -c %s %s", name, spec->path);
    model_init(copy, 0, m->size);
    model_copy(copy, m);
}

static void check_snapshot(const struct image_spec *spec, const char *name, struct model *m)
{
    run_ok("qemu-img snapshot -a %s %s", name, spec->path);
    image_check(spec->path, false);
    image_compare(spec->path, "qcow2", spec->size, m, 1);
    engine_reads(spec->path, m);
}

/* Two snapshots, then we write over everything: both keep all their bytes. */
static void snapshots_survive(struct image_spec *spec)
{
    struct model m, first, second;

    make(spec, &m);
    add_snapshot(spec, "first", &first, &m);
    add_snapshot(spec, "second", &second, &m);
    engine_rewrites(spec, &m, test_steps(STEPS));
    engine_rewrites(spec, &m, test_steps(STEPS));
    CHECK_HAS(run_ok("qemu-img snapshot -l %s", spec->path), "second");
    /* Keep what is current, too. */
    run_ok("qemu-img snapshot -c third %s", spec->path);
    check_snapshot(spec, "first", &first);
    check_snapshot(spec, "second", &second);
    check_snapshot(spec, "third", &m);
    run_ok("qemu-img snapshot -d first %s", spec->path);
    run_ok("qemu-img snapshot -d second %s", spec->path);
    image_check(spec->path, false);
    model_finish(&m);
    model_finish(&first);
    model_finish(&second);
}

static void test_snapshots(void)
{
    static const struct image_spec options[] = {
        {.cluster_size = 65536, .version = 3, .refcount_bits = 16},
        {.cluster_size = 512, .version = 3, .refcount_bits = 16},
        /* QEMU cannot count more references than that to a cluster of compressed ones. */
        {.cluster_size = 4096, .version = 3, .refcount_bits = 8},
        {.cluster_size = 65536, .version = 2, .refcount_bits = 16},
        {.cluster_size = 65536, .version = 3, .refcount_bits = 64, .lazy_refcounts = true},
        {.cluster_size = 65536, .version = 3, .refcount_bits = 16, .extended_l2 = true},
        {.cluster_size = 65536, .version = 3, .refcount_bits = 16, .preallocation = VDISK_PREALLOC_METADATA},
        {.cluster_size = 2097152, .version = 3, .refcount_bits = 16},
    };
    struct image_spec spec = options[test_repetition() % ARRAY_LEN(options)];

    spec.qcow2 = true;
    spec.size = SIZE + 512;
    snprintf(spec.path, sizeof spec.path, "%s", test_path("image.qcow2"));
    snapshots_survive(&spec);
}

/* ---- bitmaps ---------------------------------------------------------------------------------------- */

static void test_bitmap_disabled(void)
{
    struct image_spec spec;
    struct model m;

    make_default(&spec, &m);
    qemu_write(spec.path, &m, "", 1, 0, 1 << 20);
    run_ok("qemu-img bitmap --add --disable %s old-backup", spec.path);
    run_ok("qemu-img bitmap --add -g 4096 --disable %s other", spec.path);
    engine_rewrites(&spec, &m, test_steps(STEPS));
    const char *info = run_ok("qemu-img info %s", spec.path);
    CHECK_HAS(info, "old-backup");
    CHECK_HAS(info, "other");
    CHECK_MSG(!strstr(info, "in-use"), "a bitmap is marked as in use: %s", info);
    /* QEMU itself still takes them. */
    run_ok("qemu-img bitmap --enable %s other", spec.path);
    run_ok("qemu-img bitmap --remove %s old-backup", spec.path);
    image_check(spec.path, false);
    model_finish(&m);
}

/* It would have to record what we write: refused for writing, by name; reading is fine. */
static void test_bitmap_active(void)
{
    struct image_spec spec;
    struct model m;

    make_default(&spec, &m);
    qemu_write(spec.path, &m, "", 1, 4096, 100000 / 512 * 512);
    run_ok("qemu-img bitmap --add %s nightly", spec.path);
    must_refuse(spec.path, VDISK_OPEN_RDWR, -ENOTSUP, "nightly");
    engine_reads(spec.path, &m);
    image_check(spec.path, false);
    run_ok("qemu-img bitmap --disable %s nightly", spec.path);
    engine_rewrites(&spec, &m, 20);
    model_finish(&m);
}

/* ---- feature bits ----------------------------------------------------------------------------------- */

static void test_autoclear_unknown(void)
{
    const uint64_t bit = UINT64_C(1) << 63;
    struct image_spec spec;
    struct model m;

    make_default(&spec, &m);
    file_set_be64(spec.path, HEADER_AUTOCLEAR, bit);
    engine_reads(spec.path, &m);
    CHECK(file_be64(spec.path, HEADER_AUTOCLEAR) == bit);
    engine_rewrites(&spec, &m, 20);
    CHECK(file_be64(spec.path, HEADER_AUTOCLEAR) == 0);
    model_finish(&m);
}

static void test_compatible_unknown(void)
{
    const uint64_t bit = UINT64_C(1) << 40;
    struct image_spec spec;
    struct model m;

    make_default(&spec, &m);
    file_set_be64(spec.path, HEADER_COMPATIBLE, bit);
    engine_rewrites(&spec, &m, 20);
    CHECK(file_be64(spec.path, HEADER_COMPATIBLE) == bit);
    model_finish(&m);
}

/* Refused by its number; and by its name where the image has one for it. */
static void test_incompatible_unknown(void)
{
    enum { NAME_TABLE = 0x6803f857, ENTRY = 48 };
    uint8_t head[65536], entry[ENTRY] = {0, 40};
    struct image_spec spec;
    struct model m;
    size_t at = 0;

    make_default(&spec, &m);
    file_set_be64(spec.path, HEADER_INCOMPATIBLE, UINT64_C(1) << 40);
    must_refuse(spec.path, 0, -ENOTSUP, "40");
    must_refuse(spec.path, VDISK_OPEN_RDWR, -ENOTSUP, "40");
    file_read(spec.path, 0, head, sizeof head);
    for (size_t i = 100; i < 1024 && at == 0; i += 4)
        if (get_be32(head + i) == NAME_TABLE)
            at = i + 8;
    CHECK_MSG(at > 0, "QEMU wrote no table of feature names");
    snprintf((char *)entry + 2, ENTRY - 2, "shiny new thing");
    file_write(spec.path, at, entry, sizeof entry);
    must_refuse(spec.path, 0, -ENOTSUP, "shiny new thing");
    must_refuse(spec.path, VDISK_OPEN_RDWR, -ENOTSUP, "shiny new thing");
    model_finish(&m);
}

/* Marked corrupt: not for writing; what it says can still be read. */
static void test_corrupt_bit(void)
{
    struct image_spec spec;
    struct model m;

    make_default(&spec, &m);
    qemu_write(spec.path, &m, "", 2, 65536, 65536);
    file_set_be64(spec.path, HEADER_INCOMPATIBLE, 2);
    must_refuse(spec.path, VDISK_OPEN_RDWR, -EACCES, "corrupt");
    engine_reads(spec.path, &m);
    CHECK(file_be64(spec.path, HEADER_INCOMPATIBLE) == 2);
    model_finish(&m);
}

/* An extension of an unknown type stays where it is. */
static void test_extension_unknown(void)
{
    const uint8_t extension[] = {0x12, 0x34, 0x56, 0x78, 0, 0, 0, 5, 'h', 'e', 'l', 'l',
                                 'o',  0,    0,    0,    0, 0, 0, 0, 0,   0,   0,   0};
    struct image_spec spec;
    struct model m;
    uint8_t head[1024], after[sizeof extension];
    size_t at;

    make_default(&spec, &m);
    file_read(spec.path, 0, head, sizeof head);
    for (at = get_be32(head + 100); get_be32(head + at) != 0; at += 8 + align_up(get_be32(head + at + 4), 8))
        CHECK(at < 900);
    file_write(spec.path, at, extension, sizeof extension);
    file_set_be64(spec.path, HEADER_AUTOCLEAR, UINT64_C(1) << 63); /* so that the header is written */
    engine_rewrites(&spec, &m, 20);
    CHECK(file_be64(spec.path, HEADER_AUTOCLEAR) == 0);
    file_read(spec.path, at, after, sizeof after);
    CHECK(memcmp(after, extension, sizeof extension) == 0);
    model_finish(&m);
}

/* ---- left dirty ------------------------------------------------------------------------------------- */

/* QEMU with lazy refcounts dies after a flush: mappings are on disk, refcounts are not. */
static void leave_dirty(const struct image_spec *spec, struct model *m)
{
    struct run_result r;
    uint8_t *bytes = test_alloc(300 << 10);

    image_pattern_bytes(3, bytes, 300 << 10);
    run_shell(&r, "ulimit -c 0; exec qemu-io -c 'write -s %s 70k 300k' -c flush -c abort %s",
              image_pattern_file(3), spec->path);
    CHECK_INT(r.status, 128 + SIGABRT);
    model_write(m, 70 << 10, bytes, 300 << 10);
    free(bytes);
    CHECK_MSG(file_be64(spec->path, HEADER_INCOMPATIBLE) & 1, "QEMU left no dirty bit");
}

static void test_dirty(void)
{
    struct image_spec spec;
    struct model m;
    vdisk *v;

    image_default(&spec, "image.qcow2", SIZE);
    spec.lazy_refcounts = true;
    make(&spec, &m);
    leave_dirty(&spec, &m);
    engine_reads(spec.path, &m);
    CHECK_MSG(file_be64(spec.path, HEADER_INCOMPATIBLE) & 1, "opening for reading changed the image");
    v = must_open(spec.path, VDISK_OPEN_RDWR);
    engine_write(v, &m, 2, 0, 200 << 10);
    engine_write(v, &m, 1, 2 << 20, 200 << 10);
    CHECK_OK(vdisk_close(v));
    CHECK_MSG(!(file_be64(spec.path, HEADER_INCOMPATIBLE) & 1), "the dirty bit is still set");
    image_check(spec.path, false);
    image_compare(spec.path, "qcow2", SIZE, &m, 1);
    engine_rewrites(&spec, &m, test_steps(STEPS));
    model_finish(&m);
}

/* We die with lazy refcounts, after a flush: QEMU repairs it, and all that was flushed is there. */
static void test_dirty_ours(void)
{
    struct image_spec spec;
    struct model m;
    pid_t pid;

    image_default(&spec, "image.qcow2", SIZE);
    spec.lazy_refcounts = true;
    make(&spec, &m);
    fflush(NULL);
    pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        vdisk *v = must_open(spec.path, VDISK_OPEN_RDWR);
        engine_write(v, &m, 3, 70 << 10, 300 << 10);
        CHECK_OK(vdisk_sync(v));
        kill(getpid(), SIGKILL);
    }
    struct run_child child = {.pid = pid, .in = -1, .out = -1};
    run_wait(&child);
    uint8_t *bytes = test_alloc(300 << 10);
    image_pattern_bytes(3, bytes, 300 << 10);
    model_write(&m, 70 << 10, bytes, 300 << 10);
    free(bytes);
    /* The lease that was open is leaked, and nothing is worse. */
    image_check(spec.path, true);
    run_ok("qemu-img check -q -r leaks %s", spec.path);
    image_check(spec.path, false);
    image_compare(spec.path, "qcow2", SIZE, &m, 1);
    engine_rewrites(&spec, &m, 50);
    model_finish(&m);
}

/* The same without lazy refcounts: at most leaks are left. */
static void test_killed(void)
{
    struct image_spec spec;
    struct model m;
    pid_t pid;

    make_default(&spec, &m);
    fflush(NULL);
    pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        vdisk *v = must_open(spec.path, VDISK_OPEN_RDWR);
        engine_workload(v, &m, 65536, 50);
        engine_write(v, &m, 3, 0, SIZE);
        CHECK_OK(vdisk_sync(v));
        engine_write(v, &m, 3, 0, SIZE);
        kill(getpid(), SIGKILL);
    }
    struct run_child child = {.pid = pid, .in = -1, .out = -1};
    run_wait(&child);
    uint8_t *bytes = test_alloc(SIZE);
    image_pattern_bytes(3, bytes, SIZE);
    model_write(&m, 0, bytes, SIZE);
    free(bytes);
    image_check(spec.path, true);
    engine_reads(spec.path, &m);
    image_compare(spec.path, "qcow2", SIZE, &m, 1);
    model_finish(&m);
}

/* ---- backing files ---------------------------------------------------------------------------------- */

/* Overlay by us over a base by QEMU, with a name relative to the overlay; and layers of different size. */
static void test_backing_relative(void)
{
    struct image_spec base, top;
    struct vdisk_create_opts opts;
    struct model m;

    image_default(&base, "base.qcow2", SIZE / 2);
    base.by_qemu = true;
    test_requires("qemu-io");
    image_create(&base);
    model_init(&m, 0, SIZE);
    image_add_content(test_rng(), &base, &m, 1);
    image_default(&top, "top.qcow2", SIZE);
    image_create_opts(&top, &opts);
    opts.backing_file = "base.qcow2";
    opts.backing_fmt = "qcow2";
    CHECK_OK(vdisk_create(top.path, &opts));
    CHECK_HAS(run_ok("qemu-img info %s", top.path), "backing file: base.qcow2 (actual path: ");
    engine_reads(top.path, &m);
    engine_rewrites(&top, &m, test_steps(STEPS));
    image_check(base.path, false);
    model_finish(&m);
}

/* The size is the base's when none is given. */
static void test_backing_size(void)
{
    struct image_spec base, top;
    struct vdisk_create_opts opts;
    struct model m;

    image_default(&base, "base.qcow2", SIZE + 512);
    make(&base, &m);
    image_default(&top, "top.qcow2", UINT64_MAX);
    image_create_opts(&top, &opts);
    opts.backing_file = base.path;
    opts.backing_fmt = "qcow2";
    CHECK_OK(vdisk_create(top.path, &opts));
    engine_reads(top.path, &m);
    model_finish(&m);
}

/* Without its backing chain, what the chain would give reads as zeros. */
static void test_no_backing(void)
{
    struct image_spec base, top;
    struct model m, alone;
    vdisk *v;

    image_default(&base, "base.qcow2", SIZE);
    make(&base, &m);
    image_add_content(test_rng(), &base, &m, 1);
    image_default(&top, "top.qcow2", SIZE);
    snprintf(top.backing, sizeof top.backing, "%s", base.path);
    top.backing_format = "qcow2";
    image_create(&top);
    model_init(&alone, 0, SIZE);
    engine_reads(top.path, &m);
    v = must_open(top.path, VDISK_OPEN_NO_BACKING);
    uint8_t *buf = test_alloc(SIZE);
    CHECK_OK(vdisk_pread(v, buf, SIZE, 0));
    model_expect(&alone, 0, buf, SIZE, "without backing");
    free(buf);
    CHECK_OK(vdisk_close(v));
    unlink(base.path);
    must_refuse(top.path, 0, -ENOENT, "base.qcow2");
    model_finish(&m);
    model_finish(&alone);
}

/* An overlay that we grew past its base does not show what QEMU puts there. */
static void test_grow_over_longer_base(void)
{
    struct image_spec base, top;
    struct model m;
    vdisk *v;

    for (uint32_t version = 2; version <= 3; version++) {
        image_default(&base, "base.qcow2", SIZE);
        base.by_qemu = true;
        image_create(&base);
        model_init(&m, 0, SIZE);
        qemu_write(base.path, &m, "", 1, 0, SIZE);
        image_default(&top, "top.qcow2", SIZE / 2 + 512);
        top.version = version;
        snprintf(top.backing, sizeof top.backing, "%s", base.path);
        top.backing_format = "qcow2";
        image_create(&top);
        v = must_open(top.path, VDISK_OPEN_RDWR);
        CHECK_OK(vdisk_grow(v, SIZE));
        CHECK_OK(vdisk_close(v));
        model_zero(&m, SIZE / 2 + 512, SIZE - SIZE / 2 - 512);
        image_check(top.path, false);
        engine_reads(top.path, &m);
        image_compare(top.path, "qcow2", SIZE, &m, 1);
        model_finish(&m);
    }
}

/* The data file may be named by the one who opens. */
static void test_data_file_override(void)
{
    struct image_spec spec;
    struct model m;
    vdisk *v;

    image_default(&spec, "image.qcow2", SIZE);
    spec.data_file = true;
    make(&spec, &m);
    image_add_content(test_rng(), &spec, &m, 1);
    engine_reads(spec.path, &m);
    CHECK(rename(test_path("image.qcow2.data"), test_path("moved")) == 0);
    must_refuse(spec.path, 0, -ENOENT, "image.qcow2.data");
    struct vdisk_open_opts opts = {.size = sizeof opts, .data_file = test_path("moved")};
    CHECK_OK(vdisk_open(spec.path, &opts, &v));
    uint8_t *buf = test_alloc(SIZE);
    CHECK_OK(vdisk_pread(v, buf, SIZE, 0));
    model_expect(&m, 0, buf, SIZE, "by another name");
    free(buf);
    CHECK_OK(vdisk_close(v));
    model_finish(&m);
}

int main(int argc, char **argv)
{
    static const struct test_case cases[] = {
        {.name = "snapshots", .run = test_snapshots, .repeat = 8},
        {.name = "bitmap_disabled", .run = test_bitmap_disabled},
        {.name = "bitmap_active", .run = test_bitmap_active},
        {.name = "autoclear_unknown", .run = test_autoclear_unknown},
        {.name = "compatible_unknown", .run = test_compatible_unknown},
        {.name = "incompatible_unknown", .run = test_incompatible_unknown},
        {.name = "corrupt_bit", .run = test_corrupt_bit},
        {.name = "extension_unknown", .run = test_extension_unknown},
        {.name = "dirty", .run = test_dirty},
        {.name = "dirty_ours", .run = test_dirty_ours},
        {.name = "killed", .run = test_killed},
        {.name = "backing_relative", .run = test_backing_relative},
        {.name = "backing_size", .run = test_backing_size},
        {.name = "no_backing", .run = test_no_backing},
        {.name = "grow_over_longer_base", .run = test_grow_over_longer_base},
        {.name = "data_file_override", .run = test_data_file_override},
    };

    return test_main(argc, argv, cases, ARRAY_LEN(cases));
}
