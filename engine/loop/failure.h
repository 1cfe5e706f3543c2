/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Which I/O failed. An error travels as an errno from the I/O through ops to a request, and its number with it: so
 * the text of the request can say which file it was, and where in it.
 *
 * Invariants.
 *  1. `failure_now` is that of the error with which what runs now was ended, or 0: set when an I/O ends with an
 *     error, and when an op is resumed.
 *  2. The records are a ring: one may be gone when it is asked for. Nothing but words depends on it.
 */
#ifndef ENGINE_FAILURE_H
#define ENGINE_FAILURE_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/base/bits.h"

struct backend;
struct io;

enum { FAILURE_CONTENT = UINT8_MAX }; /* in place of a kind: no I/O has failed, but what was read is damaged */

enum { FAILURES_KEPT = 64, FAILURE_NAME_MAX = 160, FAILURE_WHY_MAX = 200 };

struct failure {
    uint32_t number;  /* 0: none */
    int32_t  res;
    uint8_t  kind;    /* enum io_kind, or FAILURE_CONTENT */
    uint64_t offset, len;
    const char *hint; /* what to do, as its backend says; NULL: nothing. Static */
    char     file[FAILURE_NAME_MAX]; /* cut at the front */
    char     why[FAILURE_WHY_MAX];   /* what its backend says; "": nothing */
};

extern HIDDEN _Thread_local uint32_t failure_now;

/* `io` ends with `res`, which is an error. Any thread; not a fast path. */
void failure_note(const struct io *io, int32_t res);

/* What was read there is damaged. The thread of who is to tell it. */
void failure_note_content(const struct backend *file, uint64_t offset, uint64_t len);

/* The one of this number, if it is there still and has this errno. Any thread. */
bool failure_find(uint32_t number, int32_t res, struct failure *ret);

#endif
