/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Making room for a write that found no space, neither free clusters nor on the host.
 *
 * Happy path: flush, so that the freeing of what was freed is durable; wait for the requests that may use it;
 * punch it and lower its refcounts (reclaim.c). A second time if there is more: what was freed before goes first.
 * Failure modes: reported; what was freed waits on.
 *
 * Invariants.
 *  1. The write is not in the volume's gate while it waits: else it would wait for itself, and two writes for each
 *     other. It has no use of any mapping then.
 */
#include "qcow2/space/room.h"

#include <errno.h>

#include "engine/loop/queue.h"
#include "qcow2/space/reclaim.h"

enum { ROOM_ROUNDS = 2 };

struct room {
    struct op       op;
    struct q2_space *space;
    struct request *request;
    int             rounds;
};

enum room_state { ROOM_START = OP_START, ROOM_FLUSHED, ROOM_DRAINED, ROOM_RECLAIMED };

bool q2_room_is_possible(struct q2_space *space)
{
    bool is;

    pthread_mutex_lock(&space->meta->lock);
    /* A flush has them in its own list while it runs, a reclaim has too. */
    is = space->freed[Q2_FREED_NOW].count + space->freed[Q2_FREED_DURABLE].count > 0 ||
         space->meta->flush_running || space->reclaiming;
    pthread_mutex_unlock(&space->meta->lock);
    return is;
}

static struct request *next_merged(const struct request *r)
{
    return r->kind == REQ_WRITE ? r->merged : NULL;
}

/* It still counts as being in flight. */
static void leave_gate(struct room *m)
{
    volume_count_out(m->space->meta->layer->volume);
    for (struct request *r = m->request; r; r = next_merged(r))
        gate_leave(&m->space->meta->layer->volume->requests, r->queue->id, r->gate);
}

static void enter_gate(struct room *m)
{
    for (struct request *r = m->request; r; r = next_merged(r))
        r->gate = gate_enter(&m->space->meta->layer->volume->requests, r->queue->id);
    volume_count_in(m->space->meta->layer->volume);
}

static bool more(struct room *m)
{
    return m->rounds++ < ROOM_ROUNDS && q2_room_is_possible(m->space);
}

static void room_finish(struct room *m, int rc)
{
    enter_gate(m);
    op_end(&m->op, sizeof *m, rc);
}

static void room_step(struct op *op)
{
    struct room *m = container_of(op, struct room, op);

    OP_BEGIN(enum room_state, op)
    leave_gate(m);
    while (more(m)) {
        OP_TRY(op, ROOM_FLUSHED, q2_make_clean(m->space->meta, op));
        OP_AWAIT(op, ROOM_DRAINED, gate_drain(&m->space->meta->layer->volume->requests, op));
        OP_TRY(op, ROOM_RECLAIMED, q2_reclaim(m->space, op));
    }
    room_finish(m, 0);
    return;
    OP_END
fail:
    room_finish(m, op->rc);
}

OP_TYPE(room, room_step, "START", "ROOM_FLUSHED", "ROOM_DRAINED", "ROOM_RECLAIMED");

void q2_room_make(struct q2_space *space, struct request *request, struct op *op)
{
    struct room *m = op_alloc(op->queue, &room_type, sizeof *m);

    if (!m) {
        op_wake(op, -ENOMEM);
        return;
    }
    m->op.parent = op;
    m->space = space;
    m->request = request;
    op_start(&m->op);
}
