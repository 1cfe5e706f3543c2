/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Storage of the program's own below volumes (vdisk-backend.h): whatever it can and however it ends what it is
 * asked, volumes on it hold what was written; its errors are the caller's, and what is open stays known.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include <vdisk-image.h>

#include "tests/callers/callers.h"
#include "tests/callers/storage.h"

enum { SIZE = 8 << 20, PIECE = 10000, DEPTH = 16, ID_MAX = 64 };

#define QCOW2_ON(id) "json:{\"driver\":\"qcow2\",\"file\":{\"driver\":\"user\",\"id\":\"" id "\"}}"

static const uint32_t all_caps = VDISK_BACKEND_GROWS | VDISK_BACKEND_ZERO_NEW | VDISK_BACKEND_ZERO |
                                 VDISK_BACKEND_ZERO_CHEAP | VDISK_BACKEND_DISCARD | VDISK_BACKEND_ALLOCATE |
                                 VDISK_BACKEND_FUA;

static const struct storage whole = {.ops.caps = all_caps};

static void start(struct storage *s, const struct storage *as, const char *id)
{
    *s = *as;
    s->seed = rng_next(test_rng());
    CHECK_OK(storage_start(s, id));
}

/* All who have opened it have closed it. */
static void stop(struct storage *s, const char *id)
{
    CHECK_OK(vdisk_backend_unregister(id));
    CHECK_INT(s->opens, s->closes);
    storage_stop(s);
}

static void create(const char *name, const char *format, uint64_t size)
{
    struct vdisk_create_opts opts = {.size = sizeof opts, .format = format, .virtual_size = size};

    CHECK_OK(vdisk_create(name, &opts));
}

static vdisk *open_as(const char *name, const char *format, uint32_t flags)
{
    struct vdisk_open_opts opts = {.size = sizeof opts, .flags = flags, .format = format};
    vdisk *v;

    CHECK_OK(vdisk_open(name, &opts, &v));
    return v;
}

static void check_image(const char *name)
{
    struct vdisk_check_opts opts = {.size = sizeof opts};
    struct vdisk_check_result result = {.size = sizeof result};
    vdisk_job *job;

    CHECK_OK(vdisk_job_check(name, &opts, &job));
    CHECK_OK(vdisk_job_run(job));
    CHECK_OK(vdisk_job_get_check_result(job, &result));
    CHECK_INT(result.corruptions, 0);
    CHECK_INT(result.check_errors, 0);
    CHECK_OK(vdisk_job_free(job));
}

/* ---- a model: what a volume holds ------------------------------------------------------------------------ */

static uint8_t model[SIZE];

static void fill(uint8_t *at, size_t len)
{
    for (size_t i = 0; i < len; i++)
        at[i] = (uint8_t)rng_next(test_rng());
}

static void expect_model(vdisk *v)
{
    uint8_t *got = test_alloc(SIZE);

    CHECK_OK(vdisk_pread(v, got, SIZE, 0));
    for (size_t i = 0; i < SIZE; i++)
        CHECK_MSG(got[i] == model[i], "byte %zu is 0x%x, not 0x%x", i, got[i], model[i]);
    free(got);
}

/* One round of requests that do not overlap, of all kinds. */
static void enqueue_round(vdisk_queue *q, vdisk *v, uint32_t align)
{
    for (unsigned i = 0; i < DEPTH; i++) {
        uint64_t slot = SIZE / DEPTH, at = i * slot + rng_below(test_rng(), slot / 2) / align * align;
        size_t len = (1 + rng_below(test_rng(), slot / 4)) / align * align + align;
        uint64_t what = rng_below(test_rng(), 8);
        if (what == 0) {
            memset(model + at, 0, len);
            vdisk_write_zeroes(q, v, at, len, VDISK_REQ_UNMAP, i);
        } else if (what == 1) {
            vdisk_flush(q, v, 0, i);
        } else {
            fill(model + at, len);
            vdisk_write(q, v, at, model + at, len, what == 2 ? VDISK_REQ_FUA : 0, i);
        }
    }
}

static void rounds(vdisk *v, enum vdisk_queue_kind kind, unsigned n, uint32_t align)
{
    struct vdisk_queue_opts opts = {.size = sizeof opts, .kind = kind};
    vdisk_queue *q;

    CHECK_OK(vdisk_queue_create(&opts, &q));
    while (n-- > 0) {
        enqueue_round(q, v, align);
        reap_all(q, DEPTH, NULL);
    }
    CHECK_OK(vdisk_queue_destroy(q));
}

