/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Tables that point at themselves, at each other and out of the file; chains that loop; names that lead astray. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "engine/base/bits.h"
#include "qcow2/format/entry.h"
#include "tests/badinput/badinput_lib.h"
#include "tests/lib/run.h"

/* A fresh image, open under the knife. */
static void fresh(struct bad_image *im, const char *options)
{
    const char *path = test_path("bad.qcow2");

    test_requires("qemu-img");
    run_ok("rm -f %s && qemu-img create -q -f qcow2 -o %s %s 1M", path, options, path);
    run_ok("qemu-io -f qcow2 -c 'write -q -P 1 0 256k' -c 'write -q -P 2 768k 256k' %s", path);
    bad_open(im, path);
}

/* Closed and given to all verbs; check finds corruption. */
static void corrupt(struct bad_image *im)
{
    bad_close(im);
    CHECK_INT(bad_run(BAD_CHECK, im->path, BAD_ANY, NULL), 2);
    bad_run_all(im->path);
}

/* ---- L1 and L2 ------------------------------------------------------------------------------------------ */

static const uint64_t offsets[] = {
    0, 512, 4096, 1ull << 40, (1ull << 55) + 4096, Q2_L2_OFFSET, Q2_L1_OFFSET & ~4095ull,
};
static const uint64_t flags[] = {0, Q2_COPIED, Q2_COMPRESSED, Q2_COPIED | Q2_COMPRESSED, Q2_COPIED | Q2_ZERO};

static void l1_entries(void)
{
    struct bad_image im;

    for (size_t i = 0; i < ARRAY_LEN(offsets); i++)
        for (size_t k = 0; k < ARRAY_LEN(flags); k++) {
            test_note("L1 entry 0x%llx", (unsigned long long)(offsets[i] | flags[k]));
            fresh(&im, "cluster_size=4k");
            bad_put(&im, im.h.l1_offset, 8, offsets[i] | flags[k]);
            bad_close(&im);
            bad_run_all(im.path);
        }
    printf("%zu L1 entries, %u runs\n", ARRAY_LEN(offsets) * ARRAY_LEN(flags), bad_runs());
}

static void l2_entries(void)
{
    static const char *const options[] = {"cluster_size=4k", "cluster_size=16k,extended_l2=on", "compat=0.10"};
    struct bad_image im;

    for (size_t o = 0; o < ARRAY_LEN(options); o++)
        for (size_t i = 0; i < ARRAY_LEN(offsets); i++) {
            test_note("%s: L2 entries with offset 0x%llx", options[o], (unsigned long long)offsets[i]);
            fresh(&im, options[o]);
            for (size_t k = 0; k < ARRAY_LEN(flags); k++)
                bad_put(&im, bad_l2(&im) + k * im.h.geo.l2_entry_size, 8, offsets[i] | flags[k]);
            if (im.h.geo.extended_l2)
                bad_put(&im, bad_l2(&im) + 8, 8, UINT64_MAX);
            corrupt(&im);
        }
    printf("%zu L2 entries, %u runs\n", ARRAY_LEN(options) * ARRAY_LEN(offsets) * ARRAY_LEN(flags), bad_runs());
}

/* Entries that lead to the image's own tables: reads must not harm, writes must not follow. */
static void self_references(void)
{
    struct bad_image im;

    test_note("an L2 table that is its own data");
    fresh(&im, "cluster_size=4k");
    for (unsigned i = 0; i < 64; i++)
        bad_put(&im, bad_l2(&im) + i * 8, 8, Q2_COPIED | bad_l2(&im));
    corrupt(&im);
    test_note("an L1 table that is its own L2 table");
    fresh(&im, "cluster_size=4k");
    bad_put(&im, im.h.l1_offset, 8, Q2_COPIED | im.h.l1_offset);
    corrupt(&im);
    test_note("a refcount table that is its own block");
    fresh(&im, "cluster_size=4k");
    bad_put(&im, im.h.reftable_offset, 8, im.h.reftable_offset);
    corrupt(&im);
    test_note("an L2 table that is the refcount block");
    fresh(&im, "cluster_size=4k");
    bad_put(&im, im.h.l1_offset, 8, Q2_COPIED | bad_get(&im, im.h.reftable_offset, 8));
    corrupt(&im);
    test_note("data that is header, tables and blocks");
    fresh(&im, "cluster_size=4k");
    for (unsigned i = 0; i < 64; i++)
        bad_put(&im, bad_l2(&im) + i * 8, 8, Q2_COPIED | i * 4096);
    corrupt(&im);
    test_note("two L1 entries, one L2 table");
    fresh(&im, "cluster_size=4k");
    bad_put(&im, im.h.l1_offset + 8, 8, bad_get(&im, im.h.l1_offset, 8));
    bad_close(&im);
    bad_run_all(im.path);
    test_note("compressed data that is the L2 table");
    fresh(&im, "cluster_size=4k");
    for (unsigned i = 0; i < 64; i++)
        bad_put(&im, bad_l2(&im) + i * 8, 8, Q2_COMPRESSED | ((uint64_t)i % 16) << 58 | (bad_l2(&im) + i * 61));
    corrupt(&im);
}

