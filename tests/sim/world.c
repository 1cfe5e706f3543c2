/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Rules.
 *  1. Each step has a seed of its own, so that leaving out one changes no other: neither what it asks for nor the
 *     latencies of what it sets off.
 *  2. After a failed flush a volume may have lost what was touched since the last good one, and no more.
 */
#include "tests/sim/world.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "backends/lab/fault.h"
#include "engine/base/bits.h"
#include "engine/volume.h"
#include "qcow2/check/check.h"
#include "tests/lib/test.h"

/* ---- disks --------------------------------------------------------------------------------------------- */

static struct world_disk *find_disk(struct world *w, const char *name)
{
    for (unsigned i = 0; i < w->ndisks; i++)
        if (strcmp(w->disks[i].name, name) == 0)
            return &w->disks[i];
    return NULL;
}

static struct world_disk *make_disk(struct world *w, const char *name)
{
    struct world_disk *d = find_disk(w, name);

    if (d) {
        memdisk_finish(&d->disk);
    } else {
        CHECK(w->ndisks < WORLD_DISKS);
        d = &w->disks[w->ndisks++];
        snprintf(d->name, sizeof d->name, "%s", name);
    }
    memdisk_init(&d->disk, w->align);
    d->disk.max_transfer = w->max_transfer;
    d->disk.max_iov = w->max_iov;
    return d;
}

/* "sim:NAME" is opened or made. */
static int open_disk(void *arg, const char *name, uint32_t flags, struct backend **ret_backend)
{
    struct world *w = arg;
    struct world_volume *v = w->opening;
    struct world_disk *d = flags & BACKEND_CREATE ? make_disk(w, name) : find_disk(w, name);
    struct backend *b;

    if (!d)
        return -ENOENT;
    CHECK_OK(sim_backend_create(w->sim, memdisk_open(&d->disk, !(flags & BACKEND_RDWR)), &b));
    if (v && strcmp(v->layers[0].path + 4, name) == 0) {
        if (w->wrap)
            b = w->wrap(b);
        CHECK_OK(fault_backend_create(b, &b));
        v->fault = b;
    }
    *ret_backend = b;
    return 0;
}

static void stuck(void *arg)
{
    struct world *w = arg;

    for (unsigned i = 0; i < w->nqueues; i++)
        printf("queue %u: %u requests in flight\n", i, w->queues[i] ? vdisk_queue_inflight(w->queues[i]) : 0);
    FAIL("a queue waits for what can never come");
}

/* ---- images -------------------------------------------------------------------------------------------- */

static vdisk *open_layer(struct world *w, const struct image_spec *s)
{
    static const uint64_t caches[] = {0, 1, 65536, 1 << 20};
    struct vdisk_open_opts opts = {.size = sizeof opts, .flags = VDISK_OPEN_RDWR};
    vdisk *v;

    opts.format = s->qcow2 ? "qcow2" : "raw";
    opts.cache_bytes = caches[rng_below(&w->rng, ARRAY_LEN(caches))];
    CHECK_OK(vdisk_open(s->path, &opts, &v));
    return v;
}

/* Some writes, zeros and discards to a layer below the top. */
static void add_content(struct world *w, const struct image_spec *s, struct model *m)
{
    uint64_t end = min_u64(s->size, m->size), unit = s->qcow2 ? s->cluster_size : 4096;
    unsigned n = (unsigned)rng_between(&w->rng, 2, 16);
    vdisk *v = open_layer(w, s);

    for (unsigned i = 0; i < n; i++) {
        uint64_t offset = align_down(rng_below(&w->rng, end), rng_chance(&w->rng, 50) ? unit : 512);
        uint64_t len = min_u64(end - offset, rng_between(&w->rng, 1, 4 * unit));
        uint8_t *buf = vdisk_alloc_buffer(len); /* malloc aligns it or not, by chance */
        CHECK(buf);
        switch (rng_below(&w->rng, 4)) {
        case 0:
            CHECK_OK(vdisk_pzero(v, len, offset, rng_chance(&w->rng, 50) ? VDISK_REQ_UNMAP : 0));
            model_zero(m, offset, len);
            break;
        default:
            rng_fill(&w->rng, buf, len);
            CHECK_OK(vdisk_pwrite(v, buf, len, offset, 0));
            model_write(m, offset, buf, len);
        }
        free(buf);
    }
    CHECK_OK(vdisk_close(v));
}

