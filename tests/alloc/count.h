/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Counts heap allocations of the whole process, those of shared libraries included: the executable's own malloc()
 * and its kin come before the C library's.
 */
#ifndef TESTS_ALLOC_COUNT_H
#define TESTS_ALLOC_COUNT_H

#include <stdbool.h>
#include <stdint.h>

/* False under a sanitizer, which owns the allocator: then nothing is counted. */
bool count_possible(void);

/* From zero. All threads. */
void count_begin(void);

/* How many calls asked for memory since count_begin(); free() is none. */
uint64_t count_end(void);

#endif
