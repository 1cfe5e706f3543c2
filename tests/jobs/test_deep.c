/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Deep chains, of up to two hundred layers of all sorts and lengths, each with random content: what their top
 * reads, while it is written to and grows, by several threads, and while layers below are rebased and committed.
 */
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

#include "tests/jobs/jobs.h"
#include "tests/lib/image.h"

enum { SIZE = 2 << 20, LAYERS_MAX = 200, PIECES = 5, MANY = 16, STEPS = 150, THREADS = 2 };

struct deep {
    unsigned layers;
    uint64_t sizes[LAYERS_MAX];
    bool     plain;    /* nothing compressed, and all layers equally long, */
    bool     half_base; /* but for the base, which is raw, and half as long */
    bool     raw_base;
    uint8_t *model;           /* what the top reads; SIZE bytes */
};

static const char *layer_path(unsigned layer)
{
    return test_path("l%u", layer);
}

static const char *layer_format(const struct deep *d, unsigned layer)
{
    return layer == 0 && d->raw_base ? "raw" : "qcow2";
}

/* Some of it written, zeroed, compressed. */
static void fill(struct deep *d, struct rng *r, vdisk *v, uint64_t size)
{
    struct vdisk_info info = {.size = sizeof info};
    unsigned n = (unsigned)rng_below(r, PIECES);

    CHECK_OK(vdisk_get_info(v, &info));
    for (unsigned i = 0; i < n && size > 0; i++) {
        uint64_t at = 512 * rng_below(r, size / 512), len = min_u64(512 * rng_between(r, 1, 200), size - at);
        uint32_t flags = 0;
        if (info.compress_align > 0 && !d->plain && rng_chance(r, 20)) {
            at = align_down(at, info.compress_align);
            len = min_u64(align_up(len, info.compress_align), size - at);
            flags = VDISK_REQ_COMPRESSED;
        }
        if (rng_chance(r, 25) && flags == 0) {
            memset(d->model + at, 0, len);
            CHECK_OK(vdisk_pzero(v, len, at, rng_chance(r, 50) ? VDISK_REQ_UNMAP : 0));
            continue;
        }
        memset(d->model + at, (int)rng_between(r, 1, 255), len);
        if (flags == 0)
            rng_fill(r, d->model + at, len);
        CHECK_OK(vdisk_pwrite(v, d->model + at, len, at, flags));
    }
}

/* One more on top. The last is as long as the longest can be, so that all ends within show. */
static void add_layer(struct deep *d, struct rng *r, bool last)
{
    static const uint32_t clusters[] = {512, 4096, 16384, 65536, 262144};
    uint64_t size = last || d->plain || rng_chance(r, 85) ? SIZE : 512 * rng_between(r, 1, SIZE / 512),
             below = d->layers > 0 ? d->sizes[d->layers - 1] : 0;
    struct vdisk_create_opts opts = {.size = sizeof opts};
    struct vdisk_open_opts how = {.size = sizeof how, .flags = VDISK_OPEN_RDWR};
    vdisk *v;

    if (d->half_base && d->layers == 0)
        size = SIZE / 2;
    opts.virtual_size = size;
    how.format = opts.format = layer_format(d, d->layers);
    if (strcmp(opts.format, "qcow2") == 0) {
        opts.cluster_size = clusters[rng_below(r, ARRAY_LEN(clusters))];
        opts.extended_l2 = opts.cluster_size >= 16384 && rng_chance(r, 30);
    }
    if (d->layers > 0) {
        opts.backing_file = layer_path(d->layers - 1);
        opts.backing_fmt = layer_format(d, d->layers - 1);
    }
    if (size > below)
        memset(d->model + below, 0, size - below);
    CHECK_OK(vdisk_create(layer_path(d->layers), &opts));
    CHECK_OK(vdisk_open(layer_path(d->layers), &how, &v));
    fill(d, r, v, size);
    CHECK_OK(vdisk_close(v));
    d->sizes[d->layers++] = size;
}

static void build(struct deep *d, struct rng *r, unsigned layers)
{
    d->raw_base = d->half_base || rng_chance(r, 50);
    d->model = calloc(1, SIZE);
    CHECK(d->model != NULL && layers <= LAYERS_MAX);
    while (d->layers < layers)
        add_layer(d, r, d->layers + 1 == layers);
    test_note("%u layers, a %s base", layers, layer_format(d, 0));
}

static vdisk *open_top(const struct deep *d, struct rng *r, uint32_t flags)
{
    struct vdisk_open_opts how = {.size = sizeof how, .flags = flags, .format = "qcow2"};
    vdisk *v;

    how.cache_bytes = rng_chance(r, 50) ? 1 << 20 : 0;
    CHECK_OK(vdisk_open(layer_path(d->layers - 1), &how, &v));
    return v;
}

static void expect(const uint8_t *got, const uint8_t *want, uint64_t at, uint64_t len)
{
    for (uint64_t i = 0; memcmp(got, want, len) != 0 && i < len; i++)
        CHECK_MSG(got[i] == want[i], "byte %llu is %u, not %u", (unsigned long long)(at + i), got[i], want[i]);
}

