/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What two threads write to one volume, each through a queue of its own: parts of the same clusters, with
 * flushes of the one beside writes of the other. The order in which the log has it differs from run to run; the
 * property is the same for each.
 */
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>

#include "engine/base/bits.h"
#include "tests/crash/rig.h"
#include "tests/crash/scenarios.h"
#include "tests/lib/test.h"
#include "tests/unit/qcow2/meta/slice_race.h"

enum { THREADS = 2, DEPTH = 4, PARTS = 48, IMAGES = 150, ROUNDS = 16, RACE_CHANGES = 2000 };
enum { TOUCHED = 160, TOUCH_DELAY = 1 << 14 };

struct writer {
    struct rig *rig;
    pthread_mutex_t *marks; /* a version's number and its beginning in the log: in one order */
    pthread_barrier_t *begin;
    _Atomic unsigned *arrived; /* at their next common step, of all rounds so far */
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

static void *run_rounds(void *arg)
{
    struct writer *w = arg;

    pthread_barrier_wait(w->begin);
    for (unsigned i = 0; i < w->rounds; i++)
        one_round(w);
    return NULL;
}

/* Half a cluster of which nothing has been written, while the other thread writes the other half. */
static void touch_cluster(struct writer *w, uint64_t cluster)
{
    uint64_t half = w->rig->spec.cluster_size / 2;
    struct version v = {.kind = VERSION_WRITE, .offset = (2 * cluster + w->index) * half, .len = half};
    struct vdisk_completion c;
    uint32_t id;

    v.fua = rng_chance(&w->rng, 60);
    v.data = test_alloc(v.len);
    rng_fill(&w->rng, v.data, v.len);
    id = begin_version(w, &v);
    vdisk_write(w->rig->q[w->index], w->rig->v, v.offset, v.data, v.len, v.fua ? VDISK_REQ_FUA : 0, id);
    CHECK_INT(vdisk_reap(w->rig->q[w->index], &c, 1, 1, NULL), 1);
    CHECK_OK(c.result);
    CHECK_OK(crash_mark(w->rig->log, MARK_END, id));
}

/* Both at the same cluster, the one a little after the other. */
static void *run_touches(void *arg)
{
    struct writer *w = arg;

    pthread_barrier_wait(w->begin);
    for (unsigned i = 0; i < TOUCHED; i++) {
        atomic_fetch_add(w->arrived, 1);
        while (atomic_load(w->arrived) < THREADS * (i + 1))
            sched_yield();
        if (i % THREADS == w->index)
            for (volatile uint64_t n = rng_below(&w->rng, TOUCH_DELAY); n > 0; n--)
                ;
        touch_cluster(w, i);
    }
    return NULL;
}

/* ---- both --------------------------------------------------------------------------------------------------- */

static void write_with_threads(struct rig *rig, void *(*run)(void *arg))
{
    pthread_mutex_t marks = PTHREAD_MUTEX_INITIALIZER;
    _Atomic unsigned arrived = 0;
    struct writer w[THREADS];
    pthread_barrier_t begin;

    CHECK(pthread_barrier_init(&begin, NULL, THREADS) == 0);
    for (unsigned i = 0; i < THREADS; i++) {
        w[i] = (struct writer){.rig = rig, .marks = &marks, .begin = &begin, .arrived = &arrived, .index = i};
        w[i].rounds = test_steps(ROUNDS);
        rng_init(&w[i].rng, rng_next(rig->rng));
        CHECK(pthread_create(&w[i].thread, NULL, run, &w[i]) == 0);
    }
    for (unsigned i = 0; i < THREADS; i++)
        CHECK(pthread_join(w[i].thread, NULL) == 0);
    pthread_barrier_destroy(&begin);
}

static void run_threads(uint64_t clusters, unsigned images, void *(*run)(void *arg))
{
    struct rig *rig = test_alloc(sizeof *rig);
    struct image_spec s;

    image_default(&s, "image", 1);
    image_random(test_rng(), &s, IMAGE_NO_RAW | IMAGE_NO_PREALLOC | IMAGE_NO_DATA_FILE);
    s.cluster_size = s.extended_l2 ? 16384 : (uint32_t)1024 << rng_below(test_rng(), 4);
    s.size = clusters * s.cluster_size;
    rig->fixed = rng_chance(test_rng(), 30);
    rig->threads = true;
    rig_init(rig, &s);
    rig_start_log(rig);
    sim_leave(rig->sim); /* real queues, and disks without latency */
    rig_open(rig, THREADS);
    write_with_threads(rig, run);
    rig_close(rig);
    sim_enter(rig->sim);
    rig_judge(rig, images);
    rig_finish(rig);
    free(rig);
}

static void run_mixed(void)
{
    run_threads(PARTS, IMAGES, run_rounds);
}

static void run_shared_fua(void)
{
    run_threads(TOUCHED, 2 * TOUCHED, run_touches);
}

/* Not of a disk: one slice's own state, as the threads see it. */
static void run_slice_state(void)
{
    struct slice_race race = slice_race_run(RACE_CHANGES);

    CHECK_MSG(race.lies == 0, "a slice that is not on disk was said to be");
}

const struct crash_scenario crash_mq_scenarios[] = {
    {"threads", run_mixed, 12, 4, 300},
    {"shared-fua", run_shared_fua, 6, 2, 200},
    {"slice-state", run_slice_state, 1, 1, 20},
};
const unsigned crash_mq_scenarios_count = ARRAY_LEN(crash_mq_scenarios);
