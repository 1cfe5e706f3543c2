/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Works: see copy_manifest.h. Fails: what cannot be written ends the copy, and is said once; the manifest is put
 * in its place when the copy is whole, or not at all.
 */
#include "tools/copy_manifest.h"

#include <string.h>

int copy_manifest_go_on(struct copy_manifest *m, struct job_file *job)
{
    return m->given == NULL ? CLI_OK : job_blocks_open(&m->blocks, job, MANIFEST_BLOCK);
}

int copy_manifest_begin(struct copy_manifest *m, uint64_t size)
{
    sigset_t ends;
    int rc;

    if (m->given == NULL)
        return CLI_OK;
    cli_ends(&ends);
    sigprocmask(SIG_BLOCK, &ends, NULL); /* but for the copy: nothing is left beside the manifest */
    rc = manifest_create(&m->writer, m->given, MANIFEST_BLOCK, size);
    m->open = rc == CLI_OK;
    m->unsized = size == MANIFEST_SIZE_LATER;
    return rc;
}

/* A vdisk_block_digest_fn. */
static int take_blocks(void *arg, uint64_t first, uint64_t count, const uint8_t *digest)
{
    struct copy_manifest *m = arg;
    int rc = manifest_add(&m->writer, count, digest);

    if (rc < 0)
        cli_error("%s: %s", m->given, strerror(-rc));
    m->said = rc < 0;
    if (rc == 0)
        job_blocks_hold(&m->blocks, first, count, digest);
    return rc;
}

void copy_manifest_ask(struct copy_manifest *m, struct vdisk_copy_opts *o)
{
    if (m->given == NULL)
        return;
    o->block_digest = take_blocks;
    o->block_digest_arg = m;
    o->known_digest = job_blocks_known;
    o->known_digest_arg = &m->blocks;
    if (o->going_on.checkpoint == NULL)
        return;
    o->going_on.checkpoint = job_blocks_checkpoint;
    o->going_on.checkpoint_arg = &m->blocks;
}

int copy_manifest_end(struct copy_manifest *m, const uint8_t *digest, uint64_t size)
{
    if (m->given == NULL)
        return digest != NULL ? CLI_OK : CLI_FAILED;
    if (m->open && m->unsized && digest != NULL && manifest_set_size(&m->writer, size) != CLI_OK)
        digest = NULL;
    if (m->open && manifest_finish(&m->writer, digest) != CLI_OK)
        digest = NULL;
    m->open = false;
    job_blocks_close(&m->blocks, digest != NULL);
    return digest != NULL ? CLI_OK : CLI_FAILED;
}
