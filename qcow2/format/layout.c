/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The plan of a new image.
 *
 * Invariants.
 *  1. Every cluster of the file has refcount 1 and is referred to once: no leak, no hole.
 *  2. Any piece of the metadata can be made without the others: it is written as a stream in bounded memory.
 */
#include "qcow2/format/layout.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>

#include "engine/base/error.h"
#include "qcow2/format/entry.h"

/*
 * Refcount blocks describe themselves and the refcount table too: grow both until they cover all. Neither ever has
 * to shrink again, so this ends.
 */
static void plan_refcounts(struct q2_layout *l, uint64_t other_clusters)
{
    uint64_t blocks, table = 1, before;

    blocks = 1;
    do {
        before = blocks + table;
        blocks = div_up(other_clusters + blocks + table, q2_refblock_entries(&l->geo));
        table = div_up(blocks * Q2_REFTABLE_ENTRY_SIZE, l->geo.cluster_size);
    } while (blocks + table != before);
    l->refblocks = blocks;
    l->reftable_clusters = table;
    assert(blocks * Q2_REFTABLE_ENTRY_SIZE <= table << l->geo.cluster_bits);
}

/* What holds of each plan: of a new image, and of a piece. */
static void layout_assert(const struct q2_layout *l)
{
    assert(is_aligned(l->reftable_offset | l->refblocks_offset | l->l1_offset | l->l2_offset | l->data_offset,
                      l->geo.cluster_size));
    assert(l->first_cluster << l->geo.cluster_bits <= l->reftable_offset);
    assert(l->reftable_offset <= l->refblocks_offset); /* in order, */
    assert(l->refblocks_offset < l->l1_offset && l->l1_offset <= l->l2_offset && l->l2_offset <= l->data_offset);
    assert(l->data_offset + (l->data_clusters << l->geo.cluster_bits) == q2_layout_end(l)); /* and without a gap */
    assert(div_up(l->total_clusters, q2_refblock_entries(&l->geo)) == l->refblocks); /* invariant 1 */
    if (l->map == Q2_MAP_SOME) {
        assert(l->l2_tables <= l->l1_entries);
        assert(l->data_clusters <= 2 * l->guest_clusters); /* of a stream that is stored as it is */
        return;
    }
    assert(l->l2_tables == (l->map == Q2_MAP_NONE ? 0 : div_up(l->guest_clusters, q2_l2_entries(&l->geo))));
    assert(l->data_clusters == 0 || l->data_clusters == l->guest_clusters);
}

/* Of a new image: what its size says. 0, or -EFBIG. */
static int begin_plan(const struct q2_geometry *geo, uint64_t size, const char *name, struct q2_layout *l)
{
    if (size > q2_max_size(geo)) {
        err_set(EFBIG, "%s: %" PRIu64 " bytes are too many for clusters of %" PRIu64 " bytes: at most %" PRIu64
                " are possible", name, size, geo->cluster_size, q2_max_size(geo));
        return err_hint(-EFBIG, "use a larger cluster size");
    }
    l->guest_clusters = q2_clusters(geo, size);
    l->l1_entries = max_u64(1, q2_l1_entries(geo, size));
    l->l1_clusters = q2_clusters(geo, l->l1_entries * Q2_L1_ENTRY_SIZE);
    return 0;
}

/* How many there are of each part is known: where they lie. */
static int place(struct q2_layout *l, const char *name, struct q2_layout *ret)
{
    const struct q2_geometry *geo = &l->geo;

    plan_refcounts(l, 1 + l->l1_clusters + l->l2_tables + l->data_clusters);
    l->reftable_offset = geo->cluster_size;
    l->refblocks_offset = l->reftable_offset + (l->reftable_clusters << geo->cluster_bits);
    l->l1_offset = l->refblocks_offset + (l->refblocks << geo->cluster_bits);
    l->l2_offset = l->l1_offset + (l->l1_clusters << geo->cluster_bits);
    l->data_offset = l->l2_offset + (l->l2_tables << geo->cluster_bits);
    l->total_clusters = (l->data_offset >> geo->cluster_bits) + l->data_clusters;
    if (l->reftable_clusters << geo->cluster_bits > Q2_MAX_REFTABLE_SIZE ||
        q2_layout_end(l) > Q2_MAX_HOST_OFFSET) {
        err_set(EFBIG, "%s: %" PRIu64 " bytes, %s, need a refcount table that is too large", name, l->size,
                l->map == Q2_MAP_SOME ? "with so much data" : "preallocated");
        return err_hint(-EFBIG, "use a larger cluster size or smaller refcount_bits");
    }
    layout_assert(l);
    assert(l->l1_entries * Q2_L1_ENTRY_SIZE <= Q2_MAX_L1_SIZE && l->l1_entries >= q2_l1_entries(geo, l->size));
    *ret = *l;
    return 0;
}

