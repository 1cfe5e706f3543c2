/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Clusters that are to be had beside a new refcount structure.
 *
 * Happy path: what is wanted, and what was found, as runs, so that much of it takes little memory.
 * Failure modes: -ENOMEM.
 *
 * Invariants.
 *  1. Runs ascend, none is empty, and none meets the next one with the same references.
 */
#include "qcow2/check/more.h"

#include <assert.h>
#include <errno.h>

#include "engine/base/bits.h"
#include "engine/base/mem.h"

/* Room for one more of a list of `count` elements. */
static int reserve(void **list, uint64_t count, uint64_t *max, size_t size)
{
    uint64_t more = *max ? 2 * *max : 16;
    void *p;

    assert(count <= *max);
    if (count < *max)
        return 0;
    p = mem_realloc(*list, more * size);
    if (!p)
        return -ENOMEM;
    *list = p;
    *max = more;
    return 0;
}

void q2_more_finish(struct q2_more *m)
{
    assert(m->next_run <= m->runs_count);
    mem_free(m->wants);
    mem_free(m->runs);
    *m = (struct q2_more){.wants = NULL};
}

int q2_more_want(struct q2_more *m, uint64_t refs)
{
    void *list = m->wants;
    int rc = 0;

    assert(refs > 0 && m->runs_count == 0); /* nothing has been found yet */
    if (m->wants_count == 0 || m->wants[m->wants_count - 1].refs != refs) {
        rc = reserve(&list, m->wants_count, &m->wants_max, sizeof *m->wants);
        m->wants = list;
        if (rc == 0)
            m->wants[m->wants_count++] = (struct q2_more_want){.refs = refs};
    }
    if (rc == 0)
        m->wants[m->wants_count - 1].n++;
    return rc;
}

int q2_more_got(struct q2_more *m, uint64_t cluster, uint64_t refs)
{
    struct q2_more_run *last = m->runs_count > 0 ? &m->runs[m->runs_count - 1] : NULL;
    void *list = m->runs;
    int rc;

    assert(!last || last->end <= cluster); /* invariant 1 */
    if (last && last->end == cluster && last->refs == refs) {
        last->end++;
        return 0;
    }
    assert(cluster > 0 && refs > 0); /* the header has the first */
    rc = reserve(&list, m->runs_count, &m->runs_max, sizeof *m->runs);
    m->runs = list;
    if (rc == 0)
        m->runs[m->runs_count++] = (struct q2_more_run){cluster, cluster + 1, refs};
    return rc;
}

uint64_t q2_more_take(struct q2_more *m, uint64_t refs)
{
    const struct q2_more_run *run = &m->runs[m->next_run];
    uint64_t cluster = max_u64(m->next, run->start);

    assert(m->next_run < m->runs_count && cluster < run->end && run->refs == refs);
    m->next = cluster + 1;
    m->next_run += m->next == run->end;
    return cluster;
}

uint64_t q2_more_find(const struct q2_more *m, uint64_t cluster)
{
    uint64_t low = 0, high = m->runs_count;

    while (low < high) {
        uint64_t mid = (low + high) / 2;

        if (m->runs[mid].end <= cluster)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

bool q2_more_has(const struct q2_more *m, uint64_t cluster)
{
    uint64_t i = q2_more_find(m, cluster);

    assert(i <= m->runs_count && (i == m->runs_count || m->runs[i].end > cluster));
    return i < m->runs_count && m->runs[i].start <= cluster;
}
