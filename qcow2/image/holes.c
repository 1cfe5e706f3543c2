/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Whether block status asks the host where allocated clusters have holes. It does for an image whose metadata only
 * was preallocated, by QEMU's rule, so that both tell the same: more clusters are in use than the host has space
 * for.
 *
 * Happy path: the length of the file beside its space settles it for most; otherwise clusters with a refcount are
 * counted, a block at a time, until there are enough.
 * Failure modes: what cannot be counted is taken for an image without such holes: then its clusters are data.
 */
#include <assert.h>
#include <endian.h>
#include <stdlib.h>

#include "engine/base/bits.h"
#include "engine/base/mem.h"
#include "engine/loop/queue.h"
#include "engine/volume.h"
#include "qcow2/format/format.h"
#include "qcow2/image/image.h"
#include "qcow2/qcow2.h"

/* Of the refcount block at host_offset, from which `left` refcounts count. */
static uint64_t count_block(const struct q2 *q, vdisk_queue *queue, uint64_t host_offset, uint64_t left,
                            uint8_t *buf)
{
    uint64_t found = 0;

    assert(left > 0);
    if (host_offset == 0 || !is_aligned(host_offset, q->meta.geo.cluster_size) ||
        io_pread(queue, q->meta.layer->file, buf, q->meta.geo.cluster_size, host_offset) < 0)
        return 0;
    for (uint64_t i = 0; i < min_u64(left, 1ull << q->meta.geo.refblock_bits); i++)
        found += q2_refcount_get(&q->meta.geo, buf, i) != 0;
    return found;
}

/* Are `enough` of the first `end` clusters in use? */
static bool count_clusters(const struct q2 *q, vdisk_queue *queue, uint64_t end, uint64_t enough)
{
    uint64_t blocks = min_u64(q2_reftable_entries(&q->meta.geo, q->meta.header.reftable_clusters),
                              div_up(end, 1ull << q->meta.geo.refblock_bits));
    uint64_t *table = mem_buffer(align_up(blocks * 8, 4096));
    uint8_t *buf = mem_buffer(max_u64(q->meta.geo.cluster_size, 4096));
    uint64_t found = 0;

    if (table && buf && blocks > 0 &&
        io_pread(queue, q->meta.layer->file, table, blocks * 8, q->meta.header.reftable_offset) == 0) {
        for (uint64_t i = 0; i < blocks && found < enough; i++)
            found += count_block(q, queue, q2_reftable_offset(be64toh(table[i])),
                                 end - (i << q->meta.geo.refblock_bits), buf);
    }
    assert(found <= end);
    mem_free(table);
    mem_free(buf);
    return found >= enough;
}

bool q2_has_host_holes(struct layer *layer, vdisk_queue *queue)
{
    const struct q2 *q = q2_of(layer);
    uint64_t space, enough, end;

    assert(layer->read_only);
    if (!layer->file->driver->allocated || q->meta.header.reftable_problem)
        return false;
    space = layer->file->driver->allocated(layer->file) >> q->meta.geo.cluster_bits;
    enough = max_u64(space * 10 / 9, space + 2);
    end = q2_cluster_up(&q->meta.geo, backend_size(layer->file)) >> q->meta.geo.cluster_bits;
    return end >= enough && count_clusters(q, queue, end, enough);
}
