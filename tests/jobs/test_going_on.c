/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Jobs that go on: what a checkpoint tells is in the files at that moment, and a job that begins there does the
 * rest, and no more; whatever it is that stopped the one before.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/jobs/jobs.h"
#include "tests/lib/rng.h"

enum { SIZE = (9 << 20) + 3 * 512, MOST = 12, PIECE = 64 << 10, DIGESTED = 64 << 10 };

struct kind {
    const char *format;
    uint32_t    cluster_size;
    bool        compress, backed, two; /* two sources, of odd sizes */
};

static const struct kind kinds[] = {
    {.format = "raw"},
    {.format = "raw", .two = true},
    {.format = "qcow2", .two = true},
    {.format = "qcow2", .cluster_size = 4096},
    {.format = "qcow2", .cluster_size = 512},
    {.format = "qcow2", .compress = true},
    {.format = "qcow2", .compress = true, .cluster_size = 2 << 20, .two = true},
    {.format = "qcow2", .compress = true, .backed = true},
    {.format = "qcow2", .backed = true},
};

/* ---- volumes ------------------------------------------------------------------------------------------ */

static vdisk *open_as(const char *name, const char *format, uint32_t flags)
{
    struct vdisk_open_opts opts = {.size = sizeof opts, .flags = flags, .format = format};
    vdisk *v;

    CHECK_OK(vdisk_open(name, &opts, &v));
    return v;
}

static void make(const char *name, const struct kind *k, uint64_t size, const char *backing)
{
    struct vdisk_create_opts opts = {.size = sizeof opts, .format = k->format, .virtual_size = size,
                                     .cluster_size = k->cluster_size, .backing_file = backing,
                                     .backing_fmt = backing ? "raw" : NULL};

    CHECK_OK(vdisk_create(name, &opts));
}

static void write_file(const char *path, const uint8_t *buf, size_t len)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

    CHECK(fd >= 0);
    for (size_t at = 0; at < len;) {
        ssize_t n = write(fd, buf + at, len - at);
        CHECK(n > 0);
        at += (size_t)n;
    }
    close(fd);
}

static void copy_file(const char *from, const char *to)
{
    struct stat st;
    uint8_t *buf;
    int fd = open(from, O_RDONLY | O_CLOEXEC);

    CHECK(fd >= 0 && fstat(fd, &st) == 0);
    buf = test_alloc((size_t)st.st_size);
    CHECK(pread(fd, buf, (size_t)st.st_size, 0) == (ssize_t)st.st_size);
    close(fd);
    write_file(to, buf, (size_t)st.st_size);
    free(buf);
}

/* Runs of bytes that do not repeat, and of zeros. */
static void fill(struct rng *r, uint8_t *model, uint64_t size)
{
    for (uint64_t at = 0, n; at < size; at += n) {
        n = min_u64(size - at, 512 * (1 + rng_below(r, rng_below(r, 3) ? 600 : 20)));
        if (rng_below(r, 3))
            rng_fill(r, model + at, n);
        else
            memset(model + at, 0, n);
    }
}

static void expect(vdisk *v, const uint8_t *model, uint64_t len)
{
    uint8_t *buf = vdisk_alloc_buffer(SIZE);
    uint64_t wrong;

    CHECK_OK(vdisk_pread(v, buf, len, 0));
    wrong = test_difference(buf, model, len);
    if (wrong != UINT64_MAX)
        test_fail(__FILE__, __LINE__, "byte %llu of %llu is %u, not %u", (unsigned long long)wrong,
                  (unsigned long long)len, buf[wrong], model[wrong]);
    free(buf);
}

/* ---- checkpoints -------------------------------------------------------------------------------------- */

/* What was told; and a copy of the target as it was then. */
struct told {
    char     target[PATH_MAX];
    uint64_t positions[MOST];
    unsigned count, most;
    int      result;    /* what it says at `most` */
    bool     keep;      /* copies */
};

static const char *copy_of(unsigned i)
{
    return test_path("then%u", i);
}

static int note(void *arg, uint64_t position)
{
    struct told *t = arg;

    CHECK(t->count == 0 || position > t->positions[t->count - 1]);
    if (t->count == MOST)
        return 0;
    if (t->keep)
        copy_file(t->target, copy_of(t->count));
    t->positions[t->count++] = position;
    return t->count == t->most ? t->result : 0;
}

