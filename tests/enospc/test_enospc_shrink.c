/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A device that is cut while a volume on it is open: what lies behind the new end fails to be read and written,
 * each request ends, nothing reads as zeros that was data, what lies before it is as it was, there and after the
 * volume has been closed; and when the device has its length again, all works. Raw and qcow2, on loop devices:
 * needs root.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/loop.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "engine/base/bits.h"
#include "tests/lib/image.h"
#include "tests/lib/run.h"
#include "tests/lib/test.h"

/* The guest of an image can write more than the device holds. */
enum { UNIT = 32 << 10, DEVICE = 16 << 20, GUEST = 24 << 20, UNITS = GUEST / UNIT, FILLED = UNITS / 2,
       REQUESTS = 120 };

/* What a unit may read as. A change that failed may have come any part of the way. */
struct unit {
    uint8_t byte; /* 0: zeros */
    bool unsure;
    bool changed; /* on the shorter device, and may be lost: what cannot be flushed */
};

struct rig {
    struct unit units[UNITS];
    char dev[64];
    int fd; /* while it is open the device is there; with it, however this ends, it goes */
    vdisk *v;
    bool raw;
    unsigned n; /* units of the volume */
    uint32_t flags;
    uint64_t end; /* of the device, as it is now */
    uint8_t *buf;
    unsigned failed;
};

static bool attach(struct rig *r, unsigned sector)
{
    struct run_result result;

    test_requires("losetup");
    run_shell(&result, "truncate -s %u lv && losetup -f --show -b %u lv 2>&1", DEVICE, sector);
    if (result.status != 0 || strncmp(result.out, "/dev/loop", 9) != 0)
        return false;
    snprintf(r->dev, sizeof r->dev, "%.*s", (int)strcspn(result.out, "\n"), result.out);
    r->end = DEVICE;
    r->fd = open(r->dev, O_RDONLY | O_CLOEXEC);
    run_ok("losetup -d %s", r->dev);
    return r->fd >= 0;
}

/* What is cut off comes back with the length, as of a logical volume. */
static void set_end(struct rig *r, uint64_t end)
{
    struct loop_info64 info;

    CHECK(ioctl(r->fd, LOOP_GET_STATUS64, &info) == 0);
    info.lo_sizelimit = end;
    CHECK(ioctl(r->fd, LOOP_SET_STATUS64, &info) == 0);
    r->end = end;
}

static int open_volume(struct rig *r)
{
    struct vdisk_open_opts opts = {.size = sizeof opts, .flags = VDISK_OPEN_RDWR | r->flags};

    opts.format = r->raw ? "raw" : "qcow2";
    return vdisk_open(r->dev, &opts, &r->v);
}

static bool is_all(const uint8_t *buf, uint8_t byte)
{
    return buf[0] == byte && memcmp(buf, buf + 1, UNIT - 1) == 0;
}

static void read_unit(struct rig *r, unsigned i)
{
    struct unit *u = &r->units[i];
    int rc = vdisk_pread(r->v, r->buf, UNIT, (uint64_t)i * UNIT);

    if (rc < 0) {
        CHECK_MSG(r->end < DEVICE, "unit %u: %s, though nothing is cut off", i, vdisk_error_text());
        CHECK_MSG(vdisk_error_text()[0], "no text");
        r->failed++;
        return;
    }
    CHECK_MSG(!r->raw || (uint64_t)(i + 1) * UNIT <= r->end, "unit %u is behind the end", i);
    if (!u->unsure)
        CHECK_MSG(is_all(r->buf, u->byte), "unit %u reads %u, not %u", i, r->buf[0], u->byte);
}

static void change_unit(struct rig *r, unsigned i)
{
    struct rng *g = test_rng();
    struct unit *u = &r->units[i], was = *u;
    uint64_t offset = (uint64_t)i * UNIT;
    uint32_t flags = rng_chance(g, 30) ? VDISK_REQ_FUA : 0;
    int rc;

    u->changed = was.changed = true;
    switch (rng_below(g, 6)) {
    case 0:
        u->byte = 0;
        rc = vdisk_pzero(r->v, UNIT, offset, rng_chance(g, 50) ? VDISK_REQ_UNMAP : 0);
        break;
    case 1:
        u->unsure = true;
        rc = vdisk_pdiscard(r->v, UNIT, offset);
        break;
    default:
        u->byte = (uint8_t)rng_between(g, 1, 255);
        memset(r->buf, u->byte, UNIT);
        rc = vdisk_pwrite(r->v, r->buf, UNIT, offset, flags);
        u->unsure = false;
        break;
    }
    if (rc == 0)
        return;
    CHECK_MSG(r->end < DEVICE || (rc == -ENOSPC && !r->raw), "unit %u: %s, though nothing is cut off", i,
              vdisk_error_text());
    CHECK_MSG(vdisk_error_text()[0], "no text");
    r->failed++;
    *u = was;
    u->unsure = true;
}

static void read_all(struct rig *r)
{
    for (unsigned i = 0; i < r->n; i++)
        read_unit(r, i);
}

