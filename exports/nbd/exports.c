/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What is served: volumes under names.
 *
 * Happy path: exports are added before the start, and read by all threads afterwards.
 * Failures: a name twice, one that the protocol does not allow, a block that is none: nothing is added.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "exports/nbd/server.h"

struct nbds_export *nbds_export_find(struct nbd_server *server, struct nbd_string name)
{
    for (struct nbds_export *e = server->exports; e; e = e->next)
        if (nbd_string_equals(name, e->name))
            return e;
    return NULL;
}

void nbds_export_free(struct nbds_export *e)
{
    if (e) {
        free(e->name);
        free(e->description);
        free(e);
    }
}

uint64_t nbds_export_size(const struct nbds_export *e, bool look)
{
    struct vdisk_info info = {.size = sizeof info};
    uint64_t size = look && vdisk_get_info(e->volume, &info) == 0 ? info.virtual_size : vdisk_size(e->volume);

    return size > e->offset ? size - e->offset : 0;
}

/* A power of two from 4 KiB to 64 KiB that costs no read-modify-write. */
static uint32_t preferred_block(const struct vdisk_info *info, uint32_t min_block)
{
    uint32_t block = 4096;

    while (block < 65536 && (block < info->request_align || block < min_block))
        block *= 2;
    return block;
}

static bool is_block_size(uint32_t n)
{
    return n != 0 && n <= 65536 && (n & (n - 1)) == 0;
}

int nbd_server_add_export(struct nbd_server *server, const struct nbd_export_opts *opts)
{
    struct vdisk_info info = {.size = sizeof info};
    const char *description = opts->description ? opts->description : "";
    struct nbds_export **end = &server->exports;

    if (!nbd_string_valid(opts->name, strlen(opts->name)) || !nbd_string_valid(description, strlen(description)))
        return nbds_error(-EINVAL, "export name or description is longer than %d bytes", NBD_MAX_STRING);
    if (opts->min_block != 0 && !is_block_size(opts->min_block))
        return nbds_error(-EINVAL, "export '%s': a block is a power of two, 64 KiB at most", opts->name);
    for (; *end; end = &(*end)->next)
        if (strcmp((*end)->name, opts->name) == 0)
            return nbds_error(-EEXIST, "there are two exports '%s'", opts->name);
    int rc = vdisk_get_info(opts->volume, &info);
    if (rc < 0)
        return nbds_error(rc, "%s", vdisk_error_text());
    if (opts->offset > 0 && opts->offset >= info.virtual_size)
        return nbds_error(-EINVAL, "export '%s': the offset %" PRIu64 " is not within its %" PRIu64 " bytes",
                          opts->name, opts->offset, info.virtual_size);
    struct nbds_export *e = calloc(1, sizeof *e);
    if (e) {
        e->name = strdup(opts->name);
        e->description = strdup(description);
    }
    if (!e || !e->name || !e->description) {
        nbds_export_free(e);
        return nbds_error(-ENOMEM, "no memory for an export");
    }
    e->volume = opts->volume;
    e->read_only = opts->read_only || info.read_only;
    e->multi_conn = opts->multi_conn;
    e->durable = opts->durable;
    e->no_discard = opts->no_discard;
    e->zeroes = opts->zeroes;
    e->offset = opts->offset;
    e->depth = !opts->no_depth;
    e->min_block = opts->min_block ? opts->min_block : 1;
    e->preferred_block = preferred_block(&info, e->min_block);
    *end = e;
    server->nexports++;
    return 0;
}
