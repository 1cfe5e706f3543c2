/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Happy path: nothing is found. Marking: take the structure lock, since others write the header too; write the
 * first sector with the bit set; sync.
 * Failure modes: the header cannot be written, or there is no memory: the image stays unmarked, the volume takes
 * no writes all the same.
 */
#include "qcow2/meta/guard.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "engine/base/error.h"
#include "qcow2/meta/header_sector.h"
#include "qcow2/meta/slice.h"
#include "qcow2/meta/twice.h"
#include "qcow2/mutant.h"

void q2_guard_add(struct q2_meta *meta, uint64_t cluster, uint64_t n, uint32_t kind)
{
    assert_locked(&meta->lock);
    if (meta->guarded)
        q2_meta_add(&meta->places, cluster, n, kind);
}

void q2_guard_remove(struct q2_meta *meta, uint64_t cluster, uint64_t n, uint32_t kind)
{
    assert_locked(&meta->lock);
    if (meta->guarded)
        q2_meta_remove(&meta->places, cluster, n, kind);
}

/* No trust any more: the reason, as "[what] host offset 0x..., which holds [an L2 table]". */
static int contradiction_of(struct q2_meta *meta, const char *what, uint64_t cluster, const char *holds)
{
    char text[200];

    snprintf(text, sizeof text, "%s host offset 0x%" PRIx64 ", which holds %s", what,
             cluster << meta->geo.cluster_bits, holds);
    q2_break(meta, text);
    err_set(EIO, "%s: %s", meta->layer->name, text);
    return err_hint(-EIO, "repair the image with vdisk-io check -r all");
}

static int contradiction(struct q2_meta *meta, const char *what, uint64_t cluster, uint32_t kinds)
{
    return contradiction_of(meta, what, cluster, q2_meta_name(kinds));
}

bool q2_guard_refuses(struct q2_meta *meta, uint64_t cluster, uint64_t n, const char *what)
{
    uint64_t where = 0;
    uint32_t kinds = meta->guarded ? q2_meta_find(&meta->places, cluster, n, &where) : 0;

    assert_locked(&meta->lock);
    if (!kinds)
        return false;
    contradiction(meta, what, where, kinds);
    return true;
}

/* ---- the first door: slices ------------------------------------------------------------------------------ */

/* Whole host clusters that a mapping has; 0: none. */
static uint64_t clusters_of(const struct q2_meta *meta, const struct q2_mapping *m, uint64_t *ret_first)
{
    uint64_t end =
        m->host_offset + (m->type == Q2_CLUSTER_COMPRESSED ? m->compressed_len : meta->geo.cluster_size);

    *ret_first = m->host_offset >> meta->geo.cluster_bits;
    if (m->type != Q2_CLUSTER_COMPRESSED && !m->has_host)
        return 0;
    return (q2_cluster_up(&meta->geo, end) >> meta->geo.cluster_bits) - *ret_first;
}

/* Behind the end, and nothing says that there ever was anything. Zeros may have a cluster, too. */
static bool past_everything(const struct q2_meta *meta, const struct q2_mapping *m)
{
    return m->has_host && m->type != Q2_CLUSTER_COMPRESSED && m->host_offset >= backend_size(meta->layer->file) &&
           !q2_has_block(meta, m->host_offset >> meta->geo.cluster_bits);
}

/*
 * What the L2 table at `table_offset` is besides that of its L1 entry. A table that is shared with a snapshot is
 * copied before it changes; one that claims to be ours alone must be.
 */
static uint32_t table_conflict(struct q2_meta *meta, uint64_t guest_offset, uint64_t table_offset)
{
    uint64_t entry = q2_l1_get(meta, q2_l1_index(&meta->geo, guest_offset)), where;
    uint32_t kinds =
        q2_meta_find(&meta->places, table_offset >> meta->geo.cluster_bits, 1, &where) & ~(uint32_t)Q2_META_L2;

    assert_locked(&meta->lock);
    if (!(entry & Q2_COPIED))
        kinds &= ~(uint32_t)(Q2_META_SNAPSHOT_L2 | Q2_META_TWICE);
    return kinds;
}

enum { RUNS_MAX = Q2_SLICE_MAX / 8 };

/* What the entries of a slice lead to, neighbours together. */
struct runs {
    unsigned count;
    struct {
        uint64_t first : 63, alone : 1, n;
    } run[RUNS_MAX];
};

