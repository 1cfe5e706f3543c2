/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Images as streams: what comes out is an image of the sources, without a leak, as long as was said; nothing is
 * read that need not be. Stopped, or with the sink or an I/O failing, the job says so; a source that changes
 * meanwhile is found out.
 */
#include "backends/lab/vdisk-lab.h"
#include "engine/vdisk-bulk.h"
#include "tests/jobs/volumes.h"

enum { SIZE = (9 << 20) + 3 * 512, STEPS_MOST = 300 };

/* Where it goes: a file, since images are opened by name. */
struct drain {
    FILE    *file;
    uint64_t len;
    unsigned calls;
    unsigned fail_at;   /* the call that fails, from 1; 0: none */
    unsigned change_at; /* the call in which the source changes; 0: none */
    vdisk   *source;
    uint64_t from, to;  /* a cluster of it becomes zeros, and another one data */
    const char *backing; /* of the image; NULL: none */
};

static int drain(void *arg, const void *data, size_t len)
{
    struct drain *d = arg;
    char *buf;

    CHECK(len > 0);
    if (++d->calls == d->fail_at)
        return -EPIPE;
    if (d->calls == d->change_at) {
        buf = vdisk_alloc_buffer(CLUSTER);
        memset(buf, 0x33, CLUSTER);
        CHECK_OK(vdisk_pdiscard(d->source, CLUSTER, d->from));
        CHECK_OK(vdisk_pwrite(d->source, buf, CLUSTER, d->to, 0));
        free(buf);
    }
    d->len += len;
    CHECK(fwrite(data, 1, len, d->file) == len);
    return 0;
}

static struct vdisk_create_opts target_of(const struct format *f)
{
    return (struct vdisk_create_opts){.size = sizeof(struct vdisk_create_opts), .format = f->format,
                                      .cluster_size = f->cluster_size, .version = f->version,
                                      .refcount_bits = f->refcount_bits, .extended_l2 = f->extended_l2};
}

/* Into the file `name`. */
static int run_stream(vdisk *const *sources, unsigned n, const struct format *f, const char *name, struct drain *d,
                      const struct vdisk_stream_opts *opts, struct vdisk_stream_result *ret)
{
    struct vdisk_create_opts target = target_of(f);
    vdisk_job *j;
    int rc;

    target.backing_file = d->backing;
    target.backing_fmt = d->backing ? "qcow2" : NULL;
    d->file = fopen(name, "w");
    CHECK(d->file);
    CHECK_OK(vdisk_job_stream(sources, n, &target, drain, d, opts, &j));
    rc = vdisk_job_run(j);
    CHECK(rc == 0 || (vdisk_job_get_error_text(j)[0] != '\0' && !strchr(vdisk_job_get_error_text(j), '\n')));
    if (rc == 0) {
        ret->size = sizeof *ret;
        CHECK_OK(vdisk_job_get_stream_result(j, ret));
        CHECK_INT(ret->bytes_written, d->len);
        CHECK_INT(progress_of(j).bytes_done, progress_of(j).bytes_total);
    }
    CHECK_OK(vdisk_job_free(j));
    CHECK(fclose(d->file) == 0);
    return rc;
}

/* As one that vdisk_create() has made, and no cluster too many. How many are for data. */
static uint64_t judge(const char *name, const struct format *f, const uint8_t *model, uint64_t size, uint64_t len)
{
    struct vdisk_check_opts opts = {.size = sizeof opts, .format = "qcow2"};
    struct vdisk_check_result r = {.size = sizeof r};
    vdisk *v = open_as(name, f, false);
    vdisk_job *j;

    CHECK_INT(vdisk_size(v), size);
    expect(v, model, size);
    CHECK_OK(vdisk_close(v));
    if (strcmp(f->format, "raw") == 0) {
        CHECK_INT(len, size);
        return 0;
    }
    CHECK_OK(vdisk_job_check(name, &opts, &j));
    CHECK_OK(vdisk_job_run(j));
    CHECK_OK(vdisk_job_get_check_result(j, &r));
    CHECK_INT(r.corruptions + r.leaks + r.check_errors, 0);
    CHECK_INT(r.image_end_offset, len);
    CHECK_INT(r.fragmented_clusters, r.compressed_clusters);
    CHECK_OK(vdisk_job_free(j));
    return r.allocated_clusters;
}

