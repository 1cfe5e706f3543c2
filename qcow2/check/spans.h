/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Runs of host clusters that have been freed outside of an open volume: qcow2/check/check_freed.c. */
#ifndef QCOW2_SPANS_H
#define QCOW2_SPANS_H

#include <stdint.h>

#include "engine/backend.h"

/* Clusters [start, end). */
struct q2_span {
    uint64_t start, end;
};

/* Ascending. A zeroed one is empty. */
struct q2_spans {
    struct q2_span *list;
    uint64_t        count, max;
};

/* Without memory it is forgotten: then its space is not given back. */
void q2_spans_add(struct q2_spans *s, uint64_t cluster);
void q2_spans_finish(struct q2_spans *s);

/* Punch what lies inside the file. Blocks. Returns the bytes that the host did not take, *ret_rc says why. */
uint64_t q2_spans_punch(const struct q2_spans *s, struct backend *file, vdisk_queue *q, uint32_t cluster_bits,
                        int *ret_rc);

#endif
