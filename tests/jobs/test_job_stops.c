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

enum { STEPS_MOST = 400 };

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
        n += 1 + (test_is_quick() ? n / 2 : n / 8);
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

int main(int argc, char **argv)
{
    static const struct test_case cases[] = {
        {.name = "create", .run = test_create},
        {.name = "check", .run = test_check},
        {.name = "results", .run = test_results},
    };

    return test_main(argc, argv, cases, ARRAY_LEN(cases));
}