/* Clusters that are not zeros. */
static uint64_t count_data(const struct format *f, const uint8_t *model, uint64_t size)
{
    uint64_t cluster = f->cluster_size ? f->cluster_size : CLUSTER, count = 0;

    for (uint64_t at = 0, n; at < size; at += n) {
        n = min_u64(cluster, size - at);
        count += model[at] != 0 || memcmp(model + at, model + at + 1, n - 1) != 0;
    }
    return count;
}

static void stream_from_to(struct rng *r, const struct format *from, const struct format *to)
{
    const char *base = test_path("base"), *a = test_path("a"), *b = test_path("b");
    uint64_t size = 512 * rng_below(r, SIZE / 512 + 1);
    bool chain = strcmp(from->format, "qcow2") == 0 && rng_below(r, 2);
    struct vdisk_stream_opts opts = {
        .size = sizeof opts, .depth = (uint32_t)rng_below(r, 20), .name = "out",
        .flags = rng_below(r, 4) ? 0 : VDISK_STREAM_DENSE,
        .memory_max = rng_below(r, 2) ? (uint64_t)1 << (16 + rng_below(r, 8)) : 0};
    struct vdisk_stream_result result;
    struct drain d = {0};
    uint8_t *model = test_alloc(SIZE);
    uint64_t clusters;
    vdisk *v;

    if (opts.flags == 0 && rng_below(r, 2))
        opts.flags = VDISK_STREAM_LOOK;
    if (chain) {
        make(base, &formats[1], size, NULL);
        v = open_as(base, &formats[1], true);
        fill(r, v, model, size);
        CHECK_OK(vdisk_close(v));
    }
    make(a, from, size, chain ? "base" : NULL);
    v = open_as(a, from, true);
    fill(r, v, model, size);
    CHECK_OK(run_stream(&v, 1, to, b, &d, &opts, &result));
    CHECK_OK(vdisk_close(v));
    CHECK_INT(result.virtual_size, size);
    clusters = judge(b, to, model, size, d.len);
    if (opts.flags & VDISK_STREAM_LOOK && strcmp(to->format, "qcow2") == 0)
        CHECK_INT(clusters, count_data(to, model, size));
    free(model);
}

static void test_formats(void)
{
    for (size_t i = 0; i < ARRAY_LEN(formats); i++) {
        for (size_t j = 0; j < ARRAY_LEN(formats); j++) {
            test_note("format %zu to %zu", i, j);
            if (!formats[j].data_file)
                stream_from_to(test_rng(), &formats[i], &formats[j]);
        }
    }
}

/* Known zeros are neither read nor data; tables are those that are needed, wherever they lie. */
static void test_known_zeros(void)
{
    const char *a = test_path("a"), *b = test_path("b");
    static const struct format small = {.format = "qcow2", .cluster_size = 4096};
    struct vdisk_stream_result result;
    struct drain d = {0};
    char *data = vdisk_alloc_buffer(CLUSTER);
    vdisk *v;

    make(a, &formats[1], UINT64_C(1) << 40, NULL);
    v = open_as(a, &formats[1], true);
    CHECK_OK(run_stream(&v, 1, &formats[1], b, &d, NULL, &result));
    CHECK_INT(result.bytes_read, 0);
    CHECK_INT(d.len, 4 * CLUSTER); /* header, refcount table and block, L1 table */
    memset(data, 7, CLUSTER);
    for (uint64_t at = 3 * 4096; at < UINT64_C(1) << 40; at = (at * 3 / CLUSTER + 1) * CLUSTER + 4096 * 5)
        CHECK_OK(vdisk_pwrite(v, data, 4096, at, 0));
    d = (struct drain){0};
    CHECK_OK(run_stream(&v, 1, &small, b, &d, NULL, &result));
    CHECK_OK(vdisk_close(v));
    CHECK(d.len < 64 << 20);
    v = open_as(b, &small, false);
    for (uint64_t at = 3 * 4096; at < UINT64_C(1) << 40; at = (at * 3 / CLUSTER + 1) * CLUSTER + 4096 * 5) {
        CHECK_OK(vdisk_pread(v, data, CLUSTER, at / CLUSTER * CLUSTER));
        CHECK_INT(data[at % CLUSTER], 7);
    }
    CHECK_OK(vdisk_close(v));
    free(data);
}

