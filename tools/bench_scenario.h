/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Volumes that `vdisk-io bench` makes itself, to measure one part of the engine without a disk. */
#ifndef TOOLS_BENCH_SCENARIO_H
#define TOOLS_BENCH_SCENARIO_H

#include "engine/vdisk.h"

/*
 * "lookup": a qcow2 image of `size` bytes with all clusters mapped, its metadata in memory and its data file on
 * the null backend: what is left is the engine. `cluster_size` 0: the default. 0, or -1 with a message printed.
 */
int bench_open_lookup(uint64_t size, uint32_t cluster_size, vdisk **ret_vdisk);

#endif
