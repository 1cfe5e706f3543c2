/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Zeros in data: pure, and as fast as memory. */
#ifndef JOBS_ZEROS_H
#define JOBS_ZEROS_H

#include <stdbool.h>
#include <stddef.h>

bool zeros_only(const void *data, size_t len);

/*
 * How far, from the start of `data`, units are alike: all of them zeros, or none. The first one ends where
 * `offset`, the place of `data`, gets to a multiple of `unit` (a power of two); the last one may be cut short. > 0
 * for len > 0.
 */
size_t zeros_run(const void *data, size_t len, size_t unit, size_t offset, bool *ret_zeros);

#endif
