/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The large parts of a new image: metadata as a stream of sequential writes, and the data area.
 *
 * Happy path: a few buffers are filled with the next pieces of metadata and written at once, again and again, in
 * bounded memory. The data area is left sparse (metadata), reserved (falloc), or reserved and written with zeros
 * in parallel (full).
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

enum { STREAM_IOS = 4 };

/* A multiple of every cluster size. */
static const uint64_t stream_piece = 2 << 20;

_Static_assert((2 << 20) % (1 << Q2_MAX_CLUSTER_BITS) == 0, "such a multiple");

struct stream {
    struct op               op;
    struct backend         *file;
    const struct q2_layout *layout;
    uint8_t                *buf;  /* STREAM_IOS pieces */
    uint64_t                start, pos, end;
    struct q2_create       *create;
    bool                    stop; /* cancelled */
    bool                    done;
    struct io               io[STREAM_IOS];
};

enum stream_state { STREAM_START = OP_START, STREAM_WRITTEN };

static void stream_send(struct stream *s, struct op *op)
{
    assert(s->start <= s->pos && s->pos < s->end);
    assert(is_aligned(s->pos | s->end, s->layout->geo.cluster_size));
    op_io_begin(op);
    for (unsigned i = 0; i < STREAM_IOS && s->pos < s->end; i++) {
        uint64_t len = min_u64(stream_piece, s->end - s->pos);
        uint8_t *buf = s->buf + i * stream_piece;

        q2_layout_fill(s->layout, s->pos, buf, len);
        io_rw(&s->io[i], s->file, IO_WRITE, s->pos, buf, len);
        op_io_add(op, &s->io[i]);
        s->pos += len;
    }
    op_io_wait(op);
}

static void stream_step(struct op *op)
{
    struct stream *s = container_of(op, struct stream, op);

    OP_BEGIN(enum stream_state, op)
    while (s->pos < s->end && !s->stop)
        OP_TRY(op, STREAM_WRITTEN, stream_send(s, op));
    s->done = true;
    return;
    OP_END
fail:
    s->done = true;
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

    s->stop = cancelled(s->create, s->create->progress_done + s->pos - s->start);
    return !s->stop;
}

static int stream_run(struct q2_create *c, struct stream *s)
{
    s->create = c;
    s->start = s->pos;
    op_init(&s->op, c->q, &stream_type);
    op_run(&s->op, &s->done, look, s);
    assert(s->op.rc < 0 || s->stop || s->pos == s->end);
    c->progress_done += s->pos - s->start;
    return s->op.rc < 0 ? s->op.rc : s->stop ? -ECANCELED : 0;
}

int q2_prealloc_metadata(struct q2_create *c)
{
    uint64_t end = c->layout.data_offset;
    struct stream s = {.file = c->file, .layout = &c->layout, .pos = c->layout.geo.cluster_size, .end = end};
    uint64_t len = min_u64(STREAM_IOS, div_up(end - s.pos, stream_piece)) * stream_piece;
    int rc;

    assert(s.pos < end);
    s.buf = mem_buffer(len);
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
