/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Power cuts, with a real kernel's block layer: in the test machine the engine writes, with flushes, to a qcow2
 * image on a device-mapper device that logs all that reaches it; and to one in a file on ext4 on such a device.
 * Out here the log is replayed, to every flush and in between, with any part of what was not flushed, torn at
 * sectors (under ext4 at 4096 bytes). Each time the image must open, check without corruption (leaks are fine),
 * and hold what was flushed, by the history.
 */
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "engine/base/bits.h"
#include "qcow2/check/check.h"
#include "tests/lib/run.h"
#include "tests/lib/test.h"
#include "tests/vm/log_writes.h"
#include "tests/vm/powercut_plan.h"

enum {
    DEVICES = 3, /* runs on a bare device in one boot, */
    FILES = 2,   /* and in a file */
    DISK_SIZE = 64 << 20,
    LOG_SIZE = 1 << 30,
    STEPS = 120,
    DEVICE_CUTS = 600, /* about, between the flushes of one case */
    FILE_CUTS = 60,
    FS_ATOMIC = 4096,  /* what the disk under a file system writes as a whole */
    SKIPPED = 77,
    CASE_S = 800, /* a machine that dies early, one that takes all of its 300 s, and the replay */
};

#define MEMORY_NEEDED (UINT64_C(4) << 30)

static bool is_long(void)
{
    const char *text = getenv("VDISK_TEST_LONG");

    return text && text[0] != '\0';
}

/* ---- in the machine --------------------------------------------------------------------------------- */

/* One boot serves DEVICES + FILES cases: the first of them makes it. */
struct boot {
    unsigned round;
    uint64_t seed; /* of the first plan; the others follow */
};

static const char *boot_path(const struct boot *b, const char *name, unsigned number)
{
    return test_shared_path("boot-%u-%s-%u", b->round, name, number);
}

static void write_pattern(const char *path, uint32_t version, uint64_t size)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    uint8_t *buf = test_alloc(size);

    plan_fill(version, 0, buf, size);
    CHECK(fd >= 0 && write(fd, buf, size) == (ssize_t)size);
    close(fd);
    free(buf);
}

static void make_disks(const struct boot *b)
{
    run_ok("mkdir -p files && rm -rf files/*");
    write_pattern(test_path("files/base.raw"), HISTORY_ORIGIN, PLAN_MAX_SIZE);
    for (unsigned i = 0; i < DEVICES + FILES; i++) {
        const char *data = boot_path(b, "data", i);
        if (i < DEVICES)
            write_pattern(data, PLAN_GARBAGE, DISK_SIZE);
        else
            run_ok("mke2fs -q -t ext4 -d files %s %uM", data, DISK_SIZE >> 20);
        run_ok("cp --sparse=always %s %s && truncate -s %u %s", data, boot_path(b, "before", i), LOG_SIZE,
               boot_path(b, "log", i));
    }
}

static void run_machine(const struct boot *b)
{
    static struct run_result r;
    char disks[16384] = "";
    size_t n = 0;
    FILE *f;

    make_disks(b);
    for (unsigned i = 0; i < DEVICES + FILES; i++)
        n += (size_t)snprintf(disks + n, sizeof disks - n, " --disk %s --disk %s", boot_path(b, "data", i),
                              boot_path(b, "log", i));
    run_shell(&r,
              VM_RUN " --put %s --put %s --put files/base.raw %s sh powercut.sh %" PRIu64
                     " %u device device device ext4 ext4",
              VM_GUEST, VM_SCRIPT, disks, b->seed, test_steps(STEPS));
    printf("  test machine: %.1f s%s\n", r.seconds, strstr(r.out, "once more") ? ", started twice" : "");
    CHECK((f = fopen(boot_path(b, "status", 0), "we")));
    fprintf(f, "%d\n%s", r.status, r.out);
    CHECK(fclose(f) == 0);
}

