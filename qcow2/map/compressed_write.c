/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Writing compressed clusters.
 *
 * Happy path: round by round, a few MiB: a worker compresses the clusters, one stream behind the other, into one
 * buffer; what does not get shorter is there as it is. Then, in the queue's line, slice by slice: lock the guest
 * clusters, have an L2 table of our own and its slice in the cache, take bytes for the streams (space/bytes.c) and
 * host clusters for the others; write what is together in one I/O; enter them in the L2 slice, give what was there
 * before back. When the last has its place the next in line goes on. The volume's last cluster may be a part of
 * one, with zeros behind it: where the volume has grown when it is to be entered, that is written as any data.
 * Failure modes: as of any write that allocates (alloc_write.c): a refused entry, no space (room is made, once,
 * and the slice is done again), no memory, a failed write; what has been taken for the slice is given back, the
 * mapping is as it was, slices before it stay written. No worker can be had: compressed here.
 *
 * Invariants.
 *  1. The L2 entry changes after the write has ended (flush rule 7), under the lock of its guest cluster.
 *  2. What is where in the file depends on the order of the requests, and not on how long compressing takes: who
 *     takes host space has the turn of its queue. Who makes room has not, or others would wait for it in the gate.
 *  3. Writes to one block of the file, by neighbours in one host cluster, change only the bytes of the one that
 *     writes (engine/loop/bounce.c), so that a torn one changes nothing that counts. Of large writes there are few
 *     such: they end with a block, and what they leave of it nobody takes.
 *  4. A cluster is entered whole only up to the volume's end: what lies behind is somebody's data.
 */
#include "qcow2/map/compressed_write.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/bits.h"
#include "engine/base/iov.h"
#include "engine/base/mem.h"
#include "engine/loop/queue.h"
#include "qcow2/map/alloc_write.h"
#include "qcow2/map/l2_table.h"
#include "qcow2/map/lookup.h"
#include "qcow2/meta/meta.h"
#include "qcow2/mutant.h"
#include "qcow2/space/space.h"

/* What is written at once ends at a multiple of BLOCK, with zeros, where that costs no more than 1/WORTH of it. */
enum { ROUND_BYTES = 2 << 20, WRITES = 8, BLOCK = 4096, WORTH = 64 };

/* One cluster of the round. */
struct packed {
    uint64_t host_offset; /* once it is placed */
    uint32_t at, len;     /* in `out` */
    bool     plain;       /* not compressed, a cluster of its own */
};

struct compressed_write {
    struct op         op;
    struct q2_map    *map;
    struct request   *request;
    struct list       line;        /* in map->compressing */
    bool              in_line, waits, has_turn;
    bool              made_room, keeps_freed;
    int               refusal;
    /* The round: guest bytes [start, end), `count` clusters. */
    uint64_t          start, end;
    unsigned          count;
    struct packed    *packed;
    uint8_t          *out, *gather;
    /* The slice at work: clusters [first, stop) of the round, of which those before `placed` have host space. */
    unsigned          first, stop, placed, written;
    uint64_t          padding;     /* zeros behind the last stream: its own, when all are placed */
    struct range_lock lock;
    struct q2_slot   *slot;        /* pinned */
    bool              has_tail;    /* the last cluster is to be written as a part of one */
    struct iovec      tail;
    uint64_t          key;         /* of the refcounts that are needed */
    struct io         io[WRITES];
};

enum compressed_write_state {
    CW_START = OP_START,
    CW_DEFLATED,
    CW_TURN,
    CW_LOCKED,
    CW_L2_TABLE,
    CW_L2_LOADED,
    CW_LEASED,
    CW_REFCOUNTS,
    CW_WRITTEN,
    CW_TAIL_WRITTEN,
    CW_RECLAIMED,
    CW_ROOM,
    CW_MARKED
};

static uint64_t request_stop(const struct compressed_write *w)
{
    return w->request->guest_offset + w->request->len;
}

static uint64_t guest_of(const struct compressed_write *w, unsigned i)
{
    return w->start + ((uint64_t)i << w->map->meta->geo.cluster_bits);
}

/* ---- the line: invariant 2 ------------------------------------------------------------------------------ */

