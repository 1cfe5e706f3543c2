/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Commit: what stops it at any step, or lets any I/O fail, or cuts the power anywhere, leaves images that are
 * sound, and a top that reads what it did; made again it has everything in the base. (That the outcome is QEMU's:
 * tests/tool/test_commit.py.)
 */
#include "tests/jobs/ordeal.h"

enum { IMAGES_PER_PLACE = 3 };

struct scene {
    struct chain             chain;
    struct vdisk_commit_opts opts;
    unsigned                 base; /* the layer that it goes to */
    const struct chain_kind *kind;
    unsigned                 layers;
    uint64_t                 seed;
};

static int run_commit(const struct scene *s, struct vdisk_commit_result *ret)
{
    struct vdisk_commit_opts opts = s->opts;
    char name[CHAIN_NAME], base[CHAIN_NAME];
    vdisk_job *j;
    int rc;

    opts.size = sizeof opts;
    opts.format = "qcow2";
    opts.base = s->base + 2 < s->chain.layers ? chain_name(&s->chain, s->base, base) : NULL;
    CHECK_OK(vdisk_job_commit(chain_name(&s->chain, s->chain.layers - 1, name), &opts, &j));
    rc = vdisk_job_run(j);
    if (rc < 0)
        CHECK(vdisk_job_get_error_text(j)[0] != '\0');
    if (rc == 0 && ret) {
        *ret = (struct vdisk_commit_result){.size = sizeof *ret};
        CHECK_OK(vdisk_job_get_commit_result(j, ret));
    }
    CHECK_OK(vdisk_job_free(j));
    return rc;
}

/*
 * On simulated disks, or where s->chain.prefix says. By a seed of its own, so that each run has the same. The base
 * is smaller than the top; a layer between is the smallest.
 */
static int build(struct scene *s, const struct chain_kind *kind, unsigned layers, uint64_t seed)
{
    const char *prefix = s->chain.prefix ? s->chain.prefix : "sim:l";
    struct rng r;
    int rc = 0;

    rng_init(&r, seed);
    memset(&s->chain, 0, sizeof s->chain);
    s->chain.kind = kind;
    s->chain.prefix = prefix;
    for (unsigned i = 0; i < layers && rc == 0; i++)
        rc = chain_add(&s->chain, i == 0 ? 200 << 10 : i + 1 < layers ? 100 << 10 : CHAIN_SIZE, &r);
    return rc;
}

/* There are layers between the base and the top. */
static bool is_further(const struct scene *s)
{
    return s->base + 2 < s->chain.layers;
}

/* The base has it all, and the top none of it, but where layers between would hide the base. */
static void expect_done(const struct scene *s)
{
    struct vdisk_open_opts how = {.size = sizeof how, .layers = 1, .format = "qcow2"};
    struct vdisk_extent list[4];
    struct vdisk_extents extents = {.list = list, .max = 4};
    char name[CHAIN_NAME];
    vdisk *v;

    chain_check(&s->chain);
    chain_expect(chain_name(&s->chain, s->base, name), chain_format(&s->chain, s->base), s->chain.model,
                 CHAIN_SIZE);
    CHECK_OK(vdisk_open(chain_name(&s->chain, s->chain.layers - 1, name), &how, &v));
    CHECK_OK(vdisk_pextents(v, vdisk_size(v), 0, &extents));
    if (is_further(s) || s->opts.flags & VDISK_COMMIT_KEEP) {
        CHECK(extents.count > 1);
        CHECK_OK(vdisk_close(v));
        return;
    }
    CHECK_INT(extents.count, 1);
    CHECK(!(list[0].flags & VDISK_EXTENT_ALLOCATED) && list[0].length == CHAIN_SIZE);
    CHECK_OK(vdisk_close(v));
}

/* ---- what it has to stand ----------------------------------------------------------------------------- */

static int build_again(void *scene)
{
    struct scene *s = scene;

    return build(s, s->kind, s->layers, s->seed);
}

static int run_watched(void *scene, vdisk_progress_fn *progress, void *progress_arg)
{
    struct scene *s = scene;

    s->opts.progress = progress;
    s->opts.progress_arg = progress_arg;
    s->opts.depth = progress ? 1 : 0; /* each piece is a step */
    return run_commit(s, NULL);
}

