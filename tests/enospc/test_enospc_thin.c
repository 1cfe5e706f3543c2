/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Random requests of several threads, against the oracle, on a device that is too small for them and that its
 * grower makes larger: at once or late, by what was asked for or by one sector, with errors in between. None
 * fails, all reads as it should, and the image is whole.
 */
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "backends/memory.h"
#include "engine/base/bits.h"
#include "engine/volume.h"
#include "tests/lib/image.h"
#include "tests/lib/memdisk.h"
#include "tests/lib/run.h"
#include "tests/lib/test.h"
#include "tests/lib/workload.h"

enum { STEPS = 400, MAX_THREADS = 3, SESSIONS = 3 };

/* Who makes it larger; the thread of the grower's call, or one of its own that is told. */
static struct maker {
    struct memdisk *disk;
    pthread_mutex_t lock; /* all that follows */
    struct rng rng;
    uint64_t wish, wanted; /* what has not been seen to; 0: nothing */
    uint64_t last;         /* wish, whatever became of it */
} maker;

static _Atomic bool over;

static void pause_for(uint64_t us)
{
    nanosleep(&(struct timespec){.tv_nsec = (long)us * 1000}, NULL);
}

/* With the lock held, which the answer needs no more. */
static void see_to(uint64_t wish, uint64_t wanted)
{
    uint64_t size = memdisk_size(maker.disk), delay = rng_chance(&maker.rng, 30) ? rng_below(&maker.rng, 3000) : 0;
    int error = rng_chance(&maker.rng, 15) ? -EIO : 0, rc;

    if (rng_chance(&maker.rng, 30))
        wanted = size + 512 * rng_between(&maker.rng, 1, 64);
    maker.wish = 0;
    pthread_mutex_unlock(&maker.lock);
    pause_for(delay);
    if (error == 0)
        memory_backend_extend(maker.disk->keeper, wanted);
    rc = vdisk_grown(wish, error);
    CHECK(rc == 0 || rc == -ENOENT); /* closed meanwhile */
    pthread_mutex_lock(&maker.lock);
}

static void on_wish(void *arg, vdisk *v, const struct vdisk_wish *wish)
{
    (void)v;
    CHECK(arg == &maker && wish->wanted > wish->storage);
    pthread_mutex_lock(&maker.lock);
    maker.wish = wish->number;
    maker.last = wish->number;
    maker.wanted = wish->wanted;
    if (rng_chance(&maker.rng, 50))
        see_to(wish->number, wish->wanted);
    pthread_mutex_unlock(&maker.lock);
}

/* Also what was answered with an error, if nobody asks again. */
static void *make_larger(void *arg)
{
    (void)arg;
    while (!atomic_load(&over)) {
        pthread_mutex_lock(&maker.lock);
        if (maker.wish) {
            see_to(maker.wish, maker.wanted);
        } else if (maker.last && rng_chance(&maker.rng, 5)) {
            uint64_t last = maker.last;
            memory_backend_extend(maker.disk->keeper, memdisk_size(maker.disk) + 4096);
            pthread_mutex_unlock(&maker.lock);
            int rc = vdisk_grown(last, 0);
            CHECK(rc == 0 || rc == -ENOENT);
            pthread_mutex_lock(&maker.lock);
        }
        pthread_mutex_unlock(&maker.lock);
        pause_for(200);
    }
    return NULL;
}

static vdisk *open_thin(void)
{
    struct vdisk_open_opts opts = {.size = sizeof opts, .flags = VDISK_OPEN_RDWR, .format = "qcow2",
                                   .cache_bytes = 1};
    struct vdisk_grower_opts grower = {.size = sizeof grower, .retry_ms = 1, .ahead_ms = 1};
    struct rng *r = test_rng();
    vdisk *v;

    grower.chunk = 512 * rng_between(r, 1, 1024);
    grower.least_free = rng_between(r, 1, 2 * grower.chunk);
    grower.flags = rng_chance(r, 50) ? VDISK_GROWER_NO_THREAD : 0;
    CHECK_OK(vdisk_open_backend(memdisk_open(maker.disk, false), &opts, &v));
    CHECK_OK(vdisk_set_grower(v, on_wish, &maker, &grower));
    return v;
}

static void *run_thread(void *arg)
{
    struct workload *w = arg;

    workload_run(w, test_steps(STEPS));
    workload_drain(w);
    return NULL;
}

static void session(const struct image_spec *spec, struct model *model)
{
    struct workload w[MAX_THREADS] = {0};
    struct rng *r = test_rng();
    unsigned n = (unsigned)rng_between(r, 1, MAX_THREADS);
    uint64_t stripe = spec->cluster_size + (rng_chance(r, 50) ? 512 : 0);
    pthread_t thread[MAX_THREADS];
    vdisk *v = open_thin();

    for (unsigned i = 0; i < n; i++) {
        w[i] = (struct workload){.v = v, .models = model, .nmodels = 1, .grows = true,
                                 .depth = (unsigned)rng_between(r, 1, 12),
                                 .unit = spec->cluster_size, .max_len = 4 * spec->cluster_size,
                                 .stripe = stripe, .stripes = n, .stripe_index = i};
        if (n > 1)
            w[i].max_len = min_u64(w[i].max_len, stripe);
        rng_init(&w[i].rng, rng_next(r));
        workload_start(&w[i]);
    }
    for (unsigned i = 0; i < n; i++)
        CHECK(pthread_create(&thread[i], NULL, run_thread, &w[i]) == 0);
    for (unsigned i = 0; i < n; i++)
        pthread_join(thread[i], NULL);
    for (unsigned i = 0; i < n; i++)
        workload_finish(&w[i]);
    workload_verify(v, model, 1);
    CHECK_OK(vdisk_close(v));
}

