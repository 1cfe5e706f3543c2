/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The create options, each with QEMU in both directions: who makes the image, who writes, who reads. After
 * every writer qemu-img check is clean, and both read what the oracle says.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "engine/base/bits.h"
#include "tests/interop/interop_lib.h"
#include "tests/lib/run.h"
#include "tests/lib/test.h"

#define SIZE ((UINT64_C(6) << 20) + 1536)

#define V2(cluster)         .cluster_size = (cluster), .version = 2, .refcount_bits = 16
#define V3(cluster)         .cluster_size = (cluster), .version = 3, .refcount_bits = 16
#define REFS(cluster, bits) .cluster_size = (cluster), .version = 3, .refcount_bits = (bits)

static const struct image_spec matrix[] = {
    {V3(65536)},
    {V3(512)},
    {V3(1024)},
    {V3(2048)},
    {V3(4096)},
    {V3(8192)},
    {V3(16384)},
    {V3(32768)},
    {V3(131072)},
    {V3(262144)},
    {V3(524288)},
    {V3(1048576)},
    {V3(2097152)},
    {V2(65536)},
    {V2(512)},
    {V2(2097152)},
    {REFS(65536, 1)},
    {REFS(4096, 2)},
    {REFS(65536, 4)},
    {REFS(512, 8)},
    {REFS(65536, 32)},
    {REFS(512, 64)},
    {REFS(65536, 64)},
    {V3(65536), .lazy_refcounts = true},
    {V3(512), .lazy_refcounts = true},
    {V3(16384), .extended_l2 = true},
    {V3(65536), .extended_l2 = true},
    {V3(131072), .extended_l2 = true, .lazy_refcounts = true},
    {V3(2097152), .extended_l2 = true},
    {V3(65536), .data_file = true},
    {V3(4096), .data_file = true, .extended_l2 = false},
    {V3(65536), .data_file = true, .extended_l2 = true},
    {V3(65536), .data_file = true, .data_file_raw = true},
    {V3(65536), .zstd = true},
    {V3(4096), .zstd = true},
    {V3(65536), .preallocation = VDISK_PREALLOC_METADATA},
    {V3(512), .preallocation = VDISK_PREALLOC_METADATA},
    {V3(65536), .preallocation = VDISK_PREALLOC_FALLOC},
    {V3(65536), .preallocation = VDISK_PREALLOC_FULL},
    {V2(4096), .preallocation = VDISK_PREALLOC_METADATA},
    {V3(65536), .extended_l2 = true, .preallocation = VDISK_PREALLOC_METADATA},
    {V3(65536), .extended_l2 = true, .preallocation = VDISK_PREALLOC_FULL},
    {V3(65536), .data_file = true, .preallocation = VDISK_PREALLOC_METADATA},
    {REFS(512, 1), .preallocation = VDISK_PREALLOC_FALLOC},
};

enum { STEPS = 120 };

static void setup(struct image_spec *spec, struct model *m, bool by_qemu)
{
    test_requires("qemu-io");
    *spec = matrix[test_repetition()];
    spec->qcow2 = true;
    spec->by_qemu = by_qemu;
    spec->size = SIZE;
    snprintf(spec->path, sizeof spec->path, "%s", test_path("image.qcow2"));
    test_note("%s", image_describe(spec));
    image_create(spec);
    image_check(spec->path, false);
    model_init(m, 0, SIZE);
}

/* What sanitizers find they find in half of the matrix: most of the time is QEMU's. */
static bool left_out(void)
{
    return test_is_quick() && test_is_slow() && (test_repetition() + test_seed()) % 2;
}

/* Made and filled by QEMU: we read it, then write it. */
static void test_theirs(void)
{
    struct image_spec spec;
    struct model m;

    if (left_out())
        return;
    setup(&spec, &m, true);
    image_add_content(test_rng(), &spec, &m, 1);
    engine_reads(spec.path, &m);
    engine_rewrites(&spec, &m, test_steps(STEPS));
    model_finish(&m);
}

/* Made and filled by us: QEMU reads it, writes it, and we read that and go on. */
static void test_ours(void)
{
    struct image_spec spec;
    struct model m;

    if (left_out())
        return;
    setup(&spec, &m, false);
    image_compare(spec.path, "qcow2", SIZE, &m, 1);
    engine_rewrites(&spec, &m, test_steps(STEPS));
    /* QEMU does not compress over clusters that are there. */
    spec.preallocation = VDISK_PREALLOC_METADATA;
    image_add_content(test_rng(), &spec, &m, 1);
    image_check(spec.path, false);
    engine_reads(spec.path, &m);
    engine_rewrites(&spec, &m, test_steps(STEPS));
    model_finish(&m);
}

static const char *info(const struct image_spec *spec)
{
    return run_ok("qemu-img info %s | grep -v -e '^disk size'", spec->path);
}

/* What info says of an image that we made is what it says of QEMU's own. */
static void test_info(void)
{
    struct image_spec spec;
    struct model m;
    char ours[8192];

    if (left_out())
        return;
    setup(&spec, &m, false);
    snprintf(ours, sizeof ours, "%s", info(&spec));
    remove(spec.path);
    spec.by_qemu = true;
    image_create(&spec);
    const char *theirs = info(&spec);
    CHECK_MSG(strcmp(ours, theirs) == 0, "ours: %s\ntheirs: %s", ours, theirs);
    model_finish(&m);
}

int main(int argc, char **argv)
{
    static const struct test_case cases[] = {
        {.name = "theirs", .run = test_theirs, .repeat = ARRAY_LEN(matrix)},
        {.name = "ours", .run = test_ours, .repeat = ARRAY_LEN(matrix)},
        {.name = "info", .run = test_info, .repeat = ARRAY_LEN(matrix)},
    };

    return test_main(argc, argv, cases, ARRAY_LEN(cases));
}
