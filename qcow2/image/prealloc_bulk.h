/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Preallocation by whole L2 tables, for the new range of a resize: prealloc_bulk.c. */
#ifndef QCOW2_PREALLOC_BULK_H
#define QCOW2_PREALLOC_BULK_H

#include "qcow2/image/image.h"

/* How many L2 tables one q2_prealloc_bulk() can make. */
uint64_t q2_bulk_max(const struct q2 *q);

/*
 * How much of [guest_offset, end) lies in up to `tables` tables that are not there yet: q2_bulk_max() of them are
 * one q2_prealloc_bulk(). 0: none of it; what is there, and what lies in an external data file, is
 * q2_prealloc_clusters()'s.
 */
uint64_t q2_bulk_batch(struct q2 *q, uint64_t guest_offset, uint64_t end, uint64_t tables);

/* L1 entries for `n` tables from host_offset on, none of which was there. With the lock held. */
void q2_bulk_enter(struct q2 *q, uint64_t l1_index, uint64_t n, uint64_t host_offset);

/*
 * Give clusters to that much, which nobody else uses meanwhile; as the call of an await. What is mapped reads as
 * zeros. VDISK_PREALLOC_FALLOC: with space on the host, VDISK_PREALLOC_METADATA: without. `turns`: what those
 * have in common that go on at once. op->rc: as q2_alloc().
 */
void q2_prealloc_bulk(struct q2 *q, uint64_t guest_offset, uint64_t len, enum vdisk_prealloc mode,
                      struct range_locks *turns, struct op *op);

#endif
