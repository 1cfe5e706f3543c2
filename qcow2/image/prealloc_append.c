/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Preallocation of guest ranges that have no L2 table yet, in large pieces behind the end of the file: as a new
 * image has it, refcount blocks, then full L2 tables, then the clusters that they lead to.
 *
 * Happy path: with the structure lock for a moment, a place is kept, for which the refcount table may have to
 * become longer; guest data gets its space on the host, or the file's end moves over it; the metadata is written
 * as a stream, several writes at a time; with the structure lock again, refcount table and L1 table get the new
 * entries. The next flush makes them durable, in this order.
 * Failure modes: no place: nothing is done, and that is said. An error, or being stopped: the host gets its space
 * back; nothing leads there.
 *
 * Invariants.
 *  1. No other request works in the range: it lies behind the end of the disk.
 *  2. Blocks and tables are written before an entry that leads to them is in memory, and durable before that entry
 *     is (flush rules 3 and 4); what the tables lead to reads as zeros.
 *  3. No lock is held while anything is written but the refcount table: others allocate meanwhile, behind the
 *     piece.
 */
#include "qcow2/image/prealloc_append.h"

#include <errno.h>
#include <stdlib.h>

#include "engine/base/bits.h"
#include "engine/base/mem.h"
#include "engine/loop/zero.h"
#include "qcow2/image/prealloc_bulk.h"
#include "qcow2/space/space.h"

enum { STREAMS = 4, STREAM_BUFFER = 512 << 10 };

/* A multiple of every cluster size: of a call that nothing can stop. */
static const uint64_t reserve_step_bytes = UINT64_C(8) << 30;

_Static_assert((UINT64_C(8) << 30) % (1 << Q2_MAX_CLUSTER_BITS) == 0, "such a multiple");

struct append {
    struct op          op;
    struct q2         *q;
    uint64_t           guest_offset, len;
    enum vdisk_prealloc mode;
    struct q2_append_watch *watch;
    struct q2_layout   layout; /* of the piece */
    uint64_t           block;
    bool               placed, locked;
    struct range_lock  lock;
    uint64_t           reserved; /* host offset: so far guest data has its space */
    uint64_t           pos;      /* host offset: metadata up to here is written, or being written */
    int                error;
    struct op_child    stream[STREAMS];
    struct io          io;
};

enum append_state {
    APPEND_START = OP_START,
    APPEND_LOCKED,
    APPEND_TABLE_LONGER,
    APPEND_RESERVED,
    APPEND_WRITTEN,
    APPEND_LOCKED_AGAIN,
    APPEND_PUNCHED
};

/* ---- metadata ----------------------------------------------------------------------------------------------- */

/* One of those that write it: the next part, as long as there is one. */
struct stream {
    struct op      op;
    struct append *append;
    uint8_t       *buf;
    struct io      io;
};

enum append_stream_state { APPEND_STREAM_START = OP_START, APPEND_STREAMED };

/* Of one write, in whole clusters. New buffers are not free: each of their pages is a fault. */
static uint64_t piece_bytes(const struct append *a)
{
    return max_u64(STREAM_BUFFER, a->q->meta.geo.cluster_size);
}

/* The call of an await. */
static void write_next(struct stream *s, struct op *op)
{
    struct append *a = s->append;
    uint64_t start = a->layout.refblocks_offset, end = a->layout.data_offset;
    uint64_t len = min_u64(piece_bytes(a), end - a->pos);

    assert(start <= a->pos && a->pos < end && is_aligned(a->pos | len, a->q->meta.geo.cluster_size));
    q2_layout_fill(&a->layout, a->pos, s->buf, len);
    io_rw(&s->io, a->q->meta.layer->file, IO_WRITE, a->pos, s->buf, len);
    a->pos += len;
    a->watch->done = a->len / (end - start) * (a->pos - start);
    assert(a->pos <= end && a->watch->done <= a->len);
    op_io(op, &s->io);
}

static bool more(const struct append *a)
{
    return a->pos < a->layout.data_offset && !a->watch->stop && a->error == 0;
}