static void need_machine(const struct boot *b)
{
    char text[4096] = "", *rest;
    FILE *f;

    test_requires("mke2fs");
    test_requires("e2fsck");
    test_requires("debugfs");
    if (access(boot_path(b, "status", 0), R_OK) < 0)
        run_machine(b);
    CHECK((f = fopen(boot_path(b, "status", 0), "re")));
    CHECK(fread(text, 1, sizeof text - 1, f) > 0);
    fclose(f);
    long status = strtol(text, &rest, 10);
    if (status == SKIPPED)
        test_skip("%s", rest + strcspn(rest, "s"));
    CHECK_MSG(status == 0, "in the test machine, exit code %ld: %s", status, rest);
}

/* ---- replay ----------------------------------------------------------------------------------------- */

struct replay {
    struct boot boot;
    bool ext4;
    struct plan plan;
    struct log log;
    uint8_t *disk;    /* the device: all entries so far */
    bool *unknown;    /* by sector: discarded */
    int fd;           /* the same, in a file */
    char disk_path[PATH_MAX], image_path[PATH_MAX], fs_path[PATH_MAX], copy_path[PATH_MAX];
    struct history h;
    struct step step; /* told to the history, not acknowledged */
    unsigned marked;  /* steps acknowledged */
    uint64_t size, durable_size;
    unsigned discards, points, opened, repaired, per_mille;
};

static void origin_content(void *arg, uint32_t version, uint64_t offset, uint8_t *buf)
{
    const struct replay *r = arg;

    if (version != HISTORY_ORIGIN || r->plan.backed)
        plan_content(NULL, version, offset, buf);
}

/* The next step may have begun. */
static void tell_step(struct replay *r)
{
    struct step *s = &r->step;

    plan_next(&r->plan, s);
    for (unsigned i = 0; i < s->n; i++) {
        uint32_t version = history_change(&r->h, s->changes[i].kind, s->changes[i].offset, s->changes[i].len);
        CHECK_INT(version, s->changes[i].version);
    }
    if (s->kind == STEP_GROW)
        r->size = s->size;
}

static bool is_durable(const struct step *s)
{
    return s->kind == STEP_CREATE || s->kind == STEP_FLUSH || s->kind == STEP_REOPEN || s->kind == STEP_FUA;
}

static void acknowledge_step(struct replay *r)
{
    if (r->step.kind == STEP_FUA) {
        history_durable(&r->h, r->step.changes[0].version);
    } else if (is_durable(&r->step)) {
        history_flush(&r->h);
        r->durable_size = r->size;
    }
    r->marked++;
}

static void verify_volume(struct replay *r, vdisk *v)
{
    uint64_t size = vdisk_size(v);
    uint8_t *buf = vdisk_alloc_buffer(PLAN_MAX_SIZE);

    CHECK(buf);
    CHECK_MSG(r->durable_size <= size && size <= r->size, "the volume has %" PRIu64 " bytes, not %" PRIu64, size,
              r->durable_size);
    CHECK_OK(vdisk_pread(v, buf, size, 0));
    uint64_t wrong = history_find_wrong(&r->h, 0, buf, size, false);
    CHECK_MSG(wrong == UINT64_MAX, "sector at %" PRIu64 " is wrong; %s", wrong, history_describe(&r->h, wrong));
    free(buf);
}

static void report(void *arg, enum qcow2_finding kind, const char *text)
{
    if (kind == QCOW2_CORRUPTION || kind == QCOW2_ERROR)
        FAIL("check: %s", text);
}

/* Whether to cut at a place where it can be done. */
static bool cut_here(const struct replay *r)
{
    return rng_below(test_rng(), 1000) < r->per_mille;
}

/* What a cut here leaves, in r->image_path. */
static void judge_image(struct replay *r)
{
    struct vdisk_open_opts opts = {.size = sizeof opts, .flags = VDISK_OPEN_BUFFERED, .format = "qcow2"};
    struct qcow2_check_opts check = {.report = report};
    struct qcow2_check_result found;
    vdisk *v;
    int rc = vdisk_open(r->image_path, &opts, &v);

    if (rc < 0 && r->marked == 0)
        return; /* not there yet, and says so */
    CHECK_MSG(rc == 0, "does not open: %s", vdisk_error_text());
    verify_volume(r, v);
    CHECK_OK(vdisk_close(v));
    CHECK_OK(qcow2_check_path(r->image_path, BACKEND_BUFFERED, &check, &found));
    r->opened++;
}

