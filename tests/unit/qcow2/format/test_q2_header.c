/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* qcow2/header: what is read is what was written, and everything that a header must not say. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/base/error.h"
#include "engine/vdisk.h"
#include "qcow2/format/header.h"

enum { CLUSTER = 65536 };

/* An image of 1 GiB: header, refcount table, refcount block, L1 table, one cluster each. */
struct image {
    uint8_t  buf[CLUSTER];
    uint64_t file_size;
};

#define FIELD(im, member) ((im)->buf + offsetof(struct q2_disk_header, member))

static void basic(struct image *im, uint32_t version)
{
    memset(im, 0, sizeof *im);
    im->file_size = 4 * CLUSTER;
    put_be32(FIELD(im, magic), Q2_MAGIC);
    put_be32(FIELD(im, version), version);
    put_be32(FIELD(im, cluster_bits), 16);
    put_be64(FIELD(im, size), 1 << 30);
    put_be32(FIELD(im, l1_size), 2);
    put_be64(FIELD(im, l1_table_offset), 3 * CLUSTER);
    put_be64(FIELD(im, refcount_table_offset), CLUSTER);
    put_be32(FIELD(im, refcount_table_clusters), 1);
    if (version >= 3) {
        put_be32(FIELD(im, refcount_order), 4);
        put_be32(FIELD(im, header_length), 112);
    }
}

static size_t add_extension(struct image *im, size_t pos, uint32_t type, const void *data, size_t len)
{
    put_be32(im->buf + pos, type);
    put_be32(im->buf + pos + 4, (uint32_t)len);
    memcpy(im->buf + pos + 8, data, len);
    return pos + 8 + (len + 7) / 8 * 8;
}

static int parse(struct image *im, struct q2_header *h)
{
    return q2_header_parse(im->buf, sizeof im->buf, im->file_size, "disk.qcow2", h);
}

/* Refused with `err`, in one line that names the file and says `text`. */
static void refused_at(int line, struct image *im, int err, const char *text)
{
    struct q2_header h = {.size = 77};
    int rc = parse(im, &h);

    if (rc != err)
        fail_msg("line %d: result %d, not %d (%s)", line, rc, err, vdisk_error_text());
    assert_int_equal(h.size, 77);
    if (!strstr(vdisk_error_text(), text) || strncmp(vdisk_error_text(), "disk.qcow2: ", 12) != 0 ||
        strchr(vdisk_error_text(), '\n'))
        fail_msg("line %d: the message is: %s", line, vdisk_error_text());
}

#define refused(im, err, text) refused_at(__LINE__, im, err, text)

static void accepted(struct image *im)
{
    struct q2_header h;

    if (parse(im, &h) != 0)
        fail_msg("%s", vdisk_error_text());
    q2_header_free(&h);
}

/* ---- what is good -------------------------------------------------------------------------------------- */

static void test_basic(void **state)
{
    struct q2_header h;
    struct image im;

    for (uint32_t version = 2; version <= 3; version++) {
        basic(&im, version);
        assert_int_equal(parse(&im, &h), 0);
        assert_int_equal(h.geo.version, version);
        assert_int_equal(h.geo.cluster_size, CLUSTER);
        assert_int_equal(h.geo.refcount_bits, 16);
        assert_int_equal(h.size, 1 << 30);
        assert_int_equal(h.l1_entries, 2);
        assert_int_equal(h.l1_offset, 3 * CLUSTER);
        assert_int_equal(h.reftable_offset, CLUSTER);
        assert_int_equal(h.reftable_clusters, 1);
        assert_null(h.backing_file);
        assert_false(h.has_bitmaps);
        q2_header_free(&h);
        assert_int_equal(h.size, 0);
    }
}

static void test_version_2_ends_early(void **state)
{
    struct q2_header h;
    struct image im;

    /* What follows is the extensions: here their end mark, then bytes that mean nothing. */
    basic(&im, 2);
    memset(im.buf + 80, 0xff, 40);
    assert_int_equal(parse(&im, &h), 0);
    assert_int_equal(h.incompatible | h.compatible | h.autoclear, 0);
    assert_int_equal(h.geo.refcount_order, 4);
    q2_header_free(&h);
}

static void test_span(void **state)
{
    struct image im;

    basic(&im, 3);
    assert_int_equal(q2_header_span(im.buf, 512), CLUSTER);
    assert_int_equal(q2_header_span(im.buf, 10), 512);
    put_be32(FIELD(&im, cluster_bits), 21);
    assert_int_equal(q2_header_span(im.buf, 72), 2 << 20);
    put_be32(FIELD(&im, cluster_bits), 63);
    assert_int_equal(q2_header_span(im.buf, 512), 512);
}

