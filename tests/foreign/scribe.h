/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Another writer of qcow2: makes whole images in memory, laid out as neither QEMU nor the library would (tables in
 * any order, with gaps), with the habits that other programs have.
 */
#ifndef TESTS_FOREIGN_SCRIBE_H
#define TESTS_FOREIGN_SCRIBE_H

#include <stdbool.h>
#include <stdint.h>

enum scribe_habit {
    HABIT_SHUFFLED,       /* tables and data in any order */
    HABIT_GAPS,           /* clusters between them that nobody uses, with old content */
    HABIT_LEAKS,          /* some of these have a refcount */
    HABIT_NO_COPIED,      /* no entry says that it is not shared */
    HABIT_LAZY,           /* all refcounts 0, and marked dirty */
    HABIT_NO_REFCOUNTS,   /* the same without the mark */
    HABIT_DATA_UNCOUNTED, /* guest data has no refcounts, tables do */
    HABIT_LONG_L1,        /* with more entries than the disk needs */
    HABIT_LONG_REFTABLE,  /* two clusters where one would do */
    HABIT_EXTENSIONS,     /* header extensions that nobody knows */
    HABIT_TWO_FORMATS,    /* the backing format, or the feature name table, twice */
    HABIT_BITS,           /* unknown compatible and autoclear features */
    HABIT_TRAILING,       /* bytes after the image */
    HABIT_TAIL,           /* zeros after it: space set aside */
    HABIT_RAGGED,         /* the file ends within its last cluster */
    HABIT_RECORDING,      /* a bitmap that whoever writes has to keep up: only QEMU does */
    HABITS,

    /* With these alone a check has nothing to say; with those an image can still be written to. */
    HABITS_CLEAN = 1 << HABIT_SHUFFLED | 1 << HABIT_GAPS | 1 << HABIT_LONG_L1 | 1 << HABIT_LONG_REFTABLE |
                   1 << HABIT_EXTENSIONS | 1 << HABIT_TWO_FORMATS | 1 << HABIT_BITS | 1 << HABIT_TRAILING |
                   1 << HABIT_TAIL | 1 << HABIT_RAGGED,
    HABITS_USABLE = HABITS_CLEAN | 1 << HABIT_LEAKS | 1 << HABIT_NO_COPIED | 1 << HABIT_LAZY,
};

extern const char *const scribe_habits[HABITS];

struct scribe_image {
    uint8_t *bytes;
    uint64_t len, tail; /* `tail`: where what follows the image begins; len if nothing does */
};

/*
 * One image by seed. `habits`: which it may have, bits of enum scribe_habit; those it has are given back. The rest
 * of the image does not depend on `habits` more than it must. `backing`: "sim:base" is its backing file,
 * sometimes.
 */
void scribe_image(uint64_t seed, uint32_t *habits, struct scribe_image *ret);

#endif
