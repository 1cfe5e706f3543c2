/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Damage to one field of an image, told in words. */
#ifndef TESTS_FOREIGN_FIELD_H
#define TESTS_FOREIGN_FIELD_H

#include <stdint.h>

#include "tests/foreign/walk.h"

enum { FIELD_NAME = 96 };

struct field_damage {
    char name[FIELD_NAME];
    uint64_t at, old, new;
};

/*
 * Change one field of any structure: found by `w`, the image before any damage, and changed in `bytes`, of the
 * same length. What is done comes from `seed` and `w` alone, so that it is the same whatever else is done.
 */
void field_damage(const struct walk *w, uint64_t seed, uint8_t *bytes, struct field_damage *ret);

#endif
