/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Crash images of what two threads write to one volume, each through a queue of its own: parts of the same
 * clusters, with flushes of the one beside writes of the other. The order in which the log has it differs from run
 * to run; the property is the same for each.
 */
#include <pthread.h>
#include <stdlib.h>

#include "engine/bits.h"
#include "tests/crash/rig.h"
#include "tests/lib/test.h"

enum { THREADS = 2, DEPTH = 4, PARTS = 48, IMAGES = 150, ROUNDS = 16 };

struct writer {
    struct rig *rig;
    pthread_mutex_t *marks; /* a version's number and its beginning in the log: in one order */
    pthread_barrier_t *begin;
    unsigned index, rounds;
    struct rng rng;
    pthread_t thread;
};

/* ---- one thread --------------------------------------------------------------------------------------------- */

/* The number of the version. */
static uint32_t begin_version(struct writer *w, const struct version *v)
{
    uint32_t id;

    pthread_mutex_lock(w->marks);
    id = w->rig->versions++;
    CHECK(id < RIG_VERSIONS);
    w->rig->version[id] = *v;
    CHECK_OK(crash_mark(w->rig->log, MARK_BEGIN, id));
    pthread_mutex_unlock(w->marks);
    return id;
}

static uint64_t begin_flush(struct writer *w)
{
    uint64_t id;

    pthread_mutex_lock(w->marks);
    id = w->rig->flushes++;
    CHECK_OK(crash_mark(w->rig->log, MARK_FLUSH_BEGIN, id));
    pthread_mutex_unlock(w->marks);
    return id;
}

/* Somewhere in the part, which is half a cluster and this thread's alone. */
static void start_change(struct writer *w, uint64_t part)
{
    uint64_t half = w->rig->spec.cluster_size / 2, skip = rng_chance(&w->rng, 50) ? rng_below(&w->rng, half) : 0;
    struct version v = {.offset = part * half + skip, .len = half - skip};
    vdisk_queue *q = w->rig->q[w->index];
    uint64_t what = rng_below(&w->rng, 100);
    uint32_t id;

    v.fua = what < 10;
    v.kind = what < 70 ? VERSION_WRITE : what < 85 ? VERSION_ZERO : VERSION_DISCARD;
    if (v.kind == VERSION_WRITE) {
        v.data = test_alloc(v.len);
        rng_fill(&w->rng, v.data, v.len);
    }
    id = begin_version(w, &v);
    if (v.kind == VERSION_WRITE)
        vdisk_write(q, w->rig->v, v.offset, v.data, v.len, v.fua ? VDISK_REQ_FUA : 0, id);
    else if (v.kind == VERSION_ZERO)
        vdisk_write_zeroes(q, w->rig->v, v.offset, v.len, what < 78 ? VDISK_REQ_UNMAP : 0, id);
    else
        vdisk_discard(q, w->rig->v, v.offset, v.len, 0, id);
}

/* A few changes of parts that differ, perhaps a flush among them; until all have ended. */
static void one_round(struct writer *w)
{
    vdisk_queue *q = w->rig->q[w->index];
    uint64_t first = rng_below(&w->rng, PARTS), flush = 0;
    bool with_flush = rng_chance(&w->rng, 40);
    struct vdisk_completion c;

    for (uint64_t i = 0; i < DEPTH; i++) {
        start_change(w, THREADS * ((first + i) % PARTS) + w->index);
        if (with_flush && i == DEPTH / 2) {
            flush = begin_flush(w);
            vdisk_flush(q, w->rig->v, 0, RIG_VERSIONS);
        }
    }
    for (unsigned left = DEPTH + with_flush; left > 0; left--) {
        CHECK_INT(vdisk_reap(q, &c, 1, 1, NULL), 1);
        CHECK_OK(c.result);
        CHECK_OK(c.user_data == RIG_VERSIONS ? crash_mark(w->rig->log, MARK_FLUSH_END, flush)
                                             : crash_mark(w->rig->log, MARK_END, c.user_data));
    }
}

static void *run_writer(void *arg)
{
    struct writer *w = arg;

    pthread_barrier_wait(w->begin);
    for (unsigned i = 0; i < w->rounds; i++)
        one_round(w);
    return NULL;
}

/* ---- both --------------------------------------------------------------------------------------------------- */

static void write_with_threads(struct rig *rig)
{
    pthread_mutex_t marks = PTHREAD_MUTEX_INITIALIZER;
    struct writer w[THREADS];
    pthread_barrier_t begin;

    CHECK(pthread_barrier_init(&begin, NULL, THREADS) == 0);
    for (unsigned i = 0; i < THREADS; i++) {
        w[i] = (struct writer){.rig = rig, .marks = &marks, .begin = &begin, .index = i};
        w[i].rounds = test_steps(ROUNDS);
        rng_init(&w[i].rng, rng_next(rig->rng));
        CHECK(pthread_create(&w[i].thread, NULL, run_writer, &w[i]) == 0);
    }
    for (unsigned i = 0; i < THREADS; i++)
        CHECK(pthread_join(w[i].thread, NULL) == 0);
    pthread_barrier_destroy(&begin);
}

static void test_threads(void)
{
    struct rig *rig = test_alloc(sizeof *rig);
    struct image_spec s;

    image_default(&s, "image", 1);
    image_random(test_rng(), &s, IMAGE_NO_RAW | IMAGE_NO_PREALLOC | IMAGE_NO_DATA_FILE);
    s.cluster_size = s.extended_l2 ? 16384 : (uint32_t)1024 << rng_below(test_rng(), 4);
    s.size = (uint64_t)PARTS * s.cluster_size;
    rig->fixed = rng_chance(test_rng(), 30);
    rig->threads = true;
    rig_init(rig, &s);
    rig_start_log(rig);
    sim_leave(rig->sim); /* real queues, and disks without latency */
    rig_open(rig, THREADS);
    write_with_threads(rig);
    rig_close(rig);
    sim_enter(rig->sim);
    rig_judge(rig, IMAGES);
    rig_finish(rig);
    free(rig);
}

int main(int argc, char **argv)
{
    static const struct test_case cases[] = {
        {.name = "threads", .run = test_threads, .repeat = 12, .quick = 4, .lengthy = 300},
    };
    int status;

    rig_totals_init();
    status = test_main(argc, argv, cases, ARRAY_LEN(cases));
    rig_totals_print();
    return status;
}
