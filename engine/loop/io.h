/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * One I/O on one backend: what formats and ops issue, and what backends carry out.
 *
 * Life: filled in by io_rw(), io_range() or io_flush(); io_start() hands it to the backend (through a bounce
 * buffer when its alignment falls short of the backend's); the backend ends it with io_end(), from the loop of
 * the queue, never under io_start(); `done` is then called on the queue's thread, once.
 * The struct and its buffers belong to the engine from io_start() to `done`.
 */
#ifndef ENGINE_IO_H
#define ENGINE_IO_H

#include <assert.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "engine/loop/op.h"

enum io_kind {
    IO_READ,     /* past the backend's end reads as zeros */
    IO_WRITE,    /* past the end extends it */
    IO_ZERO,     /* the range reads as zeros afterwards; -ENOTSUP: caller writes zeros itself */
    IO_DISCARD,  /* content no longer needed; advisory: a backend that cannot says 0 */
    IO_ALLOCATE, /* reserve space for the range, content unchanged; -ENOTSUP where there is no such thing */
    IO_TRUNCATE, /* set the size to `offset`; growing reads as zeros */
    IO_FLUSH,    /* all writes ended before are durable, with the metadata needed to read them */
    IO_STATUS,   /* which parts of the range are holes: engine/loop/status.h. Only with BACKEND_SPARSE */
};

enum { IO_KINDS = IO_STATUS + 1 };

enum io_flags {
    IO_FUA      = 1u << 0, /* IO_WRITE: durable when done */
    IO_UNMAP    = 1u << 1, /* IO_ZERO: may give space back */
    IO_NO_GATE  = 1u << 2, /* internal: a read-modify-write's own write, does not wait for itself */
    IO_EXACT    = 1u << 3, /* internal: IO_WRITE of any alignment, past whose end the file's does not move */
    IO_GATED    = 1u << 4, /* internal: counted in the backend's write gate */
    IO_NO_FALLBACK = 1u << 5, /* IO_ZERO: fail with -ENOTSUP rather than write zeros slowly */
};

_Static_assert(IO_KINDS <= UINT8_MAX && IO_NO_FALLBACK <= UINT8_MAX, "they are kept in bytes");

struct backend;
struct block_status;
struct io;
typedef void io_done_fn(struct io *);

struct io {
    struct task         task;
    io_done_fn         *done;
    struct backend     *backend;
    vdisk_queue        *queue;
    struct op          *op; /* the op that waits for it, or NULL: names the state for fault injection */
    uint64_t            offset;
    uint64_t            len;
    const struct iovec *iov; /* IO_READ, IO_WRITE: covers exactly len */
    uint32_t            iovcnt;
    uint8_t             kind;  /* enum io_kind */
    uint8_t             flags; /* enum io_flags */
    uint8_t             tries; /* how often the kernel said EAGAIN, or the end moved under a read */
    uint8_t             gate;  /* parity of the write gate it is counted under */
    int32_t             res;   /* set at the end: 0 or -errno */
    uint64_t            moved; /* bytes done so far: a short transfer goes on from here */
    int64_t             later; /* io_end_later(), io_end_foreign(): the result on its way to io_end() */
    union {
        struct iovec         buf;    /* what iov points to when there is one buffer */
        struct block_status *status; /* IO_STATUS: where the answer goes */
    };
    struct list         in_kernel; /* of the queue's, while an SQE is out for it */
    int                 fd;    /* ring_*(): where to; a worker's call may use both */
    int                 mode;
    int64_t           (*blocking)(struct io *); /* the call that a worker thread makes; as io_end() takes it */
};

/* Fill in. `io` need not be initialised; done and op are set by op_io() or the caller. */
static inline void io_rw(struct io *io, struct backend *b, enum io_kind kind, uint64_t offset, void *buf,
                         uint64_t len)
{
    assert(kind == IO_READ || kind == IO_WRITE);
    io->backend = b;
    io->kind = (uint8_t)kind;
    io->flags = 0;
    io->offset = offset;
    io->len = len;
    io->buf.iov_base = buf;
    io->buf.iov_len = len;
    io->iov = &io->buf;
    io->iovcnt = 1;
}

static inline void io_rwv(struct io *io, struct backend *b, enum io_kind kind, uint64_t offset,
                          const struct iovec *iov, uint32_t iovcnt, uint64_t len)
{
    assert(kind == IO_READ || kind == IO_WRITE);
    io->backend = b;
    io->kind = (uint8_t)kind;
    io->flags = 0;
    io->offset = offset;
    io->len = len;
    io->iov = iov;
    io->iovcnt = iovcnt;
}

/* IO_ZERO, IO_DISCARD, IO_ALLOCATE over a range; IO_TRUNCATE to `offset`; IO_FLUSH with 0, 0. */
static inline void io_range(struct io *io, struct backend *b, enum io_kind kind, uint64_t offset, uint64_t len)
{
    assert(kind != IO_READ && kind != IO_WRITE);
    io->backend = b;
    io->kind = (uint8_t)kind;
    io->flags = 0;
    io->offset = offset;
    io->len = len;
    io->iov = NULL;
    io->iovcnt = 0;
}

/* Hand to the backend. io->done and io->queue are set. Context: the queue's thread. Never completes inline. */
void io_start(struct io *io);

/*
 * For backends, and for them only: the I/O ended with `res`: bytes moved (IO_READ, IO_WRITE; fewer than asked: the
 * engine goes on with the rest; 0 on a read: end of file), 0 for other kinds, or a negative errno. A quota that is
 * used up (-EDQUOT) is -ENOSPC from here on: to whoever asked it means the same.
 * Context: the queue's thread, from the loop.
 */
void io_end(struct io *io, int64_t res);

/*
 * For backends that know the result at once (memory, null, faults): ends the I/O from the loop, soon.
 * Context: the queue's thread, from the backend's submit.
 */
void io_end_later(struct io *io, int64_t res);

/* It has been taken from where it waited: it ends, soon, with -ECANCELED, which nothing else does. */
void io_end_taken_back(struct io *io);

/*
 * For backends whose I/O ends on a thread that is not ours (a library's callback): io_elsewhere() in submit, on
 * the queue's thread, before the other thread can know of the I/O; then io_end_foreign() once, on any thread,
 * which ends the I/O from its queue's loop, and wakes it. A simulated queue waits for no other thread.
 */
void io_elsewhere(struct io *io);
void io_end_foreign(struct io *io, int64_t res);

/*
 * Nothing has been done for it: it ends with -ECANCELED, soon. False: it is on its way, or not under way at
 * all, or a backend has it, and not a ring or workers. Context: the queue's thread, outside the loop.
 */
bool io_take_back(struct io *io);

/* Run one I/O to its end, turning the queue's loop. Only outside the loop. Returns io->res. */
int io_run(vdisk_queue *q, struct io *io);

/* Shorthands of io_run(): 0 or -errno, never short. */
int io_pread(vdisk_queue *q, struct backend *b, void *buf, uint64_t len, uint64_t offset);
int io_pwrite(vdisk_queue *q, struct backend *b, const void *buf, uint64_t len, uint64_t offset);
int io_prange(vdisk_queue *q, struct backend *b, enum io_kind kind, uint64_t offset, uint64_t len);
int io_pflush(vdisk_queue *q, struct backend *b);

/* ---- what backends on file descriptors use (ring.c); context: the queue's thread, from submit --------- */

/* Read or write io->iov at io->offset + io->moved on `fd`; io_end() follows. Honours IO_FUA. */
void ring_rw(struct io *io, int fd);
/* fdatasync(fd). */
void ring_fsync(struct io *io, int fd);
/* fallocate(fd, mode, io->offset, io->len). */
void ring_fallocate(struct io *io, int fd, int mode);
/* Run call(io) on a worker thread; its result ends the I/O, as io_end() takes it. */
void ring_work(struct io *io, int64_t (*call)(struct io *));
/* The same for a call that computes and does not block: it waits for a processor. */
void ring_compute(struct io *io, int64_t (*compute)(struct io *));

#endif
