/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef BACKENDS_DRIVERS_H
#define BACKENDS_DRIVERS_H

#include "engine/backend.h"

extern const struct backend_driver blockdev_driver;
extern const struct backend_driver file_driver;
extern const struct backend_driver memory_driver;
extern const struct backend_driver null_driver;
extern const struct backend_driver sim_driver;
extern const struct backend_driver window_driver;

/* The end is at `end` at least. The engine does this after writes; zeroing and allocating are ours. Any thread. */
static inline void raise_size(struct backend *b, uint64_t end)
{
    uint64_t size = atomic_load_explicit(&b->size, memory_order_relaxed);

    while (size < end && !atomic_compare_exchange_weak(&b->size, &size, end))
        ;
}

#endif
