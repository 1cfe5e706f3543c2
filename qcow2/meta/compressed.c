/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Reading compressed clusters.
 *
 * Happy path: the cluster is cached: copy. Or: claim it in the cache, read its sectors (an aligned superset,
 * straight into one buffer), inflate, copy, wake those who wanted it too. A request for a whole cluster in one
 * buffer inflates into that buffer and leaves the cache alone. Clusters above 64 KiB are inflated by worker
 * threads, several at a time. Failure modes: no memory, the read fails, the stream is damaged: all who wait get
 * the error, and the cluster is forgotten, so that the next request tries again. No worker can be had: inflated
 * here.
 *
 * Invariants.
 *  1. A cluster is filled by the op that added it, its leader; others touch `data` only after `done`, the leader
 *     never after it.
 *  2. `refs` counts the ops that hold the cluster, plus one while it is in the cache. Who drops the last one
 *     frees.
 *  3. A leader on a queue that only its owner turns serves that queue only: others read the cluster for
 *     themselves.
 *  4. A cluster forgotten while it is being read still serves those who had found it, and nobody else.
 */
#include "qcow2/meta/compressed.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/bits.h"
#include "engine/base/iov.h"
#include "engine/base/mem.h"
#include "engine/loop/failure.h"
#include "engine/loop/queue.h"
#include "engine/volume.h"
#include "qcow2/format/format.h"
#include "qcow2/meta/state.h"

struct q2_compressed_cluster {
    uint64_t    descriptor;
    unsigned    refs;
    bool        done;
    int         rc;
    const vdisk_queue *queue; /* the leader's, until `done` */
    struct list waiters; /* ops that wait for `done` */
    uint8_t     data[];  /* one cluster */
};

enum read_compressed_state { RP_START = OP_START, RP_SHARED, RP_READ, RP_INFLATED };

/* Larger clusters are inflated by a worker thread: they would hold up the queue, and one after another. */
static const uint64_t inflate_here = 64 << 10;

struct read_compressed {
    struct op                 op;
    struct layer             *layer;
    uint64_t                  descriptor;
    uint64_t                  guest_offset;
    uint64_t                  len;
    const struct iovec       *iov;
    uint32_t                  iovcnt;
    struct q2_compressed_cluster *cluster; /* NULL: straight into the caller's buffer */
    bool                      leader;
    uint8_t                  *host;    /* sectors as read */
    size_t                    host_head;/* before the stream */
    size_t                    host_len; /* of the stream, up to the end of its last sector */
    struct io                 io;
};

/* ---- the cache ------------------------------------------------------------------------------------- */

void q2_compressed_init(struct q2_compressed_cache *cache)
{
    memset(cache, 0, sizeof *cache);
    pthread_mutex_init(&cache->lock, NULL);
}

static void cluster_unref_locked(struct q2_compressed_cluster *c)
{
    assert(c->refs > 0);
    if (--c->refs > 0)
        return;
    assert(list_empty(&c->waiters));
    mem_free(c);
}

void q2_compressed_forget(struct q2_compressed_cache *cache)
{
    pthread_mutex_lock(&cache->lock);
    for (unsigned i = 0; i < Q2_COMPRESSED_CLUSTERS && cache->clusters[i]; i++) {
        cluster_unref_locked(cache->clusters[i]);
        cache->clusters[i] = NULL;
    }
    pthread_mutex_unlock(&cache->lock);
}

void q2_compressed_finish(struct q2_compressed_cache *cache)
{
    q2_compressed_forget(cache);
    while (cache->inflaters_count > 0)
        q2_inflater_destroy(cache->inflaters[--cache->inflaters_count]);
    pthread_mutex_destroy(&cache->lock);
}

/* Take what is at `i` out, and close the gap. */
static void cache_remove(struct q2_compressed_cache *cache, unsigned i)
{
    for (; i + 1 < Q2_COMPRESSED_CLUSTERS; i++)
        cache->clusters[i] = cache->clusters[i + 1];
    cache->clusters[Q2_COMPRESSED_CLUSTERS - 1] = NULL;
}

static void cache_add_first(struct q2_compressed_cache *cache, struct q2_compressed_cluster *c)
{
    if (cache->clusters[Q2_COMPRESSED_CLUSTERS - 1])
        cluster_unref_locked(cache->clusters[Q2_COMPRESSED_CLUSTERS - 1]);
    for (unsigned i = Q2_COMPRESSED_CLUSTERS - 1; i > 0; i--)
        cache->clusters[i] = cache->clusters[i - 1];
    cache->clusters[0] = c;
}

