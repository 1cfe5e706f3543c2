/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The files that a command keeps for itself: that of --job and of --manifest, and what stands beside them for a
 * while. None of them is to be one of its images, which would be overwritten, nor one of the others.
 */
#ifndef TOOLS_OWN_FILES_H
#define TOOLS_OWN_FILES_H

#include <sys/types.h>

#include "tools/cli.h"

enum { OWN_FILES_MOST = 5 };

/* Where a path leads: a file that is there, and the name in its folder, under which one can come to be. */
struct own_place {
    bool  is_there, is_named;
    dev_t device, folder_device;
    ino_t inode, folder;
    char *path, *name; /* which ends the path */
};

struct own_files {
    struct {
        struct own_place place;
        const char      *option; /* whose it is */
    } list[OWN_FILES_MOST];
    unsigned count;
    bool     clashes;
};

/* What --job FILE and --manifest FILE write; `path` NULL: nothing. */
void own_files_add_job(struct own_files *o, const char *path);
void own_files_add_manifest(struct own_files *o, const char *path);

/* None of them is to be that: the file at `path` (NULL: nothing), of which `what` says what it is besides. */
void own_files_exclude(struct own_files *o, const char *path, const char *what);

/* Likewise an image, be it there or not, and all below it. */
void own_files_exclude_image(struct own_files *o, const char *name, const char *format);

/* CLI_OK; or CLI_FAILED: one is, and it was told which, once. */
int own_files_end(struct own_files *o);

/* `path` with `suffix`. malloc'ed. */
char *own_files_beside(const char *path, const char *suffix);

/* The file that is at `path`, or comes to be there, through symbolic links. malloc'ed. */
char *own_files_path(const char *path);

/* What was renamed to `path` is there after a power cut, too, where the file system can say so. */
void own_files_sync_folder(const char *path);

#endif