static void refcounts(void)
{
    static const uint64_t entries[] = {1, 512, 8, 4096, 1ull << 40, 1ull << 63, UINT64_MAX, UINT64_MAX << 12};
    struct bad_image im;

    for (size_t i = 0; i < ARRAY_LEN(entries); i++) {
        test_note("refcount table entry 0x%llx", (unsigned long long)entries[i]);
        fresh(&im, "cluster_size=4k");
        bad_put(&im, im.h.reftable_offset, 8, entries[i]);
        bad_close(&im);
        bad_run_all(im.path);
    }
    test_note("all refcounts at their maximum");
    fresh(&im, "cluster_size=4k");
    for (uint64_t at = 0, block = bad_get(&im, im.h.reftable_offset, 8); at < 4096; at += 8)
        bad_put(&im, block + at, 8, UINT64_MAX);
    corrupt(&im);
    test_note("all refcounts nought");
    fresh(&im, "cluster_size=4k");
    for (uint64_t at = 0, block = bad_get(&im, im.h.reftable_offset, 8); at < 4096; at += 8)
        bad_put(&im, block + at, 8, 0);
    corrupt(&im);
}

/* Work that a small file could ask for: bounded, whatever it says. */
static void much_from_little(void)
{
    struct bad_image im;

    test_note("4 Mi L1 entries, one L2 table of nothing");
    fresh(&im, "cluster_size=4k");
    bad_truncate(&im, 64 << 20);
    bad_put(&im, BAD_FIELD(l1_table_offset), 32 << 20);
    bad_put(&im, BAD_FIELD(l1_size), 4 << 20);
    bad_put(&im, BAD_FIELD(size), 1ull << 43);
    uint8_t *table = test_alloc(32 << 20);
    for (uint64_t i = 0; i < 4 << 20; i++)
        put_be64(table + i * 8, 16 << 20);
    CHECK(pwrite(im.fd, table, 32 << 20, 32 << 20) == 32 << 20);
    free(table);
    bad_close(&im);
    bad_run(BAD_INFO, im.path, BAD_GOOD, NULL);
    bad_run(BAD_CHECK, im.path, BAD_ANY, NULL);
    bad_run(BAD_READ, im.path, BAD_GOOD, NULL);
    bad_run(BAD_WRITE, im.path, BAD_ANY, NULL);
}

/* ---- compressed data ------------------------------------------------------------------------------------ */

static void compressed(void)
{
    static const char *const types[] = {"zlib", "zstd"};

    for (unsigned t = 0; t < 2; t++)
        for (unsigned round = 0; round < 12; round++) {
            const char *path = test_path("bad.qcow2");
            struct bad_image im;
            uint64_t entry, at;

            test_requires("qemu-img");
            test_note("%s, round %u", types[t], round);
            run_ok("rm -f %s && qemu-img create -q -f qcow2 -o compression_type=%s %s 1M", path, types[t], path);
            run_ok("qemu-io -f qcow2 -c 'write -q -c -P 1 0 64k' -c 'write -q -c -P 2 64k 64k' %s", path);
            bad_open(&im, path);
            entry = bad_get(&im, bad_l2(&im), 8);
            at = entry & im.h.geo.compressed_offset_mask;
            if (round < 8) /* the stream */
                bad_put(&im, at + rng_below(test_rng(), 30), 1, rng_next(test_rng()) & 0xff);
            else if (round == 8) /* its length: none, and far too much */
                bad_put(&im, bad_l2(&im), 8, entry & ~(~0ull << 54) & ~Q2_COPIED);
            else if (round == 9)
                bad_put(&im, bad_l2(&im), 8, entry | (0xffull << 54));
            else if (round == 10) /* it ends with the file, and past it */
                bad_truncate(&im, at + 5);
            else
                bad_truncate(&im, at);
            bad_close(&im);
            bad_run_all(im.path);
        }
}

