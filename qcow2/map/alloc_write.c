/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Writes that are not simply in place.
 *
 * Happy path: slice by slice, lock the guest clusters; then, span by span: have an L2 table of our own and its
 * slice in the cache, look again; a span that is mapped after all is written in place; otherwise take host
 * clusters, read the edges that the write leaves of the first and the last one, write edges and data as one, enter
 * the clusters in the L2 slice, give the old ones back.
 * What replaces clusters of a snapshot, or compressed ones, has those that were replaced before given back when
 * there are many, so that they take bounded memory without any flush.
 * With `prealloc` no data is written: spans without host clusters get some that read as zeros, others stay.
 * Failure modes: an entry must not be followed, or a free cluster is none (guard.h): the write fails, the image is
 * marked corrupt. No space, while something waits to be freed: let go of all, make room, once, and try again. No
 * space, no memory, a failed read or write: clusters taken for the span are given back, the mapping is as it was,
 * spans before it stay written. When several requests were written as one, those within such spans have succeeded,
 * and the others are started again, each on its own: none fails because of its neighbour.
 *
 * Invariants.
 *  1. The L2 entry changes after the data write has ended (flush rule 7), under the lock of its guest cluster.
 *  2. What was looked up before an await is looked up again after it, but for what the guest range lock protects:
 *     the entries of the span.
 *  3. A cluster in place is never half new: edges are written with the data, or are known to be zero on a cluster
 *     that is.
 */
#include "qcow2/map/alloc_write.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/bits.h"
#include "engine/base/iov.h"
#include "engine/base/mem.h"
#include "engine/loop/zero.h"
#include "qcow2/map/l2_table.h"
#include "qcow2/map/lookup.h"
#include "qcow2/meta/meta.h"
#include "qcow2/mutant.h"
#include "qcow2/space/space.h"

enum { WRITE_IOV_INLINE = 8 };

enum span_kind {
    SPAN_IN_PLACE, /* mapped and ours */
    SPAN_REUSE,    /* one cluster with host space of its own, of which the part written is not in use */
    SPAN_NEW,      /* clusters that need host space */
};

struct alloc_write {
    struct op           op;
    struct request     *caller;  /* whose write it is: in the volume's gate; NULL: nobody's */
    bool                made_room;
    bool                keeps_freed; /* what was freed could not be given back: without that */
    struct q2_map      *map;
    const struct iovec *iov;
    struct iovec       *merged_iov; /* of several requests; ours */
    uint32_t            iovcnt;
    uint64_t            guest_offset, len, pos; /* pos: done so far */
    enum vdisk_prealloc prealloc; /* other than OFF: clusters only, no data */
    struct range_lock   lock;    /* clusters up to zone_end */
    uint64_t            zone_end;
    /* The span at work: guest bytes [start, stop) in clusters from guest_cluster on. */
    enum span_kind      kind;
    int                 refusal;         /* why its entry must not be followed */
    uint64_t            start, stop, guest_cluster, clusters;
    uint64_t            host_offset; /* of guest_cluster */
    bool                host_zero;   /* new clusters that read as zeros */
    struct q2_run       run;
    struct q2_slot     *slot;        /* pinned */
    uint64_t            head, tail;  /* bytes of the edges that are written along */
    char               *edges;       /* head, then tail */
    struct iovec        head_iov, tail_iov;
    struct op_child     head_child, tail_child;
    struct iovec       *span_iov, span_iov_inline[WRITE_IOV_INLINE];
    struct io           io;
};

enum alloc_write_state {
    AW_START = OP_START,
    AW_LOCKED,
    AW_L2_TABLE,
    AW_L2_LOADED,
    AW_LEASED,
    AW_COW_READ,
    AW_WRITTEN,
    AW_PREALLOCATED,
    AW_ROOM,
    AW_RECLAIMED,
    AW_MARKED
};

/* ---- what the span is ---------------------------------------------------------------------------------- */

static struct q2_mapping mapping_at(const struct alloc_write *w, uint64_t guest_offset)
{
    struct q2_l2_entry e = q2_slice_get(w->map->meta, w->slot, guest_offset);

    return q2_entry_decode(&w->map->meta->geo, e.word, e.bitmap);
}

