/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Write-zeroes and discard, as changes of metadata.
 *
 * Happy path: the parts of clusters at the ends are written with zeros (write-zeroes) or left alone (discard);
 * the whole clusters between are locked and changed slice by slice: entries become zero or unallocated, what they
 * referred to is given back. The last cluster of the volume counts as whole while the volume ends in it, which is
 * asked again when its entry changes: behind an end that has moved there is somebody's data. Slices are read some
 * at a time. What was freed is reclaimed when there is much of it, so that a discard of any size takes bounded
 * memory. Ranges without an L2 table that read as zeros anyway are skipped an L1 entry at a time.
 * Failure modes: no space for an L2 table: room is made (room.c), once, and it goes on from there. A table or a
 * slice cannot be had, or reclaiming fails: what was changed before stays changed. Zeros would have to be written
 * and the request says that it would rather fail: the ends are looked at before anything changes.
 * With a raw external data file both are the data file's own business: its content is the volume's content.
 */
#include <errno.h>

#include "engine/loop/zero.h"
#include "qcow2/map/alloc_write.h"
#include "qcow2/map/clear.h"
#include "qcow2/map/l2_table.h"
#include "qcow2/map/lookup.h"
#include "qcow2/meta/meta.h"
#include "qcow2/mutant.h"
#include "qcow2/space/space.h"

enum {
    CLEAR_ZERO_IOV = 4,        /* a cluster has at most 2 MiB, the zero buffer 1 MiB; a range of both ends */
    CLEAR_AHEAD = 16,          /* L2 slices that are read at once */
};

struct clear {
    struct op         op;
    struct request   *request;
    struct q2_map    *map;
    bool              discard, unmap, no_write; /* the last: rather fail than write zeros */
    bool              own;    /* what lies below does not count */
    uint64_t          head_end, tail_start; /* whole clusters lie between; tail_start may come down to the last */
    uint64_t          pos;
    int               refusal; /* why an entry must not be changed */
    struct range_lock lock;
    bool              made_room, begun;
    struct op_child   ahead[CLEAR_AHEAD];
    struct iovec      iov[CLEAR_ZERO_IOV];
    struct io         io;
};

enum clear_state {
    CLEAR_START = OP_START,
    CLEAR_RAW_DATA,
    CLEAR_HEAD_WRITTEN,
    CLEAR_TAIL_WRITTEN,
    CLEAR_LOCKED,
    CLEAR_L2_TABLE,
    CLEAR_L2_LOADED,
    CLEAR_WRITTEN,
    CLEAR_DATA_DISCARDED,
    CLEAR_RECLAIMED,
    CLEAR_ROOM,
    CLEAR_MARKED
};

/* Stand in line for the clusters from pos on, as far as their slice goes. */
static bool lock_clusters(struct clear *c)
{
    assert(!c->lock.held && c->pos < c->tail_start && is_aligned(c->pos, c->map->meta->geo.cluster_size));
    return range_lock_try(q2_zone(c->map, c->pos), &c->lock, c->pos,
                          min_u64(c->tail_start, q2_slice_end(c->map->meta, c->pos)));
}

static void unlock_clusters(struct clear *c)
{
    range_unlock(q2_zone(c->map, c->lock.start), &c->lock);
}

static void clear_finish(struct clear *c, int rc)
{
    if (c->lock.held)
        unlock_clusters(c);
    op_end(&c->op, sizeof *c, rc);
}

/* Does an unallocated cluster here read as zeros? (No layer below, or none that reaches so far.) */
static bool zero_below(const struct q2_map *map, uint64_t guest_offset)
{
    const struct layer *layer = map->meta->layer;

    if (!layer->backing_name || layer->backing_name[0] == '\0')
        return true;
    return layer->backing && guest_offset >= layer_size(layer->backing);
}

/* The same, for this request. */
static bool zero_without(const struct clear *c, uint64_t guest_offset)
{
    return !c->own && zero_below(c->map, guest_offset);
}

