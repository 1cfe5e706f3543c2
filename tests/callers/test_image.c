/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What an image is: by name and by layer, whole and damaged, of one that cannot be opened; and that no name in it
 * is followed to tell it.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>
#include <vdisk-image.h>

#include "tests/callers/callers.h"

static void create(const char *path, struct vdisk_create_opts opts)
{
    opts.size = sizeof opts;
    CHECK_OK(vdisk_create(path, &opts));
}

static vdisk_image *load(const char *name, const char *format)
{
    struct vdisk_open_opts opts = {.size = sizeof opts, .format = format};
    vdisk_image *im = NULL;

    CHECK_OK(vdisk_image_load(name, &opts, &im));
    return im;
}

static struct vdisk_image_info info_of(const vdisk_image *im)
{
    struct vdisk_image_info info = {.size = sizeof info};

    CHECK_OK(vdisk_image_get_info(im, &info));
    return info;
}

static void expect_text(const char *have, const char *want)
{
    CHECK_MSG(have && strcmp(have, want) == 0, "'%s', not '%s'", have ? have : "NULL", want);
}

static void change(const char *path, long offset, const void *bytes, size_t len)
{
    FILE *f = fopen(path, "r+b");

    CHECK(f && fseek(f, offset, SEEK_SET) == 0 && fwrite(bytes, len, 1, f) == 1 && fclose(f) == 0);
}

/* Has no snapshots, bitmaps, secrets. */
static void expect_no_lists(const vdisk_image *im)
{
    struct vdisk_encryption_info encryption = {.size = sizeof encryption};
    struct vdisk_key_slot_info slot = {.size = sizeof slot};
    struct vdisk_snapshot_info snapshot = {.size = sizeof snapshot};
    struct vdisk_bitmap_info bitmap = {.size = sizeof bitmap};

    CHECK_INT(vdisk_image_get_snapshot(im, 0, &snapshot), -ENOENT);
    CHECK_INT(vdisk_image_get_bitmap(im, 0, &bitmap), -ENOENT);
    CHECK_INT(vdisk_image_get_encryption(im, &encryption), -ENOENT);
    CHECK_INT(vdisk_image_get_key_slot(im, 0, &slot), -ENOENT);
}

/* ---- what is told -------------------------------------------------------------------------------------- */

static void test_by_name(void)
{
    const char *base = test_path("base"), *top = test_path("top");
    struct vdisk_image_info info;
    vdisk_image *im;

    create(base, (struct vdisk_create_opts){.format = "raw", .virtual_size = 1u << 20});
    create(top, (struct vdisk_create_opts){.format = "qcow2", .virtual_size = 3u << 20, .cluster_size = 4096,
                                           .refcount_bits = 8, .extended_l2 = false, .lazy_refcounts = true,
                                           .compression_type = "zstd", .backing_file = "base",
                                           .backing_fmt = "raw"});
    im = load(top, NULL);
    CHECK(unlink(top) == 0); /* it is no more than memory */
    info = info_of(im);
    expect_text(info.format, "qcow2");
    expect_text(info.backend, "file");
    expect_text(info.name, top);
    expect_text(info.file, top);
    expect_text(info.data_path, top);
    expect_text(info.backing_file, "base");
    expect_text(info.backing_fmt, "raw");
    expect_text(info.backing_name, base);
    expect_text(info.compression_type, "zstd");
    CHECK_INT(info.virtual_size, 3u << 20);
    CHECK_INT(info.cluster_size, 4096);
    CHECK_INT(info.version, 3);
    CHECK_INT(info.refcount_bits, 8);
    CHECK(info.file_size > 0 && info.allocated_size > 0);
    CHECK(info.lazy_refcounts && !info.extended_l2 && !info.dirty && !info.corrupt && !info.bitmaps_stale);
    CHECK(!info.data_file);
    expect_no_lists(im);
    vdisk_image_free(im);

    im = load(base, "raw");
    info = info_of(im);
    expect_text(info.format, "raw");
    expect_text(info.data_path, base);
    CHECK_INT(info.virtual_size, 1u << 20);
    CHECK_INT(info.file_size, 1u << 20);
    CHECK(info.cluster_size == 0 && info.version == 0 && !info.backing_file && !info.backing_name);
    expect_no_lists(im);
    vdisk_image_free(im);
}

