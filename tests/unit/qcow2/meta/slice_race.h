/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A thread that changes and flushes a cached slice, beside one that asks without a lock what of it is on disk. */
#ifndef TESTS_UNIT_SLICE_RACE_H
#define TESTS_UNIT_SLICE_RACE_H

#include <stdint.h>

struct slice_race {
    uint64_t looks, settled; /* of the reader; how often the slice was on disk, as it was told */
    uint64_t lies;           /* and how often that was not so: meta_cache.h, invariant 5 */
};

/* At least `steps` changes and looks, some of the latter at a slice that is on disk. Ends with the first lie. */
struct slice_race slice_race_run(uint64_t steps);

#endif