/* Write zeros as any data is written; the call of an await. */
static void write_zeros(struct clear *c, uint64_t guest_offset, uint64_t len, struct op *op)
{
    uint32_t n = 0;

    for (uint64_t done = 0; done < len; n++) {
        if (!q2_invariant(c->map->meta, n < CLEAR_ZERO_IOV, "zeros for more than a cluster")) {
            op_wake(op, -EIO);
            return;
        }
        c->iov[n] = (struct iovec){unconst(zero_buffer), min_u64(len - done, ZERO_BUFFER)};
        done += c->iov[n].iov_len;
    }
    q2_alloc_write(c->map, c->request, guest_offset, c->iov, n, len, op);
}

/* ---- one entry ----------------------------------------------------------------------------------------- */

enum clear_result { CLEAR_SAME, CLEAR_CHANGED, CLEAR_NEEDS_WRITE };

/* An entry without host space that reads as zeros. */
static struct q2_l2_entry zero_entry(const struct q2_map *map, uint64_t guest_offset, bool discard)
{
    const struct q2_geometry *g = &map->meta->geo;

    if (discard && zero_below(map, guest_offset))
        return (struct q2_l2_entry){0, 0};
    if (g->extended_l2)
        return (struct q2_l2_entry){0, q2_bitmap(0, UINT32_MAX)};
    if (g->version < 3)
        return (struct q2_l2_entry){0, 0};
    return (struct q2_l2_entry){q2_entry_encode(g, Q2_CLUSTER_ZERO_PLAIN, 0, false), 0};
}

/* Keep the host cluster, which is ours alone, and read zeros. */
static struct q2_l2_entry zero_keep(const struct q2_map *map, const struct q2_mapping *m)
{
    const struct q2_geometry *g = &map->meta->geo;

    assert(g->version >= 3 && m->has_host && m->copied);
    if (g->extended_l2)
        return (struct q2_l2_entry){q2_entry_encode(g, Q2_CLUSTER_NORMAL, m->host_offset, true),
                              q2_bitmap(0, UINT32_MAX)};
    return (struct q2_l2_entry){q2_entry_encode(g, Q2_CLUSTER_ZERO_ALLOC, m->host_offset, true), 0};
}

/* Reads as zeros already, and holds nothing that could be given back. */
static bool is_plain_zero(const struct clear *c, const struct q2_mapping *m, uint64_t guest_offset)
{
    if (m->has_host || m->type == Q2_CLUSTER_COMPRESSED)
        return false;
    if (c->map->meta->geo.extended_l2)
        return zero_without(c, guest_offset) || (uint32_t)(m->bitmap >> 32) == UINT32_MAX;
    return m->type == Q2_CLUSTER_ZERO_PLAIN || zero_without(c, guest_offset);
}

static enum clear_result clear_entry(struct clear *c, uint64_t guest_offset, struct q2_l2_entry *e)
{
    struct q2_map *map = c->map;
    struct q2_mapping m = q2_entry_decode(&map->meta->geo, e->word, e->bitmap);
    bool expressible = map->meta->geo.version >= 3 || zero_without(c, guest_offset);
    bool keep = !c->discard && !c->unmap && m.has_host && m.copied;
    struct q2_l2_entry old = *e;

    assert_locked(&map->meta->lock);
    if (is_plain_zero(c, &m, guest_offset))
        return CLEAR_SAME;
    /* Discard: what nobody in this layer holds is not ours to drop. */
    if (c->discard && !m.has_host && m.type != Q2_CLUSTER_COMPRESSED)
        return CLEAR_SAME;
    if (!expressible || (keep && map->meta->geo.version < 3))
        return c->discard ? CLEAR_SAME : CLEAR_NEEDS_WRITE;
    if (keep) {
        *e = zero_keep(map, &m);
    } else {
        *e = zero_entry(map, guest_offset, c->discard);
        q2_drop(map->space, &m);
    }
    return q2_l2_entry_same(*e, old) ? CLEAR_SAME : CLEAR_CHANGED;
}

/* ---- one slice ----------------------------------------------------------------------------------------- */