/* ---- volumes on it --------------------------------------------------------------------------------------- */

static void life(const struct storage *as, const char *format, enum vdisk_queue_kind kind)
{
    struct storage s;
    bool qcow2 = strcmp(format, "qcow2") == 0;
    vdisk *v;

    start(&s, as, "disk");
    memset(model, 0, sizeof model);
    create("user:disk", format, SIZE);
    v = open_as(qcow2 ? QCOW2_ON("disk") : "user:disk", format, VDISK_OPEN_RDWR);
    if (!qcow2) { /* a device has what it had */
        CHECK_OK(vdisk_pzero(v, SIZE, 0, 0));
    }
    CHECK_INT(vdisk_size(v), SIZE);
    rounds(v, kind, 3, rng_below(test_rng(), 2) ? 4096 : 1);
    expect_model(v);
    CHECK_OK(vdisk_close(v));
    if (qcow2)
        check_image("user:disk");
    v = open_as("image-opts:driver=user,id=disk", format, 0);
    expect_model(v);
    CHECK_OK(vdisk_close(v));
    CHECK(s.count[VDISK_BACKEND_IO_FLUSH] > 0 && s.writable_opens > 0 && s.opens > s.writable_opens);
    CHECK(s.fua == 0 || s.ops.caps & VDISK_BACKEND_FUA);
    stop(&s, "disk");
}

/* Each way to end what it is asked, each kind of queue. */
static void test_ways(void)
{
    for (unsigned way = 0; way < STORAGE_WAYS; way++)
        for (unsigned k = 0; k < ARRAY_LEN(all_kinds); k++) {
            struct storage as = whole;
            as.way = (enum storage_way)way;
            test_note("way %u, kind %s", way, vdisk_queue_kind_name(all_kinds[k]));
            life(&as, "qcow2", all_kinds[k]);
            life(&as, "raw", all_kinds[k]);
        }
}

/* Whatever it can and wants. */
static void test_properties(void)
{
    static const uint32_t aligns[] = {0, 512, 4096};

    for (unsigned i = 0; i < ARRAY_LEN(aligns); i++)
        for (unsigned bare = 0; bare < 3; bare++) {
            struct storage as = whole;
            as.way = (enum storage_way)rng_below(test_rng(), STORAGE_WAYS);
            as.ops.align = aligns[i];
            as.ops.memory_align = i == 1 ? 0 : aligns[i];
            as.ops.max_iov = i == 2 ? 1 : 0;
            as.ops.max_transfer = i == 1 ? 65536 : 0;
            if (bare == 1)
                as.ops.caps = VDISK_BACKEND_GROWS;
            if (bare == 2) { /* a device */
                as.ops.caps = 0;
                as.size = STORAGE_ROOM;
            }
            test_note("align %u, caps %x, way %u", aligns[i], as.ops.caps, as.way);
            life(&as, "qcow2", VDISK_QUEUE_AUTO);
            if (bare < 2)
                life(&as, "raw", VDISK_QUEUE_AUTO);
        }
}

/* A raw file whose end lies within a block of the storage. */
static void test_odd_end(void)
{
    struct storage s, as = whole;
    uint8_t data[1024], got[1024];
    vdisk *v;

    as.ops.align = as.ops.memory_align = 4096;
    start(&s, &as, "disk");
    create("user:disk", "raw", 4096 + 512);
    v = open_as("user:disk", "raw", VDISK_OPEN_RDWR);
    fill(data, sizeof data);
    CHECK_OK(vdisk_pwrite(v, data, sizeof data, 4096 - 512, 0));
    CHECK_OK(vdisk_pread(v, got, sizeof got, 4096 - 512));
    CHECK(memcmp(data, got, sizeof got) == 0);
    CHECK_OK(vdisk_close(v));
    CHECK_INT(s.size, 4096 + 512);
    CHECK(memcmp(s.bytes + 4096 - 512, data, sizeof data) == 0);
    stop(&s, "disk");
}

