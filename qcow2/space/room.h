/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Space for a write that found none, out of what waits to be freed; and memory, where much waits. See room.c. */
#ifndef QCOW2_ROOM_H
#define QCOW2_ROOM_H

#include "qcow2/space/state.h"

enum { Q2_FREED_MAX = 1 << 14 }; /* runs of freed clusters that are kept in mind without a flush */

/* With the lock held: so many that who frees more has them given back first. */
static inline bool q2_room_is_wanted(const struct q2_space *space)
{
    assert_locked(&space->meta->lock);
    return space->freed[Q2_FREED_NOW].count > Q2_FREED_MAX;
}

/* Is there anything that may become free? Takes the lock. */
bool q2_room_is_possible(struct q2_space *space);

/*
 * Make free what can be; as the call of an await. op->rc: 0, or of flushing or of loading refcounts; 0 says
 * nothing about how much there is. The caller holds no lock of guest clusters, no pin, no clusters, and looks
 * everything up again. `request`, with those merged into it, is the caller's, and not in the volume's gate
 * meanwhile; or NULL.
 */
void q2_room_make(struct q2_space *space, struct request *request, struct op *op);

#endif
