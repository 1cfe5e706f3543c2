/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * qcow2 on disk: structs, masks, magic numbers and limits. All numbers on disk are big-endian; the structs here
 * hold them as they lie in the file. Names in quotes are sections of the qcow2 specification
 * (docs/interop/qcow2.txt of QEMU). Limits marked "QEMU" are not the specification's but what QEMU refuses, and so
 * do we: an image is untrusted input and must not make us allocate at will.
 */
#ifndef QCOW2_ONDISK_H
#define QCOW2_ONDISK_H

#include <stddef.h>
#include <stdint.h>

/* ---- "Header" -------------------------------------------------------------------------------------- */

#define Q2_MAGIC 0x514649fbu /* "QFI\xfb" */

/* Not QEMU's: "QFI~", in place of it as long as what an image is made for is still being written to it. */
#define Q2_MAGIC_UNFINISHED 0x5146497eu

/* Version 2 ends before incompatible_features. */
struct q2_disk_header {
    uint32_t magic;
    uint32_t version;
    uint64_t backing_file_offset;
    uint32_t backing_file_size;
    uint32_t cluster_bits;
    uint64_t size;
    uint32_t crypt_method;
    uint32_t l1_size;
    uint64_t l1_table_offset;
    uint64_t refcount_table_offset;
    uint32_t refcount_table_clusters;
    uint32_t nb_snapshots;
    uint64_t snapshots_offset;

    uint64_t incompatible_features;
    uint64_t compatible_features;
    uint64_t autoclear_features;
    uint32_t refcount_order;
    uint32_t header_length;

    /* "Additional fields (version 3 and higher)": present as far as header_length reaches. */
    uint8_t  compression_type;
    uint8_t  padding[7];
};

enum {
    Q2_HEADER_V2_LENGTH = 72,
    Q2_HEADER_V3_LENGTH = 104, /* at least */
    Q2_HEADER_LENGTH    = 112, /* what we write */
};

#define Q2_AT(type, member, offset) _Static_assert(offsetof(struct type, member) == (offset), #type "." #member)

Q2_AT(q2_disk_header, magic, 0);
Q2_AT(q2_disk_header, version, 4);
Q2_AT(q2_disk_header, backing_file_offset, 8);
Q2_AT(q2_disk_header, backing_file_size, 16);
Q2_AT(q2_disk_header, cluster_bits, 20);
Q2_AT(q2_disk_header, size, 24);
Q2_AT(q2_disk_header, crypt_method, 32);
Q2_AT(q2_disk_header, l1_size, 36);
Q2_AT(q2_disk_header, l1_table_offset, 40);
Q2_AT(q2_disk_header, refcount_table_offset, 48);
Q2_AT(q2_disk_header, refcount_table_clusters, 56);
Q2_AT(q2_disk_header, nb_snapshots, 60);
Q2_AT(q2_disk_header, snapshots_offset, 64);
Q2_AT(q2_disk_header, incompatible_features, 72);
Q2_AT(q2_disk_header, compatible_features, 80);
Q2_AT(q2_disk_header, autoclear_features, 88);
Q2_AT(q2_disk_header, refcount_order, 96);
Q2_AT(q2_disk_header, header_length, 100);
Q2_AT(q2_disk_header, compression_type, 104);
_Static_assert(sizeof(struct q2_disk_header) == Q2_HEADER_LENGTH, "q2_disk_header");
_Static_assert(offsetof(struct q2_disk_header, incompatible_features) == Q2_HEADER_V2_LENGTH, "version 2");
_Static_assert(offsetof(struct q2_disk_header, compression_type) == Q2_HEADER_V3_LENGTH, "version 3 at least");

enum q2_crypt_method { Q2_CRYPT_NONE, Q2_CRYPT_AES, Q2_CRYPT_LUKS };

/* incompatible_features */
#define Q2_INCOMPAT_DIRTY       (1ull << 0)
#define Q2_INCOMPAT_CORRUPT     (1ull << 1)
#define Q2_INCOMPAT_DATA_FILE   (1ull << 2)
#define Q2_INCOMPAT_COMPRESSION (1ull << 3)
#define Q2_INCOMPAT_EXTENDED_L2 (1ull << 4)
#define Q2_INCOMPAT_KNOWN       0x1full

