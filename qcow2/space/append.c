/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Host clusters in large pieces behind the end of the file, with new refcount blocks that say that all of them are
 * in use: no search, and no refcount raised one by one. Who asks for a piece writes its metadata (format/layout.h)
 * and enters it, or gives it up.
 *
 * Happy path: where the first new block's range begins, behind the end of the file and behind all blocks that
 * there are, a place is kept; when its metadata has been written the refcount table gets the new blocks.
 * Failure modes: the refcount table is too short (reftable.c makes it longer, for all that is to come); somebody
 * else appends; storage cannot grow, has been full, or does not read as zeros; entries lead there: no place.
 *
 * Invariants.
 *  1. One piece at a time, [append_from, append_end), to the end of its last block's range: those who look for
 *     clusters pass it over (alloc.c), so nobody makes a block for it; the end of the file stays (trim.c).
 *  2. A block is in the refcount table, in memory, only when it has been written; the next flush makes it durable
 *     before the table (flush rule 3: `blocks_need_sync`).
 *  3. The refcount table may become longer while a piece is written; it does not while one is entered.
 */
#include "qcow2/space/append.h"

#include "qcow2/mutant.h"
#include "qcow2/space/alloc.h"

/* With the lock held: behind all that is in use, and all that has a block. */
static uint64_t first_block(const struct q2_space *space)
{
    const struct q2_meta *meta = space->meta;
    uint64_t first = div_up(space->zero_from, q2_refblock_span(&meta->geo)), block = meta->reftable_entries;

    while (block > first && q2_reftable_offset(meta->reftable[block - 1]) == 0)
        block--;
    return max_u64(first, block);
}

uint64_t q2_append_gap(struct q2_space *space)
{
    uint64_t end, gap;

    pthread_mutex_lock(&space->meta->lock);
    end = first_block(space) << space->meta->geo.refblock_bits;
    gap = end - (space->zero_from >> space->meta->geo.cluster_bits);
    pthread_mutex_unlock(&space->meta->lock);
    return gap;
}

static bool is_possible(const struct q2_space *space)
{
    return space->zero_new && space->append_end == 0 && !atomic_load(&space->host_full) &&
           !space->meta->data_file;
}

/* guard.h, invariant 1. */
static void note_metadata(struct q2_space *space, const struct q2_layout *l)
{
    q2_guard_add(space->meta, l->first_cluster, l->refblocks, Q2_META_REFBLOCK);
    q2_guard_add(space->meta, l->first_cluster + l->refblocks, l->l2_tables, Q2_META_L2);
}

static void forget_metadata(struct q2_space *space, const struct q2_layout *l)
{
    q2_guard_remove(space->meta, l->first_cluster, l->refblocks, Q2_META_REFBLOCK);
    q2_guard_remove(space->meta, l->first_cluster + l->refblocks, l->l2_tables, Q2_META_L2);
}

/*
 * The last entry that a longer refcount table should have for `blocks` more: it begins where the old one ends, and
 * that takes blocks, too.
 */
static uint64_t last_block(const struct q2_space *space, uint64_t first, uint64_t blocks)
{
    const struct q2_geometry *g = &space->meta->geo;
    uint64_t entries = 2 * (max_u64(first, space->meta->reftable_entries) + blocks);
    uint64_t own = 1 + div_up(q2_clusters(g, entries * Q2_REFTABLE_ENTRY_SIZE), q2_refblock_entries(g) - 1);

    return max_u64(first, min_u64(max_u64(first, space->meta->reftable_entries + own) + blocks,
                                  Q2_MAX_REFTABLE_SIZE / Q2_REFTABLE_ENTRY_SIZE) - 1);
}

/* With the lock held. What the refcount table reaches comes first: a longer one lies behind that. */
static enum q2_append_place place(struct q2_space *space, uint64_t guest_clusters, struct q2_layout *ret,
                                  uint64_t *ret_block)
{
    const struct q2_geometry *g = &space->meta->geo;
    uint64_t first = first_block(space), blocks = q2_append_blocks(g, guest_clusters);
    uint64_t there = space->meta->reftable_entries - min_u64(first, space->meta->reftable_entries);

    if (!is_possible(space))
        return Q2_APPEND_NO_PLACE;
    if (!q2_layout_append(g, guest_clusters, first << g->refblock_bits, min_u64(blocks, there), ret)) {
        *ret_block = last_block(space, first, blocks);
        return Q2_APPEND_NEEDS_TABLE;
    }
    if (q2_layout_end(ret) >> g->cluster_bits > space->limit_clusters ||
        !q2_guard_all_free(space->meta, ret->first_cluster, ret->total_clusters, true))
        return Q2_APPEND_NO_PLACE;
    return Q2_APPEND_PLACED;
}

enum q2_append_place q2_append_begin(struct q2_space *space, uint64_t guest_clusters, struct q2_layout *ret,
                                     uint64_t *ret_block)
{
    enum q2_append_place result;

    pthread_mutex_lock(&space->meta->lock);
    assert(!space->trimming);
    result = place(space, guest_clusters, ret, ret_block);
    if (result == Q2_APPEND_PLACED) {
        space->append_from = ret->first_cluster;
        space->append_end = ret->first_cluster + (ret->refblocks << space->meta->geo.refblock_bits);
        note_metadata(space, ret);
        q2_note_end(space, q2_layout_end(ret)); /* whatever becomes of it, it is handed out */
    }
    pthread_mutex_unlock(&space->meta->lock);
    return result;
}

static void end_piece(struct q2_space *space, uint64_t free_from)
{
    space->append_from = space->append_end = 0;
    q2_free_from(space, free_from);
}

void q2_append_enter(struct q2_space *space, const struct q2_layout *l)
{
    struct q2_meta *meta = space->meta;
    uint64_t first = q2_reftable_index(&meta->geo, l->first_cluster);
    uint64_t slices = meta->geo.cluster_size / meta->refcounts.slice_size;

    assert_locked(&meta->lock);
    assert(space->append_from == l->first_cluster && first + l->refblocks <= meta->reftable_entries);
    for (uint64_t i = 0; i < l->refblocks; i++) {
        assert(q2_reftable_offset(meta->reftable[first + i]) == 0);
        meta->reftable[first + i] = l->refblocks_offset + (i << meta->geo.cluster_bits);
        q2_table_dirty(&meta->reftable_pages, first + i);
    }
    q2_cluster_set_add(&space->sound, first * slices, l->refblocks * slices);
    meta->blocks_need_sync |= !MUTANT(BLOCKS_UNSYNCED);
    end_piece(space, l->first_cluster + l->total_clusters);
}

void q2_append_give_up(struct q2_space *space, const struct q2_layout *l, bool zero)
{
    uint64_t end = l->first_cluster + l->total_clusters;

    assert_locked(&space->meta->lock);
    assert(space->append_from == l->first_cluster);
    forget_metadata(space, l);
    if (zero && space->zero_from == q2_layout_end(l))
        space->zero_from = l->refblocks_offset;
    else if (zero)
        q2_note_zero(space, l->first_cluster, end);
    end_piece(space, l->first_cluster);
}