/* The slice is pinned: may the entry, and what it leads to, be changed? 0 or why not. */
static int check_entry(const struct alloc_write *w, uint64_t guest_offset)
{
    assert_locked(&w->map->meta->lock);
    if (likely(!q2_slice_is_suspect(w->slot)))
        return 0;
    return q2_guard_entry(w->map->meta, guest_offset, w->slot->host_offset,
                          q2_slice_get(w->map->meta, w->slot, guest_offset));
}

static enum span_kind kind_at(const struct alloc_write *w, uint64_t guest_offset, uint64_t end)
{
    const struct q2_geometry *g = &w->map->meta->geo;
    struct q2_mapping m = mapping_at(w, guest_offset);
    uint32_t index = q2_subcluster_index(g, guest_offset);
    uint64_t last = min_u64(end - 1, q2_cluster_down(g, guest_offset) + g->cluster_size - 1);

    assert_locked(&w->map->meta->lock);
    if (m.type == Q2_CLUSTER_COMPRESSED || !m.has_host || !m.copied ||
        q2_twice_has(w->map->meta, m.host_offset >> g->cluster_bits))
        return SPAN_NEW;
    for (; index <= q2_subcluster_index(g, last); index++)
        if (q2_subcluster_type(g, &m, index) != Q2_CLUSTER_NORMAL)
            return SPAN_REUSE;
    return SPAN_IN_PLACE;
}

/* Must the edges of this cluster reach its ends? When its data moves as a whole. */
static bool moves_whole(const struct alloc_write *w, uint64_t guest_offset)
{
    struct q2_mapping m = mapping_at(w, guest_offset);

    return m.type == Q2_CLUSTER_COMPRESSED || m.has_host;
}

/* The slice is pinned: the span at pos. 0 or what is wrong with its first entry. */
static int plan_span(struct alloc_write *w)
{
    const struct q2_geometry *g = &w->map->meta->geo;
    bool suspect = q2_slice_is_suspect(w->slot);
    uint64_t end = w->zone_end;
    int rc = check_entry(w, w->start);

    assert_locked(&w->map->meta->lock);
    if (rc < 0)
        return rc;
    w->guest_cluster = q2_cluster_down(g, w->start);
    w->kind = kind_at(w, w->start, end);
    w->host_offset = mapping_at(w, w->start).host_offset;
    w->host_zero = false;
    w->clusters = 1;
    if (w->kind == SPAN_NEW)
        while (w->guest_cluster + (w->clusters << g->cluster_bits) < end) {
            uint64_t next = w->guest_cluster + (w->clusters << g->cluster_bits);
            if (suspect || kind_at(w, next, end) != SPAN_NEW)
                break; /* one by one where each has to be looked at */
            w->clusters++;
        }
    w->stop = min_u64(end, w->guest_cluster + (w->clusters << g->cluster_bits));
    w->run.clusters = 0;
    return 0;
}

/* The allocation gave fewer clusters than wanted, or exactly those. */
static void fit_to_run(struct alloc_write *w)
{
    const struct q2_geometry *g = &w->map->meta->geo;

    assert(w->run.clusters > 0 && w->run.clusters <= w->clusters);
    assert(is_aligned(w->run.host_offset, g->cluster_size));
    w->clusters = w->run.clusters;
    w->host_offset = w->run.host_offset;
    w->host_zero = w->run.zero;
    w->stop = min_u64(w->stop, w->guest_cluster + (w->clusters << g->cluster_bits));
}

/* ---- edges ----------------------------------------------------------------------------------------------- */

/* What of the first and last (sub)cluster has to be written besides the data. */
static void plan_edges(struct alloc_write *w)
{
    const struct q2_geometry *g = &w->map->meta->geo;
    bool is_new = w->kind == SPAN_NEW;
    uint64_t head_unit = is_new && moves_whole(w, w->start) ? g->cluster_size : g->subcluster_size;
    uint64_t tail_unit = is_new && moves_whole(w, w->stop - 1) ? g->cluster_size : g->subcluster_size;

    assert_locked(&w->map->meta->lock);
    assert(w->start < w->stop && w->stop <= w->zone_end && w->guest_cluster <= w->start);
    w->head = w->start - align_down(w->start, head_unit);
    w->tail = align_up(w->stop, tail_unit) - w->stop;
    if (w->kind == SPAN_REUSE) {
        struct q2_mapping m = mapping_at(w, w->start);
        if (q2_subcluster_type(g, &m, q2_subcluster_index(g, w->start)) == Q2_CLUSTER_NORMAL)
            w->head = 0;
        if (q2_subcluster_type(g, &m, q2_subcluster_index(g, w->stop - 1)) == Q2_CLUSTER_NORMAL)
            w->tail = 0;
    }
    if (MUTANT(DROP_HEAD))
        w->head = 0;
    if (MUTANT(DROP_TAIL))
        w->tail = 0;
}