enum slice_result { SLICE_DONE, SLICE_MISSING, SLICE_NEEDS_WRITE, SLICE_REFUSED /* op.rc says why */ };

/* Change entries from pos on, up to `end` or the end of the slice. */
static enum slice_result clear_entries(struct clear *c, struct q2_slot *s, uint64_t end)
{
    struct q2_map *map = c->map;
    const struct q2_geometry *g = &map->meta->geo;
    bool suspect = q2_slice_is_suspect(s), changing = false;
    enum slice_result result = SLICE_DONE;

    assert_locked(&map->meta->lock);
    assert(c->lock.held && c->lock.start <= c->pos && end <= q2_slice_end(map->meta, c->pos));
    for (; c->pos < end; c->pos += g->cluster_size) {
        struct q2_l2_entry e = q2_slice_get(map->meta, s, c->pos);
        c->refusal = suspect ? q2_guard_entry(map->meta, c->pos, s->host_offset, e) : 0;
        if (c->refusal < 0) {
            result = SLICE_REFUSED;
            break;
        }
        enum clear_result r = clear_entry(c, c->pos, &e);
        if (r == CLEAR_NEEDS_WRITE) {
            result = SLICE_NEEDS_WRITE;
            break;
        }
        if (r == CLEAR_SAME)
            continue;
        if (!changing)
            q2_change_begin(&map->meta->l2, s);
        changing = true;
        q2_slice_put(map->meta, s, c->pos, e);
    }
    if (changing)
        q2_change_end(&map->meta->l2, s);
    return result;
}

static uint64_t request_end_offset(const struct clear *c)
{
    return c->request->guest_offset + c->request->len;
}

/* Does the range go up to the end, and is there nothing behind it? With map->meta->lock held it stays so. */
static bool ends_volume(const struct clear *c)
{
    return request_end_offset(c) == atomic_load_explicit(&c->map->meta->layer->reach, memory_order_acquire);
}

static enum slice_result clear_slice(struct clear *c)
{
    struct q2_map *map = c->map;
    enum slice_result result = SLICE_MISSING;
    struct q2_slot *s;

    pthread_mutex_lock(&map->meta->lock);
    if (!ends_volume(c) && !MUTANT(CLEAR_BEHIND_END))
        c->tail_start = min_u64(c->tail_start, q2_cluster_down(&map->meta->geo, request_end_offset(c)));
    s = q2_slice_find(map->meta, c->pos);
    if (s)
        result = clear_entries(c, s, min_u64(c->tail_start, q2_slice_end(map->meta, c->pos)));
    pthread_mutex_unlock(&map->meta->lock);
    if (result == SLICE_NEEDS_WRITE && c->no_write) {
        c->refusal = -ENOTSUP;
        result = SLICE_REFUSED;
    }
    if (result == SLICE_REFUSED)
        c->op.rc = c->refusal;
    return result;
}

/* The slice at pos, and with it those behind it that the range needs; the call of an await. */
static void load_slices(struct clear *c, struct op *op)
{
    uint64_t guest_offset = c->pos;

    op_io_begin(op);
    for (unsigned i = 0; i < CLEAR_AHEAD && guest_offset < c->tail_start; i++) {
        q2_load(c->map->meta->layer, guest_offset, op_child_add(op, &c->ahead[i]));
        guest_offset = q2_slice_end(c->map->meta, guest_offset);
    }
    op_io_wait(op);
}

/* Nothing is mapped by this L1 entry, and nothing needs to be: go on behind it. */
static bool skip_unmapped(struct clear *c)
{
    struct q2_map *map = c->map;
    uint64_t span = q2_l1_entry_span(&map->meta->geo);

    if (q2_l1_offset(q2_l1_get(map->meta, q2_l1_index(&map->meta->geo, c->pos))) != 0)
        return false;
    if (!c->discard && !zero_without(c, c->pos))
        return false;
    c->pos = min_u64(c->tail_start, align_down(c->pos, span) + span);
    return true;
}

