/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The memory backend, as tests and benches use it beyond "memory:SIZE": with properties of other storage, on bytes
 * that outlive a handle, and with the bytes in reach.
 */
#ifndef BACKENDS_MEMORY_H
#define BACKENDS_MEMORY_H

#include "engine/backend.h"

struct memory_options {
    uint64_t size;
    uint32_t align; /* offsets, lengths and buffers must be multiples of it; 0: 1 */
    bool     fixed; /* like a block device: writes past the end are -ENOSPC, holes cannot be told */
    uint64_t ready; /* so many bytes of memory at hand before they are needed: for measuring */
    uint8_t  fill;  /* what bytes that nobody wrote read as; other than 0 with `fixed` only */
};

/* "memory:SIZE". On success *ret_backend is the caller's. Errors: -ENOMEM, -EFBIG past 1 PiB. */
int memory_backend_create(const char *name, uint64_t size, struct backend **ret_backend);
int memory_backend_create_with(const char *name, const struct memory_options *options,
                               struct backend **ret_backend);

/* A copy of the bytes as they are now, with the same properties. No write may be in flight. */
int memory_backend_clone(struct backend *b, struct backend **ret_backend);

/*
 * From now on no more than `bytes` are occupied at a time, by chunks of 64 KiB: writes, zeros and allocations in
 * holes are -ENOSPC then, having come as far as they could. UINT64_MAX: as many as there is memory. Any thread.
 */
void memory_backend_set_space(struct backend *b, uint64_t bytes);

/*
 * With `fixed`: the device is extended to `size` bytes at least; its handles learn of it when they look again. Any
 * thread.
 */
void memory_backend_extend(struct backend *b, uint64_t size);

/*
 * A second handle on the same bytes, as if the file was opened again: they live until the last handle is closed.
 * Only one of the handles may write; the sizes of the others stay behind.
 */
int memory_backend_share(struct backend *b, struct backend **ret_backend);

/* How many of the `len` bytes from `offset` on are alike, a hole or not, as far as one look tells. */
uint64_t memory_backend_run(struct backend *b, uint64_t offset, uint64_t len, bool *ret_hole);

/* The bytes themselves, past any queue. Any alignment. Writing past the end extends it (not `fixed`: asserted). */
void memory_backend_read(struct backend *b, uint64_t offset, void *buf, uint64_t len);
int memory_backend_write(struct backend *b, uint64_t offset, const void *buf, uint64_t len);

#endif
