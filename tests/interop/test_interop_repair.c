/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Random damage to the metadata of random images, and repair. What read right before it reads right afterwards; a
 * second repair finds nothing to do; what we call clean QEMU calls clean, and it can be written to and stays
 * clean.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/backend.h"
#include "engine/base/bits.h"
#include "qcow2/check/check.h"
#include "tests/interop/interop_lib.h"
#include "tests/lib/run.h"
#include "tests/lib/test.h"

#define SIZE (UINT64_C(2) << 20)

enum { DAMAGES_MAX = 4, UNIT = 512 };

/* ---- damage ---------------------------------------------------------------------------------------------- */

struct target {
    const struct image_spec *spec;
    struct rng              *rng;
    uint64_t                 file_size, l1, l1_entries, reftable;
};

static uint64_t file_size(const char *path)
{
    struct stat st;

    CHECK(stat(path, &st) == 0);
    return (uint64_t)st.st_size;
}

static void aim(struct target *t)
{
    uint8_t head[104];

    file_read(t->spec->path, 0, head, sizeof head);
    t->file_size = file_size(t->spec->path);
    t->l1_entries = get_be32(head + 36);
    t->l1 = get_be64(head + 40);
    t->reftable = get_be64(head + 48);
}

/* A word in the table at `offset`: most often one that is not 0. */
static uint64_t word_in(const struct target *t, uint64_t offset, uint64_t words)
{
    uint64_t at = offset + 8 * rng_below(t->rng, words);

    for (int i = 0; i < 50 && file_be64(t->spec->path, at) == 0; i++)
        at = offset + 8 * rng_below(t->rng, words);
    return at;
}

static uint64_t pick_word(const struct target *t)
{
    uint64_t per_cluster = t->spec->cluster_size / 8, l2, block;

    switch (rng_below(t->rng, 5)) {
    case 0:
        return word_in(t, t->l1, t->l1_entries);
    case 1:
        return word_in(t, t->reftable, per_cluster);
    case 2:
        block = file_be64(t->spec->path, word_in(t, t->reftable, per_cluster)) & ~UINT64_C(511);
        return block != 0 && block < t->file_size ? word_in(t, block, per_cluster) : t->reftable;
    default:
        l2 = file_be64(t->spec->path, word_in(t, t->l1, t->l1_entries)) & UINT64_C(0x00fffffffffffe00);
        return l2 != 0 && l2 < t->file_size ? word_in(t, l2, per_cluster) : t->l1;
    }
}

static uint64_t worse(const struct target *t, uint64_t word)
{
    uint64_t clusters = t->file_size / t->spec->cluster_size + 3;

    switch (rng_below(t->rng, 5)) {
    case 0:
        return 0;
    case 1:
        return word ^ UINT64_C(1) << rng_below(t->rng, 64);
    case 2:
        return (word & UINT64_C(0xff00000000000000)) | rng_below(t->rng, clusters) * t->spec->cluster_size;
    case 3:
        return file_be64(t->spec->path, pick_word(t));
    default:
        return rng_next(t->rng);
    }
}

static void break_it(const struct image_spec *spec, struct rng *r)
{
    struct target t = {.spec = spec, .rng = r};
    uint64_t n = rng_between(r, 1, DAMAGES_MAX);

    aim(&t);
    for (uint64_t i = 0; i < n; i++) {
        uint64_t at = pick_word(&t), is = file_be64(spec->path, at), to = worse(&t, is);

        printf("0x%" PRIx64 ": 0x%016" PRIx64 " becomes 0x%016" PRIx64 "\n", at, is, to);
        file_set_be64(spec->path, at, to);
    }
}

/* ---- content --------------------------------------------------------------------------------------------- */

/* Which units read as they should. False: it cannot be opened. */
static bool read_right(const char *path, const struct model *m, bool *right)
{
    struct vdisk_open_opts opts = {.size = sizeof opts, .format = "qcow2", .flags = VDISK_OPEN_CHECK};
    uint8_t buf[UNIT];
    vdisk *v;

    if (vdisk_open(path, &opts, &v) < 0)
        return false;
    for (uint64_t i = 0; i < SIZE / UNIT; i++)
        right[i] = vdisk_pread(v, buf, UNIT, i * UNIT) == 0 && memcmp(buf, m->now + i * UNIT, UNIT) == 0;
    CHECK_OK(vdisk_close(v));
    return true;
}

