/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Preallocation in an image that is open: for the new range of a resize.
 *
 * Happy path: zeros are written to what the last, partial cluster of the old end has behind it. Then, piece by
 * piece, clusters without host space get some (metadata, falloc): where there is no L2 table yet whole tables at a
 * time, as many as the last refcount block has room for (prealloc_bulk.c), the others in large pieces behind it
 * (prealloc_append.c). Full: zeros are written to them too, several writes at a time. Failure modes: the first
 * error, or a cancel, ends it; what has been given stays given, and reads as zeros.
 */
#include <assert.h>
#include <errno.h>

#include "engine/base/error.h"
#include "engine/loop/queue.h"
#include "engine/loop/zero.h"
#include "qcow2/image/prealloc_append.h"
#include "qcow2/image/prealloc_bulk.h"
#include "qcow2/image/resize.h"
#include "qcow2/map/map.h"

enum { FILL_DEPTH = 16, FILL_PART = 32 << 20, BULKS = 8 };

static const uint64_t prealloc_piece = 64 << 20;

static bool cancelled(const struct vdisk_resize_opts *opts, uint64_t done, uint64_t total)
{
    return opts->progress && opts->progress(opts->progress_arg, done, total) != 0;
}

/* ---- clusters ------------------------------------------------------------------------------------------- */

struct prealloc {
    struct op           op;
    struct q2          *q;
    uint64_t            from, pos, end;
    enum vdisk_prealloc mode;
    const struct vdisk_resize_opts *opts;
    bool                done;
    bool                looked;  /* how far small_end is */
    bool                appends; /* the piece that is made is appended */
    bool                no_place; /* nothing more can be */
    uint64_t            small_end; /* guest offset: so much gets clusters where the file has blocks for them */
    struct q2_append_watch watch;
    struct range_locks  turns;
    struct op_child     piece[BULKS];
};

enum prealloc_state { PREALLOC_START = OP_START, PREALLOC_PIECE_DONE };

/* Once, where the first whole table begins. */
static void find_small_end(struct prealloc *r)
{
    const struct q2_geometry *g = &r->q->meta.geo;

    if (r->looked || !is_aligned(r->pos, q2_l1_entry_span(g)))
        return;
    r->small_end = r->pos + q2_append_gap(&r->q->space) / (1 + q2_l2_entries(g)) * q2_l1_entry_span(g);
    r->looked = true;
}

/* Is what comes next worth a refcount block of its own, at least? Then it is appended. */
static bool append_next(struct prealloc *r, struct op *op)
{
    const struct q2_geometry *g = &r->q->meta.geo;
    uint64_t len = q2_bulk_batch(r->q, r->pos, r->end, UINT64_MAX);

    if (!r->looked || r->no_place || r->pos < r->small_end || q2_clusters(g, len) < q2_refblock_entries(g))
        return false;
    assert(!r->appends && r->watch.done == 0);
    r->appends = true;
    q2_prealloc_append(r->q, r->pos, len, r->mode, &r->watch, op_child_add(op, &r->piece[0]));
    return true;
}

/* The next whole tables, in up to BULKS parts of the same size: how many. */
static unsigned bulk_next(struct prealloc *r, struct op *op)
{
    uint64_t span = q2_l1_entry_span(&r->q->meta.geo), most = q2_bulk_max(r->q), from, share, len;
    uint64_t end = r->no_place || r->pos >= r->small_end ? r->end : min_u64(r->end, r->small_end);
    unsigned n;

    assert(r->pos < end && end <= r->end);
    share = min_u64(most, div_up(div_up(end - r->pos, span), BULKS)) * span;
    for (n = 0; n < BULKS && r->pos < end; n++) {
        from = r->pos;
        len = q2_bulk_batch(r->q, from, min_u64(end, from + share), most);
        if (len == 0)
            break;
        r->pos += len;
        q2_prealloc_bulk(r->q, from, len, r->mode, &r->turns, op_child_add(op, &r->piece[n]));
    }
    return n;
}

/* Up to the end of an L2 table that is there, or half in front of the old end: as many pieces as go on at once. */
static void table_next(struct prealloc *r, struct op *op)
{
    const struct q2_geometry *g = &r->q->meta.geo;
    uint64_t end = min_u64(r->end, align_down(r->pos, q2_l1_entry_span(g)) + q2_l1_entry_span(g)), from;
    uint64_t piece = max_u64(prealloc_piece, UINT64_C(1) << r->q->meta.slice_guest_bits);

    assert(r->pos < end && is_power_of_two(piece));
    for (unsigned n = 0; n < BULKS && r->pos < end; n++) {
        from = r->pos;
        r->pos = min_u64(end, align_down(from, piece) + piece);
        q2_prealloc_clusters(&r->q->map, from, r->pos - from, r->mode, op_child_add(op, &r->piece[n]));
    }
}