/* The edges' content as far as it is known without reading; no lock held. */
static bool edge_is_zero(struct alloc_write *w, uint64_t guest_offset, uint64_t len)
{
    uint64_t size = layer_size(w->map->meta->layer);

    assert_unlocked(&w->map->meta->lock);
    /* Past the volume's end, inside its last cluster, there is nothing. */
    if (guest_offset >= size)
        return true;
    return chain_known_zero(w->map->meta->layer, guest_offset, min_u64(len, size - guest_offset));
}

/* No lock held. Drop edges that are zero on zero clusters, get memory for the others. */
static int prepare_edges(struct alloc_write *w)
{
    void *p = NULL;

    assert(!w->edges && w->head < w->map->meta->geo.cluster_size && w->tail < w->map->meta->geo.cluster_size);
    if (w->host_zero && w->head > 0 && edge_is_zero(w, w->start - w->head, w->head))
        w->head = 0;
    if (w->host_zero && w->tail > 0 && edge_is_zero(w, w->stop, w->tail))
        w->tail = 0;
    if (w->head + w->tail == 0)
        return 0;
    if (mem_memalign(&p, 4096, align_up(w->head + w->tail, 4096)) != 0)
        return -ENOMEM;
    w->edges = p;
    w->head_iov = (struct iovec){w->edges, w->head};
    w->tail_iov = (struct iovec){w->edges + w->head, w->tail};
    return 0;
}

/* Read one edge as the guest sees it now, or fill it with zeros. */
static void read_edge(struct alloc_write *w, struct op *op, struct op_child *child, uint64_t guest_offset,
                      struct iovec *iov)
{
    uint64_t size = layer_size(w->map->meta->layer), len = iov->iov_len;
    uint64_t inside = guest_offset >= size ? 0 : min_u64(len, size - guest_offset);

    if (len == 0)
        return;
    memset((char *)iov->iov_base + inside, 0, len - inside);
    if (inside == 0)
        return;
    if (edge_is_zero(w, guest_offset, inside)) {
        memset(iov->iov_base, 0, inside);
        return;
    }
    iov->iov_len = inside;
    chain_read(w->map->meta->layer, guest_offset, iov, 1, inside, op_child_add(op, child));
}

/* Both at once; the call of an await. */
static void read_edges(struct alloc_write *w, struct op *op)
{
    op_io_begin(op);
    read_edge(w, op, &w->head_child, w->start - w->head, &w->head_iov);
    read_edge(w, op, &w->tail_child, w->stop, &w->tail_iov);
    op_io_wait(op);
}

/* ---- the write ------------------------------------------------------------------------------------------- */

static uint64_t host_len(const struct alloc_write *w)
{
    return w->clusters << w->map->meta->geo.cluster_bits;
}

/* New clusters that are to read as zeros; the call of an await. */
static void prealloc_span(struct alloc_write *w, struct op *op)
{
    uint64_t len = host_len(w),
             last = min_u64(w->map->meta->geo.cluster_size, max_u64(4096, w->map->meta->layer->data->align));

    if (w->prealloc == VDISK_PREALLOC_FALLOC && w->host_zero) {
        io_range(&w->io, w->map->meta->layer->data, IO_ALLOCATE, w->host_offset, len);
        op_io(op, &w->io);
    } else if (w->host_zero) {
        /* For the end of the file. */
        zero_range(w->map->meta->layer->data, w->host_offset + len - last, last, 0, op);
    } else {
        zero_range(w->map->meta->layer->data, w->host_offset, len,
                   w->prealloc == VDISK_PREALLOC_METADATA ? IO_UNMAP : 0, op);
    }
}

