/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a backend keeps for each queue that uses it: a connection, a buffer, a list of who waits. It is made by the
 * driver's attach() at the queue's first call of backend_on_queue(), and goes by detach() with the queue or with
 * the backend, whichever goes first.
 *
 * Invariants.
 *  1. A queue's list is walked and added to by its owner alone. Who closes a backend takes nothing off it: an
 *     entry without a backend is used again, or goes with the queue.
 *  2. attach() and detach() of one state are called once each; detach() when nothing of the backend is in flight
 *     on the queue, under a lock of all such calls. They must be short.
 */
#ifndef ENGINE_ATTACH_H
#define ENGINE_ATTACH_H

#include "engine/backend.h"

enum { ATTACH_BUCKETS = 16 };

struct attachment;

/* The queue, or the backend, goes. Nothing of either is in flight. */
void attach_queue_goes(vdisk_queue *q);
void attach_backend_goes(struct backend *b);

#endif