static void test_strings(void **state)
{
    struct q2_header h;
    struct image im;
    size_t pos;

    basic(&im, 3);
    pos = add_extension(&im, 112, Q2_EXT_BACKING_FORMAT, "raw", 3);
    add_extension(&im, pos, Q2_EXT_END, "", 0);
    memcpy(im.buf + 500, "base.img", 8);
    put_be64(FIELD(&im, backing_file_offset), 500);
    put_be32(FIELD(&im, backing_file_size), 8);
    assert_int_equal(parse(&im, &h), 0);
    assert_string_equal(h.backing_file, "base.img");
    assert_string_equal(h.backing_format, "raw");
    q2_header_free(&h);

    /* The extension area may end at the name, without an end mark. */
    put_be64(FIELD(&im, backing_file_offset), pos);
    memcpy(im.buf + pos, "base.img", 8);
    accepted(&im);

    /* 1023 bytes are the most, and may reach the cluster's end. */
    memset(im.buf + pos, 0, 8);
    put_be64(FIELD(&im, backing_file_offset), CLUSTER - 1023);
    memset(im.buf + CLUSTER - 1023, 'x', 1023);
    put_be32(FIELD(&im, backing_file_size), 1023);
    assert_int_equal(parse(&im, &h), 0);
    assert_int_equal(strlen(h.backing_file), 1023);
    q2_header_free(&h);
}

static void test_dirty_and_corrupt_are_left_to_the_caller(void **state)
{
    struct q2_header h;
    struct image im;

    basic(&im, 3);
    put_be64(FIELD(&im, incompatible_features), Q2_INCOMPAT_DIRTY | Q2_INCOMPAT_CORRUPT);
    put_be64(FIELD(&im, compatible_features), 0x8000000000000001ull);
    put_be64(FIELD(&im, autoclear_features), 0x4000000000000000ull);
    assert_int_equal(parse(&im, &h), 0);
    assert_int_equal(h.incompatible, 3);
    assert_int_equal(h.compatible, 0x8000000000000001ull);
    assert_int_equal(h.autoclear, 0x4000000000000000ull);
    q2_header_free(&h);
}

static void put_bitmaps(struct image *im, uint32_t n, uint64_t size, uint64_t offset, uint32_t reserved)
{
    struct q2_disk_bitmaps d = {htobe32(n), htobe32(reserved), htobe64(size), htobe64(offset)};

    basic(im, 3);
    im->file_size = 6 * CLUSTER;
    put_be64(FIELD(im, autoclear_features), Q2_AUTOCLEAR_BITMAPS);
    add_extension(im, 112, Q2_EXT_BITMAPS, &d, sizeof d);
}

static void test_bitmaps(void **state)
{
    struct q2_header h;
    struct image im;

    put_bitmaps(&im, 2, 80, 4 * CLUSTER, 0);
    assert_int_equal(parse(&im, &h), 0);
    assert_true(h.has_bitmaps);
    assert_false(h.bitmaps_stale);
    assert_int_equal(h.nb_bitmaps, 2);
    assert_int_equal(h.bitmap_directory_size, 80);
    assert_int_equal(h.bitmap_directory_offset, 4 * CLUSTER);
    q2_header_free(&h);

    /* Some writer did not know them: their extension is kept, but not believed. */
    put_be64(FIELD(&im, autoclear_features), 0);
    assert_int_equal(parse(&im, &h), 0);
    assert_false(h.has_bitmaps);
    assert_true(h.bitmaps_stale);
    assert_int_equal(h.nextensions, 1);
    q2_header_free(&h);

    put_bitmaps(&im, 0, 80, 4 * CLUSTER, 0);
    refused(&im, -EINVAL, "no bitmaps");
    put_bitmaps(&im, 65536, 2 << 20, 4 * CLUSTER, 0);
    refused(&im, -EFBIG, "65536 bitmaps");
    put_bitmaps(&im, 2, 80, 4 * CLUSTER, 1);
    refused(&im, -EINVAL, "reserved");
    put_bitmaps(&im, 2, 80, 4 * CLUSTER + 512, 0);
    refused(&im, -EINVAL, "bitmap directory");
    put_bitmaps(&im, 2, 40, 4 * CLUSTER, 0);
    refused(&im, -EINVAL, "size of the bitmap directory");
    put_bitmaps(&im, 2, UINT64_MAX, 4 * CLUSTER, 0);
    refused(&im, -EINVAL, "size of the bitmap directory");
    put_bitmaps(&im, 2, 80, 6 * CLUSTER, 0);
    refused(&im, -EINVAL, "beyond the end");
    put_bitmaps(&im, 2, 80, UINT64_MAX - CLUSTER + 1, 0);
    refused(&im, -EINVAL, "beyond the end");
    basic(&im, 3);
    put_be64(FIELD(&im, autoclear_features), Q2_AUTOCLEAR_BITMAPS);
    accepted(&im); /* as QEMU does: there are none */
}

