/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Seeded random numbers: one seed, one run. Not for secrets. */
#ifndef TESTS_LIB_RNG_H
#define TESTS_LIB_RNG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct rng {
    uint64_t s[4];
};

void rng_init(struct rng *r, uint64_t seed);
uint64_t rng_next(struct rng *r);

/* 0 to n-1; n > 0. */
uint64_t rng_below(struct rng *r, uint64_t n);

/* lo to hi, both included. */
uint64_t rng_between(struct rng *r, uint64_t lo, uint64_t hi);

/* True in `percent` of a hundred cases. */
bool rng_chance(struct rng *r, unsigned percent);

void rng_fill(struct rng *r, void *buf, size_t len);

/* One 64-bit value from another: for seeds of parts from the seed of the whole. */
uint64_t rng_mix(uint64_t x);

#endif
