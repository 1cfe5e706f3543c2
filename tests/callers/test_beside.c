/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A thread that has requests in flight and does not call the library holds up nobody: what others need of what it
 * began is carried on. And the queues, volumes and threads of such work go in any order.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "tests/callers/callers.h"
#include "tests/lib/run.h"

enum { MANY = 40, BATCH = 16, MAX_IN_FLIGHT = 4 * MANY };

/* One kind of work that two queues share: `part` 0 is the idle thread's. */
struct scene {
    const char *name;
    void (*enqueue)(vdisk_queue *q, vdisk *v, unsigned part);
    unsigned requests;
    bool writes;
    bool compressed;   /* the image is compressed */
    bool small;    /* the image has clusters of 512 bytes */
    bool many;     /* the idle thread has more queues than there are leases */
    bool written;  /* both have written something before */
};

static char *buffer; /* for reads and writes whose bytes do not matter */

static char *piece(unsigned part, unsigned i)
{
    return buffer + (part * BATCH + i) * CLUSTER;
}

static void read_neighbours(vdisk_queue *q, vdisk *v, unsigned part)
{
    for (unsigned i = 0; i < 4; i++)
        vdisk_read(q, v, (2 * i + part) * CLUSTER, piece(part, i), BLOCK, 0, i);
}

static void read_the_same(vdisk_queue *q, vdisk *v, unsigned part)
{
    for (unsigned i = 0; i < 4; i++)
        vdisk_read(q, v, i * CLUSTER + part * BLOCK, piece(part, i), BLOCK, 0, i);
}

static void flush(vdisk_queue *q, vdisk *v, unsigned part)
{
    vdisk_flush(q, v, 0, 0);
}

static void write_durably(vdisk_queue *q, vdisk *v, unsigned part)
{
    for (unsigned i = 0; i < 4; i++)
        vdisk_write(q, v, (200 + 2 * i + part) * CLUSTER, piece(part, i), BLOCK, VDISK_REQ_FUA, i);
}

/* One L2 table is of 512 MiB. */
static void write_new_tables(vdisk_queue *q, vdisk *v, unsigned part)
{
    vdisk_write(q, v, (512u << 20) + part * CLUSTER, piece(part, 0), BLOCK, 0, 0);
    vdisk_write(q, v, (512u << 20) + (4 + part) * CLUSTER, piece(part, 1), CLUSTER, 0, 1);
}

/* Clusters of 512 bytes: 64 to an L2 table, 256 to a refcount block. */
static void write_new_blocks(vdisk_queue *q, vdisk *v, unsigned part)
{
    for (unsigned i = 0; i < BATCH; i++)
        vdisk_write(q, v, (1u << 20) + (2 * i + part) * 16384, piece(part, i), 16384, 0, i);
}

static void discard(vdisk_queue *q, vdisk *v, unsigned part)
{
    for (unsigned i = 0; i < 3; i++)
        vdisk_discard(q, v, (8 * i + 4 * part) * CLUSTER, 4 * CLUSTER, 0, i);
    vdisk_flush(q, v, 0, 3);
    vdisk_write(q, v, (300 + part) * CLUSTER, piece(part, 0), CLUSTER, 0, 4);
}

static void zero(vdisk_queue *q, vdisk *v, unsigned part)
{
    vdisk_write_zeroes(q, v, 32 * part * CLUSTER, 32 * CLUSTER, VDISK_REQ_UNMAP, 0);
    vdisk_write_zeroes(q, v, (400 + 32 * part) * CLUSTER, 32 * CLUSTER, 0, 1);
}

static void write_one(vdisk_queue *q, vdisk *v, unsigned part)
{
    static _Atomic unsigned next;

    vdisk_write(q, v, (500 + next++) * CLUSTER, piece(part, 0), BLOCK, 0, 0);
}

