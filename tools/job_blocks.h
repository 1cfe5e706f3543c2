/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The digests of a checksum, or of a copy's blocks, that is to go on: FILE.blocks beside the job's FILE, a line
 * "DIGEST COUNT" for each run that was told. FILE says how many bytes of it count, and their crc32: they are
 * durable before FILE says so, and what follows them is cut off.
 */
#ifndef TOOLS_JOB_BLOCKS_H
#define TOOLS_JOB_BLOCKS_H

#include <stdio.h>

#include "tools/job_file.h"
#include "tools/manifest.h"

struct job_blocks {
    struct job_file *job;
    char            *path;
    FILE            *file;       /* NULL: there is no --job */
    uint32_t         block_size;
    uint64_t         known;      /* blocks that FILE.blocks has */
    uint64_t         told;       /* blocks in all */
    uint64_t         bytes, left; /* of it; that are still to be read */
    uint64_t         crc, want_crc;
    uint64_t         last_ns;
    bool             said;       /* why it stopped */
    bool             broken;     /* a write to it failed: no checkpoint counts on what it holds */
    struct manifest_run *held;   /* of a copy: told, and not before its last checkpoint */
    size_t           held_count, held_room;
};

/* After job_file_open(). CLI_OK or CLI_FAILED: told, and nothing is left to do. */
int job_blocks_open(struct job_blocks *b, struct job_file *job, uint32_t block_size);

/* A vdisk_known_digest_fn; `arg`: the blocks. */
int job_blocks_known(void *arg, uint64_t first, uint64_t *ret_count, uint8_t *ret_digest);

/* A run has been told; FILE is written when that is due. 0 or -errno: told. */
int job_blocks_add(struct job_blocks *b, uint64_t first, uint64_t count, const uint8_t *digest);

/*
 * Of a copy, in place of that: a run has been told, which counts from the next checkpoint behind it on; and a
 * vdisk_checkpoint_fn, `arg`: the blocks.
 */
void job_blocks_hold(struct job_blocks *b, uint64_t first, uint64_t count, const uint8_t *digest);
int job_blocks_checkpoint(void *arg, uint64_t position);

/*
 * The job has ended: what is known is durable, and FILE says so; or it is not needed any more, and goes with
 * job_file_end(), not before FILE says that all is done.
 */
void job_blocks_close(struct job_blocks *b, bool done);

#endif
