/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The front of an image that is written from its start to its end: header, refcount table, refcount blocks, L1
 * table, L2 tables, in this order; its data follows, clusters in guest order, and then the image ends.
 *
 * Happy path
 *  1. options are judged, as of creation, which plans all but where things lie;
 *  2. clusters with data are noted, a bit each, in a map for each L1 entry that has some; one whose clusters all
 *     have data takes no memory. Where there is a backing file clusters of zeros, which hide it, have other maps;
 *  3. they are counted, and everything has its place;
 *  4. it is read, cluster by cluster; L2 tables are made of the maps.
 * Failure modes
 *  - options that need a second file, or space that is not data: -ENOTSUP, before anything is written;
 *  - the image gets too large: -EFBIG, before anything is written.
 *
 * Invariants
 *  1. Each guest cluster with data has the next host cluster, from data_offset on; compressed: front_pack.c.
 *  2. An L1 entry leads to a table if, and only if, some cluster of its range has data, or zeros that hide a
 *     backing file: table n is that of the nth such entry.
 *  3. Zeros hide a backing file, or nothing is noted of them; data goes before them.
 */
#include <assert.h>
#include <errno.h>
#include <string.h>

#include "engine/base/bits.h"
#include "engine/base/error.h"
#include "engine/base/mem.h"
#include "qcow2/image/front.h"

/* ---- the beginning, and the end -------------------------------------------------------------------------- */

static int refuse(const char *name, const char *what)
{
    return err_set(ENOTSUP, "%s: an image that is written as a stream cannot have %s", name, what);
}

static int check_opts(const char *name, const struct vdisk_create_opts *opts)
{
    if (opts->data_file)
        return refuse(name, "an external data file");
    if (opts->preallocation != VDISK_PREALLOC_OFF)
        return refuse(name, "preallocated space");
    return 0;
}

void q2_front_end(struct front *front)
{
    struct q2_front *f = container_of(front, struct q2_front, front);

    q2_front_free_maps(f, f->maps);
    q2_front_free_maps(f, f->zeros);
    q2_pack_end(f);
    if (f->plan)
        q2_create_drop(f->plan);
    mem_free(f);
}

int q2_front_begin(const char *name, struct vdisk_create_opts *opts, struct front **ret_front)
{
    struct q2_front *f = NULL;
    int rc = check_opts(name, opts);

    if (rc < 0)
        return rc;
    f = mem_calloc(1, sizeof *f);
    if (!f)
        return err_set(ENOMEM, "%s: out of memory", name);
    opts->backing_unchecked = true; /* where the image will lie is not known */
    rc = q2_create_plan(name, opts, &f->plan);
    if (rc == 0) {
        f->maps = mem_calloc(q2_front_create(f)->layout.l1_entries, sizeof(struct cluster_map *));
        if (opts->backing_file)
            f->zeros = mem_calloc(q2_front_create(f)->layout.l1_entries, sizeof(struct cluster_map *));
        if (!f->maps || (opts->backing_file && !f->zeros))
            rc = err_set(ENOMEM, "%s: out of memory", name);
    }
    if (rc < 0) {
        q2_front_end(&f->front);
        return rc;
    }
    assert(q2_front_create(f)->layout.map == Q2_MAP_NONE && !q2_front_geo(f)->data_file);
    f->front.unit = q2_front_geo(f)->cluster_size;
    *ret_front = &f->front;
    return 0;
}

/* ---- what has data --------------------------------------------------------------------------------------- */

static bool has_table(const struct q2_front *f, uint64_t entry)
{
    return f->maps[entry] || (f->zeros && f->zeros[entry]);
}

bool q2_front_next(struct front *front, uint64_t guest_offset, uint64_t *ret_offset, uint64_t *ret_len)
{
    const struct q2_front *f = container_of(front, struct q2_front, front);
    const struct q2_geometry *g = q2_front_geo(f);
    uint64_t end = q2_front_create(f)->layout.guest_clusters, first, stop;

    assert(is_aligned(guest_offset, g->cluster_size) && guest_offset >> g->cluster_bits < end);
    first = q2_front_find(f, guest_offset >> g->cluster_bits, end, true);
    if (first == end)
        return false;
    stop = q2_front_find(f, first, end, false);
    assert(first < stop && q2_front_has(f, f->maps, first) && q2_front_has(f, f->maps, stop - 1));
    *ret_offset = first << g->cluster_bits;
    *ret_len = (stop - first) << g->cluster_bits;
    return true;
}

int q2_front_lay_out(struct front *front)
{
    struct q2_front *f = container_of(front, struct q2_front, front);
    struct q2_create *c = q2_front_create(f);
    uint64_t tables = 0, clusters = 0, packed = 0;
    struct q2_layout l;
    int rc;

    rc = f->pack ? q2_pack_measure(f, &packed) : 0;
    if (rc < 0)
        return rc;
    for (uint64_t i = 0; i < c->layout.l1_entries; i++) {
        tables += has_table(f, i);
        if (f->maps[i])
            clusters += f->maps[i] == &q2_front_full ? q2_l2_entries(&c->layout.geo) : f->maps[i]->set;
    }
    assert(f->read == 0 && (f->zeros || tables <= clusters) && clusters <= c->layout.guest_clusters);
    rc = q2_layout_some(&c->layout.geo, c->layout.size, tables, f->pack ? packed : clusters, c->plan.name,
                        &l);
    if (rc == 0 && f->pack && (q2_layout_end(&l) - 1) & ~c->layout.geo.compressed_offset_mask)
        rc = err_set(EFBIG, "%s: so much compressed data is too much for the cluster size", c->plan.name);
    if (rc < 0)
        return rc;
    if (f->pack)
        q2_pack_begin(f, l.data_offset);
    q2_create_place(c, &l);
    f->next_host = l.data_offset;
    f->front.length = q2_layout_end(&l);
    return 0;
}

