/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The struct of an open image: made empty, filled from header and tables, given back.
 *
 * Happy path: what the header says; L1 and refcount table; caches of their sizes; what the allocator starts with;
 * where metadata lies.
 * Failure modes: errors of the I/O, tables that cannot be or take too much memory, -ENOMEM; each with a text. The
 * struct can be given back after any of them.
 */
#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/error.h"
#include "engine/base/mem.h"
#include "qcow2/format/format.h"
#include "qcow2/image/image.h"
#include "qcow2/meta/meta.h"
#include "qcow2/space/space.h"

enum { L1_PAGE = 4096 };

_Static_assert(offsetof(struct q2, meta) == 0, "q2_meta_of() of a volume is where its struct q2 begins");

static void make_clean(struct q2_meta *meta, struct op *op)
{
    q2_flush(&container_of(meta, struct q2, meta)->flush, op);
}

struct q2 *q2_state_alloc(struct layer *layer)
{
    struct q2 *q = mem_aligned(alignof(struct q2), sizeof *q);

    if (!q)
        return NULL;
    memset(q, 0, sizeof *q);
    q2_meta_state_init(&q->meta, layer);
    q->meta.make_clean = make_clean;
    q2_space_state_init(&q->space, &q->meta);
    q2_map_state_init(&q->map, &q->meta, &q->space);
    q2_flush_state_init(&q->flush, &q->meta, &q->space);
    return q;
}

void q2_state_free(struct q2 *q)
{
    q2_map_state_finish(&q->map);
    q2_space_state_finish(&q->space);
    q2_meta_state_finish(&q->meta);
    mem_free(q);
}

/* ---- tables -------------------------------------------------------------------------------------------- */

static int read_table(struct q2 *q, vdisk_queue *queue, const char *what, uint64_t host_offset, uint64_t entries,
                      uint8_t **ret)
{
    uint64_t bytes = max_u64(entries * 8, 8);
    uint8_t *buf = mem_buffer(align_up(bytes, 4096));
    int rc;

    assert(q2_offset_in_cluster(&q->meta.geo, host_offset) == 0 && (entries == 0 || host_offset > 0));
    if (!buf)
        return err_set(ENOMEM, "%s: out of memory for the %s", q->meta.layer->name, what);
    memset(buf, 0, bytes);
    rc = entries ? io_pread(queue, q->meta.layer->file, buf, entries * 8, host_offset) : 0;
    if (rc < 0) {
        mem_free(buf);
        return err_set(rc, "%s: reading the %s: %s", q->meta.layer->name, what, strerror(-rc));
    }
    *ret = buf;
    return 0;
}

/* Entries that are 0 are not written: most of a large table stays memory that is not there. The bytes that are. */
static uint64_t fill_l1(struct q2_l1 *l1, const uint8_t *table)
{
    const uint64_t page = L1_PAGE / sizeof l1->entry[0];
    uint64_t bytes = 0, touched = UINT64_MAX;

    for (uint64_t i = 0; i < l1->entries; i++) {
        uint64_t entry = get_be64(table + 8 * i);
        if (entry == 0)
            continue;
        atomic_init(&l1->entry[i], entry);
        if (i / page != touched)
            bytes += L1_PAGE;
        touched = i / page;
    }
    assert(bytes <= align_up(l1->entries * sizeof l1->entry[0], L1_PAGE));
    return bytes;
}

/* `tables_left`: what the layers above leave of the bound for the whole chain; NULL: not one of a chain. */
static int read_l1(struct q2 *q, vdisk_queue *queue, uint64_t *tables_left)
{
    uint64_t entries = q->meta.header.l1_entries, bytes;
    struct q2_l1 *l1 = mem_calloc(1, sizeof *l1 + entries * sizeof l1->entry[0]);
    uint8_t *buf = NULL;
    int rc;

    assert(!atomic_load(&q->meta.l1) && entries <= Q2_MAX_L1_SIZE / Q2_L1_ENTRY_SIZE);
    if (!l1)
        return err_set(ENOMEM, "%s: out of memory for the L1 table", q->meta.layer->name);
    rc = read_table(q, queue, "L1 table", q->meta.header.l1_offset, entries, &buf);
    if (rc < 0) {
        mem_free(l1);
        return rc;
    }
    l1->entries = entries;
    bytes = fill_l1(l1, buf);
    atomic_store(&q->meta.l1, l1);
    if (tables_left && bytes > *tables_left)
        rc = err_hint(
            err_set(EFBIG, "%s: the L1 tables of the backing chain take too much memory", q->meta.layer->name),
            "make the chain shorter (commit or rebase), or the clusters larger");
    else if (tables_left)
        *tables_left -= bytes;
    if (q->meta.header.l1_doubtful && !q2_l1_plausible(buf, entries))
        rc = err_hint(
            err_set(EINVAL, "%s: not a valid qcow2 image: L1 table and refcount table overlap",
                    q->meta.layer->name),
            "restore it from a copy");
    mem_free(buf);
    return rc;
}

