/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The room of the flush: what other rooms use of it.
 *
 * Promises: what was reaped before a flush began is durable when it has ended, written in the order of the rules
 * (flush.c), so that after a crash at any moment the image is one that could have been.
 * Owns: the line of those who flush.
 * May not: allocate clusters, nor decide what is free; it uses space/, meta/ and format/ only.
 */
#ifndef QCOW2_FLUSH_H
#define QCOW2_FLUSH_H

#include "qcow2/meta/meta.h"
#include "qcow2/space/space.h"

struct q2_flush {
    struct q2_meta  *meta;
    struct q2_space *space;
    struct list      flush_waiting; /* with meta->lock held: ops, by op.wait */
};

/* Nobody waits; over the same image's metadata and space. */
void q2_flush_state_init(struct q2_flush *flush, struct q2_meta *meta, struct q2_space *space);

/* Debug builds, with the lock held: the line, and what belongs to the flush under way. */
#ifdef NDEBUG
static inline void q2_flush_assert(const struct q2_flush *flush) {}
#else
void q2_flush_assert(const struct q2_flush *flush);
#endif

/* As the call of an await. */
void q2_flush(struct q2_flush *flush, struct op *op);

/* Ends by request_end(r). */
void q2_flush_start(struct q2_flush *flush, struct request *r);

/* To its end, outside the loop. */
int q2_flush_sync(struct q2_flush *flush, vdisk_queue *queue);

#endif