/* ---- chains --------------------------------------------------------------------------------------------- */

/* Read and map follow the chain and must refuse; info and check look at the first layer only. */
static void chain_refused(const char *path, const char *text)
{
    bad_run(BAD_INFO, path, BAD_ANY, NULL);
    bad_run(BAD_CHECK, path, BAD_ANY, NULL);
    bad_run(BAD_MAP, path, BAD_REFUSED, text);
    bad_run(BAD_READ, path, BAD_REFUSED, text);
    bad_run(BAD_WRITE, path, BAD_REFUSED, text);
}

/* `name` on top of `backing`, which need not be there. */
static void layer(const char *name, const char *backing)
{
    run_ok("qemu-img create -q -u -f qcow2 -F qcow2 -b %s new.qcow2 1M && mv new.qcow2 %s", backing, name);
}

static void loops(void)
{
    test_requires("qemu-img");
    layer("self.qcow2", "self.qcow2");
    chain_refused(test_path("self.qcow2"), "part of its own chain");
    run_ok("ln -s self2.qcow2 link.qcow2");
    layer("self2.qcow2", "./link.qcow2");
    chain_refused(test_path("self2.qcow2"), "part of its own chain");
    layer("self3.qcow2", "hard.qcow2");
    run_ok("ln self3.qcow2 hard.qcow2");
    chain_refused(test_path("self3.qcow2"), "part of its own chain");
    layer("a.qcow2", "b.qcow2");
    layer("b.qcow2", "c.qcow2");
    layer("c.qcow2", "a.qcow2");
    chain_refused(test_path("a.qcow2"), "part of its own chain");
    /* The loop is further down. */
    layer("top.qcow2", "a.qcow2");
    chain_refused(test_path("top.qcow2"), "part of its own chain");
}

/* The image's external data file, if any, becomes `name`: at most 15 bytes. */
static void set_data_file(const char *image, const char *name)
{
    struct bad_image im;
    char head[4096];
    size_t len = strlen("data-file-to-be");

    run_ok("rm -f %s data-file-to-be && qemu-img create -q -f qcow2 -o data_file=data-file-to-be,cluster_size=4k "
           "%s 1M && qemu-io -f qcow2 -c 'write -q 0 64k' %s", image, image, image);
    bad_open(&im, image);
    CHECK(pread(im.fd, head, sizeof head, 0) == sizeof head);
    char *at = memmem(head, sizeof head, "data-file-to-be", len);
    CHECK(at && strlen(name) <= len);
    bad_put(&im, (uint64_t)(at - head) - 4, 4, strlen(name));
    memset(at, 0, len);
    memcpy(at, name, strlen(name));
    CHECK(pwrite(im.fd, at, 16, at - head) == 16);
    bad_close(&im);
}

/* Each layer's backing file is the one before, and there are more than are allowed. */
static void endless_chain(void)
{
    enum { LAYERS = 1100 };

    test_requires("qemu-img");
    layer("0000.qcow2", "none.qcow2");
    run_ok("for i in $(seq -w 1 %d); do cp 0000.qcow2 $i.qcow2; done", LAYERS);
    for (int i = 1; i <= LAYERS; i++) {
        struct bad_image im;
        char name[16];

        bad_open(&im, test_path("%04d.qcow2", i));
        snprintf(name, sizeof name, "%04d.qcow2", i - 1); /* as long as none.qcow2 */
        CHECK(pwrite(im.fd, name, 10, (off_t)bad_get(&im, BAD_FIELD(backing_file_offset))) == 10);
        bad_close(&im);
    }
    chain_refused(test_path("%04d.qcow2", LAYERS), NULL);
}

static void names(void)
{
    static const char *const bad[] = {
        "missing.qcow2", ".", "/", "/dev/null/x", "fifo", "file:", "nbd://127.0.0.1:1/x", "json:{}", "/dev/tty",
    };

    test_requires("qemu-img");
    run_ok("mkfifo fifo");
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        test_note("backing file '%s'", bad[i]);
        run_ok("qemu-img create -q -u -f qcow2 -F raw -b '%s' bad.qcow2 1M", bad[i]);
        chain_refused(test_path("bad.qcow2"), NULL);
    }
}

