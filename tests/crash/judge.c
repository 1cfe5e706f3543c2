/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The property, for one crash image: it opens; the check finds no corruption; what was flushed reads back and what
 * was not reads as something that was written there; after repair it can be used.
 */
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "engine/base/bits.h"
#include "engine/volume.h"
#include "qcow2/check/check.h"
#include "tests/crash/rig.h"
#include "tests/lib/run.h"
#include "tests/lib/test.h"

enum { QEMU_EVERY = 400, PLACE_LEAST = 2, LEAKY_TRIES = 8, DESCRIPTION = 1500 };

struct judge {
    struct rig *rig;
    struct crash_walk *walk;
    struct crash_image *image;
    struct oracle oracle;
    struct sim *sim;
    vdisk_queue *queue;
    uint8_t *got, *expected; /* max_size bytes */
    uint64_t seed;
    uint64_t images;
};

struct rig_totals *rig_totals;

void rig_totals_init(void)
{
    rig_totals = mmap(NULL, sizeof *rig_totals, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (rig_totals == MAP_FAILED)
        abort();
}

void rig_totals_print(void)
{
    const struct rig_totals *t = rig_totals;

    printf("%" PRIu64 " crash images at %" PRIu64 " places of %" PRIu64 " runs; ", t->images, t->places, t->runs);
    printf("%" PRIu64 " repaired and used, %" PRIu64 " checked by qemu-img too, %" PRIu64 " with leaks\n", t->used,
           t->qemu_checked, t->leaks);
}

/* ---- opening ---------------------------------------------------------------------------------------------- */

static struct backend *open_disk(struct judge *j, unsigned disk, bool read_only)
{
    struct backend *b = crash_image_open(j->image, disk, read_only);

    CHECK_MSG(b, "out of memory");
    return b;
}

static int open_named(void *arg, const char *name, uint32_t flags, struct backend **ret_backend)
{
    struct judge *j = arg;
    enum rig_disk disk = rig_disk_by_name(name);

    *ret_backend = disk == RIG_BASE ? memdisk_open(&j->rig->disk[disk], true)
                                    : open_disk(j, disk, !(flags & BACKEND_RDWR));
    return 0;
}

static int open_image(struct judge *j, uint32_t flags, vdisk **ret)
{
    struct vdisk_open_opts opts = {.size = sizeof opts, .flags = flags, .format = "qcow2", .cache_bytes = 1};

    return vdisk_open_backend(open_disk(j, RIG_IMAGE, !(flags & VDISK_OPEN_RDWR)), &opts, ret);
}

/* ---- the property ------------------------------------------------------------------------------------------ */

static void report(void *arg, enum qcow2_finding kind, const char *text)
{
    if (kind == QCOW2_CORRUPTION || kind == QCOW2_ERROR)
        snprintf(arg, 512, "%s", text);
}

/* Returns the leaks. */
static uint64_t check_image(struct judge *j, const char *when)
{
    char finding[512] = "";
    struct qcow2_check_opts opts = {.report = report, .report_arg = finding};
    struct qcow2_check_result res = {.corruptions = 0};
    struct backend *b = open_disk(j, RIG_IMAGE, true);
    int rc = qcow2_check(b, j->queue, &opts, &res);

    backend_close(b);
    CHECK_MSG(rc == 0, "check of %s: %s", when, vdisk_error_text());
    CHECK_MSG(res.corruptions == 0 && res.check_errors == 0,
              "check of %s finds %" PRIu64 " corruptions, %" PRIu64 " errors, as: %s", when, res.corruptions,
              res.check_errors, finding);
    return res.leaks;
}

static void read_all(vdisk *v, uint8_t *to)
{
    if (vdisk_pread(v, to, vdisk_size(v), 0) < 0)
        FAIL("the crash image cannot be read: %s", vdisk_error_text());
}

/* False: it is no image, and need not be one. */
static bool check_content(struct judge *j)
{
    vdisk *v;
    int rc = open_image(j, 0, &v);

    if (rc < 0 && !j->oracle.created)
        return false;
    if (rc < 0)
        FAIL("the crash image cannot be opened: %s", vdisk_error_text());
    CHECK_MSG(vdisk_size(v) <= j->rig->max_size, "the crash image has %" PRIu64 " bytes", vdisk_size(v));
    read_all(v, j->got);
    oracle_expect(&j->oracle, j->got, vdisk_size(v), "the crash image");
    CHECK_OK(vdisk_close(v));
    return true;
}

/* Change some of it, in memory and on the image. */
static void change(struct judge *j, struct rng *r, vdisk *v)
{
    uint64_t size = vdisk_size(v), unit = j->rig->spec.cluster_size;
    uint64_t offset = rng_below(r, size), len = min_u64(rng_between(r, 1, 3 * unit), size - offset);

    if (rng_chance(r, 25)) {
        CHECK_OK(vdisk_pzero(v, len, offset, VDISK_REQ_UNMAP));
        memset(j->expected + offset, 0, len);
        return;
    }
    rng_fill(r, j->expected + offset, len);
    CHECK_OK(vdisk_pwrite(v, j->expected + offset, len, offset, 0));
}

static void compare(struct judge *j, vdisk *v, const char *when)
{
    uint64_t size = vdisk_size(v), i = 0;

    read_all(v, j->got);
    if (memcmp(j->got, j->expected, size) == 0)
        return;
    while (i < size && j->got[i] == j->expected[i])
        i++;
    CHECK_MSG(i == size, "%s byte %" PRIu64 " reads 0x%02x, not 0x%02x", when, i, j->got[i], j->expected[i]);
}

/* By check -r leaks, or all; then there is nothing to find. */
static void repair(struct judge *j)
{
    char finding[512] = "";
    struct qcow2_check_opts opts = {.report = report, .report_arg = finding};
    struct qcow2_repair_result res;
    struct backend *b = open_disk(j, RIG_IMAGE, false);
    int rc = qcow2_repair(b, j->queue, j->images % 2 ? QCOW2_REPAIR_LEAKS : QCOW2_REPAIR_ALL, &opts, &res);

    backend_close(b);
    CHECK_MSG(rc == 0, "repair of the crash image: %s", vdisk_error_text());
    CHECK_MSG(res.check.leaks == 0 && res.check.corruptions == 0 && res.check.check_errors == 0,
              "after repair of the crash image there are %" PRIu64 " leaks, %" PRIu64 " corruptions, as: %s",
              res.check.leaks, res.check.corruptions, finding);
}

/* What is uncovered reads as zeros, whatever shrinking had left there. */
static void grow(struct judge *j, struct rng *r, vdisk *v)
{
    uint64_t size = vdisk_size(v), room = align_down(j->rig->max_size, 512) - align_up(size, 512);

    if (size >= j->rig->max_size || room == 0 || j->rig->tight || !rng_chance(r, 25))
        return;
    memset(j->expected + size, 0, j->rig->max_size - size);
    CHECK_OK(vdisk_grow(v, align_up(size, 512) + 512 * rng_between(r, 1, room / 512)));
    compare(j, v, "after growing the crash image,");
}

/* Written to, flushed, closed, checked, read again: as any other image. */
static void use_image(struct judge *j)
{
    struct rng r;
    vdisk *v;

    rng_init(&r, j->seed ^ rng_mix(j->images));
    if (open_image(j, VDISK_OPEN_RDWR, &v) < 0)
        FAIL("the crash image cannot be opened for writing: %s", vdisk_error_text());
    memcpy(j->expected, j->got, vdisk_size(v));
    grow(j, &r, v);
    for (unsigned i = 0; i < 4; i++)
        change(j, &r, v);
    CHECK_OK(vdisk_sync(v));
    compare(j, v, "after writing to the crash image,");
    CHECK_OK(vdisk_close(v));
    check_image(j, "the crash image after use");
    if (open_image(j, 0, &v) < 0)
        FAIL("the crash image cannot be opened after use: %s", vdisk_error_text());
    compare(j, v, "after use of the crash image, opened again,");
    CHECK_OK(vdisk_close(v));
    rig_totals->used++;
}

static void save_disk(struct judge *j, enum rig_disk disk, const char *path)
{
    uint64_t size = crash_image_size(j->image, disk);
    uint8_t *bytes = test_alloc(size);
    FILE *f = fopen(path, "w");

    crash_image_read(j->image, disk, 0, bytes, size);
    if (disk == RIG_IMAGE && size >= 20) { /* QEMU finds no backing file by our name, and needs none to check */
        put_be64(bytes + 8, 0);
        put_be32(bytes + 16, 0);
    }
    CHECK(f && fwrite(bytes, 1, size, f) == size && fclose(f) == 0);
    free(bytes);
}

static void check_by_qemu(struct judge *j)
{
    char data[PATH_MAX + 100] = "";
    const char *path = test_path("saved");
    struct run_result r;

    save_disk(j, RIG_IMAGE, path);
    if (j->rig->spec.data_file) {
        save_disk(j, RIG_DATA, test_path("saved.data"));
        snprintf(data, sizeof data, ",data-file.driver=file,data-file.filename=%s", test_path("saved.data"));
    }
    run_shell(&r, "qemu-img check -q --image-opts driver=qcow2,file.driver=file,file.filename=%s%s", path, data);
    CHECK_MSG(r.status == 0 || r.status == 3, "qemu-img check of the crash image exits with %d: %.4000s", r.status,
              r.out);
    rig_totals->qemu_checked++;
}

static void judge_image(struct judge *j, unsigned number)
{
    char text[DESCRIPTION];
    uint64_t leaks;

    crash_walk_describe(j->walk, text, sizeof text);
    test_note("%s%s; crash before event %" PRIu64 ", image %u: %s", image_describe(&j->rig->spec),
              j->rig->fixed ? " on a device" : "", crash_walk_position(j->walk), number, text);
    if (crash_image_make(j->walk, &j->image) < 0)
        FAIL("out of memory");
    if (check_content(j)) {
        leaks = check_image(j, "the crash image");
        rig_totals->leaks += leaks > 0;
        if (j->images % QEMU_EVERY == QEMU_EVERY / 2)
            check_by_qemu(j);
        repair(j);
        use_image(j);
    }
    crash_image_destroy(j->image);
    j->image = NULL;
    j->images++;
    rig_totals->images++;
}

/* ---- the walk ----------------------------------------------------------------------------------------------- */

/* Pass one event; false: there is no more that happens. */
static bool next_event(struct crash_walk *w, struct crash_event *event)
{
    int rc = crash_walk_next(w, event);

    CHECK_OK(rc);
    return rc > 0 && !(event->kind == CRASH_MARK && event->mark == MARK_CUT);
}

/* How many places there are, to spread the images over. */
static unsigned count_places(struct rig *r)
{
    struct crash_walk *w;
    struct crash_event event;
    unsigned places = 1;

    CHECK_OK(crash_walk_create(r->log, r->unit, &w));
    do
        places += crash_walk_is_rich(w) && crash_walk_pieces(w) > 0;
    while (next_event(w, &event));
    crash_walk_destroy(w);
    return places;
}

static void judge_place(struct judge *j, unsigned most)
{
    unsigned n = 0;

    while (crash_walk_choose(j->walk, j->seed, n, most))
        judge_image(j, n++);
    rig_totals->places += n > 0;
}

static void walk(struct judge *j, unsigned images)
{
    unsigned most = max_u64(images / count_places(j->rig), PLACE_LEAST);
    struct crash_event event = {.kind = CRASH_BEGIN};

    do {
        if (event.kind == CRASH_MARK)
            oracle_mark(&j->oracle, (enum mark)event.mark, event.value);
        if (crash_walk_is_rich(j->walk))
            judge_place(j, most);
    } while (next_event(j->walk, &event));
    judge_place(j, most);
}

static void judge_begin(struct judge *j, struct rig *r)
{
    struct sim_options options = {.seed = 1, .open = open_named, .arg = j};

    *j = (struct judge){.rig = r, .seed = rng_next(r->rng)};
    sim_leave(r->sim);
    CHECK_OK(sim_create(&options, &j->sim)); /* without system calls an image costs less */
    sim_enter(j->sim);
    CHECK_OK(vdisk_queue_create(NULL, &j->queue));
    CHECK_OK(crash_walk_create(r->log, r->unit, &j->walk));
    j->got = vdisk_alloc_buffer(r->max_size);
    j->expected = vdisk_alloc_buffer(r->max_size);
    CHECK(j->got && j->expected);
}

static void judge_end(struct judge *j)
{
    free(j->got);
    free(j->expected);
    crash_walk_destroy(j->walk);
    vdisk_queue_destroy(j->queue);
    sim_leave(j->sim);
    sim_destroy(j->sim);
    sim_enter(j->rig->sim);
}

void rig_judge(struct rig *r, unsigned images)
{
    char text[DESCRIPTION];
    struct judge j;

    for (unsigned i = 0; i < RIG_DISKS; i++) /* the guest may discard around what it writes */
        if (crash_log_overlap(r->log, i, i == RIG_IMAGE, text, sizeof text))
            FAIL("changes of one place on disk %u overlapped in time: %s", i, text);
    judge_begin(&j, r);
    oracle_init(&j.oracle, r->version, r->spec.size, r->max_size);
    j.oracle.created = !r->creates;
    if (r->initial)
        memcpy(j.oracle.stable, r->initial, r->max_size);
    walk(&j, images);
    oracle_finish(&j.oracle);
    judge_end(&j);
    rig_totals->runs++;
}

/* ---- going on with a crash image -------------------------------------------------------------------------- */

/* Make one at this place, the first with leaks of some. False: there is none here. */
static bool make_leaky(struct judge *j)
{
    unsigned n = 0;

    while (crash_walk_choose(j->walk, j->seed, n, LEAKY_TRIES)) {
        crash_image_destroy(j->image);
        if (crash_image_make(j->walk, &j->image) < 0)
            FAIL("out of memory");
        if (check_image(j, "the first crash image") > 0)
            return true;
        n++;
    }
    return n > 0;
}

static void take_content(struct judge *j)
{
    struct rig *r = j->rig;
    vdisk *v;

    if (open_image(j, 0, &v) < 0)
        FAIL("the first crash image cannot be opened: %s", vdisk_error_text());
    free(r->initial);
    r->initial = test_alloc(r->max_size);
    r->spec.size = vdisk_size(v);
    read_all(v, j->got);
    memcpy(r->initial, j->got, r->spec.size);
    CHECK_OK(vdisk_close(v));
}

static void take_disk(struct judge *j, enum rig_disk disk)
{
    uint64_t size = crash_image_size(j->image, disk);
    struct memdisk *d = &j->rig->disk[disk];
    uint8_t *bytes = test_alloc(size + 1);

    if (!j->rig->fixed) {
        memdisk_finish(d);
        memdisk_init(d, 512);
    }
    crash_image_read(j->image, disk, 0, bytes, size);
    if (size > 0)
        memdisk_write(d, 0, bytes, size);
    free(bytes);
}

void rig_crash(struct rig *r)
{
    uint64_t place = rng_below(r->rng, count_places(r)), places = 0;
    struct crash_event event;
    struct judge j;

    judge_begin(&j, r);
    do
        places += crash_walk_is_rich(j.walk) && crash_walk_pieces(j.walk) > 0;
    while (places <= place && next_event(j.walk, &event));
    if (!make_leaky(&j))
        test_skip("no write could be lost at the place chosen");
    take_content(&j);
    take_disk(&j, RIG_IMAGE);
    take_disk(&j, RIG_DATA);
    crash_image_destroy(j.image);
    judge_end(&j);
    for (uint32_t i = 0; i < r->versions; i++)
        free(r->version[i].data);
    memset(r->version, 0, sizeof r->version);
    r->versions = 0;
    crash_log_destroy(r->log);
    r->log = NULL;
    rig_start_log(r);
}
