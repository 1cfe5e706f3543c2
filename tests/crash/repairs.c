/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A crash during the repair of a damaged image. The property, for one crash image: what could be read before the
 * repair reads the same, and no more clusters than before have a refcount below their references; a second repair
 * ends as the first would have without the crash, or better, and again nothing reads differently; a third finds
 * nothing to do. What is clean then can be used.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/bits.h"
#include "engine/volume.h"
#include "qcow2/format/entry.h"
#include "qcow2/format/header.h"
#include "tests/crash/rig.h"
#include "tests/crash/scenarios.h"
#include "tests/lib/run.h"
#include "tests/lib/test.h"
#include "tests/unit/qcow2/check/q2_damage.h"

enum { PIECES = 48, PLACE_MOST = 8, DESCRIPTION = 1500, HEAD = 65536, TINY = 512 };

/* What reads of the first guest clusters give. */
struct content {
    int opened; /* without VDISK_OPEN_CHECK: 0 or -errno */
    int rc[PIECES];
    uint8_t *data; /* PIECES clusters */
};

struct patient {
    const char *name; /* of the damage */
    enum qcow2_repair_what what;
    uint64_t cluster_size;
    unsigned pieces;
    struct sim *sim;
    vdisk_queue *queue;
    struct memdisk disk;
    struct crash_log *log;
    struct content before, now;
    struct qcow2_check_result healed; /* what the repair left that nothing interrupted */
    struct crash_walk *walk;
    struct crash_image *image;
    uint64_t clusters;                /* of the file before */
    unsigned low_before, low;         /* of these, with a refcount that is less than what refers to them */
    char finding[512];
};

/* ---- reading ----------------------------------------------------------------------------------------------- */

/* The disk before the repair, or the crash image. */
static struct backend *open_disk(struct patient *p, bool read_only)
{
    struct backend *b = p->image ? crash_image_open(p->image, 0, read_only) : memdisk_open(&p->disk, read_only);

    CHECK_MSG(b, "out of memory");
    return b;
}

static int open_image(struct patient *p, uint32_t flags, vdisk **ret)
{
    struct vdisk_open_opts opts = {.size = sizeof opts, .flags = flags, .format = "qcow2", .cache_bytes = 1};

    return vdisk_open_backend(open_disk(p, !(flags & VDISK_OPEN_RDWR)), &opts, ret);
}

static void read_content(struct patient *p, struct content *c)
{
    uint64_t unit = p->cluster_size;
    vdisk *v;

    c->opened = open_image(p, 0, &v);
    if (c->opened == 0)
        CHECK_OK(vdisk_close(v));
    if (open_image(p, VDISK_OPEN_CHECK, &v) < 0)
        FAIL("the image cannot be opened: %s", vdisk_error_text());
    for (unsigned i = 0; i < p->pieces; i++)
        c->rc[i] = vdisk_pread(v, c->data + i * unit, unit, i * unit);
    CHECK_OK(vdisk_close(v));
}

static void check_content(struct patient *p, const char *when)
{
    uint64_t unit = p->cluster_size;

    read_content(p, &p->now);
    CHECK_MSG(p->before.opened < 0 || p->now.opened == 0, "%s it cannot be opened", when);
    for (unsigned i = 0; i < p->pieces; i++) {
        if (p->before.rc[i] < 0)
            continue;
        CHECK_MSG(p->now.rc[i] == 0, "%s guest cluster %u cannot be read: %s", when, i, strerror(-p->now.rc[i]));
        CHECK_MSG(memcmp(p->now.data + i * unit, p->before.data + i * unit, unit) == 0,
                  "%s guest cluster %u reads differently", when, i);
    }
}

/* ---- repair ------------------------------------------------------------------------------------------------ */

static void report(void *arg, enum qcow2_finding kind, const char *text)
{
    struct patient *p = arg;

    if (kind == QCOW2_CORRUPTION || kind == QCOW2_ERROR)
        snprintf(p->finding, sizeof p->finding, "%s", text);
}

static void report_low(void *arg, enum qcow2_finding kind, const char *text)
{
    uint64_t cluster, refcount, refs;
    struct patient *p = arg;

    if (sscanf(text, "cluster %" SCNu64 " refcount=%" SCNu64 " reference=%" SCNu64, &cluster, &refcount,
               &refs) == 3)
        p->low += cluster < p->clusters && refcount < refs;
}

