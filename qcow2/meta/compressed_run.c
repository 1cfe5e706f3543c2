/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Reading several compressed clusters at once: those that lie one behind the other in the file, as they do where
 * they were written so, and go as a whole into the caller's buffers.
 *
 * Happy path: one read over all of their sectors, then a worker inflates them, one by one, into place; other reads
 * have workers of their own meanwhile. Failure modes: as of one cluster (compressed.c).
 */
#include <errno.h>
#include <stdlib.h>

#include "engine/base/bits.h"
#include "engine/base/iov.h"
#include "engine/base/mem.h"
#include "engine/loop/failure.h"
#include "engine/loop/queue.h"
#include "qcow2/meta/compressed.h"
#include "qcow2/meta/state.h"

/* GAP: so much in between is read along. HERE: less output is not worth a worker's wake-up. */
enum { RUN_MOST = 32, RUN_GAP = 64 << 10, RUN_BYTES = 4 << 20, RUN_HERE = 64 << 10 };

struct run_cluster {
    uint64_t host_offset, host_len;
    uint8_t *out;
};

struct read_run {
    struct op          op;
    struct q2_meta    *meta;
    unsigned           count;
    uint64_t           start, end; /* of their sectors */
    uint64_t           read_start; /* aligned for the backend */
    uint8_t           *host;
    struct io          io;
    struct run_cluster cluster[RUN_MOST];
};

enum read_run_state { RUN_START = OP_START, RUN_READ, RUN_INFLATED };

/* Any thread: only the op's own, or the worker that it waits for, touches them. */
static int inflate_run(const struct read_run *r)
{
    struct q2_inflater *f;
    int rc = q2_compressed_get_inflater(r->meta, &f);

    if (rc < 0)
        return rc;
    for (unsigned i = 0; i < r->count && rc == 0; i++) {
        const struct run_cluster *c = &r->cluster[i];
        rc = q2_inflate(f, r->host + (c->host_offset - r->read_start), c->host_len, c->out,
                        r->meta->geo.cluster_size);
    }
    q2_compressed_put_inflater(r->meta, f);
    return rc;
}

static int64_t inflate_work(struct io *io)
{
    return inflate_run(container_of(io, struct read_run, io));
}

/* The call of an await. */
static void inflate_elsewhere(struct read_run *r, struct op *op)
{
    op_io_begin(op);
    op_io_prepare(op, &r->io);
    io_range(&r->io, r->meta->layer->file, IO_FLUSH, 0, 0);
    ring_compute(&r->io, inflate_work);
    op_io_wait(op);
}

static int prepare_read(struct read_run *r)
{
    struct backend *b = r->meta->layer->file;
    uint64_t start = align_down(r->start, b->align), len = align_up(r->end, b->align) - start;
    void *buf;

    if (mem_memalign(&buf, max_u64(b->mem_align, sizeof(void *)), align_up(len, b->mem_align)))
        return -ENOMEM;
    r->host = buf;
    r->read_start = start;
    io_rw(&r->io, b, IO_READ, start, buf, len);
    return 0;
}

static void read_run_finish(struct read_run *r, int rc)
{
    mem_free(r->host);
    op_end(&r->op, sizeof *r, rc);
}

/* Whatever its inflating has found. */
static void read_run_end(struct read_run *r, int rc)
{
    if (rc == -EIO)
        failure_note_content(r->meta->layer->file, r->start, r->end - r->start);
    read_run_finish(r, rc);
}

static void read_run_step(struct op *op)
{
    struct read_run *r = container_of(op, struct read_run, op);

    OP_BEGIN(enum read_run_state, op)
    op->rc = prepare_read(r);
    if (op->rc < 0)
        goto fail;
    OP_TRY(op, RUN_READ, op_io(op, &r->io));
    if (r->count * r->meta->geo.cluster_size > RUN_HERE) {
        OP_AWAIT(op, RUN_INFLATED, inflate_elsewhere(r, op));
        if (op->rc != -ENOMEM) {
            read_run_end(r, op->rc);
            return;
        }
    }
    read_run_end(r, inflate_run(r)); /* here: there may have been no thread */
    return;
    OP_END
fail:
    read_run_finish(r, op->rc);
}

OP_TYPE(read_run, read_run_step, "RUN_START", "RUN_READ", "RUN_INFLATED");

/* Does it follow what there is, and go whole into one buffer? Then it is one more. */
static bool add_cluster(struct read_run *r, const struct extent *e, const struct iovec *iov, uint32_t iovcnt)
{
    uint64_t size = r->meta->geo.cluster_size, covered;
    struct q2_mapping m = q2_entry_decode(&r->meta->geo, e->host_offset | Q2_COMPRESSED, 0);
    uint64_t end = m.host_offset + m.compressed_len;
    struct iovec piece;

    if (e->len != size || iov_slice(iov, iovcnt, r->count * size, size, &piece, 1, &covered) != 1 ||
        covered != size)
        return false;
    if (r->count > 0 && (m.host_offset < r->start || m.host_offset > r->end + RUN_GAP ||
                         max_u64(end, r->end) - r->start > RUN_BYTES))
        return false;
    if (r->count == 0)
        r->start = m.host_offset;
    r->end = max_u64(end, r->end);
    r->cluster[r->count++] = (struct run_cluster){m.host_offset, m.compressed_len, piece.iov_base};
    return true;
}

uint64_t q2_read_compressed_run(struct layer *layer, const struct extent *e, unsigned n, const struct iovec *iov,
                                uint32_t iovcnt, struct op *parent)
{
    struct read_run *r = n > 1 ? op_alloc(parent->queue, &read_run_type, sizeof *r) : NULL;
    uint64_t len;

    if (!r)
        return 0;
    r->meta = q2_meta_of(layer);
    while (r->count < n && r->count < RUN_MOST && add_cluster(r, &e[r->count], iov, iovcnt))
        continue;
    if (r->count < 2) {
        op_free(&r->op, sizeof *r);
        return 0;
    }
    len = r->count * r->meta->geo.cluster_size;
    r->op.parent = parent;
    op_start(&r->op);
    return len;
}