static uint64_t size_of_layer(struct rng *r, uint64_t top)
{
    switch (rng_below(r, 3)) {
    case 0: return top;
    case 1: return align_up(rng_between(r, 4096, top), 4096);
    default: return align_up(top + rng_below(r, 1u << 20), 4096);
    }
}

static void make_layers(struct world *w, struct world_volume *v, unsigned index)
{
    struct rng *r = &w->rng;

    v->nlayers = rng_chance(r, 40) ? (unsigned)rng_between(r, 2, IMAGE_LAYERS) : 1;
    v->layers[0].size = 4096 * rng_between(r, 100, 2000);
    model_init(&v->model, 0, v->layers[0].size);
    model_init(&v->flushed, 0, v->layers[0].size);
    for (unsigned i = v->nlayers; i-- > 0;) {
        struct image_spec *s = &v->layers[i];
        bool base = i + 1 == v->nlayers;
        unsigned limits = (base ? 0u : IMAGE_BACKED | IMAGE_NO_RAW) | (i > 0 ? IMAGE_NO_PREALLOC : 0u);
        if (i > 0)
            s->size = size_of_layer(r, v->layers[0].size);
        image_random(r, s, limits);
        snprintf(s->path, sizeof s->path, "sim:v%ul%u", index, i);
        if (!base) {
            snprintf(s->backing, sizeof s->backing, "%s", v->layers[i + 1].path);
            s->backing_format = v->layers[i + 1].qcow2 ? "qcow2" : "raw";
        }
        model_cut(&v->model, s->size);
        image_create(s);
        if (i > 0 || rng_chance(r, 50))
            add_content(w, s, &v->model);
    }
    model_copy(&v->flushed, &v->model);
}

static void report(void *arg, enum qcow2_finding kind, const char *text)
{
    if (kind == QCOW2_CORRUPTION || kind == QCOW2_ERROR)
        snprintf(arg, 512, "%s", text);
}

/* The top image is sound; without leaks, too, unless something failed. */
static void check_image(struct world *w, struct world_volume *v)
{
    char finding[512] = "";
    struct qcow2_check_opts opts = {.report = report, .report_arg = finding};
    struct qcow2_check_result result = {.corruptions = 0};
    struct world_disk *d = find_disk(w, v->layers[0].path + 4);
    struct backend *b;

    if (!v->layers[0].qcow2)
        return;
    b = memdisk_open(&d->disk, true);
    CHECK_OK(qcow2_check(b, w->queues[0], &opts, &result));
    backend_close(b);
    CHECK_MSG(result.corruptions == 0 && result.check_errors == 0,
              "check finds %" PRIu64 " corruptions, %" PRIu64 " errors, as: %s", result.corruptions,
              result.check_errors, finding);
    CHECK_MSG(w->faults || result.leaks == 0, "check finds %" PRIu64 " leaked clusters", result.leaks);
    if (w->by_qemu && v->nlayers == 1 && !v->layers[0].data_file) { /* it knows no names of ours */
        memdisk_save(&d->disk, test_path("saved"));
        image_check(test_path("saved"), w->faults);
        unlink(test_path("saved"));
    }
}

/* ---- a run --------------------------------------------------------------------------------------------- */

