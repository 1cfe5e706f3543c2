/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tests/lib/image.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/backend.h"
#include "engine/base/bits.h"
#include "engine/create.h"
#include "engine/format.h"
#include "tests/lib/run.h"
#include "tests/lib/test.h"

static const char *const prealloc_names[] = {"off", "metadata", "falloc", "full"};

/* ---- options ---------------------------------------------------------------------------------------- */

static void random_v3(struct rng *r, struct image_spec *spec, unsigned limits)
{
    spec->refcount_bits = rng_chance(r, 50) ? 16 : 1u << rng_below(r, 7);
    spec->lazy_refcounts = rng_chance(r, 20);
    spec->zstd = rng_chance(r, 30);
    if (rng_chance(r, 25)) {
        spec->extended_l2 = true;
        spec->cluster_size = (uint32_t)16384 << rng_below(r, 4);
    }
    if (!(limits & IMAGE_NO_DATA_FILE) && rng_chance(r, 20)) {
        spec->data_file = true;
        /* All of such an image is mapped, and QEMU compares all that is. */
        spec->data_file_raw = !(limits & IMAGE_BACKED) && spec->size <= 1u << 30 && rng_chance(r, 40);
    }
}

void image_random(struct rng *r, struct image_spec *spec, unsigned limits)
{
    static const uint32_t sizes[] = {512,   1024,  2048,  4096,   4096,   8192,   16384,   32768,
                                     65536, 65536, 65536, 131072, 262144, 524288, 1048576, 2097152};

    spec->qcow2 = (limits & IMAGE_NO_RAW) || !rng_chance(r, 15);
    spec->cluster_size = sizes[rng_below(r, ARRAY_LEN(sizes))];
    spec->version = rng_chance(r, 15) ? 2 : 3;
    spec->refcount_bits = 16;
    spec->lazy_refcounts = spec->extended_l2 = spec->data_file = spec->data_file_raw = spec->zstd = false;
    spec->preallocation = VDISK_PREALLOC_OFF;
    if (!spec->qcow2)
        return;
    if (spec->version == 3)
        random_v3(r, spec, limits);
    /* Refused together with a backing file, except where subclusters can tell. Full only where it is cheap. */
    if (!(limits & (IMAGE_NO_PREALLOC | IMAGE_BACKED)) && spec->size <= 64u << 20 && rng_chance(r, 20))
        spec->preallocation = (enum vdisk_prealloc)rng_between(r, VDISK_PREALLOC_METADATA, VDISK_PREALLOC_FULL);
    /* Keep L1 tables small: QEMU refuses them past 32 MiB, and long before they are slow to make. */
    if (spec->size / spec->cluster_size / (spec->cluster_size / 16) > (1u << 16))
        spec->cluster_size = 65536;
}

void image_default(struct image_spec *spec, const char *name, uint64_t size)
{
    memset(spec, 0, sizeof *spec);
    spec->qcow2 = true;
    spec->size = size;
    spec->cluster_size = 65536;
    spec->version = 3;
    spec->refcount_bits = 16;
    snprintf(spec->path, sizeof spec->path, "%s", test_path("%s", name));
}

const char *image_describe(const struct image_spec *s)
{
    static _Thread_local char text[PATH_MAX + 512];
    const char *slash = strrchr(s->backing, '/');

    if (!s->qcow2) {
        snprintf(text, sizeof text, "raw size=%" PRIu64 "%s", s->size, s->by_qemu ? " by qemu" : "");
        return text;
    }
    snprintf(text, sizeof text,
             "qcow2 v%u size=%" PRIu64 " cluster=%u refcount_bits=%u%s%s%s%s%s%s%s%s prealloc=%s", s->version,
             s->size, s->cluster_size, s->refcount_bits, s->lazy_refcounts ? " lazy" : "",
             s->extended_l2 ? " extended_l2" : "", s->data_file ? " data_file" : "",
             s->data_file_raw ? "_raw" : "", s->zstd ? " zstd" : "", s->backing[0] ? " backing=" : "",
             slash ? slash + 1 : s->backing, s->by_qemu ? " by qemu" : "",
             prealloc_names[s->preallocation]);
    return text;
}