/* A backing file, and an external data file. */
static void test_children(void)
{
    struct vdisk_create_opts opts = {.size = sizeof opts, .format = "qcow2", .virtual_size = UINT64_MAX,
                                     .backing_file = "json:{\"driver\":\"user\",\"id\":\"base\"}",
                                     .backing_fmt = "raw", .data_file = "user:data"};
    struct storage base, data, top, as = whole;
    vdisk *v;

    as.way = STORAGE_SHUFFLED;
    start(&base, &as, "base");
    start(&data, &as, "data");
    start(&top, &as, "top");
    fill(model, sizeof model);
    memcpy(base.bytes, model, SIZE);
    base.size = SIZE;
    CHECK_OK(vdisk_create("user:top", &opts));
    v = open_as("user:top", "qcow2", VDISK_OPEN_RDWR);
    CHECK_INT(vdisk_size(v), SIZE);
    expect_model(v);
    rounds(v, VDISK_QUEUE_AUTO, 3, 1);
    expect_model(v);
    CHECK_INT(vdisk_backend_unregister("base"), -EBUSY);
    CHECK_INT(vdisk_backend_unregister("data"), -EBUSY);
    CHECK_OK(vdisk_close(v));
    CHECK_INT(base.writable_opens, 0);
    CHECK(data.count[VDISK_BACKEND_IO_WRITE] > 0);
    check_image("user:top");
    stop(&base, "base");
    CHECK_INT(vdisk_open("user:top", NULL, &v), -ENOENT); /* its backing file is gone */
    CHECK_HAS(vdisk_error_text(), "there is no storage 'base'");
    stop(&data, "data");
    stop(&top, "top");
}

/* An image that names itself as its backing file is found out. */
static void test_circle(void)
{
    struct vdisk_create_opts opts = {.size = sizeof opts, .format = "qcow2", .virtual_size = SIZE,
                                     .backing_file = "user:disk", .backing_fmt = "qcow2"};
    struct storage s;

    start(&s, &whole, "disk");
    create("user:disk", "qcow2", SIZE);
    CHECK(vdisk_create(QCOW2_ON("disk"), &opts) < 0);
    check_image("user:disk");
    stop(&s, "disk");
}

/* ---- threads --------------------------------------------------------------------------------------------- */

struct writer {
    pthread_t thread;
    vdisk *v;
    unsigned number;
    uint8_t *data; /* of its half */
};

static void *write_half(void *arg)
{
    struct writer *w = arg;
    vdisk_queue *q;

    CHECK_OK(vdisk_queue_create(NULL, &q));
    for (uint64_t at = 0; at < SIZE / 2; at += DEPTH * PIECE) {
        unsigned n = 0;
        for (; n < DEPTH && at + n * PIECE < SIZE / 2; n++) {
            uint64_t from = at + n * PIECE, len = min_u64(PIECE, SIZE / 2 - from);
            vdisk_write(q, w->v, w->number * (SIZE / 2) + from, w->data + from, len, 0, n);
        }
        vdisk_flush(q, w->v, 0, n);
        reap_all(q, n + 1, NULL);
    }
    CHECK_OK(vdisk_queue_destroy(q));
    return NULL;
}

static void test_queues(void)
{
    for (unsigned way = 0; way < STORAGE_WAYS; way++) {
        struct storage s, as = whole;
        struct writer w[2];
        vdisk *v;
        as.way = (enum storage_way)way;
        start(&s, &as, "disk");
        create("user:disk", "qcow2", SIZE);
        v = open_as("user:disk", "qcow2", VDISK_OPEN_RDWR);
        fill(model, sizeof model);
        for (unsigned i = 0; i < 2; i++) {
            w[i] = (struct writer){.v = v, .number = i, .data = model + i * (SIZE / 2)};
            CHECK_INT(pthread_create(&w[i].thread, NULL, write_half, &w[i]), 0);
        }
        for (unsigned i = 0; i < 2; i++)
            CHECK_INT(pthread_join(w[i].thread, NULL), 0);
        expect_model(v);
        CHECK_OK(vdisk_close(v));
        check_image("user:disk");
        stop(&s, "disk");
    }
}

/* ---- what goes wrong ------------------------------------------------------------------------------------- */