static bool prealloc_needs_io(const struct alloc_write *w)
{
    bool inside = w->host_offset + host_len(w) <= backend_size(w->map->meta->layer->data);

    return w->kind == SPAN_NEW && (w->prealloc == VDISK_PREALLOC_FALLOC || !w->host_zero || !inside);
}

/* The iovec of edges and data. */
static int prepare_write(struct alloc_write *w)
{
    uint32_t max = w->iovcnt + 2, n = 0;
    uint64_t covered = 0, len = w->stop - w->start;

    w->span_iov = max <= WRITE_IOV_INLINE ? w->span_iov_inline : mem_alloc(max * sizeof *w->span_iov);
    if (!w->span_iov)
        return -ENOMEM;
    if (w->head > 0)
        w->span_iov[n++] = (struct iovec){w->edges, w->head};
    n += iov_slice(w->iov, w->iovcnt, w->start - w->guest_offset, len, w->span_iov + n, w->iovcnt, &covered);
    if (!q2_invariant(w->map->meta, covered == len, "the buffers of a write are shorter than it"))
        return -EIO;
    if (w->tail > 0)
        w->span_iov[n++] = (struct iovec){w->edges + w->head, w->tail};
    io_rwv(&w->io, w->map->meta->layer->data, IO_WRITE, w->host_offset + (w->start - w->guest_cluster) - w->head,
           w->span_iov, n, w->head + len + w->tail);
    return 0;
}

static void release_span(struct alloc_write *w)
{
    mem_free(w->edges);
    w->edges = NULL;
    if (w->span_iov != w->span_iov_inline)
        mem_free(w->span_iov);
    w->span_iov = NULL;
    w->head = w->tail = 0;
}

/* The subclusters of cluster `guest_cluster` that the span, with its edges, has written. */
static uint64_t new_bitmap(const struct alloc_write *w, uint64_t guest_cluster, const struct q2_mapping *old)
{
    const struct q2_geometry *g = &w->map->meta->geo;
    uint64_t from = max_u64(guest_cluster, w->start);
    uint64_t to = min_u64(guest_cluster + g->cluster_size, w->stop);
    bool moved = w->kind == SPAN_NEW && (old->type == Q2_CLUSTER_COMPRESSED || old->has_host);
    uint32_t first = q2_subcluster_index(g, from);

    if (!g->extended_l2)
        return 0;
    if (moved)
        return q2_bitmap(UINT32_MAX, 0);
    return q2_bitmap_set_alloc(old->bitmap, q2_subcluster_mask(first, q2_subcluster_index(g, to - 1) - first + 1));
}

/*
 * Flush rule 2: must the data be durable before the entries? Not where both the guest range and the host clusters
 * read as zeros without it; edges that are left read as something else.
 */
static bool data_first(const struct alloc_write *w)
{
    if (w->kind != SPAN_NEW || !w->host_zero || w->head + w->tail > 0)
        return true;
    return !chain_known_zero(w->map->meta->layer, w->start, w->stop - w->start);
}

/* Invariant 1. */
static void link_span(struct alloc_write *w)
{
    struct q2_map *map = w->map;
    const struct q2_geometry *g = &map->meta->geo;

    assert_locked(&w->map->meta->lock);
    q2_change_begin(&map->meta->l2, w->slot);
    for (uint64_t i = 0; i < w->clusters; i++) {
        uint64_t guest = w->guest_cluster + (i << g->cluster_bits);
        uint64_t host = w->host_offset + (i << g->cluster_bits);
        struct q2_mapping old = mapping_at(w, guest);
        struct q2_l2_entry e = {q2_entry_encode(g, Q2_CLUSTER_NORMAL, host, true), new_bitmap(w, guest, &old)};
        if (w->kind == SPAN_NEW)
            q2_drop(map->space, &old);
        q2_slice_put(map->meta, w->slot, guest, e);
    }
    q2_change_end(&map->meta->l2, w->slot);
    w->run.clusters = 0;
}

static void unpin(struct alloc_write *w)
{
    assert_locked(&w->map->meta->lock);
    if (w->slot)
        q2_slot_unpin(&w->map->meta->l2, w->slot);
    w->slot = NULL;
}

/* Only for the crash tests: invariant 1 broken. */
static void link_early(struct alloc_write *w)
{
    pthread_mutex_lock(&w->map->meta->lock);
    if (w->kind != SPAN_IN_PLACE)
        link_span(w);
    pthread_mutex_unlock(&w->map->meta->lock);
    w->kind = SPAN_IN_PLACE;
}

