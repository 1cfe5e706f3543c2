/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Volumes that are filled by what comes: the volume has it, in pieces of any length, and is never longer than
 * what has come by then. Stopped, or with the source or an I/O failing, the job says so, and the image is sound.
 */
#include <sys/stat.h>

#include "backends/lab/vdisk-lab.h"
#include "engine/vdisk-bulk.h"
#include "tests/jobs/volumes.h"

enum { SIZE = (9 << 20) + 3 * 512 + 100, STEPS_MOST = 300 };

/* Where it comes from. */
struct spring {
    const uint8_t *bytes;
    uint64_t       at, size;
    struct rng     r;
    uint64_t       fail_at; /* so many bytes, then -EIO; 0: never */
    vdisk         *target;
    bool           grows;   /* it must not be longer than what has come */
};

static int64_t spring(void *arg, void *buf, size_t len)
{
    struct spring *s = arg;
    uint64_t n = min_u64(s->size - s->at, rng_below(&s->r, 3) ? 1 + rng_below(&s->r, 100000) : UINT64_MAX);

    CHECK(len > 0);
    if (s->grows)
        CHECK(vdisk_size(s->target) <= align_up(s->at, 512));
    if (rng_below(&s->r, 5) == 0)
        return -EAGAIN;
    if (s->fail_at > 0 && s->at >= s->fail_at)
        return -EIO;
    n = min_u64(n, len);
    memcpy(buf, s->bytes + s->at, n);
    s->at += n;
    return (int64_t)n;
}

static struct spring make_spring(const uint8_t *bytes, uint64_t size, vdisk *target)
{
    struct spring s = {.bytes = bytes, .size = size, .target = target};

    rng_init(&s.r, rng_next(test_rng()));
    return s;
}

static int run_fill(vdisk *target, struct spring *s, const struct vdisk_copy_opts *opts,
                    struct vdisk_copy_result *ret)
{
    vdisk_job *j;
    int rc;

    CHECK_OK(vdisk_job_fill(target, spring, s, opts, &j));
    CHECK_INT(vdisk_close(target), -EBUSY);
    rc = vdisk_job_run(j);
    CHECK(rc == 0 || vdisk_job_get_error_text(j)[0] != '\0');
    if (ret && rc == 0) {
        ret->size = sizeof *ret;
        CHECK_OK(vdisk_job_get_copy_result(j, ret));
    }
    CHECK_OK(vdisk_job_free(j));
    return rc;
}

/* What random programs write: runs of all kinds, with zeros among them. */
static uint8_t *make_bytes(struct rng *r, uint64_t size)
{
    uint8_t *bytes = test_alloc(SIZE + 512); /* zeros behind the end */

    for (uint64_t at = 0, n; at < size; at += n) {
        n = min_u64(size - at, 512 * (1 + rng_below(r, rng_below(r, 4) ? 64 : 2048)));
        if (rng_below(r, 2))
            rng_fill(r, bytes + at, n / (1 + rng_below(r, 5)));
    }
    return bytes;
}

static void sound(const char *name)
{
    struct vdisk_check_opts opts = {.size = sizeof opts, .format = "qcow2"};
    struct vdisk_check_result r = {.size = sizeof r};
    vdisk_job *j;

    CHECK_OK(vdisk_job_check(name, &opts, &j));
    CHECK_OK(vdisk_job_run(j));
    CHECK_OK(vdisk_job_get_check_result(j, &r));
    CHECK_INT(r.corruptions + r.leaks + r.check_errors, 0);
    CHECK_OK(vdisk_job_free(j));
}

