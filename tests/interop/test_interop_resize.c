/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Sizes, changed by us and by QEMU in turn: after each change the image checks clean, its content is what it was,
 * what is new reads as zeros, and both can write to it. And what forbids a change.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/base/bits.h"
#include "tests/interop/interop_lib.h"
#include "tests/lib/run.h"
#include "tests/lib/test.h"

#define MAX_SIZE (UINT64_C(10) << 20)

enum { ROUNDS = 8, STEPS = 30 };

static void resize_by_us(struct image_spec *spec, struct rng *r, struct model *m, uint64_t size)
{
    struct vdisk_resize_opts opts = {.size = sizeof opts, .shrink = true};
    vdisk *v = must_open(spec->path, VDISK_OPEN_RDWR);

    if (size > spec->size && rng_chance(r, 70))
        opts.preallocation = (enum vdisk_prealloc)rng_below(r, 4);
    if (!spec->qcow2 && opts.preallocation == VDISK_PREALLOC_METADATA)
        opts.preallocation = VDISK_PREALLOC_OFF;
    if (rng_chance(r, 50)) /* with something that is not written back */
        engine_workload(v, m, spec->cluster_size, 10);
    test_note("%s: to %" PRIu64 ", preallocation %d", image_describe(spec), size, (int)opts.preallocation);
    CHECK_OK(vdisk_resize(v, size, &opts));
    CHECK_INT(vdisk_size(v), size);
    model_resize(m, size);
    if (rng_chance(r, 50)) /* it goes on working */
        engine_workload(v, m, spec->cluster_size, 10);
    CHECK_OK(vdisk_close(v));
}

static void resize_by_qemu(struct image_spec *spec, struct model *m, uint64_t size)
{
    test_note("%s: to %" PRIu64 ", by QEMU", image_describe(spec), size);
    run_ok("qemu-img resize -q --shrink -f %s %s %" PRIu64, spec->qcow2 ? "qcow2" : "raw", spec->path, size);
    model_resize(m, size);
}

static void judge(const struct image_spec *spec, struct model *m)
{
    if (spec->qcow2)
        image_check(spec->path, false);
    engine_reads(spec->path, m);
    image_compare(spec->path, spec->qcow2 ? "qcow2" : "raw", spec->size, m, 1);
}

static void test_random(void)
{
    struct rng *r = test_rng();
    bool by_qemu, qemu_cut = false;
    struct image_spec spec;
    struct model m;

    test_requires("qemu-io");
    image_default(&spec, "image", align_up(rng_between(r, 1 << 20, MAX_SIZE), 512));
    image_random(r, &spec, 0);
    spec.by_qemu = rng_chance(r, 50);
    image_create(&spec);
    model_init(&m, 0, spec.size);
    image_add_content(r, &spec, &m, 1);
    for (unsigned i = 0; i < ROUNDS; i++) {
        uint64_t size = align_up(rng_between(r, rng_chance(r, 20) ? 512 : 1 << 20, MAX_SIZE), 512);

        /*
         * QEMU does not zero what it has cut off inside a cluster, and shows it when it grows again. We do not:
         * it is gone when we have grown, though not when we have cut off more.
         */
        by_qemu = rng_chance(r, 30) && (size < spec.size || !qemu_cut);
        qemu_cut = by_qemu ? qemu_cut || size < spec.size : qemu_cut && size <= spec.size;
        if (by_qemu)
            resize_by_qemu(&spec, &m, size);
        else
            resize_by_us(&spec, r, &m, size);
        spec.size = size;
        judge(&spec, &m);
        if (spec.qcow2 && size >= 1 << 20 && i % 2)
            engine_rewrites(&spec, &m, STEPS);
    }
    model_finish(&m);
}

/* Over a backing file that is longer, with everything that preallocation does. */
static void test_backed(void)
{
    struct rng *r = test_rng();
    struct image_spec base, top;
    struct model m;

    test_requires("qemu-io");
    image_default(&base, "base.qcow2", 4 << 20);
    base.by_qemu = true;
    image_create(&base);
    model_init(&m, 0, base.size);
    qemu_write(base.path, &m, "", 1, 0, base.size);
    image_default(&top, "top.qcow2", (1 << 20) + 512 * rng_below(r, 200));
    top.version = rng_chance(r, 50) ? 2 : 3;
    top.cluster_size = 4096u << rng_below(r, 6);
    top.extended_l2 = top.version == 3 && top.cluster_size >= 16384 && rng_chance(r, 50);
    snprintf(top.backing, sizeof top.backing, "%s", base.path);
    top.backing_format = "qcow2";
    image_create(&top);
    model_resize(&m, top.size);
    for (unsigned i = 0; i < ROUNDS; i++) {
        uint64_t size = align_up(rng_between(r, 4096, MAX_SIZE), 512);

        resize_by_us(&top, r, &m, size);
        top.size = size;
        judge(&top, &m);
    }
    model_finish(&m);
}

/* A snapshot keeps what the disk was. */
static void test_snapshot(void)
{
    struct rng *r = test_rng();
    struct image_spec spec;
    struct model m, before;

    test_requires("qemu-io");
    image_default(&spec, "image.qcow2", 5 << 20);
    image_create(&spec);
    model_init(&m, 0, spec.size);
    image_add_content(r, &spec, &m, 1);
    model_init(&before, 0, spec.size);
    model_copy(&before, &m);
    run_ok("qemu-img snapshot -c one %s", spec.path);
    for (unsigned i = 0; i < 4; i++) {
        spec.size = align_up(rng_between(r, 1 << 20, MAX_SIZE), 512);
        resize_by_us(&spec, r, &m, spec.size);
        judge(&spec, &m);
    }
    run_ok("qemu-img snapshot -a one %s", spec.path);
    image_check(spec.path, false);
    engine_reads(spec.path, &before);
    model_finish(&m);
    model_finish(&before);
}

