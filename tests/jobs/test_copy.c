/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Copies: the target has what the sources have, whatever both are, and nothing is read or written that need not
 * be; stopped at each step, or with each I/O failing once, it says so, and the same copy made again is whole.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "backends/lab/vdisk-lab.h"
#include "jobs/zeros.h"
#include "tests/jobs/jobs.h"
#include "tests/jobs/volumes.h"

enum { SIZE = (9 << 20) + 3 * 512, PIECE = VOLUMES_PIECE, STEPS_MOST = 200 };

/* ---- copies ------------------------------------------------------------------------------------------- */

static int run_copy(vdisk *const *sources, unsigned n, vdisk *target, const struct vdisk_copy_opts *opts,
                    struct vdisk_copy_result *ret)
{
    vdisk_job *j;
    int rc;

    CHECK_OK(vdisk_job_copy(sources, n, target, opts, &j));
    rc = vdisk_job_run(j);
    if (rc < 0)
        CHECK(vdisk_job_get_error_text(j)[0] != '\0');
    if (ret && rc == 0) {
        ret->size = sizeof *ret;
        CHECK_OK(vdisk_job_get_copy_result(j, ret));
    }
    CHECK_OK(vdisk_job_free(j));
    return rc;
}

static void check_sums(const struct vdisk_copy_result *r)
{
    CHECK(r->bytes_written + r->bytes_zeroed + r->bytes_skipped == r->bytes_total);
    CHECK(r->bytes_read <= r->bytes_total);
}

/* From each format to each other: new targets, and old ones full of something else. */
static void copy_from_to(struct rng *r, const struct format *from, const struct format *to)
{
    const char *a = test_path("a"), *b = test_path("b");
    uint8_t *model = test_alloc(SIZE), *junk = vdisk_alloc_buffer(SIZE);
    struct vdisk_copy_opts opts = {.size = sizeof opts, .sparse = rng_below(r, 2) ? 512u << rng_below(r, 10) : 0};
    bool compress = strcmp(to->format, "qcow2") == 0 && !to->data_file && to->cluster_size <= 65536 &&
                    rng_below(r, 2);
    struct vdisk_copy_result result;
    vdisk *source, *target;

    memset(model, 0, SIZE);
    make(a, from, SIZE, NULL);
    source = open_as(a, from, true);
    fill(r, source, model, SIZE);
    for (unsigned old = 0; old < 2; old++) {
        make(b, to, SIZE + old * PIECE, NULL);
        target = open_as(b, to, true);
        memset(junk, 0x77, SIZE);
        if (old)
            CHECK_OK(vdisk_pwrite(target, junk, SIZE, PIECE, 0)); /* but for the start, which is zeros */
        opts.flags = (old ? 0 : VDISK_COPY_TARGET_IS_ZERO) | (compress ? VDISK_COPY_COMPRESS : 0);
        opts.depth = (uint32_t)rng_below(r, 20);
        opts.memory_max = rng_below(r, 2) ? (uint64_t)1 << (16 + rng_below(r, 8)) : 0;
        CHECK_OK(run_copy(&source, 1, target, &opts, &result));
        check_sums(&result);
        CHECK_INT(result.bytes_total, SIZE);
        CHECK(old ? result.bytes_zeroed > 0 && result.bytes_skipped == 0 : result.bytes_zeroed == 0);
        expect(target, model, SIZE);
        if (old) { /* what is behind stays */
            CHECK_OK(vdisk_pread(target, junk + 512, 512, SIZE));
            CHECK(memcmp(junk, junk + 512, 512) == 0);
        }
        CHECK_OK(vdisk_close(target));
    }
    CHECK_OK(vdisk_close(source));
    free(model);
    free(junk);
}

static void test_formats(void)
{
    for (size_t i = 0; i < ARRAY_LEN(formats); i++) {
        for (size_t j = 0; j < ARRAY_LEN(formats); j++) {
            test_note("format %zu to %zu", i, j);
            if (i < 2 || j < 2 || test_is_long())
                copy_from_to(test_rng(), &formats[i], &formats[j]);
        }
    }
}

