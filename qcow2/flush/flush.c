/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Flushing, and the ordering rules of the whole format.
 *
 *  1. A refcount that was raised is durable before any L2 or L1 entry that refers to the cluster is written.
 *  2. Guest data, and the edges copied around it, are durable before the L2 entry that shows them is written; but
 *     not where the guest range read as zeros before and the host cluster does too as long as the data is not
 *     there: then either order leaves zeros or the data.
 *  3. A refcount block's content is durable before the refcount table entry that points to it is written, and
 *     that entry before anything that relies on the block's refcounts (rule 1).
 *  4. A new L2 table's cluster holds zeros, durably, before the L1 entry that points to it is written.
 *  5. A refcount is lowered, in memory and so on disk, only after the clearing of what referred to the cluster is
 *     durable; the cluster is given out again only after that, and after all requests that may have looked up the
 *     old mapping have ended.
 *  6. What a flush writes is a copy taken at one moment, before its first sync: entries that appear later belong
 *     to the next flush, since their data may not be covered by this one's sync.
 *  7. L2 entries appear in memory only after their data has been written (alloc_write.c), so that the copy of
 *     rule 6 never shows data that the sync after it does not cover.
 *  8. A freed cluster is punched only when rule 5 would let it be given out, and is given out only when the punch
 *     has ended. It may count as zero from then on (rules 2 and 4): when it is used again its refcount is raised
 *     again, and the sync that rule 1 wants between that and any entry makes the punch durable too. The same goes
 *     for what was cut off the file (trim.c).
 *  9. The file's end is durable over all that an entry refers to, but for part of the last cluster, before the
 *     entry is written: one that points past the end is taken for damage, even where only zeros are missing.
 *
 * Happy path: wait for one's turn; the first in line flushes for all who wait. Copy what is dirty; then, as the
 * plan says: refcounts, [sync, refcount table], sync, L2 slices and L1 pages, sync. Without dirty metadata: one
 * sync. Beside it, freed clusters are given back (reclaim.c). Failure modes: no memory for the copy, or a write or
 * sync fails: all who wait get the error; what was copied is dirty again, and the next flush writes it; nothing
 * that waits to be freed moves on.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "engine/base/mem.h"
#include "engine/loop/queue.h"
#include "engine/loop/service.h"
#include "qcow2/flush/flush.h"
#include "qcow2/flush/flush_plan.h"
#include "qcow2/mutant.h"
#include "qcow2/space/space.h"

enum { FLUSH_BATCH = 16, COPY_MAPPED = 256 << 10 };

/* Something dirty, to be copied: a slice, or a page of a table. */
struct piece {
    uint64_t         host_offset;
    uint32_t         len;
    uint32_t         page;  /* of `table` */
    struct q2_cache *cache; /* a slice of this cache, in `slot` */
    struct q2_slot  *slot;
    struct q2_table *table;
};

/* Pieces of one step, in the order of their place on disk, and the copies, in the same order. */
struct batch {
    struct piece *pieces;
    size_t        count, at; /* at: the next to be written */
    char         *copy;
    size_t        copy_len;
    uint64_t      copy_at;   /* its copy */
};

enum { BATCH_REFCOUNTS, BATCH_REFTABLE, BATCH_MAPPING, BATCHES };

struct q2_flush_op {
    struct op            op;      /* waits, on the queue of who asked */
    struct q2_flush     *flush;
    /* The leader's. */
    struct op            lead;    /* flushes, on a queue that is turned whatever the owner of the other does */
    int                  rc;
    struct q2_carried    reclaim;
    struct list          group;   /* the others it flushes for */
    struct q2_flush_plan plan;
    bool                 needs_data, needs_blocks;
    struct batch         batches[BATCHES];
    struct q2_freed_list freed;   /* durable with this flush */
    struct io            io[FLUSH_BATCH];
};

enum q2_flush_state { FLUSH_START = OP_START, FLUSH_DONE };

enum q2_flush_lead_state {
    LEAD_START = OP_START,
    FLUSH_REFCOUNTS_WRITTEN,
    FLUSH_REFCOUNTS_SYNCED,
    FLUSH_REFTABLE_WRITTEN,
    FLUSH_DATA_SYNCED,
    FLUSH_MAPPING_WRITTEN,
    FLUSH_MAPPING_SYNCED,
    FLUSH_RECLAIMED
};

