/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The space of a volume: extend, reduce.
 *
 * Works: a volume becomes larger beside who has it open, by what was asked for, or to what the image takes;
 * smaller when nobody has, to the extent in which the image ends. Fails: there would be more space than the image
 * can use; the image is raw (it has no end of its own), damaged, or in use. Killed: leaked clusters are free, or
 * not; the volume has the old size, or the new one.
 *
 * Invariant: 1. nothing that the image uses is given back: a check has found its end while the volume was claimed,
 * as it is until it is smaller.
 */
#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "tools/arith.h"
#include "tools/lv/group.h"

static void note_sizes(const struct lv_session *s, uint64_t after, struct lv_space *ret)
{
    ret->before = s->found->size;
    ret->after = after;
    ret->extent_size = s->vg->extent_size;
    ret->extents = after / s->vg->extent_size;
}

/* ---- extend --------------------------------------------------------------------------------------------- */

/* How large it is to be: `full` for qcow2, whose size says nothing of that. */
static int judge_size(const struct lv_session *s, const struct lv_extend *o, bool raw, uint64_t full,
                      uint64_t *ret)
{
    uint64_t now = s->found->size, size = o->size;

    if (size == 0 && raw)
        return lv_fail(EINVAL, "give a size", "%s is raw: it has space for all of it", s->lv->name);
    if (size == 0)
        size = max_u64(full, now);
    else if (o->by && !add_u64(now, size, &size))
        return lv_fail(EFBIG, NULL, "%s does not become larger by %" PRIu64 " bytes", s->lv->name, o->size);
    if (size < now)
        return lv_fail(EINVAL, "'vdisk-io lv reduce' makes it smaller",
                       "%s has %" PRIu64 " bytes: it is not extended to %" PRIu64, s->lv->name, now, size);
    if (!raw && lv_round(s->vg, size) > max_u64(lv_round(s->vg, full), now))
        return lv_fail(EINVAL, "'vdisk-io resize' makes the image larger",
                       "%s takes %" PRIu64 " bytes once all of it is written, and is not extended to %" PRIu64,
                       s->lv->name, full, size);
    if (lv_round(s->vg, size) > INT64_MAX)
        return lv_fail(EFBIG, NULL, "%" PRIu64 " bytes are more than a volume has", size);
    *ret = size;
    return 0;
}

static int find_size(struct lv_session *s, const struct lv_extend *o, uint64_t *ret)
{
    struct vdisk_image_info info = {.size = sizeof info};
    uint64_t full = 0;
    vdisk_image *image = NULL;
    bool raw;
    int rc = lv_use(s);

    if (rc == 0)
        rc = lv_load(s->lv, o->format, &image);
    if (rc < 0)
        return rc;
    vdisk_image_get_info(image, &info);
    raw = strcmp(info.format, "raw") == 0;
    if (!raw)
        rc = lv_measure_full(image, &full);
    vdisk_image_free(image);
    return rc == 0 ? judge_size(s, o, raw, full, ret) : rc;
}

static int extend_in(struct lv_session *s, const struct lv_extend *o, struct lv_space *ret)
{
    uint64_t size;
    int rc = find_size(s, o, &ret->asked);

    if (rc < 0)
        return rc;
    size = lv_round(s->vg, ret->asked);
    note_sizes(s, size, ret);
    rc = lv_judge_free(s->vg, size - ret->before);
    if (rc < 0 || size == ret->before || o->dry_run)
        return rc;
    rc = lvm_extend(s->lv->lvm, s->lv->lv, size);
    if (rc == 0)
        lv_step("lv: volume is larger");
    return rc;
}

int lv_extend(struct lv *lv, const struct lv_extend *o, struct lv_space *ret)
{
    struct lv_space result = {0};
    struct lv_session s;
    int rc = lv_begin(lv, true, &s);

    if (rc < 0)
        return rc;
    rc = lv_end(&s, extend_in(&s, o, &result));
    if (rc == 0)
        *ret = result;
    return rc;
}

/* ---- reduce --------------------------------------------------------------------------------------------- */