/* Several, of odd sizes, and parts of one. */
static void test_several(void)
{
    static const uint64_t sizes[] = {1000, 0, 512, 65536 + 1, 3};
    enum { ALL = 1024 + 512 + 65536 + 512 + 512 };
    const char *b = test_path("b");
    uint8_t *model = test_alloc(1 << 17), *buf = test_alloc(1 << 17);
    struct vdisk_stream_opts opts = {.size = sizeof opts};
    struct vdisk_stream_result result;
    struct drain d;
    vdisk *sources[ARRAY_LEN(sizes)];
    uint64_t at = 0;

    for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
        const char *path = test_path("a%zu", i);
        FILE *f = fopen(path, "w");
        memset(buf, (int)i + 1, sizes[i]);
        CHECK(f && fwrite(buf, 1, sizes[i], f) == sizes[i] && fclose(f) == 0);
        memcpy(model + at, buf, sizes[i]);
        at = (at + sizes[i] + 511) / 512 * 512;
        sources[i] = open_as(path, &formats[0], false);
    }
    for (size_t i = 0; i < ARRAY_LEN(formats) - 1; i++) {
        d = (struct drain){0};
        CHECK_OK(run_stream(sources, ARRAY_LEN(sizes), &formats[i], b, &d, NULL, &result));
        judge(b, &formats[i], model, ALL, d.len);
    }
    for (opts.offset = 0; opts.offset <= 65537; opts.offset += 4099) {
        uint64_t len = min_u64(opts.offset + 1, 65537 - opts.offset);
        memset(model, 0, 1 << 17);
        memset(model, 4, len);
        opts.length = opts.offset + 1;
        for (size_t i = 0; i < 3; i++) {
            d = (struct drain){0};
            CHECK_OK(run_stream(&sources[3], 1, &formats[i], b, &d, &opts, &result));
            judge(b, &formats[i], model, align_up(min_u64(opts.length, vdisk_size(sources[3]) - opts.offset), 512),
                  d.len);
        }
    }
    for (size_t i = 0; i < ARRAY_LEN(sizes); i++)
        CHECK_OK(vdisk_close(sources[i]));
    free(model);
    free(buf);
}

/* ---- what goes wrong ---------------------------------------------------------------------------------- */

static vdisk *make_source(const struct format *f)
{
    uint8_t *model = test_alloc(SIZE);
    const char *a = test_path("a");
    vdisk *v;

    make(a, f, SIZE, NULL);
    v = open_as(a, f, true);
    fill(test_rng(), v, model, SIZE);
    free(model);
    return v;
}

/* At each call, and none; whatever has gone out by then. */
static void run_sink_fails(uint32_t flags)
{
    vdisk *v = make_source(&formats[1]);
    struct vdisk_stream_opts opts = {.size = sizeof opts, .name = "out", .memory_max = 1 << 19, .depth = 4,
                                     .flags = flags};
    struct vdisk_stream_result result;
    struct drain d;
    int rc = -EPIPE;

    for (unsigned n = 1; rc == -EPIPE; n++) {
        CHECK(n < STEPS_MOST);
        d = (struct drain){.fail_at = n};
        rc = run_stream(&v, 1, &formats[flags ? 1 + n % 4 : n % 5], test_path("b"), &d, &opts, &result);
        CHECK(rc == 0 || rc == -EPIPE);
        CHECK(d.calls <= n); /* it is not asked again */
        if (rc < 0)
            CHECK_HAS(vdisk_error_text(), "out: writing: Broken pipe");
    }
    CHECK(rc == 0);
    CHECK_OK(vdisk_close(v));
}

static void test_sink_fails(void)
{
    run_sink_fails(0);
    run_sink_fails(VDISK_STREAM_COMPRESS);
}

static void run_stopped(uint32_t flags)
{
    vdisk *v = make_source(&formats[2]);
    struct stepper s;
    struct vdisk_stream_opts opts = {.size = sizeof opts, .depth = 2, .memory_max = 1 << 19,
                                     .flags = flags, .progress = stepper_step, .progress_arg = &s};
    struct vdisk_stream_result result;
    struct drain d;
    int rc = -ECANCELED;

    for (unsigned n = 1; rc == -ECANCELED; n += test_is_long() ? 1 : 1 + n / 3) {
        test_note("stopped at step %u", n);
        CHECK(n < 5000);
        d = (struct drain){0};
        stepper_init(&s, false);
        s.cancel_at = n;
        rc = run_stream(&v, 1, &formats[1], test_path("b"), &d, &opts, &result);
        CHECK(rc == 0 || rc == -ECANCELED);
    }
    CHECK(rc == 0);
    CHECK_OK(vdisk_close(v));
}

