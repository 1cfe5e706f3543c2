/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the parts of convert have in common: cmd_convert.c, and convert_files.c for the files around a copy. */
#ifndef TOOLS_CONVERT_H
#define TOOLS_CONVERT_H

#include "tools/cli.h"
#include "tools/copy_manifest.h"
#include "tools/create_options.h"
#include "tools/job_file.h"
#include "tools/pipe.h"
#include "tools/target.h"

struct convert {
    const struct cli_verb  *verb;
    const char             *source_format; /* NULL: look */
    const char             *backing, *backing_fmt;
    struct create_options   o;             /* format, and options of the target */
    struct cli_pairs        pairs;
    struct vdisk_copy_opts  copy;
    struct cli_progress     progress;
    struct job_file         job;
    struct copy_manifest    manifest;
    uint64_t                copied; /* bytes */
    uint8_t                 digest[VDISK_DIGEST_SIZE];
    struct cli_memory       memory;
    uint32_t                source_flags, target_flags;
    bool                    no_create, target_is_zero, target_image_opts, quiet, list_options, have_out_format;
    bool                    offload, have_sparse; /* -C, -S */
    bool                    from_stdin, to_stdout; /* "-" */

    char                  **names;
    vdisk                 **sources;
    unsigned                count;
    uint64_t                total;
    char                   *target_name;
    struct target           target;
    struct pipe_part        part;
    char                    error[1024], hint[512]; /* what went wrong in the library, to be said at the end */
};

/* What --job and --manifest write is no image of this command. CLI_OK or CLI_FAILED: told. */
int convert_check_own_files(const struct convert *c);

/* The files of a job, for its file: before the target is there; and of a target that has come to be. */
void convert_add_ends(struct convert *c);
void convert_add_target(struct convert *c);

/* Where a job goes on: what it passes over is there. CLI_OK or CLI_FAILED: told. */
int convert_verify(struct convert *c, vdisk *target);

/* A process that was killed may have leaked clusters of the target. What cannot be mended does no harm. */
void convert_mend_leaks(const struct convert *c);

#endif
