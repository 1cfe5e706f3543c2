/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What tools may see of qcow2 beyond the public API: the driver, and the details that `info` shows.
 */
#ifndef QCOW2_QCOW2_H
#define QCOW2_QCOW2_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/format.h"
#include "engine/vdisk.h"

struct luks_info;
struct q2_header;
struct q2_snapshot_table;
struct q2_bitmap_directory;

extern const struct format_driver qcow2_driver;

struct qcow2_snapshot_info {
    char    *id;
    char    *name;
    uint64_t vm_state_size;
    uint32_t date_sec;
    uint32_t date_nsec;
    uint64_t vm_clock_nsec;
    uint64_t disk_size;    /* the virtual size when it was taken; of the image where the snapshot doesn't say */
    uint64_t icount;
    bool     icount_valid;
};

struct qcow2_bitmap_info {
    char    *name;
    uint64_t granularity;
    bool     in_use;       /* not saved properly: inconsistent */
    bool     automatic;    /* the "auto" flag: enabled */
};

/* All strings are the struct's own; NULL for what is absent. */
struct qcow2_details {
    uint64_t    virtual_size;
    uint64_t    cluster_size;
    uint32_t    version;          /* 2 or 3 */
    uint32_t    refcount_bits;
    bool        lazy_refcounts;
    bool        dirty;
    bool        corrupt;
    bool        extended_l2;
    bool        data_file_raw;
    bool        bitmaps_stale;    /* a bitmap directory that some writer didn't know of: not to be trusted */
    const char *compat;           /* "0.10" or "1.1"; static */
    const char *compression_type; /* "zlib" or "zstd"; static */
    char       *backing_file;     /* as stored */
    char       *backing_format;
    char       *data_file;        /* as stored */
    struct qcow2_snapshot_info *snapshots;
    uint32_t                    nsnapshots;
    struct qcow2_bitmap_info   *bitmaps;
    uint32_t                    nbitmaps;
    const char                 *encryption; /* "aes" or "luks"; static. NULL: none */
    struct luks_info           *luks;       /* NULL: not encrypted so, or its header cannot be read */
};

/*
 * Details of an open qcow2 volume. Any thread; blocks (reads the tables). On success *ret is filled in, to be
 * given back with qcow2_details_free(); on failure it is untouched. -EINVAL: not qcow2, or damaged tables;
 * -ENOMEM; or of the I/O.
 */
int qcow2_get_details(vdisk *v, struct qcow2_details *ret);
void qcow2_details_free(struct qcow2_details *d);

/*
 * The same of an image that cannot be opened since it is encrypted, and what vdisk_get_info() would say of it: the
 * file `name` is opened, read-only, and closed; *ret_file is its path, malloc'ed. `flags`: VDISK_OPEN_*. Blocks.
 * -ENOTSUP, or any other error: it is not such an image; the error text means nothing then.
 */
int qcow2_load_encrypted(const char *name, uint32_t flags, struct vdisk_info *info, char **ret_file,
                         uint64_t *ret_file_length, struct qcow2_details *ret);

/* The part of it without I/O. Either table may be NULL: none. 0 or -ENOMEM. */
int q2_details_fill(const struct q2_header *h, const struct q2_snapshot_table *snapshots,
                    const struct q2_bitmap_directory *bitmaps, struct qcow2_details *ret);

/* format_driver.check: qcow2/image/check_image.c. */
int qcow2_check_image(struct backend *file, enum vdisk_repair what, const struct vdisk_check_opts *opts,
                      vdisk_queue *q, struct vdisk_check_result *ret, struct vdisk_repair_result *ret_fixed);

#endif