static void test_stopped(void)
{
    run_stopped(VDISK_STREAM_LOOK);
    run_stopped(VDISK_STREAM_COMPRESS);
}

/* A cluster goes and another comes when it is known where all lies: the image has the one, and not the other. */
static void test_source_changes(void)
{
    struct vdisk_stream_result result;
    char *data = vdisk_alloc_buffer(CLUSTER);
    uint8_t *model = test_alloc(64 * CLUSTER);
    const char *a = test_path("a"), *b = test_path("b");
    struct drain d = {.change_at = 1, .from = 0, .to = 3 * CLUSTER};

    memset(data, 1, CLUSTER);
    memset(model + 9 * CLUSTER, 1, CLUSTER);
    make(a, &formats[1], 64 * CLUSTER, NULL);
    d.source = open_as(a, &formats[1], true);
    CHECK_OK(vdisk_pwrite(d.source, data, CLUSTER, 0, 0));
    CHECK_OK(vdisk_pwrite(d.source, data, CLUSTER, 9 * CLUSTER, 0));
    CHECK_OK(run_stream(&d.source, 1, &formats[1], b, &d, NULL, &result));
    CHECK(d.calls > 1);
    judge(b, &formats[1], model, 64 * CLUSTER, d.len);
    CHECK_OK(vdisk_close(d.source));
    free(model);
    free(data);
}

/* Lengths come first: one that is another later ends it; the same bytes go out whatever the threads. */
static void test_compressed_changes(void)
{
    struct vdisk_stream_opts opts = {.size = sizeof opts, .flags = VDISK_STREAM_COMPRESS};
    struct vdisk_stream_result result;
    uint8_t *data = test_alloc(CLUSTER);
    struct drain d = {.from = 0, .to = 3 * CLUSTER};

    memset(data, 1, CLUSTER);
    make(test_path("a"), &formats[1], 64 * CLUSTER, NULL);
    d.source = open_as(test_path("a"), &formats[1], true);
    CHECK_OK(vdisk_pwrite(d.source, data, CLUSTER, 0, 0));
    CHECK_OK(vdisk_pwrite(d.source, data, CLUSTER, 9 * CLUSTER, 0));
    CHECK_OK(run_stream(&d.source, 1, &formats[1], test_path("b"), &d, &opts, &result));
    CHECK(result.bytes_read > 2 * CLUSTER && d.len < 64 * CLUSTER);
    d.change_at = 1; /* the front goes before data is read again */
    d.calls = 0;
    CHECK_INT(run_stream(&d.source, 1, &formats[1], test_path("c"), &d, &opts, &result), -EBUSY);
    CHECK_OK(vdisk_close(d.source));
    free(data);
}

struct strides {
    uint64_t at, longest;
};

static int note_stride(void *arg, uint64_t done, uint64_t total)
{
    struct strides *s = arg;

    CHECK(done >= s->at && done <= total);
    s->longest = max_u64(s->longest, done - s->at);
    s->at = done;
    return 0;
}

/* What a rate holds back is held back piece by piece, zeros no less than data. */
static void test_rate(void)
{
    enum { WIDE = 96 << 20 };
    struct strides strides = {0};
    struct vdisk_stream_opts opts = {.size = sizeof opts, .rate = UINT64_C(1) << 40, .progress = note_stride,
                                     .progress_arg = &strides};
    struct vdisk_stream_result result;
    struct drain d = {0};
    vdisk *v;

    for (size_t i = 0; i < 2; i++) { /* raw, all of it one hole; qcow2 */
        make(test_path("a"), &formats[i], WIDE, NULL);
        v = open_as(test_path("a"), &formats[i], true);
        CHECK_OK(run_stream(&v, 1, &formats[0], test_path("b"), &d, &opts, &result));
        CHECK_INT(result.bytes_written, WIDE);
        CHECK(strides.longest > 0 && strides.longest <= VOLUMES_PIECE);
        CHECK_OK(vdisk_close(v));
        strides = (struct strides){0};
        d = (struct drain){0};
        remove(test_path("a"));
    }
}

