/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * kill -9 of the verbs that change an image without its content, at random times: `resize` (grown with every
 * preallocation, made smaller), `amend` (to another version, with other refcounts) and `check -r all` of damaged
 * refcounts and flags. Afterwards the content is all there; a resized volume has its old size or the new one; a
 * killed repair is finished by the next, and so is an amendment.
 */
#include <endian.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/base/bits.h"
#include "qcow2/format/ondisk.h"
#include "tests/kill/kill_lib.h"
#include "tests/lib/run.h"
#include "tests/lib/test.h"

enum { KILLS = 8, MAX_SIZE = 24 << 20, CHUNK = 64 << 10 };

/* A volume, and each byte of it. */
struct volume {
    struct kill_subject s;
    uint8_t *want;
    uint64_t size;
};

static const char *format_of(const struct volume *v)
{
    return v->s.spec.qcow2 ? "qcow2" : "raw";
}

/* Half of it written, in pieces, so that all kinds of clusters are there. */
static void volume_init(struct volume *v, unsigned limits)
{
    struct vdisk_open_opts opts = {.size = sizeof opts, .flags = VDISK_OPEN_RDWR | VDISK_OPEN_BUFFERED};
    vdisk *d;

    kill_init(&v->s, limits);
    v->size = v->s.spec.size;
    v->want = test_alloc(MAX_SIZE);
    if (v->s.base)
        memcpy(v->want, v->s.base, v->size);
    opts.format = format_of(v);
    CHECK_OK(vdisk_open(v->s.spec.path, &opts, &d));
    for (uint64_t at = 0; at < v->size; at += CHUNK) {
        uint64_t len = min_u64(CHUNK, v->size - at);
        if (rng_chance(test_rng(), 50))
            continue;
        rng_fill(test_rng(), v->want + at, len);
        CHECK_OK(vdisk_pwrite(d, v->want + at, len, at, 0));
    }
    CHECK_OK(vdisk_close(d));
}

static void volume_finish(struct volume *v)
{
    kill_finish(&v->s);
    free(v->want);
    kill_summary();
}

/* All is there, in a volume of the old or of the new size, which is from then on the size. */
static void verify(struct volume *v, uint64_t new_size)
{
    struct vdisk_open_opts opts = {.size = sizeof opts, .format = format_of(v)};
    uint8_t *buf = vdisk_alloc_buffer(MAX_SIZE);
    uint64_t size;
    vdisk *d;

    CHECK(buf);
    CHECK_OK(vdisk_open(v->s.spec.path, &opts, &d));
    size = vdisk_size(d);
    CHECK_MSG(size == v->size || size == new_size, "the size is %" PRIu64 ", neither %" PRIu64 " nor %" PRIu64,
              size, v->size, new_size);
    if (size < v->size)
        memset(v->want + size, 0, v->size - size);
    v->size = size;
    CHECK_OK(vdisk_pread(d, buf, size, 0));
    for (uint64_t at = 0; at < size; at += HISTORY_SECTOR)
        CHECK_MSG(memcmp(buf + at, v->want + at, min_u64(HISTORY_SECTOR, size - at)) == 0,
                  "sector at %" PRIu64 " is wrong", at);
    CHECK_OK(vdisk_close(d));
    free(buf);
}

/* ---- resize ----------------------------------------------------------------------------------------- */

static uint64_t resize_arguments(const struct volume *v, char *text, size_t room)
{
    static const char *const modes[] = {"off", "metadata", "falloc", "full"};
    struct rng *r = test_rng();
    uint64_t size = HISTORY_SECTOR * rng_between(r, 1, MAX_SIZE / HISTORY_SECTOR);
    const char *mode = modes[rng_below(r, ARRAY_LEN(modes))];

    if (size < v->size || (!v->s.spec.qcow2 && strcmp(mode, "metadata") == 0))
        mode = "off";
    snprintf(text, room, "resize -q -f %s %s --preallocation %s %s %" PRIu64 " 2>resize.err", format_of(v),
             size < v->size ? "--shrink" : "", mode, v->s.spec.path, size);
    return size;
}

static void test_resize(void)
{
    char arguments[PATH_MAX + 128];
    struct volume v;
    uint64_t whole_ns = 0;

    volume_init(&v, 0);
    for (unsigned i = 0; i <= KILLS; i++) {
        uint64_t size = resize_arguments(&v, arguments, sizeof arguments);
        bool whole = i == 0;
        if (whole)
            whole_ns = kill_run_whole(arguments);
        else
            whole = !kill_run(arguments, whole_ns);
        kill_wait_image(&v.s.spec);
        kill_check(&v.s.spec);
        if (whole) {
            verify(&v, size);
            CHECK_INT(v.size, size);
        } else {
            verify(&v, size);
        }
    }
    volume_finish(&v);
}

/* ---- amend ------------------------------------------------------------------------------------------ */