/* What is known to be zeros is not read; all zeros, and nothing at all, are copies, too. */
static void test_known_zeros(void)
{
    const char *a = test_path("a"), *b = test_path("b");
    const struct format *f = &formats[1];
    struct vdisk_copy_opts opts = {.size = sizeof opts, .flags = VDISK_COPY_TARGET_IS_ZERO};
    struct vdisk_stats stats = {.size = sizeof stats};
    struct vdisk_copy_result result;
    char *data = vdisk_alloc_buffer(65536);
    vdisk *source, *target;

    memset(data, 7, 65536);
    make(a, f, UINT64_C(1) << 40, NULL);
    make(b, f, UINT64_C(1) << 40, NULL);
    source = open_as(a, f, true);
    target = open_as(b, f, true);
    CHECK_OK(run_copy(&source, 1, target, &opts, &result));
    CHECK_INT(result.bytes_read + result.bytes_written, 0);
    CHECK_OK(vdisk_pwrite(source, data, 65536, UINT64_C(3) << 38, 0));
    CHECK_OK(run_copy(&source, 1, target, &opts, &result));
    CHECK_INT(result.bytes_read, 65536);
    CHECK_INT(result.bytes_written, 65536);
    CHECK_OK(vdisk_get_stats(source, &stats));
    CHECK_INT(stats.kind[VDISK_REQUEST_READ].bytes, 65536);
    CHECK_OK(vdisk_get_stats(target, &stats));
    CHECK_INT(stats.kind[VDISK_REQUEST_WRITE].bytes, 65536);
    CHECK_INT(stats.kind[VDISK_REQUEST_FLUSH].requests, 2);
    memset(data, 0, 65536);
    CHECK_OK(vdisk_pread(target, data, 65536, UINT64_C(3) << 38));
    CHECK_INT(data[65535], 7);
    CHECK_OK(vdisk_close(source));
    CHECK_OK(vdisk_close(target));
    free(data);
}

static uint64_t allocated(const char *path)
{
    struct stat st;

    CHECK(stat(path, &st) == 0);
    return (uint64_t)st.st_blocks * 512;
}

static void test_dense(void)
{
    const char *a = test_path("a"), *b = test_path("b");
    struct vdisk_copy_opts opts = {.size = sizeof opts, .flags = VDISK_COPY_TARGET_IS_ZERO | VDISK_COPY_DENSE};
    struct vdisk_copy_result result;
    vdisk *source, *target;

    make(a, &formats[1], SIZE, NULL);
    make(b, &formats[0], SIZE, NULL);
    source = open_as(a, &formats[1], false);
    target = open_as(b, &formats[0], true);
    CHECK_OK(run_copy(&source, 1, target, &opts, &result));
    CHECK_INT(result.bytes_written, SIZE);
    CHECK_INT(result.bytes_read, 0);
    CHECK_OK(vdisk_close(source));
    CHECK_OK(vdisk_close(target));
    CHECK(allocated(b) >= SIZE);
}

