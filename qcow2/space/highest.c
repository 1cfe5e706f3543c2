/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * How far the image's file is in use: where the last cluster with a refcount ends.
 *
 * Happy path: from the end of the refcount table down, over what has no block, and over the zeros of the last
 * block that has others.
 * Failure modes: a slice that cannot be read: its error.
 */
#include <errno.h>

#include "engine/loop/queue.h"
#include "qcow2/format/format.h"
#include "qcow2/space/alloc.h"
#include "qcow2/space/highest.h"

struct highest {
    struct op  op;
    struct q2_space *space;
    uint64_t   end; /* cluster index: no refcount from here on */
    uint64_t   key;
    bool       done;
};

enum highest_state { HIGHEST_START = OP_START, HIGHEST_LOADED };

/* The cluster before `end`, and those like it: false, it has a refcount. */
static bool step_down(struct highest *h, const struct q2_slot *s)
{
    const struct q2_space *space = h->space;
    const uint8_t *data = (const uint8_t *)q2_slot_data(&h->space->meta->refcounts, s);
    uint64_t mask = (1ull << space->meta->refslice_bits) - 1;

    while (q2_refcount_get(&space->meta->geo, data, (h->end - 1) & mask) == 0)
        if ((--h->end & mask) == 0)
            return true;
    return false;
}

/* Move `end` down. True: a refcount slice has to be loaded first. */
static bool find_needs(struct highest *h)
{
    struct q2_space *space = h->space;
    bool more = true, needs = false;

    pthread_mutex_lock(&space->meta->lock);
    while (h->end > 0 && more && !needs) {
        struct q2_slot *s = q2_refcounts_find(space, (h->end - 1) >> space->meta->refslice_bits);
        if (!q2_has_block(space->meta, h->end - 1)) {
            h->end = q2_reftable_index(&space->meta->geo, h->end - 1) << space->meta->geo.refblock_bits;
        } else if (!s) {
            h->key = (h->end - 1) >> space->meta->refslice_bits;
            needs = true;
        } else {
            more = step_down(h, s);
        }
    }
    pthread_mutex_unlock(&space->meta->lock);
    return needs;
}

static void highest_step(struct op *op)
{
    struct highest *h = container_of(op, struct highest, op);

    OP_BEGIN(enum highest_state, op)
    pthread_mutex_lock(&h->space->meta->lock);
    h->end = h->space->meta->reftable_entries << h->space->meta->geo.refblock_bits;
    pthread_mutex_unlock(&h->space->meta->lock);
    while (find_needs(h))
        OP_TRY(op, HIGHEST_LOADED, q2_refcount_load(h->space, h->key, op));
fail:
    h->done = true;
    return;
    OP_END
}

OP_TYPE(highest, highest_step, "START", "HIGHEST_LOADED");

int q2_highest(struct q2_space *space, vdisk_queue *queue, uint64_t *ret_end)
{
    struct highest h = {.space = space};

    op_init(&h.op, queue, &highest_type);
    op_run(&h.op, &h.done, NULL, NULL);
    *ret_end = h.end << h.space->meta->geo.cluster_bits;
    return h.op.rc;
}
