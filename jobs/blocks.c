/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "jobs/blocks.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "jobs/zeros.h"

enum { SPARE = 4 }; /* blocks besides those that pieces are in: the current one, and what ends with zeros */

/* ---- on a thread: what a block has got ------------------------------------------------------------------- */

static void digest_pending(struct digest_block *d)
{
    if (d->pending > 0)
        gcry_md_write(d->md, d->all->nothing, d->pending);
    d->pending = 0;
}

/* Zeros are put off: a block that has nothing else has a digest that is known. */
static void digest_given(struct hash_work *w)
{
    struct digest_block *d = (struct digest_block *)w;

    for (struct block_piece *p = d->given; p; p = p->next) {
        d->pending += p->zeros;
        if (zeros_only(p->data, p->len)) {
            d->pending += p->len;
            continue;
        }
        digest_pending(d);
        gcry_md_write(d->md, p->data, p->len);
        d->some = true;
    }
    if (!d->ends)
        return;
    d->pending += d->given_zeros;
    if (d->some) {
        digest_pending(d);
        digest_end(d->md, w->digest);
    } else if (d->entered == BLOCKS_SIZE) {
        memcpy(w->digest, d->all->zeros, VDISK_DIGEST_SIZE);
    } else {
        digest_of(d->all->nothing, d->entered, w->digest);
    }
}

/* ---- blocks ---------------------------------------------------------------------------------------------- */

static void free_block(struct blocks *b, struct digest_block *d)
{
    assert(!d->busy && !d->first);
    d->next_free = b->free;
    b->free = d;
    b->free_count++;
}

static struct digest_block *begin_block(struct blocks *b)
{
    struct digest_block *d = b->free;

    assert(b->free_count > 0);
    b->free = d->next_free;
    b->free_count--;
    gcry_md_reset(d->md);
    *d = (struct digest_block){.work.run = digest_given, .md = d->md, .all = b, .number = order_enter(&b->order)};
    b->current = d;
    return d;
}

/* What is ready of it, from its start on, goes to a thread; if there is something, and none has it. */
static void give(struct blocks *b, struct digest_block *d)
{
    struct block_piece *last = NULL;

    if (d->busy)
        return;
    for (struct block_piece *p = d->first; p && p->ready; p = p->next)
        last = p;
    d->given = last ? d->first : NULL;
    if (last) {
        d->first = last->next;
        last->next = NULL;
    }
    d->ends = d->whole && !d->first;
    d->given_zeros = d->ends ? d->zeros : 0;
    if (!last && !d->ends)
        return;
    d->busy = true; /* invariant 1 */
    b->busy++;
    hashers_give(&b->hashers, &d->work);
}

static void close_block(struct blocks *b)
{
    struct digest_block *d = b->current;

    d->whole = true;
    b->current = NULL;
    give(b, d);
}

static void entered(struct blocks *b, size_t len)
{
    struct digest_block *d = b->current;

    d->entered += len;
    b->entered += len;
    assert(d->entered <= BLOCKS_SIZE && d->entered == (b->entered - 1) % BLOCKS_SIZE + 1); /* invariant 2 */
    if (d->entered == BLOCKS_SIZE)
        close_block(b);
}

void blocks_enter(struct blocks *b, struct block_piece *p, const uint8_t *data, size_t len)
{
    struct digest_block *d = b->current ? b->current : begin_block(b);

    assert(len > 0);
    *p = (struct block_piece){.block = d, .data = data, .len = len, .zeros = d->zeros};
    d->zeros = 0;
    if (d->first)
        d->last->next = p;
    else
        d->first = p;
    d->last = p;
    entered(b, len);
}

static void enter_some_zeros(struct blocks *b, size_t len)
{
    struct digest_block *d = b->current ? b->current : begin_block(b);

    d->zeros += len;
    entered(b, len);
}

