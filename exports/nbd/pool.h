/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Buffers for data, aligned, of one thread: kept by classes of size, so that a request takes one and gives it back
 * without asking the C library. The first ones of the small classes lie in memory that the thread's queue has
 * registered. What is kept is bounded; what is handed out, the connections bound.
 */
#ifndef EXPORTS_NBD_POOL_H
#define EXPORTS_NBD_POOL_H

#include <vdisk.h>

enum { NBDS_CLASSES = 6 };

struct nbds_pool {
    struct nbds_class {
        void   **free; /* the stack of those not in use, of `most` */
        unsigned count, most;
        uint8_t *slab; /* NULL: there is none, or its memory could not be had */
        size_t   slab_bytes;
    } classes[NBDS_CLASSES];
};

int nbds_pool_init(struct nbds_pool *pool);
/* On the queue's thread. Whether memory can be registered makes no difference but to speed. */
void nbds_pool_register(const struct nbds_pool *pool, vdisk_queue *queue);
/* All buffers are back, and the queue is gone. */
void nbds_pool_free(struct nbds_pool *pool);

/* NULL: no memory. `len` is not 0, and the same when it is given back. */
void *nbds_pool_get(struct nbds_pool *pool, size_t len);
void nbds_pool_put(struct nbds_pool *pool, void *buf, size_t len);

#endif