static const struct scene scenes[] = {
    {.name = "cold reads of one slice", .enqueue = read_neighbours, .requests = 4},
    {.name = "cold reads of the same clusters", .enqueue = read_the_same, .requests = 4},
    {.name = "reads of compressed clusters", .enqueue = read_the_same, .requests = 4, .compressed = true},
    {.name = "flushes", .enqueue = flush, .requests = 1, .writes = true, .written = true},
    {.name = "durable writes", .enqueue = write_durably, .requests = 4, .writes = true},
    {.name = "new L2 tables", .enqueue = write_new_tables, .requests = 2, .writes = true},
    {.name = "new refcount blocks", .enqueue = write_new_blocks, .requests = BATCH, .writes = true, .small = true},
    {.name = "discards", .enqueue = discard, .requests = 5, .writes = true},
    {.name = "zeroes", .enqueue = zero, .requests = 2, .writes = true},
    {.name = "leases", .enqueue = write_one, .requests = 1, .writes = true, .many = true},
};

/* ---- the two threads ---------------------------------------------------------------------------------- */

struct stage {
    const struct scene *scene;
    vdisk *v;
    enum vdisk_queue_kind kinds[2];
    unsigned turns;     /* of the idle one's, before it leaves the library */
    bool idle_first;    /* the volume has seen the idle one's queue first */
    pthread_barrier_t made, idle, done;
};

static void note(const struct stage *s)
{
    test_note("%s; the idle queue is %s, came %s, made %u turns; the other is %s", s->scene->name,
              vdisk_queue_kind_name(s->kinds[0]), s->idle_first ? "first" : "second", s->turns,
              vdisk_queue_kind_name(s->kinds[1]));
}

static vdisk_queue *make_queue(const struct stage *s, unsigned part)
{
    struct vdisk_queue_opts opts = {.size = sizeof opts, .depth = 32, .kind = s->kinds[part]};
    vdisk_queue *q;

    CHECK_OK(vdisk_queue_create(&opts, &q));
    return q;
}

/* So that the volume knows this queue. */
static void introduce(const struct stage *s, vdisk_queue *q, unsigned part)
{
    if (s->scene->written)
        vdisk_write(q, s->v, (700 + part) * CLUSTER, piece(part, 0), BLOCK, 0, 0);
    else
        vdisk_read(q, s->v, 0, piece(part, 0), 0, 0, 0);
    reap_all(q, 1, NULL);
}

static void *be_idle(void *arg)
{
    struct stage *s = arg;
    vdisk_queue *q[MANY];
    unsigned n = s->scene->many ? MANY : 1, left = 0;
    struct vdisk_completion c;

    for (unsigned i = 0; i < n; i++) {
        q[i] = make_queue(s, 0);
        if (s->idle_first)
            introduce(s, q[i], 0);
    }
    pthread_barrier_wait(&s->made);
    pthread_barrier_wait(&s->made); /* the other one has been introduced */
    for (unsigned i = 0; i < n; i++) {
        if (!s->idle_first)
            introduce(s, q[i], 0);
        s->scene->enqueue(q[i], s->v, 0);
        left += s->scene->requests;
        CHECK_OK(vdisk_submit(q[i]));
        for (unsigned turn = 0; turn < s->turns; turn++) {
            int got = vdisk_reap(q[i], &c, 0, 1, NULL);
            CHECK_OK(got);
            left -= (unsigned)got;
            clock_nanosleep(CLOCK_MONOTONIC, 0, &(struct timespec){.tv_nsec = turn % 2 ? 100000 : 0}, NULL);
        }
    }
    pthread_barrier_wait(&s->idle);
    pthread_barrier_wait(&s->done); /* here it does not call the library */
    for (unsigned i = 0; i < n; i++) {
        left -= vdisk_queue_inflight(q[i]);
        reap_all(q[i], vdisk_queue_inflight(q[i]), NULL);
        CHECK_OK(vdisk_queue_destroy(q[i]));
    }
    CHECK_INT(left, 0);
    return NULL;
}