struct lab_way {
    uint32_t                flags;
    bool                    backed; /* what is below is not in the image */
    struct vdisk_lab_fault *fault;
};

static const struct format small = {.format = "qcow2", .cluster_size = 4096};

enum { LAB_SIZE = 300 * 1024 };

static void lab_layer(struct rng *r, const char *name, const char *backing, uint8_t *model)
{
    struct vdisk_create_opts create = target_of(&small);
    vdisk *v;

    create.virtual_size = LAB_SIZE;
    create.backing_file = backing;
    create.backing_fmt = backing ? "qcow2" : NULL;
    CHECK_OK(vdisk_create(name, &create));
    v = open_as(name, &small, true);
    fill(r, v, model, LAB_SIZE);
    CHECK_OK(vdisk_close(v));
}

/* Of the source each I/O fails once: then the job does, or it was none of its own. */
static int lab_scenario(const struct lab_way *way, vdisk_lab *lab, bool *ret_hit)
{
    const char *b = test_path("b");
    struct vdisk_open_opts how = {.size = sizeof how, .format = "qcow2"};
    struct vdisk_stream_opts opts = {.size = sizeof opts, .memory_max = 1 << 18, .flags = way->flags,
                                     .backing_depth = way->backed ? 1 : 0};
    struct vdisk_stream_result result;
    uint8_t *model = test_alloc(LAB_SIZE);
    struct drain d = {.backing = way->backed ? "sim:base" : NULL};
    struct rng r;
    vdisk *v = NULL;
    int rc;

    rng_init(&r, 11);
    CHECK_OK(vdisk_lab_fail(lab, NULL));
    if (way->backed)
        lab_layer(&r, "sim:base", NULL, model);
    lab_layer(&r, "sim:a", d.backing, model);
    CHECK_OK(vdisk_lab_fail(lab, way->fault));
    rc = vdisk_open("sim:a", &how, &v);
    if (rc == 0) {
        rc = run_stream(&v, 1, &small, b, &d, &opts, &result);
        CHECK_OK(vdisk_close(v));
    }
    *ret_hit = vdisk_lab_has_failed(lab);
    CHECK_OK(vdisk_lab_fail(lab, NULL)); /* the image is read from what is below */
    if (rc == 0)
        judge(b, &small, model, LAB_SIZE, d.len);
    free(model);
    return rc;
}

static void run_failures(struct lab_way way)
{
    struct vdisk_lab_fault fault = {.size = sizeof fault, .calls = VDISK_LAB_READS};
    unsigned failed = 0;
    bool hit = true;

    for (uint64_t nth = 1; nth < STEPS_MOST && hit; nth++) {
        vdisk_lab *lab;
        int rc;
        test_note("flags %u%s, read %u fails", way.flags, way.backed ? ", backed" : "", (unsigned)nth);
        fault.nth = nth;
        way.fault = &fault;
        CHECK_OK(vdisk_lab_create(NULL, &lab));
        rc = lab_scenario(&way, lab, &hit);
        CHECK(rc == 0 || hit); /* of tables that are read in long pieces the failure of one is no failure yet */
        failed += rc < 0;
        vdisk_lab_destroy(lab);
    }
    CHECK(failed > 5 && !hit);
}

static void test_failures(void)
{
    run_failures((struct lab_way){.flags = 0});
    run_failures((struct lab_way){.flags = VDISK_STREAM_LOOK});
    run_failures((struct lab_way){.flags = VDISK_STREAM_COMPRESS});
    run_failures((struct lab_way){.backed = true});
    run_failures((struct lab_way){.flags = VDISK_STREAM_COMPRESS, .backed = true});
}