/* ---- copies ------------------------------------------------------------------------------------------- */

struct subject {
    const struct kind *kind;
    uint8_t           *model; /* of the target, `total` bytes */
    uint64_t           total;
    vdisk             *sources[2];
    unsigned           count;
};

static void subject_init(struct subject *s, const struct kind *k, struct rng *r)
{
    uint64_t first = k->two ? SIZE / 3 / 512 * 512 + 100 : SIZE, second = k->two ? SIZE / 2 / 512 * 512 + 1 : 0;
    uint8_t *low = test_alloc(SIZE);
    char base[PATH_MAX];

    *s = (struct subject){.kind = k, .model = test_alloc(SIZE), .count = k->two ? 2 : 1};
    memset(s->model, 0, SIZE);
    fill(r, s->model, SIZE);
    s->total = k->two ? (first + 511) / 512 * 512 + (second + 511) / 512 * 512 : SIZE;
    memset(s->model + first, 0, (first + 511) / 512 * 512 - first);
    memset(s->model + s->total - 512 + second % 512, 0, k->two ? 511 : 0);
    snprintf(base, sizeof base, "%s", test_path("base"));
    memcpy(low, s->model, SIZE);
    if (k->backed) {
        static const struct kind overlay = {.format = "qcow2", .cluster_size = 65536};
        write_file(base, low, SIZE);
        make(test_path("source"), &overlay, SIZE, base);
        s->sources[0] = open_as(test_path("source"), "qcow2", VDISK_OPEN_RDWR);
        for (unsigned i = 0; i < 10; i++) {
            uint64_t at = 512 * rng_below(r, SIZE / 512 - 400);
            rng_fill(r, s->model + at, 300 * 512);
            CHECK_OK(vdisk_pwrite(s->sources[0], s->model + at, 300 * 512, at, 0));
        }
    } else {
        write_file(test_path("source"), s->model, first);
        s->sources[0] = open_as(test_path("source"), "raw", VDISK_OPEN_BUFFERED);
        write_file(test_path("more"), s->model + (first + 511) / 512 * 512, second);
        if (k->two)
            s->sources[1] = open_as(test_path("more"), "raw", VDISK_OPEN_BUFFERED);
    }
    free(low);
}

static void subject_finish(struct subject *s)
{
    for (unsigned i = 0; i < s->count; i++)
        CHECK_OK(vdisk_close(s->sources[i]));
    free(s->model);
}

static void make_target(const struct subject *s, const char *name)
{
    char base[PATH_MAX];

    snprintf(base, sizeof base, "%s", test_path("base"));
    make(name, s->kind, s->total, s->kind->backed ? base : NULL);
}

/* `t`: with what has been told so far; NULL: nobody asks. */
static int copy(const struct subject *s, const char *target, uint64_t start, struct told *t, struct stepper *step,
                struct vdisk_copy_result *ret)
{
    struct vdisk_copy_opts opts = {
        .size = sizeof opts, .flags = s->kind->backed ? 0 : VDISK_COPY_TARGET_IS_ZERO, .depth = 4,
        .memory_max = 4 * PIECE, .backing_depth = s->kind->backed ? 1 : 0,
        .going_on = {start, t ? note : NULL, t, .checkpoint_ms = 1}};
    vdisk *v = open_as(target, s->kind->format, VDISK_OPEN_RDWR | VDISK_OPEN_BUFFERED);
    vdisk_job *j;
    int rc;

    if (s->kind->compress)
        opts.flags |= VDISK_COPY_COMPRESS;
    if (step) {
        opts.progress = stepper_step;
        opts.progress_arg = step;
    }
    CHECK_OK(vdisk_job_copy(s->sources, s->count, v, &opts, &j));
    rc = vdisk_job_run(j);
    if (ret && rc == 0) {
        ret->size = sizeof *ret;
        CHECK_OK(vdisk_job_get_copy_result(j, ret));
    }
    CHECK_OK(vdisk_job_free(j));
    if (rc == 0)
        expect(v, s->model, s->total);
    CHECK_OK(vdisk_close(v));
    return rc;
}

