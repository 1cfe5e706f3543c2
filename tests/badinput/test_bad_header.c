/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Each header field with values that cannot be, files cut at any length, and things that are no image at all. */
#include <stdio.h>
#include <unistd.h>

#include "engine/base/bits.h"
#include "tests/badinput/badinput_lib.h"
#include "tests/lib/run.h"

static const char *make_base(const char *options)
{
    const char *path = test_path("base.qcow2");

    test_requires("qemu-img");
    run_ok("qemu-img create -q -f qcow2 -o %s %s 1M", options, path);
    run_ok("qemu-io -f qcow2 -c 'write -q -P 1 0 256k' -c 'write -q -P 2 768k 256k' %s", path);
    return path;
}

/* ---- fields --------------------------------------------------------------------------------------------- */

struct field {
    const char *name;
    uint64_t    at;
    unsigned    width;
    uint64_t    value;
    enum bad_want want; /* of all verbs; BAD_GOOD: guest data can be read, but not written */
};

#define REFUSED(field, value) {#field, BAD_FIELD(field), value, BAD_REFUSED}
#define READABLE(field, value) {#field, BAD_FIELD(field), value, BAD_GOOD}
#define EITHER(field, value) {#field, BAD_FIELD(field), value, BAD_ANY}

static const struct field fields[] = {
    EITHER(version, 0) /* raw, for who does not say qcow2 */, REFUSED(version, 1), REFUSED(version, 4),
    REFUSED(version, UINT32_MAX),
    REFUSED(cluster_bits, 0), REFUSED(cluster_bits, 8), REFUSED(cluster_bits, 22), REFUSED(cluster_bits, 63),
    REFUSED(cluster_bits, 64), REFUSED(cluster_bits, UINT32_MAX), EITHER(cluster_bits, 9),
    EITHER(cluster_bits, 21),
    EITHER(size, 0), EITHER(size, 1), EITHER(size, 513), REFUSED(size, UINT64_MAX), REFUSED(size, INT64_MAX),
    REFUSED(size, 1ull << 62), REFUSED(size, 1ull << 63), REFUSED(size, 1ull << 40),
    EITHER(crypt_method, 1), EITHER(crypt_method, 2), REFUSED(crypt_method, UINT32_MAX),
    REFUSED(l1_size, 0), REFUSED(l1_size, UINT32_MAX), REFUSED(l1_size, 1u << 31),
    REFUSED(l1_size, (4u << 20) + 1),
    REFUSED(l1_size, 4u << 20),
    REFUSED(l1_table_offset, 0), REFUSED(l1_table_offset, 8), REFUSED(l1_table_offset, UINT64_MAX),
    REFUSED(l1_table_offset, UINT64_MAX << 12), REFUSED(l1_table_offset, 1ull << 55),
    REFUSED(l1_table_offset, 1ull << 63), REFUSED(l1_table_offset, 4096 /* the refcount table */),
    READABLE(refcount_table_offset, 0), READABLE(refcount_table_offset, 8),
    READABLE(refcount_table_offset, UINT64_MAX),
    READABLE(refcount_table_offset, UINT64_MAX << 12), READABLE(refcount_table_offset, 1ull << 63),
    READABLE(refcount_table_clusters, 0), READABLE(refcount_table_clusters, UINT32_MAX),
    READABLE(refcount_table_clusters, 2049), READABLE(refcount_table_clusters, 2048 /* goes over the L1 table */),
    READABLE(nb_snapshots, UINT32_MAX), READABLE(nb_snapshots, 65537), READABLE(nb_snapshots, 1 /* at offset 0 */),
    READABLE(snapshots_offset, 8), READABLE(snapshots_offset, UINT64_MAX),
    REFUSED(incompatible_features, 1ull << 5), REFUSED(incompatible_features, 1ull << 63),
    REFUSED(incompatible_features, UINT64_MAX), EITHER(incompatible_features, Q2_INCOMPAT_DIRTY),
    EITHER(incompatible_features, Q2_INCOMPAT_CORRUPT), REFUSED(incompatible_features, Q2_INCOMPAT_COMPRESSION),
    REFUSED(incompatible_features, Q2_INCOMPAT_EXTENDED_L2), EITHER(incompatible_features, Q2_INCOMPAT_DATA_FILE),
    EITHER(compatible_features, UINT64_MAX), EITHER(autoclear_features, 1), EITHER(autoclear_features, 2),
    EITHER(autoclear_features, UINT64_MAX << 2),
    REFUSED(refcount_order, 7), REFUSED(refcount_order, 64), REFUSED(refcount_order, UINT32_MAX),
    REFUSED(header_length, 0), REFUSED(header_length, 8), REFUSED(header_length, 103), EITHER(header_length, 105),
    REFUSED(header_length, 4104), REFUSED(header_length, UINT32_MAX), REFUSED(header_length, 0xfffffff8),
    EITHER(header_length, 4096),
    REFUSED(compression_type, 1), REFUSED(compression_type, 255),
    REFUSED(backing_file_offset, 8), REFUSED(backing_file_offset, 4097), REFUSED(backing_file_offset, UINT64_MAX),
    EITHER(backing_file_offset, 4096),
};