/* Clusters of zeros, which version 2 does not know. */
static void add_zeros(struct volume *v)
{
    struct vdisk_open_opts opts = {.size = sizeof opts, .flags = VDISK_OPEN_RDWR | VDISK_OPEN_BUFFERED,
                                   .format = "qcow2"};
    vdisk *d;

    CHECK_OK(vdisk_open(v->s.spec.path, &opts, &d));
    for (uint64_t at = 0; at < v->size; at += CHUNK) {
        uint64_t len = min_u64(CHUNK, v->size - at);
        if (rng_chance(test_rng(), 70))
            continue;
        memset(v->want + at, 0, len);
        CHECK_OK(vdisk_pzero(d, len, at, rng_chance(test_rng(), 50) ? VDISK_REQ_UNMAP : 0));
    }
    CHECK_OK(vdisk_close(d));
}

static void test_amend(void)
{
    char arguments[PATH_MAX + 128];
    struct volume v;
    uint64_t whole_ns = 0;

    volume_init(&v, IMAGE_NO_RAW);
    for (unsigned i = 0; i <= KILLS; i++) {
        const struct image_spec *s = &v.s.spec;
        bool can = !s->extended_l2 && !s->data_file && !s->zstd;

        add_zeros(&v);
        if (can && i % 2)
            snprintf(arguments, sizeof arguments,
                     "amend -q -f qcow2 -o compat=v2,refcount_bits=16,nolazy_refcounts %s", s->path);
        else
            snprintf(arguments, sizeof arguments,
                     "amend -q -f qcow2 -o compat=v3,refcount_bits=%u,lazy_refcounts %s",
                     1u << rng_below(test_rng(), 7), s->path);
        if (i == 0)
            whole_ns = kill_run_whole(arguments);
        else if (kill_run(arguments, whole_ns)) {
            kill_wait_image(s);
            kill_check(s);
            verify(&v, v.size);
            kill_run_whole(arguments);
        }
        kill_check(s);
        verify(&v, v.size);
    }
    volume_finish(&v);
}

/* ---- check -r --------------------------------------------------------------------------------------- */

static uint64_t read_be64(int fd, uint64_t offset)
{
    uint64_t x;

    CHECK(pread(fd, &x, sizeof x, (off_t)offset) == sizeof x);
    return be64toh(x);
}

static void write_be64(int fd, uint64_t offset, uint64_t x)
{
    x = htobe64(x);
    CHECK(pwrite(fd, &x, sizeof x, (off_t)offset) == sizeof x);
}

/* Noise in the first refcount block. */
static void damage_block(int fd, const struct q2_disk_header *h)
{
    uint64_t block = read_be64(fd, be64toh(h->refcount_table_offset));
    uint8_t noise[64];

    rng_fill(test_rng(), noise, sizeof noise);
    if (block == 0)
        return; /* damage_table() was here, and its repair was killed */
    CHECK(pwrite(fd, noise, sizeof noise, (off_t)block) == sizeof noise);
}

/* No refcount block is to be found. */
static void damage_table(int fd, const struct q2_disk_header *h)
{
    write_be64(fd, be64toh(h->refcount_table_offset), 0);
}

/* "Not shared" is said of what it was not, and the other way round. */
static void damage_flags(int fd, const struct q2_disk_header *h)
{
    uint64_t l1 = be64toh(h->l1_table_offset);

    for (unsigned i = 0; i < be32toh(h->l1_size); i++) {
        uint64_t entry = read_be64(fd, l1 + 8 * i);
        if (entry != 0)
            write_be64(fd, l1 + 8 * i, entry ^ Q2_COPIED);
    }
}

static void damage(const struct volume *v)
{
    static void (*const kinds[])(int, const struct q2_disk_header *) = {damage_block, damage_table, damage_flags};
    struct q2_disk_header h;
    int fd = open(v->s.spec.path, O_RDWR | O_CLOEXEC);

    CHECK(fd >= 0 && pread(fd, &h, sizeof h, 0) == sizeof h);
    kinds[rng_below(test_rng(), ARRAY_LEN(kinds))](fd, &h);
    close(fd);
}

static void test_repair(void)
{
    char arguments[PATH_MAX + 128];
    struct volume v;
    uint64_t whole_ns = 0;

    volume_init(&v, IMAGE_NO_RAW);
    snprintf(arguments, sizeof arguments, "check -q -r all -f qcow2 %s >check.out 2>&1", v.s.spec.path);
    for (unsigned i = 0; i <= KILLS; i++) {
        if (i == 0 || rng_chance(test_rng(), 50))
            damage(&v);
        if (i == 0)
            whole_ns = kill_run_whole(arguments);
        else
            kill_run(arguments, whole_ns);
        kill_wait_image(&v.s.spec);
        verify(&v, v.size);
    }
    kill_run_whole(arguments);
    image_check(v.s.spec.path, false);
    kill_check(&v.s.spec);
    verify(&v, v.size);
    volume_finish(&v);
}

int main(int argc, char **argv)
{
    static const struct test_case cases[] = {
        {.name = "resize", .run = test_resize, .repeat = 16, .quick = 4},
        {.name = "amend", .run = test_amend, .repeat = 16, .quick = 4},
        {.name = "repair", .run = test_repair, .repeat = 16, .quick = 4},
    };

    return test_main(argc, argv, cases, ARRAY_LEN(cases));
}
