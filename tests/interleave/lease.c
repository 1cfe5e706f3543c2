/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Two who take clusters from one lease, as queues do whose numbers meet, and one who has all leases given back
 * meanwhile. Nobody gets what another has, and who waits for a lease to be filled is woken.
 */
#include <string.h>

#include "qcow2/format/entry.h"
#include "qcow2/space/lease.h"
#include "tests/interleave/common.h"
#include "tests/interleave/image.h"

enum { TAKES = 3, NOBODY = 0 };

static struct {
    struct image image;
    vdisk_queue *queue[SCHED_THREADS];
    unsigned     owner[IMAGE_CLUSTERS];
} x;

static void setup(void)
{
    static const uint32_t ids[SCHED_THREADS] = {0, Q2_LEASES, 2 * Q2_LEASES};
    struct waiter w;

    memset(&x, 0, sizeof x);
    image_init(&x.image);
    for (unsigned i = 0; i < SCHED_THREADS; i++)
        x.queue[i] = quiet_queue(ids[i]);
    waiter_init(&w, x.queue[0]);
    q2_refcount_load(&x.image.q.space, 0, &w.op);
    REQUIRE(waiter_await(&w) == 0, "refcounts cannot be loaded");
}

static void finish(void)
{
    struct q2 *q = &x.image.q;
    const uint8_t *refcounts =
        (const uint8_t *)q2_slot_data(&q->meta.refcounts, image_slot(&x.image, &q->meta.refcounts, 0));
    unsigned counted = 0, known = 0;

    for (unsigned i = 0; i < Q2_LEASES; i++) {
        REQUIRE(list_empty(&q->space.leases[i].waiting) && !q->space.leases[i].filler, "a lease is left");
        known += (unsigned)(q->space.leases[i].end - q->space.leases[i].next);
    }
    for (uint64_t c = 2; c < IMAGE_CLUSTERS; c++) { /* behind the image's own */
        counted += q2_refcount_get(&q->meta.geo, refcounts, c) != 0;
        known += x.owner[c] != NOBODY;
    }
    REQUIRE(counted == known, "%d clusters are counted, %d have an owner or are leased", (int)counted, (int)known);
    for (unsigned i = 0; i < SCHED_THREADS; i++)
        vdisk_queue_destroy(x.queue[i]);
    image_finish(&x.image);
}

/* lease.h, invariants 1 and 2: whoever does not hold the lock finds what is leased counted, and leased once. */
static void check(void)
{
    struct q2 *q = &x.image.q;
    bool leased[IMAGE_CLUSTERS] = {false};

    if (q->meta.lock.__data.__lock != 0)
        return;
    const uint8_t *refcounts =
        (const uint8_t *)q2_slot_data(&q->meta.refcounts, image_slot(&x.image, &q->meta.refcounts, 0));
    for (unsigned i = 0; i < Q2_LEASES; i++)
        for (uint64_t c = q->space.leases[i].next; c < q->space.leases[i].end; c++) {
            REQUIRE(c < IMAGE_CLUSTERS && !leased[c], "cluster %d is in two leases", (int)c);
            leased[c] = true;
        }
    for (uint64_t c = 0; c < IMAGE_CLUSTERS; c++) {
        uint64_t refcount = q2_refcount_get(&q->meta.geo, refcounts, c);
        REQUIRE(!leased[c] || x.owner[c] == NOBODY, "cluster %d has an owner, and is leased", (int)c);
        REQUIRE(refcount == 1 || (!leased[c] && x.owner[c] == NOBODY), "cluster %d is in use, with refcount %d",
                (int)c, (int)refcount);
    }
}

static void take_one(unsigned self)
{
    struct q2 *q = &x.image.q;
    struct q2_run run;
    bool taken;

    for (;;) {
        struct waiter w;
        pthread_mutex_lock(&q->meta.lock);
        taken = q2_lease_take(&q->space, x.queue[self], 1, &run);
        if (taken) {
            uint64_t cluster = run.host_offset >> q->meta.geo.cluster_bits;
            REQUIRE(run.clusters == 1 && cluster > 1 && cluster < IMAGE_CLUSTERS, "%d clusters at %d",
                    (int)run.clusters, (int)cluster);
            REQUIRE(x.owner[cluster] == NOBODY, "cluster %d is given to two", (int)cluster);
            x.owner[cluster] = self + 1;
        }
        pthread_mutex_unlock(&q->meta.lock);
        if (taken)
            return;
        waiter_init(&w, x.queue[self]);
        q2_lease_fill(&q->space, &w.op);
        REQUIRE(waiter_await(&w) == 0, "a lease cannot be filled");
    }
}

static void thread(unsigned self)
{
    for (unsigned i = 0; i < TAKES; i++)
        take_one(self);
}

static void back_thread(unsigned self)
{
    if (self < 2) {
        take_one(self);
        return;
    }
    pthread_mutex_lock(&x.image.q.meta.lock);
    q2_lease_return_all(&x.image.q.space);
    pthread_mutex_unlock(&x.image.q.meta.lock);
}

const struct program leases = {
    .name = "lease",
    .text = "two take from a lease, and fill it anew",
    .threads = 2,
    .quiet = "slice:",
    .setup = setup,
    .thread = thread,
    .check = check,
    .finish = finish,
};

const struct program leases_back = {
    .name = "lease_back",
    .text = "two take from leases, one gives back what is left in all",
    .threads = 3,
    .quiet = "slice:",
    .setup = setup,
    .thread = back_thread,
    .check = check,
    .finish = finish,
};
