/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Happy path: no cluster is found twice, and nothing is kept.
 * Failure modes: the sets are bounded; what they do not hold is not known, and treated as any other cluster is.
 */
#include "qcow2/meta/twice.h"

#include "qcow2/format/format.h"
#include "qcow2/mutant.h"

void q2_twice_note(struct q2_meta *meta, uint64_t cluster, uint64_t n)
{
    uint64_t end = cluster + n, first, stop;

    assert_locked(&meta->lock);
    if (MUTANT(FORGET_TWICE))
        return;
    for (; cluster < end; cluster = stop) {
        first = q2_cluster_set_next(&meta->mapped, cluster, end, &stop);
        if (first == end)
            break;
        q2_cluster_set_add(&meta->twice, first, stop - first);
        meta->twice_grew = true;
    }
}

/* Does some entry lead there? */
static bool leads_there(struct q2_meta *meta, const struct q2_slot *s)
{
    const char *slice = q2_slot_data(&meta->l2, s);

    for (uint32_t i = 0; i < meta->l2.slice_size; i += meta->geo.l2_entry_size) {
        struct q2_mapping m = q2_entry_decode(&meta->geo, q2_l2_entry_get(&meta->geo, slice + i).word, 0);
        if (m.type != Q2_CLUSTER_COMPRESSED && m.has_host &&
            q2_twice_has(meta, m.host_offset >> meta->geo.cluster_bits))
            return true;
    }
    return false;
}

void q2_twice_spread(struct q2_meta *meta)
{
    uint64_t host_offset;

    assert_locked(&meta->lock);
    if (!meta->twice_grew)
        return;
    meta->twice_grew = false;
    for (uint32_t i = 0; i < meta->l2.slots; i++)
        if (meta->l2.slot[i].state == Q2_SLOT_VALID && leads_there(meta, &meta->l2.slot[i]))
            atomic_store_explicit(&meta->l2.slot[i].suspect, true, memory_order_relaxed);
    for (uint64_t key = 0; key < meta->l2.linear_keys; key++)
        if (q2_linear_host(&meta->l2, key, &host_offset) &&
            q2_twice_meets(meta, host_offset >> meta->geo.cluster_bits, 1ull << meta->slice_entries_bits))
            atomic_store_explicit(&meta->l2.linear[key], 0, memory_order_release);
}
