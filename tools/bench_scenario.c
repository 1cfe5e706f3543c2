/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tools/bench_scenario.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "backends/memory.h"
#include "engine/create.h"
#include "engine/volume.h"
#include "qcow2/qcow2.h"
#include "tools/cli.h"

static int create_in_memory(struct backend *b, struct vdisk_create_opts *opts)
{
    struct vdisk_queue_opts queue = {.size = sizeof queue};
    vdisk_queue *q;
    int rc;

    rc = vdisk_queue_create(&queue, &q);
    if (rc < 0)
        return rc;
    rc = create_on(&qcow2_driver, b, opts, q);
    vdisk_queue_destroy(q);
    return rc;
}

static int open_in_memory(const struct memory_options *memory, struct vdisk_create_opts *create,
                          const struct vdisk_open_opts *how, vdisk **ret_vdisk)
{
    struct backend *b;

    if (memory_backend_create_with("memory:bench", memory, &b) < 0) {
        cli_library_error();
        return -1;
    }
    if (create_in_memory(b, create) < 0) {
        cli_library_error();
        backend_close(b);
        return -1;
    }
    if (vdisk_open_backend(b, how, ret_vdisk) < 0) {
        cli_library_error();
        return -1;
    }
    return 0;
}

static int open_lookup(uint64_t size, uint32_t cluster_size, uint64_t cache_bytes, vdisk **ret_vdisk)
{
    char data_file[32], zeros[40];
    struct vdisk_create_opts create = {
        .size = sizeof create, .format = "qcow2", .virtual_size = size, .cluster_size = cluster_size,
        .preallocation = VDISK_PREALLOC_METADATA, .data_file = zeros,
    };
    struct vdisk_open_opts how = {
        .size = sizeof how, .format = "qcow2", .data_file = data_file, .flags = VDISK_OPEN_RDWR,
        .cache_bytes = cache_bytes,
    };
    struct memory_options memory = {.size = 0};

    /* All of the mapping stays: 8 bytes of it for each cluster, and some slack. */
    if (cache_bytes == 0)
        how.cache_bytes = size / (cluster_size != 0 ? cluster_size : 65536) * 16 + (32u << 20);
    /* Made where new storage reads as zeros, or else all clusters would be marked as zeros, and not be read. */
    snprintf(data_file, sizeof data_file, "null:%" PRIu64, size);
    snprintf(zeros, sizeof zeros, "%s,zeroes", data_file);
    return open_in_memory(&memory, &create, &how, ret_vdisk);
}

static int open_first_touch(uint64_t size, uint32_t cluster_size, uint64_t cache_bytes, vdisk **ret_vdisk)
{
    struct vdisk_create_opts create = {
        .size = sizeof create, .format = "qcow2", .virtual_size = size,
        .cluster_size = cluster_size ? cluster_size : 4096,
    };
    struct vdisk_open_opts how = {
        .size = sizeof how, .format = "qcow2", .flags = VDISK_OPEN_RDWR, .cache_bytes = cache_bytes,
    };
    struct memory_options memory = {.ready = size + size / 16 + (256u << 20)};

    return open_in_memory(&memory, &create, &how, ret_vdisk);
}

static const struct bench_scenario scenarios[] = {
    {.name = "lookup", .open = open_lookup, .size = UINT64_C(64) << 30},
    {.name = "first-touch", .open = open_first_touch, .size = UINT64_C(2) << 30, .once = true},
};

const struct bench_scenario *bench_scenario_find(const char *name)
{
    for (size_t i = 0; i < sizeof scenarios / sizeof scenarios[0]; i++)
        if (strcmp(scenarios[i].name, name) == 0)
            return &scenarios[i];
    return NULL;
}
