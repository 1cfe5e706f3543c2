/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * An image to, or from, an open volume that is no domain's: an export, an image of Ceph, a file.
 *
 * Works: out: the source is locked, shared, and all that can be refused is before there is a target; in: a volume
 * is made, and filled before it is published. Fails, or killed: out: the target is as far as it was written, which
 * is its owner's to undo; in: as op_create.c: there is no volume.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "tools/domain/kind.h"

/* ---- out ------------------------------------------------------------------------------------------------- */

struct outgoing {
    struct domain              *from;
    const struct domain_copy   *o;
    const struct domain_target *target;
    const char                 *image;
};

static int copy_source(const struct outgoing *c, const struct domain_volume *v, vdisk *source)
{
    vdisk *target;
    bool zero = false;
    int rc = c->target->open(c->target->arg, v, source, vdisk_size(source), &target, &zero);

    return rc == 0 ? dom_copy_open(c->from, source, target, false, zero, c->o) : rc;
}

static int copy_out(const struct outgoing *c, const struct domain_volume *v)
{
    struct dom_error error;
    vdisk *source = NULL;
    int rc = c->o->dry_run ? 0 : dom_open_data(c->from, c->image, v, 0, &source);

    if (rc < 0 || c->o->dry_run)
        return rc;
    rc = copy_source(c, v, source);
    dom_error_keep(&error, rc);
    vdisk_close(source);
    return rc < 0 ? dom_error_give(&error) : 0;
}

static int copy_loaded(const struct outgoing *c, const struct domain_image *image, const char *volume,
                       uint64_t *ret_capacity)
{
    struct dom_claims claims = {0};
    struct domain_volume *v;
    struct dom_error error;
    int rc = dom_claim_copied(c->from, image, volume, &claims, &v);

    if (rc == 0)
        rc = copy_out(c, v);
    if (rc == 0)
        *ret_capacity = v->meta.capacity;
    dom_error_keep(&error, rc);
    dom_claims_end(&claims);
    return rc < 0 ? dom_error_give(&error) : 0;
}

int domain_image_copy_to(struct domain *d, const char *image, const char *volume, const struct domain_copy *o,
                         const struct domain_target *target, uint64_t *ret_capacity)
{
    const struct dom_lock_wish wish = {image, DOM_LOCK_READ};
    const struct outgoing c = {d, o, target, image};
    struct domain_image *loaded = NULL;
    struct dom_error error;
    int lock = -1, rc = dom_check_uuid("image", image);

    if (rc == 0)
        rc = d->kind->lock(d, &wish, 1, &lock);
    if (rc < 0)
        return rc;
    rc = domain_load_image(d, image, &loaded);
    if (rc == 0)
        rc = copy_loaded(&c, loaded, volume, ret_capacity);
    dom_error_keep(&error, rc);
    domain_image_free(loaded);
    d->kind->unlock(d, lock);
    return rc < 0 ? dom_error_give(&error) : 0;
}

/* ---- in -------------------------------------------------------------------------------------------------- */

struct incoming {
    struct domain            *to;
    vdisk                    *source;
    const struct domain_copy *o;
};

static int fill(void *arg, const struct domain_new *n)
{
    const struct incoming *c = arg;

    return dom_run_copy(c->to, c->source, n, false, c->o);
}

/* Where data has a fixed size: what is raw has all of it, and a sparse copy what it needs. */
static int choose_room(const struct incoming *c, struct domain_volume_create *o)
{
    if (c->to->extent == 0 || o->allocation == DOMAIN_PREALLOCATED)
        return 0;
    if (o->format == DOMAIN_RAW) {
        if (!c->o->has_allocation)
            o->allocation = DOMAIN_PREALLOCATED;
        return 0;
    }
    o->has_initial_size = true;
    return dom_measure_open(c->to, c->source, true, &o->initial_size);
}

int domain_image_copy_from(struct domain *to, vdisk *source, const struct domain_copy *o,
                           char ret_image[DOMAIN_UUID], struct domain_volume_result *ret)
{
    struct incoming c = {to, source, o};
    struct domain_volume_create with = {
        .uuid = o->uuid,
        .capacity = vdisk_size(source),
        .format = o->has_format ? o->format : DOMAIN_RAW,
        .allocation = o->has_allocation ? o->allocation : DOMAIN_SPARSE,
        .fill = fill,
        .fill_arg = &c,
        .dry_run = o->dry_run,
    };
    char image[DOMAIN_UUID];
    int rc = o->image != NULL ? dom_check_uuid("image", o->image) : domain_make_uuid(image);

    if (rc == 0)
        rc = choose_room(&c, &with);
    if (rc < 0)
        return rc;
    if (o->image != NULL)
        memcpy(image, o->image, DOMAIN_UUID);
    rc = domain_volume_create(to, image, &with, ret);
    if (rc == 0)
        memcpy(ret_image, image, DOMAIN_UUID);
    return rc;
}
