/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Extents against `qemu-img map --output json`, on random chains: where we say zero QEMU says so, where we name a
 * host offset it is QEMU's, and the bytes at that offset are the guest's.
 */
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/base/bits.h"
#include "tests/interop/interop_lib.h"
#include "tests/lib/run.h"
#include "tests/lib/test.h"
#include "tests/lib/workload.h"

enum { MAX_EXTENTS = 65536 };

static json_t *qemu_map(const char *path)
{
    static char text[4 << 20];
    FILE *f;
    json_t *map;
    size_t n;

    run_ok("qemu-img map --output=json %s >map.json", path);
    f = fopen(test_path("map.json"), "re");
    CHECK(f);
    n = fread(text, 1, sizeof text - 1, f);
    fclose(f);
    text[n] = '\0';
    map = json_loads(text, 0, NULL);
    CHECK_MSG(map, "qemu-img map: no JSON");
    return map;
}

static bool flag(const json_t *o, const char *name)
{
    return json_is_true(json_object_get(o, name));
}

static uint64_t number(const json_t *o, const char *name)
{
    return (uint64_t)json_integer_value(json_object_get(o, name));
}

/* One of ours against the part of one of QEMU's that it overlaps. */
static void compare_part(const struct vdisk_extent *e, const json_t *o, uint64_t start, uint64_t end)
{
    char where[128];

    snprintf(where, sizeof where, "%" PRIu64 " to %" PRIu64 ": flags %x depth %u", start, end, e->flags, e->depth);
    if (e->flags & VDISK_EXTENT_ZERO)
        CHECK_MSG(flag(o, "zero"), "%s: we say zero, QEMU does not", where);
    if (flag(o, "data"))
        CHECK_MSG(e->flags & VDISK_EXTENT_DATA, "%s: QEMU says data, we do not", where);
    if (!(e->flags & VDISK_EXTENT_DATA))
        return;
    CHECK_MSG(flag(o, "data") || flag(o, "zero"), "%s: we say data", where);
    CHECK_MSG(e->depth == number(o, "depth"), "%s: QEMU says depth %" PRIu64, where, number(o, "depth"));
    if (!(e->flags & VDISK_EXTENT_OFFSET) || !json_object_get(o, "offset"))
        return;
    uint64_t ours = e->host_offset + (start - e->guest_offset);
    uint64_t theirs = number(o, "offset") + (start - number(o, "start"));
    CHECK_MSG(ours == theirs, "%s: at %" PRIu64 " for us, %" PRIu64 " for QEMU", where, ours, theirs);
}

static void compare_maps(const struct vdisk_extents *x, const json_t *map, uint64_t size)
{
    size_t k = 0;
    uint64_t at = 0;

    for (unsigned i = 0; i < x->count; i++) {
        const struct vdisk_extent *e = &x->list[i];
        while (at < e->guest_offset + e->length) {
            const json_t *o = json_array_get(map, k);
            CHECK_MSG(o, "QEMU's map ends at %" PRIu64, at);
            uint64_t theirs_end = number(o, "start") + number(o, "length");
            uint64_t end = min_u64(e->guest_offset + e->length, theirs_end);
            compare_part(e, o, at, end);
            at = end;
            if (at == theirs_end)
                k++;
        }
    }
    CHECK_INT(at, size);
}

/* What the host file has there is what the guest reads. */
static void check_host_bytes(const struct image_spec *spec, const struct vdisk_extents *x, struct model *m)
{
    char path[PATH_MAX + 8];
    int fd;

    snprintf(path, sizeof path, "%s%s", spec->path, spec->data_file ? ".data" : "");
    fd = open(path, O_RDONLY | O_CLOEXEC);
    CHECK(fd >= 0);
    for (unsigned i = 0; i < x->count; i++) {
        const struct vdisk_extent *e = &x->list[i];
        if (e->depth > 0 || !(e->flags & VDISK_EXTENT_OFFSET) || !(e->flags & VDISK_EXTENT_DATA) ||
            e->flags & VDISK_EXTENT_COMPRESSED)
            continue;
        uint8_t *buf = test_alloc(e->length);
        CHECK(pread(fd, buf, e->length, (off_t)e->host_offset) >= 0); /* past the end: zeros */
        model_expect(m, e->guest_offset, buf, e->length, "host file");
        free(buf);
    }
    close(fd);
}

static void test_map(void)
{
    struct rng *r = test_rng();
    struct image_spec spec[IMAGE_LAYERS];
    struct model m;
    struct vdisk_extents x = {.max = MAX_EXTENTS};
    unsigned n = (unsigned)rng_between(r, 1, IMAGE_LAYERS);
    vdisk *v;

    test_requires("qemu-io");
    memset(spec, 0, sizeof spec);
    spec[0].size = 512 * rng_between(r, 2000, 12000);
    image_random(r, &spec[0], (n > 1 ? IMAGE_BACKED : 0) | IMAGE_NO_RAW);
    spec[0].by_qemu = rng_chance(r, 50);
    snprintf(spec[0].path, sizeof spec[0].path, "%s", test_path("layer-0"));
    test_note("%u layers, on top %s", n, image_describe(&spec[0]));
    model_init(&m, 0, spec[0].size);
    image_chain(r, spec, n, &m, 1, false);
    v = must_open(spec[0].path, VDISK_OPEN_RDWR);
    engine_workload(v, &m, spec[0].cluster_size, test_steps(40));
    CHECK_OK(vdisk_close(v));

    v = must_open(spec[0].path, 0);
    workload_verify(v, &m, 1);
    x.list = test_alloc(MAX_EXTENTS * sizeof *x.list);
    CHECK_OK(vdisk_pextents(v, spec[0].size, 0, &x));
    json_t *map = qemu_map(spec[0].path);
    compare_maps(&x, map, spec[0].size);
    json_decref(map);
    check_host_bytes(&spec[0], &x, &m);
    CHECK_OK(vdisk_close(v));
    free(x.list);
    model_finish(&m);
}

int main(int argc, char **argv)
{
    static const struct test_case cases[] = {
        {.name = "map", .run = test_map, .repeat = 30, .quick = 8},
    };

    return test_main(argc, argv, cases, ARRAY_LEN(cases));
}