static void be_busy(struct stage *s)
{
    vdisk_queue *q = make_queue(s, 1);

    pthread_barrier_wait(&s->made);
    introduce(s, q, 1);
    pthread_barrier_wait(&s->made);
    pthread_barrier_wait(&s->idle);
    for (unsigned i = 0; i < 2; i++) {
        s->scene->enqueue(q, s->v, 1);
        reap_all(q, s->scene->requests, NULL);
    }
    if (s->scene->writes) {
        vdisk_flush(q, s->v, 0, 0);
        reap_all(q, 1, NULL);
    }
    caller_wait_begin("synchronous calls beside an idle thread");
    CHECK_OK(vdisk_pread(s->v, piece(1, 0), BLOCK, 9 * CLUSTER));
    CHECK_OK(vdisk_sync(s->v));
    caller_wait_end();
    pthread_barrier_wait(&s->done);
    CHECK_OK(vdisk_queue_destroy(q));
}

static void act(struct stage *s)
{
    pthread_t thread;

    pthread_barrier_init(&s->made, NULL, 2);
    pthread_barrier_init(&s->idle, NULL, 2);
    pthread_barrier_init(&s->done, NULL, 2);
    note(s);
    CHECK(pthread_create(&thread, NULL, be_idle, s) == 0);
    be_busy(s);
    pthread_join(thread, NULL);
    pthread_barrier_destroy(&s->made);
    pthread_barrier_destroy(&s->idle);
    pthread_barrier_destroy(&s->done);
}

static const char *image_for(const struct scene *scene)
{
    struct vdisk_create_opts opts = {.size = sizeof opts, .format = "qcow2", .virtual_size = 1u << 30,
                                     .cluster_size = 512};
    const char *path = make_full_image("image");

    if (scene->compressed) {
        test_requires("qemu-img");
        run_ok("qemu-img convert -c -O qcow2 %s %s", path, test_path("compressed"));
        return test_path("compressed");
    }
    if (scene->small) {
        opts.virtual_size = 64u << 20;
        CHECK_OK(vdisk_create(test_path("small"), &opts));
        return test_path("small");
    }
    return path;
}

static void test_idle(void)
{
    struct rng *r = test_rng();
    const struct scene *scene = &scenes[test_repetition() % ARRAY_LEN(scenes)];
    struct stage s = {.scene = scene};
    const char *path;

    buffer = vdisk_alloc_buffer((size_t)2 * BATCH * CLUSTER);
    memset(buffer, 0x42, (size_t)2 * BATCH * CLUSTER);
    path = image_for(scene);
    for (unsigned i = 0; i < 8; i++) {
        s.kinds[0] = all_kinds[rng_below(r, ARRAY_LEN(all_kinds))];
        s.kinds[1] = all_kinds[rng_below(r, ARRAY_LEN(all_kinds))];
        s.turns = (unsigned)rng_below(r, 6);
        s.idle_first = rng_chance(r, 50);
        s.v = open_rw(path);
        act(&s);
        caller_wait_begin("close");
        CHECK_OK(vdisk_close(s.v));
        caller_wait_end();
    }
    free(buffer);
}

/* ---- in any order ------------------------------------------------------------------------------------- */

enum { VOLUMES = 6, QUEUES = 4, EVENTS = 120 };

struct user {
    pthread_t thread;
    struct rng rng;
    _Atomic(vdisk *) *volumes;
    pthread_rwlock_t *locks; /* of each: read to use it, write to close or open it */
};

