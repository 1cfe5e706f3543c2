/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Metadata is never overwritten. An entry of an L2, L1 or refcount table leads into each kind of metadata, or each
 * kind has lost its refcount; then the image is written to, cleared and closed. What could be read before reads
 * the same, but for what was written; a refused request says what lies where; the image is marked corrupt.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>

#include "engine/base/bits.h"
#include "qcow2/format/entry.h"
#include "tests/lib/run.h"
#include "tests/space/ours.h"

#define MIB(n) ((uint64_t)(n) << 20)

enum { GUEST = 16 << 20, CLUSTER = 4096, TABLE_SPAN = CLUSTER / 8 * CLUSTER };

/* ---- an image with all kinds of metadata --------------------------------------------------------------- */

enum kind { L2, REFBLOCK, REFTABLE, L1, SNAPSHOT_TABLE, SNAPSHOT_L1, SNAPSHOT_L2, BITMAP_TABLE, KINDS };

static const char *const kind_names[] = {
    "L2",          "refcount block", "refcount table", "L1", "snapshot table", "snapshot's L1", "snapshot's L2",
    "bitmap table"};

static void make(struct image_spec *spec)
{
    test_requires("qemu-img");
    test_requires("qemu-io");
    image_default(spec, "guard", GUEST);
    spec->cluster_size = CLUSTER;
    spec->by_qemu = true;
    image_create(spec);
    run_ok("qemu-io -f qcow2 -c 'write -q -P 1 0 1M' -c 'write -q -P 2 4M 1M' %s", spec->path);
    run_ok("qemu-img snapshot -c one %s && qemu-img bitmap --add --disable %s marks", spec->path, spec->path);
    run_ok("qemu-io -f qcow2 -c 'write -q -P 3 0 512k' -c 'write -q -P 4 4M 1M' -c 'write -q -P 5 8M 1M' %s",
           spec->path);
}

static uint64_t word(const struct photo *p, uint64_t at)
{
    CHECK(at + 8 <= p->size);
    return get_be64(p->bytes + at);
}

/* Host offset of the active L2 table of a guest offset. */
static uint64_t l2_of(const struct photo *p, uint64_t guest_offset)
{
    return q2_l1_offset(word(p, p->h.l1_offset + 8 * (guest_offset / TABLE_SPAN)));
}

/* Where there is some of it. */
static uint64_t place_of(const struct photo *p, enum kind kind)
{
    uint64_t snapshot_l1 = word(p, p->h.snapshots_offset);

    switch (kind) {
    case L2:
        return l2_of(p, MIB(8));
    case REFBLOCK:
        return q2_reftable_offset(word(p, p->h.reftable_offset));
    case REFTABLE:
        return p->h.reftable_offset;
    case L1:
        return p->h.l1_offset;
    case SNAPSHOT_TABLE:
        return p->h.snapshots_offset;
    case SNAPSHOT_L1:
        return snapshot_l1;
    case SNAPSHOT_L2:
        return q2_l1_offset(word(p, snapshot_l1));
    case BITMAP_TABLE:
        return word(p, p->h.bitmap_directory_offset);
    case KINDS:
        break;
    }
    FAIL("no such kind");
}

static void put64(const struct image_spec *spec, uint64_t at, uint64_t value)
{
    uint8_t buf[8];

    put_be64(buf, value);
    put_at(spec->path, at, buf, 8);
}

/* ---- reading all ----------------------------------------------------------------------------------------- */

static uint8_t *read_all(vdisk *v, int *ret_rc)
{
    uint8_t *buf = test_alloc(GUEST);

    *ret_rc = 0;
    for (uint64_t at = 0; at < GUEST; at += CLUSTER) {
        int rc = vdisk_pread(v, buf + at, CLUSTER, at);
        if (rc < 0) {
            memset(buf + at, 0xee, CLUSTER); /* it cannot be read: so it stays */
            *ret_rc = rc;
        }
    }
    return buf;
}

static uint8_t *read_closed(const struct image_spec *spec)
{
    struct vdisk_open_opts opts = {.size = sizeof opts, .format = "qcow2"};
    uint8_t *bytes;
    vdisk *v;
    int rc;

    CHECK_OK(vdisk_open(spec->path, &opts, &v));
    bytes = read_all(v, &rc);
    CHECK_OK(vdisk_close(v));
    return bytes;
}

static uint8_t *read_snapshot(const struct image_spec *spec)
{
    uint8_t *bytes = test_alloc(GUEST);
    FILE *f;

    run_ok("qemu-img convert -q -l snapshot.name=one -O raw %s snapshot.raw", spec->path);
    f = fopen(test_path("snapshot.raw"), "rb");
    CHECK(f && fread(bytes, 1, GUEST, f) == GUEST);
    fclose(f);
    return bytes;
}

