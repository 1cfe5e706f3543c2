/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tests/unit/qcow2/check/q2_damage.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/base/bits.h"
#include "qcow2/format/entry.h"
#include "tests/lib/run.h"
#include "tests/lib/test.h"

enum { CLUSTER = 65536 };

/* ---- an image under the knife ---------------------------------------------------------------------------- */

static uint64_t get(const struct damaged *im, uint64_t at)
{
    uint8_t buf[8];

    CHECK(pread(im->fd, buf, 8, (off_t)at) == 8);
    return get_be64(buf);
}

static void put(struct damaged *im, uint64_t at, uint64_t value)
{
    uint8_t buf[8];

    put_be64(buf, value);
    CHECK(pwrite(im->fd, buf, 8, (off_t)at) == 8);
}

static void change(struct damaged *im, uint64_t at, uint64_t clear, uint64_t set)
{
    put(im, at, (get(im, at) & ~clear) | set);
}

static uint64_t l1_at(const struct damaged *im, uint64_t i)
{
    return im->h.l1_offset + i * 8;
}

/* Where the L2 entry of a guest offset in the first table is. */
static uint64_t l2_at(const struct damaged *im, uint64_t guest_cluster)
{
    return q2_l1_offset(get(im, l1_at(im, 0))) + guest_cluster * im->h.geo.l2_entry_size;
}

static uint64_t cluster_of(const struct damaged *im, uint64_t guest_cluster)
{
    return (get(im, l2_at(im, guest_cluster)) & Q2_L2_OFFSET) / CLUSTER;
}

static uint64_t refblock(const struct damaged *im)
{
    return get(im, im->h.reftable_offset);
}

static void set_refcount(struct damaged *im, uint64_t cluster, uint16_t value)
{
    uint8_t buf[2];

    put_be16(buf, value);
    CHECK(pwrite(im->fd, buf, 2, (off_t)(refblock(im) + cluster * 2)) == 2);
}

/* One more cluster of zeros at the end; its index. */
static uint64_t append(struct damaged *im)
{
    uint64_t at = align_up(im->size, CLUSTER);

    im->size = at + CLUSTER;
    CHECK(ftruncate(im->fd, (off_t)im->size) == 0);
    return at / CLUSTER;
}

static void image_open(struct damaged *im, const char *path)
{
    struct stat st;
    uint8_t *head = test_alloc(CLUSTER);

    im->fd = open(path, O_RDWR | O_CLOEXEC);
    CHECK(im->fd >= 0 && fstat(im->fd, &st) == 0);
    im->size = (uint64_t)st.st_size;
    CHECK(pread(im->fd, head, CLUSTER, 0) > 0);
    CHECK_OK(q2_header_parse(head, CLUSTER, im->size, path, &im->h));
    free(head);
}

/* ---- kinds of damage ----------------------------------------------------------------------------------- */

/*
 * Guest clusters: 0 to 3 data, 4 zero without space, 5 zero with space, 6 compressed, the rest unallocated; one L2
 * table. With a snapshot: taken after these, and cluster 0 written again.
 */

static void nothing(struct damaged *im)
{
}

static void leak(struct damaged *im)
{
    set_refcount(im, append(im), 1);
}

static void leak_of_three(struct damaged *im)
{
    for (int i = 0; i < 3; i++)
        set_refcount(im, append(im), 7);
}

static void fill_cluster(struct damaged *im, uint64_t cluster, uint8_t byte)
{
    uint8_t *buf = test_alloc(CLUSTER);

    memset(buf, byte, CLUSTER);
    CHECK(pwrite(im->fd, buf, CLUSTER, (off_t)(cluster * CLUSTER)) == CLUSTER);
    free(buf);
}

/* Space that somebody has put between and behind them, and which has no refcount, is not ours. */
static void leaks_beside_what_is_not_ours(struct damaged *im)
{
    for (int i = 0; i < 48; i++) {
        uint64_t cluster = append(im);

        fill_cluster(im, cluster, i % 24 < 20 ? 0x11 : DAMAGE_NOT_OURS);
        set_refcount(im, cluster, i % 24 < 20);
    }
}