static void fill_format(struct rng *r, const struct format *f)
{
    const char *b = test_path("b");
    uint64_t size = rng_below(r, 4) ? rng_below(r, SIZE + 1) : 512 * rng_below(r, SIZE / 512);
    bool qcow2 = strcmp(f->format, "qcow2") == 0, old = rng_below(r, 3) == 0;
    uint64_t end = old ? size : align_up(size, 512); /* what is there already stays, to the byte */
    uint64_t whole = align_up(end, 512) + (old ? CLUSTER : 0);
    struct vdisk_copy_opts opts = {
        .size = sizeof opts, .depth = (uint32_t)rng_below(r, 20),
        .flags = old ? 0 : VDISK_COPY_GROW | VDISK_COPY_TARGET_IS_ZERO,
        .sparse = rng_below(r, 2) ? 512u << rng_below(r, 10) : 0,
        .memory_max = rng_below(r, 2) ? (uint64_t)1 << (16 + rng_below(r, 8)) : 0};
    uint8_t *bytes = make_bytes(r, size), *junk = vdisk_alloc_buffer(SIZE + 512 + CLUSTER);
    struct vdisk_copy_result result;
    struct spring s;
    vdisk *v;

    if (rng_below(r, 5) == 0)
        opts.flags |= VDISK_COPY_DENSE;
    if (qcow2 && !f->data_file && f->cluster_size <= 65536 && rng_below(r, 2))
        opts.flags |= VDISK_COPY_COMPRESS;
    make(b, f, old ? whole : 0, NULL);
    v = open_as(b, f, true);
    memset(junk, 0x77, SIZE + 512 + CLUSTER);
    if (old)
        CHECK_OK(vdisk_pwrite(v, junk, whole, 0, 0));
    s = make_spring(bytes, size, v);
    s.grows = !old;
    CHECK_OK(run_fill(v, &s, &opts, &result));
    CHECK_INT(result.bytes_total, end);
    CHECK_INT(result.bytes_read, end);
    CHECK_INT(result.bytes_written + result.bytes_zeroed + result.bytes_skipped, end);
    CHECK_OK(vdisk_close(v));
    v = open_as(b, f, false);
    CHECK_INT(vdisk_size(v), whole);
    expect(v, bytes, end);
    if (old) { /* what is behind stays */
        CHECK_OK(vdisk_pread(v, junk, whole - end, end));
        CHECK(junk[0] == 0x77 && memcmp(junk, junk + 1, whole - end - 1) == 0);
    }
    CHECK_OK(vdisk_close(v));
    if (qcow2)
        sound(b);
    remove(b);
    free(bytes);
    free(junk);
}

static void test_formats(void)
{
    for (size_t i = 0; i < 4 * ARRAY_LEN(formats); i++) {
        test_note("format %zu", i % ARRAY_LEN(formats));
        fill_format(test_rng(), &formats[i % ARRAY_LEN(formats)]);
    }
}

/* A new image is the same file whatever comes together, and however many pieces are on their way. */
static void test_compressed_same(void)
{
    uint8_t *bytes = make_bytes(test_rng(), SIZE);
    const char *names[] = {test_path("a"), test_path("b")};
    char *content[2];
    size_t sizes[2];

    for (unsigned i = 0; i < 2; i++) {
        struct vdisk_copy_opts opts = {.size = sizeof opts, .depth = i ? 1 : 16,
                                       .flags = VDISK_COPY_GROW | VDISK_COPY_TARGET_IS_ZERO | VDISK_COPY_COMPRESS};
        struct spring s;
        FILE *f;
        vdisk *v;

        make(names[i], &formats[1], SIZE, NULL); /* growing takes clusters of its own */
        v = open_as(names[i], &formats[1], true);
        s = make_spring(bytes, SIZE, v);
        CHECK_OK(run_fill(v, &s, &opts, NULL));
        CHECK_OK(vdisk_close(v));
        f = fopen(names[i], "r");
        content[i] = test_alloc(2 * SIZE);
        sizes[i] = fread(content[i], 1, 2 * SIZE, f);
        fclose(f);
    }
    CHECK_INT(sizes[0], sizes[1]);
    CHECK(memcmp(content[0], content[1], sizes[0]) == 0);
    free(content[0]);
    free(content[1]);
    free(bytes);
}

static int64_t zero_spring(void *arg, void *buf, size_t len)
{
    uint64_t *left = arg;

    len = min_u64(*left, len);
    memset(buf, 0, len);
    *left -= len;
    return (int64_t)len;
}