static void test_refused(void)
{
    struct vdisk_create_opts target = target_of(&formats[1]);
    struct vdisk_stream_opts opts = {.size = sizeof opts, .name = "out"};
    struct vdisk_stream_result result;
    struct drain d = {0};
    vdisk *v, *none = NULL;
    vdisk_job *j;

    make(test_path("a"), &formats[1], UINT64_C(1) << 40, NULL);
    v = open_as(test_path("a"), &formats[1], true);
    CHECK_INT(vdisk_job_stream(NULL, 1, &target, drain, &d, NULL, &j), -EINVAL);
    CHECK_INT(vdisk_job_stream(&v, 0, &target, drain, &d, NULL, &j), -EINVAL);
    CHECK_INT(vdisk_job_stream(&none, 1, &target, drain, &d, NULL, &j), -EINVAL);
    CHECK_INT(vdisk_job_stream(&v, 1, NULL, drain, &d, NULL, &j), -EINVAL);
    CHECK_INT(vdisk_job_stream(&v, 1, &target, NULL, &d, NULL, &j), -EINVAL);
    CHECK_INT(vdisk_job_stream(&v, 1, &target, drain, &d, NULL, NULL), -EINVAL);
    opts.flags = 8;
    CHECK_INT(vdisk_job_stream(&v, 1, &target, drain, &d, &opts, &j), -EINVAL);
    opts.flags = VDISK_STREAM_DENSE | VDISK_STREAM_LOOK;
    CHECK_INT(vdisk_job_stream(&v, 1, &target, drain, &d, &opts, &j), -EINVAL);
    opts.flags = VDISK_STREAM_COMPRESS | VDISK_STREAM_LOOK;
    CHECK_INT(vdisk_job_stream(&v, 1, &target, drain, &d, &opts, &j), -EINVAL);
    opts.flags = 0;
    opts.backing_depth = 1; /* the image has no backing file */
    CHECK_INT(vdisk_job_stream(&v, 1, &target, drain, &d, &opts, &j), -EINVAL);
    opts.backing_depth = 0;
    CHECK_INT(run_stream(&v, 1, &formats[2], test_path("b"), &d, &opts, &result), -EFBIG);
    CHECK_HAS(vdisk_error_text(), "out: 1099511627776 bytes are too many for clusters of 512 bytes");
    CHECK_INT(d.calls, 0);
    CHECK_OK(vdisk_close(v));
}

/* ---- fronts ------------------------------------------------------------------------------------------- */

static void front_refuses(struct vdisk_create_opts opts, int rc, const char *text)
{
    vdisk_front *f;

    CHECK_INT(vdisk_front_create("front", &opts, &f), rc);
    CHECK_HAS(vdisk_error_text(), text);
}

static size_t front_reads(vdisk_front *f, uint8_t *buf, size_t len)
{
    size_t n = 1, all = 0;

    while (n > 0) {
        CHECK_OK(vdisk_front_read(f, buf, len, &n));
        all += n;
    }
    return all;
}

static void front_next(vdisk_front *f, uint64_t at, uint64_t offset, uint64_t len)
{
    uint64_t got_offset, got_len;

    CHECK_OK(vdisk_front_next(f, at, &got_offset, &got_len));
    CHECK_INT(got_len, len);
    if (len > 0)
        CHECK_INT(got_offset, offset);
}

