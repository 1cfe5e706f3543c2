/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a job leaves that is stopped at each of its steps: the image is as it was, or done, or in between and
 * sound; and the same job made again has the outcome that it has when nothing stops it.
 */
#include <endian.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/jobs/jobs.h"

enum { STEPS_MOST = 60 };

struct kind {
    const char *name;
    void       (*prepare)(const char *path);           /* what is there before */
    vdisk_job *(*make)(const char *path, struct stepper *s);
    void       (*judge_stopped)(const char *path);     /* after it was cancelled */
    void       (*judge_done)(const char *path);        /* after it was made again */
};

static vdisk *open_volume; /* of jobs about one that is open */

static struct vdisk_check_result check(const char *path)
{
    struct vdisk_check_result r = {.size = sizeof r};
    vdisk_job *j;

    CHECK_OK(vdisk_job_check(path, NULL, &j));
    CHECK_OK(vdisk_job_run(j));
    CHECK_OK(vdisk_job_get_check_result(j, &r));
    CHECK_OK(vdisk_job_free(j));
    return r;
}

static void check_sound(const char *path, bool leaks_allowed)
{
    struct vdisk_check_result r = check(path);

    CHECK_INT(r.corruptions, 0);
    CHECK_INT(r.check_errors, 0);
    if (!leaks_allowed)
        CHECK_INT(r.leaks, 0);
}

static void close_volume(void)
{
    if (open_volume)
        CHECK_OK(vdisk_close(open_volume));
    open_volume = NULL;
}

/* Its result. On a queue every other time. */
static int run_job(vdisk_job *j, bool on_queue)
{
    int result[1];
    vdisk_queue *q;
    int rc;

    if (!on_queue) {
        rc = vdisk_job_run(j);
    } else {
        CHECK_OK(vdisk_queue_create(NULL, &q));
        CHECK_OK(vdisk_job_start(j, q, 0));
        reap_all(q, 1, result);
        CHECK_OK(vdisk_queue_destroy(q));
        rc = result[0];
    }
    if (rc < 0)
        CHECK(vdisk_job_get_error_text(j)[0] != '\0');
    CHECK_OK(vdisk_job_free(j));
    return rc;
}

/* False: it had come to its end before step `n`. */
static bool stop_at(const struct kind *k, unsigned n)
{
    const char *path = test_path("%s-%u", k->name, n);
    struct stepper s;
    int rc;

    test_note("%s stopped at step %u", k->name, n);
    k->prepare(path);
    stepper_init(&s, false);
    s.cancel_at = n;
    rc = run_job(k->make(path, &s), n % 2);
    close_volume();
    if (s.steps >= n && rc != 0) {
        CHECK_INT(rc, -ECANCELED);
        k->judge_stopped(path);
    } else {
        CHECK_INT(rc, 0);
        k->judge_done(path);
    }
    rc = run_job(k->make(path, NULL), false);
    CHECK_MSG(rc == 0, "made again: %s", strerror(-rc));
    close_volume();
    k->judge_done(path);
    unlink(path);
    return s.steps >= n;
}

static void each_step(const struct kind *k)
{
    unsigned n = 1;

    while (n < STEPS_MOST && stop_at(k, n))
        n += 1 + (test_is_long() ? n / 8 : n / 2);
    CHECK_MSG(n > 1, "%s makes no step", k->name);
}

/* ---- create ------------------------------------------------------------------------------------------- */

enum { CREATE_SIZE = 48 << 20 };

static vdisk_job *make_create(const char *path, struct stepper *s, const char *format,
                              enum vdisk_prealloc prealloc)
{
    struct vdisk_create_opts opts = {.size = sizeof opts, .format = format, .virtual_size = CREATE_SIZE,
                                     .preallocation = prealloc, .progress = s ? stepper_step : NULL,
                                     .progress_arg = s};
    vdisk_job *j;

    CHECK_OK(vdisk_job_create(path, &opts, &j));
    return j;
}

static vdisk_job *make_raw(const char *path, struct stepper *s)
{
    return make_create(path, s, "raw", VDISK_PREALLOC_FULL);
}

static vdisk_job *make_full(const char *path, struct stepper *s)
{
    return make_create(path, s, "qcow2", VDISK_PREALLOC_FULL);
}

static vdisk_job *make_metadata(const char *path, struct stepper *s)
{
    return make_create(path, s, "qcow2", VDISK_PREALLOC_METADATA);
}

