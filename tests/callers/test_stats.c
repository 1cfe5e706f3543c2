/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the statistics count is what has been done: by kind, with bytes and errors, by volume and by queue. */
#include <pthread.h>
#include <stdlib.h>

#include "tests/callers/callers.h"

static vdisk *v;
static vdisk_queue *q;

static void each_kind(void (*run)(void), uint32_t flags)
{
    for (unsigned i = 0; i < ARRAY_LEN(all_kinds); i++) {
        struct vdisk_queue_opts opts = {.size = sizeof opts, .kind = all_kinds[i], .flags = flags};
        test_note("kind %s", vdisk_queue_kind_name(all_kinds[i]));
        v = open_rw(make_full_image("image"));
        CHECK_OK(vdisk_queue_create(&opts, &q));
        run();
        CHECK_OK(vdisk_queue_destroy(q));
        CHECK_OK(vdisk_close(v));
    }
}

static struct vdisk_stats of_volume(void)
{
    struct vdisk_stats stats = {.size = sizeof stats};

    CHECK_OK(vdisk_get_stats(v, &stats));
    return stats;
}

static struct vdisk_stats of_queue(void)
{
    struct vdisk_stats stats = {.size = sizeof stats};

    CHECK_OK(vdisk_queue_get_stats(q, &stats));
    return stats;
}

static void expect(const struct vdisk_stats *s, enum vdisk_request_kind kind, uint64_t requests, uint64_t bytes,
                   uint64_t errors)
{
    test_note("requests of kind %d", (int)kind);
    CHECK_INT(s->kind[kind].requests, requests);
    CHECK_INT(s->kind[kind].bytes, bytes);
    CHECK_INT(s->kind[kind].errors, errors);
}

/* ---- requests ---------------------------------------------------------------------------------------- */

static void counted(void)
{
    struct vdisk_extent extent;
    struct vdisk_extents extents = {.list = &extent, .max = 1};
    char *buf = vdisk_alloc_buffer(CLUSTER), *in = vdisk_alloc_buffer(4 * BLOCK);
    struct vdisk_stats s;
    int results[12];

    memset(buf, 1, CLUSTER);
    for (unsigned i = 0; i < 3; i++)
        vdisk_read(q, v, i * CLUSTER, in + i * BLOCK, BLOCK, 0, i);
    vdisk_read(q, v, 1u << 30, in + 3 * BLOCK, BLOCK, 0, 3); /* past the end */
    vdisk_write(q, v, 0, buf, BLOCK, VDISK_REQ_FUA, 4);
    vdisk_write(q, v, 100 * CLUSTER, buf, CLUSTER, 0, 5);
    vdisk_write_zeroes(q, v, 3 * CLUSTER, 2 * CLUSTER, 0, 6);
    vdisk_discard(q, v, 5 * CLUSTER, CLUSTER, 0, 7);
    vdisk_get_extents(q, v, 0, CLUSTER, &extents, 8);
    reap_all(q, 9, results);
    vdisk_flush(q, v, 0, 9);
    reap_all(q, 1, results);
    s = of_queue();
    expect(&s, VDISK_REQUEST_READ, 4, 4 * BLOCK, 1);
    expect(&s, VDISK_REQUEST_WRITE, 2, BLOCK + CLUSTER, 0);
    expect(&s, VDISK_REQUEST_ZERO, 1, 2 * CLUSTER, 0);
    expect(&s, VDISK_REQUEST_DISCARD, 1, CLUSTER, 0);
    expect(&s, VDISK_REQUEST_EXTENTS, 1, CLUSTER, 0);
    expect(&s, VDISK_REQUEST_FLUSH, 1, 0, 0);
    CHECK_INT(s.cache_misses + s.allocations + s.flushes, 0);
    /* The volume has seen another queue, too: this thread's, for synchronous calls. */
    CHECK_OK(vdisk_pread(v, buf, BLOCK, 0));
    s = of_volume();
    expect(&s, VDISK_REQUEST_READ, 5, 5 * BLOCK, 1);
    expect(&s, VDISK_REQUEST_WRITE, 2, BLOCK + CLUSTER, 0);
    CHECK_INT(s.allocations, 1);
    CHECK_INT(s.flushes, 2); /* with that of the durable write */
    CHECK(s.cache_misses >= 1 && s.cache_hits >= 1);
    CHECK_INT(of_queue().kind[VDISK_REQUEST_READ].requests, 4);
    free(buf);
    free(in);
}

static void test_requests(void)
{
    each_kind(counted, 0);
}

static void hits(void)
{
    char *buf = vdisk_alloc_buffer(BLOCK), *in = vdisk_alloc_buffer(BLOCK);
    struct vdisk_stats before, after;

    CHECK_OK(vdisk_pread(v, buf, BLOCK, 0));
    before = of_volume();
    for (unsigned i = 0; i < 40; i++) {
        vdisk_read(q, v, i * CLUSTER, in, BLOCK, 0, 0);
        vdisk_write(q, v, i * CLUSTER, buf, BLOCK, 0, 0);
        reap_all(q, 2, NULL);
    }
    after = of_volume();
    CHECK_INT(after.cache_hits - before.cache_hits, 80);
    CHECK_INT(after.cache_misses - before.cache_misses, 0);
    CHECK_INT(of_queue().cache_hits, 80);
    free(buf);
    free(in);
}