int q2_layout_plan(const struct q2_geometry *geo, uint64_t size, enum q2_layout_map map, const char *name,
                   struct q2_layout *ret)
{
    struct q2_layout l = {.geo = *geo, .map = map, .size = size};
    int rc = begin_plan(geo, size, name, &l);

    assert(map != Q2_MAP_ZERO || geo->version >= 3);
    assert(map != Q2_MAP_KEPT || geo->extended_l2);
    assert(map != Q2_MAP_SOME);
    if (rc < 0)
        return rc;
    if (map != Q2_MAP_NONE) {
        l.l2_tables = q2_l1_entries(geo, size);
        l.data_clusters = geo->data_file ? 0 : l.guest_clusters;
    }
    return place(&l, name, ret);
}

int q2_layout_some(const struct q2_geometry *geo, uint64_t size, uint64_t l2_tables, uint64_t data_clusters,
                   const char *name, struct q2_layout *ret)
{
    struct q2_layout l = {.geo = *geo, .map = Q2_MAP_SOME, .size = size};
    int rc = begin_plan(geo, size, name, &l);

    assert(!geo->data_file);
    if (rc < 0)
        return rc;
    l.l2_tables = l2_tables;
    l.data_clusters = data_clusters;
    return place(&l, name, ret);
}

int q2_layout_measure(const struct q2_geometry *geo, uint64_t size, const char *name, uint64_t *ret)
{
    uint64_t tables = q2_l1_entries(geo, size), l1 = q2_clusters(geo, tables * Q2_L1_ENTRY_SIZE);
    struct q2_layout l = {.geo = *geo};
    uint64_t others;

    assert(is_aligned(size, geo->cluster_size));
    if (tables * Q2_L1_ENTRY_SIZE > Q2_MAX_L1_SIZE) {
        err_set(EFBIG, "%s: The image size is too large (try using a larger cluster size)", name);
        return -EFBIG;
    }
    others = 1 + l1 + tables + q2_clusters(geo, size);
    plan_refcounts(&l, others);
    *ret = (others + l.reftable_clusters + l.refblocks) << geo->cluster_bits;
    return 0;
}

/* ---- a piece that is appended ------------------------------------------------------------------------------ */

uint64_t q2_append_blocks(const struct q2_geometry *geo, uint64_t guest_clusters)
{
    uint64_t others = guest_clusters + div_up(guest_clusters, q2_l2_entries(geo)), blocks = 0, before;

    do {
        before = blocks;
        blocks = div_up(others + blocks, q2_refblock_entries(geo));
        assert(blocks >= before); /* so this ends */
    } while (blocks != before);
    return blocks;
}

bool q2_layout_append(const struct q2_geometry *geo, uint64_t guest_clusters, uint64_t first_cluster,
                      uint64_t blocks, struct q2_layout *ret)
{
    uint64_t per_table = 1 + q2_l2_entries(geo), room = blocks * (q2_refblock_entries(geo) - 1);
    uint64_t most = max_u64(1, min_u64(Q2_APPEND_TABLES, Q2_APPEND_BYTES >> geo->cluster_bits));
    struct q2_layout l = {.geo = *geo, .map = Q2_MAP_NORMAL, .first_cluster = first_cluster};

    assert(!geo->data_file && guest_clusters > 0 && is_aligned(first_cluster, q2_refblock_entries(geo)));
    l.guest_clusters = min_u64(guest_clusters, most * q2_l2_entries(geo));
    if (q2_append_blocks(geo, l.guest_clusters) > blocks)
        l.guest_clusters = min_u64(l.guest_clusters, room / per_table * q2_l2_entries(geo));
    if (l.guest_clusters == 0)
        return false;
    l.refblocks = q2_append_blocks(geo, l.guest_clusters);
    assert(l.refblocks <= blocks);
    l.l2_tables = div_up(l.guest_clusters, q2_l2_entries(geo));
    l.data_clusters = l.guest_clusters;
    l.reftable_offset = l.refblocks_offset = first_cluster << geo->cluster_bits;
    l.l1_offset = l.l2_offset = l.refblocks_offset + (l.refblocks << geo->cluster_bits);
    l.data_offset = l.l2_offset + (l.l2_tables << geo->cluster_bits);
    l.total_clusters = l.refblocks + l.l2_tables + l.data_clusters;
    layout_assert(&l);
    *ret = l;
    return true;
}

/* ---- bytes -------------------------------------------------------------------------------------------------- */

/* `index` counts the part's clusters. `buf` is one cluster, all of which is filled. */

