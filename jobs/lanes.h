/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * BLAKE2b-256 of several messages of one length at a time, a message in each lane of the processor's vectors: with
 * AVX2 twice as fast as libgcrypt, one after the other. Where a processor has no such vectors there is none of it.
 */
#ifndef JOBS_LANES_H
#define JOBS_LANES_H

#include <stddef.h>
#include <stdint.h>

enum { LANES = 4, LANES_DIGEST = 32 };

/* The later the faster. */
enum lanes_kind { LANES_NONE, LANES_AVX2, LANES_AVX512 };

/* The last for which this processor, and the kernel, have what it takes. Any thread. */
enum lanes_kind lanes_best(void);

/* `kind`: up to that, not NONE. Messages may be one another's, and lie anywhere. Any thread. */
void lanes_digest(enum lanes_kind kind, const uint8_t *const data[LANES], size_t len,
                  uint8_t ret[LANES][LANES_DIGEST]);

#endif
