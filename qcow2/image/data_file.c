/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The external data file of an image: found by the name that the caller gives, else by the one in the header, and
 * opened as raw.
 *
 * Failure modes: no name, a name for another format, the image itself, errors of opening; each with a text.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/absent.h"
#include "engine/error.h"
#include "engine/json_name.h"
#include "qcow2/mutant.h"
#include "qcow2/state.h"

/* A json: name may say qcow2, which it must not be: its bytes are the guest's. */
static int check_data_name(const char *path)
{
    struct json_name n;
    bool raw;
    int rc = is_json_name(path) ? json_name_parse(path, &n) : 0;

    if (rc < 0 || !is_json_name(path))
        return rc;
    raw = !n.format || strcmp(n.format, "raw") == 0;
    json_name_free(&n);
    return raw ? 0 : err_set(EINVAL, "%.200s: an external data file is raw", path);
}

static int open_data_backend(vdisk *v, const char *path)
{
    struct backend_id id;
    int rc = check_data_name(path);

    if (rc == 0 && backend_identify(path, &id) && backend_is(v->file, &id))
        rc = err_set(EINVAL, "%s: is the image itself", path);
    if (rc == 0)
        rc = backend_open(path, volume_backend_flags(v->open_flags), &v->data);
    if (rc == 0)
        return 0;
    v->data = NULL;
    return err_prefix(rc, "%s: external data file", v->name);
}

int q2_data_file_open(struct q2 *q, const struct layer_open *how)
{
    vdisk *v = q->meta.v;
    const char *stored = how->data_file ? how->data_file : q->meta.header.data_file;
    char *path;
    int rc;

    v->data = v->file;
    if (!q->meta.geo.data_file)
        return how->data_file ? err_set(EINVAL, "%s: has no external data file", v->name) : 0;
    /* A name that the caller gives is not the image's. */
    if (!how->data_file && v->open_flags & VDISK_OPEN_NO_NAMES && !MUTANT(FOLLOW_NAMES)) {
        v->data = absent_backend("external data file, not opened");
        return v->data ? 0 : err_set(ENOMEM, "%s: out of memory", v->name);
    }
    if (!stored)
        return err_hint(err_set(EINVAL, "%s: the name of its external data file is missing", v->name),
                        "give the data file when opening");
    path = how->data_file ? strdup(stored) : volume_resolve(v->name, stored);
    if (!path)
        return err_set(ENOMEM, "out of memory");
    rc = open_data_backend(v, path);
    free(path);
    return rc;
}
