/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Each length, count and size that an image has, with nothing, one, and around its maximum, for each verb, those
 * that change the image too: all end, as bad_run() says. And whether the image opens is what QEMU says of it, but
 * where a reason is given.
 */
#include <inttypes.h>
#include <stdio.h>

#include "engine/base/bits.h"
#include "qcow2/format/entry.h"
#include "tests/badinput/badinput_lib.h"
#include "tests/lib/run.h"

enum base { FULL, DATA_FILE, COMPRESSED, EMPTY, BASES };

/* Where a field is: in the header, or counted from one of the image's tables or extensions. */
enum place { HEADER, SNAPSHOT, DIRECTORY, COMPRESSED_ENTRY, BACKING_FORMAT, NAMES, BITMAPS, DATA_NAME };

struct length {
    const char *name;
    enum base   base;
    enum place  place;
    uint64_t    at;
    unsigned    width;
    uint64_t    values[16]; /* up to the first 0 after the first one */
    const char *differs;    /* why QEMU may say something else; NULL: it says the same */
};

#define IN_HEADER(field) #field, FULL, HEADER, BAD_FIELD(field)
#define IN_EMPTY(field)  #field " of no disk", EMPTY, HEADER, BAD_FIELD(field)
#define IN_SNAPSHOT(field)                                                                                     \
    "snapshot " #field, FULL, SNAPSHOT, offsetof(struct q2_disk_snapshot, field),                              \
        sizeof(((struct q2_disk_snapshot *)0)->field)
#define IN_BITMAP(field)                                                                                       \
    "bitmap " #field, FULL, DIRECTORY, offsetof(struct q2_disk_bitmap, field),                                 \
        sizeof(((struct q2_disk_bitmap *)0)->field)

static const char no_bitmaps[] = "it reads bitmaps when it opens an image only to read it";
static const char to_read[] = "it reads this table when it opens an image only to read it";

static const struct length lengths[] = {
    {IN_HEADER(l1_size), {0, 1, 2, 3, (4 << 20) - 1, 4 << 20, (4 << 20) + 1, INT32_MAX, UINT32_MAX},
     "it reads an L1 table past the end of the file as zeros"},
    {IN_HEADER(refcount_table_clusters), {0, 1, 2, 2047, 2048, 2049, UINT32_MAX}, to_read},
    {IN_HEADER(nb_snapshots), {0, 1, 2, 65535, 65536, 65537, UINT32_MAX}, to_read},
    {IN_HEADER(size), {0, 1, 511, 512, 513, (2 << 20) + 1, INT64_MAX - 1, INT64_MAX, 1ull << 63, UINT64_MAX},
     no_bitmaps},
    {IN_HEADER(cluster_bits), {0, 1, 8, 9, 10, 11, 12, 13, 20, 21, 22, 63, 64, UINT32_MAX}, NULL},
    {IN_HEADER(refcount_order), {0, 1, 5, 6, 7, 31, 32, UINT32_MAX}, NULL},
    {IN_HEADER(header_length), {0, 1, 103, 104, 105, 108, 111, 112, 113, 120, 4095, 4096, 4097, UINT32_MAX},
     "it takes a name out of the header"},
    {IN_HEADER(backing_file_size), {0, 1, 2, 1022, 1023, 1024, 4095, 4096, UINT32_MAX}, NULL},
    {IN_SNAPSHOT(l1_size), {0, 1, 2, (4 << 20) - 1, 4 << 20, (4 << 20) + 1, UINT32_MAX}, NULL},
    {IN_SNAPSHOT(id_size), {0, 1, 2, UINT16_MAX - 1, UINT16_MAX}, NULL},
    {IN_SNAPSHOT(name_size), {0, 1, 2, UINT16_MAX - 1, UINT16_MAX}, NULL},
    {IN_SNAPSHOT(extra_size), {0, 1, 7, 8, 15, 16, 17, 23, 24, 25, 1023, 1024, 1025, UINT32_MAX}, to_read},
    {IN_SNAPSHOT(vm_state_size), {0, 1, UINT32_MAX}, NULL},
    {"bitmaps count", FULL, BITMAPS, 0, 4, {0, 1, 2, 65534, 65535, 65536, UINT32_MAX}, NULL},
    {"bitmap directory size", FULL, BITMAPS, 8, 8, {0, 1, 23, 24, 31, 32, 33, 4096, UINT64_MAX}, no_bitmaps},
    {IN_BITMAP(table_entries), {0, 1, 2, 0x7ffffff, 0x8000000, 0x8000001, UINT32_MAX}, no_bitmaps},
    {IN_BITMAP(name_size), {0, 1, 2, 1022, 1023, 1024, UINT16_MAX}, no_bitmaps},
    {IN_BITMAP(extra_size), {0, 1, UINT32_MAX}, no_bitmaps},
    {IN_BITMAP(granularity_bits), {0, 1, 8, 9, 30, 31, 32, 63, 64, 255}, no_bitmaps},
    {"backing format length", FULL, BACKING_FORMAT, 0, 4, {0, 1, 4, 1023, 1024, 4000, UINT32_MAX - 7, UINT32_MAX},
     NULL},
    {"feature names length", COMPRESSED, NAMES, 0, 4, {0, 1, 47, 48, 49, 4000, UINT32_MAX - 7, UINT32_MAX}, NULL},
    {"data file name length", DATA_FILE, DATA_NAME, 0, 4, {0, 1, 2, 1023, 1024, 4000, UINT32_MAX - 7, UINT32_MAX},
     NULL},
    {"compressed sectors", COMPRESSED, COMPRESSED_ENTRY, 0, 8, {0, 1, 2, 3, 14, 15}, NULL},
    {IN_EMPTY(l1_size), {0, 1, 2, 511, 512, 513, 4 << 20}, "it takes the header for an L1 table"},
    {IN_EMPTY(size), {0, 1, 512, 1 << 20}, NULL},
};

