/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Zeros and discards as protocols ask for them: zeros that fail rather than be written, with nothing changed;
 * discards that are durable when they complete; and what vdisk_info says of both is so.
 */
#include <stdlib.h>

#include "tests/callers/callers.h"

static vdisk_queue *q;

static void each_kind(void (*run)(void))
{
    for (unsigned i = 0; i < ARRAY_LEN(all_kinds); i++) {
        struct vdisk_queue_opts opts = {.size = sizeof opts, .kind = all_kinds[i]};
        test_note("kind %s", vdisk_queue_kind_name(all_kinds[i]));
        CHECK_OK(vdisk_queue_create(&opts, &q));
        run();
        CHECK_OK(vdisk_queue_destroy(q));
    }
}

static int zero(vdisk *v, uint64_t offset, uint64_t len, uint32_t flags)
{
    int results[1];

    vdisk_write_zeroes(q, v, offset, len, flags, 0);
    reap_all(q, 1, results);
    return results[0];
}

static int discard(vdisk *v, uint64_t offset, uint64_t len, uint32_t flags)
{
    int results[1];

    vdisk_discard(q, v, offset, len, flags, 0);
    reap_all(q, 1, results);
    return results[0];
}

static void expect(vdisk *v, uint64_t offset, uint64_t len, int byte)
{
    char *buf = vdisk_alloc_buffer(len);

    CHECK_OK(vdisk_pread(v, buf, len, offset));
    for (uint64_t i = 0; i < len; i++)
        CHECK_MSG(buf[i] == byte, "byte %llu is 0x%x, not 0x%x", (unsigned long long)(offset + i), buf[i], byte);
    free(buf);
}

static struct vdisk_info info_of(vdisk *v)
{
    struct vdisk_info info = {.size = sizeof info};

    CHECK_OK(vdisk_get_info(v, &info));
    return info;
}

/* ---- qcow2 ------------------------------------------------------------------------------------------- */

static void qcow2_zeros(void)
{
    vdisk *v = open_rw(make_full_image("image"));
    struct vdisk_info info = info_of(v);

    CHECK_INT(info.zero_align, CLUSTER);
    CHECK_INT(info.discard_align, CLUSTER);
    CHECK_INT(info.preferred_transfer, CLUSTER);
    CHECK(info.zeroes_cheap && info.max_transfer >= CLUSTER);
    CHECK_INT(zero(v, 2 * CLUSTER, 2 * CLUSTER, VDISK_REQ_NO_FALLBACK), 0);
    expect(v, 2 * CLUSTER, 2 * CLUSTER, 0);
    CHECK_INT(zero(v, 5 * CLUSTER, CLUSTER, VDISK_REQ_NO_FALLBACK | VDISK_REQ_UNMAP | VDISK_REQ_FUA), 0);
    expect(v, 5 * CLUSTER, CLUSTER, 0);
    /* Ends inside clusters that hold something: all of it stays. */
    CHECK_INT(zero(v, 8 * CLUSTER + BLOCK, 3 * CLUSTER, VDISK_REQ_NO_FALLBACK), -ENOTSUP);
    CHECK_INT(zero(v, 8 * CLUSTER, 2 * CLUSTER + BLOCK, VDISK_REQ_NO_FALLBACK), -ENOTSUP);
    CHECK_INT(zero(v, 8 * CLUSTER + BLOCK, BLOCK, VDISK_REQ_NO_FALLBACK), -ENOTSUP);
    expect(v, 8 * CLUSTER, 4 * CLUSTER, 0x5a);
    CHECK_INT(zero(v, 8 * CLUSTER + BLOCK, 3 * CLUSTER, 0), 0);
    expect(v, 8 * CLUSTER, BLOCK, 0x5a);
    expect(v, 8 * CLUSTER + BLOCK, 3 * CLUSTER, 0);
    /* Ends that read as zeros already, and are known to. */
    CHECK_INT(zero(v, 2 * CLUSTER + BLOCK, CLUSTER, VDISK_REQ_NO_FALLBACK), 0);
    vdisk_discard(q, v, 0, BLOCK, VDISK_REQ_NO_FALLBACK, 0);
    CHECK_INT(zero(v, 0, CLUSTER, 1u << 5), -EINVAL);
    int results[1];
    reap_all(q, 1, results);
    CHECK_INT(results[0], -EINVAL);
    CHECK_OK(vdisk_close(v));
}

