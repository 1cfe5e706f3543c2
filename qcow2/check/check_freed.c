/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Clusters that a repair has freed: their space goes back to the host.
 *
 * Happy path: noted in ascending order as their refcounts fall to 0, in runs; once that is durable the runs are
 * punched, inside the file. Failure modes: out of memory, or the host refuses: the space stays where it is, as
 * that of any free cluster.
 *
 * Invariant: no cluster is given back but those whose refcount was lowered to 0 here. What had none before may be
 * somebody's: set aside by fallocate, or bytes behind the image.
 */
#include "engine/base/mem.h"
#include "qcow2/check/check_internal.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "qcow2/mutant.h"

void q2_spans_add(struct q2_spans *s, uint64_t cluster)
{
    struct q2_span *last = s->count > 0 ? &s->list[s->count - 1] : NULL;

    assert(cluster > 0 && s->count <= s->max); /* the header is never free */
    assert(!last || (last->start < last->end && last->end <= cluster));
    if (last && last->end == cluster) {
        last->end++;
        return;
    }
    if (s->count == s->max) {
        uint64_t max = s->max ? 2 * s->max : 64;
        struct q2_span *list = mem_realloc(s->list, max * sizeof *list);

        if (!list)
            return;
        s->list = list;
        s->max = max;
    }
    s->list[s->count++] = (struct q2_span){cluster, cluster + 1};
}

void q2_spans_finish(struct q2_spans *s)
{
    mem_free(s->list);
    memset(s, 0, sizeof *s);
}

uint64_t q2_spans_punch(const struct q2_spans *s, struct backend *file, vdisk_queue *q, uint32_t cluster_bits,
                        int *ret_rc)
{
    uint64_t kept = 0, extra = MUTANT(PUNCH_NEIGHBOUR) ? 1ull << cluster_bits : 0;

    assert(!file->read_only);
    *ret_rc = 0;
    for (uint64_t i = 0; i < s->count && file->caps & BACKEND_DISCARD; i++) {
        uint64_t start = s->list[i].start << cluster_bits;
        uint64_t end = min_u64((s->list[i].end << cluster_bits) + extra, backend_size(file));
        assert(i == 0 || s->list[i - 1].end < s->list[i].start);
        int rc = start < end ? io_prange(q, file, IO_DISCARD, start, end - start) : 0;

        if (rc < 0 && rc != -ENOTSUP && rc != -EOPNOTSUPP) {
            kept += end - start;
            *ret_rc = rc;
        }
    }
    return kept;
}

void check_give_back(struct check *c, struct q2_spans *s)
{
    int rc;
    uint64_t kept = q2_spans_punch(s, c->file, c->queue, c->header.geo.cluster_bits, &rc);

    if (kept > 0)
        check_found(c, QCOW2_NOTE, 1, "%" PRIu64 " bytes are free, but the host has not taken them back: %s", kept,
                    strerror(-rc));
    q2_spans_finish(s);
}
