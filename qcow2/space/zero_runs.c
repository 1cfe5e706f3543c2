/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "qcow2/space/zero_runs.h"

#include <assert.h>
#include <string.h>

#include "engine/base/bits.h"

/* The first run that ends behind `cluster`; count: none. */
static unsigned find(const struct q2_zero_runs *z, uint64_t cluster)
{
    unsigned low = 0, high = z->count;

    while (low < high) {
        unsigned mid = (low + high) / 2;
        if (z->run[mid].end > cluster)
            high = mid;
        else
            low = mid + 1;
    }
    return low;
}

static void drop(struct q2_zero_runs *z, unsigned at)
{
    z->count--;
    memmove(&z->run[at], &z->run[at + 1], (z->count - at) * sizeof z->run[0]);
}

/* Room at `at`, full or not: then the shortest run goes, unless it is longer than `len`. Returns where, -1: no. */
static int make_room(struct q2_zero_runs *z, unsigned at, uint64_t len)
{
    if (z->count == Q2_ZERO_RUNS) {
        unsigned shortest = 0;
        for (unsigned i = 1; i < z->count; i++)
            if (z->run[i].end - z->run[i].start < z->run[shortest].end - z->run[shortest].start)
                shortest = i;
        if (z->run[shortest].end - z->run[shortest].start >= len)
            return -1;
        drop(z, shortest);
        at -= shortest < at;
    }
    memmove(&z->run[at + 1], &z->run[at], (z->count - at) * sizeof z->run[0]);
    z->count++;
    return (int)at;
}

void q2_zero_runs_add(struct q2_zero_runs *z, uint64_t start, uint64_t end)
{
    unsigned at = find(z, start);
    struct q2_zero_run *before = at > 0 ? &z->run[at - 1] : NULL;
    struct q2_zero_run *behind = at < z->count ? &z->run[at] : NULL;
    bool joins_before = before && before->end == start, joins_behind = behind && behind->start == end;
    int room;

    assert(start < end && (!behind || behind->start >= end));
    if (joins_before) {
        before->end = joins_behind ? behind->end : end;
        if (joins_behind)
            drop(z, at);
    } else if (joins_behind) {
        behind->start = start;
    } else {
        room = make_room(z, at, end - start);
        if (room >= 0)
            z->run[room] = (struct q2_zero_run){start, end};
    }
}

void q2_zero_runs_remove(struct q2_zero_runs *z, uint64_t start, uint64_t end)
{
    unsigned at = find(z, start);

    while (at < z->count && z->run[at].start < end) {
        struct q2_zero_run *r = &z->run[at];
        struct q2_zero_run tail = {end, r->end};
        if (r->start < start) {
            r->end = start;
            at++;
        } else {
            drop(z, at);
        }
        if (tail.start < tail.end) {
            int room = make_room(z, at, tail.end - tail.start);
            if (room >= 0)
                z->run[room] = tail;
            return;
        }
    }
}

uint64_t q2_zero_runs_alike(const struct q2_zero_runs *z, uint64_t start, uint64_t n, bool *ret_zero)
{
    unsigned at = find(z, start);

    assert(n > 0);
    *ret_zero = at < z->count && z->run[at].start <= start;
    if (*ret_zero)
        return min_u64(n, z->run[at].end - start);
    return at < z->count ? min_u64(n, z->run[at].start - start) : n;
}