static void join_line(struct compressed_write *w)
{
    pthread_mutex_lock(&w->map->meta->lock);
    assert(!w->in_line);
    list_add_tail(&w->map->compressing, &w->line);
    w->in_line = true;
    pthread_mutex_unlock(&w->map->meta->lock);
}

/* The one that the queue has let in first. */
static struct compressed_write *first_in_line(struct q2_map *map, const vdisk_queue *queue)
{
    assert_locked(&map->meta->lock);
    for (struct list *n = map->compressing.next; n != &map->compressing; n = n->next) {
        struct compressed_write *w = container_of(n, struct compressed_write, line);
        if (w->op.queue == queue)
            return w;
    }
    return NULL;
}

static void leave_line(struct compressed_write *w)
{
    struct compressed_write *next;

    if (!w->in_line)
        return;
    pthread_mutex_lock(&w->map->meta->lock);
    list_del(&w->line);
    w->in_line = w->has_turn = false;
    next = first_in_line(w->map, w->op.queue);
    if (next && next->waits) {
        next->waits = false;
        next->has_turn = true;
        op_wake(&next->op, 0);
    }
    pthread_mutex_unlock(&w->map->meta->lock);
}

/* The call of an await. */
static void wait_turn(struct compressed_write *w, struct op *op)
{
    pthread_mutex_lock(&w->map->meta->lock);
    assert(w->in_line);
    w->has_turn = first_in_line(w->map, op->queue) == w;
    w->waits = !w->has_turn;
    if (w->has_turn)
        op_wake(op, 0);
    pthread_mutex_unlock(&w->map->meta->lock);
}

/* ---- compressing ---------------------------------------------------------------------------------------- */

static int deflater_get(struct q2_map *map, struct q2_deflater **ret)
{
    *ret = NULL;
    pthread_mutex_lock(&map->meta->lock);
    if (map->deflaters_count > 0)
        *ret = map->deflaters[--map->deflaters_count];
    pthread_mutex_unlock(&map->meta->lock);
    return *ret ? 0 : q2_deflater_create(map->meta->compression, ret);
}

static void deflater_put(struct q2_map *map, struct q2_deflater *d)
{
    pthread_mutex_lock(&map->meta->lock);
    if (map->deflaters_count < Q2_DEFLATERS) {
        map->deflaters[map->deflaters_count++] = d;
        d = NULL;
    }
    pthread_mutex_unlock(&map->meta->lock);
    q2_deflater_destroy(d);
}

/* A cluster's content in one piece; behind the volume's end it is zeros. */
static const uint8_t *cluster_data(const struct compressed_write *w, unsigned i)
{
    const struct request *r = w->request;
    uint64_t size = w->map->meta->geo.cluster_size, guest = guest_of(w, i), covered;
    uint64_t len = min_u64(size, w->end - guest);
    struct iovec piece;

    if (len == size && iov_slice(r->iov, r->iovcnt, guest - r->guest_offset, size, &piece, 1, &covered) == 1 &&
        covered == size)
        return piece.iov_base;
    iov_to(r->iov, r->iovcnt, guest - r->guest_offset, w->gather, len);
    memset(w->gather + len, 0, size - len);
    return w->gather;
}

/* Any thread: only the op's own, or the worker that it waits for, touches them. */
static int deflate_round(struct compressed_write *w)
{
    size_t size = w->map->meta->geo.cluster_size, len = 0;
    uint32_t at = 0;
    struct q2_deflater *d;
    int rc = deflater_get(w->map, &d);

    if (rc < 0)
        return rc;
    for (unsigned i = 0; i < w->count && rc == 0; i++) {
        const uint8_t *in = cluster_data(w, i);
        rc = q2_deflate(d, in, size, w->out + at, &len);
        if (len == 0)
            memcpy(w->out + at, in, size);
        w->packed[i] = (struct packed){.at = at, .len = (uint32_t)(len ? len : size), .plain = len == 0};
        at += w->packed[i].len;
    }
    deflater_put(w->map, d);
    return rc;
}

static int64_t deflate_work(struct io *io)
{
    return deflate_round(container_of(io, struct compressed_write, io[0]));
}

