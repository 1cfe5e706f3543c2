/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Who is killed while a qcow2 image is made leaves what was there before, an empty file, or one that says that it
 * is unfinished; or a whole one. So after each request that the creation makes of its storage, files and devices.
 */
#include <stdlib.h>
#include <string.h>

#include <vdisk-image.h>

#include "tests/callers/callers.h"
#include "tests/callers/storage.h"

enum { SIZE = 16 << 20, DEVICE = 32 << 20, MAGIC = 4 };

enum left { OLD, EMPTY, UNFINISHED, WHOLE, LEFTS };

#define FILE_CAPS (VDISK_BACKEND_GROWS | VDISK_BACKEND_ZERO_NEW | VDISK_BACKEND_ZERO | VDISK_BACKEND_ALLOCATE)

static unsigned seen[LEFTS];
static enum left last;
static char old_start[4096]; /* all zeros: nothing was there */
static bool had_old;

static void look(const struct storage *s)
{
    enum left now = LEFTS;

    if (had_old && s->size >= sizeof old_start && memcmp(s->bytes, old_start, sizeof old_start) == 0)
        now = OLD;
    else if (s->size == 0)
        now = EMPTY;
    else if (s->size >= 2 * MAGIC && memcmp(s->bytes, "QFI~\0\0\0\3", 2 * MAGIC) == 0) /* found without a name */
        now = UNFINISHED;
    else if (s->size >= MAGIC && memcmp(s->bytes, "QFI\xfb", MAGIC) == 0)
        now = WHOLE;
    CHECK_MSG(now < LEFTS, "after %llu requests %llu bytes begin with %02x %02x %02x %02x",
              (unsigned long long)s->requests, (unsigned long long)s->size, (uint8_t)s->bytes[0],
              (uint8_t)s->bytes[1], (uint8_t)s->bytes[2], (uint8_t)s->bytes[3]);
    CHECK_MSG(now >= last, "it was further before");
    last = now;
    seen[now]++;
}

static struct vdisk_create_opts random_options(bool unfinished)
{
    static const uint32_t sizes[] = {512, 4096, 65536, 2 << 20};
    struct vdisk_create_opts o = {.size = sizeof o, .format = "qcow2", .virtual_size = SIZE,
                                  .unfinished = unfinished};

    o.cluster_size = sizes[rng_below(test_rng(), ARRAY_LEN(sizes))];
    o.preallocation = (enum vdisk_prealloc)rng_below(test_rng(), VDISK_PREALLOC_FULL + 1);
    return o;
}

static int open_it(const char *format, uint32_t flags, vdisk **ret)
{
    struct vdisk_open_opts how = {.size = sizeof how, .flags = flags, .format = format};

    return vdisk_open("user:target", &how, ret);
}

static void make_old(struct storage *s)
{
    struct vdisk_create_opts o = {.size = sizeof o, .format = "qcow2", .virtual_size = 1 << 20};

    CHECK_OK(vdisk_create("user:target", &o));
    memcpy(old_start, s->bytes, sizeof old_start);
}

/* A new image, on what grows or does not, over an image or not. */
static void make(bool grows, bool over, bool unfinished)
{
    struct storage s = {.ops.caps = grows ? FILE_CAPS : VDISK_BACKEND_ZERO | VDISK_BACKEND_ALLOCATE,
                        .size = grows ? 0 : DEVICE};
    struct vdisk_create_opts o = random_options(unfinished);
    vdisk *v;

    test_note("%s, %s, %s: clusters of %u, preallocation %d", grows ? "a file" : "a device",
              over ? "over an image" : "new", unfinished ? "unfinished" : "whole", o.cluster_size,
              (int)o.preallocation);
    s.ops.align = rng_chance(test_rng(), 50) ? 4096 : 512;
    s.way = (enum storage_way)rng_below(test_rng(), STORAGE_WAYS);
    CHECK_OK(storage_start(&s, "target"));
    had_old = over || !grows;
    memset(old_start, 0, sizeof old_start);
    if (over)
        make_old(&s);
    last = OLD;
    s.requests = 0;
    s.look = look;
    CHECK_OK(vdisk_create("user:target", &o));
    s.look = NULL;
    CHECK_INT(last, unfinished ? UNFINISHED : WHOLE);
    CHECK_INT(open_it("qcow2", 0, &v), unfinished ? -EINVAL : 0);
    if (unfinished)
        CHECK_OK(open_it("qcow2", VDISK_OPEN_RDWR | VDISK_OPEN_UNFINISHED, &v));
    CHECK_OK(vdisk_close(v));
    CHECK_OK(vdisk_backend_unregister("target"));
    storage_stop(&s);
}

static void test_killed(void)
{
    memset(seen, 0, sizeof seen);
    for (unsigned way = 0; way < 8; way++)
        make(way & 1, way & 2, way & 4);
    CHECK(seen[UNFINISHED] > 0 && seen[WHOLE] > 0 && seen[EMPTY] > 0);
}

static char mark[512];

/* The first that is written. */
static void keep_mark(const struct storage *s)
{
    if (mark[0] == 0)
        memcpy(mark, s->bytes, sizeof mark);
}

/* It is not gone on with, not even by who goes on with unfinished images: nobody knows how far it got. */
static void test_not_gone_on_with(void)
{
    struct storage s = {.ops.caps = FILE_CAPS};
    struct vdisk_create_opts o = random_options(true);
    vdisk *v;

    CHECK_OK(storage_start(&s, "target"));
    s.look = keep_mark;
    memset(mark, 0, sizeof mark);
    CHECK_OK(vdisk_create("user:target", &o));
    s.look = NULL;
    memcpy(s.bytes, mark, sizeof mark);
    CHECK_INT(open_it(NULL, 0, &v), -EINVAL); /* found by what it is */
    CHECK(strstr(vdisk_error_text(), "unfinished image") != NULL);
    CHECK_INT(open_it("qcow2", VDISK_OPEN_RDWR | VDISK_OPEN_UNFINISHED, &v), -EINVAL);
    CHECK(strstr(vdisk_error_text(), "unfinished image") != NULL);
    CHECK_OK(vdisk_create("user:target", &o)); /* but it is made again */
    CHECK_OK(open_it("qcow2", VDISK_OPEN_RDWR | VDISK_OPEN_UNFINISHED, &v));
    CHECK_OK(vdisk_close(v));
    CHECK_OK(vdisk_backend_unregister("target"));
    storage_stop(&s);
}

int main(int argc, char **argv)
{
    static const struct test_case cases[] = {
        {.name = "killed", .run = test_killed, .repeat = 12, .quick = 4},
        {.name = "not-gone-on-with", .run = test_not_gone_on_with},
    };

    return test_main(argc, argv, cases, ARRAY_LEN(cases));
}