/* As a crash leaves them that takes clusters ahead: the file's end has not moved over them. */
static void leak_past_the_end(struct damaged *im)
{
    for (uint64_t i = 0; i < 5; i++)
        set_refcount(im, align_up(im->size, CLUSTER) / CLUSTER + 1 + i, 1);
}

static void refcount_too_high(struct damaged *im)
{
    set_refcount(im, cluster_of(im, 1), 2);
}

static void refcount_of_nought(struct damaged *im)
{
    set_refcount(im, cluster_of(im, 1), 0);
}

static void header_has_no_refcount(struct damaged *im)
{
    set_refcount(im, 0, 0);
}

/* Others have had these, too, and were killed before they said that they do not any more. */
static void left_by_others(struct damaged *im)
{
    set_refcount(im, cluster_of(im, 1), 2);
    change(im, l2_at(im, 1), Q2_COPIED, 0);
    set_refcount(im, q2_l1_offset(get(im, l1_at(im, 0))) / CLUSTER, 2);
    change(im, l1_at(im, 0), Q2_COPIED, 0);
}

static void cluster_shared_by_two(struct damaged *im)
{
    put(im, l2_at(im, 1), get(im, l2_at(im, 0)));
}

static void entry_lost(struct damaged *im)
{
    put(im, l2_at(im, 2), 0);
}

static void data_misaligned(struct damaged *im)
{
    change(im, l2_at(im, 1), 0, 512);
}

static void data_past_the_end(struct damaged *im)
{
    change(im, l2_at(im, 1), Q2_L2_OFFSET, 1ull << 40);
}

static void data_reserved_bit(struct damaged *im)
{
    change(im, l2_at(im, 1), 0, 1ull << 57);
}

static void not_flagged_as_sole(struct damaged *im)
{
    change(im, l2_at(im, 1), Q2_COPIED, 0);
}

static void l1_not_flagged_as_sole(struct damaged *im)
{
    change(im, l1_at(im, 0), Q2_COPIED, 0);
}

static void compressed_flagged_as_sole(struct damaged *im)
{
    change(im, l2_at(im, 6), 0, Q2_COPIED);
}

static void compressed_past_the_end(struct damaged *im)
{
    change(im, l2_at(im, 6), im->h.geo.compressed_offset_mask, 1ull << 40);
}

static void l2_past_the_end(struct damaged *im)
{
    change(im, l1_at(im, 0), Q2_L1_OFFSET, 1ull << 40);
}

static void l2_misaligned(struct damaged *im)
{
    change(im, l1_at(im, 0), 0, 512);
}

static void l1_reserved_bit(struct damaged *im)
{
    change(im, l1_at(im, 0), 0, 1);
}

static void l1_entry_of_flags_only(struct damaged *im)
{
    put(im, l1_at(im, 1), Q2_COPIED);
}

static void l2_points_at_itself(struct damaged *im)
{
    change(im, l2_at(im, 7), 0, get(im, l1_at(im, 0)));
}

/* With a refcount that matches. */
static void l2_points_at_itself_in_order(struct damaged *im)
{
    uint64_t table = q2_l1_offset(get(im, l1_at(im, 0)));

    put(im, l2_at(im, 7), table);
    change(im, l1_at(im, 0), Q2_COPIED, 0);
    set_refcount(im, table / CLUSTER, 2);
}

static void l2_is_the_l1_table(struct damaged *im)
{
    put(im, l1_at(im, 1), im->h.l1_offset | Q2_COPIED);
}

static void zero_without_an_offset(struct damaged *im)
{
    put(im, l2_at(im, 7), Q2_COPIED | Q2_ZERO);
}

static void data_is_the_refcount_table(struct damaged *im)
{
    put(im, l2_at(im, 7), Q2_COPIED | im->h.reftable_offset);
}

static void data_is_the_l1_table(struct damaged *im)
{
    put(im, l2_at(im, 7), Q2_COPIED | im->h.l1_offset);
}

static void data_is_the_snapshot_table(struct damaged *im)
{
    put(im, l2_at(im, 7), Q2_COPIED | im->h.snapshots_offset);
}

