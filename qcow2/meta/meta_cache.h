/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Cached slices of metadata: pieces of L2 tables and of refcount blocks, as they lie on disk.
 *
 * L2 slices that map their guest range to one run of host clusters, as those of preallocated images do, are also
 * kept as one word each, so that the mapping of a large image fits where its tables do not.
 *
 * A set-associative cache: key modulo sets picks 8 slots whose tags share a cache line, so that a hit costs one
 * line and the entry, and an image that fits is cached without conflicts. Slots stay where they are for ever;
 * lock-free readers check a sequence number.
 *
 * Invariants (under the owner's lock, but for the lock-free readers).
 *  1. A tag is published after the slot's content is complete, and taken back before the slot is reused.
 *  2. `seq` is odd while content changes. A reader that saw an odd or a changed number has read nothing.
 *  3. Dirty, pinned, loading and flushing slots are not evicted.
 *  4. A dirty slot is on `dirty_list`.
 *  5. A slot whose content is not on disk is dirty or flushing at every moment, so that readers can tell: it is
 *     marked dirty before the first store of a change, and each step of a flush changes both bits by one store.
 *  6. A slice is in `linear` only while the disk has it as it is said there: it is entered from clean content,
 *     and taken out before content changes.
 *  7. A slice is waited for on a load of the waiter's own queue, or of one that is turned whatever others do: a
 *     queue that finds another's load under way begins a second, and the first to end fills the slot.
 *  8. Where all else of a set is in use, a queue takes the slot that another is loading; of a slot that has been
 *     taken Q2_TAKES_MAX times without being filled the load is waited for, whosever it is: two queues that took
 *     it from each other would neither get anywhere.
 */
#ifndef QCOW2_META_CACHE_H
#define QCOW2_META_CACHE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "engine/base/bits.h"
#include "engine/base/list.h"
#include "engine/base/mutant.h"
#include "engine/base/point.h"
#include "engine/loop/op.h"
#include "engine/stats.h"

enum { Q2_CACHE_WAYS = 8, Q2_SLICE_MAX = 4096, Q2_TAKES_MAX = 16, Q2_RUN_MAX = 64 };

enum q2_slot_state { Q2_SLOT_EMPTY, Q2_SLOT_LOADING, Q2_SLOT_VALID };

/* What is not on disk. None of them: the disk has what is here. */
enum q2_unsettled {
    Q2_DIRTY    = 1 << 0, /* has changed since a flush last took a copy */
    Q2_FLUSHING = 1 << 1, /* that copy is on its way to the disk */
};

struct q2_slot {
    _Atomic uint32_t seq;
    _Atomic uint8_t  referenced;
    _Atomic bool     suspect;     /* some entry is invalid: readers check each; writers ask guard.h */
    _Atomic uint8_t  unsettled;   /* enum q2_unsettled; changed under the lock, read without */
    /* locked */
    uint8_t          state;       /* enum q2_slot_state */
    uint8_t          takes;       /* invariant 8 */
    uint32_t         pins;
    uint64_t         key;
    uint64_t         host_offset; /* of the slice on disk */
    struct list      loads;       /* LOADING: the ops that read it, one for each queue that wants it */
    struct list      dirty_node;
};

/* Whom it serves. */
struct q2_cache_owner {
    pthread_mutex_t *lock; /* over all that has no synchronisation of its own; NULL: one thread changes all */
    struct backend  *file; /* from which slices are read */
    stat_count      *loads; /* locked: how many were; NULL: nobody counts */
    void            *arg;
    /* Locked: is an entry of a slice that has been read not to be followed? NULL: none is looked at. */
    bool           (*is_suspect)(void *arg, const struct q2_slot *s, const char *content);
    /* Make what is dirty clean, as the call of an await. */
    void           (*make_clean)(void *arg, struct op *op);
};

struct q2_cache {
    /* Fixed, and read without the lock: one cache line. */
    uint32_t          slice_size;
    uint32_t          slots;
    uint64_t          sets_mask;
    _Atomic uint64_t *tags;       /* key + 1; 0: none */
    struct q2_slot   *slot;
    char             *memory;     /* slots * slice_size */
    _Atomic uint64_t *linear;     /* by key: host offset | Q2_LINEAR, or 0: not known to be; NULL: none kept */
    uint64_t          linear_keys;
    const struct q2_geometry *geo; /* with `linear` */
    /* locked */
    struct list       dirty_list;
    uint32_t          dirty_count;
    uint32_t          hand;       /* second chance */
    uint32_t          asserted;   /* q2_cache_assert(): the set that comes next */
    struct list       room;       /* ops that wait for a slot: woken when a load or a pin ends */
    struct q2_cache_owner owner;  /* fixed */
};

enum { Q2_LINEAR = 1 };

struct backend;
struct q2_geometry;

/* Room for at most `bytes` of slices, and for no more than `keys` of them. 0 or -ENOMEM. */
int q2_cache_init(struct q2_cache *c, uint32_t slice_size, uint64_t bytes, uint64_t keys);
void q2_cache_finish(struct q2_cache *c);

/* Before the first load. */
void q2_cache_attach(struct q2_cache *c, const struct q2_cache_owner *owner);

/* Keep linear L2 slices as words too, in at most `bytes` for `keys` of them. 0 or -ENOMEM. */
int q2_cache_keep_linear(struct q2_cache *c, const struct q2_geometry *geo, uint64_t bytes, uint64_t keys);

/* Lock-free: the host offset of the first cluster of slice `key`, if it is known to be linear, and on disk. */
static inline bool q2_linear_host(const struct q2_cache *c, uint64_t key, uint64_t *ret_host)
{
    uint64_t word = key < c->linear_keys ? atomic_load_explicit(&c->linear[key], memory_order_acquire) : 0;

    *ret_host = word & ~(uint64_t)Q2_LINEAR;
    return word != 0;
}

static inline char *q2_slot_data(const struct q2_cache *c, const struct q2_slot *s)
{
    return c->memory + (uint64_t)(s - c->slot) * c->slice_size;
}

/* Lock-free: the slot that holds `key`, or NULL. Valid as long as q2_read_end() says so. */
static inline struct q2_slot *q2_read_begin(struct q2_cache *c, uint64_t key, uint32_t *ret_seq)
{
    uint64_t first = (key & c->sets_mask) * Q2_CACHE_WAYS;
    _Atomic uint64_t *tags = &c->tags[first];

    for (unsigned way = 0; way < Q2_CACHE_WAYS; way++) {
        if (atomic_load_explicit(&tags[way], memory_order_acquire) != key + 1)
            continue;
        struct q2_slot *s = &c->slot[first + way];
        POINT("slice: tag found");
        *ret_seq = atomic_load_explicit(&s->seq, memory_order_acquire);
        POINT("slice: number read");
        /*
         * The tag again: the number read belongs to this content only if it was still there. It may be there anew:
         * then what is read from here on must be no older, else the number does not tell.
         */
        if (unlikely(*ret_seq & 1) ||
            unlikely(atomic_load_explicit(&tags[way], memory_order_acquire) != key + 1 &&
                     !ENGINE_MUTANT(SLOT_TAG_ONCE)))
            return NULL;
        if (!atomic_load_explicit(&s->referenced, memory_order_relaxed))
            atomic_store_explicit(&s->referenced, 1, memory_order_relaxed);
        return s;
    }
    return NULL;
}

/* True: all that was read (by acquire loads) since q2_read_begin() belongs together. */
static inline bool q2_read_end(const struct q2_slot *s, uint32_t seq)
{
    return atomic_load_explicit(&s->seq, memory_order_relaxed) == seq;
}

/* Is what was read on disk already? Between q2_read_begin() and q2_read_end(). */
static inline bool q2_read_settled(const struct q2_slot *s)
{
    if (ENGINE_MUTANT(SETTLED_READ_TWICE)) {
        bool dirty = atomic_load(&s->unsettled) & Q2_DIRTY;
        POINT("slice: seen whether it is dirty");
        return !dirty && !(atomic_load(&s->unsettled) & Q2_FLUSHING);
    }
    return atomic_load_explicit(&s->unsettled, memory_order_acquire) == 0;
}

static inline uint64_t q2_read_be64(const struct q2_cache *c, const struct q2_slot *s, uint32_t offset)
{
    const _Atomic uint64_t *p = (const _Atomic uint64_t *)(const void *)(q2_slot_data(c, s) + offset);

    return be64toh(atomic_load_explicit(p, memory_order_acquire));
}

/* Debug builds: is a set, another one each time, as the invariants say, and the list of what is dirty? */
#ifdef NDEBUG
static inline void q2_cache_assert(struct q2_cache *c) {}
#else
void q2_cache_assert(struct q2_cache *c);
#endif

/* ---- under the owner's lock ------------------------------------------------------------------------ */

/* The slot with `key` if it is VALID. */
struct q2_slot *q2_cache_find(struct q2_cache *c, uint64_t key);

/*
 * The call of an await: end it when the slice may have been read from host_offset, or with an error. Look it up
 * again afterwards. Takes the lock itself.
 */
void q2_cache_load(struct q2_cache *c, uint64_t key, uint64_t host_offset, struct op *op);

/*
 * An op that loads up to `n` (Q2_RUN_MAX) slices from `key` on, which lie one behind the other from host_offset
 * on, by one I/O: as far as none is in the cache already, and all find room there. It is given a parent, which is
 * told of a failure, and started without the lock. What is linear gets no slot. NULL: there is nothing to load.
 */
struct op *q2_cache_run(struct q2_cache *c, uint64_t key, uint32_t n, uint64_t host_offset, vdisk_queue *queue);

/* A slot for `key`, filled with zeros and dirty, without reading; NULL: no room before a flush. */
struct q2_slot *q2_cache_install_zero(struct q2_cache *c, uint64_t key, uint64_t host_offset);

/* The same, clean: zeros have been written there. Only if there is room; who needs it looks it up. */
void q2_cache_install_written(struct q2_cache *c, uint64_t key, uint64_t host_offset);

/* Pinned slots stay. Ends of pins wake who waits for room. */
void q2_slot_pin(struct q2_slot *s);
void q2_slot_unpin(struct q2_cache *c, struct q2_slot *s);

/* Around changes of content. The first marks it dirty. */
void q2_change_begin(struct q2_cache *c, struct q2_slot *s);
void q2_change_end(struct q2_cache *c, struct q2_slot *s);

static inline void q2_slot_put_be64(struct q2_cache *c, struct q2_slot *s, uint32_t offset, uint64_t value)
{
    _Atomic uint64_t *p = (_Atomic uint64_t *)(void *)(q2_slot_data(c, s) + offset);

    atomic_store_explicit(p, htobe64(value), memory_order_release);
}

/* Before a change of what no reader looks at without the lock (refcounts), in place of q2_change_begin(). */
void q2_slot_mark_dirty(struct q2_cache *c, struct q2_slot *s);

static inline bool q2_slot_is(const struct q2_slot *s, enum q2_unsettled what)
{
    return atomic_load_explicit(&s->unsettled, memory_order_relaxed) & what;
}

/* A flush has copied a dirty slot; and has ended: the disk has the copy, or (rc < 0) it may not. */
void q2_slot_copied(struct q2_cache *c, struct q2_slot *s);
void q2_slot_flushed(struct q2_cache *c, struct q2_slot *s, int rc);

/* The table behind slices [first_key, first_key + n) has moved: adjust where they are written. */
void q2_cache_moved(struct q2_cache *c, uint64_t first_key, uint64_t n, uint64_t host_offset);

#endif
