/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "engine/base/iov.h"

#include <assert.h>
#include <string.h>

#include "engine/base/bits.h"

enum move { MOVE_ZERO, MOVE_FROM, MOVE_TO };

static void iov_move(const struct iovec *iov, uint32_t iovcnt, uint64_t offset, char *flat, uint64_t len,
                     enum move move)
{
    for (uint32_t i = 0; i < iovcnt && len > 0; i++) {
        if (offset >= iov[i].iov_len) {
            offset -= iov[i].iov_len;
            continue;
        }
        char *p = (char *)iov[i].iov_base + offset;
        uint64_t n = min_u64(iov[i].iov_len - offset, len);
        if (move == MOVE_ZERO)
            memset(p, 0, n);
        else if (move == MOVE_FROM)
            memcpy(p, flat, n);
        else
            memcpy(flat, p, n);
        if (flat)
            flat += n;
        len -= n;
        offset = 0;
    }
    assert(len == 0);
}

void iov_zero(const struct iovec *iov, uint32_t iovcnt, uint64_t offset, uint64_t len)
{
    iov_move(iov, iovcnt, offset, NULL, len, MOVE_ZERO);
}

void iov_from(const struct iovec *iov, uint32_t iovcnt, uint64_t offset, const void *from, uint64_t len)
{
    iov_move(iov, iovcnt, offset, unconst(from), len, MOVE_FROM);
}

void iov_to(const struct iovec *iov, uint32_t iovcnt, uint64_t offset, void *to, uint64_t len)
{
    iov_move(iov, iovcnt, offset, to, len, MOVE_TO);
}

uint32_t iov_slice(const struct iovec *iov, uint32_t iovcnt, uint64_t offset, uint64_t len, struct iovec *ret,
                   uint32_t max, uint64_t *ret_len)
{
    uint32_t n = 0;
    uint64_t covered = 0;

    for (uint32_t i = 0; i < iovcnt && covered < len && n < max; i++) {
        if (offset >= iov[i].iov_len) {
            offset -= iov[i].iov_len;
            continue;
        }
        ret[n].iov_base = (char *)iov[i].iov_base + offset;
        ret[n].iov_len = min_u64(iov[i].iov_len - offset, len - covered);
        covered += ret[n].iov_len;
        offset = 0;
        n++;
    }
    assert(n <= max && (covered == len || (covered < len && n == max))); /* the range lies inside */
    *ret_len = covered;
    return n;
}
