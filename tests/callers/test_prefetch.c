/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Prefetch: what follows finds its metadata in memory, and, through the page cache, its data. */
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tests/callers/callers.h"

enum { FILE_BYTES = CLUSTERS * CLUSTER };

static vdisk_queue *q;

static void each_kind(void (*run)(void))
{
    for (unsigned i = 0; i < ARRAY_LEN(all_kinds); i++) {
        struct vdisk_queue_opts opts = {.size = sizeof opts, .kind = all_kinds[i]};
        test_note("kind %s", vdisk_queue_kind_name(all_kinds[i]));
        CHECK_OK(vdisk_queue_create(&opts, &q));
        run();
        CHECK_OK(vdisk_queue_destroy(q));
    }
}

static int prefetch(vdisk *v, uint64_t offset, uint64_t len, uint32_t flags)
{
    int results[1];

    vdisk_prefetch(q, v, offset, len, flags, 0);
    reap_all(q, 1, results);
    return results[0];
}

static uint64_t misses(vdisk *v)
{
    struct vdisk_stats stats = {.size = sizeof stats};

    CHECK_OK(vdisk_get_stats(v, &stats));
    return stats.cache_misses;
}

/* ---- metadata ------------------------------------------------------------------------------------------- */

static void metadata(void)
{
    const char *base = make_full_image("base"), *path = test_path("over");
    struct vdisk_create_opts create = {.size = sizeof create, .format = "qcow2", .backing_file = base,
                                       .backing_fmt = "qcow2", .virtual_size = UINT64_MAX};
    char *buf = vdisk_alloc_buffer(BLOCK);
    uint64_t before;
    vdisk *v;

    CHECK_OK(vdisk_create(path, &create));
    v = open_rw(path);
    memset(buf, 1, BLOCK);
    CHECK_OK(vdisk_pwrite(v, buf, BLOCK, CLUSTER, 0)); /* so that it has a table of its own */
    CHECK_OK(vdisk_close(v));
    CHECK_OK(vdisk_open(path, NULL, &v)); /* read-only will do */
    before = misses(v);
    CHECK_INT(prefetch(v, 0, FILE_BYTES, 0), 0);
    CHECK(misses(v) >= before + 2); /* of both layers */
    before = misses(v);
    for (unsigned i = 0; i < CLUSTERS; i++) {
        vdisk_read(q, v, i * CLUSTER, buf, BLOCK, 0, 0);
        reap_all(q, 1, NULL);
        CHECK_INT(buf[0], i == 1 ? 1 : 0x5a);
    }
    CHECK_INT(misses(v), before);
    CHECK_INT(prefetch(v, 0, 0, 0), 0);
    CHECK_INT(prefetch(v, 0, BLOCK, VDISK_REQ_FUA), -EINVAL);
    CHECK_INT(prefetch(v, vdisk_size(v), BLOCK, 0), -EINVAL);
    CHECK_OK(vdisk_close(v));
    free(buf);
}

static void test_metadata(void)
{
    each_kind(metadata);
}

/* ---- data ----------------------------------------------------------------------------------------------- */

/* How much of the file the page cache has. */
static unsigned resident(int fd, uint64_t size)
{
    size_t pages = size / BLOCK, n = 0;
    unsigned char *in = test_alloc(pages);
    void *map = mmap(NULL, size, PROT_READ, MAP_SHARED, fd, 0);

    CHECK(map != MAP_FAILED);
    CHECK(mincore(map, size, in) == 0);
    for (size_t i = 0; i < pages; i++)
        n += in[i] & 1;
    munmap(map, size);
    free(in);
    return (unsigned)n;
}

static void data(void)
{
    const char *path = test_path("raw");
    struct vdisk_open_opts opts = {.size = sizeof opts, .flags = VDISK_OPEN_BUFFERED, .format = "raw"};
    char *bytes = test_alloc(FILE_BYTES);
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    vdisk *v;

    memset(bytes, 0x5a, FILE_BYTES);
    CHECK(fd >= 0 && write(fd, bytes, FILE_BYTES) == FILE_BYTES && fsync(fd) == 0);
    CHECK(posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED) == 0);
    if (resident(fd, FILE_BYTES) > FILE_BYTES / BLOCK / 2)
        test_skip("the page cache keeps what it is told to drop here");
    CHECK_OK(vdisk_open(path, &opts, &v));
    CHECK_INT(prefetch(v, 0, FILE_BYTES, 0), 0);
    caller_wait_begin("the host to read");
    while (resident(fd, FILE_BYTES) < 16) /* as much as it likes, but something */
        clock_nanosleep(CLOCK_MONOTONIC, 0, &(struct timespec){.tv_nsec = 1000000}, NULL);
    caller_wait_end();
    CHECK_OK(vdisk_close(v));
    close(fd);
    free(bytes);
}

static void test_data(void)
{
    each_kind(data);
}

int main(int argc, char **argv)
{
    static const struct test_case cases[] = {
        {.name = "metadata", .run = test_metadata},
        {.name = "data", .run = test_data},
    };

    return test_main(argc, argv, cases, ARRAY_LEN(cases));
}
