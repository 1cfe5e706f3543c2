/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A copy at work: what copy.c, its loop, copy_slot.c, the way of one piece, and the rest of it share. */
#ifndef JOBS_COPY_H
#define JOBS_COPY_H

#include <vdisk-bulk.h>

#include "jobs/blocks.h"
#include "jobs/jobs.h"
#include "jobs/layers.h"
#include "jobs/mark.h"
#include "jobs/plan.h"

/* What a completion is of: in the low bits of its user_data, the slot's number above. */
enum copy_request {
    COPY_PLAN, COPY_READ, COPY_WRITE, COPY_FLUSH, COPY_SHARE, COPY_DISCARD, COPY_THERE, COPY_REQUESTS = 8
};

/* Pieces up to this have slots of their own, so that there are many when data is in small pieces. */
enum { COPY_SHORT = 64 << 10 };

/* A piece on its way. */
struct copy_slot {
    struct copy_slot *next_free;
    uint8_t          *buf;
    size_t            room;    /* of buf: a whole piece, or a short one */
    unsigned          number;
    unsigned          source;
    uint64_t          whole;   /* in the target */
    size_t            len;
    uint64_t          rest;    /* behind it: what the host was asked for and has not done is done in pieces */
    unsigned          pending; /* requests in flight */
    bool              busy;    /* not free; or lost */
    bool              lost;    /* what it had to do is not done, and will not be */
    struct copy_slot *next_read; /* compressed: the piece behind this one */
    bool              is_read; /* compressed: all of it, and it waits for those before */
    struct block_piece digest; /* of what is in `buf` */
    bool              digesting; /* it is not digested yet */
    bool              unsent; /* nor has copy_write_out() had it: it may wait for others */
    bool              clean; /* it is known that the target has zeros there */
    bool              unwritten; /* the target has it from below: it is read for its digest alone */

    /* The part that is read: all of it, but where sources meet. */
    uint64_t          offset;  /* in `source` */
    size_t            part, part_len;

    /* Salvage: the read has failed, and is done again in small parts. */
    bool              small;
    uint64_t          bad;     /* where `bad_len` bytes of the source begin: unreadable, not reported yet */
    size_t            bad_len;
    int               bad_error;
};

struct copy {
    struct vdisk_copy_opts   opts;
    char                    *name;
    vdisk                  **sources;
    unsigned                 count;
    vdisk                   *target;
    vdisk_source_fn         *source; /* what comes in, in place of sources: fill.c */
    void                    *source_arg;
    struct vdisk_copy_result result;

    vdisk_job               *job;   /* from here on: while it works */
    vdisk_queue             *q;
    int                      rc;    /* of the first failure */
    struct plan              plan;
    struct plan              there; /* `knows`: of the target, what it has: copy_discard.c */
    bool                     knows, no_discards;
    uint64_t                 clean; /* bytes from the piece that is next on that are known to be zeros there */
    struct layer_sizes       layers; /* of the only source, above backing_depth */
    struct copy_slot        *slots, *free_slots, *free_short;
    unsigned                 slot_count, short_count; /* of slots: all; with room for a short piece only */
    uint8_t                 *buffers;
    uint8_t                 *zeros; /* a piece of them, where they are written as data */
    size_t                   piece; /* a power of two: no piece is longer, or goes over a multiple of it */
    size_t                   unit;  /* zeros in data are looked for in units of it; 0: they are data */
    bool                     zeroes_cheap;
    size_t                   pack;  /* the unit of compressing; 0: nothing is compressed */
    struct copy_slot        *read_first, *read_last; /* pack: not written yet, in the order of the plan */
    uint64_t                 ahead; /* pack: bytes begun that are still to be taken from the plan */
    size_t                   share_unit; /* data so aligned is asked of the host; 0: none is, or none any more */
    uint64_t                 share_most; /* a power of two: with one request */
    unsigned                 inflight;
    struct pace              pace;
    struct mark              mark;
    struct blocks           *blocks; /* NULL: nobody asks for digests */
    uint64_t                 done;  /* of the plan's total */
};

/* Is a slot free for what is next? */
bool copy_has_slot(struct copy *c, const struct plan_piece *p, bool zeros);

/* Such a slot is free. The piece begins its way, of up to `c->piece` bytes; as far as it goes is in slot->len. */
void copy_begin_data(struct copy *c, const struct plan_piece *p, bool unwritten);

/* Zeros of the source to be in the target. */
void copy_begin_zeros(struct copy *c, const struct plan_piece *p);

/* The same, by vdisk_copy_range(). false: it does not begin so. */
bool copy_begin_shared(struct copy *c, const struct plan_piece *p);
void copy_share_done(struct copy *c, struct copy_slot *s, const struct vdisk_completion *done);

/* A read or write of a slot has completed. */
void copy_read_done(struct copy *c, struct copy_slot *s, const struct vdisk_completion *done);
void copy_write_done(struct copy *c, struct copy_slot *s, const struct vdisk_completion *done);

/* A free slot, of which there is one, for a piece of the target; what is in its buffer, to be in the target. */
struct copy_slot *copy_take_slot(struct copy *c, uint64_t whole, size_t len);
void copy_write_out(struct copy *c, struct copy_slot *s);

/* What is in a slot's buffer is what will be in the target, or it has been digested. */
void copy_digest(struct copy *c, struct copy_slot *s);
void copy_digested(struct copy *c, struct copy_slot *s);

/*
 * VDISK_COPY_DISCARD: what the target has from where the plan begins on is given back. false: as copy_wait(). Then
 * c->clean is told of each piece that is next, and zeros are cut to what is the same there: false: that is not at
 * hand yet, and has been asked for.
 */
bool copy_discard(struct copy *c);
void copy_ask_there(struct copy *c);
bool copy_look_there(struct copy *c, struct plan_piece *p);

/* Of the plan: all before it has ended well, and its digests are told. */
uint64_t copy_done_before(const struct copy *c);

/* What has been written becomes durable; and what is due of that is told (mark.h). */
void copy_flush(struct copy *c);
void copy_mark_if_due(struct copy *c);

/*
 * What has ended: what is there, or till there is something, or for so long at most (a wait is cut). false: the
 * queue cannot be waited for.
 */
bool copy_reap(struct copy *c);
bool copy_wait(struct copy *c, uint64_t wait_ns);

/* Something is on its way that will end; digests can be entered. */
static inline bool copy_is_busy(const struct copy *c)
{
    return c->inflight > 0 || (c->blocks && c->blocks->busy > 0);
}

static inline bool copy_has_room(const struct copy *c)
{
    return !c->blocks || blocks_have_room(c->blocks);
}

/* After the last piece: those of all blocks are told. false: as copy_wait(). */
bool copy_end_digests(struct copy *c);

/* Progress is told, and whether it is to stop, noted. */
void copy_step(struct copy *c);

/* The job's error, with a text of the copy's own. Returns -|err|. */
int copy_fail_text(struct copy *c, int err, const char *what);

/* c->source has all it has in the target: but for the flush. false: as copy_wait(). */
bool copy_fill(struct copy *c);

/* The first failure counts, with its text. */
void copy_failed(struct copy *c, const struct vdisk_completion *done);

#endif
