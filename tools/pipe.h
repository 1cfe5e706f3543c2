/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Standard input and output in place of an image: "-". */
#ifndef TOOLS_PIPE_H
#define TOOLS_PIPE_H

#include <vdisk-bulk.h>

#include "tools/cli.h"

#define PIPE_INPUT "standard input"
#define PIPE_OUTPUT "standard output"

/* The name of an image stands for standard input or output. */
bool pipe_is(const char *name);

/*
 * Standard output, to which nothing else goes from here on, can take an image, and is no terminal. Whoever reads
 * it may go: that is an error then, and no signal. What it is not to be (distinct.h) is asked next. CLI_OK, or
 * CLI_FAILED, and an error was printed.
 */
int pipe_begin_output(void);

/* All of the image is there: a file, or a block device, has it on disk. CLI_OK, or CLI_FAILED, as above. */
int pipe_end_output(void);

/* A vdisk_sink_fn: to standard output. -ECANCELED: the command is to end. */
int pipe_write(void *arg, const void *data, size_t len);

/* What of standard input counts. */
struct pipe_part {
    uint64_t skip;  /* bytes at its start that do not */
    uint64_t left;  /* so many behind those; UINT64_MAX: all */
    uint32_t unit;  /* zeros follow up to a multiple of it; 0: none */
    int      error; /* what read() said, which was none of the target's errors; else 0 */

    /* Of pipe.c: */
    uint64_t got;   /* bytes that counted */
    bool     ended;
    char     first[4096];
    size_t   first_len, first_at; /* in `first`: from there on it is still to come */
};

/*
 * Before a target loses what it has: wait for the first of standard input, or its end, so that one that cannot be
 * read is found. CLI_OK, or CLI_FAILED, and an error was printed.
 */
int pipe_begin_input(struct pipe_part *part);

/* Of a volume that grows as it comes: half of that for each step, which takes some flushes. Others take less. */
enum { PIPE_DEPTH = 64, PIPE_MEMORY = 128 << 20 };

/* A vdisk_source_fn: from standard input; `arg`: a struct pipe_part. */
int64_t pipe_read(void *arg, void *buf, size_t len);

#endif