static void plan(struct clear *c)
{
    const struct q2_geometry *g = &c->map->meta->geo;
    uint64_t end = request_end_offset(c);

    c->head_end = min_u64(q2_cluster_up(g, c->request->guest_offset), end);
    c->tail_start = ends_volume(c) ? q2_cluster_up(g, end) : q2_cluster_down(g, end);
    if (c->tail_start < c->head_end)
        c->tail_start = c->head_end; /* all inside one cluster: all of it is head */
    c->pos = c->head_end;
    assert(c->request->guest_offset <= c->head_end && c->head_end <= c->tail_start);
}

static bool has_whole_clusters(const struct clear *c)
{
    return c->head_end < c->tail_start && q2_offset_in_cluster(&c->map->meta->geo, c->head_end) == 0;
}

static bool head_needs_write(const struct clear *c)
{
    const struct request *r = c->request;

    return !c->discard && r->guest_offset < c->head_end &&
           (c->own || !chain_known_zero(c->map->meta->layer, r->guest_offset, c->head_end - r->guest_offset));
}

static uint64_t tail_len(const struct clear *c)
{
    uint64_t end = request_end_offset(c);

    return end > c->tail_start ? end - c->tail_start : 0;
}

static bool tail_needs_write(const struct clear *c)
{
    return !c->discard && tail_len(c) > 0 &&
           (c->own || !chain_known_zero(c->map->meta->layer, c->tail_start, tail_len(c)));
}

/* Zeros would have to be written at the end, or at one of both, and the request would rather fail: op.rc. */
static bool is_refused(struct clear *c, bool both)
{
    bool refused = c->no_write && ((both && head_needs_write(c)) || tail_needs_write(c));

    if (refused)
        c->op.rc = -ENOTSUP;
    return refused;
}

/* The head; the call of an await. */
static void write_head(struct clear *c, struct op *op)
{
    write_zeros(c, c->request->guest_offset, c->head_end - c->request->guest_offset, op);
}

/* Version 2 cannot say zero: write it. The write locks the cluster itself. The call of an await. */
static void write_cluster(struct clear *c, struct op *op)
{
    assert(c->map->meta->geo.version < 3 && c->pos < request_end_offset(c));
    unlock_clusters(c);
    write_zeros(c, c->pos, min_u64(c->map->meta->geo.cluster_size, request_end_offset(c) - c->pos), op);
}

static void discard_data(struct clear *c, struct op *op)
{
    io_range(&c->io, c->map->meta->layer->data, IO_DISCARD, c->request->guest_offset, c->request->len);
    op_io(op, &c->io);
}

static void raw_data(struct clear *c, struct op *op)
{
    if (c->discard)
        discard_data(c, op);
    else
        zero_range(c->map->meta->layer->data, c->request->guest_offset, c->request->len,
                   request_zero_flags(c->request), op);
}

static bool too_many_freed(struct q2_map *map)
{
    bool many;

    pthread_mutex_lock(&map->meta->lock);
    many = q2_room_is_wanted(map->space);
    pthread_mutex_unlock(&map->meta->lock);
    return many;
}

/* No space for an L2 table: nothing else that waits under the lock takes any. */
static bool may_make_room(const struct clear *c)
{
    return c->op.rc == -ENOSPC && c->lock.held && !c->made_room && q2_room_is_possible(c->map->space);
}

/* The call of an await. */
static void make_room(struct clear *c, struct op *op)
{
    c->made_room = true;
    unlock_clusters(c);
    q2_room_make(c->map->space, c->request, op);
}

/* The call of an await. The request may be cancelled meanwhile, if it has changed nothing. */
static void wait_for_clusters(struct clear *c, struct op *op)
{
    range_lock_wait_for(q2_zone(c->map, c->pos), &c->lock, c->begun ? NULL : &c->request->io, op);
}

/* As in alloc_write.c. */
static bool must_mark(const struct clear *c)
{
    return c->op.rc != -ECANCELED && q2_guard_must_mark(c->map->meta);
}