/* A table is wrong that reading does not take. */
static void run_readable(const char *path)
{
    bad_run(BAD_INFO, path, BAD_ANY, NULL); /* it lists snapshots */
    bad_run(BAD_MAP, path, BAD_GOOD, NULL);
    bad_run(BAD_READ, path, BAD_GOOD, NULL);
    CHECK_INT(bad_run(BAD_CHECK, path, BAD_ANY, NULL), 2);
    bad_run(BAD_WRITE, path, BAD_REFUSED, "can only be opened read-only");
}

static void field_values(void)
{
    const char *base = make_base("cluster_size=4k"), *path = test_path("bad.qcow2");

    for (size_t i = 0; i < ARRAY_LEN(fields); i++) {
        const struct field *f = &fields[i];
        struct bad_image im;

        test_note("%s = 0x%llx", f->name, (unsigned long long)f->value);
        bad_copy(base, path);
        bad_open(&im, path);
        bad_put(&im, f->at, f->width, f->value);
        bad_close(&im);
        if (f->want == BAD_REFUSED)
            bad_refused(path, NULL);
        else if (f->want == BAD_GOOD)
            run_readable(path);
        else
            bad_run_all(path);
    }
    printf("%zu header fields with bad values, %u runs\n", ARRAY_LEN(fields), bad_runs());
}

/* The most that the limits allow, out of a small file: none of it is to be believed. */
static void large_but_legal(void)
{
    const char *base = make_base("cluster_size=4k"), *path = test_path("bad.qcow2");
    struct bad_image im;

    test_note("an L1 table of 32 MiB in a hole, 8 EiB of disk");
    bad_copy(base, path);
    bad_open(&im, path);
    bad_truncate(&im, 1ull << 30);
    bad_put(&im, BAD_FIELD(l1_size), 4u << 20);
    bad_put(&im, BAD_FIELD(l1_table_offset), 512ull << 20);
    bad_put(&im, BAD_FIELD(size), 1ull << 43);
    bad_close(&im);
    CHECK_INT(bad_run(BAD_INFO, path, BAD_GOOD, NULL), 0);
    bad_run_all(path);

    test_note("a refcount table of 8 MiB, each entry the same block");
    bad_copy(base, path);
    bad_open(&im, path);
    bad_truncate(&im, 1ull << 30);
    for (uint64_t at = 0; at < 8 << 20; at += 8)
        bad_put(&im, (512ull << 20) + at, 8, im.h.l1_offset);
    bad_put(&im, BAD_FIELD(refcount_table_offset), 512ull << 20);
    bad_put(&im, BAD_FIELD(refcount_table_clusters), 2048);
    bad_close(&im);
    bad_run_all(path);

    test_note("65536 snapshots, each with an L1 table of 32 MiB");
    bad_copy(base, path);
    bad_open(&im, path);
    bad_truncate(&im, 1ull << 30);
    bad_put(&im, BAD_FIELD(nb_snapshots), 65536);
    bad_put(&im, BAD_FIELD(snapshots_offset), 512ull << 20);
    for (uint64_t i = 0; i < 65536; i++) {
        bad_put(&im, (512ull << 20) + i * 40, 8, 768ull << 20);
        bad_put(&im, (512ull << 20) + i * 40 + 8, 4, 4u << 20);
    }
    bad_close(&im);
    bad_run_all(path);
}

/* ---- extensions ----------------------------------------------------------------------------------------- */

