/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The manifest of a copy: the digests that it tells go into a file, and, with --job, beside the job's. */
#ifndef TOOLS_COPY_MANIFEST_H
#define TOOLS_COPY_MANIFEST_H

#include "tools/job_blocks.h"
#include "tools/manifest.h"

struct copy_manifest {
    const char            *given; /* NULL: there is none, and calls do nothing */
    struct manifest_writer writer;
    struct job_blocks      blocks;
    bool                   open, unsized;
    bool                   said;  /* why it stopped */
};

/* After job_file_open(): digests of what was done before. CLI_OK or CLI_FAILED: told. */
int copy_manifest_go_on(struct copy_manifest *m, struct job_file *job);

/* Before anything is written; `size` as for manifest_create(). CLI_OK or CLI_FAILED: told. */
int copy_manifest_begin(struct copy_manifest *m, uint64_t size);

/* The copy tells its digests; with --job, its checkpoints by these. */
void copy_manifest_ask(struct copy_manifest *m, struct vdisk_copy_opts *o);

/*
 * The copy has ended, with `digest`, and so many bytes (of an unsized one); NULL: not well. CLI_OK, or CLI_FAILED:
 * not well, or told.
 */
int copy_manifest_end(struct copy_manifest *m, const uint8_t *digest, uint64_t size);

#endif
