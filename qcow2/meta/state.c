/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The struct of the room: made empty, given back. */
#include "qcow2/meta/state.h"

#include <stdlib.h>

#include "engine/short_lock.h"

void q2_meta_state_init(struct q2_meta *meta, vdisk *v)
{
    meta->v = v;
    short_lock_init(&meta->lock);
    range_locks_init(&meta->structure);
    q2_packed_init(&meta->packed);
}

static void free_l1(struct q2_l1 *l1)
{
    while (l1) {
        struct q2_l1 *next = l1->next;
        free(l1);
        l1 = next;
    }
}

void q2_meta_state_finish(struct q2_meta *meta)
{
    q2_cache_finish(&meta->l2);
    q2_cache_finish(&meta->refcounts);
    q2_table_finish(&meta->l1_pages);
    q2_table_finish(&meta->reftable_pages);
    free_l1(atomic_load(&meta->l1));
    free_l1(meta->l1_retired);
    free(meta->reftable);
    q2_packed_finish(&meta->packed);
    q2_cluster_set_finish(&meta->own_freed);
    q2_cluster_set_finish(&meta->mapped);
    q2_cluster_set_finish(&meta->targets);
    q2_cluster_set_finish(&meta->judged);
    q2_cluster_set_finish(&meta->twice);
    q2_meta_finish(&meta->places);
    range_locks_finish(&meta->structure);
    pthread_mutex_destroy(&meta->lock);
    q2_header_free(&meta->header);
}
