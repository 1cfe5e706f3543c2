/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Filling a lease.
 *
 * Happy path: take a run as long as demand says; move the end of the file behind it, so that the writes to come
 * need not; hand it to the queue, wake who waits.
 * Failure modes: no space: whatever other queues have left in their leases is given back and the search is made
 * again (alloc.c); a file that cannot be extended now is extended by the writes themselves, as far as they get. A
 * full file system: one cluster at a time, for a while, so that others find the rest.
 */
#include "qcow2/space/lease.h"

#include <errno.h>

#include "engine/base/mutant.h"
#include "engine/loop/queue.h"
#include "qcow2/mutant.h"

enum {
    LEASE_FIRST_BYTES = 1 << 20, /* doubles each time, up to: */
    LEASE_MAX_BYTES = 64 << 20,
};

static struct q2_lease *lease_of(struct q2_space *space, const vdisk_queue *queue)
{
    return &space->leases[queue->id % Q2_LEASES];
}

void q2_lease_keep_short(struct q2_space *space, const vdisk_queue *queue)
{
    struct q2_lease *l = lease_of(space, queue);

    assert_locked(&space->meta->lock);
    l->size = min_u64(l->size, max_u64(LEASE_FIRST_BYTES, space->meta->geo.cluster_size));
}

/* ---- filling ------------------------------------------------------------------------------------------- */

struct lease_fill {
    struct op        op;
    struct q2_space *space;
    struct q2_lease *lease;
    bool             first;  /* the lease's `filler`; else another queue of the same number is */
    struct q2_run    run;
    struct io        io;
};

enum lease_fill_state { LF_START = OP_START, LF_ALLOCATED, LF_EXTENDED };

static uint64_t lease_size(struct q2_space *space, struct q2_lease *l)
{
    const struct q2_geometry *g = &space->meta->geo;
    uint64_t size = l->size ? min_u64(2 * l->size, LEASE_MAX_BYTES) : LEASE_FIRST_BYTES;
    uint64_t clusters = size >> g->cluster_bits;

    assert_locked(&space->meta->lock);
    l->size = size;
    return q2_alloc_ahead(space, clusters);
}

/* The call of an await: take clusters, or wait for another op that does. */
static void allocate(struct lease_fill *f, struct op *op)
{
    uint64_t want;

    pthread_mutex_lock(&f->space->meta->lock);
    (void)q2_space_follow(f->space);
    want = lease_size(f->space, f->lease);
    pthread_mutex_unlock(&f->space->meta->lock);
    q2_alloc(f->space, want, false, &f->run, op);
}

static bool must_extend(const struct lease_fill *f)
{
    uint64_t end = f->run.host_offset + (f->run.clusters << f->space->meta->geo.cluster_bits);

    return !MUTANT(FORGET_END) && f->run.zero && f->run.clusters > 1 &&
           end > backend_size(f->space->meta->layer->file);
}

/*
 * Space for the last block of the run: that moves the end of the file over all of it, and can never cut off what
 * others write behind it meanwhile, as a change of size could.
 */
static void extend(struct lease_fill *f, struct op *op)
{
    struct backend *b = f->space->meta->layer->file;
    uint64_t end = f->run.host_offset + (f->run.clusters << f->space->meta->geo.cluster_bits);
    uint64_t len = max_u64(b->align, min_u64(f->space->meta->geo.cluster_size, 4096));

    io_range(&f->io, b, IO_ALLOCATE, end - len, len);
    op_io(op, &f->io);
}

/* The file system has no space: nothing of the run has been touched, keep one cluster. */
static void shrink(struct lease_fill *f)
{
    struct q2_space *space = f->space;

    assert(f->run.zero && f->run.clusters > 1);
    atomic_store(&space->host_full, true);
    pthread_mutex_lock(&space->meta->lock);
    q2_return(space, (f->run.host_offset >> space->meta->geo.cluster_bits) + 1, f->run.clusters - 1, true);
    f->run.clusters = 1;
    f->lease->size = 1; /* doubles */
    pthread_mutex_unlock(&space->meta->lock);
}

/* Has an entry been read meanwhile that leads to what was taken? */
static bool is_mapped(const struct lease_fill *f)
{
    return q2_guard_led_to(f->space->meta, f->run.host_offset >> f->space->meta->geo.cluster_bits,
                           f->run.clusters);
}

static void lease_fill_finish(struct lease_fill *f, int rc)
{
    struct q2_lease *l = f->lease;
    struct q2_space *space = f->space;
    bool first = f->first;

    pthread_mutex_lock(&space->meta->lock);
    if (rc == 0 && ((l->next < l->end && !ENGINE_MUTANT(LEASE_FILL_TWICE)) || is_mapped(f))) {
        /* Two queues that share a lease have both filled it; or who looks for it there begins again. */
        q2_return(space, f->run.host_offset >> space->meta->geo.cluster_bits, f->run.clusters, f->run.zero);
    } else if (rc == 0) {
        l->next = f->run.host_offset >> space->meta->geo.cluster_bits;
        l->end = l->next + f->run.clusters;
        l->zero = f->run.zero;
    }
    /* In the order they came in: the writes of a turn come in the guest's order, and keep it on the host. */
    op_end(&f->op, sizeof *f, rc);
    if (first) {
        l->filler = NULL;
        op_wake_all(&l->waiting, rc);
    }
    pthread_mutex_unlock(&space->meta->lock);
}

static void lease_fill_step(struct op *op)
{
    struct lease_fill *f = container_of(op, struct lease_fill, op);

    OP_BEGIN(enum lease_fill_state, op)
    OP_TRY(op, LF_ALLOCATED, allocate(f, op));
    if (must_extend(f)) {
        OP_AWAIT(op, LF_EXTENDED, extend(f, op));
        if (op->rc == -ENOSPC)
            shrink(f);
        else if (op->rc == 0 && !MUTANT(HOST_STAYS_FULL))
            atomic_store(&f->space->host_full, false); /* somebody has made room */
    }
    lease_fill_finish(f, 0);
    return;
    OP_END
fail:
    lease_fill_finish(f, op->rc);
}

OP_TYPE(lease_fill, lease_fill_step, "START", "LF_ALLOCATED", "LF_EXTENDED");

void q2_lease_fill(struct q2_space *space, struct op *op)
{
    struct q2_lease *l = lease_of(space, op->queue);
    struct lease_fill *f = NULL;
    bool wait = false, ready;

    pthread_mutex_lock(&space->meta->lock);
    ready = l->next < l->end;
    /* A queue waits for itself only: another's owner need not call the library. */
    if (!ready && l->filler == op->queue) {
        list_add_tail(&l->waiting, &op->wait);
        wait = true;
    } else if (!ready) {
        f = op_alloc(op->queue, &lease_fill_type, sizeof *f);
        if (f && !l->filler) {
            l->filler = op->queue;
            f->first = true;
        }
    }
    pthread_mutex_unlock(&space->meta->lock);
    if (wait)
        return;
    if (!f) {
        op_wake(op, ready ? 0 : -ENOMEM);
        return;
    }
    f->op.parent = op;
    f->space = space;
    f->lease = l;
    op_start(&f->op);
}