static void unlock_clusters(struct alloc_write *w)
{
    range_unlock(q2_zone(w->map, w->lock.start), &w->lock);
}

static void end_span(struct alloc_write *w)
{
    bool needs_data = w->kind != SPAN_IN_PLACE && data_first(w);

    pthread_mutex_lock(&w->map->meta->lock);
    if (w->kind != SPAN_IN_PLACE)
        link_span(w);
    w->map->meta->mapping_needs_data |= needs_data;
    unpin(w);
    pthread_mutex_unlock(&w->map->meta->lock);
    release_span(w);
    w->pos = w->stop - w->guest_offset;
    if (w->lock.held && w->stop == w->zone_end)
        unlock_clusters(w);
}

/* It cannot be written now: nothing is held any more. */
static void drop_span(struct alloc_write *w)
{
    pthread_mutex_lock(&w->map->meta->lock);
    q2_return_run(w->map->space, &w->run);
    w->run.clusters = 0;
    unpin(w);
    pthread_mutex_unlock(&w->map->meta->lock);
    release_span(w);
    if (w->lock.held)
        unlock_clusters(w);
}

/* The call of an await. */
static void make_room(struct alloc_write *w, struct op *op)
{
    w->made_room = true;
    drop_span(w);
    q2_room_make(w->map->space, w->caller, op);
}

/* The span is planned: does it free clusters, and do too many wait for that already? */
static bool too_many_freed(const struct alloc_write *w)
{
    assert_locked(&w->map->meta->lock);
    return w->kind == SPAN_NEW && q2_room_is_wanted(w->map->space) && !w->keeps_freed &&
           !w->map->meta->data_file && moves_whole(w, w->start);
}

/* The call of an await. */
static void give_back_freed(struct alloc_write *w, struct op *op)
{
    drop_span(w);
    q2_room_make(w->map->space, w->caller, op);
}

static bool may_make_room(const struct alloc_write *w)
{
    return w->op.rc == -ENOSPC && !w->made_room && q2_room_is_possible(w->map->space);
}

/* One of several that were written as one failed: each that is not written goes on alone. */
static void start_apart(struct q2_map *map, struct request *r, uint64_t done)
{
    uint64_t end = 0;

    while (r) {
        struct request *next = r->merged;
        end += r->len;
        r->merged = NULL;
        r->flags |= REQUEST_TRIED;
        if (end <= done)
            request_end(r, 0);
        else
            map->meta->layer->format->submit(map->meta->layer, r);
        r = next;
    }
}

/* The call of an await: the image contradicts itself. */
static void mark(struct alloc_write *w, struct op *op)
{
    drop_span(w);
    q2_guard_mark(w->map->meta, op);
}

static void alloc_write_finish(struct alloc_write *w, int rc)
{
    struct request *r = w->op.request;
    struct q2_map *map = w->map;
    uint64_t done = w->pos;

    if (rc < 0)
        drop_span(w);
    assert(!w->slot && !w->edges && !w->span_iov && !w->lock.held);
    mem_free(w->merged_iov);
    if (r && r->merged && rc < 0 && !MUTANT(SHARE_ERRORS)) {
        op_free(&w->op, sizeof *w);
        start_apart(map, r, done);
    } else {
        op_end(&w->op, sizeof *w, rc);
    }
}

enum find_result { FIND_READY, FIND_NEEDS_SLICE, FIND_TOO_MANY_FREED, FIND_NEEDS_LEASE, FIND_REFUSED };

/* Host clusters for a span that needs them. */
static bool find_host(struct alloc_write *w)
{
    assert_locked(&w->map->meta->lock);
    if (w->kind != SPAN_NEW)
        return true;
    if (w->map->meta->data_file) {
        w->host_offset = w->guest_cluster;
        return true;
    }
    if (!q2_lease_take(w->map->space, w->op.queue, w->clusters, &w->run))
        return false;
    fit_to_run(w);
    return true;
}

/* Plan the span at `start`; on FIND_READY its slice is pinned. */
static enum find_result find_span(struct alloc_write *w)
{
    struct q2_map *map = w->map;
    enum find_result result = FIND_NEEDS_SLICE;