/* Opened for writing, used, checked; leaks removed; and still what it was. */
static void judge_use(struct replay *r)
{
    const char *copy = r->copy_path;
    struct vdisk_open_opts opts = {.size = sizeof opts, .flags = VDISK_OPEN_RDWR | VDISK_OPEN_BUFFERED};
    uint8_t buf[HISTORY_SECTOR], again[HISTORY_SECTOR];
    uint64_t offset = align_down(rng_below(test_rng(), r->durable_size), HISTORY_SECTOR);
    vdisk *v;

    image_check(copy, true);
    opts.format = "qcow2";
    CHECK_OK(vdisk_open(copy, &opts, &v));
    verify_volume(r, v);
    CHECK_OK(vdisk_pread(v, again, sizeof again, offset));
    plan_content(NULL, PLAN_GARBAGE, offset, buf);
    CHECK_OK(vdisk_pwrite(v, buf, sizeof buf, offset, 0));
    CHECK_OK(vdisk_sync(v));
    CHECK_OK(vdisk_pwrite(v, again, sizeof again, offset, VDISK_REQ_FUA));
    CHECK_OK(vdisk_close(v));
    run_ok(VDISK_IO " check -r leaks -f qcow2 %s", copy);
    image_check(copy, false);
    CHECK_OK(vdisk_open(copy, &opts, &v));
    verify_volume(r, v);
    CHECK_OK(vdisk_close(v));
    r->repaired++;
}

/* The file system recovers its journal, and gives the file. False: it has none, and none has been promised. */
static bool extract_image(struct replay *r)
{
    struct run_result result;

    run_ok("cp --sparse=always %s %s", r->disk_path, r->fs_path);
    run_shell(&result, "e2fsck -fp %s", r->fs_path);
    CHECK_MSG(result.status < 4, "e2fsck exits with %d: %s", result.status, result.out);
    run_ok("rm -f %s && debugfs -R 'dump /image %s' %s 2>&1", r->image_path, r->image_path,
           r->fs_path);
    if (access(r->image_path, R_OK) == 0)
        return true;
    CHECK_MSG(r->marked == 0, "the file system has no image");
    return false;
}

static void judge(struct replay *r, bool use)
{
    r->points++;
    if (r->ext4 && !extract_image(r))
        return;
    judge_image(r);
    if (!use || r->marked == 0)
        return;
    run_ok("cp --sparse=always %s %s", r->image_path, r->copy_path);
    judge_use(r);
}

/* ---- entries ---------------------------------------------------------------------------------------- */

static void store(struct replay *r, const void *buf, uint64_t offset, uint64_t len)
{
    CHECK(pwrite(r->fd, buf, len, (off_t)offset) == (ssize_t)len);
}

/* Of what was discarded nothing is known: all but the device's own business is legal. */
static void apply(struct replay *r, const struct log_entry *e)
{
    CHECK_MSG(e->offset <= DISK_SIZE && e->len <= DISK_SIZE - e->offset, "an entry past the end");
    if (e->flags & LOG_DISCARD) {
        plan_fill(PLAN_GARBAGE, e->offset, r->disk + e->offset, e->len);
        memset(r->unknown + e->offset / HISTORY_SECTOR, true, e->len / HISTORY_SECTOR);
        r->discards++;
    } else {
        log_content(&r->log, e, 0, r->disk + e->offset, e->len);
        memset(r->unknown + e->offset / HISTORY_SECTOR, false, e->len / HISTORY_SECTOR);
    }
    store(r, r->disk + e->offset, e->offset, e->len);
}