static void nothing_there(const char *path)
{
    struct stat st;

    CHECK(stat(path, &st) != 0);
}

static void something_there(const char *path)
{
    int fd = open(path, O_CREAT | O_WRONLY | O_EXCL, 0600);

    CHECK(fd >= 0 && pwrite(fd, "something", 9, 100000) == 9);
    close(fd);
}

static void left_empty(const char *path)
{
    struct stat st;

    CHECK(stat(path, &st) == 0);
    CHECK_INT(st.st_size, 0);
}

static void raw_done(const char *path)
{
    struct stat st;

    CHECK(stat(path, &st) == 0);
    CHECK_INT(st.st_size, CREATE_SIZE);
}

static void qcow2_done(const char *path)
{
    vdisk *v = open_rw(path);

    CHECK_INT(vdisk_size(v), CREATE_SIZE);
    CHECK_OK(vdisk_close(v));
    check_sound(path, false);
}

static void test_create(void)
{
    static const struct kind kinds[] = {
        {"raw", nothing_there, make_raw, nothing_there, raw_done},
        {"raw-over", something_there, make_raw, left_empty, raw_done},
        {"full", nothing_there, make_full, nothing_there, qcow2_done},
        {"full-over", something_there, make_full, left_empty, qcow2_done},
        {"metadata", nothing_there, make_metadata, nothing_there, qcow2_done},
    };

    for (size_t i = 0; i < ARRAY_LEN(kinds); i++)
        each_step(&kinds[i]);
}

/* ---- check and repair --------------------------------------------------------------------------------- */

static uint64_t read_be64(int fd, uint64_t offset)
{
    uint64_t value;

    CHECK(pread(fd, &value, sizeof value, (off_t)offset) == sizeof value);
    return be64toh(value);
}

enum { REFTABLE_FIELD = 48 };

/* Of the refcounts of its clusters some are too low and some too high. */
static void make_damaged(const char *path)
{
    int fd;

    make_full_image(strrchr(path, '/') + 1);
    fd = open(path, O_RDWR);
    CHECK(fd >= 0);
    uint64_t block = read_be64(fd, read_be64(fd, REFTABLE_FIELD));
    for (uint64_t i = 5; i < 90; i++) {
        uint16_t count = htobe16((uint16_t)(i % 3));
        CHECK(pwrite(fd, &count, sizeof count, (off_t)(block + i * sizeof count)) == sizeof count);
    }
    close(fd);
    CHECK(check(path).corruptions > 0 && check(path).leaks > 0);
}

static vdisk_job *make_check(const char *path, struct stepper *s)
{
    struct vdisk_check_opts opts = {.size = sizeof opts, .progress = s ? stepper_step : NULL, .progress_arg = s};
    vdisk_job *j;

    CHECK_OK(vdisk_job_check(path, &opts, &j));
    return j;
}

static vdisk_job *make_repair(const char *path, struct stepper *s)
{
    struct vdisk_check_opts opts = {.size = sizeof opts, .progress = s ? stepper_step : NULL, .progress_arg = s};
    vdisk_job *j;

    CHECK_OK(vdisk_job_repair(path, VDISK_REPAIR_ALL, &opts, &j));
    return j;
}

static void check_content(const char *path)
{
    char *buf = vdisk_alloc_buffer(CLUSTER);
    vdisk *v = open_rw(path);

    for (uint64_t i = 0; i <= CLUSTERS; i++) {
        CHECK_OK(vdisk_pread(v, buf, CLUSTER, i * CLUSTER));
        for (unsigned b = 0; b < CLUSTER; b++)
            CHECK_INT(buf[b], i < CLUSTERS ? 0x5a : 0);
    }
    CHECK_OK(vdisk_close(v));
    free(buf);
}

static void still_damaged(const char *path)
{
    CHECK(check(path).corruptions > 0 && check(path).leaks > 0);
}

static void no_worse(const char *path)
{
    CHECK_INT(check(path).check_errors, 0);
}

static void repaired(const char *path)
{
    check_sound(path, false);
    check_content(path);
}

static void test_check(void)
{
    static const struct kind kinds[] = {
        {"check", make_damaged, make_check, still_damaged, still_damaged},
        {"repair", make_damaged, make_repair, no_worse, repaired},
    };

    for (size_t i = 0; i < ARRAY_LEN(kinds); i++)
        each_step(&kinds[i]);
}

