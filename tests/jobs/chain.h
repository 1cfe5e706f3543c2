/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Small chains on simulated disks, with a model of what their top reads: for tests of commit and rebase. */
#ifndef TESTS_JOBS_CHAIN_H
#define TESTS_JOBS_CHAIN_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backends/lab/vdisk-lab.h"
#include "tests/jobs/jobs.h"

enum { CHAIN_SIZE = (300 << 10) + 512, CHAIN_LAYERS = 4, CHAIN_PIECES = 6, CHAIN_NAME = 512 };

struct chain_kind {
    const char *what;
    uint32_t    cluster_size, version;
    bool        extended_l2, raw_base;
};

static const struct chain_kind chain_kinds[] = {
    {.what = "raw base", .cluster_size = 4096, .raw_base = true},
    {.what = "small clusters", .cluster_size = 512},
    {.what = "subclusters", .cluster_size = 16384, .extended_l2 = true},
    {.what = "version 2", .cluster_size = 4096, .version = 2},
};

struct chain {
    const struct chain_kind *kind;
    const char              *prefix;  /* of the names of its layers: "sim:l": sim:l0, the lowest, ... */
    unsigned                 layers;
    uint64_t                 sizes[CHAIN_LAYERS];
    uint8_t                  model[CHAIN_SIZE]; /* what the top reads */
};

static inline const char *chain_name(const struct chain *c, unsigned layer, char name[CHAIN_NAME])
{
    snprintf(name, CHAIN_NAME, "%s%u", c->prefix, layer);
    return name;
}

static inline const char *chain_format(const struct chain *c, unsigned layer)
{
    return layer == 0 && c->kind->raw_base ? "raw" : "qcow2";
}

/* One layer on top of those that are there; some of it written, some zeroed, by `r`. */
static inline int chain_add(struct chain *c, uint64_t size, struct rng *r)
{
    struct vdisk_create_opts opts = {.size = sizeof opts, .virtual_size = size};
    struct vdisk_open_opts how = {.size = sizeof how, .flags = VDISK_OPEN_RDWR};
    unsigned layer = c->layers;
    char name[CHAIN_NAME], below[CHAIN_NAME];
    vdisk *v = NULL;
    int rc, closed;

    opts.format = how.format = chain_format(c, layer);
    if (strcmp(opts.format, "qcow2") == 0) {
        opts.cluster_size = c->kind->cluster_size;
        opts.version = c->kind->version;
        opts.extended_l2 = c->kind->extended_l2;
    }
    if (layer > 0) {
        opts.backing_file = chain_name(c, layer - 1, below);
        opts.backing_fmt = chain_format(c, layer - 1);
        if (size > c->sizes[layer - 1])
            memset(c->model + c->sizes[layer - 1], 0, size - c->sizes[layer - 1]);
    }
    rc = vdisk_create(chain_name(c, layer, name), &opts);
    if (rc == 0)
        rc = vdisk_open(name, &how, &v);
    for (unsigned i = 0; i < CHAIN_PIECES && rc == 0; i++) {
        uint64_t at = 512 * rng_below(r, size / 512), len = min_u64(size - at, 512 * (1 + rng_below(r, 60)));
        uint8_t byte = (uint8_t)(rng_below(r, 3) ? 1 + rng_below(r, 250) : 0);

        memset(c->model + at, byte, len);
        if (byte)
            rc = vdisk_pwrite(v, c->model + at, len, at, 0);
        else
            rc = vdisk_pzero(v, len, at, VDISK_REQ_UNMAP);
    }
    closed = vdisk_close(v);
    c->sizes[c->layers++] = size;
    return rc < 0 ? rc : closed;
}

/* A volume reads what it is to read: `want`, then zeros. */
static inline void chain_expect(const char *name, const char *format, const uint8_t *want, uint64_t len)
{
    struct vdisk_open_opts how = {.size = sizeof how, .format = format};
    uint8_t *buf = vdisk_alloc_buffer(CHAIN_SIZE);
    uint64_t size, n;
    vdisk *v;

    CHECK_OK(vdisk_open(name, &how, &v));
    size = vdisk_size(v);
    CHECK(size >= len && size <= CHAIN_SIZE);
    CHECK_OK(vdisk_pread(v, buf, size, 0));
    CHECK_OK(vdisk_close(v));
    n = test_difference(buf, want, min_u64(size, len));
    if (n != UINT64_MAX)
        test_fail(__FILE__, __LINE__, "%s: byte %llu is %u, not %u", name, (unsigned long long)n, buf[n], want[n]);
    free(buf);
}

/* No worse than leaks. */
static inline void chain_sound(const char *name)
{
    struct vdisk_check_opts opts = {.size = sizeof opts, .format = "qcow2"};
    struct vdisk_check_result r = {.size = sizeof r};
    vdisk_job *j;

    CHECK_OK(vdisk_job_check(name, &opts, &j));
    CHECK_OK(vdisk_job_run(j));
    CHECK_OK(vdisk_job_get_check_result(j, &r));
    CHECK_INT(r.corruptions, 0);
    CHECK_INT(r.check_errors, 0);
    CHECK_OK(vdisk_job_free(j));
}

/* All qcow2 layers are sound, and the top reads the model. */
static inline void chain_check(const struct chain *c)
{
    char name[CHAIN_NAME];

    for (unsigned i = 0; i < c->layers; i++)
        if (strcmp(chain_format(c, i), "qcow2") == 0)
            chain_sound(chain_name(c, i, name));
    chain_expect(chain_name(c, c->layers - 1, name), "qcow2", c->model, c->sizes[c->layers - 1]);
}

#endif