/* The target as it was at a checkpoint, as after a kill: all before is there, and the rest comes. */
static void check_then(const struct subject *s, unsigned i, uint64_t position)
{
    struct vdisk_copy_result r;
    uint64_t most = s->kind->compress && s->kind->cluster_size > 1 << 20 ? s->kind->cluster_size : 1 << 20;
    vdisk *v = open_as(copy_of(i), s->kind->format, 0);

    expect(v, s->model, position);
    CHECK_OK(vdisk_close(v));
    CHECK_OK(copy(s, copy_of(i), position, NULL, NULL, &r));
    CHECK(r.bytes_written + r.bytes_zeroed + r.bytes_skipped < s->total - position + most);
    CHECK(r.bytes_total == s->total);
}

static void test_copy_killed(void)
{
    for (unsigned i = 0; i < ARRAY_LEN(kinds); i++) {
        struct told t = {.keep = true};
        struct subject s;

        test_note("kind %u", i);
        subject_init(&s, &kinds[i], test_rng());
        snprintf(t.target, sizeof t.target, "%s", test_path("target"));
        make_target(&s, t.target);
        CHECK_OK(copy(&s, t.target, 0, &t, NULL, NULL));
        CHECK(t.count > 0);
        if (t.count < MOST)
            CHECK(t.positions[t.count - 1] == s.total); /* at the end all of it */
        for (unsigned n = 0; n < t.count; n++)
            check_then(&s, n, t.positions[n]);
        subject_finish(&s);
    }
}

/* Stopped at some step, and again, until it is done: each time from where it was. */
static void test_copy_cancelled(void)
{
    for (unsigned i = 0; i < ARRAY_LEN(kinds); i++) {
        struct told t = {.count = 0};
        uint64_t start = 0;
        unsigned more = 20;
        struct subject s;
        int rc;

        test_note("kind %u", i);
        subject_init(&s, &kinds[i], test_rng());
        make_target(&s, test_path("target"));
        do {
            struct stepper step;
            stepper_init(&step, false);
            step.cancel_at = 2 + (unsigned)rng_below(test_rng(), more++);
            t.count = 0;
            rc = copy(&s, test_path("target"), start, &t, &step, NULL);
            CHECK(rc == 0 || rc == -ECANCELED);
            start = t.count > 0 ? t.positions[t.count - 1] : start;
        } while (rc != 0);
        CHECK(start == s.total);
        subject_finish(&s);
    }
}

/* Who is told can end it; what it says about the start is believed. */
static void test_copy_refused(void)
{
    struct told t = {.most = 1, .result = -ENOSPC};
    uint8_t *zeros = test_alloc(SIZE);
    struct subject s;
    vdisk *v;

    subject_init(&s, &kinds[3], test_rng());
    make_target(&s, test_path("target"));
    CHECK_INT(copy(&s, test_path("target"), 0, &t, NULL, NULL), -ENOSPC);
    make_target(&s, test_path("target"));
    memset(s.model, 0, 5 << 20);
    CHECK_OK(copy(&s, test_path("target"), 5 << 20, NULL, NULL, NULL)); /* compares: nothing before was written */
    v = open_as(test_path("target"), "qcow2", 0);
    expect(v, zeros, 5 << 20);
    CHECK_OK(vdisk_close(v));
    make_target(&s, test_path("target"));
    memset(s.model, 0, SIZE);
    CHECK_OK(copy(&s, test_path("target"), INT64_MAX, NULL, NULL, NULL));
    free(zeros);
    subject_finish(&s);
}

/* ---- in a laboratory ---------------------------------------------------------------------------------- */

enum { LAB_SIZE = 300 << 10 };

struct lab_case {
    const char  *from, *to;
    uint32_t     flags;
    uint8_t     *model;
    struct going going;
    unsigned     right;
};

static int lab_open(const char *name, const char *format, uint32_t flags, vdisk **ret)
{
    struct vdisk_open_opts opts = {.size = sizeof opts, .flags = flags, .format = format};

    return vdisk_open(name, &opts, ret);
}

static int lab_build(struct lab_case *c)
{
    struct vdisk_create_opts opts = {.size = sizeof opts, .virtual_size = LAB_SIZE, .format = c->from};
    struct rng r;
    vdisk *v = NULL;
    int rc, closed;

    rng_init(&r, 5);
    memset(c->model, 0, LAB_SIZE);
    fill(&r, c->model, LAB_SIZE);
    rc = vdisk_create("sim:a", &opts);
    opts.format = c->to;
    opts.cluster_size = strcmp(c->to, "qcow2") == 0 ? 4096 : 0;
    if (rc == 0)
        rc = vdisk_create("sim:b", &opts);
    if (rc == 0)
        rc = lab_open("sim:a", c->from, VDISK_OPEN_RDWR, &v);
    if (rc < 0)
        return rc;
    rc = vdisk_pwrite(v, c->model, LAB_SIZE, 0, 0);
    closed = vdisk_close(v);
    return rc < 0 ? rc : closed;
}

