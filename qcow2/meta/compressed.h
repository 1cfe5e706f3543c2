/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Reading compressed clusters, and a small cache of the ones read last, so that a sequential reader of small
 * blocks inflates each cluster once. Requests that want a cluster which is being read wait for it, whatever their
 * queue.
 */
#ifndef QCOW2_COMPRESSED_H
#define QCOW2_COMPRESSED_H

#include <pthread.h>
#include <stdint.h>

#include "engine/format.h"
#include "qcow2/format/format.h"

enum {
    Q2_COMPRESSED_CLUSTERS = 4,  /* cached, of one image */
    Q2_COMPRESSED_INFLATERS = 16, /* idle decoders kept */
};

struct q2_compressed_cluster;

/* Embedded in the open image. Everything is under `lock`, which is never held while inflating or copying. */
struct q2_compressed_cache {
    pthread_mutex_t           lock;
    struct q2_compressed_cluster *clusters[Q2_COMPRESSED_CLUSTERS]; /* the one used last first; NULL at the end */
    struct q2_inflater       *inflaters[Q2_COMPRESSED_INFLATERS];
    unsigned                  inflaters_count;
};

void q2_compressed_init(struct q2_compressed_cache *cache);

/* Nothing is being read. */
void q2_compressed_finish(struct q2_compressed_cache *cache);

/*
 * Host clusters that held compressed data are about to be given out for something else: forget what was read from
 * them. To be called when no request can use their descriptors any more (the gate is drained). Any thread.
 */
void q2_compressed_forget(struct q2_compressed_cache *cache);

/*
 * format_driver.read_compressed. e->host_offset is the L2 entry without its flags. Context: parent's queue.
 * Completes by op_wake(parent). Owns `iov` and its buffers until then; `e` only during the call.
 * Errors: -EIO damaged stream, or of the I/O; -ENOMEM.
 */
void q2_read_compressed(struct layer *layer, const struct extent *e, uint64_t guest_offset,
                        const struct iovec *iov, uint32_t iovcnt, uint64_t len, struct op *parent);

/*
 * format_driver.read_compressed_run; in compressed_run.c. Errors: as above.
 */
uint64_t q2_read_compressed_run(struct layer *layer, const struct extent *e, unsigned n, const struct iovec *iov,
                                uint32_t iovcnt, struct op *parent);

struct q2_meta;

/* A decoder, for q2_compressed_put_inflater(); 0 or -ENOMEM. Any thread. */
int q2_compressed_get_inflater(struct q2_meta *meta, struct q2_inflater **ret_inflater);
void q2_compressed_put_inflater(struct q2_meta *meta, struct q2_inflater *inflater);

#endif
