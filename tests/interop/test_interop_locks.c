/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Image locks with QEMU, both ways: who holds an image, the other is told; sharing is asked for. */
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "engine/base/bits.h"
#include "tests/interop/interop_lib.h"
#include "tests/lib/run.h"
#include "tests/lib/test.h"

enum { SIZE = 1 << 20 };

static void make(struct image_spec *spec, bool qcow2)
{
    test_requires("qemu-io");
    image_default(spec, "image", SIZE);
    spec->qcow2 = qcow2;
    spec->by_qemu = true;
    image_create(spec);
}

/* The command must fail and say so. */
static void refused(const char *command, const struct image_spec *spec, const char *text)
{
    struct run_result r;

    run_shell(&r, "%s %s", command, spec->path);
    CHECK_MSG(r.status != 0 || strstr(r.out, "can't open"), "'%s' is not refused: %s", command, r.out);
    CHECK_HAS(r.out, text);
}

static const char *io_command(bool qcow2, const char *options, const char *command)
{
    static char text[256];

    snprintf(text, sizeof text, "qemu-io %s -f %s -c '%s'", options, qcow2 ? "qcow2" : "raw", command);
    return text;
}

static void we_hold(bool qcow2)
{
    struct image_spec spec;
    vdisk *v;

    make(&spec, qcow2);
    v = must_open(spec.path, VDISK_OPEN_RDWR);
    refused(io_command(qcow2, "", "write 0 512"), &spec, "lock");
    /* QEMU lets anybody write to what it reads as raw. */
    if (qcow2)
        refused(io_command(true, "-r", "read 0 512"), &spec, "lock");
    else
        run_ok("%s %s", io_command(false, "-r", "read 0 512"), spec.path);
    if (qcow2)
        refused("qemu-img info", &spec, "lock");
    run_ok("qemu-img info -U %s", spec.path);
    run_ok("%s %s", io_command(qcow2, "-r -U", "read 0 512"), spec.path);
    must_refuse(spec.path, VDISK_OPEN_RDWR, -EAGAIN, "lock");
    must_refuse(spec.path, 0, -EAGAIN, "lock");
    CHECK_OK(vdisk_close(must_open(spec.path, VDISK_OPEN_FORCE_SHARE)));
    CHECK_OK(vdisk_close(must_open(spec.path, VDISK_OPEN_NO_LOCK)));
    CHECK_OK(vdisk_close(v));
    run_ok("%s %s", io_command(qcow2, "", "write 0 512"), spec.path);
}

static void test_we_write(void)
{
    we_hold(true);
}

static void test_we_write_raw(void)
{
    we_hold(false);
}

static void test_we_read(void)
{
    struct image_spec spec;
    vdisk *v, *second;

    make(&spec, true);
    v = must_open(spec.path, 0);
    second = must_open(spec.path, 0);
    run_ok("%s %s", io_command(true, "-r", "read 0 512"), spec.path);
    run_ok("qemu-img info %s", spec.path);
    refused(io_command(true, "", "write 0 512"), &spec, "lock");
    must_refuse(spec.path, VDISK_OPEN_RDWR, -EAGAIN, "lock");
    CHECK_OK(vdisk_close(second));
    CHECK_OK(vdisk_close(v));
    CHECK_OK(vdisk_close(must_open(spec.path, VDISK_OPEN_RDWR)));
}

/* qemu-io, open and idle. */
static void hold(struct run_child *child, const struct image_spec *spec, const char *options)
{
    run_start(child, "exec qemu-io %s -f %s %s", options, spec->qcow2 ? "qcow2" : "raw", spec->path);
    run_tell(child, "length");
    run_expect(child, "1 MiB");
}

/* The holder is named: by its process, which is qemu-io. */
static void must_name_holder(const struct image_spec *spec, const struct run_child *child, uint32_t flags)
{
    char pid[32];

    snprintf(pid, sizeof pid, "%ld", (long)child->pid);
    must_refuse(spec->path, flags, -EAGAIN, "lock");
    CHECK_MSG(strstr(vdisk_error_text(), pid) || strstr(vdisk_error_hint(), pid),
              "process %s is not named: %s (%s)", pid, vdisk_error_text(), vdisk_error_hint());
    CHECK_MSG(strstr(vdisk_error_text(), "qemu-io") || strstr(vdisk_error_hint(), "qemu-io"),
              "qemu-io is not named: %s (%s)", vdisk_error_text(), vdisk_error_hint());
}