static void test_hits(void)
{
    each_kind(hits, 0);
}

/* ---- flushes ----------------------------------------------------------------------------------------- */

static void shared(void)
{
    char *buf = vdisk_alloc_buffer(BLOCK);
    struct vdisk_stats s;

    memset(buf, 1, BLOCK);
    for (unsigned i = 0; i < 16; i++)
        vdisk_write(q, v, (200 + i) * CLUSTER, buf, BLOCK, VDISK_REQ_FUA, 0);
    reap_all(q, 16, NULL);
    s = of_volume();
    CHECK_INT(s.flushes + s.flushes_shared, 16);
    CHECK(s.flushes_shared > 0);
    CHECK_INT(s.allocations, 16);
    free(buf);
}

static void test_flushes(void)
{
    each_kind(shared, 0);
}

/* ---- latency ----------------------------------------------------------------------------------------- */

static void measured(void)
{
    struct vdisk_latency l = {.size = sizeof l};
    char *buf = vdisk_alloc_buffer(20 * BLOCK);
    uint64_t total = 0;

    for (unsigned i = 0; i < 20; i++)
        vdisk_read(q, v, i * CLUSTER, buf + i * BLOCK, BLOCK, 0, 0);
    reap_all(q, 20, NULL);
    CHECK_OK(vdisk_queue_get_latency(q, VDISK_REQUEST_READ, &l));
    CHECK_INT(l.count, 20);
    CHECK(l.max_ns > 0 && l.sum_ns >= l.max_ns && l.sum_ns <= 20 * l.max_ns);
    for (unsigned i = 0; i < VDISK_LATENCY_BUCKETS; i++)
        total += l.bucket[i];
    CHECK_INT(total, 20);
    for (unsigned i = 0; i + 1 < VDISK_LATENCY_BUCKETS; i++) {
        CHECK(vdisk_latency_floor(i) < vdisk_latency_floor(i + 1));
        if (vdisk_latency_floor(i) <= l.max_ns && l.max_ns < vdisk_latency_floor(i + 1))
            CHECK(l.bucket[i] > 0);
    }
    CHECK_OK(vdisk_queue_get_latency(q, VDISK_REQUEST_WRITE, &l));
    CHECK_INT(l.count, 0);
    CHECK_INT(vdisk_queue_get_latency(q, VDISK_REQUEST_KINDS, &l), -EINVAL);
    free(buf);
}

static void not_measured(void)
{
    struct vdisk_latency l = {.size = sizeof l};

    CHECK_INT(vdisk_queue_get_latency(q, VDISK_REQUEST_READ, &l), -ENODATA);
    CHECK_HAS(vdisk_error_hint(), "VDISK_QUEUE_MEASURE");
}

static void test_latency(void)
{
    each_kind(measured, VDISK_QUEUE_MEASURE);
    each_kind(not_measured, 0);
}

/* ---- while it goes on -------------------------------------------------------------------------------- */

static void *read_often(void *arg)
{
    char *buf = vdisk_alloc_buffer(BLOCK);

    for (unsigned i = 0; i < 500; i++)
        CHECK_OK(vdisk_pread(v, buf, BLOCK, i % CLUSTERS * CLUSTER));
    free(buf);
    return NULL;
}

static void test_threads(void)
{
    pthread_t threads[4];
    uint64_t seen = 0;
    struct vdisk_stats s;

    v = open_rw(make_full_image("image"));
    for (unsigned i = 0; i < ARRAY_LEN(threads); i++)
        CHECK(pthread_create(&threads[i], NULL, read_often, NULL) == 0);
    for (unsigned i = 0; i < 1000; i++) {
        s = of_volume();
        CHECK(s.kind[VDISK_REQUEST_READ].requests >= seen);
        seen = s.kind[VDISK_REQUEST_READ].requests;
    }
    for (unsigned i = 0; i < ARRAY_LEN(threads); i++)
        pthread_join(threads[i], NULL);
    s = of_volume();
    expect(&s, VDISK_REQUEST_READ, 2000, 2000 * BLOCK, 0);
    CHECK_INT(vdisk_get_stats(NULL, &s), -EINVAL);
    CHECK_INT(vdisk_get_stats(v, NULL), -EINVAL);
    CHECK_INT(vdisk_queue_get_stats(NULL, &s), -EINVAL);
    CHECK_OK(vdisk_close(v));
}

/* ---- queues and volumes that come and go ------------------------------------------------------------------ */

enum { QUEUES = 64, ZEROS_AT = 512 << 20 };

/* Reads of zeros: nothing but the engine between one and the next. */
static void read_zeros(vdisk_queue *queue, unsigned n)
{
    char *buf = vdisk_alloc_buffer(BLOCK);

    for (unsigned i = 0; i < n; i++) {
        vdisk_read(queue, v, ZEROS_AT, buf, BLOCK, 0, 0);
        if (i % 4 == 3 || i == n - 1)
            reap_all(queue, i % 4 + 1, NULL);
    }
    free(buf);
}

