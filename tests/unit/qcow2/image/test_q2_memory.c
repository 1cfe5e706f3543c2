/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * cache_bytes bounds what an image keeps, and a flush adds to it while it runs only: random first writes over far
 * more than the cache describes.
 */
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "engine/volume.h"
#include "tests/unit/backend_test.h"

enum { CLUSTER = 4096, WRITES = 40000, DEPTH = 32, CACHE = 32 << 20 };

static const uint64_t size = 128ull << 30;
/* The L1 table and its copy on disk, the ring, ops, stacks, the C library. */
static const uint64_t besides = 4 << 20;

static uint64_t status_kib(const char *key)
{
    FILE *f = fopen("/proc/self/status", "re");
    unsigned long long kib = 0;
    char line[256];

    assert_non_null(f);
    while (fgets(line, sizeof line, f))
        if (strncmp(line, key, strlen(key)) == 0)
            kib = strtoull(line + strlen(key), NULL, 10);
    fclose(f);
    return kib << 10;
}

/* From here on VmHWM counts anew. */
static bool reset_peak(void)
{
    int fd = open("/proc/self/clear_refs", O_WRONLY | O_CLOEXEC);
    bool ok = fd >= 0 && write(fd, "5", 1) == 1;

    close(fd);
    return ok;
}

static uint64_t next(uint64_t *seed)
{
    return *seed = *seed * UINT64_C(6364136223846793005) + 1442695040888963407;
}

/* A block in a cluster of each its own, anywhere. */
static void write_anywhere(vdisk_queue *q, vdisk *v, char *buf, uint64_t *seed)
{
    struct vdisk_completion done[DEPTH];
    unsigned left = WRITES, running = 0;

    while (left + running > 0) {
        for (; left > 0 && running < DEPTH; left--, running++)
            vdisk_write(q, v, (next(seed) >> 16) % (size / CLUSTER) * CLUSTER, buf, CLUSTER, 0, 0);
        int n = vdisk_reap(q, done, 1, DEPTH, NULL);
        assert_true(n > 0);
        running -= (unsigned)n;
        for (int i = 0; i < n; i++)
            assert_int_equal(done[i].result, 0);
    }
}

static void what_a_flush_took_is_given_back(void **state)
{
    struct vdisk_create_opts create = {.size = sizeof create, .format = "qcow2", .virtual_size = size,
                                       .cluster_size = CLUSTER};
    struct vdisk_open_opts how = {.size = sizeof how, .flags = VDISK_OPEN_RDWR | VDISK_OPEN_UNSAFE,
                                  .cache_bytes = CACHE};
    const char *tmp = getenv("TMPDIR");
    vdisk_queue *q = test_queue(VDISK_QUEUE_AUTO);
    char name[PATH_MAX], *buf = vdisk_alloc_buffer(CLUSTER);
    uint64_t seed = 5, before;
    vdisk *v;

    snprintf(name, sizeof name, "%s/memory-%d", tmp ? tmp : "/tmp", (int)getpid());
    memset(buf, 1, CLUSTER);
    OK(vdisk_create(name, &create));
    if (!reset_peak()) {
        unlink(name);
        skip(); /* no /proc */
    }
    before = status_kib("VmRSS:");
    OK(vdisk_open(name, &how, &v));
    write_anywhere(q, v, buf, &seed);
    OK(vdisk_sync(v));
    print_message("%llu KiB, at most %llu, of them %u for the cache\n",
                  (unsigned long long)(status_kib("VmRSS:") - before) >> 10,
                  (unsigned long long)(status_kib("VmHWM:") - before) >> 10, CACHE >> 10);
    assert_in_range(status_kib("VmHWM:") - before, 0, 2 * CACHE + besides);
    assert_in_range(status_kib("VmRSS:") - before, 0, CACHE + besides);
    vdisk_queue_destroy(q);
    OK(vdisk_close(v));
    unlink(name);
    free(buf);
}

int main(void)
{
#if defined __SANITIZE_ADDRESS__ || defined __SANITIZE_THREAD__
    puts("skipped: a sanitizer's memory is not the image's");
    return 77;
#endif
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_a_flush_took_is_given_back),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
