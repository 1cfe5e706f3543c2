/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Damage to a qcow2 image in memory, where it tells: header fields, extensions, table entries, refcounts. */
#ifndef TESTS_LIB_DAMAGE_H
#define TESTS_LIB_DAMAGE_H

#include <stddef.h>
#include <stdint.h>

#include "tests/lib/rng.h"

/* Change `n` places: a flipped bit, or 1 to 8 bytes that somebody might believe. Any content is allowed. */
void damage_image(struct rng *r, uint8_t *image, size_t size, unsigned n);

#endif