static void append_stream_step(struct op *op)
{
    struct stream *s = container_of(op, struct stream, op);

    OP_BEGIN(enum append_stream_state, op)
    while (more(s->append))
        OP_TRY(op, APPEND_STREAMED, write_next(s, op));
fail:
    if (op->rc < 0)
        s->append->error = op->rc;
    mem_free(s->buf);
    op_end(&s->op, sizeof *s, op->rc);
    return;
    OP_END
}

OP_TYPE(append_stream, append_stream_step, "START", "APPEND_STREAMED");

static void start_stream(struct append *a, uint64_t buf_len, struct op *op)
{
    uint8_t *buf = mem_buffer(align_up(buf_len, 4096));
    struct stream *s = buf ? op_alloc(op->queue, &append_stream_type, sizeof *s) : NULL;

    if (!s) {
        mem_free(buf);
        a->error = -ENOMEM; /* the others write no more */
        op_wake(op, -ENOMEM);
        return;
    }
    s->op.parent = op;
    s->append = a;
    s->buf = buf;
    op_start_later(&s->op);
}

/* The call of an await. */
static void write_metadata(struct append *a, struct op *op)
{
    uint64_t len = a->layout.data_offset - a->layout.refblocks_offset, piece = piece_bytes(a);

    assert(a->placed && !a->locked && len > 0); /* invariant 3 */
    a->pos = a->layout.refblocks_offset;
    op_io_begin(op);
    for (unsigned i = 0; i < min_u64(STREAMS, div_up(len, piece)); i++)
        start_stream(a, min_u64(len, piece), op_child_add(op, &a->stream[i]));
    op_io_wait(op);
}

/* ---- guest data --------------------------------------------------------------------------------------------- */

/* Does guest data lack space on the host, or does the file end before it? */
static bool reserve_needs_io(const struct append *a)
{
    return a->reserved < q2_layout_end(&a->layout) && !a->watch->stop;
}

/* The call of an await. */
static void reserve_part(struct append *a, struct op *op)
{
    struct backend *file = a->q->meta.layer->file;
    uint64_t end = q2_layout_end(&a->layout), start = a->reserved;
    uint64_t last = min_u64(a->q->meta.geo.cluster_size, max_u64(4096, file->align));

    assert(a->placed && start >= a->layout.data_offset && start < end);
    if (a->mode == VDISK_PREALLOC_FALLOC) {
        a->reserved = min_u64(end, start + reserve_step_bytes);
        io_range(&a->io, file, IO_ALLOCATE, start, a->reserved - start);
        op_io(op, &a->io);
    } else {
        a->reserved = end;
        zero_range(file, end - last, last, 0, op); /* for the end of the file */
    }
}

/* ---- the piece ---------------------------------------------------------------------------------------------- */

/* False: not before the refcount table is longer. */
static bool find_place(struct append *a)
{
    enum q2_append_place place;

    assert(a->locked && !a->placed);
    place = q2_append_begin(&a->q->space, q2_clusters(&a->q->meta.geo, a->len), &a->layout, &a->block);

    a->placed = place == Q2_APPEND_PLACED;
    if (a->placed) {
        assert(q2_layout_end(&a->layout) > a->layout.data_offset && a->layout.l2_tables > 0);
        a->reserved = a->layout.data_offset;
        a->len = min_u64(a->len, a->layout.guest_clusters << a->q->meta.geo.cluster_bits);
    }
    return place != Q2_APPEND_NEEDS_TABLE;
}

/* With the structure lock held. */
static void enter_piece(struct append *a)
{
    const struct q2_layout *l = &a->layout;
    struct q2 *q = a->q;

    assert(a->locked && a->lock.held && a->placed);
    assert(a->pos == l->data_offset && a->error == 0); /* invariant 2 */
    pthread_mutex_lock(&q->meta.lock);
    q2_append_enter(&q->space, l);
    q2_bulk_enter(q, q2_l1_index(&q->meta.geo, a->guest_offset), l->l2_tables, l->l2_offset);
    pthread_mutex_unlock(&q->meta.lock);
    a->placed = false;
}

static bool lock_structure(struct append *a)
{
    assert(!a->locked);
    a->locked = true;
    return range_lock_try(&a->q->meta.structure, &a->lock, 0, 1);
}