/* Several, of odd sizes; each begins at a sector. And parts of one. */
static void test_several(void)
{
    static const uint64_t sizes[] = {1000, 0, 512, 65536 + 1, 3};
    enum { ALL = 1024 + 512 + 65536 + 512 + 512 };
    const struct format *raw = &formats[0];
    uint8_t *model = test_alloc(ALL), *buf = vdisk_alloc_buffer(1 << 17);
    struct vdisk_copy_opts opts = {.size = sizeof opts};
    vdisk *sources[ARRAY_LEN(sizes)], *target;
    uint64_t at = 0;

    memset(model, 0, ALL);
    for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
        const char *path = test_path("a%zu", i);
        FILE *f = fopen(path, "w");
        memset(buf, (int)i + 1, sizes[i]);
        CHECK(f && fwrite(buf, 1, sizes[i], f) == sizes[i] && fclose(f) == 0);
        memcpy(model + at, buf, sizes[i]);
        at = (at + sizes[i] + 511) / 512 * 512;
        sources[i] = open_as(path, raw, false);
    }
    CHECK_INT(at, ALL);
    const char *b = test_path("b");
    make(b, raw, ALL, NULL);
    target = open_as(b, raw, true);
    memset(buf, 0xee, ALL);
    CHECK_OK(vdisk_pwrite(target, buf, ALL, 0, 0));
    CHECK_OK(run_copy(sources, ARRAY_LEN(sizes), target, NULL, NULL));
    expect(target, model, ALL);

    memset(model, 4, 65536);
    for (opts.offset = 0; opts.offset <= 65537; opts.offset += 4099) {
        uint64_t len = min_u64(opts.offset + 1, 65537 - opts.offset);
        opts.length = opts.offset + 1;
        CHECK_OK(vdisk_pwrite(target, buf, ALL, 0, 0));
        CHECK_OK(run_copy(&sources[3], 1, target, &opts, NULL));
        expect(target, model, len);
        CHECK_OK(vdisk_pread(target, model + 65536, 512, 512 * 130));
        CHECK_INT(model[65536], 0xee);
    }
    for (size_t i = 0; i < ARRAY_LEN(sizes); i++)
        CHECK_OK(vdisk_close(sources[i]));
    CHECK_OK(vdisk_close(target));
    free(model);
    free(buf);
}

/* An overlay's own data goes into another overlay; its zeros over the backing file's data as well. */
static void test_backing(void)
{
    const struct format *f = &formats[1];
    const char *base = test_path("base"), *a = test_path("a"), *b = test_path("b");
    uint8_t *model = test_alloc(SIZE), *buf = vdisk_alloc_buffer(SIZE);
    struct vdisk_copy_opts opts = {.size = sizeof opts, .backing_depth = 1};
    struct vdisk_copy_result result;
    vdisk *v, *source, *target;

    memset(buf, 9, SIZE);
    make(base, f, SIZE, NULL);
    v = open_as(base, f, true);
    CHECK_OK(vdisk_pwrite(v, buf, SIZE, 0, 0));
    CHECK_OK(vdisk_close(v));
    make(a, f, SIZE, "base");
    source = open_as(a, f, true);
    memset(buf, 5, 1 << 20);
    CHECK_OK(vdisk_pwrite(source, buf, 1 << 20, 1 << 20, 0));
    CHECK_OK(vdisk_pzero(source, 1 << 20, 4 << 20, 0));
    memset(buf, 0, 1 << 20); /* data that is zeros */
    CHECK_OK(vdisk_pwrite(source, buf, 1 << 20, 6 << 20, 0));
    make(b, f, SIZE, "base");
    target = open_as(b, f, true);
    CHECK_OK(run_copy(&source, 1, target, &opts, &result));
    CHECK_INT(result.bytes_read, 2 << 20);
    CHECK_INT(result.bytes_written, 1 << 20);
    CHECK_INT(result.bytes_zeroed, 2 << 20);
    CHECK_OK(vdisk_pread(source, model, SIZE, 0));
    expect(target, model, SIZE);
    CHECK_OK(vdisk_close(source));
    CHECK_OK(vdisk_close(target));
    free(model);
    free(buf);
}

