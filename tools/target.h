/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The target of a verb that makes an image and fills it: what is known of its files before, so that after a
 * failure what was made is removed, and what was there before is not taken for a whole image.
 */
#ifndef TOOLS_TARGET_H
#define TOOLS_TARGET_H

#include <sys/stat.h>

#include "tools/cli.h"

/* A file that is to be written. */
struct target_file {
    char       *path;    /* NULL: there is none, or the name is no path */
    bool        made;    /* by us, just now: it was not there */
    bool        absent;  /* it was not there, and is not made */
    struct stat st;      /* when it was looked at or made */
};

struct target {
    const char        *name;      /* as for vdisk_open() */
    struct target_file file, data; /* the image; its external data file */
    bool               created;    /* what was there before is gone */
    char               left[1200]; /* after target_undo(): "; NAME is left empty", or nothing */
};

/* A cache mode, as -t and -T take it, as flags of vdisk_open(). false: there is no such mode. */
bool target_cache_flags(const char *mode, uint32_t *ret_flags);

/* The path that a name is; NULL: it is something else. Points into `name`. */
const char *target_path(const char *name);

/* `name` and the file that `st` is of are one. */
bool target_is_file(const char *name, const struct stat *st);

/*
 * Make the image: `data_file` is that of `opts`. SIGINT and SIGTERM cancel. 0, or an error of the library: then,
 * too, target_undo() is due. The signals wait from here on for cli_job_run(), or the end.
 */
int target_create(struct target *t, const struct vdisk_create_opts *opts);

/* Is it known, of an image that target_create() has made, that it reads as zeros? */
bool target_is_zero(const struct target *t, const struct vdisk_create_opts *opts);

/*
 * After a failure: remove what was made; empty what was there. Makes no call of the library; what is left is in
 * t->left, to be added to the error.
 */
void target_undo(struct target *t);

void target_free(struct target *t);

#endif