/* By hand; and what is not in order, which changes nothing. */
static void test_front(void)
{
    struct vdisk_create_opts opts = target_of(&formats[1]);
    struct vdisk_front_info info = {.size = sizeof info};
    uint8_t *buf = test_alloc(2 * CLUSTER);
    uint64_t offset, len;
    vdisk_front *f;
    size_t n;

    opts.virtual_size = 20 * CLUSTER - 5;
    CHECK_OK(vdisk_front_create("front", &opts, &f));
    CHECK_INT(vdisk_front_read(f, buf, CLUSTER, &n), -EINVAL);
    CHECK_HAS(vdisk_error_text(), "not laid out yet");
    CHECK_INT(vdisk_front_next(f, 0, &offset, &len), -EINVAL);
    CHECK_INT(vdisk_front_add(f, 20 * CLUSTER, 1), -EINVAL);
    CHECK_INT(vdisk_front_add(f, 0, 0), -EINVAL);
    CHECK_OK(vdisk_front_add(f, 19 * CLUSTER, CLUSTER));
    CHECK_OK(vdisk_front_add(f, CLUSTER + 1024, 512));
    CHECK_OK(vdisk_front_add(f, 2 * CLUSTER - 1, 2)); /* to the next one */
    CHECK_OK(vdisk_front_add(f, CLUSTER + 512, 512));
    CHECK_OK(vdisk_front_get_info(f, &info));
    CHECK_INT(info.length, 0);
    CHECK_OK(vdisk_front_lay_out(f));
    CHECK_INT(vdisk_front_lay_out(f), -EINVAL);
    CHECK_INT(vdisk_front_add(f, 0, 512), -EINVAL);
    CHECK_INT(vdisk_front_read(f, buf, CLUSTER - 1, &n), -EINVAL);
    CHECK_OK(vdisk_front_get_info(f, &info));
    CHECK_INT(info.virtual_size, 20 * CLUSTER);
    CHECK_INT(info.unit, CLUSTER);
    CHECK_INT(info.length, 8 * CLUSTER);
    CHECK_INT(front_reads(f, buf, 2 * CLUSTER), 5 * CLUSTER);
    front_next(f, 0, CLUSTER, 2 * CLUSTER);
    front_next(f, 2 * CLUSTER + 5, 2 * CLUSTER, CLUSTER);
    front_next(f, 3 * CLUSTER, 19 * CLUSTER, CLUSTER);
    front_next(f, 20 * CLUSTER, 0, 0);
    vdisk_front_free(f);

    opts.cluster_size = 512; /* tables that are whole, and such as are not */
    CHECK_OK(vdisk_front_create("front", &opts, &f));
    CHECK_OK(vdisk_front_add(f, 512, 200 * 512));
    CHECK_OK(vdisk_front_add(f, 0, 1));
    CHECK_OK(vdisk_front_add(f, 300 * 512, 512));
    CHECK_OK(vdisk_front_add(f, 300 * 512, 512));
    CHECK_OK(vdisk_front_lay_out(f));
    front_next(f, 0, 0, 201 * 512);
    front_next(f, 201 * 512, 300 * 512, 512);
    front_next(f, 301 * 512, 0, 0);
    CHECK_OK(vdisk_front_get_info(f, &info));
    CHECK_INT(info.length - front_reads(f, buf, CLUSTER), 202 * 512);
    vdisk_front_free(f);

    opts.format = "raw";
    opts.cluster_size = 0;
    CHECK_OK(vdisk_front_create("front", &opts, &f));
    CHECK_OK(vdisk_front_get_info(f, &info));
    CHECK(info.dense);
    CHECK_INT(info.length, 20 * CLUSTER);
    CHECK_INT(vdisk_front_add(f, 0, 1), -EINVAL);
    CHECK_OK(vdisk_front_lay_out(f));
    CHECK_INT(front_reads(f, buf, CLUSTER), 0);
    front_next(f, 1024, 1024, 20 * CLUSTER - 1024);
    vdisk_front_free(f);
    vdisk_front_free(NULL);
    free(buf);
}

static void test_front_refuses(void)
{
    struct vdisk_create_opts opts = target_of(&formats[1]), o;

    opts.virtual_size = 1 << 20;
    o = opts;
    o.backing_file = "base";
    front_refuses(o, -EINVAL, "backing file without its format");
    o = opts;
    o.data_file = "data";
    front_refuses(o, -ENOTSUP, "cannot have an external data file");
    o = opts;
    o.preallocation = VDISK_PREALLOC_METADATA;
    front_refuses(o, -ENOTSUP, "cannot have preallocated space");
    o.format = "raw";
    o.preallocation = VDISK_PREALLOC_FULL;
    front_refuses(o, -ENOTSUP, "cannot have preallocated space");
    o = opts;
    o.cluster_size = 1000;
    front_refuses(o, -EINVAL, "power of two");
    o = opts;
    o.format = "vmdk";
    front_refuses(o, -EINVAL, "unknown format");
    o = opts;
    o.size = 1;
    front_refuses(o, -EINVAL, "options missing");
    CHECK_INT(vdisk_front_create("front", NULL, NULL), -EINVAL);
    CHECK_INT(vdisk_front_add(NULL, 0, 1), -EINVAL);
    CHECK_INT(vdisk_front_lay_out(NULL), -EINVAL);
}

int main(int argc, char **argv)
{
    static const struct test_case cases[] = {
        {.name = "formats", .run = test_formats, .repeat = 2, .quick = 1, .lengthy = 10},
        {.name = "known-zeros", .run = test_known_zeros},
        {.name = "several", .run = test_several},
        {.name = "sink-fails", .run = test_sink_fails},
        {.name = "stopped", .run = test_stopped},
        {.name = "source-changes", .run = test_source_changes},
        {.name = "compressed-changes", .run = test_compressed_changes},
        {.name = "rate", .run = test_rate},
        {.name = "failures", .run = test_failures},
        {.name = "refused", .run = test_refused},
        {.name = "front", .run = test_front},
        {.name = "front-refuses", .run = test_front_refuses},
    };

    return test_main(argc, argv, cases, ARRAY_LEN(cases));
}