void blocks_enter_zeros(struct blocks *b, uint64_t len)
{
    uint64_t n;

    if (b->current) {
        n = jobs_min(len, BLOCKS_SIZE - b->current->entered);
        enter_some_zeros(b, (size_t)n);
        len -= n;
    }
    n = len / BLOCKS_SIZE;
    if (n > 0)
        order_enter_zeros(&b->order, n, b->zeros);
    b->entered += n * BLOCKS_SIZE;
    if (len % BLOCKS_SIZE > 0)
        enter_some_zeros(b, (size_t)(len % BLOCKS_SIZE));
}

void blocks_ready(struct blocks *b, struct block_piece *p)
{
    assert(!p->ready);
    p->ready = true;
    give(b, p->block);
}

void blocks_close(struct blocks *b)
{
    if (b->current)
        close_block(b);
}

/* ---- what has ended -------------------------------------------------------------------------------------- */

static void append(struct block_piece **list, struct block_piece *more)
{
    while (*list)
        list = &(*list)->next;
    *list = more;
}

static void take_block(struct blocks *b, struct digest_block *d, struct block_piece **ret)
{
    assert(d->busy && b->busy > 0);
    d->busy = false;
    b->busy--;
    append(ret, d->given);
    d->given = NULL;
    if (d->ends) {
        order_set(&b->order, d->number, d->work.digest);
        free_block(b, d);
    } else {
        give(b, d);
    }
}

struct block_piece *blocks_take(struct blocks *b)
{
    struct block_piece *list = NULL;
    struct hash_work *next;

    for (struct hash_work *w = hashers_take(&b->hashers); w; w = next) {
        next = w->next;
        take_block(b, (struct digest_block *)w, &list);
    }
    return list;
}

int blocks_tell(struct blocks *b)
{
    return order_tell(&b->order);
}

/* ---- before and after ------------------------------------------------------------------------------------ */

int blocks_begin(struct blocks *b, vdisk_queue *q, unsigned pieces, vdisk_block_digest_fn *tell, void *arg)
{
    int rc = digest_init();

    if (rc < 0)
        return rc;
    b->nothing = calloc(1, BLOCKS_SIZE);
    b->list = calloc(pieces + SPARE, sizeof *b->list);
    if (!b->nothing || !b->list || order_init(&b->order, tell, arg) < 0)
        return -ENOMEM;
    for (; b->count < pieces + SPARE; b->count++) {
        if (digest_begin(&b->list[b->count].md) < 0)
            return -ENOMEM;
        free_block(b, &b->list[b->count]);
    }
    digest_of(b->nothing, BLOCKS_SIZE, b->zeros);
    hashers_init(&b->hashers, q, hashers_number(), 1);
    return 0;
}

static uint64_t number_of_blocks(uint64_t len)
{
    return len / BLOCKS_SIZE + (len % BLOCKS_SIZE > 0);
}

int blocks_know(struct blocks *b, uint64_t least, uint64_t most, vdisk_known_digest_fn *known, void *arg)
{
    uint64_t at = 0, end = number_of_blocks(most), count = 1;
    uint8_t digest[VDISK_DIGEST_SIZE];
    int rc = 0;

    for (; at < end && rc == 0 && count > 0; at += count) {
        count = 0;
        rc = known ? known(arg, at, &count, digest) : 0;
        if (rc == 0 && (count > end - at || (count == 0 && at < number_of_blocks(least))))
            rc = -EINVAL;
        if (rc == 0 && count > 0)
            order_enter_known(&b->order, count, digest);
        while (rc == 0 && !order_is_empty(&b->order)) {
            rc = order_tell(&b->order);
            rc = rc > 0 ? 0 : rc;
        }
    }
    b->entered = jobs_min(at * BLOCKS_SIZE, most);
    return rc > 0 ? -ECANCELED : rc;
}

void blocks_free(struct blocks *b)
{
    if (!b->list && !b->nothing)
        return;
    hashers_finish(&b->hashers);
    for (unsigned i = 0; i < b->count; i++)
        digest_drop(b->list[i].md);
    order_free(&b->order);
    free(b->list);
    free(b->nothing);
}
