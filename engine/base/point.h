/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Named points in the protocols between threads: places between two accesses to shared memory where another thread
 * may come first and it matters. A test (tests/interleave/) has itself called at each, and lets other threads run
 * there. Builds without assertions have none of it; in others a point is one load and a branch.
 *
 * Locks need no points: the tests know them.
 */
#ifndef ENGINE_POINT_H
#define ENGINE_POINT_H

#ifndef NDEBUG

#include <stdatomic.h>

typedef void point_fn(const char *name);

/* What is called at each point, on the thread that came to it; NULL: nothing. */
extern _Atomic(point_fn *) point_hook;

#define POINT(name)                                                                                            \
    do {                                                                                                       \
        point_fn *hook_ = atomic_load_explicit(&point_hook, memory_order_relaxed);                             \
        if (__builtin_expect(!!hook_, 0))                                                                      \
            hook_(name);                                                                                       \
    } while (0)

#else
#define POINT(name) ((void)0)
#endif

#endif
