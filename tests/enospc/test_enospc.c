/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Storage that is full, against the oracle: memory with a bound on what may be occupied, like a file system, and
 * memory that cannot grow, like a device. What needs space fails with ENOSPC and nothing else does: reads,
 * flushes, discards of what is there, and close work on; with space again all works on, and nothing is lost.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <unistd.h>

#include "engine/base/bits.h"
#include "engine/volume.h"
#include "tests/lib/image.h"
#include "tests/lib/memdisk.h"
#include "tests/lib/test.h"
#include "tests/lib/workload.h"

enum { STEPS = 240, NO_ROOM = 0 };

struct subject {
    struct memdisk disk;
    struct image_spec spec;
    struct model model;
    vdisk *v;
    uint64_t failed;
};

static void open_subject(struct subject *s)
{
    struct vdisk_open_opts opts = {.size = sizeof opts, .flags = VDISK_OPEN_RDWR, .format = "qcow2"};

    CHECK_OK(vdisk_open_backend(memdisk_open(&s->disk, false), &opts, &s->v));
}

/* Close; the image is sound, nothing has leaked. */
static void close_subject(struct subject *s)
{
    CHECK_OK(vdisk_close(s->v));
    memdisk_save(&s->disk, test_path("saved"));
    image_check(test_path("saved"), false);
    unlink(test_path("saved"));
}

static void work(struct subject *s, struct rng *r, unsigned steps, bool full)
{
    struct workload w = {.v = s->v, .models = &s->model, .nmodels = 1, .full = full};

    rng_init(&w.rng, rng_next(r));
    w.depth = (unsigned)rng_between(r, 1, 16);
    w.unit = s->spec.cluster_size;
    w.max_len = min_u64(1u << 20, max_u64(4 * w.unit, 128u << 10));
    workload_start(&w);
    workload_run(&w, steps);
    workload_finish(&w);
    s->failed += w.failed;
}

static void make_image(struct subject *s, struct rng *r, uint32_t max_cluster)
{
    struct backend *b;

    s->spec.size = 512 * rng_between(r, 8000, 40000);
    image_random(r, &s->spec, IMAGE_NO_DATA_FILE | IMAGE_NO_PREALLOC | IMAGE_NO_RAW);
    s->spec.cluster_size = (uint32_t)min_u64(s->spec.cluster_size, max_cluster);
    if (rng_chance(r, 30)) { /* the refcount table has to grow */
        s->spec.cluster_size = 512;
        s->spec.refcount_bits = s->spec.version == 3 ? 64 : 16;
        s->spec.extended_l2 = false;
    }
    test_note("%s", image_describe(&s->spec));
    b = memdisk_open(&s->disk, false);
    CHECK_OK(image_create_on(&s->spec, b));
    backend_close(b);
    model_init(&s->model, 0, s->spec.size);
}

static void verify(struct subject *s)
{
    workload_verify(s->v, &s->model, 1);
}

/* All of it goes: space comes back, be the storage as full as it may. */
static void discard_all(struct subject *s)
{
    CHECK_OK(vdisk_pdiscard(s->v, s->model.size, 0));
    model_discard(&s->model, 0, s->model.size);
    CHECK_OK(vdisk_trim_space(s->v));
}

static void grow(struct subject *s, struct rng *r, bool may_fail)
{
    uint64_t size = align_up(vdisk_size(s->v) + rng_below(r, 64 << 20), 4096);
    int rc = vdisk_grow(s->v, size); /* L1 may have to move; the model keeps to the old size */

    CHECK_MSG(rc == 0 || (may_fail && rc == -ENOSPC), "growing: %s", strerror(-rc));
}

/* Free space between nothing and a few MiB more than there is. */
static void set_space(struct subject *s, struct rng *r)
{
    static const uint64_t more[] = {NO_ROOM, 64 << 10, 256 << 10, 1 << 20, 4 << 20};

    memdisk_set_space(&s->disk, memdisk_occupied(&s->disk) + more[rng_below(r, ARRAY_LEN(more))]);
}

