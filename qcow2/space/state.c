/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The struct of the room: made empty, told of the file, given back. */
#include "qcow2/space/state.h"

#include <stdlib.h>

void q2_space_state_init(struct q2_space *space, struct q2_meta *meta)
{
    space->meta = meta;
    list_init(&space->reclaim_waiting);
    list_init(&space->trim_waiting);
    list_init(&space->tables_waiting);
    for (unsigned i = 0; i < Q2_LEASES; i++)
        list_init(&space->leases[i].waiting);
}

void q2_space_state_setup(struct q2_space *space)
{
    const struct q2_geometry *g = &space->meta->geo;
    struct backend *b = space->meta->v->file;
    uint64_t max_clusters = (Q2_MAX_HOST_OFFSET + 1) >> g->cluster_bits;

    space->limit_clusters = b->caps & BACKEND_GROWS ? max_clusters : backend_size(b) >> g->cluster_bits;
    space->zero_new = (b->caps & (BACKEND_GROWS | BACKEND_ZERO_NEW)) == (BACKEND_GROWS | BACKEND_ZERO_NEW);
    space->zero_from = q2_cluster_up(g, backend_size(b));
    /* Who wrote the file last may not have synced it. The end of a device does not move. */
    space->durable_end = b->caps & BACKEND_GROWS ? 0 : backend_size(b);
    space->appended_from = space->zero_from >> g->cluster_bits; /* the last may be there in part */
}

void q2_space_state_finish(struct q2_space *space)
{
    for (int i = 0; i < Q2_FREED_STAGES; i++)
        free(space->freed[i].list);
    q2_cluster_set_finish(&space->sound);
}
