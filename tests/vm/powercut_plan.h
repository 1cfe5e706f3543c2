/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the power cut tests do to a volume, step by step: a pure function of a seed, so that the program in the
 * test machine can do it and the one outside knows what was done. After step N the former puts the mark "N" into
 * the log.
 */
#ifndef TESTS_VM_POWERCUT_PLAN_H
#define TESTS_VM_POWERCUT_PLAN_H

#include <stdbool.h>
#include <stdint.h>

#include "tests/lib/history.h"
#include "tests/lib/image.h"
#include "tests/lib/rng.h"

enum { PLAN_BATCH = 8, PLAN_MAX_CHANGE = 256 << 10, PLAN_MAX_SIZE = 12 << 20, PLAN_QUEUES = 2 };

/* The content of storage that was used for something else before: no write has this number. */
#define PLAN_GARBAGE 0xdeadbeefu

struct plan {
    struct image_spec spec; /* without paths */
    bool backed;            /* by a raw file of PLAN_MAX_SIZE bytes that holds version HISTORY_ORIGIN */
    bool buffered;
    uint64_t cache_bytes;

    /* Its own. */
    struct rng rng;
    uint32_t version;
    uint64_t size;
    unsigned step;
};

enum step_kind {
    STEP_CREATE,
    STEP_CHANGES, /* at once, spread over the queues; then all are awaited */
    STEP_FLUSH,
    STEP_FUA,     /* the one change, durable */
    STEP_REOPEN,  /* closed, which flushes, and opened again */
    STEP_GROW,    /* to `size` */
};

struct step {
    enum step_kind kind;
    struct history_change changes[PLAN_BATCH];
    bool unmap[PLAN_BATCH];
    unsigned n;
    uint64_t size;
};

void plan_init(struct plan *p, uint64_t seed);

/* The next step; the first one is STEP_CREATE. Any number of them. */
void plan_next(struct plan *p, struct step *ret);

/* history_content_fn. */
void plan_content(void *arg, uint32_t version, uint64_t offset, uint8_t *buf);

/* The same for whole ranges of sectors. */
void plan_fill(uint32_t version, uint64_t offset, uint8_t *buf, uint64_t len);

#endif
