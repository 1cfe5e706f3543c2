/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Compression of one cluster. Pure: memory in, memory out; the same bytes for the same cluster, whatever was
 * compressed before.
 */
#ifndef QCOW2_DEFLATE_H
#define QCOW2_DEFLATE_H

#include <stddef.h>
#include <stdint.h>

#include "qcow2/format/inflate.h"

/* Encoder state that is worth keeping from one cluster to the next. One thread at a time. */
struct q2_deflater;

/* On success *ret_deflater is the caller's, for q2_deflater_destroy(). -ENOMEM, -ENOTSUP for an unknown type. */
int q2_deflater_create(enum q2_compression type, struct q2_deflater **ret_deflater);

/* NULL is allowed. */
void q2_deflater_destroy(struct q2_deflater *deflater);

/*
 * One cluster, the `len` bytes at `in`, as a stream that q2_inflate() and QEMU read. *ret_len: its length, less
 * than `len`; 0: it does not become shorter. `out` has space for `len` bytes, and is undefined behind the stream.
 * 0; -ENOMEM; -EIO: the library failed.
 */
int q2_deflate(struct q2_deflater *deflater, const uint8_t *in, size_t len, uint8_t *out, size_t *ret_len);

/* Its bytes as they are, as such a stream: how long that is, and into `out`, which has space for it. */
size_t q2_store_length(enum q2_compression type, size_t len);
void q2_store(enum q2_compression type, const uint8_t *in, size_t len, uint8_t *out);

#endif