static int lab_copy(struct lab_case *c, uint64_t start, bool tell)
{
    struct vdisk_copy_opts opts = {.size = sizeof opts, .flags = c->flags, .depth = 2, .memory_max = 2 << 16,
                                   GOING_OPTS(&c->going)};
    vdisk *source, *target;
    vdisk_job *j;
    int rc = lab_open("sim:a", c->from, 0, &source), closed;

    if (!tell)
        opts.going_on.checkpoint = NULL;
    opts.going_on.start = start;
    if (rc < 0)
        return rc;
    rc = lab_open("sim:b", c->to, VDISK_OPEN_RDWR, &target);
    if (rc == 0) {
        CHECK_OK(vdisk_job_copy(&source, 1, target, &opts, &j));
        rc = vdisk_job_run(j);
        CHECK_OK(vdisk_job_free(j));
        closed = vdisk_close(target);
        rc = rc < 0 ? rc : closed;
    }
    CHECK_OK(vdisk_close(source));
    return rc;
}

static void lab_expect(const struct lab_case *c, uint64_t len)
{
    vdisk *v;

    CHECK_OK(lab_open("sim:b", c->to, 0, &v));
    expect(v, c->model, len);
    CHECK_OK(vdisk_close(v));
}

static int lab_judge(void *arg, uint64_t mark)
{
    struct lab_case *c = arg;

    lab_expect(c, mark);
    CHECK_OK(lab_copy(c, mark, false));
    lab_expect(c, LAB_SIZE);
    return 0;
}

static int lab_failing(void *arg, vdisk_lab *lab)
{
    struct lab_case *c = arg;
    int rc = lab_build(c);

    c->going = (struct going){.position = 0};
    if (rc < 0)
        return rc;
    rc = lab_copy(c, 0, true);
    CHECK_OK(vdisk_lab_fail(lab, NULL));
    lab_judge(c, c->going.position);
    c->right += rc == 0;
    return rc;
}

/* After a power cut at any moment, and any failure: what was told is there, and the rest can be had. */
static void test_copy_in_lab(void)
{
    struct lab_case cases[] = {
        {.from = "raw", .to = "qcow2", .flags = VDISK_COPY_TARGET_IS_ZERO},
        {.from = "raw", .to = "qcow2", .flags = VDISK_COPY_TARGET_IS_ZERO | VDISK_COPY_COMPRESS},
        {.from = "qcow2", .to = "raw"},
    };

    for (unsigned i = 0; i < ARRAY_LEN(cases); i++) {
        struct vdisk_lab_crashes crashes = {.size = sizeof crashes};
        struct vdisk_lab_fault fault = {.size = sizeof fault};
        struct lab_case *c = &cases[i];

        test_note("case %u", i);
        c->model = test_alloc(LAB_SIZE);
        CHECK_OK(vdisk_lab_create(NULL, &c->going.lab));
        CHECK_OK(lab_build(c));
        CHECK_OK(vdisk_lab_arm(c->going.lab));
        CHECK_OK(lab_copy(c, 0, true));
        CHECK(c->going.position == LAB_SIZE);
        CHECK_OK(vdisk_lab_cut_power(c->going.lab, 4, lab_judge, c, &crashes));
        CHECK(crashes.places > 3);
        vdisk_lab_destroy(c->going.lab);
        CHECK_OK(vdisk_lab_each_failure(NULL, &fault, lab_failing, c, NULL));
        CHECK(c->right > 0);
        free(c->model);
    }
}

/* ---- commit, rebase ----------------------------------------------------------------------------------- */

struct two {
    char     base[PATH_MAX], top[PATH_MAX];
    uint8_t *model;
};

