/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Sizes and truth values as QEMU reads them. Pure. */
#ifndef ENGINE_SIZE_H
#define ENGINE_SIZE_H

#include <stdbool.h>
#include <stdint.h>

/*
 * Decimal with an optional fraction, or 0x hex; suffix b, K, M, G, T, P, E in either case (b and e are digits in
 * hex). A fraction needs a suffix of K or more and is cut to whole bytes. 0, -EINVAL, or -ERANGE (2^64 or more).
 */
int parse_size(const char *text, uint64_t *ret);

/* on, off, yes, no, true, false, y, n. 0, -EINVAL. */
int parse_bool(const char *text, bool *ret);

/* Digits of `base` at *text, which moves behind them. 0, -EINVAL: there are none; -ERANGE. */
int parse_digits(const char **text, unsigned base, uint64_t *ret);

#endif
