/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The snapshot table and the bitmap directory. Pure: the caller reads the bytes.
 */
#ifndef QCOW2_TABLES_H
#define QCOW2_TABLES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "qcow2/format/geometry.h"

/* Strings are the struct's own. */
struct q2_snapshot {
    uint64_t l1_offset;
    uint32_t l1_entries;
    uint32_t date_sec;
    uint32_t date_nsec;
    uint32_t extra_size;
    uint64_t vm_clock_nsec;
    uint64_t vm_state_size;
    uint64_t disk_size;    /* has_disk_size */
    uint64_t icount;       /* has_icount */
    bool     has_disk_size;
    bool     has_icount;
    char    *id;
    char    *name;
};

struct q2_snapshot_table {
    struct q2_snapshot *entries;
    uint32_t            n;
    uint64_t            size; /* bytes of the table on disk, without padding to a cluster */
};

/*
 * Parse `n` entries from `buf`, which holds the first `len` bytes of the table. Returns 0; -EINVAL, -EFBIG with a
 * text; -ENOMEM; or -EAGAIN, without a text: the table goes on past `len`, *ret_need is the least length that
 * tells more (always larger than `len`, at most Q2_MAX_SNAPSHOT_TABLE). So a caller begins with a cluster and
 * reads on, up to the end of the file.
 */
int q2_snapshots_parse(const struct q2_geometry *g, const char *name, const uint8_t *buf, size_t len, uint32_t n,
                       struct q2_snapshot_table *ret, uint64_t *ret_need);
void q2_snapshots_free(struct q2_snapshot_table *t);

struct q2_bitmap_entry {
    uint64_t table_offset;
    uint32_t table_entries;
    uint32_t flags;         /* Q2_BITMAP_* */
    uint8_t  type;
    uint8_t  granularity_bits;
    uint32_t extra_size;
    char    *name;
};

struct q2_bitmap_directory {
    struct q2_bitmap_entry *entries;
    uint32_t                n;
};

/* Parse the whole directory: `len` is the header's bitmap_directory_size. 0, -EINVAL with a text, -ENOMEM. */
int q2_bitmaps_parse(const struct q2_geometry *g, const char *name, const uint8_t *buf, size_t len, uint32_t n,
                     struct q2_bitmap_directory *ret);
void q2_bitmaps_free(struct q2_bitmap_directory *d);

#endif
