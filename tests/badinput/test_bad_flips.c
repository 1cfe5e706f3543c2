/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Random damage: images of several kinds, a few bits, bytes and words changed where the metadata is. */
#include <stdio.h>
#include <unistd.h>

#include "engine/base/bits.h"
#include "tests/badinput/badinput_lib.h"
#include "tests/lib/run.h"

enum { IMAGES = 12 }; /* per repetition */

static const char *const options[] = {
    "cluster_size=4k", "cluster_size=512", "cluster_size=16k,extended_l2=on", "compat=0.10,cluster_size=4k",
    "cluster_size=4k,refcount_bits=1", "cluster_size=4k,refcount_bits=64,lazy_refcounts=on",
    "cluster_size=4k,compression_type=zstd", "cluster_size=64k",
};

/* Everything that has metadata: data, zeros, compressed clusters, a snapshot, a bitmap, a backing file. */
static void make_base(unsigned which, const char *path)
{
    bool wide = which != 4, v3 = which != 3; /* refcounts of one bit allow no sharing; version 2 no bitmaps */

    run_ok("qemu-img create -q -f raw backing.raw 700k && qemu-img create -q -f qcow2 -b backing.raw -F raw "
           "-o %s %s 1M", options[which], path);
    run_ok("qemu-io -f qcow2 %s -c 'write -q -P 1 0 130k' -c 'write -q -z 200k 64k' -c 'write -q -P 2 768k 100k' "
           "%s >/dev/null", wide ? "-c 'write -q -c -P 3 512k 64k'" : "", path);
    if (wide)
        run_ok("qemu-img snapshot -c one %s && qemu-io -f qcow2 -c 'write -q -P 4 0 64k' %s", path, path);
    if (v3)
        run_ok("qemu-img bitmap --add -g 4k %s b0", path);
}

/* Where damage tells: the header, a table, or anywhere. */
static uint64_t pick(const struct bad_image *im)
{
    struct rng *r = test_rng();
    uint64_t cluster = im->h.geo.cluster_size, table = im->size / cluster;
    uint64_t base[] = {im->h.l1_offset, bad_l2(im), im->h.reftable_offset, bad_get(im, im->h.reftable_offset, 8),
                       im->h.snapshots_offset, im->h.has_bitmaps ? im->h.bitmap_directory_offset : 0};

    switch (rng_below(r, 8)) {
    case 0:
    case 1:
        return rng_below(r, 112);
    case 2:
        return rng_below(r, min_u64(cluster, 600));
    case 3:
        return rng_below(r, table) * cluster + rng_below(r, 64);
    case 4:
        return rng_below(r, im->size);
    default:
        return base[rng_below(r, ARRAY_LEN(base))] +
               (rng_chance(r, 70) ? rng_below(r, 80) : rng_below(r, cluster));
    }
}

static uint64_t interesting(const struct bad_image *im, uint64_t at)
{
    struct rng *r = test_rng();
    uint64_t high = rng_below(r, 4) << 62, cluster = im->h.geo.cluster_size;

    switch (rng_below(r, 8)) {
    case 0: return UINT64_MAX;
    case 1: return high;
    case 2: return high | align_down(at, cluster);
    case 3: return high | align_up(im->size, cluster);
    case 4: return high | rng_below(r, im->size / cluster) * cluster;
    case 5: return high | rng_below(r, im->size);
    case 6: return 1ull << rng_below(r, 64);
    default: return rng_next(r);
    }
}

static void damage(struct bad_image *im)
{
    struct rng *r = test_rng();

    for (uint64_t n = rng_between(r, 1, 4); n > 0; n--) {
        static const unsigned widths[] = {1, 2, 4, 8};
        unsigned width = widths[rng_below(r, 4)];
        uint64_t at = align_down(pick(im), rng_chance(r, 80) ? width : 1);

        if (at >= im->size - 8)
            continue;
        if (rng_chance(r, 50))
            bad_put(im, at, 1, bad_get(im, at, 1) ^ (1u << rng_below(r, 8)));
        else
            bad_put(im, at, width, interesting(im, at));
    }
    if (rng_chance(r, 10))
        bad_truncate(im, rng_below(r, im->size) + 1);
}

static void flips(void)
{
    const char *path = test_path("bad.qcow2");
    unsigned which = test_repetition() % ARRAY_LEN(options);
    struct bad_image im;

    test_requires("qemu-img");
    make_base(which, test_path("base.qcow2"));
    for (unsigned i = 0, n = test_steps(IMAGES); i < n; i++) {
        test_note("%s, image %u", options[which], i);
        bad_copy(test_path("base.qcow2"), path);
        bad_open(&im, path);
        damage(&im);
        bad_close(&im);
        bad_run_all(path);
    }
    printf("%s: %u runs\n", options[which], bad_runs());
}

int main(int argc, char **argv)
{
    const struct test_case cases[] = {
        {.name = "flips", .run = flips, .repeat = 32, .quick = 8},
    };

    return test_main(argc, argv, cases, ARRAY_LEN(cases));
}