/* All but [from, to) are as before. */
static void compare(const uint8_t *before, const uint8_t *after, uint64_t from, uint64_t to)
{
    for (uint64_t i = 0; i < GUEST; i++)
        CHECK_MSG(before[i] == after[i] || (i >= from && i < to), "guest byte %" PRIu64 " was 0x%02x, is 0x%02x",
                  i, before[i], after[i]);
}

/* ---- one request to a damaged image ---------------------------------------------------------------------- */

enum verb { WRITE, PART, ZERO, DISCARD, VERBS };

static int do_verb(vdisk *v, enum verb verb, uint64_t guest_offset, uint64_t len)
{
    uint8_t *buf = test_alloc(len);
    int rc = 0;

    memset(buf, 0x99, len);
    switch (verb) {
    case WRITE:
        rc = vdisk_pwrite(v, buf, len, guest_offset, 0);
        break;
    case PART:
        rc = vdisk_pwrite(v, buf, 512, guest_offset + 512, 0);
        break;
    case ZERO:
        rc = vdisk_pzero(v, len, guest_offset, VDISK_REQ_UNMAP);
        break;
    case DISCARD:
        rc = vdisk_pdiscard(v, len, guest_offset);
        break;
    case VERBS:
        break;
    }
    free(buf);
    return rc;
}

static bool is_marked(const struct image_spec *spec)
{
    struct photo p;
    bool is;

    take_photo(&p, spec->path);
    is = p.h.incompatible & Q2_INCOMPAT_CORRUPT;
    drop_photo(&p);
    return is;
}

/* Refused, for this reason; or, where that is allowed, done. Nothing else has changed. */
static void run_verb(const struct image_spec *spec, enum verb verb, uint64_t guest_offset, bool may_work)
{
    struct vdisk_info info = {.size = sizeof info};
    uint8_t *before = read_closed(spec), *after;
    vdisk *v = open_image(spec);
    int rc = do_verb(v, verb, guest_offset, CLUSTER);

    if (rc == 0) {
        CHECK_MSG(may_work, "verb %d is done", verb);
    } else {
        CHECK_INT(rc, -EIO);
        CHECK_HAS(vdisk_error_text(), "which holds");
        CHECK_HAS(vdisk_error_text(), "host offset 0x");
        CHECK_INT(do_verb(v, WRITE, MIB(12), CLUSTER), -EIO);
        CHECK_OK(vdisk_get_info(v, &info));
        CHECK_HAS(info.trouble, "which holds");
    }
    if (vdisk_close(v) < 0) {
        CHECK_HAS(vdisk_error_text(), "closing: ");
        CHECK_HAS(vdisk_error_text(), "which holds");
        CHECK_HAS(vdisk_error_hint(), "check -r all");
    }
    CHECK_MSG(is_marked(spec) == (rc < 0), "request: %d, marked corrupt: %d", rc, is_marked(spec));
    after = read_closed(spec);
    compare(before, after, guest_offset, guest_offset + (rc == 0 ? CLUSTER : 0));
    free(before);
    free(after);
}

/* ---- cases ----------------------------------------------------------------------------------------------- */

/* An L2 entry leads into metadata. */
static void test_l2_entry(void)
{
    unsigned number = case_number(VERBS * KINDS);
    enum kind kind = (enum kind)(number / VERBS);
    enum verb verb = (enum verb)(number % VERBS);
    struct rng *r = test_rng();
    struct image_spec spec;
    struct photo p;
    uint64_t flags, place;
    uint8_t *before, *after;

    if (kind == L1 || kind == REFTABLE)
        test_skip("such an entry is damaged: not even read");
    make(&spec);
    take_photo(&p, spec.path);
    place = place_of(&p, kind);
    flags = rng_chance(r, 30) ? Q2_COMPRESSED : rng_chance(r, 60) ? Q2_COPIED : 0;
    test_note("%s, flags 0x%" PRIx64 ", verb %d", kind_names[kind], flags, verb);
    put64(&spec, l2_of(&p, MIB(8)) + 8 * 20, flags | place);
    drop_photo(&p);
    before = read_snapshot(&spec);
    run_verb(&spec, verb, MIB(8) + 20 * CLUSTER, false);
    after = read_snapshot(&spec);
    compare(before, after, 0, 0);
    free(before);
    free(after);
}

