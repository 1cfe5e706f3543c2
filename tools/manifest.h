/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Manifests: files with the digests of a volume's blocks, in lines of text.
 *
 *     vdisk-io manifest 1
 *     algorithm blake2b-256
 *     block-size BYTES
 *     size BYTES
 *     DIGEST COUNT        so many blocks have it: neighbours together, in order
 *     checksum DIGEST     of all of it
 *     crc32 SUM           of all bytes before this line
 *
 * One is written beside its place (FILE.new, which stays when the command is killed, and is the next one's then),
 * and put there when it is whole. Read, it is anybody's: all of it is judged
 * before any of it is used, and again while it is. Memory does not depend on its length.
 */
#ifndef TOOLS_MANIFEST_H
#define TOOLS_MANIFEST_H

#include <stdio.h>

#include "tools/cli.h"

enum { MANIFEST_HEX = 2 * VDISK_DIGEST_SIZE, MANIFEST_BLOCK = 4 << 20 };

#define MANIFEST_SIZE_LATER UINT64_MAX

struct manifest_run {
    uint64_t count; /* of blocks */
    uint8_t  digest[VDISK_DIGEST_SIZE];
};

/* In lower case, with a zero at the end. */
void manifest_hex(const uint8_t digest[VDISK_DIGEST_SIZE], char ret[MANIFEST_HEX + 1]);

/* ---- writing: errors are printed ----------------------------------------------------------------------- */

struct manifest_writer {
    char               *path, *temporary;
    FILE               *file;
    FILE               *body; /* of one whose size is not known yet: what follows it */
    uint32_t            block_size;
    uint64_t            crc;
    struct manifest_run run; /* not written yet, since there may be more of it */
};

/*
 * A file that is there has to be a manifest, or empty. `size`: of the volume; MANIFEST_SIZE_LATER: see
 * manifest_set_size(). CLI_OK or CLI_FAILED; then nothing is left to do.
 */
int manifest_create(struct manifest_writer *m, const char *path, uint32_t block_size, uint64_t size);

/* Would that be refused, because of what is there? Nothing is written. CLI_OK or CLI_FAILED. */
int manifest_check(const char *path);

/* 0 or -errno, which is not printed. */
int manifest_add(struct manifest_writer *m, uint64_t count, const uint8_t *digest);

/* When all runs have been added. CLI_OK or CLI_FAILED. */
int manifest_set_size(struct manifest_writer *m, uint64_t size);

/* The file at `path` is the manifest, or what it is written to. */
bool manifest_is_file(const struct manifest_writer *m, const char *path);

/* Put it in its place; or, without `checksum`, remove it. CLI_OK or CLI_FAILED. */
int manifest_finish(struct manifest_writer *m, const uint8_t *checksum);

/* ---- reading: errors are printed ----------------------------------------------------------------------- */

struct manifest {
    char               *path;
    FILE               *file;
    unsigned long       line;  /* the number of the last one */
    uint64_t            crc;   /* of the lines up to it */
    uint32_t            block_size;
    uint64_t            size, left; /* blocks whose digests have not been read */
    uint8_t             checksum[VDISK_DIGEST_SIZE]; /* when all has been read */
    struct manifest_run run;
};

/* Judges all of it; then the first run is next. CLI_OK, or CLI_FAILED: it is closed. */
int manifest_open(struct manifest *m, const char *path);

/* The next run. 1, 0: there are no more, and the rest is as it should be; -1: an error. */
int manifest_next(struct manifest *m);
void manifest_close(struct manifest *m);

#endif
