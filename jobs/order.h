/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What has been digested, in the order of the volume: blocks are entered as they are begun, become known in any
 * order, and are told, and go into the digest of digests, from the first one on.
 *
 * Invariants
 *  1. An entry stands for one block, for a run of blocks that are zeros, or one of blocks that were known before.
 *  2. Entries are told in order, each block once.
 */
#ifndef JOBS_ORDER_H
#define JOBS_ORDER_H

#include "jobs/digest.h"

enum { ORDER_ENTRIES = 4096 /* a power of two */, ORDER_AT_ONCE = 65536 };

struct order_entry {
    uint64_t count; /* of blocks; less what has been told */
    bool     known, zeros;
    uint8_t  digest[VDISK_DIGEST_SIZE];
};

struct order {
    uint64_t               first, end; /* numbers of entries; a number's place is modulo ORDER_ENTRIES */
    uint64_t               told;       /* blocks */
    gcry_md_hd_t           all;
    vdisk_block_digest_fn *tell;
    void                  *tell_arg;
    struct order_entry     entries[ORDER_ENTRIES];
};

/* 0 or -ENOMEM. */
int order_init(struct order *o, vdisk_block_digest_fn *tell, void *tell_arg);
void order_free(struct order *o);

static inline bool order_is_full(const struct order *o)
{
    return o->end - o->first == ORDER_ENTRIES;
}

static inline bool order_is_empty(const struct order *o)
{
    return o->end == o->first;
}

/* The number of a new entry for one block. There is room. */
uint64_t order_enter(struct order *o);
void order_set(struct order *o, uint64_t number, const uint8_t digest[VDISK_DIGEST_SIZE]);

/* `count` blocks of zeros. There is room. */
void order_enter_zeros(struct order *o, uint64_t count, const uint8_t digest[VDISK_DIGEST_SIZE]);

/* `count` blocks that have this digest, whatever is in them. There is room, and nothing waits to be told. */
void order_enter_known(struct order *o, uint64_t count, const uint8_t digest[VDISK_DIGEST_SIZE]);

/*
 * Tell what is known of the first ones, of ORDER_AT_ONCE blocks at most. 1: some, perhaps there are more; 0: the
 * first one is not known; or the error of who is told.
 */
int order_tell(struct order *o);

#endif