/* All of a short life; the first error that is not of a request. */
static int scenario(void)
{
    struct vdisk_create_opts create_opts = {.size = sizeof create_opts, .format = "qcow2", .virtual_size = SIZE};
    struct vdisk_open_opts opts = {.size = sizeof opts, .flags = VDISK_OPEN_RDWR, .format = "qcow2"};
    static uint8_t data[3 * 65536];
    int rc = vdisk_create("user:disk", &create_opts), results[8] = {0};
    vdisk_queue *q;
    vdisk *v;

    if (rc < 0)
        return rc;
    rc = vdisk_open("user:disk", &opts, &v);
    if (rc < 0)
        return rc;
    CHECK_OK(vdisk_queue_create(NULL, &q));
    for (unsigned i = 0; i < 6; i++)
        vdisk_write(q, v, i * (1 << 20) + i * 1000, data, sizeof data, i == 3 ? VDISK_REQ_FUA : 0, i);
    reap_all(q, 6, results);
    vdisk_read(q, v, 100, data, sizeof data, 0, 6);
    vdisk_flush(q, v, 0, 7);
    reap_all(q, 2, results);
    CHECK_OK(vdisk_queue_destroy(q));
    rc = vdisk_close(v);
    for (unsigned i = 0; i < 8 && rc == 0; i++)
        rc = results[i];
    return rc;
}

/* Each request fails once: it is told, and the image is whole, or was not made. */
static void test_errors(void)
{
    uint64_t nth = 0;

    for (;;) {
        struct storage s, as = whole;
        int rc, error = nth % 2 ? -EIO : -ENOSPC;
        as.way = (enum storage_way)(nth++ % STORAGE_WAYS);
        start(&s, &as, "disk");
        storage_fail(&s, nth, error);
        test_note("request %d fails", (int)nth);
        rc = scenario();
        if (s.failed == 0) {
            CHECK_INT(rc, 0);
            stop(&s, "disk");
            break;
        }
        storage_fail(&s, 0, 0);
        CHECK_MSG(rc == 0 || rc == error, "the call says %d", rc);
        if (s.size > 0 && memcmp(s.bytes, "QFI\xfb", 4) == 0)
            check_image("user:disk");
        stop(&s, "disk");
    }
    CHECK_MSG(nth > 20, "only %d requests", (int)nth);
}

/* What the program gives is no result: an error, too. And its words name the storage. */
static void test_no_result(void)
{
    struct storage s;
    uint8_t data[512] = {0};
    vdisk *v;

    start(&s, &whole, "disk");
    create("user:disk", "raw", SIZE);
    v = open_as("user:disk", "raw", VDISK_OPEN_RDWR);
    storage_fail(&s, 1, 512);
    CHECK_INT(vdisk_pread(v, data, sizeof data, 0), -EIO);
    CHECK_HAS(vdisk_error_text(), "user:disk");
    storage_fail(&s, 1, -100000);
    CHECK_INT(vdisk_pwrite(v, data, sizeof data, 0, 0), -EIO);
    storage_fail(&s, 1, -ENOSPC);
    CHECK_INT(vdisk_pwrite(v, data, sizeof data, 0, 0), -ENOSPC);
    CHECK_OK(vdisk_close(v));
    stop(&s, "disk");
}

/* In use: it is not closed, nor forgotten. */
static void test_in_flight(void)
{
    struct storage s, as = whole;
    static uint8_t data[65536];
    vdisk_queue *q;
    vdisk *v;

    as.way = STORAGE_SHUFFLED;
    for (unsigned k = 0; k < ARRAY_LEN(all_kinds); k++) {
        struct vdisk_queue_opts opts = {.size = sizeof opts, .kind = all_kinds[k]};
        start(&s, &as, "disk");
        create("user:disk", "qcow2", SIZE);
        v = open_as("user:disk", "qcow2", VDISK_OPEN_RDWR);
        CHECK_OK(vdisk_queue_create(&opts, &q));
        storage_hold(&s, true);
        for (unsigned i = 0; i < 4; i++)
            vdisk_write(q, v, i * (1 << 20), data, sizeof data, 0, i);
        vdisk_reap(q, &(struct vdisk_completion){0}, 0, 1, NULL);
        CHECK(storage_waiting(&s) > 0);
        CHECK_INT(vdisk_close(v), -EBUSY);
        CHECK_INT(vdisk_queue_destroy(q), -EBUSY);
        CHECK_INT(vdisk_backend_unregister("disk"), -EBUSY);
        CHECK_HAS(vdisk_error_text(), "is in use");
        storage_hold(&s, false);
        reap_all(q, 4, NULL);
        CHECK_OK(vdisk_close(v)); /* flushes: that is waited for */
        CHECK_OK(vdisk_queue_destroy(q));
        check_image("user:disk");
        stop(&s, "disk");
        CHECK_INT(vdisk_backend_unregister("disk"), -ENOENT);
    }
}

