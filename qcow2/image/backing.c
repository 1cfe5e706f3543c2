/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Another backing file, by name, in the header.
 *
 * Happy path: what was written is made durable, then the header is replaced (header_replace.c). Failure modes: the
 * name does not fit, or is none: nothing has changed; those of replacing the header.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/error.h"
#include "engine/base/mem.h"
#include "qcow2/format/format.h"
#include "qcow2/image/create.h"
#include "qcow2/image/image.h"

/* In memory, and in the layer, that reads by the old chain as long as it is open. `new` has the old names then. */
static void adopt(struct q2_meta *meta, struct q2_header *new)
{
    struct q2_header *h = &meta->header;
    char *file = h->backing_file, *format = h->backing_format;

    pthread_mutex_lock(&meta->lock);
    h->backing_file = new->backing_file;
    h->backing_format = new->backing_format;
    pthread_mutex_unlock(&meta->lock);
    new->backing_file = file;
    new->backing_format = format;
}

int q2_check_new_backing(const struct layer *layer, const char *file, const char *format, const char *hint)
{
    if (file && q2_of(unconst(layer))->meta.data_file_raw)
        return err_set(EINVAL, "%s: a backing file and data_file_raw cannot be used together", layer->name);
    if (file && !format)
        return err_hint(err_set(EINVAL, "%s: backing format must be specified", layer->name), "%s", hint);
    if (!file && format)
        return err_set(EINVAL, "%s: backing format without a backing file", layer->name);
    return file ? q2_check_backing(layer->name, file, format) : 0;
}

int q2_set_backing(struct layer *layer, const char *file, const char *format, bool only_check, vdisk_queue *queue)
{
    static const char doubt[] = "the header could not be written while it got another backing file";
    struct q2_meta *meta = &q2_of(layer)->meta;
    struct q2_header h; /* its names are ours, all else is the image's own */
    int rc = q2_check_new_backing(layer, file, format, "use -F");

    assert(atomic_load(&layer->volume->refuses) & VOLUME_SHUT);
    if (rc < 0)
        return rc;
    if (atomic_load(&meta->broken))
        return layer_trouble(layer, "changing its backing file");
    if (!only_check) /* what was written is durable before what it is for */
        rc = q2_trim_run(&q2_of(layer)->space, queue, true);
    if (rc < 0)
        return rc;
    h = meta->header;
    h.backing_file = file ? mem_strdup(file) : NULL;
    h.backing_format = format ? mem_strdup(format) : NULL;
    if ((file && !h.backing_file) || (format && !h.backing_format))
        rc = err_set(ENOMEM, "%s: out of memory", layer->name);
    if (rc == 0)
        rc = q2_header_replace(layer, &h, doubt, only_check, queue);
    if (rc == 0 && !only_check)
        adopt(meta, &h);
    mem_free(h.backing_file);
    mem_free(h.backing_format);
    return rc;
}
