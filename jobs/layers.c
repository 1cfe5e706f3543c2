/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "jobs/layers.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { CHAIN_MOST = 1000 }; /* names may lead in a circle */

static int size_of(vdisk *v, uint32_t depth, uint64_t *ret)
{
    struct vdisk_image_info info = {.size = sizeof info};
    vdisk_image *image;
    int rc = vdisk_image_of_layer(v, depth, &image);

    if (rc < 0)
        return rc;
    rc = vdisk_image_get_info(image, &info);
    *ret = info.virtual_size;
    vdisk_image_free(image);
    return rc;
}

int layers_get_sizes(vdisk *v, uint32_t below, struct layer_sizes *ret)
{
    struct vdisk_info info = {.size = sizeof info};
    int rc = vdisk_get_info(v, &info);

    if (rc < 0)
        return rc;
    ret->count = (uint32_t)jobs_min(below, info.depth);
    ret->list = calloc(ret->count + 1, sizeof *ret->list);
    if (!ret->list)
        return vdisk_set_error(ENOMEM, "out of memory", NULL);
    for (uint32_t i = 0; i < ret->count && rc == 0; i++)
        rc = size_of(v, i, &ret->list[i]);
    return rc;
}

/* The path that a name is; NULL: it is something else. */
static const char *path_of(const char *name)
{
    if (strncmp(name, "file:", 5) == 0)
        return name + 5;
    return name[strcspn(name, ":/")] == ':' ? NULL : name;
}

static int identify(vdisk *v, uint32_t depth, struct layer_id *ret)
{
    struct vdisk_image_info info = {.size = sizeof info};
    const char *path;
    vdisk_image *image;
    struct stat st;
    int rc = vdisk_image_of_layer(v, depth, &image);

    if (rc < 0)
        return rc;
    rc = vdisk_image_get_info(image, &info);
    path = rc == 0 ? path_of(info.name) : NULL;
    ret->name = rc == 0 ? strdup(info.name) : NULL;
    ret->is_qcow2 = rc == 0 && strcmp(info.format, "qcow2") == 0;
    ret->has_node = path && stat(path, &st) == 0;
    if (ret->has_node) {
        ret->device = S_ISBLK(st.st_mode) ? UINT64_MAX : st.st_dev;
        ret->node = S_ISBLK(st.st_mode) ? st.st_rdev : st.st_ino;
    }
    if (rc == 0 && !ret->name)
        rc = vdisk_set_error(ENOMEM, "out of memory", NULL);
    vdisk_image_free(image);
    return rc;
}

int layers_identify(vdisk *v, struct layer_ids *ret)
{
    struct vdisk_info info = {.size = sizeof info};
    int rc = vdisk_get_info(v, &info);

    if (rc < 0)
        return rc;
    ret->list = calloc(info.depth, sizeof *ret->list);
    if (!ret->list)
        return vdisk_set_error(ENOMEM, "out of memory", NULL);
    for (ret->count = 0; ret->count < info.depth && rc == 0; ret->count++)
        rc = identify(v, ret->count, &ret->list[ret->count]);
    return rc;
}

void layers_free(struct layer_ids *ids)
{
    for (uint32_t i = 0; i < ids->count; i++)
        free(ids->list[i].name);
    free(ids->list);
    *ids = (struct layer_ids){.list = NULL};
}

bool layers_are_one_file(const struct layer_id *a, const struct layer_id *b)
{
    return strcmp(a->name, b->name) == 0 ||
           (a->has_node && b->has_node && a->device == b->device && a->node == b->node);
}

/* A raw layer may be a part of its file: it is known by its name alone. */
bool layers_are_same(const struct layer_id *a, const struct layer_id *b)
{
    if (a->is_qcow2 != b->is_qcow2)
        return false;
    return strcmp(a->name, b->name) == 0 || (a->is_qcow2 && layers_are_one_file(a, b));
}

bool layers_is_open_below(const struct layer_sizes *sizes, uint32_t depth, uint64_t offset, uint64_t *len)
{
    assert(depth < sizes->count);
    if (offset >= sizes->list[depth])
        return false;
    *len = jobs_min(*len, sizes->list[depth] - offset);
    return true;
}

bool layers_are_below(const struct layer_sizes *sizes, uint32_t below, uint32_t depth, uint32_t flags,
                      uint64_t offset, uint64_t *len)
{
    if (below == 0 || depth >= below)
        return below > 0;
    return !(flags & (VDISK_EXTENT_ALLOCATED | VDISK_EXTENT_DATA)) &&
           layers_is_open_below(sizes, depth, offset, len);
}

bool layers_same_file(const char *a, const char *b)
{
    const char *path_a = path_of(a), *path_b = path_of(b);
    struct stat st_a, st_b;

    if (!path_a || !path_b || stat(path_a, &st_a) != 0 || stat(path_b, &st_b) != 0)
        return false;
    if (S_ISBLK(st_a.st_mode) && S_ISBLK(st_b.st_mode))
        return st_a.st_rdev == st_b.st_rdev;
    return st_a.st_dev == st_b.st_dev && st_a.st_ino == st_b.st_ino;
}

/* What comes below an image; NULL: nothing. *format: its format. Both are `image`'s. */
static const char *look_below(const char *name, const char **format, vdisk_image **image)
{
    const struct vdisk_open_opts how = {.size = sizeof how, .format = *format,
                                        .flags = VDISK_OPEN_BUFFERED | VDISK_OPEN_FORCE_SHARE};
    struct vdisk_image_info info = {.size = sizeof info};

    if (vdisk_image_load(name, &how, image) < 0 || vdisk_image_get_info(*image, &info) < 0)
        return NULL;
    *format = info.backing_fmt;
    return info.backing_name;
}

bool layers_reach(const char *name, const char *format, const char *image)
{
    vdisk_image *seen = NULL;
    bool found = false;

    for (unsigned depth = 0; name && !found && depth < CHAIN_MOST; depth++) {
        vdisk_image *next = NULL;
        found = layers_same_file(name, image);
        name = found ? NULL : look_below(name, &format, &next);
        vdisk_image_free(seen); /* its names have been used */
        seen = next;
    }
    vdisk_image_free(seen);
    return found;
}

char *layers_resolve(const char *image, const char *name)
{
    const char *path = path_of(image), *slash = path ? strrchr(path, '/') : NULL;
    char *out;

    if (name[0] == '/' || !path_of(name) || name != path_of(name) || !slash)
        return strdup(name);
    return asprintf(&out, "%.*s/%s", (int)(slash - path), path, name) < 0 ? NULL : out;
}

bool layers_is_backing(const struct vdisk_image_info *info, const char *name)
{
    char *beside;
    bool is;

    if (strcmp(name, info->backing_file ? info->backing_file : "") == 0 || strcmp(name, info->backing_name) == 0 ||
        layers_same_file(name, info->backing_name))
        return true;
    beside = layers_resolve(info->name, name);
    is = beside && layers_same_file(beside, info->backing_name);
    free(beside);
    return is;
}