/* ---- what is bad --------------------------------------------------------------------------------------- */

static void test_fixed_fields(void **state)
{
    struct image im;

    basic(&im, 3);
    im.buf[0] = 'X';
    refused(&im, -EINVAL, "magic");
    basic(&im, 3);
    put_be32(FIELD(&im, version), 4);
    refused(&im, -ENOTSUP, "version 4");
    put_be32(FIELD(&im, version), 1);
    refused(&im, -ENOTSUP, "version 1");
    basic(&im, 3);
    put_be32(FIELD(&im, cluster_bits), 8);
    refused(&im, -EINVAL, "cluster size 2^8");
    put_be32(FIELD(&im, cluster_bits), 22);
    refused(&im, -EINVAL, "cluster size 2^22");
    put_be32(FIELD(&im, cluster_bits), UINT32_MAX);
    refused(&im, -EINVAL, "cluster size");
    basic(&im, 3);
    put_be32(FIELD(&im, refcount_order), 7);
    refused(&im, -EINVAL, "64 bits");
    basic(&im, 3);
    put_be32(FIELD(&im, header_length), 96);
    refused(&im, -EINVAL, "too short");
    put_be32(FIELD(&im, header_length), CLUSTER + 8);
    refused(&im, -EINVAL, "longer than the first cluster");
    put_be32(FIELD(&im, header_length), 0xfffffff8);
    refused(&im, -EINVAL, "longer than the first cluster");
}

/* Parsed, for who only wants to know what it is. */
static void encrypted(struct image *im, const char *method)
{
    struct q2_header h;

    assert_int_equal(parse(im, &h), 0);
    assert_int_equal(q2_header_refuse_encrypted(&h, "disk.qcow2"), -ENOTSUP);
    assert_non_null(strstr(vdisk_error_text(), method));
    q2_header_free(&h);
}

static void test_encryption(void **state)
{
    struct image im;

    basic(&im, 3);
    accepted(&im);
    put_be32(FIELD(&im, crypt_method), Q2_CRYPT_AES);
    encrypted(&im, "AES");
    put_be32(FIELD(&im, crypt_method), Q2_CRYPT_LUKS);
    encrypted(&im, "LUKS");
    put_be32(FIELD(&im, crypt_method), 3);
    refused(&im, -ENOTSUP, "encryption method 3");
    basic(&im, 3);
    add_extension(&im, 112, Q2_EXT_CRYPTO, "0123456789abcdef", 16);
    refused(&im, -EINVAL, "encryption header");
    put_be32(FIELD(&im, crypt_method), Q2_CRYPT_LUKS);
    encrypted(&im, "LUKS");
    basic(&im, 3);
    put_be32(FIELD(&im, crypt_method), Q2_CRYPT_LUKS);
    add_extension(&im, 112, Q2_EXT_CRYPTO, "0123456789abcde", 15);
    refused(&im, -EINVAL, "wrong length");
}

static void test_features(void **state)
{
    struct q2_disk_feature_name names[2] = {
        {.type = Q2_FEATURE_INCOMPATIBLE, .bit = 17, .name = "time\ntravel"},
        {.type = Q2_FEATURE_COMPATIBLE, .bit = 18, .name = "not this one"},
    };
    struct image im;

    basic(&im, 3);
    put_be64(FIELD(&im, incompatible_features), 1ull << 17 | 1ull << 18 | 1);
    refused(&im, -ENOTSUP, "feature bit 17, unknown incompatible feature bit 18");
    add_extension(&im, 112, Q2_EXT_FEATURE_NAMES, names, sizeof names);
    refused(&im, -ENOTSUP, ": time?travel, unknown incompatible feature bit 18");
    put_be64(FIELD(&im, incompatible_features), ~0x1full);
    refused(&im, -ENOTSUP, ": time?travel, unknown incompatible feature bit 5, ");
    refused(&im, -ENOTSUP, " more");
    /* A bad extension doesn't hide the reason. */
    put_be32(im.buf + 116, UINT32_MAX);
    refused(&im, -ENOTSUP, "feature bit 5, ");
}