/* Several reads at once, of any place in [from, to). */
static void read_many(const struct deep *d, struct rng *r, vdisk *v, vdisk_queue *q, uint64_t from, uint64_t to)
{
    static _Thread_local uint8_t *bufs[MANY];
    uint64_t at[MANY], len[MANY];

    for (unsigned i = 0; i < MANY; i++) {
        uint64_t most = rng_chance(r, 70) ? 4096 : 300 << 10, align = rng_chance(r, 80) ? 512 : 1;
        at[i] = align_down(from + rng_below(r, to - from), align);
        len[i] = min_u64(align_up(rng_between(r, 1, most), align), to - at[i]);
        bufs[i] = vdisk_alloc_buffer(len[i]);
        CHECK(bufs[i] != NULL);
        vdisk_read(q, v, at[i], bufs[i], len[i], 0, i);
    }
    reap_all(q, MANY, NULL);
    for (unsigned i = 0; i < MANY; i++) {
        expect(bufs[i], d->model + at[i], at[i], len[i]);
        free(bufs[i]);
    }
}

/* A change of the top in [from, to), and of the model. */
static void change(struct deep *d, struct rng *r, vdisk *v, uint64_t from, uint64_t to)
{
    uint64_t at = from + rng_below(r, to - from), len = min_u64(rng_between(r, 1, 20000), to - at);

    if (rng_chance(r, 70)) {
        rng_fill(r, d->model + at, len);
        CHECK_OK(vdisk_pwrite(v, d->model + at, len, at, 0));
    } else {
        memset(d->model + at, 0, len);
        CHECK_OK(vdisk_pzero(v, len, at, rng_chance(r, 50) ? VDISK_REQ_UNMAP : 0));
    }
}

/* By another program as well. */
static void compare(const struct deep *d, uint64_t size)
{
    struct model m;

    model_init(&m, 0, size);
    model_write(&m, 0, d->model, size);
    image_compare(layer_path(d->layers - 1), "qcow2", size, &m, 1);
    model_finish(&m);
}

static unsigned draw_depth(struct rng *r)
{
    return test_repetition() == 0 ? LAYERS_MAX : (unsigned)rng_between(r, 3, 40);
}

static void test_top_changes(void)
{
    struct rng *r = test_rng();
    struct deep d = {.layers = 0};
    struct vdisk_resize_opts shrink = {.size = sizeof shrink, .shrink = true};
    uint64_t size = SIZE / 2;
    vdisk_queue *q;
    vdisk *v;

    test_requires("qemu-img");
    build(&d, r, draw_depth(r));
    compare(&d, SIZE);
    CHECK_OK(vdisk_queue_create(NULL, &q));
    /* Cut, so that it can grow again: over what the layers below have there come zeros. */
    v = open_top(&d, r, VDISK_OPEN_RDWR);
    read_many(&d, r, v, q, 0, SIZE);
    CHECK_OK(vdisk_resize(v, size, &shrink));
    memset(d.model + size, 0, SIZE - size);
    for (unsigned i = 0, n = test_steps(STEPS); i < n; i++) {
        read_many(&d, r, v, q, 0, size);
        change(&d, r, v, 0, size);
        if (rng_chance(r, 3) && size < SIZE) {
            size = min_u64(SIZE, size + 512 * rng_between(r, 1, 300));
            CHECK_OK(vdisk_grow(v, size));
        }
    }
    CHECK_OK(vdisk_close(v));
    v = open_top(&d, r, 0);
    read_many(&d, r, v, q, 0, size);
    CHECK_OK(vdisk_close(v));
    vdisk_queue_destroy(q);
    compare(&d, size);
    free(d.model);
}

/* ---- several threads ---------------------------------------------------------------------------------- */

struct worker {
    pthread_t     thread;
    struct deep  *deep;
    vdisk        *v;
    uint64_t      seed, from, to;
    bool          changes;
    unsigned      steps;
    _Atomic bool *stop; /* NULL: after `steps` */
};

static void *worker_run(void *arg)
{
    struct worker *w = arg;
    struct rng r;
    vdisk_queue *q;

    rng_init(&r, w->seed);
    CHECK_OK(vdisk_queue_create(NULL, &q));
    for (unsigned i = 0; w->stop ? !atomic_load(w->stop) : i < w->steps; i++) {
        read_many(w->deep, &r, w->v, q, w->from, w->to);
        if (w->changes)
            change(w->deep, &r, w->v, w->from, w->to);
    }
    vdisk_queue_destroy(q);
    return NULL;
}

static void start(struct worker *w)
{
    CHECK(pthread_create(&w->thread, NULL, worker_run, w) == 0);
}

static void test_two_queues(void)
{
    struct rng *r = test_rng();
    struct deep d = {.layers = 0};
    struct worker w[THREADS];
    vdisk *v;

    test_requires("qemu-img");
    build(&d, r, 3 + (unsigned)rng_below(r, 30));
    v = open_top(&d, r, VDISK_OPEN_RDWR);
    for (unsigned i = 0; i < THREADS; i++) {
        w[i] = (struct worker){.deep = &d, .v = v, .seed = rng_next(r), .from = i * (SIZE / THREADS),
                               .to = (i + 1) * (SIZE / THREADS), .changes = true, .steps = test_steps(STEPS / 2)};
        start(&w[i]);
    }
    for (unsigned i = 0; i < THREADS; i++)
        pthread_join(w[i].thread, NULL);
    CHECK_OK(vdisk_close(v));
    compare(&d, SIZE);
    free(d.model);
}

