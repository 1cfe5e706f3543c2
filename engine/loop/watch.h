/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What is under way, for a test that has waited in vain: the queues of the process and the ops on them. In builds
 * with assertions only; else nothing of it is left.
 *
 * Invariants.
 *  1. A queue's ops are listed by the queue's thread, ops begun elsewhere in slots of their own: no lock is taken
 *     and no access orders threads, which would hide races from ThreadSanitizer.
 *  2. What is said is true when nobody makes a step any more, and rough otherwise.
 */
#ifndef ENGINE_WATCH_H
#define ENGINE_WATCH_H

#include "engine/loop/op.h"

#ifdef NDEBUG

static inline void watch_queue(vdisk_queue *q) {}
static inline void watch_queue_gone(vdisk_queue *q) {}
static inline void watch_op(struct op *op) {}
static inline void watch_op_gone(struct op *op) {}
static inline void watch_each(void (*say)(const char *line))
{
    say("known in builds with assertions only");
}

#else

void watch_queue(vdisk_queue *q);
void watch_queue_gone(vdisk_queue *q);
void watch_op(struct op *op);
void watch_op_gone(struct op *op);

/* A line for each queue and each op, and what each op awaits. Any thread, while the others wait. */
void watch_each(void (*say)(const char *line));

#endif
#endif