/* Many small steps: the file, where each longer L1 table has its place, is in proportion to the last. */
static void test_small_steps(void)
{
    const uint64_t size = UINT64_C(64) << 20;
    const struct format f = {.format = "qcow2", .cluster_size = 512};
    struct vdisk_copy_opts opts = {.size = sizeof opts, .depth = 2, .memory_max = 1 << 17,
                                   .flags = VDISK_COPY_GROW | VDISK_COPY_TARGET_IS_ZERO};
    const char *b = test_path("b");
    uint64_t left = size;
    struct stat st;
    vdisk_job *j;
    vdisk *v;

    make(b, &f, 0, NULL);
    v = open_as(b, &f, true);
    CHECK_OK(vdisk_job_fill(v, zero_spring, &left, &opts, &j));
    CHECK_OK(vdisk_job_run(j));
    CHECK_OK(vdisk_job_free(j));
    CHECK_INT(vdisk_size(v), size);
    CHECK_OK(vdisk_close(v));
    CHECK_INT(stat(b, &st), 0);
    test_note("%u bytes", (unsigned)st.st_size);
    CHECK((uint64_t)st.st_size < 8 * (size / (512 * 64) * 8)); /* of the table's length */
    sound(b);
    remove(b);
}

static void test_source_fails(void)
{
    uint8_t *bytes = make_bytes(test_rng(), SIZE);
    struct vdisk_copy_opts opts = {.size = sizeof opts, .name = "the target", .depth = 3, .memory_max = 1 << 19,
                                   .flags = VDISK_COPY_GROW | VDISK_COPY_TARGET_IS_ZERO};

    for (uint64_t at = 1; at < SIZE; at = at * 5 + 1) {
        const char *b = test_path("b");
        struct spring s;
        vdisk *v;
        make(b, &formats[1], 0, NULL);
        v = open_as(b, &formats[1], true);
        s = make_spring(bytes, SIZE, v);
        s.fail_at = at;
        s.grows = true;
        CHECK_INT(run_fill(v, &s, &opts, NULL), -EIO);
        CHECK_HAS(vdisk_error_text(), "the target: reading what comes: Input/output error");
        CHECK(vdisk_size(v) <= align_up(s.at, 512));
        CHECK_OK(vdisk_close(v));
        sound(b);
        remove(b);
    }
    free(bytes);
}

static void test_stopped(void)
{
    uint8_t *bytes = make_bytes(test_rng(), SIZE);
    int rc = -ECANCELED;

    for (unsigned n = 1; rc == -ECANCELED; n += test_is_long() ? 1 : 1 + n / 3) {
        struct stepper st;
        struct vdisk_copy_opts opts = {.size = sizeof opts, .depth = 2, .memory_max = 1 << 19,
                                       .progress = stepper_step, .progress_arg = &st,
                                       .flags = VDISK_COPY_GROW | VDISK_COPY_TARGET_IS_ZERO};
        const char *b = test_path("b");
        struct spring s;
        vdisk *v;
        test_note("stopped at step %u", n);
        CHECK(n < 5000);
        stepper_init(&st, false);
        st.cancel_at = n;
        make(b, &formats[1], 0, NULL);
        v = open_as(b, &formats[1], true);
        s = make_spring(bytes, SIZE, v);
        rc = run_fill(v, &s, &opts, NULL);
        CHECK(rc == 0 || rc == -ECANCELED);
        if (rc == 0)
            expect(v, bytes, SIZE);
        else
            CHECK_HAS(vdisk_error_text(), "cancelled");
        CHECK_OK(vdisk_close(v));
        sound(b);
        remove(b);
    }
    CHECK(rc == 0);
    free(bytes);
}

/* ---- each I/O fails once ------------------------------------------------------------------------------ */

enum { LAB_SIZE = 300 * 1024 + 10 };

struct lab_case {
    struct format format;
    uint32_t      flags;
    uint8_t      *bytes;
    uint64_t      failed;
};

