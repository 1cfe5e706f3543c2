/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The time that a queue goes by: the kernel's, or a simulated one. */
#ifndef ENGINE_CLOCK_H
#define ENGINE_CLOCK_H

#include <stddef.h>
#include <time.h>

#include "engine/base/bits.h"

struct clock {
    void (*now)(const struct clock *c, struct timespec *ret);
};

/* `c` NULL: CLOCK_MONOTONIC. */
static inline void clock_now(const struct clock *c, struct timespec *ret)
{
    if (unlikely(c != NULL))
        c->now(c, ret);
    else
        clock_gettime(CLOCK_MONOTONIC, ret);
}

#endif