static void describe(const struct world *w)
{
    char text[2000];
    size_t used = (size_t)snprintf(text, sizeof text, "%u queues, align %u, at most %u bytes, %u iovecs%s",
                                   w->nqueues, w->align, w->max_transfer, w->max_iov, w->faults ? ", faults" : "");

    for (unsigned i = 0; i < w->nvolumes; i++)
        for (unsigned k = 0; k < w->volumes[i].nlayers && used < sizeof text - 1; k++)
            used += (size_t)snprintf(text + used, sizeof text - used, "%s%.200s", k ? " over " : "; ",
                                     image_describe(&w->volumes[i].layers[k]));
    test_note("%s", text);
}

static void make_world(struct world *w)
{
    static const uint32_t aligns[] = {1, 512, 512, 4096};
    struct rng *r = &w->rng;
    struct sim_options options = {.seed = w->seed, .open = open_disk, .stuck = stuck, .trace = w->trace, .arg = w};

    rng_init(r, w->seed);
    options.slow_percent = (unsigned)rng_below(r, 4) * 10;
    CHECK_OK(sim_create(&options, &w->sim));
    sim_enter(w->sim);
    w->align = aligns[rng_below(r, ARRAY_LEN(aligns))];
    if (rng_chance(r, 30)) {
        w->max_transfer = w->align * (uint32_t)rng_between(r, 1, 64);
        w->max_iov = (uint32_t)rng_between(r, 1, 8);
    }
    w->nqueues = (unsigned)rng_between(r, 1, WORLD_QUEUES);
    for (unsigned i = 0; i < w->nqueues; i++)
        CHECK_OK(vdisk_queue_create(NULL, &w->queues[i]));
    w->nvolumes = rng_chance(r, 60) ? 1 : (unsigned)rng_between(r, 2, WORLD_VOLUMES);
    for (unsigned i = 0; i < w->nvolumes; i++)
        make_layers(w, &w->volumes[i], i);
    describe(w);
}

/* Some chunks of the memory, as long as it is not enough. */
static void on_wish(void *arg, vdisk *v, const struct vdisk_wish *wish)
{
    struct world_volume *volume = arg;

    CHECK(v == volume->v && wish->wanted > wish->storage);
    memdisk_set_space(volume->thin, memdisk_occupied(volume->thin) + (volume->wishes++ % 4 << 16));
    CHECK_OK(vdisk_grown(wish->number, 0));
}

/* It has what it occupies, and a grower: what finds no space waits, and so does what is only told so. */
static void make_thin(struct world *w, struct world_volume *v)
{
    struct vdisk_grower_opts opts = {.size = sizeof opts, .chunk = 65536, .retry_ms = 1};

    if (v->layers[0].data_file || !rng_chance(&w->rng, 30))
        return;
    v->thin = &find_disk(w, v->layers[0].path + 4)->disk;
    memdisk_set_space(v->thin, memdisk_occupied(v->thin));
    CHECK_OK(vdisk_set_grower(v->v, on_wish, v, &opts));
}

static void open_volume(struct world *w, struct world_volume *v)
{
    struct workload *l = &v->w;
    struct rng *r = &w->rng;

    v->fault = NULL;
    w->opening = v;
    v->v = open_layer(w, &v->layers[0]);
    w->opening = NULL;
    make_thin(w, v);
    memset(l, 0, sizeof *l);
    l->v = v->v;
    l->models = &v->model;
    l->nmodels = 1;
    l->flushed = &v->flushed;
    l->depth = (unsigned)rng_between(r, 1, 24);
    l->unit = v->layers[0].qcow2 ? v->layers[0].cluster_size : 65536;
    l->max_len = min_u64(1u << 20, max_u64(4 * l->unit, 64u << 10));
    l->queues = w->queues;
    l->nqueues = w->nqueues;
    l->faults = w->faults;
    l->grows = true; /* if not this one, another on the same queue */
    l->overlaps = rng_chance(r, 50);
    rng_init(&l->rng, rng_next(r));
    workload_start(l);
}

