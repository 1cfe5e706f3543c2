/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * All L2 tables are read, once in a handle's life, some at a time and only when somebody needs to know what their
 * entries lead to: who wants a free cluster that was there when the image was opened (alloc.c), or doubts a
 * refcount block (refcount_load.c).
 *
 * Invariants.
 *  1. A cluster without a refcount that was there when the image was opened, and that this handle has not freed
 *     itself, is not put to any use before all tables have been read: an entry may lead there, though the
 *     refcount says that none does. What has been read is in `mapped` (guard.h).
 *  2. Tables before the place where the survey is have been judged, or need not be: their slices have come
 *     through the cache, or were made here (twice.h, invariant 3).
 *  3. One op reads at a time, on the service's queue. Where that has no thread, nobody waits for the owner of
 *     another queue: he does without, or, in a hurry, reads all of them for himself.
 *
 * What remains. Of holes: of more guest data than the map of clusters holds (2 TiB with clusters of 64 KiB) what
 * is not in it is not known. What is not a hole is the tail: of a file, what lies behind its end; of storage that
 * cannot grow, what lies behind the last cluster that has a refcount (alloc.c). It is handed out before the survey
 * is over, unless the survey is short, and to pieces of a resize (append.c) even so: an entry that leads there,
 * where nothing was that is counted, and that has not been read by then, shows what is written there afterwards.
 */
#ifndef QCOW2_SURVEY_H
#define QCOW2_SURVEY_H

#include "qcow2/space/state.h"

/* With the lock held: have all tables been read that there is a reason to read? */
static inline bool q2_survey_is_over(const struct q2_space *space)
{
    assert_locked(&space->meta->lock);
    return space->tables_read || !space->meta->guarded || space->meta->data_file;
}

/*
 * With the lock held, invariant 1: how many of `n` > 0 clusters without a refcount, from `cluster` on, may be put
 * to use as far as the survey has come; 0: not the first. It looks no further than it has to.
 */
uint64_t q2_survey_known(const struct q2_space *space, uint64_t cluster, uint64_t n);

/* The same where that is none: how many of the `n` neither, from the first on, before one that may. */
uint64_t q2_survey_unknown(const struct q2_space *space, uint64_t cluster, uint64_t n);

/*
 * With the lock held: is it not over, but short enough to be read at once? Then it is known before anything is
 * handed out.
 */
bool q2_survey_is_short(struct q2_space *space);

/*
 * Go on with it; as the call of an await. It reads as much as takes one wait, more at once with `hurry`; or
 * nothing, where somebody reads who cannot be waited for. op->rc: 0, over or not; -ENOMEM; of the read: the next
 * one begins where this one failed; -EIO, and no trust any more, where guest data is a refcount block.
 */
void q2_survey(struct q2_space *space, bool hurry, struct op *op);

#endif