static void add_run(const struct q2_meta *meta, struct runs *r, uint64_t first, uint64_t n, bool alone)
{
    unsigned last = r->count - 1;

    if (r->count > 0 && r->run[last].first + r->run[last].n == first && r->run[last].alone == alone) {
        r->run[last].n += n;
        return;
    }
    q2_cluster_set_prefetch(&meta->mapped, first);
    r->run[r->count].first = first;
    r->run[r->count].alone = alone;
    r->run[r->count++].n = n;
}

/* True: there is metadata in them, or what somebody else has, too. */
static bool judge_runs(struct q2_meta *meta, const struct runs *r, bool first_time)
{
    bool bad = false;
    uint64_t where;

    assert_locked(&meta->lock);
    for (unsigned i = 0; i < r->count; i++) {
        if (first_time && r->run[i].alone)
            q2_twice_note(meta, r->run[i].first, r->run[i].n);
        q2_cluster_set_add(&meta->mapped, r->run[i].first, r->run[i].n);
        if (meta->targets_known)
            q2_cluster_set_add(&meta->targets, r->run[i].first, r->run[i].n);
        bad |= q2_meta_find(&meta->places, r->run[i].first, r->run[i].n, &where) != 0;
    }
    q2_twice_spread(meta);
    for (unsigned i = 0; i < r->count && meta->twice.pages > 0; i++)
        bad |= q2_twice_meets(meta, r->run[i].first, r->run[i].n);
    return bad;
}

bool q2_entry_unusable(const struct q2_meta *meta, struct q2_l2_entry e, uint64_t guest_offset)
{
    struct q2_mapping m;
    uint64_t end;

    if (e.word == 0 && e.bitmap == 0)
        return false;
    if (q2_entry_problem(&meta->geo, e.word, e.bitmap, guest_offset))
        return true;
    if (meta->data_file)
        return false;
    m = q2_entry_decode(&meta->geo, e.word, e.bitmap);
    if (!m.has_host)
        return false;
    end = m.host_offset + meta->geo.cluster_size;
    return m.host_offset == 0 || ranges_meet(m.host_offset, end, meta->l1_start, meta->l1_end) ||
           ranges_meet(m.host_offset, end, meta->reftable_start, meta->reftable_end);
}

/* Are the slice's entries as they were when the image was opened? */
static bool is_first_time(struct q2_meta *meta, uint64_t key)
{
    assert_locked(&meta->lock);
    if (!meta->guarded || q2_cluster_set_has(&meta->judged, key))
        return false;
    q2_twice_judged(meta, key, 1);
    return q2_cluster_set_has(&meta->judged, key); /* else its next time would seem to be the first */
}

/*
 * Entries of `len` bytes of standard clusters, side by side on the host from where the first one leads to, which
 * nothing can be said against: what q2_entry_unusable() and past_everything() ask, in short, since most are like
 * that. `end`: of the file.
 */
static bool is_plain(const struct q2_meta *meta, uint64_t entry, uint64_t len, uint64_t end)
{
    uint64_t host_offset = entry ^ Q2_COPIED, host_end = host_offset + len;

    return host_offset != 0 && (host_offset & ~(Q2_L2_OFFSET & ~(meta->geo.cluster_size - 1))) == 0 &&
           host_end <= end && !ranges_meet(host_offset, host_end, meta->l1_start, meta->l1_end) &&
           !ranges_meet(host_offset, host_end, meta->reftable_start, meta->reftable_end);
}

/* All of a slice is one run of such entries, as preallocation makes them: how many bytes that is; 0: it is not. */
static uint64_t plain_run(const struct q2_meta *meta, const char *slice, uint64_t end)
{
    uint64_t host_offset, len = 1ull << meta->slice_guest_bits;

    return end > 0 && q2_slice_linear(&meta->geo, slice, meta->l2.slice_size, &host_offset) &&
                   is_plain(meta, host_offset | Q2_COPIED, len, end)
               ? len
               : 0;
}