/* An L2 entry that means nothing is named, with its places. */
static void test_bad_entry(void)
{
    struct image_spec spec;
    char buf[CLUSTER], text[80];
    struct photo p;
    vdisk *v;

    make(&spec);
    take_photo(&p, spec.path);
    put64(&spec, l2_of(&p, MIB(8)) + 8 * 20, Q2_COPIED | 0x12345678);
    snprintf(text, sizeof text, "guest offset 0x%x has 0x%" PRIx64 ", at host offset 0x%" PRIx64,
             (unsigned)MIB(8) + 20 * CLUSTER, (uint64_t)(Q2_COPIED | 0x12345678), l2_of(&p, MIB(8)) + 8 * 20);
    drop_photo(&p);
    v = open_image(&spec);
    CHECK_INT(vdisk_pread(v, buf, CLUSTER, MIB(8) + 20 * CLUSTER), -EIO);
    CHECK_HAS(vdisk_error_text(), text);
    CHECK_HAS(vdisk_error_hint(), "check -r all");
    CHECK_INT(do_verb(v, WRITE, MIB(8) + 20 * CLUSTER, CLUSTER), -EIO);
    CHECK_HAS(vdisk_error_text(), text);
    CHECK_OK(vdisk_close(v)); /* nothing is lost */
}

/* An L2 entry leads where nothing is or was: the file does not grow to there, and nobody dies of it. */
static void test_far_entry(void)
{
    static const uint64_t places[] = {UINT64_C(1) << 31, UINT64_C(1) << 40, UINT64_C(1) << 55};
    struct rlimit limit = {.rlim_cur = MIB(64), .rlim_max = MIB(64)};
    struct image_spec spec;
    struct photo p, after;
    char buf[CLUSTER] = {0};
    vdisk *v;

    make(&spec);
    take_photo(&p, spec.path);
    put64(&spec, l2_of(&p, MIB(8)) + 8 * 20, Q2_COPIED | places[test_repetition() / 2 % ARRAY_LEN(places)]);
    if (test_repetition() % 2)
        CHECK(setrlimit(RLIMIT_FSIZE, &limit) == 0);
    v = open_image(&spec);
    CHECK_INT(vdisk_pwrite(v, buf, CLUSTER, MIB(8) + 20 * CLUSTER, 0), -EFBIG);
    CHECK_OK(vdisk_pwrite(v, buf, CLUSTER, MIB(8) + 21 * CLUSTER, 0)); /* its neighbours are as good as ever */
    CHECK_OK(vdisk_pwrite(v, buf, CLUSTER, MIB(12), 0));
    CHECK_OK(vdisk_close(v));
    take_photo(&after, spec.path);
    CHECK(after.size < p.size + MIB(2));
    drop_photo(&after);
    drop_photo(&p);
}

/* An L1 entry leads to what is no L2 table of its own. */
static void test_l1_entry(void)
{
    static const enum kind kinds[] = {L2, REFBLOCK, SNAPSHOT_TABLE, SNAPSHOT_L2, BITMAP_TABLE};
    enum kind kind = kinds[case_number(ARRAY_LEN(kinds))];
    struct image_spec spec;
    struct photo p;
    uint8_t *before, *after;

    make(&spec);
    take_photo(&p, spec.path);
    test_note("%s", kind_names[kind]);
    put64(&spec, p.h.l1_offset + 8 * (MIB(12) / TABLE_SPAN), Q2_COPIED | place_of(&p, kind));
    drop_photo(&p);
    before = read_snapshot(&spec);
    run_verb(&spec, rng_chance(test_rng(), 50) ? WRITE : ZERO, MIB(12) + 300 * CLUSTER, false);
    after = read_snapshot(&spec);
    compare(before, after, 0, 0);
    free(before);
    free(after);
}

/* The second refcount block is something else; its refcounts are needed. */
static void test_reftable_entry(void)
{
    static const enum kind kinds[] = {L2, L1, REFBLOCK, REFTABLE, SNAPSHOT_TABLE, SNAPSHOT_L1, SNAPSHOT_L2};
    enum kind kind = kinds[case_number(ARRAY_LEN(kinds))];
    struct image_spec spec;
    struct photo p;

    make(&spec);
    run_ok("qemu-io -f qcow2 -c 'write -q -P 7 5M 2M' -c 'discard -q 5M 1M' %s", spec.path);
    take_photo(&p, spec.path);
    test_note("%s", kind_names[kind]);
    put64(&spec, p.h.reftable_offset, place_of(&p, kind));
    if (kind == REFBLOCK) /* two entries, one block */
        put64(&spec, p.h.reftable_offset + 8, place_of(&p, kind));
    drop_photo(&p);
    if (kind == REFBLOCK)
        put64(&spec, 0, 0x514649fb00000003); /* the header stays as it is */
    run_verb(&spec, WRITE, MIB(12), kind == SNAPSHOT_TABLE);
}

