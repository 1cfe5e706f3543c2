/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Metadata is never overwritten, whatever refcounts and entries say: of an image that is open for writing it is
 * known where metadata lies (metadata_map.h), and both doors ask. An L2 slice is judged when it enters the cache:
 * an entry that leads guest data into metadata makes the slice suspect, writes to it take the slow path, and that
 * one fails. Free clusters are judged before they are handed out. Who finds such a contradiction ends the trust in
 * the image: no more writes, and the header is marked corrupt, as QEMU does.
 *
 * Invariants.
 *  1. What is metadata is in the map before anything on disk refers to it, until nothing in memory does.
 *  2. No cluster becomes metadata that an entry in the cache leads to: what entries that were read led to is kept
 *     (`mapped`), bounded. Where nothing else is free the cache itself is looked through (`targets`).
 */
#ifndef QCOW2_GUARD_H
#define QCOW2_GUARD_H

#include "qcow2/meta/state.h"

/* Learn where metadata lies. Outside the loop; the tables are in memory. 0 or -errno, with a text. */
int q2_guard_init(struct q2_meta *meta, vdisk_queue *queue);

/* The L1 table and the refcount table, which are written where they are, must be nothing else: else no writes. */
void q2_guard_own_tables(struct q2_meta *meta);

/* With the lock held: [cluster, cluster + n) has become metadata of a kind, or is none of it any more. */
void q2_guard_add(struct q2_meta *meta, uint64_t cluster, uint64_t n, uint32_t kind);
void q2_guard_remove(struct q2_meta *meta, uint64_t cluster, uint64_t n, uint32_t kind);

/*
 * With the lock held: judge an L2 slice that has been read, and remember what it leads to. True: some entry must
 * not be followed, or not be written to.
 */
bool q2_guard_slice(struct q2_meta *meta, uint64_t guest_offset, uint64_t table_offset, const char *slice);

/*
 * With the lock held, of a suspect slice at `table_offset`: may the entry be changed, or what it leads to be
 * written? 0; -EIO: no, and the image is not trusted any more; -EFBIG: it leads past the end of everything.
 */
int q2_guard_entry(struct q2_meta *meta, uint64_t guest_offset, uint64_t table_offset, struct q2_l2_entry e);

/* An entry of the slice at `slice_offset` must not be followed: no trust any more. -EIO. */
int q2_guard_bad_entry(struct q2_meta *meta, uint64_t guest_offset, uint64_t slice_offset, uint64_t entry);

enum q2_guard_verdict { Q2_GUARD_FREE, Q2_GUARD_IN_USE, Q2_GUARD_METADATA };

/* With the lock held: a cluster has no refcount; may it be handed out, for metadata or for guest data? */
enum q2_guard_verdict q2_guard_free(struct q2_meta *meta, uint64_t cluster, bool for_metadata);

/* The same of n of them: true only if the answer is Q2_GUARD_FREE for each; false says nothing. */
bool q2_guard_all_free(struct q2_meta *meta, uint64_t cluster, uint64_t n, bool for_metadata);

/* With the lock held, invariant 2: may an entry in the cache lead into the range? */
bool q2_guard_leads_to(const struct q2_meta *meta, uint64_t cluster, uint64_t n);

/*
 * With the lock held: did an entry that was read lead into the range, to what has not come free since? Not even
 * guest data is put there then.
 */
bool q2_guard_led_to(const struct q2_meta *meta, uint64_t cluster, uint64_t n);

/* With the lock held: find out exactly. Takes time by the size of the cache: when there is no space otherwise. */
void q2_guard_recount(struct q2_meta *meta);

/* With the lock held: is there metadata in the range? Then no trust any more, since `what` should be done to it.
 */
bool q2_guard_refuses(struct q2_meta *meta, uint64_t cluster, uint64_t n, const char *what);

/* The L2 table that an L1 entry leads to is about to be copied; 0 or -EIO. With the lock held. */
int q2_guard_shared_table(struct q2_meta *meta, uint64_t guest_offset, uint64_t host_offset);

/* A refcount block is about to be read: 0, or -EIO if it lies where it cannot. With the lock held. */
int q2_guard_block(struct q2_meta *meta, uint64_t block, uint64_t host_offset);

/* The same when what entries lead to has been looked at: it is not guest data. With the lock held. */
int q2_guard_block_is_data(struct q2_meta *meta, uint64_t block, uint64_t host_offset);

/*
 * A slice of an L2 table, as it is on disk, is looked at by who wants to know all that entries lead to: as
 * q2_guard_slice(), but -EIO, and no trust any more, where one leads to a refcount block. With the lock held.
 */
int q2_guard_survey(struct q2_meta *meta, uint64_t guest_offset, uint64_t table_offset, const char *slice);

bool q2_guard_block_is_sound(struct q2_meta *meta, uint64_t host_offset);

/* Is the header to be marked corrupt? Any thread. */
static inline bool q2_guard_must_mark(struct q2_meta *meta)
{
    return atomic_load_explicit(&meta->must_mark, memory_order_relaxed);
}

/* Mark it; the call of an await. Not with the structure lock held. op->rc is not changed: it is what failed
 * before. */
void q2_guard_mark(struct q2_meta *meta, struct op *op);

/* Must this L2 entry not be followed? Damaged, or pointing into the image's own tables. Any thread. */
bool q2_entry_unusable(const struct q2_meta *meta, struct q2_l2_entry e, uint64_t guest_offset);

#endif
