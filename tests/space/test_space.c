/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What an image occupies on the host: discarded space comes back, the file ends where the image does, what a
 * crash leaks is bounded, writes to one cluster take one.
 */
#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/base/bits.h"
#include "qcow2/check/check.h"
#include "tests/lib/image.h"
#include "tests/lib/run.h"
#include "tests/lib/test.h"

#define MIB(n) ((uint64_t)(n) << 20)

enum { CLUSTER = 65536 };

static vdisk *open_image(const struct image_spec *spec)
{
    struct vdisk_open_opts opts = {.size = sizeof opts, .flags = VDISK_OPEN_RDWR};
    vdisk *v;

    CHECK_OK(vdisk_open(spec->path, &opts, &v));
    return v;
}

static void fill(vdisk *v, uint64_t offset, uint64_t len)
{
    enum { PIECE = 1 << 20 };
    uint8_t *buf = test_alloc(PIECE);

    memset(buf, 0x5a, PIECE);
    for (uint64_t n; len > 0; offset += n, len -= n) {
        n = min_u64(len, PIECE);
        CHECK_OK(vdisk_pwrite(v, buf, n, offset, 0));
    }
    free(buf);
}

static uint64_t occupied(vdisk *v)
{
    struct vdisk_info info = {.size = sizeof info};

    CHECK_OK(vdisk_get_info(v, &info));
    return info.allocated_size;
}

static uint64_t file_size(const char *path)
{
    struct stat st;

    CHECK(stat(path, &st) == 0);
    return (uint64_t)st.st_size;
}

static void check_image(const char *path, struct qcow2_check_result *ret)
{
    struct backend *b;
    vdisk_queue *q;

    CHECK_OK(backend_open(path, BACKEND_SHARE, &b));
    CHECK_OK(vdisk_queue_create(NULL, &q));
    CHECK_OK(qcow2_check(b, q, NULL, ret));
    vdisk_queue_destroy(q);
    backend_close(b);
    CHECK_INT(ret->corruptions, 0);
    CHECK_INT(ret->check_errors, 0);
}

/* The file ends in the last cluster that is in use; that may be there in part. */
static void check_end(const char *path, uint64_t cluster_size)
{
    struct qcow2_check_result result;

    check_image(path, &result);
    CHECK_INT(result.leaks, 0);
    CHECK_INT(align_up(file_size(path), cluster_size), result.image_end_offset);
    image_check(path, false);
}

/* ---- discard ----------------------------------------------------------------------------------------- */

/* Space comes back with the flushes that a guest makes anyway. */
static void test_discard_flush(void)
{
    struct image_spec spec;
    uint64_t full;
    vdisk *v;

    image_default(&spec, "discard", MIB(256));
    image_create(&spec);
    v = open_image(&spec);
    fill(v, 0, MIB(64));
    CHECK_OK(vdisk_sync(v));
    full = occupied(v);
    CHECK(full >= MIB(64));
    CHECK_OK(vdisk_pdiscard(v, MIB(64), 0));
    for (unsigned i = 0; i < 3; i++) /* durable; punched; one to spare */
        CHECK_OK(vdisk_sync(v));
    CHECK_MSG(occupied(v) <= full - MIB(60), "%" PRIu64 " bytes are occupied after a discard, %" PRIu64 " before",
              occupied(v), full);
    CHECK_OK(vdisk_close(v));
    CHECK(file_size(spec.path) < MIB(2));
    check_end(spec.path, spec.cluster_size);
}

/* Discarded space is used again before the file grows, and counts as zero: what is written takes its own space. */
static void test_discard_reuse(void)
{
    struct image_spec spec;
    uint64_t size, before;
    char buf[4096];
    vdisk *v;

    image_default(&spec, "reuse", MIB(256));
    image_create(&spec);
    v = open_image(&spec);
    fill(v, 0, MIB(64));
    fill(v, MIB(128), CLUSTER); /* so that the file cannot be cut */
    CHECK_OK(vdisk_pdiscard(v, MIB(64), 0));
    CHECK_OK(vdisk_trim_space(v));
    size = file_size(spec.path);
    before = occupied(v);
    CHECK(before < MIB(4));
    memset(buf, 0x77, sizeof buf);
    for (unsigned i = 0; i < 256; i++)
        CHECK_OK(vdisk_pwrite(v, buf, sizeof buf, MIB(64) + i * (uint64_t)CLUSTER + 8192, 0));
    CHECK_OK(vdisk_sync(v));
    CHECK_MSG(occupied(v) - before < MIB(4), "256 writes of 4 KiB take %" PRIu64 " bytes", occupied(v) - before);
    CHECK_INT(file_size(spec.path), size);
    for (unsigned i = 0; i < 256; i++) {
        uint8_t cluster[CLUSTER];
        CHECK_OK(vdisk_pread(v, cluster, sizeof cluster, MIB(64) + i * (uint64_t)CLUSTER));
        for (unsigned j = 0; j < CLUSTER; j++)
            CHECK(cluster[j] == (j >= 8192 && j < 12288 ? 0x77 : 0));
    }
    CHECK_OK(vdisk_close(v));
    check_end(spec.path, spec.cluster_size);
}