/* The layer between ends within a unit of compressing: what is left out ends with a unit, too. */
static void test_backing_ends(void)
{
    const struct format *f = &formats[1];
    const char *base = test_path("base"), *mid = test_path("mid"), *a = test_path("a"), *b = test_path("b");
    struct vdisk_copy_opts opts = {.size = sizeof opts, .backing_depth = 2, .flags = VDISK_COPY_COMPRESS};
    struct vdisk_open_opts above = {.size = sizeof above, .format = "qcow2", .layers = 2};
    uint8_t *model = test_alloc(SIZE), *buf = vdisk_alloc_buffer(1 << 20);
    vdisk *v, *source, *target;

    memset(buf, 9, 1 << 20);
    make(base, f, SIZE, NULL);
    v = open_as(base, f, true);
    CHECK_OK(vdisk_pwrite(v, buf, 1 << 20, 0, 0));
    CHECK_OK(vdisk_pwrite(v, buf, 1 << 20, 4 << 20, 0));
    CHECK_OK(vdisk_close(v));
    make(mid, f, (3 << 20) + 512, "base");
    make(a, f, SIZE, "mid");
    source = open_as(a, f, true);
    memset(buf, 5, 1 << 20);
    CHECK_OK(vdisk_pwrite(source, buf, 1 << 20, 6 << 20, 0));
    CHECK_OK(vdisk_pread(source, model, SIZE, 0));
    CHECK(model[0] == 9 && model[4 << 20] == 0);
    CHECK_OK(vdisk_close(source));
    for (unsigned cut = 0; cut < 2; cut++) {
        if (cut)
            CHECK_OK(vdisk_open(a, &above, &source));
        else
            source = open_as(a, f, false);
        make(b, f, SIZE, "base");
        target = open_as(b, f, true);
        CHECK_OK(run_copy(&source, 1, target, &opts, NULL));
        expect(target, model, SIZE);
        CHECK_OK(vdisk_close(source));
        CHECK_OK(vdisk_close(target));
        remove(b);
    }
    free(model);
    free(buf);
}

/* ---- stopped ------------------------------------------------------------------------------------------ */

/* On a queue every other time. */
static int run_stopped(vdisk *source, vdisk *target, struct stepper *s, bool on_queue)
{
    struct vdisk_copy_opts opts = {.size = sizeof opts, .depth = 2, .memory_max = 1 << 19,
                                   .progress = stepper_step, .progress_arg = s};
    vdisk_queue *q;
    vdisk_job *j;
    int result[1];

    CHECK_OK(vdisk_job_copy(&source, 1, target, &opts, &j));
    CHECK_INT(vdisk_close(source), -EBUSY);
    CHECK_INT(vdisk_close(target), -EBUSY);
    if (on_queue) {
        CHECK_OK(vdisk_queue_create(NULL, &q));
        CHECK_OK(vdisk_job_start(j, q, 0));
        reap_all(q, 1, result);
        CHECK_OK(vdisk_queue_destroy(q));
    } else {
        result[0] = vdisk_job_run(j);
    }
    if (result[0] == 0)
        CHECK_INT(progress_of(j).bytes_done, progress_of(j).bytes_total);
    else
        CHECK_HAS(vdisk_job_get_error_text(j), "cancelled");
    CHECK_OK(vdisk_job_free(j));
    return result[0];
}

static void test_stopped(void)
{
    const struct format *f = &formats[1];
    uint8_t *model = test_alloc(SIZE);
    const char *a = test_path("a"), *b = test_path("b");
    struct stepper s = {.steps = UINT32_MAX};
    vdisk *source, *target;
    int rc = -ECANCELED;

    memset(model, 0, SIZE);
    make(a, f, SIZE, NULL);
    source = open_as(a, f, true);
    fill(test_rng(), source, model, SIZE);
    for (unsigned n = 1; rc == -ECANCELED && n < STEPS_MOST; n += test_is_long() ? 1 : 1 + n / 3) {
        test_note("stopped at step %u", n);
        make(b, f, SIZE, NULL);
        target = open_as(b, f, true);
        stepper_init(&s, false);
        s.cancel_at = n;
        rc = run_stopped(source, target, &s, n % 2);
        CHECK(rc == 0 || rc == -ECANCELED);
        CHECK(rc == 0 || s.steps < n + 1000);
        CHECK_OK(run_copy(&source, 1, target, NULL, NULL));
        expect(target, model, SIZE);
        CHECK_OK(vdisk_close(target));
    }
    CHECK(rc == 0);
    CHECK_OK(vdisk_close(source));
    free(model);
}

/* ---- each I/O fails once ------------------------------------------------------------------------------ */

enum { LAB_SIZE = 300 * 1024 };

