/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * An open qcow2 image.
 *
 * Threads. `lock` guards what is under "locked" below; it is held for short stretches of CPU work and never
 * across an await. Lookups (qcow2/map/lookup.c) read L1 entries and cached slices without it.
 */
#ifndef QCOW2_STATE_H
#define QCOW2_STATE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "engine/range_lock.h"
#include "engine/volume.h"
#include "qcow2/format/entry.h"
#include "qcow2/format/geometry.h"
#include "qcow2/format/header.h"
#include "qcow2/meta/cluster_set.h"
#include "qcow2/meta/meta_cache.h"
#include "qcow2/meta/metadata_map.h"
#include "qcow2/meta/packed.h"
#include "qcow2/meta/table.h"
#include "qcow2/space/zero_runs.h"

/* Host clusters that nothing in memory refers to any more. */
struct q2_freed {
    uint64_t cluster_index;
    uint64_t clusters : 63;
    uint64_t untouched : 1; /* taken, and never put to use: what is in them is not ours to punch */
};

struct q2_freed_list {
    struct q2_freed *list;
    size_t           count, max;
};

/* What a queue has taken ahead: qcow2/space/lease.h. Cluster indices [next, end). */
struct q2_lease {
    uint64_t    next, end;
    uint64_t    size;    /* bytes that the last one was meant to have */
    bool        zero;    /* reads as zeros */
    const vdisk_queue *filler; /* the queue that fills it, NULL: none */
    struct list waiting; /* for that, on the same queue; ops, by op.wait */
};

enum { Q2_LEASES = 32, Q2_ZONES = 16 };

enum q2_freed_stage {
    Q2_FREED_NOW,     /* waits for a flush to make the freeing durable */
    Q2_FREED_DURABLE, /* waits for requests that may still use the old mapping */
    Q2_FREED_STAGES
};

struct q2 {
    /* Fixed at open. */
    vdisk                    *v;
    struct q2_geometry        geo;
    enum q2_compression       compression;
    bool                      data_file;     /* v->data is an external file, guest offset = host offset */
    bool                      data_file_raw;
    uint64_t                  cache_bytes;   /* as asked for when it was opened */
    void                    (*make_clean)(struct q2 *q, struct op *op); /* q2_make_clean() */
    bool                      zero_new;      /* host space past zero_from reads as zeros */
    uint32_t                  slice_entries_bits; /* log2 of L2 entries per slice */
    uint32_t                  slice_guest_bits;   /* log2 of guest bytes per L2 slice */
    uint32_t                  refslice_bits;      /* log2 of refcounts per refcount slice */
    uint64_t                  l1_start, l1_end, reftable_start, reftable_end; /* as opened: never guest data */
    struct q2_cache           l2;            /* key: guest_offset >> slice_guest_bits */
    struct q2_cache           refcounts;     /* key: cluster_index >> refslice_bits */

    /* Own synchronisation. */
    _Atomic uint8_t           as_read;       /* EXTENT_DURABLE once a flush has ended: lookup.c */
    struct range_locks        guest_ranges[Q2_ZONES]; /* allocating writes, zeros, discards: q2_zone() */
    struct range_locks        structure;     /* [0, 1): new tables and blocks, table growth: one at a time */
    struct q2_packed_cache    packed;
    _Atomic(struct q2_l1 *)   l1;            /* replaced by a longer one when the image grows */
    _Atomic bool              broken;        /* metadata cannot be trusted: no writes any more */
    _Atomic bool              host_full;     /* it was, at least once: holes come before what is behind the end */
    _Atomic bool              must_mark;     /* the header is to be marked corrupt: guard.h */