/* The call of an await. */
static void deflate_elsewhere(struct compressed_write *w, struct op *op)
{
    op_io_begin(op);
    op_io_prepare(op, &w->io[0]);
    io_range(&w->io[0], w->map->meta->layer->file, IO_FLUSH, 0, 0);
    ring_compute(&w->io[0], deflate_work);
    op_io_wait(op);
}

/* The next round, and memory for it: the first is the longest. */
static int begin_round(struct compressed_write *w)
{
    const struct q2_geometry *g = &w->map->meta->geo;
    void *p;

    w->end = min_u64(request_stop(w), w->start + max_u64(ROUND_BYTES, g->cluster_size));
    w->count = (unsigned)q2_clusters(g, w->end - w->start);
    w->first = w->placed = w->written = 0;
    if (w->out)
        return 0;
    if (mem_memalign(&p, BLOCK, align_up((uint64_t)w->count << g->cluster_bits, BLOCK) + BLOCK) != 0)
        return -ENOMEM;
    w->out = p;
    w->packed = mem_alloc(w->count * sizeof *w->packed);
    w->gather = mem_alloc(g->cluster_size);
    return w->packed && w->gather ? 0 : -ENOMEM;
}

/* ---- host space ----------------------------------------------------------------------------------------- */

enum found { FOUND, NEEDS_SLICE, NEEDS_LEASE, NEEDS_REFCOUNTS, TOO_MANY_FREED, REFUSED };

static struct q2_mapping mapping_at(const struct compressed_write *w, uint64_t guest)
{
    struct q2_l2_entry e = q2_slice_get(w->map->meta, w->slot, guest);

    return q2_entry_decode(&w->map->meta->geo, e.word, e.bitmap);
}

/* May the entries of the slice be changed? And do they lead to something that would be freed? */
static int check_entries(const struct compressed_write *w, bool *ret_frees)
{
    bool suspect = q2_slice_is_suspect(w->slot);
    int rc = 0;

    assert_locked(&w->map->meta->lock);
    *ret_frees = false;
    for (unsigned i = w->first; i < w->stop && rc == 0; i++) {
        struct q2_mapping m = mapping_at(w, guest_of(w, i));
        *ret_frees |= m.type == Q2_CLUSTER_COMPRESSED || m.has_host;
        if (unlikely(suspect))
            rc = q2_guard_entry(w->map->meta, guest_of(w, i), w->slot->host_offset,
                                q2_slice_get(w->map->meta, w->slot, guest_of(w, i)));
    }
    return rc;
}

/* What a descriptor can say. */
static bool is_within_reach(const struct q2_geometry *g, const struct packed *p)
{
    return p->host_offset + p->len - 1 <= g->compressed_offset_mask;
}

static enum found place_one(struct compressed_write *w, struct packed *p)
{
    struct q2_space *space = w->map->space;
    struct q2_run run;

    assert_locked(&w->map->meta->lock);
    if (p->plain) {
        if (!q2_lease_take(space, w->op.queue, 1, &run))
            return NEEDS_LEASE;
        p->host_offset = run.host_offset;
        return FOUND;
    }
    switch (q2_bytes_take(space, w->op.queue, p->len, &p->host_offset, &w->key)) {
    case Q2_BYTES_NEED_LEASE: return NEEDS_LEASE;
    case Q2_BYTES_NEED_REFCOUNTS: return NEEDS_REFCOUNTS;
    case Q2_BYTES_REFUSED: w->refusal = -EIO; return REFUSED;
    case Q2_BYTES_TAKEN: break;
    }
    if (is_within_reach(&w->map->meta->geo, p))
        return FOUND;
    q2_bytes_return(space, p->host_offset, p->len);
    w->refusal = -EFBIG;
    return REFUSED;
}

/*
 * All is placed: the next write does not begin in the block where this one ends. Else it would have to wait for
 * this one, and read the block (invariant 3): one write after the other would be all that is in flight.
 */
