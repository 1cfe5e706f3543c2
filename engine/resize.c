/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Changing the size of an open volume: what holds for all formats. Blocks. */
#include <errno.h>
#include <string.h>

#include "engine/bits.h"
#include "engine/error.h"
#include "engine/volume.h"

static int check_opts(const vdisk *v, const struct vdisk_resize_opts *user, struct vdisk_resize_opts *ret)
{
    memset(ret, 0, sizeof *ret);
    if (user) {
        if (user->size < sizeof(size_t) || user->size > 4096)
            return err_set(EINVAL, "%s: resize options of size %zu", v->name, user->size);
        memcpy(ret, user, min_u64(user->size, sizeof *ret));
    }
    if ((unsigned)ret->preallocation > VDISK_PREALLOC_FULL)
        return err_set(EINVAL, "%s: unknown preallocation %d", v->name, (int)ret->preallocation);
    return 0;
}

static int check_size(const vdisk *v, uint64_t size, const struct vdisk_resize_opts *opts)
{
    uint64_t now = vdisk_size(v);

    if (v->read_only)
        return err_set(EACCES, "%s: is open read-only", v->name);
    if (!v->format->resize)
        return err_set(ENOTSUP, "%s: a %s volume cannot change its size", v->name, v->format->name);
    if (size > INT64_MAX - 511)
        return err_set(EFBIG, "%s: size %llu is too large", v->name, (unsigned long long)size);
    if (align_up(size, 512) >= now)
        return 0;
    if (!opts->shrink)
        return err_hint(err_set(EINVAL, "%s: %llu is less than the present size %llu", v->name,
                                (unsigned long long)size, (unsigned long long)now),
                        "what lies behind the new end would be lost; shrinking has to be asked for");
    if (opts->preallocation != VDISK_PREALLOC_OFF)
        return err_set(EINVAL, "%s: preallocation is for growing, not for shrinking", v->name);
    return 0;
}

static int resize_volume(vdisk *v, uint64_t size, const struct vdisk_resize_opts *user_opts)
{
    struct vdisk_resize_opts opts;
    vdisk_queue *q;
    int rc = volume_check_handle(v);

    if (rc == 0)
        rc = check_opts(v, user_opts, &opts);
    if (rc == 0)
        rc = check_size(v, size, &opts);
    if (rc < 0)
        return rc;
    size = align_up(size, 512);
    rc = volume_manage(v, &q);
    if (rc < 0)
        return rc;
    rc = size == vdisk_size(v) && v->format != &raw_driver ? 0 : v->format->resize(v, size, &opts, q);
    volume_manage_done(v);
    return rc < 0 ? err_advise(rc) : rc;
}

int vdisk_resize(vdisk *v, uint64_t size, const struct vdisk_resize_opts *user_opts)
{
    return ERR_CALL(resize_volume(v, size, user_opts));
}

int vdisk_grow(vdisk *v, uint64_t size)
{
    struct vdisk_resize_opts opts = {.size = sizeof opts};

    return ERR_CALL(resize_volume(v, size, &opts));
}