    /* Locked. */
    pthread_mutex_t           lock;
    struct q2_header          header;
    struct q2_table           l1_pages;      /* which pages of the L1 table are dirty */
    struct q2_table           reftable_pages;
    uint64_t                 *reftable;      /* host order */
    uint64_t                  reftable_entries;
    struct q2_l1             *l1_retired;    /* replaced; lookups may still read them; freed at close */
    uint64_t                  free_hint;     /* cluster index: no free cluster is known below */
    uint64_t                  used_from, used_end; /* above it: all of these are known to be in use */
    uint64_t                  tail_hint;     /* the same of a search behind what is in use: alloc.c */
    unsigned                  exact_runs;    /* searches for a run in one piece that are on: alloc.c */
    uint64_t                  zero_from;     /* host offset: nothing at or past it was ever handed out */
    uint64_t                  appended_from; /* cluster index: where the file ended when it was opened */
    bool                      guarded;       /* fixed at open: the next two are known (open for writing) */
    struct q2_meta_map        meta;          /* where metadata lies */
    struct q2_cluster_set     mapped;        /* clusters that entries which have been read lead to, or led */
    struct q2_cluster_set     targets;       /* targets_known: a subset of them, of entries in the cache now */
    bool                      targets_known;
    struct q2_cluster_set     judged;        /* L2 slices, by key, that have been read or made: twice.h */
    struct q2_cluster_set     twice;         /* clusters that two entries have, and one says alone: twice.h */
    bool                      twice_grew;
    struct q2_cluster_set     sound;         /* refcount slices, by key, that are what they should be */
    bool                      tables_read;   /* all L2 tables have been: `mapped` has all that fits */
    const vdisk_queue        *tables_reader; /* whose op reads them; NULL: none does: refcount_load.c */
    struct list               tables_waiting; /* ops, by op.wait: for that to end */
    bool                      count_decides; /* what is freed is not given to the host before a count: shrink.c */
    struct q2_cluster_set     own_freed;     /* clusters below it that had a use which this handle ended */
    uint64_t                  durable_end;   /* host offset: the file reaches so far, and that is durable */
    uint64_t                  flushing_end;  /* what durable_end becomes when the flush under way has ended */
    struct q2_zero_runs       zero_runs;     /* free clusters below zero_from that read as zeros */
    struct list               l2_making;     /* tables on their way: l2_table.c */
    struct q2_lease           leases[Q2_LEASES]; /* by queue id */
    uint64_t                  limit_clusters;/* host clusters that there are: q2_space_grew() */
    struct q2_freed_list      freed[Q2_FREED_STAGES];
    uint64_t                  freed_ticket;  /* of the volume's gate, for Q2_FREED_DURABLE */
    bool                      reclaiming;    /* an op is giving freed clusters back */
    struct list               reclaim_waiting; /* ops, by op.wait: for that to end */
    bool                      trimming;      /* the file's end is being moved down: nothing is handed out */
    struct list               trim_waiting;  /* ops, by op.wait: for that to end */
    bool                      mapping_needs_data; /* dirty mapping shows data under flush rule 2 */
    bool                      flush_running;
    struct list               flush_waiting; /* ops, by op.wait */
    uint8_t                   sector[Q2_SECTOR_SIZE]; /* the start of the header, as it is on disk */
};

/*
 * What is dirty becomes clean, as the call of an await: a flush. It is a hook since those who need it (a cache
 * without room, a search for space, a table that moves) lie below the flush.
 */
static inline void q2_make_clean(struct q2 *q, struct op *op)
{
    q->make_clean(q, op);
}

static inline struct q2 *q2_of(vdisk *v)
{
    return v->format_state;
}

/*
 * Whole clusters, which lie in one slice's range, are locked in one of several lists, by slice, so that threads
 * which work in different places do not meet.
 */
static inline struct range_locks *q2_zone(struct q2 *q, uint64_t guest_offset)
{
    uint64_t hash = (guest_offset >> q->slice_guest_bits) * UINT64_C(0x9e3779b97f4a7c15);

    return &q->guest_ranges[hash >> 60 & (Q2_ZONES - 1)];
}

/* The L1 table in memory, host order. */
struct q2_l1 {
    struct q2_l1    *next; /* retired list */
    uint64_t         entries;
    _Atomic uint64_t entry[];
};

static inline uint64_t q2_l1_get(struct q2 *q, uint64_t index)
{
    struct q2_l1 *l1 = atomic_load_explicit(&q->l1, memory_order_acquire);

    return index < l1->entries ? atomic_load_explicit(&l1->entry[index], memory_order_acquire) : 0;
}

/* With the lock held: host space up to `host_end` is being handed out. */
static inline void q2_note_end(struct q2 *q, uint64_t host_end)
{
    if (host_end > q->zero_from)
        q->zero_from = host_end;
    volume_note_end(q->v, host_end);
}