static void end_with_block(struct compressed_write *w)
{
    const struct packed *last = &w->packed[w->stop - 1];
    uint64_t end = last->host_offset + last->len, len = last->at + last->len - w->packed[w->first].at;

    assert_locked(&w->map->meta->lock);
    assert(w->placed == w->stop);
    w->padding = 0;
    if (w->stop < w->count || last->plain || w->map->meta->geo.cluster_size < BLOCK)
        return; /* what lies behind it in `out` is wanted, or a block may be more than is ours */
    if ((align_up(end, BLOCK) - end) * WORTH > len)
        return;
    w->padding = q2_bytes_round_up(w->map->space, w->op.queue, end, BLOCK);
    memset(w->out + last->at + last->len, 0, w->padding);
}

/* As far as what is at hand goes; FOUND: all of the slice's part is placed, and its slice pinned. */
static enum found place(struct compressed_write *w)
{
    struct q2_map *map = w->map;
    enum found result = FOUND;
    bool frees;

    pthread_mutex_lock(&map->meta->lock);
    w->slot = q2_slice_find(map->meta, guest_of(w, w->first));
    if (!w->slot) {
        pthread_mutex_unlock(&map->meta->lock);
        return NEEDS_SLICE;
    }
    w->refusal = check_entries(w, &frees);
    if (w->refusal < 0)
        result = REFUSED;
    else if (frees && w->placed == w->first && !w->keeps_freed && q2_room_is_wanted(map->space))
        result = TOO_MANY_FREED;
    while (result == FOUND && w->placed < w->stop) {
        result = place_one(w, &w->packed[w->placed]);
        w->placed += result == FOUND;
    }
    if (result == FOUND) {
        end_with_block(w);
        map->placed_end = guest_of(w, w->stop);
        q2_slot_pin(w->slot);
    } else {
        w->slot = NULL;
    }
    if (result == NEEDS_LEASE)
        q2_lease_keep_short(map->space, w->op.queue);
    pthread_mutex_unlock(&map->meta->lock);
    return result;
}

/* ---- the write ------------------------------------------------------------------------------------------ */

/* What lies together goes together; the call of an await. */
static void write_some(struct compressed_write *w, struct op *op)
{
    op_io_begin(op);
    for (unsigned n = 0; n < WRITES && w->written < w->stop; n++) {
        const struct packed *from = &w->packed[w->written];
        uint64_t len = 0;
        while (w->written < w->stop && w->packed[w->written].host_offset == from->host_offset + len)
            len += w->packed[w->written++].len;
        if (w->written == w->stop)
            len += w->padding;
        io_rw(&w->io[n], w->map->meta->layer->data, IO_WRITE, from->host_offset, w->out + from->at, len);
        op_io_add(op, &w->io[n]);
    }
    op_io_wait(op);
}

static struct q2_l2_entry entry_of(const struct q2_geometry *g, const struct packed *p)
{
    if (p->plain)
        return (struct q2_l2_entry){q2_entry_encode(g, Q2_CLUSTER_NORMAL, p->host_offset, true),
                                    g->extended_l2 ? q2_bitmap(UINT32_MAX, 0) : 0};
    return (struct q2_l2_entry){q2_entry_encode_compressed(g, p->host_offset, p->len), 0};
}

static void unlock_clusters(struct compressed_write *w)
{
    if (w->lock.held)
        range_unlock(q2_zone(w->map, w->lock.start), &w->lock);
}

/* The host space of the last one that has some. */
static void give_back_one(struct compressed_write *w)
{
    const struct packed *p = &w->packed[--w->placed];

    assert_locked(&w->map->meta->lock);
    if (p->plain)
        q2_drop_run(w->map->space, p->host_offset, 1, true);
    else
        q2_bytes_return(w->map->space, p->host_offset, p->len);
}

/* The slice's part ends within a cluster, and the volume has grown over that. */
static bool goes_on_behind(const struct compressed_write *w)
{
    return guest_of(w, w->stop) > w->end &&
           atomic_load_explicit(&w->map->meta->layer->reach, memory_order_acquire) > w->end;
}

