/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The same workload from one to four threads, each with a queue of its own, on one open volume. Each thread has
 * its own bytes (stripes of the windows), so that each has its own oracle; but stripes that are not aligned to
 * clusters make threads share clusters, L2 slices and refcount blocks. While they run another thread flushes the
 * volume and gives back its unused space. Between two runs, ranges that many stripes have a part in are zeroed and
 * discarded, and the volume grows.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>

#include "engine/base/bits.h"
#include "tests/lib/test.h"
#include "tests/model/model_lib.h"

enum { STEPS = 160, MAX_THREADS = 4 };

/* What the threads of a session share. */
struct crew {
    unsigned n, parts, steps;
    _Atomic unsigned running;
    pthread_barrier_t begin, end; /* of each part: with the main thread */
};

struct runner {
    struct workload w;
    struct crew *crew;
    pthread_t thread;
};

static void *run_thread(void *arg)
{
    struct runner *t = arg;
    struct crew *c = t->crew;

    for (unsigned part = 0; part < c->parts; part++) {
        pthread_barrier_wait(&c->begin);
        workload_run(&t->w, c->steps);
        workload_drain(&t->w);
        atomic_fetch_sub(&c->running, 1);
        pthread_barrier_wait(&c->end);
    }
    return NULL;
}

static uint64_t random_stripe(const struct subject *s, struct rng *r)
{
    uint64_t cluster = s->layers[0].qcow2 ? s->layers[0].cluster_size : 65536;

    switch (rng_below(r, 4)) {
    case 0: return cluster;
    case 1: return 4 * cluster;
    case 2: return cluster + 512; /* clusters shared by two threads */
    default: return max_u64(512, cluster / 8) + (rng_chance(r, 50) ? 100 : 0); /* by all of them */
    }
}

static void init_runners(struct subject *s, struct rng *r, vdisk *v, struct runner *t, struct crew *c)
{
    uint64_t stripe = random_stripe(s, r);

    for (unsigned i = 0; i < c->n; i++) {
        struct workload *w = &t[i].w;
        t[i].crew = c;
        subject_workload(s, r, v, w);
        w->stripe = stripe;
        w->stripes = c->n;
        w->stripe_index = i;
        w->depth = min_u64(w->depth, 12);
        w->max_len = min_u64(w->max_len, stripe);
        /*
         * Queues are made and destroyed here, so that the memory of one ring is not mapped again for another while
         * threads run: liburing's own system calls are hidden from ThreadSanitizer.
         */
        workload_start(w);
    }
}

/* What concerns the whole volume, while the others work on it. */
static void disturb(struct rng *r, vdisk *v, _Atomic unsigned *running)
{
    while (atomic_load(running) > 0) {
        struct timespec pause = {.tv_nsec = (long)rng_below(r, 20000000)};
        nanosleep(&pause, NULL);
        CHECK_OK(rng_chance(r, 50) ? vdisk_sync(v) : vdisk_trim_space(v));
    }
}

/* Nobody else is at work: ranges of any length, across all stripes. */
static void change_wide(struct subject *s, struct rng *r, vdisk *v)
{
    for (unsigned i = 0; i < 3; i++) {
        struct model *m = &s->models[rng_below(r, s->nmodels)];
        uint64_t offset = rng_below(r, m->size), len = rng_between(r, 1, m->size - offset);
        if (rng_chance(r, 50)) {
            CHECK_OK(vdisk_pdiscard(v, len, m->base + offset));
            model_discard(m, m->base + offset, len);
        } else {
            CHECK_OK(vdisk_pzero(v, len, m->base + offset, rng_chance(r, 50) ? VDISK_REQ_UNMAP : 0));
            model_zero(m, m->base + offset, len);
        }
        if (rng_chance(r, 50))
            CHECK_OK(vdisk_sync(v));
    }
    if (rng_chance(r, 20))
        subject_grow(s, r, v);
}

static void session(struct subject *s, struct rng *r, vdisk *v)
{
    struct crew c = {.n = (unsigned)rng_between(r, 1, MAX_THREADS), .parts = (unsigned)rng_between(r, 1, 3)};
    struct runner t[MAX_THREADS];

    c.steps = test_steps(STEPS) / c.parts;
    CHECK(pthread_barrier_init(&c.begin, NULL, c.n + 1) == 0 && pthread_barrier_init(&c.end, NULL, c.n + 1) == 0);
    init_runners(s, r, v, t, &c);
    for (unsigned i = 0; i < c.n; i++)
        CHECK(pthread_create(&t[i].thread, NULL, run_thread, &t[i]) == 0);
    for (unsigned part = 0; part < c.parts; part++) {
        atomic_store(&c.running, c.n);
        pthread_barrier_wait(&c.begin);
        disturb(r, v, &c.running);
        pthread_barrier_wait(&c.end);
        change_wide(s, r, v);
    }
    for (unsigned i = 0; i < c.n; i++)
        pthread_join(t[i].thread, NULL);
    for (unsigned i = 0; i < c.n; i++)
        workload_finish(&t[i].w);
    pthread_barrier_destroy(&c.begin);
    pthread_barrier_destroy(&c.end);
}

static void run_subject(unsigned flags)
{
    struct rng *r = test_rng();
    unsigned sessions = (unsigned)rng_between(r, 1, 4);
    struct subject s;
    vdisk *v;

    test_requires("qemu-io");
    subject_init(&s, r, flags | SUBJECT_SMALL);
    for (unsigned i = 0; i < sessions; i++) {
        bool verify = i + 1 == sessions || rng_chance(r, 50);
        v = subject_open(&s, r);
        session(&s, r, v);
        if (verify)
            workload_verify(v, s.models, s.nmodels);
        subject_close(&s, v, verify);
    }
    subject_finish(&s);
}

static void test_memory(void)
{
    run_subject(SUBJECT_ON_MEMORY | SUBJECT_QCOW2);
}

static void test_file(void)
{
    run_subject(0);
}

int main(int argc, char **argv)
{
    static const struct test_case cases[] = {
        {.name = "memory", .run = test_memory, .repeat = 24, .quick = 8},
        {.name = "file", .run = test_file, .repeat = 12, .quick = 4},
    };

    return test_main(argc, argv, cases, ARRAY_LEN(cases));
}
