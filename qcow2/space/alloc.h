/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Host clusters: taking free ones, giving back, refcounts. Rules about when what reaches the disk are in flush.c.
 *
 * Invariants.
 *  1. A cluster's refcount is raised in memory when it is taken, before anything can refer to it.
 *  2. Refcounts in memory only fall when the fall is durable elsewhere (flush.c, rule 5): a refcount slice may be
 *     written at any time.
 *  3. A freed cluster is not found free before its old users have gone (the volume's gate), nor before its host
 *     space has been punched (reclaim.c).
 *  4. Holes below the end are found in passing: a search loads a few refcount slices from the hint on and then
 *     takes what is behind the end; the next one goes on from there. All is searched before there is no space.
 *  5. A hole that was there when the image was opened is taken only when it is known where all entries lead, and
 *     until then what is behind the end is: survey.h, invariant 1.
 */
#ifndef QCOW2_ALLOC_H
#define QCOW2_ALLOC_H

#include "qcow2/space/state.h"

struct q2_run {
    uint64_t host_offset;
    uint64_t clusters;
    bool     zero;     /* reads as zeros: beyond the old end of the file, or punched */
};

/*
 * Take 1 to `want` neighbouring clusters, for a lease; as the call of an await. op->rc: 0, -ENOSPC, -ENOMEM, or
 * of the I/O. `exact`: all of them or none. Context: not with the structure lock held.
 */
void q2_alloc(struct q2_space *space, uint64_t want, bool exact, struct q2_run *ret_run, struct op *op);

/*
 * The same for one who holds the structure lock, and makes metadata of this kind of it (enum q2_meta_kind):
 * from now on it counts as that, until q2_guard_remove().
 */
void q2_alloc_structure(struct q2_space *space, uint64_t want, bool exact, uint32_t kind, struct q2_run *ret_run,
                        struct op *op);

/* With the lock held: of `want` clusters that are not needed yet, so many that others find some; at least one. */
uint64_t q2_alloc_ahead(const struct q2_space *space, uint64_t want);

/*
 * Nothing in memory refers to these any more: they become free once that is durable and nobody uses them. With the
 * lock held. Out of memory: they leak.
 */
void q2_drop_clusters(struct q2_space *space, uint64_t host_offset, uint64_t clusters);

/* The same; `untouched`: they were taken and never put to use, so that they are not punched. */
void q2_drop_run(struct q2_space *space, uint64_t host_offset, uint64_t clusters, bool untouched);

/* The same of a table: of one reference, if there are more. */
void q2_drop_table(struct q2_space *space, uint64_t host_offset, uint64_t clusters, uint32_t kind);

/*
 * The same of an L2 table that the L1 table shares with others (snapshots): it counts as one until this was the
 * last reference; then it is forgotten. With the lock.
 */
void q2_leave_l2_table(struct q2_space *space, uint64_t host_offset);
void q2_forget_left_table(struct q2_meta *meta, uint64_t cluster);

/* It was not the last one. */
void q2_lower_left_table(struct q2_meta *meta, uint64_t cluster);

/*
 * The same of what an L2 entry led to, which leads there no more: a cluster, all that compressed data touches, or
 * nothing. With an external data file nothing is ours to count.
 */
void q2_drop(struct q2_space *space, const struct q2_mapping *m);

/*
 * Taken, but never referred to (the write failed). With the lock held. What was in them may be there still, unless
 * they read as zeros.
 */
static inline void q2_return_run(struct q2_space *space, const struct q2_run *run)
{
    if (run->clusters > 0)
        q2_drop_run(space, run->host_offset, run->clusters, !run->zero);
}

/* The same of what was taken for metadata. */
void q2_return_structure(struct q2_space *space, const struct q2_run *run, uint32_t kind);

/*
 * The same, at once where the refcounts are at hand. `zero`: nothing was written there.
 */
void q2_return(struct q2_space *space, uint64_t cluster_index, uint64_t clusters, bool zero);

/*
 * Lower refcounts of neighbours by one, all of them in slice `s`. With the lock held. Those that come free are
 * ours from then on (trim.c), unless `untouched`. False: one was nought already, the image is damaged.
 */
bool q2_lower(struct q2_space *space, struct q2_slot *s, uint64_t cluster_index, uint64_t n, bool untouched);

/*
 * With the lock held: from this cluster index on there may be free clusters that searches have passed over.
 */
void q2_free_from(struct q2_space *space, uint64_t index);

/*
 * Where space is limited: has the device been extended? Then there is more from now on. Lock not held; short. In
 * the gate, as all that uses the space: a change of the whole frees it.
 */
bool q2_space_grew(struct q2_space *space);

/* The same with the lock held, and by what the backend knows: it does not look. */
bool q2_space_follow(struct q2_space *space);

/*
 * Load a refcount slice, and make sure that it is one (refcount_load.c); as the call of an await. Look it up again
 * afterwards.
 */
void q2_refcount_load(struct q2_space *space, uint64_t key, struct op *op);

/* With the lock held: a refcount slice that is in the cache and has been found to be one; else NULL. */
static inline struct q2_slot *q2_refcounts_find(struct q2_space *space, uint64_t key)
{
    return q2_cluster_set_has(&space->sound, key) ? q2_cache_find(&space->meta->refcounts, key) : NULL;
}

#endif
