/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Memory that the kernel has been told of, so that it does not pin its pages for each request: a table of the
 * ring's, in pieces of 1 GiB, which is the most that a place in it takes.
 *
 * Invariants.
 *  1. `regions` of a queue has those with places in the table first, `regions_count` of them, then those that
 *     are only remembered: without a ring, or with a kernel that cannot change a table. I/O uses the first.
 *  2. A region that is to go is not found any more, and keeps its places until all I/Os that were prepared before
 *     have ended: those stand before the request that takes it away in `in_kernel`.
 *  3. A request that takes a region away counts in `worker_jobs` until it is done: what it waits for are I/Os, but
 *     it is none.
 */
#ifndef ENGINE_REGIONS_H
#define ENGINE_REGIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    REGIONS_MAX = 64,
    REGION_PIECE_BITS = 30,
    REGION_PLACES = 4096, /* of the table: 4 TiB */
};

_Static_assert(REGIONS_MAX <= REGION_PLACES, "each region may be registered, if it is one piece");

struct vdisk_queue;

struct region {
    uintptr_t start;
    uint64_t  len;
    uint32_t  place; /* of its first piece */
};

/* What is needed when the table changes: made on first need. */
struct region_table {
    bool    sparse; /* the kernel's table has REGION_PLACES places, else none of its own can be added */
    bool    plain;  /* the kernel cannot do it */
    uint8_t taken[REGION_PLACES];
};

/* Which place holds the buffer; -1: none. `len` is not 0. */
static inline int region_find(const struct region *regions, unsigned count, const void *base, size_t len)
{
    for (unsigned i = 0; i < count; i++) {
        uint64_t offset = (uintptr_t)base - regions[i].start;
        if (offset >= regions[i].len || len > regions[i].len - offset)
            continue;
        if (offset >> REGION_PIECE_BITS != (offset + len - 1) >> REGION_PIECE_BITS)
            return -1;
        return (int)(regions[i].place + (uint32_t)(offset >> REGION_PIECE_BITS));
    }
    return -1;
}

/* What is to go goes, as far as nothing in the kernel uses it any more. Context: the queue's thread. */
void regions_retire(struct vdisk_queue *q);

/* There is no ring any more, nor soon its table. */
void regions_stop(struct vdisk_queue *q);

#endif
