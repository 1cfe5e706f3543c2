/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * An open qcow2 image.
 * "Locked": by the lock of its metadata, meta.lock.
 */
#ifndef QCOW2_STATE_H
#define QCOW2_STATE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "qcow2/map/lookup.h"
#include "qcow2/meta/meta.h"
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
    struct q2_meta meta; /* first: q2_meta_of() */

    /* Fixed at open. */
    uint64_t cache_bytes; /* as asked for when it was opened */
    bool zero_new;        /* host space past zero_from reads as zeros */

    /* Own synchronisation. */
    struct range_locks guest_ranges[Q2_ZONES]; /* allocating writes, zeros, discards: q2_zone() */
    _Atomic bool host_full; /* it was, at least once: holes come before what is behind the end */

    /* Locked. */
    uint64_t                  free_hint;     /* cluster index: no free cluster is known below */
    uint64_t                  used_from, used_end; /* above it: all of these are known to be in use */
    uint64_t                  tail_hint;     /* the same of a search behind what is in use: alloc.c */
    unsigned                  exact_runs;    /* searches for a run in one piece that are on: alloc.c */
    uint64_t                  zero_from;     /* host offset: nothing at or past it was ever handed out */
    uint64_t appended_from;                  /* cluster index: where the file ended when it was opened */
    struct q2_cluster_set     sound;         /* refcount slices, by key, that are what they should be */
    bool                      tables_read;   /* all L2 tables have been: `mapped` has all that fits */
    const vdisk_queue        *tables_reader; /* whose op reads them; NULL: none does: refcount_load.c */
    struct list               tables_waiting; /* ops, by op.wait: for that to end */
    bool count_decides;                       /* what is freed is not given to the host before a count: shrink.c */
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
    struct list trim_waiting;                /* ops, by op.wait: for that to end */
    struct list flush_waiting;               /* ops, by op.wait */
};

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
    uint64_t hash = (guest_offset >> q->meta.slice_guest_bits) * UINT64_C(0x9e3779b97f4a7c15);

    return &q->guest_ranges[hash >> 60 & (Q2_ZONES - 1)];
}

/* With the lock held: host space up to `host_end` is being handed out. */
static inline void q2_note_end(struct q2 *q, uint64_t host_end)
{
    if (host_end > q->zero_from)
        q->zero_from = host_end;
    volume_note_end(q->meta.v, host_end);
}

/* qcow2/map/alloc_write.c, qcow2/map/clear.c, qcow2/flush/flush.c: end by request_end(r) */
void q2_alloc_write_start(struct q2 *q, struct request *r);
void q2_clear_start(struct q2 *q, struct request *r);
void q2_flush_start(struct q2 *q, struct request *r);

/* A flush as the call of an await. */
void q2_flush(struct q2 *q, struct op *op);

/* qcow2/image/resize.c: format_driver.resize */
int q2_resize(vdisk *v, uint64_t size, const struct vdisk_resize_opts *opts, vdisk_queue *queue);

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

#endif
