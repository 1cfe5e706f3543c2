/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * qcow2/repair on images broken by hand: what is left is as worked out in the table of damages; each guest byte
 * that could be read reads the same; a second repair finds nothing to do; what we call clean QEMU calls clean.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/base/bits.h"
#include "engine/vdisk-image.h"
#include "qcow2/check/check.h"
#include "qcow2/format/entry.h"
#include "tests/lib/run.h"
#include "tests/lib/test.h"
#include "tests/unit/qcow2/check/q2_damage.h"

enum { CLUSTER = 65536, GUEST_CLUSTERS = 12 };

/* What reads of the guest clusters give. */
struct content {
    int      rc[GUEST_CLUSTERS];
    uint8_t *data;
};

static void read_content(const char *path, struct content *ret)
{
    struct vdisk_open_opts opts = {.size = sizeof opts, .format = "qcow2", .flags = VDISK_OPEN_CHECK};
    vdisk *v;

    ret->data = test_alloc(GUEST_CLUSTERS * CLUSTER);
    CHECK_OK(vdisk_open(path, &opts, &v));
    for (int i = 0; i < GUEST_CLUSTERS; i++)
        ret->rc[i] = vdisk_pread(v, ret->data + i * CLUSTER, CLUSTER, (uint64_t)i * CLUSTER);
    CHECK_OK(vdisk_close(v));
}

static void check_content(const char *path, const struct content *before)
{
    struct content now;

    read_content(path, &now);
    for (int i = 0; i < GUEST_CLUSTERS; i++)
        if (before->rc[i] == 0)
            CHECK_MSG(now.rc[i] == 0 && memcmp(now.data + i * CLUSTER, before->data + i * CLUSTER, CLUSTER) == 0,
                      "guest cluster %d reads differently", i);
    free(now.data);
}

static char findings[8192];

static void note(void *arg, enum qcow2_finding kind, const char *text)
{
    size_t n = strlen(findings);

    CHECK(strchr(text, '\n') == NULL && text[0] != '\0');
    snprintf(findings + n, sizeof findings - n, "\n    %d: %s", (int)kind, text);
}

static void repair(const char *path, enum qcow2_repair_what what, struct qcow2_repair_result *ret)
{
    struct qcow2_check_opts opts = {.report = note};
    struct backend *file;
    vdisk_queue *q;

    findings[0] = '\0';
    CHECK_OK(backend_open(path, BACKEND_RDWR, &file));
    CHECK_OK(vdisk_queue_create(NULL, &q));
    CHECK_OK(qcow2_repair(file, q, what, &opts, ret));
    vdisk_queue_destroy(q);
    backend_close(file);
}

static int verdict(const struct qcow2_check_result *r)
{
    return r->check_errors ? 1 : r->corruptions ? 2 : r->leaks ? 3 : 0;
}

static int qemu_verdict(const char *path, const char *repair)
{
    struct run_result r;

    run_shell(&r, "qemu-img check %s -q -f qcow2 %s 2>/dev/null", repair, path);
    return r.status;
}

static bool same_files(const char *a, const char *b)
{
    struct run_result r;

    run_shell(&r, "cmp -s %s %s", a, b);
    return r.status == 0;
}

static uint64_t host_bytes(const char *path)
{
    struct stat st;

    CHECK(stat(path, &st) == 0);
    return (uint64_t)st.st_blocks * 512;
}

/* The leaks are holes, and what lies between and behind them is as it was. */
static void check_space(const char *path, uint64_t before)
{
    enum { LEAKS = 40, NOT_OURS = 8, FILE_CLUSTERS = 80 };
    uint64_t now = host_bytes(path), filled = 0;
    uint8_t *data = test_alloc(FILE_CLUSTERS * CLUSTER);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t len = pread(fd, data, FILE_CLUSTERS * CLUSTER, 0);

    CHECK(len > 0);
    for (ssize_t i = 0; i + CLUSTER <= len; i += CLUSTER)
        filled += data[i] == DAMAGE_NOT_OURS && memcmp(data + i, data + i + 1, CLUSTER - 1) == 0;
    CHECK_INT(filled, NOT_OURS);
    if (before > (uint64_t)len / 2) /* else the file system counts otherwise */
        CHECK_MSG(now + (LEAKS - 1) * CLUSTER <= before, /* a refcount block may have become whole */
                  "%" PRIu64 " bytes on the host, were %" PRIu64, now, before);
    close(fd);
    free(data);
}

