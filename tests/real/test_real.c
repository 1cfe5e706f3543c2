/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A file system made of this machine's own files: converted by qemu-img in several ways and read through the
 * engine; written through the engine into volumes of several kinds, and judged by e2fsck and qemu-img compare.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/base/bits.h"
#include "tests/lib/image.h"
#include "tests/lib/run.h"
#include "tests/lib/test.h"

enum { FILES_MIB = 200, FS_MIB = 256, DEPTH = 16, MAX_IO = 1 << 20 };

/* ---- the file system -------------------------------------------------------------------------------- */

/*
 * first.raw: a file system; second.raw and third.raw: the same after some changes each. Made once for all cases.
 */
static const char *fs_path(const char *name)
{
    return test_shared_path("%s", name);
}

static void change_fs(const char *from, const char *to, const char *name)
{
    char copy[PATH_MAX];

    snprintf(copy, sizeof copy, "%s", fs_path(to));
    run_ok("cp --sparse=always %s %s", fs_path(from), copy);
    run_ok(
        "head -c 3000000 %s | tail -c 1234567 >extra; "
        "debugfs -w -R 'write extra %s' %s && debugfs -w -R 'mkdir dir-%s' %s && debugfs -w -R 'rm big-file' %s",
        copy, name, copy, name, copy, copy);
}

static void need_fs(void)
{
    test_requires("mke2fs");
    test_requires("e2fsck");
    test_requires("debugfs");
    test_requires("qemu-img");
    if (access(fs_path("third.raw"), R_OK) == 0)
        return;
    run_ok(
        "mkdir tree && find /usr/share /usr/lib -xdev -type f -size -4096k -readable -printf '%%s %%p\\n' | "
        "LC_ALL=C sort -k2 | awk -v max=%u 'sum + $1 < max { sum += $1 + 512; sub(/^[0-9]+ /, \"\"); print }' | "
        "tar -c -P -T - | tar -x -C tree && head -c 8000000 /dev/urandom >tree/big-file",
        FILES_MIB << 20);
    run_ok("mke2fs -q -t ext4 -d tree %s %uM && rm -rf tree", fs_path("first.raw"), FS_MIB);
    run_ok("e2fsck -fn %s", fs_path("first.raw"));
    change_fs("first.raw", "second.raw", "a");
    change_fs("second.raw", "third.raw", "b");
}

static void judge(const char *path, const char *format, const char *oracle)
{
    if (strcmp(format, "qcow2") == 0)
        image_check(path, false);
    run_ok("qemu-img compare -f raw -F %s %s %s", format, fs_path(oracle), path);
    if (strcmp(format, "raw") == 0) {
        run_ok("e2fsck -fn %s", path);
        return;
    }
    run_ok("qemu-img convert -f qcow2 -O raw %s out.raw && e2fsck -fn out.raw && rm out.raw", path);
}

/* ---- moving it through the engine ------------------------------------------------------------------- */

struct mover {
    vdisk *v;
    vdisk_queue *q;
    int fd;     /* the oracle */
    int old_fd; /* with it: only what differs from this is written */
    bool write;
    bool zeroes; /* write zeros where there are zeros; or else skip them */
    uint64_t size, next;
    uint8_t *bufs[DEPTH], *scratch;
    uint64_t offsets[DEPTH];
    uint64_t lens[DEPTH];
    unsigned idle[DEPTH], nidle;
};

static void load(int fd, void *buf, uint64_t len, uint64_t offset)
{
    CHECK(pread(fd, buf, len, (off_t)offset) == (ssize_t)len);
}

static bool all_zero(const uint8_t *p, uint64_t len)
{
    return p[0] == 0 && memcmp(p, p + 1, len - 1) == 0;
}