/* ---- bytes ----------------------------------------------------------------------------------------------- */

/* Cluster `index` of the L1 table; they are asked for in order. */
static void fill_l1(struct q2_front *f, uint64_t index, uint8_t *buf)
{
    const struct q2_layout *l = &q2_front_create(f)->layout;
    uint64_t per_cluster = l->geo.cluster_size / Q2_L1_ENTRY_SIZE, first = index * per_cluster;

    memset(buf, 0, l->geo.cluster_size);
    for (uint64_t i = first; i < first + per_cluster && i < l->l1_entries; i++) {
        if (!has_table(f, i))
            continue;
        assert(f->l1_entered < l->l2_tables); /* invariant 2 */
        put_be64(buf + (i - first) * Q2_L1_ENTRY_SIZE,
                 q2_l1_entry(l->l2_offset + (f->l1_entered++ << l->geo.cluster_bits), true));
    }
}

static void put_data(struct q2_front *f, uint64_t cluster, uint8_t *place)
{
    const struct q2_geometry *g = q2_front_geo(f);
    struct q2_l2_entry e = {q2_entry_encode(g, Q2_CLUSTER_NORMAL, f->next_host, true),
                            g->extended_l2 ? q2_bitmap(UINT32_MAX, 0) : 0};

    if (f->pack)
        e = q2_pack_entry(f, cluster);
    else
        f->next_host += g->cluster_size; /* invariant 1 */
    q2_l2_entry_put(g, place, e);
}

/* The next L2 table; they are asked for in order, too. */
static void fill_l2(struct q2_front *f, uint8_t *buf)
{
    const struct q2_layout *l = &q2_front_create(f)->layout;
    const struct q2_geometry *g = &l->geo;
    uint64_t first, end;

    while (!has_table(f, f->next_map))
        f->next_map++;
    assert(f->next_map < l->l1_entries && f->l1_entered == l->l2_tables); /* invariant 2 */
    memset(buf, 0, g->cluster_size);
    first = f->next_map++ << g->l2_bits;
    end = min_u64(l->guest_clusters, first + q2_l2_entries(g));
    for (uint64_t i = first; i < end; i++) {
        uint8_t *place = buf + q2_l2_entry_offset(g, i - first);
        if (q2_front_has(f, f->maps, i)) {
            put_data(f, i, place);
        } else if (f->zeros && q2_front_has(f, f->zeros, i)) {
            struct q2_l2_entry e = {g->extended_l2 ? 0 : q2_entry_encode(g, Q2_CLUSTER_ZERO_PLAIN, 0, false),
                                    g->extended_l2 ? q2_bitmap(0, UINT32_MAX) : 0};
            q2_l2_entry_put(g, place, e);
        }
    }
    assert(f->next_host <= q2_layout_end(l));
}

/* Of the refcount table, or a block. */
static void fill_refcounts(struct q2_front *f, uint8_t *buf)
{
    const struct q2_layout *l = &q2_front_create(f)->layout;
    uint64_t data = l->data_offset >> l->geo.cluster_bits, first, end;

    q2_layout_fill(l, f->read, buf, l->geo.cluster_size);
    if (!f->pack || f->read < l->refblocks_offset)
        return;
    first = (f->read - l->refblocks_offset) >> l->geo.cluster_bits << l->geo.refblock_bits;
    end = min_u64(l->total_clusters, first + q2_refblock_entries(&l->geo));
    for (uint64_t i = max_u64(first, data); i < end; i++)
        q2_refcount_set(&l->geo, buf, i - first, q2_pack_count(f, i));
}

static int fill_cluster(struct q2_front *f, uint8_t *buf)
{
    const struct q2_create *c = q2_front_create(f);
    const struct q2_layout *l = &c->layout;

    assert(f->read < l->data_offset && is_aligned(f->read, l->geo.cluster_size));
    if (f->read == 0)
        return q2_header_write(&c->header, c->plan.name, buf, (size_t)l->geo.cluster_size);
    if (f->read < l->l1_offset)
        fill_refcounts(f, buf);
    else if (f->read < l->l2_offset)
        fill_l1(f, (f->read - l->l1_offset) >> l->geo.cluster_bits, buf);
    else
        fill_l2(f, buf);
    return 0;
}

int q2_front_read(struct front *front, uint8_t *buf, size_t len, size_t *ret_len)
{
    struct q2_front *f = container_of(front, struct q2_front, front);
    const struct q2_layout *l = &q2_front_create(f)->layout;
    size_t n = 0, size = (size_t)l->geo.cluster_size;
    int rc = 0;

    assert(len >= size && f->front.length == q2_layout_end(l));
    while (f->read < l->data_offset && n + size <= len && rc == 0) {
        rc = fill_cluster(f, buf + n);
        f->read += size;
        n += size;
    }
    assert(f->read < l->data_offset || rc < 0 || f->pack || f->next_host == q2_layout_end(l)); /* invariant 1 */
    *ret_len = rc == 0 ? n : 0;
    return rc;
}