/* Invariants 1 and 4. */
static void link_clusters(struct compressed_write *w)
{
    struct q2_map *map = w->map;

    pthread_mutex_lock(&map->meta->lock);
    w->has_tail = goes_on_behind(w) && !MUTANT(COMPRESS_BEHIND_END);
    if (w->has_tail)
        give_back_one(w);
    q2_change_begin(&map->meta->l2, w->slot);
    for (unsigned i = w->first; i < w->placed; i++) {
        struct q2_mapping old = mapping_at(w, guest_of(w, i));
        q2_drop(map->space, &old);
        q2_slice_put(map->meta, w->slot, guest_of(w, i), entry_of(&map->meta->geo, &w->packed[i]));
    }
    q2_change_end(&map->meta->l2, w->slot);
    map->meta->mapping_needs_data = true; /* flush rule 2 */
    q2_slot_unpin(&map->meta->l2, w->slot);
    w->slot = NULL;
    pthread_mutex_unlock(&map->meta->lock);
    w->first = w->placed;
    unlock_clusters(w);
}

/* Nothing is held any more, no turn either. */
static void drop_all(struct compressed_write *w)
{
    pthread_mutex_lock(&w->map->meta->lock);
    while (w->placed > w->first)
        give_back_one(w);
    w->written = w->first;
    if (w->slot)
        q2_slot_unpin(&w->map->meta->l2, w->slot);
    w->slot = NULL;
    pthread_mutex_unlock(&w->map->meta->lock);
    unlock_clusters(w);
    leave_line(w);
}

/* The volume has grown: what is left is a part of a cluster. It locks that itself; the call of an await. */
static void write_tail(struct compressed_write *w, struct op *op)
{
    const struct request *r = w->request;
    uint64_t guest = guest_of(w, w->first);

    assert(!w->lock.held && w->placed == w->first && w->first + 1 == w->count && w->end == request_stop(w));
    w->tail = (struct iovec){w->gather, w->end - guest};
    iov_to(r->iov, r->iovcnt, guest - r->guest_offset, w->gather, w->tail.iov_len);
    q2_alloc_write(w->map, w->request, guest, &w->tail, 1, w->tail.iov_len, op);
}

/* It is written. */
static void pass_tail(struct compressed_write *w)
{
    w->first = w->placed = w->written = w->stop = w->count;
}

/* Stand in line for the clusters from `first` on, as far as their slice goes. */
static bool lock_clusters(struct compressed_write *w)
{
    const struct q2_geometry *g = &w->map->meta->geo;
    uint64_t guest = guest_of(w, w->first), zone_end = min_u64(w->end, q2_slice_end(w->map->meta, guest));

    assert(!w->lock.held && w->placed == w->first && w->written == w->first);
    w->stop = w->first + (unsigned)q2_clusters(g, zone_end - guest);
    return range_lock_try(q2_zone(w->map, guest), &w->lock, guest, q2_cluster_up(g, zone_end));
}

static bool is_last_part(const struct compressed_write *w)
{
    return w->end == request_stop(w) && w->stop == w->count;
}

/* The call of an await. */
static void make_room(struct compressed_write *w, struct op *op)
{
    drop_all(w);
    q2_room_make(w->map->space, w->request, op);
}

static bool may_make_room(const struct compressed_write *w)
{
    return w->op.rc == -ENOSPC && !w->made_room && q2_room_is_possible(w->map->space);
}

/* The call of an await: the image contradicts itself. */
static void mark(struct compressed_write *w, struct op *op)
{
    drop_all(w);
    q2_guard_mark(w->map->meta, op);
}

static void compressed_write_finish(struct compressed_write *w, int rc)
{
    drop_all(w);
    mem_free(w->packed);
    mem_free(w->out);
    mem_free(w->gather);
    op_end(&w->op, sizeof *w, rc);
}