static void repair_one(const struct damage *d, enum qcow2_repair_what what)
{
    const char *path = test_path("image"), *copy = test_path("copy");
    const char *option = what == QCOW2_REPAIR_ALL ? "-r all" : "-r leaks";
    struct qcow2_repair_result ours, again;
    struct content before;
    uint64_t space;
    int qemu;

    test_requires("qemu-img");
    test_note("%s: %s", d->name, option);
    damage_make(d, path);
    run_ok("cp %s %s", path, copy);
    read_content(path, &before);
    space = host_bytes(path);
    repair(path, what, &ours);
    if (strcmp(d->name, "leaks-beside-what-is-not-ours") == 0)
        check_space(path, space);
    qemu = qemu_verdict(copy, option);
    printf("%s: %d, QEMU: %d%s\n", d->name, verdict(&ours.check), qemu, findings);
    CHECK_INT(verdict(&ours.check), what == QCOW2_REPAIR_ALL ? d->after_all : d->after_leaks);
    if (strcmp(d->name, "leak-past-the-end") == 0)
        CHECK_INT(ours.leaks_fixed, 5); /* no check speaks of them */
    check_content(path, &before);
    if (verdict(&ours.check) == 0)
        CHECK_INT(qemu_verdict(path, ""), 0);
    if (qemu == 0 && !d->differs)
        CHECK_INT(verdict(&ours.check), 0);
    /* Nothing is left that a second one would do; where there was nothing to do the image was not touched. */
    run_ok("cp %s %s", path, copy);
    repair(path, what, &again);
    free(before.data);
    if (what == QCOW2_REPAIR_ALL && d->after_all == 3) {
        CHECK_MSG(again.leaks_fixed > 0 && verdict(&again.check) == 0, "%" PRIu64 " leaks freed, then %d",
                  again.leaks_fixed, verdict(&again.check));
        return;
    }
    CHECK_INT(again.leaks_fixed + again.corruptions_fixed, 0);
    CHECK_INT(verdict(&again.check), verdict(&ours.check));
    CHECK(same_files(path, copy));
}

static void leaks(void)
{
    repair_one(&damages[test_repetition()], QCOW2_REPAIR_LEAKS);
}

static void all(void)
{
    repair_one(&damages[test_repetition()], QCOW2_REPAIR_ALL);
}

/* ---- changes of an image that has leaks ------------------------------------------------------------------ */

static int shrink(vdisk *v)
{
    struct vdisk_resize_opts opts = {.size = sizeof opts, .shrink = true};

    return vdisk_resize(v, 256 << 10, &opts);
}

static int widen_refcounts(vdisk *v)
{
    struct vdisk_amend_opts opts = {.size = sizeof opts, .refcount_bits = 32};
    vdisk_job *job;
    int rc;

    CHECK_OK(vdisk_job_amend(v, &opts, &job));
    rc = vdisk_job_run(job);
    vdisk_job_free(job);
    return rc;
}

/* Counts all references anew: what was a leak is none afterwards, or still one, but never damage. */
static void change_one(const struct damage *d, int (*change)(vdisk *v))
{
    struct vdisk_open_opts opts = {.size = sizeof opts, .format = "qcow2", .flags = VDISK_OPEN_RDWR};
    const char *path = test_path("image");
    struct content before, after;
    int rc;
    vdisk *v;

    damage_make(d, path);
    read_content(path, &before);
    rc = vdisk_open(path, &opts, &v);
    if (rc == 0) {
        rc = change(v);
        CHECK_OK(vdisk_close(v));
    }
    test_note("%s: %d", d->name, rc);
    CHECK(rc == 0 || rc == -ENOTSUP); /* of what has snapshots, or bitmaps */
    read_content(path, &after);
    CHECK(memcmp(before.data, after.data, 256 << 10) == 0);
    CHECK(qemu_verdict(path, "") % 3 == 0);
    free(before.data);
    free(after.data);
}

static void leaks_stay_harmless(void)
{
    const struct damage *d = &damages[test_repetition()];

    test_requires("qemu-img");
    if (d->corruptions + d->errors > 0)
        return;
    change_one(d, shrink);
    change_one(d, widen_refcounts);
}

/* ---- an L1 table that the header calls the refcount table ------------------------------------------------ */

static uint64_t change_word(int fd, uint64_t at, uint64_t clear, uint64_t set)
{
    uint8_t word[8];
    uint64_t was;

    CHECK(pread(fd, word, 8, (off_t)at) == 8);
    was = get_be64(word);
    put_be64(word, (was & ~clear) | set);
    CHECK(pwrite(fd, word, 8, (off_t)at) == 8);
    return was;
}

/* What tells that it is an L1 table is an entry that a repair drops: then the header must be right before. */
static void told_by_an_entry(void)
{
    const char *path = test_path("image");
    struct qcow2_repair_result res;
    struct content before;
    uint64_t l1;
    int fd;

    test_requires("qemu-img");
    damage_make_base(PLAIN, path);
    fd = open(path, O_RDWR | O_CLOEXEC);
    CHECK(fd >= 0);
    l1 = change_word(fd, offsetof(struct q2_disk_header, l1_table_offset), 0, 0);
    change_word(fd, offsetof(struct q2_disk_header, refcount_table_offset), UINT64_MAX, l1);
    change_word(fd, l1, Q2_COPIED, 0);
    change_word(fd, l1 + 8, UINT64_MAX, Q2_COPIED | (test_repetition() ? l1 : 512));
    close(fd);
    read_content(path, &before);
    repair(path, QCOW2_REPAIR_ALL, &res);
    CHECK_INT(verdict(&res.check), 3);
    CHECK_HAS(findings, "is kept: free it with -r leaks");
    check_content(path, &before);
    repair(path, QCOW2_REPAIR_LEAKS, &res);
    CHECK_INT(verdict(&res.check), 0);
    CHECK_INT(qemu_verdict(path, ""), 0);
    check_content(path, &before);
    free(before.data);
}