/* Writes that no flush stands between: they reach the disk in any order, if at all. */
static bool is_loose(const struct log_entry *e)
{
    return !(e->flags & (LOG_MARK | LOG_FLUSH | LOG_FUA));
}

enum pick { PICK_HALF, PICK_TORN, PICK_ALL_BUT_ONE, PICK_ONE, PICKS };

/*
 * A part of one write: whole sectors of it. Under ext4 whole blocks of 4096 bytes: it has its superblock, two
 * sectors with a checksum over both, written at once or not at all, and e2fsck gives up where it is not.
 */
static void store_torn(struct replay *r, const struct log_entry *e)
{
    uint64_t unit = r->ext4 ? FS_ATOMIC : HISTORY_SECTOR;
    uint8_t buf[FS_ATOMIC];

    for (uint64_t at = 0, n; at < e->len && !(e->flags & LOG_DISCARD); at += n) {
        n = min_u64(e->len - at, unit - (e->offset + at) % unit);
        if (rng_chance(test_rng(), 50))
            continue;
        log_content(&r->log, e, at, buf, n);
        store(r, buf, e->offset + at, n);
    }
}

static void store_whole(struct replay *r, const struct log_entry *e)
{
    uint8_t *buf = test_alloc(e->len + 1);

    if (!(e->flags & LOG_DISCARD)) {
        log_content(&r->log, e, 0, buf, e->len);
        store(r, buf, e->offset, e->len);
    }
    free(buf);
}

/* A cut with a part of entries[first...last]; afterwards the disk is as it was before. */
static void cut_within(struct replay *r, unsigned first, unsigned last)
{
    struct rng *rng = test_rng();
    enum pick pick = (enum pick)rng_below(rng, PICKS);
    unsigned one = (unsigned)rng_between(rng, first, last);

    for (unsigned i = first; i <= last; i++) {
        const struct log_entry *e = &r->log.entries[i];
        bool chosen = pick == PICK_ALL_BUT_ONE ? i != one : pick == PICK_ONE ? i == one : rng_chance(rng, 50);
        if (pick == PICK_TORN)
            store_torn(r, e);
        else if (chosen)
            store_whole(r, e);
    }
    judge(r, false);
    for (unsigned i = first; i <= last; i++) {
        const struct log_entry *e = &r->log.entries[i];
        store(r, r->disk + e->offset, e->offset, e->len);
    }
}

static void cuts_from(struct replay *r, unsigned first)
{
    unsigned last = first;

    while (last + 1 < r->log.n && is_loose(&r->log.entries[last + 1]))
        last++;
    for (unsigned i = 0; i <= last - first && i < 8; i++)
        if (cut_here(r))
            cut_within(r, first, last);
}

static void replay_entry(struct replay *r, unsigned i)
{
    const struct log_entry *e = &r->log.entries[i];

    if (!(e->flags & LOG_MARK)) {
        if (is_loose(e) && (i == 0 || !is_loose(e - 1)))
            cuts_from(r, i);
        apply(r, e);
        if (cut_here(r))
            judge(r, false);
        return;
    }
    if (e->mark[0] < '0' || e->mark[0] > '9')
        return; /* the kernel's own, at the end */
    CHECK_INT(strtoul(e->mark, NULL, 10), r->marked);
    bool durable = is_durable(&r->step), use = rng_chance(test_rng(), 15) || r->repaired == 0;
    acknowledge_step(r);
    tell_step(r);
    if (durable)
        judge(r, use);
}

/* What was replayed is what the device has, so that this program can be believed. */
static void compare_end(const struct replay *r, unsigned number)
{
    uint8_t *end = test_alloc(DISK_SIZE);
    int fd = open(boot_path(&r->boot, "data", number), O_RDONLY | O_CLOEXEC);

    CHECK(fd >= 0 && pread(fd, end, DISK_SIZE, 0) == DISK_SIZE);
    for (uint64_t at = 0; at < DISK_SIZE; at += HISTORY_SECTOR)
        CHECK_MSG(r->unknown[at / HISTORY_SECTOR] || memcmp(end + at, r->disk + at, HISTORY_SECTOR) == 0,
                  "after all of the log, sector %" PRIu64 " is not what the device holds", at / HISTORY_SECTOR);
    close(fd);
    free(end);
}

