/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Images that QEMU and the library make: once for all cases of a run, then from memory. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/base/bits.h"
#include "tests/foreign/life.h"
#include "tests/lib/run.h"
#include "tests/lib/test.h"

#define WRITES "-c 'write -P 1 0 30k' -c 'write -z 64k 32k' -c 'write -P 2 200k 20k'"
#define COMPRESSED "-c 'write -c -P 3 128k 64k' " WRITES

/* Options of create, commands of qemu-io, what is done then. */
static const struct recipe {
    const char *options, *size, *io, *then;
} recipes[] = {
    {"cluster_size=4k", "300k", COMPRESSED, ""},
    {"cluster_size=512", "255k", COMPRESSED, "snapshot -c one"},
    {"cluster_size=16k,extended_l2=on", "512k", COMPRESSED, "snapshot -c one"},
    {"compat=0.10,cluster_size=4k", "256k", COMPRESSED, "snapshot -c one"},
    {"cluster_size=4k,refcount_bits=1", "256k", WRITES, ""},
    {"cluster_size=4k,refcount_bits=64", "256k", COMPRESSED, "snapshot -c one"},
    {"cluster_size=4k,compression_type=zstd", "256k", COMPRESSED, ""},
    {"cluster_size=64k", "1M", COMPRESSED, "snapshot -c one"},
    {"cluster_size=1k,lazy_refcounts=on", "256k", COMPRESSED, ""},
    {"cluster_size=4k,preallocation=metadata", "256k", WRITES, ""},
    {"cluster_size=4k,preallocation=falloc", "256k", WRITES, ""},
    {"cluster_size=4k", "256k", COMPRESSED, "bitmap --add --disable"},
};

static void load(struct life_made *m, const char *path, const char *name)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct stat st;

    CHECK_MSG(fd >= 0 && fstat(fd, &st) == 0, "%s: cannot be read", path);
    m->len = (uint64_t)st.st_size;
    m->bytes = test_alloc(m->len);
    CHECK(read(fd, m->bytes, m->len) == st.st_size);
    snprintf(m->name, sizeof m->name, "%s", name);
    close(fd);
}

static void make_by_qemu(const struct recipe *r, const char *path)
{
    run_ok("qemu-img create -q -f qcow2 -o %s %s.new %s", r->options, path, r->size);
    run_ok("qemu-io -f qcow2 %s %s.new", r->io, path);
    if (r->then[0]) {
        run_ok("qemu-img %s %s.new%s", r->then, path, r->then[0] == 'b' ? " map" : "");
        run_ok("qemu-io -f qcow2 -c 'write -P 4 0 8k' -c 'write -P 5 140k 3k' %s.new", path);
    }
    run_ok("mv %s.new %s", path, path);
}

/* The same by the library. */
static void make_by_us(unsigned i, const char *path)
{
    struct vdisk_create_opts create = {.size = sizeof create, .format = "qcow2", .virtual_size = 260 << 10};
    struct vdisk_open_opts open_opts = {.size = sizeof open_opts, .flags = VDISK_OPEN_RDWR, .format = "qcow2"};
    static uint8_t buf[40 << 10];
    struct rng r;
    vdisk *v;

    rng_init(&r, i); /* the same in every run, so that an image's seed is enough to have it again */
    create.cluster_size = 512u << i;
    create.extended_l2 = i >= 6;
    create.refcount_bits = 1u << i % 7;
    create.preallocation = (enum vdisk_prealloc)(i % 2);
    CHECK_OK(vdisk_create(path, &create));
    CHECK_OK(vdisk_open(path, &open_opts, &v));
    for (unsigned k = 0; k < 6; k++) {
        rng_fill(&r, buf, sizeof buf);
        CHECK_OK(vdisk_pwrite(v, buf, rng_between(&r, 1, 80) * 512, rng_below(&r, 430) * 512, 0));
        CHECK_OK(vdisk_pzero(v, 5000, 60000 + 9000 * k, VDISK_REQ_UNMAP));
        if (k == 3)
            CHECK_OK(vdisk_pdiscard(v, 30000, 100000));
    }
    CHECK_OK(vdisk_close(v));
}

unsigned life_make(struct life_made *made)
{
    enum { BY_US = 8 };
    struct run_result have;
    unsigned n = 0;
    char name[64];

    run_shell(&have, "command -v qemu-img && command -v qemu-io");
    for (unsigned i = 0; i < BY_US + ARRAY_LEN(recipes); i++) {
        const struct recipe *r = i < BY_US ? NULL : &recipes[i - BY_US];
        char path[4096];
        if (r && have.status != 0)
            continue;
        snprintf(path, sizeof path, "%s", test_shared_path("made-%u", i));
        if (access(path, R_OK) < 0 && r)
            make_by_qemu(r, path);
        else if (access(path, R_OK) < 0)
            make_by_us(i, path);
        snprintf(name, sizeof name, "the library, number %u", i);
        if (r)
            snprintf(name, sizeof name, "QEMU: %.50s", r->options);
        load(&made[n++], path, name);
    }
    return n;
}
