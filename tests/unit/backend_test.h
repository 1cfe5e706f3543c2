/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the tests of backends share: a queue, patterns, a directory. Included once per program. */
#ifndef TESTS_UNIT_BACKEND_TEST_H
#define TESTS_UNIT_BACKEND_TEST_H

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "engine/backend.h"
#include "engine/base/bits.h"
#include "engine/loop/status.h"
#include "engine/vdisk.h"

/* A call of ours that must succeed: says why not. */
#define OK(call)                                                                                               \
    do {                                                                                                       \
        int rc_ = (call);                                                                                      \
        if (rc_ < 0)                                                                                           \
            fail_msg("%s: %s (%s)", #call, strerror(-rc_), vdisk_error_text());                                \
    } while (0)

#define SKIP(...)                                                                                              \
    do {                                                                                                       \
        print_message("skipped: " __VA_ARGS__);                                                                \
        print_message("\n");                                                                                   \
        skip();                                                                                                \
    } while (0)

static inline vdisk_queue *test_queue(enum vdisk_queue_kind kind)
{
    struct vdisk_queue_opts opts = {.size = sizeof opts, .kind = kind};
    vdisk_queue *q;

    OK(vdisk_queue_create(&opts, &q));
    return q;
}

/* Bytes that tell their offset and a seed. */
static inline void fill_pattern(void *buf, uint64_t offset, size_t len, unsigned seed)
{
    uint8_t *p = buf;

    for (size_t i = 0; i < len; i++)
        p[i] = (uint8_t)(((offset + i) * 2654435761u >> 8) + seed);
}

static inline bool is_filled(const void *buf, uint8_t byte, size_t len)
{
    const uint8_t *p = buf;

    for (size_t i = 0; i < len; i++)
        if (p[i] != byte)
            return false;
    return true;
}

/* The bytes [offset, offset+len) of a backend are all `byte`. */
static inline void assert_range(vdisk_queue *q, struct backend *b, uint64_t offset, uint64_t len, uint8_t byte)
{
    char *buf = vdisk_alloc_buffer(len);

    assert_non_null(buf);
    memset(buf, ~byte, len);
    OK(io_pread(q, b, buf, len, offset));
    if (!is_filled(buf, byte, len))
        fail_msg("not all of %llu+%llu is %02x", (unsigned long long)offset, (unsigned long long)len, byte);
    free(buf);
}

/* One I/O of a range, with flags. */
static inline int range_with(vdisk_queue *q, struct backend *b, enum io_kind kind, uint64_t offset, uint64_t len,
                             unsigned flags)
{
    struct io io;

    io_range(&io, b, kind, offset, len);
    io.flags = (uint8_t)flags;
    return io_run(q, &io);
}

/* What is at `offset`, up to where it is so. */
static inline bool is_hole(vdisk_queue *q, struct backend *b, uint64_t offset, uint64_t len, uint64_t *ret_run)
{
    struct block_status s = {.max = 1};
    struct io io;

    io_status(&io, b, offset, len, &s);
    OK(io_run(q, &io));
    assert_int_equal(s.count, 1);
    assert_int_equal(s.start, offset);
    assert_in_range(s.ends[0], offset + 1, offset + len);
    *ret_run = s.ends[0] - offset;
    return s.hole_first;
}

enum { DATA, HOLE };

static inline void assert_status(vdisk_queue *q, struct backend *b, uint64_t offset, uint64_t len, int what,
                                 uint64_t run)
{
    uint64_t got;

    assert_int_equal(is_hole(q, b, offset, len, &got), what == HOLE);
    assert_int_equal(got, run);
}

#endif
