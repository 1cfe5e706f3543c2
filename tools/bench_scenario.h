/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Volumes that `vdisk-io bench` makes itself, to measure one part of the engine without a disk. */
#ifndef TOOLS_BENCH_SCENARIO_H
#define TOOLS_BENCH_SCENARIO_H

#include <vdisk.h>

/* `cluster_size` 0: the scenario's default. 0, or -1 with a message printed. */
typedef int bench_scenario_fn(uint64_t size, uint32_t cluster_size, uint64_t cache_bytes, vdisk **ret_vdisk);

struct bench_scenario {
    const char        *name;
    bench_scenario_fn *open;
    uint64_t           size; /* when none is given */
    bool               once; /* each block is used once: the load ends when all have been */
};

/*
 * "lookup": a qcow2 image of `size` bytes with all clusters mapped, its metadata in memory and its data file on
 * the null backend: what is left is the engine.
 * "first-touch": a sparse qcow2 image in memory that the kernel has made ready: what is left is allocation.
 * NULL: no such scenario.
 */
const struct bench_scenario *bench_scenario_find(const char *name);

#endif