/* There are whole clusters left; a lock that ends before them is not held any more. */
static bool go_on(struct clear *c)
{
    bool more = has_whole_clusters(c) && c->pos < c->tail_start;

    if (c->lock.held && (!more || c->pos >= c->lock.end))
        unlock_clusters(c);
    return more;
}

static void clear_step(struct op *op)
{
    struct clear *c = container_of(op, struct clear, op);
    enum slice_result result;

    OP_BEGIN(enum clear_state, op)
    if (op->rc < 0)
        goto fail; /* cancelled */
    if (c->map->meta->data_file_raw) {
        OP_TRY(op, CLEAR_RAW_DATA, raw_data(c, op));
        goto done;
    }
    plan(c);
    if (is_refused(c, true))
        goto fail;
    c->begun = head_needs_write(c);
    if (c->begun)
        OP_TRY(op, CLEAR_HEAD_WRITTEN, write_head(c, op));
again:
    while (go_on(c)) {
        if (!c->lock.held && too_many_freed(c->map))
            OP_TRY(op, CLEAR_RECLAIMED, q2_room_make(c->map->space, c->request, op));
        if (!c->lock.held && skip_unmapped(c))
            continue;
        if (!c->lock.held && !lock_clusters(c))
            OP_TRY(op, CLEAR_LOCKED, wait_for_clusters(c, op));
        range_lock_got(&c->lock);
        c->begun = true;
        if (!q2_l2_table_ready(c->map, c->pos))
            OP_TRY(op, CLEAR_L2_TABLE, q2_l2_table_make(c->map, c->pos, op));
        result = clear_slice(c);
        if (result == SLICE_MISSING) {
            OP_TRY(op, CLEAR_L2_LOADED, load_slices(c, op));
        } else if (result == SLICE_NEEDS_WRITE) {
            OP_TRY(op, CLEAR_WRITTEN, write_cluster(c, op));
            c->pos += c->map->meta->geo.cluster_size; /* not before it is written */
        } else if (result == SLICE_REFUSED) {
            goto fail;
        }
    }
    if (is_refused(c, false)) /* the volume has grown meanwhile */
        goto fail;
    if (tail_needs_write(c))
        OP_TRY(op, CLEAR_TAIL_WRITTEN, write_zeros(c, c->tail_start, tail_len(c), op));
    if (c->discard && c->map->meta->data_file && has_whole_clusters(c))
        OP_TRY(op, CLEAR_DATA_DISCARDED, discard_data(c, op));
done:
    clear_finish(c, 0);
    return;
fail:
    if (may_make_room(c)) {
        OP_AWAIT(op, CLEAR_ROOM, make_room(c, op));
        if (op->rc == 0)
            goto again;
        op->rc = -ENOSPC; /* as it was */
    }
    if (must_mark(c))
        OP_AWAIT(op, CLEAR_MARKED, q2_guard_mark(c->map->meta, op));
    clear_finish(c, op->rc);
    return;
    OP_END
}

OP_TYPE(clear, clear_step, "START", "CLEAR_RAW_DATA", "CLEAR_HEAD_WRITTEN", "CLEAR_TAIL_WRITTEN", "CLEAR_LOCKED",
        "CLEAR_L2_TABLE", "CLEAR_L2_LOADED", "CLEAR_WRITTEN", "CLEAR_DATA_DISCARDED", "CLEAR_RECLAIMED",
        "CLEAR_ROOM", "CLEAR_MARKED");

void q2_clear_start(struct q2_map *map, struct request *r)
{
    struct clear *c = op_alloc(r->queue, &clear_type, sizeof *c);

    if (!c) {
        request_end_later(r, -ENOMEM);
        return;
    }
    c->map = map;
    c->request = r;
    op_serve(&c->op, r);
    c->discard = r->kind == REQ_DISCARD;
    c->unmap = c->discard || r->flags & VDISK_REQ_UNMAP;
    c->no_write = r->flags & VDISK_REQ_NO_FALLBACK;
    c->own = r->flags & VDISK_REQ_EXPLICIT && !MUTANT(ZEROS_BELOW_COUNT);
    op_start_later(&c->op);
}