static int read_reftable(struct q2 *q, vdisk_queue *queue)
{
    uint8_t *buf = NULL;
    int rc;

    assert(!q->meta.reftable && !q->meta.layer->read_only);
    q->meta.reftable_entries = q2_reftable_entries(&q->meta.geo, q->meta.header.reftable_clusters);
    rc = read_table(q, queue, "refcount table", q->meta.header.reftable_offset, q->meta.reftable_entries, &buf);
    if (rc < 0)
        return rc;
    q->meta.reftable = (uint64_t *)(void *)buf;
    for (uint64_t i = 0; i < q->meta.reftable_entries; i++)
        q->meta.reftable[i] = be64toh(q->meta.reftable[i]);
    return 0;
}

static int setup_tables(struct q2 *q, vdisk_queue *queue, uint64_t *tables_left)
{
    uint32_t page = (uint32_t)min_u64(q->meta.geo.cluster_size, 4096);
    uint64_t l1_bytes = q2_cluster_up(&q->meta.geo, max_u64((uint64_t)q->meta.header.l1_entries * 8, 8));
    uint64_t reftable_bytes = (uint64_t)q->meta.header.reftable_clusters << q->meta.geo.cluster_bits;
    int rc = read_l1(q, queue, tables_left);

    if (rc == 0 && !q->meta.layer->read_only)
        rc = read_reftable(q, queue);
    if (rc < 0)
        return rc;
    if (q2_table_init(&q->meta.l1_pages, q->meta.header.l1_offset, l1_bytes, page) < 0 ||
        q2_table_init(&q->meta.reftable_pages, q->meta.header.reftable_offset, reftable_bytes, page) < 0)
        return err_set(ENOMEM, "%s: out of memory", q->meta.layer->name);
    q->meta.l1_start = q->meta.header.l1_offset;
    q->meta.l1_end = q->meta.header.l1_offset + (q->meta.header.l1_entries ? l1_bytes : 0);
    q->meta.reftable_start = q->meta.header.reftable_offset;
    q->meta.reftable_end = q->meta.header.reftable_offset + reftable_bytes;
    assert(!ranges_meet(q->meta.l1_start, q->meta.l1_end, q->meta.reftable_start, q->meta.reftable_end));
    return 0;
}

/* ---- all of it ----------------------------------------------------------------------------------------- */

int q2_state_read_header(struct q2 *q, vdisk_queue *queue)
{
    int rc = q2_header_read(&q->meta, queue);

    if (rc == 0)
        rc = q2_header_refuse_encrypted(&q->meta.header, q->meta.layer->name);
    if (rc < 0)
        return rc;
    assert(q->meta.header.crypt_method == Q2_CRYPT_NONE);
    q->meta.geo = q->meta.header.geo;
    q->meta.compression = (enum q2_compression)q->meta.header.compression_type;
    q->meta.data_file = q->meta.geo.data_file;
    q->meta.data_file_raw = q->meta.data_file && q->meta.header.autoclear & Q2_AUTOCLEAR_DATA_FILE_RAW;
    return 0;
}

int q2_state_setup(struct q2 *q, vdisk_queue *queue, uint64_t *tables_left)
{
    int rc = setup_tables(q, queue, tables_left);

    if (rc == 0)
        rc = q2_meta_caches_init(&q->meta, q->cache_bytes);
    if (rc == 0)
        q2_space_state_setup(&q->space);
    if (rc == 0 && !q->meta.layer->read_only && !(q->meta.layer->open_flags & VDISK_OPEN_CHECK))
        rc = q2_guard_init(&q->meta, queue);
    return rc;
}

/* ---- the whole ----------------------------------------------------------------------------------------- */

#ifndef NDEBUG

void q2_assert(struct q2 *q)
{
    const struct layer *layer = q->meta.layer;

    assert(layer->format_state == q && q2_of(q->meta.layer) == q);
    assert(q->space.meta == &q->meta && q->map.meta == &q->meta && q->flush.meta == &q->meta);
    assert(q->map.space == &q->space && q->flush.space == &q->space);
    assert(layer->cluster_size == q->meta.geo.cluster_size && q->meta.make_clean == make_clean);
    assert(q->meta.data_file == (layer->data != layer->file));
    assert(!q->meta.guarded || !layer->read_only);
    assert(atomic_load(&layer->size) == q->meta.header.size && layer->reach >= layer->size);
    pthread_mutex_lock(&q->meta.lock);
    assert(q2_l1_entries(&q->meta.geo, q->meta.header.size) <= q->meta.header.l1_entries);
    q2_meta_assert(&q->meta);
    q2_space_assert(&q->space);
    q2_map_assert(&q->map);
    q2_flush_assert(&q->flush);
    pthread_mutex_unlock(&q->meta.lock);
}

#endif
