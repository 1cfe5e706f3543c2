/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Names that say more than a path: raw's offset and size against an array of bytes (nothing outside may change),
 * an image inside a file, children of qcow2, and options that all drivers have.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/base/bits.h"
#include "engine/vdisk.h"
#include "engine/volume.h"
#include "tests/lib/run.h"
#include "tests/lib/test.h"

enum { MIB = 1 << 20, FILE_MAX = 3 * MIB };

static uint8_t model[FILE_MAX], got[FILE_MAX];

static const char *make_file(uint64_t size)
{
    const char *path = test_path("container");
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

    memset(model, 0, sizeof model);
    rng_fill(test_rng(), model, size);
    CHECK(fd >= 0 && write(fd, model, size) == (ssize_t)size);
    close(fd);
    return path;
}

/* All of it is as the model has it. */
static void check_file(const char *path, uint64_t size)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);

    CHECK(fd >= 0);
    CHECK_INT(lseek(fd, 0, SEEK_END), size);
    CHECK(pread(fd, got, size, 0) == (ssize_t)size);
    close(fd);
    for (uint64_t i = 0; i < size; i++)
        CHECK_MSG(got[i] == model[i], "byte %" PRIu64 " of the file is %d, not %d", i, got[i], model[i]);
}

static int try_open(vdisk **v, uint32_t flags, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

static int try_open(vdisk **v, uint32_t flags, const char *fmt, ...)
{
    struct vdisk_open_opts opts = {.size = sizeof opts, .flags = flags};
    char name[2048];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(name, sizeof name, fmt, ap);
    va_end(ap);
    test_note("%s", name);
    return vdisk_open(name, &opts, v);
}

static void change(vdisk *v, uint64_t offset, uint64_t at, uint64_t len)
{
    static uint8_t buf[64 << 10];
    uint8_t *m = model + offset + at;

    switch (rng_below(test_rng(), 4)) {
    case 0:
    case 1:
        rng_fill(test_rng(), buf, len);
        CHECK_OK(vdisk_pwrite(v, buf, len, at, rng_chance(test_rng(), 20) ? VDISK_REQ_FUA : 0));
        memcpy(m, buf, len);
        break;
    case 2:
        CHECK_OK(vdisk_pzero(v, len, at, rng_chance(test_rng(), 50) ? VDISK_REQ_UNMAP : 0));
        memset(m, 0, len);
        break;
    default:
        CHECK_OK(vdisk_pdiscard(v, len, at));
        CHECK_OK(vdisk_pread(v, buf, len, at));
        for (uint64_t i = 0; i < len; i++) {
            CHECK(buf[i] == m[i] || buf[i] == 0);
            m[i] = buf[i];
        }
    }
}

static void random_part(void)
{
    static const uint64_t aligns[] = {1, 512, 4096};
    struct rng *r = test_rng();
    uint64_t size = rng_between(r, MIB, 2 * MIB), offset, len;
    bool fixed = rng_chance(r, 50);
    uint32_t flags = VDISK_OPEN_RDWR | (rng_chance(r, 30) ? VDISK_OPEN_BUFFERED : 0);
    static uint8_t buf[64 << 10];
    const char *path;
    char size_text[32] = "";
    vdisk *v;

    offset = align_down(rng_below(r, size / 2), aligns[rng_below(r, 3)]);
    if (rng_chance(r, 50) || !fixed) /* where the volume's last sector is not all there its rest is written, too */
        size = align_up(size - offset, 512) + offset;
    len = align_down(rng_between(r, 4096, size - offset), 512);
    path = make_file(size);
    if (fixed)
        snprintf(size_text, sizeof size_text, "size=%" PRIu64 ",", len);
    else
        len = size - offset;
    CHECK_OK(try_open(&v, flags, "image-opts:driver=raw,offset=%" PRIu64 ",%sfile.filename=%s", offset, size_text,
                      path));
    CHECK_INT(vdisk_size(v), len);
    for (unsigned i = 0; i < test_steps(300); i++) {
        uint64_t unit = aligns[rng_below(r, 3)];
        uint64_t at = align_down(rng_below(r, len), unit), n = rng_between(r, 1, min_u64(len - at, sizeof buf));
        if (rng_chance(r, 10)) /* at the very end */
            n = min_u64(len - at, sizeof buf);
        if (rng_chance(r, 60))
            change(v, offset, at, n);
        CHECK_OK(vdisk_pread(v, buf, n, at));
        CHECK(memcmp(buf, model + offset + at, n) == 0);
    }
    CHECK_INT(vdisk_pwrite(v, buf, 512, len, 0), -EINVAL);
    CHECK_INT(vdisk_pread(v, buf, 512, len - 256), -EINVAL);
    CHECK_OK(vdisk_close(v));
    check_file(path, size);
}

/* The backend alone: reads past the end are zeros and no neighbour's bytes; nothing makes it longer. */
static void fixed_end(void)
{
    const char *path = make_file(MIB);
    static uint8_t buf[8192];
    struct backend *b;
    vdisk_queue *q;
    char name[512];

    CHECK_OK(vdisk_queue_create(&(struct vdisk_queue_opts){.size = sizeof(struct vdisk_queue_opts)}, &q));
    for (unsigned offset = 512 - 1; offset <= 4096; offset += 3585 / 7 * 7) {
        snprintf(name, sizeof name, "image-opts:driver=raw,offset=%u,size=8192,file.filename=%s", offset, path);
        CHECK_OK(backend_open(name, BACKEND_RDWR, &b));
        memset(buf, 7, sizeof buf);
        CHECK_OK(io_pread(q, b, buf, 8192, 4096));
        CHECK(memcmp(buf, model + offset + 4096, 4096) == 0);
        for (unsigned i = 4096; i < 8192; i++)
            CHECK_INT(buf[i], 0);
        CHECK_OK(io_pread(q, b, buf, 4096, 8192));
        CHECK_INT(buf[0], 0);
        CHECK_INT(io_pwrite(q, b, buf, 8192, 4096), -ENOSPC);
        CHECK_INT(io_prange(q, b, IO_ZERO, 8192, 1), -ENOSPC);
        CHECK_INT(io_prange(q, b, IO_ALLOCATE, 4096, 8192), -ENOSPC);
        CHECK_INT(io_prange(q, b, IO_TRUNCATE, 4096, 0), -ENOTSUP);
        CHECK_INT(io_prange(q, b, IO_TRUNCATE, 8192, 0), 0);
        CHECK_OK(io_prange(q, b, IO_DISCARD, 8192, 65536));
        CHECK_OK(io_pflush(q, b));
        CHECK_INT(backend_size(b), 8192);
        backend_close(b);
        check_file(path, MIB);
    }
    CHECK_OK(vdisk_queue_destroy(q));
}

static void resized(void)
{
    const char *path = make_file(MIB);
    struct vdisk_resize_opts shrink = {.size = sizeof shrink, .shrink = true};
    struct vdisk_extent e;
    struct vdisk_extents list = {.list = &e, .max = 1};
    vdisk *v;

    CHECK_OK(try_open(&v, VDISK_OPEN_RDWR, "json:{'driver':'raw','offset':1024,'file':{'filename':'%s'}}", path));
    CHECK_OK(vdisk_pextents(v, 4096, 512, &list));
    CHECK(e.flags & VDISK_EXTENT_OFFSET);
    CHECK_INT(e.host_offset, 1536);
    CHECK_OK(vdisk_grow(v, MIB));
    CHECK_INT(vdisk_size(v), MIB);
    CHECK_OK(vdisk_close(v));
    check_file(path, MIB + 1024);
    CHECK_OK(try_open(&v, VDISK_OPEN_RDWR, "json:{'driver':'raw','offset':1024,'file':{'filename':'%s'}}", path));
    CHECK_OK(vdisk_resize(v, 4096, &shrink));
    CHECK_OK(vdisk_close(v));
    check_file(path, 4096 + 1024);
    CHECK_OK(try_open(&v, VDISK_OPEN_RDWR, "image-opts:driver=raw,size=4k,file.filename=%s", path));
    CHECK_INT(vdisk_grow(v, 8192), -ENOTSUP);
    CHECK_HAS(vdisk_error_text(), "its size is fixed");
    CHECK_OK(vdisk_close(v));
    check_file(path, 4096 + 1024);
}

static void refuse(int error, uint32_t flags, const char *name, const char *text)
{
    vdisk *v;

    CHECK_INT(try_open(&v, flags, name, test_dir()), -error);
    CHECK_HAS(vdisk_error_text(), text);
}

static void refused(void)
{
    struct vdisk_open_opts raw = {.size = sizeof raw, .flags = VDISK_OPEN_RDWR, .format = "raw"};
    char name[512];
    vdisk *v;

    make_file(MIB);
#define NAME "file.filename=%s/container"
    refuse(EINVAL, 0, "image-opts:driver=raw,size=1000," NAME, "no multiple of 512");
    refuse(EINVAL, 0, "image-opts:driver=raw,offset=2M," NAME, "behind the end");
    refuse(EINVAL, 0, "image-opts:driver=raw,offset=512,size=1M," NAME, "reach behind the end");
    refuse(EINVAL, 0, "image-opts:offset=512," NAME, "has no option 'offset'");
    refuse(EINVAL, 0, "image-opts:driver=raw,file.offset=512," NAME, "driver 'file' has no option 'offset'");
    refuse(EINVAL, 0, "image-opts:driver=raw,backing=," NAME, "driver 'raw' has no option 'backing'");
    refuse(ENOTSUP, 0, "image-opts:driver=raw,file.driver=qcow2,file." NAME, "'qcow2' is not supported here");
    refuse(ENOTSUP, 0, "image-opts:driver=luks," NAME, "driver 'luks' is not supported");
    refuse(EINVAL, 0, "image-opts:%s/container", "no nodes to refer to");
    refuse(EINVAL, 0, "image-opts:driver=file,filename=", "'filename' of driver 'file' takes a text");
    refuse(EINVAL, 0, "image-opts:driver=raw,file.driver=file", "option 'filename' is missing");
    refuse(EACCES, VDISK_OPEN_RDWR, "image-opts:driver=raw,read-only=on," NAME, "says read-only=on");
    refuse(EACCES, VDISK_OPEN_RDWR, "image-opts:driver=raw,file.read-only=on," NAME, "says read-only=on");
    refuse(EINVAL, VDISK_OPEN_RDWR, "image-opts:driver=raw,force-share=on," NAME, "is for reading only");
    refuse(EINVAL, 0, "image-opts:driver=raw,file.driver=host_device," NAME, "not a block device");
    snprintf(name, sizeof name, "image-opts:driver=qcow2,file.filename=%s", test_path("container"));
    CHECK_INT(vdisk_open(name, &raw, &v), -EINVAL);
    CHECK_HAS(vdisk_error_text(), "its name says 'qcow2'");
    /* Asked for beside the name, as if it stood there. */
    snprintf(name, sizeof name, "image-opts:offset=512,file.filename=%s", test_path("container"));
    CHECK_OK(vdisk_open(name, &raw, &v));
    CHECK_INT(vdisk_size(v), MIB - 512);
    CHECK_OK(vdisk_close(v));
}

static void common(void)
{
    static uint8_t buf[65536];
    vdisk *v, *other;
    struct vdisk_info info = {.size = sizeof info};

    make_file(MIB);
    CHECK_OK(try_open(&v, VDISK_OPEN_RDWR, "image-opts:driver=raw,cache.direct=off," NAME, test_dir()));
    CHECK_OK(vdisk_get_info(v, &info));
    CHECK(!info.direct);
    CHECK_INT(try_open(&other, 0, "%s/container", test_dir()), -EAGAIN);
    CHECK_OK(try_open(&other, 0, "image-opts:force-share=on,driver=raw," NAME, test_dir()));
    CHECK_OK(vdisk_close(other));
    CHECK_OK(try_open(&other, VDISK_OPEN_RDWR, "image-opts:driver=raw,file.locking=off," NAME, test_dir()));
    CHECK_OK(vdisk_close(other));
    CHECK_OK(vdisk_close(v));
    for (unsigned i = 0; i < 3; i++) { /* of the volume, of its file, and of a part */
        static const char *const where[] = {"discard=ignore", "file.discard=off", "offset=4k,discard=off"};
        uint64_t offset = i == 2 ? 4096 : 0;
        CHECK_OK(try_open(&v, VDISK_OPEN_RDWR, "image-opts:driver=raw,%s," NAME, where[i], test_dir()));
        CHECK_OK(vdisk_pdiscard(v, sizeof buf, 0));
        CHECK_OK(vdisk_pread(v, buf, sizeof buf, 0));
        CHECK(memcmp(buf, model + offset, sizeof buf) == 0);
        CHECK_OK(vdisk_close(v));
    }
}

/* ---- qcow2 ---------------------------------------------------------------------------------------------- */

static void create(const char *name, const char *backing, const char *data, uint64_t size)
{
    struct vdisk_create_opts opts = {.size = sizeof opts, .format = "qcow2", .virtual_size = size,
                                     .backing_file = backing, .backing_fmt = backing ? "qcow2" : NULL,
                                     .data_file = data};

    CHECK_OK(vdisk_create(test_path("%s", name), &opts));
}

static void fill(const char *name, int byte, uint64_t offset)
{
    char buf[4096];
    vdisk *v;

    memset(buf, byte, sizeof buf);
    CHECK_OK(try_open(&v, VDISK_OPEN_RDWR, "%s", test_path("%s", name)));
    CHECK_OK(vdisk_pwrite(v, buf, sizeof buf, offset, 0));
    CHECK_OK(vdisk_close(v));
}

static void check_byte(vdisk *v, uint64_t offset, int byte)
{
    uint8_t buf[4096];

    CHECK_OK(vdisk_pread(v, buf, sizeof buf, offset));
    CHECK_INT(buf[0], byte);
    CHECK_INT(buf[4095], byte);
}

static void children(void)
{
    const char *dir = test_dir();
    vdisk *v;

    create("base", NULL, NULL, MIB);
    create("other", NULL, NULL, MIB);
    create("top", "base", NULL, MIB);
    create("alone", NULL, NULL, MIB);
    create("split", NULL, "data", MIB);
    fill("base", 1, 0);
    fill("other", 2, 0);
    fill("split", 3, 0);
    CHECK_OK(try_open(&v, VDISK_OPEN_RDWR, "image-opts:driver=qcow2,file.filename=%s/top", dir));
    check_byte(v, 0, 1);
    CHECK_OK(vdisk_close(v));
    CHECK_OK(try_open(&v, 0, "json:{'driver':'qcow2','backing':null,'file.filename':'%s/top'}", dir));
    check_byte(v, 0, 0);
    CHECK_OK(vdisk_close(v));
    CHECK_OK(try_open(&v, 0, "image-opts:backing=,file.filename=%s/top", dir));
    check_byte(v, 0, 0);
    CHECK_OK(vdisk_close(v));
    refuse(EINVAL, VDISK_OPEN_RDWR, "json:{'backing':null,'file.filename':'%s/top'}", "without its backing file");
    /* Others below it, also where the image names none: a discard must not show them again. */
    CHECK_OK(try_open(&v, VDISK_OPEN_RDWR, "image-opts:driver=qcow2,file.filename=%s/alone,"
                      "backing.driver=qcow2,backing.file.filename=%s/other", dir, dir));
    check_byte(v, 0, 2);
    CHECK_OK(vdisk_pzero(v, 65536, 0, 0));
    CHECK_OK(vdisk_pdiscard(v, 65536, 0));
    check_byte(v, 0, 0);
    CHECK_OK(vdisk_close(v));
    CHECK_INT(try_open(&v, 0, "image-opts:file.filename=%s/top,backing.file.filename=%s/top", dir, dir), -ELOOP);
    refuse(EINVAL, 0, "image-opts:file.filename=%s/top,backing=base", "no nodes to refer to");
    CHECK_INT(try_open(&v, 0, "image-opts:file.filename=%s/top,backing.driver=qcow2,backing.foo=1,"
                       "backing.file.filename=%s/base", dir, dir), -EINVAL);
    CHECK_HAS(vdisk_error_text(), "no option 'foo'");
    CHECK_OK(rename(test_path("data"), test_path("moved")));
    CHECK_OK(try_open(&v, 0, "image-opts:file.filename=%s/split,data-file.driver=raw,data-file.file.driver=file,"
                      "data-file.file.filename=%s/moved", dir, dir));
    check_byte(v, 0, 3);
    CHECK_OK(vdisk_close(v));
    CHECK_INT(try_open(&v, 0, "image-opts:file.filename=%s/split,data-file.driver=qcow2,"
                       "data-file.file.filename=%s/base", dir, dir), -EINVAL);
    /* No child is opened for an image that is not trusted. */
    CHECK_OK(try_open(&v, VDISK_OPEN_NO_NAMES, "image-opts:file.filename=%s/top,backing.file.filename=/x", dir));
    CHECK_OK(vdisk_close(v));
    CHECK_OK(try_open(&v, VDISK_OPEN_NO_NAMES, "image-opts:file.filename=%s/split,data-file.filename=/none", dir));
    CHECK_OK(vdisk_close(v));
}

/* As in an archive: what is before and behind it stays as it is, and space ends where the part does. */
static void image_in_file(void)
{
    unsigned offset = rng_chance(test_rng(), 50) ? 1536 : 65536;
    const char *path = make_file(2 * MIB + 4096);
    static uint8_t buf[65536];
    int fd = open(path, O_RDWR | O_CLOEXEC), rc = 0;
    vdisk *v;

    create("image", NULL, NULL, 4 * MIB);
    run_ok("dd if=image of=container bs=512 seek=%u conv=notrunc status=none", offset / 512);
    CHECK_OK(try_open(&v, VDISK_OPEN_RDWR, "json:{'driver':'qcow2','file':{'driver':'raw','offset':%u,'size':%d,"
                      "'file':{'driver':'file','filename':'%s'}}}", offset, MIB, path));
    memset(buf, 9, sizeof buf);
    for (unsigned i = 0; i < 40 && rc == 0; i++)
        rc = vdisk_pwrite(v, buf, sizeof buf, i * sizeof buf, 0);
    CHECK_INT(rc, -ENOSPC);
    CHECK_OK(vdisk_sync(v));
    check_byte(v, 65536, 9);
    CHECK_OK(vdisk_close(v));
    CHECK(fd >= 0 && pread(fd, got, sizeof got, 0) == 2 * MIB + 4096);
    close(fd);
    CHECK(memcmp(got, model, offset) == 0);
    CHECK(memcmp(got + offset + MIB, model + offset + MIB, MIB + 4096 - offset) == 0);
    CHECK_OK(try_open(&v, 0, "image-opts:driver=qcow2,file.driver=raw,file.offset=%u,file.size=1M,"
                      "file.file.filename=%s", offset, path));
    check_byte(v, 0, 9);
    CHECK_OK(vdisk_close(v));
    run_ok(VDISK_IO " check -q --image-opts driver=qcow2,file.driver=raw,file.offset=%u,file.size=1M,"
           "file.file.filename=container", offset);
}

int main(int argc, char **argv)
{
    const struct test_case cases[] = {
        {.name = "random_part", .run = random_part, .repeat = 24, .quick = 8},
        {.name = "fixed_end", .run = fixed_end},
        {.name = "resized", .run = resized},
        {.name = "refused", .run = refused},
        {.name = "common", .run = common},
        {.name = "children", .run = children},
        {.name = "image_in_file", .run = image_in_file, .repeat = 4},
    };

    return test_main(argc, argv, cases, sizeof cases / sizeof cases[0]);
}
