/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The oracle for a volume whose writer was stopped at an arbitrary moment: what each sector (512 bytes) may hold.
 *
 * A change (write, zeros, discard) is told here before it is started, and is pending until a flush that was
 * enqueued after its end has succeeded. Of the pending changes any part may have reached the disk, each sector
 * whole: a sector holds what it held at the last flush, or what any later change put there, and nothing else.
 * Changes in flight at the same time may not overlap.
 */
#ifndef TESTS_LIB_HISTORY_H
#define TESTS_LIB_HISTORY_H

#include <stdbool.h>
#include <stdint.h>

enum { HISTORY_SECTOR = 512 };

/* What the content of a sector is called: the number of the write that made it, or one of these. */
#define HISTORY_ORIGIN 0u          /* what was there before any change */
#define HISTORY_ZERO   UINT32_MAX

enum history_kind { HISTORY_WRITE, HISTORY_ZEROES, HISTORY_DISCARD };

struct history_change {
    enum history_kind kind;
    uint64_t offset, len; /* whole sectors */
    uint32_t version;
};

/* Fill in what a sector holds: `version` is HISTORY_ORIGIN or a number that history_write() gave. */
typedef void history_content_fn(void *arg, uint32_t version, uint64_t offset, uint8_t *buf);

struct history {
    uint64_t size;
    history_content_fn *content;
    void *content_arg;

    /* Its own. By sector: what is durable, since which change, and whether zero is right as well. */
    uint32_t *durable, *since;
    bool *or_zero;
    struct history_change *pending;
    unsigned npending, max;
    uint32_t version;
};

/* `size`: the largest that the volume gets. Sectors start as HISTORY_ORIGIN. */
void history_init(struct history *h, uint64_t size, history_content_fn *content, void *arg);
void history_finish(struct history *h);

/* A change that is about to be started. The number of it. */
uint32_t history_change(struct history *h, enum history_kind kind, uint64_t offset, uint64_t len);

/* A flush has succeeded that was enqueued after all changes had ended. */
void history_flush(struct history *h);

/* One change has become durable by itself (FUA). Those before it on the same sectors are history. */
void history_durable(struct history *h, uint32_t version);

/*
 * Offset of the first sector in [offset, offset+len) that holds what it may not, or UINT64_MAX. `pin`: what was
 * seen is what is durable from now on, as it is after a crash; the caller then ends with history_restart().
 */
uint64_t history_find_wrong(struct history *h, uint64_t offset, const uint8_t *buf, uint64_t len, bool pin);

/* All of it was read and pinned: nothing is pending any more. */
void history_restart(struct history *h);

/* What sector `offset` may hold, for a failure's message. Static buffer. */
const char *history_describe(const struct history *h, uint64_t offset);

#endif
