/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Creation with each of its calls failing once: it says so, and what is left does not pass for an image; of
 * what was there before it says what has become of it.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/bits.h"
#include "engine/loop/thread.h"
#include "engine/volume.h"
#include "tests/fault/fault_lib.h"
#include "tests/fault/oom.h"
#include "tests/lib/test.h"

enum { MAX_CALLS = 500 };

static const struct image_spec specs[] = {
    {.qcow2 = true, .size = 4 << 20, .cluster_size = 65536, .version = 3, .refcount_bits = 16},
    {.qcow2 = true, .size = 4 << 20, .cluster_size = 512, .version = 3, .refcount_bits = 16},
    {.qcow2 = true, .size = 4 << 20, .cluster_size = 65536, .version = 2, .refcount_bits = 16},
    {.qcow2 = true,
     .size = 4 << 20,
     .cluster_size = 4096,
     .version = 3,
     .refcount_bits = 16,
     .preallocation = VDISK_PREALLOC_METADATA},
    {.qcow2 = true,
     .size = 4 << 20,
     .cluster_size = 65536,
     .version = 3,
     .refcount_bits = 16,
     .extended_l2 = true,
     .preallocation = VDISK_PREALLOC_FULL},
    {.qcow2 = true,
     .size = 4 << 20,
     .cluster_size = 65536,
     .version = 3,
     .refcount_bits = 16,
     .preallocation = VDISK_PREALLOC_FALLOC},
    /* Metadata in more pieces than are under way at a time. */
    {.qcow2 = true,
     .size = 64 << 20,
     .cluster_size = 512,
     .version = 3,
     .refcount_bits = 64,
     .preallocation = VDISK_PREALLOC_METADATA},
    {.size = 4 << 20},
    {.size = 4 << 20, .preallocation = VDISK_PREALLOC_FULL},
};

/* It was made: it opens, and reads as zeros, at its end as well. */
static void check_made(struct memdisk *d, const struct image_spec *spec)
{
    struct vdisk_open_opts opts = {.size = sizeof opts, .format = spec->qcow2 ? "qcow2" : "raw"};
    uint64_t len = min_u64(spec->size, 4 << 20);
    uint8_t *buf = test_alloc(len);
    vdisk *v;

    CHECK_OK(vdisk_open_backend(memdisk_open(d, true), &opts, &v));
    CHECK_INT(vdisk_size(v), spec->size);
    for (uint64_t at = 0; at < spec->size; at += max_u64(len, spec->size - len)) {
        memset(buf, 0xee, len);
        CHECK_OK(vdisk_pread(v, buf, len, at));
        CHECK(buf[0] == 0 && memcmp(buf, buf + 1, len - 1) == 0);
    }
    CHECK_OK(vdisk_close(v));
    free(buf);
}

enum { OLD = 1 << 20 };

/*
 * It was not made, over a file of OLD bytes. Either that is as it was, and nothing is said of it, or it is gone,
 * and that is said.
 */
static void check_left(struct memdisk *d, const uint8_t *old)
{
    const char *text = vdisk_error_text();
    struct backend *b = memdisk_open(d, true);
    uint8_t *buf = test_alloc(OLD);

    if (strstr(text, "is left empty")) {
        CHECK_INT(backend_size(b), 0);
    } else if (!strstr(text, "no longer holds") && !strstr(text, "left longer") && !strstr(text, "may be left")) {
        CHECK_INT(backend_size(b), OLD);
        memdisk_read(d, 0, buf, OLD);
        CHECK_MSG(memcmp(buf, old, OLD) == 0, "what was there has changed: %s", text);
    }
    free(buf);
    backend_close(b);
}

/* The nth call fails; false if there is no such call. `old`: OLD bytes that are there before, or NULL. */
static bool create_once(const struct image_spec *spec, const struct fault_mode *mode, unsigned nth,
                        const uint8_t *old)
{
    struct fault_rule rule = {.nth = nth, .what = mode->what, .error = mode->error, .calls = 2};
    struct backend *fault;
    struct memdisk d;
    bool fired;
    int rc;

    thread_release();
    oom_watch();
    memdisk_init(&d, 512);
    if (old)
        memdisk_write(&d, 0, old, OLD);
    CHECK_OK(fault_backend_create(memdisk_open(&d, false), &fault));
    mode_arm(mode, fault, &rule);
    oom_enter();
    rc = image_create_on(spec, fault);
    oom_leave();
    fired = mode_disarm(fault);
    backend_close(fault);
    if (rc == 0)
        check_made(&d, spec);
    else
        CHECK_MSG(fired && mode->error, "it fails all by itself: %s", vdisk_error_text());
    if (rc < 0)
        CHECK_MSG(strlen(vdisk_error_text()) > 10, "no text: '%s'", vdisk_error_text());
    if (rc < 0 && old)
        check_left(&d, old);
    memdisk_finish(&d);
    thread_release();
    CHECK_MSG(oom_live() == 0, "%u pieces of memory are never given back", oom_live());
    return fired;
}

static void with_each_call(const uint8_t *old)
{
    const struct image_spec *spec = &specs[test_repetition() % ARRAY_LEN(specs)];

    for (unsigned m = 0; m < FAULT_MODES; m++) {
        unsigned nth = 0;
        do {
            nth++;
            CHECK_MSG(nth < MAX_CALLS, "no end to the calls");
            test_note("call %u: %s; %s", nth, fault_modes[m].name, image_describe(spec));
        } while (create_once(spec, &fault_modes[m], nth, old));
        CHECK_MSG(nth > 1 || !spec->qcow2 || fault_modes[m].what == FAULT_SHORT, "no call was made");
    }
}

static void test_create(void)
{
    with_each_call(NULL);
}

static void test_replace(void)
{
    uint8_t *old = test_alloc(OLD);

    image_pattern_bytes(7, old, OLD);
    with_each_call(old);
    free(old);
}

int main(int argc, char **argv)
{
    static const struct test_case cases[] = {
        {.name = "create", .run = test_create, .repeat = ARRAY_LEN(specs)},
        {.name = "replace", .run = test_replace, .repeat = ARRAY_LEN(specs)},
    };

    return test_main(argc, argv, cases, ARRAY_LEN(cases));
}
