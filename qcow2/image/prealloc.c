/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The large parts of a new image: metadata as a stream of sequential writes, and the data area.
 *
 * Happy path: a few buffers are filled with the next pieces of metadata and written; whichever has been written
 * gets the next piece at once, so that the device is kept busy, in bounded memory. The data area is left sparse
 * (metadata), reserved (falloc), or reserved and written with zeros in parallel (full).
 * Failure modes: the first error stops, and the caller removes the image, whose header is not written yet. The
 * same after a cancel.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/error.h"
#include "engine/base/mem.h"
#include "engine/loop/queue.h"
#include "engine/loop/zero.h"
#include "qcow2/image/create.h"

/* Each of its buffers' pages is a fault once: few of them, so many that the device always has the next. */
enum { STREAM_IOS = 8, STREAM_PIECE = 256 << 10 };

struct stream {
    struct op               op;
    struct backend         *file;
    const struct q2_layout *layout;
    uint8_t                *buf;  /* STREAM_IOS pieces */
    uint64_t                piece;
    uint64_t                start, pos, end;
    struct q2_create       *create;
    unsigned                running;
    bool                    stop; /* cancelled, or one has failed */
    bool                    cancelled;
    bool                    done;
    struct io               io[STREAM_IOS];
};

enum stream_state { STREAM_START = OP_START, STREAM_WRITTEN };

static void stream_done(struct io *io);

/* Send the next piece, from the buffer of io[i]; false: there is none. */
static bool stream_next(struct stream *s, size_t i)
{
    uint64_t len = min_u64(s->piece, s->end - s->pos);
    uint8_t *buf = s->buf + i * s->piece;
    struct io *io = &s->io[i];

    assert(s->start <= s->pos && s->pos <= s->end);
    assert(is_aligned(s->pos | s->end | s->piece, s->layout->geo.cluster_size));
    if (s->stop || len == 0)
        return false;
    q2_layout_fill(s->layout, s->pos, buf, len);
    io_rw(io, s->file, IO_WRITE, s->pos, buf, len);
    io->op = &s->op;
    io->queue = s->op.queue;
    io->done = stream_done;
    s->pos += len;
    io_start(io);
    return true;
}

static void stream_done(struct io *io)
{
    struct stream *s = container_of(io->op, struct stream, op);

    assert(s->running > 0 && s->op.state == STREAM_WRITTEN);
    if (io->res < 0) {
        op_note_error(&s->op, io->res);
        s->stop = true;
    }
    if (stream_next(s, (size_t)(io - s->io)))
        return;
    if (--s->running == 0)
        op_resume(&s->op);
}

/* The call of an await. */
static void stream_begin(struct stream *s)
{
    for (size_t i = 0; i < STREAM_IOS && stream_next(s, i); i++)
        s->running++;
    assert(s->running > 0); /* whose ends it waits for */
}

static void stream_step(struct op *op)
{
    struct stream *s = container_of(op, struct stream, op);

    OP_BEGIN(enum stream_state, op)
    OP_AWAIT(op, STREAM_WRITTEN, stream_begin(s));
    s->done = true;
    return;
    OP_END
}

OP_TYPE(stream, stream_step, "START", "STREAM_WRITTEN");

static bool cancelled(const struct q2_create *c, uint64_t done)
{
    const struct vdisk_create_opts *o = c->plan.opts;

    return o->progress && o->progress(o->progress_arg, done, c->progress_total) != 0;
}

static bool look(void *arg)
{
    struct stream *s = arg;

    s->cancelled = cancelled(s->create, s->create->progress_done + s->pos - s->start);
    s->stop |= s->cancelled;
    return !s->stop;
}

static int stream_run(struct q2_create *c, struct stream *s)
{
    s->create = c;
    s->start = s->pos;
    op_init(&s->op, c->q, &stream_type);
    op_run(&s->op, &s->done, look, s);
    assert(s->op.rc < 0 || s->cancelled || s->pos == s->end);
    c->progress_done += s->pos - s->start;
    return s->op.rc < 0 ? s->op.rc : s->cancelled ? -ECANCELED : 0;
}

int q2_prealloc_metadata(struct q2_create *c)
{
    uint64_t end = c->layout.data_offset;
    struct stream s = {.file = c->file, .layout = &c->layout, .pos = c->layout.geo.cluster_size, .end = end};
    int rc;

    assert(s.pos < end);
    s.piece = min_u64(end - s.pos, max_u64(STREAM_PIECE, c->layout.geo.cluster_size));
    s.buf = mem_buffer(min_u64(STREAM_IOS, div_up(end - s.pos, s.piece)) * s.piece);
    rc = s.buf ? stream_run(c, &s) : -ENOMEM;
    mem_free(s.buf);
    return rc < 0 ? q2_create_failed(c, rc, c->plan.name, "writing metadata") : 0;
}

/* ---- data ---------------------------------------------------------------------------------------------- */

/* zero_fill() counts from 0 to its length; the user's function gets all of it. */
static int fill_progress(void *arg, uint64_t done, uint64_t total)
{
    struct q2_create *c = arg;

    (void)total;
    return cancelled(c, c->progress_done + done);
}

static int fill(struct q2_create *c)
{
    uint64_t len = q2_create_data_len(c);
    vdisk_progress_fn *progress = c->plan.opts->progress ? fill_progress : NULL;
    int rc = zero_fill(c->q, c->data, q2_create_data_offset(c), len, progress, c);

    c->progress_done += len;
    return rc;
}

/* By what the host has for it, else by writing. */
static int make_zero(struct q2_create *c)
{
    int rc;

    assert(c->layout.map == Q2_MAP_NORMAL); /* others say in their entries how they read */
    rc = io_prange(c->q, c->data, IO_ZERO, q2_create_data_offset(c), q2_create_data_len(c));
    return rc == -ENOTSUP || rc == -EOPNOTSUPP ? fill(c) : rc;
}

static int reserve(struct q2_create *c)
{
    assert(q2_create_data_len(c) > 0 && c->layout.map != Q2_MAP_NONE);
    return io_prange(c->q, c->data, IO_ALLOCATE, q2_create_data_offset(c), q2_create_data_len(c));
}

/* The L2 entries will say that the area reads as zeros, but it may hold old content. */
static bool must_zero(const struct q2_create *c)
{
    return c->layout.map == Q2_MAP_NORMAL && !q2_create_reads_zero(c->data);
}

int q2_prealloc_data(struct q2_create *c)
{
    int rc = 0;

    if (q2_create_data_len(c) == 0)
        return 0;
    switch (c->prealloc) {
    case VDISK_PREALLOC_OFF:
        return 0;
    case VDISK_PREALLOC_METADATA:
        if (must_zero(c))
            rc = make_zero(c);
        break;
    case VDISK_PREALLOC_FALLOC:
        rc = reserve(c);
        if (rc == -ENOTSUP || rc == -EOPNOTSUPP) {
            q2_create_failed(c, -ENOTSUP, c->data->name, "preallocation=falloc is not possible here");
            return err_hint(-ENOTSUP, "use preallocation=full");
        }
        if (rc == 0 && must_zero(c))
            rc = make_zero(c);
        break;
    case VDISK_PREALLOC_FULL:
        /* Reserved first where that is possible: one extent, and no space that runs out half way. */
        rc = reserve(c);
        if (rc == 0 || rc == -ENOTSUP || rc == -EOPNOTSUPP)
            rc = fill(c);
        break;
    }
    return rc < 0 ? q2_create_failed(c, rc, c->data->name, "preallocating") : 0;
}