/* A reference to the cluster, now the first in the cache; NULL if it is not there. */
static struct q2_compressed_cluster *cache_find_locked(struct q2_compressed_cache *cache, uint64_t descriptor)
{
    for (unsigned i = 0; i < Q2_COMPRESSED_CLUSTERS && cache->clusters[i]; i++) {
        struct q2_compressed_cluster *c = cache->clusters[i];

        if (c->descriptor == descriptor) {
            cache_remove(cache, i);
            cache_add_first(cache, c);
            c->refs++;
            return c;
        }
    }
    return NULL;
}

/* Invariant 3. */
static bool may_wait(const struct q2_compressed_cluster *c, const vdisk_queue *queue)
{
    return c->done || c->queue == queue || c->queue->always_turned;
}

/* A reference to the cluster; *ret_leader: it is the caller's to fill. NULL: no memory. */
static struct q2_compressed_cluster *cache_claim(struct q2_compressed_cache *cache, uint64_t descriptor,
                                                     size_t cluster_size, const vdisk_queue *queue,
                                                     bool *ret_leader)
{
    struct q2_compressed_cluster *c, *theirs = NULL;

    pthread_mutex_lock(&cache->lock);
    c = cache_find_locked(cache, descriptor);
    if (c && !may_wait(c, queue)) {
        theirs = c;
        cluster_unref_locked(c);
        c = NULL;
    }
    *ret_leader = !c;
    if (!c) {
        c = mem_alloc(sizeof *c + cluster_size);
        if (c) {
            *c = (struct q2_compressed_cluster){.descriptor = descriptor, .refs = 1, .queue = queue};
            list_init(&c->waiters);
        }
        if (c && !theirs) {
            c->refs++;
            cache_add_first(cache, c);
        }
    }
    pthread_mutex_unlock(&cache->lock);
    return c;
}

/* Wake `op` when the cluster is done. */
static void cluster_wait(struct q2_compressed_cache *cache, struct q2_compressed_cluster *c, struct op *op)
{
    pthread_mutex_lock(&cache->lock);
    if (c->done)
        op_wake(op, c->rc);
    else
        list_add_tail(&c->waiters, &op->wait);
    pthread_mutex_unlock(&cache->lock);
}

/* The leader is through with it, one way or the other. */
static void cluster_done(struct q2_compressed_cache *cache, struct q2_compressed_cluster *c, int rc)
{
    pthread_mutex_lock(&cache->lock);
    assert(!c->done);
    c->done = true;
    c->rc = rc;
    for (unsigned i = 0; rc < 0 && i < Q2_COMPRESSED_CLUSTERS; i++) {
        if (cache->clusters[i] == c) {
            cache_remove(cache, i);
            cluster_unref_locked(c);
            break;
        }
    }
    op_wake_all(&c->waiters, rc);
    pthread_mutex_unlock(&cache->lock);
}

static void cluster_unref(struct q2_compressed_cache *cache, struct q2_compressed_cluster *c)
{
    pthread_mutex_lock(&cache->lock);
    cluster_unref_locked(c);
    pthread_mutex_unlock(&cache->lock);
}

/* ---- inflating ------------------------------------------------------------------------------------- */

int q2_compressed_get_inflater(struct q2_meta *meta, struct q2_inflater **ret_inflater)
{
    struct q2_compressed_cache *cache = &meta->compressed;

    *ret_inflater = NULL;
    pthread_mutex_lock(&cache->lock);
    if (cache->inflaters_count > 0)
        *ret_inflater = cache->inflaters[--cache->inflaters_count];
    pthread_mutex_unlock(&cache->lock);
    return *ret_inflater ? 0 : q2_inflater_create(meta->compression, ret_inflater);
}

void q2_compressed_put_inflater(struct q2_meta *meta, struct q2_inflater *f)
{
    struct q2_compressed_cache *cache = &meta->compressed;

    pthread_mutex_lock(&cache->lock);
    if (cache->inflaters_count < Q2_COMPRESSED_INFLATERS) {
        cache->inflaters[cache->inflaters_count++] = f;
        f = NULL;
    }
    pthread_mutex_unlock(&cache->lock);
    q2_inflater_destroy(f);
}

/* Any thread: only the op's own, or the worker that it waits for, touches them. */
static int inflate_cluster(const struct read_compressed *p)
{
    struct q2_meta *meta = q2_meta_of(p->layer);
    uint8_t *out = p->cluster ? p->cluster->data : p->iov[0].iov_base;
    struct q2_inflater *f;
    int rc = q2_compressed_get_inflater(meta, &f);

    if (rc < 0)
        return rc;
    rc = q2_inflate(f, p->host + p->host_head, p->host_len, out, meta->geo.cluster_size);
    q2_compressed_put_inflater(meta, f);
    return rc;
}

static int64_t inflate_work(struct io *io)
{
    return inflate_cluster(container_of(io, struct read_compressed, io));
}