static void replay_init(struct replay *r, unsigned number)
{
    snprintf(r->disk_path, PATH_MAX, "%s", test_path(r->ext4 ? "disk" : "image"));
    snprintf(r->image_path, PATH_MAX, "%s", test_path("image"));
    snprintf(r->fs_path, PATH_MAX, "%s", test_path("fs"));
    snprintf(r->copy_path, PATH_MAX, "%s", test_path("copy"));
    r->disk = test_alloc(DISK_SIZE);
    r->unknown = test_alloc(DISK_SIZE / HISTORY_SECTOR);
    run_ok("cp --sparse=always %s %s", boot_path(&r->boot, "before", number), r->disk_path);
    CHECK((r->fd = open(r->disk_path, O_RDWR | O_CLOEXEC)) >= 0);
    CHECK(pread(r->fd, r->disk, DISK_SIZE, 0) == DISK_SIZE);
    write_pattern(test_path("base.raw"), HISTORY_ORIGIN, PLAN_MAX_SIZE);
    log_open(&r->log, boot_path(&r->boot, "log", number));
    plan_init(&r->plan, r->boot.seed + number);
    r->size = r->durable_size = r->plan.size;
    history_init(&r->h, PLAN_MAX_SIZE, origin_content, r);
    for (uint64_t at = r->size; at < PLAN_MAX_SIZE; at += HISTORY_SECTOR)
        r->h.durable[at / HISTORY_SECTOR] = HISTORY_ZERO;
    test_note("%s%s", image_describe(&r->plan.spec), r->plan.backed ? ", over a backing file" : "");
    tell_step(r);
}

static void run_case(bool ext4)
{
    unsigned of = ext4 ? FILES : DEVICES, number = test_repetition() % of + (ext4 ? DEVICES : 0);
    struct replay r = {.ext4 = ext4, .boot.round = test_repetition() / of};

    alarm(CASE_S); /* instead of what cases have */
    r.boot.seed = rng_mix(test_seed() + r.boot.round) >> 1;
    need_machine(&r.boot);
    replay_init(&r, number);
    /* A cut of a file system costs ten times that of a device; those at flushes come on top. */
    r.per_mille = is_long() ? 1000 : (ext4 ? FILE_CUTS : DEVICE_CUTS) * 1000 / (2 * r.log.n);
    for (unsigned i = 0; i < r.log.n; i++)
        replay_entry(&r, i);
    CHECK_INT(r.marked, test_steps(STEPS));
    compare_end(&r, number);
    printf("  %s: %u log entries, %u discards, %u power cuts, %u images, %u used and repaired\n",
           image_describe(&r.plan.spec), r.log.n, r.discards, r.points, r.opened, r.repaired);
    CHECK(r.opened > 0 && r.repaired > 0);
    history_finish(&r.h);
    log_close(&r.log);
    close(r.fd);
    free(r.disk);
    free(r.unknown);
}

static void test_device(void)
{
    run_case(false);
}

static void test_ext4(void)
{
    run_case(true);
}

/*
 * All these files are thrown away, and other programs sync them: memory is the place for them, where there is
 * enough.
 */
static void choose_directory(void)
{
    struct statvfs fs;

    if (!getenv("TMPDIR") && statvfs("/dev/shm", &fs) == 0 && (uint64_t)fs.f_bavail * fs.f_frsize > MEMORY_NEEDED)
        setenv("TMPDIR", "/dev/shm", 1);
}

int main(int argc, char **argv)
{
    unsigned rounds = is_long() ? 10 : 1;
    const struct test_case cases[] = {
        {.name = "device", .run = test_device, .repeat = DEVICES * rounds},
        {.name = "ext4", .run = test_ext4, .repeat = FILES * rounds},
    };

    choose_directory();
    return test_main(argc, argv, cases, ARRAY_LEN(cases));
}
