/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tests/interop/interop_lib.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/base/bits.h"
#include "tests/lib/run.h"
#include "tests/lib/test.h"
#include "tests/lib/workload.h"

vdisk *must_open(const char *path, uint32_t flags)
{
    struct vdisk_open_opts opts = {.size = sizeof opts, .flags = flags};
    vdisk *v = NULL;

    CHECK_OK(vdisk_open(path, &opts, &v));
    return v;
}

void must_refuse(const char *path, uint32_t flags, int error, const char *part)
{
    struct vdisk_open_opts opts = {.size = sizeof opts, .flags = flags};
    vdisk *v = NULL;
    int rc = vdisk_open(path, &opts, &v);

    CHECK_MSG(rc < 0, "%s: opened, flags 0x%x: it should be refused", path, flags);
    CHECK_MSG(rc == error, "%s: %s (%s), not %s", path, strerror(-rc), vdisk_error_text(), strerror(-error));
    CHECK_HAS(vdisk_error_text(), part);
    CHECK(v == NULL);
}

void engine_workload(vdisk *v, struct model *m, uint64_t cluster_size, unsigned steps)
{
    struct workload w = {.v = v, .models = m, .nmodels = 1, .unit = cluster_size};

    rng_init(&w.rng, rng_next(test_rng()));
    w.depth = (unsigned)rng_between(&w.rng, 1, 16);
    w.max_len = min_u64(1u << 20, max_u64(4 * cluster_size, 256u << 10));
    workload_start(&w);
    workload_run(&w, steps);
    workload_finish(&w);
}

void engine_rewrites(const struct image_spec *spec, struct model *m, unsigned steps)
{
    vdisk *v = must_open(spec->path, VDISK_OPEN_RDWR);

    engine_workload(v, m, spec->cluster_size, steps);
    workload_verify(v, m, 1);
    CHECK_OK(vdisk_close(v));
    image_check(spec->path, false);
    image_compare(spec->path, "qcow2", spec->size, m, 1);
}

void engine_reads(const char *path, struct model *m)
{
    vdisk *v = must_open(path, 0);

    CHECK_INT(vdisk_size(v), m->size);
    workload_verify(v, m, 1);
    CHECK_OK(vdisk_close(v));
}

void qemu_write(const char *path, struct model *m, const char *flags, unsigned pattern, uint64_t offset,
                uint64_t len)
{
    const char *out = run_ok("qemu-io -c 'write%s -s %s %" PRIu64 " %" PRIu64 "' %s", flags,
                             image_pattern_file(pattern), offset, len, path);
    uint8_t *bytes = test_alloc(len);

    CHECK_MSG(!strstr(out, "failed"), "qemu-io: %s", out);
    image_pattern_bytes(pattern, bytes, len);
    model_write(m, offset, bytes, len);
    free(bytes);
}

void engine_write(vdisk *v, struct model *m, unsigned pattern, uint64_t offset, uint64_t len)
{
    uint8_t *bytes = test_alloc(len);

    image_pattern_bytes(pattern, bytes, len);
    CHECK_OK(vdisk_pwrite(v, bytes, len, offset, 0));
    model_write(m, offset, bytes, len);
    free(bytes);
}

void file_read(const char *path, uint64_t offset, void *buf, size_t len)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);

    CHECK(fd >= 0);
    CHECK(pread(fd, buf, len, (off_t)offset) == (ssize_t)len);
    close(fd);
}

void file_write(const char *path, uint64_t offset, const void *buf, size_t len)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);

    CHECK(fd >= 0);
    CHECK(pwrite(fd, buf, len, (off_t)offset) == (ssize_t)len);
    close(fd);
}

uint64_t file_be64(const char *path, uint64_t offset)
{
    uint8_t bytes[8];

    file_read(path, offset, bytes, sizeof bytes);
    return get_be64(bytes);
}

void file_set_be64(const char *path, uint64_t offset, uint64_t value)
{
    uint8_t bytes[8];

    put_be64(bytes, value);
    file_write(path, offset, bytes, sizeof bytes);
}