/* Clusters that a snapshot still has are neither punched nor given out. */
static void test_discard_snapshot(void)
{
    struct image_spec spec;
    vdisk *v;

    test_requires("qemu-img");
    image_default(&spec, "snapshot", MIB(64));
    image_create(&spec);
    v = open_image(&spec);
    fill(v, 0, MIB(8));
    CHECK_OK(vdisk_close(v));
    run_ok("qemu-img snapshot -c one %s", spec.path);
    v = open_image(&spec);
    CHECK_OK(vdisk_pdiscard(v, MIB(8), 0));
    CHECK_OK(vdisk_trim_space(v));
    fill(v, MIB(16), MIB(8));
    CHECK_OK(vdisk_close(v));
    image_check(spec.path, false);
    run_ok("qemu-img snapshot -a one %s", spec.path);
    run_ok("qemu-io -c 'read -P 0x5a 0 8M' -c 'read -P 0 8M 56M' %s | tee out; ! grep -qi fail out", spec.path);
}

/* ---- the end of the file ----------------------------------------------------------------------------- */

static void test_end(void)
{
    static const uint32_t cluster_sizes[] = {512, 4096, 65536, 1 << 20};
    struct rng *r = test_rng();
    struct image_spec spec;
    uint64_t size = MIB(64);

    test_requires("qemu-img");
    image_default(&spec, "end", size);
    spec.cluster_size = cluster_sizes[rng_below(r, ARRAY_LEN(cluster_sizes))];
    spec.refcount_bits = 1u << rng_below(r, 7);
    spec.by_qemu = rng_chance(r, 50);
    image_create(&spec);
    for (unsigned opening = 0; opening < 3; opening++) {
        vdisk *v = open_image(&spec);
        for (unsigned i = 0; i < 20; i++) {
            uint64_t offset = 512 * rng_below(r, size / 512), len = 512 * rng_between(r, 1, 2000);
            len = min_u64(len, size - offset);
            switch (rng_below(r, 5)) {
            case 0:
            case 1: fill(v, offset, len); break;
            case 2: CHECK_OK(vdisk_pdiscard(v, min_u64(8 * len, size - offset), offset)); break;
            case 3: CHECK_OK(vdisk_sync(v)); break;
            default: CHECK_OK(vdisk_trim_space(v)); break;
            }
        }
        CHECK_OK(vdisk_close(v));
        test_note("%s, opening %u", image_describe(&spec), opening);
        check_end(spec.path, spec.cluster_size);
    }
}

/* On request: the same while the image is open; writing goes on afterwards. */
static void test_trim(void)
{
    struct image_spec spec;
    uint64_t size;
    vdisk *v;

    image_default(&spec, "trim", MIB(256));
    image_create(&spec);
    v = open_image(&spec);
    fill(v, 0, MIB(32));
    CHECK_OK(vdisk_sync(v));
    size = file_size(spec.path);
    CHECK_OK(vdisk_trim_space(v));
    CHECK_MSG(file_size(spec.path) < size, "a lease of %" PRIu64 " bytes stays", size - MIB(32));
    check_end(spec.path, spec.cluster_size);
    fill(v, MIB(32), MIB(1));
    CHECK_OK(vdisk_pdiscard(v, MIB(33), 0));
    CHECK_OK(vdisk_trim_space(v));
    CHECK(file_size(spec.path) < MIB(1));
    check_end(spec.path, spec.cluster_size);
    CHECK_OK(vdisk_close(v));
    CHECK_OK(vdisk_open(spec.path, NULL, &v));
    CHECK_INT(vdisk_trim_space(v), -EACCES);
    CHECK_OK(vdisk_close(v));
}

/* ---- leases ------------------------------------------------------------------------------------------ */

/* A copy of the file while the image is open is what a crash leaves. */
static void test_crash_leaks(void)
{
    struct image_spec spec;
    struct qcow2_check_result result;
    const char *copy = test_path("copy");
    vdisk *v;

    test_requires("qemu-img");
    image_default(&spec, "leaks", MIB(512));
    image_create(&spec);
    v = open_image(&spec);
    for (uint64_t written = CLUSTER; written <= MIB(128); written *= 2) {
        fill(v, written, written);
        CHECK_OK(vdisk_sync(v));
        run_ok("cp --sparse=always %s %s", spec.path, copy);
        check_image(copy, &result);
        CHECK_MSG(result.leaks * CLUSTER <= MIB(64) && (written > CLUSTER || result.leaks < 16),
                  "%" PRIu64 " clusters leak after %" PRIu64 " bytes", result.leaks, 2 * written);
        run_ok("qemu-img check -r leaks %s", copy);
        check_image(copy, &result);
        CHECK_INT(result.leaks, 0);
    }
    CHECK_OK(vdisk_close(v));
    check_end(spec.path, spec.cluster_size);
}