struct lab_case {
    const struct format *from, *to;
    uint32_t             flags;
    bool                 digests;
    uint8_t             *model;
    uint64_t             failed;
    uint64_t             told; /* blocks, and the digest of the last one */
    uint8_t              digest[VDISK_DIGEST_SIZE];
};

static void lab_note(void *arg, unsigned source, uint64_t offset, uint64_t len, int error)
{
    CHECK_INT(source, 0);
    CHECK_INT(error, -EIO);
    CHECK(offset + len <= LAB_SIZE);
    *(uint64_t *)arg += len;
}

static int try_open(const char *name, const struct format *f, bool writable, vdisk **ret)
{
    struct vdisk_open_opts opts = {.size = sizeof opts, .flags = writable ? VDISK_OPEN_RDWR : 0,
                                   .format = f->format};

    return vdisk_open(name, &opts, ret);
}

static int lab_digest(void *arg, uint64_t first, uint64_t count, const uint8_t *digest)
{
    struct lab_case *c = arg;

    CHECK_INT(first, 0);
    c->told += count;
    memcpy(c->digest, digest, sizeof c->digest);
    return 0;
}

/* What was told is that of what the target reads as. */
static void check_digest(struct lab_case *c, vdisk *target)
{
    struct vdisk_checksum_opts opts = {.size = sizeof opts, .block_digest = lab_digest, .block_digest_arg = c};
    uint8_t told[VDISK_DIGEST_SIZE];
    vdisk_job *j;

    if (!c->digests)
        return;
    CHECK_INT(c->told, 1);
    memcpy(told, c->digest, sizeof told);
    CHECK_OK(vdisk_job_checksum(target, &opts, &j));
    CHECK_OK(vdisk_job_run(j));
    CHECK_OK(vdisk_job_free(j));
    CHECK(memcmp(told, c->digest, sizeof told) == 0);
}

/* One line, whatever failed; and if it says that all is well, it is. */
static int lab_copy(struct lab_case *c, uint32_t flags)
{
    struct vdisk_copy_opts opts = {.size = sizeof opts, .flags = flags, .depth = 3, .memory_max = 3 << 16,
                                   .block_digest = c->digests ? lab_digest : NULL, .block_digest_arg = c};
    vdisk *source = NULL, *target = NULL;
    int rc = try_open("sim:a", c->from, false, &source), rc2;

    c->told = 0;
    if (rc == 0)
        rc = try_open("sim:b", c->to, true, &target);
    if (rc == 0)
        rc = run_copy(&source, 1, target, &opts, NULL);
    if (target) {
        rc2 = vdisk_close(target);
        rc = rc < 0 ? rc : rc2;
    }
    if (source)
        CHECK_OK(vdisk_close(source));
    return rc;
}

static int lab_scenario(void *arg, vdisk_lab *lab)
{
    struct lab_case *c = arg;
    struct rng r;
    vdisk *v;
    int rc = 0;

    rng_init(&r, 11);
    memset(c->model, 0, LAB_SIZE);
    struct vdisk_create_opts from = {.size = sizeof from, .format = c->from->format, .virtual_size = LAB_SIZE,
                                     .cluster_size = c->from->cluster_size, .buffered = true};
    struct vdisk_create_opts to = {.size = sizeof to, .format = c->to->format, .virtual_size = LAB_SIZE,
                                   .cluster_size = c->to->cluster_size};
    if (vdisk_create("sim:a", &from) < 0 || vdisk_create("sim:b", &to) < 0)
        return -EIO; /* these may fail, too */
    if (try_open("sim:a", c->from, true, &v) < 0)
        return -EIO;
    for (uint64_t at = 0; at < LAB_SIZE; at += 512) {
        memset(c->model + at, rng_below(&r, 3) ? 0 : (int)(at / 512 % 250) + 1, 512);
        rc = vdisk_pwrite(v, c->model + at, 512, at, 0);
        if (rc < 0)
            break;
    }
    if (vdisk_close(v) < 0 || rc < 0)
        return -EIO;
    rc = lab_copy(c, c->flags);
    c->failed += rc < 0;
    CHECK_OK(vdisk_lab_fail(lab, NULL));
    if (rc == 0) {
        v = open_as("sim:b", c->to, false);
        expect(v, c->model, LAB_SIZE);
        check_digest(c, v);
        CHECK_OK(vdisk_close(v));
    }
    CHECK_OK(lab_copy(c, 0));
    v = open_as("sim:b", c->to, false);
    expect(v, c->model, LAB_SIZE);
    CHECK_OK(vdisk_close(v));
    return rc;
}

