/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Many clusters at once behind the end of the image's file, with their refcount blocks: append.c. */
#ifndef QCOW2_APPEND_H
#define QCOW2_APPEND_H

#include "qcow2/space/state.h"

/* How many clusters there are between the end of the file and the first that could be appended. Lock not held. */
uint64_t q2_append_gap(struct q2_space *space);

enum q2_append_place {
    Q2_APPEND_PLACED,
    Q2_APPEND_NEEDS_TABLE, /* the refcount table has to be longer: q2_refblock_make() of *ret_block, then again */
    Q2_APPEND_NO_PLACE     /* not here: clusters are to be taken as they are found */
};

/*
 * Keep a place for a piece with up to this many guest clusters, and say what lies where in it. Nobody takes
 * clusters there until q2_append_enter() or q2_append_give_up(). Context: with the structure lock held; short.
 */
enum q2_append_place q2_append_begin(struct q2_space *space, uint64_t guest_clusters, struct q2_layout *ret,
                                     uint64_t *ret_block);

/*
 * Its metadata has been written: the refcount table has the new blocks, and what they say holds. With the
 * structure lock held, and meta->lock.
 */
void q2_append_enter(struct q2_space *space, const struct q2_layout *l);

/* Nothing leads there, and nothing will. `zero`: all of it reads as zeros again. With meta->lock held. */
void q2_append_give_up(struct q2_space *space, const struct q2_layout *l, bool zero);

#endif