static void test_compression(void **state)
{
    struct image im;

    basic(&im, 3);
    im.buf[104] = 1;
    refused(&im, -EINVAL, "feature bit is not set");
    put_be64(FIELD(&im, incompatible_features), Q2_INCOMPAT_COMPRESSION);
    accepted(&im);
    im.buf[104] = 2;
    refused(&im, -ENOTSUP, "compression type 2");
    im.buf[104] = 0;
    refused(&im, -EINVAL, "compression type bit");
    /* The byte is no field of a header that ends before it. */
    im.buf[104] = 1;
    put_be32(FIELD(&im, header_length), 104);
    refused(&im, -EINVAL, "compression type bit");
}

static void test_extended_l2(void **state)
{
    struct q2_header h;
    struct image im;

    basic(&im, 3);
    put_be64(FIELD(&im, incompatible_features), Q2_INCOMPAT_EXTENDED_L2);
    put_be32(FIELD(&im, l1_size), 4);
    assert_int_equal(parse(&im, &h), 0);
    assert_true(h.geo.extended_l2);
    assert_int_equal(h.geo.l2_entry_size, 16);
    q2_header_free(&h);
    put_be32(FIELD(&im, cluster_bits), 13);
    refused(&im, -EINVAL, "16 KiB");
}

static void test_data_file(void **state)
{
    struct q2_header h;
    struct image im;

    basic(&im, 3);
    put_be64(FIELD(&im, incompatible_features), Q2_INCOMPAT_DATA_FILE);
    put_be64(FIELD(&im, autoclear_features), Q2_AUTOCLEAR_DATA_FILE_RAW);
    add_extension(&im, 112, Q2_EXT_DATA_FILE, "data.raw", 8);
    assert_int_equal(parse(&im, &h), 0);
    assert_true(h.geo.data_file);
    assert_string_equal(h.data_file, "data.raw");
    q2_header_free(&h);

    put_be32(FIELD(&im, nb_snapshots), 1);
    put_be64(FIELD(&im, snapshots_offset), 2 * CLUSTER);
    refused(&im, -EINVAL, "snapshots");
    put_be32(FIELD(&im, nb_snapshots), 0);
    memcpy(im.buf + 500, "base", 4);
    put_be64(FIELD(&im, backing_file_offset), 500);
    put_be32(FIELD(&im, backing_file_size), 4);
    refused(&im, -EINVAL, "backing file");
    put_be64(FIELD(&im, autoclear_features), 0);
    accepted(&im);
    put_be64(FIELD(&im, incompatible_features), 0);
    put_be64(FIELD(&im, autoclear_features), Q2_AUTOCLEAR_DATA_FILE_RAW);
    refused(&im, -EINVAL, "raw external data");
}

static void test_backing_name(void **state)
{
    struct image im;

    basic(&im, 3);
    put_be32(FIELD(&im, backing_file_size), 8);
    put_be64(FIELD(&im, backing_file_offset), 100);
    refused(&im, -EINVAL, "overlaps the header");
    put_be64(FIELD(&im, backing_file_offset), CLUSTER + 1);
    refused(&im, -EINVAL, "first cluster");
    put_be64(FIELD(&im, backing_file_offset), UINT64_MAX);
    refused(&im, -EINVAL, "first cluster");
    put_be64(FIELD(&im, backing_file_offset), CLUSTER - 7);
    refused(&im, -EINVAL, "first cluster");
    put_be64(FIELD(&im, backing_file_offset), 500);
    put_be32(FIELD(&im, backing_file_size), 1024);
    refused(&im, -EINVAL, "1023");
    put_be32(FIELD(&im, backing_file_size), UINT32_MAX);
    refused(&im, -EINVAL, "first cluster");
}

