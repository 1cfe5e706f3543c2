/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* json: names: in images that qemu-img makes and in ours, typed, and leading back to the image itself. */
#include <stdio.h>

#include "tests/lib/run.h"
#include "tests/lib/test.h"

/* %s: the base. */
static const char *const names[] = {
    "json:{\"driver\":\"qcow2\",\"file\":{\"driver\":\"file\",\"filename\":\"%s\"}}",
    "json:{\"driver\":\"qcow2\",\"file.driver\":\"file\",\"file.filename\":\"%s\"}",
    "json:{\"driver\":\"qcow2\",\"file.filename\":\"%s\"}",
};

static void make_base(void)
{
    test_requires("qemu-img");
    run_ok("qemu-img create -q -f qcow2 base.qcow2 1M && "
           "qemu-io -f qcow2 -c 'write -q -P 7 100k 200k' base.qcow2");
}

static void check_top(const char *top)
{
    run_ok(VDISK_IO " io -r -q -f qcow2 -c 'read -P 7 100k 200k' -c 'read -P 0 300k 100k' %s", top);
    run_ok("qemu-io -r -f qcow2 -c 'read -q -P 7 100k 200k' %s", top);
    run_ok("qemu-img compare -q -f qcow2 -F qcow2 %s base.qcow2", top);
    /* And over it: the edges of a cluster come from below. */
    run_ok(VDISK_IO " io -q -f qcow2 -c 'write -P 9 110k 1k' -c 'read -P 7 100k 10k' %s && qemu-img check -q %s",
           top, top);
    run_ok("qemu-io -r -f qcow2 -c 'read -q -P 9 110k 1k' -c 'read -q -P 7 111k 189k' %s", top);
}

static void in_images(void)
{
    char name[8192];

    make_base();
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        /* A path is relative to where the program runs, not to the image: so for QEMU, and so for us. */
        snprintf(name, sizeof name, names[i], i % 2 ? "base.qcow2" : test_path("base.qcow2"));
        test_note("%s", name);
        run_ok("rm -f top.qcow2 && qemu-img create -q -f qcow2 -F qcow2 -b '%s' top.qcow2", name);
        check_top("top.qcow2");
        run_ok("rm -f top.qcow2 && " VDISK_IO " create -q -f qcow2 -F qcow2 -b '%s' top.qcow2", name);
        check_top("top.qcow2");
    }
}

static void typed(void)
{
    char name[8192];

    make_base();
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        snprintf(name, sizeof name, names[i], "base.qcow2");
        test_note("%s", name);
        run_ok(VDISK_IO " io -r -q -c 'read -P 7 100k 200k' '%s'", name);
        run_ok(VDISK_IO " check -q '%s' && " VDISK_IO " map '%s' && " VDISK_IO " info '%s'", name, name, name);
    }
    CHECK_HAS(run_ok(VDISK_IO " info \"json:{'driver':'raw','file.filename':'base.qcow2'}\""), "file format: raw");
    /* A backend's driver alone: these bytes, unless a format is asked for. */
    CHECK_HAS(run_ok(VDISK_IO " io -r -c 'read -v 0 4' "
                     "\"json:{'driver':'file','filename':'base.qcow2'}\""), "QFI");
    run_ok(VDISK_IO " io -f qcow2 -r -q -c 'read -P 7 100k 200k' "
           "\"json:{'driver':'file','filename':'base.qcow2'}\"");
}

static void data_file(void)
{
    make_base();
    run_ok("qemu-img create -q -f qcow2 -o data_file=data.raw image.qcow2 1M && "
           "qemu-io -f qcow2 -c 'write -q -P 5 0 64k' image.qcow2 && cp data.raw moved.raw && "
           "qemu-io -f raw -c 'write -q -P 6 0 64k' data.raw");
    run_ok(VDISK_IO " io -r -q -c 'read -P 5 0 64k' "
           "\"json:{'driver':'qcow2','file.filename':'image.qcow2','data-file':{'driver':'file',"
           "'filename':'moved.raw'}}\"");
    /* In the header. */
    run_ok("qemu-img amend -f qcow2 -o data_file=\"json:{'driver':'file',,'filename':'moved.raw'}\" image.qcow2");
    run_ok(VDISK_IO " io -r -q -c 'read -P 5 0 64k' image.qcow2");
}

static void refusals(void)
{
    static const struct {
        const char *name, *text;
    } bad[] = {
        {"json:{\"driver\":\"qcow2\",\"file.filename\":\"top.qcow2\"}", "part of its own chain"},
        {"json:{\"driver\":\"raw\",\"file.filename\":\"base.qcow2\"}", "its name says 'raw'"},
        {"json:{\"driver\":\"qcow2\",\"file.driver\":\"host_device\",\"file.filename\":\"base.qcow2\"}",
         "not a block device"},
        {"json:{\"driver\":\"qcow2\",\"file.driver\":\"file\",\"file.filename\":\"/dev/null\"}",
         "a character device"},
        {"json:{\"driver\":\"ssh\",\"host\":\"x\"}", "driver 'ssh' is not supported"},
        {"json:{\"driver\":\"qcow2\",\"file.filename\":\"base.qcow2\",\"cash-size\":1}",
         "driver 'qcow2' has no option 'cash-size'; it has: file, backing"},
    };
    static struct run_result r;

    make_base();
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        test_note("%s", bad[i].name);
        run_ok("rm -f top.qcow2 && qemu-img create -q -u -f qcow2 -F qcow2 -b '%s' new.qcow2 1M && "
               "mv new.qcow2 top.qcow2", bad[i].name);
        run_shell(&r, VDISK_IO " map -f qcow2 top.qcow2");
        CHECK_INT(r.status, 1);
        CHECK_HAS(r.out, "top.qcow2: backing file: ");
        CHECK_HAS(r.out, bad[i].text);
    }
    run_shell(&r, VDISK_IO " create -f qcow2 \"json:{'driver':'file','filename':'new.qcow2'}\" 1M");
    CHECK_INT(r.status, 1);
    /* An image that would destroy what it is to stand on. */
    run_shell(&r, VDISK_IO " create -f qcow2 -F qcow2 -b \"json:{'file.filename':'base.qcow2'}\" base.qcow2");
    CHECK_INT(r.status, 1);
    CHECK_HAS(r.out, "its own backing file");
    run_ok("qemu-io -r -f qcow2 -c 'read -q -P 7 100k 200k' base.qcow2");
}

int main(int argc, char **argv)
{
    const struct test_case cases[] = {
        {.name = "in-images", .run = in_images},
        {.name = "typed", .run = typed},
        {.name = "data-file", .run = data_file},
        {.name = "refusals", .run = refusals},
    };

    return test_main(argc, argv, cases, sizeof cases / sizeof cases[0]);
}
