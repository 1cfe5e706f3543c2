/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A layer: an image in its file, as its format opened it, and what lies below it. A chain is one after the other,
 * from the top down. Layers know no requests and no queues: that is the volume's (engine/volume.h), to which all
 * layers of its chain point.
 *
 * Invariants.
 *  1. What is fixed after open is read without a lock by any thread.
 *  2. reach >= size, but while a layer follows a file that was cut (engine/follow.c).
 *  3. Only the top layer is changed; those below are open for reading, keep their reach, and are not replaced by
 *     others. What they say of a place stays so: flat.h relies on it.
 */
#ifndef ENGINE_CHAIN_LAYER_H
#define ENGINE_CHAIN_LAYER_H

#include <pthread.h>
#include <stdatomic.h>

#include "engine/chain/layer_name.h"
#include "engine/format.h"
#include "engine/loop/event.h"
#include "engine/loop/range_lock.h"
#include "engine/stats.h"

struct layer {
    /* Fixed after open. What every request looks at comes first. */
    const struct format_driver *format;
    void                       *format_state;
    struct backend             *data;           /* guest data: `file`, or an external data file (ours to close) */
    struct backend             *file;           /* metadata; raw: everything */
    struct layer               *backing;        /* the next one or NULL; owned */
    struct flat                *flat;           /* of the top: the layers below as one table, or NULL */
    vdisk                      *volume;         /* whose chain it is in */

    _Atomic uint64_t            size;           /* as requests and their owners know it */
    _Atomic uint64_t            reach;          /* how far there is something. More while it is resized */
    _Atomic bool                writes_in_place; /* lookup() may say EXTENT_WRITABLE; not any more with trouble */
    bool                        read_only;
    bool                        keeps_discarded; /* its name says that discards do nothing */
    bool                        below_flat;     /* the first one in its top's `flat` */
    bool                        host_holes;     /* block status asks `data` where mapped clusters have holes */
    struct volume_mark          mark;           /* how far the file is in use: engine/loop/event.h */

    char                       *name;
    struct spec                *spec;           /* the same as a tree; NULL: opened on a backend */
    char                       *backing_name;   /* as stored in the image, NULL without; malloc'ed by the format */
    char                       *backing_format; /* same */
    uint64_t                    data_offset;    /* raw: where its bytes begin in the file that `map` tells of */
    uint32_t                    open_flags;
    uint32_t                    depth;          /* layers from here down */
    uint32_t                    cluster_size;   /* of the format; 0: it has none */
    uint32_t                    map_unit;       /* its smallest piece that may lie anywhere; 0: one extent */
    uint32_t                    zero_align;     /* vdisk_info's; 0: as `data` has it */
    _Atomic bool                zeroes_cheap;   /* zero_align is set: the format's word; may change */
    uint32_t                    compress_align; /* vdisk_info's; > 0: the format has write_compressed() */

    char                        trouble[240];   /* why no more writes are accepted: set once, before has_trouble */
    _Atomic bool                has_trouble;
    struct layer_stats          stats;

    uint64_t                    guarded;        /* raw by guess: changes that begin below it go through guard.c */
    struct range_locks          guard_locks;    /* of guard.c */
};

static inline uint64_t layer_size(const struct layer *layer)
{
    return atomic_load_explicit(&layer->size, memory_order_acquire);
}

/* ---- a chain is opened and closed; all of it blocks, errors have texts -------------------------------- */

/*
 * The chain of `volume` on `file`, which it takes over, also on failure. `n`: the name, still to be freed.
 * `opts`: judged (volume_check_opts()). Then it is the volume's top.
 */
int chain_open(vdisk *volume, struct backend *file, struct layer_name *n, const struct vdisk_open_opts *opts,
               vdisk_queue *q);

/* Close `top` and what is below. The error is that of the first layer which has one. NULL is allowed. */
int chain_close(struct layer *top, vdisk_queue *q);

/* The flags with which a layer's files are opened. */
uint32_t layer_backend_flags(uint32_t open_flags);

/* A name stored in the image `from`, as a name to open: relative ones are relative to its directory. malloc'ed. */
char *layer_resolve(const char *from, const char *name);

