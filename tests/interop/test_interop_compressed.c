/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Compressed clusters that QEMU made, zlib and zstd: read at any alignment, partly and wholly rewritten, zeroed,
 * discarded; content that compresses well, badly, and not at all.
 */
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "engine/base/bits.h"
#include "tests/interop/interop_lib.h"
#include "tests/lib/run.h"
#include "tests/lib/test.h"

enum { SIZE = (6 << 20) + 512, STEPS = 200 };

/* Stretches of zeros, of patterns, of noise, and of text-like bytes. */
static void fill_model(struct model *m)
{
    struct rng *r = test_rng();
    uint8_t *buf = test_alloc(m->size);
    uint64_t len;

    for (uint64_t at = 0; at < m->size; at += len) {
        len = min_u64(rng_between(r, 1, 200000), m->size - at);
        switch (rng_below(r, 4)) {
        case 0:
            break;
        case 1:
            image_pattern_bytes((unsigned)rng_below(r, 4), buf + at, len);
            break;
        case 2:
            rng_fill(r, buf + at, len);
            break;
        default:
            for (uint64_t i = at; i < at + len; i++)
                buf[i] = (uint8_t)("etaoin shrdlu\n"[rng_below(r, 14)]);
        }
    }
    model_write(m, 0, buf, m->size);
    free(buf);
}

static void dump(const struct model *m, const char *path)
{
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

    CHECK(fd >= 0 && ftruncate(fd, (off_t)m->size) == 0);
    model_dump(m, fd);
    close(fd);
}

static void test_convert(void)
{
    static const struct {
        const char *type;
        uint32_t cluster_size;
        bool extended_l2;
    } options[] = {{"zlib", 65536, false},   {"zstd", 65536, false}, {"zlib", 4096, false},
                   {"zstd", 4096, false},    {"zlib", 512, false},   {"zstd", 2097152, false},
                   {"zlib", 2097152, false}, {"zlib", 16384, true},  {"zstd", 131072, true}};
    unsigned i = test_repetition() % ARRAY_LEN(options);
    struct image_spec spec;
    struct model m;

    test_requires("qemu-img");
    image_default(&spec, "image.qcow2", SIZE);
    spec.cluster_size = options[i].cluster_size;
    test_note("%s, clusters of %u%s", options[i].type, options[i].cluster_size,
              options[i].extended_l2 ? ", extended L2" : "");
    model_init(&m, 0, SIZE);
    fill_model(&m);
    dump(&m, test_path("raw"));
    run_ok("qemu-img convert -c -f raw -O qcow2 -o compression_type=%s,cluster_size=%u,extended_l2=%s raw %s",
           options[i].type, options[i].cluster_size, options[i].extended_l2 ? "on" : "off", spec.path);
    engine_reads(spec.path, &m);
    engine_rewrites(&spec, &m, test_steps(STEPS));
    engine_rewrites(&spec, &m, test_steps(STEPS));
    model_finish(&m);
}

/* Small reads all over one cluster, from several places at once. */
static void test_pieces(void)
{
    struct image_spec spec;
    struct model m;
    vdisk *v;

    test_requires("qemu-io");
    image_default(&spec, "image.qcow2", 1 << 20);
    spec.by_qemu = true;
    image_create(&spec);
    model_init(&m, 0, 1 << 20);
    qemu_write(spec.path, &m, " -c", 2, 0, 65536);
    qemu_write(spec.path, &m, " -c", 3, 131072, 65536);
    v = must_open(spec.path, 0);
    for (unsigned i = 0; i < 300; i++) {
        uint8_t buf[4096];
        uint64_t len = rng_between(test_rng(), 1, sizeof buf), offset = rng_below(test_rng(), 262144 - len);
        CHECK_OK(vdisk_pread(v, buf, len, offset));
        model_expect(&m, offset, buf, len, "a piece");
    }
    CHECK_OK(vdisk_close(v));
    model_finish(&m);
}

/* One byte over each compressed cluster: the rest of it is copied up from the compressed data. */
static void test_one_byte(void)
{
    struct image_spec spec;
    struct model m;
    vdisk *v;

    test_requires("qemu-io");
    image_default(&spec, "image.qcow2", 1 << 20);
    spec.by_qemu = true;
    spec.zstd = true;
    image_create(&spec);
    model_init(&m, 0, 1 << 20);
    for (unsigned i = 0; i < 16; i++)
        qemu_write(spec.path, &m, " -c", i, i * 65536, 65536);
    v = must_open(spec.path, VDISK_OPEN_RDWR);
    for (unsigned i = 0; i < 16; i++)
        engine_write(v, &m, i, i * 65536 + i * 4096 + i, 1);
    CHECK_OK(vdisk_close(v));
    image_check(spec.path, false);
    image_compare(spec.path, "qcow2", 1 << 20, &m, 1);
    model_finish(&m);
}

/* A compressed base below a plain overlay; the base must not change. */
static void test_below(void)
{
    struct image_spec base, top;
    struct model m;

    test_requires("qemu-img");
    image_default(&base, "base.qcow2", SIZE);
    model_init(&m, 0, SIZE);
    fill_model(&m);
    dump(&m, test_path("raw"));
    run_ok("qemu-img convert -c -f raw -O qcow2 raw %s && sha256sum %s >sum", base.path, base.path);
    image_default(&top, "top.qcow2", SIZE);
    snprintf(top.backing, sizeof top.backing, "%s", base.path);
    top.backing_format = "qcow2";
    image_create(&top);
    engine_reads(top.path, &m);
    engine_rewrites(&top, &m, test_steps(STEPS));
    run_ok("sha256sum -c --quiet sum");
    model_finish(&m);
}

int main(int argc, char **argv)
{
    static const struct test_case cases[] = {
        {.name = "convert", .run = test_convert, .repeat = 9},
        {.name = "pieces", .run = test_pieces},
        {.name = "one_byte", .run = test_one_byte},
        {.name = "below", .run = test_below},
    };

    return test_main(argc, argv, cases, ARRAY_LEN(cases));
}
