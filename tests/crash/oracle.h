/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a volume may read as after a crash. A run notes its changes as versions, and their beginnings and ends in
 * the crash log; the oracle follows the walk along that log.
 *
 * A byte may read as the last version of it that was flushed, or as any later one that had begun. A discard leaves
 * it as it was or zero.
 */
#ifndef TESTS_CRASH_ORACLE_H
#define TESTS_CRASH_ORACLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum version_kind { VERSION_WRITE, VERSION_ZERO, VERSION_DISCARD };

struct version {
    enum version_kind kind;
    uint64_t offset, len;
    uint8_t *data; /* WRITE */
    bool fua;
};

/* Marks in the crash log, and their values. */
enum mark {
    MARK_BEGIN = 1,   /* version */
    MARK_END,         /* version */
    MARK_FLUSH_BEGIN, /* flush */
    MARK_FLUSH_END,   /* flush */
    MARK_SIZE_BEGIN,  /* bytes: a change to this size begins */
    MARK_SIZE_END,    /* bytes; what is behind a smaller size is gone */
    MARK_CREATED,     /* 0 */
    MARK_CUT,         /* 0: what follows does not happen */
    MARK_FAILED,      /* version: any part of it may be there, then or later */
    MARK_LOST,        /* 0: closing has failed: no later flush covers what had been written */
};

struct active {
    uint32_t id;
    bool done;
};

struct oracle_flush {
    uint64_t id;
    uint32_t *covers;
    size_t count;
};

struct oracle {
    const struct version *versions;
    uint8_t *stable;     /* value of the last version that was flushed */
    uint32_t *stable_id; /* its number + 1; 0: what was there before the run */
    uint8_t *or_zero;
    uint64_t max_size;
    uint64_t size, next_size; /* next: may be that too */
    bool created;
    uint32_t begun;           /* versions */
    bool unsure;              /* some have failed, or closing has */
    struct active *active; /* begun, and not flushed; ascending */
    size_t active_count, active_max;
    struct oracle_flush *flush;
    size_t flush_count, flush_max;
};

/* A volume that reads as zeros, `created` or not, and may grow up to max_size. */
void oracle_init(struct oracle *o, const struct version *versions, uint64_t size, uint64_t max_size);
void oracle_finish(struct oracle *o);

/* A mark was passed. */
void oracle_mark(struct oracle *o, enum mark mark, uint64_t value);

/* Fails the case, with `what` in the message, unless the volume may have `size` bytes and read as `got`. */
void oracle_expect(const struct oracle *o, const uint8_t *got, uint64_t size, const char *what);

#endif
