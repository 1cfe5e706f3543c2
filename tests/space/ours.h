/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What test_ours.c and guard.c share: an image file as it lies there. */
#ifndef TESTS_SPACE_OURS_H
#define TESTS_SPACE_OURS_H

#include "qcow2/format/header.h"
#include "tests/lib/image.h"
#include "tests/lib/test.h"

struct photo {
    struct q2_header h;
    uint64_t size, clusters; /* of the file */
    uint8_t *bytes;
    uint16_t *refcount;
};

void take_photo(struct photo *p, const char *path);
void drop_photo(struct photo *p);

void put_at(const char *path, uint64_t at, const void *bytes, size_t n);

/* Host offset of a cluster's refcount; 0: no block has it. */
uint64_t refcount_at(const struct photo *p, uint64_t cluster);

vdisk *open_image(const struct image_spec *spec);
void fill(vdisk *v, uint64_t offset, uint64_t len, int byte);

/* Which of n: by the repetition, or, where mutants are hunted, by chance. */
static inline unsigned case_number(unsigned n)
{
#ifdef VDISK_MUTANTS
    return (unsigned)rng_below(test_rng(), n);
#else
    return test_repetition() % n;
#endif
}

/* first.c */
extern const struct test_case first_cases[];
extern const unsigned first_cases_count;

/* twice.c */
extern const struct test_case twice_cases[];
extern const unsigned twice_cases_count;

/* holes.c */
extern const struct test_case holes_cases[];
extern const unsigned holes_cases_count;

/* guard.c */
extern const struct test_case guard_cases[];
extern const unsigned guard_cases_count;

#endif
