/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The digests of a volume's blocks, as a copy of it goes by: what it consists of is entered in the order of the
 * volume, in pieces, and becomes known in any order. A piece lies in one block; its memory stays until it has been
 * digested. Of each block what is known from its start on goes to a thread; no two threads work on one block.
 *
 * Happy path: blocks_enter() and blocks_enter_zeros() for all of the volume, blocks_ready() as pieces get known,
 * blocks_take() and blocks_tell() whenever the queue has been woken; blocks_close().
 * Failure modes: who is told says stop: an error of blocks_tell(). What is left behind goes with blocks_free().
 *
 * Invariants
 *  1. A thread has a block, with what it is to digest, or the job has.
 *  2. What has been entered is contiguous from the start on, and told in that order, each block once.
 */
#ifndef JOBS_BLOCKS_H
#define JOBS_BLOCKS_H

#include "jobs/digest.h"
#include "jobs/order.h"

enum { BLOCKS_SIZE = 4 << 20 };

/* Part of what has data. */
struct block_piece {
    struct block_piece  *next;  /* in the block */
    struct digest_block *block;
    const uint8_t       *data;
    size_t               len;
    uint64_t             zeros; /* so many bytes of them before it, in the block */
    bool                 ready; /* `data` is what it will be */
};

struct digest_block {
    struct hash_work     work;    /* the first member */
    struct digest_block *next_free;
    gcry_md_hd_t         md;
    const struct blocks *all;
    uint64_t             number;  /* of its entry in the order */
    size_t               entered; /* bytes */
    struct block_piece  *first, *last; /* not given to a thread yet */
    size_t               zeros;   /* entered behind the last */
    bool                 whole;   /* all of it is entered */
    bool                 busy;    /* a thread has it: these */
    struct block_piece  *given;   /* up to the first that is not ready; NULL: none */
    size_t               given_zeros; /* behind the last, with `ends` */
    bool                 ends;    /* that is all of the block */
    size_t               pending; /* zeros before what comes next: digested when there is something else */
    bool                 some;    /* there was something else */
};

struct blocks {
    struct hashers       hashers;
    struct order         order;
    struct digest_block *list, *free, *current;
    unsigned             count, free_count;
    unsigned             busy;    /* with threads: the queue will be woken */
    uint64_t             entered; /* bytes; so much of the volume */
    uint8_t             *nothing; /* a block of zeros */
    uint8_t              zeros[VDISK_DIGEST_SIZE];
};

/*
 * No more than `pieces` are entered at a time. 0, -ENOMEM or -ENOTSUP (digest_init()). blocks_free() in any case,
 * which waits for the threads; of zeroed memory it does nothing.
 */
int blocks_begin(struct blocks *b, vdisk_queue *q, unsigned pieces, vdisk_block_digest_fn *tell, void *arg);

/*
 * Before all else: the digests of blocks that somebody knows, and will not enter: up to `least` at least, which is
 * where a block begins, or the volume ends, and no more than up to `most`. 0, -EINVAL (one is missing), or of who
 * is told.
 */
int blocks_know(struct blocks *b, uint64_t least, uint64_t most, vdisk_known_digest_fn *known, void *arg);
void blocks_free(struct blocks *b);

/* One piece, or zeros, can be entered. */
static inline bool blocks_have_room(const struct blocks *b)
{
    return b->free_count >= 2 && b->order.end - b->order.first <= ORDER_ENTRIES - 3;
}

/* What comes next. There is room. */
void blocks_enter(struct blocks *b, struct block_piece *p, const uint8_t *data, size_t len);
void blocks_enter_zeros(struct blocks *b, uint64_t len);
void blocks_ready(struct blocks *b, struct block_piece *p);

/* All has been entered: the last block may be shorter. */
void blocks_close(struct blocks *b);

/*
 * Pieces that have been digested, as a list; and what is known by then is told: 1: some, perhaps there is more; 0,
 * or the error of who is told.
 */
struct block_piece *blocks_take(struct blocks *b);
int blocks_tell(struct blocks *b);

/* All of what was entered is told. */
static inline bool blocks_are_told(const struct blocks *b)
{
    return !b->current && order_is_empty(&b->order);
}

static inline uint64_t blocks_told(const struct blocks *b)
{
    return b->order.told * BLOCKS_SIZE;
}

#endif
