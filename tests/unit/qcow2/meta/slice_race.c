/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tests/unit/qcow2/meta/slice_race.h"

#include <pthread.h>
#include <sched.h>
#include <stdlib.h>

#include "qcow2/meta/meta_cache.h"

enum { KEY = 3, SLICE = 512, FAILS_EVERY = 3, AGAIN_EVERY = 4, SPIN = 64 };

struct race {
    struct q2_cache  cache;
    _Atomic uint64_t on_disk; /* the number of the change that the disk has */
    _Atomic uint64_t looks, settled, lies;
    _Atomic bool     stop;
};

static void *look(void *arg)
{
    struct race *r = arg;

    while (!atomic_load(&r->stop)) {
        uint32_t seq;
        struct q2_slot *s = q2_read_begin(&r->cache, KEY, &seq);
        if (!s)
            continue;
        uint64_t change = q2_read_be64(&r->cache, s, 0);
        bool settled = q2_read_settled(s);
        if (!q2_read_end(s, seq))
            continue;
        /* What the disk has only grows: asked for last, it can excuse a lie but never make one. */
        if (settled && change > atomic_load(&r->on_disk))
            atomic_fetch_add(&r->lies, 1);
        atomic_fetch_add(&r->settled, settled);
        if (atomic_fetch_add(&r->looks, 1) % 512 == 0)
            sched_yield(); /* there may be one processor for both */
    }
    return NULL;
}

/* A little time, in which the other may look. */
static void dawdle(uint64_t n)
{
    for (volatile uint64_t i = 0; i < n * 7 % SPIN; i++)
        ;
    if (n % 16 == 0)
        sched_yield();
}

static void change(struct race *r, struct q2_slot *s, uint64_t number)
{
    q2_change_begin(&r->cache, s);
    q2_slot_put_be64(&r->cache, s, 0, number);
    q2_change_end(&r->cache, s);
    dawdle(number);
}

/* As an allocating write and a flush take turns, with the lock that they have held now and then. */
static void change_and_flush(struct race *r, struct q2_slot *s, uint64_t *number, uint64_t turn)
{
    int rc = turn % FAILS_EVERY == 0 ? -5 : 0;
    uint64_t copy;

    change(r, s, ++*number);
    copy = *number;
    q2_slot_copied(&r->cache, s);
    dawdle(turn);
    if (turn % AGAIN_EVERY == 0)
        change(r, s, ++*number);
    if (rc == 0)
        atomic_store(&r->on_disk, copy);
    q2_slot_flushed(&r->cache, s, rc);
    dawdle(turn * 4);
}

static bool enough(struct race *r, uint64_t turns, uint64_t steps)
{
    return atomic_load(&r->lies) > 0 ||
           (turns > steps && atomic_load(&r->looks) >= steps && atomic_load(&r->settled) >= steps / 100);
}

struct slice_race slice_race_run(uint64_t steps)
{
    struct race *r = calloc(1, sizeof *r);
    struct slice_race ret;
    uint64_t number = 0;
    struct q2_slot *s;
    pthread_t reader;

    if (!r || q2_cache_init(&r->cache, SLICE, 1 << 16, 64) < 0)
        abort();
    s = q2_cache_install_zero(&r->cache, KEY, SLICE);
    if (!s || pthread_create(&reader, NULL, look, r) != 0)
        abort();
    for (uint64_t turn = 1; !enough(r, turn, steps); turn++) {
        if (q2_slot_is(s, Q2_DIRTY)) { /* the rest of a turn before */
            q2_slot_copied(&r->cache, s);
            atomic_store(&r->on_disk, number);
            q2_slot_flushed(&r->cache, s, 0);
        }
        change_and_flush(r, s, &number, turn);
    }
    atomic_store(&r->stop, true);
    pthread_join(reader, NULL);
    ret = (struct slice_race){.looks = r->looks, .settled = r->settled, .lies = r->lies};
    q2_cache_finish(&r->cache);
    free(r);
    return ret;
}