static void test_extensions(void **state)
{
    static const char long_name[1024] = "qcow2";
    struct image im;

    basic(&im, 3);
    add_extension(&im, 112, 0x12345678, "", 0);
    put_be32(im.buf + 116, CLUSTER - 112 - 8 + 1);
    refused(&im, -EINVAL, "0x12345678");
    put_be32(im.buf + 116, UINT32_MAX);
    refused(&im, -EINVAL, "does not fit");
    put_be32(im.buf + 116, CLUSTER - 112 - 8);
    accepted(&im);

    basic(&im, 3);
    basic(&im, 3);
    add_extension(&im, 112, Q2_EXT_BACKING_FORMAT, long_name, sizeof long_name);
    refused(&im, -EINVAL, "too long");
    /* One that runs into the name of the backing file. */
    basic(&im, 3);
    add_extension(&im, 112, 0x12345678, "0123456789abcdef", 16);
    put_be64(FIELD(&im, backing_file_offset), 128);
    put_be32(FIELD(&im, backing_file_size), 4);
    refused(&im, -EINVAL, "does not fit");
}

/* As other programs write them. */
static void test_odd_but_right(void **state)
{
    static const struct q2_disk_feature_name names[] = {{.type = Q2_FEATURE_COMPATIBLE, .bit = 9, .name = "first"},
                                                        {.type = Q2_FEATURE_COMPATIBLE, .bit = 9, .name = "last"}};
    static const unsigned lengths[] = {104, 105, 108, 111, 112, 113, 131};
    struct q2_header h;
    struct image im;
    char buf[64];
    size_t pos;

    for (size_t i = 0; i < ARRAY_LEN(lengths); i++) {
        basic(&im, 3);
        memset(im.buf + 104, 0, 200);
        put_be32(FIELD(&im, header_length), lengths[i]);
        add_extension(&im, lengths[i], Q2_EXT_BACKING_FORMAT, "raw", 3);
        if (lengths[i] == 104) /* the place of the compression type is not a field then */
            assert_int_not_equal(im.buf[104], 0);
        assert_int_equal(parse(&im, &h), 0);
        assert_string_equal(h.backing_format, "raw");
        assert_int_equal(h.compression_type, 0); /* zlib */
        q2_header_free(&h);
    }
    /* Of two the last counts. */
    basic(&im, 3);
    pos = add_extension(&im, 112, Q2_EXT_BACKING_FORMAT, "raw", 3);
    pos = add_extension(&im, pos, Q2_EXT_FEATURE_NAMES, &names[0], sizeof names[0]);
    pos = add_extension(&im, pos, Q2_EXT_BACKING_FORMAT, "qcow2", 5);
    add_extension(&im, pos, Q2_EXT_FEATURE_NAMES, &names[1], sizeof names[1]);
    assert_int_equal(parse(&im, &h), 0);
    assert_string_equal(h.backing_format, "qcow2");
    assert_string_equal(q2_feature_name(&h, Q2_FEATURE_COMPATIBLE, 9, buf), "last");
    q2_header_free(&h);
}

/* What ends the extensions is part of it, though it is nothing but zeros; so is the backing file's name. */
static void test_end(void **state)
{
    static const uint8_t zeros[385];
    struct image im;
    size_t pos;

    (void)state;
    for (uint32_t version = 2; version <= 3; version++) {
        basic(&im, version);
        assert_int_equal(q2_header_end(im.buf, CLUSTER), version == 2 ? 72 + 8 : 112 + 8);
        pos = add_extension(&im, version == 2 ? 72 : 112, 0x777, zeros, sizeof zeros);
        assert_int_equal(q2_header_end(im.buf, CLUSTER), pos + 8);
        put_be64(FIELD(&im, backing_file_offset), pos + 100);
        put_be32(FIELD(&im, backing_file_size), 9);
        assert_int_equal(q2_header_end(im.buf, CLUSTER), pos + 109);
        put_be64(FIELD(&im, backing_file_offset), pos); /* nothing ends them but that */
        assert_int_equal(q2_header_end(im.buf, CLUSTER), pos + 9);
    }
}

/* Parsed, and the table said to be wrong; which is then not there. */
static void noted(struct image *im, const char *reftable, const char *snapshots)
{
    struct q2_header h;

    assert_int_equal(parse(im, &h), 0);
    assert_true(!reftable == !h.reftable_problem && !snapshots == !h.snapshots_problem);
    if (reftable) {
        assert_non_null(strstr(h.reftable_problem, reftable));
        assert_true(h.reftable_offset == 0 && h.reftable_clusters == 0);
    }
    if (snapshots)
        assert_non_null(strstr(h.snapshots_problem, snapshots));
    q2_header_free(&h);
}