/* ---- the copy ------------------------------------------------------------------------------------------ */

static int by_host_offset(const void *a, const void *b)
{
    const struct piece *x = a, *y = b;

    return x->host_offset < y->host_offset ? -1 : x->host_offset > y->host_offset;
}

static size_t add_slices(struct piece *to, struct q2_cache *c, bool *ret_sound)
{
    struct list *node;
    size_t n = 0;

    for (node = c->dirty_list.next; node != &c->dirty_list && n < c->dirty_count; node = node->next) {
        struct q2_slot *s = container_of(node, struct q2_slot, dirty_node);
        to[n++] = (struct piece){.host_offset = s->host_offset, .len = c->slice_size, .cache = c, .slot = s};
    }
    *ret_sound &= n == c->dirty_count && node == &c->dirty_list;
    return n;
}

static size_t add_pages(struct piece *to, struct q2_table *t, bool *ret_sound)
{
    size_t n = 0;

    for (uint64_t i = 0; i < t->pages && n < t->dirty_count; i++)
        if (t->dirty[i])
            to[n++] = (struct piece){.host_offset = t->host_offset + i * t->page_size, .len = t->page_size,
                                     .page = (uint32_t)i, .table = t};
    *ret_sound &= n == t->dirty_count;
    return n;
}

static void copy_page(struct q2_flush *flush, const struct piece *p, char *to)
{
    uint64_t first = (uint64_t)p->page * p->len / 8;

    assert_locked(&flush->meta->lock);
    for (uint64_t i = 0; i < p->len / 8; i++) {
        uint64_t entry = 0;
        if (p->table == &flush->meta->l1_pages)
            entry = q2_l1_get(flush->meta, first + i);
        else if (first + i < flush->meta->reftable_entries)
            entry = flush->meta->reftable[first + i];
        put_be64(to + 8 * i, entry);
    }
}

/* In the order on disk. No piece is where the header is, none where another is. */
static bool sort_batch(const struct q2_flush *flush, struct batch *b)
{
    uint64_t end = flush->meta->geo.cluster_size;

    if (b->count > 0)
        qsort(b->pieces, b->count, sizeof *b->pieces, by_host_offset);
    for (size_t i = 0; i < b->count; i++) {
        if (b->pieces[i].host_offset < end)
            return false;
        end = b->pieces[i].host_offset + b->pieces[i].len;
    }
    return true;
}

/* Copy, and take for clean. */
static void copy_batch(struct q2_flush *flush, struct batch *b)
{
    char *to = b->copy;

    assert_locked(&flush->meta->lock);
    for (size_t i = 0; i < b->count; i++) {
        struct piece *p = &b->pieces[i];
        if (p->slot) {
            memcpy(to, q2_slot_data(p->cache, p->slot), p->len);
            q2_slot_copied(p->cache, p->slot);
        } else {
            copy_page(flush, p, to);
            p->table->dirty[p->page] = 0;
            p->table->dirty_count--;
        }
        to += p->len;
    }
}

/* A large copy does not go to malloc(), which would keep the memory from then on. NULL: there is none. */
static char *alloc_copy(size_t len)
{
    void *copy;

    if (len < COPY_MAPPED)
        return mem_memalign(&copy, 4096, len) == 0 ? copy : NULL;
    copy = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (copy == MAP_FAILED)
        return NULL;
    mem_prefer_huge(copy, len);
    return copy;
}

static void free_copy(struct batch *b)
{
    if (b->copy && b->copy_len >= COPY_MAPPED)
        munmap(b->copy, b->copy_len);
    else
        mem_free(b->copy);
}

static int alloc_batch(struct batch *b, size_t max, size_t bytes)
{
    if (max == 0)
        return 0;
    b->copy_len = align_up(bytes, 4096);
    b->pieces = mem_alloc(max * sizeof *b->pieces);
    b->copy = alloc_copy(b->copy_len);
    return b->pieces && b->copy ? 0 : -ENOMEM;
}

static size_t pages_bytes(const struct q2_table *t)
{
    return t->dirty_count * t->page_size;
}

static size_t slices_bytes(const struct q2_cache *c)
{
    return (size_t)c->dirty_count * c->slice_size;
}