_Static_assert((Q2_INCOMPAT_DIRTY | Q2_INCOMPAT_CORRUPT | Q2_INCOMPAT_DATA_FILE | Q2_INCOMPAT_COMPRESSION |
                Q2_INCOMPAT_EXTENDED_L2) == Q2_INCOMPAT_KNOWN, "what is known has a name");

/* compatible_features */
#define Q2_COMPAT_LAZY_REFCOUNTS (1ull << 0)

/* autoclear_features; unknown ones are cleared before the first write */
#define Q2_AUTOCLEAR_BITMAPS       (1ull << 0)
#define Q2_AUTOCLEAR_DATA_FILE_RAW (1ull << 1)
#define Q2_AUTOCLEAR_KNOWN         0x3ull

_Static_assert((Q2_AUTOCLEAR_BITMAPS | Q2_AUTOCLEAR_DATA_FILE_RAW) == Q2_AUTOCLEAR_KNOWN, "here too");

/* ---- "Header extensions" --------------------------------------------------------------------------- */

struct q2_disk_extension {
    uint32_t type;
    uint32_t length; /* of the data that follows, without the padding to 8 */
};

Q2_AT(q2_disk_extension, type, 0);
Q2_AT(q2_disk_extension, length, 4);
_Static_assert(sizeof(struct q2_disk_extension) == 8, "q2_disk_extension");

#define Q2_EXT_END            0x00000000u
#define Q2_EXT_BACKING_FORMAT 0xe2792acau
#define Q2_EXT_FEATURE_NAMES  0x6803f857u
#define Q2_EXT_BITMAPS        0x23852875u
#define Q2_EXT_CRYPTO         0x0537be77u
#define Q2_EXT_DATA_FILE      0x44415441u

/* "Feature name table" */
enum q2_feature_type { Q2_FEATURE_INCOMPATIBLE, Q2_FEATURE_COMPATIBLE, Q2_FEATURE_AUTOCLEAR };

struct q2_disk_feature_name {
    uint8_t type; /* enum q2_feature_type */
    uint8_t bit;
    char    name[46]; /* padded with zeros, not always terminated */
};

Q2_AT(q2_disk_feature_name, bit, 1);
Q2_AT(q2_disk_feature_name, name, 2);
_Static_assert(sizeof(struct q2_disk_feature_name) == 48, "q2_disk_feature_name");

/* "Bitmaps extension" */
struct q2_disk_bitmaps {
    uint32_t nb_bitmaps;
    uint32_t reserved;
    uint64_t bitmap_directory_size;
    uint64_t bitmap_directory_offset;
};

Q2_AT(q2_disk_bitmaps, nb_bitmaps, 0);
Q2_AT(q2_disk_bitmaps, bitmap_directory_size, 8);
Q2_AT(q2_disk_bitmaps, bitmap_directory_offset, 16);
_Static_assert(sizeof(struct q2_disk_bitmaps) == 24, "q2_disk_bitmaps");

/* "Full disk encryption header pointer" */
struct q2_disk_crypto {
    uint64_t offset;
    uint64_t length;
};

Q2_AT(q2_disk_crypto, length, 8);
_Static_assert(sizeof(struct q2_disk_crypto) == 16, "q2_disk_crypto");

/* ---- "Snapshots" ----------------------------------------------------------------------------------- */

/* Followed by extra data, the ID, the name, and padding to 8. */
struct q2_disk_snapshot {
    uint64_t l1_table_offset;
    uint32_t l1_size;
    uint16_t id_size;
    uint16_t name_size;
    uint32_t date_sec;
    uint32_t date_nsec;
    uint64_t vm_clock_nsec;
    uint32_t vm_state_size;
    uint32_t extra_size;
};

