/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the parts of the crash backend share: crash.c (log), crash_walk.c, crash_choose.c, crash_image.c. */
#ifndef BACKENDS_CRASH_INTERNAL_H
#define BACKENDS_CRASH_INTERNAL_H

#include <pthread.h>

#include "backends/lab/crash.h"

#define CRASH_OPEN UINT64_MAX /* change.end: not yet */

/* ---- bytes of a disk: blocks, shared where they are the same ----------------------------------------------- */

enum { CRASH_BLOCK = 4096, CRASH_SECTOR = 512 };

struct crash_store {
    uint8_t **block; /* NULL: zeros */
    bool     *own;   /* ours to change and to free */
    size_t    blocks;
    uint64_t  size;  /* bytes past it read as zeros */
};

void crash_store_finish(struct crash_store *s);
/* What `from` holds, without copying its blocks: it must stay as it is. 0 or -ENOMEM, as for the others. */
int crash_store_borrow(struct crash_store *s, const struct crash_store *from);
int crash_store_write(struct crash_store *s, uint64_t offset, const uint8_t *data, uint64_t len);
/* Without changing the size. */
int crash_store_zero(struct crash_store *s, uint64_t offset, uint64_t len);
int crash_store_truncate(struct crash_store *s, uint64_t size);
void crash_store_read(const struct crash_store *s, uint64_t offset, void *buf, uint64_t len);
/* Does the range read as `data` (NULL: zeros)? */
bool crash_store_equal(const struct crash_store *s, uint64_t offset, const uint8_t *data, uint64_t len);

/* ---- the log ----------------------------------------------------------------------------------------------- */

/* Something that was asked of a disk. */
struct crash_change {
    unsigned     disk;
    enum io_kind kind;
    bool         fua;
    uint64_t     offset, len;
    uint8_t     *data; /* IO_WRITE */
    const char  *type, *state;
    uint64_t     begin, end; /* numbers of events */
    int          res;
};

struct crash_entry {
    enum crash_event_kind kind;
    uint32_t              mark;
    uint64_t              value; /* MARK: its value; else the index of the change */
};

/* What a disk was like, for the images of it. */
struct crash_disk {
    bool               wrapped;
    char              *name;
    uint32_t           align, mem_align, max_transfer, max_iov, caps, discard_align;
    struct crash_store base;
};

struct crash_log {
    pthread_mutex_t       lock; /* entries, changes, overlap */
    struct crash_entry   *entries;
    size_t                count, max;
    struct crash_change **changes;
    size_t                changes_count, changes_max;
    /* The first two that overlapped in place and time: without discards, and with one. */
    const struct crash_change *overlap[CRASH_DISKS][2][2];
    struct crash_disk     disk[CRASH_DISKS];
};

/* ---- the walk ---------------------------------------------------------------------------------------------- */

/* A change that is not durable, or not yet known to be. */
struct crash_pending {
    struct crash_change *change;
    bool                 ended;
    uint64_t             pieces; /* units that it touches */
    uint8_t             *dead;   /* per sector, and of the size: gone for good by what is durable; NULL: none is */
};

/* One piece of a pending change that may or may not survive, and matters. */
struct crash_piece {
    uint32_t pending; /* index */
    uint64_t index;   /* of the unit in the change; the number of its units: its effect on the size */
    bool     keep;
};

struct crash_walk {
    struct crash_log     *log;
    uint32_t              unit;
    size_t                at; /* the next entry */
    struct crash_store    base[CRASH_DISKS]; /* what is durable */
    struct crash_pending *pending;
    size_t                pending_count, pending_max;
    struct crash_piece   *piece;
    size_t                piece_count, piece_max;
    bool                  pieces_known;
    uint64_t             *seen; /* hashes of the choices made at this place */
    size_t                seen_count, seen_max;
    uint64_t              seen_seed;
    unsigned              tried; /* random ways tried at this place */
    unsigned              images;
};

/* Bytes of piece `index` of the change: its part of one unit. */
void crash_piece_range(const struct crash_walk *w, const struct crash_change *c, uint64_t index,
                       uint64_t *ret_start, uint64_t *ret_end);

/* Work out w->piece. 0 or -ENOMEM. */
int crash_walk_find_pieces(struct crash_walk *w);

/* Carry out one piece on `to`. 0 or -ENOMEM. */
int crash_piece_apply(const struct crash_walk *w, const struct crash_pending *p, uint64_t index,
                      struct crash_store *to);

#endif
