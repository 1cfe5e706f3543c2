/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Amending an open volume, again and again, among random requests: at no moment is the image less than it was. */
#include <stdlib.h>

#include "engine/base/bits.h"
#include "engine/vdisk-image.h"
#include "tests/crash/rig.h"
#include "tests/crash/scenarios.h"
#include "tests/lib/test.h"

enum { IMAGES = 300, AMENDS = 5 };

/* What it can become: compressed clusters share host clusters, so that refcounts are not too narrow. */
static void amend(struct rig *r)
{
    struct vdisk_amend_opts opts = {.size = sizeof opts, .refcount_bits = (uint32_t)16 << rng_below(r->rng, 3)};
    vdisk_job *j;

    opts.flags = rng_chance(r->rng, 50) ? VDISK_AMEND_LAZY_ON : VDISK_AMEND_LAZY_OFF;
    opts.version = 3;
    if (!r->spec.extended_l2 && !r->spec.data_file && !r->spec.zstd && rng_chance(r->rng, 60)) {
        opts.version = 2;
        opts.refcount_bits = 16;
        opts.flags = VDISK_AMEND_LAZY_OFF;
    }
    rig_wait(r, 0);
    CHECK_OK(vdisk_job_amend(r->v, &opts, &j));
    CHECK_OK(vdisk_job_run(j));
    CHECK_OK(vdisk_job_free(j));
}

void run_amend(void)
{
    struct rig *rig = test_alloc(sizeof *rig);
    struct image_spec s;

    image_default(&s, "image", 1);
    image_random(test_rng(), &s, IMAGE_NO_RAW | IMAGE_NO_PREALLOC);
    s.cluster_size = s.extended_l2 ? 16384 : (uint32_t)512 << rng_below(test_rng(), 6);
    s.data_file_raw = false;
    s.size = rng_between(test_rng(), 20, 40) * s.cluster_size;
    rig->max_size = align_up(s.size + s.size / 2, 512);
    rig_init(rig, &s);
    rig_start_log(rig);
    rig_open(rig, rng_chance(rig->rng, 50) ? 2 : 1);
    for (unsigned i = 0; i < AMENDS; i++) {
        rig_mix(rig, test_steps(12));
        amend(rig);
    }
    rig_mix(rig, test_steps(6));
    if (rng_chance(rig->rng, 50))
        rig_close(rig);
    else
        rig_cut(rig);
    rig_judge(rig, IMAGES);
    rig_finish(rig);
    free(rig);
}
