/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Growing to an L1 table of many clusters: more than one refcount block, or the cache, has refcounts for. */
#include "tests/unit/backend_test.h"

#include "backends/memory.h"
#include "engine/create.h"
#include "engine/volume.h"
#include "qcow2/check/check.h"
#include "qcow2/qcow2.h"

static struct backend *keeper;

static struct backend *bytes(void)
{
    struct backend *b;

    OK(memory_backend_share(keeper, &b));
    return b;
}

static vdisk *open_image(uint32_t flags)
{
    struct vdisk_open_opts opts = {.size = sizeof opts, .flags = flags, .format = "qcow2", .cache_bytes = 1 << 20};
    vdisk *v;

    OK(vdisk_open_backend(bytes(), &opts, &v));
    return v;
}

static void expect_sound(vdisk_queue *q)
{
    struct qcow2_check_result res;
    struct backend *b = bytes();

    OK(qcow2_check(b, q, NULL, &res));
    assert_int_equal(res.corruptions, 0);
    assert_int_equal(res.check_errors, 0);
    assert_int_equal(res.leaks, 0);
    backend_close(b);
}

static void grow_to(uint32_t refcount_bits, bool fixed, uint64_t size)
{
    struct vdisk_create_opts opts = {.size = sizeof opts, .format = "qcow2", .virtual_size = 1 << 20,
                                     .cluster_size = 512, .refcount_bits = refcount_bits};
    struct memory_options memory = {.size = fixed ? 64 << 20 : 0, .fixed = fixed};
    vdisk_queue *q = test_queue(VDISK_QUEUE_AUTO);
    char out[1024], in[1024];
    struct backend *b;
    vdisk *v;

    OK(memory_backend_create_with("image", &memory, &keeper));
    b = bytes();
    OK(create_on(&qcow2_driver, b, &opts, q));
    backend_close(b);
    v = open_image(VDISK_OPEN_RDWR);
    memset(out, 0x5a, sizeof out);
    OK(vdisk_pwrite(v, out, sizeof out, 7777, 0));
    OK(vdisk_grow(v, size));
    OK(vdisk_pwrite(v, out, sizeof out, size - sizeof out, 0));
    OK(vdisk_close(v));
    expect_sound(q);
    v = open_image(0);
    assert_int_equal(vdisk_size(v), size);
    OK(vdisk_pread(v, in, sizeof in, 7777));
    assert_memory_equal(in, out, sizeof in);
    OK(vdisk_pread(v, in, sizeof in, size - sizeof out));
    assert_memory_equal(in, out, sizeof in);
    OK(vdisk_close(v));
    backend_close(keeper);
    vdisk_queue_destroy(q);
}

static void one_block_is_not_enough(void **state)
{
    grow_to(64, false, 1ull << 28); /* 128 clusters; a block has 64 refcounts */
    grow_to(64, true, 1ull << 28);
}

/* Guest data is read again, from slices that had left the cache, wherever it was put since the L1 table moved. */
static void old_table_is_no_place(void **state)
{
    struct vdisk_create_opts opts = {.size = sizeof opts, .format = "qcow2", .virtual_size = 64 << 10,
                                     .cluster_size = 512};
    enum { PIECE = 1 << 20, SIZE = 128 << 20 };
    vdisk_queue *q = test_queue(VDISK_QUEUE_AUTO);
    char *out = malloc(PIECE), *in = malloc(PIECE);
    struct backend *b;
    vdisk *v;

    OK(memory_backend_create("image", 0, &keeper));
    b = bytes();
    OK(create_on(&qcow2_driver, b, &opts, q));
    backend_close(b);
    v = open_image(VDISK_OPEN_RDWR);
    memset(out, 0x5a, PIECE);
    OK(vdisk_pwrite(v, out, 4096, 0, 0));
    OK(vdisk_grow(v, SIZE));
    OK(vdisk_sync(v)); /* the old table is free now */
    OK(vdisk_sync(v));
    for (uint64_t at = 0; at < SIZE; at += PIECE)
        OK(vdisk_pwrite(v, out, PIECE, at, 0));
    for (uint64_t at = 0; at < SIZE; at += PIECE) {
        OK(vdisk_pread(v, in, PIECE, at));
        assert_memory_equal(in, out, PIECE);
    }
    OK(vdisk_close(v));
    expect_sound(q);
    backend_close(keeper);
    vdisk_queue_destroy(q);
    free(out);
    free(in);
}

static void cache_is_not_enough(void **state)
{
    grow_to(64, false, 1ull << 35); /* 16384 clusters: 256 slices, and the cache has as many */
    grow_to(16, false, 100ull << 30);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_block_is_not_enough),
        cmocka_unit_test(cache_is_not_enough),
        cmocka_unit_test(old_table_is_no_place),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
