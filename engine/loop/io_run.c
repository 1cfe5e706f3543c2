/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* I/O that is waited for outside the loop: by calls that block. */
#include <stdbool.h>

#include "engine/backend.h"
#include "engine/base/bits.h"
#include "engine/loop/io.h"
#include "engine/loop/op.h"

struct sync_io {
    struct op  op;
    struct io *io;
    bool       done;
};

enum sync_io_state { SYNC_START = OP_START, SYNC_IO };

static void sync_io_step(struct op *op)
{
    struct sync_io *s = container_of(op, struct sync_io, op);

    OP_BEGIN(enum sync_io_state, op)
    OP_AWAIT(op, SYNC_IO, op_io(op, s->io));
    s->done = true;
    return;
    OP_END
}

OP_TYPE(sync_io, sync_io_step, "START", "SYNC_IO");

int io_run(vdisk_queue *q, struct io *io)
{
    struct sync_io s = {.io = io};

    op_init(&s.op, q, &sync_io_type);
    op_run(&s.op, &s.done, NULL, NULL);
    assert(s.op.rc == io->res && s.op.rc <= 0);
    return s.op.rc;
}

int io_pread(vdisk_queue *q, struct backend *b, void *buf, uint64_t len, uint64_t offset)
{
    struct io io;

    io_rw(&io, b, IO_READ, offset, buf, len);
    return io_run(q, &io);
}

int io_pwrite(vdisk_queue *q, struct backend *b, const void *buf, uint64_t len, uint64_t offset)
{
    struct io io;

    io_rw(&io, b, IO_WRITE, offset, unconst(buf), len);
    return io_run(q, &io);
}

int io_prange(vdisk_queue *q, struct backend *b, enum io_kind kind, uint64_t offset, uint64_t len)
{
    struct io io;

    io_range(&io, b, kind, offset, len);
    return io_run(q, &io);
}

int io_pflush(vdisk_queue *q, struct backend *b)
{
    return io_prange(q, b, IO_FLUSH, 0, 0);
}
