/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Which pages of a table in memory (L1, refcount table) differ from the disk. */
#ifndef QCOW2_TABLE_H
#define QCOW2_TABLE_H

#include <assert.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/bits.h"
#include "engine/base/mem.h"

struct q2_table {
    uint64_t host_offset; /* of the table on disk */
    uint64_t pages;
    uint32_t page_size;   /* at most the cluster size: a page never leaves the table's clusters */
    uint64_t dirty_count;
    uint8_t *dirty;       /* one byte per page */
};

static inline int q2_table_init(struct q2_table *t, uint64_t host_offset, uint64_t bytes, uint32_t page_size)
{
    t->host_offset = host_offset;
    t->page_size = page_size;
    t->pages = div_up(bytes, page_size);
    t->dirty_count = 0;
    t->dirty = mem_calloc(t->pages ? t->pages : 1, 1);
    return t->dirty ? 0 : -1;
}

static inline void q2_table_finish(struct q2_table *t)
{
    mem_free(t->dirty);
    t->dirty = NULL;
}

/* An 8-byte entry has changed. False: the table has no such entry, and nothing is noted. */
static inline bool q2_table_dirty(struct q2_table *t, uint64_t index)
{
    uint64_t page = index * 8 / t->page_size;

    if (unlikely(page >= t->pages))
        return false;
    assert(t->dirty_count <= t->pages && t->dirty[page] <= 1);
    t->dirty_count += !t->dirty[page];
    t->dirty[page] = 1;
    return true;
}

#endif
