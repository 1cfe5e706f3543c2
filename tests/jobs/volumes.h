/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Volumes of several formats, what they are filled with, and what they are to read: for tests of copies. */
#ifndef TESTS_VOLUMES_H
#define TESTS_VOLUMES_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/jobs/jobs.h"
#include "tests/lib/rng.h"

enum { VOLUMES_PIECE = 2 << 20 };

struct format {
    const char *format;
    uint32_t    cluster_size, version, refcount_bits;
    bool        extended_l2, data_file;
};

static const struct format formats[] = {
    {.format = "raw"},
    {.format = "qcow2"},
    {.format = "qcow2", .cluster_size = 512, .version = 2},
    {.format = "qcow2", .cluster_size = 2 << 20, .refcount_bits = 1},
    {.format = "qcow2", .cluster_size = 65536, .extended_l2 = true, .refcount_bits = 64},
    {.format = "qcow2", .data_file = true},
};

static inline void make(const char *name, const struct format *f, uint64_t size, const char *backing)
{
    char data[4096];
    struct vdisk_create_opts opts = {
        .size = sizeof opts, .format = f->format, .virtual_size = size, .cluster_size = f->cluster_size,
        .version = f->version, .refcount_bits = f->refcount_bits, .extended_l2 = f->extended_l2,
        .backing_file = backing, .backing_fmt = backing ? "qcow2" : NULL};

    snprintf(data, sizeof data, "%s.data", name);
    if (f->data_file)
        opts.data_file = data;
    CHECK_OK(vdisk_create(name, &opts));
}

static inline vdisk *open_as(const char *name, const struct format *f, bool writable)
{
    struct vdisk_open_opts opts = {.size = sizeof opts, .flags = writable ? VDISK_OPEN_RDWR : 0,
                                   .format = f->format};
    vdisk *v;

    CHECK_OK(vdisk_open(name, &opts, &v));
    return v;
}

/* Runs of data, of zeros that were written, and of nothing, of all lengths. */
static inline void fill(struct rng *r, vdisk *v, uint8_t *model, uint64_t size)
{
    uint8_t *buf = vdisk_alloc_buffer(1 << 20);

    for (uint64_t at = 0, n; at < size; at += n) {
        n = min_u64(size - at, 512 * (1 + rng_below(r, rng_below(r, 4) ? 64 : 2048)));
        switch (rng_below(r, 4)) {
        case 0:
            memset(buf, 0, n);
            break;
        case 1:
            memset(buf, (int)(1 + rng_below(r, 255)), n);
            break;
        case 2: /* zeros within */
            memset(buf, 0, n);
            for (uint64_t i = 0; i < n; i += 512 * (1 + rng_below(r, 40)))
                buf[i] = 1;
            break;
        default:
            continue;
        }
        memcpy(model + at, buf, n);
        CHECK_OK(vdisk_pwrite(v, buf, n, at, 0));
    }
    free(buf);
}

static inline void expect(vdisk *v, const uint8_t *model, uint64_t size)
{
    uint8_t *buf = vdisk_alloc_buffer(VOLUMES_PIECE);

    for (uint64_t at = 0, n; at < size; at += n) {
        n = min_u64(VOLUMES_PIECE, size - at);
        CHECK_OK(vdisk_pread(v, buf, n, at));
        uint64_t i = test_difference(buf, model + at, n);
        if (i != UINT64_MAX)
            test_fail(__FILE__, __LINE__, "byte %llu is %u, not %u", (unsigned long long)(at + i), buf[i],
                      model[at + i]);
    }
    free(buf);
}

#endif