/* From the next calls on. */
static void add_faults(struct world *w, struct world_volume *v)
{
    static const int errors[] = {EIO, ENOSPC};
    struct rng *r = &w->rng;

    for (unsigned i = 0; i < 20; i++) {
        struct fault_rule rule = {.nth = (unsigned)rng_between(r, 1, 4 * w->nsteps),
                                  .what = rng_chance(r, 60)   ? FAULT_FAIL
                                          : rng_chance(r, 60) ? FAULT_FAIL_AFTER
                                                              : FAULT_SHORT,
                                  .error = errors[rng_below(r, 2)]};
        rule.kinds = rng_chance(r, 50) ? 0 : FAULT_WRITES;
        CHECK_OK(fault_add_rule(v->fault, &rule));
    }
}

/* All that has been written is durable. False: not all of it, or nobody knows. */
static bool flush_volume(struct world_volume *v, bool may_fail)
{
    int rc;

    workload_drain(&v->w);
    rc = vdisk_sync(v->v);
    CHECK_MSG(rc == 0 || may_fail, "flush: %s", vdisk_error_text());
    if (rc == 0)
        model_copy(&v->flushed, &v->model);
    return rc == 0;
}

static void close_volume(struct world *w, struct world_volume *v)
{
    bool flushed;
    int rc;

    workload_drain(&v->w);
    if (v->thin)
        memdisk_set_space(v->thin, UINT64_MAX);
    fault_clear(v->fault);
    workload_verify(v->v, &v->model, 1);
    flushed = flush_volume(v, w->faults);
    workload_finish(&v->w);
    rc = vdisk_close(v->v);
    CHECK_MSG(rc == 0 || !flushed, "close: %s", vdisk_error_text());
    if (!flushed)
        model_loosen(&v->model, &v->flushed);
    check_image(w, v);
}

/* What is there is there again. */
static void reopen_and_verify(struct world *w, struct world_volume *v)
{
    vdisk *again = open_layer(w, &v->layers[0]);

    workload_verify(again, &v->model, 1);
    CHECK_OK(vdisk_close(again));
}

static void take_step(struct world *w, unsigned step)
{
    uint64_t seed = rng_mix(w->seed ^ rng_mix(step));
    struct world_volume *v;
    struct rng r;

    rng_init(&r, seed);
    sim_reseed(w->sim, rng_next(&r));
    v = &w->volumes[rng_below(&r, w->nvolumes)];
    rng_init(&v->w.rng, rng_next(&r));
    if (rng_chance(&r, 1))
        flush_volume(v, w->faults);
    else
        workload_step(&v->w);
}

uint64_t world_run(struct world *w, const struct steps *steps)
{
    uint64_t hash;

    make_world(w);
    for (unsigned i = 0; i < w->nvolumes; i++) {
        open_volume(w, &w->volumes[i]);
        if (w->faults)
            add_faults(w, &w->volumes[i]);
    }
    for (unsigned i = 0; i < steps->n; i++)
        if (steps->keep[i])
            take_step(w, i);
    for (unsigned i = 0; i < w->nvolumes; i++)
        workload_drain(&w->volumes[i].w);
    for (unsigned i = 0; i < w->nvolumes; i++)
        close_volume(w, &w->volumes[i]);
    for (unsigned i = 0; i < w->nvolumes; i++)
        reopen_and_verify(w, &w->volumes[i]);
    for (unsigned i = 0; i < w->nvolumes; i++) {
        model_finish(&w->volumes[i].model);
        model_finish(&w->volumes[i].flushed);
    }
    for (unsigned i = 0; i < w->nqueues; i++)
        vdisk_queue_destroy(w->queues[i]);
    hash = sim_trace_hash(w->sim);
    sim_leave(w->sim);
    sim_destroy(w->sim);
    for (unsigned i = 0; i < w->ndisks; i++)
        memdisk_finish(&w->disks[i].disk);
    return hash;
}