static void test_qemu_writes(void)
{
    struct image_spec spec;
    struct run_child child;

    make(&spec, true);
    hold(&child, &spec, "");
    must_name_holder(&spec, &child, VDISK_OPEN_RDWR);
    must_name_holder(&spec, &child, 0);
    CHECK_OK(vdisk_close(must_open(spec.path, VDISK_OPEN_FORCE_SHARE)));
    run_tell(&child, "quit");
    CHECK_INT(run_wait(&child), 0);
    CHECK_OK(vdisk_close(must_open(spec.path, VDISK_OPEN_RDWR)));
}

static void test_qemu_reads(void)
{
    struct image_spec spec;
    struct run_child child;

    make(&spec, true);
    hold(&child, &spec, "-r");
    must_name_holder(&spec, &child, VDISK_OPEN_RDWR);
    CHECK_OK(vdisk_close(must_open(spec.path, 0)));
    run_kill(&child, SIGKILL);
    CHECK_OK(vdisk_close(must_open(spec.path, VDISK_OPEN_RDWR)));
}

/* QEMU's writer of a raw file shares writing: qemu-contract. Ours does not mind, unless it wants it alone. */
static void test_create_over_held(void)
{
    struct image_spec spec;
    struct vdisk_create_opts opts, raw = {.size = sizeof raw, .format = "raw", .virtual_size = SIZE};
    struct run_child child;

    make(&spec, true);
    run_ok("cp %s copy", spec.path);
    hold(&child, &spec, "");
    image_create_opts(&spec, &opts);
    CHECK_INT(vdisk_create(spec.path, &opts), -EAGAIN);
    CHECK_HAS(vdisk_error_text(), "lock");
    CHECK_INT(vdisk_create(spec.path, &raw), -EAGAIN);
    run_tell(&child, "quit");
    CHECK_INT(run_wait(&child), 0);
    run_ok("cmp %s copy", spec.path);
}

/* A backing file of an open overlay: others may read it, not write it. */
static void test_backing(void)
{
    struct image_spec base, top;
    vdisk *v;

    make(&base, true);
    image_default(&top, "top", SIZE);
    snprintf(top.backing, sizeof top.backing, "%s", base.path);
    top.backing_format = "qcow2";
    image_create(&top);
    v = must_open(top.path, VDISK_OPEN_RDWR);
    refused(io_command(true, "", "write 0 512"), &base, "lock");
    run_ok("%s %s", io_command(true, "-r", "read 0 512"), base.path);
    must_refuse(base.path, VDISK_OPEN_RDWR, -EAGAIN, "lock");
    CHECK_OK(vdisk_close(v));
    run_ok("%s %s", io_command(true, "", "write 0 512"), base.path);
}

/* A second overlay on the same base is fine while the first is open. */
static void test_two_overlays(void)
{
    struct image_spec base, top[2];
    vdisk *v[2];

    make(&base, true);
    for (unsigned i = 0; i < 2; i++) {
        image_default(&top[i], i ? "top1" : "top0", SIZE);
        snprintf(top[i].backing, sizeof top[i].backing, "%s", base.path);
        top[i].backing_format = "qcow2";
        image_create(&top[i]);
    }
    for (unsigned i = 0; i < 2; i++)
        v[i] = must_open(top[i].path, VDISK_OPEN_RDWR);
    for (unsigned i = 0; i < 2; i++)
        CHECK_OK(vdisk_close(v[i]));
}

int main(int argc, char **argv)
{
    static const struct test_case cases[] = {
        {.name = "we_write", .run = test_we_write},     {.name = "we_write_raw", .run = test_we_write_raw},
        {.name = "we_read", .run = test_we_read},       {.name = "qemu_writes", .run = test_qemu_writes},
        {.name = "qemu_reads", .run = test_qemu_reads}, {.name = "create_over_held", .run = test_create_over_held},
        {.name = "backing", .run = test_backing},       {.name = "two_overlays", .run = test_two_overlays},
    };

    return test_main(argc, argv, cases, ARRAY_LEN(cases));
}