static void unlock_structure(struct append *a)
{
    if (a->locked)
        range_unlock(&a->q->meta.structure, &a->lock);
    a->locked = false;
}

/* What has been written or reserved; the call of an await. */
static void punch(struct append *a, struct op *op)
{
    struct backend *file = a->q->meta.layer->file;
    uint64_t start = a->layout.refblocks_offset, end = min_u64(q2_layout_end(&a->layout), backend_size(file));

    assert(a->placed && start < end);
    io_range(&a->io, file, IO_ZERO, start, end - start);
    a->io.flags = IO_UNMAP | IO_NO_FALLBACK;
    op_io(op, &a->io);
}

static bool can_punch(const struct append *a)
{
    return backend_size(a->q->meta.layer->file) > a->layout.refblocks_offset && !atomic_load(&a->q->meta.broken);
}

static void append_finish(struct append *a, uint64_t done, int rc)
{
    assert(!a->placed && done <= a->len && (rc == 0 || done == 0));
    unlock_structure(a);
    a->watch->done = done;
    op_end(&a->op, sizeof *a, rc);
}

static void give_up(struct append *a, bool zero)
{
    assert(a->placed);
    pthread_mutex_lock(&a->q->meta.lock);
    q2_append_give_up(&a->q->space, &a->layout, zero);
    pthread_mutex_unlock(&a->q->meta.lock);
    a->placed = false;
}

static void append_step(struct op *op)
{
    struct append *a = container_of(op, struct append, op);

    OP_BEGIN(enum append_state, op)
    if (!lock_structure(a))
        OP_AWAIT(op, APPEND_LOCKED, range_lock_wait(&a->q->meta.structure, &a->lock, op));
    while (!find_place(a))
        OP_TRY(op, APPEND_TABLE_LONGER, q2_refblock_make(&a->q->space, a->block, true, false, op));
    unlock_structure(a);
    if (!a->placed) {
        append_finish(a, 0, 0);
        return;
    }
    while (reserve_needs_io(a))
        OP_TRY(op, APPEND_RESERVED, reserve_part(a, op));
    OP_TRY(op, APPEND_WRITTEN, write_metadata(a, op));
    op->rc = a->watch->stop ? -ECANCELED : 0;
    if (op->rc < 0)
        goto fail;
    if (!lock_structure(a))
        OP_AWAIT(op, APPEND_LOCKED_AGAIN, range_lock_wait(&a->q->meta.structure, &a->lock, op));
    op->rc = q2_takes_writes(&a->q->meta) ? 0 : -EIO;
    if (op->rc < 0)
        goto fail;
    enter_piece(a);
    append_finish(a, a->len, 0);
    return;
fail:
    a->error = op->rc;
    if (a->placed && can_punch(a)) {
        OP_AWAIT(op, APPEND_PUNCHED, punch(a, op));
        give_up(a, op->rc == 0);
    } else if (a->placed) {
        give_up(a, false);
    }
    append_finish(a, 0, a->error);
    return;
    OP_END
}

OP_TYPE(append, append_step, "START", "APPEND_LOCKED", "APPEND_TABLE_LONGER", "APPEND_RESERVED", "APPEND_WRITTEN",
        "APPEND_LOCKED_AGAIN", "APPEND_PUNCHED");

void q2_prealloc_append(struct q2 *q, uint64_t guest_offset, uint64_t len, enum vdisk_prealloc mode,
                        struct q2_append_watch *watch, struct op *op)
{
    struct append *a = op_alloc(op->queue, &append_type, sizeof *a);

    assert(is_aligned(guest_offset, q2_l1_entry_span(&q->meta.geo)) && len > 0);
    assert((mode == VDISK_PREALLOC_METADATA || mode == VDISK_PREALLOC_FALLOC) && !q->meta.data_file);
    watch->done = 0;
    if (!a) {
        op_wake(op, -ENOMEM);
        return;
    }
    a->op.parent = op;
    a->q = q;
    a->guest_offset = guest_offset;
    a->len = len;
    a->mode = mode;
    a->watch = watch;
    op_start(&a->op);
}