bool q2_guard_slice(struct q2_meta *meta, uint64_t guest_offset, uint64_t table_offset, const char *slice)
{
    bool guarded = meta->guarded && !MUTANT(TRUST_ENTRIES), bad = false;
    bool first_time = is_first_time(meta, q2_slice_key(meta, guest_offset));
    uint32_t size = meta->geo.l2_entry_size;
    uint64_t end = size == 8 && !meta->data_file ? backend_size(meta->layer->file) : 0;
    uint64_t in_run = plain_run(meta, slice, end);
    struct runs runs;

    assert_locked(&meta->lock);
    runs.count = 0;
    if (guarded)
        bad = table_conflict(meta, guest_offset, table_offset) || table_offset >= backend_size(meta->layer->file);
    if (in_run > 0 && guarded)
        add_run(meta, &runs, (get_be64(slice) ^ Q2_COPIED) >> meta->geo.cluster_bits,
                in_run >> meta->geo.cluster_bits, true);
    for (uint32_t i = in_run > 0 ? meta->l2.slice_size : 0; i < meta->l2.slice_size;
         i += size, guest_offset += meta->geo.cluster_size) {
        struct q2_l2_entry e = q2_l2_entry_get(&meta->geo, slice + i);
        struct q2_mapping m;
        uint64_t first, n;
        if (e.word == 0 && e.bitmap == 0)
            continue;
        if (is_plain(meta, e.word, meta->geo.cluster_size, end)) {
            if (guarded)
                add_run(meta, &runs, (e.word ^ Q2_COPIED) >> meta->geo.cluster_bits, 1, true);
            continue;
        }
        bad |= q2_entry_unusable(meta, e, guest_offset);
        if (!guarded || meta->data_file)
            continue;
        m = q2_entry_decode(&meta->geo, e.word, e.bitmap);
        n = clusters_of(meta, &m, &first);
        bad |= past_everything(meta, &m);
        if (n > 0)
            add_run(meta, &runs, first, n, m.type != Q2_CLUSTER_COMPRESSED && m.copied);
    }
    return judge_runs(meta, &runs, first_time) || bad;
}

int q2_guard_bad_entry(struct q2_meta *meta, uint64_t guest_offset, uint64_t slice_offset, uint64_t entry)
{
    char what[160];

    assert_locked(&meta->lock);
    snprintf(what, sizeof what,
             "an L2 entry is damaged: guest offset 0x%" PRIx64 " has 0x%" PRIx64 ", at host offset 0x%" PRIx64,
             q2_cluster_down(&meta->geo, guest_offset), entry, slice_offset + q2_slice_place(meta, guest_offset));
    return q2_break(meta, what);
}

int q2_guard_entry(struct q2_meta *meta, uint64_t guest_offset, uint64_t table_offset, struct q2_l2_entry e)
{
    struct q2_mapping m = q2_entry_decode(&meta->geo, e.word, e.bitmap);
    char what[80];
    uint64_t first, n;
    uint32_t kinds;

    assert_locked(&meta->lock);
    if (q2_entry_unusable(meta, e, q2_cluster_down(&meta->geo, guest_offset)))
        return q2_guard_bad_entry(meta, guest_offset, table_offset, e.word);
    if (!meta->guarded)
        return 0;
    kinds = table_conflict(meta, guest_offset, table_offset);
    snprintf(what, sizeof what, "the L2 table of guest offset 0x%" PRIx64 " is at", guest_offset);
    if (kinds)
        return contradiction(meta, what, table_offset >> meta->geo.cluster_bits, kinds);
    if (table_offset >= backend_size(meta->layer->file))
        return q2_break(meta, "an L2 table lies past the end of the file");
    snprintf(what, sizeof what, "guest offset 0x%" PRIx64 " is mapped to", guest_offset);
    n = clusters_of(meta, &m, &first);
    if (n > 0 && !meta->data_file && q2_guard_refuses(meta, first, n, what))
        return -EIO;
    if (!meta->data_file && past_everything(meta, &m))
        return err_set(EFBIG, "%s: %s host offset 0x%" PRIx64 ", far past the end of the file", meta->layer->name,
                       what, m.host_offset);
    return 0;
}

int q2_guard_shared_table(struct q2_meta *meta, uint64_t guest_offset, uint64_t host_offset)
{
    uint32_t kinds = meta->guarded && !MUTANT(TRUST_ENTRIES) ? table_conflict(meta, guest_offset, host_offset) : 0;
    char what[80];

    assert_locked(&meta->lock);
    if (!kinds)
        return 0;
    snprintf(what, sizeof what, "the L2 table of guest offset 0x%" PRIx64 " is at", guest_offset);
    return contradiction(meta, what, host_offset >> meta->geo.cluster_bits, kinds);
}

static uint32_t block_conflict(struct q2_meta *meta, uint64_t host_offset)
{
    uint64_t where;

    assert_locked(&meta->lock);
    if (!meta->guarded || MUTANT(TRUST_ENTRIES))
        return 0;
    return q2_meta_find(&meta->places, host_offset >> meta->geo.cluster_bits, 1, &where) &
           ~(uint32_t)Q2_META_REFBLOCK;
}