/* A part of a file is shown as such, and opens again by that. */
static void test_part(void)
{
    const char *path = test_path("raw");
    struct vdisk_image_info info;
    char name[512];
    vdisk_image *im, *again;

    create(path, (struct vdisk_create_opts){.format = "raw", .virtual_size = 1u << 20});
    snprintf(name, sizeof name, "json:{\"driver\":\"raw\",\"offset\":65536,\"size\":131072,"
                                "\"file\":{\"driver\":\"file\",\"filename\":\"%s\"}}", path);
    im = load(name, NULL);
    info = info_of(im);
    CHECK(strncmp(info.name, "json:", 5) == 0);
    expect_text(info.file, path);
    CHECK_INT(info.virtual_size, 131072);
    again = load(info.name, NULL);
    expect_text(info_of(again).name, info.name);
    CHECK_INT(info_of(again).virtual_size, 131072);
    vdisk_image_free(again);
    vdisk_image_free(im);
}

/* With its data file and its backing file gone. */
static void test_no_name_is_followed(void)
{
    const char *path = test_path("image");
    struct vdisk_image_info info;
    vdisk_image *im;

    create(path, (struct vdisk_create_opts){.format = "qcow2", .virtual_size = 1u << 20, .data_file = "data",
                                            .data_file_raw = true});
    CHECK(unlink(test_path("data")) == 0);
    im = load(path, "qcow2");
    info = info_of(im);
    expect_text(info.data_file, "data");
    CHECK(info.data_file_raw && !info.data_path);
    vdisk_image_free(im);
    create(path, (struct vdisk_create_opts){.format = "qcow2", .virtual_size = 1u << 20, .backing_fmt = "raw",
                                            .backing_file = "nbd://nowhere", .backing_unchecked = true});
    im = load(path, NULL);
    expect_text(info_of(im).backing_name, "nbd://nowhere");
    vdisk_image_free(im);
}

static void test_layers(void)
{
    const char *base = test_path("base"), *top = test_path("top");
    struct vdisk_image_info info;
    vdisk_image *im[2], *none = NULL;
    vdisk *v;

    create(base, (struct vdisk_create_opts){.format = "qcow2", .virtual_size = 1u << 20, .data_file = "data"});
    create(top, (struct vdisk_create_opts){.format = "qcow2", .virtual_size = 2u << 20, .version = 2,
                                           .backing_file = "base", .backing_fmt = "qcow2"});
    v = open_rw(top);
    for (uint32_t i = 0; i < 2; i++)
        CHECK_OK(vdisk_image_of_layer(v, i, &im[i]));
    CHECK_INT(vdisk_image_of_layer(v, 2, &none), -ENOENT);
    CHECK_HAS(vdisk_error_text(), top);
    CHECK_INT(vdisk_image_of_layer(v, UINT32_MAX, &none), -ENOENT);
    CHECK_INT(vdisk_image_of_layer(NULL, 0, &none), -EINVAL);
    CHECK_INT(vdisk_image_of_layer(v, 0, NULL), -EINVAL);
    CHECK(!none);
    CHECK_OK(vdisk_resize(v, 5u << 20, NULL)); /* what was taken down stays as it was */
    CHECK_OK(vdisk_close(v));
    info = info_of(im[0]);
    expect_text(info.name, top);
    expect_text(info.data_path, top);
    CHECK_INT(info.version, 2);
    CHECK_INT(info.virtual_size, 2u << 20);
    info = info_of(im[1]);
    expect_text(info.name, base);
    expect_text(info.data_path, test_path("data"));
    expect_text(info.data_file, "data");
    CHECK_INT(info.virtual_size, 1u << 20);
    vdisk_image_free(im[0]);
    vdisk_image_free(im[1]);
    vdisk_image_free(NULL);
}

/* ---- what is damaged, or closed to us ------------------------------------------------------------------ */