static void no_refcount_block(struct damaged *im)
{
    put(im, im->h.reftable_offset, 0);
}

static void refcount_block_misaligned(struct damaged *im)
{
    change(im, im->h.reftable_offset, 0, 512);
}

static void refcount_block_past_the_end(struct damaged *im)
{
    put(im, im->h.reftable_offset, 1ull << 40);
}

static void refcount_block_reserved_bit(struct damaged *im)
{
    change(im, im->h.reftable_offset, 0, 1);
}

static void put_field(struct damaged *im, uint64_t at, unsigned width, uint64_t value)
{
    uint8_t buf[8];

    put_be64(buf, value);
    CHECK(pwrite(im->fd, buf + 8 - width, width, (off_t)at) == (ssize_t)width);
}

#define PUT(im, field, value)                                                                                  \
    put_field(im, offsetof(struct q2_disk_header, field), sizeof(((struct q2_disk_header *)0)->field), value)

static void refcount_table_at_nought(struct damaged *im)
{
    PUT(im, refcount_table_offset, 0);
}

static void refcount_table_past_the_end(struct damaged *im)
{
    PUT(im, refcount_table_offset, 1ull << 40);
}

static void refcount_table_misaligned(struct damaged *im)
{
    PUT(im, refcount_table_offset, im->h.reftable_offset + 8);
}

static void refcount_table_elsewhere(struct damaged *im)
{
    PUT(im, refcount_table_offset, refblock(im));
}

static void refcount_table_of_no_length(struct damaged *im)
{
    PUT(im, refcount_table_clusters, 0);
}

static void refcount_table_over_l1(struct damaged *im)
{
    PUT(im, refcount_table_clusters, 9);
}

static void refcount_table_too_long(struct damaged *im)
{
    PUT(im, refcount_table_clusters, UINT32_MAX);
}

static void refcount_table_is_the_l1_table(struct damaged *im)
{
    PUT(im, refcount_table_offset, im->h.l1_offset);
}

/* And an entry that may mean any cluster. */
static void refcount_table_lost_and_l2(struct damaged *im)
{
    PUT(im, refcount_table_clusters, 0);
    change(im, l1_at(im, 0), 0, 512);
}

/* The next block, for clusters that the file does not have, is the first one. */
static void refcount_block_used_twice(struct damaged *im)
{
    put(im, im->h.reftable_offset + 8, refblock(im));
}

static void refcount_block_is_the_table(struct damaged *im)
{
    put(im, im->h.reftable_offset + 8, im->h.reftable_offset);
}

/* Behind the file's end, where repair would put something new. */
static void l2_where_refcounts_would_go(struct damaged *im)
{
    put(im, l1_at(im, 1), align_up(im->size, CLUSTER) | Q2_COPIED);
    refcount_block_is_the_table(im);
}

static void l2_where_a_copy_would_go(struct damaged *im)
{
    put(im, l1_at(im, 1), align_up(im->size, CLUSTER) | Q2_COPIED);
    cluster_shared_by_two(im);
}

/* It begins where the file has a few bytes more, and reaches past its end. */
static void l2_reaches_past_the_end(struct damaged *im)
{
    uint64_t at = append(im) * CLUSTER;

    im->size = at + 512;
    CHECK(ftruncate(im->fd, (off_t)im->size) == 0);
    put(im, l1_at(im, 1), (at + 1024) | Q2_COPIED);
    refcount_block_is_the_table(im);
}

static void file_cut_by_a_cluster(struct damaged *im)
{
    im->size = align_down(im->size - 1, CLUSTER) - CLUSTER;
    CHECK(ftruncate(im->fd, (off_t)im->size) == 0);
}

static void snapshot_forgotten(struct damaged *im)
{
    uint8_t none[4] = {0};

    CHECK(pwrite(im->fd, none, 4, offsetof(struct q2_disk_header, nb_snapshots)) == 4);
}

/* The snapshot's own table, which is another since cluster 0 was written again. */
static uint64_t snapshot_l1(const struct damaged *im)
{
    return get(im, im->h.snapshots_offset);
}