static void extensions(void)
{
    static const struct {
        uint32_t type, len;
    } bad[] = {
        {Q2_EXT_END, UINT32_MAX}, {Q2_EXT_END, 4096}, {Q2_EXT_BITMAPS, 0}, {Q2_EXT_BITMAPS, 25},
        {0x11111111, UINT32_MAX}, {0x11111111, 0x7fffffff}, {0x11111111, 4096}, {Q2_EXT_BACKING_FORMAT, 4096},
        {Q2_EXT_BACKING_FORMAT, 2000}, {Q2_EXT_FEATURE_NAMES, 4000}, {Q2_EXT_FEATURE_NAMES, 47},
        {Q2_EXT_BITMAPS, 24}, {Q2_EXT_CRYPTO, 16}, {Q2_EXT_CRYPTO, 0},
        {Q2_EXT_DATA_FILE, 0}, {Q2_EXT_DATA_FILE, 3900},
    };
    const char *base = make_base("cluster_size=4k"), *path = test_path("bad.qcow2");

    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        for (unsigned clear = 0; clear < 2; clear++) {
            struct bad_image im;

            test_note("extension 0x%x of %u bytes, autoclear %u", bad[i].type, bad[i].len, clear);
            bad_copy(base, path);
            bad_open(&im, path);
            bad_put(&im, BAD_FIELD(autoclear_features), clear);
            bad_put(&im, 112, 4, bad[i].type);
            bad_put(&im, 116, 4, bad[i].len);
            bad_close(&im);
            if (bad[i].type == Q2_EXT_END || (bad[i].type == Q2_EXT_BITMAPS && bad[i].len != 24)) /* as by QEMU */
                bad_refused(path, "extension");
            else
                bad_run_all(path);
        }
    printf("%zu bad header extensions, %u runs\n", ARRAY_LEN(bad), bad_runs());
}

/* ---- length --------------------------------------------------------------------------------------------- */

static void cut_short(void)
{
    const char *base = make_base("cluster_size=4k"), *path = test_path("bad.qcow2");
    uint64_t size, done = 0;
    struct bad_image im;

    bad_open(&im, base);
    size = im.size;
    bad_close(&im);
    for (uint64_t len = 0; len < size; len += len < 160 ? 7 : len < 40000 ? 1789 : 65537) {
        test_note("cut at %llu of %llu", (unsigned long long)len, (unsigned long long)size);
        bad_copy(base, path);
        CHECK(truncate(path, (off_t)len) == 0);
        /* What is left of the magic decides whether info calls it raw; the others are told that it is qcow2. */
        bad_run(BAD_INFO, path, len >= 104 && len < 8192 ? BAD_REFUSED : BAD_ANY, NULL);
        for (enum bad_verb verb = BAD_MAP; verb < BAD_VERBS; verb++)
            if (!bad_left_out())
                bad_run(verb, path, len < 8192 ? BAD_REFUSED : BAD_ANY, NULL);
        done++;
    }
    printf("%llu lengths, %u runs\n", (unsigned long long)done, bad_runs());
}

/* ---- no image ------------------------------------------------------------------------------------------- */

static void no_image(void)
{
    const char *path = test_path("thing");

    bad_refused(path, "No such file");
    run_ok("mkdir thing");
    bad_refused(path, "directory");
    run_ok("rmdir thing; mkfifo thing");
    bad_refused(path, "pipe");
    run_ok("rm thing; ln -s thing thing");
    bad_refused(path, "symbolic link");
    run_ok("rm thing; ln -s /dev/zero thing");
    bad_refused(path, NULL);
    run_ok("rm thing; head -c 100000 /dev/urandom >thing");
    bad_run(BAD_INFO, path, BAD_ANY, NULL);
    for (enum bad_verb verb = BAD_MAP; verb < BAD_VERBS; verb++)
        bad_run(verb, path, BAD_REFUSED, NULL);
    run_ok("{ printf 'QFI\\373'; head -c 100000 /dev/urandom; } >thing");
    bad_refused(path, "version");
    run_ok("{ printf 'QFI\\373\\0\\0\\0\\3'; head -c 100000 /dev/zero; } >thing");
    bad_refused(path, NULL);
    run_ok("{ printf 'QFI\\373\\0\\0\\0\\3'; head -c 100000 /dev/zero | tr '\\0' '\\377'; } >thing");
    bad_refused(path, NULL);
    printf("%u runs on what is no image\n", bad_runs());
}

int main(int argc, char **argv)
{
    const struct test_case cases[] = {
        {.name = "field-values", .run = field_values},
        {.name = "large-but-legal", .run = large_but_legal},
        {.name = "extensions", .run = extensions},
        {.name = "cut-short", .run = cut_short},
        {.name = "no-image", .run = no_image},
    };

    return test_main(argc, argv, cases, ARRAY_LEN(cases));
}
