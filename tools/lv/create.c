/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A new volume with an image: by itself, or on another volume.
 *
 * Works: what the image takes is measured, and the volume is made so large, in whole extents, with a tag that says
 * that it is half-made; then the image is; then the tag goes. Fails: the name is taken, there is no room, what is
 * below is not what was said: before anything is written. Later: the volume goes. Killed: it has the tag.
 *
 * Invariant: 1. a volume of ours without the tag has a whole image.
 */
#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/arith.h"
#include "tools/lv/group.h"

static bool is_raw(const struct vdisk_create_opts *image)
{
    return strcmp(image->format, "raw") == 0;
}

/* ---- how large ------------------------------------------------------------------------------------------ */

static int judge_options(const struct lv_create *o)
{
    if (o->has_initial_size && (o->preallocated || is_raw(o->image)))
        return lv_fail(EINVAL, NULL,
                       "an initial size is for thin volumes: a preallocated one, as all raw ones are, has "
                       "space for all of it");
    if (o->image->virtual_size == 0)
        return lv_fail(EINVAL, NULL, "an image of 0 bytes is none: give it a size");
    return 0;
}

static int choose_size(const struct lv_create *o, const struct lvm_vg *vg, struct lv_made *ret)
{
    struct vdisk_measure_result size = {.size = sizeof size};
    uint64_t first = o->has_initial_size ? o->initial_size : LV_CHUNK, bytes;
    int rc = vdisk_measure(o->image, NULL, &size);

    if (rc < 0)
        return rc;
    if (o->has_initial_size && first > size.fully_allocated)
        return lv_fail(EINVAL, NULL,
                       "an initial size of %" PRIu64 " bytes is more than the image ever takes, %" PRIu64, first,
                       size.fully_allocated);
    bytes = o->preallocated || is_raw(o->image) ? size.fully_allocated
                                                : min_u64(max_u64(first, size.required), size.fully_allocated);
    ret->size = lv_round(vg, bytes);
    if (ret->size > INT64_MAX)
        return lv_fail(EFBIG, NULL, "an image of %" PRIu64 " bytes is more than a volume has",
                       o->image->virtual_size);
    ret->required = size.required;
    ret->fully_allocated = size.fully_allocated;
    ret->extent_size = vg->extent_size;
    ret->extents = ret->size / vg->extent_size;
    ret->virtual_size = is_raw(o->image) ? ret->size : size.virtual_size;
    return 0;
}

/* What is half-made of that name goes, and its space counts as free. */
static int judge_place(const struct lv_session *s, struct lv_made *made)
{
    struct lvm_vg vg = *s->vg;

    if (s->found != NULL && !lv_is_unfinished(s->found))
        return lv_fail(EEXIST, NULL, "volume group %s has a logical volume %s", vg.name, s->lv->lv);
    made->anew = s->found != NULL;
    if (made->anew)
        vg.free += s->found->size;
    return lv_judge_free(&vg, made->size);
}

/* ---- steps ---------------------------------------------------------------------------------------------- */

static int make_volume(struct lv_session *s, const struct lv_made *made)
{
    static const char *const tags[] = {LV_UNFINISHED, NULL};
    const struct lvm_new o = {.name = s->lv->lv, .size = made->size, .tags = tags, .active = true};
    int rc = 0;

    if (made->anew) {
        rc = lvm_remove(s->lv->lvm, &o.name, 1);
        if (rc == 0)
            lv_step("lv: half-made volume is removed");
    }
    return rc == 0 ? lvm_create(s->lv->lvm, &o) : rc;
}

static int make_image(const struct lv_session *s, const struct vdisk_create_opts *image, uint64_t virtual_size)
{
    struct vdisk_create_opts opts = *image;
    vdisk_job *job = NULL;
    int rc;

    opts.virtual_size = virtual_size;
    rc = vdisk_job_create(s->lv->path, &opts, &job);
    return rc == 0 ? lv_run_job(s->lv, job) : rc;
}

static int make_all(struct lv_session *s, const struct lv_create *o, const struct lv_made *made)
{
    static const char *const tags[] = {LV_UNFINISHED, NULL};
    const char *const names[] = {s->lv->lv};
    int rc;

    if (!lvm_can_activate())
        return lv_fail(ENOTSUP, NULL, "%s cannot be made: this kernel has no device-mapper", s->lv->name);
    rc = make_volume(s, made);
    if (rc < 0)
        return rc;
    lv_step("lv: volume is made");
    rc = make_image(s, o->image, made->virtual_size);
    if (rc == 0) {
        lv_step("lv: image is made");
        rc = lvm_retag(s->lv->lvm, names, 1, NULL, tags); /* (1) */
    }
    if (rc == 0) {
        lv_step("lv: volume is whole");
        return 0;
    }
    lv_keep_words(s->lv, rc);
    if (lvm_remove(s->lv->lvm, names, 1) < 0)
        lv_note(s->lv, "%s is half-made, and could not be removed: %s", s->lv->name, vdisk_error_text());
    return lv_give_words(s->lv, rc);
}