static void snapshot_l1_lost(struct damaged *im)
{
    put(im, snapshot_l1(im), 0);
}

static void snapshot_l2_past_the_end(struct damaged *im)
{
    change(im, snapshot_l1(im), Q2_L1_OFFSET, 1ull << 40);
}

/* Its L1 table is said to be there. */
static void move_snapshot_l1(struct damaged *im, uint64_t to)
{
    put(im, im->h.snapshots_offset, to);
}

static void snapshot_l1_unaligned(struct damaged *im)
{
    move_snapshot_l1(im, snapshot_l1(im) + 8);
}

/* Whose ID and name are lines of their own. */
static void snapshot_of_two_lines(struct damaged *im)
{
    char word[8];
    uint64_t at = im->h.snapshots_offset;

    snapshot_l1_unaligned(im);
    CHECK(pread(im->fd, word, 8, (off_t)(at + 36)) == 8);
    at += 40 + get_be32(word); /* past the extra data */
    CHECK(pwrite(im->fd, "\n\r", 2, (off_t)at) == 2);
}

static void snapshot_l1_at_0(struct damaged *im)
{
    move_snapshot_l1(im, 0);
}

static void snapshot_l1_past_the_end(struct damaged *im)
{
    move_snapshot_l1(im, 1ull << 40);
}

static void snapshot_l1_is_the_l1(struct damaged *im)
{
    move_snapshot_l1(im, im->h.l1_offset);
}

static void snapshot_l1_is_the_refcount_table(struct damaged *im)
{
    move_snapshot_l1(im, im->h.reftable_offset);
}

static void snapshot_l1_is_a_refcount_block(struct damaged *im)
{
    move_snapshot_l1(im, get(im, im->h.reftable_offset));
}

static void snapshot_l1_is_the_snapshot_table(struct damaged *im)
{
    move_snapshot_l1(im, im->h.snapshots_offset);
}

static void snapshot_l1_is_an_l2_table(struct damaged *im)
{
    move_snapshot_l1(im, get(im, im->h.l1_offset) & Q2_L1_OFFSET);
}

static void snapshot_l1_is_data(struct damaged *im)
{
    move_snapshot_l1(im, cluster_of(im, 3) * CLUSTER);
}

/* The table's only entry with other extra data: the first `had` bytes of what it has, then zeros up to `len`. */
static void set_extra(struct damaged *im, uint32_t had, uint32_t len)
{
    uint8_t *old = test_alloc(CLUSTER), *new = test_alloc(CLUSTER);
    uint32_t extra;

    CHECK(pread(im->fd, old, CLUSTER, (off_t)im->h.snapshots_offset) > 0);
    extra = get_be32(old + offsetof(struct q2_disk_snapshot, extra_size));
    memcpy(new, old, sizeof(struct q2_disk_snapshot));
    put_be32(new + offsetof(struct q2_disk_snapshot, extra_size), len);
    memcpy(new + sizeof(struct q2_disk_snapshot), old + sizeof(struct q2_disk_snapshot), had);
    memcpy(new + sizeof(struct q2_disk_snapshot) + len, old + sizeof(struct q2_disk_snapshot) + extra, 4);
    CHECK(pwrite(im->fd, new, CLUSTER, (off_t)im->h.snapshots_offset) == CLUSTER);
    im->size = max_u64(im->size, im->h.snapshots_offset + CLUSTER);
    free(old);
    free(new);
}

static void snapshot_without_extra_data(struct damaged *im)
{
    set_extra(im, 0, 0);
}

static void snapshot_with_some_extra_data(struct damaged *im)
{
    set_extra(im, 8, 12);
}

static void snapshot_with_too_much_extra_data(struct damaged *im)
{
    set_extra(im, 24, 1032);
}

static void snapshot_table_past_the_end(struct damaged *im)
{
    PUT(im, snapshots_offset, 1ull << 40);
}

static void snapshot_table_misaligned(struct damaged *im)
{
    PUT(im, snapshots_offset, im->h.snapshots_offset + 64);
}