/* Locks are of a device's name, and a virtual machine may have one of its own: the kernel knows of all. */
static int judge_idle(const struct lv_session *s)
{
    return !s->found->open ? 0 :
           lv_fail(EAGAIN, NULL, "%s is not reduced: somebody has it open: another program, or a virtual machine",
                   s->lv->name);
}

/* As bytes: so nobody has it open from now on. */
static int claim(const struct lv *lv, vdisk **ret)
{
    struct vdisk_open_opts how = {
        .size = sizeof how, .flags = VDISK_OPEN_RDWR | VDISK_OPEN_NO_NAMES, .format = "raw"};

    return vdisk_open(lv->path, &how, ret);
}

/* Of what is claimed. */
static int find_end(struct lv *lv, const struct lv_reduce *o, uint64_t *ret)
{
    const struct vdisk_check_opts how = {
        .flags = VDISK_OPEN_NO_LOCK, .progress = o->progress, .progress_arg = o->progress_arg};
    struct vdisk_check_result found = {.size = sizeof found};
    int rc = lv_run_check(lv, false, how, &found);

    if (rc == 0 && (found.corruptions > 0 || found.check_errors > 0))
        return lv_fail(EBADMSG, "'vdisk-io check -r all' repairs it",
                       "%s is not reduced: it is damaged: %" PRIu64 " corruptions", lv->name,
                       found.corruptions + found.check_errors);
    if (rc == 0 && found.leaks > 0 && !o->dry_run) {
        rc = lv_run_check(lv, true, how, &found);
        if (rc == 0)
            lv_step("lv: what was leaked is free");
    }
    *ret = found.image_end_offset;
    return rc;
}

/* Others may have changed its size meanwhile. */
static int cut(struct lv_session *s, const struct lv_reduce *o, struct lv_space *ret)
{
    uint64_t size;
    int rc = lv_resume(s);

    if (rc < 0)
        return rc;
    size = min_u64(max_u64(lv_round(s->vg, ret->asked), s->vg->extent_size), s->found->size);
    note_sizes(s, size, ret);
    assert(size <= s->found->size && (size >= ret->asked || size == s->found->size)); /* (1) */
    if (size == s->found->size || o->dry_run)
        return 0;
    rc = lvm_reduce(s->lv->lvm, s->lv->lv, size);
    if (rc == 0)
        lv_step("lv: volume is smaller");
    return rc;
}

static int judge_format(const struct lv *lv)
{
    struct vdisk_image_info info = {.size = sizeof info};
    vdisk_image *image = NULL;
    int rc = lv_load(lv, NULL, &image);

    if (rc < 0)
        return rc;
    vdisk_image_get_info(image, &info);
    if (strcmp(info.format, "qcow2") != 0)
        rc = lv_fail(EINVAL, NULL, "%s is %s: all of it is in use, and nothing is given back", lv->name,
                     info.format);
    vdisk_image_free(image);
    return rc;
}

/* The group is not held while the image is looked at: that takes long, and others want to extend theirs. */
static int reduce_in(struct lv_session *s, const struct lv_reduce *o, struct lv_space *ret)
{
    vdisk *claimed = NULL;
    int rc = lv_use(s);

    if (rc == 0)
        rc = judge_idle(s);
    if (rc < 0)
        return rc;
    lv_pause(s);
    rc = judge_format(s->lv);
    if (rc == 0)
        rc = claim(s->lv, &claimed);
    if (rc < 0)
        return rc;
    rc = find_end(s->lv, o, &ret->asked);
    if (rc == 0)
        rc = cut(s, o, ret);
    lv_keep_words(s->lv, rc);
    vdisk_close(claimed);
    return lv_give_words(s->lv, rc);
}

int lv_reduce(struct lv *lv, const struct lv_reduce *o, struct lv_space *ret)
{
    struct lv_space result = {0};
    struct lv_session s;
    int rc = lv_begin(lv, true, &s);

    if (rc < 0)
        return rc;
    rc = lv_end(&s, reduce_in(&s, o, &result));
    if (rc == 0)
        *ret = result;
    return rc;
}