Q2_AT(q2_disk_snapshot, l1_table_offset, 0);
Q2_AT(q2_disk_snapshot, l1_size, 8);
Q2_AT(q2_disk_snapshot, id_size, 12);
Q2_AT(q2_disk_snapshot, name_size, 14);
Q2_AT(q2_disk_snapshot, date_sec, 16);
Q2_AT(q2_disk_snapshot, date_nsec, 20);
Q2_AT(q2_disk_snapshot, vm_clock_nsec, 24);
Q2_AT(q2_disk_snapshot, vm_state_size, 32);
Q2_AT(q2_disk_snapshot, extra_size, 36);
_Static_assert(sizeof(struct q2_disk_snapshot) == 40, "q2_disk_snapshot");

/* As far as extra_size reaches. */
struct q2_disk_snapshot_extra {
    uint64_t vm_state_size_large;
    uint64_t disk_size;
    uint64_t icount;
};

Q2_AT(q2_disk_snapshot_extra, disk_size, 8);
Q2_AT(q2_disk_snapshot_extra, icount, 16);
_Static_assert(sizeof(struct q2_disk_snapshot_extra) == 24, "q2_disk_snapshot_extra");

/* ---- "Bitmap directory", "Bitmap table" -------------------------------------------------------------- */

/* Followed by extra data, the name, and zeros up to the next 8. */
struct q2_disk_bitmap {
    uint64_t table_offset;
    uint32_t table_entries;
    uint32_t flags;
    uint8_t  type;
    uint8_t  granularity_bits;
    uint16_t name_size;
    uint32_t extra_size;
};

Q2_AT(q2_disk_bitmap, table_offset, 0);
Q2_AT(q2_disk_bitmap, table_entries, 8);
Q2_AT(q2_disk_bitmap, flags, 12);
Q2_AT(q2_disk_bitmap, type, 16);
Q2_AT(q2_disk_bitmap, granularity_bits, 17);
Q2_AT(q2_disk_bitmap, name_size, 18);
Q2_AT(q2_disk_bitmap, extra_size, 20);
_Static_assert(sizeof(struct q2_disk_bitmap) == 24, "q2_disk_bitmap");

#define Q2_BITMAP_IN_USE           (1u << 0)
#define Q2_BITMAP_AUTO             (1u << 1)
#define Q2_BITMAP_EXTRA_COMPATIBLE (1u << 2)
#define Q2_BITMAP_FLAGS_RESERVED   0xfffffff8u
#define Q2_BITMAP_TYPE_DIRTY       1u

_Static_assert((Q2_BITMAP_IN_USE | Q2_BITMAP_AUTO | Q2_BITMAP_EXTRA_COMPATIBLE | Q2_BITMAP_FLAGS_RESERVED) ==
               UINT32_MAX, "each flag is known or reserved");

#define Q2_BITMAP_ENTRY_OFFSET   0x00fffffffffffe00ull
#define Q2_BITMAP_ENTRY_ALL_ONES 1ull
#define Q2_BITMAP_ENTRY_RESERVED 0xff000000000001feull

_Static_assert((Q2_BITMAP_ENTRY_OFFSET | Q2_BITMAP_ENTRY_ALL_ONES | Q2_BITMAP_ENTRY_RESERVED) == UINT64_MAX,
               "each bit of an entry of a bitmap table means something");

/* ---- "Cluster mapping", "Host cluster management" ----------------------------------------------------- */

#define Q2_COPIED     (1ull << 63) /* L1 and L2: refcount is exactly one */
#define Q2_COMPRESSED (1ull << 62) /* L2 */
#define Q2_ZERO       (1ull << 0)  /* L2, standard, version 3 without extended L2 entries */

#define Q2_L1_OFFSET         0x00fffffffffffe00ull
#define Q2_L1_RESERVED       0x7f000000000001ffull
#define Q2_L2_OFFSET         0x00fffffffffffe00ull
#define Q2_L2_RESERVED       0x3f000000000001feull /* of standard descriptors; bit 0 too where it is no flag */
#define Q2_REFTABLE_OFFSET   0xfffffffffffffe00ull
#define Q2_REFTABLE_RESERVED 0x00000000000001ffull

/* Each bit of an entry is its offset's, a flag, or reserved, and only one of these. */
_Static_assert((Q2_L1_OFFSET | Q2_L1_RESERVED | Q2_COPIED) == UINT64_MAX && (Q2_L1_OFFSET & Q2_L1_RESERVED) == 0,
               "L1 entry");
