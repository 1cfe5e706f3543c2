/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Random requests on random volumes against a byte-array oracle, from one queue: over memory (with the
 * alignment and the limits of other storage) and over files, through closes and reopens.
 */
#include <errno.h>
#include <stdlib.h>

#include "engine/base/bits.h"
#include "tests/lib/test.h"
#include "tests/model/model_lib.h"

enum { STEPS = 500 };

/* One opening: random requests, growth in between, and the sync calls on the same volume. */
static void session(struct subject *s, struct rng *r, vdisk *v, unsigned steps)
{
    struct workload w;
    bool grows = rng_chance(r, 20);

    subject_workload(s, r, v, &w);
    workload_start(&w);
    workload_run(&w, steps / 2);
    if (grows) {
        workload_drain(&w); /* the slots point at the model that is replaced */
        subject_grow(s, r, v);
    }
    workload_run(&w, steps - steps / 2);
    workload_finish(&w);
}

static void run_subject(unsigned flags)
{
    struct rng *r = test_rng();
    unsigned sessions = (unsigned)rng_between(r, 1, 4), steps = test_steps(STEPS);
    struct subject s;
    vdisk *v;

    subject_init(&s, r, flags);
    for (unsigned i = 0; i < sessions; i++) {
        bool verify = i + 1 == sessions || rng_chance(r, 50);
        v = subject_open(&s, r);
        session(&s, r, v, steps / sessions);
        if (verify)
            workload_verify(v, s.models, s.nmodels);
        subject_close(&s, v, verify);
    }
    v = subject_open(&s, r);
    workload_verify(v, s.models, s.nmodels);
    subject_close(&s, v, false);
    subject_finish(&s);
}

static void test_memory(void)
{
    test_requires("qemu-io");
    run_subject(SUBJECT_ON_MEMORY);
}

static void test_file(void)
{
    test_requires("qemu-io");
    run_subject(0);
}

/* ---- misuse, ends, and empty requests --------------------------------------------------------------- */

static int one(vdisk_queue *q)
{
    struct vdisk_completion c;

    CHECK_INT(vdisk_reap(q, &c, 1, 1, NULL), 1);
    return c.result;
}

static void check_ends(vdisk *v, vdisk_queue *q)
{
    uint64_t size = vdisk_size(v);
    struct vdisk_extent list[1];
    struct vdisk_extents extents = {.list = list, .max = 1};
    char buf[1024] = {0};

    vdisk_read(q, v, size - 512, buf, 513, 0, 0);
    CHECK_INT(one(q), -EINVAL);
    vdisk_write(q, v, size, buf, 1, 0, 0);
    CHECK_INT(one(q), -EINVAL);
    vdisk_write(q, v, UINT64_MAX - 1, buf, 512, 0, 0);
    CHECK_INT(one(q), -EINVAL);
    vdisk_write_zeroes(q, v, 0, size + 1, 0, 0);
    CHECK_INT(one(q), -EINVAL);
    vdisk_discard(q, v, 512, size, 0, 0);
    CHECK_INT(one(q), -EINVAL);
    vdisk_get_extents(q, v, size, 512, &extents, 0);
    CHECK_INT(one(q), -EINVAL);
    vdisk_read(q, v, 0, buf, 512, 0x80000000u, 0);
    CHECK_INT(one(q), -EINVAL);
    vdisk_write(q, v, 0, buf, 512, 0x80000000u, 0);
    CHECK_INT(one(q), -EINVAL);
    vdisk_write(q, v, size - 1, buf, 1, 0, 0);
    CHECK_INT(one(q), 0);
    vdisk_read(q, v, size, buf, 0, 0, 0);
    CHECK_INT(one(q), 0);
    vdisk_write(q, v, 0, buf, 0, 0, 0);
    CHECK_INT(one(q), 0);
    vdisk_flush(q, v, 0, 0);
    CHECK_INT(one(q), 0);
}

static void test_ends(void)
{
    struct vdisk_open_opts opts = {.size = sizeof opts, .flags = VDISK_OPEN_RDWR};
    struct image_spec spec;
    vdisk_queue *q;
    vdisk *v;

    CHECK_OK(vdisk_queue_create(NULL, &q));
    for (unsigned i = 0; i < 2; i++) {
        image_default(&spec, "ends", (1u << 20) + 512);
        spec.qcow2 = i;
        image_create(&spec);
        CHECK_OK(vdisk_open(spec.path, &opts, &v));
        check_ends(v, q);
        CHECK_OK(vdisk_close(v));
    }
    vdisk_queue_destroy(q);
}

static void test_read_only(void)
{
    struct image_spec spec;
    char buf[512] = {1};
    vdisk_queue *q;
    vdisk *v;

    CHECK_OK(vdisk_queue_create(NULL, &q));
    for (unsigned i = 0; i < 2; i++) {
        image_default(&spec, "read-only", 1u << 20);
        spec.qcow2 = i;
        image_create(&spec);
        CHECK_OK(vdisk_open(spec.path, NULL, &v));
        vdisk_write(q, v, 0, buf, 512, 0, 0);
        CHECK_INT(one(q), -EACCES);
        vdisk_write_zeroes(q, v, 0, 512, 0, 0);
        CHECK_INT(one(q), -EACCES);
        vdisk_discard(q, v, 0, 512, 0, 0);
        CHECK_INT(one(q), -EACCES);
        vdisk_flush(q, v, 0, 0);
        CHECK_INT(one(q), 0);
        CHECK_INT(vdisk_grow(v, 2u << 20), -EACCES);
        CHECK_OK(vdisk_pread(v, buf, 512, 0));
        CHECK(buf[0] == 0);
        CHECK_OK(vdisk_close(v));
    }
    vdisk_queue_destroy(q);
}

int main(int argc, char **argv)
{
    static const struct test_case cases[] = {
        {.name = "ends", .run = test_ends},
        {.name = "read_only", .run = test_read_only},
        {.name = "memory", .run = test_memory, .repeat = 60, .quick = 15},
        {.name = "file", .run = test_file, .repeat = 24, .quick = 6},
    };

    return test_main(argc, argv, cases, ARRAY_LEN(cases));
}