/* Clusters that somebody would give out, or take for his own, though they are in use. */
static unsigned count_low(struct patient *p)
{
    struct qcow2_check_opts opts = {.report = report_low, .report_arg = p, .report_max = 1 << 20};
    struct qcow2_check_result res;
    struct backend *b = open_disk(p, true);

    p->low = 0;
    if (qcow2_check(b, p->queue, &opts, &res) < 0)
        FAIL("check: %s", vdisk_error_text());
    backend_close(b);
    return p->low;
}

/* Takes `b` over. */
static void repair(struct patient *p, struct backend *b, struct qcow2_repair_result *ret)
{
    struct qcow2_check_opts opts = {.report = report, .report_arg = p};

    p->finding[0] = '\0';
    if (qcow2_repair(b, p->queue, p->what, &opts, ret) < 0)
        FAIL("repair: %s", vdisk_error_text());
    backend_close(b);
}

static bool is_clean(const struct qcow2_check_result *r)
{
    return r->corruptions == 0 && r->check_errors == 0 && r->leaks == 0;
}

/* Written to, all over, and read again. */
static void use_image(struct patient *p)
{
    uint64_t unit = p->cluster_size;
    struct qcow2_check_result res;
    struct backend *b;
    vdisk *v;

    int rc = open_image(p, VDISK_OPEN_RDWR, &v);

    if (rc == -ENOTSUP) /* a bitmap that records */
        return;
    if (rc < 0)
        FAIL("after repair it cannot be opened for writing: %s", vdisk_error_text());
    for (unsigned i = 0; i < p->pieces; i += 3) {
        memset(p->now.data + i * unit, (int)(i + 1), unit);
        CHECK_OK(vdisk_pwrite(v, p->now.data + i * unit, unit, i * unit, 0));
    }
    CHECK_OK(vdisk_sync(v));
    for (unsigned i = 0; i < p->pieces; i++) {
        uint8_t *got = p->now.data + p->pieces * unit;
        CHECK_OK(vdisk_pread(v, got, unit, i * unit));
        CHECK_MSG(memcmp(got, p->now.data + i * unit, unit) == 0, "after use guest cluster %u reads differently",
                  i);
    }
    CHECK_OK(vdisk_close(v));
    b = open_disk(p, true);
    CHECK_OK(qcow2_check(b, p->queue, NULL, &res));
    backend_close(b);
    /* Refcounts behind the end of the file are nobody's concern, until it has grown: then they are leaks. */
    CHECK_MSG(res.corruptions == 0 && res.check_errors == 0, "after use there are %" PRIu64 " corruptions",
              res.corruptions);
    rig_totals->used++;
}

/* Clusters that the interrupted repair had put behind the end of the file. */
static uint64_t appended(struct patient *p)
{
    struct backend *b = open_disk(p, true);
    uint64_t clusters = div_up(backend_size(b), p->cluster_size);

    backend_close(b);
    return clusters > p->clusters ? clusters - p->clusters : 0;
}

/*
 * No worse than what the repair left that nothing interrupted. Where an entry is left that may mean any cluster,
 * the interrupted repair's own may count as leaked.
 */
static void check_healed(const struct patient *p, const struct qcow2_check_result *now, uint64_t spare)
{
    const struct qcow2_check_result *then = &p->healed;

    CHECK_MSG(now->corruptions <= then->corruptions && now->check_errors <= then->check_errors &&
                  now->leaks <= then->leaks + (then->corruptions > 0 ? spare : 0),
              "after the second repair there are %" PRIu64 " corruptions, %" PRIu64 " leaks, %" PRIu64
              " errors, not %" PRIu64 ", %" PRIu64 ", %" PRIu64 ": %s",
              now->corruptions, now->leaks, now->check_errors, then->corruptions, then->leaks, then->check_errors,
              p->finding);
}

static void judge_image(struct patient *p, unsigned number)
{
    struct qcow2_repair_result second, third;
    char text[DESCRIPTION];
    uint64_t spare;

    crash_walk_describe(p->walk, text, sizeof text);
    test_note("%s, repair of %s; crash before event %" PRIu64 ", image %u: %s", p->name,
              p->what == QCOW2_REPAIR_ALL ? "all" : "leaks", crash_walk_position(p->walk), number, text);
    if (crash_image_make(p->walk, &p->image) < 0)
        FAIL("out of memory");
    check_content(p, "after a crash during repair");
    CHECK_MSG(count_low(p) <= p->low_before,
              "after a crash during repair %u clusters, not %u, have too low a refcount", p->low, p->low_before);
    spare = appended(p);
    repair(p, open_disk(p, false), &second);
    check_healed(p, &second.check, spare);
    check_content(p, "after the second repair");
    repair(p, open_disk(p, false), &third);
    if (second.check.leaks > 0) /* kept, lest they be what a snapshot had that was given up: they go now */
        repair(p, open_disk(p, false), &third);
    CHECK_MSG(third.corruptions_fixed + third.leaks_fixed == 0, "the second repair left something to mend");
    if (is_clean(&second.check))
        use_image(p);
    crash_image_destroy(p->image);
    p->image = NULL;
    rig_totals->images++;
    rig_totals->leaks += second.leaks_fixed > 0;
}

