/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Works: the extents of the source are gone along as far as the job had come; what it had to write is read from
 * both and compared.
 * Fails: they differ, or cannot be read: nothing has been written, and FILE stays as it is.
 */
#include "tools/job_verify.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { PIECE = 1 << 20, SECTOR = 512, EXTENTS = 64 };

struct verify {
    const struct job_verify *ask;
    uint64_t                 end;   /* of the source */
    char                    *a, *b; /* PIECE each */
};

static int differs(const struct verify *v, uint64_t offset)
{
    cli_error("%s: cannot go on: %s does not have what was written to it, near offset %" PRIu64
              "; remove %s to begin again",
              v->ask->job->given, v->ask->target_name, offset + v->ask->target_offset, v->ask->job->given);
    return CLI_FAILED;
}

/* At most a piece. Of a source that cannot be read everywhere the rest counts. */
static int compare_piece(const struct verify *v, uint64_t offset, size_t len)
{
    const struct job_verify *ask = v->ask;
    size_t half = len / 2 / SECTOR * SECTOR;
    int rc;

    if (vdisk_pread(ask->source, v->a, len, offset) < 0) {
        if (!ask->salvage)
            return cli_library_error();
        if (half == 0)
            return CLI_OK;
        rc = compare_piece(v, offset, half);
        return rc == CLI_OK ? compare_piece(v, offset + half, len - half) : rc;
    }
    if (vdisk_pread(ask->target, v->b, len, offset + ask->target_offset) < 0)
        return cli_library_error();
    return memcmp(v->a, v->b, len) == 0 ? CLI_OK : differs(v, offset);
}

static int compare_range(const struct verify *v, uint64_t offset, uint64_t len)
{
    int rc = CLI_OK;

    for (uint64_t done = 0; rc == CLI_OK && done < len && !cli_end_is_waiting(); done += PIECE)
        rc = compare_piece(v, offset + done, len - done < PIECE ? (size_t)(len - done) : PIECE);
    return rc;
}

/* Zeros of the source: what the target knows to be zeros is not read. */
static int compare_zeros(const struct verify *v, uint64_t offset, uint64_t len)
{
    struct vdisk_extent list[EXTENTS];
    int rc = CLI_OK;

    for (uint64_t at = offset; rc == CLI_OK && at < offset + len && !cli_end_is_waiting();) {
        struct vdisk_extents x = {.list = list, .max = EXTENTS};
        if (vdisk_pextents(v->ask->target, offset + len - at, at + v->ask->target_offset, &x) < 0)
            return cli_library_error();
        for (unsigned i = 0; rc == CLI_OK && i < x.count; i++) {
            if (!(list[i].flags & VDISK_EXTENT_ZERO))
                rc = compare_range(v, at, list[i].length);
            at += list[i].length;
        }
    }
    return rc;
}

static int compare_all(const struct verify *v)
{
    struct vdisk_extent list[EXTENTS];
    int rc = CLI_OK;

    for (uint64_t at = 0; rc == CLI_OK && at < v->end && !cli_end_is_waiting();) {
        struct vdisk_extents x = {.list = list, .max = EXTENTS};
        if (vdisk_pextents(v->ask->source, v->end - at, at, &x) < 0) {
            if (!v->ask->salvage)
                return cli_library_error();
            rc = compare_range(v, at, v->end - at < PIECE ? v->end - at : PIECE);
            at += PIECE;
        }
        for (unsigned i = 0; rc == CLI_OK && i < x.count; i++) {
            if (v->ask->depth > 0 && list[i].depth >= v->ask->depth)
                ; /* it was there before */
            else if (list[i].flags & VDISK_EXTENT_ZERO)
                rc = compare_zeros(v, at, list[i].length);
            else
                rc = compare_range(v, at, list[i].length);
            at += list[i].length;
        }
    }
    return rc;
}

int job_verify(const struct job_verify *ask)
{
    struct verify v = {.ask = ask};
    uint64_t size = vdisk_size(ask->source);
    int rc = CLI_FAILED;

    if (!ask->job->is_doubted || ask->length <= ask->target_offset)
        return CLI_OK;
    v.end = ask->length - ask->target_offset < size ? ask->length - ask->target_offset : size;
    if (vdisk_size(ask->target) < ask->target_offset + v.end)
        return differs(&v, 0);
    v.a = vdisk_alloc_buffer(PIECE);
    v.b = vdisk_alloc_buffer(PIECE);
    if (v.a != NULL && v.b != NULL)
        rc = compare_all(&v);
    else
        cli_error("out of memory");
    free(v.a);
    free(v.b);
    return rc;
}

void job_verify_end(struct job_file *job)
{
    if (!job->is_doubted || cli_end_is_waiting())
        return;
    job->is_doubted = false;
    job_file_say_skipped(job);
}

/* ---- of a commit ---------------------------------------------------------------------------------------- */

static int compare_layers(struct job_file *job, const char *name, const char *format, const struct job_base *base)
{
    struct vdisk_open_opts above = {.size = sizeof above, .format = format},
                           below = {.size = sizeof below, .format = base->format};
    struct job_verify v = {.job = job, .target_name = base->name, .length = job->position, .depth = base->depth};
    int rc = CLI_FAILED;

    if (vdisk_open(name, &above, &v.source) < 0)
        return cli_library_error();
    if (vdisk_open(base->name, &below, &v.target) < 0)
        cli_library_error();
    else
        rc = job_verify(&v);
    if (v.target != NULL)
        vdisk_close(v.target);
    vdisk_close(v.source);
    return rc;
}

int job_verify_commit(struct job_file *job, const char *name, const char *format, const char *base)
{
    struct job_base found = {.name = NULL};
    int rc = CLI_OK;

    if (!job->is_doubted)
        return CLI_OK;
    if (job_base_find(&found, name, format, base))
        rc = compare_layers(job, name, format, &found);
    job_base_free(&found);
    if (rc == CLI_OK)
        job_verify_end(job);
    return rc;
}
