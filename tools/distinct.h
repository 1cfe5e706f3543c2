/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Whether what a verb is to write is none of the files that its sources are read from. */
#ifndef TOOLS_DISTINCT_H
#define TOOLS_DISTINCT_H

#include "tools/cli.h"

/* What is going to be written. */
struct distinct_target {
    const char *name;       /* as for vdisk_open() */
    const char *format;     /* NULL: look */
    const char *data_file;  /* of an image that is to be made: its external data file; NULL: none */
    bool        is_there;   /* it is not made anew: its own header says which files it has */
};

/*
 * Is it, or its data file, a file of any layer of the sources, which are open? They are compared by device and
 * inode: a source that is opened with force-share has no lock that would find it out. A loop device is also the
 * file behind it, or its part of that. CLI_OK; else CLI_FAILED, and an error that names the file was printed. What
 * cannot be looked at is taken for another: opening it says why.
 */
int distinct_check(vdisk *const *sources, char *const *names, unsigned count, const struct distinct_target *t);

/* The same, where standard output is the target; where standard input is the only source. */
int distinct_check_output(vdisk *const *sources, char *const *names, unsigned count);
int distinct_check_input(const struct distinct_target *t);

#endif
