/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Creation with each of its calls failing once: it says so, and what is left does not pass for an image. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/bits.h"
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
    {.size = 4 << 20},
    {.size = 4 << 20, .preallocation = VDISK_PREALLOC_FULL},
};

/* It was made: it opens, and reads as zeros. */
static void check_made(struct memdisk *d, const struct image_spec *spec)
{
    struct vdisk_open_opts opts = {.size = sizeof opts, .format = spec->qcow2 ? "qcow2" : "raw"};
    uint8_t *buf = test_alloc(spec->size);
    vdisk *v;

    CHECK_OK(vdisk_open_backend(memdisk_open(d, true), &opts, &v));
    CHECK_INT(vdisk_size(v), spec->size);
    memset(buf, 0xee, spec->size);
    CHECK_OK(vdisk_pread(v, buf, spec->size, 0));
    CHECK(buf[0] == 0 && memcmp(buf, buf + 1, spec->size - 1) == 0);
    CHECK_OK(vdisk_close(v));
    free(buf);
}

/* The nth call fails; false if there is no such call. */
static bool create_once(const struct image_spec *spec, const struct fault_mode *mode, unsigned nth)
{
    struct fault_rule rule = {.nth = nth, .what = mode->what, .error = mode->error, .calls = 2};
    struct backend *fault;
    struct memdisk d;
    bool fired;
    int rc;

    oom_watch();
    memdisk_init(&d, 512);
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
    memdisk_finish(&d);
    CHECK_MSG(oom_live() == 0, "%u pieces of memory are never given back", oom_live());
    return fired;
}

static void test_create(void)
{
    const struct image_spec *spec = &specs[test_repetition() % ARRAY_LEN(specs)];

    for (unsigned m = 0; m < FAULT_MODES; m++) {
        unsigned nth = 0;
        do {
            nth++;
            CHECK_MSG(nth < MAX_CALLS, "no end to the calls");
            test_note("call %u: %s; %s", nth, fault_modes[m].name, image_describe(spec));
        } while (create_once(spec, &fault_modes[m], nth));
        CHECK_MSG(nth > 1 || !spec->qcow2 || fault_modes[m].what == FAULT_SHORT, "no call was made");
    }
}

int main(int argc, char **argv)
{
    static const struct test_case cases[] = {
        {.name = "create", .run = test_create, .repeat = ARRAY_LEN(specs)},
    };

    return test_main(argc, argv, cases, ARRAY_LEN(cases));
}