static void test_failures(void)
{
    static const struct format small = {.format = "qcow2", .cluster_size = 4096};
    struct lab_case cases[] = {
        {.from = &formats[0], .to = &small, .flags = VDISK_COPY_TARGET_IS_ZERO},
        {.from = &small, .to = &formats[0]},
        {.from = &small, .to = &small, .flags = VDISK_COPY_DENSE},
        {.from = &small, .to = &formats[0], .flags = VDISK_COPY_SALVAGE},
        {.from = &formats[0], .to = &small, .flags = VDISK_COPY_TARGET_IS_ZERO | VDISK_COPY_COMPRESS},
        {.from = &small, .to = &small, .flags = VDISK_COPY_COMPRESS | VDISK_COPY_SALVAGE},
        {.from = &small, .to = &formats[0], .digests = true},
        {.from = &formats[0], .to = &small, .flags = VDISK_COPY_COMPRESS, .digests = true},
    };
    struct vdisk_lab_fault fault = {.size = sizeof fault};
    uint64_t runs;

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        test_note("case %zu", i);
        cases[i].model = test_alloc(LAB_SIZE);
        CHECK_OK(vdisk_lab_each_failure(NULL, &fault, lab_scenario, &cases[i], &runs));
        CHECK(runs > 10 && cases[i].failed > 3);
        free(cases[i].model);
    }
}

/* All reads fail: the target is zeros, and all of it was told of. */
static void test_salvage(void)
{
    struct vdisk_lab_fault fault = {.size = sizeof fault, .calls = VDISK_LAB_READS};
    struct vdisk_create_opts create = {.size = sizeof create, .format = "raw", .virtual_size = LAB_SIZE};
    uint64_t told = 0;
    struct vdisk_copy_opts opts = {.size = sizeof opts, .flags = VDISK_COPY_SALVAGE, .salvaged = lab_note,
                                   .salvaged_arg = &told};
    struct vdisk_copy_result result;
    uint8_t *model = test_alloc(LAB_SIZE), *ones = vdisk_alloc_buffer(LAB_SIZE);
    vdisk *source, *target = NULL;
    vdisk_lab *lab;

    CHECK_OK(vdisk_lab_create(NULL, &lab));
    CHECK_OK(vdisk_create("sim:a", &create));
    CHECK_OK(vdisk_create("sim:b", &create));
    memset(ones, 1, LAB_SIZE);
    memset(model, 0, LAB_SIZE);
    for (unsigned i = 0; i < 2; i++) {
        target = open_as(i ? "sim:b" : "sim:a", &formats[0], true);
        CHECK_OK(vdisk_pwrite(target, ones, LAB_SIZE, 0, 0));
        if (!i)
            CHECK_OK(vdisk_close(target));
    }
    CHECK_OK(vdisk_lab_fail(lab, &fault));
    source = open_as("sim:a", &formats[0], false);
    CHECK_INT(run_copy(&source, 1, target, NULL, NULL), -EIO);
    expect(target, ones, LAB_SIZE);
    CHECK_OK(run_copy(&source, 1, target, &opts, &result));
    CHECK_INT(result.bytes_salvaged, LAB_SIZE);
    CHECK_INT(told, LAB_SIZE);
    expect(target, model, LAB_SIZE);
    CHECK_OK(vdisk_close(source));
    CHECK_OK(vdisk_close(target));
    vdisk_lab_destroy(lab);
    free(model);
    free(ones);
}

/* ---- what is refused, and helpers --------------------------------------------------------------------- */