static void snapshot_table_elsewhere(struct damaged *im)
{
    PUT(im, snapshots_offset, cluster_of(im, 3) * CLUSTER);
    fill_cluster(im, cluster_of(im, 3), 0);
}

static void snapshot_table_lost(struct damaged *im)
{
    PUT(im, snapshots_offset, 1ull << 40);
    fill_cluster(im, im->h.snapshots_offset / CLUSTER, 0);
}

static void snapshots_too_many(struct damaged *im)
{
    PUT(im, nb_snapshots, 3);
    set_extra(im, 24, 24);
}

static void snapshots_far_too_many(struct damaged *im)
{
    PUT(im, nb_snapshots, 65537);
    set_extra(im, 24, 24);
}

static void version_2_with_zero_flags(struct damaged *im)
{
    change(im, l2_at(im, 1), 0, Q2_ZERO);
    put(im, l2_at(im, 7), Q2_ZERO);
}

/* Version 3, but for the number. */
static void version_field_damaged(struct damaged *im)
{
    PUT(im, version, 2);
}

static void shared_flagged_as_sole(struct damaged *im)
{
    change(im, l2_at(im, 1), 0, Q2_COPIED);
}

static void bitmap_directory_damaged(struct damaged *im)
{
    put(im, im->h.bitmap_directory_offset, 8);
}

static void bitmap_lost(struct damaged *im)
{
    change(im, offsetof(struct q2_disk_header, autoclear_features), Q2_AUTOCLEAR_BITMAPS, 0);
}

static void bitmap_cluster_past_the_end(struct damaged *im)
{
    put(im, get(im, im->h.bitmap_directory_offset), 1ull << 40);
}

static void subcluster_allocated_and_zero(struct damaged *im)
{
    change(im, l2_at(im, 1) + 8, 0, 1ull << 32 | 1);
}

static void subclusters_without_a_cluster(struct damaged *im)
{
    put(im, l2_at(im, 7) + 8, q2_bitmap(1, 0));
}

static void zero_flag_with_subclusters(struct damaged *im)
{
    change(im, l2_at(im, 1), 0, Q2_ZERO);
}

static void data_file_offset_differs(struct damaged *im)
{
    change(im, l2_at(im, 1), Q2_L2_OFFSET, 2 * CLUSTER);
}

/* ---- what must be found ------------------------------------------------------------------------------------ */