static void compressed_write_step(struct op *op)
{
    struct compressed_write *w = container_of(op, struct compressed_write, op);
    enum found found;

    OP_BEGIN(enum compressed_write_state, op)
    if (op->rc < 0)
        goto fail; /* cancelled */
    for (; w->start < request_stop(w); w->start = w->end) {
        op->rc = begin_round(w);
        if (op->rc < 0)
            goto fail;
        OP_AWAIT(op, CW_DEFLATED, deflate_elsewhere(w, op));
        if (op->rc == -ENOMEM)
            op->rc = deflate_round(w); /* here: there may have been no thread */
        if (op->rc < 0)
            goto fail;
again:
        while (w->first < w->count) {
            if (!w->in_line)
                join_line(w);
            if (!w->has_turn)
                OP_AWAIT(op, CW_TURN, wait_turn(w, op));
            if (!w->lock.held && !lock_clusters(w))
                OP_TRY(op, CW_LOCKED, range_lock_wait(q2_zone(w->map, guest_of(w, w->first)), &w->lock, op));
            range_lock_got(&w->lock);
            if (!q2_l2_table_ready(w->map, guest_of(w, w->first)))
                OP_TRY(op, CW_L2_TABLE, q2_l2_table_make(w->map, guest_of(w, w->first), op));
            found = place(w);
            if (found == NEEDS_SLICE) {
                OP_TRY(op, CW_L2_LOADED, q2_load(w->map->meta->layer, guest_of(w, w->first), op));
                continue;
            }
            if (found == NEEDS_LEASE) {
                OP_TRY(op, CW_LEASED, q2_lease_fill(w->map->space, op));
                continue;
            }
            if (found == NEEDS_REFCOUNTS) {
                OP_TRY(op, CW_REFCOUNTS, q2_refcount_load(w->map->space, w->key, op));
                continue;
            }
            if (found == TOO_MANY_FREED) {
                OP_AWAIT(op, CW_RECLAIMED, make_room(w, op));
                w->keeps_freed = op->rc < 0; /* what was freed could not be given back: without that */
                continue;
            }
            op->rc = found == REFUSED ? w->refusal : 0;
            if (op->rc < 0)
                goto fail;
            if (is_last_part(w))
                leave_line(w);
            if (MUTANT(LINK_UNWRITTEN))
                link_clusters(w);
            while (w->written < w->stop)
                OP_TRY(op, CW_WRITTEN, write_some(w, op));
            if (!MUTANT(LINK_UNWRITTEN))
                link_clusters(w);
            if (w->has_tail) {
                w->written = w->first;
                OP_TRY(op, CW_TAIL_WRITTEN, write_tail(w, op));
                pass_tail(w);
            }
        }
    }
    compressed_write_finish(w, 0);
    return;
fail:
    if (may_make_room(w)) {
        w->made_room = true;
        OP_AWAIT(op, CW_ROOM, make_room(w, op));
        if (op->rc == 0)
            goto again;
        op->rc = -ENOSPC; /* as it was */
    }
    if (op->rc != -ECANCELED && q2_guard_must_mark(w->map->meta))
        OP_AWAIT(op, CW_MARKED, mark(w, op));
    compressed_write_finish(w, op->rc);
    return;
    OP_END
}

OP_TYPE(compressed_write, compressed_write_step, "START", "CW_DEFLATED", "CW_TURN", "CW_LOCKED", "CW_L2_TABLE",
        "CW_L2_LOADED", "CW_LEASED", "CW_REFCOUNTS", "CW_WRITTEN", "CW_TAIL_WRITTEN", "CW_RECLAIMED", "CW_ROOM",
        "CW_MARKED");

/* Whole ones, or up to the end. What begins anew has been looked at: the volume may have become longer since. */
static bool is_of_clusters(const struct q2_map *map, const struct request *r)
{
    const struct q2_geometry *g = &map->meta->geo;

    if (r->flags & REQUEST_TRIED)
        return true;
    return q2_offset_in_cluster(g, r->guest_offset) == 0 &&
           (q2_offset_in_cluster(g, r->len) == 0 || r->guest_offset + r->len == layer_size(map->meta->layer));
}

void q2_compressed_write_start(struct q2_map *map, struct request *r)
{
    struct compressed_write *w;

    assert(r->kind == REQ_WRITE && r->len > 0 && !map->meta->data_file);
    if (!is_of_clusters(map, r)) {
        request_end_later(r, -EINVAL);
        return;
    }
    w = op_alloc(r->queue, &compressed_write_type, sizeof *w);
    if (!w) {
        request_end_later(r, -ENOMEM);
        return;
    }
    w->map = map;
    w->request = r;
    w->start = r->guest_offset;
    op_serve(&w->op, r);
    join_line(w);
    op_start_later(&w->op);
}
