/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What happens to a volume: told to the function of vdisk_set_event_callback(), when the public call ends on whose
 * thread it happened (after.h). Of one kind that happens several times before it is told, it is told once.
 */
#ifndef ENGINE_EVENT_H
#define ENGINE_EVENT_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "engine/base/bits.h"
#include "engine/vdisk.h"

struct layer;
struct volume_events;

/* NULL: out of memory. */
struct volume_events *events_new(vdisk *v);

/* The volume goes; nobody is called any more. NULL is allowed. */
void events_close(struct volume_events *e);

/* Any thread, any lock held. */
void events_raise(struct volume_events *e, enum vdisk_event_kind kind);

void events_listen(struct volume_events *e, vdisk_event_fn *fn, void *arg);

/* Is this thread within a call of the volume's function? */
bool events_is_mine(const struct volume_events *e);

/*
 * How far a layer's file is in use. A format with highest() notes what it takes; of any other, where requests
 * write (to MARK_STEP: what is below `above` need not be looked at).
 */
enum { MARK_STEP = 1 << 20 };

struct volume_mark {
    _Atomic uint64_t above;     /* requests that end below need not be noted */
    pthread_mutex_t  lock;      /* all that follows */
    uint64_t         highest;
    uint64_t         threshold; /* 0: none */
    bool             passed;    /* it has been told */
    bool             by_format; /* fixed at open */
    bool             known;     /* `highest` is that of the image; else of what was noted since it was opened */
};

/* Everything before the host offset `end` may be in use now. Any thread; takes the mark's lock. */
void layer_note_end(struct layer *layer, uint64_t end);

#endif
