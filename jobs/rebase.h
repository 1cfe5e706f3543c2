/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A rebase at work: what rebase.c, its loop, and rebase_slot.c, the way of one piece, share. */
#ifndef JOBS_REBASE_H
#define JOBS_REBASE_H

#include "jobs/jobs.h"
#include "jobs/layers.h"
#include "jobs/mark.h"
#include "jobs/plan.h"

enum { REBASE_PIECE = 1 << 20 };

/* What a completion is of: in the low bits of its user_data, the slot's number above. Plans: two of them. */
enum rebase_request { REBASE_PLAN = 0, REBASE_READ = 2, REBASE_WRITE, REBASE_FLUSH, REBASE_REQUESTS = 8 };

/* A piece on its way: first it is read, then written, as far as it differs. */
struct rebase_slot {
    struct rebase_slot *next_free;
    uint8_t            *buf[2];  /* what the image reads; what the new chain has */
    bool                read[2]; /* else it is zeros */
    bool                is_read; /* and waits for those before it: `next_read` */
    struct rebase_slot *next_read;
    unsigned            number, pending;
    bool                busy;    /* not free; or lost */
    bool                lost;    /* what it had to do is not done, and will not be */
    uint64_t            offset;
    size_t              len;
};

struct rebase {
    struct vdisk_rebase_opts   opts;
    char                      *name, *format, *backing, *backing_fmt; /* NULL: none */
    struct vdisk_rebase_result result;

    vdisk_job                 *job;        /* from here on: while it works */
    vdisk                     *volumes[2]; /* the image with its old chain; the new one, or NULL */
    struct layer_ids           old_layers, new_layers;
    vdisk_queue               *q;
    int                        rc;         /* of the first failure */
    struct plan                plans[2];
    uint64_t                   total, begun, done;
    size_t                     unit;       /* what differs is written in units of it, so aligned */
    size_t                     pack;       /* what is written is compressed, in units of it; 0: it is not */
    size_t                     piece;      /* the largest that is on its way as one */
    bool                       gathered, gathered_read[2]; /* of the unit that is begun: something is to be looked
                                                            * at; to be read, of each side */
    unsigned                   inflight, slot_count;
    struct rebase_slot        *slots, *free_slots;
    struct rebase_slot        *read_first, *read_last; /* pack: in the order in which they were begun */
    uint8_t                   *buffers;
    struct pace                pace;
    struct mark                mark;
};

/* A slot is free. The piece begins its way; a side that is not to be read is zeros. */
void rebase_begin(struct rebase *b, uint64_t offset, uint64_t len, bool read_old, bool read_new);

/* A read or write of a slot has completed. */
void rebase_ended(struct rebase *b, struct rebase_slot *s, bool written, const struct vdisk_completion *done);

/* The first failure counts, with its text. */
void rebase_failed(struct rebase *b, const struct vdisk_completion *done);

#endif