/* Version 2 has no entry that says zero: over a backing file zeros have to be written. */
static void version_2(void)
{
    const char *path = test_path("over"), *base = make_full_image("base");
    struct vdisk_create_opts opts = {.size = sizeof opts, .format = "qcow2", .version = 2, .backing_file = base,
                                     .backing_fmt = "qcow2", .virtual_size = UINT64_MAX};
    vdisk *v;

    CHECK_OK(vdisk_create(path, &opts));
    v = open_rw(path);
    CHECK(!info_of(v).zeroes_cheap);
    CHECK_INT(zero(v, CLUSTER, 2 * CLUSTER, VDISK_REQ_NO_FALLBACK), -ENOTSUP);
    expect(v, CLUSTER, 2 * CLUSTER, 0x5a);
    CHECK_INT(zero(v, CLUSTER, 2 * CLUSTER, 0), 0);
    expect(v, CLUSTER, 2 * CLUSTER, 0);
    CHECK_OK(vdisk_close(v));
}

static void test_qcow2(void)
{
    each_kind(qcow2_zeros);
    each_kind(version_2);
}

/* ---- raw --------------------------------------------------------------------------------------------- */

static void raw_zeros(void)
{
    const char *path = test_path("raw");
    struct vdisk_create_opts create = {.size = sizeof create, .format = "raw", .virtual_size = 8 << 20};
    struct vdisk_open_opts opts = {.size = sizeof opts, .flags = VDISK_OPEN_RDWR, .format = "raw"};
    char *buf = vdisk_alloc_buffer(CLUSTER);
    vdisk *v;
    int rc;

    memset(buf, 0x5a, CLUSTER);
    CHECK_OK(vdisk_create(path, &create));
    CHECK_OK(vdisk_open(path, &opts, &v));
    CHECK_INT(info_of(v).zero_align, info_of(v).request_align);
    CHECK(info_of(v).discard_align >= 512 && info_of(v).max_transfer >= CLUSTER);
    CHECK_OK(vdisk_pwrite(v, buf, CLUSTER, CLUSTER, 0));
    rc = zero(v, CLUSTER + BLOCK, BLOCK, VDISK_REQ_NO_FALLBACK);
    CHECK(rc == 0 || rc == -ENOTSUP); /* as the file system has it */
    expect(v, CLUSTER, BLOCK, 0x5a);
    expect(v, CLUSTER + BLOCK, BLOCK, rc == 0 ? 0 : 0x5a);
    CHECK_INT(discard(v, CLUSTER, BLOCK, VDISK_REQ_FUA), 0);
    CHECK_OK(vdisk_close(v));
    free(buf);
}

static void test_raw(void)
{
    each_kind(raw_zeros);
}

/* ---- durable discards -------------------------------------------------------------------------------- */

/* What the flush behind it makes durable is the metadata: another handle that reads the file sees it. */
static void durable(void)
{
    const char *path = make_full_image("image");
    struct vdisk_open_opts share = {.size = sizeof share, .flags = VDISK_OPEN_FORCE_SHARE, .format = "qcow2"};
    vdisk *v = open_rw(path), *reader;

    CHECK_INT(discard(v, CLUSTER, CLUSTER, VDISK_REQ_FUA), 0);
    CHECK_OK(vdisk_open(path, &share, &reader));
    expect(reader, CLUSTER, CLUSTER, 0);
    expect(reader, 2 * CLUSTER, CLUSTER, 0x5a);
    CHECK_OK(vdisk_close(reader));
    CHECK_INT(discard(v, CLUSTER, CLUSTER, VDISK_REQ_UNMAP), -EINVAL);
    CHECK_OK(vdisk_close(v));
}

static void test_durable(void)
{
    each_kind(durable);
}

int main(int argc, char **argv)
{
    static const struct test_case cases[] = {
        {.name = "qcow2", .run = test_qcow2},
        {.name = "raw", .run = test_raw},
        {.name = "durable", .run = test_durable},
    };

    return test_main(argc, argv, cases, ARRAY_LEN(cases));
}