/* ---- what lies below is changed by others --------------------------------------------------------------- */

static void run_job(vdisk_job *j)
{
    int rc = vdisk_job_run(j);

    CHECK_MSG(rc == 0, "%s", vdisk_job_get_error_text(j));
    CHECK_OK(vdisk_job_free(j));
}

/* A layer amid the chain is put on the one before its backing file, which it then holds no more. */
static void rebase(const struct deep *d, unsigned layer)
{
    struct vdisk_rebase_opts opts = {.size = sizeof opts, .format = "qcow2", .backing_file = layer_path(layer - 2),
                                     .backing_fmt = layer_format(d, layer - 2)};
    vdisk_job *j;

    CHECK_OK(vdisk_job_rebase(layer_path(layer), &opts, &j));
    run_job(j);
}

/* What a layer amid the chain has goes into one below it as well. */
static void commit(const struct deep *d, unsigned layer, unsigned base)
{
    struct vdisk_commit_opts opts = {.size = sizeof opts, .format = "qcow2", .flags = VDISK_COMMIT_KEEP,
                                     .base = layer_path(base)};
    vdisk_job *j;

    CHECK_OK(vdisk_job_commit(layer_path(layer), &opts, &j));
    run_job(j);
}

/* Who reads the top meanwhile has the layers that he opened, and reads what he did. So does who opens it now. */
static void test_below_changes(void)
{
    struct rng *r = test_rng();
    struct deep d = {.plain = true};
    _Atomic bool stop = false;
    struct worker w[THREADS];
    unsigned layers = 12 + (unsigned)rng_below(r, 20);
    vdisk *v;

    test_requires("qemu-img");
    build(&d, r, layers);
    v = open_top(&d, r, VDISK_OPEN_FORCE_SHARE);
    for (unsigned i = 0; i < THREADS; i++) {
        w[i] = (struct worker){.deep = &d, .v = v, .seed = rng_next(r), .to = SIZE, .stop = &stop};
        start(&w[i]);
    }
    rebase(&d, layers - 3); /* layers - 4 is out */
    commit(&d, layers - 2, layers - 3);
    commit(&d, layers - 3, layers - 6);
    rebase(&d, 5); /* 4 is out */
    atomic_store(&stop, true);
    for (unsigned i = 0; i < THREADS; i++)
        pthread_join(w[i].thread, NULL);
    worker_run(&(struct worker){.deep = &d, .v = v, .seed = 1, .to = SIZE, .steps = 20});
    CHECK_OK(vdisk_close(v));
    v = open_top(&d, r, 0);
    worker_run(&(struct worker){.deep = &d, .v = v, .seed = 2, .to = SIZE, .steps = 20});
    CHECK_OK(vdisk_close(v));
    compare(&d, SIZE);
    free(d.model);
}

/* The base becomes longer by another program: who has the chain open reads zeros behind its old end, as before. */
static void test_length_below_changes(void)
{
    struct rng *r = test_rng();
    struct deep d = {.plain = true, .half_base = true};
    static uint8_t junk[SIZE / 2];
    vdisk_queue *q;
    int fd;

    memset(junk, 0x77, sizeof junk);
    build(&d, r, 9);
    fd = open(layer_path(0), O_RDWR | O_CLOEXEC);
    CHECK(fd >= 0);
    CHECK_OK(vdisk_queue_create(NULL, &q));
    for (unsigned i = 0; i < 4; i++) {
        vdisk *v = open_top(&d, r, VDISK_OPEN_FORCE_SHARE);
        for (unsigned n = 0; n < 20 && i % 2; n++)
            read_many(&d, r, v, q, 0, SIZE);
        CHECK(pwrite(fd, junk, sizeof junk, SIZE / 2) == sizeof junk && fsync(fd) == 0);
        for (unsigned n = 0; n < 20; n++)
            read_many(&d, r, v, q, 0, SIZE);
        CHECK_OK(vdisk_close(v));
        CHECK(ftruncate(fd, SIZE / 2) == 0 && fsync(fd) == 0);
    }
    vdisk_queue_destroy(q);
    close(fd);
    free(d.model);
}

int main(int argc, char **argv)
{
    static const struct test_case cases[] = {
        {.name = "top", .run = test_top_changes, .repeat = 8, .quick = 2, .lengthy = 200},
        {.name = "two_queues", .run = test_two_queues, .repeat = 8, .quick = 2, .lengthy = 100},
        {.name = "below", .run = test_below_changes, .repeat = 8, .quick = 2, .lengthy = 100},
        {.name = "length_below", .run = test_length_below_changes, .repeat = 4, .quick = 2, .lengthy = 20},
    };

    return test_main(argc, argv, cases, ARRAY_LEN(cases));
}
