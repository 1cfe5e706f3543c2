/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The struct of the room: made empty, given caches, given back. */
#include "qcow2/meta/state.h"

#include <errno.h>
#include <stdlib.h>

#include "engine/base/error.h"
#include "engine/base/mem.h"
#include "engine/base/short_lock.h"
#include "qcow2/meta/guard.h"
#include "qcow2/meta/header_sector.h"
#include "qcow2/meta/slice.h"

enum { CACHE_DEFAULT = 32 << 20, CACHE_MIN = 1 << 20 };

void q2_meta_state_init(struct q2_meta *meta, struct layer *layer)
{
    meta->layer = layer;
    short_lock_init(&meta->lock);
    range_locks_init(&meta->structure);
    q2_compressed_init(&meta->compressed);
}

static void free_l1(struct q2_l1 *l1)
{
    while (l1) {
        struct q2_l1 *next = l1->next;
        mem_free(l1);
        l1 = next;
    }
}

void q2_meta_state_finish(struct q2_meta *meta)
{
    q2_cache_finish(&meta->l2);
    q2_cache_finish(&meta->refcounts);
    q2_table_finish(&meta->l1_pages);
    q2_table_finish(&meta->reftable_pages);
    free_l1(atomic_load(&meta->l1));
    free_l1(meta->l1_retired);
    mem_free(meta->reftable);
    q2_compressed_finish(&meta->compressed);
    q2_cluster_set_finish(&meta->left);
    q2_cluster_set_finish(&meta->own_freed);
    q2_cluster_set_finish(&meta->mapped);
    q2_cluster_set_finish(&meta->targets);
    q2_cluster_set_finish(&meta->judged);
    q2_cluster_set_finish(&meta->twice);
    q2_meta_finish(&meta->places);
    range_locks_finish(&meta->structure);
    pthread_mutex_destroy(&meta->lock);
    q2_header_free(&meta->header);
}

/* ---- caches ------------------------------------------------------------------------------------------------- */

static bool is_suspect(void *arg, const struct q2_slot *s, const char *content)
{
    struct q2_meta *meta = arg;

    return q2_guard_slice(meta, q2_slice_guest(meta, s->key), s->host_offset, content);
}

static void make_clean(void *arg, struct op *op)
{
    q2_make_clean(arg, op);
}

void q2_meta_caches_attach(struct q2_meta *meta)
{
    struct q2_cache_owner owner = {.lock = &meta->lock,
                                   .file = meta->layer->file,
                                   .loads = &meta->layer->stats.cache_misses,
                                   .arg = meta,
                                   .is_suspect = is_suspect,
                                   .make_clean = make_clean};

    q2_cache_attach(&meta->l2, &owner);
    owner.is_suspect = NULL;
    q2_cache_attach(&meta->refcounts, &owner);
}

int q2_meta_caches_init(struct q2_meta *meta, uint64_t cache_bytes)
{
    uint32_t slice = (uint32_t)min_u64(meta->geo.cluster_size, Q2_SLICE_MAX);
    uint64_t bytes = max_u64(cache_bytes ? cache_bytes : CACHE_DEFAULT, CACHE_MIN), slices, linear;

    meta->slice_entries_bits = log2_floor(slice / meta->geo.l2_entry_size);
    meta->slice_guest_bits = meta->slice_entries_bits + meta->geo.cluster_bits;
    meta->refslice_bits = log2_floor((uint64_t)slice * 8 >> meta->geo.refcount_order);
    slices = div_up(meta->header.size, 1ull << meta->slice_guest_bits);
    linear = min_u64(slices * sizeof(uint64_t), bytes / 8);
    /* One refcount slice describes far more than one L2 slice. */
    if (q2_cache_init(&meta->l2, slice, bytes - bytes / 8 - linear, slices) < 0 ||
        q2_cache_keep_linear(&meta->l2, &meta->geo, linear, slices) < 0 ||
        q2_cache_init(&meta->refcounts, slice, bytes / 8, meta->layer->read_only ? 1 : UINT64_MAX / 64) < 0)
        return err_set(ENOMEM, "%s: out of memory for the metadata cache", meta->layer->name);
    q2_meta_caches_attach(meta);
    return 0;
}

/* ---- the whole ----------------------------------------------------------------------------------------- */

#ifndef NDEBUG

/* What is in memory is what the header says, and the header what the disk has: header_sector.c, invariant 2. */
static void assert_header(struct q2_meta *meta)
{
    struct q2_header_fields disk = q2_header_fields_get(meta->sector);
    const struct q2_header *h = &meta->header;

    assert(h->size == disk.size && h->l1_offset == disk.l1_offset && h->l1_entries == disk.l1_entries);
    assert(h->incompatible == disk.incompatible && h->autoclear == disk.autoclear);
    assert(h->nb_snapshots == disk.nb_snapshots && h->snapshots_offset == disk.snapshots_offset);
    if (!h->reftable_problem)
        assert(h->reftable_offset == disk.reftable_offset && h->reftable_clusters == disk.reftable_clusters);
    assert(h->geo.cluster_bits == meta->geo.cluster_bits && h->geo.version == meta->geo.version);
}

static void assert_tables(const struct q2_meta *meta)
{
    const struct q2_l1 *l1 = atomic_load(&meta->l1);

    assert(l1->entries == meta->header.l1_entries);
    assert(meta->l1_pages.host_offset == meta->header.l1_offset);
    assert(l1->entries * Q2_L1_ENTRY_SIZE <= meta->l1_pages.pages * meta->l1_pages.page_size);
    for (const struct q2_l1 *old = meta->l1_retired; old; old = old->next)
        assert(old != l1 && old->entries <= l1->entries); /* tables only become longer */
    if (meta->layer->read_only)
        return;
    assert(meta->reftable_pages.host_offset == meta->header.reftable_offset);
    assert(meta->reftable_entries == q2_reftable_entries(&meta->geo, meta->header.reftable_clusters));
    assert(meta->reftable_entries * Q2_REFTABLE_ENTRY_SIZE <=
           meta->reftable_pages.pages * meta->reftable_pages.page_size);
}

void q2_meta_assert(struct q2_meta *meta)
{
    assert_locked(&meta->lock);
    assert(meta->l1_pages.dirty_count <= meta->l1_pages.pages);
    assert(meta->reftable_pages.dirty_count <= meta->reftable_pages.pages);
    assert(!meta->breached || meta->broken);
    assert(!meta->must_mark || meta->geo.version >= 3); /* version 2 has no such bit */
    assert(!meta->targets_known || meta->guarded);
    assert(meta->l2.slice_size <= meta->geo.cluster_size && meta->refcounts.slice_size == meta->l2.slice_size);
    q2_cache_assert(&meta->l2);
    q2_cache_assert(&meta->refcounts);
    if (get_be32(meta->sector) != Q2_MAGIC && get_be32(meta->sector) != Q2_MAGIC_UNFINISHED)
        return; /* a test of a part, without an image */
    assert_header(meta);
    if (!atomic_load(&meta->broken)) /* those of a header that was changed may not have been read */
        assert_tables(meta);
}

#endif
