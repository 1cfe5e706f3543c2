/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Counters as callers see them: added up when somebody asks. */
#include "engine/stats.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

#include "engine/base/bits.h"
#include "engine/base/error.h"
#include "engine/loop/queue.h"
#include "engine/volume.h"

static void show_requests(struct vdisk_stats *to, const struct request_stats *from)
{
    for (unsigned i = 0; i < VDISK_REQUEST_KINDS; i++) {
        to->kind[i].requests = stat_get(&from->kind[i].ended[0]) + stat_get(&from->kind[i].ended[1]);
        to->kind[i].bytes = stat_get(&from->kind[i].bytes);
        to->kind[i].errors = stat_get(&from->kind[i].errors);
        to->cache_hits += stat_get(&from->kind[i].ended[1]);
    }
}

_Static_assert(offsetof(struct vdisk_stats, size) == 0 && offsetof(struct vdisk_latency, size) == 0,
               "both begin with their size");

static int check_size(size_t size)
{
    return size < sizeof(size_t) || size > 4096 ? err_set(EINVAL, "statistics: struct of size %zu", size) : 0;
}

static int volume_stats(vdisk *v, struct vdisk_stats *ret)
{
    struct vdisk_stats stats = {.size = ret ? ret->size : 0};
    struct request_stats requests;
    int rc = volume_check_handle(v);

    if (rc == 0)
        rc = check_size(stats.size);
    if (rc < 0)
        return rc;
    pairs_of_volume(v, &requests);
    show_requests(&stats, &requests);
    for (const struct layer *layer = v->top; layer; layer = layer->backing) {
        stats.cache_misses += stat_get(&layer->stats.cache_misses);
        stats.allocations += stat_get(&layer->stats.allocations);
        stats.flushes += stat_get(&layer->stats.flushes);
        stats.flushes_shared += stat_get(&layer->stats.flushes_shared);
    }
    memcpy(ret, &stats, min_u64(stats.size, sizeof stats));
    return 0;
}

int vdisk_get_stats(vdisk *v, struct vdisk_stats *ret_stats)
{
    return ERR_CALL(volume_stats(v, ret_stats));
}

static int check_queue(const vdisk_queue *q)
{
    if (!q)
        return err_set(EINVAL, "no queue is given");
    if (q->generation != process_generation)
        return err_set(ECHILD, "queue: it is the parent process's, which has it still");
    return 0;
}

static int queue_stats(const vdisk_queue *q, struct vdisk_stats *ret)
{
    struct vdisk_stats stats = {.size = ret ? ret->size : 0};
    struct request_stats requests;
    int rc = check_queue(q);

    if (rc == 0)
        rc = check_size(stats.size);
    if (rc < 0)
        return rc;
    pairs_of_queue(q, &requests);
    show_requests(&stats, &requests);
    memcpy(ret, &stats, min_u64(stats.size, sizeof stats));
    return 0;
}

int vdisk_queue_get_stats(vdisk_queue *q, struct vdisk_stats *ret_stats)
{
    return ERR_CALL(queue_stats(q, ret_stats));
}

static int queue_latency(const vdisk_queue *q, enum vdisk_request_kind kind, struct vdisk_latency *ret)
{
    struct vdisk_latency latency = {.size = ret ? ret->size : 0};
    int rc = check_queue(q);

    if (rc == 0)
        rc = check_size(latency.size);
    if (rc < 0)
        return rc;
    if ((unsigned)kind >= VDISK_REQUEST_KINDS)
        return err_set(EINVAL, "queue: unknown kind of request %d", (int)kind);
    if (!q->latency)
        return err_hint(err_set(ENODATA, "queue: latencies are not measured"),
                        "make the queue with VDISK_QUEUE_MEASURE");
    latency.count = stat_get(&q->latency->kind[kind].count);
    latency.sum_ns = stat_get(&q->latency->kind[kind].sum_ns);
    latency.max_ns = stat_get(&q->latency->kind[kind].max_ns);
    for (unsigned i = 0; i < VDISK_LATENCY_BUCKETS; i++)
        latency.bucket[i] = stat_get(&q->latency->kind[kind].bucket[i]);
    memcpy(ret, &latency, min_u64(latency.size, sizeof latency));
    return 0;
}

int vdisk_queue_get_latency(vdisk_queue *q, enum vdisk_request_kind kind, struct vdisk_latency *ret_latency)
{
    return ERR_CALL(queue_latency(q, kind, ret_latency));
}

uint64_t vdisk_latency_floor(unsigned bucket)
{
    return bucket < 8 ? bucket : (uint64_t)(bucket % 4 + 4) << (bucket / 4 - 1);
}
