/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Most data differs from zero in its first bytes, so that is looked at first; what does not is read in vectors,
 * 128 bytes at a time, which is what memory gives.
 */
#include "jobs/zeros.h"

#include <stdint.h>
#include <string.h>

#include "jobs/jobs.h"

typedef uint64_t vector __attribute__((vector_size(32)));

enum { STRIDE = 4 * sizeof(vector) };

static bool stride_is_zero(const uint8_t *p)
{
    vector v[4], any;

    memcpy(v, p, sizeof v);
    any = v[0] | v[1] | v[2] | v[3];
    return (any[0] | any[1] | any[2] | any[3]) == 0;
}

bool zeros_only(const void *data, size_t len)
{
    const uint8_t *p = data, *end = p + len;
    uint64_t first;

    if (len < STRIDE) {
        while (p < end && *p == 0)
            p++;
        return p == end;
    }
    memcpy(&first, p, sizeof first);
    if (first != 0 || !stride_is_zero(end - STRIDE))
        return false;
    for (; (size_t)(end - p) > STRIDE; p += STRIDE) /* the last one has been looked at */
        if (!stride_is_zero(p))
            return false;
    return true;
}

size_t zeros_run(const void *data, size_t len, size_t unit, size_t offset, bool *ret_zeros)
{
    const uint8_t *p = data;
    size_t n = jobs_min(len, unit - (offset & (unit - 1)));

    *ret_zeros = zeros_only(p, n);
    while (n < len) {
        size_t next = jobs_min(len - n, unit);
        if (zeros_only(p + n, next) != *ret_zeros)
            break;
        n += next;
    }
    return n;
}
