/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * How large a new volume gets: what holds for all formats.
 *
 * Happy path: options and size are judged, the format does its sums. Nothing is opened.
 * Failure modes: options that creation refuses.
 */
#include <errno.h>
#include <string.h>

#include "engine/base/bits.h"
#include "engine/base/error.h"
#include "engine/chain/layer.h"
#include "engine/chain/layer_name.h"

_Static_assert(offsetof(struct vdisk_measure_result, size) == 0, "of a result its size is first");

static const char what[] = "measuring"; /* nothing has a name yet */

static int check_opts(const struct vdisk_create_opts *user, struct vdisk_create_opts *ret)
{
    char formats[64];

    if (!user || user->size < sizeof(size_t) || user->size > 4096)
        return err_set(EINVAL, "%s: create options missing or of a wrong size", what);
    memcpy(ret, user, min_u64(user->size, sizeof *ret));
    if (!ret->format)
        ret->format = format_plain()->name;
    if (!format_find(ret->format))
        return err_set(EINVAL, "%s: unknown format '%s'; known are %s", what, ret->format,
                       known_formats(formats, sizeof formats));
    if ((unsigned)ret->preallocation > VDISK_PREALLOC_FULL)
        return err_set(EINVAL, "%s: unknown preallocation %d", what, (int)ret->preallocation);
    if (ret->virtual_size > INT64_MAX - 511)
        return err_set(EFBIG, "%s: size %llu is too large", what, (unsigned long long)ret->virtual_size);
    ret->virtual_size = align_up(ret->virtual_size, 512);
    return 0;
}

static int measure(const struct vdisk_create_opts *user, const vdisk_image *source,
                   struct vdisk_measure_result *ret)
{
    struct vdisk_create_opts opts = {0};
    struct vdisk_measure_result r = {0};
    size_t size = ret ? ret->size : 0;
    int rc = check_opts(user, &opts);

    if (rc == 0 && (size < sizeof(size_t) || size > 4096))
        rc = err_set(EINVAL, "%s: result struct missing or of a wrong size", what);
    if (rc < 0)
        return rc;
    if (!format_find(opts.format)->measure)
        return err_set(ENOTSUP, "%s: how large a %s volume gets is not known", what, opts.format);
    r.virtual_size = opts.virtual_size;
    rc = format_find(opts.format)->measure(what, &opts, source, &r);
    if (rc < 0)
        return rc;
    assert(r.required <= r.fully_allocated && r.fully_allocated >= r.virtual_size);
    r.size = size;
    memcpy(ret, &r, min_u64(size, sizeof r));
    return 0;
}

int vdisk_measure(const struct vdisk_create_opts *opts, const vdisk_image *source,
                  struct vdisk_measure_result *ret_result)
{
    return ERR_CALL(measure(opts, source, ret_result));
}
