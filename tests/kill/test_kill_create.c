/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * kill -9 of `vdisk-io create` with every preallocation, at random times, where there was nothing and where there
 * was an image. Afterwards the target is absent, or what it was, or nothing that is taken for an image, or whole
 * and empty; and it can be replaced.
 */
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/base/bits.h"
#include "tests/kill/kill_lib.h"
#include "tests/lib/test.h"

enum { KILLS = 8, OLD_BYTE = 0x5a };

enum outcome { ABSENT, OLD, MARKED, WHOLE, OUTCOMES };

static const char *const outcome_names[] = {"absent", "as before", "no image", "whole"};

static bool reads_as(const struct image_spec *spec, history_content_fn *fill_in, void *arg)
{
    struct history h;
    bool right = true;
    uint8_t *buf = test_alloc(spec->size);
    struct vdisk_open_opts opts = {.size = sizeof opts, .format = spec->qcow2 ? "qcow2" : "raw"};
    vdisk *v;

    history_init(&h, spec->size, fill_in, arg);
    CHECK_OK(vdisk_open(spec->path, &opts, &v));
    right = vdisk_size(v) == spec->size;
    if (right) {
        CHECK_OK(vdisk_pread(v, buf, spec->size, 0));
        right = history_find_wrong(&h, 0, buf, spec->size, false) == UINT64_MAX;
    }
    CHECK_OK(vdisk_close(v));
    history_finish(&h);
    free(buf);
    return right;
}

static void old_content(void *arg, uint32_t version, uint64_t offset, uint8_t *buf)
{
    memset(buf, OLD_BYTE, HISTORY_SECTOR);
}

static bool is_all_zero(const char *path)
{
    char buf[65536];
    ssize_t n;
    int fd = open(path, O_RDONLY | O_CLOEXEC);

    CHECK(fd >= 0);
    while ((n = read(fd, buf, sizeof buf)) > 0)
        if (buf[0] != 0 || memcmp(buf, buf + 1, (size_t)n - 1) != 0)
            break;
    close(fd);
    return n == 0;
}

static bool has_magic(const char *path)
{
    char magic[4] = {0};
    int fd = open(path, O_RDONLY | O_CLOEXEC);

    CHECK(fd >= 0 && pread(fd, magic, 4, 0) >= 0);
    close(fd);
    return memcmp(magic, "QFI\xfb", 4) == 0;
}

/* What a killed create left: `old` tells what stood there before, if anything. */
static enum outcome judge_create(struct kill_subject *s, const struct image_spec *old)
{
    kill_wait_image(&s->spec);
    if (access(s->spec.path, F_OK) < 0) {
        CHECK_MSG(!old, "what stood there before is gone");
        return ABSENT;
    }
    if (!s->spec.qcow2) {
        if (old && has_magic(s->spec.path)) {
            CHECK_MSG(reads_as(old, old_content, NULL), "what stood there before is damaged");
            return OLD;
        }
        /* A raw image has nothing to be marked with, but its size. */
        CHECK_MSG(is_all_zero(s->spec.path), "a new raw image has bytes in it");
        struct stat st;
        CHECK(stat(s->spec.path, &st) == 0 && (uint64_t)st.st_size <= s->spec.size);
        return (uint64_t)st.st_size == s->spec.size ? WHOLE : MARKED;
    }
    if (!has_magic(s->spec.path))
        return MARKED;
    kill_check(&s->spec);
    if (old && reads_as(old, old_content, NULL))
        return OLD;
    CHECK_MSG(reads_as(&s->spec, kill_content, s), "a new image has content");
    return WHOLE;
}

static void create_arguments(const struct image_spec *s, char *text, size_t room)
{
    static const char *const prealloc[] = {"off", "metadata", "falloc", "full"};
    size_t n = (size_t)snprintf(text, room, "create -q -f %s -o preallocation=%s", s->qcow2 ? "qcow2" : "raw",
                                prealloc[s->preallocation]);

    if (s->qcow2)
        n += (size_t)snprintf(text + n, room - n,
                              ",compat=%s,cluster_size=%u,refcount_bits=%u,lazy_refcounts=%s,extended_l2=%s",
                              s->version == 2 ? "0.10" : "1.1", s->cluster_size, s->refcount_bits,
                              s->lazy_refcounts ? "on" : "off", s->extended_l2 ? "on" : "off");
    if (s->data_file)
        n += (size_t)snprintf(text + n, room - n, ",data_file=%s.data,data_file_raw=%s", s->path,
                              s->data_file_raw ? "on" : "off");
    if (s->backing[0])
        n += (size_t)snprintf(text + n, room - n, " -b %s -F %s", s->backing, s->backing_format);
    snprintf(text + n, room - n, " %s %" PRIu64 " 2>create.err", s->path, s->size);
}

static void make_old(struct image_spec *old)
{
    image_default(old, "image", 1 << 20);
    image_create(old);
    char arguments[PATH_MAX + 128];

    snprintf(arguments, sizeof arguments, "io -q -c 'write -P %u 0 %" PRIu64 "' %s", OLD_BYTE, old->size,
             old->path);
    kill_run_whole(arguments);
}

static void test_create(void)
{
    struct rng *r = test_rng();
    unsigned outcomes[OUTCOMES] = {0};
    char arguments[2 * PATH_MAX];
    struct image_spec old;
    struct kill_subject s;

    kill_init(&s, 0);
    if (!s.spec.backing[0] && !(s.spec.qcow2 && s.spec.version == 2))
        s.spec.preallocation = test_repetition() % 4;
    if (!s.spec.qcow2 && s.spec.preallocation == VDISK_PREALLOC_METADATA)
        s.spec.preallocation = VDISK_PREALLOC_FULL;
    test_note("%s", image_describe(&s.spec));
    create_arguments(&s.spec, arguments, sizeof arguments);
    uint64_t whole_ns = kill_run_whole(arguments);
    CHECK_INT(judge_create(&s, NULL), WHOLE);
    for (unsigned i = 0; i < KILLS; i++) {
        bool replace = rng_chance(r, 40);
        unlink(s.spec.path);
        unlink(test_path("image.data"));
        if (replace)
            make_old(&old);
        bool was_killed = kill_run(arguments, whole_ns);
        enum outcome o = judge_create(&s, replace ? &old : NULL);
        CHECK_MSG(was_killed || o == WHOLE, "the target is %s after an exit code of 0", outcome_names[o]);
        outcomes[o]++;
        /* Whatever it is, it can be replaced. */
        kill_run_whole(arguments);
        CHECK_INT(judge_create(&s, NULL), WHOLE);
    }
    for (unsigned i = 0; i < OUTCOMES; i++)
        printf("%s %s %u", i ? "," : " ", outcome_names[i], outcomes[i]);
    printf(";");
    kill_finish(&s);
    kill_summary();
}

int main(int argc, char **argv)
{
    static const struct test_case cases[] = {
        {.name = "create", .run = test_create, .repeat = 16, .quick = 4},
    };

    return test_main(argc, argv, cases, ARRAY_LEN(cases));
}