static void swap_batches(struct batch *a, struct batch *b)
{
    struct batch old = *a;

    *a = *b;
    *b = old;
}

/* Only for the crash tests (mutant.h). */
static void break_rules(struct q2_flush_op *f)
{
    if (MUTANT(SKIP_REFCOUNT_SYNC))
        f->plan.sync_refcounts = false;
    if (MUTANT(SKIP_DATA_SYNC) && f->plan.sync_mapping)
        f->plan.sync_data = false;
    if (MUTANT(SKIP_MAPPING_SYNC))
        f->plan.sync_mapping = false;
    if (MUTANT(MAPPING_FIRST))
        swap_batches(&f->batches[BATCH_REFCOUNTS], &f->batches[BATCH_MAPPING]);
    if (MUTANT(REFTABLE_FIRST))
        swap_batches(&f->batches[BATCH_REFCOUNTS], &f->batches[BATCH_REFTABLE]);
}

/* The same: rule 6. */
static void copy_again(struct q2_flush_op *f)
{
    struct batch *b = &f->batches[BATCH_MAPPING];
    char *to = b->copy;

    for (size_t i = 0; i < b->count; to += b->pieces[i++].len)
        if (b->pieces[i].slot)
            memcpy(to, q2_slot_data(b->pieces[i].cache, b->pieces[i].slot), b->pieces[i].len);
}

/* Rule 9. What the file has at this moment is durable with the first sync. */
static bool end_has_moved(struct q2_flush *flush)
{
    assert_locked(&flush->meta->lock);
    flush->space->flushing_end = backend_size(flush->meta->layer->file);
    return flush->space->flushing_end > flush->space->durable_end;
}

/* What is dirty, in the batches. */
static bool gather(struct q2_flush_op *f)
{
    struct q2_meta *meta = f->flush->meta;
    struct batch *refcounts = &f->batches[BATCH_REFCOUNTS], *reftable = &f->batches[BATCH_REFTABLE];
    struct batch *mapping = &f->batches[BATCH_MAPPING];
    bool sound = true;

    assert_locked(&meta->lock);
    refcounts->count = add_slices(refcounts->pieces, &meta->refcounts, &sound);
    reftable->count = add_pages(reftable->pieces, &meta->reftable_pages, &sound);
    mapping->count = add_slices(mapping->pieces, &meta->l2, &sound);
    if (meta->l1_pages.dirty_count > 0)
        mapping->count += add_pages(mapping->pieces + mapping->count, &meta->l1_pages, &sound);
    if (!q2_invariant(meta, sound, "what is dirty is not what is counted as dirty"))
        goto fail;
    for (int i = 0; i < BATCHES; i++)
        if (!q2_invariant(meta, sort_batch(f->flush, &f->batches[i]),
                          "two tables in one place, or one on the header"))
            goto fail;
    return true;

fail:
    for (int i = 0; i < BATCHES; i++)
        f->batches[i].count = 0; /* nothing has been taken for clean */
    return false;
}

/* Rule 6. */
static int take_copy(struct q2_flush_op *f)
{
    struct q2_flush *flush = f->flush;
    bool end_moved = end_has_moved(flush) && !MUTANT(FORGET_END);
    struct batch *refcounts = &f->batches[BATCH_REFCOUNTS], *reftable = &f->batches[BATCH_REFTABLE];
    struct batch *mapping = &f->batches[BATCH_MAPPING];

    q2_flush_assert(flush);
    q2_meta_assert(flush->meta);
    q2_space_assert(flush->space);
    if (atomic_load(&flush->meta->breached))
        return -EIO;
    assert_locked(&flush->meta->lock);
    if (alloc_batch(refcounts, flush->meta->refcounts.dirty_count, slices_bytes(&flush->meta->refcounts)) < 0 ||
        alloc_batch(reftable, flush->meta->reftable_pages.dirty_count, pages_bytes(&flush->meta->reftable_pages)) <
            0 ||
        alloc_batch(mapping, flush->meta->l2.dirty_count + flush->meta->l1_pages.dirty_count,
                    slices_bytes(&flush->meta->l2) + pages_bytes(&flush->meta->l1_pages)) < 0)
        return -ENOMEM;
    if (!gather(f))
        return -EIO;
    for (int i = 0; i < BATCHES; i++)
        copy_batch(flush, &f->batches[i]);
    if (flush->space->freed[Q2_FREED_DURABLE].count == 0) {
        f->freed = flush->space->freed[Q2_FREED_NOW];
        flush->space->freed[Q2_FREED_NOW] = (struct q2_freed_list){0};
    }
    f->needs_data = flush->meta->mapping_needs_data && !MUTANT(FORGET_DATA);
    flush->meta->mapping_needs_data = false;
    f->needs_blocks = flush->meta->blocks_need_sync;
    flush->meta->blocks_need_sync = false;
    f->plan = q2_flush_plan((struct q2_flush_needs){.refcounts = refcounts->count > 0 || f->needs_blocks,
                                                    .reftable = reftable->count > 0,
                                                    .mapping = mapping->count > 0,
                                                    /* The mapping's sync does not reach another file. */
                                                    .data = f->needs_data || flush->meta->data_file || end_moved});
    break_rules(f);
    return 0;
}