/* One writes, or any read. */
static void test_claims(void)
{
    struct vdisk_open_opts rdwr = {.size = sizeof rdwr, .flags = VDISK_OPEN_RDWR, .format = "raw"};
    struct vdisk_open_opts reads = {.size = sizeof reads, .format = "raw"};
    struct vdisk_open_opts share = {.size = sizeof share, .flags = VDISK_OPEN_FORCE_SHARE, .format = "raw"};
    struct storage s;
    vdisk *v, *second;

    start(&s, &whole, "disk");
    create("user:disk", "raw", SIZE);
    CHECK_OK(vdisk_open("user:disk", &rdwr, &v));
    CHECK_INT(vdisk_open("user:disk", &rdwr, &second), -EAGAIN);
    CHECK_INT(vdisk_open("user:disk", &reads, &second), -EAGAIN);
    CHECK_HAS(vdisk_error_text(), "in use by another volume");
    CHECK_OK(vdisk_open("user:disk", &share, &second));
    CHECK_OK(vdisk_close(second));
    CHECK_OK(vdisk_close(v));
    CHECK_OK(vdisk_open("user:disk", &reads, &v));
    CHECK_OK(vdisk_open("user:disk", &reads, &second));
    CHECK_OK(vdisk_close(v));
    CHECK_INT(vdisk_open("user:disk", &rdwr, &v), -EAGAIN);
    CHECK_OK(vdisk_close(second));
    CHECK_OK(vdisk_open("user:disk", &rdwr, &v));
    CHECK_OK(vdisk_close(v));
    s.refuses = -EHOSTDOWN;
    CHECK_INT(vdisk_open("user:disk", &rdwr, &v), -EHOSTDOWN);
    CHECK_HAS(vdisk_error_text(), "user:disk: cannot be opened");
    s.refuses = 0;
    CHECK_OK(vdisk_open("user:disk", &rdwr, &v));
    CHECK_OK(vdisk_close(v));
    stop(&s, "disk");
}

static int try_ops(void (*change)(struct vdisk_backend_ops *))
{
    struct storage s = whole;
    struct vdisk_backend_ops ops;
    int rc;

    CHECK_OK(storage_start(&s, "good"));
    ops = s.ops;
    change(&ops);
    rc = vdisk_backend_register("x", &ops, &s);
    if (rc == 0)
        CHECK_OK(vdisk_backend_unregister("x"));
    CHECK_OK(vdisk_backend_unregister("good"));
    storage_stop(&s);
    return rc;
}

static void none(struct vdisk_backend_ops *o) { o->memory_align = 4096; }
static void no_submit(struct vdisk_backend_ops *o) { o->submit = NULL; }
static void no_size(struct vdisk_backend_ops *o) { o->get_size = NULL; }
static void small(struct vdisk_backend_ops *o) { o->size = sizeof(size_t); }
static void unknown(struct vdisk_backend_ops *o) { o->caps |= 1u << 31; }
static void odd(struct vdisk_backend_ops *o) { o->align = 3; }
static void wide(struct vdisk_backend_ops *o) { o->align = 8192; }
static void ragged(struct vdisk_backend_ops *o) { o->align = 4096, o->max_transfer = 1000; }
static void cheap(struct vdisk_backend_ops *o) { o->caps = VDISK_BACKEND_ZERO_CHEAP; }