static int create_in(struct lv_session *s, const struct lv_create *o, struct lv_made *ret)
{
    struct lv_made made = {0};
    int rc = choose_size(o, s->vg, &made);

    assert(s->is_writer);
    if (rc == 0)
        rc = judge_place(s, &made);
    if (rc == 0 && !o->dry_run)
        rc = make_all(s, o, &made);
    if (rc == 0)
        *ret = made;
    return rc;
}

int lv_create(struct lv *lv, const struct lv_create *o, struct lv_made *ret)
{
    struct lv_session s;
    int rc = judge_options(o);

    assert(o->image->backing_file == NULL && o->image->preallocation == VDISK_PREALLOC_OFF);
    if (rc == 0)
        rc = lv_begin(lv, true, &s);
    if (rc < 0)
        return rc;
    return lv_end(&s, create_in(&s, o, ret));
}

/* ---- on another volume ---------------------------------------------------------------------------------- */

static int judge_below(struct lv_session *s, const struct lv_backing *below, uint64_t *virtual_size)
{
    struct vdisk_image_info info = {.size = sizeof info};
    vdisk_image *image = NULL;
    int rc = lv_use(s);

    if (rc == 0)
        rc = lv_load(s->lv, below->format, &image);
    if (rc < 0)
        return rc;
    vdisk_image_get_info(image, &info);
    if (*virtual_size == UINT64_MAX)
        *virtual_size = info.virtual_size;
    else if (*virtual_size < info.virtual_size)
        rc = lv_fail(EINVAL, NULL, "an image of %" PRIu64 " bytes is smaller than %s, which has %" PRIu64,
                     *virtual_size, s->lv->name, info.virtual_size);
    vdisk_image_free(image);
    return rc;
}

/* "NEW", or a whole name, of the same group. */
static int open_new(const struct lv *lv, const char *name, struct lv **ret)
{
    char full[LV_NAME + LVM_NAME];
    struct lv *new;
    int rc;

    snprintf(full, sizeof full, "%s%s%s", strchr(name, '/') == NULL ? lv->vg : "",
             strchr(name, '/') == NULL ? "/" : "", name);
    rc = lv_open(full, &lv->how, &new);
    if (rc < 0)
        return rc;
    if (strcmp(new->vg, lv->vg) != 0 || strcmp(new->lv, lv->lv) == 0) {
        rc = strcmp(new->vg, lv->vg) != 0
                 ? lv_fail(EINVAL, NULL,
                           "%s is of another volume group than %s: what lies on a volume is of its group",
                           new->name, lv->name)
                 : lv_fail(EINVAL, NULL, "%s cannot lie on itself: the new volume has another name", lv->name);
        lv_close(new);
        return rc;
    }
    *ret = new;
    return 0;
}

/* `s` is of the volume below: of the same group, whose writer this is. */
static int snapshot_in(const struct lv_session *s, struct lv *new, const struct lv_create *o, struct lv_made *ret)
{
    struct lv_session own = {.lv = new, .vg = s->vg, .found = lvm_find_lv(s->vg, new->lv), .is_writer = true};
    struct lvm *lvm = new->lvm;
    int rc;

    assert(s->is_writer && strcmp(s->lv->vg, new->vg) == 0);
    new->lvm = s->lv->lvm;
    rc = create_in(&own, o, ret);
    new->lvm = lvm;
    return rc;
}

int lv_snapshot(struct lv *lv, const char *name, const struct lv_create *o, const struct lv_backing *below,
                struct lv_made *ret, struct lv **ret_lv)
{
    struct vdisk_create_opts image = *o->image;
    struct lv_create own = *o;
    struct lv_session s;
    struct lv *new = NULL;
    int rc = judge_options(o);

    assert(!is_raw(o->image) && image.backing_file == NULL && below->format != NULL);
    if (rc == 0)
        rc = open_new(lv, name, &new);
    if (rc < 0)
        return rc;
    image.backing_file = below->name != NULL ? below->name : lv->path;
    image.backing_fmt = below->format;
    image.backing_unchecked = true; /* it may be in use, and named as seen from elsewhere */
    own.image = &image;
    rc = lv_begin(lv, true, &s);
    if (rc == 0) {
        rc = judge_below(&s, below, &image.virtual_size);
        if (rc == 0)
            rc = snapshot_in(&s, new, &own, ret);
        if (rc == 0 && !o->dry_run)
            s.woken = false; /* active as what lies on it */
        rc = lv_end(&s, rc);
    }
    if (rc < 0)
        lv_close(new);
    else
        *ret_lv = new;
    return rc;
}