static void make(struct rig *r)
{
    struct rng *g = test_rng();
    struct image_spec spec;

    r->raw = rng_chance(g, 30);
    r->n = r->raw ? DEVICE / UNIT : UNITS;
    r->flags = rng_chance(g, 30) ? VDISK_OPEN_BUFFERED : 0;
    if (!attach(r, rng_chance(g, 50) ? 512 : 4096))
        test_skip("no loop device");
    image_default(&spec, r->dev, r->raw ? DEVICE : GUEST);
    snprintf(spec.path, sizeof spec.path, "%s", r->dev);
    spec.qcow2 = !r->raw;
    spec.cluster_size = 1u << rng_between(g, 12, 16);
    test_note("%s, %s", r->raw ? "raw" : image_describe(&spec), r->flags ? "buffered" : "direct");
    if (!r->raw)
        image_create(&spec);
    CHECK_OK(open_volume(r));
    r->buf = vdisk_alloc_buffer(UNIT);
    for (unsigned i = 0; i < r->n; i++) {
        r->units[i].unsure = true;
        if (i < FILLED && rng_chance(g, 80)) {
            r->units[i] = (struct unit){.byte = (uint8_t)rng_between(g, 1, 255)};
            memset(r->buf, r->units[i].byte, UNIT);
            CHECK_OK(vdisk_pwrite(r->v, r->buf, UNIT, (uint64_t)i * UNIT, 0));
        } else if (!r->raw) {
            r->units[i] = (struct unit){.byte = 0};
        }
    }
    CHECK_OK(vdisk_sync(r->v));
    if (rng_chance(g, 50)) { /* with cold tables */
        CHECK_OK(vdisk_close(r->v));
        CHECK_OK(open_volume(r));
    }
}

/* Of what reaches past the end all fails, though a part of it could be done. */
static void cross_end(struct rig *r)
{
    unsigned i = (unsigned)(r->end / UNIT);
    struct unit *u = &r->units[i];
    int rc;

    if (!r->raw || r->end % UNIT == 0)
        return;
    u->changed = u->unsure = true;
    memset(r->buf, 1, UNIT);
    CHECK(vdisk_pzero(r->v, UNIT, (uint64_t)i * UNIT, 0) < 0);
    CHECK(vdisk_pzero(r->v, UNIT, (uint64_t)i * UNIT, VDISK_REQ_UNMAP) < 0);
    CHECK(vdisk_pwrite(r->v, r->buf, UNIT, (uint64_t)i * UNIT, 0) < 0);
    /* Who found the end told the volume, which follows. */
    rc = vdisk_pread(r->v, r->buf, UNIT, (uint64_t)i * UNIT);
    CHECK(rc == -EIO || rc == -EINVAL);
    if (rc == -EINVAL)
        CHECK_INT(vdisk_size(r->v), r->end);
}

/* Any order; each of them ends. */
static void use(struct rig *r)
{
    struct rng *g = test_rng();

    for (unsigned i = 0; i < test_steps(REQUESTS); i++) {
        unsigned unit;
        if (rng_chance(g, 2)) /* past the end that it had, too */
            for (unit = FILLED; unit < r->n; unit++)
                change_unit(r, unit);
        unit = (unsigned)rng_below(g, r->n);
        switch (rng_below(g, 8)) {
        case 0: case 1: case 2: read_unit(r, unit); break;
        case 3: vdisk_sync(r->v); break;
        case 4: vdisk_trim_space(r->v); break;
        default: change_unit(r, unit); break;
        }
    }
    read_all(r);
}

/* The device has its length again: all that was there is there. */
static void use_whole(struct rig *r, bool closed)
{
    struct unit *units = r->units;

    set_end(r, DEVICE);
    if (!r->raw)
        image_check(r->dev, true);
    CHECK_OK(open_volume(r));
    for (unsigned i = 0; i < r->n; i++) {
        if (closed || !units[i].changed)
            read_unit(r, i);
        units[i].unsure = true;
    }
    for (unsigned i = 0; i < test_steps(REQUESTS); i++)
        change_unit(r, (unsigned)rng_below(test_rng(), r->n));
    read_all(r);
    CHECK_OK(vdisk_close(r->v));
    if (!r->raw)
        image_check(r->dev, true);
}

static void test_cut(void)
{
    struct rig *r = test_alloc(sizeof *r);
    struct rng *g = test_rng();

    make(r);
    set_end(r, rng_between(g, DEVICE / 8, DEVICE / 2) & ~UINT64_C(4095));
    test_note("%s, cut to %" PRIu64, r->raw ? "raw" : "qcow2", r->end);
    cross_end(r);
    use(r);
    CHECK(r->failed > 0);
    use_whole(r, vdisk_close(r->v) == 0);
    printf("  %s, %u requests failed\n", r->raw ? "raw" : "qcow2", r->failed);
    free(r->buf);
    close(r->fd);
    free(r);
}

int main(int argc, char **argv)
{
    static const struct test_case cases[] = {
        {.name = "cut", .run = test_cut, .repeat = 12, .quick = 4},
    };

    return test_main(argc, argv, cases, ARRAY_LEN(cases));
}
