/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * An image as one volume of another image, in the same domain or another.
 *
 * Works: the source is locked, shared; a volume is made, and filled before it is published. Fails, or killed: as
 * op_create.c: there is none.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "tools/domain/kind.h"

struct copy {
    struct domain              *from;
    const struct domain_copy   *o;
    const char                 *image;
    const struct domain_volume *source;
};

/* ---- the data -------------------------------------------------------------------------------------------- */

static int run_copy(const struct copy *c, vdisk *source, vdisk *target)
{
    struct vdisk_copy_opts opts = {.size = sizeof opts, .flags = VDISK_COPY_TARGET_IS_ZERO, .rate = c->o->rate,
                                   .progress = c->o->progress, .progress_arg = c->o->progress_arg};
    vdisk_job *job;
    int rc = vdisk_job_copy(&source, 1, target, &opts, &job);

    return rc == 0 ? dom_run_job(c->from, job) : rc;
}

static int fill(void *arg, const char *path, const char *format)
{
    struct vdisk_open_opts how = {.size = sizeof how, .flags = VDISK_OPEN_RDWR, .format = format};
    const struct copy *c = arg;
    struct dom_error error = {0};
    vdisk *source, *target;
    int rc = dom_open_data(c->from, c->image, c->source, 0, &source);

    if (rc < 0)
        return rc;
    rc = vdisk_open(path, &how, &target);
    if (rc == 0) {
        rc = run_copy(c, source, target);
        dom_error_keep(&error, rc);
        if (rc == 0)
            rc = vdisk_close(target);
        else
            vdisk_close(target);
    }
    if (rc < 0 && error.rc != rc)
        dom_error_keep(&error, rc);
    vdisk_close(source);
    return rc < 0 ? dom_error_give(&error) : 0;
}

/* ---- the volume ------------------------------------------------------------------------------------------ */

static int copy_to(struct copy *c, struct domain *to, const char *image, struct domain_volume_result *ret)
{
    const struct domain_meta *m = &c->source->meta;
    struct domain_volume_create o = {
        .uuid = c->o->uuid,
        .description = m->description,
        .disk_type = m->disk_type,
        .capacity = m->capacity,
        .format = c->o->has_format ? c->o->format : m->format,
        .allocation = c->o->has_allocation ? c->o->allocation : m->allocation,
        .fill = fill,
        .fill_arg = c,
    };

    return domain_volume_create(to, image, &o, ret);
}

static int copy_loaded(struct copy *c, const struct domain_image *image, const char *volume, struct domain *to,
                       const char *to_image, struct domain_volume_result *ret)
{
    int rc = 0;

    c->source = volume[0] != '\0' ? domain_image_volume(image, volume) : domain_image_leaf(c->from, image, &rc);
    if (rc < 0)
        return rc;
    if (c->source == NULL || !c->source->has_meta || c->source->why[0] != '\0')
        return dom_fail(ENOENT, NULL, "image %s has no volume %s that can be read", image->uuid, volume);
    if (c->source->meta.legality != DOMAIN_LEGAL)
        return dom_fail(EACCES, NULL, "volume %s is %s: only volumes that are LEGAL are copied", c->source->uuid,
                        domain_legality_name(c->source->meta.legality));
    rc = dom_check_chain(c->from, image->uuid, c->source);
    return rc == 0 ? copy_to(c, to, to_image, ret) : rc;
}

int domain_image_copy(struct domain *d, const char *image, const char *volume, struct domain *to,
                      const struct domain_copy *o, char ret_image[DOMAIN_UUID], struct domain_volume_result *ret)
{
    struct copy c = {.from = d, .o = o, .image = image};
    char to_image[DOMAIN_UUID];
    struct domain_image *loaded;
    struct dom_error error;
    int lock, rc = o->image != NULL ? dom_check_uuid("image", o->image) : domain_make_uuid(to_image);

    if (rc < 0)
        return rc;
    if (o->image != NULL)
        memcpy(to_image, o->image, DOMAIN_UUID);
    if (strcmp(to_image, image) == 0 && strcmp(d->uuid, to->uuid) == 0)
        return dom_fail(EINVAL, NULL, "image %s would be copied to itself", image);
    rc = d->kind->lock(d, false, NULL, image, &lock);
    if (rc < 0)
        return rc;
    rc = domain_load_image(d, image, &loaded);
    if (rc == 0) {
        rc = copy_loaded(&c, loaded, volume, to, to_image, ret);
        dom_error_keep(&error, rc);
        domain_image_free(loaded);
    } else {
        dom_error_keep(&error, rc);
    }
    d->kind->unlock(lock);
    if (rc < 0)
        return dom_error_give(&error);
    if (ret_image != NULL)
        memcpy(ret_image, to_image, DOMAIN_UUID);
    return 0;
}
