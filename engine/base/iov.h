/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Arithmetic on iovec arrays. Pure. */
#ifndef ENGINE_IOV_H
#define ENGINE_IOV_H

#include <stdint.h>
#include <sys/uio.h>

static inline uint64_t iov_len(const struct iovec *iov, uint32_t iovcnt)
{
    uint64_t len = 0;

    for (uint32_t i = 0; i < iovcnt; i++)
        len += iov[i].iov_len;
    return len;
}

/* All take a range of the bytes that the array describes; it lies inside. */
void iov_zero(const struct iovec *iov, uint32_t iovcnt, uint64_t offset, uint64_t len);
void iov_from(const struct iovec *iov, uint32_t iovcnt, uint64_t offset, const void *from, uint64_t len);
void iov_to(const struct iovec *iov, uint32_t iovcnt, uint64_t offset, void *to, uint64_t len);

/*
 * Describe [offset, offset + len) in `ret`, which holds `max` entries. Returns the entries used; *ret_len is len,
 * or less when `max` were not enough.
 */
uint32_t iov_slice(const struct iovec *iov, uint32_t iovcnt, uint64_t offset, uint64_t len, struct iovec *ret,
                   uint32_t max, uint64_t *ret_len);

#endif
