/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* On a device that becomes larger as it fills, in time or late: what waited for room is there when it ends. */
#include <stdlib.h>

#include "engine/base/bits.h"
#include "tests/crash/rig.h"
#include "tests/crash/scenarios.h"
#include "tests/lib/test.h"

enum { IMAGES = 400 };

void run_thin(void)
{
    struct rig *rig = test_alloc(sizeof *rig);
    struct image_spec s;

    image_default(&s, "image", 1);
    image_random(test_rng(), &s, IMAGE_NO_RAW | IMAGE_NO_PREALLOC | IMAGE_NO_DATA_FILE);
    s.cluster_size = s.extended_l2 ? 16384 : (uint32_t)512 << rng_below(test_rng(), 6);
    s.size = rng_between(test_rng(), 20, 40) * s.cluster_size;
    rig->fixed = rig->thin = true;
    rig_init(rig, &s);
    rig_start_log(rig);
    rig_open(rig, rng_chance(rig->rng, 50) ? 2 : 1);
    rig_mix(rig, test_steps(80));
    if (rng_chance(rig->rng, 50))
        rig_close(rig);
    else
        rig_cut(rig);
    rig_judge(rig, IMAGES);
    rig_finish(rig);
    free(rig);
}
