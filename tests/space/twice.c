/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * One cluster, two entries, each of which says that it has it alone. Whatever is done through the one, the other's
 * content stays as it was, as far as it has been read, or its slice is the same; a shrink reads all there is.
 */
#include "engine/base/bits.h"
#include "qcow2/format/entry.h"
#include "tests/space/ours.h"

#define MIB(n) ((uint64_t)(n) << 20)

enum { CLUSTER = 4096, TABLE_SPAN = CLUSTER / 8 * CLUSTER, FIRST = 40 * CLUSTER, BYTE = 0x5a };

static uint64_t entry_at(const struct photo *p, uint64_t guest_offset)
{
    uint64_t l1 = get_be64(p->bytes + p->h.l1_offset + 8 * (guest_offset / TABLE_SPAN));

    CHECK(q2_l1_offset(l1) != 0);
    return q2_l1_offset(l1) + 8 * (guest_offset / CLUSTER % (CLUSTER / 8));
}

/* Guest cluster `second` leads where the one at FIRST does. */
static void make(struct image_spec *spec, uint64_t second)
{
    struct photo p;
    vdisk *v;

    image_default(spec, "twice", MIB(16));
    spec->cluster_size = CLUSTER;
    image_create(spec);
    v = open_image(spec);
    for (uint64_t at = 0; at < MIB(16); at += MIB(2))
        fill(v, at, MIB(1), (int)(at >> 20) + 1);
    fill(v, FIRST, CLUSTER, BYTE);
    CHECK_OK(vdisk_close(v));
    take_photo(&p, spec->path);
    put_at(spec->path, entry_at(&p, second), p.bytes + entry_at(&p, FIRST), 8);
    drop_photo(&p);
    test_note("guest offsets 0x%x, 0x%jx", FIRST, (uintmax_t)second);
}

static void check_content(vdisk *v, uint64_t guest_offset, int byte)
{
    uint8_t buf[CLUSTER];

    CHECK_OK(vdisk_pread(v, buf, CLUSTER, guest_offset));
    CHECK_MSG(buf[0] == byte && memcmp(buf, buf + 1, CLUSTER - 1) == 0,
              "guest offset 0x%jx reads 0x%02x, not 0x%02x", (uintmax_t)guest_offset, buf[0], byte);
}

enum { WRITE, PART, ZERO, UNMAP, DISCARD, CHANGES };

static int change(vdisk *v, unsigned what, uint64_t guest_offset)
{
    uint8_t buf[CLUSTER];

    memset(buf, 0x99, sizeof buf);
    switch (what) {
    case WRITE: return vdisk_pwrite(v, buf, CLUSTER, guest_offset, 0);
    case PART: return vdisk_pwrite(v, buf, 512, guest_offset + 512, 0);
    case ZERO: return vdisk_pzero(v, CLUSTER, guest_offset, 0);
    case UNMAP: return vdisk_pzero(v, CLUSTER, guest_offset, VDISK_REQ_UNMAP);
    default: return vdisk_pdiscard(v, CLUSTER, guest_offset);
    }
}

/* Space that was freed is punched and given to others. */
static void churn(vdisk *v)
{
    CHECK_OK(vdisk_sync(v));
    CHECK_OK(vdisk_trim_space(v));
    fill(v, MIB(5), MIB(1), 0x77);
    CHECK_OK(vdisk_sync(v));
}

/* In one slice, or in two that have been read; a change through either. */
static void test_both_known(void)
{
    unsigned number = case_number(4 * CHANGES), what = number / 4;
    uint64_t second = number & 1 ? 90 * CLUSTER : MIB(4) + 7 * CLUSTER;
    uint64_t changed = number & 2 ? FIRST : second, other = number & 2 ? second : FIRST;
    struct image_spec spec;
    vdisk *v;

    make(&spec, second);
    v = open_image(&spec);
    if (!(number & 1)) {
        check_content(v, FIRST, BYTE);
        check_content(v, second, BYTE);
    }
    CHECK_OK(change(v, what, changed));
    churn(v);
    check_content(v, other, BYTE);
    CHECK_OK(vdisk_close(v));
    v = open_image(&spec);
    check_content(v, other, BYTE);
    if (what == UNMAP || what == ZERO)
        check_content(v, changed, 0);
    CHECK_OK(vdisk_close(v));
}

/* One is discarded, and the other read before that is durable. */
static void test_read_late(void)
{
    struct image_spec spec;
    vdisk *v;

    make(&spec, MIB(4) + 7 * CLUSTER);
    v = open_image(&spec);
    CHECK_OK(vdisk_pdiscard(v, CLUSTER, FIRST));
    check_content(v, MIB(4) + 7 * CLUSTER, BYTE);
    churn(v);
    check_content(v, MIB(4) + 7 * CLUSTER, BYTE);
    CHECK_OK(vdisk_close(v));
}

/* What a shrink drops is what another entry has, which nobody has read. */
static void test_shrink(void)
{
    static const uint64_t sizes[] = {TABLE_SPAN * 2, TABLE_SPAN * 2 + CLUSTER, MIB(2), MIB(1)};
    struct vdisk_resize_opts opts = {.size = sizeof opts, .shrink = true};
    struct photo before, after;
    struct image_spec spec;
    vdisk *v;

    make(&spec, MIB(4) + 7 * CLUSTER);
    take_photo(&before, spec.path);
    v = open_image(&spec);
    CHECK_OK(vdisk_resize(v, sizes[case_number(ARRAY_LEN(sizes))], &opts));
    check_content(v, FIRST, BYTE);
    fill(v, 0, 20 * CLUSTER, 0x66);
    CHECK_OK(vdisk_sync(v));
    CHECK_OK(vdisk_close(v));
    v = open_image(&spec);
    check_content(v, FIRST, BYTE);
    CHECK_OK(vdisk_close(v));
    take_photo(&after, spec.path);
    CHECK(after.size < before.size);
    drop_photo(&before);
    drop_photo(&after);
}

const struct test_case twice_cases[] = {
    {.name = "both_known", .run = test_both_known, .repeat = 4 * CHANGES},
    {.name = "read_late", .run = test_read_late},
    {.name = "shrink_twice", .run = test_shrink, .repeat = 4},
};

const unsigned twice_cases_count = ARRAY_LEN(twice_cases);