/* A refcount block is guest data, which nobody has read: it stays what it is. */
static void test_block_is_data(void)
{
    static const char *const contents[] = {"-P 5", "-P 0", "-P 1", "-s counts"};
    unsigned number = case_number(2 * ARRAY_LEN(contents)), entry = number % 2;
    struct image_spec spec;
    struct photo p;
    uint8_t *before, *after;
    uint64_t at = MIB(10);
    vdisk *v;

    make(&spec);
    run_ok("printf '\\0\\1\\0\\2' >counts");
    run_ok("qemu-io -f qcow2 -c 'write -q %s 8M 1M' %s", contents[number / 2], spec.path);
    take_photo(&p, spec.path);
    test_note("refcount block %u, content %s", entry, contents[number / 2]);
    put64(&spec, p.h.reftable_offset + 8 * entry, word(&p, l2_of(&p, MIB(8)) + 8 * 20) & Q2_L2_OFFSET);
    drop_photo(&p);
    before = read_closed(&spec);
    v = open_image(&spec);
    while (at < GUEST && do_verb(v, WRITE, at, 16 * CLUSTER) == 0)
        at += 16 * CLUSTER;
    CHECK_MSG(at < GUEST, "refcounts are written over guest data");
    CHECK_HAS(vdisk_error_text(), "refcount block");
    CHECK_HAS(vdisk_error_text(), "which holds");
    vdisk_close(v);
    CHECK(is_marked(&spec));
    after = read_closed(&spec);
    compare(before, after, MIB(10), at);
    free(before);
    free(after);
}

/* Metadata has no refcount, and guest data has none either: none of that is given to others, read or not. */
static void test_none_counted(void)
{
    uint8_t none[2 * 512] = {0};
    struct image_spec spec;
    struct photo p;
    uint8_t *before, *after;
    vdisk *v;

    make(&spec);
    take_photo(&p, spec.path);
    before = read_closed(&spec);
    put_at(spec.path, refcount_at(&p, 512), none, sizeof none);
    put_at(spec.path, refcount_at(&p, l2_of(&p, MIB(8)) / CLUSTER), none, 2);
    drop_photo(&p);
    v = open_image(&spec);
    for (uint64_t at = MIB(10); at < GUEST && do_verb(v, WRITE, at, 16 * CLUSTER) == 0;)
        at += 16 * CLUSTER;
    vdisk_close(v);
    after = read_closed(&spec);
    compare(before, after, MIB(10), GUEST);
    free(before);
    free(after);
}

/* Metadata without a refcount: the next cluster that is needed is not that one. */
static void test_no_refcount(void)
{
    enum kind kind = (enum kind)case_number(KINDS);
    const uint8_t none[2] = {0};
    struct image_spec spec;
    struct photo p;
    uint8_t *before, *after;

    make(&spec);
    take_photo(&p, spec.path);
    test_note("%s", kind_names[kind]);
    before = read_snapshot(&spec);
    put_at(spec.path, refcount_at(&p, place_of(&p, kind) / CLUSTER), none, 2);
    drop_photo(&p);
    run_verb(&spec, rng_chance(test_rng(), 50) ? WRITE : PART, MIB(12), true); /* where something else is free */
    after = read_snapshot(&spec);
    compare(before, after, 0, 0);
    free(before);
    free(after);
}

/* Guest data without a refcount, that has been read: it is not given to others, be they data or tables. */
static void test_read_before(void)
{
    const uint8_t none[2] = {0};
    struct image_spec spec;
    struct photo p;
    uint8_t *before, *after;
    vdisk *v;
    int rc;

    make(&spec);
    take_photo(&p, spec.path);
    for (uint64_t i = 0; i < 64; i++) {
        uint64_t entry = word(&p, l2_of(&p, MIB(8)) + 8 * i);
        put_at(spec.path, refcount_at(&p, (entry & Q2_L2_OFFSET) / CLUSTER), none, 2);
    }
    drop_photo(&p);
    v = open_image(&spec);
    before = read_all(v, &rc);
    for (unsigned i = 0; i < 4; i++) /* with a new table each */
        CHECK_OK(do_verb(v, WRITE, MIB(10) + i * TABLE_SPAN / 2, 8 * CLUSTER));
    CHECK_OK(vdisk_close(v));
    after = read_closed(&spec);
    compare(before, after, MIB(10), GUEST);
    free(before);
    free(after);
}

const struct test_case guard_cases[] = {
    {.name = "l2_entry", .run = test_l2_entry, .repeat = VERBS * KINDS},
    {.name = "bad_entry", .run = test_bad_entry},
    {.name = "far_entry", .run = test_far_entry, .repeat = 6},
    {.name = "l1_entry", .run = test_l1_entry, .repeat = 10, .quick = 5},
    {.name = "reftable_entry", .run = test_reftable_entry, .repeat = 7},
    {.name = "block_is_data", .run = test_block_is_data, .repeat = 8},
    {.name = "none_counted", .run = test_none_counted},
    {.name = "no_refcount", .run = test_no_refcount, .repeat = KINDS},
    {.name = "read_before", .run = test_read_before},
};

const unsigned guard_cases_count = ARRAY_LEN(guard_cases);