static void test_misuse(void)
{
    void (*const bad[])(struct vdisk_backend_ops *) = {no_submit, no_size, small, unknown,
                                                       odd, wide, ragged, cheap};
    static const char *const ids[] = {"", "1a", "a b", "a/b", "user:x"};
    char name[ID_MAX + 2];
    struct storage s, other = whole;

    start(&s, &whole, "disk");
    CHECK_INT(vdisk_backend_register("disk", &s.ops, &s), -EEXIST);
    CHECK_INT(vdisk_backend_register(NULL, &s.ops, &s), -EINVAL);
    CHECK_INT(vdisk_backend_register("x", NULL, &s), -EINVAL);
    CHECK_INT(vdisk_backend_unregister(NULL), -ENOENT);
    for (unsigned i = 0; i < ARRAY_LEN(ids); i++)
        CHECK_INT(vdisk_backend_register(ids[i], &s.ops, &s), -EINVAL);
    memset(name, 'a', sizeof name);
    name[ID_MAX + 1] = '\0';
    CHECK_INT(vdisk_backend_register(name, &s.ops, &s), -EINVAL);
    name[ID_MAX] = '\0';
    CHECK_OK(vdisk_backend_register(name, &s.ops, &s));
    CHECK_OK(vdisk_backend_unregister(name));
    stop(&s, "disk");
    CHECK_INT(try_ops(none), 0);
    for (unsigned i = 0; i < ARRAY_LEN(bad); i++)
        CHECK_MSG(try_ops(bad[i]) == -EINVAL, "property %u is taken", i);
    other.ops.caps = 0; /* a device of a size that is none */
    other.ops.align = 4096;
    other.size = 1000;
    start(&s, &other, "disk");
    CHECK_INT(vdisk_open("user:disk", NULL, &(vdisk *){NULL}), -EINVAL);
    stop(&s, "disk");
}

/* A device of the program's is extended, and cut. */
static void test_moves(void)
{
    struct storage s, as = {.size = 1 << 20};
    struct vdisk_info info = {.size = sizeof info};
    uint8_t data[512];
    vdisk *v;

    start(&s, &as, "disk");
    v = open_as("user:disk", "raw", VDISK_OPEN_RDWR);
    CHECK_INT(vdisk_size(v), 1 << 20);
    storage_resize(&s, 2 << 20);
    CHECK_OK(vdisk_get_info(v, &info));
    CHECK_INT(info.virtual_size, 2 << 20);
    CHECK_OK(vdisk_pread(v, data, sizeof data, (2 << 20) - 512));
    CHECK_INT(vdisk_pread(v, data, sizeof data, 2 << 20), -EINVAL);
    storage_resize(&s, 1 << 20);
    CHECK_INT(vdisk_pwrite(v, data, sizeof data, (2 << 20) - 512, 0), -ENOSPC);
    CHECK_OK(vdisk_get_info(v, &info));
    CHECK_INT(info.virtual_size, 1 << 20);
    CHECK_OK(vdisk_close(v));
    stop(&s, "disk");
}

static vdisk *looked_at;

static void *look_beside(void *arg)
{
    struct vdisk_info info = {.size = sizeof info};

    CHECK_OK(vdisk_get_info(looked_at, &info));
    CHECK_INT(info.virtual_size, 2 << 20);
    return NULL;
}

/* Who asks has been told the old size, and not gone on yet. */
static void extend_and_look(struct storage *s)
{
    pthread_t thread;

    s->sized = NULL;
    storage_resize(s, 2 << 20);
    CHECK_INT(pthread_create(&thread, NULL, look_beside, NULL), 0);
    pthread_join(thread, NULL);
}

/* Two look, and the one with the older answer comes last: the volume keeps what has come. */
static void test_old_size_late(void)
{
    struct storage s, as = {.size = 1 << 20};
    struct vdisk_info info = {.size = sizeof info};

    start(&s, &as, "disk");
    looked_at = open_as("user:disk", "raw", VDISK_OPEN_RDWR);
    s.sized = extend_and_look;
    CHECK_OK(vdisk_get_info(looked_at, &info));
    CHECK(!s.sized);
    CHECK_INT(info.virtual_size, 2 << 20);
    CHECK_INT(vdisk_size(looked_at), 2 << 20);
    CHECK_OK(vdisk_close(looked_at));
    stop(&s, "disk");
}

int main(int argc, char **argv)
{
    static const struct test_case cases[] = {
        {.name = "ways", .run = test_ways},
        {.name = "properties", .run = test_properties, .repeat = 3, .quick = 1},
        {.name = "odd-end", .run = test_odd_end},
        {.name = "children", .run = test_children},
        {.name = "circle", .run = test_circle},
        {.name = "queues", .run = test_queues},
        {.name = "errors", .run = test_errors},
        {.name = "no-result", .run = test_no_result},
        {.name = "in-flight", .run = test_in_flight},
        {.name = "claims", .run = test_claims},
        {.name = "misuse", .run = test_misuse},
        {.name = "moves", .run = test_moves},
        {.name = "old-size-late", .run = test_old_size_late},
    };

    return test_main(argc, argv, cases, ARRAY_LEN(cases));
}
