/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "engine/loop/status.h"

bool status_find(const struct block_status *s, uint64_t offset, bool *ret_hole, uint64_t *ret_end)
{
    unsigned low = 0, high = s->count;

    assert(high <= STATUS_RUNS_MAX && (high == 0 || s->ends[high - 1] > s->start));
    if (offset < s->start)
        return false;
    while (low < high) {
        unsigned middle = (low + high) / 2;
        if (s->ends[middle] <= offset)
            low = middle + 1;
        else
            high = middle;
    }
    if (low == s->count)
        return false;
    assert(s->ends[low] > offset && (low == 0 || s->ends[low - 1] <= offset));
    *ret_hole = status_is_hole(s, low);
    *ret_end = s->ends[low];
    return true;
}
