/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The header of an image: its one reader, and the one writer of its first sector while it is open. */
#ifndef QCOW2_HEADER_SECTOR_H
#define QCOW2_HEADER_SECTOR_H

#include "engine/backend.h"
#include "engine/loop/op.h"
#include "qcow2/format/format.h"

struct q2_meta;

/*
 * Read and parse the header of an image, for q2_header_free(). `first`: its first sector, as it is on disk, zeros
 * behind the end of the file. Blocks, outside the loop; errors with a text.
 */
int q2_header_load(struct backend *file, vdisk_queue *queue, struct q2_header *ret,
                   uint8_t first[Q2_SECTOR_SIZE]);

/* The same for the image that is being opened, into meta->header; with VDISK_OPEN_UNFINISHED one that is that. */
int q2_header_read(struct q2_meta *meta, vdisk_queue *queue);

/* A change of the header: q2_header_change() fills it in, the caller changes fields. It stays till all is done. */
struct q2_header_change {
    struct q2_header_fields fields;
    const uint8_t *sector; /* all else that it is to have, instead of what the disk has; NULL: that */
    bool finishes; /* an unfinished image: its magic becomes qcow2's */
    /*
     * Why the volume takes no more writes, when it is not known whether the disk has the old or the new; NULL:
     * nobody will write to it, by what the caller does.
     */
    const char *doubt;
    /* With the lock held, at the moment when the header in memory becomes what the disk has; NULL: nothing. */
    void (*adopt)(struct q2_header_change *change);
};

/* What the header says now. Context: who holds the structure lock, or nothing else is under way. */
struct q2_header_change q2_header_change(struct q2_meta *meta);

/*
 * Write the first sector with the change, and sync: the change is there or it is not. As the call of an await,
 * with the structure lock held. op->rc: 0 or an error, -ENOMEM: nothing has changed.
 */
void q2_header_commit(struct q2_meta *meta, struct q2_header_change *change, struct op *op);

/* The same, blocking, outside the loop, while nothing else is under way. */
int q2_header_commit_sync(struct q2_meta *meta, struct q2_header_change *change, vdisk_queue *queue);

#endif
