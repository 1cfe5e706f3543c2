/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * An image on a small file system, tmpfs and ext4, that is full now and then, against the oracle. Needs to mount:
 * each case has mounts of its own, which end with it.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <time.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "engine/base/bits.h"
#include "tests/lib/image.h"
#include "tests/lib/run.h"
#include "tests/lib/test.h"
#include "tests/lib/workload.h"

enum { FS_BYTES = 24 << 20 };

struct subject {
    char dir[256];
    struct image_spec spec;
    struct model model;
    uint32_t open_flags;
    vdisk *v;
    uint64_t failed;
};

static uint64_t free_bytes(const struct subject *s)
{
    struct statvfs st;

    CHECK(statvfs(s->dir, &st) == 0);
    return (uint64_t)st.f_bavail * st.f_frsize;
}

/* Take all that is left, to the last block. */
static void fill_up(const struct subject *s)
{
    static const size_t pieces[] = {1 << 20, 1 << 16, 1 << 12};
    char path[300];
    char *buf = test_alloc(1 << 20);
    int fd;

    snprintf(path, sizeof path, "%s/ballast", s->dir);
    fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    CHECK(fd >= 0);
    for (unsigned i = 0; i < ARRAY_LEN(pieces); i++)
        while (write(fd, buf, pieces[i]) > 0)
            ;
    CHECK(errno == ENOSPC);
    fsync(fd);
    close(fd);
    free(buf);
}

static void drop_ballast(const struct subject *s)
{
    char path[300];

    snprintf(path, sizeof path, "%s/ballast", s->dir);
    CHECK(unlink(path) == 0);
}

static void open_subject(struct subject *s)
{
    struct vdisk_open_opts opts = {.size = sizeof opts, .flags = VDISK_OPEN_RDWR | s->open_flags};

    CHECK_OK(vdisk_open(s->spec.path, &opts, &s->v));
}

static void work(struct subject *s, struct rng *r, unsigned steps, bool full)
{
    struct workload w = {.v = s->v, .models = &s->model, .nmodels = 1, .full = full};

    rng_init(&w.rng, rng_next(r));
    w.depth = (unsigned)rng_between(r, 1, 16);
    w.unit = s->spec.cluster_size;
    w.max_len = 1u << 20;
    workload_start(&w);
    workload_run(&w, steps);
    workload_finish(&w);
    s->failed += w.failed;
}

static void reopen(struct subject *s)
{
    CHECK_OK(vdisk_close(s->v));
    image_check(s->spec.path, false);
    open_subject(s);
    workload_verify(s->v, &s->model, 1);
}

static void run(struct subject *s, struct rng *r)
{
    uint64_t before;

    image_default(&s->spec, "unused", 48 << 20);
    snprintf(s->spec.path, sizeof s->spec.path, "%s/image", s->dir);
    s->spec.cluster_size = 1u << rng_between(r, 12, 17);
    s->spec.by_qemu = rng_chance(r, 50);
    s->open_flags = rng_chance(r, 50) ? VDISK_OPEN_BUFFERED : 0;
    test_note("%s%s", image_describe(&s->spec), s->open_flags ? ", buffered" : "");
    image_create(&s->spec);
    model_init(&s->model, 0, s->spec.size);
    open_subject(s);
    for (unsigned round = 0; round < 3; round++) {
        for (s->failed = 0; s->failed == 0;)
            work(s, r, 50, true);
        CHECK_OK(vdisk_sync(s->v));
        fill_up(s);
        work(s, r, 40, true);
        CHECK_OK(vdisk_sync(s->v));
        workload_verify(s->v, &s->model, 1);
        if (rng_chance(r, 50))
            reopen(s);
        before = free_bytes(s);
        CHECK_OK(vdisk_pdiscard(s->v, s->spec.size, 0));
        model_discard(&s->model, 0, s->spec.size);
        CHECK_OK(vdisk_trim_space(s->v));
        CHECK_MSG(free_bytes(s) > before + (1 << 20), "a discard on a full file system frees %" PRIu64 " bytes",
                  free_bytes(s) - before);
        work(s, r, 40, true);
        drop_ballast(s);
        reopen(s);
    }
    CHECK_OK(vdisk_close(s->v));
    image_check(s->spec.path, false);
    model_finish(&s->model);
}

static void prepare(struct subject *s)
{
    memset(s, 0, sizeof *s);
    snprintf(s->dir, sizeof s->dir, "%s", test_path("small"));
    CHECK(mkdir(s->dir, 0700) == 0);
    if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
        test_skip("mounting is not allowed here: %s", strerror(errno));
}

/* What a ring has open the kernel lets go of a little after the ring. */
static int unmount(const char *dir)
{
    unsigned tries = 1200;

    while (umount(dir) != 0) {
        if (errno != EBUSY || --tries == 0)
            return -1;
        clock_nanosleep(CLOCK_MONOTONIC, 0, &(struct timespec){.tv_nsec = 50000000}, NULL);
    }
    return 0;
}

static void test_tmpfs(void)
{
    struct subject s;
    char options[32];

    test_requires("qemu-img");
    prepare(&s);
    snprintf(options, sizeof options, "size=%u", FS_BYTES);
    if (mount("tmpfs", s.dir, "tmpfs", 0, options) < 0)
        test_skip("tmpfs cannot be mounted: %s", strerror(errno));
    run(&s, test_rng());
    CHECK(unmount(s.dir) == 0);
}

static void test_ext4(void)
{
    struct run_result result;
    struct subject s;

    test_requires("qemu-img");
    test_requires("mkfs.ext4");
    test_requires("mount");
    prepare(&s);
    run_ok("truncate -s %u fs.img && mkfs.ext4 -q -m 0 -O ^has_journal fs.img", FS_BYTES);
    run_shell(&result, "mount -o loop fs.img %s", s.dir);
    if (result.status != 0)
        test_skip("a loop device cannot be mounted: %s", result.out);
    run(&s, test_rng());
    run_ok("umount %s && e2fsck -fn fs.img", s.dir);
}

int main(int argc, char **argv)
{
    static const struct test_case cases[] = {
        {.name = "tmpfs", .run = test_tmpfs, .repeat = 8, .quick = 3},
        {.name = "ext4", .run = test_ext4, .repeat = 8, .quick = 3},
    };

    return test_main(argc, argv, cases, ARRAY_LEN(cases));
}