enum { WRITERS = 4, WRITES = 16 };

static void write_parts(vdisk *v, vdisk_queue *q, unsigned first)
{
    static const char data[CLUSTER / WRITES / WRITERS] __attribute__((aligned(4096))) = {1};
    struct vdisk_completion c[WRITES];
    unsigned done = 0;

    for (unsigned i = 0; i < WRITES; i++)
        vdisk_write(q, v, (first + i) * sizeof data, data, sizeof data, 0, i);
    while (done < WRITES) {
        int n = vdisk_reap(q, c, 1, WRITES, NULL);
        CHECK_OK(n);
        for (int i = 0; i < n; i++)
            CHECK_OK(c[i].result);
        done += (unsigned)n;
    }
}

struct writer {
    vdisk *v;
    vdisk_queue *q;
    unsigned first;
    pthread_t thread;
};

static void *write_thread(void *arg)
{
    struct writer *w = arg;

    write_parts(w->v, w->q, w->first);
    return NULL;
}

/* Sixty-four writes to one new cluster, from four queues, take one cluster. */
static void test_shared_cluster(void)
{
    struct writer w[WRITERS];
    struct image_spec spec;
    struct qcow2_check_result result;
    vdisk *v;

    image_default(&spec, "shared", MIB(64));
    image_create(&spec);
    v = open_image(&spec);
    for (unsigned i = 0; i < WRITERS; i++) {
        w[i] = (struct writer){.v = v, .first = i * WRITES};
        CHECK_OK(vdisk_queue_create(NULL, &w[i].q));
    }
    for (unsigned i = 0; i < WRITERS; i++)
        CHECK(pthread_create(&w[i].thread, NULL, write_thread, &w[i]) == 0);
    for (unsigned i = 0; i < WRITERS; i++)
        pthread_join(w[i].thread, NULL);
    for (unsigned i = 0; i < WRITERS; i++)
        vdisk_queue_destroy(w[i].q);
    CHECK_OK(vdisk_close(v));
    check_image(spec.path, &result);
    CHECK_INT(result.allocated_clusters, 1);
    /* Header, refcount table, refcount block, L1, L2 and the one: nothing was taken and given back on the way. */
    CHECK_INT(result.image_end_offset, 6 * CLUSTER);
    check_end(spec.path, spec.cluster_size);
}

/* ---- shrinking --------------------------------------------------------------------------------------- */

/* Somebody has put bytes behind an image; the image becomes smaller, and gives back its own. */
static void test_shrink(void)
{
    static const char theirs[] = "not of the image";
    struct image_spec spec;
    char got[sizeof theirs];
    uint64_t full;
    vdisk *v;
    FILE *f;

    image_default(&spec, "shrink", MIB(64));
    image_create(&spec);
    v = open_image(&spec);
    fill(v, 0, MIB(32));
    CHECK_OK(vdisk_close(v));
    f = fopen(spec.path, "r+e");
    CHECK(f && fseek(f, 0, SEEK_END) == 0);
    full = (uint64_t)ftell(f) + 10 * CLUSTER;
    CHECK(fseek(f, (long)full, SEEK_SET) == 0 && fwrite(theirs, 1, sizeof theirs, f) == sizeof theirs);
    CHECK(fclose(f) == 0);
    v = open_image(&spec);
    CHECK_OK(vdisk_resize(v, MIB(1), &(struct vdisk_resize_opts){.size = sizeof(struct vdisk_resize_opts),
                                                                 .shrink = true}));
    CHECK_MSG(occupied(v) < MIB(4), "%" PRIu64 " bytes are occupied", occupied(v));
    CHECK_OK(vdisk_close(v));
    f = fopen(spec.path, "re");
    CHECK(f && fseek(f, (long)full, SEEK_SET) == 0);
    CHECK(fread(got, 1, sizeof got, f) == sizeof got && memcmp(got, theirs, sizeof got) == 0);
    CHECK(fclose(f) == 0);
    image_check(spec.path, false);
}

int main(int argc, char **argv)
{
    static const struct test_case cases[] = {
        {.name = "discard_flush", .run = test_discard_flush},
        {.name = "discard_reuse", .run = test_discard_reuse},
        {.name = "discard_snapshot", .run = test_discard_snapshot},
        {.name = "end", .run = test_end, .repeat = 20, .quick = 6},
        {.name = "trim", .run = test_trim},
        {.name = "crash_leaks", .run = test_crash_leaks},
        {.name = "shared_cluster", .run = test_shared_cluster},
        {.name = "shrink", .run = test_shrink},
    };

    return test_main(argc, argv, cases, ARRAY_LEN(cases));
}
