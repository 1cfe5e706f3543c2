/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * L2 entries in the cache, by guest offset: where an entry is, and how it is read and changed there.
 *
 * Who reads without the lock does so between q2_read_begin() and q2_read_end(). Who changes holds the lock, and
 * calls q2_change_begin() before the first change and q2_change_end() after the last.
 */
#ifndef QCOW2_SLICE_H
#define QCOW2_SLICE_H

#include "qcow2/format/format.h"
#include "qcow2/meta/state.h"

/* The key, in meta->l2, of the slice with the entry of this guest offset. */
static inline uint64_t q2_slice_key(const struct q2_meta *meta, uint64_t guest_offset)
{
    return guest_offset >> meta->slice_guest_bits;
}

/* The end of its guest range. */
static inline uint64_t q2_slice_end(const struct q2_meta *meta, uint64_t guest_offset)
{
    return (q2_slice_key(meta, guest_offset) + 1) << meta->slice_guest_bits;
}

/* Where the guest range of the slice with this key begins. */
static inline uint64_t q2_slice_guest(const struct q2_meta *meta, uint64_t key)
{
    return key << meta->slice_guest_bits;
}

/* How many of them a table has. */
static inline uint64_t q2_slices_of_table(const struct q2_meta *meta)
{
    return meta->geo.cluster_size / meta->l2.slice_size;
}

/* Where on disk it is, in the table at this host offset. */
static inline uint64_t q2_slice_host(const struct q2_meta *meta, uint64_t table, uint64_t guest_offset)
{
    return table + (q2_slice_key(meta, guest_offset) & (q2_slices_of_table(meta) - 1)) * meta->l2.slice_size;
}

static inline uint32_t q2_slice_index(const struct q2_meta *meta, uint64_t guest_offset)
{
    return (uint32_t)((guest_offset >> meta->geo.cluster_bits) & ((1ull << meta->slice_entries_bits) - 1));
}

/* The entry's place in its slice, in bytes. */
static inline uint32_t q2_slice_place(const struct q2_meta *meta, uint64_t guest_offset)
{
    return q2_slice_index(meta, guest_offset) * meta->geo.l2_entry_size;
}

/* With the lock held: the slot, if the slice is in the cache. */
static inline struct q2_slot *q2_slice_find(struct q2_meta *meta, uint64_t guest_offset)
{
    assert_locked(&meta->lock);
    return q2_cache_find(&meta->l2, q2_slice_key(meta, guest_offset));
}

static inline bool q2_slice_is_suspect(const struct q2_slot *s)
{
    return atomic_load_explicit(&s->suspect, memory_order_relaxed);
}

/* Where there are no subclusters: all that the entry is. */
static inline uint64_t q2_slice_word(const struct q2_meta *meta, const struct q2_slot *s, uint64_t guest_offset)
{
    assert(!meta->geo.extended_l2);
    return q2_read_be64(&meta->l2, s, q2_slice_index(meta, guest_offset) * 8);
}

static inline struct q2_l2_entry q2_slice_get(const struct q2_meta *meta, const struct q2_slot *s,
                                              uint64_t guest_offset)
{
    uint32_t place = q2_slice_place(meta, guest_offset);
    bool has_bitmap = meta->geo.extended_l2;

    return (struct q2_l2_entry){q2_read_be64(&meta->l2, s, place),
                                has_bitmap ? q2_read_be64(&meta->l2, s, place + 8) : 0};
}

/* Between q2_change_begin() and q2_change_end(). */
static inline void q2_slice_put(struct q2_meta *meta, struct q2_slot *s, uint64_t guest_offset,
                                struct q2_l2_entry e)
{
    uint32_t place = q2_slice_place(meta, guest_offset);

    assert_locked(&meta->lock);
    q2_slot_put_be64(&meta->l2, s, place, e.word);
    if (meta->geo.extended_l2)
        q2_slot_put_be64(&meta->l2, s, place + 8, e.bitmap);
}

#endif