static int run_from(void *scene, uint64_t start, struct going *going)
{
    struct scene *s = scene;

    s->opts = (struct vdisk_commit_opts){.size = 0};
    if (going)
        s->opts = (struct vdisk_commit_opts){.memory_max = 1 << 16, .depth = 2, GOING_OPTS(going)};
    s->opts.going_on.start = start;
    return run_commit(s, NULL);
}

static void look(void *scene)
{
    chain_check(&((const struct scene *)scene)->chain);
}

static void look_done(void *scene)
{
    expect_done(scene);
}

static struct ordeal ordeal_of(struct scene *s)
{
    return (struct ordeal){.scene_size = sizeof *s, .scene = s, .build = build_again, .run = run_watched,
                           .run_from = run_from, .look = look, .expect_done = look_done};
}

static void test_stopped(void)
{
    struct scene s = {.kind = &chain_kinds[2], .layers = 2, .seed = 3};
    struct ordeal o = ordeal_of(&s);
    unsigned steps, stopped = ordeal_stopped(&o, &steps);

    CHECK(stopped > 0 && stopped + 1 >= steps); /* at its last step it may end */
}

static void test_failures(void)
{
    static const uint32_t calls[] = {VDISK_LAB_READS, VDISK_LAB_WRITES, VDISK_LAB_FLUSHES};

    for (unsigned i = 0; i < ARRAY_LEN(calls); i++) {
        struct scene s = {.kind = &chain_kinds[i], .base = i % 2, .layers = 3, .seed = 5};
        struct ordeal o = ordeal_of(&s);

        ordeal_failures(&o, calls[i]);
    }
}

static void test_power(void)
{
    for (unsigned i = test_share_first(3); i < 2 * ARRAY_LEN(chain_kinds); i += test_every(3)) {
        struct scene s = {.base = i < ARRAY_LEN(chain_kinds) ? 1 : 0, .layers = 3, .seed = i,
                          .kind = &chain_kinds[i % ARRAY_LEN(chain_kinds)]};
        struct ordeal o = ordeal_of(&s);

        test_note("%s", s.kind->what);
        CHECK(ordeal_power(&o, IMAGES_PER_PLACE) > 3);
    }
}

/* After a power cut at any moment, and any failure. */
static void test_goes_on(void)
{
    for (unsigned i = test_share_first(3); i < 2 * ARRAY_LEN(chain_kinds); i += test_every(3)) {
        struct scene s = {.base = i < ARRAY_LEN(chain_kinds) ? 1 : 0, .layers = 3, .seed = i,
                          .kind = &chain_kinds[i % ARRAY_LEN(chain_kinds)]};
        struct ordeal o = ordeal_of(&s);

        test_note("%s", s.kind->what);
        ordeal_power_on(&o, CHAIN_SIZE, IMAGES_PER_PLACE);
    }
    for (unsigned i = test_share_first(3); i < 3; i += test_every(3)) {
        struct scene s = {.kind = &chain_kinds[i], .base = i % 2, .layers = 3, .seed = 5};
        struct ordeal o = ordeal_of(&s);

        ordeal_failures_on(&o);
    }
}

/* ---- the rest ----------------------------------------------------------------------------------------- */

static void test_result(void)
{
    struct vdisk_commit_result r;
    struct scene s = {.opts.rate = 1 << 30};
    vdisk_lab *lab;

    CHECK_OK(vdisk_lab_create(NULL, &lab));
    CHECK_OK(build(&s, &chain_kinds[1], 2, 1));
    CHECK_OK(run_commit(&s, &r));
    CHECK(r.grown && r.base_depth == 1 && r.bytes_written > 0);
    CHECK_OK(run_commit(&s, &r));
    CHECK(!r.grown && r.bytes_written == 0 && r.bytes_zeroed == 0);
    vdisk_lab_destroy(lab);
}

/* Into the lowest of three: the one between has zeros and data over what the base gets. */
static void test_further(void)
{
    for (unsigned i = 0; i < 2 * ARRAY_LEN(chain_kinds); i++) {
        struct scene s = {.opts.flags = i % 2 ? VDISK_COMMIT_KEEP : 0};
        struct vdisk_commit_result r;
        vdisk_lab *lab;

        CHECK_OK(vdisk_lab_create(NULL, &lab));
        CHECK_OK(build(&s, &chain_kinds[i / 2], 3, i));
        CHECK_OK(run_commit(&s, &r));
        CHECK_INT(r.base_depth, 2);
        expect_done(&s);
        CHECK_OK(run_commit(&s, &r)); /* nothing has been lost by that */
        expect_done(&s);
        vdisk_lab_destroy(lab);
    }
}

