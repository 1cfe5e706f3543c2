/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What formats share of creation: files that are not touched before all has been seen that can be refused. */
#ifndef ENGINE_CREATE_H
#define ENGINE_CREATE_H

#include "engine/backend.h"
#include "engine/format.h"
#include "engine/vdisk.h"

/* A file or device that becomes the new volume, or its data file. The first seven are the format's to fill in. */
struct create_target {
    struct backend *b;        /* open and locked, with whatever it held */
    uint64_t        size;     /* that it is to have; a device: at least */
    uint64_t        need;     /* bytes that will be allocated for it */
    const char     *why;      /* what needs them, for the text */
    bool            reserves; /* space will be asked for by IO_ALLOCATE, and has to be had that way */
    const void     *mark;     /* or NULL. For its start: so that who is killed leaves nothing like data */
    size_t          mark_len;

    uint64_t        old_size;
    bool            marked;   /* the mark has been written, or in part */
    bool            grown;    /* has its final size, and all it held */
    bool            doubtful; /* cutting failed in a way that may have been done */
    bool            replaced; /* what it held is gone */
};

/*
 * Size and room are there for all of them, as far as the host tells. Blocks. Changes nothing.
 * Errors, with text: -ENOSPC, -ENOTSUP.
 */
int create_check(struct create_target *targets, unsigned n, vdisk_queue *q);

/*
 * The first change: from here on files are empty, have their new sizes, and keep inode, owner, mode and links;
 * devices hold whatever they held. But for the mark, which is the first that is written: before it a file is what
 * it was, or empty. Blocks. On failure, with text, create_end() knows which of them have changed.
 */
int create_take(struct create_target *targets, unsigned n, vdisk_queue *q);

/*
 * In any case. After a failure (rc < 0) what creation made is removed; of what was there before, and is lost, the
 * error's text says what is left. Does not close. Returns rc.
 */
int create_end(struct create_target *targets, unsigned n, vdisk_queue *q, int rc);

/*
 * Can it be created? *ret_format: what does that. An opts->format that is NULL becomes the plain one. 0 or
 * -EINVAL, with text.
 */
int create_check_opts(const char *name, struct vdisk_create_opts *opts, const struct format_driver **ret_format);

/* The caller's strings may go: copies, which `strings` has, for mem_free(). False: out of memory. */
enum { CREATE_STRINGS = 5 };
bool create_copy_strings(struct vdisk_create_opts *opts, char *strings[CREATE_STRINGS]);

/*
 * All of it in a backend that is open, and stays so. Blocks; opts->virtual_size may change. Errors with text.
 */
int create_on(const struct format_driver *format, struct backend *b, struct vdisk_create_opts *opts,
              vdisk_queue *q);

#endif
