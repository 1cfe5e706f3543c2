/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The header of an open image: its one reader, and the one writer of its first sector.
 *
 * Read, happy path: the first 4 KiB, as much more as the header says that it has, parse.
 * Failure modes: errors of the I/O and of parsing, with a text.
 *
 * Write, happy path: the fixed fields into a copy of the sector, which is written whole and flushed; then it is
 * what is known to be on disk.
 * Failure modes: -ENOMEM, errors of the I/O: what is known to be on disk stays as it was.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/error.h"
#include "qcow2/meta/state.h"
#include "qcow2/mutant.h"

int q2_header_read(struct q2_meta *meta, vdisk_queue *queue)
{
    vdisk *v = meta->v;
    uint64_t file_size = backend_size(v->file);
    size_t first = min_u64(file_size, 4096);
    uint8_t *buf = vdisk_alloc_buffer(1u << Q2_MAX_CLUSTER_BITS);
    int rc = 0;

    if (!buf)
        return err_set(ENOMEM, "%s: out of memory", v->name);
    memset(buf, 0, 4096);
    if (first > 0)
        rc = io_pread(queue, v->file, buf, first, 0);
    if (rc == 0) {
        size_t span = min_u64(q2_header_span(buf, first), file_size);
        if (span > first)
            rc = io_pread(queue, v->file, buf, span, 0);
        if (rc == 0) {
            rc = q2_header_parse(buf, max_u64(span, first), file_size, v->name, &meta->header);
            memcpy(meta->sector, buf, Q2_SECTOR_SIZE);
            free(buf);
            return rc;
        }
    }
    free(buf);
    return err_set(rc, "%s: reading the header: %s", v->name, strerror(-rc));
}

void q2_header_patch(struct q2_meta *meta, uint8_t sector[Q2_SECTOR_SIZE])
{
    struct q2_disk_header *h = (struct q2_disk_header *)(void *)sector;
    const struct q2_header *from = &meta->header;

    memcpy(sector, meta->sector, Q2_SECTOR_SIZE);
    put_be64(&h->size, from->size);
    put_be32(&h->l1_size, from->l1_entries);
    put_be64(&h->l1_table_offset, from->l1_offset);
    put_be64(&h->refcount_table_offset, from->reftable_offset);
    put_be32(&h->refcount_table_clusters, from->reftable_clusters);
    if (from->geo.version >= 3) {
        put_be64(&h->incompatible_features, from->incompatible);
        put_be64(&h->autoclear_features, from->autoclear);
    }
}

int q2_header_update(struct q2_meta *meta, vdisk_queue *queue)
{
    uint8_t *sector = vdisk_alloc_buffer(Q2_SECTOR_SIZE);
    int rc;

    if (!sector)
        return -ENOMEM;
    pthread_mutex_lock(&meta->lock);
    q2_header_patch(meta, sector);
    pthread_mutex_unlock(&meta->lock);
    rc = io_pwrite(queue, meta->v->file, sector, Q2_SECTOR_SIZE, 0);
    if (rc == 0 && !MUTANT(HEADER_UNSYNCED))
        rc = io_pflush(queue, meta->v->file);
    if (rc == 0)
        memcpy(meta->sector, sector, Q2_SECTOR_SIZE);
    free(sector);
    return rc;
}
