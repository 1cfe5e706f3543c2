/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A small reader of qcow2, for judging the library's: written from the specification, shares no code with it but
 * the access to big-endian words. It looks at the bytes of an image file in memory, damaged ones too, and says
 * which guest sectors can be read, as what, and what each sector of the file is in use for.
 */
#ifndef TESTS_FOREIGN_WALK_H
#define TESTS_FOREIGN_WALK_H

#include <stdbool.h>
#include <stdint.h>

enum {
    WALK_BEYOND = 1 << 20,
    /* what is used behind the end of the file is known so far */ WALK_SECTOR = 512,
    WALK_BITMAPS = 4,
    WALK_SNAPSHOTS = 4
};

/* What a sector of the file is used for: bits, since damage can give it several uses. */
enum walk_use {
    WALK_HEADER = 1u << 0,
    WALK_L1 = 1u << 1,
    WALK_L2 = 1u << 2,
    WALK_DATA = 1u << 3, /* of the active disk; compressed data too */
    WALK_REFTABLE = 1u << 4,
    WALK_REFBLOCK = 1u << 5,
    WALK_SNAPSHOTS_TABLE = 1u << 6,
    WALK_SNAPSHOT_L1 = 1u << 7,
    WALK_SNAPSHOT_L2 = 1u << 8,
    WALK_SNAPSHOT_DATA = 1u << 9,
    WALK_BITMAP_DIRECTORY = 1u << 10,
    WALK_BITMAP_TABLE = 1u << 11,
    WALK_BITMAP_DATA = 1u << 12,
    WALK_ACTIVE = WALK_HEADER | WALK_L1 | WALK_L2 | WALK_REFTABLE | WALK_REFBLOCK,
    WALK_TABLES = WALK_ACTIVE | WALK_SNAPSHOTS_TABLE | WALK_SNAPSHOT_L1 | WALK_SNAPSHOT_L2 |
                  WALK_BITMAP_DIRECTORY | WALK_BITMAP_TABLE,
};

/* How a guest cluster is mapped. */
enum walk_type {
    WALK_UNKNOWN, /* the entry cannot be had, or means nothing */
    WALK_NONE,    /* the backing file's, or zeros */
    WALK_ZERO,
    WALK_PLAIN, /* a cluster of the file; extended: some subclusters may be otherwise */
    WALK_COMPRESSED,
};

struct walk_entry {
    enum walk_type type;
    bool copied;
    uint64_t at; /* of the entry in the file; 0: there is no L2 table */
    uint64_t word, bitmap;
    uint64_t host, len; /* what it has of the file; len 0: nothing */
};

/* A table: where, of how many entries. */
struct walk_table {
    uint64_t at, entries;
};

struct walk {
    const uint8_t *bytes;
    uint64_t len;
    const uint8_t *backing; /* what is behind clusters that the image does not have; NULL: zeros */
    uint64_t backing_len;

    bool usable; /* the header makes sense; else nothing of the rest is filled in */
    uint32_t version, cluster_bits, refcount_order, header_length;
    bool extended, zstd, data_file;
    uint64_t cluster, size, incompatible, compatible, autoclear;
    struct walk_table l1, reftable, snapshots, bitmaps; /* of bitmaps, snapshots `entries` counts these */
    uint64_t bitmaps_extension;                         /* where it is, or 0 */
    uint64_t bitmap_directory_len;
    struct walk_table snapshot_l1[WALK_SNAPSHOTS], bitmap_table[WALK_BITMAPS];
    uint64_t snapshot_at[WALK_SNAPSHOTS + 1], bitmap_at[WALK_BITMAPS + 1];
    unsigned nsnapshots, nbitmaps; /* that were found */
    uint16_t *use;                 /* enum walk_use, for each sector of the file */
    uint16_t *refs;                /* for each cluster of the file: how many entries and tables lead to it */
    uint8_t *flagged;              /* for each cluster: an active entry says that it is not shared */
    uint64_t clusters;
};

/* `bytes` stay the caller's, and stay as they are until walk_finish(). */
void walk_init(struct walk *w, const uint8_t *bytes, uint64_t len, const uint8_t *backing, uint64_t backing_len);
void walk_finish(struct walk *w);

/* The word of `width` bytes; 0 past the end. */
uint64_t walk_word(const struct walk *w, uint64_t at, unsigned width);

/* The entry for a guest offset in the active table, or in another L1 table. */
struct walk_entry walk_lookup(const struct walk *w, const struct walk_table *l1, uint64_t guest);

/* Guest sector `guest` into `ret`. False: it cannot be read. */
bool walk_read(const struct walk *w, uint64_t guest, uint8_t ret[WALK_SECTOR]);

/* The refcount of the cluster at `host`; 0 where there is no block, or none that can be read. */
uint64_t walk_refcount(const struct walk *w, uint64_t host);

/* Where that refcount is: the block's offset, or 0. */
uint64_t walk_refblock(const struct walk *w, uint64_t host);

/* All uses of [at, at+len), together. */
uint32_t walk_uses(const struct walk *w, uint64_t at, uint64_t len);

/* A use, in words. Static. */
const char *walk_use_name(uint32_t uses);

#endif