bool q2_guard_block_is_sound(struct q2_meta *meta, uint64_t host_offset)
{
    return is_aligned(host_offset, meta->geo.cluster_size) && block_conflict(meta, host_offset) == 0 &&
           host_offset < backend_size(meta->layer->file);
}

int q2_guard_block(struct q2_meta *meta, uint64_t block, uint64_t host_offset)
{
    uint32_t kinds = block_conflict(meta, host_offset);
    char what[80];

    snprintf(what, sizeof what, "refcount block %" PRIu64 " is at", block);
    if (kinds)
        return contradiction(meta, what, host_offset >> meta->geo.cluster_bits, kinds);
    if (meta->guarded && host_offset >= backend_size(meta->layer->file))
        return q2_break(meta, "a refcount block lies past the end of the file");
    return 0;
}

int q2_guard_block_is_data(struct q2_meta *meta, uint64_t block, uint64_t host_offset)
{
    uint64_t cluster = host_offset >> meta->geo.cluster_bits;
    char what[80];

    assert_locked(&meta->lock);
    if (!q2_cluster_set_has(&meta->mapped, cluster) || MUTANT(TRUST_BLOCKS))
        return 0;
    snprintf(what, sizeof what, "refcount block %" PRIu64 " is at", block);
    return contradiction_of(meta, what, cluster, "guest data");
}

int q2_guard_survey(struct q2_meta *meta, uint64_t guest_offset, uint64_t table_offset, const char *slice)
{
    uint32_t size = meta->geo.l2_entry_size, kinds;
    char what[80];

    assert_locked(&meta->lock);
    if (!q2_guard_slice(meta, guest_offset, table_offset, slice) || meta->data_file || MUTANT(TRUST_BLOCKS))
        return 0;
    for (uint32_t i = 0; i < meta->l2.slice_size; i += size, guest_offset += meta->geo.cluster_size) {
        struct q2_mapping m = q2_entry_decode(&meta->geo, q2_l2_entry_get(&meta->geo, slice + i).word, 0);
        uint64_t first, where = 0, n = clusters_of(meta, &m, &first);
        kinds = n > 0 ? q2_meta_find(&meta->places, first, n, &where) : 0;
        snprintf(what, sizeof what, "guest offset 0x%" PRIx64 " is mapped to", guest_offset);
        if (kinds & Q2_META_REFBLOCK)
            return contradiction(meta, what, where, Q2_META_REFBLOCK);
    }
    return 0;
}

/* ---- tables that are kept in memory ------------------------------------------------------------------------ */

static void judge_table(struct q2_meta *meta, uint64_t host_offset, uint64_t bytes, uint32_t kind,
                        const char *what)
{
    uint64_t first = host_offset >> meta->geo.cluster_bits;
    uint64_t end = q2_cluster_up(&meta->geo, host_offset + bytes) >> meta->geo.cluster_bits;

    for (uint64_t i = first; i < end && !atomic_load(&meta->broken); i++) {
        uint32_t kinds = q2_meta_kinds(&meta->places, i) & ~kind;
        if (kinds)
            contradiction(meta, what, i, kinds);
    }
}

void q2_guard_own_tables(struct q2_meta *meta)
{
    const struct q2_header *h = &meta->header;

    if (MUTANT(TRUST_HEADER))
        return;
    judge_table(meta, h->l1_offset, (uint64_t)h->l1_entries * 8, Q2_META_L1, "the L1 table is at");
    judge_table(meta, h->reftable_offset, (uint64_t)h->reftable_clusters << meta->geo.cluster_bits,
                Q2_META_REFTABLE, "the refcount table is at");
}

/* ---- the second door: free clusters ---------------------------------------------------------------------- */

enum q2_guard_verdict q2_guard_free(struct q2_meta *meta, uint64_t cluster, bool for_metadata)
{
    assert_locked(&meta->lock);
    if (!meta->guarded)
        return Q2_GUARD_FREE;
    if (!MUTANT(TRUST_REFCOUNTS) && q2_guard_refuses(meta, cluster, 1, "no refcount keeps what is at"))
        return Q2_GUARD_METADATA;
    if (MUTANT(FORGET_MAPPED))
        return Q2_GUARD_FREE;
    if (for_metadata && q2_guard_leads_to(meta, cluster, 1))
        return Q2_GUARD_IN_USE;
    return q2_guard_led_to(meta, cluster, 1) ? Q2_GUARD_IN_USE : Q2_GUARD_FREE;
}

