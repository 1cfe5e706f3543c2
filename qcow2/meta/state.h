/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the room of metadata has of an open image.
 *
 * Threads. `lock` guards what is under "locked" below, here and in the other rooms' structs; it is held for short
 * stretches of CPU work and never across an await. Lookups (qcow2/map/lookup.c) read L1 entries and cached slices
 * without it. What they read lies apart from what is written often.
 */
#ifndef QCOW2_META_STATE_H
#define QCOW2_META_STATE_H

#include <pthread.h>
#include <stdalign.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "engine/base/short_lock.h"
#include "engine/loop/range_lock.h"
#include "engine/volume.h"
#include "qcow2/format/format.h"
#include "qcow2/meta/cluster_set.h"
#include "qcow2/meta/compressed.h"
#include "qcow2/meta/meta_cache.h"
#include "qcow2/meta/metadata_map.h"
#include "qcow2/meta/table.h"

struct q2_meta {
    /* Fixed at open. */
    struct layer             *layer;
    struct q2_geometry        geo;
    enum q2_compression       compression;
    bool                      data_file;     /* layer->data is an external file, guest offset = host offset */
    bool                      data_file_raw;
    bool                      guarded;       /* where metadata lies is known: open for writing */
    uint32_t                  slice_entries_bits; /* log2 of L2 entries per slice */
    uint32_t                  slice_guest_bits;   /* log2 of guest bytes per L2 slice */
    uint32_t                  refslice_bits;      /* log2 of refcounts per refcount slice */
    uint64_t                  l1_start, l1_end, reftable_start, reftable_end; /* as opened: never guest data */
    void                    (*make_clean)(struct q2_meta *meta, struct op *op); /* q2_make_clean() */

    /* Own synchronisation; seldom written. */
    alignas(64) _Atomic(struct q2_l1 *) l1;  /* replaced by a longer one when the image grows */
    _Atomic uint8_t           as_read;       /* EXTENT_DURABLE once a flush has ended: lookup.c */
    _Atomic bool              broken;        /* metadata cannot be trusted: no writes any more */
    _Atomic bool              breached;      /* the fault is ours: what is dirty is not written either */
    _Atomic bool              must_mark;     /* the header is to be marked corrupt: guard.h */

    /* The caches' tables are read without a lock; the rest of a cache is written with it held. */
    alignas(64) struct q2_cache l2;          /* key: guest_offset >> slice_guest_bits */
    alignas(64) struct q2_cache refcounts;   /* key: cluster_index >> refslice_bits */

    /* Own synchronisation. */
    alignas(64) struct range_locks structure; /* [0, 1): new tables and blocks, table growth: one at a time */
    struct q2_compressed_cache    compressed;

    /* Locked. */
    alignas(64) pthread_mutex_t lock;
    struct q2_header          header;
    struct q2_table           l1_pages;      /* which pages of the L1 table are dirty */
    struct q2_table           reftable_pages;
    uint64_t                 *reftable;      /* host order */
    uint64_t                  reftable_entries;
    struct q2_l1             *l1_retired;    /* replaced; lookups may still read them; freed at close */
    struct q2_meta_map        places;        /* guarded: where metadata lies */
    struct q2_cluster_set     mapped;        /* clusters that entries which have been read lead to, or led */
    struct q2_cluster_set     targets;       /* targets_known: a subset of them, of entries in the cache now */
    bool                      targets_known;
    struct q2_cluster_set     judged;        /* L2 slices, by key, that have been read or made: twice.h */
    struct q2_cluster_set     twice;         /* clusters that two entries have, and one says alone: twice.h */
    bool                      twice_grew;
    struct q2_cluster_set     left;          /* L2 tables that were shared, and left to those who have them, too */
    struct q2_cluster_set     own_freed;     /* clusters that had a use which this handle ended */
    bool                      mapping_needs_data; /* dirty mapping shows data under flush rule 2 */
    bool                      blocks_need_sync; /* dirty pages of the refcount table lead to blocks: rule 3 */
    bool                      flush_running; /* what is dirty is becoming clean */
    uint8_t                   sector[Q2_SECTOR_SIZE]; /* the start of the header, as it is on disk */
};

/* The volume's own: struct q2 begins with it. */
static inline struct q2_meta *q2_meta_of(const struct layer *layer)
{
    return layer->format_state;
}