static void judge(struct patient *p, uint64_t seed)
{
    struct crash_event event;

    CHECK_OK(crash_walk_create(p->log, seed % 4 == 0 ? 4096 : 512, &p->walk));
    do {
        unsigned n = 0;
        while (crash_walk_is_rich(p->walk) && crash_walk_choose(p->walk, seed, n, PLACE_MOST))
            judge_image(p, n++);
        rig_totals->places += n > 0;
    } while (crash_walk_next(p->walk, &event) > 0);
    crash_walk_destroy(p->walk);
}

/* ---- the first repair, which is logged --------------------------------------------------------------------- */

/* The disk is there. */
static void patient_begin(struct patient *p, const char *name)
{
    struct sim_options options = {.seed = 1};

    p->name = name;
    p->what = rng_chance(test_rng(), 75) ? QCOW2_REPAIR_ALL : QCOW2_REPAIR_LEAKS;
    test_note("%s, repair of %s", name, p->what == QCOW2_REPAIR_ALL ? "all" : "leaks");
    CHECK_OK(sim_create(&options, &p->sim));
    sim_enter(p->sim);
    CHECK_OK(vdisk_queue_create(NULL, &p->queue));
    p->before.data = test_alloc(PIECES * p->cluster_size);
    p->now.data = test_alloc((PIECES + 1) * p->cluster_size);
}

static void patient_end(struct patient *p)
{
    free(p->before.data);
    free(p->now.data);
    vdisk_queue_destroy(p->queue);
    crash_log_destroy(p->log);
    memdisk_finish(&p->disk);
    sim_leave(p->sim);
    sim_destroy(p->sim);
    free(p);
    rig_totals->runs++;
}

static void heal_and_judge(struct patient *p)
{
    struct qcow2_repair_result res;
    struct backend *b, *child;

    read_content(p, &p->before);
    p->clusters = memdisk_size(&p->disk) / p->cluster_size;
    p->low_before = count_low(p);
    CHECK_OK(crash_log_create(&p->log));
    child = memdisk_open(&p->disk, false);
    CHECK_OK(crash_log_base(p->log, 0, child, p->queue));
    CHECK_OK(crash_backend_create(p->log, 0, child, &b));
    repair(p, b, &res);
    p->healed = res.check;
    judge(p, rng_next(test_rng()));
}

/* ---- what is repaired -------------------------------------------------------------------------------------- */

/* Each damage of the table, on a base that QEMU made. */
void run_repair_damage(void)
{
    static const enum damage_base bases[] = {PLAIN, PLAIN, PLAIN, SNAPSHOT, SNAPSHOT, BITMAP, EXTENDED, VERSION_2};
    enum damage_base base = bases[rng_below(test_rng(), ARRAY_LEN(bases))];
    const char *made = test_path("made"), *broken = test_path("broken");

    test_requires("qemu-io");
    damage_make_base(base, made);
    for (unsigned i = 0; i < damages_count; i++) {
        struct patient *p;

        if (damages[i].base != base)
            continue;
        run_ok("cp %s %s", made, broken);
        damage_break(&damages[i], broken);
        p = test_alloc(sizeof *p);
        p->cluster_size = 65536;
        p->pieces = 12;
        memdisk_load(&p->disk, broken, 512);
        patient_begin(p, damages[i].name);
        heal_and_judge(p);
        patient_end(p);
    }
}