/* The call of an await. */
static void inflate_elsewhere(struct read_compressed *p, struct op *op)
{
    op_io_begin(op);
    op_io_prepare(op, &p->io);
    io_range(&p->io, p->layer->file, IO_FLUSH, 0, 0);
    ring_compute(&p->io, inflate_work);
    op_io_wait(op);
}

/* ---- the op ---------------------------------------------------------------------------------------- */

/* Work out what to read, aligned for the backend, and have memory for it. */
static int prepare_read(struct read_compressed *p)
{
    struct q2_meta *meta = q2_meta_of(p->layer);
    struct backend *b = p->layer->file;
    struct q2_mapping m = q2_entry_decode(&meta->geo, p->descriptor | Q2_COMPRESSED, 0);
    uint64_t start = align_down(m.host_offset, b->align);
    size_t len = align_up(m.host_offset + m.compressed_len, b->align) - start;
    void *buf;

    if (mem_memalign(&buf, max_u64(b->mem_align, sizeof(void *)), align_up(len, b->mem_align)))
        return -ENOMEM;
    p->host = buf;
    p->host_head = m.host_offset - start;
    p->host_len = m.compressed_len;
    io_rw(&p->io, b, IO_READ, start, buf, len);
    return 0;
}

static void read_compressed_finish(struct read_compressed *p, int rc)
{
    struct q2_meta *meta = q2_meta_of(p->layer);

    if (p->cluster) {
        if (p->leader)
            cluster_done(&meta->compressed, p->cluster, rc);
        if (rc == 0)
            iov_from(p->iov, p->iovcnt, 0, p->cluster->data + q2_offset_in_cluster(&meta->geo, p->guest_offset),
                     p->len);
        cluster_unref(&meta->compressed, p->cluster);
    }
    mem_free(p->host);
    op_end(&p->op, sizeof *p, rc);
}

/* Whatever its inflating has found. */
static void read_compressed_end(struct read_compressed *p, int rc)
{
    if (rc == -EIO) {
        struct q2_mapping m = q2_entry_decode(&q2_meta_of(p->layer)->geo, p->descriptor | Q2_COMPRESSED, 0);

        failure_note_content(p->layer->file, m.host_offset, m.compressed_len);
    }
    read_compressed_finish(p, rc);
}

static void read_compressed_step(struct op *op)
{
    struct read_compressed *p = container_of(op, struct read_compressed, op);
    struct q2_meta *meta = q2_meta_of(p->layer);
    bool whole = p->iovcnt == 1 && p->len == meta->geo.cluster_size;

    OP_BEGIN(enum read_compressed_state, op)

    if (!whole) {
        p->cluster = cache_claim(&meta->compressed, p->descriptor, meta->geo.cluster_size, op->queue, &p->leader);
        if (!p->cluster) {
            read_compressed_finish(p, -ENOMEM);
            return;
        }
        if (!p->leader) {
            OP_TRY(op, RP_SHARED, cluster_wait(&meta->compressed, p->cluster, op));
            read_compressed_finish(p, 0);
            return;
        }
    }
    op->rc = prepare_read(p);
    if (op->rc < 0)
        goto fail;
    OP_TRY(op, RP_READ, op_io(op, &p->io));
    if (meta->geo.cluster_size > inflate_here) {
        OP_AWAIT(op, RP_INFLATED, inflate_elsewhere(p, op));
        if (op->rc != -ENOMEM) {
            read_compressed_end(p, op->rc);
            return;
        }
    }
    read_compressed_end(p, inflate_cluster(p)); /* here: there may have been no thread */
    return;

    OP_END
fail:
    read_compressed_finish(p, op->rc);
}

OP_TYPE(read_compressed, read_compressed_step, "RP_START", "RP_SHARED", "RP_READ", "RP_INFLATED");

void q2_read_compressed(struct layer *layer, const struct extent *e, uint64_t guest_offset,
                        const struct iovec *iov, uint32_t iovcnt, uint64_t len, struct op *parent)
{
    struct read_compressed *p;

    assert(e->kind == EXTENT_COMPRESSED);
    assert(len > 0 &&
           q2_offset_in_cluster(&q2_meta_of(layer)->geo, guest_offset) + len <=
               q2_meta_of(layer)->geo.cluster_size);
    p = op_alloc(parent->queue, &read_compressed_type, sizeof *p);
    if (!p) {
        op_wake(parent, -ENOMEM);
        return;
    }
    p->layer = layer;
    p->op.parent = parent;
    p->descriptor = e->host_offset;
    p->guest_offset = guest_offset;
    p->len = len;
    p->iov = iov;
    p->iovcnt = iovcnt;
    op_start(&p->op);
}