static void test_space(void)
{
    struct rng *r = test_rng();
    struct subject s = {.failed = 0};

    test_requires("qemu-img");
    memdisk_init(&s.disk, rng_chance(r, 50) ? 512 : 4096);
    make_image(&s, r, UINT32_MAX);
    for (unsigned opening = 0; opening < 4; opening++) {
        set_space(&s, r);
        open_subject(&s);
        for (unsigned i = 0; i < 3; i++) {
            work(&s, r, test_steps(STEPS) / 6, true);
            CHECK_OK(vdisk_sync(s.v));
            if (rng_chance(r, 30))
                grow(&s, r, true);
            if (rng_chance(r, 30))
                discard_all(&s);
            if (rng_chance(r, 50))
                set_space(&s, r);
        }
        verify(&s);
        if (rng_chance(r, 50)) { /* space again, without a close */
            memdisk_set_space(&s.disk, UINT64_MAX);
            work(&s, r, test_steps(STEPS) / 6, false);
            grow(&s, r, false);
            verify(&s);
        }
        close_subject(&s);
    }
    memdisk_set_space(&s.disk, UINT64_MAX);
    open_subject(&s);
    verify(&s);
    work(&s, r, test_steps(STEPS) / 6, false);
    verify(&s);
    close_subject(&s);
    model_finish(&s.model);
    memdisk_finish(&s.disk);
}

/* Nothing at all fits any more; then all that is there goes, and as much fits again. */
static void test_full_and_empty(void)
{
    struct rng *r = test_rng();
    struct subject s = {.failed = 0};
    uint64_t empty, full;

    test_requires("qemu-img");
    memdisk_init(&s.disk, 512);
    make_image(&s, r, 65536);
    empty = memdisk_occupied(&s.disk);
    memdisk_set_space(&s.disk, empty + (2 << 20));
    open_subject(&s);
    for (unsigned round = 0; round < 3; round++) {
        while (s.failed == 0)
            work(&s, r, 50, true);
        s.failed = 0;
        verify(&s);
        full = memdisk_occupied(&s.disk);
        discard_all(&s);
        CHECK_MSG(memdisk_occupied(&s.disk) + (1 << 20) < full || s.spec.cluster_size < 65536,
                  "%" PRIu64 " bytes are occupied, of %" PRIu64 " before the discard", memdisk_occupied(&s.disk),
                  full);
        verify(&s);
    }
    close_subject(&s);
    model_finish(&s.model);
    memdisk_finish(&s.disk);
}

/* Storage that cannot grow. */
static void test_device(void)
{
    struct rng *r = test_rng();
    struct subject s = {.failed = 0};
    char *buf = test_alloc(1 << 20);

    test_requires("qemu-img");
    memdisk_init_fixed(&s.disk, rng_chance(r, 50) ? 512 : 4096, 4u << 20);
    make_image(&s, r, 65536);
    open_subject(&s);
    for (unsigned round = 0; round < 3; round++) {
        for (unsigned i = 0; i < 40 && s.failed == 0; i++)
            work(&s, r, 50, true);
        s.failed = 0;
        verify(&s);
        if (rng_chance(r, 50)) {
            CHECK_OK(vdisk_close(s.v));
            open_subject(&s);
        }
        discard_all(&s);
        CHECK_OK(vdisk_pwrite(s.v, buf, 1 << 20, 0, 0));
        model_write(&s.model, 0, buf, 1 << 20);
    }
    verify(&s);
    close_subject(&s);
    free(buf);
    model_finish(&s.model);
    memdisk_finish(&s.disk);
}

/* ---- what is freed is had at once ----------------------------------------------------------------------- */

enum { UNIT = 64 << 10, WRITES = 16 };

static void make_plain(struct subject *s, bool preallocated)
{
    struct backend *b;

    image_default(&s->spec, "plain", 64 << 20);
    s->spec.preallocation = preallocated ? VDISK_PREALLOC_METADATA : VDISK_PREALLOC_OFF;
    b = memdisk_open(&s->disk, false);
    CHECK_OK(image_create_on(&s->spec, b));
    backend_close(b);
    model_init(&s->model, 0, s->spec.size);
}

