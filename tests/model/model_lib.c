/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tests/model/model_lib.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/base/bits.h"
#include "engine/volume.h"
#include "tests/lib/test.h"

static uint64_t random_size(struct rng *r, unsigned flags)
{
    switch (rng_below(r, flags & SUBJECT_SMALL ? 6 : 8)) {
    case 0:
        return 512 * rng_between(r, 1, 200);
    case 1:
    case 2:
    case 3:
        return 512 * rng_between(r, 1000, 16000);
    case 4:
        return align_down(rng_between(r, 1u << 20, 24u << 20), 1u << 20);
    case 5:
        return 512 * rng_between(r, 16000, 60000);
    case 6:
        return 512 * rng_between(r, 1u << 18, 1u << 23);
    default:
        return 512 * rng_between(r, 1u << 30, UINT64_C(3) << 31);
    }
}

/* A raw file that ends within its last sector: the volume has that whole. */
static void create_ragged(const struct image_spec *s, struct rng *r)
{
    int fd = open(s->path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

    CHECK(fd >= 0 && ftruncate(fd, (off_t)(s->size - rng_between(r, 1, 511))) == 0);
    close(fd);
}

static void make_memdisk(struct subject *s, struct rng *r)
{
    static const uint32_t aligns[] = {1, 512, 512, 4096};
    struct backend *b;

    uint32_t align = aligns[rng_below(r, ARRAY_LEN(aligns))];

    memdisk_init(&s->disk, align);
    if (rng_chance(r, 30)) {
        s->disk.max_transfer = s->disk.align * (uint32_t)rng_between(r, 1, 64);
        s->disk.max_iov = (uint32_t)rng_between(r, 1, 8);
    }
    b = memdisk_open(&s->disk, false);
    CHECK_OK(image_create_on(&s->layers[0], b));
    backend_close(b);
}

static void describe(const struct subject *s)
{
    char text[2000];
    size_t used = 0;

    used += (size_t)snprintf(text, sizeof text, "%s", s->on_memory ? "memory: " : "file: ");
    for (unsigned i = 0; i < s->nlayers && used < sizeof text - 1; i++)
        used += (size_t)snprintf(text + used, sizeof text - used, "%s%.400s", i ? "; over " : "",
                                 image_describe(&s->layers[i]));
    if (s->on_memory && used < sizeof text - 1)
        snprintf(text + used, sizeof text - used, "; align %u, at most %u bytes, %u iovecs", s->disk.align,
                 s->disk.max_transfer, s->disk.max_iov);
    test_note("%s", text);
}

void subject_init(struct subject *s, struct rng *r, unsigned flags)
{
    struct image_spec *top = &s->layers[0];
    bool chain = rng_chance(r, 40);

    memset(s, 0, sizeof *s);
    s->on_memory = flags & SUBJECT_ON_MEMORY;
    s->nlayers = chain ? (unsigned)rng_between(r, 2, IMAGE_LAYERS) : 1;
    top->size = random_size(r, flags);
    image_random(r, top,
                 (chain ? IMAGE_BACKED | IMAGE_NO_RAW : 0) | (flags & SUBJECT_QCOW2 ? IMAGE_NO_RAW : 0) |
                     (s->on_memory ? IMAGE_NO_DATA_FILE : 0));
    top->by_qemu = !s->on_memory && rng_chance(r, 40);
    snprintf(top->path, sizeof top->path, "%s", s->on_memory ? "memdisk" : test_path("layer-0"));
    s->nmodels = workload_windows(r, top->size, s->models, IMAGE_WINDOWS);
    describe(s);
    if (s->on_memory) {
        image_chain(r, s->layers, s->nlayers, s->models, s->nmodels, true);
        describe(s);
        make_memdisk(s, r);
    } else if (!top->qcow2 && s->nmodels == 1 && rng_chance(r, 30)) {
        create_ragged(top, r);
    } else {
        image_chain(r, s->layers, s->nlayers, s->models, s->nmodels, false);
    }
    describe(s);
}

void subject_finish(struct subject *s)
{
    for (unsigned i = 0; i < s->nmodels; i++)
        model_finish(&s->models[i]);
    if (s->on_memory)
        memdisk_finish(&s->disk);
}

vdisk *subject_open(struct subject *s, struct rng *r)
{
    static const uint64_t caches[] = {0, 1, 65536, 1 << 20};
    struct vdisk_open_opts opts = {.size = sizeof opts, .flags = VDISK_OPEN_RDWR};
    const struct image_spec *top = &s->layers[0];
    vdisk *v = NULL;

    opts.cache_bytes = caches[rng_below(r, ARRAY_LEN(caches))];
    opts.flags |= rng_chance(r, 40) ? VDISK_OPEN_BUFFERED : 0u;
    opts.format = !top->qcow2 || rng_chance(r, 50) ? (top->qcow2 ? "qcow2" : "raw") : NULL;
    if (s->on_memory)
        CHECK_OK(vdisk_open_backend(memdisk_open(&s->disk, false), &opts, &v));
    else
        CHECK_OK(vdisk_open(top->path, &opts, &v));
    CHECK_INT(vdisk_size(v), top->size);
    return v;
}

static uint64_t host_length(struct subject *s)
{
    struct stat st;

    if (s->on_memory)
        return memdisk_size(&s->disk);
    CHECK(stat(s->layers[0].path, &st) == 0);
    return (uint64_t)st.st_size;
}

void subject_close(struct subject *s, vdisk *v, bool compare)
{
    const struct image_spec *top = &s->layers[0];
    const char *path = top->path;

    CHECK_OK(vdisk_close(v));
    if (!top->qcow2)
        CHECK(host_length(s) <= top->size); /* whatever blocks it was written in */
    if (s->on_memory && compare && top->qcow2) {
        path = test_path("saved");
        memdisk_save(&s->disk, path);
    } else if (s->on_memory) {
        return;
    }
    if (top->qcow2)
        image_check(path, false);
    if (compare)
        image_compare(path, top->qcow2 ? "qcow2" : "raw", top->size, s->models, s->nmodels);
    if (path != top->path)
        unlink(path);
}

void subject_grow(struct subject *s, struct rng *r, vdisk *v)
{
    uint64_t size;

    if (s->nmodels != 1)
        return;
    size = align_up(vdisk_size(v) + rng_below(r, 2u << 20), 512);
    CHECK_OK(vdisk_grow(v, size));
    CHECK_INT(vdisk_size(v), size);
    model_resize(&s->models[0], size);
    s->layers[0].size = size;
}

void subject_workload(struct subject *s, struct rng *r, vdisk *v, struct workload *w)
{
    memset(w, 0, sizeof *w);
    w->v = v;
    rng_init(&w->rng, rng_next(r));
    w->models = s->models;
    w->nmodels = s->nmodels;
    w->depth = (unsigned)rng_between(r, 1, 24);
    w->unit = s->layers[0].qcow2 ? s->layers[0].cluster_size : 65536;
    w->max_len = min_u64(2u << 20, max_u64(4 * w->unit, 256u << 10));
}