/* With the lock held: is there a refcount block for this cluster? */
static inline bool q2_has_block(const struct q2 *q, uint64_t index)
{
    uint64_t block = q2_reftable_index(&q->geo, index);

    return block < q->reftable_entries && q2_reftable_offset(q->reftable[block]) != 0;
}

/*
 * qcow2/meta/distrust.c: metadata cannot be trusted any more: refuse writes from now on, say why once. Any thread.
 * Returns -EIO.
 */
int q2_break(struct q2 *q, const char *what);

/* qcow2/map/lookup.c: format_driver.lookup and .load */
int q2_lookup(vdisk *v, uint64_t guest_offset, uint64_t len, struct extent *ret);
void q2_load(vdisk *v, uint64_t guest_offset, struct op *op);

/* qcow2/map/alloc_write.c, qcow2/map/clear.c, qcow2/flush/flush.c: end by request_end(r) */
void q2_alloc_write_start(struct q2 *q, struct request *r);
void q2_clear_start(struct q2 *q, struct request *r);
void q2_flush_start(struct q2 *q, struct request *r);

/* A flush as the call of an await. */
void q2_flush(struct q2 *q, struct op *op);

/* qcow2/image/resize.c: format_driver.resize */
int q2_resize(vdisk *v, uint64_t size, const struct vdisk_resize_opts *opts, vdisk_queue *queue);

struct q2_bitmap_directory;
struct q2_snapshot_table;
struct layer_open;

/* qcow2/image/open.c: format_driver.open and .close */
int q2_open(vdisk *v, const struct layer_open *how, vdisk_queue *queue);
int q2_close(vdisk *v, vdisk_queue *queue);

/*
 * qcow2/image/state.c: the struct, empty; NULL: out of memory. q2_state_free() gives it back, however much of it
 * is filled in.
 */
struct q2 *q2_state_alloc(vdisk *v);
void q2_state_free(struct q2 *q);

/* The header, and what follows from it. Outside the loop; errors with a text. */
int q2_state_read_header(struct q2 *q, vdisk_queue *queue);

/*
 * Then all else, when nothing will change it on disk any more. `tables_left`: what the layers above leave of the
 * bound for the whole chain; NULL: not one of a chain. Outside the loop; errors with a text.
 */
int q2_state_setup(struct q2 *q, vdisk_queue *queue, uint64_t *tables_left);

/*
 * qcow2/image/data_file.c: v->data, which is v->file without an external data file. Outside the loop; errors with
 * a text.
 */
int q2_data_file_open(struct q2 *q, const struct layer_open *how);

/* qcow2/meta/directories.c */
/* Read the snapshot table, for q2_snapshots_free(). Outside the loop; errors with a text. */
int q2_read_snapshots(struct q2 *q, vdisk_queue *queue, struct q2_snapshot_table *ret);

/* Read the bitmap directory, for q2_bitmaps_free(). Outside the loop; errors with a text. */
int q2_read_bitmaps(struct q2 *q, vdisk_queue *queue, struct q2_bitmap_directory *ret);

/*
 * What the image's own files have has changed: read it all anew. Outside the loop, after q2_trim_run(), with
 * nothing in flight. Replaces v->format_state. On failure (with a text) it stays, for reading.
 */
int q2_reload(vdisk *v, vdisk_queue *queue);

/* Run a flush to its end, outside the loop. */
int q2_flush_sync(struct q2 *q, vdisk_queue *queue);

/*
 * qcow2/space/trim.c: format_driver.trim; and the same at close, when nothing else is going on. Outside the loop.
 */
int q2_trim(vdisk *v, vdisk_queue *queue);
int q2_trim_run(struct q2 *q, vdisk_queue *queue, bool closing);

/* qcow2/meta/header_sector.c */
/* Read and parse the header. Outside the loop; errors with a text. */
int q2_header_read(struct q2 *q, vdisk_queue *queue);

/*
 * The fixed fields of q->header as they are to be, into the first sector, which is then written whole and at
 * once: tables move, bits change, atomically. With the lock held.
 */
void q2_header_patch(struct q2 *q, uint8_t sector[Q2_SECTOR_SIZE]);

/* Patch, write, flush. Outside the loop. */
int q2_header_update(struct q2 *q, vdisk_queue *queue);

#endif