static void check_right(const char *path, const struct model *m, const bool *before)
{
    bool *now = test_alloc(SIZE / UNIT);

    CHECK(read_right(path, m, now));
    for (uint64_t i = 0; i < SIZE / UNIT; i++)
        CHECK_MSG(now[i] || !before[i], "bytes at 0x%" PRIx64 " are lost", i * UNIT);
    free(now);
}

/* ---- repair ---------------------------------------------------------------------------------------------- */

static void report(void *arg, enum qcow2_finding kind, const char *text)
{
    printf("    %d: %s\n", (int)kind, text);
}

/* 0 to 3 as qemu-img check exits; -1: it gave up. */
static int repair(const char *path, struct qcow2_repair_result *ret)
{
    struct qcow2_check_opts opts = {.report = report, .report_max = 30};
    struct backend *file;
    vdisk_queue *q;
    int rc;

    CHECK_OK(backend_open(path, BACKEND_RDWR, &file));
    CHECK_OK(vdisk_queue_create(NULL, &q));
    rc = qcow2_repair(file, q, QCOW2_REPAIR_ALL, &opts, ret);
    vdisk_queue_destroy(q);
    backend_close(file);
    if (rc < 0) {
        CHECK_MSG(strlen(vdisk_error_text()) > 10, "no text: '%s'", vdisk_error_text());
        return -1;
    }
    return ret->check.check_errors ? 1 : ret->check.corruptions ? 2 : ret->check.leaks ? 3 : 0;
}

static void use_it(const struct image_spec *spec)
{
    vdisk *v = must_open(spec->path, VDISK_OPEN_RDWR);
    uint8_t *buf = test_alloc(SIZE);

    rng_fill(test_rng(), buf, SIZE);
    /* All of it first: what could not be read before, a compressed cluster of noise, may not be there in part. */
    CHECK_OK(vdisk_pwrite(v, buf, SIZE, 0, 0));
    CHECK_OK(vdisk_pdiscard(v, SIZE / 4, SIZE / 8));
    CHECK_OK(vdisk_pwrite(v, buf, SIZE / 2, 1000, 0));
    CHECK_OK(vdisk_close(v));
    image_check(spec->path, false);
    free(buf);
}

static void make(struct image_spec *spec, struct model *m)
{
    struct rng *r = test_rng();

    image_default(spec, "image", SIZE);
    image_random(r, spec, IMAGE_NO_DATA_FILE | IMAGE_NO_RAW);
    spec->size = SIZE;
    image_create(spec);
    model_init(m, 0, SIZE);
    image_add_content(r, spec, m, 1);
    if (spec->refcount_bits > 4 && rng_chance(r, 30)) { /* a host cluster may hold many compressed ones */
        run_ok("qemu-img snapshot -c one %s", spec->path);
        spec->preallocation = VDISK_PREALLOC_METADATA; /* no compression over what is there */
        image_add_content(r, spec, m, 1);
    }
}

static void test_random(void)
{
    bool *before = test_alloc(SIZE / UNIT);
    struct qcow2_repair_result first, second;
    struct image_spec spec;
    struct run_result qemu;
    struct model m;
    int verdict;

    test_requires("qemu-io");
    make(&spec, &m);
    test_note("%s", image_describe(&spec));
    break_it(&spec, test_rng());
    if (!read_right(spec.path, &m, before)) {
        printf("cannot be opened: %s\n", vdisk_error_text());
        return;
    }
    verdict = repair(spec.path, &first);
    check_right(spec.path, &m, before);
    if (verdict == 3) { /* what emptied L1 entries may have had is kept; the next time it goes */
        verdict = repair(spec.path, &first);
        check_right(spec.path, &m, before);
    }
    run_ok("cp %s %s", spec.path, test_path("copy"));
    CHECK_INT(repair(spec.path, &second), verdict);
    run_ok("cmp %s %s", spec.path, test_path("copy"));
    if (verdict == 0) {
        run_shell(&qemu, "qemu-img check -q -f qcow2 %s", spec.path);
        CHECK_MSG(qemu.status == 0, "QEMU does not call it clean (%d): %s", qemu.status, qemu.out);
        use_it(&spec);
    }
    model_finish(&m);
    free(before);
}

int main(int argc, char **argv)
{
    static const struct test_case cases[] = {
        {.name = "random", .run = test_random, .repeat = 60, .quick = 20},
    };

    return test_main(argc, argv, cases, ARRAY_LEN(cases));
}
