/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a job about images on simulated disks has to stand: for tests of commit, rebase and amend. */
#ifndef TESTS_JOBS_ORDEAL_H
#define TESTS_JOBS_ORDEAL_H

#include "tests/jobs/chain.h"

/* All of them get the scene. */
struct ordeal {
    size_t scene_size;
    int  (*build)(void *scene); /* the images, always the same ones. 0 or -errno, where calls fail */
    int  (*run)(void *scene, vdisk_progress_fn *progress, void *progress_arg); /* the job: 0 or -errno */
    int  (*run_from)(void *scene, uint64_t start, struct going *going); /* from there on; `going` NULL: quietly */
    void (*look)(void *scene);        /* at any time: sound, and reads what it did */
    void (*expect_done)(void *scene); /* and the job has done its work */
    unsigned right; /* runs that no failure has met */
    void    *scene;
};

/* Stopped at each of its steps, and made again. Returns how often; *ret_steps: of how many. */
static inline unsigned ordeal_stopped(struct ordeal *o, unsigned *ret_steps)
{
    unsigned steps = 0, stopped = 0;

    for (unsigned i = 0; i <= steps; i++) {
        struct stepper step;
        vdisk_lab *lab;
        int rc;

        CHECK_OK(vdisk_lab_create(NULL, &lab));
        CHECK_OK(o->build(o->scene));
        stepper_init(&step, false);
        step.cancel_at = i;
        rc = o->run(o->scene, stepper_step, &step);
        CHECK(rc == 0 || (i > 0 && rc == -ECANCELED));
        stopped += rc < 0;
        if (i == 0)
            steps = step.steps;
        o->look(o->scene);
        CHECK_OK(o->run(o->scene, NULL, NULL));
        o->expect_done(o->scene);
        vdisk_lab_destroy(lab);
    }
    *ret_steps = steps;
    return stopped;
}

static inline int ordeal_failing(void *arg, vdisk_lab *lab)
{
    struct ordeal *o = arg;
    int rc = o->build(o->scene);

    if (rc < 0)
        return rc;
    rc = o->run(o->scene, NULL, NULL);
    CHECK_OK(vdisk_lab_fail(lab, NULL));
    o->look(o->scene);
    if (rc < 0)
        CHECK_OK(o->run(o->scene, NULL, NULL));
    o->expect_done(o->scene);
    o->right += rc == 0;
    return rc;
}

/* Each call of some kinds (enum vdisk_lab_calls) fails once. */
static inline void ordeal_failures(struct ordeal *o, uint32_t calls)
{
    struct vdisk_lab_fault fault = {.size = sizeof fault, .calls = calls};

    o->right = 0;
    CHECK_OK(vdisk_lab_each_failure(NULL, &fault, ordeal_failing, o, NULL));
    CHECK(o->right >= 1);
}

/* On a copy of the scene, as what it says is to be found may be another for the next image. */
static inline int ordeal_judge(void *arg, uint64_t mark)
{
    const struct ordeal *o = arg;
    void *scene = test_alloc(o->scene_size);

    memcpy(scene, o->scene, o->scene_size);
    o->look(scene);
    if (mark == 0)
        CHECK_OK(o->run(scene, NULL, NULL));
    o->expect_done(scene);
    free(scene);
    return 0;
}

/* The power is cut anywhere. Returns at how many places. */
static inline uint64_t ordeal_power(struct ordeal *o, unsigned images_per_place)
{
    struct vdisk_lab_crashes crashes = {.size = sizeof crashes};
    vdisk_lab *lab;

    CHECK_OK(vdisk_lab_create(NULL, &lab));
    CHECK_OK(o->build(o->scene));
    CHECK_OK(vdisk_lab_arm(lab));
    CHECK_OK(o->run(o->scene, NULL, NULL));
    CHECK_OK(vdisk_lab_mark(lab, 1));
    CHECK_OK(vdisk_lab_cut_power(lab, images_per_place, ordeal_judge, o, &crashes));
    vdisk_lab_destroy(lab);
    return crashes.places;
}

/* ---- going on from the last checkpoint ---------------------------------------------------------------- */

/* All before `position` is there. On a copy of the scene. */
static inline void ordeal_go_on(const struct ordeal *o, uint64_t position)
{
    void *scene = test_alloc(o->scene_size);

    memcpy(scene, o->scene, o->scene_size);
    o->look(scene);
    CHECK_OK(o->run_from(scene, position, NULL));
    o->expect_done(scene);
    free(scene);
}

static inline int ordeal_judge_on(void *arg, uint64_t mark)
{
    ordeal_go_on(arg, mark);
    return 0;
}

/* The power is cut anywhere; uncut, the last checkpoint is at `end`. */
static inline void ordeal_power_on(struct ordeal *o, uint64_t end, unsigned images_per_place)
{
    struct vdisk_lab_crashes crashes = {.size = sizeof crashes};
    struct going going = {.position = 0};

    CHECK_OK(vdisk_lab_create(NULL, &going.lab));
    CHECK_OK(o->build(o->scene));
    CHECK_OK(vdisk_lab_arm(going.lab));
    CHECK_OK(o->run_from(o->scene, 0, &going));
    CHECK(going.position == end);
    CHECK_OK(vdisk_lab_cut_power(going.lab, images_per_place, ordeal_judge_on, o, &crashes));
    CHECK(crashes.places > 1);
    vdisk_lab_destroy(going.lab);
}

static inline int ordeal_failing_on(void *arg, vdisk_lab *lab)
{
    struct going going = {.position = 0};
    struct ordeal *o = arg;
    int rc = o->build(o->scene);

    if (rc < 0)
        return rc;
    rc = o->run_from(o->scene, 0, &going);
    CHECK_OK(vdisk_lab_fail(lab, NULL));
    ordeal_go_on(o, going.position);
    o->right += rc == 0;
    return rc;
}

/* Each call fails once. */
static inline void ordeal_failures_on(struct ordeal *o)
{
    struct vdisk_lab_fault fault = {.size = sizeof fault};

    o->right = 0;
    CHECK_OK(vdisk_lab_each_failure(NULL, &fault, ordeal_failing_on, o, NULL));
    CHECK(o->right >= 1);
}

#endif