static void fill_reftable(const struct q2_layout *l, uint64_t index, uint8_t *buf)
{
    uint64_t per_cluster = l->geo.cluster_size / Q2_REFTABLE_ENTRY_SIZE;

    assert(index < l->reftable_clusters && l->refblocks <= l->reftable_clusters * per_cluster);
    memset(buf, 0, l->geo.cluster_size);
    for (uint64_t i = 0, block = index * per_cluster; i < per_cluster && block < l->refblocks; i++, block++)
        put_be64(buf + i * Q2_REFTABLE_ENTRY_SIZE, l->refblocks_offset + (block << l->geo.cluster_bits));
}

static void fill_refblock(const struct q2_layout *l, uint64_t index, uint8_t *buf)
{
    uint64_t first = index << l->geo.refblock_bits;
    uint64_t n = min_u64(q2_refblock_entries(&l->geo), l->total_clusters - first);

    assert(first < l->total_clusters);
    if (n < q2_refblock_entries(&l->geo))
        memset(buf, 0, l->geo.cluster_size);
    q2_refcount_fill_one(&l->geo, buf, 0, n);
}

static void fill_l1(const struct q2_layout *l, uint64_t index, uint8_t *buf)
{
    uint64_t per_cluster = l->geo.cluster_size / Q2_L1_ENTRY_SIZE;

    assert(index < l->l1_clusters && l->l2_tables <= l->l1_entries);
    memset(buf, 0, l->geo.cluster_size);
    for (uint64_t i = 0, table = index * per_cluster; i < per_cluster && table < l->l2_tables; i++, table++)
        put_be64(buf + i * Q2_L1_ENTRY_SIZE, q2_l1_entry(l->l2_offset + (table << l->geo.cluster_bits), true));
}

/* `n` entries: `word`, and each further one a cluster on. Nothing else is done for each of millions. */
static void fill_run(const struct q2_layout *l, uint8_t *buf, uint64_t word, uint64_t n)
{
    for (uint64_t i = 0; i < n; i++)
        put_be64(buf + i * sizeof word, word + (i << l->geo.cluster_bits));
}

static void fill_l2(const struct q2_layout *l, uint64_t index, uint8_t *buf)
{
    bool zero_flag = l->map == Q2_MAP_ZERO && !l->geo.extended_l2;
    enum q2_cluster_type type = zero_flag ? Q2_CLUSTER_ZERO_ALLOC : Q2_CLUSTER_NORMAL;
    uint64_t cluster = index << l->geo.l2_bits, bitmap = 0;
    uint64_t n = min_u64(q2_l2_entries(&l->geo), l->guest_clusters - cluster);
    uint64_t host = (cluster << l->geo.cluster_bits) + (l->geo.data_file ? 0 : l->data_offset);
    uint64_t first = q2_entry_encode(&l->geo, type, host, true), used = q2_l2_entry_offset(&l->geo, n);

    assert(cluster < l->guest_clusters && index < l->l2_tables && l->map != Q2_MAP_NONE);
    assert(host + (n << l->geo.cluster_bits) <= Q2_MAX_HOST_OFFSET + l->geo.cluster_size);
    if (l->map == Q2_MAP_NORMAL)
        bitmap = q2_bitmap(UINT32_MAX, 0);
    else if (l->map == Q2_MAP_ZERO)
        bitmap = q2_bitmap(0, UINT32_MAX);
    if (!l->geo.extended_l2)
        fill_run(l, buf, first, n);
    for (uint64_t i = 0; l->geo.extended_l2 && i < n; i++) {
        struct q2_l2_entry e = {first + (i << l->geo.cluster_bits), bitmap};

        q2_l2_entry_put(&l->geo, buf + q2_l2_entry_offset(&l->geo, i), e);
    }
    memset(buf + used, 0, (size_t)(l->geo.cluster_size - used));
}

static void fill_cluster(const struct q2_layout *l, uint64_t host_offset, uint8_t *buf)
{
    uint32_t bits = l->geo.cluster_bits;

    assert(host_offset >= l->reftable_offset && host_offset < l->data_offset);
    if (host_offset < l->refblocks_offset)
        fill_reftable(l, (host_offset - l->reftable_offset) >> bits, buf);
    else if (host_offset < l->l1_offset)
        fill_refblock(l, (host_offset - l->refblocks_offset) >> bits, buf);
    else if (host_offset < l->l2_offset)
        fill_l1(l, (host_offset - l->l1_offset) >> bits, buf);
    else
        fill_l2(l, (host_offset - l->l2_offset) >> bits, buf);
}

void q2_layout_fill(const struct q2_layout *l, uint64_t host_offset, uint8_t *buf, uint64_t len)
{
    assert(is_aligned(host_offset | len, l->geo.cluster_size));
    assert(len > 0 && host_offset + len <= (l->map == Q2_MAP_SOME ? l->l1_offset : l->data_offset));
    for (uint64_t done = 0; done < len; done += l->geo.cluster_size)
        fill_cluster(l, host_offset + done, buf + done);
}
