/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Rebase: what stops it at any step, or lets any I/O fail, or cuts the power anywhere, leaves an image that is
 * sound and reads what it did, by its old backing file or the new one; made again it is done. Zeros are its own,
 * whatever lay below. (That the outcome is QEMU's: tests/tool/test_rebase.py.)
 */
#include "tests/jobs/ordeal.h"

enum { IMAGES_PER_PLACE = 3 };

/* What it is rebased on. */
enum onto { ONTO_OTHER, ONTO_LOWEST, ONTO_NOTHING, ONTO_KINDS };

struct scene {
    struct chain             chain, other;
    struct vdisk_rebase_opts opts;
    enum onto                onto;
    const struct chain_kind *kind;
    uint64_t                 seed;
};

static int run_rebase(const struct scene *s, struct vdisk_rebase_result *ret)
{
    struct vdisk_rebase_opts opts = s->opts;
    char name[CHAIN_NAME], base[CHAIN_NAME];
    vdisk_job *j;
    int rc;

    opts.size = sizeof opts;
    opts.format = "qcow2";
    if (s->onto != ONTO_NOTHING) {
        const struct chain *c = s->onto == ONTO_OTHER ? &s->other : &s->chain;
        unsigned layer = s->onto == ONTO_OTHER ? c->layers - 1 : 0;
        opts.backing_file = chain_name(c, layer, base);
        opts.backing_fmt = chain_format(c, layer);
    }
    CHECK_OK(vdisk_job_rebase(chain_name(&s->chain, s->chain.layers - 1, name), &opts, &j));
    rc = vdisk_job_run(j);
    if (rc < 0)
        CHECK(vdisk_job_get_error_text(j)[0] != '\0');
    if (rc == 0 && ret) {
        *ret = (struct vdisk_rebase_result){.size = sizeof *ret};
        CHECK_OK(vdisk_job_get_rebase_result(j, ret));
    }
    CHECK_OK(vdisk_job_free(j));
    return rc;
}

/* Three layers of three sizes, and another that is longer or shorter. Each run has the same. */
static int build(void *arg)
{
    struct scene *s = arg;
    static const uint64_t sizes[] = {CHAIN_SIZE, 200 << 10, CHAIN_SIZE - 1024};
    struct rng r;
    int rc = 0;

    rng_init(&r, s->seed);
    memset(&s->chain, 0, sizeof s->chain);
    memset(&s->other, 0, sizeof s->other);
    s->chain.kind = s->other.kind = s->kind;
    s->chain.prefix = "sim:l";
    s->other.prefix = "sim:other";
    for (unsigned i = 0; i < 3 && rc == 0; i++)
        rc = chain_add(&s->chain, sizes[i], &r);
    if (rc == 0 && s->onto == ONTO_OTHER)
        rc = chain_add(&s->other, s->seed % 2 ? CHAIN_SIZE : 150 << 10, &r);
    return rc;
}

static void expect_done(void *arg)
{
    const struct scene *s = arg;
    struct vdisk_image_info info = {.size = sizeof info};
    char name[CHAIN_NAME], base[CHAIN_NAME];
    vdisk_image *image;

    chain_check(&s->chain);
    CHECK_OK(vdisk_image_load(chain_name(&s->chain, s->chain.layers - 1, name), NULL, &image));
    CHECK_OK(vdisk_image_get_info(image, &info));
    if (s->onto == ONTO_NOTHING)
        CHECK(info.backing_file == NULL && info.backing_fmt == NULL);
    else if (s->onto == ONTO_OTHER)
        CHECK(strcmp(info.backing_file, chain_name(&s->other, s->other.layers - 1, base)) == 0);
    else
        CHECK(strcmp(info.backing_file, chain_name(&s->chain, 0, base)) == 0 &&
              strcmp(info.backing_fmt, chain_format(&s->chain, 0)) == 0);
    vdisk_image_free(image);
}

/* ---- what it has to stand ----------------------------------------------------------------------------- */

static int run_watched(void *scene, vdisk_progress_fn *progress, void *progress_arg)
{
    struct scene *s = scene;

    s->opts.progress = progress;
    s->opts.progress_arg = progress_arg;
    s->opts.depth = progress ? 1 : 0; /* each piece is a step */
    return run_rebase(s, NULL);
}

static int run_from(void *scene, uint64_t start, struct going *going)
{
    struct scene *s = scene;

    s->opts = (struct vdisk_rebase_opts){.size = 0};
    if (going)
        s->opts = (struct vdisk_rebase_opts){.depth = 2, GOING_OPTS(going)};
    s->opts.going_on.start = start;
    return run_rebase(s, NULL);
}

static void look(void *scene)
{
    chain_check(&((const struct scene *)scene)->chain);
}

static struct ordeal ordeal_of(struct scene *s)
{
    return (struct ordeal){.scene_size = sizeof *s, .scene = s, .build = build, .run = run_watched,
                           .run_from = run_from, .look = look, .expect_done = expect_done};
}

static void test_stopped(void)
{
    struct scene s = {.kind = &chain_kinds[1], .seed = 3};
    struct ordeal o = ordeal_of(&s);
    unsigned steps, stopped = ordeal_stopped(&o, &steps);

    CHECK(stopped > 1 && stopped == steps);
}

static void test_failures(void)
{
    static const uint32_t calls[] = {VDISK_LAB_READS, VDISK_LAB_WRITES, VDISK_LAB_FLUSHES};

    for (unsigned i = 0; i < 2 * ARRAY_LEN(calls); i++) {
        struct scene s = {.kind = &chain_kinds[i / 2], .onto = (enum onto)(i / 2), .seed = 5,
                          .opts.flags = i % 2 ? VDISK_REBASE_COMPRESS : 0};
        struct ordeal o = ordeal_of(&s);

        ordeal_failures(&o, calls[i / 2]);
    }
}

static void test_power(void)
{
    for (unsigned i = test_share_first(5); i < 2 * ONTO_KINDS * ARRAY_LEN(chain_kinds); i += test_every(5)) {
        struct scene s = {.onto = (enum onto)(i / ARRAY_LEN(chain_kinds) % ONTO_KINDS), .seed = i,
                          .kind = &chain_kinds[i % ARRAY_LEN(chain_kinds)],
                          .opts.flags = i / ARRAY_LEN(chain_kinds) < ONTO_KINDS ? 0 : VDISK_REBASE_COMPRESS};
        struct ordeal o = ordeal_of(&s);

        test_note("%s, onto %u, flags %u", s.kind->what, s.onto, s.opts.flags);
        CHECK(ordeal_power(&o, IMAGES_PER_PLACE) > 1);
    }
}

/* After a power cut at any moment, and any failure. */
static void test_goes_on(void)
{
    for (unsigned i = test_share_first(3); i < ONTO_KINDS * ARRAY_LEN(chain_kinds); i += test_every(3)) {
        struct scene s = {.kind = &chain_kinds[i % ARRAY_LEN(chain_kinds)], .seed = i,
                          .onto = (enum onto)(i / ARRAY_LEN(chain_kinds))};
        struct ordeal o = ordeal_of(&s);

        test_note("%s", s.kind->what);
        ordeal_power_on(&o, CHAIN_SIZE - 1024, IMAGES_PER_PLACE);
    }
    for (unsigned i = test_share_first(3); i < 3; i += test_every(3)) {
        struct scene s = {.kind = &chain_kinds[i], .seed = 5, .onto = (enum onto)i};
        struct ordeal o = ordeal_of(&s);

        ordeal_failures_on(&o);
    }
}

/* ---- the header alone --------------------------------------------------------------------------------- */

struct header_scene {
    const char *names[2]; /* before and after */
};

static int judge_header(void *arg, uint64_t mark)
{
    const struct header_scene *s = arg;
    struct vdisk_image_info info = {.size = sizeof info};
    vdisk_image *image;

    CHECK_OK(vdisk_image_load("sim:l0", NULL, &image));
    CHECK_OK(vdisk_image_get_info(image, &info));
    CHECK(strcmp(info.backing_file ? info.backing_file : "", s->names[1]) == 0 ||
          (mark == 0 && strcmp(info.backing_file ? info.backing_file : "", s->names[0]) == 0));
    CHECK((info.backing_fmt == NULL) == (info.backing_file == NULL));
    CHECK_INT(info.virtual_size, 1 << 20);
    vdisk_image_free(image);
    chain_sound("sim:l0");
    return 0;
}

/*
 * As another program writes it: an extension of no bytes that nobody knows, and no names of features. With those,
 * and without a backing file, the extensions end with the first sector, and what ends them, nothing but zeros, is
 * in the second, where the backing file's name was.
 */
static void add_extension(unsigned name_len)
{
    enum { HEADER = 112, EXTENSIONS = 8 + 16 + 8, LEN = 4096 };
    struct vdisk_open_opts how = {.size = sizeof how, .flags = VDISK_OPEN_RDWR, .format = "raw"};
    uint8_t *buf = vdisk_alloc_buffer(LEN);
    vdisk *v;

    CHECK_OK(vdisk_open("sim:l0", &how, &v));
    CHECK_OK(vdisk_pread(v, buf, LEN, 0));
    memset(buf + HEADER, 0, LEN - HEADER);
    memcpy(buf + HEADER, "\x12\x34\x56\x78", 4);
    if (name_len > 0) {
        memcpy(buf + HEADER + 8, "\xe2\x79\x2a\xca\0\0\0\3raw", 11);
        memset(buf + HEADER + EXTENSIONS, 'a', name_len);
        put_be64(buf + 8, HEADER + EXTENSIONS);
    }
    CHECK_OK(vdisk_pwrite(v, buf, LEN, 0, 0));
    CHECK_OK(vdisk_close(v));
    free(buf);
}

/* Names of all lengths, from one to another: the power is cut in each sector of it. */
static void test_header(void)
{
    static const unsigned lengths[] = {0, 3, 60, 300, 450, 1023};
    static const uint32_t sizes[] = {65536, 4096, 512};
    char names[2][1024];
    struct header_scene s = {{names[0], names[1]}};

    for (unsigned i = test_share_first(5); i < ARRAY_LEN(lengths) * ARRAY_LEN(lengths) * ARRAY_LEN(sizes) * 3;
         i += test_every(5)) {
        struct vdisk_create_opts opts = {.size = sizeof opts, .format = "qcow2", .virtual_size = 1 << 20,
                                         .backing_unchecked = true, .version = i % 3 == 0 ? 2 : 3};
        struct vdisk_open_opts how = {.size = sizeof how, .flags = VDISK_OPEN_RDWR, .layers = 1};
        unsigned from = lengths[i / 3 % ARRAY_LEN(lengths)], to = lengths[i / 18 % ARRAY_LEN(lengths)];
        bool extended = i % 3 == 2;
        vdisk_lab *lab;
        vdisk *v;

        memset(names, 0, sizeof names);
        memset(names[0], 'a', from);
        memset(names[1], 'b', to);
        opts.cluster_size = sizes[i / 108];
        opts.backing_file = from ? names[0] : NULL;
        opts.backing_fmt = from ? "raw" : NULL;
        if (from + 200 > opts.cluster_size || to + 200 > opts.cluster_size || (extended && i / 108 == 2))
            continue;
        test_note("version %u, clusters of %u, %u to %u%s", opts.version, opts.cluster_size, from, to,
                  extended ? ", extended" : "");
        CHECK_OK(vdisk_lab_create(NULL, &lab));
        CHECK_OK(vdisk_create("sim:l0", &opts));
        if (extended)
            add_extension(from);
        CHECK_OK(vdisk_lab_arm(lab));
        CHECK_OK(vdisk_open("sim:l0", &how, &v));
        CHECK_OK(vdisk_check_backing(v, names[1], to ? "qcow2" : NULL));
        CHECK_OK(vdisk_set_backing(v, names[1], to ? "qcow2" : NULL));
        CHECK_INT(vdisk_pwrite(v, names, 512, 0, 0), -EACCES);
        CHECK_OK(vdisk_lab_mark(lab, 1));
        CHECK_OK(vdisk_close(v));
        CHECK_OK(vdisk_lab_cut_power(lab, 20, judge_header, &s, NULL));
        vdisk_lab_destroy(lab);
    }
}

struct failing_header {
    const char *from, *to; /* "": none */
    uint32_t    cluster_size, version;
    unsigned    right;
};

/* A call fails: either the image has its old backing file, or the handle takes no more writes. */
static int failing_header(void *arg, vdisk_lab *lab)
{
    struct failing_header *s = arg;
    struct vdisk_create_opts base = {.size = sizeof base, .format = "raw", .virtual_size = 1 << 20};
    struct vdisk_create_opts opts = {.size = sizeof opts, .format = "qcow2", .virtual_size = 1 << 20,
                                     .cluster_size = s->cluster_size, .version = s->version,
                                     .backing_file = s->from[0] ? s->from : NULL,
                                     .backing_fmt = s->from[0] ? "raw" : NULL};
    struct vdisk_open_opts how = {.size = sizeof how, .flags = VDISK_OPEN_RDWR, .format = "qcow2"};
    struct vdisk_image_info info = {.size = sizeof info};
    uint8_t *data = vdisk_alloc_buffer(4096);
    vdisk_image *image;
    vdisk *v = NULL;
    int rc = s->from[0] ? vdisk_create(s->from, &base) : 0, wrote;

    if (rc == 0)
        rc = vdisk_create("sim:l0", &opts);
    if (rc == 0)
        rc = vdisk_open("sim:l0", &how, &v);
    if (rc < 0) {
        free(data);
        return rc;
    }
    rc = vdisk_set_backing(v, s->to, s->to[0] ? "qcow2" : NULL);
    CHECK(rc == 0 || vdisk_error_text()[0]);
    memset(data, 7, 4096);
    wrote = vdisk_pwrite(v, data, 4096, 0, 0);
    if (wrote == 0)
        wrote = vdisk_sync(v);
    free(data);
    vdisk_close(v);
    CHECK_OK(vdisk_lab_fail(lab, NULL));
    how.flags = VDISK_OPEN_NO_BACKING;
    CHECK_OK(vdisk_image_load("sim:l0", &how, &image));
    CHECK_OK(vdisk_image_get_info(image, &info));
    if (rc == 0)
        CHECK_INT(wrote, -EACCES);
    if (rc == 0 || wrote == 0)
        CHECK_MSG(strcmp(info.backing_file ? info.backing_file : "", rc == 0 ? s->to : s->from) == 0,
                  "it has the wrong one, and %s", rc == 0 ? "that went well" : "takes writes");
    vdisk_image_free(image);
    s->right += rc == 0;
    return rc;
}

static void test_header_failures(void)
{
    static const uint32_t sizes[] = {65536, 4096, 512};
    static const unsigned lengths[] = {0, 60, 300, 1023};
    char to[1024];

    for (unsigned i = test_share_first(5); i < ARRAY_LEN(lengths) * ARRAY_LEN(sizes) * 4; i += test_every(5)) {
        struct failing_header s = {.from = i % 2 ? "sim:base" : "", .version = 2 + i / 2 % 2,
                                   .cluster_size = sizes[i / 4 % ARRAY_LEN(sizes)], .to = to};
        unsigned len = lengths[i / 12];

        if (len + 200 > s.cluster_size)
            continue;
        memset(to, 0, sizeof to);
        memset(to, 'b', len);
        test_note("version %u, clusters of %u, '%s' to %u", s.version, s.cluster_size, s.from, len);
        for (uint32_t calls = VDISK_LAB_READS; calls <= VDISK_LAB_FLUSHES; calls <<= 1) {
            struct vdisk_lab_fault fault = {.size = sizeof fault, .calls = calls};
            CHECK_OK(vdisk_lab_each_failure(NULL, &fault, failing_header, &s, NULL));
        }
        CHECK(s.right >= 3);
    }
}

/* ---- the rest ----------------------------------------------------------------------------------------- */

/* What a layer that both have gives is not read, nor what both know to be zeros; zeros are the image's own. */
static void test_result(void)
{
    struct scene s = {.onto = ONTO_LOWEST, .kind = &chain_kinds[1], .seed = 1};
    struct vdisk_rebase_result r;
    vdisk_lab *lab;

    CHECK_OK(vdisk_lab_create(NULL, &lab));
    CHECK_OK(build(&s));
    CHECK_OK(run_rebase(&s, &r));
    CHECK(r.bytes_read > 0 && r.bytes_read < 2 * CHAIN_SIZE && r.bytes_zeroed > 0);
    CHECK_OK(run_rebase(&s, &r));
    CHECK(r.bytes_read == 0 && r.bytes_written == 0 && r.bytes_zeroed == 0);
    expect_done(&s);
    vdisk_lab_destroy(lab);
}

static void test_refused(void)
{
    struct vdisk_rebase_opts opts = {.size = sizeof opts, .flags = 1u << 31};
    struct vdisk_rebase_result r = {.size = sizeof r};
    vdisk_job *j;

    CHECK_INT(vdisk_job_rebase(NULL, &opts, &j), -EINVAL);
    CHECK_INT(vdisk_job_rebase("", &opts, &j), -ENOENT);
    CHECK_INT(vdisk_job_rebase("x", NULL, &j), -EINVAL);
    CHECK_INT(vdisk_job_rebase("x", &opts, &j), -EINVAL);
    opts.flags = 0;
    opts.open_flags = VDISK_OPEN_FORCE_SHARE;
    CHECK_INT(vdisk_job_rebase("x", &opts, &j), -EINVAL);
    opts.open_flags = 0;
    CHECK_OK(vdisk_job_rebase(test_path("missing"), &opts, &j));
    CHECK_INT(vdisk_job_run(j), -ENOENT);
    CHECK_INT(vdisk_job_get_rebase_result(j, &r), -ENOENT);
    CHECK_OK(vdisk_job_free(j));
}

int main(int argc, char **argv)
{
    static const struct test_case cases[] = {
        {.name = "stopped", .run = test_stopped}, {.name = "failures", .run = test_failures},
        {.name = "power", .run = test_power},     {.name = "header", .run = test_header},
        {.name = "goes_on", .run = test_goes_on},
        {.name = "header-failures", .run = test_header_failures},
        {.name = "result", .run = test_result},   {.name = "refused", .run = test_refused},
    };

    return test_main(argc, argv, cases, ARRAY_LEN(cases));
}