/* ---- making ----------------------------------------------------------------------------------------- */

void image_create_opts(const struct image_spec *s, struct vdisk_create_opts *opts)
{
    static _Thread_local char data_file[PATH_MAX + 8];

    memset(opts, 0, sizeof *opts);
    opts->size = sizeof *opts;
    opts->format = s->qcow2 ? "qcow2" : "raw";
    opts->virtual_size = s->size;
    opts->preallocation = s->preallocation;
    if (!s->qcow2)
        return;
    opts->cluster_size = s->cluster_size;
    opts->version = s->version;
    opts->refcount_bits = s->refcount_bits;
    opts->lazy_refcounts = s->lazy_refcounts;
    opts->extended_l2 = s->extended_l2;
    opts->data_file_raw = s->data_file_raw;
    opts->compression_type = s->zstd ? "zstd" : NULL;
    if (s->backing[0]) {
        opts->backing_file = s->backing;
        opts->backing_fmt = s->backing_format;
    }
    if (s->data_file) {
        snprintf(data_file, sizeof data_file, "%s.data", s->path);
        opts->data_file = data_file;
    }
}

static void create_by_qemu(const struct image_spec *s)
{
    char backing[PATH_MAX + 64] = "", data[PATH_MAX + 64] = "";

    if (!s->qcow2) {
        run_ok("qemu-img create -q -f raw %s %" PRIu64, s->path, s->size);
        return;
    }
    if (s->backing[0])
        snprintf(backing, sizeof backing, "-b %s -F %s", s->backing, s->backing_format);
    if (s->data_file)
        snprintf(data, sizeof data, ",data_file=%s.data,data_file_raw=%s", s->path,
                 s->data_file_raw ? "on" : "off");
    run_ok("qemu-img create -q -f qcow2 -o compat=%s,cluster_size=%u,refcount_bits=%u,lazy_refcounts=%s,"
           "extended_l2=%s,preallocation=%s%s%s %s %s %" PRIu64,
           s->version == 2 ? "0.10" : "1.1", s->cluster_size, s->refcount_bits, s->lazy_refcounts ? "on" : "off",
           s->extended_l2 ? "on" : "off", prealloc_names[s->preallocation],
           s->version == 2 ? ""
           : s->zstd       ? ",compression_type=zstd"
                           : ",compression_type=zlib",
           data, backing, s->path, s->size);
}

void image_create(const struct image_spec *s)
{
    struct vdisk_create_opts opts;

    if (s->by_qemu) {
        create_by_qemu(s);
        return;
    }
    image_create_opts(s, &opts);
    CHECK_OK(vdisk_create(s->path, &opts));
}

int image_create_on(const struct image_spec *s, struct backend *b)
{
    struct vdisk_create_opts opts;
    vdisk_queue *q;
    int rc;

    image_create_opts(s, &opts);
    for (const struct format_driver *const *f = format_drivers; *f; f++) {
        if (strcmp((*f)->name, opts.format) != 0)
            continue;
        rc = vdisk_queue_create(NULL, &q);
        if (rc < 0)
            return rc;
        rc = create_on(*f, b, &opts, q);
        vdisk_queue_destroy(q);
        return rc;
    }
    FAIL("no format is called %s", opts.format);
}

/* ---- judging ---------------------------------------------------------------------------------------- */

void image_check(const char *path, bool leaks_allowed)
{
    struct run_result r;

    run_shell(&r, "qemu-img check -q -U -f qcow2 %s", path);
    if (r.status == 3 && leaks_allowed)
        return;
    CHECK_MSG(r.status == 0, "qemu-img check of %s exits with %d: %.4000s", path, r.status, r.out);
}

