/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef QCOW2_L2_TABLE_H
#define QCOW2_L2_TABLE_H

#include "qcow2/map/state.h"

/* Is there an L2 table for the guest offset that may be changed (not shared with a snapshot)? */
static inline bool q2_l2_table_ready(struct q2_map *map, uint64_t guest_offset)
{
    uint64_t entry = q2_l1_get(map->meta, guest_offset >> (map->meta->geo.cluster_bits + map->meta->geo.l2_bits));

    return (entry & Q2_L1_OFFSET) != 0 && (entry & Q2_COPIED);
}

/*
 * Make it so; as the call of an await: a new table of zeros, or a copy of the one that is shared. op->rc: 0,
 * -ENOSPC, -ENOMEM, of the I/O.
 */
void q2_l2_table_make(struct q2_map *map, uint64_t guest_offset, struct op *op);

#endif
