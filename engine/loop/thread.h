/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a thread has of queues: those that it owns, and one for the synchronous calls that it makes.
 *
 * Who waits in the library turns all queues of its thread meanwhile: what it waits for may be under way on one of
 * them, and nobody else would take it further.
 *
 * Invariants.
 *  1. A queue is in the list of the thread that first used it, until it goes or the thread ends.
 *  2. Handles are of the process that made them: `process_generation` is another one in a forked child.
 */
#ifndef ENGINE_THREAD_H
#define ENGINE_THREAD_H

#include <stdbool.h>
#include <stdint.h>
#include <time.h>

#include "engine/base/bits.h"
#include "engine/vdisk.h"

struct thread_queues;

extern HIDDEN uint32_t process_generation;

/* Once before the first queue is made: a forked child is noticed from then on. */
void process_watch(void);

/* This thread owns `q` from now on. Without memory for that: nobody turns it but the owner's own calls. */
void thread_adopt(vdisk_queue *q);

/* `q` goes. Any thread. */
void thread_forget(vdisk_queue *q);

/* Is `q` another thread's, which still lives? */
bool thread_is_other(const vdisk_queue *q);

/*
 * Which thread owns `q`: its address would be that of another one day. 0: none, or not known. Context: that
 * thread.
 */
uint64_t thread_number(const vdisk_queue *q);

/* The thread's queue for synchronous calls, made on first use. 0, or an error with a text. */
int thread_sync_queue(vdisk_queue **ret_queue);

/* This thread gives back what it has here, as it does when it ends. Nothing of it may be in use. */
void thread_release(void);

/* Have other queues of this thread requests in flight? */
bool thread_others_busy(const vdisk_queue *q);

/*
 * Turn the others; sleep until one of them or `q` has something to do. 0, -ETIME or another -errno.
 * Context: q's thread, outside the loop.
 */
int thread_sleep(vdisk_queue *q, const struct timespec *timeout);

/* What was turned on the side may have something to hand out: their descriptors say so. */
void thread_tell_others(const vdisk_queue *q);

#endif