    pthread_mutex_lock(&map->meta->lock);
    w->slot = q2_slice_find(map->meta, w->start);
    if (w->slot) {
        w->refusal = plan_span(w);
        result = w->refusal < 0      ? FIND_REFUSED
                 : too_many_freed(w) ? FIND_TOO_MANY_FREED
                 : !find_host(w)     ? FIND_NEEDS_LEASE
                                     : FIND_READY;
        if (result == FIND_READY) {
            q2_slot_pin(w->slot);
            if (w->kind != SPAN_IN_PLACE)
                plan_edges(w);
        } else {
            w->slot = NULL;
        }
    }
    pthread_mutex_unlock(&map->meta->lock);
    return result;
}

/*
 * The last span is in place: its write changes no entry, and goes beside others as on the fast path. Else the
 * writes that waited for one to map their cluster would go one after another.
 */
static bool needs_no_lock(const struct alloc_write *w)
{
    return w->kind == SPAN_IN_PLACE && w->stop == w->zone_end;
}

/* What find_span() has found. 0, or why it is not written. */
static int prepare_span(struct alloc_write *w, enum find_result found)
{
    int rc = found == FIND_REFUSED ? w->refusal : 0;

    if (rc == 0 && w->prealloc != VDISK_PREALLOC_OFF) {
        w->head = w->tail = 0; /* whole clusters */
        if (w->kind == SPAN_REUSE)
            w->kind = SPAN_IN_PLACE; /* has space, and keeps its content */
    } else if (rc == 0) {
        rc = prepare_edges(w);
        if (rc == 0)
            rc = prepare_write(w);
    }
    if (rc == 0 && needs_no_lock(w))
        unlock_clusters(w);
    return rc;
}

/* Stand in line for the clusters from `start` on, as far as its slice goes. */
static bool lock_clusters(struct alloc_write *w)
{
    const struct q2_geometry *g = &w->map->meta->geo;

    assert(!w->lock.held);
    w->zone_end = min_u64(w->guest_offset + w->len, q2_slice_end(w->map->meta, w->start));
    return range_lock_try(q2_zone(w->map, w->start), &w->lock, q2_cluster_down(g, w->start),
                          q2_cluster_up(g, w->zone_end));
}

/* The call of an await. The request may be cancelled meanwhile, if it goes alone and nothing of it is written. */
static void wait_for_clusters(struct alloc_write *w, struct op *op)
{
    const struct request *r = op->request;
    const void *owner = r && !r->merged && w->pos == 0 && !w->made_room ? &r->io : NULL;

    range_lock_wait_for(q2_zone(w->map, w->start), &w->lock, owner, op);
}

/* The image contradicts itself: who fails says so. What has been cancelled ends as such; who saw it has failed. */
static bool must_mark(const struct alloc_write *w)
{
    return w->op.rc != -ECANCELED && q2_guard_must_mark(w->map->meta);
}

static void alloc_write_step(struct op *op)
{
    struct alloc_write *w = container_of(op, struct alloc_write, op);
    enum find_result found;

    OP_BEGIN(enum alloc_write_state, op)
    if (op->rc < 0)
        goto fail; /* cancelled */
again:
    while (w->pos < w->len) {
        w->start = w->guest_offset + w->pos;
        if (!w->lock.held && !lock_clusters(w))
            OP_TRY(op, AW_LOCKED, wait_for_clusters(w, op));
        range_lock_got(&w->lock);
        if (!q2_l2_table_ready(w->map, w->start))
            OP_TRY(op, AW_L2_TABLE, q2_l2_table_make(w->map, w->start, op));
        found = find_span(w);
        if (found == FIND_NEEDS_SLICE) {
            OP_TRY(op, AW_L2_LOADED, q2_load(w->map->meta->layer, w->start, op));
            continue;
        }
        if (found == FIND_TOO_MANY_FREED) {
            OP_AWAIT(op, AW_RECLAIMED, give_back_freed(w, op));
            w->keeps_freed = op->rc < 0;
            continue;
        }
        if (found == FIND_NEEDS_LEASE) {
            OP_TRY(op, AW_LEASED, q2_lease_fill(w->map->space, op));
            continue;
        }
        op->rc = prepare_span(w, found);
        if (op->rc < 0)
            goto fail;
        if (w->head + w->tail > 0)
            OP_TRY(op, AW_COW_READ, read_edges(w, op));
        if (MUTANT(LINK_EARLY))
            link_early(w);
        if (w->prealloc == VDISK_PREALLOC_OFF)
            OP_TRY(op, AW_WRITTEN, op_io(op, &w->io));
        else if (prealloc_needs_io(w))
            OP_TRY(op, AW_PREALLOCATED, prealloc_span(w, op));
        end_span(w);
    }
    alloc_write_finish(w, 0);
    return;
fail:
    if (may_make_room(w)) {
        OP_AWAIT(op, AW_ROOM, make_room(w, op));
        if (op->rc == 0)
            goto again;
        op->rc = -ENOSPC; /* as it was */
    }
    if (must_mark(w))
        OP_AWAIT(op, AW_MARKED, mark(w, op));
    alloc_write_finish(w, op->rc);
    return;
    OP_END
}

