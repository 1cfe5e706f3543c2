/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Where the metadata of an image lies, learned when it is opened for writing: guard.h.
 *
 * Happy path: the header, L1 table and refcount table, which are in memory, say most of it; of snapshots the table
 * and their L1 tables are read, of bitmaps the directory and their tables.
 * Failure modes: one of these cannot be read, or makes no sense: the image is refused, since it is not known what
 * a write must keep away from. An entry in them that makes no sense is passed over. More than 256 MiB of tables,
 * or more clusters than the map holds: the rest is not known.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/error.h"
#include "engine/base/mem.h"
#include "qcow2/format/format.h"
#include "qcow2/meta/guard.h"

#define READ_MAX (UINT64_C(256) << 20)

enum { PIECE = 1 << 20 };

struct reading {
    struct q2_meta *meta;
    vdisk_queue *queue;
    uint8_t *buf;
    uint64_t left; /* bytes that may be read */
};

/* A structure of `bytes` at a place that need not make sense. */
static void add_bytes(struct q2_meta *meta, uint64_t host_offset, uint64_t bytes, uint32_t kind)
{
    uint64_t end;

    if (bytes == 0 || !add_u64(host_offset, bytes, &end) || end > Q2_MAX_HOST_OFFSET)
        return;
    q2_meta_add(&meta->places, host_offset >> meta->geo.cluster_bits,
                (q2_cluster_up(&meta->geo, end) - q2_cluster_down(&meta->geo, host_offset)) >>
                    meta->geo.cluster_bits,
                kind);
}

static void add_cluster(struct q2_meta *meta, uint64_t host_offset, uint32_t kind)
{
    if (host_offset != 0 && is_aligned(host_offset, meta->geo.cluster_size))
        q2_meta_add(&meta->places, host_offset >> meta->geo.cluster_bits, 1, kind);
}

/* What is in memory. */
static void add_own_tables(struct q2_meta *meta)
{
    const struct q2_header *h = &meta->header;

    q2_meta_add(&meta->places, 0, 1, Q2_META_HEADER);
    add_bytes(meta, h->l1_offset, (uint64_t)h->l1_entries * 8, Q2_META_L1);
    add_bytes(meta, h->reftable_offset, (uint64_t)h->reftable_clusters << meta->geo.cluster_bits,
              Q2_META_REFTABLE);
    for (uint64_t i = 0; i < h->l1_entries; i++)
        add_cluster(meta, q2_l1_offset(q2_l1_get(meta, i)), Q2_META_L2);
    for (uint64_t i = 0; i < meta->reftable_entries; i++)
        add_cluster(meta, q2_reftable_offset(meta->reftable[i]), Q2_META_REFBLOCK);
}

/* A table of words that name clusters. */
static int read_words(struct reading *r, uint64_t host_offset, uint64_t entries, uint64_t mask, uint32_t kind)
{
    uint64_t size = backend_size(r->meta->layer->file);
    uint64_t end = min_u64(entries * 8, size - min_u64(size, host_offset));
    int rc = 0;

    for (uint64_t pos = 0, n; pos < end && rc == 0; pos += n) {
        n = min_u64(end - pos, PIECE);
        if (r->left < n) {
            r->meta->places.overflowed = true;
            return 0;
        }
        r->left -= n;
        rc = io_pread(r->queue, r->meta->layer->file, r->buf, n, host_offset + pos);
        for (uint64_t i = 0; i + 8 <= n && rc == 0; i += 8)
            add_cluster(r->meta, get_be64(r->buf + i) & mask, kind);
    }
    return rc;
}

static int add_snapshots(struct reading *r)
{
    struct q2_snapshot_table t = {0};
    struct q2_meta *meta = r->meta;
    int rc;

    if (meta->header.nb_snapshots == 0)
        return 0;
    rc = q2_read_snapshots(meta, r->queue, &t);
    if (rc < 0)
        return err_hint(rc, "repair it with vdisk-io check -r all, or open it read-only");
    add_bytes(meta, meta->header.snapshots_offset, t.size, Q2_META_SNAPSHOTS);
    for (uint32_t i = 0; i < t.n && rc == 0; i++) {
        const struct q2_snapshot *s = &t.entries[i];
        add_bytes(meta, s->l1_offset, (uint64_t)s->l1_entries * 8, Q2_META_SNAPSHOTS);
        rc = read_words(r, s->l1_offset, s->l1_entries, Q2_L1_OFFSET, Q2_META_SNAPSHOT_L2);
        if (rc < 0)
            err_set(rc, "%s: reading the L1 table of snapshot %.40s: %s", meta->layer->name, s->id, strerror(-rc));
    }
    q2_snapshots_free(&t);
    return rc;
}

static int add_bitmaps(struct reading *r)
{
    struct q2_bitmap_directory d = {0};
    struct q2_meta *meta = r->meta;
    int rc;

    if (!meta->header.has_bitmaps || meta->header.nb_bitmaps == 0)
        return 0;
    rc = q2_read_bitmaps(meta, r->queue, &d);
    if (rc < 0)
        return rc;
    add_bytes(meta, meta->header.bitmap_directory_offset, meta->header.bitmap_directory_size, Q2_META_BITMAPS);
    for (uint32_t i = 0; i < d.n && rc == 0; i++) {
        const struct q2_bitmap_entry *b = &d.entries[i];
        add_bytes(meta, b->table_offset, (uint64_t)b->table_entries * 8, Q2_META_BITMAPS);
        rc = read_words(r, b->table_offset, b->table_entries, Q2_BITMAP_ENTRY_OFFSET, Q2_META_BITMAPS);
        if (rc < 0)
            err_set(rc, "%s: reading the table of bitmap %.60s: %s", meta->layer->name, b->name, strerror(-rc));
    }
    q2_bitmaps_free(&d);
    return rc;
}

int q2_guard_init(struct q2_meta *meta, vdisk_queue *queue)
{
    struct reading r = {.meta = meta, .queue = queue, .left = READ_MAX};
    int rc;

    r.buf = mem_buffer(PIECE);
    if (!r.buf)
        return err_set(ENOMEM, "%s: out of memory", meta->layer->name);
    meta->guarded = true;
    add_own_tables(meta);
    rc = add_snapshots(&r);
    if (rc == 0)
        rc = add_bitmaps(&r);
    mem_free(r.buf);
    if (rc == 0)
        q2_guard_own_tables(meta);
    return rc;
}