const struct damage damages[] = {
    {"clean", PLAIN, nothing, 0, 0, 0, 0, 0, NULL},
    {"clean-snapshot", SNAPSHOT, nothing, 0, 0, 0, 0, 0, NULL},
    {"clean-bitmap", BITMAP, nothing, 0, 0, 0, 0, 0, NULL},
    {"clean-extended", EXTENDED, nothing, 0, 0, 0, 0, 0, NULL},
    {"clean-data-file", DATA_FILE, nothing, 0, 0, 0, 0, 0, NULL},
    {"leak", PLAIN, leak, 0, 1, 0, 0, 0, NULL},
    {"leak-of-three", PLAIN, leak_of_three, 0, 3, 0, 0, 0, NULL},
    {"leaks-beside-what-is-not-ours", PLAIN, leaks_beside_what_is_not_ours, 0, 40, 0, 0, 0, NULL},
    {"leak-past-the-end", PLAIN, leak_past_the_end, 0, 0, 0, 0, 0, NULL},
    /* the flag of L2 entry 1 is wrong; the refcount is one too many */
    {"refcount-too-high", PLAIN, refcount_too_high, 1, 1, 0, 0, 0, NULL},
    {"left-by-others", PLAIN, left_by_others, 0, 2, 0, 0, 0, NULL},
    /* the flag, and the refcount */
    {"refcount-of-nought", PLAIN, refcount_of_nought, 2, 0, 0, 2, 0, NULL},
    {"header-has-no-refcount", PLAIN, header_has_no_refcount, 1, 0, 0, 2, 0, NULL},
    /* one reference too many; what entry 1 had before is lost */
    {"cluster-shared-by-two", PLAIN, cluster_shared_by_two, 1, 1, 0, 2, 0, NULL},
    {"entry-lost", PLAIN, entry_lost, 0, 1, 0, 0, 0, NULL},
    /* the offset; it reaches into the cluster after its own */
    {"data-misaligned", PLAIN, data_misaligned, 2, 0, 0, 2, 2, NULL},
    {"data-past-the-end", PLAIN, data_past_the_end, 2, 1, 0, 2, 0, NULL},
    {"data-reserved-bit", PLAIN, data_reserved_bit, 1, 0, 0, 2, 0, NULL},
    {"not-flagged-as-sole", PLAIN, not_flagged_as_sole, 1, 0, 0, 0, 0, NULL},
    {"l1-not-flagged-as-sole", PLAIN, l1_not_flagged_as_sole, 1, 0, 0, 0, 0, NULL},
    {"compressed-flagged-as-sole", PLAIN, compressed_flagged_as_sole, 1, 0, 0, 2, 0, NULL},
    {"compressed-past-the-end", PLAIN, compressed_past_the_end, 1, 1, 0, 2, 2, NULL},
    {"l2-past-the-end", PLAIN, l2_past_the_end, 2, 7, 0, 2, 2, NULL},
    /* the table is not followed; clusters 6 to 10 have no other reference */
    {"l2-misaligned", PLAIN, l2_misaligned, 1, 5, 0, 2, 2, "it follows the misaligned table"},
    {"l1-reserved-bit", PLAIN, l1_reserved_bit, 1, 0, 0, 2, 0, NULL},
    {"l1-entry-of-flags-only", PLAIN, l1_entry_of_flags_only, 1, 0, 0, 2, 0, "it looks at the offset only"},
    {"l2-points-at-itself", PLAIN, l2_points_at_itself, 1, 0, 0, 2, 0, NULL},
    {"l2-points-at-itself-in-order", PLAIN, l2_points_at_itself_in_order, 1, 0, 0, 2, 0, "the numbers match"},
    /* cluster 3 has three references, as L1, as L2 and by its own entry; cluster 4 two */
    {"l2-is-the-l1-table", PLAIN, l2_is_the_l1_table, 2, 0, 0, 2, 0, NULL},
    {"zero-without-an-offset", PLAIN, zero_without_an_offset, 0, 0, 0, 0, 0, NULL},
    {"data-is-the-refcount-table", PLAIN, data_is_the_refcount_table, 1, 0, 0, 2, 0, NULL},
    {"data-is-the-l1-table", PLAIN, data_is_the_l1_table, 1, 0, 0, 2, 0, NULL},
    {"data-is-the-snapshot-table", SNAPSHOT, data_is_the_snapshot_table, 1, 0, 0, 2, 0, NULL},
    /* six flags, ten clusters */
    {"no-refcount-block", PLAIN, no_refcount_block, 16, 0, 0, 2, 0, NULL},
    /* the refcounts of all clusters are unknown */
    {"refcount-block-misaligned", PLAIN, refcount_block_misaligned, 1, 0, 11, 1, 0, NULL},
    {"refcount-block-past-the-end", PLAIN, refcount_block_past_the_end, 17, 0, 0, 2, 0, NULL},
    /* the block is not followed, but its cluster has a refcount */
    {"refcount-block-reserved-bit", PLAIN, refcount_block_reserved_bit, 1, 1, 0, 2, 0, NULL},
    /* what the header says of the table; then the refcounts are unknown */
    {"refcount-table-at-nought", PLAIN, refcount_table_at_nought, 1, 0, 0, 2, 0, "it counts what has none"},
    {"refcount-table-past-the-end", PLAIN, refcount_table_past_the_end, 1, 0, 0, 2, 0, "it counts what has none"},
    {"refcount-table-misaligned", PLAIN, refcount_table_misaligned, 1, 0, 0, 2, 0, "it counts what has none"},
    {"refcount-table-elsewhere", PLAIN, refcount_table_elsewhere, 19, 0, 0, 2, 0, NULL},
    {"refcount-table-of-no-length", PLAIN, refcount_table_of_no_length, 1, 0, 0, 2, 0, "it counts what has none"},
    {"refcount-table-over-l1", PLAIN, refcount_table_over_l1, 1, 0, 0, 2, 0, "it counts what has none"},
    {"refcount-table-is-the-l1-table", PLAIN, refcount_table_is_the_l1_table, 1, 0, 0, 2, 0, "it reads it"},
    {"refcount-table-too-long", PLAIN, refcount_table_too_long, 1, 0, 0, 2, 0, "it does not open it"},
    {"refcount-table-lost-and-l2", PLAIN, refcount_table_lost_and_l2, 2, 0, 0, 2, 2, "it counts what has none"},
    /* the block as such, and its refcount */
    {"refcount-block-used-twice", PLAIN, refcount_block_used_twice, 2, 0, 0, 2, 0, NULL},
    {"refcount-block-is-the-table", PLAIN, refcount_block_is_the_table, 2, 0, 0, 2, 0, NULL},
    /* what follows repair must put elsewhere: the entry would have it for its table */
    {"l2-where-refcounts-would-go", PLAIN, l2_where_refcounts_would_go, 4, 0, 0, 2, 0, NULL},
    {"l2-where-a-copy-would-go", PLAIN, l2_where_a_copy_would_go, 3, 1, 0, 2, 2, NULL},
    {"l2-reaches-past-the-end", PLAIN, l2_reaches_past_the_end, 5, 0, 0, 2, 2, NULL},
    /* the last whole cluster, and the compressed one in the last, partial one */
    {"file-cut-by-a-cluster", PLAIN, file_cut_by_a_cluster, 2, 0, 0, 2, 2, NULL},
    /* L1, L2, five clusters shared with the disk, one of its own, the snapshot table */
    {"snapshot-forgotten", SNAPSHOT, snapshot_forgotten, 0, 9, 0, 0, 0, NULL},
    {"snapshot-l1-lost", SNAPSHOT, snapshot_l1_lost, 0, 7, 0, 0, 0, NULL},
    {"snapshot-l2-past-the-end", SNAPSHOT, snapshot_l2_past_the_end, 1, 7, 0, 2, 2, NULL},
    /* what it had is kept: the next repair frees that */
    {"snapshot-l1-unaligned", SNAPSHOT, snapshot_l1_unaligned, 1, 0, 0, 2, 3, "it counts what is lost"},
    {"snapshot-of-two-lines", SNAPSHOT, snapshot_of_two_lines, 1, 0, 0, 2, 3, "it counts what is lost"},
    {"snapshot-l1-at-0", SNAPSHOT, snapshot_l1_at_0, 1, 8, 0, 2, 3, "it follows it"},
    {"snapshot-l1-past-the-end", SNAPSHOT, snapshot_l1_past_the_end, 1, 8, 0, 2, 3, "it counts otherwise"},
    {"snapshot-l1-is-the-l1", SNAPSHOT, snapshot_l1_is_the_l1, 1, 8, 0, 2, 3, "it follows it"},
    {"snapshot-l1-is-the-refcount-table", SNAPSHOT, snapshot_l1_is_the_refcount_table, 1, 8, 0, 2, 3,
     "it follows it"},
    {"snapshot-l1-is-a-refcount-block", SNAPSHOT, snapshot_l1_is_a_refcount_block, 6, 8, 0, 2, 3,
     "it follows it"},
    {"snapshot-l1-is-the-snapshot-table", SNAPSHOT, snapshot_l1_is_the_snapshot_table, 1, 8, 0, 2, 3,
     "it follows it"},
    {"snapshot-l1-is-an-l2-table", SNAPSHOT, snapshot_l1_is_an_l2_table, 40963, 7, 0, 2, 3, "it follows it"},
    {"snapshot-l1-is-data", SNAPSHOT, snapshot_l1_is_data, 5, 7, 0, 2, 3, "it follows it"},
    {"snapshot-without-extra-data", SNAPSHOT, snapshot_without_extra_data, 1, 0, 0, 2, 0, NULL},
    {"snapshot-with-some-extra-data", SNAPSHOT, snapshot_with_some_extra_data, 1, 0, 0, 2, 0, NULL},
    {"snapshot-with-too-much-extra", SNAPSHOT, snapshot_with_too_much_extra_data, 1, 0, 0, 2, 0, "it gives up"},
    /* the table is found again, by what it looks like */
    {"snapshot-table-past-the-end", SNAPSHOT, snapshot_table_past_the_end, 1, 0, 0, 2, 0, "it gives it up"},
    {"snapshot-table-misaligned", SNAPSHOT, snapshot_table_misaligned, 1, 0, 0, 2, 0, "it gives it up"},
    {"snapshot-table-elsewhere", SNAPSHOT, snapshot_table_elsewhere, 2, 0, 0, 2, 0, "it gives it up"},
    {"snapshot-table-lost", SNAPSHOT, snapshot_table_lost, 1, 0, 0, 2, 0, "it counts two"},
    {"snapshots-too-many", SNAPSHOT, snapshots_too_many, 2, 0, 0, 2, 0, "it counts each"},
    {"snapshots-far-too-many", SNAPSHOT, snapshots_far_too_many, 1, 0, 0, 2, 0, "it gives up"},
    {"version-2-with-zero-flags", VERSION_2, version_2_with_zero_flags, 2, 0, 0, 2, 0, "it does not look"},
    {"version-field-damaged", PLAIN, version_field_damaged, 2, 0, 0, 2, 2, "it does not look"},
    {"shared-flagged-as-sole", SNAPSHOT, shared_flagged_as_sole, 1, 0, 0, 0, 0, NULL},
    {"bitmap-directory-damaged", BITMAP, bitmap_directory_damaged, 1, 0, 0, 2, 2, "it gives up"},
    /* directory, table, and one cluster of bits */
    {"bitmap-lost", BITMAP, bitmap_lost, 0, 3, 0, 0, 0, NULL},
    {"bitmap-cluster-past-the-end", BITMAP, bitmap_cluster_past_the_end, 1, 1, 0, 2, 2, NULL},
    {"subcluster-allocated-and-zero", EXTENDED, subcluster_allocated_and_zero, 1, 0, 0, 2, 2, NULL},
    {"subclusters-without-a-cluster", EXTENDED, subclusters_without_a_cluster, 1, 0, 0, 2, 2, NULL},
    {"zero-flag-with-subclusters", EXTENDED, zero_flag_with_subclusters, 1, 0, 0, 2, 0, "it does not look"},
    {"data-file-offset-differs", DATA_FILE, data_file_offset_differs, 1, 0, 0, 2, 2, "it does not look"},
};

