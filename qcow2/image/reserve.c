/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Preallocation in an image that is open: for the new range of a resize.
 *
 * Happy path: zeros are written to what the last, partial cluster of the old end has behind it. Then, piece by
 * piece, clusters without host space get some (metadata, falloc): whole L2 tables at a time where there is none
 * yet (bulk.c). Full: zeros are written to them too, several writes at a time. Failure modes: the first error, or
 * a cancel, ends it; what has been given stays given, and reads as zeros.
 */
#include <errno.h>

#include "engine/error.h"
#include "engine/queue.h"
#include "engine/zero.h"
#include "qcow2/image/bulk.h"
#include "qcow2/image/resize.h"
#include "qcow2/map/map.h"

enum { FILL_DEPTH = 16, BULKS = 8 };

static const uint64_t reserve_piece = 64 << 20;

static bool cancelled(const struct vdisk_resize_opts *opts, uint64_t done, uint64_t total)
{
    return opts->progress && opts->progress(opts->progress_arg, done, total) != 0;
}

/* ---- clusters ------------------------------------------------------------------------------------------- */

struct reserve {
    struct op           op;
    struct q2          *q;
    uint64_t            from, pos, end;
    enum vdisk_prealloc mode;
    const struct vdisk_resize_opts *opts;
    bool                stop, done;
    struct range_locks  turns;
    struct op_child     piece[BULKS];
};

enum reserve_state { RESERVE_START = OP_START, RESERVE_PIECE_DONE };

/* The next whole tables, in up to BULKS parts of the same size: how many. */
static unsigned bulk_next(struct reserve *r, struct op *op)
{
    uint64_t span = q2_l1_entry_span(&r->q->meta.geo), most = q2_bulk_max(r->q), from, share, len;
    unsigned n;

    share = min_u64(most, div_up(div_up(r->end - r->pos, span), BULKS)) * span;
    for (n = 0; n < BULKS && r->pos < r->end; n++) {
        from = r->pos;
        len = q2_bulk_batch(r->q, from, min_u64(r->end, from + share));
        if (len == 0)
            break;
        r->pos += len;
        q2_bulk_reserve(r->q, from, len, r->mode, &r->turns, op_child_add(op, &r->piece[n]));
    }
    return n;
}

/* The next pieces; the call of an await. */
static void reserve_next(struct reserve *r, struct op *op)
{
    uint64_t from = r->pos, span = q2_l1_entry_span(&r->q->meta.geo), len;

    op_io_begin(op);
    if (bulk_next(r, op) == 0) {
        len = min_u64(align_down(from, reserve_piece) + reserve_piece, align_down(from, span) + span);
        r->pos = min_u64(r->end, len);
        q2_alloc_reserve(&r->q->map, from, r->pos - from, r->mode, op_child_add(op, &r->piece[0]));
    }
    op_io_wait(op);
}

static void reserve_step(struct op *op)
{
    struct reserve *r = container_of(op, struct reserve, op);

    OP_BEGIN(enum reserve_state, op)
    while (r->pos < r->end && !r->stop)
        OP_TRY(op, RESERVE_PIECE_DONE, reserve_next(r, op));
    r->done = true;
    return;
    OP_END
fail:
    r->done = true;
}

OP_TYPE(reserve, reserve_step, "START", "RESERVE_PIECE_DONE");

static bool look(void *arg)
{
    struct reserve *r = arg;

    r->stop = cancelled(r->opts, r->pos - r->from, r->end - r->from);
    return !r->stop;
}

static int reserve_clusters(struct q2 *q, uint64_t from, uint64_t end, const struct vdisk_resize_opts *opts,
                            enum vdisk_prealloc mode, vdisk_queue *queue)
{
    struct reserve r = {.q = q, .from = from, .pos = from, .end = end, .mode = mode, .opts = opts};

    range_locks_init(&r.turns);
    op_init(&r.op, queue, &reserve_type);
    op_run(&r.op, &r.done, look, &r);
    range_locks_finish(&r.turns);
    return r.op.rc < 0 ? r.op.rc : r.stop ? -ECANCELED : 0;
}

/* ---- zeros ---------------------------------------------------------------------------------------------- */

static int fill_with_zeros(struct q2 *q, uint64_t from, uint64_t end, const struct vdisk_resize_opts *opts,
                           vdisk_queue *queue)
{
    struct vdisk_completion c[FILL_DEPTH];
    uint64_t pos = from;
    unsigned running = 0;
    int rc = 0;

    while ((rc == 0 && pos < end) || running > 0) {
        for (; rc == 0 && pos < end && running < FILL_DEPTH; running++) {
            uint64_t next = min_u64(end, align_down(pos, ZERO_BUFFER) + ZERO_BUFFER);
            vdisk_write(queue, q->meta.v, pos, zero_buffer, next - pos, 0, 0);
            pos = next;
        }
        unsigned n = queue_take(queue, c, FILL_DEPTH);
        for (unsigned i = 0; i < n; i++, running--)
            rc = rc < 0 ? rc : c[i].result;
        if (rc == 0 && cancelled(opts, pos - from, end - from))
            rc = -ECANCELED;
    }
    return rc;
}

int q2_reserve_range(struct q2 *q, uint64_t from, uint64_t end, const struct vdisk_resize_opts *opts,
                     vdisk_queue *queue)
{
    uint64_t start = min_u64(end, q2_cluster_up(&q->meta.geo, from));
    bool full = opts->preallocation == VDISK_PREALLOC_FULL;
    enum vdisk_prealloc mode = full ? VDISK_PREALLOC_FALLOC : opts->preallocation;
    int rc = 0;

    if (from < start && !full)
        rc = fill_with_zeros(q, from, start, opts, queue);
    if (rc == 0 && start < end)
        rc = reserve_clusters(q, start, end, opts, mode, queue);
    if (full && (rc == -ENOTSUP || rc == -EOPNOTSUPP))
        rc = reserve_clusters(q, start, end, opts, VDISK_PREALLOC_METADATA, queue);
    if (rc == 0 && full)
        return fill_with_zeros(q, from, end, opts, queue);
    if (rc == -ENOTSUP || rc == -EOPNOTSUPP)
        return err_hint(err_set(ENOTSUP, "%s: preallocation=falloc is not possible here", q->meta.v->name),
                        "use preallocation=full");
    return rc;
}
