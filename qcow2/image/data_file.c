/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The external data file of an image: found by the name that the caller gives, else by the one in the header, and
 * opened as raw.
 *
 * Failure modes: no name, a name for another format, the image itself, errors of opening; each with a text.
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/error.h"
#include "engine/base/mem.h"
#include "engine/chain/absent.h"
#include "engine/chain/layer_name.h"
#include "qcow2/image/image.h"
#include "qcow2/mutant.h"

/* Its bytes are the guest's: a name that says another format than raw is refused. */
static int open_data_backend(struct layer *layer, const struct layer_name *n)
{
    struct backend_id id;
    int rc = 0;

    if (backend_identify_node(n->file, &id) && backend_is(layer->file, &id))
        rc = err_set(EINVAL, "%s: is the image itself", n->name);
    if (rc == 0)
        rc = backend_open_node(n->name, n->file, layer_backend_flags(n->flags), &layer->data);
    if (rc < 0)
        layer->data = NULL;
    return rc;
}

/* By the name that the caller gives, by that of the node that he gives, or by the header's. */
static int name_data_file(const struct q2 *q, const struct layer_open *how, struct layer_name *ret)
{
    const struct spec *node = how->name ? spec_node(how->name, "data-file") : NULL;
    uint32_t flags = q->meta.layer->open_flags;
    const char *raw = format_plain()->name;
    char *path;
    int rc;

    if (how->data_file)
        return layer_name_parse(how->data_file, NULL, raw, flags, ret);
    if (node)
        return layer_name_parse(NULL, node, raw, flags, ret);
    if (!q->meta.header.data_file)
        return err_hint(err_set(EINVAL, "the name is missing"), "give the data file when opening");
    path = layer_resolve(q->meta.layer->name, q->meta.header.data_file);
    rc = path ? layer_name_stored(path, raw, flags, ret) : err_set(ENOMEM, "out of memory");
    mem_free(path);
    return rc;
}

static bool is_given(const struct layer_open *how)
{
    return how->data_file || (how->name && spec_get(how->name, "data-file"));
}

int q2_data_file_open(struct q2 *q, const struct layer_open *how)
{
    struct layer *layer = q->meta.layer;
    struct layer_name n = {0};
    int rc;

    assert(layer->data == NULL && layer->file != NULL);
    layer->data = layer->file;
    if (!q->meta.geo.data_file)
        return is_given(how) ? err_set(EINVAL, "%s: has no external data file", layer->name) : 0;
    /* A name that the caller gives is not the image's. */
    if (!how->data_file && layer->open_flags & VDISK_OPEN_NO_NAMES && !MUTANT(FOLLOW_NAMES)) {
        layer->data = absent_backend("external data file, not opened");
        return layer->data ? 0 : err_set(ENOMEM, "%s: out of memory", layer->name);
    }
    rc = name_data_file(q, how, &n);
    if (rc == 0)
        rc = open_data_backend(layer, &n);
    layer_name_free(&n);
    return rc < 0 ? err_prefix(rc, "%s: external data file", layer->name) : 0;
}