_Static_assert((Q2_L2_OFFSET | Q2_L2_RESERVED | Q2_COPIED | Q2_COMPRESSED | Q2_ZERO) == UINT64_MAX &&
               (Q2_L2_OFFSET & Q2_L2_RESERVED) == 0, "L2 entry");
_Static_assert((Q2_REFTABLE_OFFSET | Q2_REFTABLE_RESERVED) == UINT64_MAX, "refcount table entry");

enum {
    Q2_L1_ENTRY_SIZE       = 8,
    Q2_REFTABLE_ENTRY_SIZE = 8,
    Q2_SECTOR_SIZE         = 512, /* the unit of lengths in compressed cluster descriptors */
    Q2_EXTENDED_SUBCLUSTERS = 32,
};

/* ---- limits ------------------------------------------------------------------------------------------ */

enum {
    Q2_MIN_CLUSTER_BITS          = 9,
    Q2_MAX_CLUSTER_BITS          = 21, /* QEMU: 2 MiB */
    Q2_MIN_CLUSTER_BITS_EXTENDED = 14, /* "Header": with Extended L2 Entries */
    Q2_DEFAULT_CLUSTER_BITS      = 16,
    Q2_MAX_REFCOUNT_ORDER        = 6,
    Q2_DEFAULT_REFCOUNT_ORDER    = 4,

    Q2_MAX_L1_SIZE         = 32 << 20,     /* QEMU; bytes, active table and snapshots' */
    Q2_MAX_REFTABLE_SIZE   = 8 << 20,      /* QEMU; bytes */
    Q2_MAX_BACKING_NAME    = 1023,         /* "Header" */
    Q2_MAX_BACKING_FORMAT  = 1023,         /* ours, so that a header's strings are bounded */
    Q2_MAX_DATA_FILE_NAME  = 4095,         /* ours; PATH_MAX */

    Q2_MAX_SNAPSHOTS       = 65536,        /* QEMU */
    Q2_MAX_SNAPSHOT_TABLE  = 1024 * 65536, /* QEMU; bytes */
    Q2_MAX_SNAPSHOT_EXTRA  = 1024,         /* QEMU; bytes of one entry */

    Q2_MAX_BITMAPS           = 65535,      /* QEMU */
    Q2_MAX_BITMAP_NAME       = 1023,       /* QEMU */
    Q2_MIN_BITMAP_GRANULARITY_BITS = 9,    /* QEMU */
    Q2_MAX_BITMAP_GRANULARITY_BITS = 31,   /* QEMU */
    Q2_MAX_BITMAP_DIRECTORY  = 65535 * (24 + 1023 + 1), /* QEMU; bytes */
    Q2_MAX_BITMAP_TABLE      = 0x8000000, /* QEMU; entries */
};

#define Q2_MAX_HOST_OFFSET ((1ull << 56) - 1) /* what L1 and L2 entries can say */
#define Q2_MAX_SIZE        0x7fffffffffffffffull /* offsets are off_t on the host */

_Static_assert((1 << Q2_MIN_CLUSTER_BITS) >= Q2_SECTOR_SIZE && (int)Q2_HEADER_LENGTH <= Q2_SECTOR_SIZE,
               "what changes of a header is in the first sector, and that in the first cluster");
_Static_assert((1 << Q2_MIN_CLUSTER_BITS_EXTENDED) / Q2_EXTENDED_SUBCLUSTERS >= Q2_SECTOR_SIZE,
               "a subcluster has a sector at least");
_Static_assert(Q2_MAX_BITMAP_DIRECTORY / Q2_MAX_BITMAPS == sizeof(struct q2_disk_bitmap) + Q2_MAX_BITMAP_NAME + 1,
               "as many bitmaps as there may be, with the longest names");
_Static_assert((Q2_MAX_HOST_OFFSET & Q2_L2_OFFSET) == Q2_L2_OFFSET && Q2_MAX_HOST_OFFSET < Q2_MAX_SIZE,
               "what an entry can say is an offset on the host");

#endif
