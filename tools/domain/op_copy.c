/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * An image as one volume of another image, in the same domain or another.
 *
 * Works: the source is locked, shared; a volume is made, and filled before it is published. Fails, or killed: as
 * op_create.c: there is none.
 *
 * Invariant: 1. of two images the one whose domain and name come first is locked first: so of two copies in
 *    opposite directions neither waits for the other for ever. (Nor for a template's lock, which is shared: nobody
 *    has two images for a change.)
 */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/domain/kind.h"

struct copy {
    struct domain              *from;
    const struct domain_copy   *o;
    const char                 *image;
    const struct domain_volume *source;
};

/* ---- the data -------------------------------------------------------------------------------------------- */

int dom_copy(struct domain *d, vdisk *source, vdisk *target, const struct vdisk_copy_opts *opts)
{
    vdisk_job *job;
    int rc = vdisk_job_copy(&source, 1, target, opts, &job);

    return rc == 0 ? dom_run_job(d, job) : rc;
}

int dom_copy_open(struct domain *d, vdisk *source, vdisk *target, bool layer, bool zero,
                  const struct domain_copy *o)
{
    struct vdisk_copy_opts opts = {.size = sizeof opts, .rate = o->rate, .progress = o->progress,
                                   .progress_arg = o->progress_arg};
    int rc;

    if (layer)
        opts.backing_depth = 1;
    else if (zero)
        opts.flags = VDISK_COPY_TARGET_IS_ZERO;
    rc = dom_copy(d, source, target, &opts);
    if (rc == 0 && !layer && !zero && vdisk_size(target) > vdisk_size(source)) /* a device is longer */
        rc = vdisk_pzero(target, vdisk_size(target) - vdisk_size(source), vdisk_size(source), 0);
    return rc;
}

int dom_run_copy(struct domain *d, vdisk *source, const struct domain_new *n, bool layer,
                 const struct domain_copy *o)
{
    struct vdisk_open_opts how = {.size = sizeof how, .flags = VDISK_OPEN_RDWR, .format = n->format};
    struct dom_error error;
    vdisk *target;
    int rc = vdisk_open(n->path, &how, &target);

    if (rc < 0)
        return rc;
    rc = dom_copy_open(d, source, target, layer, n->zero, o);
    dom_error_keep(&error, rc);
    if (rc == 0)
        return vdisk_close(target);
    vdisk_close(target);
    return dom_error_give(&error);
}

static int fill(void *arg, const struct domain_new *n)
{
    const struct copy *c = arg;
    struct dom_error error;
    vdisk *source;
    int rc = dom_open_data(c->from, c->image, c->source, 0, &source);

    if (rc < 0)
        return rc;
    rc = dom_run_copy(c->from, source, n, false, c->o);
    dom_error_keep(&error, rc);
    vdisk_close(source);
    return rc < 0 ? dom_error_give(&error) : 0;
}

/* ---- the volume ------------------------------------------------------------------------------------------ */

/* What is raw and sparse has nothing to be that in a group: unless it was asked for, it is preallocated there. */
static enum domain_allocation choose_allocation(const struct copy *c, const struct domain *to,
                                                enum domain_format format)
{
    const struct domain_meta *m = &c->source->meta;

    if (c->o->has_allocation)
        return c->o->allocation;
    if (to->extent == 0 || format != DOMAIN_RAW || m->allocation != DOMAIN_SPARSE)
        return m->allocation;
    dom_note(c->from, "volume %s is raw and sparse: its copy is preallocated, as a volume group has no holes",
             c->source->uuid);
    return DOMAIN_PREALLOCATED;
}

/* Where data has a fixed size a sparse copy has what it needs. */
static int choose_room(const struct copy *c, struct domain *to, struct domain_volume_create *o)
{
    if (to->extent == 0 || o->format == DOMAIN_RAW || o->allocation == DOMAIN_PREALLOCATED)
        return 0;
    o->has_initial_size = true;
    return dom_measure_room(c->from, c->image, c->source, false, to, true, &o->initial_size);
}

/* The lock is given back in any case. */
static int copy_to(struct copy *c, struct domain *to, const char *image, int lock,
                   struct domain_volume_result *ret)
{
    const struct domain_meta *m = &c->source->meta;
    struct dom_error error;
    int rc;
    struct domain_volume_create o = {
        .uuid = c->o->uuid,
        .description = m->description,
        .same_description = true,
        .disk_type = m->disk_type,
        .capacity = m->capacity,
        .format = c->o->has_format ? c->o->format : m->format,
        .fill = fill,
        .fill_arg = c,
        .dry_run = c->o->dry_run,
    };

    o.allocation = choose_allocation(c, to, o.format);
    rc = choose_room(c, to, &o);
    if (rc == 0)
        return dom_create_volume(to, image, &o, lock, ret);
    dom_error_keep(&error, rc);
    to->kind->unlock(to, lock);
    return dom_error_give(&error);
}