/* Small clusters, so that there are many tables: content here and there. */
static void make_small(struct patient *p, struct rng *r)
{
    struct image_spec s;
    struct backend *b;
    uint64_t unit;
    vdisk *v;

    image_default(&s, "image", 1);
    image_random(r, &s, IMAGE_NO_RAW | IMAGE_NO_PREALLOC | IMAGE_NO_DATA_FILE);
    if (!s.extended_l2)
        s.cluster_size = (uint32_t)TINY << rng_below(r, 3);
    if (s.version >= 3 && rng_chance(r, 25))
        s.refcount_bits = 1; /* these cannot say that a cluster is used twice */
    unit = p->cluster_size = s.cluster_size;
    p->pieces = s.extended_l2 ? 12 : PIECES;
    s.size = 8 * p->pieces * unit;
    memdisk_init(&p->disk, 512);
    patient_begin(p, "refcounts");
    test_note("%s, repair of %s", image_describe(&s), p->what == QCOW2_REPAIR_ALL ? "all" : "leaks");
    b = memdisk_open(&p->disk, false);
    CHECK_OK(image_create_on(&s, b));
    backend_close(b);
    CHECK_OK(open_image(p, VDISK_OPEN_RDWR, &v));
    for (unsigned i = 0; i < 2 * p->pieces; i++) {
        rng_fill(r, p->now.data, unit);
        CHECK_OK(vdisk_pwrite(v, p->now.data, unit,
                              unit * rng_below(r, rng_chance(r, 70) ? p->pieces : 8 * p->pieces), 0));
    }
    CHECK_OK(vdisk_close(v));
}

/* A block of any refcounts. */
static void break_block(struct patient *p, struct rng *r, const struct q2_geometry *g, uint64_t host_offset)
{
    uint8_t *block = test_alloc(g->cluster_size);

    memdisk_read(&p->disk, host_offset, block, g->cluster_size);
    for (uint64_t n = rng_below(r, 12); n > 0; n--)
        q2_refcount_set(g, block, rng_below(r, min_u64(q2_refblock_entries(g), 200)),
                        rng_below(r, min_u64(g->refcount_max, 3) + 1));
    memdisk_write(&p->disk, host_offset, block, g->cluster_size);
    free(block);
}

static uint64_t broken_entry(struct rng *r, const struct q2_header *h, uint64_t entry)
{
    switch (rng_below(r, 5)) {
    case 0: return 0;
    case 1: return entry | 1; /* reserved */
    case 2: return entry + 512; /* of another cluster, or misaligned */
    case 3: return 1ull << 40;
    default: return h->reftable_offset;
    }
}

static void flip_flags(struct patient *p, struct rng *r, uint64_t table, uint64_t n, uint64_t step,
                       unsigned percent)
{
    uint8_t entry[8];

    for (uint64_t i = 0; i < n; i++) {
        memdisk_read(&p->disk, table + i * step, entry, 8);
        if (get_be64(entry) == 0 || get_be64(entry) & Q2_COMPRESSED || !rng_chance(r, percent))
            continue;
        put_be64(entry, get_be64(entry) ^ Q2_COPIED);
        memdisk_write(&p->disk, table + i * step, entry, 8);
    }
}

/* Nothing that says where guest data is. */
static void break_refcounts(struct patient *p, struct rng *r)
{
    uint64_t size = memdisk_size(&p->disk), n;
    uint8_t *head = test_alloc(HEAD), entry[8];
    struct q2_header h;

    memdisk_read(&p->disk, 0, head, min_u64(HEAD, size));
    CHECK_OK(q2_header_parse(head, min_u64(HEAD, size), size, "image", &h));
    free(head);
    n = q2_reftable_entries(&h.geo, h.reftable_clusters);
    for (uint64_t i = 0; i < n; i++) {
        memdisk_read(&p->disk, h.reftable_offset + 8 * i, entry, 8);
        if (get_be64(entry) != 0 && rng_chance(r, 60))
            break_block(p, r, &h.geo, get_be64(entry));
        if (get_be64(entry) == 0 || !rng_chance(r, 8))
            continue;
        put_be64(entry, broken_entry(r, &h, get_be64(entry)));
        memdisk_write(&p->disk, h.reftable_offset + 8 * i, entry, 8);
    }
    for (uint64_t i = 0; i < h.l1_entries; i++) {
        memdisk_read(&p->disk, h.l1_offset + 8 * i, entry, 8);
        if (q2_l1_offset(get_be64(entry)) != 0)
            flip_flags(p, r, q2_l1_offset(get_be64(entry)), q2_l2_entries(&h.geo), h.geo.l2_entry_size, 10);
    }
    flip_flags(p, r, h.l1_offset, h.l1_entries, 8, 30);
    q2_header_free(&h);
}

void run_repair_refcounts(void)
{
    for (unsigned i = 0; i < 8; i++) {
        struct patient *p = test_alloc(sizeof *p);

        make_small(p, test_rng());
        break_refcounts(p, test_rng());
        heal_and_judge(p);
        patient_end(p);
    }
}
