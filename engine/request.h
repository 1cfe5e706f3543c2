/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A user's request, from enqueue to reap.
 *
 *   FREE -> enqueue -> STARTED -> request_end() -> DONE (in the queue's done list) -> reap -> FREE
 *
 * The fast path uses the request's own `io` and nothing else; any other way is an op that holds the request.
 */
#ifndef ENGINE_REQUEST_H
#define ENGINE_REQUEST_H

#include <stddef.h>

#include "engine/loop/io.h"
#include "engine/loop/op.h"
#include "engine/vdisk.h"

enum request_kind {
    REQ_READ = VDISK_REQUEST_READ,
    REQ_WRITE = VDISK_REQUEST_WRITE,
    REQ_ZERO = VDISK_REQUEST_ZERO,
    REQ_DISCARD = VDISK_REQUEST_DISCARD,
    REQ_FLUSH = VDISK_REQUEST_FLUSH,
    REQ_EXTENTS = VDISK_REQUEST_EXTENTS,
    REQ_PREFETCH = VDISK_REQUEST_PREFETCH,
    REQ_COPY = VDISK_REQUEST_COPY,
};

/*
 * In request.flags, beside enum vdisk_req_flags: an I/O of it has failed, and it goes another way; it has found no
 * space, and `rooms` says when it began anew; it was to be taken back, and does not wait for room again.
 */
enum {
    REQUEST_TRIED = 1u << 7,
    REQUEST_UNPARKED = 1u << 6,
    REQUEST_UNWANTED = 1u << 5,
    REQUEST_OWN = REQUEST_TRIED | REQUEST_UNPARKED | REQUEST_UNWANTED,
};

_Static_assert((int)REQ_COPY < VDISK_REQUEST_KINDS, "counted by kind");
_Static_assert(((unsigned)REQUEST_OWN &
                (VDISK_REQ_FUA | VDISK_REQ_UNMAP | VDISK_REQ_NO_FALLBACK | VDISK_REQ_EXPLICIT |
                 VDISK_REQ_COMPRESSED)) == 0 &&
               REQUEST_TRIED <= UINT8_MAX, "bits of their own");

enum request_state { REQUEST_FREE, REQUEST_STARTED, REQUEST_DONE };

/* Of those that are in flight the first four cache lines are what the fast path touches. */
struct request {
    struct io             io;     /* the fast path's only I/O; its buffer is that of a call without a list */
    struct request       *next;   /* free list, done list, or those that are parked */
    vdisk                *vdisk;
    vdisk_queue          *queue;
    struct pair          *pair;   /* of the two; fixed from its start on */
    uint64_t              user_data;
    uint64_t              guest_offset;
    uint64_t              len;
    const struct iovec   *iov;    /* READ, WRITE */
    uint32_t              iovcnt;
    uint8_t               kind;   /* enum request_kind */
    uint8_t               asked;  /* the same: as it was enqueued */
    bool                  direct; /* READ, WRITE: its mapping was at hand */
    uint8_t               flags;  /* enum vdisk_req_flags, REQUEST_TRIED */
    int32_t               result;
    uint32_t              error;  /* failed: on its way to its end (failure.h); DONE, of its words; else 0 */
    uint8_t               state;  /* enum request_state */
    uint8_t               gate;   /* parity of the volume's gate */
    struct request       *merged; /* WRITE, at the format: the neighbour that goes with it, and so on; or NULL */
    uint64_t              begun_ns; /* of a queue that measures */
    struct vdisk_extents *extents;
    union {
        struct iovec      iov_inline[VDISK_IOV_INLINE];
        struct {                      /* COPY */
            vdisk        *source;
            uint64_t      source_offset;
            uint8_t       source_gate; /* parity of its gate */
        };
    };
    struct iovec         *iov_long;   /* the copy of a longer list; stays with the request for the next one */
    uint32_t              iov_room;   /* entries of it */
    uint32_t              rooms;      /* REQUEST_UNPARKED: as grower.rooms was */
} __attribute__((aligned(64)));

_Static_assert(offsetof(struct request, gate) < 4 * 64, "four cache lines");
_Static_assert(offsetof(struct request, io) == 0 && sizeof(struct request) % 64 == 0, "lines of its own");

/*
 * End a request with 0 or -errno. A write, zero or discard with VDISK_REQ_FUA that was carried out without it goes
 * on to a flush first: the one who calls need not care, unless it has seen to durability and cleared the flag.
 * Context: the queue's thread.
 */
void request_end(struct request *r, int result);

/* The same from a place that is not in the loop, or may not be: the request ends in the next turn. */
void request_end_later(struct request *r, int result);

/* The op does what the request asks for: op_end() ends it. */
static inline void op_serve(struct op *op, struct request *r)
{
    assert(!op->parent && !op->request && op->queue == r->queue);
    op->request = r;
    op->end_request = request_end;
}

/* request_end() a write and those merged with it, all with that result. */
void request_end_merged(struct request *r, int result);

/* The same of a write, and of those merged with it. */
static inline void op_serve_merged(struct op *op, struct request *r)
{
    assert(!op->parent && !op->request && op->queue == r->queue && r->kind == REQ_WRITE);
    op->request = r;
    op->end_request = request_end_merged;
}

/* Is it one that changes what the volume reads? */
static inline bool request_changes(enum request_kind kind)
{
    return kind == REQ_WRITE || kind == REQ_ZERO || kind == REQ_DISCARD || kind == REQ_COPY;
}

/* 0, or why it is not carried out: all that may be. In the gate. */
int request_check(const struct request *r);

/* request_end_later() a request that the format was given, and those merged with it. */
void request_refuse(struct request *r, int result);

/* Find words for its end with `result`, an error, while its volume is there. Their number; 0: there are none. */
uint32_t request_explain(const struct request *r, int result);

/* The words of a completion become the error text of this thread; returns its result. Any thread. */
int request_show_error(vdisk_queue *q, const struct vdisk_completion *c);

/* enum vdisk_req_flags that a kind may have. */
static inline uint32_t request_allowed_flags(enum request_kind kind)
{
    if (kind == REQ_ZERO)
        return VDISK_REQ_FUA | VDISK_REQ_UNMAP | VDISK_REQ_NO_FALLBACK | VDISK_REQ_EXPLICIT;
    if (kind == REQ_WRITE)
        return VDISK_REQ_FUA | VDISK_REQ_COMPRESSED;
    if (kind == REQ_COPY)
        return VDISK_REQ_NO_FALLBACK;
    return kind == REQ_DISCARD ? VDISK_REQ_FUA : 0;
}

/* ZERO: enum io_flags of the request's. */
static inline uint8_t request_zero_flags(const struct request *r)
{
    assert(r->kind == REQ_ZERO || r->kind == REQ_DISCARD);
    return (uint8_t)((r->flags & VDISK_REQ_UNMAP ? IO_UNMAP : 0) |
                     (r->flags & VDISK_REQ_NO_FALLBACK ? IO_NO_FALLBACK : 0));
}

#endif