/* Start the next request; false if there was nothing to do for this piece. */
static bool start_piece(struct mover *m, unsigned i)
{
    uint64_t offset = m->next, len = min_u64(512 * rng_between(test_rng(), 1, MAX_IO / 512), m->size - offset);

    m->next += len;
    m->offsets[i] = offset;
    m->lens[i] = len;
    if (!m->write) {
        vdisk_read(m->q, m->v, offset, m->bufs[i], len, 0, i);
        return true;
    }
    load(m->fd, m->bufs[i], len, offset);
    if (m->old_fd >= 0) {
        load(m->old_fd, m->scratch, len, offset);
        if (memcmp(m->scratch, m->bufs[i], len) == 0)
            return false;
    }
    if (!all_zero(m->bufs[i], len))
        vdisk_write(m->q, m->v, offset, m->bufs[i], len, 0, i);
    else if (m->zeroes || m->old_fd >= 0)
        vdisk_write_zeroes(m->q, m->v, offset, len, VDISK_REQ_UNMAP, i);
    else
        return false;
    return true;
}

static void finish_piece(struct mover *m, const struct vdisk_completion *c)
{
    unsigned i = (unsigned)c->user_data;

    CHECK_MSG(c->result == 0, "%s at %" PRIu64 "+%" PRIu64 ": %s", m->write ? "write" : "read", m->offsets[i],
              m->lens[i], strerror(-c->result));
    if (!m->write) {
        load(m->fd, m->scratch, m->lens[i], m->offsets[i]);
        CHECK_MSG(memcmp(m->scratch, m->bufs[i], m->lens[i]) == 0, "%" PRIu64 "+%" PRIu64 " reads wrong",
                  m->offsets[i], m->lens[i]);
    }
    m->idle[m->nidle++] = i;
}

static void move_all(struct mover *m, const char *oracle)
{
    struct vdisk_completion c[DEPTH];

    CHECK((m->fd = open(fs_path(oracle), O_RDONLY | O_CLOEXEC)) >= 0);
    CHECK_OK(vdisk_queue_create(NULL, &m->q));
    m->size = vdisk_size(m->v);
    m->scratch = test_alloc(MAX_IO);
    for (unsigned i = 0; i < DEPTH; i++) {
        CHECK((m->bufs[i] = vdisk_alloc_buffer(MAX_IO)));
        m->idle[m->nidle++] = i;
    }
    while (m->next < m->size || m->nidle < DEPTH) {
        while (m->next < m->size && m->nidle > 0)
            if (start_piece(m, m->idle[m->nidle - 1]))
                m->nidle--;
        if (m->nidle == DEPTH)
            continue;
        int n = vdisk_reap(m->q, c, 1, DEPTH, NULL);
        CHECK_OK(n);
        for (int i = 0; i < n; i++)
            finish_piece(m, &c[i]);
    }
    for (unsigned i = 0; i < DEPTH; i++)
        free(m->bufs[i]);
    free(m->scratch);
    vdisk_queue_destroy(m->q);
    close(m->fd);
}

static void read_through(const char *path, const char *oracle)
{
    struct mover m = {.old_fd = -1};

    CHECK_OK(vdisk_open(path, NULL, &m.v));
    CHECK_INT(vdisk_size(m.v), (uint64_t)FS_MIB << 20);
    move_all(&m, oracle);
    CHECK_OK(vdisk_close(m.v));
}

/* `old`: what the volume holds already, or NULL for nothing. */
static void write_through(const char *path, const char *format, const char *oracle, const char *old, bool zeroes)
{
    struct vdisk_open_opts opts = {.size = sizeof opts, .flags = VDISK_OPEN_RDWR, .format = format};
    struct mover m = {.old_fd = -1, .write = true, .zeroes = zeroes};

    if (old)
        CHECK((m.old_fd = open(fs_path(old), O_RDONLY | O_CLOEXEC)) >= 0);
    CHECK_OK(vdisk_open(path, &opts, &m.v));
    move_all(&m, oracle);
    CHECK_OK(vdisk_sync(m.v));
    CHECK_OK(vdisk_close(m.v));
    if (old)
        close(m.old_fd);
}

/* ---- cases ------------------------------------------------------------------------------------------ */

static void convert_and_read(const char *options)
{
    const char *path = test_path("image.qcow2");

    need_fs();
    test_note("qemu-img convert %s", options);
    run_ok("qemu-img convert -f raw -O qcow2 %s %s %s", options, fs_path("first.raw"), path);
    read_through(path, "first.raw");
}

static void test_read_raw(void)
{
    need_fs();
    read_through(fs_path("first.raw"), "first.raw");
}

static void test_read_plain(void)
{
    convert_and_read("");
}

