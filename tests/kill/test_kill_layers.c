/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * kill -9 of the verbs that change what lies below an image, at random times: `commit` into the backing file and
 * further down, `rebase` onto other images and onto nothing. Afterwards all images are sound, the top one reads as
 * before, and the same command again ends the work; with a job's file (--job) it goes on where it was.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/base/bits.h"
#include "tests/kill/kill_lib.h"
#include "tests/lib/run.h"
#include "tests/lib/test.h"

enum { KILLS = 6, ROUNDS = 3, SIZE = 24 << 20, LAYERS = 3, PIECES = 60 };

/* l0 to l2, on top of each other, and `other`; and each byte of the top. */
struct layers {
    struct image_spec spec[LAYERS], other;
    uint8_t *want;
};

static const char *format_of(const struct image_spec *spec)
{
    return spec->qcow2 ? "qcow2" : "raw";
}

static void make(struct image_spec *spec, const char *name, uint64_t size, const struct image_spec *below)
{
    memset(spec, 0, sizeof *spec);
    spec->size = size;
    image_random(test_rng(), spec, IMAGE_NO_PREALLOC | (below ? IMAGE_BACKED | IMAGE_NO_RAW : 0));
    snprintf(spec->path, sizeof spec->path, "%s", test_path("%s", name));
    if (below) {
        snprintf(spec->backing, sizeof spec->backing, "%s", below->path);
        spec->backing_format = format_of(below);
    }
    test_note("%s", image_describe(spec));
    image_create(spec);
}

/* Data and zeros, in pieces; `want`, if it is not NULL, follows. */
static void fill(const struct image_spec *spec, uint8_t *want)
{
    struct vdisk_open_opts opts = {.size = sizeof opts, .flags = VDISK_OPEN_RDWR | VDISK_OPEN_BUFFERED,
                                   .format = format_of(spec)};
    uint8_t *buf = vdisk_alloc_buffer(1 << 20);
    struct rng *r = test_rng();
    vdisk *v;

    CHECK_OK(vdisk_open(spec->path, &opts, &v));
    for (unsigned i = 0; i < PIECES; i++) {
        uint64_t at = 512 * rng_below(r, spec->size / 512);
        uint64_t len = min_u64(spec->size - at, 512 * (1 + rng_below(r, 1000)));
        bool zero = rng_chance(r, 20);

        memset(buf, 0, len);
        if (!zero)
            rng_fill(r, buf, len);
        CHECK_OK(zero ? vdisk_pzero(v, len, at, 0) : vdisk_pwrite(v, buf, len, at, 0));
        if (want)
            memcpy(want + at, buf, len);
    }
    CHECK_OK(vdisk_close(v));
    free(buf);
}

static void build(struct layers *l)
{
    static const char *const names[] = {"l0", "l1", "l2"};

    l->want = test_alloc(SIZE);
    for (unsigned i = 0; i < LAYERS; i++) {
        make(&l->spec[i], names[i], i == 1 ? SIZE - 1024 : SIZE, i ? &l->spec[i - 1] : NULL);
        if (i == 1)
            memset(l->want + SIZE - 1024, 0, 1024);
        fill(&l->spec[i], l->want);
    }
    make(&l->other, "other", SIZE / 2, NULL);
    fill(&l->other, NULL);
}

static void wait_all(const struct layers *l)
{
    for (unsigned i = 0; i < LAYERS; i++)
        kill_wait_image(&l->spec[i]);
    kill_wait_image(&l->other);
}

/* All are sound, and the top reads as it did. */
static void judge(const struct layers *l)
{
    struct vdisk_open_opts opts = {.size = sizeof opts, .format = "qcow2"};
    uint8_t *buf = vdisk_alloc_buffer(SIZE);
    vdisk *v;

    wait_all(l);
    for (unsigned i = 0; i < LAYERS; i++)
        kill_check(&l->spec[i]);
    CHECK_OK(vdisk_open(l->spec[LAYERS - 1].path, &opts, &v));
    CHECK_INT(vdisk_size(v), SIZE);
    CHECK_OK(vdisk_pread(v, buf, SIZE, 0));
    for (uint64_t at = 0; at < SIZE; at += 512)
        CHECK_MSG(memcmp(buf + at, l->want + at, 512) == 0, "sector at %" PRIu64 " is wrong", at);
    CHECK_OK(vdisk_close(v));
    free(buf);
}

/* "--job FILE" each second time, of a new one. */
static const char *job_words(void)
{
    static char text[PATH_MAX + 16];

    unlink(test_path("job"));
    snprintf(text, sizeof text, "--job %s", test_path("job"));
    return test_repetition() % 2 ? text : "";
}

/* Again and again, until it comes to its end. `whole_ns`: how long that takes; 0: not known yet. */
static void run_killed(const struct layers *l, const char *arguments, uint64_t *whole_ns)
{
    bool ended = *whole_ns == 0;

    if (ended)
        *whole_ns = kill_run_whole(arguments);
    for (unsigned i = 0; i < KILLS && !ended; i++) {
        ended = !kill_run(arguments, *whole_ns);
        judge(l);
    }
    if (!ended)
        kill_run_whole(arguments);
    judge(l);
}

static void test_commit(void)
{
    char arguments[3 * PATH_MAX + 128];
    uint64_t whole_ns[2] = {0, 0};
    struct layers l;

    build(&l);
    for (unsigned i = 0; i < 2 * ROUNDS; i++) {
        if (i % 2)
            snprintf(arguments, sizeof arguments, "commit -q %s -f qcow2 -b %s %s", job_words(), l.spec[0].path,
                     l.spec[2].path);
        else
            snprintf(arguments, sizeof arguments, "commit -q %s -f qcow2 %s", job_words(), l.spec[2].path);
        run_killed(&l, arguments, &whole_ns[i % 2]);
        fill(&l.spec[2], l.want);
    }
    free(l.want);
    kill_summary();
}

static void test_rebase(void)
{
    char arguments[3 * PATH_MAX + 128];
    uint64_t whole_ns = 0;
    struct layers l;

    build(&l);
    for (unsigned i = 0; i < 2 * ROUNDS; i++) {
        const struct image_spec *onto[] = {&l.other, &l.spec[1], NULL, &l.spec[0]};
        const struct image_spec *below = onto[i % ARRAY_LEN(onto)];

        snprintf(arguments, sizeof arguments, "rebase -q %s -f qcow2 -b '%s' %s %s %s", job_words(),
                 below ? below->path : "", below ? "-F" : "", below ? format_of(below) : "", l.spec[2].path);
        run_killed(&l, arguments, &whole_ns);
    }
    free(l.want);
    kill_summary();
}

int main(int argc, char **argv)
{
    static const struct test_case cases[] = {
        {.name = "commit", .run = test_commit, .repeat = 4, .quick = 2},
        {.name = "rebase", .run = test_rebase, .repeat = 4, .quick = 2},
    };

    setenv("VDISK_IO_JOB_INTERVAL", "1", 1);
    return test_main(argc, argv, cases, ARRAY_LEN(cases));
}