static void data_files(void)
{
    static const char *const bad[] = {"missing.raw", ".", "fifo", "nbd://0:1/x"};
    static const char *const self[] = {"image.qcow2", "./image.qcow2", "soft.qcow2", "hard.qcow2"};
    const char *image = test_path("image.qcow2");

    test_requires("qemu-img");
    run_ok("mkfifo fifo");
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        test_note("data file '%s'", bad[i]);
        set_data_file(image, bad[i]);
        chain_refused(image, NULL);
    }
    for (size_t i = 0; i < ARRAY_LEN(self); i++) {
        test_note("data file '%s'", self[i]);
        set_data_file(image, self[i]);
        run_ok("ln -sf image.qcow2 soft.qcow2 && ln -f image.qcow2 hard.qcow2");
        chain_refused(image, "is the image itself");
    }
    test_note("a data file that is the top of the chain");
    set_data_file(image, "top.qcow2");
    layer("top.qcow2", "image.qcow2");
    chain_refused(test_path("top.qcow2"), NULL);
    test_note("a backing file that is the data file of the layer above");
    run_ok("rm image.qcow2 && qemu-img create -q -f raw data.raw 1M && qemu-img create -q -f qcow2 -u -b data.raw "
           "-F raw -o data_file=own.raw image.qcow2 1M && ln -f data.raw own.raw");
    chain_refused(image, "part of its own chain");
}

/* Refcounts that are read as an L2 table lead past the end: new refcounts can be put there all the same. */
static void far_entries(void)
{
    static const char *const options[] = {"cluster_size=512", "cluster_size=512,refcount_bits=64",
                                          "cluster_size=4k", "cluster_size=64k"};

    for (size_t i = 0; i < ARRAY_LEN(options); i++) {
        struct bad_image im;

        test_note("%s", options[i]);
        test_requires("qemu-img");
        run_ok("rm -f bad.qcow2 && qemu-img create -q -f qcow2 -o %s bad.qcow2 16M", options[i]);
        run_ok("qemu-io -f qcow2 -c 'write -q -P 1 0 1M' -c 'write -q -P 2 8M 1M' bad.qcow2");
        bad_open(&im, test_path("bad.qcow2"));
        uint64_t block = bad_get(&im, im.h.reftable_offset, 8);
        bad_put(&im, im.h.l1_offset, 8, Q2_COPIED | block);
        bad_close(&im);
        CHECK_INT(bad_run(BAD_MEND, im.path, BAD_ANY, NULL), 0);
        CHECK_INT(bad_run(BAD_CHECK, im.path, BAD_ANY, NULL), 0);
    }
}

/* No refcounts, and a long L1 table of which each entry leads to the same L2 table: it is read twice at most. */
static void one_table_for_all(void)
{
    enum { CLUSTER = 4096 };
    struct bad_image im;
    uint64_t table, block;

    test_requires("qemu-img");
    run_ok("rm -f bad.qcow2 && qemu-img create -q -f qcow2 -o cluster_size=4k bad.qcow2 512G");
    run_ok("qemu-io -f qcow2 -c 'write -q -P 1 0 1M' bad.qcow2");
    bad_open(&im, test_path("bad.qcow2"));
    table = bad_get(&im, im.h.l1_offset, 8) & ~Q2_COPIED;
    block = bad_get(&im, im.h.reftable_offset, 8);
    for (uint64_t i = 0; i < im.h.l1_entries; i++)
        bad_put(&im, im.h.l1_offset + i * 8, 8, table);
    for (uint64_t at = 0; at < CLUSTER; at += 8)
        bad_put(&im, block + at, 8, 0);
    bad_close(&im);
    bad_run(BAD_WRITE, im.path, BAD_ANY, NULL);
}

int main(int argc, char **argv)
{
    const struct test_case cases[] = {
        {.name = "l1-entries", .run = l1_entries},
        {.name = "l2-entries", .run = l2_entries},
        {.name = "self-references", .run = self_references},
        {.name = "refcounts", .run = refcounts},
        {.name = "far", .run = far_entries},
        {.name = "one-table", .run = one_table_for_all},
        {.name = "much-from-little", .run = much_from_little},
        {.name = "compressed", .run = compressed},
        {.name = "loops", .run = loops},
        {.name = "endless-chain", .run = endless_chain},
        {.name = "names", .run = names},
        {.name = "data-files", .run = data_files},
    };

    return test_main(argc, argv, cases, ARRAY_LEN(cases));
}
