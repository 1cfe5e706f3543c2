/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What there is to do: the extents of some volumes, one after the other, asked for ahead of need.
 *
 * Each volume begins at a multiple of 512 bytes of the whole, as sectors do; what is between reads as zeros. Two
 * lists are used in turn: while one is worked off, the other is asked for. A question is about a stretch of
 * PLAN_STRETCH bytes at most, so that the answer comes soon.
 *
 * Invariants.
 *  1. Pieces come in the order of the whole, each byte once.
 *  2. At most one question is in flight; its list is not read.
 *  3. A piece lies in one volume, and is of one kind.
 */
#ifndef JOBS_PLAN_H
#define JOBS_PLAN_H

#include "jobs/jobs.h"

#define PLAN_STRETCH (UINT64_C(8) << 30)

enum { PLAN_EXTENTS = 1024, PLAN_SECTOR = 512 };

struct plan_list {
    struct vdisk_extents extents;
    unsigned             source;
    uint64_t             start; /* of that volume, in the whole */
    unsigned             next;  /* the extent that has not been handed out whole */
    uint64_t             used;  /* bytes of it that have */
    bool                 ready; /* answered, and not worked off */
    struct vdisk_extent  list[PLAN_EXTENTS + 1]; /* one more for what is between volumes */
};

struct plan {
    vdisk *const    *volumes;
    uint64_t        *sizes;    /* when it began */
    unsigned         count;
    uint64_t         total;    /* bytes of the whole */
    uint64_t         handed;   /* of them */
    bool             guess;    /* what cannot be found out is taken for data */

    unsigned         source;   /* the question in flight, or the next one */
    uint64_t         start, offset, asked;
    bool             asking;
    uint64_t         cut;      /* bytes left out of the start of the only volume */

    unsigned         reading, filling;
    struct plan_list lists[2];
};

struct plan_piece {
    unsigned source;
    uint64_t offset; /* in the volume */
    uint64_t whole;  /* in the whole */
    uint64_t len;
    uint32_t flags;  /* enum vdisk_extent_flags */
    uint32_t depth;
};

/*
 * `volumes` stay. The whole ends with the last volume, or up to a sector later, where `room` allows that. 0 or
 * -ENOMEM; plan_free() in both cases.
 */
int plan_init(struct plan *p, vdisk *const *volumes, unsigned count, uint64_t room);

/* Before the first question: of the only volume no more than `length` bytes from `offset` on. */
void plan_cut(struct plan *p, uint64_t offset, uint64_t length);

/* Likewise: what is before `whole`, rounded down to `unit` (a power of two) and to sectors, is not asked for. */
void plan_skip(struct plan *p, uint64_t whole, uint64_t unit);
void plan_free(struct plan *p);

/* Ask for more, if there is more and a list for it. false: nothing was enqueued. */
bool plan_ask(struct plan *p, vdisk_queue *q, uint64_t user_data);

/* The question has been answered. 0, or `result`: there is no plan. */
int plan_answer(struct plan *p, int result);

/* All of what comes next that is of one kind, as far as it is at hand. false: nothing is. */
bool plan_look(const struct plan *p, struct plan_piece *ret);

/* `len` bytes of it have been taken. */
void plan_take(struct plan *p, uint64_t len);

/*
 * What lies at `whole`, which is before the end: so many bytes, at *ret_offset of *ret_source; `count`: between
 * volumes, where zeros are.
 */
uint64_t plan_find(const struct plan *p, uint64_t whole, unsigned *ret_source, uint64_t *ret_offset);

static inline bool plan_ended(const struct plan *p)
{
    return p->handed == p->total;
}

#endif
