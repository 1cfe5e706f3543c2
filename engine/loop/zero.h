/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Making a host range read as zeros, by the cheapest means that the backend has. */
#ifndef ENGINE_ZERO_H
#define ENGINE_ZERO_H

#include "engine/backend.h"
#include "engine/request.h"

enum { ZERO_BUFFER = 1 << 20 };

/* ZERO_BUFFER bytes of zeros, aligned to 4096; never written. */
extern const char *const zero_buffer;

/*
 * IO_ZERO over the range, and where the backend says -ENOTSUP, zeros written in parallel. flags: IO_UNMAP or 0.
 * Ends by op_wake(parent).
 */
void zero_range(struct backend *b, uint64_t host_offset, uint64_t len, uint8_t flags, struct op *parent);

/* Zeros written, so that the range has space on the host. Ends by op_wake(parent). */
void zero_write(struct backend *b, uint64_t host_offset, uint64_t len, struct op *parent);

/* As zero_range(); ends by request_end(r). */
void zero_start(struct backend *b, uint64_t host_offset, uint64_t len, uint8_t flags, struct request *r);

/*
 * Write zeros over the range, in parallel, whatever cheaper means there are, so that every byte has been
 * allocated and written. Blocks. 0, -ECANCELED when `progress` says so, or -errno of the I/O.
 */
int zero_fill(vdisk_queue *q, struct backend *b, uint64_t host_offset, uint64_t len, vdisk_progress_fn *progress,
              void *progress_arg);

#endif