static void two_init(struct two *w, struct rng *r)
{
    static const struct kind overlay = {.format = "qcow2", .cluster_size = 4096};
    vdisk *v;

    w->model = test_alloc(SIZE);
    memset(w->model, 0, SIZE);
    fill(r, w->model, SIZE);
    snprintf(w->base, sizeof w->base, "%s", test_path("base"));
    snprintf(w->top, sizeof w->top, "%s", test_path("top"));
    write_file(w->base, w->model, SIZE);
    make(w->top, &overlay, SIZE, w->base);
    v = open_as(w->top, "qcow2", VDISK_OPEN_RDWR | VDISK_OPEN_BUFFERED);
    for (uint64_t at = 0; at + (200 << 10) < SIZE; at += 300 << 10) {
        rng_fill(r, w->model + at, 200 << 10);
        CHECK_OK(vdisk_pwrite(v, w->model + at, 200 << 10, at, 0));
    }
    CHECK_OK(vdisk_close(v));
}

static void expect_top(const struct two *w)
{
    vdisk *v = open_as(w->top, "qcow2", 0);

    expect(v, w->model, SIZE);
    CHECK_OK(vdisk_close(v));
}

static int commit(const struct two *w, uint64_t start, struct told *t, unsigned cancel_at)
{
    struct stepper step;
    struct vdisk_commit_opts opts = {
        .size = sizeof opts, .open_flags = VDISK_OPEN_BUFFERED, .depth = 2, .memory_max = 2 * PIECE,
        .progress = stepper_step, .progress_arg = &step, .going_on = {start, note, t, .checkpoint_ms = 1},
        .cache_bytes = 1 << 20};
    vdisk_job *j;
    int rc;

    stepper_init(&step, false);
    step.cancel_at = cancel_at;
    CHECK_OK(vdisk_job_commit(w->top, &opts, &j));
    rc = vdisk_job_run(j);
    CHECK_OK(vdisk_job_free(j));
    return rc;
}

static int rebase(const struct two *w, uint64_t start, struct told *t, unsigned cancel_at, uint64_t *ret_read)
{
    struct stepper step;
    struct vdisk_rebase_opts opts = {
        .size = sizeof opts, .open_flags = VDISK_OPEN_BUFFERED, .depth = 2, .memory_max = 4 << 20,
        .progress = stepper_step, .progress_arg = &step, .going_on = {start, note, t, .checkpoint_ms = 1},
        .cache_bytes = 1 << 20};
    struct vdisk_rebase_result r = {.size = sizeof r};
    vdisk_job *j;
    int rc;

    stepper_init(&step, false);
    step.cancel_at = cancel_at;
    CHECK_OK(vdisk_job_rebase(w->top, &opts, &j));
    rc = vdisk_job_run(j);
    if (rc == 0)
        CHECK_OK(vdisk_job_get_rebase_result(j, &r));
    CHECK_OK(vdisk_job_free(j));
    *ret_read = r.bytes_read;
    return rc;
}

static void test_commit(void)
{
    uint64_t start = 0;
    struct two w;
    int rc;

    two_init(&w, test_rng());
    do {
        struct told t = {.count = 0};
        rc = commit(&w, start, &t, 2 + (unsigned)rng_below(test_rng(), 20));
        CHECK(rc == 0 || rc == -ECANCELED);
        expect_top(&w);
        start = t.count > 0 ? t.positions[t.count - 1] : start;
    } while (rc != 0);
    CHECK(start == SIZE);
    CHECK_OK(commit(&w, start, &(struct told){.count = 0}, 0)); /* once more: it is empty already */
    expect_top(&w);
    vdisk *v = open_as(w.base, "raw", 0);
    expect(v, w.model, SIZE);
    CHECK_OK(vdisk_close(v));
    free(w.model);
}

static void test_rebase(void)
{
    uint64_t start = 0, read;
    struct two w;
    int rc;

    two_init(&w, test_rng());
    do {
        struct told t = {.count = 0};
        rc = rebase(&w, start, &t, 2 + (unsigned)rng_below(test_rng(), 20), &read);
        CHECK(rc == 0 || rc == -ECANCELED);
        CHECK(read <= SIZE - start + (1 << 20));
        expect_top(&w);
        start = t.count > 0 ? t.positions[t.count - 1] : start;
    } while (rc != 0);
    CHECK(start == SIZE);
    unlink(w.base);
    expect_top(&w);
    CHECK_OK(rebase(&w, start, &(struct told){.count = 0}, 0, &read)); /* once more: the header has it already */
    CHECK(read == 0);
    expect_top(&w);
    free(w.model);
}

/* ---- checksum ----------------------------------------------------------------------------------------- */

struct digests {
    uint8_t  list[SIZE / DIGESTED + 1][VDISK_DIGEST_SIZE];
    uint64_t told, known;
    bool     too_many, check;
};

