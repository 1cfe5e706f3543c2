/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the room of host clusters has of an open image. "Locked": by meta->lock. */
#ifndef QCOW2_SPACE_STATE_H
#define QCOW2_SPACE_STATE_H

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

/* What a queue has taken ahead: lease.h. Cluster indices [next, end). */
struct q2_lease {
    uint64_t    next, end;
    uint64_t    size;    /* bytes that the last one was meant to have */
    bool        zero;    /* reads as zeros */
    const vdisk_queue *filler; /* the queue that fills it, NULL: none */
    struct list waiting; /* for that, on the same queue; ops, by op.wait */
};

enum { Q2_LEASES = 32 };

/* A place in an L2 table. */
struct q2_survey_place {
    uint64_t l1_index;
    uint32_t offset;
};

/* Behind the compressed data that a queue has placed last: host bytes [next, end), up to the end of their cluster;
 * equal: none. bytes.h */
struct q2_tail {
    uint64_t next, end;
};

/* Of who reads all of them: before `at` all have been; by how often they have been judged. */
struct q2_survey_progress {
    struct q2_survey_place at;
    struct q2_cluster_set  once, twice;
};

enum q2_freed_stage {
    Q2_FREED_NOW,     /* waits for a flush to make the freeing durable */
    Q2_FREED_DURABLE, /* waits for requests that may still use the old mapping */
    Q2_FREED_STAGES
};

struct q2_space {
    /* Fixed at open. */
    struct q2_meta           *meta;
    bool                      zero_new;      /* host space past zero_from reads as zeros */

    /* Own synchronisation. */
    _Atomic bool              host_full;     /* it was, when last tried: holes come before what is behind */

    /* Locked. */
    uint64_t                  free_hint;     /* cluster index: no free cluster is known below */
    uint64_t                  used_from, used_end; /* above it: all of these are known to be in use */
    uint64_t                  tail_hint;     /* the same of a search behind what is in use: alloc.c */
    unsigned                  exact_runs;    /* searches for a run in one piece that are on: alloc.c */
    uint64_t                  append_from, append_end; /* cluster indices: a piece being made; 0: none: append.c */
    uint64_t                  zero_from;     /* host offset: nothing at or past it was ever handed out */
    uint64_t                  appended_from; /* cluster index: where the file ended when it was opened */
    uint64_t                  holes_end;     /* cluster index: from here on there is the tail: survey.h */
    struct q2_cluster_set     sound;         /* refcount slices, by key, that are what they should be */
    bool                      tables_read;   /* all L2 tables have been: `mapped` has all that fits: survey.h */
    bool                      survey_length_known, survey_is_short;
    bool                      survey_failed; /* the last time: who can do without does not try again */
    bool                      surveying;     /* an op reads some of them, */
    const vdisk_queue        *survey_queue;  /* on this one; */
    struct q2_survey_progress survey;        /* its own */
    struct list               survey_waiting; /* ops, by op.wait: for that to end */
    bool                      count_decides; /* what is freed is not given to the host before a count: shrink.c */
    uint64_t                  durable_end;   /* host offset: the file reaches so far, and that is durable */
    uint64_t                  flushing_end;  /* what durable_end becomes when the flush under way has ended */
    struct q2_zero_runs       zero_runs;     /* free clusters below zero_from that read as zeros */
    struct q2_lease           leases[Q2_LEASES]; /* by queue id */
    struct q2_tail            tails[Q2_LEASES]; /* by queue id */
    unsigned                  tails_open;    /* of them, not empty */
    uint64_t                  limit_clusters;/* host clusters that there are: q2_space_grew() */
    struct q2_freed_list      freed[Q2_FREED_STAGES];
    uint64_t                  freed_ticket;  /* of the volume's gate, for Q2_FREED_DURABLE */
    bool                      reclaiming;    /* an op is giving freed clusters back */
    struct list               reclaim_waiting; /* ops, by op.wait: for that to end */
    bool                      trimming;      /* the file's end is being moved down: nothing is handed out */
    struct list               trim_waiting;  /* ops, by op.wait: for that to end */
    unsigned                  asserted;      /* q2_space_assert(): the lease that comes next */
};

/* Empty, over the metadata of the same image; what the open file says; and back what it holds. */
void q2_space_state_init(struct q2_space *space, struct q2_meta *meta);
void q2_space_state_setup(struct q2_space *space);
void q2_space_state_finish(struct q2_space *space);

/* Debug builds, with the lock held: does all of it agree? Of leases and lists a part, another one each time. */
#ifdef NDEBUG
static inline void q2_space_assert(struct q2_space *space) {}
#else
void q2_space_assert(struct q2_space *space);
#endif

/* With the lock held: what comes next does not go behind what is there. It is not empty. */
void q2_tail_end(struct q2_space *space, struct q2_tail *t);

/*
 * With the lock held: clusters have been dropped. A punch may be on its way there before their refcounts fall, so
 * nothing is put behind what is in them any more.
 */
void q2_tails_leave(struct q2_space *space, uint64_t host_offset, uint64_t clusters);

/* With the lock held: host space up to `host_end` is being handed out. */
static inline void q2_note_end(struct q2_space *space, uint64_t host_end)
{
    assert_locked(&space->meta->lock);
    if (host_end > space->zero_from)
        space->zero_from = host_end;
    layer_note_end(space->meta->layer, host_end);
}

/*
 * With the lock held: free clusters [start, end) read as zeros. Those past zero_from (a damaged image has mappings
 * past the end of its file) are left to zero_new.
 */
static inline void q2_note_zero(struct q2_space *space, uint64_t start, uint64_t end)
{
    assert_locked(&space->meta->lock);
    end = min_u64(end, space->zero_from >> space->meta->geo.cluster_bits);
    if (start < end)
        q2_zero_runs_add(&space->zero_runs, start, end);
}

#endif