static void test_refused(void)
{
    const char *a = test_path("a"), *b = test_path("b");
    struct vdisk_copy_opts opts = {.size = sizeof opts, .name = "the target"};
    vdisk *v[2], *none = NULL;
    vdisk_job *j;

    make(a, &formats[1], 2 << 20, NULL);
    make(b, &formats[0], 1 << 20, NULL);
    v[0] = open_as(a, &formats[1], false);
    v[1] = open_as(b, &formats[0], true);
    CHECK_INT(vdisk_job_copy(NULL, 1, v[1], NULL, &j), -EINVAL);
    CHECK_INT(vdisk_job_copy(v, 0, v[1], NULL, &j), -EINVAL);
    CHECK_INT(vdisk_job_copy(&none, 1, v[1], NULL, &j), -EINVAL);
    CHECK_INT(vdisk_job_copy(v, 1, NULL, NULL, &j), -EINVAL);
    CHECK_INT(vdisk_job_copy(v, 2, v[1], NULL, &j), -EINVAL);
    CHECK_HAS(vdisk_error_text(), "same volume");
    CHECK_INT(vdisk_job_copy(v, 1, v[1], NULL, NULL), -EINVAL);
    opts.flags = 1u << 31;
    CHECK_INT(vdisk_job_copy(v, 1, v[1], &opts, &j), -EINVAL);
    opts.flags = 0;
    CHECK_INT(run_copy(v, 1, v[1], &opts, NULL), -ENOSPC);
    CHECK_HAS(vdisk_error_text(), "the target: has 1048576 bytes, 2097152 are needed");
    CHECK_INT(run_copy(&v[1], 1, v[0], &opts, NULL), -EACCES);
    opts.flags = VDISK_COPY_COMPRESS;
    opts.length = 4096;
    CHECK_INT(run_copy(v, 1, v[1], &opts, NULL), -ENOTSUP);
    CHECK_HAS(vdisk_error_text(), "the target: Compression not supported");
    CHECK_OK(vdisk_close(v[0]));
    CHECK_OK(vdisk_close(v[1]));
}

static void test_zeros(void)
{
    enum { MOST = 700 };
    uint8_t buf[MOST + 16];
    bool zeros;

    for (size_t shift = 0; shift < 16; shift += 5) {
        for (size_t len = 1; len < MOST; len += len < 300 ? 1 : 17) {
            memset(buf, 0xff, sizeof buf);
            memset(buf + shift, 0, len);
            CHECK(zeros_only(buf + shift, len));
            CHECK(!zeros_only(buf + shift, len + 1));
            for (size_t at = 0; at < len; at += 1 + at / 7) {
                buf[shift + at] = 0x80;
                CHECK(!zeros_only(buf + shift, len));
                buf[shift + at] = 0;
            }
        }
    }
    memset(buf, 0, sizeof buf);
    buf[100] = 1;
    CHECK_INT(zeros_run(buf, MOST, 64, 0, &zeros), 64);
    CHECK(zeros);
    CHECK_INT(zeros_run(buf, MOST, 64, 32, &zeros), 96); /* units end at 32, 96, ... */
    CHECK(zeros);
    CHECK_INT(zeros_run(buf + 96, 20, 64, 128, &zeros), 20);
    CHECK(!zeros);
}

int main(int argc, char **argv)
{
    static const struct test_case cases[] = {
        {.name = "formats", .run = test_formats},
        {.name = "known-zeros", .run = test_known_zeros},
        {.name = "dense", .run = test_dense},
        {.name = "several", .run = test_several},
        {.name = "backing", .run = test_backing},
        {.name = "backing-ends", .run = test_backing_ends},
        {.name = "stopped", .run = test_stopped},
        {.name = "failures", .run = test_failures},
        {.name = "salvage", .run = test_salvage},
        {.name = "refused", .run = test_refused},
        {.name = "zeros", .run = test_zeros},
    };

    return test_main(argc, argv, cases, ARRAY_LEN(cases));
}