static int take_digest(void *arg, uint64_t first, uint64_t count, const uint8_t *digest)
{
    struct digests *d = arg;

    CHECK(first == d->told && first + count <= ARRAY_LEN(d->list));
    for (uint64_t i = first; i < first + count; i++) {
        if (d->check)
            CHECK(memcmp(d->list[i], digest, VDISK_DIGEST_SIZE) == 0);
        memcpy(d->list[i], digest, VDISK_DIGEST_SIZE);
    }
    d->told += count;
    return 0;
}

static int give_digest(void *arg, uint64_t first, uint64_t *ret_count, uint8_t *ret_digest)
{
    struct digests *d = arg;

    *ret_count = d->too_many ? SIZE : first < d->known;
    memcpy(ret_digest, d->list[first], VDISK_DIGEST_SIZE);
    return 0;
}

static int checksum(vdisk *v, struct digests *d, struct vdisk_checksum_result *ret)
{
    struct vdisk_checksum_opts opts = {.size = sizeof opts, .block_size = DIGESTED, .block_digest = take_digest,
                                       .block_digest_arg = d, .known_digest = give_digest,
                                       .known_digest_arg = d};
    vdisk_job *j;
    int rc;

    *ret = (struct vdisk_checksum_result){.size = sizeof *ret};
    CHECK_OK(vdisk_job_checksum(v, &opts, &j));
    rc = vdisk_job_run(j);
    if (rc == 0)
        CHECK_OK(vdisk_job_get_checksum_result(j, ret));
    CHECK_OK(vdisk_job_free(j));
    return rc;
}

static void test_checksum(void)
{
    struct vdisk_checksum_result whole, part;
    struct digests d = {.known = 0};
    struct subject s;

    subject_init(&s, &kinds[0], test_rng());
    CHECK_OK(checksum(s.sources[0], &d, &whole));
    CHECK(d.told == whole.blocks && whole.bytes_known == 0);
    d.check = true;
    for (uint64_t known = 0; known <= whole.blocks; known++) {
        d.known = known;
        d.told = 0;
        CHECK_OK(checksum(s.sources[0], &d, &part));
        CHECK(memcmp(whole.digest, part.digest, sizeof whole.digest) == 0);
        CHECK(d.told == whole.blocks);
        CHECK(part.bytes_known == min_u64(known * DIGESTED, SIZE));
        CHECK(part.bytes_read + part.bytes_zero + part.bytes_known == SIZE);
    }
    d.too_many = true;
    d.told = 0;
    CHECK_INT(checksum(s.sources[0], &d, &part), -EINVAL);
    subject_finish(&s);
}

/* ---- memory ------------------------------------------------------------------------------------------- */

/* Fewer pieces, a slow pace: the same. */
static void test_bounds(void)
{
    struct vdisk_compare_opts opts = {.size = sizeof opts, .memory_max = 1, .rate = 512 << 20};
    struct vdisk_compare_result r = {.size = sizeof r};
    struct subject s;
    vdisk_job *j;

    subject_init(&s, &kinds[8], test_rng());
    for (unsigned i = 0; i < 2; i++) {
        CHECK_OK(vdisk_job_compare(s.sources[0], s.sources[0], &opts, &j));
        CHECK_OK(vdisk_job_run(j));
        CHECK_OK(vdisk_job_get_compare_result(j, &r));
        CHECK_OK(vdisk_job_free(j));
        CHECK(r.difference == VDISK_DIFFERENCE_NONE && r.bytes_read > 0);
        opts.memory_max = 0;
    }
    subject_finish(&s);
}

int main(int argc, char **argv)
{
    static const struct test_case cases[] = {
        {.name = "copy_killed", .run = test_copy_killed, .repeat = 2, .quick = 1},
        {.name = "copy_cancelled", .run = test_copy_cancelled, .repeat = 4, .quick = 1},
        {.name = "copy_refused", .run = test_copy_refused},
        {.name = "copy_in_lab", .run = test_copy_in_lab},
        {.name = "commit", .run = test_commit, .repeat = 4, .quick = 1},
        {.name = "rebase", .run = test_rebase, .repeat = 4, .quick = 1},
        {.name = "checksum", .run = test_checksum},
        {.name = "bounds", .run = test_bounds},
    };

    return test_main(argc, argv, cases, ARRAY_LEN(cases));
}