const unsigned damages_count = ARRAY_LEN(damages);

void damage_make_base(enum damage_base base, const char *path)
{
    run_ok("qemu-img create -q -f qcow2 -o cluster_size=64k%s%s%s %s 1G",
           base == EXTENDED ? ",extended_l2=on" : base == VERSION_2 ? ",compat=0.10" : "",
           base == DATA_FILE ? ",data_file=" : "",
           base == DATA_FILE ? test_path("data") : "", path);
    run_ok("qemu-io -f qcow2 -c 'write -q -P 1 0 256k' -c 'write -q -z 256k 64k' -c 'write -q -P 2 320k 64k' "
           "-c 'write -q -z 320k 64k' %s %s", base == DATA_FILE ? "" : "-c 'write -q -c -P 3 384k 64k'", path);
    if (base == SNAPSHOT)
        run_ok("qemu-img snapshot -c one %s && qemu-io -f qcow2 -c 'write -q -P 4 0 64k' %s", path, path);
    if (base == BITMAP)
        run_ok("qemu-img bitmap --add -g 64k %s b0 && qemu-io -f qcow2 -c 'write -q -P 4 64k 64k' %s", path, path);
}

void damage_break(const struct damage *d, const char *path)
{
    struct damaged im;

    image_open(&im, path);
    d->make(&im);
    q2_header_free(&im.h);
    close(im.fd);
}

void damage_make(const struct damage *d, const char *path)
{
    damage_make_base(d->base, path);
    damage_break(d, path);
}
