/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* vdisk_create() over what is there: kept whole when it is refused, and the text says so when it is not. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/base/bits.h"
#include "engine/create.h"
#include "engine/vdisk.h"
#include "engine/volume.h"
#include "tests/lib/memdisk.h"
#include "tests/lib/test.h"

enum { OLD = 300 << 10 };

static char content[OLD];

static void make(const char *name)
{
    int fd = open(name, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0640);

    CHECK(fd >= 0);
    memset(content, 0x5a, sizeof content);
    CHECK(pwrite(fd, content, OLD, 0) == OLD);
    close(fd);
}

static void must_be_whole(const char *name)
{
    static char now[OLD + 1];
    int fd = open(name, O_RDONLY | O_CLOEXEC);

    CHECK(fd >= 0);
    CHECK_MSG(pread(fd, now, sizeof now, 0) == OLD && memcmp(now, content, OLD) == 0, "%s has changed", name);
    close(fd);
    CHECK_MSG(!strstr(vdisk_error_text(), "is left"), "%s", vdisk_error_text());
}

/* Formats and kinds of preallocation, with and without a data file that is there, too. */
struct way {
    const char         *format, *data_file;
    enum vdisk_prealloc preallocation;
};

static const struct way ways[] = {
    {"raw", NULL, VDISK_PREALLOC_OFF},        {"raw", NULL, VDISK_PREALLOC_FULL},
    {"raw", NULL, VDISK_PREALLOC_FALLOC},     {"qcow2", NULL, VDISK_PREALLOC_OFF},
    {"qcow2", NULL, VDISK_PREALLOC_METADATA}, {"qcow2", NULL, VDISK_PREALLOC_FULL},
    {"qcow2", "data", VDISK_PREALLOC_OFF},    {"qcow2", "data", VDISK_PREALLOC_FULL},
};

static int create(const struct way *w, uint64_t size, vdisk_progress_fn *progress)
{
    struct vdisk_create_opts opts = {.size = sizeof opts, .format = w->format, .virtual_size = size,
                                     .preallocation = w->preallocation, .data_file = w->data_file};

    opts.progress = progress;
    return vdisk_create("image", &opts);
}

/* Sizes that the host refuses, by a limit on files. */
static void test_too_large(void)
{
    const struct sigaction ignore = {.sa_handler = SIG_IGN};
    struct rlimit old, few;

    CHECK(chdir(test_dir()) == 0 && sigaction(SIGXFSZ, &ignore, NULL) == 0);
    CHECK(getrlimit(RLIMIT_FSIZE, &old) == 0);
    for (unsigned i = 0; i < ARRAY_LEN(ways); i++) {
        int rc;
        make("image");
        make("data");
        few = old;
        few.rlim_cur = 600 << 10;
        CHECK(setrlimit(RLIMIT_FSIZE, &few) == 0);
        rc = create(&ways[i], 64 << 20, NULL);
        CHECK(setrlimit(RLIMIT_FSIZE, &old) == 0);
        if (rc == 0) /* sparse, and small */
            continue;
        CHECK_INT(rc, -EFBIG);
        must_be_whole("image");
        must_be_whole("data");
    }
}

static int stop(void *arg, uint64_t done, uint64_t total)
{
    return 1;
}

/* When it is under way. */
static void test_cancelled(void)
{
    struct stat before, after;
    unsigned cancelled = 0;

    CHECK(chdir(test_dir()) == 0);
    for (unsigned i = 0; i < ARRAY_LEN(ways); i++) {
        int rc;
        make("image");
        make("data");
        CHECK(stat("image", &before) == 0);
        rc = create(&ways[i], 64 << 20, stop);
        CHECK(stat("image", &after) == 0);
        CHECK(before.st_ino == after.st_ino && before.st_mode == after.st_mode);
        if (rc == 0) /* nothing took long enough */
            continue;
        cancelled++;
        CHECK_INT(rc, -ECANCELED);
        CHECK_INT(after.st_size, 0);
        CHECK_MSG(strstr(vdisk_error_text(), "image is left empty"), "%s", vdisk_error_text());
        if (ways[i].data_file)
            CHECK_MSG(strstr(vdisk_error_text(), "data is left empty"), "%s", vdisk_error_text());
    }
    CHECK(cancelled > 1);
}

/* A device keeps no header that would make it another format. */
static void test_raw_device(void)
{
    const struct vdisk_open_opts guess = {.size = sizeof guess};
    struct vdisk_create_opts opts = {.size = sizeof opts, .format = "raw", .virtual_size = 1 << 20};
    struct vdisk_info info = {.size = sizeof info};
    struct memdisk d;
    vdisk_queue *q;
    vdisk *v;

    memdisk_init_fixed(&d, 4096, 1 << 20);
    memdisk_write(&d, 0, "QFI\xfb\0\0\0\3", 8);
    memdisk_write(&d, 600, "kept", 4);
    CHECK_OK(vdisk_queue_create(NULL, &q));
    struct backend *b = memdisk_open(&d, false);
    CHECK_OK(create_on(&raw_driver, b, &opts, q));
    backend_close(b);
    vdisk_queue_destroy(q);
    CHECK_OK(vdisk_open_backend(memdisk_open(&d, true), &guess, &v));
    CHECK_OK(vdisk_get_info(v, &info));
    CHECK(strcmp(info.format, "raw") == 0);
    CHECK_OK(vdisk_pread(v, content, 4, 600));
    CHECK(memcmp(content, "kept", 4) == 0);
    CHECK_OK(vdisk_close(v));
    memdisk_finish(&d);
}

int main(int argc, char **argv)
{
    static const struct test_case cases[] = {
        {.name = "too_large", .run = test_too_large},
        {.name = "cancelled", .run = test_cancelled},
        {.name = "raw_device", .run = test_raw_device},
    };

    return test_main(argc, argv, cases, ARRAY_LEN(cases));
}