/* What a repair says that it did is what it did; a check of what has none, and of nothing, says why. */
static void test_results(void)
{
    const char *path = test_path("image");
    struct vdisk_check_opts opts = {.size = sizeof opts, .format = "raw"};
    struct vdisk_repair_result fixed = {.size = sizeof fixed};
    struct vdisk_check_result left = {.size = sizeof left}, before;
    vdisk_job *j;

    make_damaged(path);
    before = check(path);
    j = make_repair(path, NULL);
    CHECK_INT(vdisk_job_get_repair_result(j, &fixed), -EBUSY);
    CHECK_OK(vdisk_job_run(j));
    CHECK_OK(vdisk_job_get_repair_result(j, &fixed));
    CHECK_OK(vdisk_job_get_check_result(j, &left));
    CHECK(fixed.corruptions_fixed > 0 && fixed.corruptions_fixed <= before.corruptions);
    CHECK_INT(fixed.leaks_fixed, before.leaks);
    CHECK_INT(left.corruptions + left.leaks, 0);
    CHECK_OK(vdisk_job_free(j));

    CHECK_OK(vdisk_job_check(path, NULL, &j));
    CHECK_OK(vdisk_job_run(j));
    CHECK_INT(vdisk_job_get_repair_result(j, &fixed), -EINVAL);
    CHECK_OK(vdisk_job_free(j));

    CHECK_OK(vdisk_job_check(path, &opts, &j));
    CHECK_INT(vdisk_job_run(j), -ENOSYS);
    CHECK_OK(vdisk_job_free(j));
    CHECK_OK(vdisk_job_check(test_path("none"), NULL, &j));
    CHECK_INT(vdisk_job_run(j), -ENOENT);
    CHECK_OK(vdisk_job_free(j));
    opts.flags = VDISK_OPEN_FORCE_SHARE;
    CHECK_INT(vdisk_job_repair(path, VDISK_REPAIR_ALL, &opts, &j), -EINVAL);
    opts.flags = VDISK_OPEN_RDWR;
    CHECK_INT(vdisk_job_check(path, &opts, &j), -EINVAL);
    CHECK_INT(vdisk_job_repair(path, VDISK_REPAIR_NOTHING, NULL, &j), -EINVAL);
}

/* ---- resize and trim ---------------------------------------------------------------------------------- */

enum { SMALL = 1024, SMALL_SIZE = 64 << 20, SHRUNK = 20 << 20, GROWN = (64 << 20) + 3 * 512 };

static char mark_of(uint64_t offset)
{
    return (char)(1 + offset / SMALL % 100);
}

/* With clusters of 1 KiB, so that there are many tables: data in each 64 KiB. */
static void make_small(const char *path)
{
    struct vdisk_create_opts opts = {.size = sizeof opts, .format = "qcow2", .virtual_size = SMALL_SIZE,
                                     .cluster_size = SMALL};
    char *buf = vdisk_alloc_buffer(SMALL);
    vdisk *v;

    CHECK_OK(vdisk_create(path, &opts));
    v = open_rw(path);
    for (uint64_t at = 0; at < SMALL_SIZE; at += 65536) {
        memset(buf, mark_of(at), SMALL);
        CHECK_OK(vdisk_pwrite(v, buf, SMALL, at, 0));
    }
    CHECK_OK(vdisk_close(v));
    free(buf);
}

/* It has this size, the data up to `known`, zeros between, and zeros behind. */
static void expect(const char *path, uint64_t size, uint64_t known)
{
    enum { PIECE = 1 << 20 };
    static const char zeros[SMALL];
    char *buf = vdisk_alloc_buffer(PIECE), data[SMALL];
    vdisk *v = open_rw(path);

    CHECK_INT(vdisk_size(v), size);
    for (uint64_t at = 0; at < size; at += PIECE) {
        uint64_t len = min_u64(PIECE, size - at);
        CHECK_OK(vdisk_pread(v, buf, len, at));
        for (uint64_t i = 0; i < len; i += SMALL) {
            bool has_data = (at + i) % 65536 == 0 && at + i < known;
            memset(data, mark_of(at + i), SMALL);
            CHECK(memcmp(buf + i, has_data ? data : zeros, min_u64(SMALL, len - i)) == 0);
        }
    }
    CHECK_OK(vdisk_close(v));
    free(buf);
}

static vdisk_job *make_resize(const char *path, struct stepper *s, uint64_t size, enum vdisk_prealloc prealloc)
{
    struct vdisk_resize_opts opts = {.size = sizeof opts, .preallocation = prealloc, .shrink = size < SMALL_SIZE,
                                     .progress = s ? stepper_step : NULL, .progress_arg = s};
    vdisk_job *j;

    open_volume = open_rw(path);
    CHECK_OK(vdisk_job_resize(open_volume, size, &opts, &j));
    return j;
}

