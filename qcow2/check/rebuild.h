/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A new refcount structure for an image whose old one cannot be trusted. */
#ifndef QCOW2_REBUILD_H
#define QCOW2_REBUILD_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/backend.h"
#include "engine/vdisk.h"
#include "qcow2/check/spans.h"

struct qcow2_check_opts;

enum { Q2_REBUILD_STRICT = 1u << 0, Q2_REBUILD_KEEP = 1u << 1 };

struct q2_rebuilt {
    uint64_t host_offset; /* of the new refcount table */
    uint32_t clusters;
    struct q2_spans freed; /* what has had a refcount and has none now; q2_spans_finish() */
};

/* Point the header to these, durably. 0 or -errno. */
typedef int q2_refcounts_fn(void *arg, const struct q2_rebuilt *n);

/*
 * Count all references, write blocks and a table that say so into free space, flush. Blocks; outside the loop.
 * The header still points to the old ones: switching is the caller's. Q2_REBUILD_STRICT: refuse (-EIO) when
 * anything but the refcounts is damaged. Without it only tables that cannot be read are a reason to refuse, and
 * where an entry is damaged that may have referred to a cluster which seems free, what has a refcount keeps one;
 * Q2_REBUILD_KEEP: in any case. Errors with a text; then nothing but free clusters was written, and *ret is
 * zeroed.
 */
int q2_rebuild_refcounts(struct backend *file, vdisk_queue *queue, const struct qcow2_check_opts *opts,
                         unsigned flags, struct q2_rebuilt *ret);

struct q2_more; /* qcow2/check/more.h */

struct q2_rebuild {
    unsigned        flags;         /* Q2_REBUILD_ */
    uint32_t        refcount_bits; /* 0: as they are. Version 3 */
    uint64_t        room;          /* so many clusters behind all that are used have refcounts, too: of 0 */
    struct q2_more *more;          /* new clusters that are to have refcounts; NULL: none */
};

/* The same, so. Errors also: -EINVAL, with a text: a count does not fit into refcount_bits. */
int q2_rebuild_refcounts_as(struct backend *file, vdisk_queue *queue, const struct qcow2_check_opts *opts,
                            const struct q2_rebuild *how, struct q2_rebuilt *ret);

#endif
