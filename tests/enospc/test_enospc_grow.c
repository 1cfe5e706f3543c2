/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A device that is extended while an image on it is open: what it has gained is used by the next write that needs
 * it, all of it, without a flush, a reopen or a resize in between. In memory; and on a loop device, which needs
 * root.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "backends/memory.h"
#include "engine/base/bits.h"
#include "engine/volume.h"
#include "tests/lib/image.h"
#include "tests/lib/memdisk.h"
#include "tests/lib/run.h"
#include "tests/lib/test.h"

enum { UNIT = 32 << 10, ROUNDS = 4, GUEST = 64 << 20 };

/* Write on until nothing fits any more: how many bytes that were. */
static uint64_t fill_on(vdisk *v, uint64_t *offset)
{
    uint64_t before = *offset;
    char *buf = test_alloc(UNIT);
    int rc;

    for (;; *offset += UNIT) {
        memset(buf, (int)(*offset / UNIT % 250 + 1), UNIT);
        rc = vdisk_pwrite(v, buf, UNIT, *offset, 0);
        if (rc < 0)
            break;
    }
    CHECK_INT(rc, -ENOSPC);
    free(buf);
    return *offset - before;
}

static void verify(vdisk *v, uint64_t end)
{
    char *buf = test_alloc(UNIT);

    for (uint64_t offset = 0; offset < end; offset += UNIT) {
        CHECK_OK(vdisk_pread(v, buf, UNIT, offset));
        for (unsigned i = 0; i < UNIT; i++)
            CHECK_MSG(buf[i] == (char)(offset / UNIT % 250 + 1), "byte %" PRIu64 " reads %d", offset + i, buf[i]);
    }
    free(buf);
}

/* Most of what the device has gained became guest data; the rest are tables. */
static void check_used(uint64_t used, uint64_t gained)
{
    CHECK_MSG(used + (128 << 10) >= gained / 4 * 3, "%" PRIu64 " bytes of %" PRIu64 " are used", used, gained);
}

static void test_memory(void)
{
    struct rng *r = test_rng();
    struct memdisk disk;
    struct image_spec spec;
    struct backend *b;
    uint64_t offset = 0;
    vdisk *v;

    memdisk_init_fixed(&disk, rng_chance(r, 50) ? 512 : 4096, 2 << 20);
    image_default(&spec, "grows", GUEST);
    spec.cluster_size = 1u << rng_between(r, 9, 16);
    spec.refcount_bits = spec.cluster_size == 512 ? 64 : 16; /* the refcount table has to move */
    test_note("%s", image_describe(&spec));
    b = memdisk_open(&disk, false);
    CHECK_OK(image_create_on(&spec, b));
    backend_close(b);
    CHECK_OK(vdisk_open_backend(memdisk_open(&disk, false),
                                &(struct vdisk_open_opts){.size = sizeof(struct vdisk_open_opts),
                                                          .flags = VDISK_OPEN_RDWR, .format = "qcow2"}, &v));
    fill_on(v, &offset);
    for (unsigned round = 0; round < ROUNDS; round++) {
        uint64_t gained = rng_between(r, 1, 16) << 19;
        memory_backend_extend(disk.keeper, memdisk_size(&disk) + gained);
        check_used(fill_on(v, &offset), gained);
        if (rng_chance(r, 50))
            CHECK_OK(vdisk_sync(v));
    }
    verify(v, offset);
    CHECK_OK(vdisk_close(v));
    memdisk_save(&disk, test_path("saved"));
    test_requires("qemu-img");
    image_check(test_path("saved"), false);
    memdisk_finish(&disk);
}

static void test_loop(void)
{
    struct vdisk_open_opts opts = {.size = sizeof opts, .flags = VDISK_OPEN_RDWR, .format = "qcow2"};
    struct vdisk_create_opts create = {.size = sizeof create, .format = "qcow2", .virtual_size = GUEST};
    struct run_result result;
    uint64_t offset = 0;
    char dev[64];
    vdisk *v;

    test_requires("losetup");
    run_shell(&result, "truncate -s 4M lv && losetup -f --show lv 2>&1");
    if (result.status != 0 || strncmp(result.out, "/dev/loop", 9) != 0)
        test_skip("no loop device: %s", result.out);
    result.out[strcspn(result.out, "\n")] = '\0';
    snprintf(dev, sizeof dev, "%.60s", result.out);
    CHECK_OK(vdisk_create(dev, &create));
    CHECK_OK(vdisk_open(dev, &opts, &v));
    fill_on(v, &offset);
    run_ok("truncate -s 20M lv && losetup -c %s", dev);
    check_used(fill_on(v, &offset), 16 << 20);
    verify(v, offset);
    CHECK_OK(vdisk_close(v));
    run_ok("losetup -d %s", dev);
}

int main(int argc, char **argv)
{
    static const struct test_case cases[] = {
        {.name = "memory", .run = test_memory, .repeat = 12, .quick = 4},
        {.name = "loop", .run = test_loop},
    };

    return test_main(argc, argv, cases, ARRAY_LEN(cases));
}