static void test_read_zlib(void)
{
    convert_and_read("-c -o compression_type=zlib");
}

static void test_read_zstd(void)
{
    convert_and_read("-c -o compression_type=zstd");
}

static void test_read_extended_l2(void)
{
    convert_and_read("-o extended_l2=on,cluster_size=128k");
}

static void make_chain(void)
{
    run_ok("qemu-img convert -f raw -O qcow2 -c %s base.qcow2 && "
           "qemu-img convert -f raw -O qcow2 -B base.qcow2 -F qcow2 %s mid.qcow2 && "
           "qemu-img convert -f raw -O qcow2 -o extended_l2=on -B mid.qcow2 -F qcow2 %s top.qcow2",
           fs_path("first.raw"), fs_path("second.raw"), fs_path("third.raw"));
}

static void test_read_chain(void)
{
    need_fs();
    make_chain();
    read_through(test_path("mid.qcow2"), "second.raw");
    read_through(test_path("top.qcow2"), "third.raw");
}

/* The third state back to the first, on top of the chain. */
static void test_write_chain(void)
{
    need_fs();
    make_chain();
    write_through(test_path("top.qcow2"), "qcow2", "first.raw", "third.raw", true);
    read_through(test_path("top.qcow2"), "first.raw");
    judge(test_path("top.qcow2"), "qcow2", "first.raw");
    judge(test_path("mid.qcow2"), "qcow2", "second.raw");
}

static void test_write(void)
{
    static const struct image_spec kinds[] = {
        {.qcow2 = false},
        {.qcow2 = false, .preallocation = VDISK_PREALLOC_FALLOC},
        {.qcow2 = false, .preallocation = VDISK_PREALLOC_FULL},
        {.qcow2 = true, .cluster_size = 65536, .version = 3, .refcount_bits = 16},
        {.qcow2 = true, .cluster_size = 65536, .version = 2, .refcount_bits = 16},
        {.qcow2 = true, .cluster_size = 4096, .version = 3, .refcount_bits = 16},
        {.qcow2 = true, .cluster_size = 2097152, .version = 3, .refcount_bits = 16},
        {.qcow2 = true, .cluster_size = 131072, .version = 3, .refcount_bits = 16, .extended_l2 = true},
        {.qcow2 = true, .cluster_size = 65536, .version = 3, .refcount_bits = 1, .lazy_refcounts = true},
        {.qcow2 = true, .cluster_size = 65536, .version = 3, .refcount_bits = 16, .data_file = true},
        {.qcow2 = true,
         .cluster_size = 65536,
         .version = 3,
         .refcount_bits = 16,
         .preallocation = VDISK_PREALLOC_METADATA},
        {.qcow2 = true,
         .cluster_size = 65536,
         .version = 3,
         .refcount_bits = 16,
         .preallocation = VDISK_PREALLOC_FULL},
    };
    struct image_spec spec = kinds[test_repetition() % ARRAY_LEN(kinds)];
    const char *format = spec.qcow2 ? "qcow2" : "raw";

    need_fs();
    spec.size = (uint64_t)FS_MIB << 20;
    snprintf(spec.path, sizeof spec.path, "%s", test_path("image"));
    test_note("%s", image_describe(&spec));
    image_create(&spec);
    write_through(spec.path, format, "first.raw", NULL, rng_chance(test_rng(), 50));
    judge(spec.path, format, "first.raw");
    /* Now a rewrite in place, from one state to another. */
    write_through(spec.path, format, "third.raw", "first.raw", true);
    read_through(spec.path, "third.raw");
    judge(spec.path, format, "third.raw");
}

int main(int argc, char **argv)
{
    static const struct test_case cases[] = {
        {.name = "read_raw", .run = test_read_raw},
        {.name = "read_plain", .run = test_read_plain},
        {.name = "read_zlib", .run = test_read_zlib},
        {.name = "read_zstd", .run = test_read_zstd},
        {.name = "read_extended_l2", .run = test_read_extended_l2},
        {.name = "read_chain", .run = test_read_chain},
        {.name = "write_chain", .run = test_write_chain},
        {.name = "write", .run = test_write, .repeat = 12, .quick = 4},
    };

    return test_main(argc, argv, cases, ARRAY_LEN(cases));
}