void image_compare(const char *path, const char *format, uint64_t size, const struct model *models,
                   unsigned nmodels)
{
    char raw[PATH_MAX];
    int fd;

    snprintf(raw, sizeof raw, "%s", test_path("oracle.raw"));
    fd = open(raw, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    CHECK(fd >= 0 && ftruncate(fd, (off_t)size) == 0);
    for (unsigned i = 0; i < nmodels; i++)
        model_dump(&models[i], fd);
    close(fd);
    run_ok("qemu-img compare -U -f raw -F %s %s %s", format, raw, path);
    unlink(raw);
}

/* ---- content ---------------------------------------------------------------------------------------- */

enum { PATTERN_MAX = 1021 };

/* Odd lengths, so that every sector of a patch differs from its neighbours. */
static uint64_t pattern_len(unsigned id)
{
    static const uint64_t lens[] = {251, 509, 701, PATTERN_MAX};

    return lens[id % ARRAY_LEN(lens)];
}

void image_pattern_bytes(unsigned id, void *buf, uint64_t len)
{
    uint8_t pattern[PATTERN_MAX], *p = buf;
    uint64_t period = pattern_len(id);
    struct rng r;

    rng_init(&r, id + 1);
    rng_fill(&r, pattern, period);
    for (uint64_t i = 0; i < len; i += period)
        memcpy(p + i, pattern, min_u64(period, len - i));
}

const char *image_pattern_file(unsigned id)
{
    const char *path = test_path("pattern-%u", id);
    uint8_t pattern[PATTERN_MAX];
    int fd;

    if (access(path, R_OK) == 0)
        return path;
    image_pattern_bytes(id, pattern, pattern_len(id));
    fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    CHECK(fd >= 0 && write(fd, pattern, pattern_len(id)) == (ssize_t)pattern_len(id));
    close(fd);
    return path;
}

/* A range in the window, within the layer, of whole `unit`s; false if there is no room for one. */
static bool random_range(struct rng *r, const struct model *m, uint64_t layer_end, uint64_t unit,
                         uint64_t *ret_offset, uint64_t *ret_len)
{
    enum { PATCH_MAX = 256u << 10 };
    uint64_t start = align_up(m->base, unit), end = align_down(min_u64(m->base + m->size, layer_end), unit);

    if (end <= start)
        return false;
    uint64_t units = (end - start) / unit, first = rng_below(r, units);
    *ret_offset = start + first * unit;
    *ret_len = unit * rng_between(r, 1, min_u64(units - first, max_u64(1, PATCH_MAX / unit)));
    return true;
}

/* One random patch of a layer, by qemu-io: zeros where `zero`, else pattern `id`. */
struct patch {
    bool compressed, zero;
    unsigned id;
    uint64_t offset, len;
    struct model *model;
};

static bool make_patch(struct rng *r, const struct image_spec *s, bool compressed, struct patch *p)
{
    uint64_t unit = compressed || rng_chance(r, 50) ? s->cluster_size : 512;

    p->compressed = compressed;
    p->id = (unsigned)rng_below(r, 4);
    if (!random_range(r, p->model, s->size, unit, &p->offset, &p->len))
        return false;
    p->zero = !compressed && rng_chance(r, 15);
    if (compressed)
        p->len = unit;
    return true;
}

static size_t patch_command(struct rng *r, const struct patch *p, char *cmd, size_t space)
{
    const char *file = image_pattern_file(p->id);

    if (p->zero)
        return (size_t)snprintf(cmd, space, " -c 'write -z %s %" PRIu64 " %" PRIu64 "'",
                                rng_chance(r, 50) ? "-u" : "", p->offset, p->len);
    return (size_t)snprintf(cmd, space, " -c 'write %s -s %s %" PRIu64 " %" PRIu64 "'", p->compressed ? "-c" : "",
                            file, p->offset, p->len);
}

static void patch_model(const struct patch *p)
{
    uint8_t *bytes;

    if (p->zero) {
        model_zero(p->model, p->offset, p->len);
        return;
    }
    bytes = test_alloc(p->len);
    image_pattern_bytes(p->id, bytes, p->len);
    model_write(p->model, p->offset, bytes, p->len);
    free(bytes);
}

/*
 * QEMU refuses to compress over what is there, and where the refcounts are too narrow for two in a cluster: the
 * models follow what it says of each, one "wrote" or "write failed" a command.
 */
static void follow_output(const struct image_spec *s, const struct patch *patches, unsigned n, const char *out)
{
    for (unsigned i = 0; i < n; i++) {
        const char *wrote = strstr(out, "wrote "), *failed = strstr(out, "write failed");

        CHECK_MSG(wrote || failed, "qemu-io on %s says too little: %s", image_describe(s), out);
        if (failed && (!wrote || failed < wrote)) {
            CHECK_MSG(patches[i].compressed, "qemu-io on %s: %s", image_describe(s), out);
            out = failed + 1;
        } else {
            patch_model(&patches[i]);
            out = wrote + 1;
        }
    }
}

void image_add_content(struct rng *r, const struct image_spec *s, struct model *models, unsigned nmodels)
{
    enum { SPACE = 32768, LINE = 512, PATCHES = 24 };
    char *cmd = test_alloc(SPACE);
    struct patch patches[PATCHES];
    size_t used = 0;
    bool may_compress = s->qcow2 && !s->data_file && s->preallocation == VDISK_PREALLOC_OFF;
    unsigned n = 0, wanted = (unsigned)rng_between(r, 2, PATCHES);
    unsigned compressed = may_compress ? (unsigned)rng_below(r, wanted) : 0;

    for (unsigned i = 0; i < wanted && used + LINE < SPACE; i++) {
        patches[n].model = &models[rng_below(r, nmodels)];
        if (make_patch(r, s, i < compressed, &patches[n]))
            used += patch_command(r, &patches[n++], cmd + used, SPACE - used);
    }
    if (n > 0) {
        struct run_result *out = test_alloc(sizeof *out);

        run_shell(out, "qemu-io -f %s%s %s", s->qcow2 ? "qcow2" : "raw", cmd, s->path);
        follow_output(s, patches, n, out->out);
        free(out);
    }
    free(cmd);
}

static uint64_t layer_size(struct rng *r, uint64_t top)
{
    switch (rng_below(r, 3)) {
    case 0:
        return top;
    case 1:
        return align_up(rng_between(r, 512, top), 512);
    default:
        return align_up(top + rng_below(r, 4u << 20), 512);
    }
}

void image_chain(struct rng *r, struct image_spec *spec, unsigned n, struct model *models, unsigned nmodels,
                 bool top_on_memory)
{
    for (unsigned i = n; i-- > 0;) {
        struct image_spec *s = &spec[i];
        bool base = i == n - 1;
        if (i > 0) {
            s->size = layer_size(r, spec[0].size);
            s->by_qemu = rng_chance(r, 50);
            image_random(r, s, (base ? 0 : IMAGE_NO_RAW | IMAGE_BACKED) | IMAGE_NO_PREALLOC);
            snprintf(s->path, sizeof s->path, "%s", test_path("layer-%u", i));
        }
        if (!base) {
            snprintf(s->backing, sizeof s->backing, "%s", spec[i + 1].path);
            s->backing_format = spec[i + 1].qcow2 ? "qcow2" : "raw";
        }
        for (unsigned k = 0; k < nmodels; k++)
            model_cut(&models[k], s->size);
        if (i == 0 && top_on_memory)
            break;
        image_create(s);
        if (i > 0 || rng_chance(r, 50))
            image_add_content(r, s, models, nmodels);
    }
}