/* The next pieces; the call of an await. */
static void prealloc_next(struct prealloc *r, struct op *op)
{
    find_small_end(r);
    op_io_begin(op);
    if (!append_next(r, op) && bulk_next(r, op) == 0)
        table_next(r, op);
    op_io_wait(op);
}

static void settle_appended(struct prealloc *r)
{
    assert(r->appends || r->watch.done == 0);
    assert(r->pos <= r->end && r->watch.done <= r->end - r->pos);
    r->no_place |= r->appends && r->watch.done == 0;
    r->pos += r->appends ? r->watch.done : 0;
    r->watch.done = 0;
    r->appends = false;
}

static void prealloc_step(struct op *op)
{
    struct prealloc *r = container_of(op, struct prealloc, op);

    OP_BEGIN(enum prealloc_state, op)
    while (r->pos < r->end && !r->watch.stop) {
        OP_TRY(op, PREALLOC_PIECE_DONE, prealloc_next(r, op));
        settle_appended(r);
    }
    r->done = true;
    return;
    OP_END
fail:
    r->done = true;
}

OP_TYPE(prealloc, prealloc_step, "START", "PREALLOC_PIECE_DONE");

static bool look(void *arg)
{
    struct prealloc *r = arg;

    r->watch.stop = cancelled(r->opts, r->pos - r->from + r->watch.done, r->end - r->from);
    return !r->watch.stop;
}

static int prealloc_clusters(struct q2 *q, uint64_t from, uint64_t end, const struct vdisk_resize_opts *opts,
                             enum vdisk_prealloc mode, vdisk_queue *queue)
{
    struct prealloc r = {.q = q, .from = from, .pos = from, .end = end, .mode = mode, .opts = opts};

    assert(from < end && is_aligned(from, q->meta.geo.cluster_size));
    range_locks_init(&r.turns);
    op_init(&r.op, queue, &prealloc_type);
    op_run(&r.op, &r.done, look, &r);
    range_locks_finish(&r.turns);
    assert(r.op.rc < 0 || r.watch.stop || r.pos == r.end);
    return r.op.rc < 0 ? r.op.rc : r.watch.stop ? -ECANCELED : 0;
}

/* ---- zeros ---------------------------------------------------------------------------------------------- */

/* All of it has ended on return: who is told how far it is may make calls that wait, on this very queue. */
static int fill_part(struct layer *layer, uint64_t from, uint64_t end, vdisk_queue *queue)
{
    struct vdisk_completion c[FILL_DEPTH];
    uint64_t pos = from;
    unsigned running = 0;
    int rc = 0;

    while ((rc == 0 && pos < end) || running > 0) {
        for (; rc == 0 && pos < end && running < FILL_DEPTH; running++) {
            uint64_t next = min_u64(end, align_down(pos, ZERO_BUFFER) + ZERO_BUFFER);
            vdisk_write(queue, layer->volume, pos, zero_buffer, next - pos, 0, 0);
            pos = next;
        }
        unsigned n = queue_take(queue, c, FILL_DEPTH);
        assert(n > 0 && n <= running);
        for (unsigned i = 0; i < n; i++, running--)
            rc = rc < 0 ? rc : c[i].result;
    }
    assert(rc < 0 || pos == end);
    return rc;
}

static int fill_with_zeros(struct q2 *q, uint64_t from, uint64_t end, const struct vdisk_resize_opts *opts,
                           vdisk_queue *queue)
{
    uint64_t next;
    int rc = 0;

    for (uint64_t pos = from; rc == 0 && pos < end; pos = next) {
        next = min_u64(end, align_down(pos, FILL_PART) + FILL_PART);
        rc = fill_part(q->meta.layer, pos, next, queue);
        if (rc == 0 && cancelled(opts, next - from, end - from))
            rc = -ECANCELED;
    }
    return rc;
}

int q2_prealloc_range(struct q2 *q, uint64_t from, uint64_t end, const struct vdisk_resize_opts *opts,
                      vdisk_queue *queue)
{
    uint64_t start = min_u64(end, q2_cluster_up(&q->meta.geo, from));
    bool full = opts->preallocation == VDISK_PREALLOC_FULL;
    enum vdisk_prealloc mode = full ? VDISK_PREALLOC_FALLOC : opts->preallocation;
    int rc = 0;

    assert(from < end && opts->preallocation != VDISK_PREALLOC_OFF);
    if (from < start && !full)
        rc = fill_with_zeros(q, from, start, opts, queue);
    if (rc == 0 && start < end)
        rc = prealloc_clusters(q, start, end, opts, mode, queue);
    if (full && (rc == -ENOTSUP || rc == -EOPNOTSUPP))
        rc = prealloc_clusters(q, start, end, opts, VDISK_PREALLOC_METADATA, queue);
    if (rc == 0 && full)
        return fill_with_zeros(q, from, end, opts, queue);
    if (rc == -ENOTSUP || rc == -EOPNOTSUPP)
        return err_hint(err_set(ENOTSUP, "%s: preallocation=falloc is not possible here", q->meta.layer->name),
                        "use preallocation=full");
    return rc;
}
