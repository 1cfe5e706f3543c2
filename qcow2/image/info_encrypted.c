/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What `info` tells of an image that cannot be opened since it is encrypted: from its header, and from the LUKS
 * header inside.
 *
 * Failure modes: it is not such an image, or cannot be read; nothing is left open. A LUKS header that is not to be
 * found where the image says is left out.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/queue.h"
#include "engine/volume.h"
#include "qcow2/format/format.h"
#include "qcow2/meta/meta.h"
#include "qcow2/qcow2.h"

static int read_luks(struct backend *b, vdisk_queue *q, const struct q2_header *h, struct qcow2_details *d)
{
    uint8_t *buf = vdisk_alloc_buffer(4096);
    struct luks_info luks;
    int rc = buf ? 0 : -ENOMEM;

    if (rc == 0 && is_aligned(h->crypto_offset, Q2_SECTOR_SIZE) && h->crypto_length >= LUKS_HEADER_LENGTH &&
        h->crypto_offset < backend_size(b) && backend_size(b) - h->crypto_offset >= 4096)
        rc = io_pread(q, b, buf, 4096, h->crypto_offset);
    else if (rc == 0)
        memset(buf, 0, 4096);
    if (rc == 0 && luks_parse(buf, &luks)) {
        d->luks = malloc(sizeof luks);
        if (d->luks)
            *d->luks = luks;
        else
            rc = -ENOMEM;
    }
    free(buf);
    return rc;
}

static int load_encrypted(struct backend *b, vdisk_queue *q, struct vdisk_info *info, struct qcow2_details *ret)
{
    uint8_t first[Q2_SECTOR_SIZE];
    struct q2_header h;
    int rc = q2_header_load(b, q, &h, first);

    if (rc < 0)
        return rc;
    rc = h.crypt_method == Q2_CRYPT_NONE ? -ENOTSUP : q2_details_fill(&h, NULL, NULL, ret);
    if (rc == 0) {
        ret->encryption = h.crypt_method == Q2_CRYPT_LUKS ? "luks" : "aes";
        *info = (struct vdisk_info){.size = info->size, .virtual_size = h.size, .format = "qcow2",
                                    .cluster_size = h.geo.cluster_size, .backend = b->driver->name};
        info->allocated_size = b->driver->allocated ? b->driver->allocated(b) : backend_size(b);
        rc = h.crypt_method == Q2_CRYPT_LUKS ? read_luks(b, q, &h, ret) : 0;
        if (rc < 0)
            qcow2_details_free(ret);
    }
    q2_header_free(&h);
    return rc;
}

int qcow2_load_encrypted(const char *name, uint32_t flags, struct vdisk_info *info, char **ret_file,
                         uint64_t *ret_file_length, struct qcow2_details *ret)
{
    struct vdisk_queue_opts opts = {.size = sizeof opts};
    struct backend *b;
    vdisk_queue *q;
    int rc = vdisk_queue_create(&opts, &q);

    if (rc < 0)
        return rc;
    rc = volume_open_file(name, NULL, flags & ~(uint32_t)VDISK_OPEN_RDWR, &b, NULL);
    if (rc == 0) {
        rc = load_encrypted(b, q, info, ret);
        *ret_file_length = backend_size(b);
        *ret_file = rc == 0 ? strdup(backend_path(b->name)) : NULL;
        if (rc == 0 && !*ret_file) {
            qcow2_details_free(ret);
            rc = -ENOMEM;
        }
        backend_close(b);
    }
    vdisk_queue_destroy(q);
    return rc;
}
