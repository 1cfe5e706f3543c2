/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Happy path: the queue's entry for the backend, by a hash of its address; made at the first look.
 * Failure modes: no memory for an entry, or attach() fails: the caller's I/O does, the next asks anew.
 */
#include "engine/loop/attach.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

#include "engine/base/mem.h"
#include "engine/base/short_lock.h"
#include "engine/loop/queue.h"

struct attachment {
    struct attachment        *next;     /* of the queue's bucket */
    struct list               link;     /* in the backend's list */
    vdisk_queue              *queue;
    _Atomic(struct backend *) backend;  /* NULL: it is gone */
    void                     *state;
};

/* All lists of backends, and who goes first. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static struct attachment **bucket_of(vdisk_queue *q, const struct backend *b)
{
    return &q->attached[((uintptr_t)b >> 6) % ATTACH_BUCKETS];
}

/* The entry of `b`; with NULL one that is to be had. */
static struct attachment *find(struct attachment *bucket, const struct backend *b)
{
    while (bucket && atomic_load_explicit(&bucket->backend, memory_order_acquire) != b)
        bucket = bucket->next;
    return bucket;
}

static struct attachment *entry_for(vdisk_queue *q, const struct backend *b)
{
    struct attachment **bucket = bucket_of(q, b);
    struct attachment *a = find(*bucket, NULL);

    if (a)
        return a;
    a = mem_calloc(1, sizeof *a);
    if (!a)
        return NULL;
    a->queue = q;
    list_init(&a->link);
    a->next = *bucket;
    *bucket = a;
    return a;
}

static void *attach(vdisk_queue *q, struct backend *b, int *ret_rc)
{
    struct attachment *a = entry_for(q, b);

    *ret_rc = a ? b->driver->attach(b, q, &a->state) : -ENOMEM;
    if (*ret_rc < 0)
        return NULL;
    pthread_mutex_lock(&lock);
    assert(a->queue == q && list_empty(&a->link)); /* invariant 2: it is in no backend's list */
    list_add_tail(&b->attached, &a->link);
    atomic_store_explicit(&a->backend, b, memory_order_release);
    pthread_mutex_unlock(&lock);
    return a->state;
}

void *backend_on_queue(struct backend *b, vdisk_queue *q, int *ret_rc)
{
    struct attachment *a = find(*bucket_of(q, b), b);

    assert(b->driver->attach && queue_is_mine(q));
    *ret_rc = 0;
    return likely(a != NULL) ? a->state : attach(q, b, ret_rc);
}

static void detach(struct attachment *a)
{
    struct backend *b = atomic_load_explicit(&a->backend, memory_order_relaxed);

    assert_locked(&lock);
    assert(b && !list_empty(&a->link));
    list_del(&a->link);
    b->driver->detach(b, a->queue, a->state);
    atomic_store_explicit(&a->backend, NULL, memory_order_release);
}

void attach_queue_goes(vdisk_queue *q)
{
    for (unsigned i = 0; i < ATTACH_BUCKETS; i++) {
        struct attachment *a;
        while ((a = q->attached[i])) {
            q->attached[i] = a->next;
            pthread_mutex_lock(&lock);
            if (atomic_load_explicit(&a->backend, memory_order_relaxed))
                detach(a);
            pthread_mutex_unlock(&lock);
            mem_free(a);
        }
    }
}

void attach_backend_goes(struct backend *b)
{
    pthread_mutex_lock(&lock);
    while (!list_empty(&b->attached))
        detach(container_of(b->attached.next, struct attachment, link));
    pthread_mutex_unlock(&lock);
}
