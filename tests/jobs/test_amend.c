/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Amend: what stops it at any step, or lets any I/O fail, or cuts the power anywhere, leaves an image that is
 * sound, reads what it did, and can be opened; made again it is done, and nothing is leaked. (That the outcome is
 * QEMU's: tests/tool/test_amend.py.)
 */
#include "tests/jobs/ordeal.h"

enum { IMAGES_PER_PLACE = 3 };

/* From one thing to another. Both by amending an image that was made as version 3. */
struct step {
    const char             *what;
    struct vdisk_amend_opts from, to;
    bool                    alone; /* not over a backing file */
};

static const struct step steps[] = {
    {.what = "version 2", .to = {.version = 2}},
    {.what = "version 2, alone", .to = {.version = 2}, .alone = true},
    {.what = "version 3", .from = {.version = 2}, .to = {.version = 3}},
    {.what = "wider", .to = {.refcount_bits = 64}},
    {.what = "narrower", .from = {.refcount_bits = 64}, .to = {.refcount_bits = 1}},
    {.what = "lazy", .to = {.flags = VDISK_AMEND_LAZY_ON}},
    {.what = "not lazy", .from = {.flags = VDISK_AMEND_LAZY_ON}, .to = {.flags = VDISK_AMEND_LAZY_OFF}},
    {.what = "up", .from = {.version = 2},
     .to = {.version = 3, .refcount_bits = 8, .flags = VDISK_AMEND_LAZY_ON, .virtual_size = CHAIN_SIZE}},
    {.what = "down", .from = {.refcount_bits = 32, .flags = VDISK_AMEND_LAZY_ON},
     .to = {.version = 2, .refcount_bits = 16, .flags = VDISK_AMEND_LAZY_OFF, .virtual_size = CHAIN_SIZE}},
};

/* Clusters that amending can be made of: no subclusters. */
static const struct chain_kind kinds[] = {
    {.what = "small clusters", .cluster_size = 512, .version = 3},
    {.what = "clusters of 4 KiB", .cluster_size = 4096, .version = 3, .raw_base = true},
    {.what = "clusters of 64 KiB", .cluster_size = 65536, .version = 3},
};

struct scene {
    struct chain            chain;
    const struct step      *step;
    uint64_t                seed;
};

static const char *top_name(const struct scene *s, char name[CHAIN_NAME])
{
    return chain_name(&s->chain, s->chain.layers - 1, name);
}

static int amend(vdisk *v, const struct vdisk_amend_opts *opts)
{
    struct vdisk_amend_opts o = *opts;
    vdisk_job *j;
    int rc;

    o.size = sizeof o;
    CHECK_OK(vdisk_job_amend(v, &o, &j));
    rc = vdisk_job_run(j);
    CHECK(rc == 0 || vdisk_job_get_error_text(j)[0]);
    CHECK_OK(vdisk_job_free(j));
    return rc;
}

/* Closing may fail, too. */
static int run_amend(const struct scene *s, const struct vdisk_amend_opts *opts)
{
    struct vdisk_open_opts how = {.size = sizeof how, .flags = VDISK_OPEN_RDWR, .format = "qcow2"};
    char name[CHAIN_NAME];
    vdisk *v;
    int rc = vdisk_open(top_name(s, name), &how, &v), closed;

    if (rc < 0)
        return rc;
    rc = amend(v, opts);
    closed = vdisk_close(v);
    return rc < 0 ? rc : closed;
}

/* Clusters that are kept, with what they hold, and read as zeros. */
static int keep_zeros(struct scene *s)
{
    struct vdisk_open_opts how = {.size = sizeof how, .flags = VDISK_OPEN_RDWR, .format = "qcow2"};
    uint64_t at = s->chain.kind->cluster_size, len = at;
    char name[CHAIN_NAME];
    vdisk *v;
    int rc = vdisk_open(top_name(s, name), &how, &v), closed;

    if (rc < 0)
        return rc;
    memset(s->chain.model + at, 9, len);
    rc = vdisk_pwrite(v, s->chain.model + at, len, at, 0);
    memset(s->chain.model + at, 0, len);
    if (rc == 0)
        rc = vdisk_pzero(v, len, at, 0);
    closed = vdisk_close(v);
    return rc < 0 ? rc : closed;
}

/* The first of two layers is longer, so that clusters of zeros hide something. */
static int build(void *arg)
{
    struct scene *s = arg;
    struct rng r;
    int rc = 0;

    rng_init(&r, s->seed);
    memset(&s->chain, 0, sizeof s->chain);
    s->chain.kind = &kinds[s->seed % ARRAY_LEN(kinds)];
    if (s->step->alone && s->chain.kind->raw_base)
        s->chain.kind = &kinds[0];
    s->chain.prefix = "sim:l";
    if (!s->step->alone)
        rc = chain_add(&s->chain, CHAIN_SIZE, &r);
    if (rc == 0)
        rc = chain_add(&s->chain, s->step->to.virtual_size ? 200 << 10 : CHAIN_SIZE, &r);
    if (rc == 0)
        rc = keep_zeros(s);
    if (rc == 0 && (s->step->from.version || s->step->from.refcount_bits || s->step->from.flags))
        rc = run_amend(s, &s->step->from);
    return rc;
}

/* Sound, and reads as it did: of what is new zeros. */
static void look(void *arg)
{
    struct scene *s = arg;
    struct vdisk_image_info info = {.size = sizeof info};
    char name[CHAIN_NAME];
    vdisk_image *image;

    CHECK_OK(vdisk_image_load(top_name(s, name), NULL, &image));
    CHECK_OK(vdisk_image_get_info(image, &info));
    if (info.virtual_size != s->chain.sizes[s->chain.layers - 1]) {
        CHECK_INT(info.virtual_size, s->step->to.virtual_size);
        memset(s->chain.model + (200 << 10), 0, CHAIN_SIZE - (200 << 10));
        s->chain.sizes[s->chain.layers - 1] = CHAIN_SIZE;
    }
    vdisk_image_free(image);
    chain_check(&s->chain);
}

static void expect_done(void *arg)
{
    struct scene *s = arg;
    const struct vdisk_amend_opts *to = &s->step->to;
    struct vdisk_check_opts opts = {.size = sizeof opts, .format = "qcow2"};
    struct vdisk_check_result r = {.size = sizeof r};
    struct vdisk_image_info info = {.size = sizeof info};
    char name[CHAIN_NAME];
    vdisk_image *image;
    vdisk_job *j;

    look(s);
    CHECK_OK(vdisk_image_load(top_name(s, name), NULL, &image));
    CHECK_OK(vdisk_image_get_info(image, &info));
    CHECK(!to->version || info.version == to->version);
    CHECK(!to->refcount_bits || info.refcount_bits == to->refcount_bits);
    CHECK(!to->flags || info.lazy_refcounts == (to->flags == VDISK_AMEND_LAZY_ON));
    CHECK(!to->virtual_size || info.virtual_size == to->virtual_size);
    vdisk_image_free(image);
    CHECK_OK(vdisk_job_check(name, &opts, &j));
    CHECK_OK(vdisk_job_run(j));
    CHECK_OK(vdisk_job_get_check_result(j, &r));
    CHECK(s->step->to.version != 2 || r.leaks == 0);
    CHECK_OK(vdisk_job_free(j));
}

/* ---- what it has to stand ----------------------------------------------------------------------------- */

static int run_watched(void *scene, vdisk_progress_fn *progress, void *progress_arg)
{
    const struct scene *s = scene;
    struct vdisk_amend_opts opts = s->step->to;

    opts.progress = progress;
    opts.progress_arg = progress_arg;
    return run_amend(s, &opts);
}

static struct ordeal ordeal_of(struct scene *s)
{
    return (struct ordeal){.scene_size = sizeof *s, .scene = s, .build = build, .run = run_watched, .look = look,
                           .expect_done = expect_done};
}

static void test_stopped(void)
{
    unsigned stopped = 0, all;

    for (unsigned k = test_share_first(3); k < ARRAY_LEN(steps); k += test_every(3)) {
        struct scene s = {.step = &steps[k], .seed = 2}; /* clusters so large that each is a step */
        struct ordeal o = ordeal_of(&s);

        test_note("%s", steps[k].what);
        stopped += ordeal_stopped(&o, &all);
    }
    CHECK(stopped > 1);
}

static void test_failures(void)
{
    static const uint32_t calls[] = {VDISK_LAB_READS, VDISK_LAB_WRITES, VDISK_LAB_FLUSHES};

    for (unsigned i = test_share_first(4); i < ARRAY_LEN(steps) * ARRAY_LEN(calls); i += test_every(4)) {
        struct scene s = {.step = &steps[i / ARRAY_LEN(calls)], .seed = i};
        struct ordeal o = ordeal_of(&s);

        test_note("%s, calls %u", s.step->what, calls[i % ARRAY_LEN(calls)]);
        ordeal_failures(&o, calls[i % ARRAY_LEN(calls)]);
    }
}

static void test_power(void)
{
    for (unsigned i = test_share_first(4); i < ARRAY_LEN(steps) * ARRAY_LEN(kinds); i += test_every(4)) {
        struct scene s = {.step = &steps[i % ARRAY_LEN(steps)], .seed = i / ARRAY_LEN(steps)};
        struct ordeal o = ordeal_of(&s);

        test_note("%s, kind %u", s.step->what, (unsigned)s.seed);
        CHECK(ordeal_power(&o, IMAGES_PER_PLACE) > 1);
    }
}

/* ---- the rest ----------------------------------------------------------------------------------------- */

/* The handle goes on, by what the image is now; until there is another backing file. */
static void test_used(void)
{
    struct vdisk_open_opts how = {.size = sizeof how, .flags = VDISK_OPEN_RDWR, .format = "qcow2"};
    static const struct vdisk_amend_opts turns[] = {
        {.version = 2}, {.version = 3, .refcount_bits = 1}, {.virtual_size = CHAIN_SIZE, .refcount_bits = 64},
        {.virtual_size = 100 << 10, .flags = VDISK_AMEND_SHRINK}, {.version = 2, .refcount_bits = 16},
        {.backing_file = ""},
    };
    struct scene s = {.step = &steps[0], .seed = 1};
    uint8_t *buf = vdisk_alloc_buffer(CHAIN_SIZE);
    char name[CHAIN_NAME];
    vdisk_lab *lab;
    vdisk *v;

    CHECK_OK(vdisk_lab_create(NULL, &lab));
    CHECK_OK(build(&s));
    CHECK_OK(vdisk_open(top_name(&s, name), &how, &v));
    for (unsigned i = 0; i < ARRAY_LEN(turns); i++) {
        uint64_t size = vdisk_size(v), at = 512 * (uint64_t)i * 7;
        bool last = i + 1 == ARRAY_LEN(turns);

        CHECK_OK(amend(v, &turns[i]));
        size = turns[i].virtual_size && turns[i].virtual_size < size ? turns[i].virtual_size : size;
        memset(buf, (int)(40 + i), 3000);
        CHECK_INT(vdisk_pwrite(v, buf, 3000, at, 0), last ? -EACCES : 0);
        if (!last)
            memcpy(s.chain.model + at, buf, 3000);
        CHECK_INT(vdisk_pzero(v, 9000, at + 20000, VDISK_REQ_UNMAP), last ? -EACCES : 0);
        if (!last)
            memset(s.chain.model + at + 20000, 0, 9000);
        CHECK_OK(vdisk_pread(v, buf, size, 0));
        CHECK(memcmp(buf, s.chain.model, size) == 0);
        if (turns[i].virtual_size && vdisk_size(v) > size)
            memset(s.chain.model + size, 0, vdisk_size(v) - size);
    }
    CHECK_INT(amend(v, &turns[1]), -EACCES);
    CHECK_OK(vdisk_close(v));
    chain_sound(name);
    free(buf);
    vdisk_lab_destroy(lab);
}

static void refuse(vdisk *v, struct vdisk_amend_opts opts, int err, const char *text)
{
    vdisk_job *j = NULL;
    int rc;

    opts.size = sizeof opts;
    rc = vdisk_job_amend(v, &opts, &j);
    if (rc == 0)
        rc = vdisk_job_run(j);
    CHECK_INT(rc, -err);
    CHECK_MSG(strstr(vdisk_error_text(), text), "'%s' does not say '%s'", vdisk_error_text(), text);
    CHECK_OK(vdisk_job_free(j));
}

static void test_refused(void)
{
    struct vdisk_open_opts how = {.size = sizeof how, .flags = VDISK_OPEN_RDWR, .format = "qcow2"};
    struct vdisk_amend_opts opts = {.size = 3};
    struct scene s = {.step = &steps[3]};
    char name[CHAIN_NAME];
    vdisk_lab *lab;
    vdisk_job *j;
    vdisk *v;

    CHECK_OK(vdisk_lab_create(NULL, &lab));
    CHECK_OK(build(&s));
    CHECK_OK(vdisk_open(top_name(&s, name), &how, &v));
    CHECK_INT(vdisk_job_amend(NULL, &opts, &j), -EINVAL);
    CHECK_INT(vdisk_job_amend(v, &opts, &j), -EINVAL);
    CHECK_INT(vdisk_job_amend(v, NULL, &j), -EINVAL);
    refuse(v, (struct vdisk_amend_opts){.flags = 1u << 30}, EINVAL, "flags");
    refuse(v, (struct vdisk_amend_opts){.flags = VDISK_AMEND_LAZY_ON | VDISK_AMEND_LAZY_OFF}, EINVAL, "flags");
    refuse(v, (struct vdisk_amend_opts){.version = 4}, EINVAL, "compatibility level 4");
    refuse(v, (struct vdisk_amend_opts){.refcount_bits = 3}, EINVAL, "power of two");
    refuse(v, (struct vdisk_amend_opts){.refcount_bits = 128}, EINVAL, "power of two");
    refuse(v, (struct vdisk_amend_opts){.virtual_size = 1000}, EINVAL, "multiple of 512");
    refuse(v, (struct vdisk_amend_opts){.virtual_size = 512}, EINVAL, "less than the present size");
    refuse(v, (struct vdisk_amend_opts){.virtual_size = 1ull << 60}, EFBIG, "at most");
    refuse(v, (struct vdisk_amend_opts){.version = 2, .refcount_bits = 8}, EINVAL, "Refcount widths");
    refuse(v, (struct vdisk_amend_opts){.version = 2, .flags = VDISK_AMEND_LAZY_ON}, EINVAL, "Lazy refcounts");
    refuse(v, (struct vdisk_amend_opts){.backing_fmt = "foo"}, EINVAL, "foo");
    refuse(v, (struct vdisk_amend_opts){.backing_file = "", .backing_fmt = "raw"}, EINVAL, "without");
    CHECK_OK(vdisk_close(v));
    expect_done(&(struct scene){.chain = s.chain, .step = &(const struct step){.to = {.version = 3}}});
    how.flags = 0;
    CHECK_OK(vdisk_open(name, &how, &v));
    refuse(v, (struct vdisk_amend_opts){.version = 2}, EACCES, "read-only");
    CHECK_OK(vdisk_close(v));
    how.flags = VDISK_OPEN_RDWR;
    how.layers = 1;
    CHECK_OK(vdisk_open(name, &how, &v));
    refuse(v, (struct vdisk_amend_opts){.virtual_size = 1 << 20}, EACCES, "without what lies below");
    CHECK_OK(amend(v, &(struct vdisk_amend_opts){.version = 2}));
    CHECK_OK(vdisk_close(v));
    how = (struct vdisk_open_opts){.size = sizeof how, .flags = VDISK_OPEN_RDWR, .format = "raw"};
    CHECK_OK(vdisk_open(name, &how, &v));
    refuse(v, (struct vdisk_amend_opts){.version = 2}, ENOTSUP, "'raw' does not support option amendment");
    CHECK_OK(vdisk_close(v));
    vdisk_lab_destroy(lab);
}

int main(int argc, char **argv)
{
    static const struct test_case cases[] = {
        {.name = "stopped", .run = test_stopped}, {.name = "failures", .run = test_failures},
        {.name = "power", .run = test_power},     {.name = "used", .run = test_used},
        {.name = "refused", .run = test_refused},
    };

    return test_main(argc, argv, cases, ARRAY_LEN(cases));
}
