/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The same workload from several threads, each with a queue of its own, on one open volume. Each thread has its
 * own bytes (stripes of the windows), so that each has its own oracle; but stripes that are not aligned to
 * clusters make threads share clusters, L2 slices and refcount blocks.
 */
#include <pthread.h>
#include <stdlib.h>

#include "engine/bits.h"
#include "tests/lib/test.h"
#include "tests/model/model_lib.h"

enum { STEPS = 250, MAX_THREADS = 4 };

static void *run_thread(void *arg)
{
    struct workload *w = arg;

    workload_run(w, test_steps(STEPS));
    workload_drain(w);
    return NULL;
}

static void session(struct subject *s, struct rng *r, vdisk *v)
{
    unsigned n = (unsigned)rng_between(r, 2, MAX_THREADS);
    uint64_t cluster = s->layers[0].qcow2 ? s->layers[0].cluster_size : 65536, stripe;
    struct workload w[MAX_THREADS];
    pthread_t threads[MAX_THREADS];

    switch (rng_below(r, 4)) {
    case 0:
        stripe = cluster;
        break;
    case 1:
        stripe = 4 * cluster;
        break;
    case 2:
        stripe = cluster + 512;
        break; /* clusters shared by two threads */
    default:
        stripe = max_u64(512, cluster / 8) + (rng_chance(r, 50) ? 100 : 0);
        break; /* by all of them */
    }
    for (unsigned i = 0; i < n; i++) {
        subject_workload(s, r, v, &w[i]);
        w[i].stripe = stripe;
        w[i].stripes = n;
        w[i].stripe_index = i;
        w[i].depth = min_u64(w[i].depth, 12);
        w[i].max_len = min_u64(w[i].max_len, stripe);
        /*
         * Queues are made and destroyed here, so that the memory of one ring is not mapped again for another while
         * threads run: liburing's own system calls are hidden from ThreadSanitizer.
         */
        workload_start(&w[i]);
    }
    for (unsigned i = 0; i < n; i++)
        CHECK(pthread_create(&threads[i], NULL, run_thread, &w[i]) == 0);
    for (unsigned i = 0; i < n; i++)
        pthread_join(threads[i], NULL);
    for (unsigned i = 0; i < n; i++)
        workload_finish(&w[i]);
}

static void run_subject(unsigned flags)
{
    struct rng *r = test_rng();
    struct subject s;
    vdisk *v;

    test_requires("qemu-io");
    subject_init(&s, r, flags | SUBJECT_SMALL);
    for (unsigned i = 0; i < 2; i++) {
        v = subject_open(&s, r);
        session(&s, r, v);
        workload_verify(v, s.models, s.nmodels);
        subject_close(&s, v, true);
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
        {.name = "memory", .run = test_memory, .repeat = 30, .quick = 8},
        {.name = "file", .run = test_file, .repeat = 12, .quick = 4},
    };

    return test_main(argc, argv, cases, ARRAY_LEN(cases));
}