static void must_not(const char *path, uint64_t size, bool shrink, enum vdisk_prealloc prealloc, int error,
                     const char *part)
{
    struct vdisk_resize_opts opts = {.size = sizeof opts, .shrink = shrink, .preallocation = prealloc};
    vdisk *v = must_open(path, VDISK_OPEN_RDWR);
    uint64_t before = vdisk_size(v);

    CHECK_INT(vdisk_resize(v, size, &opts), error);
    CHECK_HAS(vdisk_error_text(), part);
    CHECK_INT(vdisk_size(v), before);
    CHECK_OK(vdisk_close(v));
    image_check(path, false);
}

static void test_refused(void)
{
    struct image_spec spec;
    vdisk *v;

    test_requires("qemu-img");
    image_default(&spec, "image.qcow2", 4 << 20);
    image_create(&spec);
    must_not(spec.path, 1 << 20, false, VDISK_PREALLOC_OFF, -EINVAL, "less than the present size");
    must_not(spec.path, 1 << 20, true, VDISK_PREALLOC_FULL, -EINVAL, "preallocation is for growing");
    must_not(spec.path, UINT64_C(1) << 62, false, VDISK_PREALLOC_OFF, -EFBIG, "at most");
    must_not(spec.path, UINT64_MAX, false, VDISK_PREALLOC_OFF, -EFBIG, "too large");
    /* One more entry in the bitmap's table; and as many as before. */
    run_ok("qemu-img bitmap --add --disable -g 512 %s b0", spec.path);
    must_not(spec.path, UINT64_C(1) << 30, false, VDISK_PREALLOC_OFF, -ENOTSUP, "bitmap 'b0'");
    v = must_open(spec.path, VDISK_OPEN_RDWR);
    CHECK_OK(vdisk_grow(v, 8 << 20));
    CHECK_OK(vdisk_close(v));
    image_check(spec.path, false);
    run_ok("qemu-img bitmap --remove %s b0", spec.path);
    /* Version 2 snapshots do not say how large the disk was. */
    image_default(&spec, "old.qcow2", 4 << 20);
    spec.version = 2;
    image_create(&spec);
    run_ok("qemu-img snapshot -c one %s", spec.path);
    must_not(spec.path, 8 << 20, false, VDISK_PREALLOC_OFF, -ENOTSUP, "snapshots");
    v = must_open(spec.path, 0);
    CHECK_INT(vdisk_grow(v, 8 << 20), -EACCES);
    CHECK_OK(vdisk_close(v));
}

static int stop_at_once(void *arg, uint64_t done, uint64_t total)
{
    return 1;
}

/* A full image that becomes small is small on the host, wherever its clusters were. */
static void test_space(void)
{
    struct image_spec spec;
    struct model m;
    struct stat st;
    uint64_t clusters;

    test_requires("qemu-io");
    image_default(&spec, "image.qcow2", 8 << 20);
    spec.cluster_size = test_repetition() ? 4096 : 65536;
    image_create(&spec);
    model_init(&m, 0, spec.size);
    qemu_write(spec.path, &m, "", 1, 4 << 20, 4 << 20);
    qemu_write(spec.path, &m, "", 2, 0, 4 << 20);
    spec.size = 1 << 20;
    resize_by_us(&spec, test_rng(), &m, spec.size);
    judge(&spec, &m);
    CHECK(stat(spec.path, &st) == 0);
    clusters = (uint64_t)st.st_blocks * 512 / spec.cluster_size;
    CHECK_MSG(clusters <= spec.size / spec.cluster_size + 12, "%" PRIu64 " clusters of %u are left", clusters,
              spec.cluster_size);
    model_finish(&m);
}

/* Stopped in the middle: the size is the old one, nothing is leaked. */
static void test_cancelled(void)
{
    struct vdisk_resize_opts opts = {.size = sizeof opts, .progress = stop_at_once};
    struct image_spec spec;
    struct model m;
    vdisk *v;

    test_requires("qemu-img");
    opts.preallocation = (enum vdisk_prealloc)(VDISK_PREALLOC_METADATA + test_repetition());
    image_default(&spec, "image.qcow2", 4 << 20);
    image_create(&spec);
    model_init(&m, 0, spec.size);
    v = must_open(spec.path, VDISK_OPEN_RDWR);
    CHECK_INT(vdisk_resize(v, UINT64_C(1) << 30, &opts), -ECANCELED);
    CHECK_INT(vdisk_size(v), spec.size);
    CHECK_OK(vdisk_close(v));
    judge(&spec, &m);
    model_finish(&m);
}

int main(int argc, char **argv)
{
    static const struct test_case cases[] = {
        {.name = "random", .run = test_random, .repeat = 16, .quick = 6},
        {.name = "backed", .run = test_backed, .repeat = 8, .quick = 3},
        {.name = "snapshot", .run = test_snapshot, .repeat = 4, .quick = 2},
        {.name = "space", .run = test_space, .repeat = 2},
        {.name = "refused", .run = test_refused},
        {.name = "cancelled", .run = test_cancelled, .repeat = 3},
    };

    return test_main(argc, argv, cases, ARRAY_LEN(cases));
}
