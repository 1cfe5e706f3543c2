/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Opening an image without the files that it names, and with very many. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "engine/base/bits.h"
#include "engine/vdisk.h"
#include "qcow2/format/ondisk.h"
#include "tests/lib/test.h"

enum { MIB = 1 << 20 };

static int open_as(const char *name, uint32_t flags, const char *data_file, vdisk **ret)
{
    struct vdisk_open_opts opts = {.size = sizeof opts, .flags = flags, .format = "qcow2", .data_file = data_file};

    return vdisk_open(name, &opts, ret);
}

static void create(const char *name, const char *backing, const char *data)
{
    struct vdisk_create_opts opts = {.size = sizeof opts, .format = "qcow2", .virtual_size = MIB};

    opts.backing_file = backing;
    opts.backing_fmt = backing ? "qcow2" : NULL;
    opts.data_file = data;
    CHECK_OK(vdisk_create(name, &opts));
}

static void fill(const char *name, uint64_t offset)
{
    char buf[4096];
    vdisk *v;

    memset(buf, 7, sizeof buf);
    CHECK_OK(open_as(name, VDISK_OPEN_RDWR, NULL, &v));
    CHECK_OK(vdisk_pwrite(v, buf, sizeof buf, offset, 0));
    CHECK_OK(vdisk_close(v));
}

/* Bits that an open for writing would clear, or repair. */
static void set_bits(const char *name)
{
    int fd = open(name, O_RDWR | O_CLOEXEC);
    uint8_t dirty[8], autoclear[8];

    CHECK(fd >= 0);
    CHECK(pread(fd, dirty, 8, 72) == 8);
    dirty[7] |= 1;
    put_be64(autoclear, 1ull << 40);
    CHECK(pwrite(fd, dirty, 8, 72) == 8 && pwrite(fd, autoclear, 8, 88) == 8);
    close(fd);
}

static void read_file(const char *name, char *buf, size_t len)
{
    int fd = open(name, O_RDONLY | O_CLOEXEC);

    CHECK(fd >= 0);
    memset(buf, 0, len);
    CHECK(pread(fd, buf, len, 0) > 0);
    close(fd);
}

/* Refused, and nothing of the image has changed. */
static void must_refuse(const char *name, uint32_t flags, const char *text)
{
    static char before[MIB], after[MIB];
    vdisk *v;

    read_file(name, before, sizeof before);
    CHECK_INT(open_as(name, flags, NULL, &v), -EINVAL);
    CHECK_MSG(strstr(vdisk_error_text(), text) && vdisk_error_hint()[0], "%s; %s", vdisk_error_text(),
              vdisk_error_hint());
    read_file(name, after, sizeof after);
    CHECK(memcmp(before, after, sizeof before) == 0);
}

static void test_backing(void)
{
    char byte;
    vdisk *v;

    CHECK(chdir(test_dir()) == 0);
    create("base", NULL, NULL);
    fill("base", 0);
    create("top", "base", NULL);
    set_bits("top");
    must_refuse("top", VDISK_OPEN_RDWR | VDISK_OPEN_NO_BACKING, "without its backing file");
    must_refuse("top", VDISK_OPEN_RDWR | VDISK_OPEN_NO_NAMES, "without its backing file");
    unlink("base");
    CHECK_OK(open_as("top", VDISK_OPEN_NO_NAMES, NULL, &v));
    CHECK_OK(vdisk_pread(v, &byte, 1, 0));
    CHECK_INT(byte, 0);
    CHECK_OK(vdisk_close(v));
    CHECK_OK(open_as("top", VDISK_OPEN_NO_BACKING | VDISK_OPEN_CHECK | VDISK_OPEN_RDWR, NULL, &v));
    CHECK_OK(vdisk_close(v));
    /* What names nothing can be written. */
    create("alone", NULL, NULL);
    CHECK_OK(open_as("alone", VDISK_OPEN_NO_NAMES | VDISK_OPEN_RDWR, NULL, &v));
    CHECK_OK(vdisk_pwrite(v, "x", 1, 5, 0));
    CHECK_OK(vdisk_close(v));
}

static void test_data_file(void)
{
    struct vdisk_extent list[4];
    struct vdisk_extents extents = {.list = list, .max = 4};
    struct vdisk_info info = {.size = sizeof info};
    char byte = 1;
    vdisk *v, *holder;

    CHECK(chdir(test_dir()) == 0);
    create("image", NULL, "data");
    fill("image", 0);
    /* In use by somebody else: nothing of it is locked. */
    CHECK_OK(vdisk_open("data", &(struct vdisk_open_opts){.size = sizeof(struct vdisk_open_opts), .format = "raw",
                                                          .flags = VDISK_OPEN_RDWR}, &holder));
    set_bits("image");
    must_refuse("image", VDISK_OPEN_RDWR | VDISK_OPEN_NO_NAMES, "without its external data file");
    for (unsigned i = 0; i < 2; i++) {
        CHECK_OK(open_as("image", VDISK_OPEN_NO_NAMES, NULL, &v));
        CHECK_OK(vdisk_get_info(v, &info));
        CHECK_INT(info.virtual_size, MIB);
        CHECK_INT(vdisk_pread(v, &byte, 1, 0), -EIO);
        CHECK_OK(vdisk_pread(v, &byte, 1, MIB / 2));
        CHECK_INT(byte, 0);
        CHECK_OK(vdisk_pextents(v, MIB, 0, &extents));
        CHECK(extents.count > 0 && list[0].flags & VDISK_EXTENT_DATA);
        CHECK_INT(vdisk_pwrite(v, &byte, 1, 0, 0), -EACCES);
        CHECK_OK(vdisk_close(v));
        vdisk_close(holder);
        holder = NULL;
        rename("data", "elsewhere");
    }
    /* The caller's name is not the image's. */
    CHECK_OK(open_as("image", VDISK_OPEN_NO_NAMES | VDISK_OPEN_RDWR, "elsewhere", &v));
    CHECK_OK(vdisk_pread(v, &byte, 1, 0));
    CHECK_INT(byte, 7);
    CHECK_OK(vdisk_close(v));
}

/* Eight L1 tables of 32 MiB, as long as they can be, and nothing in them. */
static void test_chain_memory(void)
{
    struct vdisk_create_opts opts = {.size = sizeof opts, .format = "qcow2", .virtual_size = 128ull << 30,
                                     .cluster_size = 512, .backing_fmt = "qcow2"};
    char name[8], below[8] = "";
    struct rusage usage;
    vdisk *v;

    CHECK(chdir(test_dir()) == 0);
    opts.backing_unchecked = true;
    for (unsigned i = 0; i < 8; i++) {
        snprintf(name, sizeof name, "l%u", i);
        opts.backing_file = below[0] ? below : NULL;
        opts.backing_fmt = below[0] ? "qcow2" : NULL;
        CHECK_OK(vdisk_create(name, &opts));
        memcpy(below, name, sizeof below);
    }
    CHECK_OK(open_as(name, 0, NULL, &v));
    CHECK(getrusage(RUSAGE_SELF, &usage) == 0);
    CHECK_OK(vdisk_close(v));
    if (!test_is_slow()) /* sanitizers keep what is freed */
        CHECK_MSG(usage.ru_maxrss < 160 * 1024, "%ld KiB of memory", usage.ru_maxrss);
}

int main(int argc, char **argv)
{
    static const struct test_case cases[] = {
        {.name = "backing", .run = test_backing},
        {.name = "data_file", .run = test_data_file},
        {.name = "chain_memory", .run = test_chain_memory},
    };

    return test_main(argc, argv, cases, ARRAY_LEN(cases));
}