/* Is this file in the chain from `top` to the layer before `end` (NULL: to the last)? */
bool layer_in_chain(const struct layer *top, const struct layer *end, const struct backend_id *id);

/* NULL: there is none of that name. */
const struct format_driver *format_find(const char *name);

/* Find the format by the content. 0, or an error with a text. */
int format_probe(struct backend *b, vdisk_queue *q, const struct format_driver **ret);

/* ---- the top layer is resized ------------------------------------------------------------------------- */

/* It has this size, and nothing behind it; who listens is told. One thread at a time. */
void layer_set_size(struct layer *layer, uint64_t size);

/* Until layer_set_size() requests of `queue` may work behind the end, which nobody else sees yet. */
void layer_reach(struct layer *layer, uint64_t reach, vdisk_queue *queue);

/* ---- errors of it --------------------------------------------------------------------------------------- */

/* It takes no writes any more (has_trouble): the error of `what`, with the reason. -EIO. */
int layer_trouble(const struct layer *layer, const char *what);

/* Add what to do to the error of a flush just set, where the host's page cache has lost something. Returns rc. */
int layer_hint(const struct layer *layer, int rc);

/* The words alone; NULL: nothing is lost. */
static inline const char *layer_hint_text(const struct layer *layer)
{
    if (atomic_load(&layer->file->sync_failed) == 0 && atomic_load(&layer->data->sync_failed) == 0)
        return NULL;
    return "what was written since the last flush that succeeded may be lost: see to the storage, close the "
           "volume, check what it has";
}

/* ---- what a range of a chain is made of ------------------------------------------------------------------ */

/*
 * The extent at guest_offset as seen from `top` down its chain, clamped to what one layer says: DATA, ZERO or
 * COMPRESSED, in *ret_layer. Where no layer has anything: ZERO, in the layer that was asked last. -EAGAIN:
 * *ret_layer has to load() first.
 */
int chain_lookup(struct layer *top, uint64_t guest_offset, uint64_t len, struct extent *ret,
                 struct layer **ret_layer);

/*
 * The same for who wants the bytes: of a deep chain it costs what it costs of a short one. Flags of the layers
 * below the top (EXTENT_MARKED, say), and the layer of zeros, are not told. And without the top, which has nothing
 * there.
 */
int chain_find(struct layer *top, uint64_t guest_offset, uint64_t len, struct extent *ret,
               struct layer **ret_layer);
int chain_find_below(struct layer *top, uint64_t guest_offset, uint64_t len, struct extent *ret,
                     struct layer **ret_layer);

/*
 * What they have said -EAGAIN for is loaded, in `layer`, and then, several at a time, what comes next if it has
 * nothing there; of a top with a table of what lies below it, that alone. Ends by op_wake(op).
 */
void chain_load(struct layer *layer, uint64_t guest_offset, struct op *op);

/*
 * The same for who goes through [guest_offset, guest_offset + len), and has come here `nth` times before: what
 * comes next is loaded with it, little at first, since that may be all that he wants to know.
 */
void chain_load_range(struct layer *layer, uint64_t guest_offset, uint64_t len, unsigned nth, struct op *op);

/* The guest range [offset, offset+len) of a chain, from `top` down, into iov: read.c. Ends by op_wake(parent). */
void chain_read(struct layer *top, uint64_t guest_offset, const struct iovec *iov, uint32_t iovcnt, uint64_t len,
                struct op *parent);

/* Does all of the range read as zeros, as far as cached metadata tells? A cheap "maybe not" is false. */
bool chain_known_zero(struct layer *top, uint64_t guest_offset, uint64_t len);

/* Carry out REQ_EXTENTS, REQ_PREFETCH, and REQ_READ when it is not one extent at hand. */
void extents_start(struct layer *top, struct request *r);
void prefetch_start(struct layer *top, struct request *r);
void read_start(struct layer *top, struct request *r);

/* `op` is that, for `r`, and none of the I/O that it waits for has been sent: it ends with -ECANCELED. */
bool read_give_up(struct op *op, const struct request *r);

#endif
