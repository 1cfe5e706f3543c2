/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Random requests while the storage misbehaves: calls that come late overtake each other, all calls come short,
 * some fail at random. What is reported as done is done, whatever the order; after the storm the image is sound.
 */
#include <errno.h>

#include "engine/base/bits.h"
#include "engine/volume.h"
#include "tests/fault/fault_lib.h"
#include "tests/lib/test.h"
#include "tests/lib/workload.h"

enum { STEPS = 300 };

static void random_subject(struct subject *s, struct rng *r)
{
    struct image_spec spec = {.size = 512 * rng_between(r, 4000, 12000)};

    image_random(r, &spec, IMAGE_NO_DATA_FILE);
    test_note("%s", image_describe(&spec));
    subject_init(s, &spec);
    CHECK_OK(subject_open(s, VDISK_OPEN_RDWR, false));
}

static void storm(struct subject *s, struct rng *r, bool faults)
{
    struct workload w = {.v = s->v, .models = &s->now, .nmodels = 1, .faults = faults};

    rng_init(&w.rng, rng_next(r));
    w.depth = (unsigned)rng_between(r, 4, 24);
    w.unit = s->spec.qcow2 ? s->spec.cluster_size : 65536;
    w.max_len = min_u64(1u << 20, max_u64(4 * w.unit, 128u << 10));
    workload_start(&w);
    workload_run(&w, test_steps(STEPS));
    workload_finish(&w);
}

static void finish(struct subject *s)
{
    CHECK_OK(subject_close(s));
    subject_check_image(s, true);
    subject_check_content(s);
    subject_finish(s);
}

/* Every third or so of the calls is held until a few later ones have come. */
static void test_reorder(void)
{
    struct rng *r = test_rng();
    struct subject s;

    random_subject(&s, r);
    for (unsigned i = 0; i < 3; i++) {
        struct fault_rule rule = {.what = rng_chance(r, 50) ? FAULT_LATE : FAULT_LATE_END,
                                  .calls = (unsigned)rng_between(r, 1, 6)};
        if (i > 0) { /* the first is for all */
            rule.kinds = rng_chance(r, 50) ? FAULT_KIND(IO_WRITE) : 0;
            rule.offset = rng_below(r, s.spec.size / 2);
            rule.len = rng_chance(r, 60) ? s.spec.size / 3 : 0;
        }
        CHECK_OK(fault_add_rule(s.fault, &rule));
    }
    storm(&s, r, false);
    CHECK(fault_fired(s.fault) > 0);
    fault_clear(s.fault);
    workload_verify(s.v, &s.now, 1);
    finish(&s);
}

/* No read or write moves all that it was asked for. */
static void test_short(void)
{
    struct rng *r = test_rng();
    struct fault_rule rule = {.kinds = FAULT_KIND(IO_READ) | FAULT_KIND(IO_WRITE), .what = FAULT_SHORT};
    struct subject s;

    random_subject(&s, r);
    CHECK_OK(fault_add_rule(s.fault, &rule));
    storm(&s, r, false);
    CHECK(fault_fired(s.fault) > 0);
    workload_verify(s.v, &s.now, 1);
    finish(&s);
}

/* Some calls fail, at random; then they stop, and the volume goes on or says why not. */
static void test_failures(void)
{
    static const int errors[] = {EIO, ENOSPC};
    struct rng *r = test_rng();
    struct subject s;

    random_subject(&s, r);
    for (unsigned i = 0; i < 30; i++) {
        struct fault_rule rule = {.nth = (unsigned)rng_between(r, 1, 500),
                                  .what = rng_chance(r, 70) ? FAULT_FAIL : FAULT_FAIL_AFTER,
                                  .error = errors[rng_below(r, 2)]};
        rule.kinds = rng_chance(r, 50) ? 0 : FAULT_WRITES;
        CHECK_OK(fault_add_rule(s.fault, &rule));
    }
    storm(&s, r, true);
    fault_clear(s.fault);
    CHECK_OK(subject_read(&s, 0, s.now.size));
    if (subject_flush(&s) == 0) {
        finish(&s);
        return;
    }
    /* Nothing of the storm need be there, but the image is sound. */
    model_mark(&s.flushed, 0, s.flushed.size, MODEL_ANY);
    subject_close(&s);
    subject_check_image(&s, true);
    subject_check_content(&s);
    subject_finish(&s);
}

int main(int argc, char **argv)
{
    static const struct test_case cases[] = {
        {.name = "reorder", .run = test_reorder, .repeat = 24, .quick = 6},
        {.name = "short", .run = test_short, .repeat = 16, .quick = 4},
        {.name = "failures", .run = test_failures, .repeat = 40, .quick = 10},
    };

    return test_main(argc, argv, cases, ARRAY_LEN(cases));
}
