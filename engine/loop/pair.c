/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Happy path: the queue's pair for the volume, by its number; made when the queue first meets the volume.
 * Failure modes: no memory for a pair: the request fails, the next asks anew.
 */
#include "engine/loop/pair.h"

#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"
#include "engine/base/mutant.h"
#include "engine/base/short_lock.h"
#include "engine/loop/queue.h"
#include "engine/volume.h"

struct pair pair_none = {.number = UINT64_MAX};

/* All lists, and who goes first. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

void pairs_in_child(void)
{
    pthread_mutex_init(&lock, NULL);
}

static struct pair **bucket_of(vdisk_queue *q, const vdisk *v)
{
    return &q->pairs[v->number % PAIR_BUCKETS];
}

/* With the lock held: one without a volume, off its bucket. NULL: there is none. */
static struct pair *take_unused(vdisk_queue *q)
{
    assert_locked(&lock);
    for (unsigned i = 0; i < PAIR_BUCKETS; i++) {
        for (struct pair **at = &q->pairs[i]; *at; at = &(*at)->next) {
            struct pair *p = *at;
            if (p->volume)
                continue;
            *at = p->next;
            return p;
        }
    }
    return NULL;
}

/* With the lock held: in the bucket, and without a volume. A queue keeps as many as it had volumes at once. */
static struct pair *unused(vdisk_queue *q, struct pair **bucket)
{
    struct pair *p = take_unused(q);

    if (!p) {
        p = mem_aligned(_Alignof(struct pair), sizeof *p);
        if (!p)
            return NULL;
        memset(p, 0, sizeof *p);
        p->queue = q;
        p->latency = q->latency;
    }
    p->next = *bucket;
    *bucket = p;
    return p;
}

static struct pair *make(vdisk_queue *q, vdisk *v)
{
    struct pair *p;

    pthread_mutex_lock(&lock);
    p = unused(q, bucket_of(q, v));
    if (p) {
        assert(p->queue == q && p->latency == q->latency && !p->volume);
        p->number = v->number;
        p->slot = gate_slot(&v->requests, q->id);
        p->volume = v;
        p->of_volume = v->pairs;
        v->pairs = p;
    }
    pthread_mutex_unlock(&lock);
    return p;
}

struct pair *pair_of(vdisk_queue *q, vdisk *v)
{
    struct pair *p = *bucket_of(q, v);

    assert(v->number != pair_none.number); /* invariant 3 */
    while (p && p->number != v->number)
        p = p->next;
    return likely(p != NULL) ? p : make(q, v);
}

/* With the lock held: invariant 2. */
static void move_counts(struct request_stats *to, struct pair *p)
{
    assert_locked(&lock);
    if (!ENGINE_MUTANT(COUNTS_DROPPED))
        stats_add(to, &p->stats);
    stats_clear(&p->stats);
}

static void leave_volume(struct pair *p)
{
    struct pair **at = &p->volume->pairs;

    assert(*at && p->number == p->volume->number);
    move_counts(&p->volume->counted, p);
    while (*at != p)
        at = &(*at)->of_volume;
    *at = p->of_volume;
}

void pairs_queue_goes(vdisk_queue *q)
{
    struct pair *p;

    pthread_mutex_lock(&lock);
    for (unsigned i = 0; i < PAIR_BUCKETS; i++) {
        while ((p = q->pairs[i])) {
            assert(p->queue == q);
            q->pairs[i] = p->next;
            if (p->volume)
                leave_volume(p);
            mem_free(p);
        }
    }
    pthread_mutex_unlock(&lock);
}

void pairs_volume_goes(vdisk *v)
{
    pthread_mutex_lock(&lock);
    for (struct pair *p = v->pairs; p; p = p->of_volume) {
        assert(p->volume == v && p->number == v->number);
        move_counts(&p->queue->counted, p);
        p->volume = NULL;
    }
    v->pairs = NULL;
    pthread_mutex_unlock(&lock);
}

void pairs_of_queue(const vdisk_queue *q, struct request_stats *ret)
{
    stats_clear(ret);
    pthread_mutex_lock(&lock);
    stats_add(ret, &q->counted);
    for (unsigned i = 0; i < PAIR_BUCKETS; i++)
        for (const struct pair *p = q->pairs[i]; p; p = p->next)
            stats_add(ret, &p->stats);
    pthread_mutex_unlock(&lock);
}

void pairs_of_volume(const vdisk *v, struct request_stats *ret)
{
    stats_clear(ret);
    pthread_mutex_lock(&lock);
    stats_add(ret, &v->counted);
    for (const struct pair *p = v->pairs; p; p = p->of_volume)
        stats_add(ret, &p->stats);
    pthread_mutex_unlock(&lock);
}