static void test_thin(void)
{
    struct rng *r = test_rng();
    struct image_spec spec;
    struct memdisk disk;
    struct model model;
    pthread_t thread;
    struct backend *b;
    int rc;

    test_requires("qemu-img");
    image_default(&spec, "thin", 1);
    image_random(r, &spec, IMAGE_NO_RAW | IMAGE_NO_PREALLOC | IMAGE_NO_DATA_FILE);
    spec.cluster_size = spec.extended_l2 ? 16384 : 1u << rng_between(r, 9, 16);
    spec.size = align_up(rng_between(r, 100, 300) * spec.cluster_size, 512);
    test_note("%s", image_describe(&spec));
    memdisk_init_fixed(&disk, rng_chance(r, 50) ? 512 : 4096, 4 * spec.cluster_size);
    while (b = memdisk_open(&disk, false), (rc = image_create_on(&spec, b)) == -ENOSPC) {
        backend_close(b);
        memory_backend_extend(disk.keeper, memdisk_size(&disk) + 4096);
    }
    backend_close(b);
    CHECK_OK(rc);
    model_init(&model, 0, spec.size);
    maker.disk = &disk;
    pthread_mutex_init(&maker.lock, NULL);
    rng_init(&maker.rng, rng_next(r));
    CHECK(pthread_create(&thread, NULL, make_larger, NULL) == 0);
    for (unsigned i = 0; i < SESSIONS; i++)
        session(&spec, &model);
    atomic_store(&over, true);
    pthread_join(thread, NULL);
    memdisk_save(&disk, test_path("saved"));
    image_check(test_path("saved"), false);
    image_compare(test_path("saved"), "qcow2", spec.size, &model, 1);
    model_finish(&model);
    memdisk_finish(&disk);
}

/* ---- a loop device whose file grows -------------------------------------------------------------------- */

enum { MIB = 1 << 20, UNIT = 65536, UNITS = 40 * MIB / UNIT, DEPTH = 16 };

static char loop[64];

/* It takes its time, on the thread that it is called on. */
static void grow_loop(void *arg, vdisk *v, const struct vdisk_wish *wish)
{
    (void)v;
    ++*(unsigned *)arg;
    run_ok("truncate -s %llu lv && losetup -c %s", (unsigned long long)wish->wanted, loop);
    CHECK_OK(vdisk_grown(wish->number, 0));
}

static void fill_device(vdisk_queue *q, vdisk *v)
{
    uint8_t *buf[DEPTH];
    struct vdisk_completion c;

    for (unsigned i = 0; i < DEPTH; i++)
        memset(buf[i] = test_alloc(UNIT), (int)i + 1, UNIT);
    for (unsigned sent = 0, ended = 0; ended < UNITS; ended++) {
        for (; sent < UNITS && sent - ended < DEPTH; sent++)
            vdisk_write(q, v, (uint64_t)sent * UNIT, buf[sent % DEPTH], UNIT, 0, 0);
        CHECK_INT(vdisk_reap(q, &c, 1, 1, NULL), 1);
        CHECK_OK(c.result);
    }
    for (unsigned i = 0; i < UNITS; i++) {
        CHECK_OK(vdisk_pread(v, buf[0], UNIT, (uint64_t)i * UNIT));
        for (unsigned at = 0; at < UNIT; at += 512)
            CHECK_INT(buf[0][at], i % DEPTH + 1);
    }
    for (unsigned i = 0; i < DEPTH; i++)
        free(buf[i]);
}

static void test_loop(void)
{
    struct vdisk_open_opts opts = {.size = sizeof opts, .flags = VDISK_OPEN_RDWR, .format = "qcow2"};
    struct vdisk_create_opts create = {.size = sizeof create, .format = "qcow2", .virtual_size = 64 * MIB};
    struct vdisk_grower_opts grower = {.size = sizeof grower, .chunk = 4 * MIB};
    struct run_result result;
    unsigned calls = 0;
    vdisk_queue *q;
    vdisk *v;

    test_requires("losetup");
    run_shell(&result, "truncate -s 2M lv && losetup -f --show lv 2>&1");
    if (result.status != 0 || strncmp(result.out, "/dev/loop", 9) != 0)
        test_skip("no loop device: %s", result.out);
    result.out[strcspn(result.out, "\n")] = '\0';
    snprintf(loop, sizeof loop, "%.60s", result.out);
    CHECK_OK(vdisk_create(loop, &create));
    CHECK_OK(vdisk_open(loop, &opts, &v));
    CHECK_OK(vdisk_queue_create(NULL, &q));
    CHECK_OK(vdisk_set_grower(v, grow_loop, &calls, &grower));
    fill_device(q, v);
    CHECK(calls > 0);
    CHECK_OK(vdisk_close(v));
    CHECK_OK(vdisk_queue_destroy(q));
    run_ok("losetup -d %s", loop);
}

int main(int argc, char **argv)
{
    static const struct test_case cases[] = {
        {.name = "thin", .run = test_thin, .repeat = 16, .quick = 4, .lengthy = 400},
        {.name = "loop", .run = test_loop},
    };

    return test_main(argc, argv, cases, ARRAY_LEN(cases));
}