/* With the lock held: the pieces have reached the disk, or (rc < 0) are dirty as before. */
static void settle_batch(struct batch *b, int rc)
{
    for (size_t i = 0; i < b->count; i++) {
        struct piece *p = &b->pieces[i];
        if (p->slot) {
            q2_slot_flushed(p->cache, p->slot, ENGINE_MUTANT(FLUSH_FAILURE_CLEAN) ? 0 : rc);
            op_wake_all(&p->cache->room, 0);
        } else if (rc < 0) {
            p->table->dirty_count += !p->table->dirty[p->page];
            p->table->dirty[p->page] = 1;
        }
    }
    mem_free(b->pieces);
    free_copy(b);
    memset(b, 0, sizeof *b);
}

static int by_cluster(const void *a, const void *b)
{
    const struct q2_freed *x = a, *y = b;

    return x->cluster_index < y->cluster_index ? -1 : x->cluster_index > y->cluster_index;
}

/* Rule 5. */
static void settle_freed(struct q2_flush_op *f, int rc)
{
    struct q2_flush *flush = f->flush;

    assert_locked(&flush->meta->lock);
    if (rc == 0 && f->freed.count > 0) {
        mem_free(flush->space->freed[Q2_FREED_DURABLE].list);
        flush->space->freed[Q2_FREED_DURABLE] = f->freed;
        flush->space->freed_ticket = gate_ticket(&flush->meta->layer->volume->requests);
    } else {
        for (size_t i = 0; i < f->freed.count; i++)
            q2_drop_run(flush->space, f->freed.list[i].cluster_index << flush->meta->geo.cluster_bits,
                        f->freed.list[i].clusters, f->freed.list[i].untouched);
        mem_free(f->freed.list);
    }
    f->freed = (struct q2_freed_list){0};
}

/* ---- turns --------------------------------------------------------------------------------------------- */

/* It is this one's turn. */
static void start_lead(struct q2_flush_op *f)
{
    assert_locked(&f->flush->meta->lock);
    service_begin(f->lead.queue);
    op_wake(&f->lead, 0);
}

/* The call of an await: lead a flush, or be flushed for by the next leader. */
static void wait_turn(struct q2_flush_op *f, struct op *op)
{
    struct q2_flush *flush = f->flush;

    pthread_mutex_lock(&flush->meta->lock);
    q2_flush_assert(flush);
    if (flush->meta->flush_running) {
        list_add_tail(&flush->flush_waiting, &op->wait);
    } else {
        flush->meta->flush_running = true;
        start_lead(f);
    }
    pthread_mutex_unlock(&flush->meta->lock);
}

/* The leader begins: all who wait by now are flushed for. */
static int begin(struct q2_flush_op *f)
{
    struct q2_flush *flush = f->flush;
    int rc;

    pthread_mutex_lock(&flush->meta->lock);
    stat_add(&flush->meta->layer->stats.flushes, 1);
    for (struct list *n = flush->flush_waiting.next; n != &flush->flush_waiting; n = n->next)
        stat_add(&flush->meta->layer->stats.flushes_shared, 1);
    list_splice_tail(&f->group, &flush->flush_waiting);
    rc = take_copy(f);
    pthread_mutex_unlock(&flush->meta->lock);
    return rc;
}

