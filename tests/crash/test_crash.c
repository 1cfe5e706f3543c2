/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Crash images of each kind of write, and of random mixes. */
#include <stdlib.h>
#include <string.h>

#include "engine/bits.h"
#include "tests/crash/rig.h"
#include "tests/lib/test.h"

enum { MIX_IMAGES = 400, LARGE = 1 << 20 };

static const uint32_t cluster_sizes[] = {512,   1024,  2048,   4096,    8192,   16384,
                                         32768, 65536, 131072, 1 << 20, 2 << 20};

/* Small volumes: some tens of clusters. */
static void random_spec(struct image_spec *s)
{
    struct rng *r = test_rng();

    image_default(s, "image", 1);
    image_random(r, s, IMAGE_NO_RAW | IMAGE_NO_PREALLOC);
    s->cluster_size = cluster_sizes[rng_below(r, rng_chance(r, 90) ? 6 : ARRAY_LEN(cluster_sizes))];
    if (s->extended_l2)
        s->cluster_size = (uint32_t)16384 << rng_below(r, 3);
    s->data_file_raw = false;
    s->size = rng_between(r, 10, 40) * s->cluster_size;
    if (s->size > LARGE)
        s->size = max_u64(LARGE, 3 * s->cluster_size);
}

static void mix(unsigned queues)
{
    struct rng *r = test_rng();
    struct rig *rig = test_alloc(sizeof *rig);
    struct image_spec s;

    random_spec(&s);
    rig->fixed = rng_chance(r, 15);
    rig->max_size = align_up(s.size + s.size / 2, 512);
    rig_init(rig, &s);
    rig_start_log(rig);
    rig_open(rig, queues);
    rig_mix(rig, test_steps(80));
    if (rng_chance(r, 50))
        rig_close(rig);
    else
        rig_cut(rig);
    rig_judge(rig, s.size > LARGE ? MIX_IMAGES / 8 : MIX_IMAGES);
    rig_finish(rig);
    free(rig);
}

static void run_mix(void)
{
    mix(1);
}

static void run_mix_two_queues(void)
{
    mix(2);
}

static const struct test_case cases[] = {
    {.name = "mix", .run = run_mix, .repeat = 30, .quick = 6},
    {.name = "mix-two-queues", .run = run_mix_two_queues, .repeat = 30, .quick = 6},
};

int main(int argc, char **argv)
{
    int status;

    rig_totals_init();
    status = test_main(argc, argv, cases, ARRAY_LEN(cases));
    rig_totals_print();
    return status;
}