static void test_l1(void **state)
{
    struct image im;

    basic(&im, 3);
    put_be32(FIELD(&im, l1_size), 1);
    refused(&im, -EINVAL, "too small");
    put_be32(FIELD(&im, l1_size), (32 << 20) / 8 + 1);
    refused(&im, -EFBIG, "32 MiB");
    put_be32(FIELD(&im, l1_size), UINT32_MAX);
    refused(&im, -EFBIG, "32 MiB");
    basic(&im, 3);
    put_be64(FIELD(&im, l1_table_offset), 3 * CLUSTER + 512);
    refused(&im, -EINVAL, "aligned");
    put_be64(FIELD(&im, l1_table_offset), 0);
    refused(&im, -EINVAL, "overlaps the header");
    put_be64(FIELD(&im, l1_table_offset), 4 * CLUSTER);
    refused(&im, -EINVAL, "beyond the end");
    put_be64(FIELD(&im, l1_table_offset), UINT64_MAX - CLUSTER + 1);
    refused(&im, -EINVAL, "beyond the end");
    put_be64(FIELD(&im, l1_table_offset), CLUSTER);
    noted(&im, "overlaps the L1 table", NULL);
    basic(&im, 3);
    put_be64(FIELD(&im, size), UINT64_MAX);
    refused(&im, -EFBIG, "virtual size");
    put_be64(FIELD(&im, size), 1ull << 63);
    refused(&im, -EFBIG, "virtual size");
    /* None is needed for nothing. */
    basic(&im, 3);
    put_be64(FIELD(&im, size), 0);
    put_be32(FIELD(&im, l1_size), 0);
    put_be64(FIELD(&im, l1_table_offset), 0);
    accepted(&im);
    /* The last entry may end where the file ends. */
    basic(&im, 3);
    im.file_size = 3 * CLUSTER + 16;
    accepted(&im);
    im.file_size--;
    refused(&im, -EINVAL, "truncated");
}

static void test_reftable(void **state)
{
    struct image im;

    basic(&im, 3);
    put_be32(FIELD(&im, refcount_table_clusters), 0);
    noted(&im, "there is none", NULL);
    put_be32(FIELD(&im, refcount_table_clusters), 129);
    noted(&im, "8 MiB", NULL);
    put_be32(FIELD(&im, refcount_table_clusters), UINT32_MAX);
    noted(&im, "8 MiB", NULL);
    basic(&im, 3);
    put_be64(FIELD(&im, refcount_table_offset), CLUSTER + 8);
    noted(&im, "aligned", NULL);
    put_be64(FIELD(&im, refcount_table_offset), 0);
    noted(&im, "overlaps the header", NULL);
    put_be64(FIELD(&im, refcount_table_offset), 4 * CLUSTER);
    noted(&im, "beyond the end", NULL);
    basic(&im, 3);
    put_be32(FIELD(&im, refcount_table_clusters), 3);
    noted(&im, "overlaps the L1 table", NULL);
}

static void test_snapshots(void **state)
{
    struct image im;

    basic(&im, 3);
    put_be32(FIELD(&im, nb_snapshots), 65537);
    noted(&im, NULL, "65536 snapshots");
    put_be32(FIELD(&im, nb_snapshots), 1);
    noted(&im, NULL, "overlaps the header");
    put_be64(FIELD(&im, snapshots_offset), 100);
    noted(&im, NULL, "aligned");
    put_be64(FIELD(&im, snapshots_offset), 4 * CLUSTER);
    noted(&im, NULL, "beyond the end");
    put_be64(FIELD(&im, snapshots_offset), 2 * CLUSTER);
    accepted(&im);
}

/* A file that ends anywhere, in an allocation of just that length so that ASan sees a read past it. */
static void test_truncated(void **state)
{
    struct image im;

    basic(&im, 3);
    add_extension(&im, 112, Q2_EXT_BACKING_FORMAT, "raw", 3);
    for (size_t len = 0; len < 256; len++) {
        uint8_t *copy = malloc(len ? len : 1);
        struct q2_header h;

        memcpy(copy, im.buf, len);
        assert_int_equal(q2_header_parse(copy, len, len, "disk.qcow2", &h), -EINVAL);
        assert_true(strncmp(vdisk_error_text(), "disk.qcow2: ", 12) == 0);
        q2_header_span(copy, len);
        free(copy);
    }
}