/* Two on one queue at once, each with a thread. */
static void test_started(void)
{
    struct scene s[2] = {{.chain.prefix = test_path("a")}, {.chain.prefix = test_path("b"), .base = 1}};
    struct vdisk_completion done[2];
    vdisk_job *j[2];
    vdisk_queue *q;
    char name[CHAIN_NAME];

    CHECK_OK(vdisk_queue_create(NULL, &q));
    for (unsigned i = 0; i < 2; i++) {
        CHECK_OK(build(&s[i], &chain_kinds[i], 2 + i, i));
        CHECK_OK(vdisk_job_commit(chain_name(&s[i].chain, 1 + i, name), NULL, &j[i]));
        CHECK_OK(vdisk_job_start(j[i], q, i));
    }
    CHECK_INT(vdisk_reap(q, done, 2, 2, NULL), 2);
    CHECK(done[0].result == 0 && done[1].result == 0 && done[0].user_data + done[1].user_data == 1);
    for (unsigned i = 0; i < 2; i++) {
        CHECK_INT(progress_of(j[i]).state, VDISK_JOB_ENDED);
        CHECK_OK(vdisk_job_free(j[i]));
        expect_done(&s[i]);
    }
    CHECK_OK(vdisk_queue_destroy(q));
}

/* Of what is open with layers left out nothing is written over, and it is read. */
static void test_cut(void)
{
    struct vdisk_open_opts how = {.size = sizeof how, .flags = VDISK_OPEN_RDWR, .layers = 1, .format = "qcow2"};
    struct vdisk_info info = {.size = sizeof info};
    struct scene s = {.base = 1};
    char name[CHAIN_NAME];
    vdisk_lab *lab;
    vdisk *v;

    CHECK_OK(vdisk_lab_create(NULL, &lab));
    CHECK_OK(build(&s, &chain_kinds[0], 3, 1));
    for (how.layers = 1; how.layers <= 3; how.layers++) {
        CHECK_OK(vdisk_open(chain_name(&s.chain, 2, name), &how, &v));
        CHECK_OK(vdisk_get_info(v, &info));
        CHECK_INT(info.depth, how.layers);
        CHECK(info.read_only == (how.layers < 3));
        CHECK_INT(vdisk_pwrite(v, s.chain.model, 512, 0, 0), how.layers < 3 ? -EACCES : 0);
        if (how.layers < 3)
            CHECK_INT(vdisk_pzero(v, 512, 0, 0), -EACCES);
        CHECK_OK(vdisk_close(v));
    }
    chain_check(&s.chain);
    vdisk_lab_destroy(lab);
}

static void test_refused(void)
{
    struct vdisk_commit_opts opts = {.size = sizeof opts, .flags = 1u << 31};
    struct vdisk_commit_result r = {.size = sizeof r};
    vdisk_job *j;

    CHECK_INT(vdisk_job_commit(NULL, NULL, &j), -EINVAL);
    CHECK_INT(vdisk_job_commit("", NULL, &j), -ENOENT);
    CHECK_INT(vdisk_job_commit("x", NULL, NULL), -EINVAL);
    CHECK_INT(vdisk_job_commit("x", &opts, &j), -EINVAL);
    opts.flags = 0;
    opts.open_flags = VDISK_OPEN_RDWR;
    CHECK_INT(vdisk_job_commit("x", &opts, &j), -EINVAL);
    CHECK_OK(vdisk_job_commit(test_path("missing"), NULL, &j));
    CHECK_INT(vdisk_job_run(j), -ENOENT);
    CHECK_INT(vdisk_job_get_commit_result(j, &r), -ENOENT);
    CHECK_OK(vdisk_job_free(j));
}

int main(int argc, char **argv)
{
    static const struct test_case cases[] = {
        {.name = "stopped", .run = test_stopped}, {.name = "failures", .run = test_failures},
        {.name = "power", .run = test_power},     {.name = "result", .run = test_result},
        {.name = "goes_on", .run = test_goes_on},
        {.name = "started", .run = test_started}, {.name = "cut", .run = test_cut},
        {.name = "further", .run = test_further}, {.name = "refused", .run = test_refused},
    };

    return test_main(argc, argv, cases, ARRAY_LEN(cases));
}
