/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Requests that are taken back before anything has been done for them.
 *
 * Happy path: found by its user_data, and then where it waits: among the writes of the next turn, as an op whose
 * next step can still end it, for a lock, or as I/O that the kernel has not seen; from there it goes on to its
 * end, by the way that an error takes. Failure modes: it is on its way, or has ended: nothing is changed.
 *
 * Invariants.
 *  1. What is taken back has changed nothing: no I/O of it but reads has been sent, and none has failed. But what
 *     is parked may have written a part of its range, as what fails for lack of space has.
 *  2. It ends once: who takes it back takes it from where its end would have come from, or gives the next step
 *     another result.
 *  3. Nobody depends on it: merged writes are left alone, and what it holds (a lock, a place in a line, the gate)
 *     it gives back by the same step as after an error.
 */
#include <errno.h>
#include <string.h>

#include "engine/base/error.h"
#include "engine/base/mutant.h"
#include "engine/loop/bounce.h"
#include "engine/loop/failure.h"
#include "engine/loop/grower.h"
#include "engine/loop/queue.h"
#include "engine/volume.h"

/* An op that looks at rc in its next step, and has done nothing. Merged writes are not this request's alone. */
static bool may_end(struct op *op, const struct request *r)
{
    assert(op->queue == r->queue);
    if (op->rc < 0)
        return false;
    if (op->request == r && op->state == OP_START)
        return r->kind != REQ_WRITE || !r->merged || ENGINE_MUTANT(CANCEL_MERGED);
    return bounce_may_end(op, &r->io);
}

static bool stop_ready(const struct request *r)
{
    for (struct task *t = r->queue->ready.head; t; t = t->next) {
        struct op *op = op_of_task(t);
        if (!op || !may_end(op, r))
            continue;
        op->rc = -ECANCELED;
        return true;
    }
    return false;
}

/* NULL: it has none, or it is no I/O, but marks a place: regions.h. */
static struct op *op_of_io(const struct io *io)
{
    return io->backend ? io->op : NULL;
}

/* I/O of an op that works for this request alone. */
static bool take_from_op(const struct request *r)
{
    for (struct list *n = r->queue->in_kernel.next; n != &r->queue->in_kernel; n = n->next) {
        struct op *op = op_of_io(container_of(n, struct io, in_kernel));
        if (op && (read_give_up(op, r) || bounce_give_up(op, &r->io)))
            return true;
    }
    return false;
}

/* It waits for others, and nothing else has been done. */
static bool leave_locks(const struct request *r)
{
    vdisk *v = r->vdisk;

    return range_lock_give_up(&v->top->guard_locks, &r->io) || bounce_leave(v->top->data, &r->io) ||
           (v->top->format->give_up && v->top->format->give_up(v->top, r));
}

static bool take_back(struct request *r)
{
    assert(r->state != REQUEST_FREE && queue_is_mine(r->queue));
    if (r->state != REQUEST_STARTED || !r->vdisk) /* without a volume: a job's, or memory that goes */
        return false;
    if (grower_give_up(r))
        return true;
    if (r->kind != r->asked || r->flags & REQUEST_TRIED) /* invariant 1 */
        return false;
    if (plug_take(r)) {
        request_end_later(r, -ECANCELED);
        return true;
    }
    return io_take_back(&r->io) || stop_ready(r) || take_from_op(r) || leave_locks(r);
}

/* Too late. But it does not wait for room from now on. */
static void let_end(struct request *r)
{
    if (r->state == REQUEST_STARTED && (r->asked == REQ_WRITE || r->asked == REQ_ZERO || r->asked == REQ_DISCARD))
        r->flags |= REQUEST_UNWANTED;
}

static int cancel(vdisk_queue *q, uint64_t user_data)
{
    int rc = queue_check_handle(q), n = 0;
    bool found = false;

    if (rc < 0)
        return err_set(rc, "queue: cancelling: %s", strerror(-rc));
    assert(!q->in_loop);
    queue_current = q;
    failure_now = 0; /* no I/O has failed */
    for (struct request *slab = q->slabs; slab; slab = slab_next(slab)) {
        for (uint32_t i = 1; i < slab_count(slab); i++) {
            if (slab[i].state == REQUEST_FREE || slab[i].user_data != user_data)
                continue;
            assert(slab[i].queue == q);
            found = true;
            if (take_back(&slab[i]))
                n++;
            else
                let_end(&slab[i]);
        }
    }
    assert(n >= 0 && (unsigned)n <= q->inflight);
    if (n > 0) {
        if (!ENGINE_MUTANT(CANCEL_UNTOLD))
            queue_tell(q); /* queue.h, invariant 6: the caller may sleep on the descriptor next */
        return n;
    }
    return found ? err_set(EALREADY, "queue: request %llu is on its way", (unsigned long long)user_data)
                 : err_set(ENOENT, "queue: there is no request %llu", (unsigned long long)user_data);
}

int vdisk_cancel(vdisk_queue *q, uint64_t user_data)
{
    return ERR_CALL(cancel(q, user_data));
}
