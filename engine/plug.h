/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Writes that the format has to carry out wait for the queue's next turn, so that all that were enqueued together
 * are seen together: neighbours go to the format as one.
 *
 * Invariants.
 *  1. A request is held from plug_add() to the next turn of its queue, and by nobody else meanwhile.
 *  2. What is linked by request.merged is one volume's, has the same flags, and each begins where the one before
 *     it ends.
 */
#ifndef ENGINE_PLUG_H
#define ENGINE_PLUG_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/loop/op.h"

struct request;

enum {
    PLUG_MAX = 64,             /* requests held */
    PLUG_MERGED_MAX = 512 << 10, /* bytes that go as one: larger, and the device works on too few at a time */
    PLUG_MERGED_IOV = 256,     /* buffers */
};

struct plug {
    struct task     task;
    unsigned        count;
    struct request *held[PLUG_MAX];
};

/* It is not held any more; false: it was not. */
bool plug_take(struct request *r);

/* Hold the write `r`, which has been checked. Context: the queue's thread. */
void plug_add(struct request *r);

#endif