/* Until nothing fits any more; and nothing waits to be freed. */
static void fill_up(struct subject *s, const char *buf)
{
    uint64_t offset = 0;
    int rc;

    for (; (rc = vdisk_pwrite(s->v, buf, UNIT, offset, 0)) == 0; offset += UNIT)
        model_write(&s->model, offset, buf, UNIT);
    CHECK_INT(rc, -ENOSPC);
    CHECK(offset >= WRITES * UNIT && offset < s->spec.size / 2);
    CHECK_OK(vdisk_trim_space(s->v));
    while ((rc = vdisk_pwrite(s->v, buf, UNIT, offset, 0)) == 0) {
        model_write(&s->model, offset, buf, UNIT);
        offset += UNIT;
    }
    CHECK_INT(rc, -ENOSPC);
}

/* One write, and several at once: all of them need what a discard has freed, and nobody has flushed. */
static void use_freed(struct subject *s, char *buf)
{
    struct vdisk_completion done[WRITES];
    uint64_t offset = s->spec.size / 2;
    vdisk_queue *q;

    CHECK_OK(vdisk_queue_create(NULL, &q));
    for (unsigned round = 0; round < 3; round++) {
        unsigned n = round == 0 ? 1 : WRITES / 4;
        CHECK_OK(vdisk_pdiscard(s->v, n * UNIT, round * WRITES / 4 * UNIT));
        model_discard(&s->model, round * WRITES / 4 * UNIT, n * UNIT);
        for (unsigned i = 0; i < n; i++, offset += 3 * UNIT) { /* not neighbours */
            vdisk_write(q, s->v, offset, buf, UNIT, i % 2 ? VDISK_REQ_FUA : 0, i);
            model_write(&s->model, offset, buf, UNIT);
        }
        for (unsigned left = n; left > 0;) {
            int got = vdisk_reap(q, done, 1, WRITES, NULL);
            CHECK(got > 0);
            for (int i = 0; i < got; i++)
                CHECK_INT(done[i].result, 0);
            left -= (unsigned)got;
        }
    }
    vdisk_queue_destroy(q);
    /* No more than there was. */
    CHECK_INT(vdisk_pwrite(s->v, buf, UNIT, s->spec.size - UNIT, 0), -ENOSPC);
}

enum storage { DEVICE, FULL_FILE, FULL_PREALLOCATED };

static void freed_is_used(enum storage storage)
{
    struct subject s = {.failed = 0};
    char *buf = test_alloc(UNIT);

    test_requires("qemu-img");
    memset(buf, 0x5a, UNIT);
    if (storage == DEVICE)
        memdisk_init_fixed(&s.disk, 512, 4 << 20);
    else
        memdisk_init(&s.disk, 512);
    make_plain(&s, storage == FULL_PREALLOCATED);
    if (storage != DEVICE)
        memdisk_set_space(&s.disk, memdisk_occupied(&s.disk) + (4 << 20));
    open_subject(&s);
    fill_up(&s, buf);
    use_freed(&s, buf);
    verify(&s);
    close_subject(&s);
    free(buf);
    model_finish(&s.model);
    memdisk_finish(&s.disk);
}

static void test_freed_on_device(void)
{
    freed_is_used(DEVICE);
}

static void test_freed_on_full(void)
{
    freed_is_used(FULL_FILE);
}

/* In place, where the host has no space yet. */
static void test_freed_in_place(void)
{
    freed_is_used(FULL_PREALLOCATED);
}

int main(int argc, char **argv)
{
    static const struct test_case cases[] = {
        {.name = "space", .run = test_space, .repeat = 40, .quick = 12},
        {.name = "full_and_empty", .run = test_full_and_empty, .repeat = 16, .quick = 5},
        {.name = "freed_on_device", .run = test_freed_on_device},
        {.name = "freed_on_full", .run = test_freed_on_full},
        {.name = "freed_in_place", .run = test_freed_in_place},
        {.name = "device", .run = test_device, .repeat = 16, .quick = 5},
    };

    return test_main(argc, argv, cases, ARRAY_LEN(cases));
}