OP_TYPE(alloc_write, alloc_write_step, "START", "AW_LOCKED", "AW_L2_TABLE", "AW_L2_LOADED", "AW_LEASED",
        "AW_COW_READ", "AW_WRITTEN", "AW_PREALLOCATED", "AW_ROOM", "AW_RECLAIMED",
        "AW_MARKED");

static struct alloc_write *alloc_write_new(struct q2_map *map, vdisk_queue *queue, uint64_t guest_offset,
                                           const struct iovec *iov, uint32_t iovcnt, uint64_t len)
{
    struct alloc_write *w = op_alloc(queue, &alloc_write_type, sizeof *w);

    if (!w)
        return NULL;
    assert(len > 0);
    w->map = map;
    w->guest_offset = guest_offset;
    w->iov = iov;
    w->iovcnt = iovcnt;
    w->len = len;
    return w;
}

void q2_alloc_write(struct q2_map *map, struct request *request, uint64_t guest_offset, const struct iovec *iov,
                    uint32_t iovcnt, uint64_t len, struct op *op)
{
    struct alloc_write *w = alloc_write_new(map, op->queue, guest_offset, iov, iovcnt, len);

    if (!w) {
        op_wake(op, -ENOMEM);
        return;
    }
    w->op.parent = op;
    w->caller = request;
    op_start(&w->op);
}

void q2_prealloc_clusters(struct q2_map *map, uint64_t guest_offset, uint64_t len, enum vdisk_prealloc prealloc,
                          struct op *op)
{
    struct alloc_write *w = alloc_write_new(map, op->queue, guest_offset, NULL, 0, len);

    if (!w) {
        op_wake(op, -ENOMEM);
        return;
    }
    assert(is_aligned(guest_offset, map->meta->geo.cluster_size) && prealloc != VDISK_PREALLOC_OFF);
    w->prealloc = prealloc;
    w->op.parent = op;
    op_start(&w->op);
}

/* One list of the buffers of all requests that go together. */
static int merge_buffers(struct alloc_write *w, const struct request *first)
{
    uint32_t n = 0;

    w->len = w->iovcnt = 0;
    for (const struct request *r = first; r; r = r->merged) {
        assert(r->guest_offset == first->guest_offset + w->len);
        w->len += r->len;
        w->iovcnt += r->iovcnt;
    }
    w->merged_iov = mem_alloc(w->iovcnt * sizeof *w->merged_iov);
    if (!w->merged_iov)
        return -ENOMEM;
    for (const struct request *r = first; r; n += r->iovcnt, r = r->merged)
        memcpy(w->merged_iov + n, r->iov, r->iovcnt * sizeof *r->iov);
    w->iov = w->merged_iov;
    return 0;
}

void q2_alloc_write_start(struct q2_map *map, struct request *r)
{
    struct alloc_write *w = alloc_write_new(map, r->queue, r->guest_offset, r->iov, r->iovcnt, r->len);

    if (w && r->merged && merge_buffers(w, r) < 0) {
        op_free(&w->op, sizeof *w);
        start_apart(map, r, 0);
        return;
    }
    if (!w) {
        request_refuse(r, -ENOMEM);
        return;
    }
    w->caller = r;
    op_serve_merged(&w->op, r);
    op_start_later(&w->op); /* it may end without an await */
}