static vdisk_job *make_grow_metadata(const char *path, struct stepper *s)
{
    return make_resize(path, s, GROWN + (16ull << 20), VDISK_PREALLOC_METADATA);
}

static vdisk_job *make_grow_full(const char *path, struct stepper *s)
{
    return make_resize(path, s, GROWN, VDISK_PREALLOC_FULL);
}

static vdisk_job *make_grow_falloc(const char *path, struct stepper *s)
{
    return make_resize(path, s, GROWN, VDISK_PREALLOC_FALLOC);
}

static vdisk_job *make_shrink(const char *path, struct stepper *s)
{
    return make_resize(path, s, SHRUNK, VDISK_PREALLOC_OFF);
}

static void not_grown(const char *path)
{
    expect(path, SMALL_SIZE, SMALL_SIZE);
    check_sound(path, false);
}

static void grown_metadata(const char *path)
{
    expect(path, GROWN + (16ull << 20), SMALL_SIZE);
    check_sound(path, false);
}

static void grown(const char *path)
{
    expect(path, GROWN, SMALL_SIZE);
    check_sound(path, false);
}

static void shrunk_or_not(const char *path)
{
    vdisk *v = open_rw(path);
    uint64_t size = vdisk_size(v);

    CHECK_OK(vdisk_close(v));
    CHECK(size == SHRUNK || size == SMALL_SIZE);
    expect(path, size, size);
    check_sound(path, true);
}

static void shrunk(const char *path)
{
    struct stat st;

    expect(path, SHRUNK, SHRUNK);
    check_sound(path, false);
    CHECK(stat(path, &st) == 0);
    CHECK_MSG(st.st_blocks * 512 < SMALL_SIZE / 64, "the file occupies %lld bytes", (long long)st.st_blocks * 512);
}

static void test_resize(void)
{
    static const struct kind kinds[] = {
        {"grow-metadata", make_small, make_grow_metadata, not_grown, grown_metadata},
        {"grow-full", make_small, make_grow_full, not_grown, grown},
        {"grow-falloc", make_small, make_grow_falloc, not_grown, grown},
        {"shrink", make_small, make_shrink, shrunk_or_not, shrunk},
    };

    for (size_t i = 0; i < ARRAY_LEN(kinds); i++)
        each_step(&kinds[i]);
}

static vdisk_job *make_trim(const char *path, struct stepper *s)
{
    struct vdisk_trim_opts opts = {.size = sizeof opts, .progress = s ? stepper_step : NULL, .progress_arg = s};
    vdisk_job *j;

    open_volume = open_rw(path);
    CHECK_OK(vdisk_pdiscard(open_volume, SMALL_SIZE - SHRUNK, SHRUNK));
    CHECK_OK(vdisk_job_trim(open_volume, &opts, &j));
    return j;
}

static void trimmed(const char *path)
{
    expect(path, SMALL_SIZE, SHRUNK);
    check_sound(path, false);
}

static void test_trim(void)
{
    static const struct kind kinds[] = {{"trim", make_small, make_trim, trimmed, trimmed}};

    each_step(&kinds[0]);
}

/* What a trim says that it gave back is gone; one that was cut short gives back the rest the next time. */
static void test_trim_result(void)
{
    const char *path = test_path("image");
    struct vdisk_trim_result r = {.size = sizeof r};
    struct vdisk_info info = {.size = sizeof info};
    vdisk_job *j;

    make_small(path);
    j = make_trim(path, NULL);
    CHECK_OK(vdisk_job_run(j));
    CHECK_OK(vdisk_job_get_trim_result(j, &r));
    CHECK_OK(vdisk_get_info(open_volume, &info));
    CHECK(r.allocated_after < r.allocated_before);
    CHECK_INT(r.allocated_after, info.allocated_size);
    CHECK_OK(vdisk_job_free(j));
    close_volume();
}

int main(int argc, char **argv)
{
    static const struct test_case cases[] = {
        {.name = "create", .run = test_create},
        {.name = "check", .run = test_check},
        {.name = "results", .run = test_results},
        {.name = "resize", .run = test_resize},
        {.name = "trim", .run = test_trim},
        {.name = "trim-result", .run = test_trim_result},
    };

    return test_main(argc, argv, cases, ARRAY_LEN(cases));
}