/* Whatever the bytes are: an answer, no more memory than a few clusters, and what was promised of good ones. */
static void test_random_damage(void **state)
{
    uint64_t seed = 20240229;

    for (int i = 0; i < 60000; i++) {
        struct q2_header h;
        struct image im;

        basic(&im, 2 + i % 2);
        add_extension(&im, add_extension(&im, 112, Q2_EXT_BACKING_FORMAT, "raw", 3), 0x777, "x", 1);
        for (int k = 0; k <= i % 4; k++) {
            seed = seed * 6364136223846793005ull + 1442695040888963407ull;
            if (seed >> 63)
                im.buf[(seed >> 33) % 160] ^= (uint8_t)(1u << (seed >> 60 & 7));
            else
                im.buf[(seed >> 33) % 160] = (uint8_t)(seed >> 20);
        }
        if (parse(&im, &h) == 0) {
            assert_true(h.l1_entries <= Q2_MAX_L1_SIZE / 8);
            assert_true(is_aligned(h.l1_offset | h.reftable_offset, h.geo.cluster_size));
            assert_true(h.snapshots_problem || is_aligned(h.snapshots_offset, h.geo.cluster_size));
            assert_true(h.l1_offset + h.l1_entries * 8ull <= im.file_size || h.l1_entries == 0);
            assert_true(q2_l1_entries(&h.geo, h.size) <= h.l1_entries);
            q2_header_free(&h);
        }
    }
}

/* ---- writing ------------------------------------------------------------------------------------------- */

static void assert_same(const struct q2_header *a, const struct q2_header *b)
{
    assert_memory_equal(&a->geo, &b->geo, sizeof a->geo);
    assert_int_equal(a->size, b->size);
    assert_int_equal(a->l1_offset, b->l1_offset);
    assert_int_equal(a->l1_entries, b->l1_entries);
    assert_int_equal(a->reftable_offset, b->reftable_offset);
    assert_int_equal(a->reftable_clusters, b->reftable_clusters);
    assert_int_equal(a->nb_snapshots, b->nb_snapshots);
    assert_int_equal(a->snapshots_offset, b->snapshots_offset);
    assert_int_equal(a->incompatible, b->incompatible);
    assert_int_equal(a->compatible, b->compatible);
    assert_int_equal(a->autoclear, b->autoclear);
    assert_int_equal(a->compression_type, b->compression_type);
    assert_int_equal(a->nb_bitmaps, b->nb_bitmaps);
    assert_int_equal(a->bitmap_directory_offset, b->bitmap_directory_offset);
    assert_int_equal(a->bitmap_directory_size, b->bitmap_directory_size);
    assert_int_equal(a->tail_len, b->tail_len);
    assert_memory_equal(a->tail, b->tail, a->tail_len);
    assert_int_equal(a->nextensions, b->nextensions);
    for (size_t i = 0; i < a->nextensions; i++) {
        assert_int_equal(a->extensions[i].type, b->extensions[i].type);
        assert_int_equal(a->extensions[i].len, b->extensions[i].len);
        assert_memory_equal(a->extensions[i].data, b->extensions[i].data, a->extensions[i].len);
    }
}

/* An image of a later version: a longer header, extensions and names that we don't know. */
static void from_the_future(struct image *im)
{
    struct q2_disk_feature_name name = {.type = Q2_FEATURE_AUTOCLEAR, .bit = 40, .name = "future"};
    struct q2_disk_bitmaps bitmaps = {htobe32(2), 0, htobe64(80), htobe64(4 * CLUSTER)};
    size_t pos;

    basic(im, 3);
    im->file_size = 6 * CLUSTER;
    for (int i = 105; i < 136; i++)
        im->buf[i] = (uint8_t)i;
    put_be32(FIELD(im, header_length), 136);
    pos = add_extension(im, 136, 0xfeedface, "seven b", 7);
    pos = add_extension(im, pos, Q2_EXT_FEATURE_NAMES, &name, sizeof name);
    pos = add_extension(im, pos, Q2_EXT_BACKING_FORMAT, "qcow2", 5);
    pos = add_extension(im, pos, Q2_EXT_BITMAPS, &bitmaps, sizeof bitmaps);
    add_extension(im, pos, 0xabad1dea, "", 0);
    put_be64(FIELD(im, autoclear_features), Q2_AUTOCLEAR_BITMAPS | 1ull << 40);
    memcpy(im->buf + 1000, "/base", 5);
    put_be64(FIELD(im, backing_file_offset), 1000);
    put_be32(FIELD(im, backing_file_size), 5);
}