/* The leader is done: tell the group, and pass the lead on to one who came later. */
static void end(struct q2_flush_op *f, int rc)
{
    struct q2_flush *flush = f->flush;
    struct list *next;

    if (f->freed.count > 1) /* so that neighbours can be punched together */
        qsort(f->freed.list, f->freed.count, sizeof f->freed.list[0], by_cluster);
    pthread_mutex_lock(&flush->meta->lock);
    for (int i = 0; i < BATCHES; i++)
        settle_batch(&f->batches[i], rc);
    settle_freed(f, rc);
    if (rc < 0) {
        flush->meta->mapping_needs_data |= f->needs_data;
        flush->meta->blocks_need_sync |= f->needs_blocks;
    } else {
        flush->space->durable_end = max_u64(flush->space->durable_end, flush->space->flushing_end);
        atomic_store_explicit(&flush->meta->as_read, EXTENT_DURABLE, memory_order_release);
    }
    flush->space->flushing_end = 0;
    op_wake_all(&f->group, rc);
    if (MUTANT(FLUSH_JOINED))
        op_wake_all(&flush->flush_waiting, rc);
    next = list_pop(&flush->flush_waiting);
    if (next && !ENGINE_MUTANT(FLUSH_LEAD_LOST))
        start_lead(container_of(container_of(next, struct op, wait), struct q2_flush_op, op));
    else
        flush->meta->flush_running = false;
    pthread_mutex_unlock(&flush->meta->lock);
}

static void flush_finish(struct q2_flush_op *f, int rc)
{
    assert(!f->reclaim.running);
    op_end(&f->op, sizeof *f, rc);
}

/* The last of the leader: who asked may be another thread, and frees all this. */
static void lead_finish(struct q2_flush_op *f)
{
    service_end(f->lead.queue);
    op_wake(&f->op, f->rc);
}

/* ---- the steps ----------------------------------------------------------------------------------------- */

/* Write pieces as long as there are free I/Os, neighbours in one; the call of an await. */
static void write_pieces(struct q2_flush_op *f, struct op *op, struct batch *b)
{
    op_io_begin(op);
    for (int i = 0; i < FLUSH_BATCH && b->at < b->count; i++) {
        uint64_t start = b->pieces[b->at].host_offset, len = 0;
        while (b->at < b->count && b->pieces[b->at].host_offset == start + len)
            len += b->pieces[b->at++].len;
        io_rw(&f->io[i], f->flush->meta->layer->file, IO_WRITE, start, b->copy + b->copy_at, len);
        b->copy_at += len;
        op_io_add(op, &f->io[i]);
    }
    op_io_wait(op);
}

static void sync_file(struct q2_flush_op *f, struct op *op)
{
    io_range(&f->io[0], f->flush->meta->layer->file, IO_FLUSH, 0, 0);
    op_io(op, &f->io[0]);
}

static void sync_data(struct q2_flush_op *f, struct op *op)
{
    op_io_begin(op);
    io_range(&f->io[0], f->flush->meta->layer->file, IO_FLUSH, 0, 0);
    op_io_add(op, &f->io[0]);
    if (f->flush->meta->data_file && !MUTANT(FORGET_DATA_FILE)) {
        io_range(&f->io[1], f->flush->meta->layer->data, IO_FLUSH, 0, 0);
        op_io_add(op, &f->io[1]);
    }
    op_io_wait(op);
}

static bool more(const struct batch *b)
{
    return b->at < b->count;
}

