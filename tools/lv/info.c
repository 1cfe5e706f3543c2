/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a volume has, and which of its extents the image uses.
 *
 * Works: a check of the image tells what is in use, whoever has it open. Fails: there is no such volume, or its
 * image cannot be read. Nothing changes.
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "tools/arith.h"
#include "tools/lv/group.h"

static void use_extent(struct lv_info *info, uint64_t i)
{
    uint8_t bit = (uint8_t)(1u << (i % 8));

    assert(i < info->extents);
    info->used_extents += (info->used[i / 8] & bit) == 0;
    info->used[i / 8] |= bit;
}

/* The last cluster may end past the volume. */
static int take_used(void *arg, uint64_t host_offset, uint64_t len)
{
    struct lv_info *info = arg;
    uint64_t end = min_u64((host_offset + len - 1) / info->extent_size + 1, info->extents);

    for (uint64_t i = host_offset / info->extent_size; i < end; i++)
        use_extent(info, i);
    return 0;
}

static int look_at_use(struct lv *lv, struct lv_info *info)
{
    const struct vdisk_check_opts how = {.flags = VDISK_OPEN_FORCE_SHARE, .used = take_used, .used_arg = info};
    struct vdisk_check_result found = {.size = sizeof found};
    int rc = lv_run_check(lv, false, how, &found);

    info->allocated = found.image_end_offset;
    info->corruptions = found.corruptions + found.check_errors;
    return rc;
}

static int look_at_image(struct lv *lv, const char *format, struct lv_info *info)
{
    struct vdisk_image_info is = {.size = sizeof is};
    vdisk_image *image = NULL;
    int rc = lv_load(lv, format, &image);

    if (rc < 0)
        return rc;
    vdisk_image_get_info(image, &is);
    info->format = is.format;
    info->virtual_size = is.virtual_size;
    info->backing = is.backing_file != NULL ? strdup(is.backing_file) : NULL;
    if (is.backing_file != NULL && info->backing == NULL)
        rc = lv_fail(ENOMEM, NULL, "out of memory");
    if (rc == 0)
        rc = lv_measure_full(image, &info->fully_allocated);
    vdisk_image_free(image);
    if (rc < 0 || strcmp(info->format, "raw") != 0)
        return rc < 0 ? rc : look_at_use(lv, info);
    info->allocated = info->size;
    return take_used(info, 0, info->size);
}

/* The group is not held while the image is looked at. */
static int info_in(struct lv_session *s, const char *format, struct lv_info *info)
{
    int rc;

    if (s->found == NULL)
        return lv_judge_found(s);
    info->size = s->found->size;
    info->extent_size = s->vg->extent_size;
    info->extents = info->size / info->extent_size;
    info->active = lvm_is_active(s->lv->lvm, s->lv->lv);
    info->unfinished = lv_is_unfinished(s->found);
    info->used = calloc(info->extents / 8 + 1, 1);
    if (info->used == NULL)
        return lv_fail(ENOMEM, NULL, "out of memory");
    if (info->unfinished)
        return 0;
    rc = lv_use(s);
    if (rc < 0)
        return rc;
    lv_pause(s);
    return look_at_image(s->lv, format, info);
}

int lv_info(struct lv *lv, const char *format, struct lv_info *ret)
{
    struct lv_info info = {0};
    struct lv_session s;
    int rc = lv_begin(lv, false, &s);

    if (rc < 0)
        return rc;
    rc = lv_end(&s, info_in(&s, format, &info));
    if (rc < 0)
        lv_info_free(&info);
    else
        *ret = info;
    return rc;
}

void lv_info_free(struct lv_info *info)
{
    free(info->backing);
    free(info->used);
    *info = (struct lv_info){0};
}