/* Empty; and back what it holds, however much of it is filled in. */
void q2_meta_state_init(struct q2_meta *meta, struct layer *layer);
void q2_meta_state_finish(struct q2_meta *meta);

/*
 * The caches, when header and geometry are known. `bytes` of memory at most, within reason; 0: the default. 0 or
 * -ENOMEM with a text.
 */
int q2_meta_caches_init(struct q2_meta *meta, uint64_t bytes);

/* The part of it that says whose caches they are, which have been made. */
void q2_meta_caches_attach(struct q2_meta *meta);

/*
 * What is dirty becomes clean, as the call of an await: a flush. It is a hook since those who need it (a cache
 * without room, a search for space, a table that moves) lie below the flush.
 */
static inline void q2_make_clean(struct q2_meta *meta, struct op *op)
{
    meta->make_clean(meta, op);
}

/* The L1 table in memory, host order. */
struct q2_l1 {
    struct q2_l1    *next; /* retired list */
    uint64_t         entries;
    _Atomic uint64_t entry[];
};

static inline uint64_t q2_l1_get(struct q2_meta *meta, uint64_t index)
{
    struct q2_l1 *l1 = atomic_load_explicit(&meta->l1, memory_order_acquire);

    return index < l1->entries ? atomic_load_explicit(&l1->entry[index], memory_order_acquire) : 0;
}

/* With the lock held: is there a refcount block for this cluster? */
static inline bool q2_has_block(const struct q2_meta *meta, uint64_t index)
{
    uint64_t block = q2_reftable_index(&meta->geo, index);

    assert_locked(&meta->lock);
    return block < meta->reftable_entries && q2_reftable_offset(meta->reftable[block]) != 0;
}

/*
 * distrust.c: the image contradicts itself: refuse writes from now on, say why once, and have it marked corrupt.
 * Any thread. -EIO.
 */
int q2_break(struct q2_meta *meta, const char *what);

/* The same where it is not known to be the image's fault: there is no mark. */
int q2_doubt(struct q2_meta *meta, const char *what);

/*
 * May tables be changed? Requests are asked when they come; an op that has waited since, for `structure` most of
 * all, asks again: it may not be known any more which tables the header names. Any thread.
 */
bool q2_takes_writes(const struct q2_meta *meta);

/*
 * An assert that stays in release builds: of what would else be written wrongly. Where the fact does not hold, our
 * metadata in memory is wrong: no trust any more, and none of it is written, not by a flush either; the caller
 * gives up with -EIO. Debug builds stop there. True: it holds. Any thread, any lock.
 */
#define q2_invariant(meta, fact, what) (likely(fact) || q2_breach((meta), (what), __FILE__, __LINE__))

bool q2_breach(struct q2_meta *meta, const char *what, const char *file, int line);

#ifndef NDEBUG
extern bool q2_breach_goes_on; /* tests: as release builds do */
#endif

/* Debug builds, with the lock held: does all of it agree? Of what is long a part, another one each time. */
#ifdef NDEBUG
static inline void q2_meta_assert(struct q2_meta *meta) {}
#else
void q2_meta_assert(struct q2_meta *meta);
#endif

struct q2_bitmap_directory;
struct q2_bitmap_entry;
struct q2_snapshot_table;

/* directories.c */
/* Read the snapshot table, for q2_snapshots_free(). Outside the loop; errors with a text. */
int q2_read_snapshots(struct q2_meta *meta, vdisk_queue *queue, struct q2_snapshot_table *ret);

/* Read the bitmap directory, for q2_bitmaps_free(). Outside the loop; errors with a text. */
int q2_read_bitmaps(struct q2_meta *meta, vdisk_queue *queue, struct q2_bitmap_directory *ret);

/* 0, or what forbids it of a bitmap, with a text; `size`: as q2_judge_bitmaps() was given it. */
typedef int q2_judge_bitmap_fn(const struct q2_meta *meta, const struct q2_bitmap_entry *b, uint64_t size);

/* Ask of each bitmap that there is, to the first that says no. Outside the loop; errors with a text. */
int q2_judge_bitmaps(struct q2_meta *meta, vdisk_queue *queue, q2_judge_bitmap_fn *judge, uint64_t size);

#endif