static void test_unknown_is_preserved(void **state)
{
    struct q2_header h, again;
    struct image im, out;
    char buf[64];

    from_the_future(&im);
    assert_int_equal(parse(&im, &h), 0);
    assert_int_equal(h.nextensions, 2);
    assert_int_equal(h.tail_len, 31);
    out.file_size = im.file_size;
    assert_int_equal(q2_header_write(&h, "disk.qcow2", out.buf, sizeof out.buf), 0);
    assert_int_equal(parse(&out, &again), 0);
    assert_same(&h, &again);
    assert_string_equal(again.backing_file, "/base");
    assert_string_equal(again.backing_format, "qcow2");
    assert_string_equal(q2_feature_name(&again, Q2_FEATURE_AUTOCLEAR, 40, buf), "future");
    assert_string_equal(q2_feature_name(&again, Q2_FEATURE_INCOMPATIBLE, 0, buf), "dirty bit");
    assert_string_equal(q2_feature_name(&again, Q2_FEATURE_COMPATIBLE, 9, buf),
                        "unknown compatible feature bit 9");
    /* And a second rewrite changes nothing. */
    assert_int_equal(q2_header_write(&again, "disk.qcow2", im.buf, sizeof im.buf), 0);
    assert_memory_equal(im.buf, out.buf, sizeof im.buf);
    q2_header_free(&h);
    q2_header_free(&again);
}

static void test_write_version_2(void **state)
{
    struct q2_header h, again;
    struct image im, out;

    basic(&im, 2);
    memcpy(im.buf + 88, "base", 4);
    add_extension(&im, 72, Q2_EXT_END, "", 0);
    put_be64(FIELD(&im, backing_file_offset), 88);
    put_be32(FIELD(&im, backing_file_size), 4);
    assert_int_equal(parse(&im, &h), 0);
    out.file_size = im.file_size;
    assert_int_equal(q2_header_write(&h, "disk.qcow2", out.buf, sizeof out.buf), 0);
    assert_int_equal(get_be32(out.buf + 72), Q2_EXT_END);
    assert_int_equal(get_be64(FIELD(&out, backing_file_offset)), 80);
    assert_int_equal(parse(&out, &again), 0);
    assert_same(&h, &again);
    assert_string_equal(again.backing_file, "base");
    q2_header_free(&h);
    q2_header_free(&again);
}

/* In a small cluster the optional names give way first, then there is an error. */
static void test_too_large_for_the_cluster(void **state)
{
    struct q2_header h = {0}, again;
    uint8_t buf[512];
    char name[600];
    size_t longest = 0;

    q2_geometry_init(&h.geo, 3, 9, 4, false, false);
    h.size = 512;
    h.l1_entries = 1;
    h.l1_offset = 1536;
    h.reftable_offset = 512;
    h.reftable_clusters = 1;
    for (size_t len = 0; len < sizeof name; len++) {
        memset(name, 'n', len);
        name[len] = '\0';
        h.backing_file = len ? name : NULL;
        if (q2_header_write(&h, "disk.qcow2", buf, sizeof buf) < 0)
            break;
        longest = len;
        assert_int_equal(q2_header_parse(buf, sizeof buf, 2048, "disk.qcow2", &again), 0);
        assert_int_equal(len ? strlen(again.backing_file) : 0, len);
        assert_int_equal(again.nfeatures, len == 0 ? 8 : 0);
        q2_header_free(&again);
    }
    assert_int_equal(longest, 512 - 112 - 8);
    assert_int_equal(q2_header_write(&h, "disk.qcow2", buf, sizeof buf), -ENOSPC);
    assert_non_null(strstr(vdisk_error_text(), "disk.qcow2: "));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_basic),
        cmocka_unit_test(test_version_2_ends_early),
        cmocka_unit_test(test_span),
        cmocka_unit_test(test_strings),
        cmocka_unit_test(test_dirty_and_corrupt_are_left_to_the_caller),
        cmocka_unit_test(test_bitmaps),
        cmocka_unit_test(test_fixed_fields),
        cmocka_unit_test(test_encryption),
        cmocka_unit_test(test_features),
        cmocka_unit_test(test_compression),
        cmocka_unit_test(test_extended_l2),
        cmocka_unit_test(test_data_file),
        cmocka_unit_test(test_backing_name),
        cmocka_unit_test(test_extensions),
        cmocka_unit_test(test_odd_but_right),
        cmocka_unit_test(test_end),
        cmocka_unit_test(test_l1),
        cmocka_unit_test(test_reftable),
        cmocka_unit_test(test_snapshots),
        cmocka_unit_test(test_truncated),
        cmocka_unit_test(test_random_damage),
        cmocka_unit_test(test_unknown_is_preserved),
        cmocka_unit_test(test_write_version_2),
        cmocka_unit_test(test_too_large_for_the_cluster),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