static void test_list_that_cannot_be_read(void)
{
    static const unsigned char one_at_7[12] = {0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 7};
    struct vdisk_snapshot_info snapshot = {.size = sizeof snapshot};
    struct vdisk_bitmap_info bitmap = {.size = sizeof bitmap};
    const char *path = test_path("image");
    vdisk_image *im;

    create(path, (struct vdisk_create_opts){.format = "qcow2", .virtual_size = 1u << 20});
    change(path, 60, one_at_7, sizeof one_at_7); /* one snapshot, in a table at 7 */
    im = load(path, NULL);
    CHECK_INT(info_of(im).virtual_size, 1u << 20);
    for (uint32_t i = 0; i < 2; i++) {
        CHECK_INT(vdisk_image_get_snapshot(im, i, &snapshot), -EINVAL);
        CHECK_HAS(vdisk_error_text(), path);
        CHECK_HAS(vdisk_error_text(), "snapshot");
        CHECK_HAS(vdisk_error_hint(), "check -r all");
    }
    CHECK_INT(vdisk_image_get_bitmap(im, 0, &bitmap), -ENOENT);
    vdisk_image_free(im);
}

static void expect_encrypted(const char *name, const struct vdisk_open_opts *opts, const char *format)
{
    struct vdisk_encryption_info encryption = {.size = sizeof encryption};
    struct vdisk_key_slot_info slot = {.size = sizeof slot};
    struct vdisk_image_info info;
    vdisk_image *im;

    CHECK_OK(vdisk_image_load(name, opts, &im));
    info = info_of(im);
    expect_text(info.format, "qcow2");
    expect_text(info.backend, "file");
    expect_text(info.backing_name, test_path("base"));
    CHECK_INT(info.virtual_size, 1u << 20);
    CHECK_INT(info.cluster_size, 65536);
    CHECK(info.name && info.file && info.file_size > 0 && info.allocated_size > 0 && !info.data_path);
    CHECK_OK(vdisk_image_get_encryption(im, &encryption));
    expect_text(encryption.format, format);
    CHECK(!encryption.cipher && !encryption.uuid);
    CHECK_INT(vdisk_image_get_key_slot(im, 0, &slot), -ENOENT);
    vdisk_image_free(im);
}

static void test_encrypted(void)
{
    static const unsigned char aes[4] = {0, 0, 0, 1};
    const char *path = test_path("image");
    struct vdisk_open_opts opts = {.size = sizeof opts}, raw = {.size = sizeof raw, .format = "raw"};
    struct vdisk_fd fd;
    vdisk_image *im;
    vdisk *v;

    create(path, (struct vdisk_create_opts){.format = "qcow2", .virtual_size = 1u << 20, .backing_fmt = "raw",
                                            .backing_file = "base", .backing_unchecked = true});
    change(path, 32, aes, sizeof aes);
    CHECK_INT(vdisk_open(path, NULL, &v), -ENOTSUP);
    expect_encrypted(path, NULL, "aes");
    fd = (struct vdisk_fd){.fd = open(path, O_RDONLY | O_CLOEXEC)};
    CHECK(fd.fd >= 0);
    opts.fds = &fd;
    opts.fds_count = 1;
    CHECK(rename(path, test_path("elsewhere")) == 0);
    expect_encrypted(path, &opts, "aes");
    close(fd.fd);
    CHECK_OK(vdisk_image_load(test_path("elsewhere"), &raw, &im)); /* bytes, when that is what is asked for */
    expect_text(info_of(im).format, "raw");
    vdisk_image_free(im);
}

/* The error is that of the open, whatever was tried afterwards. */
static void test_refused(void)
{
    struct vdisk_open_opts rw = {.size = sizeof rw, .flags = VDISK_OPEN_RDWR}, odd = {.size = 1};
    const char *path = test_path("image"), *junk = test_path("junk");
    vdisk_image *im = NULL;
    vdisk *v;

    create(path, (struct vdisk_create_opts){.format = "qcow2", .virtual_size = 1u << 20});
    create(junk, (struct vdisk_create_opts){.format = "raw", .virtual_size = 1u << 20});
    change(junk, 0, "QFI\xfb\0\0\0\x09", 8);
    CHECK_INT(vdisk_image_load(path, &rw, &im), -EINVAL);
    CHECK_INT(vdisk_image_load(path, &odd, &im), -EINVAL);
    CHECK_INT(vdisk_image_load(path, NULL, NULL), -EINVAL);
    CHECK_INT(vdisk_image_load(NULL, NULL, &im), -EINVAL);
    CHECK_INT(vdisk_image_load("", NULL, &im), -ENOENT);
    CHECK_INT(vdisk_image_load(test_path("nothing"), NULL, &im), -ENOENT);
    CHECK_HAS(vdisk_error_text(), "nothing");
    CHECK_INT(vdisk_image_load(junk, NULL, &im), -ENOTSUP);
    CHECK_HAS(vdisk_error_text(), "version 9");
    v = open_rw(path);
    CHECK_INT(vdisk_image_load(path, NULL, &im), -EAGAIN);
    CHECK_HAS(vdisk_error_text(), "lock");
    CHECK(!im);
    CHECK_OK(vdisk_close(v));
}

