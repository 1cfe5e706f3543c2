/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Runs in the test machine: powercut_guest IMAGE SEED STEPS DEVICE. Makes the image, carries out a plan's steps
 * on it, and puts a mark into the log of the device-mapper device DEVICE after each. Backing file: base.raw
 * beside IMAGE.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/vdisk.h"
#include "tests/vm/mark.h"
#include "tests/vm/powercut_plan.h"

struct guest {
    struct plan plan;
    const char *path, *device;
    vdisk *v;
    vdisk_queue *queues[PLAN_QUEUES];
    uint8_t *bufs[PLAN_BATCH];
};

static void die(const char *what, int rc)
{
    fprintf(stderr, "powercut_guest: %s: %s (%s)\n", what, strerror(-rc), vdisk_error_text());
    exit(1);
}

static void must(const char *what, int rc)
{
    if (rc < 0)
        die(what, rc);
}

static void create(struct guest *g)
{
    const struct image_spec *s = &g->plan.spec;
    struct vdisk_create_opts opts = {
        .size = sizeof opts,
        .format = "qcow2",
        .virtual_size = s->size,
        .preallocation = s->preallocation,
        .cluster_size = s->cluster_size,
        .version = s->version,
        .refcount_bits = s->refcount_bits,
        .lazy_refcounts = s->lazy_refcounts,
        .extended_l2 = s->extended_l2,
        .compression_type = s->zstd ? "zstd" : NULL,
        .backing_file = g->plan.backed ? "base.raw" : NULL,
        .backing_fmt = g->plan.backed ? "raw" : NULL,
        .buffered = g->plan.buffered,
    };

    must("create", vdisk_create(g->path, &opts));
}

static void open_volume(struct guest *g)
{
    struct vdisk_open_opts opts = {
        .size = sizeof opts,
        .flags = VDISK_OPEN_RDWR | (g->plan.buffered ? VDISK_OPEN_BUFFERED : 0u),
        .format = "qcow2",
        .cache_bytes = g->plan.cache_bytes,
    };

    must("open", vdisk_open(g->path, &opts, &g->v));
}

static void reap(struct guest *g)
{
    struct vdisk_completion c;

    for (unsigned i = 0; i < PLAN_QUEUES; i++)
        must("submit", vdisk_submit(g->queues[i]));
    for (unsigned i = 0; i < PLAN_QUEUES; i++) {
        while (vdisk_queue_inflight(g->queues[i]) > 0) {
            int n = vdisk_reap(g->queues[i], &c, 1, 1, NULL);
            must("reap", n);
            if (n > 0)
                must("request", c.result);
        }
    }
}

static void change(struct guest *g, const struct step *s, unsigned i, uint32_t flags)
{
    const struct history_change *c = &s->changes[i];
    vdisk_queue *q = g->queues[i % PLAN_QUEUES];

    switch (c->kind) {
    case HISTORY_WRITE:
        plan_fill(c->version, c->offset, g->bufs[i], c->len);
        vdisk_write(q, g->v, c->offset, g->bufs[i], c->len, flags, i);
        break;
    case HISTORY_ZEROES:
        vdisk_write_zeroes(q, g->v, c->offset, c->len, flags | (s->unmap[i] ? VDISK_REQ_UNMAP : 0u), i);
        break;
    case HISTORY_DISCARD:
        vdisk_discard(q, g->v, c->offset, c->len, 0, i);
        break;
    }
}

static void carry_out(struct guest *g, const struct step *s)
{
    switch (s->kind) {
    case STEP_CREATE:
        create(g);
        open_volume(g);
        break;
    case STEP_CHANGES:
    case STEP_FUA:
        for (unsigned i = 0; i < s->n; i++)
            change(g, s, i, s->kind == STEP_FUA ? VDISK_REQ_FUA : 0);
        reap(g);
        break;
    case STEP_FLUSH:
        vdisk_flush(g->queues[0], g->v, 0, 0);
        reap(g);
        break;
    case STEP_REOPEN:
        must("close", vdisk_close(g->v));
        open_volume(g);
        break;
    case STEP_GROW:
        must("grow", vdisk_grow(g->v, s->size));
        break;
    }
}

int main(int argc, char **argv)
{
    struct guest g = {.path = argv[1]};
    struct step s;

    if (argc != 5)
        return 2;
    plan_init(&g.plan, strtoull(argv[2], NULL, 0));
    g.device = argv[4];
    for (unsigned i = 0; i < PLAN_BATCH; i++)
        if (!(g.bufs[i] = vdisk_alloc_buffer(PLAN_MAX_CHANGE)))
            return 1;
    for (unsigned i = 0; i < PLAN_QUEUES; i++)
        must("queue", vdisk_queue_create(NULL, &g.queues[i]));
    for (unsigned n = 0; n < strtoul(argv[3], NULL, 0); n++) {
        plan_next(&g.plan, &s);
        carry_out(&g, &s);
        mark_log(g.device, n);
    }
    must("close", vdisk_close(g.v));
    printf("%s: %s steps\n", g.device, argv[3]);
    return 0;
}