struct reader {
    pthread_t    thread;
    vdisk_queue *queue;
    unsigned     requests;
};

static void *read_much(void *arg)
{
    struct reader *r = arg;

    read_zeros(r->queue, r->requests);
    return NULL;
}

/* More than there are slots of a gate: two of them share one, and lose nothing. */
static void test_many_queues(void)
{
    unsigned n = test_is_quick() ? 40000 : 400000;
    vdisk_queue *queues[QUEUES];
    struct reader readers[4];
    struct vdisk_stats s;

    v = open_rw(make_full_image("image"));
    for (unsigned i = 0; i < QUEUES; i++)
        CHECK_OK(vdisk_queue_create(&(struct vdisk_queue_opts){.size = sizeof(struct vdisk_queue_opts), .depth = 4,
                                                               .kind = VDISK_QUEUE_THREADS}, &queues[i]));
    for (unsigned i = 0; i < ARRAY_LEN(readers); i++) {
        readers[i] = (struct reader){.queue = queues[i % 2 + (i >= 2 ? 32 : 0)], .requests = n};
        CHECK(pthread_create(&readers[i].thread, NULL, read_much, &readers[i]) == 0);
    }
    for (unsigned i = 0; i < ARRAY_LEN(readers); i++)
        pthread_join(readers[i].thread, NULL);
    for (unsigned i = 2; i < 32; i++) {
        read_zeros(queues[i], i);
        read_zeros(queues[i + 32], 32 - i);
    }
    s = of_volume();
    expect(&s, VDISK_REQUEST_READ, 4 * n + 30 * 32, (4 * n + 30 * 32) * (uint64_t)BLOCK, 0);
    for (unsigned i = 0; i < QUEUES; i++) {
        q = queues[i];
        s = of_queue();
        expect(&s, VDISK_REQUEST_READ, i % 32 < 2 ? n : i < 32 ? i : 64 - i,
               (i % 32 < 2 ? n : i < 32 ? i : 64 - i) * (uint64_t)BLOCK, 0);
        CHECK_OK(vdisk_queue_destroy(q));
    }
    s = of_volume();
    expect(&s, VDISK_REQUEST_READ, 4 * n + 30 * 32, (4 * n + 30 * 32) * (uint64_t)BLOCK, 0);
    CHECK_OK(vdisk_close(v));
}

/* What a queue has counted stays with it when a volume goes, and with a volume when a queue does. */
static void test_come_and_go(void)
{
    struct vdisk_queue_opts opts = {.size = sizeof opts};
    vdisk *others[40];
    struct vdisk_stats s;

    make_full_image("image");
    CHECK_OK(vdisk_queue_create(&opts, &q));
    for (unsigned round = 1; round <= 3; round++) {
        for (unsigned i = 0; i < ARRAY_LEN(others); i++) {
            struct vdisk_open_opts how = {.size = sizeof how, .format = "qcow2"};
            CHECK_OK(vdisk_open(test_path("image"), &how, &others[i]));
        }
        for (unsigned i = 0; i < 2 * ARRAY_LEN(others); i++) {
            v = others[i % ARRAY_LEN(others)];
            read_zeros(q, 1 + i % 3);
            vdisk_read(q, v, 1u << 30, &s, sizeof s, 0, 0); /* past the end */
            reap_all(q, 1, (int[1]){0});
        }
        for (unsigned i = 0; i < ARRAY_LEN(others); i++) {
            v = others[i];
            s = of_volume();
            expect(&s, VDISK_REQUEST_READ, 4 + i % 3 + (i + 40) % 3, s.kind[VDISK_REQUEST_READ].bytes, 2);
            CHECK_OK(vdisk_close(v));
        }
        s = of_queue();
        expect(&s, VDISK_REQUEST_READ, round * 239, s.kind[VDISK_REQUEST_READ].bytes, round * 80);
    }
    v = open_rw(test_path("image"));
    read_zeros(q, 7);
    CHECK_OK(vdisk_queue_destroy(q));
    s = of_volume();
    expect(&s, VDISK_REQUEST_READ, 7, 7 * BLOCK, 0);
    CHECK_OK(vdisk_queue_create(&opts, &q));
    read_zeros(q, 5);
    s = of_volume();
    expect(&s, VDISK_REQUEST_READ, 12, 12 * BLOCK, 0);
    CHECK_OK(vdisk_close(v));
    s = of_queue();
    expect(&s, VDISK_REQUEST_READ, 5, 5 * BLOCK, 0);
    CHECK_OK(vdisk_queue_destroy(q));
}

int main(int argc, char **argv)
{
    static const struct test_case cases[] = {
        {.name = "requests", .run = test_requests},
        {.name = "hits", .run = test_hits},
        {.name = "flushes", .run = test_flushes},
        {.name = "latency", .run = test_latency},
        {.name = "threads", .run = test_threads},
        {.name = "many_queues", .run = test_many_queues},
        {.name = "come_and_go", .run = test_come_and_go},
    };

    return test_main(argc, argv, cases, ARRAY_LEN(cases));
}