/* ---- programs older and newer than the library ------------------------------------------------------- */

static void test_sizes(void)
{
    struct {
        struct vdisk_image_info info;
        char                    newer[64];
    } big;
    const char *path = test_path("image");
    vdisk_image *im;

    create(path, (struct vdisk_create_opts){.format = "qcow2", .virtual_size = 1u << 20});
    im = load(path, NULL);
    memset(&big, 0x55, sizeof big);
    big.info.size = sizeof big;
    CHECK_OK(vdisk_image_get_info(im, &big.info));
    CHECK_INT(big.info.size, sizeof big);
    CHECK_INT(big.newer[0], 0x55);
    memset(&big, 0x55, sizeof big);
    big.info.size = offsetof(struct vdisk_image_info, backend);
    CHECK_OK(vdisk_image_get_info(im, &big.info));
    expect_text(big.info.format, "qcow2");
    CHECK(memcmp(&big.info.backend, big.newer, sizeof big.info.backend) == 0);
    big.info.size = 0;
    CHECK_INT(vdisk_image_get_info(im, &big.info), -EINVAL);
    CHECK_INT(vdisk_image_get_info(im, NULL), -EINVAL);
    CHECK_INT(vdisk_image_get_info(NULL, &big.info), -EINVAL);
    CHECK_INT(vdisk_image_get_snapshot(NULL, 0, NULL), -EINVAL);
    CHECK_INT(vdisk_image_get_bitmap(NULL, 0, NULL), -EINVAL);
    CHECK_INT(vdisk_image_get_encryption(NULL, NULL), -EINVAL);
    CHECK_INT(vdisk_image_get_key_slot(NULL, 0, NULL), -EINVAL);
    vdisk_image_free(im);
}

/* ---- holes of the host --------------------------------------------------------------------------------- */

static uint64_t zero_bytes(const char *path, uint32_t flags)
{
    struct vdisk_open_opts opts = {.size = sizeof opts, .flags = flags, .format = "qcow2"};
    struct vdisk_extent list[64];
    struct vdisk_extents extents = {.list = list, .max = 64};
    uint64_t zero = 0;
    vdisk *v;

    CHECK_OK(vdisk_open(path, &opts, &v));
    CHECK_OK(vdisk_pextents(v, vdisk_size(v), 0, &extents));
    for (unsigned i = 0; i < extents.count; i++)
        zero += list[i].flags & VDISK_EXTENT_ZERO ? list[i].length : 0;
    CHECK_OK(vdisk_close(v));
    return zero;
}

static void test_host_holes(void)
{
    const char *path = test_path("image");
    char buf[BLOCK];
    vdisk *v;

    create(path, (struct vdisk_create_opts){.format = "qcow2", .virtual_size = 64u << 20,
                                            .preallocation = VDISK_PREALLOC_METADATA});
    v = open_rw(path);
    memset(buf, 1, sizeof buf);
    CHECK_OK(vdisk_pwrite(v, buf, sizeof buf, 1u << 20, 0));
    CHECK_OK(vdisk_close(v));
    CHECK_INT(zero_bytes(path, 0), 0);
    CHECK(zero_bytes(path, VDISK_OPEN_HOST_HOLES) > 60u << 20);
    CHECK_INT(zero_bytes(path, VDISK_OPEN_HOST_HOLES | VDISK_OPEN_RDWR), 0);
}

int main(int argc, char **argv)
{
    static const struct test_case cases[] = {
        {.name = "by_name", .run = test_by_name},
        {.name = "part", .run = test_part},
        {.name = "no_name_is_followed", .run = test_no_name_is_followed},
        {.name = "layers", .run = test_layers},
        {.name = "list_that_cannot_be_read", .run = test_list_that_cannot_be_read},
        {.name = "encrypted", .run = test_encrypted},
        {.name = "refused", .run = test_refused},
        {.name = "sizes", .run = test_sizes},
        {.name = "host_holes", .run = test_host_holes},
    };

    return test_main(argc, argv, cases, ARRAY_LEN(cases));
}