/* A queue of this thread's, for a while: makes requests of any volumes, and goes. */
static void use_some(struct user *u)
{
    struct vdisk_queue_opts opts = {.size = sizeof opts, .depth = 8,
                                    .kind = all_kinds[rng_below(&u->rng, ARRAY_LEN(all_kinds))]};
    char *buf = vdisk_alloc_buffer(BLOCK);
    vdisk_queue *q;

    memset(buf, 0x42, BLOCK);
    CHECK_OK(vdisk_queue_create(&opts, &q));
    for (unsigned n = (unsigned)rng_below(&u->rng, 6); n > 0; n--) {
        unsigned i = (unsigned)rng_below(&u->rng, VOLUMES);
        pthread_rwlock_rdlock(&u->locks[i]);
        vdisk *v = atomic_load(&u->volumes[i]);
        if (v) {
            vdisk_write(q, v, rng_below(&u->rng, 1000) * CLUSTER, buf, BLOCK, 0, 0);
            vdisk_read(q, v, rng_below(&u->rng, 1000) * CLUSTER, buf, BLOCK, 0, 1);
            if (rng_chance(&u->rng, 40))
                vdisk_flush(q, v, 0, 2);
            reap_all(q, vdisk_queue_inflight(q), NULL);
            if (rng_chance(&u->rng, 20))
                CHECK_OK(vdisk_sync(v));
        }
        pthread_rwlock_unlock(&u->locks[i]);
    }
    caller_wait_begin("destroy");
    CHECK_OK(vdisk_queue_destroy(q));
    caller_wait_end();
    free(buf);
}

static void *come_and_go(void *arg)
{
    struct user *u = arg;

    for (unsigned n = (unsigned)rng_between(&u->rng, 1, 4); n > 0; n--)
        use_some(u);
    return NULL; /* and its queue for synchronous calls goes, too */
}

static void open_or_close(struct user *u, unsigned i)
{
    vdisk *v;

    pthread_rwlock_wrlock(&u->locks[i]);
    v = atomic_load(&u->volumes[i]);
    caller_wait_begin("open or close");
    if (v)
        CHECK_OK(vdisk_close(v));
    atomic_store(&u->volumes[i], v ? NULL : open_rw(test_path("image-%u", i)));
    caller_wait_end();
    pthread_rwlock_unlock(&u->locks[i]);
}

/* Threads, their queues and volumes: a queue that others' work is homed on goes before them, or after. */
static void test_order(void)
{
    static _Atomic(vdisk *) volumes[VOLUMES];
    static pthread_rwlock_t locks[VOLUMES];
    struct user users[QUEUES], me = {.volumes = volumes, .locks = locks};

#ifdef __SANITIZE_THREAD__
    test_skip("ThreadSanitizer does not see that the memory of a ring goes and comes for another");
#endif
    rng_init(&me.rng, rng_next(test_rng()));
    for (unsigned i = 0; i < VOLUMES; i++) {
        pthread_rwlock_init(&locks[i], NULL);
        make_full_image(strrchr(test_path("image-%u", i), '/') + 1);
        open_or_close(&me, i);
    }
    for (unsigned round = 0; round < EVENTS / 10; round++) {
        for (unsigned i = 0; i < QUEUES; i++) {
            users[i] = me;
            rng_init(&users[i].rng, rng_next(&me.rng));
            CHECK(pthread_create(&users[i].thread, NULL, come_and_go, &users[i]) == 0);
        }
        use_some(&me);
        for (unsigned n = 0; n < 3; n++)
            open_or_close(&me, (unsigned)rng_below(&me.rng, VOLUMES));
        use_some(&me);
        for (unsigned i = 0; i < QUEUES; i++)
            pthread_join(users[i].thread, NULL);
    }
    for (unsigned i = 0; i < VOLUMES; i++)
        if (atomic_load(&volumes[i]))
            open_or_close(&me, i);
}

int main(int argc, char **argv)
{
    static const struct test_case cases[] = {
        {.name = "idle", .run = test_idle, .repeat = 40, .quick = 10, .lengthy = 400},
        {.name = "order", .run = test_order, .repeat = 4, .quick = 1, .lengthy = 40},
    };

    return test_main(argc, argv, cases, ARRAY_LEN(cases));
}
