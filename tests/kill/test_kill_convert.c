/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * kill -9 of `vdisk-io convert` into a new qcow2 image at random times, where there was nothing and where there
 * was an image. Afterwards the target is absent, or no image, or refused by us as unfinished and by QEMU as no
 * qcow2, or whole; and the same command makes it.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/base/bits.h"
#include "tests/kill/kill_lib.h"
#include "tests/lib/run.h"
#include "tests/lib/test.h"

enum { KILLS = 10, SOURCE = 24 << 20 };

enum outcome { ABSENT, NO_IMAGE, UNFINISHED, WHOLE, OUTCOMES };

static const char *const outcome_names[] = {"absent", "no image", "unfinished", "whole"};

static void make_source(const char *path)
{
    uint8_t *buf = test_alloc(SOURCE);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

    rng_fill(test_rng(), buf, SOURCE);
    memset(buf + SOURCE / 3, 0, SOURCE / 4);
    CHECK(fd >= 0 && write(fd, buf, SOURCE) == SOURCE);
    close(fd);
    free(buf);
}

/* What an unfinished image is to others. */
static void check_refused(const char *path)
{
    struct run_result r;

    run_shell(&r, "qemu-img info -f qcow2 %s", path);
    CHECK_MSG(r.status != 0, "QEMU takes what is unfinished for an image: %.1000s", r.out);
    run_shell(&r, VDISK_IO " info %s", path);
    CHECK_MSG(r.status == 1 && strstr(r.out, "unfinished image"), "info exits with %d: %.1000s", r.status, r.out);
    run_shell(&r, VDISK_IO " check -r all %s", path);
    CHECK_MSG(r.status == 1 && strstr(r.out, "unfinished image"), "check exits with %d: %.1000s", r.status, r.out);
}

static enum outcome judge(const struct image_spec *target, const char *source)
{
    char magic[4] = {0};
    int fd;

    kill_wait_image(target);
    fd = open(target->path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return ABSENT;
    CHECK(pread(fd, magic, sizeof magic, 0) >= 0);
    close(fd);
    if (memcmp(magic, "QFI~", sizeof magic) == 0) {
        check_refused(target->path);
        return UNFINISHED;
    }
    if (memcmp(magic, "QFI\xfb", sizeof magic) != 0)
        return NO_IMAGE;
    kill_check(target);
    run_ok("qemu-img compare -f qcow2 -F raw %s %s", target->path, source);
    return WHOLE;
}

static void test_convert(void)
{
    static const char *const ways[] = {"", "-c", "-o cluster_size=4k", "-t writeback", "-o preallocation=metadata",
                                       "-o compat=0.10,cluster_size=2M"};
    unsigned outcomes[OUTCOMES] = {0};
    struct image_spec target;
    const char *way = ways[test_repetition() % ARRAY_LEN(ways)];
    char source[PATH_MAX], arguments[3 * PATH_MAX];

    test_requires("qemu-img");
    test_note("convert %s", way);
    image_default(&target, "image", SOURCE);
    snprintf(source, sizeof source, "%s", test_path("source"));
    make_source(source);
    snprintf(arguments, sizeof arguments, "convert -f raw -O qcow2 %s %s %s 2>convert.err", way, source,
             target.path);
    uint64_t whole_ns = kill_run_whole(arguments);
    CHECK_INT(judge(&target, source), WHOLE);
    for (unsigned i = 0; i < KILLS; i++) {
        if (rng_chance(test_rng(), 60))
            unlink(target.path); /* else it is there, whole */
        bool was_killed = kill_run(arguments, whole_ns);
        enum outcome o = judge(&target, source);
        CHECK_MSG(was_killed || o == WHOLE, "the target is %s after an exit code of 0", outcome_names[o]);
        outcomes[o]++;
        kill_run_whole(arguments);
        CHECK_INT(judge(&target, source), WHOLE);
    }
    for (unsigned i = 0; i < OUTCOMES; i++)
        printf("%s %s %u", i ? "," : " ", outcome_names[i], outcomes[i]);
    printf(";");
    kill_summary();
}

int main(int argc, char **argv)
{
    static const struct test_case cases[] = {
        {.name = "convert", .run = test_convert, .repeat = 12, .quick = 3},
    };

    return test_main(argc, argv, cases, ARRAY_LEN(cases));
}
