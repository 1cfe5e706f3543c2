/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A domain of version 3 or 4 becomes one of version 5.
 *
 * Works: with the domain locked, each volume's metadata gets the keys of version 5 beside its own, so that either
 * version reads it; or, where version 5 has another place for it, it is written there, too. Then the domain's
 * metadata says 5; then the old keys, or places, go. Fails, or killed: the domain is of either version, and whole;
 * the same call goes on. Volumes stay as they are: qcow2 of version 2, too.
 *
 * Invariant: 1. before anything is changed, all metadata in the domain could be read, and has room for version 5.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/domain/kind.h"

typedef int visit_fn(struct domain *d, const struct domain_image *image, struct domain_volume *v);

static int visit_loaded(struct domain *d, const struct domain_image *image, visit_fn *fn)
{
    int rc = 0;

    for (size_t i = 0; rc == 0 && i < image->count; i++)
        rc = fn(d, image, &image->list[i]);
    return rc;
}

/* All volumes; a template in each image that has it: the one that it is of need not be there. */
static int visit(struct domain *d, visit_fn *fn)
{
    struct domain_names names = {0};
    struct domain_image *image;
    struct dom_error error;
    int rc = d->kind->list_images(d, &names);

    for (size_t i = 0; rc == 0 && i < names.count; i++) {
        if (strncmp(names.list[i], DOMAIN_REMOVED, sizeof DOMAIN_REMOVED - 1) == 0)
            continue;
        rc = domain_load_image(d, names.list[i], &image);
        if (rc == 0) {
            rc = visit_loaded(d, image, fn);
            domain_image_free(image);
        }
    }
    dom_error_keep(&error, rc);
    domain_names_free(&names);
    return rc < 0 ? dom_error_give(&error) : 0;
}

static struct domain_meta upgraded(const struct domain_meta *meta)
{
    struct domain_meta m = *meta;

    m.has_capacity = m.has_sequence = true;
    m.has_size = m.has_mtime = false;
    return m;
}

/* Keys that it did not have may have no room. (1) */
static int judge_text(struct domain *d, const struct domain_image *image, const struct domain_volume *v)
{
    struct domain_meta meta = upgraded(&v->meta);
    char text[TEXT_VOLUME_MAX + 1];
    size_t len;

    if (dom_format_meta(d, &meta, text, &len) == 0)
        return 0;
    return dom_fail(EOVERFLOW, "make the description shorter, by 'vdisk-io volume update'",
                    "%s: image %s: the metadata of volume %s has no room for what version 5 adds", d->path,
                    image->uuid, v->uuid);
}

/* (1) */
static int judge_volume(struct domain *d, const struct domain_image *image, struct domain_volume *v)
{
    if (v->odd || v->why[0] != '\0')
        return dom_fail(EBADMSG, "the domain is as it was: restore VOLUME.meta",
                        "%s: image %s: the metadata of volume %s: %s", d->path, image->uuid, v->uuid,
                        v->odd ? "it, or what is beside it, is no regular file" : v->why);
    if (!v->has_meta)
        return dom_fail(EBADMSG, "'vdisk-io domain check --repair' mends what commands have left",
                        "%s: image %s: volume %s has no metadata", d->path, image->uuid, v->uuid);
    if (!v->has_data)
        return dom_fail(EBADMSG, NULL, "%s: image %s: volume %s has no data", d->path, image->uuid, v->uuid);
    return judge_text(d, image, v);
}

static int write_one(struct domain *d, const struct domain_image *image, struct domain_volume *v,
                     const struct domain_meta *meta)
{
    char text[TEXT_VOLUME_MAX + 1];
    size_t len;
    int rc;

    if (meta->role != DOMAIN_SHARED)
        return dom_write_meta(d, image->uuid, v, meta);
    rc = dom_format_meta(d, meta, text, &len);
    return rc == 0 ? d->kind->write_shared(d, image->uuid, v->uuid, text, len) : rc;
}

/* Metadata that has no room for both is read by either version as it is. */
static int add_keys(struct domain *d, const struct domain_image *image, struct domain_volume *v)
{
    struct domain_meta meta = v->meta;
    int rc;

    if (meta.has_capacity && meta.has_sequence)
        return 0;
    meta.has_capacity = meta.has_sequence = true;
    rc = write_one(d, image, v, &meta);
    if (rc == 0)
        dom_step("upgrade: a volume has both");
    return rc == -EOVERFLOW ? 0 : rc;
}

static int write_next(struct domain *d, const struct domain_image *image, struct domain_volume *v)
{
    struct domain_meta meta = upgraded(&v->meta);
    char text[TEXT_VOLUME_MAX + 1];
    size_t len;
    int rc = 0;

    if (dom_is_foreign(image, v))
        return 0; /* it is written once */
    rc = dom_format_meta(d, &meta, text, &len);
    if (rc == 0)
        rc = d->kind->write_next(d, image->uuid, v->uuid, text, len);
    if (rc == 0)
        dom_step("upgrade: a volume is of version 5, too");
    return rc;
}

static int drop_keys(struct domain *d, const struct domain_image *image, struct domain_volume *v)
{
    struct domain_meta meta = upgraded(&v->meta);
    int rc;

    if (v->meta.has_capacity && v->meta.has_sequence && !v->meta.has_size && !v->meta.has_mtime)
        return 0;
    rc = write_one(d, image, v, &meta);
    if (rc == 0)
        rc = d->kind->sync(d, image->uuid);
    if (rc == 0)
        dom_step("upgrade: a volume is of version 5");
    return rc;
}

static int sync_one(struct domain *d, const struct domain_image *image, struct domain_volume *v)
{
    return v == image->list ? d->kind->sync(d, image->uuid) : 0;
}

static int write_domain(struct domain *d)
{
    char block[16], *text = NULL;
    unsigned block_size;
    size_t len;
    int rc = d->kind->begin_upgrade(d, &block_size);

    if (rc < 0)
        return rc;
    dom_step("upgrade: the domain's files are there");
    snprintf(block, sizeof block, "%u", block_size);
    if (text_domain_set(&d->md, "BLOCK_SIZE", block) < 0 || text_domain_set(&d->md, "ALIGNMENT", "1048576") < 0 ||
        text_domain_set(&d->md, "VERSION", "5") < 0 || text_domain_format(&d->md, &text, &len) < 0)
        return dom_fail(ENOMEM, NULL, "out of memory");
    rc = d->kind->write_domain(d, text, len);
    free(text);
    if (rc < 0)
        return rc;
    d->version = 5;
    dom_step("upgrade: the domain is of version 5");
    return 0;
}

static int upgrade(struct domain *d)
{
    int rc = dom_check_version(d);

    if (rc == 0)
        rc = visit(d, judge_volume);
    if (rc == 0 && d->version < 5) {
        rc = visit(d, d->kind->write_next != NULL ? write_next : add_keys);
        if (rc == 0)
            rc = visit(d, sync_one);
        if (rc == 0)
            rc = write_domain(d);
    }
    if (rc == 0)
        rc = visit(d, drop_keys);
    if (rc == 0)
        rc = d->kind->end_upgrade(d);
    if (rc == 0)
        dom_step("upgrade: what was of older versions is gone");
    return rc;
}

int domain_upgrade(struct domain *d)
{
    struct dom_error error;
    int lock, rc = d->kind->lock_domain(d, &lock);

    if (rc < 0)
        return rc;
    rc = upgrade(d);
    dom_error_keep(&error, rc);
    d->kind->unlock(d, lock);
    return rc < 0 ? dom_error_give(&error) : 0;
}