static int lab_scenario(void *arg, vdisk_lab *lab)
{
    struct lab_case *c = arg;
    struct vdisk_copy_opts opts = {.size = sizeof opts, .flags = c->flags, .depth = 3, .memory_max = 3 << 16};
    struct vdisk_create_opts create = {.size = sizeof create, .format = c->format.format,
                                       .cluster_size = c->format.cluster_size};
    struct vdisk_open_opts how = {.size = sizeof how, .format = c->format.format, .flags = VDISK_OPEN_RDWR};
    struct spring s = {.bytes = c->bytes, .size = LAB_SIZE};
    vdisk *v;
    int rc, closed;

    rng_init(&s.r, 5);
    if (vdisk_create("sim:b", &create) < 0 || vdisk_open("sim:b", &how, &v) < 0)
        return -EIO; /* these may fail, too */
    s.target = v;
    s.grows = true;
    rc = run_fill(v, &s, &opts, NULL);
    closed = vdisk_close(v);
    rc = rc < 0 ? rc : closed;
    c->failed += rc < 0;
    CHECK_OK(vdisk_lab_fail(lab, NULL));
    if (rc == 0) {
        v = open_as("sim:b", &c->format, false);
        CHECK_INT(vdisk_size(v), align_up(LAB_SIZE, 512));
        expect(v, c->bytes, align_up(LAB_SIZE, 512));
        CHECK_OK(vdisk_close(v));
    }
    return rc;
}

static void test_failures(void)
{
    struct lab_case cases[] = {
        {.format = {.format = "raw"}, .flags = VDISK_COPY_GROW | VDISK_COPY_TARGET_IS_ZERO},
        {.format = {.format = "qcow2", .cluster_size = 4096}, .flags = VDISK_COPY_GROW},
        {.format = {.format = "qcow2", .cluster_size = 4096}, .flags = VDISK_COPY_GROW | VDISK_COPY_COMPRESS},
    };
    struct vdisk_lab_fault fault = {.size = sizeof fault};
    uint64_t runs;

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        test_note("case %zu", i);
        cases[i].bytes = make_bytes(test_rng(), LAB_SIZE);
        CHECK_OK(vdisk_lab_each_failure(NULL, &fault, lab_scenario, &cases[i], &runs));
        CHECK(runs > 5 && cases[i].failed > 3);
        free(cases[i].bytes);
    }
}

static void test_refused(void)
{
    const char *a = test_path("a"), *b = test_path("b");
    struct vdisk_copy_opts opts = {.size = sizeof opts, .name = "the target"};
    uint8_t *bytes = make_bytes(test_rng(), SIZE);
    vdisk *v[2];
    struct spring s;
    vdisk_job *j;

    make(a, &formats[1], 2 << 20, NULL);
    make(b, &formats[0], 1 << 20, NULL);
    v[0] = open_as(a, &formats[1], false);
    v[1] = open_as(b, &formats[0], true);
    CHECK_INT(vdisk_job_fill(NULL, spring, &s, NULL, &j), -EINVAL);
    CHECK_INT(vdisk_job_fill(v[1], NULL, &s, NULL, &j), -EINVAL);
    CHECK_INT(vdisk_job_fill(v[1], spring, &s, NULL, NULL), -EINVAL);
    opts.flags = VDISK_COPY_SALVAGE;
    CHECK_INT(vdisk_job_fill(v[1], spring, &s, &opts, &j), -EINVAL);
    opts.flags = VDISK_COPY_GROW;
    CHECK_INT(vdisk_job_copy(v, 1, v[1], &opts, &j), -EINVAL);
    opts.flags = 0;
    s = make_spring(bytes, SIZE, v[1]);
    CHECK_INT(run_fill(v[1], &s, &opts, NULL), -ENOSPC);
    CHECK_HAS(vdisk_error_text(), "the target: has 1048576 bytes, and more come");
    s = make_spring(bytes, 512, v[0]);
    CHECK(run_fill(v[0], &s, &opts, NULL) < 0);
    s = make_spring(bytes, 1 << 20, v[1]); /* just enough */
    CHECK_OK(run_fill(v[1], &s, &opts, NULL));
    expect(v[1], bytes, 1 << 20);
    CHECK_OK(vdisk_close(v[0]));
    CHECK_OK(vdisk_close(v[1]));
    free(bytes);
}

int main(int argc, char **argv)
{
    static const struct test_case cases[] = {
        {.name = "formats", .run = test_formats, .repeat = 2, .quick = 1, .lengthy = 10},
        {.name = "compressed-same", .run = test_compressed_same},
        {.name = "small-steps", .run = test_small_steps},
        {.name = "source-fails", .run = test_source_fails},
        {.name = "stopped", .run = test_stopped},
        {.name = "failures", .run = test_failures},
        {.name = "refused", .run = test_refused},
    };

    return test_main(argc, argv, cases, ARRAY_LEN(cases));
}
