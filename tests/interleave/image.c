/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tests/interleave/image.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/bits.h"
#include "engine/base/short_lock.h"
#include "qcow2/space/lease.h"
#include "tests/interleave/common.h"

/* Host offsets of the only refcount block, and of the slices: behind all clusters that can be handed out. */
enum { REFBLOCK = 1 << 16, TABLES = IMAGE_CLUSTERS << 16 };

/* ---- the disk ------------------------------------------------------------------------------------------- */

static void disk_close(struct backend *b)
{
}

/* The header's cluster and the block's own are in use, all others are free. What is written is forgotten. */
static void read_refcounts(struct io *io)
{
    static const uint8_t in_use[4] = {0, 1, 0, 1};

    if (io->kind != IO_READ)
        return;
    memset(io->iov[0].iov_base, 0, io->iov[0].iov_len);
    if (io->offset == REFBLOCK)
        memcpy(io->iov[0].iov_base, in_use, sizeof in_use);
}

static void transfer(struct disk *d, struct io *io)
{
    uint64_t word, left = io->len / 8;

    if (io->offset < TABLES) {
        read_refcounts(io);
        return;
    }
    word = (io->offset - TABLES) / 8;
    REQUIRE(word + left <= ARRAY_LEN(d->written), "I/O past the end of the disk");
    for (uint32_t i = 0; i < io->iovcnt; i++) {
        uint64_t *at = io->iov[i].iov_base, *end = at + io->iov[i].iov_len / 8;
        for (; at < end; at++, word++)
            if (io->kind == IO_WRITE)
                d->written[word] = be64toh(*at);
            else
                *at = htobe64(d->written[word]);
    }
}

static void disk_submit(struct backend *b, struct io *io)
{
    struct disk *d = container_of(b, struct disk, b);

    switch ((enum io_kind)io->kind) {
    case IO_READ:
    case IO_WRITE:
        transfer(d, io);
        io_end_later(io, (int64_t)io->len);
        return;
    case IO_FLUSH:
        if (++d->flushes == d->fail_flush) {
            io_end_later(io, -EIO);
            return;
        }
        memcpy(d->durable, d->written, sizeof d->durable);
        break;
    case IO_ZERO:
    case IO_DISCARD:
    case IO_ALLOCATE:
    case IO_TRUNCATE:
    case IO_STATUS:
        break;
    }
    io_end_later(io, 0);
}

static const struct backend_driver disk_driver = {.name = "disk", .close = disk_close, .submit = disk_submit};

void disk_create(struct disk **ret)
{
    struct disk *d = backend_alloc(&disk_driver, "disk", sizeof *d);

    REQUIRE(d, "out of memory");
    atomic_init(&d->b.size, sizeof d->written);
    for (unsigned i = 0; i < ARRAY_LEN(d->written); i++)
        d->written[i] = d->durable[i] = IMAGE_WORD(i / IMAGE_WORDS, i % IMAGE_WORDS);
    *ret = d;
}

/* ---- the image ------------------------------------------------------------------------------------------ */

/* There is no L2 table that could be looked at. */
static struct q2_l1 no_tables;

static void make_clean(struct q2_meta *meta, struct op *op)
{
    q2_flush(&container_of(meta, struct q2, meta)->flush, op);
}

void image_init(struct image *im)
{
    struct q2 *q = &im->q;

    memset(im, 0, sizeof *im);
    disk_create(&im->disk);
    REQUIRE(gate_init(&im->v.requests) == 0, "out of memory");
    im->v.top = &im->layer;
    im->layer.volume = &im->v;
    im->layer.file = im->layer.data = &im->disk->b;
    im->layer.format_state = q;
    q->meta.layer = &im->layer;
    q->meta.make_clean = make_clean;
    q2_geometry_init(&q->meta.geo, 3, 16, 4, false, false);
    short_lock_init(&q->meta.lock);
    q2_space_state_init(&q->space, &q->meta);
    q2_flush_state_init(&q->flush, &q->meta, &q->space);
    atomic_init(&q->meta.l1, &no_tables);
    q->space.durable_end = sizeof im->disk->written;
    im->reftable = REFBLOCK;
    q->meta.reftable = &im->reftable;
    q->meta.reftable_entries = 1;
    q->meta.refslice_bits = 8;
    q->space.limit_clusters = IMAGE_CLUSTERS;
    REQUIRE(q2_cache_init(&q->meta.l2, IMAGE_SLICE, 1, 1) == 0 &&
                q2_cache_init(&q->meta.refcounts, IMAGE_SLICE, 1, 1) == 0,
            "out of memory");
    q2_meta_caches_attach(&q->meta);
}

void image_finish(struct image *im)
{
    q2_cache_finish(&im->q.meta.l2);
    q2_cache_finish(&im->q.meta.refcounts);
    q2_cluster_set_finish(&im->q.space.sound);
    q2_cluster_set_finish(&im->q.meta.mapped);
    q2_cluster_set_finish(&im->q.meta.judged);
    pthread_mutex_destroy(&im->q.meta.lock);
    gate_finish(&im->v.requests);
    backend_close(&im->disk->b);
}

uint64_t image_durable(const struct image *im, uint64_t key, unsigned index)
{
    return im->disk->durable[key * IMAGE_WORDS + index];
}

void image_load(struct image *im, vdisk_queue *q, uint64_t key)
{
    struct waiter w;

    waiter_init(&w, q);
    q2_cache_load(&im->q.meta.l2, key, TABLES + key * IMAGE_SLICE, &w.op);
    REQUIRE(waiter_await(&w) == 0, "a slice cannot be loaded");
}

void image_change(struct image *im, uint64_t key, unsigned index, uint64_t value)
{
    struct q2_slot *s;

    pthread_mutex_lock(&im->q.meta.lock);
    s = q2_cache_find(&im->q.meta.l2, key);
    REQUIRE(s, "slice %d is not cached", (int)key);
    q2_change_begin(&im->q.meta.l2, s);
    q2_slot_put_be64(&im->q.meta.l2, s, index * 8, value);
    q2_change_end(&im->q.meta.l2, s);
    pthread_mutex_unlock(&im->q.meta.lock);
}

int image_flush(struct image *im, vdisk_queue *q)
{
    struct waiter w;

    waiter_init(&w, q);
    q2_flush(&im->q.flush, &w.op);
    return waiter_await(&w);
}

bool image_read(struct image *im, uint64_t key, unsigned index, uint64_t *ret_value, bool *ret_settled)
{
    uint32_t seq;
    struct q2_slot *s = q2_read_begin(&im->q.meta.l2, key, &seq);

    if (!s)
        return false;
    sched_point("reader: slot found");
    *ret_value = q2_read_be64(&im->q.meta.l2, s, index * 8);
    sched_point("reader: entry read");
    *ret_settled = q2_read_settled(s);
    sched_point("reader: settled read");
    return q2_read_end(s, seq);
}

struct q2_slot *image_slot(struct image *im, struct q2_cache *c, uint64_t key)
{
    struct q2_slot *s;

    pthread_mutex_lock(&im->q.meta.lock);
    s = q2_cache_find(c, key);
    pthread_mutex_unlock(&im->q.meta.lock);
    return s;
}
