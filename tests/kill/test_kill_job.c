/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * kill -9, at random times and again and again, of commands that keep a job's file (--job): what the file says is
 * done never becomes less, the same command goes on there, and what comes out is as if nothing had been. (commit
 * and rebase: test_kill_layers.c.)
 */
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/base/bits.h"
#include "tests/kill/kill_lib.h"
#include "tests/lib/run.h"
#include "tests/lib/test.h"

enum { KILLS = 12, ROUNDS = 3, SOURCE = 24 << 20 };

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

/* What the file says is done. `state`: what it is, if it is not NULL. An empty one: nothing has begun. */
static uint64_t done_of(const char *job, const char *state)
{
    struct run_result r;
    const char *at;

    run_shell(&r, VDISK_IO " job status --output json %s 2>&1", job);
    if (r.status != 0) {
        CHECK_MSG(!state && (strstr(r.out, "nothing has begun") || strstr(r.out, "No such file")), "%.1000s",
                  r.out);
        return 0;
    }
    if (state)
        CHECK_MSG(strstr(r.out, state), "not %s: %.1000s", state, r.out);
    at = strstr(r.out, "\"bytes_done\": ");
    CHECK_MSG(at, "%.1000s", r.out);
    return strtoull(at + strlen("\"bytes_done\": "), NULL, 10);
}

/* Until it is done. `image`: that is to be let go by the kernel; `judge`: a command to be run then; or NULL. */
static void run_killed(const char *arguments, const char *job, const struct image_spec *image, const char *judge,
                       uint64_t *whole_ns)
{
    uint64_t done = 0, now;
    bool was_killed = true;

    if (*whole_ns == 0) {
        *whole_ns = kill_run_whole(arguments);
        was_killed = false;
    }
    for (unsigned i = 0; i < KILLS && was_killed; i++) {
        was_killed = kill_run(arguments, *whole_ns);
        if (image)
            kill_wait_image(image);
        if (judge)
            run_ok("%s", judge);
        now = done_of(job, NULL);
        CHECK_MSG(now >= done, "%" PRIu64 " bytes were done, now %" PRIu64, done, now);
        done = now;
    }
    if (was_killed)
        kill_run_whole(arguments);
    CHECK_INT(done_of(job, "\"done\""), SOURCE);
    kill_run_whole(arguments); /* there is nothing to do */
}

static void test_convert(void)
{
    static const char *const ways[] = {"-O qcow2", "-O qcow2 -c", "-O qcow2 -o cluster_size=4k", "-O raw",
                                       "-O qcow2 -t writeback -o preallocation=metadata", "-O raw -S 0",
                                       "-O qcow2 --manifest sums", "-O qcow2 -c --manifest sums",
                                       "-O raw --manifest sums"};
    const char *way = ways[test_repetition() % ARRAY_LEN(ways)];
    char source[PATH_MAX], job[PATH_MAX], arguments[4 * PATH_MAX], compare[3 * PATH_MAX], judge[4 * PATH_MAX];
    bool qcow2 = strstr(way, "qcow2") != NULL;
    struct image_spec target;
    uint64_t whole_ns = 0;

    test_requires("qemu-img");
    test_note("convert %s", way);
    image_default(&target, "image", SOURCE);
    snprintf(source, sizeof source, "%s", test_path("source"));
    snprintf(job, sizeof job, "%s", test_path("job"));
    make_source(source);
    snprintf(arguments, sizeof arguments, "convert -q -r 80M --job %s -f raw %s %s %s", job, way, source,
             target.path);
    snprintf(compare, sizeof compare, "qemu-img compare -f %s -F raw %s %s", qcow2 ? "qcow2" : "raw", target.path,
             source);
    snprintf(judge, sizeof judge, "if test -e sums; then %s; fi", compare);
    for (unsigned i = 0; i < ROUNDS; i++) {
        run_killed(arguments, job, &target, judge, &whole_ns); /* with a manifest the target is whole */
        if (strstr(way, "sums"))
            run_ok(VDISK_IO " checksum -q -f raw --manifest want source && cmp want sums && rm want sums && "
                            "test ! -e sums.new && test ! -e job.blocks && test ! -e job.next");
        if (qcow2)
            run_ok("qemu-img check -q -f qcow2 %s", target.path); /* clean: no leaks either */
        run_ok("%s", compare);
        unlink(job);
        unlink(target.path);
    }
    kill_summary();
}

static void test_checksum(void)
{
    char source[PATH_MAX], job[PATH_MAX], arguments[4 * PATH_MAX], want[256];
    uint64_t whole_ns = 0;

    snprintf(source, sizeof source, "%s", test_path("source"));
    snprintf(job, sizeof job, "%s", test_path("job"));
    make_source(source);
    run_ok("cd %s && " VDISK_IO " checksum --block-size 64k --manifest whole source", test_path("."));
    snprintf(arguments, sizeof arguments, "checksum -q -r 80M --job %s --block-size 64k --manifest %s.sums %s",
             job, source, source);
    snprintf(want, sizeof want, "cmp whole source.sums && test ! -e job.blocks && rm source.sums job");
    for (unsigned i = 0; i < ROUNDS; i++) {
        run_killed(arguments, job, NULL, NULL, &whole_ns);
        run_ok("cd %s && %s", test_path("."), want);
    }
    kill_summary();
}

int main(int argc, char **argv)
{
    static const struct test_case cases[] = {
        {.name = "convert", .run = test_convert, .repeat = 12, .quick = 3},
        {.name = "checksum", .run = test_checksum, .repeat = 3, .quick = 1},
    };

    setenv("VDISK_IO_JOB_INTERVAL", "1", 1);
    return test_main(argc, argv, cases, ARRAY_LEN(cases));
}
