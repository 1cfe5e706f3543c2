/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Little room, with each call failing once: a device that is full, more metadata than the cache holds, refcount
 * blocks that have to be made where a table is to go, more freed clusters than are kept in mind.
 */
#include <errno.h>
#include <stdlib.h>

#include "engine/bits.h"
#include "tests/fault/fault_lib.h"
#include "tests/lib/test.h"

#define MIB(n) ((uint64_t)(n) << 20)
/* 64 refcounts in a block, which is a slice as well: the smallest cache has room for 256 of them. */
#define TIGHT  .qcow2 = true, .cluster_size = 512, .version = 3, .refcount_bits = 64

enum { CLUSTER = 512, PER_BLOCK = 64, FILLED = 64 << 10, SCATTERED = (1 << 14) + 200 };

/* ---- before it ------------------------------------------------------------------------------------------ */

/* The file ends a few clusters before what its last refcount block describes; no hole is in it. */
static void make_edge(struct subject *s)
{
    uint64_t offset = s->now.size / 2;
    unsigned written = 0;

    do {
        CHECK_OK(subject_open(s, VDISK_OPEN_RDWR, false));
        CHECK_OK(subject_write(s, 60, offset, CLUSTER, 0));
        CHECK_OK(subject_close(s));
        offset += CLUSTER;
        written++;
    } while (written < PER_BLOCK || memdisk_size(&s->disk) / CLUSTER % PER_BLOCK < PER_BLOCK - 2);
}

/* Guest clusters lie on the host in reverse, so that no two freed ones are neighbours in the list. */
static void make_scattered(struct subject *s)
{
    CHECK_OK(subject_open(s, VDISK_OPEN_RDWR, false));
    for (unsigned i = SCATTERED; i-- > 0;)
        CHECK_OK(subject_write(s, i % 7, FILLED + (uint64_t)i * CLUSTER, CLUSTER, 0));
    CHECK_OK(subject_close(s));
}

static void prepare_more(struct subject *s)
{
    CHECK_OK(subject_write(s, 64, s->now.size / 2, 2 * FILLED, 0));
}

/* Not one cluster is left. */
static void make_full(struct subject *s)
{
    uint64_t offset = FILLED;

    CHECK_OK(subject_open(s, VDISK_OPEN_RDWR, false));
    for (uint64_t len = 64 << 10; len >= CLUSTER; len /= 2)
        while (subject_write(s, 61, offset, len, 0) == 0)
            offset += len;
    CHECK(offset + 2 * FILLED < s->now.size);
    CHECK_OK(subject_close(s));
}

/* ---- what may fail -------------------------------------------------------------------------------------- */

static int act_grow(struct subject *s)
{
    return subject_grow(s, s->now.size * 16);
}

static int act_discard_scattered(struct subject *s)
{
    return subject_discard(s, FILLED, (uint64_t)SCATTERED * CLUSTER);
}

static int act_discard_flush(struct subject *s)
{
    int rc = subject_discard(s, 0, FILLED / 2);

    if (rc == 0)
        rc = subject_flush(s);
    return rc == 0 ? subject_flush(s) : rc;
}

static int act_discard_all(struct subject *s)
{
    int rc = subject_discard(s, 0, s->now.size);

    if (rc == 0)
        rc = subject_flush(s);
    return rc == 0 ? subject_flush(s) : rc;
}

/* There is room again, when what was freed is reclaimed. */
static int act_squeeze(struct subject *s)
{
    int rc = subject_discard(s, FILLED, MIB(4));

    if (rc == 0)
        rc = subject_flush(s);
    if (rc == 0) /* and not yet flushed: */
        rc = subject_discard(s, FILLED + MIB(4), MIB(3));
    return rc == 0 ? subject_write(s, 63, s->now.size - FILLED, CLUSTER, 0) : rc;
}

static int act_trim(struct subject *s)
{
    int rc = subject_discard(s, 0, 3 * CLUSTER), trim_rc = vdisk_trim_space(s->v);

    if (trim_rc < 0)
        CHECK_MSG(vdisk_error_text()[0], "trim failed without a text");
    return rc < 0 ? rc : trim_rc;
}

/* ---- the table ------------------------------------------------------------------------------------------ */

static const struct scenario scenarios[] = {
    {.name = "L1 table at the edge of a refcount block",
     .spec = {.size = MIB(1) / 2, TIGHT},
     .make = make_edge,
     .act = act_grow},
    {.name = "reclaim, cold",
     .spec = {.size = MIB(1), TIGHT},
     .act = act_discard_flush,
     .cold = true,
     .no_data = true},
    {.name = "trim, cold",
     .spec = {.size = MIB(1), TIGHT},
     .prepare = prepare_more,
     .act = act_trim,
     .cold = true,
     .no_data = true},
    {.name = "scattered discard",
     .spec = {.size = MIB(9), TIGHT},
     .make = make_scattered,
     .stride = 83,
     .act = act_discard_scattered,
     .no_data = true},
    {.name = "more refcounts than can be cached",
     .spec = {.size = MIB(11), TIGHT, .preallocation = VDISK_PREALLOC_METADATA},
     .cache_bytes = 1,
     .stride = 151,
     .act = act_discard_all,
     .cold = true},
    {.name = "full device",
     .spec = {.size = MIB(12), TIGHT},
     .device = MIB(10),
     .cache_bytes = 1,
     .make = make_full,
     .stride = 67,
     .act = act_squeeze,
     .no_data = true},
};

static void run_mode(unsigned mode)
{
    test_requires("qemu-img");
    scenario_run(&scenarios[test_repetition() % ARRAY_LEN(scenarios)], &fault_modes[mode]);
}

#define MODE(n)                    \
    static void test_mode_##n(void) \
    {                              \
        run_mode(n);               \
    }

MODE(0) MODE(1) MODE(2) MODE(3) MODE(4) MODE(5) MODE(6) MODE(7)

int main(int argc, char **argv)
{
    static const struct test_case cases[] = {
        {.name = "eio", .run = test_mode_0, .repeat = ARRAY_LEN(scenarios)},
        {.name = "enospc", .run = test_mode_1, .repeat = ARRAY_LEN(scenarios)},
        {.name = "eio_done", .run = test_mode_2, .repeat = ARRAY_LEN(scenarios)},
        {.name = "short", .run = test_mode_3, .repeat = ARRAY_LEN(scenarios)},
        {.name = "late", .run = test_mode_4, .repeat = ARRAY_LEN(scenarios)},
        {.name = "late_end", .run = test_mode_5, .repeat = ARRAY_LEN(scenarios)},
        {.name = "oom", .run = test_mode_6, .repeat = ARRAY_LEN(scenarios)},
        {.name = "oom_forever", .run = test_mode_7, .repeat = ARRAY_LEN(scenarios)},
    };

    return test_main(argc, argv, cases, ARRAY_LEN(cases));
}