int dom_judge_copied(struct domain *d, const struct domain_image *image, const struct domain_volume *v,
                     const char *volume)
{
    if (v == NULL || !v->has_meta || v->why[0] != '\0')
        return dom_fail(ENOENT, NULL, "image %s has no volume %s that can be read", image->uuid, volume);
    if (v->meta.legality != DOMAIN_LEGAL)
        return dom_fail(EACCES, NULL, "volume %s is %s: only volumes that are LEGAL are copied", v->uuid,
                        domain_legality_name(v->meta.legality));
    return dom_check_chain(d, image->uuid, v);
}

int dom_claim_copied(struct domain *d, const struct domain_image *image, const char *volume,
                     struct dom_claims *claims, struct domain_volume **ret)
{
    int rc = 0;

    *ret = volume[0] != '\0' ? domain_image_volume(image, volume) : domain_image_leaf(d, image, &rc);
    if (rc == 0)
        rc = dom_judge_copied(d, image, *ret, volume);
    if (rc == 0)
        rc = dom_claim(d, image->uuid, *ret, claims);
    return rc == 0 ? dom_match_capacity(d, image->uuid, *ret, false) : rc;
}

/* The lock of the target is given back in any case. */
static int copy_loaded(struct copy *c, const struct domain_image *image, const char *volume, struct domain *to,
                       const char *to_image, int lock, struct domain_volume_result *ret)
{
    struct dom_claims claims = {0};
    struct domain_volume *v;
    struct dom_error error;
    int rc = dom_claim_copied(c->from, image, volume, &claims, &v);

    c->source = v;
    if (rc == 0) {
        rc = copy_to(c, to, to_image, lock, ret);
        lock = -1;
    }
    dom_error_keep(&error, rc);
    if (lock >= 0)
        to->kind->unlock(to, lock);
    dom_claims_end(&claims);
    return rc < 0 ? dom_error_give(&error) : 0;
}

/* ---- locks ----------------------------------------------------------------------------------------------- */

/* (1) */
static bool comes_first(const struct domain *d, const char *image, const struct domain *to, const char *to_image)
{
    char a[PATH_MAX], b[PATH_MAX];
    int order = strcmp(d->uuid, to->uuid);

    if (order == 0 && realpath(d->path, a) != NULL && realpath(to->path, b) != NULL)
        order = strcmp(a, b);
    return order < 0 || (order == 0 && strcmp(image, to_image) < 0);
}

int dom_lock_copy(struct domain *d, const char *image, struct domain *to, const char *to_image,
                  const char *to_template, int *ret_lock, int *ret_to)
{
    const struct dom_lock_wish source = {image, DOM_LOCK_READ};
    const struct dom_lock_wish target[] = {{to_image, DOM_LOCK_CHANGE}, {to_template, DOM_LOCK_READ}};
    unsigned n = to_template != NULL ? 2 : 1;
    bool source_first = comes_first(d, image, to, to_image);
    struct dom_error error;
    int first, second, rc;

    rc = source_first ? d->kind->lock(d, &source, 1, &first) : to->kind->lock(to, target, n, &first);
    if (rc < 0)
        return rc;
    dom_step("copy: one image is locked");
    rc = source_first ? to->kind->lock(to, target, n, &second) : d->kind->lock(d, &source, 1, &second);
    if (rc < 0) {
        dom_error_keep(&error, rc);
        if (source_first)
            d->kind->unlock(d, first);
        else
            to->kind->unlock(to, first);
        return dom_error_give(&error);
    }
    *ret_lock = source_first ? first : second;
    *ret_to = source_first ? second : first;
    return 0;
}

int domain_image_copy(struct domain *d, const char *image, const char *volume, struct domain *to,
                      const struct domain_copy *o, char ret_image[DOMAIN_UUID], struct domain_volume_result *ret)
{
    struct copy c = {.from = d, .o = o, .image = image};
    char to_image[DOMAIN_UUID];
    struct domain_image *loaded;
    struct dom_error error;
    int lock = -1, to_lock = -1, rc = dom_check_uuid("image", image);

    if (rc == 0)
        rc = o->image != NULL ? dom_check_uuid("image", o->image) : domain_make_uuid(to_image);
    if (rc < 0)
        return rc;
    if (o->image != NULL)
        memcpy(to_image, o->image, DOMAIN_UUID);
    if (strcmp(to_image, image) == 0 && strcmp(d->uuid, to->uuid) == 0)
        return dom_fail(EINVAL, NULL, "image %s would be copied to itself", image);
    rc = dom_lock_copy(d, image, to, to_image, NULL, &lock, &to_lock);
    if (rc < 0)
        return rc;
    rc = domain_load_image(d, image, &loaded);
    if (rc == 0) {
        rc = copy_loaded(&c, loaded, volume, to, to_image, to_lock, ret);
        dom_error_keep(&error, rc);
        domain_image_free(loaded);
    } else {
        dom_error_keep(&error, rc);
        to->kind->unlock(to, to_lock);
    }
    d->kind->unlock(d, lock);
    if (rc < 0)
        return dom_error_give(&error);
    if (ret_image != NULL)
        memcpy(ret_image, to_image, DOMAIN_UUID);
    return 0;
}
