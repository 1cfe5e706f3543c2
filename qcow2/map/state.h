/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the room of the mapping has of an open image. "Locked": by meta->lock. */
#ifndef QCOW2_MAP_STATE_H
#define QCOW2_MAP_STATE_H

#include "qcow2/meta/meta.h"
#include "qcow2/space/space.h"

enum {
    Q2_ZONES = 16,
    Q2_DEFLATERS = 16, /* idle encoders kept */
};

struct q2_map {
    /* Fixed at open. */
    struct q2_meta    *meta;
    struct q2_space   *space;

    /* Own synchronisation. */
    struct range_locks guest_ranges[Q2_ZONES]; /* allocating writes, zeros, discards: q2_zone() */

    /* Locked. */
    struct list        l2_making; /* tables on their way: l2_table.c */
    struct list        compressing; /* compressed writes that have no place yet: compressed_write.c */
    uint64_t           placed_end;  /* guest offset: there the last of them that has its place ends */
    struct q2_deflater *deflaters[Q2_DEFLATERS];
    unsigned           deflaters_count;
    unsigned           asserted;  /* q2_map_assert(): the zone that comes next */
};

/* Empty, over the same image's metadata and space; and back what it holds. */
void q2_map_state_init(struct q2_map *map, struct q2_meta *meta, struct q2_space *space);
void q2_map_state_finish(struct q2_map *map);

/* l2_table.c: debug builds, with the lock held: does all of it agree? */
#ifdef NDEBUG
static inline void q2_map_assert(struct q2_map *map) {}
#else
void q2_map_assert(struct q2_map *map);
#endif

/* range_lock_give_up() in whichever list it is. */
bool q2_map_give_up(struct q2_map *map, const void *owner);

/*
 * Whole clusters, which lie in one slice's range, are locked in one of several lists, by slice, so that threads
 * which work in different places do not meet.
 */
static inline struct range_locks *q2_zone(struct q2_map *map, uint64_t guest_offset)
{
    uint64_t hash = q2_slice_key(map->meta, guest_offset) * UINT64_C(0x9e3779b97f4a7c15);

    return &map->guest_ranges[hash >> 60 & (Q2_ZONES - 1)];
}

#endif