/* ---- images ------------------------------------------------------------------------------------------------- */

static const char *make(enum base base)
{
    static char path[4096];

    snprintf(path, sizeof path, "%s", test_path("base"));
    run_ok("rm -f base* && qemu-img create -q -f raw base.raw 1M");
    switch (base) {
    case FULL:
        run_ok("qemu-img create -q -f qcow2 -o cluster_size=4k,backing_file=base.raw,backing_fmt=raw base 1M");
        run_ok("qemu-io -f qcow2 -c 'write -q -P 1 0 256k' -c 'write -q -P 2 768k 256k' base");
        run_ok("qemu-img snapshot -c one base && qemu-img bitmap --add base b && "
               "qemu-io -f qcow2 -c 'write -q -P 3 0 128k' base && qemu-img bitmap --disable base b");
        break;
    case DATA_FILE:
        run_ok("qemu-img create -q -f qcow2 -o cluster_size=4k,data_file=base.data base 1M");
        break;
    case COMPRESSED:
        run_ok("qemu-img create -q -f qcow2 -o cluster_size=64k base 1M");
        run_ok("qemu-io -f qcow2 -c 'write -q -c -P 1 0 64k' base");
        break;
    case EMPTY:
        run_ok("qemu-img create -q -f qcow2 -o cluster_size=4k base 0");
        break;
    case BASES:
        break;
    }
    return path;
}

/* Where the length of an extension is. */
static uint64_t extension_at(const struct bad_image *im, uint32_t type)
{
    uint64_t at = bad_get(im, BAD_FIELD(header_length));

    for (; bad_get(im, at, 4) != type; at += 8 + align_up(bad_get(im, at + 4, 4), 8))
        CHECK(bad_get(im, at, 4) != Q2_EXT_END);
    return at + 4;
}

static uint64_t place_of(const struct bad_image *im, enum place place)
{
    switch (place) {
    case HEADER: return 0;
    case SNAPSHOT: return im->h.snapshots_offset;
    case DIRECTORY: return im->h.bitmap_directory_offset;
    case COMPRESSED_ENTRY: return bad_l2(im);
    case BACKING_FORMAT: return extension_at(im, Q2_EXT_BACKING_FORMAT);
    case NAMES: return extension_at(im, Q2_EXT_FEATURE_NAMES);
    case BITMAPS: return extension_at(im, Q2_EXT_BITMAPS) + 4;
    case DATA_NAME: return extension_at(im, Q2_EXT_DATA_FILE);
    }
    return 0;
}

static void damage(const struct length *l, uint64_t value, const char *path)
{
    struct bad_image im;
    uint64_t at;

    bad_open(&im, path);
    at = place_of(&im, l->place) + l->at;
    if (l->place == COMPRESSED_ENTRY) { /* the count of sectors lies above the offset */
        uint64_t mask = (1ull << (62 - im.h.geo.compressed_shift)) - 1;
        uint64_t entry = bad_get(&im, at, 8) & ~(mask << im.h.geo.compressed_shift);

        value = entry | (value & mask) << im.h.geo.compressed_shift;
    }
    bad_put(&im, at, l->width, value);
    bad_close(&im);
}

/* ---- the runs ----------------------------------------------------------------------------------------------- */

static bool opens_in_qemu(const char *path)
{
    struct run_result r;

    run_shell(&r, "timeout 30 qemu-io -r -f qcow2 -c length %s 2>&1", path);
    CHECK_MSG(r.status <= 1, "qemu-io exits with %d", r.status);
    return r.status == 0;
}

static void run_value(const struct length *l, uint64_t value, const char *base)
{
    char bad[4096], path[4096];
    bool ours = true, theirs;

    test_note("%s = %" PRIu64, l->name, value);
    snprintf(bad, sizeof bad, "%s", test_path("bad"));
    snprintf(path, sizeof path, "%s", test_path("copy"));
    bad_copy(base, bad);
    damage(l, value, bad);
    for (enum bad_verb verb = BAD_INFO; verb < BAD_VERBS_ALL; verb++) {
        int status;

        if (verb != BAD_LENGTH && bad_left_out())
            continue;
        bad_copy(bad, path);
        status = bad_run(verb, path, BAD_ANY, NULL);
        if (verb == BAD_LENGTH)
            ours = status == 0;
        if (verb == BAD_MEND && status == 0)
            bad_run(BAD_CHECK, path, BAD_GOOD, NULL);
    }
    theirs = opens_in_qemu(bad);
    CHECK_MSG(l->differs || ours == theirs, "we %s, QEMU %s", ours ? "open it" : "refuse it",
              theirs ? "opens it" : "refuses it");
}

static void run_length(void)
{
    const struct length *l = &lengths[test_repetition()];
    const char *base;

    test_requires("qemu-img");
    test_requires("qemu-io");
    base = make(l->base);
    for (unsigned i = 0; i < ARRAY_LEN(l->values) && (i == 0 || l->values[i] != 0); i++)
        run_value(l, l->values[i], base);
    printf("%s: %u runs\n", l->name, bad_runs());
}

int main(int argc, char **argv)
{
    const struct test_case cases[] = {
        {.name = "length", .run = run_length, .repeat = ARRAY_LEN(lengths), .quick = 6},
    };

    return test_main(argc, argv, cases, ARRAY_LEN(cases));
}
