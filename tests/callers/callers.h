/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the tests of callers share. */
#ifndef TESTS_CALLERS_H
#define TESTS_CALLERS_H

#include <errno.h>

#include "engine/base/bits.h"
#include "engine/vdisk.h"
#include "tests/lib/caller.h"
#include "tests/lib/test.h"

enum { BLOCK = 4096, CLUSTER = 65536, CLUSTERS = 64 };

static const enum vdisk_queue_kind all_kinds[] = {VDISK_QUEUE_AUTO, VDISK_QUEUE_URING_DEFER, VDISK_QUEUE_URING,
                                                  VDISK_QUEUE_THREADS};

/* A qcow2 image of CLUSTERS clusters whose bytes are 0x5a. */
static inline const char *make_full_image(const char *name)
{
    const char *path = test_path("%s", name);
    struct vdisk_create_opts opts = {.size = sizeof opts, .format = "qcow2", .virtual_size = 1u << 30};
    struct vdisk_open_opts open_opts = {.size = sizeof open_opts, .flags = VDISK_OPEN_RDWR, .format = "qcow2"};
    char *data = vdisk_alloc_buffer(CLUSTER);
    vdisk *v;

    CHECK_OK(vdisk_create(path, &opts));
    CHECK_OK(vdisk_open(path, &open_opts, &v));
    memset(data, 0x5a, CLUSTER);
    for (uint64_t i = 0; i < CLUSTERS; i++)
        CHECK_OK(vdisk_pwrite(v, data, CLUSTER, i * CLUSTER, 0));
    CHECK_OK(vdisk_close(v));
    free(data);
    return path;
}

static inline vdisk *open_rw(const char *path)
{
    struct vdisk_open_opts opts = {.size = sizeof opts, .flags = VDISK_OPEN_RDWR, .format = "qcow2"};
    vdisk *v;

    CHECK_OK(vdisk_open(path, &opts, &v));
    return v;
}

/* Until `n` have ended; with `results`, what of each, by user_data. */
static inline void reap_all(vdisk_queue *q, unsigned n, int *results)
{
    struct vdisk_completion c;

    caller_wait_begin("reap(1)");
    while (n > 0) {
        int got = vdisk_reap(q, &c, 1, 1, NULL);
        if (got == -EINTR)
            continue;
        CHECK_OK(got);
        if (got > 0 && results)
            results[c.user_data] = c.result;
        else if (got > 0)
            CHECK_MSG(c.result == 0, "request %d: %s", (int)c.user_data, strerror(-c.result));
        n -= (unsigned)got;
    }
    caller_wait_end();
}

#endif