static void q2_flush_lead_step(struct op *op)
{
    struct q2_flush_op *f = container_of(op, struct q2_flush_op, lead);

    OP_BEGIN(enum q2_flush_lead_state, op)
    q2_reclaim_carry(f->flush->space, op->queue, &f->reclaim);
    op->rc = begin(f);
    if (op->rc < 0)
        goto fail;
    while (more(&f->batches[BATCH_REFCOUNTS]))
        OP_TRY(op, FLUSH_REFCOUNTS_WRITTEN, write_pieces(f, op, &f->batches[BATCH_REFCOUNTS]));
    if (f->plan.sync_refcounts)
        OP_TRY(op, FLUSH_REFCOUNTS_SYNCED, sync_file(f, op));
    while (more(&f->batches[BATCH_REFTABLE]))
        OP_TRY(op, FLUSH_REFTABLE_WRITTEN, write_pieces(f, op, &f->batches[BATCH_REFTABLE]));
    if (f->plan.sync_data)
        OP_TRY(op, FLUSH_DATA_SYNCED, sync_data(f, op));
    if (MUTANT(COPY_LATE))
        copy_again(f);
    while (more(&f->batches[BATCH_MAPPING]))
        OP_TRY(op, FLUSH_MAPPING_WRITTEN, write_pieces(f, op, &f->batches[BATCH_MAPPING]));
    if (f->plan.sync_mapping)
        OP_TRY(op, FLUSH_MAPPING_SYNCED, sync_file(f, op));
fail:
    f->rc = op->rc;
    end(f, f->rc);
    if (f->reclaim.running)
        OP_AWAIT(op, FLUSH_RECLAIMED, q2_reclaim_join(f->flush->space, &f->reclaim, op));
    lead_finish(f);
    return;
    OP_END
}

OP_TYPE(q2_flush_lead, q2_flush_lead_step, "START", "FLUSH_REFCOUNTS_WRITTEN", "FLUSH_REFCOUNTS_SYNCED",
        "FLUSH_REFTABLE_WRITTEN", "FLUSH_DATA_SYNCED", "FLUSH_MAPPING_WRITTEN",
        "FLUSH_MAPPING_SYNCED", "FLUSH_RECLAIMED");

static void q2_flush_step(struct op *op)
{
    struct q2_flush_op *f = container_of(op, struct q2_flush_op, op);

    OP_BEGIN(enum q2_flush_state, op)
    OP_AWAIT(op, FLUSH_DONE, wait_turn(f, op));
    flush_finish(f, op->rc);
    return;
    OP_END
}

OP_TYPE(q2_flush_op, q2_flush_step, "START", "FLUSH_DONE");

static struct q2_flush_op *flush_alloc(struct q2_flush *flush, vdisk_queue *queue)
{
    struct q2_flush_op *f = op_alloc(queue, &q2_flush_op_type, sizeof *f);

    if (!f)
        return NULL;
    f->flush = flush;
    op_init(&f->lead, service_queue(flush->meta->layer->volume, queue), &q2_flush_lead_type);
    list_init(&f->group);
    return f;
}

void q2_flush_state_init(struct q2_flush *flush, struct q2_meta *meta, struct q2_space *space)
{
    flush->meta = meta;
    flush->space = space;
    list_init(&flush->flush_waiting);
}

void q2_flush(struct q2_flush *flush, struct op *op)
{
    struct q2_flush_op *f = flush_alloc(flush, op->queue);

    if (!f) {
        op_wake(op, -ENOMEM);
        return;
    }
    f->op.parent = op;
    op_start(&f->op);
}

void q2_flush_start(struct q2_flush *flush, struct request *r)
{
    struct q2_flush_op *f = flush_alloc(flush, r->queue);

    if (!f) {
        request_end_later(r, -ENOMEM);
        return;
    }
    op_serve(&f->op, r);
    op_start(&f->op);
}

#ifndef NDEBUG

void q2_flush_assert(const struct q2_flush *flush)
{
    assert_locked(&flush->meta->lock);
    assert(flush->space->meta == flush->meta);
    assert(flush->meta->flush_running || list_empty(&flush->flush_waiting));
    assert(flush->meta->flush_running || flush->space->flushing_end == 0);
    assert(flush->space->freed_ticket != 0 || flush->space->freed[Q2_FREED_DURABLE].count == 0 ||
           MUTANT(FREE_BEFORE_SYNC)); /* rule 5 */
    for (struct list *n = flush->flush_waiting.next; n != &flush->flush_waiting; n = n->next)
        assert(container_of(n, struct op, wait)->state == FLUSH_DONE && n->next->prev == n);
}

#endif

/* ---- outside the loop ------------------------------------------------------------------------------------ */

static void flush_call(void *arg, struct op *op)
{
    q2_flush(arg, op);
}

int q2_flush_sync(struct q2_flush *flush, vdisk_queue *queue)
{
    return op_run_call(queue, flush_call, flush);
}