bool q2_guard_led_to(const struct q2_meta *meta, uint64_t cluster, uint64_t n)
{
    uint64_t end = cluster + n, stop, freed_end;

    assert_locked(&meta->lock);
    if (MUTANT(FORGET_MAPPED))
        return false;
    while ((cluster = q2_cluster_set_next(&meta->mapped, cluster, end, &stop)) < end) {
        if (q2_cluster_set_next(&meta->own_freed, cluster, stop, &freed_end) != cluster)
            return true;
        cluster = freed_end; /* an entry led there: it is free if that was its last use */
    }
    return false;
}

bool q2_guard_all_free(struct q2_meta *meta, uint64_t cluster, uint64_t n, bool for_metadata)
{
    uint64_t end = cluster + n, stop, where;

    assert_locked(&meta->lock);
    if (!meta->guarded)
        return true;
    return q2_meta_find(&meta->places, cluster, n, &where) == 0 &&
           q2_cluster_set_next(&meta->mapped, cluster, end, &stop) == end &&
           !(for_metadata && q2_guard_leads_to(meta, cluster, n));
}

bool q2_guard_leads_to(const struct q2_meta *meta, uint64_t cluster, uint64_t n)
{
    bool exact = meta->targets_known && !meta->targets.overflowed;
    uint64_t stop;

    assert_locked(&meta->lock);
    return q2_cluster_set_next(exact ? &meta->targets : &meta->mapped, cluster, cluster + n, &stop) < cluster + n;
}

static void count_slice(struct q2_meta *meta, const char *slice)
{
    uint32_t size = meta->geo.l2_entry_size;

    for (uint32_t i = 0; i < meta->l2.slice_size; i += size) {
        struct q2_mapping m = q2_entry_decode(&meta->geo, q2_l2_entry_get(&meta->geo, slice + i).word, 0);
        uint64_t first, n = clusters_of(meta, &m, &first);
        if (n > 0)
            q2_cluster_set_add(&meta->targets, first, n);
    }
}

void q2_guard_recount(struct q2_meta *meta)
{
    uint64_t host_offset;

    assert_locked(&meta->lock);
    q2_cluster_set_finish(&meta->targets);
    meta->targets_known = meta->guarded && !meta->data_file;
    if (!meta->targets_known)
        return;
    for (uint32_t i = 0; i < meta->l2.slots; i++)
        if (meta->l2.slot[i].state == Q2_SLOT_VALID)
            count_slice(meta, q2_slot_data(&meta->l2, &meta->l2.slot[i]));
    for (uint64_t key = 0; key < meta->l2.linear_keys; key++)
        if (q2_linear_host(&meta->l2, key, &host_offset))
            q2_cluster_set_add(&meta->targets, host_offset >> meta->geo.cluster_bits,
                               1ull << meta->slice_entries_bits);
}

/* ---- marking --------------------------------------------------------------------------------------------- */

struct guard_mark {
    struct op op;
    struct q2_meta *meta;
    struct range_lock lock;
    struct q2_header_change change;
};

enum guard_mark_state { GM_START = OP_START, GM_LOCKED, GM_WRITTEN };

static void write_mark(struct guard_mark *g, struct op *op)
{
    g->change = q2_header_change(g->meta);
    g->change.fields.incompatible |= Q2_INCOMPAT_CORRUPT;
    q2_header_commit(g->meta, &g->change, op);
}

static void guard_mark_step(struct op *op)
{
    struct guard_mark *g = container_of(op, struct guard_mark, op);

    OP_BEGIN(enum guard_mark_state, op)
    if (!range_lock_try(&g->meta->structure, &g->lock, 0, 1))
        OP_AWAIT(op, GM_LOCKED, range_lock_wait(&g->meta->structure, &g->lock, op));
    OP_AWAIT(op, GM_WRITTEN, write_mark(g, op));
    range_unlock(&g->meta->structure, &g->lock);
    op_end(op, sizeof *g, -EIO);
    return;
    OP_END
}

OP_TYPE(guard_mark, guard_mark_step, "START", "GM_LOCKED", "GM_WRITTEN");

void q2_guard_mark(struct q2_meta *meta, struct op *op)
{
    struct guard_mark *g = NULL;

    if (atomic_exchange(&meta->must_mark, false))
        g = op_alloc(op->queue, &guard_mark_type, sizeof *g);
    if (!g) {
        op_wake(op, -EIO);
        return;
    }
    g->op.parent = op;
    g->meta = meta;
    op_start(&g->op);
}
