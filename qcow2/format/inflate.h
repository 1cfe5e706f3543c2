/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Decompression of one cluster. Pure: memory in, memory out.
 */
#ifndef QCOW2_INFLATE_H
#define QCOW2_INFLATE_H

#include <stddef.h>
#include <stdint.h>

/* The values of the header's compression_type. */
enum q2_compression {
    Q2_COMPRESSION_ZLIB = 0, /* raw deflate in fact, without zlib's header and trailer */
    Q2_COMPRESSION_ZSTD = 1,
};

/* Decoder state that is worth keeping from one cluster to the next. One thread at a time. */
struct q2_inflater;

/* On success *ret_inflater is the caller's, for q2_inflater_destroy(). -ENOMEM, -ENOTSUP for an unknown type. */
int q2_inflater_create(enum q2_compression type, struct q2_inflater **ret_inflater);

/* NULL is allowed. */
void q2_inflater_destroy(struct q2_inflater *inflater);

/*
 * Fill `out` from the `in_len` bytes at `in`, of which the last sector's rest may be anything. Memory use does not
 * depend on what the stream says. 0; -EIO: the stream is damaged, or does not give all of `out` (whose content is
 * undefined then); -ENOMEM.
 */
int q2_inflate(struct q2_inflater *inflater, const uint8_t *in, size_t in_len, uint8_t *out, size_t out_len);

/* The same with a decoder of its own. */
int q2_decompress(enum q2_compression type, const uint8_t *in, size_t in_len, uint8_t *out, size_t out_len);

#endif