/* ---- a header with another cluster size ------------------------------------------------------------------ */

/* Also by it the header can be read; all else is where it was. */
static void other_cluster_size(void)
{
    const char *path = test_path("image"), *copy = test_path("copy");
    struct qcow2_repair_result res;
    struct backend *file;
    uint8_t *table = test_alloc(CLUSTER);
    vdisk_queue *q;
    uint64_t to;
    int fd;

    test_requires("qemu-img");
    damage_make_base(SNAPSHOT, path);
    fd = open(path, O_RDWR | O_CLOEXEC);
    CHECK(fd >= 0);
    to = align_up((uint64_t)lseek(fd, 0, SEEK_END), 2 * CLUSTER);
    CHECK(pread(fd, table, CLUSTER, (off_t)change_word(fd, offsetof(struct q2_disk_header, l1_table_offset),
                                                       UINT64_MAX, to)) > 0);
    CHECK(pwrite(fd, table, CLUSTER, (off_t)to) == CLUSTER);
    put_be32(table, 17);
    CHECK(pwrite(fd, table, 4, offsetof(struct q2_disk_header, cluster_bits)) == 4);
    close(fd);
    run_ok("cp %s %s", path, copy);
    CHECK_OK(backend_open(path, BACKEND_RDWR, &file));
    CHECK_OK(vdisk_queue_create(NULL, &q));
    CHECK_INT(qcow2_repair(file, q, QCOW2_REPAIR_ALL, NULL, &res), -EINVAL);
    CHECK_HAS(vdisk_error_text(), path);
    CHECK_HAS(vdisk_error_text(), "the cluster size in its header is wrong");
    vdisk_queue_destroy(q);
    backend_close(file);
    CHECK(same_files(path, copy));
    free(table);
}

/* ---- an image that would become as long as the disk ---------------------------------------------------- */

/* `tables` L2 tables more, each with `entries` that lead to the one cluster of data. */
static void make_shared(const char *path, unsigned tables, unsigned entries)
{
    uint8_t *table = test_alloc(CLUSTER), sector[512], word[8];
    uint64_t l1, end, data;
    int fd;

    run_ok("qemu-img create -q -f qcow2 %s 20G && qemu-io -f qcow2 -c 'write -q -P 7 0 64k' %s", path, path);
    fd = open(path, O_RDWR | O_CLOEXEC);
    CHECK(fd >= 0 && pread(fd, sector, sizeof sector, 0) == sizeof sector);
    l1 = get_be64(sector + offsetof(struct q2_disk_header, l1_table_offset));
    CHECK(pread(fd, word, 8, (off_t)l1) == 8);
    CHECK(pread(fd, word, 8, (off_t)q2_l1_offset(get_be64(word))) == 8);
    data = get_be64(word);
    for (unsigned i = 0; i < entries; i++)
        put_be64(table + (size_t)i * 8, data);
    end = align_up((uint64_t)lseek(fd, 0, SEEK_END), CLUSTER);
    for (unsigned i = 0; i < tables; i++, end += CLUSTER) {
        CHECK(pwrite(fd, table, CLUSTER, (off_t)end) == CLUSTER);
        put_be64(word, Q2_COPIED | end);
        CHECK(pwrite(fd, word, 8, (off_t)(l1 + 8 * (i + 1))) == 8);
    }
    close(fd);
    free(table);
}

static void bounded(void)
{
    const char *path = test_path("image"), *copy = test_path("copy");
    struct qcow2_repair_result res;
    struct backend *file;
    vdisk_queue *q;

    test_requires("qemu-img");
    make_shared(path, 3, 5);
    repair(path, QCOW2_REPAIR_ALL, &res);
    CHECK_INT(verdict(&res.check), 0);
    make_shared(path, 8, CLUSTER / 8);
    run_ok("cp %s %s", path, copy);
    CHECK_OK(backend_open(path, BACKEND_RDWR, &file));
    CHECK_OK(vdisk_queue_create(NULL, &q));
    CHECK_INT(qcow2_repair(file, q, QCOW2_REPAIR_ALL, NULL, &res), -EFBIG);
    CHECK_HAS(vdisk_error_text(), path);
    CHECK_HAS(vdisk_error_text(), "4096 MiB longer");
    vdisk_queue_destroy(q);
    backend_close(file);
    CHECK(same_files(path, copy));
    repair(path, QCOW2_REPAIR_LEAKS, &res); /* copies nothing */
}

int main(int argc, char **argv)
{
    const struct test_case cases[] = {
        {.name = "changed", .run = leaks_stay_harmless, .repeat = damages_count},
        {.name = "leaks", .run = leaks, .repeat = damages_count},
        {.name = "all", .run = all, .repeat = damages_count},
        {.name = "told", .run = told_by_an_entry, .repeat = 2},
        {.name = "cluster_size", .run = other_cluster_size},
        {.name = "bounded", .run = bounded},
    };

    return test_main(argc, argv, cases, ARRAY_LEN(cases));
}
